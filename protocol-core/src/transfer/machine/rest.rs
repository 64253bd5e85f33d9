//! Transfers that rest because one of the two owners wants it (PROTOCOL.md, XFER-30).

use super::{Io, Stop, Transfers, UnknownTransfer};
use crate::effects::{Direction, Event, TransferKey};
use crate::faults::CancelReason;
use crate::limits;
use crate::outbox::Cx;
use crate::wire::control::ControlMessage;

/// Who has a transfer rest: our owner, until he lets it go on, and the other side, until it says so or its session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) here: bool,
    pub(super) there: bool,
}

impl Rest {
    pub(super) const fn any(self) -> bool {
        self.here || self.there
    }

    /// Tells the other side what our owner wants.
    pub(super) fn tell(self, io: &mut Io<'_, '_>) {
        let transfer = io.key.id;
        io.tell(if self.here { ControlMessage::Pause { transfer } } else { ControlMessage::Resume { transfer } });
    }

    /// The other side has said this. It may change its mind, but not for ever.
    pub(super) fn said(self, turns: &mut u32, there: bool) -> Result<Self, Stop> {
        *turns += u32::from(there != self.there);
        if *turns > limits::PAUSE_TURNS && !planted!(PausesUnbounded) {
            return Err(Stop::Cancel(CancelReason::Policy));
        }
        Ok(Self { there, ..self })
    }

    /// Our owner is told, if it is another than it was; whether it is.
    pub(super) fn become_of(&mut self, io: &mut Io<'_, '_>, rest: Self) -> bool {
        let changes = *self != rest;
        *self = rest;
        if changes {
            io.notify(Event::Paused { transfer: io.key, here: rest.here, there: rest.there });
        }
        changes
    }
}

impl Transfers {
    /// The owner has a transfer rest, or go on.
    // XFER-30.
    pub(crate) fn pause(&mut self, cx: &mut Cx<'_>, key: TransferKey, paused: bool) -> Result<(), UnknownTransfer> {
        match key.direction {
            Direction::Outgoing => {
                self.senders.get(&key).ok_or(UnknownTransfer)?;
                self.with_sender(cx, key, |sender, io| sender.pause(io, paused));
            }
            Direction::Incoming => {
                self.receivers.get(&key).filter(|receiver| receiver.can_rest()).ok_or(UnknownTransfer)?;
                self.with_receiver(cx, key, |receiver, io| receiver.pause(io, paused));
            }
        }
        Ok(())
    }
}
