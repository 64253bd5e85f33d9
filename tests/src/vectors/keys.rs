//! Identity, code, advertisement, pairing, reconnect and rendezvous.

use super::Context;

/// Checks the sections of identities and handshakes.
pub fn check(_ctx: &mut Context<'_>) {}
