//! What happened, entry by entry, and every byte that was on the wire.
//!
//! Every entry goes into a rolling hash, in quiet worlds too: two runs with the same hash were the same run. The entries
//! themselves are kept only where somebody will read them.

use std::fmt;

use protocol_core::effects::{Cut, Event, FileOp};
use protocol_core::wire::deframer::StreamName;

use crate::Dev;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A device begins a life.
    Starts,
    /// A device loses its Node and what is not durable.
    Crashes,
    /// A device dials.
    Dials {
        /// Where.
        to: String,
    },
    /// A connection came up; the device dialled it.
    Connection {
        /// Its number in this world.
        conn: usize,
        /// Who was dialled.
        to: Dev,
    },
    /// A Node closes a connection.
    HangsUp {
        /// Its number in this world.
        conn: usize,
        /// Why.
        code: u32,
    },
    /// Bytes leave on a stream.
    Sends {
        /// Its number in this world.
        stream: usize,
        /// Who is at the other end.
        to: Dev,
        /// What the stream was opened for; `None` before the opener said so.
        name: Option<StreamName>,
        /// What the sender sent before, in pieces: 0 is the opener's preamble.
        frame: u32,
        /// The sender opened the stream.
        by_opener: bool,
        /// How many bytes.
        len: usize,
    },
    /// Bytes of one frame arrive; what was sent in one piece may arrive in several.
    Gets {
        /// The stream's number in this world.
        stream: usize,
        /// They come from the side that opened the stream.
        by_opener: bool,
        /// Of which frame of that side.
        frame: u32,
        /// How many bytes.
        len: usize,
    },
    /// A Node resets a stream.
    Resets {
        /// Its number in this world.
        stream: usize,
        /// Why.
        code: u32,
    },
    /// Nothing more comes on a stream, and its Node hears of it.
    Down {
        /// Its number in this world.
        stream: usize,
        /// How it ended.
        how: Cut,
    },
    /// A deframer refused what came.
    Malformed {
        /// The stream's number in this world.
        stream: usize,
        /// What it said.
        error: String,
    },
    /// A write is asked for.
    Persists {
        /// Its number among the device's writes.
        number: u32,
    },
    /// A write is durable.
    Durable,
    /// An operation on files is asked for.
    Files {
        /// Which.
        op: FileOp,
        /// Its first entry, and the one behind its last.
        entries: (u32, u32),
    },
    /// The owner is told something.
    Told(Box<Event>),
    /// A step of a script, or a fault of the world.
    Step(String),
}

/// When what happened, and to whom.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Virtual microseconds.
    pub at: u64,
    /// The device; `None` for what happens to the world.
    pub dev: Option<Dev>,
    /// What.
    pub what: What,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12} ", self.at)?;
        if let Some(Dev(dev)) = self.dev {
            write!(f, "{dev} ")?;
        }
        self.what.fmt(f)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starts => f.write_str("starts"),
            Self::Crashes => f.write_str("crashes"),
            Self::Dials { to } => write!(f, "dials {to}"),
            Self::Connection { conn, to } => write!(f, "connection {conn} to {}", to.0),
            Self::HangsUp { conn, code } => write!(f, "hangs up connection {conn} ({code})"),
            Self::Sends { stream, to, name, frame, by_opener, len } => {
                let side = if *by_opener { "opener" } else { "answerer" };
                write!(f, "sends {len} bytes to {} on stream {stream} ({}, {side} {frame})", to.0, stream_name(*name))
            }
            Self::Gets { stream, by_opener, frame, len } => {
                let side = if *by_opener { "opener" } else { "answerer" };
                write!(f, "gets {len} bytes on stream {stream} ({side} {frame})")
            }
            Self::Resets { stream, code } => write!(f, "resets stream {stream} ({code})"),
            Self::Down { stream, how } => write!(f, "stream {stream} is down: {how:?}"),
            Self::Malformed { stream, error } => write!(f, "stream {stream} is malformed: {error}"),
            Self::Persists { number } => write!(f, "persists {number}"),
            Self::Durable => f.write_str("write is durable"),
            Self::Files { op, entries: (from, to) } => write!(f, "files {op:?} {from}..{to}"),
            Self::Told(event) => write!(f, "told {event:?}"),
            Self::Step(step) => write!(f, "* {step}"),
        }
    }
}

/// The name of a stream, for people.
pub const fn stream_name(name: Option<StreamName>) -> &'static str {
    use protocol_core::wire::header::StreamKind;
    match name {
        None => "?",
        Some(StreamName::Pair) => "pair",
        Some(StreamName::Link) => "link",
        Some(StreamName::Data(StreamKind::Control)) => "data control",
        Some(StreamName::Data(StreamKind::Manifest)) => "manifest",
        Some(StreamName::Data(StreamKind::Bulk)) => "bulk",
        Some(StreamName::Data(StreamKind::Custom)) => "custom",
    }
}

/// A rolling hash over whatever is written into it: the same on every machine. Not for enemies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rolling(u64);

impl Rolling {
    /// Takes in a number.
    pub const fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Takes in bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
        self.number(bytes.len() as u64);
    }

    /// What has come out so far.
    pub const fn value(self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

impl fmt::Write for Rolling {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

/// A log of one run: a hash over all entries and all bytes, and the entries themselves if they are kept.
#[derive(Debug)]
pub struct Trace {
    hash: Rolling,
    keep: bool,
    entries: Vec<Entry>,
    count: u64,
}

impl Trace {
    pub(crate) const fn new(keep: bool) -> Self {
        Self { hash: Rolling(0), keep, entries: Vec::new(), count: 0 }
    }

    /// Takes in an entry. `Told` and other rare ones are hashed by their text, frequent ones by their numbers.
    pub(crate) fn push(&mut self, at: u64, dev: Option<Dev>, what: What) {
        use fmt::Write as _;
        self.count += 1;
        self.hash.number(at);
        self.hash.number(dev.map_or(u64::MAX, |dev| dev.0 as u64));
        match &what {
            What::Sends { stream, frame, len, .. } => {
                for number in [1, *stream as u64, u64::from(*frame), *len as u64] {
                    self.hash.number(number);
                }
            }
            What::Gets { stream, frame, len, .. } => {
                for number in [4, *stream as u64, u64::from(*frame), *len as u64] {
                    self.hash.number(number);
                }
            }
            What::Durable => self.hash.number(2),
            What::Persists { number } => self.hash.number(3 | u64::from(*number) << 8),
            what => write!(self.hash, "{what:?}").unwrap_or(()),
        }
        if self.keep {
            self.entries.push(Entry { at, dev, what });
        }
    }

    /// Takes bytes that were on the wire into the hash.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.hash.bytes(bytes);
    }

    /// The hash of everything so far.
    pub const fn hash(&self) -> u64 {
        self.hash.value()
    }

    /// How many entries there were, kept or not.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The entries so far, if they are kept.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries as lines: virtual microseconds, the device, what happened.
    pub fn lines(&self) -> Vec<String> {
        self.entries.iter().map(Entry::to_string).collect()
    }
}

/// Bytes that one device gave to a stream in one piece, as they went out (damage included).
#[derive(Clone, Debug)]
pub struct Tapped {
    /// The sender.
    pub from: Dev,
    /// The other end.
    pub to: Dev,
    /// What the stream was opened for; `None` before the opener said so.
    pub name: Option<StreamName>,
    /// Whether the sender is the stream's opener.
    pub by_opener: bool,
    /// The stream's number in this world.
    pub stream: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}
