//! Messages of ours: queued durably, told in order on every session until their receipts come.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::rows::{self, Row, SeqRef};
use super::{Io, Job, StoredMessage, UnknownMessage, until};
use crate::effects::Event;
use crate::ids::{MessageId, PeerKey};
use crate::limits;
use crate::records::{MESSAGE_NUMBERS, MESSAGES_OUT};
use crate::timers::TimerKind;
use crate::wire::control::{ControlMessage, MessageState};

/// Numbers that are reserved at a time, so that not every message costs a write of its own for its number.
const RESERVED: u64 = 1024;

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    message: StoredMessage,
    /// It is durable: nothing is told before.
    stored: bool,
    /// Its number, once it was told under the present names.
    seq: Option<u64>,
    /// It was told, or may have been in an earlier life of the process.
    left: bool,
}

/// The numbers of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    /// The last that was given.
    used: u64,
    /// The last that may be given: durable.
    reserved: u64,
    /// More are being reserved.
    asked: bool,
}

/// The queue for one device.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: BTreeMap<u64, Waiting>,
    bytes: usize,
    last_order: u64,
    numbers: BTreeMap<SeqRef, Numbers>,
    /// The name under which those in the queue have their numbers.
    named: Option<SeqRef>,
    /// A session is there, and these were told on it and have no receipt: the peer holds them, also where they were given up here.
    told: Option<BTreeMap<u64, Told>>,
}

/// What was told of a message.
#[derive(Debug)]
struct Told {
    seq: u64,
    id: MessageId,
    bytes: usize,
}

impl Outgoing {
    pub(super) fn load(&mut self, order: u64, message: StoredMessage) {
        self.bytes += message.body.len();
        self.last_order = self.last_order.max(order);
        self.queue.insert(order, Waiting { message, stored: true, seq: None, left: true });
    }

    /// After a restart those that were reserved count as used.
    pub(super) fn load_number(&mut self, seq_ref: SeqRef, number: u64) {
        self.numbers.insert(seq_ref, Numbers { used: number, reserved: number, asked: false });
    }

    // S17.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.queue.len() < limits::MESSAGES_QUEUED && self.bytes + bytes <= limits::MESSAGE_BYTES_QUEUED
    }

    pub(super) fn stored(&self) -> impl Iterator<Item = &StoredMessage> {
        self.queue.values().map(|waiting| &waiting.message)
    }

    /// Each that waits, and whether it may have arrived.
    pub(super) fn left(&self) -> impl Iterator<Item = (MessageId, bool)> {
        self.queue.values().map(|waiting| (waiting.message.id, waiting.left))
    }

    pub(super) fn is_awaiting(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.keys().any(|order| self.queue.contains_key(order)))
    }

    /// Nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn keys(&self, peer: &PeerKey) -> impl Iterator<Item = (u8, Vec<u8>)> {
        let queued = self.queue.keys().map(|order| (MESSAGES_OUT, rows::ordered(peer, *order)));
        let numbers = self.numbers.iter().filter(|(_, numbers)| numbers.reserved > 0 || numbers.asked);
        let numbers = numbers.map(|(seq_ref, _)| (MESSAGE_NUMBERS, rows::named(peer, seq_ref)));
        queued.chain(numbers).collect::<Vec<_>>().into_iter()
    }

    // MSG-1.
    pub(super) fn queue(&mut self, io: &mut Io<'_, '_>, message: StoredMessage) {
        self.last_order += 1;
        let order = self.last_order;
        let row = Row::Outgoing { order, message: message.clone() }.write(&io.peer);
        self.bytes += message.body.len();
        self.queue.insert(order, Waiting { message, stored: planted!(MessageToldUnstored), seq: None, left: false });
        io.persist(Vec::from([row]), Job::Queued(order));
    }

    pub(super) fn on_queued(&mut self, io: &mut Io<'_, '_>, order: u64, stored: bool) {
        let Some(waiting) = self.queue.get_mut(&order) else {
            // It was given up meanwhile.
            if stored {
                io.erase(Vec::from([(MESSAGES_OUT, rows::ordered(&io.peer, order))]));
            }
            return;
        };
        if stored {
            waiting.stored = true;
            let id = waiting.message.id;
            io.cx.notify(Event::MessageQueued { device: io.device, id });
            self.expire(io);
            return self.pump(io);
        }
        let id = waiting.message.id;
        self.drop_message(order);
        io.cx.notify(Event::MessageNotStored { device: io.device, id });
    }

    /// The owner gives one up.
    pub(super) fn cancel(&mut self, io: &mut Io<'_, '_>, id: MessageId) -> Result<(), UnknownMessage> {
        let order = self.queue.iter().find(|(_, waiting)| waiting.message.id == id).map(|(&order, _)| order).ok_or(UnknownMessage)?;
        self.finish(io, order);
        self.pump(io);
        Ok(())
    }

    /// A message is over: its row goes, if it is there.
    fn finish(&mut self, io: &mut Io<'_, '_>, order: u64) {
        if self.drop_message(order) {
            io.erase(Vec::from([(MESSAGES_OUT, rows::ordered(&io.peer, order))]));
        }
    }

    /// Whether it was durable.
    fn drop_message(&mut self, order: u64) -> bool {
        let Some(waiting) = self.queue.remove(&order) else { return false };
        self.bytes -= waiting.message.body.len();
        if let (Some(told), true) = (&mut self.told, planted!(GivenUpLeavesWindow)) {
            told.remove(&order);
        }
        waiting.stored
    }

    /// What could not be written is tried again.
    pub(super) fn try_again(&mut self, io: &mut Io<'_, '_>) {
        self.pump(io);
    }

    /// A session is there: what has no receipt is told again, in order. Under another root it is numbered anew.
    // MSG-3.
    pub(super) fn on_session(&mut self, io: &mut Io<'_, '_>, seq_ref: SeqRef) {
        if self.named != Some(seq_ref) {
            for waiting in self.queue.values_mut() {
                waiting.seq = None;
            }
        }
        self.named = Some(seq_ref);
        self.told = Some(BTreeMap::new());
        self.expire(io);
        self.pump(io);
    }

    pub(super) fn on_session_over(&mut self) {
        self.told = None;
    }

    /// Tells what may be told: durable ones, in order, as many as may be under way.
    // MSG-2.
    fn pump(&mut self, io: &mut Io<'_, '_>) {
        let (Some(told), Some(seq_ref)) = (&mut self.told, self.named) else { return };
        let numbers = self.numbers.entry(seq_ref).or_default();
        let mut under_way: usize = told.values().map(|told| told.bytes).sum();
        for (&order, waiting) in &mut self.queue {
            if told.contains_key(&order) {
                continue;
            }
            // Those behind it wait for it: a number that was passed over is taken for one that expired.
            let room = told.len() < limits::MESSAGES_UNDER_WAY && under_way < limits::MESSAGE_BYTES_UNDER_WAY;
            if !waiting.stored || !(room || planted!(MessageWindowIgnored)) {
                return;
            }
            if waiting.seq.is_none() && numbers.used == numbers.reserved && !planted!(NumbersUnreserved) {
                if !core::mem::replace(&mut numbers.asked, true) {
                    let number = numbers.reserved + RESERVED;
                    let row = Row::Number { seq_ref, number }.write(&io.peer);
                    io.persist(Vec::from([row]), Job::Reserved(seq_ref, number));
                }
                return;
            }
            let seq = *waiting.seq.get_or_insert_with(|| {
                numbers.used += 1;
                numbers.used
            });
            waiting.left = true;
            let StoredMessage { id, content_type, body, .. } = waiting.message.clone();
            told.insert(order, Told { seq, id, bytes: body.len() });
            under_way += body.len();
            io.tell(ControlMessage::Message { seq, id: id.0, content_type, body });
        }
    }

    pub(super) fn on_reserved(&mut self, io: &mut Io<'_, '_>, seq_ref: SeqRef, number: u64, stored: bool) {
        let numbers = self.numbers.entry(seq_ref).or_default();
        numbers.asked = false;
        if !stored {
            return io.try_again();
        }
        numbers.reserved = number;
        self.pump(io);
    }

    /// What became of one. Receipts of what nobody waits for make room for what waits, if it was told.
    // MSG-2, MSG-6.
    pub(super) fn on_receipt(&mut self, io: &mut Io<'_, '_>, (seq, id): (u64, MessageId), state: MessageState) {
        if let Some(told) = &mut self.told {
            told.retain(|_, told| (told.seq, told.id) != (seq, id));
        }
        let named = |waiting: &Waiting| waiting.seq == Some(seq) && (waiting.message.id == id || planted!(ReceiptOfAnother));
        let Some((&order, waiting)) = self.queue.iter().find(|(_, waiting)| named(waiting)) else { return self.pump(io) };
        let id = waiting.message.id;
        io.cx.notify(Event::MessageReceipt { device: io.device, id, state });
        if !planted!(ReceiptKeepsMessage) {
            self.finish(io, order);
        }
        self.pump(io);
    }

    /// Gives up what has waited too long, and waits for the next.
    // MSG-7.
    pub(super) fn expire(&mut self, io: &mut Io<'_, '_>) {
        let due = |waiting: &Waiting| waiting.stored && waiting.message.unix_s <= io.unix_s && !planted!(MessagesNeverExpire);
        let due: Vec<u64> = self.queue.iter().filter(|(_, waiting)| due(waiting)).map(|(&order, _)| order).collect();
        for order in due {
            let Some(waiting) = self.queue.get(&order) else { continue };
            let (id, told) = (waiting.message.id, waiting.left);
            io.cx.notify(Event::MessageExpired { device: io.device, id, told });
            self.finish(io, order);
        }
        if let Some(next) = self.queue.values().map(|waiting| waiting.message.unix_s).min() {
            // A clock that is set back, or a timer that cannot be that long: it looks again.
            let after = until(next, io.unix_s).clamp(core::time::Duration::from_secs(1), limits::MESSAGE_LOOK);
            io.cx.timers.set_at_latest(TimerKind::Messages(io.peer), io.cx.now, after);
        }
    }
}
