use super::*;
use crate::effects::EntryNote;
use crate::faults::FileFault;
use crate::transfer::manifest::EntryKind;
use crate::transfer::ranges::Ranges;
use crate::transfer::receipt::Outcome;
use std::vec;
use std::vec::Vec;

mod again;
mod harness;
mod hostile;
mod matrix;
mod rest;

use self::harness::{CHUNK, R, S, World, entry, file, tree};

/// A tree that is offered and accepted, in a session where both can open streams.
fn accepted(entries: Vec<crate::transfer::manifest::Entry>) -> World {
    let mut world = World::new(entries);
    world.connect();
    world.offer();
    world.accept();
    world
}

fn arrived_whole(world: &World) {
    world.check_ended();
    assert!(world.is_done(S) && world.is_done(R), "{:?} {:?}", world.ends(S), world.ends(R));
    assert_eq!(world.published.len(), world.entries.len());
    for who in [S, R] {
        let outcomes = world.outcomes(who);
        assert_eq!(outcomes.len(), world.entries.len());
        for (number, (outcome, digest)) in outcomes {
            assert_eq!(outcome, Outcome::Stored);
            let number = number as usize;
            let is_file = world.entries[number].kind == EntryKind::File;
            assert_eq!(digest, is_file.then(|| blake3::hash(&world.sources[number]).into()), "the digest is that of the content");
        }
        let bytes = world.manifest.bytes();
        let last = world.sides[&who].events.iter().rev().find(|event| matches!(event, Event::Progress { .. }));
        if bytes > 0 {
            let key = world.sides[&who].events.last().map(|event| match event {
                Event::Done { transfer, .. } => *transfer,
                other => panic!("{other:?}"),
            });
            let all = Event::Progress { transfer: key.unwrap(), moved: bytes, durable: bytes, total: bytes };
            assert_eq!(last, Some(&all), "progress reaches the end exactly");
        }
    }
}

#[test]
fn a_tree_arrives_whole() {
    let mut world = accepted(tree());
    world.run();
    arrived_whole(&world);
    assert_eq!(world.sealed.len() as u64, world.manifest.layout().chunks(), "each chunk goes once");
    assert!(world.sides[&R].violation == world.sides[&S].violation && !world.sides[&S].violation, "neither accuses the other");
}

#[test]
// XFER-12.
fn links_and_directories_come_after_all_files() {
    let mut world = accepted(tree());
    world.run();
    let all = 0..world.manifest.len();
    let ops = &world.sides[&R].ops;
    let of = |wanted: FileOp| ops.iter().enumerate().filter(move |(_, (op, _))| *op == wanted);
    let finish: Vec<_> = of(FileOp::Finish).collect();
    assert!(matches!(finish[..], [(at, (_, entries))] if *entries == all && of(FileOp::Publish).all(|(file, _)| file < at)));
    let files = of(FileOp::Publish).flat_map(|(_, (_, entries))| entries.clone());
    assert!(files.into_iter().all(|number| world.entries[number as usize].kind == EntryKind::File));
    assert_eq!(world.sides[&R].ops.last(), Some(&(FileOp::Clear, 0..world.manifest.len())), "leftovers go at the end");
}

#[test]
// XFER-22.
fn whoever_dialled_on_tcp_opens_the_streams() {
    for dialler in [S, R] {
        let mut world = World::new(tree());
        world.connect_tcp(dialler);
        world.offer();
        world.accept();
        world.run();
        arrived_whole(&world);
        assert!(world.sides[&dialler].opened >= 2);
        assert_eq!(world.sides[&dialler.other()].opened, 0);
    }
}

#[test]
fn an_offer_waits_for_a_session() {
    let mut world = World::new(tree());
    world.offer();
    world.settle();
    assert_eq!((world.state(S), world.told.len()), ("Waiting", 0));
    assert!(world.sides[&S].transfers.wants_session(R.device()));
    world.connect();
    world.accept();
    world.run();
    arrived_whole(&world);
}

#[test]
fn an_offer_to_a_device_that_cannot_be_reached_ends() {
    let mut world = World::new(tree());
    world.offer();
    world.call(S, |transfers, cx| transfers.on_unreachable(cx, R.device(), TransferFailure::Lost));
    world.run();
    world.check_ended();
    assert_eq!(world.failure(S), Some(TransferFailure::Lost));
    assert!(!world.sides[&S].transfers.wants_session(R.device()));
}

#[test]
fn trees_without_content_arrive() {
    for entries in [
        vec![file("empty", 0)],
        vec![entry("d", EntryKind::Directory, 0)],
        vec![entry("d", EntryKind::Directory, 0), file("d/a", 0), entry("l", EntryKind::Symlink, 0)],
    ] {
        let mut world = accepted(entries);
        world.run();
        arrived_whole(&world);
        assert!(world.sealed.is_empty());
    }
}

#[test]
fn large_manifests_go_page_by_page() {
    let mut world = accepted((0..4000).map(|number| file(&std::format!("{number:0100}"), number % 700)).collect());
    assert!(world.manifest.pages().len() > limits::PAGES_AT_ONCE + 1);
    world.run();
    arrived_whole(&world);
    let digests = world.told.iter().filter(|(_, message)| matches!(message, ControlMessage::FileDigests { .. })).count();
    assert!(digests < 100, "digests of neighbours share a message: {digests}");
}

#[test]
fn large_transfers_have_two_streams() {
    for (size, streams) in [(limits::ONE_STREAM - 1, 1), (limits::ONE_STREAM, 2)] {
        let mut world = accepted(vec![file("large", size)]);
        while world.sealed.len() < 8 {
            assert!(world.step());
        }
        assert_eq!(world.sides[&S].opened, 1 + streams, "one for the manifest");
        let mut used: Vec<_> = world.sealed.iter().map(|(stream, _)| *stream).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), streams, "each carries something");
    }
}

#[test]
// XFER-1.
fn the_first_chunk_leaves_before_a_file_was_read_whole() {
    let mut world = accepted(vec![file("large", 20 * u64::from(CHUNK))]);
    while world.sealed.is_empty() {
        assert!(world.step());
    }
    assert!(world.told.iter().all(|(_, message)| !matches!(message, ControlMessage::FileDigests { .. })));
}

#[test]
fn what_the_policy_leaves_out_is_not_sent() {
    let mut world = World::new(tree());
    let number = 5;
    world.faults.notes.push((FileOp::Prepare, number, EntryNote::Skipped));
    world.faults.notes.push((FileOp::Prepare, 11, EntryNote::Failed(FileFault::Unsupported)));
    world.faults.notes.push((FileOp::Publish, 9, EntryNote::Renamed(b"e (1)".to_vec())));
    world.connect();
    world.offer();
    world.accept();
    world.run();
    world.check_ended();
    for who in [S, R] {
        let outcomes = world.outcomes(who);
        assert_eq!(outcomes[&number], (Outcome::Skipped, None));
        assert_eq!(outcomes[&11], (Outcome::Failed, None));
        assert_eq!(outcomes[&9].0, Outcome::Renamed);
        assert!(outcomes[&9].1.is_some());
        let Some(Event::Done { summary, .. }) = world.sides[&who].events.last() else { panic!() };
        assert_eq!((summary.files, summary.skipped, summary.renamed, summary.failed), (7, 1, 1, 1));
    }
    let large = world.manifest.layout().chunks_of(number);
    assert!(world.sealed.iter().all(|(_, chunk)| !large.contains(chunk)));
}

#[test]
fn a_renamed_directory_is_no_renamed_file() {
    let mut world = World::new(tree());
    for (number, path) in ["a (1)", "a (1)/0", "a (1)/1"].into_iter().enumerate() {
        let op = if number == 0 { FileOp::Finish } else { FileOp::Publish };
        world.faults.notes.push((op, number as u32, EntryNote::Renamed(path.into())));
    }
    world.connect();
    world.offer();
    world.accept();
    world.run();
    for who in [S, R] {
        assert_eq!(world.outcomes(who)[&0].0, Outcome::Renamed);
        let Some(Event::Done { summary, .. }) = world.sides[&who].events.last() else { panic!() };
        assert_eq!((summary.files, summary.renamed), (9, 2));
    }
}

#[test]
fn nothing_wanted_goes_straight_to_the_end() {
    let mut world = World::new(tree());
    world.faults.notes = (0..world.manifest.len()).map(|number| (FileOp::Prepare, number, EntryNote::Skipped)).collect();
    world.connect();
    world.offer();
    world.accept();
    world.run();
    world.check_ended();
    assert!(world.is_done(S) && world.is_done(R) && world.sealed.is_empty() && world.published.is_empty());
    assert!(world.outcomes(S).values().all(|&(outcome, _)| outcome == Outcome::Skipped));
}

#[test]
// XFER-16.
fn a_source_that_changes_fails_alone() {
    for (number, fault, outcome) in [
        (5, FileFault::Changed, Outcome::SourceChanged),
        (7, FileFault::NotFound, Outcome::Failed),
        (2, FileFault::Denied, Outcome::Failed),
    ] {
        for after in 0..4 {
            let mut world = accepted(tree());
            while world.sealed.len() < after {
                assert!(world.step());
            }
            let sealed = world.sealed.clone();
            world.faults.sources.insert(number, fault);
            world.run();
            world.check_ended();
            assert!(world.is_done(S) && world.is_done(R));
            let chunks = world.manifest.layout().chunks_of(number);
            let was_sent = chunks.clone().all(|chunk| sealed.iter().any(|(_, sent)| *sent == chunk));
            let expected = if was_sent { Outcome::Stored } else { outcome };
            assert_eq!(world.outcomes(S)[&number].0, expected);
            assert_eq!(world.published.contains_key(&number), was_sent, "never a mixture");
            assert_eq!(world.published.len() + usize::from(!was_sent), world.entries.len());
        }
    }
}

#[test]
fn what_cannot_be_written_fails_alone() {
    let mut world = accepted(tree());
    world.faults.writes.insert(5, FileFault::Io(5));
    world.faults.notes.push((FileOp::Sync, 9, EntryNote::Failed(FileFault::Io(5))));
    world.faults.notes.push((FileOp::Publish, 3, EntryNote::Failed(FileFault::Exists)));
    world.run();
    world.check_ended();
    assert!(world.is_done(S) && world.is_done(R));
    for who in [S, R] {
        for number in [3, 5, 9] {
            assert_eq!(world.outcomes(who)[&number], (Outcome::Failed, None));
        }
    }
    let published: Vec<u32> = world.published.keys().copied().collect();
    assert_eq!(world.published.len() + 3, world.entries.len(), "{published:?}");
    // XFER-15: a chunk is not stored if the disk did not take all of it.
    let layout = world.manifest.layout();
    let lost = [5, 9].into_iter().flat_map(|entry| layout.chunks_of(entry)).map(|chunk| chunk..chunk + 1).collect::<Ranges>();
    let kept = layout.bytes() - entries::bytes_of(&world.manifest, &lost);
    for who in [S, R] {
        let durable = |event: &Event| if let Event::Progress { durable, .. } = event { Some(*durable) } else { None };
        assert_eq!(world.sides[&who].events.iter().rev().find_map(durable), Some(kept));
    }
}

#[test]
fn a_full_disk_ends_the_transfer() {
    let full = FileFault::DiskFull;
    let faults: [fn(&mut harness::Faults); 5] = [
        |faults| faults.writes.extend([(7, FileFault::DiskFull)]),
        |faults| faults.notes.push((FileOp::Prepare, 7, EntryNote::Failed(FileFault::DiskFull))),
        |faults| faults.notes.push((FileOp::Sync, 7, EntryNote::Failed(FileFault::DiskFull))),
        |faults| faults.notes.push((FileOp::Publish, 7, EntryNote::Failed(FileFault::DiskFull))),
        |faults| faults.ops.push((FileOp::Sync, Failure::Disk(FileFault::DiskFull))),
    ];
    for fault in faults {
        let mut world = World::new(tree());
        fault(&mut world.faults);
        world.connect();
        world.offer();
        world.accept();
        world.run();
        world.check_ended();
        assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::DiskFull)), "{full}");
        assert_eq!(world.failure(S), Some(TransferFailure::CancelledThere(CancelReason::DiskFull)));
        assert!(world.discarded);
    }
}

// XFER-31.
#[test]
fn a_disk_that_fails_ends_the_transfer_and_gives_no_file_up() {
    for fault in [FileFault::Failing(5), FileFault::ReadOnly] {
        let faults: [&dyn Fn(&mut harness::Faults); 4] = [
            &|faults| faults.writes.extend([(7, fault)]),
            &|faults| faults.notes.push((FileOp::Prepare, 7, EntryNote::Failed(fault))),
            &|faults| faults.notes.push((FileOp::Sync, 7, EntryNote::Failed(fault))),
            &|faults| faults.notes.push((FileOp::Publish, 7, EntryNote::Failed(fault))),
        ];
        for prepare in faults {
            let mut world = World::new(tree());
            prepare(&mut world.faults);
            world.connect();
            world.offer();
            world.accept();
            world.run();
            world.check_ended();
            assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::Io)), "{fault}");
            assert_eq!(world.failure(S), Some(TransferFailure::CancelledThere(CancelReason::Io)));
            assert!(world.failure(R).is_some_and(TransferFailure::keeps_files));
        }
    }
}

// XFER-26, XFER-31.
#[test]
fn so_many_files_that_cannot_be_read_back_are_a_disk_that_fails() {
    for (unreadable, done) in [(limits::UNREADABLE_FILES, true), (limits::UNREADABLE_FILES + 1, false)] {
        let mut world = World::new((10..20).map(|number| file(&std::format!("f{number}"), u64::from(CHUNK))).collect());
        for entry in 0..10 {
            world.faults.notes.push((FileOp::Prepare, entry, EntryNote::Taken(Ranges::from(0..u64::from(CHUNK)).iter().collect())));
            let content = world.sources[entry as usize].clone();
            world.temporary.insert(entry, content);
        }
        world.faults.unreadable.extend(0..unreadable);
        world.connect();
        world.offer();
        world.accept();
        world.run();
        world.check_ended();
        assert_eq!(world.is_done(R), done, "{unreadable}");
        if done {
            assert_eq!(world.sealed.len(), unreadable as usize, "they alone are sent");
        } else {
            assert_eq!(world.failure(R), Some(TransferFailure::CancelledHere(CancelReason::Io)));
        }
    }
}

#[test]
fn no_place_for_files_declines_and_the_owner_hears_of_it() {
    for (fault, reason) in [(FileFault::NotFound, DeclineReason::Busy), (FileFault::DiskFull, DeclineReason::NoSpace)] {
        let mut world = World::new(tree());
        let failure = Failure::Disk(fault);
        world.faults.ops.push((FileOp::Inspect, failure));
        world.connect();
        let id = world.offer().id;
        world.run();
        world.check_ended();
        assert_eq!(world.failure(S), Some(TransferFailure::Declined(reason)));
        let manifest = Arc::clone(&world.manifest);
        let told = Event::OfferDeclined { transfer: World::key_at(R, id), label: None, manifest, failure };
        assert_eq!(world.sides[&R].events, [told]);
    }
}

#[test]
fn the_owner_may_decline() {
    let mut world = World::new(tree());
    world.connect();
    world.offer();
    world.step_until(R, "Asking");
    let key = world.key(R).unwrap();
    world.call(R, |transfers, cx| transfers.decline(cx, key, DeclineReason::User)).unwrap();
    assert_eq!(world.call(R, |transfers, cx| transfers.accept(cx, key)), Err(UnknownTransfer), "one answer");
    world.run();
    world.check_ended();
    assert_eq!(world.failure(S), Some(TransferFailure::Declined(DeclineReason::User)));
    assert_eq!(world.failure(R), Some(TransferFailure::Declined(DeclineReason::User)));
    assert!(world.published.is_empty() && world.sealed.is_empty());
}

/// Steps until the transfer is over.
fn steps() -> usize {
    let mut world = accepted(tree());
    (0..).find(|_| !world.step() && world.state(R) == "over").unwrap()
}

#[test]
// XFER-17.
fn a_cancel_at_any_moment_ends_once_on_both_sides() {
    for who in [S, R] {
        for after in 0..steps() {
            let mut world = accepted(tree());
            world.steps(after);
            let Some(key) = world.key(who) else { continue };
            let before = world.published.len();
            let cancelled = world.call(who, |transfers, cx| transfers.cancel(cx, key, CancelReason::User));
            world.run();
            world.check_ended();
            if cancelled.is_err() {
                assert!(who == R && world.is_done(R), "only what is through cannot be cancelled");
                continue;
            }
            assert_eq!(world.failure(who), Some(TransferFailure::CancelledHere(CancelReason::User)));
            assert_eq!(world.sides[&who].events.iter().filter(|event| matches!(event, Event::Done { .. })).count(), 0);
            if who == R {
                let under_way = world.sides[&R]
                    .ops
                    .iter()
                    .filter(|(op, _)| matches!(op, FileOp::Publish | FileOp::Finish))
                    .map(|(_, run)| run.len())
                    .sum::<usize>();
                assert!(world.published.len() <= before.max(under_way));
                assert_eq!(world.failure(S), Some(TransferFailure::CancelledThere(CancelReason::User)));
            }
            assert!(world.discarded);
        }
    }
}

#[test]
// XFER-21, XFER-28.
fn a_session_that_stays_away_ends_both_sides_and_keeps_what_is_durable() {
    for after in 0..steps() {
        let mut world = accepted(tree());
        world.steps(after);
        let clearing = world.state(R) == "Clearing" || world.is_done(R);
        world.lose_session();
        world.run();
        world.check_ended();
        assert!(world.discarded);
        // Who has all of it needs nobody for the rest.
        if !world.is_done(R) {
            assert!(!clearing, "what is durable stays so");
            assert_eq!(world.failure(R), Some(TransferFailure::Lost));
            assert_eq!(world.failure(S), Some(TransferFailure::Lost));
            assert!(world.sides[&R].ops.iter().all(|(op, _)| *op != FileOp::Discard));
        }
    }
}

#[test]
// XFER-21, XFER-25, XFER-27.
fn a_session_lost_at_any_moment_is_made_good_by_the_next() {
    for streams_too in [false, true] {
        for after in 0..steps() {
            let mut world = accepted(tree());
            world.steps(after);
            let done = world.is_done(S);
            world.lose_session();
            if streams_too {
                world.cut_streams();
            }
            world.settle();
            let durable = world.durable();
            let sealed = world.sealed.len();
            world.connect();
            world.run();
            arrived_whole(&world);
            let again: Vec<u64> = world.sealed[sealed..].iter().map(|(_, chunk)| *chunk).filter(|chunk| durable.contains(*chunk)).collect();
            assert!(again.is_empty(), "after {after}: durable chunks are sent again: {again:?}");
            let resumed = |who| world.sides[&who].events.iter().any(|event| matches!(event, Event::Resumed { .. }));
            assert!(done || resumed(S) || world.is_done(R), "after {after}");
        }
    }
}

#[test]
// XFER-26.
fn what_an_earlier_try_left_is_taken_over() {
    let chunk = u64::from(CHUNK);
    for (rotten, unreadable) in [(false, false), (true, false), (false, true)] {
        let mut world = World::new(tree());
        // Of the big file two chunks in its middle are here; a packed one of 40 000 bytes is whole; another has its name already.
        world.faults.notes.push((FileOp::Prepare, 5, EntryNote::Taken(Ranges::from(chunk..3 * chunk).iter().collect())));
        world.faults.notes.push((FileOp::Prepare, 7, EntryNote::Taken(Ranges::from(0..40_000).iter().collect())));
        let digest: [u8; 32] = blake3::hash(&world.sources[9]).into();
        world.faults.notes.push((FileOp::Prepare, 9, EntryNote::Kept { digest, renamed_to: None }));
        let mut big = vec![0; world.sources[5].len()];
        let here = CHUNK as usize..3 * CHUNK as usize;
        big[here.clone()].copy_from_slice(&world.sources[5][here]);
        big[CHUNK as usize] ^= u8::from(rotten);
        world.temporary.insert(5, big);
        if unreadable {
            world.faults.unreadable.push(5);
        }
        let packed = world.sources[7].clone();
        world.temporary.insert(7, packed);
        let whole = world.sources[9].clone();
        world.published.insert(9, whole);
        world.connect();
        world.offer();
        world.accept();
        world.run();
        world.check_ended();
        let first = world.manifest.layout().chunks_of(5).start;
        let there = [first + 1, first + 2, world.manifest.layout().chunks_of(9).start];
        let sent = there.map(|chunk| world.sealed.iter().filter(|(_, sent)| *sent == chunk).count());
        assert_eq!(sent, if rotten || unreadable { [1, 1, 0] } else { [0; 3] }, "what is here is not sent, unless it is spoilt");
        for who in [S, R] {
            assert!(world.is_done(who), "{rotten} {:?}", world.sides[&who].events);
            assert_eq!(world.outcomes(who)[&5].0, Outcome::Stored, "it is read back before it is believed");
            assert_eq!(world.outcomes(who)[&9], (Outcome::Stored, Some(digest)));
            let Some(Event::Done { summary, .. }) = world.sides[&who].events.last() else { panic!() };
            assert_eq!(summary.resumed, 3 * chunk + 40_000);
        }
    }
}

#[test]
// XFER-24.
fn who_leaves_says_so_to_a_peer_whose_session_goes_on() {
    for (who, other) in [(S, R), (R, S)] {
        for after in 0..steps() {
            let mut world = accepted(tree());
            world.steps(after);
            // Of what its owner has not seen a receiver tells no end, and what is all there is done.
            let waits = matches!(world.state(other), "Offered" | "Sending" | "Asking" | "Preparing" | "Receiving");
            let over = world.state(who) == "over";
            world.call(who, |transfers, cx| {
                transfers.on_leave(cx, other.device());
                transfers.on_session_over(cx, other.device(), TransferFailure::Lost);
            });
            world.run();
            world.check_ended();
            if waits && !over && !world.is_done(R) {
                assert_eq!(world.failure(other), Some(TransferFailure::CancelledThere(CancelReason::User)));
            }
        }
    }
}

#[test]
fn a_forgotten_device_ends_everything_when_its_files_rest() {
    for after in 0..steps() {
        let mut world = accepted(tree());
        world.steps(after);
        let before = world.state(R);
        for who in [S, R] {
            let over = world.state(who) == "over";
            world.call(who, |transfers, cx| transfers.on_forget(cx, who.other().device()));
            assert!(over || who == R || world.failure(S).is_some());
        }
        // Nobody is told before nothing can be written any more.
        let begun = matches!(before, "Asking" | "Preparing" | "Receiving");
        assert!(!begun || (world.state(R) == "Discarding" && world.failure(R).is_none()));
        world.run();
        world.check_ended();
        assert!(world.discarded);
        assert_eq!(world.failure(R).is_some(), begun);
    }
}

#[test]
// XFER-20.
fn cut_streams_are_made_good() {
    for after in 1..8 {
        let mut world = accepted(tree());
        world.faults.cut_after = Some(after);
        world.run();
        arrived_whole(&world);
        assert!(world.sides[&S].opened > 2);
    }
}

#[test]
fn streams_that_cannot_be_opened_end_the_transfer() {
    for kind in [StreamKind::Manifest, StreamKind::Bulk] {
        for tcp in [None, Some(S), Some(R)] {
            let mut world = World::new(tree());
            world.faults.closed = Some(kind);
            match tcp {
                None => world.connect(),
                Some(dialler) => world.connect_tcp(dialler),
            }
            world.offer();
            if kind == StreamKind::Bulk {
                world.accept();
            }
            world.run();
            world.check_ended();
            assert!(world.failure(S).is_some(), "{kind:?} {tcp:?}");
            assert!(world.published.values().all(Vec::is_empty));
        }
    }
}

#[test]
fn pause_stops_claims_and_resume_goes_on() {
    let mut world = accepted(tree());
    while world.sealed.len() < 2 {
        assert!(world.step());
    }
    let id = world.key(S).unwrap().id;
    let pause = ControlMessage::Pause { transfer: id };
    world.call(S, |transfers, cx| transfers.on_control(cx, R.device(), pause)).unwrap();
    let sealed = world.sealed.len();
    world.settle();
    // A run that was claimed is sealed to its end.
    assert!(world.sealed.len() <= sealed + 2 && (world.sealed.len() as u64) < world.manifest.layout().chunks());
    world.call(S, |transfers, cx| transfers.on_control(cx, R.device(), ControlMessage::Resume { transfer: id })).unwrap();
    world.run();
    arrived_whole(&world);
}

#[test]
fn progress_is_told_ten_times_a_second_at_most() {
    let mut world = accepted(vec![file("large", 300 * u64::from(CHUNK))]);
    world.run();
    arrived_whole(&world);
    for who in [S, R] {
        let told = world.sides[&who].events.iter().filter(|event| matches!(event, Event::Progress { .. })).count();
        assert!((1..=20).contains(&told), "{told}");
    }
}

#[test]
// XFER-10.
fn a_named_chunk_goes_again_only_in_a_newer_stream() {
    let mut world = accepted(tree());
    while world.sealed.len() < 4 {
        assert!(world.step());
    }
    let id = world.key(S).unwrap().id;
    let first = world.sealed[0];
    let again = ControlMessage::Accept { transfer: id, chunks: Ranges::from(first.1..first.1 + 1), digests: Ranges::new() };
    world.call(S, |transfers, cx| transfers.on_control(cx, R.device(), again)).unwrap();
    world.run();
    arrived_whole(&world);
    let streams: Vec<_> = world.sealed.iter().filter(|(_, chunk)| *chunk == first.1).map(|(stream, _)| *stream).collect();
    assert_eq!(streams.len(), 2, "once for each naming");
    assert_ne!(streams[0], streams[1]);
}

#[test]
// XFER-29.
fn what_a_sender_does_not_know_any_more_ends_with_its_next_offer() {
    let mut world = accepted(tree());
    while world.sealed.len() < 2 {
        assert!(world.step());
    }
    let first = world.key(R).unwrap();
    world.lose_session();
    world.cut_streams();
    world.settle();
    // The sender dies, and another life of its process offers something.
    world.sides.get_mut(&S).unwrap().transfers.senders.clear();
    world.sides.get_mut(&S).unwrap().timers = crate::timers::Timers::default();
    world.connect();
    world.offer();
    world.settle();
    let key = world.key(R).unwrap();
    assert_ne!(key, first);
    let lost = Event::Failed { transfer: first, reason: TransferFailure::Lost };
    assert!(world.sides[&R].events.contains(&lost), "{:?}", world.sides[&R].events);
    assert!(world.sides[&R].ops.iter().any(|(op, _)| *op == FileOp::Keep));
}

#[test]
// XFER-26, XFER-11.
fn what_shares_a_spoilt_chunk_gets_no_name_before_it_is_there_again() {
    let mut world = World::new(tree());
    // Two files that share a chunk are here whole; one of them is not what it was.
    for (number, spoilt) in [(2, false), (3, true)] {
        let size = world.entries[number as usize].size;
        world.faults.notes.push((FileOp::Prepare, number, EntryNote::Taken(Ranges::from(0..size).iter().collect())));
        let mut content = world.sources[number as usize].clone();
        content[0] ^= u8::from(spoilt);
        world.temporary.insert(number, content);
    }
    let layout = Arc::clone(world.manifest.layout());
    assert_eq!(layout.chunks_of(2), layout.chunks_of(3));
    let shared = layout.chunks_of(2).start;
    world.connect();
    world.offer();
    world.accept();
    let mut named = false;
    while world.step() || world.tick() {
        named |= world.published.contains_key(&2);
        let written = world.sealed.iter().filter(|(_, chunk)| *chunk == shared).count();
        assert!(!named || written > 0 || !world.told_spoilt(shared), "it is written to when it has its name");
    }
    arrived_whole(&world);
    assert_eq!(world.sealed.iter().filter(|(_, chunk)| *chunk == shared).count(), 1);
}
