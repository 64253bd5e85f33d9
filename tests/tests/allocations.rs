//! One large file makes no allocation for each of its chunks.
//!
//! Two services in one process send a file over tcp, and later one of four times its size, in the same chunks. What is counted
//! is every allocation and reallocation on threads that the runtime did not start, from the call that sends until both sides are
//! done: on the workers, which do all that is done for a chunk, sender and receiver together. Whatever a chunk allocates shows in the
//! difference of the two counts. The threads of the runtime are left out: they carry reports and progress, which come by bytes
//! and by time, so that their number depends on how busy the machine is; their count is printed.
#![cfg(unix)]
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts, and hands on to the system's")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use adapter_tokio::files::ConflictPolicy;
use adapter_tokio::service::{Events, Inbox, NetworkingService, SendRequest, ServiceConfig, Stack};
use protocol_core::effects::{Event, TransferKey};
use protocol_core::limits::CHUNK_SIZE;
use protocol_core::node::Confirm;

struct Counting;

/// On the workers, and on the threads of the runtime.
static ALLOCATIONS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

thread_local! {
    /// Whether this thread is the runtime's. Needs neither an allocation nor a destructor.
    static OF_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    ALLOCATIONS[usize::from(OF_RUNTIME.get())].fetch_add(1, Ordering::Relaxed);
}

fn counts() -> [u64; 2] {
    ALLOCATIONS.each_ref().map(|count| count.load(Ordering::Relaxed))
}

// SAFETY: every call is handed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: likewise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What no step takes unless something hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Chunks of the smaller file. Both files are large enough for as many streams as a transfer gets.
const CHUNKS: u64 = 256;

struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn start(home: &Path, inbox: Option<PathBuf>) -> NetworkingService {
    let bind = vec!["127.0.0.1:0".parse().unwrap()];
    let service = NetworkingService::init_networking(ServiceConfig { stacks: vec![Stack::tcp().at(bind)], ..ServiceConfig::new(home) })
        .await
        .unwrap();
    let inbox = inbox.map(|dir| Inbox { dir, on_conflict: ConflictPolicy::Fail, by_policy: false });
    service.set_inbox(inbox).await.unwrap();
    service
}

async fn wait<T>(events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let found = tokio::time::timeout(HANGS, async {
        loop {
            if let Some(found) = wanted(&events.next().await.unwrap()) {
                return found;
            }
        }
    });
    found.await.unwrap()
}

async fn pair(a: &NetworkingService, b: &NetworkingService) {
    let mut events = a.events();
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Automatic).await.unwrap();
    let addresses = a.local_addresses().await.unwrap();
    b.start_pairing_as_joiner(invite.code, addresses, Confirm::Automatic).await.unwrap();
    wait(&mut events, |event| matches!(event, Event::PairConfirmed { .. }).then_some(())).await;
}

/// Sends a file and returns the allocations that it took: on the workers, and on the threads of the runtime.
async fn send(a: &NetworkingService, b: &NetworkingService, path: PathBuf) -> [u64; 2] {
    let (mut ours, mut theirs) = (a.events(), b.events());
    let before = counts();
    let sharing = a.share_with_device(b.identity().id, SendRequest { paths: vec![path], ..SendRequest::default() }).await.unwrap();
    let offered = wait(&mut theirs, |event| match event {
        Event::Offered { transfer, .. } => Some(*transfer),
        _ => None,
    });
    let key = offered.await;
    b.accept(key, None).await.unwrap();
    let done = |key: TransferKey| {
        move |event: &Event| match event {
            Event::Done { transfer, summary } if *transfer == key => Some(*summary),
            Event::Failed { transfer, reason } if *transfer == key => panic!("{reason}"),
            _ => None,
        }
    };
    let summary = wait(&mut theirs, done(key)).await;
    assert_eq!((summary.failed, summary.skipped), (0, 0));
    wait(&mut ours, done(sharing.key)).await;
    let [after, [workers, runtime]] = [counts(), before];
    [after[0] - workers, after[1] - runtime]
}

#[test]
// HOST-12.
fn a_chunk_allocates_nothing() {
    // The thread of the test drives the runtime too.
    OF_RUNTIME.set(true);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().on_thread_start(|| OF_RUNTIME.set(true)).build().unwrap().block_on(story());
}

async fn story() {
    let dir = TempDir(std::env::temp_dir().join(format!("kin-allocations-{}", std::process::id())));
    let inbox = dir.0.join("inbox");
    fs::create_dir_all(&inbox).unwrap();
    let (a, b) = (start(&dir.0.join("a"), None).await, start(&dir.0.join("b"), Some(inbox)).await);
    pair(&b, &a).await;
    // Holes: only what arrives takes space.
    let file = |name: &str, chunks: u64| {
        let path = dir.0.join(name);
        File::create(&path).unwrap().set_len(chunks * u64::from(CHUNK_SIZE)).unwrap();
        path
    };
    send(&a, &b, file("first, for all that is made once", CHUNKS)).await;
    let few = send(&a, &b, file("few", CHUNKS)).await;
    let many = send(&a, &b, file("many", 4 * CHUNKS)).await;
    let more = 3 * CHUNKS;
    println!("[workers, runtime]: {few:?} allocations for {CHUNKS} chunks, {many:?} for {}", 4 * CHUNKS);
    // One allocation a chunk, on one side only, would be `more`. A report to the loop takes one for many chunks.
    assert!(many[0] < few[0] + more / 4, "{} allocations more for {more} chunks more", many[0].saturating_sub(few[0]));
    a.shutdown().await;
    b.shutdown().await;
}
