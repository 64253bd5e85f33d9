//! What a transfer came to: every entry has one outcome, both sides name the same sum, and what is whole is durable.

use std::collections::BTreeMap;

use protocol_core::effects::{Direction, Summary, TransferKey};
use protocol_core::faults::TransferFailure;
use protocol_core::ids::{SessionRef, TransferId};
use protocol_core::limits;
use protocol_core::transfer::receipt::Outcome;

use super::{Oracle, Told};
use crate::disk::{Item, Tree};
use crate::{Dev, World};

/// What was told of transfers.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// How entries ended.
    outcomes: BTreeMap<(Dev, u32, TransferKey), BTreeMap<u32, Outcome>>,
    /// What receivers said at the end.
    received: BTreeMap<(Dev, TransferId), Summary>,
    /// The session in which an offer was shown.
    shown: BTreeMap<(Dev, u32, TransferKey), SessionRef>,
}

/// The session in which a device speaks with another.
pub(super) fn spoken(world: &World, dev: Dev, peer: Dev) -> Option<SessionRef> {
    let key = world.key(peer);
    let sessions = world.node_of(dev)?.probe_sessions();
    sessions.iter().find(|session| session.primary && session.peer == key).map(|session| session.session_ref)
}

/// What these outcomes come to, for a tree.
fn sum(tree: &Tree, outcomes: &BTreeMap<u32, Outcome>) -> Summary {
    let mut sum = Summary::default();
    for (item, outcome) in tree.values().zip(outcomes.values()) {
        match (outcome, item) {
            (Outcome::Stored | Outcome::Renamed, Item::File(content)) => {
                sum.files += 1;
                sum.bytes += content.len() as u64;
                sum.renamed += u64::from(*outcome == Outcome::Renamed);
            }
            (Outcome::Stored | Outcome::Renamed, Item::Directory | Item::Link(_)) => {}
            (Outcome::Skipped, _) => sum.skipped += 1,
            (Outcome::Failed | Outcome::SourceChanged | Outcome::Other(_), _) => sum.failed += 1,
        }
    }
    sum
}

impl Oracle {
    pub(super) fn note_outcome(&mut self, world: &World, dev: Dev, key: TransferKey, entry: u32, outcome: Outcome) {
        self.sums.outcomes.entry((dev, world.life(dev), key)).or_default().insert(entry, outcome);
    }

    /// An offer is shown, perhaps once more.
    pub(super) fn note_begun(&mut self, world: &World, dev: Dev, key: TransferKey) {
        self.sums.outcomes.remove(&(dev, world.life(dev), key));
        self.note_session(world, dev, key);
    }

    /// An offer is shown, or a transfer goes on, in the session that stands.
    pub(super) fn note_session(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let place = (dev, world.life(dev), key);
        // What came on a session that another has replaced may be lost with that (XFER-24).
        let peer = world.dev_of_id(key.device).filter(|peer| {
            let key = world.key(*peer);
            let sessions = world.node_of(dev).map(protocol_core::node::Node::probe_sessions).unwrap_or_default();
            sessions.iter().filter(|session| session.peer == key).count() == 1
        });
        match peer.and_then(|peer| spoken(world, dev, peer)) {
            Some(session) => drop(self.sums.shown.insert(place, session)),
            None => drop(self.sums.shown.remove(&place)),
        }
    }

    /// XFER-14: at the end of a transfer every entry has its outcome, and the sum is that of these. XFER-15: where nothing failed,
    /// all is durable, and both sides know it.
    pub(super) fn check_sum(&mut self, world: &World, dev: Dev, key: TransferKey, told: Summary) {
        let place = (dev, world.life(dev), key);
        let incoming = key.direction == Direction::Incoming;
        // What was there already each side counts from its own last interruption.
        self.check("XFER-25", told.resumed <= told.bytes || told.failed + told.skipped > 0, || {
            format!("device {} took {} bytes of {} over from an earlier try", dev.0, told.resumed, told.bytes)
        });
        let told = Summary { resumed: 0, ..told };
        let peer = world.dev_of_id(key.device).filter(|peer| !self.liars.contains(peer));
        let Some(peer) = peer else { return };
        let tree = if incoming { self.truth(world, dev, &key) } else { self.offered.get(&(dev, key.device, key.id)) };
        let Some(tree) = tree.cloned() else { return };
        let outcomes = self.sums.outcomes.get(&place).cloned().unwrap_or_default();
        let all = outcomes.len() == tree.len();
        self.check("XFER-14", all, || {
            format!("device {} was told how {} of {} entries ended, and that all is done", dev.0, outcomes.len(), tree.len())
        });
        // A source that failed may have arrived before: of that the two sides may tell different stories.
        let right = if incoming { Some(sum(&tree, &outcomes)) } else { self.sums.received.get(&(peer, key.id)).copied() };
        self.check("XFER-14", right.is_none_or(|right| right == told), || format!("device {} was told {told:?} and not {right:?}", dev.0));
        if incoming {
            self.sums.received.insert((dev, key.id), told);
        }
        let durable = self.told.get(&place).map_or(0, |told| told.durable);
        let whole = told.failed + told.skipped == 0;
        self.check("XFER-15", !whole || durable == told.bytes, || {
            format!("device {} has {} bytes that arrived, and was told of {durable} that are durable", dev.0, told.bytes)
        });
    }

    /// XFER-21: who was shown an offer loses it with the session in which that was, and with no other.
    pub(super) fn check_lost(&mut self, world: &World, dev: Dev, key: TransferKey, reason: TransferFailure) {
        let shown = self.sums.shown.get(&(dev, world.life(dev), key)).copied();
        if reason != TransferFailure::Lost || key.direction == Direction::Outgoing || shown.is_none() {
            return;
        }
        let now = world.dev_of_id(key.device).and_then(|peer| spoken(world, dev, peer));
        self.check("XFER-21", now != shown, || format!("device {} loses a transfer whose session stands", dev.0));
    }

    /// XFER-18: an owner may have as many offers open as the limit says, and no fewer.
    pub(crate) fn check_too_many(&mut self, world: &World, dev: Dev, peer: Dev) {
        let (life, device) = (world.life(dev), world.id(peer));
        let open = |&(&(of, of_life, key), told): &(&(Dev, u32, TransferKey), &Told)| {
            of == dev && of_life == life && key.device == device && key.direction == Direction::Outgoing && !told.ended
        };
        let open = self.told.iter().filter(open).count();
        self.check("XFER-18", open >= limits::OPEN_OFFERS, || format!("device {} may not offer more than {open} trees", dev.0));
    }
}
