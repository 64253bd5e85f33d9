//! Devices that stay friends, over real sockets of every transport: the five problems that the sketch of this protocol had
//! (`pairing-issues`), each with a test of its name; reconnects without end; and both that dial at once.
//!
//! `KIN_CYCLES` asks for more rounds than a test run has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{Events, NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::ids::DeviceId;
use protocol_core::info::Address;
use protocol_core::node::{Confirm, DeviceView};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What no step takes unless something hangs.
const HANGS: Duration = Duration::from_secs(60);

const STACKS: [&str; 3] = ["tcp", "iroh", "libp2p"];

fn cycles(few: usize) -> usize {
    std::env::var("KIN_CYCLES").map_or(few, |cycles| cycles.parse().unwrap())
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let dir = std::env::temp_dir().join(format!("kin-friends-{:016x}", u64::from_ne_bytes(random)));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

async fn start(home: &Path, stack: &str) -> NetworkingService {
    let stack = match stack {
        "iroh" => Iroh::stack(IrohConfig::default()),
        "libp2p" => Libp2p::stack(),
        _ => Stack::tcp(),
    };
    let stacks = vec![stack.at(vec!["127.0.0.1:0".parse().unwrap()])];
    NetworkingService::init_networking(ServiceConfig { stacks, ..ServiceConfig::new(home) }).await.unwrap()
}

async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let found = tokio::time::timeout(HANGS, async {
        loop {
            if let Some(found) = wanted(&events.next().await.expect("the service runs")) {
                return found;
            }
        }
    });
    found.await.expect("the event comes")
}

fn connected(event: &Event) -> Option<()> {
    matches!(event, Event::Device { state: DeviceState::Connected, .. }).then_some(())
}

/// Two devices that are paired and connected.
struct Two {
    a: NetworkingService,
    b: NetworkingService,
    stack: &'static str,
    dir: TempDir,
}

impl Two {
    async fn paired(stack: &'static str) -> Self {
        let dir = TempDir::new();
        let a = start(&dir.0.join("a"), stack).await;
        let b = start(&dir.0.join("b"), stack).await;
        let two = Self { a, b, stack, dir };
        let addresses = two.a.local_addresses().await.unwrap();
        two.pair_at(addresses).await;
        two
    }

    async fn pair_at(&self, addresses: Vec<Address>) {
        let (mut ours, mut theirs) = (self.a.events(), self.b.events());
        let invite = self.a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.unwrap();
        self.b.start_pairing_as_joiner(invite.code, addresses, Confirm::Automatic).await.unwrap();
        wait(&mut ours, |event| matches!(event, Event::PairConfirmed { .. }).then_some(())).await;
        wait(&mut theirs, |event| matches!(event, Event::Answered { .. }).then_some(())).await;
    }

    async fn restart(&mut self) {
        self.a.shutdown().await;
        self.b.shutdown().await;
        self.a = start(&self.dir.0.join("a"), self.stack).await;
        self.b = start(&self.dir.0.join("b"), self.stack).await;
    }

    /// Both have answered on the session that they have: a question from either side comes back.
    async fn both_answer(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let mut events = from.events();
            from.ping(to.identity().id).await.unwrap();
            wait(&mut events, |event| matches!(event, Event::Pong { .. }).then_some(())).await;
        }
    }

    async fn close(self) {
        self.a.shutdown().await;
        self.b.shutdown().await;
    }
}

async fn view(of: &NetworkingService) -> DeviceView {
    of.devices().await.unwrap().pop().expect("paired")
}

/// Live sessions, as the core holds them.
async fn sessions(of: &NetworkingService) -> usize {
    of.look(|node| node.probe_sessions().iter().filter(|session| session.primary).count()).await.unwrap()
}

/// "Double connection": Response and Complete stay on the stream of the request, and that becomes the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_1_one_pairing_takes_one_connection() {
    for stack in STACKS {
        let two = Two::paired(stack).await;
        two.both_answer().await;
        for of in [&two.a, &two.b] {
            assert_eq!(of.connections().await.unwrap(), (1, 1), "{stack}: (open, ever)");
            assert_eq!(view(of).await.sessions, 1, "{stack}");
        }
        two.close().await;
    }
}

/// "Direct addresses not persisted": after both were started anew each side finds the other by what it has stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_2_addresses_are_stored_on_both_sides() {
    for stack in STACKS {
        let mut two = Two::paired(stack).await;
        for from_a in [true, false] {
            two.restart().await;
            let (from, to) = if from_a { (&two.a, &two.b) } else { (&two.b, &two.a) };
            assert!(!view(from).await.addresses.is_empty(), "{stack}");
            let mut events = from.events();
            from.connect(to.identity().id, Vec::new()).await.unwrap();
            wait(&mut events, connected).await;
            two.both_answer().await;
        }
        two.close().await;
    }
}

/// "Connection thrashing": two that stay connected have one session, and it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_3_a_session_stands_and_is_not_made_again() {
    for stack in STACKS {
        let two = Two::paired(stack).await;
        two.a.keep_connected(true).await.unwrap();
        two.b.keep_connected(true).await.unwrap();
        let mut events = two.a.events();
        for _ in 0..50 {
            two.both_answer().await;
        }
        while let Some(event) = events.try_next() {
            assert!(!matches!(event, Event::Device { .. } | Event::ConnectFailed { .. }), "{stack}: {event:?}");
        }
        for of in [&two.a, &two.b] {
            assert_eq!((view(of).await.sessions, of.connections().await.unwrap()), (1, (1, 1)), "{stack}");
        }
        two.close().await;
    }
}

/// "Symmetric session keys": two directions, two keys, each the same at its two ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_4_two_directions_have_two_keys() {
    for stack in STACKS {
        let two = Two::paired(stack).await;
        let prints = |of: &NetworkingService| {
            let of = of.clone();
            async move { of.look(|node| node.probe_sessions().first().map(|session| session.prints)).await.unwrap().expect("a session") }
        };
        let ((a_seals, a_opens), (b_seals, b_opens)) = (prints(&two.a).await, prints(&two.b).await);
        assert_ne!(a_seals, a_opens, "{stack}");
        assert_eq!((a_seals, a_opens), (b_opens, b_seals), "{stack}");
        two.close().await;
    }
}

/// "NodeId connection role conflict": both dial at the same instant, again and again; each time they agree on one session, soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problem_5_both_dial_at_once_and_agree() {
    let cycles = cycles(15);
    for stack in STACKS {
        let mut two = Two::paired(stack).await;
        let mut longest = Duration::ZERO;
        for cycle in 0..cycles {
            apart(&two).await;
            let (mut ours, mut theirs) = (two.a.events(), two.b.events());
            let (a, b) = (two.a.identity().id, two.b.identity().id);
            let begun = Instant::now();
            let dialled = tokio::join!(two.a.connect(b, Vec::new()), two.b.connect(a, Vec::new()));
            (dialled.0.unwrap(), dialled.1.unwrap());
            wait(&mut ours, connected).await;
            wait(&mut theirs, connected).await;
            two.both_answer().await;
            longest = longest.max(begun.elapsed());
            assert_eq!((sessions(&two.a).await, sessions(&two.b).await), (1, 1), "{stack}, cycle {cycle}");
            if cycle % 50 == 49 {
                // What was learnt before a restart must not matter.
                two.restart().await;
                two.a.connect(two.b.identity().id, Vec::new()).await.unwrap();
                wait(&mut two.a.events(), connected).await;
            }
        }
        println!("{stack}: {cycles} times both dialled at once; the longest until both had answered: {longest:?}");
        two.close().await;
    }
}

/// Both sides know that they are not connected.
async fn apart(two: &Two) {
    let (mut ours, mut theirs) = (two.a.events(), two.b.events());
    let gone = |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. }).then_some(());
    two.a.disconnect(two.b.identity().id).await.unwrap();
    wait(&mut ours, gone).await;
    wait(&mut theirs, gone).await;
}

/// A wire on loopback that can be cut: whoever dials it reaches the device behind it.
struct Wire {
    at: Address,
    cut: watch::Sender<u64>,
    carried: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Wire {
    async fn to(device: &Address) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
        let (cut, cuts) = watch::channel(0);
        let (carried, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let (to, counted, passes) = (device.text.clone(), Arc::clone(&carried), Arc::clone(&open));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if passes.load(Ordering::Relaxed) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(carry(near, to.clone(), cuts.clone()));
                }
            }
        });
        Self { at, cut, carried, open }
    }

    fn cut(&self) {
        self.cut.send_modify(|number| *number += 1);
    }
}

/// Carries bytes both ways until the wire is cut: then both ends see a broken connection.
async fn carry(near: TcpStream, to: String, mut cuts: watch::Receiver<u64>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    cuts.mark_unchanged();
    let (mut near_rx, mut near_tx) = near.into_split();
    let (mut far_rx, mut far_tx) = far.into_split();
    let there = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = near_rx.read(&mut bytes).await {
            if far_tx.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
        far_tx.shutdown().await.unwrap_or(());
    };
    let back = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = far_rx.read(&mut bytes).await {
            if near_tx.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
        near_tx.shutdown().await.unwrap_or(());
    };
    tokio::select! {
        _ = cuts.changed() => {}
        _ = async { tokio::join!(there, back) } => {}
    }
}

/// KEEP-2, KEEP-7: sessions are cut again and again; each time one is back by itself, and in the end nothing has grown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_sessions_come_back_and_leave_nothing_behind() {
    let cycles = cycles(40);
    let dir = TempDir::new();
    let (a, b) = (start(&dir.0.join("a"), "tcp").await, start(&dir.0.join("b"), "tcp").await);
    let two = Two { a, b, stack: "tcp", dir };
    let wire = Wire::to(&two.a.local_addresses().await.unwrap()[0]).await;
    two.pair_at(vec![wire.at.clone()]).await;
    two.b.keep_connected(true).await.unwrap();
    let id: DeviceId = two.a.identity().id;
    let mut before = None;
    for cycle in 0..cycles {
        let (mut ours, mut theirs) = (two.a.events(), two.b.events());
        wire.cut();
        wait(&mut theirs, |event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. }).then_some(())).await;
        wait(&mut theirs, connected).await;
        wait(&mut ours, connected).await;
        two.both_answer().await;
        assert_eq!((sessions(&two.a).await, sessions(&two.b).await), (1, 1), "cycle {cycle}");
        if cycle == cycles / 4 {
            before = Some(footprint(&two).await);
        }
        // Only the wire leads there: what a peer says of itself would go round it.
        assert_eq!(view(&two.b).await.id, id);
    }
    let (before, after) = (before.unwrap(), footprint(&two).await);
    println!("{cycles} cuts; descriptors, timers, memory in kB: {before:?} a quarter of the way, {after:?} in the end");
    assert!(after.descriptors <= before.descriptors + 8, "{before:?} {after:?}");
    assert!(after.timers <= before.timers + 8, "{before:?} {after:?}");
    assert!(after.memory_kb <= before.memory_kb + 16 * 1024, "{before:?} {after:?}");
    assert!(wire.carried.load(Ordering::Relaxed) > 0);
    wire.open.store(false, Ordering::Relaxed);
    two.close().await;
}

#[derive(Clone, Copy, Debug)]
struct Footprint {
    descriptors: usize,
    timers: usize,
    memory_kb: usize,
}

async fn footprint(two: &Two) -> Footprint {
    let timers = |of: &NetworkingService| {
        let of = of.clone();
        async move { of.look(|node| node.probe_holdings().timers).await.unwrap() }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Footprint {
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        timers: timers(&two.a).await + timers(&two.b).await,
        memory_kb: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}
