//! A session that takes over from one that still stands: which of two goes on, and in which order they are heard (PROTOCOL.md,
//! section 9.1; LINK-12).

use alloc::vec::Vec;

use super::{Node, Role, cx};
use crate::effects::Env;
use crate::faults::LinkFailure;
use crate::ids::{DeviceId, SessionRef, StreamId};
use crate::limits;
use crate::session::machine::Session;
use crate::timers::TimerKind;

impl Node {
    /// The session that goes on, if this one crossed with it: two pairings both ways do that. Each side would give up its own for
    /// the other's; of the two, the one that the greater identity key opened counts as the newer. Both sides know whether they
    /// crossed, for a reply leaves behind a Response that left before the session was there.
    // LINK-12.
    pub(super) fn crossed_by(&self, session: &Session) -> Option<SessionRef> {
        let primary = *self.primary.get(&session.device)?;
        let other = self.sessions.get(&primary)?;
        let both_ways = other.we_opened != session.we_opened && !other.ending;
        let crossed = both_ways && other.stood.is_none_or(|stood| session.begun < stood);
        let greater = (self.identity.public() > session.peer) == other.we_opened;
        (crossed && greater && !planted!(CrossingIgnored)).then_some(primary)
    }

    /// A newer session takes over from one that still stands. What comes on the newer waits until the older was heard out: its
    /// fin, its cut, or five seconds. The side that opened the newer lets go of the older when the newer was answered.
    pub(super) fn succeed(&mut self, env: &mut Env<'_>, older: SessionRef, newer: SessionRef) {
        if planted!(OldSessionStays) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&newer) else { return };
        // Of two that crossed, the older may come last: what the newer has waited for is older than both.
        let (we_opened, elder) = (session.we_opened, session.waits_for.take());
        let Some(session) = self.sessions.get_mut(&older) else { return };
        session.waits_for = session.waits_for.or(elder);
        // Its opener does not know whether the other side had it in question.
        session.unsure = session.we_opened && session.told && !session.is_answered() && !we_opened;
        let stream = session.stream;
        if self.streams.get(&stream).is_some_and(|slot| matches!(slot.role, Role::Control(of) if of == older)) {
            self.timers.set(TimerKind::Stream(stream), self.now, limits::SUCCESSION_WAIT);
            if let Some(session) = self.sessions.get_mut(&newer) {
                session.waits_for = Some(older);
            }
        }
        let line = self.line_before(newer);
        if !we_opened {
            for older in &line {
                if let Some(older) = self.sessions.get_mut(older) {
                    older.end(cx!(self, env));
                }
            }
        }
        if let Some(&eldest) = line.get(limits::SUCCESSIONS).filter(|_| !planted!(SuccessionsUnbounded)) {
            self.session_over(env, eldest, LinkFailure::Replaced);
        }
    }

    /// Whether the peer, which opened this one, may take the present one, which we opened, for the newer: the answer to that was here
    /// first, but may have overtaken a Response that left before it. Then the peer ends this one, and the present one goes on; else it
    /// ends the present one when it has our reply to this one. Until then this one is in question: nothing is told on it, for of two
    /// that crossed only the one that goes on is heard; and what comes on it waits.
    // LINK-12.
    pub(super) fn may_have_crossed(&self, session: &Session) -> Option<SessionRef> {
        let present = self.primary.get(&session.device).and_then(|primary| self.sessions.get(primary))?;
        let greater = self.identity.public() > session.peer && !planted!(CrossingIgnored);
        let both_ways = present.we_opened && !session.we_opened;
        let crossed = present.stood.is_none_or(|stood| session.begun.since(stood) <= limits::SUCCESSION_WAIT);
        (greater && both_ways && crossed).then_some(present.session_ref)
    }

    /// The session of a device that is in question beside its primary one.
    pub(super) fn in_question(&self, device: DeviceId) -> Option<SessionRef> {
        self.sessions.values().find(|session| session.device == device && session.in_question).map(|session| session.session_ref)
    }

    /// A session is in question, for so long: then the present one is over.
    pub(super) fn await_end(&mut self, present: SessionRef) {
        if let Some(present) = self.sessions.get(&present) {
            self.timers.set(TimerKind::Stream(present.stream), self.now, limits::SUCCESSION_WAIT);
        }
    }

    /// The opener of a session in question has ended it.
    pub(super) fn dismiss(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        session.waits_for = None;
        for record in core::mem::take(&mut session.held) {
            self.on_control_record(env, session_ref, &record);
        }
    }

    /// The session that was in question has ended: the present one goes on.
    pub(super) fn await_no_more(&mut self, device: DeviceId) {
        if let Some(present) = self.primary.get(&device).and_then(|primary| self.sessions.get(primary)) {
            self.timers.cancel(TimerKind::Stream(present.stream));
        }
    }

    /// The sessions that are heard out before this one, the newest of them first.
    pub(super) fn line_before(&self, newer: SessionRef) -> Vec<SessionRef> {
        let before = |of: &SessionRef| self.sessions.get(of).and_then(|session| session.waits_for);
        core::iter::successors(before(&newer), before).collect()
    }

    /// A session was heard out, or will not be: what waited for that in the sessions that replace it is handled. `sure`: what was told on
    /// it was heard there as well.
    pub(super) fn release_heirs(&mut self, env: &mut Env<'_>, older: SessionRef, heard: bool, sure: bool) {
        while let Some(heir) = self.sessions.values_mut().find(|session| session.waits_for == Some(older)) {
            heir.waits_for = None;
            let (session_ref, device, held) = (heir.session_ref, heir.device, core::mem::take(&mut heir.held));
            // One that was left, or lost, is no heir any more.
            let primary = self.primary.get(&device).copied();
            let goes_on = primary.is_some_and(|primary| primary == session_ref || self.line_before(primary).contains(&session_ref));
            if !heard && goes_on {
                self.transfers.on_unheard(cx!(self, env), device);
            }
            for record in held {
                self.on_control_record(env, session_ref, &record);
            }
            if goes_on {
                self.transfers.on_succession(cx!(self, env), device, heard && sure);
            }
            if let Some(how) = self.sessions.get_mut(&session_ref).and_then(|heir| heir.cut.take()) {
                self.control_cut(env, session_ref, how);
            }
        }
    }

    /// A session goes on that others were to replace: nothing comes of them.
    pub(super) fn release_from(&mut self, env: &mut Env<'_>, goes_on: SessionRef) {
        while let Some(heir) = self.sessions.values_mut().find(|session| session.waits_for == Some(goes_on) && !session.in_question) {
            heir.waits_for = None;
            let session_ref = heir.session_ref;
            self.session_over(env, session_ref, LinkFailure::Cut);
        }
    }

    /// Whether a session that was replaced is to be heard out, and waits for an older one.
    pub(super) fn waits_its_turn(&self, session_ref: SessionRef) -> bool {
        let waits = |session: &Session| {
            session.waits_for.is_some() && !session.in_question && self.primary.get(&session.device) != Some(&session_ref)
        };
        self.sessions.get(&session_ref).is_some_and(waits)
    }

    /// A control stream ends on which there may be more to hear than was heard, its fin perhaps.
    pub(super) fn end_unheard(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(&Role::Control(session_ref)) = self.streams.get(&stream).map(|slot| &slot.role) else { return };
        let Some(session) = self.sessions.get(&session_ref).filter(|session| session.waits_for.is_some()) else { return };
        let device = session.device;
        if self.primary.get(&device) == Some(&session_ref)
            && let Some(other) = self.in_question(device)
        {
            // Its opener goes on with that one.
            self.take_over(env, other);
        }
        let waits_its_turn = self.waits_its_turn(session_ref);
        let Some(session) = self.sessions.get_mut(&session_ref) else { return };
        if waits_its_turn {
            // The fin has its answer now.
            return session.end(cx!(self, env));
        }
        // The newest one: whoever has left it in order has no more to say on an older.
        session.waits_for = None;
        for record in core::mem::take(&mut session.held) {
            self.on_control_record(env, session_ref, &record);
        }
    }
}
