//! A sender whose offer was accepted: what is sent, read, durable and failed, until the receipt.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::entries::{Digests, Ending, bytes_of, chunks_of_only, sum_up};
use super::progress::Progress;
use super::{Io, Job, Stop, TransferTimer, narrow};
use crate::bulk::chunks::Chunks;
use crate::bulk::cipher::Aead;
use crate::bulk::sealer::Sealer;
use crate::effects::{BulkHalf, BulkReport, EntryNote, Event, FileOp, Output};
use crate::faults::{CancelReason, Failure, FileFault};
use crate::ids::StreamId;
use crate::limits;
use crate::session::keys::StreamKey;
use crate::session::stream::StreamKind;
use crate::transfer::manifest::{EntryKind, Manifest};
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::Outcome;
use crate::wire::control::ControlMessage;

/// Entries whose digests nobody asked for, between two that go into one message all the same.
const DIGEST_GAP: u32 = 4;

pub(super) struct Sending {
    manifest: Arc<Manifest>,
    kinds: Vec<EntryKind>,
    /// What may be claimed. It knows by itself what may go again, and only into newer streams.
    chunks: Arc<Chunks>,
    streams: BTreeSet<StreamId>,
    /// Streams that are being opened.
    awaited: usize,
    /// Those of them that the peer was asked to open.
    requested: usize,
    /// Something is to go again, and no stream is new enough.
    newer: bool,
    /// Streams that could not be opened, one after the other.
    failures: u32,
    /// Streams that ended without anything sent, one after the other.
    fruitless: u32,
    /// Accepts that named again what was sent, since the last chunk became durable.
    repeats: u32,
    /// Digests that were asked for again after they were told.
    told_again: u64,
    paused: bool,
    /// No session stands, or the receiver has not answered there yet: what it wants is not known.
    parked: bool,
    named: Ranges,
    sent: Ranges,
    /// What was sent before the last interruption, and is not wanted again.
    sent_before: Ranges,
    /// Chunks that the receiver has from an earlier try: they count as sent, and were not read here.
    before: Ranges,
    durable: Ranges,
    /// Chunks that hold nothing but failed sources.
    given_up: Ranges,
    /// Of these, the ones that had not left when they were given up: if they leave all the same, they are no progress.
    uncounted: Ranges,
    digests: Digests,
    /// Entries whose digests are wanted; those that are known and not told; those that were told.
    asked: Ranges,
    untold: Ranges,
    told: Ranges,
    failed: BTreeSet<u32>,
    /// Entries that the host was asked to digest, because not all of them is read in this life of the process.
    reread: Ranges,
    receipt: Option<Receipt>,
    progress: Progress,
}

/// The parts of the receipt so far.
struct Receipt {
    digest: [u8; 32],
    others: BTreeMap<u32, Outcome>,
    /// All parts are here, and the digests of ours that it is compared with are not.
    whole: bool,
}

impl Sending {
    pub(super) fn new(io: &Io<'_, '_>, manifest: Arc<Manifest>) -> Result<Self, Stop> {
        let chunks = Chunks::new(io.key.id, Arc::clone(manifest.layout())).map_err(|_| Stop::Cancel(CancelReason::Policy))?;
        let mut digests = Digests::default();
        let mut kinds = Vec::new();
        for (number, entry) in (0..).zip(manifest.entries()) {
            kinds.push(entry.kind);
            if entry.kind == EntryKind::File && entry.size == 0 {
                digests.insert_empty(number);
            }
        }
        Ok(Self {
            manifest,
            kinds,
            chunks,
            streams: BTreeSet::new(),
            awaited: 0,
            requested: 0,
            newer: false,
            failures: 0,
            fruitless: 0,
            repeats: 0,
            told_again: 0,
            paused: false,
            parked: false,
            named: Ranges::new(),
            sent: Ranges::new(),
            sent_before: Ranges::new(),
            before: Ranges::new(),
            durable: Ranges::new(),
            given_up: Ranges::new(),
            uncounted: Ranges::new(),
            digests,
            asked: Ranges::new(),
            untold: Ranges::new(),
            told: Ranges::new(),
            failed: BTreeSet::new(),
            reread: Ranges::new(),
            receipt: None,
            progress: Progress::default(),
        })
    }

    #[cfg(feature = "testing")]
    pub(super) const fn probe_state(&self) -> &'static str {
        match (self.parked, self.paused) {
            (true, _) => "Sending, parked",
            (false, true) => "Sending, paused",
            (false, false) => "Sending",
        }
    }

    /// The session is gone, and with it what was said on it. Streams that are there may go on to their end; none is opened.
    pub(super) fn park(&mut self, io: &mut Io<'_, '_>) {
        self.parked = true;
        (self.awaited, self.requested) = (0, 0);
        io.shared.opening.remove(&io.key);
        self.receipt = None;
        self.progress.tell_now(io);
    }

    /// The receiver answers an offer that was made again: what it wants starts anew, and what it was told may be lost. What it has thrown
    /// away meanwhile it names again.
    // XFER-25.
    fn renew(&mut self, io: &mut Io<'_, '_>, named: &Ranges) {
        self.parked = false;
        (self.failures, self.fruitless, self.repeats, self.told_again) = (0, 0, 0, 0);
        (self.asked, self.untold, self.told) = (Ranges::new(), Ranges::new(), Ranges::new());
        if !planted!(WantedKept) {
            self.chunks.withdraw(&self.named);
        }
        let mut unsent = self.named.clone();
        unsent.subtract(&self.sent);
        unsent.subtract(&self.given_up);
        self.progress.total -= bytes_of(&self.manifest, &unsent);
        self.named.subtract(&unsent);
        for &entry in &self.failed {
            io.tell(ControlMessage::SourceChanged { transfer: io.key.id, entry });
        }
        let mut gone = if planted!(ThrownAwayCounted) { Ranges::new() } else { self.durable.common(named) };
        self.durable.subtract(&gone);
        gone.subtract(&self.uncounted);
        self.progress.durable -= bytes_of(&self.manifest, &gone);
        self.progress.resumed = self.progress.durable;
        self.sent_before.clone_from(&self.sent);
        io.notify(Event::Resumed { transfer: io.key, durable: self.progress.durable });
    }

    // What the receiver says.

    pub(super) fn on_accept(&mut self, io: &mut Io<'_, '_>, mut chunks: Ranges, digests: Ranges) -> Result<(), Stop> {
        let within = chunks.within(self.manifest.layout().chunks()) && digests.within(u64::from(self.manifest.len()));
        if !within && !planted!(RangesBeyond) {
            return Err(Stop::Violation);
        }
        if self.parked {
            self.renew(io, &chunks);
        }
        chunks.subtract(&self.given_up);
        let again = !chunks.common(&self.sent).is_empty();
        let told_again = digests.common(&self.told);
        self.repeats += u32::from(again);
        self.told_again += told_again.count();
        let most = u64::from(limits::FRUITLESS_ACCEPTS) * u64::from(self.manifest.len());
        if (self.repeats > limits::FRUITLESS_ACCEPTS || self.told_again > most) && !planted!(FruitlessAcceptsUnbounded) {
            return Err(Stop::Cancel(CancelReason::Policy));
        }
        let mut new = chunks.clone();
        new.subtract(&self.named);
        self.progress.total += bytes_of(&self.manifest, &new);
        self.named.union(&new);
        if planted!(UnnamedSent) {
            chunks = Ranges::from(0..self.manifest.layout().chunks());
        }
        self.chunks.allow(&chunks);
        self.sent_before.subtract(&chunks);
        self.newer |= again;
        // What was asked for before is told as soon as it is known: naming it again causes no work.
        let mut asked_first = digests.clone();
        asked_first.subtract(&self.asked);
        for entry in asked_first.iter().chain(told_again.iter()).flatten().filter_map(|entry| u32::try_from(entry).ok()) {
            if self.digests.get(entry).is_some() {
                self.untold.insert(u64::from(entry)..u64::from(entry) + 1);
            }
        }
        self.asked.union(&digests);
        if self.streams.is_empty() {
            // It asks again because none of those came that it was asked for.
            self.forget_requested(io);
        }
        self.tell_digests(io);
        self.failures = 0;
        self.open_streams(io);
        let unread =
            digests.iter().flatten().filter_map(|entry| u32::try_from(entry).ok()).filter(|&entry| self.is_unread(entry)).collect();
        self.read_again(io, unread);
        Ok(())
    }

    /// Chunks of a file that the receiver has from an earlier try: they are not read to be sent.
    fn passed_over(&self, entry: u32) -> Ranges {
        let chunks = Ranges::from(self.manifest.layout().chunks_of(entry));
        let mut passed_over = chunks.clone();
        passed_over.subtract(&self.named);
        passed_over.subtract(&self.sent);
        passed_over.union(&chunks.common(&self.before));
        passed_over
    }

    /// Whether a file is not read whole by sending what is to be sent of it, and can be.
    fn is_unread(&self, entry: u32) -> bool {
        !self.passed_over(entry).is_empty() && self.digests.get(entry).is_none() && !self.failed.contains(&entry)
    }

    /// Has the host digest these files: their bytes do not all pass here.
    // XFER-26.
    fn read_again(&mut self, io: &mut Io<'_, '_>, entries: Vec<u32>) {
        let mut entries: Ranges = entries.into_iter().map(|entry| u64::from(entry)..u64::from(entry) + 1).collect();
        entries.subtract(&self.reread);
        self.reread.union(&entries);
        for range in entries.iter() {
            let range = narrow(&range);
            io.files(range.clone(), FileOp::Digest, Job::Digest(range));
        }
    }

    /// The host has digested files.
    pub(super) fn on_digested(
        &mut self,
        io: &mut Io<'_, '_>,
        range: core::ops::Range<u32>,
        notes: Result<Vec<(u32, EntryNote)>, Failure>,
    ) -> Result<bool, Stop> {
        self.reread.remove(u64::from(range.start)..u64::from(range.end));
        for (entry, note) in notes.map_err(Stop::of_failure)? {
            match note {
                EntryNote::Digest(digest) if !self.failed.contains(&entry) => {
                    self.digests.insert(entry, digest);
                    if self.asked.contains(u64::from(entry)) {
                        self.untold.insert(u64::from(entry)..u64::from(entry) + 1);
                    }
                }
                EntryNote::Failed(fault) => self.source_failed(io, entry, fault),
                EntryNote::Digest(_)
                | EntryNote::Conflict
                | EntryNote::Skipped
                | EntryNote::Renamed(_)
                | EntryNote::Taken(_)
                | EntryNote::Kept { .. } => {}
            }
        }
        self.tell_digests(io);
        if self.receipt.as_ref().is_some_and(|receipt| receipt.whole) { self.judge_receipt(io) } else { Ok(false) }
    }

    pub(super) fn on_stored(&mut self, io: &mut Io<'_, '_>, chunks: &Ranges) -> Result<(), Stop> {
        if !chunks.within(self.manifest.layout().chunks()) && !planted!(RangesBeyond) {
            return Err(Stop::Violation);
        }
        if self.count_durable(chunks) {
            self.repeats = 0;
            self.progress.tell(io);
        }
        Ok(())
    }

    /// These chunks are durable there. False: that was known.
    fn count_durable(&mut self, chunks: &Ranges) -> bool {
        // What it has from an earlier try was neither named nor sent in this one.
        let mut before = chunks.clone();
        before.subtract(&self.named);
        before.subtract(&self.sent);
        before.subtract(&self.given_up);
        let bytes = bytes_of(&self.manifest, &before);
        (self.progress.total, self.progress.moved) = (self.progress.total + bytes, self.progress.moved + bytes);
        self.progress.resumed += bytes;
        self.named.union(&before);
        self.sent.union(&before);
        self.before.union(&before);
        let mut new = chunks.common(&self.sent);
        if !planted!(StoredTwiceCounted) {
            new.subtract(&self.durable);
        }
        if new.is_empty() {
            return false;
        }
        self.durable.union(&new);
        new.subtract(&self.uncounted);
        self.progress.resumed += bytes_of(&self.manifest, &new.common(&self.sent_before));
        self.progress.durable += bytes_of(&self.manifest, &new);
        true
    }

    /// Whether this was the last part, and the receipt is right.
    pub(super) fn on_receipt(
        &mut self,
        io: &mut Io<'_, '_>,
        digest: [u8; 32],
        others: Vec<(u32, Outcome)>,
        more: bool,
    ) -> Result<bool, Stop> {
        let receipt = self.receipt.get_or_insert_with(|| Receipt { digest, others: BTreeMap::new(), whole: false });
        let last = receipt.others.last_key_value().map(|(&entry, _)| entry);
        let ascends = others.first().is_none_or(|&(first, _)| last.is_none_or(|last| first > last));
        let fits = others.last().is_none_or(|&(entry, _)| entry < self.manifest.len());
        if receipt.digest == digest && receipt.whole && !planted!(ReceiptAgainRefused) {
            // The answer to an offer that was made again, while the first is not compared yet.
            return Ok(false);
        }
        if receipt.digest != digest || receipt.whole || !ascends || !fits || (more && others.is_empty()) {
            return Err(Stop::Violation);
        }
        receipt.others.extend(others);
        receipt.whole = !more;
        if more { Ok(false) } else { self.judge_receipt(io) }
    }

    /// Whether all that the receipt is compared with is known, and it is right. What the receiver has from an earlier try is read for
    /// it first.
    fn judge_receipt(&mut self, io: &mut Io<'_, '_>) -> Result<bool, Stop> {
        let Some(receipt) = &self.receipt else { return Err(Stop::Violation) };
        let there = |entry: &u32| matches!(receipt.others.get(entry), None | Some(Outcome::Stored | Outcome::Renamed));
        let files = (0..).zip(&self.kinds).filter(|(_, kind)| **kind == EntryKind::File).map(|(entry, _)| entry);
        let unread: Vec<u32> =
            files.filter(there).filter(|&entry| self.is_unread(entry) || self.reread.contains(u64::from(entry))).collect();
        if !unread.is_empty() {
            self.read_again(io, unread);
            return Ok(false);
        }
        self.verify(io)?;
        Ok(true)
    }

    /// Compares the receipt with what we know ourselves, and tells how each entry ended.
    // XFER-13.
    fn verify(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        let Some(receipt) = self.receipt.take() else { return Err(Stop::Violation) };
        let outcome = |entry| receipt.others.get(&entry).copied().unwrap_or(Outcome::Stored);
        let there = |entry| matches!(outcome(entry), Outcome::Stored | Outcome::Renamed);
        let digest = |entry| self.digests.get(entry).copied().filter(|_| there(entry));
        // Stored can only be what was read whole, in this try or an earlier one.
        for (entry, &kind) in (0..).zip(&self.kinds) {
            if kind == EntryKind::File && there(entry) && digest(entry).is_none() {
                let read_before = self.failed.contains(&entry) && !self.passed_over(entry).is_empty() && !planted!(UnreadIsALie);
                return Err(if read_before { Stop::Cancel(CancelReason::Source) } else { Stop::Violation });
            }
        }
        let (ours, mut summary) = sum_up(io.key, &self.manifest, outcome, digest);
        summary.resumed = self.progress.resumed;
        if ours != receipt.digest && !planted!(ReceiptUnverified) {
            return Err(Stop::Violation);
        }
        if self.named.is_empty() {
            // All of it was there.
            (self.progress.total, self.progress.moved, self.progress.durable) = (summary.bytes, summary.bytes, summary.bytes);
            (self.progress.resumed, summary.resumed) = (summary.bytes, summary.bytes);
        } else {
            // What is there is durable, also where the Stored that said so is lost with its session.
            // XFER-15.
            let mut durable = Ranges::from(0..self.manifest.layout().chunks());
            for &entry in receipt.others.keys().filter(|&&entry| !there(entry)) {
                durable.remove(self.manifest.layout().chunks_of(entry));
            }
            self.count_durable(&durable);
            summary.resumed = self.progress.resumed;
        }
        self.chunks.stop();
        self.progress.tell_now(io);
        for entry in (0..self.manifest.len()).filter(|entry| !self.failed.contains(entry) || planted!(EntryToldTwice)) {
            let digest = self.digests.get(entry).copied().filter(|_| there(entry));
            let ending = Ending { digest, ..Ending::default() };
            io.notify(ending.event(io.key, entry, outcome(entry)));
        }
        io.notify(Event::Done { transfer: io.key, summary });
        Ok(())
    }

    /// Nothing new is claimed while it rests.
    pub(super) fn pause(&mut self, io: &mut Io<'_, '_>, paused: bool) {
        self.paused = paused;
        self.chunks.pause(paused);
        self.open_streams(io);
    }

    // Streams.

    /// A newer session has taken over, and it may be our turn to open streams: those that the peer was asked for may not come.
    pub(super) fn on_session(&mut self, io: &mut Io<'_, '_>) {
        self.failures = 0;
        if io.peer().is_some_and(|peer| peer.can_open) {
            self.forget_requested(io);
            self.open_streams(io);
        }
    }

    fn forget_requested(&mut self, io: &mut Io<'_, '_>) {
        for _ in 0..core::mem::take(&mut self.requested) {
            self.awaited = self.awaited.saturating_sub(1);
            io.shared.opened(io.key);
        }
    }

    /// Has streams opened if something may be claimed that no stream there is, or is coming, can carry.
    fn open_streams(&mut self, io: &mut Io<'_, '_>) {
        let idle = self.streams.is_empty() || self.newer;
        let room = limits::BULK_STREAMS.saturating_sub(io.bulk_streams());
        if self.paused || self.parked || !idle || self.awaited > 0 || self.chunks.open() == 0 || room == 0 {
            return;
        }
        let fit = if self.progress.total < limits::ONE_STREAM { 1 } else { 2 };
        let count = if self.streams.is_empty() { room.min(fit) } else { 1 };
        self.awaited += count;
        if io.peer().is_some_and(|peer| peer.must_ask) {
            *io.shared.opening.entry(io.key).or_default() += count;
            self.requested += count;
            let count = u8::try_from(count).expect("invariant: at most BULK_STREAMS");
            io.tell(ControlMessage::OpenBulk { transfer: io.key.id, count });
        } else {
            for _ in 0..count {
                io.want_stream(StreamKind::Bulk, *self.manifest.digest());
            }
        }
    }

    pub(super) fn on_stream(&mut self, io: &mut Io<'_, '_>, stream: StreamId, key: &StreamKey, aead: Aead) {
        self.awaited = self.awaited.saturating_sub(1);
        self.requested = self.requested.saturating_sub(1);
        (self.failures, self.newer) = (0, false);
        self.streams.insert(stream);
        let sealer = Sealer::new(io.chunk_key(key, aead, self.manifest.digest()), self.chunks.lane());
        let half = BulkHalf::Seal { transfer: io.key, sealer, chunks: Arc::clone(&self.chunks) };
        io.cx.out.push(Output::Bulk { stream, half });
        io.set(TransferTimer::Stall(stream), limits::BULK_STALL);
    }

    pub(super) fn on_stream_failed(&mut self, io: &mut Io<'_, '_>) {
        self.awaited = self.awaited.saturating_sub(1);
        self.failures += 1;
        // The peer may be gone, which its session will tell; else it names again what is missing, or gives up.
        if self.failures < limits::STREAM_TRIES {
            self.open_streams(io);
        }
    }

    pub(super) fn on_stream_down(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        if !self.streams.remove(&stream) {
            return;
        }
        // What was claimed and not sent came back. If streams end again and again without carrying anything, the receiver has
        // to ask.
        self.fruitless += 1;
        self.on_room(io);
    }

    /// There is room for a stream, perhaps.
    pub(super) fn on_room(&mut self, io: &mut Io<'_, '_>) {
        if self.fruitless < limits::STREAM_TRIES {
            self.open_streams(io);
        }
    }

    // DATA-24.
    pub(super) fn on_stall(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        if (self.paused || self.chunks.exhausted()) && !self.parked {
            // Nothing is left to send on it: what it still carries is the transport's and the receiver's business.
            io.set(TransferTimer::Stall(stream), limits::BULK_STALL);
        } else if self.streams.contains(&stream) {
            io.reset(stream);
            self.on_stream_down(io, stream);
        }
    }

    pub(super) fn stop(&mut self, io: &mut Io<'_, '_>) {
        self.chunks.stop();
        self.progress.tell_now(io);
    }

    // What the workers say.

    pub(super) fn on_bulk(&mut self, io: &mut Io<'_, '_>, stream: StreamId, report: &BulkReport) {
        // Failures first: what else the report says of such an entry is about zeros.
        for &(entry, fault) in &report.failed {
            self.source_failed(io, entry, fault);
        }
        let mut finished = Vec::new();
        for done in &report.chunks {
            let Some(len) = self.manifest.layout().chunk_len(done.index) else { continue };
            if !self.sent.contains(done.index) || planted!(SentTwiceCounted) {
                self.sent.insert(done.index..done.index + 1);
                if !self.uncounted.contains(done.index) {
                    self.progress.moved += u64::from(len);
                    if !self.named.contains(done.index) && !planted!(LateUncounted) {
                        // It left before an interruption, is there, and was not named again: nobody had said here that it had left.
                        self.named.insert(done.index..done.index + 1);
                        self.progress.total += u64::from(len);
                    }
                }
            }
            self.digests.add(&self.manifest, done, |entry| !self.failed.contains(&entry), &mut finished);
        }
        for entry in finished.into_iter().map(u64::from) {
            if self.asked.contains(entry) {
                self.untold.insert(entry..entry + 1);
            }
        }
        if !report.chunks.is_empty() {
            self.fruitless = 0;
            if self.streams.contains(&stream) {
                io.set(TransferTimer::Stall(stream), limits::BULK_STALL);
            }
        }
        self.tell_digests(io);
        self.progress.tell(io);
    }

    // XFER-16.
    fn source_failed(&mut self, io: &mut Io<'_, '_>, entry: u32, fault: FileFault) {
        if planted!(SourceChangeIgnored) || entry >= self.manifest.len() || !self.failed.insert(entry) {
            return;
        }
        if !self.told.contains(u64::from(entry)) {
            self.digests.forget(entry);
        }
        self.untold.remove(u64::from(entry)..u64::from(entry) + 1);
        io.tell(ControlMessage::SourceChanged { transfer: io.key.id, entry });
        let outcome = if fault == FileFault::Changed { Outcome::SourceChanged } else { Outcome::Failed };
        io.notify(Ending::fault(fault).event(io.key, entry, outcome));
        let gone = chunks_of_only(&self.manifest, entry, |entry| self.failed.contains(&entry));
        self.chunks.withdraw(&gone);
        let mut unsent = gone.common(&self.named);
        unsent.subtract(&self.sent);
        unsent.subtract(&self.given_up);
        self.progress.total -= bytes_of(&self.manifest, &unsent);
        self.uncounted.union(&unsent);
        self.given_up.union(&gone);
    }

    /// Tells the digests that became known, neighbours in one message.
    fn tell_digests(&mut self, io: &mut Io<'_, '_>) {
        let mut message: Option<(u32, Vec<[u8; 32]>)> = None;
        let untold = core::mem::take(&mut self.untold);
        for entry in untold.iter().flatten().filter_map(|entry| u32::try_from(entry).ok()) {
            let Some(digest) = self.digests.get(entry) else { continue };
            if let Some((first, digests)) = &mut message {
                let next = *first + u32::try_from(digests.len()).unwrap_or(u32::MAX);
                let gap = usize::try_from(entry - next).unwrap_or(usize::MAX);
                if self.is_gap(next, entry) && digests.len() + gap < limits::DIGESTS_A_MESSAGE {
                    digests.resize(digests.len() + gap, [0; 32]);
                    digests.push(*digest);
                    continue;
                }
            }
            if let Some((first_entry, digests)) = message.replace((entry, Vec::from([*digest]))) {
                io.tell(ControlMessage::FileDigests { transfer: io.key.id, first_entry, digests });
            }
        }
        if let Some((first_entry, digests)) = message {
            io.tell(ControlMessage::FileDigests { transfer: io.key.id, first_entry, digests });
        }
        self.told.union(&untold);
    }

    /// Whether what lies between is little, and nobody waits for its digests.
    fn is_gap(&self, from: u32, to: u32) -> bool {
        let no_file = |entry: u32| usize::try_from(entry).is_ok_and(|entry| self.kinds.get(entry) != Some(&EntryKind::File));
        to - from <= DIGEST_GAP && (from..to).all(|entry| no_file(entry) || !self.asked.contains(u64::from(entry)))
    }
}
