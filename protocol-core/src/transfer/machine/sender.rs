//! The side that offers.
//!
//! ```text
//! Waiting   no session, yet or any more      ── session ─▶ Offer
//! Offered   pages leave as the stream drains ── Accept ─▶
//! Sending   chunks, digests, what is durable ── Receipt that verifies ─▶ over
//! ```
//!
//! A session that is lost leads back to Waiting, with all that is known of what was sent; the next one to the same offer.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use super::rest::Rest;
use super::sending::Sending;
use super::{DataHalf, DataStream, Io, Job, Stop, TransferTimer};
use crate::effects::{BulkReport, Cut, Event, Reply};
use crate::faults::{CancelReason, DeclineReason, Failure, TransferFailure};
use crate::ids::StreamId;
use crate::limits;
use crate::session::record::{RecordSealer, RecordType};
use crate::session::stream::StreamKind;
use crate::transfer::manifest::Manifest;
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::Outcome;
use crate::wire::control::{ControlMessage, Offer};

/// What a receiver may say.
#[derive(Debug)]
pub(super) enum ToSender {
    Accept { chunks: Ranges, digests: Ranges },
    Decline(DeclineReason),
    Stored(Ranges),
    Receipt { digest: [u8; 32], others: Vec<(u32, Outcome)>, more: bool },
    Cancel(CancelReason),
    Pause,
    Resume,
}

/// One transfer that this device sends.
pub(super) struct Sender {
    manifest: Arc<Manifest>,
    label: Option<String>,
    /// It was offered in an earlier life of the process, or what the receiver said of it may be lost with a session.
    began: bool,
    /// It was offered again, and the other side may have taken that for another offer.
    again: bool,
    rest: Rest,
    /// How often the receiver has changed its mind about that, in this session.
    turns: u32,
    /// What was sent, once it was accepted.
    sending: Option<Box<Sending>>,
    state: State,
}

enum State {
    /// No session is up.
    Waiting,
    Offered(Offered),
    /// Accepted, in the session that stands: `sending` is there.
    Sending,
    Over,
}

/// Offered; the pages are on their way, or an answer is awaited.
struct Offered {
    pages: Pages,
    /// Streams that were opened, or wanted, for the pages.
    tries: u32,
}

enum Pages {
    /// The stream is awaited.
    Awaited,
    /// The pages before `next` were given to the stream.
    Flowing { stream: StreamId, sealer: RecordSealer, next: usize },
    /// All were, and the end.
    Told { stream: StreamId },
    /// The receiver has them all.
    Taken,
}

impl Sender {
    /// `began`: in an earlier life of the process, so that the receiver may have some of it, or all.
    pub(super) const fn new(manifest: Arc<Manifest>, label: Option<String>, began: bool) -> Self {
        let rest = Rest { here: false, there: false };
        Self { manifest, label, began, again: false, rest, turns: 0, sending: None, state: State::Waiting }
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        *self.manifest.digest()
    }

    /// For the matrix of states and messages.
    #[cfg(test)]
    pub(super) const fn state(&self) -> &'static str {
        match self.state {
            State::Waiting => "Waiting",
            State::Offered(_) => "Offered",
            State::Sending => "Sending",
            State::Over => "over",
        }
    }

    #[cfg(feature = "testing")]
    pub(super) const fn probe_state(&self) -> &'static str {
        match (&self.state, &self.sending) {
            (State::Waiting, None) => "Waiting",
            (State::Waiting, Some(_)) => "Waiting, parked",
            (State::Offered(_), Some(_)) => "Offered, parked",
            (State::Offered(Offered { pages: Pages::Awaited, .. }), None) => "Offered",
            (State::Offered(Offered { pages: Pages::Flowing { .. }, .. }), None) => "Offered, pages flow",
            (State::Offered(Offered { pages: Pages::Told { .. }, .. }), None) => "Offered, pages told",
            (State::Offered(Offered { pages: Pages::Taken, .. }), None) => "Offered, pages taken",
            (State::Sending, Some(sending)) => sending.probe_state(),
            (State::Sending, None) | (State::Over, _) => "over",
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether more pages are to leave on this stream.
    pub(super) fn sends_pages_on(&self, stream: StreamId) -> bool {
        matches!(&self.state, State::Offered(Offered { pages: Pages::Flowing { stream: own, .. }, .. }) if *own == stream)
    }

    /// Whether the peer was told of it, in the session that stands.
    pub(super) const fn was_offered(&self) -> bool {
        matches!(self.state, State::Offered(_) | State::Sending)
    }

    /// Whether it was offered, and nobody has taken it.
    pub(super) const fn is_untaken(&self) -> bool {
        matches!(self.state, State::Offered(_)) && self.sending.is_none() && !self.began
    }

    /// Whether it was offered, and waits for a session to go on.
    pub(super) const fn is_suspended(&self) -> bool {
        matches!(self.state, State::Waiting) && self.again
    }

    /// A session is up.
    pub(super) fn on_session(&mut self, io: &mut Io<'_, '_>) {
        match &mut self.state {
            State::Waiting => self.offer(io, Pages::Awaited),
            State::Sending => {
                if let Some(sending) = &mut self.sending {
                    sending.on_session(io);
                }
            }
            State::Offered(_) | State::Over => {}
        }
    }

    /// The session is lost. What was offered is offered again in the next one, if that comes in time.
    // XFER-21.
    pub(super) fn on_session_lost(&mut self, io: &mut Io<'_, '_>) {
        if !self.was_offered() {
            return;
        }
        self.park(io);
        if self.sending.is_some() {
            io.notify(Event::Suspended { transfer: io.key });
        }
        if !planted!(AwayForEver) {
            io.set(TransferTimer::Away, limits::AWAY);
        }
    }

    fn park(&mut self, io: &mut Io<'_, '_>) {
        if let State::Offered(offered) = &self.state
            && let Some(stream) = offered.stream()
        {
            io.reset(stream);
        }
        if let Some(sending) = &mut self.sending {
            sending.park(io);
        }
        // What the receiver said ends with its session.
        self.turns = 0;
        self.rest(io, Rest { there: false, ..self.rest });
        self.again = true;
        self.state = State::Waiting;
    }

    /// A session was replaced before the receiver was heard out: what it said may be lost.
    pub(super) const fn on_unheard(&mut self) {
        self.began |= self.was_offered();
    }

    /// A session has taken over from another, and from here on everything goes over the newer one. What was not answered is offered
    /// again, because offer or answer may be lost. Was the peer not heard out, so may be what it said of a transfer under way.
    // XFER-24.
    pub(super) fn on_succession(&mut self, io: &mut Io<'_, '_>, heard: bool) {
        match &self.state {
            State::Offered(offered) if !planted!(OfferNotRepeated) => {
                let taken = matches!(offered.pages, Pages::Taken);
                self.park(io);
                self.offer(io, if taken { Pages::Taken } else { Pages::Awaited });
            }
            State::Sending if !heard && !planted!(UnheardGoesOn) => {
                self.park(io);
                self.offer(io, Pages::Awaited);
            }
            State::Waiting | State::Offered(_) | State::Sending | State::Over => {}
        }
    }

    /// It is over: whoever may have taken an offer that was made again for another one hears that it is none.
    pub(super) fn take_back(&self, io: &mut Io<'_, '_>) {
        if self.again {
            io.cancel(CancelReason::User);
        }
    }

    /// It ends here, and may go on elsewhere: nothing is taken back.
    pub(super) const fn leave(&mut self) {
        self.again = false;
    }

    fn offer(&mut self, io: &mut Io<'_, '_>, pages: Pages) {
        io.unset(TransferTimer::Away);
        io.tell(ControlMessage::Offer(Offer {
            transfer: io.key.id,
            entries: self.manifest.len(),
            bytes: self.manifest.bytes(),
            chunk_size: self.manifest.chunk_size(),
            manifest_digest: self.digest(),
            label: self.label.clone(),
        }));
        let mut offered = Offered { pages, tries: 0 };
        if matches!(offered.pages, Pages::Awaited) {
            offered.want_stream(io, self.digest());
        }
        self.state = State::Offered(offered);
    }

    /// The owner has it rest, or go on.
    // XFER-30.
    pub(super) fn pause(&mut self, io: &mut Io<'_, '_>, paused: bool) {
        if self.rest(io, Rest { here: paused, ..self.rest }) && matches!(self.state, State::Sending) {
            self.rest.tell(io);
        }
    }

    /// Whether that changes anything.
    fn rest(&mut self, io: &mut Io<'_, '_>, rest: Rest) -> bool {
        let changes = self.rest.become_of(io, rest);
        if changes {
            self.sending(io, |sending, io| {
                sending.pause(io, rest.any());
                Ok(())
            });
        }
        changes
    }

    pub(super) fn on_message(&mut self, io: &mut Io<'_, '_>, message: ToSender) {
        match &self.state {
            // The id is ours and was told to nobody, or the word belongs to a session that is over.
            State::Waiting if self.again => {}
            State::Waiting => self.stop(io, Stop::Violation),
            State::Offered(_) => self.on_answer(io, message),
            State::Sending => self.on_message_while_sending(io, message),
            State::Over => {}
        }
    }

    fn on_answer(&mut self, io: &mut Io<'_, '_>, message: ToSender) {
        match message {
            ToSender::Accept { chunks, digests } => {
                if let Err(stop) = self.begin_sending(io) {
                    return self.stop(io, stop);
                }
                let rests = self.rest.any();
                self.sending(io, |sending, io| {
                    sending.pause(io, rests);
                    sending.on_accept(io, chunks, digests)
                });
                if self.rest.here && !self.is_over() && !planted!(PauseUntold) {
                    self.rest.tell(io);
                }
            }
            ToSender::Decline(reason) => self.end(io, TransferFailure::Declined(reason)),
            ToSender::Cancel(reason) => self.end(io, TransferFailure::CancelledThere(reason)),
            // It was accepted, and needs nothing more from here.
            // XFER-24.
            ToSender::Receipt { digest, others, more } if self.again || self.began => match self.need_sending(io) {
                Ok(()) => self.receipt(io, |sending, io| sending.on_receipt(io, digest, others, more)),
                Err(stop) => self.stop(io, stop),
            },
            // Said before the offer that was made again had come.
            ToSender::Stored(chunks) if self.again || self.began => self.sending(io, |sending, io| sending.on_stored(io, &chunks)),
            ToSender::Stored(_) | ToSender::Receipt { .. } => self.stop(io, Stop::Violation),
            ToSender::Pause | ToSender::Resume => {}
        }
    }

    /// The receiver has answered, and has the manifest.
    fn begin_sending(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        if let State::Offered(Offered { pages: Pages::Flowing { stream, .. }, .. }) = self.state {
            io.reset(stream);
        }
        self.need_sending(io)?;
        self.state = State::Sending;
        Ok(())
    }

    /// It was accepted, in this life of the process or an earlier one.
    fn need_sending(&mut self, io: &mut Io<'_, '_>) -> Result<(), Stop> {
        if self.sending.is_none() {
            self.sending = Some(Box::new(Sending::new(io, Arc::clone(&self.manifest))?));
            io.notify(Event::Accepted { transfer: io.key });
        }
        Ok(())
    }

    fn on_message_while_sending(&mut self, io: &mut Io<'_, '_>, message: ToSender) {
        match message {
            ToSender::Accept { chunks, digests } => self.sending(io, |sending, io| sending.on_accept(io, chunks, digests)),
            ToSender::Stored(chunks) => self.sending(io, |sending, io| sending.on_stored(io, &chunks)),
            ToSender::Receipt { digest, others, more } => {
                self.receipt(io, |sending, io| sending.on_receipt(io, digest, others, more));
            }
            ToSender::Decline(reason) => self.end(io, TransferFailure::Declined(reason)),
            ToSender::Cancel(reason) => self.end(io, TransferFailure::CancelledThere(reason)),
            ToSender::Pause | ToSender::Resume => match self.rest.said(&mut self.turns, matches!(message, ToSender::Pause)) {
                Ok(rest) => _ = self.rest(io, rest),
                Err(stop) => self.stop(io, stop),
            },
        }
    }

    /// Does what may bring the receipt's last missing piece.
    fn receipt(&mut self, io: &mut Io<'_, '_>, call: impl FnOnce(&mut Sending, &mut Io<'_, '_>) -> Result<bool, Stop>) {
        let Some(sending) = &mut self.sending else { return };
        match call(sending, io) {
            Ok(true) => {
                self.state = State::Over;
                io.reset_all();
            }
            Ok(false) => {}
            Err(stop) => self.stop(io, stop),
        }
    }

    /// The host has digested sources.
    pub(super) fn on_job(&mut self, io: &mut Io<'_, '_>, job: Job, result: Result<Reply, Failure>) {
        let notes = match result {
            Ok(Reply::Files(notes)) => Ok(notes),
            Ok(Reply::Persisted) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        };
        if let Job::Digest(range) = job {
            self.receipt(io, |sending, io| sending.on_digested(io, range, notes));
        }
    }

    pub(super) fn on_stream(&mut self, io: &mut Io<'_, '_>, data: DataStream) {
        let DataStream { stream, half, aead, .. } = data;
        match (half, &mut self.state) {
            (DataHalf::SendRecords(sealer), State::Offered(offered)) => {
                if let Pages::Flowing { stream, .. } = offered.pages {
                    io.reset(stream);
                }
                offered.pages = Pages::Flowing { stream, sealer, next: 0 };
                offered.pump(io, &self.manifest);
            }
            (DataHalf::SendChunks(key), State::Sending) => {
                if let Some(sending) = &mut self.sending {
                    sending.on_stream(io, stream, &key, aead);
                }
            }
            (
                DataHalf::SendRecords(_) | DataHalf::SendChunks(_) | DataHalf::ReceiveRecords(_) | DataHalf::ReceiveChunks(_),
                State::Waiting | State::Offered(_) | State::Sending | State::Over,
            ) => io.reset(stream),
        }
    }

    /// A bulk stream has ended, perhaps another transfer's.
    pub(super) fn on_room(&mut self, io: &mut Io<'_, '_>) {
        if let Some(sending) = &mut self.sending {
            sending.on_room(io);
        }
    }

    pub(super) fn on_drained(&mut self, io: &mut Io<'_, '_>, stream: StreamId) {
        if let State::Offered(offered) = &mut self.state
            && offered.stream() == Some(stream)
        {
            offered.pump(io, &self.manifest);
        }
    }

    pub(super) fn on_stream_failed(&mut self, io: &mut Io<'_, '_>, kind: StreamKind) {
        match kind {
            StreamKind::Bulk => {
                if let Some(sending) = &mut self.sending {
                    sending.on_stream_failed(io);
                }
            }
            // The receiver may have opened one meanwhile, and have its pages there.
            StreamKind::Manifest if self.awaits_stream() => self.on_pages_lost(io),
            StreamKind::Manifest => {}
            StreamKind::Control | StreamKind::Custom => {}
        }
    }

    pub(super) fn on_stream_down(&mut self, io: &mut Io<'_, '_>, stream: StreamId, how: Cut) {
        match &mut self.state {
            State::Offered(offered) if offered.stream() == Some(stream) => match (how, &offered.pages) {
                // Ended on both sides. What the receiver thinks of the pages is its answer. Where it opened the stream its half
                // says nothing, and it opens another if it needs one.
                (Cut::Finished, Pages::Told { .. }) => offered.pages = Pages::Taken,
                (
                    Cut::Finished | Cut::Broken | Cut::Malformed,
                    Pages::Awaited | Pages::Flowing { .. } | Pages::Told { .. } | Pages::Taken,
                ) => self.on_pages_lost(io),
            },
            State::Offered(_) | State::Waiting | State::Sending | State::Over => {
                if let Some(sending) = &mut self.sending {
                    sending.on_stream_down(io, stream);
                }
            }
        }
    }

    const fn awaits_stream(&self) -> bool {
        matches!(&self.state, State::Offered(offered) if matches!(offered.pages, Pages::Awaited))
    }

    /// The stream of the pages could not be opened, or broke: another one may do better. If none does, the peer is gone, which its
    /// session will tell, or waits for its pages no more, and says so.
    fn on_pages_lost(&mut self, io: &mut Io<'_, '_>) {
        let digest = self.digest();
        let State::Offered(offered) = &mut self.state else { return };
        let told = matches!(offered.pages, Pages::Told { .. });
        if offered.tries < limits::STREAM_TRIES {
            offered.pages = Pages::Awaited;
            offered.want_stream(io, digest);
        } else if !told {
            offered.pages = Pages::Awaited;
        }
    }

    pub(super) fn on_bulk(&mut self, io: &mut Io<'_, '_>, stream: StreamId, report: &BulkReport) {
        self.sending(io, |sending, io| {
            sending.on_bulk(io, stream, report);
            Ok(())
        });
    }

    pub(super) fn on_timer(&mut self, io: &mut Io<'_, '_>, timer: TransferTimer) {
        match (timer, &mut self.sending) {
            (TransferTimer::Stall(stream), Some(sending)) => sending.on_stall(io, stream),
            (TransferTimer::Away, _) => self.end(io, TransferFailure::Lost),
            (TransferTimer::Stall(_) | TransferTimer::Manifest | TransferTimer::Checkpoint | TransferTimer::Missing, _) => {}
        }
    }

    /// Ends it, in whatever state. The owner is told.
    pub(super) fn end(&mut self, io: &mut Io<'_, '_>, reason: TransferFailure) {
        if matches!(mem::replace(&mut self.state, State::Over), State::Over) {
            return;
        }
        if let Some(mut sending) = self.sending.take() {
            sending.stop(io);
        }
        io.reset_all();
        io.failed(reason);
    }

    fn sending(&mut self, io: &mut Io<'_, '_>, call: impl FnOnce(&mut Sending, &mut Io<'_, '_>) -> Result<(), Stop>) {
        if let Some(sending) = &mut self.sending {
            let result = call(sending, io);
            self.check(io, result);
        }
    }

    fn check(&mut self, io: &mut Io<'_, '_>, result: Result<(), Stop>) {
        if let Err(stop) = result {
            self.stop(io, stop);
        }
    }

    fn stop(&mut self, io: &mut Io<'_, '_>, stop: Stop) {
        let reason = stop.tell(io);
        self.end(io, reason);
    }
}

impl Offered {
    const fn stream(&self) -> Option<StreamId> {
        match self.pages {
            Pages::Awaited | Pages::Taken => None,
            Pages::Flowing { stream, .. } | Pages::Told { stream } => Some(stream),
        }
    }

    /// Has the stream for the pages opened, unless only the receiver can, which does so by itself.
    fn want_stream(&mut self, io: &mut Io<'_, '_>, digest: [u8; 32]) {
        self.tries += 1;
        if io.peer().is_some_and(|peer| peer.can_open) {
            io.want_stream(StreamKind::Manifest, digest);
        }
    }

    /// Gives the stream the next pages: few at a time, the others when it has drained.
    fn pump(&mut self, io: &mut Io<'_, '_>, manifest: &Manifest) {
        let Pages::Flowing { stream, sealer, next } = &mut self.pages else { return };
        let stream = *stream;
        let (mut bytes, mut ended) = (Vec::new(), false);
        for _ in 0..limits::PAGES_AT_ONCE {
            let page = manifest.pages().nth(*next);
            let sealed = match page {
                Some(page) => sealer.seal(RecordType::Data, page),
                None => sealer.seal(RecordType::Fin, &[]),
            };
            // A page is a record's plaintext, and a manifest is far below what one key carries.
            bytes.extend(sealed.expect("invariant: pages fit records, and 64 MiB of them fit a stream"));
            *next += 1;
            if page.is_none() {
                ended = true;
                break;
            }
        }
        io.cx.send(stream, bytes);
        if ended {
            io.cx.finish(stream);
            self.pages = Pages::Told { stream };
        }
    }
}
