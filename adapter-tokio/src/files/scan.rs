//! Walking what is sent, and reading it.
//!
//! No descriptor stays open per file: an entry remembers the directory handle that its path starts from, and what was seen
//! there. Opening checks that it is still the same object in the same state, and so does the reader after its last byte.

use core::fmt;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::Gitignore;
use protocol_core::limits::{LINK_TARGET, MANIFEST_ENTRIES, PATH_BYTES, PATH_DEPTH};
use protocol_core::transfer::manifest::{Entry, EntryKind};
use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, accessat, fstat, openat, readlinkat, statat};

use super::select::Selector;
use super::{DIRECTORY, FileFault, Seen, Selection, SymlinkPolicy, nanoseconds, open_beneath};

/// What a walk found.
#[derive(Debug)]
pub struct Scan {
    /// The manifest's entries in its order: bytewise by components, parents before children, each once.
    pub entries: Vec<Entry>,
    /// For each entry, in the same order, where it is and what was seen.
    pub sources: Vec<Source>,
    /// What cannot be sent, and why.
    pub skipped: Vec<(PathBuf, SkipReason)>,
    /// How many entries the selection leaves out; what is below a directory does not count again.
    pub excluded: u64,
}

/// Why something in a source is not sent.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// A socket, a pipe or a device.
    Special,
    /// A symbolic link, which the policy leaves out.
    Symlink,
    /// A link to a directory that it is in: following it has no end.
    Loop,
    /// More than 64 components, a path of more than 4096 bytes, or a link's target of more than 4095.
    TooLong,
    /// It could not be read.
    Unreadable(FileFault),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special => f.write_str("a socket, pipe or device"),
            Self::Symlink => f.write_str("a symbolic link"),
            Self::Loop => f.write_str("a link to a directory that it is in"),
            Self::TooLong => f.write_str("the path is too long or too deep"),
            Self::Unreadable(fault) => write!(f, "{fault}"),
        }
    }
}

/// Why nothing can be sent from these paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// A given path cannot be opened.
    Path(PathBuf, FileFault),
    /// Two of the given paths would arrive under this name.
    Twice(PathBuf),
    /// More than 1 000 000 entries.
    TooMany,
    /// This is no pattern, or this ignore file has a line that is none.
    Pattern(PathBuf, String),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path, fault) => write!(f, "{}: {fault}", path.display()),
            Self::Twice(name) => write!(f, "two of the paths have the name {}", name.display()),
            Self::Pattern(of, error) => write!(f, "{}: {error}", of.display()),
            Self::TooMany => write!(f, "more than {MANIFEST_ENTRIES} files and directories"),
        }
    }
}

impl core::error::Error for ScanError {}

/// A directory that given paths start from.
#[derive(Debug)]
struct Root {
    handle: OwnedFd,
    path: PathBuf,
    /// Links on the way from here to a file were followed by the walk.
    follow: bool,
}

/// Where an entry is, and what was seen there.
#[derive(Clone, Debug)]
pub struct Source {
    root: Arc<Root>,
    /// What the walk saw.
    pub seen: Seen,
}

impl Source {
    /// Opens the file for reading; `components` are those of its entry.
    ///
    /// # Errors
    /// [`FileFault::Changed`] if it is gone, is not the same file or not in the state that was seen; others of the system.
    pub fn open(&self, components: &[Vec<u8>]) -> Result<SourceFile, FileFault> {
        let path: Vec<&[u8]> = components.iter().map(Vec::as_slice).collect();
        // A pipe that took the file's place must not make the open wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let opened = if self.root.follow {
            // Wherever the links lead now: it is read if it is the object that was seen.
            let path = path.join(&b'/');
            openat(&self.root.handle, OsStr::from_bytes(&path), flags | OFlags::CLOEXEC, Mode::empty()).map_err(FileFault::from)
        } else {
            open_beneath(self.root.handle.as_fd(), &path, flags)
        };
        let file = opened.map_err(|fault| match fault {
            FileFault::NotFound | FileFault::Unsafe => FileFault::Changed,
            other => other,
        })?;
        let file = SourceFile { file: File::from(file), seen: self.seen };
        file.check_unchanged()?;
        Ok(file)
    }

    /// Where the entry is, for people: the path as it was given, and what is below it.
    pub fn path(&self, components: &[Vec<u8>]) -> PathBuf {
        below(&self.root.path, components)
    }
}

/// An open source file.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    seen: Seen,
}

impl SourceFile {
    /// Fills `buffer` from `offset`. Several threads may read at once.
    ///
    /// # Errors
    /// [`FileFault::Changed`] if the file ends before; others of the system.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FileFault> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => FileFault::Changed,
            _ => error.into(),
        })
    }

    /// Checks device, inode, size, mtime and ctime once more: what was read in between is then of one state.
    ///
    /// # Errors
    /// [`FileFault::Changed`] if one of the five differs.
    pub fn check_unchanged(&self) -> Result<(), FileFault> {
        let stat = fstat(&self.file)?;
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && Seen::of(&stat) == self.seen;
        if same { Ok(()) } else { Err(FileFault::Changed) }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Walks `paths`. Each becomes a top item under its own name; one that ends in `/` contributes what is inside it.
///
/// What cannot be read and what is no file, directory or link is left out and listed.
///
/// # Errors
/// A given path that does not exist or cannot be opened, two that have one name, a pattern that is none, or too many entries.
pub fn scan(paths: &[PathBuf], selection: &Selection) -> Result<Scan, ScanError> {
    let selector = Selector::new(selection)?;
    let mut tops = tops(paths, &selector)?;
    tops.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some([first, ..]) = tops.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        return Err(ScanError::Twice(PathBuf::from(OsStr::from_bytes(&first.name))));
    }
    let scan = Scan { entries: Vec::new(), sources: Vec::new(), skipped: Vec::new(), excluded: 0 };
    let mut walk = Walk { selector, components: Vec::new(), above: Vec::new(), scan };
    for Top { name, root, patterns } in tops {
        walk.selector.enter(0, patterns);
        walk.visit(&root, root.handle.as_fd(), name)?;
        walk.selector.leave(0);
    }
    Ok(walk.scan)
}

/// A top item: a name in a directory, and the patterns of that directory if all of it was given.
struct Top {
    name: Vec<u8>,
    root: Arc<Root>,
    patterns: Vec<Arc<Gitignore>>,
}

fn tops(paths: &[PathBuf], selector: &Selector) -> Result<Vec<Top>, ScanError> {
    let follow = selector.symlinks == SymlinkPolicy::Follow;
    let mut roots: BTreeMap<PathBuf, Arc<Root>> = BTreeMap::new();
    let mut root_of = |path: &Path| -> Result<Arc<Root>, FileFault> {
        if let Some(root) = roots.get(path) {
            return Ok(Arc::clone(root));
        }
        // The way to what the user named may go through links: it is the user's.
        let handle = openat(CWD, path, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let root = Arc::new(Root { handle, path: path.to_path_buf(), follow });
        roots.insert(path.to_path_buf(), Arc::clone(&root));
        Ok(root)
    };
    let mut tops = Vec::new();
    for given in paths {
        let failed = |fault| ScanError::Path(given.clone(), fault);
        let bytes = given.as_os_str().as_bytes();
        if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            let root = root_of(given).map_err(failed)?;
            let names = names_in(root.handle.as_fd()).map_err(failed)?;
            let patterns = selector.patterns(root.handle.as_fd(), given)?;
            tops.extend(names.into_iter().map(|name| Top { name, root: Arc::clone(&root), patterns: patterns.clone() }));
            continue;
        }
        // `.`, `..` and `a/..` have their name elsewhere.
        let path = match given.file_name() {
            Some(_) => given.clone(),
            None => fs::canonicalize(given).map_err(|error| failed(error.into()))?,
        };
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Err(failed(FileFault::Unsafe)) };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let root = root_of(parent).map_err(failed)?;
        statat(&root.handle, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(error.into()))?;
        tops.push(Top { name: name.as_bytes().to_vec(), root, patterns: Vec::new() });
    }
    Ok(tops)
}

/// The names in a directory, sorted bytewise, without `.` and `..`.
fn names_in(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, FileFault> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn below(root: &Path, components: &[Vec<u8>]) -> PathBuf {
    components.iter().fold(root.to_path_buf(), |path, component| path.join(OsStr::from_bytes(component)))
}

struct Walk {
    selector: Selector,
    /// The path of what is visited.
    components: Vec<Vec<u8>>,
    /// The directories on it, where links are followed.
    above: Vec<Seen>,
    scan: Scan,
}

impl Walk {
    fn visit(&mut self, root: &Arc<Root>, directory: BorrowedFd<'_>, name: Vec<u8>) -> Result<(), ScanError> {
        self.components.push(name);
        let outcome = self.visit_here(root, directory);
        if let Err(Stop::Skip(reason)) = outcome {
            self.scan.skipped.push((below(&root.path, &self.components), reason));
        }
        self.components.pop();
        match outcome {
            Err(Stop::End(error)) => Err(error),
            Ok(()) | Err(Stop::Skip(_)) => Ok(()),
        }
    }

    /// Visits what `components` names; its parent is `directory`.
    // HOST-10.
    fn visit_here(&mut self, root: &Arc<Root>, directory: BorrowedFd<'_>) -> Result<(), Stop> {
        let path_bytes = self.components.iter().map(|component| component.len() + 1).sum::<usize>() - 1;
        let name = self.components.last().map(|name| OsStr::from_bytes(name)).expect("invariant: visit pushed a name");
        let mut stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut kind = FileType::from_raw_mode(stat.st_mode);
        let mut to_what_is_there = OFlags::NOFOLLOW;
        if kind == FileType::Symlink && self.selector.symlinks == SymlinkPolicy::Follow && !self.selector.excludes(&self.components, false)
        {
            stat = statat(directory, name, AtFlags::empty())?;
            kind = FileType::from_raw_mode(stat.st_mode);
            to_what_is_there = OFlags::empty();
        }
        if self.selector.excludes(&self.components, kind == FileType::Directory) {
            self.scan.excluded += 1;
            return Ok(());
        }
        if self.components.len() > PATH_DEPTH || path_bytes > PATH_BYTES {
            return Err(Stop::Skip(SkipReason::TooLong));
        }
        match kind {
            FileType::RegularFile => {
                accessat(directory, name, Access::READ_OK, AtFlags::EACCESS)?;
                self.add(root, &stat, EntryKind::File, None)
            }
            FileType::Directory => {
                let handle = openat(directory, name, DIRECTORY | to_what_is_there | OFlags::CLOEXEC, Mode::empty())?;
                self.visit_directory(root, handle.as_fd(), &stat)
            }
            FileType::Symlink => match self.selector.symlinks {
                SymlinkPolicy::Skip => Err(Stop::Skip(SkipReason::Symlink)),
                SymlinkPolicy::Keep | SymlinkPolicy::Follow => {
                    let target = readlinkat(directory, name, Vec::new())?.into_bytes();
                    if target.is_empty() || target.len() > LINK_TARGET {
                        return Err(Stop::Skip(SkipReason::TooLong));
                    }
                    self.add(root, &stat, EntryKind::Symlink, Some(target))
                }
            },
            _ => Err(Stop::Skip(SkipReason::Special)),
        }
    }

    fn visit_directory(&mut self, root: &Arc<Root>, handle: BorrowedFd<'_>, stat: &Stat) -> Result<(), Stop> {
        let seen = Seen::of(stat);
        if !Seen::of(&fstat(handle)?).same_object(&seen) {
            return Err(Stop::Skip(SkipReason::Unreadable(FileFault::Changed)));
        }
        if self.above.iter().any(|above| above.same_object(&seen)) {
            return Err(Stop::Skip(SkipReason::Loop));
        }
        let names = names_in(handle).map_err(|fault| Stop::Skip(SkipReason::Unreadable(fault)))?;
        let patterns = self.selector.patterns(handle, &below(&root.path, &self.components)).map_err(Stop::End)?;
        self.add(root, stat, EntryKind::Directory, None)?;
        let depth = self.components.len();
        self.selector.enter(depth, patterns);
        self.above.push(seen);
        let visited = names.into_iter().try_for_each(|name| self.visit(root, handle, name)).map_err(Stop::End);
        self.above.pop();
        self.selector.leave(depth);
        visited
    }

    fn add(&mut self, root: &Arc<Root>, stat: &Stat, kind: EntryKind, target: Option<Vec<u8>>) -> Result<(), Stop> {
        if u32::try_from(self.scan.entries.len()).is_ok_and(|count| count >= MANIFEST_ENTRIES) {
            return Err(Stop::End(ScanError::TooMany));
        }
        let seen = Seen::of(stat);
        self.scan.entries.push(Entry {
            components: self.components.clone(),
            kind,
            size: if kind == EntryKind::File { seen.size } else { 0 },
            mode: u16::try_from(stat.st_mode & 0o7777).expect("invariant: twelve bits fit"),
            mtime_s: stat.st_mtime,
            mtime_ns: nanoseconds(stat.st_mtime_nsec),
            target,
        });
        self.scan.sources.push(Source { root: Arc::clone(root), seen });
        Ok(())
    }
}

/// Why a visit ends early: this one is left out, or the whole walk fails.
#[derive(Clone)]
enum Stop {
    Skip(SkipReason),
    End(ScanError),
}

impl From<rustix::io::Errno> for Stop {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Skip(SkipReason::Unreadable(error.into()))
    }
}
