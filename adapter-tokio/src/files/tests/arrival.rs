//! What may be in the way of what arrives.

use super::*;

fn verdicts(directory: &Path, entries: Vec<Entry>, policy: ConflictPolicy) -> Vec<(u32, Verdict)> {
    incoming(directory, entries).inspect(policy).unwrap()
}

fn cannot(index: u32, reason: CannotHold) -> (u32, Verdict) {
    (index, Verdict::CannotHold(reason))
}

/// Names and trees that are refused as a whole, before any effect. (The manifest's own check comes before; this one is the
/// last before the system.)
#[test]
fn illegal_entries_are_refused_before_any_effect() {
    let directory = TempDir::new();
    let raw = |components: &[&[u8]]| Entry { components: components.iter().map(|c| c.to_vec()).collect(), ..file("x", 1) };
    let long = [b'a'; 256];
    let bad: Vec<Vec<Entry>> = vec![
        vec![raw(&[b""])],
        vec![raw(&[b"."])],
        vec![raw(&[b".."])],
        vec![raw(&[b"a/b"])],
        vec![raw(&[b"/x"])],
        vec![raw(&[b"a\0b"])],
        vec![raw(&[&long])],
        vec![raw(&[])],
        vec![dir("a"), raw(&[b"a", b".."])],
        vec![file("a/b", 1)],
        vec![file("a", 1), file("a/b", 1)],
        vec![link("a", "b"), file("a/b", 1)],
        vec![dir("a"), file("b/c", 1)],
        vec![file("a", 1), file("a", 1)],
        vec![dir("a"), file("a", 1)],
        vec![file("b", 1), file("a", 1)],
    ];
    for entries in bad {
        let text = format!("{entries:?}");
        assert_eq!(try_incoming(directory.path(), entries).map(drop), Err(FileFault::Unsafe), "{text}");
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn writes_stay_within_the_entry() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![file("a", 10), dir("d"), link("l", "a")]);
    for (index, offset, length) in
        [(0, 0, 11), (0, 10, 1), (0, u64::MAX, 1), (0, u64::MAX, 0), (1, 0, 1), (2, 0, 1), (3, 0, 1), (u32::MAX, 0, 0)]
    {
        assert_eq!(transfer.write_at(index, offset, &vec![1; length]), Err(FileFault::Unsafe), "{index} {offset} {length}");
    }
    assert!(names(directory.path()).is_empty());
}

/// Links: relative and inside what is offered; climbing only through directories that arrive.
#[test]
// PATH-8.
fn links_that_leave_the_offer_are_not_made() {
    let directory = TempDir::new();
    let inside = ["f", "./f", "sub/../f", "sub/g", "../t/f", "../other", "..//t", "not-there", "self", "../t/not-there"];
    let outside = ["/etc/passwd", "..", "../..", "../../x", "../private", "sub/../../..", "nope/../f", "f/../f", "../t/../../x", "/"];
    for (target, safe) in inside.map(|t| (t, true)).into_iter().chain(outside.map(|t| (t, false))) {
        let entries = vec![file("other", 1), dir("t"), file("t/f", 1), link("t/self", target), dir("t/sub"), file("t/sub/g", 1)];
        let found = verdicts(directory.path(), entries, ConflictPolicy::Fail);
        assert_eq!(found, if safe { vec![] } else { vec![(3, Verdict::UnsafeLink)] }, "{target}");
    }
    // At the top only another item of the offer is inside.
    for (target, safe) in [("b", true), ("c", false), ("../b", false), (".", false)] {
        let found = verdicts(directory.path(), vec![link("a", target), file("b", 0)], ConflictPolicy::Fail);
        assert_eq!(found.is_empty(), safe, "{target}");
    }
}

#[test]
fn an_unsafe_link_is_left_out_and_the_rest_arrives() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![dir("t"), file("t/a", 3), link("t/bad", "/etc/passwd"), link("t/good", "a")]);
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), [(2, Verdict::UnsafeLink)]);
    let outcomes = receive(&transfer);
    assert_eq!(outcomes.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 3]);
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(names(&directory.join("t")), ["a", "good"]);
    assert_eq!(transfer.publish(2, true), Err(FileFault::Unsafe));
}

/// The E lines: such an entry fails alone, with what is below it.
#[test]
// PATH-6.
fn names_like_our_temporary_ones_fail_alone() {
    let directory = TempDir::new();
    let other = ".kin-0123456789abcdef-7.part";
    let entries = vec![dir(other), file(&format!("{other}/x"), 1), file("ok", 1)];
    let transfer = incoming(directory.path(), entries);
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), [cannot(0, CannotHold::ReservedName), (1, Verdict::Below)]);
    assert_eq!(transfer.prepare(0..3), [(0, FileFault::Unsafe), (1, FileFault::Unsafe)]);
    let outcomes = receive(&transfer);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(names(directory.path()), ["ok"]);
}

#[test]
// PATH-4.
fn where_names_fold_the_later_one_fails() {
    let directory = TempDir::new();
    let entries = || {
        vec![
            dir("A"),
            file("A/x", 1),
            file("README", 1),
            dir("a"),
            file("a/y", 1),
            file("e\u{301}", 1),
            file("readme", 1),
            file("x", 1),
            file("é", 1),
        ]
    };
    let exact = incoming(directory.path(), entries());
    assert_eq!(exact.inspect(ConflictPolicy::Fail).unwrap(), [], "this test's file system tells case apart");
    assert!(names(directory.path()).is_empty(), "the probe is gone");
    let transfer = incoming(directory.path(), entries());
    transfer.destination.pretend_folding();
    let same = |index| cannot(index, CannotHold::SameName);
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), [same(3), (4, Verdict::Below), same(6), same(8)]);
    let reserved = incoming(directory.path(), vec![file(".KIN-0123456789ABCDEF-7.PART", 1)]);
    reserved.destination.pretend_folding();
    assert_eq!(reserved.inspect(ConflictPolicy::Fail).unwrap(), [cannot(0, CannotHold::ReservedName)]);
}

/// Everything that can stand at a final name, under every policy.
#[test]
// PATH-9.
fn conflicts_are_decided_by_policy_per_file() {
    use ConflictPolicy::{Fail, Overwrite, Skip, Update};
    let directory = TempDir::new();
    let outside = TempDir::new();
    fs::write(outside.join("target"), b"target").unwrap();
    let set_up = || {
        for name in names(directory.path()) {
            let path = directory.join(name);
            if path.symlink_metadata().unwrap().is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        fs::create_dir(directory.join("dir")).unwrap();
        make_fifo(&directory.join("fifo"));
        fs::write(directory.join("in-the-way"), b"old").unwrap();
        symlink(outside.join("target"), directory.join("link")).unwrap();
        fs::write(directory.join("new"), b"old").unwrap();
        fs::write(directory.join("old"), b"old").unwrap();
        set_mtime(&directory.join("old"), 999, 0);
        symlink(outside.path(), directory.join("to-dir")).unwrap();
    };
    let entries = vec![
        file("dir", 1),
        file("fifo", 1),
        file("free", 1),
        dir("in-the-way"),
        file("in-the-way/x", 1),
        file("link", 1),
        file("new", 1),
        file("old", 1),
        dir("to-dir"),
        file("to-dir/x", 1),
    ];
    let (c, s, r, b) = (Verdict::Conflict, Verdict::Skipped, Verdict::Replaces, Verdict::Below);
    for (policy, expected, replaced) in [
        (Fail, [&c, &c, &c, &b, &c, &c, &c, &c, &b], &[][..]),
        (Skip, [&s, &s, &s, &b, &s, &s, &s, &s, &b], &[]),
        (Overwrite, [&c, &c, &c, &b, &r, &r, &r, &c, &b], &["link", "new", "old"]),
        (Update, [&c, &c, &c, &b, &s, &s, &r, &c, &b], &["old"]),
    ] {
        set_up();
        let transfer = incoming(directory.path(), entries.clone());
        let found = transfer.inspect(policy).unwrap();
        let expected: Vec<_> = [0, 1, 3, 4, 5, 6, 7, 8, 9].into_iter().zip(expected.map(Clone::clone)).collect();
        assert_eq!(found, expected, "{policy:?}");
        receive(&transfer);
        transfer.discard();
        assert_eq!(names(directory.path()), ["dir", "fifo", "free", "in-the-way", "link", "new", "old", "to-dir"], "{policy:?}");
        for name in ["link", "new", "old"] {
            let kept = fs::read(directory.join(name)).unwrap().len() > 1;
            assert_eq!(kept, !replaced.contains(&name), "{policy:?} {name}");
        }
        assert!(directory.join("dir").is_dir() && fs::read(directory.join("in-the-way")).unwrap() == b"old");
        assert_eq!(fs::read(outside.join("target")).unwrap(), b"target", "nothing is written through a link");
        assert_eq!(names(outside.path()), ["target"]);
    }
}

#[test]
fn rename_gives_the_top_item_one_new_name() {
    let directory = TempDir::new();
    fs::create_dir(directory.join("album")).unwrap();
    fs::write(directory.join("album/a"), b"old").unwrap();
    fs::create_dir(directory.join("album (1)")).unwrap();
    fs::write(directory.join("photo.jpg"), b"old").unwrap();
    fs::create_dir(directory.join("merged")).unwrap();
    let entries = vec![
        dir("album"),
        file("album/a", 1),
        file("album/b", 1),
        dir("merged"),
        file("merged/x", 1),
        file("photo (1).jpg", 1),
        file("photo.jpg", 1),
    ];
    let transfer = incoming(directory.path(), entries);
    let renamed = [(0, Verdict::Renamed(b"album (2)".to_vec())), (6, Verdict::Renamed(b"photo (2).jpg".to_vec()))];
    assert_eq!(transfer.inspect(ConflictPolicy::Rename).unwrap(), renamed);
    let outcomes: BTreeMap<_, _> = receive(&transfer).into_iter().collect();
    let to = |components: &[&str]| Some(components.iter().map(|c| c.as_bytes().to_vec()).collect::<Vec<_>>());
    assert_eq!(outcomes[&1], Ok(Published { renamed_to: to(&["album (2)", "a"]) }));
    assert_eq!(outcomes[&4], Ok(Published { renamed_to: None }));
    assert_eq!(outcomes[&6], Ok(Published { renamed_to: to(&["photo (2).jpg"]) }));
    assert_eq!(names(directory.path()), ["album", "album (1)", "album (2)", "merged", "photo (1).jpg", "photo (2).jpg", "photo.jpg"]);
    assert_eq!(names(&directory.join("album (2)")), ["a", "b"]);
    assert_eq!(fs::read(directory.join("album/a")).unwrap(), b"old");
    assert_eq!(transfer.top_names().len(), 4);
}

/// What appears after the inspection is not replaced either.
#[test]
// HOST-7.
fn a_name_taken_meanwhile_is_a_conflict_unless_agreed() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![file("a", 1), link("b", "a"), file("c", 1)]);
    assert_eq!(transfer.inspect(ConflictPolicy::Fail).unwrap(), []);
    transfer.write_at(0, 0, b"n").unwrap();
    transfer.write_at(2, 0, b"n").unwrap();
    fs::write(directory.join("a"), b"theirs").unwrap();
    fs::write(directory.join("b"), b"theirs").unwrap();
    fs::create_dir(directory.join("c")).unwrap();
    assert_eq!(transfer.publish_range(0..3, false), [(0, Err(FileFault::Exists)), (2, Err(FileFault::Exists))]);
    assert_eq!(transfer.finish(false), [(1, Err(FileFault::Exists))]);
    assert_eq!(fs::read(directory.join("a")).unwrap(), b"theirs");
    let done = Ok(Published { renamed_to: None });
    assert_eq!(transfer.publish_range(0..3, true), [(0, done.clone()), (2, Err(FileFault::Exists))]);
    assert_eq!(transfer.finish(true), [(1, done.clone())]);
    assert_eq!(fs::read(directory.join("a")).unwrap(), b"n");
    assert_eq!(fs::read_link(directory.join("b")).unwrap(), Path::new("a"));
    assert_eq!(transfer.publish(0, false), done, "a second call changes nothing");
    transfer.discard();
    assert_eq!(names(directory.path()), ["a", "b", "c"]);
}

#[test]
// PATH-7.
fn a_parent_swapped_for_a_link_is_not_written_through() {
    let (directory, outside) = (TempDir::new(), TempDir::new());
    let entries = || vec![dir("d"), dir("d/e"), file("d/e/f", 1)];
    let transfer = incoming(directory.path(), entries());
    transfer.inspect(ConflictPolicy::Overwrite).unwrap();
    assert_eq!(transfer.prepare(0..1), []);
    fs::rename(directory.join("d"), directory.join("moved")).unwrap();
    symlink(outside.path(), directory.join("d")).unwrap();
    assert_eq!(transfer.prepare(1..3), [(1, FileFault::Unsafe), (2, FileFault::Unsafe)]);
    assert_eq!(transfer.write_at(2, 0, b"x"), Err(FileFault::Unsafe));
    assert!(names(outside.path()).is_empty());
    // The same between prepare and write of a second life, which has no handles yet.
    fs::create_dir(outside.join("e")).unwrap();
    let second = incoming(directory.path(), entries());
    assert_eq!(second.write_at(2, 0, b"x"), Err(FileFault::Unsafe));
    assert_eq!(second.prepare(0..3), [(0, FileFault::Exists), (1, FileFault::Exists), (2, FileFault::Exists)]);
    assert!(names(&outside.join("e")).is_empty());
}

/// A handle that is already open keeps its directory, wherever a link now leads.
#[test]
fn a_swap_after_opening_stays_in_the_old_directory() {
    let (directory, outside) = (TempDir::new(), TempDir::new());
    let transfer = incoming(directory.path(), vec![dir("d"), file("d/f", 1)]);
    transfer.prepare(0..2);
    transfer.write_at(1, 0, b"x").unwrap();
    fs::rename(directory.join("d"), directory.join("moved")).unwrap();
    symlink(outside.path(), directory.join("d")).unwrap();
    assert_eq!(transfer.publish(1, true), Ok(Published { renamed_to: None }));
    assert!(names(outside.path()).is_empty());
    assert_eq!(names(&directory.join("moved")), ["f"]);
}

#[test]
fn what_has_the_temporary_name_is_only_removed_if_it_is_ours() {
    let (directory, outside) = (TempDir::new(), TempDir::new());
    fs::write(outside.join("target"), b"target").unwrap();
    symlink(outside.join("target"), directory.join(temp(0))).unwrap();
    make_fifo(&directory.join(temp(1)));
    fs::create_dir(directory.join(temp(2))).unwrap();
    fs::write(directory.join(temp(3)), b"left by a crash").unwrap();
    fs::set_permissions(directory.join(temp(3)), fs::Permissions::from_mode(0o400)).unwrap();
    let transfer = incoming(directory.path(), ["a", "b", "c", "d"].map(|name| file(name, 1)).to_vec());
    for index in 0..3 {
        assert_eq!(transfer.write_at(index, 0, b"x"), Err(FileFault::Exists), "{index}");
    }
    transfer.write_at(3, 0, b"x").unwrap();
    assert_eq!(fs::metadata(directory.join(temp(3))).unwrap().mode() & 0o7777, 0o600);
    transfer.publish(3, false).unwrap();
    assert_eq!(fs::read(directory.join("d")).unwrap(), b"x");
    transfer.discard();
    assert_eq!(fs::read(outside.join("target")).unwrap(), b"target");
    assert_eq!(names(directory.path()), [temp(0), temp(1), temp(2), "d".into()].map(OsString::from));
}

#[test]
fn a_temporary_file_swapped_meanwhile_is_noticed() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), (0..70).map(|i| file(&format!("f{i:02}"), 2)).collect());
    (0..70).for_each(|index| transfer.write_at(index, 0, b"x").unwrap());
    // The first is no longer open, and comes back as another file.
    fs::rename(directory.join(temp(0)), directory.join("kept")).unwrap();
    fs::write(directory.join(temp(0)), b"yy").unwrap();
    assert_eq!(transfer.write_at(0, 1, b"x"), Err(FileFault::Changed));
    assert_eq!(transfer.publish(0, false), Err(FileFault::Changed));
    transfer.write_at(1, 1, b"x").unwrap();
}

#[test]
// HOST-9.
fn incomplete_files_are_never_published() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![file("never", 5), file("short", 5)]);
    transfer.write_at(1, 0, b"1234").unwrap();
    assert_eq!(transfer.publish_range(0..2, true), [(0, Err(FileFault::NotFound)), (1, Err(FileFault::Changed))]);
    transfer.write_at(1, 4, b"5").unwrap();
    transfer.publish(1, false).unwrap();
    assert_eq!(names(directory.path()), ["short"]);
}

#[test]
fn special_mode_bits_are_never_given() {
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![Entry { mode: 0o7777, ..dir("d") }, Entry { mode: 0o7777, ..file("f", 1) }]);
    assert!(receive(&transfer).iter().all(|(_, outcome)| outcome.is_ok()));
    for name in ["d", "f"] {
        let mode = fs::metadata(directory.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o777 & !u32::from(transfer.destination.mode_mask()), "{name}");
    }
}

#[test]
fn extreme_times_arrive_or_fail_alone() {
    let directory = TempDir::new();
    let times = [-1, i64::from(i32::MIN) + 1, 0, 1 << 33, i64::MIN, i64::MAX];
    let entries = (0..).zip(times).map(|(i, mtime_s)| Entry { mtime_s, mtime_ns: 999_999_999, ..file(&format!("f{i}"), 1) }).collect();
    let transfer = incoming(directory.path(), entries);
    let outcomes = receive(&transfer);
    for ((index, outcome), expected) in outcomes.iter().zip(times).take(4) {
        assert_eq!(*outcome, Ok(Published { renamed_to: None }));
        let meta = fs::metadata(directory.join(format!("f{index}"))).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (expected, 999_999_999));
    }
    assert_eq!(outcomes.len(), times.len(), "years beyond the file system's are cut by it, or fail");
}

/// A crash: nothing has a final name, and a sweep finds all of it, in the tree and nowhere else.
#[test]
// HOST-8.
fn a_crash_leaves_only_what_a_sweep_removes() {
    let (directory, outside) = (TempDir::new(), TempDir::new());
    fs::write(directory.join("mine"), b"mine").unwrap();
    fs::write(outside.join(temp(9)), b"not below").unwrap();
    let transfer = incoming(directory.path(), vec![dir("d"), dir("d/e"), file("d/e/f", 1), file("d/empty", 0), file("top", 1)]);
    transfer.inspect(ConflictPolicy::Rename).unwrap();
    assert_eq!(transfer.prepare(0..5), []);
    transfer.write_at(2, 0, b"x").unwrap();
    transfer.write_at(4, 0, b"x").unwrap();
    transfer.sync(0..5);
    let tops = transfer.top_names();
    drop(transfer);
    assert_eq!(names(directory.path()), [&temp(4), "d", "mine"].map(OsString::from));
    symlink(outside.path(), directory.join("d/link")).unwrap();
    let stranger = temp_name(TransferId([1; 16]), 3);
    fs::write(directory.join("d").join(&stranger), b"another transfer").unwrap();
    assert_eq!(sweep(directory.path(), TRANSFER, &tops), Ok(3));
    assert_eq!(sweep(directory.path(), TRANSFER, &tops), Ok(0));
    assert_eq!(names(&directory.join("d")), [stranger.as_str(), "e", "link"].map(OsString::from));
    assert!(names(&directory.join("d/e")).is_empty());
    assert_eq!(names(directory.path()), ["d", "mine"]);
    assert_eq!(names(outside.path()).len(), 1);
}

#[test]
fn discard_removes_what_was_made_and_nothing_else() {
    let directory = TempDir::new();
    fs::create_dir(directory.join("had")).unwrap();
    let transfer = incoming(
        directory.path(),
        vec![dir("had"), file("had/x", 1), dir("made"), dir("made/below"), file("made/done", 1), file("made/open", 1)],
    );
    transfer.inspect(ConflictPolicy::Fail).unwrap();
    assert_eq!(transfer.prepare(0..6), []);
    [1, 4, 5].into_iter().for_each(|index| transfer.write_at(index, 0, b"x").unwrap());
    transfer.publish(4, false).unwrap();
    transfer.discard();
    assert_eq!(names(directory.path()), ["had", "made"]);
    assert!(names(&directory.join("had")).is_empty());
    assert_eq!(names(&directory.join("made")), ["done"]);
    assert_eq!(transfer.write_at(5, 0, b"x"), Err(FileFault::NotFound), "a late writer makes nothing anew");
    assert_eq!(transfer.publish(5, true), Err(FileFault::NotFound));
    assert_eq!(names(&directory.join("made")), ["done"]);
}

#[test]
fn the_destination_may_be_reached_through_a_link_but_must_be_a_directory() {
    let directory = TempDir::new();
    fs::create_dir(directory.join("real")).unwrap();
    symlink("real", directory.join("link")).unwrap();
    fs::write(directory.join("file"), b"").unwrap();
    let transfer = incoming(&directory.join("link"), vec![file("a", 1)]);
    assert!(receive(&transfer)[0].1.is_ok());
    assert_eq!(names(&directory.join("real")), ["a"]);
    assert!(transfer.destination.free_space().unwrap() > 0);
    assert_eq!(Destination::open(&directory.join("file")).map(drop), Err(FileFault::Unsafe));
    assert_eq!(Destination::open(&directory.join("none")).map(drop), Err(FileFault::NotFound));
}

/// What cannot be written is told before anything is. `/proc` refuses root as well.
#[test]
fn a_destination_that_takes_no_files_is_told_at_once() {
    let fault = incoming(Path::new("/proc/self"), vec![file("a", 1)]).inspect(ConflictPolicy::Fail).unwrap_err();
    assert!(matches!(fault, FileFault::Denied | FileFault::NotFound | FileFault::ReadOnly), "{fault:?}");
    let directory = TempDir::new();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let answer = incoming(directory.path(), vec![file("a", 1)]).inspect(ConflictPolicy::Fail);
    let expected = if rustix::process::geteuid().is_root() { Ok(vec![]) } else { Err(FileFault::Denied) };
    assert_eq!(answer, expected);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn faults_of_the_system_have_types() {
    use rustix::io::Errno;
    for (errno, fault) in [
        (Errno::NOSPC, FileFault::DiskFull),
        (Errno::DQUOT, FileFault::DiskFull),
        (Errno::ROFS, FileFault::ReadOnly),
        (Errno::ACCESS, FileFault::Denied),
        (Errno::LOOP, FileFault::Unsafe),
        (Errno::XDEV, FileFault::Unsafe),
        (Errno::IO, FileFault::Failing(5)),
        (Errno::NOTCONN, FileFault::Failing(Errno::NOTCONN.raw_os_error())),
        (Errno::INVAL, FileFault::Io(22)),
    ] {
        assert_eq!(FileFault::from(errno), fault);
        assert_eq!(FileFault::from(io::Error::from(errno)), fault);
    }
    // A real full disk, where the system has one to offer.
    use std::os::unix::fs::FileExt as _;
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(full.write_all_at(b"x", 0).map_err(FileFault::from), Err(FileFault::DiskFull));
}

/// Without `openat2` the walk by components gives the same answers.
#[test]
fn paths_resolve_beneath_or_not_at_all() {
    let (directory, outside) = (TempDir::new(), TempDir::new());
    fs::create_dir_all(directory.join("a/b")).unwrap();
    fs::write(directory.join("a/b/f"), b"").unwrap();
    symlink("b", directory.join("a/inside")).unwrap();
    symlink(outside.path(), directory.join("a/outside")).unwrap();
    let root = Destination::open(directory.path()).unwrap().root;
    let open = |path: &[&[u8]]| open_beneath(root.as_fd(), path, OFlags::RDONLY).map(drop);
    assert_eq!(open(&[b"a", b"b", b"f"]), Ok(()));
    assert_eq!(open(&[]), Ok(()));
    for through in [&[&b"a"[..], b"inside", b"f"][..], &[b"a", b"outside", b"f"], &[b"a", b"outside"], &[b"a", b"b", b"f", b"x"]] {
        assert_eq!(open(through), Err(FileFault::Unsafe), "{through:?}");
    }
    for special in [&[&b".."[..]][..], &[b"a", b"."], &[b"a/b"], &[b""]] {
        assert_eq!(open(special), Err(FileFault::Unsafe), "{special:?}");
    }
    for path in
        [&[&b"a"[..], b"b", b"f"][..], &[b"a", b"inside", b"f"], &[b"a", b"outside"], &[b"a", b"b", b"f", b"x"], &[b"a"], &[b"none", b"x"]]
    {
        let at_once = open(path);
        let by_component = open_by_component(root.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW).map(drop);
        assert_eq!(at_once, by_component, "{path:?}");
    }
}

/// Who writes while another syncs has not synced: what comes behind the flush is flushed by the next, with its time.
#[test]
// HOST-9.
fn what_is_written_during_a_sync_is_of_the_next_one() {
    use std::os::unix::fs::FileExt as _;
    let directory = TempDir::new();
    let transfer = incoming(directory.path(), vec![file("f", 3)]);
    transfer.inspect(ConflictPolicy::Fail).unwrap();
    assert!(transfer.prepare(0..1).is_empty());
    // The two halves of `write_at`, and a sync between them.
    let handle = transfer.writer(0).unwrap();
    assert!(transfer.sync(0..1).is_empty());
    handle.write_all_at(b"abc", 0).unwrap();
    transfer.note_written(0, 0..3);
    assert_eq!(transfer.take_written(0..1).len(), 1, "this is about to be called durable");
    assert!(transfer.sync(0..1).is_empty());
    assert!(transfer.publish_range(0..1, false).iter().all(|(_, outcome)| outcome.is_ok()));
    let seen = fs::metadata(directory.join("f")).unwrap();
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (1_000, 5), "it was not synced behind the write");
}
