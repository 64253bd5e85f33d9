//! The joiner: one attempt for each typed code, over several connections (PROTOCOL.md, sections 6.5 and 12.3).
//!
//! ```text
//! a try:    AwaitChallenge ─challenge─▶ Storing ─stored─▶ ResponseSent ─Complete 0─▶ (AwaitUser) ─▶ Confirming ─stored─▶ done
//! attempt:  Searching ──the first identity that proves itself claims the slot──▶ Bound ─▶ paired, failed or provisional
//! ```
//! Whatever goes wrong takes the try out of the map: what is not there answers nothing.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use super::code::{CodeKeys, PairingCode};
use super::handshake::{AwaitedComplete, JoinerFinal, JoinerVerified, JoinerWaiting, PairingKeys, Status};
use super::{Confirm, PairError};
use crate::effects::{Event, Stranger};
use crate::faults::{Failure, PairFailure, code};
use crate::handshake::Refusal;
use crate::identity::{self, DeviceKey};
use crate::ids::{PeerKey, SessionId, StreamId};
use crate::info::{Address, Binding, DeviceInfo};
use crate::limits;
use crate::outbox::{Cx, Purpose};
use crate::time::{Timestamp, Turn};
use crate::timers::TimerKind;
use crate::wire::deframer::StreamName;

/// How long an address that refuses is tried again, and how often.
const REFUSED_FOR: Duration = Duration::from_secs(30);
const REFUSED_EVERY: Duration = Duration::from_millis(500);
/// How often an address that was found is tried, while nobody answers there.
const FOUND_EVERY: Duration = Duration::from_secs(5);

/// After our user's no: how long Complete is awaited, so that the no can be told.
const REFUSE_WAIT: Duration = Duration::from_secs(2);

/// Where a try stands.
#[derive(Debug)]
enum State {
    AwaitChallenge(Box<JoinerWaiting>),
    Proved(Box<JoinerVerified>),
    Storing {
        keys: PairingKeys,
        complete: AwaitedComplete,
        response: Vec<u8>,
    },
    ResponseSent {
        keys: PairingKeys,
        complete: AwaitedComplete,
    },
    AwaitUser(PairingKeys),
    Confirming(PairingKeys),
    /// Confirming, and the stream is gone: the next reconnect stands in for the Ack.
    ConfirmingCut,
}

#[derive(Debug)]
struct Try {
    address: Address,
    state: State,
}

/// Whom this attempt has bound itself to.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) peer: PeerKey,
    pub(crate) info: DeviceInfo,
    /// When that was said.
    pub(crate) told: Turn,
    pub(crate) session_ref: crate::ids::SessionRef,
    pub(crate) check: u32,
    pub(crate) address: Address,
}

/// A joiner's attempt.
#[derive(Debug)]
pub(crate) struct Joiner {
    session: SessionId,
    keys: CodeKeys,
    confirm: Confirm,
    waiting: VecDeque<Address>,
    /// Dials and opens under way.
    dialing: Vec<Address>,
    /// No address was given: the host looks for some, and the attempt lasts until its time is over.
    searching: bool,
    /// Until when a refused address is tried again.
    refused_until: Timestamp,
    refused: VecDeque<Address>,
    tries: BTreeMap<StreamId, Try>,
    bound: Option<Bound>,
    /// The user's or the policy's word, once it is known.
    answer: Option<bool>,
    /// What went wrong most tellingly so far.
    failure: PairFailure,
    /// The confirmed root replaced another.
    pub(crate) repaired: bool,
}

/// What the Node has to do next for an attempt.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// The initiator proved itself: look it up, then [`Joiner::claim`].
    Judge { peer: PeerKey },
    /// Persist the pending root under [`Joiner::pending`], then [`Joiner::on_stored`].
    StorePending,
    /// Persist the confirmation, then [`Joiner::on_confirmed`].
    StoreConfirmed,
    /// Delete the pending root; the attempt is over and its failure was told. With `refuse` the control stream is opened
    /// once, for a sealed Refuse.
    Undo { bound: Bound, refuse: Option<(StreamId, PairingKeys)> },
    /// The stream ended too early and the answer is yes: the pending root stays, and a reconnect finishes the pairing.
    Provisional { bound: Bound },
    /// Over before anything was stored; its failure was told.
    Over,
}

impl Joiner {
    /// Starts an attempt. Dials are pushed at once.
    ///
    /// Without an address it waits for those that are found, if the host `searches`.
    // PAIR-50.
    pub(crate) fn begin(
        cx: &mut Cx<'_>,
        code: &PairingCode,
        addresses: &[Address],
        confirm: Confirm,
        searches: bool,
    ) -> Result<Self, PairError> {
        let searching = addresses.is_empty();
        if searching && !searches {
            return Err(PairError::NoAddress);
        }
        let keys = CodeKeys::derive(code);
        let session = keys.session_id;
        let mut joiner = Self {
            session,
            keys,
            confirm,
            waiting: addresses
                .iter()
                .take(if planted!(CandidatesUnbounded) { usize::MAX } else { limits::JOINER_CANDIDATES })
                .cloned()
                .collect(),
            dialing: Vec::new(),
            searching,
            refused_until: cx.now + REFUSED_FOR,
            refused: VecDeque::new(),
            tries: BTreeMap::new(),
            bound: None,
            answer: (confirm == Confirm::Automatic).then_some(true),
            failure: PairFailure::NotFound,
            repaired: false,
        };
        cx.set(TimerKind::Attempt(session), limits::ATTEMPT_WAIT);
        joiner.dial_more(cx);
        Ok(joiner)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_connections(&self) -> usize {
        self.dialing.len() + self.tries.len()
    }

    /// The attempt as a whole: that of its furthest try, and `Provisional` where a try was, and is gone while the question stays.
    #[cfg(feature = "testing")]
    pub(crate) fn probe_state(&self) -> &'static str {
        let state = |attempt: &Try| match attempt.state {
            State::AwaitChallenge(_) => "AwaitChallenge",
            State::Proved(_) => "Proved",
            State::Storing { .. } => "Storing",
            State::ResponseSent { .. } => "ResponseSent",
            State::AwaitUser(_) => "AwaitUser",
            State::Confirming(_) => "Confirming",
            State::ConfirmingCut => "ConfirmingCut",
        };
        let none = if self.bound.is_some() { "Provisional" } else { "Searching" };
        self.tries.values().next().map_or(none, state)
    }

    pub(crate) const fn session(&self) -> SessionId {
        self.session
    }

    /// Whom the attempt is bound to, and where a stream of it leads.
    pub(crate) const fn bound(&self) -> Option<&Bound> {
        self.bound.as_ref()
    }

    /// Whether the user's answer is awaited.
    pub(crate) const fn asks(&self) -> bool {
        self.answer.is_none() && self.bound.is_some()
    }

    /// The stream of the try that goes on; 0 if there is none.
    pub(crate) fn stream(&self) -> StreamId {
        self.tries.keys().next().copied().unwrap_or(StreamId(0))
    }

    /// The user's word so far.
    pub(crate) const fn agreed(&self) -> bool {
        matches!(self.answer, Some(true))
    }

    fn dial_more(&mut self, cx: &mut Cx<'_>) {
        // PAIR-43.
        let most = if planted!(JoinerConnectionsUnbounded) { usize::MAX } else { limits::JOINER_CONNECTIONS };
        while self.bound.is_none() && self.dialing.len() + self.tries.len() < most {
            let Some(address) = self.waiting.pop_front() else { return };
            self.dialing.push(address.clone());
            cx.dial(address.clone(), Purpose::Join { session: self.session, address });
        }
    }

    /// A dial or an open has ended.
    fn dialed(&mut self, address: &Address) {
        if let Some(at) = self.dialing.iter().position(|dialing| dialing == address) {
            self.dialing.swap_remove(at);
        }
    }

    /// What opens the records that are looked for, while they are.
    pub(crate) fn seeks(&self) -> Option<&CodeKeys> {
        (self.searching && (self.bound.is_none() || planted!(SoughtThoughFound))).then_some(&self.keys)
    }

    /// A record of the initiator said that it is here. Which of several is the newest is not known: each is tried.
    // PAIR-50.
    pub(crate) fn found(&mut self, cx: &mut Cx<'_>, addresses: &[Address]) {
        if self.seeks().is_none() {
            return;
        }
        for address in addresses {
            let trying = self.tries.values().map(|attempt| &attempt.address);
            let mut known = self.waiting.iter().chain(&self.refused).chain(&self.dialing).chain(trying);
            if known.clone().count() < limits::FOUND_ADDRESSES && !known.any(|of| of == address) {
                self.waiting.push_back(address.clone());
            }
        }
        self.dial_more(cx);
    }

    /// A connection is up: the joiner opens the stream, whoever dialled.
    pub(crate) fn on_connected(&mut self, cx: &mut Cx<'_>, conn: crate::ids::ConnId, address: Address) -> bool {
        if self.bound.is_some() {
            self.dialed(&address);
            return false;
        }
        cx.open(conn, StreamName::Pair, Purpose::Join { session: self.session, address });
        true
    }

    /// A dial or an open failed.
    pub(crate) fn on_failed(&mut self, cx: &mut Cx<'_>, address: Address, failure: Failure) -> Step {
        self.dialed(&address);
        if failure.may_pass() && self.bound.is_none() && cx.now < self.refused_until {
            self.refused.push_back(address);
            cx.set(TimerKind::JoinerRedial(self.session), REFUSED_EVERY);
        } else if self.seeks().is_some() && !planted!(FoundNotRetried) {
            self.refused.push_back(address);
            if !cx.timers.is_set(TimerKind::JoinerRedial(self.session)) {
                cx.set(TimerKind::JoinerRedial(self.session), FOUND_EVERY);
            }
        }
        self.go_on(cx)
    }

    /// Time to try refused addresses again.
    pub(crate) fn on_redial(&mut self, cx: &mut Cx<'_>) {
        self.waiting.append(&mut self.refused);
        self.dial_more(cx);
    }

    /// Dials what is left; the attempt is over if nothing is.
    fn go_on(&mut self, cx: &mut Cx<'_>) -> Step {
        self.dial_more(cx);
        let hopeless =
            !self.searching && self.dialing.is_empty() && self.tries.is_empty() && self.waiting.is_empty() && self.refused.is_empty();
        if hopeless && self.bound.is_none() { self.over(cx, self.failure) } else { Step::Rest }
    }

    fn over(&mut self, cx: &mut Cx<'_>, reason: PairFailure) -> Step {
        self.clear_timers(cx);
        cx.notify(Event::PairFailed { session: self.session, reason });
        Step::Over
    }

    /// The attempt is over: its timers stop, and dials and writes that are still under way are nobody's.
    fn clear_timers(&mut self, cx: &mut Cx<'_>) {
        cx.out.forget(|purpose| match purpose {
            Purpose::Join { session, .. } => *session == self.session,
            Purpose::PendingStored { stream, .. } | Purpose::ConfirmStored { stream, .. } => self.tries.contains_key(stream),
            _ => false,
        });
        for timer in [TimerKind::Attempt(self.session), TimerKind::JoinerUser(self.session), TimerKind::JoinerRedial(self.session)] {
            cx.timers.cancel(timer);
        }
        let streams: Vec<StreamId> = self.tries.keys().copied().collect();
        for stream in streams {
            self.drop_try(cx, stream);
        }
    }

    fn drop_try(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Option<Try> {
        cx.timers.cancel(TimerKind::Stream(stream));
        self.tries.remove(&stream)
    }

    /// The pairing stream is open: send PairingRequest.
    pub(crate) fn on_stream_up(&mut self, cx: &mut Cx<'_>, stream: StreamId, address: Address, binding: Binding) -> Step {
        self.dialed(&address);
        if self.bound.is_some() {
            cx.reset(stream, code::DONE);
            return Step::Rest;
        }
        match JoinerWaiting::start(&self.keys, binding, cx.entropy) {
            Ok((waiting, frame)) => {
                cx.send(stream, frame);
                if !planted!(ChallengeTimerUnset) {
                    cx.set(TimerKind::Stream(stream), limits::CHALLENGE_WAIT);
                }
                self.tries.insert(stream, Try { address, state: State::AwaitChallenge(Box::new(waiting)) });
                Step::Rest
            }
            Err(_) => {
                cx.reset(stream, code::DONE);
                self.failure = PairFailure::NoEntropy;
                self.go_on(cx)
            }
        }
    }

    /// A handshake frame: Challenge, Complete, or one that has no business here.
    pub(crate) fn on_frame(&mut self, cx: &mut Cx<'_>, stream: StreamId, body: &[u8], own: &DeviceKey) -> Step {
        let Some(Try { address, state }) = self.drop_try(cx, stream) else { return Step::Rest };
        match state {
            State::AwaitChallenge(waiting) => match waiting.on_challenge(body, &self.keys, own) {
                Ok(verified) => {
                    let peer = verified.peer().key;
                    self.tries.insert(stream, Try { address, state: State::Proved(Box::new(verified)) });
                    Step::Judge { peer }
                }
                Err(refusal) => {
                    cx.reset(stream, code::REFUSED);
                    self.failure = if refusal == Refusal::SelfPairing { PairFailure::SelfPairing } else { PairFailure::NotAccepted };
                    self.go_on(cx)
                }
            },
            State::ResponseSent { keys, complete } => match complete.on_complete(body) {
                Ok(Status::Accepted) => self.completed(cx, stream, address, keys),
                Ok(_) if planted!(StatusIgnored) => self.completed(cx, stream, address, keys),
                Ok(status) => {
                    // PAIR-34.
                    let reason = match status {
                        Status::Refused | Status::Accepted => PairFailure::RefusedThere,
                        Status::Policy => PairFailure::Policy,
                        Status::Storage => PairFailure::StorageThere,
                    };
                    cx.reset(stream, code::DONE);
                    self.undo(cx, reason, None)
                }
                Err(_) => {
                    cx.reset(stream, code::REFUSED);
                    self.provisional(cx)
                }
            },
            // No Response was sent: nobody was asked, and the root is nobody's.
            state @ (State::Proved(_) | State::Storing { .. }) => {
                cx.reset(stream, code::REFUSED);
                self.tries.insert(stream, Try { address, state });
                self.on_stream_down(cx, stream)
            }
            State::Confirming(_) | State::ConfirmingCut => {
                cx.reset(stream, code::REFUSED);
                self.tries.insert(stream, Try { address, state: State::ConfirmingCut });
                Step::Rest
            }
            State::AwaitUser(_) => {
                cx.reset(stream, code::REFUSED);
                self.provisional(cx)
            }
        }
    }

    fn completed(&mut self, cx: &mut Cx<'_>, stream: StreamId, address: Address, keys: PairingKeys) -> Step {
        match self.answer {
            Some(true) => {
                self.tries.insert(stream, Try { address, state: State::Confirming(keys) });
                Step::StoreConfirmed
            }
            None => {
                self.tries.insert(stream, Try { address, state: State::AwaitUser(keys) });
                Step::Rest
            }
            // PAIR-33.
            Some(false) => self.undo(cx, PairFailure::RefusedHere, Some((stream, keys))),
        }
    }

    /// What the registry says of the initiator that proved itself: `None` if nothing stands against it. The first identity
    /// that gets this far is the only one that this code's Response is ever sent to.
    pub(crate) fn claim(&mut self, cx: &mut Cx<'_>, stream: StreamId, against: Option<PairFailure>, own: (&DeviceKey, &[u8])) -> Step {
        let Some(Try { address, state }) = self.drop_try(cx, stream) else { return Step::Rest };
        let State::Proved(verified) = state else { return Step::Rest };
        // PAIR-22.
        let taken = self.bound.as_ref().is_some_and(|bound| bound.peer != verified.peer().key) && !planted!(SlotNotExclusive);
        if taken || against.is_some() {
            cx.reset(stream, code::REFUSED);
            self.failure = against.unwrap_or(self.failure);
            return self.go_on(cx);
        }
        let (JoinerFinal { peer, keys, complete }, response) = verified.respond(own.0, own.1);
        let (session_ref, check) = (keys.session_ref, keys.check.value());
        self.bound = Some(Bound { peer: peer.key, info: peer.info, told: cx.out.turn(), session_ref, check, address: address.clone() });
        self.close_others(cx);
        self.tries.insert(stream, Try { address, state: State::Storing { keys, complete, response } });
        Step::StorePending
    }

    /// Every other connection of this attempt has lost the race.
    fn close_others(&mut self, cx: &mut Cx<'_>) {
        if planted!(SlotNotExclusive) {
            return;
        }
        self.waiting.clear();
        self.refused.clear();
        cx.timers.cancel(TimerKind::JoinerRedial(self.session));
        let others: Vec<StreamId> = self.tries.keys().copied().collect();
        for other in others {
            cx.reset(other, code::DONE);
            self.drop_try(cx, other);
        }
    }

    /// What is to be stored: the bound identity, and the root of the try that is storing.
    pub(crate) fn pending(&self, stream: StreamId) -> Option<(&Bound, &PairingKeys)> {
        match &self.tries.get(&stream)?.state {
            State::Storing { keys, .. } => Some((self.bound.as_ref()?, keys)),
            State::AwaitChallenge(_)
            | State::Proved(_)
            | State::ResponseSent { .. }
            | State::AwaitUser(_)
            | State::Confirming(_)
            | State::ConfirmingCut => None,
        }
    }

    /// The pending root is durable, or could not be written.
    pub(crate) fn on_stored(&mut self, cx: &mut Cx<'_>, stream: StreamId, stored: bool) -> Step {
        let Some(Try { address, state }) = self.drop_try(cx, stream) else { return Step::Rest };
        let (State::Storing { keys, complete, response }, Some(bound)) = (state, &self.bound) else { return Step::Rest };
        if !stored {
            cx.reset(stream, code::DONE);
            return self.undo(cx, PairFailure::StorageHere, None);
        }
        if self.answer == Some(false) {
            cx.reset(stream, code::DONE);
            return self.undo(cx, PairFailure::RefusedHere, None);
        }
        // PAIR-23.
        cx.send(stream, response);
        if self.confirm == Confirm::Ask {
            let peer = Stranger { device: identity::device_id(&bound.peer), name: bound.info.shown_name(), os: bound.info.os.clone() };
            cx.notify(Event::PairRequest { session: self.session, peer, check: bound.check });
            if !planted!(JoinerUserTimerUnset) {
                cx.set(TimerKind::JoinerUser(self.session), limits::USER_WAIT);
            }
        }
        if !planted!(CompleteTimerUnset) {
            cx.set(TimerKind::Stream(stream), limits::COMPLETE_WAIT);
        }
        self.tries.insert(stream, Try { address, state: State::ResponseSent { keys, complete } });
        Step::Rest
    }

    /// The user's answer. A yes on a provisional root must be persisted by the Node (`Step::Provisional` says so again).
    pub(crate) fn on_answer(&mut self, cx: &mut Cx<'_>, yes: bool) -> Step {
        if self.answer.is_some() || self.bound.is_none() {
            return Step::Rest;
        }
        cx.timers.cancel(TimerKind::JoinerUser(self.session));
        self.answer = Some(yes);
        let stream = self.tries.keys().next().copied();
        let waits = stream.is_some_and(|stream| matches!(self.tries[&stream].state, State::AwaitUser(_)));
        let Some(stream) = stream else {
            // The stream is gone already: the pending root is all there is.
            return if yes { self.provisional(cx) } else { self.undo(cx, PairFailure::RefusedHere, None) };
        };
        if !waits {
            // Complete is still to come, or the write: a yes is used then. A no is told if Complete 0 comes soon; else the
            // stream is closed, and the initiator finds nobody there.
            if !yes {
                cx.set(TimerKind::Stream(stream), REFUSE_WAIT);
            }
            return Step::Rest;
        }
        let Some(Try { address, state }) = self.drop_try(cx, stream) else { return Step::Rest };
        match (state, yes) {
            (State::AwaitUser(keys), _) => self.completed(cx, stream, address, keys),
            (state, _) => {
                self.tries.insert(stream, Try { address, state });
                Step::Rest
            }
        }
    }

    /// The confirmation is durable, or could not be written. On success: the keys of the session to open on this
    /// stream, unless it is gone.
    pub(crate) fn on_confirmed(&mut self, cx: &mut Cx<'_>, stream: StreamId, stored: bool) -> Option<(Bound, Option<PairingKeys>)> {
        let Try { state, .. } = self.drop_try(cx, stream)?;
        let keys = match state {
            State::Confirming(keys) => Some(keys),
            State::ConfirmingCut => None,
            State::AwaitChallenge(_) | State::Proved(_) | State::Storing { .. } | State::ResponseSent { .. } | State::AwaitUser(_) => {
                return None;
            }
        };
        let bound = self.bound.clone()?;
        self.clear_timers(cx);
        if !stored {
            cx.reset(stream, code::DONE);
            cx.notify(Event::PairFailed { session: self.session, reason: PairFailure::StorageHere });
            return None;
        }
        Some((bound, keys))
    }

    /// A reconnect has confirmed the root durably: the attempt is over, and so is what it has under way.
    pub(crate) fn confirmed_by_link(mut self, cx: &mut Cx<'_>) {
        let streams: Vec<StreamId> = self.tries.keys().copied().collect();
        for stream in streams {
            cx.reset(stream, code::DONE);
        }
        self.clear_timers(cx);
        let Some(bound) = &self.bound else { return };
        let peer = Stranger { device: identity::device_id(&bound.peer), name: bound.info.shown_name(), os: bound.info.os.clone() };
        let (session, check, repaired) = (self.session, bound.check, self.repaired);
        cx.notify(Event::Paired { session, peer, check, confirmed: true, repaired });
    }

    /// Ends an attempt that has stored something; the failure is told here.
    fn undo(&mut self, cx: &mut Cx<'_>, reason: PairFailure, refuse: Option<(StreamId, PairingKeys)>) -> Step {
        let Some(bound) = self.bound.clone() else { return self.over(cx, reason) };
        self.clear_timers(cx);
        cx.notify(Event::PairFailed { session: self.session, reason });
        if planted!(FailureToldTwice) {
            cx.notify(Event::PairFailed { session: self.session, reason });
        }
        Step::Undo { bound, refuse }
    }

    /// The stream is gone and the root may or may not be the initiator's as well.
    // PAIR-35.
    fn provisional(&mut self, cx: &mut Cx<'_>) -> Step {
        let Some(bound) = self.bound.clone() else { return self.go_on(cx) };
        match self.answer {
            _ if planted!(CutDeletesPending) => self.undo(cx, PairFailure::NotAccepted, None),
            Some(false) => self.undo(cx, PairFailure::RefusedHere, None),
            // The question stays: the pending root opens nothing until it is answered.
            None => Step::Rest,
            Some(true) => {
                self.clear_timers(cx);
                cx.notify(Event::PairUnfinished { session: self.session, device: identity::device_id(&bound.peer) });
                Step::Provisional { bound }
            }
        }
    }

    /// A stream of this attempt is gone.
    pub(crate) fn on_stream_down(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Step {
        let Some(ended) = self.drop_try(cx, stream) else { return Step::Rest };
        match ended.state {
            State::AwaitChallenge(_) | State::Proved(_) => {
                self.failure = PairFailure::NotAccepted;
                self.go_on(cx)
            }
            // The write ends by itself; no Response was sent, so the root is nobody's: deleted when the attempt ends.
            State::Storing { .. } => {
                cx.out.forget(|purpose| matches!(purpose, Purpose::PendingStored { stream: of, .. } if *of == stream));
                self.undo(cx, PairFailure::NotAccepted, None)
            }
            State::ResponseSent { .. } | State::AwaitUser(_) => self.provisional(cx),
            State::Confirming(_) | State::ConfirmingCut => {
                self.tries.insert(stream, Try { address: ended.address, state: State::ConfirmingCut });
                Step::Rest
            }
        }
    }

    /// A timer of this attempt.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, timer: TimerKind) -> Step {
        match timer {
            TimerKind::Stream(stream) => {
                cx.reset(stream, code::REFUSED);
                self.on_stream_down(cx, stream)
            }
            // PAIR-25.
            TimerKind::JoinerUser(_) => self.on_answer(cx, planted!(JoinerSilenceIsYes)),
            TimerKind::JoinerRedial(_) => {
                self.on_redial(cx);
                Step::Rest
            }
            // Once an initiator was found the handshake's own timers count.
            TimerKind::Attempt(_) if self.bound.is_some() => Step::Rest,
            TimerKind::Attempt(_) => self.cancel(cx, PairFailure::NotFound),
            // Timers of others are not routed here.
            _ => Step::Rest,
        }
    }

    /// The owner, or the attempt's time, ends it.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, reason: PairFailure) -> Step {
        // An initiator that has completed is told.
        let completed = self.tries.iter().find(|(_, attempt)| matches!(attempt.state, State::AwaitUser(_))).map(|(&stream, _)| stream);
        let refuse = completed.and_then(|stream| match self.drop_try(cx, stream)?.state {
            State::AwaitUser(keys) => Some((stream, keys)),
            _ => None,
        });
        let streams: Vec<StreamId> = self.tries.keys().copied().collect();
        for stream in streams {
            cx.reset(stream, code::DONE);
        }
        self.undo(cx, reason, refuse)
    }
}
