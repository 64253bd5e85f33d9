use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;

use adapter_tokio::service::{Events, NetworkingService, ServiceConfig, Stack};
use mainline::Testnet;
use protocol_core::crypto::secret::Secret;
use protocol_core::effects::{DeviceState, Event};
use protocol_core::node::Confirm;
use protocol_core::pairing::code::PairingCode;
use tokio::task::JoinSet;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A DHT on this machine, and its nodes.
fn network() -> (Testnet, Vec<Node>) {
    let network = Testnet::builder(5).build().unwrap();
    let nodes = network.bootstrap.iter().map(|at| at.parse().unwrap()).collect();
    (network, nodes)
}

fn id(number: u8) -> Vec<u8> {
    SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes().to_vec()
}

fn publishes(number: u8, record: &[u8]) -> Discovery {
    let publish = vec![Notice { id: id(number), record: record.to_vec(), seed: Some(Arc::new(Secret::new([number; 32]))) }];
    Discovery { publish, seek: Vec::new(), holds: LONG }
}

fn seeks(number: u8) -> Discovery {
    Discovery { publish: Vec::new(), seek: vec![id(number)], holds: LONG }
}

/// A device that wants this, until the sender is dropped.
fn device(tasks: &mut JoinSet<()>, nodes: &[Node], wanted: Discovery) -> (watch::Sender<Discovery>, mpsc::Receiver<Found>) {
    let (wants, wishes) = watch::channel(wanted);
    let (tell, told) = mpsc::channel(16);
    let nodes = nodes.to_vec();
    tasks.spawn(async move { run(&nodes, wishes, tell).await });
    (wants, told)
}

async fn next(told: &mut mpsc::Receiver<Found>) -> Found {
    timeout(LONG, told.recv()).await.expect("in time").expect("the client runs")
}

/// HOST-30: whoever looks first finds it too, and what is new instead of what was.
#[tokio::test]
async fn what_is_published_is_found() {
    let (_network, nodes) = network();
    let mut tasks = JoinSet::new();
    let (looking, mut told) = device(&mut tasks, &nodes[..1], seeks(7));
    let (publishing, _) = device(&mut tasks, &nodes[1..2], publishes(7, &[1; 553]));
    assert_eq!(next(&mut told).await, (id(7), vec![1; 553]));
    publishing.send(publishes(7, &[2; 553])).unwrap();
    assert_eq!(next(&mut told).await, (id(7), vec![2; 553]), "no record is told twice");
    // Nothing is wanted any more: the tasks of both end.
    drop((looking, publishing));
    for _ in 0..2 {
        timeout(LONG, tasks.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// HOST-30: nobody hears of a device that wants nothing, and a node that is asked later was not asked before.
#[tokio::test]
async fn nobody_is_contacted_where_nothing_is_wanted() {
    let node = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    node.set_nonblocking(true).unwrap();
    let node = tokio::net::UdpSocket::from_std(node).unwrap();
    let named: Node = node.local_addr().unwrap().to_string().parse().unwrap();
    let mut tasks = JoinSet::new();
    let (wants, _told) = device(&mut tasks, &[named], Discovery::default());
    let mut datagram = [0; 2048];
    assert!(timeout(Duration::from_millis(500), node.recv_from(&mut datagram)).await.is_err(), "somebody was asked");
    wants.send(seeks(1)).unwrap();
    let (len, from) = timeout(LONG, node.recv_from(&mut datagram)).await.unwrap().unwrap();
    assert!(from.ip().is_loopback() && datagram[..len].starts_with(b"d"), "a question of the DHT");
}

#[tokio::test]
async fn a_network_that_is_there_answers() {
    let (network, nodes) = network();
    answer(&nodes[..1]).await.unwrap();
    drop(network);
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let nobody: Node = free.local_addr().unwrap().to_string().parse().unwrap();
    assert_eq!(answer(&[nobody]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(answer(&[]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// The library asks the public DHT where it is told of no node, and takes any stranger for one where it is told of an empty list: there is no
/// client without a node.
#[tokio::test]
async fn without_a_node_there_is_no_client() {
    assert_eq!(client(Vec::new()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(places(&["no-such-host.invalid:1".parse().unwrap()]).await.is_empty());
}

/// HOST-30: whatever a node says, it leads to a record of the key or to nothing.
#[test]
fn packets_are_read_with_care() {
    let record = vec![9; 553];
    let packet = pack(&id(1), &record).unwrap();
    assert!(packet.len() <= PACKET, "{}", packet.len());
    assert_eq!(unpack(&id(1), &packet), Some(record.clone()));
    assert_eq!(unpack(&id(2), &packet), None, "the record of another key");
    assert_eq!(pack(&id(1), &vec![9; PACKET]), None);
    for end in 0..packet.len() {
        assert_eq!(unpack(&id(1), &packet[..end]), None, "cut behind {end}");
    }
    for bit in 0..packet.len() * 8 {
        let mut other = packet.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(unpack(&id(1), &other).is_none_or(|record| record.len() <= RECORD));
    }
    assert_eq!(unpack(&id(1), &vec![0; PACKET + 1]), None);
    // Several records, and texts that are none.
    let name = name(&id(1)).unwrap();
    let mut many = Packet::new_reply(0);
    for text in ["no base64!", "AAAA"] {
        let strings = TXT::new().with_string(text).unwrap();
        many.answers.push(ResourceRecord::new(Name::new(&name).unwrap(), CLASS::IN, TTL, RData::TXT(strings)));
    }
    assert_eq!(unpack(&id(1), &many.build_bytes_vec().unwrap()), None);
}

#[test]
fn nodes_are_read() {
    for good in ["203.0.113.7:6881", "router.example.org:1"] {
        assert_eq!(good.parse::<Node>().unwrap().to_string(), good);
    }
    for bad in ["", ":1", "203.0.113.7", "203.0.113.7:0", "host:70000", "a b:1", "http://host:1", "[::1]:1"] {
        assert_eq!(bad.parse::<Node>(), Err(NotANode), "{bad}");
    }
}

/// A directory that is gone in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn service(scratch: &Scratch, name: &str, at: [u8; 4], nodes: &[Node]) -> NetworkingService {
    let mut config = ServiceConfig::new(scratch.0.join(name));
    config.name = Some(format!("the desk of {name}"));
    config.stacks = vec![Stack::tcp().at(vec![(at, 0).into()])];
    config.lookups = vec![lookup(nodes.to_vec())];
    NetworkingService::init_networking(config).await.unwrap()
}

async fn until(events: &mut Events, what: impl Fn(&Event) -> bool) {
    let seen = async { while !what(&events.next().await.expect("the service runs")) {} };
    timeout(LONG, seen).await.expect("in time");
}

/// HOST-30, PAIR-50, DISC-4: two devices meet by twelve words, and again where one has moved. What stands in the DHT meanwhile says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_meet_by_words_and_again() {
    let scratch = Scratch(std::env::temp_dir().join(format!("kin-mainline-{}", std::process::id())));
    let (_network, nodes) = network();
    let first = service(&scratch, "one", [127, 0, 0, 1], &nodes[..2]).await;
    let second = service(&scratch, "two", [127, 0, 0, 1], &nodes[2..4]).await;
    let (mut of_first, mut of_second) = (first.events(), second.events());
    let invite = first.start_pairing_as_initiator(Duration::from_secs(300), Confirm::Automatic).await.unwrap();
    let code = invite.code.words().join(" ");
    let keys = protocol_core::pairing::code::CodeKeys::derive(&invite.code);
    let key = SigningKey::from_bytes(keys.pkarr_seed.bytes()).verifying_key().to_bytes();
    second.start_pairing_as_joiner(PairingCode::parse(&code).unwrap(), Vec::new(), Confirm::Automatic).await.unwrap();
    let connected = |event: &Event| matches!(event, Event::Device { state: DeviceState::Connected, .. });
    until(&mut of_first, connected).await;
    until(&mut of_second, connected).await;

    // What anybody finds who knows the key, and not the words.
    let places = places(&nodes).await;
    let item = timeout(LONG, client(places).unwrap().get_mutable(&key, None, None).next()).await.unwrap().expect("it is there");
    let mut secrets: Vec<Vec<u8>> = vec![b"desk".to_vec(), b"127.0.0.".to_vec(), vec![127, 0, 0, 1]];
    let (one, two) = (first.identity().clone(), second.identity().clone());
    for who in [&one, &two] {
        secrets.extend([who.id.0.to_vec(), who.key.0.to_vec(), who.endpoint_id.to_vec(), who.peer_id[6..].to_vec()]);
    }
    secrets.extend(code.split(' ').filter(|word| word.len() > 4).map(|word| word.as_bytes().to_vec()));
    let record = unpack(&key, item.value()).expect("a record");
    for seen in [item.value(), &record] {
        for secret in &secrets {
            assert!(!seen.windows(secret.len()).any(|part| part == secret), "{secret:?} is there");
        }
    }
    assert_eq!(record.len(), 553, "no length tells anything");

    // One is elsewhere now, and the other looks for it.
    first.shutdown().await;
    let first = service(&scratch, "one", [127, 0, 0, 2], &nodes[..2]).await;
    until(&mut of_second, |event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. })).await;
    second.connect(one.id, Vec::new()).await.unwrap();
    until(&mut of_second, connected).await;
    let route = second.devices().await.unwrap()[0].route.clone().unwrap();
    assert!(route.address.starts_with("127.0.0.2:"), "{route:?}");
    first.shutdown().await;
    second.shutdown().await;
}

/// HOST-30: a port is another each time that what is wanted changes.
#[tokio::test]
async fn another_wish_comes_from_another_port() {
    let node = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let named: Node = node.local_addr().unwrap().to_string().parse().unwrap();
    let mut tasks = JoinSet::new();
    let (wants, _told) = device(&mut tasks, &[named], seeks(1));
    let (mut datagram, mut ports) = ([0; 2048], BTreeSet::new());
    let three = async {
        for number in 2..5 {
            // The old one may have asked once more.
            while !ports.insert(node.recv_from(&mut datagram).await.unwrap().1.port()) {}
            wants.send(seeks(number)).unwrap();
        }
    };
    timeout(LONG, three).await.expect("a new port each time");
    assert!(!ports.contains(&6881), "the port of BitTorrent, by which a device could be followed");
}
