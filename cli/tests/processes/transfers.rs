//! Folders that arrive, offers that do not, and what the exit codes say of both.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use protocol_core::limits::OPEN_OFFERS;
use serde_json::Value;

use crate::stage::{Device, Ended, Stage, strings};
use crate::up::{end, up};

/// Sends `what` from `a` to `b`, who receives with `more`.
fn send(stage: &Stage, (a, b): (&Device, &Device), what: &str, more: &[&str]) -> (Ended, Ended) {
    let inbox = stage.text("inbox");
    let mut line = vec!["recv", &inbox, "--once"];
    line.extend(more);
    let mut receiving = b.start(&line);
    let addresses = strings(&receiving.until("listening")["addresses"]);
    let mut line = vec!["send", what, "--to", "device b"];
    for address in &addresses {
        line.extend(["--address", address]);
    }
    let sent = a.run(&line);
    (sent, receiving.end())
}

/// A small folder with a bit of everything.
fn folder(stage: &Stage) -> String {
    let root = stage.path("album");
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("Ünter ordner")).unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("Ünter ordner/a line\nand another"), vec![7; 300_000]).unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    File::open(root.join("run.sh")).unwrap().set_modified(then).unwrap();
    File::open(root.join("empty")).unwrap().set_modified(then).unwrap();
    stage.text("album")
}

/// Every path below `root` with kind, executable bit, time and content.
fn tree(root: &Path) -> Vec<(String, bool, u32, i64, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let seen = fs::symlink_metadata(&path).unwrap();
            let content = if seen.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((name, seen.is_dir(), seen.mode() & 0o100, seen.mtime(), seen.mtime_nsec(), content));
            if seen.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_arrives_as_it_was_with_its_digests() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (sent, received) = send(&stage, (&a, &b), &folder(&stage), &["--yes"]);
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert_eq!(tree(&stage.path("album")), tree(&stage.path("inbox/album")));

    for side in [&sent, &received] {
        let offer = side.event("offer");
        assert_eq!((&offer["files"], &offer["bytes"]), (&Value::from(3), &Value::from(300_010)));
        let id = &offer["id"];
        assert_eq!(&side.event("accepted")["id"], id);
        let done = side.event("done");
        assert_eq!((&done["id"], &done["files"], &done["bytes"]), (id, &Value::from(3), &Value::from(300_010)));
        let files = side.all("file");
        assert_eq!(files.len(), 3, "{files:?}");
        for file in files {
            let content = fs::read(stage.path("inbox").join(file["path"].as_str().unwrap())).unwrap();
            assert_eq!(file["blake3"], blake3::hash(&content).to_hex().as_str(), "the plain BLAKE3, as b3sum has it");
            assert_eq!(file["bytes"], content.len());
            assert_eq!(file["status"], "stored");
        }
        let mut last = 0;
        for progress in side.all("progress") {
            let durable = progress["bytes_durable"].as_u64().unwrap();
            assert!(durable >= last && durable <= progress["bytes_total"].as_u64().unwrap(), "{progress}");
            last = durable;
        }
        assert_eq!(last, 300_010, "the last report is complete");
    }
    assert_eq!(sent.event("offer")["device_id"], b.id());
    assert_eq!(received.event("offer")["device_id"], a.id());
    assert_eq!(sent.event("route")["transport"], "tcp");
}

#[test]
fn hidden_names_are_flagged_and_arrive_unchanged() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let root = stage.path("album");
    fs::create_dir_all(root.join(".git/hooks")).unwrap();
    for file in [".git/hooks/post-commit", ".bashrc", "desktop.ini", "picture"] {
        fs::write(root.join(file), file).unwrap();
    }
    let (sent, received) = send(&stage, (&a, &b), &stage.text("album"), &["--yes"]);
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    for side in [&sent, &received] {
        assert_eq!(side.event("offer")["flagged"], 3);
        assert_eq!(strings(&side.event("offer")["flagged_paths"]), ["album/.bashrc", "album/.git", "album/desktop.ini"]);
    }
    assert_eq!(tree(&root), tree(&stage.path("inbox/album")));
}

#[test]
fn stored_addresses_are_enough_to_come_back() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let inbox = stage.text("inbox");
    let mut receiving = b.start(&["recv", &inbox, "--once", "--yes"]);
    receiving.until("listening");
    let sent = a.run(&["send", &folder(&stage), "--to", "device b"]);
    assert_eq!(sent.code, 0, "{:?}", sent.events);
    assert_eq!(receiving.end().code, 0);
}

#[test]
fn a_slash_sends_what_is_inside() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (sent, received) = send(&stage, (&a, &b), &(folder(&stage) + "/"), &["--yes"]);
    assert_eq!((sent.code, received.code), (0, 0), "{}{}", sent.words, received.words);
    assert_eq!(tree(&stage.path("album")), tree(&stage.path("inbox")));
}

#[test]
fn an_offer_that_nobody_can_take_is_refused() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let (sent, received) = send(&stage, (&a, &b), &folder(&stage), &["--no-input"]);
    assert_eq!((sent.code, received.code), (6, 6), "{:?}", sent.events);
    assert_eq!(sent.event("refused")["id"], received.event("refused")["id"]);
    assert!(tree(&stage.path("inbox")).is_empty());
}

#[test]
fn others_than_the_chosen_device_are_refused() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let c = stage.device("c");
    let (showing, code, addresses) = stage.show_code(&b, &["--yes"]);
    assert_eq!(crate::stage::join(&c, &code, &addresses, &["--yes", "--name", "device c"]).end().code, 0);
    assert_eq!(showing.end().code, 0);
    let inbox = stage.text("inbox");
    let mut receiving = b.start(&["recv", &inbox, "--yes", "--once", "--from", "device c"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let album = folder(&stage);
    assert_eq!(a.run(&["send", &album, "--to", "device b", "--address", &address]).code, 6);
    assert_eq!(c.run(&["send", &album, "--to", "device b", "--address", &address]).code, 0);
    assert_eq!(receiving.end().code, 0);
}

#[test]
fn a_taken_name_is_decided_by_the_policy() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let album = folder(&stage);
    fs::create_dir_all(stage.path("inbox/album")).unwrap();
    fs::write(stage.path("inbox/album/run.sh"), "mine").unwrap();
    let mine = || fs::read_to_string(stage.path("inbox/album/run.sh")).unwrap();

    let (sent, received) = send(&stage, (&a, &b), &album, &["--yes", "--on-conflict", "fail"]);
    assert_eq!((sent.code, received.code), (10, 10), "{:?}", sent.events);
    assert_eq!(received.event("offer")["conflicts"], 1);
    assert_eq!((mine().as_str(), tree(&stage.path("inbox")).len()), ("mine", 2));

    let (sent, received) = send(&stage, (&a, &b), &album, &["--yes", "--on-conflict", "skip"]);
    assert_eq!((sent.code, received.code), (11, 11), "{:?}", sent.events);
    assert_eq!(mine(), "mine");
    let skipped = received.all("file").into_iter().find(|file| file["path"] == "album/run.sh").unwrap();
    assert_eq!((&skipped["status"], &skipped["blake3"]), (&Value::from("skipped"), &Value::Null));

    let (sent, received) = send(&stage, (&a, &b), &album, &["--yes"]);
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    assert_eq!(mine(), "mine");
    assert_eq!(tree(&stage.path("album")), tree(&stage.path("inbox/album (1)")), "the top item got another name, once");
    let renamed = received.all("file").into_iter().find(|file| file["path"] == "album/run.sh").unwrap();
    assert_eq!((&renamed["status"], &renamed["renamed_to"]), (&Value::from("renamed"), &Value::from("album (1)/run.sh")));

    let (sent, received) = send(&stage, (&a, &b), &album, &["--yes", "--on-conflict", "overwrite"]);
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    assert_eq!(mine(), "#!/bin/sh\n");
}

#[test]
fn what_cannot_be_sent_is_listed_and_the_rest_arrives() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let album = folder(&stage);
    let _socket = UnixListener::bind(stage.path("album/socket")).unwrap();
    let (sent, received) = send(&stage, (&a, &b), &album, &["--yes"]);
    assert_eq!((sent.code, received.code), (11, 0), "{:?}", sent.events);
    let warning = sent.event("warning");
    assert_eq!(warning["code"], "source_skipped");
    assert!(warning["message"].as_str().unwrap().contains("socket"));
    assert!(stage.path("inbox/album/run.sh").exists() && !stage.path("inbox/album/socket").exists());
}

#[test]
fn waits_run_out() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let received = b.run(&["recv", &stage.text("inbox"), "--yes", "--timeout", "50ms"]);
    assert_eq!(received.code, 14);
    assert_eq!(received.event("error")["retryable"], true);
    let sent = a.run(&["send", &folder(&stage), "--to", "device b", "--wait=300ms"]);
    assert_eq!(sent.code, 14, "{:?}", sent.events);
}

#[test]
fn a_demo_ends_well_and_leaves_nothing() {
    let stage = Stage::new();
    let temporary = stage.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = stage.device("unused").command();
    let output = command.env("TMPDIR", &temporary).args(["demo", &folder(&stage)]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("equal byte by byte").count(), 2, "{text}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

/// Two devices send at once to one that takes everything, and nobody waits for the other.
#[test]
fn what_several_send_arrives_side_by_side() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let c = stage.device("c");
    let (showing, code, addresses) = stage.show_code(&b, &["--yes"]);
    assert_eq!(crate::stage::join(&c, &code, &addresses, &["--yes", "--name", "device c"]).end().code, 0);
    assert_eq!(showing.end().code, 0);
    for name in ["slow", "slow too"] {
        fs::write(stage.path(name), vec![3; 400_000]).unwrap();
    }
    let inbox = stage.text("inbox");
    let mut receiving = b.start(&["recv", &inbox, "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let start = |device: &Device, what: &str| {
        device.start(&["send", &stage.text(what), "--to", "device b", "--address", &address, "--limit-rate", "100k"])
    };
    let (mut first, mut second) = (start(&a, "slow"), start(&c, "slow too"));
    // Both are taken before either can be done.
    first.until("accepted");
    second.until("accepted");
    for _ in 0..2 {
        receiving.until("accepted");
    }
    let (first, second) = (first.end(), second.end());
    assert_eq!((first.code, second.code), (0, 0), "{:?} {:?}", first.events, second.events);
    let ids: Vec<Value> = (0..2).map(|_| receiving.until("done")["id"].clone()).collect();
    assert_ne!(ids[0], ids[1]);
    receiving.signal(rustix::process::Signal::INT);
    let received = receiving.end();
    let at = |name: &str| received.events.iter().position(|event| event["event"] == name).unwrap();
    assert!(received.events.iter().rposition(|event| event["event"] == "accepted").unwrap() < at("done"));
    for name in ["slow", "slow too"] {
        assert_eq!(fs::read(stage.path("inbox").join(name)).unwrap(), vec![3; 400_000]);
    }
}

/// XFER-28: where the directory is gone that a transfer was taken into, it begins anew where the next one is received.
#[test]
fn a_directory_that_is_gone_is_not_gone_on_with() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::write(stage.path("file"), vec![3; 400_000]).unwrap();
    let mut receiving = b.start(&["recv", &stage.text("old"), "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let send =
        |address: &str, more: &[&str]| a.start(&[&["send", &stage.text("file"), "--to", "device b", "--address", address], more].concat());
    let mut sending = send(&address, &["--limit-rate", "100k"]);
    sending.until("accepted");
    receiving.kill();
    sending.kill();
    fs::remove_dir_all(stage.path("old")).unwrap();
    let mut receiving = b.start(&["recv", &stage.text("new"), "--yes", "--once"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let sent = send(&address, &[]).end();
    assert_eq!((sent.code, receiving.end().code), (0, 0), "{:?}", sent.events);
    assert_eq!(fs::read(stage.path("new/file")).unwrap(), vec![3; 400_000]);
}

/// What is sent to a device that is away waits, is listed, and leaves when both are up; what nobody fetched in time is forgotten.
#[test]
fn what_is_queued_leaves_when_the_device_comes() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let what = folder(&stage);
    fs::create_dir(stage.path("in")).unwrap();
    assert_eq!(b.run(&["devices", "policy", "device a", "--files", "auto"]).code, 0);

    let refused = a.run(&["send", &what, "--to", "device b", "--wait=1s"]);
    assert_eq!(refused.code, 14, "without --queue nothing waits: {}", refused.words);
    assert!(a.run(&["transfers", "list"]).all("unfinished").is_empty());
    let queued = a.run(&["send", &what, "--to", "device b", "--wait=1s", "--queue=1h"]);
    assert_eq!((queued.code, &queued.event("queued")["files"]), (0, &Value::from(3)), "{}", queued.words);
    let again = a.run(&["send", &what, "--to", "device b", "--wait=1s", "--queue"]);
    assert_eq!(again.event("queued")["id"], queued.event("queued")["id"], "the same waits once");
    let listed = a.run(&["transfers", "list"]);
    let waiting = listed.all("unfinished");
    assert_eq!((waiting.len(), &waiting[0]["expires_at"]), (1, &again.event("queued")["expires_at"]));
    assert!(a.say(&["transfers", "show", "--", waiting[0]["id"].as_str().unwrap()]).contains("waits until"));
    fs::write(stage.path("late"), "nobody wants it").unwrap();
    assert_eq!(a.run(&["send", &stage.text("late"), "--to", "device b", "--wait=1s", "--queue=1s"]).code, 0);
    let until = Instant::now() + Duration::from_secs(20);
    while a.run(&["transfers", "list"]).all("unfinished").len() > 1 {
        assert!(Instant::now() < until, "its time is over");
    }
    let stdin = a.run(&["send", "-", "--name", "x", "--to", "device b", "--queue"]);
    assert_eq!(stdin.code, 2, "{}", stdin.words);

    // Beside a `kin up` too.
    let (mut here, _) = up(&a, &[]);
    fs::write(stage.path("later"), vec![3; 100_000]).unwrap();
    let later = a.run(&["send", &stage.text("later"), "--to", "device b", "--wait=1s", "--queue"]);
    assert_eq!(later.code, 0, "{}", later.words);
    // What is there when it leaves is what counts.
    fs::write(stage.path("later"), vec![4; 200_000]).unwrap();

    let (mut there, _) = up(&b, &[&stage.text("in")]);
    for _ in 0..2 {
        there.until("done");
        here.until("done");
    }
    assert_eq!(tree(&stage.path("album")), tree(&stage.path("in/album")));
    assert_eq!(fs::read(stage.path("in/later")).unwrap(), vec![4; 200_000]);
    end(there);
    end(here);
    assert!(a.run(&["transfers", "list"]).all("unfinished").is_empty(), "it is done");

    // Who is forgotten gets nothing, paired again or not.
    assert_eq!(a.run(&["send", &what, "--to", "device b", "--wait=1s", "--queue"]).code, 0);
    assert_eq!(a.run(&["devices", "forget", "device b"]).code, 0);
    assert!(a.run(&["transfers", "list"]).all("unfinished").is_empty());
}

/// More than may be under way at once: they leave one after the other.
#[test]
fn more_is_queued_than_may_leave_at_once() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir(stage.path("in")).unwrap();
    assert_eq!(b.run(&["devices", "policy", "device a", "--files", "auto"]).code, 0);
    let (mut here, _) = up(&a, &[]);
    let count = OPEN_OFFERS + 4;
    let sending: Vec<_> = (0..count)
        .map(|number| {
            let file = format!("file {number}");
            fs::write(stage.path(&file), vec![number as u8; 1_000]).unwrap();
            a.start(&["send", &stage.text(&file), "--to", "device b", "--wait=1s", "--queue"])
        })
        .collect();
    for one in sending {
        assert_eq!(one.end().code, 0);
    }
    assert_eq!(a.run(&["transfers", "list"]).all("unfinished").len(), count);
    let (there, _) = up(&b, &[&stage.text("in")]);
    for _ in 0..count {
        here.until("done");
    }
    assert!((0..count).all(|number| stage.path("in").join(format!("file {number}")).exists()));
    end(there);
    end(here);
}
