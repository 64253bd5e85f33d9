//! What an earlier try of the same files has left: found, checked and taken over, so that nothing durable is sent twice.
//!
//! A file is the same if path, size and time are. What the journal says of it counts only where the file is still the object that the
//! journal means: the one with its device and inode number.

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use protocol_core::effects::EntryNote;
use protocol_core::transfer::manifest::{Entry, EntryKind};
use protocol_core::transfer::ranges::Ranges;
use rustix::fs::{FileType, Mode, OFlags, RenameFlags, openat, renameat_with};

use super::dest::{Incoming, ROOT, Temp, existing};
use super::names::temp_name;
use super::publish::is_link_to;
use super::{FileFault, Seen};
use crate::journal::{Inode, Unfinished};

/// Bytes that are read at once for a digest.
const READ: usize = 1 << 20;

/// What was taken over.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Bytes under temporary names.
    pub(crate) durable: BTreeMap<u32, (Inode, Ranges)>,
    /// Files under final names.
    pub(crate) named: BTreeMap<u32, Inode>,
    /// What the Node is told of both.
    pub(crate) notes: BTreeMap<u32, EntryNote>,
}

/// The manifest's entries for the disk.
pub(crate) struct Entries(pub(crate) Vec<Entry>);

impl AsRef<[Entry]> for Entries {
    fn as_ref(&self) -> &[Entry] {
        &self.0
    }
}

impl Incoming {
    /// Takes over what an earlier try left of files that this one brings too. To be called before `inspect`, which then finds nothing
    /// in the way where this transfer's own files stand.
    ///
    /// # Errors
    /// [`FileFault`] if the journal is about impossible paths. What cannot be taken over is passed over, and sent again.
    pub(crate) fn take_over(&self, left: &Unfinished) -> Result<Taken, FileFault> {
        let entries = Arc::new(Entries(left.manifest.entries().collect()));
        let before = Self::new(Arc::clone(&self.destination), left.head.transfer, entries)?;
        before.state().renamed.clone_from(&left.renamed);
        let mut taken = Taken::default();
        for (new, old, same) in self.same_entries(&before) {
            if !same {
                self.outdate(&before, left, (new, old)).unwrap_or(());
                continue;
            }
            if let (Some(name), ROOT) = (left.renamed.get(&old), self.parent(new)?) {
                let mut state = self.state();
                state.renamed.insert(new, name.clone());
                state.decided.insert(new);
            }
            match self.entry(new)?.kind {
                EntryKind::Directory if left.made.contains(&old) => drop(self.state().made.insert(new)),
                EntryKind::File if !self.is_taken(new) => {
                    // What cannot be looked at is not there.
                    self.take_file(&before, left, (new, old), &mut taken).unwrap_or(());
                }
                EntryKind::Symlink => self.take_link(&before, (new, old)).unwrap_or(()),
                EntryKind::File | EntryKind::Directory => {}
            }
        }
        self.keep_names();
        Ok(taken)
    }

    /// What an earlier try has begun under a name goes on under it, whatever came in the way since.
    fn keep_names(&self) {
        let mut state = self.state();
        let begun: BTreeSet<u32> = state.made.iter().chain(state.temps.keys()).chain(&state.published).copied().collect();
        for mut entry in begun {
            while let Ok(parent) = self.parent(entry)
                && parent != ROOT
            {
                entry = parent;
            }
            state.decided.insert(entry);
        }
    }

    /// A link that stands there already is not in its own way: links are made when all files are there, and a try can end behind that.
    fn take_link(&self, before: &Self, (new, old): (u32, u32)) -> Result<(), FileFault> {
        let target = self.entry(new)?.target.as_deref().ok_or(FileFault::Unsafe)?;
        let directory = before.directory(&mut before.state(), before.parent(old)?)?;
        if is_link_to(&directory, before.name(&before.state(), old)?, target) {
            self.state().published.insert(new);
        }
        Ok(())
    }

    /// Whether something of an entry was taken over already.
    fn is_taken(&self, entry: u32) -> bool {
        let state = self.state();
        state.published.contains(&entry) || state.temps.contains_key(&entry)
    }

    /// A file has changed at the sender since an earlier try gave it its name: what stands there is that try's, unless its owner has
    /// changed it since.
    fn outdate(&self, before: &Self, left: &Unfinished, (new, old): (u32, u32)) -> Result<(), FileFault> {
        let Some(inode) = left.named.get(&old) else { return Ok(()) };
        let directory = before.directory(&mut before.state(), before.parent(old)?)?;
        let name = before.name(&before.state(), old)?.to_owned();
        let found = existing(&directory, &name)?.map(|stat| Seen::of(&stat));
        let entry = before.entry(old)?;
        let unchanged = |seen: &Seen| seen.size == entry.size && seen.mtime == (entry.mtime_s, entry.mtime_ns);
        if found.is_some_and(|seen| (seen.device, seen.inode) == (inode.device, inode.inode) && unchanged(&seen)) {
            self.state().outdated.insert(new);
        }
        Ok(())
    }

    /// Entries of this transfer that the other has too, with their numbers there; whether they are the same, which files of another size
    /// or time are not.
    fn same_entries(&self, before: &Self) -> Vec<(u32, u32, bool)> {
        let same = |new: &Entry, old: &Entry| {
            let alike = new.size == old.size && (new.mtime_s, new.mtime_ns) == (old.mtime_s, old.mtime_ns);
            alike || new.kind != EntryKind::File
        };
        let mut others = before.entries().iter().zip(0..ROOT).peekable();
        let mut pairs = Vec::new();
        for (entry, new) in self.entries().iter().zip(0..ROOT) {
            while others.next_if(|(other, _)| other.components < entry.components).is_some() {}
            if let Some((other, old)) = others.next_if(|(other, _)| other.components == entry.components)
                && entry.kind == other.kind
            {
                pairs.push((new, old, same(entry, other)));
            }
        }
        pairs
    }

    fn take_file(&self, before: &Self, left: &Unfinished, (new, old): (u32, u32), taken: &mut Taken) -> Result<(), FileFault> {
        let (named, durable) = (left.named.get(&old), left.durable.get(&old));
        let inode = named.copied().or_else(|| durable.map(|(inode, _)| *inode));
        let directory = before.directory(&mut before.state(), before.parent(old)?)?;
        let (entry, from) = (self.entry(new)?, temp_name(before.transfer, old));
        // Nothing of an empty file is ever durable before it has its name, and any other one is the same.
        let is = |seen: &Seen| inode.map_or(entry.size == 0, |inode| (seen.device, seen.inode) == (inode.device, inode.inode));
        let regular = |name: &std::ffi::OsStr| -> Result<Option<Seen>, FileFault> {
            let stat = existing(&directory, name)?.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            Ok(stat.map(|stat| Seen::of(&stat)))
        };
        if let (Some(seen), Some((_, bytes))) = (regular(from.as_ref())?.filter(is), durable) {
            let to = temp_name(self.transfer, new);
            if to != from {
                renameat_with(&directory, &from, &directory, &to, RenameFlags::NOREPLACE)?;
            }
            let mut bytes = bytes.clone();
            bytes.remove(seen.size.min(entry.size)..u64::MAX);
            self.state().temps.insert(new, Temp { seen, dirty: false });
            taken.notes.insert(new, EntryNote::Taken(bytes.iter().collect()));
            taken.durable.insert(new, (Inode { device: seen.device, inode: seen.inode }, bytes));
            return Ok(());
        }
        // It has its name, whether or not there was time to say so.
        let name = before.name(&before.state(), old)?.to_owned();
        let fits = |seen: &Seen| is(seen) && seen.size == entry.size && seen.mtime == (entry.mtime_s, entry.mtime_ns);
        if let Some(seen) = regular(&name)?.filter(fits) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let digest = digest(&openat(&directory, &name, flags, Mode::empty())?.into())?;
            let renamed_to = {
                let state = before.state();
                let (path, renamed) = before.path(&state, old)?;
                renamed.then(|| path.join(&b'/'))
            };
            self.state().published.insert(new);
            taken.named.insert(new, Inode { device: seen.device, inode: seen.inode });
            taken.notes.insert(new, EntryNote::Kept { digest, renamed_to });
        }
        Ok(())
    }

    /// The names that top items were given, and the directories that were made: what another try has to know.
    pub(crate) fn decided(&self) -> (BTreeMap<u32, Vec<u8>>, BTreeSet<u32>) {
        let state = self.state();
        (state.renamed.clone(), state.made.clone())
    }

    /// Whether an entry has its final name.
    pub(crate) fn is_published(&self, entry: u32) -> bool {
        self.state().published.contains(&entry)
    }

    /// What was written to the files of `entries` and not asked for since. It is durable after a `sync` that begins now.
    pub(crate) fn take_written(&self, entries: Range<u32>) -> BTreeMap<u32, (Inode, Ranges)> {
        let mut state = self.state();
        let numbers: Vec<u32> = state.written.range(entries).map(|(entry, _)| *entry).collect();
        let mut written = BTreeMap::new();
        for entry in numbers {
            let inode = state.temps.get(&entry).map(|temp| Inode { device: temp.seen.device, inode: temp.seen.inode });
            if let (Some(bytes), Some(inode)) = (state.written.remove(&entry), inode) {
                written.insert(entry, (inode, bytes));
            }
        }
        written
    }

    /// The files that were named since the last call.
    pub(crate) fn take_named(&self) -> BTreeMap<u32, Inode> {
        std::mem::take(&mut self.state().named)
    }

    /// The digest of an entry's temporary file.
    ///
    /// # Errors
    /// [`FileFault`] of the system.
    pub(crate) fn digest(&self, entry: u32) -> Result<[u8; 32], FileFault> {
        let file = self.temp_file(&mut self.state(), entry)?;
        digest(&file)
    }

    /// Nothing is written any more; what was stays, for another try.
    pub(crate) fn keep(&self) {
        let mut state = self.state();
        state.discarded = true;
        Self::close_all(&mut state);
    }
}

/// The digest of all that a file holds.
fn digest(file: &std::fs::File) -> Result<[u8; 32], FileFault> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finalize().into()),
            len => {
                hasher.update(&buffer[..len]);
                at += len as u64;
            }
        }
    }
}
