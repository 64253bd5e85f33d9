//! The receiving direction of a stream of records whose bytes go round the Node: bytes in, plaintexts out, and whether its end is one
//! (PROTOCOL.md, section 9.2).

use alloc::vec::Vec;
use core::fmt;

use super::record::{RecordError, RecordOpener, RecordType};
use crate::wire::deframer::{Content, Deframer, FrameError};

/// Why nothing more can be read. The peer's fault; the stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes are no record.
    Frame(FrameError),
    /// A record does not open: the host says so to its Node ([`Input::Forged`](crate::effects::Input::Forged)).
    Record(RecordError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Record(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ReadError {}

/// The stream ended, and what was said on it had not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was cut")
    }
}

impl core::error::Error for Truncated {}

/// Reads the records of one direction of a stream, in order.
///
/// Read into [`space`](Self::space), say how much with [`filled`](Self::filled), then take plaintexts until there is none.
#[derive(Debug)]
pub struct RecordReader {
    deframer: Deframer,
    opener: RecordOpener,
}

impl RecordReader {
    /// `before`: what came behind the point where the stream's deframer parked.
    pub const fn new(opener: RecordOpener, before: Vec<u8>) -> Self {
        Self { deframer: Deframer::of_records(before), opener }
    }

    /// Room for the next bytes; empty while a whole record waits to be taken.
    pub fn space(&mut self) -> &mut [u8] {
        self.deframer.space()
    }

    /// The first `count` bytes of [`space`](Self::space) are now the stream's next bytes.
    pub fn filled(&mut self, count: usize) {
        self.deframer.filled(count);
    }

    /// The next plaintext, of 1 to 65 536 bytes. `None`: more bytes are needed, or this was [all](Self::finished).
    ///
    /// # Errors
    /// [`ReadError`]; from then on always. A record behind the last one is an error too.
    pub fn next_text(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        for frame in self.deframer.by_ref() {
            // A deframer of records gives nothing else.
            let Content::Record(record) = frame.map_err(ReadError::Frame)?.into_content() else { continue };
            match self.opener.open(&record).map_err(ReadError::Record)? {
                (RecordType::Data, text) => return Ok(Some(text)),
                (RecordType::Fin, _) => {}
                (RecordType::Opening, _) => return Err(ReadError::Record(RecordError::Place)),
            }
        }
        Ok(None)
    }

    /// Whether the peer has said all: its fin came and verified.
    pub const fn finished(&self) -> bool {
        self.opener.finished()
    }

    /// The transport says that nothing more comes.
    ///
    /// # Errors
    /// [`Truncated`]: the peer had not said all.
    // DATA-12.
    pub fn end(&self) -> Result<(), Truncated> {
        if self.finished() || planted!(ProtocolCutIsEnd) { Ok(()) } else { Err(Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::ids::SessionRef;
    use crate::limits;
    use crate::session::keys::StreamKey;
    use crate::session::record::RecordSealer;
    use crate::wire::header::{Header, StreamKind};
    use std::vec;

    fn key() -> StreamKey {
        let header = Header::new(StreamKind::Custom, SessionRef([1; 16]), 1, [2; 8]).unwrap();
        StreamKey::of_answerer(&Secret::new([3; 32]), &header, &[5; 16])
    }

    /// What comes out when these bytes come in pieces of `size`, the first `before` of them ahead of the reader.
    fn read(bytes: &[u8], before: usize, size: usize) -> (Vec<u8>, Result<bool, ReadError>) {
        let mut reader = RecordReader::new(RecordOpener::new(&key()), bytes[..before].to_vec());
        let (mut all, mut rest) = (vec![], &bytes[before..]);
        loop {
            loop {
                match reader.next_text() {
                    Ok(Some(text)) => all.extend(text),
                    Ok(None) => break,
                    Err(error) => return (all, Err(error)),
                }
            }
            if rest.is_empty() {
                assert_eq!(reader.end().is_ok(), reader.finished());
                return (all, Ok(reader.end().is_ok()));
            }
            let space = reader.space();
            let count = size.min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            reader.filled(count);
            rest = &rest[count..];
        }
    }

    fn stream(texts: &[&[u8]]) -> Vec<u8> {
        let mut sealer = RecordSealer::new(&key());
        let mut bytes: Vec<u8> = texts.iter().flat_map(|text| sealer.seal(RecordType::Data, text).unwrap()).collect();
        bytes.extend(sealer.seal(RecordType::Fin, &[]).unwrap());
        bytes
    }

    #[test]
    fn texts_come_out_whole_however_the_bytes_come_in() {
        let long = vec![7; limits::RECORD_TEXT];
        let bytes = stream(&[b"one", &long, b"two"]);
        let whole = [b"one", &long[..], b"two"].concat();
        for (before, size) in [(0, 1 << 20), (0, 4096), (3, 1 << 20), (100, 999), (bytes.len(), 1)] {
            assert_eq!(read(&bytes, before, size), (whole.clone(), Ok(true)), "{before} {size}");
        }
    }

    #[test]
    // DATA-12.
    fn a_cut_at_every_byte_is_no_end() {
        let bytes = stream(&[b"one", b"two and three"]);
        for cut in 0..bytes.len() {
            let (text, ended) = read(&bytes[..cut], 0, 7);
            assert_eq!(ended, Ok(false), "{cut}");
            assert!(b"onetwo and three".starts_with(&text[..]));
        }
        assert_eq!(read(&bytes, 0, 7).1, Ok(true));
    }

    #[test]
    // DATA-11.
    fn what_does_not_open_or_comes_behind_the_end_is_an_error() {
        let bytes = stream(&[b"one"]);
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(read(&altered, 0, 99).1, Ok(true), "bit {bit}");
        }
        let more = [&bytes[..], &bytes[..]].concat();
        assert_eq!(read(&more, 0, 99), (b"one".to_vec(), Err(ReadError::Record(RecordError::AfterFin))));
    }
}
