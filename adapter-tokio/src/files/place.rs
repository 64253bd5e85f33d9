//! Directories and temporary files: everything before an entry has its final name.

use core::ops::Range;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

use protocol_core::transfer::manifest::{Entry, EntryKind};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps, fchmod, ftruncate, futimens, mkdirat, openat, seek, unlinkat,
};
use rustix::io::Errno;

use super::dest::{Incoming, ROOT, State, Temp, existing, seen};
use super::names::temp_name;
use super::{DIRECTORY, FileFault};

/// Threads that sync files side by side.
const SYNCS_AT_ONCE: usize = 8;
/// So many files are flushed together.
const MANY: usize = 64;
/// Files from this size on get holes where they have only zeros.
const SPARSE_FROM: u64 = 128 << 10;
/// What is a hole or not, in bytes: the blocks of most file systems.
const BLOCK: usize = 4 << 10;
/// Modes while an entry is not published.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;

impl Incoming {
    /// Makes the directories and the empty files' temporaries among `entries`, in order. Returns those that failed, with all
    /// below them.
    pub fn prepare(&self, entries: Range<u32>) -> Vec<(u32, FileFault)> {
        entries.filter_map(|entry| self.prepare_one(entry).err().map(|fault| (entry, fault))).collect()
    }

    fn prepare_one(&self, index: u32) -> Result<(), FileFault> {
        let entry = self.entry(index)?;
        let mut state = self.state();
        Self::usable(&state, index)?;
        if state.published.contains(&index) {
            // It stands there since an earlier try.
            return Ok(());
        }
        let parent = self.parent(index)?;
        if let Some(fault) = state.broken.get(&parent).copied() {
            state.broken.insert(index, fault);
            return Err(fault);
        }
        match entry.kind {
            EntryKind::Directory => {
                let made = self.make_directory(&mut state, index, parent);
                if let Err(fault) = made {
                    state.broken.insert(index, fault);
                }
                made
            }
            EntryKind::File if entry.size == 0 => self.writer_in(&mut state, index).map(drop),
            EntryKind::File | EntryKind::Symlink => Ok(()),
        }
    }

    /// The directories among `entries` that `prepare` has to make: to be noted before the first of them is made.
    pub(crate) fn will_make(&self, entries: Range<u32>) -> BTreeSet<u32> {
        let mut missing = BTreeSet::new();
        for index in entries {
            let mut state = self.state();
            let is_directory = self.entry(index).is_ok_and(|entry| entry.kind == EntryKind::Directory);
            if !is_directory || Self::usable(&state, index).is_err() {
                continue;
            }
            let Ok(parent) = self.parent(index) else { continue };
            let there = |state: &mut State| -> Result<bool, FileFault> {
                let above = self.directory(state, parent)?;
                Ok(existing(&above, self.name(state, index)?)?.is_some())
            };
            if missing.contains(&parent) || there(&mut state) == Ok(false) {
                missing.insert(index);
            }
        }
        missing
    }

    fn make_directory(&self, state: &mut State, index: u32, parent: u32) -> Result<(), FileFault> {
        let above = self.directory(state, parent)?;
        let name = self.name(state, index)?;
        match mkdirat(&above, name, PRIVATE_DIRECTORY) {
            Ok(()) => {
                state.made.insert(index);
                state.touched.insert(parent);
                Ok(())
            }
            Err(Errno::EXIST) => {
                // A directory that is there is merged; a link to one is not followed.
                let found = existing(&above, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
                if found == Some(FileType::Directory) { Ok(()) } else { Err(FileFault::Exists) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The temporary file of an entry, open for reading and writing; made at the first call.
    ///
    /// It counts as written to from now on until the next `sync`: whoever writes after a sync asks for it again. At most 64
    /// stay open.
    ///
    /// # Errors
    /// [`FileFault::Exists`] if something that is not ours has the temporary name, [`FileFault::Changed`] if the file was
    /// replaced meanwhile, [`FileFault::NotFound`] after `discard`, and those of the system.
    pub fn writer(&self, entry: u32) -> Result<Arc<File>, FileFault> {
        self.writer_in(&mut self.state(), entry)
    }

    fn writer_in(&self, state: &mut State, index: u32) -> Result<Arc<File>, FileFault> {
        let file = self.temp_file(state, index)?;
        if let Some(temp) = state.temps.get_mut(&index) {
            temp.dirty = true;
        }
        Ok(file)
    }

    /// The temporary file of an entry, as it is.
    pub(super) fn temp_file(&self, state: &mut State, index: u32) -> Result<Arc<File>, FileFault> {
        Self::usable(state, index)?;
        if self.entry(index)?.kind != EntryKind::File || state.published.contains(&index) {
            return Err(FileFault::Unsafe);
        }
        if let Some((file, asked)) = state.open.get_mut(&index) {
            state.asked += 1;
            *asked = state.asked;
            return Ok(Arc::clone(file));
        }
        let directory = self.directory(state, self.parent(index)?)?;
        let name = temp_name(self.transfer, index);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match state.temps.get(&index) {
            Some(temp) => {
                let file = openat(&directory, &name, flags, Mode::empty())?;
                if !seen(&file)?.same_object(&temp.seen) {
                    return Err(FileFault::Changed);
                }
                file
            }
            None => {
                let make = || openat(&directory, &name, flags | OFlags::CREATE | OFlags::EXCL, PRIVATE_FILE);
                let file = match make() {
                    Err(Errno::EXIST) => {
                        remove_stale(&directory, &name)?;
                        make()?
                    }
                    answer => answer?,
                };
                let size = self.entry(index)?.size;
                if size >= SPARSE_FROM {
                    // At once, before anybody writes: what is left out as a hole must not decide how long the file is.
                    ftruncate(&file, size)?;
                }
                state.temps.insert(index, Temp { seen: seen(&file)?, dirty: true });
                file
            }
        };
        let file = Arc::new(File::from(file));
        Self::keep_open(state, index, &file);
        Ok(file)
    }

    /// Writes `bytes` of an entry at `offset` into its temporary file; blocks of zeros in a file that is not small stay holes.
    ///
    /// # Errors
    /// [`FileFault::Unsafe`] if they do not lie within the entry's size; those of [`Self::writer`] and of the system.
    pub fn write_at(&self, entry: u32, offset: u64, bytes: &[u8]) -> Result<(), FileFault> {
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| self.entry(entry).is_ok_and(|entry| end > entry.size)) {
            return Err(FileFault::Unsafe);
        }
        let file = self.writer(entry)?;
        if self.entry(entry)?.size >= SPARSE_FROM {
            write_sparse(&file, offset, bytes)?;
        } else {
            file.write_all_at(bytes, offset)?;
        }
        self.note_written(entry, offset..end.unwrap_or(offset));
        Ok(())
    }

    /// These bytes of an entry were written.
    pub(super) fn note_written(&self, entry: u32, bytes: Range<u64>) {
        let mut state = self.state();
        if let Some(temp) = state.temps.get_mut(&entry) {
            // Again: a sync may have come between, and flushed what was there before.
            temp.dirty = true;
        }
        if !bytes.is_empty() {
            state.written.entry(entry).or_default().insert(bytes);
        }
    }

    /// Makes what was written to the temporary files of `entries` durable. Returns those that failed; a failed one is lost
    /// for this transfer, whatever a second sync would say.
    ///
    /// Many files are flushed by one flush of their whole file system, where the system has such a call and it succeeds.
    // HOST-9.
    pub fn sync(&self, entries: Range<u32>) -> Vec<(u32, FileFault)> {
        let dirty: Vec<u32> = {
            let state = self.state();
            state.temps.range(entries).filter(|(_, temp)| temp.dirty).map(|(entry, _)| *entry).collect()
        };
        if dirty.len() < MANY || !self.destination.flushes_all() {
            return self.side_by_side(&dirty, |entry| self.sync_one(entry));
        }
        let mut failed = self.side_by_side(&dirty, |entry| self.settle(entry).map(drop));
        if self.flush_all().is_err() {
            // Which of them it was is found out one by one.
            let left: Vec<u32> = dirty.into_iter().filter(|entry| failed.iter().all(|(other, _)| other != entry)).collect();
            failed.extend(self.side_by_side(&left, |entry| self.sync_one(entry)));
        }
        failed
    }

    /// Does something to each entry, on several threads; which failed.
    fn side_by_side(&self, entries: &[u32], each: impl Fn(u32) -> Result<(), FileFault> + Sync) -> Vec<(u32, FileFault)> {
        let each = |part: &[u32]| -> Vec<(u32, FileFault)> {
            part.iter().filter_map(|entry| each(*entry).err().map(|fault| (*entry, fault))).collect()
        };
        if entries.len() <= SYNCS_AT_ONCE {
            return each(entries);
        }
        // Flushes that wait together share the file system's journal commits.
        std::thread::scope(|scope| {
            let parts = entries.chunks(entries.len().div_ceil(SYNCS_AT_ONCE));
            let each = &each;
            let threads: Vec<_> = parts.map(|part| (part, Builder::new().spawn_scoped(scope, move || each(part)))).collect();
            let outcome = |(part, thread): (&[u32], io::Result<ScopedJoinHandle<'_, _>>)| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| part.iter().map(|entry| (*entry, FileFault::Io(0))).collect()),
                // The system has no thread left.
                Err(_) => each(part),
            };
            threads.into_iter().flat_map(outcome).collect()
        })
    }

    /// Flushes the file system that the destination is on, if that is as good as flushing its files.
    #[cfg(target_os = "linux")]
    fn flush_all(&self) -> Result<(), FileFault> {
        Ok(rustix::fs::syncfs(&self.destination.root)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn flush_all(&self) -> Result<(), FileFault> {
        Err(FileFault::Io(0))
    }

    /// Sets time and mode, so that the same flush makes them durable and publishing needs no second one.
    fn settle(&self, index: u32) -> Result<Arc<File>, FileFault> {
        let entry = self.entry(index)?;
        let file = {
            let mut state = self.state();
            let file = self.temp_file(&mut state, index)?;
            if let Some(temp) = state.temps.get_mut(&index) {
                temp.dirty = false;
            }
            file
        };
        let settled = fchmod(&file, self.destination.mode(entry) | PRIVATE_FILE).and_then(|()| futimens(&file, &times(entry)));
        settled.map_err(|error| self.break_off(index, error))?;
        Ok(file)
    }

    // HOST-9.
    pub(super) fn sync_one(&self, index: u32) -> Result<(), FileFault> {
        let file = self.settle(index)?;
        rustix::fs::fsync(&file).map_err(|error| self.break_off(index, error))
    }

    /// What was written to a temporary file may be lost.
    fn break_off(&self, index: u32, error: Errno) -> FileFault {
        let mut state = self.state();
        state.open.remove(&index);
        state.broken.insert(index, error.into());
        error.into()
    }

    /// Removes all temporary files of this transfer, and the directories that it made, that are empty and were not published.
    /// Nothing can be written afterwards. Published entries stay, empty directories among them.
    pub fn discard(&self) {
        let mut state = self.state();
        state.discarded = true;
        state.open.clear();
        for (entry, index) in self.entries().iter().zip(0..ROOT) {
            if entry.kind != EntryKind::Directory && !state.published.contains(&index) {
                // What is not ours, or not there, stays as it is: there is nobody to tell.
                if let Ok(directory) = self.parent(index).and_then(|parent| self.directory(&mut state, parent)) {
                    remove_stale(&directory, &temp_name(self.transfer, index)).ok();
                }
            }
        }
        Self::close_all(&mut state);
        let made: Vec<u32> = state.made.iter().rev().copied().filter(|index| !state.published.contains(index)).collect();
        for index in made {
            let removed = self.parent(index).and_then(|parent| {
                let above = self.directory(&mut state, parent)?;
                Ok(unlinkat(&above, self.name(&state, index)?, AtFlags::REMOVEDIR)?)
            });
            if removed.is_ok() {
                state.made.remove(&index);
            }
        }
        state.temps.clear();
        Self::close_all(&mut state);
    }

    /// Syncs every directory in which a name changed since the last call.
    ///
    /// # Errors
    /// The first fault: then no name of this batch can be called durable.
    pub fn sync_dirs(&self) -> Result<(), FileFault> {
        let touched = std::mem::take(&mut self.state().touched);
        let mut outcome = Ok(());
        // Deepest first: a name is durable before the one that leads to it.
        let root = touched.contains(&ROOT).then_some(ROOT);
        for index in touched.into_iter().filter(|index| *index != ROOT).rev().chain(root) {
            let directory = self.directory(&mut self.state(), index);
            outcome = outcome.and(directory.and_then(|directory| Ok(rustix::fs::fsync(&directory)?)));
        }
        outcome
    }
}

/// Removes a temporary file (or link) of an earlier try: one of ours, never what somebody else put there.
pub(super) fn remove_stale(directory: &impl std::os::fd::AsFd, name: &str) -> Result<(), FileFault> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_uid == rustix::process::geteuid().as_raw();
    if ours { Ok(unlinkat(directory, name, AtFlags::empty())?) } else { Err(FileFault::Exists) }
}

/// Writes what does not stay a hole. The file is long enough already.
// HOST-25.
fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> Result<(), FileFault> {
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let (len, zero) = first_run(at, rest);
        let (run, behind) = rest.split_at(len);
        // What was there may be of a chunk that did not hold what it should.
        if !zero || !is_hole(file, at, len as u64)? {
            file.write_all_at(run, at)?;
        }
        at += len as u64;
        rest = behind;
    }
    Ok(())
}

/// How long the beginning of `bytes`, which lie at `offset`, is in which all blocks of the file have only zeros, or none has; and which.
fn first_run(offset: u64, bytes: &[u8]) -> (usize, bool) {
    let block = |at: usize| {
        let before = usize::try_from((offset + at as u64) % BLOCK as u64).unwrap_or(0);
        bytes.get(at..bytes.len().min(at + BLOCK - before)).unwrap_or_default()
    };
    let zero = is_zero(block(0));
    let mut len = block(0).len();
    while !block(len).is_empty() && is_zero(block(len)) == zero {
        len += block(len).len();
    }
    (len, zero)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|some| some.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Whether the file has nothing there yet.
fn is_hole(file: &File, offset: u64, len: u64) -> Result<bool, FileFault> {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data >= offset + len),
        // Nothing from there on.
        Err(Errno::NXIO) => Ok(true),
        // The file system does not tell.
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The modification time of an entry; the access time stays.
pub(super) fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.mtime_s, tv_nsec: entry.mtime_ns.into() },
    }
}

/// Opens a directory by its one name in another.
// PATH-7.
pub(super) fn open_directory(above: &impl std::os::fd::AsFd, name: &std::ffi::OsStr) -> Result<std::os::fd::OwnedFd, FileFault> {
    Ok(openat(above, name, DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}
