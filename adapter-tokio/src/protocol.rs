//! Protocols of the embedder: authenticated, encrypted byte streams between paired devices.
//!
//! ```no_run
//! # async fn run(service: adapter_tokio::service::NetworkingService, device: protocol_core::ids::DeviceId)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use protocol_core::node::Access;
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! let mut clipboards = service.register_protocol("clipboard/1", Access::Paired).await?;
//! // On the other device, once it is connected:
//! let mut stream = service.open_protocol(device, "clipboard/1").await?;
//! stream.write_all(b"what was copied").await?;
//! stream.shutdown().await?;
//! // Here:
//! while let Some(mut stream) = clipboards.next().await {
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text).await?;
//!     println!("{} has copied {text}", stream.device());
//! }
//! # Ok(())
//! # }
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use protocol_core::ids::DeviceId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use self::pipe::Pipe;
use crate::driver::Call;

pub(crate) mod pipe;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;

/// Both directions of a stream.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) incoming: Pipe,
    pub(crate) outgoing: Pipe,
}

/// A stream of a protocol with a paired device: what is written leaves sealed under keys of its own, and what is read was sealed by
/// that device.
///
/// Shutting it down says that all was said, and waits until it has left. Reading gives an end only where the other side said that; a
/// stream that was cut is an error ([`UnexpectedEof`](io::ErrorKind::UnexpectedEof) or
/// [`ConnectionReset`](io::ErrorKind::ConnectionReset)), and so is one that was changed
/// ([`InvalidData`](io::ErrorKind::InvalidData)). Dropping it before it was shut down resets it. It ends with the last session with its
/// device, and at once when that is forgotten. A direction carries at most 64 GiB.
#[derive(Debug)]
pub struct ProtocolStream {
    device: DeviceId,
    name: String,
    pipes: Arc<Pipes>,
}

impl ProtocolStream {
    /// A stream, and what its tasks get.
    pub(crate) fn new(device: DeviceId, name: String) -> (Self, Arc<Pipes>) {
        let pipes: Arc<Pipes> = Arc::default();
        (Self { device, name, pipes: Arc::clone(&pipes) }, pipes)
    }

    /// The device at the other end.
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// The protocol that is spoken on it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for ProtocolStream {
    fn drop(&mut self) {
        self.pipes.incoming.let_go();
        self.pipes.outgoing.let_go();
    }
}

impl AsyncRead for ProtocolStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pipes.incoming.poll_read(cx, into)
    }
}

impl AsyncWrite for ProtocolStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pipes.outgoing.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipes.outgoing.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipes.outgoing.poll_shutdown(cx)
    }
}

/// A protocol that is spoken here: the streams that other devices open. Dropping it ends that; streams that were taken go on.
#[derive(Debug)]
pub struct Protocol {
    name: String,
    incoming: mpsc::Receiver<ProtocolStream>,
    calls: mpsc::WeakSender<Call>,
}

impl Protocol {
    pub(crate) const fn new(name: String, incoming: mpsc::Receiver<ProtocolStream>, calls: mpsc::WeakSender<Call>) -> Self {
        Self { name, incoming, calls }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next stream that a device opened; `None` once the service has ended. Dropped early, nothing is lost.
    pub async fn next(&mut self) -> Option<ProtocolStream> {
        self.incoming.recv().await
    }
}

impl Drop for Protocol {
    fn drop(&mut self) {
        self.incoming.close();
        let name = std::mem::take(&mut self.name);
        if let Some(calls) = self.calls.upgrade() {
            // With a queue that is full the loop finds out when the next stream comes.
            drop(calls.try_send(Box::new(move |host| host.forget_protocol(&name))));
        }
    }
}
