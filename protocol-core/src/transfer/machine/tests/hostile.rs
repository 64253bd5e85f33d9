//! What a peer does that lies, floods or breaks rules.

use super::*;
use crate::session::record::RecordOpener;
use crate::session::stream::Header;
use crate::wire::control::Offer;

fn offer(id: u8) -> Offer {
    Offer { transfer: TransferId([id; 16]), entries: 1, bytes: 5, chunk_size: CHUNK, manifest_digest: [0; 32], label: None }
}

fn say(world: &mut World, to: harness::Who, message: ControlMessage) -> Result<(), Violation> {
    world.call(to, |transfers, cx| transfers.on_control(cx, to.other().device(), message))
}

/// What a side was told last about a transfer of this id.
fn last_decline(world: &World, id: u8) -> Option<DeclineReason> {
    world.told.iter().rev().find_map(|(_, message)| match message {
        ControlMessage::Decline { transfer, reason } if *transfer == TransferId([id; 16]) => {
            Some(DeclineReason::from_number(reason.number()))
        }
        _ => None,
    })
}

#[test]
// XFER-11.
fn wrong_digests_are_never_published() {
    let mut world = accepted(tree());
    world.faults.wrong_digests = true;
    world.run();
    // The sender sees a receipt of failures, which is right, whatever it said before.
    world.check_ended();
    assert!(world.is_done(R));
    for (number, (outcome, digest)) in world.outcomes(R) {
        let entry = &world.entries[number as usize];
        let failed = entry.kind == EntryKind::File && entry.size > 0;
        assert_eq!(outcome, if failed { Outcome::Failed } else { Outcome::Stored });
        assert!(digest.is_none() || !failed);
        assert_eq!(world.published.contains_key(&number), !failed);
    }
}

#[test]
// DATA-11.
fn forged_chunks_reset_their_stream_and_are_asked_for_again() {
    let mut world = accepted(tree());
    world.faults.corrupt = true;
    while world.sides[&R].forgeries == 0 {
        assert!(world.step());
    }
    world.faults.corrupt = false;
    world.run();
    arrived_whole(&world);
}

#[test]
fn forgeries_without_end_end_the_transfer() {
    let mut world = accepted(tree());
    world.faults.corrupt = true;
    world.run();
    world.check_ended();
    assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::Integrity)));
    assert!(world.published.is_empty());
}

#[test]
// XFER-13.
fn lying_receipts_are_violations() {
    let mut digest = [0; 32];
    let lies = [
        ("another digest", Vec::new(), false),
        ("no such entry", vec![(12, Outcome::Skipped)], false),
        ("a part without content", vec![], true),
    ];
    for (what, others, more) in lies {
        let mut world = accepted(tree());
        world.step_until(S, "Sending");
        world.run_until_sent();
        digest[0] += 1;
        let receipt = ControlMessage::Receipt { transfer: world.key(S).unwrap().id, digest, others, more };
        assert_eq!(say(&mut world, S, receipt), Err(Violation), "{what}");
        assert_eq!(world.failure(S), Some(TransferFailure::Violation), "{what}");
        world.lose_session();
        world.run();
        world.check_ended();
    }
}

#[test]
fn a_receipt_for_what_was_not_sent_is_a_violation() {
    let mut world = accepted(tree());
    world.step_until(S, "Sending");
    let key = world.key(S).unwrap();
    // The digest that would be right if all had arrived.
    let all = |number: u32| Some(blake3::hash(&world.sources[number as usize]).into());
    let (digest, _) = entries::sum_up(key, &world.manifest, |_| Outcome::Stored, all);
    let receipt = ControlMessage::Receipt { transfer: key.id, digest, others: vec![], more: false };
    assert_eq!(say(&mut world, S, receipt), Err(Violation));
    assert_eq!(world.failure(S), Some(TransferFailure::Violation));
}

#[test]
// XFER-14.
fn parts_of_a_receipt_ascend_and_agree() {
    let part = |id, digest, entry, more| ControlMessage::Receipt {
        transfer: id,
        digest: [digest; 32],
        others: vec![(entry, Outcome::Skipped)],
        more,
    };
    for (digest, entry) in [(1, 3), (1, 2), (2, 4)] {
        let mut world = accepted(tree());
        world.step_until(S, "Sending");
        let id = world.key(S).unwrap().id;
        assert_eq!(say(&mut world, S, part(id, 1, 3, true)), Ok(()));
        assert_eq!(say(&mut world, S, part(id, digest, entry, true)), Err(Violation));
    }
}

#[test]
fn ranges_beyond_the_transfer_are_violations() {
    let chunks = World::new(tree()).manifest.layout().chunks();
    let entries = tree().len() as u64;
    let message: [fn(TransferId, Ranges, Ranges) -> ControlMessage; 2] = [
        |transfer, chunks, digests| ControlMessage::Accept { transfer, chunks, digests },
        |transfer, chunks, _| ControlMessage::Stored { transfer, chunks },
    ];
    for (at, (named, digests, fine)) in [
        (Ranges::from(0..chunks), Ranges::from(0..entries), true),
        (Ranges::from(0..chunks + 1), Ranges::new(), false),
        (Ranges::from(u64::MAX - 1..u64::MAX), Ranges::new(), false),
        (Ranges::new(), Ranges::from(0..entries + 1), false),
    ]
    .into_iter()
    .enumerate()
    {
        for (which, message) in message.iter().enumerate() {
            let mut world = accepted(tree());
            world.step_until(S, "Sending");
            let id = world.key(S).unwrap().id;
            let fine = fine || (at == 3 && which == 1);
            let said = say(&mut world, S, message(id, named.clone(), digests.clone()));
            assert_eq!(said, if fine { Ok(()) } else { Err(Violation) });
            assert_eq!(world.failure(S).is_some(), !fine);
        }
    }
}

#[test]
// XFER-15.
fn what_was_not_sent_cannot_become_durable() {
    let mut world = accepted(tree());
    world.step_until(S, "Sending");
    let id = world.key(S).unwrap().id;
    let chunks = Ranges::from(0..world.manifest.layout().chunks());
    assert_eq!(say(&mut world, S, ControlMessage::Stored { transfer: id, chunks }), Ok(()));
    assert!(world.sides[&S].events.iter().all(|event| !matches!(event, Event::Progress { durable: 1.., .. })));
    world.run();
    arrived_whole(&world);
}

#[test]
fn asking_for_the_same_chunks_without_end_ends_the_transfer() {
    let mut world = accepted(tree());
    world.step_until(S, "Sending");
    let id = world.key(S).unwrap().id;
    world.run_until_sent();
    let chunks = Ranges::from(0..world.manifest.layout().chunks());
    for asked in 0.. {
        let again = ControlMessage::Accept { transfer: id, chunks: chunks.clone(), digests: Ranges::new() };
        say(&mut world, S, again).unwrap();
        if world.state(S) == "over" {
            assert!(asked <= limits::FRUITLESS_ACCEPTS);
            break;
        }
        assert!(world.sides[&S].opened < 2 + limits::BULK_STREAMS);
    }
    assert_eq!(world.failure(S), Some(TransferFailure::CancelledHere(CancelReason::Policy)));
}

#[test]
// XFER-18.
fn a_flood_of_offers_is_declined() {
    let mut world = World::new(tree());
    world.connect();
    for id in 0..100 {
        say(&mut world, R, ControlMessage::Offer(offer(id))).unwrap();
    }
    assert_eq!(world.sides[&R].transfers.receivers.len(), limits::OPEN_OFFERS);
    assert_eq!(last_decline(&world, 99), Some(DeclineReason::Busy));
    assert_eq!(last_decline(&world, 0), None);
    // Pages that never come do not hold a place for ever.
    world.queue.clear();
    world.run();
    world.check_ended();
    assert_eq!(last_decline(&world, 0), Some(DeclineReason::Busy));
}

#[test]
// LIM-4.
fn a_flood_of_open_bulk_opens_eight() {
    let mut world = World::new(tree());
    world.connect_tcp(R);
    world.offer();
    world.accept();
    world.step_until(R, "Receiving");
    let id = world.key(R).unwrap().id;
    for _ in 0..100 {
        say(&mut world, R, ControlMessage::OpenBulk { transfer: id, count: 8 }).unwrap();
    }
    let wanted = world.queue.iter().filter(|action| matches!(action, harness::Action::Open(_, _, StreamKind::Bulk))).count();
    assert_eq!(wanted, limits::BULK_STREAMS);
    world.run();
    arrived_whole(&world);
}

#[test]
// XFER-19.
fn one_id_names_one_transfer() {
    let mut world = World::new(tree());
    world.connect();
    let key = world.offer();
    // The receiver of it offers something under its id.
    let mut same = offer(0);
    same.transfer = key.id;
    say(&mut world, S, ControlMessage::Offer(same.clone())).unwrap();
    assert!(world.told.iter().any(|(who, message)| *who == S && matches!(message, ControlMessage::Decline { .. })));
    assert!(world.sides[&S].transfers.receivers.is_empty());
    // The sender offers something else under it, while it runs.
    world.accept();
    world.step_until(R, "Receiving");
    say(&mut world, R, ControlMessage::Offer(same)).unwrap();
    let mismatch = |(who, message): &(harness::Who, ControlMessage)| {
        *who == R && matches!(message, ControlMessage::Decline { reason, .. } if reason.number() == DeclineReason::Mismatch.number())
    };
    assert!(world.told.iter().any(mismatch));
    assert_eq!(world.state(R), "Receiving");
}

#[test]
fn a_repeated_offer_is_answered_alike() {
    let mut world = World::new(tree());
    world.connect();
    world.offer();
    world.accept();
    world.step_until(R, "Receiving");
    let offered = world.told.iter().find_map(|(_, message)| match message {
        ControlMessage::Offer(offer) => Some(offer.clone()),
        _ => None,
    });
    let accepts = |world: &World| world.told.iter().filter(|(_, message)| matches!(message, ControlMessage::Accept { .. })).count();
    let before = accepts(&world);
    say(&mut world, R, ControlMessage::Offer(offered.unwrap())).unwrap();
    assert_eq!(accepts(&world), before + 1);
    world.run();
    arrived_whole(&world);
    let asked = world.sides[&R].events.iter().filter(|event| matches!(event, Event::Offered { .. })).count();
    assert_eq!(asked, 1, "the owner is asked once");
}

#[test]
// XFER-19.
fn an_offer_that_is_repeated_without_end_ends_the_transfer() {
    let mut world = accepted(tree());
    world.step_until(R, "Receiving");
    let offered = offer_of(&world.manifest);
    let offered = Offer { transfer: world.key(R).unwrap().id, ..offered };
    let accepts = |world: &World| world.told.iter().filter(|(_, message)| matches!(message, ControlMessage::Accept { .. })).count();
    let before = accepts(&world);
    for _ in 0..limits::REPEATED_OFFERS {
        say(&mut world, R, ControlMessage::Offer(offered.clone())).unwrap();
    }
    assert_eq!(accepts(&world), before + limits::REPEATED_OFFERS as usize);
    say(&mut world, R, ControlMessage::Offer(offered)).unwrap();
    assert_eq!(accepts(&world), before + limits::REPEATED_OFFERS as usize);
    world.run();
    world.check_ended();
    assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::Policy)));
}

#[test]
fn digests_are_told_again_only_so_often() {
    let mut world = accepted(tree());
    world.step_until(S, "Sending");
    world.run_until_sent();
    let id = world.key(S).unwrap().id;
    let digests = Ranges::from(0..u64::from(world.manifest.len()));
    let told = |world: &World| {
        let told = world.told.iter().filter_map(|(_, message)| match message {
            // Zeros fill the places of entries without a digest.
            ControlMessage::FileDigests { digests, .. } => Some(digests.iter().filter(|digest| **digest != [0; 32]).count()),
            _ => None,
        });
        told.sum::<usize>()
    };
    let once = told(&world);
    for _ in 0..10 * limits::FRUITLESS_ACCEPTS {
        let again = ControlMessage::Accept { transfer: id, chunks: Ranges::new(), digests: digests.clone() };
        say(&mut world, S, again).unwrap();
    }
    assert_eq!(world.failure(S), Some(TransferFailure::CancelledHere(CancelReason::Policy)));
    assert!(told(&world) <= once + (limits::FRUITLESS_ACCEPTS as usize + 1) * world.manifest.len() as usize);
}

#[test]
fn offers_past_a_limit_are_declined_at_once() {
    let too_large = |change: fn(&mut Offer)| {
        let mut world = World::new(tree());
        world.connect();
        let mut offer = offer(1);
        change(&mut offer);
        say(&mut world, R, ControlMessage::Offer(offer)).unwrap();
        assert!(world.sides[&R].transfers.receivers.is_empty() && world.sides[&R].timers.next().is_none());
        last_decline(&world, 1)
    };
    assert_eq!(too_large(|offer| offer.entries = limits::MANIFEST_ENTRIES + 1), Some(DeclineReason::TooLarge));
    assert_eq!(too_large(|offer| offer.bytes = limits::TRANSFER_BYTES), Some(DeclineReason::TooLarge));
}

/// Offers `offer` and sends `pages`, sealed, on a stream of its own.
fn read(offer: &Offer, pages: &[&[u8]], fin: bool) -> World {
    let mut world = World::new(tree());
    world.connect();
    say(&mut world, R, ControlMessage::Offer(offer.clone())).unwrap();
    let key = TransferKey { device: S.device(), direction: Direction::Incoming, id: offer.transfer };
    let header = Header::new(StreamKind::Manifest, crate::ids::SessionRef([7; 16]), 1, [0; 8]).unwrap();
    let stream_key = || StreamKey::of_answerer(&crate::crypto::secret::Secret::new([1; 32]), &header, &[2; 16]);
    let mut sealer = RecordSealer::new(&stream_key());
    let half = DataHalf::ReceiveRecords(RecordOpener::new(&stream_key()));
    let data = DataStream { stream: StreamId(1), ours: false, half, aead: Aead::ChaCha20Poly1305 };
    world.call(R, |transfers, cx| transfers.on_data_stream(cx, key, StreamKind::Manifest, data));
    let mut records: Vec<_> = pages.iter().map(|page| sealer.seal(crate::session::record::RecordType::Data, page).unwrap()).collect();
    if fin {
        records.push(sealer.seal(crate::session::record::RecordType::Fin, &[]).unwrap());
    }
    for record in records {
        world.call(R, |transfers, cx| transfers.on_record(cx, StreamId(1), record));
    }
    world
}

fn offer_of(manifest: &Manifest) -> Offer {
    Offer {
        transfer: TransferId([1; 16]),
        entries: manifest.len(),
        bytes: manifest.bytes(),
        chunk_size: manifest.chunk_size(),
        manifest_digest: *manifest.digest(),
        label: None,
    }
}

#[test]
// XFER-7.
fn manifests_that_lie_are_declined_before_anything_else() {
    let manifest = Manifest::build(tree(), CHUNK).unwrap();
    let pages: Vec<_> = manifest.pages().collect();
    let right = offer_of(&manifest);
    assert_eq!(read(&right, &pages, true).state(R), "Inspecting");
    let lies: [fn(&mut Offer); 5] = [
        |offer| offer.entries += 1,
        |offer| offer.entries -= 1,
        |offer| offer.bytes += 1,
        |offer| offer.manifest_digest[0] ^= 1,
        |offer| offer.chunk_size *= 2,
    ];
    for lie in lies {
        let mut offer = right.clone();
        lie(&mut offer);
        let world = read(&offer, &pages, true);
        assert_eq!(last_decline(&world, 1), Some(DeclineReason::Mismatch));
        assert_eq!(world.state(R), "over");
        assert!(world.sides[&R].ops.is_empty() && world.sides[&R].events.is_empty(), "nothing was touched, nobody asked");
        assert_eq!(world.sides[&R].timers.next(), None);
    }
    let world = read(&right, &[b"\x81\x00"], false);
    assert_eq!(last_decline(&world, 1), Some(DeclineReason::UnsafeManifest));
}

fn bulk_stream(world: &mut World, stream: u64, ours: bool) {
    let key = world.key(R).unwrap();
    let header = Header::new(StreamKind::Bulk, crate::ids::SessionRef([7; 16]), stream, [0; 8]).unwrap();
    let half = DataHalf::ReceiveChunks(StreamKey::of_opener(&crate::crypto::secret::Secret::new([1; 32]), &header));
    let data = DataStream { stream: StreamId(stream), ours, half, aead: Aead::ChaCha20Poly1305 };
    world.call(R, |transfers, cx| transfers.on_data_stream(cx, key, StreamKind::Bulk, data));
}

// LIM-4.
#[test]
fn streams_count_against_who_opened_them() {
    let manifest = Manifest::build(tree(), CHUNK).unwrap();
    let pages: Vec<_> = manifest.pages().collect();
    let mut world = read(&offer_of(&manifest), &pages, true);
    world.settle();
    world.accept();
    world.settle();
    for stream in 10..10 + 2 * limits::BULK_STREAMS as u64 {
        bulk_stream(&mut world, stream, stream % 2 == 0);
    }
    assert_eq!(world.sides[&R].resets, 0);
    bulk_stream(&mut world, 50, false);
    assert_eq!(world.sides[&R].resets, 1, "the ninth of the peer");
}

#[test]
fn bulk_streams_wait_for_acceptance_and_are_few() {
    let manifest = Manifest::build(tree(), CHUNK).unwrap();
    let pages: Vec<_> = manifest.pages().collect();
    let mut world = read(&offer_of(&manifest), &pages, true);
    for stream in 10..30 {
        bulk_stream(&mut world, stream, false);
    }
    assert_eq!(world.sides[&R].resets, 20 - limits::EARLY_STREAMS);
    world.settle();
    assert!(world.no_bulk(), "nothing is read before acceptance");
    world.accept();
    world.settle();
    assert!(!world.no_bulk());
}

#[test]
// DATA-24.
fn a_silent_sender_is_given_up() {
    let mut world = accepted(tree());
    world.step_until(R, "Receiving");
    // From here on the sender says and does nothing.
    world.call(S, |transfers, cx| transfers.on_forget(cx, R.device()));
    while world.state(R) != "over" {
        world.queue.retain(|action| !matches!(action, harness::Action::Message(S, _)));
        assert!(world.step() || world.tick());
    }
    world.run();
    world.check_ended();
    assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::Io)));
    let accepts = world.told.iter().filter(|(_, message)| matches!(message, ControlMessage::Accept { .. })).count();
    assert_eq!(accepts as u32, 1 + limits::FRUITLESS_ROUNDS);
}
