//! Finding devices across networks: signed records in the Mainline DHT of BitTorrent (PROTOCOL.md, section 5; HOST-30).
//!
//! A record is an item that only who knows the secret of its id can write (BEP 44), a DNS packet as pkarr has it. Its bytes are sealed: nodes
//! see keys that are random to them, lengths that are all alike, and from which network somebody asks for what at once.
//!
//! Nodes are those that the owner names, and whom these name: with the first of the public DHT of BitTorrent millions of strangers, with nodes
//! of one's own those and who has asked them. A node may hide what is there, and name places that are none, in the owner's network too:
//! they get a question and have nothing to say. A device asks as a client from a port that lives as long as a wish, a quarter of an hour at
//! most, and answers nobody. IPv4 alone, as that DHT is.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adapter_tokio::service::{Finds, Lookup};
use data_encoding::{BASE64URL_NOPAD, Encoding, Specification};
use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _};
use mainline::async_dht::AsyncDht;
use mainline::{Dht, MutableItem, RequestFilter, RequestSpecific, ServerSettings, SigningKey};
use protocol_core::node::{Discovery, Notice};
use protocol_core::session::rendezvous::Medium;
use simple_dns::rdata::{RData, TXT};
use simple_dns::{CLASS, CharacterString, Name, Packet, ResourceRecord};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// How often a record is stored again: nodes come and go, and forget.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// Between two tries: the first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a question may take, and the look for the addresses of nodes: longer than a resolver waits for its first server.
const QUERY: Duration = Duration::from_secs(20);
const NAME_WAIT: Duration = Duration::from_secs(6);
/// How long one node may take to answer. Every question waits so long for those that are gone.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a first node is awaited: the library asks again and again, and one that is not there is left alone for a while.
const FIRST: Duration = Duration::from_secs(10);
/// How long a device asks from one port: less than the library takes to become a node itself.
const LIFE: Duration = Duration::from_secs(14 * 60);
/// Things that are published at once, and looked for at once.
const AT_ONCE: usize = 8;
/// The name of the record, below the key.
const LABEL: &str = "_kin";
/// What a cache may make of it, in seconds.
const TTL: u32 = 300;
/// Bytes of a string in a TXT record, of a packet (BEP 44), and of a record that is looked at.
const STRING: usize = 255;
const PACKET: usize = 1000;
const RECORD: usize = 1024;

/// A node of the Mainline DHT: `router.example.org:6881`, or an IPv4 address with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    host: String,
    port: u16,
}

/// A text that names no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANode;

impl fmt::Display for NotANode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node of the Mainline DHT looks like router.example.org:6881 or 203.0.113.7:6881")
    }
}

impl std::error::Error for NotANode {}

impl FromStr for Node {
    type Err = NotANode;

    fn from_str(text: &str) -> Result<Self, NotANode> {
        let (host, port) = text.rsplit_once(':').ok_or(NotANode)?;
        let port: u16 = port.parse().map_err(|_| NotANode)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if port == 0 || host.is_empty() || host.len() > STRING || !host.chars().all(is_name) {
            return Err(NotANode);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where these nodes are now: names are looked up each time.
async fn places(nodes: &[Node]) -> Vec<SocketAddrV4> {
    let look = |node: &Node| {
        let (host, port) = (node.host.clone(), node.port);
        async move {
            let found = timeout(NAME_WAIT, tokio::net::lookup_host((host.as_str(), port))).await;
            let found: Vec<_> = found.into_iter().flatten().flatten().collect();
            found.into_iter().filter_map(|at| if let std::net::SocketAddr::V4(at) = at { Some(at) } else { None }).collect::<Vec<_>>()
        }
    };
    join_all(nodes.iter().map(look)).await.concat()
}

/// Lookups in the Mainline DHT, begun at these nodes. None of them is contacted before there is something to publish or to look for, and
/// where there is none of them, nobody is.
pub fn lookup(nodes: Vec<Node>) -> Lookup {
    Lookup::new(Medium::Pkarr, move |wishes, finds: Finds| async move {
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
                let asked = async {
                    let dht = client(places(nodes).await)?;
                    first(&dht).await?;
                    drop(timeout(LIFE, ask(&dht, &wanted, &tell)).await);
                    Ok::<(), io::Error>(())
                };
                // The library asserts what nodes of others can make untrue.
                match AssertUnwindSafe(asked).catch_unwind().await {
                    Ok(Ok(())) => pause = PAUSE.0,
                    Ok(Err(error)) => {
                        debug!(%error, "no Mainline DHT");
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    Err(_) => {
                        warn!("the client of the Mainline DHT has failed");
                        sleep(PAUSE.1).await;
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

/// Nobody is served: what a client would become if it ran for longer is none of a device's business.
#[derive(Clone, Debug)]
struct Nobody;

impl RequestFilter for Nobody {
    fn allow_request(&self, _: &RequestSpecific, _: SocketAddrV4) -> bool {
        false
    }
}

/// A client of the DHT, at a port that the system chooses. The library has nodes that it asks where none is named, and takes whoever asks it
/// for one: it is always told which, and there is none without.
fn client(nodes: Vec<SocketAddrV4>) -> io::Result<AsyncDht> {
    if nodes.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Where all are on this machine nothing is to leave it.
    let local = nodes.iter().all(|node| node.ip().is_loopback());
    let at = if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let serves = ServerSettings { filter: Box::new(Nobody), ..ServerSettings::default() };
    let dht = Dht::builder().bootstrap(&nodes).bind_address(at).port(0).request_timeout(ANSWER).server_settings(serves).build()?;
    Ok(dht.as_async())
}

/// Waits until a node has answered.
async fn first(dht: &AsyncDht) -> io::Result<()> {
    let answered = async {
        // One that knows of no other is a node too.
        while !dht.bootstrapped().await && dht.to_bootstrap().await.is_empty() {
            sleep(PAUSE.0).await;
        }
    };
    timeout(FIRST, answered).await.map_err(|_| io::ErrorKind::TimedOut.into())
}

/// Whether one of these nodes answers.
///
/// # Errors
/// `NotFound` where none of them has an IPv4 address, `TimedOut` where none answers; else what the system says.
pub async fn answer(nodes: &[Node]) -> io::Result<()> {
    first(&client(places(nodes).await)?).await
}

/// Does all that is wanted, a few things at once, for ever.
async fn ask(dht: &AsyncDht, wanted: &Discovery, tell: &mpsc::Sender<Found>) -> Infallible {
    // Who is looked for does not wait behind all to whom something is published.
    let (of_seek, of_publish) = (Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE));
    let seek = join_all(wanted.seek.iter().map(|id| seek(dht, &of_seek, id, tell)));
    let publish = join_all(wanted.publish.iter().map(|notice| publish(dht, &of_publish, notice)));
    tokio::join!(seek, publish);
    std::future::pending().await
}

async fn publish(dht: &AsyncDht, turns: &Semaphore, notice: &Notice) {
    let Some(seed) = &notice.seed else { return };
    let key = SigningKey::from_bytes(seed.bytes());
    let Some(packet) = pack(&notice.id, &notice.record) else { return debug!("a record that fits no packet") };
    let mut pause = PAUSE.0;
    loop {
        let Ok(turn) = turns.acquire().await else { return };
        // Greater than that of an earlier process, unless the clock was set back: then its record stays until nodes forget it.
        let number = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let stored = timeout(QUERY, dht.put_mutable(MutableItem::new(key.clone(), &packet, number, None), None)).await;
        drop(turn);
        match stored {
            Ok(Ok(_)) => {
                pause = PAUSE.0;
                sleep(AGAIN).await;
            }
            other => {
                debug!(?other, "a record was not stored");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn seek(dht: &AsyncDht, turns: &Semaphore, id: &[u8], tell: &mpsc::Sender<Found>) {
    let Ok(key) = <&[u8; 32]>::try_from(id) else { return };
    let (mut pause, mut newest) = (PAUSE.0, None);
    loop {
        let Ok(turn) = turns.acquire().await else { return };
        let mut found = dht.get_mutable(key, None, None);
        let looked = async {
            while let Some(item) = found.next().await {
                // Older ones are what a node had not heard of, or says again on purpose.
                if newest.is_none_or(|newest| item.seq() > newest)
                    && let Some(record) = unpack(id, item.value())
                {
                    drop(tell.send((id.to_vec(), record)).await);
                    newest = Some(item.seq());
                }
            }
        };
        // One that does not end is given up.
        drop(timeout(QUERY, looked).await);
        drop(turn);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// z-base-32, in which pkarr writes keys.
fn zbase32() -> Option<Encoding> {
    let mut form = Specification::new();
    form.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    form.encoding().ok()
}

fn name(id: &[u8]) -> Option<String> {
    Some(format!("{LABEL}.{}", zbase32()?.encode(id)))
}

/// A record as a packet. `None`: it is too long.
fn pack(id: &[u8], record: &[u8]) -> Option<Vec<u8>> {
    let (name, text) = (name(id)?, BASE64URL_NOPAD.encode(record));
    let mut strings = TXT::new();
    for part in text.as_bytes().chunks(STRING) {
        strings.add_char_string(CharacterString::new(part).ok()?);
    }
    let mut packet = Packet::new_reply(0);
    packet.answers.push(ResourceRecord::new(Name::new(&name).ok()?, CLASS::IN, TTL, RData::TXT(strings)));
    packet.build_bytes_vec_compressed().ok().filter(|bytes| bytes.len() <= PACKET)
}

/// The record of a packet. `None`: there is none in it.
fn unpack(id: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
    if packet.len() > PACKET {
        return None;
    }
    let (name, packet) = (name(id)?, Packet::parse(packet).ok()?);
    let wanted = Name::new(&name).ok()?;
    let texts = packet.answers.into_iter().filter(|answer| answer.name == wanted);
    let text = texts.filter_map(|answer| if let RData::TXT(text) = answer.rdata { Some(text) } else { None }).next()?;
    let text = String::try_from(text).ok()?;
    BASE64URL_NOPAD.decode(text.as_bytes()).ok().filter(|record| record.len() <= RECORD)
}

#[cfg(test)]
mod tests;
