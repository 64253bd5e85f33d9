//! Files in memory: sources, temporaries, and what stands under final names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use protocol_core::effects::{EntryNote, FileOp, TransferKey};
use protocol_core::faults::FileFault;
use protocol_core::transfer::layout::Piece;
use protocol_core::transfer::manifest::{Entry, EntryKind, Manifest};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// The entry fails.
    #[default]
    Fail,
    /// The entry is left out.
    Skip,
    /// The entry gets another name.
    Rename,
}

#[derive(Debug)]
struct Outgoing {
    manifest: Arc<Manifest>,
    tree: Tree,
}

#[derive(Debug)]
struct Incoming {
    manifest: Arc<Manifest>,
    temporaries: BTreeMap<u32, Vec<u8>>,
    left_out: BTreeMap<u32, EntryNote>,
    made: Vec<Vec<Vec<u8>>>,
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
    outgoing: BTreeMap<TransferKey, Outgoing>,
    incoming: BTreeMap<TransferKey, Incoming>,
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
        Entry { components: path.clone(), kind, size, mode: 0o644, mtime_s: 0, mtime_ns: 0, target }
    });
    Arc::new(Manifest::build(entries, chunk_size).expect("a test's tree is legal"))
}

impl Disk {
    /// Temporary files of all transfers that are not over.
    pub fn temporaries(&self) -> usize {
        self.incoming.values().map(|incoming| incoming.temporaries.len()).sum()
    }

    pub(crate) fn offer(&mut self, key: TransferKey, manifest: Arc<Manifest>, tree: Tree) {
        self.outgoing.insert(key, Outgoing { manifest, tree });
    }

    /// The transfer is over.
    pub(crate) fn forget(&mut self, key: TransferKey) {
        self.outgoing.remove(&key);
        // What a Discard that is still under way would remove goes with it.
        self.incoming.remove(&key);
    }

    /// A restart sweeps what a crash left.
    pub(crate) fn sweep(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
    }

    /// Reads a piece of a source.
    pub(crate) fn read(&self, key: TransferKey, piece: &Piece) -> Result<Vec<u8>, FileFault> {
        let outgoing = self.outgoing.get(&key).ok_or(FileFault::NotFound)?;
        let entry = outgoing.manifest.entry(piece.entry).ok_or(FileFault::NotFound)?;
        if self.unreadable.contains(&entry.components) {
            return Err(FileFault::Denied);
        }
        let Some(Item::File(content)) = outgoing.tree.get(&entry.components) else { return Err(FileFault::NotFound) };
        let from = usize::try_from(piece.offset).map_err(|_| FileFault::Changed)?;
        let len = usize::try_from(piece.len).map_err(|_| FileFault::Changed)?;
        content.get(from..from + len).map(<[u8]>::to_vec).ok_or(FileFault::Changed)
    }

    /// Writes a piece into its temporary file, if the entry has one.
    pub(crate) fn write(&mut self, key: TransferKey, piece: &Piece, bytes: &[u8]) {
        let temporary = self.incoming.get_mut(&key).and_then(|incoming| incoming.temporaries.get_mut(&piece.entry));
        if let (Some(file), Ok(from)) = (temporary, usize::try_from(piece.offset)) {
            file[from..from + bytes.len()].copy_from_slice(bytes);
        }
    }

    pub(crate) fn perform(
        &mut self,
        key: TransferKey,
        manifest: Option<Arc<Manifest>>,
        entries: Range<u32>,
        op: FileOp,
    ) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        if op == FileOp::Inspect {
            let manifest = manifest.filter(|_| !self.no_inbox).ok_or(FileFault::NotFound)?;
            let made = Incoming { manifest, temporaries: BTreeMap::new(), left_out: BTreeMap::new(), made: Vec::new() };
            self.incoming.entry(key).or_insert(made);
        }
        let Self { files, incoming, on_conflict, .. } = self;
        let incoming = incoming.get_mut(&key).ok_or(FileFault::NotFound)?;
        Ok(match op {
            FileOp::Inspect => incoming.conflicts(files, entries).map(|entry| (entry, EntryNote::Conflict)).collect(),
            FileOp::Prepare => incoming.prepare(files, entries, *on_conflict),
            FileOp::Sync => Vec::new(),
            FileOp::Publish => incoming.publish(files, entries, *on_conflict),
            FileOp::Finish => incoming.finish(files),
            FileOp::Discard => {
                incoming.temporaries.clear();
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

    fn prepare(&mut self, files: &mut Tree, range: Range<u32>, on_conflict: OnConflict) -> Vec<(u32, EntryNote)> {
        let taken: BTreeSet<u32> = self.conflicts(files, range.clone()).collect();
        let mut notes = Vec::new();
        for (number, entry) in self.entries(range) {
            if taken.contains(&number) && on_conflict != OnConflict::Rename {
                let skip = on_conflict == OnConflict::Skip;
                let note = if skip { EntryNote::Skipped } else { EntryNote::Failed(FileFault::Exists) };
                self.left_out.insert(number, note.clone());
                notes.push((number, note));
                continue;
            }
            match entry.kind {
                EntryKind::File => {
                    self.temporaries.insert(number, vec![0; usize::try_from(entry.size).expect("small files")]);
                }
                EntryKind::Directory if !files.contains_key(&entry.components) => {
                    files.insert(entry.components.clone(), Item::Directory);
                    self.made.push(entry.components);
                }
                EntryKind::Directory | EntryKind::Symlink => {}
            }
        }
        notes
    }

    fn publish(&mut self, files: &mut Tree, range: Range<u32>, on_conflict: OnConflict) -> Vec<(u32, EntryNote)> {
        let mut notes = Vec::new();
        for (number, entry) in self.entries(range) {
            let Some(content) = self.temporaries.remove(&number) else { continue };
            let mut path = entry.components;
            if files.contains_key(&path) {
                if on_conflict != OnConflict::Rename {
                    notes.push((number, EntryNote::Failed(FileFault::Exists)));
                    continue;
                }
                let last = path.last_mut().expect("a path has a name");
                last.extend_from_slice(b" (2)");
                notes.push((number, EntryNote::Renamed(path.join(&b'/'))));
            }
            files.insert(path, Item::File(content));
        }
        notes
    }

    fn finish(&mut self, files: &mut Tree) -> Vec<(u32, EntryNote)> {
        for (number, entry) in self.entries(0..self.manifest.len()) {
            if let (EntryKind::Symlink, false, Some(target)) = (entry.kind, self.left_out.contains_key(&number), entry.target) {
                files.insert(entry.components, Item::Link(target));
            }
        }
        self.made.clear();
        Vec::new()
    }
}
