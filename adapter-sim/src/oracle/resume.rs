//! Transfers that lose their session: they wait for the next one, not for ever and not alone; what is durable is kept, and what is done
//! stays done.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::effects::{Direction, Event, TransferKey};
use protocol_core::faults::{FileFault, TransferFailure};
use protocol_core::limits;

use super::Oracle;
use crate::{Dev, World};

/// A device's transfer, in one life.
type Place = (Dev, u32, TransferKey);

/// What was told of interruptions.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// When transfers lost their session, as far as they have not gone on.
    suspended: BTreeMap<Place, u64>,
    /// Offers of this device that were taken.
    accepted: BTreeSet<Place>,
    /// What came and is done.
    done: BTreeSet<Place>,
    /// Lives that their owner has ended.
    closed: BTreeSet<(Dev, u32)>,
}

impl Oracle {
    /// An owner ends a process.
    pub(crate) fn on_shutdown(&mut self, world: &World, dev: Dev) {
        self.resume.closed.insert((dev, world.life(dev)));
    }

    /// What an event says of interruptions.
    pub(super) fn on_resume(&mut self, world: &World, dev: Dev, event: &Event) {
        let place = |key: &TransferKey| (dev, world.life(dev), *key);
        match event {
            Event::Suspended { transfer } => {
                self.check_goes_on(world, dev, *transfer);
                self.resume.suspended.insert(place(transfer), world.micros());
            }
            Event::Resumed { transfer, durable } => {
                self.check_goes_on(world, dev, *transfer);
                self.check_still_durable(world, dev, transfer, *durable);
                self.resume.suspended.remove(&place(transfer));
                self.note_session(world, dev, *transfer);
            }
            Event::Accepted { transfer } => drop(self.resume.accepted.insert(place(transfer))),
            Event::Offered { transfer, .. } => self.check_offered_again(world, dev, *transfer),
            Event::Done { transfer, .. } => {
                self.resume.suspended.remove(&place(transfer));
                self.resume.done.insert(place(transfer));
            }
            Event::Failed { transfer, reason } => {
                self.check_patience(world, dev, *transfer, *reason);
                self.check_what_is_kept(world, dev, *transfer, *reason);
                self.resume.suspended.remove(&place(transfer));
            }
            Event::Entry { transfer, fault, .. } => self.check_whose_fault(dev, *transfer, *fault),
            _ => {}
        }
    }

    /// XFER-15: what was durable is so no more only where it was thrown away, which a sender learns when the transfer goes on.
    fn check_still_durable(&mut self, world: &World, dev: Dev, key: &TransferKey, durable: u64) {
        self.check_durable(world, dev, key, durable);
        let told = self.told.entry((dev, world.life(dev), *key)).or_default();
        if key.direction == Direction::Outgoing {
            told.durable = told.durable.min(durable);
        }
        let before = told.durable;
        self.check("S28", before <= durable, || format!("device {} goes on with {durable} bytes where {before} were durable", dev.0));
    }

    fn check_goes_on(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let ended = self.told.get(&(dev, world.life(dev), key)).is_some_and(|told| told.ended);
        self.check("S25", !ended, || format!("device {} was told that a transfer goes on after its end", dev.0));
    }

    /// XFER-21: a sender whose offer was taken does not give it up as lost before it has waited for a session.
    fn check_patience(&mut self, world: &World, dev: Dev, key: TransferKey, reason: TransferFailure) {
        let place = (dev, world.life(dev), key);
        let asked = reason == TransferFailure::Lost
            && self.resume.accepted.contains(&place)
            && !self.resume.closed.contains(&(dev, world.life(dev)));
        let most = limits::AWAY.as_micros() as u64;
        let waited = self.resume.suspended.get(&place).is_some_and(|since| since + most <= world.micros() + 1_000_000);
        self.check("XFER-21", !asked || waited, || format!("device {} gives a transfer up that had lost its session a moment ago", dev.0));
    }

    /// XFER-28: of a transfer that is lost what is durable is kept.
    fn check_what_is_kept(&mut self, world: &World, dev: Dev, key: TransferKey, reason: TransferFailure) {
        let durable = self.told.get(&(dev, world.life(dev), key)).map_or(0, |told| told.durable);
        let asked = key.direction == Direction::Incoming && reason.keeps_files() && durable > 0;
        let kept = world.disk(dev).was_kept(&key);
        self.check("XFER-28", !asked || kept, || format!("device {} throws {durable} durable bytes of a lost transfer away", dev.0));
    }

    /// XFER-31: where a disk fails no entry is given up for it.
    pub(super) fn check_whose_fault(&mut self, dev: Dev, key: TransferKey, fault: Option<FileFault>) {
        let fault = fault.filter(|fault| fault.is_of_disk() && key.direction == Direction::Incoming);
        self.check("XFER-31", fault.is_none(), || format!("device {} gives an entry up because a disk fails: {fault:?}", dev.0));
    }

    /// XFER-27: an owner is not asked again about what is done.
    fn check_offered_again(&mut self, world: &World, dev: Dev, key: TransferKey) {
        let done = self.resume.done.contains(&(dev, world.life(dev), key));
        let honest = world.dev_of_id(key.device).is_some_and(|peer| !self.liars.contains(&peer));
        self.check("XFER-27", !(done && honest), || format!("device {} is asked about a transfer that is done", dev.0));
    }

    /// XFER-21: somebody dials for what waits for a session.
    pub(super) fn check_dialled_for(&mut self, world: &World, dev: Dev) {
        if self.resume.suspended.is_empty() {
            return;
        }
        let alone = world.node_of(dev).and_then(protocol_core::node::Node::probe_suspended_undialled);
        self.check("XFER-21", alone.is_none(), || format!("device {} waits for a session with {alone:?} and does not dial", dev.0));
    }
}
