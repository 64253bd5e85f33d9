//! The two halves of a stream that an application has, as tasks: plaintexts between its pipes and the transport.

use std::io::ErrorKind;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use protocol_core::effects::Cut;
use protocol_core::faults::code;
use protocol_core::ids::StreamId;
use protocol_core::session::reader::{ReadError, RecordReader};
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use tokio::time::sleep;
use tracing::debug;

use super::Pipes;
use super::pipe::{Fault, Pipe, Took};
use crate::driver::Happened;
use crate::driver::links::Links;
use crate::transport::{Rx, Stop, Tx};

/// How long the other side may go on when an application has said all and let go: a reset could take back what it said.
const LINGER: Duration = Duration::from_secs(15);

/// How long what the other side said before its goodbye may take to arrive: the goodbye came on another stream, and over TCP on another
/// connection, so neither orders the other. The other side's end or reset, which follows its goodbye, ends the wait.
const BEHIND: Duration = Duration::from_millis(500);

const RESET: Fault = Fault(ErrorKind::ConnectionReset, "the stream was reset");
const LOST: Fault = Fault(ErrorKind::ConnectionReset, "the connection is gone");
const CUT: Fault = Fault(ErrorKind::UnexpectedEof, "the stream was cut before its end");
const FORGED: Fault = Fault(ErrorKind::InvalidData, "the stream was changed on its way");
const SPENT: Fault = Fault(ErrorKind::QuotaExceeded, "the stream has carried all that its key may");

/// A task's end of a half. However the task ends, and if it never begins, the application hears of it.
#[derive(Debug)]
struct Held {
    pipes: Arc<Pipes>,
    half: fn(&Pipes) -> &Pipe,
}

impl Deref for Held {
    type Target = Pipes;

    fn deref(&self) -> &Pipes {
        &self.pipes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.half)(&self.pipes).end(Err(LOST));
    }
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Say {
    sealer: RecordSealer,
    pipes: Held,
}

impl Say {
    pub(crate) fn new(sealer: RecordSealer, pipes: Arc<Pipes>) -> Self {
        Self { sealer, pipes: Held { pipes, half: |pipes| &pipes.outgoing } }
    }

    /// Sends until the application has said all, lets go, or the stream is stopped. Ends with [`Happened::WriteEnd`].
    pub(crate) async fn run<T: Tx>(mut self, mut tx: T, id: StreamId, stop: Stop, links: Links) {
        let said = tokio::select! {
            biased;
            () = stop.set() => Err(RESET),
            said = self.say(&mut tx) => said,
        };
        // Before the other half can learn of the reset: whose stream is stopped must not read its end and still write.
        self.pipes.outgoing.end(said);
        if said.is_err() {
            tx.reset(stop.code().unwrap_or(code::DONE));
        }
        links.tell(Happened::WriteEnd { stream: id, sent: said.is_ok() }).await;
    }

    async fn say<T: Tx>(&mut self, tx: &mut T) -> Result<(), Fault> {
        loop {
            let (kind, text) = match self.pipes.outgoing.take().await {
                Took::Text(text) => (RecordType::Data, text),
                Took::All => (RecordType::Fin, Vec::new()),
                Took::Gone => return Err(RESET),
            };
            let record = self.sealer.seal(kind, &text).map_err(|_| SPENT)?;
            tx.write_all(&record).await.map_err(|_| LOST)?;
            if kind == RecordType::Fin {
                return tx.finish().await.map_err(|_| LOST);
            }
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Hear {
    opener: RecordOpener,
    pipes: Held,
}

/// Why nothing more is heard.
enum Deaf {
    Lost(Fault),
    Malformed(ReadError),
}

impl Hear {
    pub(crate) fn new(opener: RecordOpener, pipes: Arc<Pipes>) -> Self {
        Self { opener, pipes: Held { pipes, half: |pipes| &pipes.incoming } }
    }

    /// Receives, beginning with `before`, until the other side's end. Ends with [`Happened::ReadEnd`].
    // CUST-4.
    pub(crate) async fn run<R: Rx>(self, mut rx: R, before: Vec<u8>, id: StreamId, stop: Stop, links: Links) {
        let Self { opener, pipes } = self;
        let mut reader = RecordReader::new(opener, before);
        let heard = tokio::select! {
            biased;
            () = stopped(&stop) => {
                pipes.outgoing.end(Err(RESET));
                Err(Deaf::Lost(RESET))
            }
            heard = hear(&mut rx, &mut reader, &pipes) => heard,
            () = given_up(&pipes) => Err(Deaf::Lost(RESET)),
        };
        let cut = match heard {
            Ok(()) => Cut::Finished,
            Err(Deaf::Lost(fault)) => {
                pipes.incoming.end(Err(fault));
                Cut::Broken
            }
            Err(Deaf::Malformed(error)) => {
                debug!(?id, %error, "stream is malformed");
                pipes.incoming.end(Err(FORGED));
                if matches!(error, ReadError::Record(_)) {
                    links.tell(Happened::Forged { stream: id }).await;
                }
                Cut::Malformed
            }
        };
        if cut != Cut::Finished {
            rx.stop(stop.code().unwrap_or(code::REFUSED));
        }
        links.tell(Happened::ReadEnd { stream: id, cut }).await;
    }
}

async fn hear<R: Rx>(rx: &mut R, reader: &mut RecordReader, pipes: &Pipes) -> Result<(), Deaf> {
    loop {
        while let Some(text) = reader.next_text().map_err(Deaf::Malformed)? {
            pipes.incoming.push(&text).await;
        }
        if reader.finished() {
            // An end that verified is one, however the transport ends behind it.
            pipes.incoming.end(Ok(()));
        }
        match rx.read(reader.space()).await {
            Ok(0) => return reader.end().map_err(|_| Deaf::Lost(CUT)),
            Ok(count) => reader.filled(count),
            Err(_) => return Err(Deaf::Lost(LOST)),
        }
    }
}

/// The loop has stopped the stream, and what was said before can have arrived. A stream that is refused hears nothing more.
// CUST-7.
async fn stopped(stop: &Stop) {
    stop.set().await;
    if stop.code() == Some(code::DONE) {
        sleep(BEHIND).await;
    }
}

/// The application has let go, and what it said has arrived as far as that can be known.
async fn given_up(pipes: &Pipes) {
    pipes.incoming.gone().await;
    if pipes.outgoing.is_all() {
        sleep(LINGER).await;
    }
}
