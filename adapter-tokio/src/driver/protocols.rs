//! Protocols of the embedder, as the loop sees them: who waits for streams, and who for one.

use std::collections::HashMap;

use protocol_core::faults::OpenError;
use protocol_core::ids::{DeviceId, OpenId, StreamId};
use protocol_core::node::{Access, RegisterError};
use protocol_core::session::record::{RecordOpener, RecordSealer};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::links::{Half, Read, Write};
use super::{Host, with_env};
use crate::protocol::ProtocolStream;
use crate::protocol::tasks::{Hear, Say};

/// Streams of a protocol that wait to be taken. One more is reset.
const WAITING: usize = 64;

/// What a call to open a stream waits for.
pub(crate) type Answer = oneshot::Sender<Result<ProtocolStream, OpenError>>;

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Protocols {
    speakers: HashMap<String, mpsc::Sender<ProtocolStream>>,
    wanted: HashMap<OpenId, Answer>,
}

impl Host {
    /// Speaks a protocol from now on.
    pub(crate) fn register_protocol(&mut self, name: &str, access: Access) -> Result<mpsc::Receiver<ProtocolStream>, RegisterError> {
        self.forget_protocol(name);
        self.node.register_protocol(name, access)?;
        let (speaker, incoming) = mpsc::channel(WAITING);
        self.protocols.speakers.insert(name.to_owned(), speaker);
        Ok(incoming)
    }

    /// Speaks it no more, unless somebody else has registered it meanwhile.
    pub(crate) fn forget_protocol(&mut self, name: &str) {
        if self.protocols.speakers.get(name).is_some_and(mpsc::Sender::is_closed) {
            self.protocols.speakers.remove(name);
            self.node.unregister_protocol(name);
        }
    }

    /// Opens a stream of a protocol.
    pub(crate) fn open_protocol(&mut self, device: DeviceId, name: &str, answer: Answer) {
        match with_env(|env| self.node.open_protocol(env, device, name)) {
            Ok(id) => drop(self.protocols.wanted.insert(id, answer)),
            // Who does not wait any more needs no answer.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// A stream that was wanted does not come about.
    pub(super) fn not_opened(&mut self, id: OpenId, error: OpenError) {
        if let Some(answer) = self.protocols.wanted.remove(&id) {
            drop(answer.send(Err(error)));
        }
    }

    /// A stream is ready: its halves go to tasks, and its other end to whoever waits. If nobody does it is dropped, and so reset.
    pub(super) fn protocol(
        &mut self,
        id: StreamId,
        (device, name, opened): (DeviceId, String, Option<OpenId>),
        (sealer, opener): (RecordSealer, RecordOpener),
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (handle, pipes) = ProtocolStream::new(device, name);
        drop(stream.write.send(Write::Speech(Say::new(sealer, pipes.clone()))));
        drop(stream.read.send(Read::Speech(Hear::new(opener, pipes))));
        // The Node hears of the end when this half is through too.
        stream.working = Some(Half::Sending);
        if let Some(conn) = self.conns.get_mut(&stream.conn) {
            conn.unread = true;
        }
        if let Some(opened) = opened {
            if let Some(answer) = self.protocols.wanted.remove(&opened) {
                drop(answer.send(Ok(handle)));
            }
            return;
        }
        let name = handle.name().to_owned();
        let taken = self.protocols.speakers.get(&name).map(|speaker| speaker.try_send(handle));
        if !matches!(taken, Some(Ok(()))) {
            debug!(?id, "nobody takes this stream");
            self.forget_protocol(&name);
        }
    }
}
