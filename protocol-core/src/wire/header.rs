//! The header of a stream: which session, what kind, which number (PROTOCOL.md, section 9.2).

use core::fmt;

use crate::ids::SessionRef;
use crate::limits;

/// Bytes of a header.
pub const HEADER: usize = 34;
/// Bytes of a reply.
pub const REPLY: usize = 16;

const VERSION: u8 = 1;

/// What a stream carries behind its opening record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Control messages; stands only on the stream of its handshake.
    Control = 1,
    /// The pages of one manifest.
    Manifest = 2,
    /// Chunks of one transfer.
    Bulk = 3,
    /// An application protocol's own bytes.
    Custom = 4,
}

impl StreamKind {
    /// The kind with this number.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Control),
            2 => Some(Self::Manifest),
            3 => Some(Self::Bulk),
            4 => Some(Self::Custom),
            _ => None,
        }
    }
}

/// The opener's first bytes under a session, in clear. A value of this type has a legal kind and counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: StreamKind,
    session: SessionRef,
    counter: u64,
    random: [u8; 8],
}

/// The header breaks a rule of its format. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// A version that is not ours.
    Version,
    /// A kind that nobody defined.
    Kind,
    /// 0 on a data stream, another number on a control stream, or past [`limits::STREAM_COUNTER`].
    Counter,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "a stream header of an unknown version",
            Self::Kind => "a stream of an unknown kind",
            Self::Counter => "a stream number that its kind does not allow",
        })
    }
}

impl core::error::Error for HeaderError {}

impl Header {
    /// The header of a new stream. `random` is fresh for it.
    ///
    /// # Errors
    /// [`HeaderError::Counter`]: the control stream is number 0, data streams have 1 up to [`limits::STREAM_COUNTER`], exclusive.
    // DATA-1.
    pub fn new(kind: StreamKind, session: SessionRef, counter: u64, random: [u8; 8]) -> Result<Self, HeaderError> {
        let numbered = counter < limits::STREAM_COUNTER || planted!(CounterUnbounded);
        if matches!(kind, StreamKind::Control) == (counter == 0) && numbered {
            Ok(Self { kind, session, counter, random })
        } else {
            Err(HeaderError::Counter)
        }
    }

    /// The header in these bytes.
    ///
    /// # Errors
    /// What is wrong first, in the order of the fields.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, HeaderError> {
        let &[version, kind, ref rest @ ..] = bytes;
        if version != VERSION && !planted!(HeaderVersionUnchecked) {
            return Err(HeaderError::Version);
        }
        let kind = StreamKind::of(kind).ok_or(HeaderError::Kind)?;
        let (mut session, mut counter, mut random) = ([0; 16], [0; 8], [0; 8]);
        session.copy_from_slice(&rest[..16]);
        counter.copy_from_slice(&rest[16..24]);
        random.copy_from_slice(&rest[24..]);
        Self::new(kind, SessionRef(session), u64::from_be_bytes(counter), random)
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[2..18].copy_from_slice(&self.session.0);
        bytes[18..26].copy_from_slice(&self.counter.to_be_bytes());
        bytes[26..].copy_from_slice(&self.random);
        bytes
    }

    /// What the stream carries.
    pub const fn kind(&self) -> StreamKind {
        self.kind
    }

    /// The session whose keys it uses.
    pub const fn session(&self) -> SessionRef {
        self.session
    }

    /// Its number among the streams of its opener in this session; 0 is the control stream.
    pub const fn counter(&self) -> u64 {
        self.counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_legal_header_comes_back() {
        for (kind, counter) in
            [(StreamKind::Control, 0), (StreamKind::Manifest, 1), (StreamKind::Bulk, limits::STREAM_COUNTER - 1), (StreamKind::Custom, 77)]
        {
            let header = Header::new(kind, SessionRef([7; 16]), counter, [9; 8]).unwrap();
            assert_eq!(Header::decode(&header.encode()), Ok(header));
            assert_eq!((header.kind(), header.counter(), header.session()), (kind, counter, SessionRef([7; 16])));
        }
    }

    #[test]
    // DATA-1.
    fn the_counter_says_control_or_data_and_ends() {
        for (kind, counter) in [(StreamKind::Control, 1), (StreamKind::Bulk, 0), (StreamKind::Bulk, limits::STREAM_COUNTER)] {
            assert_eq!(Header::new(kind, SessionRef([0; 16]), counter, [0; 8]), Err(HeaderError::Counter));
        }
        let mut bytes = Header::new(StreamKind::Bulk, SessionRef([0; 16]), 1, [0; 8]).unwrap().encode();
        bytes[0] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Version));
        bytes[0] = 1;
        for kind in [0, 5, 255] {
            bytes[1] = kind;
            assert_eq!(Header::decode(&bytes), Err(HeaderError::Kind));
        }
    }
}
