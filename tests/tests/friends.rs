//! Devices that stay friends, over real sockets of every transport: the five problems that the sketch of this protocol had
//! (`pairing-issues`), each with a test of its name.
//!
//! `KIN_CYCLES` asks for more rounds than a test run has.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{Events, NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::{Confirm, DeviceView};

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
        two.pair().await;
        two
    }

    async fn pair(&self) {
        let addresses = self.a.local_addresses().await.unwrap();
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
            let (mut ours, mut theirs) = (from.events(), to.events());
            from.connect(to.identity().id, Vec::new()).await.unwrap();
            wait(&mut ours, connected).await;
            wait(&mut theirs, connected).await;
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
            dialled.0.and(dialled.1).unwrap();
            wait(&mut ours, connected).await;
            wait(&mut theirs, connected).await;
            two.both_answer().await;
            longest = longest.max(begun.elapsed());
            assert_eq!((sessions(&two.a).await, sessions(&two.b).await), (1, 1), "{stack}, cycle {cycle}");
            if cycle % 50 == 49 {
                // What was learnt before a restart must not matter.
                two.restart().await;
                let (mut ours, mut theirs) = (two.a.events(), two.b.events());
                two.a.connect(two.b.identity().id, Vec::new()).await.unwrap();
                wait(&mut ours, connected).await;
                wait(&mut theirs, connected).await;
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
