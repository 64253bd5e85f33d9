//! People without the words: what they learn, what they cost, what they cannot keep from working (PROTOCOL.md, sections 6.5, 11).

use std::time::Duration;

use adapter_sim::random::Random;
use adapter_sim::{Answer, At, Damage, Raw, Rule, Side, Wire, World};
use kin_tests::story::{Duo, other_code, pair_failure, sample_tree};
use minicbor::Encoder;
use protocol_core::effects::Event;
use protocol_core::faults::PairFailure;
use protocol_core::ids::SessionId;
use protocol_core::node::Confirm;
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);

/// A PairingRequest that is right in all but its tag.
fn bad_request(session: SessionId, random: &mut Random) -> Vec<u8> {
    let mut body = Encoder::new(Vec::new());
    let ek: Vec<u8> = (0..1184).map(|_| (random.next() % 8) as u8).collect();
    let written = (|| {
        body.array(8)?.u8(1)?.u8(1)?.u8(2)?.bytes(&session.0)?.bytes(&random.bytes::<32>())?.bytes(&random.bytes::<32>())?;
        body.bytes(&ek)?.bytes(&random.bytes::<32>())?;
        Ok::<(), minicbor::encode::Error<std::convert::Infallible>>(())
    })();
    written.expect("a vector takes every byte");
    let body = body.into_writer();
    [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
}

/// Whether `needle` is anywhere in what was sent.
fn on_the_wire(world: &World, needle: &[u8]) -> bool {
    world.tap().iter().any(|tapped| tapped.bytes.windows(needle.len()).any(|window| window == needle))
}

/// PAIR-15, PAIR-16, LIM-7, PAIR-11, PAIR-14: ten thousand requests that know the public session id and not the words, from the
/// joiner's own address: not one byte is answered, the code lives, and the right joiner gets in meanwhile.
#[test]
fn ten_thousand_bad_requests_change_nothing() {
    for wire in WIRES {
        let mut duo = Duo::of(World::quiet(1), wire);
        let (i, j) = (duo.i, duo.j);
        let invite = duo.world.invite(i, Confirm::Automatic).expect("free");
        let thief = duo.world.add_stranger(wire, Some(j));
        let mut random = Random::new(1);
        let mut last: Option<Raw> = None;
        for number in 0..10_000 {
            let raw = duo.world.raw_open(thief, i, StreamName::Pair);
            duo.world.raw_send(raw, &bad_request(invite.session, &mut random));
            if number == 9_990 {
                let at = duo.world.address(i);
                duo.world.join(j, &invite.code, &[at], Confirm::Automatic).expect("free");
            }
            duo.world.run_for(Duration::from_millis(7));
            if let Some(last) = last.replace(raw).filter(|_| number % 100 == 0) {
                duo.world.run_for(Duration::from_millis(20));
                assert!(duo.world.raw_is_down(last) && duo.world.raw_received(last).is_empty());
            }
        }
        duo.world.run_for(Duration::from_secs(5));
        assert_eq!(pair_failure(&duo.world, i), None);
        assert!(duo.both_confirmed() && duo.both_connected(), "{:#?}", duo.world.events());
    }
}

/// PAIR-17: a recorded first flight is refused, even from the joiner's own transport id; so is one under another's.
#[test]
fn a_replayed_first_flight_is_refused() {
    let mut duo = Duo::new(2, Wire::Sim);
    duo.answers(Answer::Silent, Answer::Silent);
    let invite = duo.start(Confirm::Ask);
    // The request was answered.
    let i = duo.i;
    assert!(duo.world.run_until(MINUTE, |world| world.tap().iter().any(|tapped| tapped.from == i)));
    let request = duo.world.tap().iter().find(|tapped| tapped.bytes.len() > 1000).expect("a request").bytes.clone();
    for like in [Some(duo.j), None] {
        let thief = duo.world.add_stranger(Wire::Sim, like);
        let raw = duo.world.raw_open(thief, duo.i, StreamName::Pair);
        duo.world.raw_send(raw, &request);
        duo.world.run_for(Duration::from_secs(1));
        assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty(), "{}", duo.story());
    }
    for dev in [duo.i, duo.j] {
        duo.world.call(dev, |node, env| node.answer_pairing(env, invite.session, true)).expect("asked");
    }
    duo.world.run_for(MINUTE);
    assert!(duo.both_confirmed(), "{}", duo.story());
}

/// PAIR-11, PAIR-14: whoever listens for a code's joiner learns as little as who connects to its owner: no name, no key. With
/// the right words names travel, but sealed.
#[test]
fn names_and_keys_never_show() {
    for wire in WIRES {
        let mut duo = Duo::new(3, wire);
        let (i, j) = (duo.i, duo.j);
        let at = duo.world.address(i);
        duo.world.invite(i, Confirm::Automatic).expect("free");
        duo.world.join(j, &other_code(5), &[at], Confirm::Automatic).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.world.tap().iter().all(|tapped| tapped.from != i), "the initiator answers nothing\n{}", duo.story());
        let invite = duo.world.call(i, |node, env| {
            node.shutdown(env);
            node.start_pairing_as_initiator(env, Duration::from_secs(600), Confirm::Automatic)
        });
        let invite = invite.expect("free again");
        let at = duo.world.address(i);
        duo.world.join(j, &invite.code, &[at], Confirm::Automatic).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.both_confirmed());
        duo.world.share(i, j, &sample_tree(), 65_536).expect("paired");
        duo.world.run_for(MINUTE);
        duo.disconnect();
        assert!(duo.reconnect(i));
        let keys = [duo.world.node(i).identity().public().0, duo.world.node(j).identity().public().0];
        for name in ["Schreibtisch", "Laptop", "kin-sim", "Ordner", "a file"] {
            assert!(!on_the_wire(&duo.world, name.as_bytes()), "{name} is readable");
        }
        for key in keys {
            assert!(!on_the_wire(&duo.world, &key[..8]), "an identity key is readable");
        }
    }
}

/// PAIR-12: frames are as long for a long name as for a short one.
#[test]
fn lengths_do_not_tell_names() {
    let lengths = |name: &str| {
        let mut world = World::new(4);
        let (i, j) = (world.add_device(name), world.add_device("x"));
        world.pair(i, j);
        world.tap().iter().map(|tapped| tapped.bytes.len()).collect::<Vec<_>>()
    };
    assert_eq!(lengths("A"), lengths("A name that is as long as a name of a device may be, and it is"));
}

/// LIM-1, LIM-2, DATA-6: 16 unproved streams of one remote and 64 in all; the oldest goes first, and none in its first second;
/// one that never speaks ends after ten.
#[test]
fn unproved_streams_are_few_and_short_lived() {
    let mut duo = Duo::new(5, Wire::Sim);
    let i = duo.i;
    let one = duo.world.add_stranger(Wire::Sim, None);
    let open = |duo: &mut Duo, from| duo.world.raw_open(from, i, StreamName::Pair);
    let streams: Vec<Raw> = (0..16).map(|_| open(&mut duo, one)).collect();
    let seventeenth = open(&mut duo, one);
    duo.world.run_for(Duration::from_millis(900));
    assert!(duo.world.raw_is_down(seventeenth), "no room, and nobody is old enough to go");
    assert!(streams.iter().all(|&raw| !duo.world.raw_is_down(raw)));
    duo.world.run_for(Duration::from_millis(200));
    let later = open(&mut duo, one);
    duo.world.run_for(Duration::from_millis(100));
    assert!(!duo.world.raw_is_down(later) && duo.world.raw_is_down(streams[0]), "the oldest goes first");
    assert!(streams[1..].iter().all(|&raw| !duo.world.raw_is_down(raw)));
    // Others still get in, up to 64 in all.
    let mut others = Vec::new();
    for _ in 0..4 {
        let other = duo.world.add_stranger(Wire::Sim, None);
        others.extend((0..12).map(|_| open(&mut duo, other)));
    }
    let last = duo.world.add_stranger(Wire::Sim, None);
    let one_more = open(&mut duo, last);
    duo.world.run_for(Duration::from_millis(100));
    assert!(others.iter().all(|&raw| !duo.world.raw_is_down(raw)) && !duo.world.raw_is_down(one_more));
    assert!(duo.world.raw_is_down(streams[1]), "the oldest of all goes first");
    // Ten seconds after it came, each is gone.
    duo.world.run_for(Duration::from_secs(8));
    assert!(!duo.world.raw_is_down(others[0]));
    duo.world.run_for(Duration::from_secs(2));
    for raw in streams.into_iter().chain(others).chain([later, one_more]) {
        assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty());
    }
    duo.world.pair(i, duo.j);
}

/// PAIR-1, PAIR-3, PAIR-7, LIM-6: nonsense in every place: a reset, and not one byte more.
#[test]
fn nonsense_is_reset() {
    for wire in WIRES {
        let mut duo = Duo::new(6, wire);
        let i = duo.i;
        let invite = duo.world.invite(i, Confirm::Automatic).expect("free");
        let mut random = Random::new(6);
        for name in [StreamName::Pair, StreamName::Link, World::BULK] {
            for length in [0_u32, 1, 40, 1263, 1314, 1536, 1537, 8192, u32::MAX] {
                let stranger = duo.world.add_stranger(wire, None);
                let raw = duo.world.raw_open(stranger, i, name);
                duo.world.raw_send(raw, &length.to_be_bytes());
                let body: Vec<u8> = (0..length.min(9000)).map(|_| random.next() as u8).collect();
                duo.world.raw_send(raw, &body);
                duo.world.run_for(Duration::from_secs(11));
                assert!(duo.world.raw_is_down(raw) && duo.world.raw_received(raw).is_empty(), "{name:?} {length}\n{}", duo.story());
            }
        }
        let at = duo.world.address(i);
        duo.world.join(duo.j, &invite.code, &[at], Confirm::Automatic).expect("free");
        duo.world.run_for(MINUTE);
        assert!(duo.both_confirmed());
    }
}

/// PAIR-18: four handshakes past the tag at once; a fifth has to come again.
#[test]
fn four_handshakes_at_once() {
    let mut duo = Duo::new(7, Wire::Sim);
    let invite = duo.world.invite(duo.i, Confirm::Ask).expect("free");
    let at = duo.world.address(duo.i);
    duo.world.set_pairings(duo.i, Answer::Silent);
    // Four that know the words and fall silent behind their first frame.
    for _ in 0..4 {
        let holder = duo.world.add_device("holder");
        duo.world.rule(Rule { name: StreamName::Pair, side: Side::Opener, at: At::Frame(1), damage: Damage::Vanish });
        duo.world.join(holder, &invite.code, std::slice::from_ref(&at), Confirm::Automatic).expect("free");
        duo.world.run_for(Duration::from_secs(1));
    }
    assert_eq!(duo.world.fired(), 4);
    duo.world.join(duo.j, &invite.code, std::slice::from_ref(&at), Confirm::Ask).expect("free");
    duo.world.run_for(Duration::from_secs(5));
    assert_eq!(duo.pair_failure(duo.j), Some(PairFailure::NotAccepted));
    // They end by their own timer, and then there is room.
    duo.world.run_for(Duration::from_secs(30));
    duo.world.set_pairings(duo.i, Answer::Yes);
    duo.world.join(duo.j, &invite.code, &[at], Confirm::Ask).expect("free");
    duo.world.run_for(MINUTE);
    assert!(duo.both_confirmed(), "{}", duo.story());
}

/// PAIR-8: somebody in the middle who passes the frames on: each side sees another transport id than the other, or another
/// exporter, and nothing comes of it.
#[test]
fn a_relay_in_the_middle_is_refused() {
    for wire in WIRES {
        let mut duo = Duo::new(8, wire);
        let (i, j) = (duo.i, duo.j);
        let middle = duo.world.add_stranger(wire, None);
        let invite = duo.world.invite(i, Confirm::Automatic).expect("free");
        let at = duo.world.address(middle);
        duo.world.join(j, &invite.code, &[at], Confirm::Automatic).expect("free");
        duo.world.run_for(Duration::from_secs(1));
        let towards_j = duo.world.raw_newest(middle).expect("J came");
        let towards_i = duo.world.raw_open(middle, i, StreamName::Pair);
        let request = duo.world.raw_received(towards_j)[11..].to_vec();
        assert!(request.len() > 1000);
        duo.world.raw_send(towards_i, &request);
        duo.world.run_for(Duration::from_secs(1));
        assert!(duo.world.raw_is_down(towards_i) && duo.world.raw_received(towards_i).is_empty());
        duo.world.run_for(2 * MINUTE);
        assert!(duo.nothing_stored());
        assert!(!duo.world.saw(i, |event| matches!(event, Event::PairRequest { .. } | Event::Paired { .. })));
    }
}
