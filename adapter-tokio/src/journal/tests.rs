//! What is written is read back, whole or up to the line that a crash cut.

use super::*;
use crate::files::{Selection, SymlinkPolicy};
use crate::testing::TempDir;
use protocol_core::transfer::manifest::{Entry, EntryKind};

fn manifest() -> Manifest {
    let entry = |path: &str, kind, size| {
        let components = path.split('/').map(|component| component.as_bytes().to_vec()).collect();
        Entry { components, kind, size, mode: 0o644, mtime_s: 7, mtime_ns: 8, target: None }
    };
    let many = (0..3_000).map(|number| entry(&format!("t/{number:05}"), EntryKind::File, number));
    Manifest::build([entry("t", EntryKind::Directory, 0)].into_iter().chain(many), 64 << 10).unwrap()
}

fn head(manifest: &Manifest, id: u8) -> Head {
    Head {
        device: DeviceId([1; 16]),
        transfer: TransferId([id; 16]),
        digest: *manifest.digest(),
        chunk_size: manifest.chunk_size(),
        entries: manifest.len(),
        bytes: manifest.bytes(),
        unix_s: 1_700_000_000 + u64::from(id),
        policy: ConflictPolicy::Rename,
        directory: "/srv/in\u{fe}\n".into(),
    }
}

fn inode(number: u64) -> Inode {
    Inode { device: 3, inode: number }
}

/// HOST-24.
#[test]
fn what_is_written_is_read_back_up_to_the_line_that_was_cut() {
    let directory = TempDir::new();
    let journals = Journals::new(directory.join("transfers"));
    let manifest = manifest();
    let head = head(&manifest, 9);
    let mut journal = journals.begin(&head, &manifest).unwrap();
    assert!(journals.heads().unwrap().is_empty(), "it counts when it is committed");
    journal.prepared(&BTreeMap::from([(0, b"t (1)".to_vec())]), &BTreeSet::from([0])).unwrap();
    journal.commit().unwrap();
    journal.durable(&BTreeMap::from([(5, (inode(50), Ranges::from(0..3))), (9, (inode(90), Ranges::from(2..4)))])).unwrap();
    journal.durable(&BTreeMap::from([(5, (inode(50), Ranges::from(3..4))), (9, (inode(91), Ranges::from(5..6)))])).unwrap();
    journal.named(&BTreeMap::from([(5, inode(50))])).unwrap();
    drop(journal);

    assert_eq!(journals.heads().unwrap(), std::slice::from_ref(&head));
    let read = journals.read(head.transfer).unwrap();
    assert_eq!((&read.head, read.manifest.digest()), (&head, manifest.digest()));
    assert_eq!((&read.renamed[&0], &read.made), (&b"t (1)".to_vec(), &BTreeSet::from([0])));
    assert_eq!(read.durable[&5], (inode(50), Ranges::from(0..4)));
    assert_eq!(read.durable[&9], (inode(91), Ranges::from(5..6)), "another file under this name: what was said of the first is void");
    assert_eq!(read.named, BTreeMap::from([(5, inode(50))]));
    assert_eq!(read.bytes(), 4 + 1, "what has its name is there whole");

    let whole = std::fs::read(directory.join("transfers").join(format!("{}.in", head.transfer))).unwrap();
    let mut seen = (0, 0);
    for cut in (0..whole.len()).rev().step_by(7) {
        let Some(read) = unfinished(&whole[..cut]) else { continue };
        seen = (seen.0 + 1, seen.1 + usize::from(read.durable.is_empty()));
        assert!(read.durable.len() <= 2 && read.named.len() <= 1);
    }
    assert!(seen.0 > seen.1 && seen.1 > 0, "{seen:?}");
    for at in (0..whole.len()).step_by(101) {
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1;
        // Whatever it says then, it says it of a prefix.
        drop(unfinished(&spoilt));
    }
}

#[test]
fn what_is_taken_is_found_by_device_and_digest_and_what_is_done_by_its_id() {
    let directory = TempDir::new();
    let journals = Journals::new(directory.join("transfers"));
    let manifest = manifest();
    let (one, two) = (head(&manifest, 1), head(&manifest, 2));
    for head in [&one, &two] {
        journals.begin(head, &manifest).unwrap().commit().unwrap();
    }
    let other = TransferId([7; 16]);
    assert_eq!(journals.taken(one.device, other, &one.digest), Some(one.clone()));
    assert_eq!(journals.taken(one.device, other, &[0; 32]), None);
    assert_eq!(journals.taken(DeviceId([2; 16]), other, &one.digest), None);
    // What runs in this process is nobody else's.
    let hold = journals.open(one.device, one.transfer);
    assert_eq!(journals.taken(one.device, other, &one.digest), Some(two.clone()));
    let own = journals.open(two.device, two.transfer);
    let ids = |found: Vec<Unfinished>| found.into_iter().map(|left| left.head.transfer).collect::<Vec<_>>();
    assert_eq!(ids(journals.unfinished(own, one.device, &one.directory, None)), [two.transfer]);
    journals.close(hold);
    assert_eq!(ids(journals.unfinished(own, one.device, &one.directory, None)), [two.transfer, one.transfer], "the newest first");
    assert!(journals.unfinished(own, one.device, Path::new("/elsewhere"), None).is_empty());

    journals.done(one.transfer).unwrap();
    assert_eq!(journals.heads().unwrap(), std::slice::from_ref(&two));
    journals.remove(two.transfer).unwrap();
    assert_eq!(journals.taken(one.device, other, &one.digest), None, "a new transfer of the same is a new one");
    assert_eq!(journals.taken(one.device, one.transfer, &one.digest), Some(one.clone()));
    let done = Some((one.transfer, &one.digest));
    assert_eq!(ids(journals.unfinished(own, one.device, &one.directory, done)), [one.transfer]);
}

/// Whoever comes behind waits for the files of one that has just ended.
#[test]
fn what_is_being_closed_is_waited_for() {
    let directory = TempDir::new();
    let journals = Journals::new(directory.join("transfers"));
    let manifest = manifest();
    let one = head(&manifest, 1);
    journals.begin(&one, &manifest).unwrap().commit().unwrap();
    let (hold, own) = (journals.open(one.device, one.transfer), journals.open(one.device, TransferId([2; 16])));
    journals.closing(hold);
    std::thread::scope(|scope| {
        let found = scope.spawn(|| journals.unfinished(own, one.device, &one.directory, None).len());
        journals.close(hold);
        assert_eq!(found.join().unwrap(), 1);
    });
}

#[test]
fn outgoing_ones_are_listed_until_they_are_removed() {
    let directory = TempDir::new();
    let journals = Journals::new(directory.join("transfers"));
    assert_eq!(journals.outgoing().unwrap(), []);
    let outgoing = |id: u8, label: Option<&str>| Outgoing {
        device: DeviceId([1; 16]),
        transfer: TransferId([id; 16]),
        unix_s: u64::from(id),
        request: SendRequest {
            paths: vec!["/a b".into(), "/c/".into()],
            selection: Selection { symlinks: SymlinkPolicy::Follow, exclude: vec!["*.o".into()], ignore_files: vec![".kinignore".into()] },
            label: label.map(str::to_owned),
            rate: std::num::NonZeroU64::new(id.into()),
        },
        entries: 4,
        bytes: 5,
        digest: [6; 32],
        expires_unix: (id == 2).then_some(u64::MAX),
    };
    let (two, one) = (outgoing(2, Some("ä")), outgoing(1, None));
    for outgoing in [&two, &one, &one] {
        journals.add_outgoing(outgoing).unwrap();
    }
    // Its time is over: nobody hears of it, and it is swept.
    let late = Outgoing { expires_unix: Some(7), ..outgoing(3, None) };
    journals.add_outgoing(&late).unwrap();
    assert_eq!(journals.surplus().unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [late.transfer]);
    std::fs::write(directory.join("transfers/stranger.out"), "x").unwrap();
    assert_eq!(journals.outgoing().unwrap(), [one.clone(), two.clone()]);
    assert!(journals.give_up(one.transfer) && !journals.give_up(one.transfer));
    assert_eq!(journals.outgoing().unwrap(), [two]);
}

/// HOST-24.
#[test]
fn too_many_go_the_oldest_first() {
    let directory = TempDir::new();
    let journals = Journals::new(directory.join("transfers"));
    let manifest = manifest();
    for id in 0..=u8::try_from(KEPT).unwrap() {
        let head = head(&manifest, id);
        journals.begin(&head, &manifest).unwrap().commit().unwrap();
        let path = directory.join("transfers").join(format!("{}.in", head.transfer));
        let at = std::time::SystemTime::now() - Duration::from_secs(1_000 - u64::from(id));
        File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }
    let surplus: Vec<TransferId> = journals.surplus().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(surplus, [TransferId([0; 16])]);
    std::fs::write(directory.join("transfers").join(format!("{}.in", TransferId([9; 16]))), "nonsense").unwrap();
    let surplus = journals.surplus().unwrap();
    assert!(surplus.iter().any(|(id, left)| *id == TransferId([9; 16]) && left.is_none()), "what cannot be read is of no use");
}

/// XFER-30, HOST-24: what is paused is listed so, beyond its time too, and nothing is left of that when the transfer is gone.
#[test]
fn what_is_paused_is_remembered_as_long_as_its_transfer() {
    let directory = TempDir::new();
    let path = directory.join("transfers");
    let journals = Journals::new(path.clone());
    let (nobody, late) = (TransferId([7; 16]), TransferId([3; 16]));
    let files = || std::fs::read_dir(&path).map_or(0, Iterator::count);
    assert!(!journals.pause(nobody, true, false).unwrap() && !journals.is_paused(nobody), "there is none");

    let request = SendRequest { paths: vec!["/srv/a".into()], selection: Selection::default(), label: None, rate: None };
    let wish = Outgoing {
        device: DeviceId([1; 16]),
        transfer: late,
        unix_s: 1,
        request,
        entries: 1,
        bytes: 1,
        digest: [1; 32],
        expires_unix: Some(7),
    };
    journals.add_outgoing(&wish).unwrap();
    assert!(journals.outgoing().unwrap().is_empty(), "it is too late for it");
    assert!(journals.pause(late, true, false).unwrap());
    let begun = Begun::read(&journals);
    assert_eq!((begun.outgoing, begun.paused), (vec![wish], BTreeSet::from([late])));
    assert!(journals.surplus().unwrap().is_empty(), "its owner ends it");
    assert!(journals.pause(late, false, false).unwrap() && journals.outgoing().unwrap().is_empty());
    journals.pause(late, true, false).unwrap();
    journals.remove(late).unwrap();
    assert_eq!(files(), 0);

    // One that is done does not rest, and what a crash left is swept.
    let manifest = manifest();
    let head = head(&manifest, 9);
    journals.begin(&head, &manifest).unwrap().commit().unwrap();
    journals.pause(head.transfer, true, false).unwrap();
    journals.done(head.transfer).unwrap();
    assert!(!journals.is_paused(head.transfer));
    journals.pause(nobody, true, true).unwrap();
    journals.prune_paused().unwrap();
    assert!(!journals.is_paused(nobody));
}
