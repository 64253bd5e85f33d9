//! Identifiers: newtypes that cannot be confused with one another.

use core::fmt;

use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(Uuid::from_bytes_ref(&self.0), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                Uuid::parse_str(text).map(|id| Self(id.into_bytes())).map_err(|_| BadId)
            }
        }
    };
}

uuid_id! {
    /// A device: UUIDv8 of the hash of its device key (PROTOCOL.md, section 4.1). Computed, never received.
    DeviceId
}
uuid_id! {
    /// The public name of one pairing, derived from its code (section 5).
    SessionId
}
uuid_id! {
    /// The public name of one session's keys (section 6.3): for stream headers and logs.
    SessionRef
}
uuid_id! {
    /// A transfer, drawn at random by its sender.
    TransferId
}

uuid_id! {
    /// An application message, drawn at random by its sender.
    MessageId
}

/// The text is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadId;

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID")
    }
}

impl core::error::Error for BadId {}

/// The public half of a device key (Ed25519, 32 bytes): who a device is.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub [u8; 32]);

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

macro_rules! counter_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    };
}

counter_id! {
    /// A connection of a transport. The host numbers them and never uses a number twice.
    ConnId
}
counter_id! {
    /// A byte stream on a connection. The host numbers them and never uses a number twice.
    StreamId
}
counter_id! {
    /// An effect that will be answered exactly once. The Node numbers them and never uses a number twice.
    Ticket
}
counter_id! {
    /// An owner's wish for a stream of an application protocol. The Node numbers them and never uses a number twice.
    OpenId
}
