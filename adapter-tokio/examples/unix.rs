//! The transport of this crate's README, as a file that is compiled and put through the conformance suite.
#![allow(unreachable_pub, dead_code, missing_docs, missing_debug_implementations, reason = "a page of documentation")]

use std::io;
use std::sync::Mutex;

use adapter_tokio::service::{BoxTransport, ServiceConfig};
use adapter_tokio::transport::{Connection, Rx, Transport, Tx};
use protocol_core::effects::Remote;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

pub struct Unix {
    path: String,
    listener: UnixListener,
    open: watch::Sender<bool>,
}

impl Unix {
    pub fn bind(path: String) -> io::Result<Self> {
        Ok(Self { listener: UnixListener::bind(&path)?, path, open: watch::Sender::new(true) })
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap_or(());
    }
}

impl Transport for Unix {
    type Conn = Conn;

    fn kind(&self) -> TransportKind {
        TransportKind::Tcp
    }

    fn local(&self) -> TransportInfo {
        let addresses = if *self.open.borrow() { vec![self.path.clone()] } else { Vec::new() };
        TransportInfo { kind: self.kind(), id: Vec::new(), addresses, relay: None }
    }

    async fn dial(&self, to: &Address) -> io::Result<Conn> {
        let mut socket = UnixStream::connect(&to.text).await?;
        let mut exporter = vec![0; 32];
        socket.read_exact(&mut exporter).await?;
        Ok(Conn::new(socket, exporter, true))
    }

    async fn accept(&self) -> io::Result<Conn> {
        let mut open = self.open.subscribe();
        let (mut socket, _) = tokio::select! {
            _ = open.wait_for(|open| !open) => return Err(gone()),
            accepted = self.listener.accept() => accepted?,
        };
        let mut exporter = vec![0; 32];
        getrandom::fill(&mut exporter).map_err(io::Error::other)?;
        socket.write_all(&exporter).await?;
        Ok(Conn::new(socket, exporter, false))
    }

    async fn close(&self) {
        self.open.send_replace(false);
    }
}

/// A connection is one stream: the dialling side opens it, the other accepts it, and both are down when it is.
pub struct Conn {
    exporter: Vec<u8>,
    dialled: bool,
    stream: Mutex<Option<(Sender, Receiver)>>,
    up: watch::Sender<bool>,
}

impl Conn {
    fn new(socket: UnixStream, exporter: Vec<u8>, dialled: bool) -> Self {
        let (up, (rx, tx)) = (watch::Sender::new(true), socket.into_split());
        let stream = Mutex::new(Some((Sender(tx, up.subscribe()), Receiver(rx, up.subscribe()))));
        Self { exporter, dialled, stream, up }
    }

    fn take(&self, dialled: bool) -> Option<(Sender, Receiver)> {
        self.stream.lock().ok().filter(|_| self.dialled == dialled)?.take()
    }
}

impl Connection for Conn {
    type Tx = Sender;
    type Rx = Receiver;

    fn remote(&self) -> Remote {
        let (exporter, address) = (self.exporter.clone(), String::new());
        Remote { kind: TransportKind::Tcp, id: Vec::new(), exporter, address, source: "here".into(), one_stream: true }
    }

    async fn open(&self) -> io::Result<(Sender, Receiver)> {
        self.take(true).ok_or_else(gone)
    }

    async fn accept(&self) -> io::Result<(Sender, Receiver)> {
        if let Some(stream) = self.take(false) {
            return Ok(stream);
        }
        self.up.closed().await; // the last half was dropped
        Err(gone())
    }

    fn close(&self, _code: u32) {
        self.up.send_replace(false);
        self.stream.lock().map(|mut stream| drop(stream.take())).unwrap_or(());
    }
}

pub struct Sender(OwnedWriteHalf, watch::Receiver<bool>);
pub struct Receiver(OwnedReadHalf, watch::Receiver<bool>);

impl Tx for Sender {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::select! {
            biased;
            _ = self.1.wait_for(|up| !up) => Err(gone()),
            written = self.0.write_all(bytes) => written,
        }
    }
    async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
    // A Unix socket cannot tell a cut from an end. The protocol notices by itself, only later.
    fn reset(&mut self, _code: u32) {}
}

impl Rx for Receiver {
    async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        tokio::select! {
            biased;
            _ = self.1.wait_for(|up| !up) => Err(gone()),
            read = self.0.read(into) => read,
        }
    }
    fn stop(&mut self, _code: u32) {}
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

fn configure(path: String) -> io::Result<ServiceConfig> {
    let transports = vec![BoxTransport::new(Unix::bind(path)?)];
    Ok(ServiceConfig { stacks: Vec::new(), transports, ..ServiceConfig::new("/home/me/.kin") })
}

fn main() -> io::Result<()> {
    let _config = configure("/tmp/kin.socket".to_owned())?;
    Ok(())
}
