//! What a swarm of our own does.

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::PublicKey;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{connection_limits as limits, identify};

use crate::streams::Streams;

/// Connections whose handshakes are under way, in each direction.
const PENDING: u32 = 64;
/// Connections from outside.
const INCOMING: u32 = 256;
/// Connections to one peer: those of a renewal and of two that dial at once stand beside the old ones for a moment.
const PER_PEER: u32 = 8;

/// One behaviour for all: streams of kin, who we are, and how many may come.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Happened")]
pub(crate) struct UnifiedBehaviour {
    limits: limits::Behaviour,
    identify: identify::Behaviour,
    streams: Streams,
}

/// What the behaviours report; none of it decides anything.
#[derive(Debug)]
pub(crate) struct Happened;

impl From<identify::Event> for Happened {
    fn from(_: identify::Event) -> Self {
        Self
    }
}

impl From<std::convert::Infallible> for Happened {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl UnifiedBehaviour {
    pub(crate) fn new(key: PublicKey, streams: Streams) -> Self {
        let bounds = ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING))
            .with_max_pending_outgoing(Some(PENDING))
            .with_max_established_incoming(Some(INCOMING))
            .with_max_established_per_peer(Some(PER_PEER));
        // Whoever connects is a stranger: it learns the protocol, and no address of ours.
        let identify = identify::Config::new("kin/1".to_owned(), key)
            .with_agent_version("kin".to_owned())
            .with_hide_listen_addrs(true)
            .with_cache_size(0);
        Self { limits: connection_limits::Behaviour::new(bounds), identify: identify::Behaviour::new(identify), streams }
    }
}
