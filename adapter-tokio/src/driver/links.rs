//! Connections and streams as tasks: one for each connection, one for each half of a stream.
//!
//! Here the transports' types end. A task knows its transport; the loop knows channels.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use protocol_core::effects::Cut;
use protocol_core::faults::{Failure, code};
use protocol_core::ids::{ConnId, StreamId, Ticket};
use protocol_core::info::{Address, TransportInfo, TransportKind};
use protocol_core::limits::PAGE_WAIT;
use protocol_core::wire::deframer::{Deframer, Frame, StreamName};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::Happened;
use crate::pipeline::receive::{Receive, receive};
use crate::pipeline::send::{Send as SendJob, send};
use crate::protocol::tasks::{Hear, Say};
use crate::transport::{Connection, Rx, Stop, Stopper, Transport, Tx};

/// Opening a stream on a connection that is up.
const OPEN: Duration = Duration::from_secs(10);
/// A whole attempt to connect, every address of a name included.
const DIAL: Duration = Duration::from_secs(15);
/// How long a hang-up waits until the system has taken all that was sent. A remote that reads nothing for so long has given up the
/// pages that it waits for.
const LEAVE: Duration = PAGE_WAIT;
/// How long it then waits for the other side's end.
const LINGER: Duration = Duration::from_secs(1);
/// Between two tries where listening fails, for want of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Connections at once that others have dialled. More wait in the system's queue.
// HOST-29.
const CONNECTIONS: usize = 512;
/// A queue with no more bytes than this is short.
pub(super) const SHORT: usize = 128 << 10;
/// A queue with more bytes than this has a reader that does not read: the stream is cut.
pub(super) const LONGEST: usize = 16 << 20;

/// What every task of the host needs: where to report, and how to number.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    host: mpsc::Sender<Happened>,
    numbers: Arc<AtomicU64>,
    slots: Arc<tokio::sync::Semaphore>,
    pub(crate) runtime: Handle,
}

impl Links {
    pub(super) fn new(host: mpsc::Sender<Happened>) -> Self {
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        Self { host, numbers: Arc::default(), slots, runtime: Handle::current() }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Reports, and waits while the loop has much to do. A loop that ended hears nothing.
    pub(crate) async fn tell(&self, what: Happened) {
        drop(self.host.send(what).await);
    }

    /// The same from a worker thread.
    pub(crate) fn tell_blocking(&self, what: Happened) {
        drop(self.host.blocking_send(what));
    }
}

/// A transport of any type.
pub(crate) trait AnyTransport: Send + Sync {
    fn kind(&self) -> TransportKind;
    fn local(&self) -> TransportInfo;
    fn dial(&self, links: &Links, ticket: Ticket, to: Address);
    fn listen(&self, links: &Links);
    fn close(&self, links: &Links);
    fn shutdown(&self) -> Ending;
}

/// A transport's end, to be waited for.
pub(crate) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<T: Transport> AnyTransport for Arc<T> {
    fn kind(&self) -> TransportKind {
        T::kind(self)
    }

    fn local(&self) -> TransportInfo {
        T::local(self)
    }

    fn dial(&self, links: &Links, ticket: Ticket, to: Address) {
        let (transport, links) = (Self::clone(self), links.clone());
        links.runtime.clone().spawn(async move {
            let dialed = timeout(DIAL, T::dial(&transport, &to)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match dialed {
                Ok(conn) => serve(Arc::new(conn), Some(ticket), links).await,
                Err(error) => {
                    debug!(%to, %error, "dialling failed");
                    links.tell(Happened::Done { ticket, result: Err(failure(&error)) }).await;
                }
            }
        });
    }

    fn listen(&self, links: &Links) {
        let (transport, links) = (Self::clone(self), links.clone());
        links.runtime.clone().spawn(async move {
            let told = async {
                loop {
                    T::changed(&transport).await;
                    links.tell(Happened::Moved).await;
                }
            };
            tokio::select! {
                () = told => {}
                () = accept(&*transport, &links) => {}
            }
        });
    }
    fn close(&self, links: &Links) {
        let transport = Self::clone(self);
        links.runtime.spawn(async move { T::close(&transport).await });
    }

    fn shutdown(&self) -> Ending {
        let transport = Self::clone(self);
        Box::pin(async move { T::shutdown(&transport).await })
    }
}

/// Takes connections until the transport is closed.
async fn accept<T: Transport>(transport: &T, links: &Links) {
    loop {
        let Ok(slot) = Arc::clone(&links.slots).acquire_owned().await else { return };
        match transport.accept().await {
            Ok(conn) => {
                let links = links.clone();
                tokio::spawn(async move {
                    serve(Arc::new(conn), None, links).await;
                    drop(slot);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => {
                debug!(%error, "listening failed");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Failure::Unsupported,
        _ => Failure::Unreachable,
    }
}

/// What the loop asks of a connection.
#[derive(Debug)]
pub(crate) enum Order {
    /// Open a stream for this.
    Open { ticket: Ticket, name: StreamName },
    /// Close, after these streams have sent what they have, and if the other side may have something to read, when it has ended too.
    Hangup { code: u32, streams: Vec<mpsc::UnboundedSender<Write>>, linger: bool },
    /// Close now.
    Close,
}

/// One connection, from its beginning to its end.
async fn serve<C: Connection>(conn: Arc<C>, dialed: Option<Ticket>, links: Links) {
    let id = ConnId(links.number());
    let (orders, mut wanted) = mpsc::unbounded_channel();
    let remote = conn.remote();
    debug!(?id, kind = %remote.kind, address = %remote.address, dialed = dialed.is_some(), "connection up");
    links.tell(Happened::ConnUp { conn: id, dialed, remote, orders }).await;
    loop {
        tokio::select! {
            biased;
            order = wanted.recv() => match order {
                Some(Order::Open { ticket, name }) => {
                    let (conn, links) = (Arc::clone(&conn), links.clone());
                    tokio::spawn(async move { open(&*conn, id, ticket, name, &links).await });
                }
                Some(Order::Hangup { code, streams, linger }) => {
                    hang_up(&*conn, &mut wanted, code, (streams, linger)).await;
                    break;
                }
                Some(Order::Close) | None => {
                    conn.close(code::DONE);
                    break;
                }
            },
            accepted = conn.accept() => match accepted {
                Ok((tx, rx)) => start(tx, rx, Deframer::accepting(), id, None, &links).await,
                Err(_) => break,
            },
            address = conn.moved() => {
                debug!(?id, %address, "connection moved");
                links.tell(Happened::ConnMoved { conn: id, address }).await;
            }
        }
    }
    debug!(?id, "connection down");
    links.tell(Happened::ConnDown { conn: id }).await;
}

async fn open<C: Connection>(conn: &C, id: ConnId, ticket: Ticket, name: StreamName, links: &Links) {
    let opened = timeout(OPEN, async {
        let (mut tx, rx) = conn.open().await?;
        tx.write_all(&name.preamble()).await?;
        io::Result::Ok((tx, rx))
    });
    match opened.await {
        Ok(Ok((tx, rx))) => start(tx, rx, Deframer::opening(name), id, Some(ticket), links).await,
        Ok(Err(_)) => links.tell(Happened::Done { ticket, result: Err(Failure::Gone) }).await,
        Err(_) => links.tell(Happened::Done { ticket, result: Err(Failure::TimedOut) }).await,
    }
}

/// Waits until everything has left and then, but not for long, until the other side has ended too, if it may have something to read:
/// closing at once could destroy that. The loop may learn meanwhile that it has nothing.
// HOST-19.
async fn hang_up<C: Connection>(
    conn: &C,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    code: u32,
    (streams, linger): (Vec<mpsc::UnboundedSender<Write>>, bool),
) {
    let until = Instant::now() + LEAVE;
    for stream in streams {
        drop(timeout_at(until, stream.closed()).await);
    }
    let ended = async { while conn.accept().await.is_ok() {} };
    let released = async {
        while let Some(order) = orders.recv().await {
            if matches!(order, Order::Close | Order::Hangup { linger: false, .. }) {
                return;
            }
        }
    };
    if linger {
        tokio::select! {
            _ = timeout(LINGER, ended) => {}
            () = released => {}
        }
    }
    conn.close(code);
}

/// What the loop asks of a stream's sending half.
#[derive(Debug)]
pub(crate) enum Write {
    Bytes(Vec<u8>),
    Finish,
    Chunks(SendJob),
    Speech(Say),
}

/// What the loop asks of a stream's receiving half.
#[derive(Debug)]
pub(crate) enum Read {
    /// Chunks follow.
    Chunks(Receive),
    /// An application's records follow.
    Speech(Hear),
    /// Nothing but the end may follow.
    End,
}

/// The loop's hold on a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) conn: ConnId,
    pub(super) write: mpsc::UnboundedSender<Write>,
    pub(super) read: mpsc::UnboundedSender<Read>,
    pub(super) stopper: Stopper,
    pub(super) queue: Arc<Queue>,
    /// The half that workers have.
    pub(super) working: Option<Half>,
    /// How its receiving half ended, and whether the Node knows.
    pub(super) end: Option<Cut>,
    pub(super) told: bool,
    /// Its sending half is done.
    pub(super) written: bool,
}

/// A half of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Sending,
    Receiving,
}

/// How much waits to be sent.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(super) bytes: AtomicUsize,
    /// Something was sent since the Node was last told that the queue is short.
    pub(super) armed: AtomicBool,
}

async fn start<T: Tx, R: Rx>(tx: T, rx: R, deframer: Deframer, conn: ConnId, opened: Option<Ticket>, links: &Links) {
    let id = StreamId(links.number());
    let (write, writes) = mpsc::unbounded_channel();
    let (read, reads) = mpsc::unbounded_channel();
    let (stopper, stop) = Stopper::new();
    let queue = Arc::new(Queue::default());
    let stream = Stream { conn, write, read, stopper, queue: Arc::clone(&queue), working: None, end: None, told: false, written: false };
    links.tell(Happened::StreamUp { stream: id, opened, handle: Box::new(stream) }).await;
    tokio::spawn(Reader { id, rx, deframer, orders: reads, stop: stop.clone(), links: links.clone() }.run());
    tokio::spawn(Writer { id, tx, orders: writes, queue, stop, links: links.clone() }.run());
}

struct Reader<R> {
    id: StreamId,
    rx: R,
    deframer: Deframer,
    orders: mpsc::UnboundedReceiver<Read>,
    stop: Stop,
    links: Links,
}

/// What a reader does next.
enum Next {
    Bytes(usize),
    Order(Read),
    End(Cut),
    Stopped,
}

impl<R: Rx> Reader<R> {
    async fn run(mut self) {
        let mut only_end = false;
        let cut = loop {
            if let Err(cut) = self.frames().await {
                break cut;
            }
            match self.next(only_end).await {
                Next::Bytes(count) if !only_end => self.deframer.filled(count),
                Next::Bytes(_) => break Cut::Malformed,
                Next::Order(Read::End) => only_end = true,
                Next::Order(Read::Chunks(job)) => {
                    return receive(self.rx, self.deframer.into_rest(), job, self.id, self.stop, self.links);
                }
                Next::Order(Read::Speech(job)) => {
                    return job.run(self.rx, self.deframer.into_rest(), self.id, self.stop, self.links).await;
                }
                Next::End(cut) => break cut,
                Next::Stopped => return self.rx.stop(self.stop.code().unwrap_or(code::DONE)),
            }
        };
        if cut == Cut::Malformed {
            debug!(id = ?self.id, "stream is malformed");
            self.rx.stop(code::REFUSED);
        }
        self.links.tell(Happened::ReadEnd { stream: self.id, cut }).await;
    }

    /// Hands over the frames that are whole.
    async fn frames(&mut self) -> Result<(), Cut> {
        for frame in self.deframer.by_ref() {
            let frame: Frame = frame.map_err(|_| Cut::Malformed)?;
            self.links.tell(Happened::Frame { stream: self.id, frame }).await;
        }
        Ok(())
    }

    async fn next(&mut self, only_end: bool) -> Next {
        let mut one = [0];
        let parked = self.deframer.parked() && !only_end;
        let space = if only_end { &mut one[..] } else { self.deframer.space() };
        tokio::select! {
            biased;
            // A job that is on its way gets its half before a stop does: it knows what a stop leaves to do.
            order = self.orders.recv() => order.map_or(Next::Stopped, Next::Order),
            () = self.stop.set() => Next::Stopped,
            read = self.rx.read(space), if !parked => match read {
                Ok(0) => Next::End(Cut::Finished),
                Ok(count) => Next::Bytes(count),
                Err(_) => Next::End(Cut::Broken),
            },
        }
    }
}

/// Half-closes; whether everything has left. `None` if the stream was stopped meanwhile.
pub(crate) async fn finish(tx: &mut impl Tx, stop: &Stop) -> Option<bool> {
    tokio::select! {
        biased;
        () = stop.set() => None,
        finished = tx.finish() => Some(finished.is_ok()),
    }
}

struct Writer<T> {
    id: StreamId,
    tx: T,
    orders: mpsc::UnboundedReceiver<Write>,
    queue: Arc<Queue>,
    stop: Stop,
    links: Links,
}

impl<T: Tx> Writer<T> {
    async fn run(mut self) {
        let sent = loop {
            let order = tokio::select! {
                biased;
                () = self.stop.set() => None,
                order = self.orders.recv() => order,
            };
            match order {
                None => return self.tx.reset(self.stop.code().unwrap_or(code::DONE)),
                Some(Write::Bytes(bytes)) => match self.bytes(&bytes).await {
                    Some(Ok(())) => {}
                    Some(Err(_)) => break false,
                    None => return self.tx.reset(self.stop.code().unwrap_or(code::DONE)),
                },
                Some(Write::Finish) => match finish(&mut self.tx, &self.stop).await {
                    Some(sent) => break sent,
                    None => return self.tx.reset(self.stop.code().unwrap_or(code::DONE)),
                },
                Some(Write::Chunks(job)) => return send(self.tx, job, self.id, self.stop, self.links),
                Some(Write::Speech(job)) => return job.run(self.tx, self.id, self.stop, self.links).await,
            }
        };
        self.links.tell(Happened::WriteEnd { stream: self.id, sent }).await;
    }

    /// `None` if the stream was stopped meanwhile.
    async fn bytes(&mut self, bytes: &[u8]) -> Option<io::Result<()>> {
        let written = tokio::select! {
            biased;
            () = self.stop.set() => return None,
            written = self.tx.write_all(bytes) => written,
        };
        let before = self.queue.bytes.fetch_sub(bytes.len(), Ordering::AcqRel);
        if before - bytes.len() <= SHORT && self.queue.armed.swap(false, Ordering::AcqRel) && written.is_ok() {
            self.links.tell(Happened::Drained { stream: self.id }).await;
        }
        Some(written)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::tcp::{Tcp, TcpConnection};

    async fn pair() -> (TcpConnection, TcpConnection) {
        let tcp = Tcp::bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap();
        let to = tcp.local().dialable().next().unwrap();
        let (dialled, accepted) = tokio::join!(tcp.dial(&to), tcp.accept());
        (dialled.unwrap(), accepted.unwrap())
    }

    /// Starts the sending half of a stream as the loop does, with `bytes` and the end.
    fn written(tx: impl Tx, bytes: &[u8]) -> (mpsc::UnboundedSender<Write>, mpsc::Receiver<Happened>, Stopper) {
        let (host, happened) = mpsc::channel(64);
        let (write, orders) = mpsc::unbounded_channel();
        let (stopper, stop) = Stopper::new();
        let queue = Queue { bytes: AtomicUsize::new(bytes.len()), armed: AtomicBool::new(false) };
        write.send(Write::Bytes(bytes.to_vec())).unwrap();
        write.send(Write::Finish).unwrap();
        let writer = Writer { id: StreamId(1), tx, orders, queue: Arc::new(queue), stop, links: Links::new(host) };
        tokio::spawn(writer.run());
        (write, happened, stopper)
    }

    async fn read_to_end(rx: &mut impl Rx) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
        loop {
            match rx.read(&mut buffer).await? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    /// What the system holds when the connection is closed still arrives at a remote that has not begun to read.
    #[tokio::test]
    async fn a_hang_up_does_not_take_back_what_was_sent() {
        let (dialled, accepted) = pair().await;
        let (tx, rx) = dialled.open().await.unwrap();
        let sent = bytes(512 << 10);
        let (write, _happened, _stopper) = written(tx, &sent);
        let (_open, mut orders) = mpsc::unbounded_channel();
        hang_up(&dialled, &mut orders, code::DONE, (vec![write], true)).await;
        drop((dialled, rx));
        // Only now.
        let (_far_tx, mut far_rx) = accepted.accept().await.unwrap();
        assert!(read_to_end(&mut far_rx).await.unwrap() == sent);
    }

    /// HOST-19: who has read the last word does not wait for the other side, also if it learns that only while it waits.
    #[tokio::test]
    async fn a_hang_up_waits_only_for_who_may_have_something_to_read() {
        for linger in [false, true] {
            let (dialled, accepted) = pair().await;
            let (_tx, _rx) = dialled.open().await.unwrap();
            let (_far_tx, _far_rx) = accepted.accept().await.unwrap();
            let (to, mut orders) = mpsc::unbounded_channel();
            to.send(Order::Hangup { code: code::DONE, streams: Vec::new(), linger: false }).unwrap();
            tokio::select! {
                biased;
                () = hang_up(&dialled, &mut orders, code::DONE, (Vec::new(), linger)) => {}
                () = std::future::ready(()) => panic!("it waits"),
            }
        }
    }

    /// HOST-29: with no place left none is taken, and one that ends gives its place to the next.
    #[tokio::test]
    async fn only_so_many_connections_are_served_at_once() {
        let tcp = Tcp::bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap();
        let to = tcp.bound()[0];
        let (host, mut happened) = mpsc::channel(64);
        let links = Links { slots: Arc::new(tokio::sync::Semaphore::new(2)), ..Links::new(host) };
        let slots = Arc::clone(&links.slots);
        let serving = tokio::spawn(async move { accept(&tcp, &links).await });
        let mut dialled = Vec::new();
        for _ in 0..3 {
            dialled.push(tokio::net::TcpStream::connect(to).await.unwrap());
        }
        // The loop's hold on the streams that they bring: without it they end.
        let (mut up, mut streams) = (Vec::new(), Vec::new());
        while up.len() + streams.len() < 4 {
            match happened.recv().await {
                Some(Happened::ConnUp { orders, .. }) => up.push(orders),
                Some(Happened::StreamUp { handle, .. }) => streams.push(handle),
                _ => {}
            }
        }
        assert_eq!((up.len(), slots.available_permits()), (2, 0));
        // Nothing else happens until one of them ends.
        assert!(timeout(LINGER, happened.recv()).await.is_err(), "a third is served beside two");
        up[0].send(Order::Close).unwrap();
        while !matches!(happened.recv().await, Some(Happened::ConnUp { .. })) {}
        serving.abort();
    }

    /// More than the system takes: it leaves when the remote reads, however late that is within the bound.
    #[tokio::test]
    async fn a_hang_up_waits_for_a_remote_that_reads_late() {
        let (dialled, accepted) = pair().await;
        let (tx, rx) = dialled.open().await.unwrap();
        let sent = bytes(32 << 20);
        let (write, mut happened, _stopper) = written(tx, &sent);
        let (_far_tx, mut far_rx) = accepted.accept().await.unwrap();
        let late = async {
            // The stall itself, and no wait for a result: a hang-up that does not wait is over after it.
            sleep(LINGER * 5 / 2).await;
            let arrived = read_to_end(&mut far_rx).await;
            drop(_far_tx);
            arrived
        };
        let hung_up = async {
            let (_open, mut orders) = mpsc::unbounded_channel();
            hang_up(&dialled, &mut orders, code::DONE, (vec![write], true)).await;
            drop(rx);
        };
        let ((), arrived) = tokio::join!(hung_up, late);
        assert!(arrived.unwrap() == sent);
        assert!(matches!(happened.recv().await, Some(Happened::WriteEnd { sent: true, .. })));
    }
}
