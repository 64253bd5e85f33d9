//! A narrow cable, and more on it than it can carry at once.
//!
//! `KIN_WINDOW` asks for longer windows, in seconds.

use std::fs;
use std::time::{Duration, Instant};

use crate::lan::Lan;
use crate::stage::{Running, Stage};

/// Bytes of each file: what the cable carries in twelve seconds or so, twice; more where windows are longer.
const BYTES: usize = 30_000_000;
/// What the cable carries.
const RATE: &str = "40mbit";

/// What the receiver has for sure by now, of what a `kin send` sends.
fn durable(sending: &mut Running) -> u64 {
    sending.listen(Duration::ZERO);
    sending.seen("progress").last().map_or(0, |progress| progress["bytes_durable"].as_u64().unwrap())
}

/// L10 over real stacks: two transfers beside each other have at least a quarter each of what is carried, and messages pass meanwhile.
#[test]
fn two_transfers_share_a_cable_and_messages_pass() {
    let seconds = std::env::var("KIN_WINDOW").map_or(5, |seconds| seconds.parse().unwrap());
    for transport in ["tcp", "iroh", "libp2p"] {
        let (lan, stage) = (Lan::new(), Stage::over(transport));
        let (a, b) = (stage.device("a"), stage.device("b"));
        let code = stage.text("code");
        let mut showing = lan.start(0, &a, &["pair", "--yes", "--name", "a", "--code-file", &code]);
        showing.until("code");
        let joined = lan.start(1, &b, &["join", "--yes", "--name", "b", "--code-file", &code]).end();
        assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
        let policy = lan.start(1, &b, &["devices", "policy", "a", "--files", "auto"]).end();
        assert_eq!(policy.code, 0, "{}", policy.words);
        fs::create_dir(stage.path("in")).unwrap();
        let mut there = lan.start(1, &b, &["up", &stage.text("in")]);
        there.until("listening");
        let mut here = lan.start(0, &a, &["up"]);
        while here.until("device")["state"] != "connected" {}
        // Packets as they travel on a cable, and not bundles of forty.
        lan.0[0].ip("link set lan gso_max_segs 1 gso_max_size 1514");
        lan.0[0].run(&format!("tc qdisc add dev lan root tbf rate {RATE} burst 64kb latency 50ms"));

        let bytes = BYTES / 5 * usize::try_from(seconds).unwrap();
        let mut sending: Vec<Running> = ["one", "two"]
            .map(|name| {
                let mut content = vec![0; bytes];
                getrandom::fill(&mut content).unwrap();
                fs::write(stage.path(name), &content).unwrap();
                lan.start(0, &a, &["send", &stage.text(name), "--to", "b"])
            })
            .into();
        for one in &mut sending {
            while one.until("progress")["bytes_durable"].as_u64().unwrap() == 0 {}
        }
        let before: Vec<u64> = sending.iter_mut().map(durable).collect();
        let (since, mut took) = (Instant::now(), Vec::new());
        while since.elapsed() < Duration::from_secs(seconds) {
            let began = Instant::now();
            let said = lan.start(0, &a, &["msg", "send", "meanwhile", "--to", "b"]).end();
            assert_eq!(said.code, 0, "{}", said.words);
            took.push(began.elapsed());
        }
        let moved: Vec<u64> = sending.iter_mut().map(durable).zip(before).map(|(now, before)| now - before).collect();
        let all: u64 = moved.iter().sum();
        took.sort_unstable();
        println!(
            "{transport}: in {:.1} s {moved:?} bytes; {} messages, each a process, took {:?} in the middle and {:?} at most",
            since.elapsed().as_secs_f64(),
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1]
        );
        assert!(moved.iter().all(|moved| moved * 4 >= all), "{transport}: {moved:?}");
        for one in sending {
            assert_eq!(one.end().code, 0);
        }
        for name in ["one", "two"] {
            assert!(fs::read(stage.path(name)).unwrap() == fs::read(stage.path("in").join(name)).unwrap(), "{name} arrived as it was");
        }
        drop(here.kill());
        drop(there.kill());
    }
}
