//! Messages between two homes: there once or not at all, whatever is killed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::random::{Random, seed};
use crate::stage::{Device, Ended, Running, Stage, strings};

/// Exchanges in which somebody is killed; KIN_KILLS asks for more.
const KILLS: u64 = 40;

/// Starts something that is reached, and says where.
fn listening(device: &Device, line: &[&str]) -> (Running, Vec<String>) {
    let mut running = device.start(line);
    let addresses = strings(&running.until("listening")["addresses"]);
    (running, addresses)
}

fn send(device: &Device, text: &str, addresses: &[String], more: &[&str]) -> Running {
    let mut line = vec!["msg", "send", text, "--to", "device b"];
    for address in addresses {
        line.extend(["--address", address]);
    }
    line.extend(more);
    device.start(&line)
}

fn states(ended: &Ended) -> Vec<&str> {
    ended.all("receipt").iter().map(|receipt| receipt["state"].as_str().unwrap()).collect()
}

fn bodies<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    events.into_iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect()
}

/// MSG-1, MSG-5: over each stack; what is taken is gone, what was not is there at the next start.
#[test]
fn a_message_arrives_over_each_stack_and_is_taken_once() {
    for transport in ["tcp", "iroh", "libp2p"] {
        let stage = Stage::over(transport);
        let (a, b) = stage.pair();
        let (tailing, addresses) = listening(&b, &["msg", "tail", "--once"]);
        let sent = send(&a, "hello, b", &addresses, &[]).end();
        assert_eq!((sent.code, states(&sent)), (0, vec!["queued", "delivered"]), "{transport}: {}", sent.words);
        let tailed = tailing.end();
        assert_eq!((tailed.code, bodies(tailed.all("message"))), (0, vec!["hello, b".to_owned()]), "{transport}: {}", tailed.words);
        assert_eq!(tailed.event("message")["device_id"], a.id());
        assert_eq!(tailed.event("message")["message_id"], sent.event("receipt")["message_id"]);
        let listed = b.run(&["msg", "list"]);
        assert!(listed.code == 0 && listed.all("message").is_empty(), "{transport}: {:?}", listed.events);
    }
}

/// Who receives files hears of a message too, and where to read it.
#[test]
fn who_receives_hears_that_a_message_came() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let at = stage.text("at");
    let mut command = b.command();
    command.args(["recv", &stage.text("inbox"), "--address-file", &at]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut receiving = command.spawn().unwrap();
    let mut lines = BufReader::new(receiving.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("Receiving into")));
    let addresses: Vec<String> = std::fs::read_to_string(&at).unwrap().lines().map(str::to_owned).collect();
    let mut line = vec!["msg", "send", "hello", "--to", "device b"];
    addresses.iter().for_each(|address| line.extend(["--address", address]));
    assert_eq!(a.run(&line).code, 0);
    let said = lines.find(|line| line.contains("message")).unwrap();
    assert_eq!(said, "A message of \"device a\" came; when this ends, read it with: kin msg tail");
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    assert_eq!(b.run(&["msg", "list"]).event("message")["body"], "hello");
}

/// Something else runs there; text, bytes, nothing, and too much.
#[test]
fn whatever_runs_there_takes_messages_in() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (receiving, addresses) = listening(&b, &["recv", &stage.text("inbox"), "--yes"]);
    let piped = |bytes: &[u8]| {
        std::fs::write(stage.path("body"), bytes).unwrap();
        let mut command = a.command();
        command.args(["--json", "msg", "send", "--to", "device b"]).args(addresses.iter().flat_map(|at| ["--address", at]));
        command.stdin(File::open(stage.path("body")).unwrap()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(piped(b"one\ntwo").0, 0);
    assert_eq!(piped(&[0xff, 0]).0, 0);
    assert_eq!(piped(b"").0, 0);
    assert_eq!(piped(&vec![b'x'; 1 << 20]).0, 0);
    let (code, words) = piped(&vec![b'x'; (1 << 20) + 1]);
    assert!(code == 2 && words.contains("longer than 1 MiB"), "{code} {words}");
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    let listed = b.run(&["msg", "list", "device a"]);
    let (messages, bodies) = (listed.all("message"), bodies(listed.all("message")));
    assert_eq!((&bodies[..3], bodies[3].len()), (&["one\ntwo".to_owned(), "\u{fffd}\0".to_owned(), String::new()][..], 1 << 20));
    assert_eq!((&messages[1]["body_base64"], &messages[0]["body_base64"]), (&Value::from("/wA="), &Value::Null));
    // They wait for who follows them.
    let tailed = b.run(&["msg", "tail", "--once"]);
    assert_eq!((tailed.code, tailed.event("message")["body"].as_str()), (0, Some("one\ntwo")));
    assert_eq!(b.run(&["msg", "list"]).all("message").len(), 3);
}

/// MSG-1, MSG-3: without --queue nothing stays behind, with it everything waits for the next contact.
#[test]
fn a_message_waits_only_if_it_is_to() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let nobody = send(&a, "lost", &[], &[]).end();
    assert_eq!((nobody.code, states(&nobody)), (4, vec!["queued"]), "{}", nobody.words);
    assert!(a.run(&["msg", "list"]).all("receipt").is_empty(), "it does not wait");
    for text in ["first", "second"] {
        let queued = send(&a, text, &[], &["--queue", "--wait=1s"]).end();
        assert_eq!((queued.code, states(&queued)), (0, vec!["queued"]), "{}", queued.words);
    }
    assert_eq!(a.run(&["msg", "list"]).all("receipt").len(), 2);
    assert!(a.say(&["msg", "list"]).starts_with("waits for device b"));
    let (tailing, addresses) = listening(&b, &["msg", "tail", "--timeout", "60s"]);
    let sent = send(&a, "third", &addresses, &[]).end();
    assert_eq!(sent.code, 0, "{}", sent.words);
    assert!(a.run(&["msg", "list"]).all("receipt").is_empty());
    tailing.signal(Signal::TERM);
    let tailed = tailing.end();
    assert_eq!(bodies(tailed.all("message")), ["first", "second", "third"], "{}", tailed.words);
    let nobody = a.run(&["msg", "send", "x", "--to", "nobody"]);
    assert_eq!(nobody.code, 12, "{}", nobody.words);
    let late = b.run(&["msg", "tail", "--timeout", "1s"]);
    assert_eq!(late.code, 14, "{}", late.words);
}

/// S15, S16: sender or receiver is killed at any moment of an exchange: what was reported delivered is there, nothing is there twice, and
/// all are in order.
#[test]
fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let mut random = Random::new(seed());
    let kills = std::env::var("KIN_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let inbox = stage.text("inbox");
    let receive = ["recv", &inbox, "--yes"];
    let (receiving, addresses) = listening(&b, &receive);
    let started = Instant::now();
    assert_eq!(send(&a, "0", &addresses, &[]).end().code, 0);
    let honest = started.elapsed();
    receiving.kill();

    let mut delivered = BTreeSet::from([0]);
    for number in 1..=kills {
        let (receiving, addresses) = listening(&b, &receive);
        let mut sending = send(&a, &number.to_string(), &addresses, &["--queue", "--wait=1s", "--wait-receipt=2s"]);
        sending.listen(random.below(honest + Duration::from_millis(20)));
        let said = if random.next().is_multiple_of(2) {
            sending.kill()
        } else {
            receiving.kill();
            sending.end().events
        };
        let of_this: Vec<&Value> = said.iter().filter(|event| event["event"] == "receipt").collect();
        if of_this.iter().any(|receipt| receipt["state"] == "delivered") {
            delivered.insert(number);
        }
    }
    // One more contact: whatever waits has its way.
    let (receiving, addresses) = listening(&b, &receive);
    let last = send(&a, &(kills + 1).to_string(), &addresses, &[]).end();
    assert_eq!(last.code, 0, "{}", last.words);
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    assert!(a.run(&["msg", "list"]).all("receipt").is_empty(), "nothing waits any more");
    let there: Vec<u64> = bodies(b.run(&["msg", "list"]).all("message")).iter().map(|body| body.parse().unwrap()).collect();
    assert!(there.is_sorted_by(|one, next| one < next), "in order, none twice: {there:?}");
    let missing: Vec<&u64> = delivered.iter().filter(|number| !there.contains(number)).collect();
    assert!(missing.is_empty(), "reported delivered and not there: {missing:?} of {there:?}");
    println!("{} of {kills} were reported delivered, {} are there", delivered.len() - 1, there.len() - 2);
    assert!(there.len() as u64 > kills / 4, "the kills of this run all fell before anything: {there:?}");
}
