//! What must come before what: proof before bytes (S24), consent before files (S13), durability before words (S35), and no deadline
//! that is over (S33).

use protocol_core::effects::{Direction, FileOp, TransferKey};
use protocol_core::node::probe::{Machine, Trust};
use protocol_core::wire::deframer::StreamName;

use super::{Oracle, stored};
use crate::coverage::Edge;
use crate::{Dev, World};

/// How much more than it has got a device may say to somebody who has proved nothing.
const AMPLIFICATION: u64 = 3;
/// Ticks that a Node may ask for at one moment.
const TICKS: u32 = 8;
/// What an owner is told at one moment, at most, without anything having come from outside.
const EVENTS: usize = 64;

impl Oracle {
    /// S24: the first word of a side that was called is no longer than what it heard allows.
    pub(crate) fn check_first_word(&mut self, dev: Dev, got: u64, said: u64) {
        self.check("S24", said <= AMPLIFICATION * got, || format!("device {} answered {got} bytes with {said}", dev.0));
    }

    /// S35: a Response leaves when the pending root is durable (PAIR-23).
    pub(crate) fn check_response(&mut self, world: &World, dev: Dev, name: Option<StreamName>, (by_opener, frame): (bool, u32)) {
        if (name, by_opener, frame) == (Some(StreamName::Pair), true, 2) {
            let pending = stored(world, dev).any(|root| matches!(root.trust, Trust::Provisional { .. }));
            self.check("S35", pending, || format!("device {} sent a Response before its root was durable", dev.0));
        }
    }

    /// S35: Complete 0 leaves when the record is durable (PAIR-29), Ack when the confirmation is (PAIR-32).
    pub(crate) fn check_told_of(&mut self, world: &World, dev: Dev, edge: Edge) {
        let durable = match edge {
            (Machine::Initiator, "Storing", "=Done") => {
                stored(world, dev).any(|root| matches!(root.trust, Trust::Unconfirmed | Trust::Confirmed))
            }
            (Machine::Stream, "Joiner", "Control") => stored(world, dev).any(|root| root.trust == Trust::Confirmed),
            _ => return,
        };
        self.check("S35", durable, || format!("device {} said yes before that was durable", dev.0));
    }

    /// S13: nothing is written before the owner took it.
    pub(crate) fn check_consent(&mut self, dev: Dev, key: TransferKey, op: FileOp, taken: bool) {
        // What is offered may be read.
        let free = matches!(op, FileOp::Inspect | FileOp::Discard) || key.direction == Direction::Outgoing;
        self.check("S13", free || taken, || format!("device {} does {op:?} for {key:?}, which nobody took", dev.0));
    }

    /// S33: a Node that was told what time it is does not ask for that moment again and again, nor talk without end.
    pub(crate) fn check_ticks(&mut self, dev: Dev, ticks: u32, told: usize) {
        self.check("S33", ticks <= TICKS, || format!("device {} asked {ticks} times for one moment", dev.0));
        self.check("S33", told <= EVENTS, || format!("device {} told its owner {told} things at one moment", dev.0));
    }

    /// S7: one key has one id, and one id one key.
    pub(crate) fn check_identities(&mut self, world: &World, dev: Dev) {
        let devices = world.devices(dev);
        let right = devices.iter().all(|view| protocol_core::identity::device_id(&view.key) == view.id);
        let ids: std::collections::BTreeSet<_> = devices.iter().map(|view| view.id).collect();
        self.check("S7", right && ids.len() == devices.len(), || format!("device {} confuses devices", dev.0));
    }
}
