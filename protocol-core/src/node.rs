//! Node: owns the machines and routes what happens to them. No protocol decision is made here.
//!
//! ```text
//! Input ─▶ handle ─▶ which machine? ─▶ machine ─▶ Step ─▶ registry, sessions, other machines
//! Output ◀─ poll ◀─ one ordered queue ◀───┘
//! ```
//! What one machine must know of another passes through here as a value: a pairing asks for a verdict and gets one from the
//! registry, a transfer wants a stream and gets one from a session.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::bulk::cipher::BulkCipher;
use crate::devices::registry::DeviceRegistry;
pub use crate::devices::registry::DeviceView;
use crate::effects::{Deadline, DeviceState, Env, Event, Fact, Input, Output, Remote};
use crate::faults::LinkFailure;
use crate::identity::NetworkIdentity;
use crate::ids::{ConnId, DeviceId, PeerKey, SessionRef, StreamId, Ticket};
use crate::info::{Address, Binding, BindingKind, CAP_AES_256_GCM, CAP_CHACHA20_POLY1305, DeviceInfo, TransportInfo, TransportKind};
use crate::limits;
use crate::messages::Messages;
use crate::outbox::{Outbox, Purpose};
use crate::pairing::initiator::Initiator;
use crate::pairing::joiner::Joiner;
pub use crate::pairing::{Confirm, PairError, PairingInvite};
use crate::records::{BLOCKED, DEVICES, MESSAGE_NUMBERS, MESSAGES_IN, MESSAGES_OUT, MESSAGES_SEEN, Record, TOMBSTONES};
use crate::session::handshake::ListenerWaiting;
use crate::session::link::{Dialer, Scans};
use crate::session::machine::{Awaited, Session};
use crate::time::{Timestamp, Turn};
use crate::timers::{TimerKind, Timers};
use crate::transfer::machine::Transfers;
pub use crate::transfer::machine::{ShareError, UnknownTransfer};
use crate::wire::header::Header;

mod commands;
mod custom;
mod data;
mod discovery;
mod keeping;
mod links;
mod messaging;
mod pairings;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod probe;
mod rows;
mod sessions;
mod streams;
mod succession;
mod unpairing;

pub use self::commands::{ConnectError, PolicyError, UnknownDevice, UnknownPairing};
pub use self::custom::{Access, RegisterError};
pub use self::discovery::{Discovery, Notice};
pub use self::unpairing::BlockError;
pub use crate::devices::policy::{FilePolicy, Policy};
pub use crate::devices::registry::BlockedDevice;
pub use crate::devices::registry::DeviceView as Device;

/// What a device says about itself, and what its host can do.
#[derive(Clone)]
pub struct Config {
    /// The device's name, shown to people who pair with it. Cut to its bound.
    pub name: String,
    /// The operating system's name.
    pub os: String,
    /// The program's name and version.
    pub app: String,
    /// Whether the processor has instructions for AES-256-GCM.
    pub bulk_aes: bool,
    /// What seals and opens chunks.
    pub cipher: Arc<dyn BulkCipher>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("name", &self.name).field("bulk_aes", &self.bulk_aes).finish_non_exhaustive()
    }
}

/// Why a Node could not be made from what was stored. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The random source failed.
    NoEntropy,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system's random source failed")
    }
}

impl core::error::Error for RestoreError {}

/// What was counted and had no other effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers to tickets that nobody waits for any more.
    pub unknown_tickets: u64,
    /// Frames on streams that are not there any more.
    pub late_frames: u64,
    /// Streams turned away because too many others had proved nothing yet.
    pub crowded_out: u64,
    /// Handshakes that were refused.
    pub refused: u64,
    /// Records of a lookup that did not open.
    pub bad_records: u64,
}

/// A connection.
#[derive(Debug)]
struct Conn {
    remote: Remote,
    /// The address that we dialled; `None` if the remote dialled us.
    dialed: Option<Address>,
    streams: BTreeSet<StreamId>,
}

/// A stream, and which machine it belongs to.
#[derive(Debug)]
struct Stream {
    conn: ConnId,
    role: Role,
    /// When the Response of a pairing passed here.
    responded: Option<(Timestamp, Turn)>,
}

/// Which machine a stream belongs to.
#[derive(Debug)]
enum Role {
    /// Accepted; its preamble is awaited.
    Fresh,
    /// Named `kin-pair/1`; its PairingRequest is awaited.
    AwaitRequest,
    /// In a handshake of the initiator.
    Initiator,
    /// In a try of the joiner.
    Joiner,
    /// Named `kin-link/1`; its Hello is awaited, or waits for a scan.
    AwaitHello,
    /// A listener that awaits Finish, under this root.
    Listener(Box<Listening>),
    /// A dialler's handshake with this device.
    Dialer(DeviceId),
    /// Its handshake is done; header and opening record are awaited.
    AwaitOpening(Box<Awaited>),
    /// The control stream of this session.
    Control(SessionRef),
    /// Named `kin-data/1`; header, then opening record are awaited.
    AwaitData(Option<Header>),
    /// Its session, or its transfer's offer, is not known yet: header and opening record wait.
    Early(data::Early),
    /// A data stream that we opened as a receiver, or for a protocol: the reply is awaited.
    AwaitReply(Box<data::Opened>),
    /// A data stream of this session that belongs to a transfer.
    Data(SessionRef),
    /// The control stream of a device that was forgotten: once that is durable, it is told so.
    Goodbye(Box<Session>),
    /// A stream of an application protocol with this device; sessions come and go beside it.
    // CUST-8.
    Protocol(DeviceId),
    /// Half-closed by us with a last word; only its end is awaited.
    Closing,
}

impl Role {
    /// Whether nothing has been proved on it yet: such streams are few, and short-lived.
    fn is_unproved(&self) -> bool {
        match self {
            Self::Fresh | Self::AwaitRequest | Self::AwaitHello | Self::AwaitData(_) | Self::Early(_) => true,
            // Its tag fits a root of ours: the data streams that follow it, each a connection on tcp, must not crowd it out.
            Self::Listener(_) => planted!(ReconnectCrowdedOut),
            Self::Initiator
            | Self::Joiner
            | Self::Dialer(_)
            | Self::AwaitOpening(_)
            | Self::Control(_)
            | Self::AwaitReply(_)
            | Self::Data(_)
            | Self::Goodbye(_)
            | Self::Protocol(_)
            | Self::Closing => false,
        }
    }
}

/// A listener between Accept and Finish.
#[derive(Debug)]
struct Listening {
    waiting: ListenerWaiting,
    root: SessionRef,
    peer: PeerKey,
}

/// A kin device: the protocol as a value. See the crate's first page for the contract.
#[derive(Debug)]
pub struct Node {
    config: Config,
    identity: NetworkIdentity,
    transports: Vec<TransportInfo>,
    /// Our DeviceInfo as it is told now.
    info: DeviceInfo,
    info_bytes: Vec<u8>,
    registry: DeviceRegistry,
    initiator: Initiator,
    joiner: Option<Joiner>,
    dialers: BTreeMap<DeviceId, Dialer>,
    sessions: BTreeMap<SessionRef, Session>,
    /// The session of each device that carries messages and transfer control.
    primary: BTreeMap<DeviceId, SessionRef>,
    keeping: keeping::Keeping,
    discovery: discovery::Discovering,
    /// Sessions that there were with a device in this life of the process.
    sessions_had: BTreeMap<DeviceId, u64>,
    /// Devices that had a session in this life of the process.
    met: BTreeSet<DeviceId>,
    /// Rows whose write failed, and how often; true: the owner wanted the device removed, and has not heard that it is.
    unwritten: BTreeMap<PeerKey, (bool, u32)>,
    transfers: Transfers,
    messages: Messages,
    /// Rows of what was said with devices that are being forgotten: they go in the write that says so, which comes behind this ticket.
    unsaid: BTreeMap<PeerKey, (Vec<crate::messages::RowKey>, Ticket)>,
    /// The protocols of the embedder, and who may speak them.
    protocols: BTreeMap<String, Access>,
    wanted: BTreeMap<u64, data::Wanted>,
    last_wanted: u64,
    conns: BTreeMap<ConnId, Conn>,
    streams: BTreeMap<StreamId, Stream>,
    /// What came on early streams behind their opening records.
    held: BTreeMap<StreamId, data::Held>,
    /// Streams that have proved nothing, with their age and source.
    unproved: BTreeMap<StreamId, (Timestamp, String)>,
    /// Streams of pages that the receiver has half-closed while we still send.
    half_closed: BTreeSet<StreamId>,
    scans: Scans,
    recent_hellos: VecDeque<[u8; 32]>,
    out: Outbox,
    timers: Timers,
    now: Timestamp,
    stats: Stats,
}

/// The pieces of a Node that a machine may use, borrowed apart from the machines.
macro_rules! cx {
    ($node:expr, $env:expr) => {
        &mut crate::outbox::Cx { now: $node.now, entropy: &mut *$env.entropy, out: &mut $node.out, timers: &mut $node.timers }
    };
}
use cx;

impl Node {
    /// A Node from what the store holds; from an empty store, a new one.
    ///
    /// Rows that cannot be read are reported by [`Event::BadRecord`] and left as they are.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(
        config: Config,
        identity: NetworkIdentity,
        env: &mut Env<'_>,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, RestoreError> {
        let mut node = Self {
            registry: DeviceRegistry::new(identity.public()),
            transfers: Transfers::new(config.cipher.clone()),
            config,
            identity,
            transports: Vec::new(),
            info: DeviceInfo { name: String::new(), os: String::new(), app: String::new(), caps: 0, transports: Vec::new() },
            info_bytes: Vec::new(),
            initiator: Initiator::default(),
            joiner: None,
            dialers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            primary: BTreeMap::new(),
            keeping: keeping::Keeping::default(),
            discovery: discovery::Discovering::default(),
            sessions_had: BTreeMap::new(),
            met: BTreeSet::new(),
            unwritten: BTreeMap::new(),
            messages: Messages::default(),
            unsaid: BTreeMap::new(),
            protocols: BTreeMap::new(),
            wanted: BTreeMap::new(),
            last_wanted: 0,
            conns: BTreeMap::new(),
            streams: BTreeMap::new(),
            held: BTreeMap::new(),
            unproved: BTreeMap::new(),
            half_closed: BTreeSet::new(),
            scans: Scans::new(),
            recent_hellos: VecDeque::new(),
            out: Outbox::default(),
            timers: Timers::default(),
            now: env.now,
            stats: Stats::default(),
        };
        node.tell_info();
        for record in records {
            let loaded = match record.table {
                DEVICES | TOMBSTONES | BLOCKED => node.registry.load(&record, env.unix_s).ok(),
                MESSAGES_OUT | MESSAGES_IN | MESSAGE_NUMBERS | MESSAGES_SEEN => node.messages.load(&record).ok().map(|()| None),
                _ => None,
            };
            match loaded {
                None => node.out.push(Output::Notify(Event::BadRecord { table: record.table })),
                Some(None) => {}
                Some(Some((peer, change))) => node.store(env, peer, change, Purpose::Registry { peer }),
            }
        }
        let known: BTreeSet<PeerKey> = node.registry.iter().map(|device| device.key).collect();
        node.messages.loaded(cx!(node, env), env.unix_s, |peer| known.contains(peer));
        let peers: Vec<_> = node.registry.iter().map(|device| device.key).collect();
        for peer in peers.into_iter().filter(|_| !planted!(ExpiryNotRestored)) {
            node.watch_pending(env, &peer);
        }
        Ok(node)
    }

    /// Takes in what happened. Total: it cannot fail, never panics, and gives a bounded number of outputs.
    // LIM-6.
    pub fn handle(&mut self, env: &mut Env<'_>, input: Input) {
        self.advance(env);
        match input {
            Input::Tick => {}
            Input::Network(Fact::Local(transports)) => {
                let moved = self.transports != transports;
                self.transports = transports;
                self.tell_info();
                if moved && !planted!(MoveIgnored) {
                    self.redial_kept(env);
                }
            }
            Input::Network(Fact::Awake) => self.on_awake(env),
            Input::Network(Fact::Searches(searches)) => self.discovery.set_searches(searches),
            Input::ConnUp { conn, dialed, remote } => self.on_conn_up(env, conn, dialed, remote),
            Input::ConnMoved { conn, address } => self.on_conn_moved(env, conn, &address),
            Input::ConnDown { conn } => self.on_conn_down(env, conn),
            Input::StreamUp { stream, conn, opened } => self.on_stream_up(env, stream, conn, opened),
            Input::StreamDown { stream, how } => self.on_stream_down(env, stream, how),
            Input::Frame { stream, frame } => self.on_frame(env, stream, frame.into_content()),
            Input::Drained { stream } => self.on_drained(env, stream),
            Input::Bulk { stream, report } => self.transfers.on_bulk(cx!(self, env), stream, &report),
            Input::Forged { stream } => self.on_forged(env, stream),
            Input::Done { ticket, result } => self.on_done(env, ticket, result),
        }
        self.settle(env);
    }

    /// The next thing to do, in order. Call until `None` after each [`handle`](Self::handle) and each command.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop()
    }

    /// When to send [`Input::Tick`], if nothing else happens before. At once while outputs wait.
    // LINK-17.
    pub fn deadline(&self) -> Option<Deadline> {
        if self.out.is_empty() { self.timers.next() } else { Some(Deadline { at: self.now, why: "outputs wait" }) }
    }

    /// Who this device is.
    pub const fn identity(&self) -> &NetworkIdentity {
        &self.identity
    }

    /// What was counted and had no other effect.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Every device that was met, as it is now.
    pub fn manifest(&self, key: crate::effects::TransferKey) -> Option<Arc<crate::transfer::manifest::Manifest>> {
        self.transfers.manifest(key)
    }

    /// Every device.
    pub fn devices(&self) -> Vec<DeviceView> {
        self.registry.iter().map(|device| self.view(device)).collect()
    }

    /// Time goes on, never back, and due timers run.
    fn advance(&mut self, env: &mut Env<'_>) {
        self.now = self.now.max(env.now);
        // A timer may set another that is due at once; the bound keeps a mistake of ours from turning into a loop.
        for _ in 0..256 {
            let Some(timer) = self.timers.pop_due(self.now) else { return };
            self.on_timer(env, timer);
        }
    }

    fn on_timer(&mut self, env: &mut Env<'_>, timer: TimerKind) {
        match timer {
            TimerKind::Code => self.initiator.on_code_timer(cx!(self, env)),
            TimerKind::Connection(conn) => self.hang_up_if_unused(conn),
            TimerKind::Stream(stream) | TimerKind::Handshake(stream) | TimerKind::InitiatorUser(stream) => {
                self.on_stream_timer(env, timer, stream);
            }
            TimerKind::Attempt(session) | TimerKind::JoinerUser(session) | TimerKind::JoinerRedial(session) => {
                self.on_joiner_timer(env, timer, session);
            }
            TimerKind::LinkRedial(device) => {
                if let Some(dialer) = self.dialers.get_mut(&device) {
                    dialer.on_redial(cx!(self, env));
                }
            }
            TimerKind::Scan => self.scan_waiting(env),
            TimerKind::Rows => self.write_again(env),
            TimerKind::Pending(peer, session_ref) => self.on_pending_expired(env, peer, session_ref),
            TimerKind::Idle(session_ref) => self.on_idle(env, session_ref),
            TimerKind::Age(session_ref) => self.on_age(env, session_ref),
            TimerKind::Erase(session_ref) => self.erase_session(env, session_ref),
            TimerKind::Connect(device) => {
                let reason = self.dialers.get(&device).map_or(LinkFailure::Unreachable, Dialer::failure);
                self.connect_failed(env, device, reason);
            }
            TimerKind::Keep(device) => self.on_keep(env, device),
            TimerKind::Faster(number) => self.give_up_faster(env, number),
            TimerKind::Messages(peer) => self.messages.on_timer(cx!(self, env), peer, env.unix_s),
            TimerKind::Transfer(key, timer) => self.transfers.on_timer(cx!(self, env), key, timer),
        }
    }

    /// Performs what transfers want of sessions, until they want nothing, and forgets the streams that machines have reset.
    fn settle(&mut self, env: &mut Env<'_>) {
        for _ in 0..64 {
            let wants = self.transfers.take_wants(cx!(self, env));
            let tells = self.messages.take_tells();
            if wants.is_empty() && tells.is_empty() {
                break;
            }
            for (device, message) in tells {
                self.tell(env, device, &message);
            }
            for want in wants {
                self.on_want(env, want);
            }
        }
        for stream in self.out.take_reset() {
            self.forget_stream(stream);
        }
    }

    /// Our DeviceInfo from configuration and network, cut to its bounds.
    fn tell_info(&mut self) {
        let caps = CAP_CHACHA20_POLY1305 | if self.config.bulk_aes { CAP_AES_256_GCM } else { 0 };
        self.info = DeviceInfo {
            name: self.config.name.clone(),
            os: self.config.os.clone(),
            app: self.config.app.clone(),
            caps,
            transports: self.transports.clone(),
        }
        .bounded();
        self.info_bytes = self.info.encode();
    }

    /// How a handshake on this connection is bound to it. `None` for a transport without a binding of its own.
    fn binding(&self, conn: ConnId) -> Option<Binding> {
        let remote = &self.conns.get(&conn)?.remote;
        let kind = match remote.kind {
            TransportKind::Tcp => BindingKind::Tcp,
            TransportKind::Iroh => BindingKind::IrohX,
            TransportKind::Libp2p => BindingKind::Libp2p,
            TransportKind::Sim => BindingKind::Sim,
            TransportKind::Other(_) => return None,
        };
        let own = self.transports.iter().find(|transport| transport.kind == remote.kind).map(|transport| transport.id.clone());
        Some(Binding { kind, own: own.unwrap_or_default(), remote: remote.id.clone(), exporter: remote.exporter.clone() })
    }

    fn view_state(&self, device: &crate::devices::device::Device) -> DeviceState {
        if self.primary.contains_key(&device.id) {
            DeviceState::Connected
        } else if !device.is_paired() {
            DeviceState::Pairing
        } else if self.met.contains(&device.id) {
            DeviceState::Disconnected
        } else {
            DeviceState::Paired
        }
    }

    fn primary_of(&self, device: &crate::devices::device::Device) -> Option<&Session> {
        self.primary.get(&device.id).and_then(|primary| self.sessions.get(primary))
    }

    fn view(&self, device: &crate::devices::device::Device) -> DeviceView {
        DeviceView {
            id: device.id,
            key: device.key,
            name: device.name(),
            os: device.info.os.clone(),
            app: device.info.app.clone(),
            state: self.view_state(device),
            fingerprint: crate::identity::fingerprint(&device.key),
            paired_unix: device.paired_unix,
            last_seen_unix: device.last_seen_unix,
            last_route: device.last_route.clone(),
            addresses: device.addresses.clone(),
            confirmed: device.is_confirmed(),
            removed_there: device.is_removed_there(),
            blocked: self.registry.blocked_since(&device.key),
            policy: device.policy.clone(),
            last_end: device.last_end,
            route: self.primary_of(device).map(Session::route),
            dialled_here: self.primary_of(device).map(|session| session.we_opened),
            rtt: self.primary_of(device).and_then(|session| session.rtt),
            sessions: self.sessions_had.get(&device.id).copied().unwrap_or(0),
        }
    }

    /// How many streams one source, and all, may have before they proved anything.
    // LIM-1.
    fn make_room(&mut self, env: &mut Env<'_>, source: &str) -> bool {
        let of_source = self.unproved.values().filter(|(_, other)| other == source).count();
        let crowd = if of_source >= limits::UNPROVED_STREAMS_PER_REMOTE + usize::from(planted!(SeventeenUnproved)) {
            Some(true)
        } else if self.unproved.len() >= limits::UNPROVED_STREAMS {
            Some(false)
        } else {
            None
        };
        let Some(same_source) = crowd.filter(|_| !planted!(UnprovedUnbounded)) else { return true };
        let oldest = self
            .unproved
            .iter()
            .filter(|(_, (_, other))| !same_source || other == source)
            .min_by_key(|(_, (since, _))| *since)
            // LIM-2.
            .filter(|(_, (since, _))| self.now.since(*since) >= limits::UNPROVED_GRACE || planted!(GraceIgnored))
            .map(|(&stream, _)| stream);
        self.stats.crowded_out += 1;
        match oldest {
            Some(stream) => {
                self.drop_stream(env, stream, crate::faults::code::REFUSED);
                true
            }
            None => false,
        }
    }
}
