//! DeviceRegistry: every device that was met, by key and by id.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::device::{Device, Root, RootState, keep_newest};
use crate::effects::{DeviceState, Route};
use crate::identity;
use crate::ids::{DeviceId, PeerKey, SessionRef};
use crate::info::{Address, DeviceInfo};
use crate::limits;
use crate::records::{Change, DEVICES, Record};
use crate::time::Timestamp;
use crate::wire::cbor::Malformed;

/// A device as the owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Its key.
    pub key: PeerKey,
    /// The owner's name for it, else its own, made safe for display.
    pub name: String,
    /// Its operating system, as it says.
    pub os: String,
    /// What it is to us now.
    pub state: DeviceState,
    /// Six words over its key.
    pub fingerprint: String,
    /// When it was paired, seconds since 1970.
    pub paired_unix: u64,
    /// The last proven contact, seconds since 1970.
    pub last_seen_unix: Option<u64>,
    /// How that contact travelled.
    pub last_route: Option<Route>,
    /// Where it may be found, newest first.
    pub addresses: Vec<Address>,
    /// Both sides are known to hold the pairing.
    pub confirmed: bool,
}

/// What a new pairing brings to the registry.
#[derive(Debug)]
pub(crate) struct NewPair {
    pub(crate) peer: PeerKey,
    pub(crate) info: DeviceInfo,
    /// When the peer said that.
    pub(crate) told: Timestamp,
    pub(crate) root: Root,
    pub(crate) reached: Option<Address>,
}

/// Every device that was met.
#[derive(Debug)]
pub(crate) struct DeviceRegistry {
    me: PeerKey,
    devices: BTreeMap<PeerKey, Device>,
    ids: BTreeMap<DeviceId, PeerKey>,
    /// Confirmations that are being written, in their order.
    confirming: BTreeMap<PeerKey, Vec<Confirming>>,
}

/// A root that counts as confirmed once that is durable.
#[derive(Debug)]
struct Confirming {
    root: SessionRef,
    /// The peer's roots as they were.
    before: Vec<Root>,
}

impl DeviceRegistry {
    pub(crate) const fn new(me: PeerKey) -> Self {
        Self { me, devices: BTreeMap::new(), ids: BTreeMap::new(), confirming: BTreeMap::new() }
    }

    /// Takes a row of the store. A pending root whose day is over, or whose question died with the process, is not taken: the
    /// row without it is returned.
    ///
    /// # Errors
    /// What is wrong with the row.
    // PAIR-47.
    pub(crate) fn load(&mut self, record: &Record, unix_s: u64) -> Result<Option<(PeerKey, Change)>, Malformed> {
        let mut device = Device::decode(&self.me, &record.key, record.value.bytes())?;
        let stored = device.roots.len();
        device.roots.retain(|root| root.state.usable(unix_s));
        let change = (device.roots.len() < stored).then(|| (device.key, device.change()));
        if !device.roots.is_empty() {
            self.ids.insert(device.id, device.key);
            self.devices.insert(device.key, device);
        }
        Ok(change)
    }

    pub(crate) fn get(&self, key: &PeerKey) -> Option<&Device> {
        self.devices.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &PeerKey) -> Option<&mut Device> {
        self.devices.get_mut(key)
    }

    pub(crate) fn by_id(&self, id: DeviceId) -> Option<&Device> {
        self.devices.get(self.ids.get(&id)?)
    }

    pub(crate) fn by_id_mut(&mut self, id: DeviceId) -> Option<&mut Device> {
        self.devices.get_mut(self.ids.get(&id)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// Whether a device that is not known yet could be paired.
    // LIM-3.
    pub(crate) fn has_room_for(&self, key: &PeerKey) -> bool {
        self.devices.contains_key(key)
            || self.devices.len() < limits::DEVICES + usize::from(planted!(OneDeviceMore))
            || planted!(DevicesUnbounded)
    }

    /// Adds a root, and the device if it is new. The change is the caller's to persist.
    pub(crate) fn add(&mut self, pair: NewPair, unix_s: u64) -> Change {
        let NewPair { peer, info, told, root, reached } = pair;
        let id = identity::device_id(&peer);
        self.ids.insert(id, peer);
        let device = self.devices.entry(peer).or_insert_with(|| Device {
            id,
            key: peer,
            info: info.clone(),
            told: None,
            own_name: None,
            paired_unix: unix_s,
            last_seen_unix: None,
            last_route: None,
            addresses: Vec::new(),
            roots: Vec::new(),
            displaced: Vec::new(),
        });
        device.learn(info, reached, told);
        device.last_seen_unix = Some(unix_s);
        device.add_root(root);
        device.change()
    }

    /// A root that was added is durable.
    pub(crate) fn stored(&mut self, peer: &PeerKey, session_ref: SessionRef) {
        if let Some(device) = self.devices.get_mut(peer) {
            device.root_stored(session_ref);
        }
    }

    /// Both sides hold the root. `None` if there is no such root.
    pub(crate) fn confirm(&mut self, peer: &PeerKey, session_ref: SessionRef) -> Option<Change> {
        let device = self.devices.get_mut(peer)?;
        device.confirm(&self.me, session_ref).then(|| device.change())
    }

    /// The same for a confirmation that counts only once it is durable: [`Self::confirmation_stored`] says how the write went.
    pub(crate) fn confirm_if_stored(&mut self, peer: &PeerKey, session_ref: SessionRef) -> Option<Change> {
        let before = self.devices.get(peer)?.duplicate_roots();
        let change = self.confirm(peer, session_ref)?;
        self.confirming.entry(*peer).or_default().push(Confirming { root: session_ref, before });
        Some(change)
    }

    /// Whether a root is held.
    pub(crate) fn holds(&self, peer: &PeerKey, session_ref: SessionRef) -> bool {
        self.devices.get(peer).is_some_and(|device| device.roots.iter().any(|root| root.session_ref == session_ref))
    }

    /// Whether a root is a joiner's whose confirmation is not durable: still to come, or being written.
    pub(crate) fn is_unsure(&self, peer: &PeerKey, session_ref: SessionRef) -> bool {
        let provisional = |root: &Root| root.session_ref == session_ref && matches!(root.state, RootState::Provisional { .. });
        self.devices.get(peer).is_some_and(|device| device.roots.iter().any(provisional))
            || self.confirming.get(peer).is_some_and(|confirming| confirming.iter().any(|confirming| confirming.root == session_ref))
    }

    /// If the write failed the roots are what they were: memory must not know more than the disk. What is confirmed behind that stays.
    pub(crate) fn confirmation_stored(&mut self, peer: &PeerKey, session_ref: SessionRef, stored: bool) {
        let Some(confirming) = self.confirming.get_mut(peer) else { return };
        if stored {
            confirming.retain(|confirming| confirming.root != session_ref);
        } else if let Some(at) = confirming.iter().position(|confirming| confirming.root == session_ref) {
            let before = confirming.remove(at).before;
            match (confirming.get_mut(at), self.devices.get_mut(peer)) {
                (Some(next), _) => restore(&mut next.before, before),
                (None, Some(device)) => restore(&mut device.roots, before),
                (None, None) => {}
            }
        }
        if confirming.is_empty() {
            self.confirming.remove(peer);
        }
    }

    /// Our user said yes to a provisional root.
    pub(crate) fn agree(&mut self, peer: &PeerKey, session_ref: SessionRef) -> Option<Change> {
        let device = self.devices.get_mut(peer)?;
        let root = device.roots.iter_mut().find(|root| root.session_ref == session_ref)?;
        match &mut root.state {
            RootState::Provisional { agreed, .. } if !*agreed => *agreed = true,
            RootState::Provisional { .. } | RootState::Confirmed | RootState::Unconfirmed => return None,
        }
        Some(device.change())
    }

    /// Deletes a root, and the device with its last one.
    pub(crate) fn drop_root(&mut self, peer: &PeerKey, session_ref: SessionRef) -> Option<Change> {
        for confirming in self.confirming.get_mut(peer).into_iter().flatten() {
            confirming.before.retain(|root| root.session_ref != session_ref);
        }
        let device = self.devices.get_mut(peer)?;
        device.drop_root(session_ref);
        let change = device.change();
        if device.roots.is_empty() {
            self.remove(peer);
        }
        Some(change)
    }

    /// A device's row as it is to be: none, if the device is not known.
    pub(crate) fn row(&self, peer: &PeerKey) -> Change {
        self.devices.get(peer).map_or_else(|| Change { table: DEVICES, key: peer.0.to_vec(), value: None }, Device::change)
    }

    /// Deletes a device.
    pub(crate) fn remove(&mut self, peer: &PeerKey) -> Option<Change> {
        self.confirming.remove(peer);
        let mut device = self.devices.remove(peer)?;
        self.ids.remove(&device.id);
        device.roots.clear();
        Some(device.change())
    }
}

/// The roots as they were before a confirmation, and those that came since.
fn restore(roots: &mut Vec<Root>, before: Vec<Root>) {
    roots.retain(|root| before.iter().all(|known| known.session_ref != root.session_ref));
    roots.extend(before);
    keep_newest(roots);
}
