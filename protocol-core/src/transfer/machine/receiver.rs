//! The side that is offered something.
//!
//! ```text
//! Reading     pages, checked one by one     ── complete, and what was offered ─▶
//! Inspecting  what stands in the way?       ── the host looked ─▶ the owner is asked
//! Asking      the owner's answer            ── accept ─▶
//! Preparing   conflicts are decided         ── the host is ready ─▶ Accept
//! Receiving   chunks, digests, names        ── every entry has an outcome ─▶
//! Clearing    leftovers go                  ── the host is done ─▶ Receipt
//!
//! Discarding  it failed: temporary files go, or are kept for another try ── the host is done ─▶ the owner is told
//! ```
//!
//! A session that is lost ends none of it before the owner's question: the sender offers again in the next one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use super::entries::Outcomes;
use super::receiving::Receiving;
use super::rest::Rest;
use super::{DataHalf, DataStream, Io, Job, Stop, TransferTimer};
use crate::effects::{BulkReport, EntryNote, Event, FileOp, Reply, TransferKey};
use crate::faults::{CancelReason, DeclineReason, Failure, FileFault, TransferFailure};
use crate::ids::StreamId;
use crate::limits;
use crate::session::record::{RecordError, RecordOpener, RecordType};
use crate::session::stream::StreamKind;
use crate::transfer::manifest::{Manifest, ManifestParser};
use crate::transfer::receipt::Outcome;
use crate::wire::control::{ControlMessage, Offer};

/// What a sender may say, beside Offer.
#[derive(Debug)]
pub(super) enum ToReceiver {
    OpenBulk(u8),
    Digests { first: u32, digests: Vec<[u8; 32]> },
    SourceChanged(u32),
    Cancel(CancelReason),
    Pause,
    Resume,
}

/// One transfer that this device is offered, or receives.
pub(super) struct Receiver {
    offer: Offer,
    /// Bulk streams that came before the transfer was accepted. Nothing is read from them.
    early: Vec<DataStream>,
    /// Its session was lost, and it was not offered again.
    away: bool,
    rest: Rest,
    /// How often the sender has changed its mind about that, in this session.
    turns: u32,
    /// What is remembered of it when it is over.
    finished: Option<Finished>,
    state: State,
}

enum State {
    Reading(Box<Reading>),
    Inspecting(Inspecting),
    Asking(Asking),
    Preparing(Preparing),
    Receiving(Box<Receiving>),
    Clearing(Clearing),
    Discarding(Discarding),
    Over,
}

struct Reading {
    parser: ManifestParser,
    stream: Option<(StreamId, RecordOpener)>,
    /// Streams that we wanted for the pages.
    tries: u32,
}

struct Inspecting {
    manifest: Arc<Manifest>,
}

struct Asking {
    manifest: Arc<Manifest>,
}

struct Preparing {
    manifest: Arc<Manifest>,
}

/// Every entry has an outcome; what is left of temporary files goes, then the receipt.
struct Clearing {
    manifest: Arc<Manifest>,
    outcomes: Outcomes,
    resumed: u64,
}

/// It came to nothing. The owner is told when nothing more can happen to its files.
struct Discarding {
    reason: TransferFailure,
}

/// A transfer that is done, for a sender that missed its receipt.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) key: TransferKey,
    offer: Offer,
    digest: [u8; 32],
    others: Vec<(u32, Outcome)>,
    /// How often the receipt was told again.
    told: u32,
}

impl Finished {
    /// Entries that it lists.
    pub(super) fn len(&self) -> usize {
        self.others.len()
    }

    /// It is offered again.
    // XFER-27.
    pub(super) fn on_offer(&mut self, io: &mut Io<'_, '_>, offer: &Offer) {
        if !is_same(offer, &self.offer) || self.told >= limits::REPEATED_OFFERS {
            return io.decline(DeclineReason::Mismatch);
        }
        self.told += 1;
        tell_receipt(io, self.digest, &self.others);
    }
}

/// What becomes of the files of a transfer that ends for this reason.
fn last_op(reason: TransferFailure) -> FileOp {
    if reason.keeps_files() && !planted!(LostIsDiscarded) { FileOp::Keep } else { FileOp::Discard }
}

/// Whether a transfer is offered again, and not another under its id.
fn is_same(offer: &Offer, before: &Offer) -> bool {
    let equal = offer.manifest_digest == before.manifest_digest || planted!(OtherOfferAccepted);
    equal && offer.chunk_size == before.chunk_size && offer.bytes == before.bytes
}

fn tell_receipt(io: &mut Io<'_, '_>, digest: [u8; 32], others: &[(u32, Outcome)]) {
    let mut parts = others.chunks(limits::OUTCOMES_A_MESSAGE).peekable();
    if parts.peek().is_none() {
        io.tell(ControlMessage::Receipt { transfer: io.key.id, digest, others: Vec::new(), more: false });
    }
    while let Some(part) = parts.next() {
        let more = parts.peek().is_some();
        io.tell(ControlMessage::Receipt { transfer: io.key.id, digest, others: part.to_vec(), more });
    }
}

impl Receiver {
    /// What is offered, once all its pages are here and until its files are settled.
    pub(super) fn manifest(&self) -> Option<&Arc<Manifest>> {
        match &self.state {
            State::Inspecting(Inspecting { manifest })
            | State::Asking(Asking { manifest })
            | State::Preparing(Preparing { manifest })
            | State::Clearing(Clearing { manifest, .. }) => Some(manifest),
            State::Receiving(_) | State::Reading(_) | State::Discarding(_) | State::Over => None,
        }
    }

    /// `None`, and a Decline, if the offer itself passes a limit.
    pub(super) fn new(io: &mut Io<'_, '_>, offer: Offer) -> Option<Self> {
        let parser = match ManifestParser::new(&offer) {
            Ok(parser) => parser,
            Err(error) => {
                // XFER-7.
                io.decline(DeclineReason::from_number(error.reason().number()));
                return None;
            }
        };
        let mut reading = Reading { parser, stream: None, tries: 0 };
        reading.want_stream(io, offer.manifest_digest);
        io.set(TransferTimer::Manifest, limits::PAGE_WAIT);
        let rest = Rest::default();
        Some(Self { offer, early: Vec::new(), away: false, rest, turns: 0, finished: None, state: State::Reading(Box::new(reading)) })
    }

    pub(super) const fn digest(&self) -> [u8; 32] {
        self.offer.manifest_digest
    }

    /// For the matrix of states and messages.
    #[cfg(test)]
    pub(super) const fn state(&self) -> &'static str {
        match self.state {
            State::Reading(_) => "Reading",
            State::Inspecting(_) => "Inspecting",
            State::Asking(_) => "Asking",
            State::Preparing(_) => "Preparing",
            State::Receiving(_) => "Receiving",
            State::Clearing(_) => "Clearing",
            State::Discarding(_) => "Discarding",
            State::Over => "over",
        }
    }

    #[cfg(feature = "testing")]
    pub(super) const fn probe_state(&self) -> &'static str {
        match &self.state {
            State::Reading(reading) if reading.stream.is_none() => "Reading",
            State::Reading(_) => "Reading, pages flow",
            State::Inspecting(_) => "Inspecting",
            State::Asking(_) => "Asking",
            State::Preparing(_) => "Preparing",
            State::Receiving(receiving) => receiving.probe_state(),
            State::Clearing(_) => "Clearing",
            State::Discarding(_) => "Discarding",
            State::Over => "over",
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What is remembered of it.
    pub(super) const fn take_finished(&mut self) -> Option<Finished> {
        self.finished.take()
    }

    /// Whether the owner's answer is awaited.
    pub(super) const fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_))
    }

    /// Whether the owner knows of it, and there is something left to cancel.
    pub(super) const fn can_be_cancelled(&self) -> bool {
        matches!(self.state, State::Asking(_) | State::Preparing(_) | State::Receiving(_))
    }

    /// Whether the owner has taken it, and it is not done.
    pub(super) const fn can_rest(&self) -> bool {
        matches!(self.state, State::Preparing(_) | State::Receiving(_))
    }

    /// The owner has it rest, or go on.
    // XFER-30.
    pub(super) fn pause(&mut self, io: &mut Io<'_, '_>, paused: bool) {
        if self.rest(io, Rest { here: paused, ..self.rest }) && matches!(self.state, State::Receiving(_)) && !self.away {
            self.rest.tell(io);
        }
    }

    /// The sender has it rest, or go on.
    fn said(&mut self, io: &mut Io<'_, '_>, there: bool) {
        match self.rest.said(&mut self.turns, there) {
            Ok(rest) => _ = self.rest(io, rest),
            Err(stop) => self.stop(io, stop),
        }
    }

    /// Whether that changes anything.
    fn rest(&mut self, io: &mut Io<'_, '_>, rest: Rest) -> bool {
        let changes = self.rest.become_of(io, rest);
        if changes {
            self.receiving(io, |receiving, io| receiving.pause(io, rest.any()));
        }
        changes
    }

    /// Whether it came to nothing, which the peer knows.
    pub(super) const fn is_discarding(&self) -> bool {
        matches!(self.state, State::Discarding(_))
    }

    /// Whether its owner has not taken it.
    pub(super) const fn is_untaken(&self) -> bool {
        matches!(self.state, State::Reading(_) | State::Inspecting(_) | State::Asking(_))
    }

    /// Bytes of pages that nobody has answered yet.
    pub(super) fn unanswered(&self) -> usize {
        let of = |manifest: &Manifest| manifest.pages().map(<[u8]>::len).sum();
        match &self.state {
            State::Reading(reading) => reading.parser.page_bytes(),
            State::Inspecting(inspecting) => of(&inspecting.manifest),
            State::Asking(asking) => of(&asking.manifest),
            State::Preparing(_) | State::Receiving(_) | State::Clearing(_) | State::Discarding(_) | State::Over => 0,
        }
    }

    /// The same transfer is offered again.
    pub(super) fn on_offer(&mut self, io: &mut Io<'_, '_>, offer: &Offer) {
        let equal = is_same(offer, &self.offer);
        if equal {
            // A sender that begins anew, and still has it rest, says so again behind the answer.
            if !planted!(RestOutlivesOffer) {
                self.rest(io, Rest { there: false, ..self.rest });
            }
            self.away = false;
            io.unset(TransferTimer::Away);
        }
        match &mut self.state {
            State::Discarding(_) | State::Over => io.decline(DeclineReason::Busy),
            State::Receiving(receiving) if equal => {
                let answered = receiving.accept_again(io);
                self.check(io, answered);
                self.tell_rest(io);
            }
            // Its pages come again as well.
            State::Reading(reading) if equal => {
                if let Some(stream) = reading.stream.as_ref().map(|(stream, _)| *stream) {
                    self.on_pages_lost(io, Some(stream));
                }
            }
            // The answer is still to come.
            State::Inspecting(_) | State::Asking(_) | State::Preparing(_) | State::Clearing(_) if equal => {}
            State::Reading(_)
            | State::Inspecting(_)
            | State::Asking(_)
            | State::Preparing(_)
            | State::Receiving(_)
            // XFER-19.
            | State::Clearing(_) => io.decline(DeclineReason::Mismatch),
        }
    }

    /// Behind an Accept, from which the sender would begin.
    fn tell_rest(&self, io: &mut Io<'_, '_>) {
        if self.rest.here && matches!(self.state, State::Receiving(_)) && !planted!(PauseUntold) {
            self.rest.tell(io);
        }
    }

    /// The session was replaced before the sender was heard out: what it said may be lost. It offers again, if it still wants to.
    // XFER-24.
    pub(super) fn on_unheard(&mut self, io: &mut Io<'_, '_>) {
        match self.state {
            State::Inspecting(_) | State::Asking(_) | State::Preparing(_) | State::Receiving(_) => {
                io.set(TransferTimer::Away, limits::PAGE_WAIT);
            }
            State::Reading(_) | State::Clearing(_) | State::Discarding(_) | State::Over => {}
        }
    }

    /// Whether it waits for the session in which the sender offers it again.
    pub(super) const fn can_wait(&self) -> bool {
        matches!(self.state, State::Inspecting(_) | State::Asking(_) | State::Preparing(_) | State::Receiving(_))
    }

    /// The session is lost.
    // XFER-21.
    pub(super) fn on_session_lost(&mut self, io: &mut Io<'_, '_>) {
        match &mut self.state {
            // The owner has not heard of it, and its pages come again.
            State::Reading(_) => self.state = State::Over,
            State::Receiving(receiving) => {
                // What the sender said ends with its session.
                self.turns = 0;
                self.rest.become_of(io, Rest { there: false, ..self.rest });
                receiving.on_session_lost(io, self.rest.any());
            }
            State::Inspecting(_) | State::Asking(_) | State::Preparing(_) | State::Clearing(_) | State::Discarding(_) | State::Over => {}
        }
        if self.can_wait() {
            self.away = true;
            if matches!(self.state, State::Preparing(_) | State::Receiving(_)) {
                io.notify(Event::Suspended { transfer: io.key });
            }
            if !planted!(AwayForEver) {
                io.set(TransferTimer::Away, limits::AWAY);
            }
        }
    }

    /// A session is up: a sender that still wants it offers it at once.
    pub(super) fn on_session(&mut self, io: &mut Io<'_, '_>) {
        if self.away && self.can_wait() && !planted!(AwayForEver) {
            io.set(TransferTimer::Away, limits::OFFER_WAIT);
        }
    }

    /// The sender offers something else, and what it offers again comes before that: this one it does not know any more.
    // XFER-29.
    pub(super) fn on_other_offer(&mut self, io: &mut Io<'_, '_>) {
        if self.away && self.can_wait() {
            self.end(io, TransferFailure::Lost);
        }
    }

    pub(super) fn on_message(&mut self, io: &mut Io<'_, '_>, message: ToReceiver) {
        match (message, &mut self.state) {
            (_, State::Clearing(_) | State::Discarding(_) | State::Over) => {}
            (ToReceiver::Cancel(reason), _) => self.end(io, TransferFailure::CancelledThere(reason)),
            (ToReceiver::Pause, State::Receiving(_)) => self.said(io, true),
            (ToReceiver::Resume, State::Receiving(_)) => self.said(io, false),
            (message, State::Receiving(receiving)) => {
                let result = match message {
                    ToReceiver::OpenBulk(count) => receiving.on_open_bulk(io, count, self.offer.manifest_digest),
                    ToReceiver::Digests { first, digests } => receiving.on_digests(io, first, digests),
                    ToReceiver::SourceChanged(entry) => receiving.on_source_changed(io, entry),
                    ToReceiver::Pause | ToReceiver::Resume | ToReceiver::Cancel(_) => Ok(()),
                };
                self.check(io, result);
            }
            // Nothing that these are about was accepted yet, or it was accepted before its session was lost, and this is the offer
            // made again: then what is missing is named in another Accept.
            (
                ToReceiver::OpenBulk(_)
                | ToReceiver::Digests { .. }
                | ToReceiver::SourceChanged(_)
                | ToReceiver::Pause
                | ToReceiver::Resume,
                State::Reading(_) | State::Inspecting(_) | State::Asking(_) | State::Preparing(_),
            ) => {}
        }
    }

    // The owner's answer.

    pub(super) fn accept(&mut self, io: &mut Io<'_, '_>) {
        match mem::replace(&mut self.state, State::Over) {
            State::Asking(Asking { manifest }) => {
                io.files(0..manifest.len(), FileOp::Prepare, Job::Prepare);
                self.state = State::Preparing(Preparing { manifest });
            }
            other => self.state = other,
        }
    }

    // Pages.

    pub(super) fn on_stream(&mut self, io: &mut Io<'_, '_>, data: DataStream) {
        let stream = data.stream;
        match (data.half, &mut self.state) {
            (DataHalf::ReceiveRecords(opener), State::Reading(reading)) if reading.stream.is_none() && reading.parser.page_bytes() == 0 => {
                reading.stream = Some((stream, opener));
                io.set(TransferTimer::Manifest, limits::PAGE_WAIT);
            }
            (DataHalf::ReceiveChunks(key), State::Receiving(receiving)) => receiving.on_stream(io, stream, &key, data.aead),
            (half @ DataHalf::ReceiveChunks(_), State::Reading(_) | State::Inspecting(_) | State::Asking(_) | State::Preparing(_))
                if self.early.len() < limits::EARLY_STREAMS =>
            {
                self.early.push(DataStream { half, ..data })
            }
            (
                DataHalf::ReceiveRecords(_) | DataHalf::ReceiveChunks(_) | DataHalf::SendRecords(_) | DataHalf::SendChunks(_),
                State::Reading(_)
                | State::Inspecting(_)
                | State::Asking(_)
                | State::Preparing(_)
                | State::Receiving(_)
                | State::Clearing(_)
                | State::Discarding(_)
                | State::Over,
            ) => io.reset(stream),
        }
    }

    /// A record of the stream with the pages. `room`: bytes that the peer's unanswered manifests may still grow by.
    pub(super) fn on_record(&mut self, io: &mut Io<'_, '_>, stream: StreamId, record: &[u8], room: usize) {
        let State::Reading(reading) = &mut self.state else { return io.reset(stream) };
        let Some((_, opener)) = reading.stream.as_mut().filter(|(pages, _)| *pages == stream) else { return io.reset(stream) };
        match opener.open(record) {
            Ok((RecordType::Data, page)) => {
                if page.len() > room {
                    return self.refuse(io, DeclineReason::Busy);
                }
                match reading.parser.page(page) {
                    Ok(()) => io.set(TransferTimer::Manifest, limits::PAGE_WAIT),
                    Err(error) => self.refuse(io, DeclineReason::from_number(error.reason().number())),
                }
            }
            Ok((RecordType::Fin, _)) => {
                // Everything has come, and there is nothing to say here.
                io.cx.finish(stream);
                self.on_manifest(io);
            }
            Ok((RecordType::Opening, _)) => self.on_pages_lost(io, Some(stream)),
            Err(RecordError::Forged) => {
                io.forgery(stream);
                self.on_pages_lost(io, None);
            }
            Err(RecordError::Type | RecordError::Place | RecordError::Length | RecordError::AfterFin | RecordError::Spent) => {
                self.on_pages_lost(io, Some(stream));
            }
        }
    }

    /// All pages came.
    fn on_manifest(&mut self, io: &mut Io<'_, '_>) {
        let State::Reading(reading) = mem::replace(&mut self.state, State::Over) else { return };
        io.unset(TransferTimer::Manifest);
        match reading.parser.finish() {
            Ok(manifest) => {
                io.files(0..manifest.len(), FileOp::Inspect, Job::Inspect);
                self.state = State::Inspecting(Inspecting { manifest: Arc::new(manifest) });
            }
            Err(error) => io.decline(DeclineReason::from_number(error.reason().number())),
        }
    }

    /// Says no to what the owner has not heard of.
    fn refuse(&mut self, io: &mut Io<'_, '_>, reason: DeclineReason) {
        io.decline(reason);
        self.state = State::Over;
    }

    /// The stream of the pages ended early, or could not be opened. Pages come again from the first.
    fn on_pages_lost(&mut self, io: &mut Io<'_, '_>, stream: Option<StreamId>) {
        let State::Reading(reading) = &mut self.state else { return };
        if let Some(stream) = stream {
            io.reset(stream);
        }
        match ManifestParser::new(&self.offer) {
            Ok(parser) if reading.tries <= limits::STREAM_TRIES => {
                (reading.parser, reading.stream) = (parser, None);
                reading.want_stream(io, self.offer.manifest_digest);
            }
            Ok(_) | Err(_) => self.refuse(io, DeclineReason::Busy),
        }
    }

    pub(super) fn on_stream_failed(&mut self, io: &mut Io<'_, '_>, kind: StreamKind) {
        match (kind, &mut self.state) {
            (StreamKind::Manifest, State::Reading(_)) => self.on_pages_lost(io, None),
            (StreamKind::Bulk, State::Receiving(receiving)) => receiving.on_stream_failed(io),
            (StreamKind::Control | StreamKind::Manifest | StreamKind::Bulk | StreamKind::Custom, _) => {}
        }
    }

    pub(super) fn on_stream_down(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        self.early.retain(|early| early.stream != stream);
        match &mut self.state {
            State::Reading(reading) => {
                if reading.stream.as_ref().is_some_and(|(pages, _)| *pages == stream) {
                    if planted!(PagesWithoutFin) {
                        return self.on_manifest(io);
                    }
                    self.on_pages_lost(io, None);
                }
            }
            State::Receiving(receiving) => receiving.on_stream_down(io, stream),
            State::Inspecting(_) | State::Asking(_) | State::Preparing(_) | State::Clearing(_) | State::Discarding(_) | State::Over => {}
        }
    }

    /// A bulk stream has ended, perhaps another transfer's.
    pub(super) fn on_room(&mut self, io: &mut Io<'_, '_>) {
        if let State::Receiving(receiving) = &mut self.state {
            receiving.on_room(io, self.offer.manifest_digest);
        }
    }

    pub(super) fn on_bulk(&mut self, io: &mut Io<'_, '_>, stream: StreamId, report: &BulkReport) {
        self.receiving(io, |receiving, io| receiving.on_bulk(io, stream, report));
    }

    pub(super) fn on_timer(&mut self, io: &mut Io<'_, '_>, timer: TransferTimer) {
        match timer {
            TransferTimer::Manifest => match self.state {
                State::Reading(_) => self.refuse(io, DeclineReason::Busy),
                State::Inspecting(_)
                | State::Asking(_)
                | State::Preparing(_)
                | State::Receiving(_)
                | State::Clearing(_)
                | State::Discarding(_)
                | State::Over => {}
            },
            TransferTimer::Away => self.stop(io, Stop::Lost),
            TransferTimer::Checkpoint => self.receiving(io, Receiving::on_checkpoint_due),
            TransferTimer::Missing => self.receiving(io, Receiving::on_missing),
            TransferTimer::Stall(stream) => self.receiving(io, |receiving, io| {
                receiving.on_stall(io, stream);
                Ok(())
            }),
        }
    }

    // The host's answers.

    pub(super) fn on_job(&mut self, io: &mut Io<'_, '_>, job: Job, result: Result<Reply, Failure>) {
        let notes = match result {
            Ok(Reply::Files(notes)) => Ok(notes),
            Ok(Reply::Persisted) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        };
        match (job, mem::replace(&mut self.state, State::Over)) {
            (Job::Inspect, State::Inspecting(Inspecting { manifest })) => self.on_inspected(io, manifest, notes),
            (Job::Prepare, State::Preparing(Preparing { manifest })) => {
                self.state = State::Preparing(Preparing { manifest: Arc::clone(&manifest) });
                self.on_prepared(io, manifest, notes);
            }
            (Job::Sync, State::Receiving(receiving)) => {
                self.state = State::Receiving(receiving);
                self.receiving(io, |receiving, io| receiving.on_synced(io, notes));
            }
            (Job::Publish(range), State::Receiving(receiving)) => {
                self.state = State::Receiving(receiving);
                self.receiving(io, |receiving, io| receiving.on_published(io, range, notes));
            }
            (Job::Digest(range), State::Receiving(receiving)) => {
                self.state = State::Receiving(receiving);
                self.receiving(io, |receiving, io| receiving.on_read_back(io, range, notes));
            }
            (Job::Discard, State::Clearing(clearing)) => self.finished = Some(clearing.finish(io, self.offer.clone())),
            (Job::Discard, State::Discarding(Discarding { reason })) => io.failed(reason),
            // What was under way when it failed.
            (Job::Inspect | Job::Prepare | Job::Sync | Job::Digest(_) | Job::Publish(_) | Job::Discard, state) => self.state = state,
        }
    }

    fn on_inspected(&mut self, io: &mut Io<'_, '_>, manifest: Arc<Manifest>, notes: Result<Vec<(u32, EntryNote)>, Failure>) {
        let label = self.offer.label.clone();
        match notes {
            Ok(notes) => {
                io.notify(Event::Offered { transfer: io.key, label, manifest: Arc::clone(&manifest), notes });
                self.state = State::Asking(Asking { manifest });
            }
            Err(failure) => {
                // Or else there is nowhere to put it.
                let full = failure == Failure::Disk(FileFault::DiskFull);
                io.decline(if full { DeclineReason::NoSpace } else { DeclineReason::Busy });
                io.notify(Event::OfferDeclined { transfer: io.key, label, manifest, failure });
            }
        }
    }

    fn on_prepared(&mut self, io: &mut Io<'_, '_>, manifest: Arc<Manifest>, notes: Result<Vec<(u32, EntryNote)>, Failure>) {
        let started = notes.map_err(Stop::of_failure).and_then(|notes| Receiving::new(io, manifest, notes));
        match started {
            Ok(receiving) => {
                self.state = State::Receiving(Box::new(receiving));
                let (early, rests) = (mem::take(&mut self.early), self.rest.any());
                self.receiving(io, |receiving, io| {
                    receiving.start(io, rests);
                    for DataStream { stream, half, aead, .. } in early {
                        if let DataHalf::ReceiveChunks(key) = half {
                            receiving.on_stream(io, stream, &key, aead);
                        }
                    }
                    receiving.advance(io)
                });
                self.tell_rest(io);
            }
            Err(stop) => self.stop(io, stop),
        }
    }

    // The end.

    /// Ends it, in whatever state. Temporary files go first, then the owner is told, if it had heard of it.
    pub(super) fn end(&mut self, io: &mut Io<'_, '_>, reason: TransferFailure) {
        let entries = 0..self.offer.entries;
        match mem::replace(&mut self.state, State::Over) {
            State::Reading(_) | State::Over => {}
            // XFER-17.
            State::Inspecting(_) => io.files(entries, FileOp::Discard, Job::Discard),
            State::Asking(_) => self.discard(io, reason, FileOp::Discard),
            State::Preparing(_) => self.discard(io, reason, last_op(reason)),
            State::Receiving(mut receiving) => {
                receiving.stop(io);
                self.discard(io, reason, last_op(reason));
            }
            // Everything is durable, and nothing that anybody says changes that.
            State::Clearing(clearing) => self.state = State::Clearing(clearing),
            State::Discarding(discarding) => self.state = State::Discarding(discarding),
        }
    }

    fn discard(&mut self, io: &mut Io<'_, '_>, reason: TransferFailure, op: FileOp) {
        io.reset_all();
        io.unset(TransferTimer::Away);
        self.early.clear();
        if planted!(CancelLeavesFiles) {
            return io.failed(reason);
        }
        io.files(0..self.offer.entries, op, Job::Discard);
        self.state = State::Discarding(Discarding { reason });
    }

    fn receiving(&mut self, io: &mut Io<'_, '_>, call: impl FnOnce(&mut Receiving, &mut Io<'_, '_>) -> Result<(), Stop>) {
        if let State::Receiving(receiving) = &mut self.state {
            let result = call(receiving, io);
            self.check(io, result);
        }
    }

    /// Ends a transfer that cannot go on; clears up after one in which every entry has an outcome.
    fn check(&mut self, io: &mut Io<'_, '_>, result: Result<(), Stop>) {
        match (result, mem::replace(&mut self.state, State::Over)) {
            (Err(stop), state) => {
                self.state = state;
                self.stop(io, stop);
            }
            (Ok(()), State::Receiving(mut receiving)) if receiving.is_complete() => {
                receiving.stop(io);
                io.reset_all();
                io.unset(TransferTimer::Away);
                io.files(0..self.offer.entries, FileOp::Clear, Job::Discard);
                let resumed = receiving.resumed();
                let (manifest, outcomes) = receiving.into_outcomes();
                self.state = State::Clearing(Clearing { manifest, outcomes, resumed });
            }
            (Ok(()), state) => self.state = state,
        }
    }

    fn stop(&mut self, io: &mut Io<'_, '_>, stop: Stop) {
        let reason = stop.tell(io);
        self.end(io, reason);
    }
}

impl Reading {
    /// Opens the stream for the pages where only this side can. Elsewhere the sender does.
    fn want_stream(&mut self, io: &mut Io<'_, '_>, digest: [u8; 32]) {
        self.tries += 1;
        if io.peer().is_some_and(|peer| peer.must_open) {
            io.want_stream(StreamKind::Manifest, digest);
        }
    }
}

impl Stop {
    pub(super) fn of_failure(failure: Failure) -> Self {
        match failure {
            Failure::Disk(fault) => Self::of_fault(fault),
            Failure::Unreachable | Failure::Refused | Failure::TimedOut | Failure::Gone | Failure::Unsupported => {
                Self::Cancel(CancelReason::Io)
            }
        }
    }

    pub(super) const fn of_fault(fault: FileFault) -> Self {
        Self::Cancel(match fault {
            FileFault::DiskFull => CancelReason::DiskFull,
            FileFault::Denied
            | FileFault::ReadOnly
            | FileFault::Failing(_)
            | FileFault::NotFound
            | FileFault::Exists
            | FileFault::Unsupported
            | FileFault::Unsafe
            | FileFault::Changed
            | FileFault::Digest
            | FileFault::Io(_) => CancelReason::Io,
        })
    }
}

impl Clearing {
    /// Tells the receipt, and the owner. What is left is to tell it again.
    fn finish(self, io: &mut Io<'_, '_>, offer: Offer) -> Finished {
        let (digest, mut summary) = self.outcomes.sum_up(io.key, &self.manifest);
        summary.resumed = self.resumed;
        let others: Vec<(u32, Outcome)> = self.outcomes.others().filter(|_| !planted!(OutcomesUnlisted)).collect();
        tell_receipt(io, digest, &others);
        io.notify(Event::Done { transfer: io.key, summary });
        Finished { key: io.key, offer, digest, others, told: 0 }
    }
}
