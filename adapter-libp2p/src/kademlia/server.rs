//! A node of the DHT.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::{self, InboundRequest};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::door::Door;
use super::shelf::Shelf;
use super::{Node, config, mirror, places, swarm};

/// Connections, those whose handshakes are under way, those of one peer; of one network: see [`Door`].
const CONNECTIONS: u32 = 2048;
const PENDING: u32 = 1024;
const PER_PEER: u32 = 4;
/// The longest life of a value.
const LIFE: Duration = Duration::from_secs(3600);
/// How often values that have expired are dropped, and the names of other nodes looked up.
const SWEEP: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
struct Serving {
    limits: connection_limits::Behaviour,
    door: Door,
    kademlia: kad::Behaviour<Shelf>,
}

/// A node of the DHT: it keeps records for others, and tells them of the nodes that its owner named, and of no others: a stranger that
/// says that it is a node is asked by nobody. It has no device, and can open nothing.
pub struct Server {
    swarm: Swarm<Serving>,
    others: Vec<Node>,
    /// What answers on UDP, at the same ports.
    _mirrors: JoinSet<()>,
    /// Where the others were found to be.
    found: JoinSet<Vec<(PeerId, Multiaddr)>>,
    /// Under which ids records came.
    #[cfg(test)]
    pub(super) publishers: std::collections::BTreeSet<PeerId>,
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
            let me = keys.public().to_peer_id();
            let mut config = config();
            config.set_record_filtering(kad::StoreInserts::FilterBoth).set_record_ttl(Some(LIFE));
            let mut kademlia = kad::Behaviour::with_config(me, Shelf::default(), config);
            kademlia.set_mode(Some(kad::Mode::Server));
            Serving { limits: connection_limits::Behaviour::new(bounds), door: Door::default(), kademlia }
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
        let mut server = Self {
            swarm,
            others,
            _mirrors: mirrors,
            found: JoinSet::new(),
            #[cfg(test)]
            publishers: std::collections::BTreeSet::new(),
        };
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
        let named = |at: &Multiaddr| at.clone().with_p2p(self.peer()).unwrap_or_else(|at| at).to_string();
        self.swarm.listeners().map(named).collect()
    }

    /// Serves until it is dropped.
    pub async fn run(&mut self) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = sweep.tick() => self.sweep(),
                Some(Ok(places)) = self.found.join_next() => {
                    for (peer, at) in places {
                        self.swarm.behaviour_mut().kademlia.add_address(&peer, at);
                    }
                }
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

    /// Who is connected.
    #[cfg(test)]
    pub(super) fn connected(&self) -> usize {
        self.swarm.connected_peers().count()
    }

    /// The nodes that it tells others of.
    #[cfg(test)]
    pub(super) fn known(&mut self) -> Vec<PeerId> {
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        kademlia.kbuckets().flat_map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>()).collect()
    }

    fn sweep(&mut self) {
        self.swarm.behaviour_mut().kademlia.store_mut().sweep(Instant::now());
        // Names may take their time.
        let others = self.others.clone();
        self.found.spawn(async move { places(&others).await });
    }

    fn on(&mut self, event: SwarmEvent<ServingEvent>) {
        let SwarmEvent::Behaviour(ServingEvent::Kademlia(kad::Event::InboundRequest {
            request: InboundRequest::PutRecord { source, connection, record: Some(record) },
        })) = event
        else {
            return;
        };
        #[cfg(test)]
        self.publishers.insert(source);
        let Serving { door, kademlia, .. } = self.swarm.behaviour_mut();
        let kept = door.source(connection).is_some_and(|source| kademlia.store_mut().keep(source, record, Instant::now()));
        if !kept {
            debug!(%source, "a record was not kept");
        }
    }
}
