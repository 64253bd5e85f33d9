//! What proves a stream: its header and its opening record (PROTOCOL.md, section 9.2).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use crate::wire::header::{Header, HeaderError, REPLY, StreamKind};

use crate::ids::TransferId;
use crate::limits::PROTOCOL_NAME;
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::encode::encode;

/// Why the joiner says no after Complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The user said no.
    User = 1,
    /// A policy said no.
    Policy = 2,
    /// The pairing could not be stored.
    Storage = 3,
}

impl Refusal {
    /// The reason with this number.
    pub const fn of(status: u8) -> Option<Self> {
        match status {
            1 => Some(Self::User),
            2 => Some(Self::Policy),
            3 => Some(Self::Storage),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "refused by the user",
            Self::Policy => "refused by a policy",
            Self::Storage => "the pairing could not be stored",
        })
    }
}

/// The plaintext of an opening record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Control: the session stands.
    Ack,
    /// Control, after pairing only: the pairing is refused.
    Refuse(Refusal),
    /// The pages of this transfer's manifest.
    Manifest {
        /// The transfer.
        transfer: TransferId,
        /// The digest in its offer.
        manifest_digest: [u8; 32],
    },
    /// Chunks of this transfer.
    Bulk {
        /// The transfer.
        transfer: TransferId,
        /// The digest in its offer.
        manifest_digest: [u8; 32],
    },
    /// An application protocol.
    Custom {
        /// Its name, at most [`PROTOCOL_NAME`] bytes.
        name: String,
    },
}

impl Opening {
    /// The kind of stream that it opens.
    pub const fn kind(&self) -> StreamKind {
        match self {
            Self::Ack | Self::Refuse(_) => StreamKind::Control,
            Self::Manifest { .. } => StreamKind::Manifest,
            Self::Bulk { .. } => StreamKind::Bulk,
            Self::Custom { .. } => StreamKind::Custom,
        }
    }

    /// Its CBOR.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            match self {
                Self::Ack => to.array(1)?.u8(1)?,
                Self::Refuse(why) => to.array(2)?.u8(0)?.u8(*why as u8)?,
                Self::Manifest { transfer, manifest_digest } | Self::Bulk { transfer, manifest_digest } => {
                    to.array(2)?.bytes(&transfer.0)?.bytes(manifest_digest)?
                }
                Self::Custom { name } => to.array(1)?.str(name)?,
            };
            Ok(())
        })
    }

    /// What opens a stream of this kind.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn decode(kind: StreamKind, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes)?;
        match kind {
            StreamKind::Control => Self::decode_control(&mut reader),
            StreamKind::Manifest | StreamKind::Bulk => {
                reader.fields(2)?;
                let (transfer, manifest_digest) = (TransferId(reader.exactly()?), reader.exactly()?);
                Ok(if kind == StreamKind::Bulk {
                    Self::Bulk { transfer, manifest_digest }
                } else {
                    Self::Manifest { transfer, manifest_digest }
                })
            }
            StreamKind::Custom => {
                reader.fields(1)?;
                Ok(Self::Custom { name: reader.text(PROTOCOL_NAME)?.into() })
            }
        }
    }

    fn decode_control(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match (reader.array()?, reader.u8()?) {
            (1, 1) => Ok(Self::Ack),
            (2, 0) => Refusal::of(reader.u8()?).map(Self::Refuse).ok_or(Malformed::Bounds),
            (_, 0 | 1) => Err(Malformed::Count),
            _ => Err(Malformed::Bounds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cbor;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn every_opening_comes_back() {
        let (transfer, manifest_digest) = (TransferId([1; 16]), [2; 32]);
        for opening in [
            Opening::Ack,
            Opening::Refuse(Refusal::User),
            Opening::Refuse(Refusal::Policy),
            Opening::Refuse(Refusal::Storage),
            Opening::Manifest { transfer, manifest_digest },
            Opening::Bulk { transfer, manifest_digest },
            Opening::Custom { name: "x".repeat(PROTOCOL_NAME) },
        ] {
            let bytes = opening.encode();
            assert_eq!(Opening::decode(opening.kind(), &bytes), Ok(opening));
        }
    }

    #[test]
    fn control_openings_are_two() {
        for (bytes, why) in [
            (vec![0x81, 0x00], Malformed::Count),
            (vec![0x82, 0x01, 0x01], Malformed::Count),
            (vec![0x82, 0x00, 0x00], Malformed::Bounds),
            (vec![0x82, 0x00, 0x04], Malformed::Bounds),
            (vec![0x81, 0x02], Malformed::Bounds),
            (vec![0x80], Malformed::Type),
            (vec![0x01], Malformed::Type),
        ] {
            assert_eq!(Opening::decode(StreamKind::Control, &bytes), Err(why), "{bytes:02x?}");
        }
        let name = Opening::Custom { name: "x".repeat(PROTOCOL_NAME + 1) }.encode();
        assert_eq!(Opening::decode(StreamKind::Custom, &name), Err(Malformed::Bounds));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(kind in 1_u8..=4, bytes in prop::collection::vec(prop_oneof![Just(0x81_u8), Just(0x82), Just(0x50), 0_u8..4, any::<u8>()], 0..6)) {
            let kind = StreamKind::of(kind).unwrap();
            if let Ok(opening) = Opening::decode(kind, &bytes) {
                prop_assert_eq!(opening.encode(), bytes.clone());
                prop_assert_eq!(cbor::check(&bytes), Ok(()));
            }
        }
    }
}
