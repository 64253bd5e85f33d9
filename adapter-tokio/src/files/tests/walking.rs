//! Walking and reading sources.

use super::*;

fn paths(scan: &Scan) -> Vec<String> {
    scan.entries.iter().map(|entry| String::from_utf8_lossy(&entry.components.join(&b'/')).into_owned()).collect()
}

fn walk(paths: &[PathBuf]) -> Scan {
    scan(paths, SymlinkPolicy::Keep).unwrap()
}

#[test]
fn order_is_bytewise_by_components_with_parents_first() {
    let tree = TempDir::new();
    for directory in ["t/a", "t/a/b", "t/empty"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for name in ["t/a.b", "t/a/z", "t/a/b/c", "t/a-", "t/B"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let found = walk(&[tree.join("t")]);
    assert_eq!(paths(&found), ["t", "t/B", "t/a", "t/a/b", "t/a/b/c", "t/a/z", "t/a-", "t/a.b", "t/empty"]);
    assert!(found.entries.is_sorted_by(|a, b| a.components < b.components));
    assert_eq!(found.sources.len(), found.entries.len());
    assert!(found.skipped.is_empty());
    let inside = walk(&[PathBuf::from(format!("{}/", tree.join("t").display()))]);
    assert_eq!(paths(&inside), ["B", "a", "a/b", "a/b/c", "a/z", "a-", "a.b", "empty"]);
    let dotted = walk(&[tree.join("t/a/..")]);
    assert_eq!(paths(&dotted), paths(&found));
}

#[test]
fn two_paths_of_one_name_and_missing_paths_are_errors() {
    let tree = TempDir::new();
    fs::create_dir_all(tree.join("x/one")).unwrap();
    fs::write(tree.join("one"), b"").unwrap();
    let error = |paths: &[PathBuf]| scan(paths, SymlinkPolicy::Keep).map(drop).unwrap_err();
    assert_eq!(error(&[tree.join("one"), tree.join("one")]), ScanError::Twice("one".into()));
    assert_eq!(error(&[tree.join("one"), tree.join("x/one")]), ScanError::Twice("one".into()));
    assert_eq!(error(&[tree.join("x/"), tree.join("one")]), ScanError::Twice("one".into()));
    assert_eq!(error(&[tree.join("two")]), ScanError::Path(tree.join("two"), FileFault::NotFound));
    assert_eq!(error(&[tree.join("one/")]), ScanError::Path(tree.join("one/"), FileFault::Unsafe));
    assert_eq!(paths(&walk(&[tree.join("x"), tree.join("one")])), ["one", "x", "x/one"]);
}

#[test]
// HOST-10.
fn links_are_kept_or_listed_and_special_files_listed() {
    let tree = TempDir::new();
    fs::create_dir(tree.join("t")).unwrap();
    fs::write(tree.join("t/file"), b"").unwrap();
    symlink("file", tree.join("t/link")).unwrap();
    symlink("nowhere", tree.join("t/dangling")).unwrap();
    symlink("/", tree.join("t/root")).unwrap();
    make_fifo(&tree.join("t/fifo"));
    let _socket = UnixListener::bind(tree.join("t/socket")).unwrap();
    let kept = walk(&[tree.join("t")]);
    assert_eq!(paths(&kept), ["t", "t/dangling", "t/file", "t/link", "t/root"]);
    assert_eq!(kept.entries[1].target.as_deref(), Some(&b"nowhere"[..]));
    assert_eq!(kept.entries[4].kind, EntryKind::Symlink, "a link is never walked through");
    let special = [(tree.join("t/fifo"), SkipReason::Special), (tree.join("t/socket"), SkipReason::Special)];
    assert_eq!(kept.skipped, special);
    let without = scan(&[tree.join("t")], SymlinkPolicy::Skip).unwrap();
    assert_eq!(paths(&without), ["t", "t/file"]);
    assert_eq!(without.skipped.iter().filter(|(_, reason)| *reason == SkipReason::Symlink).count(), 3);
    // A given link is a link; with a slash it is what it points to.
    symlink("t", tree.join("to")).unwrap();
    assert_eq!(walk(&[tree.join("to")]).entries[0].kind, EntryKind::Symlink);
    assert_eq!(walk(&[tree.join("to/")]).entries.len(), 4);
}

#[test]
fn depth_64_is_sent_and_65_is_listed() {
    let tree = TempDir::new();
    let deep = vec!["d"; 64].join("/");
    fs::create_dir_all(tree.join(&deep)).unwrap();
    fs::write(tree.join(&deep).join("f"), b"").unwrap();
    let found = walk(&[tree.join("d")]);
    assert_eq!(found.entries.len(), 64);
    assert_eq!(found.skipped, [(tree.join(&deep).join("f"), SkipReason::TooLong)]);
}

#[test]
fn unreadable_files_are_listed() {
    let tree = TempDir::new();
    fs::create_dir(tree.join("t")).unwrap();
    fs::write(tree.join("t/secret"), b"x").unwrap();
    fs::set_permissions(tree.join("t/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let found = walk(&[tree.join("t")]);
    if rustix::process::geteuid().is_root() {
        // Nothing is unreadable to root: the file must then be sent.
        assert_eq!(paths(&found), ["t", "t/secret"]);
    } else {
        assert_eq!(found.skipped, [(tree.join("t/secret"), SkipReason::Unreadable(FileFault::Denied))]);
    }
}

/// A source that is not what was seen is never read as if it were.
#[test]
fn changed_sources_are_noticed_before_and_after_reading() {
    let tree = TempDir::new();
    let path = tree.join("f");
    let fresh = || {
        drop(fs::remove_file(&path));
        fs::write(&path, b"0123456789").unwrap();
        let found = walk(&[tree.join("f")]);
        (found.entries[0].clone(), found.sources[0].clone())
    };
    let (entry, source) = fresh();
    let open = source.open(&entry.components).unwrap();
    let mut buffer = [0; 4];
    open.read_exact_at(3, &mut buffer).unwrap();
    assert_eq!(&buffer, b"3456");
    assert_eq!(open.read_exact_at(7, &mut buffer), Err(FileFault::Changed), "a short file");
    open.check_unchanged().unwrap();
    fs::write(&path, b"012345678x").unwrap();
    assert_eq!(open.check_unchanged(), Err(FileFault::Changed));
    assert_eq!(source.open(&entry.components).map(drop), Err(FileFault::Changed));

    let (entry, source) = fresh();
    fs::rename(&path, tree.join("old")).unwrap();
    assert_eq!(source.open(&entry.components).map(drop), Err(FileFault::Changed), "gone");
    symlink("old", &path).unwrap();
    assert_eq!(source.open(&entry.components).map(drop), Err(FileFault::Changed), "a link to the same file");
    fs::remove_file(&path).unwrap();
    make_fifo(&path);
    assert_eq!(source.open(&entry.components).map(drop), Err(FileFault::Changed), "a pipe, without waiting for its writer");
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"0123456789").unwrap();
    assert_eq!(source.open(&entry.components).map(drop), Err(FileFault::Changed), "another inode or time");
}

#[test]
fn a_directory_swapped_for_a_link_is_not_read_through() {
    let tree = TempDir::new();
    fs::create_dir_all(tree.join("t/d")).unwrap();
    fs::write(tree.join("t/d/f"), b"inside").unwrap();
    let found = walk(&[tree.join("t")]);
    let at = paths(&found).iter().position(|path| path == "t/d/f").unwrap();
    fs::rename(tree.join("t/d"), tree.join("moved")).unwrap();
    symlink("../moved", tree.join("t/d")).unwrap();
    // The file behind the link is the very one that was seen.
    assert_eq!(found.sources[at].open(&found.entries[at].components).map(drop), Err(FileFault::Changed));
}
