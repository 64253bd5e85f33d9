//! State by message, of every machine that a stream can belong to: what a Node visibly does when a frame arrives that has, or
//! has not, its place there (PROTOCOL.md, section 12; PAIR-7, DATA-4, DATA-7, LIM-6).
//!
//! Each cell is one run: two devices are brought to the state, then the frame takes the place of the one that is awaited, or
//! follows the last one, and what the device does in the next moments is written down: the bytes that it sends on the stream,
//! how it ends the stream, what its owner is told.

use std::fmt::Write as _;
use std::time::Duration;

use adapter_sim::{Answer, At, Damage, Dev, Rule, Side, Wire, World};
use kin_tests::story::{Duo, sample_tree};
use protocol_core::node::Confirm;
use protocol_core::wire::deframer::StreamName;

const MINUTE: Duration = Duration::from_secs(60);
const LINK: StreamName = StreamName::Link;
const PAIR: StreamName = StreamName::Pair;

/// Where the strange frame comes in.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In place of this frame.
    Instead(u32),
    /// Behind this frame.
    Behind(u32),
}

/// How the two are brought to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// They pair, and nobody has to be asked.
    Pairing,
    /// They pair, and their users are asked and think.
    Asking,
    /// They are paired and J reconnects.
    Reconnect,
    /// They are paired and J sends files.
    Transfer,
}

/// A state: its name, how to get there, and the direction and place in which the frame comes.
type State = (&'static str, Way, StreamName, Side, Place);

/// In the order of a stream's life. A side that accepts hears the opener.
const STATES: &[State] = &[
    ("Fresh", Way::Pairing, PAIR, Side::Opener, Place::Instead(0)),
    ("AwaitRequest", Way::Pairing, PAIR, Side::Opener, Place::Instead(1)),
    ("ChallengeSent", Way::Pairing, PAIR, Side::Opener, Place::Instead(2)),
    ("AwaitUser (I)", Way::Asking, PAIR, Side::Opener, Place::Behind(2)),
    ("Storing (I)", Way::Pairing, PAIR, Side::Opener, Place::Behind(2)),
    ("AwaitOpening after pairing", Way::Pairing, PAIR, Side::Opener, Place::Instead(3)),
    ("Control, accepted", Way::Pairing, PAIR, Side::Opener, Place::Behind(3)),
    ("AwaitChallenge", Way::Pairing, PAIR, Side::Answerer, Place::Instead(1)),
    ("Storing (J)", Way::Pairing, PAIR, Side::Answerer, Place::Behind(1)),
    ("ResponseSent", Way::Pairing, PAIR, Side::Answerer, Place::Instead(2)),
    ("ResponseSent, user asked", Way::Asking, PAIR, Side::Answerer, Place::Behind(1)),
    ("Confirming", Way::Pairing, PAIR, Side::Answerer, Place::Behind(2)),
    ("Control, reply awaited", Way::Pairing, PAIR, Side::Answerer, Place::Instead(3)),
    ("Control, opened", Way::Pairing, PAIR, Side::Answerer, Place::Behind(3)),
    ("AwaitHello", Way::Reconnect, LINK, Side::Opener, Place::Instead(1)),
    ("Listener", Way::Reconnect, LINK, Side::Opener, Place::Instead(2)),
    ("Dialer", Way::Reconnect, LINK, Side::Answerer, Place::Instead(1)),
    ("AwaitData", Way::Transfer, World::MANIFEST, Side::Opener, Place::Instead(1)),
    ("Data, pages", Way::Transfer, World::MANIFEST, Side::Opener, Place::Instead(2)),
    ("Data, chunks", Way::Transfer, World::BULK, Side::Opener, Place::Instead(2)),
];

/// Frames of an honest pair that is not this one, and nonsense.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut duo = Duo::new(77, Wire::Sim);
    duo.start(Confirm::Automatic);
    duo.world.run_for(Duration::from_secs(1));
    duo.disconnect();
    assert!(duo.reconnect(duo.j));
    duo.world.share(duo.j, duo.i, &sample_tree(), 65_536).expect("paired");
    duo.world.run_for(MINUTE);
    let sent = |name: StreamName, by_opener: bool, number: usize| {
        let mut sent = duo.world.tap().iter().filter(|tapped| tapped.name == Some(name) && tapped.by_opener == by_opener);
        sent.nth(number).expect("sent").bytes.clone()
    };
    let record = |kind: u8, len: u32| [&len.to_be_bytes()[..], &[kind], &vec![0xaa; len as usize]].concat();
    let opening = sent(PAIR, true, 3);
    vec![
        ("preamble kin-pair/1", PAIR.preamble()),
        ("preamble kin-link/1", LINK.preamble()),
        ("preamble kin-data/1", World::BULK.preamble()),
        ("preamble kin-xxxx/1", b"\x0akin-xxxx/1".to_vec()),
        ("no bytes in a frame", vec![0; 4]),
        ("a frame of nonsense", [&64_u32.to_be_bytes()[..], &[0x55; 64]].concat()),
        ("PairingRequest", sent(PAIR, true, 1)),
        ("Challenge", sent(PAIR, false, 0)),
        ("Response", sent(PAIR, true, 2)),
        ("Complete", sent(PAIR, false, 1)),
        ("Hello", sent(LINK, true, 1)),
        ("Accept", sent(LINK, false, 0)),
        ("Finish", sent(LINK, true, 2)[..537].to_vec()),
        ("header of a control stream", opening[..34].to_vec()),
        ("header and opening record", opening),
        ("header of a data stream", sent(World::MANIFEST, true, 1)[..34].to_vec()),
        ("header and record of a data stream", sent(World::MANIFEST, true, 1)),
        ("reply", sent(PAIR, false, 2)),
        ("data record", record(0, 40)),
        ("fin record", record(1, 16)),
        ("opening record", record(2, 17)),
        ("record of type 9", record(9, 40)),
        ("record that is too long", record(0, 70_000)),
    ]
}

/// What the device did, in short words.
fn reaction(lines: &[String], dev: Dev) -> String {
    let mut words: Vec<String> = Vec::new();
    let own = format!("{} ", dev.0);
    for line in lines {
        let line = line.trim_start().split_once(' ').map_or("", |(_, text)| text);
        if let Some(rest) = line.strip_prefix(&own) {
            if rest.starts_with("resets") {
                words.push(format!("reset {}", rest.rsplit(' ').next().unwrap_or("")));
            } else if let Some((_, error)) = rest.split_once("malformed: ") {
                words.push(format!("reset: {error}"));
            } else if let Some(event) = rest.strip_prefix("told ") {
                let name = event.split([' ', '{']).next().unwrap_or("");
                let reason = event.split_once("reason: ").map(|(_, reason)| reason.trim_end_matches(" }").to_owned());
                let state = event.split_once("state: ").and_then(|(_, state)| state.split(',').next());
                let mut word = name.to_owned();
                for more in [state, reason.as_deref()].into_iter().flatten() {
                    write!(word, " {more}").expect("a string");
                }
                words.push(word);
            }
        } else if line.starts_with("stream ") && line.contains(&format!(" {} to ", dev.0)) {
            words.push(line.rsplit(": ").next().unwrap_or("").to_owned());
        }
    }
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn cell(&(_, way, name, side, place): &State, frame: &[u8]) -> String {
    let mut duo = match way {
        Way::Pairing | Way::Asking => Duo::new(5, Wire::Sim),
        Way::Reconnect | Way::Transfer => Duo::paired(5, Wire::Sim),
    };
    if way == Way::Reconnect {
        duo.disconnect();
    }
    if way == Way::Asking {
        duo.answers(Answer::Silent, Answer::Silent);
    }
    let material = duo.world.material(frame);
    let (at, damage) = match place {
        Place::Instead(number) => (At::Frame(number), Damage::Replace(material)),
        Place::Behind(number) => (At::Frame(number), Damage::Append(material)),
    };
    duo.world.rule(Rule { name, side, at, damage });
    match way {
        Way::Pairing => drop(duo.start(Confirm::Automatic)),
        Way::Asking => drop(duo.start(Confirm::Ask)),
        Way::Reconnect => duo.world.connect(duo.j, duo.i),
        Way::Transfer => drop(duo.world.share(duo.j, duo.i, &sample_tree(), 65_536)),
    }
    assert!(duo.world.run_until(MINUTE, |world| world.fired() == 1), "the state was not reached");
    let lines = duo.world.trace().lines().len();
    duo.world.run_for(Duration::from_millis(30));
    // J opens every stream here: what comes from the opener is heard by I.
    let hears = if side == Side::Opener { duo.i } else { duo.j };
    let seen = reaction(&duo.world.trace().lines()[lines..], hears);
    duo.world.run_for(20 * MINUTE);
    if matches!(way, Way::Reconnect | Way::Transfer) {
        assert!(duo.both_confirmed(), "a strange frame cost the pair");
    }
    duo.check_agreement(true);
    seen
}

#[test]
fn every_state_meets_every_message() {
    let mut table = String::new();
    let frames = frames();
    for state in STATES {
        writeln!(table, "{}", state.0).expect("a string");
        for (name, bytes) in &frames {
            writeln!(table, "  {name:36}{}", cell(state, bytes)).expect("a string");
        }
    }
    insta::assert_snapshot!(table);
}
