//! What floods of connections, streams and holes cost a device, over each network stack; and that a device that shows a code, and one
//! that receives, still serve others in the middle of them.
//!
//! ```sh
//! cargo build --release -p kin
//! cargo run --release -p kin-tests --example flood
//! ```
//!
//! Needs Linux, and a user who may make network namespaces (root): the attacker, its victim and the right device live in three of their
//! own, for what is bounded is bounded by address. Memory is the victim's resident set.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says where")]

mod gaps;
mod namespaces;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::tcp::Tcp;
use adapter_tokio::transport::{Connection, Transport, Tx as _};
use protocol_core::info::Address;
use protocol_core::wire::deframer::StreamName;
use serde_json::Value;
use tokio::time::timeout;

use self::namespaces::Place;

/// Strangers, and connections of each.
const STRANGERS: u8 = 20;
const CONNECTIONS: usize = 25;
/// Streams that are asked for on one connection.
const STREAMS: usize = 2000;
/// Connections with holes in all their streams.
const HOLES: u8 = 4;
/// A step that takes longer is held up, and given up.
const STEP: Duration = Duration::from_secs(1);
/// What a paired device sends, in bytes.
const SENT: usize = 64 << 20;

/// What a flood is made against.
struct Stage<'a> {
    kin: &'a Path,
    dir: PathBuf,
    transport: &'a str,
}

impl Stage<'_> {
    fn command(&self, place: Place, home: &str) -> Command {
        let mut command = place.command(self.kin);
        command.arg("--home").arg(self.dir.join(home)).args(["--transport", self.transport, "--bind", &format!("{}:0", place.ip())]);
        command.args(["--no-input", "-q"]);
        command
    }

    /// Starts a device that waits for others, and says where.
    fn victim(&self, arguments: &[&str], wanted: &str) -> Victim {
        let mut command = self.command(Place::Victim, "a");
        let mut process =
            command.arg("--json").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let event = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let listening = lines.by_ref().map(event).find(|event| event["event"] == "listening").unwrap();
        if wanted != "listening" {
            lines.by_ref().map(event).find(|event| event["event"] == wanted).unwrap();
        }
        std::thread::spawn(move || lines.for_each(drop));
        Victim { process, address: listening["addresses"][0].as_str().unwrap().parse().unwrap() }
    }

    /// Runs the right device's command to its end.
    fn right(&self, arguments: &[&str]) -> (bool, f64) {
        let started = Instant::now();
        let status = self.command(Place::Right, "b").args(arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).status().unwrap();
        (status.success(), started.elapsed().as_secs_f64())
    }

    fn row(&self, what: &str, done: &str, victim: &Victim) {
        let ((now, peak), descriptors) = (victim.memory(), victim.descriptors());
        println!("| {} | {what} | {done} | {now:.1} | {peak:.1} | {descriptors} |", self.transport);
    }
}

/// The device that is flooded.
struct Victim {
    process: Child,
    address: Address,
}

impl Victim {
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

/// A connection with the one stream on it.
type Held<C> = (C, <C as Connection>::Tx, <C as Connection>::Rx);

/// What strangers hold open.
#[allow(dead_code, reason = "held, and dropped")]
struct Flood<T: Transport> {
    strangers: Vec<T>,
    connections: Vec<Held<T::Conn>>,
    one: Option<T::Conn>,
    streams: Vec<<T::Conn as Connection>::Tx>,
}

/// Connections of many strangers; each begins a stream and says half of its name. Then streams on one connection, each of which announces
/// a first frame and sends none of it.
async fn flood<T: Transport>(up: impl AsyncFn(u8) -> T, at: &Address) -> Flood<T> {
    let (mut strangers, mut connections) = (Vec::new(), Vec::new());
    for of in 0..STRANGERS {
        let stranger = up(100 + of).await;
        for _ in 0..CONNECTIONS {
            let begun = async {
                let conn = stranger.dial(at).await.ok()?;
                let (mut tx, rx) = conn.open().await.ok()?;
                tx.write_all(&StreamName::Pair.preamble()[..5]).await.ok()?;
                Some((conn, tx, rx))
            };
            connections.extend(timeout(STEP, begun).await.ok().flatten());
        }
        strangers.push(stranger);
    }
    let mut streams = Vec::new();
    let one = timeout(STEP, strangers[0].dial(at)).await.ok().and_then(Result::ok);
    while let Some(conn) = one.as_ref().filter(|_| streams.len() < STREAMS) {
        let begun = async {
            let (mut tx, _) = conn.open().await.ok()?;
            tx.write_all(&[&StreamName::Pair.preamble()[..], &1310_u32.to_be_bytes()].concat()).await.ok()?;
            Some(tx)
        };
        match timeout(STEP, begun).await {
            Ok(Some(stream)) => streams.push(stream),
            Ok(None) | Err(_) => break,
        }
    }
    Flood { strangers, connections, one, streams }
}

impl<T: Transport> Flood<T> {
    fn said(&self) -> String {
        format!("{} connections, {} streams on one", self.connections.len(), self.streams.len())
    }

    async fn end(self) {
        let Self { strangers, connections, one, streams } = self;
        drop((connections, one, streams));
        for stranger in strangers {
            stranger.shutdown().await;
        }
    }
}

async fn measure<T: Transport>(stage: &Stage<'_>, up: impl AsyncFn(u8) -> T) {
    fs::create_dir(&stage.dir).unwrap();
    let path = |name: &str| stage.dir.join(name).to_str().unwrap().to_owned();
    // A device that shows a code.
    let code = path("code");
    let victim = stage.victim(&["pair", "--yes", "--name", "victim", "--code-file", &code], "code");
    stage.row("before", "", &victim);
    let strangers = flood(&up, &victim.address).await;
    stage.row("a code is shown", &strangers.said(), &victim);
    let (joined, seconds) = stage.right(&["join", "--yes", "--address", &victim.address.to_string(), "--code-file", &code]);
    println!("| {} | the right device pairs: {joined} | {seconds:.2} s | | | |", stage.transport);
    strangers.end().await;
    drop(victim);
    if !joined {
        return;
    }

    // One that receives from a paired device.
    fs::write(path("file"), vec![7; SENT]).unwrap();
    let (file, inbox) = (path("file"), path("inbox"));
    let victim = stage.victim(&["recv", &inbox, "--yes", "--on-conflict", "overwrite"], "listening");
    let send = ["send", &file, "--to", "victim", "--address", &victim.address.to_string()];
    let calm = stage.right(&send);
    let strangers = flood(&up, &victim.address).await;
    stage.row("receiving", &strangers.said(), &victim);
    let busy = stage.right(&send);
    println!(
        "| {} | a paired device sends 64 MiB: {} | {:.2} s, before {:.2} s | | | |",
        stage.transport,
        calm.0 && busy.0,
        busy.1,
        calm.1
    );
    strangers.end().await;
    drop(victim);

    if let Some(to) = stage.udp() {
        let victim = stage.victim(&["pair", "--yes", "--name", "victim", "--code-file", &path("code-2")], "code");
        let to = to(&victim.address);
        stage.row("before", "", &victim);
        let held: Vec<(gaps::Hole, (usize, usize))> = (0..HOLES)
            .filter_map(|of| {
                let mut hole = gaps::Hole::dial(to, [200 + of; 32])?;
                let filled = hole.fill();
                Some((hole, filled))
            })
            .collect();
        let (streams, bytes) = held.iter().fold((0, 0), |sum, (_, filled)| (sum.0 + filled.0, sum.1 + filled.1));
        let said = format!("{} connections, {streams} streams, {:.1} MiB behind holes", held.len(), bytes as f64 / 1_048_576.0);
        stage.row("holes", &said, &victim);
    }
}

impl Stage<'_> {
    /// Where a transport of QUIC is found.
    fn udp(&self) -> Option<fn(&Address) -> SocketAddr> {
        (self.transport == "iroh").then_some(|address: &Address| address.text.split_once('@').unwrap().1.parse().unwrap())
    }
}

/// In the attacker's namespace.
async fn inside() {
    let built = std::env::current_exe().unwrap();
    let kin = built.parent().unwrap().parent().unwrap().join("kin");
    let dir = std::env::temp_dir().join(format!("kin-flood-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let here = SocketAddr::new(IpAddr::V4(Place::Attacker.ip()), 0);
    println!("| over | against | flood | MiB | peak MiB | descriptors |\n| --- | --- | --- | --- | --- | --- |");
    let stage = |transport| Stage { kin: &kin, dir: dir.join(transport), transport };
    measure(&stage("tcp"), async |_| Tcp::bind(&[here]).unwrap()).await;
    measure(&stage("iroh"), async |of| Iroh::bind(&[of; 32], &[here], IrohConfig::default()).await.unwrap()).await;
    measure(&stage("libp2p"), async |of| Libp2p::bind([of; 32], &[here]).await.unwrap().0).await;
    fs::remove_dir_all(&dir).unwrap();
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("inside") {
        return tokio::runtime::Runtime::new().unwrap().block_on(inside());
    }
    let _lab = namespaces::Lab::build();
    let status = Place::Attacker.command(&std::env::current_exe().unwrap()).arg("inside").status().unwrap();
    assert!(status.success(), "{status}");
}
