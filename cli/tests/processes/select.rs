//! What of a tree is sent, and where it comes from and goes to: patterns, links, holes, standard input and output, a bound for the speed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::disk::listing_names;
use crate::stage::{Device, Ended, Stage, strings};

/// Sends from `a` to `b`, who takes it.
fn send(stage: &Stage, (a, b): (&Device, &Device), line: &[&str]) -> (Ended, Ended) {
    let mut receiving = b.start(&["recv", &stage.text("inbox"), "--once", "--yes"]);
    let address = strings(&receiving.until("listening")["addresses"]).remove(0);
    let sent = a.run(&[&["send", "--to", "device b", "--address", &address], line].concat());
    (sent, receiving.end())
}

/// A tree with something to leave out.
fn project(stage: &Stage) -> String {
    let root = stage.path("project");
    for path in ["a.c", "a.o", "build/x", "sub/keep.o", "sub/b.o", "sub/build/y"] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), path).unwrap();
    }
    fs::write(root.join("sub/.kinignore"), "build/\n").unwrap();
    stage.text("project")
}

fn listed(ended: &Ended) -> Vec<&str> {
    ended.all("file").iter().filter(|file| file["status"] == "planned").map(|file| file["path"].as_str().unwrap()).collect()
}

#[test]
// HOST-10.
fn what_patterns_leave_out_is_not_sent_and_is_no_failure() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let project = project(&stage);
    let select = [&project, "--exclude", "*.o", "--exclude", "!keep.o", "--exclude", "/project/build"];
    // A dry run needs nobody, and says the same.
    let dry = a.run(&[&["send", "--to", "device b", "-n"], &select[..]].concat());
    let files = ["project/a.c", "project/sub/.kinignore", "project/sub/keep.o"];
    assert_eq!((dry.code, listed(&dry)), (0, files.to_vec()), "{}", dry.words);
    let (sent, received) = send(&stage, (&a, &b), &select);
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    let names = listing_names(&stage.path("inbox"));
    assert_eq!(names, ["project", "project/a.c", "project/sub", "project/sub/.kinignore", "project/sub/keep.o"]);

    // Without ignore files, and with the ones of another program.
    fs::write(stage.path("project/.gitignore"), "sub/\n").unwrap();
    let dry = |more: &[&str]| a.run(&[&["send", &project, "--to", "device b", "--dry-run"], more].concat());
    assert!(listed(&dry(&["--ignore-file", ""])).contains(&"project/sub/build/y"));
    assert!(!listed(&dry(&[])).contains(&"project/sub/build/y"));
    assert!(!listed(&dry(&["--ignore-file", ".gitignore"])).iter().any(|path| path.starts_with("project/sub")));

    let wrong = [(12, vec![&project, "--to", "nobody", "-n"]), (2, vec![&project, "--to", "device b", "--exclude", "a[z-a]", "-n"])];
    for (code, line) in wrong {
        assert_eq!(a.run(&[&["send"], &line[..]].concat()).code, code);
    }
}

#[test]
// HOST-10, XFER-16.
fn followed_links_arrive_as_what_they_point_to() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    fs::create_dir_all(stage.path("links/here")).unwrap();
    fs::create_dir(stage.path("far")).unwrap();
    fs::write(stage.path("far/file"), vec![5; 200_000]).unwrap();
    for (to, name) in [("../far", "far"), ("../far/file", "file"), (".", "here/again"), ("nowhere", "broken")] {
        symlink(to, stage.path("links").join(name)).unwrap();
    }
    let (sent, received) = send(&stage, (&a, &b), &[&stage.text("links"), "--symlinks", "follow"]);
    // The one that is broken, and the one that has no end.
    assert_eq!((sent.code, received.code), (11, 0), "{:?}", sent.events);
    assert_eq!(sent.all("warning").iter().filter(|warning| warning["code"] == "source_skipped").count(), 2);
    let names = listing_names(&stage.path("inbox"));
    assert_eq!(names, ["links", "links/far", "links/far/file", "links/file", "links/here"]);
    for name in ["links/file", "links/far/file"] {
        assert_eq!(fs::read(stage.path("inbox").join(name)).unwrap(), vec![5; 200_000]);
        assert!(!fs::symlink_metadata(stage.path("inbox").join(name)).unwrap().is_symlink());
    }
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
// HOST-25.
fn sparse_files_arrive_sparse_and_whole() {
    const SIZE: u64 = 200 << 20;
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let path = stage.path("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    // At its beginning, across the border of a chunk, in the middle of a block, just before a hole at the end.
    for (offset, len) in [(0, 10), ((256 << 10) - 3, 8000), ((100 << 20) + 777, 1), (SIZE - (3 << 20), 70_000)] {
        file.write_all_at(&vec![7; len], offset).unwrap();
    }
    assert!(allocated(&path) < 1 << 20, "this file system has no holes");
    let (sent, received) = send(&stage, (&a, &b), &[&stage.text("sparse")]);
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    let arrived = stage.path("inbox/sparse");
    assert!(allocated(&arrived) <= allocated(&path) + (64 << 10), "{} of {}", allocated(&arrived), allocated(&path));
    let (mut one, mut other) = (File::open(&path).unwrap(), File::open(&arrived).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for _ in 0..SIZE >> 20 {
        one.read_exact(&mut left).unwrap();
        other.read_exact(&mut right).unwrap();
        assert!(left == right);
    }
    assert_eq!(other.metadata().unwrap().len(), SIZE);
}

#[test]
fn what_comes_from_standard_input_goes_to_standard_output() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let text: Vec<u8> = (0..100_000_u32).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let piped = |line: &[&str], input: &[u8]| {
        let mut command = a.command();
        let mut child = command.args(line).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let receive = || b.command().args(["recv", "-", "--yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Where it listened is known, and where nobody listens yet somebody soon does.
    let receiving = receive();
    let sent = piped(&["send", "-", "--name", "numbers", "--to", "device b", "--wait=60s"], &text);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let received = receiving.wait_with_output().unwrap();
    assert!(received.status.success(), "{}", String::from_utf8_lossy(&received.stderr));
    assert!(received.stdout == text, "nothing else is on standard output");

    // A folder is not for a pipe, and nothing of either is left.
    fs::create_dir(stage.path("folder")).unwrap();
    let receiving = receive();
    assert_eq!(a.run(&["send", &stage.text("folder"), "--to", "device b", "--wait=60s"]).code, 6);
    let received = receiving.wait_with_output().unwrap();
    assert_eq!((received.status.code(), received.stdout.len()), (Some(6), 0));
    for device in [&a, &b] {
        assert!(device.run(&["transfers"]).all("unfinished").is_empty());
    }
    for line in [&["send", "-", "--to", "device b"][..], &["send", "-", "--name", "a/b", "--to", "device b"], &["recv", "-"]] {
        assert_eq!(a.run(line).code, 2, "{line:?}");
    }
}

#[test]
// HOST-26.
fn a_bound_for_the_speed_is_kept() {
    let stage = Stage::new();
    let (a, b) = stage.pair();
    let len = 400_000;
    fs::write(stage.path("file"), vec![9; len]).unwrap();
    let start = Instant::now();
    let (sent, received) = send(&stage, (&a, &b), &[&stage.text("file"), "--limit-rate", "100k"]);
    assert_eq!((sent.code, received.code), (0, 0), "{:?}", sent.events);
    // All but the last chunk, and what may go at once, has to wait for what is before it.
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(fs::read(stage.path("inbox/file")).unwrap(), vec![9; len]);
}
