//! A folder with everything that tends to go wrong: sizes around borders, strange names, depth, emptiness, times.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Sizes on and beside the borders of chunks and records, and a few that are just big.
const SIZES: [u64; 18] = [
    0,
    1,
    2,
    1000,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    128 * KIB,
    256 * KIB - 1,
    256 * KIB,
    256 * KIB + 1,
    512 * KIB,
    MIB - 1,
    MIB,
    MIB + 1,
    3 * MIB + 12_345,
    4 * MIB,
    16 * MIB + 1,
];
/// Files of a few bytes each.
const SMALL: u64 = 300;
/// Levels of the deep folder.
const DEPTH: usize = 40;
/// A time like that of any file: 2021-03-04, in seconds since 1970.
const OLD: u64 = 1_614_816_000;

/// Fills the new directory `root`.
pub(crate) fn generate(root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    for size in SIZES {
        file(&root.join(format!("size-{size}")), size, size)?;
    }
    for name in names() {
        file(&root.join("names").join(&name), 100 + name.len() as u64, 7)?;
    }
    for number in 0..SMALL {
        file(&root.join(format!("small/{:02}/{number:03}.txt", number % 16)), number * 13 % 4096, number)?;
    }
    let mut deep = root.join("deep");
    for level in 0..DEPTH {
        deep.push(format!("level-{level}"));
    }
    file(&deep.join("at the bottom"), 5000, 11)?;
    fs::create_dir_all(root.join("empty/also empty"))?;
    file(&root.join("run.sh"), 50, 3)?;
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755))?;
    file(&root.join("read-only"), 50, 4)?;
    std::os::unix::fs::symlink("names/plain.txt", root.join("link"))?;
    // Last: a time that was set before something was made inside would be lost, and a file without write permission still has one.
    set_time(&root.join("empty"), Duration::from_secs(OLD))?;
    fs::set_permissions(root.join("read-only"), fs::Permissions::from_mode(0o444))
}

fn names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "plain.txt",
        "Ümläute und Leerzeichen ß.txt",
        "日本語 🙂.txt",
        "a line\nand another",
        "bell\u{7} and escape\u{1b}[2J",
        "-rf",
        "~",
        "back\\slash",
        "\"quotes' and $dollars`",
        ".hidden",
        " space at both ends ",
        "decomposed a\u{308}",
    ]
    .map(OsString::from)
    .into();
    if cfg!(target_os = "linux") {
        names.extend(["Case", "case", "aux.c", "a:b", "question?*"].map(OsString::from));
        names.push(OsStr::from_bytes(b"not utf-8 \xff\xfe").to_owned());
    }
    names
}

/// Writes `size` bytes that depend on `seed`, and a time that does.
fn file(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut content = blake3::Hasher::new().update(b"kin demo").update(&seed.to_le_bytes()).finalize_xof();
    let mut out = File::create_new(path)?;
    let mut block = [0; 64 * KIB as usize];
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len() as u64) as usize;
        content.fill(&mut block[..part]);
        out.write_all(&block[..part])?;
        left -= part as u64;
    }
    drop(out);
    set_time(path, Duration::new(OLD + seed * 61, (seed as u32).wrapping_mul(7_654_321) % 1_000_000_000))
}

fn set_time(path: &Path, since_1970: Duration) -> io::Result<()> {
    File::open(path)?.set_modified(UNIX_EPOCH + since_1970)
}
