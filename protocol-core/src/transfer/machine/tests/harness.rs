//! A sender and a receiver, joined by queues: messages, records and chunk frames travel, files live in memory. Chunks pass
//! through sealers and openers. Nothing happens but by [`World::step`].

use core::mem::take;

use super::super::*;
use crate::bulk::chunks::{Chunks, Run};
use crate::bulk::digest;
use crate::bulk::opener::Opener;
use crate::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD, Sealer};
use crate::crypto::aead::Forged;
use crate::crypto::secret::Secret;
use crate::effects::{BulkHalf, ChunkDone, EntryNote, Output};
use crate::entropy::{Entropy, NoEntropy};
use crate::faults::FileFault;
use crate::ids::{SessionRef, Ticket};
use crate::outbox::Outbox;
use crate::session::keys::StreamKey;
use crate::session::record::RecordType;
use crate::session::stream::{Header, Opening};
use crate::time::Timestamp;
use crate::timers::Timers;
use crate::transfer::manifest::{Entry, EntryKind};
use crate::transfer::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec;
use std::vec::Vec;

pub(super) const CHUNK: u32 = 64 << 10;

/// Authenticates, and encrypts nothing: the real ciphers are too slow in debug builds for what is repeated here at every step.
#[derive(Debug)]
struct Tagged;

impl Tagged {
    fn tag(aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&[aead as u8]).update(nonce).update(aad).update(text);
        let mut tag = [0; 16];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

impl BulkCipher for Tagged {
    fn seal(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; 16] {
        Self::tag(aead, key, nonce, aad, buffer)
    }

    fn open(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8; 16]) -> Result<(), Forged> {
        if Self::tag(aead, key, nonce, aad, buffer) == *tag { Ok(()) } else { Err(Forged) }
    }
}

struct Counter(u8);

impl Entropy for Counter {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0 += 1;
        bytes.fill(self.0);
        Ok(())
    }
}

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Sender,
    Receiver,
}
pub(super) use Who::{Receiver as R, Sender as S};

impl Who {
    pub(super) const fn other(self) -> Self {
        match self {
            S => R,
            R => S,
        }
    }

    pub(super) const fn device(self) -> DeviceId {
        match self {
            S => DeviceId([1; 16]),
            R => DeviceId([2; 16]),
        }
    }
}

pub(super) struct Side {
    pub(super) transfers: Transfers,
    out: Outbox,
    pub(super) timers: Timers,
    entropy: Counter,
    pub(super) events: Vec<Event>,
    pub(super) violation: bool,
    pub(super) forgeries: usize,
    /// Files operations that were asked for.
    pub(super) ops: Vec<(FileOp, Range<u32>)>,
    pub(super) resets: usize,
    pub(super) opened: usize,
}

impl Side {
    fn new() -> Self {
        Self {
            transfers: Transfers::new(Arc::new(Tagged)),
            out: Outbox::default(),
            timers: Timers::default(),
            entropy: Counter(0),
            events: vec![],
            violation: false,
            forgeries: 0,
            ops: vec![],
            resets: 0,
            opened: 0,
        }
    }
}

#[derive(Debug)]
pub(super) enum Action {
    Message(Who, ControlMessage),
    Open(Who, TransferKey, StreamKind),
    Record(Who, StreamId, Vec<u8>),
    Frame(StreamId, Vec<u8>),
    Drained(Who, StreamId),
    Down(Who, StreamId, Cut),
    Seal(StreamId),
    Job(Who, Ticket, Range<u32>, FileOp),
}

struct Seals {
    key: TransferKey,
    sealer: Sealer,
    chunks: Arc<Chunks>,
    run: Option<Run>,
}

struct Opens {
    opener: Opener,
    chunks: Arc<Chunks>,
}

/// What the file systems of both sides do wrong.
#[derive(Default)]
pub(super) struct Faults {
    /// Temporary files of the receiver that cannot be read back.
    pub(super) unreadable: Vec<u32>,
    /// Sources that cannot be read any more.
    pub(super) sources: BTreeMap<u32, FileFault>,
    /// Entries that cannot be written.
    pub(super) writes: BTreeMap<u32, FileFault>,
    /// Notes of the host for an operation.
    pub(super) notes: Vec<(FileOp, u32, EntryNote)>,
    /// Operations that fail as a whole.
    pub(super) ops: Vec<(FileOp, Failure)>,
    /// Every frame is altered on its way.
    pub(super) corrupt: bool,
    /// Frames with these numbers get lost with their streams.
    pub(super) cut_after: Option<usize>,
    /// Streams of this kind cannot be opened.
    pub(super) closed: Option<StreamKind>,
    /// The sender's workers keep what they have done to themselves.
    pub(super) late: bool,
    /// What the sender says of digests is wrong.
    pub(super) wrong_digests: bool,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) sides: BTreeMap<Who, Side>,
    pub(super) queue: VecDeque<Action>,
    pub(super) entries: Vec<Entry>,
    pub(super) sources: Vec<Vec<u8>>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) temporary: BTreeMap<u32, Vec<u8>>,
    pub(super) published: BTreeMap<u32, Vec<u8>>,
    pub(super) discarded: bool,
    /// What was kept for another try.
    pub(super) kept: BTreeMap<u32, Vec<u8>>,
    pub(super) faults: Faults,
    pub(super) sealed: Vec<(StreamId, u64)>,
    /// What was told, by both.
    pub(super) told: Vec<(Who, ControlMessage)>,
    streams: u64,
    seals: BTreeMap<StreamId, Seals>,
    opens: BTreeMap<StreamId, Opens>,
    waiting_frames: BTreeMap<StreamId, Vec<Vec<u8>>>,
    parked: Vec<StreamId>,
    /// What a worker of the sender has not reported yet.
    pub(super) late: Vec<(StreamId, BulkReport)>,
    live: BTreeSet<StreamId>,
}

pub(super) fn file(name: &str, size: u64) -> Entry {
    entry(name, EntryKind::File, size)
}

pub(super) fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
    let components = path.split('/').map(|name| name.as_bytes().to_vec()).collect();
    let target = (kind == EntryKind::Symlink).then(|| b"target".to_vec());
    Entry { components, kind, size, mode: 0o644, mtime_s: 0, mtime_ns: 0, target }
}

/// Empty, packed and large files, a directory in a directory, a link.
pub(super) fn tree() -> Vec<Entry> {
    vec![
        entry("a", EntryKind::Directory, 0),
        file("a/0", 0),
        file("a/1", 100),
        file("a/2", 1000),
        entry("a/b", EntryKind::Directory, 0),
        file("a/b/big", 5 * u64::from(CHUNK) + 77),
        entry("a/link", EntryKind::Symlink, 0),
        file("c", 40_000),
        file("d", 40_000),
        file("e", u64::from(CHUNK)),
        file("f", 0),
        file("g", 1),
    ]
}

impl World {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let manifest = Arc::new(Manifest::build(entries.clone(), CHUNK).unwrap());
        let content = |(number, entry): (usize, &Entry)| {
            let mut bytes = vec![0; entry.size as usize];
            blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        };
        let sources = entries.iter().enumerate().map(content).collect();
        Self {
            now: Timestamp::from_micros(1),
            sides: [S, R].map(|who| (who, Side::new())).into(),
            queue: VecDeque::new(),
            entries,
            sources,
            manifest,
            temporary: BTreeMap::new(),
            published: BTreeMap::new(),
            discarded: false,
            kept: BTreeMap::new(),
            faults: Faults::default(),
            sealed: vec![],
            told: vec![],
            streams: 0,
            seals: BTreeMap::new(),
            opens: BTreeMap::new(),
            waiting_frames: BTreeMap::new(),
            parked: vec![],
            late: vec![],
            live: BTreeSet::new(),
        }
    }

    /// A session in which both can open streams.
    pub(super) fn connect(&mut self) {
        let both = Peer { can_open: true, must_ask: false, must_open: false };
        self.connect_as(both, both);
    }

    /// A session on tcp that `dialler` dialled.
    pub(super) fn connect_tcp(&mut self, dialler: Who) {
        let peer = |who| Peer { can_open: who == dialler, must_ask: who != dialler, must_open: who == dialler };
        self.connect_as(peer(S), peer(R));
    }

    fn connect_as(&mut self, sender: Peer, receiver: Peer) {
        self.call(R, |transfers, cx| transfers.on_session(cx, S.device(), receiver));
        self.call(S, |transfers, cx| transfers.on_session(cx, R.device(), sender));
    }

    pub(super) fn lose_session(&mut self) {
        self.queue.retain(|action| !matches!(action, Action::Message(..)));
        for who in [S, R] {
            self.call(who, |transfers, cx| transfers.on_session_lost(cx, who.other().device()));
        }
    }

    pub(super) fn offer(&mut self) -> TransferKey {
        let manifest = Arc::clone(&self.manifest);
        self.call(S, |transfers, cx| transfers.offer(cx, R.device(), manifest, None, None)).unwrap()
    }

    pub(super) fn key_at(who: Who, id: TransferId) -> TransferKey {
        let direction = if who == S { Direction::Outgoing } else { Direction::Incoming };
        TransferKey { device: who.other().device(), direction, id }
    }

    /// The one transfer of a side, if it is not over.
    pub(super) fn key(&self, who: Who) -> Option<TransferKey> {
        let transfers = &self.sides[&who].transfers;
        transfers.senders.keys().chain(transfers.receivers.keys()).next().copied()
    }

    pub(super) fn state(&self, who: Who) -> &'static str {
        let transfers = &self.sides[&who].transfers;
        let sender = transfers.senders.values().next().map(Sender::state);
        sender.or_else(|| transfers.receivers.values().next().map(Receiver::state)).unwrap_or("over")
    }

    /// Calls a side, and takes up what it puts out.
    pub(super) fn call<T>(&mut self, who: Who, call: impl FnOnce(&mut Transfers, &mut Cx<'_>) -> T) -> T {
        let side = self.sides.get_mut(&who).unwrap();
        let mut cx = Cx { now: self.now, entropy: &mut side.entropy, out: &mut side.out, timers: &mut side.timers };
        let result = call(&mut side.transfers, &mut cx);
        self.take_up(who);
        result
    }

    fn take_up(&mut self, who: Who) {
        let side = self.sides.get_mut(&who).unwrap();
        let mut cx = Cx { now: self.now, entropy: &mut side.entropy, out: &mut side.out, timers: &mut side.timers };
        for want in side.transfers.take_wants(&mut cx) {
            match want {
                Want::Tell { mut message, device } => {
                    assert_eq!(device, who.other().device());
                    if let ControlMessage::FileDigests { digests, .. } = &mut message
                        && self.faults.wrong_digests
                    {
                        digests.iter_mut().for_each(|digest| digest[0] ^= 1);
                    }
                    let whole = message.encode();
                    assert_eq!(ControlMessage::decode(&whole[4..]).unwrap().as_ref(), Some(&message), "it fits the wire");
                    self.told.push((who, message.clone()));
                    self.queue.push_back(Action::Message(who.other(), message));
                }
                Want::Stream { key, kind, digest } => {
                    assert_eq!(digest, *self.manifest.digest());
                    self.queue.push_back(Action::Open(who, key, kind));
                }
                Want::Forgery { .. } => self.sides.get_mut(&who).unwrap().forgeries += 1,
            }
        }
        while let Some(output) = self.sides.get_mut(&who).unwrap().out.pop() {
            self.perform(who, output);
        }
    }

    fn perform(&mut self, who: Who, output: Output) {
        match output {
            Output::Notify(event) => self.sides.get_mut(&who).unwrap().events.push(event),
            Output::Send { stream, mut bytes } => {
                while !bytes.is_empty() {
                    let len = 5 + u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                    let rest = bytes.split_off(len);
                    self.queue.push_back(Action::Record(who.other(), stream, bytes));
                    bytes = rest;
                }
                self.queue.push_back(Action::Drained(who, stream));
            }
            Output::Finish { stream } => self.down(stream, Cut::Finished),
            Output::Reset { stream, .. } => {
                self.sides.get_mut(&who).unwrap().resets += 1;
                // A side hears nothing more of a stream that it reset.
                self.queue.retain(|action| !matches!(action, Action::Down(to, of, _) if *of == stream && *to == who));
                if self.live.remove(&stream) {
                    self.seals.remove(&stream);
                    self.opens.remove(&stream);
                    self.queue.push_back(Action::Down(who.other(), stream, Cut::Broken));
                }
            }
            Output::Bulk { stream, half: BulkHalf::Seal { transfer, sealer, chunks } } => {
                assert_eq!(who, S);
                self.seals.insert(stream, Seals { key: transfer, sealer, chunks, run: None });
                self.queue.push_back(Action::Seal(stream));
            }
            Output::Bulk { stream, half: BulkHalf::Open { opener, chunks, .. } } => {
                assert_eq!(who, R);
                self.opens.insert(stream, Opens { opener, chunks });
                for frame in self.waiting_frames.remove(&stream).unwrap_or_default() {
                    self.queue.push_back(Action::Frame(stream, frame));
                }
            }
            Output::Files { ticket, entries, op, .. } => {
                self.sides.get_mut(&who).unwrap().ops.push((op, entries.clone()));
                self.queue.push_back(Action::Job(who, ticket, entries, op));
            }
            other => panic!("no transfer puts out {other:?}"),
        }
    }

    /// Both sides will hear that a stream ended.
    fn down(&mut self, stream: StreamId, how: Cut) {
        if self.live.remove(&stream) {
            self.seals.remove(&stream);
            for who in [S, R] {
                self.queue.push_back(Action::Down(who, stream, how));
            }
        }
    }

    /// Cuts every stream.
    pub(super) fn cut_streams(&mut self) {
        self.queue.retain(|action| !matches!(action, Action::Frame(..) | Action::Record(..) | Action::Drained(..) | Action::Seal(_)));
        for stream in self.live.clone() {
            self.down(stream, Cut::Broken);
        }
    }

    /// One thing happens; `false` if nothing is left to happen without time passing.
    pub(super) fn step(&mut self) -> bool {
        for stream in take(&mut self.parked) {
            self.queue.push_back(Action::Seal(stream));
        }
        let Some(action) = self.queue.pop_front() else { return false };
        match action {
            Action::Message(to, message) => {
                let from = to.other().device();
                let result = self.call(to, |transfers, cx| transfers.on_control(cx, from, message));
                self.sides.get_mut(&to).unwrap().violation |= result.is_err();
            }
            Action::Open(by, key, kind) => self.open(by, key, kind),
            Action::Record(to, stream, bytes) => self.call(to, |transfers, cx| transfers.on_record(cx, stream, bytes)),
            Action::Frame(stream, bytes) => self.open_frame(stream, bytes),
            Action::Drained(to, stream) => self.call(to, |transfers, cx| transfers.on_drained(cx, stream)),
            Action::Down(to, stream, how) => {
                if to == R {
                    self.opens.remove(&stream);
                }
                self.call(to, |transfers, cx| transfers.on_stream_down(cx, stream, how));
            }
            Action::Seal(stream) => return self.seal(stream),
            Action::Job(who, ticket, entries, op) => self.job(who, ticket, &entries, op),
        }
        true
    }

    /// At most so many things happen.
    pub(super) fn steps(&mut self, most: usize) {
        for _ in 0..most {
            if !self.step() {
                return;
            }
        }
    }

    fn open(&mut self, by: Who, key: TransferKey, kind: StreamKind) {
        self.sides.get_mut(&by).unwrap().opened += 1;
        if self.faults.closed == Some(kind) {
            return self.call(by, |transfers, cx| transfers.on_stream_failed(cx, key, kind));
        }
        self.streams += 1;
        let stream = StreamId(self.streams);
        self.live.insert(stream);
        let header = Header::new(kind, SessionRef([7; 16]), self.streams, [9; 8]).unwrap();
        let (opener, answerer) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let key_of = |who: Who| {
            if who == by { StreamKey::of_opener(&opener, &header) } else { StreamKey::of_answerer(&answerer, &header, &[3; 16]) }
        };
        let (mut sealer, mut record_opener) = (RecordSealer::new(&key_of(S)), RecordOpener::new(&key_of(S)));
        if by == S {
            let opening = Opening::Manifest { transfer: key.id, manifest_digest: *self.manifest.digest() }.encode();
            let record = sealer.seal(RecordType::Opening, &opening).unwrap();
            record_opener.open(&record).unwrap();
        }
        let mut halves = match kind {
            StreamKind::Manifest => [(S, DataHalf::SendRecords(sealer)), (R, DataHalf::ReceiveRecords(record_opener))],
            _ => [(S, DataHalf::SendChunks(key_of(S))), (R, DataHalf::ReceiveChunks(key_of(S)))],
        };
        if by == R {
            halves.reverse();
        }
        for (who, half) in halves {
            let data = DataStream { stream, ours: by == who, half, aead: Aead::ChaCha20Poly1305 };
            let at = Self::key_at(who, key.id);
            assert_eq!(by == who, at == key, "a side opens for its own transfer");
            self.call(who, |transfers, cx| transfers.on_data_stream(cx, at, kind, data));
        }
    }

    /// Seals one chunk of a stream.
    fn seal(&mut self, stream: StreamId) -> bool {
        let Some(seals) = self.seals.get_mut(&stream) else { return true };
        let claim = seals.run.as_mut().and_then(Iterator::next).or_else(|| {
            seals.run = seals.sealer.next(3);
            seals.run.as_mut().and_then(Iterator::next)
        });
        let Some(claim) = claim else {
            if seals.chunks.exhausted() || seals.chunks.stopped() {
                self.down(stream, Cut::Finished);
                return true;
            }
            self.parked.push(stream);
            return !self.queue.is_empty();
        };
        assert_eq!(seals.key.direction, Direction::Outgoing);
        let mut report = BulkReport::default();
        let mut frame = vec![0; CHUNK_HEAD];
        let mut done = ChunkDone { index: claim.index(), values: digest::Values::new() };
        for piece in claim.pieces() {
            let from = piece.offset as usize;
            let mut bytes = self.sources[piece.entry as usize][from..from + piece.len as usize].to_vec();
            if let Some(&fault) = self.faults.sources.get(&piece.entry) {
                bytes.fill(0);
                report.failed.push((piece.entry, fault));
            }
            done.values.push(digest::value(&piece, &bytes).unwrap());
            frame.extend(bytes);
        }
        frame.resize(frame.len() + CHUNK_OVERHEAD - CHUNK_HEAD, 0);
        seals.sealer.seal(claim, &mut frame).unwrap();
        assert!(!self.sealed.contains(&(stream, done.index)), "no key seals an index twice");
        self.sealed.push((stream, done.index));
        report.chunks.push(done);
        if self.faults.corrupt {
            let last = frame.len() - 1;
            frame[last] ^= 1;
        }
        self.queue.push_back(Action::Frame(stream, frame));
        self.queue.push_back(Action::Seal(stream));
        if self.faults.late {
            self.late.push((stream, report));
        } else {
            self.call(S, |transfers, cx| transfers.on_bulk(cx, stream, &report));
        }
        if self.faults.cut_after.is_some_and(|after| self.sealed.len() == after) {
            self.cut_streams();
        }
        true
    }

    /// Opens and writes one chunk.
    fn open_frame(&mut self, stream: StreamId, mut frame: Vec<u8>) {
        let Some(opens) = self.opens.get(&stream) else {
            self.waiting_frames.entry(stream).or_default().push(frame);
            return;
        };
        let mut report = BulkReport::default();
        let mut body = frame.split_off(CHUNK_HEAD);
        let (index, len) = opens.opener.head(frame[..].try_into().unwrap()).unwrap();
        assert_eq!(len as usize, body.len());
        match opens.chunks.take(index, len - 16) {
            None => report.unwanted += 1,
            Some(claim) => match opens.opener.open(index, &mut body) {
                Err(_) => report.forged += 1,
                Ok(len) => {
                    body.truncate(len);
                    let mut done = ChunkDone { index, values: digest::Values::new() };
                    let mut at = 0;
                    for piece in claim.pieces() {
                        let bytes = &body[at..at + piece.len as usize];
                        at += bytes.len();
                        done.values.push(digest::value(&piece, bytes).unwrap());
                        if let Some(&fault) = self.faults.writes.get(&piece.entry) {
                            report.failed.push((piece.entry, fault));
                            continue;
                        }
                        assert!(!self.discarded, "nothing is written after Discard");
                        if self.published.contains_key(&piece.entry) {
                            // It has its name: nobody writes to it any more.
                            continue;
                        }
                        let size = self.entries[piece.entry as usize].size as usize;
                        let file = self.temporary.entry(piece.entry).or_insert_with(|| vec![0; size]);
                        file[piece.offset as usize..][..bytes.len()].copy_from_slice(bytes);
                    }
                    claim.finish();
                    report.chunks.push(done);
                }
            },
        }
        self.call(R, |transfers, cx| transfers.on_bulk(cx, stream, &report));
    }

    fn job(&mut self, who: Who, ticket: Ticket, entries: &Range<u32>, op: FileOp) {
        assert!(who == R || op == FileOp::Digest, "a sender has no files to change");
        let mut notes: Vec<(u32, EntryNote)> = vec![];
        let failed = self.faults.ops.iter().find(|(of, _)| *of == op).map(|&(_, failure)| failure);
        for (of, entry, note) in &self.faults.notes {
            if *of == op && entries.contains(entry) {
                notes.push((*entry, note.clone()));
            }
        }
        match op {
            FileOp::Inspect | FileOp::Sync => {}
            FileOp::Digest => {
                let unreadable = |number: &u32| who == R && self.faults.unreadable.contains(number);
                for number in entries.clone() {
                    if unreadable(&number) {
                        notes.push((number, EntryNote::Failed(FileFault::Failing(5))));
                        continue;
                    }
                    let content = if who == S { Some(&self.sources[number as usize]) } else { self.temporary.get(&number) };
                    notes.extend(content.map(|content| (number, EntryNote::Digest(blake3::hash(content).into()))));
                }
            }
            FileOp::Prepare => {
                for number in entries.clone() {
                    if self.entries[number as usize].kind == EntryKind::File && self.entries[number as usize].size == 0 {
                        self.temporary.insert(number, vec![]);
                    }
                }
            }
            FileOp::Publish | FileOp::Finish => {
                for number in entries.clone() {
                    if (self.entries[number as usize].kind == EntryKind::File) != (op == FileOp::Publish) {
                        continue;
                    }
                    assert!(!self.published.contains_key(&number), "an entry is published once");
                    let fails = notes.iter().any(|(entry, note)| *entry == number && matches!(note, EntryNote::Failed(_)));
                    let content = match self.entries[number as usize].kind {
                        EntryKind::File => self.temporary.remove(&number),
                        EntryKind::Directory | EntryKind::Symlink => Some(vec![]),
                    };
                    if let Some(content) = content.filter(|_| !fails && failed.is_none()) {
                        self.published.insert(number, content);
                    }
                }
            }
            FileOp::Clear | FileOp::Discard | FileOp::Keep => {
                if op == FileOp::Keep {
                    self.kept.append(&mut self.temporary);
                }
                self.temporary.clear();
                self.discarded = true;
            }
        }
        let result = failed.map_or(Ok(Reply::Files(notes)), Err);
        if let Some(Purpose::Transfer { key, job }) = self.sides.get_mut(&who).unwrap().out.settle(ticket) {
            self.call(who, |transfers, cx| transfers.on_job(cx, key, job, result));
        }
    }

    /// Lets everything happen that happens by itself, and then time pass, until nothing is awaited.
    pub(super) fn run(&mut self) {
        for _ in 0..200_000 {
            if !self.step() && !self.tick() {
                return;
            }
        }
        panic!("it does not come to rest: {:?} {:?}", self.state(S), self.state(R));
    }

    /// Everything that happens without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Goes to the next deadline.
    pub(super) fn tick(&mut self) -> bool {
        let Some(next) = self.sides.values().filter_map(|side| side.timers.next()).map(|deadline| deadline.at).min() else { return false };
        self.now = self.now.max(next);
        for who in [S, R] {
            while let Some(TimerKind::Transfer(key, timer)) = self.sides.get_mut(&who).unwrap().timers.pop_due(self.now) {
                self.call(who, |transfers, cx| transfers.on_timer(cx, key, timer));
            }
        }
        true
    }

    /// Runs until the receiver asks its owner, and says yes.
    pub(super) fn accept(&mut self) {
        while self.state(R) != "Asking" {
            assert!(self.step(), "it was never offered");
        }
        let key = self.key(R).unwrap();
        self.call(R, |transfers, cx| transfers.accept(cx, key)).unwrap();
    }

    pub(super) fn step_until(&mut self, who: Who, state: &str) {
        while self.state(who) != state {
            if self.state(R) == "Asking" && state != "Asking" && (who == R || state == "Sending") {
                self.accept();
                continue;
            }
            assert!(self.step() || self.tick(), "{state} is never reached");
        }
    }

    /// Runs until the sender has sealed everything, and the receiver has not answered.
    pub(super) fn run_until_sent(&mut self) {
        while (self.sealed.len() as u64) < self.manifest.layout().chunks() {
            assert!(self.step());
        }
    }

    /// Chunks that the receiver has made durable.
    pub(super) fn durable(&self) -> Ranges {
        let mut all = Ranges::new();
        for (_, message) in self.told.iter().filter(|(who, _)| *who == R) {
            if let ControlMessage::Stored { chunks, .. } = message {
                all.union(chunks);
            }
        }
        all
    }

    /// Whether the receiver asks for this chunk.
    pub(super) fn told_spoilt(&self, chunk: u64) -> bool {
        self.told
            .iter()
            .any(|(who, message)| *who == R && matches!(message, ControlMessage::Accept { chunks, .. } if chunks.contains(chunk)))
    }

    /// Whether the receiver has no bulk stream.
    pub(super) fn no_bulk(&self) -> bool {
        self.opens.is_empty()
    }

    /// How the transfer ended for the owner of a side.
    pub(super) fn ends(&self, who: Who) -> Vec<&Event> {
        self.sides[&who].events.iter().filter(|event| matches!(event, Event::Done { .. } | Event::Failed { .. })).collect()
    }

    pub(super) fn failure(&self, who: Who) -> Option<TransferFailure> {
        match self.ends(who)[..] {
            [Event::Failed { reason, .. }] => Some(*reason),
            _ => None,
        }
    }

    pub(super) fn is_done(&self, who: Who) -> bool {
        matches!(self.ends(who)[..], [Event::Done { .. }])
    }

    pub(super) fn outcomes(&self, who: Who) -> BTreeMap<u32, (crate::transfer::receipt::Outcome, Option<[u8; 32]>)> {
        let mut outcomes = BTreeMap::new();
        for event in &self.sides[&who].events {
            if let Event::Entry { entry, outcome, digest, .. } = event {
                assert!(outcomes.insert(*entry, (*outcome, *digest)).is_none(), "an entry ends once");
            }
        }
        outcomes
    }

    /// What must hold at the end of any transfer.
    pub(super) fn check_ended(&self) {
        for (who, side) in &self.sides {
            let ends = self.ends(*who);
            assert!(ends.len() <= 1, "more than one end: {ends:?}");
            assert!(
                matches!(side.events.last(), None | Some(Event::Done { .. } | Event::Failed { .. } | Event::OfferDeclined { .. })),
                "{:?}",
                side.events.last()
            );
            assert_eq!(self.state(*who), "over");
            assert_eq!(side.timers.next(), None, "a timer runs on");
            assert!(side.transfers.shared.streams.is_empty() && side.transfers.shared.opening.is_empty());
            let mut last = 0;
            for event in &side.events {
                if let Event::Progress { durable, total, .. } = event {
                    assert!(
                        *durable >= last && durable <= total,
                        "{who:?}: durable progress never decreases: {last} then {durable} of {total}"
                    );
                    last = *durable;
                }
            }
        }
        assert!(self.temporary.is_empty(), "temporary files are left");
        for (entry, content) in &self.published {
            assert_eq!(content, &self.sources[*entry as usize], "what has its final name is whole");
        }
        if self.is_done(S) {
            assert!(self.is_done(R), "a sender is done only if the receiver is");
        }
    }
}
