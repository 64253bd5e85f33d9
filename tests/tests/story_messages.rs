//! Messages between two Nodes in virtual time, over everything that a world does to them (PROTOCOL.md, section 9.7).

use std::time::Duration;

use adapter_sim::{At, Damage, Dev, Rule, Side, StoreFault, Wire, World};
use kin_tests::story::Duo;
use protocol_core::effects::{DeviceState, Event};
use protocol_core::ids::MessageId;
use protocol_core::limits;
use protocol_core::messages::{StoredMessage, UnknownMessage};
use protocol_core::wire::control::MessageState;
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);
const DAY: u64 = 86_400;

fn bodies(world: &World, duo: (Dev, Dev)) -> Vec<Vec<u8>> {
    world.messages(duo.0, duo.1).into_iter().map(|message| message.body).collect()
}

fn take(world: &mut World, (dev, peer): (Dev, Dev), id: MessageId) -> Result<StoredMessage, UnknownMessage> {
    let peer = world.id(peer);
    world.call(dev, |node, env| node.take_message(env, peer, id))
}

fn delivered(world: &World, dev: Dev, id: MessageId) -> bool {
    world.receipts(dev).contains(&(id, MessageState::Delivered))
}

/// MSG-1, MSG-2: both ways, small and of the greatest size, within one session and queued before it.
#[test]
fn messages_arrive_both_ways() {
    for wire in WIRES {
        let mut duo = Duo::paired(1, wire);
        let (i, j) = (duo.i, duo.j);
        let long = vec![7; limits::MESSAGE_BODY];
        let there = [duo.world.send_message(i, j, b"", DAY).unwrap(), duo.world.send_message(i, j, &long, DAY).unwrap()];
        let back = duo.world.send_message(j, i, b"back", DAY).unwrap();
        assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, there[1]) && delivered(world, j, back)), "{}", duo.story());
        assert_eq!(bodies(&duo.world, (j, i)), [vec![], long]);
        assert_eq!(bodies(&duo.world, (i, j)), [b"back".to_vec()]);
        // Queued while nobody is there, told in the next session.
        duo.disconnect();
        let late = duo.world.send_message(i, j, b"late", DAY).unwrap();
        duo.world.run_for(MINUTE);
        assert_eq!(duo.world.queued_messages(i, j).len(), 1);
        assert!(duo.reconnect(j));
        assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, late)), "{}", duo.story());
        assert!(duo.world.queued_messages(i, j).is_empty());
        assert_eq!(bodies(&duo.world, (j, i))[2], b"late");
        let taken = take(&mut duo.world, (j, i), late).unwrap();
        assert_eq!(taken.body, b"late");
        assert!(take(&mut duo.world, (j, i), late).is_err());
    }
}

/// LINK-16, MSG-3: a session is renewed in the middle of a storm of messages in both directions: each is there once, in order.
#[test]
fn a_renewal_in_a_storm_of_messages_loses_and_doubles_nothing() {
    const RENEWAL: Duration = Duration::from_secs(50 * 60);
    for wire in WIRES {
        let mut duo = Duo::paired(17, wire);
        let (i, j) = (duo.i, duo.j);
        duo.world.run_for(RENEWAL - Duration::from_secs(4));
        let renewed = duo.world.connections();
        let all: Vec<Vec<u8>> = (0..800_u16).map(|number| number.to_be_bytes().to_vec()).collect();
        for body in &all {
            duo.world.send_message(i, j, body, DAY).unwrap();
            duo.world.send_message(j, i, body, DAY).unwrap();
            duo.world.run_for(Duration::from_millis(10));
        }
        duo.world.run_for(MINUTE);
        assert!(duo.world.connections() > renewed, "the renewal was to fall into the storm\n{}", duo.story());
        let down = |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. });
        assert!(!duo.world.saw(i, down) && !duo.world.saw(j, down), "{}", duo.story());
        for (from, to) in [(i, j), (j, i)] {
            assert!(bodies(&duo.world, (to, from)) == all, "{}", duo.story());
            let receipts = duo.world.receipts(from);
            assert_eq!(receipts.len(), all.len());
            assert!(receipts.iter().all(|(_, state)| *state == MessageState::Delivered));
            assert!(duo.world.queued_messages(from, to).is_empty());
        }
    }
}

/// MSG-3, MSG-5: the control stream is cut at every frame, in either direction; each message is there once, in order.
#[test]
fn a_cut_anywhere_loses_and_doubles_nothing() {
    for wire in WIRES {
        for (side, frame) in [Side::Opener, Side::Answerer].into_iter().flat_map(|side| (2..14).map(move |frame| (side, frame))) {
            let mut duo = Duo::paired(3, wire);
            let (i, j) = (duo.i, duo.j);
            let mut sent = Vec::new();
            for number in 0..4_u8 {
                sent.push(duo.world.send_message(i, j, &[number], DAY).unwrap());
                duo.world.send_message(j, i, &[number], DAY).unwrap();
            }
            duo.world.rule(Rule { name: StreamName::Pair, side, at: At::Frame(frame), damage: Damage::Cut });
            duo.world.run_for(MINUTE);
            if !duo.both_connected() {
                assert!(duo.reconnect(i), "{}", duo.story());
            }
            duo.world.run_for(MINUTE);
            let all: Vec<Vec<u8>> = (0..4).map(|number| vec![number]).collect();
            assert_eq!(bodies(&duo.world, (j, i)), all, "{side:?} {frame}\n{}", duo.story());
            assert_eq!(bodies(&duo.world, (i, j)), all, "{side:?} {frame}\n{}", duo.story());
            assert!(sent.iter().all(|id| delivered(&duo.world, i, *id)), "{side:?} {frame}\n{}", duo.story());
            assert!(duo.world.queued_messages(i, j).is_empty() && duo.world.queued_messages(j, i).is_empty());
        }
    }
}

/// S15, S16: either side crashes before or behind every one of its writes; what was reported delivered is there, and nothing is there
/// twice.
#[test]
fn a_crash_at_any_write_loses_and_doubles_nothing() {
    for (crashing, write) in [true, false].into_iter().flat_map(|first| (1..9).map(move |write| (first, write))) {
        for fault in [StoreFault::CrashBefore, StoreFault::CrashAfter, StoreFault::Fail] {
            let mut duo = Duo::paired(5, Wire::Sim);
            let (i, j) = (duo.i, duo.j);
            let dev = if crashing { i } else { j };
            duo.world.fault_store(dev, write, fault);
            let mut sent = Vec::new();
            for number in 0..4_u8 {
                if duo.world.node_of(i).is_some() {
                    sent.extend(duo.world.send_message(i, j, &[number], DAY));
                }
                duo.world.run_for(Duration::from_secs(1));
            }
            duo.world.run_for(MINUTE);
            if duo.world.node_of(dev).is_none() {
                duo.world.restart(dev);
            }
            if !duo.both_connected() {
                assert!(duo.reconnect(i), "{}", duo.story());
            }
            duo.world.run_for(2 * MINUTE);
            let there = bodies(&duo.world, (j, i));
            let mut ordered = there.clone();
            ordered.dedup();
            assert!(ordered == there && there.is_sorted(), "{there:?}\n{}", duo.story());
            let ids: Vec<MessageId> = duo.world.messages(j, i).iter().map(|message| message.id).collect();
            for id in &sent {
                let known = duo.world.saw(i, |event| matches!(event, Event::MessageQueued { id: of, .. } if of == id));
                assert!(!delivered(&duo.world, i, *id) || ids.contains(id), "{dev:?} {write} {fault:?}\n{}", duo.story());
                assert!(!known || ids.contains(id), "a durable message did not arrive: {dev:?} {write} {fault:?}\n{}", duo.story());
            }
            assert!(duo.world.queued_messages(i, j).is_empty(), "{dev:?} {write} {fault:?}\n{}", duo.story());
        }
    }
}

/// MSG-7: a message whose time is over is given up, and is not there when the other side comes.
#[test]
fn what_waits_too_long_is_given_up() {
    let mut duo = Duo::paired(7, Wire::Tcp);
    let (i, j) = (duo.i, duo.j);
    duo.disconnect();
    let id = duo.world.send_message(i, j, b"old", 30).unwrap();
    let kept = duo.world.send_message(i, j, b"kept", DAY).unwrap();
    duo.world.run_for(2 * MINUTE);
    assert!(duo.world.saw(i, |event| matches!(event, Event::MessageExpired { id: of, told: false, .. } if *of == id)));
    assert!(duo.reconnect(i));
    assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, kept)), "{}", duo.story());
    assert_eq!(bodies(&duo.world, (j, i)), [b"kept".to_vec()]);
}

/// MSG-3: the two pair again, and so have another root: what was delivered is not there twice, what was not arrives.
#[test]
fn another_root_doubles_nothing() {
    let mut duo = Duo::paired(9, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let first = duo.world.send_message(i, j, b"first", DAY).unwrap();
    assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, first)));
    duo.disconnect();
    let second = duo.world.send_message(i, j, b"second", DAY).unwrap();
    duo.world.run_for(MINUTE);
    duo.world.pair(j, i);
    assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, second)), "{}", duo.story());
    let third = duo.world.send_message(i, j, b"third", DAY).unwrap();
    assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, third)), "{}", duo.story());
    assert_eq!(bodies(&duo.world, (j, i)), [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]);
}

/// A device that is forgotten leaves no message, here or in the store.
#[test]
fn forgetting_forgets_what_was_said() {
    let mut duo = Duo::paired(11, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    let id = duo.world.send_message(i, j, b"said", DAY).unwrap();
    assert!(duo.world.run_until(MINUTE, |world| delivered(world, i, id)));
    duo.disconnect();
    let waits = duo.world.send_message(i, j, b"waits", DAY).unwrap();
    duo.world.run_for(MINUTE);
    let id = duo.world.id(j);
    duo.world.call(i, |node, env| node.forget_device(env, id)).unwrap();
    duo.world.run_for(MINUTE);
    assert!(duo.world.saw(i, |event| matches!(event, Event::MessageExpired { id, .. } if *id == waits)));
    duo.world.crash(i);
    duo.world.restart(i);
    assert!(duo.world.queued_messages(i, j).is_empty() && duo.world.messages(i, j).is_empty());
    assert!(duo.world.send_message(i, j, b"to nobody", DAY).is_err());
}
