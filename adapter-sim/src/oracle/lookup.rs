//! What devices publish and look for (DISC-1 to DISC-3).

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::faults::PairFailure;
use protocol_core::node::Discovery;
use protocol_core::node::probe::Machine;
use protocol_core::pairing::code::CodeKeys;
use protocol_core::session::rendezvous::Medium;

use super::Oracle;
use crate::{Dev, World};

/// Ids that were out, and whose they were.
#[derive(Debug, Default)]
pub(super) struct Looked {
    ids: BTreeMap<Vec<u8>, Dev>,
    /// Records that were ever out, with their ids.
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What each device has out, in which life, and where it listens.
    out: BTreeMap<(Dev, Medium), Out>,
    /// When joiners began to look.
    since: BTreeMap<Dev, u64>,
}

/// A life, where the device listens in it, and its records by id.
type Out = ((u32, String), BTreeMap<Vec<u8>, Vec<u8>>);

impl Oracle {
    /// A host has asked its Node.
    pub(crate) fn on_discovery(&mut self, world: &World, dev: Dev, medium: Medium, discovery: &Discovery) {
        let states = world.node(dev).probe_states();
        let live = |machine, state: &str| states.iter().any(|standing| standing.machine == machine && standing.state == state);
        let shown = live(Machine::Code, "Live");
        let sought = ["Searching", "AwaitChallenge", "Proved"].iter().any(|state| live(Machine::Joiner, state));
        let keys = world.codes.values().flatten().map(CodeKeys::derive);
        let codes: BTreeSet<Vec<u8>> = keys.flat_map(|keys| [keys.mdns_id.to_vec(), keys.dht_key.to_vec()]).collect();
        for notice in &discovery.publish {
            let of_code = codes.contains(&notice.id);
            self.check("DISC-1", shown || !of_code, || format!("device {} publishes a code that is over", dev.0));
            let owner = *self.looked.ids.entry(notice.id.clone()).or_insert(dev);
            self.check("DISC-2", owner == dev, || format!("devices {} and {} publish under one id", owner.0, dev.0));
            let of = self.looked.records.entry(notice.record.clone()).or_insert_with(|| notice.id.clone()).clone();
            self.check("DISC-2", of == notice.id, || format!("device {} publishes one record under two ids", dev.0));
            self.check("DISC-2", notice.record.len() == RECORD, || format!("device {} publishes {} bytes", dev.0, notice.record.len()));
        }
        let here = (world.life(dev), format!("{:?}", world.transports(dev)));
        let out: BTreeMap<Vec<u8>, Vec<u8>> = discovery.publish.iter().map(|notice| (notice.id.clone(), notice.record.clone())).collect();
        let before = self.looked.out.insert((dev, medium), (here.clone(), out.clone())).filter(|(there, _)| *there == here);
        let same = before.is_none_or(|(_, before)| out.iter().all(|(id, record)| before.get(id).is_none_or(|known| known == record)));
        self.check("DISC-1", same, || format!("device {} publishes another record for nothing", dev.0));
        for id in &discovery.seek {
            let of_code = codes.contains(id);
            self.check("DISC-1", sought || !of_code, || format!("device {} looks for a code that it has found", dev.0));
        }
        // A Node with nobody to speak to publishes its code and nothing else.
        let reachable = world.node(dev).devices().iter().filter(|view| view.removed_there.is_none() && view.blocked.is_none()).count();
        let most = 1 + reachable.min(protocol_core::limits::PUBLISHED_DEVICES) * 2 * (protocol_core::limits::PENDING_ROOTS_PER_DEVICE + 1);
        self.check("DISC-1", discovery.publish.len() <= most, || {
            format!("device {} publishes {} records for {reachable} devices", dev.0, discovery.publish.len())
        });
    }
}

impl Oracle {
    /// A joiner has begun, and looks for a code or was told where it is.
    pub(crate) fn on_search(&mut self, world: &World, dev: Dev, looks: bool) {
        self.looked.since.remove(&dev);
        if looks {
            self.looked.since.insert(dev, world.micros());
        }
    }

    /// PAIR-50: who looks does so until the time of the attempt is over.
    pub(super) fn check_search(&mut self, world: &World, dev: Dev, reason: PairFailure) {
        let Some(since) = self.looked.since.remove(&dev) else { return };
        let looked = world.micros().saturating_sub(since);
        let time = protocol_core::limits::ATTEMPT_WAIT.as_micros() as u64;
        // Clocks that go in steps, or sleep, see it end a little earlier or later.
        let early = reason == PairFailure::NotFound && looked + 5_000_000 < time && self.in_budget(&[dev]);
        self.check("PAIR-50", !early, || format!("device {} gave a search up after {} s", dev.0, looked / 1_000_000));
    }
}

/// Bytes of a record: one bucket, sealed.
const RECORD: usize = 1 + 24 + 512 + 16;
