//! Pairing in virtual time: every way it can end (PROTOCOL.md, sections 6 and 12).

use std::time::Duration;

use adapter_sim::{Answer, At, Damage, Rule, Side, StoreFault, Wire, World};
use kin_tests::story::{Duo, LONG, asked, other_code, pair_failure};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::faults::{LinkFailure, PairFailure};
use protocol_core::node::{Confirm, PairError};
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);

fn rule(side: Side, at: At, damage: Damage) -> Rule {
    Rule { name: StreamName::Pair, side, at, damage }
}

/// PAIR-5, PAIR-9, PAIR-32, PAIR-36: four messages on one stream of one connection, two round trips to Complete, the same
/// check number, both sure, and the control stream runs on where the handshake ended.
#[test]
fn two_devices_pair_on_one_connection_in_two_round_trips() {
    for wire in WIRES {
        let mut duo = Duo::new(1, wire);
        let one_way = Duration::from_millis(20);
        duo.world.set_latency(one_way, Duration::ZERO);
        let invite = duo.start(Confirm::Automatic);
        let (i, j) = (duo.i, duo.j);
        let opened = duo.world.now() + 2 * one_way;
        assert!(duo.world.run_until(MINUTE, |world| world.saw(j, |event| matches!(event, Event::Paired { .. }))));
        // Two round trips and the disks' time.
        assert!(duo.world.now() - opened < 4 * one_way + Duration::from_millis(10), "{:?}", duo.world.now() - opened);
        duo.world.run_for(Duration::from_secs(5));
        assert!(duo.both_confirmed() && duo.both_connected());
        assert_eq!(duo.world.connections(), 1);
        let streams: std::collections::BTreeSet<usize> = duo.world.tap().iter().map(|tapped| tapped.stream).collect();
        assert_eq!(streams.len(), 1, "the control stream is the handshake's");
        let check = |dev| {
            duo.world.events_of(dev).find_map(|event| match event {
                Event::Paired { session, check, .. } if *session == invite.session => Some(*check),
                _ => None,
            })
        };
        assert_eq!(check(i), check(j));
        assert!(check(i).is_some());
    }
}

/// PAIR-38, PAIR-28, PAIR-33, PAIR-25: whatever the two users say, and in whatever order, only two yeses make a pair.
#[test]
fn only_two_yeses_make_a_pair() {
    for (round, wire) in (0..24).zip(WIRES.into_iter().cycle()) {
        for initiator in [Answer::Yes, Answer::No, Answer::Silent] {
            for joiner in [Answer::Yes, Answer::No, Answer::Silent] {
                let mut duo = Duo::new(round, wire);
                duo.answers(initiator, joiner);
                duo.start(Confirm::Ask);
                duo.world.run_for(LONG);
                let yes = (initiator, joiner) == (Answer::Yes, Answer::Yes);
                assert_eq!(duo.both_confirmed(), yes, "{initiator:?} {joiner:?}\n{}", duo.story());
                if !yes {
                    assert!(duo.world.store(duo.j).is_empty(), "{initiator:?} {joiner:?}\n{}", duo.story());
                    assert!(duo.pair_failure(duo.j).is_some(), "{}", duo.story());
                }
                match (initiator, joiner) {
                    (Answer::No | Answer::Silent, Answer::Yes) => {
                        assert_eq!(duo.pair_failure(duo.i), Some(PairFailure::RefusedHere), "{}", duo.story());
                        assert_eq!(duo.pair_failure(duo.j), Some(PairFailure::RefusedThere), "{}", duo.story());
                        assert!(duo.nothing_stored());
                    }
                    (_, Answer::No) => assert!(duo.pair_failure(duo.j).is_some(), "{}", duo.story()),
                    _ => {}
                }
                duo.check_agreement(yes);
            }
        }
    }
}

/// PAIR-33, PAIR-37: the joiner's no after the initiator's yes reaches the initiator, which deletes what it wrote.
// PAIR-4.
#[test]
fn a_late_no_of_the_joiner_is_told() {
    for wire in WIRES {
        let mut duo = Duo::new(3, wire);
        duo.answers(Answer::Yes, Answer::Silent);
        let invite = duo.start(Confirm::Ask);
        let (i, j) = (duo.i, duo.j);
        assert!(duo.world.run_until(MINUTE, |world| world.saw(i, |event| matches!(event, Event::Paired { .. }))));
        duo.world.run_for(Duration::from_secs(30));
        assert!(!duo.world.store(i).is_empty());
        duo.world.call(j, |node, env| node.answer_pairing(env, invite.session, false)).expect("the question is open");
        duo.world.run_for(MINUTE);
        let refused = |event: &Event| matches!(event, Event::PairRefused { reason: PairFailure::RefusedThere, .. });
        assert!(duo.world.saw(i, refused), "{}", duo.story());
        assert!(duo.nothing_stored());
        duo.check_agreement(false);
    }
}

/// PAIR-14, PAIR-34: words of another code, of a used one, of an expired one: "not accepted", and no record.
#[test]
fn wrong_used_and_expired_codes_are_not_accepted() {
    for wire in WIRES {
        let mut duo = Duo::new(4, wire);
        let (i, j, at) = (duo.i, duo.j, duo.world.address(duo.i));
        let invite = duo.world.invite(i, Confirm::Ask).expect("free");
        let wrong = other_code(9);
        duo.world.join(j, &wrong, std::slice::from_ref(&at), Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert_eq!(duo.pair_failure(j), Some(PairFailure::NotAccepted), "wrong");
        assert!(duo.nothing_stored());
        // The wrong one did not hurt the right one.
        duo.world.clear_events();
        duo.world.join(j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.both_confirmed());
        // Used: a third device cannot.
        let k = duo.world.add_device_on("Eve", wire);
        duo.world.join(k, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert_eq!(pair_failure(&duo.world, k), Some(PairFailure::NotAccepted), "used");
        assert!(duo.world.store(k).is_empty());
        // Expired.
        let late = duo.world.invite(i, Confirm::Ask).expect("the used one is gone");
        duo.world.run_for(Duration::from_secs(601));
        assert_eq!(duo.pair_failure(i), Some(PairFailure::Expired));
        duo.world.join(k, &late.code, &[at], Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert_eq!(pair_failure(&duo.world, k), Some(PairFailure::NotAccepted), "expired");
        assert!(duo.world.store(k).is_empty());
    }
}

/// PAIR-40: a handshake that began before the code's end goes on to its own end.
#[test]
fn a_handshake_outlives_the_code_it_began_under() {
    let mut duo = Duo::new(5, Wire::Sim);
    duo.answers(Answer::Silent, Answer::Yes);
    let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
    duo.world.run_for(Duration::from_secs(599));
    let at = duo.world.address(duo.i);
    // Slow enough that the Response arrives after the deadline.
    duo.world.set_latency(Duration::from_millis(300), Duration::ZERO);
    duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).expect("free");
    let (i, session) = (duo.i, invite.session);
    assert!(duo.world.run_until(MINUTE, |world| asked(world, i, session)), "{}", duo.story());
    assert!(duo.world.now() > Duration::from_secs(601));
    duo.world.call(i, |node, env| node.answer_pairing(env, session, true)).expect("asked");
    duo.world.run_for(MINUTE);
    assert!(duo.both_confirmed(), "{}", duo.story());
    assert!(duo.pair_failure(i).is_none(), "{}", duo.story());
}

/// PAIR-19, PAIR-45: a device that types its own code.
#[test]
fn a_device_does_not_pair_with_itself() {
    for wire in WIRES {
        let mut duo = Duo::new(6, wire);
        let i = duo.i;
        let invite = duo.world.invite(i, Confirm::Automatic).expect("free");
        let at = duo.world.address(i);
        duo.world.join(i, &invite.code, &[at], Confirm::Automatic).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.world.saw(i, |event| matches!(event, Event::PairFailed { reason: PairFailure::SelfPairing, .. })), "{}", duo.story());
        assert!(duo.nothing_stored());
    }
}

/// PAIR-45: two initiators wait for nobody; two joiners find no code at each other.
#[test]
fn roles_that_cannot_meet_end_without_a_record() {
    for wire in WIRES {
        let mut duo = Duo::new(7, wire);
        let (i, j) = (duo.i, duo.j);
        duo.world.invite(i, Confirm::Automatic).expect("free");
        duo.world.invite(j, Confirm::Automatic).expect("free");
        duo.world.run_for(LONG);
        assert_eq!((duo.pair_failure(i), duo.pair_failure(j)), (Some(PairFailure::Expired), Some(PairFailure::Expired)));
        let code = other_code(1);
        let at = [duo.world.address(i), duo.world.address(j)];
        duo.world.join(i, &code, &at[1..], Confirm::Automatic).expect("free");
        duo.world.join(j, &code, &at[..1], Confirm::Automatic).expect("free");
        duo.world.run_for(LONG);
        assert_eq!((duo.pair_failure(i), duo.pair_failure(j)), (Some(PairFailure::NotAccepted), Some(PairFailure::NotAccepted)));
        assert!(duo.nothing_stored());
    }
}

/// PAIR-35, PAIR-47 and section 12: the stream is lost behind every frame and in the middle of each, in each direction.
#[test]
fn the_stream_is_lost_at_every_frame() {
    let places = |side| {
        let last = if side == Side::Opener { 0..=3 } else { 1..=3 };
        last.map(At::Frame).chain((0..40).map(|step| At::Byte(step * 61)))
    };
    for wire in WIRES {
        for side in [Side::Opener, Side::Answerer] {
            for at in places(side) {
                for seed in 0..3 {
                    for from_joiner in [true, false] {
                        let mut duo = Duo::new(seed, wire);
                        duo.world.rule(rule(side, at, Damage::Cut));
                        duo.start(Confirm::Ask);
                        duo.world.run_for(LONG);
                        let early = match (side, at) {
                            (Side::Opener, At::Frame(0..=2)) | (Side::Answerer, At::Frame(1)) => true,
                            (Side::Opener, At::Byte(byte)) => byte < 1300,
                            (Side::Answerer, At::Byte(byte)) => byte < 1600,
                            _ => false,
                        };
                        if early {
                            assert!(!duo.both_confirmed(), "{side:?} {at:?}\n{}", duo.story());
                            assert!(duo.world.store(duo.i).is_empty(), "{side:?} {at:?}\n{}", duo.story());
                        }
                        if matches!((side, at), (Side::Answerer, At::Frame(2 | 3)) | (Side::Opener, At::Frame(3))) {
                            assert!(duo.world.confirmed(duo.j, duo.i), "{side:?} {at:?}\n{}", duo.story());
                        }
                        if from_joiner {
                            duo.check_agreement(true);
                        } else {
                            let from_i = duo.reconnect(duo.i);
                            assert_eq!(from_i, duo.both_confirmed(), "{side:?} {at:?}\n{}", duo.story());
                            duo.check_agreement(true);
                        }
                    }
                }
            }
        }
    }
}

/// PAIR-23, PAIR-29, PAIR-32, PAIR-47: a crash at every durable write of either side, before and after it is durable.
#[test]
fn a_crash_at_every_write_leaves_both_paired_or_neither() {
    for wire in WIRES {
        for seed in 0..4 {
            let mut honest = Duo::new(seed, wire);
            honest.start(Confirm::Ask);
            honest.world.run_for(LONG);
            assert!(honest.both_confirmed());
            let (i, j) = (honest.i, honest.j);
            let writes = [(i, honest.world.persists(i)), (j, honest.world.persists(j))];
            assert!(writes.iter().all(|(_, count)| *count >= 2));
            for (who, count) in writes {
                for number in 1..=count {
                    for fault in [StoreFault::CrashBefore, StoreFault::CrashAfter] {
                        for from_joiner in [true, false] {
                            let mut duo = Duo::new(seed, wire);
                            duo.world.fault_store(who, number, fault);
                            duo.start(Confirm::Ask);
                            duo.world.run_for(Duration::from_secs(300));
                            assert_eq!(duo.world.fired(), 1, "write {number} was reached");
                            assert!(!duo.world.is_up(who));
                            duo.world.restart(who);
                            duo.world.run_for(LONG);
                            if !from_joiner {
                                duo.reconnect(duo.i);
                            }
                            duo.check_agreement(true);
                        }
                    }
                }
            }
        }
    }
}

/// PAIR-30: a write that fails leaves no pair, in memory or on disk; the other side is told.
#[test]
fn a_failed_write_leaves_no_pair() {
    for wire in WIRES {
        for initiator in [true, false] {
            let mut duo = Duo::new(8, wire);
            let who = if initiator { duo.i } else { duo.j };
            duo.world.fault_store(who, 1, StoreFault::Fail);
            duo.start(Confirm::Ask);
            duo.world.run_for(LONG);
            assert_eq!(duo.world.fired(), 1);
            assert_eq!(duo.pair_failure(who), Some(PairFailure::StorageHere), "{}", duo.story());
            if initiator {
                assert_eq!(duo.pair_failure(duo.j), Some(PairFailure::StorageThere), "{}", duo.story());
            }
            assert!(duo.nothing_stored(), "{}", duo.story());
            assert!(duo.world.devices(duo.i).is_empty() && duo.world.devices(duo.j).is_empty());
            duo.check_agreement(false);
        }
    }
}

/// PAIR-24: with the question open the pending root opens nothing, in either direction, whatever happened to the stream.
#[test]
fn a_pending_root_opens_nothing_before_the_yes() {
    for wire in WIRES {
        let mut duo = Duo::new(9, wire);
        duo.answers(Answer::Yes, Answer::Silent);
        // The initiator has stored and told; the joiner's user thinks.
        duo.world.rule(rule(Side::Answerer, At::Frame(2), Damage::Cut));
        let invite = duo.start(Confirm::Ask);
        duo.world.run_for(Duration::from_secs(30));
        assert_eq!(duo.world.fired(), 1);
        assert!(!duo.reconnect(duo.i), "{}", duo.story());
        assert!(!duo.reconnect(duo.j), "{}", duo.story());
        assert!(!duo.world.confirmed(duo.j, duo.i) && !duo.world.confirmed(duo.i, duo.j));
        duo.world.clear_events();
        let answered = duo.world.call(duo.j, |node, env| node.answer_pairing(env, invite.session, true));
        // Two reconnects took their time: the question may have timed out, which counts as a no.
        if answered.is_ok() {
            duo.world.run_for(MINUTE);
            assert!(duo.both_confirmed(), "{}", duo.story());
        } else {
            assert!(duo.world.store(duo.j).is_empty(), "{}", duo.story());
        }
    }
}

/// PAIR-44, PAIR-35: a provisional root that nobody confirms is gone after 24 hours, also if the process was started anew.
#[test]
fn a_pending_root_lives_a_day() {
    for restarted in [false, true] {
        let mut duo = Duo::new(10, Wire::Sim);
        duo.world.rule(rule(Side::Opener, At::Frame(2), Damage::Cut));
        duo.start(Confirm::Ask);
        duo.world.run_for(LONG);
        let j = duo.j;
        assert!(duo.world.saw(j, |event| matches!(event, Event::PairUnfinished { .. })), "{}", duo.story());
        assert_eq!(duo.world.store(j).len(), 1);
        assert_eq!(duo.world.view(j, duo.i).map(|view| view.state), Some(DeviceState::Pairing));
        if restarted {
            duo.world.crash(j);
            duo.world.run_for(MINUTE);
            duo.world.restart(j);
        }
        duo.world.run_for(Duration::from_secs(23 * 3600));
        assert_eq!(duo.world.store(j).len(), 1);
        duo.world.run_for(Duration::from_secs(2 * 3600));
        assert!(duo.world.store(j).is_empty() && duo.world.devices(j).is_empty(), "{}", duo.story());
    }
}

/// PAIR-44: the initiator's unconfirmed record is never deleted by time.
#[test]
fn an_unconfirmed_record_stays() {
    let mut duo = Duo::new(11, Wire::Sim);
    duo.world.rule(rule(Side::Answerer, At::Frame(2), Damage::Crash(duo.j)));
    duo.start(Confirm::Automatic);
    duo.world.run_for(Duration::from_secs(40 * 3600));
    assert_eq!(duo.world.view(duo.i, duo.j).map(|view| view.confirmed), Some(false), "{}", duo.story());
}

/// PAIR-31: pairing again replaces the root once it is confirmed, leaves one record, and settings stay.
#[test]
fn pairing_again_replaces_the_root() {
    for wire in WIRES {
        let mut duo = Duo::paired(12, wire);
        let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
        duo.world.call(i, |node, env| node.rename_device(env, j_id, "Bob")).expect("known");
        duo.start(Confirm::Ask);
        duo.world.run_for(MINUTE);
        let repaired = |event: &Event| matches!(event, Event::Paired { repaired: true, .. });
        assert!(duo.world.saw(i, repaired) && duo.world.saw(j, repaired), "{}", duo.story());
        assert!(duo.both_confirmed() && duo.both_connected(), "{}", duo.story());
        assert_eq!(duo.world.view(i, j).map(|view| view.name), Some("Bob".into()));
        duo.check_agreement(true);
        // One that comes to nothing leaves the old root in force.
        duo.world.rule(rule(Side::Answerer, At::Frame(1), Damage::Cut));
        duo.start(Confirm::Ask);
        duo.world.run_for(LONG);
        duo.check_agreement(true);
    }
}

/// PAIR-31, LINK-2: again with a crash or a cut at every step: the pair is never lost.
#[test]
fn pairing_again_never_loses_the_pair() {
    for (side, frames) in [(Side::Opener, 0..=3), (Side::Answerer, 1..=3)] {
        for frame in frames {
            for crash in [None, Some(true), Some(false)] {
                for answer in [Answer::Yes, Answer::No] {
                    let mut duo = Duo::paired(13, Wire::Sim);
                    duo.answers(Answer::Yes, answer);
                    let damage = match crash {
                        None => Damage::Cut,
                        Some(true) => Damage::Crash(duo.i),
                        Some(false) => Damage::Crash(duo.j),
                    };
                    duo.world.rule(rule(side, At::Frame(frame), damage));
                    duo.start(Confirm::Ask);
                    duo.world.run_for(LONG);
                    assert!(duo.reconnect(duo.j), "{side:?} {frame} {crash:?} {answer:?}\n{}", duo.story());
                    assert!(duo.both_confirmed());
                    duo.disconnect();
                    assert!(duo.reconnect(duo.i), "{side:?} {frame} {crash:?} {answer:?}\n{}", duo.story());
                }
            }
        }
    }
}

/// PAIR-30, PAIR-31: a failed write while pairing again leaves the old root in force, in memory too.
#[test]
fn a_failed_write_while_pairing_again_keeps_the_pair() {
    for wire in WIRES {
        for (initiator, number) in [(true, 1), (true, 2), (false, 1), (false, 2), (false, 3)] {
            let mut duo = Duo::paired(14, wire);
            let who = if initiator { duo.i } else { duo.j };
            duo.world.fault_store(who, number, StoreFault::Fail);
            duo.start(Confirm::Ask);
            duo.world.run_for(LONG);
            assert_eq!(duo.world.fired(), 1, "{initiator} {number}");
            duo.check_agreement(true);
            assert!(duo.both_confirmed(), "{initiator} {number}\n{}", duo.story());
            for dev in [duo.i, duo.j] {
                duo.world.crash(dev);
            }
            duo.check_agreement(true);
            assert!(duo.both_confirmed(), "{initiator} {number}, after a restart\n{}", duo.story());
        }
    }
}

/// PAIR-27: two devices that know the words: one becomes a pair, whoever wins, and the other is refused.
#[test]
fn a_code_admits_one_device() {
    for seed in 0..12 {
        let wire = WIRES[seed as usize % 2];
        let mut duo = Duo::new(seed, wire);
        let k = duo.world.add_device_on("Carol", wire);
        let at = duo.world.address(duo.i);
        let invite = duo.start(Confirm::Ask);
        duo.world.join(k, &invite.code, &[at], Confirm::Ask).expect("free");
        duo.world.run_for(LONG);
        let pairs = [duo.j, k].into_iter().filter(|&dev| duo.world.confirmed(dev, duo.i) && duo.world.confirmed(duo.i, dev)).count();
        assert_eq!(pairs, 1, "{}", duo.story());
        assert_eq!(duo.world.devices(duo.i).len(), 1);
        let loser = if duo.world.confirmed(duo.i, k) { duo.j } else { k };
        // It lost before it had answered, or finds out by the reconnect that finishes pairings.
        let refused = |event: &Event| matches!(event, Event::ConnectFailed { reason: LinkFailure::NotAccepted, .. });
        let lost = pair_failure(&duo.world, loser) == Some(PairFailure::NotAccepted) || duo.world.saw(loser, refused);
        assert!(lost && !duo.world.confirmed(loser, duo.i), "{}", duo.story());
    }
}

/// PAIR-22, PAIR-43: given several addresses the joiner answers one identity only; addresses where nobody is do not matter.
#[test]
fn a_joiner_with_many_addresses_finds_the_right_one() {
    for seed in 0..8 {
        let wire = WIRES[seed as usize % 2];
        let mut duo = Duo::new(seed, wire);
        let others: Vec<_> = (0..6).map(|_| duo.world.add_device_on("other", wire)).collect();
        duo.world.crash(others[0]);
        let mut at: Vec<_> = others.iter().map(|&dev| duo.world.address(dev)).collect();
        at.insert(3, duo.world.address(duo.i));
        at.push(duo.world.address(duo.i));
        let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
        duo.world.join(duo.j, &invite.code, &at, Confirm::Ask).expect("free");
        duo.world.run_for(LONG);
        assert!(duo.both_confirmed() && duo.both_connected(), "{}", duo.story());
        duo.check_agreement(true);
    }
}

/// PAIR-41, and calls in the wrong state: they change nothing.
#[test]
fn calls_in_the_wrong_state_change_nothing() {
    let mut duo = Duo::new(15, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let unknown = duo.world.id(j);
    let invite = duo.world.invite(i, Confirm::Ask).expect("free");
    assert_eq!(duo.world.invite(i, Confirm::Ask).err(), Some(PairError::Busy));
    for ttl in [299, 601] {
        let short = duo.world.call(j, |node, env| node.start_pairing_as_initiator(env, Duration::from_secs(ttl), Confirm::Ask));
        assert_eq!(short.err(), Some(PairError::Lifetime));
    }
    assert_eq!(duo.world.join(j, &invite.code, &[], Confirm::Ask).err(), Some(PairError::NoAddress));
    for dev in [i, j] {
        assert!(duo.world.call(dev, |node, env| node.answer_pairing(env, invite.session, true)).is_err());
        assert!(duo.world.call(dev, |node, env| node.connect(env, unknown, &[])).is_err());
        assert!(duo.world.call(dev, |node, env| node.rename_device(env, unknown, "x")).is_err());
        assert!(duo.world.call(dev, |node, env| node.forget_device(env, unknown)).is_err());
        duo.world.call(dev, |node, env| node.disconnect(env, unknown));
    }
    duo.world.call(j, |node, env| node.cancel_pairing(env, invite.session));
    assert!(duo.world.events().is_empty());
    let at = duo.world.address(i);
    duo.world.join(j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
    assert_eq!(duo.world.join(j, &invite.code, &[at], Confirm::Ask).err(), Some(PairError::Busy));
    duo.world.run_for(MINUTE);
    for dev in [i, j] {
        assert!(duo.world.call(dev, |node, env| node.answer_pairing(env, invite.session, false)).is_err(), "answered already");
        duo.world.call(dev, |node, env| node.cancel_pairing(env, invite.session));
    }
    assert!(duo.both_confirmed() && duo.both_connected(), "{}", duo.story());
}

/// PAIR-41: a code that is cancelled is void; an attempt that is cancelled at any moment can be begun again at once.
#[test]
fn cancelling_at_any_moment_leaves_nothing_behind() {
    for wire in WIRES {
        for side in [true, false] {
            for step in 0..60 {
                let mut duo = Duo::new(step, wire);
                let invite = duo.start(Confirm::Ask);
                duo.world.run_for(Duration::from_millis(step * 3 + if step > 30 { step * 60 } else { 0 }));
                let sure = duo.world.confirmed(duo.j, duo.i);
                let who = if side { duo.i } else { duo.j };
                duo.world.call(who, |node, env| node.cancel_pairing(env, invite.session));
                if !side {
                    // The same code again, while answers to the first attempt are still on their way.
                    let at = duo.world.address(duo.i);
                    duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).ok();
                }
                duo.world.run_for(LONG);
                if sure {
                    assert!(duo.both_confirmed(), "{}", duo.story());
                }
                if !duo.both_confirmed() {
                    // Nothing is left that keeps a new pairing from working.
                    let (i, j) = (duo.i, duo.j);
                    if duo.world.invite(i, Confirm::Ask).is_err() {
                        panic!("busy for ever: {}", duo.story());
                    }
                    duo.world.call(i, |node, env| node.shutdown(env));
                    duo.world.crash(i);
                    duo.world.crash(j);
                }
                duo.check_agreement(true);
            }
        }
    }
}

/// PAIR-39, PAIR-18: three failures past the tag burn the code where the transport is authentic; on bare TCP, where anybody on
/// the way can damage bytes, only the sixteenth handshake that comes to nothing does.
#[test]
fn failures_past_the_tag_burn_the_code() {
    for (wire, tries) in [(Wire::Sim, 3), (Wire::Tcp, 16)] {
        let mut duo = Duo::new(16, wire);
        duo.answers(Answer::Yes, Answer::Silent);
        let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
        let at = duo.world.address(duo.i);
        for number in 1..=tries {
            assert_eq!(duo.pair_failure(duo.i), None, "burned before try {number}");
            duo.world.rule(rule(Side::Opener, At::Frame(2), Damage::Flip(200)));
            duo.world.join(duo.j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
            duo.world.run_for(Duration::from_secs(5));
            duo.world.call(duo.j, |node, env| node.cancel_pairing(env, invite.session));
            duo.world.run_for(Duration::from_secs(5));
        }
        assert_eq!(duo.pair_failure(duo.i), Some(PairFailure::Burned));
        duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.nothing_stored(), "{}", duo.story());
        assert!(duo.world.invite(duo.i, Confirm::Ask).is_ok(), "a new code can be drawn");
    }
}

/// PAIR-18: handshakes that are merely cut count to the sixteen.
#[test]
fn the_sixteenth_handshake_that_comes_to_nothing_burns_the_code() {
    for wire in WIRES {
        let mut duo = Duo::new(17, wire);
        let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
        let at = duo.world.address(duo.i);
        for number in 1..=16 {
            assert_eq!(duo.pair_failure(duo.i), None, "burned before try {number}");
            duo.world.rule(rule(Side::Answerer, At::Frame(1), Damage::Cut));
            duo.world.join(duo.j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
            duo.world.run_for(Duration::from_secs(10));
        }
        assert_eq!(duo.pair_failure(duo.i), Some(PairFailure::Burned), "{}", duo.story());
        assert!(duo.nothing_stored());
    }
}

/// PAIR-42, LINK-17: with everything lost in silence at any frame, each wait ends by itself, and both sides are free again.
#[test]
fn every_wait_ends() {
    for wire in WIRES {
        for (side, frames) in [(Side::Opener, 0..=3), (Side::Answerer, 1..=3)] {
            for frame in frames {
                let mut duo = Duo::new(18, wire);
                duo.world.rule(rule(side, At::Frame(frame), Damage::Vanish));
                duo.start(Confirm::Ask);
                duo.world.run_for(Duration::from_secs(1300));
                assert_eq!(duo.world.fired(), 1);
                let (i, j) = (duo.i, duo.j);
                assert!(duo.world.invite(i, Confirm::Ask).is_ok(), "{side:?} {frame}: I is busy\n{}", duo.story());
                let code = other_code(1);
                let at = duo.world.address(i);
                assert!(duo.world.join(j, &code, &[at], Confirm::Ask).is_ok(), "{side:?} {frame}: J is busy\n{}", duo.story());
                duo.world.run_for(LONG);
                duo.check_agreement(true);
            }
        }
    }
}

/// PAIR-25: nobody answers, nothing comes: the question ends after two minutes and is not asked any more.
#[test]
fn a_question_stays_open_for_two_minutes() {
    let mut duo = Duo::new(19, Wire::Sim);
    duo.answers(Answer::Silent, Answer::Silent);
    let invite = duo.start(Confirm::Ask);
    let (i, j) = (duo.i, duo.j);
    assert!(duo.world.run_until(MINUTE, |world| asked(world, i, invite.session) && asked(world, j, invite.session)));
    duo.world.run_for(Duration::from_secs(118));
    assert_eq!((duo.pair_failure(i), duo.pair_failure(j)), (None, None));
    duo.world.run_for(Duration::from_secs(10));
    assert!(duo.pair_failure(i).is_some() && duo.pair_failure(j).is_some(), "{}", duo.story());
    for dev in [i, j] {
        assert!(duo.world.call(dev, |node, env| node.answer_pairing(env, invite.session, true)).is_err());
    }
    assert!(duo.nothing_stored());
}

/// LIM-3: one device too many is told "policy", and leaves no record.
#[test]
fn too_many_devices_are_refused() {
    let mut world = World::quiet(20);
    let hub = world.add_device("hub");
    for _ in 0..256 {
        let other = world.add_device("spoke");
        world.pair(hub, other);
        world.crash(other);
    }
    let last = world.add_device("one too many");
    let invite = world.invite(hub, Confirm::Automatic).expect("free");
    let at = world.address(hub);
    world.join(last, &invite.code, &[at], Confirm::Automatic).expect("free");
    world.run_for(MINUTE);
    assert_eq!(pair_failure(&world, hub), Some(PairFailure::TooManyDevices));
    assert_eq!(pair_failure(&world, last), Some(PairFailure::Policy));
    assert!(world.store(last).is_empty());
    let failed = |event: &Event| matches!(event, Event::ConnectFailed { reason: LinkFailure::NotAccepted, .. });
    assert!(!world.saw(last, failed));
}

/// PAIR-48: a removal that the disk did not take is told as such, is tried again, and counts when it is durable.
#[test]
fn a_removal_that_fails_is_told_and_made_good() {
    let mut duo = Duo::paired(31, Wire::Sim);
    let (i, j_id) = (duo.i, duo.world.id(duo.j));
    duo.world.fault_store(i, 1, StoreFault::Fail);
    duo.world.call(i, |node, env| node.forget_device(env, j_id)).expect("known");
    duo.world.run_for(Duration::from_secs(5));
    assert!(duo.world.devices(i).is_empty());
    assert!(duo.world.saw(i, |event| matches!(event, Event::NotStored { device } if *device == j_id)), "{}", duo.story());
    assert!(!duo.world.saw(i, |event| matches!(event, Event::Removed { .. })), "{}", duo.story());
    duo.world.run_for(Duration::from_secs(10));
    assert!(duo.world.saw(i, |event| matches!(event, Event::Removed { device } if *device == j_id)), "{}", duo.story());
    duo.world.crash(i);
    duo.world.restart(i);
    assert!(duo.world.devices(i).is_empty());
}
