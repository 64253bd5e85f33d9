//! The initiator: one live code, and a handshake for each stream that knew it (PROTOCOL.md, sections 6.5, 12.1, 12.2).
//!
//! ```text
//! (unproved stream) ─request─▶ ChallengeSent ─response─▶ Proved ─▶ AwaitUser ─yes─▶ Storing ─stored─▶ (control stream)
//!                                                          └──────────────────────▲
//! ```
//! A handshake is in the map from ChallengeSent on; before that a stream is an unproved one like any other. `Proved` is where
//! the Node looks into the registry. When Complete has left, the stream is a control stream that awaits its Ack. Every failure
//! takes the handshake out of the map: what is not there answers nothing.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use super::code::{CodeKeys, PairingCode};
use super::handshake::{InitiatorVerified, InitiatorWaiting, PairingKeys, ReceivedRequest, Status, VerifiedRequest};
use super::{Confirm, PairError};
use crate::effects::{Event, Stranger};
use crate::entropy::NoEntropy;
use crate::faults::{PairFailure, code};
use crate::handshake::{ProvenPeer, Refusal};
use crate::identity::{self, DeviceKey};
use crate::ids::{PeerKey, SessionId, StreamId};
use crate::info::{Binding, BindingKind};
use crate::limits;
use crate::outbox::Cx;
use crate::timers::TimerKind;

/// The one code that a device may have out.
#[derive(Debug)]
struct LiveCode {
    session: SessionId,
    keys: CodeKeys,
    confirm: Confirm,
    /// Its time is over; handshakes that had begun may finish.
    expired: bool,
    /// First flights that had the right tag, against replay.
    seen: Vec<[u8; 32]>,
    /// Handshakes past the tag that ended without success.
    ended: u32,
    /// Of these, the ones that failed to prove themselves.
    failures: u32,
}

/// Where a handshake stands.
#[derive(Debug)]
enum State {
    ChallengeSent { waiting: InitiatorWaiting, on_tcp: bool },
    Proved(InitiatorVerified),
    AwaitUser(InitiatorVerified),
    Storing(InitiatorVerified),
}

#[derive(Debug)]
struct Handshake {
    session: SessionId,
    confirm: Confirm,
    state: State,
}

/// What the Node has to do next for a handshake.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// The other side proved itself and the code is consumed: look it up and call [`Initiator::judge`].
    Judge { peer: PeerKey },
    /// Persist the record under [`Initiator::proven`], then call [`Initiator::on_stored`].
    Store,
}

/// What the registry says of a device that proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing against it.
    Welcome,
    /// As many devices are paired as can be.
    TooMany,
    /// It is blocked here.
    Blocked,
}

/// The initiator's machine.
#[derive(Debug, Default)]
pub(crate) struct Initiator {
    code: Option<LiveCode>,
    handshakes: BTreeMap<StreamId, Handshake>,
}

impl Initiator {
    /// Draws a code and makes it live.
    pub(crate) fn begin(&mut self, cx: &mut Cx<'_>, ttl: Duration, confirm: Confirm) -> Result<(SessionId, PairingCode), PairError> {
        if (self.code.is_some() || !self.handshakes.is_empty()) && !planted!(SecondCodeAccepted) {
            return Err(PairError::Busy);
        }
        // PAIR-41.
        let (shortest, longest) = limits::CODE_TTL_RANGE;
        if (ttl < shortest || ttl > longest) && !planted!(CodeLifetimeUnchecked) {
            return Err(PairError::Lifetime);
        }
        let code = PairingCode::generate(cx.entropy).map_err(|NoEntropy| PairError::NoEntropy)?;
        let keys = CodeKeys::derive(&code);
        let session = keys.session_id;
        self.code = Some(LiveCode { session, keys, confirm, expired: false, seen: Vec::new(), ended: 0, failures: 0 });
        cx.set(TimerKind::Code, ttl);
        Ok((session, code))
    }

    /// The keys under which it is said where the code can be used, as long as it can.
    pub(crate) fn published(&self) -> Option<&CodeKeys> {
        self.code.as_ref().filter(|code| !code.expired || planted!(CodePublishedWhenOver)).map(|code| &code.keys)
    }

    /// The code, and whether its time is over.
    #[cfg(feature = "testing")]
    pub(crate) fn probe_code(&self) -> Option<(SessionId, bool)> {
        self.code.as_ref().map(|code| (code.session, code.expired))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_states(&self) -> impl Iterator<Item = (StreamId, &'static str)> + '_ {
        self.handshakes.iter().map(|(&stream, handshake)| {
            let state = match handshake.state {
                State::ChallengeSent { .. } => "ChallengeSent",
                State::Proved(_) => "Proved",
                State::AwaitUser(_) => "AwaitUser",
                State::Storing(_) => "Storing",
            };
            (stream, state)
        })
    }

    /// Whether a stream is in a handshake here.
    pub(crate) fn owns(&self, stream: StreamId) -> bool {
        self.handshakes.contains_key(&stream)
    }

    /// The pairing that has a live or finishing handshake.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.code.as_ref().map(|code| code.session).or_else(|| self.handshakes.values().map(|handshake| handshake.session).next())
    }

    /// A PairingRequest on a fresh stream. True if a Challenge was sent; else the stream was reset.
    // PAIR-11.
    pub(crate) fn on_request(
        &mut self,
        cx: &mut Cx<'_>,
        stream: StreamId,
        body: &[u8],
        binding: Binding,
        own: (&DeviceKey, &[u8]),
    ) -> bool {
        let on_tcp = binding.kind == BindingKind::Tcp;
        // PAIR-14.
        let Some(request) = self.admit(body, binding) else {
            cx.reset(stream, code::REFUSED);
            if planted!(StrangersBurnCode) {
                self.count(cx, true, false);
            }
            return false;
        };
        let Some(live) = &self.code else { return false };
        let (session, confirm) = (live.session, live.confirm);
        match request.challenge(&live.keys, own.0, own.1, cx.entropy) {
            Ok((waiting, frame)) => {
                cx.send(stream, frame);
                cx.set(TimerKind::Stream(stream), limits::RESPONSE_WAIT);
                if planted!(ResponseTimerUnset) {
                    cx.timers.cancel(TimerKind::Stream(stream));
                }
                cx.set(TimerKind::Handshake(stream), limits::HANDSHAKE_WAIT);
                self.handshakes.insert(stream, Handshake { session, confirm, state: State::ChallengeSent { waiting, on_tcp } });
                true
            }
            Err(refusal) => {
                cx.reset(stream, code::REFUSED);
                self.count(cx, refusal.past_tag(), on_tcp);
                false
            }
        }
    }

    /// Steps 1 to 6 of section 6.5: everything that costs no key.
    // PAIR-16, LIM-7.
    fn admit(&mut self, body: &[u8], binding: Binding) -> Option<VerifiedRequest> {
        let running = self.handshakes.len();
        let code = self.code.as_mut().filter(|code| !code.expired)?;
        // PAIR-15.
        let request = ReceivedRequest::decode(body, &code.keys).and_then(|request| request.verify(&code.keys, binding)).ok()?;
        // PAIR-17.
        let replayed = code.seen.contains(request.th1()) && !planted!(ReplayAdmitted);
        let most = limits::CODE_HANDSHAKES_AT_ONCE + usize::from(planted!(FifthHandshake));
        if replayed || (running >= most && !planted!(HandshakesAtOnceUnbounded)) {
            return None;
        }
        if code.seen.len() >= limits::CODE_HANDSHAKES as usize && !planted!(HandshakesUnbounded) {
            return None;
        }
        code.seen.push(*request.th1());
        Some(request)
    }

    /// A handshake past the tag ended without success.
    fn count(&mut self, cx: &mut Cx<'_>, past_tag: bool, on_tcp: bool) {
        let Some(code) = &mut self.code else { return };
        code.ended += 1;
        // On bare TCP anyone on the path can corrupt a frame: that must not cost the code (section 11).
        // PAIR-39.
        #[allow(clippy::nonminimal_bool, reason = "what is planted is `false` without the feature")]
        let burns = past_tag && (!on_tcp || planted!(TcpFailuresBurn)) && !planted!(FailuresNeverBurn);
        code.failures += u32::from(burns);
        let most = limits::CODE_FAILURES + u32::from(planted!(FourthFailure));
        // PAIR-18.
        if code.failures >= most || (code.ended >= limits::CODE_HANDSHAKES && !planted!(SixteenthDoesNotBurn)) {
            self.end_code(cx, Some(PairFailure::Burned));
            return;
        }
        self.bury_expired(cx);
    }

    /// An expired code dies with its last handshake.
    fn bury_expired(&mut self, cx: &mut Cx<'_>) {
        if self.handshakes.is_empty() && self.code.as_ref().is_some_and(|code| code.expired) && !planted!(ExpiredCodeLingers) {
            self.end_code(cx, Some(PairFailure::Expired));
        }
    }

    /// Erases the code and closes every handshake that has not proved itself.
    fn end_code(&mut self, cx: &mut Cx<'_>, failure: Option<PairFailure>) {
        let Some(code) = self.code.take() else { return };
        cx.timers.cancel(TimerKind::Code);
        let unproved: Vec<StreamId> = self
            .handshakes
            .iter()
            .filter(|(_, handshake)| matches!(handshake.state, State::ChallengeSent { .. }) && !planted!(LoserGoesOn))
            .map(|(&stream, _)| stream)
            .collect();
        for stream in unproved {
            self.close(cx, stream);
        }
        if let Some(reason) = failure {
            cx.notify(Event::PairFailed { session: code.session, reason });
        }
    }

    /// Resets a stream and forgets its handshake.
    fn close(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        cx.reset(stream, code::REFUSED);
        self.drop_handshake(cx, stream);
    }

    fn drop_handshake(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Option<Handshake> {
        cx.timers.cancel(TimerKind::Stream(stream));
        cx.timers.cancel(TimerKind::Handshake(stream));
        cx.timers.cancel(TimerKind::InitiatorUser(stream));
        self.handshakes.remove(&stream)
    }

    /// A Response, or whatever else came as the second frame.
    pub(crate) fn on_response(&mut self, cx: &mut Cx<'_>, stream: StreamId, body: &[u8], own: &DeviceKey) -> Step {
        let Some(Handshake { session, confirm, state }) = self.handshakes.remove(&stream) else { return Step::Rest };
        let State::ChallengeSent { waiting, on_tcp } = state else {
            // A second message of a kind, or one for another state.
            self.close(cx, stream);
            cx.notify(Event::PairFailed { session, reason: PairFailure::Cut });
            return Step::Rest;
        };
        match waiting.on_response(body, own) {
            Ok(verified) => {
                let peer = verified.peer.key;
                self.handshakes.insert(stream, Handshake { session, confirm, state: State::Proved(verified) });
                cx.timers.cancel(TimerKind::Stream(stream));
                // Another handshake of this code may have been faster.
                if self.code.as_ref().is_none_or(|code| code.session != session) && !planted!(LoserGoesOn) {
                    self.close(cx, stream);
                    return Step::Rest;
                }
                // PAIR-27.
                if !planted!(CodeNotConsumed) {
                    self.end_code(cx, None);
                }
                Step::Judge { peer }
            }
            Err(refusal) => {
                self.close(cx, stream);
                if refusal == Refusal::SelfPairing {
                    self.end_code(cx, Some(PairFailure::SelfPairing));
                } else {
                    self.count(cx, refusal.past_tag(), on_tcp);
                }
                Step::Rest
            }
        }
    }

    /// What the registry says of the device that [`Step::Judge`] named.
    pub(crate) fn judge(&mut self, cx: &mut Cx<'_>, stream: StreamId, verdict: Verdict) -> Step {
        let Some(Handshake { session, confirm, state }) = self.handshakes.remove(&stream) else { return Step::Rest };
        let State::Proved(verified) = state else { return self.put_back(stream, Handshake { session, confirm, state }) };
        let against = match verdict {
            Verdict::Welcome => None,
            Verdict::TooMany => Some(PairFailure::TooManyDevices),
            Verdict::Blocked => Some(PairFailure::Blocked),
        };
        if let Some(why) = against {
            self.say_no(cx, stream, session, verified, (Status::Policy, why));
            return Step::Rest;
        }
        match confirm {
            Confirm::Ask => {
                cx.notify(Event::PairRequest { session, peer: stranger(&verified), check: verified.keys.check.value() });
                if !planted!(InitiatorUserTimerUnset) {
                    cx.set(TimerKind::InitiatorUser(stream), limits::USER_WAIT);
                }
                self.put_back(stream, Handshake { session, confirm, state: State::AwaitUser(verified) })
            }
            Confirm::Automatic => {
                self.put_back(stream, Handshake { session, confirm, state: State::Storing(verified) });
                Step::Store
            }
        }
    }

    fn put_back(&mut self, stream: StreamId, handshake: Handshake) -> Step {
        self.handshakes.insert(stream, handshake);
        Step::Rest
    }

    /// Complete with a reason, sealed; the stream is half-closed so that it arrives.
    fn say_no(
        &mut self,
        cx: &mut Cx<'_>,
        stream: StreamId,
        session: SessionId,
        verified: InitiatorVerified,
        (status, reason): (Status, PairFailure),
    ) {
        cx.send(stream, verified.completion.seal(status));
        // PAIR-4.
        cx.finish(stream);
        self.drop_handshake(cx, stream);
        cx.notify(Event::PairFailed { session, reason });
    }

    /// The stream whose pairing waits for the user's answer.
    pub(crate) fn asks(&self, session: SessionId) -> Option<StreamId> {
        let asks = |handshake: &Handshake| handshake.session == session && matches!(handshake.state, State::AwaitUser(_));
        self.handshakes.iter().find(|(_, handshake)| asks(handshake)).map(|(&stream, _)| stream)
    }

    /// The user's answer.
    pub(crate) fn on_answer(&mut self, cx: &mut Cx<'_>, stream: StreamId, yes: bool) -> Step {
        let Some(Handshake { session, confirm, state }) = self.handshakes.remove(&stream) else { return Step::Rest };
        let State::AwaitUser(verified) = state else { return self.put_back(stream, Handshake { session, confirm, state }) };
        cx.timers.cancel(TimerKind::InitiatorUser(stream));
        if yes || planted!(RefusalPairs) {
            self.put_back(stream, Handshake { session, confirm, state: State::Storing(verified) });
            return Step::Store;
        }
        // PAIR-28.
        self.say_no(cx, stream, session, verified, (Status::Refused, PairFailure::RefusedHere));
        Step::Rest
    }

    /// What a handshake that is storing has proved.
    pub(crate) fn proven(&self, stream: StreamId) -> Option<&InitiatorVerified> {
        match &self.handshakes.get(&stream)?.state {
            State::Storing(verified) => Some(verified),
            State::ChallengeSent { .. } | State::Proved(_) | State::AwaitUser(_) => None,
        }
    }

    /// The record is durable, or could not be written. On success Complete(0) has left and the handshake is over.
    pub(crate) fn on_stored(&mut self, cx: &mut Cx<'_>, stream: StreamId, stored: bool) -> Option<(SessionId, ProvenPeer, PairingKeys)> {
        let Handshake { session, confirm, state } = self.handshakes.remove(&stream)?;
        let State::Storing(verified) = state else {
            self.put_back(stream, Handshake { session, confirm, state });
            return None;
        };
        if !stored {
            // PAIR-30.
            self.say_no(cx, stream, session, verified, (Status::Storage, PairFailure::StorageHere));
            return None;
        }
        self.drop_handshake(cx, stream);
        let InitiatorVerified { peer, keys, completion } = verified;
        // PAIR-29.
        cx.send(stream, completion.seal(Status::Accepted));
        Some((session, peer, keys))
    }

    /// The streams whose handshakes wait for the record of this peer to be durable.
    pub(crate) fn storing(&self, peer: &PeerKey) -> Vec<StreamId> {
        let storing = |handshake: &Handshake| matches!(&handshake.state, State::Storing(verified) if verified.peer.key == *peer);
        self.handshakes.iter().filter(|(_, handshake)| storing(handshake)).map(|(&stream, _)| stream).collect()
    }

    /// The owner lets go of a device whose record is being written: that is a no, and nothing is told of the write.
    // PAIR-28.
    pub(crate) fn refuse(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        if let Some(Handshake { session, state: State::Storing(verified), .. }) = self.handshakes.remove(&stream) {
            self.say_no(cx, stream, session, verified, (Status::Refused, PairFailure::RefusedHere));
        }
    }

    /// The stream of a handshake is gone.
    pub(crate) fn on_stream_down(&mut self, cx: &mut Cx<'_>, stream: StreamId) {
        let Some(handshake) = self.drop_handshake(cx, stream) else { return };
        match handshake.state {
            State::ChallengeSent { on_tcp, .. } => self.count(cx, false, on_tcp),
            // A write that is under way ends by itself. Its record stays, unconfirmed, and no Complete will leave.
            State::Storing(_) | State::Proved(_) | State::AwaitUser(_) => {
                cx.notify(Event::PairFailed { session: handshake.session, reason: PairFailure::Cut });
            }
        }
    }

    /// The code's time is over.
    // PAIR-40.
    pub(crate) fn on_code_timer(&mut self, cx: &mut Cx<'_>) {
        if let Some(code) = &mut self.code {
            code.expired = !planted!(ExpiredCodeAccepted);
        }
        self.bury_expired(cx);
    }

    /// A step took too long, the whole handshake did, or the user.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, timer: TimerKind, stream: StreamId) -> Step {
        if matches!(timer, TimerKind::InitiatorUser(_)) {
            // No answer is a no.
            return self.on_answer(cx, stream, false);
        }
        // While a record is being written the disk's answer decides, however long it takes.
        if self.handshakes.get(&stream).is_some_and(|handshake| !matches!(handshake.state, State::Storing(_))) {
            cx.reset(stream, code::REFUSED);
            self.on_stream_down(cx, stream);
        }
        Step::Rest
    }

    /// The owner ends the pairing. False if there is none of this name.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, session: SessionId) -> bool {
        if self.session() != Some(session) {
            return false;
        }
        let had_code = self.code.is_some();
        self.end_code(cx, Some(PairFailure::Cancelled));
        if let Some(stream) = self.asks(session) {
            let _: Step = self.on_answer(cx, stream, false);
            return true;
        }
        had_code
    }
}

fn stranger(verified: &InitiatorVerified) -> Stranger {
    Stranger { device: identity::device_id(&verified.peer.key), name: verified.peer.info.shown_name(), os: verified.peer.info.os.clone() }
}
