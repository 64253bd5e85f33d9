//! Parting, blocking, policy, and staying connected, in virtual time (PROTOCOL.md, sections 8.1 and 9.8).

use std::time::Duration;

use adapter_sim::{At, Damage, Dev, Rule, Side, StoreFault, Wire, World};
use kin_tests::story::{Duo, sample_tree};
use protocol_core::effects::{DeviceState, Event, Fact, Input};
use protocol_core::faults::{DeclineReason, LinkFailure, PairFailure, TransferFailure};
use protocol_core::limits;
use protocol_core::node::{Confirm, ConnectError, FilePolicy, Policy};
use protocol_core::records::{DEVICES, TOMBSTONES};
use protocol_core::wire::control::MessageState;
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);

fn forget(world: &mut World, dev: Dev, peer: Dev) {
    let id = world.id(peer);
    world.call(dev, |node, env| node.forget_device(env, id)).expect("known");
}

fn was_removed(world: &World, dev: Dev) -> usize {
    world.events_of(dev).filter(|event| matches!(event, Event::RemovedThere { .. })).count()
}

fn rows(world: &World, dev: Dev, table: u8) -> usize {
    world.store(dev).keys().filter(|(of, _)| *of == table).count()
}

fn keep(world: &mut World, dev: Dev, on: bool) {
    world.call(dev, |node, env| node.keep_connected(env, on));
}

fn set_policy(world: &mut World, dev: Dev, peer: Dev, policy: Policy) {
    let id = world.id(peer);
    world.call(dev, |node, env| node.set_policy(env, id, policy)).expect("known");
}

/// UNP-1, UNP-3, UNP-5, UNP-6: who is connected hears of it at once, keeps its record, and dials no more by itself.
#[test]
fn who_is_connected_hears_that_it_was_removed() {
    for wire in WIRES {
        let mut duo = Duo::paired(1, wire);
        let (i, j) = (duo.i, duo.j);
        keep(&mut duo.world, j, true);
        forget(&mut duo.world, i, j);
        duo.world.run_for(Duration::from_secs(3));
        assert!(duo.world.saw(i, |event| matches!(event, Event::Removed { .. })), "{}", duo.story());
        assert_eq!(was_removed(&duo.world, j), 1, "{}", duo.story());
        let view = duo.world.view(j, i).expect("its owner was not asked yet");
        assert!(view.removed_there.is_some() && view.confirmed && view.state == DeviceState::Disconnected);
        assert_eq!(view.last_end.map(|(reason, _)| reason), Some(LinkFailure::Removed));
        let before = duo.world.connections();
        duo.world.run_for(20 * MINUTE);
        assert_eq!(duo.world.connections(), before, "nobody asked\n{}", duo.story());
        // A restart changes neither side.
        for dev in [i, j] {
            duo.world.crash(dev);
            duo.world.restart(dev);
        }
        assert!(duo.world.view(j, i).unwrap().removed_there.is_some());
        assert_eq!((rows(&duo.world, i, DEVICES), rows(&duo.world, i, TOMBSTONES)), (0, 1));
        assert!(!duo.reconnect(j));
        assert_eq!(duo.connect_failures(j).last(), Some(&LinkFailure::Removed), "{}", duo.story());
        forget(&mut duo.world, j, i);
        duo.world.run_for(MINUTE);
        assert!(duo.world.devices(j).is_empty());
    }
}

/// UNP-4, UNP-5: who was away learns it at the next contact, from either incarnation of the other; once.
#[test]
fn who_was_away_learns_it_at_the_next_contact() {
    for wire in WIRES {
        for restarted in [false, true] {
            let mut duo = Duo::paired(2, wire);
            duo.disconnect();
            let (i, j) = (duo.i, duo.j);
            duo.world.crash(j);
            forget(&mut duo.world, i, j);
            duo.world.run_for(MINUTE);
            if restarted {
                duo.world.crash(i);
            }
            duo.world.clear_events();
            assert!(!duo.reconnect(j));
            assert_eq!((was_removed(&duo.world, j), duo.connect_failures(j)), (1, vec![LinkFailure::Removed]), "{}", duo.story());
            assert!(!duo.reconnect(j));
            assert_eq!(was_removed(&duo.world, j), 1, "it is told once\n{}", duo.story());
        }
    }
}

/// UNP-2: the device that forgets crashes before that is durable, or cannot write it: nobody was told, and the pair stands.
#[test]
fn nobody_is_told_of_what_is_not_durable() {
    for wire in WIRES {
        for fault in [StoreFault::CrashBefore, StoreFault::CrashAfter] {
            let mut duo = Duo::paired(3, wire);
            let (i, j) = (duo.i, duo.j);
            duo.world.fault_store(i, 1, fault);
            forget(&mut duo.world, i, j);
            duo.world.run_for(Duration::from_secs(5));
            assert!(!duo.world.is_up(i), "{}", duo.story());
            assert_eq!(was_removed(&duo.world, j), 0, "{}", duo.story());
            duo.world.run_for(MINUTE);
            let stands = fault == StoreFault::CrashBefore;
            assert_eq!(duo.reconnect(j), stands, "{}", duo.story());
            assert_eq!(was_removed(&duo.world, j), usize::from(!stands), "{}", duo.story());
        }
    }
}

/// UNP-5: somebody else who answers with a notice, or changes one bit of a right one, removes nothing.
#[test]
fn a_notice_without_its_proof_removes_nothing() {
    for wire in WIRES {
        for bit in [40, 100, 270] {
            let mut duo = Duo::paired(4, wire);
            duo.disconnect();
            let (i, j) = (duo.i, duo.j);
            forget(&mut duo.world, i, j);
            duo.world.run_for(MINUTE);
            duo.world.clear_events();
            duo.world.rule(Rule { name: StreamName::Link, side: Side::Answerer, at: At::Frame(1), damage: Damage::Flip(bit) });
            duo.world.connect(j, i);
            duo.world.run_for(2 * MINUTE);
            assert_eq!(was_removed(&duo.world, j), 0, "{}", duo.story());
            assert_eq!(duo.connect_failures(j), [LinkFailure::NotAccepted]);
            assert_eq!(duo.world.view(j, i).unwrap().removed_there, None);
        }
    }
}

/// UNP-6: a new pairing is not touched by what is said of the old one, whichever side had removed it.
#[test]
fn a_new_pairing_stands_beside_what_was_removed() {
    for wire in WIRES {
        let mut duo = Duo::paired(5, wire);
        let (i, j) = (duo.i, duo.j);
        set_policy(&mut duo.world, j, i, Policy { files: FilePolicy::Refuse, ..Policy::default() });
        forget(&mut duo.world, i, j);
        duo.world.run_for(MINUTE);
        assert!(duo.world.view(j, i).unwrap().removed_there.is_some());
        duo.world.pair(i, j);
        duo.world.run_for(MINUTE);
        let view = duo.world.view(j, i).unwrap();
        assert!(view.removed_there.is_none() && view.confirmed && duo.both_connected(), "{}", duo.story());
        // POL-1: what the owner said holds for the device.
        assert_eq!(view.policy.files, FilePolicy::Refuse);
        duo.disconnect();
        assert!(duo.reconnect(j), "{}", duo.story());
    }
}

/// UNP-6: the device that forgot is put back from a copy, and finds the other.
#[test]
fn a_restored_copy_lifts_the_removal() {
    let mut duo = Duo::paired(6, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.back_up(i);
    forget(&mut duo.world, i, j);
    duo.world.run_for(MINUTE);
    assert!(duo.world.view(j, i).unwrap().removed_there.is_some());
    duo.world.crash(i);
    duo.world.roll_back(i);
    assert!(duo.reconnect(j), "{}", duo.story());
    assert_eq!(duo.world.view(j, i).unwrap().removed_there, None);
}

/// Both forget each other at the same moment, with a transfer under way: nothing is left anywhere.
#[test]
fn both_forget_each_other_at_once() {
    for wire in WIRES {
        for after in [0, 20, 300, 900] {
            let mut duo = Duo::paired(7, wire);
            let (i, j) = (duo.i, duo.j);
            duo.world.share(i, j, &sample_tree(), 65_536).expect("paired");
            duo.world.run_for(Duration::from_millis(after));
            forget(&mut duo.world, i, j);
            forget(&mut duo.world, j, i);
            duo.world.run_for(2 * MINUTE);
            for dev in [i, j] {
                assert!(duo.world.devices(dev).is_empty() && duo.world.disk(dev).temporaries() == 0, "{}", duo.story());
                assert_eq!((rows(&duo.world, dev, DEVICES), was_removed(&duo.world, dev)), (0, 0));
            }
        }
    }
}

/// POL-4: a blocked device is answered like a stranger, in either direction, also after restarts, until that is lifted.
#[test]
fn nothing_of_a_blocked_device_is_accepted() {
    for wire in WIRES {
        let mut duo = Duo::paired(8, wire);
        let (i, j) = (duo.i, duo.j);
        let (i_id, j_id) = (duo.world.id(i), duo.world.id(j));
        duo.world.call(i, |node, env| node.block_device(env, j_id, true)).expect("known");
        duo.world.run_for(Duration::from_secs(5));
        assert!(!duo.world.connected(i, j) && !duo.world.connected(j, i), "{}", duo.story());
        assert!(duo.world.saw(i, |event| matches!(event, Event::DeviceChanged { .. })));
        for restart in [false, true] {
            if restart {
                duo.world.crash(i);
                duo.world.restart(i);
            }
            duo.world.clear_events();
            assert!(!duo.reconnect(j), "{}", duo.story());
            assert_eq!((duo.connect_failures(j), was_removed(&duo.world, j)), (vec![LinkFailure::NotAccepted], 0));
            assert_eq!(duo.world.call(i, |node, env| node.connect(env, j_id, &[])), Err(ConnectError::Blocked));
            assert!(duo.world.share(i, j, &sample_tree(), 65_536).is_err());
            assert!(duo.world.view(i, j).unwrap().blocked.is_some());
        }
        assert!(duo.world.call(i, |node, env| node.block_device(env, i_id, false)).is_err(), "nobody of that id is blocked");
        duo.world.call(i, |node, env| node.block_device(env, j_id, false)).expect("blocked");
        duo.world.run_for(MINUTE);
        assert!(duo.reconnect(j), "{}", duo.story());
    }
}

/// POL-5: it does not pair again either, as joiner or as initiator, forgotten or not.
#[test]
fn a_blocked_device_does_not_pair_again() {
    for wire in WIRES {
        for forgotten in [false, true] {
            for shows in [true, false] {
                let mut duo = Duo::paired(9, wire);
                let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
                duo.world.call(i, |node, env| node.block_device(env, j_id, true)).expect("known");
                if forgotten {
                    forget(&mut duo.world, i, j);
                    assert_eq!(duo.world.call(i, |node, _| node.blocked_devices()).len(), 1);
                }
                duo.world.run_for(MINUTE);
                duo.world.crash(i);
                duo.world.restart(i);
                duo.world.clear_events();
                let (shows, types) = if shows { (i, j) } else { (j, i) };
                let invite = duo.world.invite(shows, Confirm::Automatic).expect("no other pairing runs");
                let at = duo.world.address(shows);
                duo.world.join(types, &invite.code, &[at], Confirm::Automatic).expect("no other attempt runs");
                duo.world.run_for(Duration::from_secs(700));
                assert_eq!(duo.pair_failure(i), Some(PairFailure::Blocked), "{}", duo.story());
                assert!(!duo.world.saw(j, |event| matches!(event, Event::Paired { .. })), "{}", duo.story());
                if shows == i {
                    assert_eq!(duo.pair_failure(j), Some(PairFailure::Policy));
                }
            }
        }
    }
}

/// POL-1, POL-2: what the policy refuses is declined and shown to nobody; what it allows is asked about; it survives a restart.
#[test]
fn files_go_by_policy() {
    for wire in WIRES {
        let mut duo = Duo::paired(10, wire);
        let (i, j) = (duo.i, duo.j);
        let refusals = [
            (Policy { files: FilePolicy::Refuse, ..Policy::default() }, DeclineReason::Policy),
            (Policy { max_bytes: Some(10), ..Policy::default() }, DeclineReason::TooLarge),
            (Policy { max_entries: Some(1), ..Policy::default() }, DeclineReason::TooLarge),
        ];
        for (policy, why) in refusals {
            set_policy(&mut duo.world, i, j, policy.clone());
            duo.world.run_for(MINUTE);
            duo.world.crash(i);
            duo.world.run_for(MINUTE);
            assert!(duo.reconnect(j), "{}", duo.story());
            assert_eq!(duo.world.view(i, j).unwrap().policy, policy);
            duo.world.clear_events();
            let key = duo.world.share(j, i, &sample_tree(), 65_536).expect("paired");
            duo.world.run_for(Duration::from_secs(20));
            let declined = TransferFailure::Declined(why);
            assert!(duo.world.saw(j, |event| *event == Event::Failed { transfer: key, reason: declined }), "{}", duo.story());
            assert!(!duo.world.saw(i, |event| matches!(event, Event::Offered { .. } | Event::OfferDeclined { .. })), "{}", duo.story());
            assert!(duo.both_connected(), "a refusal ends no session\n{}", duo.story());
        }
        set_policy(
            &mut duo.world,
            i,
            j,
            Policy { max_bytes: Some(1 << 40), max_entries: Some(1_000), files: FilePolicy::Automatic, ..Policy::default() },
        );
        let key = duo.world.share(j, i, &sample_tree(), 65_536).expect("paired");
        assert!(
            duo.world.run_until(MINUTE, |world| world.saw(j, |event| matches!(event, Event::Done { transfer, .. } if *transfer == key)))
        );
        let long = Policy { folder: Some("x".repeat(limits::PATH_BYTES + 1)), ..Policy::default() };
        let id = duo.world.id(j);
        assert!(duo.world.call(i, |node, env| node.set_policy(env, id, long)).is_err());
    }
}

/// POL-3: a message that the policy refuses is told to have been.
#[test]
fn messages_go_by_policy() {
    let mut duo = Duo::paired(11, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    set_policy(&mut duo.world, i, j, Policy { messages: false, ..Policy::default() });
    let refused = duo.world.send_message(j, i, b"not wanted", 60).expect("paired");
    duo.world.run_for(Duration::from_secs(5));
    set_policy(&mut duo.world, i, j, Policy::default());
    let taken = duo.world.send_message(j, i, b"wanted", 60).expect("paired");
    duo.world.run_for(Duration::from_secs(5));
    assert_eq!(duo.world.receipts(j), [(refused, MessageState::Refused), (taken, MessageState::Delivered)], "{}", duo.story());
    assert_eq!(duo.world.messages(i, j).into_iter().map(|message| message.id).collect::<Vec<_>>(), [taken]);
}

/// KEEP-1, KEEP-2, KEEP-7: a cut session is back by itself if the owner wants that, with one dial; else nobody dials.
#[test]
fn a_lost_session_comes_back_by_itself_if_it_is_to() {
    for wire in WIRES {
        for (keeps_i, keeps_j) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut duo = Duo::paired(12, wire);
            let (i, j) = (duo.i, duo.j);
            keep(&mut duo.world, i, keeps_i);
            keep(&mut duo.world, j, keeps_j);
            duo.world.run_for(MINUTE);
            let before = duo.world.connections();
            assert!(duo.world.cut_connection(i, j));
            let back = duo
                .world
                .run_until(Duration::from_secs(5), |world| world.connected(i, j) && world.connected(j, i) && world.connections() > before);
            assert_eq!(back, keeps_i || keeps_j, "{}", duo.story());
            duo.world.run_for(20 * MINUTE);
            assert_eq!(duo.both_connected(), back, "{}", duo.story());
            assert_eq!(duo.world.connections() - before, usize::from(back), "{}", duo.story());
            let cut = duo.world.view(i, j).unwrap().last_end.expect("it was cut");
            // KEEP-8.
            assert_eq!(cut.0, LinkFailure::Cut);
        }
    }
}

/// KEEP-3, KEEP-4: who is away is dialled ever more seldom, but at once when our own network is another, or we wake.
#[test]
fn waits_double_up_to_their_ceiling() {
    let mut duo = Duo::paired(13, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.run_for(MINUTE);
    duo.world.crash(j);
    duo.world.run_for(Duration::from_secs(5));
    duo.world.clear_events();
    keep(&mut duo.world, i, true);
    let failures = |world: &World| world.events_of(i).filter(|event| matches!(event, Event::ConnectFailed { .. })).count();
    let hour = 60;
    let mut counts = Vec::new();
    for _ in 0..3 {
        let before = failures(&duo.world);
        duo.world.run_for(hour * MINUTE);
        counts.push(failures(&duo.world) - before);
    }
    assert!(counts[0] > counts[1] && counts[1].abs_diff(counts[2]) <= 4, "{counts:?}");
    // An attempt lasts for as long as the address refuses, and the wait is five minutes, a quarter more or less.
    assert!((8..=16).contains(&counts[2]), "{counts:?}");
    duo.world.restart(j);
    for fact in [Fact::Awake, Fact::Local(Vec::new())] {
        let told = fact.clone();
        let transports = duo.world.transports(i);
        duo.world.call(i, |node, env| node.handle(env, Input::Network(told)));
        if let Fact::Local(_) = fact {
            duo.world.call(i, |node, env| node.handle(env, Input::Network(Fact::Local(transports))));
        }
        assert!(duo.world.run_until(Duration::from_secs(6), |world| world.connected(i, j)), "{fact:?}\n{}", duo.story());
        duo.world.crash(j);
        duo.world.run_for(hour * MINUTE);
        duo.world.restart(j);
    }
}

/// KEEP-5: an owner who disconnects means it.
#[test]
fn a_device_that_was_disconnected_is_not_dialled() {
    let mut duo = Duo::paired(14, Wire::Sim);
    let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
    keep(&mut duo.world, i, true);
    duo.disconnect();
    duo.world.run_for(60 * MINUTE);
    assert!(!duo.world.connected(i, j), "{}", duo.story());
    duo.world.call(i, |node, env| node.connect(env, j_id, &[])).expect("known");
    assert!(duo.world.run_until(MINUTE, |world| world.connected(i, j)));
    duo.world.run_for(MINUTE);
    assert!(duo.world.cut_connection(i, j));
    // KEEP-6: nor is one that is blocked.
    assert!(duo.world.run_until(MINUTE, |world| world.connected(i, j)), "{}", duo.story());
    duo.world.call(i, |node, env| node.block_device(env, j_id, true)).expect("known");
    let before = duo.world.connections();
    duo.world.run_for(60 * MINUTE);
    assert_eq!(duo.world.connections(), before);
}

/// KEEP-7: of many that are to be dialled, who was seen last is dialled first, and the others a second later.
#[test]
fn who_was_seen_last_is_dialled_first() {
    let mut world = World::quiet(18);
    let hub = world.add_device_on("hub", Wire::Sim);
    let late = 8;
    let friends: Vec<Dev> = (0..limits::KEEP_AT_ONCE + late).map(|number| world.add_device_on(&number.to_string(), Wire::Sim)).collect();
    for &friend in &friends {
        world.pair(hub, friend);
        world.run_for(Duration::from_secs(2));
        world.crash(friend);
        world.run_for(Duration::from_secs(2));
    }
    world.crash(hub);
    world.restart(hub);
    world.clear_events();
    keep(&mut world, hub, true);
    world.run_for(limits::KEEP_FIRST / 2);
    // LINK-11: the others dial a little later than these.
    let first: Vec<usize> = (0..friends.len()).filter(|&at| world.key(hub) < world.key(friends[at])).collect();
    let tried = |world: &World, at: usize| {
        let id = world.id(friends[at]);
        world.saw(hub, |event| matches!(event, Event::ConnectFailed { device, .. } if *device == id))
    };
    assert!(first.iter().any(|at| *at < late) && first.iter().any(|at| *at >= late), "both kinds are there: {first:?}");
    for &at in &first {
        assert_eq!(tried(&world, at), at >= late, "{at}");
    }
    world.run_for(limits::KEEP_FIRST);
    assert!(first.iter().all(|&at| tried(&world, at)));
}

/// KEEP-5: an owner who disconnects while an attempt is under way ends that too; one who sends files, or pairs, asks again.
#[test]
fn an_attempt_ends_with_the_owners_wish() {
    let mut duo = Duo::paired(16, Wire::Sim);
    let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
    keep(&mut duo.world, i, true);
    duo.disconnect();
    duo.world.clear_events();
    duo.world.set_latency(Duration::from_millis(500), Duration::ZERO);
    duo.world.call(i, |node, env| node.connect(env, j_id, &[])).expect("known");
    duo.world.run_for(Duration::from_millis(100));
    duo.world.call(i, |node, env| node.disconnect(env, j_id));
    assert_eq!(duo.connect_failures(i), [LinkFailure::Closed]);
    duo.world.run_for(20 * MINUTE);
    assert!(!duo.world.connected(i, j) && !duo.world.connected(j, i), "{}", duo.story());
    duo.world.share(i, j, &sample_tree(), 1 << 16).expect("paired");
    assert!(duo.world.run_until(MINUTE, |world| world.connected(i, j)), "{}", duo.story());
    duo.world.run_for(MINUTE);
    assert!(duo.world.cut_connection(i, j));
    duo.world.run_for(MINUTE);
    assert!(duo.both_connected(), "it is wanted again: {}", duo.story());
}

/// The answer to a question is timed, and goes to who asked.
#[test]
fn a_ping_is_answered() {
    let mut duo = Duo::paired(15, Wire::Sim);
    let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
    duo.world.set_latency(Duration::from_millis(40), Duration::ZERO);
    duo.world.call(i, |node, env| node.ping(env, j_id)).expect("connected");
    duo.world.run_for(Duration::from_secs(1));
    let rtt = duo.world.events_of(i).find_map(|event| if let Event::Pong { device, rtt } = event { Some((*device, *rtt)) } else { None });
    assert_eq!(rtt, Some((j_id, Duration::from_millis(80))));
    assert_eq!(duo.world.view(i, j).unwrap().rtt, Some(Duration::from_millis(80)));
    duo.disconnect();
    assert!(duo.world.call(i, |node, env| node.ping(env, j_id)).is_err());
}
