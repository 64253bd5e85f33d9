//! How long two devices take to pair over each network stack, from the joiner's start to the session that stands: on the loopback
//! interface, with stores on tmpfs, both in one process and nobody to ask.
//!
//! ```sh
//! cargo run --release -p kin-tests --example bench-pairing [ROUNDS]
//! ```
//!
//! Beside each the time that the stack alone takes to connect and to carry a byte there and one back.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{NetworkingService, ServiceConfig, Stack};
use adapter_tokio::transport::{Connection as _, Rx as _, Transport as _, Tx as _};
use kin_tests::conformance::stacks::{Bare, Noise, Quic};
use kin_tests::conformance::{Bench, must};
use kin_tests::figures::Figure;
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::Confirm;

async fn device(home: PathBuf, stack: Stack) -> NetworkingService {
    let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = ServiceConfig { stacks: vec![stack.at(vec![here])], ..ServiceConfig::new(home) };
    NetworkingService::init_networking(config).await.unwrap()
}

/// Milliseconds until the joiner has a session.
async fn pairing(dir: &Path, stack: fn() -> Stack) -> f64 {
    let (a, b) = (device(dir.join("a"), stack()).await, device(dir.join("b"), stack()).await);
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.unwrap();
    let at = a.local_addresses().await.unwrap();
    let mut events = b.events();
    let started = Instant::now();
    b.start_pairing_as_joiner(invite.code, at, Confirm::Automatic).await.unwrap();
    let connected = async {
        loop {
            match events.next().await.unwrap() {
                Event::Device { state: DeviceState::Connected, .. } => return started.elapsed(),
                Event::PairFailed { reason, .. } => panic!("{reason:?}"),
                _ => {}
            }
        }
    };
    let taken = must("pairing", connected).await;
    a.shutdown().await;
    b.shutdown().await;
    for home in ["a", "b"] {
        fs::remove_dir_all(dir.join(home)).unwrap();
    }
    taken.as_secs_f64() * 1000.0
}

/// Milliseconds for a connection, a stream, a byte there and a byte back.
async fn connecting<B: Bench>() -> f64 {
    let (dialler, listener) = (B::up(1).await, B::up(2).await);
    let at = B::address(&listener);
    let started = Instant::now();
    let there = async {
        let conn = dialler.dial(&at).await.unwrap();
        let (mut tx, mut rx) = conn.open().await.unwrap();
        tx.write_all(&[1]).await.unwrap();
        assert_eq!(rx.read(&mut [0]).await.unwrap(), 1);
        let taken = started.elapsed();
        conn.close(0);
        taken
    };
    let back = async {
        let conn = listener.accept().await.unwrap();
        let (mut tx, mut rx) = conn.accept().await.unwrap();
        assert_eq!(rx.read(&mut [0]).await.unwrap(), 1);
        tx.write_all(&[2]).await.unwrap();
        // Held until the other side has it and closes.
        drop(rx.read(&mut [0]).await);
        drop(tx);
    };
    let (taken, ()) = must("connecting", async { tokio::join!(there, back) }).await;
    for transport in [dialler, listener] {
        transport.shutdown().await;
    }
    taken.as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().nth(1).map_or(21, |rounds| rounds.parse().unwrap());
    let dir = Path::new("/dev/shm").join(format!("kin-pairing-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let (mut pairings, mut connects) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
    for _ in 0..rounds {
        pairings[0].push(pairing(&dir, Stack::tcp).await);
        pairings[1].push(pairing(&dir, || Iroh::stack(IrohConfig::default())).await);
        pairings[2].push(pairing(&dir, Libp2p::stack).await);
        connects[0].push(connecting::<Bare>().await);
        connects[1].push(connecting::<Quic>().await);
        connects[2].push(connecting::<Noise>().await);
    }
    fs::remove_dir_all(&dir).unwrap();
    println!("| pairing over | ms | of them the stack's own | ÷ tcp |\n| --- | --- | --- | --- |");
    for (at, name) in ["tcp", "iroh", "libp2p"].into_iter().enumerate() {
        let ratio = Figure::ratio(&pairings[at], &pairings[0]);
        println!("| {name} | {:.1} | {:.1} | {ratio} |", Figure::of(pairings[at].clone()), Figure::of(connects[at].clone()));
    }
}
