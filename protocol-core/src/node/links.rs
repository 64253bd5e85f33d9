//! Reconnects, between `session/link.rs` and the registry: who is dialled, who is there, and which root that confirms.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::{Listening, Node, Role, cx};
use crate::devices::device::{Root, RootState};
use crate::effects::{Env, Event};
use crate::faults::{Failure, LinkFailure, TransferFailure, code};
use crate::handshake::ProvenPeer;
use crate::ids::{ConnId, DeviceId, PeerKey, SessionRef, StreamId};
use crate::info::Address;
use crate::limits;
use crate::outbox::Purpose;
use crate::pairing::joiner::Bound;
use crate::session::handshake::{DialerDone, DialerWaiting, LinkKeys, ReceivedHello};
use crate::session::link::{ACCEPT_WAIT, DialStep, Dialer, GLARE};
use crate::session::machine::{Awaited, Session};
use crate::timers::TimerKind;

impl Node {
    /// Starts, or feeds, the attempt to reach a device that somebody asked for.
    pub(super) fn dial_device(&mut self, env: &mut Env<'_>, peer: PeerKey, first: Vec<Address>) {
        self.begin_attempt(env, peer, first, true);
    }

    /// The same; `asked`: somebody waits for it.
    pub(super) fn begin_attempt(&mut self, env: &mut Env<'_>, peer: PeerKey, first: Vec<Address>, asked: bool) {
        let Some(device) = self.registry.get(&peer) else { return };
        let id = device.id;
        if !device.is_usable(env.unix_s) && !planted!(UnfinishedRefused) {
            return self.no_session(env, id, LinkFailure::Unfinished);
        }
        let given = first.len().min(limits::JOINER_CANDIDATES);
        let mut addresses = first;
        addresses.extend(in_turn(device.addresses.iter().filter(|address| self.can_dial(address)).cloned()));
        addresses.truncate(limits::JOINER_CANDIDATES);
        // What was found comes behind what a person gives, and takes no other's place: the record may be an old one.
        addresses.splice(given..given, self.discovery.found(id).cloned());
        if let Some(dialer) = self.dialers.get_mut(&id) {
            if asked {
                dialer.asked(cx!(self, env));
            }
            dialer.add(cx!(self, env), addresses);
        } else if addresses.is_empty() && !self.discovery.searches() {
            self.no_session(env, id, LinkFailure::Unreachable);
        } else {
            let searches = self.discovery.searches();
            let dialer = Dialer::begin(cx!(self, env), id, addresses, asked, searches);
            self.dialers.insert(id, dialer);
        }
    }

    pub(super) fn can_dial(&self, address: &Address) -> bool {
        self.transports.iter().any(|transport| transport.kind == address.kind)
    }

    /// The stream of a reconnect is open: send Hello under the root whose turn it is.
    pub(super) fn link_stream_up(&mut self, env: &mut Env<'_>, stream: StreamId, conn: ConnId, id: DeviceId) {
        self.adopt(stream, conn, Role::Dialer(id));
        if self.registry.by_id(id).is_some_and(|device| self.is_coming(&device.key)) {
            // The peer was faster: its handshake goes on, and ours only if nothing comes of that.
            self.set_role(stream, Role::Closing);
            self.drop_stream(env, stream, code::DONE);
            return self.pause_dialer(env, id);
        }
        let binding = self.binding(conn);
        let wanted = self.dialers.get_mut(&id).filter(|dialer| dialer.is_opening());
        let (Some(dialer), Some(binding), Some(device)) = (wanted, binding, self.registry.by_id(id)) else {
            self.set_role(stream, Role::Closing);
            self.drop_stream(env, stream, code::DONE);
            if self.registry.by_id(id).is_none() {
                // Its pairing came to nothing meanwhile. The attempt must not stand in the way of one after the next pairing.
                self.connect_failed(env, id, LinkFailure::Unfinished);
            }
            return;
        };
        let mut usable =
            device.roots.iter().filter(|root| root.state.usable(env.unix_s) && !self.out.is_storing(&device.key, root.session_ref));
        let number = dialer.root_number();
        let Some(root) = usable.nth(number) else {
            if number > 0 || planted!(UnfinishedRefused) {
                return self.drop_stream(env, stream, code::DONE);
            }
            // Nobody has refused anything: what there was when the attempt began is gone, or is being written.
            let written = device.is_usable(env.unix_s);
            self.set_role(stream, Role::Closing);
            self.drop_stream(env, stream, code::DONE);
            if written {
                return self.pause_dialer(env, id);
            }
            return self.connect_failed(env, id, LinkFailure::Unfinished);
        };
        match DialerWaiting::hello(&root.secret, self.identity.public(), device.key, binding, env.entropy) {
            Ok((waiting, frame)) => {
                let root = root.session_ref;
                let cx = cx!(self, env);
                cx.send(stream, frame);
                dialer.hello_sent(cx, stream, waiting, root);
            }
            Err(_) => self.drop_stream(env, stream, code::DONE),
        }
    }

    pub(super) fn link_failed(&mut self, env: &mut Env<'_>, device: DeviceId, address: Address, failure: Failure) {
        let Some(dialer) = self.dialers.get_mut(&device) else { return };
        let step = dialer.on_failed(cx!(self, env), address, failure);
        self.dial_step(env, device, step);
    }

    /// The stream of a dialler's handshake is gone.
    pub(super) fn dialer_refused(&mut self, env: &mut Env<'_>, id: DeviceId, stream: StreamId) {
        let roots = self.registry.by_id(id).map_or(0, |device| device.roots.len());
        let peer_preferred = self.registry.by_id(id).is_some_and(|device| (device.key < self.identity.public()) ^ planted!(GlareInverted));
        let Some(dialer) = self.dialers.get_mut(&id).filter(|dialer| dialer.is_opening() || dialer.stream() == Some(stream)) else {
            return;
        };
        let step = dialer.on_refused(cx!(self, env), roots, peer_preferred);
        self.dial_step(env, id, step);
    }

    /// The peer answered that it has removed the root that was tried.
    pub(super) fn dialer_removed(&mut self, env: &mut Env<'_>, id: DeviceId, roots: usize) {
        let Some(dialer) = self.dialers.get_mut(&id) else { return };
        let step = dialer.on_removed(cx!(self, env), roots);
        self.dial_step(env, id, step);
    }

    fn dial_step(&mut self, env: &mut Env<'_>, device: DeviceId, step: DialStep) {
        if let DialStep::Over(reason) = step {
            self.connect_failed(env, device, reason);
        }
    }

    /// Gives an attempt up, without a word to the owner.
    pub(super) fn stop_dialling(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let Some(dialer) = self.dialers.remove(&device) else { return };
        let stream = dialer.stream();
        dialer.end(cx!(self, env));
        if let Some(stream) = stream {
            self.set_role(stream, Role::Closing);
            self.drop_stream(env, stream, code::DONE);
        }
    }

    /// An attempt came to nothing.
    // LINK-8.
    pub(super) fn connect_failed(&mut self, env: &mut Env<'_>, device: DeviceId, reason: LinkFailure) {
        if !self.dialers.contains_key(&device) {
            return;
        }
        self.stop_dialling(env, device);
        if planted!(FailureDeletesPair) && reason == LinkFailure::NotAccepted {
            let _: Result<(), _> = self.forget_device(env, device);
        }
        self.no_session(env, device, reason);
    }

    /// No session could be had. Where one stands that was to be renewed, it goes on.
    fn no_session(&mut self, env: &mut Env<'_>, device: DeviceId, reason: LinkFailure) {
        if !self.primary.contains_key(&device) {
            if let Some(peer) = self.registry.by_id(device).map(|known| known.key) {
                self.note_end(env, &peer, reason);
            }
            cx!(self, env).notify(Event::ConnectFailed { device, reason });
            let lost = if reason == LinkFailure::Violation { TransferFailure::Violation } else { TransferFailure::Lost };
            self.transfers.on_unreachable(cx!(self, env), device, lost);
            self.keep_after(env, device, reason, None);
        }
    }

    /// A Hello: which pair is it, if any?
    pub(super) fn on_hello(&mut self, env: &mut Env<'_>, stream: StreamId, body: Vec<u8>) {
        if self.scans.waiting.iter().any(|(waiting, _)| *waiting == stream) {
            return self.drop_stream(env, stream, code::REFUSED);
        }
        if self.scans.take(self.now) {
            return self.scan(env, stream, &body);
        }
        self.scans.waiting.push_back((stream, body));
        if !self.timers.is_set(TimerKind::Scan) && !planted!(ScanTimerUnset) {
            self.timers.set(TimerKind::Scan, self.now, core::time::Duration::from_secs(1));
        }
    }

    /// The scans of Hellos that wait: for the next second, or for a write.
    pub(super) fn scan_waiting(&mut self, env: &mut Env<'_>) {
        for _ in 0..self.scans.waiting.len() {
            let Some((stream, body)) = self.scans.waiting.pop_front() else { return };
            if !self.scans.take(self.now) {
                self.scans.waiting.push_front((stream, body));
                self.timers.set(TimerKind::Scan, self.now, core::time::Duration::from_secs(1));
                return;
            }
            self.scan(env, stream, &body);
        }
    }

    fn scan(&mut self, env: &mut Env<'_>, stream: StreamId, body: &[u8]) {
        if self.try_scan(env, stream, body).is_none() {
            self.stats.refused += 1;
            self.drop_stream(env, stream, code::REFUSED);
        }
    }

    /// Tries the tag against every usable root, answers the one that it fits. `None`: refused.
    // LINK-1.
    fn try_scan(&mut self, env: &mut Env<'_>, stream: StreamId, body: &[u8]) -> Option<()> {
        let conn = self.streams.get(&stream)?.conn;
        let hello = ReceivedHello::decode(body, self.binding(conn)?).ok()?;
        // LINK-3.
        if self.recent_hellos.contains(hello.th1()) && !planted!(HelloReplayAccepted) {
            return None;
        }
        let unix_s = env.unix_s;
        let found = self.registry.iter().filter(|device| !self.registry.is_blocked(&device.key)).find_map(|device| {
            let fits = |root: &&Root| root.state.usable(unix_s) && hello.matches(&root.hello_key);
            device.roots.iter().find(fits).map(|root| (device, root))
        });
        let Some((device, root)) = found else { return self.answer_forgotten(env, stream, &hello, body) };
        let (id, peer, session_ref) = (device.id, device.key, root.session_ref);
        if self.out.is_storing(&peer, session_ref) {
            self.scans.waiting.push_back((stream, body.to_vec()));
            return Some(());
        }
        remember(&mut self.recent_hellos, hello.th1());
        // Glare: of two handshakes that overlap, the one dialled by the smaller identity key goes on.
        let dialling = self.dialers.get(&id).is_some_and(|dialer| dialer.overlaps(self.now));
        // Ours may have its Accept already, and stand, when theirs arrives. Once it is answered the peer has dropped its own, and a
        // Hello that comes is of a peer that has begun anew; one that was late finds nobody at its stream.
        let dialled =
            self.primary.get(&id).and_then(|primary| self.sessions.get(primary)).is_some_and(|session| {
                session.we_opened && !session.is_answered() && !session.ending && self.now.since(session.born) <= GLARE
            });
        let overlaps = dialling || dialled;
        // LINK-11.
        let preferred = (self.identity.public() < peer) ^ planted!(GlareInverted);
        if overlaps && preferred && !planted!(GlareIgnored) {
            return None;
        }
        let own = self.identity.device_key();
        let (waiting, frame) = hello.accept(&root.secret, own, &self.info_bytes, peer, env.entropy).ok()?;
        if dialling {
            self.give_way(env, id);
        }
        cx!(self, env).send(stream, frame);
        if planted!(ConfirmedOnAccept) {
            self.confirm_root(env, &peer, session_ref);
        }
        self.timers.set(TimerKind::Stream(stream), self.now, ACCEPT_WAIT);
        self.set_role(stream, Role::Listener(Box::new(Listening { waiting, root: session_ref, peer })));
        Some(())
    }

    /// Our own handshake with this device loses to the peer's: drop it, and go on as listener.
    fn give_way(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let Some(stream) = self.dialers.get(&device).and_then(Dialer::stream) else { return };
        if let Some(slot) = self.streams.get_mut(&stream) {
            slot.role = Role::Closing;
        }
        self.drop_stream(env, stream, code::DONE);
        self.pause_dialer(env, device);
    }

    /// An attempt stays until the peer's session is up; its timer ends it if that never comes.
    fn pause_dialer(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let roots = self.registry.by_id(device).map_or(0, |device| device.roots.len());
        if let Some(dialer) = self.dialers.get_mut(&device) {
            dialer.pause(cx!(self, env), roots);
        }
    }

    /// Whether a reconnect of this peer has been answered and is not through yet.
    fn is_coming(&self, peer: &PeerKey) -> bool {
        self.streams.values().any(|slot| match &slot.role {
            Role::Listener(listening) => listening.peer == *peer,
            Role::AwaitOpening(awaited) => awaited.link.is_some() && awaited.proven.peer == *peer,
            _ => false,
        })
    }

    // LINK-5.
    pub(super) fn on_finish(&mut self, env: &mut Env<'_>, stream: StreamId, body: &[u8]) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let Role::Listener(listening) = core::mem::replace(&mut slot.role, Role::Closing) else { return };
        let Listening { waiting, root, peer } = *listening;
        let Ok(done) = waiting.on_finish(body) else {
            self.stats.refused += 1;
            return self.drop_stream(env, stream, code::REFUSED);
        };
        // Its owner may have let go of the root meanwhile: a session would say that it holds.
        if !self.registry.holds(&peer, root) {
            return self.drop_stream(env, stream, code::DONE);
        }
        let LinkKeys { traffic, session_ref } = done.keys;
        let Some(proven) = self.proven(stream, (peer, &done.peer.info), (session_ref, root), (traffic, false)) else { return };
        let mut awaited = Awaited::new(proven);
        awaited.link = Some(root);
        self.learn(env, &done.peer, None);
        // As a joiner: the initiator will believe that we are sure, so the disk has to be first.
        awaited.storing = self.registry.is_unsure(&peer, root) && !planted!(ListenerBeforeDurable);
        if !awaited.storing {
            self.confirm_root(env, &peer, root);
        } else if !self.confirm_provisional(env, peer, root, Purpose::ListenerStored { stream, peer, root }) {
            return self.drop_stream(env, stream, code::DONE);
        }
        self.await_opening(stream, awaited, limits::UNPROVED_WAIT);
    }

    /// The confirmation that a listener's session waits for is durable, or could not be written.
    pub(super) fn on_listener_stored(&mut self, env: &mut Env<'_>, stream: StreamId, (peer, root): (PeerKey, SessionRef), stored: bool) {
        self.registry.confirmation_stored(&peer, root, stored);
        // Its owner may have let go of it meanwhile.
        let stored = stored && self.registry.holds(&peer, root);
        self.watch_pending(env, &peer);
        self.scan_waiting(env);
        if stored {
            self.pair_confirmed(env, &peer);
        }
        let Some(Role::AwaitOpening(awaited)) = self.streams.get_mut(&stream).map(|slot| &mut slot.role) else { return };
        if !stored {
            return self.drop_stream(env, stream, code::DONE);
        }
        awaited.storing = false;
        // LINK-10.
        for record in core::mem::take(&mut awaited.held) {
            match self.streams.get(&stream).map(|slot| &slot.role) {
                Some(Role::AwaitOpening(_)) => self.on_opening(env, stream, record),
                Some(&Role::Control(session_ref)) => self.on_control_record(env, session_ref, &record),
                _ => return,
            }
        }
    }

    /// A reconnect has shown that the initiator holds our provisional root: that is confirmed once the disk says so.
    fn confirm_provisional(&mut self, env: &mut Env<'_>, peer: PeerKey, root: SessionRef, purpose: Purpose) -> bool {
        let repaired = self.registry.get(&peer).is_some_and(|device| device.roots.len() > 1);
        let Some(change) = self.registry.confirm_if_stored(&peer, root) else { return false };
        if let Some(joiner) = &mut self.joiner {
            joiner.repaired = repaired;
        }
        self.store(env, peer, change, purpose);
        true
    }

    /// That is durable. The attempt that the root came from may still wait for an answer on its own stream: it has one now.
    fn pair_confirmed(&mut self, env: &mut Env<'_>, peer: &PeerKey) {
        let confirmed = |bound: &Bound| {
            let root = |root: &Root| root.session_ref == bound.session_ref && root.state == RootState::Confirmed;
            bound.peer == *peer && self.registry.get(peer).is_some_and(|device| device.roots.iter().any(root))
        };
        match self.joiner.take_if(|joiner| joiner.bound().is_some_and(confirmed)) {
            Some(joiner) => {
                self.keep_paired(env, crate::identity::device_id(peer), limits::KEEP_FIRST);
                joiner.confirmed_by_link(cx!(self, env));
            }
            None => cx!(self, env).notify(Event::PairConfirmed { device: crate::identity::device_id(peer) }),
        }
    }

    /// A handshake under this root verified as listener, or its first record as dialler: both sides hold it.
    // PAIR-36.
    pub(super) fn confirm_root(&mut self, env: &mut Env<'_>, peer: &PeerKey, root: SessionRef) {
        let Some(device) = self.registry.get(peer) else { return };
        let unconfirmed = |known: &Root| known.session_ref == root && known.state != RootState::Confirmed;
        if !device.roots.iter().any(unconfirmed) {
            return;
        }
        let id = device.id;
        if let Some(change) = self.registry.confirm(peer, root) {
            self.store(env, *peer, change, Purpose::Registry { peer: *peer });
            cx!(self, env).notify(Event::PairConfirmed { device: id });
        }
    }

    /// What a proven contact told of the peer.
    // LINK-7.
    fn learn(&mut self, env: &mut Env<'_>, peer: &ProvenPeer, reached: Option<Address>) {
        let Some(device) = self.registry.get_mut(&peer.key) else { return };
        device.learn(peer.info.clone(), reached, self.out.turn());
        device.last_seen_unix = Some(env.unix_s);
        let change = device.change();
        self.store(env, peer.key, change, Purpose::Registry { peer: peer.key });
    }

    pub(super) fn on_accept(&mut self, env: &mut Env<'_>, stream: StreamId, id: DeviceId, body: &[u8]) {
        if let Some(root) = self.dialers.get(&id).and_then(|dialer| dialer.removed_by(stream, body)) {
            return self.on_notice(env, id, stream, root);
        }
        let taken = self.dialers.get_mut(&id).and_then(|dialer| dialer.take_waiting(cx!(self, env), stream));
        let Some((waiting, root, address)) = taken else { return self.drop_stream(env, stream, code::REFUSED) };
        let Ok(done) = waiting.on_accept(body, self.identity.device_key(), &self.info_bytes) else {
            return self.drop_stream(env, stream, code::REFUSED);
        };
        let peer = done.peer.key;
        // Its owner may have let go of the root meanwhile: a Finish would say that it holds.
        if !self.registry.holds(&peer, root) {
            return self.drop_stream(env, stream, code::DONE);
        }
        self.learn(env, &done.peer, Some(address));
        let confirms = self.registry.is_unsure(&peer, root);
        if !confirms || planted!(FinishBeforeDurable) {
            if confirms {
                self.confirm_root(env, &peer, root);
            }
            return self.finish_link(env, stream, done, root);
        }
        // As a joiner: the initiator holds this root. Confirmed on disk before the Finish may say so.
        // LINK-9.
        if self.confirm_provisional(env, peer, root, Purpose::LinkStored { stream, peer, root })
            && let Some(dialer) = self.dialers.get_mut(&id)
        {
            dialer.confirming(stream, done, root);
        }
    }

    pub(super) fn on_link_stored(&mut self, env: &mut Env<'_>, stream: StreamId, (peer, root): (PeerKey, SessionRef), stored: bool) {
        self.registry.confirmation_stored(&peer, root, stored);
        self.watch_pending(env, &peer);
        self.scan_waiting(env);
        // Whatever has become of the stream: the pairing is through.
        if stored && self.registry.holds(&peer, root) {
            self.pair_confirmed(env, &peer);
        }
        let Some(Role::Dialer(id)) = self.streams.get(&stream).map(|slot| &slot.role) else { return };
        let id = *id;
        if !stored {
            // The attempt still has its handshake, and hears that it came to nothing.
            return self.drop_stream(env, stream, code::DONE);
        }
        let Some((done, root)) = self.dialers.get_mut(&id).and_then(|dialer| dialer.take_confirmed(stream)) else { return };
        if !self.registry.holds(&peer, root) {
            return self.drop_stream(env, stream, code::DONE);
        }
        self.finish_link(env, stream, *done, root);
    }

    /// Finish, header and Ack leave in one write: the session is up on our side.
    // LINK-10.
    fn finish_link(&mut self, env: &mut Env<'_>, stream: StreamId, done: DialerDone, root: SessionRef) {
        let LinkKeys { traffic, session_ref } = done.keys;
        let Some(proven) = self.proven(stream, (done.peer.key, &done.peer.info), (session_ref, root), (traffic, true)) else { return };
        match Session::open(cx!(self, env), proven, done.finish) {
            Ok(mut session) => {
                let unconfirmed = |known: &Root| known.session_ref == root && known.state == RootState::Unconfirmed;
                if self.registry.get(&done.peer.key).is_some_and(|device| device.roots.iter().any(unconfirmed)) {
                    // The first record that comes back shows that the joiner holds the root.
                    session.confirms = Some(root);
                    session.ping(cx!(self, env));
                }
                self.session_up(env, session);
            }
            Err(_) => self.drop_stream(env, stream, code::DONE),
        }
    }

    /// Handshakes and unopened sessions of a peer that is no longer known.
    pub(super) fn drop_unfinished(&mut self, env: &mut Env<'_>, peer: PeerKey) {
        let unfinished: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, slot)| match &slot.role {
                Role::Listener(listening) => listening.peer == peer,
                Role::AwaitOpening(awaited) => awaited.proven.peer == peer,
                _ => false,
            })
            .map(|(&stream, _)| stream)
            .collect();
        for stream in unfinished {
            self.drop_stream(env, stream, code::DONE);
        }
    }
}

/// A Hello is answered once.
// LINK-3.
pub(super) fn remember(recent: &mut VecDeque<[u8; 32]>, th1: &[u8; 32]) {
    if recent.len() >= limits::RECENT_HELLOS && !planted!(RecentUnbounded) {
        recent.pop_front();
    }
    recent.push_back(*th1);
}

/// Addresses with their transports in turn, the first of each first, and a relay as a transport of its own: a few are dialled at once,
/// and one way that leads nowhere does not keep the others waiting.
pub(super) fn in_turn(addresses: impl Iterator<Item = Address>) -> Vec<Address> {
    let mut counts = BTreeMap::new();
    let mut places: Vec<(usize, Address)> = addresses
        .map(|address| {
            let count = counts.entry((address.kind.clone(), address.is_relayed())).or_insert(0_usize);
            *count += 1;
            (*count, address)
        })
        .collect();
    places.sort_by_key(|(place, _)| *place);
    places.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-3: the newest Hellos are remembered, and no more of them than the bound says.
    #[test]
    fn hellos_are_remembered_up_to_a_bound() {
        let hello = |number: usize| {
            let mut th1 = [0; 32];
            th1[..8].copy_from_slice(&(number as u64).to_be_bytes());
            th1
        };
        let mut recent = VecDeque::new();
        for number in 0..limits::RECENT_HELLOS + 2 {
            remember(&mut recent, &hello(number));
        }
        assert_eq!(recent.len(), limits::RECENT_HELLOS);
        assert!(!recent.contains(&hello(1)) && recent.contains(&hello(2)) && recent.contains(&hello(limits::RECENT_HELLOS + 1)));
    }
}
