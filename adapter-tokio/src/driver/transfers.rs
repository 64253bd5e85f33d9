//! The files of transfers: where outgoing ones are read, where incoming ones go, and what is done to those in order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use protocol_core::effects::{EntryNote, FileOp, Reply, TransferKey};
use protocol_core::faults::{Failure, FileFault};
use protocol_core::ids::Ticket;
use protocol_core::transfer::manifest::{Entry, Manifest};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Happened;
use super::links::Links;
use crate::files::{ConflictPolicy, Destination, Incoming, Published, Verdict};
use crate::home::{Home, Pending};
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
    home: Arc<Home>,
    pub(crate) inbox: Option<Inbox>,
    outgoing: HashMap<TransferKey, Arc<Sources>>,
    incoming: HashMap<TransferKey, Arrival>,
}

#[derive(Debug)]
struct Arrival {
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
    pub(crate) fn new(home: Arc<Home>) -> Self {
        Self { home, inbox: None, outgoing: HashMap::new(), incoming: HashMap::new() }
    }

    /// Names the sources of a transfer, before the Node's outputs are performed.
    pub(crate) fn add_outgoing(&mut self, key: TransferKey, sources: Sources) {
        self.outgoing.insert(key, Arc::new(sources));
    }

    pub(super) fn outgoing(&self, key: TransferKey) -> Option<Arc<Sources>> {
        self.outgoing.get(&key).cloned()
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

    /// The transfer is over: its workers end, and what it left lying about is removed.
    pub(super) fn forget(&mut self, key: TransferKey) {
        self.outgoing.remove(&key);
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
        let queued =
            self.incoming.get(&key).is_some_and(|arrival| arrival.jobs.send(Job { ticket, entries, op, policy: arrival.policy }).is_ok());
        if op == FileOp::Discard {
            // The last operation of a transfer, also of one whose owner never heard of it: the worker ends behind it.
            self.incoming.remove(&key);
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
        let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
        let target = Arc::default();
        let mut worker = Worker { key, dir, manifest, home: Arc::clone(&self.home), target: Arc::clone(&target), discarded: false };
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
        self.incoming.insert(key, Arrival { policy: on_conflict, target, jobs });
    }
}

/// The manifest's entries for the disk.
struct Entries(Vec<Entry>);

impl AsRef<[Entry]> for Entries {
    fn as_ref(&self) -> &[Entry] {
        &self.0
    }
}

struct Worker {
    key: TransferKey,
    dir: PathBuf,
    manifest: Arc<Manifest>,
    home: Arc<Home>,
    target: Arc<OnceLock<Arc<Target>>>,
    discarded: bool,
}

impl Worker {
    fn perform(&mut self, job: &Job) -> Result<Reply, Failure> {
        let notes = match job.op {
            FileOp::Inspect => self.inspect(),
            FileOp::Prepare => self.prepare(job.entries.clone(), job.policy),
            FileOp::Sync => self.target().map(|target| failed(target.incoming.sync(job.entries.clone()))),
            FileOp::Publish => self.target().map(|target| published(target.incoming.publish_range(job.entries.clone(), false))),
            FileOp::Finish => self.target().map(|target| published(target.incoming.finish(false))),
            FileOp::Discard => {
                self.discarded = true;
                self.target().map(|target| {
                    target.incoming.discard();
                    Vec::new()
                })
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
            if destination.free_space()? < self.manifest.bytes() {
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

    fn prepare(&self, entries: Range<u32>, policy: ConflictPolicy) -> Result<Vec<(u32, EntryNote)>, FileFault> {
        let target = self.target()?;
        if entries.start == 0 {
            self.decide(target, policy)?;
        }
        let left_out = target.left_out();
        let mut notes: BTreeMap<u32, EntryNote> = left_out.range(entries.clone()).map(|(entry, note)| (*entry, note.clone())).collect();
        drop(left_out);
        for (entry, fault) in target.incoming.prepare(entries) {
            notes.entry(entry).or_insert(EntryNote::Failed(fault.into()));
        }
        Ok(notes.into_iter().collect())
    }

    /// Decides every conflict by the owner's policy, and notes where temporary files will be before the first is made.
    fn decide(&self, target: &Target, policy: ConflictPolicy) -> Result<(), FileFault> {
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
        let directory = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let pending = Pending { transfer: self.key.id, directory, tops: target.incoming.top_names() };
        self.home.pending().add(&pending).map_err(|error| {
            warn!(%error, "the transfer could not be noted");
            FileFault::Io(0)
        })
    }

    /// Nothing of the transfer will come any more.
    fn clean_up(self) {
        if let Some(target) = self.target.get().filter(|_| !self.discarded) {
            target.incoming.discard();
        }
        if let Err(error) = self.home.pending().remove(self.key.id) {
            debug!(%error, "a finished transfer stays noted");
        }
    }
}

impl From<crate::files::FileFault> for FileFault {
    fn from(fault: crate::files::FileFault) -> Self {
        use crate::files::FileFault as Here;
        match fault {
            Here::DiskFull => Self::DiskFull,
            Here::Denied => Self::Denied,
            Here::ReadOnly => Self::ReadOnly,
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
