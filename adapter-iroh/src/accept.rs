//! Connections from outside.

use std::io;
use std::time::Duration;

use iroh::endpoint::{Connection, Endpoint};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::ALPN;
use crate::link::IrohConnection;

/// Handshakes of TLS at once. With more than half of them under way a remote has to show first that it receives at its address.
const HANDSHAKES: usize = 64;
/// How long one may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections until the endpoint is closed; those that come when `closed` is set are refused.
pub(crate) async fn run(endpoint: Endpoint, to: mpsc::Sender<IrohConnection>, closed: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if *closed.borrow() || tasks.len() >= HANDSHAKES {
                    incoming.refuse();
                } else if tasks.len() >= HANDSHAKES / 2 && !incoming.remote_addr_validated() {
                    drop(incoming.retry());
                } else {
                    let to = to.clone();
                    tasks.spawn(async move {
                        match timeout(HANDSHAKE, handshake(incoming)).await {
                            // Its place is taken until somebody takes the connection.
                            Ok(Ok(conn)) => drop(to.send(conn).await),
                            Ok(Err(error)) => debug!(%error, "a handshake failed"),
                            Err(_) => debug!("a handshake took too long"),
                        }
                    });
                }
            }
        }
    }
}

async fn handshake(incoming: iroh::endpoint::Incoming) -> io::Result<IrohConnection> {
    let accepting = incoming.accept().map_err(io::Error::other)?;
    let conn = accepting.await.map_err(|error| io::Error::other(error.to_string()))?;
    IrohConnection::new(conn)
}

/// Where an embedder's accepting side hands in the connections of [`ALPN`](crate::ALPN).
#[derive(Clone, Debug)]
pub struct Incoming {
    to: mpsc::Sender<IrohConnection>,
    closed: watch::Receiver<bool>,
}

impl Incoming {
    pub(crate) const fn new(to: mpsc::Sender<IrohConnection>, closed: watch::Receiver<bool>) -> Self {
        Self { to, closed }
    }
}

impl ProtocolHandler for Incoming {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let mut closed = self.closed.clone();
        let conn = match IrohConnection::new(connection.clone()) {
            Ok(conn) if connection.alpn() == ALPN => conn,
            Ok(_) | Err(_) => return Ok(()),
        };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Ok(()),
            sent = self.to.send(conn) => if sent.is_err() { return Ok(()) },
        }
        // A router closes a connection whose handler is done.
        connection.closed().await;
        Ok(())
    }
}
