//! Final names: given once the content is durable, and never over anything that was not agreed on.

use core::ops::Range;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use protocol_core::transfer::manifest::{Entry, EntryKind};
use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, fchmod, fstat, futimens, linkat, readlinkat, renameat, renameat_with, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::FileFault;
use super::dest::{Incoming, ROOT, existing};
use super::inspect::Verdict;
use super::names::temp_name;
use super::place::times;
use crate::journal::Inode;

/// An entry has its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The components of its path in the destination, if they are not the manifest's.
    pub renamed_to: Option<Vec<Vec<u8>>>,
}

impl Incoming {
    /// Publishes the files among `entries` and syncs the directories they are in. Links and directories wait for
    /// [`Self::finish`]; entries that do not arrive by `inspect` are left out.
    ///
    /// `replace` agrees to replacing files and links for the whole range, beside what the policy allowed.
    pub fn publish_range(&self, entries: Range<u32>, replace: bool) -> Vec<(u32, Result<Published, FileFault>)> {
        self.publish_kind(entries, EntryKind::File, replace)
    }

    /// When all files are published: makes the links, then gives the directories that this transfer made their modes and
    /// times, deepest first, and syncs all of it. Returns the outcome of every link and directory that was to arrive.
    pub fn finish(&self, replace: bool) -> Vec<(u32, Result<Published, FileFault>)> {
        let count = u32::try_from(self.entries().len()).unwrap_or(ROOT);
        let mut outcomes = self.publish_kind(0..count, EntryKind::Symlink, replace);
        let directories = (0..count).rev().filter(|index| self.arrives(*index, EntryKind::Directory));
        outcomes.extend(directories.map(|index| (index, self.publish(index, replace))));
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes
    }

    fn publish_kind(&self, entries: Range<u32>, kind: EntryKind, replace: bool) -> Vec<(u32, Result<Published, FileFault>)> {
        let wanted = entries.filter(|index| self.arrives(*index, kind));
        let mut outcomes: Vec<_> = wanted.map(|index| (index, self.publish(index, replace))).collect();
        if let Err(fault) = self.sync_dirs() {
            // Their names may be lost in a crash, and a later sync would not tell.
            let mut state = self.state();
            for (index, outcome) in &mut outcomes {
                state.broken.insert(*index, fault);
                *outcome = Err(fault);
            }
        }
        outcomes
    }

    fn arrives(&self, index: u32, kind: EntryKind) -> bool {
        let arrives = |verdict: &Verdict| matches!(verdict, Verdict::Renamed(_) | Verdict::Replaces | Verdict::Conflict);
        self.entry(index).is_ok_and(|entry| entry.kind == kind) && self.state().verdicts.get(&index).is_none_or(arrives)
    }

    /// Gives one entry its final name. The directory that it is in still has to be synced, by [`Self::sync_dirs`].
    ///
    /// # Errors
    /// [`FileFault::Exists`] if something has the name and may not be replaced, [`FileFault::NotFound`] if nothing was
    /// written, [`FileFault::Changed`] if the file has not the size of its entry; those of the system. Nothing has the final
    /// name then, or what had it before.
    pub fn publish(&self, index: u32, replace: bool) -> Result<Published, FileFault> {
        let entry = self.entry(index)?;
        let (published, replace, renamed_to) = {
            let state = self.state();
            Self::usable(&state, index)?;
            let (path, renamed) = self.path(&state, index)?;
            let renamed_to = renamed.then(|| path.into_iter().map(<[u8]>::to_vec).collect());
            let replace = replace || state.verdicts.get(&index) == Some(&Verdict::Replaces);
            (state.published.contains(&index), replace, renamed_to)
        };
        if !published {
            match entry.kind {
                EntryKind::File => self.publish_file(index, entry, replace)?,
                EntryKind::Symlink => self.publish_link(index, entry, replace)?,
                EntryKind::Directory => self.publish_directory(index, entry)?,
            }
            self.state().published.insert(index);
        }
        Ok(Published { renamed_to })
    }

    fn publish_file(&self, index: u32, entry: &Entry, replace: bool) -> Result<(), FileFault> {
        let (file, dirty, directory, parent) = {
            let mut state = self.state();
            if entry.size > 0 && !state.temps.contains_key(&index) {
                return Err(FileFault::NotFound);
            }
            let file = self.temp_file(&mut state, index)?;
            let dirty = state.temps.get(&index).is_some_and(|temp| temp.dirty);
            let parent = self.parent(index)?;
            (file, dirty, self.directory(&mut state, parent)?, parent)
        };
        if u64::try_from(fstat(&file)?.st_size) != Ok(entry.size) {
            return Err(FileFault::Changed);
        }
        if dirty {
            self.sync_one(index)?;
        }
        let mode = self.destination.mode(entry);
        if !mode.contains(Mode::RUSR | Mode::WUSR) {
            fchmod(&file, mode)?;
            rustix::fs::fsync(&file).inspect_err(|error| {
                self.state().broken.insert(index, (*error).into());
            })?;
        }
        let mut state = self.state();
        Self::usable(&state, index)?;
        give_name(&directory, &temp_name(self.transfer, index), self.name(&state, index)?, replace)?;
        state.touched.insert(parent);
        let inode = state.temps.remove(&index).map(|temp| Inode { device: temp.seen.device, inode: temp.seen.inode });
        state.named.extend(inode.map(|inode| (index, inode)));
        state.open.remove(&index);
        Ok(())
    }

    fn publish_link(&self, index: u32, entry: &Entry, replace: bool) -> Result<(), FileFault> {
        let target = entry.target.as_deref().ok_or(FileFault::Unsafe)?;
        let mut state = self.state();
        let parent = self.parent(index)?;
        let directory = self.directory(&mut state, parent)?;
        let temporary = temp_name(self.transfer, index);
        if is_link_to(&directory, self.name(&state, index)?, target) {
            // An earlier try made it, and was ended before it could say so.
            return Ok(());
        }
        symlinkat(target, &directory, &temporary)?;
        let named = utimensat(&directory, &temporary, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(FileFault::from)
            .and_then(|()| give_name(&directory, &temporary, self.name(&state, index)?, replace));
        if named.is_err() {
            unlinkat(&directory, &temporary, AtFlags::empty()).ok();
        }
        named?;
        state.touched.insert(parent);
        Ok(())
    }

    /// A directory has its name since `prepare`; one that was there before keeps its mode and time.
    // XFER-23.
    fn publish_directory(&self, index: u32, entry: &Entry) -> Result<(), FileFault> {
        let mut state = self.state();
        let directory = self.directory(&mut state, index)?;
        if state.made.contains(&index) {
            fchmod(&directory, self.destination.mode(entry))?;
            futimens(&directory, &times(entry))?;
            rustix::fs::fsync(&directory)?;
        }
        Ok(())
    }
}

/// Renames `from` to `to` in one directory. With `replace` a file or a link may stand at `to`, never anything else.
// PATH-9, HOST-7.
fn give_name(directory: &OwnedFd, from: &str, to: &OsStr, replace: bool) -> Result<(), FileFault> {
    let answer = match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // The file system cannot; a hard link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_name(directory, from, to),
        answer => answer,
    };
    if answer != Err(Errno::EXIST) || !replace {
        return Ok(answer?);
    }
    let found = existing(directory, to)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
    match found {
        Some(FileType::RegularFile | FileType::Symlink) | None => Ok(renameat(directory, from, directory, to)?),
        Some(_) => Err(FileFault::Exists),
    }
}

/// Whether `name` is a link with this target.
pub(super) fn is_link_to(directory: &OwnedFd, name: &OsStr, target: &[u8]) -> bool {
    readlinkat(directory, name, Vec::new()).is_ok_and(|found| found.as_bytes() == target)
}

fn link_name(directory: &OwnedFd, from: &str, to: &OsStr) -> Result<(), Errno> {
    linkat(directory, from, directory, to, AtFlags::empty())?;
    unlinkat(directory, from, AtFlags::empty())
}
