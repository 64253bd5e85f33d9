//! The door for network stacks: all that one must do to carry the protocol.
//!
//! A [`Transport`] dials and accepts connections, a [`Connection`] opens and accepts byte streams. A stream is ordered, may be
//! cut at any moment and is then short of a suffix, can be half-closed, and brings its own back-pressure. Nothing else is
//! promised: no order between streams, no confidentiality, no truth in what a remote says of itself.
//!
//! Every method that returns a future may be dropped before it is done; only where its text says so does that lose something.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use protocol_core::effects::Remote;
use protocol_core::info::{Address, TransportInfo, TransportKind};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// A network stack.
pub trait Transport: Send + Sync + 'static {
    /// Its connections.
    type Conn: Connection;

    /// Which transport it is. At most one of a kind belongs to a node.
    fn kind(&self) -> TransportKind;

    /// Who we are on it, and where it listens now.
    fn local(&self) -> TransportInfo;

    /// Connects. The caller sets the limit of time.
    ///
    /// # Errors
    /// `ConnectionRefused` if somebody is there and refuses, `InvalidInput` if `to` cannot be read, `TimedOut`, others.
    fn dial(&self, to: &Address) -> impl Future<Output = io::Result<Self::Conn>> + Send;

    /// The next connection from outside. What a single remote does wrong is no error: such a connection is dropped.
    ///
    /// # Errors
    /// The system's, where listening itself fails. The caller waits a moment and tries again.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Conn>> + Send;

    /// Waits until [`Transport::local`] says something new. One that never does waits for ever.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Stops listening. Connections go on.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// Ends what is left after [`Transport::close`], and cuts connections that still stand: when it returns, no socket and no task
    /// of the transport's own remains. The caller sets the limit of time.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A connection to one remote.
pub trait Connection: Send + Sync + 'static {
    /// The sending half of a stream.
    type Tx: Tx;
    /// The receiving half of a stream.
    type Rx: Rx;

    /// Who is at the other end.
    fn remote(&self) -> Remote;

    /// Opens a stream. With [`Remote::one_stream`] the dialling side gets its only stream, once.
    ///
    /// # Errors
    /// The connection is gone, or has no stream (left).
    fn open(&self) -> impl Future<Output = io::Result<(Self::Tx, Self::Rx)>> + Send;

    /// The next stream that the remote opened. With [`Remote::one_stream`] the accepting side gets its only stream at once.
    ///
    /// # Errors
    /// The connection is down: closed by either side, lost, or (with one stream) both halves of the stream are dropped.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Tx, Self::Rx)>> + Send;

    /// Waits until the connection goes another way than it did, through a relay or past it, and returns the place of the remote as
    /// [`Remote::address`] has it. One that never does waits for ever. Dropped early, nothing is lost.
    fn moved(&self) -> impl Future<Output = String> + Send {
        std::future::pending()
    }

    /// Closes the connection at once: every operation on it and its streams ends with an error.
    fn close(&self, code: u32);
}

/// The sending half of a stream. Dropping it without [`Tx::finish`] cuts the stream.
pub trait Tx: Send + 'static {
    /// Hands all of `bytes` to the network. Dropped early, an unknown part has gone.
    ///
    /// # Errors
    /// The stream is cut.
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Half-closes: the remote reads the end after the last byte. Where closing the connection would take back what is under way, it
    /// waits until the remote's network stack has all of it. Dropped early, the end has gone or has not.
    ///
    /// # Errors
    /// The stream is cut.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Cuts this direction; with one stream a connection, both. What was written may not arrive.
    fn reset(&mut self, code: u32);

    /// [`Tx::write_all`] for a worker thread, which it blocks. Ends with an error soon after `stop` is set.
    ///
    /// # Errors
    /// The stream is cut, or `stop` is set.
    fn write_all_blocking(&mut self, bytes: &[u8], runtime: &Handle, stop: &Stop) -> io::Result<()> {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.set() => Err(stopped()),
                written = self.write_all(bytes) => written,
            }
        })
    }
}

/// The receiving half of a stream. Dropping it tells the remote, if the transport can, that nothing more is wanted.
pub trait Rx: Send + 'static {
    /// Waits for some bytes and returns their number; 0 is the end that the remote made by half-closing.
    /// Dropped early, nothing is lost. `into` is not empty.
    ///
    /// # Errors
    /// The stream is cut.
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Tells the remote that nothing more is wanted.
    fn stop(&mut self, code: u32);

    /// [`Rx::read`] for a worker thread, which it blocks. Ends with an error soon after `stop` is set.
    ///
    /// # Errors
    /// The stream is cut, or `stop` is set.
    fn read_blocking(&mut self, into: &mut [u8], runtime: &Handle, stop: &Stop) -> io::Result<usize> {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.set() => Err(stopped()),
                read = self.read(into) => read,
            }
        })
    }
}

/// What an attacker cannot change for free, as [`Remote::source`] wants it: an IPv4 address, or an IPv6 network of 64 bits.
// HOST-17.
pub fn source(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// What a cut of our own making is reported as.
pub(crate) fn stopped() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Says whether a stream is to end now, and with which code. Clones see the same.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<u32>>);

/// The side that says so. Dropping it sets nothing.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<u32>>);

impl Stopper {
    /// A pair of both sides, not set.
    pub fn new() -> (Self, Stop) {
        let (tx, rx) = watch::channel(None);
        (Self(tx), Stop(rx))
    }

    /// Ends the stream. The first code stays.
    pub fn stop(&self, code: u32) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(code);
            first
        });
    }
}

impl Stop {
    /// The code, once it is set.
    pub fn code(&self) -> Option<u32> {
        *self.0.borrow()
    }

    /// Waits until it is set; for ever if nobody can set it any more.
    pub async fn set(&self) {
        let mut rx = self.0.clone();
        if rx.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
