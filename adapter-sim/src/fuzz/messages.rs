//! Everything in CBOR: accepted exactly if it encodes again to the same bytes.

use protocol_core::crypto::aead;
use protocol_core::crypto::secret::Secret;
use protocol_core::info::advert::{Advert, BUCKET};
use protocol_core::info::{DeviceInfo, TransportInfo, TransportKind};
use protocol_core::limits;
use protocol_core::session::stream::Opening;
use protocol_core::transfer::ranges::Ranges;
use protocol_core::wire::cbor::{self, Malformed, Reader};
use protocol_core::wire::control::{ControlMessage, ControlReader, Item};
use protocol_core::wire::handshake::{Accept, Challenge, Complete, Finish, Hello, Notice, PairingRequest, Params, Response};
use protocol_core::wire::header::StreamKind;

use super::tape::{Counter, Tape};

/// The strict pass and the reader: they agree on what is canonical, and what was read writes the same bytes.
pub fn cbor(data: &[u8]) {
    match cbor::skip(data) {
        Ok(len) => {
            let item = &data[..len];
            assert_eq!(cbor::check(data).is_ok(), len == data.len(), "exactly one item passes");
            assert_eq!(cbor::check(&item[..len - 1]), Err(Malformed::Truncated), "an item has one end");
            assert_eq!(written_again(item), item, "canonical");
        }
        Err(why) => {
            assert_eq!(cbor::check(data), Err(why));
            assert!(Reader::new(data).is_err(), "the reader takes nothing else");
        }
    }
}

/// Reads an item field by field and writes each in its shortest form.
fn written_again(item: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(item).expect("it passed before");
    let mut out = Vec::new();
    while reader.position() < item.len() {
        let first = item[reader.position()];
        match first >> 5 {
            0 => put_head(&mut out, 0, reader.u64().expect("a number")),
            1 => match reader.i64() {
                Ok(number) => put_head(&mut out, 1, u64::try_from(!number).expect("below zero")),
                Err(_) => return item.to_vec(), // Below what fits in 64 bits with a sign: no field of ours.
            },
            2 => {
                let bytes = reader.bytes(usize::MAX).expect("bytes");
                put_head(&mut out, 2, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            3 => {
                let text = reader.text(usize::MAX).expect("a text");
                put_head(&mut out, 3, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            4 => put_head(&mut out, 4, reader.array().expect("an array")),
            _ => match reader.or_null(Reader::bool).expect("a simple value") {
                Some(value) => out.push(0xf4 + u8::from(value)),
                None => out.push(0xf6),
            },
        }
    }
    out
}

fn put_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let (info, len) = match value {
        0..24 => (u8::try_from(value).unwrap_or(0), 0),
        24..0x100 => (24, 1),
        0x100..0x1_0000 => (25, 2),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | info);
    out.extend_from_slice(&value.to_be_bytes()[8 - len..]);
}

macro_rules! same_again {
    ($message:ty, $body:expr) => {
        if let Ok(message) = <$message>::decode($body) {
            assert_eq!(message.encode(), $body, stringify!($message));
        }
    };
}

/// The bodies of both handshakes. The first byte says which.
pub fn handshake(data: &[u8]) {
    let mut tape = Tape::new(data);
    let kind = tape.byte() % 9;
    let body = tape.rest();
    match kind {
        0 => same_again!(PairingRequest, body),
        1 => same_again!(Challenge, body),
        2 => same_again!(Response, body),
        3 => same_again!(Complete, body),
        4 => same_again!(Hello, body),
        5 => same_again!(Accept, body),
        6 => same_again!(Finish, body),
        7 => same_again!(Notice, body),
        _ => same_again!(Params, body),
    }
}

/// DeviceInfo, as it comes; and one with any texts, cut to its bounds.
pub fn info(data: &[u8]) {
    if let Ok(info) = DeviceInfo::decode(data) {
        assert_eq!(info.encode(), data);
        assert_eq!(info.clone().bounded(), info, "what is accepted is within the bounds");
        assert_safe(&info.shown_name());
    }
    let mut tape = Tape::new(data);
    let mut info =
        DeviceInfo { name: text(&mut tape), os: text(&mut tape), app: text(&mut tape), caps: tape.number(), transports: Vec::new() };
    for _ in 0..tape.below(6) {
        let kind = if tape.byte().is_multiple_of(2) { TransportKind::Tcp } else { TransportKind::Libp2p };
        let addresses = (0..tape.below(20)).map(|_| text(&mut tape)).collect();
        let relay = tape.byte().is_multiple_of(2).then(|| text(&mut tape));
        info.transports.push(TransportInfo { kind, id: tape.take(38).to_vec(), addresses, relay });
    }
    let bounded = info.bounded();
    assert_eq!(DeviceInfo::decode(&bounded.encode()).as_ref(), Ok(&bounded), "what is told is accepted");
    assert_safe(&bounded.shown_name());
}

fn text(tape: &mut Tape<'_>) -> String {
    String::from_utf8_lossy(tape.counted()).into_owned()
}

/// No control character and no bidirectional one reaches a screen.
fn assert_safe(name: &str) {
    let harmful = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!name.contains(harmful), "{name:?}");
    assert!(name.trim() == name && !name.contains("  "), "{name:?}");
}

/// Adverts: as bytes, as a body under the right key, and as a body that someone with the key padded as they like.
pub fn advert(data: &[u8]) {
    let (key, aad) = (Secret::new([7; 32]), b"who and where");
    let mut tape = Tape::new(data);
    match tape.byte() % 3 {
        0 => {
            let body = tape.rest();
            let Ok(advert) = Advert::decode(body) else { return };
            assert_eq!(advert.encode(), body);
            let sealed = advert.seal(&key, aad, &mut Counter(0)).expect("this source never fails");
            assert_eq!(Advert::open(&sealed, &key, aad).as_ref(), Ok(&advert));
            assert_eq!(sealed.len() % BUCKET, 25 + 16, "the length tells little");
        }
        1 => assert!(Advert::open(tape.rest(), &key, aad).is_err(), "nobody guesses a tag"),
        _ => {
            let padded = tape.rest();
            let nonce = [9; 24];
            let sealed = [&[1][..], &nonce, &aead::seal_extended(&key, &nonce, padded, aad)].concat();
            if let Ok(advert) = Advert::open(&sealed, &key, aad) {
                assert_eq!(aead::pad(advert.encode(), BUCKET), padded, "one form only");
            }
        }
    }
}

/// Opening records. The first byte says of which kind of stream.
pub fn opening(data: &[u8]) {
    let mut tape = Tape::new(data);
    let kind = [StreamKind::Control, StreamKind::Manifest, StreamKind::Bulk, StreamKind::Custom][tape.below(4)];
    let body = tape.rest();
    if let Ok(opening) = Opening::decode(kind, body) {
        assert_eq!(opening.encode(), body);
        assert_eq!(opening.kind(), kind);
    }
}

/// Control messages: the same out of many records as out of one, and each encodes to the bytes that it came from. The first two
/// bytes say where records end.
pub fn control(data: &[u8]) {
    let mut tape = Tape::new(data);
    let sizes = [1 + tape.below(40), 1 + usize::from(tape.byte()) * 64];
    let stream = tape.rest();
    let (whole, end) = read_control([stream]);
    let mut pieces = Vec::new();
    let (mut rest, mut at) = (stream, 0);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes[at % 2].min(rest.len()));
        pieces.push(piece);
        (rest, at) = (behind, at + 1);
    }
    assert_eq!(read_control(pieces), (whole.clone(), end), "cuts mean nothing");

    let mut at = 0;
    for item in whole.iter().flatten() {
        let len = u32::from_be_bytes(stream[at..at + 4].try_into().expect("four bytes")) as usize;
        let message = &stream[at..at + 4 + len];
        assert!(len <= limits::LONG_CONTROL_MESSAGE);
        match item {
            Item::Message(known) => assert_eq!(known.encode(), message),
            Item::Unknown => assert_eq!(cbor::check(&message[4..]), Ok(()), "also what is not understood is canonical"),
        }
        at += 4 + len;
    }
}

type Read = Vec<Result<Item, protocol_core::wire::control::ControlError>>;

fn read_control<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Read, bool) {
    let mut reader = ControlReader::new();
    let mut read = Vec::new();
    for piece in pieces {
        reader.push(piece);
        read.extend(reader.by_ref());
    }
    let failed = read.iter().position(Result::is_err);
    assert!(failed.is_none_or(|at| at + 1 == read.len()), "an error comes once and last");
    // A reader that failed keeps nothing.
    let whole = failed.is_some() || reader.is_whole();
    (read, whole)
}

/// Sets of numbers, inside of a message: their form, and what sets promise.
pub fn ranges(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (one, two) = (decoded_ranges(tape.counted()), decoded_ranges(tape.rest()));
    for set in [&one, &two].into_iter().flatten() {
        assert!(set.pairs() <= limits::RANGE_PAIRS);
        let list: Vec<_> = set.iter().collect();
        assert!(list.iter().all(|range| range.start < range.end) && list.windows(2).all(|two| two[0].end < two[1].start));
        assert_eq!(set.count(), list.iter().map(|range| range.end - range.start).sum::<u64>());
        let mut joined = Ranges::new();
        for part in set.clone().split(3) {
            assert!(part.pairs() <= 3);
            joined.union(&part);
        }
        assert_eq!(&joined, set);
    }
    if let (Some(one), Some(two)) = (one, two) {
        let (mut both, mut rest) = (one.clone(), one.clone());
        both.union(&two);
        rest.subtract(&two);
        for edge in one.iter().chain(two.iter()).flat_map(|range| [range.start.saturating_sub(1), range.start, range.end - 1, range.end]) {
            assert_eq!(both.contains(edge), one.contains(edge) || two.contains(edge), "{edge}");
            assert_eq!(rest.contains(edge), one.contains(edge) && !two.contains(edge), "{edge}");
        }
        assert!(both.count() >= one.count().max(two.count()) && rest.count() <= one.count());
    }
}

fn decoded_ranges(array: &[u8]) -> Option<Ranges> {
    let body = [&[0x83, 0x14, 0x50][..], &[0; 16], array].concat();
    match ControlMessage::decode(&body) {
        Ok(Some(ControlMessage::Stored { transfer, chunks })) => {
            let again = ControlMessage::Stored { transfer, chunks: chunks.clone() }.encode();
            assert_eq!(&again[4..], body);
            Some(chunks)
        }
        Ok(other) => panic!("another message: {other:?}"),
        Err(_) => None,
    }
}
