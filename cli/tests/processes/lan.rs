//! Devices that find each other on the local network: on the loopback interface, where nobody else is.

use std::fs;

use crate::stage::{Device, Running, Stage};

/// A command of a device that publishes and looks, at an address of its own.
fn start(device: &Device, at: &str, line: &[&str]) -> Running {
    let mut command = device.command();
    command.env_remove("KIN_NO_LAN").env("KIN_BIND", format!("{at}:0")).arg("--json").args(line);
    Running::new(command, line.join(" "))
}

fn twelve_words_are_enough(transport: &'static str) {
    let stage = Stage::over(transport);
    let (a, b) = (stage.device("a"), stage.device("b"));
    let code = stage.text("code");
    let mut showing = start(&a, "127.0.0.1", &["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = start(&b, "127.0.0.1", &["join", "--yes", "--code-file", &code]).end();
    let shown = showing.end();
    assert_eq!((shown.code, joined.code), (0, 0), "{}{}", shown.words, joined.words);
    assert_eq!(shown.event("paired")["device"]["device_id"], b.id());
    assert_eq!(joined.event("paired")["device"]["device_id"], a.id());
}

#[test]
// HOST-27.
fn twelve_words_are_enough_over_tcp() {
    twelve_words_are_enough("tcp");
}

#[test]
#[cfg(feature = "iroh")]
fn twelve_words_are_enough_over_iroh() {
    twelve_words_are_enough("iroh");
}

#[test]
#[cfg(feature = "libp2p")]
fn twelve_words_are_enough_over_libp2p() {
    twelve_words_are_enough("libp2p");
}

/// Both addresses that they know of each other are wrong.
#[test]
fn a_device_that_has_moved_is_found() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (from, into) = (stage.text("from"), stage.text("into"));
    fs::create_dir(&from).unwrap();
    fs::write(stage.path("from").join("note"), "found").unwrap();
    let mut receiving = start(&a, "127.0.0.2", &["recv", &into, "--yes", "--once"]);
    receiving.until("listening");
    let sent = start(&b, "127.0.0.3", &["send", &from, "--to", "device a"]).end();
    let received = receiving.end();
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert_eq!(fs::read_to_string(stage.path("into").join("from/note")).unwrap(), "found");
}

/// Who is not there is looked for, and not for long.
#[test]
fn a_device_that_is_not_there_is_given_up() {
    let stage = Stage::new();
    let (_a, b) = stage.pair();
    fs::write(stage.path("note"), "nobody").unwrap();
    let note = stage.text("note");
    let sent = start(&b, "127.0.0.1", &["send", &note, "--to", "device a", "--wait=1s"]).end();
    assert_eq!(sent.code, 14, "{:?}", sent.events);
}

/// A code is for another device, also where it is found.
#[test]
fn a_device_that_finds_its_own_code_says_so() {
    let stage = Stage::new();
    let a = stage.device("a");
    let mut up = start(&a, "127.0.0.1", &["up"]);
    up.until("listening");
    let code = stage.text("code");
    let mut showing = start(&a, "127.0.0.1", &["pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = start(&a, "127.0.0.1", &["join", "--yes", "--code-file", &code]).end();
    assert_eq!(joined.code, 7, "{:?}", joined.events);
    assert!(joined.message().contains("another device"), "{}", joined.message());
    drop(showing.kill());
    drop(up.kill());
}

/// The sockets of a process that are bound to the port of multicast DNS.
fn multicast_sockets(running: &Running) -> usize {
    let of_process = fs::read_dir(format!("/proc/{}/fd", running.pid().as_raw_nonzero())).unwrap();
    let inodes: Vec<String> = of_process.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.to_str()?.to_owned())).collect();
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let bound = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1)?.ends_with(":14E9").then(|| format!("socket:[{}]", fields[9]))
    });
    bound.filter(|socket| inodes.contains(socket)).count()
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_not_wanted_opens_no_socket() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let code = stage.text("code");
    let (mut quiet, mut loud) = (a.start(&["pair", "--yes", "--code-file", &code]), start(&b, "127.0.0.1", &["recv", "--yes"]));
    quiet.until("code");
    loud.until("listening");
    // It publishes for the device with which it is paired, soon.
    while multicast_sockets(&loud) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(multicast_sockets(&quiet), 0);
    drop((quiet.kill(), loud.kill()));
}
