//! Messages of theirs: written together with their numbers before anything is said of them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::rows::{self, Row, Seen, SeqRef};
use super::{Io, Job, StoredMessage, UnknownMessage};
use crate::effects::Event;
use crate::ids::{MessageId, PeerKey};
use crate::limits;
use crate::records::{MESSAGE_NUMBERS, MESSAGES_IN, MESSAGES_SEEN};
use crate::wire::control::{ControlMessage, MessageState};

/// What came on a session and is not written yet.
#[derive(Debug)]
struct Fresh {
    seq_ref: SeqRef,
    seq: u64,
    message: StoredMessage,
}

/// What a write will have made of one, once it is durable.
#[derive(Debug)]
struct Decided {
    fresh: Fresh,
    state: MessageState,
    /// A place among those that were seen; `None`: it was seen before, or conflicts.
    seen: Option<u64>,
    /// A place in the store of those that came.
    order: Option<u64>,
}

/// What came from one device.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    stored: BTreeMap<u64, StoredMessage>,
    bytes: usize,
    last_order: u64,
    /// The highest number of each name that something was done with.
    watermarks: BTreeMap<SeqRef, u64>,
    /// The last that came, by count.
    seen: BTreeMap<u64, Seen>,
    last_seen: u64,
    fresh: VecDeque<Fresh>,
    writing: Vec<Decided>,
}

impl Incoming {
    pub(super) fn load(&mut self, order: u64, message: StoredMessage) {
        self.bytes += message.body.len();
        self.last_order = self.last_order.max(order);
        self.stored.insert(order, message);
    }

    pub(super) fn load_number(&mut self, seq_ref: SeqRef, number: u64) {
        self.watermarks.insert(seq_ref, number);
    }

    pub(super) fn load_seen(&mut self, seen: Seen) {
        self.last_seen = self.last_seen.max(seen.count);
        self.seen.insert(seen.count, seen);
    }

    pub(super) fn stored(&self) -> impl Iterator<Item = &StoredMessage> {
        self.stored.values()
    }

    /// Nothing is to be written again.
    pub(super) fn is_idle(&self) -> bool {
        self.fresh.is_empty() || !self.writing.is_empty()
    }

    pub(super) fn keys(&self, peer: &PeerKey) -> impl Iterator<Item = (u8, Vec<u8>)> {
        // What is being written may be there too by then.
        let writing = self.writing.iter().filter_map(|decided| decided.order);
        let stored = self.stored.keys().copied().chain(writing).map(|order| (MESSAGES_IN, rows::ordered(peer, order)));
        let named = self.writing.iter().map(|decided| &decided.fresh.seq_ref);
        let names = self.watermarks.keys().chain(named).map(|seq_ref| (MESSAGE_NUMBERS, rows::named(peer, seq_ref)));
        let counts = self.seen.keys().copied().chain(self.writing.iter().filter_map(|decided| decided.seen));
        let seen = counts.map(|count| (MESSAGES_SEEN, rows::slotted(peer, rows::slot(count))));
        stored.chain(names).chain(seen).collect::<Vec<_>>().into_iter()
    }

    /// A message, numbered under the name of the session on which it came: an older one may still be heard out. One that is on its
    /// way to the disk already is not taken twice: its receipt comes when it is durable.
    ///
    /// # Errors
    /// The peer has more under way than it may.
    // MSG-4.
    pub(super) fn on_message(&mut self, io: &mut Io<'_, '_>, (seq_ref, seq): (SeqRef, u64), message: StoredMessage) -> Result<(), ()> {
        let under_way = || self.fresh.iter().chain(self.writing.iter().map(|decided| &decided.fresh));
        if under_way().any(|fresh| (fresh.seq_ref, fresh.seq, fresh.message.id) == (seq_ref, seq, message.id)) {
            return Ok(());
        }
        // More than a sender may: where the root changes it tells the same again under other numbers.
        let bytes: usize = under_way().map(|fresh| fresh.message.body.len()).sum();
        let full = under_way().count() >= limits::MESSAGES_HELD * limits::MESSAGES_UNDER_WAY
            || bytes >= limits::MESSAGES_HELD * limits::MESSAGE_BYTES_UNDER_WAY;
        if full && !planted!(MessageFloodAccepted) {
            return Err(());
        }
        self.fresh.push_back(Fresh { seq_ref, seq, message });
        self.write(io);
        Ok(())
    }

    /// Decides what waits, in order, and has it written as one; one write at a time.
    // MSG-5.
    pub(super) fn write(&mut self, io: &mut Io<'_, '_>) {
        if !self.writing.is_empty() || self.fresh.is_empty() {
            return;
        }
        let mut batch = Vec::new();
        let (mut marks, mut count, mut order) = (BTreeMap::new(), self.last_seen, self.last_order);
        let (mut held, mut bytes) = (self.stored.len(), self.bytes);
        for fresh in core::mem::take(&mut self.fresh) {
            let Fresh { seq_ref, seq, .. } = fresh;
            let id = fresh.message.id;
            let mark = *marks.entry(seq_ref).or_insert_with(|| self.watermarks.get(&seq_ref).copied().unwrap_or(0));
            let decided = match self.known(id) {
                // The same again: under its own number, or under another after a restart or a new root.
                Some(state) => Decided { state, seen: None, order: None, fresh },
                None if seq > mark || planted!(OldNumberTaken) => {
                    count += 1;
                    let len = fresh.message.body.len();
                    let room = held < limits::MESSAGES_QUEUED && bytes + len <= limits::MESSAGE_BYTES_QUEUED;
                    let state = if room { MessageState::Delivered } else { MessageState::Refused };
                    let place = room.then(|| {
                        order += 1;
                        (held, bytes) = (held + 1, bytes + len);
                        batch.push(Row::Incoming { order, message: fresh.message.clone() }.write(&io.peer));
                        order
                    });
                    batch.push(Row::Seen(Seen { count, id, state }).write(&io.peer));
                    Decided { state, seen: Some(count), order: place, fresh }
                }
                None => Decided { state: MessageState::Conflict, seen: None, order: None, fresh },
            };
            if seq > mark {
                marks.insert(seq_ref, seq);
            }
            self.writing.push(decided);
        }
        for (seq_ref, number) in marks {
            if self.watermarks.get(&seq_ref).copied().unwrap_or(0) < number && !planted!(WatermarkUnstored) {
                batch.push(Row::Number { seq_ref, number }.write(&io.peer));
            }
        }
        if batch.is_empty() {
            return self.on_stored(io, true);
        }
        io.persist(batch, Job::Came);
        if planted!(ReceiptBeforeDurable) {
            self.on_stored(io, true);
        }
    }

    /// What was decided of a message of this id, if it came before.
    fn known(&self, id: MessageId) -> Option<MessageState> {
        let seen = self.seen.values().find(|seen| seen.id == id && !planted!(MessageSeenForgotten)).map(|seen| seen.state);
        let decided = |decided: &&Decided| decided.fresh.message.id == id && decided.seen.is_some();
        seen.or_else(|| self.writing.iter().find(decided).map(|decided| decided.state))
    }

    /// What came is durable: now it may be said. Or it is not, and is decided again.
    pub(super) fn on_stored(&mut self, io: &mut Io<'_, '_>, stored: bool) {
        let writing = core::mem::take(&mut self.writing);
        if !stored && !planted!(UnwrittenMessageTold) {
            for decided in writing.into_iter().rev() {
                self.fresh.push_front(decided.fresh);
            }
            return io.try_again();
        }
        for Decided { fresh: Fresh { seq_ref, seq, message }, state, seen, order } in writing {
            let id = message.id;
            let mark = self.watermarks.entry(seq_ref).or_default();
            *mark = seq.max(*mark);
            if let Some(count) = seen {
                self.last_seen = count;
                self.seen.insert(count, Seen { count, id, state });
                while self.seen.len() > limits::MESSAGES_REMEMBERED {
                    self.seen.pop_first();
                }
            }
            // The present session may be another by now; the receipt is the same.
            io.tell(ControlMessage::MessageReceipt { seq, id: id.0, state });
            if let Some(order) = order {
                self.load(order, message);
                io.cx.notify(Event::Message { device: io.device, id });
            }
        }
        self.write(io);
    }

    /// The owner has it.
    pub(super) fn take(&mut self, io: &mut Io<'_, '_>, id: MessageId) -> Result<StoredMessage, UnknownMessage> {
        let order = self.stored.iter().find(|(_, message)| message.id == id).map(|(&order, _)| order).ok_or(UnknownMessage)?;
        let message = self.stored.remove(&order).ok_or(UnknownMessage)?;
        self.bytes -= message.body.len();
        io.erase(Vec::from([(MESSAGES_IN, rows::ordered(&io.peer, order))]));
        Ok(message)
    }
}
