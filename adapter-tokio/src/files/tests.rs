//! Hostile and ordinary situations on a real file system.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol_core::ids::TransferId;
use protocol_core::transfer::manifest::{Entry, EntryKind};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::names::temp_name;
use super::*;
use crate::testing::TempDir;
use std::os::fd::AsFd as _;

mod arrival;
mod resume;
mod round_trip;
mod walking;

const TRANSFER: TransferId = TransferId([0xab; 16]);

fn entry(path: &str, kind: EntryKind) -> Entry {
    let components = path.split('/').map(|component| component.as_bytes().to_vec()).collect();
    Entry { components, kind, size: 0, mode: 0o644, mtime_s: 1_000, mtime_ns: 5, target: None }
}

fn file(path: &str, size: u64) -> Entry {
    Entry { size, ..entry(path, EntryKind::File) }
}

fn dir(path: &str) -> Entry {
    Entry { mode: 0o755, ..entry(path, EntryKind::Directory) }
}

fn link(path: &str, target: &str) -> Entry {
    Entry { target: Some(target.as_bytes().to_vec()), ..entry(path, EntryKind::Symlink) }
}

fn incoming(directory: &Path, entries: Vec<Entry>) -> Incoming {
    try_incoming(directory, entries).unwrap()
}

fn try_incoming(directory: &Path, entries: Vec<Entry>) -> Result<Incoming, FileFault> {
    Incoming::new(Arc::new(Destination::open(directory)?), TRANSFER, Arc::new(entries))
}

fn count(transfer: &Incoming) -> u32 {
    u32::try_from(transfer.entries().len()).unwrap()
}

type Outcomes = Vec<(u32, Result<Published, FileFault>)>;

/// Everything after `inspect`: every file gets `size` bytes of its index. The outcomes of all entries, in order.
fn receive(transfer: &Incoming) -> Outcomes {
    let all = 0..count(transfer);
    let failed: BTreeMap<u32, FileFault> = transfer.prepare(all.clone()).into_iter().collect();
    let mut outcomes = Outcomes::new();
    for (index, entry) in (0..).zip(transfer.entries()) {
        let bytes = vec![u8::try_from(index % 251).unwrap(); usize::try_from(entry.size).unwrap()];
        if entry.kind == EntryKind::File && !failed.contains_key(&index) && !bytes.is_empty() {
            transfer.write_at(index, 0, &bytes).unwrap_or(());
        }
    }
    transfer.sync(all.clone());
    outcomes.extend(transfer.publish_range(all, false));
    outcomes.extend(transfer.finish(false));
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn temp(index: u32) -> String {
    temp_name(TRANSFER, index)
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: 0 },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
