//! kin over [Iroh](https://docs.rs/iroh): QUIC between endpoints that are known by their keys.
//!
//! [`Iroh`] is the transport: with an endpoint of its own ([`Iroh::bind`]), or with one that the embedder has and shares with other
//! protocols ([`Iroh::shared`]). Nothing but the addresses that are given is ever contacted: relays and lookups are off unless
//! [`IrohConfig`], or the embedder's endpoint, has some. One thing the library does on its own and lets nobody forbid: two endpoints that
//! are connected try the addresses that each names to the other.
//!
//! A connection is a QUIC connection, a stream one of its bidirectional streams. Handshakes are bound to the connection by its
//! exported keying material, so that somebody in the middle who speaks TLS with both sides is noticed (PROTOCOL.md, section 6.2).
#![forbid(unsafe_code)]

mod accept;
mod link;
pub mod mainline;

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adapter_tokio::service::Stack;
use adapter_tokio::transport::Transport;
pub use iroh::RelayUrl;
use iroh::dns::DnsResolver;
use iroh::endpoint::{
    BindError, BindOpts, ConnectError, ConnectingError, Endpoint, IdleTimeout, PortmapperConfig, QuicTransportConfig, VarInt, presets,
};
use iroh::{EndpointAddr, EndpointId, RelayMap, RelayMode, SecretKey, TransportAddr};
use protocol_core::identity::NetworkIdentity;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use self::accept::Incoming;
pub use self::link::{IrohConnection, IrohRx, IrohTx};

/// The application protocol of TLS (PROTOCOL.md, section 6.0).
pub const ALPN: &[u8] = b"kin/1";

/// After so long without a packet a connection is dead.
const IDLE: Duration = Duration::from_secs(15);
/// How often a connection that is silent is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Streams that a remote may have open on a connection. The core has tighter bounds on what they may do.
const STREAMS: u32 = 64;
/// Accepted connections that wait to be taken.
const WAITING: usize = 16;

/// How an endpoint of our own is made.
#[derive(Clone, Debug, Default)]
pub struct IrohConfig {
    /// The relays through which this device may be reached; none: only directly.
    pub relays: Vec<RelayUrl>,
}

/// The Iroh transport.
#[derive(Debug)]
pub struct Iroh {
    endpoint: Endpoint,
    accepted: tokio::sync::Mutex<mpsc::Receiver<IrohConnection>>,
    closed: watch::Sender<bool>,
    /// For an endpoint of our own: the task that accepts.
    acceptor: Option<Mutex<Option<JoinHandle<()>>>>,
    /// What [`Transport::changed`] has told of last.
    told: tokio::sync::Mutex<Option<TransportInfo>>,
}

impl Iroh {
    /// The stack for [`ServiceConfig::stacks`](adapter_tokio::service::ServiceConfig::stacks): an endpoint under the device's own key.
    pub fn stack(config: IrohConfig) -> Stack {
        Stack::new(TransportKind::Iroh, move |identity: &NetworkIdentity, bind| {
            let (seed, config) = (identity.iroh_seed().duplicate(), config.clone());
            async move {
                let iroh = Self::bind(seed.bytes(), &bind, config).await?;
                let ports = iroh.bound().iter().map(SocketAddr::port).collect();
                Ok((iroh, ports))
            }
        })
    }

    /// An endpoint of our own under the Ed25519 key of `seed`, listening on every one of `at`; with none it only dials.
    ///
    /// # Errors
    /// `AddrInUse` if a port is taken; else what the system says.
    // HOST-18.
    pub async fn bind(seed: &[u8; 32], at: &[SocketAddr], config: IrohConfig) -> io::Result<Self> {
        let quic = QuicTransportConfig::builder()
            .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).map_err(io::Error::other)?))
            .keep_alive_interval(KEEP_ALIVE)
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .build();
        let relays = if config.relays.is_empty() { RelayMode::Disabled } else { RelayMode::Custom(RelayMap::from_iter(config.relays)) };
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(seed))
            .alpns(vec![ALPN.to_vec()])
            .transport_config(quic)
            .relay_mode(relays)
            // The names of relays are looked up where the system does, and nowhere else.
            .dns_resolver(DnsResolver::builder().with_system_defaults().disable_fallback().build())
            // A port mapper asks the gateway by multicast: nothing that was not wished for is contacted.
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports();
        for at in at {
            // A machine may have no IPv6.
            let required = !(at.is_ipv6() && at.ip().is_unspecified());
            builder = builder
                .bind_addr_with_opts(*at, BindOpts::default().set_is_required(required))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        }
        let endpoint = builder.bind().await.map_err(bind_failed)?;
        let closed = watch::Sender::new(false);
        let (to, accepted) = mpsc::channel(WAITING);
        let acceptor = tokio::spawn(accept::run(endpoint.clone(), to, closed.subscribe()));
        Ok(Self {
            endpoint,
            accepted: tokio::sync::Mutex::new(accepted),
            closed,
            acceptor: Some(Mutex::new(Some(acceptor))),
            told: tokio::sync::Mutex::default(),
        })
    }

    /// Over an endpoint of the embedder's. Its accepting side has to hand connections of [`ALPN`] to the [`Incoming`], which a
    /// `Router` takes as a protocol handler. The endpoint is left open at the end.
    pub fn shared(endpoint: Endpoint) -> (Self, Incoming) {
        let closed = watch::Sender::new(false);
        let (to, accepted) = mpsc::channel(WAITING);
        let incoming = Incoming::new(to, closed.subscribe());
        let accepted = tokio::sync::Mutex::new(accepted);
        (Self { endpoint, accepted, closed, acceptor: None, told: tokio::sync::Mutex::default() }, incoming)
    }

    /// The sockets on which it listens.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    /// The endpoint itself.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Iroh {
    fn drop(&mut self) {
        // The task holds the endpoint, and the endpoint its sockets.
        if let Some(acceptor) = &self.acceptor
            && let Some(task) = acceptor.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            task.abort();
        }
    }
}

impl Transport for Iroh {
    type Conn = IrohConnection;

    fn kind(&self) -> TransportKind {
        TransportKind::Iroh
    }

    fn local(&self) -> TransportInfo {
        let at = self.endpoint.addr();
        let addresses = if *self.closed.borrow() { Vec::new() } else { at.ip_addrs().map(SocketAddr::to_string).collect() };
        let relay = at.relay_urls().next().map(ToString::to_string);
        TransportInfo { kind: TransportKind::Iroh, id: self.endpoint.id().as_bytes().to_vec(), addresses, relay }
    }

    async fn changed(&self) {
        use n0_watcher::Watcher as _;
        let mut watcher = self.endpoint.watch_addr();
        let mut told = self.told.lock().await;
        loop {
            let local = self.local();
            // The first time too: something may have changed before anybody asked.
            if told.replace(local.clone()).is_none_or(|last| last != local) {
                return;
            }
            if watcher.updated().await.is_err() {
                // The endpoint is closed.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn dial(&self, to: &Address) -> io::Result<IrohConnection> {
        let to = read(&to.text).ok_or(io::ErrorKind::InvalidInput)?;
        let conn = self.endpoint.connect(to, ALPN).await.map_err(dial_failed)?;
        IrohConnection::new(conn)
    }

    async fn accept(&self) -> io::Result<IrohConnection> {
        let mut closed = self.closed.subscribe();
        let mut accepted = self.accepted.lock().await;
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(io::ErrorKind::NotConnected.into()),
            conn = accepted.recv() => conn.ok_or_else(|| io::ErrorKind::NotConnected.into()),
        }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }

    // HOST-20.
    async fn shutdown(&self) {
        self.closed.send_replace(true);
        let Some(acceptor) = &self.acceptor else { return };
        self.endpoint.close().await;
        let task = acceptor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}

/// Reads `HEXID@IP:PORT`, `HEXID@` and the URL of a relay, or `HEXID` alone, which only a lookup can find.
fn read(text: &str) -> Option<EndpointAddr> {
    let (id, at) = text.split_once('@').map_or((text, None), |(id, at)| (id, Some(at)));
    let id: EndpointId = id.parse().ok()?;
    let at = match at {
        None => None,
        Some(at) if at.contains("://") => Some(TransportAddr::Relay(at.parse().ok()?)),
        Some(at) => Some(TransportAddr::Ip(at.parse().ok()?)),
    };
    Some(EndpointAddr::from_parts(id, at))
}

fn bind_failed(error: BindError) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            return io::Error::new(io.kind(), error.to_string());
        }
        cause = this.source();
    }
    io::Error::other(error.to_string())
}

fn dial_failed(error: ConnectError) -> io::Error {
    let kind = match &error {
        ConnectError::Connect { .. } => io::ErrorKind::AddrNotAvailable,
        ConnectError::Connecting { source: ConnectingError::ConnectionError { source, .. }, .. }
        | ConnectError::Connection { source, .. } => link::kind(source),
        // Somebody else's key, above all.
        _ => io::ErrorKind::PermissionDenied,
    };
    io::Error::new(kind, error.to_string())
}

#[cfg(test)]
mod tests;
