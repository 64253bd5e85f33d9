//! One direction of one stream, cut into frames (PROTOCOL.md, sections 6.0, 6.1, 9.2).
//!
//! A stream goes through stages, and each stage knows the largest frame that may come next:
//!
//! ```text
//! accepted  preamble ─┬ kin-pair/1  Request  Response ─┬ header ─ opening record ─ records
//!                     ├ kin-link/1  Hello    Finish   ─┘
//!                     └ kin-data/1  header ─ opening record ─┬ records
//!                                                            └ parked (bulk, custom)
//! opened    kin-pair/1  Challenge  Complete ─┬ reply ─ records
//!           kin-link/1  Accept              ─┘
//!           kin-data/1  reply ─┬ records
//!                              └ parked (bulk, custom)
//! ```
//!
//! So no host and no adapter knows a length limit, and memory is never more than the frame that the stage allows.

use alloc::vec::Vec;
use core::fmt;

use super::header::{HEADER, Header, HeaderError, REPLY, StreamKind};
use crate::crypto::aead::TAG;
use crate::limits;

/// Bytes before a record's ciphertext: length and type.
pub const RECORD_HEAD: usize = 5;
/// Bytes before a handshake frame's body.
const FRAME_HEAD: usize = 4;
/// Room that a stage with large frames starts with; it grows as bytes arrive.
const FIRST_ROOM: usize = 4096;

/// The names that a preamble may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preamble {
    /// `kin-pair/1`: a pairing handshake and the control stream of its session.
    Pair,
    /// `kin-link/1`: a reconnect and the control stream of its session.
    Link,
    /// `kin-data/1`: a data stream of an existing session.
    Data,
}

impl Preamble {
    const ALL: [Self; 3] = [Self::Pair, Self::Link, Self::Data];

    const fn name(self) -> &'static [u8] {
        match self {
            Self::Pair => b"kin-pair/1",
            Self::Link => b"kin-link/1",
            Self::Data => b"kin-data/1",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|preamble| preamble.name() == name)
    }
}

/// What a stream is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamName {
    /// Pairing.
    Pair,
    /// Reconnecting.
    Link,
    /// A data stream of this kind (never [`StreamKind::Control`], which stands behind a handshake).
    Data(StreamKind),
}

impl StreamName {
    /// The opener's first bytes.
    pub fn preamble(self) -> Vec<u8> {
        let name = match self {
            Self::Pair => Preamble::Pair,
            Self::Link => Preamble::Link,
            Self::Data(_) => Preamble::Data,
        }
        .name();
        let mut bytes = Vec::with_capacity(1 + name.len());
        bytes.push(u8::try_from(name.len()).expect("invariant: the names are ten letters"));
        bytes.extend_from_slice(name);
        bytes
    }
}

/// The bytes cannot be what the stage of the stream allows. The peer's fault; the stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The preamble names nothing that is known.
    Name,
    /// A frame without a body, or a record too short for its tag.
    Empty,
    /// A frame longer than its stage allows.
    TooLong,
    /// A control header on a data stream, or another on the stream of a handshake.
    Place,
    /// A bad header.
    Header(HeaderError),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a stream with an unknown name",
            Self::Empty => "an empty frame",
            Self::TooLong => "a frame longer than its place allows",
            Self::Place => "a header of a kind that does not belong on this stream",
            Self::Header(error) => return error.fmt(f),
        })
    }
}

impl core::error::Error for FrameError {}

/// A frame as it came out of a [`Deframer`], the only maker of such values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Content);

/// What a [`Frame`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The stream's name.
    Preamble(Preamble),
    /// The body of a handshake frame: not empty, not longer than its place allows.
    Handshake(Vec<u8>),
    /// The opener's header.
    Header(Header),
    /// The answering side's reply.
    Reply([u8; REPLY]),
    /// A whole record: head and ciphertext.
    Record(Vec<u8>),
}

impl Frame {
    /// What it is.
    pub const fn content(&self) -> &Content {
        &self.0
    }

    /// What it is, taken over.
    pub fn into_content(self) -> Content {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preamble,
    Handshake(Step),
    Header { data: bool },
    Reply(StreamKind),
    Opening(StreamKind),
    Records,
    Parked,
    Failed,
}

/// The handshake frame that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// PairingRequest or Hello, then the other.
    First,
    /// Response or Finish, then the header.
    Last,
    /// Challenge, then Complete.
    Challenge,
    /// Complete, then the reply.
    Complete,
    /// Accept or a notice, then the reply.
    Accept,
}

impl Step {
    fn body(self) -> usize {
        match self {
            Self::First if planted!(FirstFrameUnbounded) => 16 * limits::RECORD_TEXT,
            Self::First => limits::FIRST_FRAME,
            Self::Last | Self::Challenge | Self::Accept if planted!(BoxFrameUnbounded) => 16 * limits::RECORD_TEXT,
            Self::Last | Self::Challenge | Self::Accept => limits::BOX_FRAME,
            Self::Complete => limits::COMPLETE_FRAME,
        }
    }

    const fn then(self) -> Stage {
        match self {
            Self::First => Stage::Handshake(Self::Last),
            Self::Last => Stage::Header { data: false },
            Self::Challenge => Stage::Handshake(Self::Complete),
            Self::Complete | Self::Accept => Stage::Reply(StreamKind::Control),
        }
    }
}

/// Bytes of the longest plaintext of a record.
fn record_text() -> usize {
    if planted!(RecordUnbounded) { 16 * limits::RECORD_TEXT } else { limits::RECORD_TEXT }
}

/// Bytes of the longest opening record.
fn opening_record() -> usize {
    if planted!(OpeningUnbounded) { limits::RECORD_TEXT } else { limits::OPENING_RECORD }
}

impl Stage {
    /// Bytes of the largest frame.
    fn bound(self) -> usize {
        match self {
            Self::Preamble => 1 + limits::PREAMBLE_NAME,
            Self::Handshake(step) => FRAME_HEAD + step.body(),
            Self::Header { .. } => HEADER,
            Self::Reply(_) => REPLY,
            Self::Opening(_) => opening_record(),
            Self::Records => RECORD_HEAD + record_text() + TAG,
            Self::Parked | Self::Failed => 0,
        }
    }

    /// What follows a reply or an opening record.
    const fn carrying(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Bulk | StreamKind::Custom => Self::Parked,
            StreamKind::Control | StreamKind::Manifest => Self::Records,
        }
    }
}

/// Cuts the incoming bytes of one stream into frames.
///
/// Read into [`space`](Self::space), say how much with [`filled`](Self::filled), then iterate until `None`: more bytes are
/// needed, the stream is [`parked`](Self::parked), or it failed. An error comes once; nothing comes after it.
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    stage: Stage,
}

impl fmt::Debug for Deframer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deframer").field("stage", &self.stage).field("buffered", &(self.end - self.start)).finish()
    }
}

impl Deframer {
    /// For a stream that the peer opened.
    pub const fn accepting() -> Self {
        Self::at(Stage::Preamble)
    }

    /// For a stream that we opened under this name.
    pub const fn opening(name: StreamName) -> Self {
        Self::at(match name {
            StreamName::Pair => Stage::Handshake(Step::Challenge),
            StreamName::Link => Stage::Handshake(Step::Accept),
            StreamName::Data(kind) => Stage::Reply(kind),
        })
    }

    /// For the records of a stream that was parked, which begin with these bytes.
    pub const fn of_records(before: Vec<u8>) -> Self {
        let end = before.len();
        Self { buffer: before, start: 0, end, stage: Stage::Records }
    }

    const fn at(stage: Stage) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, stage }
    }

    /// Room for the next bytes: never more than the stage's largest frame still needs. Empty while a whole frame waits to be
    /// taken, and once the stream parked or failed.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.stage.bound().min(FIRST_ROOM.max(2 * self.end));
        self.buffer.resize(room.max(self.end), 0);
        &mut self.buffer[self.end..]
    }

    /// The first `count` bytes of [`space`](Self::space) are now the stream's next bytes.
    pub fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.buffer.len() - self.end, "more bytes than there was room");
        self.end = self.buffer.len().min(self.end + count);
    }

    /// Whether the frames ended because chunks, or an application's records, follow: whoever handles them takes the stream over.
    pub const fn parked(&self) -> bool {
        matches!(self.stage, Stage::Parked)
    }

    /// The bytes that arrived and belong to no frame yet.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.start);
        self.buffer
    }

    /// The next frame's length and head, once known: `None` until then.
    fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let (len, content, then) = match self.stage {
            Stage::Preamble => {
                let Some(name) = preamble(bytes)? else { return Ok(None) };
                let then = match name {
                    Preamble::Pair | Preamble::Link => Stage::Handshake(Step::First),
                    Preamble::Data => Stage::Header { data: true },
                };
                (1 + name.name().len(), Content::Preamble(name), then)
            }
            Stage::Handshake(step) => {
                let Some(frame) = counted(bytes, FRAME_HEAD, 1, step.body())? else { return Ok(None) };
                (frame.len(), Content::Handshake(frame[FRAME_HEAD..].to_vec()), step.then())
            }
            Stage::Header { data } => {
                let Some(head) = bytes.first_chunk() else { return Ok(None) };
                let header = Header::decode(head).map_err(FrameError::Header)?;
                if data == (header.kind() == StreamKind::Control) {
                    return Err(FrameError::Place);
                }
                (HEADER, Content::Header(header), Stage::Opening(header.kind()))
            }
            Stage::Reply(kind) => {
                let Some(reply) = bytes.first_chunk() else { return Ok(None) };
                (REPLY, Content::Reply(*reply), Stage::carrying(kind))
            }
            Stage::Opening(kind) => {
                let Some(record) = counted(bytes, RECORD_HEAD, TAG, opening_record() - RECORD_HEAD)? else { return Ok(None) };
                (record.len(), Content::Record(record.to_vec()), Stage::carrying(kind))
            }
            Stage::Records => {
                let Some(record) = counted(bytes, RECORD_HEAD, TAG, record_text() + TAG)? else { return Ok(None) };
                (record.len(), Content::Record(record.to_vec()), Stage::Records)
            }
            Stage::Parked | Stage::Failed => return Ok(None),
        };
        self.start += len;
        self.stage = then;
        Ok(Some(Frame(content)))
    }
}

// PAIR-2.
impl Iterator for Deframer {
    type Item = Result<Frame, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.frame();
        if frame.is_err() {
            self.stage = Stage::Failed;
            self.start = self.end;
        }
        frame.transpose()
    }
}

/// The name at the front, once it is whole.
fn preamble(bytes: &[u8]) -> Result<Option<Preamble>, FrameError> {
    let Some((&len, rest)) = bytes.split_first() else { return Ok(None) };
    let len = usize::from(len);
    match len {
        0 => Err(FrameError::Empty),
        // PAIR-3.
        _ if len > limits::PREAMBLE_NAME => Err(FrameError::TooLong),
        // PAIR-1.
        _ => rest.get(..len).map(|name| Preamble::of(name).ok_or(FrameError::Name)).transpose(),
    }
}

/// The whole frame at the front, head included: the head begins with a 32-bit length of what follows the head.
fn counted(bytes: &[u8], head: usize, least: usize, most: usize) -> Result<Option<&[u8]>, FrameError> {
    let Some(&len) = bytes.first_chunk() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    match len {
        _ if len < least => Err(FrameError::Empty),
        _ if len > most => Err(FrameError::TooLong),
        _ => Ok(bytes.get(..head + len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionRef;
    use proptest::prelude::*;
    use std::vec;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(body);
        out
    }

    fn record(len: usize) -> Vec<u8> {
        let mut out = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        out.push(0);
        out.extend((0..len).map(|at| u8::try_from(at % 251).unwrap()));
        out
    }

    fn header(kind: StreamKind) -> Vec<u8> {
        Header::new(kind, SessionRef([5; 16]), u64::from(kind != StreamKind::Control), [6; 8]).unwrap().encode().to_vec()
    }

    /// Feeds `bytes` in pieces of the given sizes, in turn; returns every item, and the rest.
    fn cut(mut deframer: Deframer, mut bytes: &[u8], sizes: &[usize]) -> (Vec<Result<Frame, FrameError>>, Vec<u8>) {
        let mut items = vec![];
        for size in sizes.iter().cycle() {
            let space = deframer.space();
            let count = (*size).min(space.len()).min(bytes.len());
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            deframer.filled(count);
            items.extend(deframer.by_ref());
        }
        let mut rest = deframer.into_rest();
        rest.extend_from_slice(bytes);
        (items, rest)
    }

    fn streams() -> Vec<(Deframer, Vec<Vec<u8>>)> {
        let records = || [record(16), record(limits::RECORD_TEXT + TAG), record(17)];
        let mut all = vec![];
        for name in [StreamName::Pair, StreamName::Link] {
            let mut parts = vec![name.preamble(), frame(&[1; limits::FIRST_FRAME]), frame(&[2; limits::BOX_FRAME])];
            parts.extend([header(StreamKind::Control), record(limits::OPENING_RECORD - RECORD_HEAD)]);
            parts.extend(records());
            all.push((Deframer::accepting(), parts));
        }
        let pages = StreamKind::Manifest;
        let mut parts = vec![StreamName::Data(pages).preamble(), header(pages), record(80)];
        parts.extend(records());
        all.push((Deframer::accepting(), parts));
        let mut parts = vec![vec![7; REPLY]];
        parts.extend(records());
        all.push((Deframer::opening(StreamName::Data(pages)), parts));
        all.push((Deframer::of_records(vec![]), records().to_vec()));
        let mut parts = vec![frame(&[1; limits::BOX_FRAME]), frame(&[2; limits::COMPLETE_FRAME]), vec![3; REPLY]];
        parts.extend(records());
        all.push((Deframer::opening(StreamName::Pair), parts));
        let mut parts = vec![frame(&[1; 1]), vec![3; REPLY]];
        parts.extend(records());
        all.push((Deframer::opening(StreamName::Link), parts));
        all
    }

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        match frame.content() {
            Content::Preamble(Preamble::Pair) => StreamName::Pair.preamble(),
            Content::Preamble(Preamble::Link) => StreamName::Link.preamble(),
            Content::Preamble(Preamble::Data) => StreamName::Data(StreamKind::Bulk).preamble(),
            Content::Handshake(body) => self::frame(body),
            Content::Header(header) => header.encode().to_vec(),
            Content::Reply(reply) => reply.to_vec(),
            Content::Record(record) => record.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        // PAIR-2.
        fn any_split_gives_the_same_frames(sizes in prop::collection::vec(1_usize..5000, 1..20), which in 0_usize..7, cut_off in 0_usize..70_000) {
            let (deframer, parts) = streams().swap_remove(which);
            let bytes = parts.concat();
            let (items, rest) = cut(deframer, &bytes, &sizes);
            prop_assert_eq!(rest, Vec::<u8>::new());
            prop_assert_eq!(items.iter().map(|item| bytes_of(item.as_ref().unwrap())).collect::<Vec<_>>(), parts);
            // A stream that was cut has the same frames, short of a suffix.
            let (deframer, _) = streams().swap_remove(which);
            let (fewer, _) = cut(deframer, &bytes[..bytes.len().saturating_sub(cut_off)], &sizes);
            prop_assert!(fewer.len() <= items.len() && fewer[..] == items[..fewer.len()]);
        }

        #[test]
        fn no_bytes_can_hurt(bytes in prop::collection::vec(any::<u8>(), 0..300), named in 0_usize..4, sizes in prop::collection::vec(1_usize..40, 1..9)) {
            let mut stream = vec![StreamName::Pair.preamble(), StreamName::Link.preamble(), StreamName::Data(StreamKind::Bulk).preamble(), vec![]].swap_remove(named);
            stream.extend(bytes);
            let (once, rest) = cut(Deframer::accepting(), &stream, &[1]);
            let (again, other) = cut(Deframer::accepting(), &stream, &sizes);
            prop_assert_eq!(&once, &again);
            if once.iter().all(Result::is_ok) {
                prop_assert_eq!(rest, other);
            }
            prop_assert!(once.iter().rev().skip(1).all(Result::is_ok), "nothing comes after an error");
        }
    }

    #[test]
    fn byte_by_byte_is_no_different() {
        for (deframer, parts) in streams() {
            let (items, _) = cut(deframer, &parts.concat(), &[1]);
            assert_eq!(items.iter().map(|item| bytes_of(item.as_ref().unwrap())).collect::<Vec<_>>(), parts);
        }
    }

    #[test]
    fn chunks_and_bytes_of_applications_are_left_to_whoever_takes_over() {
        let chunks = vec![9; 3000];
        for kind in [StreamKind::Bulk, StreamKind::Custom] {
            let opened = [vec![1; REPLY], chunks.clone()].concat();
            let accepted = [StreamName::Data(kind).preamble(), header(kind), record(80), chunks.clone()].concat();
            for size in [1, 7, 100, 100_000] {
                for (deframer, bytes, frames) in
                    [(Deframer::accepting(), &accepted, 3), (Deframer::opening(StreamName::Data(kind)), &opened, 1)]
                {
                    let (items, rest) = cut(deframer, bytes, &[size]);
                    assert_eq!((items.len(), rest), (frames, chunks.clone()));
                }
            }
        }
        let mut deframer = Deframer::opening(StreamName::Data(StreamKind::Bulk));
        assert!(!deframer.parked());
        deframer.space()[..REPLY].fill(0);
        deframer.filled(REPLY);
        assert!(deframer.next().is_some() && deframer.parked() && deframer.space().is_empty());
    }

    #[test]
    // PAIR-1.
    fn each_stage_refuses_what_it_cannot_be() {
        let first = |bytes: &[u8]| cut(Deframer::accepting(), bytes, &[1]).0.pop();
        let behind = |name: StreamName, bytes: &[u8]| first(&[&name.preamble(), bytes].concat());
        let data = StreamName::Data(StreamKind::Custom);
        assert_eq!(first(&[0]), Some(Err(FrameError::Empty)));
        assert_eq!(first(&[17]), Some(Err(FrameError::TooLong)));
        assert_eq!(first(b"\x0akin-pair/2"), Some(Err(FrameError::Name)));
        assert_eq!(behind(StreamName::Pair, &[0; 4]), Some(Err(FrameError::Empty)));
        assert_eq!(behind(StreamName::Pair, &[0, 0, 6, 1]), Some(Err(FrameError::TooLong)));
        assert_eq!(behind(StreamName::Link, &[0xff; 4]), Some(Err(FrameError::TooLong)));
        assert_eq!(behind(data, &header(StreamKind::Control)), Some(Err(FrameError::Place)));
        let handshake = [frame(&[1]), frame(&[2])].concat();
        assert_eq!(behind(StreamName::Link, &[handshake, header(StreamKind::Bulk)].concat()), Some(Err(FrameError::Place)));
        assert_eq!(behind(data, &[0; HEADER]), Some(Err(FrameError::Header(HeaderError::Version))));
        let opening = |len: u32| behind(data, &[header(StreamKind::Custom), len.to_be_bytes().to_vec()].concat());
        assert_eq!(opening(508), Some(Err(FrameError::TooLong)), "an opening record is at most 512 bytes on the wire");
        assert_eq!(opening(15), Some(Err(FrameError::Empty)));
        let pages = StreamName::Data(StreamKind::Manifest);
        let later = |len: u32| behind(pages, &[header(StreamKind::Manifest), record(30), len.to_be_bytes().to_vec()].concat());
        assert_eq!(later(65_553), Some(Err(FrameError::TooLong)));
        assert_eq!(later(15), Some(Err(FrameError::Empty)));
    }

    #[test]
    // ID-10, PAIR-3.
    fn a_length_alone_takes_no_memory() {
        let mut deframer = Deframer::opening(StreamName::Data(StreamKind::Manifest));
        let head = [vec![0; REPLY], (65_552_u32).to_be_bytes().to_vec()].concat();
        deframer.space();
        for byte in head {
            deframer.space()[0] = byte;
            deframer.filled(1);
            for item in deframer.by_ref() {
                item.unwrap();
            }
        }
        assert!(deframer.space().len() <= FIRST_ROOM);
    }
}
