//! Strangers, crowds, reconnects and silence in virtual time (PROTOCOL.md, sections 6.5, 8, 9 and 11).

use std::time::Duration;

use adapter_sim::{At, Damage, Rule, Side, Wire, World};
use kin_tests::story::{Duo, LONG, other_code, sample_tree};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::faults::LinkFailure;
use protocol_core::info::{Binding, BindingKind};
use protocol_core::node::Confirm;
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::handshake::JoinerWaiting;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::{Header, StreamKind};

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Bytes that look random and are not.
struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        bytes.iter_mut().for_each(|byte| {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            *byte = self.0;
        });
        Ok(())
    }
}

struct Broken;

impl Entropy for Broken {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoEntropy> {
        Err(NoEntropy)
    }
}

fn binding() -> Binding {
    Binding { kind: BindingKind::Sim, own: vec![], remote: vec![], exporter: vec![] }
}

/// ID-7: without randomness there is no request, and nothing else either.
#[test]
fn without_randomness_nothing_is_derived() {
    let keys = CodeKeys::derive(&other_code(1));
    assert!(JoinerWaiting::start(&keys, binding(), &mut Broken).is_err());
}

/// LIM-7, PAIR-11, PAIR-14, PAIR-15, PAIR-16: who knows the public session id and not the words learns nothing, burns
/// nothing, and keeps nobody out.
#[test]
fn ten_thousand_strangers_change_nothing() {
    for wire in WIRES {
        let mut duo = Duo::quiet(1, wire);
        let stranger = duo.world.add_stranger(wire, None);
        let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
        let mut keys = CodeKeys::derive(&other_code(2));
        keys.session_id = invite.session;
        let (_, request) = JoinerWaiting::start(&keys, binding(), &mut Counting(1)).expect("randomness");
        for _ in 0..10_000 {
            let raw = duo.world.raw_open(stranger, duo.i, StreamName::Pair);
            duo.world.raw_send(raw, &request);
            duo.world.run_for(Duration::from_millis(50));
            assert!(duo.world.raw_received(raw).is_empty(), "not a byte is answered");
            assert!(duo.world.raw_is_down(raw));
        }
        assert_eq!(duo.pair_failure(duo.i), None);
        let at = duo.world.address(duo.i);
        duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.both_confirmed());
    }
}

/// PAIR-17: the first flight of an honest joiner, played back by someone who has its transport id, is refused.
#[test]
fn a_first_flight_is_good_once() {
    let mut duo = Duo::new(3, Wire::Sim);
    let thief = duo.world.add_stranger(Wire::Sim, Some(duo.j));
    let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
    duo.world.rule(Rule { name: StreamName::Pair, side: Side::Answerer, at: At::Frame(1), damage: Damage::Cut });
    let at = duo.world.address(duo.i);
    duo.world.join(duo.j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
    duo.world.run_for(SECOND);
    let j = duo.j;
    let flight: Vec<u8> = duo.world.tap().iter().filter(|tapped| tapped.from == j).flat_map(|tapped| tapped.bytes.clone()).collect();
    let preamble = StreamName::Pair.preamble().len();
    let raw = duo.world.raw_open(thief, duo.i, StreamName::Pair);
    duo.world.raw_send(raw, &flight[preamble..]);
    duo.world.run_for(SECOND);
    assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty(), "{}", duo.story());
    duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).expect("free");
    duo.world.run_for(MINUTE);
    assert!(duo.both_confirmed());
}

/// LIM-1, LIM-2, DATA-6: who says nothing has ten seconds; sixteen such streams of one source at a time, the oldest goes
/// first, and none before it was there for a second.
#[test]
fn silent_streams_are_few_and_short() {
    let mut world = World::new(4);
    let device = world.add_device("device");
    let stranger = world.add_stranger(Wire::Sim, None);
    let crowd: Vec<_> = (0..16).map(|_| world.raw_open(stranger, device, StreamName::Link)).collect();
    world.run_for(Duration::from_millis(500));
    let early = world.raw_open(stranger, device, StreamName::Link);
    world.run_for(Duration::from_millis(200));
    assert!(world.raw_is_down(early), "nobody is old enough to go");
    assert!(crowd.iter().all(|raw| !world.raw_is_down(*raw)));
    world.run_for(SECOND);
    let late = world.raw_open(stranger, device, StreamName::Link);
    world.run_for(Duration::from_millis(200));
    assert!(!world.raw_is_down(late) && world.raw_is_down(crowd[0]), "the oldest went");
    assert!(crowd[1..].iter().all(|raw| !world.raw_is_down(*raw)));
    world.run_for(Duration::from_secs(11));
    assert!(crowd.iter().chain([&late]).all(|raw| world.raw_is_down(*raw)), "ten seconds are over");
    // Sixty-four of many sources.
    let crowd: Vec<_> = (0..70)
        .map(|_| {
            let stranger = world.add_stranger(Wire::Sim, None);
            world.raw_open(stranger, device, StreamName::Link)
        })
        .collect();
    world.run_for(Duration::from_millis(500));
    assert_eq!(crowd.iter().filter(|raw| !world.raw_is_down(**raw)).count(), 64);
}

/// DATA-7, DATA-9, DATA-10, DATA-13, LINK-1: nothing is said to a stream that proves nothing, and it ends.
#[test]
fn unproved_streams_hear_nothing() {
    let mut duo = Duo::paired(5, Wire::Sim);
    let stranger = duo.world.add_stranger(Wire::Sim, None);
    // A session that nobody knows may still come: it waits, and then ends.
    let header = Header::new(StreamKind::Bulk, protocol_core::ids::SessionRef([7; 16]), 1, [0; 8]).expect("legal");
    let mut record = vec![0, 0, 0, 20, 2];
    record.extend([0; 20]);
    let early = duo.world.raw_open(stranger, duo.i, StreamName::Data(StreamKind::Bulk));
    duo.world.raw_send(early, &header.encode());
    duo.world.raw_send(early, &record);
    duo.world.run_for(Duration::from_secs(5));
    assert!(!duo.world.raw_is_down(early));
    duo.world.run_for(Duration::from_secs(6));
    assert!(duo.world.raw_is_down(early) && duo.world.raw_received(early).is_empty());
    // A Hello of nobody.
    let hello = duo.world.raw_open(stranger, duo.i, StreamName::Link);
    duo.world.raw_send(hello, &[0, 0, 0, 1, 0x80]);
    duo.world.run_for(SECOND);
    assert!(duo.world.raw_is_down(hello) && duo.world.raw_received(hello).is_empty());
    assert!(duo.both_connected());
}

/// LINK-3: a Hello played back by someone who has the dialler's transport id is refused.
#[test]
fn a_hello_is_good_once() {
    let mut duo = Duo::paired(6, Wire::Sim);
    duo.disconnect();
    let before = duo.world.tap().len();
    assert!(duo.reconnect(duo.j));
    let j = duo.j;
    let sent = duo.world.tap()[before..].iter().filter(|tapped| tapped.from == j && tapped.name == Some(StreamName::Link));
    let hello: Vec<u8> = sent.flat_map(|tapped| tapped.bytes.clone()).skip(StreamName::Link.preamble().len()).take(1263).collect();
    let thief = duo.world.add_stranger(Wire::Sim, Some(duo.j));
    let raw = duo.world.raw_open(thief, duo.i, StreamName::Link);
    duo.world.raw_send(raw, &hello);
    duo.world.run_for(SECOND);
    assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty());
    assert!(duo.both_connected());
}

/// LINK-4: of very many Hellos 200 a second are tried; the others wait, and the right one is served in the end.
#[test]
fn hellos_wait_for_their_scan() {
    let mut duo = Duo::quiet(7, Wire::Sim);
    duo.world.pair(duo.i, duo.j);
    duo.disconnect();
    let strangers: Vec<_> = (0..20).map(|_| duo.world.add_stranger(Wire::Sim, None)).collect();
    for round in 0..11 {
        for stranger in &strangers {
            let raw = duo.world.raw_open(*stranger, duo.i, StreamName::Link);
            duo.world.raw_send(raw, &[0, 0, 0, 1, round]);
        }
        duo.world.run_for(Duration::from_millis(40));
    }
    assert!(duo.reconnect(duo.j));
}

/// LINK-7, LINK-10: a reconnect takes one round trip, and brings the newest info of both sides.
#[test]
fn a_reconnect_takes_one_round_trip_and_renews_addresses() {
    for wire in WIRES {
        let mut duo = Duo::paired(8, wire);
        duo.disconnect();
        let one_way = Duration::from_millis(20);
        duo.world.set_latency(one_way, Duration::ZERO);
        let (i, j) = (duo.i, duo.j);
        let start = duo.world.now();
        duo.world.connect(j, i);
        assert!(duo.world.run_until(MINUTE, |world| world.connected(j, i)));
        // The connection itself is one round trip at most, the handshake one more.
        assert!(duo.world.now() - start < 5 * one_way, "{:?}", duo.world.now() - start);
        duo.world.run_for(SECOND);
        let address = duo.world.address(j);
        let view = duo.world.view(i, j).expect("paired");
        assert!(view.addresses.contains(&address) && view.last_seen_unix == Some(duo.world.unix_s(i)) || view.last_seen_unix.is_some());
    }
}

/// LINK-5, LINK-8: a reconnect that is cut at any frame changes no pair, and the next one works.
#[test]
fn a_cut_reconnect_changes_nothing() {
    for (side, frame) in [(Side::Opener, 0), (Side::Opener, 1), (Side::Answerer, 1), (Side::Opener, 2), (Side::Answerer, 2)] {
        let mut duo = Duo::paired(9, Wire::Sim);
        duo.disconnect();
        duo.world.clear_events();
        duo.world.rule(Rule { name: StreamName::Link, side, at: At::Frame(frame), damage: Damage::Cut });
        duo.world.connect(duo.j, duo.i);
        duo.world.run_for(LONG);
        assert!(duo.both_confirmed(), "cut at {side:?} {frame}: {}", duo.story());
        assert!(duo.reconnect(duo.j), "cut at {side:?} {frame}: {}", duo.story());
    }
}

/// LINK-11, LINK-12: both dial at once: one session, and both agree which.
#[test]
fn glare_leaves_one_session() {
    for seed in 0..40 {
        let mut duo = Duo::paired(100 + seed, Wire::Sim);
        duo.disconnect();
        duo.world.clear_events();
        duo.world.connect(duo.i, duo.j);
        duo.world.run_for(Duration::from_millis(seed * 2));
        duo.world.connect(duo.j, duo.i);
        duo.world.run_for(MINUTE);
        assert!(duo.both_connected(), "{}", duo.story());
        // It is the same session: what one sends arrives.
        let tree = sample_tree();
        duo.world.share(duo.i, duo.j, &tree, 65_536).expect("paired");
        duo.world.run_for(MINUTE);
        assert!(duo.world.saw(duo.i, |event| matches!(event, Event::Done { .. })), "seed {seed}: {}", duo.story());
    }
}

/// LINK-12: a device that lost its session without a word dials again; the newer session replaces the older.
#[test]
fn a_newer_session_replaces_the_older() {
    for wire in WIRES {
        let mut duo = Duo::paired(11, wire);
        duo.world.lose_power(duo.j);
        assert!(duo.reconnect(duo.j), "{}", duo.story());
        duo.world.run_for(MINUTE);
        assert!(duo.both_connected());
    }
}

/// LINK-13: nobody at the address: tried for half a minute, then told.
#[test]
fn a_refusing_address_is_tried_for_half_a_minute() {
    let mut duo = Duo::paired(12, Wire::Tcp);
    duo.disconnect();
    duo.world.crash(duo.i);
    duo.world.clear_events();
    let start = duo.world.now();
    duo.world.connect(duo.j, duo.i);
    let (j, told) = (duo.j, |event: &Event| matches!(event, Event::ConnectFailed { reason: LinkFailure::Unreachable, .. }));
    assert!(duo.world.run_until(2 * MINUTE, |world| world.saw(j, told)), "{}", duo.story());
    assert!(duo.world.now() - start >= Duration::from_secs(29));
}

/// LINK-14: a peer that vanishes without a word is noticed in half a minute.
#[test]
fn silence_ends_a_session() {
    for wire in WIRES {
        let mut duo = Duo::paired(13, wire);
        duo.world.run_for(3 * MINUTE);
        assert!(duo.both_connected(), "idle is not dead");
        duo.world.silence(duo.j, true);
        let silent =
            |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, reason: Some(LinkFailure::Silent), .. });
        let (i, start) = (duo.i, duo.world.now());
        assert!(duo.world.run_until(MINUTE, |world| world.saw(i, silent)), "{}", duo.story());
        assert!(duo.world.now() - start <= Duration::from_secs(46), "{:?}", duo.world.now() - start);
        duo.world.silence(duo.j, false);
    }
}

/// LINK-15, LINK-16: sessions are renewed before their hour ends, and a pair stays connected over many of them.
#[test]
fn sessions_are_renewed() {
    for wire in WIRES {
        let mut duo = Duo::quiet(14, wire);
        duo.world.pair(duo.i, duo.j);
        duo.world.run_for(SECOND);
        duo.world.clear_events();
        for _ in 0..3 {
            duo.world.run_for(60 * MINUTE);
            assert!(duo.both_connected());
        }
        assert!(!duo.world.saw(duo.i, |event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. })));
        let tree = sample_tree();
        duo.world.share(duo.j, duo.i, &tree, 65_536).expect("paired");
        duo.world.run_for(MINUTE);
        assert!(duo.world.saw(duo.j, |event| matches!(event, Event::Done { .. })));
    }
}

/// DATA-14: streams of a transfer may overtake its offer; with every order of arrival it ends well.
#[test]
fn transfers_end_well_both_ways_on_both_wires() {
    for wire in WIRES {
        for seed in 0..6 {
            let mut duo = Duo::paired(200 + seed, wire);
            let tree = sample_tree();
            for (from, to) in [(duo.i, duo.j), (duo.j, duo.i)] {
                duo.world.share(from, to, &tree, 65_536).expect("paired");
                duo.world.run_for(MINUTE);
                assert!(duo.world.saw(from, |event| matches!(event, Event::Done { .. })), "{}", duo.story());
                assert!(duo.world.saw(to, |event| matches!(event, Event::Done { .. })), "{}", duo.story());
                duo.world.clear_events();
            }
        }
    }
}
