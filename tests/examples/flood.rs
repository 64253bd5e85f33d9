//! What floods of connections and streams cost a device that shows a code, over each network stack, and that the right device still gets
//! through in the middle of them.
//!
//! ```sh
//! cargo build --release -p kin
//! cargo run --release -p kin-tests --example flood
//! ```
//!
//! Memory is the victim's resident set, as Linux tells it. Everything is on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adapter_tokio::transport::{Connection, Transport, Tx as _};
use kin_tests::conformance::Bench;
use kin_tests::conformance::stacks::{Bare, Noise, Quic};
use protocol_core::info::Address;
use protocol_core::wire::deframer::StreamName;
use serde_json::Value;
use tokio::time::timeout;

/// Strangers, and connections of each.
const STRANGERS: u8 = 20;
const CONNECTIONS: usize = 25;
/// Streams that are asked for on one connection.
const STREAMS: usize = 2000;
/// A step that takes longer is held up, and given up.
const STEP: Duration = Duration::from_secs(1);

/// A device that shows a code.
struct Victim {
    process: Child,
    address: Address,
}

impl Victim {
    fn start(kin: &Path, dir: &Path, transport: &str) -> Self {
        let mut command = Command::new(kin);
        command.arg("--home").arg(dir.join("a")).args(["--transport", transport, "--bind", "127.0.0.1:0", "--json", "--no-input", "-q"]);
        command.args(["pair", "--yes", "--name", "victim", "--code-file"]).arg(dir.join("code"));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let event = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let listening = lines.by_ref().map(event).find(|event| event["event"] == "listening").unwrap();
        lines.by_ref().map(event).find(|event| event["event"] == "code").unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: listening["addresses"][0].as_str().unwrap().parse().unwrap() }
    }

    /// Resident set and its peak, in MiB.
    fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn flood<B: Bench>(kin: &Path, dir: &Path, transport: &str) {
    let dir = dir.join(transport);
    fs::create_dir(&dir).unwrap();
    let victim = Victim::start(kin, &dir, transport);
    let row = |what: &str, done: usize| {
        let ((now, peak), descriptors) = (victim.memory(), victim.descriptors());
        println!("| {transport} | {what} | {done} | {now:.1} | {peak:.1} | {descriptors} |");
    };
    row("before", 0);

    // Connections of many strangers; each begins a stream and says half of its name.
    let (mut strangers, mut held) = (Vec::new(), Vec::new());
    for of in 0..STRANGERS {
        let stranger = B::up(100 + of).await;
        for _ in 0..CONNECTIONS {
            let begun = async {
                let conn = stranger.dial(&victim.address).await.ok()?;
                let mut stream = conn.open().await.ok()?;
                stream.0.write_all(&StreamName::Pair.preamble()[..5]).await.ok()?;
                Some((conn, stream))
            };
            held.extend(timeout(STEP, begun).await.ok().flatten());
        }
        strangers.push(stranger);
    }
    row("connections, one stream each", held.len());

    // Streams on one connection, each of which announces a first frame and sends none of it.
    let mut streams = Vec::new();
    let one = strangers[0].dial(&victim.address).await.ok();
    for _ in 0..STREAMS {
        let Some(conn) = &one else { break };
        let begun = async {
            let mut stream = conn.open().await.ok()?;
            let frame = [&StreamName::Pair.preamble()[..], &1310_u32.to_be_bytes()].concat();
            stream.0.write_all(&frame).await.ok()?;
            Some(stream)
        };
        match timeout(STEP, begun).await {
            Ok(Some(stream)) => streams.push(stream),
            Ok(None) | Err(_) => break,
        }
    }
    row("streams on one connection", streams.len());

    // The right device, beside all of it.
    let started = Instant::now();
    let mut join = Command::new(kin);
    join.arg("--home").arg(dir.join("b")).args(["--transport", transport, "--bind", "127.0.0.1:0", "--no-input", "-q"]);
    join.args(["join", "--yes", "--address", &victim.address.to_string(), "--code-file"]).arg(dir.join("code"));
    let joined = tokio::task::spawn_blocking(move || join.stdout(Stdio::null()).stderr(Stdio::inherit()).status().unwrap()).await.unwrap();
    println!("| {transport} | the right device pairs: {joined} | {:.2} s | | | |", started.elapsed().as_secs_f64());
    drop((streams, one, held));
    for stranger in strangers {
        stranger.shutdown().await;
    }
}

#[tokio::main]
async fn main() {
    let built = std::env::current_exe().unwrap();
    let kin: PathBuf = built.parent().unwrap().parent().unwrap().join("kin");
    let dir = std::env::temp_dir().join(format!("kin-flood-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    println!("| over | flood | held | MiB | peak MiB | descriptors |\n| --- | --- | --- | --- | --- | --- |");
    flood::<Bare>(&kin, &dir, "tcp").await;
    flood::<Quic>(&kin, &dir, "iroh").await;
    flood::<Noise>(&kin, &dir, "libp2p").await;
    fs::remove_dir_all(&dir).unwrap();
}
