//! The network stacks of this build: their names, addresses, and how they are started.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use adapter_tokio::service::{Interfaces, Lookup, Stack};
use protocol_core::info::{Address, TransportKind};

use crate::args::Global;
use crate::exit::{Outcome, Problem};

/// Those that are built in, the best first: bare TCP has one layer of encryption less than the others.
pub(crate) const BUILT_IN: &[&str] = &[
    "tcp",
    #[cfg(feature = "libp2p")]
    "libp2p",
    #[cfg(feature = "iroh")]
    "iroh",
];

/// The version, and what is built in.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let named = |name: &&'static str| if *name == "libp2p" && cfg!(feature = "libp2p-quic") { "libp2p with QUIC" } else { *name };
    let built_in: Vec<&str> = BUILT_IN.iter().map(named).collect();
    format!("{} ({})", env!("CARGO_PKG_VERSION"), built_in.join(", "))
});

/// Every name that some build has.
const KNOWN: [&str; 3] = ["tcp", "libp2p", "iroh"];

/// The transports that were chosen, the best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transports(Vec<&'static str>);

impl Transports {
    /// The stacks to start, each at the addresses that are for it.
    pub(crate) fn stacks(&self, bind: &[Bind], relays: &[Relay]) -> Vec<Stack> {
        let started = |(number, name): (usize, &&'static str)| {
            // A port is one stack's: TCP and libp2p cannot share it, and nobody could tell their addresses apart.
            let at = bind.iter().filter(|bind| bind.transport.is_none_or(|only| only == *name)).map(|bind| match bind.transport {
                None if number > 0 => SocketAddr::new(bind.at.ip(), 0),
                _ => bind.at,
            });
            stack(name, relays).at(at.collect())
        };
        self.0.iter().enumerate().map(started).collect()
    }

    /// Those of the addresses that these transports can dial.
    ///
    /// # Errors
    /// Some were given, and none is left.
    pub(crate) fn usable(&self, addresses: &[Address]) -> Outcome<Vec<Address>> {
        let usable: Vec<Address> = addresses.iter().filter(|address| self.0.contains(&address.kind.name())).cloned().collect();
        if usable.is_empty() && !addresses.is_empty() {
            return Err(Problem::usage(format!("no address is for a transport that was chosen ({self})")));
        }
        Ok(usable)
    }
}

impl fmt::Display for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg_attr(not(feature = "iroh"), allow(unused_variables, reason = "only Iroh has relays"))]
fn stack(name: &str, relays: &[Relay]) -> Stack {
    match name {
        #[cfg(feature = "libp2p")]
        "libp2p" => adapter_libp2p::Libp2p::stack(),
        #[cfg(feature = "iroh")]
        "iroh" => {
            adapter_iroh::Iroh::stack(adapter_iroh::IrohConfig { relays: relays.iter().filter_map(|relay| relay.0.clone()).collect() })
        }
        _ => Stack::tcp(),
    }
}

/// Where to listen: with every transport, or with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    transport: Option<&'static str>,
    at: SocketAddr,
}

/// The interfaces of these addresses: all where one of them is.
pub(crate) fn interfaces(bind: &[Bind]) -> Interfaces {
    let addresses: Vec<IpAddr> = bind.iter().map(|bind| bind.at.ip()).collect();
    let all = addresses.is_empty() || addresses.iter().any(IpAddr::is_unspecified);
    if all { Interfaces::All } else { Interfaces::With(addresses) }
}

#[cfg(feature = "libp2p")]
type Node = adapter_libp2p::kademlia::Node;
#[cfg(not(feature = "libp2p"))]
type Node = std::convert::Infallible;

/// A node of the DHT, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DhtNode(Option<Node>);

/// The nodes of the DHT that are wanted.
pub(crate) fn dht_nodes(global: &Global) -> Vec<Node> {
    global.dht_bootstrap.iter().filter(|_| !global.no_dht).filter_map(|node| node.0.clone()).collect()
}

/// Reads the address of a node of the DHT; nothing is none.
pub(crate) fn dht_node(text: &str) -> Result<DhtNode, String> {
    if text.is_empty() {
        return Ok(DhtNode(None));
    }
    built_in("libp2p")?;
    #[cfg(feature = "libp2p")]
    let node = text.parse().map(|node| DhtNode(Some(node))).map_err(|error: adapter_libp2p::kademlia::NotANode| error.to_string());
    #[cfg(not(feature = "libp2p"))]
    let node = Err(format!("{text} cannot be used"));
    node
}

#[cfg(feature = "iroh")]
type Router = adapter_iroh::mainline::Node;
#[cfg(not(feature = "iroh"))]
type Router = std::convert::Infallible;

/// A first node of the Mainline DHT, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MainlineNode(Option<Router>);

/// The first nodes of the Mainline DHT that are wanted.
pub(crate) fn mainline_nodes(global: &Global) -> Vec<Router> {
    global.mainline_bootstrap.iter().filter(|_| !global.no_dht).filter_map(|node| node.0.clone()).collect()
}

/// Reads the place of a first node of the Mainline DHT; nothing is none.
pub(crate) fn mainline_node(text: &str) -> Result<MainlineNode, String> {
    if text.is_empty() {
        return Ok(MainlineNode(None));
    }
    built_in("iroh")?;
    #[cfg(feature = "iroh")]
    let node = text.parse().map(|node| MainlineNode(Some(node))).map_err(|error: adapter_iroh::mainline::NotANode| error.to_string());
    #[cfg(not(feature = "iroh"))]
    let node = Err(format!("{text} cannot be used"));
    node
}

impl fmt::Display for MainlineNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(node) => write!(f, "{node}"),
            None => Ok(()),
        }
    }
}

#[cfg(feature = "iroh")]
type RelayUrl = adapter_iroh::RelayUrl;
#[cfg(not(feature = "iroh"))]
type RelayUrl = std::convert::Infallible;

/// A relay, or the wish for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relay(Option<RelayUrl>);

/// Reads the URL of a relay, or `off`; nothing is none too.
pub(crate) fn relay(text: &str) -> Result<Relay, String> {
    if text == "off" || text.is_empty() {
        return Ok(Relay(None));
    }
    built_in("iroh")?;
    #[cfg(feature = "iroh")]
    if let Some(url) = text.parse().ok().filter(|_| text.starts_with("https://") || text.starts_with("http://")) {
        return Ok(Relay(Some(url)));
    }
    Err("a relay is a URL, https://relay.example".to_owned())
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transport.map_or(Ok(()), |transport| write!(f, "{transport}:"))?;
        write!(f, "{}", self.at)
    }
}

impl fmt::Display for DhtNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(node) => write!(f, "{node}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(url) => write!(f, "{url}"),
            None => f.write_str("off"),
        }
    }
}

impl Global {
    /// The flags that say where and by what this process listens and looks, also where the environment says so.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
        if self.transport.0 != BUILT_IN {
            flag("--transport", self.transport.to_string());
        }
        self.bind.iter().for_each(|bind| flag("--bind", bind.to_string()));
        self.dht_bootstrap.iter().filter(|node| node.0.is_some()).for_each(|node| flag("--dht-bootstrap", node.to_string()));
        let routers = self.mainline_bootstrap.iter().filter(|node| node.0.is_some());
        routers.for_each(|node| flag("--mainline-bootstrap", node.to_string()));
        self.relay.iter().for_each(|relay| flag("--relay", relay.to_string()));
        let wishes = [(self.no_lan, "--no-lan"), (self.no_dht, "--no-dht")];
        words.extend(wishes.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name.to_owned()));
        words
    }
}

/// The relays that are wanted, as text.
pub(crate) fn relays(wanted: &[Relay]) -> Vec<String> {
    wanted.iter().filter_map(|relay| relay.0.as_ref().map(ToString::to_string)).collect()
}

/// What devices look for each other over.
pub(crate) fn lookups(global: &Global) -> Vec<Lookup> {
    let lan = (!global.no_lan).then(|| Lookup::lan(interfaces(&global.bind)));
    #[cfg(feature = "libp2p")]
    let dht = Some(dht_nodes(global)).filter(|nodes| !nodes.is_empty()).map(adapter_libp2p::kademlia::lookup);
    #[cfg(not(feature = "libp2p"))]
    let dht = None;
    #[cfg(feature = "iroh")]
    let mainline = Some(mainline_nodes(global)).filter(|nodes| !nodes.is_empty()).map(adapter_iroh::mainline::lookup);
    #[cfg(not(feature = "iroh"))]
    let mainline = None;
    lan.into_iter().chain(dht).chain(mainline).collect()
}

/// Where a node of the DHT listens.
#[cfg(feature = "libp2p")]
pub(crate) fn dht_binds(bind: &[Bind]) -> Outcome<Vec<SocketAddr>> {
    let chosen = bind.iter().filter(|bind| bind.transport.is_none_or(|only| only == "libp2p")).map(|bind| bind.at);
    let chosen: Vec<SocketAddr> = chosen.collect();
    let everywhere = || vec![(std::net::Ipv4Addr::UNSPECIFIED, DHT_PORT).into(), (std::net::Ipv6Addr::UNSPECIFIED, DHT_PORT).into()];
    match (bind.is_empty(), chosen.is_empty()) {
        (true, _) => Ok(everywhere()),
        (false, true) => Err(Problem::usage("no address of --bind is for libp2p, over which a node of the DHT listens")),
        (false, false) => Ok(chosen),
    }
}

/// The port of a node of the DHT.
#[cfg(feature = "libp2p")]
const DHT_PORT: u16 = 4711;

/// Reads `auto`, or a list of names.
pub(crate) fn transports(text: &str) -> Result<Transports, String> {
    let names = text.split(',').map(str::trim).map(|name| if name == "auto" { Ok(None) } else { built_in(name).map(Some) });
    let names: Vec<Option<&str>> = names.collect::<Result<_, String>>()?;
    let chosen = |name: &&str| names.contains(&None) || names.contains(&Some(*name));
    Ok(Transports(BUILT_IN.iter().filter(|name| chosen(name)).copied().collect()))
}

fn built_in(name: &str) -> Result<&'static str, String> {
    match BUILT_IN.iter().find(|known| **known == name) {
        Some(known) => Ok(known),
        None if KNOWN.contains(&name) => Err(format!("{name} is not built in; this program has {}", BUILT_IN.join(", "))),
        None => Err(format!("there are: auto, {}", BUILT_IN.join(", "))),
    }
}

/// Reads an address to listen at, with or without a transport before it.
pub(crate) fn bind(text: &str) -> Result<Bind, String> {
    let (transport, at) = match text.split_once(':') {
        Some((name, at)) if KNOWN.contains(&name) => (Some(built_in(name)?), at),
        _ => (None, text),
    };
    let at = at.parse().map_err(|_| "an address has the form 127.0.0.1:0 or [::1]:0, or begins with tcp:, libp2p: or iroh:".to_owned())?;
    Ok(Bind { transport, at })
}

/// Reads an address to dial.
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let address: Address = text.parse().map_err(|error| format!("{error}; for example tcp:192.168.1.7:4711"))?;
    built_in(address.kind.name())?;
    match address.kind {
        TransportKind::Iroh => iroh(&address.text)?,
        TransportKind::Libp2p => libp2p(&address.text)?,
        _ => tcp(&address.text)?,
    }
    Ok(address)
}

fn tcp(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing; for example tcp:192.168.1.7:4711")?;
    if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err("host or port is missing; for example tcp:192.168.1.7:4711".to_owned());
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("an IPv6 address stands in brackets: tcp:[::1]:4711".to_owned());
    }
    Ok(())
}

fn iroh(text: &str) -> Result<(), String> {
    let (id, at) = text.split_once('@').unwrap_or((text, ""));
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("an address of Iroh is the 64 digits of the other device's id, @, and IP:PORT".to_owned());
    }
    if at.is_empty() || at.contains("://") || at.parse::<SocketAddr>().is_ok_and(|at| at.port() != 0) {
        return Ok(());
    }
    Err("behind the @ stands IP:PORT, or the URL of a relay".to_owned())
}

fn libp2p(text: &str) -> Result<(), String> {
    let named = text.rsplit_once("/p2p/").is_some_and(|(at, peer)| at.starts_with('/') && !peer.is_empty() && !peer.contains('/'));
    if named { Ok(()) } else { Err("an address of libp2p looks like /ip4/192.168.1.7/tcp/4711/p2p/12D3KooW…".to_owned()) }
}

/// The address of IP in what a transport calls the place of a remote.
pub(crate) fn ip(place: &str) -> Option<IpAddr> {
    let socket = place.parse::<SocketAddr>().map(|at| at.ip()).ok();
    socket.or_else(|| place.split('/').find_map(|part| part.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_built_in_transport_and_a_place() {
        let (id, peer) = ("ab".repeat(32), "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq");
        for good in ["tcp:127.0.0.1:4711", "tcp:[::1]:1", "tcp:laptop.local:65535"] {
            assert_eq!(address(good).unwrap().to_string(), good);
        }
        for bad in ["127.0.0.1:4711", "tcp:127.0.0.1", "tcp::1", "tcp:127.0.0.1:0", "tcp:::1:4711", "tcp:a:99999", "iroh:aa@1.2.3.4:5", ""]
        {
            assert!(address(bad).is_err(), "{bad}");
        }
        let built = |good: &str, name: &str| assert_eq!(address(good).is_ok(), BUILT_IN.contains(&name), "{good}");
        built(&format!("iroh:{id}@127.0.0.1:4711"), "iroh");
        built(&format!("iroh:{id}@https://relay.example/"), "iroh");
        built(&format!("iroh:{id}"), "iroh");
        built(&format!("libp2p:/ip4/127.0.0.1/tcp/1/p2p/{peer}"), "libp2p");
        for bad in ["iroh:@1.2.3.4:5", &format!("iroh:{id}@1.2.3.4"), "libp2p:/ip4/127.0.0.1/tcp/1", "libp2p:127.0.0.1:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_of_transports_is_read_and_put_in_order() {
        assert_eq!(transports("auto").unwrap().0, BUILT_IN);
        assert_eq!(transports("tcp").unwrap().0, ["tcp"]);
        for name in ["libp2p", "iroh"] {
            let list = transports(&format!("{name},tcp"));
            match BUILT_IN.contains(&name) {
                true => assert_eq!(list.unwrap().0, ["tcp", name]),
                false => assert!(list.unwrap_err().contains("not built in")),
            }
        }
        assert!(transports("pigeon").is_err() && transports("").is_err());
    }

    #[test]
    fn places_to_listen_are_for_all_or_for_one() {
        assert_eq!(bind("127.0.0.1:0").unwrap().transport, None);
        assert_eq!(bind("[::1]:7").unwrap(), Bind { transport: None, at: "[::1]:7".parse().unwrap() });
        assert_eq!(bind("tcp:127.0.0.1:1").unwrap().transport, Some("tcp"));
        assert!(bind("pigeon:127.0.0.1:1").is_err() && bind("127.0.0.1").is_err());
    }

    #[test]
    fn devices_are_looked_for_where_they_are_listened_for() {
        let of = |binds: &[&str]| interfaces(&binds.iter().map(|text| bind(text).unwrap()).collect::<Vec<_>>());
        assert_eq!(of(&[]), Interfaces::All);
        assert_eq!(of(&["127.0.0.1:0", "tcp:[::]:1"]), Interfaces::All);
        assert_eq!(of(&["127.0.0.1:0", "tcp:10.1.2.3:7"]), Interfaces::With(vec![[127, 0, 0, 1].into(), [10, 1, 2, 3].into()]));
    }

    #[test]
    fn places_of_every_transport_have_an_address_of_ip() {
        for place in ["127.0.0.1:1", "/ip4/127.0.0.1/tcp/1"] {
            assert_eq!(ip(place), Some(IpAddr::from([127, 0, 0, 1])));
        }
        assert_eq!(ip("/ip6/::1/udp/1/quic-v1"), Some("::1".parse().unwrap()));
        assert_eq!(ip("https://relay.example/"), None);
    }
}
