//! What is told or thrown away between two sessions.

use super::harness::Action;
use super::*;
use crate::faults::Failure;
use core::mem::take;

/// All has arrived, the receipt is lost with its session, and another life of the sender offers the same: its receipt is on the way.
fn told_again() -> World {
    let mut world = accepted(tree());
    let id = world.key(S).unwrap().id;
    while !world.is_done(R) {
        assert!(world.step() || world.tick());
    }
    world.lose_session();
    world.cut_streams();
    world.settle();
    assert!(world.ends(S).is_empty());
    let side = world.sides.get_mut(&S).unwrap();
    side.transfers.senders.clear();
    side.timers = crate::timers::Timers::default();
    side.events.clear();
    world.connect();
    let manifest = Arc::clone(&world.manifest);
    world.call(S, |transfers, cx| transfers.offer(cx, R.device(), manifest, None, Some(id))).unwrap();
    while !world.queue.iter().any(is_receipt) {
        assert!(world.step());
    }
    world
}

const fn is_receipt(action: &Action) -> bool {
    matches!(action, Action::Message(S, ControlMessage::Receipt { .. }))
}

#[test]
// XFER-27.
fn a_receipt_may_come_again_while_files_are_read_for_it() {
    let mut world = told_again();
    let receipts: Vec<ControlMessage> = world.queue.iter().filter(|action| is_receipt(action)).map(message).collect();
    for receipt in receipts.into_iter().rev() {
        world.queue.push_front(Action::Message(S, receipt));
    }
    world.run();
    assert!(!world.sides[&S].violation && world.is_done(S), "{:?}", world.sides[&S].events);
    assert_eq!(world.outcomes(S).len(), world.entries.len());
}

fn message(action: &Action) -> ControlMessage {
    let Action::Message(_, message) = action else { panic!("no message") };
    message.clone()
}

#[test]
// XFER-13.
fn a_file_that_cannot_be_read_any_more_makes_no_liar_of_who_has_it() {
    let mut world = told_again();
    world.faults.notes.push((FileOp::Digest, 5, EntryNote::Failed(FileFault::Io(5))));
    world.run();
    assert!(!world.sides[&S].violation);
    assert_eq!(world.failure(S), Some(TransferFailure::CancelledHere(CancelReason::Source)));
}

#[test]
// XFER-13.
fn a_receipt_for_what_was_never_sent_is_a_lie() {
    let mut world = accepted(tree());
    world.faults.ops.push((FileOp::Digest, Failure::Disk(FileFault::Io(5))));
    let transfer = world.key(S).unwrap().id;
    while world.state(S) != "Sending" {
        assert!(world.step());
    }
    // Nothing has left, and the one file that failed was asked for.
    let digest = [7; 32];
    let receipt = ControlMessage::Receipt { transfer, digest, others: vec![], more: false };
    world.queue.push_front(Action::Message(S, receipt));
    world.steps(1);
    assert!(world.sides[&S].violation);
}

#[test]
// XFER-15.
fn what_a_receiver_has_thrown_away_is_not_durable_any_more() {
    let mut world = accepted(vec![file("big", 40 * u64::from(CHUNK))]);
    let durable = |world: &World| {
        let of = |event: &Event| match event {
            Event::Progress { durable, .. } | Event::Resumed { durable, .. } => Some(*durable),
            _ => None,
        };
        world.sides[&S].events.iter().rev().find_map(of).unwrap_or(0)
    };
    while world.sealed.len() < 3 {
        assert!(world.step());
    }
    // A part, so that no file is whole.
    world.cut_streams();
    while durable(&world) == 0 {
        assert!(world.step() || world.tick());
    }
    assert!(world.published.is_empty(), "nothing has its name yet");
    world.lose_session();
    world.cut_streams();
    let key = world.key(R).unwrap();
    world.call(R, |transfers, cx| transfers.cancel(cx, key, CancelReason::User)).unwrap();
    world.settle();
    assert!(durable(&world) > 0);
    world.connect();
    world.sides.get_mut(&R).unwrap().events.clear();
    world.accept();
    while !world.sides[&S].events.iter().any(|event| matches!(event, Event::Resumed { .. })) {
        assert!(world.step());
    }
    assert_eq!(durable(&world), 0);
    world.discarded = false;
    world.run();
    arrived_whole(&world);
}

#[test]
// XFER-15, XFER-25.
fn what_is_reported_behind_the_next_accept_counts_once() {
    let mut world = accepted(tree());
    while world.sealed.len() < 2 {
        assert!(world.step());
    }
    world.faults.late = true;
    while world.sealed.len() < 4 {
        assert!(world.step());
    }
    // They arrive, and their session is lost before the worker says that they left.
    world.steps(3);
    world.lose_session();
    world.connect();
    world.step_until(S, "Sending");
    world.faults.late = false;
    for (stream, report) in take(&mut world.late) {
        world.call(S, |transfers, cx| transfers.on_bulk(cx, stream, &report));
    }
    world.cut_streams();
    world.run();
    arrived_whole(&world);
}
