//! Devices that find each other without being told where, in virtual time (PROTOCOL.md, section 5.3).

use std::collections::BTreeSet;
use std::time::Duration;

use adapter_sim::{Dev, DialFault, LookupFault, Wire, World};
use kin_tests::story::Duo;
use protocol_core::effects::{Event, Fact, Input};
use protocol_core::faults::{LinkFailure, PairFailure};
use protocol_core::limits;
use protocol_core::node::Confirm;
use protocol_core::session::rendezvous::Medium;

const WIRES: [Wire; 3] = [Wire::Sim, Wire::Tcp, Wire::Both];
const HOUR: u64 = 3_600;

/// Two devices whose hosts have a lookup service.
fn looking(seed: u64, wire: Wire) -> Duo {
    let mut world = World::new(seed);
    world.set_lookup();
    Duo::of(world, wire)
}

/// The same, paired by their code alone, and parted again.
fn met(seed: u64, wire: Wire) -> Duo {
    let mut duo = looking(seed, wire);
    pair(&mut duo);
    let (i, j) = (duo.i, duo.j);
    part(&mut duo, i, j);
    duo
}

fn pair(duo: &mut Duo) {
    let (i, j) = (duo.i, duo.j);
    let invite = duo.world.invite(i, Confirm::Automatic).expect("no other pairing runs");
    duo.world.join(j, &invite.code, &[], Confirm::Automatic).expect("it is looked for");
    assert!(duo.world.run_until(Duration::from_secs(5), |world| world.connected(i, j) && world.connected(j, i)), "{}", duo.story());
    duo.world.run_for(Duration::from_secs(1));
}

fn part(duo: &mut Duo, dev: Dev, peer: Dev) {
    let id = duo.world.id(peer);
    duo.world.call(dev, |node, env| node.disconnect(env, id));
    duo.world.run_for(Duration::from_secs(8));
    duo.world.clear_events();
}

fn connect(duo: &mut Duo, dev: Dev, peer: Dev) {
    let id = duo.world.id(peer);
    duo.world.call(dev, |node, env| node.connect(env, id, &[])).expect("it is known");
}

fn published(duo: &Duo, dev: Dev) -> BTreeSet<Vec<u8>> {
    duo.world.lookups(dev).0.into_iter().map(|notice| notice.id).collect()
}

/// PAIR-50, DISC-1: twelve words are enough, also where old and forged records come first; then nothing is out that is of no use.
#[test]
fn twelve_words_are_enough() {
    for wire in WIRES {
        for fault in [None, Some(LookupFault::Forged(40)), Some(LookupFault::Twisted), Some(LookupFault::Slow(3_000))] {
            let mut duo = looking(3, wire);
            if let Some(fault) = fault {
                duo.world.fault_lookup(fault);
            }
            pair(&mut duo);
            duo.world.run_for(Duration::from_secs(5));
            for dev in [duo.i, duo.j] {
                let (out, seeks) = duo.world.lookups(dev);
                assert!(out.is_empty() && seeks.is_empty(), "{out:?} {seeks:?}");
            }
        }
    }
}

/// PAIR-50: a joiner looks for ten minutes, tries what it finds again and again, and then says that it found nobody.
#[test]
fn a_joiner_looks_until_its_time_is_over() {
    let mut duo = looking(4, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let invite = duo.world.invite(i, Confirm::Automatic).unwrap();
    duo.world.run_for(Duration::from_secs(1));
    // It is published, and then not there: whoever finds the record finds nobody.
    duo.world.fault_lookup(LookupFault::Stale);
    duo.world.crash(i);
    duo.world.join(j, &invite.code, &[], Confirm::Automatic).unwrap();
    duo.world.run_for(limits::ATTEMPT_WAIT - Duration::from_secs(10));
    assert!(!duo.world.saw(j, |event| matches!(event, Event::PairFailed { .. })), "{}", duo.story());
    duo.world.run_for(Duration::from_secs(11));
    assert!(duo.world.saw(j, |event| matches!(event, Event::PairFailed { reason: PairFailure::NotFound, .. })), "{}", duo.story());
}

/// PAIR-50: an initiator that has moved is found at its new address, whatever older records say.
#[test]
fn an_initiator_that_moves_is_found() {
    for wire in WIRES {
        let mut duo = looking(5, wire);
        let (i, j) = (duo.i, duo.j);
        let invite = duo.world.invite(i, Confirm::Automatic).unwrap();
        duo.world.run_for(Duration::from_secs(1));
        duo.world.fault_lookup(LookupFault::Stale);
        duo.world.move_device(i, None);
        duo.world.join(j, &invite.code, &[], Confirm::Automatic).unwrap();
        assert!(duo.world.run_until(Duration::from_secs(20), |world| world.connected(j, i)), "{}", duo.story());
    }
}

/// DISC-4: who has moved is found by who wants to reach it, and by who stays connected; who is not there is given up after a while.
#[test]
fn a_paired_device_that_moved_is_found() {
    for wire in WIRES {
        for kept in [false, true] {
            let mut duo = met(6, wire);
            let (i, j) = (duo.i, duo.j);
            duo.world.move_device(i, None);
            duo.world.move_device(j, None);
            if kept {
                duo.world.call(j, |node, env| node.keep_connected(env, true));
            } else {
                connect(&mut duo, j, i);
            }
            assert!(duo.world.run_until(Duration::from_secs(10), |world| world.connected(j, i)), "{}", duo.story());
        }
    }
    let mut duo = met(7, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.crash(i);
    duo.world.run_for(Duration::from_secs(1));
    duo.world.move_device(i, None);
    connect(&mut duo, j, i);
    let given_up = |event: &Event| matches!(event, Event::ConnectFailed { reason: LinkFailure::Unreachable, .. });
    assert!(duo.world.run_until(Duration::from_secs(60), |world| world.saw(j, given_up)), "{}", duo.story());
}

/// DISC-1, DISC-2: for whom a record is out, under which ids, and for how long.
#[test]
fn a_record_is_out_for_whom_it_is_of_use() {
    let mut duo = met(8, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let first = published(&duo, i);
    assert_eq!(first.len(), 1, "one device, one hour");
    assert!(first.is_disjoint(&published(&duo, j)), "each direction has ids of its own");
    // It is the same record until where it listens changes.
    let out = |duo: &Duo| duo.world.lookups(i).0;
    let before = out(&duo);
    duo.world.call(i, |_, _| ());
    duo.world.run_for(Duration::from_secs(1));
    assert_eq!(out(&duo), before);
    duo.world.move_device(i, None);
    duo.world.run_for(Duration::from_secs(1));
    assert_eq!(published(&duo, i), first);
    assert_ne!(out(&duo), before);
    // Near the end of the hour the next one's id is out too, and then alone.
    let left = HOUR - duo.world.unix_s(i) % HOUR;
    duo.world.run_for(Duration::from_secs(left - 200));
    let both = published(&duo, i);
    assert!(both.len() == 2 && both.is_superset(&first), "{both:?}");
    duo.world.run_for(Duration::from_secs(210));
    let next = published(&duo, i);
    assert!(next.len() == 1 && next.is_disjoint(&first) && next.is_subset(&both));
    // Nobody who is connected, blocked, or has left needs to find this device.
    connect(&mut duo, j, i);
    assert!(duo.world.run_until(Duration::from_secs(5), |world| world.connected(i, j)));
    duo.world.run_for(Duration::from_secs(1));
    assert!(published(&duo, i).is_empty() && published(&duo, j).is_empty());
    part(&mut duo, i, j);
    assert_eq!(published(&duo, i).len(), 1);
    let id = duo.world.id(j);
    duo.world.call(i, |node, env| node.block_device(env, id, true)).unwrap();
    duo.world.run_for(Duration::from_secs(1));
    assert!(published(&duo, i).is_empty());
    duo.world.call(i, |node, env| node.block_device(env, id, false)).unwrap();
    duo.world.call(i, |node, env| node.forget_device(env, id)).unwrap();
    duo.world.run_for(Duration::from_secs(1));
    assert!(published(&duo, i).is_empty());
    connect(&mut duo, j, i);
    duo.world.run_for(Duration::from_secs(20));
    assert!(published(&duo, j).is_empty(), "it knows that it was removed");
}

/// DISC-2: clocks may differ by some minutes at the turn of an hour.
#[test]
fn clocks_may_differ_a_little() {
    for ahead in [0, 1] {
        let mut duo = met(9, Wire::Sim);
        let (i, j) = (duo.i, duo.j);
        let left = HOUR - duo.world.unix_s(i) % HOUR;
        duo.world.run_for(Duration::from_secs(left + 10));
        duo.world.set_back([i, j][ahead], Duration::from_secs(600));
        duo.world.move_device(i, None);
        duo.world.run_for(Duration::from_secs(1));
        connect(&mut duo, j, i);
        assert!(duo.world.run_until(Duration::from_secs(10), |world| world.connected(j, i)), "{ahead}: {}", duo.story());
    }
}

/// DISC-3: what does not open is counted, and leads nowhere.
#[test]
fn forged_records_are_counted() {
    let mut duo = met(10, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.move_device(i, None);
    duo.world.fault_lookup(LookupFault::Forged(40));
    connect(&mut duo, j, i);
    assert!(duo.world.run_until(Duration::from_secs(10), |world| world.connected(j, i)), "{}", duo.story());
    assert!(duo.world.node(j).stats().bad_records >= 40);
}

/// PAIR-50, DISC-4: what was found and cannot be dialled just then is tried again, by a joiner and by who stays connected.
#[test]
fn what_was_found_is_tried_again() {
    let mut duo = looking(11, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let invite = duo.world.invite(i, Confirm::Automatic).unwrap();
    duo.world.run_for(Duration::from_secs(1));
    for number in 1..=2 {
        duo.world.fault_dial(j, number, DialFault::Unreachable);
    }
    duo.world.join(j, &invite.code, &[], Confirm::Automatic).unwrap();
    assert!(duo.world.run_until(Duration::from_secs(30), |world| world.connected(j, i)), "{}", duo.story());
    part(&mut duo, i, j);
    // The address is a new one, the record is found once, and the first dials come to nothing.
    duo.world.move_device(i, None);
    for number in 1..=4 {
        duo.world.fault_dial(j, number, DialFault::Unreachable);
    }
    duo.world.call(j, |node, env| node.keep_connected(env, true));
    assert!(duo.world.run_until(Duration::from_secs(90), |world| world.connected(j, i)), "{}", duo.story());
}

/// DISC-1: the code of a handshake that outlives it is not published any more.
#[test]
fn a_code_that_is_over_is_not_published() {
    let mut duo = looking(12, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let invite = duo.world.invite(i, Confirm::Automatic).unwrap();
    duo.world.run_for(Duration::from_secs(598));
    assert_eq!(published(&duo, i).len(), 1);
    // Its Response is under way when the time is over.
    duo.world.join(j, &invite.code, &[], Confirm::Automatic).unwrap();
    duo.world.run_for(Duration::from_secs(1));
    duo.world.hold(j, i, Duration::from_secs(20));
    duo.world.run_for(Duration::from_secs(3));
    assert!(published(&duo, i).is_empty());
}

/// A device tells these places of itself from now on, where nobody is, beside or instead of its own.
fn tells_of(duo: &mut Duo, dev: Dev, numbers: std::ops::Range<u32>, own: bool) {
    let mut transports = duo.world.transports(dev);
    for transport in &mut transports {
        if !own {
            transport.addresses.clear();
        }
        transport.addresses.splice(0..0, numbers.clone().map(|number| format!("host9{number:03}")));
    }
    duo.world.call(dev, |node, env| node.handle(env, Input::Network(Fact::Local(transports))));
    duo.world.run_for(Duration::from_secs(1));
}

/// DISC-4: a record that leads nowhere, a replayed one perhaps, takes no address away at which the device was reached before.
#[test]
fn what_is_found_takes_nothing_away() {
    let mut duo = met(13, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    tells_of(&mut duo, i, 0..16, false);
    // Where it was reached before, it is not just then.
    duo.world.fault_dial(j, 1, DialFault::Unreachable);
    duo.world.call(j, |node, env| node.keep_connected(env, true));
    assert!(duo.world.run_until(Duration::from_secs(60), |world| world.connected(j, i)), "{}", duo.story());
}

/// PAIR-50: the one true record is tried, however many old ones lead nowhere, and also where it fails at first.
#[test]
fn an_initiator_is_found_behind_many_old_records() {
    // In which order they are found is chance.
    for seed in 14..24 {
        let mut duo = looking(seed, Wire::Sim);
        let (i, j) = (duo.i, duo.j);
        let invite = duo.world.invite(i, Confirm::Automatic).unwrap();
        duo.world.run_for(Duration::from_secs(1));
        for record in 0..2 {
            tells_of(&mut duo, i, record * 16..record * 16 + 16, false);
        }
        tells_of(&mut duo, i, 0..0, true);
        duo.world.fault_lookup(LookupFault::Stale);
        // All of them are found before the first dial has come to nothing.
        duo.world.set_latency(Duration::from_secs(2), Duration::ZERO);
        duo.world.join(j, &invite.code, &[], Confirm::Automatic).unwrap();
        assert!(duo.world.run_until(Duration::from_secs(90), |world| world.connected(j, i)), "{seed}: {}", duo.story());
    }
}

/// DISC-4: an old record that is found last displaces nothing that was found before, by another service or by the same.
#[test]
fn an_old_record_displaces_nothing() {
    for medium in [Medium::Kad, Medium::Mdns] {
        let mut duo = met(15, Wire::Sim);
        let (i, j) = (duo.i, duo.j);
        let old = duo.world.call(i, |node, env| node.discovery(env, medium)).publish;
        duo.world.move_device(i, None);
        duo.world.run_for(Duration::from_secs(1));
        // The local network finds the new record, and the dial comes to nothing; then the old record is found.
        for number in 1..=4 {
            duo.world.fault_dial(j, number, DialFault::Unreachable);
        }
        duo.world.call(j, |node, env| node.keep_connected(env, true));
        duo.world.run_for(Duration::from_millis(500));
        duo.world.call(j, |node, env| {
            let sought = node.discovery(env, medium).seek;
            for notice in old.iter().filter(|notice| sought.contains(&notice.id)) {
                node.found(env, medium, &notice.id, &notice.record);
            }
            assert!(old.iter().any(|notice| sought.contains(&notice.id)), "it is what is sought");
        });
        assert_eq!(duo.world.node(j).stats().bad_records, 0, "it opens");
        assert!(duo.world.run_until(Duration::from_secs(90), |world| world.connected(j, i)), "{medium:?}: {}", duo.story());
    }
}

/// LINK-13: a person who asks for a device that has just refused an attempt of our own is not told that it is away: it is tried again.
#[test]
fn what_has_refused_is_tried_again_for_who_asks() {
    let mut duo = met(16, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.crash(i);
    duo.world.call(j, |node, env| node.keep_connected(env, true));
    duo.world.run_for(Duration::from_secs(1));
    connect(&mut duo, j, i);
    duo.world.run_for(Duration::from_secs(6));
    duo.world.restart(i);
    assert!(duo.world.run_until(Duration::from_secs(20), |world| world.connected(j, i)), "{}", duo.story());
    assert!(!duo.world.saw(j, |event| matches!(event, Event::ConnectFailed { .. })), "{}", duo.story());
}
