//! Lookup services: what devices publish at one, others find there; late, twice, old, or made up.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::node::Notice;
use protocol_core::session::rendezvous::Medium;
use serde::{Deserialize, Serialize};

use crate::choice::Site;
use crate::world::{Act, Dev, World};

/// What a service does wrong.
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

/// The services as they are now.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    /// How many hosts use.
    number: usize,
    services: [Service; MEDIA.len()],
    /// Devices that ask again at this moment.
    due: BTreeMap<Dev, u64>,
}

/// One of them.
#[derive(Debug, Default)]
struct Service {
    /// What each device has out.
    out: BTreeMap<Dev, Vec<Notice>>,
    /// Under which ids each device looks.
    seeks: BTreeMap<Dev, BTreeSet<Vec<u8>>>,
    /// What each device was told of what it still looks for.
    told: BTreeSet<(Dev, Vec<u8>, Vec<u8>)>,
    /// All that was ever published, oldest first.
    ever: Vec<(Dev, Notice)>,
    down_until: u64,
    slower: u64,
    stale: bool,
    forged: u32,
    twisted: bool,
}

/// What each service is to its devices.
const MEDIA: [Medium; 2] = [Medium::Mdns, Medium::Kad];
/// How long a host takes until it has published what is new, and a lookup until it answers, at most, in microseconds.
const TAKES: u64 = 300_000;
/// Records that are kept for those who find old ones.
const EVER: usize = 256;

impl World {
    /// Hosts publish and look for what their Nodes say, over one service, from now on.
    pub fn set_lookup(&mut self) {
        self.set_lookups(1);
    }

    /// The same over so many, two at most.
    pub fn set_lookups(&mut self, number: usize) {
        self.lookups.number = number.min(MEDIA.len());
    }

    /// Every service does something wrong from now on.
    pub fn fault_lookup(&mut self, fault: LookupFault) {
        (0..self.lookups.number).for_each(|number| self.fault_service(number, fault));
    }

    /// One service does.
    pub(crate) fn fault_service(&mut self, number: usize, fault: LookupFault) {
        let now = self.now;
        let Some(service) = self.lookups.services.get_mut(number) else { return };
        match fault {
            LookupFault::Down(millis) => {
                service.down_until = now + millis * 1_000;
                // Who asks in vain asks again, and what was found once is found again.
                service.told.clear();
                for dev in (0..self.honest).map(Dev) {
                    self.after(millis * 1_000, Act::Lookup { dev, life: self.life(dev) });
                }
            }
            LookupFault::Slow(millis) => service.slower = millis * 1_000,
            LookupFault::Stale => service.stale = true,
            LookupFault::Forged(count) => service.forged = count,
            LookupFault::Twisted => service.twisted = true,
        }
    }

    /// The services are honest and quick from now on.
    pub(crate) fn mend_lookup(&mut self) {
        for service in &mut self.lookups.services {
            (service.down_until, service.slower, service.stale, service.forged, service.twisted) = (0, 0, false, 0, false);
        }
    }

    /// Whether hosts use a service.
    pub(crate) const fn has_lookup(&self) -> bool {
        self.lookups.number > 0
    }

    /// What was ever published, with the device that did.
    pub(crate) fn published(&self) -> impl Iterator<Item = (Dev, &Notice)> {
        self.lookups.services.iter().flat_map(|service| &service.ever).map(|(dev, notice)| (*dev, notice))
    }

    /// What a device has out at the first service, and the ids under which it looks there.
    pub fn lookups(&self, dev: Dev) -> (Vec<Notice>, BTreeSet<Vec<u8>>) {
        let [first, ..] = &self.lookups.services;
        (first.out.get(&dev).cloned().unwrap_or_default(), first.seeks.get(&dev).cloned().unwrap_or_default())
    }

    /// Something happened to a device after which other things may be published or sought: its host asks soon.
    pub(crate) fn lookup_soon(&mut self, dev: Dev) {
        if !self.has_lookup() || !self.is_up(dev) || self.lookups.due.get(&dev).is_some_and(|at| *at <= self.now + TAKES) {
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
        if !(self.is_up(dev) && self.is_life(dev, life)) {
            return;
        }
        for number in 0..self.lookups.number {
            if self.lookups.services[number].down_until <= self.now {
                self.lookup_at(number, dev, life);
            }
        }
    }

    fn lookup_at(&mut self, number: usize, dev: Dev, life: u32) {
        let medium = MEDIA[number];
        let discovery = self.ask(dev, |node, env| node.discovery(env, medium));
        self.with_oracle(|oracle, world| oracle.on_discovery(world, dev, medium, &discovery));
        let service = &mut self.lookups.services[number];
        for notice in &discovery.publish {
            if !service.ever.iter().any(|(_, known)| known == notice) {
                service.ever.push((dev, notice.clone()));
            }
        }
        let extra = service.ever.len().saturating_sub(EVER);
        service.ever.drain(..extra);
        service.out.insert(dev, discovery.publish);
        let seeks: BTreeSet<Vec<u8>> = discovery.seek.into_iter().collect();
        service.told.retain(|(of, id, _)| *of != dev || seeks.contains(id));
        service.seeks.insert(dev, seeks);
        let holds = discovery.holds.as_micros() as u64;
        self.after(holds, Act::Lookup { dev, life });
        self.tell_found(number);
    }

    /// A device is down: nobody hears of it any more.
    pub(crate) fn lookup_over(&mut self, dev: Dev) {
        self.lookups.due.remove(&dev);
        for service in &mut self.lookups.services {
            service.out.remove(&dev);
            service.seeks.remove(&dev);
            service.told.retain(|(of, ..)| *of != dev);
        }
    }

    /// Tells everybody what there is of what they look for, and was not told.
    fn tell_found(&mut self, number: usize) {
        let service = &self.lookups.services[number];
        let mut found: Vec<(Dev, Vec<u8>, Vec<u8>)> = Vec::new();
        for (&seeker, ids) in service.seeks.iter().filter(|(seeker, _)| self.is_up(**seeker)) {
            for id in ids {
                let old = service.ever.iter().filter(|_| service.stale).map(|(of, notice)| (of, notice));
                let now = service.out.iter().flat_map(|(of, notices)| notices.iter().map(move |notice| (of, notice)));
                let here = old.chain(now).filter(|(of, notice)| **of != seeker && notice.id == *id);
                found.extend(here.map(|(_, notice)| (seeker, id.clone(), notice.record.clone())));
            }
        }
        let told = &mut self.lookups.services[number].told;
        found.retain(|found| told.insert(found.clone()));
        for (seeker, id, record) in found {
            self.answer_lookup(number, seeker, &id, record);
        }
    }

    /// A lookup answers, after some time, and after what others put there.
    fn answer_lookup(&mut self, number: usize, dev: Dev, id: &[u8], record: Vec<u8>) {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for _ in 0..self.lookups.services[number].forged {
            records.push((id.to_vec(), self.keys.bytes::<553>().to_vec()));
        }
        if self.lookups.services[number].twisted {
            let mut twisted = record.clone();
            let bit = self.choices.below(Site::Lookup, twisted.len() as u64 * 8) as usize;
            twisted[bit / 8] ^= 1 << (bit % 8);
            records.push((id.to_vec(), twisted));
            let others = self.lookups.services[number].seeks.get(&dev).into_iter().flatten().filter(|of| *of != id);
            records.extend(others.map(|of| (of.clone(), record.clone())));
        }
        records.push((id.to_vec(), record));
        let delay = 1_000 + self.choices.below(Site::Lookup, TAKES) + self.lookups.services[number].slower;
        let life = self.life(dev);
        for (id, record) in records {
            self.after(delay, Act::Found { dev, life, medium: MEDIA[number], id, record });
        }
    }

    /// An answer comes.
    pub(crate) fn find(&mut self, (dev, life): (Dev, u32), medium: Medium, id: &[u8], record: &[u8]) {
        if self.is_up(dev) && self.is_life(dev, life) && !self.devices[dev.0].silent {
            self.ask(dev, |node, env| node.found(env, medium, id, record));
            self.perform(dev);
            self.with_oracle(|oracle, world| oracle.on_handled(world, dev));
        }
    }
}
