//! Devices that stay friends, over real sockets of every transport: the five problems that the sketch of this protocol had
//! (`pairing-issues`), each with a test of its name.
//!
//! `KIN_CYCLES` asks for more rounds than a test run has.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::time::{Duration, Instant};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{NetworkingService, Stack};
use kin_tests::services::{self, TempDir, wait};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::DeviceView;

const STACKS: [&str; 3] = ["tcp", "iroh", "libp2p"];

fn cycles(few: usize) -> usize {
    std::env::var("KIN_CYCLES").map_or(few, |cycles| cycles.parse().unwrap())
}

async fn start(home: &Path, stack: &str) -> NetworkingService {
    let stack = match stack {
        "iroh" => Iroh::stack(IrohConfig::default()),
        "libp2p" => Libp2p::stack(),
        _ => Stack::tcp(),
    };
    services::start(home, stack).await
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
        let dir = TempDir::new("friends");
        let a = start(&dir.path("a"), stack).await;
        let b = start(&dir.path("b"), stack).await;
        let two = Self { a, b, stack, dir };
        services::pair(&two.a, &two.b).await;
        two
    }

    async fn restart(&mut self) {
        self.a.shutdown().await;
        self.b.shutdown().await;
        self.a = start(&self.dir.path("a"), self.stack).await;
        self.b = start(&self.dir.path("b"), self.stack).await;
    }

    async fn both_answer(&self) {
        services::both_answer(&self.a, &self.b).await;
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
