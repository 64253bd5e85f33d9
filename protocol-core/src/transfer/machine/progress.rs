//! How far a transfer is, told about ten times a second.

use core::time::Duration;

use super::Io;
use crate::effects::Event;
use crate::time::Timestamp;

/// Between two progress events of a transfer.
const EVERY: Duration = Duration::from_millis(100);

/// Bytes of the wanted chunks.
#[derive(Default)]
pub(super) struct Progress {
    /// Left here, or written here.
    pub(super) moved: u64,
    /// Durable at the receiver. Only grows.
    pub(super) durable: u64,
    /// Of these, the ones that were durable when the transfer last went on after an interruption.
    pub(super) resumed: u64,
    /// In all. Shrinks when chunks are given up.
    pub(super) total: u64,
    told_at: Option<Timestamp>,
    told: Option<(u64, u64, u64)>,
}

impl Progress {
    /// Tells the owner, unless that was done a moment ago.
    pub(super) fn tell(&mut self, io: &mut Io<'_, '_>) {
        if self.told_at.is_none_or(|at| io.cx.now.since(at) >= EVERY) {
            self.tell_now(io);
        }
    }

    /// Tells the owner, unless nothing changed.
    pub(super) fn tell_now(&mut self, io: &mut Io<'_, '_>) {
        let now = (self.moved, self.durable, self.total);
        if self.told != Some(now) {
            self.told = Some(now);
            self.told_at = Some(io.cx.now);
            io.notify(Event::Progress { transfer: io.key, moved: self.moved, durable: self.durable, total: self.total });
        }
    }
}
