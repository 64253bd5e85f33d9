//! The machines of transfers, one per transfer and side, and the `Transfers` that routes to them (PROTOCOL.md, section 9.5).
//!
//! ```text
//! sender     Waiting ─▶ Offered ─▶ Sending ─────────────────────────────────────▶ over
//!               ▲          │          │
//!               └──────────┴──────────┴── the session is lost: offered again in the next one
//! receiver   Reading ─▶ Inspecting ─▶ Asking ─▶ Preparing ─▶ Receiving ─▶ Clearing ─▶ over
//!                                        └───────────┴────────────┴──▶ Discarding ──▶ over
//! ```
//!
//! Nothing here knows sessions: what is to be told or opened leaves as a `Want`, which the Node carries out. File bytes never
//! come here either: workers report what they have sent or written, with the values of its pieces.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::ops::Range;

use crate::bulk::cipher::{Aead, BulkCipher};
use crate::bulk::sealer::ChunkKey;
use crate::effects::{BulkReport, Cut, Direction, Event, FileOp, Reply, TransferKey};
use crate::entropy::random;
use crate::faults::{CancelReason, DeclineReason, Failure, TransferFailure, code};
use crate::ids::{DeviceId, StreamId, TransferId};
use crate::limits;
use crate::outbox::{Cx, Purpose};
use crate::session::keys::StreamKey;
use crate::session::record::{RecordOpener, RecordSealer};
use crate::session::stream::StreamKind;
use crate::timers::TimerKind;
use crate::transfer::manifest::Manifest;
use crate::wire::control::{ControlMessage, Offer};

mod entries;
mod progress;
mod receiver;
mod receiving;
mod rest;
mod sender;
mod sending;
#[cfg(test)]
mod tests;

use self::receiver::{Finished, Receiver, ToReceiver};
use self::sender::{Sender, ToSender};

/// What the transfers want from the sessions. The Node carries them out, in order, after each call.
#[derive(Debug)]
pub(crate) enum Want {
    /// Send this on the device's control stream; nothing happens if it has none.
    Tell { device: DeviceId, message: ControlMessage },
    /// Open a data stream for a transfer. Answered by [`Transfers::on_data_stream`] or [`Transfers::on_stream_failed`].
    Stream { key: TransferKey, kind: StreamKind, digest: [u8; 32] },
    /// Something on a proved data stream did not verify. The stream is reset already; the session counts.
    Forgery { device: DeviceId },
}

/// What a data stream is for us, once it is proved: the direction that carries something.
#[derive(Debug)]
pub(crate) enum DataHalf {
    /// We send pages.
    SendRecords(RecordSealer),
    /// We get pages.
    ReceiveRecords(RecordOpener),
    /// We send chunks under this key of our direction.
    SendChunks(StreamKey),
    /// We get chunks under this key of their direction.
    ReceiveChunks(StreamKey),
}

/// A proved data stream.
#[derive(Debug)]
pub(crate) struct DataStream {
    pub(crate) stream: StreamId,
    /// We opened it.
    pub(crate) ours: bool,
    pub(crate) half: DataHalf,
    pub(crate) aead: Aead,
}

/// Who can open data streams in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// We can.
    pub(crate) can_open: bool,
    /// Only the other side can: the sender asks it by OpenBulk, and it opens the manifest's stream on Offer.
    pub(crate) must_ask: bool,
    /// Only we can: as a receiver we open what the sender asks for.
    pub(crate) must_open: bool,
}

/// What an answer of the file system belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Inspect,
    Prepare,
    Sync,
    /// Digests of files whose bytes do not all pass here in this life of the process.
    Digest(Range<u32>),
    Publish(Range<u32>),
    Discard,
}

/// What a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TransferTimer {
    /// The next page of an offered manifest.
    Manifest,
    /// The session in which a transfer goes on, or its offer there.
    Away,
    /// The next checkpoint.
    Checkpoint,
    /// What the peer still owes, with nothing under way.
    Missing,
    /// Progress of a bulk stream.
    Stall(StreamId),
}

impl TransferTimer {
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Manifest => "the pages of a manifest",
            Self::Away => "a session in which a transfer goes on",
            Self::Checkpoint => "a transfer's checkpoint",
            Self::Missing => "what a transfer still lacks",
            Self::Stall(_) => "progress of a bulk stream",
        }
    }
}

/// No such transfer, or none that this could be done to at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTransfer;

impl fmt::Display for UnknownTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such transfer, or it is past that point")
    }
}

impl core::error::Error for UnknownTransfer {}

/// Why files could not be offered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareError {
    /// The device is not paired.
    UnknownDevice,
    /// The label is longer than [`limits::LABEL`] bytes.
    Label,
    /// As many transfers to this device are under way as may be ([`limits::OPEN_OFFERS`]).
    TooMany,
    /// The random source failed.
    NoEntropy,
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownDevice => "the device is not paired",
            Self::Label => "the label is too long",
            Self::TooMany => "too many transfers to this device are under way",
            Self::NoEntropy => "the system's random source failed",
        })
    }
}

impl core::error::Error for ShareError {}

/// A message that breaks the protocol of transfers. The session closes; the transfer has ended already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// Why a transfer cannot go on, as we see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// We give it up, and say so.
    Cancel(CancelReason),
    /// The peer broke a rule of messages.
    Violation,
    /// The peer cannot be reached any more for what is needed.
    Lost,
}

impl Stop {
    /// Tells the peer what it needs to know, and says what the owner is told.
    fn tell(self, io: &mut Io<'_, '_>) -> TransferFailure {
        match self {
            Self::Cancel(reason) => {
                io.cancel(reason);
                TransferFailure::CancelledHere(reason)
            }
            Self::Violation => {
                io.shared.violation = true;
                TransferFailure::Violation
            }
            Self::Lost => {
                io.cancel(CancelReason::Io);
                TransferFailure::Lost
            }
        }
    }
}

/// What both sides share: wants, streams and their transfers, who can open.
struct Shared {
    cipher: Arc<dyn BulkCipher>,
    wants: Vec<Want>,
    peers: BTreeMap<DeviceId, Peer>,
    streams: BTreeMap<StreamId, Carrier>,
    /// Bulk streams that the Node was asked for, and that are not there yet.
    opening: BTreeMap<TransferKey, usize>,
    /// A bulk stream is gone: there is room for another.
    room: bool,
    /// The message that is being handled broke a rule.
    violation: bool,
}

/// A data stream that a transfer has.
#[derive(Clone, Copy)]
struct Carrier {
    key: TransferKey,
    kind: StreamKind,
    ours: bool,
}

impl Carrier {
    /// Whether it brings chunks to or from this device.
    fn is_bulk_of(&self, device: DeviceId) -> bool {
        self.key.device == device && self.kind == StreamKind::Bulk
    }
}

/// What a machine may use while it handles something of its transfer.
struct Io<'a, 'b> {
    cx: &'a mut Cx<'b>,
    shared: &'a mut Shared,
    key: TransferKey,
}

impl Io<'_, '_> {
    fn peer(&self) -> Option<Peer> {
        self.shared.peers.get(&self.key.device).copied()
    }

    fn tell(&mut self, message: ControlMessage) {
        self.shared.wants.push(Want::Tell { device: self.key.device, message });
    }

    fn notify(&mut self, event: Event) {
        self.cx.notify(event);
    }

    fn failed(&mut self, reason: TransferFailure) {
        self.notify(Event::Failed { transfer: self.key, reason });
    }

    fn decline(&mut self, reason: DeclineReason) {
        self.tell(ControlMessage::Decline { transfer: self.key.id, reason: to_wire::decline(reason) });
    }

    fn cancel(&mut self, reason: CancelReason) {
        self.tell(ControlMessage::Cancel { transfer: self.key.id, reason: to_wire::cancel(reason) });
    }

    fn files(&mut self, entries: Range<u32>, op: FileOp, job: Job) {
        self.cx.files(self.key, entries, op, job);
    }

    fn set(&mut self, timer: TransferTimer, after: core::time::Duration) {
        if planted!(StallUnset) && matches!(timer, TransferTimer::Stall(_)) {
            return;
        }
        self.cx.set(TimerKind::Transfer(self.key, timer), after);
    }

    fn unset(&mut self, timer: TransferTimer) {
        self.cx.timers.cancel(TimerKind::Transfer(self.key, timer));
    }

    fn is_set(&self, timer: TransferTimer) -> bool {
        self.cx.timers.is_set(TimerKind::Transfer(self.key, timer))
    }

    fn want_stream(&mut self, kind: StreamKind, digest: [u8; 32]) {
        if kind == StreamKind::Bulk {
            *self.shared.opening.entry(self.key).or_default() += 1;
        }
        self.shared.wants.push(Want::Stream { key: self.key, kind, digest });
    }

    /// Bulk streams of the peer, those included that are still being opened.
    fn bulk_streams(&self) -> usize {
        let opening = self.shared.opening.iter().filter(|(key, _)| key.device == self.key.device);
        self.bulk_streams_up() + opening.map(|(_, count)| count).sum::<usize>()
    }

    fn bulk_streams_up(&self) -> usize {
        self.shared.streams.values().filter(|carrier| carrier.is_bulk_of(self.key.device)).count()
    }

    /// Ends a stream at once. Nothing more is heard of it.
    fn reset(&mut self, stream: StreamId) {
        self.release(stream);
        self.cx.reset(stream, code::DONE);
    }

    /// Ends every stream of the transfer.
    fn reset_all(&mut self) {
        let mine: Vec<_> = self.shared.streams.iter().filter(|(_, carrier)| carrier.key == self.key).map(|(&stream, _)| stream).collect();
        for stream in mine {
            self.reset(stream);
        }
    }

    fn release(&mut self, stream: StreamId) {
        let released = self.shared.streams.remove(&stream);
        self.shared.room |= released.is_some_and(|carrier| carrier.kind == StreamKind::Bulk);
        self.unset(TransferTimer::Stall(stream));
    }

    /// What still comes back for the transfer counts for nothing.
    fn close(&mut self) {
        let key = self.key;
        self.reset_all();
        if !planted!(OpeningKept) {
            self.shared.opening.remove(&key);
        }
        for timer in [TransferTimer::Manifest, TransferTimer::Away, TransferTimer::Checkpoint, TransferTimer::Missing] {
            self.unset(timer);
        }
        self.cx.out.forget(|purpose| matches!(purpose, Purpose::Transfer { key: of, .. } if *of == key));
    }

    fn chunk_key(&self, key: &StreamKey, aead: Aead, digest: &[u8; 32]) -> ChunkKey {
        ChunkKey::new(key, aead, self.key.id, digest, Arc::clone(&self.shared.cipher))
    }

    fn forgery(&mut self, stream: StreamId) {
        self.reset(stream);
        self.shared.wants.push(Want::Forgery { device: self.key.device });
    }
}

/// Reasons have a type of their own in the owner's world; the wire's is about numbers.
mod to_wire {
    use crate::faults;
    use crate::wire::control;

    pub(super) const fn decline(reason: faults::DeclineReason) -> control::DeclineReason {
        control::DeclineReason::of(reason.number())
    }

    pub(super) const fn cancel(reason: faults::CancelReason) -> control::CancelReason {
        control::CancelReason::of(reason.number())
    }
}

/// All transfers of this device.
pub(crate) struct Transfers {
    shared: Shared,
    senders: BTreeMap<TransferKey, Sender>,
    receivers: BTreeMap<TransferKey, Receiver>,
    /// Transfers that came and are done, the oldest first.
    finished: VecDeque<Finished>,
}

impl fmt::Debug for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfers").field("sending", &self.senders.len()).field("receiving", &self.receivers.len()).finish_non_exhaustive()
    }
}

impl Transfers {
    #[cfg(feature = "testing")]
    pub(crate) fn probe_counts(&self) -> (usize, usize) {
        (self.senders.len(), self.receivers.len())
    }

    /// What the peer with the most has open: offers of ours, offers of its own, bulk streams that it opened.
    #[cfg(feature = "testing")]
    pub(crate) fn probe_most(&self) -> (usize, usize, usize) {
        let most = |devices: &mut dyn Iterator<Item = DeviceId>| {
            let mut counts = BTreeMap::<DeviceId, usize>::new();
            devices.for_each(|device| *counts.entry(device).or_default() += 1);
            counts.into_values().max().unwrap_or(0)
        };
        let bulk = self.shared.streams.values().filter(|carrier| carrier.kind == StreamKind::Bulk && !carrier.ours);
        (
            most(&mut self.senders.keys().map(|key| key.device)),
            most(&mut self.receivers.iter().filter(|(_, receiver)| !receiver.is_discarding()).map(|(key, _)| key.device)),
            most(&mut bulk.map(|carrier| carrier.key.device)),
        )
    }

    /// Whether a transfer is there that could hear an answer.
    #[cfg(feature = "testing")]
    pub(crate) fn probe_has(&self, key: TransferKey) -> bool {
        self.senders.contains_key(&key) || self.receivers.contains_key(&key)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_opening(&self) -> usize {
        self.shared.opening.len() + self.shared.streams.len()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_states(&self) -> impl Iterator<Item = (TransferKey, &'static str)> + '_ {
        let senders = self.senders.iter().map(|(&key, sender)| (key, sender.probe_state()));
        senders.chain(self.receivers.iter().map(|(&key, receiver)| (key, receiver.probe_state())))
    }

    pub(crate) fn manifest(&self, key: TransferKey) -> Option<Arc<Manifest>> {
        self.receivers.get(&key)?.manifest().cloned()
    }

    pub(crate) const fn new(cipher: Arc<dyn BulkCipher>) -> Self {
        let shared = Shared {
            cipher,
            wants: Vec::new(),
            peers: BTreeMap::new(),
            streams: BTreeMap::new(),
            opening: BTreeMap::new(),
            room: false,
            violation: false,
        };
        Self { shared, senders: BTreeMap::new(), receivers: BTreeMap::new(), finished: VecDeque::new() }
    }

    // What the owner wants.

    pub(crate) fn offer(
        &mut self,
        cx: &mut Cx<'_>,
        device: DeviceId,
        manifest: Arc<Manifest>,
        label: Option<String>,
        again: Option<TransferId>,
    ) -> Result<TransferKey, ShareError> {
        if label.as_ref().is_some_and(|label| label.len() > limits::LABEL) {
            return Err(ShareError::Label);
        }
        // XFER-18.
        if self.senders.keys().filter(|key| key.device == device).count() >= limits::OPEN_OFFERS && !planted!(SharesUnbounded) {
            return Err(ShareError::TooMany);
        }
        let key = |id| TransferKey { device, direction: Direction::Outgoing, id };
        let again = again.map(key).filter(|key| !self.senders.contains_key(key));
        let key = match again {
            Some(key) => key,
            None => key(TransferId(random(cx.entropy).map_err(|_| ShareError::NoEntropy)?)),
        };
        self.senders.insert(key, Sender::new(manifest, label, again.is_some()));
        if self.shared.peers.contains_key(&device) {
            self.with_sender(cx, key, Sender::on_session);
        }
        Ok(key)
    }

    pub(crate) fn accept(&mut self, cx: &mut Cx<'_>, key: TransferKey) -> Result<(), UnknownTransfer> {
        self.receivers.get(&key).filter(|receiver| receiver.is_asking()).ok_or(UnknownTransfer)?;
        self.with_receiver(cx, key, Receiver::accept);
        Ok(())
    }

    pub(crate) fn decline(&mut self, cx: &mut Cx<'_>, key: TransferKey, reason: DeclineReason) -> Result<(), UnknownTransfer> {
        self.receivers.get(&key).filter(|receiver| receiver.is_asking()).ok_or(UnknownTransfer)?;
        self.with_receiver(cx, key, |receiver, io| {
            io.decline(reason);
            receiver.end(io, TransferFailure::Declined(reason));
        });
        Ok(())
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, key: TransferKey, reason: CancelReason) -> Result<(), UnknownTransfer> {
        let ends = TransferFailure::CancelledHere(reason);
        match key.direction {
            Direction::Outgoing => {
                let sender = self.senders.get(&key).ok_or(UnknownTransfer)?;
                let told = sender.was_offered();
                self.with_sender(cx, key, |sender, io| {
                    if told && !planted!(CancelUntold) {
                        io.cancel(reason);
                    }
                    sender.end(io, ends);
                });
            }
            Direction::Incoming => {
                self.receivers.get(&key).filter(|receiver| receiver.can_be_cancelled()).ok_or(UnknownTransfer)?;
                self.with_receiver(cx, key, |receiver, io| {
                    io.cancel(reason);
                    receiver.end(io, ends);
                });
            }
        }
        Ok(())
    }

    /// Whether something waits for a session with this device.
    pub(crate) fn wants_session(&self, device: DeviceId) -> bool {
        self.senders.keys().chain(self.receivers.keys()).any(|key| key.device == device)
    }

    // What sessions bring.

    pub(crate) fn on_session(&mut self, cx: &mut Cx<'_>, device: DeviceId, peer: Peer) {
        self.shared.peers.insert(device, peer);
        // What was offered before comes first: see [`Receiver::on_other_offer`].
        let (again, new): (Vec<_>, Vec<_>) = of_device(&self.senders, device).into_iter().partition(|key| self.senders[key].is_suspended());
        for key in again.into_iter().chain(new) {
            self.with_sender(cx, key, Sender::on_session);
        }
        for key in of_device(&self.receivers, device) {
            self.with_receiver(cx, key, Receiver::on_session);
        }
    }

    /// A newer session has replaced one whose end did not come: what the peer said last is lost.
    pub(crate) fn on_unheard(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        for (_, sender) in self.senders.iter_mut().filter(|(key, _)| key.device == device) {
            sender.on_unheard();
        }
        for key in of_device(&self.receivers, device) {
            self.with_receiver(cx, key, Receiver::on_unheard);
        }
    }

    /// A newer session goes on where another has ended; `heard`: with its last word.
    pub(crate) fn on_succession(&mut self, cx: &mut Cx<'_>, device: DeviceId, heard: bool) {
        for key in of_device(&self.senders, device) {
            self.with_sender(cx, key, |sender, io| sender.on_succession(io, heard));
        }
    }

    /// The session is lost. What was offered goes on in the next one.
    // XFER-21.
    pub(crate) fn on_session_lost(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        if planted!(LostSessionEndsTransfer) {
            return self.on_session_over(cx, device, TransferFailure::Lost);
        }
        self.shared.peers.remove(&device);
        for key in of_device(&self.senders, device) {
            self.with_sender(cx, key, Sender::on_session_lost);
        }
        for key in of_device(&self.receivers, device) {
            self.with_receiver(cx, key, Receiver::on_session_lost);
        }
    }

    /// No session could be had: what was never offered ends. What was waits for its time to be over.
    pub(crate) fn on_unreachable(&mut self, cx: &mut Cx<'_>, device: DeviceId, reason: TransferFailure) {
        for key in of_device(&self.senders, device) {
            self.with_sender(cx, key, |sender, io| {
                if !sender.is_suspended() {
                    sender.end(io, reason);
                }
            });
        }
    }

    /// Whether a transfer with this device waits for a session to go on.
    pub(crate) fn is_suspended(&self, device: DeviceId) -> bool {
        let waits = self.senders.iter().any(|(key, sender)| key.device == device && sender.is_suspended());
        waits || self.receivers.iter().any(|(key, receiver)| key.device == device && receiver.can_wait())
    }

    /// The session was ended, because the peer broke the protocol or for another reason that is ours.
    // DATA-11.
    pub(crate) fn on_session_over(&mut self, cx: &mut Cx<'_>, device: DeviceId, reason: TransferFailure) {
        self.shared.peers.remove(&device);
        for key in of_device(&self.senders, device) {
            self.with_sender(cx, key, |sender, io| sender.end(io, reason));
        }
        for key in of_device(&self.receivers, device) {
            self.with_receiver(cx, key, |receiver, io| receiver.end(io, reason));
        }
    }

    /// The session is ended here, in order. A peer that has a newer one already would take the fin for that of a succession, and
    /// wait there for what ends here.
    // XFER-24.
    pub(crate) fn on_leave(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        let told = self.senders.iter().filter(|(_, sender)| sender.was_offered()).map(|(&key, _)| key);
        let told = told.chain(self.receivers.iter().filter(|(_, receiver)| !receiver.is_discarding()).map(|(&key, _)| key));
        for key in told.filter(|key| key.device == device) {
            Io { cx: &mut *cx, shared: &mut self.shared, key }.cancel(CancelReason::User);
        }
    }

    /// This process ends, and what was not taken ends with it: the peer hears that.
    // XFER-28.
    pub(crate) fn take_back(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        let untaken = self.senders.iter().filter(|(_, sender)| sender.is_untaken()).map(|(&key, _)| key);
        let untaken = untaken.chain(self.receivers.iter().filter(|(_, receiver)| receiver.is_untaken()).map(|(&key, _)| key));
        for key in untaken.filter(|key| key.device == device) {
            Io { cx: &mut *cx, shared: &mut self.shared, key }.cancel(CancelReason::User);
        }
    }

    /// This process ends: what is under way can go on in another one, and the peer is told nothing of it.
    // XFER-28.
    pub(crate) fn on_shutdown(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        for sender in self.senders.iter_mut().filter(|(key, _)| key.device == device).map(|(_, sender)| sender) {
            sender.leave();
        }
        self.on_session_over(cx, device, TransferFailure::Lost);
    }

    /// Nothing of this device goes on. What is under way at files is still waited for: a name that comes behind the last word would
    /// be one that nobody was told of.
    pub(crate) fn on_forget(&mut self, cx: &mut Cx<'_>, device: DeviceId) {
        let reason = TransferFailure::CancelledHere(CancelReason::Policy);
        for key in of_device(&self.senders, device) {
            self.with_sender(cx, key, |sender, io| sender.end(io, reason));
        }
        for key in of_device(&self.receivers, device) {
            self.with_receiver(cx, key, |receiver, io| receiver.end(io, reason));
        }
        self.shared.peers.remove(&device);
    }

    /// # Errors
    /// [`Violation`] if the message breaks the protocol. Messages that are not about transfers, and those about transfers that
    /// are over or never were, do nothing.
    pub(crate) fn on_control(&mut self, cx: &mut Cx<'_>, device: DeviceId, message: ControlMessage) -> Result<(), Violation> {
        self.route(cx, device, message);
        if mem::take(&mut self.shared.violation) { Err(Violation) } else { Ok(()) }
    }

    fn route(&mut self, cx: &mut Cx<'_>, device: DeviceId, message: ControlMessage) {
        let (id, to_sender, to_receiver) = match message {
            ControlMessage::Offer(offer) => return self.on_offer(cx, device, offer),
            ControlMessage::Accept { transfer, chunks, digests } => (transfer, Some(ToSender::Accept { chunks, digests }), None),
            ControlMessage::Decline { transfer, reason } => {
                (transfer, Some(ToSender::Decline(DeclineReason::from_number(reason.number()))), None)
            }
            ControlMessage::Stored { transfer, chunks } => (transfer, Some(ToSender::Stored(chunks)), None),
            ControlMessage::Receipt { transfer, digest, others, more } => {
                (transfer, Some(ToSender::Receipt { digest, others, more }), None)
            }
            ControlMessage::OpenBulk { transfer, count } => (transfer, None, Some(ToReceiver::OpenBulk(count))),
            ControlMessage::FileDigests { transfer, first_entry, digests } => {
                (transfer, None, Some(ToReceiver::Digests { first: first_entry, digests }))
            }
            ControlMessage::SourceChanged { transfer, entry } => (transfer, None, Some(ToReceiver::SourceChanged(entry))),
            ControlMessage::Cancel { transfer, reason } => {
                let reason = CancelReason::from_number(reason.number());
                (transfer, Some(ToSender::Cancel(reason)), Some(ToReceiver::Cancel(reason)))
            }
            ControlMessage::Pause { transfer } => (transfer, Some(ToSender::Pause), Some(ToReceiver::Pause)),
            ControlMessage::Resume { transfer } => (transfer, Some(ToSender::Resume), Some(ToReceiver::Resume)),
            ControlMessage::Ping { .. }
            | ControlMessage::Pong { .. }
            | ControlMessage::Unpair
            | ControlMessage::Message { .. }
            | ControlMessage::MessageReceipt { .. } => return,
        };
        let key = TransferKey { device, direction: Direction::Outgoing, id };
        if let Some(message) = to_sender {
            self.with_sender(cx, key, |sender, io| sender.on_message(io, message));
        }
        if let Some(message) = to_receiver {
            let key = TransferKey { direction: Direction::Incoming, ..key };
            self.with_receiver(cx, key, |receiver, io| receiver.on_message(io, message));
        }
    }

    fn on_offer(&mut self, cx: &mut Cx<'_>, device: DeviceId, offer: Offer) {
        let key = TransferKey { device, direction: Direction::Incoming, id: offer.transfer };
        if self.receivers.contains_key(&key) {
            return self.with_receiver(cx, key, |receiver, io| receiver.on_offer(io, &offer));
        }
        if let Some(at) = self.finished.iter().position(|finished| finished.key == key) {
            let mut io = Io { cx, shared: &mut self.shared, key };
            return self.finished[at].on_offer(&mut io, &offer);
        }
        for other in of_device(&self.receivers, device) {
            self.with_receiver(cx, other, Receiver::on_other_offer);
        }
        // One id names one transfer of the pair, whichever way it goes.
        let ours = self.senders.contains_key(&TransferKey { direction: Direction::Outgoing, ..key });
        let of_device = || self.receivers.iter().filter(|(key, _)| key.device == device).map(|(_, receiver)| receiver);
        // What is over but for its files makes room, once over.
        let open =
            of_device().filter(|receiver| !receiver.is_discarding()).count().max(of_device().count().saturating_sub(limits::OPEN_OFFERS));
        let mut io = Io { cx, shared: &mut self.shared, key };
        if ours {
            io.decline(DeclineReason::Mismatch);
        } else if open >= limits::OPEN_OFFERS + usize::from(planted!(SeventeenthOffer)) && !planted!(OffersUnbounded) {
            io.decline(DeclineReason::Busy);
        } else if let Some(receiver) = Receiver::new(&mut io, offer) {
            self.receivers.insert(key, receiver);
        }
    }

    /// Which way a transfer goes that a peer opens a stream for.
    pub(crate) fn direction_of(&self, device: DeviceId, id: TransferId) -> Option<Direction> {
        let known = |direction| {
            let key = TransferKey { device, direction, id };
            match direction {
                Direction::Outgoing => self.senders.contains_key(&key),
                Direction::Incoming => self.receivers.contains_key(&key),
            }
        };
        [Direction::Outgoing, Direction::Incoming].into_iter().find(|&direction| known(direction))
    }

    /// The manifest digest that an opening record for this transfer must name.
    pub(crate) fn digest_of(&self, key: TransferKey) -> Option<[u8; 32]> {
        match key.direction {
            Direction::Outgoing => self.senders.get(&key).map(Sender::digest),
            Direction::Incoming => self.receivers.get(&key).map(Receiver::digest),
        }
    }

    /// A data stream is proved: one that was wanted, or one that the peer opened for a transfer and digest that are known here.
    pub(crate) fn on_data_stream(&mut self, cx: &mut Cx<'_>, key: TransferKey, kind: StreamKind, data: DataStream) {
        let (stream, ours) = (data.stream, data.ours);
        if kind == StreamKind::Bulk {
            self.shared.opened(key);
        }
        let known = match key.direction {
            Direction::Outgoing => self.senders.contains_key(&key),
            Direction::Incoming => self.receivers.contains_key(&key),
        };
        // LIM-4.
        let bounded = kind == StreamKind::Bulk && !ours && !planted!(BulkStreamsUnbounded);
        let theirs = self.shared.streams.values().filter(|carrier| carrier.is_bulk_of(key.device) && !carrier.ours).count();
        let full = bounded && theirs >= limits::BULK_STREAMS + usize::from(planted!(NinthBulkStream));
        if !known || full {
            cx.reset(stream, code::REFUSED);
            return;
        }
        self.shared.streams.insert(stream, Carrier { key, kind, ours });
        match key.direction {
            Direction::Outgoing => self.with_sender(cx, key, |sender, io| sender.on_stream(io, data)),
            Direction::Incoming => self.with_receiver(cx, key, |receiver, io| receiver.on_stream(io, data)),
        }
    }

    /// A wanted stream could not be opened.
    pub(crate) fn on_stream_failed(&mut self, cx: &mut Cx<'_>, key: TransferKey, kind: StreamKind) {
        if kind == StreamKind::Bulk {
            self.shared.opened(key);
        }
        self.with_either(cx, key, |sender, io| sender.on_stream_failed(io, kind), |receiver, io| receiver.on_stream_failed(io, kind));
    }

    // What data streams bring.

    /// Whether we send pages on this stream, and have more of them.
    pub(crate) fn sends_pages_on(&self, stream: StreamId) -> bool {
        let key = self.shared.streams.get(&stream).map(|carrier| carrier.key);
        key.and_then(|key| self.senders.get(&key)).is_some_and(|sender| sender.sends_pages_on(stream))
    }

    /// A whole record, head included, of a stream with pages.
    pub(crate) fn on_record(&mut self, cx: &mut Cx<'_>, stream: StreamId, record: Vec<u8>) {
        let Some(&Carrier { key, .. }) = self.shared.streams.get(&stream) else { return };
        let pages: usize =
            self.receivers.iter().filter(|(other, _)| other.device == key.device).map(|(_, receiver)| receiver.unanswered()).sum();
        let room = limits::UNANSWERED_MANIFESTS.saturating_sub(pages);
        let spoilt = |sender: &mut Sender, io: &mut Io<'_, '_>| {
            // A receiver has nothing to say where we send.
            io.reset(stream);
            sender.on_stream_down(io, stream, Cut::Broken);
        };
        self.with_either(cx, key, spoilt, |receiver, io| receiver.on_record(io, stream, &record, room));
    }

    /// The queue of a stream is short again.
    pub(crate) fn on_drained(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        let Some(&Carrier { key, .. }) = self.shared.streams.get(&stream) else { return };
        self.with_either(cx, key, |sender, io| sender.on_drained(io, stream), |_, _| ());
    }

    pub(crate) fn on_bulk(&mut self, cx: &mut Cx<'_>, stream: StreamId, report: &BulkReport) {
        let Some(&Carrier { key, .. }) = self.shared.streams.get(&stream) else { return };
        self.with_either(cx, key, |sender, io| sender.on_bulk(io, stream, report), |receiver, io| receiver.on_bulk(io, stream, report));
    }

    pub(crate) fn on_stream_down(&mut self, cx: &mut Cx<'_>, stream: StreamId, how: Cut) {
        let Some(&Carrier { key, .. }) = self.shared.streams.get(&stream) else { return };
        Io { cx: &mut *cx, shared: &mut self.shared, key }.release(stream);
        self.with_either(cx, key, |sender, io| sender.on_stream_down(io, stream, how), |receiver, io| receiver.on_stream_down(io, stream));
    }

    // What the host and the clock bring.

    pub(crate) fn on_job(&mut self, cx: &mut Cx<'_>, key: TransferKey, job: Job, result: Result<Reply, Failure>) {
        match key.direction {
            Direction::Outgoing => self.with_sender(cx, key, |sender, io| sender.on_job(io, job, result)),
            Direction::Incoming => self.with_receiver(cx, key, |receiver, io| receiver.on_job(io, job, result)),
        }
    }

    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, key: TransferKey, timer: TransferTimer) {
        self.with_either(cx, key, |sender, io| sender.on_timer(io, timer), |receiver, io| receiver.on_timer(io, timer));
    }

    /// What is wanted since the last call.
    pub(crate) fn take_wants(&mut self, cx: &mut Cx<'_>) -> Vec<Want> {
        if mem::take(&mut self.shared.room) {
            for key in self.senders.keys().copied().collect::<Vec<_>>() {
                self.with_sender(cx, key, Sender::on_room);
            }
            for key in self.receivers.keys().copied().collect::<Vec<_>>() {
                self.with_receiver(cx, key, Receiver::on_room);
            }
        }
        mem::take(&mut self.shared.wants)
    }

    fn with_sender(&mut self, cx: &mut Cx<'_>, key: TransferKey, call: impl FnOnce(&mut Sender, &mut Io<'_, '_>)) {
        let Some(sender) = self.senders.get_mut(&key) else { return };
        let mut io = Io { cx, shared: &mut self.shared, key };
        call(sender, &mut io);
        if sender.is_over() {
            sender.take_back(&mut io);
            io.close();
            self.senders.remove(&key);
        }
    }

    fn with_receiver(&mut self, cx: &mut Cx<'_>, key: TransferKey, call: impl FnOnce(&mut Receiver, &mut Io<'_, '_>)) {
        let Some(receiver) = self.receivers.get_mut(&key) else { return };
        let mut io = Io { cx, shared: &mut self.shared, key };
        call(receiver, &mut io);
        if receiver.is_over() {
            io.close();
            let finished = receiver.take_finished();
            self.receivers.remove(&key);
            self.remember(finished.filter(|_| !planted!(ReceiptForgotten)));
        }
    }

    /// Keeps what a sender needs that has missed its receipt, of a bounded number of transfers.
    // XFER-27.
    fn remember(&mut self, finished: Option<Finished>) {
        self.finished.extend(finished);
        let lines = |finished: &VecDeque<Finished>| finished.iter().map(Finished::len).sum::<usize>();
        while self.finished.len() > limits::FINISHED || lines(&self.finished) > limits::FINISHED_LINES {
            self.finished.pop_front();
        }
    }

    fn with_either(
        &mut self,
        cx: &mut Cx<'_>,
        key: TransferKey,
        sender: impl FnOnce(&mut Sender, &mut Io<'_, '_>),
        receiver: impl FnOnce(&mut Receiver, &mut Io<'_, '_>),
    ) {
        match key.direction {
            Direction::Outgoing => self.with_sender(cx, key, sender),
            Direction::Incoming => self.with_receiver(cx, key, receiver),
        }
    }
}

impl Shared {
    fn opened(&mut self, key: TransferKey) {
        if let Some(count) = self.opening.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&key);
            }
        }
    }
}

fn of_device<M>(machines: &BTreeMap<TransferKey, M>, device: DeviceId) -> Vec<TransferKey> {
    machines.keys().filter(|key| key.device == device).copied().collect()
}

/// Entries are numbered in 32 bits.
fn narrow(range: &Range<u64>) -> Range<u32> {
    let narrow = |number| u32::try_from(number).unwrap_or(u32::MAX);
    narrow(range.start)..narrow(range.end)
}
