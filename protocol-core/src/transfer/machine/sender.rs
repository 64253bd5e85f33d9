//! The side that offers.
//!
//! ```text
//! Waiting   no session yet                  ── session ─▶ Offer
//! Offered   pages leave as the stream drains ── Accept ─▶
//! Sending   chunks, digests, what is durable ── Receipt that verifies ─▶ over
//! ```

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use super::sending::Sending;
use super::{DataHalf, DataStream, Io, Stop, TransferTimer};
use crate::effects::{BulkReport, Cut, Event};
use crate::faults::{CancelReason, DeclineReason, TransferFailure};
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
    /// It was offered again, and the other side may have taken that for another offer.
    again: bool,
    /// A session was replaced before the receiver was heard out: an Accept may be lost with it.
    unheard: bool,
    state: State,
}

enum State {
    Waiting(Waiting),
    Offered(Offered),
    Sending(Box<Sending>),
    Over,
}

/// Not offered yet: no session is up.
struct Waiting;

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
    pub(super) const fn new(manifest: Arc<Manifest>, label: Option<String>) -> Self {
        Self { manifest, label, again: false, unheard: false, state: State::Waiting(Waiting) }
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        *self.manifest.digest()
    }

    /// For the matrix of states and messages.
    #[cfg(test)]
    pub(super) const fn state(&self) -> &'static str {
        match self.state {
            State::Waiting(_) => "Waiting",
            State::Offered(_) => "Offered",
            State::Sending(_) => "Sending",
            State::Over => "over",
        }
    }

    #[cfg(feature = "testing")]
    pub(super) const fn probe_state(&self) -> &'static str {
        match &self.state {
            State::Waiting(_) => "Waiting",
            State::Offered(Offered { pages: Pages::Awaited, .. }) => "Offered",
            State::Offered(Offered { pages: Pages::Flowing { .. }, .. }) => "Offered, pages flow",
            State::Offered(Offered { pages: Pages::Told { .. }, .. }) => "Offered, pages told",
            State::Offered(Offered { pages: Pages::Taken, .. }) => "Offered, pages taken",
            State::Sending(sending) => sending.probe_state(),
            State::Over => "over",
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether more pages are to leave on this stream.
    pub(super) fn sends_pages_on(&self, stream: StreamId) -> bool {
        matches!(&self.state, State::Offered(Offered { pages: Pages::Flowing { stream: own, .. }, .. }) if *own == stream)
    }

    /// Whether the peer was told of it.
    pub(super) const fn was_offered(&self) -> bool {
        matches!(self.state, State::Offered(_) | State::Sending(_))
    }

    /// A session is up.
    pub(super) fn on_session(&mut self, io: &mut Io<'_, '_>) {
        match &mut self.state {
            State::Waiting(Waiting) => self.offer(io, Pages::Awaited),
            State::Sending(sending) => sending.on_session(io),
            State::Offered(_) | State::Over => {}
        }
    }

    /// A session was replaced before the receiver was heard out: what it said may be lost.
    pub(super) const fn on_unheard(&mut self) {
        self.unheard = true;
    }

    /// A session has taken over from another, and from here on everything goes over the newer one. What was not answered is offered
    /// again, because offer or answer may be lost. Was the peer not heard out, so may be what it said of a transfer under way.
    // XFER-24.
    pub(super) fn on_succession(&mut self, io: &mut Io<'_, '_>, heard: bool) {
        match &mut self.state {
            State::Offered(offered) if !planted!(OfferNotRepeated) => {
                if let Some(stream) = offered.stream() {
                    io.reset(stream);
                }
                let taken = matches!(offered.pages, Pages::Taken);
                self.again = true;
                self.offer(io, if taken { Pages::Taken } else { Pages::Awaited });
            }
            State::Sending(_) if !heard => self.stop(io, Stop::Lost),
            State::Waiting(_) | State::Offered(_) | State::Sending(_) | State::Over => {}
        }
    }

    /// It is over: whoever may have taken an offer that was made again for another one hears that it is none.
    pub(super) fn take_back(&self, io: &mut Io<'_, '_>) {
        if self.again {
            io.cancel(CancelReason::User);
        }
    }

    fn offer(&mut self, io: &mut Io<'_, '_>, pages: Pages) {
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

    pub(super) fn on_message(&mut self, io: &mut Io<'_, '_>, message: ToSender) {
        match mem::replace(&mut self.state, State::Over) {
            State::Waiting(Waiting) => {
                // The id is ours and was told to nobody.
                self.state = State::Waiting(Waiting);
                self.stop(io, Stop::Violation);
            }
            State::Offered(offered) => self.on_answer(io, offered, message),
            State::Sending(sending) => {
                self.state = State::Sending(sending);
                self.on_message_while_sending(io, message);
            }
            State::Over => {}
        }
    }

    fn on_answer(&mut self, io: &mut Io<'_, '_>, offered: Offered, message: ToSender) {
        match message {
            ToSender::Accept { chunks, digests } => {
                if let Pages::Flowing { stream, .. } = offered.pages {
                    // It has the manifest already.
                    io.reset(stream);
                }
                match Sending::new(io, Arc::clone(&self.manifest)) {
                    Ok(mut sending) => {
                        io.notify(Event::Accepted { transfer: io.key });
                        let accepted = sending.on_accept(io, chunks, digests);
                        self.state = State::Sending(Box::new(sending));
                        self.check(io, accepted);
                    }
                    Err(stop) => {
                        self.state = State::Offered(offered);
                        self.stop(io, stop);
                    }
                }
            }
            ToSender::Decline(reason) => {
                self.state = State::Offered(offered);
                self.end(io, TransferFailure::Declined(reason));
            }
            ToSender::Cancel(reason) => {
                self.state = State::Offered(offered);
                self.end(io, TransferFailure::CancelledThere(reason));
            }
            // It was accepted, and needed nothing from here.
            // XFER-24.
            ToSender::Receipt { .. } if self.unheard => {
                self.state = State::Offered(offered);
                self.stop(io, Stop::Lost);
            }
            ToSender::Stored(_) | ToSender::Receipt { .. } => {
                self.state = State::Offered(offered);
                self.stop(io, Stop::Violation);
            }
            ToSender::Pause | ToSender::Resume => self.state = State::Offered(offered),
        }
    }

    fn on_message_while_sending(&mut self, io: &mut Io<'_, '_>, message: ToSender) {
        match message {
            ToSender::Accept { chunks, digests } => self.sending(io, |sending, io| sending.on_accept(io, chunks, digests)),
            ToSender::Stored(chunks) => self.sending(io, |sending, io| sending.on_stored(io, &chunks)),
            ToSender::Receipt { digest, others, more } => {
                let State::Sending(sending) = &mut self.state else { return };
                match sending.on_receipt(io, digest, others, more) {
                    Ok(true) => {
                        self.state = State::Over;
                        io.reset_all();
                    }
                    Ok(false) => {}
                    Err(stop) => self.stop(io, stop),
                }
            }
            ToSender::Decline(reason) => self.end(io, TransferFailure::Declined(reason)),
            ToSender::Cancel(reason) => self.end(io, TransferFailure::CancelledThere(reason)),
            ToSender::Pause => self.sending(io, |sending, io| sending.pause(io, true)),
            ToSender::Resume => self.sending(io, |sending, io| sending.pause(io, false)),
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
            (DataHalf::SendChunks(key), State::Sending(sending)) => sending.on_stream(io, stream, &key, aead),
            (
                DataHalf::SendRecords(_) | DataHalf::SendChunks(_) | DataHalf::ReceiveRecords(_) | DataHalf::ReceiveChunks(_),
                State::Waiting(_) | State::Offered(_) | State::Sending(_) | State::Over,
            ) => io.reset(stream),
        }
    }

    /// A bulk stream has ended, perhaps another transfer's.
    pub(super) fn on_room(&mut self, io: &mut Io<'_, '_>) {
        if let State::Sending(sending) = &mut self.state {
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
            StreamKind::Bulk => self.sending(io, Sending::on_stream_failed),
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
            State::Sending(sending) => sending.on_stream_down(io, stream),
            State::Offered(_) | State::Waiting(_) | State::Over => {}
        }
    }

    const fn awaits_stream(&self) -> bool {
        matches!(&self.state, State::Offered(offered) if matches!(offered.pages, Pages::Awaited))
    }

    /// The stream of the pages could not be opened, or broke: another one may do better.
    fn on_pages_lost(&mut self, io: &mut Io<'_, '_>) {
        let digest = self.digest();
        let State::Offered(offered) = &mut self.state else { return };
        let told = matches!(offered.pages, Pages::Told { .. });
        if offered.tries < limits::STREAM_TRIES {
            offered.pages = Pages::Awaited;
            offered.want_stream(io, digest);
        } else if !told {
            self.stop(io, Stop::Lost);
        }
    }

    pub(super) fn on_bulk(&mut self, io: &mut Io<'_, '_>, stream: StreamId, report: &BulkReport) {
        self.sending(io, |sending, io| {
            sending.on_bulk(io, stream, report);
            Ok(())
        });
    }

    pub(super) fn on_timer(&mut self, io: &mut Io<'_, '_>, timer: TransferTimer) {
        match (timer, &mut self.state) {
            (TransferTimer::Stall(stream), State::Sending(sending)) => sending.on_stall(io, stream),
            (
                TransferTimer::Stall(_) | TransferTimer::Manifest | TransferTimer::Checkpoint | TransferTimer::Missing,
                State::Waiting(_) | State::Offered(_) | State::Sending(_) | State::Over,
            ) => {}
        }
    }

    /// Ends it, in whatever state. The owner is told.
    pub(super) fn end(&mut self, io: &mut Io<'_, '_>, reason: TransferFailure) {
        match mem::replace(&mut self.state, State::Over) {
            State::Waiting(Waiting) | State::Offered(_) => {}
            State::Sending(mut sending) => sending.stop(io),
            State::Over => return,
        }
        io.reset_all();
        io.failed(reason);
    }

    fn sending(&mut self, io: &mut Io<'_, '_>, call: impl FnOnce(&mut Sending, &mut Io<'_, '_>) -> Result<(), Stop>) {
        if let State::Sending(sending) = &mut self.state {
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
