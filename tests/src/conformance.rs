//! What every [`Transport`] owes its host (the module `adapter_tokio::transport`, and its README), as one suite.
//!
//! A transport says with [`Bench`] how it is made and with [`Traits`] what it cannot do; the macro [`conformance!`](crate::conformance!)
//! makes a test of each case.

use std::future::Future;
use std::io;
use std::time::Duration;

use adapter_tokio::transport::{Connection, Rx, Transport, Tx};
use protocol_core::info::Address;
use tokio::time::timeout;

pub mod simulated;
pub mod stacks;

/// How long a thing may take that has to happen: a hung test says which step hangs, and no result depends on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a transport can do.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// It names remotes by an id, and proves it.
    pub ids: bool,
    /// Its connections have 32 bytes of their own that both sides know.
    pub exporter: bool,
    /// A connection is one stream.
    pub one_stream: bool,
    /// A cut is told as an error; else it may look like an end.
    pub tells_cuts: bool,
    /// Cutting a sending half ends the stream at once.
    pub resets: bool,
    /// Its addresses name the id that is wanted there.
    pub asks_for_ids: bool,
}

/// How a transport is made for the suite.
pub trait Bench {
    /// The transport.
    type Transport: Transport;
    /// What it can do.
    const TRAITS: Traits;
    /// Number `of` of several that are different devices, listening on this machine alone.
    fn up(of: u8) -> impl Future<Output = Self::Transport> + Send;
    /// Where it can be dialled.
    fn address(of: &Self::Transport) -> Address {
        address(of)
    }
}

type ConnOf<B> = <<B as Bench>::Transport as Transport>::Conn;
type TxOf<B> = <ConnOf<B> as Connection>::Tx;
type RxOf<B> = <ConnOf<B> as Connection>::Rx;
type StreamOf<B> = (TxOf<B>, RxOf<B>);

/// Two connected devices and a stream between them; its first byte has passed.
#[allow(missing_debug_implementations, reason = "transports need not be printable")]
pub struct Pair<B: Bench> {
    /// Who dialled.
    pub dialler: B::Transport,
    /// Who accepted.
    pub listener: B::Transport,
    /// The dialler's end of the connection.
    pub dialled: ConnOf<B>,
    /// The listener's end.
    pub accepted: ConnOf<B>,
    /// The stream that the dialler opened.
    pub near: StreamOf<B>,
    /// Its other end.
    pub far: StreamOf<B>,
}

/// Waits for what has to happen.
///
/// # Panics
/// If it does not.
pub async fn must<T>(what: &str, happens: impl Future<Output = T>) -> T {
    timeout(PATIENCE, happens).await.unwrap_or_else(|_| panic!("{what}: nothing happened for {PATIENCE:?}"))
}

/// Where it can be dialled.
pub fn address(of: &impl Transport) -> Address {
    of.local().dialable().next().expect("it listens")
}

/// Connects two devices.
pub async fn pair<B: Bench>() -> Pair<B> {
    let (dialler, listener) = (B::up(1).await, B::up(2).await);
    let (dialled, accepted, near, far) = connect::<B>(&dialler, &listener).await;
    Pair { dialler, listener, dialled, accepted, near, far }
}

async fn connect<B: Bench>(from: &B::Transport, to: &B::Transport) -> (ConnOf<B>, ConnOf<B>, StreamOf<B>, StreamOf<B>) {
    let at = B::address(to);
    // A transport may tell of a connection only once there is a stream on it.
    let dialling = async {
        let conn = from.dial(&at).await.expect("it is dialled");
        let mut stream = conn.open().await.expect("a stream is opened");
        stream.0.write_all(&[7]).await.expect("a byte leaves");
        (conn, stream)
    };
    let accepting = async {
        let conn = to.accept().await.expect("it is accepted");
        let mut stream = conn.accept().await.expect("a stream is accepted");
        let mut one = [0];
        assert_eq!((stream.1.read(&mut one).await.expect("a byte comes"), one), (1, [7]));
        (conn, stream)
    };
    let ((dialled, near), (accepted, far)) = must("connecting", async { tokio::join!(dialling, accepting) }).await;
    (dialled, accepted, near, far)
}

/// `count` bytes that are not alike, different for each `salt`.
pub fn bytes(count: usize, salt: usize) -> Vec<u8> {
    (0..count).map(|at| ((at * 31 + at / 251 + salt * 97) % 256).to_le_bytes()[0]).collect()
}

/// Reads to the end.
async fn all(rx: &mut impl Rx, at_once: usize) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; at_once]);
    loop {
        match must("reading", rx.read(&mut buffer)).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Reads to a cut: what came is the beginning of what was sent, and where the transport can tell, the cut is an error.
async fn until_cut<B: Bench>(rx: &mut RxOf<B>, sent: &[u8]) {
    let (mut came, mut buffer) = (Vec::new(), vec![0; 65_536]);
    let end = loop {
        match must("reading up to a cut", rx.read(&mut buffer)).await {
            Ok(0) => break Ok(()),
            Ok(count) => came.extend_from_slice(&buffer[..count]),
            Err(error) => break Err(error),
        }
    };
    assert!(sent.starts_with(&came), "{} bytes came that are not the first that were sent", came.len());
    assert!(end.is_err() || !B::TRAITS.tells_cuts, "a cut looks like an end");
}

/// Both sides know the same of their connection, and who the other is.
pub async fn remotes_are_named<B: Bench>() {
    let Pair { dialler, listener, dialled, accepted, near: _near, far: _far } = pair::<B>().await;
    let (there, here) = (dialled.remote(), accepted.remote());
    assert_eq!((&there.kind, &here.kind), (&listener.kind(), &dialler.kind()));
    assert_eq!((there.one_stream, here.one_stream), (B::TRAITS.one_stream, B::TRAITS.one_stream));
    assert!(!there.source.is_empty() && !here.source.is_empty());
    let (listens_as, dials_as) = if B::TRAITS.ids { (listener.local().id, dialler.local().id) } else { (Vec::new(), Vec::new()) };
    assert_eq!((&there.id, &here.id), (&listens_as, &dials_as));
    assert_eq!(there.id.is_empty(), !B::TRAITS.ids);
    assert_eq!((there.exporter.len(), &there.exporter), (if B::TRAITS.exporter { 32 } else { 0 }, &here.exporter));
    let (again, accepted_again, ..) = connect::<B>(&dialler, &listener).await;
    assert_eq!(again.remote().id, there.id);
    // From another port, perhaps.
    assert_eq!((&again.remote().source, &accepted_again.remote().source), (&there.source, &here.source));
    assert!(again.remote().exporter != there.exporter || !B::TRAITS.exporter, "two connections have the same bytes");
}

/// An address that is asked for by another id than its owner's, or by none.
pub async fn a_wrong_id_is_refused<B: Bench>() {
    if !B::TRAITS.asks_for_ids {
        return;
    }
    let (dialler, listener, other) = (B::up(1).await, B::up(2).await, B::up(3).await);
    // The transport's own text, with the id of somebody else.
    let (right, wrong) = (B::address(&listener), B::address(&other));
    let text = if let Some((_, at)) = right.text.split_once('@') {
        format!("{}@{at}", wrong.text.split_once('@').expect("alike").0)
    } else {
        let (at, _) = right.text.rsplit_once('/').expect("a multiaddr");
        format!("{at}/{}", wrong.text.rsplit_once('/').expect("alike").1)
    };
    let lie = Address { kind: right.kind.clone(), text };
    assert_ne!(lie, right);
    let error = must("dialling a wrong id", dialler.dial(&lie)).await.err().expect("that is somebody else");
    assert!(!matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused), "{error}");
    let nonsense = Address { kind: right.kind.clone(), text: "nonsense".to_owned() };
    assert_eq!(dialler.dial(&nonsense).await.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidInput));
    // The right one is still there.
    connect::<B>(&dialler, &listener).await;
}

/// Bytes go both ways at the same time, on streams of both sides.
pub async fn streams_carry_both_ways<B: Bench>() {
    let Pair { dialled, accepted, near, far, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let mut pairs = vec![(near, far)];
    if !B::TRAITS.one_stream {
        let opened = async {
            let mut stream = accepted.open().await.expect("the accepting side opens too");
            stream.0.write_all(&[7]).await.expect("a byte leaves");
            stream
        };
        let taken = async {
            let mut stream = dialled.accept().await.expect("and the dialling side accepts");
            assert_eq!(stream.1.read(&mut [0]).await.expect("a byte comes"), 1);
            stream
        };
        let (far, near) = must("a stream of the accepting side", async { tokio::join!(opened, taken) }).await;
        pairs.push((near, far));
    }
    for (salt, (near, far)) in pairs.into_iter().enumerate() {
        exchange::<B>(near, far, 300_000, salt).await;
    }
}

/// Sends `count` bytes in each direction at once, and both ends.
async fn exchange<B: Bench>((mut near_tx, mut near_rx): StreamOf<B>, (mut far_tx, mut far_rx): StreamOf<B>, count: usize, salt: usize) {
    let (there, back) = (bytes(count, salt), bytes(count, salt + 1));
    let sends = async { tokio::join!(send_all::<B>(&mut near_tx, &there), send_all::<B>(&mut far_tx, &back)) };
    let reads = async { tokio::join!(all(&mut near_rx, 10_000), all(&mut far_rx, 10_000)) };
    let (_, (came_back, came_there)) = must("both directions", async { tokio::join!(sends, reads) }).await;
    assert!(came_there.expect("the bytes come") == there && came_back.expect("the bytes come back") == back, "other bytes came");
}

async fn send_all<B: Bench>(tx: &mut TxOf<B>, bytes: &[u8]) {
    for piece in bytes.chunks(40_000) {
        tx.write_all(piece).await.expect("bytes leave");
    }
    tx.finish().await.expect("the end leaves");
}

/// Forty streams at once do not disturb one another.
pub async fn many_streams_at_once<B: Bench>() {
    let Pair { dialled, accepted, dialler, listener, near, far } = pair::<B>().await;
    let mut conns = vec![(dialled, accepted)];
    let mut streams = vec![(near, far)];
    for _ in 1..40 {
        if B::TRAITS.one_stream {
            let (dialled, accepted, near, far) = connect::<B>(&dialler, &listener).await;
            conns.push((dialled, accepted));
            streams.push((near, far));
            continue;
        }
        let (dialled, accepted) = &conns[0];
        let opened = async {
            let mut stream = dialled.open().await.expect("one more is opened");
            stream.0.write_all(&[7]).await.expect("a byte leaves");
            stream
        };
        let taken = async {
            let mut stream = accepted.accept().await.expect("one more comes");
            assert_eq!(stream.1.read(&mut [0]).await.expect("a byte comes"), 1);
            stream
        };
        streams.push(must("one of many", async { tokio::join!(opened, taken) }).await);
    }
    let mut tasks = Vec::new();
    for (salt, (near, far)) in streams.into_iter().enumerate() {
        tasks.push(exchange::<B>(near, far, 50_000, salt));
    }
    futures::future::join_all(tasks).await;
}

/// A direction that ended leaves the other open.
pub async fn half_closing_leaves_the_other_half<B: Bench>() {
    let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, mut near_rx), (mut far_tx, mut far_rx)) = (near, far);
    let there = async {
        near_tx.write_all(b"a question").await.expect("it leaves");
        near_tx.finish().await.expect("it ends");
        all(&mut near_rx, 100).await.expect("the answer comes")
    };
    let back = async {
        assert_eq!(all(&mut far_rx, 100).await.expect("the question comes"), b"a question");
        // Only now, and in more than one piece.
        for _ in 0..100 {
            far_tx.write_all(b"an answer").await.expect("the other half is open");
        }
        far_tx.finish().await.expect("it ends");
    };
    let (answer, ()) = must("question and answer", async { tokio::join!(there, back) }).await;
    assert_eq!(answer, b"an answer".repeat(100));
}

/// A reset, and a sending half that is dropped unfinished, cut the stream: what came is a beginning, and no whole.
pub async fn what_is_not_finished_is_cut<B: Bench>() {
    for dropped in [false, true] {
        let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
        let ((mut near_tx, near_rx), (far_tx, mut far_rx)) = (near, far);
        let sent = bytes(100_000, 3);
        must("sending half of it", near_tx.write_all(&sent)).await.expect("bytes leave");
        if !dropped {
            near_tx.reset(1);
        }
        if !dropped && B::TRAITS.resets {
            assert!(must("writing after a reset", near_tx.write_all(&[1])).await.is_err(), "a stream that was reset takes no more");
        }
        // Where a connection is one stream its socket lasts as long as one of its halves.
        drop((near_tx, near_rx));
        until_cut::<B>(&mut far_rx, &sent).await;
        drop(far_tx);
    }
}

/// A remote that wants nothing more is noticed by who sends.
pub async fn a_reader_that_stops_is_noticed<B: Bench>() {
    let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, _near_rx), (far_tx, mut far_rx)) = (near, far);
    far_rx.stop(1);
    drop((far_rx, far_tx));
    let piece = bytes(65_536, 0);
    let noticed = async { while near_tx.write_all(&piece).await.is_ok() {} };
    must("writing to who does not read", noticed).await;
}

/// Closing ends everything on both sides, whoever waits for what.
pub async fn closing_ends_everything<B: Bench>() {
    let Pair { near, far, dialled, accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, mut near_rx), (far_tx, mut far_rx)) = (near, far);
    let sent = bytes(100_000, 5);
    near_tx.write_all(&sent).await.expect("bytes leave");
    let waits = async {
        let mut one = [0];
        assert!(near_rx.read(&mut one).await.is_err(), "reading ends with an error where the connection was closed");
    };
    let closes = async {
        tokio::task::yield_now().await;
        dialled.close(0);
    };
    must("closing", async { tokio::join!(waits, closes) }).await;
    assert!(must("writing on a closed connection", near_tx.write_all(&sent)).await.is_err());
    assert!(must("opening on a closed connection", dialled.open()).await.is_err());
    drop((near_tx, near_rx));
    until_cut::<B>(&mut far_rx, &sent).await;
    drop((far_tx, far_rx));
    must("the other side's end", async { while accepted.accept().await.is_ok() {} }).await;
    must("our own end", async { while dialled.accept().await.is_ok() {} }).await;
}

/// Whoever does not read makes the other wait, before much is in memory; nothing is lost by that.
pub async fn a_reader_that_waits_makes_the_writer_wait<B: Bench>() {
    const MOST: usize = 32 << 20;
    let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, near_rx), (far_tx, mut far_rx)) = (near, far);
    let piece = bytes(65_536, 0);
    let mut pieces = 0;
    // A write that does not come back for so long: the network has taken all that it takes.
    while pieces * piece.len() < MOST && timeout(Duration::from_secs(2), near_tx.write_all(&piece)).await.is_ok_and(|done| done.is_ok()) {
        pieces += 1;
    }
    assert!(pieces * piece.len() < MOST, "{MOST} bytes were taken that nobody reads");
    // The piece that was given up went in part: what comes is whole pieces and the beginning of one.
    drop((near_tx, near_rx));
    let sent: Vec<u8> = std::iter::repeat_n(&piece, pieces + 1).flatten().copied().collect();
    until_cut::<B>(&mut far_rx, &sent).await;
    drop(far_tx);
}

/// A reader that takes little at a time gets everything.
pub async fn a_slow_reader_gets_everything<B: Bench>() {
    let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, _near_rx), (_far_tx, mut far_rx)) = (near, far);
    let sent = bytes(4 << 20, 9);
    let reads = async {
        let mut came = Vec::new();
        let mut little = [0; 1021];
        loop {
            match far_rx.read(&mut little).await.expect("bytes come") {
                0 => return came,
                count => came.extend_from_slice(&little[..count]),
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), came) = must("a slow reader", async { tokio::join!(send_all::<B>(&mut near_tx, &sent), reads) }).await;
    assert!(came == sent, "other bytes came");
}

/// A reading or accepting future that is dropped has lost nothing.
pub async fn dropped_futures_lose_nothing<B: Bench>() {
    let Pair { near, far, dialled: _dialled, accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, near_rx), (far_tx, mut far_rx)) = (near, far);
    let sent = bytes(200_000, 2);
    let reads = async {
        let (mut came, mut buffer) = (Vec::new(), vec![0; 3000]);
        loop {
            // Every other one is given up as soon as it has to wait.
            if came.len() % 2 == 0
                && let Ok(read) = poll_once(far_rx.read(&mut buffer)).await.transpose()
                && let Some(count) = read
            {
                came.extend_from_slice(&buffer[..count]);
                if count == 0 {
                    return came;
                }
                continue;
            }
            drop(poll_once(accepted.accept()).await);
            match far_rx.read(&mut buffer).await.expect("bytes come") {
                0 => return came,
                count => came.extend_from_slice(&buffer[..count]),
            }
        }
    };
    let ((), came) = must("reading with futures dropped", async { tokio::join!(send_all::<B>(&mut near_tx, &sent), reads) }).await;
    assert!(came == sent, "{} bytes of {} came", came.len(), sent.len());
    drop((near_rx, far_tx));
}

/// The result of a future that is ready; it is dropped if it is not.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = std::future::ready(()) => None,
    }
}

/// What was ended in order arrives, although the connection is closed as soon as the network has it.
pub async fn what_was_finished_arrives<B: Bench>() {
    let Pair { near, far, dialled, accepted: _accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    let ((mut near_tx, near_rx), (far_tx, mut far_rx)) = (near, far);
    let sent = bytes(700_000, 4);
    let sends = async {
        send_all::<B>(&mut near_tx, &sent).await;
        // As a host hangs up: when all has left it waits for the other side's end, and then closes.
        drop((near_tx, near_rx));
        drop(timeout(Duration::from_secs(5), async { while dialled.accept().await.is_ok() {} }).await);
        dialled.close(0);
    };
    let reads = async {
        let came = all(&mut far_rx, 4096).await.expect("everything comes");
        drop((far_tx, far_rx));
        _accepted.close(0);
        came
    };
    let ((), came) = must("a last word", async { tokio::join!(sends, reads) }).await;
    assert!(came == sent, "{} bytes of {} came", came.len(), sent.len());
}

/// Nobody listens there: that is said, in a time that a person waits.
pub async fn nobody_there_is_told<B: Bench>() {
    let (dialler, gone) = (B::up(1).await, B::up(2).await);
    let at = B::address(&gone);
    gone.close().await;
    gone.shutdown().await;
    drop(gone);
    let error = must("dialling nobody", dialler.dial(&at)).await.err().expect("nobody is there");
    assert!(matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut | io::ErrorKind::NotFound), "{error}");
}

/// A transport that is closed takes no new connection and names no address; the old ones go on.
pub async fn a_closed_door_leaves_those_inside<B: Bench>() {
    let Pair { near, far, dialled: _dialled, accepted: _accepted, dialler: _dialler, listener } = pair::<B>().await;
    listener.close().await;
    assert_eq!(must("accepting", listener.accept()).await.err().map(|error| error.kind()), Some(io::ErrorKind::NotConnected));
    assert!(listener.local().addresses.is_empty());
    exchange::<B>(near, far, 100_000, 1).await;
}

/// A stream too many does not disturb the others.
pub async fn streams_too_many_disturb_nobody<B: Bench>() {
    if B::TRAITS.one_stream {
        return;
    }
    let Pair { near, far, dialled, accepted, dialler: _dialler, listener: _listener } = pair::<B>().await;
    // Nobody accepts: streams wait, are reset or cannot be opened. A thousand of them are asked for.
    let mut open = Vec::new();
    for _ in 0..1000 {
        let opening = async {
            let (mut tx, rx) = dialled.open().await?;
            tx.write_all(&[1]).await?;
            io::Result::Ok((tx, rx))
        };
        match timeout(Duration::from_millis(300), opening).await {
            Ok(Ok(stream)) => open.push(stream),
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    exchange::<B>(near, far, 200_000, 6).await;
    // Those that wait are there, not more than there may be.
    let mut came = 0;
    while let Some(Ok(_)) = poll_once(accepted.accept()).await {
        came += 1;
    }
    assert!(came > 0 && came <= 256, "{came} of {} streams wait", open.len());
}

/// After the end nothing is left: no task, no socket, and the place is free.
pub async fn nothing_is_left<B: Bench>(cycles: usize) {
    let cycle = || async {
        let Pair { dialler, listener, dialled, accepted, near, far } = pair::<B>().await;
        drop((near, far));
        dialled.close(0);
        drop((dialled, accepted));
        for transport in [dialler, listener] {
            transport.close().await;
            must("shutting down", transport.shutdown()).await;
        }
    };
    let before = alive();
    for _ in 0..cycles {
        cycle().await;
    }
    // What was told to end ends in its own time.
    let ended = async {
        while alive().0 > before.0 || alive().1 > before.1 {
            tokio::task::yield_now().await;
        }
    };
    let left = timeout(PATIENCE, ended).await;
    assert!(left.is_ok(), "tasks and descriptors were {before:?} and are {:?} after {cycles} cycles", alive());
}

/// Tasks of this runtime and descriptors of this process.
fn alive() -> (usize, usize) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    (tasks, std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count))
}

/// Makes a test of every case, for the transport of a [`Bench`]: of all, or without those about what waits to be taken, where that is
/// not bounded.
#[macro_export]
macro_rules! conformance {
    ($bench:ty) => {
        $crate::conformance!($bench, unbounded);
        $crate::conformance!($bench: a_reader_that_waits_makes_the_writer_wait, streams_too_many_disturb_nobody);
    };
    ($bench:ty, unbounded) => {
        $crate::conformance!($bench: remotes_are_named, a_wrong_id_is_refused, streams_carry_both_ways, many_streams_at_once,
            half_closing_leaves_the_other_half, what_is_not_finished_is_cut, a_reader_that_stops_is_noticed, closing_ends_everything,
            a_slow_reader_gets_everything, dropped_futures_lose_nothing, what_was_finished_arrives, nobody_there_is_told,
            a_closed_door_leaves_those_inside);
    };
    ($bench:ty: $($case:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::$case::<$bench>().await;
            }
        )*
    };
}
