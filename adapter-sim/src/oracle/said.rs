//! Messages: each there once, in order, and reported delivered only where it is (S15, S16, S17, L4).

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::effects::Event;
use protocol_core::ids::{DeviceId, MessageId};
use protocol_core::limits;
use protocol_core::records::{MESSAGES_IN, MESSAGES_OUT, MESSAGES_SEEN};
use protocol_core::wire::control::MessageState;

use super::Oracle;
use crate::{Dev, World};

/// What owners said, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// From whom to whom, in order.
    said: BTreeMap<(Dev, Dev), Vec<MessageId>>,
    /// The place of the last that came, by who got it of whom.
    last: BTreeMap<(Dev, Dev), usize>,
    there: BTreeSet<(Dev, MessageId)>,
    /// Those whose end a sender was told, in this life of it.
    ended: BTreeSet<(Dev, u32, MessageId)>,
    /// Those that a sender was told are durable, or were.
    queued: BTreeSet<(Dev, MessageId)>,
    /// Messages of liars that no owner may be shown, and the rule of it.
    unlawful: BTreeMap<MessageId, &'static str>,
    /// Messages of which a liar has said that it has them.
    receipted: BTreeSet<MessageId>,
}

impl Oracle {
    /// An owner has sent a message.
    pub(crate) fn on_said(&mut self, dev: Dev, peer: Dev, id: MessageId) {
        self.said.said.entry((dev, peer)).or_default().push(id);
    }

    /// A liar tells a message that must come to nothing.
    pub(crate) fn on_unlawful_message(&mut self, id: [u8; 16], rule: &'static str) {
        self.said.unlawful.insert(MessageId(id), rule);
    }

    /// A liar says that a message has come.
    pub(crate) fn on_said_receipt(&mut self, id: [u8; 16]) {
        self.said.receipted.insert(MessageId(id));
    }

    /// An owner is told of a message.
    pub(super) fn on_message_event(&mut self, world: &World, dev: Dev, event: &Event) {
        match event {
            Event::MessageQueued { id, .. } => {
                let stored = world.has_message_row(dev, MESSAGES_OUT, *id);
                self.said.queued.insert((dev, *id));
                self.check("S35", stored, || format!("device {} says that a message waits that is not durable", dev.0));
            }
            Event::Message { device, id } => self.on_came(world, dev, *device, *id),
            Event::MessageReceipt { device, id, state } => {
                self.on_message_end(world, dev, *id);
                self.on_receipt(world, (dev, *device), *id, *state);
            }
            Event::MessageExpired { id, .. } => {
                self.said.queued.insert((dev, *id));
                self.on_message_end(world, dev, *id);
            }
            Event::MessageNotStored { id, .. } => self.on_message_end(world, dev, *id),
            // What was said is forgotten with the device: it may come once more.
            Event::Removed { device } => {
                self.forget_said(world, dev, *device);
            }
            _ => {}
        }
    }

    /// The same where a new pairing comes before that is durable, and is written instead.
    pub(super) fn forget_said(&mut self, world: &World, dev: Dev, device: DeviceId) {
        let Some(peer) = world.dev_of_id(device) else { return };
        self.said.last.remove(&(dev, peer));
        let said = self.said.said.get(&(peer, dev)).cloned().unwrap_or_default();
        self.said.there.retain(|(of, id)| *of != dev || !said.contains(id));
    }

    /// S15: it was said, it is there once, and what was said before it came before it or never comes.
    fn on_came(&mut self, world: &World, dev: Dev, from: DeviceId, id: MessageId) {
        let stored = world.has_message_row(dev, MESSAGES_IN, id);
        self.check("S35", stored, || format!("device {} is told of a message that is not durable", dev.0));
        if let Some(&rule) = self.said.unlawful.get(&id) {
            self.broken(rule, || format!("device {} took a message that it had to refuse", dev.0));
        }
        let peer = world.dev_of_id(from).filter(|peer| peer.0 < world.honest && !self.liars.contains(peer));
        let Some(peer) = peer.filter(|peer| self.in_budget(&[dev, *peer])) else { return };
        let place = self.said.said.get(&(peer, dev)).and_then(|said| said.iter().position(|said| *said == id));
        self.check("S15", place.is_some(), || format!("device {} got a message that device {} never sent", dev.0, peer.0));
        // It has no receipt yet, so it still waits there, or its owner was told that it did.
        let durable = self.said.queued.contains(&(peer, id)) || world.has_message_row(peer, MESSAGES_OUT, id);
        self.check("S35", durable, || format!("device {} told a message that is not durable", peer.0));
        let new = self.said.there.insert((dev, id));
        self.check("S15", new, || format!("device {} got a message of device {} twice", dev.0, peer.0));
        let last = self.said.last.insert((dev, peer), place.unwrap_or(0));
        self.check("S15", last.is_none_or(|last| Some(last) < place), || {
            format!("device {} got messages of device {} out of their order", dev.0, peer.0)
        });
    }

    /// S16: delivered is what is there; of a liar, what it said is there.
    fn on_receipt(&mut self, world: &World, (dev, to): (Dev, DeviceId), id: MessageId, state: MessageState) {
        let liar = world.dev_of_id(to).is_some_and(|peer| peer.0 >= world.honest);
        let believed = liar && !self.said.receipted.contains(&id);
        self.check("S16", !believed, || format!("device {} hears of a receipt that nobody said", dev.0));
        let peer = world.dev_of_id(to).filter(|peer| peer.0 < world.honest && !self.liars.contains(peer));
        let Some(peer) = peer.filter(|peer| self.in_budget(&[dev, *peer])) else { return };
        // Its owner may not have been told: the device may have crashed in between.
        let pair = (peer, world.id(dev));
        let forgotten = self.undone.contains(&pair) || self.forgetting.contains_key(&pair);
        let there = forgotten || world.has_message_row(peer, MESSAGES_SEEN, id);
        let delivered = state == MessageState::Delivered;
        let refused = state == MessageState::Refused && self.may_refuse(peer, dev);
        self.check("S16", there || !delivered, || format!("device {} hears that a message was delivered to device {}", dev.0, peer.0));
        self.check("S15", delivered || refused, || format!("device {} hears {state:?} of a message to device {}", dev.0, peer.0));
    }

    fn on_message_end(&mut self, world: &World, dev: Dev, id: MessageId) {
        let once = self.said.ended.insert((dev, world.life(dev), id));
        self.check("S25", once, || format!("device {} was told twice of the end of a message", dev.0));
    }

    /// S17: no queue is longer than it may be.
    pub(super) fn check_queues(&mut self, world: &World, dev: Dev) {
        let peers: Vec<Dev> = self.said.said.keys().filter(|(of, _)| *of == dev).map(|(_, peer)| *peer).collect();
        for peer in peers {
            let (waiting, bytes) = world.node_of(dev).map_or((0, 0), |node| node.probe_queue(world.id(peer)));
            let bounded = waiting <= limits::MESSAGES_QUEUED && bytes <= limits::MESSAGE_BYTES_QUEUED;
            self.check("S17", bounded, || format!("{waiting} messages of {bytes} bytes wait at device {}", dev.0));
        }
    }

    /// S17: nothing waits for longer than it may, where the clocks went as they should.
    pub(crate) fn check_expired(&mut self, world: &World, dev: Dev) {
        let device = &world.devices[dev.0];
        let odd = device.unix_shift != 0 || device.asleep_until > 0 || device.store_busy + 1_000_000 > world.micros();
        let over = world.unix_s(dev).saturating_sub(5);
        let peers = self.said.said.keys().filter(|(of, _)| *of == dev && !odd).map(|(_, peer)| *peer);
        let old = peers.filter(|peer| world.queued_messages(dev, *peer).iter().any(|message| message.unix_s <= over)).count();
        self.check("S17", old == 0, || format!("messages of device {} still wait whose time is over", dev.0));
    }

    /// L4: what waits for a device with which a session stands has gone there.
    pub(crate) fn check_gone(&mut self, world: &World, one: Dev, other: Dev) {
        for (dev, peer) in [(one, other), (other, one)] {
            let waiting = world.node_of(dev).map_or(0, |node| node.probe_messages(world.id(peer)));
            self.check("L4", waiting == 0, || format!("{waiting} messages of device {} still wait for device {}", dev.0, peer.0));
        }
    }
}
