//! What must hold, checked from above while a world runs: the oracle sees every device, every store and every disk at once.
//!
//! Every rule has the id of docs/SIMULATION.md. The first rule that is broken ends the run: whatever comes after it may only be
//! a consequence. Devices that lie are left out of what is said about honest ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol_core::effects::{DeviceState, Direction, Event, FileOp, TransferKey};
use protocol_core::faults::LinkFailure;
use protocol_core::ids::{DeviceId, PeerKey, SessionId, SessionRef, TransferId};
use protocol_core::limits;
use protocol_core::node::probe::{Holdings, Print, RootProbe, Trust, stored_roots};
use protocol_core::records::{Change, DEVICES, Record};
use protocol_core::transfer::receipt::Outcome;

use crate::disk::{Item, Tree};
use crate::script::Manners;
use crate::{Dev, World};

mod aead;
mod calm;
mod faster;
mod lies;
mod lookup;
mod order;
mod partings;
mod resume;
mod said;
mod sums;
mod wire;

pub use aead::{Recorder, recording_cipher};
use calm::Calm;
use faster::Dialled;
use lies::Lies;
use lookup::Looked;
use partings::{Awake, Partings};
use said::Said;
use sums::Sums;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's id.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

/// One root as it was ever durable on a device.
#[derive(Clone, Copy, Debug)]
struct Kept {
    print: Print,
    /// It was confirmed.
    confirmed: bool,
    /// It was a joiner's: provisional first.
    joined: bool,
}

/// A transfer as one side told its owner of it.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    durable: u64,
    ended: bool,
    done: bool,
}

/// A code that was shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// When it expires.
    until: u64,
    admitted: usize,
}

/// The god of a world.
#[derive(Debug, Default)]
pub struct Oracle {
    violation: Option<Violation>,
    /// Devices without keys of ours, and devices whose word means nothing.
    liars: BTreeSet<Dev>,
    /// State was rolled back or wiped: agreement is over, secrecy and integrity are not.
    pub(crate) over_budget: BTreeSet<Dev>,
    kept: BTreeMap<(Dev, PeerKey, SessionRef), Kept>,
    /// Whose user or policy said yes to whom, under which code.
    yes: BTreeSet<(Dev, SessionId)>,
    /// Pairings to which a policy says yes.
    automatic: BTreeSet<(Dev, SessionId)>,
    /// Which pairing a root came from, as its device said.
    asked: BTreeMap<(Dev, DeviceId), BTreeSet<SessionId>>,
    codes: BTreeMap<(Dev, SessionId), Shown>,
    /// Pairings, connects and transfers that an owner began, and the life in which that was.
    begun: BTreeMap<(Dev, SessionId, bool), u32>,
    connecting: BTreeMap<(Dev, DeviceId), u32>,
    told: BTreeMap<(Dev, u32, TransferKey), Told>,
    /// What senders offered.
    offered: BTreeMap<(Dev, DeviceId, TransferId), Tree>,
    /// Receivers that said that everything is there.
    received: BTreeSet<(Dev, TransferId)>,
    /// Roots that an owner wants forgotten, and those that are.
    forgetting: BTreeMap<(Dev, DeviceId), VecDeque<Vec<Print>>>,
    forgotten: BTreeSet<(Dev, DeviceId, Print)>,
    /// What stood at destinations before.
    pub(crate) foreign: BTreeMap<(Dev, Vec<Vec<u8>>), Item>,
    lies: Lies,
    looked: Looked,
    calm: Calm,
    sums: Sums,
    resume: resume::Resume,
    said: Said,
    partings: Partings,
    awake: BTreeMap<Dev, Awake>,
    dialled: Dialled,
    /// What never happens in this world.
    manners: Manners,
    /// Ephemeral keys that honest devices have sent.
    ephemerals: BTreeSet<[u8; 32]>,
    /// How often a device heard that a peer ended a session, and was shown an offer.
    ends: BTreeMap<Dev, u64>,
    offers: BTreeMap<Dev, u64>,
    /// When a root was first to be written.
    since: BTreeMap<(Dev, SessionRef), u64>,
    /// When a device's present life began.
    started: BTreeMap<Dev, u64>,
    /// Roots that were durable and agreed when the device last wrote, and when they expire by its wall clock.
    agreed: BTreeMap<Dev, BTreeSet<(PeerKey, SessionRef, Option<u64>)>>,
    /// Those of them that were over by its wall clock when it asked for a write.
    expired: BTreeSet<(Dev, SessionRef)>,
    /// Roots that have just left a store.
    gone: Vec<(Dev, DeviceId, SessionRef)>,
    /// Peers with whom a device was told that a pairing came to nothing, or that it was removed.
    undone: BTreeSet<(Dev, DeviceId)>,
    prints: BTreeMap<SessionRef, BTreeMap<Dev, (Print, Print, bool)>>,
    /// The most that any device held.
    pub(crate) most: Holdings,
}

impl Oracle {
    /// Of a world in which such things never happen.
    pub(crate) fn new(manners: Manners) -> Self {
        Self { manners, ..Self::default() }
    }

    /// From now on something disturbs the devices that the script does not hold.
    pub(crate) fn disturb(&mut self) {
        self.manners = Manners::default();
    }

    /// What was broken first.
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A rule is broken, unless another was before.
    pub(crate) fn broken(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, what: what() });
        }
    }

    pub(crate) fn check(&mut self, rule: &'static str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(rule, what);
        }
    }

    /// What this device says means nothing.
    pub(crate) fn distrust(&mut self, dev: Dev) {
        self.liars.insert(dev);
    }

    fn honest(&self, world: &World, key: &PeerKey) -> Option<Dev> {
        world.dev_of(key).filter(|dev| !self.liars.contains(dev))
    }

    fn in_budget(&self, devs: &[Dev]) -> bool {
        devs.iter().all(|dev| !self.over_budget.contains(dev))
    }

    // What owners do.

    pub(crate) fn on_invite(&mut self, world: &World, dev: Dev, session: SessionId, ttl: u64, automatic: bool) {
        self.on_shown(dev);
        self.asks_for_any(dev);
        self.codes.insert((dev, session), Shown { until: world.micros() + ttl, admitted: 0 });
        self.on_begun(world, dev, session, true, automatic);
    }

    pub(crate) fn on_join(&mut self, world: &World, dev: Dev, session: SessionId, automatic: bool) {
        self.on_typed(world, dev, session);
        self.asks_for_any(dev);
        self.on_begun(world, dev, session, false, automatic);
    }

    fn on_begun(&mut self, world: &World, dev: Dev, session: SessionId, shows: bool, automatic: bool) {
        let life = world.life(dev);
        let other = self.begun.iter().any(|(&(of, _, role), &of_life)| of == dev && role == shows && of_life == life);
        if self.begun.contains_key(&(dev, session, !shows)) {
            self.calm.selves.insert(dev);
        }
        self.check("PAIR-41", !other || self.calm.selves.contains(&dev), || format!("device {} begins a pairing beside another", dev.0));
        self.begins(dev, session);
        self.begun.insert((dev, session, shows), world.life(dev));
        if automatic {
            self.automatic.insert((dev, session));
            self.yes.insert((dev, session));
        }
    }

    pub(crate) fn on_yes(&mut self, dev: Dev, session: SessionId) {
        self.yes.insert((dev, session));
    }

    pub(crate) fn on_connect(&mut self, world: &World, dev: Dev, peer: DeviceId) {
        self.connecting.insert((dev, peer), world.life(dev));
        self.on_asked(world, dev, peer);
    }

    pub(crate) fn not_connecting(&mut self, dev: Dev, peer: DeviceId) {
        self.connecting.remove(&(dev, peer));
    }

    /// Pairings that a device has begun and that have not ended.
    pub(crate) fn pairings_of(&self, dev: Dev) -> Vec<SessionId> {
        self.begun.keys().filter(|(of, ..)| *of == dev).map(|&(_, session, _)| session).collect()
    }

    /// Transfers of a device's present life that have not ended.
    pub(crate) fn transfers_of(&self, world: &World, dev: Dev) -> Vec<TransferKey> {
        let life = world.life(dev);
        self.told
            .iter()
            .filter(|&(&(of, of_life, _), told)| of == dev && of_life == life && !told.ended)
            .map(|(&(_, _, key), _)| key)
            .collect()
    }

    pub(crate) fn on_share(&mut self, world: &World, dev: Dev, key: TransferKey, tree: &Tree) {
        self.offered.insert((dev, key.device, key.id), tree.clone());
        // It may have ended within the call.
        self.told.entry((dev, world.life(dev), key)).or_default();
        self.note_shared(world, dev, key);
        self.note_sent(world, key.id);
        self.on_asked(world, dev, key.device);
    }

    /// An owner is about to forget a device: once it hears that this is done, its roots may never be seen here again.
    pub(crate) fn on_forget(&mut self, world: &World, dev: Dev, peer: DeviceId) {
        self.on_parting(world, dev, peer);
        self.forget_said(world, dev, peer);
        let of_peer = world.node(dev).probe_roots().into_iter().filter(|root| of_device(world, root, peer));
        self.forgetting.entry((dev, peer)).or_default().push_back(of_peer.map(|root| root.print).collect());
    }

    /// Whether that is under way.
    pub(crate) fn is_forgetting(&self, dev: Dev, peer: DeviceId) -> bool {
        self.forgetting.contains_key(&(dev, peer))
    }

    // What happens.

    /// A Node has taken something in.
    pub(crate) fn on_handled(&mut self, world: &World, dev: Dev) {
        if let Some((rule, what)) = Recorder::take_violation() {
            self.broken(rule, || format!("{what}, at device {}", dev.0));
        }
        // The owner is told when the write is durable, so after the store has changed.
        for (of, device, session_ref) in std::mem::take(&mut self.gone) {
            let asked = self.forgetting.contains_key(&(of, device));
            let undone = self.undone.contains(&(of, device)) || of != dev || asked;
            self.check("S5", undone, || format!("device {} lost the root of {session_ref}, and nobody was told", dev.0));
        }
        let Some(held) = world.node_of(dev).map(protocol_core::node::Node::probe_holdings) else { return };
        let devices = world.devices_len();
        let bounds = [
            ("unproved streams", held.streams.1, limits::UNPROVED_STREAMS),
            (
                "streams",
                held.streams.0,
                limits::UNPROVED_STREAMS + devices * (8 * (2 + limits::BULK_STREAMS + limits::OPEN_OFFERS) + limits::PROTOCOL_STREAMS),
            ),
            ("early streams", held.early.0, limits::UNPROVED_STREAMS + limits::EARLY_STREAMS * held.sessions),
            ("records on early streams", held.early.1, limits::EARLY_STREAMS * limits::EARLY_RECORDS * (1 + held.sessions)),
            ("devices", held.devices, limits::DEVICES),
            ("dials and streams of a joiner", held.joining, limits::JOINER_CONNECTIONS),
            ("dials to devices", held.dialling, limits::JOINER_CONNECTIONS * held.dialers),
            ("unfinished roots of a device", held.unfinished_roots, limits::PENDING_ROOTS_PER_DEVICE),
            ("seconds of a session's life", held.oldest_session.as_secs() as usize, limits::SESSION_LIFE_GRACE.as_secs() as usize + 5),
            ("sessions", held.sessions, devices * 16),
            ("sessions that are heard out", held.heard_out, limits::SUCCESSIONS),
            ("offers to one peer", held.most_of_peer.0, limits::OPEN_OFFERS),
            ("offers of one peer", held.most_of_peer.1, limits::OPEN_OFFERS),
            ("bulk streams that one peer opened", held.most_of_peer.2, limits::BULK_STREAMS),
            ("streams of protocols with one device", held.protocols, limits::PROTOCOL_STREAMS),
            ("tickets of what is over", held.unwanted, 0),
            (
                "timers",
                held.timers,
                8 * (held.conns + held.streams.0 + held.sessions + held.dialers + held.transfers.0 + held.transfers.1 + 16)
                    // Its unfinished roots, its messages, and the next attempt to reach it.
                    + held.devices * (limits::PENDING_ROOTS_PER_DEVICE + 2),
            ),
        ];
        for (what, has, bound) in bounds {
            self.check("S23", has <= bound, || format!("device {} holds {has} {what}, the bound is {bound}", dev.0));
        }
        self.check_orphans(world, dev);
        self.check_dialled_for(world, dev);
        self.check_faster(world, dev);
        self.check_queues(world, dev);
        self.check_refusals(world, dev);
        self.check_partings(world, dev);
        self.check_parted(world, dev);
        self.most.streams.0 = self.most.streams.0.max(held.streams.0);
        self.most.sessions = self.most.sessions.max(held.sessions);
        self.most.timers = self.most.timers.max(held.timers);
    }

    /// A device writes.
    pub(crate) fn on_persist(&mut self, world: &World, dev: Dev, batch: &[Change]) {
        let rows = batch.iter().filter_map(|change| Some((change.table, &change.key[..], change.value.as_ref()?.bytes())));
        for root in roots_in(world.key(dev), rows) {
            self.since.entry((dev, root.session_ref)).or_insert(world.micros());
        }
        let unix_s = world.unix_s(dev);
        let over = |expires: Option<u64>| expires.is_some_and(|expires| expires <= unix_s);
        let over = self.agreed.get(&dev).into_iter().flatten().filter(|(.., expires)| over(*expires));
        self.expired.extend(over.map(|&(_, session_ref, _)| (dev, session_ref)));
    }

    /// A write has become durable.
    pub(crate) fn on_durable(&mut self, world: &World, dev: Dev) {
        let roots: Vec<RootProbe> = stored(world, dev).collect();
        for root in &roots {
            self.keep(world, dev, root);
        }
        self.check_kept(world, dev, &roots);
        self.note_blocks(world, dev);
    }

    /// S5, PAIR-35: what was agreed to stays until it is replaced, undone as its owner was told, or a day old.
    fn check_kept(&mut self, world: &World, dev: Dev, roots: &[RootProbe]) {
        let lasting = |root: &&RootProbe| !matches!(root.trust, Trust::Provisional { agreed: false });
        let now = roots.iter().filter(lasting).map(|root| (root.peer, root.session_ref, root.expires)).collect();
        let before = self.agreed.insert(dev, now).unwrap_or_default();
        if self.over_budget.contains(&dev) {
            return;
        }
        for (peer, session_ref, expires) in before {
            let there = roots.iter().any(|root| root.session_ref == session_ref);
            let of_peer = || roots.iter().filter(|root| root.peer == peer);
            let replaced = of_peer().any(|root| root.trust == Trust::Confirmed) || of_peer().count() >= limits::PENDING_ROOTS_PER_DEVICE;
            let since = self.since.get(&(dev, session_ref)).copied().unwrap_or(0);
            // It expires at a full second.
            let old = world.micros().saturating_sub(since) + 1_000_000 >= DAY;
            // A wall clock that jumps ends a day too, also if it has jumped back when that is durable.
            let old = old || expires.is_some_and(|expires| expires <= world.unix_s(dev)) || self.expired.contains(&(dev, session_ref));
            if !(there || replaced || old) {
                self.gone.push((dev, protocol_core::identity::device_id(&peer), session_ref));
            }
        }
    }

    /// What must hold of a root that a device holds durably (A2, A3, K1).
    fn keep(&mut self, world: &World, dev: Dev, root: &RootProbe) {
        let RootProbe { peer, session_ref, print, trust, .. } = *root;
        let kept = self.kept.entry((dev, peer, session_ref)).or_insert(Kept {
            print,
            confirmed: false,
            joined: matches!(trust, Trust::Provisional { .. }),
        });
        let news = trust == Trust::Confirmed && !kept.confirmed;
        kept.confirmed |= trust == Trust::Confirmed;
        let (same, joined) = (kept.print == print, kept.joined);
        self.check("K1", same, || format!("device {} changed the root of {session_ref}", dev.0));
        let forgotten = self.forgotten.contains(&(dev, protocol_core::identity::device_id(&peer), print));
        self.check("S6", !forgotten || !news, || format!("device {} holds a root again that it has forgotten", dev.0));
        let Some(other) = self.honest(world, &peer) else { return };
        let theirs = self.kept.get(&(other, world.key(dev), session_ref)).copied();
        if let Some(theirs) = theirs {
            self.check("K1", theirs.print == print, || format!("devices {} and {} hold different roots of {session_ref}", dev.0, other.0));
        }
        if !news || !self.in_budget(&[dev, other]) {
            return;
        }
        let rule = if joined { "A2" } else { "A3" };
        let holds = theirs.is_some_and(|theirs| joined || theirs.confirmed);
        self.check(rule, holds, || format!("device {} is sure of {session_ref}, and device {} is not: {theirs:?}", dev.0, other.0));
        let agreed = self.agreed(world, dev, other);
        self.check("A3", agreed, || format!("device {} is sure of device {} without its owner's yes", dev.0, other.0));
    }

    /// Whether an owner said yes to a pairing with that device.
    fn agreed(&self, world: &World, dev: Dev, other: Dev) -> bool {
        // Nobody is asked where the policy says yes, so nobody says with whom that was.
        let by_policy = self.automatic.iter().any(|&(of, _)| of == dev);
        let sessions = self.asked.get(&(dev, world.id(other)));
        by_policy || sessions.is_some_and(|sessions| sessions.iter().any(|&session| self.yes.contains(&(dev, session))))
    }

    /// An owner is told something.
    pub(crate) fn on_event(&mut self, world: &World, dev: Dev, event: &Event) {
        self.on_message_event(world, dev, event);
        self.on_parting_event(world, dev, event);
        self.on_resume(world, dev, event);
        if let Event::Removed { device } = event {
            // Each wish is told of once.
            let wanted = self.forgetting.get_mut(&(dev, *device)).and_then(VecDeque::pop_front);
            self.forgetting.retain(|_, wishes| !wishes.is_empty());
            self.check("LINK-8", wanted.is_some(), || format!("device {} has removed a device, and its owner did not want that", dev.0));
            let roots = wanted.unwrap_or_default();
            self.forgotten.extend(roots.into_iter().map(|print| (dev, *device, print)));
        }
        match event {
            Event::PairRequest { session, peer, .. } => {
                self.asked.entry((dev, peer.device)).or_default().insert(*session);
                self.on_question(world, dev, *session);
            }
            Event::Paired { session, peer, confirmed, .. } => self.on_paired(world, dev, *session, peer.device, *confirmed),
            Event::PairConfirmed { device } => {
                // That it is confirmed may be forgotten: the next contact shows it again. The pairing itself may not.
                let there = stored(world, dev).any(|root| of_device(world, &root, *device));
                self.check("S5", there, || {
                    format!("device {} was told that a pairing is confirmed, and the store does not hold it", dev.0)
                });
            }
            Event::PairFailed { session, reason } => {
                self.check_burned(world, dev, *reason);
                self.check_given_up(world, dev, *session, *reason);
                self.on_pair_failed(world, dev, *session);
            }
            Event::PairUnfinished { session, .. } => self.end_pairing(world, dev, *session),
            Event::PairRefused { device, .. } => {
                self.undone.insert((dev, *device));
                let left =
                    world.node(dev).probe_roots().iter().any(|root| of_device(world, root, *device) && root.trust == Trust::Unconfirmed);
                // A liar may have other pairings, of which nobody was asked.
                let liar = world.dev_of_id(*device).is_some_and(|peer| self.liars.contains(&peer));
                let by_policy = self.automatic.iter().filter(|(of, _)| *of == dev).count();
                let more = liar || self.asked.get(&(dev, *device)).map_or(0, BTreeSet::len) + by_policy > 1;
                self.check("A3", !left || more, || format!("device {} holds the root of a pairing that the other side refused", dev.0));
            }
            Event::Device { device, .. } | Event::ConnectFailed { device, .. } | Event::Removed { device } => {
                if matches!(event, Event::Removed { .. }) {
                    self.undone.insert((dev, *device));
                }
                if matches!(event, Event::Device { reason: Some(LinkFailure::Ended), .. }) {
                    self.on_ended(dev);
                }
                if matches!(event, Event::Device { state: DeviceState::Connected, .. }) {
                    self.on_met(world, dev, *device);
                }
                if let Event::Device { state: DeviceState::Disconnected, reason: Some(reason), .. } = event {
                    self.on_parted(world, dev, *device, *reason);
                }
                self.connecting.remove(&(dev, *device));
                self.on_sessions(world, dev);
            }
            Event::Progress { transfer, moved, durable, total } => {
                self.check_durable(world, dev, transfer, *durable);
                let told = self.told.entry((dev, world.life(dev), *transfer)).or_default();
                let (before, ended) = (std::mem::replace(&mut told.durable, *durable), told.ended);
                self.check("S28", before <= *durable && *durable <= *total && *moved <= *total, || {
                    format!("device {} went from {before} to {durable} of {total} bytes, {moved} moved", dev.0)
                });
                self.check("S25", !ended, || format!("device {} was told of progress after the end", dev.0));
            }
            Event::Entry { transfer, entry, outcome, digest, .. } => self.on_entry(world, dev, *transfer, *entry, *outcome, *digest),
            Event::Done { transfer, summary } => {
                self.on_done(world, dev, *transfer);
                self.check_sum(world, dev, *transfer, *summary);
            }
            Event::Failed { transfer, reason } => {
                self.check_failed(world, dev, *transfer, *reason);
                self.check_lost(world, dev, *transfer, *reason);
                self.check_carried(world, dev, *transfer, *reason);
                self.end_transfer(world, dev, *transfer, false);
            }
            Event::Offered { transfer, .. } | Event::Accepted { transfer } => {
                let ended = self.told.entry((dev, world.life(dev), *transfer)).or_default().ended;
                let again = transfer.direction == Direction::Incoming;
                if again {
                    self.check_offer(world, dev, *transfer);
                }
                self.check("S25", !ended || again, || format!("device {} was told of a transfer after its end", dev.0));
                if again && matches!(event, Event::Offered { .. }) {
                    self.on_offered(dev);
                }
                if again {
                    self.calm.on_begun(dev, *transfer);
                    self.on_begins(world, dev, *transfer);
                    self.note_begun(world, dev, *transfer);
                    self.told.insert((dev, world.life(dev), *transfer), Told::default());
                }
            }
            Event::BadRecord { .. } => {
                self.check("L9", self.over_budget.contains(&dev), || format!("device {} cannot read its own store", dev.0));
            }
            _ => {}
        }
    }

    /// A pairing has ended. A device that typed its own code hears it once for each of its roles.
    fn end_pairing(&mut self, world: &World, dev: Dev, session: SessionId) {
        let ended = self.begun.remove(&(dev, session, false)).or_else(|| self.begun.remove(&(dev, session, true)));
        self.no_question(world, dev, session);
        self.check("S25", ended.is_some(), || format!("device {} was told of the end of a pairing that does not run", dev.0));
    }

    /// What came to nothing may take its root with it.
    fn on_pair_failed(&mut self, world: &World, dev: Dev, session: SessionId) {
        self.end_pairing(world, dev, session);
        let of_session = self.asked.iter().filter(|((of, _), sessions)| *of == dev && sessions.contains(&session));
        let peers: Vec<DeviceId> = of_session.map(|((_, peer), _)| *peer).collect();
        self.undone.extend(peers.into_iter().map(|peer| (dev, peer)));
        if self.automatic.contains(&(dev, session)) {
            // Nobody was asked, so nobody knows with whom it was.
            self.undone.extend((0..world.devices_len()).map(|peer| (dev, world.id(Dev(peer)))));
        }
    }

    fn on_paired(&mut self, world: &World, dev: Dev, session: SessionId, peer: DeviceId, confirmed: bool) {
        self.end_pairing(world, dev, session);
        // S5: what is told is durable.
        let wanted =
            |trust: Trust| if confirmed { trust == Trust::Confirmed } else { matches!(trust, Trust::Confirmed | Trust::Unconfirmed) };
        let durable = stored(world, dev).any(|root| of_device(world, &root, peer) && wanted(root.trust));
        self.check("S5", durable, || format!("device {} was told of a pairing that is not durable", dev.0));
        let holds = world.node_of(dev).is_none_or(|node| node.probe_roots().iter().any(|root| of_device(world, root, peer)));
        self.check("S6", holds, || format!("device {} says that it is paired with a device that was forgotten", dev.0));
        self.check_refused(dev, session, confirmed);
        let said = self.yes.contains(&(dev, session));
        self.check("A3", said, || format!("device {} is paired without its owner's yes", dev.0));
        // When it was decided: a slow disk answers later, and who sleeps with the write under way hears of it when it wakes.
        let roots = world.node_of(dev).map(|node| node.probe_roots()).unwrap_or_default();
        let of_peer = roots.iter().filter(|root| of_device(world, root, peer));
        let decided = of_peer.filter_map(|root| self.since.get(&(dev, root.session_ref))).max().copied().unwrap_or_else(|| world.micros());
        if let Some(shown) = self.codes.get_mut(&(dev, session)) {
            // A joiner of its own code hears that it is confirmed.
            shown.admitted += usize::from(!confirmed);
            let (admitted, late) = (shown.admitted, decided.saturating_sub(shown.until));
            self.check("A1", admitted <= 1, || format!("device {} let {admitted} devices in under one code", dev.0));
            let most = limits::HANDSHAKE_WAIT.as_micros() as u64;
            self.check("A4", late <= most, || format!("device {} accepted {late} µs after its code ended", dev.0));
        }
    }

    /// K1: both sides of a session hold the same two secrets, each the other way round.
    fn on_sessions(&mut self, world: &World, dev: Dev) {
        let Some(node) = world.node_of(dev) else { return };
        for session in node.probe_sessions() {
            let (out, input) = session.prints;
            self.check("K1", out != input, || format!("both directions of session {} have one key", session.session_ref));
            let sides = self.prints.entry(session.session_ref).or_default();
            sides.insert(dev, (out, input, session.we_opened));
            let crossed =
                sides.iter().all(|(other, side)| *other == dev || (side.0 == input && side.1 == out && side.2 != session.we_opened));
            let count = sides.len();
            self.check("K1", crossed, || format!("the two sides of session {} do not match", session.session_ref));
            self.check("S1", count <= 2, || format!("{count} devices hold session {}", session.session_ref));
            self.check_unknown(dev, session.session_ref);
            let removed = node.probe_roots().iter().all(|root| root.peer != session.peer);
            self.check("S6", !removed, || format!("device {} has a session with a device that it does not know", dev.0));
        }
    }

    // Transfers.

    /// The tree that a transfer was offered with, if its sender is honest.
    fn truth(&self, world: &World, dev: Dev, key: &TransferKey) -> Option<&Tree> {
        let sender = world.dev_of_id(key.device).filter(|sender| !self.liars.contains(sender))?;
        self.offered.get(&(sender, world.id(dev), key.id))
    }

    fn on_entry(&mut self, world: &World, dev: Dev, key: TransferKey, entry: u32, outcome: Outcome, digest: Option<[u8; 32]>) {
        let ended = self.told.entry((dev, world.life(dev), key)).or_default().ended;
        self.check("S25", !ended, || format!("device {} was told of an entry after the end", dev.0));
        self.check_once(world, dev, key, entry);
        self.note_outcome(world, dev, key, entry, outcome);
        let stands = matches!(outcome, Outcome::Stored | Outcome::Renamed);
        if key.direction == Direction::Incoming
            && stands
            && let Some(digest) = digest
        {
            let here = world.disk(dev).arrived().iter().find(|(_, of)| of.key == key && of.entry == entry);
            let content = here.and_then(|(path, _)| world.disk(dev).files.get(path));
            let right = matches!(content, Some(Item::File(content)) if *blake3::hash(content).as_bytes() == digest);
            self.check("D1", right, || format!("device {} was told that entry {entry} is stored, and it is not", dev.0));
        }
    }

    fn on_done(&mut self, world: &World, dev: Dev, key: TransferKey) {
        self.end_transfer(world, dev, key, true);
        match key.direction {
            Direction::Incoming => {
                self.received.insert((dev, key.id));
                let lost = world.disk(dev).arrived().values().find(|of| of.key == key && !(of.synced && of.named));
                self.check("S19", lost.is_none(), || format!("device {} said that all is there before it was durable: {lost:?}", dev.0));
            }
            Direction::Outgoing => {
                self.check_receipt(dev, key);
                let receiver = world.dev_of_id(key.device).filter(|receiver| !self.liars.contains(receiver));
                let there = receiver.is_none_or(|receiver| self.received.contains(&(receiver, key.id)));
                self.check("S19", there, || format!("device {} was told that all arrived, and the receiver does not say so", dev.0));
            }
        }
    }

    fn end_transfer(&mut self, world: &World, dev: Dev, key: TransferKey, done: bool) {
        let told = self.told.entry((dev, world.life(dev), key)).or_default();
        let again = std::mem::replace(&mut told.ended, true);
        told.done = done;
        self.on_transfer_over(world, dev, key);
        self.check("S25", !again, || format!("device {} was told twice that a transfer ended", dev.0));
    }

    /// An operation on files is over.
    pub(crate) fn on_files(&mut self, world: &World, dev: Dev, key: TransferKey, op: FileOp) {
        if matches!(op, FileOp::Publish | FileOp::Finish) {
            let ended = self.told.get(&(dev, world.life(dev), key)).is_some_and(|told| told.ended);
            self.check("S25", !ended, || format!("device {} names files of a transfer that has ended", dev.0));
            self.check_files(world, dev);
        }
    }

    /// S18: whatever stands under a final name is whole and right; what stood there before is untouched.
    pub(crate) fn check_files(&mut self, world: &World, dev: Dev) {
        self.check_named(world, dev);
        let disk = world.disk(dev);
        let mut wrong = None;
        for (path, of) in disk.arrived() {
            let Some(truth) = self.truth(world, dev, &of.key) else { continue };
            // A renamed file has another last component.
            let original = disk.entry_path(&of.key, of.entry);
            let right = truth.get(original.as_ref().unwrap_or(path));
            let is = disk.files.get(path);
            let whole = matches!((is, right), (Some(Item::File(is)), Some(Item::File(right))) if is == right);
            if !whole && (original.is_some() || right.is_some()) {
                wrong = Some(path.clone());
            }
        }
        self.check("S18", wrong.is_none(), || {
            format!(
                "device {}: {:?} has its final name and not its content",
                dev.0,
                wrong.map(|path| String::from_utf8_lossy(&path.join(&b'/')).into_owned())
            )
        });
        let changed = self
            .foreign
            .iter()
            .find(|((of, path), item)| *of == dev && disk.files.get(path) != Some(item))
            .map(|((_, path), _)| path.clone());
        self.check("S21", changed.is_none(), || format!("device {}: {changed:?} was there before and has changed", dev.0));
    }

    // The end.

    /// A device has begun a new life: what was under way in the old one ends with it.
    pub(crate) fn on_start(&mut self, world: &World, dev: Dev) {
        let life = world.life(dev);
        self.on_parted_start(world, dev);
        self.started.insert(dev, world.micros());
        self.begun.retain(|&(of, ..), of_life| of != dev || *of_life == life);
        self.connecting.retain(|&(of, _), of_life| of != dev || *of_life == life);
        let back = world
            .node(dev)
            .probe_roots()
            .iter()
            .any(|root| self.forgotten.contains(&(dev, protocol_core::identity::device_id(&root.peer), root.print)));
        let failed = self.over_budget.contains(&dev);
        self.check("S6", !back || failed, || format!("device {} knows a device again that it has forgotten", dev.0));
        self.check_files(world, dev);
    }

    /// Long after everything was begun: nothing is still under way.
    pub(crate) fn check_ended(&mut self, world: &World) {
        let begun = self.begun.iter().find(|&(&(dev, ..), &life)| world.is_up(dev) && world.life(dev) == life).map(|(key, _)| *key);
        self.check("L1", begun.is_none(), || format!("a pairing never ended: {begun:?}"));
        let connecting =
            self.connecting.iter().find(|&(&(dev, _), &life)| world.is_up(dev) && world.life(dev) == life).map(|(key, _)| *key);
        self.check("L2", connecting.is_none(), || format!("an attempt to connect never ended: {connecting:?}"));
        let open = |&(&(dev, life, key), told): &(&(Dev, u32, TransferKey), &Told)| {
            world.is_up(dev) && world.life(dev) == life && !told.ended && !self.awaits_liar(world, key)
        };
        let told = self.told.iter().find(open);
        let open = told.map(|(&(dev, _, key), _)| (dev, key));
        self.check("L3", open.is_none(), || format!("a transfer never ended: {open:?}"));
    }

    /// PAIR-24, PAIR-44: a provisional root without a yes belongs to an attempt that runs; none is older than a day.
    pub(crate) fn check_provisional(&mut self, world: &World, dev: Dev) {
        let node = world.node(dev);
        let pairing = node.probe_holdings().pairing;
        if world.devices[dev.0].asleep_until > 0 {
            return;
        }
        for root in node.probe_roots() {
            let Trust::Provisional { agreed } = root.trust else { continue };
            self.check("PAIR-24", agreed || pairing, || {
                format!("device {} holds the root of {} that nobody said yes to", dev.0, root.session_ref)
            });
            let since = self.since.get(&(dev, root.session_ref)).copied().unwrap_or_else(|| world.micros());
            let age = world.micros().saturating_sub(since);
            // A device whose wall clock was set back while it was off counts at most a day from its start.
            let lives = world.micros().saturating_sub(self.started.get(&dev).copied().unwrap_or(0));
            let late = root.expires.is_some_and(|expires| expires > world.unix_s(dev)) && lives < DAY + 120_000_000;
            self.check("PAIR-44", age < DAY + 120_000_000 || late, || {
                format!("device {} holds a provisional root since {} s", dev.0, age / 1_000_000)
            });
        }
    }

    /// Everything was closed: nothing is held any more.
    pub(crate) fn check_released(&mut self, world: &World, dev: Dev) {
        let held = world.node(dev).probe_holdings();
        let nothing = held.conns == 0
            && held.streams.0 == 0
            && held.sessions == 0
            && held.dialers == 0
            && held.transfers == (0, 0)
            && held.tickets == 0
            && held.wanted == 0
            && held.early == (0, 0)
            && held.remembered == 0
            && !held.pairing;
        self.check("S32", nothing, || format!("device {} still holds something: {held:?}", dev.0));
        // Pending roots wait for their day to end, and messages for whom they are.
        let waits = |peer: &Dev| world.node(dev).probe_messages(world.id(*peer)) > 0;
        let waiting = (0..world.devices_len()).map(Dev).filter(waits).count();
        let pending = waiting + world.node(dev).probe_roots().iter().filter(|root| matches!(root.trust, Trust::Provisional { .. })).count();
        self.check("S32", held.timers <= pending, || {
            let why = world.node(dev).deadline().map_or("", |deadline| deadline.why);
            format!("device {} has {} timers for {pending} pending roots and queues, the first is {why}", dev.0, held.timers)
        });
        let left = world.disk(dev).temporaries();
        self.check("S32", left == 0, || format!("device {} has {left} temporary files left", dev.0));
    }
}

/// The life of a provisional root, in microseconds.
const DAY: u64 = 24 * 3_600 * 1_000_000;

/// The roots in a device's store.
fn stored(world: &World, dev: Dev) -> impl Iterator<Item = RootProbe> {
    let rows = world.store(dev).iter().map(|((table, key), value)| (*table, &key[..], &value[..]));
    roots_in(world.key(dev), rows).into_iter()
}

fn roots_in<'a>(me: PeerKey, rows: impl Iterator<Item = (u8, &'a [u8], &'a [u8])>) -> Vec<RootProbe> {
    let record = |(table, key, value): (u8, &[u8], &[u8])| Record {
        table,
        key: key.to_vec(),
        value: protocol_core::crypto::secret::SecretBytes::new(value.to_vec()),
    };
    rows.filter(|(table, ..)| *table == DEVICES).map(record).filter_map(|record| stored_roots(&me, &record).ok()).flatten().collect()
}

fn of_device(world: &World, root: &RootProbe, device: DeviceId) -> bool {
    world.dev_of(&root.peer).map_or_else(|| protocol_core::identity::device_id(&root.peer) == device, |dev| world.id(dev) == device)
}
