//! What is asked of devices that nothing disturbs, or little: nothing ends that nobody wanted to end, and what ends, ends on both
//! sides.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::effects::{Direction, Event, TransferKey};
use protocol_core::faults::{CancelReason, LinkFailure, PairFailure, TransferFailure};
use protocol_core::ids::{DeviceId, SessionId, SessionRef};
use protocol_core::limits;
use protocol_core::node::probe::{Machine, RootProbe, SessionProbe, Trust, number_of_transfer};

use super::sums::spoken;
use super::{Oracle, stored};
use crate::script::LATE;
use crate::{Dev, World};

/// Time that a device may take for what needs no time, in microseconds.
const SOON: u64 = 3_000_000;

/// What was seen that something must follow from.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// Who sent the Complete of a pairing, and when.
    completed: BTreeMap<SessionId, (Dev, u64)>,
    /// Whose owner did not want to join after all, and when.
    refused: BTreeMap<SessionId, (Dev, u64)>,
    /// Joiners that have said who they are.
    responded: BTreeSet<(Dev, SessionId)>,
    /// What owners were asked: which device, in which life, about which pairing, and when.
    questions: Vec<(Dev, u32, SessionId, u64)>,
    /// Devices that typed their own codes: which of their two parts a word is about, it does not say.
    pub(super) selves: BTreeSet<Dev>,
    /// When a device was told that it speaks with another no more.
    parted: BTreeMap<(Dev, DeviceId), u64>,
    /// Transfers that lost their session, and when.
    orphans: BTreeMap<(Dev, u32, TransferKey), u64>,
    /// When transfers were begun.
    shared: BTreeMap<(Dev, u32, TransferKey), u64>,
    /// When a device was told last that it speaks with another.
    met: BTreeMap<(Dev, DeviceId), u64>,
    /// When transfers ended.
    ended: BTreeMap<(Dev, u32, TransferKey), u64>,
    /// Transfers that ended on one side, in a session that stood.
    partings: Vec<Parting>,
    /// Addresses where nobody is that a joiner has dialled.
    nowhere: BTreeMap<Dev, BTreeSet<String>>,
    /// Entries whose end was told.
    entries: BTreeSet<(Dev, u32, TransferKey, u32)>,
    /// Streams over which a joiner has heard a Complete, and owes a no.
    owes: Vec<usize>,
    /// Sessions that an owner has ended.
    left: BTreeSet<(Dev, DeviceId)>,
    /// When an owner wanted to speak with a device no more. Owners who forget, or shut down, are in no calm world.
    leaving: BTreeMap<(Dev, DeviceId), u64>,
    /// Sessions that a device did not know when a data stream of theirs came, which it refused.
    unknown: BTreeSet<(Dev, SessionRef)>,
}

/// What a frame of a handshake says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Response,
    /// Of an initiator: not about what the device has as a joiner.
    Complete,
    Accept,
    /// The peer will be sure of it.
    Finish,
}

/// A transfer that has ended on one side: the other is to hear of it, as long as their session stands.
#[derive(Clone, Copy, Debug)]
struct Parting {
    ended: (Dev, TransferKey),
    other: (Dev, u32, TransferKey),
    session: SessionRef,
    at: u64,
}

/// A transfer of a device, as its peer calls it.
fn mirrored(world: &World, dev: Dev, key: TransferKey) -> TransferKey {
    let direction = if key.direction == Direction::Incoming { Direction::Outgoing } else { Direction::Incoming };
    TransferKey { device: world.id(dev), direction, id: key.id }
}

impl Calm {
    /// What has ended at a device is begun anew there: a sender that goes on goes on with that.
    pub(super) fn on_begun(&mut self, dev: Dev, key: TransferKey) {
        self.partings.retain(|parting| parting.ended != (dev, key));
    }
}

impl Oracle {
    fn honest_id(&self, world: &World, device: DeviceId) -> bool {
        world.dev_of_id(device).is_some_and(|dev| !self.liars.contains(&dev))
    }

    // Pairing.

    /// An initiator sends its last word: about the code that it has out.
    pub(super) fn on_complete(&mut self, world: &World, dev: Dev) {
        let session = self.begun.keys().find(|(of, _, shows)| *of == dev && *shows).map(|(_, session, _)| *session);
        self.calm.completed.extend(session.map(|session| (session, (dev, world.micros()))));
    }

    /// A joiner says who it is.
    pub(super) fn on_responded(&mut self, dev: Dev) {
        let session = self.begun.keys().find(|(of, _, shows)| *of == dev && !*shows).map(|(_, session, _)| *session);
        self.calm.responded.extend(session.map(|session| (dev, session)));
    }

    pub(super) fn begins(&mut self, dev: Dev, session: SessionId) {
        self.calm.responded.remove(&(dev, session));
        self.calm.nowhere.remove(&dev);
    }

    /// PAIR-35: after its Response a joiner does not give up for a stream that ends.
    pub(super) fn check_given_up(&mut self, world: &World, dev: Dev, session: SessionId, reason: PairFailure) {
        self.check_search(world, dev, reason);
        if reason == PairFailure::RefusedHere {
            self.calm.refused.insert(session, (dev, world.micros()));
            if self.begun.contains_key(&(dev, session, false)) && !self.calm.selves.contains(&dev) {
                self.calm.owes.extend(world.completed(dev));
            }
        }
        let responded = self.calm.responded.remove(&(dev, session));
        let gives_up = matches!(reason, PairFailure::NotAccepted | PairFailure::NotFound | PairFailure::NoEntropy);
        self.check("PAIR-35", !(responded && gives_up), || format!("device {} gives a pairing up behind its Response: {reason}", dev.0));
    }

    /// PAIR-33: a joiner whose owner said no, and that had heard the Complete before, says so to its initiator.
    pub(super) fn check_refusals(&mut self, world: &World, dev: Dev) {
        let (own, others) = self.calm.owes.iter().partition(|stream| world.device_of(**stream, 0) == dev);
        self.calm.owes = others;
        let own: Vec<usize> = own;
        let untold = own.into_iter().find(|stream| world.completed(dev).contains(stream));
        self.check("PAIR-33", untold.is_none(), || format!("device {} does not tell its initiator that its owner said no", dev.0));
    }

    pub(super) fn on_question(&mut self, world: &World, dev: Dev, session: SessionId) {
        self.calm.questions.push((dev, world.life(dev), session, world.micros()));
    }

    /// An attempt is over, and what was asked about it. Whoever types the code again begins another.
    ///
    /// PAIR-25, PAIR-28: that is within two minutes, if nobody answered.
    pub(super) fn no_question(&mut self, world: &World, dev: Dev, session: SessionId) {
        let over = limits::USER_WAIT.as_micros() as u64 + SOON;
        let said = self.yes.contains(&(dev, session));
        let late = self
            .calm
            .questions
            .iter()
            .any(|&(of, life, about, asked)| (of, life, about) == (dev, world.life(dev), session) && asked + over < world.micros());
        self.check("PAIR-25", said || !late || !self.manners.prompt, || {
            format!("a question to the owner of device {} was open for too long", dev.0)
        });
        self.calm.questions.retain(|&(of, _, about, _)| (of, about) != (dev, session));
    }

    /// PAIR-25, PAIR-28: a question that nobody answers is open for two minutes.
    pub(crate) fn check_questions(&mut self, world: &World) {
        let over = limits::USER_WAIT.as_micros() as u64 + SOON;
        let open = self.calm.questions.iter().find(|&&(dev, life, session, asked)| {
            let waits = |shows| self.begun.get(&(dev, session, shows)) == Some(&life);
            world.life(dev) == life && asked + over < world.micros() && !self.yes.contains(&(dev, session)) && (waits(true) || waits(false))
        });
        let open = open.map(|(dev, ..)| dev.0).filter(|_| self.manners.prompt);
        self.check("PAIR-25", open.is_none(), || format!("a question to the owner of device {open:?} is still open"));
    }

    /// PAIR-33, PAIR-37, PAIR-47: where nothing was disturbed, a root is held by both or by none.
    pub(crate) fn check_shared(&mut self, world: &World, one: Dev, other: Dev) {
        let pairing = |dev: Dev| world.node(dev).probe_holdings().pairing;
        if !self.manners.calm || pairing(one) || pairing(other) {
            return;
        }
        let held = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            world.node(dev).probe_roots().into_iter().filter(move |root| root.peer == peer)
        };
        let theirs: Vec<_> = held(other, one).map(|root| root.session_ref).collect();
        // Two pairings that crossed leave one too many, until the next contact (PAIR-49).
        if held(one, other).any(|root| theirs.contains(&root.session_ref)) {
            return;
        }
        let alone = held(one, other).find(|root| !matches!(root.trust, Trust::Provisional { .. }));
        let travels = world.latency.0 + world.latency.1 + 100_000;
        // Whoever says no before the Complete is there cannot tell its initiator.
        let early = self.calm.refused.iter().any(|(session, (dev, at))| {
            let completed = self.calm.completed.get(session).filter(|(dev, _)| *dev == one);
            *dev == other && self.codes.contains_key(&(one, *session)) && completed.is_none_or(|(_, sent)| sent + travels >= *at)
        });
        self.check("PAIR-47", alone.is_none() || early, || {
            format!("nothing disturbed them, and device {} holds a root of device {} that this does not hold", one.0, other.0)
        });
    }

    /// PAIR-23, PAIR-29, PAIR-32, LINK-9: what a message of a handshake says is durable when it leaves. A device knows no more of a
    /// pairing than its store does, unless it is busy with another pairing of the two.
    pub(super) fn check_said(&mut self, world: &World, dev: Dev, peer: Dev, said: Said) {
        let (Some(node), key) = (world.node_of(dev), world.key(peer)) else { return };
        // A no says nothing of what is stored, and its owner is about to hear of it.
        let shows = |session: &SessionId| self.begun.contains_key(&(dev, *session, true));
        let fails = |event: &Event| matches!(event, Event::PairFailed { session, .. } if shows(session));
        if said == Said::Complete && node.probe_told().any(fails) {
            return;
        }
        let kept: BTreeMap<SessionRef, Trust> =
            stored(world, dev).filter(|root| root.peer == key).map(|root| (root.session_ref, root.trust)).collect();
        let meant = |root: &RootProbe| root.peer == key && !(said == Said::Complete && matches!(root.trust, Trust::Provisional { .. }));
        let of_peer: Vec<_> = node.probe_roots().into_iter().filter(meant).collect();
        let durable = |trust: Trust, session_ref: &SessionRef| match (trust, kept.get(session_ref)) {
            (_, None) => false,
            (Trust::Confirmed, Some(kept)) => !(said == Said::Finish && matches!(kept, Trust::Provisional { .. })),
            (Trust::Unconfirmed | Trust::Provisional { .. }, Some(_)) => true,
        };
        // A root that is being replaced is in the store alone, and good for a session.
        let replaced = |(session_ref, trust): (&SessionRef, &Trust)| {
            *trust == Trust::Confirmed && !of_peer.iter().any(|root| root.session_ref == *session_ref)
        };
        let any = of_peer.is_empty() || kept.iter().any(replaced) || of_peer.iter().any(|root| durable(root.trust, &root.session_ref));
        self.check("S5", any, || format!("device {} says to device {} what its store does not hold yet", dev.0, peer.0));
    }

    /// S5, S6: with no write under way the store holds what the device knows.
    pub(crate) fn check_stored(&mut self, world: &World, dev: Dev) {
        let Some(node) = world.node_of(dev).filter(|_| !self.over_budget.contains(&dev)) else { return };
        let device = &world.devices[dev.0];
        if device.store_busy + 15_000_000 > world.micros() || device.asleep_until > world.micros() {
            return;
        }
        self.check_stored_blocks(world, dev);
        let knows: BTreeSet<_> = node.probe_roots().into_iter().map(|root| (root.peer, root.session_ref, kind(root.trust))).collect();
        let kept: BTreeSet<_> = stored(world, dev).map(|root| (root.peer, root.session_ref, kind(root.trust))).collect();
        self.check("S5", knows == kept, || {
            let differ: Vec<_> = knows.symmetric_difference(&kept).map(|(_, session_ref, kind)| (session_ref, kind)).collect();
            format!("device {}: store and memory hold different roots: {differ:?}", dev.0)
        });
    }

    /// PAIR-49: two that are each sure of a root that they share have one in common, whatever else they began.
    pub(crate) fn check_common(&mut self, world: &World, one: Dev, other: Dev) {
        let sure = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            world.node(dev).probe_roots().into_iter().any(move |root| root.peer == peer && root.trust == Trust::Confirmed)
        };
        // Of too many that came to nothing the oldest are dropped.
        let few = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            self.kept.keys().filter(|(of, with, _)| *of == dev && *with == peer).count() <= limits::PENDING_ROOTS_PER_DEVICE
        };
        let asked = self.in_budget(&[one, other]) && few(one, other) && few(other, one);
        let apart = asked && sure(one, other) && sure(other, one);
        self.check("PAIR-49", !apart, || {
            format!("devices {} and {} are each sure of the other, and have no root in common", one.0, other.0)
        });
    }

    // Sessions.

    /// A device speaks with another no more.
    pub(super) fn on_parted(&mut self, world: &World, dev: Dev, device: DeviceId, reason: LinkFailure) {
        let (now, life) = (world.micros(), world.life(dev));
        self.calm.parted.insert((dev, device), now);
        let open = |&(&(of, of_life, key), told): &(&(Dev, u32, TransferKey), &super::Told)| {
            of == dev && of_life == life && key.device == device && !told.ended
        };
        self.calm.orphans.extend(self.told.iter().filter(open).map(|(key, _)| (*key, now)));
        if self.honest_id(world, device) {
            let wanted = matches!(reason, LinkFailure::Closed | LinkFailure::Ended);
            // Where the other's owner has just ended it, a session that was on its way to replace it is cut.
            let peer = world.dev_of_id(device).and_then(|peer| self.calm.parted.get(&(peer, world.id(dev))));
            let left = peer.is_some_and(|at| at + 3 * SOON >= now);
            // LINK-12: of two sessions that crossed one goes on, so the end of the other is told to nobody.
            let fair = !wanted || self.is_wanted(world, (dev, device), reason) || self.is_over_age(world, dev, device);
            self.check("L6", !self.manners.calm || fair, || {
                format!("device {} hears of the end of a session that no owner ended: {reason}", dev.0)
            });
            let closed = reason != LinkFailure::Closed || self.calm.left.remove(&(dev, device));
            self.check("LINK-16", !self.manners.calm || closed, || format!("device {} ended a session that its owner did not end", dev.0));
            // A pairing takes the place of the root that the session is of, and may cross with it.
            let pairs = self.is_pairing_anew(world, dev, device);
            self.check("L6", !self.manners.calm || wanted || left || pairs, || {
                format!("device {} lost a session that nothing disturbed: {reason}", dev.0)
            });
            let violation = self.manners.untouched && reason == LinkFailure::Violation;
            self.check("DATA-17", !violation, || format!("device {} takes an honest device for a liar", dev.0));
        }
    }

    /// Whether a device has paired with another, a moment ago or without knowing yet that the other holds it.
    fn is_pairing_anew(&self, world: &World, dev: Dev, device: DeviceId) -> bool {
        let peer = world.dev_of_id(device).map(|peer| world.key(peer));
        let young = |root: &RootProbe| self.since.get(&(dev, root.session_ref)).is_some_and(|since| since + 5 * SOON >= world.micros());
        let open = |root: &RootProbe| {
            Some(root.peer) == peer && (matches!(root.trust, Trust::Unconfirmed | Trust::Provisional { .. }) || young(root))
        };
        world.node_of(dev).is_some_and(|node| node.probe_roots().iter().any(open))
    }

    /// Whether the owner who can have ended a session in this way did so, a short while ago at most.
    fn is_wanted(&self, world: &World, (dev, device): (Dev, DeviceId), reason: LinkFailure) -> bool {
        let peers = || world.dev_of_id(device).map(|peer| (peer, world.id(dev)));
        let who = if reason == LinkFailure::Closed { Some((dev, device)) } else { peers() };
        who.and_then(|who| self.calm.leaving.get(&who)).is_some_and(|at| at + 5 * SOON >= world.micros())
    }

    /// Whether the session that a device was told of last is as old as one may be.
    fn is_over_age(&self, world: &World, dev: Dev, device: DeviceId) -> bool {
        let most = limits::SESSION_LIFE.as_micros() as u64;
        self.calm.met.get(&(dev, device)).is_some_and(|met| met + most <= world.micros() + SOON)
    }

    /// An owner ends a session.
    pub(crate) fn on_left(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.calm.left.insert((dev, device));
        self.calm.leaving.insert((dev, device), world.micros());
        self.on_wish_to_leave(world, dev, device);
    }

    /// DATA-13: a device has refused a data stream of a session that it did not know; it will not know it soon.
    pub(crate) fn on_unknown(&mut self, dev: Dev, session_ref: SessionRef) {
        self.calm.unknown.insert((dev, session_ref));
    }

    pub(super) fn check_unknown(&mut self, dev: Dev, session_ref: SessionRef) {
        let refused = self.manners.untouched && self.calm.unknown.contains(&(dev, session_ref));
        self.check("DATA-13", !refused, || format!("device {} refused a data stream that was faster than its session", dev.0));
    }

    /// HOST-14: an owner has ended a session, and the other side hears that it was ended.
    pub(crate) fn check_goodbye(&mut self, heard: Option<LinkFailure>, dev: Dev) {
        self.check("HOST-14", heard == Some(LinkFailure::Ended), || {
            format!("device {} was left in order, and hears of it: {heard:?}", dev.0)
        });
    }

    // Transfers.

    /// A transfer came to nothing, for this reason.
    pub(super) fn check_failed(&mut self, world: &World, dev: Dev, key: TransferKey, reason: TransferFailure) {
        if !self.honest_id(world, key.device) {
            return;
        }
        let violation = self.manners.untouched && reason == TransferFailure::Violation;
        self.check("DATA-17", !violation, || format!("device {} takes an honest device for a liar", dev.0));
        let patience = limits::AWAY.as_micros() as u64 + 10 * SOON;
        let parted = self.calm.parted.get(&(dev, key.device)).is_some_and(|at| at + patience >= world.micros());
        let stands = world.dev_of_id(key.device).is_some_and(|peer| world.has_session(dev, peer));
        let fair = match reason {
            TransferFailure::CancelledHere(reason) | TransferFailure::CancelledThere(reason) => reason == CancelReason::User,
            TransferFailure::Lost => parted || !stands,
            _ => true,
        };
        self.check("L3", !self.manners.calm || fair, || format!("device {} gives up a transfer that nothing disturbed: {reason}", dev.0));
    }

    pub(super) fn on_transfer_over(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let place = (dev, world.life(dev), key);
        self.calm.orphans.remove(&place);
        self.calm.ended.insert(place, world.micros());
        let peer = world.dev_of_id(key.device).filter(|peer| world.is_up(*peer) && !self.liars.contains(peer));
        let Some(peer) = peer.filter(|_| self.manners.flows && self.manners.prompt) else { return };
        let other = (peer, world.life(peer), mirrored(world, dev, key));
        let session = spoken(world, dev, peer).filter(|session| spoken(world, peer, dev) == Some(*session));
        if let Some(session) = session.filter(|_| self.told.get(&other).is_some_and(|told| !told.ended)) {
            self.calm.partings.push(Parting { ended: (dev, key), other, session, at: world.micros() });
        }
    }

    /// XFER-17: what ended on one side ends on the other, if the session in which it ended stands: control messages are not lost.
    pub(super) fn check_partings(&mut self, world: &World, dev: Dev) {
        let late = 3 * SOON + 2 * (world.latency.0 + world.latency.1);
        let due = |parting: &mut Parting| parting.ended.0 == dev && parting.at + late < world.micros();
        let due: Vec<Parting> = self.calm.partings.extract_if(.., due).collect();
        for Parting { ended: (dev, key), other, session, .. } in due {
            let peer = other.0;
            let stands = spoken(world, dev, peer) == Some(session) && spoken(world, peer, dev) == Some(session);
            let open = world.life(peer) == other.1 && self.told.get(&other).is_some_and(|told| !told.ended);
            let fair = !(self.manners.flows && self.manners.prompt && stands && open);
            self.check("XFER-17", fair, || format!("{key:?} ended at device {}, and device {} goes on", dev.0, peer.0));
        }
    }

    /// XFER-14: how an entry ended is told once.
    pub(super) fn check_once(&mut self, world: &World, dev: Dev, key: TransferKey, entry: u32) {
        let fresh = self.calm.entries.insert((dev, world.life(dev), key, entry));
        self.check("XFER-14", fresh, || format!("device {} was told twice how entry {entry} ended", dev.0));
    }

    /// A transfer is offered (again): its entries have not ended.
    pub(super) fn on_begins(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let life = world.life(dev);
        self.calm.entries.retain(|(of, of_life, of_key, _)| (*of, *of_life, *of_key) != (dev, life, key));
    }

    /// XFER-21: a transfer waits for its next session for so long, and then for its disk.
    pub(super) fn check_orphans(&mut self, world: &World, dev: Dev) {
        if self.calm.orphans.is_empty() || !self.manners.prompt || world.devices[dev.0].disk_busy + SOON > world.micros() {
            return;
        }
        let (life, patience) = (world.life(dev), limits::AWAY.as_micros() as u64 + SOON);
        let late = self.calm.orphans.iter().find(|&(&(of, of_life, key), at)| {
            let alone = world.dev_of_id(key.device).is_none_or(|peer| spoken(world, dev, peer).is_none());
            of == dev && of_life == life && at + patience < world.micros() && alone
        });
        let late = late.map(|((_, _, key), _)| *key);
        self.check("XFER-21", late.is_none(), || {
            format!("device {} waits for ever with a transfer whose session is lost: {late:?}", dev.0)
        });
    }

    /// XFER-17: where nothing was disturbed, or little, what ended on one side has ended on the other.
    pub(crate) fn check_both_ended(&mut self, world: &World) {
        // What is late, and what waits behind it.
        let patience = if self.manners.calm { SOON } else { SOON + 2 * LATE * 1_000 };
        let asked = self.manners.calm || self.manners.late;
        let alone = self.calm.ended.iter().find(|&(&(dev, life, key), at)| {
            let Some(peer) = world.dev_of_id(key.device).filter(|peer| world.is_up(*peer)) else { return false };
            let direction = if key.direction == Direction::Incoming { Direction::Outgoing } else { Direction::Incoming };
            let theirs = TransferKey { device: world.id(dev), direction, id: key.id };
            let told = self.told.get(&(peer, world.life(peer), theirs));
            world.life(dev) == life && at + patience < world.micros() && told.is_some_and(|told| !told.ended)
        });
        let alone = alone.map(|(&(dev, _, key), _)| (dev, key));
        self.check("XFER-17", !asked || alone.is_none(), || format!("a transfer ended on one side alone: {alone:?}"));
    }

    pub(super) fn note_shared(&mut self, world: &World, dev: Dev, key: TransferKey) {
        self.calm.shared.insert((dev, world.life(dev), key), world.micros());
    }

    /// XFER-24: where nothing was disturbed, or all was healed, an offer is known to whom it is for, if the two have spoken long
    /// enough.
    pub(crate) fn check_heard(&mut self, world: &World, healed: bool) {
        // What was damaged before all was healed is noticed when its pages do not come.
        let patience = if healed { limits::PAGE_WAIT.as_micros() as u64 + 10 * SOON } else { 5 * SOON };
        let unheard = self.calm.shared.iter().find(|&(&(dev, life, key), at)| {
            let Some(peer) = world.dev_of_id(key.device).filter(|peer| world.is_up(*peer) && !self.liars.contains(peer)) else {
                return false;
            };
            let theirs = TransferKey { device: world.id(dev), direction: Direction::Incoming, id: key.id };
            let known = self.told.contains_key(&(peer, world.life(peer), theirs)) || is_reading(world, peer, &theirs);
            let ended = self.told.get(&(dev, life, key)).is_none_or(|told| told.ended);
            let old = |session: &SessionProbe| session.primary && session.peer == world.key(peer);
            let spoken = world.node_of(dev).is_some_and(|node| node.probe_sessions().iter().any(old));
            let since = self.calm.met.get(&(dev, key.device)).copied().unwrap_or(u64::MAX).max(*at);
            world.life(dev) == life && !known && !ended && spoken && since.saturating_add(patience) < world.micros()
        });
        let unheard = unheard.map(|(&(dev, _, key), _)| (dev, key));
        let asked = self.manners.calm || healed;
        self.check("XFER-24", !asked || unheard.is_none(), || format!("nobody has heard of an offer: {unheard:?}"));
    }

    pub(super) fn on_met(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.calm.met.insert((dev, device), world.micros());
    }

    /// PAIR-43: a joiner dials no more addresses than it may try.
    pub(crate) fn on_dial(&mut self, dev: Dev, to: &str) {
        // Only joiners are sent to where nobody ever was.
        if !to.contains("host99") {
            return;
        }
        let dialled = self.calm.nowhere.entry(dev).or_default();
        dialled.insert(to.to_owned());
        let nowhere = dialled.len();
        self.check("PAIR-43", nowhere <= limits::JOINER_CANDIDATES, || format!("device {} dials {nowhere} addresses for one code", dev.0));
    }
}

/// Whether a device has an offer of which its owner has not heard yet.
fn is_reading(world: &World, dev: Dev, key: &TransferKey) -> bool {
    let id = number_of_transfer(key);
    let states = world.node_of(dev).map(protocol_core::node::Node::probe_states).unwrap_or_default();
    states.iter().any(|at| at.machine == Machine::Receiver && at.id == id)
}

/// A root's trust as a number, to be compared.
const fn kind(trust: Trust) -> u8 {
    match trust {
        Trust::Confirmed => 0,
        Trust::Unconfirmed => 1,
        Trust::Provisional { agreed: false } => 2,
        Trust::Provisional { agreed: true } => 3,
    }
}
