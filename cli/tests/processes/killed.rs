//! Two devices that pair, and one of them dies at any moment: nothing is ever left that cannot be used or repaired.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::random::{Random, seed};
use crate::stage::{Device, Ended, Running, Stage, join, strings};

const ROUNDS: u64 = 50;
/// Over a network stack that needs long to notice that nobody is there any more.
const ROUNDS_OF_OTHERS: u64 = 10;
/// Most of a round is waiting: rounds side by side keep both cores busy.
const SIDE_BY_SIDE: usize = 4;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Initiator,
    Joiner,
}

/// When: so long after the joiner said `after`.
#[derive(Clone, Copy, Debug)]
struct Moment {
    after: &'static str,
    wait: Duration,
}

/// How long an honest pairing takes, from two of the joiner's events to its end.
#[derive(Clone, Copy, Debug)]
struct Honest {
    from_listening: Duration,
    from_request: Duration,
}

/// PAIR-47, PAIR-35, PAIR-38, HOST-3, HOST-4.
#[test]
fn a_pairing_that_is_killed_at_any_moment_can_be_repaired() {
    let outcomes = rounds("tcp", ROUNDS);
    for (side, least) in [("initiator killed", 2), ("joiner killed", 2)] {
        let seen = outcomes.keys().filter(|outcome| outcome.starts_with(side)).count();
        assert!(seen >= least, "the kills of this run all fell into one place: {outcomes:#?}");
    }
}

/// PAIR-47.
#[test]
fn and_over_iroh() {
    rounds("iroh", ROUNDS_OF_OTHERS);
}

/// PAIR-47.
#[test]
fn and_over_libp2p() {
    rounds("libp2p", ROUNDS_OF_OTHERS);
}

/// So many pairings that are killed, and what became of them.
fn rounds(transport: &'static str, rounds: u64) -> BTreeMap<String, u32> {
    let (seed, honest) = (seed(), honest(transport));
    println!("an honest pairing: {honest:?}");
    let (round, outcomes) = (AtomicU64::new(0), Mutex::new(BTreeMap::<String, u32>::new()));
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let number = round.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        return;
                    }
                    let outcome = one_round(transport, seed, number, honest);
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    println!("{outcomes:#?}");
    assert_eq!(outcomes.values().sum::<u32>(), u32::try_from(rounds).unwrap());
    outcomes
}

fn honest(transport: &'static str) -> Honest {
    let stage = Stage::over(transport);
    let (showing, code, addresses) = stage.show_code(&stage.device("a"), &["--yes"]);
    let mut joining = join(&stage.device("b"), &code, &addresses, &["--yes"]);
    joining.until("listening");
    let listening = Instant::now();
    joining.until("pair_request");
    let request = Instant::now();
    assert_eq!(joining.end().code, 0);
    let end = Instant::now();
    assert_eq!(showing.end().code, 0);
    Honest { from_listening: end - listening, from_request: end - request }
}

/// One pairing that is killed, looked at, repaired and done again. What became of it.
fn one_round(transport: &'static str, seed: u64, number: u64, honest: Honest) -> String {
    let mut random = Random::new(seed ^ number.wrapping_mul(0x1000_0001));
    let victim = if number.is_multiple_of(2) { Victim::Initiator } else { Victim::Joiner };
    let moment = match random.next() % 6 {
        0 => Moment { after: "pair_request", wait: random.below(honest.from_request) },
        1 => Moment { after: "listening", wait: random.below(honest.from_listening / 4) },
        _ => Moment { after: "listening", wait: random.below(honest.from_listening) },
    };
    let told = format!("{transport}: round {number} of {seed}: {victim:?} {moment:?}");
    let stage = Stage::over(transport);
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let mut joining = join(&b, &code, &addresses, &["--yes", "--name", "device b"]);
    joining.until(moment.after);
    joining.listen(moment.wait);
    let survived = match victim {
        Victim::Initiator => initiator_dies(&stage, &a, showing, joining, &told),
        Victim::Joiner => joiner_dies(&b, (showing, &code, &addresses), joining, &told),
    };
    let left = leftover(&stage, &a, &b, &told);
    pair_again(&stage, &a, &b, &told);
    format!("{survived}, {left}")
}

/// The initiator dies and comes back with another code: the joiner ends, and says rightly how.
fn initiator_dies(stage: &Stage, a: &Device, showing: Running, joining: Running, told: &str) -> String {
    showing.kill();
    let (again, ..) = stage.show_code(a, &["--yes"]);
    let joined = joining.end();
    again.signal(Signal::TERM);
    let again = again.end();
    assert_eq!(again.code, 143, "{told}: nobody used the new code: {:?}", again.events);
    let unfinished = joined.all("warning").iter().any(|warning| warning["code"] == "unfinished");
    let how = match joined.code {
        0 if unfinished => "joiner finished it by a reconnect",
        0 => "joiner was through",
        7 if unfinished => {
            assert!(joined.message().contains("last message"), "{told}: {}", joined.message());
            "joiner did not hear the last word"
        }
        7 => {
            assert!(joined.message().contains("not accepted"), "{told}: {}", joined.message());
            "joiner was not accepted"
        }
        // Over UDP somebody who died in the middle of the handshake of TLS is like nobody at all.
        4 if told.starts_with("iroh") => "joiner found nobody",
        other => panic!("{told}: exit {other} {:?}", joined.events),
    };
    assert_eq!(joined.code == 0, !joined.all("paired").is_empty(), "{told}: {:?}", joined.events);
    if joined.code == 7 {
        assert!(joined.event("error")["next_command"].as_str().unwrap().contains("kin "), "{told}");
    }
    format!("initiator killed: {how}")
}

/// The joiner dies and comes back with the same code: it is still good unless it was used.
fn joiner_dies(b: &Device, (showing, code, addresses): (Running, &str, &[String]), joining: Running, told: &str) -> String {
    joining.kill();
    let mut again = join(b, code, addresses, &["--yes", "--name", "device b"]);
    // From here on a signal ends it in order.
    again.until("listening");
    let id = again.pid();
    let (sender, ends) = channel();
    let other = sender.clone();
    thread::spawn(move || sender.send((Victim::Initiator, showing.end())));
    thread::spawn(move || other.send((Victim::Joiner, again.end())));
    let first = ends.recv().unwrap();
    if first.0 == Victim::Initiator {
        // Where the code was used by the one that died, nobody listens any more: the other would look for 30 s.
        kill_process(id, Signal::TERM).unwrap_or(());
    }
    let second = ends.recv().unwrap();
    let (shown, again) = if first.0 == Victim::Initiator { (first.1, second.1) } else { (second.1, first.1) };
    if shown.code == 7 {
        // The device that had used the code was gone before it was told so.
        assert!(shown.message().contains("the connection to the other device was lost"), "{told}: {}", shown.message());
        assert_eq!(shown.event("error")["next_command"], "kin pair");
        assert_ne!(again.code, 0, "{told}: a code that was used let somebody in");
        return "joiner killed: the initiator lost it".to_owned();
    }
    assert_eq!(shown.code, 0, "{told}: {:?}", shown.events);
    assert_eq!(shown.all("paired").len(), 1, "{told}: {:?}", shown.events);
    let unused = shown.all("warning").iter().any(|warning| warning["code"] == "not_used_yet");
    let how = match again.code {
        0 => "the code was still good",
        7 => {
            assert!(again.message().contains("used"), "{told}: {}", again.message());
            "the code was used up"
        }
        143 => "the initiator was through",
        other => panic!("{told}: exit {other} {:?}", again.events),
    };
    format!("joiner killed: {how}{}", if unused { ", and the initiator knows no better" } else { "" })
}

/// What the two know of each other; where either knows the other, a transfer repairs it or says what to do.
fn leftover(stage: &Stage, a: &Device, b: &Device, told: &str) -> String {
    let (at_a, at_b) = (known(a, told), known(b, told));
    let mut words = format!("then a:{} b:{}", word(&at_a), word(&at_b));
    for (from, to, (here, there), name) in [(b, a, (&at_b, &at_a), "device a"), (a, b, (&at_a, &at_b), "device b")] {
        let Some(here) = here else { continue };
        let (sent, received) = send(stage, from, to, name);
        if sent.code == 0 {
            assert_eq!(received.unwrap().code, 0, "{told}");
            words += ", works";
            for device in [from, to] {
                assert_eq!(word(&known(device, told)), "paired", "{told}: a transfer confirms");
            }
        } else {
            assert_eq!(sent.code, 6, "{told}: {:?}", sent.events);
            assert!(sent.message().contains("did not accept"), "{told}: {}", sent.message());
            assert_eq!(sent.event("error")["next_command"], "kin pair", "{told}");
            // Who is sure of the pairing was right.
            let both = here["confirmed"] == true || there.as_ref().is_some_and(|there| there["confirmed"] == true);
            assert!(!both, "{told}: {here} {there:?}");
            words += ", refused";
        }
    }
    words
}

/// Sends a file. The receiver ends by itself if it gets it, else it is asked to.
fn send(stage: &Stage, from: &Device, to: &Device, name: &str) -> (Ended, Option<Ended>) {
    let (file, inbox) = (stage.path("file"), stage.text("inbox"));
    fs::write(&file, "content").unwrap();
    let mut receiving = to.start(&["recv", &inbox, "--once", "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let sent = from.run(&["send", file.to_str().unwrap(), "--to", name, "--address", &address]);
    if sent.code == 0 {
        return (sent, Some(receiving.end()));
    }
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    (sent, None)
}

/// The one device that `device` knows, if it knows one.
fn known(device: &Device, told: &str) -> Option<Value> {
    let listed = device.run(&["devices"]);
    assert_eq!(listed.code, 0, "{told}: {:?}", listed.events);
    let all = listed.all("device");
    assert!(all.len() <= 1, "{told}: {all:?}");
    all.first().map(|device| (*device).clone())
}

fn word(known: &Option<Value>) -> &'static str {
    match known {
        None => "nobody",
        Some(device) if device["confirmed"] == true => "paired",
        Some(_) => "unused",
    }
}

/// Another code always makes one record of each other, whatever was there.
fn pair_again(stage: &Stage, a: &Device, b: &Device, told: &str) {
    let (showing, code, addresses) = stage.show_code(a, &["--yes"]);
    let joined = join(b, &code, &addresses, &["--yes", "--name", "device b"]).end();
    let shown = showing.end();
    assert_eq!((shown.code, joined.code), (0, 0), "{told}: {:?} {:?}", shown.events, joined.events);
    for device in [a, b] {
        assert_eq!(word(&known(device, told)), "paired", "{told}");
    }
    assert_eq!(known(a, told).unwrap()["device_id"], b.id());
    assert_eq!(known(b, told).unwrap()["device_id"], a.id());
}
