//! Pairing, between the machines of `pairing/`, the registry and the sessions.

use alloc::vec::Vec;

use super::{Node, Role, cx};
use crate::bulk::cipher::Aead;
use crate::devices::device::{Root, RootState};
use crate::devices::registry::NewPair;
use crate::effects::{Env, Event, Stranger};
use crate::faults::{Failure, LinkFailure, PairFailure, code};
use crate::handshake::Traffic as Secrets;
use crate::identity;
use crate::ids::{ConnId, PeerKey, SessionId, SessionRef, StreamId};
use crate::info::{Address, DeviceInfo};
use crate::limits;
use crate::outbox::Purpose;
use crate::pairing::handshake::PairingKeys;
use crate::pairing::initiator::{Step, Verdict};
use crate::pairing::joiner::{self, Bound};
use crate::session::keys::Traffic;
use crate::session::machine::{Awaited, Opened, Proven, Session, refuse};
use crate::session::stream::Refusal;
use crate::time::{Timestamp, Turn};
use crate::timers::TimerKind;

impl Node {
    /// The AEAD of chunks that both sides' infos allow (section 9.4).
    // DATA-20.
    pub(super) fn bulk_aead(&self, peer: &DeviceInfo) -> Aead {
        Aead::of_caps(self.info.caps, if planted!(AesUnasked) { self.info.caps } else { peer.caps })
    }

    /// Everything that a session needs, on the stream of its handshake.
    pub(super) fn proven(
        &self,
        stream: StreamId,
        peer: (PeerKey, &DeviceInfo),
        (session_ref, root): (SessionRef, SessionRef),
        (secrets, we_opened): (Secrets, bool),
    ) -> Option<Proven> {
        let conn = self.streams.get(&stream)?.conn;
        let connection = self.conns.get(&conn)?;
        let (outgoing, incoming) =
            if we_opened { (secrets.from_opener, secrets.from_answerer) } else { (secrets.from_answerer, secrets.from_opener) };
        let outgoing = if planted!(OneKeyBothWays) && !we_opened { incoming.duplicate() } else { outgoing };
        let incoming = if planted!(OneKeyBothWays) { outgoing.duplicate() } else { incoming };
        Some(Proven {
            device: identity::device_id(&peer.0),
            peer: peer.0,
            session_ref,
            root,
            begun: self.responded(stream).map_or(self.now, |(at, _)| at),
            traffic: Traffic::new(outgoing, incoming),
            aead: self.bulk_aead(peer.1),
            conn,
            stream,
            remote: connection.remote.clone(),
            reached: connection.dialed.clone(),
        })
    }

    pub(super) fn on_request(&mut self, env: &mut Env<'_>, stream: StreamId, conn: ConnId, body: &[u8]) {
        let Some(binding) = self.binding(conn) else { return self.drop_stream(env, stream, code::REFUSED) };
        let own = (self.identity.device_key(), &self.info_bytes[..]);
        if self.initiator.on_request(cx!(self, env), stream, body, binding, own) {
            self.set_role(stream, Role::Initiator);
        } else {
            self.stats.refused += 1;
            self.forget_stream(stream);
        }
    }

    pub(super) fn on_response(&mut self, env: &mut Env<'_>, stream: StreamId, body: &[u8]) {
        self.note_response(stream);
        let step = self.initiator.on_response(cx!(self, env), stream, body, self.identity.device_key());
        self.initiator_step(env, stream, step);
    }

    /// A Response comes or leaves here: from then on two sessions may cross.
    fn note_response(&mut self, stream: StreamId) {
        if let Some(slot) = self.streams.get_mut(&stream) {
            slot.responded = Some((self.now, self.out.turn()));
        }
    }

    /// When a Response passed on this stream; none did where a Finish comes with the session.
    fn responded(&self, stream: StreamId) -> Option<(Timestamp, Turn)> {
        self.streams.get(&stream)?.responded
    }

    /// Does what a handshake of the initiator asks for, until it rests.
    pub(super) fn initiator_step(&mut self, env: &mut Env<'_>, stream: StreamId, mut step: Step) {
        while let Step::Judge { peer } = step {
            // POL-5.
            let verdict = match self.registry.is_blocked(&peer) && !planted!(BlockedPairs) {
                true => Verdict::Blocked,
                false if self.registry.has_room_for(&peer) => Verdict::Welcome,
                false => Verdict::TooMany,
            };
            step = self.initiator.judge(cx!(self, env), stream, verdict);
        }
        if matches!(step, Step::Store) {
            self.store_pair(env, stream);
        }
        self.close_if_said_no(stream);
    }

    /// A stream whose handshake ended with a sealed no is read to its end, but not for long.
    fn close_if_said_no(&mut self, stream: StreamId) {
        let ours = self.streams.get(&stream).is_some_and(|slot| matches!(slot.role, Role::Initiator));
        if ours && !self.initiator.owns(stream) {
            self.set_role(stream, Role::Closing);
            self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
        }
    }

    /// A device is forgotten whose pairing, or another one, is being written: nobody may be told that it is done.
    pub(super) fn forget_while_storing(&mut self, env: &mut Env<'_>, peer: &PeerKey) {
        for stream in self.initiator.storing(peer) {
            self.initiator.refuse(cx!(self, env), stream);
            self.close_if_said_no(stream);
        }
    }

    fn store_pair(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let told = self.responded(stream).map(|(_, turn)| turn).unwrap_or_else(|| self.out.turn());
        let Some(verified) = self.initiator.proven(stream) else { return };
        let (peer, keys) = (&verified.peer, &verified.keys);
        let own = self.identity.public();
        let state = if planted!(ConfirmedOnComplete) { RootState::Confirmed } else { RootState::Unconfirmed };
        let root = Root::new(keys.root.duplicate(), keys.session_ref, state, &own, &peer.key);
        let reached = self.streams.get(&stream).and_then(|slot| self.conns.get(&slot.conn)).and_then(|conn| conn.dialed.clone());
        let pair = NewPair { peer: peer.key, info: peer.info.clone(), told, root, reached };
        let written = (peer.key, keys.session_ref);
        let purpose = Purpose::InitiatorStored { stream, peer: peer.key, session_ref: keys.session_ref };
        let change = self.registry.add(pair, env.unix_s);
        self.store(env, written.0, change, purpose);
        if planted!(CompleteBeforeDurable) {
            self.on_pair_stored(env, stream, written, true);
        }
    }

    pub(super) fn on_pair_stored(&mut self, env: &mut Env<'_>, stream: StreamId, written: (PeerKey, SessionRef), stored: bool) {
        let stored = stored || planted!(FailedWritePairs);
        let completed = self.initiator.on_stored(cx!(self, env), stream, stored);
        if stored {
            self.registry.stored(&written.0, written.1);
        } else {
            // Nothing was written: memory must not know more than the disk, also where the stream is gone by now.
            self.registry.drop_root(&written.0, written.1);
            if self.forget_said(env, written.0) {
                self.store_rows(env, written.0, false, 0);
            }
        }
        self.close_if_said_no(stream);
        // The joiner may have lost the stream, and reconnect already.
        self.scan_waiting(env);
        let Some((session, peer, keys)) = completed else { return };
        let PairingKeys { traffic, session_ref, check, .. } = keys;
        let Some(proven) = self.proven(stream, (peer.key, &peer.info), (session_ref, session_ref), (traffic, false)) else { return };
        // The joiner's user may take two minutes before the first byte.
        // PAIR-5.
        self.await_opening(stream, Awaited::new(proven), limits::COMPLETE_WAIT);
        let repaired = self.registry.get(&peer.key).is_some_and(|device| device.roots.len() > 1);
        self.keep_paired(env, identity::device_id(&peer.key), limits::COMPLETE_WAIT);
        self.out.push(crate::effects::Output::Notify(Event::Paired {
            session,
            peer: stranger(&peer.key, &peer.info),
            check: check.value(),
            confirmed: false,
            repaired,
        }));
    }

    /// The opening record of a control stream that the peer opened.
    pub(super) fn on_opening(&mut self, env: &mut Env<'_>, stream: StreamId, record: Vec<u8>) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        if let Role::AwaitOpening(awaited) = &mut slot.role
            && awaited.storing
            && awaited.held.len() < limits::HELD_RECORDS
        {
            awaited.held.push(record);
            return;
        }
        let Role::AwaitOpening(awaited) = core::mem::replace(&mut slot.role, Role::Closing) else { return };
        self.timers.cancel(TimerKind::Stream(stream));
        if awaited.link.is_some_and(|root| !self.registry.holds(&awaited.proven.peer, root)) {
            return self.drop_stream(env, stream, code::DONE);
        }
        match awaited.on_record(cx!(self, env), &record) {
            Some(Opened::Session(session)) => self.session_up(env, *session),
            Some(Opened::Refused(peer, session_ref, why)) => self.pair_refused(env, stream, (peer, session_ref), why),
            None => self.drop_stream(env, stream, code::REFUSED),
        }
    }

    /// The joiner said no after we had said yes: what this pairing wrote is deleted.
    // PAIR-37.
    fn pair_refused(&mut self, env: &mut Env<'_>, stream: StreamId, (peer, session_ref): (PeerKey, SessionRef), why: Refusal) {
        let reason = match why {
            Refusal::User => PairFailure::RefusedThere,
            Refusal::Policy => PairFailure::Policy,
            Refusal::Storage => PairFailure::StorageThere,
        };
        if !planted!(RefuseIgnored)
            && let Some(change) = self.registry.drop_root(&peer, session_ref)
        {
            self.store(env, peer, change, Purpose::Registry { peer });
        }
        let device = identity::device_id(&peer);
        cx!(self, env).notify(Event::PairRefused { device, reason });
        if self.registry.get(&peer).is_none_or(|known| !known.is_paired() && self.primary.contains_key(&device)) {
            // It may have reconnected under the root that it refuses here: no honest joiner does, and no session outlives its pair.
            self.connect_failed(env, device, LinkFailure::NotAccepted);
            self.end_all(env, device, peer);
        }
        cx!(self, env).finish(stream);
        self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
    }

    pub(super) fn join_stream_up(&mut self, env: &mut Env<'_>, stream: StreamId, conn: ConnId, session: SessionId, address: Address) {
        let binding = self.binding(conn);
        let (Some(joiner), Some(binding)) = (self.joiner.as_mut().filter(|joiner| joiner.session() == session), binding) else {
            self.out.push(crate::effects::Output::Reset { stream, code: code::DONE });
            self.out.push(crate::effects::Output::Hangup { conn, code: code::DONE });
            return;
        };
        let step = joiner.on_stream_up(cx!(self, env), stream, address, binding);
        self.adopt(stream, conn, Role::Joiner);
        self.joiner_step(env, stream, step);
    }

    pub(super) fn join_failed(&mut self, env: &mut Env<'_>, session: SessionId, address: Address, failure: Failure) {
        let Some(joiner) = self.joiner.as_mut().filter(|joiner| joiner.session() == session) else { return };
        let step = joiner.on_failed(cx!(self, env), address, failure);
        self.joiner_step(env, StreamId(0), step);
    }

    pub(super) fn on_joiner_frame(&mut self, env: &mut Env<'_>, stream: StreamId, body: &[u8]) {
        let Some(joiner) = &mut self.joiner else { return self.drop_stream(env, stream, code::DONE) };
        let step = joiner.on_frame(cx!(self, env), stream, body, self.identity.device_key());
        self.joiner_step(env, stream, step);
    }

    pub(super) fn joiner_stream_down(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(joiner) = &mut self.joiner else { return };
        let step = joiner.on_stream_down(cx!(self, env), stream);
        self.joiner_step(env, stream, step);
    }

    pub(super) fn joiner_stream_timer(&mut self, env: &mut Env<'_>, timer: TimerKind) {
        let Some(joiner) = &mut self.joiner else { return };
        let step = joiner.on_timer(cx!(self, env), timer);
        self.joiner_step(env, StreamId(0), step);
    }

    pub(super) fn on_joiner_timer(&mut self, env: &mut Env<'_>, timer: TimerKind, session: SessionId) {
        let Some(joiner) = self.joiner.as_mut().filter(|joiner| joiner.session() == session) else { return };
        let step = joiner.on_timer(cx!(self, env), timer);
        self.joiner_step(env, StreamId(0), step);
    }

    /// Does what the joiner's attempt asks for, until it rests.
    pub(super) fn joiner_step(&mut self, env: &mut Env<'_>, stream: StreamId, mut step: joiner::Step) {
        while let joiner::Step::Judge { peer } = step {
            let Some(joiner) = &mut self.joiner else { return };
            let blocked = (self.registry.is_blocked(&peer) && !planted!(BlockedPairs)).then_some(PairFailure::Blocked);
            let against = blocked.or_else(|| (!self.registry.has_room_for(&peer)).then_some(PairFailure::TooManyDevices));
            let own = (self.identity.device_key(), &self.info_bytes[..]);
            step = joiner.claim(cx!(self, env), stream, against, own);
        }
        match step {
            joiner::Step::Rest | joiner::Step::Judge { .. } => {}
            joiner::Step::StorePending => self.store_pending(env, stream),
            joiner::Step::StoreConfirmed => self.store_confirmed(env, stream),
            joiner::Step::Undo { bound, refuse } => self.undo_join(env, &bound, refuse),
            joiner::Step::Provisional { bound } => self.join_provisional(env, &bound),
            joiner::Step::Over => self.joiner = None,
        }
    }

    fn store_pending(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(joiner) = &self.joiner else { return };
        let Some((bound, keys)) = joiner.pending(stream) else { return };
        let expires = env.unix_s.saturating_add(limits::PENDING_ROOT_TTL.as_secs());
        let state = RootState::Provisional { agreed: joiner.agreed(), expires };
        let root = Root::new(keys.root.duplicate(), keys.session_ref, state, &self.identity.public(), &bound.peer);
        let reached = Some(bound.address.clone());
        let pair = NewPair { peer: bound.peer, info: bound.info.clone(), told: bound.told, root, reached };
        let peer = bound.peer;
        let change = self.registry.add(pair, env.unix_s);
        let purpose = if planted!(ResponseBeforeDurable) { Purpose::Registry { peer } } else { Purpose::PendingStored { stream, peer } };
        self.store(env, peer, change, purpose);
        if planted!(ResponseBeforeDurable) {
            self.on_pending_stored(env, stream, true);
        }
    }

    pub(super) fn on_pending_stored(&mut self, env: &mut Env<'_>, stream: StreamId, stored: bool) {
        self.note_response(stream);
        let Some(joiner) = &mut self.joiner else { return };
        if let (Some(bound), true) = (joiner.bound(), stored) {
            self.registry.stored(&bound.peer, bound.session_ref);
        }
        let step = joiner.on_stored(cx!(self, env), stream, stored);
        self.joiner_step(env, stream, step);
    }

    // PAIR-38.
    fn store_confirmed(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(bound) = self.joiner.as_ref().and_then(|joiner| joiner.bound()) else { return };
        let (peer, session_ref) = (bound.peer, bound.session_ref);
        let (info, address, told) = (bound.info.clone(), bound.address.clone(), bound.told);
        // LINK-7.
        if let Some(device) = self.registry.get_mut(&peer) {
            device.learn(info, Some(address), told);
        }
        let repaired = self.registry.get(&peer).is_some_and(|device| device.roots.len() > 1);
        // The root is gone: there is nothing to confirm, and the attempt is over.
        let Some(change) = self.registry.confirm_if_stored(&peer, session_ref) else { return self.on_confirm_stored(env, stream, false) };
        if let Some(joiner) = &mut self.joiner {
            joiner.repaired = repaired;
        }
        let purpose = if planted!(AckBeforeDurable) { Purpose::Registry { peer } } else { Purpose::ConfirmStored { stream, peer } };
        self.store(env, peer, change, purpose);
        if planted!(AckBeforeDurable) {
            self.on_confirm_stored(env, stream, true);
        }
    }

    pub(super) fn on_confirm_stored(&mut self, env: &mut Env<'_>, stream: StreamId, stored: bool) {
        let Some(mut joiner) = self.joiner.take() else { return };
        let session = joiner.session();
        let repaired = joiner.repaired;
        let bound = joiner.bound().cloned();
        let confirmed = joiner.on_confirmed(cx!(self, env), stream, stored);
        if let Some(bound) = bound {
            if stored {
                self.registry.confirmation_stored(&bound.peer, bound.session_ref, true);
            } else if let Some(change) = self.registry.take_back(&bound.peer, bound.session_ref) {
                self.store(env, bound.peer, change, Purpose::Registry { peer: bound.peer });
            }
        }
        let Some((bound, keys)) = confirmed else { return };
        let peer = stranger(&bound.peer, &bound.info);
        self.keep_paired(env, peer.device, limits::KEEP_FIRST);
        cx!(self, env).notify(Event::Paired { session, peer, check: bound.check, confirmed: true, repaired });
        let Some(PairingKeys { traffic, session_ref, .. }) = keys else {
            return self.reconnect_after_pairing(env, &bound);
        };
        let Some(proven) = self.proven(stream, (bound.peer, &bound.info), (session_ref, session_ref), (traffic, true)) else { return };
        // PAIR-32.
        match Session::open(cx!(self, env), proven, Vec::new()) {
            Ok(opened) => self.session_up(env, opened),
            Err(_) => self.drop_stream(env, stream, code::DONE),
        }
    }

    fn undo_join(&mut self, env: &mut Env<'_>, bound: &Bound, refusing: Option<(StreamId, PairingKeys)>) {
        self.joiner = None;
        // A confirmation that is being written has replaced what was there before: that comes back.
        let change = if planted!(NoKeepsPending) {
            self.registry.confirmation_stored(&bound.peer, bound.session_ref, false);
            None
        } else {
            self.registry.take_back(&bound.peer, bound.session_ref)
        };
        if let Some(change) = change {
            self.store(env, bound.peer, change, Purpose::Registry { peer: bound.peer });
        }
        let Some((stream, PairingKeys { traffic, session_ref, .. })) = refusing.filter(|_| !planted!(RefuseUntold)) else { return };
        let Some(proven) = self.proven(stream, (bound.peer, &bound.info), (session_ref, session_ref), (traffic, true)) else { return };
        refuse(cx!(self, env), &proven, Refusal::User);
        self.set_role(stream, Role::Closing);
        self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
    }

    /// The root is pending and agreed; whether the initiator holds it too, a reconnect shows.
    fn join_provisional(&mut self, env: &mut Env<'_>, bound: &Bound) {
        self.joiner = None;
        if let Some(change) = self.registry.agree(&bound.peer, bound.session_ref) {
            self.store(env, bound.peer, change, Purpose::Registry { peer: bound.peer });
        }
        self.reconnect_after_pairing(env, bound);
    }

    fn reconnect_after_pairing(&mut self, env: &mut Env<'_>, bound: &Bound) {
        self.dial_device(env, bound.peer, Vec::from([bound.address.clone()]));
    }

    /// A joiner's root that no initiator confirmed in 24 hours.
    // PAIR-44.
    pub(super) fn on_pending_expired(&mut self, env: &mut Env<'_>, peer: PeerKey, session_ref: SessionRef) {
        if planted!(PendingNeverExpires) {
            return;
        }
        if let Some(change) = self.registry.drop_root(&peer, session_ref) {
            self.store(env, peer, change, Purpose::Registry { peer });
        }
    }
}

pub(super) fn stranger(key: &PeerKey, info: &DeviceInfo) -> Stranger {
    Stranger { device: identity::device_id(key), name: info.shown_name(), os: info.os.clone() }
}
