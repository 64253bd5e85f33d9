//! Homes: who holds them, what they remember, what they forget.

use std::os::unix::fs::PermissionsExt as _;

use crate::stage::{Stage, strings};

#[test]
fn both_sides_know_each_other_after_a_restart() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    for (here, there, name) in [(&a, &b, "device b"), (&b, &a, "device a")] {
        let listed = here.run(&["devices", "list"]);
        assert_eq!(listed.code, 0);
        let device = listed.event("device");
        assert_eq!(device["device_id"], there.id());
        assert_eq!(device["fingerprint"], there.fingerprint());
        assert_eq!(device["name"], name);
        assert_eq!(device["state"], "paired");
        assert_eq!(device["confirmed"], true);
        assert!(!strings(&device["addresses"]).is_empty(), "{device}");
        assert!(device["paired_at"].as_u64().unwrap() > 1_700_000_000);
        let shown = here.run(&["devices", "show", "dev"]);
        assert_eq!(shown.event("device"), device);
        assert!(here.say(&["devices", "show", name]).contains(&there.fingerprint()));
    }
}

/// HOST-5: what another version wrote is written anew by who may open the home, and told by who only looks.
#[test]
fn a_list_of_another_version_is_written_anew() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let file = stage.path("home-a").join("snapshot.json");
    let older = || {
        let mut bytes = std::fs::read(&file).unwrap();
        // The second byte of its CBOR is the version.
        bytes[1] = 1;
        std::fs::write(&file, bytes).unwrap();
    };
    older();
    let looked = a.run(&["transfers", "list"]);
    assert_eq!((looked.code, &looked.event("error")["next_command"]), (3, &"kin devices list".into()), "{}", looked.words);
    assert!(looked.message().contains("another version"), "{}", looked.message());
    let listed = a.run(&["devices", "list"]);
    assert_eq!((listed.code, &listed.event("device")["device_id"]), (0, &b.id().into()), "{}", listed.words);
    assert_eq!(a.run(&["transfers", "list"]).code, 0, "it was written anew");
    std::fs::write(&file, b"nothing of ours").unwrap();
    let damaged = a.run(&["devices", "list"]);
    assert!(damaged.code == 3 && damaged.message().contains("damaged"), "{}", damaged.words);
}

#[test]
fn a_held_home_can_be_looked_at_and_not_used() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let id = a.id();
    let mut receiving = a.start(&["recv", &stage.text("inbox"), "--yes"]);
    receiving.until("listening");
    assert_eq!(a.run(&["id"]).event("identity")["device_id"], id);
    assert_eq!(a.run(&["devices"]).event("device")["device_id"], b.id());
    for line in [&["pair", "--yes"][..], &["devices", "forget", "device b"], &["recv", &stage.text("inbox")]] {
        let refused = a.run(line);
        assert_eq!(refused.code, 3, "{line:?}");
        assert!(refused.message().contains("another process"), "{}", refused.message());
    }
    receiving.signal(rustix::process::Signal::INT);
    assert_eq!(receiving.end().code, 130);
    assert_eq!(a.run(&["devices", "rename", "device b", "b"]).code, 0, "the home is free again");
}

#[test]
fn renaming_is_local_and_lasts() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    assert_eq!(a.run(&["devices", "rename", "device b", "my phone"]).event("device")["name"], "my phone");
    assert_eq!(a.run(&["devices", "show", "my"]).event("device")["device_id"], b.id());
    assert_eq!(b.run(&["devices"]).event("device")["name"], "device a");
    assert_eq!(a.run(&["devices", "rename", "my phone", "a\nb"]).code, 2);
}

#[test]
fn who_was_forgotten_is_unknown_here_and_refused_there() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    assert_eq!(a.run(&["devices", "forget", "device b"]).event("device")["state"], "forgotten");
    assert!(a.run(&["devices"]).all("device").is_empty());
    assert_eq!(a.run(&["devices", "show", "device b"]).code, 12);

    std::fs::write(stage.path("file"), "x").unwrap();
    let mut receiving = a.start(&["recv", &stage.text("inbox"), "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let refused = b.run(&["send", &stage.text("file"), "--to", "device a", "--address", &address]);
    assert_eq!(refused.code, 6, "{:?}", refused.events);
    assert!(refused.message().contains("removed this pairing"), "{}", refused.message());
    assert!(refused.event("error")["next_command"].as_str().unwrap().contains("kin devices forget"));
    receiving.signal(rustix::process::Signal::TERM);
    assert_eq!(receiving.end().code, 143);
}

#[test]
fn names_that_are_unknown_or_ambiguous_are_not_found() {
    let stage = Stage::new();
    let (a, _) = stage.pair();
    let c = stage.device("c");
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    assert_eq!(crate::stage::join(&c, &code, &addresses, &["--yes", "--name", "device c"]).end().code, 0);
    assert_eq!(showing.end().code, 0);

    std::fs::write(stage.path("file"), "x").unwrap();
    let file = stage.text("file");
    for line in [&["devices", "show", "device"][..], &["send", &file, "--to", "dev"]] {
        let ambiguous = a.run(line);
        assert_eq!(ambiguous.code, 12, "{line:?}");
        assert!(ambiguous.message().contains("device b") && ambiguous.message().contains("device c"), "{}", ambiguous.message());
    }
    for line in [&["devices", "show", "nobody"][..], &["send", &file, "--to", "nobody"], &["send", "/no/such/path", "--to", "device b"]] {
        assert_eq!(a.run(line).code, 12, "{line:?}");
    }
}

#[test]
fn command_lines_that_make_no_sense_are_usage_errors() {
    let stage = Stage::new();
    let a = stage.device("a");
    for line in [
        &["pair", "--ttl", "1h"][..],
        &["pair", "--yes", "--transport", "pigeon"],
        &["join", "--address", "nowhere"],
        &["send", "-", "--to", "x", "--name"],
        &["send", "-", "--to", "x"],
        &["recv", "-"],
        &["frobnicate"],
        &[],
    ] {
        let refused = a.run(line);
        assert_eq!(refused.code, 2, "{line:?}: {}", refused.words);
    }
    assert!(!stage.path("home-a").exists());
}

#[test]
fn an_identity_is_made_once() {
    let stage = Stage::new();
    let a = stage.device("a");
    let first = a.run(&["id"]);
    let second = a.run(&["id"]);
    assert_eq!(first.event("identity"), second.event("identity"));
    assert_eq!(first.event("identity")["fingerprint"].as_str().unwrap().split(' ').count(), 6);
    assert!(a.say(&["--version"]).starts_with("kin "));
    assert!(a.say(&["completions", "bash"]).contains("kin"));
}

#[test]
fn completion_knows_devices_and_words() {
    let stage = Stage::new();
    let (a, _) = stage.pair();
    let complete = |line: &[&str]| {
        let index = (line.len() - 1).to_string();
        let mut command = a.command();
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9");
        let output = command.arg("--").args(line).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(complete(&["kin", "devices", "show", "dev"]).contains("device b"));
    assert!(complete(&["kin", "join", "aban"]).contains("abandon"));
}

/// What stands in the way on this machine: each thing is looked at, and one that is wrong has a command.
#[test]
fn doctor_looks_at_this_machine() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let looked = a.run(&["doctor"]);
    assert_eq!(looked.code, 0, "{}", looked.words);
    for about in ["disk", "clock", "firewall", "home", "network"] {
        let found: Vec<_> = looked.all("finding").into_iter().filter(|finding| finding["about"] == about).collect();
        assert!(!found.is_empty() && found.iter().all(|finding| finding["verdict"] != "wrong"), "{about}: {found:?}");
    }
    let home = stage.path("home-a");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
    let looked = a.run(&["doctor"]);
    let open = looked.all("finding").into_iter().find(|finding| finding["about"] == "home" && finding["verdict"] == "hint");
    assert!(open.expect("others may look")["next_command"].as_str().unwrap().starts_with("chmod 700"), "{:?}", looked.events);

    let mut receiving = a.start(&["recv", &stage.text("inbox"), "--yes"]);
    let at = strings(&receiving.until("listening")["addresses"]);
    let held = a.run(&["doctor"]);
    assert!(held.code == 3 && held.message().contains("another process"), "{}", held.words);
    let looked = b.run(&["doctor", "device a", "--address", &at[0]]);
    let version = looked.all("finding").into_iter().find(|finding| finding["about"] == "version");
    assert_eq!((looked.code, &version.expect("it was asked")["verdict"]), (0, &"ok".into()), "{}", looked.words);
    receiving.signal(rustix::process::Signal::INT);
    assert_eq!(receiving.end().code, 130);
}
