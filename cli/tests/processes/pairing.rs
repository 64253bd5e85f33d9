//! Codes that are right, wrong, used and misspelt; questions that nobody answers; addresses where nobody is.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::stage::{Running, Stage, join, strings};

#[test]
// ID-12.
fn two_devices_pair_and_see_the_same() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    let addresses_file = stage.text("addresses");
    let (showing, code, addresses) = stage.show_code(&a, &["--yes", "--address-file", &addresses_file]);
    assert_eq!(fs::read_to_string(&addresses_file).unwrap().lines().collect::<Vec<_>>(), addresses);
    assert!(addresses.iter().all(|address| address.starts_with("tcp:127.0.0.1:")), "{addresses:?}");
    assert_eq!(fs::metadata(&code).unwrap().permissions().mode() & 0o777, 0o600);

    let joined = join(&b, &code, &addresses, &["--yes", "--name", "device b"]).end();
    let shown = showing.end();
    assert_eq!((shown.code, joined.code), (0, 0), "{}{}", shown.words, joined.words);
    assert_eq!(strings(&shown.event("code")["words"]).join(" "), fs::read_to_string(&code).unwrap().trim());
    assert_eq!(shown.event("code")["expires_in_s"], 600);

    let (request_a, request_b) = (shown.event("pair_request"), joined.event("pair_request"));
    assert_eq!(request_a["session_id"], request_b["session_id"]);
    assert_eq!(request_a["check"], request_b["check"], "the check number is the same on both screens");
    assert_eq!(request_a["check"].as_str().unwrap().len(), 6);
    for (seen, of, name) in [(&joined, &a, "device a"), (&shown, &b, "device b")] {
        let device = &seen.event("paired")["device"];
        assert_eq!(device["device_id"], of.id());
        assert_eq!(device["fingerprint"], of.fingerprint(), "the fingerprint is the same everywhere");
        assert_eq!(device["name"], name);
    }
}

#[test]
fn a_wrong_code_names_its_three_causes() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let wrong = stage.text("wrong");
    fs::write(&wrong, "legal winner thank year wave sausage worth useful legal winner thank yellow").unwrap();
    let refused = join(&b, &wrong, &addresses, &["--yes"]).end();
    assert_eq!(refused.code, 7);
    for cause in ["wrong", "expired", "used"] {
        assert!(refused.message().contains(cause), "{}", refused.message());
    }
    // The right one still works: a stranger burns nothing.
    assert_eq!(join(&b, &code, &addresses, &["--yes"]).end().code, 0);
    assert_eq!(showing.end().code, 0);
}

#[test]
fn a_used_code_is_of_no_use() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    // The device shows another code; the old words are tried again, by somebody else.
    let old = fs::read_to_string(stage.path("code-home-a")).unwrap();
    let used = stage.text("used");
    fs::write(&used, old).unwrap();
    let (showing, _, addresses) = stage.show_code(&a, &["--yes"]);
    let refused = join(&stage.device("c"), &used, &addresses, &["--yes"]).end();
    assert_eq!(refused.code, 7);
    assert!(refused.message().contains("used"), "{}", refused.message());
    assert!(refused.event("error")["next_command"].as_str().unwrap().contains("kin pair"));
    showing.signal(rustix::process::Signal::TERM);
    assert_eq!(showing.end().code, 143);
    assert_eq!(a.run(&["devices"]).all("device").len(), 1);
    assert_eq!(b.run(&["devices"]).all("device").len(), 1);
}

#[test]
fn a_misspelt_word_is_named_before_anything_is_sent() {
    let stage = Stage::new();
    let code = stage.text("code");
    fs::write(&code, "legal winner thank year wave sausgae worth useful legal winner thank yellow").unwrap();
    let refused = join(&stage.device("b"), &code, &["tcp:127.0.0.1:9".to_owned()], &["--yes"]).end();
    assert_eq!(refused.code, 7);
    assert!(refused.message().contains("word 6") && refused.message().contains("\"sausage\""), "{}", refused.message());
    assert!(!stage.path("home-b").exists(), "not even an identity was needed");
}

#[test]
fn words_as_arguments_work_with_a_warning() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let words = fs::read_to_string(code).unwrap();
    let mut line = vec!["join", "--yes", "--address", &addresses[0]];
    line.extend(words.split_whitespace());
    let joined = b.run(&line);
    assert_eq!(joined.code, 0, "{}", joined.words);
    assert_eq!(joined.event("warning")["code"], "words_in_arguments");
    assert_eq!(showing.end().code, 0);
}

#[test]
fn without_a_yes_nobody_is_trusted() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    for line in [&["--no-input", "pair"][..], &["--no-input", "join", "--address", "tcp:127.0.0.1:9"]] {
        let refused = a.run(line);
        assert_eq!(refused.code, 7, "{line:?}");
        assert!(refused.message().contains("--no-input"), "{}", refused.message());
        assert!(refused.event("error")["next_command"].as_str().unwrap().contains("--yes"));
    }

    // Nobody is at the terminal of the device that shows the code: its answer is no.
    let (showing, code, addresses) = stage.show_code(&a, &[]);
    let joined = join(&b, &code, &addresses, &["--yes"]).end();
    let shown = showing.end();
    assert_eq!((shown.code, joined.code), (7, 7));
    assert!(shown.message().contains("not confirmed on this device"), "{}", shown.message());
    assert!(joined.message().contains("not confirmed on the other device"), "{}", joined.message());
    for device in [&a, &b] {
        assert!(device.run(&["devices"]).all("device").is_empty());
    }
}

#[test]
fn the_joiner_may_say_no_too() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let joined = join(&b, &code, &addresses, &[]).end();
    assert_eq!(joined.code, 7, "{:?}", joined.events);
    assert!(joined.message().contains("not confirmed on this device"), "{}", joined.message());
    let shown = showing.end();
    assert!(b.run(&["devices"]).all("device").is_empty());
    // The initiator may have said yes before it heard of the no; its record then was withdrawn or is not used yet.
    assert!(shown.code == 0 || shown.code == 7, "{:?}", shown.events);
}

#[test]
fn nobody_at_the_address_is_unreachable() {
    let stage = Stage::new();
    let code = stage.text("code");
    fs::write(&code, "legal winner thank year wave sausage worth useful legal winner thank yellow").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = join(&stage.device("b"), &code, &[format!("tcp:{port}")], &["--yes"]).end();
    assert_eq!(refused.code, 4, "{:?}", refused.events);
    assert_eq!(refused.event("error")["retryable"], true);
}

#[test]
// HOST-13.
fn join_without_an_address_says_what_is_missing() {
    let stage = Stage::new();
    let refused = stage.device("b").run(&["join", "--yes"]);
    assert_eq!(refused.code, 2);
    assert!(refused.event("error")["next_command"].as_str().unwrap().contains("--address tcp:"));
}

#[test]
// HOST-14.
fn a_code_that_waits_ends_with_a_signal() {
    let stage = Stage::new();
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let (showing, ..) = stage.show_code(&stage.device("a"), &["--yes"]);
        showing.signal(signal);
        assert_eq!(showing.end().code, code);
    }
}

/// HOST-30, PAIR-50: the same with the first nodes of a Mainline DHT, here one of five nodes on this machine.
#[test]
fn twelve_words_are_enough_with_the_mainline_dht() {
    let stage = Stage::new();
    let (a, b) = (stage.device("a"), stage.device("b"));
    let network = mainline::Testnet::builder(5).build().unwrap();
    let (first, others) = (network.bootstrap[0].clone(), network.bootstrap[1..3].join(","));
    let code = stage.text("code");
    let mut showing = a.start(&["--mainline-bootstrap", &first, "pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = b.start(&["--mainline-bootstrap", &others, "join", "--yes", "--code-file", &code]).end();
    assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
    // --no-dht wins, and what is no node is an error.
    let refused = b.start(&["--mainline-bootstrap", &first, "--no-dht", "join", "--yes", "--code-file", &code]).end();
    assert_eq!(refused.code, 2, "{}", refused.words);
    assert_eq!(b.start(&["--mainline-bootstrap", "http://127.0.0.1", "pair", "--yes"]).end().code, 2);
}

/// HOST-28, PAIR-50: twelve words are enough where both know a node of a DHT; and what is said where that is not so.
#[test]
fn twelve_words_are_enough_with_a_node_of_a_dht() {
    let stage = Stage::new();
    let (meet, a, b) = (stage.device("meet"), stage.device("a"), stage.device("b"));
    let mut node = meet.start(&["dht"]);
    let at = strings(&node.until("listening")["addresses"]).remove(0);
    let code = stage.text("code");
    let mut showing = a.start(&["--dht-bootstrap", &at, "pair", "--yes", "--code-file", &code]);
    showing.until("code");
    let joined = b.start(&["--dht-bootstrap", &at, "join", "--yes", "--code-file", &code]).end();
    assert_eq!((showing.end().code, joined.code), (0, 0), "{}", joined.words);
    // Nothing in the environment is nothing; --no-dht wins over what is there.
    let mut command = b.command();
    command.env("KIN_DHT_BOOTSTRAP", "").env("KIN_RELAY", "").args(["--json", "devices"]);
    assert_eq!(Running::new(command, "devices".to_owned()).end().code, 0);
    let refused = b.start(&["--dht-bootstrap", &at, "--no-dht", "join", "--yes", "--code-file", &code]).end();
    assert_eq!(refused.code, 2, "{}", refused.words);
    assert_eq!(b.start(&["--dht-bootstrap", "/ip4/127.0.0.1/tcp/1", "pair", "--yes"]).end().code, 2);
    assert_eq!(meet.start(&["--bind", "tcp:127.0.0.1:0", "dht"]).end().code, 2);
    // It is known by the same id in its next life, and nobody shares its port.
    let port = at.split('/').nth(4).unwrap();
    let bind = format!("127.0.0.1:{port}");
    assert_eq!(meet.start(&["--bind", &bind, "dht"]).end().code, 3);
    drop(node.kill());
    let mut node = meet.start(&["--bind", &bind, "dht"]);
    assert_eq!(strings(&node.until("listening")["addresses"]), [at]);
    drop(node.kill());
}
