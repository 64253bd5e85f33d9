//! Live sessions: from the first record to the erasing of their secrets (PROTOCOL.md, section 9.1).

use alloc::borrow::ToOwned as _;
use alloc::vec::Vec;

use super::{Node, Role, cx};
use crate::devices::policy::{FilePolicy, Policy};
use crate::effects::{Cut, DeviceState, Env, Event, Output, Route};
use crate::faults::{LinkFailure, TransferFailure, code};
use crate::ids::{ConnId, DeviceId, PeerKey, SessionRef, StreamId};
use crate::limits;
use crate::outbox::Purpose;
use crate::session::keys::seq_ref;
use crate::session::machine::{Heard, Session};
use crate::session::record::says_fin;
use crate::timers::TimerKind;
use crate::transfer::machine::Peer;
use crate::wire::control::{ControlMessage, DeclineReason, MessageState};
use crate::wire::header::REPLY;

impl Node {
    /// A session stands: it becomes the device's primary one, and replaces an older.
    // LINK-12.
    pub(super) fn session_up(&mut self, env: &mut Env<'_>, mut session: Session) {
        let (device, peer, stream, session_ref) = (session.device, session.peer, session.stream, session.session_ref);
        let answers = !session.we_opened;
        if !self.registry.get(&peer).is_some_and(|known| known.is_paired()) || self.registry.is_blocked(&peer) {
            // Forgotten, refused or blocked while it came about.
            self.timers.cancel(TimerKind::Idle(session_ref));
            self.timers.cancel(TimerKind::Age(session_ref));
            self.set_role(stream, Role::Closing);
            return self.drop_stream(env, stream, code::DONE);
        }
        let own = self.identity.public();
        if let Some(root) = self.registry.get(&peer).and_then(|known| known.roots.iter().find(|root| root.session_ref == session.root)) {
            session.names = (seq_ref(&root.secret, own, peer), seq_ref(&root.secret, peer, own));
        }
        self.erase_surplus(env, device);
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
        if let Some(other) = self.in_question(device) {
            // Whatever became of those two, this one is newer than both.
            self.take_over(env, other);
        }
        self.timers.cancel(TimerKind::Keep(device));
        let present = self.may_have_crossed(&session).filter(|_| !planted!(QuestionIgnored));
        (session.waits_for, session.in_question) = (present, present.is_some());
        self.sessions.insert(session_ref, session);
        match present {
            Some(present) => self.await_end(present),
            None => self.become_primary(env, session_ref),
        }
        if answers {
            self.note_held(env, session_ref);
        }
        // The joiner's Ack confirms what the initiator wrote.
        if answers
            && !planted!(AckConfirmsNothing)
            && let Some(root) = self.registry.get(&peer).and_then(|known| known.roots.iter().find(|root| root.session_ref == session_ref))
        {
            let root = root.session_ref;
            self.confirm_root(env, &peer, root);
        }
        if present.is_none() {
            self.go_on_with(env, session_ref);
        }
        self.try_all_early(env);
    }

    /// A session that was in question goes on.
    pub(super) fn take_over(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        (session.waits_for, session.in_question) = (None, false);
        self.become_primary(env, session_ref);
        self.go_on_with(env, session_ref);
    }

    /// A session is its device's primary one from here on.
    fn become_primary(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get(&session_ref) else { return };
        let (device, peer, route) = (session.device, session.peer, session.route());
        let older = self.primary.insert(device, session_ref);
        if let Some(older) = older.filter(|&older| older != session_ref) {
            self.succeed(env, older, session_ref);
        }
        self.note_route(env, &peer, route);
        // One that takes over from another goes on with it.
        let had = self.sessions_had.entry(device).or_default();
        *had += u64::from(older.is_none());
    }

    /// What waits for a session goes on in the primary one, unless what was heard on an older one meanwhile has ended it.
    fn go_on_with(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get(&session_ref) else { return };
        let (device, route, roles) = (session.device, session.route(), roles(session));
        if self.primary.get(&device) != Some(&session_ref) {
            return;
        }
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Connected, route: Some(route), reason: None });
        self.on_primary(env, device, roles);
    }

    /// A device has another primary session: transfers and messages go on there.
    fn on_primary(&mut self, env: &mut Env<'_>, device: DeviceId, roles: Peer) {
        let session = self.primary.get(&device).and_then(|primary| self.sessions.get(primary));
        let Some((peer, (ours, _))) = session.map(|session| (session.peer, session.names)) else { return };
        self.transfers.on_session(cx!(self, env), device, roles);
        self.messages.on_session(cx!(self, env), peer, env.unix_s, ours);
    }

    /// A connection goes another way: so do the sessions on it.
    // KEEP-9.
    pub(super) fn on_conn_moved(&mut self, env: &mut Env<'_>, conn: ConnId, address: &str) {
        let Some(connection) = self.conns.get_mut(&conn).filter(|connection| connection.remote.address != address) else { return };
        connection.remote.address = address.to_owned();
        let mut moved = Vec::new();
        for session in self.sessions.values_mut().filter(|session| session.conn == conn) {
            session.remote.address = address.to_owned();
            if self.primary.get(&session.device) == Some(&session.session_ref) {
                moved.push((session.device, session.peer, session.route()));
            }
        }
        for (device, peer, route) in moved {
            self.note_route(env, &peer, route.clone());
            cx!(self, env).notify(Event::Rerouted { device, route });
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

    /// A session, or an attempt to have one, has ended: the reason is kept.
    // KEEP-8.
    pub(super) fn note_end(&mut self, env: &mut Env<'_>, peer: &PeerKey, reason: LinkFailure) {
        let Some(device) = self.registry.get_mut(peer) else { return };
        let known = device.last_end.replace((reason, env.unix_s));
        // Of many attempts that come to the same, the first is written.
        if known.is_none_or(|(known, since)| known != reason || env.unix_s.saturating_sub(since) > limits::SEEN_AGAIN.as_secs()) {
            let change = device.change();
            self.store(env, *peer, change, Purpose::Registry { peer: *peer });
        }
    }

    /// What the owner lets a device do.
    pub(super) fn policy_of(&self, peer: &PeerKey) -> Policy {
        self.registry.get(peer).map(|device| device.policy.clone()).unwrap_or_default()
    }

    pub(super) fn on_control_reply(&mut self, env: &mut Env<'_>, session_ref: SessionRef, reply: &[u8; REPLY]) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        let device = session.device;
        if session.on_reply(self.now, reply).is_err() {
            return self.session_over(env, session_ref, LinkFailure::Violation);
        }
        cx!(self, env).notify(Event::Answered { device });
        self.note_held(env, session_ref);
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
            if session.held.len() >= limits::HELD_RECORDS && !planted!(HeldUnbounded) {
                self.session_over(env, older, LinkFailure::Replaced);
            } else if session.in_question && says_fin(record) {
                self.dismiss(env, session_ref);
            }
            return;
        }
        let (left, in_question) = (session.left, session.in_question);
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
                    if message == ControlMessage::Unpair {
                        return self.on_unpair(env, session_ref);
                    }
                    if in_question && !matches!(message, ControlMessage::Cancel { .. }) {
                        // Its opener has passed it over since. What it has ended it does not tell again.
                        if let Some(session) = self.sessions.get_mut(&session_ref) {
                            session.skipped = true;
                        }
                        continue;
                    }
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
            ControlMessage::Message { seq, id, .. } if !self.policy_of(&peer).messages && !planted!(MessagePolicyIgnored) => {
                // POL-3.
                self.tell(env, device, &ControlMessage::MessageReceipt { seq, id, state: MessageState::Refused });
            }
            ControlMessage::Offer(offer)
                if self.policy_of(&peer).refuses_files(offer.bytes, offer.entries)
                    && self.transfers.direction_of(device, offer.transfer).is_none() =>
            {
                let reason =
                    if self.policy_of(&peer).files == FilePolicy::Refuse { DeclineReason::Policy } else { DeclineReason::TooLarge };
                self.tell(env, device, &ControlMessage::Decline { transfer: offer.transfer, reason });
            }
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
        if self.sessions.get(&session_ref).is_some_and(|session| session.in_question) {
            self.dismiss(env, session_ref);
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
        let (device, peer) = (session.device, session.peer);
        let mut elder = session.waits_for;
        if core::mem::take(&mut session.in_question) {
            (elder, session.waits_for) = (None, None);
            let skipped = session.skipped;
            self.await_no_more(device);
            if skipped || reason != LinkFailure::Ended {
                // What did not count is made good by our senders, who offer again.
                self.transfers.on_succession(cx!(self, env), device, false);
            }
        } else if self.primary.get(&device) == Some(&session_ref)
            && let Some(other) = self.in_question(device)
        {
            self.take_over(env, other);
            if let Some(heir) = self.sessions.get_mut(&other) {
                // Its stream may be gone already; heard out or not, its heir is released below.
                heir.waits_for = Some(session_ref);
            }
        }
        let primary = self.primary.get(&device) == Some(&session_ref);
        if let Some(elder) = elder.filter(|_| !primary) {
            // What came on this one is still heard, before what came on its heir.
            self.session_over(env, elder, LinkFailure::Replaced);
        }
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        session.waits_for = None;
        let (stream, conn, was_ending, born) = (session.stream, session.conn, session.ending, session.born);
        let told = session.told;
        let lived = self.now.since(born);
        // A sender need not offer anew what a receiver has of one that crossed: so that does not wait for it.
        let heard = reason == LinkFailure::Ended || session.passed_over;
        // What its opener told before it knew of the crossing may be lost with it.
        let sure = !session.unsure && (reason == LinkFailure::Ended || !session.passed_over || session.we_opened);
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
            return self.release_heirs(env, session_ref, heard, sure);
        }
        let other = |other: &&Session| other.device == device && other.session_ref != session_ref && !other.ending;
        let others: Vec<SessionRef> = self.sessions.values().filter(other).map(|other| other.session_ref).collect();
        let other = elder.filter(|elder| others.contains(elder)).or_else(|| others.first().copied());
        let other = other.and_then(|other| self.sessions.get(&other));
        let between = |other: &&Session| {
            let of_it = |session: &Session| session.waits_for == Some(other.session_ref) && session.told;
            self.sessions.values().any(of_it)
        };
        let told = told || other.as_ref().is_some_and(between);
        // What was told on this one may be lost: the peer may never have heard of it, and wait on the other for what was told here.
        // Then both begin anew, as after any cut.
        let lost = told && reason != LinkFailure::Ended && !planted!(ToldAndLost);
        let other = other.filter(|_| !lost).map(|other| (other.session_ref, other.stream, roles(other)));
        if let Some((other, stream, roles)) = other {
            // A renewal that came to nothing, or one of two sessions that crossed: the other goes on.
            self.timers.cancel(TimerKind::Stream(stream));
            self.primary.insert(device, other);
            // It is heard out no more.
            self.release_from(env, other);
            return self.on_primary(env, device, roles);
        }
        self.primary.remove(&device);
        let alone = others.is_empty();
        for other in others {
            self.session_over(env, other, LinkFailure::Cut);
        }
        self.met.insert(device);
        self.note_end(env, &peer, reason);
        self.messages.on_session_over(&peer);
        if reason == LinkFailure::Violation && alone {
            self.transfers.on_session_over(cx!(self, env), device, TransferFailure::Violation);
        } else {
            self.transfers.on_session_lost(cx!(self, env), device);
        }
        if !planted!(ProtocolOutlivesSession) {
            self.end_protocols(env, device, code::DONE);
        }
        let reason = if was_ending { LinkFailure::Closed } else { reason };
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Disconnected, route: None, reason: Some(reason) });
        self.keep_after(env, device, reason, Some(lived));
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

    /// Of sessions that are over only so many of a device wait for their minute to end: the oldest are erased before.
    // LINK-15.
    fn erase_surplus(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let awaited = |of: &SessionRef| self.sessions.values().any(|session| session.waits_for == Some(*of));
        let over = self.sessions.values().filter(|session| session.device == device && session.ending && session.waits_for.is_none());
        let over = over.filter(|session| !awaited(&session.session_ref));
        let mut over: Vec<_> = over.map(|session| (session.born, session.session_ref)).collect();
        over.sort_unstable();
        let surplus = if planted!(SurplusKept) { 0 } else { over.len().saturating_sub(limits::SESSIONS_OVER) };
        for (_, session_ref) in over.into_iter().take(surplus) {
            self.cancel_session_timers(session_ref);
            self.erase_session(env, session_ref);
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
        self.release_heirs(env, session_ref, false, false);
    }

    /// Every session of a device that is forgotten, with its keys and its streams. A goodbye still leaves.
    pub(super) fn drop_sessions(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let gone: Vec<SessionRef> = self.sessions.iter().filter(|(_, session)| session.device == device).map(|(&gone, _)| gone).collect();
        for session_ref in gone {
            self.close_data_streams(env, session_ref);
            let Some(session) = self.sessions.remove(&session_ref) else { continue };
            self.cancel_session_timers(session_ref);
            self.set_role(session.stream, Role::Closing);
        }
    }

    pub(super) fn cancel_session_timers(&mut self, session_ref: SessionRef) {
        for timer in [TimerKind::Idle(session_ref), TimerKind::Age(session_ref), TimerKind::Erase(session_ref)] {
            self.timers.cancel(timer);
        }
    }

    /// The data streams of a session are reset.
    pub(super) fn close_data_streams(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let of_session = |role: &Role| match role {
            Role::Data(of) => *of == session_ref,
            Role::AwaitReply(opened) => opened.header.session() == session_ref,
            Role::Early(early) => early.session() == session_ref,
            _ => false,
        };
        let streams: Vec<StreamId> = self.streams.iter().filter(|(_, slot)| of_session(&slot.role)).map(|(&stream, _)| stream).collect();
        for stream in streams {
            self.drop_stream(env, stream, code::DONE);
        }
    }
}

/// Who can open data streams: on tcp the side that dialled the control stream opens every one (section 9.2).
const fn roles(session: &Session) -> Peer {
    let (one_stream, we_opened) = (session.remote.one_stream, session.we_opened);
    Peer { can_open: we_opened || !one_stream, must_ask: one_stream && !we_opened, must_open: one_stream && we_opened }
}
