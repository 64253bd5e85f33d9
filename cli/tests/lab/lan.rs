//! Two machines on one local network.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machines::{Machine, Sniffer, run};
use crate::stage::{Device, Running, Stage};

/// Two machines and the cable between them: no router, no name service, no way out.
pub(crate) struct Lan(pub(crate) [Machine; 2]);

impl Lan {
    pub(crate) fn new() -> Self {
        let lan = Self(["a", "b"].map(Machine::new));
        lan.0[0].cable("lan", &lan.0[1], "lan");
        lan.address(0, 1);
        lan.address(1, 2);
        lan
    }

    /// A machine gets another address.
    fn address(&self, machine: usize, number: u8) {
        let machine = &self.0[machine];
        machine.ip("addr flush dev lan");
        machine.ip(&format!("addr add 10.77.0.{number}/24 broadcast 10.77.0.255 dev lan"));
    }

    /// What a machine has sent so far, in packets.
    fn sent(&self, machine: usize) -> u64 {
        let shown: Value = serde_json::from_str(&run(&format!("ip -n {} -s -j link show lan", self.0[machine].name()))).unwrap();
        shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    }

    pub(crate) fn start(&self, machine: usize, device: &Device, line: &[&str]) -> Running {
        self.0[machine].kin(device, line)
    }
}

/// HOST-27, PAIR-50: twelve words typed on one machine find the other, over each transport.
#[test]
fn twelve_words_find_the_other_machine() {
    for transport in ["tcp", "libp2p", "iroh", "auto"] {
        let (lan, stage) = (Lan::new(), Stage::over(transport));
        let (a, b) = (stage.device("a"), stage.device("b"));
        let code = stage.text("code");
        let mut showing = lan.start(0, &a, &["pair", "--yes", "--code-file", &code]);
        showing.until("code");
        let began = Instant::now();
        let mut joining = lan.start(1, &b, &["join", "--yes", "--code-file", &code]);
        joining.until("pair_request");
        let found = began.elapsed();
        let (shown, joined) = (showing.end(), joining.end());
        assert_eq!((shown.code, joined.code), (0, 0), "{}{}", shown.words, joined.words);
        println!("{transport}: found and proved {:.2} s after `kin join` began", found.as_secs_f64());
    }
}

/// DISC-4: both have other addresses than the ones that they know of each other, and one moves again while the other stays connected.
#[test]
fn machines_that_have_moved_find_each_other() {
    for transport in ["tcp", "libp2p", "iroh"] {
        let (lan, stage) = (Lan::new(), Stage::over(transport));
        let (a, b) = (stage.device("a"), stage.device("b"));
        let (code, into, what) = (stage.text("code"), stage.text("into"), stage.text("note"));
        fs::write(stage.path("note"), "found").unwrap();
        let mut showing = lan.start(0, &a, &["pair", "--yes", "--name", "a", "--code-file", &code]);
        showing.until("code");
        let joined = lan.start(1, &b, &["join", "--yes", "--name", "b", "--code-file", &code]).end();
        assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
        lan.address(0, 11);
        lan.address(1, 12);
        let mut receiving = lan.start(0, &a, &["recv", &into, "--yes", "--once"]);
        receiving.until("listening");
        let began = Instant::now();
        let mut sending = lan.start(1, &b, &["send", &what, "--to", "a"]);
        sending.until("accepted");
        println!("{transport}: a device that had moved had accepted after {:.2} s", began.elapsed().as_secs_f64());
        let (sent, received) = (sending.end(), receiving.end());
        assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
        assert_eq!(fs::read_to_string(stage.path("into").join("note")).unwrap(), "found");
    }
}

/// The sockets of a process that are bound to the port of multicast DNS.
fn multicast_sockets(running: &Running) -> usize {
    let process = format!("/proc/{}", running.pid().as_raw_nonzero());
    let open = fs::read_dir(format!("{process}/fd")).unwrap();
    let open: Vec<String> = open.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.to_str()?.to_owned())).collect();
    let tables = ["udp", "udp6"].map(|table| fs::read_to_string(format!("{process}/net/{table}")).unwrap_or_default());
    let bound = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1)?.ends_with(":14E9").then(|| format!("socket:[{}]", fields[9]))
    });
    bound.filter(|socket| open.contains(socket)).count()
}

/// HOST-27: who does not want to be found says nothing; who does says nothing that tells who it is.
#[test]
fn what_is_published_tells_nothing() {
    let (lan, stage) = (Lan::new(), Stage::over("auto"));
    let (a, b) = (stage.device("a"), stage.device("b"));
    let code = stage.text("code");
    let before = lan.sent(0);
    let mut quiet = lan.start(0, &a, &["--no-lan", "pair", "--yes", "--name", "somebody's desk", "--code-file", &code]);
    quiet.until("code");
    quiet.listen(Duration::from_secs(3));
    assert_eq!(lan.sent(0), before, "it was told to be quiet");
    drop(quiet.kill());

    let packets = stage.path("packets");
    let sniffer = Sniffer::new(&lan.0[1], &packets);
    let mut showing = lan.start(0, &a, &["pair", "--yes", "--code-file", &code]);
    let words = showing.until("code")["words"].clone();
    let joined = lan.start(1, &b, &["join", "--yes", "--name", "another's laptop", "--code-file", &code]).end();
    assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
    // And as paired devices, which look for each other.
    let mut up = [lan.start(0, &a, &["up"]), lan.start(1, &b, &["up"])];
    while up[1].until("device")["state"] != "connected" {}
    // Who has nobody to look for has no socket for it.
    let until = Instant::now() + Duration::from_secs(20);
    while up.iter().any(|up| multicast_sockets(up) > 0) {
        assert!(Instant::now() < until, "nothing is wanted, and the sockets are open");
    }
    up.into_iter().for_each(|up| drop(up.kill()));
    let (first, second) = (a.run(&["id"]), b.run(&["id"]));
    let packets = sniffer.end(&packets);
    let multicast: Vec<_> = packets.iter().filter(|packet| packet.len() > 38 && packet[36..38] == 5353_u16.to_be_bytes()).collect();
    assert!(multicast.len() > 4, "{} of {} packets are of multicast DNS", multicast.len(), packets.len());
    let mut secrets: Vec<Vec<u8>> = vec![b"desk".to_vec(), b"laptop".to_vec(), b"10.77.0.".to_vec()];
    secrets.extend(words.as_array().unwrap().iter().map(|word| word.as_str().unwrap().as_bytes().to_vec()).filter(|word| word.len() > 4));
    for id in [&first, &second] {
        let identity = id.event("identity");
        let text = identity.to_string();
        let long = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| part.len() >= 12);
        for part in long {
            secrets.push(part.as_bytes().to_vec());
            let digits: Option<Vec<u8>> =
                part.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
            secrets.extend(digits.map(|digits| digits[..8.min(digits.len())].to_vec()));
        }
    }
    for secret in secrets {
        let seen = multicast.iter().any(|packet| packet.windows(secret.len()).any(|part| part == secret));
        assert!(!seen, "{:?} is on the network", String::from_utf8_lossy(&secret));
    }
    println!("{} packets of multicast DNS, {} of everything", multicast.len(), packets.len());
}

/// DISC-4: who is not there is looked for, and not for long.
#[test]
fn a_machine_that_is_not_there_is_given_up() {
    let (lan, stage) = (Lan::new(), Stage::new());
    let (_a, b) = stage.pair();
    fs::write(stage.path("note"), "nobody").unwrap();
    let note = stage.text("note");
    let sent = lan.start(1, &b, &["send", &note, "--to", "device a", "--wait=1s"]).end();
    assert_eq!(sent.code, 14, "{:?}", sent.events);
}

/// A code is for another device, also where it is looked for.
#[test]
fn a_device_that_types_its_own_code_is_told_so() {
    let (lan, stage) = (Lan::new(), Stage::new());
    let a = stage.device("a");
    let mut up = lan.start(0, &a, &["up"]);
    up.until("listening");
    let code = stage.text("code");
    let mut showing = lan.start(0, &a, &["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = lan.start(0, &a, &["join", "--yes", "--code-file", &code]).end();
    assert_eq!(joined.code, 7, "{:?}", joined.events);
    assert!(joined.message().contains("another device"), "{}", joined.message());
    drop(showing.kill());
    drop(up.kill());
}

/// XFER-24, KEEP-1: a transfer whose path is cut goes on over another transport, then over the third, and ends identical.
#[test]
fn a_transfer_goes_over_to_another_transport() {
    let (lan, stage) = (Lan::new(), Stage::over("auto"));
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (code, into, what) = (stage.text("code"), stage.text("into"), stage.text("big"));
    let mut bytes = vec![0; 60_000_000];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(stage.path("big"), &bytes).unwrap();
    let mut showing = lan.start(0, &a, &["pair", "--yes", "--name", "a", "--code-file", &code]);
    showing.until("code");
    let joined = lan.start(1, &b, &["join", "--yes", "--name", "b", "--code-file", &code]).end();
    assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
    // So that one can be cut alone.
    let at = |number: u8| format!("tcp:10.77.0.{number}:7001,libp2p:10.77.0.{number}:7002,iroh:10.77.0.{number}:7003");
    let mut receiving = lan.start(0, &a, &["--bind", &at(1), "recv", &into, "--yes", "--once"]);
    receiving.until("listening");
    let mut sending = lan.start(1, &b, &["--bind", &at(2), "send", &what, "--to", "a", "--limit-rate", "4M"]);
    let machine = &lan.0[0];
    machine.run("nft add table ip cut");
    machine.run("nft add chain ip cut in { type filter hook input priority 0 ; }");
    let mut durable = 0;
    let mut goes_on = |sending: &mut Running, what: &str| {
        let (since, more) = (Instant::now(), durable + 8_000_000);
        while durable < more {
            durable = sending.until("progress")["bytes_durable"].as_u64().unwrap();
        }
        println!("{what}: {durable} bytes durable, {:.1} s later", since.elapsed().as_secs_f64());
    };
    goes_on(&mut sending, "all ways open");
    for _ in 0..2 {
        // What carries it now.
        let over = sending.seen("route").last().unwrap()["transport"].as_str().unwrap().to_owned();
        let cut = [("tcp", "tcp", 7001), ("libp2p", "tcp", 7002), ("iroh", "udp", 7003)].into_iter().find(|(name, ..)| *name == over);
        let (_, protocol, port) = cut.unwrap();
        machine.run(&format!("nft add rule ip cut in {protocol} dport {port} drop"));
        machine.run(&format!("nft add rule ip cut in {protocol} sport {port} drop"));
        goes_on(&mut sending, &format!("{over} cut"));
    }
    let (sent, received) = (sending.end(), receiving.end());
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert!(fs::read(stage.path("into").join("big")).unwrap() == bytes, "it is not the same");
    let routes: Vec<_> = sent.all("route").iter().map(|route| route["transport"].as_str().unwrap()).collect();
    println!("routes: {}", routes.join(", "));
    assert_eq!(routes.iter().collect::<BTreeSet<_>>().len(), 3, "{routes:?}");
}
