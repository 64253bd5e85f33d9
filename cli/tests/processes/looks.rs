//! Trees, and how they look.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::random::Random;

/// A tree and how it looks: kinds, modes, times and content.
pub(crate) type Looks = BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>;

pub(crate) fn looks(root: &Path) -> Looks {
    let mut found = Looks::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let seen = fs::symlink_metadata(&path).unwrap();
        let content = match seen.file_type() {
            kind if kind.is_file() => blake3::hash(&fs::read(&path).unwrap()).as_bytes().to_vec(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        if seen.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let mode = if seen.is_symlink() { 0 } else { seen.mode() & 0o777 };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), (mode, seen.mtime(), seen.mtime_nsec(), content));
    }
    found
}

/// Temporary files below a directory.
pub(crate) fn temporaries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(".kin-") {
                found.push(path);
            } else if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    found
}

pub(crate) fn big(random: &mut Random, root: &Path, bytes: usize) {
    fs::create_dir_all(root).unwrap();
    fs::write(root.join("big"), random.bytes(bytes)).unwrap();
}

pub(crate) fn small(random: &mut Random, root: &Path, files: usize) {
    for number in 0..files {
        let directory = root.join(format!("d{}", number % 20));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{number}")), random.bytes(number % 4096)).unwrap();
    }
}

/// Large and small files, empty ones, empty directories, links, a file that only its owner may read.
pub(crate) fn mixed(random: &mut Random, root: &Path, scale: usize) {
    big(random, &root.join("deep/er"), scale * 700_001);
    small(random, &root.join("many"), scale * 8);
    for number in 0..4 {
        fs::write(root.join(format!("middle{number}")), random.bytes(300_000 + number)).unwrap();
    }
    fs::write(root.join("nothing"), "").unwrap();
    fs::create_dir_all(root.join("empty/inside")).unwrap();
    symlink("../nothing", root.join("deep/link")).unwrap();
    fs::set_permissions(root.join("nothing"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A number of an event.
pub(crate) fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap()
}
