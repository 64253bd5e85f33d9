//! Rows of messages in the store. Every key begins with the device's.

use alloc::string::String;
use alloc::vec::Vec;

use minicbor::Encoder;

use super::StoredMessage;
use crate::crypto::secret::SecretBytes;
use crate::ids::{MessageId, PeerKey};
use crate::limits;
use crate::records::{Change, MESSAGE_NUMBERS, MESSAGES_IN, MESSAGES_OUT, MESSAGES_SEEN, Record};
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::control::{CONTENT_TYPE, MessageState};
use crate::wire::encode::encode;

/// The version of these rows.
const SCHEMA: u8 = 1;

/// The name under which messages of one direction are numbered, of one root.
pub(crate) type SeqRef = [u8; 16];

/// A message that came, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its place among all that came from this device.
    pub(crate) count: u64,
    pub(crate) id: MessageId,
    pub(crate) state: MessageState,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Outgoing { order: u64, message: StoredMessage },
    Incoming { order: u64, message: StoredMessage },
    Number { seq_ref: SeqRef, number: u64 },
    Seen(Seen),
}

/// The slot of the n-th message that came.
pub(super) fn slot(count: u64) -> u16 {
    u16::try_from(count % limits::MESSAGES_REMEMBERED as u64).expect("invariant: fewer are remembered")
}

pub(super) fn ordered(peer: &PeerKey, order: u64) -> Vec<u8> {
    [&peer.0[..], &order.to_be_bytes()].concat()
}

pub(super) fn named(peer: &PeerKey, seq_ref: &SeqRef) -> Vec<u8> {
    [&peer.0[..], seq_ref].concat()
}

pub(super) fn slotted(peer: &PeerKey, slot: u16) -> Vec<u8> {
    [&peer.0[..], &slot.to_be_bytes()].concat()
}

impl Row {
    pub(super) fn write(&self, peer: &PeerKey) -> Change {
        let (table, key) = match self {
            Self::Outgoing { order, .. } => (MESSAGES_OUT, ordered(peer, *order)),
            Self::Incoming { order, .. } => (MESSAGES_IN, ordered(peer, *order)),
            Self::Number { seq_ref, .. } => (MESSAGE_NUMBERS, named(peer, seq_ref)),
            Self::Seen(seen) => (MESSAGES_SEEN, slotted(peer, slot(seen.count))),
        };
        let value = encode(|to: &mut Encoder<Vec<u8>>| {
            match self {
                Self::Outgoing { message, .. } | Self::Incoming { message, .. } => {
                    to.array(5)?.u8(SCHEMA)?.bytes(&message.id.0)?.str(&message.content_type)?.bytes(&message.body)?.u64(message.unix_s)?
                }
                Self::Number { number, .. } => to.array(2)?.u8(SCHEMA)?.u64(*number)?,
                Self::Seen(seen) => to.array(4)?.u8(SCHEMA)?.u64(seen.count)?.bytes(&seen.id.0)?.u64(seen.state.number())?,
            };
            Ok(())
        });
        Change { table, key, value: Some(SecretBytes::new(value)) }
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// What is wrong with it; the row is then left as it is.
    pub(super) fn decode(record: &Record) -> Result<(PeerKey, Self), Malformed> {
        let (peer, rest) = record.key.split_first_chunk::<32>().ok_or(Malformed::Bounds)?;
        let peer = PeerKey(*peer);
        let mut from = Reader::new(record.value.bytes())?;
        let fields = from.array()?;
        if from.u8()? != SCHEMA {
            return Err(Malformed::Bounds);
        }
        let expect = |wanted: u64| if fields == wanted { Ok(()) } else { Err(Malformed::Count) };
        let row = match record.table {
            MESSAGES_OUT | MESSAGES_IN => {
                expect(5)?;
                let order = u64::from_be_bytes(rest.try_into().map_err(|_| Malformed::Bounds)?);
                let message = StoredMessage {
                    id: MessageId(from.exactly()?),
                    content_type: String::from(from.text(CONTENT_TYPE)?),
                    body: from.bytes(limits::MESSAGE_BODY)?.to_vec(),
                    unix_s: from.u64()?,
                };
                if record.table == MESSAGES_OUT { Self::Outgoing { order, message } } else { Self::Incoming { order, message } }
            }
            MESSAGE_NUMBERS => {
                expect(2)?;
                Self::Number { seq_ref: rest.try_into().map_err(|_| Malformed::Bounds)?, number: from.u64()? }
            }
            MESSAGES_SEEN => {
                expect(4)?;
                let seen = Seen { count: from.u64()?, id: MessageId(from.exactly()?), state: MessageState::of(from.u64()?) };
                if rest != slot(seen.count).to_be_bytes() {
                    return Err(Malformed::Bounds);
                }
                Self::Seen(seen)
            }
            _ => return Err(Malformed::Type),
        };
        Ok((peer, row))
    }
}
