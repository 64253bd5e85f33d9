//! Are two trees the same? Names, kinds, bytes, executable bits, times, empty directories, targets of links.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::output::shown_path;

/// Differences that are named at most; all are counted.
const NAMED: usize = 20;
/// The permission bit that counts: its owner may run it.
const EXECUTABLE: u32 = 0o100;

/// What a comparison found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Files that are equal in both.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Differences in all.
    pub(crate) different: u64,
    /// The first of them, for people.
    pub(crate) named: Vec<String>,
}

impl Comparison {
    fn differ(&mut self, path: &Path, what: &str) {
        self.different += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{}: {what}", shown_path(path.as_os_str().as_bytes())));
        }
    }
}

/// Compares what `left` and `right` are, byte by byte. The names of the two themselves do not count.
pub(crate) fn compare(left: &Path, right: &Path) -> io::Result<Comparison> {
    let mut result = Comparison::default();
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    collect(left, Path::new(""), &mut ours)?;
    collect(right, Path::new(""), &mut theirs)?;
    for (path, mine) in &ours {
        match theirs.remove(path) {
            None => result.differ(path, "is missing"),
            Some(yours) => compare_one(&mut result, path, (&left.join(path), mine), (&right.join(path), &yours))?,
        }
    }
    for path in theirs.keys() {
        result.differ(path, "was not there before");
    }
    Ok(result)
}

fn collect(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, Metadata>) -> io::Result<()> {
    // Joining nothing would add a slash, and a slash would follow a link.
    let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) };
    let metadata = fs::symlink_metadata(&path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(&path)? {
            collect(root, &below.join(entry?.file_name()), found)?;
        }
    }
    found.insert(below.to_owned(), metadata);
    Ok(())
}

fn compare_one(result: &mut Comparison, path: &Path, left: (&Path, &Metadata), right: (&Path, &Metadata)) -> io::Result<()> {
    let (mine, yours) = (left.1, right.1);
    if mine.file_type() != yours.file_type() {
        result.differ(path, "is of another kind");
        return Ok(());
    }
    if mine.is_symlink() {
        if fs::read_link(left.0)? != fs::read_link(right.0)? {
            result.differ(path, "points elsewhere");
        }
        return Ok(());
    }
    let before = result.different;
    if mine.is_file() {
        if mine.len() != yours.len() || !same_bytes(&trim(left.0), &trim(right.0))? {
            result.differ(path, "has other bytes");
        }
        if mine.mode() & EXECUTABLE != yours.mode() & EXECUTABLE {
            result.differ(path, "has another executable bit");
        }
    }
    if (mine.mtime(), mine.mtime_nsec()) != (yours.mtime(), yours.mtime_nsec()) {
        result.differ(path, "has another modification time");
    }
    if mine.is_file() && result.different == before {
        result.files += 1;
        result.bytes += mine.len();
    }
    Ok(())
}

/// A path without the slash that joining an empty path leaves.
fn trim(path: &Path) -> PathBuf {
    path.components().collect()
}

fn same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    const BLOCK: usize = 256 * 1024;
    let mut left = BufReader::with_capacity(BLOCK, File::open(left)?);
    let mut right = BufReader::with_capacity(BLOCK, File::open(right)?);
    let (mut mine, mut yours) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let read = fill(&mut left, &mut mine)?;
        if read != fill(&mut right, &mut yours)? || mine[..read] != yours[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    use super::super::sample::generate;
    use super::*;
    use crate::scratch::Scratch;

    /// Two directories with the same file, folder and link.
    fn twins() -> (Scratch, PathBuf, PathBuf) {
        let scratch = Scratch::new("kin-test").unwrap();
        let (left, right) = (scratch.path().join("left"), scratch.path().join("right"));
        for root in [&left, &right] {
            fs::create_dir_all(root.join("folder/empty")).unwrap();
            fs::write(root.join("folder/file"), [7; 1000]).unwrap();
            std::os::unix::fs::symlink("folder/file", root.join("link")).unwrap();
            for path in ["folder/file", "folder/empty", "folder", ""] {
                still(&root.join(path));
            }
        }
        (scratch, left, right)
    }

    fn still(path: &Path) {
        File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)).unwrap();
    }

    fn difference(change: impl FnOnce(&Path)) -> Vec<String> {
        let (_scratch, left, right) = twins();
        assert_eq!(compare(&left, &right).unwrap(), Comparison { files: 1, bytes: 1000, different: 0, named: vec![] });
        change(&right);
        let found = compare(&left, &right).unwrap();
        assert_eq!(found.different, found.named.len() as u64);
        found.named
    }

    #[test]
    fn every_difference_is_found() {
        let file = Path::new("folder/file");
        let flipped = difference(|root| {
            let mut bytes = fs::read(root.join(file)).unwrap();
            bytes[999] ^= 1;
            fs::write(root.join(file), bytes).unwrap();
            still(&root.join(file));
        });
        assert_eq!(flipped, ["folder/file: has other bytes"]);
        let shorter = difference(|root| {
            fs::write(root.join(file), [7; 999]).unwrap();
            still(&root.join(file));
        });
        assert_eq!(shorter, ["folder/file: has other bytes"]);
        let executable = difference(|root| fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o755)).unwrap());
        assert_eq!(executable, ["folder/file: has another executable bit"]);
        let touched = difference(|root| File::open(root.join(file)).unwrap().set_modified(SystemTime::now()).unwrap());
        assert_eq!(touched, ["folder/file: has another modification time"]);
        let emptied = difference(|root| {
            fs::remove_dir(root.join("folder/empty")).unwrap();
            still(&root.join("folder"));
        });
        assert_eq!(emptied, ["folder/empty: is missing"]);
        let more = difference(|root| {
            fs::write(root.join("more\n"), "").unwrap();
            still(root);
        });
        assert_eq!(more, ["more\\u{a}: was not there before"]);
        let elsewhere = difference(|root| {
            fs::remove_file(root.join("link")).unwrap();
            std::os::unix::fs::symlink("folder", root.join("link")).unwrap();
            still(root);
        });
        assert_eq!(elsewhere, ["link: points elsewhere"]);
        let kind = difference(|root| {
            fs::remove_file(root.join("link")).unwrap();
            fs::write(root.join("link"), "").unwrap();
            still(root);
        });
        assert_eq!(kind, ["link: is of another kind"]);
    }

    #[test]
    fn single_files_compare_too() {
        let (_scratch, left, right) = twins();
        assert_eq!(compare(&left.join("folder/file"), &right.join("folder/file")).unwrap().files, 1);
    }

    #[test]
    fn the_sample_is_the_same_but_for_the_times_of_directories() {
        let scratch = Scratch::new("kin-test").unwrap();
        let (left, right) = (scratch.path().join("a"), scratch.path().join("b"));
        generate(&left).unwrap();
        generate(&right).unwrap();
        let found = compare(&left, &right).unwrap();
        assert!(found.files > 330 && found.bytes > 24 << 20, "{found:?}");
        assert!(found.named.iter().all(|line| line.ends_with("modification time")), "{found:?}");
        assert!(fs::metadata(left.join("run.sh")).unwrap().mode() & EXECUTABLE != 0);
    }
}
