//! The part of [`Streams`](crate::streams::Streams) that belongs to one connection: it opens streams and takes those that come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::StreamProtocol;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol};
use tokio::sync::{mpsc, oneshot};

/// The protocol of our streams (PROTOCOL.md, section 6.0).
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/kin/1");
/// How long agreeing on it may take.
const AGREE: Duration = Duration::from_secs(10);
/// Streams that came and wait to be taken; more are reset.
const WAITING: usize = 64;
/// Streams that are being opened; more wait.
const OPENING: usize = 16;

/// Who asked for a stream.
type Asked = oneshot::Sender<io::Result<Stream>>;

/// The ends of a connection's channels that its owner has.
#[derive(Debug)]
pub struct Parts {
    pub(crate) open: mpsc::Sender<Asked>,
    pub(crate) streams: mpsc::Receiver<Stream>,
}

/// One connection.
#[derive(Debug)]
pub struct Handler {
    /// The channels, if somebody has the connection.
    link: Option<(mpsc::Receiver<Asked>, mpsc::Sender<Stream>)>,
    /// To be handed out.
    new: VecDeque<Parts>,
}

impl Handler {
    pub(crate) const fn new() -> Self {
        Self { link: None, new: VecDeque::new() }
    }

    /// Gives the connection an owner.
    pub(crate) fn link(&mut self) -> Parts {
        let (open, asked) = mpsc::channel(OPENING);
        let (to, streams) = mpsc::channel(WAITING);
        self.link = Some((asked, to));
        Parts { open, streams }
    }

    fn came(&mut self, stream: Stream) {
        let stream = match &self.link {
            Some((_, to)) if !to.is_closed() => {
                // One too many is reset by being dropped.
                drop(to.try_send(stream));
                return;
            }
            _ => stream,
        };
        let parts = self.link();
        self.new.push_back(parts);
        self.came(stream);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Parts;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Asked;

    fn listen_protocol(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ()).with_timeout(AGREE)
    }

    /// As long as somebody has the connection it stays, however quiet it is.
    fn connection_keep_alive(&self) -> bool {
        self.link.as_ref().is_some_and(|(asked, _)| !asked.is_closed())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, Asked, Parts>> {
        if let Some(parts) = self.new.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(parts));
        }
        if let Some((asked, _)) = &mut self.link
            && let Poll::Ready(Some(reply)) = asked.poll_recv(cx)
        {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), reply).with_timeout(AGREE);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, never: Infallible) {
        match never {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, ReadyUpgrade<StreamProtocol>, ReadyUpgrade<StreamProtocol>, (), Asked>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => self.came(stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                drop(reply.send(Ok(stream)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => io::ErrorKind::TimedOut.into(),
                    StreamUpgradeError::NegotiationFailed => io::ErrorKind::Unsupported.into(),
                    StreamUpgradeError::Io(error) => error,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                drop(reply.send(Err(error)));
            }
            _ => {}
        }
    }
}
