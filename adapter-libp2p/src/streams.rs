//! Byte streams under `/kin/1`, each on a connection that is known, as a [`NetworkBehaviour`].
//!
//! The stream behaviour that comes with libp2p names a peer and not a connection: it opens a stream on any connection of the peer, does
//! not say on which one a stream came, and drops what comes while nobody waits. The protocol judges connections (is this address the
//! peer's? is it dead?), so they must not be mixed up.
//!
//! ```text
//! Libp2p (any task) ──Command──▶ Streams (the swarm's task) ──ToSwarm──▶ swarm
//!        ▲  ▲                        │                       ◀─FromSwarm─┘
//!        │  └──────── Link ──────────┘
//!        └── streams ── Handler (the connection's task)
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use adapter_tokio::transport::source;
use libp2p::core::Endpoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::multiaddr::{Multiaddr, Protocol};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, TransportError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::handler::{Handler, Parts};

/// Connections from one source, established or not.
const PER_SOURCE: usize = 32;
/// Connections from outside, with a stream of ours, that wait to be taken.
const WAITING: usize = 16;

/// A connection as the swarm's task hands it out.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) peer: PeerId,
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    pub(crate) parts: Parts,
}

/// What the transport asks of the behaviour.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connect, and hand the connection out.
    Dial { opts: DialOpts, reply: oneshot::Sender<io::Result<Raw>> },
    /// The connection is not used any more.
    Close(PeerId, ConnectionId),
    /// Stop listening.
    Deafen,
}

/// Where the swarm listens, for [`Transport::local`](adapter_tokio::transport::Transport::local).
#[derive(Debug, Default)]
pub(crate) struct Listening {
    addresses: Mutex<BTreeSet<Multiaddr>>,
    pub(crate) changed: watch::Sender<()>,
}

impl Listening {
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Multiaddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<Multiaddr>) -> bool) {
        if change(&mut self.lock()) {
            self.changed.send_replace(());
        }
    }
}

/// The side of the transport.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) incoming: mpsc::Receiver<Raw>,
    pub(crate) listening: Arc<Listening>,
}

/// Streams of kin as a part of a swarm's behaviour. It comes with the transport: see [`Libp2p::shared`](crate::Libp2p::shared).
#[derive(Debug)]
pub struct Streams {
    commands: mpsc::UnboundedReceiver<Command>,
    incoming: mpsc::Sender<Raw>,
    listening: Arc<Listening>,
    /// What is removed when nothing more is to come.
    listeners: Vec<ListenerId>,
    /// Whether the swarm is ours alone: connections that nobody uses are closed, and floods bounded.
    own: bool,
    deaf: bool,
    dials: HashMap<ConnectionId, oneshot::Sender<io::Result<Raw>>>,
    /// Connections that we dialled and that are not handed out yet.
    dialled: HashMap<ConnectionId, Parts>,
    addresses: HashMap<ConnectionId, Multiaddr>,
    sources: HashMap<ConnectionId, String>,
    orders: VecDeque<Order>,
}

type Order = ToSwarm<Infallible, Infallible>;

impl Streams {
    pub(crate) fn new(own: bool) -> (Self, Ends) {
        let (commands, asked) = mpsc::unbounded_channel();
        let (to, incoming) = mpsc::channel(WAITING);
        let listening = Arc::<Listening>::default();
        let streams = Self {
            commands: asked,
            incoming: to,
            listening: Arc::clone(&listening),
            listeners: Vec::new(),
            own,
            deaf: false,
            dials: HashMap::new(),
            dialled: HashMap::new(),
            addresses: HashMap::new(),
            sources: HashMap::new(),
            orders: VecDeque::new(),
        };
        (streams, Ends { commands, incoming, listening })
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial { opts, reply } => {
                self.dials.insert(opts.connection_id(), reply);
                self.orders.push_back(ToSwarm::Dial { opts });
            }
            // In a swarm that others use too the connection stays as long as they need it.
            Command::Close(peer_id, id) if self.own => self.close(peer_id, id),
            Command::Close(..) => {}
            Command::Deafen => {
                self.deaf = true;
                if self.own {
                    self.orders.extend(self.listeners.drain(..).map(|id| ToSwarm::RemoveListener { id }));
                }
            }
        }
    }

    fn close(&mut self, peer_id: PeerId, id: ConnectionId) {
        self.orders.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
    }

    fn forget(&mut self, id: ConnectionId) {
        self.dialled.remove(&id);
        self.addresses.remove(&id);
        self.sources.remove(&id);
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(&mut self, id: ConnectionId, _: &Multiaddr, from: &Multiaddr) -> Result<(), ConnectionDenied> {
        let from = source_of(from);
        if self.own && (self.deaf || self.sources.values().filter(|other| **other == from).count() >= PER_SOURCE) {
            return Err(ConnectionDenied::new(io::Error::from(io::ErrorKind::QuotaExceeded)));
        }
        self.sources.insert(id, from);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.addresses.insert(id, from.clone());
        Ok(Handler::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        to: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.addresses.insert(id, to.clone());
        let mut handler = Handler::new();
        if self.dials.contains_key(&id) {
            self.dialled.insert(id, handler.link());
        }
        Ok(handler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(up) => {
                let Some(reply) = self.dials.remove(&up.connection_id) else { return };
                let Some(parts) = self.dialled.remove(&up.connection_id) else { return };
                let address = up.endpoint.get_remote_address().clone();
                let raw = Raw { peer: up.peer_id, id: up.connection_id, address, parts };
                if reply.send(Ok(raw)).is_err() {
                    // Nobody waits for it any more.
                    self.obey(Command::Close(up.peer_id, up.connection_id));
                }
            }
            FromSwarm::DialFailure(failed) => {
                self.forget(failed.connection_id);
                if let Some(reply) = self.dials.remove(&failed.connection_id) {
                    drop(reply.send(Err(dial_failed(failed.error))));
                }
            }
            FromSwarm::ListenFailure(failed) => self.forget(failed.connection_id),
            FromSwarm::ConnectionClosed(down) => self.forget(down.connection_id),
            FromSwarm::ListenerClosed(closed) => self.listeners.retain(|id| *id != closed.listener_id),
            FromSwarm::NewListenAddr(new) => {
                // One of QUIC would take its connections with it: it stays, and refuses.
                if !is_quic(new.addr) && !self.listeners.contains(&new.listener_id) {
                    self.listeners.push(new.listener_id);
                }
                self.listening.change(|all| all.insert(new.addr.clone()))
            }
            FromSwarm::ExpiredListenAddr(gone) => self.listening.change(|all| all.remove(gone.addr)),
            FromSwarm::ExternalAddrConfirmed(new) => self.listening.change(|all| all.insert(new.addr.clone())),
            FromSwarm::ExternalAddrExpired(gone) => self.listening.change(|all| all.remove(gone.addr)),
            _ => {}
        }
    }

    /// The first stream of ours on a connection that we did not dial for this: the connection is handed out.
    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, parts: THandlerOutEvent<Self>) {
        let address = self.addresses.get(&id).cloned().unwrap_or_else(Multiaddr::empty);
        // Where nobody takes it, the streams end with it.
        if self.deaf || self.incoming.try_send(Raw { peer, id, address, parts }).is_err() {
            self.obey(Command::Close(peer, id));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            self.obey(command);
        }
        self.dials.retain(|_, reply| !reply.is_closed());
        self.orders.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// The address of IP in a multiaddr.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    })
}

/// What an attacker cannot change for free: a PeerId is not among it.
// HOST-17.
pub(crate) fn source_of(address: &Multiaddr) -> String {
    ip(address).map_or_else(|| address.to_string(), source)
}

pub(crate) fn dial_failed(error: &DialError) -> io::Error {
    let kind = match error {
        DialError::WrongPeerId { .. } => io::ErrorKind::PermissionDenied,
        DialError::LocalPeerId { .. } | DialError::NoAddresses | DialError::DialPeerConditionFalse(_) => io::ErrorKind::InvalidInput,
        DialError::Aborted => io::ErrorKind::ConnectionAborted,
        DialError::Denied { .. } => io::ErrorKind::QuotaExceeded,
        DialError::Transport(errors) => errors.first().map_or(io::ErrorKind::Other, |(_, error)| match error {
            TransportError::MultiaddrNotSupported(_) => io::ErrorKind::Unsupported,
            TransportError::Other(error) => match cause(error) {
                // The system took the connection, and the process behind it was ending, or is another program.
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => io::ErrorKind::ConnectionRefused,
                io::ErrorKind::Other if error.to_string().contains("Timeout") => io::ErrorKind::TimedOut,
                io::ErrorKind::Other => io::ErrorKind::ConnectionRefused,
                other => other,
            },
        }),
    };
    io::Error::new(kind, error.to_string())
}

/// The kind of the system's own error below what the library made of it. The types in between pass their causes by, so that its
/// number is only in their text.
pub(crate) fn cause(error: &io::Error) -> io::ErrorKind {
    let text = error.to_string();
    let number = text.split_once("(os error ").and_then(|(_, rest)| rest.split_once(')')).and_then(|(number, _)| number.parse().ok());
    number.map_or(error.kind(), |number| io::Error::from_raw_os_error(number).kind())
}
