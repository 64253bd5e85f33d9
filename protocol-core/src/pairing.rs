//! Pairing: two devices meet once, over twelve words (PROTOCOL.md, sections 5, 6 and 12).

use core::fmt;
use core::time::Duration;

use crate::ids::SessionId;

pub mod advertisement;
pub mod code;
pub mod handshake;
pub(crate) mod initiator;
pub(crate) mod joiner;

pub use self::code::{CodeError, PairingCode};
pub use self::handshake::Status;

/// Who decides whether a device that proved the code is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// The user, who sees the other's name and the check number.
    Ask,
    /// Nobody: for tests and devices without a screen.
    Automatic,
}

/// A code that was drawn: show the words, and start nothing else with it.
#[derive(Debug)]
pub struct PairingInvite {
    /// The pairing's public name: events carry it.
    pub session: SessionId,
    /// The words.
    pub code: PairingCode,
    /// How long the code lives.
    pub ttl: Duration,
}

/// Why a pairing could not be started. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairError {
    /// Another pairing of this role is under way: wait for its end, or cancel it.
    Busy,
    /// A code lives five to ten minutes.
    Lifetime,
    /// No address to go to.
    NoAddress,
    /// The code is the one that this device shows: nobody else has it.
    OwnCode,
    /// The random source failed.
    NoEntropy,
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "another pairing is under way",
            Self::Lifetime => "a code lives five to ten minutes",
            Self::NoAddress => "no address to find the other device at",
            Self::OwnCode => "this is the same device; a code is for another device",
            Self::NoEntropy => "the system's random source failed",
        })
    }
}

impl core::error::Error for PairError {}
