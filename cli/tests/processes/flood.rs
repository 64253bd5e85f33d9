//! One friend of many floods the others' hub: with connections that say nothing or half of something, with sessions, with streams.
//! What that costs is bounded, and no other friend notices.
//!
//! `KIN_FLOOD` asks for more connections of each kind than a test run has.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use protocol_core::limits::UNPROVED_STREAMS_PER_REMOTE;
use protocol_core::session::stream::Opening;
use protocol_core::wire::deframer::StreamName;
use rustix::process::Pid;

use crate::peer::{Data, Liar, Session};
use crate::stage::{Device, Stage, join, strings};
use crate::up::{end, until_state, up};

const FRIENDS: usize = 5;
/// Connections of each kind.
const FLOOD: usize = 1_000;
/// Of those, how many the friend keeps open at a time: more than a process takes at once.
const KEPT: usize = 600;
/// Connections that a process takes at once (HOST-29), and some files and sockets beside.
const DESCRIPTORS: usize = 512 + 40;
/// What stays of a flood while the friend holds its side open: what LIM-1 leaves one remote, and what is being closed.
const STAY: usize = UNPROVED_STREAMS_PER_REMOTE + 8;
/// What memory may grow by, in kB.
const MEMORY: usize = 48 << 10;

/// What one process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    memory_kb: usize,
}

fn held(pid: Pid) -> Held {
    let of = format!("/proc/{}", pid.as_raw_nonzero());
    let status = fs::read_to_string(format!("{of}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory_kb = memory.trim().trim_end_matches(" kB").parse().unwrap();
    Held { descriptors: fs::read_dir(format!("{of}/fd")).unwrap().count(), memory_kb }
}

/// The most that a process holds while something is done.
fn most_while(pid: Pid, done: impl FnOnce()) -> Held {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where what is done fails.
        let over_at_the_end = Over(&over);
        let watching = scope.spawn(|| {
            let mut most = held(pid);
            while !over.load(Ordering::Relaxed) {
                let now = held(pid);
                most = Held { descriptors: most.descriptors.max(now.descriptors), memory_kb: most.memory_kb.max(now.memory_kb) };
                thread::park_timeout(Duration::from_millis(5));
            }
            most
        });
        done();
        drop(over_at_the_end);
        watching.join().unwrap()
    })
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What it holds when it holds no more descriptors than that.
fn settled(pid: Pid, descriptors: usize) -> Held {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let now = held(pid);
        if now.descriptors <= descriptors {
            return now;
        }
        assert!(Instant::now() < until, "more than {descriptors} stay: {now:?}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// A friend that keeps so much of what it opens.
struct Kept<T>(VecDeque<T>);

impl<T> Kept<T> {
    fn keep(&mut self, one: T) {
        self.0.push_back(one);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }
}

fn flood() -> usize {
    std::env::var("KIN_FLOOD").map_or(FLOOD, |count| count.parse().unwrap())
}

/// Connections on which nothing is said, and such on which a session is begun and not more.
fn connections(address: &str) -> Kept<TcpStream> {
    let mut kept = Kept(VecDeque::new());
    for number in 0..flood() {
        // Who is thrown out while it dials has no socket to keep.
        let Ok(mut socket) = TcpStream::connect(address.strip_prefix("tcp:").unwrap()) else { continue };
        if number % 2 == 0 {
            socket.write_all(&[&StreamName::Link.preamble()[..], &[0, 0, 1, 0], &[7; 100]].concat()).unwrap_or(());
        }
        kept.keep(socket);
    }
    kept
}

/// Sessions, each whole; the one before is not ended.
fn sessions(liar: &Liar, address: &str) -> Session {
    let mut kept = Kept(VecDeque::new());
    for _ in 0..flood() / 4 {
        kept.keep(liar.connect(address));
    }
    kept.0.pop_back().unwrap()
}

/// Streams within a session: for transfers that there are none of, and of a protocol that nobody speaks.
fn streams(session: &mut Session) {
    let mut kept: Kept<Data> = Kept(VecDeque::new());
    for number in 0..flood() {
        let transfer = protocol_core::ids::TransferId([number as u8; 16]);
        kept.keep(session.data(&match number % 3 {
            0 => Opening::Bulk { transfer, manifest_digest: [7; 32] },
            1 => Opening::Manifest { transfer, manifest_digest: [7; 32] },
            _ => Opening::Custom { name: "nobody/1".into() },
        }));
    }
}

/// Every other friend is there.
fn all_answer(hub: &Device, friends: &[(Device, String)]) {
    for (_, name) in friends {
        let pinged = hub.run(&["ping", name, "--count", "1"]);
        assert_eq!(pinged.code, 0, "{name}: {}", pinged.words);
    }
}

/// LIM-1, LIM-2.
#[test]
fn a_friend_that_floods_costs_little_and_harms_nobody() {
    let stage = Stage::new();
    let hub = stage.device("hub");
    let (mut here, addresses) = up(&hub, &[]);
    let address = addresses[0].as_str();
    let pair_with = |with: &dyn Fn(&str, &[String])| {
        let code = stage.text("code");
        fs::remove_file(&code).unwrap_or(());
        let mut showing = hub.start(&["pair", "--yes", "--code-file", &code]);
        let at = strings(&showing.until("listening")["addresses"]);
        showing.until("code");
        with(&code, &at);
        assert_eq!(showing.end().code, 0);
    };
    let friends: Vec<(Device, String)> =
        (0..FRIENDS).map(|number| (stage.device(&number.to_string()), format!("friend {number}"))).collect();
    for (friend, name) in &friends {
        pair_with(&|code, at| assert_eq!(join(friend, code, at, &["--yes", "--name", name]).end().code, 0));
    }
    let met = OnceCell::new();
    pair_with(&|code, at| assert!(met.set(Liar::meet(&at[0], code)).is_ok()));
    let (liar, _first) = met.into_inner().unwrap();
    let others: Vec<_> = friends.iter().map(|(friend, _)| up(friend, &[]).0).collect();
    let mut connected = std::collections::BTreeSet::new();
    while connected.len() < FRIENDS {
        let device = until_state(&mut here, "connected");
        if device["device_id"] != liar.id().as_str() {
            connected.insert(device["device_id"].to_string());
        }
    }
    all_answer(&hub, &friends);
    here.listen(Duration::from_millis(200));
    let (before, told) = (held(here.pid()), here.seen("device").len());

    let mut kept = None;
    let silent = most_while(here.pid(), || {
        kept = Some(connections(address));
        all_answer(&hub, &friends);
    });
    let after = settled(here.pid(), before.descriptors + STAY);
    drop(kept);
    let mut session = None;
    let greeted = most_while(here.pid(), || {
        session = Some(sessions(&liar, address));
        all_answer(&hub, &friends);
    });
    let mut session = session.unwrap();
    let streamed = most_while(here.pid(), || {
        streams(&mut session);
        all_answer(&hub, &friends);
    });
    println!(
        "{} of each kind; before {before:?}, at most: connections {silent:?} and then {after:?}, sessions {greeted:?}, streams {streamed:?}",
        flood()
    );
    for most in [silent, greeted, streamed] {
        assert!(most.descriptors <= before.descriptors + DESCRIPTORS, "{most:?}");
        assert!(most.memory_kb <= before.memory_kb + MEMORY, "{most:?}");
    }
    // A session of theirs that was lost would have been told.
    here.listen(Duration::from_millis(200));
    let lost: Vec<_> = here.seen("device").into_iter().skip(told).filter(|device| device["state"] == "disconnected").collect();
    let lost: Vec<_> = lost.into_iter().map(|device| &device["name"]).filter(|name| *name != "liar").collect();
    assert!(lost.is_empty(), "{lost:?}");
    for other in others {
        end(other);
    }
    end(here);
}
