//! A lookup service: what devices publish, others find there; late, twice, old, or made up.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::node::Notice;
use protocol_core::session::rendezvous::Medium;
use serde::{Deserialize, Serialize};

use crate::choice::Site;
use crate::world::{Act, Dev, World};

/// What the service does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LookupFault {
    /// Nothing is published or found for so many milliseconds.
    Down(u64),
    /// Everything takes so many milliseconds longer.
    Slow(u64),
    /// What was ever published under an id is found there, oldest first.
    Stale,
    /// So many records that nobody sealed stand under each id that somebody looks for, before the honest one.
    Forged(u32),
    /// Each honest record is found once more with a flipped bit, and under the ids of others.
    Twisted,
}

/// The service as it is now.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    /// Hosts use it.
    on: bool,
    /// What each device has out.
    out: BTreeMap<Dev, Vec<Notice>>,
    /// Under which ids each device looks.
    seeks: BTreeMap<Dev, BTreeSet<Vec<u8>>>,
    /// What each device was told of what it still looks for.
    told: BTreeSet<(Dev, Vec<u8>, Vec<u8>)>,
    /// All that was ever published, oldest first.
    ever: Vec<(Dev, Notice)>,
    /// Devices that ask again at this moment.
    due: BTreeMap<Dev, u64>,
    down_until: u64,
    slower: u64,
    stale: bool,
    forged: u32,
    twisted: bool,
}

/// How long a host takes until it has published what is new, and a lookup until it answers, at most, in microseconds.
const TAKES: u64 = 300_000;
/// Records that are kept for those who find old ones.
const EVER: usize = 256;

impl World {
    /// Hosts publish and look for what their Nodes say, from now on.
    pub fn set_lookup(&mut self) {
        self.lookups.on = true;
    }

    /// The service does something wrong from now on.
    pub fn fault_lookup(&mut self, fault: LookupFault) {
        match fault {
            LookupFault::Down(millis) => {
                self.lookups.down_until = self.now + millis * 1_000;
                // Who asks in vain asks again, and what was found once is found again.
                self.lookups.told.clear();
                for dev in (0..self.honest).map(Dev) {
                    self.after(millis * 1_000, Act::Lookup { dev, life: self.life(dev) });
                }
            }
            LookupFault::Slow(millis) => self.lookups.slower = millis * 1_000,
            LookupFault::Stale => self.lookups.stale = true,
            LookupFault::Forged(count) => self.lookups.forged = count,
            LookupFault::Twisted => self.lookups.twisted = true,
        }
    }

    /// The service is honest and quick from now on.
    pub(crate) fn mend_lookup(&mut self) {
        let lookups = &mut self.lookups;
        (lookups.down_until, lookups.slower, lookups.stale, lookups.forged, lookups.twisted) = (0, 0, false, 0, false);
    }

    /// Whether hosts use the service.
    pub(crate) const fn has_lookup(&self) -> bool {
        self.lookups.on
    }

    /// What was ever published, with the device that did.
    pub(crate) fn published(&self) -> impl Iterator<Item = (Dev, &Notice)> {
        self.lookups.ever.iter().map(|(dev, notice)| (*dev, notice))
    }

    /// What a device has out, and the ids under which it looks.
    pub fn lookups(&self, dev: Dev) -> (Vec<Notice>, BTreeSet<Vec<u8>>) {
        let (out, seeks) = (self.lookups.out.get(&dev), self.lookups.seeks.get(&dev));
        (out.cloned().unwrap_or_default(), seeks.cloned().unwrap_or_default())
    }

    /// Something happened to a device after which other things may be published or sought: its host asks soon.
    pub(crate) fn lookup_soon(&mut self, dev: Dev) {
        if !self.lookups.on || !self.is_up(dev) || self.lookups.due.get(&dev).is_some_and(|at| *at <= self.now + TAKES) {
            return;
        }
        let delay = 1_000 + self.choices.below(Site::Lookup, TAKES / 2);
        self.lookups.due.insert(dev, self.now + delay);
        let life = self.life(dev);
        self.after(delay, Act::Lookup { dev, life });
    }

    /// A host asks its Node what to publish and what to look for, and does that.
    pub(crate) fn lookup_now(&mut self, dev: Dev, life: u32) {
        self.lookups.due.remove(&dev);
        if !(self.is_up(dev) && self.is_life(dev, life)) || self.lookups.down_until > self.now {
            return;
        }
        let discovery = self.ask(dev, |node, env| node.discovery(env, Medium::Mdns));
        self.with_oracle(|oracle, world| oracle.on_discovery(world, dev, &discovery));
        for notice in &discovery.publish {
            if !self.lookups.ever.iter().any(|(_, known)| known == notice) {
                self.lookups.ever.push((dev, notice.clone()));
            }
        }
        let extra = self.lookups.ever.len().saturating_sub(EVER);
        self.lookups.ever.drain(..extra);
        self.lookups.out.insert(dev, discovery.publish);
        let seeks: BTreeSet<Vec<u8>> = discovery.seek.into_iter().collect();
        self.lookups.told.retain(|(of, id, _)| *of != dev || seeks.contains(id));
        self.lookups.seeks.insert(dev, seeks);
        let holds = discovery.holds.as_micros() as u64;
        self.after(holds, Act::Lookup { dev, life });
        self.tell_found();
    }

    /// A device is down: nobody hears of it any more.
    pub(crate) fn lookup_over(&mut self, dev: Dev) {
        self.lookups.out.remove(&dev);
        self.lookups.seeks.remove(&dev);
        self.lookups.due.remove(&dev);
        self.lookups.told.retain(|(of, ..)| *of != dev);
    }

    /// Tells everybody what there is of what they look for, and was not told.
    fn tell_found(&mut self) {
        let mut found: Vec<(Dev, Vec<u8>, Vec<u8>)> = Vec::new();
        for (&seeker, ids) in self.lookups.seeks.iter().filter(|(seeker, _)| self.is_up(**seeker)) {
            for id in ids {
                let old = self.lookups.ever.iter().filter(|_| self.lookups.stale).map(|(of, notice)| (of, notice));
                let now = self.lookups.out.iter().flat_map(|(of, notices)| notices.iter().map(move |notice| (of, notice)));
                let here = old.chain(now).filter(|(of, notice)| **of != seeker && notice.id == *id);
                found.extend(here.map(|(_, notice)| (seeker, id.clone(), notice.record.clone())));
            }
        }
        found.retain(|found| self.lookups.told.insert(found.clone()));
        for (seeker, id, record) in found {
            self.answer_lookup(seeker, &id, record);
        }
    }

    /// A lookup answers, after some time, and after what others put there.
    fn answer_lookup(&mut self, dev: Dev, id: &[u8], record: Vec<u8>) {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for _ in 0..self.lookups.forged {
            records.push((id.to_vec(), self.keys.bytes::<553>().to_vec()));
        }
        if self.lookups.twisted {
            let mut twisted = record.clone();
            let bit = self.choices.below(Site::Lookup, twisted.len() as u64 * 8) as usize;
            twisted[bit / 8] ^= 1 << (bit % 8);
            records.push((id.to_vec(), twisted));
            let others = self.lookups.seeks.get(&dev).into_iter().flatten().filter(|of| *of != id);
            records.extend(others.map(|of| (of.clone(), record.clone())));
        }
        records.push((id.to_vec(), record));
        let delay = 1_000 + self.choices.below(Site::Lookup, TAKES) + self.lookups.slower;
        let life = self.life(dev);
        for (id, record) in records {
            self.after(delay, Act::Found { dev, life, id, record });
        }
    }

    /// An answer comes.
    pub(crate) fn find(&mut self, dev: Dev, life: u32, id: &[u8], record: &[u8]) {
        if self.is_up(dev) && self.is_life(dev, life) && !self.devices[dev.0].silent {
            self.ask(dev, |node, env| node.found(env, Medium::Mdns, id, record));
            self.perform(dev);
            self.with_oracle(|oracle, world| oracle.on_handled(world, dev));
        }
    }
}
