//! Connections and streams between two devices of a world.

use std::sync::Arc;

use protocol_core::bulk::chunks::Chunks;
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::Sealer;
use protocol_core::effects::{Cut, TransferKey};
use protocol_core::ids::{ConnId, StreamId};
use protocol_core::info::TransportKind;
use protocol_core::wire::deframer::{Deframer, StreamName};

use serde::{Deserialize, Serialize};

use crate::Dev;
use crate::protocols::Talk;
use crate::rules::Side;

/// How two devices are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// Many streams on a connection, and the transport knows who is there.
    Sim,
    /// One stream on a connection, nobody is known, and 32 random bytes bind handshakes to it.
    Tcp,
    /// Both, side by side: the device is found over either.
    Both,
}

impl Wire {
    /// Whether a device on this wire is found over a transport of this kind.
    pub(crate) fn has(self, kind: &TransportKind) -> bool {
        match kind {
            TransportKind::Sim => self != Self::Tcp,
            TransportKind::Tcp => self != Self::Sim,
            TransportKind::Iroh | TransportKind::Libp2p | TransportKind::Other(_) => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct ConnEnd {
    pub(crate) id: ConnId,
    pub(crate) dev: Dev,
    pub(crate) life: u32,
    pub(crate) up: bool,
}

/// A connection. End 0 dialled.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) wire: Wire,
    pub(crate) ends: [ConnEnd; 2],
    pub(crate) streams: Vec<usize>,
    /// What binds handshakes to it.
    pub(crate) exporter: Vec<u8>,
}

/// All that a device sends, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uplink {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// When all that was given to it has left.
    pub(crate) free_at: u64,
}

/// What goes round a Node.
#[derive(Debug)]
pub(crate) enum Bulk {
    No,
    Seal { key: TransferKey, sealer: Sealer },
    Open { key: TransferKey, opener: Opener, chunks: Arc<Chunks>, buffer: Vec<u8> },
    Protocol(Box<Talk>),
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) id: StreamId,
    /// Its Node knows of it.
    pub(crate) up: bool,
    /// Its Node was told that nothing more comes, or has reset it.
    pub(crate) down: bool,
    /// It sends nothing more.
    pub(crate) finished: bool,
    pub(crate) deframer: Deframer,
    /// What came behind the point where the deframer parked.
    pub(crate) held: Vec<u8>,
    pub(crate) bulk: Bulk,
    /// How the incoming direction ended, while chunks are still being sealed.
    pub(crate) ended: Option<Cut>,
}

impl End {
    pub(crate) fn new(id: StreamId, deframer: Deframer) -> Self {
        Self { id, up: false, down: false, finished: false, deframer, held: Vec::new(), bulk: Bulk::No, ended: None }
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    pub(crate) frames: u32,
    pub(crate) sent: u64,
    /// When the last byte sent arrives.
    pub(crate) last: u64,
    /// Nothing arrives any more.
    pub(crate) dead: bool,
    /// What is sent from now on vanishes.
    pub(crate) vanish: bool,
    /// Bytes that arrived.
    pub(crate) delivered: u64,
    /// The newest frame of which something arrived.
    pub(crate) newest: u32,
    /// Where a bit was changed: behind so many bytes, in this frame, at this time.
    pub(crate) flipped: Option<(u64, u32, u64)>,
    /// That bit is in a record of a control stream, which ends behind so many bytes.
    pub(crate) spoilt: Option<u64>,
    /// When such a record was there.
    pub(crate) spoilt_at: Option<u64>,
}

/// A stream. End 0 opened it, pipe 0 carries what end 0 sends.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) conn: usize,
    /// Which end of the connection opened it.
    pub(crate) opener: usize,
    pub(crate) name: Option<StreamName>,
    pub(crate) ends: [End; 2],
    pub(crate) pipes: [Pipe; 2],
}

impl Stream {
    pub(crate) const fn side(end: usize) -> Side {
        if end == 0 { Side::Opener } else { Side::Answerer }
    }

    /// Which end of its connection an end of this stream is.
    pub(crate) const fn conn_end(&self, end: usize) -> usize {
        self.opener ^ end
    }
}
