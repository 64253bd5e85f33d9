//! What a simulator may see of a Node and no host ever does: its roots and sessions by fingerprint, how much it holds, and in which
//! state each of its machines stands.

use alloc::vec::Vec;
use core::time::Duration;

use super::data::Early;
use super::{Node, Role};
use crate::devices::device::{Device, RootState};
use crate::effects::{DeviceState, Direction, TransferKey};
use crate::ids::{DeviceId, PeerKey, SessionRef, StreamId};
use crate::outbox::Purpose;
pub use crate::probe::Print;
use crate::probe::print;
use crate::records::Record;
use crate::wire::cbor::Malformed;

/// How far a root is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both sides are known to hold it.
    Confirmed,
    /// An initiator's, until the joiner's first sign of life.
    Unconfirmed,
    /// A joiner's; `agreed` when its user or policy said yes.
    Provisional {
        /// See above.
        agreed: bool,
    },
}

/// A root that is held for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootProbe {
    /// The peer.
    pub peer: PeerKey,
    /// The session that the root came from.
    pub session_ref: SessionRef,
    /// The root.
    pub print: Print,
    /// How far it is trusted.
    pub trust: Trust,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
}

/// A session that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionProbe {
    /// The peer.
    pub peer: PeerKey,
    /// Its name.
    pub session_ref: SessionRef,
    /// This side opened it.
    pub we_opened: bool,
    /// It is the one that its device is spoken with.
    pub primary: bool,
    /// The peer has shown that it stands there too.
    pub answered: bool,
    /// Its transport carries one stream on a connection.
    pub one_stream: bool,
    /// The secret under which this side seals, and the one under which it opens.
    pub prints: (Print, Print),
}

/// How much a Node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Connections.
    pub conns: usize,
    /// Streams, and those of them that have proved nothing.
    pub streams: (usize, usize),
    /// Streams that wait for their session or offer, and records that wait there.
    pub early: (usize, usize),
    /// Sessions.
    pub sessions: usize,
    /// Attempts to reach a device.
    pub dialers: usize,
    /// Transfers, as sender and as receiver.
    pub transfers: (usize, usize),
    /// Timers.
    pub timers: usize,
    /// Tickets that are not answered.
    pub tickets: usize,
    /// Devices that are known.
    pub devices: usize,
    /// A code, a handshake of it, or a joiner's attempt lives.
    pub pairing: bool,
    /// Tickets of attempts and transfers that are over.
    pub unwanted: usize,
    /// Of the peer with the most: offers of ours, offers of its own, bulk streams that it opened.
    pub most_of_peer: (usize, usize, usize),
    /// Wishes for streams that nobody could open yet.
    pub wanted: usize,
    /// Streams of protocols with the device that has the most.
    pub protocols: usize,
    /// Dials and streams of a joiner's attempt.
    pub joining: usize,
    /// Dials of the attempts to reach a device.
    pub dialling: usize,
    /// Roots of the device that has the most, apart from a confirmed one.
    pub unfinished_roots: usize,
    /// Sessions that are heard out before the newest of a device, for the device that has the most.
    pub heard_out: usize,
    /// How old the oldest session is that a device is spoken with.
    pub oldest_session: Duration,
    /// What is remembered of streams that are held, half-closed, finished or on their way, for whomever.
    pub remembered: usize,
}

/// A kind of machine (PROTOCOL.md, section 12, and what lies between its machines).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// A connection.
    Connection,
    /// A stream, by its role.
    Stream,
    /// An initiator's code.
    Code,
    /// A handshake of an initiator.
    Initiator,
    /// A joiner's attempt.
    Joiner,
    /// An attempt to reach a device.
    Dialler,
    /// A session.
    Session,
    /// A transfer, as its sender.
    Sender,
    /// A transfer, as its receiver.
    Receiver,
    /// A root.
    Root,
    /// A device, as its owner sees it.
    Device,
    /// A row that could not be written.
    Row,
    /// An effect whose answer is awaited, by its purpose: writes, operations on files, dials.
    Ticket,
}

impl Machine {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Connection,
        Self::Stream,
        Self::Code,
        Self::Initiator,
        Self::Joiner,
        Self::Dialler,
        Self::Session,
        Self::Sender,
        Self::Receiver,
        Self::Root,
        Self::Device,
        Self::Row,
        Self::Ticket,
    ];
}

/// One machine of a Node as it stands between two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// Its kind.
    pub machine: Machine,
    /// Which of its kind: no other of this Node has the same number.
    pub id: u128,
    /// Its state.
    pub state: &'static str,
    /// The device that it has to do with; 0 where that is not known, or no single one.
    pub device: u128,
}

/// The number of a device, a pairing or a session as a machine.
pub const fn number(id: &[u8; 16]) -> u128 {
    u128::from_be_bytes(*id)
}

/// The number of a transfer as a machine: devices may call two transfers alike.
pub const fn number_of_transfer(key: &TransferKey) -> u128 {
    number(&key.device.0) ^ number(&key.id.0)
}

/// The number of a root as a machine.
const fn number_of_root(device: DeviceId, session_ref: SessionRef) -> u128 {
    number(&device.0) ^ number(&session_ref.0)
}

impl Node {
    /// A device for which a transfer waits, and that nobody dials although it could be.
    pub fn probe_suspended_undialled(&self) -> Option<DeviceId> {
        let idle = |device: &&Device| {
            let waits = self.transfers.is_suspended(device.id) && !self.primary.contains_key(&device.id);
            let dialled = self.dialers.contains_key(&device.id) || self.timers.is_set(crate::timers::TimerKind::Keep(device.id));
            let may = device.is_paired() && device.is_removed_there().is_none() && !self.registry.is_blocked(&device.key);
            // A pairing under way leads to a session, or to an attempt to have one.
            let pairs = self.joiner.is_some() || self.initiator.session().is_some();
            waits && !dialled && may && !pairs && !self.is_left(device.id)
        };
        self.registry.iter().find(idle).map(|device| device.id)
    }

    /// Where every machine of this Node stands, by kind and number.
    pub fn probe_states(&self) -> Vec<Standing> {
        let mut all = Vec::with_capacity(self.streams.len() + self.registry.iter().count() * 2 + 32);
        let mut add = |machine, id, state, device| all.push(Standing { machine, id, state, device });
        for (conn, connection) in &self.conns {
            add(Machine::Connection, conn.0.into(), if connection.streams.is_empty() { "Empty" } else { "Used" }, 0);
        }
        for (&stream, slot) in &self.streams {
            add(Machine::Stream, stream.0.into(), self.probe_role(stream, &slot.role), 0);
        }
        if let Some((session, expired)) = self.initiator.probe_code() {
            add(Machine::Code, number(&session.0), if expired { "Expired" } else { "Live" }, 0);
        }
        for (stream, state) in self.initiator.probe_states() {
            add(Machine::Initiator, stream.0.into(), state, 0);
        }
        if let Some(joiner) = &self.joiner {
            let device = joiner.bound().map_or(0, |bound| number(&crate::identity::device_id(&bound.peer).0));
            add(Machine::Joiner, number(&joiner.session().0), joiner.probe_state(), device);
        }
        for (device, dialer) in &self.dialers {
            add(Machine::Dialler, number(&device.0), dialer.probe_state(), number(&device.0));
        }
        for (session_ref, session) in &self.sessions {
            let primary = self.primary.get(&session.device) == Some(session_ref);
            add(Machine::Session, number(&session_ref.0), session.probe_state(primary), number(&session.device.0));
        }
        for (key, state) in self.transfers.probe_states() {
            let machine = if key.direction == Direction::Outgoing { Machine::Sender } else { Machine::Receiver };
            add(machine, number_of_transfer(&key), state, number(&key.device.0));
        }
        for device in self.registry.iter() {
            let id = number(&device.id.0);
            for root in &device.roots {
                let state = match root.state {
                    RootState::Confirmed => "Confirmed",
                    RootState::Unconfirmed => "Unconfirmed",
                    RootState::Provisional { agreed: false, .. } => "Provisional",
                    RootState::Provisional { agreed: true, .. } => "Agreed",
                };
                add(Machine::Root, number_of_root(device.id, root.session_ref), state, id);
            }
            let state = match self.view_state(device) {
                DeviceState::Discovered => "Discovered",
                DeviceState::Pairing => "Pairing",
                DeviceState::Paired => "Paired",
                DeviceState::Connected => "Connected",
                DeviceState::Disconnected => "Disconnected",
            };
            add(Machine::Device, id, state, id);
        }
        for peer in self.unwritten.keys() {
            let id = number(&crate::identity::device_id(peer).0);
            add(Machine::Row, id, "Unwritten", id);
        }
        for (ticket, state) in self.out.probe_states() {
            add(Machine::Ticket, ticket.0.into(), state, 0);
        }
        // Nearly all of it is in order already, which a stable sort makes use of.
        all.sort();
        all
    }

    fn probe_role(&self, stream: StreamId, role: &Role) -> &'static str {
        match role {
            Role::Fresh => "Fresh",
            Role::AwaitRequest => "AwaitRequest",
            Role::Initiator => "Initiator",
            Role::Joiner => "Joiner",
            Role::AwaitHello if self.scans.waiting.iter().any(|(waiting, _)| *waiting == stream) => "AwaitHello, waits",
            Role::AwaitHello => "AwaitHello",
            Role::Listener(_) => "Listener",
            Role::Dialer(_) => "Dialer",
            Role::AwaitOpening(awaited) if awaited.storing => "AwaitOpening, storing",
            Role::AwaitOpening(_) => "AwaitOpening",
            Role::Control(_) => "Control",
            Role::AwaitData(None) => "AwaitData",
            Role::AwaitData(Some(_)) => "AwaitData, header",
            Role::Early(Early::Unproved(..)) => "Early, unproved",
            Role::Early(Early::Proved(..)) => "Early, proved",
            Role::AwaitReply(_) => "AwaitReply",
            Role::Data(_) => "Data",
            Role::Goodbye(_) => "Goodbye",
            Role::Protocol(_) => "Protocol",
            Role::Closing => "Closing",
        }
    }

    /// What the owner is about to be told.
    pub fn probe_told(&self) -> impl Iterator<Item = &crate::effects::Event> + '_ {
        self.out.probe_told()
    }

    /// Timers that are due at this moment.
    pub fn probe_due(&self, now: crate::time::Timestamp) -> usize {
        self.timers.probe_due(now)
    }

    /// The roots that this device holds.
    pub fn probe_roots(&self) -> Vec<RootProbe> {
        self.registry.iter().flat_map(roots).collect()
    }

    /// The sessions that this device holds.
    pub fn probe_sessions(&self) -> Vec<SessionProbe> {
        let probe = |session: &crate::session::machine::Session| SessionProbe {
            peer: session.peer,
            session_ref: session.session_ref,
            we_opened: session.we_opened,
            primary: self.primary.get(&session.device) == Some(&session.session_ref),
            answered: session.is_answered(),
            one_stream: session.remote.one_stream,
            prints: session.probe_traffic().into(),
        };
        self.sessions.values().map(probe).collect()
    }

    /// Data streams that are still dialled over a faster transport than that of their session, by their numbers.
    pub fn probe_faster(&self) -> impl Iterator<Item = u64> + '_ {
        self.wanted.iter().filter(|(_, wanted)| wanted.is_on_faster_way()).map(|(&number, _)| number)
    }

    /// How much this device holds.
    pub fn probe_holdings(&self) -> Holdings {
        let spoken = self.primary.values().filter_map(|primary| self.sessions.get(primary));
        let unfinished = |device: &Device| device.roots.iter().filter(|root| root.state != RootState::Confirmed).count();
        Holdings {
            conns: self.conns.len(),
            streams: (self.streams.len(), self.streams.values().filter(|stream| stream.role.is_unproved()).count()),
            early: (
                self.streams.values().filter(|stream| matches!(stream.role, Role::Early(_))).count(),
                self.held.values().map(|held| held.records.len()).sum(),
            ),
            sessions: self.sessions.len(),
            dialers: self.dialers.len(),
            transfers: self.transfers.probe_counts(),
            timers: self.timers.probe_len(),
            tickets: self.out.probe_tickets(),
            devices: self.registry.iter().count(),
            pairing: self.initiator.session().is_some() || self.joiner.is_some(),
            unwanted: self.out.probe_unwanted(|purpose| match purpose {
                Purpose::Join { session, .. } => self.joiner.as_ref().is_some_and(|joiner| joiner.session() == *session),
                Purpose::Link { device, .. } => self.dialers.contains_key(device),
                Purpose::Transfer { key, .. } => self.transfers.probe_has(*key),
                _ => true,
            }),
            most_of_peer: self.transfers.probe_most(),
            wanted: self.wanted.len(),
            protocols: self.probe_protocol_streams(),
            joining: self.joiner.as_ref().map_or(0, crate::pairing::joiner::Joiner::probe_connections),
            dialling: self.dialers.values().map(crate::session::link::Dialer::probe_dials).sum(),
            unfinished_roots: self.registry.iter().map(unfinished).max().unwrap_or(0),
            heard_out: self.primary.values().map(|&primary| self.line_before(primary).len()).max().unwrap_or(0),
            oldest_session: spoken.map(|session| self.now.since(session.born)).max().unwrap_or_default(),
            remembered: self.held.len() + self.half_closed.len() + self.out.probe_finished() + self.transfers.probe_opening(),
        }
    }
}

fn roots(device: &Device) -> impl Iterator<Item = RootProbe> + '_ {
    device.roots.iter().map(|root| RootProbe {
        peer: device.key,
        session_ref: root.session_ref,
        print: print(&root.secret),
        expires: if let RootState::Provisional { expires, .. } = root.state { Some(expires) } else { None },
        trust: match root.state {
            RootState::Confirmed => Trust::Confirmed,
            RootState::Unconfirmed => Trust::Unconfirmed,
            RootState::Provisional { agreed, .. } => Trust::Provisional { agreed },
        },
    })
}

/// The roots in a stored row of the table of devices, read for the device `me`.
///
/// # Errors
/// What is wrong with the row.
pub fn stored_roots(me: &PeerKey, record: &Record) -> Result<Vec<RootProbe>, Malformed> {
    Ok(roots(&Device::decode(me, &record.key, record.value.bytes())?).collect())
}
