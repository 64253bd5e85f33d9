//! What is remembered of transfers that are not finished, so that they can go on in another life of the process: a file each, in the
//! home.
//!
//! The journal of an incoming transfer begins with what was offered and where it goes, and grows by a line for each checkpoint and each
//! batch of names. A line counts only whole: a crash costs the last one at most, and what it would have said is fetched again. The
//! journal of an outgoing one says what was to be sent to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol_core::ids::{DeviceId, TransferId};
use protocol_core::transfer::manifest::{Manifest, ManifestParser};
use protocol_core::transfer::ranges::Ranges;
use protocol_core::wire::control::Offer;
use rustix::fs::{AtFlags, CWD, unlinkat};
use tracing::debug;

use crate::driver::unix_s;
use crate::files::{ConflictPolicy, FileFault};
use crate::home::HomeError;
use crate::private::{self, Private};
use crate::request::SendRequest;

mod lines;

use self::lines::Line;

/// The longest journal that is read, in bytes: a million entries, with what became of each.
const LONGEST: usize = 512 << 20;
/// Journals that are kept of each direction; the oldest go.
pub const KEPT: usize = 64;
/// How long one is kept since it was last written.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// The same of transfers that are done: a sender that has missed their receipts may offer them again.
pub const DONE_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long a new transfer waits for the files of an older one of the same device to be closed.
const CLOSING: Duration = Duration::from_secs(30);

/// What was offered, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who sends it.
    pub device: DeviceId,
    /// Its id.
    pub transfer: TransferId,
    /// The digest of its manifest.
    pub digest: [u8; 32],
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Its entries.
    pub entries: u32,
    /// Bytes of its files together.
    pub bytes: u64,
    /// When it was taken, in seconds since 1970.
    pub unix_s: u64,
    /// What happens to conflicts.
    pub policy: ConflictPolicy,
    /// The destination, as an absolute path.
    pub directory: PathBuf,
}

/// A file's place on its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What the journal of an incoming transfer says.
#[derive(Debug)]
pub struct Unfinished {
    /// What was offered.
    pub head: Head,
    /// All of what was offered.
    pub manifest: Manifest,
    /// New names of top items.
    pub renamed: BTreeMap<u32, Vec<u8>>,
    /// Directories that the transfer made.
    pub made: BTreeSet<u32>,
    /// What is durable of each file under its temporary name, in bytes.
    pub durable: BTreeMap<u32, (Inode, Ranges)>,
    /// Files that have their final names.
    pub named: BTreeMap<u32, Inode>,
}

impl Unfinished {
    /// Removes the temporary files that it left.
    ///
    /// # Errors
    /// [`FileFault`] if the destination cannot be opened.
    pub fn sweep(&self) -> Result<usize, FileFault> {
        let tops = (0..).zip(self.manifest.entries()).filter(|(_, entry)| entry.components.len() == 1);
        let names = tops.map(|(top, entry)| self.renamed.get(&top).cloned().unwrap_or_else(|| entry.components.concat()));
        crate::files::sweep(&self.head.directory, self.head.transfer, &names.collect::<Vec<_>>())
    }

    /// Whether this could be the same thing, perhaps changed: one of its top items has the same name.
    pub(crate) fn is_like(&self, other: &Manifest) -> bool {
        let tops = |manifest: &Manifest| -> BTreeSet<Vec<u8>> {
            manifest.entries().filter(|entry| entry.components.len() == 1).map(|entry| entry.components.concat()).collect()
        };
        self.head.digest == *other.digest() || !tops(&self.manifest).is_disjoint(&tops(other))
    }

    /// Bytes that are here, under whatever name.
    pub fn bytes(&self) -> u64 {
        let named = self.named.keys().filter_map(|entry| self.manifest.entry(*entry)).map(|entry| entry.size).sum::<u64>();
        let durable = self.durable.iter().filter(|(entry, _)| !self.named.contains_key(entry));
        named + durable.map(|(_, (_, bytes))| bytes.count()).sum::<u64>()
    }
}

/// An outgoing transfer that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Who is to get it.
    pub device: DeviceId,
    /// Its id in the last try.
    pub transfer: TransferId,
    /// When that began, in seconds since 1970.
    pub unix_s: u64,
    /// What was asked for, with absolute paths.
    pub request: SendRequest,
    /// Its entries and their bytes, in that try.
    pub entries: u32,
    /// See above.
    pub bytes: u64,
    /// The digest of its manifest, in that try.
    pub digest: [u8; 32],
    /// For one that was queued: when it is too late for it, in seconds since 1970.
    pub expires_unix: Option<u64>,
}

impl Outgoing {
    fn is_over(&self) -> bool {
        self.expires_unix.is_some_and(|expires| unix_s() >= expires)
    }
}

/// Transfers that were begun, or queued, and are not finished, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Those that came.
    pub incoming: Vec<Head>,
    /// Those that were to be sent.
    pub outgoing: Vec<Outgoing>,
    /// The ones among both that run in this process.
    pub live: BTreeSet<TransferId>,
    /// Those that the owner has rest: nobody goes on with them by himself.
    pub paused: BTreeSet<TransferId>,
}

impl Begun {
    /// What the journals say. It takes no lock: another process may be writing them.
    pub fn read(journals: &Journals) -> Self {
        let (incoming, outgoing) = (journals.heads().unwrap_or_default(), journals.outgoing().unwrap_or_default());
        let paused = journals.list("paused").unwrap_or_default().into_iter().map(|(id, _)| id).collect();
        Self { incoming, outgoing, live: BTreeSet::new(), paused }
    }
}

/// All journals of a home.
#[derive(Debug)]
pub struct Journals {
    path: PathBuf,
    live: Mutex<Live>,
    closed: Condvar,
}

/// The incoming transfers that have files in this process.
#[derive(Debug, Default)]
struct Live {
    last: u64,
    open: BTreeMap<Hold, (DeviceId, TransferId, bool)>,
}

/// One life of a transfer in this process. An id may have one that ends and one that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hold(u64);

impl Journals {
    /// Those of the directory `path`, which is made when it is needed.
    pub fn new(path: PathBuf) -> Self {
        Self { path, live: Mutex::default(), closed: Condvar::new() }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, transfer: TransferId, kind: &str) -> PathBuf {
        self.path.join(format!("{transfer}.{kind}"))
    }

    fn failed(&self, fault: impl Into<FileFault>) -> HomeError {
        HomeError::File(self.path.clone(), fault.into())
    }

    fn make_directory(&self) -> Result<(), HomeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|error| self.failed(error))?;
        private::sync_directory(&self.path).map_err(|fault| self.failed(fault))
    }

    /// Begins the journal of an incoming transfer. It is durable, and replaces one that was there, when it is committed.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn begin(&self, head: &Head, manifest: &Manifest) -> Result<Journal, HomeError> {
        self.make_directory()?;
        let path = self.file(head.transfer, "in");
        let temporary = self.file(head.transfer, "new");
        let file = private::create(&temporary).map_err(|fault| self.failed(fault))?;
        let mut journal = Journal { file, temporary, path };
        let mut bytes = Line::Head(head).to_bytes();
        for page in manifest.pages() {
            bytes.extend(Line::Page(page).to_bytes());
        }
        journal.write(&bytes, false).map_err(|fault| self.failed(fault))?;
        Ok(journal)
    }

    /// An incoming transfer has files here from now on: nobody else takes them over.
    pub(crate) fn open(&self, device: DeviceId, transfer: TransferId) -> Hold {
        let mut live = self.live();
        live.last += 1;
        let hold = Hold(live.last);
        live.open.insert(hold, (device, transfer, false));
        hold
    }

    /// It has ended; its files are being closed.
    pub(crate) fn closing(&self, hold: Hold) {
        if let Some((.., closing)) = self.live().open.get_mut(&hold) {
            *closing = true;
        }
    }

    /// Its files are closed, and may be taken over.
    pub(crate) fn close(&self, hold: Hold) {
        self.live().open.remove(&hold);
        self.closed.notify_all();
    }

    /// What a device has begun to send into a directory, and no other transfer of this process goes on with: the newest first; and what
    /// is `done` under this id and digest. Waits for the files of those that have just ended to be closed, for half a minute at most.
    pub(crate) fn unfinished(
        &self,
        own: Hold,
        device: DeviceId,
        directory: &Path,
        done: Option<(TransferId, &[u8; 32])>,
    ) -> Vec<Unfinished> {
        let until = Instant::now() + CLOSING;
        let mut live = self.live();
        while live.open.iter().any(|(hold, (of, _, closing))| *hold != own && *of == device && *closing)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            live = self.closed.wait_timeout(live, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let others: BTreeSet<TransferId> = live.open.iter().filter(|(hold, _)| **hold != own).map(|(_, (_, id, _))| *id).collect();
        drop(live);
        let mut heads = self.heads().unwrap_or_default();
        heads.extend(done.and_then(|(transfer, digest)| self.is_done(device, transfer, digest)));
        let fits = |head: &&Head| head.device == device && head.directory == directory && !others.contains(&head.transfer);
        let mut found: Vec<Unfinished> = heads.iter().filter(fits).filter_map(|head| self.read(head.transfer)).collect();
        found.sort_by_key(|unfinished| core::cmp::Reverse(unfinished.head.unix_s));
        found
    }

    /// The transfer of this device with this manifest that was taken before and is not finished, if nothing in this process goes on
    /// with it; or the one under this very id that is done.
    pub fn taken(&self, device: DeviceId, id: TransferId, digest: &[u8; 32]) -> Option<Head> {
        let open: BTreeSet<TransferId> = self.live().open.values().filter(|(.., closing)| !closing).map(|(_, id, _)| *id).collect();
        let fits = |head: &Head| head.device == device && head.digest == *digest && !open.contains(&head.transfer);
        self.is_done(device, id, digest).or_else(|| self.heads().ok()?.into_iter().find(fits))
    }

    /// All that came and is not finished, the oldest first.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn heads(&self) -> Result<Vec<Head>, HomeError> {
        let mut heads: Vec<Head> = self.list("in")?.into_iter().filter_map(|(_, path)| lines::head(&path)).collect();
        heads.sort_by_key(|head| (head.unix_s, head.transfer));
        Ok(heads)
    }

    /// What the journal of an incoming transfer says, one that is done included. `None`: there is none that could be read.
    pub fn read(&self, transfer: TransferId) -> Option<Unfinished> {
        ["in", "done"].iter().find_map(|kind| {
            let Private::File(file) = private::open(&self.file(transfer, kind)).ok()? else { return None };
            let bytes = private::read(&file, LONGEST).ok()??;
            unfinished(&bytes)
        })
    }

    /// An incoming transfer is done: its journal says from now on what stands where.
    ///
    /// # Errors
    /// A fault of the file system.
    // XFER-27.
    pub(crate) fn done(&self, transfer: TransferId) -> Result<(), HomeError> {
        std::fs::rename(self.file(transfer, "in"), self.file(transfer, "done")).map_err(|error| self.failed(error))?;
        self.unlink(transfer, "paused")
    }

    /// The transfer of this device under this id that is done here, if it is of the same files.
    fn is_done(&self, device: DeviceId, transfer: TransferId, digest: &[u8; 32]) -> Option<Head> {
        lines::head(&self.file(transfer, "done")).filter(|head| head.device == device && head.digest == *digest)
    }

    /// Removes what is remembered of a transfer, in both directions. One that is not there is no error.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn remove(&self, transfer: TransferId) -> Result<(), HomeError> {
        ["in", "out", "new", "done", "paused"].iter().try_for_each(|kind| self.unlink(transfer, kind))
    }

    fn unlink(&self, transfer: TransferId, kind: &str) -> Result<(), HomeError> {
        match unlinkat(CWD, self.file(transfer, kind), AtFlags::empty()).map_err(FileFault::from) {
            Ok(()) | Err(FileFault::NotFound) => Ok(()),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Whether the owner has it rest.
    pub(crate) fn is_paused(&self, transfer: TransferId) -> bool {
        self.file(transfer, "paused").exists()
    }

    /// Forgets that of transfers of which nothing else is remembered.
    pub(crate) fn prune_paused(&self) -> Result<(), HomeError> {
        let nothing = |id: &TransferId| !["in", "out"].iter().any(|kind| self.file(*id, kind).exists());
        self.list("paused")?.into_iter().map(|(id, _)| id).filter(nothing).try_for_each(|id| self.unlink(id, "paused"))
    }

    /// Remembers that the owner has a transfer rest, or go on; durable when it returns. Whether there is such a transfer, or `live` says so.
    ///
    /// # Errors
    /// A fault of the file system.
    pub(crate) fn pause(&self, transfer: TransferId, paused: bool, live: bool) -> Result<bool, HomeError> {
        let there = live || ["in", "out"].iter().any(|kind| self.file(transfer, kind).exists());
        if !paused {
            self.unlink(transfer, "paused")?;
        } else if there {
            self.make_directory()?;
            private::write(&self.file(transfer, "paused"), &[], private::Replace::Yes).map_err(|fault| self.failed(fault))?;
        }
        Ok(there)
    }

    /// Removes a transfer that does not run, with its temporary files. Whether there was one.
    pub fn give_up(&self, transfer: TransferId) -> bool {
        if self.live().open.values().any(|(_, id, _)| *id == transfer) {
            return false;
        }
        let there = ["in", "out"].iter().any(|kind| self.file(transfer, kind).exists());
        if let Some(Err(fault)) = self.read(transfer).map(|left| left.sweep()) {
            debug!(%fault, "temporary files remain");
        }
        self.remove(transfer).is_ok() && there
    }

    /// Remembers what is to be sent. Durable when it returns.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn add_outgoing(&self, outgoing: &Outgoing) -> Result<(), HomeError> {
        self.make_directory()?;
        let path = self.file(outgoing.transfer, "out");
        private::write(&path, &Line::Outgoing(outgoing).to_bytes(), private::Replace::Yes).map_err(|fault| self.failed(fault))
    }

    /// All that was to be sent and is not finished, the oldest first.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn outgoing(&self) -> Result<Vec<Outgoing>, HomeError> {
        let mut list: Vec<Outgoing> = self.list("out")?.into_iter().filter_map(|(_, path)| lines::outgoing(&path)).collect();
        // What rests is its owner's to end.
        list.retain(|outgoing| !outgoing.is_over() || self.is_paused(outgoing.transfer));
        list.sort_by_key(|outgoing| (outgoing.unix_s, outgoing.transfer));
        Ok(list)
    }

    /// Nothing is to be sent to this device any more.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn forget(&self, device: DeviceId) -> Result<(), HomeError> {
        for outgoing in self.outgoing()?.into_iter().filter(|outgoing| outgoing.device == device) {
            self.remove(outgoing.transfer)?;
        }
        Ok(())
    }

    fn list(&self, kind: &str) -> Result<Vec<(TransferId, PathBuf)>, HomeError> {
        let directory = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            answer => answer.map_err(|error| self.failed(error))?,
        };
        let mut list = Vec::new();
        for entry in directory {
            let path = entry.map_err(|error| self.failed(error))?.path();
            let id = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if let (Some(id), true) = (id, path.extension().is_some_and(|found| found == kind)) {
                list.push((id, path));
            }
        }
        Ok(list)
    }

    /// Journals that are too old, or too many, or of which nothing can be read: those of incoming transfers with what they left, as far
    /// as they say where that is.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn surplus(&self) -> Result<Vec<(TransferId, Option<Unfinished>)>, HomeError> {
        let mut surplus = Vec::new();
        for (kind, keep) in [("in", KEPT_FOR), ("out", KEPT_FOR), ("done", DONE_FOR)] {
            let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
            let mut list: Vec<_> = self.list(kind)?.into_iter().map(|(id, path)| (modified(&path), id, path)).collect();
            list.sort_by_key(|(modified, ..)| core::cmp::Reverse(*modified));
            for (place, (modified, id, path)) in list.into_iter().enumerate() {
                let old = modified.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > keep);
                let queued = if kind == "out" { lines::outgoing(&path).filter(|outgoing| outgoing.expires_unix.is_some()) } else { None };
                let unfinished = || if kind == "in" { self.read(id) } else { None };
                // What was queued has a time of its own.
                if queued.map_or(place >= KEPT || old, |queued| queued.is_over() && !self.is_paused(id)) {
                    surplus.push((id, unfinished()));
                } else if kind == "in" && lines::head(&path).is_none() {
                    debug!(path = %path.display(), "a journal that cannot be read");
                    surplus.push((id, None));
                }
            }
        }
        Ok(surplus)
    }
}

/// The journal of an incoming transfer, which grows.
#[derive(Debug)]
pub struct Journal {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Journal {
    /// What was written counts from now on, durably. May be called once.
    pub(crate) fn commit(&self) -> Result<(), FileFault> {
        rustix::fs::fdatasync(&self.file)?;
        std::fs::rename(&self.temporary, &self.path)?;
        // One that was done is begun again.
        std::fs::remove_file(self.path.with_extension("done")).unwrap_or(());
        private::sync_directory(&self.path)
    }

    fn write(&mut self, bytes: &[u8], durable: bool) -> Result<(), FileFault> {
        self.file.write_all(bytes)?;
        if durable {
            rustix::fs::fdatasync(&self.file)?;
        }
        Ok(())
    }

    /// What was decided before the first file: new names of top items, and directories that were made. Not durable by itself.
    pub(crate) fn prepared(&mut self, renamed: &BTreeMap<u32, Vec<u8>>, made: &BTreeSet<u32>) -> Result<(), FileFault> {
        self.write(&Line::Prepared(renamed, made).to_bytes(), false)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<(), FileFault> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// These bytes of these files are durable. So is this, when it returns.
    // HOST-24.
    pub(crate) fn durable(&mut self, files: &BTreeMap<u32, (Inode, Ranges)>) -> Result<(), FileFault> {
        self.write(&Line::Durable(files).to_bytes(), true)
    }

    /// These files have their names. Where this is lost, the files' places tell.
    pub(crate) fn named(&mut self, files: &BTreeMap<u32, Inode>) -> Result<(), FileFault> {
        self.write(&Line::Named(files).to_bytes(), false)
    }
}

/// Reads a journal, up to the first line that is not whole.
fn unfinished(bytes: &[u8]) -> Option<Unfinished> {
    let mut lines = lines::Lines::new(bytes);
    let head = lines::read_head(lines.next()?)?;
    let offer = Offer {
        transfer: head.transfer,
        entries: head.entries,
        bytes: head.bytes,
        chunk_size: head.chunk_size,
        manifest_digest: head.digest,
        label: None,
    };
    let mut parser = Some(ManifestParser::new(&offer).ok()?);
    let mut manifest = None;
    let (mut renamed, mut made) = (BTreeMap::new(), BTreeSet::new());
    let (mut durable, mut named) = (BTreeMap::<u32, (Inode, Ranges)>::new(), BTreeMap::new());
    for line in lines {
        if let Some(page) = lines::read_page(line) {
            parser.as_mut()?.page(page.to_vec()).ok()?;
            continue;
        }
        if let Some(parser) = parser.take() {
            manifest = Some(parser.finish().ok()?);
        }
        match lines::read_rest(line) {
            Some(lines::Rest::Prepared(tops, directories)) => {
                renamed.extend(tops);
                made.extend(directories);
            }
            Some(lines::Rest::Durable(files)) => {
                for (entry, (inode, bytes)) in files {
                    let known = durable.entry(entry).or_insert_with(|| (inode, Ranges::new()));
                    if known.0 != inode {
                        *known = (inode, Ranges::new());
                    }
                    known.1.union(&bytes);
                }
            }
            Some(lines::Rest::Named(files)) => named.extend(files),
            None => break,
        }
    }
    if let Some(parser) = parser.take() {
        manifest = Some(parser.finish().ok()?);
    }
    Some(Unfinished { head, manifest: manifest?, renamed, made, durable, named })
}

#[cfg(test)]
mod tests;
