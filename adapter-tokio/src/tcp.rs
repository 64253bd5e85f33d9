//! Bare TCP: the smallest transport. A connection is one stream; our own session is all the protection that it needs.
//!
//! The accepting side speaks first: 32 fresh random bytes, which bind a handshake to its connection (PROTOCOL.md, section 6.0).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol_core::effects::Remote;
use protocol_core::info::{Address, TransportInfo, TransportKind};
#[cfg(target_os = "linux")]
use protocol_core::limits::PAGE_WAIT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::transport::{Connection, Rx, Stop, Transport, Tx, source, stopped};

/// The accepting side's random bytes.
const EXPORTER: usize = 32;
/// How long one address may take to connect, and the remote to send its random bytes.
const CONNECT: Duration = Duration::from_secs(10);
/// Addresses of this machine that are told for one that means all, of each family.
const OWN_ADDRESSES: usize = 4;
/// Connections that the system keeps until we accept them.
const BACKLOG: i32 = 128;
/// How long the system goes on delivering what was sent on a connection that is closed here, to a remote that takes nothing of it.
#[cfg(target_os = "linux")]
const DELIVER: Duration = PAGE_WAIT;
/// How often a blocked worker looks whether it should stop.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The bare TCP transport.
#[derive(Debug)]
pub struct Tcp {
    listeners: Vec<(SocketAddr, TcpListener)>,
    closed: watch::Sender<bool>,
}

impl Tcp {
    /// Listens on every one of `bind`; port 0 is any free port. With none it only dials.
    ///
    /// # Errors
    /// The system's, if one of them cannot be had.
    // HOST-13.
    pub fn bind(bind: &[SocketAddr]) -> io::Result<Self> {
        let listeners = bind.iter().map(|at| listen(*at)).collect::<io::Result<_>>()?;
        Ok(Self { listeners, closed: watch::Sender::new(false) })
    }

    /// The addresses on which it listens, as the system gave them.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(at, _)| *at).collect()
    }
}

fn listen(at: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    // A port of a connection that just ended must not be lost for minutes.
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok((listener.local_addr()?, listener))
}

impl Transport for Tcp {
    type Conn = TcpConnection;

    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    fn local(&self) -> TransportInfo {
        let addresses = if *self.closed.borrow() { Vec::new() } else { self.bound().into_iter().flat_map(reachable).collect() };
        TransportInfo { kind: TransportKind::Tcp, id: Vec::new(), addresses, relay: None }
    }

    async fn dial(&self, to: &Address) -> io::Result<TcpConnection> {
        // The resolver wants a port: without one the text is no address.
        let mut last = io::Error::from(io::ErrorKind::InvalidInput);
        for at in lookup_host(to.text.as_str()).await? {
            match timeout(CONNECT, dial(at)).await {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    async fn accept(&self) -> io::Result<TcpConnection> {
        let mut closed = self.closed.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return Err(io::ErrorKind::NotConnected.into()),
                accepted = accept_any(&self.listeners) => accepted?,
            };
            // Whoever is gone already, or whose socket takes not even 32 bytes, is no connection.
            if let Ok(conn) = welcome(accepted) {
                return Ok(conn);
            }
        }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// The next connection of any listener.
async fn accept_any(listeners: &[(SocketAddr, TcpListener)]) -> io::Result<TcpStream> {
    std::future::poll_fn(|cx| {
        for (_, listener) in listeners {
            match listener.poll_accept(cx) {
                std::task::Poll::Ready(Ok((socket, _))) => return std::task::Poll::Ready(Ok(socket)),
                // The remote went away between its connecting and our accepting.
                std::task::Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => cx.waker().wake_by_ref(),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => {}
            }
        }
        std::task::Poll::Pending
    })
    .await
}

// HOST-15.
fn welcome(socket: TcpStream) -> io::Result<TcpConnection> {
    let mut exporter = [0; EXPORTER];
    getrandom::fill(&mut exporter).map_err(|_| io::ErrorKind::Other)?;
    // A fresh socket's buffer holds far more than this, so that nothing has to wait.
    SockRef::from(&socket).send(&exporter).and_then(|sent| if sent == EXPORTER { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) })?;
    TcpConnection::new(socket, exporter, Side::Accepted)
}

async fn dial(at: SocketAddr) -> io::Result<TcpConnection> {
    let (socket, exporter) = greeted(at).await.map_err(|error| match error.kind() {
        // The system took the connection, and the process behind it was ending: nobody listens there now.
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => io::ErrorKind::ConnectionRefused.into(),
        _ => error,
    })?;
    TcpConnection::new(socket, exporter, Side::Dialled)
}

/// A connection on which the accepting side has spoken.
async fn greeted(at: SocketAddr) -> io::Result<(TcpStream, [u8; EXPORTER])> {
    let socket = TcpStream::connect(at).await?;
    let mut exporter = [0; EXPORTER];
    let mut filled = 0;
    while let Some(space) = exporter.get_mut(filled..).filter(|space| !space.is_empty()) {
        socket.readable().await?;
        match socket.try_read(space) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok((socket, exporter))
}

/// The addresses at which others may find what listens at `bound`: the one that most of them would use first.
fn reachable(bound: SocketAddr) -> Vec<String> {
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    // Connecting a datagram socket sends nothing; it only asks the system which of our addresses it would use.
    let (own, far): (IpAddr, IpAddr) = match bound {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let probe = UdpSocket::bind((own, 0)).and_then(|probe| probe.connect((far, 9)).and_then(|()| probe.local_addr()));
    let routed = probe.ok().map(|own| own.ip()).filter(|ip| !ip.is_unspecified());
    // A network without a way out of it has no such address, and is one all the same.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let others = interfaces.iter().filter(|interface| !interface.is_loopback()).map(if_addrs::Interface::ip);
    let mut all: Vec<IpAddr> = Vec::new();
    for ip in routed.into_iter().chain(others.filter(|ip| ip.is_ipv4() == bound.is_ipv4() && !is_of_one_link(*ip))) {
        if !all.contains(&ip) && all.len() < OWN_ADDRESSES {
            all.push(ip);
        }
    }
    if all.is_empty() && bound.is_ipv4() {
        // A machine without a network still has itself.
        all.push(Ipv4Addr::LOCALHOST.into());
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, bound.port()).to_string()).collect()
}

/// Whether an address of IPv6 means something on one link alone: others would have to know which.
const fn is_of_one_link(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Dialled,
    Accepted,
}

/// A TCP connection and its one stream.
#[derive(Debug)]
pub struct TcpConnection {
    side: Side,
    remote: Remote,
    stream: Mutex<Option<(TcpTx, TcpRx)>>,
    shared: std::sync::Weak<Shared>,
    /// Dropped with the last half.
    gone: watch::Receiver<()>,
}

/// The socket, owned by the two halves of its stream.
#[derive(Debug)]
struct Shared {
    socket: TcpStream,
    /// All was sent, and the end: the system has it.
    finished: AtomicBool,
    closed: AtomicBool,
    close: watch::Sender<bool>,
    _gone: watch::Sender<()>,
}

impl Shared {
    /// Both directions end, at the remote by a reset. Waiting halves are woken.
    fn abort(&self) {
        drop(SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)));
        self.end();
    }

    /// The same, except that what was sent up to its end still arrives: a reset would take it back from a remote that reads slowly.
    fn close(&self) {
        if !self.finished.load(Ordering::Acquire) {
            return self.abort();
        }
        #[cfg(target_os = "linux")]
        drop(SockRef::from(&self.socket).set_tcp_user_timeout(Some(DELIVER)));
        self.end();
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        self.close.send_replace(true);
    }

    fn check(&self) -> io::Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(stopped()) } else { Ok(()) }
    }

    async fn aborted(&self) -> io::Error {
        let mut close = self.close.subscribe();
        drop(close.wait_for(|close| *close).await);
        stopped()
    }

    /// Waits on a worker thread until the socket is ready for `what`, or something else is to be looked at.
    fn wait(&self, what: PollFlags) -> io::Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), what)];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl TcpConnection {
    fn new(socket: TcpStream, exporter: [u8; EXPORTER], side: Side) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let at = socket.peer_addr()?;
        let remote = Remote {
            kind: TransportKind::Tcp,
            id: Vec::new(),
            exporter: exporter.to_vec(),
            address: SocketAddr::new(at.ip().to_canonical(), at.port()).to_string(),
            source: source(at.ip()),
            one_stream: true,
        };
        let (gone_tx, gone) = watch::channel(());
        let shared = Arc::new(Shared {
            socket,
            finished: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            close: watch::Sender::new(false),
            _gone: gone_tx,
        });
        let weak = Arc::downgrade(&shared);
        let stream = (TcpTx { shared: Arc::clone(&shared) }, TcpRx(shared));
        Ok(Self { side, remote, stream: Mutex::new(Some(stream)), shared: weak, gone })
    }

    fn take(&self, side: Side) -> Option<(TcpTx, TcpRx)> {
        if self.side != side {
            return None;
        }
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Connection for TcpConnection {
    type Tx = TcpTx;
    type Rx = TcpRx;

    fn remote(&self) -> Remote {
        self.remote.clone()
    }

    async fn open(&self) -> io::Result<(TcpTx, TcpRx)> {
        self.take(Side::Dialled).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    async fn accept(&self) -> io::Result<(TcpTx, TcpRx)> {
        if let Some(stream) = self.take(Side::Accepted) {
            return Ok(stream);
        }
        // Nothing is ever sent on it: it ends when the last half is dropped.
        while self.gone.clone().changed().await.is_ok() {}
        Err(io::ErrorKind::NotConnected.into())
    }

    fn close(&self, _code: u32) {
        if let Some(shared) = self.shared.upgrade() {
            shared.close();
        }
        // A stream that nobody took would keep the socket open.
        drop(self.stream.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The sending half.
#[derive(Debug)]
pub struct TcpTx {
    shared: Arc<Shared>,
}

impl Tx for TcpTx {
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.shared.check()?;
            match self.shared.socket.try_write(bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::select! {
                    error = self.shared.aborted() => return Err(error),
                    ready = self.shared.socket.writable() => ready?,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        SockRef::from(&self.shared.socket).shutdown(std::net::Shutdown::Write)?;
        self.shared.finished.store(true, Ordering::Release);
        Ok(())
    }

    fn reset(&mut self, _code: u32) {
        self.shared.abort();
    }

    fn write_all_blocking(&mut self, mut bytes: &[u8], _runtime: &Handle, stop: &Stop) -> io::Result<()> {
        let socket = SockRef::from(&self.shared.socket);
        while !bytes.is_empty() {
            self.shared.check()?;
            match socket.send(bytes) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stop.code().is_some() {
                        return Err(stopped());
                    }
                    self.shared.wait(PollFlags::OUT)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for TcpTx {
    fn drop(&mut self) {
        // Without this the system would half-close on its own, and a cut would look like an end.
        if !self.shared.finished.load(Ordering::Acquire) {
            self.shared.abort();
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct TcpRx(Arc<Shared>);

impl Rx for TcpRx {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.check()?;
            match self.0.socket.try_read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::select! {
                    error = self.0.aborted() => return Err(error),
                    ready = self.0.socket.readable() => ready?,
                },
                done => return done,
            }
        }
    }

    fn stop(&mut self, _code: u32) {}

    fn read_blocking(&mut self, into: &mut [u8], _runtime: &Handle, stop: &Stop) -> io::Result<usize> {
        let mut socket = &*SockRef::from(&self.0.socket);
        loop {
            self.0.check()?;
            match io::Read::read(&mut socket, into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stop.code().is_some() {
                        return Err(stopped());
                    }
                    self.0.wait(PollFlags::IN)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests;
