//! Receiving: read from the stream, claim, open, digest, write to the file.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::{io, thread};

use protocol_core::bulk::chunks::{Chunks, Claim};
use protocol_core::bulk::digest::Values;
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD};
use protocol_core::effects::{ChunkDone, Cut, EntryNote};
use protocol_core::faults::code;
use protocol_core::ids::StreamId;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::send::value;
use super::{Reporter, workers};
use crate::driver::Happened;
use crate::driver::links::Links;
use crate::files::Incoming;
use crate::transport::{Rx, Stop};

/// Where the files of an incoming transfer go.
#[derive(Debug)]
pub(crate) struct Target {
    /// The transfer on the disk.
    pub(crate) incoming: Incoming,
    /// Entries that do not arrive, and why: their bytes in chunks that they share are dropped.
    left_out: RwLock<BTreeMap<u32, EntryNote>>,
}

impl Target {
    /// A transfer of which everything arrives.
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, left_out: RwLock::default() }
    }

    /// Replaces what is left out.
    pub(crate) fn leave_out(&self, entries: BTreeMap<u32, EntryNote>) {
        *self.left_out.write().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    /// What is left out.
    pub(crate) fn left_out(&self) -> RwLockReadGuard<'_, BTreeMap<u32, EntryNote>> {
        self.left_out.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the workers of a receiving stream need.
#[derive(Debug)]
pub(crate) struct Receive {
    /// Where the files go.
    pub(crate) target: Arc<Target>,
    /// Opens under the stream's key.
    pub(crate) opener: Opener,
    /// What may be claimed.
    pub(crate) chunks: Arc<Chunks>,
}

struct Receiving<R> {
    input: Mutex<InputHalf<R>>,
    job: Receive,
    stop: Stop,
    links: Links,
    reporter: Reporter,
    /// Workers that are not done.
    busy: AtomicUsize,
}

/// The stream: one worker at a time reads.
struct InputHalf<R> {
    rx: R,
    /// What was read before the workers came, and how much of it is used.
    before: (Vec<u8>, usize),
    /// Set by whoever finds the end.
    end: Option<Cut>,
}

/// Starts the workers of a stream, which begins with `before`. At the end there is one last report, and then
/// [`Happened::ChunksEnd`].
pub(crate) fn receive<R: Rx>(rx: R, before: Vec<u8>, job: Receive, id: StreamId, stop: Stop, links: Links) {
    let count = workers(job.chunks.layout().chunk_size());
    let shared = Arc::new(Receiving {
        input: Mutex::new(InputHalf { rx, before: (before, 0), end: None }),
        job,
        stop,
        links: links.clone(),
        reporter: Reporter::default(),
        busy: AtomicUsize::new(count),
    });
    let reports = Arc::clone(&shared);
    links.runtime.clone().spawn(async move {
        reports.reporter.run(id, &links).await;
        let cut = reports.end();
        drop(reports);
        links.tell(Happened::ChunksEnd { stream: id, cut }).await;
    });
    for _ in 0..count {
        let worker = Arc::clone(&shared);
        if let Err(error) = thread::Builder::new().name("kin-receive".into()).spawn(move || worker.work()) {
            debug!(%error, "no thread");
            shared.input().end = Some(Cut::Broken);
            shared.leave();
        }
    }
}

/// A chunk as it was read.
enum Came {
    Wanted(Claim, usize),
    Unwanted,
    End,
}

impl<R: Rx> Receiving<R> {
    fn input(&self) -> std::sync::MutexGuard<'_, InputHalf<R>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let size = usize::try_from(self.job.chunks.layout().chunk_size()).unwrap_or(0);
        let mut buffer = vec![0; size + CHUNK_OVERHEAD - CHUNK_HEAD];
        loop {
            let came = {
                let mut input = self.input();
                self.next(&mut input, &mut buffer).unwrap_or_else(|cut| {
                    input.end.get_or_insert(cut);
                    Came::End
                })
            };
            match came {
                Came::Wanted(claim, len) => {
                    if self.chunk(claim, buffer.get_mut(..len).unwrap_or_default()).is_err() {
                        self.input().end.get_or_insert(Cut::Malformed);
                    }
                }
                Came::Unwanted => self.reporter.add(0, |report| report.unwanted += 1),
                Came::End => break,
            }
        }
        self.leave();
    }

    fn leave(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reporter.end();
        }
    }

    /// Reads the next chunk into `buffer`, or drops it.
    fn next(&self, input: &mut InputHalf<R>, buffer: &mut [u8]) -> Result<Came, Cut> {
        if input.end.is_some() {
            return Ok(Came::End);
        }
        let broken = |_: io::Error| Cut::Broken;
        let mut head = [0; CHUNK_HEAD];
        match input.fill(&mut head, &self.links.runtime, &self.stop).map_err(broken)? {
            0 => return Err(Cut::Finished),
            CHUNK_HEAD => {}
            _ => return Err(Cut::Broken),
        }
        let (index, len) = self.job.opener.head(&head).map_err(|_| Cut::Malformed)?;
        let len = usize::try_from(len).map_err(|_| Cut::Malformed)?;
        let text = u32::try_from(len + CHUNK_HEAD - CHUNK_OVERHEAD).map_err(|_| Cut::Malformed)?;
        let claim = self.job.chunks.take(index, text);
        let body = buffer.get_mut(..len).ok_or(Cut::Malformed)?;
        if input.fill(body, &self.links.runtime, &self.stop).map_err(broken)? < len {
            return Err(Cut::Broken);
        }
        Ok(claim.map_or(Came::Unwanted, |claim| Came::Wanted(claim, len)))
    }

    /// Opens a chunk and writes it.
    ///
    /// # Errors
    /// It does not open: the claim is given back, and nothing of the stream is to be believed any more.
    fn chunk(&self, claim: Claim, body: &mut [u8]) -> io::Result<()> {
        let index = claim.index();
        let len = self.job.opener.open(index, body).map_err(|forged| {
            self.reporter.add(0, |report| report.forged += 1);
            io::Error::other(forged)
        })?;
        let mut values = Values::new();
        let mut rest = body.get(..len).unwrap_or_default();
        for piece in claim.pieces() {
            let Some((text, behind)) = usize::try_from(piece.len).ok().and_then(|len| rest.split_at_checked(len)) else { break };
            rest = behind;
            values.push(value(&piece, text)?);
            if self.job.target.left_out().contains_key(&piece.entry) || self.job.target.incoming.is_published(piece.entry) {
                continue;
            }
            if let Err(fault) = self.job.target.incoming.write_at(piece.entry, piece.offset, text) {
                warn!(entry = piece.entry, %fault, "writing failed");
                self.reporter.add(0, |report| report.failed.push((piece.entry, fault.into())));
            }
        }
        claim.finish();
        self.reporter.add(len as u64, |report| report.chunks.push(ChunkDone { index, values }));
        Ok(())
    }

    /// How the stream ended.
    fn end(&self) -> Cut {
        let mut input = self.input();
        let cut = input.end.unwrap_or(Cut::Broken);
        if cut == Cut::Malformed {
            input.rx.stop(code::REFUSED);
        }
        cut
    }
}

impl<R: Rx> InputHalf<R> {
    /// Fills `into`; less comes only at the end of the stream.
    fn fill(&mut self, into: &mut [u8], runtime: &Handle, stop: &Stop) -> io::Result<usize> {
        let mut filled = 0;
        let (before, used) = &mut self.before;
        if let Some(rest) = before.get(*used..).filter(|rest| !rest.is_empty()) {
            filled = rest.len().min(into.len());
            into[..filled].copy_from_slice(&rest[..filled]);
            *used += filled;
        }
        while let Some(space) = into.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.rx.read_blocking(space, runtime, stop)? {
                0 => break,
                more => filled += more,
            }
        }
        Ok(filled)
    }
}
