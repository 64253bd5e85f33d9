//! What cuts a stream into pieces, and what opens the pieces.

use protocol_core::crypto::aead::{TAG, seal_counted};
use protocol_core::crypto::kdf::put_lp;
use protocol_core::crypto::labels::strings;
use protocol_core::crypto::secret::Secret;
use protocol_core::ids::SessionRef;
use protocol_core::limits;
use protocol_core::session::keys::{Side, StreamKey};
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::wire::deframer::{Content, Deframer, Frame, FrameError, RECORD_HEAD, StreamName};
use protocol_core::wire::header::{HEADER, Header, StreamKind};

use super::tape::Tape;

/// One direction of a stream: the first byte says which, the second how many of the next bytes say where reads end.
pub fn deframer(data: &[u8]) {
    let mut tape = Tape::new(data);
    let role = tape.byte() % 6;
    let sizes: Vec<usize> = (0..1 + tape.below(6)).map(|_| 1 + usize::from(tape.byte())).collect();
    let bytes = tape.rest();
    let (whole, parked, rest) = cut(stream(role), bytes, &[usize::MAX]);
    let (pieces, also_parked, other_rest) = cut(stream(role), bytes, &sizes);
    assert_eq!(whole, pieces, "cuts mean nothing");
    assert_eq!(parked, also_parked);
    match whole.iter().position(Result::is_err) {
        Some(failed) => assert_eq!(failed + 1, whole.len(), "nothing comes behind an error"),
        None => {
            assert_eq!(rest, other_rest);
            let framed: usize = whole.iter().flatten().map(length).sum();
            assert_eq!(framed + rest.len(), bytes.len(), "every byte is in one frame or left over");
            assert!(bytes.ends_with(&rest));
        }
    }
}

fn stream(role: u8) -> Deframer {
    match role {
        0 => Deframer::accepting(),
        1 => Deframer::opening(StreamName::Pair),
        2 => Deframer::opening(StreamName::Link),
        3 => Deframer::opening(StreamName::Data(StreamKind::Manifest)),
        4 => Deframer::opening(StreamName::Data(StreamKind::Bulk)),
        _ => Deframer::opening(StreamName::Data(StreamKind::Custom)),
    }
}

type Cut = (Vec<Result<Frame, FrameError>>, bool, Vec<u8>);

fn cut(mut deframer: Deframer, mut bytes: &[u8], sizes: &[usize]) -> Cut {
    let most = RECORD_HEAD + limits::RECORD_TEXT + TAG;
    let mut frames = Vec::new();
    for &size in sizes.iter().cycle() {
        let space = deframer.space();
        assert!(space.len() <= most, "no stage asks for more than a record");
        let count = size.min(space.len()).min(bytes.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        deframer.filled(count);
        frames.extend(deframer.by_ref());
    }
    assert!(deframer.next().is_none(), "it was drained");
    let parked = deframer.parked();
    let rest = [deframer.into_rest(), bytes.to_vec()].concat();
    (frames, parked, rest)
}

/// Bytes of a frame on the wire; and it has what its kind promises.
fn length(frame: &Frame) -> usize {
    match frame.content() {
        Content::Preamble(_) => 11,
        Content::Handshake(body) => {
            assert!((1..=limits::BOX_FRAME).contains(&body.len()));
            4 + body.len()
        }
        Content::Header(_) => HEADER,
        Content::Reply(reply) => reply.len(),
        Content::Record(record) => {
            assert!((RECORD_HEAD + TAG..=RECORD_HEAD + limits::RECORD_TEXT + TAG).contains(&record.len()));
            record.len()
        }
    }
}

/// The header of a stream.
pub fn header(data: &[u8]) {
    let Some(bytes) = data.first_chunk() else { return };
    if let Ok(header) = Header::decode(bytes) {
        assert_eq!(&header.encode(), bytes);
        assert_eq!(header.kind() == StreamKind::Control, header.counter() == 0);
        assert!(header.counter() < limits::STREAM_COUNTER);
    }
}

/// Records of one direction: the first byte says whose. Then again and again a byte says what comes: bytes as they are, a record
/// that an honest peer seals, or one that a peer with the right key seals against the rules.
pub fn record(data: &[u8]) {
    let mut tape = Tape::new(data);
    let key = stream_key(tape.byte());
    let (mut sealer, mut opener) = (RecordSealer::new(&key), RecordOpener::new(&key));
    while !tape.ended() {
        let ended = opener.finished();
        let before = opener.counter();
        let opened = match tape.byte() % 4 {
            0 => {
                let raw = tape.counted();
                let opened = opener.open(raw);
                assert!(opened.is_err(), "nobody guesses a tag");
                opened
            }
            1 | 2 => {
                let (kind, text) = (kind(tape.byte()), tape.counted());
                let Ok(record) = sealer.seal(kind, text) else { continue };
                let opened = opener.open(&record);
                assert_eq!(opened.as_ref().map(|(kind, text)| (*kind, &text[..])), Ok((kind, text)), "sealed is opened");
                opened
            }
            _ => {
                let (number, text) = (tape.byte(), tape.counted());
                let opened = opener.open(&crafted(&key, before, number, text));
                assert_eq!(opened.is_ok(), !ended && may_stand(key.side(), before, number, text.len()), "{number} {before}");
                // The honest sealer does not know of this record.
                sealer = RecordSealer::new(&key);
                opened
            }
        };
        match opened {
            Ok(_) => assert_eq!(opener.counter(), before + 1),
            Err(_) => {
                assert!(opener.open(&crafted(&key, before, 0, b"x")).is_err(), "an error is for ever");
                return;
            }
        }
        if sealer.counter() != opener.counter() {
            return after_crafted(opener, &key, tape);
        }
    }
}

/// Once the honest sealer is behind, only what is crafted goes on.
fn after_crafted(mut opener: RecordOpener, key: &StreamKey, mut tape: Tape<'_>) {
    while !tape.ended() {
        let (before, ended) = (opener.counter(), opener.finished());
        let (number, text) = (tape.byte() % 5, tape.counted());
        let opened = opener.open(&crafted(key, before, number, text));
        assert_eq!(opened.is_ok(), !ended && may_stand(key.side(), before, number, text.len()));
        if opened.is_err() {
            return;
        }
    }
}

fn kind(number: u8) -> RecordType {
    [RecordType::Data, RecordType::Fin, RecordType::Opening][usize::from(number % 3)]
}

/// The rule, in its own words: an opening record is the opener's first and nothing else is, and each type has its lengths.
fn may_stand(side: Side, counter: u64, number: u8, text: usize) -> bool {
    let first = side == Side::Opener && counter == 0;
    match number {
        0 => !first && (1..=65_536).contains(&text),
        1 => !first && text == 0,
        2 => first && (1..=491).contains(&text),
        _ => false,
    }
}

fn stream_key(choice: u8) -> StreamKey {
    let header = Header::new(StreamKind::Custom, SessionRef([1; 16]), 1, [2; 8]).expect("a legal header");
    if choice.is_multiple_of(2) {
        StreamKey::of_opener(&Secret::new([3; 32]), &header)
    } else {
        StreamKey::of_answerer(&Secret::new([3; 32]), &header, &[4; 16])
    }
}

/// A record that verifies, whatever it is.
fn crafted(key: &StreamKey, counter: u64, number: u8, text: &[u8]) -> Vec<u8> {
    let len = u32::try_from(text.len() + TAG).expect("short").to_be_bytes();
    let mut aad = Vec::new();
    put_lp(&mut aad, strings::RECORD_AAD);
    aad.extend_from_slice(key.bind());
    aad.extend_from_slice(&counter.to_be_bytes());
    aad.push(number);
    aad.extend_from_slice(&len);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    [&len[..], &[number], &seal_counted(&key.records(), nonce, text, &aad)].concat()
}
