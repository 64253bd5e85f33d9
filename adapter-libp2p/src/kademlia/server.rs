//! A node of the DHT.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::{self, InboundRequest};
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Swarm, identify};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::shelf::Shelf;
use super::{NAME, Node, config, mirror, swarm};
use crate::streams::source_of;

/// Connections, those whose handshakes are under way, those of one peer and those of one network.
const CONNECTIONS: u32 = 2048;
const PENDING: u32 = 128;
const PER_PEER: u32 = 4;
const PER_SOURCE: usize = 64;
/// The longest life of a value.
const LIFE: Duration = Duration::from_secs(3600);
/// How often values that have expired are dropped, and other nodes looked for.
const SWEEP: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
struct Serving {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    kademlia: kad::Behaviour<Shelf>,
}

/// A node of the DHT: it keeps records for others, and tells them of further nodes. It has no device, and can open nothing.
pub struct Server {
    swarm: Swarm<Serving>,
    others: Vec<Node>,
    /// What answers on UDP, at the same ports.
    _mirrors: JoinSet<()>,
    /// From which network each connection comes.
    sources: HashMap<ConnectionId, String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("peer", self.swarm.local_peer_id()).finish_non_exhaustive()
    }
}

impl Server {
    /// A node under the Ed25519 key of `seed`, by which it is known, that listens at each of `at` and knows `others`.
    ///
    /// # Errors
    /// `AddrInUse` if a port is taken; else what the system says.
    pub async fn bind(seed: [u8; 32], at: &[SocketAddr], others: Vec<Node>) -> io::Result<Self> {
        let mut swarm = swarm(seed, |keys| {
            let bounds = ConnectionLimits::default()
                .with_max_pending_incoming(Some(PENDING))
                .with_max_established(Some(CONNECTIONS))
                .with_max_established_per_peer(Some(PER_PEER));
            let identify = identify::Config::new("kin/1".to_owned(), keys.public()).with_agent_version("kin".to_owned()).with_cache_size(0);
            let me = keys.public().to_peer_id();
            let mut config = config();
            config.set_record_filtering(kad::StoreInserts::FilterBoth).set_record_ttl(Some(LIFE));
            let mut kademlia = kad::Behaviour::with_config(me, Shelf::default(), config);
            kademlia.set_mode(Some(kad::Mode::Server));
            Serving { limits: connection_limits::Behaviour::new(bounds), identify: identify::Behaviour::new(identify), kademlia }
        })?;
        let ports = crate::listen(&mut swarm, at).await?;
        let mut mirrors = JoinSet::new();
        let mut places: Vec<_> = at.iter().zip(ports).map(|(at, port)| SocketAddr::new(at.ip(), port)).collect();
        // A socket on all interfaces of IPv6 may serve IPv4 too, and then has the port of both.
        places.sort_by_key(SocketAddr::is_ipv4);
        for place in places {
            match UdpSocket::bind(place).await {
                Ok(socket) => drop(mirrors.spawn(mirror::answer(socket))),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !mirrors.is_empty() => {}
                // Records are kept without it.
                Err(error) => warn!(%error, %place, "UDP cannot be had there: nobody is told how it is seen from here"),
            }
        }
        let mut server = Self { swarm, others, _mirrors: mirrors, sources: HashMap::new() };
        // Of all interfaces, what is known of them now.
        while let Some(event) = server.swarm.select_next_some().now_or_never() {
            server.on(event);
        }
        Ok(server)
    }

    /// Its id.
    pub fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Where it listens, in the form that [`Node`] reads.
    pub fn addresses(&self) -> Vec<String> {
        let named = |at: &libp2p::Multiaddr| at.clone().with_p2p(self.peer()).unwrap_or_else(|at| at).to_string();
        self.swarm.listeners().map(named).collect()
    }

    /// Serves until it is dropped.
    pub async fn run(&mut self) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => self.sweep().await,
                event = self.swarm.select_next_some() => self.on(event),
            }
        }
    }

    /// Keeps a value as if it had come from a network.
    #[cfg(test)]
    pub(super) fn keep(&mut self, source: &str, id: &[u8], value: &[u8]) -> bool {
        let expires = Some(Instant::now() + LIFE);
        let record = kad::Record { key: kad::RecordKey::new(&id), value: value.to_vec(), publisher: None, expires };
        self.swarm.behaviour_mut().kademlia.store_mut().keep(source, record, Instant::now())
    }

    /// All that it keeps.
    #[cfg(test)]
    pub(super) fn kept(&mut self) -> Vec<kad::Record> {
        self.swarm.behaviour_mut().kademlia.store_mut().all().cloned().collect()
    }

    async fn sweep(&mut self) {
        let mut known = Vec::new();
        for node in &self.others {
            known.extend(node.places().await.into_iter().map(|at| (node.peer, at)));
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        kademlia.store_mut().sweep(Instant::now());
        for (peer, at) in known {
            kademlia.add_address(&peer, at);
        }
        // Alone there is nobody to ask.
        drop(kademlia.bootstrap());
    }

    fn on(&mut self, event: SwarmEvent<ServingEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                let source = source_of(endpoint.get_remote_address());
                let crowd = endpoint.is_listener() && self.sources.values().filter(|of| **of == source).count() >= PER_SOURCE;
                self.sources.insert(connection_id, source);
                if crowd {
                    self.swarm.close_connection(connection_id);
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => drop(self.sources.remove(&connection_id)),
            SwarmEvent::Behaviour(ServingEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                // Another node. A client of the DHT does not say that it speaks it.
                if info.protocols.contains(&NAME) {
                    for at in info.listen_addrs.into_iter().take(8) {
                        self.swarm.behaviour_mut().kademlia.add_address(&peer_id, at);
                    }
                }
            }
            SwarmEvent::Behaviour(ServingEvent::Kademlia(kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { connection, record: Some(record), .. },
            })) => {
                let Some(source) = self.sources.get(&connection) else { return };
                if !self.swarm.behaviour_mut().kademlia.store_mut().keep(source, record, Instant::now()) {
                    debug!(%source, "a record was not kept");
                }
            }
            _ => {}
        }
    }
}
