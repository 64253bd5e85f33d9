//! Walking and reading sources.

use super::*;

fn paths(scan: &Scan) -> Vec<String> {
    scan.entries.iter().map(|entry| String::from_utf8_lossy(&entry.components.join(&b'/')).into_owned()).collect()
}

fn walk(paths: &[PathBuf]) -> Scan {
    scan(paths, &Selection::default()).unwrap()
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
    let error = |paths: &[PathBuf]| scan(paths, &Selection::default()).map(drop).unwrap_err();
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
    let without = scan(&[tree.join("t")], &Selection { symlinks: SymlinkPolicy::Skip, ..Selection::default() }).unwrap();
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

fn select(paths: &[PathBuf], selection: Selection) -> Scan {
    scan(paths, &selection).unwrap()
}

fn patterns(exclude: &[&str]) -> Selection {
    Selection { exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(), ..Selection::default() }
}

fn project() -> TempDir {
    let tree = TempDir::new();
    for path in ["p/a.o", "p/a.c", "p/build/x", "p/sub/build/y", "p/sub/b.o", "p/sub/keep.o"] {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::write(tree.join(path), b"x").unwrap();
    }
    tree
}

#[test]
fn patterns_leave_out_what_they_match() {
    let tree = project();
    let top = [tree.join("p")];
    let found = select(&top, patterns(&["*.o", "!keep.o", "build/"]));
    assert_eq!(paths(&found), ["p", "p/a.c", "p/sub", "p/sub/keep.o"]);
    assert_eq!((found.excluded, found.skipped.len()), (4, 0), "what is below a directory does not count again");
    // With a slash it begins where paths begin as they arrive.
    assert_eq!(select(&top, patterns(&["/p/build"])).excluded, 1);
    assert_eq!(select(&top, patterns(&["/build"])).excluded, 0);
    assert_eq!(select(&[tree.join("p/")], patterns(&["/build"])).excluded, 1);
    assert_eq!(paths(&select(&top, patterns(&["p"]))), Vec::<String>::new());
    assert_eq!(select(&top, patterns(&["a.c/"])).excluded, 0, "a file is no directory");
    let error = scan(&top, &patterns(&["a[z-a]"])).map(drop).unwrap_err();
    assert!(matches!(&error, ScanError::Pattern(pattern, _) if pattern == Path::new("a[z-a]")), "{error}");
}

#[test]
fn ignore_files_hold_where_they_are_and_below() {
    let tree = project();
    fs::write(tree.join("p/.kinignore"), "# objects\n*.o\n\n/build\n").unwrap();
    fs::write(tree.join("p/sub/.kinignore"), "!keep.o\n").unwrap();
    let ignoring = |exclude: &[&str]| Selection { ignore_files: vec![".kinignore".into(), "".into()], ..patterns(exclude) };
    let found = select(&[tree.join("p")], ignoring(&[]));
    assert_eq!(paths(&found), ["p", "p/.kinignore", "p/a.c", "p/sub", "p/sub/.kinignore", "p/sub/build", "p/sub/build/y", "p/sub/keep.o"]);
    assert_eq!(found.excluded, 3);
    // The same for what is in it, and not for its neighbours.
    fs::write(tree.join("q.o"), b"x").unwrap();
    let found = select(&[tree.join("p/"), tree.join("q.o")], ignoring(&[]));
    assert_eq!(paths(&found), [".kinignore", "a.c", "q.o", "sub", "sub/.kinignore", "sub/build", "sub/build/y", "sub/keep.o"]);
    // A pattern that was given goes before, a file that was named is not asked about.
    assert_eq!(select(&[tree.join("p")], ignoring(&["keep.o", "!a.o"])).excluded, 3);
    assert_eq!(paths(&select(&[tree.join("p/a.o")], ignoring(&[]))), ["a.o"]);
    assert_eq!(select(&[tree.join("p")], Selection::default()).excluded, 0);

    // What it would leave out is not sent because it cannot be read.
    fs::write(tree.join("p/sub/.kinignore"), "a[z-a]\n").unwrap();
    assert!(matches!(scan(&[tree.join("p")], &ignoring(&[])), Err(ScanError::Pattern(path, _)) if path == tree.join("p/sub/.kinignore")));
    fs::write(tree.join("p/sub/.kinignore"), vec![b'#'; 1 << 21]).unwrap();
    assert!(matches!(scan(&[tree.join("p")], &ignoring(&[])), Err(ScanError::Path(..))));
    fs::remove_file(tree.join("p/sub/.kinignore")).unwrap();
    make_fifo(&tree.join("p/sub/.kinignore"));
    assert_eq!(select(&[tree.join("p")], ignoring(&[])).skipped.len(), 1, "a pipe is no ignore file, and nothing waits for it");
}

#[test]
fn links_are_followed_where_that_is_wanted_and_has_an_end() {
    let tree = TempDir::new();
    fs::create_dir_all(tree.join("t/d")).unwrap();
    fs::create_dir_all(tree.join("far/away")).unwrap();
    fs::write(tree.join("far/away/file"), b"far").unwrap();
    for (to, name) in [("../far", "far"), ("../far/away/file", "file"), ("..", "d/up"), ("/nowhere", "broken"), ("self", "self")] {
        symlink(to, tree.join("t").join(name)).unwrap();
    }
    let follow = Selection { symlinks: SymlinkPolicy::Follow, ..Selection::default() };
    let found = select(&[tree.join("t")], follow.clone());
    assert_eq!(paths(&found), ["t", "t/d", "t/far", "t/far/away", "t/far/away/file", "t/file"]);
    let reasons: Vec<SkipReason> = found.skipped.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [SkipReason::Unreadable(FileFault::NotFound), SkipReason::Loop, SkipReason::Unreadable(FileFault::Unsafe)]);
    for at in [4, 5] {
        assert_eq!((found.entries[at].kind, found.entries[at].size), (EntryKind::File, 3));
        let mut text = [0; 3];
        found.sources[at].open(&found.entries[at].components).unwrap().read_exact_at(0, &mut text).unwrap();
        assert_eq!(&text, b"far");
    }
    // What is left out is not looked at, and a link that leads elsewhere now is not read.
    assert_eq!(select(&[tree.join("t")], Selection { exclude: vec!["broken".into()], ..follow }).skipped.len(), 2);
    fs::write(tree.join("secret"), b"abc").unwrap();
    fs::remove_file(tree.join("t/file")).unwrap();
    symlink("../secret", tree.join("t/file")).unwrap();
    assert_eq!(found.sources[5].open(&found.entries[5].components).map(drop), Err(FileFault::Changed));
}
