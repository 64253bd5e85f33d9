//! What a crash left behind.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use protocol_core::ids::TransferId;
use protocol_core::limits::PATH_DEPTH;
use rustix::fs::{AtFlags, Dir, FileType, statat, unlinkat};

use super::names::is_temp_of;
use super::place::open_directory;
use super::{Destination, FileFault};

/// Removes the temporary files of `transfer` in `directory` itself and in the trees of its items `tops`
/// ([`super::Incoming::top_names`]). Returns how many there were.
///
/// Follows no link and removes only regular files and links of this user whose names
/// only this transfer gives. What cannot be read is passed over.
///
/// # Errors
/// [`FileFault`] if `directory` cannot be opened.
// HOST-8.
pub fn sweep(directory: &Path, transfer: TransferId, tops: &[Vec<u8>]) -> Result<usize, FileFault> {
    let destination = Destination::open(directory)?;
    let root = destination.root.as_fd();
    let mut count = 0;
    sweep_one(root, transfer, &mut count);
    for top in tops {
        if let Ok(handle) = super::open_beneath(root, &[top], super::DIRECTORY) {
            sweep_tree(handle, transfer, &mut count);
        }
    }
    Ok(count)
}

/// Removes the temporary files in one directory; returns the names of the directories in it.
fn sweep_one(directory: BorrowedFd<'_>, transfer: TransferId, count: &mut usize) -> Vec<Vec<u8>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if is_temp_of(transfer, name) {
            let removed = remove_ours(directory, OsStr::from_bytes(name));
            *count += usize::from(removed.is_ok());
        } else if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            directories.push(name.to_vec());
        }
    }
    directories
}

fn sweep_tree(top: OwnedFd, transfer: TransferId, count: &mut usize) {
    let names = sweep_one(top.as_fd(), transfer, count);
    let mut way = vec![(top, names)];
    while let Some((directory, names)) = way.last_mut() {
        let Some(name) = names.pop() else {
            way.pop();
            continue;
        };
        let below = open_directory(directory, OsStr::from_bytes(&name));
        if let Ok(below) = below
            && way.len() < PATH_DEPTH
        {
            let names = sweep_one(below.as_fd(), transfer, count);
            way.push((below, names));
        }
    }
}

fn remove_ours(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), FileFault> {
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if matches!(kind, FileType::RegularFile | FileType::Symlink) && stat.st_uid == rustix::process::geteuid().as_raw() {
        Ok(unlinkat(directory, name, AtFlags::empty())?)
    } else {
        Err(FileFault::Exists)
    }
}
