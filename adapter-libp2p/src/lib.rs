//! kin over [libp2p](https://docs.rs/libp2p): TCP, Noise and Yamux, and with the feature `quic` its QUIC beside that, at the UDP port of
//! the same number.
//!
//! [`Libp2p`] is the transport: with a swarm of its own ([`Libp2p::bind`]), or as a part of the embedder's ([`Libp2p::shared`]).
//! Nothing but the addresses that are given is ever contacted.
//!
//! What a stream over TCP cannot do here: say that it was cut. A reset, and a connection that breaks, may read as an end; the protocol
//! has ends of its own (PROTOCOL.md, DATA-12).
#![forbid(unsafe_code)]

mod behaviour;
mod handler;
pub mod kademlia;
mod link;
mod streams;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adapter_tokio::service::Stack;
use adapter_tokio::transport::Transport;
use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use protocol_core::identity::NetworkIdentity;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::behaviour::UnifiedBehaviour;
pub use self::handler::Handler;
pub use self::link::{Libp2pConnection, Libp2pRx, Libp2pTx};
pub use self::streams::Streams;
use self::streams::{Command, Ends, Listening, Raw};

/// How long a connection stays that nobody uses.
const IDLE: Duration = Duration::from_secs(10);
/// After so long without a packet a connection of QUIC is dead.
#[cfg(feature = "quic")]
const QUIC_IDLE: Duration = Duration::from_secs(15);
/// How often one that is silent is kept alive.
#[cfg(feature = "quic")]
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the system may take to say where it listens.
const LISTEN: Duration = Duration::from_secs(5);
/// How long the first address is awaited where all interfaces are listened at.
const FIRST: Duration = Duration::from_millis(500);
/// How long connections may take to close at the end.
const CLOSE: Duration = Duration::from_secs(1);
/// Streams of a remote on a connection whose protocol is not agreed on yet.
const NEGOTIATING: usize = 32;
/// Streams that a side opens on a connection and still has; it is given no more.
const STREAMS: usize = 128;
/// Streams on a connection, of both sides. The library ends a connection on which one more comes, and the other side may have lost one that
/// is still here: so there is room for as many again.
const MOST_STREAMS: usize = 3 * STREAMS;

/// The libp2p transport.
#[derive(Debug)]
pub struct Libp2p {
    peer: PeerId,
    commands: mpsc::UnboundedSender<Command>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Raw>>,
    listening: Arc<Listening>,
    /// What [`Transport::changed`] waits for.
    moved: tokio::sync::Mutex<watch::Receiver<()>>,
    closed: watch::Sender<bool>,
    /// The task of a swarm of our own, and what ends it.
    swarm: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Libp2p {
    /// The stack for [`ServiceConfig::stacks`](adapter_tokio::service::ServiceConfig::stacks): a swarm under the device's own key.
    pub fn stack() -> Stack {
        Stack::new(TransportKind::Libp2p, |identity: &NetworkIdentity, bind| {
            let seed = identity.libp2p_seed().duplicate();
            async move { Self::bind(*seed.bytes(), &bind).await }
        })
    }

    /// A swarm of our own under the Ed25519 key of `seed`, listening on every one of `at`; with none it only dials. With it come the
    /// ports that it has.
    ///
    /// # Errors
    /// `AddrInUse` if a port is taken; else what the system says.
    pub async fn bind(seed: [u8; 32], at: &[SocketAddr]) -> io::Result<(Self, Vec<u16>)> {
        let keys = Keypair::ed25519_from_bytes(seed).map_err(io::Error::other)?;
        let (streams, ends) = Streams::new(true);
        let mut swarm = swarm(keys, streams)?;
        let ports = listen(&mut swarm, at).await?;
        let transport = Self::new(*swarm.local_peer_id(), ends);
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(drive(swarm, ended));
        *transport.swarm.lock().unwrap_or_else(PoisonError::into_inner) = Some((end, task));
        Ok((transport, ports))
    }

    /// For a swarm of the embedder's, which is `peer`: [`Streams`] goes into its behaviour, and the embedder listens, polls and in the
    /// end drops the swarm. Connections that others use too are not closed.
    pub fn shared(peer: PeerId) -> (Self, Streams) {
        let (streams, ends) = Streams::new(false);
        (Self::new(peer, ends), streams)
    }

    fn new(peer: PeerId, ends: Ends) -> Self {
        let Ends { commands, incoming, listening } = ends;
        let incoming = tokio::sync::Mutex::new(incoming);
        let moved = tokio::sync::Mutex::new(listening.changed.subscribe());
        Self { peer, commands, incoming, listening, moved, closed: watch::Sender::new(false), swarm: Mutex::new(None) }
    }

    /// Who we are on libp2p.
    pub const fn peer(&self) -> PeerId {
        self.peer
    }

    fn connection(&self, raw: Raw) -> Libp2pConnection {
        Libp2pConnection::new(raw, self.commands.clone())
    }
}

impl Drop for Libp2p {
    fn drop(&mut self) {
        if let Some((end, _)) = self.swarm.lock().unwrap_or_else(PoisonError::into_inner).take() {
            end.send(()).unwrap_or(());
        }
    }
}

fn swarm(keys: Keypair, streams: Streams) -> io::Result<Swarm<UnifiedBehaviour>> {
    let public = keys.public();
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MOST_STREAMS);
        config
    };
    let builder = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, muxer)
        .map_err(io::Error::other)?;
    #[cfg(feature = "quic")]
    let builder = {
        // The library writes the keys of every connection into the file that this names, and does not let itself be told not to.
        if std::env::var_os("SSLKEYLOGFILE").is_some() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "SSLKEYLOGFILE is set, and QUIC of libp2p would write the keys of its connections there: unset it and start again",
            ));
        }
        builder.with_quic_config(|mut config| {
            config.max_concurrent_stream_limit = u32::try_from(STREAMS).unwrap_or(u32::MAX);
            config.max_idle_timeout = u32::try_from(QUIC_IDLE.as_millis()).unwrap_or(u32::MAX);
            config.keep_alive_interval = QUIC_KEEP_ALIVE;
            config
        })
    };
    let swarm = builder
        .with_behaviour(|_| UnifiedBehaviour::new(public, streams))
        .map_err(|never| match never {})
        .unwrap_or_else(|never: std::convert::Infallible| match never {})
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE).with_max_negotiating_inbound_streams(NEGOTIATING))
        .build();
    Ok(swarm)
}

/// Listens on every one of `at`, and says at which ports.
async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>, at: &[SocketAddr]) -> io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for at in at {
        // The library shares a port with any process of the same user that does the same: a port that is taken has to be noticed first.
        let free = match probe(*at) {
            Ok(free) => free,
            // A machine may have no IPv6.
            Err(error) if at.is_ipv6() && at.ip().is_unspecified() && !ports.is_empty() && error.kind() != io::ErrorKind::AddrInUse => {
                continue;
            }
            Err(error) => return Err(error),
        };
        // Both protocols on all interfaces have one port.
        let port = match ports.first() {
            Some(first) if at.port() == 0 && at.ip().is_unspecified() => *first,
            _ => free.local_addr()?.port(),
        };
        drop(free);
        let to = Multiaddr::from(at.ip());
        listen_on(swarm, to.clone().with(Protocol::Tcp(port))).await?;
        #[cfg(feature = "quic")]
        listen_on(swarm, to.with(Protocol::Udp(port)).with(Protocol::QuicV1)).await?;
        ports.push(port);
    }
    Ok(ports)
}

/// Takes a port as the library will: IPv6 without the IPv4 of the same number.
fn probe(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// What others can reach: no address of this machine alone, and none of a link without its name; those of loopback if there is no other.
fn reachable(mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let of_link = |at: &Multiaddr| {
        at.iter().any(|part| match part {
            Protocol::Ip4(ip) => ip.is_link_local(),
            Protocol::Ip6(ip) => ip.is_unicast_link_local(),
            _ => false,
        })
    };
    let loopback = |at: &Multiaddr| streams::ip(at).is_some_and(|ip| ip.is_loopback());
    addresses.retain(|at| !of_link(at));
    if addresses.iter().any(|at| !loopback(at)) {
        addresses.retain(|at| !loopback(at));
    }
    addresses
}

async fn listen_on<B: NetworkBehaviour>(swarm: &mut Swarm<B>, to: Multiaddr) -> io::Result<()> {
    let all = to
        .iter()
        .any(|part| matches!(part, Protocol::Ip4(ip) if ip.is_unspecified()) || matches!(part, Protocol::Ip6(ip) if ip.is_unspecified()));
    let listener = swarm.listen_on(to).map_err(|error| match error {
        libp2p::TransportError::Other(error) => io::Error::new(streams::cause(&error), error),
        other @ libp2p::TransportError::MultiaddrNotSupported(_) => io::Error::other(other.to_string()),
    })?;
    let up = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener => return Ok(()),
                SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == listener => return reason,
                _ => {}
            }
        }
    };
    match timeout(if all { FIRST } else { LISTEN }, up).await {
        Ok(up) => up,
        // No interface has an address of this family: where IPv6 is turned off none ever will. What comes later is listened at.
        Err(_) if all => Ok(()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Polls the swarm until it is to end, and then until its connections are closed.
async fn drive(mut swarm: Swarm<UnifiedBehaviour>, mut ended: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            event = swarm.select_next_some() => tracing::trace!(?event, "swarm"),
        }
    }
    let peers: Vec<PeerId> = swarm.connected_peers().copied().collect();
    for peer in peers {
        swarm.disconnect_peer_id(peer).unwrap_or(());
    }
    let closed = async {
        while swarm.network_info().connection_counters().num_established() > 0 {
            swarm.select_next_some().await;
        }
    };
    drop(timeout(CLOSE, closed).await);
}

impl Transport for Libp2p {
    type Conn = Libp2pConnection;

    fn kind(&self) -> TransportKind {
        TransportKind::Libp2p
    }

    fn local(&self) -> TransportInfo {
        let named = |at: Multiaddr| at.with_p2p(self.peer).unwrap_or_else(|at| at).to_string();
        let addresses = if *self.closed.borrow() { Vec::new() } else { reachable(self.listening.addresses()) };
        let addresses = addresses.into_iter().map(named).collect();
        TransportInfo { kind: TransportKind::Libp2p, id: self.peer.to_bytes(), addresses, relay: None }
    }

    async fn changed(&self) {
        // The sender is ours: it does not go away.
        drop(self.moved.lock().await.changed().await);
    }

    async fn dial(&self, to: &Address) -> io::Result<Libp2pConnection> {
        let (peer, at) = read(&to.text).ok_or(io::ErrorKind::InvalidInput)?;
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![at]).allocate_new_port().build();
        let (reply, dialled) = oneshot::channel();
        let gone = io::ErrorKind::NotConnected;
        self.commands.send(Command::Dial { opts, reply }).map_err(|_| gone)?;
        let raw = tokio::select! {
            biased;
            raw = dialled => raw.map_err(|_| gone)?,
            // The swarm is gone, and a question that it did not look at stays in the channel.
            () = self.commands.closed() => Err(gone.into()),
        };
        raw.map(|raw| self.connection(raw))
    }

    async fn accept(&self) -> io::Result<Libp2pConnection> {
        let mut closed = self.closed.subscribe();
        let mut incoming = self.incoming.lock().await;
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(io::ErrorKind::NotConnected.into()),
            raw = incoming.recv() => raw.map(|raw| self.connection(raw)).ok_or_else(|| io::ErrorKind::NotConnected.into()),
        }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        drop(self.commands.send(Command::Deafen));
    }

    // HOST-20.
    async fn shutdown(&self) {
        self.close().await;
        let swarm = self.swarm.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((end, task)) = swarm {
            end.send(()).unwrap_or(());
            drop(task.await);
        }
    }
}

/// Reads a multiaddr that ends with the id of the peer.
fn read(text: &str) -> Option<(PeerId, Multiaddr)> {
    let mut at: Multiaddr = text.parse().ok()?;
    match at.pop()? {
        Protocol::P2p(peer) => Some((peer, at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
