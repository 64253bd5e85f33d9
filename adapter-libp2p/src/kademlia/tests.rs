use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use adapter_tokio::service::{Events, NetworkingService, ServiceConfig, Stack};
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::{Confirm, Notice};
use protocol_core::pairing::code::PairingCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(30);

async fn server(seed: u8, others: Vec<Node>) -> (Server, Node) {
    let server = Server::bind([seed; 32], &[(Ipv4Addr::LOCALHOST, 0).into()], others).await.unwrap();
    let node = server.addresses()[0].parse().unwrap();
    (server, node)
}

fn id(number: u8) -> Vec<u8> {
    vec![number; 32]
}

fn publishes(number: u8, record: &[u8]) -> Discovery {
    let publish = vec![Notice { id: id(number), record: record.to_vec(), seed: None }];
    Discovery { publish, seek: Vec::new(), holds: LONG }
}

fn seeks(number: u8) -> Discovery {
    Discovery { publish: Vec::new(), seek: vec![id(number)], holds: LONG }
}

/// A device that wants this, until the sender is dropped.
fn device(tasks: &mut JoinSet<()>, node: &Node, wanted: Discovery) -> (watch::Sender<Discovery>, mpsc::Receiver<Found>) {
    let (wants, wishes) = watch::channel(wanted);
    let (tell, told) = mpsc::channel(16);
    let node = node.clone();
    tasks.spawn(async move { run(&[node], wishes, tell).await });
    (wants, told)
}

async fn next(told: &mut mpsc::Receiver<Found>) -> Found {
    timeout(LONG, told.recv()).await.expect("in time").expect("the client runs")
}

#[tokio::test]
async fn what_is_published_is_found_over_another_node() {
    let mut tasks = JoinSet::new();
    let (mut first, at_first) = server(1, Vec::new()).await;
    let (mut second, at_second) = server(2, vec![at_first.clone()]).await;
    tasks.spawn(async move { first.run().await });
    tasks.spawn(async move { second.run().await });
    // Who looks first finds it too.
    let (looking, mut told) = device(&mut tasks, &at_second, seeks(7));
    let (publishing, _) = device(&mut tasks, &at_first, publishes(7, b"here"));
    assert_eq!(next(&mut told).await, (id(7), b"here".to_vec()));
    // It moves: the new record is found, and the old one is not told again.
    publishing.send(publishes(7, b"there")).unwrap();
    looking.send(Discovery { seek: vec![id(7), id(8)], ..seeks(7) }).unwrap();
    let mut found = BTreeSet::new();
    while !found.contains(&(id(7), b"there".to_vec())) {
        assert!(found.insert(next(&mut told).await), "told twice");
    }
    // Nothing is wanted any more: the tasks of both end.
    drop((looking, publishing));
    for _ in 0..2 {
        timeout(LONG, tasks.join_next()).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_true_value_is_found_among_lies() {
    let mut tasks = JoinSet::new();
    let (mut server, node) = server(3, Vec::new()).await;
    for liar in 0..15_u8 {
        assert!(server.keep(&format!("liar {liar}"), &id(9), &[liar; 100]));
    }
    // What is too long is looked at by nobody, and no node of ours keeps it.
    assert!(!server.keep("longest", &id(9), &[99; RECORD + 1]));
    tasks.spawn(async move { server.run().await });
    let (_publishing, _) = device(&mut tasks, &node, publishes(9, b"true"));
    let (_looking, mut told) = device(&mut tasks, &node, seeks(9));
    let mut lies = BTreeSet::new();
    loop {
        let (_, record) = next(&mut told).await;
        if record == b"true" {
            break;
        }
        assert!(record.len() == 100 && lies.insert(record), "a value is told once");
    }
}

#[tokio::test]
async fn a_node_that_comes_later_is_found_by_those_who_wait() {
    let mut tasks = JoinSet::new();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = free.local_addr().unwrap();
    let peer = Keypair::ed25519_from_bytes([4; 32]).unwrap().public().to_peer_id();
    let node: Node = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", at.port()).parse().unwrap();
    let (_publishing, _) = device(&mut tasks, &node, publishes(5, b"late"));
    let (_looking, mut told) = device(&mut tasks, &node, seeks(5));
    // They have called, and nobody was there.
    free.set_nonblocking(true).unwrap();
    let free = tokio::net::TcpListener::from_std(free).unwrap();
    for _ in 0..2 {
        drop(timeout(LONG, free.accept()).await.unwrap().unwrap());
    }
    drop(free);
    let mut server = Server::bind([4; 32], &[at], Vec::new()).await.unwrap();
    tasks.spawn(async move { server.run().await });
    assert_eq!(next(&mut told).await, (id(5), b"late".to_vec()));
}

/// A directory that is gone in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let mut name = [0; 8];
        getrandom::fill(&mut name).unwrap();
        Self(std::env::temp_dir().join(format!("kin-dht-{:016x}", u64::from_ne_bytes(name))))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn service(scratch: &Scratch, name: &str, at: [u8; 4], node: &Node) -> NetworkingService {
    let mut config = ServiceConfig::new(scratch.0.join(name));
    config.name = Some(format!("the desk of {name}"));
    config.stacks = vec![Stack::tcp().at(vec![(at, 0).into()])];
    config.lookups = vec![lookup(vec![node.clone()])];
    NetworkingService::init_networking(config).await.unwrap()
}

async fn until(events: &mut Events, what: impl Fn(&Event) -> bool) {
    let seen = async { while !what(&events.next().await.expect("the service runs")) {} };
    timeout(LONG, seen).await.expect("in time");
}

/// HOST-28, PAIR-50, DISC-4: two devices meet by twelve words, and again where one has moved, over a node that learns nothing of them.
#[tokio::test]
async fn a_node_learns_nothing_of_those_it_serves() {
    let scratch = Scratch::new();
    let (mut server, node) = server(6, Vec::new()).await;
    let stop = tokio::sync::Notify::new();
    let serve = async {
        tokio::select! {
            () = server.run() => {}
            () = stop.notified() => {}
        }
        (server.kept(), std::mem::take(&mut server.publishers))
    };
    let meet = async {
        let (first, second) =
            (service(&scratch, "one", [127, 0, 0, 1], &node).await, service(&scratch, "two", [127, 0, 0, 1], &node).await);
        let (mut of_first, mut of_second) = (first.events(), second.events());
        let invite = first.start_pairing_as_initiator(Duration::from_secs(300), Confirm::Automatic).await.unwrap();
        let code = invite.code.words().join(" ");
        second.start_pairing_as_joiner(PairingCode::parse(&code).unwrap(), Vec::new(), Confirm::Automatic).await.unwrap();
        let connected = |event: &Event| matches!(event, Event::Device { state: DeviceState::Connected, .. });
        until(&mut of_first, connected).await;
        until(&mut of_second, connected).await;
        let (one, two) = (first.identity().clone(), second.identity().clone());
        // One is elsewhere now, and the other looks for it.
        first.shutdown().await;
        let first = service(&scratch, "one", [127, 0, 0, 2], &node).await;
        until(&mut of_second, |event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. })).await;
        second.connect(one.id, Vec::new()).await.unwrap();
        until(&mut of_second, connected).await;
        let route = second.devices().await.unwrap()[0].route.clone().unwrap();
        assert!(route.address.starts_with("127.0.0.2:"), "{route:?}");
        first.shutdown().await;
        second.shutdown().await;
        stop.notify_one();
        (one, two, code)
    };
    let ((kept, publishers), (one, two, code)) = tokio::join!(serve, meet);
    // A code's record, and one that the first device had out for the second.
    assert!(kept.len() >= 2, "{}", kept.len());
    for id in [&one.peer_id, &two.peer_id] {
        assert!(publishers.iter().all(|publisher| publisher.to_bytes() != *id), "a device came under its own id");
    }
    let mut secrets: Vec<Vec<u8>> = vec![b"desk".to_vec(), b"127.0.0.".to_vec(), vec![127, 0, 0, 1]];
    for who in [&one, &two] {
        secrets.extend([who.id.0.to_vec(), who.key.0.to_vec(), who.endpoint_id.to_vec(), who.peer_id[6..].to_vec()]);
    }
    secrets.extend(code.split(' ').filter(|word| word.len() > 4).map(|word| word.as_bytes().to_vec()));
    for record in kept {
        assert_eq!((record.key.as_ref().len(), record.value.len()), (32, 553), "no length tells anything");
        let seen = [record.key.to_vec(), record.value].concat();
        assert_eq!(record.publisher, None);
        for secret in &secrets {
            assert!(!seen.windows(secret.len()).any(|part| part == secret), "{secret:?} is there");
        }
    }
}

#[tokio::test]
async fn a_device_is_another_each_time() {
    let (tell, _told) = mpsc::channel(1);
    let mut seen = BTreeSet::new();
    assert!(Client::new(Vec::new(), &seeks(1), &tell).is_err(), "there is nobody to ask: the names are looked up again");
    let places = [(PeerId::random(), Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(9)))];
    for _ in 0..3 {
        let client = Client::new(places.to_vec(), &seeks(1), &tell).unwrap();
        assert!(seen.insert(*client.swarm.local_peer_id()));
    }
}

/// HOST-28: many wishes do not break their own connection.
#[tokio::test]
async fn who_wants_much_gets_all_of_it() {
    let mut tasks = JoinSet::new();
    let (mut server, node) = server(9, Vec::new()).await;
    let most = 40;
    let all = |publish: bool| Discovery {
        publish: if publish { (1..=most).flat_map(|number| publishes(number, &[number; 3]).publish).collect() } else { Vec::new() },
        seek: if publish { Vec::new() } else { (1..=most).map(id).collect() },
        holds: LONG,
    };
    let (_publishing, _) = device(&mut tasks, &node, all(true));
    let (_looking, mut told) = device(&mut tasks, &node, all(false));
    let found = async {
        let mut found = BTreeSet::new();
        while found.len() < usize::from(most) {
            found.insert(next(&mut told).await);
        }
    };
    tokio::select! {
        () = found => {}
        () = server.run() => {}
    }
}

/// HOST-28: a node cannot tell by its key who published before.
#[tokio::test]
async fn another_wish_comes_under_another_key() {
    let mut tasks = JoinSet::new();
    let (mut server, node) = server(7, Vec::new()).await;
    let (publishing, _) = device(&mut tasks, &node, publishes(1, b"first"));
    let (_looking, mut told) = device(&mut tasks, &node, Discovery { seek: vec![id(1), id(2)], ..seeks(1) });
    let both = async {
        assert_eq!(next(&mut told).await, (id(1), b"first".to_vec()));
        publishing.send(publishes(2, b"second")).unwrap();
        assert_eq!(next(&mut told).await, (id(2), b"second".to_vec()));
    };
    tokio::select! {
        () = both => {}
        () = server.run() => {}
    }
    assert_eq!((server.kept().len(), server.publishers.len()), (2, 2));
}

/// HOST-28: a node tells of those that its owner named, and of no stranger that speaks the DHT with it.
#[tokio::test]
async fn a_stranger_is_no_node_of_ours() {
    let mut tasks = JoinSet::new();
    let (mut ours, node) = server(10, Vec::new()).await;
    let (mut stranger, at_stranger) = server(11, vec![node.clone()]).await;
    tasks.spawn(async move { stranger.run().await });
    let (_publishing, _) = device(&mut tasks, &node, publishes(3, b"ours"));
    let (_looking, mut told) = device(&mut tasks, &at_stranger, seeks(3));
    tokio::select! {
        found = next(&mut told) => assert_eq!(found, (id(3), b"ours".to_vec()), "the stranger tells of ours"),
        () = ours.run() => {}
    }
    assert!(ours.connected() >= 2, "the one who published and the one who was led here");
    assert_eq!(ours.known(), []);
}

#[test]
fn nodes_are_read() {
    let peer = Keypair::ed25519_from_bytes([4; 32]).unwrap().public().to_peer_id();
    for good in ["/ip4/203.0.113.7/tcp/4711", "/ip6/2001:db8::1/tcp/1", "/dns/dht.example/tcp/4711", "libp2p:/dns4/dht.example/tcp/4711"] {
        assert!(format!("{good}/p2p/{peer}").parse::<Node>().is_ok(), "{good}");
    }
    for bad in ["", "/ip4/203.0.113.7", "/ip4/203.0.113.7/tcp/0", "/ip4/203.0.113.7/udp/1", "/tcp/1", "/dns/x/tcp/1/ws"] {
        assert_eq!(format!("{bad}/p2p/{peer}").parse::<Node>(), Err(NotANode), "{bad}");
    }
    assert_eq!("/ip4/203.0.113.7/tcp/4711".parse::<Node>(), Err(NotANode));
}

#[tokio::test]
async fn a_node_says_how_it_sees_who_asks() {
    let mut tasks = JoinSet::new();
    let (mut server, node) = server(8, Vec::new()).await;
    let (peer, at) = (server.peer(), node.to_string());
    tasks.spawn(async move { server.run().await });
    answers(&node).await.unwrap();
    let mirrored = mirror(&node).await.unwrap();
    assert_eq!((mirrored.seen.ip(), mirrored.seen), (Ipv4Addr::LOCALHOST.into(), mirrored.own), "no router is between");
    assert!(mirrored.ahead.abs() <= 1, "{mirrored:?}");
    // Somebody else at that address, and nobody.
    let other = Keypair::ed25519_from_bytes([9; 32]).unwrap().public().to_peer_id();
    let another: Node = at.replace(&peer.to_string(), &other.to_string()).parse().unwrap();
    assert_eq!(answers(&another).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let nobody: Node = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", free.port()).parse().unwrap();
    assert_eq!(answers(&nobody).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(mirror(&nobody).await.is_err());
}
