//! Files in memory: sources, temporaries, and what stands under final names; and what of it a crash leaves.
//!
//! The model is the weakest that hosts may meet: what was written is durable when it was synced, a name when its directory was,
//! and nothing else is. A crash keeps of the rest what chance keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use protocol_core::effects::{Direction, EntryNote, FileOp, TransferKey};
use protocol_core::faults::FileFault;
use protocol_core::ids::{DeviceId, TransferId};
use protocol_core::transfer::layout::Piece;
use protocol_core::transfer::manifest::{Entry, EntryKind, Manifest};
use protocol_core::transfer::ranges::Ranges;
use serde::{Deserialize, Serialize};

use crate::choice::{Choices, Site};

/// What stands under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file with this content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A link to there.
    Link(Vec<u8>),
}

/// Paths (components) and what stands there.
pub type Tree = BTreeMap<Vec<Vec<u8>>, Item>;

/// What a receiver does where a name is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// The entry fails.
    #[default]
    Fail,
    /// The entry is left out.
    Skip,
    /// The entry gets another name.
    Rename,
}

/// What somebody does to a source while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edited {
    /// It becomes shorter.
    Shorter,
    /// It becomes longer.
    Longer,
    /// Its size stays: the host sees its new time.
    Rewritten,
    /// It is deleted.
    Deleted,
    /// Nobody may read it any more.
    Unreadable,
    /// A directory takes its place.
    Replaced,
}

#[derive(Debug)]
struct Outgoing {
    manifest: Arc<Manifest>,
    tree: Tree,
    /// Sources whose time is not what it was.
    touched: BTreeSet<Vec<Vec<u8>>>,
}

/// A file on its way: its content, and whether all of it was synced.
#[derive(Debug)]
struct Temporary {
    content: Vec<u8>,
    synced: bool,
    /// Bytes written since it was synced.
    unsynced: u64,
    /// Which bytes were written, and which of them were synced since.
    written: Ranges,
    durable: Ranges,
}

impl Temporary {
    fn new(size: u64) -> Self {
        let content = vec![0; usize::try_from(size).expect("small files")];
        // An empty file has nothing that could be lost.
        Self { synced: content.is_empty(), content, unsynced: 0, written: Ranges::new(), durable: Ranges::new() }
    }

    fn sync(&mut self) -> u64 {
        self.synced = true;
        self.durable.union(&self.written);
        std::mem::take(&mut self.unsynced)
    }
}

/// What is left of a file of a transfer that was not finished, for the next one that brings the same.
#[derive(Debug)]
enum Left {
    /// Under a temporary name.
    Bytes(Temporary),
    /// Under this final one, with this digest.
    Named(Vec<Vec<u8>>, [u8; 32]),
}

/// What makes a file the same: who sends it, its path, size and time.
type Same = (DeviceId, Vec<Vec<u8>>, u64, i64);

fn same(key: TransferKey, entry: &Entry) -> Same {
    (key.device, entry.components.clone(), entry.size, entry.mtime_s)
}

/// A file that this disk got from another device.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The transfer.
    pub key: TransferKey,
    /// Its entry in the manifest.
    pub entry: u32,
    /// Its content survives a crash.
    pub synced: bool,
    /// Its name survives a crash.
    pub named: bool,
}

#[derive(Debug)]
struct Incoming {
    manifest: Arc<Manifest>,
    temporaries: BTreeMap<u32, Temporary>,
    /// Bytes that were ever made durable; nothing is known of them before the owner has taken it, again perhaps.
    durable: Option<u64>,
    left_out: BTreeMap<u32, EntryNote>,
    made: Vec<Vec<Vec<u8>>>,
    /// Entries that have their final names.
    named: BTreeMap<u32, (Vec<Vec<u8>>, [u8; 32])>,
}

/// The files of one device.
#[derive(Debug, Default)]
pub struct Disk {
    /// What stands under final names.
    pub files: Tree,
    /// What happens where a name is taken.
    pub on_conflict: OnConflict,
    /// No directory for incoming files.
    pub no_inbox: bool,
    /// Entries whose source cannot be read.
    pub unreadable: BTreeSet<Vec<Vec<u8>>>,
    /// Chunks cannot be written: no space.
    pub writes_fail: bool,
    /// Sources cannot be read.
    pub reads_fail: bool,
    outgoing: BTreeMap<TransferKey, Outgoing>,
    incoming: BTreeMap<TransferKey, Incoming>,
    /// Transfers of which what is durable was kept at their end.
    kept: BTreeSet<TransferKey>,
    /// Transfers that took over what another left.
    took: BTreeSet<TransferKey>,
    /// What was to be sent in an earlier life.
    unsent: BTreeMap<TransferKey, Tree>,
    /// What unfinished transfers left.
    left: BTreeMap<Same, Left>,
    arrived: BTreeMap<Vec<Vec<u8>>, Arrived>,
    /// What the last Publish named.
    just_published: Vec<Vec<Vec<u8>>>,
}

/// The manifest of a tree, in chunks of this size.
///
/// # Panics
/// If the tree makes no legal manifest.
pub fn manifest_of(tree: &Tree, chunk_size: u32) -> Arc<Manifest> {
    let entries = tree.iter().map(|(path, item)| {
        let (kind, size, target) = match item {
            Item::File(content) => (EntryKind::File, content.len() as u64, None),
            Item::Directory => (EntryKind::Directory, 0, None),
            Item::Link(target) => (EntryKind::Symlink, 0, Some(target.clone())),
        };
        // Whoever writes something else into a file gives it another time.
        let mtime_s = if let Item::File(content) = item { i64::from(blake3::hash(content).as_bytes()[0]) } else { 0 };
        Entry { components: path.clone(), kind, size, mode: 0o644, mtime_s, mtime_ns: 0, target }
    });
    Arc::new(Manifest::build(entries, chunk_size).expect("a test's tree is legal"))
}

impl Disk {
    /// Temporary files of all transfers that are not over.
    pub fn temporaries(&self) -> usize {
        self.incoming.values().map(|incoming| incoming.temporaries.len()).sum()
    }

    pub(crate) fn offer(&mut self, key: TransferKey, manifest: Arc<Manifest>, tree: Tree) {
        self.outgoing.insert(key, Outgoing { manifest, tree, touched: BTreeSet::new() });
    }

    /// The transfer is over.
    pub(crate) fn forget(&mut self, key: TransferKey) {
        self.outgoing.remove(&key);
        // What is left of an incoming one is the Node's to discard.
        if self.incoming.get(&key).is_some_and(|incoming| incoming.temporaries.is_empty()) {
            self.incoming.remove(&key);
        }
    }

    /// The files under final names that came from other devices.
    pub const fn arrived(&self) -> &BTreeMap<Vec<Vec<u8>>, Arrived> {
        &self.arrived
    }

    /// What came is this device's own now.
    pub(crate) fn forget_arrivals(&mut self) {
        self.arrived.clear();
    }

    /// Faults are over.
    pub(crate) fn heal(&mut self) {
        self.writes_fail = false;
        self.reads_fail = false;
        self.unreadable.clear();
        self.on_conflict = OnConflict::Rename;
    }

    /// The path that an entry of an incoming transfer has in its manifest, while that is known.
    pub fn entry_path(&self, key: &TransferKey, entry: u32) -> Option<Vec<Vec<u8>>> {
        Some(self.incoming.get(key)?.manifest.entry(entry)?.components)
    }

    /// Bytes of an incoming transfer that were made durable, as long as it is known here and all of it is kept.
    pub fn durable(&self, key: &TransferKey) -> Option<u64> {
        self.incoming.get(key).filter(|incoming| incoming.left_out.is_empty())?.durable
    }

    /// Somebody edits a source of an outgoing transfer while it is read: from now on the host sees that it has changed.
    pub(crate) fn edit(&mut self, number: usize) {
        let count = self.outgoing.len();
        let Some(outgoing) = self.outgoing.values_mut().nth(number % count.max(1)) else { return };
        let files = outgoing.tree.values_mut().filter_map(|item| if let Item::File(content) = item { Some(content) } else { None });
        if let Some(content) = files.max_by_key(|content| content.len()) {
            content.clear();
        }
    }

    /// Somebody changes a source of an outgoing transfer: the biggest, which is on its way the longest.
    pub(crate) fn change_source(&mut self, number: usize, how: Edited) {
        let count = self.outgoing.len();
        let Some(outgoing) = self.outgoing.values_mut().nth(number % count.max(1)) else { return };
        let size = |item: &Item| if let Item::File(content) = item { content.len() } else { 0 };
        let Some((path, item)) = outgoing.tree.iter_mut().max_by_key(|(_, item)| size(item)) else { return };
        let (path, Item::File(content)) = (path.clone(), &mut *item) else { return };
        // Its time is another, also where two changes give it its old size back.
        outgoing.touched.insert(path.clone());
        match how {
            Edited::Shorter => drop(content.pop()),
            Edited::Longer => content.push(7),
            Edited::Rewritten => content.fill(7),
            Edited::Deleted => drop(outgoing.tree.remove(&path)),
            Edited::Unreadable => drop(self.unreadable.insert(path)),
            Edited::Replaced => *item = Item::Directory,
        }
    }

    /// A sync fails, and the bytes that were not durable are gone: what is read back is zeros, and no later sync knows of it.
    pub(crate) fn lose_sync(&mut self, key: TransferKey) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        for temporary in self.incoming.get_mut(&key).into_iter().flat_map(|incoming| incoming.temporaries.values_mut()) {
            if temporary.unsynced > 0 {
                temporary.content.fill(0);
                (temporary.written, temporary.durable) = (Ranges::new(), Ranges::new());
                temporary.unsynced = 0;
            }
        }
        Err(FileFault::Io(5))
    }

    /// What a crash leaves of what was not durable.
    pub(crate) fn crash(&mut self, choices: &mut Choices) {
        let Self { arrived, files, .. } = self;
        arrived.retain(|path, of| {
            let survives = of.named || choices.coin(Site::Survive);
            if !survives {
                files.remove(path);
            } else if let (false, Some(Item::File(content))) = (of.synced, files.get_mut(path)) {
                match choices.below(Site::Survive, 4) {
                    0 => content.fill(0),
                    1 => content.clear(),
                    2 => content.truncate(content.len() / 2),
                    _ => {}
                }
            }
            (of.synced, of.named) = (true, true);
            survives
        });
        self.writes_fail = false;
        self.reads_fail = false;
    }

    /// The operation that was just performed did not become durable. Whether names were among it.
    pub(crate) fn undo_durability(&mut self) -> bool {
        let mut renamed = false;
        for path in self.just_published.drain(..) {
            if let Some(of) = self.arrived.get_mut(&path) {
                of.named = false;
                renamed = true;
            }
        }
        renamed
    }

    /// A whole operation fails. What removes things goes on all the same.
    pub(crate) fn fail(&mut self, key: TransferKey, op: FileOp, fault: FileFault) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        if matches!(op, FileOp::Clear | FileOp::Discard | FileOp::Keep) { self.perform(key, None, 0..0, op) } else { Err(fault) }
    }

    /// An entry has failed: nothing of it is kept.
    pub(crate) fn drop_entry(&mut self, key: TransferKey, entry: u32) {
        if let Some(incoming) = self.incoming.get_mut(&key) {
            incoming.temporaries.remove(&entry);
            incoming.left_out.insert(entry, EntryNote::Failed(FileFault::Io(5)));
        }
    }

    /// A restart finds what a crash left: of what was written, what was synced.
    pub(crate) fn sweep(&mut self, choices: &mut Choices) {
        // What was to be sent is sent as it was, if nobody touched it.
        let outgoing = std::mem::take(&mut self.outgoing).into_iter().filter(|(_, outgoing)| outgoing.touched.is_empty());
        // One that is another now is another transfer.
        let same = |outgoing: &Outgoing| manifest_of(&outgoing.tree, outgoing.manifest.chunk_size()).digest() == outgoing.manifest.digest();
        self.unsent.extend(outgoing.filter(|(_, outgoing)| same(outgoing)).map(|(key, outgoing)| (key, outgoing.tree)));
        for (key, mut incoming) in std::mem::take(&mut self.incoming) {
            for temporary in incoming.temporaries.values_mut().filter(|temporary| !temporary.content.is_empty()) {
                let size = temporary.content.len() as u64;
                let mut lost = Ranges::from(0..size);
                lost.subtract(&temporary.durable);
                for byte in lost.iter().flatten().filter_map(|byte| usize::try_from(byte).ok()) {
                    temporary.content[byte] = 0;
                }
                // What rots in a file of which nobody has said how it should be, is found when it is read back.
                if !temporary.durable.is_empty() && choices.below(Site::Survive, 4) == 3 {
                    temporary.content[0] ^= 1;
                }
            }
            self.leave(key, incoming);
        }
    }

    /// Whether what is durable of a transfer was kept at its end.
    pub(crate) fn was_kept(&self, key: &TransferKey) -> bool {
        self.kept.contains(key)
    }

    /// Whether a transfer took over what another left.
    pub(crate) fn has_taken_over(&self, key: &TransferKey) -> bool {
        self.took.contains(key)
    }

    /// Whether something was to be sent to this device in an earlier life.
    pub(crate) fn has_unsent(&self, device: DeviceId) -> bool {
        self.unsent.keys().any(|key| key.device == device)
    }

    /// What that was.
    pub(crate) fn take_unsent(&mut self, device: DeviceId) -> Vec<(TransferId, Tree)> {
        self.unsent.extract_if(.., |key, _| key.device == device).map(|(key, tree)| (key.id, tree)).collect()
    }

    /// Keeps what is durable of a transfer for another one that brings the same.
    fn leave(&mut self, key: TransferKey, incoming: Incoming) {
        let Incoming { manifest, temporaries, named, .. } = incoming;
        let of = |number: u32| manifest.entry(number).map(|entry| same(key, &entry));
        let bytes = temporaries.into_iter().filter(|(_, temporary)| !temporary.durable.is_empty());
        let bytes = bytes.map(|(number, temporary)| (number, Left::Bytes(temporary)));
        let named = named.into_iter().map(|(number, (path, digest))| (number, Left::Named(path, digest)));
        self.left.extend(bytes.chain(named).filter_map(|(number, left)| Some((of(number)?, left))));
    }

    /// The digest of a source, or of what was written.
    fn digest(&self, key: TransferKey, entries: Range<u32>) -> Vec<(u32, EntryNote)> {
        let read = |number: u32| match key.direction {
            Direction::Incoming => self
                .incoming
                .get(&key)
                .and_then(|incoming| incoming.temporaries.get(&number))
                .map(|of| of.content.clone())
                .ok_or(FileFault::NotFound),
            Direction::Outgoing => {
                let entry = self.outgoing.get(&key).and_then(|outgoing| outgoing.manifest.entry(number)).ok_or(FileFault::NotFound)?;
                let len = u32::try_from(entry.size).expect("small files");
                self.read(key, &Piece { entry: number, offset: 0, len, whole: true })
            }
        };
        let note = |content: Result<Vec<u8>, FileFault>| match content {
            Ok(content) => EntryNote::Digest(blake3::hash(&content).into()),
            Err(fault) => EntryNote::Failed(fault),
        };
        entries.map(|number| (number, note(read(number)))).collect()
    }

    /// Reads a piece of a source.
    pub(crate) fn read(&self, key: TransferKey, piece: &Piece) -> Result<Vec<u8>, FileFault> {
        if self.reads_fail {
            return Err(FileFault::Io(5));
        }
        let outgoing = self.outgoing.get(&key).ok_or(FileFault::NotFound)?;
        let entry = outgoing.manifest.entry(piece.entry).ok_or(FileFault::NotFound)?;
        if self.unreadable.contains(&entry.components) {
            return Err(FileFault::Denied);
        }
        let Some(Item::File(content)) = outgoing.tree.get(&entry.components) else { return Err(FileFault::NotFound) };
        if content.len() as u64 != entry.size || outgoing.touched.contains(&entry.components) {
            return Err(FileFault::Changed);
        }
        let from = usize::try_from(piece.offset).map_err(|_| FileFault::Changed)?;
        let len = usize::try_from(piece.len).map_err(|_| FileFault::Changed)?;
        content.get(from..from + len).map(<[u8]>::to_vec).ok_or(FileFault::Changed)
    }

    /// Writes a piece into its temporary file, if the entry has one.
    pub(crate) fn write(&mut self, key: TransferKey, piece: &Piece, bytes: &[u8]) -> Result<(), FileFault> {
        if self.writes_fail {
            return Err(FileFault::DiskFull);
        }
        let temporary = self.incoming.get_mut(&key).and_then(|incoming| incoming.temporaries.get_mut(&piece.entry));
        if let (Some(file), Ok(from)) = (temporary, usize::try_from(piece.offset)) {
            file.content[from..from + bytes.len()].copy_from_slice(bytes);
            file.synced = false;
            file.unsynced += bytes.len() as u64;
            file.written.insert(piece.offset..piece.offset + bytes.len() as u64);
        }
        Ok(())
    }

    pub(crate) fn perform(
        &mut self,
        key: TransferKey,
        manifest: Option<Arc<Manifest>>,
        entries: Range<u32>,
        op: FileOp,
    ) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        if op == FileOp::Digest {
            return Ok(self.digest(key, entries));
        }
        if op == FileOp::Keep {
            if let Some(mut incoming) = self.incoming.remove(&key) {
                incoming.temporaries.values_mut().for_each(|temporary| _ = temporary.sync());
                self.leave(key, incoming);
                self.kept.insert(key);
            }
            return Ok(Vec::new());
        }
        if op == FileOp::Inspect {
            let manifest = manifest.filter(|_| !self.no_inbox).ok_or(FileFault::NotFound)?;
            let made = Incoming {
                manifest,
                durable: None,
                temporaries: BTreeMap::new(),
                left_out: BTreeMap::new(),
                made: Vec::new(),
                named: BTreeMap::new(),
            };
            self.incoming.entry(key).or_insert(made);
        }
        let Self { files, incoming, on_conflict, arrived, just_published, left, .. } = self;
        let incoming = incoming.get_mut(&key).ok_or(FileFault::NotFound)?;
        Ok(match op {
            FileOp::Inspect => incoming.conflicts(files, entries).map(|entry| (entry, EntryNote::Conflict)).collect(),
            FileOp::Prepare => {
                incoming.durable.get_or_insert_default();
                let mut notes = incoming.take_over(key, files, arrived, left);
                if notes.iter().any(|(_, note)| matches!(note, EntryNote::Taken(_))) {
                    self.took.insert(key);
                }
                notes.extend(incoming.prepare(files, entries, *on_conflict));
                notes
            }
            FileOp::Sync => {
                for (_, file) in incoming.temporaries.range_mut(entries) {
                    *incoming.durable.get_or_insert_default() += file.sync();
                }
                Vec::new()
            }
            FileOp::Publish => {
                let notes = incoming.publish(key, files, arrived, entries, *on_conflict);
                just_published.clear();
                just_published.extend(arrived.iter().filter(|(_, of)| of.key == key).map(|(path, _)| path.clone()));
                notes
            }
            FileOp::Finish => incoming.finish(files, *on_conflict),
            FileOp::Digest | FileOp::Keep => Vec::new(),
            FileOp::Clear | FileOp::Discard => {
                incoming.temporaries.clear();
                incoming.named.clear();
                for path in incoming.made.drain(..).rev() {
                    let empty = !files.keys().any(|other| other.len() > path.len() && other.starts_with(&path));
                    if empty {
                        files.remove(&path);
                    }
                }
                Vec::new()
            }
        })
    }
}

impl Incoming {
    fn entries(&self, range: Range<u32>) -> Vec<(u32, Entry)> {
        range.filter_map(|number| Some((number, self.manifest.entry(number)?))).collect()
    }

    fn conflicts<'a>(&'a self, files: &'a Tree, range: Range<u32>) -> impl Iterator<Item = u32> + 'a {
        self.entries(range)
            .into_iter()
            .filter(|(_, entry)| match files.get(&entry.components) {
                Some(Item::Directory) => entry.kind != EntryKind::Directory,
                Some(_) => true,
                None => false,
            })
            .map(|(number, _)| number)
    }

    /// Finds what earlier transfers left of these files.
    fn take_over(
        &mut self,
        key: TransferKey,
        files: &Tree,
        arrived: &mut BTreeMap<Vec<Vec<u8>>, Arrived>,
        left: &mut BTreeMap<Same, Left>,
    ) -> Vec<(u32, EntryNote)> {
        let mut notes = Vec::new();
        for (number, entry) in self.entries(0..self.manifest.len()) {
            match left.remove(&same(key, &entry)) {
                Some(Left::Bytes(mut temporary)) => {
                    // What is not durable of it counts for nothing, so nothing of it is left to sync.
                    (temporary.synced, temporary.unsynced, temporary.written) = (true, 0, Ranges::new());
                    let bytes: Vec<Range<u64>> = temporary.durable.iter().collect();
                    *self.durable.get_or_insert_default() += temporary.durable.count();
                    self.temporaries.insert(number, temporary);
                    notes.push((number, EntryNote::Taken(bytes)));
                }
                Some(Left::Named(path, digest)) => {
                    let stands = matches!(files.get(&path), Some(Item::File(content)) if blake3::hash(content).as_bytes() == &digest);
                    if stands {
                        *self.durable.get_or_insert_default() += entry.size;
                        if let Some(of) = arrived.get_mut(&path) {
                            (of.key, of.entry) = (key, number);
                        }
                        let renamed_to = (path != entry.components).then(|| path.join(&b'/'));
                        self.named.insert(number, (path, digest));
                        notes.push((number, EntryNote::Kept { digest, renamed_to }));
                    }
                }
                None => {}
            }
        }
        notes
    }

    fn prepare(&mut self, files: &mut Tree, range: Range<u32>, on_conflict: OnConflict) -> Vec<(u32, EntryNote)> {
        let taken: BTreeSet<u32> = self.conflicts(files, range.clone()).collect();
        let mut notes = Vec::new();
        for (number, entry) in self.entries(range) {
            if self.named.contains_key(&number) {
                continue;
            }
            if taken.contains(&number) && on_conflict != OnConflict::Rename {
                let skip = on_conflict == OnConflict::Skip;
                let note = if skip { EntryNote::Skipped } else { EntryNote::Failed(FileFault::Exists) };
                self.left_out.insert(number, note.clone());
                notes.push((number, note));
                continue;
            }
            match entry.kind {
                EntryKind::File => drop(self.temporaries.entry(number).or_insert_with(|| Temporary::new(entry.size))),
                EntryKind::Directory if !files.contains_key(&entry.components) => {
                    files.insert(entry.components.clone(), Item::Directory);
                    self.made.push(entry.components);
                }
                EntryKind::Directory | EntryKind::Symlink => {}
            }
        }
        notes
    }

    fn publish(
        &mut self,
        key: TransferKey,
        files: &mut Tree,
        arrived: &mut BTreeMap<Vec<Vec<u8>>, Arrived>,
        range: Range<u32>,
        on_conflict: OnConflict,
    ) -> Vec<(u32, EntryNote)> {
        let mut notes = Vec::new();
        for (number, entry) in self.entries(range) {
            let Some(Temporary { content, synced, .. }) = self.temporaries.remove(&number) else { continue };
            let mut path = entry.components;
            if files.contains_key(&path) {
                if on_conflict != OnConflict::Rename {
                    notes.push((number, EntryNote::Failed(FileFault::Exists)));
                    continue;
                }
                while files.contains_key(&path) {
                    path.last_mut().expect("a path has a name").extend_from_slice(b" (2)");
                }
                notes.push((number, EntryNote::Renamed(path.join(&b'/'))));
            }
            self.named.insert(number, (path.clone(), blake3::hash(&content).into()));
            arrived.insert(path.clone(), Arrived { key, entry: number, synced, named: true });
            files.insert(path, Item::File(content));
        }
        notes
    }

    fn finish(&mut self, files: &mut Tree, on_conflict: OnConflict) -> Vec<(u32, EntryNote)> {
        let mut notes = Vec::new();
        for (number, entry) in self.entries(0..self.manifest.len()) {
            if let (EntryKind::Symlink, false, Some(target)) = (entry.kind, self.left_out.contains_key(&number), entry.target) {
                let mut path = entry.components;
                if files.contains_key(&path) {
                    if on_conflict != OnConflict::Rename {
                        notes.push((number, EntryNote::Failed(FileFault::Exists)));
                        continue;
                    }
                    while files.contains_key(&path) {
                        path.last_mut().expect("a path has a name").extend_from_slice(b" (2)");
                    }
                    notes.push((number, EntryNote::Renamed(path.join(&b'/'))));
                }
                files.insert(path, Item::Link(target));
            }
        }
        self.made.clear();
        notes
    }
}
