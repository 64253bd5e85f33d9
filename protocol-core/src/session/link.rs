//! Reconnecting: who dials where, and what a listener does before it knows who is there (PROTOCOL.md, section 8).
//!
//! ```text
//! dialler:   candidates ─ConnUp─▶ open ─▶ Hello sent ─Accept─▶ (confirm a pending root) ─▶ Finish, header, Ack: session
//! listener:  Hello ─▶ scan of the roots ─▶ Accept sent ─Finish─▶ Awaited (session/machine.rs)
//! ```

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use super::handshake::{DialerDone, DialerWaiting};
use crate::faults::{Failure, LinkFailure};
use crate::ids::{ConnId, DeviceId, SessionRef, StreamId};
use crate::info::Address;
use crate::limits;
use crate::outbox::{Cx, Purpose};
use crate::time::Timestamp;
use crate::timers::TimerKind;
use crate::wire::deframer::StreamName;
use crate::wire::handshake::Notice;

/// Addresses that are dialled at once.
const AT_ONCE: usize = 4;
/// How long an address that refuses is tried again, and how often.
const REFUSED_FOR: Duration = Duration::from_secs(30);
const REFUSED_EVERY: Duration = Duration::from_millis(500);
/// How long a Hello of ours counts as overlapping with one of theirs.
pub(crate) const GLARE: Duration = Duration::from_secs(2);
/// After a refusal that may be glare: how long the peer's own handshake is awaited.
const GLARE_WAIT: Duration = Duration::from_secs(1);
/// A whole connection attempt.
const CONNECT_WAIT: Duration = Duration::from_secs(60);
/// How long addresses are awaited that a host may find, from the beginning of an attempt.
const LOOK_WAIT: Duration = Duration::from_secs(5);
/// Hello sent, Accept awaited.
pub(crate) const ACCEPT_WAIT: Duration = Duration::from_secs(10);

/// The one handshake that an attempt has under way.
#[derive(Debug)]
pub(crate) enum Trying {
    /// A stream was asked for.
    Opening,
    /// Hello left; Accept is awaited.
    HelloSent { stream: StreamId, at: Timestamp, waiting: Box<DialerWaiting>, root: SessionRef },
    /// Accept verified; the confirmation of a pending root is being written.
    Confirming { stream: StreamId, done: Box<DialerDone>, root: SessionRef },
}

/// An attempt to reach one device.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) device: DeviceId,
    /// Addresses to dial, each with the number of roots that were refused there.
    waiting: VecDeque<(Address, usize)>,
    refused: VecDeque<Address>,
    known: BTreeSet<Address>,
    dialing: usize,
    refused_until: Timestamp,
    /// Addresses that refused when nobody had asked.
    given_up: Vec<Address>,
    /// Until when an address may still be found; none: nobody looks for any.
    looks_until: Option<Timestamp>,
    trying: Option<(Address, usize, Trying)>,
    failure: LinkFailure,
}

/// What the Node has to do next for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialStep {
    /// Nothing.
    Rest,
    /// Nothing is left to try: the attempt is over.
    Over(LinkFailure),
}

impl Dialer {
    /// Starts an attempt. If nobody asked for it, an address that refuses is not tried again: the next attempt will.
    /// A host that `searches` may find more addresses.
    // KEEP-3.
    pub(crate) fn begin(cx: &mut Cx<'_>, device: DeviceId, addresses: Vec<Address>, asked: bool, searches: bool) -> Self {
        let mut dialer = Self {
            device,
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
            given_up: Vec::new(),
            known: BTreeSet::new(),
            dialing: 0,
            refused_until: if asked { cx.now + REFUSED_FOR } else { cx.now },
            looks_until: searches.then(|| cx.now + LOOK_WAIT),
            trying: None,
            failure: LinkFailure::Unreachable,
        };
        cx.set(TimerKind::Connect(device), if addresses.is_empty() { LOOK_WAIT } else { CONNECT_WAIT });
        dialer.add(cx, addresses);
        dialer
    }

    /// A record of the device said that it is here.
    // DISC-4.
    pub(crate) fn found(&mut self, cx: &mut Cx<'_>, addresses: Vec<Address>) {
        let mut fresh: Vec<Address> = addresses.into_iter().filter(|address| !self.known.contains(address)).collect();
        fresh.truncate(limits::FOUND_ADDRESSES.saturating_sub(self.known.len()));
        if !fresh.is_empty() {
            cx.set(TimerKind::Connect(self.device), CONNECT_WAIT);
            self.add(cx, fresh);
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) const fn probe_dials(&self) -> usize {
        self.dialing
    }

    #[cfg(feature = "testing")]
    pub(crate) const fn probe_state(&self) -> &'static str {
        match &self.trying {
            Some((_, _, Trying::Opening)) => "Opening",
            Some((_, _, Trying::HelloSent { .. })) => "HelloSent",
            Some((_, _, Trying::Confirming { .. })) => "Confirming",
            None if self.dialing > 0 => "Dialling",
            None => "Waiting",
        }
    }

    /// Somebody asks for it now: what has refused is tried again.
    // LINK-13.
    pub(crate) fn asked(&mut self, cx: &mut Cx<'_>) {
        self.refused_until = cx.now + REFUSED_FOR;
        if !self.given_up.is_empty() {
            self.refused.extend(self.given_up.drain(..));
            cx.set(TimerKind::LinkRedial(self.device), REFUSED_EVERY);
            cx.set(TimerKind::Connect(self.device), CONNECT_WAIT);
        }
    }

    /// More addresses to try.
    pub(crate) fn add(&mut self, cx: &mut Cx<'_>, addresses: Vec<Address>) {
        for address in addresses {
            if self.known.insert(address.clone()) {
                self.waiting.push_back((address, 0));
            }
        }
        self.dial_more(cx);
    }

    fn dial_more(&mut self, cx: &mut Cx<'_>) {
        while self.trying.is_none() && self.dialing < AT_ONCE {
            let Some((address, refusals)) = self.waiting.pop_front() else { return };
            self.dialing += 1;
            cx.dial(address.clone(), Purpose::Link { device: self.device, address, refusals });
        }
    }

    /// A connection is up. False: another address was faster; the connection is not needed (its address may be, later).
    pub(crate) fn on_connected(&mut self, cx: &mut Cx<'_>, conn: ConnId, address: Address, refusals: usize) -> bool {
        self.dialing -= 1;
        if self.trying.is_some() {
            self.waiting.push_back((address, refusals));
            return false;
        }
        cx.open(conn, StreamName::Link, Purpose::Link { device: self.device, address: address.clone(), refusals });
        self.trying = Some((address, refusals, Trying::Opening));
        true
    }

    /// The stream is open and Hello was made for it.
    pub(crate) fn hello_sent(&mut self, cx: &mut Cx<'_>, stream: StreamId, waiting: DialerWaiting, root: SessionRef) {
        if let Some((_, _, trying)) = &mut self.trying {
            *trying = Trying::HelloSent { stream, at: cx.now, waiting: Box::new(waiting), root };
            cx.set(TimerKind::Stream(stream), ACCEPT_WAIT);
        }
    }

    /// Whether the attempt has asked for this stream and still wants it.
    pub(crate) const fn is_opening(&self) -> bool {
        matches!(self.trying, Some((_, _, Trying::Opening)))
    }

    /// Which of the pair's roots is to be tried now: how many were refused at this address.
    // LINK-2.
    pub(crate) fn root_number(&self) -> usize {
        self.trying.as_ref().map_or(0, |(_, refusals, _)| *refusals)
    }

    /// The peer's own handshake goes on instead of ours: ours is taken up again only if nothing comes of that.
    pub(crate) fn pause(&mut self, cx: &mut Cx<'_>, roots: usize) {
        if let Some((address, refusals, _)) = self.trying.take()
            && refusals < roots
        {
            self.refused.push_back(address);
        }
        cx.set(TimerKind::LinkRedial(self.device), ACCEPT_WAIT);
    }

    /// Takes the handshake that awaits its Accept on this stream.
    pub(crate) fn take_waiting(&mut self, cx: &mut Cx<'_>, stream: StreamId) -> Option<(Box<DialerWaiting>, SessionRef, Address)> {
        match self.trying.take() {
            Some((address, refusals, Trying::HelloSent { stream: own, waiting, root, .. })) if own == stream => {
                cx.timers.cancel(TimerKind::Stream(stream));
                self.trying = Some((address.clone(), refusals, Trying::Opening));
                Some((waiting, root, address))
            }
            other => {
                self.trying = other;
                None
            }
        }
    }

    /// Accept verified under a root that must be confirmed before Finish leaves.
    pub(crate) fn confirming(&mut self, stream: StreamId, done: DialerDone, root: SessionRef) {
        if let Some((_, _, trying)) = &mut self.trying {
            *trying = Trying::Confirming { stream, done: Box::new(done), root };
        }
    }

    /// Takes the handshake whose confirmation is durable. Its stream may still come to nothing.
    pub(crate) fn take_confirmed(&mut self, stream: StreamId) -> Option<(Box<DialerDone>, SessionRef)> {
        match self.trying.take() {
            Some((address, refusals, Trying::Confirming { stream: own, done, root })) if own == stream => {
                self.trying = Some((address, refusals, Trying::Opening));
                Some((done, root))
            }
            other => {
                self.trying = other;
                None
            }
        }
    }

    /// The stream of the handshake under way.
    pub(crate) const fn stream(&self) -> Option<StreamId> {
        match &self.trying {
            Some((_, _, Trying::HelloSent { stream, .. } | Trying::Confirming { stream, .. })) => Some(*stream),
            Some((_, _, Trying::Opening)) | None => None,
        }
    }

    /// A Hello of this peer came: does it overlap with one of ours (section 8, glare)?
    pub(crate) fn overlaps(&self, now: Timestamp) -> bool {
        match &self.trying {
            Some((_, _, Trying::HelloSent { at, .. })) => now.since(*at) <= GLARE,
            Some((_, _, Trying::Confirming { .. })) => true,
            Some((_, _, Trying::Opening)) | None => false,
        }
    }

    /// A dial or an open failed.
    pub(crate) fn on_failed(&mut self, cx: &mut Cx<'_>, address: Address, failure: Failure) -> DialStep {
        if self.is_opening() && self.trying.as_ref().is_some_and(|(tried, ..)| *tried == address) {
            self.trying = None;
        } else {
            self.dialing -= 1;
        }
        // LINK-13.
        if failure.may_pass() && !planted!(RefusedNotRetried) {
            if cx.now < self.refused_until {
                self.refused.push_back(address);
                cx.set(TimerKind::LinkRedial(self.device), REFUSED_EVERY);
            } else {
                self.given_up.push(address);
            }
        }
        self.go_on(cx)
    }

    /// Time to try refused addresses again.
    pub(crate) fn on_redial(&mut self, cx: &mut Cx<'_>) {
        self.waiting.extend(core::mem::take(&mut self.refused).into_iter().map(|address| (address, 0)));
        self.dial_more(cx);
    }

    /// The handshake under way came to nothing: reset, cut, silent, or what came did not verify. `roots` is how many the pair
    /// has: an older one may be the one that the peer still holds.
    ///
    /// Where the peer is the preferred dialler it may have refused because its own Hello is on its way here.
    pub(crate) fn on_refused(&mut self, cx: &mut Cx<'_>, roots: usize, peer_preferred: bool) -> DialStep {
        // That one root was removed says more than that another is not accepted.
        if self.failure != LinkFailure::Removed {
            self.failure = LinkFailure::NotAccepted;
        }
        let tried = self.trying.take();
        let glare = peer_preferred && matches!(&tried, Some((_, _, Trying::HelloSent { at, .. })) if cx.now.since(*at) <= GLARE);
        if let Some((address, refusals, _)) = tried
            && refusals + 1 < roots
            && !planted!(OlderRootsUntried)
        {
            self.waiting.push_front((address, refusals + 1));
        }
        match self.go_on(cx) {
            DialStep::Over(_) if glare => {
                cx.set(TimerKind::Connect(self.device), GLARE_WAIT);
                DialStep::Rest
            }
            step => step,
        }
    }

    /// The root under which our Hello left on this stream, if the answer is the peer's proof that it has removed that.
    // UNP-5.
    pub(crate) fn removed_by(&self, stream: StreamId, body: &[u8]) -> Option<SessionRef> {
        match &self.trying {
            Some((_, _, Trying::HelloSent { stream: own, waiting, root, .. })) if *own == stream => {
                let proven = waiting.is_notice(body) || (planted!(NoticeUnchecked) && Notice::decode(body).is_ok());
                proven.then_some(*root)
            }
            _ => None,
        }
    }

    /// It has: an older root may still hold there.
    pub(crate) fn on_removed(&mut self, cx: &mut Cx<'_>, roots: usize) -> DialStep {
        self.failure = LinkFailure::Removed;
        let step = self.on_refused(cx, roots, false);
        if matches!(step, DialStep::Over(_)) { DialStep::Over(LinkFailure::Removed) } else { step }
    }

    /// What went wrong so far.
    pub(crate) const fn failure(&self) -> LinkFailure {
        self.failure
    }

    fn go_on(&mut self, cx: &mut Cx<'_>) -> DialStep {
        self.dial_more(cx);
        let hopeless = self.trying.is_none() && self.dialing == 0 && self.waiting.is_empty() && self.refused.is_empty();
        // Who has removed the pairing was reached: no other address leads to somebody else.
        let looks = hopeless && self.failure != LinkFailure::Removed && !planted!(LookNotAwaited);
        match self.looks_until.filter(|until| looks && *until > cx.now) {
            Some(until) => {
                cx.set(TimerKind::Connect(self.device), until.since(cx.now));
                DialStep::Rest
            }
            None if hopeless => DialStep::Over(self.failure),
            None => DialStep::Rest,
        }
    }

    /// The attempt is over, one way or the other. Dials that are still under way are nobody's: another attempt counts its own.
    pub(crate) fn end(self, cx: &mut Cx<'_>) {
        cx.out.forget(|purpose| matches!(purpose, Purpose::Link { device, .. } if *device == self.device));
        cx.timers.cancel(TimerKind::Connect(self.device));
        cx.timers.cancel(TimerKind::LinkRedial(self.device));
        if let Some(stream) = self.stream() {
            cx.timers.cancel(TimerKind::Stream(stream));
        }
    }
}

/// The bound on scans of all roots: a bucket that fills again every second (section 11).
#[derive(Debug)]
pub(crate) struct Scans {
    left: u32,
    filled: Timestamp,
    /// Hellos that wait for the next second, oldest first, with their bodies.
    pub(crate) waiting: VecDeque<(StreamId, Vec<u8>)>,
}

impl Scans {
    pub(crate) const fn new() -> Self {
        Self { left: limits::ROOT_SCANS_PER_SECOND, filled: Timestamp::from_micros(0), waiting: VecDeque::new() }
    }

    /// Takes one scan, if there is one left in this second.
    // LINK-4.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        if now.since(self.filled) >= Duration::from_secs(1) {
            self.filled = now;
            self.left = limits::ROOT_SCANS_PER_SECOND;
        }
        let any = self.left > 0 || planted!(ScansUnbounded);
        self.left = self.left.saturating_sub(u32::from(any));
        any
    }
}
