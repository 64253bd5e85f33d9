//! Transfers that are interrupted, and go on: killed at random moments, cut, ended in order; by the same command, by `kin up` alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::looks::{big, looks, mixed, number, small, temporaries};
use crate::random::{Random, seed};
use crate::stage::{Device, Ended, Running, Stage, strings};

/// A `kin recv` that takes everything.
fn receive(stage: &Stage, b: &Device, more: &[&str]) -> (Running, Vec<String>) {
    let inbox = stage.text("inbox");
    let mut line = vec!["recv", &inbox, "--yes"];
    line.extend(more);
    let mut receiving = b.start(&line);
    let addresses = strings(&receiving.until("listening")["addresses"]);
    (receiving, addresses)
}

fn send(stage: &Stage, a: &Device, addresses: &[String]) -> Running {
    let what = stage.text("album");
    let mut line = vec!["send", &what, "--to", "device b", "--wait=60s"];
    for address in addresses {
        line.extend(["--address", address]);
    }
    a.start(&line)
}

/// It is there as it was, once, and nothing else is.
fn arrived(stage: &Stage, told: &str) {
    assert_eq!(looks(&stage.path("album")), looks(&stage.path("inbox/album")), "{told}");
    let names: Vec<_> = fs::read_dir(stage.path("inbox")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["album"], "{told}");
    assert_eq!(temporaries(&stage.path("inbox")), Vec::<PathBuf>::new(), "{told}");
    for home in ["home-a", "home-b"] {
        let left = fs::read_dir(stage.path(home).join("transfers")).into_iter().flatten().map(|entry| entry.unwrap().path());
        // What is done is remembered for a day.
        let left: Vec<_> = left.filter(|path| path.extension().is_none_or(|kind| kind != "done")).collect();
        assert!(left.is_empty(), "{told}: {home} remembers {left:?}");
    }
}

/// How long the whole takes without a kill.
fn honest(make: &dyn Fn(&mut Random, &Path)) -> Duration {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    make(&mut Random::new(1), &stage.path("album"));
    let (receiving, addresses) = receive(&stage, &b, &["--once"]);
    let mut sending = send(&stage, &a, &addresses);
    sending.until("accepted");
    let since = std::time::Instant::now();
    assert_eq!(sending.end().code, 0);
    let took = since.elapsed();
    assert_eq!(receiving.end().code, 0);
    arrived(&stage, "without a kill");
    took
}

/// Kills that a test makes: `KIN_RESUME_KILLS`, or a few.
fn kills() -> u64 {
    std::env::var("KIN_RESUME_KILLS").ok().map_or(6, |text| text.parse().unwrap())
}

/// So many kills, of either side or both, in transfers of what `make` makes.
fn rounds(make: &dyn Fn(&mut Random, &Path)) {
    let (seed, took) = (seed(), honest(make));
    let mut random = Random::new(seed);
    let (mut killed, mut resumed, mut round) = (0, 0, 0);
    while killed < kills() {
        round += 1;
        let stage = Stage::new();
        let (a, b) = stage.pair();
        make(&mut random, &stage.path("album"));
        let (mut receiving, mut addresses) = receive(&stage, &b, &[]);
        let mut running = Some(send(&stage, &a, &addresses));
        let (mut durable, mut cuts, mut through, mut done) = (0, 0, false, None);
        for _ in 0..1 + random.next() % 3 {
            let Some(mut sending) = running.take() else { break };
            if sending.until_or_end("accepted").is_none() {
                running = Some(sending);
                break;
            }
            sending.listen(random.below(took));
            let victim = random.next() % 3;
            if victim > 0 {
                receiving.kill();
                (receiving, addresses) = receive(&stage, &b, &[]);
            }
            (killed, cuts) = (killed + 1, cuts + 1);
            if victim == 1 {
                running = Some(sending);
                continue;
            }
            let told = sending.kill();
            let most = told.iter().filter(|event| event["event"] == "progress").map(|event| number(event, "bytes_durable")).max();
            // One that was through needs no other, also where it was killed before it could say so.
            through = told.iter().any(|event| event["event"] == "progress" && event["files_done"] == event["files_total"]);
            done = told.into_iter().find(|event| event["event"] == "done");
            // Its home knows best: what is not unfinished there was through.
            through |= done.is_some() || a.run(&["transfers"]).all("unfinished").is_empty();
            if !through {
                durable = durable.max(most.unwrap_or(0));
            }
            running = (!through).then(|| send(&stage, &a, &addresses));
        }
        let told = format!("round {round} of {seed}: {cuts} kills");
        if let Some(sending) = running {
            let sent = sending.end();
            assert_eq!(sent.code, 0, "{told}: {:?}\n{}", sent.events, sent.words);
            done = Some(sent.event("done").clone());
        }
        receiving.signal(Signal::TERM);
        let received = receiving.end();
        assert_eq!(received.code, 143, "{told}: {}", received.words);
        arrived(&stage, &told);
        assert!(through || done.is_some(), "{told}");
        let Some(done) = done else { continue };
        resumed += u64::from(number(&done, "bytes_resumed") > 0);
        assert!(number(&done, "bytes_resumed") <= number(&done, "bytes"), "{told}: {done}");
        // What an earlier process was told to be durable is not sent again.
        assert!(number(&done, "bytes_resumed") >= durable, "{told}: {durable} bytes were durable: {done}");
    }
    println!("{round} transfers, {killed} kills, {resumed} went on with something that was there; one takes {took:?}");
}

/// XFER-21, XFER-25, XFER-26, XFER-28, HOST-24.
#[test]
fn a_big_file_survives_kills() {
    rounds(&|random, root| big(random, root, 24 << 20));
}

/// XFER-26, HOST-24.
#[test]
fn many_small_files_survive_kills() {
    rounds(&|random, root| small(random, root, 3_000));
}

/// XFER-26, HOST-24.
#[test]
fn a_mixed_tree_survives_kills() {
    rounds(&|random, root| mixed(random, root, 20));
}

/// Starts a transfer, and kills both in its middle.
fn killed_in_the_middle(stage: &Stage, a: &Device, b: &Device) -> u64 {
    let (receiving, addresses) = receive(stage, b, &[]);
    let mut sending = send(stage, a, &addresses);
    let durable = loop {
        let progress = sending.until("progress");
        if number(&progress, "bytes_durable") > 0 {
            break number(&progress, "bytes_durable");
        }
    };
    sending.kill();
    receiving.kill();
    durable
}

/// A file that is long enough to be killed in the middle of.
fn long(stage: &Stage) {
    big(&mut Random::new(7), &stage.path("album"), 400 << 20);
}

#[test]
fn what_is_unfinished_is_listed_and_resumed_and_given_up() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    long(&stage);
    let durable = killed_in_the_middle(&stage, &a, &b);
    let (out, there) = (a.run(&["transfers"]), b.run(&["transfers", "list"]));
    let (out, there) = (out.event("unfinished"), there.event("unfinished"));
    assert_eq!((&out["direction"], &there["direction"]), (&Value::from("out"), &Value::from("in")));
    assert_eq!((&out["id"], &out["bytes"]), (&there["id"], &there["bytes"]));
    assert!(number(there, "bytes_durable") >= durable, "{there}");
    let id = out["id"].as_str().unwrap()[..8].to_owned();
    assert!(a.say(&["transfers", "show", &id]).contains("kin transfers resume"));
    assert_eq!(a.run(&["transfers", "show", "zz"]).code, 12);

    // From the receiver's side, which needs no more of its owner's word: nobody is there to ask.
    let mut receiving = b.start(&["transfers", "resume", &id]);
    let addresses = strings(&receiving.until("listening")["addresses"]);
    let mut line = vec!["transfers", "resume", &id];
    for address in &addresses {
        line.extend(["--address", address]);
    }
    let sent = a.run(&line);
    let received = receiving.end();
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    for side in [&sent, &received] {
        assert!(number(side.event("done"), "bytes_resumed") >= durable, "{durable}: {}", side.event("done"));
    }
    arrived(&stage, "resumed");
    assert!(a.run(&["transfers"]).all("unfinished").is_empty());

    // And one that nobody wants any more.
    fs::remove_dir_all(stage.path("inbox")).unwrap();
    killed_in_the_middle(&stage, &a, &b);
    let id = b.run(&["transfers"]).event("unfinished")["id"].as_str().unwrap().to_owned();
    assert!(!temporaries(&stage.path("inbox")).is_empty());
    assert_eq!(b.run(&["transfers", "cancel", &id]).code, 0);
    assert_eq!(temporaries(&stage.path("inbox")), Vec::<PathBuf>::new());
    assert_eq!(a.run(&["transfers", "prune"]).code, 0);
    for device in [&a, &b] {
        assert!(device.run(&["transfers"]).all("unfinished").is_empty());
    }
}

/// XFER-28: a try for which there is no place takes nothing from the next.
#[test]
fn a_try_without_a_place_leaves_what_has_arrived() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    long(&stage);
    let durable = killed_in_the_middle(&stage, &a, &b);
    let (receiving, addresses) = receive(&stage, &b, &[]);
    fs::rename(stage.path("inbox"), stage.path("elsewhere")).unwrap();
    let sent = send(&stage, &a, &addresses).end();
    assert_eq!(sent.code, 6, "{}", sent.words);
    fs::rename(stage.path("elsewhere"), stage.path("inbox")).unwrap();
    // Nor does one that is declined.
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    let mut refusing = b.command().args(["recv", "-"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sent = send(&stage, &a, &[]).end();
    assert_eq!(sent.code, 6, "{}", sent.words);
    refusing.kill().unwrap();
    refusing.wait().unwrap();
    let (receiving, addresses) = receive(&stage, &b, &[]);
    let sent = send(&stage, &a, &addresses).end();
    assert_eq!(sent.code, 0, "{}", sent.words);
    assert!(number(sent.event("done"), "bytes_resumed") >= durable, "{durable}: {}", sent.event("done"));
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    arrived(&stage, "in its place");
}

/// XFER-28.
#[test]
fn whoever_ends_in_order_leaves_what_has_arrived() {
    for (who, code) in [("a", 130), ("b", 130)] {
        let stage = Stage::new();
        let (a, b) = stage.pair();
        long(&stage);
        let (receiving, addresses) = receive(&stage, &b, &[]);
        let mut sending = send(&stage, &a, &addresses);
        while number(&sending.until("progress"), "bytes_durable") == 0 {}
        let (ended, left): (Ended, Running) = if who == "a" {
            sending.signal(Signal::INT);
            (sending.end(), receiving)
        } else {
            receiving.signal(Signal::INT);
            (receiving.end(), sending)
        };
        assert_eq!(ended.code, code, "{}", ended.words);
        let (sent, receiving) = if who == "a" {
            (send(&stage, &a, &addresses).end(), left)
        } else {
            // Whoever sends waits for it to come back.
            let (receiving, _) = receive(&stage, &b, &[]);
            (left.end(), receiving)
        };
        assert_eq!(sent.code, 0, "{}", sent.words);
        assert!(number(sent.event("done"), "bytes_resumed") > 0, "{:?}", sent.event("done"));
        receiving.signal(Signal::TERM);
        assert_eq!(receiving.end().code, 143);
        arrived(&stage, who);
    }
}

#[test]
fn a_tree_that_changed_a_little_takes_over_what_is_equal() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    long(&stage);
    small(&mut Random::new(3), &stage.path("album"), 200);
    killed_in_the_middle(&stage, &a, &b);
    let before = number(b.run(&["transfers"]).event("unfinished"), "bytes_durable");
    fs::write(stage.path("album/d1/f1"), "another").unwrap();
    fs::write(stage.path("album/new"), "new").unwrap();
    fs::remove_file(stage.path("album/d2/f2")).unwrap();
    let (receiving, addresses) = receive(&stage, &b, &["--once"]);
    let sent = send(&stage, &a, &addresses).end();
    let received = receiving.end();
    let failed = |side: &Ended| format!("{:?}", side.all("warning"));
    assert_eq!((sent.code, received.code), (0, 0), "{}{}{}", sent.words, received.words, failed(&received));
    assert_eq!(looks(&stage.path("album/d1")), looks(&stage.path("inbox/album/d1")));
    assert_eq!(looks(&stage.path("album/big")), looks(&stage.path("inbox/album/big")));
    assert!(stage.path("inbox/album/new").exists());
    let resumed = number(sent.event("done"), "bytes_resumed");
    assert!(resumed + (1 << 20) >= before && resumed > 0, "{resumed} of {before}");
    assert_eq!(temporaries(&stage.path("inbox")), Vec::<PathBuf>::new());
}

/// Neither side is told anything: both stay up, and find each other again.
#[test]
fn two_that_stay_up_go_on_by_themselves() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    long(&stage);
    fs::create_dir(stage.path("inbox")).unwrap();
    let id = a.id();
    assert_eq!(b.run(&["devices", "policy", &id, "--files", "auto"]).code, 0);
    let inbox = stage.text("inbox");
    let up = |device: &Device, more: &[&str]| {
        let mut line = vec!["up"];
        line.extend(more);
        let mut running = device.start(&line);
        running.until("listening");
        running
    };
    let there = up(&b, &[&inbox]);
    let here = up(&a, &[]);
    let mut sending = send(&stage, &a, &[]);
    while number(&sending.until("progress"), "bytes_durable") == 0 {}
    here.kill();
    there.kill();
    drop(sending);
    let mut there = up(&b, &[&inbox]);
    let mut here = up(&a, &[]);
    here.until("done");
    let done = there.until("done");
    assert!(number(&done, "bytes_resumed") > 0, "{done}");
    for running in [here, there] {
        running.signal(Signal::TERM);
        assert_eq!(running.end().code, 143);
    }
    arrived(&stage, "by themselves");
}
