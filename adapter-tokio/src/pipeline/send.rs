//! Sending: claim, read, digest, seal, write to the stream.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use protocol_core::bulk::chunks::{Chunks, Claim};
use protocol_core::bulk::digest::{self, Value, Values};
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD, Sealer};
use protocol_core::effects::ChunkDone;
use protocol_core::faults::{FileFault, code};
use protocol_core::ids::StreamId;
use protocol_core::transfer::layout::Piece;
use protocol_core::transfer::manifest::Manifest;
use tracing::debug;

use super::pace::Pace;
use super::{Reporter, workers};
use crate::driver::Happened;
use crate::driver::links::{Links, finish};
use crate::files::{Source, SourceFile};
use crate::transport::{Stop, Tx, stopped};

/// Chunks that a worker claims at once: few, so that streams of different speed end together.
const RUN: u32 = 4;
/// Bytes that are read at once for a digest.
const DIGEST_READ: usize = 1 << 20;
/// Large files that stay open between chunks.
const OPEN_FILES: usize = 16;

/// Where the files of an outgoing transfer are read.
#[derive(Debug)]
pub(crate) struct Sources {
    manifest: Arc<Manifest>,
    /// In the manifest's order.
    sources: Vec<Source>,
    /// How fast their bytes may leave.
    pace: Option<Pace>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: BTreeMap<u32, Arc<SourceFile>>,
    failed: BTreeMap<u32, FileFault>,
}

impl Sources {
    /// `sources` are those of the manifest's entries, in their order.
    pub(crate) fn new(manifest: Arc<Manifest>, sources: Vec<Source>, pace: Option<Pace>) -> Self {
        Self { manifest, sources, pace, open: Mutex::default() }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a piece; where that fails it is zeros. The fault is returned once for each entry.
    fn read(&self, piece: &Piece, into: &mut [u8]) -> Result<(), FileFault> {
        if self.open().failed.contains_key(&piece.entry) {
            into.fill(0);
            return Ok(());
        }
        self.try_read(piece, into).or_else(|fault| {
            into.fill(0);
            let mut open = self.open();
            open.files.remove(&piece.entry);
            if open.failed.insert(piece.entry, fault).is_some() { Ok(()) } else { Err(fault) }
        })
    }

    /// The file's identity and state are checked after the reading too: what was read is of the state that was offered.
    fn try_read(&self, piece: &Piece, into: &mut [u8]) -> Result<(), FileFault> {
        let file = self.file(piece)?;
        file.read_exact_at(piece.offset, into)?;
        Ok(file.check_unchanged()?)
    }

    /// The digest of a whole file, in the state that was offered.
    pub(crate) fn digest(&self, entry: u32) -> Result<[u8; 32], FileFault> {
        let size = self.manifest.entry(entry).ok_or(FileFault::NotFound)?.size;
        let file = self.file(&Piece { entry, offset: 0, len: 0, whole: true })?;
        let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; DIGEST_READ], 0);
        while at < size {
            let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(at, &mut buffer[..len])?;
            hasher.update(&buffer[..len]);
            at += len as u64;
        }
        file.check_unchanged()?;
        Ok(hasher.finalize().into())
    }

    /// A file of one piece is opened for it alone; others stay open for the next piece.
    fn file(&self, piece: &Piece) -> Result<Arc<SourceFile>, FileFault> {
        if let Some(file) = self.open().files.get(&piece.entry) {
            return Ok(Arc::clone(file));
        }
        let source = usize::try_from(piece.entry).ok().and_then(|at| self.sources.get(at)).ok_or(FileFault::NotFound)?;
        let entry = self.manifest.entry(piece.entry).ok_or(FileFault::NotFound)?;
        let file = Arc::new(source.open(&entry.components)?);
        if !piece.whole {
            let mut open = self.open();
            if open.files.len() >= OPEN_FILES {
                // Chunks are claimed in order: the smallest entry is the one left behind.
                open.files.pop_first();
            }
            open.files.insert(piece.entry, Arc::clone(&file));
        }
        Ok(file)
    }
}

/// What the workers of a sending stream need.
#[derive(Debug)]
pub(crate) struct Send {
    /// Where the files are.
    pub(crate) sources: Arc<Sources>,
    /// Seals under the stream's key, and claims for it.
    pub(crate) sealer: Sealer,
    /// What may be claimed.
    pub(crate) chunks: Arc<Chunks>,
}

struct Sending<T> {
    /// Taken at the end.
    tx: Mutex<Option<T>>,
    job: Send,
    id: StreamId,
    stop: Stop,
    links: Links,
    reporter: Arc<Reporter>,
    /// Workers that are not done.
    busy: AtomicUsize,
    cut: AtomicBool,
}

/// Starts the workers of a stream. At the end there is one last report, and then [`Happened::WriteEnd`].
pub(crate) fn send<T: Tx>(tx: T, job: Send, id: StreamId, stop: Stop, links: Links) {
    let count = workers(job.chunks.layout().chunk_size());
    let shared = Arc::new(Sending {
        tx: Mutex::new(Some(tx)),
        job,
        id,
        stop,
        reporter: Arc::default(),
        links: links.clone(),
        busy: AtomicUsize::new(count),
        cut: AtomicBool::new(false),
    });
    let (reports, told) = (Arc::clone(&shared), Arc::clone(&shared.reporter));
    links.runtime.clone().spawn(async move {
        told.run(id, &links).await;
        let sent = reports.end().await;
        links.tell(Happened::WriteEnd { stream: id, sent }).await;
    });
    for _ in 0..count {
        let worker = Arc::clone(&shared);
        if let Err(error) = thread::Builder::new().name("kin-send".into()).spawn(move || worker.work()) {
            debug!(%error, "no thread");
            shared.cut.store(true, Ordering::Release);
            shared.leave();
        }
    }
}

impl<T: Tx> Sending<T> {
    fn work(&self) {
        let size = usize::try_from(self.job.chunks.layout().chunk_size()).unwrap_or(0);
        let mut buffer = vec![0; size + CHUNK_OVERHEAD];
        'work: while let Some(run) = self.job.sealer.next(RUN) {
            for claim in run {
                if self.cut.load(Ordering::Acquire) || self.stop.code().is_some() {
                    break 'work;
                }
                if let Err(error) = self.chunk(claim, &mut buffer) {
                    debug!(id = ?self.id, %error, "sending ended early");
                    self.cut.store(true, Ordering::Release);
                    break 'work;
                }
            }
        }
        self.leave();
    }

    fn leave(&self) {
        if self.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.reporter.end();
        }
    }

    // HOST-12.
    fn chunk(&self, claim: Claim, buffer: &mut [u8]) -> io::Result<()> {
        let (index, len) = (claim.index(), usize::try_from(claim.len()).unwrap_or(usize::MAX));
        let frame = buffer.get_mut(..len.saturating_add(CHUNK_OVERHEAD)).ok_or(io::ErrorKind::InvalidData)?;
        let mut values = Values::new();
        let mut rest = frame.get_mut(CHUNK_HEAD..CHUNK_HEAD + len).unwrap_or_default();
        for piece in claim.pieces() {
            let Some((text, behind)) = usize::try_from(piece.len).ok().and_then(|len| rest.split_at_mut_checked(len)) else { break };
            rest = behind;
            if let Err(fault) = self.job.sources.read(&piece, text) {
                debug!(entry = piece.entry, %fault, "a source failed");
                self.reporter.add(0, |report| report.failed.push((piece.entry, fault)));
            }
            values.push(value(&piece, text)?);
        }
        if let Some(pace) = &self.job.sources.pace {
            pace.wait(len as u64, &self.stop);
        }
        self.job.sealer.seal(claim, frame).map_err(io::Error::other)?;
        match self.tx.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(tx) => tx.write_all_blocking(frame, &self.links.runtime, &self.stop)?,
            None => return Err(stopped()),
        }
        self.reporter.add(len as u64, |report| report.chunks.push(ChunkDone { index, values }));
        Ok(())
    }

    /// Half-closes after the last worker; whether everything has left.
    async fn end(&self) -> bool {
        let Some(mut tx) = self.tx.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
        if self.cut.load(Ordering::Acquire) || self.stop.code().is_some() {
            tx.reset(self.stop.code().unwrap_or(code::DONE));
            return false;
        }
        if let Some(sent) = finish(&mut tx, &self.stop).await {
            return sent;
        }
        tx.reset(self.stop.code().unwrap_or(code::DONE));
        false
    }
}

/// The value of a piece.
pub(super) fn value(piece: &Piece, bytes: &[u8]) -> io::Result<Value> {
    digest::value(piece, bytes).map_err(io::Error::other)
}
