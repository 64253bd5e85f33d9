//! Discovery: what a host publishes and looks for, so that devices find each other without being told where (PROTOCOL.md, section 5).
//!
//! The Node says under which ids, and seals and opens the records; which services carry them is the host's matter. A record leads to
//! dials and to nothing else: who answers there has to prove itself as at any address.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use super::links::in_turn;
use super::{Node, cx};
use crate::crypto::secret::Secret;
use crate::crypto::sign::SignSecret;
use crate::effects::Env;
use crate::ids::{DeviceId, SessionRef};
use crate::info::advert::{Advert, BUCKET};
use crate::info::{Address, TransportInfo};
use crate::limits;
use crate::pairing::advertisement;
use crate::pairing::code::CodeKeys;
use crate::session::rendezvous::{Hour, Medium, OVERLAP, PERIOD, Rendezvous};

/// What is to be published, and looked for, on one medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// What is to be published; what is not in it any more is to be taken back.
    pub publish: Vec<Notice>,
    /// The ids to look under. What is found there goes to [`Node::found`].
    pub seek: Vec<Vec<u8>>,
    /// For how long this holds if nothing else happens.
    pub holds: Duration,
}

/// A record, and the id under which it is published.
#[derive(Clone, Debug)]
pub struct Notice {
    /// 16 bytes on the local network, else 32.
    pub id: Vec<u8>,
    /// Where this device can be dialled, sealed for who knows the id's secret. One bucket of an advert: 553 bytes.
    pub record: Vec<u8>,
    /// For [`Medium::Pkarr`] the Ed25519 seed that signs it; the id is its public key.
    pub seed: Option<Arc<Secret>>,
}

/// An id says whose seed it is.
impl PartialEq for Notice {
    fn eq(&self, other: &Self) -> bool {
        (&self.id, &self.record) == (&other.id, &other.record)
    }
}

impl Eq for Notice {}

/// What the Node knows of what is published and sought.
#[derive(Debug, Default)]
pub(super) struct Discovering {
    searches: bool,
    /// What the records below say.
    said: Vec<TransportInfo>,
    /// Records that are out: sealed once, and the same as long as they are true.
    sealed: BTreeMap<(Medium, Vec<u8>), Vec<u8>>,
    /// Whose the ids are that are looked for.
    sought: BTreeMap<(Medium, Vec<u8>), Sought>,
    /// Where devices were found that are still looked for: a record is found once, and tried as often as they are dialled. What one
    /// medium says, an old record perhaps, does not displace what another says.
    found: BTreeMap<(DeviceId, Medium), Vec<Address>>,
}

#[derive(Clone, Copy, Debug)]
enum Sought {
    /// The initiator of the code that was typed.
    Code,
    /// A paired device, under one of its roots, in an hour.
    Device(DeviceId, SessionRef, Hour),
}

impl Discovering {
    pub(super) const fn searches(&self) -> bool {
        self.searches
    }

    pub(super) const fn set_searches(&mut self, searches: bool) {
        self.searches = searches;
    }

    /// Where a device that is being reached was found.
    pub(super) fn found(&self, device: DeviceId) -> impl Iterator<Item = &Address> {
        let of_device = (device, Medium::Mdns)..=(device, Medium::Pkarr);
        self.found.range(of_device).flat_map(|(_, addresses)| addresses).filter(|_| !planted!(FoundForgotten))
    }
}

/// Where something is published: the id, and what signs there.
struct Place {
    id: Vec<u8>,
    seed: Option<Secret>,
}

impl Place {
    const fn named(id: Vec<u8>) -> Self {
        Self { id, seed: None }
    }

    fn signed(seed: Secret) -> Self {
        Self { id: SignSecret::new(&seed).public().to_vec(), seed: Some(seed) }
    }

    fn of_code(keys: &CodeKeys, medium: Medium) -> Self {
        match medium {
            Medium::Mdns => Self::named(keys.mdns_id.to_vec()),
            Medium::Kad => Self::named(keys.dht_key.to_vec()),
            Medium::Pkarr => Self::signed(keys.pkarr_seed.duplicate()),
        }
    }

    fn of_device(rendezvous: &Rendezvous, medium: Medium, hour: Hour) -> Self {
        match medium {
            Medium::Mdns | Medium::Kad => Self::named(rendezvous.id(medium, hour)),
            Medium::Pkarr => Self::signed(rendezvous.pkarr_seed(hour)),
        }
    }
}

impl Node {
    /// What is to be published and looked for on `medium` now. The host asks again after each call, each event that is not about a
    /// transfer or a message, when where it listens has changed, and when [`Discovery::holds`] is over.
    ///
    /// Published are the live code and, for each of the devices seen last without a session, this hour's id; looked for are the code
    /// that was typed and the devices that are being reached. Empty where the random source fails.
    // DISC-1, DISC-2.
    pub fn discovery(&mut self, env: &mut Env<'_>, medium: Medium) -> Discovery {
        let left = PERIOD - env.unix_s % PERIOD;
        let holds = Duration::from_secs(if left > OVERLAP { left - OVERLAP } else { left });
        let publish = self.published(env, medium);
        self.discovery.sought.retain(|(of, _), _| *of != medium);
        let sought = self.sought(env, medium);
        let seek = sought.iter().map(|(id, _)| id.clone()).collect();
        self.discovery.sought.extend(sought.into_iter().map(|(id, whose)| ((medium, id), whose)));
        let mut found = core::mem::take(&mut self.discovery.found);
        found.retain(|(device, _), _| self.is_looked_for(*device));
        self.discovery.found = found;
        Discovery { publish, seek, holds }
    }

    /// A lookup has found a record under an id. What does not open is counted and has no other effect: anybody may publish anything.
    // DISC-3.
    pub fn found(&mut self, env: &mut Env<'_>, medium: Medium, id: &[u8], record: &[u8]) {
        self.advance(env);
        if let Some(whose) = self.discovery.sought.get(&(medium, id.to_vec())).copied() {
            match self.open_record(whose, medium, record) {
                Some(advert) => self.found_at(env, medium, whose, &advert),
                None => self.stats.bad_records = self.stats.bad_records.saturating_add(1),
            }
        }
        self.settle(env);
    }

    /// What is published, sealed at most once as long as it says the same.
    fn published(&mut self, env: &mut Env<'_>, medium: Medium) -> Vec<Notice> {
        if self.discovery.said != self.transports && !planted!(RecordOutdated) {
            self.discovery.said.clone_from(&self.transports);
            self.discovery.sealed.clear();
        }
        let advert = |expires_unix_s| Advert { expires_unix_s, transports: self.transports.clone() }.bounded(BUCKET - 1);
        let mut notices = Vec::new();
        let mut publish = |Place { id, seed }: Place, seal: &mut dyn FnMut() -> Option<Vec<u8>>| {
            let known = self.discovery.sealed.get(&(medium, id.clone())).filter(|_| !planted!(SealedAnew)).cloned();
            if let Some(record) = known.or_else(seal) {
                notices.push(Notice { id, record, seed: seed.map(Arc::new) });
            }
        };
        if let Some(keys) = self.initiator.published() {
            let expires = env.unix_s.saturating_add(limits::CODE_TTL_RANGE.1.as_secs());
            publish(Place::of_code(keys, medium), &mut || advertisement::seal(&advert(expires), keys, env.entropy).ok());
        }
        let mut devices: Vec<_> = self.registry.iter().filter(|device| self.is_awaited(device.id)).collect();
        devices.sort_unstable_by_key(|device| Reverse(device.last_seen_unix));
        for device in devices.into_iter().take(limits::PUBLISHED_DEVICES) {
            for root in device.roots.iter().filter(|root| root.state.usable(env.unix_s)) {
                let rendezvous = Rendezvous::new(&root.secret, &self.identity.public(), &device.key);
                for hour in Hour::published(env.unix_s) {
                    let expires = (hour.0 + 2).saturating_mul(PERIOD);
                    publish(Place::of_device(&rendezvous, medium, hour), &mut || {
                        rendezvous.seal(medium, hour, &advert(expires), env.entropy).ok()
                    });
                }
            }
        }
        self.discovery.sealed.retain(|(of, _), _| *of != medium);
        self.discovery.sealed.extend(notices.iter().map(|notice| ((medium, notice.id.clone()), notice.record.clone())));
        notices
    }

    /// Whether a device should be able to find us: it is paired, and no session stands.
    fn is_awaited(&self, device: DeviceId) -> bool {
        (!self.primary.contains_key(&device) || planted!(PublishedThoughConnected))
            && self.registry.by_id(device).is_some_and(|known| known.is_removed_there().is_none() && !self.registry.is_blocked(&known.key))
    }

    /// What is looked for: each id, and whose it is.
    fn sought(&self, env: &Env<'_>, medium: Medium) -> Vec<(Vec<u8>, Sought)> {
        let code = self.joiner.as_ref().and_then(crate::pairing::joiner::Joiner::seeks);
        let mut sought: Vec<_> = code.map(|keys| (Place::of_code(keys, medium).id, Sought::Code)).into_iter().collect();
        for device in self.registry.iter().filter(|device| self.is_looked_for(device.id)) {
            for root in device.roots.iter().filter(|root| root.state.usable(env.unix_s)) {
                let rendezvous = Rendezvous::new(&root.secret, &device.key, &self.identity.public());
                let hours = Hour::sought(env.unix_s).take(if planted!(NeighboursUnsought) { 1 } else { 3 });
                let place = |hour| Place::of_device(&rendezvous, medium, hour).id;
                sought.extend(hours.map(|hour| (place(hour), Sought::Device(device.id, root.session_ref, hour))));
            }
        }
        sought
    }

    /// Whether a device is being reached, or is to be as soon as it can.
    fn is_looked_for(&self, device: DeviceId) -> bool {
        self.discovery.searches && (self.dialers.contains_key(&device) || self.is_kept(device))
    }

    fn open_record(&self, whose: Sought, medium: Medium, record: &[u8]) -> Option<Advert> {
        match whose {
            Sought::Code => advertisement::open(record, self.joiner.as_ref()?.seeks()?).ok(),
            Sought::Device(device, session_ref, hour) => {
                let device = self.registry.by_id(device)?;
                let root = device.roots.iter().find(|root| root.session_ref == session_ref)?;
                Rendezvous::new(&root.secret, &device.key, &self.identity.public()).open(medium, hour, record).ok()
            }
        }
    }

    /// The addresses of a record are dialled, where that is still wanted.
    fn found_at(&mut self, env: &mut Env<'_>, medium: Medium, whose: Sought, advert: &Advert) {
        let addresses = advert.transports.iter().flat_map(TransportInfo::dialable).filter(|address| self.can_dial(address));
        let mut addresses = in_turn(addresses);
        addresses.truncate(limits::JOINER_CANDIDATES);
        match whose {
            Sought::Code => {
                if let Some(joiner) = &mut self.joiner {
                    joiner.found(cx!(self, env), &addresses);
                }
            }
            Sought::Device(device, ..) if self.is_looked_for(device) && !self.primary.contains_key(&device) => {
                // Which of several records is the newest is not known: a service may give out old ones too.
                let medium = if planted!(FoundDisplaced) { Medium::Mdns } else { medium };
                let known = self.discovery.found.entry((device, medium)).or_default();
                let mut all = addresses.clone();
                all.extend(known.iter().filter(|address| !addresses.contains(address) && !planted!(FoundDisplaced)).cloned());
                all.truncate(limits::FOUND_ADDRESSES / 2);
                *known = all;
                if let Some(dialer) = self.dialers.get_mut(&device) {
                    dialer.found(cx!(self, env), addresses);
                } else if let Some(peer) = self.registry.by_id(device).map(|known| known.key).filter(|_| !planted!(FoundNotDialled)) {
                    // It is here: no reason to wait for its turn.
                    self.begin_attempt(env, peer, Vec::new(), false);
                }
            }
            Sought::Device(..) => {}
        }
    }
}
