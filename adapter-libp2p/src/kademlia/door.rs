//! Who may connect to a node of the DHT: so many of one network, those whose handshakes are under way included.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv6Addr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Connections of one network.
const PER_SOURCE: usize = 16;

/// Counts connections by the network that they come from.
#[derive(Debug, Default)]
pub(super) struct Door {
    sources: HashMap<ConnectionId, String>,
}

impl Door {
    /// From which network a connection comes. Those that the node dials itself bring nothing to keep.
    pub(super) fn source(&self, connection: ConnectionId) -> Option<&str> {
        self.sources.get(&connection).map(String::as_str)
    }
}

/// What one customer of a provider gets: an address of IPv4, 48 bits of IPv6.
fn network(at: &Multiaddr) -> String {
    match at.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.to_string(),
        Some(Protocol::Ip6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.to_string(),
            None => {
                let [a, b, c, ..] = ip.segments();
                format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
        },
        _ => at.to_string(),
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(&mut self, id: ConnectionId, _: &Multiaddr, from: &Multiaddr) -> Result<(), ConnectionDenied> {
        let from = network(from);
        if self.sources.values().filter(|other| **other == from).count() >= PER_SOURCE {
            return Err(ConnectionDenied::new(io::Error::from(io::ErrorKind::QuotaExceeded)));
        }
        self.sources.insert(id, from);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
        | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) = event
        {
            self.sources.remove(&connection_id);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_does_not_take_all_places() {
        let mut door = Door::default();
        let here: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let at = |text: &str| -> Multiaddr { text.parse().unwrap() };
        let mut number = 0;
        let mut knock = |door: &mut Door, from: &Multiaddr| {
            number += 1;
            let id = ConnectionId::new_unchecked(number);
            door.handle_pending_inbound_connection(id, &here, from).is_ok().then_some(id)
        };
        let knocks: Vec<_> =
            (0..PER_SOURCE).map(|port| knock(&mut door, &at(&format!("/ip4/192.0.2.1/tcp/{}", port + 1))).unwrap()).collect();
        assert!(knock(&mut door, &at("/ip4/192.0.2.1/tcp/999")).is_none());
        assert!(knock(&mut door, &at("/ip4/192.0.2.2/tcp/999")).is_some());
        assert_eq!(door.source(knocks[0]), Some("192.0.2.1"));
        // A network of IPv6 has many addresses.
        for host in 0..PER_SOURCE {
            assert!(knock(&mut door, &at(&format!("/ip6/2001:db8:1:{host:x}::1/tcp/1"))).is_some());
        }
        assert!(knock(&mut door, &at("/ip6/2001:db8:1:99::1/tcp/1")).is_none());
        assert!(knock(&mut door, &at("/ip6/2001:db8:2::1/tcp/1")).is_some());
        // One goes, another may come.
        door.sources.remove(&knocks[0]);
        assert!(knock(&mut door, &at("/ip4/192.0.2.1/tcp/999")).is_some());
    }
}
