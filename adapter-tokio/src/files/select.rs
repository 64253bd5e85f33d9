//! What of the given paths is sent: patterns, ignore files, links.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};

use super::{FileFault, ScanError};

/// The longest ignore file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What becomes of symbolic links in a source.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// They are sent as links.
    #[default]
    Keep,
    /// They are left out, and listed.
    Skip,
    /// What they point to is sent in their place. One that points to nothing, or to a directory that it is in, is left out and listed.
    Follow,
}

/// What of the given paths is sent.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What happens to symbolic links.
    pub symlinks: SymlinkPolicy,
    /// Patterns of what is left out, each a line of a `.gitignore`, the last that matches decides. They are about paths as they arrive,
    /// and go before what an ignore file says.
    pub exclude: Vec<String>,
    /// Names of ignore files: one in a sent directory says, in lines of a `.gitignore`, what of it is left out. A file in a deeper
    /// directory goes before one further up. They are sent themselves.
    pub ignore_files: Vec<OsString>,
}

/// A [`Selection`], and the ignore files on the way to where a walk is.
#[derive(Debug)]
pub(super) struct Selector {
    pub(super) symlinks: SymlinkPolicy,
    exclude: Gitignore,
    names: Vec<OsString>,
    /// Of each directory on the way that has some: how many components its path has, and its patterns.
    way: Vec<(usize, Arc<Gitignore>)>,
}

impl Selector {
    pub(super) fn new(selection: &Selection) -> Result<Self, ScanError> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in &selection.exclude {
            builder.add_line(None, pattern).map_err(|error| ScanError::Pattern(pattern.into(), error.to_string()))?;
        }
        let exclude = builder.build().map_err(|error| ScanError::Pattern(PathBuf::new(), error.to_string()))?;
        let names = selection.ignore_files.iter().filter(|name| !name.is_empty()).cloned().collect();
        Ok(Self { symlinks: selection.symlinks, exclude, names, way: Vec::new() })
    }

    /// The patterns of the ignore files in a directory. `path`: for people.
    ///
    /// # Errors
    /// One cannot be read, or has a line that is no pattern: what it would leave out must not be sent.
    pub(super) fn patterns(&self, directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<Arc<Gitignore>>, ScanError> {
        let mut all = Vec::new();
        for name in &self.names {
            let path = path.join(name);
            let Some(text) = read(directory, name).map_err(|fault| ScanError::Path(path.clone(), fault))? else { continue };
            let mut builder = GitignoreBuilder::new("");
            for line in text.lines() {
                builder.add_line(None, line).map_err(|error| ScanError::Pattern(path.clone(), error.to_string()))?;
            }
            all.push(Arc::new(builder.build().map_err(|error| ScanError::Pattern(path, error.to_string()))?));
        }
        Ok(all)
    }

    /// The walk enters a directory of so many components, which has these patterns.
    pub(super) fn enter(&mut self, depth: usize, patterns: Vec<Arc<Gitignore>>) {
        self.way.extend(patterns.into_iter().map(|patterns| (depth, patterns)));
    }

    /// The walk leaves a directory of so many components.
    pub(super) fn leave(&mut self, depth: usize) {
        while self.way.pop_if(|(of, _)| *of >= depth).is_some() {}
    }

    /// Whether an entry is left out. Nobody asks for what is below one that is.
    pub(super) fn excludes(&self, components: &[Vec<u8>], is_directory: bool) -> bool {
        let decides = |patterns: &Gitignore, below: usize| {
            if patterns.is_empty() {
                return None;
            }
            let path = components.get(below..).unwrap_or_default().join(&b'/');
            match patterns.matched(Path::new(OsStr::from_bytes(&path)), is_directory) {
                Match::None => None,
                Match::Ignore(_) => Some(true),
                Match::Whitelist(_) => Some(false),
            }
        };
        let of_files = || self.way.iter().rev().find_map(|(depth, patterns)| decides(patterns, *depth));
        decides(&self.exclude, 0).or_else(of_files).unwrap_or(false)
    }
}

/// The text of an ignore file; `None`: there is no such file. A link is followed: the tree is the user's own.
fn read(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<String>, FileFault> {
    let file = match openat(directory, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(FileFault::from) {
        Err(FileFault::NotFound) => return Ok(None),
        opened => opened?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::from(file).take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(FileFault::Unsafe);
    }
    // Names that are not UTF-8 cannot be written in it.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
