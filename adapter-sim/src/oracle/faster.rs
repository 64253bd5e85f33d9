//! DATA-29: data may go over a faster transport than its session, and where that leads nowhere it goes as if there were none.

use std::collections::BTreeMap;

use protocol_core::effects::TransferKey;
use protocol_core::faults::TransferFailure;
use protocol_core::limits;

use super::Oracle;
use crate::{Dev, World};

/// Data streams that are dialled over a faster transport than that of their session, by their numbers, and since when.
pub(super) type Dialled = BTreeMap<(Dev, u32, u64), u64>;

/// Time that a device may take for what needs no time, in microseconds.
const AT_ONCE: u64 = 100_000;

impl Oracle {
    /// Nobody waits for longer than `FASTER_WAIT` before the session's own connection has its turn.
    pub(super) fn check_faster(&mut self, world: &World, dev: Dev) {
        let Some(node) = world.node_of(dev) else { return };
        let (now, life) = (world.micros(), world.life(dev));
        let dialled: Vec<u64> = node.probe_faster().collect();
        if dialled.is_empty() && self.dialled.is_empty() {
            return;
        }
        let most = limits::FASTER_WAIT.as_micros() as u64 + AT_ONCE;
        let late = self.dialled.iter().any(|(&(of, of_life, _), since)| of == dev && of_life == life && since + most < now);
        self.check("DATA-29", !late || !self.manners.prompt, || {
            format!("device {} waits for a faster transport for more than {most} µs", dev.0)
        });
        self.dialled.retain(|(of, of_life, number), _| *of != dev || *of_life == life && dialled.contains(number));
        for number in dialled {
            self.dialled.entry((dev, life, number)).or_insert(now);
        }
    }

    /// Where dials alone come to nothing, no transfer does whose session carries its streams itself.
    pub(super) fn check_carried(&mut self, world: &World, dev: Dev, key: TransferKey, reason: TransferFailure) {
        let Some(peer) = world.dev_of_id(key.device).filter(|_| self.manners.carries && reason == TransferFailure::Lost) else { return };
        let stands = |dev: Dev, peer: Dev| {
            let key = world.key(peer);
            let sessions = world.node_of(dev)?.probe_sessions().into_iter();
            let mut carries = sessions.filter(|session| session.primary && session.peer == key && !session.one_stream);
            carries.next().map(|session| session.session_ref)
        };
        let carried = stands(dev, peer).is_some_and(|session| stands(peer, dev) == Some(session));
        self.check("DATA-29", !carried, || format!("device {} loses a transfer whose session stands and carries streams", dev.0));
    }
}
