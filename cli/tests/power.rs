//! The power goes: a receiver's file system stops between two instants, without a last write, and comes back with what it has of its
//! journal. What was told to be durable is there, and what has a name is whole.
//!
//! Needs root, a loop device, `mkfs.ext4` and `python3`, and is no part of `cargo test`: `cargo test -p kin --test power -- --nocapture`,
//! with `KIN_POWER_CUTS=N` for more than a few.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "what is shared with the other processes is not all needed here")]

#[path = "processes/looks.rs"]
mod looks;
#[path = "processes/random.rs"]
mod random;
#[path = "processes/stage.rs"]
mod stage;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::looks::{looks, mixed, number, temporaries};
use crate::random::{Random, seed};
use crate::stage::{Device, Running, Stage, strings};

/// An ext4 of its own, in a file.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

fn run(line: &[&str]) {
    let output = Command::new(line[0]).args(&line[1..]).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Disk {
    fn new(stage: &Stage) -> Self {
        let disk = Self { image: stage.path("image"), at: stage.path("disk") };
        std::fs::File::create(&disk.image).unwrap().set_len(2 << 30).unwrap();
        std::fs::create_dir(&disk.at).unwrap();
        run(&["mkfs.ext4", "-q", "-F", disk.image.to_str().unwrap()]);
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(&["mount", "-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()]);
    }

    /// From now on nothing is written any more, not even what the journal holds in memory: `FS_IOC_SHUTDOWN` without a flush.
    fn cut(&self) {
        let script = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run(&["python3", "-c", script, self.at.to_str().unwrap()]);
    }

    /// It comes back with what it has.
    fn come_back(&self) {
        run(&["umount", self.at.to_str().unwrap()]);
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l", self.at.to_str().unwrap()]).status());
    }
}

fn receive(b: &Device, inbox: &str) -> (Running, Vec<String>) {
    let mut receiving = b.start(&["recv", inbox, "--yes"]);
    let addresses = strings(&receiving.until("listening")["addresses"]);
    (receiving, addresses)
}

fn send(stage: &Stage, a: &Device, addresses: &[String]) -> Running {
    let what = stage.text("album");
    let mut line = vec!["send", &what, "--to", "device b", "--wait=60s"];
    line.extend(addresses.iter().flat_map(|address| ["--address", address]));
    a.start(&line)
}

fn durable(told: &[Value]) -> u64 {
    told.iter().filter(|event| event["event"] == "progress").map(|event| number(event, "bytes_durable")).max().unwrap_or(0)
}

/// HOST-9, HOST-24, XFER-15.
#[test]
fn what_was_told_to_be_durable_survives_the_power() {
    let cuts: u64 = std::env::var("KIN_POWER_CUTS").ok().map_or(6, |text| text.parse().unwrap());
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut made, mut kept, mut round) = (0, 0, 0);
    while made < cuts {
        round += 1;
        let stage = Stage::new();
        let (a, b) = stage.pair();
        let disk = Disk::new(&stage);
        let home = disk.at.join("home");
        run(&["cp", "-a", stage.path("home-b").to_str().unwrap(), home.to_str().unwrap()]);
        let (b, inbox) = (b.moved(home.clone()), disk.at.join("inbox"));
        let inbox = inbox.to_str().unwrap();
        mixed(&mut random, &stage.path("album"), 280);
        run(&["sync"]);
        let (mut told, mut took) = (0, None);
        let done = loop {
            let (receiving, addresses) = receive(&b, inbox);
            let mut sending = send(&stage, &a, &addresses);
            let since = Instant::now();
            let begun = sending.until_or_end("accepted").is_some();
            if begun && made < cuts && !random.next().is_multiple_of(4) {
                sending.listen(random.below(took.unwrap_or(std::time::Duration::from_secs(2))));
                // With the disk goes whoever would see it fail.
                receiving.signal(Signal::STOP);
                disk.cut();
                let there = receiving.kill();
                let events = sending.kill();
                disk.come_back();
                made += 1;
                if let Some(done) = events.iter().find(|event| event["event"] == "done") {
                    let warnings: Vec<&Value> = there.iter().filter(|event| event["event"] == "warning").take(5).collect();
                    assert!(warnings.is_empty(), "round {round} of {seed}: {warnings:?}");
                    break done.clone();
                }
                told = told.max(durable(&events));
                continue;
            }
            let sent = sending.end();
            receiving.signal(Signal::TERM);
            let received = receiving.end();
            assert_eq!((sent.code, received.code), (0, 143), "round {round} of {seed}: {}\n{}", sent.words, received.words);
            took.get_or_insert_with(|| since.elapsed());
            break sent.event("done").clone();
        };
        let story = format!("round {round} of {seed}: {done}");
        assert!(number(&done, "bytes_resumed") >= told, "{story}: {told} bytes were durable");
        kept += u64::from(told > 0);
        let (sent, here) = (looks(&stage.path("album")), looks(&disk.at.join("inbox/album")));
        let other: Vec<_> = sent
            .iter()
            .filter(|(path, looks)| here.get(*path) != Some(looks))
            .map(|(path, looks)| (path, looks, here.get(path)))
            .take(5)
            .collect();
        assert!(sent == here, "{story}: {} of {}, {other:?}", here.len(), sent.len());
        assert_eq!(temporaries(&disk.at.join("inbox")), Vec::<PathBuf>::new(), "{story}");
    }
    println!("{round} transfers, {made} times without power, {kept} of them went on with something durable");
}
