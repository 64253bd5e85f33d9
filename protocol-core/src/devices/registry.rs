//! DeviceRegistry: every device that was met, by key and by id.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::device::{Device, Root, RootState, keep_newest};
use super::policy::Policy;
use super::tombstone::Tombstone;
use crate::crypto::secret::{Secret, SecretBytes};
use crate::effects::{DeviceState, Route};
use crate::faults::LinkFailure;
use crate::identity;
use crate::ids::{DeviceId, PeerKey, SessionRef};
use crate::info::{Address, DeviceInfo};
use crate::limits;
use crate::records::{BLOCKED, Change, DEVICES, Record, TOMBSTONES};
use crate::session::handshake::ReceivedHello;
use crate::time::Turn;
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::encode::encode;

/// A device as the owner sees it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// Its program and version, as it says.
    pub app: String,
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
    /// When the other side told that it removed the pairing, seconds since 1970.
    pub removed_there: Option<u64>,
    /// Since when it is blocked here, seconds since 1970.
    pub blocked: Option<u64>,
    /// What it may do here.
    pub policy: Policy,
    /// How its last session, or the last attempt to have one, ended, and when, seconds since 1970.
    pub last_end: Option<(LinkFailure, u64)>,
    /// How the session that stands travels.
    pub route: Option<Route>,
    /// Whether that session was asked for here, or by the device.
    pub dialled_here: Option<bool>,
    /// How long a question and its answer took together, last, on that session.
    pub rtt: Option<Duration>,
    /// How often a session was had in this life of the process; one that took over from another goes on with it.
    pub sessions: u64,
}

/// A device that is blocked: nothing of it is accepted, and it is not paired with, whatever code it brings.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its key.
    pub key: PeerKey,
    /// The name that it had when it was blocked.
    pub name: String,
    /// Since when, seconds since 1970.
    pub unix_s: u64,
}

/// What a new pairing brings to the registry.
#[derive(Debug)]
pub(crate) struct NewPair {
    pub(crate) peer: PeerKey,
    pub(crate) info: DeviceInfo,
    /// When the peer said that.
    pub(crate) told: Turn,
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
    tombstones: BTreeMap<PeerKey, Tombstone>,
    blocked: BTreeMap<PeerKey, BlockedDevice>,
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
        Self {
            me,
            devices: BTreeMap::new(),
            ids: BTreeMap::new(),
            confirming: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            blocked: BTreeMap::new(),
        }
    }

    /// Takes a row of the store. A pending root whose day is over, or whose question died with the process, is not taken: the
    /// row without it is returned.
    ///
    /// # Errors
    /// What is wrong with the row.
    // PAIR-47.
    pub(crate) fn load(&mut self, record: &Record, unix_s: u64) -> Result<Option<(PeerKey, Change)>, Malformed> {
        match record.table {
            TOMBSTONES => {
                let tombstone = Tombstone::decode(&record.key, record.value.bytes())?;
                self.tombstones.insert(PeerKey(record.key[..].try_into().map_err(|_| Malformed::Bounds)?), tombstone);
                return Ok(None);
            }
            BLOCKED => {
                let blocked = BlockedDevice::decode(&record.key, record.value.bytes())?;
                self.blocked.insert(blocked.key, blocked);
                return Ok(None);
            }
            _ => {}
        }
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
        let device = self.devices.entry(peer).or_insert_with(|| Device::new(peer, info.clone(), unix_s));
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
        self.devices.get(peer).is_some_and(|device| device.roots.iter().any(provisional)) || self.is_being_confirmed(peer, session_ref)
    }

    fn is_being_confirmed(&self, peer: &PeerKey, session_ref: SessionRef) -> bool {
        self.confirming.get(peer).is_some_and(|confirming| confirming.iter().any(|confirming| confirming.root == session_ref))
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

    /// A root is to go, however many writes say by now that it is confirmed: what it replaced is back.
    pub(crate) fn take_back(&mut self, peer: &PeerKey, session_ref: SessionRef) -> Option<Change> {
        while self.is_being_confirmed(peer, session_ref) {
            self.confirmation_stored(peer, session_ref, false);
            if planted!(TakenBackOnce) {
                break;
            }
        }
        self.drop_root(peer, session_ref)
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

    /// Every row of a device as it is to be: itself, what is left of it, whether it is blocked.
    pub(crate) fn rows(&self, peer: &PeerKey) -> Vec<Change> {
        let row = |table| Change { table, key: peer.0.to_vec(), value: None };
        let device = self.devices.get(peer).map_or_else(|| row(DEVICES), Device::change);
        let tombstone =
            self.tombstones.get(peer).filter(|_| !planted!(TombstoneNotStored)).map_or_else(|| row(TOMBSTONES), Tombstone::change);
        let blocked = self.blocked.get(peer).map_or_else(|| row(BLOCKED), BlockedDevice::change);
        Vec::from([device, tombstone, blocked])
    }

    /// Deletes a device.
    pub(crate) fn remove(&mut self, peer: &PeerKey) -> Option<Device> {
        self.confirming.remove(peer);
        let device = self.devices.remove(peer)?;
        self.ids.remove(&device.id);
        Some(device)
    }

    /// Deletes a device, and keeps what tells it so. The rows of whoever gave its place to that, if anybody did.
    // UNP-1.
    pub(crate) fn bury(&mut self, peer: &PeerKey, unix_s: u64) -> Vec<Change> {
        let Some(device) = self.remove(peer) else { return Vec::new() };
        self.tombstones.entry(*peer).or_insert_with(|| Tombstone::new(*peer)).bury(&self.me, &device.roots, unix_s);
        let mut evicted = Vec::new();
        // UNP-7.
        while self.tombstones.values().map(Tombstone::graves).sum::<usize>() > limits::TOMBSTONES && !planted!(TombstonesUnbounded) {
            let others = self.tombstones.iter().filter(|(other, _)| *other != peer);
            let Some(oldest) = others.min_by_key(|(_, tombstone)| tombstone.unix_s).map(|(other, _)| *other) else { break };
            self.tombstones.remove(&oldest);
            evicted.extend(self.rows(&oldest));
        }
        evicted
    }

    /// That a device is forgotten is durable.
    pub(crate) fn buried(&mut self, peer: &PeerKey) {
        if let Some(tombstone) = self.tombstones.get_mut(peer) {
            tombstone.durable = true;
        }
    }

    /// The tombstone under which a Hello came, if it is of a device that was forgotten.
    pub(crate) fn tombstone(&self, hello: &ReceivedHello) -> Option<(&Tombstone, &Secret)> {
        self.tombstones.values().find_map(|tombstone| Some((tombstone, tombstone.notice_key(hello)?)))
    }

    /// The other side has removed this root. `None` if there is none, or that was known.
    // UNP-6.
    pub(crate) fn removed_there(&mut self, peer: &PeerKey, root: SessionRef, unix_s: u64) -> Option<Change> {
        let device = self.devices.get_mut(peer)?;
        let place = |root| device.roots.iter().position(|known| known.session_ref == root);
        let at = place(root)?;
        // Of several that were removed the newest says what has become of the pair.
        if device.removed_there.and_then(|(known, _)| place(known)).is_some_and(|known| known <= at) {
            return None;
        }
        device.removed_there = Some((root, unix_s));
        Some(device.change())
    }

    /// The other side shows that it holds this root: it has not removed it, or no more.
    pub(crate) fn held_there(&mut self, peer: &PeerKey, root: SessionRef) -> Option<Change> {
        let device = self.devices.get_mut(peer)?;
        device.removed_there.take_if(|(removed, _)| *removed == root)?;
        Some(device.change())
    }

    /// Whether a device is blocked.
    // POL-4.
    pub(crate) fn is_blocked(&self, peer: &PeerKey) -> bool {
        self.blocked.contains_key(peer) && !planted!(BlockIgnored)
    }

    /// Blocks a device that is known. False: as many are blocked as can be.
    pub(crate) fn block(&mut self, peer: &PeerKey, unix_s: u64) -> bool {
        let Some(device) = self.devices.get(peer) else { return false };
        if self.blocked.len() >= limits::BLOCKED && !planted!(BlockedUnbounded) && !self.blocked.contains_key(peer) {
            return false;
        }
        self.blocked.entry(*peer).or_insert_with(|| BlockedDevice { id: device.id, key: *peer, name: device.name(), unix_s });
        true
    }

    /// Lifts that. `None`: it is not blocked.
    pub(crate) fn unblock(&mut self, id: DeviceId) -> Option<PeerKey> {
        let peer = self.blocked.values().find(|blocked| blocked.id == id)?.key;
        self.blocked.remove(&peer);
        Some(peer)
    }

    /// Every blocked device.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = &BlockedDevice> {
        self.blocked.values()
    }

    /// Since when a device is blocked.
    pub(crate) fn blocked_since(&self, peer: &PeerKey) -> Option<u64> {
        self.blocked.get(peer).map(|blocked| blocked.unix_s)
    }
}

impl BlockedDevice {
    fn change(&self) -> Change {
        let value = encode(|to| {
            to.array(3)?.u64(1)?.u64(self.unix_s)?.str(&self.name)?;
            Ok(())
        });
        Change { table: BLOCKED, key: self.key.0.to_vec(), value: Some(SecretBytes::new(value)) }
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let key = PeerKey(key.try_into().map_err(|_| Malformed::Bounds)?);
        let mut from = Reader::new(value)?;
        from.fields(3)?;
        if from.u64()? != 1 {
            return Err(Malformed::Bounds);
        }
        let unix_s = from.u64()?;
        // Shown names are longer than told ones, where something is escaped.
        let name = from.text(8 * limits::INFO_NAME)?.into();
        Ok(Self { id: identity::device_id(&key), key, name, unix_s })
    }
}

/// The roots as they were before a confirmation, and those that came since.
fn restore(roots: &mut Vec<Root>, before: Vec<Root>) {
    roots.retain(|root| before.iter().all(|known| known.session_ref != root.session_ref));
    roots.extend(before);
    keep_newest(roots);
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    const ME: PeerKey = PeerKey([9; 32]);

    fn peer(number: u16) -> PeerKey {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        PeerKey(key)
    }

    fn paired(registry: &mut DeviceRegistry, number: u16) {
        let peer = peer(number);
        let root = Root::new(Secret::new([1; 32]), SessionRef([2; 16]), RootState::Confirmed, &ME, &peer);
        let info = DeviceInfo { name: "x".into(), os: String::new(), app: String::new(), caps: 1, transports: vec![] };
        registry.add(NewPair { peer, info, told: Turn(1), root, reached: None }, 1);
    }

    /// UNP-7: of 256 roots keys are kept, and the devices that were forgotten first go first, also on the disk; UNP-1: a row says all.
    #[test]
    fn tombstones_are_bounded_and_survive() {
        let mut registry = DeviceRegistry::new(ME);
        for number in 0..limits::TOMBSTONES as u16 + 3 {
            paired(&mut registry, number);
            let evicted = registry.bury(&peer(number), u64::from(number));
            let gone = (usize::from(number) >= limits::TOMBSTONES).then(|| peer(number - limits::TOMBSTONES as u16));
            let removed = evicted.iter().find(|change| change.table == TOMBSTONES);
            assert_eq!(removed.map(|change| (&change.key[..], change.value.is_none())), gone.as_ref().map(|gone| (&gone.0[..], true)));
        }
        assert_eq!(registry.tombstones.len(), limits::TOMBSTONES);
        let rows = registry.rows(&peer(100));
        let row = rows.into_iter().find(|change| change.table == TOMBSTONES).expect("it was forgotten");
        let mut again = DeviceRegistry::new(ME);
        again.load(&Record { table: row.table, key: row.key, value: row.value.expect("it is kept") }, 0).expect("readable");
        let tombstone = &again.tombstones[&peer(100)];
        assert!(tombstone.durable && tombstone.unix_s == 100 && tombstone.graves() == 1);
    }

    /// POL-5: as many devices are blocked as the bound says; one more is refused, and one that is blocked already is not.
    #[test]
    fn blocked_devices_are_bounded() {
        let mut registry = DeviceRegistry::new(ME);
        for number in 0..limits::BLOCKED as u16 {
            paired(&mut registry, number);
            assert!(registry.block(&peer(number), 1), "{number}");
            // It stays blocked when it is forgotten, and makes room for another.
            drop(registry.bury(&peer(number), 2));
        }
        paired(&mut registry, 1000);
        assert!(!registry.block(&peer(1000), 3));
        registry.unblock(identity::device_id(&peer(7))).expect("it is blocked");
        assert!(registry.block(&peer(1000), 3) && registry.block(&peer(1000), 4));
        assert_eq!(registry.blocked().count(), limits::BLOCKED);
    }

    /// POL-5: who is blocked is so after a restart, and while the device itself is gone.
    #[test]
    fn the_blocked_are_kept_by_name() {
        let mut registry = DeviceRegistry::new(ME);
        paired(&mut registry, 7);
        assert!(registry.block(&peer(7), 5) && !registry.block(&peer(8), 5));
        registry.bury(&peer(7), 6);
        let mut again = DeviceRegistry::new(ME);
        for Change { table, key, value } in registry.rows(&peer(7)) {
            if let Some(value) = value {
                again.load(&Record { table, key, value }, 0).expect("readable");
            }
        }
        let blocked: Vec<_> = again.blocked().cloned().collect();
        assert_eq!(blocked, [BlockedDevice { id: identity::device_id(&peer(7)), key: peer(7), name: "x".into(), unix_s: 5 }]);
        assert_eq!(again.unblock(blocked[0].id), Some(peer(7)));
        assert!(!again.is_blocked(&peer(7)));
    }
}
