//! A connection and its streams.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use adapter_tokio::transport::{Connection, Rx, Tx};
use futures::{AsyncRead, AsyncWrite};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, Stream};
use libp2p::{Multiaddr, PeerId};
use protocol_core::effects::Remote;
use protocol_core::info::TransportKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::STREAMS;
use crate::handler::Parts;
use crate::streams::{Command, Raw, source_of};

/// A connection to a peer.
#[derive(Debug)]
pub struct Libp2pConnection {
    peer: PeerId,
    id: ConnectionId,
    remote: Remote,
    open: mpsc::Sender<oneshot::Sender<io::Result<Stream>>>,
    streams: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
    commands: mpsc::UnboundedSender<Command>,
    closed: watch::Sender<bool>,
    /// A permit for each stream that we may open.
    ours: Arc<Semaphore>,
}

impl Libp2pConnection {
    pub(crate) fn new(raw: Raw, commands: mpsc::UnboundedSender<Command>) -> Self {
        let Raw { peer, id, address, parts: Parts { open, streams } } = raw;
        let remote = Remote {
            kind: TransportKind::Libp2p,
            id: peer.to_bytes(),
            exporter: Vec::new(),
            address: without_peer(&address).to_string(),
            source: source_of(&address),
            one_stream: false,
        };
        let (closed, ours) = (watch::Sender::new(false), Arc::new(Semaphore::new(STREAMS)));
        Self { peer, id, remote, open, streams: tokio::sync::Mutex::new(streams), commands, closed, ours }
    }

    fn halves(&self, stream: Stream, permit: Option<OwnedSemaphorePermit>) -> (Libp2pTx, Libp2pRx) {
        let shared = Arc::new(Shared { stream: Mutex::new(Some(stream)), closed: self.closed.subscribe(), _permit: permit });
        (Libp2pTx { shared: Arc::clone(&shared), finished: false }, Libp2pRx(shared))
    }

    async fn closed(&self) -> io::Error {
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
        io::ErrorKind::ConnectionAborted.into()
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

impl Connection for Libp2pConnection {
    type Tx = Libp2pTx;
    type Rx = Libp2pRx;

    fn remote(&self) -> Remote {
        self.remote.clone()
    }

    async fn open(&self) -> io::Result<(Libp2pTx, Libp2pRx)> {
        let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
        let permit = Arc::clone(&self.ours).try_acquire_owned().map_err(|_| io::ErrorKind::QuotaExceeded)?;
        let asked = async {
            let (reply, stream) = oneshot::channel();
            self.open.send(reply).await.map_err(|_| io::ErrorKind::NotConnected)?;
            tokio::select! {
                biased;
                stream = stream => stream.map_err(gone)?,
                // Whoever answers is gone. What it did not look at stays in the channel, with the question, as long as we have its end.
                () = self.open.closed() => Err(io::ErrorKind::NotConnected.into()),
            }
        };
        tokio::select! {
            biased;
            error = self.closed() => Err(error),
            stream = asked => Ok(self.halves(stream?, Some(permit))),
        }
    }

    async fn accept(&self) -> io::Result<(Libp2pTx, Libp2pRx)> {
        let mut streams = self.streams.lock().await;
        tokio::select! {
            biased;
            error = self.closed() => Err(error),
            stream = streams.recv() => stream.map(|stream| self.halves(stream, None)).ok_or_else(|| io::ErrorKind::NotConnected.into()),
        }
    }

    fn close(&self, _code: u32) {
        self.closed.send_replace(true);
        drop(self.commands.send(Command::Close(self.peer, self.id)));
    }
}

impl Drop for Libp2pConnection {
    fn drop(&mut self) {
        self.close(0);
    }
}

/// A stream, until one of its halves cuts it.
#[derive(Debug)]
struct Shared {
    stream: Mutex<Option<Stream>>,
    closed: watch::Receiver<bool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Stream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dropped, a stream that is open is reset. One direction alone cannot be.
    fn cut(&self) {
        drop(self.lock().take());
    }

    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut stream = self.lock();
        match stream.as_mut() {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    async fn or_closed<T>(&self, result: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut closed = self.closed.clone();
        tokio::select! {
            biased;
            // Without its connection too: who closed that has no streams any more.
            _ = closed.wait_for(|closed| *closed) => {
                self.cut();
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            result = result => result,
        }
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct Libp2pTx {
    shared: Arc<Shared>,
    finished: bool,
}

impl Libp2pTx {
    fn poll_write_all(&self, cx: &mut Context<'_>, bytes: &mut &[u8]) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            match ready!(self.shared.poll(|stream| stream.poll_write(cx, bytes))) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => *bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.shared.poll(|stream| stream.poll_flush(cx))
    }
}

impl Tx for Libp2pTx {
    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let written = std::future::poll_fn(|cx| self.poll_write_all(cx, &mut bytes));
        self.shared.or_closed(written).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        let closed = std::future::poll_fn(|cx| self.shared.poll(|stream| stream.poll_close(cx)));
        self.shared.or_closed(closed).await?;
        self.finished = true;
        Ok(())
    }

    fn reset(&mut self, _code: u32) {
        self.shared.cut();
    }
}

impl Drop for Libp2pTx {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.cut();
        }
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Libp2pRx(Arc<Shared>);

impl Rx for Libp2pRx {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = std::future::poll_fn(|cx| self.0.poll(|stream| stream.poll_read(cx, into)));
        self.0.or_closed(read).await
    }

    fn stop(&mut self, _code: u32) {
        self.0.cut();
    }
}
