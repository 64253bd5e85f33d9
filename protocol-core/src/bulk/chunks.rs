//! Which chunks may be claimed, and by whom (PROTOCOL.md, section 9.4; ARCHITECTURE.md, "Chunks go round the Node").
//!
//! The Node allows chunks and stops; workers on any thread claim. No lock: 32 chunks are one word, their open bits together
//! with the *epoch* of the word, so that one compare-and-swap decides both what is claimed and whether the claimer may.
//!
//! At the receiver ([`Chunks::take`]) a chunk is claimed by its number, once over all streams; a claim that is dropped before
//! [`Claim::finish`] gives the chunk back.
//!
//! At the sender a stream claims through a [`Lane`]. A chunk that was claimed once and is allowed again raises the epoch of its
//! word, and lanes that are older than that get nothing more from the word: such a chunk goes only into a stream opened
//! afterwards, so no key ever seals an index twice.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::ids::TransferId;
use crate::transfer::layout::{Layout, Piece};
use crate::transfer::ranges::Ranges;

/// Chunks in a word.
const WORD: u64 = 32;
const BITS: u64 = u32::MAX as u64;

/// There is no memory for the claims of so many chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not enough memory for a transfer of so many chunks")
    }
}

impl core::error::Error for NoMemory {}

/// The chunks of one transfer in one direction. Three bits of memory a chunk: 24 KiB for 64 GiB in chunks of 1 MiB.
pub struct Chunks {
    transfer: TransferId,
    layout: Arc<Layout>,
    /// Low half: a bit for each chunk that may be claimed. High half: the epoch from which on lanes may.
    words: Box<[AtomicU64]>,
    /// A bit for each chunk that was ever claimed through a lane.
    claimed: Box<[AtomicU32]>,
    /// Counts the calls of [`Self::allow`] that allowed something again.
    epoch: AtomicU32,
    /// Where the next search begins. A hint: searches go round.
    cursor: AtomicUsize,
    /// Chunks that may be claimed now.
    open: AtomicU64,
    /// Claims that are neither finished nor given back.
    held: AtomicU64,
    finished: AtomicU64,
    finished_bytes: AtomicU64,
    refused: AtomicU64,
    paused: AtomicBool,
    stopped: AtomicBool,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks")
            .field("transfer", &self.transfer)
            .field("open", &self.open())
            .field("held", &self.held())
            .field("finished", &self.finished())
            .finish_non_exhaustive()
    }
}

impl Chunks {
    /// No chunk may be claimed yet.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new(transfer: TransferId, layout: Arc<Layout>) -> Result<Arc<Self>, NoMemory> {
        let words = usize::try_from(layout.chunks().div_ceil(WORD)).map_err(|_| NoMemory)?;
        Ok(Arc::new(Self {
            transfer,
            layout,
            words: zeros(words)?,
            claimed: zeros(words)?,
            epoch: AtomicU32::new(0),
            cursor: AtomicUsize::new(0),
            open: AtomicU64::new(0),
            held: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            finished_bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }))
    }

    /// The transfer.
    pub const fn transfer(&self) -> TransferId {
        self.transfer
    }

    /// Which bytes of which files a chunk holds.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    // The Node's side. One thread at a time.

    /// These chunks may be claimed, once more each; numbers beyond the layout are passed over. The Node only.
    pub fn allow(&self, chunks: &Ranges) {
        let next = self.epoch.load(Ordering::Relaxed).saturating_add(1);
        let mut again = false;
        for (word, bits) in self.words_of(chunks) {
            let mut old = self.words[word].load(Ordering::SeqCst);
            loop {
                // A worker marks a chunk as claimed before it takes the bit. So, read after the word: what was taken is marked,
                // and what is taken from now on makes the exchange fail.
                let claimed = u64::from(self.claimed[word].load(Ordering::SeqCst)) & bits != 0 && !planted!(AgainOnSameStream);
                let epoch = (old >> WORD).max(if claimed { u64::from(next) } else { 0 });
                // Counted first: `open` may be too large for a moment, never too small.
                let added = u64::from((bits & !old).count_ones());
                self.open.fetch_add(added, Ordering::SeqCst);
                let new = epoch << WORD | (old & BITS) | bits;
                match self.words[word].compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => {
                        again |= claimed;
                        break;
                    }
                    Err(now) => {
                        self.open.fetch_sub(added, Ordering::SeqCst);
                        old = now;
                    }
                }
            }
            self.cursor.fetch_min(word, Ordering::Relaxed);
        }
        if again {
            self.epoch.store(next, Ordering::SeqCst);
            if next == u32::MAX {
                // Epochs are used up; nobody asks for chunks that often in good faith.
                self.stop();
            }
        }
    }

    /// These chunks may not be claimed any more. Claims that are held stay. The Node only.
    pub fn withdraw(&self, chunks: &Ranges) {
        for (word, bits) in self.words_of(chunks) {
            let old = self.words[word].fetch_and(!bits, Ordering::SeqCst);
            self.open.fetch_sub(u64::from((old & bits).count_ones()), Ordering::SeqCst);
        }
    }

    /// While paused nothing is claimed. The Node only.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// Nothing is claimed, sealed or finished any more. The Node only.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// The claims of a bulk stream that is opened now. The Node only.
    // XFER-10.
    pub fn lane(self: &Arc<Self>) -> Lane {
        Lane { chunks: Arc::clone(self), epoch: self.epoch.load(Ordering::SeqCst) }
    }

    // The workers' side. Any thread.

    /// Claims the chunk `index` of a receiving transfer, whose plaintext is to have `len` bytes. `None`, counted in
    /// [`Self::refused`]: it is not wanted, is claimed already, or the layout gives another length.
    // DATA-23.
    pub fn take(self: &Arc<Self>, index: u64, len: u32) -> Option<Claim> {
        if self.idle() {
            return None;
        }
        let claim = self.take_bit(index, len);
        if claim.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        claim
    }

    fn take_bit(self: &Arc<Self>, index: u64, len: u32) -> Option<Claim> {
        let (word, bit) = (usize::try_from(index / WORD).ok()?, 1 << (index % WORD));
        let word = self.words.get(word)?;
        if word.load(Ordering::Relaxed) & bit == 0 || (self.layout.chunk_len(index) != Some(len) && !planted!(ChunkLengthUnchecked)) {
            return None;
        }
        if word.fetch_and(!bit, Ordering::SeqCst) & bit == 0 {
            return None;
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_sub(1, Ordering::SeqCst);
        Some(Claim { chunks: Arc::clone(self), index, len, lane: None, held: true })
    }

    /// Whether everything ended.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether nothing is left to claim now, and no claim is held that could be given back.
    pub fn exhausted(&self) -> bool {
        self.open() == 0 && self.held() == 0
    }

    /// Chunks that may be claimed now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Claims that are neither finished nor given back.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// Claims that were finished: sealed at the sender, written at the receiver. A chunk sent twice counts twice.
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Bytes of content in the finished claims.
    pub fn finished_bytes(&self) -> u64 {
        self.finished_bytes.load(Ordering::Relaxed)
    }

    /// Chunks that came and were not wanted.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn idle(&self) -> bool {
        self.stopped() || self.paused.load(Ordering::SeqCst)
    }

    /// The next run for a lane of this epoch, at most `max` long.
    fn claim_run(&self, epoch: u32, max: u32) -> Option<Range<u64>> {
        if max == 0 || self.idle() || self.open() == 0 {
            return None;
        }
        let from = self.cursor.load(Ordering::Relaxed).min(self.words.len());
        for at in (from..self.words.len()).chain(0..from) {
            if let Some((first, count)) = self.claim_in(at, epoch, max) {
                self.cursor.store(at, Ordering::Relaxed);
                let first = at as u64 * WORD + u64::from(first);
                return Some(first..first + u64::from(count));
            }
        }
        None
    }

    /// The first run inside one word: its first bit and its length.
    fn claim_in(&self, at: usize, epoch: u32, max: u32) -> Option<(u32, u32)> {
        let word = &self.words[at];
        let mut old = word.load(Ordering::SeqCst);
        loop {
            let bits = old & BITS;
            if bits == 0 || old >> WORD > u64::from(epoch) {
                return None;
            }
            let first = bits.trailing_zeros();
            let count = (bits >> first).trailing_ones().min(max);
            let run = ((1_u64 << count) - 1) << first;
            // Marked before it is taken: see `allow`. If the exchange fails, a mark too many only costs a newer lane.
            self.claimed[at].fetch_or((run & BITS) as u32, Ordering::SeqCst);
            match word.compare_exchange(old, old & !run, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.held.fetch_add(u64::from(count), Ordering::SeqCst);
                    self.open.fetch_sub(u64::from(count), Ordering::SeqCst);
                    return Some((first, count));
                }
                Err(now) => old = now,
            }
        }
    }

    // DATA-22.
    /// A claim that came through a lane of epoch `lane` (`None` at the receiver) comes back unfinished.
    fn give_back(&self, index: u64, lane: Option<u32>) {
        let at = usize::try_from(index / WORD).ok();
        if let Some(word) = at.and_then(|at| self.words.get(at)) {
            let bit = 1 << (index % WORD);
            let mut old = word.load(Ordering::SeqCst);
            // If the word was allowed again meanwhile, a newer lane may have sealed the chunk, and must not get it a second time:
            // whoever misses it asks again.
            while !planted!(ClaimNotGivenBack) && old & bit == 0 && lane.is_none_or(|lane| old >> WORD <= u64::from(lane)) {
                self.open.fetch_add(1, Ordering::SeqCst);
                match word.compare_exchange(old, old | bit, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => break,
                    Err(now) => {
                        self.open.fetch_sub(1, Ordering::SeqCst);
                        old = now;
                    }
                }
            }
        }
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    /// The words that hold these chunks, and which of their bits.
    fn words_of(&self, chunks: &Ranges) -> impl Iterator<Item = (usize, u64)> {
        let total = self.layout.chunks();
        chunks.iter().flat_map(move |range| {
            let (start, end) = (range.start.min(total), range.end.min(total));
            (start / WORD..end.div_ceil(WORD)).filter_map(move |word| {
                let (from, to) = (start.max(word * WORD) - word * WORD, end.min((word + 1) * WORD) - word * WORD);
                let bits = ((1 << to) - 1) & !((1_u64 << from) - 1);
                usize::try_from(word).ok().filter(|_| bits != 0).map(|word| (word, bits))
            })
        })
    }
}

fn zeros<T: Default>(count: usize) -> Result<Box<[T]>, NoMemory> {
    let mut words = Vec::new();
    words.try_reserve_exact(count).map_err(|_| NoMemory)?;
    words.resize_with(count, T::default);
    Ok(words.into_boxed_slice())
}

/// The claims of one bulk stream of the sender.
#[derive(Debug)]
pub struct Lane {
    chunks: Arc<Chunks>,
    epoch: u32,
}

impl Lane {
    /// Claims the next run of consecutive chunks, at most `max` (and at most 32). `None`: there is nothing for this stream now;
    /// more may be allowed later, unless the set [`stopped`](Chunks::stopped).
    pub fn next(&self, max: u32) -> Option<Run> {
        let rest = self.chunks.claim_run(self.epoch, max)?;
        Some(Run { chunks: Arc::clone(&self.chunks), rest, epoch: self.epoch })
    }

    /// The set it claims from.
    pub const fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// Whether `claim` came out of a lane like this one: of the same set, and not of a newer stream.
    pub(crate) fn owns(&self, claim: &Claim) -> bool {
        Arc::ptr_eq(&self.chunks, &claim.chunks) && claim.lane == Some(self.epoch)
    }
}

/// Claimed chunks with consecutive numbers, taken out one by one. What is left when it is dropped is given back.
#[derive(Debug)]
pub struct Run {
    chunks: Arc<Chunks>,
    rest: Range<u64>,
    epoch: u32,
}

impl Run {
    /// The numbers that are left.
    pub fn indices(&self) -> Range<u64> {
        self.rest.clone()
    }
}

impl Iterator for Run {
    type Item = Claim;

    fn next(&mut self) -> Option<Claim> {
        let index = self.rest.next()?;
        let len = self.chunks.layout.chunk_len(index).unwrap_or(0);
        Some(Claim { chunks: Arc::clone(&self.chunks), index, len, lane: Some(self.epoch), held: true })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for index in self.rest.clone() {
            self.chunks.give_back(index, Some(self.epoch));
        }
    }
}

/// One chunk, in one pair of hands. Dropped without [`finish`](Self::finish) it can be claimed again.
#[derive(Debug)]
pub struct Claim {
    chunks: Arc<Chunks>,
    index: u64,
    len: u32,
    /// The epoch of the lane that it came through; `None` at the receiver.
    lane: Option<u32>,
    /// Whether it is given back when dropped.
    held: bool,
}

impl Claim {
    /// The chunk's number.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Bytes of its plaintext.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Never: every chunk has content.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it holds.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.chunks.layout.pieces(self.index)
    }

    /// The set it was claimed from.
    pub const fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// The work is done: sealed, or written. The chunk stays claimed.
    pub fn finish(mut self) {
        self.chunks.finished.fetch_add(1, Ordering::Relaxed);
        self.chunks.finished_bytes.fetch_add(u64::from(self.len), Ordering::Relaxed);
        self.chunks.held.fetch_sub(1, Ordering::SeqCst);
        self.held = planted!(FinishedClaimReturns) && self.lane.is_none();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.held {
            self.chunks.give_back(self.index, self.lane);
        }
    }
}

#[cfg(test)]
mod tests;
