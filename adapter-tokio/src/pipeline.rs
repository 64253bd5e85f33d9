//! The data plane: chunks between files and streams, past the loop.
//!
//! Every worker of a stream does the whole way of a chunk itself, in one buffer of its own: read, digest, seal, write to the
//! stream; or read from the stream, open, digest, write to the file. So a chunk stays in the cache of one core, nothing is
//! allocated or handed over for it, and while one worker is at the stream, which takes turns, the others compute. A worker that
//! waits for the stream reads nothing: that is all the back-pressure there is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use protocol_core::effects::BulkReport;
use protocol_core::ids::StreamId;
use protocol_core::limits::{BULK_STREAMS, IN_FLIGHT};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::driver::Happened;
use crate::driver::links::Links;

pub(crate) mod pace;
pub(crate) mod receive;
pub(crate) mod send;

/// A report leaves when it stands for so many bytes, or after this time.
const REPORT_BYTES: u64 = 8 << 20;
/// Chunks of the usual size in a report, with some more of other workers.
const CHUNKS: usize = 40;
/// See [`REPORT_BYTES`].
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// Workers of one stream.
const WORKERS: usize = 4;

/// How many workers a stream gets: what the machine has, within what all streams of a transfer may have in flight.
pub(crate) fn workers(chunk_size: u32) -> usize {
    let share = usize::try_from(IN_FLIGHT).unwrap_or(usize::MAX) / BULK_STREAMS / usize::try_from(chunk_size).unwrap_or(usize::MAX).max(1);
    let cores = available_parallelism().map_or(2, usize::from);
    // Two even on one core: while one waits for the disk, the other computes.
    share.clamp(1, cores.clamp(2, WORKERS))
}

/// What the workers of one stream have to say, gathered for the loop.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    gathered: Mutex<Gathered>,
    /// There is something to report.
    some: Notify,
    /// There is enough to report at once.
    enough: Notify,
}

#[derive(Debug, Default)]
struct Gathered {
    report: BulkReport,
    bytes: u64,
    waiting: bool,
    ended: bool,
}

impl Reporter {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `add` add to the report what stands for `bytes`.
    pub(crate) fn add(&self, bytes: u64, add: impl FnOnce(&mut BulkReport)) {
        let mut gathered = self.gathered();
        if gathered.report.chunks.capacity() == 0 {
            // At once, and not step by step: most reports have about so many.
            gathered.report.chunks.reserve(CHUNKS);
        }
        add(&mut gathered.report);
        gathered.bytes += bytes;
        if !std::mem::replace(&mut gathered.waiting, true) {
            self.some.notify_one();
        }
        if gathered.bytes >= REPORT_BYTES {
            self.enough.notify_one();
        }
    }

    /// Nothing will be added any more.
    pub(crate) fn end(&self) {
        self.gathered().ended = true;
        self.some.notify_one();
        self.enough.notify_one();
    }

    /// Reports until the end, and then once more if there is something left.
    pub(crate) async fn run(&self, stream: StreamId, links: &Links) {
        loop {
            self.some.notified().await;
            drop(timeout(REPORT_EVERY, self.enough.notified()).await);
            let Gathered { report, waiting, ended, .. } = {
                let mut gathered = self.gathered();
                let ended = gathered.ended;
                std::mem::replace(&mut *gathered, Gathered { ended, ..Gathered::default() })
            };
            if waiting {
                links.tell(Happened::Bulk { stream, report }).await;
            }
            if ended {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
