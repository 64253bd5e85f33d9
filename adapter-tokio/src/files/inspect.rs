//! What is in the way of a transfer, before anything is written.

use core::fmt;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use protocol_core::transfer::manifest::{Entry, EntryKind};
use rustix::fs::{FileType, Mode, OFlags, Stat, openat};
use rustix::io::Errno;

use super::dest::{Incoming, ROOT, State, existing, key};
use super::names::{fold_key, is_temp_name, link_stays_inside, numbered, safe_name};
use super::{DIRECTORY, FileFault, nanoseconds};

/// What happens where something has an entry's name already. A directory that meets a directory is merged and no conflict.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The entry does not arrive.
    Skip,
    /// The whole top item arrives under a new name, `album (1)`.
    Rename,
    /// A file or link takes the place of a file or link.
    Overwrite,
    /// The same if the arriving one has the newer modification time; else the entry does not arrive.
    Update,
    /// The conflict is reported, and the caller decides.
    Fail,
}

/// What is special about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This top item, and so all below it, arrives under a new name.
    Renamed(Vec<u8>),
    /// It takes the place of what is there.
    Replaces,
    /// Something is there, and by the policy it stays.
    Skipped,
    /// Something is there that may not, or can not, be replaced.
    Conflict,
    /// The file system cannot hold it.
    CannotHold(CannotHold),
    /// The link's target is absolute, or outside of what is offered.
    UnsafeLink,
    /// A directory above it does not arrive.
    Below,
    /// The system did not let us look.
    Fault(FileFault),
}

/// Why a file system cannot hold an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotHold {
    /// The name has the form of our temporary files.
    ReservedName,
    /// Here the name is the same as that of an earlier entry.
    SameName,
    /// The name is longer than this file system takes.
    NameTooLong,
    /// This file system does not take these bytes as a name.
    NameNotAllowed,
}

impl fmt::Display for CannotHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedName => "the name is reserved for temporary files",
            Self::SameName => "the file system takes the name for that of another entry",
            Self::NameTooLong => "the name is too long for the file system",
            Self::NameNotAllowed => "the file system does not allow the name",
        })
    }
}

impl Verdict {
    /// Whether the entry arrives nevertheless; the fault of one that does not.
    pub(super) fn allows(&self) -> Result<(), FileFault> {
        match self {
            Self::Renamed(_) | Self::Replaces => Ok(()),
            // The caller may still agree to a replacement when it publishes.
            Self::Conflict => Ok(()),
            Self::Skipped => Err(FileFault::Exists),
            Self::CannotHold(_) | Self::UnsafeLink | Self::Below => Err(FileFault::Unsafe),
            Self::Fault(fault) => Err(*fault),
        }
    }

    /// Whether nothing below such a directory can arrive.
    fn blocks_below(&self) -> bool {
        match self {
            Self::Renamed(_) | Self::Replaces => false,
            Self::Skipped | Self::Conflict | Self::CannotHold(_) | Self::UnsafeLink | Self::Below | Self::Fault(_) => true,
        }
    }
}

impl Incoming {
    /// Looks at what is in the way, and decides by `policy`. Returns the entries that are exceptions, in order.
    ///
    /// Changes nothing but the plan of this transfer (where case folding is unknown, a file is made and removed), so it can
    /// be called again with another policy before `prepare`.
    ///
    /// # Errors
    /// [`FileFault`] if the destination as a whole cannot be used, for instance because it is read-only.
    pub fn inspect(&self, policy: ConflictPolicy) -> Result<Vec<(u32, Verdict)>, FileFault> {
        let mut state = self.state();
        let look = Look { folds: self.destination.folds_case(self.transfer)?, longest: self.destination.longest_name()?, policy };
        state.verdicts.clear();
        let State { renamed, decided, .. } = &mut *state;
        renamed.retain(|top, _| decided.contains(top));
        let tops_in_conflict = self.judge_all(&mut state, look)?;
        self.rename_tops(&mut state, look, tops_in_conflict)?;
        Ok(state.verdicts.iter().map(|(entry, verdict)| (*entry, verdict.clone())).collect())
    }

    /// Fills the verdicts; returns the top items that policy `Rename` has to rename.
    fn judge_all(&self, state: &mut State, look: Look) -> Result<BTreeSet<u32>, FileFault> {
        let mut taken = BTreeSet::new();
        let mut renames = BTreeSet::new();
        // The directories above an entry, outermost first: its index, and a handle if it exists.
        let mut way: Vec<(u32, Option<Arc<OwnedFd>>)> = Vec::new();
        for (entry, index) in self.entries().iter().zip(0..ROOT) {
            way.truncate(entry.components.len() - 1);
            let parent = self.parent(index)?;
            let above = way.last().map_or_else(|| Some(&self.destination.root), |(_, handle)| handle.as_ref());
            let top = way.first().map_or(index, |(top, _)| *top);
            let mut own = None;
            // Where the top item is renamed, what stands in the way of the old name is in nobody's way.
            let blocked = parent != ROOT && state.verdicts.get(&parent).is_some_and(Verdict::blocks_below);
            let blocked = blocked.then_some(Verdict::Below);
            let decided = state.decided.contains(&top);
            let name = self.name(state, index)?;
            let verdict = match blocked.or_else(|| self.judge_name(entry, parent, look, &mut taken)) {
                Some(verdict) => Some(verdict),
                // It stands there since an earlier try.
                None if state.published.contains(&index) => None,
                // And this stood there, and is another now.
                None if state.outdated.contains(&index) => Some(Verdict::Replaces),
                None => match look.at(above, entry, name) {
                    Ok(Found::Nothing) => None,
                    Ok(Found::Directory(handle)) => {
                        own = Some(handle);
                        None
                    }
                    Ok(Found::InTheWay) if look.policy == ConflictPolicy::Rename && !decided => {
                        renames.insert(top);
                        None
                    }
                    Ok(Found::InTheWay) if look.policy == ConflictPolicy::Skip => Some(Verdict::Skipped),
                    Ok(Found::InTheWay) => Some(Verdict::Conflict),
                    Ok(Found::Replaceable { newer }) => match look.replaceable(newer) {
                        None if decided => Some(Verdict::Conflict),
                        None => {
                            renames.insert(top);
                            None
                        }
                        verdict => verdict,
                    },
                    Err(verdict) => Some(verdict),
                },
            };
            state.verdicts.extend(verdict.map(|verdict| (index, verdict)));
            if entry.kind == EntryKind::Directory {
                way.push((index, own));
            }
        }
        Ok(renames)
    }

    /// What can be said from the manifest alone.
    // PATH-4.
    fn judge_name(&self, entry: &Entry, parent: u32, look: Look, taken: &mut BTreeSet<(u32, Vec<u8>)>) -> Option<Verdict> {
        let name = entry.components.last()?;
        if name.len() > look.longest {
            return Some(Verdict::CannotHold(CannotHold::NameTooLong));
        }
        if is_temp_name(name) || (look.folds && is_temp_name(&fold_key(name))) {
            return Some(Verdict::CannotHold(CannotHold::ReservedName));
        }
        if entry.kind == EntryKind::Symlink && !link_stays_inside(self.entries(), entry) {
            return Some(Verdict::UnsafeLink);
        }
        if look.folds && !taken.insert((parent, fold_key(name))) {
            return Some(Verdict::CannotHold(CannotHold::SameName));
        }
        None
    }

    /// Gives each of `tops` the first numbered name that neither the destination nor the manifest has.
    fn rename_tops(&self, state: &mut State, look: Look, tops: BTreeSet<u32>) -> Result<(), FileFault> {
        if tops.is_empty() {
            return Ok(());
        }
        let offered = self.entries().iter().filter(|entry| entry.components.len() == 1).filter_map(|entry| entry.components.last());
        let mut taken: BTreeSet<Vec<u8>> = offered.map(|name| key(look.folds, name)).collect();
        for top in tops {
            let entry = self.entry(top)?;
            let old = entry.components.last().ok_or(FileFault::Unsafe)?;
            let free = (1..=RENAMES).map(|number| numbered(old, number, entry.kind, look.longest.min(255))).find(|name| {
                !taken.contains(&key(look.folds, name))
                    && safe_name(name).is_ok_and(|name| matches!(existing(&self.destination.root, name), Ok(None)))
            });
            match free {
                Some(name) => {
                    taken.insert(key(look.folds, &name));
                    state.renamed.insert(top, name.clone());
                    state.verdicts.insert(top, Verdict::Renamed(name));
                }
                None => {
                    let below = (top..ROOT).zip(self.entries().iter().skip(usize::try_from(top).unwrap_or(usize::MAX)));
                    let below = below.skip(1).take_while(|(_, entry)| entry.components.len() > 1);
                    state.verdicts.extend(below.map(|(index, _)| (index, Verdict::Below)));
                    state.verdicts.insert(top, Verdict::Conflict);
                }
            }
        }
        Ok(())
    }
}

/// How many numbered names are tried.
const RENAMES: u32 = 10_000;

/// What an inspection goes by.
#[derive(Clone, Copy)]
struct Look {
    folds: bool,
    longest: usize,
    policy: ConflictPolicy,
}

/// What stands where an entry wants to be.
enum Found {
    Nothing,
    /// A directory, for a directory.
    Directory(Arc<OwnedFd>),
    /// A file or link, for a file or link.
    Replaceable {
        newer: bool,
    },
    InTheWay,
}

impl Look {
    /// What has the name of `entry` in the directory `above` it, if that exists.
    fn at(self, above: Option<&Arc<OwnedFd>>, entry: &Entry, name: &OsStr) -> Result<Found, Verdict> {
        let Some(above) = above else { return Ok(Found::Nothing) };
        let stat = match existing(above, name) {
            Ok(None) => return Ok(Found::Nothing),
            Ok(Some(stat)) => stat,
            Err(FileFault::Io(code)) if code == Errno::ILSEQ.raw_os_error() || code == Errno::INVAL.raw_os_error() => {
                return Err(Verdict::CannotHold(CannotHold::NameNotAllowed));
            }
            Err(FileFault::Io(code)) if code == Errno::NAMETOOLONG.raw_os_error() => {
                return Err(Verdict::CannotHold(CannotHold::NameTooLong));
            }
            Err(fault) => return Err(Verdict::Fault(fault)),
        };
        match (entry.kind, FileType::from_raw_mode(stat.st_mode)) {
            (EntryKind::Directory, FileType::Directory) => {
                let flags = DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let handle = openat(above, name, flags, Mode::empty()).map_err(|error| Verdict::Fault(error.into()))?;
                Ok(Found::Directory(Arc::new(handle)))
            }
            (EntryKind::File | EntryKind::Symlink, FileType::RegularFile | FileType::Symlink) => {
                Ok(Found::Replaceable { newer: is_newer(entry, &stat) })
            }
            _ => Ok(Found::InTheWay),
        }
    }

    /// What the policy says of an entry that could be replaced; `None`: its top item is renamed.
    fn replaceable(self, newer: bool) -> Option<Verdict> {
        match self.policy {
            ConflictPolicy::Skip => Some(Verdict::Skipped),
            ConflictPolicy::Overwrite => Some(Verdict::Replaces),
            ConflictPolicy::Update => Some(if newer { Verdict::Replaces } else { Verdict::Skipped }),
            ConflictPolicy::Fail => Some(Verdict::Conflict),
            ConflictPolicy::Rename => None,
        }
    }
}

fn is_newer(entry: &Entry, stat: &Stat) -> bool {
    (entry.mtime_s, entry.mtime_ns) > (stat.st_mtime, nanoseconds(stat.st_mtime_nsec))
}
