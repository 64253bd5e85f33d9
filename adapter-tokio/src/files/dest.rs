//! Where files arrive: one chosen directory, and one transfer below it.
//!
//! A transfer goes through `inspect` (what is in the way), `prepare` (directories), writing into temporary files, `sync`,
//! `publish_range` (final names, never over anything that was not agreed on) and `finish` (links, then modes and times of
//! directories). Until an entry is published nothing has its name; `discard`, or `sweep` after a crash, removes the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use protocol_core::ids::TransferId;
use protocol_core::transfer::manifest::{Entry, EntryKind};
use protocol_core::transfer::ranges::Ranges;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fstatvfs, openat, statat, unlinkat};
use rustix::io::Errno;

use super::inspect::Verdict;
use super::names::{fold_key, safe_name, temp_name};
use super::place::remove_stale;
use super::{DIRECTORY, FileFault, Seen, open_beneath};
use crate::journal::Inode;

/// A directory that files arrive in.
#[derive(Debug)]
pub struct Destination {
    pub(super) root: Arc<OwnedFd>,
    path: PathBuf,
    /// Permission bits that are never given.
    umask: u16,
    folds: OnceLock<bool>,
    flushes_all: OnceLock<bool>,
}

impl Destination {
    /// Opens `directory`, which may be reached through links: it is the user's choice.
    ///
    /// # Errors
    /// [`FileFault`] if it does not exist, is no directory, or cannot be opened.
    pub fn open(directory: &Path) -> Result<Self, FileFault> {
        let root = openat(CWD, directory, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self {
            root: Arc::new(root),
            path: directory.to_path_buf(),
            umask: umask(),
            folds: OnceLock::new(),
            flushes_all: OnceLock::new(),
        })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that this user can still write here.
    ///
    /// # Errors
    /// [`FileFault`] if the file system does not tell.
    pub fn free_space(&self) -> Result<u64, FileFault> {
        let stat = fstatvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The longest name that the file system takes, in bytes.
    pub(super) fn longest_name(&self) -> Result<usize, FileFault> {
        Ok(usize::try_from(fstatvfs(&self.root)?.f_namemax).unwrap_or(usize::MAX))
    }

    /// Whether names that differ in case are one name here: a file is made under a temporary name of
    /// the transfer, and looked for in upper case.
    pub(super) fn folds_case(&self, transfer: TransferId) -> Result<bool, FileFault> {
        if let Some(folds) = self.folds.get() {
            return Ok(*folds);
        }
        // No manifest has as many entries: this is no entry's temporary file, and a sweep finds it.
        let name = temp_name(transfer, u32::MAX);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || openat(&self.root, &name, flags, Mode::RUSR | Mode::WUSR);
        match make() {
            Err(Errno::EXIST) => {
                remove_stale(&self.root, &name)?;
                make()?
            }
            answer => answer?,
        };
        let found = statat(&self.root, name.to_ascii_uppercase(), AtFlags::SYMLINK_NOFOLLOW);
        unlinkat(&self.root, &name, AtFlags::empty())?;
        Ok(*self.folds.get_or_init(|| found.is_ok()))
    }

    /// Whether flushing the whole file system makes every file durable, and tells of every error: where the kernel reports them (Linux
    /// 5.8), and the file system is one that keeps its files itself.
    pub(super) fn flushes_all(&self) -> bool {
        *self.flushes_all.get_or_init(|| {
            #[cfg(target_os = "linux")]
            {
                // ext2 to ext4, XFS, Btrfs, F2FS, tmpfs.
                const KNOWN: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];
                let known = rustix::fs::fstatfs(&self.root).is_ok_and(|stat| KNOWN.contains(&super::wide(stat.f_type)));
                known && tells_errors(&rustix::system::uname().release().to_string_lossy())
            }
            #[cfg(not(target_os = "linux"))]
            false
        })
    }

    /// The permission bits that an entry gets.
    pub(super) fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode((entry.mode & 0o777 & !self.umask).into())
    }

    #[cfg(test)]
    pub(super) fn mode_mask(&self) -> u16 {
        self.umask
    }

    #[cfg(test)]
    pub(super) fn pretend_folding(&self) {
        self.folds.set(true).unwrap();
    }
}

/// Whether a kernel of this release reports errors of earlier writes where a file system is flushed.
#[cfg(target_os = "linux")]
fn tells_errors(release: &str) -> bool {
    let mut parts = release.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (5, 8)
}

/// The umask can only be read by setting it, which is visible to other threads; Linux tells it otherwise too.
fn umask() -> u16 {
    let told = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u16::from_str_radix(line.trim(), 8).ok()
    });
    told.unwrap_or_else(|| {
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(mask);
        u16::try_from(mask.bits()).unwrap_or(0o077)
    }) & 0o777
}

/// The parent of a top item: the destination itself.
pub(super) const ROOT: u32 = u32::MAX;
/// Temporary files that are kept open at once.
const OPEN_FILES: usize = 64;
/// Directory handles that are kept open at once.
const OPEN_DIRECTORIES: usize = 64;

/// One transfer below a [`Destination`]. All methods may be called from several threads.
pub struct Incoming {
    pub(super) destination: Arc<Destination>,
    pub(super) transfer: TransferId,
    entries: Arc<dyn AsRef<[Entry]> + Send + Sync>,
    /// For each entry the index of its parent, or [`ROOT`].
    parents: Vec<u32>,
    state: Mutex<State>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("destination", &self.destination.path).field("transfer", &self.transfer).finish_non_exhaustive()
    }
}

/// What is known about a transfer's files.
#[derive(Default)]
pub(super) struct State {
    /// What `inspect` found, for the entries that are exceptions.
    pub(super) verdicts: BTreeMap<u32, Verdict>,
    /// New names of top items.
    pub(super) renamed: BTreeMap<u32, Vec<u8>>,
    /// Top items whose names an earlier try has decided.
    pub(super) decided: BTreeSet<u32>,
    /// Temporary files that exist.
    pub(super) temps: BTreeMap<u32, Temp>,
    /// The open ones among them, and when each was last asked for.
    pub(super) open: BTreeMap<u32, (Arc<File>, u64)>,
    pub(super) asked: u64,
    directories: BTreeMap<u32, Arc<OwnedFd>>,
    /// Directories that this transfer made.
    pub(super) made: BTreeSet<u32>,
    /// Directories in which names changed since the last sync of directories.
    pub(super) touched: BTreeSet<u32>,
    pub(super) published: BTreeSet<u32>,
    /// Entries in whose way stands what an earlier try of the same has put there.
    pub(super) outdated: BTreeSet<u32>,
    /// Bytes that were written since the last checkpoint, and files that were named since somebody asked.
    pub(super) written: BTreeMap<u32, Ranges>,
    pub(super) named: BTreeMap<u32, Inode>,
    /// Entries whose temporary file can no longer be trusted.
    pub(super) broken: BTreeMap<u32, FileFault>,
    pub(super) discarded: bool,
}

/// A temporary file.
#[derive(Clone, Copy)]
pub(super) struct Temp {
    pub(super) seen: Seen,
    /// Whether something was written since the last sync.
    pub(super) dirty: bool,
}

impl Incoming {
    /// A transfer of `entries` (all of a manifest) into `destination`. Touches nothing yet.
    ///
    /// # Errors
    /// [`FileFault::Unsafe`] if the entries are not sorted, an entry's parent is no earlier directory, or a name is illegal.
    pub fn new(
        destination: Arc<Destination>,
        transfer: TransferId,
        entries: Arc<dyn AsRef<[Entry]> + Send + Sync>,
    ) -> Result<Self, FileFault> {
        let parents = parents((*entries).as_ref())?;
        Ok(Self { destination, transfer, entries, parents, state: Mutex::default() })
    }

    /// The entries of the transfer.
    pub fn entries(&self) -> &[Entry] {
        (*self.entries).as_ref()
    }

    /// The names that the top items have, or will have, in the destination: for [`super::sweep`], after `inspect`.
    pub fn top_names(&self) -> Vec<Vec<u8>> {
        let state = self.state();
        let tops = self.parents.iter().zip(0..).filter(|(parent, _)| **parent == ROOT);
        tops.filter_map(|(_, top)| self.name(&state, top).ok().map(|name| name.as_bytes().to_vec())).collect()
    }

    /// Nothing panics while it holds the lock, and no step leaves the state half changed.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn entry(&self, entry: u32) -> Result<&Entry, FileFault> {
        usize::try_from(entry).ok().and_then(|at| self.entries().get(at)).ok_or(FileFault::Unsafe)
    }

    pub(super) fn parent(&self, entry: u32) -> Result<u32, FileFault> {
        usize::try_from(entry).ok().and_then(|at| self.parents.get(at)).copied().ok_or(FileFault::Unsafe)
    }

    /// The last component that an entry has here.
    pub(super) fn name<'a>(&'a self, state: &'a State, entry: u32) -> Result<&'a OsStr, FileFault> {
        let name = match state.renamed.get(&entry) {
            Some(renamed) => renamed,
            None => self.entry(entry)?.components.last().ok_or(FileFault::Unsafe)?,
        };
        safe_name(name)
    }

    /// The components that an entry has here, and whether they differ from the manifest's.
    pub(super) fn path<'a>(&'a self, state: &'a State, entry: u32) -> Result<(Vec<&'a [u8]>, bool), FileFault> {
        let components = &self.entry(entry)?.components;
        let mut path: Vec<&[u8]> = components.iter().map(Vec::as_slice).collect();
        let mut top = entry;
        for _ in 1..components.len() {
            top = self.parent(top)?;
        }
        let renamed = state.renamed.get(&top);
        if let (Some(first), Some(renamed)) = (path.first_mut(), renamed) {
            *first = renamed;
        }
        Ok((path, renamed.is_some()))
    }

    /// A handle of the directory with this index.
    pub(super) fn directory(&self, state: &mut State, index: u32) -> Result<Arc<OwnedFd>, FileFault> {
        if index == ROOT {
            return Ok(Arc::clone(&self.destination.root));
        }
        if let Some(handle) = state.directories.get(&index) {
            return Ok(Arc::clone(handle));
        }
        let (path, _) = self.path(state, index)?;
        let handle = Arc::new(open_beneath(self.destination.root.as_fd(), &path, DIRECTORY)?);
        if state.directories.len() >= OPEN_DIRECTORIES {
            // Entries come in order: the smallest index is the one left behind.
            state.directories.pop_first();
        }
        state.directories.insert(index, Arc::clone(&handle));
        Ok(handle)
    }

    /// Keeps a temporary file open, and closes the one that was not asked for the longest.
    pub(super) fn keep_open(state: &mut State, entry: u32, file: &Arc<File>) {
        if state.open.len() >= OPEN_FILES
            && let Some(oldest) = state.open.iter().min_by_key(|(_, (_, asked))| *asked).map(|(entry, _)| *entry)
        {
            state.open.remove(&oldest);
        }
        state.asked += 1;
        state.open.insert(entry, (Arc::clone(file), state.asked));
    }

    /// Forgets all handles.
    pub(super) fn close_all(state: &mut State) {
        state.open.clear();
        state.directories.clear();
    }

    /// Whether anything may still be written for this entry.
    pub(super) fn usable(state: &State, entry: u32) -> Result<(), FileFault> {
        if state.discarded {
            return Err(FileFault::NotFound);
        }
        if let Some(fault) = state.broken.get(&entry) {
            return Err(*fault);
        }
        state.verdicts.get(&entry).map_or(Ok(()), Verdict::allows)
    }
}

/// The parent of each entry.
fn parents(entries: &[Entry]) -> Result<Vec<u32>, FileFault> {
    let mut parents = Vec::with_capacity(entries.len());
    // The directories that the last entry is in, itself included if it is one.
    let mut way: Vec<u32> = Vec::new();
    let mut before: Option<&Entry> = None;
    for (entry, index) in entries.iter().zip(0..ROOT) {
        let depth = entry.components.len().checked_sub(1).ok_or(FileFault::Unsafe)?;
        entry.components.iter().try_for_each(|name| safe_name(name).map(drop))?;
        if before.is_some_and(|before| before.components >= entry.components) || depth > way.len() {
            return Err(FileFault::Unsafe);
        }
        way.truncate(depth);
        let parent = way.last().copied().unwrap_or(ROOT);
        if parent != ROOT {
            let above = usize::try_from(parent).ok().and_then(|at| entries.get(at)).ok_or(FileFault::Unsafe)?;
            if entry.components.get(..depth) != Some(&above.components[..]) {
                return Err(FileFault::Unsafe);
            }
        }
        if entry.kind == EntryKind::Directory {
            way.push(index);
        }
        parents.push(parent);
        before = Some(entry);
    }
    if parents.len() == entries.len() { Ok(parents) } else { Err(FileFault::Unsafe) }
}

/// What two names are compared by in the destination.
pub(super) fn key(folds: bool, name: &[u8]) -> Vec<u8> {
    if folds { fold_key(name) } else { name.to_vec() }
}

/// What stands at `name`, itself and not what it points to.
pub(super) fn existing(directory: &OwnedFd, name: &OsStr) -> Result<Option<rustix::fs::Stat>, FileFault> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is seen of an open file.
pub(super) fn seen(file: &impl std::os::fd::AsFd) -> Result<Seen, FileFault> {
    Ok(Seen::of(&fstat(file)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::tells_errors;

    #[test]
    fn releases_of_the_kernel() {
        for (release, tells) in
            [("6.1.0-18-amd64", true), ("5.8", true), ("5.10.0+", true), ("5.7.19", false), ("4.18.0-553.el8", false), ("", false)]
        {
            assert_eq!(tells_errors(release), tells, "{release}");
        }
    }
}
