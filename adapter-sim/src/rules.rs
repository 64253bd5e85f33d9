//! Faults that a test orders: where, and what.

use protocol_core::wire::deframer::StreamName;

use crate::Dev;

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the side that opened the stream.
    Opener,
    /// From the side that accepted it.
    Answerer,
}

/// A place in one direction of a stream. What a Node sends in one piece counts as one frame, beginning with 1; the preamble is
/// frame 0 of the opener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In this frame (its last byte, where a place between bytes is meant).
    Frame(u32),
    /// Behind this many bytes.
    Byte(u64),
}

/// What happens to the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// What comes before the place arrives, then the stream is cut for both sides.
    Cut,
    /// From the place on nothing arrives in this direction, and nobody is told.
    Vanish,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The device crashes when the write is asked for: nothing of it is durable.
    CrashBefore,
    /// The device crashes when the write is durable and its Node does not know yet.
    CrashAfter,
    /// The write fails.
    Fail,
}
