//! A source tree as the kernel's is, and every name that a Linux file system can hold: it arrives whole, and as it was.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde_json::Value;

use crate::random::{Random, seed};
use crate::stage::{Device, Ended, Stage, strings};

/// Names that a Linux file system holds, and another would not, or a person would not type: stored exactly as they are.
const TEXTS: &[&str] = &[
    // Shells, options, globs, escapes.
    "~",
    "~root",
    "-rf",
    "--",
    "-",
    "$HOME",
    "`id`",
    "*",
    "?",
    "[a]",
    "a;b",
    "a|b",
    "a&b",
    "'",
    "\"",
    "%2e%2e%2f",
    "%00",
    "\\",
    "#a",
    "!",
    // Space and dots, at every end.
    " ",
    " leading",
    "trailing ",
    "...",
    "....",
    ".. ",
    "..a",
    "a..",
    "a. ",
    "b..",
    // Control and direction.
    "a\nb",
    "\n",
    "a\tb",
    "a\rb",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{7}",
    "\u{7f}",
    "\u{202e}txt.exe",
    "\u{200d}",
    "\u{feff}",
    "\u{e000}",
    "\u{378}",
    // Windows: devices, streams, drives, shares, characters, short names.
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CLOCK$",
    "CONIN$",
    "CONOUT$",
    "COM1",
    "COM9",
    "LPT1",
    "LPT9",
    "COM\u{b9}",
    "LPT\u{b3}",
    "aux.c",
    "nul.txt",
    "con.tar.gz",
    "NUL ",
    "a:b",
    "a::$DATA",
    "C:",
    "C:x",
    "C:\\x",
    "\\x",
    "\\\\server\\share",
    "\\\\?\\C:\\x",
    "\\??\\C:\\x",
    "\\\\.\\pipe\\x",
    "..\\..\\x",
    "..\\x",
    "<",
    ">",
    "PROGRA~1",
    // Normal forms and cases of one letter.
    "\u{e9}",
    "e\u{301}",
    "\u{ac01}",
    "\u{1100}\u{1161}\u{11a8}",
    "\u{212b}",
    "\u{c5}",
    "\u{df}",
    "\u{1e9e}",
    "SS",
    "ss",
    "I",
    "\u{131}",
    "\u{130}",
    "i",
    "\u{fb01}",
    "fi",
    "K",
    "\u{212a}",
    "k",
    "README",
    "readme",
    "Readme",
    "\u{3c3}",
    "\u{3c2}",
    "\u{3a3}",
    "\u{13a0}",
    "\u{ab70}",
    ".g\u{200c}it",
    // Not separators.
    "\u{ff0f}",
    "a\u{2215}b",
    "\u{2024}\u{2024}",
    // Hidden, and what programs run or read by themselves.
    ".git",
    ".ssh",
    ".bashrc",
    ".config",
    "desktop.ini",
    "autorun.inf",
    ".htaccess",
    "a (1)",
    "a (1) (1)",
    ".kin",
    ".kin-x.part",
    "kin.lock",
    ".kin-abababababababab-.part",
    ".kin-ABABABABABABABAB-1.part",
];

/// All such names (PATH-5).
fn awkward_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = TEXTS.iter().map(|name| name.as_bytes().to_vec()).collect();
    // Not UTF-8: a lone continuation, an overlong slash, a surrogate, past the last character, cut, Latin-1.
    names.extend(
        [&b"\x80"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82", b"\xff\xfe", b"caf\xe9", b"\xc0\xae\xc0\xae"]
            .map(<[u8]>::to_vec),
    );
    names.extend([143, 144, 254, 255].map(|len| vec![b'n'; len]));
    names.push("\u{e4}".repeat(127).into_bytes());
    names.push([0x80; 255].to_vec());
    names
}

fn then(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
    base + Duration::from_nanos(nanoseconds.into())
}

fn write(path: &Path, content: &[u8], mode: u32, at: SystemTime) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
}

/// Directories of sources with sizes as sources have them: most small, a few large, some empty.
fn make_sources(root: &Path, random: &mut Random) {
    for (number, name) in
        ["arch/x86/boot", "drivers/gpu/drm/nouveau/include/nvkm/core", "fs", "include/uapi/linux", "net/ipv4"].iter().enumerate()
    {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        for file in 0..380 {
            let len = match file % 95 {
                0 => 0,
                1 => 262_144,
                2 => 262_145,
                3 => 1_000_000,
                _ => 200 + random.next() % 6000,
            };
            let (mode, extension) = if file % 19 == 0 { (0o755, "sh") } else { (0o644, ["c", "h", "S"][file % 3]) };
            let at = then(1_100_000_000 + i64::try_from(file).unwrap() * 1000, u32::try_from(number * 7 + file).unwrap());
            write(&directory.join(format!("source_{file}.{extension}")), &random.bytes(usize::try_from(len).unwrap()), mode, at);
        }
        fs::create_dir(directory.join("empty")).unwrap();
    }
}

fn make_tree(root: &Path, random: &mut Random) {
    make_sources(root, random);
    // Names as files, and again as directories with something in them.
    let (files, directories) = (root.join("files"), root.join("directories"));
    fs::create_dir(&files).unwrap();
    fs::create_dir(&directories).unwrap();
    for name in awkward_names() {
        let name = OsStr::from_bytes(&name);
        write(&files.join(name), name.as_bytes(), 0o640, then(1_000_000_000, 1));
        fs::create_dir(directories.join(name)).unwrap();
        write(&directories.join(name).join("x"), b"below", 0o600, then(-1, 999_999_999));
    }
    // As deep as a path may be, the tree's own name included.
    let deep = root.join(vec!["d"; 62].join("/"));
    fs::create_dir_all(&deep).unwrap();
    write(&deep.join("bottom"), b"deep", 0o644, then(0, 0));
    // As long as a path may be that the system still takes whole, with the directories above the tree.
    let long = root.join(vec!["l".repeat(255); 15].join("/"));
    fs::create_dir_all(&long).unwrap();
    write(&long.join("end"), b"long", 0o644, then(0, 0));
    for (number, mode) in [0o444, 0o400, 0o777, 0o700, 0o611, 0o755].into_iter().enumerate() {
        write(&root.join(format!("mode {number}")), b"mode", mode, then(1 << 33, 5));
    }
    for (name, to) in [
        ("to a file", "Makefile"),
        ("to a directory", "fs"),
        ("to nothing yet", "zz"),
        ("include/up", "../fs/source_5.h"),
        ("loop", "loop"),
    ] {
        symlink(to, root.join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(b"files/\x80"), root.join(OsStr::from_bytes(b"link \xff"))).unwrap();
    write(&root.join("Makefile"), b"all:\n", 0o644, then(1_500_000_000, 0));
    write(&root.join("zz"), b"", 0o644, then(1_500_000_000, 0));
    for directory in ["fs/empty", "arch/x86", "files", "directories"] {
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o750)).unwrap();
        File::open(root.join(directory)).unwrap().set_modified(then(1_234_567_890, 12_345)).unwrap();
    }
}

/// What an entry is, with all of it that is to arrive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let (kind, content) = if found.is_symlink() {
            ("link", fs::read_link(&path).unwrap().into_os_string().into_vec())
        } else if found.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ("directory", Vec::new())
        } else {
            ("file", fs::read(&path).unwrap())
        };
        let mode = if kind == "link" { 0 } else { found.mode() & 0o7777 };
        all.insert(path.strip_prefix(root).unwrap().to_owned(), Seen { kind, mode, mtime: (found.mtime(), found.mtime_nsec()), content });
    }
    all
}

/// The path of an event, as bytes.
fn path_of(file: &Value) -> OsString {
    match file["path_base64"].as_str() {
        Some(raw) => OsString::from_vec(BASE64.decode(raw.as_bytes()).unwrap()),
        None => OsString::from(file["path"].as_str().unwrap()),
    }
}

/// Sends `what` from `a` to `b`, who takes everything into `inbox`.
fn send(stage: &Stage, (a, b): (&Device, &Device), what: &str) -> (Ended, Ended) {
    let mut receiving = b.start(&["recv", &stage.text("inbox"), "--once", "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let sent = a.run(&["send", what, "--to", "device b", "--address", &address]);
    (sent, receiving.end())
}

/// The permissions that this user's processes never give.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    u32::from_str_radix(status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim(), 8).unwrap()
}

#[test]
// PATH-5, XFER-23, PATH-8.
fn a_source_tree_with_every_name_arrives_whole() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let root = stage.path("linux");
    fs::create_dir(&root).unwrap();
    make_tree(&root, &mut Random::new(seed()));
    let mut before = tree(&root);
    assert!(before.len() > 2000, "{}", before.len());
    let (sent, received) = send(&stage, (&a, &b), &stage.text("linux"));
    assert_eq!((sent.code, received.code), (0, 0), "{}{}{:?}", sent.words, received.words, received.all("warning"));

    let after = tree(&stage.path("inbox/linux"));
    let missing: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let mask = umask();
    for (path, entry) in &after {
        let Some(original) = before.get_mut(path) else { panic!("{path:?} was never sent") };
        // The receiver's umask applies.
        original.mode &= !mask;
        assert!(original == entry, "{path:?}: {:?} {:o} is {:?} {:o}", original.mtime, original.mode, entry.mtime, entry.mode);
    }
    let digests: BTreeMap<OsString, &Value> = received.all("file").into_iter().map(|file| (path_of(file), &file["blake3"])).collect();
    for side in [&sent, &received] {
        assert_eq!(side.all("file").len(), before.values().filter(|entry| entry.kind == "file").count());
    }
    for (path, entry) in before.iter().filter(|(_, entry)| entry.kind == "file") {
        let named = Path::new("linux").join(path).into_os_string();
        assert_eq!(digests[&named], &Value::from(blake3::hash(&entry.content).to_hex().as_str()), "{path:?}");
    }
}

#[test]
// PATH-10, ID-16.
fn names_are_escaped_where_they_are_shown() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir(stage.path("names")).unwrap();
    for name in ["\u{1b}[31mred", "a\nb", "\u{202e}txt.exe", "\u{7}"] {
        fs::write(stage.path("names").join(name), "x").unwrap();
    }
    // Taken names are listed for people.
    fs::create_dir(stage.path("inbox")).unwrap();
    fs::create_dir(stage.path("inbox/names")).unwrap();
    for name in ["\u{1b}[31mred", "a\nb", "\u{202e}txt.exe", "\u{7}"] {
        fs::write(stage.path("inbox/names").join(name), "y").unwrap();
    }
    // Both without --json: what is looked at is what people see. The sender tries the stored address until somebody is there.
    let mut receiving = b.command();
    receiving.args(["recv", &stage.text("inbox"), "--once", "--yes"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let receiving = receiving.spawn().unwrap();
    let sent = a.command().args(["send", &stage.text("names"), "--to", "device b", "--wait=60s"]).output().unwrap();
    let received = receiving.wait_with_output().unwrap();
    let words = |of: &Output| String::from_utf8([&of.stdout[..], &of.stderr].concat()).unwrap();
    let (sent_words, received_words) = (words(&sent), words(&received));
    assert!(sent.status.success() && received.status.success(), "{sent_words}{received_words}");
    for shown in [&sent_words, &received_words] {
        let strange = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
        assert!(!shown.chars().any(strange), "{shown:?}");
    }
    assert_eq!(received_words.matches("taken here already: ").count(), 4, "{received_words}");
    assert!(received_words.contains(r"names/a\u{a}b"), "{received_words}");
}

#[test]
// PATH-4, PATH-6, PATH-8, XFER-14.
fn what_this_receiver_cannot_hold_fails_alone() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let root = stage.path("mixed");
    let reserved = [".kin-0123456789abcdef-0.part", ".kin-abababababababab-ffffffff.part"];
    fs::create_dir_all(root.join("below")).unwrap();
    for directory in [root.clone(), root.join("below")] {
        reserved.iter().for_each(|name| fs::write(directory.join(name), "ours").unwrap());
        fs::write(directory.join("ordinary"), "theirs").unwrap();
    }
    // A directory of such a name takes along what is in it.
    fs::create_dir(root.join(".kin-0123456789abcdef-1.part")).unwrap();
    fs::write(root.join(".kin-0123456789abcdef-1.part/inside"), "x").unwrap();
    for (name, to) in
        [("absolute", "/etc/passwd"), ("outside", "../../secret"), ("far outside", "below/../../../secret"), ("inside", "below/ordinary")]
    {
        symlink(to, root.join(name)).unwrap();
    }
    let (sent, received) = send(&stage, (&a, &b), &stage.text("mixed"));
    assert_eq!((sent.code, received.code), (11, 11), "{}{}", sent.words, received.words);
    let arrived: Vec<_> = tree(&stage.path("inbox/mixed")).into_keys().map(|path| path.to_str().unwrap().to_owned()).collect();
    assert_eq!(arrived, ["", "below", "below/ordinary", "inside", "ordinary"]);
    let not_stored: Vec<(&str, &str)> = received
        .all("file")
        .into_iter()
        .filter(|file| file["status"] != "stored")
        .map(|file| (file["path"].as_str().unwrap(), file["status"].as_str().unwrap()))
        .collect();
    assert_eq!(not_stored.iter().filter(|(_, status)| *status == "failed").count(), 6, "{not_stored:?}");
    assert_eq!(not_stored.iter().filter(|(_, status)| *status == "skipped").count(), 3, "{not_stored:?}");
    let why: Vec<&str> = received.all("warning").iter().map(|warning| warning["message"].as_str().unwrap()).collect();
    assert!(why.iter().filter(|why| why.contains("cannot hold")).count() >= 5, "{why:?}");
    assert_eq!(received.event("done")["files"], 2);
}
