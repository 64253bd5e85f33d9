//! Machines in different networks: two homes behind routers that translate addresses, and the internet between them, with a machine that
//! all can reach.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machines::{Machine, Sniffer};
use crate::stage::{Device, Running, Stage};

/// Machines `a` and `b`, each behind a router of its own, and `meet`, which has a public address.
struct Internet {
    /// The cables between all that have a public address.
    exchange: Machine,
    meet: Machine,
    routers: [Machine; 2],
    homes: [Machine; 2],
}

/// The public address of the machine that all reach.
const MEET: &str = "203.0.113.1";

impl Internet {
    fn new() -> Self {
        let internet = Self {
            exchange: Machine::new("x"),
            meet: Machine::new("meet"),
            routers: ["ra", "rb"].map(Machine::new),
            homes: ["a", "b"].map(Machine::new),
        };
        internet.exchange.ip("link add switch type bridge");
        internet.exchange.ip("link set switch up");
        internet.public(&internet.meet, 1);
        for (number, (router, home)) in (1..).zip(internet.routers.iter().zip(&internet.homes)) {
            internet.public(router, 10 + number);
            router.cable("lan", home, "lan");
            router.ip(&format!("addr add 10.{number}.0.1/24 dev lan"));
            router.run("sysctl -qw net.ipv4.ip_forward=1");
            // The internet takes packets for other people's private addresses, and nobody hears of them again.
            router.ip("route add blackhole 10.0.0.0/8");
            router.run("nft add table ip nat");
            router.run("nft add chain ip nat out { type nat hook postrouting priority 100 ; }");
            router.run("nft add rule ip nat out oifname wan masquerade");
            router.run("nft add table ip filter");
            router.run("nft add chain ip filter through { type filter hook forward priority 0 ; policy drop ; }");
            router.run("nft add rule ip filter through ct state established,related accept");
            router.run("nft add rule ip filter through iifname lan accept");
            internet.home(number, 2);
        }
        internet
    }

    /// Gives a machine a public address.
    fn public(&self, machine: &Machine, number: u8) {
        let port = format!("p{number}");
        self.exchange.cable(&port, machine, "wan");
        self.exchange.ip(&format!("link set {port} master switch"));
        machine.ip(&format!("addr add 203.0.113.{number}/24 dev wan"));
    }

    /// Gives the machine of a home another address there.
    fn home(&self, number: u8, address: u8) {
        let home = &self.homes[usize::from(number) - 1];
        home.ip("addr flush dev lan");
        home.ip(&format!("addr add 10.{number}.0.{address}/24 dev lan"));
        home.ip(&format!("route add default via 10.{number}.0.1"));
    }

    /// A node of the DHT on the machine that all reach, and where it is.
    fn dht(&self, stage: &Stage) -> (Running, String) {
        let mut node = self.meet.kin(&stage.device("meet"), &["dht"]);
        let listening = node.until("listening");
        let addresses = listening["addresses"].as_array().unwrap().iter().map(|at| at.as_str().unwrap());
        let at = addresses.map(ToOwned::to_owned).find(|at| at.contains(MEET)).unwrap();
        (node, at)
    }

    /// A machine's `kin`, which knows the DHT.
    fn start(machine: &Machine, device: &Device, dht: &str, line: &[&str]) -> Running {
        let mut all = vec!["--dht-bootstrap", dht];
        all.extend(line);
        machine.kin(device, &all)
    }
}

/// A server on the machine that all reach.
struct Server(Child);

impl Server {
    /// A relay of Iroh, and its URL.
    fn relay(internet: &Internet) -> (Self, String) {
        let (server, url) = Self::new(internet, "relay", &format!("{MEET}:3340"));
        assert!(url.starts_with("http://"), "{url}");
        (server, url)
    }

    /// A Mainline DHT of three nodes, and where they are.
    fn mainline(internet: &Internet) -> (Self, String) {
        Self::new(internet, "mainline", MEET)
    }

    /// One of the examples, and the first thing that it says.
    fn new(internet: &Internet, name: &str, at: &str) -> (Self, String) {
        let program = Path::new(env!("CARGO_BIN_EXE_kin")).with_file_name("examples").join(name);
        assert!(program.exists(), "cargo build -p adapter-iroh --examples");
        let mut child = internet.meet.command(program).arg(at).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        (Self(child), said.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn note(stage: &Stage, text: &str) -> (PathBuf, String) {
    let path = stage.path("note");
    fs::write(&path, text).unwrap();
    (stage.path("into"), path.to_str().unwrap().to_owned())
}

/// PAIR-50, DISC-4, HOST-28: a machine behind a router finds one that it can reach, by twelve words and then again after it has moved.
#[test]
fn twelve_words_find_a_machine_in_another_network() {
    for transport in ["tcp", "libp2p", "iroh", "auto"] {
        let (internet, stage) = (Internet::new(), Stage::over(transport));
        let (_node, dht) = internet.dht(&stage);
        find_by_words(&internet, &stage, transport, ["--dht-bootstrap", &dht]);
    }
}

/// PAIR-50, DISC-4, HOST-30: the same by the Mainline DHT.
#[test]
fn twelve_words_find_a_machine_by_the_mainline_dht() {
    for transport in ["tcp", "libp2p", "iroh", "auto"] {
        let (internet, stage) = (Internet::new(), Stage::over(transport));
        let (_nodes, first) = Server::mainline(&internet);
        find_by_words(&internet, &stage, transport, ["--mainline-bootstrap", &first]);
    }
}

fn find_by_words(internet: &Internet, stage: &Stage, transport: &str, by: [&str; 2]) {
    let start = |machine: &Machine, device: &Device, line: &[&str]| machine.kin(device, &[&by, line].concat());
    let (reached, a) = (Machine::new("p"), &internet.homes[0]);
    internet.public(&reached, 21);
    let (p, of_a) = (stage.device("p"), stage.device("a"));
    let code = stage.text("code");
    let mut showing = start(&reached, &p, &["pair", "--yes", "--name", "p", "--code-file", &code]);
    showing.until("code");
    let began = Instant::now();
    let mut joining = start(a, &of_a, &["join", "--yes", "--name", "a", "--code-file", &code]);
    joining.until("pair_request");
    let found = began.elapsed();
    let (shown, joined) = (showing.end(), joining.end());
    assert_eq!((shown.code, joined.code), (0, 0), "{}{}", shown.words, joined.words);
    // Both move.
    reached.ip("addr flush dev wan");
    reached.ip("addr add 203.0.113.22/24 dev wan");
    internet.home(1, 3);
    let (into, what) = note(stage, "far away");
    let mut receiving = start(&reached, &p, &["recv", into.to_str().unwrap(), "--yes", "--once"]);
    receiving.until("listening");
    let began = Instant::now();
    let mut sending = start(a, &of_a, &["send", &what, "--to", "p"]);
    sending.until("accepted");
    println!(
        "{transport}, {}: found and proved {:.2} s after `kin join` began, and {:.2} s after `kin send` where both had moved",
        by[0],
        found.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    let (sent, received) = (sending.end(), receiving.end());
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert_eq!(fs::read_to_string(into.join("note")).unwrap(), "far away");
}

/// HOST-28: a relay and a DHT are enough where both are behind routers; where UDP is blocked too, all goes through the relay.
#[test]
fn machines_behind_two_routers_meet_through_a_relay() {
    for blocked in [false, true] {
        let (internet, stage) = (Internet::new(), Stage::over("auto"));
        let (_node, dht) = internet.dht(&stage);
        let (_relay, url) = Server::relay(&internet);
        if blocked {
            for router in &internet.routers {
                router.run("nft insert rule ip filter through meta l4proto udp drop");
            }
        }
        let [a, b] = &internet.homes;
        let (of_a, of_b) = (stage.device("a"), stage.device("b"));
        let code = stage.text("code");
        let mut showing = Internet::start(a, &of_a, &dht, &["--relay", &url, "pair", "--yes", "--name", "a", "--code-file", &code]);
        showing.until("code");
        let began = Instant::now();
        let mut joining = Internet::start(b, &of_b, &dht, &["--relay", &url, "join", "--yes", "--name", "b", "--code-file", &code]);
        joining.until("pair_request");
        let found = began.elapsed();
        let (shown, joined) = (showing.end(), joining.end());
        assert_eq!((shown.code, joined.code), (0, 0), "{}{}", shown.words, joined.words);
        let (into, what) = note(&stage, "relayed");
        let mut receiving = Internet::start(a, &of_a, &dht, &["--relay", &url, "recv", into.to_str().unwrap(), "--yes", "--once"]);
        receiving.until("listening");
        let began = Instant::now();
        let mut sending = Internet::start(b, &of_b, &dht, &["--relay", &url, "send", &what, "--to", "a"]);
        let route = sending.until("route");
        sending.until("accepted");
        println!(
            "relay, UDP {}: found and proved {:.2} s after `kin join` began, accepted {:.2} s after `kin send`, {} {}",
            if blocked { "blocked" } else { "open" },
            found.as_secs_f64(),
            began.elapsed().as_secs_f64(),
            route["transport"],
            route["kind"]
        );
        let (sent, received) = (sending.end(), receiving.end());
        assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
        assert_eq!(fs::read_to_string(into.join("note")).unwrap(), "relayed");
    }
}

/// HOST-28: whoever does not want it asks nobody, also where the environment names nodes; and with nothing to look for, nobody is asked.
#[test]
fn nobody_is_asked_who_was_not_to_be() {
    let (internet, stage) = (Internet::new(), Stage::over("auto"));
    let (_node, dht) = internet.dht(&stage);
    let a = stage.device("a");
    let code = stage.text("code");
    let pair = ["--no-lan", "pair", "--yes", "--code-file", &code];
    // With whom connections are begun.
    let begun = |line: &[&str], event: &str| {
        let packets = stage.path("packets");
        let sniffer = Sniffer::new(&internet.homes[0], &packets);
        let mut running = Internet::start(&internet.homes[0], &a, &dht, line);
        running.until(event);
        running.listen(Duration::from_secs(3));
        drop(running.kill());
        let packets = sniffer.end(&packets);
        // Ethernet, IPv4; TCP: the first packet of a connection; UDP: every one.
        let begins = |packet: &&Vec<u8>| {
            let of_ip = packet.len() > 47 && packet[12..14] == [8, 0];
            of_ip && (packet[23] == 17 || packet[23] == 6 && packet[47] & 0x12 == 2)
        };
        packets.iter().filter(begins).map(|packet| (packet[30..34].to_vec(), packet[36..38].to_vec())).collect::<Vec<_>>()
    };
    assert!(begun(&[&["--no-dht"], &pair[..]].concat(), "code").is_empty());
    assert!(begun(&["--no-lan", "up"], "listening").is_empty());
    let asked = begun(&pair, "code");
    assert!(!asked.is_empty() && asked.len() <= 4, "{asked:?}");
    assert!(asked.iter().all(|(to, port)| to[..] == [203, 0, 113, 1] && port[..] == 4711_u16.to_be_bytes()), "{asked:?}");
}

/// KEEP-9: a session that began through a relay goes over to a direct path when there is one, and back when it is gone; what is told of it
/// is true.
#[test]
fn a_route_is_told_as_it_is() {
    let (internet, stage) = (Internet::new(), Stage::over("iroh"));
    let (_relay, url) = Server::relay(&internet);
    let (reached, router) = (Machine::new("p"), &internet.routers[0]);
    internet.public(&reached, 21);
    let (p, a) = (stage.device("p"), stage.device("a"));
    let (code, at) = (stage.text("code"), stage.text("at"));
    let block = || router.run("nft insert rule ip filter through meta l4proto udp drop");
    let open = || {
        // What the router has seen of a path that it let through would stay open.
        router.run("nft flush chain ip filter through");
        router.run("nft add rule ip filter through ct state established,related accept");
        router.run("nft add rule ip filter through iifname lan accept");
    };
    block();
    let mut showing = reached.kin(&p, &["--relay", &url, "pair", "--yes", "--name", "p", "--code-file", &code, "--address-file", &at]);
    showing.until("code");
    let id = fs::read_to_string(&at).unwrap().lines().next().unwrap().split('@').next().unwrap().to_owned();
    let by_relay = format!("{id}@{url}");
    let joining = internet.homes[0].kin(&a, &["--relay", &url, "join", "--yes", "--code-file", &code, "--address", &by_relay]).end();
    assert_eq!((showing.end().code, joining.code), (0, 0), "{}", joining.words);
    let bytes = vec![7; 60_000_000];
    fs::write(stage.path("big"), &bytes).unwrap();
    let into = stage.text("into");
    let mut receiving = reached.kin(&p, &["--relay", &url, "recv", &into, "--yes", "--once"]);
    receiving.until("listening");
    let what = stage.text("big");
    let mut sending =
        internet.homes[0].kin(&a, &["--relay", &url, "send", &what, "--to", "p", "--limit-rate", "3M", "--address", &by_relay]);
    let mut began = Instant::now();
    let mut goes = |kind: &str, sending: &mut Running| {
        let route = sending.until("route");
        println!("{kind} {:.1} s later", began.elapsed().as_secs_f64());
        assert_eq!((&route["transport"], &route["kind"]), (&"iroh".into(), &kind.into()));
        let before = sending.until("progress")["bytes_durable"].as_u64().unwrap();
        while sending.until("progress")["bytes_durable"].as_u64().unwrap() < before + 4_000_000 {}
        began = Instant::now();
    };
    goes("relayed", &mut sending);
    open();
    goes("direct", &mut sending);
    block();
    goes("relayed", &mut sending);
    open();
    goes("direct", &mut sending);
    let (sent, received) = (sending.end(), receiving.end());
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert!(fs::read(stage.path("into").join("big")).unwrap() == bytes, "it is not the same");
    let hints = sent.all("warning").into_iter().filter(|warning| warning["code"] == "relayed").count();
    assert_eq!(hints, 1, "once, however often");
}

/// What `kin doctor` found on these words: about what, how bad, and what to do.
fn finding(machine: &Machine, device: &Device, line: &[&str], words: &str) -> (String, String, Option<String>) {
    let looked = machine.kin(device, line).end();
    let text = |finding: &Value, key: &str| finding[key].as_str().map(ToOwned::to_owned);
    let found = looked.all("finding").into_iter().find(|finding| text(finding, "message").unwrap().contains(words));
    let found = found.unwrap_or_else(|| panic!("nothing about {words:?} in {:?}", looked.all("finding")));
    println!("{found}");
    let command = text(found, "next_command");
    assert_eq!(command.is_some(), found["verdict"] != "ok", "what is wrong comes with a command to try");
    (text(found, "about").unwrap(), text(found, "verdict").unwrap(), command)
}

/// HOST-28: `kin doctor` says in a sentence what stands between two devices, and what to try.
#[test]
fn doctor_knows_what_stands_between() {
    let (internet, stage) = (Internet::new(), Stage::over("auto"));
    let (node, dht) = internet.dht(&stage);
    let (relay, url) = Server::relay(&internet);
    let reached = Machine::new("p");
    internet.public(&reached, 21);
    let home = &internet.homes[0];
    let (p, a) = (stage.device("p"), stage.device("a"));
    let code = stage.text("code");
    let mut showing = Internet::start(&reached, &p, &dht, &["pair", "--yes", "--name", "p", "--code-file", &code]);
    showing.until("code");
    let joined = Internet::start(home, &a, &dht, &["join", "--yes", "--name", "a", "--code-file", &code]).end();
    assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);

    let with_dht = ["--dht-bootstrap", &dht, "doctor"];
    let with_both = ["--dht-bootstrap", &dht, "--relay", &url, "doctor"];
    let is = |machine, device, line: &[&str], words, about: &str, verdict: &str| {
        let (of, found, _) = finding(machine, device, line, words);
        assert_eq!((&of[..], &found[..]), (about, verdict), "{words}");
    };
    is(&reached, &p, &with_dht, "no router translates", "network", "ok");
    // A router without a relay, and with one.
    is(home, &a, &with_dht, "10.1.0.2 is 203.0.113.11 from outside): from other networks nobody", "network", "hint");
    is(home, &a, &with_both, "and it has a relay", "network", "ok");
    // Nobody is there; then it is, at another address; then through a relay alone.
    let to_p = ["--dht-bootstrap", &dht, "--relay", &url, "doctor", "p"];
    is(home, &a, &to_p, "was not found on the local network and through the DHT", "device", "wrong");
    reached.ip("addr flush dev wan");
    reached.ip("addr add 203.0.113.22/24 dev wan");
    // One that dials nobody by itself.
    let into = stage.text("into");
    let mut waiting = reached.kin(&p, &["--dht-bootstrap", &dht, "recv", &into]);
    waiting.until("listening");
    is(home, &a, &to_p, "it was found", "device", "hint");
    is(home, &a, &to_p, "runs the same version", "version", "ok");
    drop(waiting.kill());
    // UDP is blocked.
    internet.routers[0].run("nft insert rule ip filter through meta l4proto udp drop");
    is(home, &a, &with_both, "UDP does not come through", "network", "hint");
    internet.routers[0].run("nft insert rule ip filter through ip daddr 203.0.113.22 drop");
    let mut up = reached.kin(&p, &["--dht-bootstrap", &dht, "--relay", &url, "up"]);
    up.until("listening");
    is(home, &a, &to_p, "no direct path to", "network", "hint");
    drop(up.kill());
    // The relay is gone, the node is gone, the network is gone.
    drop(relay);
    is(home, &a, &with_both, "does not answer", "lookup", "wrong");
    drop(node.kill());
    is(home, &a, &with_dht, "no node of the DHT answers", "lookup", "wrong");
    home.ip("addr flush dev lan");
    is(home, &a, &["doctor"], "from this machine alone", "network", "hint");
}
