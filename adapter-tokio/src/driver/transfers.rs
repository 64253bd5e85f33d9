//! The files of transfers: where outgoing ones are read, where incoming ones go, and what is done to those in order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use protocol_core::effects::{Direction, EntryNote, FileOp, Reply, TransferKey};
use protocol_core::faults::{Failure, FileFault};
use protocol_core::ids::{Ticket, TransferId};
use protocol_core::transfer::manifest::Manifest;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::links::Links;
use super::{Happened, unix_s};
use crate::files::{ConflictPolicy, Destination, Entries, Incoming, Published, Taken, Verdict};
use crate::home::HomeError;
use crate::journal::{Head, Hold, Journal, Journals, Unfinished};
use crate::pipeline::receive::Target;
use crate::pipeline::send::Sources;

/// Where incoming files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// The directory. It must exist.
    pub dir: PathBuf,
    /// What happens to conflicts, unless an accept says otherwise.
    pub on_conflict: ConflictPolicy,
    /// Files of a device whose policy names a folder go there instead.
    pub by_policy: bool,
}

/// All transfers that have files here.
#[derive(Debug)]
pub(crate) struct Transfers {
    journals: Arc<Journals>,
    pub(crate) inbox: Option<Inbox>,
    outgoing: HashMap<TransferKey, Outgoing>,
    /// Those that are being noted, and, if they have ended meanwhile, whether what there is of them is kept.
    noting: HashMap<TransferId, Option<bool>>,
    incoming: HashMap<TransferKey, Arrival>,
}

#[derive(Debug)]
struct Outgoing {
    sources: Arc<Sources>,
    /// Digests that were asked for, one after the other.
    jobs: Option<mpsc::UnboundedSender<Job>>,
}

#[derive(Debug)]
struct Arrival {
    hold: Hold,
    /// Its owner has taken it in an earlier try.
    continued: bool,
    /// And has it rest since.
    paused: bool,
    policy: ConflictPolicy,
    target: Arc<OnceLock<Arc<Target>>>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
struct Job {
    ticket: Ticket,
    entries: Range<u32>,
    op: FileOp,
    policy: ConflictPolicy,
}

impl Transfers {
    pub(crate) fn new(journals: Arc<Journals>) -> Self {
        Self { journals, inbox: None, outgoing: HashMap::new(), noting: HashMap::new(), incoming: HashMap::new() }
    }

    /// What is remembered of transfers that are not finished.
    pub(crate) fn journals(&self) -> &Arc<Journals> {
        &self.journals
    }

    /// Whether a transfer is under way here.
    pub(crate) fn is_live(&self, id: TransferId) -> bool {
        self.outgoing.keys().chain(self.incoming.keys()).any(|key| key.id == id)
    }

    /// Whether an incoming transfer goes on with what its owner has taken in an earlier try.
    pub(crate) fn is_continued(&self, key: TransferKey) -> bool {
        self.incoming.get(&key).is_some_and(|arrival| arrival.continued)
    }

    /// Whether that try rests: so does this one.
    pub(crate) fn is_paused(&self, key: TransferKey) -> bool {
        self.incoming.get(&key).is_some_and(|arrival| arrival.paused)
    }

    /// Names the sources of a transfer, before the Node's outputs are performed.
    pub(crate) fn add_outgoing(&mut self, key: TransferKey, sources: Sources) {
        self.outgoing.insert(key, Outgoing { sources: Arc::new(sources), jobs: None });
        self.noting.insert(key.id, None);
    }

    /// An outgoing transfer is noted now. Whether it has ended meanwhile, and not so that it may go on in another try.
    pub(crate) fn noted(&mut self, id: TransferId) -> bool {
        self.noting.remove(&id).flatten() == Some(false)
    }

    pub(super) fn outgoing(&self, key: TransferKey) -> Option<Arc<Sources>> {
        self.outgoing.get(&key).map(|outgoing| Arc::clone(&outgoing.sources))
    }

    pub(super) fn incoming(&self, key: TransferKey) -> Option<Arc<Target>> {
        self.incoming.get(&key)?.target.get().cloned()
    }

    /// Sets what happens to the conflicts of one transfer; `None`: as the inbox says.
    pub(crate) fn set_policy(&mut self, key: TransferKey, policy: Option<ConflictPolicy>) {
        if let (Some(arrival), Some(policy)) = (self.incoming.get_mut(&key), policy) {
            arrival.policy = policy;
        }
    }

    /// The transfer is over: its workers end, and what it left lying about is removed. `kept`: it may go on in another try.
    pub(super) fn forget(&mut self, key: TransferKey, kept: bool) {
        let ended = self.outgoing.remove(&key).is_some();
        if let Some(noting) = self.noting.get_mut(&key.id).filter(|_| ended) {
            *noting = Some(kept);
        }
        if ended && !kept {
            let journals = Arc::clone(&self.journals);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = journals.remove(key.id) {
                    debug!(%error, "a finished transfer stays noted");
                }
            });
        }
        self.incoming.remove(&key);
    }

    /// Queues an operation behind the earlier ones of its transfer.
    pub(super) fn files(
        &mut self,
        links: &Links,
        ticket: Ticket,
        (key, manifest, folder): (TransferKey, Option<Arc<Manifest>>, Option<String>),
        entries: Range<u32>,
        op: FileOp,
    ) {
        if op == FileOp::Inspect && !self.incoming.contains_key(&key) {
            self.arrive(links, key, manifest, folder);
        }
        let job = |policy| Job { ticket, entries, op, policy };
        let queued = match key.direction {
            Direction::Incoming => self.incoming.get(&key).is_some_and(|arrival| arrival.jobs.send(job(arrival.policy)).is_ok()),
            Direction::Outgoing => self.outgoing.get_mut(&key).is_some_and(|outgoing| outgoing.digest(links, job(ConflictPolicy::Fail))),
        };
        if matches!(op, FileOp::Clear | FileOp::Discard | FileOp::Keep) {
            // The last operation of a transfer, also of one whose owner never heard of it: the worker ends behind it.
            if let Some(arrival) = self.incoming.remove(&key) {
                self.journals.closing(arrival.hold);
            }
        }
        if !queued {
            let links = links.clone();
            let result = Err(Failure::Disk(FileFault::NotFound));
            tokio::spawn(async move { links.tell(Happened::Done { ticket, result }).await });
        }
    }

    fn arrive(&mut self, links: &Links, key: TransferKey, manifest: Option<Arc<Manifest>>, folder: Option<String>) {
        let (Some(Inbox { dir, on_conflict, by_policy }), Some(manifest)) = (self.inbox.clone(), manifest) else { return };
        let dir = folder.filter(|_| by_policy).map_or(dir, PathBuf::from);
        // What was taken before goes on where it was, if that is still there.
        let before = self.journals.taken(key.device, key.id, manifest.digest()).filter(|head| head.directory.is_dir());
        let (dir, policy) = match &before {
            Some(head) => (head.directory.clone(), head.policy),
            None => (std::path::absolute(&dir).unwrap_or(dir), on_conflict),
        };
        let hold = self.journals.open(key.device, key.id);
        let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
        let target = Arc::default();
        let journals = Arc::clone(&self.journals);
        let before = before.map(|head| head.transfer);
        let continued = before.is_some();
        let paused = before.is_some_and(|before| self.journals.is_paused(before));
        let mut worker = Worker { key, hold, dir, manifest, journals, before, target: Arc::clone(&target), journal: None, over: false };
        let links = links.clone();
        tokio::spawn(async move {
            while let Some(job) = waiting.recv().await {
                let ticket = job.ticket;
                let done = tokio::task::spawn_blocking(move || {
                    let result = worker.perform(&job);
                    (worker, result)
                });
                let Ok((back, result)) = done.await else {
                    // The worker panicked: our bug, and the end of this transfer.
                    return links.tell(Happened::Done { ticket, result: Err(Failure::Disk(FileFault::Io(0))) }).await;
                };
                worker = back;
                links.tell(Happened::Done { ticket, result }).await;
            }
            drop(tokio::task::spawn_blocking(move || worker.clean_up()).await);
            drop(links);
        });
        self.incoming.insert(key, Arrival { hold, continued, paused, policy, target, jobs });
    }
}

impl Outgoing {
    /// Queues the digests of some sources; whether that was possible.
    fn digest(&mut self, links: &Links, job: Job) -> bool {
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
            let (sources, links) = (Arc::clone(&self.sources), links.clone());
            tokio::spawn(async move {
                while let Some(Job { ticket, entries, .. }) = waiting.recv().await {
                    let sources = Arc::clone(&sources);
                    let digests = move || entries.map(|entry| (entry, digest_note(sources.digest(entry)))).collect();
                    let notes = tokio::task::spawn_blocking(digests).await;
                    let result = notes.map(Reply::Files).map_err(|_| Failure::Disk(FileFault::Io(0)));
                    links.tell(Happened::Done { ticket, result }).await;
                }
            });
            jobs
        });
        job.op == FileOp::Digest && jobs.send(job).is_ok()
    }
}

struct Worker {
    key: TransferKey,
    hold: Hold,
    /// The transfer of the same files that was taken before.
    before: Option<TransferId>,
    dir: PathBuf,
    manifest: Arc<Manifest>,
    journals: Arc<Journals>,
    target: Arc<OnceLock<Arc<Target>>>,
    /// There is one from the moment on when the first file may be made.
    journal: Option<Journal>,
    /// Its last operation is done.
    over: bool,
}

impl Worker {
    fn perform(&mut self, job: &Job) -> Result<Reply, Failure> {
        let notes = match job.op {
            FileOp::Inspect => self.inspect(),
            FileOp::Prepare => self.prepare(job.entries.clone(), job.policy),
            FileOp::Sync => self.sync(job.entries.clone()),
            FileOp::Digest => self.target().map(|target| {
                let digest = |entry| (entry, digest_note(target.incoming.digest(entry).map_err(Into::into)));
                job.entries.clone().map(digest).collect()
            }),
            FileOp::Publish => self.publish(job.entries.clone()),
            FileOp::Finish => self.target().map(|target| published(target.incoming.finish(false))),
            FileOp::Clear => {
                self.clear();
                Ok(Vec::new())
            }
            FileOp::Discard => {
                self.discard();
                Ok(Vec::new())
            }
            FileOp::Keep => {
                self.keep();
                Ok(Vec::new())
            }
        };
        notes.map(Reply::Files).map_err(Failure::Disk)
    }

    fn target(&self) -> Result<&Arc<Target>, FileFault> {
        self.target.get().ok_or(FileFault::NotFound)
    }

    fn inspect(&self) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        if self.target.get().is_none() {
            let destination = Arc::new(Destination::open(&self.dir)?);
            let here = self.before.and_then(|before| self.journals.read(before)).map_or(0, |unfinished| unfinished.bytes());
            if destination.free_space()? < self.manifest.bytes().saturating_sub(here) {
                return Err(FileFault::DiskFull);
            }
            let entries = Arc::new(Entries(self.manifest.entries().collect()));
            let incoming = Incoming::new(destination, self.key.id, entries)?;
            drop(self.target.set(Arc::new(Target::new(incoming))));
        }
        let verdicts = self.target()?.incoming.inspect(ConflictPolicy::Fail)?;
        let notes = verdicts.into_iter().filter_map(|(entry, verdict)| match verdict {
            Verdict::Conflict => Some((entry, EntryNote::Conflict)),
            verdict => note(&verdict).map(|note| (entry, note)),
        });
        Ok(notes.collect())
    }

    fn prepare(&mut self, entries: Range<u32>, policy: ConflictPolicy) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        let target = Arc::clone(self.target()?);
        let Decided { taken, again, superseded } = if entries.start == 0 { self.decide(&target, policy)? } else { Decided::default() };
        let left_out = target.left_out();
        let mut notes: BTreeMap<u32, EntryNote> = left_out.range(entries.clone()).map(|(entry, note)| (*entry, note.clone())).collect();
        drop(left_out);
        if let Some(journal) = self.journal.as_mut().filter(|_| !again) {
            // Who goes on behind a crash has to know which directories are this transfer's.
            let (renamed, made) = target.incoming.decided();
            journal.prepared(&renamed, &made.union(&target.incoming.will_make(entries.clone())).copied().collect())?;
            journal.sync()?;
        }
        for (entry, fault) in target.incoming.prepare(entries) {
            notes.entry(entry).or_insert(EntryNote::Failed(fault.into()));
        }
        if let Some(journal) = &mut self.journal {
            let (renamed, made) = target.incoming.decided();
            journal.prepared(&renamed, &made)?;
            journal.named(&taken.named)?;
            journal.durable(&taken.durable)?;
            if again {
                journal.commit()?;
            }
        }
        for left in &superseded {
            self.supersede(left);
        }
        for (entry, note) in taken.notes {
            notes.entry(entry).or_insert(note);
        }
        Ok(notes.into_iter().collect())
    }

    /// Notes where files will be before the first is made, takes over what an earlier try left of them, and decides every conflict by
    /// the owner's policy.
    ///
    // HOST-24.
    fn decide(&mut self, target: &Target, policy: ConflictPolicy) -> Result<Decided, FileFault> {
        let head = Head {
            device: self.key.device,
            transfer: self.key.id,
            digest: *self.manifest.digest(),
            chunk_size: self.manifest.chunk_size(),
            entries: self.manifest.len(),
            bytes: self.manifest.bytes(),
            unix_s: unix_s(),
            policy,
            directory: self.dir.clone(),
        };
        // The one under this very id is replaced by our own.
        let done = Some((self.key.id, self.manifest.digest()));
        let before = self.journals.unfinished(self.hold, head.device, &head.directory, done);
        let journal = self.journals.begin(&head, &self.manifest).map_err(|error| {
            warn!(%error, "the transfer could not be noted");
            if let HomeError::File(_, fault) = error { fault.into() } else { FileFault::Io(0) }
        })?;
        let again = before.iter().any(|left| left.head.transfer == self.key.id);
        // What another manifest had under this id will be in no journal.
        for left in before.iter().filter(|left| left.head.transfer == self.key.id && !left.is_like(&self.manifest)) {
            if let Err(fault) = left.sweep() {
                debug!(%fault, "temporary files remain");
            }
        }
        if !again {
            // Temporary files change their names below: whoever sweeps must find them.
            journal.commit()?;
        }
        self.journal = Some(journal);
        let (mut taken, mut superseded) = (Taken::default(), Vec::new());
        for left in before.into_iter().filter(|left| left.is_like(&self.manifest)) {
            let more = target.incoming.take_over(&left)?;
            let (journal, named) = (left.durable.len(), left.named.len());
            debug!(from = %left.head.transfer, journal, named, durable = more.durable.len(), kept = more.named.len(), "taken over");
            taken.durable.extend(more.durable);
            taken.named.extend(more.named);
            taken.notes.extend(more.notes);
            superseded.push(left);
        }
        debug!(transfer = %self.key.id, durable = taken.durable.len(), named = taken.named.len(), again, "prepared");
        let mut left_out = BTreeMap::new();
        let mut above = EntryNote::Skipped;
        for (entry, verdict) in target.incoming.inspect(policy)? {
            // What is below a directory that does not arrive follows it in the manifest's order, and shares its lot.
            if verdict == Verdict::Below {
                left_out.insert(entry, above.clone());
            } else if let Some(note) = note(&verdict) {
                above = note.clone();
                left_out.insert(entry, note);
            }
        }
        target.leave_out(left_out);
        Ok(Decided { taken, again, superseded })
    }

    /// What this transfer did not take over of an earlier one is of no use any more, if it is the same.
    fn supersede(&self, left: &Unfinished) {
        if left.head.transfer != self.key.id {
            if let Err(fault) = left.sweep() {
                debug!(%fault, "temporary files remain");
            }
            if let Err(error) = self.journals.remove(left.head.transfer) {
                debug!(%error, "a transfer that is taken over stays noted");
            }
        }
    }

    // XFER-15, HOST-24.
    fn sync(&mut self, entries: Range<u32>) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        let target = Arc::clone(self.target()?);
        // What is written from here on is of the next one.
        let mut written = target.incoming.take_written(entries.clone());
        let failed = failed(target.incoming.sync(entries));
        for (entry, _) in &failed {
            written.remove(entry);
        }
        if let Some(journal) = self.journal.as_mut().filter(|_| !written.is_empty()) {
            journal.durable(&written)?;
        }
        Ok(failed)
    }

    fn publish(&mut self, entries: Range<u32>) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        let target = Arc::clone(self.target()?);
        let notes = published(target.incoming.publish_range(entries, false));
        let named = target.incoming.take_named();
        if let Some(journal) = self.journal.as_mut().filter(|_| !named.is_empty()) {
            journal.named(&named)?;
        }
        Ok(notes)
    }

    /// Everything that arrives has arrived.
    // XFER-27.
    fn clear(&mut self) {
        self.over = true;
        self.journal = None;
        if let Some(target) = self.target.get() {
            target.incoming.discard();
        }
        if let Err(error) = self.journals.done(self.key.id) {
            debug!(%error, "a finished transfer stays noted");
        }
        self.journals.close(self.hold);
    }

    /// Nothing of it is wanted any more.
    fn discard(&mut self) {
        if self.journal.is_none() {
            // Nothing was made in this try, whose offer was not taken: what an earlier one has left is not what was refused.
            return self.keep();
        }
        self.over = true;
        self.journal = None;
        if let Some(target) = self.target.get() {
            target.incoming.discard();
        }
        if let Err(error) = self.journals.remove(self.key.id) {
            debug!(%error, "a finished transfer stays noted");
        }
        self.journals.close(self.hold);
    }

    /// It may go on in another try, in this process or another.
    // XFER-28.
    fn keep(&mut self) {
        self.over = true;
        // Without a journal nothing was made in this try: what an earlier one has left is still its own.
        if self.journal.is_some()
            && let Err(fault) = self.sync(0..self.manifest.len())
        {
            debug!(%fault, "what was written last is not kept");
        }
        if let Some(target) = self.target.get() {
            target.incoming.keep();
        }
        self.journal = None;
        self.journals.close(self.hold);
    }

    /// Nothing of the transfer will come any more. Where the Node has not said what is to become of it, the process is ending.
    fn clean_up(mut self) {
        if !self.over {
            self.keep();
        }
    }
}

/// What was decided before the first entry is prepared.
#[derive(Default)]
struct Decided {
    taken: Taken,
    /// There is a journal of this very transfer, which is to be replaced when the new one says as much.
    again: bool,
    /// Earlier transfers of the same, of no use when the journal says what was taken over of them.
    superseded: Vec<Unfinished>,
}

fn digest_note(digest: Result<[u8; 32], FileFault>) -> EntryNote {
    digest.map_or_else(EntryNote::Failed, EntryNote::Digest)
}

impl From<crate::files::FileFault> for FileFault {
    fn from(fault: crate::files::FileFault) -> Self {
        use crate::files::FileFault as Here;
        match fault {
            Here::DiskFull => Self::DiskFull,
            Here::Denied => Self::Denied,
            Here::ReadOnly => Self::ReadOnly,
            Here::Failing(code) => Self::Failing(code),
            Here::NotFound => Self::NotFound,
            Here::Exists => Self::Exists,
            Here::Unsafe => Self::Unsafe,
            Here::Changed => Self::Changed,
            Here::Io(code) => Self::Io(code),
        }
    }
}

/// What the Node is told of an entry that does not arrive under its own name; `None` if it does.
fn note(verdict: &Verdict) -> Option<EntryNote> {
    match verdict {
        Verdict::Renamed(_) | Verdict::Replaces | Verdict::Below => None,
        Verdict::Skipped | Verdict::UnsafeLink => Some(EntryNote::Skipped),
        Verdict::Conflict => Some(EntryNote::Failed(FileFault::Exists)),
        Verdict::CannotHold(_) => Some(EntryNote::Failed(FileFault::Unsupported)),
        // Something may be mounted there that fails. Where it is the disk, writing says so.
        Verdict::Fault(crate::files::FileFault::Failing(code)) => Some(EntryNote::Failed(FileFault::Io(*code))),
        Verdict::Fault(fault) => Some(EntryNote::Failed((*fault).into())),
    }
}

fn published(outcomes: Vec<(u32, Result<Published, crate::files::FileFault>)>) -> Vec<(u32, EntryNote)> {
    let notes = outcomes.into_iter().filter_map(|(entry, outcome)| match outcome {
        Ok(Published { renamed_to: None }) => None,
        Ok(Published { renamed_to: Some(path) }) => Some((entry, EntryNote::Renamed(path.join(&b'/')))),
        Err(fault) => Some((entry, EntryNote::Failed(fault.into()))),
    });
    notes.collect()
}

fn failed(faults: Vec<(u32, crate::files::FileFault)>) -> Vec<(u32, EntryNote)> {
    faults.into_iter().map(|(entry, fault)| (entry, EntryNote::Failed(fault.into()))).collect()
}
