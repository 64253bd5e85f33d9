//! Sender to receiver over a real connection, without a Node: claims, layout, sealing and the disk are the real ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use protocol_core::bulk::chunks::Chunks;
use protocol_core::bulk::cipher::Aead;
use protocol_core::bulk::digest::FileDigest;
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::{ChunkKey, Sealer};
use protocol_core::crypto::secret::Secret;
use protocol_core::effects::{BulkReport, Cut, EntryNote};
use protocol_core::faults::FileFault;
use protocol_core::ids::{SessionRef, StreamId, TransferId};
use protocol_core::session::keys::StreamKey;
use protocol_core::transfer::manifest::{Entry, EntryKind, Manifest};
use protocol_core::wire::header::{Header, StreamKind};
use tokio::sync::mpsc;

use super::receive::{Receive, Target, receive};
use super::send::{Send, Sources, send};
use crate::cipher::Ring;
use crate::driver::links::Links;
use crate::driver::{self, Happened};
use crate::files::{ConflictPolicy, Destination, Incoming, Scan, Selection, scan};
use crate::tcp::{Tcp, TcpRx, TcpTx};
use crate::testing::TempDir;
use crate::transport::{Connection as _, Rx as _, Stopper, Transport as _, Tx as _};

const CHUNK: u32 = 64 << 10;
const TRANSFER: TransferId = TransferId([4; 16]);

fn key(aead: Aead) -> ChunkKey {
    let header = Header::new(StreamKind::Bulk, SessionRef([1; 16]), 1, [2; 8]).unwrap();
    ChunkKey::new(&StreamKey::of_opener(&Secret::new([3; 32]), &header), aead, TRANSFER, &[5; 32], Arc::new(Ring))
}

fn all(manifest: &Manifest) -> Arc<Chunks> {
    let chunks = Chunks::new(TRANSFER, Arc::clone(manifest.layout())).unwrap();
    chunks.allow(&(0..manifest.layout().chunks()).into());
    chunks
}

struct Entries(Vec<Entry>);

impl AsRef<[Entry]> for Entries {
    fn as_ref(&self) -> &[Entry] {
        &self.0
    }
}

async fn connect() -> ((TcpTx, TcpRx), (TcpTx, TcpRx)) {
    let tcp = Tcp::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let to = tcp.local().dialable().next().unwrap();
    let (dialled, accepted) = tokio::join!(tcp.dial(&to), tcp.accept());
    (dialled.unwrap().open().await.unwrap(), accepted.unwrap().accept().await.unwrap())
}

/// A sender's and a receiver's half of one transfer.
struct Pair {
    _from: TempDir,
    to: TempDir,
    manifest: Arc<Manifest>,
    sources: Arc<Sources>,
    target: Arc<Target>,
}

fn prepare(fill: impl FnOnce(&Path)) -> Pair {
    let (from, to) = (TempDir::new(), TempDir::new());
    let tree = from.join("tree");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let Scan { entries, sources, .. } = scan(&[tree], &Selection::default()).unwrap();
    let manifest = Arc::new(Manifest::build(entries.clone(), CHUNK).unwrap());
    let destination = Arc::new(Destination::open(to.path()).unwrap());
    let incoming = Incoming::new(destination, TRANSFER, Arc::new(Entries(entries))).unwrap();
    assert!(incoming.inspect(ConflictPolicy::Fail).unwrap().is_empty());
    assert!(incoming.prepare(0..manifest.len()).is_empty());
    let sources = Arc::new(Sources::new(Arc::clone(&manifest), sources, None));
    Pair { _from: from, to, manifest, sources, target: Arc::new(Target::new(incoming)) }
}

/// All reports of a stream until `end` says that it is over.
async fn reports<T>(happened: &mut mpsc::Receiver<Happened>, end: impl Fn(&Happened) -> Option<T>) -> (BulkReport, T) {
    let mut sum = BulkReport::default();
    loop {
        let what = happened.recv().await.unwrap();
        if let Some(end) = end(&what) {
            return (sum, end);
        }
        let Happened::Bulk { report, .. } = what else { panic!("unexpected: {what:?}") };
        sum.chunks.extend(report.chunks);
        sum.failed.extend(report.failed);
        sum.forged += report.forged;
        sum.unwanted += report.unwanted;
    }
}

async fn sent(happened: &mut mpsc::Receiver<Happened>) -> (BulkReport, bool) {
    reports(happened, |what| if let Happened::WriteEnd { sent, .. } = what { Some(*sent) } else { None }).await
}

async fn received(happened: &mut mpsc::Receiver<Happened>) -> (BulkReport, Cut) {
    reports(happened, |what| if let Happened::ChunksEnd { cut, .. } = what { Some(*cut) } else { None }).await
}

/// Sends everything once, through one stream.
async fn transfer(pair: &Pair, aead: Aead) -> ((BulkReport, bool), (BulkReport, Cut)) {
    let ((tx, mut back), (_far_tx, rx)) = connect().await;
    let (links, mut happened) = driver::channel();
    let (far_links, mut far_happened) = driver::channel();
    let (_stopper, stop) = Stopper::new();
    let (sending, receiving) = (all(&pair.manifest), all(&pair.manifest));
    let job = Send { sources: Arc::clone(&pair.sources), sealer: Sealer::new(key(aead), sending.lane()), chunks: sending };
    let far_job = Receive { target: Arc::clone(&pair.target), opener: Opener::new(key(aead), CHUNK), chunks: receiving };
    receive(rx, Vec::new(), far_job, StreamId(2), stop.clone(), far_links);
    send(tx, job, StreamId(1), stop, links);
    let ends = tokio::join!(sent(&mut happened), received(&mut far_happened));
    drop(_far_tx);
    assert!(back.read(&mut [0]).await.is_err(), "the receiver dropped its other half");
    ends
}

/// The files' digests as the values say.
fn digests(manifest: &Manifest, report: &BulkReport) -> BTreeMap<u32, [u8; 32]> {
    let mut files: BTreeMap<u32, FileDigest> = BTreeMap::new();
    for chunk in &report.chunks {
        let pieces: Vec<_> = manifest.layout().pieces(chunk.index).collect();
        assert_eq!(pieces.len(), chunk.values.len());
        for (piece, value) in pieces.iter().zip(&*chunk.values) {
            let size = manifest.entry(piece.entry).unwrap().size;
            files.entry(piece.entry).or_insert_with(|| FileDigest::new(size, CHUNK)).add(piece.offset, *value);
        }
    }
    files.into_iter().map(|(entry, digest)| (entry, digest.digest().unwrap())).collect()
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + seed * 7 + at / 251) % 256).unwrap()).collect()
}

fn compare(pair: &Pair, tree: &Path, report: &BulkReport) {
    let digests = digests(&pair.manifest, report);
    let mut files = 0;
    for (entry, number) in pair.manifest.entries().zip(0..).filter(|(entry, _)| entry.kind == EntryKind::File && entry.size > 0) {
        let name = String::from_utf8(entry.components.last().unwrap().clone()).unwrap();
        let content = fs::read(tree.join(&name)).unwrap();
        assert_eq!(fs::read(pair.to.join("tree").join(&name)).unwrap(), content, "{name}");
        assert_eq!(digests.get(&number), Some(blake3::hash(&content).as_bytes()), "{name}");
        files += 1;
    }
    assert_eq!(files, digests.len());
}

fn sizes() -> Vec<usize> {
    let chunk = CHUNK as usize;
    let mut sizes = vec![0, 1, 1023, 1024, 1025, chunk - 1, chunk, chunk + 1, 2 * chunk, 5 * chunk + 77, 40 * chunk];
    sizes.extend((0..50).map(|at| 100 + at * 37));
    sizes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_arrive_identical_and_digests_agree_on_both_sides() {
    for aead in [Aead::ChaCha20Poly1305, Aead::Aes256Gcm] {
        let pair = prepare(|tree| {
            for (at, size) in sizes().into_iter().enumerate() {
                fs::write(tree.join(format!("f{at:03}")), bytes(size, at)).unwrap();
            }
        });
        let ((ours, sent), (theirs, cut)) = transfer(&pair, aead).await;
        assert_eq!((sent, cut), (true, Cut::Finished));
        assert_eq!(u64::try_from(ours.chunks.len()).unwrap(), pair.manifest.layout().chunks());
        assert_eq!(digests(&pair.manifest, &ours), digests(&pair.manifest, &theirs));
        assert_eq!((ours.failed.len(), theirs.failed.len(), theirs.forged, theirs.unwanted), (0, 0, 0, 0));
        let count = pair.manifest.len();
        assert!(pair.target.incoming.sync(0..count).is_empty());
        assert!(pair.target.incoming.publish_range(0..count, false).iter().all(|(_, outcome)| outcome.is_ok()));
        compare(&pair, &pair._from.join("tree"), &theirs);
    }
}

/// A source that is not what was offered fails once, alone, and as zeros; its neighbours in the chunk arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_source_fails_alone() {
    let pair = prepare(|tree| {
        for at in 0..20 {
            fs::write(tree.join(format!("f{at:02}")), bytes(5000, at)).unwrap();
        }
        fs::write(tree.join("large"), bytes(10 * CHUNK as usize, 99)).unwrap();
    });
    let tree = pair._from.join("tree");
    fs::write(tree.join("f07"), "short").unwrap();
    fs::remove_file(tree.join("f11")).unwrap();
    fs::write(tree.join("large"), bytes(10 * CHUNK as usize, 98)).unwrap();
    let ((ours, sent), (theirs, cut)) = transfer(&pair, Aead::ChaCha20Poly1305).await;
    assert_eq!((sent, cut), (true, Cut::Finished));
    let mut failed = ours.failed;
    failed.sort_by_key(|(entry, _)| *entry);
    assert_eq!(failed, [8, 12, 21].map(|entry| (entry, FileFault::Changed)), "entry 0 is the directory");
    assert_eq!(theirs.failed, []);
    let theirs = digests(&pair.manifest, &theirs);
    assert_eq!(theirs[&8], *blake3::hash(&[0; 5000]).as_bytes());
    assert_eq!(theirs[&9], *blake3::hash(&bytes(5000, 8)).as_bytes());
}

/// What a policy leaves out is dropped without a word, though it shares a chunk with what is wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_not_written() {
    let pair = prepare(|tree| (0..3).for_each(|at| fs::write(tree.join(format!("f{at}")), bytes(3000, at)).unwrap()));
    pair.target.leave_out([(2, EntryNote::Skipped)].into());
    let (_, (theirs, cut)) = transfer(&pair, Aead::Aes256Gcm).await;
    assert_eq!((cut, theirs.failed.len(), theirs.chunks.len()), (Cut::Finished, 0, 1));
    let published = pair.target.incoming.publish_range(0..4, false);
    let arrived: Vec<_> = published.iter().map(|(entry, outcome)| (*entry, outcome.is_ok())).collect();
    assert_eq!(arrived, [(1, true), (2, false), (3, true)]);
}

/// A stream of a receiver's, written by hand.
async fn receive_bytes(
    pair: &Pair,
    stream: &[u8],
    finish: bool,
    links: Links,
    happened: &mut mpsc::Receiver<Happened>,
) -> (BulkReport, Cut) {
    let ((mut tx, back), (_far_tx, rx)) = connect().await;
    let (_stopper, stop) = Stopper::new();
    let job = Receive { target: Arc::clone(&pair.target), opener: Opener::new(key(Aead::Aes256Gcm), CHUNK), chunks: all(&pair.manifest) };
    let (before, rest) = stream.split_at(stream.len() / 3);
    receive(rx, before.to_vec(), job, StreamId(1), stop, links);
    tx.write_all(rest).await.unwrap();
    if finish {
        tx.finish().await.unwrap();
    } else {
        // Both halves: the socket ends with the last.
        drop((tx, back));
    }
    received(happened).await
}

/// One sealed chunk of zeros.
fn frame(pair: &Pair, index: u64) -> Vec<u8> {
    let len = pair.manifest.layout().chunk_len(index).unwrap() as usize;
    let mut frame = vec![0; 12 + len + 16];
    key(Aead::Aes256Gcm).seal(index, &mut frame).unwrap();
    frame
}

/// Section 9.4: bad tags, lengths, indices and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
// DATA-23.
async fn a_lying_sender_gets_nothing_written() {
    let pair = prepare(|tree| fs::write(tree.join("f"), bytes(3 * CHUNK as usize, 1)).unwrap());
    let good = frame(&pair, 1);
    let mut forged = frame(&pair, 0);
    forged[20] ^= 1;
    let twice = [good.clone(), good.clone()].concat();
    let elsewhere = {
        let mut frame = vec![0; 12 + 100 + 16];
        key(Aead::Aes256Gcm).seal(7, &mut frame).unwrap();
        frame
    };
    let too_long = [&(CHUNK + 25).to_be_bytes()[..], &[0; 8]].concat();
    let cut_off = &good[..good.len() - 1];
    for (stream, finish, expected, chunks, forged, unwanted) in [
        (&good[..], true, Cut::Finished, 1, 0, 0),
        (&twice, true, Cut::Finished, 1, 0, 1),
        (&elsewhere, true, Cut::Finished, 0, 0, 1),
        (&forged, true, Cut::Malformed, 0, 1, 0),
        (&too_long, true, Cut::Malformed, 0, 0, 0),
        (cut_off, true, Cut::Broken, 0, 0, 0),
        (&[0; 5], true, Cut::Broken, 0, 0, 0),
        (&[], true, Cut::Finished, 0, 0, 0),
    ] {
        let (links, mut happened) = driver::channel();
        let (report, cut) = receive_bytes(&pair, stream, finish, links, &mut happened).await;
        assert_eq!((report.chunks.len(), report.forged, report.unwanted), (chunks, forged, unwanted), "{expected:?}");
        // The end of the stream may be found by the one worker while the other is at the forged chunk.
        assert!(cut == expected || (forged > 0 && cut == Cut::Finished), "{cut:?} and not {expected:?}");
    }
    let (links, mut happened) = driver::channel();
    let (report, cut) = receive_bytes(&pair, &good, false, links, &mut happened).await;
    // A reset may overtake what was sent before it.
    assert!(report.chunks.len() <= 1 && cut == Cut::Broken);
}

/// Every worker ends when the stream is stopped, wherever it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_workers_that_wait() {
    let pair = prepare(|tree| {
        let large = fs::File::create(tree.join("f")).unwrap();
        large.set_len(64 << 20).unwrap();
    });
    let ((tx, _rx), (_far_tx, rx)) = connect().await;
    let (links, mut happened) = driver::channel();
    let (stopper, stop) = Stopper::new();
    let chunks = all(&pair.manifest);
    let job = Send { sources: Arc::clone(&pair.sources), sealer: Sealer::new(key(Aead::Aes256Gcm), chunks.lane()), chunks };
    send(tx, job, StreamId(1), stop, links);
    // Nobody reads: the first report means that the socket takes chunks, and it cannot take all.
    let Happened::Bulk { .. } = happened.recv().await.unwrap() else { panic!("no report") };
    stopper.stop(0);
    let (report, sent) = sent(&mut happened).await;
    assert!(!sent && report.chunks.len() < 1024);

    let (links, mut happened) = driver::channel();
    let (stopper, stop) = Stopper::new();
    let job =
        Receive { target: Arc::clone(&pair.target), opener: Opener::new(key(Aead::ChaCha20Poly1305), CHUNK), chunks: all(&pair.manifest) };
    drop(rx);
    let ((_tx, _rx), (_far_tx, rx)) = connect().await;
    receive(rx, Vec::new(), job, StreamId(1), stop, links);
    stopper.stop(0);
    assert_eq!(received(&mut happened).await.1, Cut::Broken);
}
