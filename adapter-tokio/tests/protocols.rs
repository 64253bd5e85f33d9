//! Two devices in one process speak a protocol of their own over real sockets.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adapter_tokio::protocol::{Protocol, ProtocolStream};
use adapter_tokio::service::{CallError, Events, NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::faults::OpenError;
use protocol_core::ids::DeviceId;
use protocol_core::limits;
use protocol_core::node::{Access, Confirm, RegisterError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What no step of these stories takes unless something hangs.
const HANGS: Duration = Duration::from_secs(60);

struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Two devices that are paired and connected; the second dialled.
struct Two {
    a: NetworkingService,
    b: NetworkingService,
    _dir: TempDir,
}

async fn start(home: &Path) -> NetworkingService {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = ServiceConfig { stacks: vec![Stack::tcp().at(vec![loopback])], ..ServiceConfig::new(home) };
    NetworkingService::init_networking(config).await.unwrap()
}

async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let found = tokio::time::timeout(HANGS, async {
        loop {
            let event = events.next().await.expect("the service runs");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    });
    found.await.expect("the event comes")
}

async fn connected(events: &mut Events) {
    wait(events, |event| matches!(event, Event::Device { state: DeviceState::Connected, .. }).then_some(())).await;
}

impl Two {
    async fn new(name: &str) -> Self {
        let dir = TempDir(std::env::temp_dir().join(format!("kin-protocols-{}-{name}", std::process::id())));
        fs::create_dir_all(&dir.0).unwrap();
        let (a, b) = (start(&dir.0.join("a")).await, start(&dir.0.join("b")).await);
        let (mut a_events, mut b_events) = (a.events(), b.events());
        let invite = a.start_pairing_as_initiator(limits::CODE_TTL, Confirm::Automatic).await.unwrap();
        let addresses = a.local_addresses().await.unwrap();
        b.start_pairing_as_joiner(invite.code, addresses, Confirm::Automatic).await.unwrap();
        connected(&mut a_events).await;
        connected(&mut b_events).await;
        Self { a, b, _dir: dir }
    }

    fn ids(&self) -> (DeviceId, DeviceId) {
        (self.a.identity().id, self.b.identity().id)
    }

    /// A stream that `b` opens and `a` takes.
    async fn stream(&self, at: &mut Protocol) -> (ProtocolStream, ProtocolStream) {
        let name = at.name().to_owned();
        let (opened, taken) = tokio::join!(self.b.open_protocol(self.ids().0, &name), at.next());
        (opened.unwrap(), taken.unwrap())
    }

    async fn end(self) {
        tokio::join!(self.a.shutdown(), self.b.shutdown());
    }
}

fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + seed * 7 + at / 251) % 256).unwrap()).collect()
}

/// Says everything, while everything is read.
async fn exchange(stream: ProtocolStream, says: Vec<u8>) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let says = async move {
        to.write_all(&says).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let ((), got) = tokio::join!(says, from.read_to_end(&mut heard));
    got.unwrap();
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// CUST-1, CUST-5.
async fn bytes_go_both_ways_at_once_and_either_side_opens() {
    let two = Two::new("both").await;
    let (a, b) = two.ids();
    let mut at_a = two.a.register_protocol("example/1", Access::Paired).await.unwrap();
    let mut at_b = two.b.register_protocol("example/1", Access::Paired).await.unwrap();
    assert_eq!(
        two.a.register_protocol("example/1", Access::Paired).await.unwrap_err(),
        CallError::Refused(RegisterError::Taken),
        "one name, one protocol"
    );
    let (ours, theirs) = (content(10 << 20, 1), content(10 << 20, 2));
    let (opened, taken) = two.stream(&mut at_a).await;
    assert_eq!((opened.device(), taken.device(), taken.name()), (a, b, "example/1"));
    let (heard_b, heard_a) = tokio::join!(exchange(opened, ours.clone()), exchange(taken, theirs.clone()));
    assert!(heard_a == ours && heard_b == theirs);
    // The side that was dialled opens too: where the other says that it listens.
    let (opened, taken) = tokio::join!(two.a.open_protocol(b, "example/1"), at_b.next());
    let (heard_a, heard_b) = tokio::join!(exchange(opened.unwrap(), b"ping".to_vec()), exchange(taken.unwrap(), b"pong".to_vec()));
    assert_eq!((&heard_a[..], &heard_b[..]), (&b"pong"[..], &b"ping"[..]));
    two.end().await;
    assert!(at_a.next().await.is_none(), "nothing comes from a service that has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// CUST-2, CUST-3.
async fn who_does_not_speak_it_says_no() {
    let two = Two::new("no").await;
    let (a, b) = two.ids();
    let refused = |name: &'static str| async { two.b.open_protocol(a, name).await.unwrap_err() };
    assert_eq!(refused("nobody/1").await, CallError::Refused(OpenError::Refused));
    let _secret = two.a.register_protocol("secret/1", Access::Permitted).await.unwrap();
    assert_eq!(refused("secret/1").await, CallError::Refused(OpenError::Refused));
    assert_eq!(refused("").await, CallError::Refused(OpenError::Name));
    let unknown = two.a.open_protocol(DeviceId([9; 16]), "x").await.unwrap_err();
    assert_eq!(unknown, CallError::Refused(OpenError::UnknownDevice));
    // Registered and dropped again: spoken no more.
    let mut open = two.a.register_protocol("open/1", Access::Paired).await.unwrap();
    let (opened, taken) = two.stream(&mut open).await;
    drop(open);
    assert_eq!(refused("open/1").await, CallError::Refused(OpenError::Refused));
    // What is open goes on.
    let (heard, _) = tokio::join!(exchange(opened, b"still".to_vec()), exchange(taken, b"here".to_vec()));
    assert_eq!(heard, b"here");
    let mut events = [two.a.events(), two.b.events()];
    two.b.disconnect(a).await.unwrap();
    for events in &mut events {
        wait(events, |event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. }).then_some(())).await;
    }
    assert_eq!(refused("open/1").await, CallError::Refused(OpenError::NotConnected));
    assert_eq!(two.a.open_protocol(b, "x").await.unwrap_err().to_string(), OpenError::NotConnected.to_string());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// CUST-4, CUST-7.
async fn a_stream_that_is_cut_is_an_error_on_both_sides() {
    let two = Two::new("cut").await;
    let (a, b) = two.ids();
    let mut at_a = two.a.register_protocol("example/1", Access::Paired).await.unwrap();
    // One side lets go in the middle.
    let (mut opened, mut taken) = two.stream(&mut at_a).await;
    opened.write_all(b"half of it").await.unwrap();
    let mut half = [0; 10];
    taken.read_exact(&mut half).await.unwrap();
    drop(opened);
    let error = taken.read(&mut half).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error:?}");
    // One forgets the other in the middle: nothing more comes, there or here.
    let (mut opened, mut taken) = two.stream(&mut at_a).await;
    opened.write_all(b"half of it").await.unwrap();
    taken.read_exact(&mut half).await.unwrap();
    two.a.forget_device(b).await.unwrap();
    let error = taken.read(&mut half).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(opened.read(&mut half).await.is_err());
    assert!(taken.write_all(b"more").await.is_err());
    assert!(two.b.open_protocol(a, "example/1").await.is_err());
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// CUST-7.
async fn nothing_more_is_heard_of_a_device_that_was_forgotten() {
    let two = Two::new("forgotten").await;
    let (_, b) = two.ids();
    let mut at_a = two.a.register_protocol("example/1", Access::Paired).await.unwrap();
    let (mut opened, mut taken) = two.stream(&mut at_a).await;
    // One side has said all, and only listens: behind a goodbye it would hear this.
    taken.shutdown().await.unwrap();
    two.a.forget_device(b).await.unwrap();
    drop(opened.write_all(b"too late").await);
    assert_eq!(taken.read(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// CUST-6.
async fn a_device_has_so_many_streams_and_no_more() {
    let two = Two::new("many").await;
    let (a, b) = two.ids();
    let mut at_a = two.a.register_protocol("example/1", Access::Paired).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..limits::PROTOCOL_STREAMS {
        streams.push(two.stream(&mut at_a).await);
    }
    assert_eq!(two.b.open_protocol(a, "example/1").await.unwrap_err(), CallError::Refused(OpenError::TooMany));
    assert_eq!(two.a.open_protocol(b, "example/1").await.unwrap_err(), CallError::Refused(OpenError::TooMany));
    let (opened, taken) = streams.swap_remove(0);
    tokio::join!(exchange(opened, Vec::new()), exchange(taken, Vec::new()));
    // That one is over for its device when the loop has heard of it.
    let again = tokio::time::timeout(HANGS, async {
        loop {
            match two.b.open_protocol(a, "example/1").await {
                Err(CallError::Refused(OpenError::TooMany | OpenError::Refused)) => tokio::task::yield_now().await,
                opened => return opened,
            }
        }
    });
    again.await.unwrap().unwrap();
    two.end().await;
}
