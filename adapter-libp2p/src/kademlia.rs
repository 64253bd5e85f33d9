//! Finding devices across networks: records in a Kademlia DHT, kept by nodes that the owner names (PROTOCOL.md, section 5; HOST-28).
//!
//! [`lookup`] publishes and seeks there, [`Server`] is such a node. Nodes know the nodes that their owners named, and no others: it is a
//! small DHT of people who know each other, and not one that a stranger can fill with nodes of its own.
//!
//! Records are sealed: a node sees ids that are random to it, lengths that are all alike, and from which network somebody asks for what at
//! once. A device comes under another key of libp2p each time that what it wants has changed, every quarter of an hour at least; it
//! listens for nobody there, and keeps nothing. What a node that keeps a log can still put together is in docs/SERVERS.md.
//!
//! Anybody may store anything under an id that it has seen asked for. Every value that is there is told of, and who can open it decides: a
//! lie costs its reader one try to open it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use adapter_tokio::service::{Finds, Lookup};
use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, GetRecordOk, PutRecordError, QueryId, QueryResult, Quorum, Record};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent, dummy};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use protocol_core::node::Discovery;
use protocol_core::session::rendezvous::Medium;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

mod door;
mod mirror;
mod server;
mod shelf;

pub use self::mirror::{Mirrored, mirror};
pub use self::server::Server;

/// The name of the DHT.
const NAME: StreamProtocol = StreamProtocol::new("/kin/kad/1");
/// For how long nodes keep a record, and how often it is stored again: a node that was started anew has none.
const KEPT: Duration = Duration::from_secs(30 * 60);
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// Between two tries: the first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a question to the DHT may take, and the look for the address of a node.
const QUERY: Duration = Duration::from_secs(10);
/// Longer than a resolver waits for its first server.
const NAME_WAIT: Duration = Duration::from_secs(6);
/// How long a device asks under one key, and at the addresses that nodes had.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Questions at once. Each is a stream to every node.
const AT_ONCE: usize = 8;
/// How often an id is asked for again at once, because the last answers were new ones: nodes give their values out in turn, sixteen each.
const REPEATS: u32 = 16;
/// Bytes of a record that is looked at.
const RECORD: usize = 1024;
/// Values of a search that are remembered as told.
const TOLD: usize = 4096;
/// Connections to nodes.
const CONNECTIONS: u32 = 64;
const DIALS: u32 = 16;
/// Streams on a connection. The library ends a connection on which one more comes, or is wanted, and the other side may still hold what
/// this one has lost: so there is room for more than are used.
const STREAMS: usize = 4 * AT_ONCE;
/// How long a connection stays that nobody uses.
const IDLE: Duration = Duration::from_secs(30);

/// A node of the DHT, as a multiaddr with the node's id: `/ip4/203.0.113.7/tcp/4711/p2p/12D3KooW…`, or `/dns/…` instead of `/ip4/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    peer: PeerId,
    at: Multiaddr,
}

impl FromStr for Node {
    type Err = NotANode;

    fn from_str(text: &str) -> Result<Self, NotANode> {
        let text = text.strip_prefix("libp2p:").unwrap_or(text);
        let (peer, at) = crate::read(text).ok_or(NotANode)?;
        let mut parts = at.iter();
        let host = parts.next();
        let known = matches!(host, Some(Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)));
        match (known, parts.next(), parts.next()) {
            (true, Some(Protocol::Tcp(1..)), None) => Ok(Self { peer, at }),
            _ => Err(NotANode),
        }
    }
}

/// A text that names no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANode;

impl fmt::Display for NotANode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node of the DHT looks like /ip4/203.0.113.7/tcp/4711/p2p/12D3KooW…")
    }
}

impl std::error::Error for NotANode {}

impl Node {
    /// Where it is now: a name is looked up each time.
    async fn sockets(&self) -> Vec<SocketAddr> {
        let mut parts = self.at.iter();
        let (host, port) = (parts.next(), parts.next());
        let Some(Protocol::Tcp(port)) = port else { return Vec::new() };
        match host {
            Some(Protocol::Ip4(ip)) => vec![(ip, port).into()],
            Some(Protocol::Ip6(ip)) => vec![(ip, port).into()],
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
                match tokio::net::lookup_host((name.as_ref(), port)).await {
                    Ok(found) => found.collect(),
                    Err(error) => {
                        debug!(%name, %error, "a node of the DHT has no address");
                        Vec::new()
                    }
                }
            }
            _ => Vec::new(),
        }
    }

    async fn places(&self) -> Vec<Multiaddr> {
        let sockets = timeout(NAME_WAIT, self.sockets()).await.unwrap_or_default();
        sockets.into_iter().map(|at| Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()))).collect()
    }
}

/// Where these nodes are now.
async fn places(nodes: &[Node]) -> Vec<(PeerId, Multiaddr)> {
    let found = futures::future::join_all(nodes.iter().map(Node::places)).await;
    nodes.iter().zip(found).flat_map(|(node, found)| found.into_iter().map(|at| (node.peer, at))).collect()
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/p2p/{}", self.at, self.peer)
    }
}

/// Whether a node is there, and is the one that it should be. Asked under a key that nobody has seen before.
///
/// # Errors
/// `PermissionDenied` where somebody else is there; else what the system says.
pub async fn answers(node: &Node) -> io::Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let mut swarm = swarm(seed, |_| dummy::Behaviour)?;
    let places = node.places().await;
    if places.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    swarm.dial(DialOpts::peer_id(node.peer).addresses(places).build()).map_err(io::Error::other)?;
    let answered = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return Ok(()),
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(crate::streams::dial_failed(&error)),
                _ => {}
            }
        }
    };
    timeout(QUERY, answered).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Lookups in the DHT of these nodes. None of them is contacted before there is something to publish or to look for.
pub fn lookup(nodes: Vec<Node>) -> Lookup {
    Lookup::new(Medium::Kad, move |wishes, finds: Finds| async move {
        let (tell, mut told) = mpsc::channel(16);
        let forward = async {
            while let Some((id, record)) = told.recv().await {
                finds.tell(id, record).await;
            }
        };
        tokio::join!(run(&nodes, wishes, tell), forward);
    })
}

type Found = (Vec<u8>, Vec<u8>);

/// Does what is wanted, until nobody can want anything any more.
async fn run(nodes: &[Node], mut wishes: watch::Receiver<Discovery>, tell: mpsc::Sender<Found>) {
    loop {
        let wanted = wishes.borrow_and_update().clone();
        let work = async {
            if wanted.publish.is_empty() && wanted.seek.is_empty() {
                return std::future::pending().await;
            }
            let mut pause = PAUSE.0;
            loop {
                match Client::new(places(nodes).await, &wanted, &tell) {
                    Ok(client) => {
                        pause = PAUSE.0;
                        drop(timeout(LIFE, client.run()).await);
                    }
                    // The network may come later than this process.
                    Err(error) => {
                        warn!(%error, "no DHT");
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                }
            }
        };
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            () = work => {}
        }
    }
}

#[derive(NetworkBehaviour)]
struct Asking {
    limits: connection_limits::Behaviour,
    kademlia: kad::Behaviour<MemoryStore>,
}

/// What is wanted of one id.
struct Task {
    id: Vec<u8>,
    what: What,
    /// When it is tried, if it is not being tried.
    due: Option<Instant>,
    /// The pause before the next try but for success.
    pause: Duration,
}

enum What {
    Publish {
        record: Vec<u8>,
    },
    Seek {
        /// Values that were told of, by hash.
        told: HashSet<u64>,
        /// There was one that had not been told of, in this try.
        news: bool,
        /// How often it was asked for again at once.
        repeats: u32,
    },
}

/// Asks the DHT under a key that nobody has seen before.
struct Client<'a> {
    swarm: Swarm<Asking>,
    /// Where the nodes are.
    places: Vec<(PeerId, Multiaddr)>,
    tasks: Vec<Task>,
    tries: HashMap<QueryId, usize>,
    hasher: RandomState,
    tell: &'a mpsc::Sender<Found>,
}

impl<'a> Client<'a> {
    /// For nodes at these places; an error where there is none.
    fn new(places: Vec<(PeerId, Multiaddr)>, wanted: &Discovery, tell: &'a mpsc::Sender<Found>) -> io::Result<Self> {
        if places.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no node has an address"));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let swarm = swarm(seed, |keys| {
            let bounds = ConnectionLimits::default()
                .with_max_established(Some(CONNECTIONS))
                .with_max_pending_outgoing(Some(DIALS))
                .with_max_established_incoming(Some(0));
            let me = keys.public().to_peer_id();
            let mut kademlia = kad::Behaviour::with_config(me, MemoryStore::new(me), config());
            kademlia.set_mode(Some(kad::Mode::Client));
            Asking { limits: connection_limits::Behaviour::new(bounds), kademlia }
        })?;
        let due = Some(Instant::now());
        let publish = wanted.publish.iter().map(|notice| (&notice.id, What::Publish { record: notice.record.clone() }));
        let seek = wanted.seek.iter().map(|id| (id, What::Seek { told: HashSet::new(), news: false, repeats: 0 }));
        let tasks = publish.chain(seek).map(|(id, what)| Task { id: id.clone(), what, due, pause: PAUSE.0 }).collect();
        Ok(Self { swarm, places, tasks, tries: HashMap::new(), hasher: RandomState::new(), tell })
    }

    async fn run(mut self) {
        loop {
            let next = self.tasks.iter().filter_map(|task| task.due).min().filter(|_| self.tries.len() < AT_ONCE);
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.begin(),
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::Behaviour(AskingEvent::Kademlia(kad::Event::OutboundQueryProgressed { id, result, step, .. })) = event {
                        self.on(id, result, step.last).await;
                    }
                }
            }
        }
    }

    /// Tries what is due.
    fn begin(&mut self) {
        let now = Instant::now();
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for (peer, at) in &self.places {
            // Again each time: one that could not be reached is forgotten.
            kademlia.add_address(peer, at.clone());
        }
        let nodes: BTreeSet<PeerId> = self.places.iter().map(|(peer, _)| *peer).collect();
        let due = self.tasks.iter_mut().enumerate().filter(|(_, task)| task.due.is_some_and(|due| due <= now));
        for (number, task) in due.take(AT_ONCE - self.tries.len().min(AT_ONCE)) {
            let key = kad::RecordKey::new(&task.id);
            let query = match &mut task.what {
                // At the nodes that the owner named: others could crowd them out.
                What::Publish { record } => {
                    let record = Record { key, value: record.clone(), publisher: None, expires: Some((now + KEPT).into_std()) };
                    kademlia.put_record_to(record, nodes.iter().copied(), Quorum::All)
                }
                What::Seek { news, .. } => {
                    *news = false;
                    kademlia.get_record(key)
                }
            };
            task.due = None;
            self.tries.insert(query, number);
        }
    }

    async fn on(&mut self, query: QueryId, result: QueryResult, last: bool) {
        let Some(task) = self.tries.get(&query).and_then(|number| self.tasks.get_mut(*number)) else { return };
        let done = match (&mut task.what, result) {
            (What::Seek { told, news, repeats }, QueryResult::GetRecord(result)) => {
                if let Ok(GetRecordOk::FoundRecord(found)) = result
                    && found.record.key.as_ref() == task.id
                    && found.record.value.len() <= RECORD
                {
                    if told.len() >= TOLD {
                        told.clear();
                    }
                    if told.insert(self.hasher.hash_one(&found.record.value)) {
                        *news = true;
                        drop(self.tell.send((task.id.clone(), found.record.value)).await);
                    }
                }
                let again = *news && *repeats < REPEATS;
                if last {
                    *repeats = if again { *repeats + 1 } else { 0 };
                }
                again.then_some(Duration::ZERO)
            }
            (What::Publish { .. }, QueryResult::PutRecord(result)) => {
                let stored = match result {
                    Ok(_) => true,
                    Err(PutRecordError::QuorumFailed { success, .. } | PutRecordError::Timeout { success, .. }) => !success.is_empty(),
                };
                stored.then_some(AGAIN)
            }
            _ => None,
        };
        if last {
            self.tries.remove(&query);
            let wait = done.unwrap_or(task.pause);
            task.pause = match task.what {
                What::Publish { .. } if done.is_some() => PAUSE.0,
                _ if done.is_some() => task.pause,
                _ => (task.pause * 2).min(PAUSE.1),
            };
            task.due = Some(Instant::now() + wait);
        }
    }
}

/// What clients and servers have in common.
fn config() -> kad::Config {
    let mut config = kad::Config::new(NAME);
    config
        .set_query_timeout(QUERY)
        .set_caching(kad::Caching::Disabled)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(None);
    config
}

fn swarm<B: NetworkBehaviour>(seed: [u8; 32], behaviour: impl FnOnce(&Keypair) -> B) -> io::Result<Swarm<B>> {
    let keys = Keypair::ed25519_from_bytes(seed).map_err(io::Error::other)?;
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS);
        config
    };
    let swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, muxer)
        .map_err(io::Error::other)?
        .with_behaviour(behaviour)
        .map_err(|never| match never {})
        .unwrap_or_else(|never: std::convert::Infallible| match never {})
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE).with_max_negotiating_inbound_streams(crate::NEGOTIATING))
        .build();
    Ok(swarm)
}

#[cfg(test)]
mod tests;
