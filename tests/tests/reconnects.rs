//! Sessions that are cut again and again. Alone in its process, whose sockets it cuts and counts.
//!
//! `KIN_CYCLES` asks for more cuts than a test run has.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use adapter_iroh::{Iroh, IrohConfig, IrohConnection};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{NetworkingService, Stack};
use adapter_tokio::transport::{Connection, Transport};
use kin_tests::services::{TempDir, both_answer, pair, start, state};
use protocol_core::effects::{DeviceState, Remote};
use protocol_core::identity::NetworkIdentity;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use protocol_core::limits;
use rustix::net::{Shutdown, SocketType, getpeername, shutdown, sockopt};

/// Cuts of a test run.
const CYCLES: usize = 30;

/// Ends every stream of TCP that this process has, in both directions and at once. How many that were.
#[expect(unsafe_code, reason = "descriptors that belong to others are named by number")]
fn cut_every_stream() -> usize {
    let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    let mut cut = 0;
    for number in numbers.collect::<Vec<i32>>() {
        // SAFETY: it is used within this turn; one that was closed meanwhile, or is another by now, is none of ours to harm: a socket
        // of this process's own test.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM);
        let inet = sockopt::socket_domain(socket).is_ok_and(|domain| domain == rustix::net::AddressFamily::INET);
        if stream && inet && getpeername(socket).is_ok() && shutdown(socket, Shutdown::Both).is_ok() {
            cut += 1;
        }
    }
    cut
}

/// The connections over Iroh that stand. There is no socket for each, as with TCP: they are closed beside the Nodes instead.
static QUIC: Mutex<Vec<Weak<IrohConnection>>> = Mutex::new(Vec::new());

/// Closes every connection over Iroh, of which no Node is told by anything else than that. How many that were.
fn cut_every_connection() -> usize {
    let standing = std::mem::take(&mut *QUIC.lock().unwrap());
    let standing: Vec<_> = standing.iter().filter_map(Weak::upgrade).collect();
    standing.iter().for_each(|conn| conn.close(7));
    standing.len()
}

/// Iroh, with connections that are known here too.
struct Known(Iroh);

/// One of them.
struct KnownConnection(Arc<IrohConnection>);

impl KnownConnection {
    fn new(conn: IrohConnection) -> Self {
        let conn = Arc::new(conn);
        QUIC.lock().unwrap().push(Arc::downgrade(&conn));
        Self(conn)
    }
}

impl Known {
    fn stack() -> Stack {
        Stack::new(TransportKind::Iroh, |identity: &NetworkIdentity, bind: Vec<SocketAddr>| {
            let seed = identity.iroh_seed().duplicate();
            async move {
                let iroh = Iroh::bind(seed.bytes(), &bind, IrohConfig::default()).await?;
                let ports = iroh.bound().iter().map(SocketAddr::port).collect();
                Ok((Self(iroh), ports))
            }
        })
    }
}

impl Transport for Known {
    type Conn = KnownConnection;

    fn kind(&self) -> TransportKind {
        self.0.kind()
    }

    fn local(&self) -> TransportInfo {
        self.0.local()
    }

    async fn dial(&self, to: &Address) -> io::Result<KnownConnection> {
        self.0.dial(to).await.map(KnownConnection::new)
    }

    async fn accept(&self) -> io::Result<KnownConnection> {
        self.0.accept().await.map(KnownConnection::new)
    }

    async fn changed(&self) {
        self.0.changed().await;
    }

    async fn close(&self) {
        self.0.close().await;
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Connection for KnownConnection {
    type Tx = <IrohConnection as Connection>::Tx;
    type Rx = <IrohConnection as Connection>::Rx;

    fn remote(&self) -> Remote {
        self.0.remote()
    }

    async fn open(&self) -> io::Result<(Self::Tx, Self::Rx)> {
        self.0.open().await
    }

    async fn accept(&self) -> io::Result<(Self::Tx, Self::Rx)> {
        self.0.accept().await
    }

    async fn moved(&self) -> String {
        self.0.moved().await
    }

    fn close(&self, code: u32) {
        self.0.close(code);
    }
}

#[derive(Clone, Copy, Debug)]
struct Footprint {
    connections: usize,
    streams: usize,
    descriptors: usize,
    timers: usize,
    tasks: usize,
    memory_kb: usize,
}

async fn footprint(a: &NetworkingService, b: &NetworkingService) -> Footprint {
    let (mut timers, mut streams, mut connections) = (0, 0, 0);
    for of in [a, b] {
        let holdings = of.look(|node| (node.probe_holdings().timers, node.probe_holdings().streams.0)).await.unwrap();
        timers += holdings.0;
        streams += holdings.1;
        connections += of.connections().await.unwrap().0;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Footprint {
        connections,
        streams,
        descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        timers,
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        memory_kb: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// A transport's name, what starts it, and what cuts all its connections.
type Kind = (&'static str, fn() -> Stack, fn() -> usize);

/// KEEP-4, KEEP-7: each time one session is back, on both sides the same, and in the end nothing has grown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_sessions_come_back_and_leave_nothing_behind() {
    let cycles = std::env::var("KIN_CYCLES").map_or(CYCLES, |cycles| cycles.parse().unwrap());
    let kinds: [Kind; 3] =
        [("tcp", Stack::tcp, cut_every_stream), ("libp2p", Libp2p::stack, cut_every_stream), ("iroh", Known::stack, cut_every_connection)];
    for (name, stack, cut_all) in kinds {
        let dir = TempDir::new("reconnects");
        let (a, b) = (start(&dir.path("a"), stack()).await, start(&dir.path("b"), stack()).await);
        pair(&a, &b).await;
        a.keep_connected(true).await.unwrap();
        b.keep_connected(true).await.unwrap();
        let mut before = None;
        for cycle in 0..cycles {
            let (mut ours, mut theirs) = (a.events(), b.events());
            assert!(cut_all() > 0);
            for events in [&mut ours, &mut theirs] {
                state(events, DeviceState::Disconnected).await;
            }
            // Sessions that are cut at once are made again ever more slowly, unless a person asks.
            b.connect(a.identity().id, Vec::new()).await.unwrap();
            for events in [&mut ours, &mut theirs] {
                state(events, DeviceState::Connected).await;
            }
            both_answer(&a, &b).await;
            let mut refs = Vec::new();
            for of in [&a, &b] {
                let held = of.look(|node| node.probe_sessions().into_iter().filter(|session| session.primary).collect::<Vec<_>>());
                refs.push(held.await.unwrap().iter().map(|session| session.session_ref).collect::<Vec<_>>());
            }
            assert!(refs[0].len() == 1 && refs[0] == refs[1], "{name}, cycle {cycle}: {refs:?}");
            if cycle == cycles / 4 {
                before = Some(footprint(&a, &b).await);
            }
        }
        let before = before.unwrap();
        let mut after = footprint(&a, &b).await;
        // The tasks of the last connections end when their sockets do.
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..500 {
            if after.tasks <= before.tasks + 8 && after.descriptors <= before.descriptors + 8 {
                break;
            }
            looks.tick().await;
            after = footprint(&a, &b).await;
        }
        println!("{name}: {cycles} cuts; a quarter of the way {before:?}, in the end {after:?}");
        assert!(after.connections == 2 && after.streams <= 4, "{name}: {before:?} {after:?}");
        assert!(after.descriptors <= before.descriptors + 8, "{name}: {before:?} {after:?}");
        assert!(after.tasks <= before.tasks + 8, "{name}: {before:?} {after:?}");
        // The secrets of sessions that are over wait to be erased: of so many, each with its timer, on both sides.
        assert!(after.timers <= before.timers + 2 * limits::SESSIONS_OVER, "{name}: {before:?} {after:?}");
        assert!(after.memory_kb <= before.memory_kb + 16 * 1024, "{name}: {before:?} {after:?}");
        a.shutdown().await;
        b.shutdown().await;
    }
}
