//! The messages of the control stream (PROTOCOL.md, section 9.3).
//!
//! The plaintexts of its data records, joined, are `u32_be length ‖ CBOR array` again and again. A record may hold many
//! messages, and a message may span records.

use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;

use minicbor::Encoder;
use minicbor::encode::Error;

use super::cbor::{Malformed, Reader};
use super::encode::encode;
use crate::ids::TransferId;
use crate::limits;
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::Outcome;

/// Bytes before a message's body.
const HEAD: usize = 4;
/// Bytes of a message's content type.
pub const CONTENT_TYPE: usize = 64;
/// What the body of a long message begins with: an array of five, type 32.
// DATA-15.
const LONG_BEGINS: [u8; 3] = [0x85, 0x18, 0x20];

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A number from a later version.
            Other(u64),
        }

        impl $name {
            /// What this number means.
            pub const fn of(number: u64) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }

            /// Its number.
            pub const fn number(self) -> u64 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(other) => other,
                }
            }
        }
    };
}

numbered! {
    /// Why an offer is not accepted.
    DeclineReason {
        /// The user said no.
        User = 1,
        /// A policy said no.
        Policy = 2,
        /// Past a limit.
        TooLarge = 3,
        /// The manifest breaks a rule.
        UnsafeManifest = 4,
        /// Something is in the way.
        Conflict = 5,
        /// Not enough space.
        NoSpace = 6,
        /// The manifest is not the one that was offered, or the transfer is known with another.
        Mismatch = 7,
        /// Not now.
        Busy = 8,
    }
}

numbered! {
    /// Why a transfer is given up.
    CancelReason {
        /// The user said so.
        User = 1,
        /// A source cannot be read.
        Source = 2,
        /// The disk is full.
        DiskFull = 3,
        /// Reading or writing failed.
        Io = 4,
        /// Content does not have its digest.
        Integrity = 5,
        /// A policy said so.
        Policy = 6,
    }
}

numbered! {
    /// What became of an application message.
    MessageState {
        /// Durable at the receiver.
        Delivered = 1,
        /// Given to the application.
        HandedOver = 2,
        /// Not taken.
        Refused = 3,
        /// Another message has this number.
        Conflict = 4,
    }
}

/// What is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The transfer.
    pub transfer: TransferId,
    /// Entries of its manifest, at least 1.
    pub entries: u32,
    /// Bytes of its files together.
    pub bytes: u64,
    /// Bytes of a chunk: a power of two in [`limits::CHUNK_SIZE_RANGE`].
    pub chunk_size: u32,
    /// Digest of the manifest's pages.
    pub manifest_digest: [u8; 32],
    /// What to show, at most [`limits::LABEL`] bytes.
    pub label: Option<String>,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Are you there?
    Ping {
        /// Comes back in the Pong.
        nonce: u64,
    },
    /// Yes.
    Pong {
        /// That of the Ping.
        nonce: u64,
    },
    /// This pairing ends.
    Unpair,
    /// Please open bulk streams: only you can dial.
    OpenBulk {
        /// The transfer.
        transfer: TransferId,
        /// How many, 1 to [`limits::BULK_STREAMS`].
        count: u8,
    },
    /// A transfer is offered, or goes on.
    Offer(Offer),
    /// What the receiver wants.
    Accept {
        /// The transfer.
        transfer: TransferId,
        /// Chunks that may be sent, once for each naming.
        chunks: Ranges,
        /// Entries whose digests are wanted.
        digests: Ranges,
    },
    /// The offer is not accepted.
    Decline {
        /// The transfer.
        transfer: TransferId,
        /// Why not.
        reason: DeclineReason,
    },
    /// Digests of consecutive entries; 32 zero bytes for those that are no files.
    FileDigests {
        /// The transfer.
        transfer: TransferId,
        /// The first of the entries.
        first_entry: u32,
        /// 1 to [`limits::DIGESTS_A_MESSAGE`] digests.
        digests: Vec<[u8; 32]>,
    },
    /// Chunks that are durable.
    Stored {
        /// The transfer.
        transfer: TransferId,
        /// Which.
        chunks: Ranges,
    },
    /// A source is no longer what the manifest says: the entry fails.
    SourceChanged {
        /// The transfer.
        transfer: TransferId,
        /// The entry.
        entry: u32,
    },
    /// The transfer is given up.
    Cancel {
        /// The transfer.
        transfer: TransferId,
        /// Why.
        reason: CancelReason,
    },
    /// No more chunks for now.
    Pause {
        /// The transfer.
        transfer: TransferId,
    },
    /// Chunks again.
    Resume {
        /// The transfer.
        transfer: TransferId,
    },
    /// Everything is durable under its final name.
    Receipt {
        /// The transfer.
        transfer: TransferId,
        /// Over all entries and their outcomes; the same in every message of one receipt.
        digest: [u8; 32],
        /// Entries that were not stored, ascending, at most [`limits::OUTCOMES_A_MESSAGE`].
        others: Vec<(u32, Outcome)>,
        /// Whether another message of this receipt follows.
        more: bool,
    },
    /// An application message.
    Message {
        /// Its number in this direction, from 1.
        seq: u64,
        /// Its identity, drawn at random.
        id: [u8; 16],
        /// What the body is, at most [`CONTENT_TYPE`] bytes.
        content_type: String,
        /// At most [`limits::MESSAGE_BODY`] bytes.
        body: Vec<u8>,
    },
    /// What became of a message.
    MessageReceipt {
        /// Its number.
        seq: u64,
        /// Its identity.
        id: [u8; 16],
        /// What became of it.
        state: MessageState,
    },
}

impl ControlMessage {
    /// Length and body, as they go into data records.
    pub fn encode(&self) -> Vec<u8> {
        let body = encode(|to| self.encode_body(to));
        let mut bytes = Vec::with_capacity(HEAD + body.len());
        bytes.extend_from_slice(&u32::try_from(body.len()).expect("invariant: bodies are far below 4 GiB").to_be_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn encode_body(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), Error<Infallible>> {
        match self {
            Self::Ping { nonce } => to.array(2)?.u8(1)?.u64(*nonce)?,
            Self::Pong { nonce } => to.array(2)?.u8(2)?.u64(*nonce)?,
            Self::Unpair => to.array(1)?.u8(3)?,
            Self::OpenBulk { transfer, count } => to.array(3)?.u8(4)?.bytes(&transfer.0)?.u8(*count)?,
            Self::Offer(offer) => return offer.encode_body(to),
            Self::Accept { transfer, chunks, digests } => {
                to.array(4)?.u8(17)?.bytes(&transfer.0)?;
                chunks.encode(to)?;
                return digests.encode(to);
            }
            Self::Decline { transfer, reason } => to.array(3)?.u8(18)?.bytes(&transfer.0)?.u64(reason.number())?,
            Self::FileDigests { transfer, first_entry, digests } => {
                to.array(4)?.u8(19)?.bytes(&transfer.0)?.u32(*first_entry)?.bytes(digests.as_flattened())?
            }
            Self::Stored { transfer, chunks } => {
                to.array(3)?.u8(20)?.bytes(&transfer.0)?;
                return chunks.encode(to);
            }
            Self::SourceChanged { transfer, entry } => to.array(3)?.u8(21)?.bytes(&transfer.0)?.u32(*entry)?,
            Self::Cancel { transfer, reason } => to.array(3)?.u8(22)?.bytes(&transfer.0)?.u64(reason.number())?,
            Self::Pause { transfer } => to.array(2)?.u8(23)?.bytes(&transfer.0)?,
            Self::Resume { transfer } => to.array(2)?.u8(24)?.bytes(&transfer.0)?,
            Self::Receipt { transfer, digest, others, more } => {
                to.array(5)?.u8(25)?.bytes(&transfer.0)?.bytes(digest)?.array(others.len() as u64)?;
                for (entry, outcome) in others {
                    to.array(2)?.u32(*entry)?.u8(outcome.number())?;
                }
                to.bool(*more)?
            }
            Self::Message { seq, id, content_type, body } => to.array(5)?.u8(32)?.u64(*seq)?.bytes(id)?.str(content_type)?.bytes(body)?,
            Self::MessageReceipt { seq, id, state } => to.array(4)?.u8(33)?.u64(*seq)?.bytes(id)?.u64(state.number())?,
        };
        Ok(())
    }

    /// The message in this body; `None` for a type that is not ours.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn decode(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader::new(body)?;
        let count = reader.array()?;
        let number = reader.u64()?;
        let Some(expected) = fields(number) else { return Ok(None) };
        if count != expected {
            return Err(Malformed::Count);
        }
        Self::decode_fields(number, &mut reader).map(Some)
    }

    fn decode_fields(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            1 => Self::Ping { nonce: from.u64()? },
            2 => Self::Pong { nonce: from.u64()? },
            3 => Self::Unpair,
            32 => Self::Message {
                seq: at_least_one(from.u64()?)?,
                id: from.exactly()?,
                content_type: from.text(CONTENT_TYPE)?.into(),
                body: from.bytes(limits::MESSAGE_BODY)?.to_vec(),
            },
            33 => Self::MessageReceipt { seq: at_least_one(from.u64()?)?, id: from.exactly()?, state: MessageState::of(from.u64()?) },
            _ => {
                let transfer = TransferId(from.exactly()?);
                return Self::decode_of_transfer(number, transfer, from);
            }
        })
    }

    fn decode_of_transfer(number: u64, transfer: TransferId, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            4 => {
                let count = from.u8()?;
                if !(1..=limits::BULK_STREAMS).contains(&usize::from(count)) {
                    return Err(Malformed::Bounds);
                }
                Self::OpenBulk { transfer, count }
            }
            16 => Self::Offer(Offer::decode_fields(transfer, from)?),
            17 => Self::Accept { transfer, chunks: Ranges::decode(from)?, digests: Ranges::decode(from)? },
            18 => Self::Decline { transfer, reason: DeclineReason::of(from.u64()?) },
            19 => Self::FileDigests { transfer, first_entry: from.u32()?, digests: digests(from)? },
            20 => Self::Stored { transfer, chunks: Ranges::decode(from)? },
            21 => Self::SourceChanged { transfer, entry: from.u32()? },
            22 => Self::Cancel { transfer, reason: CancelReason::of(from.u64()?) },
            23 => Self::Pause { transfer },
            24 => Self::Resume { transfer },
            25 => Self::Receipt { transfer, digest: from.exactly()?, others: outcomes(from)?, more: from.bool()? },
            _ => return Err(Malformed::Type),
        })
    }
}

/// Elements of a known message's array, its type included.
const fn fields(number: u64) -> Option<u64> {
    Some(match number {
        3 => 1,
        1 | 2 | 23 | 24 => 2,
        4 | 18 | 20 | 21 | 22 => 3,
        17 | 19 | 33 => 4,
        25 | 32 => 5,
        16 => 7,
        _ => return None,
    })
}

impl Offer {
    fn encode_body(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), Error<Infallible>> {
        to.array(7)?.u8(16)?.bytes(&self.transfer.0)?.u32(self.entries)?.u64(self.bytes)?.u32(self.chunk_size)?;
        to.bytes(&self.manifest_digest)?;
        match &self.label {
            Some(label) => to.str(label)?,
            None => to.null()?,
        };
        Ok(())
    }

    fn decode_fields(transfer: TransferId, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (entries, bytes, chunk_size) = (from.u32()?, from.u64()?, from.u32()?);
        // XFER-9.
        let (least, most) = limits::CHUNK_SIZE_RANGE;
        if entries == 0 || !chunk_size.is_power_of_two() || !(least..=most).contains(&chunk_size) {
            return Err(Malformed::Bounds);
        }
        let manifest_digest = from.exactly()?;
        let label = from.or_null(|from| from.text(limits::LABEL).map(String::from))?;
        Ok(Self { transfer, entries, bytes, chunk_size, manifest_digest, label })
    }
}

const fn at_least_one(number: u64) -> Result<u64, Malformed> {
    if number == 0 { Err(Malformed::Bounds) } else { Ok(number) }
}

fn digests(from: &mut Reader<'_>) -> Result<Vec<[u8; 32]>, Malformed> {
    match from.bytes(32 * limits::DIGESTS_A_MESSAGE)?.as_chunks() {
        ([], _) | (_, [_, ..]) => Err(Malformed::Bounds),
        (digests, []) => Ok(digests.to_vec()),
    }
}

fn outcomes(from: &mut Reader<'_>) -> Result<Vec<(u32, Outcome)>, Malformed> {
    let count = from.array_up_to(limits::OUTCOMES_A_MESSAGE)?;
    let mut others: Vec<(u32, Outcome)> = Vec::with_capacity(count);
    for _ in 0..count {
        from.fields(2)?;
        let (entry, outcome) = (from.u32()?, Outcome::of(from.u8()?));
        if outcome == Outcome::Stored || others.last().is_some_and(|&(last, _)| entry <= last) {
            return Err(Malformed::Bounds);
        }
        others.push((entry, outcome));
    }
    Ok(others)
}

/// What a [`ControlReader`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message.
    Message(ControlMessage),
    /// A message of a type that is not ours: counted, without effect.
    // DATA-16.
    Unknown,
}

/// The control stream is not a sequence of messages. The peer's fault; the session closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// A length that no message of its type has.
    TooLong,
    /// A body that is not what its type says.
    Malformed(Malformed),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a control message is too long"),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ControlError {}

/// Joins the plaintexts of data records and yields the messages in them.
///
/// Iterate until `None` after each [`push`](Self::push): then at most one incomplete message is kept. An error comes once;
/// nothing comes after it.
#[derive(Debug, Default)]
pub struct ControlReader {
    buffer: Vec<u8>,
    start: usize,
    failed: bool,
}

impl ControlReader {
    /// Before the first record.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, failed: false }
    }

    /// The next data record's plaintext.
    pub fn push(&mut self, text: &[u8]) {
        if self.failed {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * limits::CONTROL_MESSAGE {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(text);
    }

    /// Whether what came so far ends where a message ends.
    pub const fn is_whole(&self) -> bool {
        self.start == self.buffer.len()
    }

    fn message(&mut self) -> Result<Option<Item>, ControlError> {
        let Some((&head, rest)) = self.buffer[self.start..].split_first_chunk() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if len > limits::LONG_CONTROL_MESSAGE && !planted!(ControlLengthUnbounded) {
            return Err(ControlError::TooLong);
        }
        // Only an application message may be longer than the others, and its first bytes say that it is one.
        if len > limits::CONTROL_MESSAGE
            && !planted!(ControlLengthUnbounded)
            && !rest.iter().zip(&LONG_BEGINS).all(|(byte, begins)| byte == begins)
        {
            return Err(ControlError::TooLong);
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = ControlMessage::decode(body).map_err(ControlError::Malformed)?;
        self.start += HEAD + len;
        Ok(Some(message.map_or(Item::Unknown, Item::Message)))
    }
}

impl Iterator for ControlReader {
    type Item = Result<Item, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let message = self.message();
        if message.is_err() {
            *self = Self { failed: true, ..Self::new() };
        }
        message.transpose()
    }
}

#[cfg(test)]
mod tests;
