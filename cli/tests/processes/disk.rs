//! Disks that are full, sources that do not stay as they were, processes that die in the middle of a transfer.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::lies::listing;
use crate::stage::{Device, Ended, Running, Stage, strings};

/// More than all buffers between two processes hold: at its acceptance the end of such a file was not read yet.
const LARGE: u64 = 160 << 20;

/// The words that run a command where file systems can be mounted that nobody else sees.
fn private_mounts() -> Option<Vec<&'static str>> {
    let ways = [vec!["unshare", "-m"], vec!["unshare", "-Urm"]];
    let works = |way: &Vec<&str>| {
        let probe = ["sh", "-c", "mount -t tmpfs -o size=2m none /mnt"];
        Command::new(way[0]).args(&way[1..]).args(probe).output().is_ok_and(|output| output.status.success())
    };
    let found = ways.into_iter().find(works);
    if found.is_none() {
        let agreed = std::env::var("KIN_TESTS_WITHOUT_MOUNTS").is_ok_and(|value| value == "1");
        assert!(
            agreed,
            "no mount namespace can be made here, so disks that are full go untested: KIN_TESTS_WITHOUT_MOUNTS=1 agrees to that"
        );
        println!("agreed: without mounts");
    }
    found
}

/// Starts `kin recv` into a tmpfs of its own; what is in there at its end is written to the file `left`. It dies with the shell
/// that a test which fails kills.
fn receive_on_tmpfs(stage: &Stage, device: &Device, way: &[&str], (options, more): (&str, &[&str])) -> (Running, String) {
    let (small, left) = (stage.text("small"), stage.text("left"));
    fs::create_dir_all(&small).unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} none '{small}' || exit 99; setpriv --pdeathsig KILL \"$@\"; code=$?; find '{small}' -mindepth 1 -printf '%y %s %P\\n' >'{left}'; exit $code"
    );
    let before = [way, &["sh", "-c", &script, "sh"]].concat();
    let mut receiving = device.start_by(&before, &[&["recv", &small, "--yes"], more].concat());
    let address = receiving.until_or_end("listening").map(|listening| strings(&listening["addresses"]).remove(0));
    (receiving, address.unwrap_or_default())
}

fn left(stage: &Stage) -> Vec<String> {
    fs::read_to_string(stage.path("left")).unwrap().lines().map(str::to_owned).collect()
}

fn send(stage: &Stage, from: &Device, what: &str, address: &str) -> Ended {
    from.run(&["send", &stage.text(what), "--to", "device b", "--address", address])
}

/// A file of any size that takes no time to make.
fn sparse(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}

fn parts(directory: &Path) -> usize {
    listing_names(directory).iter().filter(|name| name.ends_with(".part")).count()
}

pub(crate) fn listing_names(directory: &Path) -> Vec<String> {
    listing(directory).into_keys().map(|path| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
// HOST-9.
fn what_is_larger_than_the_disk_is_declined_at_once_and_both_are_told() {
    let Some(way) = private_mounts() else { return };
    let stage = Stage::new();
    let (a, b) = stage.pair();
    sparse(&stage.path("large"), 3 << 20);
    for once in [true, false] {
        let (mut receiving, address) = receive_on_tmpfs(&stage, &b, &way, ("size=2m", if once { &["--once"] } else { &[] }));
        let refused = send(&stage, &a, "large", &address);
        assert_eq!(refused.code, 6, "{:?}", refused.events);
        assert!(refused.message().contains("not enough space"), "{}", refused.message());
        let offer = receiving.until("offer");
        assert_eq!((&offer["files"], &offer["bytes"]), (&Value::from(1), &Value::from(3 << 20)));
        assert_eq!(receiving.until("refused")["id"], offer["id"]);
        let told = if once { receiving.until("error") } else { receiving.until("warning") };
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("declined: it does not fit, 2.0 MiB are free in "), "{message}");
        if once {
            assert_eq!(receiving.end().code, 9);
            continue;
        }
        // Without `--once` the next offer is taken.
        fs::write(stage.path("little"), "little").unwrap();
        assert_eq!(send(&stage, &a, "little", &address).code, 0);
        assert_eq!(receiving.until("done")["bytes"], 6);
    }
}

#[test]
// HOST-9, XFER-28.
fn a_disk_that_fills_up_ends_the_transfer_and_nothing_partial_has_a_name() {
    let Some(way) = private_mounts() else { return };
    let stage = Stage::new();
    let (a, b) = stage.pair();
    // Each takes a page of the disk, so that they fit by their sizes, and do not.
    fs::create_dir(stage.path("many")).unwrap();
    for number in 0..600 {
        fs::write(stage.path(&format!("many/{number}")), [7; 100]).unwrap();
    }
    let (receiving, address) = receive_on_tmpfs(&stage, &b, &way, ("size=2m", &["--once"]));
    let sent = send(&stage, &a, "many", &address);
    let received = receiving.end();
    assert_eq!((sent.code, received.code), (9, 9), "{:?} {:?}", sent.events, received.events);
    for side in [&sent, &received] {
        assert!(side.message().contains("the disk is full"), "{}", side.message());
        assert!(side.message().contains("is kept"), "{}", side.message());
        assert!(side.all("done").is_empty());
    }
    assert_eq!(b.run(&["transfers"]).all("unfinished").len(), 1);
    for entry in left(&stage) {
        // What has arrived is kept for another try.
        let whole = entry.starts_with("f 100 many/") || entry.contains(".part");
        assert!(whole || (entry.starts_with("d ") && entry.ends_with(" many")), "{entry}");
    }
}

#[test]
// HOST-9, XFER-28.
fn a_disk_that_was_full_and_has_room_again_gets_only_what_is_missing() {
    let Some(way) = private_mounts() else { return };
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir(stage.path("many")).unwrap();
    // What comes first are whole chunks; what comes last takes a page a file.
    fs::write(stage.path("many/! first"), (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    for number in 0..600 {
        fs::write(stage.path(&format!("many/{number}")), number.to_string().repeat(30)).unwrap();
    }
    let (small, copy) = (stage.text("small"), stage.text("copy"));
    fs::create_dir_all(&small).unwrap();
    let [ask, answer] = ["ask", "answer"].map(|name| stage.text(name));
    // Somebody in there does what is asked: what is mounted is seen nowhere else.
    let inside = "while read -r what <$0; do eval \"$what\"; echo $? >$1; done";
    let script = format!(
        "mkfifo '{ask}' '{answer}' && mount -t tmpfs -o size=3m none '{small}' || exit 99
         setpriv --pdeathsig KILL sh -c '{inside}' '{ask}' '{answer}' & setpriv --pdeathsig KILL \"$@\""
    );
    let before = [&way[..], &["sh", "-c", &script, "sh"]].concat();
    let mut receiving = b.start_by(&before, &["recv", &small, "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let full = send(&stage, &a, "many", &address);
    assert_eq!(full.code, 9, "{:?}", full.events);
    let inside = |what: String| {
        fs::write(&ask, what + "\n").unwrap();
        assert_eq!(fs::read_to_string(&answer).unwrap(), "0\n");
    };
    inside(format!("mount -o remount,size=16m {small}"));
    let again = send(&stage, &a, "many", &address);
    assert_eq!(again.code, 0, "{:?}", again.events);
    for done in [&receiving.until("done"), again.all("done")[0]] {
        let (bytes, resumed) = (done["bytes"].as_u64().unwrap(), done["bytes_resumed"].as_u64().unwrap());
        assert!(resumed > 0 && resumed < bytes, "{resumed} of {bytes}");
    }
    inside(format!("cp -a {small} {copy}"));
    receiving.kill();
    let content = |root: &Path| -> Vec<_> {
        let mut files: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap())).collect()
    };
    assert_eq!(content(&stage.path("many")), content(&stage.path("copy/many")));
    assert_eq!(parts(&stage.path("copy")), 0);
}

#[test]
// HOST-9.
fn a_directory_that_takes_no_files_is_told_before_anybody_sends() {
    let Some(way) = private_mounts() else { return };
    let stage = Stage::new();
    let (_, b) = stage.pair();
    let (receiving, address) = receive_on_tmpfs(&stage, &b, &way, ("ro", &["--once"]));
    assert_eq!(address, "");
    let refused = receiving.end();
    assert_eq!(refused.code, 9, "{:?}", refused.events);
    assert!(refused.message().contains("ead-only file system"), "{}", refused.message());
}

/// Takes a path away from the user that a process started by the returned words runs as. Root may read everything, except what
/// belongs to somebody of whom its namespace does not know.
fn take_away(path: &Path, mode: u32) -> &'static [&'static str] {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(path, Some(12_345), Some(12_345)).unwrap();
        &["unshare", "-Ur"]
    } else {
        &["env"]
    }
}

#[test]
// HOST-9, HOST-10, XFER-14.
fn what_may_not_be_read_or_written_is_listed_and_the_rest_arrives() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    for directory in ["source/closed", "source/open", "inbox/source/open"] {
        fs::create_dir_all(stage.path(directory)).unwrap();
    }
    for file in ["source/secret", "source/closed/inside", "source/open/file", "source/top"] {
        fs::write(stage.path(file), "content").unwrap();
    }
    take_away(&stage.path("source/closed"), 0o000);
    let before = take_away(&stage.path("source/secret"), 0o000);
    take_away(&stage.path("inbox/source/open"), 0o555);
    let inbox = stage.text("inbox");
    let mut receiving = b.start_by(before, &["recv", &inbox, "--once", "--yes", "--on-conflict", "overwrite"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let line = ["send", &stage.text("source"), "--to", "device b", "--address", &address];
    let sent = a.start_by(before, &line).end();
    let received = receiving.end();
    assert_eq!((sent.code, received.code), (11, 11), "{:?} {:?}", sent.events, received.events);
    let skipped: Vec<&str> = sent.all("warning").iter().map(|warning| warning["message"].as_str().unwrap()).collect();
    for name in ["source/closed", "source/secret"] {
        assert!(skipped.iter().any(|why| why.contains(name) && why.contains("not readable, permission denied")), "{skipped:?}");
    }
    // What was there is as it was; what could not be written is named.
    assert!(listing_names(&stage.path("inbox/source/open")).is_empty());
    assert_eq!(fs::read_to_string(stage.path("inbox/source/top")).unwrap(), "content");
    let failed = received.all("warning");
    assert!(failed.iter().any(|why| why["message"] == "source/open/file: permission denied"), "{failed:?}");
}

/// Starts a transfer of the directory `source` and stops the receiver as soon as the sender hears that it is accepted.
fn begin(stage: &Stage, a: &Device, b: &Device, more: &[&str]) -> (Running, Running) {
    fs::create_dir_all(stage.path("inbox")).unwrap();
    let mut receiving = b.start(&["recv", &stage.text("inbox"), "--once", "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let source = stage.text("source");
    let mut line = vec!["send", &source, "--to", "device b", "--address", &address];
    line.extend(more);
    let mut sending = a.start(&line);
    sending.until("accepted");
    receiving.signal(Signal::STOP);
    (sending, receiving)
}

#[test]
// XFER-16, HOST-10, XFER-14.
fn sources_that_change_while_they_are_sent_fail_alone() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let source = stage.path("source");
    fs::create_dir(&source).unwrap();
    sparse(&source.join("a shrinks"), LARGE);
    for name in ["m grows", "n shrinks", "o is rewritten", "p vanishes", "q is a directory", "r is a link", "s stays"] {
        fs::write(source.join(name), "content").unwrap();
    }
    let (sending, receiving) = begin(&stage, &a, &b, &[]);
    File::options().write(true).open(source.join("a shrinks")).unwrap().set_len(10).unwrap();
    fs::write(source.join("m grows"), "content and more").unwrap();
    fs::write(source.join("n shrinks"), "con").unwrap();
    fs::write(source.join("o is rewritten"), "CONTENT").unwrap();
    for name in ["p vanishes", "q is a directory", "r is a link"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    fs::create_dir(source.join("q is a directory")).unwrap();
    symlink("/etc/hostname", source.join("r is a link")).unwrap();
    receiving.signal(Signal::CONT);
    let (sent, received) = (sending.end(), receiving.end());
    assert_eq!((sent.code, received.code), (11, 11), "{:?} {:?}", sent.events, received.events);
    for side in [&sent, &received] {
        let failed = side.all("file").iter().filter(|file| file["status"] == "failed").count();
        assert_eq!((side.all("file").len(), failed), (8, 7), "{:?}", side.all("file"));
    }
    assert_eq!(listing_names(&stage.path("inbox")), ["source", "source/s stays"]);
    assert_eq!(fs::read_to_string(stage.path("inbox/source/s stays")).unwrap(), "content");
}

#[test]
// XFER-21, HOST-24.
fn a_receiver_that_is_killed_goes_on_when_it_comes_back() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir(stage.path("source")).unwrap();
    sparse(&stage.path("source/large"), LARGE);
    fs::create_dir(stage.path("inbox")).unwrap();
    fs::write(stage.path("inbox/.kin-notes"), "mine").unwrap();
    let (mut sending, receiving) = begin(&stage, &a, &b, &[]);
    receiving.kill();
    while sending.until("warning")["code"] != "suspended" {}
    assert!(!stage.path("inbox/source/large").exists());

    let (again, _) = receive(&stage, &b);
    let (sent, received) = (sending.end(), again.end());
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    assert!(stage.path("inbox/.kin-notes").exists(), "what is not ours stays");
    let arrived = listing_names(&stage.path("inbox"));
    assert!(arrived.iter().any(|name| name.ends_with("/large")) && parts(&stage.path("inbox")) == 0, "{arrived:?}");
}

#[test]
// HOST-8, XFER-21, XFER-28.
fn a_sender_that_is_killed_leaves_what_can_be_given_up() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir(stage.path("source")).unwrap();
    sparse(&stage.path("source/large"), 16 * LARGE);
    // A sender says that it was accepted when that is on its disk, which may be busy with what arrives: the rest has to take longer.
    let (sending, mut receiving) = begin(&stage, &a, &b, &["--limit-rate", "50M"]);
    receiving.signal(Signal::CONT);
    // It is in the middle: bytes are on the disk, and the rest takes seconds.
    while receiving.until("progress")["bytes_sent"] == 0 {}
    assert_eq!(parts(&stage.path("inbox")), 1);
    sending.kill();
    while receiving.until("warning")["code"] != "suspended" {}
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    assert_eq!(parts(&stage.path("inbox")), 1);
    assert_eq!(b.run(&["transfers", "prune"]).code, 0);
    assert_eq!(parts(&stage.path("inbox")), 0);
    assert!(!stage.path("inbox/source/large").exists());
    // The sender's home is as it was.
    let (receiving, address) = receive(&stage, &b);
    fs::write(stage.path("little"), "little").unwrap();
    assert_eq!(send(&stage, &a, "little", &address).code, 0);
    assert_eq!(receiving.end().code, 0);
}

/// Starts `kin recv`, once.
fn receive(stage: &Stage, device: &Device) -> (Running, String) {
    let mut receiving = device.start(&["recv", &stage.text("inbox"), "--once", "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    (receiving, address)
}

#[test]
// PATH-9.
fn newer_files_replace_and_nothing_replaces_a_directory() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (directory, times) in [("inbox/source", [200, 200, 200]), ("source", [100, 300, 300])] {
        fs::create_dir_all(stage.path(directory)).unwrap();
        for (name, time) in ["older", "newer", "other"].into_iter().zip(times) {
            let path = stage.path(directory).join(name);
            fs::write(&path, directory).unwrap();
            File::options().write(true).open(path).unwrap().set_modified(at(time)).unwrap();
        }
    }
    // A directory stands where a file is to be, and the other way round.
    fs::remove_file(stage.path("inbox/source/other")).unwrap();
    fs::create_dir(stage.path("inbox/source/other")).unwrap();
    fs::write(stage.path("inbox/source/other/inside"), "mine").unwrap();
    fs::create_dir(stage.path("source/directory")).unwrap();
    fs::write(stage.path("source/directory/inside"), "theirs").unwrap();
    fs::write(stage.path("inbox/source/directory"), "mine").unwrap();
    for policy in ["update", "overwrite"] {
        let mut receiving = b.start(&["recv", &stage.text("inbox"), "--once", "--yes", "--on-conflict", policy]);
        let address = strings(&receiving.until("listening")["addresses"]).remove(0);
        let sent = send(&stage, &a, "source", &address);
        let received = receiving.end();
        assert_eq!((sent.code, received.code), (11, 11), "{policy}: {:?}", received.events);
        let content = |name: &str| fs::read_to_string(stage.path("inbox/source").join(name)).unwrap();
        assert_eq!(content("older"), if policy == "update" { "inbox/source" } else { "source" });
        assert_eq!((content("newer"), content("other/inside"), content("directory")), ("source".into(), "mine".into(), "mine".into()));
        assert_eq!(parts(&stage.path("inbox")), 0);
    }
}
