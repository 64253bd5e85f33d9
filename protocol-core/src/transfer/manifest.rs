//! What is offered: a sorted list of entries, in pages (PROTOCOL.md, section 9.5).

use alloc::vec::Vec;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, wire value 0.
    File,
    /// A directory, wire value 1.
    Directory,
    /// A symbolic link, wire value 2.
    Symlink,
}

/// One entry of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path's components, outermost first: 1 to 255 bytes each, not `.` or `..`, without `/` and NUL. Not always UTF-8.
    pub components: Vec<Vec<u8>>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file; 0 for all else.
    pub size: u64,
    /// Permission bits, ≤ 0o7777; only 0o777 is ever applied.
    pub mode: u16,
    /// Modification time, seconds since 1970 (may be negative).
    pub mtime_s: i64,
    /// Nanoseconds on top, < 10^9.
    pub mtime_ns: u32,
    /// Where a symlink points: 1 to 4095 bytes without NUL; `None` exactly if this is no symlink.
    pub target: Option<Vec<u8>>,
}
