//! Application messages between paired devices (PROTOCOL.md, section 9.7): each reaches the other side's store once, in order, whatever
//! is cut or crashes, or its sender is told that it did not.
//!
//! ```text
//! sender     queued ─durable─▶ waiting ─session─▶ told ─receipt─▶ gone
//!                                 └──── expired ────┴──▶ gone
//! receiver   came ─written with its number─▶ durable, receipt ─owner takes it─▶ gone
//! ```
//!
//! What a message is known by is its id; numbers say the order, and what the other side has not seen yet. Nothing here knows sessions:
//! what is to be told leaves as a value, which the Node carries out.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::effects::Event;
use crate::entropy::random;
use crate::ids::{DeviceId, MessageId, PeerKey, Ticket};
use crate::limits;
use crate::outbox::{Cx, Purpose};
use crate::records::{Change, MESSAGES_OUT, Record};
use crate::timers::TimerKind;
use crate::wire::cbor::Malformed;
use crate::wire::control::{CONTENT_TYPE, ControlMessage};

mod incoming;
mod outgoing;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use self::incoming::Incoming;
use self::outgoing::Outgoing;
use self::rows::{Row, SeqRef};

/// What is to be sent.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, PartialEq, Eq)]
pub struct Draft {
    /// What the body is, at most 64 bytes; the application's.
    pub content_type: String,
    /// At most [`limits::MESSAGE_BODY`] bytes.
    pub body: Vec<u8>,
    /// Seconds since 1970 after which it is given up.
    pub expires_unix: u64,
}

/// A message in the store, as the owner sees it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its identity.
    pub id: MessageId,
    /// What the body is.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
    /// Seconds since 1970: of one that came, when it came; of one that waits, when it is given up.
    pub unix_s: u64,
}

// ID-8: what people say to each other is for no log.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { content_type, body, expires_unix } = self;
        let mut shown = f.debug_struct("Draft");
        shown.field("content_type", content_type).field("bytes", &body.len()).field("expires_unix", expires_unix).finish()
    }
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, content_type, body, unix_s } = self;
        let mut shown = f.debug_struct("StoredMessage");
        shown.field("id", id).field("content_type", content_type).field("bytes", &body.len()).field("unix_s", unix_s).finish()
    }
}

/// Why a message was not queued. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// No paired device has this id.
    UnknownDevice,
    /// The body, or the name of its type, is longer than it may be.
    TooLong,
    /// As many messages as may wait for this device are waiting.
    QueueFull,
    /// The random source failed.
    NoEntropy,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownDevice => "no such device",
            Self::TooLong => "the message is longer than 1 MiB, or its type than 64 bytes",
            Self::QueueFull => "as many messages as may wait for this device are waiting",
            Self::NoEntropy => "the system's random source failed",
        })
    }
}

impl core::error::Error for MessageError {}

/// No such message waits, or is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownMessage;

impl fmt::Display for UnknownMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such message")
    }
}

impl core::error::Error for UnknownMessage {}

/// What the answer of the store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// A message of ours waits, durably.
    Queued(u64),
    /// Numbers up to this one may be given.
    Reserved(SeqRef, u64),
    /// What came is durable, with its numbers.
    Came,
    /// Rows are gone that nobody needs; it failed so often before.
    Erased(Vec<RowKey>, u32),
}

/// Where a row is: its table, and its key.
pub(crate) type RowKey = (u8, Vec<u8>);

/// Something for the control stream of a device's session.
pub(crate) type Tell = (DeviceId, ControlMessage);

/// The messages of one device, both ways.
#[derive(Debug)]
struct Mailbox {
    outgoing: Outgoing,
    incoming: Incoming,
    /// The ticket that was given out last when it was made: an answer to that, or to one before, is not for it, but for one that the
    /// device had before it was forgotten.
    born: Ticket,
}

impl Mailbox {
    fn new(born: Ticket) -> Self {
        Self { outgoing: Outgoing::default(), incoming: Incoming::default(), born }
    }

    /// Every row that it has, or is about to have.
    fn keys(&self, peer: &PeerKey) -> impl Iterator<Item = RowKey> {
        self.outgoing.keys(peer).chain(self.incoming.keys(peer))
    }
}

/// All messages, by device.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    boxes: BTreeMap<PeerKey, Mailbox>,
    tells: Vec<Tell>,
    /// Rows that could not be removed, and how often: also of devices that are forgotten.
    unerased: BTreeMap<PeerKey, (Vec<RowKey>, u32)>,
}

/// What a half of a mailbox may use: whose it is, and where things go.
pub(crate) struct Io<'a, 'b> {
    pub(crate) cx: &'a mut Cx<'b>,
    pub(crate) tells: &'a mut Vec<Tell>,
    pub(crate) peer: PeerKey,
    pub(crate) device: DeviceId,
    pub(crate) unix_s: u64,
}

impl Io<'_, '_> {
    fn tell(&mut self, message: ControlMessage) {
        self.tells.push((self.device, message));
    }

    fn persist(&mut self, batch: Vec<Change>, job: Job) {
        self.cx.persist(batch, Purpose::Message { peer: self.peer, job });
    }

    /// Has rows removed.
    fn erase(&mut self, keys: Vec<RowKey>) {
        erase(self.cx, self.peer, keys, 0);
    }

    /// What failed at the store is tried again.
    fn try_again(&mut self) {
        self.cx.timers.set_at_latest(TimerKind::Messages(self.peer), self.cx.now, limits::STORE_AGAIN);
    }
}

impl Messages {
    fn with<T>(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, with: impl FnOnce(&mut Mailbox, &mut Io<'_, '_>) -> T) -> T {
        let mailbox = self.boxes.entry(peer).or_insert_with(|| Mailbox::new(cx.out.last_ticket()));
        let device = crate::identity::device_id(&peer);
        let done = with(mailbox, &mut Io { cx, tells: &mut self.tells, peer, device, unix_s });
        if mailbox.outgoing.is_idle() && mailbox.incoming.is_idle() {
            cx.timers.cancel(TimerKind::Messages(peer));
        }
        done
    }

    /// Takes a row of the store.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn load(&mut self, record: &Record) -> Result<(), Malformed> {
        let (peer, row) = Row::decode(record)?;
        let mailbox = self.boxes.entry(peer).or_insert_with(|| Mailbox::new(Ticket(0)));
        match row {
            Row::Outgoing { order, message } => mailbox.outgoing.load(order, message),
            Row::Incoming { order, message } => mailbox.incoming.load(order, message),
            Row::Number { seq_ref, number } => {
                mailbox.outgoing.load_number(seq_ref, number);
                mailbox.incoming.load_number(seq_ref, number);
            }
            Row::Seen(seen) => mailbox.incoming.load_seen(seen),
        }
        Ok(())
    }

    /// Every row is loaded: what belongs to devices that are not known is erased, the rest begins to wait.
    pub(crate) fn loaded(&mut self, cx: &mut Cx<'_>, unix_s: u64, is_known: impl Fn(&PeerKey) -> bool) {
        let peers: Vec<PeerKey> = self.boxes.keys().copied().collect();
        for peer in peers {
            if is_known(&peer) {
                self.with(cx, peer, unix_s, |mailbox, io| mailbox.outgoing.expire(io));
            } else {
                let keys = self.forget(cx, peer);
                erase(cx, peer, keys, 0);
            }
        }
    }

    /// Queues a message. Ends with [`Event::MessageReceipt`], [`Event::MessageExpired`] or [`Event::MessageNotStored`].
    // MSG-1.
    pub(crate) fn send(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, draft: Draft) -> Result<MessageId, MessageError> {
        if draft.body.len() > limits::MESSAGE_BODY || draft.content_type.len() > CONTENT_TYPE {
            return Err(MessageError::TooLong);
        }
        let full = self.boxes.get(&peer).is_some_and(|mailbox| !mailbox.outgoing.has_room_for(draft.body.len()));
        if full && !planted!(MessagesUnbounded) {
            return Err(MessageError::QueueFull);
        }
        let id = MessageId(random(cx.entropy).map_err(|_| MessageError::NoEntropy)?);
        let message = StoredMessage { id, content_type: draft.content_type, body: draft.body, unix_s: draft.expires_unix };
        self.with(cx, peer, unix_s, |mailbox, io| mailbox.outgoing.queue(io, message));
        Ok(id)
    }

    /// The owner gives up a message that waits.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, id: MessageId) -> Result<(), UnknownMessage> {
        self.with(cx, peer, unix_s, |mailbox, io| mailbox.outgoing.cancel(io, id))
    }

    /// The owner has taken a message that came: it leaves the store.
    pub(crate) fn take(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, id: MessageId) -> Result<StoredMessage, UnknownMessage> {
        self.with(cx, peer, unix_s, |mailbox, io| mailbox.incoming.take(io, id))
    }

    /// Messages that came from a device and were not taken, the oldest first.
    pub(crate) fn came(&self, peer: &PeerKey) -> impl Iterator<Item = &StoredMessage> {
        self.boxes.get(peer).into_iter().flat_map(|mailbox| mailbox.incoming.stored())
    }

    /// Messages that wait for a device, the oldest first.
    pub(crate) fn waiting(&self, peer: &PeerKey) -> impl Iterator<Item = &StoredMessage> {
        self.boxes.get(peer).into_iter().flat_map(|mailbox| mailbox.outgoing.stored())
    }

    /// Whether an answer is awaited.
    pub(crate) fn wants_session(&self, peer: &PeerKey) -> bool {
        self.boxes.get(peer).is_some_and(|mailbox| mailbox.outgoing.is_awaiting())
    }

    /// A session is there, on which our messages are numbered under this name.
    pub(crate) fn on_session(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, ours: SeqRef) {
        self.with(cx, peer, unix_s, |mailbox, io| mailbox.outgoing.on_session(io, ours));
    }

    /// There is none any more.
    pub(crate) fn on_session_over(&mut self, peer: &PeerKey) {
        if let Some(mailbox) = self.boxes.get_mut(peer) {
            mailbox.outgoing.on_session_over();
        }
    }

    /// What the control stream says about messages, on a session that numbers theirs under this name.
    ///
    /// # Errors
    /// More is under way than a sender may have: the peer breaks the protocol.
    pub(crate) fn on_control(
        &mut self,
        cx: &mut Cx<'_>,
        (peer, theirs): (PeerKey, SeqRef),
        unix_s: u64,
        message: ControlMessage,
    ) -> Result<(), ()> {
        match message {
            ControlMessage::Message { seq, id, content_type, body } => {
                let message = StoredMessage { id: MessageId(id), content_type, body, unix_s };
                self.with(cx, peer, unix_s, |mailbox, io| mailbox.incoming.on_message(io, (theirs, seq), message))
            }
            ControlMessage::MessageReceipt { seq, id, state } => {
                self.with(cx, peer, unix_s, |mailbox, io| mailbox.outgoing.on_receipt(io, (seq, MessageId(id)), state));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The store has answered.
    pub(crate) fn on_job(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64, (ticket, job): (Ticket, Job), stored: bool) {
        if let Job::Erased(keys, failures) = job {
            if !stored {
                self.on_unerased(cx, peer, keys, failures + 1);
            }
            return;
        }
        if self.boxes.get(&peer).is_none_or(|mailbox| ticket <= mailbox.born && !planted!(OldAnswerTaken)) {
            return self.on_old_job(cx, peer, &job, stored);
        }
        self.with(cx, peer, unix_s, |mailbox, io| match job {
            Job::Queued(order) => mailbox.outgoing.on_queued(io, order, stored),
            Job::Reserved(seq_ref, number) => mailbox.outgoing.on_reserved(io, seq_ref, number, stored),
            Job::Came => mailbox.incoming.on_stored(io, stored),
            Job::Erased(..) => {}
        });
    }

    /// The answer to something of before the device was forgotten. A message that was given up before it was durable, and is by now.
    fn on_old_job(&mut self, cx: &mut Cx<'_>, peer: PeerKey, job: &Job, stored: bool) {
        let Job::Queued(order) = job else { return };
        let key = (MESSAGES_OUT, rows::ordered(&peer, *order));
        if stored && !self.keys(&peer).contains(&key) {
            erase(cx, peer, Vec::from([key]), 0);
        }
    }

    /// Rows could not be removed: what they hold would be back after a restart.
    // PAIR-48.
    fn on_unerased(&mut self, cx: &mut Cx<'_>, peer: PeerKey, keys: Vec<RowKey>, failures: u32) {
        if failures <= limits::STORE_TRIES {
            let (all, most) = self.unerased.entry(peer).or_default();
            all.extend(keys);
            *most = failures.max(*most);
            cx.timers.set_at_latest(TimerKind::Rows, cx.now, limits::STORE_AGAIN);
        }
    }

    /// Rows that could not be removed are removed again, but for those that are needed by now: a device that was forgotten and is
    /// paired anew begins to count anew.
    pub(crate) fn erase_again(&mut self, cx: &mut Cx<'_>) {
        for (peer, (mut keys, failures)) in core::mem::take(&mut self.unerased) {
            let needed = self.keys(&peer);
            keys.retain(|key| !needed.contains(key));
            erase(cx, peer, keys, failures);
        }
    }

    /// Something expires, or the store is to be tried again.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, peer: PeerKey, unix_s: u64) {
        self.with(cx, peer, unix_s, |mailbox, io| {
            mailbox.incoming.write(io);
            mailbox.outgoing.try_again(io);
            mailbox.outgoing.expire(io);
        });
    }

    /// A device is forgotten, with all that was said: the rows that are left of it. They go in the write that says that it is
    /// forgotten: if that fails, what was said, and the numbers that were used, are still there.
    pub(crate) fn forget(&mut self, cx: &mut Cx<'_>, peer: PeerKey) -> Vec<RowKey> {
        let Some(mailbox) = self.boxes.remove(&peer) else { return Vec::new() };
        cx.timers.cancel(TimerKind::Messages(peer));
        let device = crate::identity::device_id(&peer);
        for (id, told) in mailbox.outgoing.left() {
            cx.notify(Event::MessageExpired { device, id, told });
        }
        mailbox.keys(&peer).collect()
    }

    /// The rows that are in use: a device that was forgotten and is paired anew begins to count anew.
    pub(crate) fn keys(&self, peer: &PeerKey) -> BTreeSet<RowKey> {
        self.boxes.get(peer).into_iter().flat_map(|mailbox| mailbox.keys(peer)).collect()
    }

    /// What is to be told since the last call, in order.
    pub(crate) fn take_tells(&mut self) -> Vec<Tell> {
        core::mem::take(&mut self.tells)
    }
}

fn erase(cx: &mut Cx<'_>, peer: PeerKey, keys: Vec<RowKey>, failures: u32) {
    if !keys.is_empty() {
        let batch = keys.iter().map(|(table, key)| Change { table: *table, key: key.clone(), value: None }).collect();
        cx.persist(batch, Purpose::Message { peer, job: Job::Erased(keys, failures) });
    }
}

/// How long until a moment of Unix time.
fn until(unix_s: u64, now_unix_s: u64) -> Duration {
    Duration::from_secs(unix_s.saturating_sub(now_unix_s))
}
