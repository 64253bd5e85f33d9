//! The world: devices, virtual time, and one queue of what happens next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use protocol_core::bulk::cipher::RustCrypto;
use protocol_core::crypto::secret::{Secret, SecretBytes};
use protocol_core::effects::{DeviceState, Env, Event, Fact, FileOp, Input, TransferKey};
use protocol_core::identity::NetworkIdentity;
use protocol_core::ids::{ConnId, DeviceId, SessionId, StreamId, Ticket};
use protocol_core::info::{Address, TransportInfo, TransportKind};
use protocol_core::node::{Config, Confirm, DeviceView, Node, PairError, PairingInvite, ShareError};
use protocol_core::pairing::PairingCode;
use protocol_core::records::{Change, Record};
use protocol_core::time::Timestamp;

use crate::choice::{Choices, Site};
use crate::disk::{Disk, Tree, manifest_of};
use crate::link::{Conn, Stream, Wire};
use crate::random::Random;
use crate::rules::{Rule, StoreFault};
use crate::trace::{Tapped, Trace, What};

/// A device of a world, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(pub usize);

/// What a device's user does when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    Opened { stream: usize },
    Bytes { stream: usize, from: usize, bytes: Vec<u8> },
    End { stream: usize, from: usize },
    Broken { stream: usize, end: usize },
    Cut { stream: usize },
    Gone { conn: usize, end: usize },
    Durable { dev: Dev, life: u32, ticket: Ticket, batch: Vec<Change> },
    Files { dev: Dev, life: u32, ticket: Ticket, key: TransferKey, entries: std::ops::Range<u32>, op: FileOp },
    Seal { stream: usize, end: usize },
    Drained { stream: usize, end: usize },
    AnswerPairing { dev: Dev, life: u32, session: SessionId, yes: bool },
    AnswerOffer { dev: Dev, life: u32, key: TransferKey, yes: bool },
    Crash { dev: Dev, life: u32 },
}

pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) seed: [u8; 32],
    pub(crate) wire: Wire,
    pub(crate) random: Random,
    pub(crate) node: Option<Node>,
    pub(crate) life: u32,
    pub(crate) store: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
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
    /// How far its clock is ahead of the world's, in microseconds.
    pub(crate) ahead: u64,
    /// Ids that were counted for it, where ids are counted by device.
    pub(crate) ids: u64,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).field("life", &self.life).finish_non_exhaustive()
    }
}

/// Virtual time, devices and what lies between them.
pub struct World {
    /// What is decided here.
    pub(crate) choices: Choices,
    /// Identities, and what else must be unlike everything.
    pub(crate) keys: Random,
    pub(crate) now: u64,
    pub(crate) queue: BTreeMap<(u64, u64), Act>,
    pub(crate) queued: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) conn_ends: BTreeMap<ConnId, (usize, usize)>,
    pub(crate) stream_ends: BTreeMap<StreamId, (usize, usize)>,
    pub(crate) ids: u64,
    pub(crate) rules: Vec<Rule>,
    pub(crate) material: Vec<Vec<u8>>,
    pub(crate) fired: usize,
    pub(crate) trace: Trace,
    pub(crate) recording: bool,
    pub(crate) tap: Vec<Tapped>,
    pub(crate) events: Vec<(Dev, Event)>,
    /// What came to ends for which tests speak.
    pub(crate) raw: BTreeMap<(usize, usize), Vec<u8>>,
    /// One way, in microseconds: the least, and what chance adds.
    pub(crate) latency: (u64, u64),
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
        Self {
            choices: Choices::new(seed),
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
            fired: 0,
            trace: Trace::new(true),
            recording: true,
            tap: Vec::new(),
            events: Vec::new(),
            raw: BTreeMap::new(),
            latency: (5_000, 3_000),
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
        self.devices.push(Device {
            name: name.into(),
            seed,
            wire,
            random: Random::new(self.keys.next()),
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
            ahead: 0,
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
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        assert!(device.node.is_none(), "it runs already");
        device.disk.sweep();
        let records: Vec<Record> = device
            .store
            .iter()
            .map(|((table, key), value)| Record { table: *table, key: key.clone(), value: SecretBytes::new(value.clone()) })
            .collect();
        let config =
            Config { name: device.name.clone(), os: "sim".into(), app: "kin-sim".into(), bulk_aes: true, cipher: Arc::new(RustCrypto) };
        let identity = NetworkIdentity::from_seed(Secret::new(device.seed));
        let mut env = Env { now, unix_s, entropy: &mut device.random };
        device.node = Some(Node::restore(config, identity, &mut env, records).expect("the store is readable"));
        self.note(dev, What::Starts);
        let local = vec![self.transport(dev)];
        self.handle(dev, Input::Network(Fact::Local(local)));
    }

    fn transport(&self, dev: Dev) -> TransportInfo {
        let Address { kind, text } = self.address(dev);
        TransportInfo { kind, id: self.transport_id(dev), addresses: vec![text], relay: None }
    }

    pub(crate) fn transport_id(&self, dev: Dev) -> Vec<u8> {
        let dev = self.devices[dev.0].stranger.unwrap_or(dev);
        match self.devices[dev.0].wire {
            Wire::Sim => format!("id-{:08}", dev.0).into_bytes(),
            Wire::Tcp => Vec::new(),
        }
    }

    /// Where a device is found.
    pub fn address(&self, dev: Dev) -> Address {
        let device = &self.devices[dev.0];
        match device.wire {
            Wire::Sim => Address { kind: TransportKind::Sim, text: format!("host{}", dev.0) },
            Wire::Tcp => Address { kind: TransportKind::Tcp, text: format!("host{}:1", dev.0) },
        }
    }

    pub(crate) fn device_at(&self, address: &Address) -> Option<Dev> {
        (0..self.devices.len()).map(Dev).find(|&dev| self.address(dev) == *address)
    }

    // What a test knows of devices.

    /// The id of a device.
    pub fn id(&self, dev: Dev) -> DeviceId {
        NetworkIdentity::from_seed(Secret::new(self.devices[dev.0].seed)).device_id()
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
        self.devices(dev).into_iter().find(|view| view.id == id)
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
        self.fired
    }

    /// Virtual time since the world began.
    pub const fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// The wall clock of a device.
    pub fn unix_s(&self, dev: Dev) -> u64 {
        (BEGINNING + self.now / 1_000_000).saturating_add_signed(self.devices[dev.0].unix_shift)
    }

    // Faults.

    /// Adds a fault of streams.
    pub fn rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Bytes for rules that put something in; their number.
    pub fn material(&mut self, bytes: &[u8]) -> usize {
        self.material.push(bytes.to_vec());
        self.material.len() - 1
    }

    /// Forgets the faults that have not fired.
    pub fn clear_rules(&mut self) {
        self.rules.clear();
        for device in &mut self.devices {
            device.store_faults.clear();
        }
    }

    /// The `number`th write that a device asks for from now on (from 1) meets this fault.
    pub fn fault_store(&mut self, dev: Dev, number: u32, fault: StoreFault) {
        let device = &mut self.devices[dev.0];
        device.store_faults.push((device.persists + number, fault));
    }

    /// From now on nothing reaches a device and nothing leaves it, without anybody being told; or that is over.
    pub fn silence(&mut self, dev: Dev, silent: bool) {
        self.devices[dev.0].silent = silent;
    }

    /// The wall clock of a device jumps.
    pub fn shift_clock(&mut self, dev: Dev, by: Duration) {
        self.devices[dev.0].unix_shift += by.as_secs() as i64;
    }

    /// What a device's user says to pairings.
    pub fn set_pairings(&mut self, dev: Dev, answer: Answer) {
        self.devices[dev.0].pairings = answer;
    }

    /// What a device's user says to offers.
    pub fn set_offers(&mut self, dev: Dev, answer: Answer) {
        self.devices[dev.0].offers = answer;
    }

    // What owners want.

    /// A call of a device's Node; what it puts out is performed.
    ///
    /// # Panics
    /// If the device does not run.
    pub fn call<T>(&mut self, dev: Dev, call: impl FnOnce(&mut Node, &mut Env<'_>) -> T) -> T {
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        let node = device.node.as_mut().expect("the device runs");
        let result = call(node, &mut Env { now, unix_s, entropy: &mut device.random });
        self.perform(dev);
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

    /// Offers a tree.
    ///
    /// # Errors
    /// The Node's.
    pub fn share(&mut self, dev: Dev, peer: Dev, tree: &Tree, chunk_size: u32) -> Result<TransferKey, ShareError> {
        let manifest = manifest_of(tree, chunk_size);
        let id = self.id(peer);
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        let node = device.node.as_mut().expect("the device runs");
        let mut env = Env { now, unix_s, entropy: &mut device.random };
        let key = node.share_with_device(&mut env, id, Arc::clone(&manifest), None)?;
        device.disk.offer(key, manifest, tree.clone());
        self.perform(dev);
        Ok(key)
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
                    self.act(act);
                }
            }
        }
        true
    }

    /// The earliest deadline of a Node, on the world's clock.
    pub(crate) fn next_tick(&self) -> Option<(u64, Dev)> {
        let deadline = |(dev, device): (usize, &Device)| {
            let at = device.node.as_ref()?.deadline()?.at.as_micros();
            Some((at.saturating_sub(device.ahead), Dev(dev)))
        };
        self.devices.iter().enumerate().filter_map(deadline).min()
    }

    /// The monotonic clock of a device.
    pub(crate) fn clock(&self, dev: Dev) -> Timestamp {
        Timestamp::from_micros(self.now + self.devices[dev.0].ahead)
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
        self.queue.insert((at.max(self.now), self.queued), act);
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
        let device = &mut self.devices[dev.0];
        if device.node.take().is_none() {
            return;
        }
        device.life += 1;
        device.store_busy = 0;
        device.disk_busy = 0;
        self.note(dev, What::Crashes);
        for conn in 0..self.conns.len() {
            for end in 0..2 {
                let own = &mut self.conns[conn].ends[end];
                if own.dev == dev && own.up {
                    own.up = false;
                    let delay = self.one_way();
                    self.after(delay, Act::Gone { conn, end: 1 - end });
                }
            }
        }
    }

    pub(crate) fn handle(&mut self, dev: Dev, input: Input) {
        let unix_s = self.unix_s(dev);
        let now = self.clock(dev);
        let device = &mut self.devices[dev.0];
        let Some(node) = &mut device.node else { return };
        node.handle(&mut Env { now, unix_s, entropy: &mut device.random }, input);
        self.perform(dev);
    }
}
