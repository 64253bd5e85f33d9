//! One device, as it is kept.

use alloc::borrow::ToOwned as _;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use minicbor::Encoder;

use super::policy::Policy;
use crate::crypto::secret::{Secret, SecretBytes};
use crate::effects::Route;
use crate::faults::LinkFailure;
use crate::ids::{DeviceId, PeerKey, SessionRef};
use crate::info::{Address, DeviceInfo, TransportInfo, TransportKind};
use crate::limits;
use crate::records::{Change, DEVICES};
use crate::session::handshake::schedule::Pair;
use crate::time::Turn;
use crate::wire::cbor::{Malformed, Reader};

/// Version of the stored form. The first had neither removal, policy nor end; it is read, and written anew when something changes.
const SCHEMA: u64 = 2;
/// The number of fields in the first version.
const FIELDS_OF_1: u64 = 8;
/// Addresses kept for a device, newest first.
const ADDRESSES: usize = 32;
/// Bytes of an address as it is stored, with its transport's name.
const ADDRESS: usize = limits::INFO_ADDRESS + 16;
/// Room for a stored device without growing: info, 32 addresses, 5 roots, its policy and heads.
const STORED: usize = limits::INFO + ADDRESSES * ADDRESS + limits::PATH_BYTES + limits::PROTOCOLS * 68 + 1024;

/// How far a root is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootState {
    /// Both sides are known to hold it.
    Confirmed,
    /// Ours to use; the joiner's first sign of life is awaited. Never deleted by time (section 12.3).
    Unconfirmed,
    /// A joiner's, until the initiator is known to hold it. Opens nothing unless `agreed`: our user (or policy) said yes.
    Provisional {
        /// See above.
        agreed: bool,
        /// Seconds since 1970.
        expires: u64,
    },
}

impl RootState {
    /// Whether a handshake may use it.
    // PAIR-24.
    pub(crate) fn usable(self, unix_s: u64) -> bool {
        match self {
            Self::Confirmed | Self::Unconfirmed => true,
            Self::Provisional { agreed, expires } => {
                let young = unix_s < expires || planted!(PendingNeverExpires);
                young && (agreed || planted!(PendingUsableUnasked))
            }
        }
    }
}

/// A pairing root and what is derived from it once.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) secret: Secret,
    /// The session that the root came from: its public name.
    pub(crate) session_ref: SessionRef,
    pub(crate) state: RootState,
    /// Key of the tag in a Hello from the peer to us.
    pub(crate) hello_key: Secret,
}

impl Root {
    pub(crate) fn new(secret: Secret, session_ref: SessionRef, state: RootState, me: &PeerKey, peer: &PeerKey) -> Self {
        let hello_key = Pair { dialer: *peer, listener: *me }.hello_key(&secret);
        Self { secret, session_ref, state, hello_key }
    }

    fn duplicate(&self) -> Self {
        Self { secret: self.secret.duplicate(), session_ref: self.session_ref, state: self.state, hello_key: self.hello_key.duplicate() }
    }
}

/// A device that was met.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) key: PeerKey,
    /// Its newest DeviceInfo, as it was signed.
    pub(crate) info: DeviceInfo,
    /// When that was said, if it was in this life of ours.
    pub(crate) told: Option<Turn>,
    /// The name that the owner gave it.
    pub(crate) own_name: Option<String>,
    pub(crate) paired_unix: u64,
    pub(crate) last_seen_unix: Option<u64>,
    pub(crate) last_route: Option<Route>,
    /// Where it was reached or said to be, newest first.
    pub(crate) addresses: Vec<Address>,
    /// Newest first.
    pub(crate) roots: Vec<Root>,
    /// Roots that gave their place to newer ones, until those are durable.
    pub(crate) displaced: Vec<Displaced>,
    /// The other side has removed this root, and when it told so, seconds since 1970.
    pub(crate) removed_there: Option<(SessionRef, u64)>,
    /// What it may do here.
    pub(crate) policy: Policy,
    /// How its last session, or the last attempt to have one, ended, and when, seconds since 1970.
    pub(crate) last_end: Option<(LinkFailure, u64)>,
}

/// A root that is there again if what took its place cannot be written.
#[derive(Debug)]
pub(crate) struct Displaced {
    by: SessionRef,
    at: usize,
    root: Root,
}

impl Device {
    /// A device that was just met.
    pub(crate) fn new(key: PeerKey, info: DeviceInfo, unix_s: u64) -> Self {
        Self {
            id: crate::identity::device_id(&key),
            key,
            info,
            told: None,
            own_name: None,
            paired_unix: unix_s,
            last_seen_unix: None,
            last_route: None,
            addresses: Vec::new(),
            roots: Vec::new(),
            displaced: Vec::new(),
            removed_there: None,
            policy: Policy::default(),
            last_end: None,
        }
    }

    /// When the other side told that it removed this pairing, seconds since 1970, if nothing was paired since.
    // UNP-6.
    pub(crate) fn is_removed_there(&self) -> Option<u64> {
        let newest = self.roots.first()?.session_ref;
        self.removed_there.filter(|(root, _)| *root == newest).map(|(_, unix_s)| unix_s)
    }

    /// Paired, confirmed or not: not only met as a joiner whose pairing is unfinished.
    pub(crate) fn is_paired(&self) -> bool {
        self.roots.iter().any(|root| !matches!(root.state, RootState::Provisional { .. }))
    }

    /// Whether there is a root under which it can be spoken with.
    // PAIR-24.
    pub(crate) fn is_usable(&self, unix_s: u64) -> bool {
        self.roots.iter().any(|root| root.state.usable(unix_s))
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.roots.iter().any(|root| root.state == RootState::Confirmed)
    }

    /// The name to show.
    pub(crate) fn name(&self) -> String {
        self.own_name.clone().unwrap_or_else(|| self.info.shown_name())
    }

    /// Takes what a proven contact told then: the newest info and, first, the address that worked. What nobody could dial is in the
    /// info only: a transport that we do not know, a text that is no address. A pairing whose user thought for long brings what is
    /// older than what a contact told meanwhile.
    // ID-15, LINK-7.
    pub(crate) fn learn(&mut self, info: DeviceInfo, reached: Option<Address>, at: Turn) {
        if self.told.is_some_and(|told| at < told) && !planted!(OlderInfoTaken) {
            return;
        }
        self.told = Some(at);
        let told = info.transports.iter().flat_map(TransportInfo::dialable);
        let mut addresses: Vec<Address> = Vec::new();
        for address in reached.into_iter().chain(told).chain(self.addresses.iter().cloned()) {
            if addresses.len() < ADDRESSES && !addresses.contains(&address) && is_stored_as(&address) {
                addresses.push(address);
            }
        }
        if !planted!(AddressesNotRenewed) || self.addresses.is_empty() {
            self.addresses = addresses;
        }
        if !planted!(InfoNotRenewed) {
            self.info = info;
        }
    }

    /// Adds a root before the others; the oldest unfinished one goes.
    pub(crate) fn add_root(&mut self, root: Root) {
        if planted!(OldRootDropped) {
            self.roots.clear();
        }
        let by = root.session_ref;
        let mut unfinished = self.roots.iter().enumerate().filter(|(_, root)| root.state != RootState::Confirmed);
        let oldest = unfinished.nth(limits::PENDING_ROOTS_PER_DEVICE - 1).filter(|_| !planted!(PendingRootsUnbounded));
        if let Some(at) = oldest.map(|(at, _)| at) {
            let root = self.roots.remove(at);
            self.displaced.push(Displaced { by, at, root });
        }
        self.roots.insert(0, root);
    }

    /// A root that was added is durable: what it displaced is gone for good.
    pub(crate) fn root_stored(&mut self, session_ref: SessionRef) {
        self.displaced.retain(|displaced| displaced.by != session_ref);
    }

    /// Both sides hold this root: it replaces those before it, and does not touch what a newer pairing has begun. False if it is not
    /// there.
    ///
    /// Two that pair with each other both ways at once may confirm a root each, and would be left with none in common: there, the
    /// device with the smaller key keeps what it has written as initiator beside what it confirms as joiner, and the other does
    /// not. Which of the two the other holds in the end, the next contact shows.
    // PAIR-31, PAIR-49.
    pub(crate) fn confirm(&mut self, me: &PeerKey, session_ref: SessionRef) -> bool {
        let Some(at) = self.roots.iter().position(|root| root.session_ref == session_ref) else { return false };
        if self.roots[at].state == RootState::Confirmed {
            // What stays beside it was decided then.
            return true;
        }
        self.displaced.clear();
        let joined = matches!(self.roots[at].state, RootState::Provisional { .. });
        let keeps = *me < self.key && !planted!(CrossedRootsLost);
        let mut number = 0..;
        self.roots.retain_mut(|root| {
            let newer = number.next().is_some_and(|number: usize| number < at);
            let stays = match root.state {
                RootState::Unconfirmed if joined => keeps,
                RootState::Unconfirmed => newer,
                RootState::Provisional { .. } => newer && (joined || !keeps),
                RootState::Confirmed => newer && !joined && keeps,
            };
            if stays && root.state == RootState::Confirmed {
                root.state = RootState::Unconfirmed;
            }
            stays || root.session_ref == session_ref || planted!(OldRootKept)
        });
        for root in self.roots.iter_mut().filter(|root| root.session_ref == session_ref || planted!(OldRootKept)) {
            root.state = RootState::Confirmed;
        }
        if joined && keeps {
            // It is newer than what stays beside it, whatever was begun first.
            self.roots.sort_by_key(|root| root.session_ref != session_ref);
        }
        true
    }

    /// The roots as they are, to be put back if a write fails.
    pub(crate) fn duplicate_roots(&self) -> Vec<Root> {
        self.roots.iter().map(Root::duplicate).collect()
    }

    /// Deletes one root. What it displaced comes back, unless the disk knows better by now.
    // PAIR-35.
    pub(crate) fn drop_root(&mut self, session_ref: SessionRef) {
        self.roots.retain(|root| root.session_ref != session_ref);
        for displaced in self.displaced.extract_if(.., |displaced| displaced.by == session_ref) {
            self.roots.insert(displaced.at.min(self.roots.len()), displaced.root);
        }
    }

    /// The row to write: the device, or its removal if no root is left.
    pub(crate) fn change(&self) -> Change {
        let value = (!self.roots.is_empty()).then(|| self.encode());
        Change { table: DEVICES, key: self.key.0.to_vec(), value }
    }

    fn encode(&self) -> SecretBytes {
        let mut bytes = Encoder::new(Vec::with_capacity(STORED));
        self.encode_into(&mut bytes).expect("invariant: a vector takes every byte");
        SecretBytes::new(bytes.into_writer())
    }

    fn encode_into(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<core::convert::Infallible>> {
        to.array(11)?.u64(SCHEMA)?.bytes(&self.info.encode())?;
        match &self.own_name {
            Some(name) => to.str(name)?,
            None => to.null()?,
        };
        to.u64(self.paired_unix)?;
        match self.last_seen_unix {
            Some(unix) => to.u64(unix)?,
            None => to.null()?,
        };
        match &self.last_route {
            Some(route) => to.array(2)?.str(route.transport.name())?.str(&route.address)?,
            None => to.null()?,
        };
        to.array(self.addresses.len() as u64)?;
        for address in &self.addresses {
            to.str(&address.to_string())?;
        }
        to.array(self.roots.len() as u64)?;
        for root in &self.roots {
            let (state, expires) = match root.state {
                RootState::Confirmed => (0, 0),
                RootState::Unconfirmed => (1, 0),
                RootState::Provisional { agreed: false, expires } => (2, expires),
                RootState::Provisional { agreed: true, expires } => (3, expires),
            };
            to.array(4)?.bytes(root.secret.bytes())?.bytes(&root.session_ref.0)?.u8(state)?.u64(expires)?;
        }
        match &self.removed_there {
            Some((root, unix_s)) => to.array(2)?.bytes(&root.0)?.u64(*unix_s)?,
            None => to.null()?,
        };
        self.policy.encode_into(to)?;
        match self.last_end {
            Some((reason, unix_s)) => to.array(2)?.u8(reason.number())?.u64(unix_s)?,
            None => to.null()?,
        };
        Ok(())
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// What is wrong with it; the row is then left as it is.
    pub(crate) fn decode(me: &PeerKey, key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let key = PeerKey(key.try_into().map_err(|_| Malformed::Bounds)?);
        let mut from = Reader::new(value)?;
        let fields = from.array()?;
        let schema = from.u64()?;
        if (schema, fields) != (1, FIELDS_OF_1) && (schema, fields) != (SCHEMA, FIELDS_OF_1 + 3) {
            return Err(Malformed::Bounds);
        }
        let info = DeviceInfo::decode(from.bytes(limits::INFO)?)?;
        let own_name = from.or_null(|from| from.text(limits::INFO_NAME).map(String::from))?;
        let paired_unix = from.u64()?;
        let last_seen_unix = from.or_null(Reader::u64)?;
        let last_route = from.or_null(|from| {
            from.fields(2)?;
            let transport = TransportKind::named(from.text(limits::INFO_WORD)?);
            Ok(Route { transport, address: from.text(limits::INFO_ADDRESS)?.to_owned() })
        })?;
        let mut addresses = Vec::new();
        for _ in 0..from.array_up_to(ADDRESSES)? {
            // One that is none any more is no reason to lose the pairing.
            addresses.extend(from.text(limits::INFO)?.parse::<Address>());
        }
        let mut roots = Vec::new();
        for _ in 0..from.array_up_to(limits::PENDING_ROOTS_PER_DEVICE + 1)? {
            from.fields(4)?;
            let secret = Secret::new(from.exactly()?);
            let session_ref = SessionRef(from.exactly()?);
            let state = match (from.u8()?, from.u64()?) {
                (0, _) => RootState::Confirmed,
                (1, _) => RootState::Unconfirmed,
                (2, expires) => RootState::Provisional { agreed: false, expires },
                (3, expires) => RootState::Provisional { agreed: true, expires },
                _ => return Err(Malformed::Bounds),
            };
            roots.push(Root::new(secret, session_ref, state, me, &key));
        }
        let mut device = Self { own_name, last_seen_unix, last_route, addresses, roots, ..Self::new(key, info, paired_unix) };
        if schema == 1 {
            return Ok(device);
        }
        device.removed_there = from.or_null(|from| {
            from.fields(2)?;
            Ok((SessionRef(from.exactly()?), from.u64()?))
        })?;
        device.policy = Policy::decode(&mut from)?;
        let last_end = from.or_null(|from| {
            from.fields(2)?;
            Ok((LinkFailure::of_number(from.u8()?), from.u64()?))
        })?;
        device.last_end = last_end.and_then(|(reason, unix_s)| Some((reason?, unix_s)));
        Ok(device)
    }
}

/// Of the unfinished roots only the newest stay.
pub(super) fn keep_newest(roots: &mut Vec<Root>) {
    let mut unfinished = 0;
    roots.retain(|root| {
        unfinished += usize::from(root.state != RootState::Confirmed);
        root.state == RootState::Confirmed || unfinished <= limits::PENDING_ROOTS_PER_DEVICE
    });
}

/// Whether an address can be read back from its text.
fn is_stored_as(address: &Address) -> bool {
    let text = address.to_string();
    text.len() <= ADDRESS && text.parse().as_ref() == Ok(address)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const ME: PeerKey = PeerKey([1; 32]);
    const PEER: PeerKey = PeerKey([2; 32]);

    fn root(number: u8, state: RootState) -> Root {
        Root::new(Secret::new([number; 32]), SessionRef([number; 16]), state, &ME, &PEER)
    }

    fn device(info: DeviceInfo, roots: Vec<Root>) -> Device {
        Device { roots, ..Device::new(PEER, info, 1) }
    }

    /// PAIR-35: a fifth unfinished root takes the place of the oldest, and gives it back if it cannot be written.
    #[test]
    fn what_a_root_displaced_comes_back_unless_that_is_durable() {
        let info = DeviceInfo { name: "other".to_owned(), os: String::new(), app: String::new(), caps: 1, transports: Vec::new() };
        let mut device = device(info, vec![root(4, RootState::Confirmed), root(9, RootState::Unconfirmed)]);
        let held = |device: &Device| device.roots.iter().map(|root| root.session_ref.0[0]).collect::<Vec<_>>();
        for number in 5..8 {
            device.add_root(root(number, RootState::Unconfirmed));
        }
        assert_eq!(held(&device), [7, 6, 5, 4, 9]);
        device.add_root(root(8, RootState::Unconfirmed));
        assert_eq!(held(&device), [8, 7, 6, 5, 4]);
        device.drop_root(SessionRef([8; 16]));
        assert_eq!(held(&device), [7, 6, 5, 4, 9], "it could not be written");
        device.add_root(root(8, RootState::Unconfirmed));
        device.root_stored(SessionRef([8; 16]));
        device.drop_root(SessionRef([8; 16]));
        assert_eq!(held(&device), [7, 6, 5, 4], "it was written");
    }

    /// POL-1, KEEP-8: a row of the first version is read, with what it could not say as it is for a new device; what is written comes back.
    #[test]
    fn rows_of_the_first_version_are_read() {
        let info = DeviceInfo { name: "other".to_owned(), os: String::new(), app: String::new(), caps: 1, transports: Vec::new() };
        let mut known = device(info, vec![root(3, RootState::Confirmed)]);
        known.own_name = Some("mine".to_owned());
        let mut first = Encoder::new(Vec::new());
        let text = known.info.encode();
        first.array(8).unwrap().u64(1).unwrap().bytes(&text).unwrap().str("mine").unwrap().u64(1).unwrap();
        first.null().unwrap().null().unwrap().array(0).unwrap().array(1).unwrap();
        first.array(4).unwrap().bytes(&[3; 32]).unwrap().bytes(&[3; 16]).unwrap().u8(0).unwrap().u64(0).unwrap();
        let read = Device::decode(&ME, &PEER.0, &first.into_writer()).expect("readable");
        assert_eq!((read.own_name.as_deref(), read.roots.len(), &read.policy, read.last_end), (Some("mine"), 1, &Policy::default(), None));

        known.policy =
            Policy { messages: false, max_bytes: Some(7), max_entries: Some(9), folder: Some("/x".to_owned()), ..Policy::default() };
        known.policy.protocols.insert("clipboard/1".to_owned());
        known.last_end = Some((LinkFailure::Removed, 8));
        known.removed_there = Some((SessionRef([3; 16]), 9));
        let row = known.change().value.expect("it has a root");
        let read = Device::decode(&ME, &PEER.0, row.bytes()).expect("readable");
        assert_eq!((&read.policy, read.last_end, read.is_removed_there()), (&known.policy, known.last_end, Some(9)));
        for schema in [0_u8, 3] {
            let mut other = row.bytes().to_vec();
            other[1] = schema;
            assert!(Device::decode(&ME, &PEER.0, &other).is_err(), "a later version is left as it is");
        }
    }

    /// ID-15: whatever a peer says about its transports, its row can be read again, and holds what it said.
    #[test]
    fn a_row_is_readable_whatever_addresses_were_told() {
        let transport = |kind: &str, addresses: &[&str]| TransportInfo {
            kind: TransportKind::named(kind),
            id: Vec::new(),
            addresses: addresses.iter().map(|&text| text.to_owned()).collect(),
            relay: None,
        };
        let long = "h".repeat(limits::INFO_ADDRESS);
        let info = DeviceInfo {
            name: "other".to_owned(),
            os: String::new(),
            app: String::new(),
            caps: 1,
            transports: vec![
                transport("pigeon", &["coop 7"]),
                transport("tcp", &["", "a b", "10.0.0.1:1", &long]),
                transport("", &["x"]),
                // Of Iroh an address is of use only with the id.
                TransportInfo { id: vec![0xab], relay: Some("https://r/".to_owned()), ..transport("iroh", &["10.0.0.1:2"]) },
            ],
        };
        let mut device = device(info.clone(), vec![root(3, RootState::Confirmed)]);
        let unknown = Address { kind: TransportKind::Other("pigeon".to_owned()), text: "coop 7".to_owned() };
        device.learn(info.clone(), Some(unknown), Turn(1));
        let row = device.change().value.expect("it has a root");
        let again = Device::decode(&ME, &PEER.0, row.bytes()).expect("readable");
        assert_eq!(again.info, info);
        assert_eq!(again.addresses, device.addresses);
        let texts: Vec<_> = again.addresses.iter().map(|address| address.text.clone()).collect();
        assert_eq!(texts, ["10.0.0.1:1", &long, "ab@10.0.0.1:2", "ab@https://r/"]);
    }
}
