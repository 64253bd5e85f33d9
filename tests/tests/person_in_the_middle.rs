//! Somebody stands between two devices, with keys of its own: it accepts the one over Noise or QUIC, dials the other, and passes every
//! byte on. The transports are content; the handshake is bound to what each side sees of its connection, and is not (section 6.2).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, io};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::service::{BoxTransport, Events, NetworkingService, ServiceConfig, Stack};
use adapter_tokio::transport::{Connection, Rx, Transport, Tx};
use kin_tests::conformance::stacks::{Noise, Quic};
use kin_tests::conformance::{Bench, address, must};
use protocol_core::crypto::kdf::mac;
use protocol_core::effects::Event;
use protocol_core::faults::PairFailure;
use protocol_core::info::{Address, Binding, BindingKind, TransportInfo, TransportKind};
use protocol_core::node::Confirm;
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::handshake::schedule::{Role, after_request, prologue};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::handshake::PairingRequest;

/// A place for homes, gone with it.
struct Homes(PathBuf);

impl Homes {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kin-middle-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    async fn device(&self, name: &str, stack: Stack) -> NetworkingService {
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let stacks = vec![stack.at(vec![here])];
        let config = ServiceConfig { name: Some(name.to_owned()), stacks, ..ServiceConfig::new(self.0.join(name)) };
        NetworkingService::init_networking(config).await.unwrap()
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

/// What the one in the middle does, and what it hears.
struct Middle<T> {
    transport: T,
    victim: Address,
    /// The code, if it has it: it makes the request right for its own connection.
    code: Option<CodeKeys>,
    /// Bytes that the victim answered.
    answered: AtomicUsize,
}

impl<T: Transport> Middle<T> {
    /// Relays every connection and every stream.
    async fn run(self: Arc<Self>) {
        while let Ok(conn) = self.transport.accept().await {
            let middle = Arc::clone(&self);
            tokio::spawn(async move {
                let onward = middle.transport.dial(&middle.victim).await.unwrap();
                while let (Ok(near), Ok(far)) = (conn.accept().await, onward.open().await) {
                    middle.stream(near, far, &onward).await;
                }
            });
        }
    }

    async fn stream<C: Connection>(
        &self,
        (mut near_tx, mut near_rx): (C::Tx, C::Rx),
        (mut far_tx, mut far_rx): (C::Tx, C::Rx),
        onward: &C,
    ) {
        let there = async {
            if let Some(code) = &self.code {
                let opening = self.meddle(code, &mut near_rx, onward).await.unwrap();
                far_tx.write_all(&opening).await.unwrap();
            }
            copy(&mut near_rx, &mut far_tx, &AtomicUsize::new(0)).await;
        };
        tokio::join!(there, copy(&mut far_rx, &mut near_tx, &self.answered));
    }

    /// Takes preamble and request, and puts the tag on that fits the connection to the victim.
    async fn meddle<C: Connection>(&self, code: &CodeKeys, from: &mut C::Rx, onward: &C) -> io::Result<Vec<u8>> {
        let mut preamble = vec![0; StreamName::Pair.preamble().len()];
        read_exact(from, &mut preamble).await?;
        let mut length = [0; 4];
        read_exact(from, &mut length).await?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        read_exact(from, &mut body).await?;
        let mut request = PairingRequest::decode(&body).unwrap();
        let there = onward.remote();
        let kind = if there.kind == TransportKind::Iroh { BindingKind::IrohX } else { BindingKind::Libp2p };
        let binding = Binding { kind, own: there.id, remote: self.transport.local().id, exporter: there.exporter };
        request.tag = mac(&code.request_mac, &after_request(&prologue(&code.session_id, &binding, Role::Initiator), &request));
        Ok([preamble, length.to_vec(), request.encode()].concat())
    }
}

async fn read_exact(from: &mut impl Rx, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match from.read(into).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => into = &mut into[count..],
        }
    }
    Ok(())
}

async fn copy(from: &mut impl Rx, to: &mut impl Tx, count: &AtomicUsize) {
    let mut buffer = vec![0; 65_536];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return to.finish().await.unwrap_or(()),
            Ok(some) => {
                count.fetch_add(some, Ordering::Relaxed);
                if to.write_all(&buffer[..some]).await.is_err() {
                    return from.stop(0);
                }
            }
            Err(_) => return to.reset(0),
        }
    }
}

async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = events.next().await.expect("the service goes on");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    must("an event", found).await
}

/// B is led to the one in the middle, which leads on to A: nobody pairs with anybody, and the code is as good as before.
async fn between<B: Bench>(name: &str, stack: fn() -> Stack, holds_code: bool) {
    let homes = Homes::new(&format!("{name}-{holds_code}"));
    let (a, b) = (homes.device("a", stack()).await, homes.device("b", stack()).await);
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.unwrap();
    let right = a.local_addresses().await.unwrap();
    let middle = Arc::new(Middle {
        transport: B::up(9).await,
        victim: right[0].clone(),
        code: holds_code.then(|| CodeKeys::derive(&invite.code)),
        answered: AtomicUsize::new(0),
    });
    let relaying = tokio::spawn(Arc::clone(&middle).run());
    let words = invite.code.words().join(" ");
    let again = protocol_core::pairing::code::PairingCode::parse(&words).unwrap();

    let mut events = b.events();
    b.start_pairing_as_joiner(invite.code, vec![address(&middle.transport)], Confirm::Automatic).await.unwrap();
    let reason = wait(&mut events, |event| match event {
        Event::PairFailed { reason, .. } => Some(*reason),
        Event::Paired { .. } => panic!("paired through somebody else"),
        _ => None,
    });
    assert_eq!(reason.await, PairFailure::NotAccepted);
    // Who lacks the code is not answered at all; who has it gets a Challenge, which B does not believe.
    assert_eq!(middle.answered.load(Ordering::Relaxed) > 0, holds_code);
    assert!(a.devices().await.unwrap().is_empty() && b.devices().await.unwrap().is_empty(), "something was stored");

    // The right device at the right address: the same code still works.
    b.start_pairing_as_joiner(again, right, Confirm::Automatic).await.unwrap();
    let device = wait(&mut events, |event| match event {
        Event::Paired { peer, .. } => Some(peer.device),
        Event::PairFailed { reason, .. } => panic!("{reason}"),
        _ => None,
    });
    let device = device.await;
    assert_eq!(device, a.identity().id);

    // A reconnect that is led astray is not answered either; the device is found where it is.
    let answered = middle.answered.load(Ordering::Relaxed);
    b.disconnect(device).await.unwrap();
    let gone =
        |event: &Event| matches!(event, Event::Device { state: protocol_core::effects::DeviceState::Disconnected, .. }).then_some(());
    wait(&mut events, gone).await;
    b.connect(device, vec![address(&middle.transport)]).await.unwrap();
    let up = |event: &Event| matches!(event, Event::Device { state: protocol_core::effects::DeviceState::Connected, .. }).then_some(());
    wait(&mut events, up).await;
    assert_eq!(middle.answered.load(Ordering::Relaxed), answered, "a Hello through somebody else was answered");

    relaying.abort();
    a.shutdown().await;
    b.shutdown().await;
    middle.transport.shutdown().await;
}

/// A transport that says that it is somebody else.
struct Liar<T> {
    transport: T,
    id: Vec<u8>,
}

impl<T: Transport> Transport for Liar<T> {
    type Conn = T::Conn;

    fn kind(&self) -> TransportKind {
        self.transport.kind()
    }

    fn local(&self) -> TransportInfo {
        TransportInfo { id: self.id.clone(), ..self.transport.local() }
    }

    async fn dial(&self, to: &Address) -> io::Result<T::Conn> {
        self.transport.dial(to).await
    }

    async fn accept(&self) -> io::Result<T::Conn> {
        self.transport.accept().await
    }

    async fn close(&self) {
        self.transport.close().await;
    }

    async fn shutdown(&self) {
        self.transport.shutdown().await;
    }
}

/// B has the code, and says that it is C on the transport, where it has another key.
async fn claims_the_id_of_another<B: Bench>(name: &str, stack: fn() -> Stack) {
    let homes = Homes::new(&format!("{name}-liar"));
    let a = homes.device("a", stack()).await;
    let other = B::up(3).await;
    let liar = Liar { transport: B::up(2).await, id: other.local().id };
    let config = ServiceConfig { stacks: Vec::new(), transports: vec![BoxTransport::new(liar)], ..ServiceConfig::new(homes.0.join("b")) };
    let b = NetworkingService::init_networking(config).await.unwrap();
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.unwrap();
    let mut events = b.events();
    b.start_pairing_as_joiner(invite.code, a.local_addresses().await.unwrap(), Confirm::Automatic).await.unwrap();
    let reason = wait(&mut events, |event| match event {
        Event::PairFailed { reason, .. } => Some(*reason),
        Event::Paired { .. } => panic!("paired under the id of another"),
        _ => None,
    });
    assert_eq!(reason.await, PairFailure::NotAccepted);
    assert!(a.devices().await.unwrap().is_empty() && b.devices().await.unwrap().is_empty(), "something was stored");
    a.shutdown().await;
    b.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_another_endpoint_of_iroh() {
    claims_the_id_of_another::<Quic>("iroh", iroh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_another_peer_of_libp2p() {
    claims_the_id_of_another::<Noise>("libp2p", Libp2p::stack).await;
}

fn iroh() -> Stack {
    Iroh::stack(IrohConfig::default())
}

// PAIR-8, PAIR-21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_endpoints_of_iroh() {
    between::<Quic>("iroh", iroh, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_endpoints_of_iroh_with_the_code() {
    between::<Quic>("iroh", iroh, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_peers_of_libp2p() {
    between::<Noise>("libp2p", Libp2p::stack, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_peers_of_libp2p_with_the_code() {
    between::<Noise>("libp2p", Libp2p::stack, true).await;
}
