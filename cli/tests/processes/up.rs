//! `kin up`: one process that stays, and the commands that ask it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::stage::{Device, Running, Stage, join, strings};

/// Starts `kin up`, and says where it is reached.
pub(crate) fn up(device: &Device, more: &[&str]) -> (Running, Vec<String>) {
    let mut line = vec!["up"];
    line.extend(more);
    let mut running = device.start(&line);
    let addresses = strings(&running.until("listening")["addresses"]);
    (running, addresses)
}

pub(crate) fn with_addresses<'a>(line: &[&'a str], addresses: &'a [String]) -> Vec<&'a str> {
    let mut line = line.to_vec();
    for address in addresses {
        line.extend(["--address", address]);
    }
    line
}

/// The next `device` event in this state.
pub(crate) fn until_state(running: &mut Running, state: &str) -> Value {
    loop {
        let device = running.until("device");
        if device["state"] == state {
            return device;
        }
    }
}

pub(crate) fn end(running: Running) {
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code, 143, "{}", ended.words);
}

/// HOST-22: while it runs, commands of its home go on working: they look, change, send, receive and pair through it.
#[test]
fn commands_ask_the_one_that_is_up() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    std::fs::create_dir(stage.path("in")).unwrap();
    std::fs::write(stage.path("file"), vec![7; 300_000]).unwrap();
    let (here, addresses) = up(&a, &[&stage.text("in")]);
    let socket = std::fs::metadata(stage.path("home-a").join("up.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    // Looking and changing.
    assert_eq!(a.run(&["devices", "list"]).event("device")["device_id"], b.id());
    assert_eq!(a.run(&["devices", "rename", "device b", "bee"]).event("device")["name"], "bee");
    assert_eq!(a.run(&["devices", "policy", "bee", "--files", "auto"]).event("device")["policy"]["files"], "auto");

    // What it takes by policy.
    let file = stage.text("file");
    let sent = b.run(&with_addresses(&["send", &file, "--to", "device a"], &addresses));
    assert_eq!(sent.code, 0, "{}", sent.words);
    assert_eq!(std::fs::read(stage.path("in").join("file")).unwrap().len(), 300_000);

    // What others send through it.
    let mut receiving = b.start(&["recv", &stage.text("there"), "--yes", "--once"]);
    let there = strings(&receiving.until("listening")["addresses"]);
    let sent = a.run(&with_addresses(&["send", &file, "--to", "bee"], &there));
    assert_eq!((sent.code, sent.event("done")["bytes"].as_u64()), (0, Some(300_000)), "{}", sent.words);
    assert_eq!(receiving.end().code, 0);

    // Messages both ways.
    let said = b.run(&with_addresses(&["msg", "send", "hello", "--to", "device a"], &addresses));
    assert_eq!(said.code, 0, "{}", said.words);
    let tailed = a.run(&["msg", "tail", "--once"]);
    assert_eq!((tailed.code, tailed.event("message")["body"].as_str()), (0, Some("hello")));

    // A pairing.
    let c = stage.device("c");
    let code = stage.text("code");
    let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
    let at = strings(&showing.until("listening")["addresses"]);
    showing.until("code");
    assert_eq!(join(&c, &code, &at, &["--yes", "--name", "device c"]).end().code, 0);
    assert_eq!(showing.end().code, 0);
    assert_eq!(a.run(&["devices", "list"]).all("device").len(), 2);

    // A code that nobody waits for any more is no code.
    let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    showing.kill();
    let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    end(showing);

    end(here);
    assert!(!stage.path("home-a").join("up.sock").exists());
    assert_eq!(a.run(&["devices", "show", "bee"]).event("device")["policy"]["files"], "auto");
}

/// HOST-4, HOST-22: a second one is told so; what a killed one left behind is taken.
#[test]
fn there_is_one_for_a_home() {
    let stage = Stage::new();
    let (a, _) = stage.pair();
    let (first, _) = up(&a, &[]);
    let second = a.run(&["up"]);
    assert_eq!(second.code, 3, "{}", second.words);
    assert!(second.message().contains("another process"), "{}", second.message());
    first.kill();
    assert!(stage.path("home-a").join("up.sock").exists(), "nobody took it away");
    assert_eq!(a.run(&["devices", "rename", "device b", "bee"]).code, 0, "a stale socket disturbs nobody");
    let (third, _) = up(&a, &[]);
    assert_eq!(a.run(&["devices", "rename", "bee", "device b"]).code, 0);
    end(third);
}

/// POL-2: who sits at the terminal of `kin up` is asked, one offer after the other, and what else happens goes on.
#[test]
fn an_owner_at_the_terminal_is_asked() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    std::fs::create_dir(stage.path("in")).unwrap();
    for name in ["one", "two", "three"] {
        std::fs::write(stage.path(name), vec![7; 20_000]).unwrap();
    }
    let (mut here, mut terminal) = a.start_at_terminal(&["up", &stage.text("in")]);
    let addresses = strings(&here.until("listening")["addresses"]);
    let send = |name: &str| b.start(&with_addresses(&["send", &stage.text(name), "--to", "device a"], &addresses));

    let sending = send("one");
    terminal.until("[y/N]");
    // Somebody else wants something while the question is open.
    assert_eq!(a.run(&["devices", "rename", "device b", "bee"]).code, 0);
    terminal.types("yes");
    assert_eq!(sending.end().code, 0);
    here.until("done");
    assert_eq!(std::fs::read(stage.path("in").join("one")).unwrap().len(), 20_000);

    let sending = send("two");
    terminal.until("[y/N]");
    terminal.types("no");
    assert_eq!(sending.end().code, 6);
    here.until("refused");

    let sending = send("three");
    terminal.until("[y/N]");
    sending.signal(Signal::TERM);
    assert_eq!(sending.end().code, 143);
    here.until("warning");

    let sending = send("three");
    terminal.until("[y/N]");
    terminal.types("y");
    assert_eq!(sending.end().code, 0);
    assert!(!stage.path("in").join("two").exists() && stage.path("in").join("three").exists());
    end(here);
}

/// UNP-6: who sits at the terminal is asked whether to forget a device that has removed this one.
#[test]
fn an_owner_at_the_terminal_agrees_to_be_removed() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (mut here, addresses) = up(&a, &[]);
    for (answer, left) in [("n", 1), ("y", 0)] {
        let (there, mut terminal) = b.start_at_terminal(&["up"]);
        until_state(&mut here, "connected");
        assert_eq!(a.run(&["devices", "forget", "device b"]).code, 0);
        terminal.until("Forget \"device a\" here too? [y/N]");
        terminal.types(answer);
        let until = Instant::now() + Duration::from_secs(20);
        while b.run(&["devices", "list"]).all("device").len() != left {
            assert!(Instant::now() < until, "{answer} is heard");
        }
        end(there);
        if left > 0 {
            // Paired anew, to be asked anew.
            let code = stage.text("code");
            let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
            showing.until("code");
            assert_eq!((join(&b, &code, &addresses, &["--yes", "--name", "device b"]).end().code, showing.end().code), (0, 0));
        }
    }
    end(here);
}

/// POL-1, POL-2: what happens to an offer under `kin up`, by policy, and beside a `kin recv`.
#[test]
fn offers_go_by_policy_unless_somebody_receives() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    for dir in ["in", "own"] {
        std::fs::create_dir(stage.path(dir)).unwrap();
    }
    std::fs::write(stage.path("file"), vec![7; 20_000]).unwrap();
    let (here, addresses) = up(&a, &[&stage.text("in")]);
    let file = stage.text("file");
    let send = || b.run(&with_addresses(&["send", &file, "--to", "device a"], &addresses));
    let policy = |flags: &[&str]| {
        let mut line = vec!["devices", "policy", "device b"];
        line.extend(flags);
        assert_eq!(a.run(&line).code, 0);
    };
    assert_eq!(send().code, 6, "nobody is there to ask");
    policy(&["--files", "auto", "--max", "10k"]);
    assert_eq!(send().code, 6, "it is too large");
    policy(&["--max", "none", "--max-entries", "0"]);
    assert_eq!(send().code, 6, "there is too much of it");
    policy(&["--max-entries", "none", "--folder", &stage.text("own")]);
    assert_eq!(send().code, 0);
    assert!(stage.path("own").join("file").exists() && !stage.path("in").join("file").exists());
    policy(&["--files", "refuse"]);
    assert_eq!(send().code, 6);
    policy(&["--files", "ask", "--folder", ""]);
    let mut receiving = a.start(&["recv", &stage.text("chosen"), "--yes"]);
    receiving.until("listening");
    assert_eq!(send().code, 0);
    assert!(stage.path("chosen").join("file").exists());
    let second = a.run(&["recv", &stage.text("other"), "--yes"]);
    assert_eq!(second.code, 3, "{}", second.words);
    end(receiving);
    assert_eq!(send().code, 6, "nobody is there any more");
    assert_eq!(a.run(&["devices", "policy", "device b", "--folder", "/no/such/dir"]).code, 12);
    end(here);
}

/// KEEP-2, HOST-23: two that are up find each other again by themselves: after a kill, and after one of them was stopped for a while.
/// `KIN_STOPPED` says for how many seconds.
#[test]
fn two_that_are_up_stay_together() {
    for transport in ["tcp", "iroh", "libp2p"] {
        let stage = Stage::over(transport);
        let (a, b) = stage.pair();
        let (mut here, _) = up(&a, &[]);
        let (there, _) = up(&b, &[]);
        until_state(&mut here, "connected");
        there.kill();
        until_state(&mut here, "disconnected");
        let started = Instant::now();
        let (mut there, _) = up(&b, &[]);
        until_state(&mut here, "connected");
        until_state(&mut there, "connected");
        println!("{transport}: back {:?} after the start", started.elapsed());
        // Stopped for longer than silence is borne: the other side gives the session up.
        let stopped = std::env::var("KIN_STOPPED").map_or(9, |seconds| seconds.parse().unwrap());
        there.signal(Signal::STOP);
        here.listen(Duration::from_secs(stopped));
        there.signal(Signal::CONT);
        let woken = Instant::now();
        loop {
            let (mine, theirs) = (a.run(&["ping", "device b", "--count", "1"]), b.run(&["ping", "device a", "--count", "1"]));
            if (mine.code, theirs.code) == (0, 0) {
                break;
            }
            assert!(woken.elapsed() < Duration::from_secs(5), "{transport}: {} {}", mine.words, theirs.words);
        }
        println!("{transport}: back {:?} after {stopped} s of standing still", woken.elapsed());
        end(there);
        end(here);
    }
}

/// XFER-30, HOST-22: either owner has what two carry rest from another terminal, and lets it go on; it rests in the next life of either
/// process too.
#[test]
fn what_is_carried_rests_and_goes_on() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    std::fs::create_dir(stage.path("in")).unwrap();
    // Seven seconds and more at this rate, where nobody has it rest.
    std::fs::write(stage.path("file"), vec![7; 70_000_000]).unwrap();
    let (here, _) = up(&a, &[]);
    let (mut there, addresses) = up(&b, &[&stage.text("in")]);
    assert_eq!(b.run(&["devices", "policy", "device a", "--files", "auto"]).code, 0);
    let file = stage.text("file");
    let mut sending = a.start(&with_addresses(&["send", &file, "--to", "device b", "--limit-rate", "10M"], &addresses));
    while sending.until("progress")["bytes_durable"].as_u64() == Some(0) {}
    let id = a.run(&["transfers"]).event("unfinished")["id"].as_str().unwrap().to_owned();
    let durable = |device: &Device| {
        let row = device.run(&["transfers"]).event("unfinished").clone();
        (row["paused"].as_bool().unwrap(), row["bytes_durable"].as_u64().unwrap_or(0))
    };

    // The sender's owner.
    assert_eq!(a.run(&["transfers", "pause", &id]).code, 0);
    assert_eq!(there.until("paused")["there"], true);
    assert_eq!(sending.until("paused")["here"], true);
    // What was on its way arrives, and is made durable.
    let settled = |there: &mut Running| loop {
        let before = durable(&b);
        there.listen(Duration::from_secs(3));
        if durable(&b) == before {
            return before;
        }
    };
    let before = settled(&mut there);
    assert!(durable(&a).0 && !before.0 && before.1 < 70_000_000, "{before:?}");
    assert_eq!(a.run(&["transfers", "resume", &id]).code, 0);
    assert_eq!(there.until("paused")["there"], false);

    // The receiver's, and both processes die: the sender's offers again, and it rests in the next life of the receiver's.
    assert_eq!(b.run(&["transfers", "pause", &id]).code, 0);
    while sending.until("paused")["there"] != true {}
    sending.kill();
    here.kill();
    there.kill();
    let (mut there, _) = up(&b, &[&stage.text("in")]);
    let (mut here, _) = up(&a, &[]);
    while here.until("paused")["there"] != true {}
    let before = settled(&mut there);
    assert!(before.0 && before.1 < 70_000_000, "{before:?}");

    // The sender's process dies while its own owner has it rest: nobody offers it again but he.
    assert_eq!(a.run(&["transfers", "pause", &id]).code, 0);
    here.kill();
    let (mut here, _) = up(&a, &[]);
    until_state(&mut here, "connected");
    until_state(&mut there, "connected");
    there.listen(Duration::from_secs(2));
    assert!(durable(&a).0);
    let offered = here.kill();
    assert!(offered.iter().all(|event| event["event"] != "paused"), "it was offered by itself: {offered:?}");
    let (here, _) = up(&a, &[]);
    assert_eq!(b.run(&["transfers", "resume", &id]).code, 0);
    // By this command, or by the one that is up, whichever is faster.
    let sent = a.run(&["transfers", "resume", &id]);
    assert_eq!(sent.code, 0, "{}", sent.words);
    assert_eq!(there.until("done")["bytes"].as_u64(), Some(70_000_000));
    assert!(std::fs::read(stage.path("in").join("file")).unwrap() == std::fs::read(stage.path("file")).unwrap());

    let deadline = Instant::now() + Duration::from_secs(60);
    while !a.run(&["transfers"]).all("unfinished").is_empty() {
        assert!(Instant::now() < deadline, "it is done there, and not here");
    }

    // What does not run rests as well: nobody goes on with it but its owner.
    end(there);
    end(here);
    assert_eq!(a.run(&["transfers", "pause", &id]).code, 12, "it is done");
    assert_eq!(a.run(&["send", &file, "--to", "device b", "--queue", "--wait=1s"]).code, 0);
    let id = a.run(&["transfers"]).event("unfinished")["id"].as_str().unwrap().to_owned();
    assert_eq!(a.run(&["transfers", "pause", &id]).code, 0);
    assert!(a.say(&["transfers"]).contains("(paused)"));
    assert_eq!(a.run(&["transfers", "cancel", &id]).code, 0);
    assert!(a.run(&["transfers"]).all("unfinished").is_empty());
}

/// UNP-3, UNP-5, UNP-6, POL-4: forgotten and blocked, told and refused, and both lifted.
#[test]
fn who_is_forgotten_is_told_and_who_is_blocked_is_not() {
    for transport in ["tcp", "iroh", "libp2p"] {
        let stage = Stage::over(transport);
        let (a, b) = stage.pair();
        let (mut here, addresses) = up(&a, &[]);
        let (mut there, _) = up(&b, &[]);
        until_state(&mut here, "connected");
        until_state(&mut there, "connected");
        assert_eq!(a.run(&["devices", "block", "device b"]).code, 0);
        until_state(&mut there, "disconnected");
        let refused = b.run(&with_addresses(&["ping", "device a"], &addresses));
        assert_eq!(refused.code, 6, "{transport}: {}", refused.words);
        assert_eq!(b.run(&["devices", "show", "device a"]).event("device")["removed_there"], Value::Null);
        let refused = a.run(&["ping", "device b"]);
        assert!(refused.code == 6 && refused.message().contains("blocked here"), "{transport}: {}", refused.words);
        assert_eq!(a.run(&["doctor", "device b"]).code, 6);
        assert_eq!(a.run(&["devices", "block", "device b", "--off"]).code, 0);
        assert_eq!(b.run(&with_addresses(&["ping", "device a", "--count", "1"], &addresses)).code, 0);

        let forgot = a.run(&["devices", "forget", "device b"]);
        assert!(forgot.code == 0 && forgot.event("device")["state"] == "forgotten", "{}", forgot.words);
        let warned = loop {
            let warning = there.until("warning");
            if warning["code"] == "removed_there" {
                break warning;
            }
        };
        assert!(warned["message"].as_str().unwrap().contains("kin devices forget"));
        let refused = b.run(&with_addresses(&["ping", "device a"], &addresses));
        assert!(refused.code == 6 && refused.message().contains("removed this pairing"), "{transport}: {}", refused.words);
        let shown = b.run(&["devices", "show", "device a"]);
        assert!(shown.event("device")["removed_there"].is_u64(), "{transport}: it stays until its owner agrees");
        assert_eq!(b.run(&["devices", "forget", "device a"]).code, 0);
        assert!(b.run(&["devices", "list"]).all("device").is_empty());
        end(there);
        end(here);
    }
}

/// UNP-4: who was away when it was forgotten learns it at its next contact.
#[test]
fn who_was_away_is_told_later() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    assert_eq!(a.run(&["devices", "forget", "device b", "--block"]).code, 0);
    assert_eq!(a.run(&["devices", "list"]).event("device")["state"], "blocked", "also while nobody is up");
    let (here, addresses) = up(&a, &[]);
    let refused = b.run(&with_addresses(&["ping", "device a"], &addresses));
    assert!(refused.code == 6 && refused.message().contains("removed this pairing"), "{}", refused.words);
    // POL-5: and it does not come back.
    assert_eq!(a.run(&["devices", "list"]).event("device")["state"], "blocked");
    let code = stage.text("code");
    let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = join(&b, &code, &addresses, &["--yes"]).end();
    assert_eq!((joined.code, showing.end().code), (7, 7), "{}", joined.words);
    assert_eq!(a.run(&["devices", "block", "device b", "--off"]).code, 0);
    let mut showing = a.start(&["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    assert_eq!((join(&b, &code, &addresses, &["--yes"]).end().code, showing.end().code), (0, 0));
    end(here);
}

/// HOST-21: counters on a local port, and what `ping` and `doctor` say.
#[test]
fn what_passed_can_be_looked_at() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    std::fs::create_dir(stage.path("in")).unwrap();
    std::fs::write(stage.path("file"), vec![7; 1_000_000]).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (here, addresses) = up(&a, &[&stage.text("in"), "--metrics", &port.to_string()]);
    assert_eq!(a.run(&["devices", "policy", "device b", "--files", "auto"]).code, 0);
    assert_eq!(b.run(&with_addresses(&["send", &stage.text("file"), "--to", "device a"], &addresses)).code, 0);
    let answer = |request: &str| {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let counters = answer("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(counters.starts_with("HTTP/1.1 200 OK\r\n"), "{counters}");
    assert!(counters.contains(&format!("kin_received_bytes_total{{device=\"{}\"}} 1000000\n", b.id())), "{counters}");
    assert!(counters.contains(&format!("kin_reconnects_total{{device=\"{}\"}} ", b.id())), "{counters}");
    assert!(!counters.contains("device b"), "names are nobody's business");
    assert!(answer("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    let shown = a.run(&["devices", "show", "device b"]);
    assert_eq!(shown.event("device")["bytes_received"], 1_000_000);
    let (there, _) = up(&b, &[]);
    let (route, until) = (format!("kin_route_info{{device=\"{}\",transport=\"tcp\",relayed=\"false\"}} 1\n", b.id()), Instant::now());
    while !answer("GET /metrics HTTP/1.1\r\n\r\n").contains(&route) {
        assert!(until.elapsed() < Duration::from_secs(20), "no {route}");
    }
    let shown = a.run(&["devices", "show", "device b"]);
    assert_eq!(shown.event("device")["state"], "connected");
    assert!(shown.event("device")["dialled_here"].is_boolean(), "{}", shown.words);
    end(there);

    let pinged = b.run(&with_addresses(&["ping", "device a", "--count", "3"], &addresses));
    assert_eq!((pinged.code, pinged.all("pong").len()), (0, 3), "{}", pinged.words);
    assert!(pinged.all("pong").iter().all(|pong| pong["rtt_ms"].as_f64().unwrap() > 0.0));
    let looked = b.run(&with_addresses(&["doctor", "device a"], &addresses));
    assert_eq!(looked.code, 0, "{}", looked.words);
    assert!(looked.all("finding").iter().any(|finding| finding["about"] == "device" && finding["verdict"] == "ok"));
    end(here);
    let looked = b.run(&["doctor", "device a"]);
    assert_eq!(looked.code, 4, "{}", looked.words);
    let wrong: Vec<&Value> = looked.events.iter().filter(|event| event["verdict"] == "wrong").collect();
    assert!(wrong.len() == 1 && wrong[0]["next_command"].is_string(), "{wrong:?}");
    assert_eq!(a.run(&["up", "--metrics", "0.0.0.0:9"]).code, 2);
}

#[test]
fn a_unit_for_systemd_is_printed() {
    let stage = Stage::new();
    let a = stage.device("a");
    let unit = a.say(&["up", "--systemd", &stage.text("my files")]);
    assert!(unit.contains("ExecStart=") && unit.contains(" up \"") && unit.contains("WantedBy=default.target"), "{unit}");
    assert!(!stage.path("home-a").exists(), "nothing else was done");
    let unit = a.say(&["up", "--systemd", "--no-lan", "--transport", "iroh", "--bind", "iroh:0.0.0.0:4712", "--relay", "off"]);
    let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    for flags in ["--transport iroh", "--bind iroh:0.0.0.0:4712", "--relay off", "--no-lan"] {
        assert!(line.contains(flags), "{flags} in {line}");
    }
}
