//! Somebody who knows the public name of a code and not its words, and has all the time in the world.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::thread;

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::transport::{Connection as _, Rx as _, Transport, Tx as _};
use protocol_core::pairing::handshake::JoinerWaiting;
use protocol_core::wire::deframer::StreamName;

use crate::peer::{System, binding, code_keys};
use crate::random::{Random, seed};
use crate::stage::{Stage, WATCHDOG, join};

const REQUESTS: u64 = 10_000;
/// Bytes of the greeting of an accepted connection.
const GREETING: usize = 32;

/// What one of the requests looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Well formed, for the right code, under a tag that is not right.
    WrongTag,
    /// One bit of an honest request is not what it was.
    Flipped,
    /// Bytes of no protocol.
    Nonsense,
    /// Announced, begun, and left.
    Half,
}

const fn shape(number: u64) -> Shape {
    match number % 10 {
        7 => Shape::Flipped,
        8 => Shape::Nonsense,
        9 => Shape::Half,
        _ => Shape::WrongTag,
    }
}

/// The frame of an honest request for this code, as somebody sends it who has seen one.
fn honest_request(code_file: &str) -> Vec<u8> {
    let (_, request) = JoinerWaiting::start(&code_keys(code_file), binding([0; GREETING]), &mut System).unwrap();
    request
}

/// One connection, and every byte that came back over it. `None` if nobody listens.
fn one(address: &str, request: &[u8], shape: Shape, random: &mut Random) -> Option<Vec<u8>> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    let sent = shaped(request, shape, random);
    // It may be thrown out before it is through.
    socket.write_all(&sent).unwrap_or(());
    socket.shutdown(Shutdown::Write).unwrap_or(());
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Some(heard),
            Ok(more) => heard.extend_from_slice(&buffer[..more]),
            Err(error) => {
                assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{shape:?} is never answered");
                return Some(heard);
            }
        }
    }
}

/// Preamble and request, as this shape has them.
fn shaped(request: &[u8], shape: Shape, random: &mut Random) -> Vec<u8> {
    let mut sent = [&StreamName::Pair.preamble()[..], request].concat();
    match shape {
        Shape::WrongTag => {
            let tag = sent.len() - 32;
            sent[tag..].copy_from_slice(&random.bytes(32));
        }
        Shape::Flipped => {
            let at = usize::try_from(random.next()).unwrap() % sent.len();
            sent[at] ^= 1 << (random.next() % 8);
        }
        Shape::Nonsense => sent = random.bytes(1400),
        Shape::Half => sent.truncate(usize::try_from(random.next()).unwrap() % sent.len()),
    }
    sent
}

/// Sends these requests, or as many as somebody listens to; nothing but the greeting ever comes back. How many there were.
fn flood(address: &str, request: &[u8], seed: u64, numbers: Range<u64>) -> u64 {
    let mut random = Random::new(seed ^ numbers.start);
    let mut sent = 0;
    for number in numbers {
        let Some(heard) = one(address, request, shape(number), &mut random) else { break };
        assert!(heard.len() <= GREETING, "request {number} was answered with {} bytes", heard.len() - GREETING);
        sent += 1;
    }
    sent
}

#[test]
// LIM-7, PAIR-11, PAIR-14, PAIR-15, PAIR-16, DATA-7.
fn ten_thousand_bad_requests_teach_nothing_and_burn_nothing() {
    let seed = seed();
    // Once the joiner comes while the flood goes on, once behind all of it.
    for before in [REQUESTS / 2, REQUESTS] {
        let stage = Stage::new();
        let (a, b) = (stage.device("a"), stage.device("b"));
        let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
        let address = addresses[0].strip_prefix("tcp:").unwrap();
        let request = honest_request(&code);
        assert_eq!(flood(address, &request, seed, 0..before), before);
        let (joined, beside) = thread::scope(|scope| {
            let beside = scope.spawn(|| flood(address, &request, seed, before..REQUESTS));
            (join(&b, &code, &addresses, &["--yes", "--name", "device b"]).end(), beside.join().unwrap())
        });
        println!("{before} requests before, {beside} beside the pairing");
        assert_eq!(before < REQUESTS, beside > 0);
        let shown = showing.end();
        assert_eq!((shown.code, joined.code), (0, 0), "{:?} {:?}", shown.events, joined.events);
        assert_eq!(shown.all("pair_request").len(), 1, "nobody else was even asked about: {:?}", shown.events);
        assert_eq!(a.run(&["devices"]).event("device")["device_id"], b.id());
    }
}

/// Streams of bad requests on one connection, and how many connections of them.
const STREAMS: u64 = 100;
const CONNECTIONS: u64 = 10;

/// The same over a network stack that has many streams on a connection: nothing is answered, and who has the words pairs meanwhile.
fn bad_requests_over<T: Transport>(transport: &'static str, stranger: impl Future<Output = T>) {
    let mut random = Random::new(seed());
    let stage = Stage::over(transport);
    let (a, b) = (stage.device("a"), stage.device("b"));
    let (showing, code, addresses) = stage.show_code(&a, &["--yes"]);
    let (to, request) = (addresses[0].parse().unwrap(), honest_request(&code));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut joined = None;
    runtime.block_on(async {
        let stranger = stranger.await;
        for connection in 0..CONNECTIONS {
            if connection == CONNECTIONS / 2 {
                joined = Some(join(&b, &code, &addresses, &["--yes", "--name", "device b"]));
            }
            // With the pairing the door closes.
            let Ok(conn) = stranger.dial(&to).await else { break };
            for number in 0..STREAMS {
                let Ok((mut tx, mut rx)) = conn.open().await else { break };
                // It may be thrown out before it is through.
                let shape = shape(number);
                drop(tx.write_all(&shaped(&request, shape, &mut random)).await);
                drop(tx.finish().await);
                let heard = tokio::time::timeout(WATCHDOG, rx.read(&mut [0; 64])).await;
                let heard = heard.unwrap_or_else(|_| panic!("{shape:?} is never answered over {transport}"));
                assert!(matches!(heard, Ok(0) | Err(_)), "{shape:?} is answered over {transport}: {heard:?}");
            }
        }
        stranger.shutdown().await;
    });
    let (joined, shown) = (joined.unwrap().end(), showing.end());
    assert_eq!((shown.code, joined.code), (0, 0), "{:?} {:?}", shown.events, joined.events);
    assert_eq!(shown.all("pair_request").len(), 1, "nobody else was even asked about: {:?}", shown.events);
    assert_eq!(a.run(&["devices"]).event("device")["device_id"], b.id());
}

#[test]
// LIM-7, PAIR-11, PAIR-14.
fn bad_requests_over_iroh_teach_nothing_and_burn_nothing() {
    let here = "127.0.0.1:0".parse().unwrap();
    bad_requests_over("iroh", async move { Iroh::bind(&[7; 32], &[here], IrohConfig::default()).await.unwrap() });
}

#[test]
fn bad_requests_over_libp2p_teach_nothing_and_burn_nothing() {
    let here = "127.0.0.1:0".parse().unwrap();
    bad_requests_over("libp2p", async move { Libp2p::bind([7; 32], &[here]).await.unwrap().0 });
}
