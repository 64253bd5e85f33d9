//! Files for this user alone: never reached through a link, replaced as a whole or not at all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, fstat, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::files::FileFault;

/// What opening a private file found.
pub(crate) enum Private {
    /// Nothing has the name.
    Missing,
    /// A link, no regular file, another user's, or accessible to other users.
    Unsafe,
    /// The file, open for reading and writing.
    File(File),
}

/// Opens a file that must be a regular one of this user, with no permission for anybody else.
pub(crate) fn open(path: &Path) -> Result<Private, FileFault> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Private::Missing),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Ok(Private::Unsafe),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & 0o077 == 0;
    Ok(if ours { Private::File(file.into()) } else { Private::Unsafe })
}

/// Reads at most `longest` bytes of `file`, from its start.
///
/// `None` if it is longer.
pub(crate) fn read(file: &File, longest: usize) -> Result<Option<Vec<u8>>, FileFault> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= longest).then_some(bytes))
}

/// Makes a new file with mode 0600. A file that an interrupted try left at `path` is removed first.
pub(crate) fn create(path: &Path) -> Result<File, FileFault> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Whether a file that exists may be replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    No,
    Yes,
}

/// Gives a synced file its name, durably.
pub(crate) fn rename(from: &Path, to: &Path, replace: Replace) -> Result<(), FileFault> {
    match replace {
        Replace::Yes => renameat(CWD, from, CWD, to)?,
        Replace::No => renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?,
    }
    sync_directory(to)
}

/// Makes the names beside `path` durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileFault> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(parent)?.sync_all()?)
}

/// Writes a whole file: after a crash there is all of it, or what was there before.
pub(crate) fn write(path: &Path, bytes: &[u8], replace: Replace) -> Result<(), FileFault> {
    let mut name = path.file_name().unwrap_or(OsStr::new("")).to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let named = written.map_err(FileFault::from).and_then(|()| rename(&temporary, path, replace));
    if named.is_err() {
        unlinkat(CWD, &temporary, AtFlags::empty()).ok();
    }
    named
}
