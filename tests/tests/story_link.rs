//! Reconnects and sessions in virtual time (PROTOCOL.md, sections 8, 9.1, 9.2).

use std::collections::BTreeSet;
use std::time::Duration;

use adapter_sim::{Answer, At, Damage, Dev, DialFault, Rule, Side, StoreFault, Wire, World};
use kin_tests::story::{Duo, sample_tree};
use protocol_core::effects::{DeviceState, Event, Input, TransferKey};
use protocol_core::faults::LinkFailure;
use protocol_core::ids::ConnId;
use protocol_core::limits;
use protocol_core::node::Confirm;
use protocol_core::records::TOMBSTONES;
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);

fn rule(side: Side, at: At, damage: Damage) -> Rule {
    Rule { name: StreamName::Link, side, at, damage }
}

/// The events of one device about the state of another.
fn states(world: &World, dev: Dev) -> Vec<DeviceState> {
    let states = world.events_of(dev).filter_map(|event| match event {
        Event::Device { state, .. } => Some(*state),
        _ => None,
    });
    states.collect()
}

/// Nothing moves any more, and both agree that there is one session, which works.
fn one_session(duo: &mut Duo) {
    one_session_without_transfer(duo);
    send_both_ways(duo);
}

fn one_session_without_transfer(duo: &mut Duo) {
    assert!(duo.both_connected(), "{}", duo.story());
    duo.world.run_for(Duration::from_secs(10));
    duo.world.clear_events();
    let streams = duo.world.tap().len();
    duo.world.run_for(Duration::from_secs(45));
    assert!(duo.both_connected() && duo.world.events().iter().all(|(_, event)| !matches!(event, Event::Device { .. })), "{}", duo.story());
    let alive: BTreeSet<usize> = duo.world.tap()[streams..].iter().map(|tapped| tapped.stream).collect();
    assert_eq!(alive.len(), 1, "more than one control stream is alive\n{}", duo.story());
}

fn send(duo: &mut Duo, from: Dev, to: Dev) {
    duo.world.disk_mut(to).files.clear();
    let key = duo.world.share(from, to, &sample_tree(), 65_536).expect("paired");
    let done = duo.world.run_until(MINUTE, |world| {
        world.saw(from, |event| matches!(event, Event::Done { transfer, .. } | Event::Failed { transfer, .. } if *transfer == key))
    });
    duo.world.run_for(Duration::from_secs(2));
    assert!(done && duo.world.disk(to).files == sample_tree(), "{}", duo.story());
}

fn send_both_ways(duo: &mut Duo) {
    let (i, j) = (duo.i, duo.j);
    send(duo, i, j);
    send(duo, j, i);
}

/// LINK-10: from either side, also after both were started anew, in one round trip on one connection.
#[test]
fn a_reconnect_takes_one_round_trip_from_either_side() {
    for wire in WIRES {
        for from_i in [true, false] {
            let mut duo = Duo::paired(1, wire);
            for dev in [duo.i, duo.j] {
                duo.world.crash(dev);
            }
            duo.world.run_for(MINUTE);
            duo.world.restart(duo.i);
            duo.world.restart(duo.j);
            duo.world.clear_events();
            let one_way = Duration::from_millis(50);
            duo.world.set_latency(one_way, Duration::ZERO);
            let before = duo.world.connections();
            let (from, to) = if from_i { (duo.i, duo.j) } else { (duo.j, duo.i) };
            let begun = duo.world.now();
            duo.world.connect(from, to);
            assert!(duo.world.run_until(MINUTE, |world| world.connected(from, to)));
            // One round trip for the connection, one for Hello and Accept.
            assert!(duo.world.now() - begun <= 4 * one_way + Duration::from_millis(5), "{:?}", duo.world.now() - begun);
            assert!(duo.world.run_until(one_way + Duration::from_millis(5), |world| world.connected(to, from)));
            assert_eq!(duo.world.connections() - before, 1);
            one_session(&mut duo);
        }
    }
}

/// LINK-7: the addresses that a peer tells are kept and used; name changes arrive.
#[test]
fn stored_addresses_suffice() {
    for wire in WIRES {
        let mut duo = Duo::paired(2, wire);
        duo.disconnect();
        let (i, j, i_id, j_id) = (duo.i, duo.j, duo.world.id(duo.i), duo.world.id(duo.j));
        // J dialled when they paired: I knows J's address only because J told it.
        duo.world.call(i, |node, env| node.connect(env, j_id, &[])).expect("known");
        assert!(duo.world.run_until(MINUTE, |world| world.connected(i, j) && world.connected(j, i)), "{}", duo.story());
        duo.disconnect();
        duo.world.call(j, |node, env| node.connect(env, i_id, &[])).expect("known");
        assert!(duo.world.run_until(MINUTE, |world| world.connected(i, j) && world.connected(j, i)), "{}", duo.story());
    }
}

/// LINK-11: both dial at the same instant, or nearly: one session, both agree, and nothing flaps.
#[test]
fn glare_leaves_one_session() {
    for wire in WIRES {
        for seed in 0..40 {
            let mut duo = Duo::paired(seed, wire);
            duo.disconnect();
            duo.world.clear_events();
            let (i, j) = (duo.i, duo.j);
            let (first, second) = if seed % 2 == 0 { (i, j) } else { (j, i) };
            duo.world.connect(first, second);
            duo.world.run_for(Duration::from_micros((seed / 2) * 900));
            duo.world.connect(second, first);
            duo.world.run_for(Duration::from_secs(20));
            assert!(duo.both_connected(), "{seed}\n{}", duo.story());
            for dev in [i, j] {
                assert!(duo.connect_failures(dev).is_empty(), "{seed}\n{}", duo.story());
                // At most one replacement, and no flapping.
                let states = states(&duo.world, dev);
                assert!(states.len() <= 3 && states.iter().filter(|&&state| state == DeviceState::Disconnected).count() == 0, "{states:?}");
            }
            one_session_without_transfer(&mut duo);
            if seed % 10 == 0 {
                send_both_ways(&mut duo);
            }
        }
    }
}

/// LINK-12, LINK-1: the stream is lost, or falls silent, at every frame of a reconnect: the next one works.
#[test]
fn a_reconnect_is_lost_at_every_frame() {
    for wire in WIRES {
        for damage in [Damage::Cut, Damage::Vanish, Damage::Flip(333)] {
            for (side, frames) in [(Side::Opener, 0..=2), (Side::Answerer, 1..=2)] {
                for frame in frames {
                    let mut duo = Duo::paired(3, wire);
                    duo.disconnect();
                    duo.world.clear_events();
                    if matches!((damage, frame), (Damage::Flip(_), 0)) || (side, frame, damage) == (Side::Answerer, 2, Damage::Flip(333)) {
                        continue;
                    }
                    duo.world.rule(rule(side, At::Frame(frame), damage));
                    duo.world.connect(duo.j, duo.i);
                    duo.world.run_for(Duration::from_secs(90));
                    assert_eq!(duo.world.fired(), 1, "{side:?} {frame} {damage:?}");
                    let ended = duo.world.saw(duo.j, |event| {
                        matches!(event, Event::ConnectFailed { .. } | Event::Device { state: DeviceState::Disconnected, .. })
                    });
                    let late_damage = side == Side::Opener && frame == 2 && damage == Damage::Cut;
                    assert!(ended || late_damage || duo.both_connected(), "{side:?} {frame} {damage:?}\n{}", duo.story());
                    assert!(duo.both_confirmed());
                    assert!(duo.reconnect(duo.i), "{side:?} {frame} {damage:?}\n{}", duo.story());
                    one_session_without_transfer(&mut duo);
                }
            }
        }
    }
}

/// LINK-9, PAIR-47: a joiner whose pairing was interrupted reconnects, with a crash or a failed write at every write of that.
#[test]
fn the_repair_of_a_pairing_survives_crashes() {
    for from_i in [true, false] {
        for fault in [StoreFault::CrashBefore, StoreFault::CrashAfter, StoreFault::Fail] {
            for on_i in [true, false] {
                for number in 1..=5 {
                    let mut duo = Duo::new(4, Wire::Sim);
                    duo.world.rule(Rule { name: StreamName::Pair, side: Side::Answerer, at: At::Frame(2), damage: Damage::Crash(duo.j) });
                    duo.start(Confirm::Automatic);
                    duo.world.run_for(MINUTE);
                    duo.world.restart(duo.j);
                    duo.world.run_for(MINUTE);
                    assert!(!duo.world.confirmed(duo.i, duo.j));
                    let who = if on_i { duo.i } else { duo.j };
                    duo.world.fault_store(who, number, fault);
                    let (from, to) = if from_i { (duo.i, duo.j) } else { (duo.j, duo.i) };
                    duo.world.connect(from, to);
                    duo.world.run_for(Duration::from_secs(100));
                    duo.check_agreement(true);
                    assert!(duo.both_confirmed(), "{from_i} {fault:?} {on_i} {number}\n{}", duo.story());
                }
            }
        }
    }
}

/// LINK-2: a side whose newest root the other does not know falls back to the older one.
#[test]
fn an_older_root_is_tried_when_the_newest_is_unknown() {
    for wire in WIRES {
        let mut duo = Duo::paired(5, wire);
        // I stores a second root, J never gets to say yes.
        duo.answers(Answer::Yes, Answer::Silent);
        duo.world.rule(Rule { name: StreamName::Pair, side: Side::Answerer, at: At::Frame(2), damage: Damage::Crash(duo.j) });
        duo.start(Confirm::Ask);
        duo.world.run_for(MINUTE);
        assert_eq!(duo.world.fired(), 1);
        assert!(duo.reconnect(duo.i), "{}", duo.story());
        assert!(duo.both_confirmed());
        duo.disconnect();
        assert!(duo.reconnect(duo.j), "{}", duo.story());
        one_session(&mut duo);
    }
}

/// LINK-12: a device that lost its session and dials again replaces the one that the other still believes in.
#[test]
fn a_newer_session_replaces_the_older() {
    for wire in WIRES {
        let mut duo = Duo::paired(6, wire);
        // J is away without a word, comes back with a new life; I has noticed nothing yet.
        duo.world.lose_power(duo.j);
        duo.world.restart(duo.j);
        duo.world.connect(duo.j, duo.i);
        duo.world.run_for(Duration::from_secs(3));
        assert!(duo.both_connected(), "{}", duo.story());
        let lost = |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. });
        assert!(!duo.world.saw(duo.i, lost), "{}", duo.story());
        one_session(&mut duo);
    }
}

/// LINK-12: what comes on a newer session waits until the older is over, up to a bound: then the older is not waited for.
#[test]
fn what_waits_for_an_older_session_is_bounded() {
    for wire in WIRES {
        for (said, wait) in [(1_000, true), (1_100, false)] {
            let mut duo = Duo::paired(6, wire);
            let (i, j) = (duo.i, duo.j);
            duo.world.run_for(MINUTE);
            duo.world.lose_power(j);
            duo.world.restart(j);
            duo.world.connect(j, i);
            assert!(duo.world.run_until(Duration::from_secs(2), |world| world.saw(j, |event| matches!(event, Event::Answered { .. }))));
            let peer = duo.world.id(i);
            for _ in 0..said {
                duo.world.call(j, |node, env| node.ping(env, peer)).expect("a session stands");
            }
            let heard = |world: &World| world.saw(j, |event| matches!(event, Event::Pong { .. }));
            assert_eq!(duo.world.run_until(Duration::from_secs(3), heard), !wait, "{said}");
            assert!(duo.world.run_until(limits::SUCCESSION_WAIT, heard), "{said}\n{}", duo.story());
            one_session(&mut duo);
        }
    }
}

/// LINK-14: a link that died in silence is noticed within 30 s, and within 15 s where something is awaited.
#[test]
fn a_dead_link_is_noticed() {
    for wire in WIRES {
        for wait in [0, 4, 9, 14, 40] {
            let mut duo = Duo::paired(7, wire);
            duo.world.run_for(Duration::from_secs(wait));
            duo.world.silence(duo.j, true);
            let (i, j) = (duo.i, duo.j);
            let gone = |world: &World| !world.connected(i, j) && !world.connected(j, i);
            assert!(duo.world.run_until(Duration::from_secs(31), gone), "{}", duo.story());
            let silent = |event: &Event| matches!(event, Event::Device { reason: Some(LinkFailure::Silent), .. });
            assert!(duo.world.saw(i, silent) && duo.world.saw(j, silent), "{}", duo.story());
            duo.world.silence(j, false);
            assert!(duo.reconnect(i), "{}", duo.story());
        }
    }
}

/// LINK-14, XFER-21: the same while a transfer runs.
#[test]
fn a_dead_link_is_noticed_sooner_during_a_transfer() {
    for wire in WIRES {
        for (silent_after, from_i) in [(0, true), (100, true), (3_000, true), (0, false), (100, false), (3_000, false)] {
            let mut duo = Duo::paired(8, wire);
            duo.world.run_for(Duration::from_secs(14));
            let (i, j) = (duo.i, duo.j);
            duo.world.set_offers(i, Answer::Silent);
            duo.world.set_offers(j, Answer::Silent);
            let (from, to) = if from_i { (i, j) } else { (j, i) };
            let key = duo.world.share(from, to, &sample_tree(), 65_536).expect("paired");
            duo.world.run_for(Duration::from_millis(silent_after));
            duo.world.silence(j, true);
            let gone = |world: &World| !world.connected(from, to);
            assert!(duo.world.run_until(Duration::from_secs(16), gone), "{silent_after}\n{}", duo.story());
            // It waits for the next session, and not for ever.
            let failed = |world: &World| world.saw(from, |event| matches!(event, Event::Failed { transfer, .. } if *transfer == key));
            assert!(!failed(&duo.world), "{}", duo.story());
            duo.world.run_for(limits::AWAY + Duration::from_secs(30));
            assert!(failed(&duo.world), "{}", duo.story());
            assert!(!duo.world.connected(from, to) && !duo.world.connected(to, from), "{}", duo.story());
            assert_eq!(duo.world.disk(to).temporaries(), 0);
        }
    }
}

/// LINK-16: a session reaches its age: the pair stays usable, with exactly one session, and nothing is lost on the way.
#[test]
fn a_session_is_renewed() {
    for wire in WIRES {
        for seed in 0..4 {
            let mut duo = Duo::paired(seed, wire);
            for _ in 0..2 {
                duo.world.run_for(Duration::from_secs(51 * 60));
                assert!(duo.both_connected(), "{}", duo.story());
                let down = |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. });
                assert!(!duo.world.saw(duo.i, down) && !duo.world.saw(duo.j, down), "{}", duo.story());
                one_session(&mut duo);
                for (dev, peer) in [(duo.i, duo.j), (duo.j, duo.i)] {
                    assert_eq!(duo.world.view(dev, peer).expect("paired").sessions, 1, "nobody was connected again");
                }
            }
        }
    }
}

/// L7: a pair that has nothing to do asks four times a minute whether the other is there, each way, and says and tells nothing else.
#[test]
fn an_idle_pair_says_next_to_nothing() {
    for wire in WIRES {
        let mut duo = Duo::paired(3, wire);
        duo.world.run_for(Duration::from_secs(60));
        duo.world.clear_events();
        let (before, minutes) = (duo.world.tap().len(), 10);
        duo.world.run_for(Duration::from_secs(60 * minutes));
        let said: Vec<usize> = duo.world.tap()[before..].iter().map(|tapped| tapped.bytes.len()).collect();
        // A question and an answer, from either side.
        let most = 4 * (Duration::from_secs(60 * minutes).as_secs() / limits::IDLE_PING.as_secs() + 1);
        assert!(!said.is_empty() && said.len() as u64 <= most, "{} of {most}: {}", said.len(), duo.story());
        assert!(said.iter().all(|len| *len <= 64), "{said:?}");
        assert!(duo.world.events().is_empty(), "{:?}", duo.world.events());
    }
}

/// LINK-16: a session that cannot be renewed ends by its age on both sides.
#[test]
fn a_session_that_cannot_be_renewed_ends() {
    let mut duo = Duo::paired(9, Wire::Sim);
    for number in 1..16 {
        duo.world.fault_dial(duo.j, number, DialFault::Unreachable);
    }
    duo.world.run_for(Duration::from_secs(62 * 60));
    assert!(!duo.world.connected(duo.i, duo.j) && !duo.world.connected(duo.j, duo.i), "{}", duo.story());
    assert!(duo.reconnect(duo.i));
}

/// LINK-13, LINK-8: nobody is there: the attempt ends within a minute; where the port opens in time it succeeds.
#[test]
fn an_attempt_to_reach_nobody_ends() {
    for wire in WIRES {
        let mut duo = Duo::paired(10, wire);
        duo.world.crash(duo.i);
        duo.world.run_for(MINUTE);
        duo.world.clear_events();
        duo.world.connect(duo.j, duo.i);
        let j = duo.j;
        let failed = |world: &World| world.saw(j, |event| matches!(event, Event::ConnectFailed { .. }));
        assert!(duo.world.run_until(MINUTE, failed), "{}", duo.story());
        duo.world.connect(duo.j, duo.i);
        duo.world.run_for(Duration::from_secs(10));
        duo.world.restart(duo.i);
        duo.world.run_for(Duration::from_secs(5));
        assert!(duo.both_connected(), "{}", duo.story());
        assert!(duo.both_confirmed());
    }
}

/// Forgetting: from that call on nothing of the pair is accepted, whatever is under way; the other side keeps its record.
#[test]
fn nothing_of_a_forgotten_device_is_accepted() {
    for wire in WIRES {
        for after in [None, Some(0), Some(30), Some(800), Some(1_500)] {
            let mut duo = Duo::paired(11, wire);
            let (i, j, j_id) = (duo.i, duo.j, duo.world.id(duo.j));
            if let Some(after) = after {
                duo.world.share(j, i, &sample_tree(), 65_536).expect("paired");
                duo.world.run_for(Duration::from_millis(after));
            }
            duo.world.clear_events();
            duo.world.call(i, |node, env| node.forget_device(env, j_id)).expect("known");
            let told = duo.world.events().len();
            let late = duo.world.share(j, i, &sample_tree(), 65_536);
            duo.world.run_for(MINUTE);
            // Nothing reaches the owner any more, but that it is done, and before or behind that the end of what was under way.
            let told = duo.world.events()[told..].iter().filter(|(dev, _)| *dev == i).map(|(_, event)| event);
            let (ends, told): (Vec<_>, Vec<_>) = told.partition(|event| matches!(event, Event::Failed { .. }));
            assert!(matches!(told[..], [Event::Removed { device }] if *device == j_id), "{told:#?}");
            assert!(ends.len() <= 1, "{ends:#?}");
            // What is left tells the other side, and opens nothing.
            assert!(duo.world.store(i).keys().all(|(table, _)| *table == TOMBSTONES) && duo.world.devices(i).is_empty());
            assert_eq!(duo.world.disk(i).temporaries(), 0);
            if let Ok(late) = late {
                assert!(duo.world.saw(j, |event| matches!(event, Event::Failed { transfer, .. } if *transfer == late)), "{}", duo.story());
            }
            assert!(!duo.reconnect(j), "{}", duo.story());
            assert_eq!(duo.connect_failures(j).last(), Some(&LinkFailure::Removed));
            assert!(duo.world.confirmed(j, i), "a failed reconnect deletes nothing");
            // They can pair again.
            duo.answers(Answer::Yes, Answer::Yes);
            duo.world.pair(i, j);
            one_session(&mut duo);
        }
    }
}

/// LINK-6: the root without the identity key opens nothing, in either role; nor does the identity key without the root.
#[test]
fn a_stolen_root_or_a_stolen_key_opens_nothing() {
    for wire in WIRES {
        let mut duo = Duo::paired(12, wire);
        duo.disconnect();
        // A thief with J's rows, and an identity of its own.
        let thief = duo.world.add_device_on("thief", wire);
        duo.world.crash(thief);
        let rows = duo.world.store(duo.j).clone();
        *duo.world.store_mut(thief) = rows;
        duo.world.restart(thief);
        let (i, i_id, at) = (duo.i, duo.world.id(duo.i), duo.world.address(duo.i));
        duo.world.clear_events();
        duo.world.call(thief, |node, env| node.connect(env, i_id, &[at])).expect("stolen");
        duo.world.run_for(MINUTE);
        assert!(!duo.world.connected(thief, i) && duo.world.events_of(i).next().is_none(), "{}", duo.story());
        // I dials what it believes to be J, and the thief is there.
        let (j_id, trap) = (duo.world.id(duo.j), duo.world.address(thief));
        duo.world.crash(duo.j);
        duo.world.call(i, |node, env| node.connect(env, j_id, &[trap])).expect("known");
        duo.world.run_for(MINUTE);
        assert!(!duo.world.connected(i, duo.j) && states(&duo.world, thief).is_empty(), "{}", duo.story());
        // The other way round: J's key, and a root that is not the pair's.
        let mut other = Duo::paired(13, wire);
        let (j, i) = (other.j, other.i);
        other.disconnect();
        other.world.crash(j);
        let row = other.world.store(j).values().next().expect("one device").clone();
        let root = row.windows(2).rposition(|head| head == [0x58, 32]).expect("a root is 32 bytes in CBOR") + 2;
        let key = other.world.store(j).keys().next().expect("one device").clone();
        other.world.store_mut(j).get_mut(&key).expect("one device")[root] ^= 1;
        assert!(!other.reconnect(j), "{}", other.story());
        assert!(!other.reconnect(i), "{}", other.story());
    }
}

/// LINK-3, LINK-1, DATA-7: a recorded Hello is refused when it comes again, and nothing but the reset is ever answered.
#[test]
fn a_replayed_hello_is_refused() {
    let mut duo = Duo::paired(14, Wire::Sim);
    duo.disconnect();
    let before = duo.world.tap().len();
    assert!(duo.reconnect(duo.j));
    let hello = duo.world.tap()[before..]
        .iter()
        .find(|tapped| tapped.name == Some(StreamName::Link) && tapped.by_opener && tapped.bytes.len() > 1000)
        .expect("a Hello")
        .bytes
        .clone();
    duo.world.clear_events();
    // The attacker has even J's transport id.
    let thief = duo.world.add_stranger(Wire::Sim, Some(duo.j));
    for _ in 0..3 {
        let raw = duo.world.raw_open(thief, duo.i, StreamName::Link);
        duo.world.raw_send(raw, &hello);
        duo.world.run_for(Duration::from_secs(1));
        assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty());
    }
    assert!(duo.both_connected() && duo.world.events().is_empty());
}

/// LINK-4: a flood of Hellos costs at most 200 scans a second; the right one waits its turn and gets through.
#[test]
fn a_flood_of_hellos_does_not_lock_the_pair_out() {
    let mut duo = Duo::paired(15, Wire::Sim);
    duo.disconnect();
    let before = duo.world.tap().len();
    assert!(duo.reconnect(duo.j));
    duo.disconnect();
    let mut hello = duo.world.tap()[before..]
        .iter()
        .find(|tapped| tapped.name == Some(StreamName::Link) && tapped.by_opener && tapped.bytes.len() > 1000)
        .expect("a Hello")
        .bytes
        .clone();
    *hello.last_mut().expect("long") ^= 1;
    let floods: Vec<Dev> = (0..20).map(|_| duo.world.add_stranger(Wire::Sim, None)).collect();
    duo.world.connect(duo.j, duo.i);
    let (i, j) = (duo.i, duo.j);
    for round in 0..300 {
        let raw = duo.world.raw_open(floods[round % 20], i, StreamName::Link);
        duo.world.raw_send(raw, &hello);
        duo.world.run_for(Duration::from_millis(2));
    }
    assert!(duo.world.run_until(Duration::from_secs(5), |world| world.connected(i, j) && world.connected(j, i)), "{}", duo.story());
}

/// DATA-8, DATA-11: the streams of a transfer, sent again byte for byte, are reset; the session and its transfers go on.
#[test]
fn a_replayed_data_stream_is_reset() {
    let mut duo = Duo::paired(16, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let before = duo.world.tap().len();
    send(&mut duo, j, i);
    let mut streams: Vec<(StreamName, Vec<u8>)> = Vec::new();
    let opened: BTreeSet<usize> = duo.world.tap()[before..].iter().map(|tapped| tapped.stream).collect();
    for stream in opened {
        let sent: Vec<_> = duo.world.tap()[before..].iter().filter(|tapped| tapped.stream == stream && tapped.by_opener).collect();
        let Some(name @ StreamName::Data(_)) = sent.first().and_then(|tapped| tapped.name) else { continue };
        // The preamble is sent by `raw_open`.
        streams.push((name, sent.iter().skip(1).flat_map(|tapped| tapped.bytes.clone()).collect()));
    }
    assert!(streams.len() >= 2, "a manifest and chunks");
    duo.world.clear_events();
    let thief = duo.world.add_stranger(Wire::Sim, Some(j));
    for (name, bytes) in streams {
        let raw = duo.world.raw_open(thief, i, name);
        duo.world.raw_send(raw, &bytes);
        duo.world.run_for(Duration::from_secs(1));
        assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty(), "{}", duo.story());
    }
    assert!(duo.world.events().is_empty());
    one_session(&mut duo);
}

/// DATA-11, DATA-3: a damaged record of the control stream ends the session; three forged chunks do, too, and no file gets its
/// name from them.
#[test]
fn forged_records_and_chunks_end_the_session() {
    let mut duo = Duo::paired(17, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let is_over = |world: &World, dev: Dev, key: TransferKey| {
        let ended = |event: &&Event| match event {
            Event::Done { transfer, .. } | Event::Failed { transfer, .. } => transfer.id == key.id,
            _ => false,
        };
        world.events_of(dev).filter(ended).count()
    };
    let mut key = duo.world.share(j, i, &sample_tree(), 65_536).expect("paired");
    for forgery in 1..=3 {
        assert!(duo.both_connected(), "ended by forgery {}\n{}", forgery - 1, duo.story());
        duo.world.rule(Rule { name: World::BULK, side: Side::Opener, at: At::Frame(2), damage: Damage::Flip(200) });
        let stopped = |world: &World| world.fired() == forgery || is_over(world, j, key) > 0;
        duo.world.run_until(MINUTE, stopped);
        if duo.world.fired() < forgery {
            key = duo.world.share(j, i, &sample_tree(), 65_536).expect("paired");
            duo.world.run_until(MINUTE, |world| world.fired() == forgery);
        }
        duo.world.run_for(Duration::from_millis(50));
    }
    duo.world.run_for(Duration::from_secs(100));
    // Whoever saw the forgeries ends it; the other was honest, offers again, and is asked about again.
    assert_eq!((is_over(&duo.world, i, key), is_over(&duo.world, j, key)), (2, 1), "{}", duo.story());
    assert!(duo.world.saw(j, |event| matches!(event, Event::Done { transfer, .. } if transfer.id == key.id)), "{}", duo.story());
    let violated = |event: &Event| matches!(event, Event::Device { reason: Some(LinkFailure::Violation), .. });
    assert!(duo.world.saw(i, violated), "{}", duo.story());
    for (path, item) in &duo.world.disk(i).files {
        assert_eq!(sample_tree().get(path), Some(item), "wrong bytes under a final name");
    }
    assert!(duo.reconnect(j), "{}", duo.story());
}

/// KEEP-9: a route is the way that its connection takes now, and a change of it is told once.
#[test]
fn a_route_follows_its_connection() {
    let mut duo = Duo::paired(40, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    // Every connection that there may be: what is not known is nobody's.
    let moves = |duo: &mut Duo, to: &str| {
        duo.world.clear_events();
        for conn in (0..64).map(ConnId) {
            duo.world.call(j, |node, env| node.handle(env, Input::ConnMoved { conn, address: to.to_owned() }));
        }
        let told = duo.world.events().iter().map(|(dev, event)| match event {
            Event::Rerouted { device, route } => (*dev, *device, route.address.clone()),
            other => panic!("{other:?}"),
        });
        told.collect::<Vec<_>>()
    };
    let id = duo.world.id(i);
    for way in ["https://relay.example/", "192.0.2.1:7"] {
        assert_eq!(moves(&mut duo, way), [(j, id, way.to_owned())]);
        assert!(moves(&mut duo, way).is_empty(), "it is told once");
        let view = duo.world.call(j, |node, _| node.devices()).pop().unwrap();
        assert_eq!((view.route.unwrap().address, view.last_route.unwrap().address), (way.to_owned(), way.to_owned()));
    }
    // It is kept with the device, and what is sent is not touched by it.
    send_both_ways(&mut duo);
    duo.world.crash(j);
    duo.world.restart(j);
    let view = duo.world.call(j, |node, _| node.devices()).pop().unwrap();
    assert_eq!((view.route, view.last_route.unwrap().address), (None, "192.0.2.1:7".to_owned()));
}
