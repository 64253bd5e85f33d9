//! Faults that a test orders: where, and what.

use protocol_core::wire::deframer::StreamName;
use serde::{Deserialize, Serialize};

use crate::Dev;

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// From the side that opened the stream.
    Opener,
    /// From the side that accepted it.
    Answerer,
}

/// A place in one direction of a stream. What a Node sends in one piece counts as one frame, beginning with 1; the preamble is
/// frame 0 of the opener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// In this frame (its last byte, where a place between bytes is meant).
    Frame(u32),
    /// Behind this many bytes.
    Byte(u64),
}

/// What happens to the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// What comes before the place arrives, then the stream is cut for both sides.
    Cut,
    /// From the place on nothing arrives in this direction, and nobody is told.
    Vanish,
    /// What comes before the place arrives, then the stream ends for its reader as if it were whole: so libp2p shows a cut.
    End,
    /// One bit of the frame is changed: the number of the bit in the frame.
    Flip(usize),
    /// Other bytes take the frame's place: those of this number (see `World::material`).
    Replace(usize),
    /// These bytes follow the frame, and nothing that the sender sends later arrives.
    Append(usize),
    /// What comes before the place arrives, and then this device crashes.
    Crash(Dev),
}

/// A fault of streams. It fires once.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Streams of this name only.
    pub name: StreamName,
    /// In this direction.
    pub side: Side,
    /// Where.
    pub at: At,
    /// What.
    pub damage: Damage,
}

/// A fault of a device's store. It fires once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreFault {
    /// The device crashes when the write is asked for: nothing of it is durable.
    CrashBefore,
    /// The device crashes when the write is durable and its Node does not know yet.
    CrashAfter,
    /// The write fails.
    Fail,
}

/// A fault of dialling. It fires once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DialFault {
    /// The address refuses.
    Refused,
    /// Nobody answers for ten seconds.
    TimedOut,
    /// There is no way there.
    Unreachable,
    /// It takes this many milliseconds longer.
    Slow(u32),
    /// Another device answers: the one with this number.
    Misrouted(usize),
}

/// A fault of an operation on files. It fires once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFault {
    /// The whole operation fails: no space.
    Full,
    /// The whole operation fails: input/output error.
    Io,
    /// The first entry of the operation fails: alone, or because the disk does.
    Entry,
    /// The device crashes while it runs.
    Crash,
    /// From now on chunks cannot be written: no space. Until it is over.
    WritesFail,
    /// From now on sources cannot be read. Until it is over.
    ReadsFail,
    /// The next sync fails, and what it was about is lost: the pages count as clean from then on.
    SyncLost,
}

impl Damage {
    /// Its kind in the catalogue of faults.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Cut => "N7",
            Self::End => "N21",
            Self::Vanish => "N10",
            Self::Flip(_) => "A3",
            Self::Replace(_) => "A6",
            Self::Append(_) => "N8",
            Self::Crash(_) => "H1",
        }
    }
}

impl StoreFault {
    /// Its kind in the catalogue of faults.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::CrashBefore | Self::CrashAfter => "H2",
            Self::Fail => "H12",
        }
    }
}

impl DialFault {
    /// Its kind in the catalogue of faults.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Refused | Self::TimedOut | Self::Unreachable | Self::Slow(_) => "N23",
            Self::Misrouted(_) => "N25",
        }
    }
}

impl DiskFault {
    /// Its kind in the catalogue of faults.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Full | Self::WritesFail => "H11",
            Self::Io | Self::Entry | Self::ReadsFail => "H12",
            Self::Crash => "H4",
            Self::SyncLost => "H5",
        }
    }
}
