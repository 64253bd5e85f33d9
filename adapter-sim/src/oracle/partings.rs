//! Parting, blocking, policies and staying connected: who is told that he was forgotten, whom nobody lets in, what an owner allows,
//! and who dials whom without being asked (S6, S38, S39, L8, L16).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol_core::devices::policy::{FilePolicy, Policy};
use protocol_core::effects::{DeviceState, Event, TransferKey};
use protocol_core::faults::LinkFailure;
use protocol_core::ids::{DeviceId, MessageId, SessionRef, TransferId};
use protocol_core::limits;
use protocol_core::records::BLOCKED;

use super::sums::spoken;
use super::{Oracle, of_device, stored};
use crate::{Dev, World};

/// Time that a device may take for what needs no time, in microseconds.
const SOON: u64 = 3_000_000;
/// Attempts in an hour that come to nothing and that nobody asked for: twice as many as waits of up to five minutes make possible.
const FAILURES: usize = 45;
const HOUR: u64 = 3_600_000_000;
/// How long it takes at most until a device is found that can be, if it is dialled at once: an attempt that began before has to end.
const FOUND: u64 = 45_000_000;

#[derive(Debug, Default)]
pub(super) struct Partings {
    /// Who wanted which device forgotten.
    forgot: BTreeSet<(Dev, DeviceId)>,
    /// Of whom a device was told that he has removed the pairing, and when first.
    removed: BTreeMap<(Dev, DeviceId), u64>,
    /// Who is to hear that he was forgotten.
    farewells: Vec<Farewell>,
    /// When owners asked for a device last, and were heard.
    asked: BTreeMap<(Dev, DeviceId), u64>,
    /// Whom owners have blocked, and whether that has been durable.
    blocked: BTreeMap<(Dev, Dev), Kept>,
    /// What owners let devices do.
    policies: BTreeMap<(Dev, Dev), Allowed>,
    /// Whose messages some device refused at some time.
    refused: BTreeSet<(Dev, Dev)>,
    /// When trees and messages were sent.
    shared: BTreeMap<TransferId, u64>,
    said: BTreeMap<MessageId, u64>,
    /// Whom an owner who stays connected does not want to speak with, and since when.
    left: BTreeMap<(Dev, DeviceId), u64>,
    /// Whom an owner disconnected, and has not asked for since: more than those above, of whom something else may have asked.
    unwanted: BTreeSet<(Dev, DeviceId)>,
    /// Attempts of devices that stay connected which came to nothing, since something changed.
    failures: BTreeMap<(Dev, DeviceId), VecDeque<u64>>,
    /// Devices that try again from the beginning: since when.
    roused: Vec<Roused>,
}

/// A session in which a device forgot the other.
#[derive(Clone, Copy, Debug)]
struct Farewell {
    dev: Dev,
    peer: Dev,
    life: u32,
    session: SessionRef,
    /// When that was durable; nobody is told before.
    durable: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    since: u64,
    durable: bool,
}

#[derive(Clone, Debug)]
struct Allowed {
    policy: Policy,
    since: u64,
    life: u32,
    /// What there was before, which is there again if the device fell while it wrote.
    before: Vec<Policy>,
}

/// When a device did something last, in this life and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Awake {
    life: u32,
    last: u64,
    fell: u64,
}

#[derive(Clone, Copy, Debug)]
struct Roused {
    dev: Dev,
    peer: Dev,
    lives: (u32, u32),
    at: u64,
}

impl Oracle {
    // What owners do.

    /// An owner wants a device forgotten, and has not said so yet.
    pub(super) fn on_parting(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.partings.forgot.insert((dev, device));
        self.partings.unwanted.remove(&(dev, device));
        self.asks(dev, device);
        let Some(peer) = world.dev_of_id(device).filter(|peer| peer.0 < world.honest) else { return };
        self.partings.policies.remove(&(dev, peer));
        // Who is forgotten a second time had met this device again.
        self.partings.farewells.retain(|farewell| (farewell.dev, farewell.peer) != (dev, peer));
        let session = spoken(world, dev, peer).filter(|session| spoken(world, peer, dev) == Some(*session));
        if let Some(session) = session.filter(|_| self.manners.parts) {
            let life = world.life(peer);
            self.partings.farewells.push(Farewell { dev, peer, life, session, durable: None });
        }
    }

    /// An owner, or something that he did, asks for a device: what was before says nothing any more of who dials.
    fn asks(&mut self, dev: Dev, device: DeviceId) {
        self.partings.left.remove(&(dev, device));
        self.partings.removed.remove(&(dev, device));
        self.partings.failures.remove(&(dev, device));
    }

    pub(super) fn on_asked(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.asks(dev, device);
        self.partings.unwanted.remove(&(dev, device));
        self.partings.asked.insert((dev, device), world.micros());
    }

    /// A pairing may ask for any device.
    pub(super) fn asks_for_any(&mut self, dev: Dev) {
        self.partings.left.retain(|(of, _), _| *of != dev);
        self.partings.removed.retain(|(of, _), _| *of != dev);
        self.partings.failures.retain(|(of, _), _| *of != dev);
    }

    pub(super) fn on_wish_to_leave(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.partings.farewells.retain(|farewell| farewell.peer != dev);
        if world.wishes.kept.contains(&dev) {
            // An attempt that somebody asked for before goes on for a minute at most.
            let attempt = world.node_of(dev).is_some_and(|node| node.probe_holdings().dialers > 0);
            self.partings.unwanted.insert((dev, device));
            // A pairing that runs goes on, and may lead there.
            if self.pairings_of(dev).is_empty() {
                self.partings.left.insert((dev, device), world.micros() + if attempt { 60_000_000 } else { 0 });
            }
        }
    }

    /// Everything that a device knew of whom it dials is as if it had just begun.
    pub(crate) fn keeps_anew(&mut self, dev: Dev) {
        self.partings.unwanted.retain(|(of, _)| *of != dev);
        self.partings.left.retain(|(of, _), _| *of != dev);
        self.partings.failures.retain(|(of, _), _| *of != dev);
        self.partings.roused.retain(|roused| roused.dev != dev);
    }

    pub(crate) fn on_blocked(&mut self, world: &World, dev: Dev, peer: Dev, on: bool) {
        self.asks(dev, world.id(peer));
        if on {
            self.partings.farewells.retain(|farewell| (farewell.dev, farewell.peer) != (peer, dev));
            let since = world.micros();
            self.partings.blocked.entry((dev, peer)).or_insert(Kept { since, durable: false });
        } else {
            self.partings.blocked.remove(&(dev, peer));
        }
    }

    pub(crate) fn on_policy(&mut self, world: &World, (dev, peer): (Dev, Dev), before: Policy, policy: Policy) {
        if !policy.messages {
            self.partings.refused.insert((dev, peer));
        }
        let since = world.micros();
        let known = self.partings.policies.remove(&(dev, peer));
        // What was set long ago is written.
        let mut before = Vec::from([before]);
        before.extend(known.filter(|known| known.since + 30 * SOON > since).into_iter().flat_map(|known| known.before));
        self.partings.policies.insert((dev, peer), Allowed { policy, since, life: world.life(dev), before });
    }

    pub(super) fn note_sent(&mut self, world: &World, id: TransferId) {
        self.partings.shared.insert(id, world.micros());
    }

    pub(crate) fn note_said(&mut self, world: &World, dev: Dev, peer: Dev, id: MessageId) {
        self.partings.said.insert(id, world.micros());
        self.asks(dev, world.id(peer));
    }

    /// A device learns that its network is another, or that it has slept: it tries again, from the beginning.
    pub(crate) fn on_roused(&mut self, world: &World, dev: Dev) {
        self.partings.failures.retain(|(of, _), _| *of != dev);
        self.partings.roused.retain(|roused| roused.dev != dev && roused.peer != dev);
        if !self.manners.moves || !world.wishes.kept.contains(&dev) {
            return;
        }
        for peer in (0..world.honest).map(Dev).filter(|peer| *peer != dev && world.is_up(*peer)) {
            let apart = !world.has_session(dev, peer) && !world.has_session(peer, dev);
            if apart && self.is_to_be_kept(world, dev, peer) {
                let lives = (world.life(dev), world.life(peer));
                self.partings.roused.push(Roused { dev, peer, lives, at: world.micros() });
            }
        }
    }

    /// Whether a device that stays connected is to have a session with another, which it can reach.
    pub(crate) fn is_to_be_kept(&self, world: &World, dev: Dev, peer: Dev) -> bool {
        if !world.is_up(dev) || !world.is_up(peer) {
            return false;
        }
        let Some(view) = world.view(dev, peer) else { return false };
        let at = world.addresses(peer);
        let roots = |of: Dev, with: Dev| world.node(of).probe_roots().into_iter().filter(move |root| root.peer == world.key(with));
        let theirs: Vec<_> = roots(peer, dev).filter(|root| root.expires.is_none()).map(|root| root.print).collect();
        world.wishes.kept.contains(&dev)
            && view.confirmed
            && view.removed_there.is_none()
            && view.blocked.is_none()
            && world.view(peer, dev).is_some_and(|view| view.blocked.is_none())
            && view.addresses.iter().any(|known| at.contains(known))
            && roots(dev, peer).any(|root| theirs.contains(&root.print))
            && !self.partings.unwanted.contains(&(dev, world.id(peer)))
            // A crowd is dialled in turn.
            && world.node(dev).probe_roots().len() <= limits::KEEP_AT_ONCE
    }

    /// S16: whether a message may have been refused.
    pub(super) fn may_refuse(&self, dev: Dev, peer: Dev) -> bool {
        self.partings.refused.contains(&(dev, peer))
    }

    // What devices tell.

    pub(super) fn on_parting_event(&mut self, world: &World, dev: Dev, event: &Event) {
        match event {
            Event::RemovedThere { device } => self.on_removed_there(world, dev, *device),
            Event::Removed { device } => self.on_forgotten(world, dev, *device),
            Event::Paired { peer, .. } => {
                self.partings.unwanted.remove(&(dev, peer.device));
                self.asks(dev, peer.device);
                // They have met again since.
                let id = |of: Dev| world.id(of);
                self.partings.farewells.retain(|farewell| {
                    let sides = [(farewell.dev, id(farewell.peer)), (farewell.peer, id(farewell.dev))];
                    !sides.contains(&(dev, peer.device))
                });
                let blocked = self.blocks(world, dev, peer.device);
                self.check("S38", !blocked, || format!("device {} is paired with a device that its owner has blocked", dev.0));
            }
            Event::Device { device, state: DeviceState::Connected, .. } => {
                self.check_unasked(world, dev, *device, true);
                self.asks(dev, *device);
            }
            Event::ConnectFailed { device, reason } => {
                self.check_unasked(world, dev, *device, false);
                self.check_refused_to_forgotten(world, dev, *device, *reason);
                self.check_backoff(world, dev, *device);
            }
            Event::Offered { transfer, manifest, .. } => {
                let bytes = manifest.bytes();
                self.check_allowed_offer(world, dev, *transfer, bytes);
            }
            Event::Message { device, id } => {
                let since = self.allowed(world, dev, *device).filter(|allowed| !allowed.policy.messages).map(|allowed| allowed.since);
                let sent = self.partings.said.get(id).copied().unwrap_or(0);
                self.check("S39", since.is_none_or(|since| sent <= since), || {
                    format!("device {} has a message that its owner does not want", dev.0)
                });
            }
            _ => {}
        }
    }

    /// S6: who is told that a pairing was removed can rely on it: the other side has it in no store any more.
    fn on_removed_there(&mut self, world: &World, dev: Dev, device: DeviceId) {
        self.partings.removed.entry((dev, device)).or_insert(world.micros());
        let Some(peer) = world.dev_of_id(device).filter(|peer| peer.0 < world.honest && self.in_budget(&[dev, *peer])) else { return };
        let forgot = self.partings.forgot.contains(&(peer, world.id(dev)));
        self.check("S6", forgot, || format!("device {} believes that device {} has removed it, which it has not", dev.0, peer.0));
        let mine: Vec<_> = world
            .node_of(dev)
            .map_or_else(Vec::new, |node| node.probe_roots())
            .into_iter()
            .filter(|root| root.peer == world.key(peer))
            .collect();
        let held = stored(world, peer).filter(|root| of_device(world, root, world.id(dev)));
        let held = held.filter(|root| mine.iter().any(|own| own.print == root.print)).count();
        self.check("S6", held == 0, || format!("device {} is told that device {} has removed it, before that is durable", dev.0, peer.0));
    }

    fn on_forgotten(&mut self, world: &World, dev: Dev, device: DeviceId) {
        let now = world.micros();
        let waiting = self.partings.farewells.iter_mut().filter(|farewell| farewell.dev == dev && world.id(farewell.peer) == device);
        waiting.for_each(|farewell| farewell.durable = farewell.durable.or(Some(now)));
    }

    /// L8: in a session that stands, the other side hears that it was forgotten.
    fn check_farewells(&mut self, world: &World) {
        let late = 2 * SOON + 4 * (world.latency.0 + world.latency.1);
        let due = |farewell: &mut Farewell| farewell.durable.is_some_and(|durable| durable + late < world.micros());
        let due: Vec<Farewell> = self.partings.farewells.extract_if(.., due).collect();
        for Farewell { dev, peer, life, session, .. } in due {
            let gone = !world.is_up(peer) || world.life(peer) != life || self.partings.forgot.contains(&(peer, world.id(dev)));
            // In a session of a root that was replaced meanwhile its owner hears why it ended; the newer one he hears of at the next contact.
            let removed = |end: Option<(LinkFailure, u64)>| matches!(end, Some((LinkFailure::Removed, _)));
            let knows = world.view(peer, dev).is_none_or(|view| view.removed_there.is_some() || removed(view.last_end));
            // They may have met again, under another pairing; or one has been begun there that may still stand.
            let begun = |node: &protocol_core::node::Node| node.probe_roots().iter().filter(|root| root.peer == world.key(dev)).count() > 1;
            let again = world.has_session(dev, peer) || world.view(dev, peer).is_some() || world.node_of(peer).is_some_and(begun);
            self.check("L8", gone || knows || again, || {
                format!("device {} forgot device {} in session {session}, and that has not heard of it", dev.0, peer.0)
            });
        }
    }

    /// L8: who comes to a device that has forgotten it is told so.
    fn check_refused_to_forgotten(&mut self, world: &World, dev: Dev, device: DeviceId, reason: LinkFailure) {
        let asked = self.partings.asked.remove(&(dev, device));
        let Some(asked) = asked.filter(|_| self.manners.parts && reason == LinkFailure::NotAccepted) else { return };
        let Some(peer) = world.dev_of_id(device).filter(|peer| peer.0 < world.honest && world.is_up(*peer)) else { return };
        let me = world.id(dev);
        let started = self.started.get(&peer).copied().unwrap_or(0);
        let own: Vec<_> = world.node(dev).probe_roots().into_iter().filter(|root| root.peer == world.key(peer)).collect();
        let all = !own.is_empty() && own.iter().all(|root| self.forgotten.contains(&(peer, me, root.print)));
        let blocked = self.partings.blocked.contains_key(&(peer, dev)) || self.partings.blocked.contains_key(&(dev, peer));
        let settled = started + SOON < asked && self.in_budget(&[dev, peer]) && !self.forgetting.contains_key(&(peer, me));
        // Of two roots that it holds one may be too old for a tombstone: it was told about the other.
        let told = world.view(dev, peer).is_none_or(|view| view.removed_there.is_some());
        self.check("L8", !(all && settled) || blocked || told, || {
            format!("device {} comes to device {}, which has forgotten it and does not say so", dev.0, peer.0)
        });
    }

    // Who is blocked.

    fn blocks(&self, world: &World, dev: Dev, device: DeviceId) -> bool {
        let peer = world.dev_of_id(device);
        self.in_budget(&[dev]) && peer.is_some_and(|peer| self.partings.blocked.contains_key(&(dev, peer)))
    }

    fn has_block_row(world: &World, dev: Dev, peer: Dev) -> bool {
        world.store(dev).contains_key(&(BLOCKED, world.key(peer).0.to_vec()))
    }

    /// S38: a device has no session, and no keys of one, with a device that its owner has blocked.
    fn check_blocked(&mut self, world: &World, dev: Dev) {
        let peers: Vec<Dev> = self.partings.blocked.keys().filter(|(of, _)| *of == dev).map(|(_, peer)| *peer).collect();
        let Some(node) = world.node_of(dev).filter(|_| !peers.is_empty() && self.in_budget(&[dev])) else { return };
        let held: Vec<_> = node.probe_sessions().into_iter().map(|session| session.peer).collect();
        let with = peers.into_iter().find(|peer| held.contains(&world.key(*peer)));
        self.check("S38", with.is_none(), || format!("device {} has a session with device {with:?}, which its owner has blocked", dev.0));
    }

    /// What a device has written is durable.
    pub(super) fn note_blocks(&mut self, world: &World, dev: Dev) {
        let own = self.partings.blocked.iter_mut().filter(|((of, _), _)| *of == dev);
        own.for_each(|((_, peer), kept)| kept.durable |= Self::has_block_row(world, dev, *peer));
    }

    // What a device may do.

    /// What an owner lets a device do, if that is known.
    fn allowed(&self, world: &World, dev: Dev, device: DeviceId) -> Option<&Allowed> {
        let peer = world.dev_of_id(device).filter(|peer| self.in_budget(&[dev, *peer]))?;
        self.partings.policies.get(&(dev, peer))
    }

    /// S39: no owner is asked about an offer that he does not want.
    fn check_allowed_offer(&mut self, world: &World, dev: Dev, transfer: TransferKey, bytes: u64) {
        let Some(allowed) = self.allowed(world, dev, transfer.device) else { return };
        let refused = allowed.policy.files == FilePolicy::Refuse || allowed.policy.max_bytes.is_some_and(|most| bytes > most);
        let sent = self.partings.shared.get(&transfer.id).copied().unwrap_or(0);
        let unwanted = refused && sent > allowed.since;
        self.check("S39", !unwanted, || format!("the owner of device {} is asked about {bytes} bytes that he does not want", dev.0));
    }

    /// S39, S5: what an owner has set is what holds; in the next life too, if there was time to write it.
    fn check_policies(&mut self, world: &World, dev: Dev) {
        let fell = self.awake.get(&dev).map_or(0, |awake| awake.fell);
        let own: Vec<Dev> = self.partings.policies.keys().filter(|(of, _)| *of == dev).map(|(_, peer)| *peer).collect();
        for peer in own {
            let now = world.node_of(dev).and_then(|node| node.policy(world.id(peer)));
            let Some(allowed) = self.partings.policies.get_mut(&(dev, peer)) else { continue };
            let Some(now) = now.filter(|_| !self.over_budget.contains(&dev)) else {
                self.partings.policies.remove(&(dev, peer));
                continue;
            };
            let fallen = std::mem::replace(&mut allowed.life, world.life(dev)) != world.life(dev);
            // Where writes fail, or take long, anything between then and now may be what is there.
            let written = self.manners.parts && allowed.since + SOON / 2 < fell;
            let back = fallen && !written && allowed.before.contains(&now);
            let right = now == allowed.policy || back;
            allowed.policy = now;
            self.check("S5", right, || format!("device {} lets device {} do something else than its owner said", dev.0, peer.0));
        }
    }

    // Who stays connected.

    /// L16: nobody is dialled whom the owner disconnected, or who has removed the pairing, unless somebody asked.
    fn check_unasked(&mut self, world: &World, dev: Dev, device: DeviceId, up: bool) {
        let Some(node) = world.node_of(dev).filter(|_| world.wishes.kept.contains(&dev)) else { return };
        let opened =
            |peer: Dev| node.probe_sessions().iter().any(|session| session.peer == world.key(peer) && session.primary && session.we_opened);
        let Some(peer) = world.dev_of_id(device).filter(|peer| !up || opened(*peer)) else { return };
        let wanted = node.probe_messages(device) > 0 || self.transfers_of(world, dev).iter().any(|key| key.device == device);
        // An attempt that is under way goes through the other roots and addresses.
        let rest = SOON + 16 * (world.latency.0 + world.latency.1);
        let old = |since: Option<&u64>| since.is_some_and(|since| since + rest < world.micros());
        let left = old(self.partings.left.get(&(dev, device)));
        let removed =
            old(self.partings.removed.get(&(dev, device))) && world.view(dev, peer).is_some_and(|view| view.removed_there.is_some());
        self.check("L16", wanted || !(left || removed), || {
            format!("device {} dials device {}, and nobody asked for it (left: {left}, removed: {removed})", dev.0, peer.0)
        });
    }

    /// L16: who is not there is dialled ever more seldom.
    fn check_backoff(&mut self, world: &World, dev: Dev, device: DeviceId) {
        if !world.wishes.kept.contains(&dev) {
            return;
        }
        let now = world.micros();
        let failures = self.partings.failures.entry((dev, device)).or_default();
        failures.push_back(now);
        while failures.front().is_some_and(|at| at + HOUR < now) {
            failures.pop_front();
        }
        let count = failures.len();
        self.check("L16", count <= FAILURES, || format!("device {} tried {count} times within an hour to reach who is not there", dev.0));
    }

    /// L16: who could not be reached and can be now is found when the network has changed, and not minutes later.
    fn check_roused(&mut self, world: &World) {
        let due = |roused: &mut Roused| roused.at + FOUND < world.micros();
        let due: Vec<Roused> = self.partings.roused.extract_if(.., due).collect();
        for Roused { dev, peer, lives, .. } in due {
            let same = world.is_up(dev) && world.is_up(peer) && (world.life(dev), world.life(peer)) == lives;
            let apart = same && !world.has_session(dev, peer) && self.is_to_be_kept(world, dev, peer);
            self.check("L16", !apart, || format!("device {} came back to the network, and has not found device {}", dev.0, peer.0));
        }
    }

    // At any time.

    pub(super) fn check_parted(&mut self, world: &World, dev: Dev) {
        let awake = self.awake.entry(dev).or_default();
        if awake.life != world.life(dev) {
            (awake.life, awake.fell) = (world.life(dev), awake.last);
        }
        awake.last = world.micros();
        self.check_blocked(world, dev);
        self.check_policies(world, dev);
        self.check_farewells(world);
        self.check_roused(world);
    }

    /// A device falls: until now its host has written.
    pub(crate) fn on_fall(&mut self, world: &World, dev: Dev) {
        if world.is_up(dev) {
            self.awake.entry(dev).or_default().last = world.micros();
        }
    }

    /// A device has begun a new life. What was not durable when it fell never was.
    pub(super) fn on_parted_start(&mut self, world: &World, dev: Dev) {
        self.keeps_anew(dev);
        self.partings.removed.retain(|(of, _), _| *of != dev);
        self.partings.asked.retain(|(of, _), _| *of != dev);
        self.partings.farewells.retain(|farewell| farewell.dev != dev);
        let fell = self.awake.get(&dev).map_or(0, |awake| awake.fell);
        let own: Vec<(Dev, Kept)> =
            self.partings.blocked.iter().filter(|((of, _), _)| *of == dev).map(|((_, peer), kept)| (*peer, *kept)).collect();
        for (peer, kept) in own.into_iter().filter(|(peer, _)| !Self::has_block_row(world, dev, *peer)) {
            let written = kept.durable || (self.manners.parts && kept.since + SOON / 2 < fell);
            let lost = written && self.in_budget(&[dev]);
            self.partings.blocked.remove(&(dev, peer));
            self.check("S5", !lost, || format!("device {} has forgotten that its owner blocked device {}", dev.0, peer.0));
        }
    }

    /// S5: with no write under way the store says who is blocked.
    pub(super) fn check_stored_blocks(&mut self, world: &World, dev: Dev) {
        let missing = self.partings.blocked.keys().find(|(of, peer)| *of == dev && !Self::has_block_row(world, dev, *peer)).copied();
        self.check("S5", missing.is_none(), || format!("no store holds that the owner of device {} blocked {missing:?}", dev.0));
    }
}
