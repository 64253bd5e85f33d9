//! Reconnects and sessions, between `session/`, the registry and the transfers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Listening, Node, Role, cx};
use crate::devices::device::{Root, RootState};
use crate::effects::{Cut, DeviceState, Env, Event, Output, Route};
use crate::faults::{Failure, LinkFailure, TransferFailure, code};
use crate::handshake::ProvenPeer;
use crate::ids::{ConnId, DeviceId, PeerKey, SessionRef, StreamId};
use crate::info::Address;
use crate::limits;
use crate::outbox::Purpose;
use crate::pairing::joiner::Bound;
use crate::session::handshake::{DialerDone, DialerWaiting, LinkKeys, ReceivedHello};
use crate::session::keys::seq_ref;
use crate::session::link::{ACCEPT_WAIT, DialStep, Dialer, GLARE};
use crate::session::machine::{Awaited, Heard, Session};
use crate::time::Timestamp;
use crate::timers::TimerKind;
use crate::transfer::machine::Peer;
use crate::wire::control::ControlMessage;
use crate::wire::header::REPLY;

impl Node {
    /// Starts, or feeds, the attempt to reach a device.
    pub(super) fn dial_device(&mut self, env: &mut Env<'_>, peer: PeerKey, first: Vec<Address>) {
        let Some(device) = self.registry.get(&peer) else { return };
        let id = device.id;
        let mut addresses = first;
        addresses.extend(in_turn(device.addresses.iter().filter(|address| self.can_dial(address)).cloned()));
        addresses.truncate(limits::JOINER_CANDIDATES);
        if let Some(dialer) = self.dialers.get_mut(&id) {
            dialer.add(cx!(self, env), addresses);
        } else if addresses.is_empty() {
            self.no_session(env, id, LinkFailure::Unreachable);
        } else {
            let dialer = Dialer::begin(cx!(self, env), id, addresses);
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
                self.connect_failed(env, id, LinkFailure::NotAccepted);
            }
            return;
        };
        let mut usable =
            device.roots.iter().filter(|root| root.state.usable(env.unix_s) && !self.out.is_storing(&device.key, root.session_ref));
        let Some(root) = usable.nth(dialer.root_number()) else {
            return self.drop_stream(env, stream, code::DONE);
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
            cx!(self, env).notify(Event::ConnectFailed { device, reason });
            let lost = if reason == LinkFailure::Violation { TransferFailure::Violation } else { TransferFailure::Lost };
            self.transfers.on_session_over(cx!(self, env), device, lost);
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
        let (device, root) = self.registry.iter().find_map(|device| {
            let fits = |root: &&Root| root.state.usable(unix_s) && hello.matches(&root.hello_key);
            device.roots.iter().find(fits).map(|root| (device, root))
        })?;
        let (id, peer, session_ref) = (device.id, device.key, root.session_ref);
        if self.out.is_storing(&peer, session_ref) {
            self.scans.waiting.push_back((stream, body.to_vec()));
            return Some(());
        }
        if self.recent_hellos.len() >= limits::RECENT_HELLOS {
            self.recent_hellos.pop_front();
        }
        self.recent_hellos.push_back(*hello.th1());
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
            Some(joiner) => joiner.confirmed_by_link(cx!(self, env)),
            None => cx!(self, env).notify(Event::PairConfirmed { device: crate::identity::device_id(peer) }),
        }
    }

    /// A handshake under this root verified as listener, or its first record as dialler: both sides hold it.
    // PAIR-36.
    fn confirm_root(&mut self, env: &mut Env<'_>, peer: &PeerKey, root: SessionRef) {
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
        // A clock may go in steps: what a pairing was told in the same step counts as older.
        let told = Timestamp::from_micros(self.now.as_micros().saturating_add(1));
        device.learn(peer.info.clone(), reached, told);
        device.last_seen_unix = Some(env.unix_s);
        let change = device.change();
        self.store(env, peer.key, change, Purpose::Registry { peer: peer.key });
    }

    pub(super) fn on_accept(&mut self, env: &mut Env<'_>, stream: StreamId, id: DeviceId, body: &[u8]) {
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

    /// A session stands: it becomes the device's primary one, and replaces an older.
    // LINK-12.
    pub(super) fn session_up(&mut self, env: &mut Env<'_>, mut session: Session) {
        let (device, peer, stream, session_ref) = (session.device, session.peer, session.stream, session.session_ref);
        let answers = !session.we_opened;
        if !self.registry.get(&peer).is_some_and(|known| known.is_paired()) {
            // Forgotten, or refused, while it came about.
            self.timers.cancel(TimerKind::Idle(session_ref));
            self.timers.cancel(TimerKind::Age(session_ref));
            self.set_role(stream, Role::Closing);
            return self.drop_stream(env, stream, code::DONE);
        }
        let own = self.identity.public();
        if let Some(root) = self.registry.get(&peer).and_then(|known| known.roots.iter().find(|root| root.session_ref == session.root)) {
            session.names = (seq_ref(&root.secret, own, peer), seq_ref(&root.secret, peer, own));
        }
        self.set_role(stream, Role::Control(session_ref));
        self.timers.cancel(TimerKind::Stream(stream));
        if let Some(dialer) = self.dialers.remove(&device) {
            let own = dialer.stream().filter(|&own| own != stream);
            dialer.end(cx!(self, env));
            if let Some(own) = own {
                self.set_role(own, Role::Closing);
                self.drop_stream(env, own, code::DONE);
            }
        }
        if let Some(own) = self.crossed_by(&session) {
            session.passed_over = true;
            self.sessions.insert(session_ref, session);
            self.succeed(env, session_ref, own);
            if answers {
                self.confirm_root(env, &peer, session_ref);
            }
            return self.try_all_early(env);
        }
        let (route, roles) = (session.route(), roles(&session));
        self.sessions.insert(session_ref, session);
        let older = self.primary.insert(device, session_ref);
        if let Some(older) = older.filter(|&older| older != session_ref) {
            self.succeed(env, older, session_ref);
        }
        self.note_route(env, &peer, route.clone());
        // The joiner's Ack confirms what the initiator wrote.
        if answers
            && !planted!(AckConfirmsNothing)
            && let Some(root) = self.registry.get(&peer).and_then(|known| known.roots.iter().find(|root| root.session_ref == session_ref))
        {
            let root = root.session_ref;
            self.confirm_root(env, &peer, root);
        }
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Connected, route: Some(route), reason: None });
        self.on_primary(env, device, roles);
        self.try_all_early(env);
    }

    /// A device has another primary session: transfers and messages go on there.
    fn on_primary(&mut self, env: &mut Env<'_>, device: DeviceId, roles: Peer) {
        let session = self.primary.get(&device).and_then(|primary| self.sessions.get(primary));
        let Some((peer, (ours, _))) = session.map(|session| (session.peer, session.names)) else { return };
        self.transfers.on_session(cx!(self, env), device, roles);
        self.messages.on_session(cx!(self, env), peer, env.unix_s, ours);
    }

    /// The session that goes on, if this one crossed with it: two pairings both ways do that. Each side would give up its own for
    /// the other's; of the two, the one that the greater identity key opened counts as the newer. Both sides know whether they
    /// crossed, for a reply leaves behind a Response that left before the session was there.
    // LINK-12.
    fn crossed_by(&self, session: &Session) -> Option<SessionRef> {
        let primary = *self.primary.get(&session.device)?;
        let other = self.sessions.get(&primary)?;
        let both_ways = other.we_opened != session.we_opened && !other.ending;
        let crossed = both_ways && other.stood.is_none_or(|stood| session.begun < stood);
        let greater = (self.identity.public() > session.peer) == other.we_opened;
        (crossed && greater && !planted!(CrossingIgnored)).then_some(primary)
    }

    /// A newer session takes over from one that still stands. What comes on the newer waits until the older was heard out: its
    /// fin, its cut, or five seconds. The side that opened the newer lets go of the older when the newer was answered.
    fn succeed(&mut self, env: &mut Env<'_>, older: SessionRef, newer: SessionRef) {
        if planted!(OldSessionStays) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&newer) else { return };
        // Of two that crossed, the older may come last: what the newer has waited for is older than both.
        let (we_opened, elder) = (session.we_opened, session.waits_for.take());
        let Some(session) = self.sessions.get_mut(&older) else { return };
        session.waits_for = session.waits_for.or(elder);
        let stream = session.stream;
        if self.streams.get(&stream).is_some_and(|slot| matches!(slot.role, Role::Control(of) if of == older)) {
            self.timers.set(TimerKind::Stream(stream), self.now, limits::SUCCESSION_WAIT);
            if let Some(session) = self.sessions.get_mut(&newer) {
                session.waits_for = Some(older);
            }
        }
        let line = self.line_before(newer);
        if !we_opened {
            let crossing = self.may_have_crossed(older, newer);
            for older in line.iter().filter(|&&of| of != older || !crossing) {
                self.sessions.get_mut(older).expect("invariant: a line is of sessions that are there").end(cx!(self, env));
            }
        }
        if let Some(&eldest) = line.get(limits::SUCCESSIONS).filter(|_| !planted!(SuccessionsUnbounded)) {
            self.session_over(env, eldest, LinkFailure::Replaced);
        }
    }

    /// Whether the peer may take the older of two, which we opened, for the newer: the answer to it was here first, but may have
    /// overtaken a Response that left before it. Then its own is ended at once, and ours goes on; else the peer ends ours.
    // LINK-12.
    fn may_have_crossed(&self, older: SessionRef, newer: SessionRef) -> bool {
        let (Some(older), Some(newer)) = (self.sessions.get(&older), self.sessions.get(&newer)) else { return false };
        let greater = self.identity.public() > newer.peer && !planted!(CrossingIgnored);
        greater && older.we_opened && older.stood.is_none_or(|stood| newer.begun.since(stood) <= limits::SUCCESSION_WAIT)
    }

    /// The sessions that are heard out before this one, the newest of them first.
    pub(super) fn line_before(&self, newer: SessionRef) -> Vec<SessionRef> {
        let before = |of: &SessionRef| self.sessions.get(of).and_then(|session| session.waits_for);
        core::iter::successors(before(&newer), before).collect()
    }

    /// A session was heard out, or will not be: what waited for that in the session that replaces it is handled.
    fn release_heir(&mut self, env: &mut Env<'_>, older: SessionRef, heard: bool) {
        let Some(heir) = self.sessions.values_mut().find(|session| session.waits_for == Some(older)) else { return };
        heir.waits_for = None;
        let (session_ref, device, held) = (heir.session_ref, heir.device, core::mem::take(&mut heir.held));
        if !heard {
            self.transfers.on_unheard(cx!(self, env), device);
        }
        for record in held {
            self.on_control_record(env, session_ref, &record);
        }
        self.transfers.on_succession(cx!(self, env), device, heard);
        if let Some(how) = self.sessions.get_mut(&session_ref).and_then(|heir| heir.cut.take()) {
            self.control_cut(env, session_ref, how);
        }
    }

    fn note_route(&mut self, env: &mut Env<'_>, peer: &PeerKey, route: Route) {
        if let Some(device) = self.registry.get_mut(peer) {
            device.last_route = Some(route);
            device.last_seen_unix = Some(env.unix_s);
            let change = device.change();
            self.store(env, *peer, change, Purpose::Registry { peer: *peer });
        }
    }

    pub(super) fn on_control_reply(&mut self, env: &mut Env<'_>, session_ref: SessionRef, reply: &[u8; REPLY]) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        let device = session.device;
        if session.on_reply(self.now, reply).is_err() {
            return self.session_over(env, session_ref, LinkFailure::Violation);
        }
        cx!(self, env).notify(Event::Answered { device });
        if self.primary.get(&device) == Some(&session_ref) && !planted!(OldSessionStays) {
            for older in self.sessions.values_mut().filter(|older| older.device == device && older.session_ref != session_ref) {
                older.end(cx!(self, env));
            }
        }
    }

    pub(super) fn on_control_record(&mut self, env: &mut Env<'_>, session_ref: SessionRef, record: &[u8]) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        let (device, peer, (_, theirs)) = (session.device, session.peer, session.names);
        if let Some(older) = session.waits_for {
            session.held.push(record.to_vec());
            if session.held.len() >= limits::HELD_RECORDS {
                self.session_over(env, older, LinkFailure::Replaced);
            }
            return;
        }
        let left = session.left;
        let heard = session.on_record(cx!(self, env), record);
        if let (Ok(_), Some(root)) = (&heard, session.confirms.take()) {
            self.confirm_root(env, &peer, root);
        }
        match heard {
            Err(_) if planted!(ForgedControlIgnored) => {}
            Err(_) => self.session_over(env, session_ref, LinkFailure::Violation),
            Ok(Heard::Fin) => self.session_over(env, session_ref, LinkFailure::Ended),
            // Behind our own goodbye nothing counts; behind the fin to one that a newer session has replaced, all.
            Ok(Heard::Messages(_)) if left || !self.primary.contains_key(&device) => {}
            Ok(Heard::Messages(messages)) => {
                for message in messages {
                    // DATA-17.
                    if self.on_message(env, (device, peer, theirs), message).is_err() {
                        return self.session_over(env, session_ref, LinkFailure::Violation);
                    }
                }
            }
        }
    }

    /// A control message that is not the session's own: about messages, or transfers.
    fn on_message(
        &mut self,
        env: &mut Env<'_>,
        (device, peer, theirs): (DeviceId, PeerKey, [u8; 16]),
        message: ControlMessage,
    ) -> Result<(), ()> {
        match message {
            ControlMessage::Message { .. } | ControlMessage::MessageReceipt { .. } => {
                self.messages.on_control(cx!(self, env), (peer, theirs), env.unix_s, message)?;
            }
            message => self.transfers.on_control(cx!(self, env), device, message).map_err(|_| ())?,
        }
        self.settle(env);
        // An Offer may be what early streams wait for.
        self.try_all_early(env);
        Ok(())
    }

    /// Whether a session that was replaced is to be heard out, and waits for an older one.
    fn waits_its_turn(&self, session_ref: SessionRef) -> bool {
        let waits = |session: &Session| session.waits_for.is_some() && self.primary.get(&session.device) != Some(&session_ref);
        self.sessions.get(&session_ref).is_some_and(waits)
    }

    /// A control stream ends on which there may be more to hear than was heard, its fin perhaps.
    pub(super) fn end_unheard(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(&Role::Control(session_ref)) = self.streams.get(&stream).map(|slot| &slot.role) else { return };
        let waits_its_turn = self.waits_its_turn(session_ref);
        let Some(session) = self.sessions.get_mut(&session_ref).filter(|session| session.waits_for.is_some()) else { return };
        if waits_its_turn {
            // The fin has its answer now.
            return session.end(cx!(self, env));
        }
        // The newest one: the peer has let go of it, and goes on with the older if it takes that for the newer.
        session.waits_for = None;
        for record in core::mem::take(&mut session.held) {
            self.on_control_record(env, session_ref, &record);
        }
    }

    /// The control stream was cut, or ended without fin.
    // DATA-12.
    pub(super) fn control_cut(&mut self, env: &mut Env<'_>, session_ref: SessionRef, how: Cut) {
        if self.waits_its_turn(session_ref)
            && let Some(session) = self.sessions.get_mut(&session_ref)
        {
            // What came on it before is heard then, its fin perhaps.
            session.retire(cx!(self, env));
            session.cut = Some(how);
            return;
        }
        let reason = match how {
            Cut::Finished if planted!(TruncationIsEnd) => LinkFailure::Ended,
            Cut::Finished | Cut::Broken => LinkFailure::Cut,
            Cut::Malformed => LinkFailure::Violation,
        };
        self.session_over(env, session_ref, reason);
    }

    /// A session's control stream is over. Its streams go on to their end under keys of their own.
    pub(super) fn session_over(&mut self, env: &mut Env<'_>, session_ref: SessionRef, reason: LinkFailure) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        let (device, peer, elder) = (session.device, session.peer, session.waits_for);
        let primary = self.primary.get(&device) == Some(&session_ref);
        if let Some(elder) = elder.filter(|_| !primary) {
            // What came on this one is still heard, before what came on its heir.
            self.session_over(env, elder, LinkFailure::Replaced);
        }
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        session.waits_for = None;
        let (stream, conn, was_ending, told) = (session.stream, session.conn, session.ending, session.told);
        // Nothing that counts is told on one that crossed, by either side.
        let heard = reason == LinkFailure::Ended || session.passed_over;
        match reason {
            // The peer's fin is answered with ours; the stream closes when both are through.
            LinkFailure::Ended | LinkFailure::Closed => session.end(cx!(self, env)),
            _ => session.retire(cx!(self, env)),
        }
        if self.streams.contains_key(&stream) {
            self.set_role(stream, Role::Closing);
            if matches!(reason, LinkFailure::Ended | LinkFailure::Closed) {
                self.timers.set(TimerKind::Stream(stream), self.now, core::time::Duration::from_secs(5));
            } else {
                self.drop_stream(env, stream, code::DONE);
            }
        }
        self.hang_up_if_unused(conn);
        if !primary {
            return self.release_heir(env, session_ref, heard);
        }
        // A renewal that came to nothing: the session that it was to replace goes on, unless it missed something.
        let other = |other: &&Session| other.device == device && other.session_ref != session_ref && !other.ending;
        let others: Vec<SessionRef> = self.sessions.values().filter(other).map(|other| other.session_ref).collect();
        let older = elder.filter(|elder| others.contains(elder)).or_else(|| others.first().copied());
        let older = older.and_then(|older| self.sessions.get(&older)).map(|older| (older.session_ref, older.stream, roles(older)));
        // What was told on one that was ended in order is heard.
        if let (Some((older, stream, roles)), false) = (older, told && reason != LinkFailure::Ended) {
            self.timers.cancel(TimerKind::Stream(stream));
            self.primary.insert(device, older);
            return self.on_primary(env, device, roles);
        }
        self.primary.remove(&device);
        for other in others {
            self.session_over(env, other, LinkFailure::Closed);
        }
        self.met.insert(device, reason);
        self.messages.on_session_over(&peer);
        let lost = if reason == LinkFailure::Violation { TransferFailure::Violation } else { TransferFailure::Lost };
        self.transfers.on_session_over(cx!(self, env), device, lost);
        let reason = if was_ending { LinkFailure::Closed } else { reason };
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Disconnected, route: None, reason: Some(reason) });
    }

    pub(super) fn on_idle(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        let busy = self.transfers.wants_session(session.device) || self.messages.wants_session(&session.peer);
        if let Some(reason) = session.on_idle(cx!(self, env), busy) {
            self.session_over(env, session_ref, reason);
        }
    }

    /// The side that opened a session renews it; the other ends one that was not.
    pub(super) fn on_age(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get_mut(&session_ref).filter(|session| !session.ending) else { return };
        let expired = self.now.since(session.born) >= limits::SESSION_LIFE;
        if expired && !planted!(SessionLifeUnlimited) {
            let device = session.device;
            if self.primary.get(&device) == Some(&session_ref) {
                self.cancel_transfers(env, device);
            }
            return self.session_over(env, session_ref, LinkFailure::Closed);
        }
        // If nothing comes of it there is time to try again, up to the end.
        let left = if expired { limits::SESSION_RENEW_AGAIN } else { limits::SESSION_LIFE.saturating_sub(self.now.since(session.born)) };
        let (peer, reached) = (session.peer, session.reached.clone());
        cx!(self, env).set(TimerKind::Age(session_ref), left.min(limits::SESSION_RENEW_AGAIN));
        if !planted!(RenewalForgotten) {
            self.dial_device(env, peer, reached.into_iter().collect());
        }
    }

    /// The secrets of a session that is over are erased.
    // LINK-15.
    pub(super) fn erase_session(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.remove(&session_ref) else { return };
        if self.streams.contains_key(&session.stream) {
            self.set_role(session.stream, Role::Closing);
            self.drop_stream(env, session.stream, code::DONE);
        }
        if self.conns.get(&session.conn).is_some_and(|conn| conn.streams.is_empty()) {
            self.out.push(Output::Hangup { conn: session.conn, code: code::DONE });
        }
    }
}

impl Node {
    /// Every session of a device that is forgotten, with its keys and its streams. A goodbye still leaves.
    pub(super) fn drop_sessions(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let gone: Vec<SessionRef> = self.sessions.iter().filter(|(_, session)| session.device == device).map(|(&gone, _)| gone).collect();
        for session_ref in gone {
            let Some(session) = self.sessions.remove(&session_ref) else { continue };
            for timer in [TimerKind::Idle(session_ref), TimerKind::Age(session_ref), TimerKind::Erase(session_ref)] {
                self.timers.cancel(timer);
            }
            self.set_role(session.stream, Role::Closing);
            let of_session = |role: &Role| match role {
                Role::Data(of) => *of == session_ref,
                Role::AwaitReply(opened) => opened.header.session() == session_ref,
                Role::Early(early) => early.session() == session_ref,
                _ => false,
            };
            let streams: Vec<StreamId> =
                self.streams.iter().filter(|(_, slot)| of_session(&slot.role)).map(|(&stream, _)| stream).collect();
            for stream in streams {
                self.drop_stream(env, stream, code::DONE);
            }
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

/// Addresses with their transports in turn, the first of each first: a few are dialled at once, and one transport that leads nowhere
/// does not keep the others waiting.
fn in_turn(addresses: impl Iterator<Item = Address>) -> Vec<Address> {
    let mut counts = BTreeMap::new();
    let mut places: Vec<(usize, Address)> = addresses
        .map(|address| {
            let count = counts.entry(address.kind.clone()).or_insert(0_usize);
            *count += 1;
            (*count, address)
        })
        .collect();
    places.sort_by_key(|(place, _)| *place);
    places.into_iter().map(|(_, address)| address).collect()
}

/// Who can open data streams: on tcp the side that dialled the control stream opens every one (section 9.2).
const fn roles(session: &Session) -> Peer {
    let (one_stream, we_opened) = (session.remote.one_stream, session.we_opened);
    Peer { can_open: we_opened || !one_stream, must_ask: one_stream && !we_opened, must_open: one_stream && we_opened }
}
