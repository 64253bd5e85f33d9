//! Transfers that an owner has rest.

use super::harness::Who;
use super::*;

fn pause(world: &mut World, who: Who, paused: bool) {
    let key = world.key(who).unwrap();
    world.call(who, |transfers, cx| transfers.pause(cx, key, paused)).unwrap();
}

/// Who has it rest, as an owner was told last: his side, the other.
fn told(world: &World, who: Who) -> Option<(bool, bool)> {
    let rest = |event: &Event| if let Event::Paused { here, there, .. } = event { Some((*here, *there)) } else { None };
    world.sides[&who].events.iter().rev().find_map(rest)
}

/// A transfer of which some has left, and much has not.
fn under_way() -> World {
    let mut world = accepted(tree());
    while world.sealed.len() < 2 {
        assert!(world.step());
    }
    world
}

/// Whether it rests: time passes, a day of it at most, and nothing is sent.
fn rests(world: &mut World) -> bool {
    // A run that was claimed is sealed to its end.
    world.settle();
    let sealed = world.sealed.len();
    let until = world.now + core::time::Duration::from_secs(24 * 3600);
    while world.now < until && (world.step() || world.tick()) {}
    world.sealed.len() == sealed && (sealed as u64) < world.manifest.layout().chunks()
}

#[test]
// XFER-30.
fn either_owner_has_a_transfer_rest_and_go_on() {
    for who in [S, R] {
        let mut world = under_way();
        pause(&mut world, who, true);
        assert!(rests(&mut world), "{who:?}");
        assert_eq!((told(&world, who), told(&world, who.other())), (Some((true, false)), Some((false, true))));
        // The other side cannot let it go on.
        pause(&mut world, who.other(), false);
        assert!(rests(&mut world), "{who:?}");
        pause(&mut world, who, false);
        world.run();
        assert_eq!((told(&world, who), told(&world, who.other())), (Some((false, false)), Some((false, false))));
        arrived_whole(&world);
    }
}

#[test]
// XFER-30.
fn what_both_have_rest_goes_on_when_both_agree() {
    let mut world = under_way();
    pause(&mut world, S, true);
    pause(&mut world, R, true);
    assert!(rests(&mut world));
    pause(&mut world, R, false);
    assert!(rests(&mut world));
    assert_eq!((told(&world, S), told(&world, R)), (Some((true, false)), Some((false, true))));
    pause(&mut world, S, false);
    world.run();
    arrived_whole(&world);
}

#[test]
// XFER-30.
fn it_rests_in_the_next_session_too() {
    for who in [S, R] {
        let mut world = under_way();
        pause(&mut world, who, true);
        world.settle();
        world.lose_session();
        world.cut_streams();
        world.settle();
        world.connect();
        assert!(rests(&mut world), "{who:?}");
        assert_eq!((told(&world, who), told(&world, who.other())), (Some((true, false)), Some((false, true))));
        pause(&mut world, who, false);
        world.run();
        arrived_whole(&world);
    }
}

#[test]
// XFER-30.
fn it_may_rest_before_the_first_byte() {
    for who in [S, R] {
        let mut world = World::new(tree());
        world.connect();
        world.offer();
        if who == S {
            pause(&mut world, S, true);
        }
        world.accept();
        if who == R {
            pause(&mut world, R, true);
        }
        assert!(rests(&mut world) && world.sealed.is_empty(), "{who:?}");
        pause(&mut world, who, false);
        world.run();
        arrived_whole(&world);
    }
}

#[test]
// XFER-30.
fn what_rests_can_be_cancelled_and_what_was_not_taken_cannot_rest() {
    let mut world = World::new(tree());
    world.connect();
    world.offer();
    world.step_until(R, "Asking");
    let key = world.key(R).unwrap();
    assert!(world.call(R, |transfers, cx| transfers.pause(cx, key, true)).is_err());
    world.accept();
    world.step_until(S, "Sending");
    pause(&mut world, S, true);
    world.settle();
    world.call(R, |transfers, cx| transfers.cancel(cx, key, CancelReason::User)).unwrap();
    world.run();
    assert_eq!(world.failure(S), Some(TransferFailure::CancelledThere(CancelReason::User)));
    world.check_ended();
}

#[test]
// XFER-30.
fn a_sender_alone_loses_the_session_and_lets_it_go_on() {
    let mut world = under_way();
    pause(&mut world, S, true);
    world.settle();
    assert_eq!(told(&world, R), Some((false, true)));
    // The receiver has not noticed when a newer session takes over, and its owner hears what the sender said last.
    world.call(S, |transfers, cx| transfers.on_session_lost(cx, R.device()));
    pause(&mut world, S, false);
    world.call(R, |transfers, cx| transfers.on_unheard(cx, S.device()));
    world.connect();
    world.settle();
    assert_eq!(told(&world, R), Some((false, false)));
    world.cut_streams();
    world.run();
    arrived_whole(&world);
}

#[test]
// XFER-30.
fn what_the_other_side_wanted_ends_with_the_session() {
    for who in [S, R] {
        let mut world = under_way();
        pause(&mut world, who, true);
        world.settle();
        assert_eq!(told(&world, who.other()), Some((false, true)));
        world.lose_session();
        assert_eq!(told(&world, who.other()), Some((false, false)), "{who:?}");
        pause(&mut world, who, false);
        world.cut_streams();
        world.connect();
        world.run();
        arrived_whole(&world);
    }
}

#[test]
// XFER-30.
fn a_peer_may_change_its_mind_but_not_for_ever() {
    for who in [S, R] {
        let mut world = under_way();
        let id = world.key(who).unwrap().id;
        for turn in 0..=limits::PAUSE_TURNS {
            assert_eq!(world.failure(who), None, "{who:?} after {turn}");
            let message = if turn % 2 == 0 { ControlMessage::Pause { transfer: id } } else { ControlMessage::Resume { transfer: id } };
            world.call(who, |transfers, cx| transfers.on_control(cx, who.other().device(), message)).unwrap();
        }
        world.run();
        assert_eq!(world.failure(who), Some(TransferFailure::CancelledHere(CancelReason::Policy)), "{who:?}");
        world.check_ended();
    }
}

#[test]
// DATA-24, XFER-30.
fn a_sender_that_rests_holds_no_streams() {
    let mut world = under_way();
    pause(&mut world, S, true);
    assert!(rests(&mut world));
    assert!(world.no_bulk());
    pause(&mut world, S, false);
    world.run();
    arrived_whole(&world);
}
