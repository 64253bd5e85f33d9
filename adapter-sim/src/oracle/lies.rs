//! What must hold of devices that an enemy speaks with: each lie is told here, and what it may not lead to is checked here.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::effects::{Direction, TransferKey};
use protocol_core::faults::PairFailure;
use protocol_core::ids::{PeerKey, SessionId, TransferId};
use protocol_core::limits;

use super::{Oracle, Told};
use crate::disk::{Arrived, Item, Tree};
use crate::link::Wire;
use crate::{Dev, World};

/// Lies that were told, and what came of them.
#[derive(Debug, Default)]
pub(super) struct Lies {
    /// Whom a joiner told who it is, under one code.
    responses: BTreeMap<(Dev, SessionId), BTreeSet<PeerKey>>,
    /// Joiners whose false initiator did not say yes, and the root that this is about.
    refused: BTreeMap<(Dev, SessionId), [u8; 32]>,
    /// Digests that a sender named.
    named: BTreeSet<(TransferId, u32, [u8; 32])>,
    /// Offers that no owner may be shown.
    unlawful: BTreeSet<TransferId>,
    /// Transfers of which a receiver says that it has what it has not.
    false_receipts: BTreeSet<TransferId>,
    /// Challenges that a device has sent under its newest code.
    challenges: BTreeMap<Dev, u32>,
    /// Right tags under its newest code with keys that are no good.
    unchallenged: BTreeMap<Dev, u32>,
    /// Codes that honest devices typed, and when they did last.
    typed: BTreeMap<(SessionId, Dev), u64>,
    /// Chunks that were written.
    written: BTreeSet<(Dev, u32, TransferKey, u64)>,
}

impl Oracle {
    /// S2: a joiner's Response reached somebody, on a stream of this age; `refuses`: who will not say yes to this root.
    pub(crate) fn on_response(&mut self, joiner: Dev, (session, born): (SessionId, u64), key: PeerKey, refuses: Option<[u8; 32]>) {
        if self.lies.typed.get(&(session, joiner)).is_none_or(|typed| born < *typed) {
            // That was an earlier attempt.
            return;
        }
        let told = self.lies.responses.entry((joiner, session)).or_default();
        told.insert(key);
        let count = told.len();
        self.check("S2", count == 1, || format!("device {} told {count} identities who it is", joiner.0));
        if let Some(root) = refuses {
            self.lies.refused.insert((joiner, session), root);
        }
    }

    /// An initiator that said no uses the root all the same: whoever joined and has not heard the no may take that for a yes, for
    /// nobody else has that root.
    pub(crate) fn on_root_used(&mut self, root: &[u8; 32]) {
        self.lies.refused.retain(|_, refused| refused != root);
    }

    pub(super) fn on_shown(&mut self, dev: Dev) {
        self.lies.challenges.remove(&dev);
        self.lies.unchallenged.remove(&dev);
    }

    /// A code is typed, once more perhaps: that is a new attempt.
    pub(super) fn on_typed(&mut self, world: &World, dev: Dev, session: SessionId) {
        self.lies.typed.insert((session, dev), world.micros());
        self.lies.responses.remove(&(dev, session));
        self.lies.refused.remove(&(dev, session));
    }

    /// A device has heard, or will hear, a right tag from one whose keys are no good; if its code is void by then, it does not look.
    pub(crate) fn on_unchallenged(&mut self, dev: Dev) {
        *self.lies.unchallenged.entry(dev).or_default() += 1;
    }

    /// A device has challenged somebody.
    pub(crate) fn on_challenge(&mut self, dev: Dev) {
        let challenges = self.lies.challenges.entry(dev).or_default();
        *challenges += 1;
        let challenges = *challenges;
        self.check("PAIR-18", challenges <= limits::CODE_HANDSHAKES, || {
            format!("device {} admits {challenges} handshakes of one code", dev.0)
        });
    }

    /// A5: only who has the words can burn a code, and he was challenged.
    pub(super) fn check_burned(&mut self, world: &World, dev: Dev, reason: PairFailure) {
        let of = |counts: &BTreeMap<Dev, u32>| counts.get(&dev).copied().unwrap_or(0);
        let challenges = of(&self.lies.challenges) + of(&self.lies.unchallenged);
        // On bare TCP anybody can make a handshake fail.
        let least = if world.devices[dev.0].wire == Wire::Tcp { limits::CODE_HANDSHAKES } else { limits::CODE_FAILURES };
        // A right tag that there was no randomness to answer counts as well.
        let silent = world.devices[dev.0].random.failed;
        let fair = reason != PairFailure::Burned || challenges + silent >= least;
        self.check("A5", fair, || format!("device {} burns its code after {challenges} right tags", dev.0));
    }

    /// PAIR-39, PAIR-18: a code under which enough failed is void; nobody else had it.
    pub(crate) fn check_void(&mut self, world: &World, dev: Dev, session: SessionId) {
        let lives = self.begun.get(&(dev, session, true)).is_some_and(|life| *life == world.life(dev));
        let alone = !self.lies.typed.keys().any(|(typed, _)| *typed == session);
        self.check("S23", !lives || !alone, || format!("device {} goes on with a code under which enough has failed", dev.0));
    }

    /// A3: whoever joined is not paired with one that did not say yes.
    pub(super) fn check_refused(&mut self, dev: Dev, session: SessionId, confirmed: bool) {
        let refused = confirmed && self.lies.refused.contains_key(&(dev, session));
        self.check("A3", !refused, || format!("device {} is paired with one that did not say yes", dev.0));
    }

    /// A liar named the digest of an entry.
    pub(crate) fn on_named(&mut self, transfer: TransferId, entry: u32, digest: [u8; 32]) {
        self.lies.named.insert((transfer, entry, digest));
    }

    /// A liar offers what no owner may be shown.
    pub(crate) fn on_unlawful(&mut self, transfer: TransferId) {
        self.lies.unlawful.insert(transfer);
    }

    /// A liar says that it has what it has not.
    pub(crate) fn on_false_receipt(&mut self, transfer: TransferId) {
        self.lies.false_receipts.insert(transfer);
    }

    /// An offer was made again and taken again: what was said of it before has not arrived.
    pub(crate) fn on_taken_again(&mut self, transfer: TransferId) {
        self.lies.false_receipts.remove(&transfer);
    }

    /// D1: a false receipt is not believed.
    pub(super) fn check_receipt(&mut self, dev: Dev, key: TransferKey) {
        let lied = self.lies.false_receipts.contains(&key.id);
        self.check("D1", !lied, || format!("device {} believes a false receipt", dev.0));
    }

    /// The tree that a device offers to somebody.
    pub(crate) fn offered_tree(&self, sender: Dev, key: TransferKey) -> Option<&Tree> {
        self.offered.get(&(sender, key.device, key.id))
    }

    /// DATA-23: a chunk was claimed; it has the length that the layout gives it.
    pub(crate) fn on_claim(&mut self, dev: Dev, index: u64, right: bool) {
        self.check("DATA-23", right, || format!("device {} takes chunk {index}, which has not its length", dev.0));
    }

    /// D2: a chunk was written; it is not written twice, unless what an earlier try left of its file turned out to be spoilt.
    pub(crate) fn on_chunk(&mut self, world: &World, dev: Dev, key: TransferKey, index: u64) {
        let fresh = self.lies.written.insert((dev, world.life(dev), key, index));
        self.check("D2", fresh || world.disk(dev).has_taken_over(&key), || format!("device {} wrote chunk {index} twice", dev.0));
    }

    /// S15, S23: an owner is shown an offer.
    pub(super) fn check_offer(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let unlawful = self.lies.unlawful.contains(&key.id);
        self.check("S15", !unlawful, || format!("device {} shows its owner what it had to decline", dev.0));
        self.lies.written.retain(|(of, _, written, _)| *of != dev || *written != key);
        let life = world.life(dev);
        let open = |&(&(of, of_life, of_key), told): &(&(Dev, u32, TransferKey), &Told)| {
            of == dev && of_life == life && of_key.device == key.device && of_key.direction == Direction::Incoming && !told.ended
        };
        let count = self.told.iter().filter(open).count();
        self.check("S23", count <= limits::OPEN_OFFERS, || format!("device {} has {count} offers of one peer", dev.0));
    }

    /// D1: what a liar sent stands under its name only if it is what the liar said it is.
    pub(super) fn check_named(&mut self, world: &World, dev: Dev) {
        let disk = world.disk(dev);
        let unnamed = disk.arrived().iter().find(|(path, of)| self.is_unnamed(world, disk.files.get(*path), of));
        let unnamed = unnamed.map(|(path, _)| path.clone());
        self.check("D1", unnamed.is_none(), || format!("device {}: {unnamed:?} is not what its sender said it was", dev.0));
        let outside = disk.files.keys().any(|path| path.iter().any(|part| part == b".." || part == b"."));
        self.check("S15", !outside, || format!("device {} wrote outside of its directory", dev.0));
    }

    fn is_unnamed(&self, world: &World, item: Option<&Item>, of: &Arrived) -> bool {
        let Some(sender) = world.dev_of_id(of.key.device).filter(|sender| self.liars.contains(sender)) else { return false };
        let Some(Item::File(content)) = item else { return false };
        // What is empty has one digest only, and nobody needs to say it.
        let said = || self.lies.named.contains(&(of.key.id, of.entry, *blake3::hash(content).as_bytes()));
        sender.0 >= world.honest && !content.is_empty() && !said()
    }

    /// Whether a transfer waits for a liar, which may let its peer wait as a user may.
    pub(super) fn awaits_liar(&self, world: &World, key: TransferKey) -> bool {
        let liar = world.dev_of_id(key.device).is_some_and(|dev| self.liars.contains(&dev));
        liar && key.direction == Direction::Outgoing
    }
}
