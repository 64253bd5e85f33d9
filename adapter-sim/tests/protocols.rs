//! Protocols of embedders in worlds where a test decides what happens. What arrives is compared while it arrives (S36, S37).

use std::time::Duration;

use adapter_sim::{At, Damage, Dev, Plan, Rule, Side, Wire, Wished, World};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::faults::{LinkFailure, OpenError};
use protocol_core::ids::{DeviceId, OpenId};
use protocol_core::limits;
use protocol_core::node::{Access, RegisterError};

/// The protocols that every device of a world knows: any paired one may speak this one …
const ECHO: usize = 0;
/// … nobody has the permission for this one …
const SECRET: usize = 2;
/// … and nobody speaks this one.
const NOBODY: usize = 3;

fn two(wire: Wire) -> (World, Dev, Dev) {
    let mut world = World::quiet(7);
    let (one, other) = (world.add_device_on("one", wire), world.add_device_on("other", wire));
    world.pair(one, other);
    (world, one, other)
}

fn open(world: &mut World, dev: Dev, peer: Dev, protocol: usize, bytes: usize, millis: u64) -> OpenId {
    world.open_protocol(dev, peer, protocol, Plan { bytes, millis }).expect("a session stands")
}

/// What a wish comes to within two minutes.
fn comes_to(world: &mut World, dev: Dev, id: OpenId) -> Wished {
    let over = |world: &World| world.wished(dev, id).is_some_and(|wished| !matches!(wished, Wished::Waits | Wished::Open));
    assert!(world.run_until(Duration::from_secs(120), over), "{:?}", world.wished(dev, id));
    world.wished(dev, id).expect("it was wished")
}

#[test]
fn either_side_speaks_over_every_transport() {
    for wire in [Wire::Sim, Wire::Tcp, Wire::Both] {
        let (mut world, one, other) = two(wire);
        for (dev, peer) in [(one, other), (other, one)] {
            for bytes in [0, 1, limits::RECORD_TEXT, 300_000] {
                let id = open(&mut world, dev, peer, ECHO, bytes, 0);
                assert_eq!(comes_to(&mut world, dev, id), Wished::Ended, "{wire:?}");
            }
        }
        assert_eq!(world.node(one).probe_holdings().protocols, 0);
    }
}

#[test]
// CUST-1.
fn names_have_bounds_and_are_registered_once() {
    let (mut world, one, other) = two(Wire::Sim);
    let register = |world: &mut World, name: &str| world.call(one, |node, _| node.register_protocol(name, Access::Paired));
    assert_eq!(register(&mut world, ""), Err(RegisterError::Name));
    assert_eq!(register(&mut world, &"x".repeat(limits::PROTOCOL_NAME + 1)), Err(RegisterError::Name));
    assert_eq!(register(&mut world, "echo/1"), Err(RegisterError::Taken));
    let known = 3;
    for number in known..limits::PROTOCOLS {
        assert_eq!(register(&mut world, &number.to_string()), Ok(()));
    }
    assert_eq!(register(&mut world, "one more"), Err(RegisterError::TooMany));
    world.call(one, |node, _| node.unregister_protocol("5"));
    assert_eq!(register(&mut world, &"x".repeat(limits::PROTOCOL_NAME)), Ok(()));
    let to = world.id(other);
    for name in [String::new(), "x".repeat(limits::PROTOCOL_NAME + 1)] {
        assert_eq!(world.call(one, |node, env| node.open_protocol(env, to, &name)), Err(OpenError::Name));
    }
    assert_eq!(world.call(one, |node, env| node.open_protocol(env, DeviceId([9; 16]), "x")), Err(OpenError::UnknownDevice));
}

#[test]
// CUST-2, CUST-3, CUST-5.
fn what_is_not_spoken_is_refused_before_a_word_is_said() {
    for wire in [Wire::Sim, Wire::Tcp] {
        let (mut world, one, other) = two(wire);
        for protocol in [SECRET, NOBODY] {
            for (dev, peer) in [(one, other), (other, one)] {
                let id = open(&mut world, dev, peer, protocol, 1_000, 0);
                assert_eq!(comes_to(&mut world, dev, id), Wished::NotOpened(OpenError::Refused));
            }
        }
        assert!(world.connected(one, other) && world.connected(other, one), "a refusal harms nothing else");
    }
}

/// Bytes of a whole exchange, in one direction.
fn length(side: Side, wire: Wire) -> u64 {
    let mut at = 0;
    // The place where a cut does not come any more.
    while cut(side, wire, at, Damage::Cut) != Wished::Ended {
        at += 1;
    }
    at
}

fn cut(side: Side, wire: Wire, at: u64, damage: Damage) -> Wished {
    let (mut world, one, other) = two(wire);
    world.rule(Rule { name: World::CUSTOM, side, at: At::Byte(at), damage });
    let id = open(&mut world, one, other, ECHO, 40, 0);
    comes_to(&mut world, one, id)
}

#[test]
// CUST-4.
fn a_cut_at_every_byte_is_an_error_and_no_end() {
    for (side, wire) in [(Side::Opener, Wire::Sim), (Side::Answerer, Wire::Tcp)] {
        let length = length(side, wire);
        // Preamble, header and opening record, or the reply; eight records and the fin.
        assert!(length > 8 * (5 + 5 + 16) + 21, "{length}");
        for at in 0..length {
            let came = cut(side, wire, at, Damage::End);
            assert!(matches!(came, Wished::Cut | Wished::NotOpened(OpenError::Refused | OpenError::NoAnswer)), "{at}: {came:?}");
        }
    }
}

#[test]
// CUST-6.
fn streams_of_both_sides_are_counted_together() {
    let (mut world, one, other) = two(Wire::Sim);
    let half = limits::PROTOCOL_STREAMS / 2;
    let mut wishes = Vec::new();
    for (dev, peer) in [(one, other), (other, one)] {
        wishes.extend((0..half).map(|_| (dev, open(&mut world, dev, peer, ECHO, 80, 2_000))));
        world.run_for(Duration::from_secs(1));
    }
    let plan = Plan::default();
    assert_eq!(world.open_protocol(one, other, ECHO, plan), Err(OpenError::TooMany));
    assert_eq!(world.open_protocol(other, one, ECHO, plan), Err(OpenError::TooMany));
    for (dev, id) in wishes {
        assert_eq!(comes_to(&mut world, dev, id), Wished::Ended);
    }
    let id = open(&mut world, one, other, ECHO, 1, 0);
    assert_eq!(comes_to(&mut world, one, id), Wished::Ended, "there is room again");
}

#[test]
// CUST-7.
fn a_stream_ends_with_the_last_session() {
    for wire in [Wire::Sim, Wire::Tcp] {
        for forget in [false, true] {
            let (mut world, one, other) = two(wire);
            let (mine, theirs) = (open(&mut world, one, other, ECHO, 80, 5_000), open(&mut world, other, one, ECHO, 80, 5_000));
            world.run_for(Duration::from_secs(8));
            assert_eq!((world.wished(one, mine), world.wished(other, theirs)), (Some(Wished::Open), Some(Wished::Open)));
            // One that is still on its way.
            let late = open(&mut world, one, other, ECHO, 1, 0);
            let id = world.id(other);
            if forget {
                world.call(one, |node, env| node.forget_device(env, id)).expect("it is known");
            } else {
                world.call(one, |node, env| node.disconnect(env, id));
            }
            assert_eq!(world.wished(one, mine), Some(Wished::Cut), "at once");
            assert_eq!(world.wished(one, late), Some(Wished::NotOpened(OpenError::NotConnected)));
            assert_eq!(comes_to(&mut world, other, theirs), Wished::Cut);
            let gone = if forget { OpenError::UnknownDevice } else { OpenError::NotConnected };
            assert_eq!(world.open_protocol(one, other, ECHO, Plan::default()), Err(gone));
        }
    }
}

#[test]
// CUST-7.
fn a_stream_ends_with_a_session_that_falls_silent() {
    let (mut world, one, other) = two(Wire::Tcp);
    let mine = open(&mut world, one, other, ECHO, 80, 20_000);
    world.run_for(Duration::from_secs(1));
    world.silence(other, true);
    world.run_for(limits::IDLE_DEAD + limits::IDLE_PING);
    assert_eq!(world.wished(one, mine), Some(Wished::Cut));
}

#[test]
// CUST-8.
fn a_session_that_is_renewed_leaves_streams_alone() {
    for wire in [Wire::Sim, Wire::Tcp] {
        let (mut world, one, other) = two(wire);
        // Eight pieces in more than two hours.
        let (mine, theirs) = (open(&mut world, one, other, ECHO, 80, 1_000_000), open(&mut world, other, one, ECHO, 80, 1_000_000));
        let session = |world: &World| world.node(one).probe_sessions()[0].session_ref;
        let first = session(&world);
        world.run_for(Duration::from_secs(3 * 3_600));
        assert_ne!(session(&world), first, "it was renewed");
        assert_eq!((world.wished(one, mine), world.wished(other, theirs)), (Some(Wished::Ended), Some(Wished::Ended)));
    }
}

#[test]
// DATA-11.
fn the_third_forgery_closes_the_session() {
    let (mut world, one, other) = two(Wire::Sim);
    for forgery in 1..=limits::SESSION_FORGERIES {
        assert!(world.connected(other, one));
        // A byte of the first record's ciphertext.
        world.rule(Rule { name: World::CUSTOM, side: Side::Opener, at: At::Frame(2), damage: Damage::Flip(8 * 7) });
        let id = open(&mut world, one, other, ECHO, 80, 0);
        assert_eq!(comes_to(&mut world, one, id), Wished::Cut, "{forgery}");
    }
    let violated =
        |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, reason: Some(LinkFailure::Violation), .. });
    assert!(world.saw(other, violated));
}

#[test]
fn a_device_that_lives_elsewhere_now_is_found_there() {
    let (mut world, one, other) = two(Wire::Tcp);
    let third = world.add_device_on("third", Wire::Tcp);
    // What its peer dialled leads to somebody else, who has never heard of the session.
    world.move_device(one, Some(third));
    let id = world.id(other);
    world.call(one, |node, env| node.disconnect(env, id));
    world.run_for(Duration::from_secs(60));
    world.connect(one, other);
    world.run_for(Duration::from_secs(5));
    let id = open(&mut world, other, one, ECHO, 80, 0);
    assert_eq!(comes_to(&mut world, other, id), Wished::Ended);
}
