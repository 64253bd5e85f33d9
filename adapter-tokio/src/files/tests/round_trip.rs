//! Scan, write, publish: what arrives is what was there.

use super::*;

/// Everything that must be equal.
#[derive(Debug, PartialEq)]
enum Seen {
    File(Vec<u8>, u32, (i64, i64)),
    Directory(u32, (i64, i64)),
    Link(PathBuf, (i64, i64)),
}

fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (mode, time) = (meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec()));
            let seen = match meta.file_type() {
                kind if kind.is_dir() => Seen::Directory(mode, time),
                kind if kind.is_symlink() => Seen::Link(fs::read_link(&path).unwrap(), time),
                _ => Seen::File(fs::read(&path).unwrap(), mode, time),
            };
            if meta.is_dir() {
                open.push(path.clone());
            }
            all.insert(path.strip_prefix(root).unwrap().to_path_buf(), seen);
        }
    }
    all
}

/// A source tree with everything that must arrive exactly as it is (the S lines).
fn generate(root: &Path) {
    let make = |path: &Path, bytes: &[u8], mode: u32, mtime: (i64, i64)| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(path, mtime.0, mtime.1);
    };
    let odd = [
        "~",
        "-rf",
        "--",
        "$HOME",
        "`id`",
        "*",
        "%2e%2e%2f",
        " lead",
        "trail ",
        "dot.",
        "...",
        "tab\tnl\ncr\resc\u{1b}[2J",
        "\u{202e}gnp.exe",
        "\u{feff}bom",
        "\u{200d}",
        "a:b",
        "aux.c",
        "NUL ",
        "C:\\x",
        "..\\..\\x",
        "README",
        "readme",
        "é",
        "e\u{301}",
        "ß",
        "SS",
        ".git",
        ".bashrc",
        "desktop.ini",
        "／",
        "a (1)",
        "lock",
        "seed",
        ".kin-x.part",
    ];
    for (i, name) in (0_i64..).zip(odd) {
        make(&root.join("odd").join(name), name.as_bytes(), 0o644, (1_700_000_000 + i, i));
    }
    make(&root.join("odd").join(OsStr::from_bytes(b"latin1-\xe4\xff\xc0\xaf\xed\xa0\x80")), b"bytes", 0o600, (0, 0));
    for length in [143, 144, 255] {
        make(&root.join("long").join("n".repeat(length)), b"long name", 0o640, (1, 999_999_999));
    }
    make(&root.join("sizes/empty"), b"", 0o644, (5, 5));
    make(&root.join("sizes/script"), b"#!/bin/sh\n", 0o755, (-1, 500_000_000));
    make(&root.join("sizes/readonly"), b"r", 0o444, (-2_000_000_000, 0));
    make(&root.join("sizes/big"), &(0..700_001_u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect::<Vec<_>>(), 0o600, (2, 2));
    make(&root.join(vec!["d"; 62].join("/")).join("deep"), b"deep", 0o644, (3, 3));
    fs::create_dir_all(root.join("empty/below")).unwrap();
    fs::set_permissions(root.join("empty/below"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("script", root.join("sizes/link")).unwrap();
    symlink("../odd/README", root.join("sizes/up")).unwrap();
    symlink("link", root.join("sizes/self")).unwrap();
    symlink("../empty", root.join("sizes/to-dir")).unwrap();
    symlink("dangling", root.join("sizes/nowhere")).unwrap();
    for path in
        ["sizes/link", "sizes/up", "sizes/self", "sizes/to-dir", "sizes/nowhere", "empty/below", "empty", "sizes", "odd", "long", "d"]
    {
        set_mtime(&root.join(path), 1_600_000_000, 123_456_789);
    }
}

fn transfer_all(source: &Path, destination: &Path) -> (Scan, Vec<(u32, Verdict)>) {
    let found = scan(&[source.join("")], &Selection::default()).unwrap();
    let transfer = incoming(destination, found.entries.clone());
    let all = 0..count(&transfer);
    let verdicts = transfer.inspect(ConflictPolicy::Fail).unwrap();
    assert_eq!(transfer.prepare(all.clone()), []);
    let files: Vec<u32> = all.clone().filter(|index| found.entries[*index as usize].kind == EntryKind::File).collect();
    // Pieces in another order than the entries', so that descriptors are closed and opened again.
    for (start, end) in [(4096_u64, u64::MAX), (0, 4096)] {
        for index in files.iter().rev() {
            let entry = &found.entries[*index as usize];
            let open = found.sources[*index as usize].open(&entry.components).unwrap();
            let end = end.min(entry.size);
            if start < end {
                let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
                open.read_exact_at(start, &mut bytes).unwrap();
                transfer.write_at(*index, start, &bytes).unwrap();
            }
            open.check_unchanged().unwrap();
        }
        assert_eq!(transfer.sync(all.clone()), []);
    }
    let outcomes: Outcomes = transfer.publish_range(all, false).into_iter().chain(transfer.finish(false)).collect();
    assert_eq!(outcomes.len(), found.entries.len());
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Ok(Published { renamed_to: None })), "{outcomes:?}");
    (found, verdicts)
}

/// A folder arrives identical: names, bytes, modes, times to the nanosecond, empty directories, links.
#[test]
// XFER-23.
fn a_tree_arrives_identical() {
    let (source, destination) = (TempDir::new(), TempDir::new());
    generate(source.path());
    let (found, verdicts) = transfer_all(source.path(), destination.path());
    assert_eq!(verdicts, []);
    assert!(found.skipped.is_empty());
    let (there, here) = (tree(source.path()), tree(destination.path()));
    assert_eq!(there.len(), found.entries.len());
    for (path, seen) in &there {
        assert_eq!(here.get(path), Some(seen), "{}", path.display());
    }
    assert_eq!(here.len(), there.len());
}

#[test]
fn an_existing_tree_is_merged_and_keeps_what_it_had() {
    let (source, destination) = (TempDir::new(), TempDir::new());
    generate(source.path());
    fs::create_dir_all(destination.join("odd")).unwrap();
    fs::set_permissions(destination.join("odd"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(destination.join("odd/mine"), b"mine").unwrap();
    transfer_all(source.path(), destination.path());
    assert_eq!(fs::read(destination.join("odd/mine")).unwrap(), b"mine");
    assert_eq!(fs::metadata(destination.join("odd")).unwrap().mode() & 0o777, 0o711, "a directory that was there keeps its mode");
    assert_eq!(fs::read(destination.join("odd/README")).unwrap(), b"README");
}

/// 500 files with at most 64 descriptors each side; nothing is left over.
#[test]
fn many_files_need_few_descriptors() {
    let (source, destination) = (TempDir::new(), TempDir::new());
    for i in 0..500 {
        fs::write(source.join(format!("f{i}")), format!("{i}")).unwrap();
    }
    let found = scan(&[source.join("")], &Selection::default()).unwrap();
    let transfer = incoming(destination.path(), found.entries);
    transfer.inspect(ConflictPolicy::Fail).unwrap();
    for index in 0..500 {
        transfer.write_at(index, 0, b"x").unwrap();
    }
    let ours = |path: PathBuf| path.starts_with(destination.path());
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).filter(|path| ours(path.clone()));
    assert!(open.count() <= 64 + 2);
}
