//! What is known of each entry: the digest of its content, how it ended, and the receipt over all of them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Io;
use crate::bulk::digest::{self, FileDigest};
use crate::effects::{ChunkDone, Event, Summary, TransferKey};
use crate::faults::FileFault;
use crate::transfer::manifest::{EntryKind, Manifest};
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::{Outcome, ReceiptDigest};

/// Digests of the files whose bytes this side has seen. At most one value is kept for each chunk of an unfinished file.
#[derive(Default)]
pub(super) struct Digests {
    started: BTreeMap<u32, FileDigest>,
    whole: BTreeMap<u32, [u8; 32]>,
}

impl Digests {
    /// Adds the values of a chunk; calls `finished` for each file that is whole now. A chunk that comes twice changes nothing.
    pub(super) fn add(&mut self, manifest: &Manifest, done: &ChunkDone, mut wanted: impl FnMut(u32) -> bool, finished: &mut Vec<u32>) {
        for (piece, value) in manifest.layout().pieces(done.index).zip(&*done.values) {
            if self.whole.contains_key(&piece.entry) || !wanted(piece.entry) {
                continue;
            }
            let whole = if piece.whole {
                Some(value.0)
            } else {
                let file = self
                    .started
                    .entry(piece.entry)
                    .or_insert_with(|| FileDigest::new(manifest.entry(piece.entry).map_or(0, |entry| entry.size), manifest.chunk_size()));
                file.add(piece.offset, *value);
                file.digest()
            };
            if let Some(whole) = whole {
                self.started.remove(&piece.entry);
                self.whole.insert(piece.entry, whole);
                finished.push(piece.entry);
            }
        }
    }

    pub(super) fn get(&self, entry: u32) -> Option<&[u8; 32]> {
        self.whole.get(&entry)
    }

    /// The digest of a file that was read for it, and not by its chunks.
    pub(super) fn insert(&mut self, entry: u32, digest: [u8; 32]) {
        self.started.remove(&entry);
        self.whole.insert(entry, digest);
    }

    /// A file without content has a digest before anything is read.
    pub(super) fn insert_empty(&mut self, entry: u32) {
        self.whole.insert(entry, digest::empty());
    }

    pub(super) fn forget(&mut self, entry: u32) {
        self.started.remove(&entry);
        self.whole.remove(&entry);
    }
}

/// Which chunks hold nothing but entries that are out.
pub(super) fn chunks_of_only(manifest: &Manifest, entry: u32, out: impl Fn(u32) -> bool) -> Ranges {
    let layout = manifest.layout();
    let chunks = layout.chunks_of(entry);
    // A file of several chunks shares none of them.
    let alone = chunks.end - chunks.start > 1 || layout.pieces(chunks.start).all(|piece| piece.entry == entry || out(piece.entry));
    if alone { Ranges::from(chunks) } else { Ranges::new() }
}

/// Bytes of these chunks together.
pub(super) fn bytes_of(manifest: &Manifest, chunks: &Ranges) -> u64 {
    let layout = manifest.layout();
    if *chunks == Ranges::from(0..layout.chunks()) {
        return layout.bytes();
    }
    chunks.iter().flatten().filter_map(|chunk| layout.chunk_len(chunk)).map(u64::from).sum()
}

/// How an entry ended here, and what the owner is told with it.
#[derive(Default)]
pub(super) struct Ending {
    pub(super) digest: Option<[u8; 32]>,
    pub(super) renamed_to: Option<Vec<u8>>,
    pub(super) fault: Option<FileFault>,
}

impl Ending {
    pub(super) fn fault(fault: FileFault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    pub(super) fn event(self, transfer: TransferKey, entry: u32, outcome: Outcome) -> Event {
        Event::Entry { transfer, entry, outcome, digest: self.digest, renamed_to: self.renamed_to, fault: self.fault }
    }
}

/// Every entry's outcome, and what each comes to.
pub(super) fn sum_up(
    transfer: TransferKey,
    manifest: &Manifest,
    outcome: impl Fn(u32) -> Outcome,
    digest: impl Fn(u32) -> Option<[u8; 32]>,
) -> ([u8; 32], Summary) {
    let mut receipt = ReceiptDigest::new(transfer.id, manifest.digest());
    let mut summary = Summary::default();
    for (number, entry) in (0..).zip(manifest.entries()) {
        let outcome = outcome(number);
        receipt.entry(entry.kind, entry.size, outcome, digest(number).as_ref());
        match outcome {
            Outcome::Stored | Outcome::Renamed if entry.kind == EntryKind::File => {
                summary.files += 1;
                summary.bytes += entry.size;
                summary.renamed += u64::from(outcome == Outcome::Renamed);
            }
            Outcome::Stored | Outcome::Renamed => {}
            Outcome::Skipped => summary.skipped += 1,
            Outcome::Failed | Outcome::SourceChanged | Outcome::Other(_) => summary.failed += 1,
        }
    }
    (receipt.finish(), summary)
}

/// How the entries ended at a receiver, so far. An entry ends once.
pub(super) struct Outcomes {
    kinds: Vec<EntryKind>,
    outcomes: Vec<Option<Outcome>>,
    digests: BTreeMap<u32, [u8; 32]>,
    left: usize,
    files_left: usize,
}

impl Outcomes {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let kinds: Vec<_> = manifest.entries().map(|entry| entry.kind).collect();
        let (left, files_left) = (kinds.len(), kinds.iter().filter(|&&kind| kind == EntryKind::File).count());
        Self { outcomes: alloc::vec![None; kinds.len()], kinds, digests: BTreeMap::new(), left, files_left }
    }

    /// Whether there is such an entry, and it has not ended.
    pub(super) fn is_open(&self, entry: u32) -> bool {
        usize::try_from(entry).is_ok_and(|entry| self.outcomes.get(entry) == Some(&None))
    }

    pub(super) fn is_file(&self, entry: u32) -> bool {
        usize::try_from(entry).is_ok_and(|entry| self.kinds.get(entry) == Some(&EntryKind::File))
    }

    /// Entries that have not ended.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// Files that have not ended.
    pub(super) const fn files_left(&self) -> usize {
        self.files_left
    }

    /// Ends an entry and tells the owner; `false` if it had ended before.
    pub(super) fn settle(&mut self, io: &mut Io<'_, '_>, entry: u32, outcome: Outcome, ending: Ending) -> bool {
        if !self.is_open(entry) {
            return false;
        }
        let at = usize::try_from(entry).expect("invariant: it is open, so it is in the list");
        self.outcomes[at] = Some(outcome);
        self.left -= 1;
        if self.kinds[at] == EntryKind::File {
            self.files_left -= 1;
        }
        if let Some(digest) = ending.digest {
            self.digests.insert(entry, digest);
        }
        io.notify(ending.event(io.key, entry, outcome));
        true
    }

    /// Entries that were not simply stored, ascending.
    pub(super) fn others(&self) -> impl Iterator<Item = (u32, Outcome)> + '_ {
        (0..)
            .zip(&self.outcomes)
            .map(|(entry, outcome)| (entry, outcome.unwrap_or(Outcome::Failed)))
            .filter(|&(_, outcome)| outcome != Outcome::Stored)
    }

    /// The receipt's digest, and what it all comes to.
    pub(super) fn sum_up(&self, transfer: TransferKey, manifest: &Manifest) -> ([u8; 32], Summary) {
        let outcome = |entry: u32| {
            let known = usize::try_from(entry).ok().and_then(|entry| self.outcomes.get(entry).copied().flatten());
            known.unwrap_or(Outcome::Failed)
        };
        sum_up(transfer, manifest, outcome, |entry| self.digests.get(&entry).copied())
    }
}
