use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap as Map;

use super::*;
use crate::crypto::secret::SecretBytes;
use crate::effects::Output;
use crate::entropy::{Entropy, NoEntropy};
use crate::ids::Ticket;
use crate::outbox::Outbox;
use crate::time::Timestamp;
use crate::timers::Timers;

const NEVER: u64 = 1 << 40;

/// Counts, so that ids differ.
struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0 += 1;
        for (byte, number) in bytes.iter_mut().zip(self.0.to_be_bytes().iter().cycle()) {
            *byte = *number;
        }
        Ok(())
    }
}

/// A device that talks with one other: its messages, and a store that answers when it is told to.
struct Side {
    messages: Messages,
    peer: PeerKey,
    out: Outbox,
    timers: Timers,
    entropy: Counting,
    rows: Map<(u8, Vec<u8>), Vec<u8>>,
    writes: VecDeque<(Ticket, Vec<Change>)>,
    events: Vec<Event>,
    now: Timestamp,
    unix_s: u64,
    /// The name under which the session numbers what comes.
    theirs: SeqRef,
}

impl Side {
    fn new(peer: u8) -> Self {
        Self {
            messages: Messages::default(),
            peer: PeerKey([peer; 32]),
            out: Outbox::default(),
            timers: Timers::default(),
            entropy: Counting(u64::from(peer) << 32),
            rows: Map::new(),
            writes: VecDeque::new(),
            events: Vec::new(),
            now: Timestamp::from_micros(1),
            unix_s: 1000,
            theirs: [0; 16],
        }
    }

    fn with<T>(&mut self, with: impl FnOnce(&mut Messages, &mut Cx<'_>, PeerKey, u64) -> T) -> T {
        let mut cx = Cx { now: self.now, entropy: &mut self.entropy, out: &mut self.out, timers: &mut self.timers };
        let done = with(&mut self.messages, &mut cx, self.peer, self.unix_s);
        while let Some(output) = self.out.pop() {
            match output {
                Output::Persist { ticket, batch } => self.writes.push_back((ticket, batch)),
                Output::Notify(event) => self.events.push(event),
                other => panic!("{other:?}"),
            }
        }
        done
    }

    fn send(&mut self, text: &str) -> MessageId {
        let draft = Draft { content_type: "text/plain".into(), body: text.as_bytes().to_vec(), expires_unix: NEVER };
        self.with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, draft)).unwrap()
    }

    /// The next write is done, or fails.
    fn write(&mut self, stored: bool) -> bool {
        let Some((ticket, batch)) = self.writes.pop_front() else { return false };
        if stored {
            for Change { table, key, value } in batch {
                match value {
                    Some(value) => drop(self.rows.insert((table, key), value.bytes().to_vec())),
                    None => drop(self.rows.remove(&(table, key))),
                }
            }
        }
        let Some(Purpose::Message { job, .. }) = self.out.settle(ticket) else { panic!("a ticket of another") };
        self.with(|messages, cx, peer, unix_s| messages.on_job(cx, peer, unix_s, (ticket, job), stored));
        true
    }

    fn session(&mut self, names: (SeqRef, SeqRef)) {
        self.theirs = names.1;
        self.with(|messages, cx, peer, unix_s| messages.on_session(cx, peer, unix_s, names.0));
    }

    fn hear(&mut self, message: ControlMessage) -> Result<(), ()> {
        let theirs = self.theirs;
        self.with(|messages, cx, peer, unix_s| messages.on_control(cx, (peer, theirs), unix_s, message))
    }

    fn tells(&mut self) -> Vec<ControlMessage> {
        self.messages.take_tells().into_iter().map(|(_, message)| message).collect()
    }

    /// Another life, with what the store holds.
    fn again(&mut self) {
        let rows = core::mem::take(&mut self.rows);
        *self =
            Self { rows: rows.clone(), entropy: Counting(self.entropy.0), now: self.now, unix_s: self.unix_s, ..Self::new(self.peer.0[0]) };
        for ((table, key), value) in rows {
            self.messages.load(&Record { table, key, value: SecretBytes::new(value) }).unwrap();
        }
        self.with(|messages, cx, _, unix_s| messages.loaded(cx, unix_s, |_| true));
    }

    fn bodies(&self) -> Vec<String> {
        self.messages.came(&self.peer).map(|message| String::from_utf8_lossy(&message.body).to_string()).collect()
    }
}

/// Two devices and the names of a root.
struct Two {
    sides: [Side; 2],
    root: u8,
}

impl Two {
    fn new() -> Self {
        Self { sides: [Side::new(2), Side::new(1)], root: 1 }
    }

    fn session(&mut self) {
        let names = [[self.root; 16], [self.root + 100; 16]];
        self.sides[0].session((names[0], names[1]));
        self.sides[1].session((names[1], names[0]));
    }

    /// Everything is written and told until nothing moves; `lost` says what does not arrive.
    fn settle(&mut self, mut lost: impl FnMut(&ControlMessage) -> bool) {
        loop {
            let mut moved = false;
            for side in &mut self.sides {
                while side.write(true) {
                    moved = true;
                }
            }
            for from in 0..2 {
                for message in self.sides[from].tells() {
                    moved = true;
                    if !lost(&message) {
                        self.sides[1 - from].hear(message).unwrap();
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }
}

fn receipts(side: &Side) -> Vec<(MessageId, MessageState)> {
    let receipt = |event: &Event| if let Event::MessageReceipt { id, state, .. } = event { Some((*id, *state)) } else { None };
    side.events.iter().filter_map(receipt).collect()
}

use crate::wire::control::MessageState;

#[test]
fn what_is_queued_arrives_once_and_in_order() {
    let mut two = Two::new();
    let early = two.sides[0].send("one");
    two.session();
    let late = two.sides[0].send("two");
    two.settle(|_| false);
    assert_eq!(two.sides[1].bodies(), ["one", "two"]);
    assert_eq!(receipts(&two.sides[0]), [(early, MessageState::Delivered), (late, MessageState::Delivered)]);
    assert_eq!(two.sides[0].messages.waiting(&two.sides[0].peer).count(), 0);
    assert!(two.sides[0].rows.keys().all(|(table, _)| *table != MESSAGES_OUT), "nothing waits on disk either");
    // The owner takes one.
    let taken = two.sides[1].with(|messages, cx, peer, unix_s| messages.take(cx, peer, unix_s, early)).unwrap();
    assert_eq!(taken.body, b"one");
    two.settle(|_| false);
    assert_eq!(two.sides[1].bodies(), ["two"]);
    assert_eq!(two.sides[1].with(|messages, cx, peer, unix_s| messages.take(cx, peer, unix_s, early)), Err(UnknownMessage));
    two.sides[1].again();
    assert_eq!(two.sides[1].bodies(), ["two"]);
}

/// MSG-1: what is not durable is not told, and one that could not be written is not there.
#[test]
fn nothing_is_told_before_it_is_durable() {
    let mut two = Two::new();
    two.session();
    let lost = two.sides[0].send("lost");
    assert!(two.sides[0].tells().is_empty());
    two.sides[0].write(false);
    assert_eq!(two.sides[0].events, [Event::MessageNotStored { device: crate::identity::device_id(&two.sides[0].peer), id: lost }]);
    two.settle(|_| false);
    assert!(two.sides[1].bodies().is_empty());
}

/// MSG-3, MSG-5: whatever is lost, and whoever starts again, each is there once.
#[test]
fn receipts_that_are_lost_double_nothing() {
    for (crash, root) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut two = Two::new();
        two.session();
        let ids: Vec<MessageId> = (0..100).map(|number| two.sides[0].send(&number.to_string())).collect();
        two.settle(|message| matches!(message, ControlMessage::MessageReceipt { seq, .. } if seq % 3 == 0));
        for side in &mut two.sides {
            side.messages.on_session_over(&side.peer.clone());
            if crash {
                side.again();
            }
        }
        two.root += u8::from(root);
        two.session();
        two.settle(|_| false);
        let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert_eq!(two.sides[1].bodies(), expected, "crash {crash}, root {root}");
        assert_eq!(two.sides[0].messages.waiting(&two.sides[0].peer).count(), 0);
        let told: Vec<_> = receipts(&two.sides[0]);
        assert!(told.iter().all(|(id, state)| ids.contains(id) && *state == MessageState::Delivered), "{told:?}");
    }
}

/// MSG-5: what the disk refused is neither there nor told, and is written again.
#[test]
fn a_message_that_cannot_be_written_is_not_delivered() {
    let mut two = Two::new();
    two.session();
    two.sides[0].send("one");
    while two.sides[0].write(true) {}
    for message in two.sides[0].tells() {
        two.sides[1].hear(message).unwrap();
    }
    two.sides[1].write(false);
    assert!(two.sides[1].tells().is_empty() && two.sides[1].bodies().is_empty());
    let peer = two.sides[1].peer;
    assert!(two.sides[1].timers.is_set(TimerKind::Messages(peer)));
    two.sides[1].with(|messages, cx, peer, unix_s| messages.on_timer(cx, peer, unix_s));
    two.settle(|_| false);
    assert_eq!(two.sides[1].bodies(), ["one"]);
    assert_eq!(receipts(&two.sides[0]).len(), 1);
}

/// MSG-2, MSG-4: as many are under way as may be, and who sends more breaks the protocol.
#[test]
fn as_many_are_under_way_as_may_be() {
    let mut two = Two::new();
    two.session();
    for number in 0..200 {
        two.sides[0].send(&number.to_string());
    }
    while two.sides[0].write(true) {}
    let told = two.sides[0].tells();
    assert_eq!(told.len(), limits::MESSAGES_UNDER_WAY);
    let message = |seq: u64| ControlMessage::Message { seq, id: [seq as u8; 16], content_type: String::new(), body: vec![] };
    let taken = (1..).take_while(|seq| two.sides[1].hear(message(*seq)).is_ok()).count();
    assert_eq!(taken, limits::MESSAGES_HELD * limits::MESSAGES_UNDER_WAY);
}

/// MSG-2: what was told and then given up is in the receiver's hands until it answers.
#[test]
fn what_was_given_up_makes_no_room() {
    let mut two = Two::new();
    two.session();
    for number in 0..limits::MESSAGES_UNDER_WAY {
        let draft = Draft { content_type: String::new(), body: vec![number as u8], expires_unix: 1060 };
        two.sides[0].with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, draft)).unwrap();
    }
    while two.sides[0].write(true) {}
    let told = two.sides[0].tells();
    assert_eq!(told.len(), limits::MESSAGES_UNDER_WAY);
    two.sides[0].unix_s = 1060;
    two.sides[0].with(|messages, cx, peer, unix_s| messages.on_timer(cx, peer, unix_s));
    two.sides[0].send("another");
    while two.sides[0].write(true) {}
    assert!(two.sides[0].tells().is_empty(), "the receiver has not answered");
    for message in told {
        two.sides[1].hear(message).unwrap();
    }
    while two.sides[1].write(true) {}
    for receipt in two.sides[1].tells() {
        two.sides[0].hear(receipt).unwrap();
    }
    assert_eq!(two.sides[0].tells().len(), 1);
}

/// MSG-1: a device is forgotten while messages for it are written, and paired anew: their answers are not for those that come then.
#[test]
fn answers_of_before_are_for_nobody() {
    let mut two = Two::new();
    let side = &mut two.sides[0];
    side.send("before");
    side.with(|messages, cx, peer, _| drop(messages.forget(cx, peer)));
    side.events.clear();
    let id = side.send("after");
    assert!(side.write(true), "what was asked for before");
    assert!(side.events.is_empty(), "{:?}", side.events);
    assert!(side.write(true));
    assert!(matches!(side.events[..], [Event::MessageQueued { id: of, .. }] if of == id), "{:?}", side.events);
    while side.write(true) {}
    side.again();
    assert_eq!(side.messages.waiting(&side.peer).map(|message| message.id).collect::<Vec<_>>(), [id]);
}

/// MSG-5: a number that was used is no other message's.
#[test]
fn a_number_is_not_given_twice() {
    let mut two = Two::new();
    two.session();
    let message = |seq: u64, id: u8| ControlMessage::Message { seq, id: [id; 16], content_type: String::new(), body: vec![id] };
    for (seq, id) in [(5, 1), (5, 2), (3, 3), (5, 1), (6, 1), (7, 4)] {
        two.sides[1].hear(message(seq, id)).unwrap();
        while two.sides[1].write(true) {}
    }
    let states: Vec<(u64, MessageState)> = two.sides[1]
        .tells()
        .into_iter()
        .map(|told| if let ControlMessage::MessageReceipt { seq, state, .. } = told { (seq, state) } else { panic!("{told:?}") })
        .collect();
    let (delivered, conflict) = (MessageState::Delivered, MessageState::Conflict);
    assert_eq!(states, [(5, delivered), (5, conflict), (3, conflict), (5, delivered), (6, delivered), (7, delivered)]);
    assert_eq!(two.sides[1].messages.came(&two.sides[1].peer).count(), 2);
    // It is remembered over a restart.
    two.sides[1].again();
    two.session();
    two.sides[1].hear(message(6, 9)).unwrap();
    while two.sides[1].write(true) {}
    assert!(matches!(two.sides[1].tells()[..], [ControlMessage::MessageReceipt { state: MessageState::Conflict, .. }]));
}

/// MSG-6: a receipt of what was not told, or with an id of its own, does nothing.
#[test]
fn receipts_of_nothing_do_nothing() {
    let mut two = Two::new();
    two.session();
    two.sides[0].send("one");
    while two.sides[0].write(true) {}
    assert_eq!(two.sides[0].tells().len(), 1);
    for seq in [1, 2, u64::MAX] {
        two.sides[0].hear(ControlMessage::MessageReceipt { seq, id: [0xee; 16], state: MessageState::Delivered }).unwrap();
    }
    assert!(receipts(&two.sides[0]).is_empty());
    assert_eq!(two.sides[0].messages.waiting(&two.sides[0].peer).count(), 1);
}

/// MSG-7: a message waits as long as it may.
#[test]
fn a_message_expires() {
    let mut two = Two::new();
    let draft = Draft { content_type: String::new(), body: vec![1], expires_unix: 1060 };
    let id = two.sides[0].with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, draft)).unwrap();
    while two.sides[0].write(true) {}
    let (peer, device) = (two.sides[0].peer, crate::identity::device_id(&two.sides[0].peer));
    assert!(two.sides[0].timers.is_set(TimerKind::Messages(peer)));
    two.sides[0].unix_s = 1059;
    two.sides[0].with(|messages, cx, peer, unix_s| messages.on_timer(cx, peer, unix_s));
    assert_eq!(two.sides[0].events, [Event::MessageQueued { device, id }]);
    two.sides[0].unix_s = 1060;
    two.sides[0].with(|messages, cx, peer, unix_s| messages.on_timer(cx, peer, unix_s));
    assert_eq!(two.sides[0].events[1..], [Event::MessageExpired { device, id, told: false }]);
    two.settle(|_| false);
    // One that was told, and one that may have been before a restart.
    for again in [false, true] {
        two.session();
        let draft = Draft { content_type: String::new(), body: vec![2], expires_unix: 1100 };
        let id = two.sides[0].with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, draft)).unwrap();
        while two.sides[0].write(true) {}
        two.sides[0].tells();
        if again {
            two.sides[0].again();
        }
        two.sides[0].unix_s = 1100;
        two.sides[0].with(|messages, cx, peer, unix_s| messages.on_timer(cx, peer, unix_s));
        assert_eq!(two.sides[0].events.last(), Some(&Event::MessageExpired { device, id, told: true }), "{again}");
        two.sides[0].unix_s = 1060;
        two.settle(|_| false);
    }
    two.session();
    two.settle(|_| false);
    assert!(two.sides[1].bodies().is_empty() && two.sides[0].rows.keys().all(|(table, _)| *table == crate::records::MESSAGE_NUMBERS));
}

/// S17, MSG-1: the queue is bounded, and says so; what came and is not taken is bounded too, and the sender hears of it.
#[test]
fn queues_are_bounded() {
    let mut two = Two::new();
    for number in 0..limits::MESSAGES_QUEUED {
        two.sides[0].send(&number.to_string());
    }
    let draft = || Draft { content_type: String::new(), body: vec![], expires_unix: NEVER };
    let full = two.sides[0].with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, draft()));
    assert_eq!(full, Err(MessageError::QueueFull));
    let long = Draft { body: vec![0; limits::MESSAGE_BODY + 1], ..draft() };
    assert_eq!(two.sides[0].with(|messages, cx, peer, unix_s| messages.send(cx, peer, unix_s, long)), Err(MessageError::TooLong));
    two.session();
    two.settle(|_| false);
    assert_eq!(two.sides[1].messages.came(&two.sides[1].peer).count(), limits::MESSAGES_QUEUED);
    let one_more = two.sides[0].send("one more");
    two.settle(|_| false);
    assert_eq!(receipts(&two.sides[0]).last(), Some(&(one_more, MessageState::Refused)));
}

/// A device that is forgotten leaves nothing.
#[test]
fn nothing_is_left_of_who_is_forgotten() {
    let mut two = Two::new();
    two.session();
    two.sides[0].send("there");
    two.sides[1].send("back");
    two.settle(|_| false);
    two.sides[1].send("never told");
    for side in &mut two.sides {
        side.with(|messages, cx, peer, _| {
            let keys = messages.forget(cx, peer);
            erase(cx, peer, keys, 0);
        });
        while side.write(true) {}
        assert!(side.rows.is_empty(), "{:?}", side.rows.keys());
        assert!(!side.timers.is_set(TimerKind::Messages(side.peer)));
    }
}

/// What was removed is gone, also where the store fails at first; and what has taken its place since stays.
#[test]
fn rows_that_could_not_be_removed_are_removed_again() {
    let mut two = Two::new();
    two.session();
    let id = two.sides[0].send("there");
    two.settle(|_| false);
    let own = &mut two.sides[1];
    let again = |side: &mut Side| {
        assert!(side.timers.is_set(TimerKind::Rows));
        side.timers.cancel(TimerKind::Rows);
        side.with(|messages, cx, _, _| messages.erase_again(cx));
    };
    own.with(|messages, cx, peer, unix_s| messages.take(cx, peer, unix_s, id)).unwrap();
    assert!(own.write(false));
    again(own);
    assert!(own.write(false));
    again(own);
    assert!(own.write(true));
    own.again();
    assert_eq!(own.bodies(), [] as [&str; 0], "it was taken");
    // The same of a device that is forgotten, and paired anew before that.
    own.send("never told");
    own.write(true);
    own.with(|messages, cx, peer, _| {
        let keys = messages.forget(cx, peer);
        erase(cx, peer, keys, 0);
    });
    assert!(own.write(false));
    own.send("told anew");
    own.write(true);
    again(own);
    own.write(true);
    own.again();
    let waiting: Vec<_> = own.messages.waiting(&own.peer).map(|message| message.body.clone()).collect();
    assert_eq!(waiting, [b"told anew"]);
    assert_eq!(own.rows.len(), 1, "{:?}", own.rows.keys());
    own.with(|messages, cx, peer, _| {
        let keys = messages.forget(cx, peer);
        erase(cx, peer, keys, 0);
    });
    assert!(own.write(false));
    again(own);
    own.write(true);
    assert!(own.rows.is_empty(), "{:?}", own.rows.keys());
    assert!(!own.timers.is_set(TimerKind::Rows));
}

// ID-8.
#[test]
fn what_is_said_is_shown_to_no_log() {
    let mut two = Two::new();
    two.sides[0].send("attack at dawn");
    two.session();
    // Its receipts are lost: it is held on both sides.
    two.settle(|message| matches!(message, ControlMessage::MessageReceipt { .. }));
    let [one, other] = &two.sides;
    assert_eq!(other.bodies(), ["attack at dawn"]);
    let draft = Draft { content_type: "text/plain".into(), body: b"attack at dawn".to_vec(), expires_unix: NEVER };
    let came: Vec<_> = other.messages.came(&other.peer).cloned().collect();
    let shown = [format!("{:?}", one.messages), format!("{:?}", other.messages), format!("{draft:?}"), format!("{came:?}")];
    for text in shown {
        assert!(!text.contains("97, 116, 116"), "{text}");
        assert!(text.contains("bytes: 14"), "{text}");
    }
}
