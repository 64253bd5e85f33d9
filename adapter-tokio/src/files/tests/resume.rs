//! What an earlier try left, and another takes over.

use core::ops::Range;
use std::collections::BTreeSet;

use protocol_core::effects::EntryNote;
use protocol_core::ids::DeviceId;
use protocol_core::transfer::manifest::Manifest;
use protocol_core::transfer::ranges::Ranges;

use super::*;
use crate::journal::{Head, Inode, Unfinished};

const OTHER: TransferId = TransferId([0xcd; 16]);

fn tree() -> Vec<Entry> {
    vec![dir("t"), file("t/empty", 0), file("t/named", 7), file("t/part", 300_000), file("t/renamed-untold", 9), file("z", 5)]
}

fn of(directory: &Path, transfer: TransferId, entries: Vec<Entry>) -> Incoming {
    Incoming::new(Arc::new(Destination::open(directory).unwrap()), transfer, Arc::new(entries)).unwrap()
}

fn inode(path: &Path) -> Inode {
    let seen = fs::symlink_metadata(path).unwrap();
    Inode { device: seen.dev(), inode: seen.ino() }
}

/// The head of the journal of [`TRANSFER`] into a directory.
fn head(directory: &Path, manifest: &Manifest, policy: ConflictPolicy) -> Head {
    Head {
        device: DeviceId([1; 16]),
        transfer: TRANSFER,
        digest: *manifest.digest(),
        chunk_size: manifest.chunk_size(),
        entries: manifest.len(),
        bytes: manifest.bytes(),
        unix_s: 0,
        policy,
        directory: directory.to_owned(),
    }
}

/// A first try: one file is named, one was named without time to say so, one has a part; and what its journal says of it.
fn first_try(directory: &Path, policy: ConflictPolicy) -> Unfinished {
    let transfer = of(directory, TRANSFER, tree());
    transfer.inspect(policy).unwrap();
    assert!(transfer.prepare(0..6).is_empty());
    for (index, size) in [(2, 7), (4, 9)] {
        transfer.write_at(index, 0, &vec![u8::try_from(index).unwrap(); size]).unwrap();
    }
    transfer.write_at(3, 100_000, &[3; 50_000]).unwrap();
    let mut durable = transfer.take_written(0..6);
    assert!(transfer.sync(0..6).is_empty());
    assert!(transfer.publish_range(0..3, false).iter().all(|(_, outcome)| outcome.is_ok()));
    let named = transfer.take_named();
    assert_eq!(named.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(transfer.publish(4, false).is_ok());
    // And something that is not durable.
    transfer.write_at(3, 200_000, &[9; 10]).unwrap();
    assert_eq!(transfer.take_written(3..4)[&3].1, Ranges::from(200_000..200_010));
    // A journal that says more than the file holds.
    durable.get_mut(&3).unwrap().1.insert(299_999..400_000);
    let part = ["t (1)", "t"].map(|top| directory.join(top).join(temp_name(TRANSFER, 3))).into_iter().find(|path| path.exists());
    fs::File::options().write(true).open(part.unwrap()).unwrap().set_len(250_000).unwrap();
    let (renamed, made) = transfer.decided();
    let manifest = Manifest::build(tree(), 64 << 10).unwrap();
    let head = head(directory, &manifest, policy);
    Unfinished { head, manifest, renamed, made, durable, named }
}

/// XFER-26, HOST-24.
#[test]
fn what_is_there_is_taken_over_under_whatever_name() {
    for (id, policy, taken_before) in [
        (TRANSFER, ConflictPolicy::Fail, false),
        (OTHER, ConflictPolicy::Fail, false),
        (TRANSFER, ConflictPolicy::Rename, true),
        (OTHER, ConflictPolicy::Rename, true),
    ] {
        let directory = TempDir::new();
        if taken_before {
            fs::create_dir(directory.join("t")).unwrap();
            fs::write(directory.join("t/named"), "somebody else's").unwrap();
        }
        let left = first_try(directory.path(), policy);
        let root = directory.join(if taken_before { "t (1)" } else { "t" });
        let transfer = of(directory.path(), id, tree());
        let taken = transfer.take_over(&left).unwrap();
        let renamed = |name: &str| taken_before.then(|| format!("t (1)/{name}").into_bytes());
        let kept = |bytes: &[u8], name| EntryNote::Kept { digest: blake3::hash(bytes).into(), renamed_to: renamed(name) };
        let notes = BTreeMap::from([
            (1, kept(&[], "empty")),
            (2, kept(&[2; 7], "named")),
            (3, EntryNote::Taken(Ranges::from(100_000..150_000).iter().collect())),
            (4, kept(&[4; 9], "renamed-untold")),
        ]);
        assert_eq!(taken.notes, notes, "nothing beyond what the file holds");
        assert_eq!(taken.named.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(transfer.decided(), (left.renamed.clone(), BTreeSet::from([0])));

        // It goes on, and nothing of its own is in its way.
        assert_eq!(transfer.inspect(policy).unwrap(), []);
        assert!(transfer.prepare(0..6).is_empty());
        assert_eq!(transfer.digest(3).unwrap().len(), 32);
        transfer.write_at(3, 0, &[3; 100_000]).unwrap();
        transfer.write_at(3, 150_000, &[3; 150_000]).unwrap();
        transfer.write_at(5, 0, &[5; 5]).unwrap();
        assert!(transfer.sync(0..6).is_empty());
        let outcomes = transfer.publish_range(0..6, false);
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
        assert!(transfer.finish(false).iter().all(|(_, outcome)| outcome.is_ok()));
        transfer.discard();
        assert_eq!(fs::read(root.join("part")).unwrap(), vec![3; 300_000]);
        assert_eq!(fs::read(root.join("named")).unwrap(), [2; 7]);
        assert_eq!(fs::read(directory.join("z")).unwrap(), [5; 5]);
        let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        if taken_before {
            assert_eq!(fs::read(directory.join("t/named")).unwrap(), b"somebody else's");
        }
    }
}

/// HOST-24.
#[test]
fn what_is_not_the_file_that_the_journal_means_is_not_taken() {
    let directory = TempDir::new();
    let mut left = first_try(directory.path(), ConflictPolicy::Fail);
    // Somebody has put other files there.
    let part = directory.join("t").join(temp_name(TRANSFER, 3));
    fs::write(directory.join("t/other"), vec![8; 300_000]).unwrap();
    fs::rename(directory.join("t/other"), &part).unwrap();
    fs::write(directory.join("t/new"), [8; 7]).unwrap();
    fs::rename(directory.join("t/new"), directory.join("t/named")).unwrap();
    // And changed one: its time tells.
    fs::write(directory.join("t/renamed-untold"), [8; 9]).unwrap();
    let transfer = of(directory.path(), OTHER, tree());
    let taken = transfer.take_over(&left).unwrap();
    assert_eq!(taken.notes.keys().copied().collect::<Vec<_>>(), [1], "{:?}", taken.notes);
    let found = transfer.inspect(ConflictPolicy::Fail).unwrap();
    assert_eq!(found, [(2, Verdict::Conflict), (4, Verdict::Conflict)]);

    // A journal that is about impossible paths is not believed either. An empty file is the same whatever it says.
    left.durable = BTreeMap::from([(0, (inode(&directory.join("t")), Ranges::from(0..1)))]);
    left.named = BTreeMap::from([(77, inode(&directory.join("t")))]);
    let taken = of(directory.path(), TransferId([1; 16]), tree()).take_over(&left).unwrap();
    assert_eq!(taken.notes.keys().copied().collect::<Vec<_>>(), [1]);
}

/// XFER-26.
#[test]
fn of_a_tree_that_changed_what_is_equal_is_taken_and_what_was_ours_is_replaced() {
    let directory = TempDir::new();
    let left = first_try(directory.path(), ConflictPolicy::Fail);
    let changed = vec![
        dir("t"),
        file("t/empty", 0),
        Entry { mtime_s: 2_000, ..file("t/named", 7) },
        file("t/new", 3),
        file("t/part", 300_000),
        file("t/renamed-untold", 10),
    ];
    let transfer = of(directory.path(), OTHER, changed);
    let taken = transfer.take_over(&left).unwrap();
    assert_eq!(taken.notes.keys().copied().collect::<Vec<_>>(), [1, 4]);
    // The one of which nobody had time to say that it is ours stays whose it may be.
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), [(2, Verdict::Replaces), (5, Verdict::Conflict)]);
}

/// What its owner has changed is the owner's, also in the very file that an earlier try has made.
#[test]
fn what_was_ours_and_was_changed_is_not_replaced() {
    use std::io::Write as _;
    let directory = TempDir::new();
    let left = first_try(directory.path(), ConflictPolicy::Fail);
    let mut named = fs::OpenOptions::new().append(true).open(directory.join("t/named")).unwrap();
    named.write_all(b"a line of the owner's").unwrap();
    drop(named);
    let changed = vec![dir("t"), Entry { mtime_s: 2_000, ..file("t/named", 7) }];
    let transfer = of(directory.path(), OTHER, changed);
    transfer.take_over(&left).unwrap();
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), [(1, Verdict::Conflict)]);
}

#[test]
fn what_is_kept_is_closed_and_stays() {
    let directory = TempDir::new();
    let transfer = of(directory.path(), TRANSFER, vec![file("a", 10)]);
    transfer.inspect(ConflictPolicy::Fail).unwrap();
    let all: Range<u32> = 0..1;
    assert!(transfer.prepare(all.clone()).is_empty());
    transfer.write_at(0, 0, &[1; 4]).unwrap();
    assert!(transfer.sync(all).is_empty());
    transfer.keep();
    assert!(transfer.write_at(0, 4, &[1; 4]).is_err());
    assert!(directory.join(temp_name(TRANSFER, 0)).exists());
}

/// A try that ended behind its links: neither they nor empty files are in the way of the next one.
#[test]
fn what_an_earlier_try_has_finished_is_in_nobodys_way() {
    let entries = || vec![dir("t"), file("t/empty", 0), file("t/file", 3), link("t/link", "file")];
    let directory = TempDir::new();
    let first = of(directory.path(), TRANSFER, entries());
    first.inspect(ConflictPolicy::Rename).unwrap();
    assert_eq!(first.will_make(0..4), BTreeSet::from([0]), "noted before it is made");
    assert!(first.prepare(0..4).is_empty());
    assert_eq!(first.will_make(0..4), BTreeSet::new());
    first.write_at(2, 0, b"abc").unwrap();
    assert!(first.publish_range(0..3, false).iter().all(|(_, outcome)| outcome.is_ok()));
    // That the empty file has its name was not durable when the power went.
    let mut named = first.take_named();
    named.remove(&1);
    assert!(first.finish(false).iter().all(|(_, outcome)| outcome.is_ok()));

    let manifest = Manifest::build(entries(), 64 << 10).unwrap();
    let head = head(directory.path(), &manifest, ConflictPolicy::Rename);
    let (renamed, made) = (BTreeMap::new(), BTreeSet::from([0]));
    let left = Unfinished { head, manifest, renamed, made, durable: BTreeMap::new(), named };
    let again = of(directory.path(), OTHER, entries());
    assert_eq!(again.take_over(&left).unwrap().named.len(), 2);
    assert_eq!(again.inspect(ConflictPolicy::Rename).unwrap(), []);
    assert!(again.prepare(0..4).is_empty());
    let ends: Vec<_> = again.publish_range(0..3, false).into_iter().chain(again.finish(false)).collect();
    assert!(ends.iter().all(|(_, outcome)| *outcome == Ok(Published { renamed_to: None })), "{ends:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// Somebody has put something in the way of a file that is under way: it fails alone, and the rest goes on under its name.
#[test]
fn what_was_begun_under_a_name_goes_on_under_it() {
    let directory = TempDir::new();
    let left = first_try(directory.path(), ConflictPolicy::Rename);
    fs::write(directory.join("t/part"), "somebody else's").unwrap();
    let again = of(directory.path(), OTHER, tree());
    again.take_over(&left).unwrap();
    assert_eq!(again.inspect(ConflictPolicy::Rename).unwrap(), [(3, Verdict::Conflict)]);
    assert!(again.decided().0.is_empty());
}
