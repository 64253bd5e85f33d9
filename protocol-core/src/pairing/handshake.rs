//! The pairing handshake as pure steps (PROTOCOL.md, section 6).
//!
//! ```text
//!   JoinerWaiting::start ── PairingRequest ──▶ ReceivedRequest::decode
//!                                              ReceivedRequest::verify      the tag
//!   JoinerWaiting::on_challenge ◀─ Challenge ─ VerifiedRequest::challenge
//!   JoinerVerified::respond ──── Response ───▶ InitiatorWaiting::on_response
//!   AwaitedComplete::on_complete ◀ Complete ── Completion::seal
//! ```
//!
//! What needs a clock, a store or a person stands between these steps and is not here: whether the code lives, whether the request was
//! seen before, whether the peer was revoked, what is persisted before a frame leaves, and who says yes.

use core::fmt;

use crate::crypto::secret::Secret;
use crate::handshake::Traffic;
use crate::ids::SessionRef;

mod initiator;
mod joiner;
pub mod schedule;

pub use initiator::{Completion, InitiatorVerified, InitiatorWaiting, ReceivedRequest, VerifiedRequest};
pub use joiner::{AwaitedComplete, JoinerFinal, JoinerVerified, JoinerWaiting};

/// What both sides of a pairing have in the end, and nobody else.
#[derive(Debug)]
pub struct PairingKeys {
    /// The root of every later session. Persisted, sealed.
    pub root: Secret,
    /// The secrets of the first session, whose opener is the joiner. Never persisted.
    pub traffic: Traffic,
    /// The first session's public name.
    pub session_ref: SessionRef,
    /// The number that the two users may compare.
    pub check: CheckNumber,
}

/// Six digits that are equal on both screens unless someone stands between (section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckNumber(u32);

impl CheckNumber {
    /// The number, below 10^6.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CheckNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03} {:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The initiator's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The record is durable.
    Accepted,
    /// The user said no, or did not answer.
    Refused,
    /// A policy said no: too many devices, or blocked.
    Policy,
    /// The record could not be stored.
    Storage,
}

impl Status {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::Refused => 1,
            Self::Policy => 2,
            Self::Storage => 3,
        }
    }

    /// The status of this byte.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Accepted),
            1 => Some(Self::Refused),
            2 => Some(Self::Policy),
            3 => Some(Self::Storage),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
