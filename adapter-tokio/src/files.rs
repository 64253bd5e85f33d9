//! Files: what is sent is walked and read ([`mod@scan`]), what arrives stays below one chosen directory ([`dest`]).
//!
//! Every path is resolved from a directory handle, component by component and without following a symbolic link, so that
//! neither a peer's name nor a link that somebody puts in place meanwhile leads anywhere else.

use core::fmt;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags, Stat, openat};
use rustix::io::Errno;

pub mod dest;
mod inspect;
mod names;
mod place;
mod publish;
mod resume;
pub mod scan;
mod select;
mod sweep;
#[cfg(test)]
mod tests;

pub use dest::{Destination, Incoming};
pub use inspect::{CannotHold, ConflictPolicy, Verdict};
pub use publish::Published;
pub(crate) use resume::{Entries, Taken};
pub use scan::{Scan, ScanError, SkipReason, Source, SourceFile, scan};
pub use select::{Selection, SymlinkPolicy};
pub use sweep::sweep;

/// Why an operation on a file failed.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// No space, or no quota, is left.
    DiskFull,
    /// Permission is missing.
    Denied,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The disk or its file system fails, by the system's number: an input/output error, a device or server that is gone.
    Failing(i32),
    /// Nothing has this name (any more).
    NotFound,
    /// Something else has this name.
    Exists,
    /// A link or another object stands where a directory or file of ours should, or a name or position is not allowed.
    Unsafe,
    /// The file is not the one that was seen before.
    Changed,
    /// Any other error number of the system.
    Io(i32),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull => f.write_str("the disk is full"),
            Self::Denied => f.write_str("permission denied"),
            Self::ReadOnly => f.write_str("the file system is read-only"),
            Self::NotFound => f.write_str("not found"),
            Self::Exists => f.write_str("something with this name exists"),
            Self::Unsafe => f.write_str("unsafe path: a link or another object is in the way"),
            Self::Changed => f.write_str("changed meanwhile"),
            Self::Failing(code) | Self::Io(code) => write!(f, "{}", io::Error::from_raw_os_error(*code)),
        }
    }
}

impl core::error::Error for FileFault {}

impl From<Errno> for FileFault {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC | Errno::DQUOT => Self::DiskFull,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::ROFS => Self::ReadOnly,
            other if is_of_device(other) => Self::Failing(other.raw_os_error()),
            Errno::NOENT => Self::NotFound,
            Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR => Self::Exists,
            Errno::LOOP | Errno::XDEV | Errno::NOTDIR => Self::Unsafe,
            other => Self::Io(other.raw_os_error()),
        }
    }
}

/// Whether it is the device or the server below a file system that fails, or the file system itself.
const fn is_of_device(error: Errno) -> bool {
    let anywhere = matches!(
        error,
        Errno::IO | Errno::NXIO | Errno::NODEV | Errno::STALE | Errno::NOTCONN | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::HOSTUNREACH
    );
    #[cfg(target_os = "linux")]
    let here = matches!(error, Errno::UCLEAN | Errno::BADMSG | Errno::NOMEDIUM | Errno::REMOTEIO | Errno::NOLINK);
    #[cfg(not(target_os = "linux"))]
    let here = false;
    anywhere || here
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            // `write_all` reports a disk that takes nothing without an error number.
            None if error.kind() == io::ErrorKind::WriteZero => Self::DiskFull,
            None => Self::Io(0),
        }
    }
}

/// Which object, and in which state: what tells that a file is still the one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time: seconds since 1970, and nanoseconds on top.
    pub mtime: (i64, u32),
    /// Change time, likewise. Nobody can set it back.
    pub ctime: (i64, u32),
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        Self {
            device: wide(stat.st_dev),
            inode: wide(stat.st_ino),
            size: wide(stat.st_size),
            mtime: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            ctime: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    fn same_object(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The system's integers have other widths on other systems; none of these is ever negative.
fn wide(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(0)
}

fn nanoseconds(value: impl TryInto<u32>) -> u32 {
    value.try_into().ok().filter(|ns| *ns < 1_000_000_000).unwrap_or(0)
}

/// How a directory on the way to something else is opened.
#[cfg(target_os = "linux")]
const WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const WAY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a directory is opened that is read or synced.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens what `path` names below `root`: no component may be a link, `.` or `..`. An empty path is `root` itself.
fn open_beneath(root: BorrowedFd<'_>, path: &[&[u8]], flags: OFlags) -> Result<OwnedFd, FileFault> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for component in path {
        names::safe_name(component)?;
    }
    #[cfg(target_os = "linux")]
    if !path.is_empty()
        && let Some(answer) = open_at_once(root, path, flags)
    {
        return Ok(answer?);
    }
    open_by_component(root, path, flags)
}

/// The same where it takes one call a component; `flags` include `NOFOLLOW`.
fn open_by_component(root: BorrowedFd<'_>, path: &[&[u8]], flags: OFlags) -> Result<OwnedFd, FileFault> {
    let Some((last, way)) = path.split_last() else {
        return Ok(openat(root, ".", flags, Mode::empty())?);
    };
    let mut at: Option<OwnedFd> = None;
    for component in way {
        let here = at.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
        at = Some(openat(here, OsStr::from_bytes(component), WAY, Mode::empty())?);
    }
    let here = at.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
    Ok(openat(here, OsStr::from_bytes(last), flags, Mode::empty())?)
}

/// The whole path in one call of the kernel; `None` where the kernel cannot, or not now.
#[cfg(target_os = "linux")]
fn open_at_once(root: BorrowedFd<'_>, path: &[&[u8]], flags: OFlags) -> Option<Result<OwnedFd, Errno>> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let joined = path.join(&b'/');
    // The kernel answers AGAIN whenever something is renamed anywhere on the system meanwhile.
    for _ in 0..16 {
        match openat2(root, OsStr::from_bytes(&joined), flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // An old kernel, a sandbox, or a path longer than one call takes.
            Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => return None,
            answer => return Some(answer),
        }
    }
    None
}
