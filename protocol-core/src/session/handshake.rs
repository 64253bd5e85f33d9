//! The reconnect handshake as pure steps (PROTOCOL.md, sections 8 and 10).
//!
//! ```text
//!   DialerWaiting::hello ────── Hello ──▶ ReceivedHello::decode
//!                                         ReceivedHello::matches      which root?
//!   DialerWaiting::on_accept ◀─ Accept ── ReceivedHello::accept
//!   DialerDone::finish ──────── Finish ─▶ ListenerWaiting::on_finish
//! ```
//!
//! The dialer may send records right behind its Finish. The listener commits nothing before that verified.

use alloc::vec::Vec;

use crate::crypto::kdf::put_lp;
use crate::handshake::Traffic;
use crate::ids::{PeerKey, SessionRef};

mod dialer;
mod listener;
pub mod notice;
pub mod schedule;

pub use dialer::{DialerDone, DialerWaiting};
pub use listener::{ListenerDone, ListenerWaiting, ReceivedHello};

/// What both sides of a reconnect have in the end.
#[derive(Debug)]
pub struct LinkKeys {
    /// The secrets of the session, whose opener is the dialer. Never persisted.
    pub traffic: Traffic,
    /// The session's public name.
    pub session_ref: SessionRef,
}

/// `lp(first) ‖ lp(second)`: the context of keys that belong to an ordered pair of devices.
pub(super) fn ordered_pair(first: &PeerKey, second: &PeerKey) -> Vec<u8> {
    let mut pair = Vec::with_capacity(72);
    put_lp(&mut pair, &first.0);
    put_lp(&mut pair, &second.0);
    pair
}

#[cfg(test)]
mod tests;
