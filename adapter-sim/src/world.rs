//! The world: devices, virtual time, and one queue of what happens next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use protocol_core::bulk::cipher::{BulkCipher, RustCrypto};
use protocol_core::crypto::secret::{Secret, SecretBytes};
use protocol_core::effects::{Cut, DeviceState, Env, Event, Fact, FileOp, Input, Remote, TransferKey};
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::identity::NetworkIdentity;
use protocol_core::ids::{ConnId, DeviceId, PeerKey, SessionId, StreamId, Ticket};
use protocol_core::info::{Address, TransportInfo, TransportKind};
use protocol_core::node::{Config, Confirm, DeviceView, Node, PairError, PairingInvite};
use protocol_core::pairing::PairingCode;
use protocol_core::records::{Change, Record};
use protocol_core::session::rendezvous::Medium;
use protocol_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::adversary::{Due, Foe};
use crate::choice::{Choices, Site};
use crate::coverage::Watch;
use crate::disk::Disk;
use crate::link::{Conn, Stream, Uplink, Wire};
use crate::lookup::Lookups;
use crate::oracle::{Oracle, Recorder};
use crate::protocols::Talks;
use crate::random::Random;
use crate::rules::{DialFault, DiskFault, Rule, StoreFault};
use crate::trace::{Tapped, Trace, What};

/// A device of a world, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dev(pub usize);

/// What a device's user does when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Says yes after a moment.
    #[default]
    Yes,
    /// Says no after a moment.
    No,
    /// Does not answer: the test may.
    Silent,
}

/// What is to happen.
pub(crate) enum Act {
    Tell { dev: Dev, life: u32, input: Input },
    Dial { dev: Dev, life: u32, ticket: Ticket, to: Address },
    Up { conn: usize, ticket: Ticket, remote: Remote },
    Opened { stream: usize },
    Bytes { stream: usize, from: usize, frame: u32, bytes: Vec<u8> },
    End { stream: usize, from: usize },
    Broken { stream: usize, end: usize },
    Cut { stream: usize },
    Tainted { stream: usize, end: usize },
    Overdue { stream: usize },
    Gone { conn: usize, end: usize },
    Durable { dev: Dev, life: u32, ticket: Ticket, batch: Vec<Change> },
    GoOn { dev: Dev, life: u32, device: DeviceId },
    Files { dev: Dev, life: u32, ticket: Ticket, key: TransferKey, entries: std::ops::Range<u32>, op: FileOp },
    Seal { stream: usize, end: usize },
    Talk { stream: usize, end: usize },
    Drained { stream: usize, end: usize },
    AnswerPairing { dev: Dev, life: u32, session: SessionId, yes: bool },
    AnswerOffer { dev: Dev, life: u32, key: TransferKey, yes: bool },
    Crash { dev: Dev, life: u32 },
    Step { number: usize },
    Wake { dev: Dev },
    Lookup { dev: Dev, life: u32 },
    Found { dev: Dev, life: u32, medium: Medium, id: Vec<u8>, record: Vec<u8> },
    Enemy(Due),
}

/// How writes are cut into pieces on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pieces {
    /// As chance has it.
    #[default]
    Any,
    /// One byte at a time, as far as that is bearable: pieces of at most a 64th of a write.
    Tiny,
    /// Whole writes.
    Whole,
}

impl Act {
    /// The device in which this happens, if it is in one.
    pub(crate) fn place(&self) -> Option<Dev> {
        match self {
            Self::Tell { dev, .. }
            | Self::Dial { dev, .. }
            | Self::Durable { dev, .. }
            | Self::Files { dev, .. }
            | Self::GoOn { dev, .. }
            | Self::AnswerPairing { dev, .. }
            | Self::Lookup { dev, .. }
            | Self::Found { dev, .. }
            | Self::AnswerOffer { dev, .. } => Some(*dev),
            Self::Up { .. }
            | Self::Opened { .. }
            | Self::Bytes { .. }
            | Self::End { .. }
            | Self::Broken { .. }
            | Self::Cut { .. }
            | Self::Tainted { .. }
            | Self::Overdue { .. }
            | Self::Gone { .. }
            | Self::Seal { .. }
            | Self::Talk { .. }
            | Self::Drained { .. }
            | Self::Crash { .. }
            | Self::Step { .. }
            | Self::Wake { .. }
            | Self::Enemy(_) => None,
        }
    }
}

/// What a store holds: tables and keys, and their values.
type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) seed: [u8; 32],
    pub(crate) key: PeerKey,
    pub(crate) id: DeviceId,
    pub(crate) wire: Wire,
    pub(crate) random: Source,
    pub(crate) node: Option<Node>,
    pub(crate) life: u32,
    pub(crate) store: Rows,
    pub(crate) disk: Disk,
    pub(crate) pairings: Answer,
    pub(crate) offers: Answer,
    pub(crate) unix_shift: i64,
    /// Writes that were asked for in all lives.
    pub(crate) persists: u32,
    pub(crate) store_faults: Vec<(u32, StoreFault)>,
    pub(crate) store_busy: u64,
    pub(crate) disk_busy: u64,
    /// Nothing reaches it and nothing leaves it, and nobody is told.
    pub(crate) silent: bool,
    /// It has no Node: a test speaks for it, and looks like this device to others.
    pub(crate) stranger: Option<Dev>,
    /// Where it is found now, and where it was before.
    pub(crate) places: Vec<u32>,
    /// Nothing happens in it before this moment.
    pub(crate) asleep_until: u64,
    /// What waits for that.
    pub(crate) dreams: Vec<Act>,
    /// The resolution of its monotonic clock, in microseconds.
    pub(crate) resolution: u64,
    /// Dials that it has asked for in all lives, streams that it opened, operations on files.
    pub(crate) asked: Asked,
    /// Faults of these, by number.
    pub(crate) dial_faults: Vec<(u32, DialFault)>,
    pub(crate) open_faults: Vec<u32>,
    pub(crate) disk_faults: Vec<(u32, DiskFault)>,
    /// How much longer its disk takes, in microseconds.
    pub(crate) slow_disk: u64,
    /// What its store held when somebody copied it.
    pub(crate) backup: Option<Rows>,
    /// How far its clock is ahead of the world's, in microseconds.
    pub(crate) ahead: u64,
    /// When its monotonic clock was 0, on the world's.
    pub(crate) booted: u64,
    /// Ids that were counted for it, where ids are counted by device.
    pub(crate) ids: u64,
}

/// Counts of what a device asked its host for, in all its lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) dials: u32,
    pub(crate) opens: u32,
    pub(crate) files: u32,
}

/// Where a device's randomness comes from. It may fail.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    random: Random,
    pub(crate) calls: u32,
    pub(crate) fails: Vec<u32>,
    /// How often it has failed.
    pub(crate) failed: u32,
}

impl Source {
    pub(crate) const fn new(random: Random) -> Self {
        Self { random, calls: 0, fails: Vec::new(), failed: 0 }
    }
}

impl Entropy for Source {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.calls += 1;
        if let Some(at) = self.fails.iter().position(|&call| call == self.calls) {
            self.fails.remove(at);
            self.failed += 1;
            // What a failed source leaves in the buffer is not random.
            bytes.fill(0);
            return Err(NoEntropy);
        }
        self.random.fill(bytes)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("life", &self.life).finish_non_exhaustive()
    }
}

/// Virtual time, devices and what lies between them.
pub struct World {
    /// What applications say.
    pub(crate) talks: Talks,
    /// What is decided here.
    pub(crate) choices: Choices,
    /// Identities, and what else must be unlike everything.
    pub(crate) keys: Random,
    pub(crate) now: u64,
    pub(crate) queue: BTreeMap<(u64, u64), Box<Act>>,
    pub(crate) queued: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) conn_ends: BTreeMap<ConnId, (usize, usize)>,
    pub(crate) stream_ends: BTreeMap<StreamId, (usize, usize)>,
    pub(crate) ids: u64,
    pub(crate) rules: Vec<Rule>,
    pub(crate) material: Vec<Vec<u8>>,
    /// The kinds of faults that have fired.
    pub(crate) fired: Vec<&'static str>,
    pub(crate) trace: Trace,
    pub(crate) recording: bool,
    pub(crate) tap: Vec<Tapped>,
    pub(crate) events: Vec<(Dev, Event)>,
    /// What came to ends for which tests speak.
    pub(crate) raw: BTreeMap<(usize, usize), Vec<u8>>,
    /// How they ended.
    pub(crate) raw_ends: BTreeMap<(usize, usize), Cut>,
    /// One way, in microseconds: the least, and what chance adds.
    pub(crate) latency: (u64, u64),
    /// Bytes from one device to another wait until then.
    pub(crate) holds: BTreeMap<(Dev, Dev), u64>,
    /// What devices send leaves no faster than this.
    pub(crate) uplinks: BTreeMap<Dev, Uplink>,
    /// The smallest pieces that bytes travel in: every piece is one byte, or whole writes.
    pub(crate) pieces: Pieces,
    /// What a god sees while the world runs.
    pub(crate) oracle: Option<Box<Oracle>>,
    /// What counts which states and transitions are reached.
    pub(crate) watch: Option<Box<Watch>>,
    /// No dial comes through before this moment.
    pub(crate) undialable_until: u64,
    /// Steps of a script that are still to come, by number.
    pub(crate) steps: Vec<crate::script::Step>,
    /// What seals chunks.
    pub(crate) cipher: Arc<dyn BulkCipher>,
    /// Codes that devices have shown, newest last.
    pub(crate) codes: BTreeMap<Dev, Vec<PairingCode>>,
    /// Devices that have a Node: those come first.
    pub(crate) honest: usize,
    /// Enemies, once there are some.
    pub(crate) foe: Foe,
    /// The service by which devices find each other, if there is one.
    pub(crate) lookups: Lookups,
    /// Things that happened in queue and Nodes.
    pub(crate) handled: u64,
    pub(crate) wishes: crate::script::Wishes,
    pub(crate) last_place: u32,
    /// What devices do apart from each other commutes: ids are counted by device, and a reset leaves what is in flight.
    pub(crate) commuting: bool,
    /// Devices say that they have instructions for AES.
    aes: bool,
    ticks: u32,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("devices", &self.devices).finish_non_exhaustive()
    }
}

/// Virtual seconds since 1970 when a world begins.
const BEGINNING: u64 = 1_800_000_000;

impl World {
    /// An empty world with a trace and a tap.
    pub fn new(seed: u64) -> Self {
        Self::with(Choices::new(seed), seed, true)
    }

    /// An empty world with these choices, and keys from this seed.
    pub(crate) fn with(choices: Choices, seed: u64, keep: bool) -> Self {
        Self {
            talks: Talks::default(),
            choices,
            keys: Random::new(seed),
            now: 1_000_000,
            queue: BTreeMap::new(),
            queued: 0,
            devices: Vec::new(),
            conns: Vec::new(),
            streams: Vec::new(),
            conn_ends: BTreeMap::new(),
            stream_ends: BTreeMap::new(),
            ids: 0,
            rules: Vec::new(),
            material: Vec::new(),
            fired: Vec::new(),
            trace: Trace::new(keep),
            recording: true,
            tap: Vec::new(),
            events: Vec::new(),
            raw: BTreeMap::new(),
            raw_ends: BTreeMap::new(),
            latency: (5_000, 3_000),
            holds: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            pieces: Pieces::Any,
            oracle: None,
            watch: None,
            undialable_until: 0,
            steps: Vec::new(),
            cipher: Arc::new(RustCrypto),
            codes: BTreeMap::new(),
            honest: 0,
            foe: Foe::default(),
            lookups: Lookups::default(),
            handled: 0,
            wishes: Default::default(),
            last_place: 1_000,
            commuting: false,
            aes: false,
            ticks: 0,
        }
    }

    /// An empty world that records nothing: for runs by the thousand.
    pub fn quiet(seed: u64) -> Self {
        Self { trace: Trace::new(false), recording: false, ..Self::new(seed) }
    }

    /// Devices that start from now on seal chunks with AES. Slow without optimisation.
    pub const fn set_aes(&mut self, aes: bool) {
        self.aes = aes;
    }

    /// One way takes `least` and up to `more` by chance.
    pub const fn set_latency(&mut self, least: Duration, more: Duration) {
        self.latency = (least.as_micros() as u64, more.as_micros() as u64);
    }

    /// A device that is reached over [`Wire::Sim`].
    pub fn add_device(&mut self, name: &str) -> Dev {
        self.add_device_on(name, Wire::Sim)
    }

    /// A device, with a fresh identity.
    pub fn add_device_on(&mut self, name: &str, wire: Wire) -> Dev {
        let dev = Dev(self.devices.len());
        let seed = self.keys.bytes();
        let identity = NetworkIdentity::from_seed(Secret::new(seed));
        self.devices.push(Device {
            name: name.into(),
            seed,
            key: identity.public(),
            id: identity.device_id(),
            wire,
            random: Source::new(Random::new(self.keys.next())),
            node: None,
            life: 0,
            store: BTreeMap::new(),
            disk: Disk::default(),
            pairings: Answer::Yes,
            offers: Answer::Yes,
            unix_shift: 0,
            persists: 0,
            store_faults: Vec::new(),
            store_busy: 0,
            disk_busy: 0,
            silent: false,
            stranger: None,
            places: vec![dev.0 as u32],
            asleep_until: 0,
            dreams: Vec::new(),
            resolution: 1,
            asked: Asked::default(),
            dial_faults: Vec::new(),
            open_faults: Vec::new(),
            disk_faults: Vec::new(),
            slow_disk: 0,
            backup: None,
            ahead: 0,
            booted: 0,
            ids: 0,
        });
        self.restart(dev);
        dev
    }

    /// A device without a Node, for which a test speaks; see [`World::raw_open`]. With `like` it has the transport id of that
    /// device and comes from the same place, as an attacker may who has stolen a transport key.
    pub fn add_stranger(&mut self, wire: Wire, like: Option<Dev>) -> Dev {
        let dev = self.add_device_on("stranger", wire);
        self.devices[dev.0].node = None;
        self.devices[dev.0].stranger = Some(like.unwrap_or(dev));
        dev
    }

    /// Begins a new life of a device that crashed, from what its store holds.
    ///
    /// # Panics
    /// If it runs, or its Node refuses the store.
    pub fn restart(&mut self, dev: Dev) {
        let (now, unix_s) = (self.clock(dev), self.unix_s(dev));
        // The name changes with each life, so that others can be seen to learn it.
        let name = self.shown_name(dev);
        let device = &mut self.devices[dev.0];
        assert!(device.node.is_none(), "it runs already");
        device.disk.sweep(&mut self.choices);
        let records: Vec<Record> = device
            .store
            .iter()
            .map(|((table, key), value)| Record { table: *table, key: key.clone(), value: SecretBytes::new(value.clone()) })
            .collect();
        let config = Config { name, os: "sim".into(), app: "kin-sim".into(), bulk_aes: self.aes, cipher: Arc::clone(&self.cipher) };
        let identity = NetworkIdentity::from_seed(Secret::new(device.seed));
        let mut env = Env { now, unix_s, entropy: &mut device.random };
        device.node = Some(Node::restore(config, identity, &mut env, records).expect("the store is readable"));
        self.register_protocols(dev);
        self.note(dev, What::Starts);
        let local = self.transports(dev);
        self.handle(dev, Input::Network(Fact::Local(local)));
        if self.has_lookup() {
            self.handle(dev, Input::Network(Fact::Searches(true)));
            self.lookup_soon(dev);
        }
        self.with_oracle(|oracle, world| oracle.on_start(world, dev));
        self.keep_in_this_life(dev);
    }

    /// Who a device is on its transports, and where it listens.
    pub fn transports(&self, dev: Dev) -> Vec<TransportInfo> {
        let addresses = self.addresses(dev).into_iter();
        let transport = |Address { kind, text }| {
            let id = self.transport_id(dev, &kind);
            TransportInfo { kind, id, addresses: vec![text], relay: None }
        };
        addresses.map(transport).collect()
    }

    /// How a device is called on a transport.
    pub(crate) fn transport_id(&self, dev: Dev, kind: &TransportKind) -> Vec<u8> {
        let dev = self.devices[dev.0].stranger.unwrap_or(dev);
        if *kind == TransportKind::Tcp { Vec::new() } else { format!("id-{:08}", dev.0).into_bytes() }
    }

    /// Where a device is found first.
    pub fn address(&self, dev: Dev) -> Address {
        self.addresses(dev).swap_remove(0)
    }

    /// Where a device is found: an address for each of its transports.
    pub fn addresses(&self, dev: Dev) -> Vec<Address> {
        let device = &self.devices[dev.0];
        let place = device.places.last().copied().unwrap_or(u32::MAX);
        let texts = [(TransportKind::Sim, format!("host{place}")), (TransportKind::Tcp, format!("host{place}:1"))];
        texts.into_iter().filter(|(kind, _)| device.wire.has(kind)).map(|(kind, text)| Address { kind, text }).collect()
    }

    /// Who answers at an address: of the devices of that kind the one that moved there last.
    pub(crate) fn device_at(&self, address: &Address) -> Option<Dev> {
        let place: u32 = address.text.strip_prefix("host")?.trim_end_matches(":1").parse().ok()?;
        let at = self.devices.iter().position(|device| device.places.contains(&place) && device.wire.has(&address.kind))?;
        Some(Dev(at))
    }

    // What a test knows of devices.

    /// The id of a device.
    pub fn id(&self, dev: Dev) -> DeviceId {
        self.devices[dev.0].id
    }

    /// The device key of a device.
    pub fn key(&self, dev: Dev) -> PeerKey {
        self.devices[dev.0].key
    }

    /// The device that has this key.
    pub fn dev_of(&self, key: &PeerKey) -> Option<Dev> {
        self.devices.iter().position(|device| device.key == *key).map(Dev)
    }

    /// The device that has this id.
    pub fn dev_of_id(&self, id: DeviceId) -> Option<Dev> {
        self.devices.iter().position(|device| device.id == id).map(Dev)
    }

    /// The name that a device tells of itself in its present life.
    pub fn shown_name(&self, dev: Dev) -> String {
        let device = &self.devices[dev.0];
        if device.life == 0 { device.name.clone() } else { format!("{} {}", device.name, device.life) }
    }

    /// Which life a device lives: how often it fell.
    pub fn life(&self, dev: Dev) -> u32 {
        self.devices[dev.0].life
    }

    /// The Node of a device, if it runs.
    pub fn node_of(&self, dev: Dev) -> Option<&Node> {
        self.devices[dev.0].node.as_ref()
    }

    /// Devices of this world, strangers included.
    pub const fn devices_len(&self) -> usize {
        self.devices.len()
    }

    /// Virtual microseconds.
    pub const fn micros(&self) -> u64 {
        self.now
    }

    /// Things that happened so far in the queue and in Nodes.
    pub const fn events_handled(&self) -> u64 {
        self.handled
    }

    /// Whether a device speaks with another in a session.
    pub fn has_session(&self, dev: Dev, peer: Dev) -> bool {
        let peer = self.key(peer);
        self.node_of(dev).is_some_and(|node| node.probe_sessions().iter().any(|session| session.primary && session.peer == peer))
    }

    /// What came to a device is its own now.
    pub(crate) fn forget_arrivals(&mut self, dev: Dev) {
        self.devices[dev.0].disk.forget_arrivals();
        self.with_oracle(|oracle, _| oracle.foreign.retain(|(of, _), _| *of != dev));
    }

    /// The master seed of a device.
    pub fn seed(&self, dev: Dev) -> [u8; 32] {
        self.devices[dev.0].seed
    }

    /// Whether a device runs.
    pub fn is_up(&self, dev: Dev) -> bool {
        self.devices[dev.0].node.is_some()
    }

    /// The Node of a device that runs.
    ///
    /// # Panics
    /// If it does not.
    pub fn node(&self, dev: Dev) -> &Node {
        self.devices[dev.0].node.as_ref().expect("the device runs")
    }

    /// What `dev` knows of other devices.
    pub fn devices(&self, dev: Dev) -> Vec<DeviceView> {
        self.node(dev).devices()
    }

    /// What `dev` knows of `peer`.
    pub fn view(&self, dev: Dev, peer: Dev) -> Option<DeviceView> {
        let id = self.id(peer);
        self.node_of(dev)?.devices().into_iter().find(|view| view.id == id)
    }

    /// Whether `dev` has a session with `peer`.
    pub fn connected(&self, dev: Dev, peer: Dev) -> bool {
        self.view(dev, peer).is_some_and(|view| view.state == DeviceState::Connected)
    }

    /// Whether `dev` holds a confirmed pairing with `peer`.
    pub fn confirmed(&self, dev: Dev, peer: Dev) -> bool {
        self.view(dev, peer).is_some_and(|view| view.confirmed)
    }

    /// The rows of a device's store as they are on its disk.
    pub fn store(&self, dev: Dev) -> &BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        &self.devices[dev.0].store
    }

    /// The rows, to be changed by a test while the device is down.
    pub fn store_mut(&mut self, dev: Dev) -> &mut BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        &mut self.devices[dev.0].store
    }

    /// The files of a device.
    pub fn disk(&self, dev: Dev) -> &Disk {
        &self.devices[dev.0].disk
    }

    /// The files of a device, to be changed by a test.
    pub fn disk_mut(&mut self, dev: Dev) -> &mut Disk {
        &mut self.devices[dev.0].disk
    }

    /// Writes that a device has asked for so far, in all its lives.
    pub fn persists(&self, dev: Dev) -> u32 {
        self.devices[dev.0].persists
    }

    /// Every event so far, with the device that was told.
    pub fn events(&self) -> &[(Dev, Event)] {
        &self.events
    }

    /// The events of one device.
    pub fn events_of(&self, dev: Dev) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |(of, _)| *of == dev).map(|(_, event)| event)
    }

    /// Whether a device was told something like this.
    pub fn saw(&self, dev: Dev, what: impl Fn(&Event) -> bool) -> bool {
        self.events_of(dev).any(what)
    }

    /// Forgets the events so far.
    pub fn clear_events(&mut self) {
        self.events.clear();
    }

    /// The log of the run.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Every byte that was sent.
    pub fn tap(&self) -> &[Tapped] {
        &self.tap
    }

    /// Connections that came up so far.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Rules and store faults that have fired.
    pub const fn fired(&self) -> usize {
        self.fired.len()
    }

    /// Virtual time since the world began.
    pub const fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// The wall clock of a device.
    pub fn unix_s(&self, dev: Dev) -> u64 {
        (BEGINNING + self.now / 1_000_000).saturating_add_signed(self.devices[dev.0].unix_shift)
    }

    // What owners want.

    /// A call of a device's Node; what it puts out is performed.
    ///
    /// # Panics
    /// If the device does not run.
    pub fn call<T>(&mut self, dev: Dev, call: impl FnOnce(&mut Node, &mut Env<'_>) -> T) -> T {
        let result = self.ask(dev, call);
        self.perform(dev);
        self.lookup_soon(dev);
        result
    }

    /// The same, and nothing is performed yet.
    pub(crate) fn ask<T>(&mut self, dev: Dev, call: impl FnOnce(&mut Node, &mut Env<'_>) -> T) -> T {
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        let node = device.node.as_mut().expect("the device runs");
        Recorder::set_device(dev);
        let due = node.probe_due(now);
        let result = call(node, &mut Env { now, unix_s, entropy: &mut device.random });
        self.look(dev, due > 0);
        result
    }

    /// A code, for ten minutes.
    ///
    /// # Errors
    /// The Node's.
    pub fn invite(&mut self, dev: Dev, confirm: Confirm) -> Result<PairingInvite, PairError> {
        self.call(dev, |node, env| node.start_pairing_as_initiator(env, Duration::from_secs(600), confirm))
    }

    /// Types a code.
    ///
    /// # Errors
    /// The Node's.
    pub fn join(&mut self, dev: Dev, code: &PairingCode, at: &[Address], confirm: Confirm) -> Result<SessionId, PairError> {
        self.call(dev, |node, env| node.start_pairing_as_joiner(env, code, at, confirm))
    }

    /// Reconnects by stored addresses and these.
    pub fn connect(&mut self, dev: Dev, peer: Dev) {
        let (id, at) = (self.id(peer), self.address(peer));
        // An unknown device is the test's to find: no event comes then.
        let _unknown = self.call(dev, |node, env| node.connect(env, id, &[at]));
    }

    /// Pairs two devices; both users say yes, and a session is up.
    ///
    /// # Panics
    /// If that does not come about within a minute.
    pub fn pair(&mut self, initiator: Dev, joiner: Dev) {
        let invite = self.invite(initiator, Confirm::Ask).expect("no other pairing runs");
        let at = self.address(initiator);
        self.join(joiner, &invite.code, &[at], Confirm::Ask).expect("no other pairing runs");
        let mut events = 0;
        let paired = self.run_until(Duration::from_secs(60), |world| {
            // What devices know changes with an event only, and is not cheap to ask.
            std::mem::replace(&mut events, world.events.len()) < world.events.len()
                && world.connected(initiator, joiner)
                && world.connected(joiner, initiator)
                && world.confirmed(initiator, joiner)
        });
        assert!(paired, "no pair: {:#?}", self.events);
    }

    // Time.

    /// Runs until `wanted`, or for this long. Whether `wanted` came.
    pub fn run_until(&mut self, limit: Duration, mut wanted: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit.as_micros() as u64;
        loop {
            if wanted(self) {
                return true;
            }
            if !self.step(end) {
                return false;
            }
        }
    }

    /// Runs for this long.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// The next thing that happens up to `end`; false if nothing does, and it is `end` then.
    fn step(&mut self, end: u64) -> bool {
        let tick = self.next_tick();
        let next = self.queue.first_key_value().map(|(&(at, _), _)| at);
        let tick_first = matches!((tick, next), (Some((at, _)), next) if next.is_none_or(|next| at < next));
        let Some(at) = (if tick_first { tick.map(|(at, _)| at) } else { next }).filter(|&at| at <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.ticks = if at > self.now { 0 } else { self.ticks + 1 };
        assert!(self.ticks < 1_000_000, "time stands still");
        self.now = self.now.max(at);
        match (tick_first, tick) {
            (true, Some((_, dev))) => self.handle(dev, Input::Tick),
            _ => {
                if let Some((_, act)) = self.queue.pop_first() {
                    match self.place(&act) {
                        Some(dev) if self.devices[dev.0].asleep_until > self.now => self.devices[dev.0].dreams.push(*act),
                        Some(dev) => {
                            self.wake(dev);
                            self.act(*act);
                        }
                        None => self.act(*act),
                    }
                }
            }
        }
        true
    }

    /// The earliest deadline of a Node, on the world's clock.
    pub(crate) fn next_tick(&self) -> Option<(u64, Dev)> {
        let deadline = |(dev, device): (usize, &Device)| {
            let at = device.node.as_ref()?.deadline()?.at.as_micros();
            // A coarse clock shows the moment only when its next step comes.
            let shown = at.saturating_sub(device.ahead).next_multiple_of(device.resolution) + device.booted;
            Some((shown.max(device.asleep_until), Dev(dev)))
        };
        self.devices.iter().enumerate().filter_map(deadline).min()
    }

    /// The monotonic clock of a device.
    pub(crate) fn clock(&self, dev: Dev) -> Timestamp {
        self.since_boot(dev)
    }

    /// Something happened to a device.
    pub(crate) fn note(&mut self, dev: Dev, what: What) {
        self.trace.push(self.now, Some(dev), what);
    }

    pub(crate) fn after(&mut self, delay: u64, act: Act) {
        self.at(self.now + delay, act);
    }

    pub(crate) fn at(&mut self, at: u64, act: Act) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), Box::new(act));
    }

    pub(crate) fn one_way(&mut self) -> u64 {
        let (least, more) = self.latency;
        least + self.choices.below(Site::Latency, more + 1)
    }

    /// An id for something that this device makes.
    pub(crate) fn new_id(&mut self, maker: Dev) -> u64 {
        if self.commuting {
            let device = &mut self.devices[maker.0];
            device.ids += 1;
            return (maker.0 as u64 + 1) * 1_000 + device.ids;
        }
        self.ids += 1;
        self.ids
    }

    pub(crate) fn is_life(&self, dev: Dev, life: u32) -> bool {
        let device = &self.devices[dev.0];
        device.life == life && (device.node.is_some() || device.stranger.is_some())
    }

    /// The device loses its Node and everything that is not durable. Its connections are reset.
    pub fn crash(&mut self, dev: Dev) {
        self.fall(dev, true);
    }

    /// The same, but nobody is told: its power failed.
    pub fn lose_power(&mut self, dev: Dev) {
        self.fall(dev, false);
    }

    fn fall(&mut self, dev: Dev, told: bool) {
        let device = &mut self.devices[dev.0];
        if device.node.take().is_none() {
            return;
        }
        device.life += 1;
        self.lookup_over(dev);
        if let Some(watch) = &mut self.watch {
            watch.fall(dev);
        }
        let device = &mut self.devices[dev.0];
        device.store_busy = 0;
        device.disk_busy = 0;
        device.asleep_until = 0;
        self.wake(dev);
        self.devices[dev.0].disk.crash(&mut self.choices);
        self.note(dev, What::Crashes);
        for conn in 0..self.conns.len() {
            for end in 0..2 {
                let own = &mut self.conns[conn].ends[end];
                if own.dev == dev && own.up {
                    own.up = false;
                    if told {
                        let delay = self.one_way();
                        self.after(delay, Act::Gone { conn, end: 1 - end });
                    }
                }
            }
        }
    }

    pub(crate) fn handle(&mut self, dev: Dev, input: Input) {
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        let Some(node) = &mut device.node else { return };
        Recorder::set_device(dev);
        self.handled += 1;
        let tick = matches!(input, Input::Tick);
        let several = node.probe_due(now) > usize::from(tick);
        node.handle(&mut Env { now, unix_s, entropy: &mut device.random }, input);
        // Before anything is done: what is done may give the Node its next input.
        self.look(dev, several);
        self.perform(dev);
        if let (true, Some(watch)) = (tick, &mut self.watch) {
            let (ticks, told) = watch.ticked(self.now, dev, self.events.len());
            self.with_oracle(|oracle, _| oracle.check_ticks(dev, ticks, told));
        }
        self.with_oracle(|oracle, world| oracle.on_handled(world, dev));
    }
}
