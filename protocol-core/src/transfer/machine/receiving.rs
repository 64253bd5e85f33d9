//! A receiver whose transfer was accepted: what was written, is durable, verified and published, until every entry ended.
//!
//! A file goes through it like this: its chunks are written; a checkpoint makes them durable; its digest, merged from the
//! values of its pieces, is compared with the sender's; then it gets its name. Links and directories come after all files.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::entries::{Digests, Ending, Outcomes, bytes_of, chunks_of_only};
use super::progress::Progress;
use super::{Io, Job, Stop, TransferTimer, narrow};
use crate::bulk::chunks::Chunks;
use crate::bulk::cipher::Aead;
use crate::bulk::opener::Opener;
use crate::effects::{BulkHalf, BulkReport, EntryNote, Event, FileOp, Output};
use crate::faults::{CancelReason, Failure, FileFault};
use crate::ids::StreamId;
use crate::limits;
use crate::session::keys::StreamKey;
use crate::session::stream::StreamKind;
use crate::transfer::manifest::Manifest;
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::Outcome;
use crate::wire::control::ControlMessage;

pub(super) struct Receiving {
    manifest: Arc<Manifest>,
    outcomes: Outcomes,
    /// What may be claimed.
    chunks: Arc<Chunks>,
    streams: BTreeSet<StreamId>,
    /// Streams that are being opened, because the sender asked.
    awaited: usize,
    /// Streams that the sender asked for, and that there was no room for.
    owed: usize,
    /// Chunks that hold an entry that we want and were not written.
    missing: Ranges,
    /// Chunks that were.
    written: u64,
    /// Written since the last checkpoint began.
    unsynced: Unsynced,
    checkpoint: Option<Checkpoint>,
    /// Chunks that are durable: said again where what was said is lost.
    durable: Ranges,
    /// Files of which an earlier try left something: read back once they are whole, and before they get a name.
    // XFER-26.
    taken: Ranges,
    /// Chunks with bytes of an entry that failed here: the disk does not hold all of them.
    lost: Ranges,
    /// Chunks of a started file that are not durable yet.
    undurable: BTreeMap<u32, u64>,
    /// Our digests, and those that the sender named.
    digests: Digests,
    named: BTreeMap<u32, [u8; 32]>,
    /// Files that may get their names, and those that are getting them.
    ready: Ranges,
    publishing: Ranges,
    publishes: usize,
    /// Links and directories are being published.
    last: bool,
    /// Files that could not be read back.
    unreadable: u32,
    /// Files that are being read back; those that were, and of which not everything came in this life of the process.
    reading: BTreeSet<u32>,
    read_back: BTreeSet<u32>,
    /// Chunks that turned out not to hold what they should, and are to be asked for again; those of which it is known that they were
    /// counted before.
    spoilt: Ranges,
    counted: Ranges,
    rounds: Rounds,
    /// The session was lost, and the sender has not offered again.
    away: bool,
    /// Offers that came again, in this session.
    offers: u32,
    paused: bool,
    progress: Progress,
}

#[derive(Default)]
struct Unsynced {
    chunks: Ranges,
    bytes: u64,
    entries: Ranges,
    /// Files without content, which the host made.
    empty: Vec<u32>,
}

/// A checkpoint under way.
struct Checkpoint {
    jobs: usize,
    chunks: Ranges,
    empty: Vec<u32>,
}

/// What an earlier try left, in chunks of this one.
struct Before<'a> {
    manifest: &'a Manifest,
    /// Bytes that are here of each entry; `None`: all of it, under its name.
    bytes: BTreeMap<u32, Option<Ranges>>,
}

impl<'a> Before<'a> {
    const fn new(manifest: &'a Manifest) -> Self {
        Self { manifest, bytes: BTreeMap::new() }
    }

    fn add(&mut self, entry: u32, bytes: &[Range<u64>]) {
        self.bytes.insert(entry, Some(bytes.iter().cloned().collect()));
    }

    fn add_whole(&mut self, entry: u32) {
        self.bytes.insert(entry, None);
    }

    /// The chunks of which every piece is here, where there is something to fetch of an entry that is open; and the files of which
    /// something is.
    fn chunks(&self, open: impl Fn(u32) -> bool) -> (Ranges, Ranges) {
        let (mut chunks, mut taken) = (Ranges::new(), Ranges::new());
        let layout = self.manifest.layout();
        let is_here = |entry: u32, from: u64, to: u64| match self.bytes.get(&entry) {
            None => !open(entry),
            Some(None) => true,
            Some(Some(bytes)) => bytes.iter().any(|range| range.start <= from && to <= range.end),
        };
        // Files that share a chunk are neighbours.
        let mut last = None;
        for (&entry, bytes) in &self.bytes {
            for chunk in layout.chunks_of(entry) {
                let whole = || layout.pieces(chunk).all(|piece| is_here(piece.entry, piece.offset, piece.offset + u64::from(piece.len)));
                let (_, whole) = *last.insert(last.filter(|&(of, _)| of == chunk).unwrap_or_else(|| (chunk, whole())));
                if whole {
                    chunks.insert(chunk..chunk + 1);
                    if bytes.is_some() {
                        taken.insert(u64::from(entry)..u64::from(entry) + 1);
                    }
                }
            }
        }
        (chunks, taken)
    }
}

/// How often what is missing was named for nothing.
#[derive(Default)]
struct Rounds {
    fruitless: u32,
    /// Chunks that were written, and digests that were named, at the last one.
    had: (u64, usize),
    forged: bool,
}

impl Receiving {
    /// With what the host said when it prepared.
    pub(super) fn new(io: &mut Io<'_, '_>, manifest: Arc<Manifest>, notes: Vec<(u32, EntryNote)>) -> Result<Self, Stop> {
        let chunks = Chunks::new(io.key.id, Arc::clone(manifest.layout())).map_err(|_| Stop::Cancel(CancelReason::Policy))?;
        let mut outcomes = Outcomes::new(&manifest);
        let mut before = Before::new(&manifest);
        for (entry, note) in notes {
            match note {
                EntryNote::Taken(bytes) => before.add(entry, &bytes),
                EntryNote::Kept { digest, renamed_to } => {
                    before.add_whole(entry);
                    let outcome = if renamed_to.is_some() { Outcome::Renamed } else { Outcome::Stored };
                    _ = outcomes.settle(io, entry, outcome, Ending { digest: Some(digest), renamed_to, fault: None });
                }
                EntryNote::Skipped => drop(outcomes.settle(io, entry, Outcome::Skipped, Ending::default())),
                EntryNote::Failed(fault) if fault.is_of_disk() => return Err(Stop::of_fault(fault)),
                EntryNote::Failed(fault) => drop(outcomes.settle(io, entry, Outcome::Failed, Ending::fault(fault))),
                // Where it will stand is told when it stands there.
                EntryNote::Conflict | EntryNote::Renamed(_) | EntryNote::Digest(_) => {}
            }
        }
        let (durable, taken) = before.chunks(|entry| outcomes.is_open(entry));
        let away = io.peer().is_none();
        Ok(Self {
            manifest,
            outcomes,
            chunks,
            streams: BTreeSet::new(),
            awaited: 0,
            owed: 0,
            missing: Ranges::new(),
            written: 0,
            unsynced: Unsynced::default(),
            checkpoint: None,
            durable,
            taken,
            lost: Ranges::new(),
            undurable: BTreeMap::new(),
            digests: Digests::default(),
            named: BTreeMap::new(),
            ready: Ranges::new(),
            publishing: Ranges::new(),
            publishes: 0,
            last: false,
            unreadable: 0,
            reading: BTreeSet::new(),
            read_back: BTreeSet::new(),
            spoilt: Ranges::new(),
            counted: Ranges::new(),
            rounds: Rounds::default(),
            away,
            offers: 0,
            paused: false,
            progress: Progress::default(),
        })
    }

    #[cfg(feature = "testing")]
    pub(super) const fn probe_state(&self) -> &'static str {
        match (self.away, self.paused, self.rounds.fruitless) {
            (true, ..) => "Receiving, away",
            (false, true, _) => "Receiving, paused",
            (false, false, 0) => "Receiving",
            (false, false, _) => "Receiving, named again",
        }
    }

    /// Says what is wanted, and what is here from an earlier try.
    pub(super) fn start(&mut self, io: &mut Io<'_, '_>, paused: bool) {
        self.paused = paused;
        let mut digests = Ranges::new();
        let mut whole = Vec::new();
        for entry in 0..self.manifest.len() {
            if !self.outcomes.is_open(entry) {
                continue;
            }
            digests.insert(u64::from(entry)..u64::from(entry) + 1);
            let chunks = self.manifest.layout().chunks_of(entry);
            if !chunks.is_empty() {
                self.want(entry, chunks, &mut whole);
            } else if self.outcomes.is_file(entry) {
                self.digests.insert_empty(entry);
                self.unsynced.empty.push(entry);
            }
        }
        let before = bytes_of(&self.manifest, &self.durable);
        self.progress.total = bytes_of(&self.manifest, &self.missing) + before;
        (self.progress.moved, self.progress.durable, self.progress.resumed) = (before, before, before);
        self.chunks.allow(&self.missing);
        self.tell_accept(io, self.missing.clone(), digests);
        self.tell_durable(io);
        if before > 0 {
            io.notify(Event::Resumed { transfer: io.key, durable: before });
        }
        for entry in whole.into_iter().filter(|_| !planted!(NotReadBack)) {
            self.read_back(io, entry);
        }
        self.await_streams(io);
    }

    /// The chunks of a file are missing, unless an earlier try left them; what is `whole` by that lacks nothing.
    fn want(&mut self, entry: u32, chunks: Range<u64>, whole: &mut Vec<u32>) {
        if !self.taken.contains(u64::from(entry)) {
            return self.missing.insert(chunks);
        }
        let missing: Vec<u64> = chunks.filter(|&chunk| !self.durable.contains(chunk)).collect();
        self.undurable.insert(entry, missing.len() as u64);
        if missing.is_empty() {
            whole.push(entry);
        }
        for chunk in missing {
            self.missing.insert(chunk..chunk + 1);
        }
    }

    /// The sender has its answer: what it owes now is to come soon.
    fn await_streams(&self, io: &mut Io<'_, '_>) {
        if io.peer().is_some() && self.streams.is_empty() && self.outcomes.files_left() > 0 && !self.paused {
            io.set(TransferTimer::Missing, limits::ROUND_WAIT);
        }
    }

    /// Has the host read back what it holds of a file.
    // XFER-26.
    fn read_back(&mut self, io: &mut Io<'_, '_>, entry: u32) {
        self.taken.remove(u64::from(entry)..u64::from(entry) + 1);
        self.reading.insert(entry);
        io.files(entry..entry + 1, FileOp::Digest, Job::Digest(entry..entry + 1));
    }

    pub(super) fn on_read_back(
        &mut self,
        io: &mut Io<'_, '_>,
        range: Range<u32>,
        notes: Result<Vec<(u32, EntryNote)>, Failure>,
    ) -> Result<(), Stop> {
        let mut notes: BTreeMap<u32, EntryNote> = notes.map_err(Stop::of_failure)?.into_iter().collect();
        for entry in range.filter(|entry| self.reading.remove(entry)).collect::<Vec<_>>() {
            if !self.outcomes.is_open(entry) {
                continue;
            }
            match notes.remove(&entry) {
                Some(EntryNote::Digest(digest)) => {
                    self.read_back.insert(entry);
                    self.digests.insert(entry, digest);
                    self.judge(io, entry)?;
                }
                // A place of the disk that cannot be read any more may be written: another has its bytes then.
                Some(EntryNote::Failed(FileFault::Failing(_))) if self.unreadable < limits::UNREADABLE_FILES => {
                    self.unreadable += 1;
                    self.fetch_again(entry);
                }
                Some(EntryNote::Failed(fault)) => self.fail(io, entry, fault)?,
                _ => self.fail(io, entry, FileFault::Changed)?,
            }
        }
        self.advance(io)
    }

    /// Says all that is durable.
    fn tell_durable(&self, io: &mut Io<'_, '_>) {
        let mut durable = self.durable.clone();
        durable.subtract(&self.lost);
        for part in durable.split(limits::RANGE_PAIRS).filter(|part| !part.is_empty()) {
            io.tell(ControlMessage::Stored { transfer: io.key.id, chunks: part });
        }
    }

    /// The session is lost. What is under way at files goes on; what is missing is named when the sender offers again.
    pub(super) fn on_session_lost(&mut self, io: &mut Io<'_, '_>, paused: bool) {
        self.away = true;
        (self.awaited, self.owed, self.offers) = (0, 0, 0);
        io.shared.opening.remove(&io.key);
        self.paused = paused;
        self.rounds = Rounds::default();
        self.progress.tell_now(io);
        self.wait(io);
    }

    /// What was durable when the transfer last went on after an interruption.
    pub(super) const fn resumed(&self) -> u64 {
        self.progress.resumed
    }

    /// Whether every entry has ended, and no answer of the host is awaited.
    pub(super) fn is_complete(&self) -> bool {
        self.outcomes.left() == 0 && self.publishes == 0 && self.checkpoint.is_none() && self.reading.is_empty()
    }

    // XFER-14.
    pub(super) fn into_outcomes(self) -> (Arc<Manifest>, Outcomes) {
        (self.manifest, self.outcomes)
    }

    pub(super) fn stop(&mut self, io: &mut Io<'_, '_>) {
        self.chunks.stop();
        for timer in [TransferTimer::Checkpoint, TransferTimer::Missing] {
            io.unset(timer);
        }
        self.progress.tell_now(io);
    }

    // What the sender says.

    /// The sender offers the same again: it gets the answer again, but not for ever, because a short question has a long answer.
    // XFER-19, XFER-25.
    pub(super) fn accept_again(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        self.offers += 1;
        if self.offers > limits::REPEATED_OFFERS && !planted!(RepeatedOffersUnbounded) {
            return Err(Stop::Cancel(CancelReason::Policy));
        }
        let open = |entry: &u32| self.outcomes.is_open(*entry) && !self.named.contains_key(entry);
        let digests = (0..self.manifest.len()).filter(open).map(|entry| u64::from(entry)..u64::from(entry) + 1).collect();
        self.tell_accept(io, self.missing.clone(), digests);
        self.tell_durable(io);
        if core::mem::take(&mut self.away) {
            self.progress.resumed = self.progress.durable;
            io.notify(Event::Resumed { transfer: io.key, durable: self.progress.durable });
        }
        self.await_streams(io);
        Ok(())
    }

    pub(super) fn on_digests(&mut self, io: &mut Io<'_, '_>, first: u32, digests: Vec<[u8; 32]>) -> Result<(), Stop> {
        let end = u64::from(first) + digests.len() as u64;
        if end > u64::from(self.manifest.len()) {
            return Err(Stop::Violation);
        }
        for (entry, digest) in (first..).zip(digests) {
            // The first word counts.
            if self.outcomes.is_open(entry) && self.outcomes.is_file(entry) && !self.named.contains_key(&entry) {
                self.named.insert(entry, digest);
                self.judge(io, entry)?;
            }
        }
        self.advance(io)
    }

    pub(super) fn on_source_changed(&mut self, io: &mut Io<'_, '_>, entry: u32) -> Result<(), Stop> {
        if entry >= self.manifest.len() {
            return Err(Stop::Violation);
        }
        let number = u64::from(entry);
        // A file that arrived whole, with the right digest, is not taken back.
        if !self.ready.contains(number) && !self.publishing.contains(number) {
            self.give_up(io, entry, Outcome::SourceChanged, Ending::default());
        }
        self.advance(io)
    }

    // XFER-22.
    pub(super) fn on_open_bulk(&mut self, io: &mut Io<'_, '_>, count: u8, digest: [u8; 32]) -> Result<(), Stop> {
        if io.peer().is_some_and(|peer| peer.can_open) {
            self.owed = usize::from(count);
            self.open_owed(io, digest);
        }
        Ok(())
    }

    fn open_owed(&mut self, io: &mut Io<'_, '_>, digest: [u8; 32]) {
        let count = self.owed.min(limits::BULK_STREAMS.saturating_sub(io.bulk_streams()));
        self.owed -= count;
        self.awaited += count;
        for _ in 0..count {
            io.want_stream(StreamKind::Bulk, digest);
        }
    }

    /// There is room for a stream, perhaps: for one that was asked for when there was none.
    pub(super) fn on_room(&mut self, io: &mut Io<'_, '_>, digest: [u8; 32]) {
        if self.streams.is_empty() && self.awaited == 0 && !self.missing.is_empty() {
            self.open_owed(io, digest);
        }
    }

    pub(super) fn pause(&mut self, io: &mut Io<'_, '_>, paused: bool) -> Result<(), Stop> {
        self.paused = paused;
        self.advance(io)?;
        if !paused {
            // What is missing has had no chance to come.
            self.rounds = Rounds::default();
            if io.is_set(TransferTimer::Missing) {
                io.set(TransferTimer::Missing, limits::ROUND_WAIT);
            }
        }
        Ok(())
    }

    // Streams.

    pub(super) fn on_stream(&mut self, io: &mut Io<'_, '_>, stream: StreamId, key: &StreamKey, aead: Aead) {
        self.awaited = self.awaited.saturating_sub(1);
        self.streams.insert(stream);
        io.unset(TransferTimer::Missing);
        let opener = Opener::new(io.chunk_key(key, aead, self.manifest.digest()), self.manifest.chunk_size());
        let half = BulkHalf::Open { transfer: io.key, opener, chunks: Arc::clone(&self.chunks) };
        io.cx.out.push(Output::Bulk { stream, half });
        io.set(TransferTimer::Stall(stream), limits::BULK_STALL);
    }

    pub(super) fn on_stream_failed(&mut self, io: &mut Io<'_, '_>) {
        self.awaited = self.awaited.saturating_sub(1);
        self.wait(io);
    }

    pub(super) fn on_stream_down(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        self.streams.remove(&stream);
        self.wait(io);
    }

    pub(super) fn on_stall(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        // A sender that rests ends its streams: nobody holds them for it.
        if self.streams.contains(&stream) {
            io.reset(stream);
            self.on_stream_down(io, stream);
        }
    }

    /// With no stream left to bring what is missing, waits before it is named again: in a session that stands, and in which it is offered.
    fn wait(&mut self, io: &mut Io<'_, '_>) {
        let asked = io.peer().is_some() && !self.away;
        if !self.streams.is_empty() || self.paused || !asked || self.outcomes.files_left() == 0 {
            io.unset(TransferTimer::Missing);
        } else if !io.is_set(TransferTimer::Missing) {
            let soon = self.awaited == 0 && !self.missing.is_empty();
            io.set(TransferTimer::Missing, if soon { limits::ROUND_PAUSE } else { limits::ROUND_WAIT });
        }
    }

    /// Names what is missing, unless that was for nothing several times.
    // XFER-20.
    pub(super) fn on_missing(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        if self.checkpoint.is_some() || self.publishes > 0 {
            // We are the slow ones.
            io.set(TransferTimer::Missing, limits::ROUND_WAIT);
            return Ok(());
        }
        if io.bulk_streams_up() >= limits::BULK_STREAMS {
            // It is the turn of others, whose streams have deadlines of their own.
            io.set(TransferTimer::Missing, limits::ROUND_WAIT);
            return Ok(());
        }
        let has = (self.written, self.named.len());
        self.rounds.fruitless = if has == self.rounds.had { self.rounds.fruitless + 1 } else { 1 };
        self.rounds.had = has;
        if self.rounds.fruitless > limits::FRUITLESS_ROUNDS && !planted!(RoundsUnbounded) {
            let integrity = self.rounds.forged || self.missing.is_empty();
            return Err(Stop::Cancel(if integrity { CancelReason::Integrity } else { CancelReason::Io }));
        }
        if !self.missing.is_empty() && !planted!(MissingNotNamed) {
            (self.awaited, self.owed) = (0, 0);
            io.shared.opening.remove(&io.key);
            self.tell_accept(io, self.missing.clone(), Ranges::new());
            // To a sender that has begun anew, and whose offer is not heard yet, this is the answer.
            self.tell_durable(io);
        }
        io.set(TransferTimer::Missing, limits::ROUND_WAIT);
        Ok(())
    }

    fn tell_accept(&self, io: &mut Io<'_, '_>, chunks: Ranges, digests: Ranges) {
        let (mut chunks, mut digests) = (chunks.split(limits::RANGE_PAIRS), digests.split(limits::RANGE_PAIRS));
        loop {
            let (chunks, digests) = (chunks.next(), digests.next());
            if chunks.is_none() && digests.is_none() {
                return;
            }
            let (chunks, digests) = (chunks.unwrap_or_default(), digests.unwrap_or_default());
            io.tell(ControlMessage::Accept { transfer: io.key.id, chunks, digests });
        }
    }

    // What the workers say.

    pub(super) fn on_bulk(&mut self, io: &mut Io<'_, '_>, stream: StreamId, report: &BulkReport) -> Result<(), Stop> {
        for &(entry, fault) in &report.failed {
            self.fail(io, entry, fault)?;
        }
        let mut finished = Vec::new();
        for done in &report.chunks {
            if !self.missing.contains(done.index) {
                continue;
            }
            self.note_written(done.index);
            self.digests.add(&self.manifest, done, |entry| self.outcomes.is_open(entry), &mut finished);
        }
        for entry in finished {
            self.judge(io, entry)?;
        }
        if report.forged > 0 {
            self.rounds.forged = true;
            self.streams.remove(&stream);
            io.forgery(stream);
        } else if !report.chunks.is_empty() && self.streams.contains(&stream) {
            io.set(TransferTimer::Stall(stream), limits::BULK_STALL);
        }
        self.progress.tell(io);
        self.advance(io)
    }

    fn note_written(&mut self, chunk: u64) {
        let layout = self.manifest.layout();
        let bytes = layout.chunk_len(chunk).map_or(0, u64::from);
        self.missing.remove(chunk..chunk + 1);
        self.written += 1;
        if !self.counted.contains(chunk) {
            self.progress.moved += bytes;
        }
        self.unsynced.chunks.insert(chunk..chunk + 1);
        self.unsynced.bytes += bytes;
        for piece in layout.pieces(chunk) {
            self.unsynced.entries.insert(u64::from(piece.entry)..u64::from(piece.entry) + 1);
        }
    }

    // Entries.

    /// The entry fails here, alone, unless it is the disk that fails.
    // XFER-31.
    fn fail(&mut self, io: &mut Io<'_, '_>, entry: u32, fault: FileFault) -> Result<(), Stop> {
        if fault.is_of_disk() && !planted!(DiskFailsAlone) {
            return Err(Stop::of_fault(fault));
        }
        let chunks = self.manifest.layout().chunks_of(entry);
        if !chunks.is_empty() {
            self.lost.insert(chunks);
        }
        self.give_up(io, entry, Outcome::Failed, Ending::fault(fault));
        Ok(())
    }

    /// Ends an entry that will not be there; chunks that hold nothing else are not wanted any more.
    fn give_up(&mut self, io: &mut Io<'_, '_>, entry: u32, outcome: Outcome, ending: Ending) {
        if !self.outcomes.settle(io, entry, outcome, ending) {
            return;
        }
        self.digests.forget(entry);
        self.named.remove(&entry);
        self.undurable.remove(&entry);
        self.ready.remove(u64::from(entry)..u64::from(entry) + 1);
        let gone = chunks_of_only(&self.manifest, entry, |entry| !self.outcomes.is_open(entry));
        if planted!(ProgressFalls) {
            self.progress.durable = self.progress.durable.saturating_sub(bytes_of(&self.manifest, &gone));
        }
        let gone = gone.common(&self.missing);
        let mut uncounted = gone.clone();
        uncounted.subtract(&self.counted);
        self.progress.total -= bytes_of(&self.manifest, &uncounted);
        self.missing.subtract(&gone);
        self.chunks.withdraw(&gone);
    }

    /// Compares digests once a file is durable and both are known.
    // XFER-11.
    fn judge(&mut self, io: &mut Io<'_, '_>, entry: u32) -> Result<(), Stop> {
        let durable = self.undurable.get(&entry) == Some(&0) || planted!(PublishBeforeSync);
        if !durable || self.publishing.contains(u64::from(entry)) {
            return Ok(());
        }
        if self.taken.contains(u64::from(entry)) {
            if let (true, Some(named)) = (planted!(NotReadBack), self.named.get(&entry)) {
                self.digests.insert(entry, *named);
            } else {
                self.read_back(io, entry);
                return Ok(());
            }
        }
        // What a file without content holds needs nobody's word.
        let empty = self.manifest.layout().chunks_of(entry).is_empty();
        let ours = self.digests.get(entry);
        match (ours, if empty || planted!(PublishUncompared) { ours } else { self.named.get(&entry) }) {
            (Some(ours), Some(theirs)) if ours == theirs || planted!(DigestUnchecked) => {
                self.ready.insert(u64::from(entry)..u64::from(entry) + 1);
                Ok(())
            }
            (Some(_), Some(_)) if self.read_back.remove(&entry) => {
                self.fetch_again(entry);
                Ok(())
            }
            (Some(_), Some(_)) => self.fail(io, entry, FileFault::Digest),
            (Some(_) | None, None) | (None, Some(_)) => Ok(()),
        }
    }

    /// What an earlier try left of a file is not what it should be: all of it is wanted.
    // XFER-26.
    fn fetch_again(&mut self, entry: u32) {
        let chunks = Ranges::from(self.manifest.layout().chunks_of(entry));
        self.digests.forget(entry);
        self.undurable.insert(entry, chunks.count());
        self.spoilt.union(&chunks);
    }

    /// Asks for what turned out to be spoilt. Files that share such a chunk are written again with it: what was found of them is void, and
    /// none of them gets its name meanwhile.
    fn ask_again(&mut self, io: &mut Io<'_, '_>) {
        let layout = Arc::clone(self.manifest.layout());
        let busy = |chunk: &u64| layout.pieces(*chunk).any(|piece| self.publishing.contains(u64::from(piece.entry)));
        let (wait, now): (Vec<u64>, Vec<u64>) = self.spoilt.iter().flatten().partition(busy);
        if now.is_empty() {
            return;
        }
        self.spoilt = wait.into_iter().map(|chunk| chunk..chunk + 1).collect();
        for entry in now.iter().flat_map(|&chunk| layout.pieces(chunk)).map(|piece| piece.entry) {
            let chunks = layout.chunks_of(entry);
            if self.outcomes.is_open(entry) && chunks.end - chunks.start == 1 {
                self.ready.remove(u64::from(entry)..u64::from(entry) + 1);
                self.taken.remove(u64::from(entry)..u64::from(entry) + 1);
                self.reading.remove(&entry);
                self.digests.forget(entry);
                self.undurable.insert(entry, 1);
            }
        }
        let now: Ranges = now.into_iter().map(|chunk| chunk..chunk + 1).collect();
        self.counted.union(&now);
        self.durable.subtract(&now);
        self.missing.union(&now);
        self.chunks.allow(&now);
        self.tell_accept(io, now, Ranges::new());
    }

    // What follows.

    /// Does what can be done now: checkpoints, names, and in the end links and directories.
    pub(super) fn advance(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        self.ask_again(io);
        if self.unsynced.bytes >= limits::CHECKPOINT_BYTES || self.missing.is_empty() {
            self.checkpoint(io);
        } else if !self.unsynced.chunks.is_empty() && !io.is_set(TransferTimer::Checkpoint) {
            io.set(TransferTimer::Checkpoint, limits::CHECKPOINT_EVERY);
        }
        while self.publishes < limits::PUBLISHES {
            let Some(run) = self.ready.iter().next() else { break };
            let run = run.start..run.end.min(run.start + limits::PUBLISH_RUN);
            self.ready.remove(run.clone());
            self.publishing.insert(run.clone());
            self.publish(io, run.clone());
            if planted!(SettledBeforePublished) {
                self.publishes += 1;
                self.on_published(io, narrow(&run), Ok(Vec::new()))?;
            }
        }
        if self.outcomes.files_left() == 0 && self.outcomes.left() > 0 && !self.last {
            self.last = true;
            self.publishes += 1;
            io.files(0..self.manifest.len(), FileOp::Finish, Job::Publish(0..self.manifest.len()));
        }
        self.wait(io);
        Ok(())
    }

    fn publish(&mut self, io: &mut Io<'_, '_>, entries: Range<u64>) {
        self.publishes += 1;
        let range = narrow(&entries);
        io.files(range.clone(), FileOp::Publish, Job::Publish(range));
    }

    pub(super) fn on_checkpoint_due(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        self.checkpoint(io);
        Ok(())
    }

    /// Begins a checkpoint of what was written since the last one, if that one is through.
    // XFER-15.
    fn checkpoint(&mut self, io: &mut Io<'_, '_>) {
        if self.checkpoint.is_some() || (self.unsynced.chunks.is_empty() && self.unsynced.empty.is_empty()) {
            return;
        }
        io.unset(TransferTimer::Checkpoint);
        let Unsynced { chunks, entries, empty, .. } = core::mem::take(&mut self.unsynced);
        let mut ranges: Vec<_> = entries.iter().map(|range| narrow(&range)).collect();
        if let (Some(&first), Some(&last)) = (empty.first(), empty.last()) {
            // Once only, and first of all: nothing between them has a name yet.
            ranges.push(first..last + 1);
        }
        if planted!(StoredBeforeDurable) {
            self.tell_stored(io, &chunks);
        }
        self.checkpoint = Some(Checkpoint { jobs: ranges.len(), chunks, empty });
        for range in ranges {
            io.files(range, FileOp::Sync, Job::Sync);
        }
    }

    pub(super) fn on_synced(&mut self, io: &mut Io<'_, '_>, notes: Result<Vec<(u32, EntryNote)>, Failure>) -> Result<(), Stop> {
        for (entry, note) in notes.map_err(Stop::of_failure)? {
            match note {
                EntryNote::Failed(fault) => self.fail(io, entry, fault)?,
                EntryNote::Conflict
                | EntryNote::Skipped
                | EntryNote::Renamed(_)
                | EntryNote::Taken(_)
                | EntryNote::Kept { .. }
                | EntryNote::Digest(_) => {}
            }
        }
        let Some(checkpoint) = &mut self.checkpoint else { return Ok(()) };
        checkpoint.jobs -= 1;
        if checkpoint.jobs > 0 {
            return Ok(());
        }
        if let Some(Checkpoint { chunks, empty, .. }) = self.checkpoint.take() {
            self.on_durable(io, &chunks, empty)?;
        }
        self.advance(io)
    }

    fn tell_stored(&mut self, io: &mut Io<'_, '_>, chunks: &Ranges) {
        self.durable.union(chunks);
        let mut chunks = chunks.clone();
        chunks.subtract(&self.lost);
        for part in chunks.clone().split(limits::RANGE_PAIRS).filter(|part| !part.is_empty()) {
            io.tell(ControlMessage::Stored { transfer: io.key.id, chunks: part });
        }
        chunks.subtract(&self.counted);
        self.progress.durable += bytes_of(&self.manifest, &chunks);
        self.progress.tell(io);
    }

    // XFER-12.
    fn on_durable(&mut self, io: &mut Io<'_, '_>, chunks: &Ranges, empty: Vec<u32>) -> Result<(), Stop> {
        if !planted!(StoredBeforeDurable) {
            self.tell_stored(io, chunks);
        }
        let mut whole = empty;
        for entry in &whole {
            self.undurable.insert(*entry, 0);
        }
        let layout = Arc::clone(self.manifest.layout());
        for piece in chunks.iter().flatten().flat_map(|chunk| layout.pieces(chunk)) {
            if !self.outcomes.is_open(piece.entry) {
                continue;
            }
            let chunks = layout.chunks_of(piece.entry);
            let left = self.undurable.entry(piece.entry).or_insert(chunks.end - chunks.start);
            *left = left.saturating_sub(1);
            if *left == 0 {
                whole.push(piece.entry);
            }
        }
        for entry in whole {
            self.judge(io, entry)?;
        }
        Ok(())
    }

    pub(super) fn on_published(
        &mut self,
        io: &mut Io<'_, '_>,
        range: Range<u32>,
        notes: Result<Vec<(u32, EntryNote)>, Failure>,
    ) -> Result<(), Stop> {
        self.publishes -= 1;
        let mut notes: BTreeMap<u32, EntryNote> = notes.map_err(Stop::of_failure)?.into_iter().collect();
        for entry in range.clone() {
            if !self.outcomes.is_open(entry) {
                continue;
            }
            let digest = self.digests.get(entry).copied();
            let (outcome, ending) = match notes.remove(&entry) {
                None | Some(EntryNote::Taken(_) | EntryNote::Kept { .. } | EntryNote::Digest(_)) => {
                    (Outcome::Stored, Ending { digest, ..Ending::default() })
                }
                Some(EntryNote::Renamed(path)) => (Outcome::Renamed, Ending { digest, renamed_to: Some(path), ..Ending::default() }),
                Some(EntryNote::Skipped) => (Outcome::Skipped, Ending::default()),
                Some(EntryNote::Conflict) => (Outcome::Failed, Ending::fault(FileFault::Exists)),
                Some(EntryNote::Failed(fault)) if fault.is_of_disk() => return Err(Stop::of_fault(fault)),
                Some(EntryNote::Failed(fault)) => (Outcome::Failed, Ending::fault(fault)),
            };
            self.outcomes.settle(io, entry, outcome, ending);
            self.digests.forget(entry);
            self.named.remove(&entry);
            self.undurable.remove(&entry);
        }
        self.publishing.remove(u64::from(range.start)..u64::from(range.end));
        self.advance(io)
    }
}
