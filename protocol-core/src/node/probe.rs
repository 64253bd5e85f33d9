//! What a simulator may see of a Node and no host ever does: its roots and sessions by fingerprint, and how much it holds.

use alloc::vec::Vec;
use core::time::Duration;

use super::Node;
use crate::devices::device::{Device, RootState};
use crate::ids::{PeerKey, SessionRef};
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
    /// Wishes for streams that nobody could open yet.
    pub wanted: usize,
    /// Dials and streams of a joiner's attempt.
    pub joining: usize,
    /// Dials of the attempts to reach a device.
    pub dialling: usize,
    /// Roots of the device that has the most, apart from a confirmed one.
    pub unfinished_roots: usize,
    /// How old the oldest session is that a device is spoken with.
    pub oldest_session: Duration,
    /// What is remembered of streams that are held, half-closed, finished or on their way, for whomever.
    pub remembered: usize,
}

impl Node {
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
            prints: session.probe_traffic().into(),
        };
        self.sessions.values().map(probe).collect()
    }

    /// How much this device holds.
    pub fn probe_holdings(&self) -> Holdings {
        let spoken = self.primary.values().filter_map(|primary| self.sessions.get(primary));
        let unfinished = |device: &Device| device.roots.iter().filter(|root| root.state != RootState::Confirmed).count();
        Holdings {
            conns: self.conns.len(),
            streams: (self.streams.len(), self.streams.values().filter(|stream| stream.role.is_unproved()).count()),
            early: (
                self.streams.values().filter(|stream| matches!(stream.role, super::Role::Early(_))).count(),
                self.held.values().map(|held| held.records.len()).sum(),
            ),
            sessions: self.sessions.len(),
            dialers: self.dialers.len(),
            transfers: self.transfers.probe_counts(),
            timers: self.timers.probe_len(),
            tickets: self.out.probe_tickets(),
            devices: self.registry.iter().count(),
            pairing: self.initiator.session().is_some() || self.joiner.is_some(),
            wanted: self.wanted.len(),
            joining: self.joiner.as_ref().map_or(0, crate::pairing::joiner::Joiner::probe_connections),
            dialling: self.dialers.values().map(crate::session::link::Dialer::probe_dials).sum(),
            unfinished_roots: self.registry.iter().map(unfinished).max().unwrap_or(0),
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
