//! Timers of every machine, in one table: the next deadline is a minimum, and it says why.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use crate::effects::{Deadline, TransferKey};
use crate::ids::{ConnId, DeviceId, PeerKey, SessionId, SessionRef, StreamId};
use crate::time::Timestamp;
use crate::transfer::machine::TransferTimer;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKind {
    /// The live code's life.
    Code,
    /// A connection's first stream.
    Connection(ConnId),
    /// A step of the handshake on a stream, or the wait for its proof.
    Stream(StreamId),
    /// The whole handshake on a stream.
    Handshake(StreamId),
    /// The user's answer to a pairing, as initiator (by its stream).
    InitiatorUser(StreamId),
    /// A joiner's whole attempt.
    Attempt(SessionId),
    /// A joiner's user's answer.
    JoinerUser(SessionId),
    /// The next try of a joiner's refused addresses.
    JoinerRedial(SessionId),
    /// The next try of a device's refused addresses.
    LinkRedial(DeviceId),
    /// A Hello that waits for its scan.
    Scan,
    /// The next write of rows that could not be written.
    Rows,
    /// A pending root's 24 hours.
    Pending(PeerKey, SessionRef),
    /// Silence on a session: ping, then dead.
    Idle(SessionRef),
    /// Renewal, then the end of a session.
    Age(SessionRef),
    /// Secrets of a replaced session.
    Erase(SessionRef),
    /// A connection attempt to a device.
    Connect(DeviceId),
    /// The next attempt to reach a device that is to stay connected.
    Keep(DeviceId),
    /// The faster path of a data stream.
    Faster(u64),
    /// Messages of a device: the next that expires, or a write that failed.
    Messages(PeerKey),
    /// A transfer's own.
    Transfer(TransferKey, TransferTimer),
}

impl TimerKind {
    const fn why(self) -> &'static str {
        match self {
            Self::Code => "the code's life",
            Self::Connection(_) => "the first stream of a connection",
            Self::Stream(_) => "a step of a stream",
            Self::Handshake(_) => "a whole handshake",
            Self::InitiatorUser(_) | Self::JoinerUser(_) => "the user's answer",
            Self::Attempt(_) => "a joiner's attempt",
            Self::JoinerRedial(_) | Self::LinkRedial(_) => "the next try of an address",
            Self::Scan => "a waiting hello",
            Self::Rows => "a write that failed",
            Self::Pending(..) => "an unconfirmed root",
            Self::Idle(_) => "silence on a session",
            Self::Age(_) => "a session's age",
            Self::Erase(_) => "secrets of a replaced session",
            Self::Connect(_) => "a connection attempt",
            Self::Keep(_) => "the next attempt to reach a device",
            Self::Faster(_) => "a data stream's faster path",
            Self::Messages(_) => "a message that expires or could not be written",
            Self::Transfer(_, timer) => timer.why(),
        }
    }
}

/// At most one timer of a kind runs; setting it again moves it.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<TimerKind, Timestamp>,
    queue: BTreeSet<(Timestamp, TimerKind)>,
}

impl Timers {
    pub(crate) fn set(&mut self, kind: TimerKind, now: Timestamp, after: Duration) {
        self.cancel(kind);
        let at = now + after;
        self.at.insert(kind, at);
        self.queue.insert((at, kind));
    }

    /// As [`Self::set`], unless the timer runs out before that anyway.
    pub(crate) fn set_at_latest(&mut self, kind: TimerKind, now: Timestamp, after: Duration) {
        if self.at.get(&kind).is_none_or(|&at| at > now + after) {
            self.set(kind, now, after);
        }
    }

    pub(crate) fn cancel(&mut self, kind: TimerKind) {
        if let Some(at) = self.at.remove(&kind) {
            self.queue.remove(&(at, kind));
        }
    }

    pub(crate) fn is_set(&self, kind: TimerKind) -> bool {
        self.at.contains_key(&kind)
    }

    /// The pending roots of a peer that have a timer.
    pub(crate) fn pending_of(&self, peer: &PeerKey) -> impl Iterator<Item = SessionRef> + '_ {
        let all = TimerKind::Pending(*peer, SessionRef([0; 16]))..=TimerKind::Pending(*peer, SessionRef([0xff; 16]));
        self.at.range(all).filter_map(|(kind, _)| if let TimerKind::Pending(_, root) = kind { Some(*root) } else { None })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_len(&self) -> usize {
        self.at.len()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_due(&self, now: Timestamp) -> usize {
        self.queue.iter().take_while(|(at, _)| *at <= now).count()
    }

    pub(crate) fn next(&self) -> Option<Deadline> {
        self.queue.first().map(|&(at, kind)| Deadline { at, why: kind.why() })
    }

    /// Takes out the earliest timer that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<TimerKind> {
        let &(at, kind) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.cancel(kind);
        Some(kind)
    }
}
