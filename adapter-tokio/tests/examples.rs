//! The example with a protocol of its own, as two processes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `cargo test` builds the examples beside the tests; asked for this test alone it does not.
fn clipboard() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let built = here.ancestors().nth(2).unwrap().join("examples/clipboard");
    assert!(built.exists(), "cargo build -p adapter-tokio --example clipboard");
    built
}

fn start(home: &Path, rest: &[&str]) -> Process {
    Process(Command::new(clipboard()).arg(home).args(rest).stdout(Stdio::piped()).spawn().unwrap())
}

#[test]
fn two_processes_tell_each_other_what_was_copied() {
    let dir = std::env::temp_dir().join(format!("kin-clipboard-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut one = start(&dir.join("one"), &["copied by one"]);
    let mut said = BufReader::new(one.0.stdout.take().unwrap());
    let mut code = String::new();
    said.read_line(&mut code).unwrap();
    let told: Vec<&str> = ["copied by the other"].into_iter().chain(code.split_whitespace()).collect();
    let mut other = start(&dir.join("other"), &told);
    let (mut theirs, mut ours) = (String::new(), String::new());
    other.0.stdout.take().unwrap().read_to_string(&mut theirs).unwrap();
    said.read_to_string(&mut ours).unwrap();
    assert!(one.0.wait().unwrap().success() && other.0.wait().unwrap().success());
    assert!(ours.ends_with(" copied: copied by the other\n"), "{ours}");
    assert!(theirs.ends_with(" copied: copied by one\n"), "{theirs}");
    fs::remove_dir_all(dir).unwrap();
}
