use super::*;
use proptest::prelude::*;
use std::vec;

fn ranges() -> impl Strategy<Value = Ranges> {
    prop::collection::vec((0_u64..1 << 32, 1_u64..100), 0..9)
        .prop_map(|pairs| pairs.into_iter().map(|(start, count)| start..start + count).collect())
}

fn offer() -> impl Strategy<Value = ControlMessage> {
    (any::<[u8; 16]>(), 1_u32.., any::<u64>(), 16_u32..=22, any::<[u8; 32]>(), prop::option::of(".{0,60}")).prop_map(
        |(transfer, entries, bytes, power, manifest_digest, label)| {
            let (transfer, chunk_size) = (TransferId(transfer), 1 << power);
            ControlMessage::Offer(Offer { transfer, entries, bytes, chunk_size, manifest_digest, label })
        },
    )
}

fn receipt() -> impl Strategy<Value = ControlMessage> {
    let others = prop::collection::btree_map(any::<u32>(), 1_u8.., 0..20);
    (any::<[u8; 16]>(), any::<[u8; 32]>(), others, any::<bool>()).prop_map(|(transfer, digest, others, more)| {
        let others = others.into_iter().map(|(entry, outcome)| (entry, Outcome::of(outcome))).collect();
        ControlMessage::Receipt { transfer: TransferId(transfer), digest, others, more }
    })
}

fn message() -> impl Strategy<Value = ControlMessage> {
    let transfer = || any::<[u8; 16]>().prop_map(TransferId);
    prop_oneof![
        any::<u64>().prop_map(|nonce| ControlMessage::Ping { nonce }),
        any::<u64>().prop_map(|nonce| ControlMessage::Pong { nonce }),
        Just(ControlMessage::Unpair),
        (transfer(), 1_u8..=8).prop_map(|(transfer, count)| ControlMessage::OpenBulk { transfer, count }),
        offer(),
        (transfer(), ranges(), ranges()).prop_map(|(transfer, chunks, digests)| ControlMessage::Accept { transfer, chunks, digests }),
        (transfer(), 0_u64..12).prop_map(|(transfer, reason)| ControlMessage::Decline { transfer, reason: DeclineReason::of(reason) }),
        (transfer(), any::<u32>(), prop::collection::vec(any::<[u8; 32]>(), 1..9))
            .prop_map(|(transfer, first_entry, digests)| ControlMessage::FileDigests { transfer, first_entry, digests }),
        (transfer(), ranges()).prop_map(|(transfer, chunks)| ControlMessage::Stored { transfer, chunks }),
        (transfer(), any::<u32>()).prop_map(|(transfer, entry)| ControlMessage::SourceChanged { transfer, entry }),
        (transfer(), any::<u64>()).prop_map(|(transfer, reason)| ControlMessage::Cancel { transfer, reason: CancelReason::of(reason) }),
        transfer().prop_map(|transfer| ControlMessage::Pause { transfer }),
        transfer().prop_map(|transfer| ControlMessage::Resume { transfer }),
        receipt(),
        (1_u64.., any::<[u8; 16]>(), ".{0,16}", prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(seq, id, content_type, body)| ControlMessage::Message { seq, id, content_type, body }),
        (1_u64.., any::<[u8; 16]>(), 0_u64..9).prop_map(|(seq, id, state)| ControlMessage::MessageReceipt {
            seq,
            id,
            state: MessageState::of(state)
        }),
    ]
}

/// Length and body.
fn raw(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn read(bytes: &[u8], step: usize) -> Vec<Result<Item, ControlError>> {
    let mut reader = ControlReader::new();
    bytes
        .chunks(step)
        .flat_map(|text| {
            reader.push(text);
            reader.by_ref().collect::<Vec<_>>()
        })
        .collect()
}

proptest! {
    #[test]
    fn messages_come_back_however_records_cut_them(messages in prop::collection::vec(message(), 1..6), step in 1_usize..400) {
        let bytes = messages.iter().flat_map(ControlMessage::encode).collect::<Vec<_>>();
        let items = messages.into_iter().map(|message| Ok(Item::Message(message))).collect::<Vec<_>>();
        prop_assert_eq!(read(&bytes, step), items);
    }

    #[test]
    fn what_decodes_encodes_to_the_same(message in message(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut body = message.encode().split_off(HEAD);
        for (at, byte) in flips {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(Some(message)) = ControlMessage::decode(&body) {
            prop_assert_eq!(message.encode().split_off(HEAD), body);
        }
    }

    #[test]
    fn no_bytes_can_hurt(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..50) {
        prop_assert_eq!(read(&bytes, 1), read(&bytes, step));
    }
}

#[test]
// DATA-16.
fn unknown_types_are_passed_over() {
    let ping = ControlMessage::Ping { nonce: 7 };
    for unknown in [&[0x81, 0x05][..], &[0x82, 0x18, 26, 0x80], &[0x83, 0x18, 99, 0x41, 0, 0xf6], &[0x81, 0x00]] {
        let bytes = [raw(unknown), ping.encode()].concat();
        assert_eq!(read(&bytes, 3), [Ok(Item::Unknown), Ok(Item::Message(ping.clone()))]);
    }
    for (bad, why) in [
        (&[][..], Malformed::Truncated),
        (&[0x80], Malformed::Type),
        (&[0x01], Malformed::Type),
        (&[0x81, 0x41, 0], Malformed::Type),
        (&[0x81, 0x01], Malformed::Count),
        (&[0x82, 0x03, 0x00], Malformed::Count),
        (&[0x81, 0x03, 0x00], Malformed::Trailing),
        (&[0x82, 0x01, 0x20], Malformed::Type),
    ] {
        assert_eq!(read(&[raw(bad), ping.encode()].concat(), 2), [Err(ControlError::Malformed(why))], "{bad:02x?}");
    }
}

#[test]
// DATA-15.
fn only_application_messages_are_long() {
    let message = |len| ControlMessage::Message { seq: 1, id: [1; 16], content_type: "a".into(), body: vec![5; len] };
    for len in [limits::CONTROL_MESSAGE - 30, limits::CONTROL_MESSAGE, limits::MESSAGE_BODY] {
        assert_eq!(read(&message(len).encode(), limits::RECORD_TEXT), [Ok(Item::Message(message(len)))]);
    }
    let too_much = message(limits::MESSAGE_BODY + 1).encode();
    assert_eq!(read(&too_much, 9999), [Err(ControlError::Malformed(Malformed::Bounds))]);
    assert_eq!(read(&message(limits::MESSAGE_BODY + 2000).encode(), 9999), [Err(ControlError::TooLong)]);
    // The length alone, then the first byte that differs, are enough to refuse.
    assert_eq!(read(&[0, 1, 0, 1], 4), []);
    assert_eq!(read(&[0, 1, 0, 1, 0x85, 0x18], 1), []);
    assert_eq!(read(&[0, 1, 0, 1, 0x85, 0x18, 0x21], 1), [Err(ControlError::TooLong)]);
    assert_eq!(read(&[0, 1, 0, 1, 0x84], 1), [Err(ControlError::TooLong)]);
    assert_eq!(read(&[0, 1, 0, 0, 0x84], 1), []);
    assert_eq!(read(&[0xff; 4], 4), [Err(ControlError::TooLong)]);
}

#[test]
// DATA-17, XFER-9.
fn bounds_of_the_table() {
    let transfer = TransferId([1; 16]);
    let refused = |message: ControlMessage| ControlMessage::decode(&message.encode()[HEAD..]) == Err(Malformed::Bounds);
    let offer = |entries, chunk_size, label: usize| {
        let label = Some("x".repeat(label));
        ControlMessage::Offer(Offer { transfer, entries, bytes: 0, chunk_size, manifest_digest: [0; 32], label })
    };
    assert!(!refused(offer(1, 1 << 16, 255)) && !refused(offer(u32::MAX, 1 << 22, 0)));
    assert!(refused(offer(0, 1 << 16, 0)) && refused(offer(1, 1 << 16, 256)));
    assert!([0, 1, 1 << 15, 1 << 23, (1 << 16) + 1, 3 << 16].into_iter().all(|chunk_size| refused(offer(1, chunk_size, 0))));
    assert!([0, 9, 255].into_iter().all(|count| refused(ControlMessage::OpenBulk { transfer, count })));
    let digests = |count| ControlMessage::FileDigests { transfer, first_entry: 0, digests: vec![[1; 32]; count] };
    assert!(!refused(digests(1024)) && refused(digests(0)) && refused(digests(1025)));
    let receipt = |others| ControlMessage::Receipt { transfer, digest: [0; 32], others, more: false };
    let failed = |count| (0..count).map(|entry| (entry, Outcome::Failed)).collect::<Vec<_>>();
    assert!(!refused(receipt(failed(1024))) && refused(receipt(failed(1025))));
    assert!(refused(receipt(vec![(1, Outcome::Stored)])), "what was stored is not listed");
    assert!(refused(receipt(vec![(1, Outcome::Failed), (1, Outcome::Skipped)])), "each entry once");
    assert!(refused(receipt(vec![(2, Outcome::Failed), (1, Outcome::Skipped)])), "ascending");
    assert!(refused(ControlMessage::Message { seq: 0, id: [0; 16], content_type: String::new(), body: vec![] }));
    assert!(refused(ControlMessage::Message { seq: 1, id: [0; 16], content_type: "x".repeat(65), body: vec![] }));
    assert!(refused(ControlMessage::MessageReceipt { seq: 0, id: [0; 16], state: MessageState::Delivered }));
}

#[test]
// DATA-12.
fn a_stream_that_ends_inside_a_message_shows() {
    let mut reader = ControlReader::new();
    assert!(reader.is_whole());
    reader.push(&ControlMessage::Unpair.encode()[..5]);
    assert!(reader.next().is_none() && !reader.is_whole());
    reader.push(&ControlMessage::Unpair.encode()[5..]);
    assert_eq!(reader.next(), Some(Ok(Item::Message(ControlMessage::Unpair))));
    assert!(reader.next().is_none() && reader.is_whole());
}
