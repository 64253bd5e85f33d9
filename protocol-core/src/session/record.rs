//! Records: sealed, counted and bound to their stream (PROTOCOL.md, section 9.2).

use alloc::vec::Vec;
use core::fmt;

use super::keys::{Side, StreamKey};
use crate::crypto::aead::{self, TAG};
use crate::crypto::kdf::put_lp;
use crate::crypto::labels::strings;
use crate::crypto::secret::Secret;
use crate::limits;
use crate::wire::deframer::RECORD_HEAD;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// 1 to 65 536 bytes of what the stream carries.
    Data = 0,
    /// The end, empty: a stream that ends without it was cut.
    Fin = 1,
    /// The opener's first record, and only that: it proves the stream.
    Opening = 2,
}

impl RecordType {
    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Fin),
            2 => Some(Self::Opening),
            _ => None,
        }
    }
}

/// Whether these bytes say of themselves that they are the last record of a direction. Only opening it proves that.
pub(crate) fn says_fin(record: &[u8]) -> bool {
    record.get(RECORD_HEAD - 1) == Some(&(RecordType::Fin as u8))
}

/// A record that cannot stand where it stands. It ends its direction of the stream: every later call fails alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The tag does not verify: altered, replayed, out of order, or of another stream, direction or session.
    Forged,
    /// A type that nobody defined.
    Type,
    /// An opening record that is not first, or another that is.
    Place,
    /// Longer or shorter than its type allows, or than its head says.
    Length,
    /// The direction has ended.
    AfterFin,
    /// The direction has carried all that one key may carry; another stream goes on.
    Spent,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forged => "a record does not verify",
            Self::Type => "a record of an unknown type",
            Self::Place => "an opening record in the wrong place",
            Self::Length => "a record of a length that its type does not have",
            Self::AfterFin => "a record after the last one",
            Self::Spent => "the stream has carried all that its key may",
        })
    }
}

impl core::error::Error for RecordError {}

/// One direction: its key, its place, and whether it ended. Both sides count alike, so both use this.
struct Direction {
    key: Secret,
    bind: [u8; 32],
    side: Side,
    counter: u64,
    bytes: u64,
    ended: Option<RecordError>,
}

impl Direction {
    fn new(key: &StreamKey) -> Self {
        Self { key: key.records(), bind: *key.bind(), side: key.side(), counter: 0, bytes: 0, ended: None }
    }

    /// What the next record is bound to as its number.
    fn number(&self) -> u64 {
        if planted!(RecordsUncounted) { 0 } else { self.counter }
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.number().to_be_bytes());
        nonce
    }

    fn aad(&self, head: &[u8; RECORD_HEAD]) -> Vec<u8> {
        let mut aad = Vec::with_capacity(4 + strings::RECORD_AAD.len() + 32 + 8 + RECORD_HEAD);
        put_lp(&mut aad, strings::RECORD_AAD);
        aad.extend_from_slice(&self.bind);
        aad.extend_from_slice(&self.number().to_be_bytes());
        aad.push(head[4]);
        aad.extend_from_slice(&head[..4]);
        aad
    }

    /// Whether a record of this type and plaintext may stand here.
    // DATA-4, DATA-5.
    fn allows(&self, kind: RecordType, text: usize) -> Result<(), RecordError> {
        let first = self.side == Side::Opener && self.counter == 0;
        if (kind == RecordType::Opening) != first {
            return Err(RecordError::Place);
        }
        let fits = match kind {
            RecordType::Data => (1..=limits::RECORD_TEXT).contains(&text),
            RecordType::Fin => text == 0 || planted!(TextInFin),
            RecordType::Opening => (1..=limits::OPENING_RECORD - RECORD_HEAD - TAG).contains(&text),
        };
        if fits { Ok(()) } else { Err(RecordError::Length) }
    }

    /// Whether the key may carry `wire` bytes more, and the direction goes on.
    fn goes_on(&self, wire: usize) -> Result<(), RecordError> {
        if let Some(error) = self.ended {
            return Err(error);
        }
        let spent = self.counter >= limits::STREAM_RECORDS || self.bytes + wire as u64 > limits::STREAM_BYTES;
        if spent { Err(RecordError::Spent) } else { Ok(()) }
    }

    fn count(&mut self, kind: RecordType, wire: usize) {
        self.counter += 1;
        self.bytes += wire as u64;
        if kind == RecordType::Fin {
            self.ended = Some(RecordError::AfterFin);
        }
    }
}

/// Seals the records of one direction of a stream, in order.
pub struct RecordSealer(Direction);

impl fmt::Debug for RecordSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSealer").field("counter", &self.0.counter).finish_non_exhaustive()
    }
}

impl RecordSealer {
    /// From the key of a direction in which nothing was sealed yet.
    pub fn new(key: &StreamKey) -> Self {
        Self(Direction::new(key))
    }

    /// The next record, whole.
    ///
    /// # Errors
    /// Those of [`RecordOpener::open`] but forgery: what the other side would refuse is not sealed. A failed call changes
    /// nothing.
    pub fn seal(&mut self, kind: RecordType, text: &[u8]) -> Result<Vec<u8>, RecordError> {
        let wire = RECORD_HEAD + text.len() + TAG;
        self.0.goes_on(wire)?;
        self.0.allows(kind, text.len())?;
        let len = u32::try_from(text.len() + TAG).map_err(|_| RecordError::Length)?.to_be_bytes();
        let head = [len[0], len[1], len[2], len[3], kind as u8];
        let mut record = Vec::with_capacity(wire);
        record.extend_from_slice(&head);
        record.extend(aead::seal_counted(&self.0.key, self.0.nonce(), text, &self.0.aad(&head)));
        self.0.count(kind, wire);
        Ok(record)
    }

    /// Records sealed so far.
    pub const fn counter(&self) -> u64 {
        self.0.counter
    }
}

/// Opens the records of one direction of a stream, in order.
pub struct RecordOpener(Direction);

impl fmt::Debug for RecordOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordOpener").field("counter", &self.0.counter).field("ended", &self.0.ended).finish_non_exhaustive()
    }
}

impl RecordOpener {
    /// From the key of a direction in which nothing was opened yet.
    pub fn new(key: &StreamKey) -> Self {
        Self(Direction::new(key))
    }

    /// Type and plaintext of the next record. It is verified before its type and length mean anything.
    ///
    /// # Errors
    /// [`RecordError`]; from then on always.
    pub fn open(&mut self, record: &[u8]) -> Result<(RecordType, Vec<u8>), RecordError> {
        let opened = self.open_next(record);
        if let Err(error) = opened {
            self.0.ended = Some(error);
        }
        opened
    }

    // DATA-3.
    fn open_next(&mut self, record: &[u8]) -> Result<(RecordType, Vec<u8>), RecordError> {
        self.0.goes_on(record.len())?;
        let (head, sealed) = record.split_first_chunk::<RECORD_HEAD>().ok_or(RecordError::Length)?;
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if usize::try_from(len) != Ok(sealed.len()) || sealed.len() > limits::RECORD_TEXT + TAG {
            return Err(RecordError::Length);
        }
        let mut text = sealed.to_vec();
        let len = aead::open_in_place(&self.0.key, self.0.nonce(), &mut text, &self.0.aad(head)).map_err(|_| RecordError::Forged)?;
        text.truncate(len);
        let kind = RecordType::of(head[4]).ok_or(RecordError::Type)?;
        self.0.allows(kind, len)?;
        self.0.count(kind, record.len());
        Ok((kind, text))
    }

    /// Whether the end of the direction came and verified.
    pub const fn finished(&self) -> bool {
        matches!(self.0.ended, Some(RecordError::AfterFin))
    }

    /// Records opened so far.
    pub const fn counter(&self) -> u64 {
        self.0.counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionRef;
    use crate::wire::header::{Header, StreamKind};
    use std::vec;

    fn keys() -> (StreamKey, StreamKey) {
        let header = Header::new(StreamKind::Custom, SessionRef([1; 16]), 1, [2; 8]).unwrap();
        (StreamKey::of_opener(&Secret::new([3; 32]), &header), StreamKey::of_answerer(&Secret::new([4; 32]), &header, &[5; 16]))
    }

    #[test]
    // DATA-2.
    fn a_stream_from_opening_to_fin() {
        let (key, answer) = keys();
        let (mut sealer, mut opener) = (RecordSealer::new(&key), RecordOpener::new(&key));
        for (kind, text) in [
            (RecordType::Opening, vec![1; 9]),
            (RecordType::Data, vec![2; 1]),
            (RecordType::Data, vec![3; limits::RECORD_TEXT]),
            (RecordType::Fin, vec![]),
        ] {
            assert!(!opener.finished());
            let record = sealer.seal(kind, &text).unwrap();
            assert_eq!(opener.open(&record), Ok((kind, text)));
        }
        assert!(opener.finished());
        assert_eq!(sealer.seal(RecordType::Data, &[1]), Err(RecordError::AfterFin));
        assert_eq!(opener.open(&[0; 30]), Err(RecordError::AfterFin));
        let (mut sealer, mut opener) = (RecordSealer::new(&answer), RecordOpener::new(&answer));
        assert_eq!(sealer.seal(RecordType::Opening, &[1]), Err(RecordError::Place), "only the opener has one");
        let record = sealer.seal(RecordType::Data, b"first").unwrap();
        assert_eq!(opener.open(&record), Ok((RecordType::Data, b"first".to_vec())));
    }

    #[test]
    // DATA-4, DATA-5.
    fn what_may_not_be_opened_is_not_sealed() {
        let (key, _) = keys();
        let mut sealer = RecordSealer::new(&key);
        assert_eq!(sealer.seal(RecordType::Data, &[1]), Err(RecordError::Place));
        assert_eq!(sealer.seal(RecordType::Fin, &[]), Err(RecordError::Place));
        assert_eq!(sealer.seal(RecordType::Opening, &[0; 492]), Err(RecordError::Length));
        assert_eq!(sealer.counter(), 0, "a failed call changes nothing");
        assert_eq!(sealer.seal(RecordType::Opening, &[0; 491]).unwrap().len(), limits::OPENING_RECORD);
        assert_eq!(sealer.seal(RecordType::Opening, &[0]), Err(RecordError::Place));
        assert_eq!(sealer.seal(RecordType::Data, &[]), Err(RecordError::Length));
        assert_eq!(sealer.seal(RecordType::Data, &vec![0; limits::RECORD_TEXT + 1]), Err(RecordError::Length));
        assert_eq!(sealer.seal(RecordType::Fin, &[0]), Err(RecordError::Length));
    }

    #[test]
    // DATA-3.
    fn every_bit_of_a_record_counts() {
        let (key, answer) = keys();
        let record = RecordSealer::new(&key).seal(RecordType::Opening, b"hello").unwrap();
        for bit in 0..record.len() * 8 {
            let mut altered = record.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let error = RecordOpener::new(&key).open(&altered).unwrap_err();
            assert_eq!(error, if bit < 32 { RecordError::Length } else { RecordError::Forged }, "bit {bit}");
        }
        assert_eq!(RecordOpener::new(&answer).open(&record), Err(RecordError::Forged));
        let mut opener = RecordOpener::new(&key);
        assert!(opener.open(&record).is_ok());
        assert_eq!(opener.open(&record), Err(RecordError::Forged), "a replay");
        assert_eq!(opener.open(&record), Err(RecordError::Forged), "and it stays so");
        for len in 0..record.len() {
            assert!(RecordOpener::new(&key).open(&record[..len]).is_err());
        }
    }

    #[test]
    fn a_key_ends_by_bytes_and_by_records() {
        let (key, _) = keys();
        for (counter, bytes) in [(limits::STREAM_RECORDS, 0), (1, limits::STREAM_BYTES - 21)] {
            let mut sealer = RecordSealer::new(&key);
            (sealer.0.counter, sealer.0.bytes) = (counter, bytes);
            assert_eq!(sealer.seal(RecordType::Data, &[1]), Err(RecordError::Spent));
        }
        let mut sealer = RecordSealer::new(&key);
        (sealer.0.counter, sealer.0.bytes) = (limits::STREAM_RECORDS - 1, limits::STREAM_BYTES - 22);
        assert!(sealer.seal(RecordType::Data, &[1]).is_ok());
        assert_eq!(sealer.seal(RecordType::Data, &[1]), Err(RecordError::Spent));
    }
}
