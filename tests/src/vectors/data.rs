//! Streams, records, control messages, manifests, layouts and chunks.

use super::Context;

/// Checks the sections of sessions and transfers.
pub fn check(_ctx: &mut Context<'_>) {}
