//! A connection and its streams.

use std::io;
use std::sync::{Mutex, PoisonError};

use adapter_tokio::transport::{Connection, Rx, Tx, source};
use futures::StreamExt as _;
use iroh::TransportAddr;
use iroh::endpoint::{ConnectionError, PathList, ReadError, RecvStream, SendStream, VarInt, WriteError};
use protocol_core::effects::Remote;
use protocol_core::info::TransportKind;

/// The label of the exported keying material (PROTOCOL.md, section 6.2).
const EXPORTER: &[u8] = b"EXPORTER-kin/1";

/// A QUIC connection to an endpoint.
#[derive(Debug)]
pub struct IrohConnection {
    conn: iroh::endpoint::Connection,
    remote: Remote,
    /// Which way it goes, as [`Connection::moved`] has told last.
    way: Mutex<String>,
}

impl IrohConnection {
    pub(crate) fn new(conn: iroh::endpoint::Connection) -> io::Result<Self> {
        let mut exporter = vec![0; 32];
        conn.export_keying_material(&mut exporter, EXPORTER, &[]).map_err(|_| io::Error::other("no keying material is exported"))?;
        let paths = conn.paths();
        let path = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
        let (address, from) = match path.as_ref().map(|path| path.remote_addr()) {
            Some(at @ TransportAddr::Ip(socket)) => (place(at), source(socket.ip())),
            // Whoever comes through a relay can have as many keys as it likes: all of a relay share a bound.
            Some(other) => (place(other), place(other)),
            None => (String::new(), String::new()),
        };
        let id = conn.remote_id().as_bytes().to_vec();
        let remote = Remote { kind: TransportKind::Iroh, id, exporter, address, source: from, one_stream: false };
        Ok(Self { conn, way: Mutex::new(remote.address.clone()), remote })
    }
}

/// Where a remote is, as addresses of kin have it.
fn place(at: &TransportAddr) -> String {
    match at {
        TransportAddr::Ip(at) => at.to_string(),
        TransportAddr::Relay(url) => url.to_string(),
        other => other.to_string(),
    }
}

/// The way that is taken now.
fn way(paths: &PathList<'_>) -> Option<String> {
    paths.iter().find(|path| path.is_selected()).map(|path| place(path.remote_addr()))
}

impl Connection for IrohConnection {
    type Tx = IrohTx;
    type Rx = IrohRx;

    fn remote(&self) -> Remote {
        self.remote.clone()
    }

    async fn open(&self) -> io::Result<(IrohTx, IrohRx)> {
        let (tx, rx) = self.conn.open_bi().await.map_err(lost)?;
        Ok((IrohTx { tx, finished: false }, IrohRx(rx)))
    }

    async fn accept(&self) -> io::Result<(IrohTx, IrohRx)> {
        let (tx, rx) = self.conn.accept_bi().await.map_err(lost)?;
        Ok((IrohTx { tx, finished: false }, IrohRx(rx)))
    }

    async fn moved(&self) -> String {
        let mut paths = self.conn.paths_stream();
        while let Some(paths) = paths.next().await {
            let Some(now) = way(&paths) else { continue };
            let mut told = self.way.lock().unwrap_or_else(PoisonError::into_inner);
            if *told != now {
                now.clone_into(&mut told);
                return now;
            }
        }
        // The connection is over.
        std::future::pending().await
    }

    fn close(&self, code: u32) {
        self.conn.close(VarInt::from_u32(code), b"");
    }
}

impl Drop for IrohConnection {
    fn drop(&mut self) {
        // Streams hold the connection too; without this it would outlive who let go of it.
        self.conn.close(VarInt::from_u32(0), b"");
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct IrohTx {
    tx: SendStream,
    finished: bool,
}

impl Tx for IrohTx {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tx.write_all(bytes).await.map_err(unwritten)
    }

    async fn finish(&mut self) -> io::Result<()> {
        if !self.finished {
            self.tx.finish().map_err(io::Error::other)?;
            self.finished = true;
        }
        // Closing the connection takes back what the remote has not acknowledged.
        match self.tx.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn reset(&mut self, code: u32) {
        self.finished = true;
        // One that has ended already has nothing to take back.
        self.tx.reset(VarInt::from_u32(code)).unwrap_or(());
    }
}

impl Drop for IrohTx {
    fn drop(&mut self) {
        // Left alone, the library would end the stream in order, and a cut would look like an end.
        if !self.finished {
            self.reset(0);
        }
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct IrohRx(RecvStream);

impl Rx for IrohRx {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).await.map(Option::unwrap_or_default).map_err(unread)
    }

    fn stop(&mut self, code: u32) {
        // One that has ended already sends nothing more.
        self.0.stop(VarInt::from_u32(code)).unwrap_or(());
    }
}

/// What kind of failure the end of a connection is.
pub(crate) fn kind(error: &ConnectionError) -> io::ErrorKind {
    match error {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::Reset => io::ErrorKind::ConnectionReset,
        ConnectionError::LocallyClosed => io::ErrorKind::ConnectionAborted,
        // The code of a refusal (RFC 9000, section 20.1).
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == 2 => io::ErrorKind::ConnectionRefused,
        ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_) => io::ErrorKind::ConnectionReset,
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) | ConnectionError::CidsExhausted => {
            io::ErrorKind::PermissionDenied
        }
    }
}

fn lost(error: ConnectionError) -> io::Error {
    io::Error::new(kind(&error), error)
}

fn unwritten(error: WriteError) -> io::Error {
    match error {
        WriteError::ConnectionLost(error) => lost(error),
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}

fn unread(error: ReadError) -> io::Error {
    match error {
        ReadError::ConnectionLost(error) => lost(error),
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}
