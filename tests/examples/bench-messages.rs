//! How long a message takes from the sender's call to its receipt, with nothing else to do, and while a file of 1 GiB is under way
//! between the same two devices, in the same direction and over the same session: each with a runtime of its own, on loopback, file and
//! stores on tmpfs.
//!
//! ```sh
//! cargo run --release -p kin-tests --example bench-messages [MIB]
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::files::ConflictPolicy;
use adapter_tokio::service::{Events, Inbox, NetworkingService, SendRequest, Stack};
use kin_tests::services::{pair, start};
use protocol_core::effects::Event;
use protocol_core::ids::DeviceId;
use protocol_core::messages::Draft;
use tokio::runtime::Runtime;

/// Between two messages.
const EVERY: Duration = Duration::from_millis(5);
/// Messages with nothing beside them.
const IDLE: usize = 400;
/// Bytes of a message.
const BODY: usize = 200;

/// A transport's name, and what starts it.
type Kind = (&'static str, fn() -> Stack);

/// A message, from the call to the receipt, in milliseconds.
async fn message(from: &NetworkingService, events: &mut Events, to: DeviceId, done: &mut bool) -> f64 {
    let expires_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let began = Instant::now();
    let id = from.send_message(to, Draft { content_type: "text/plain".into(), body: vec![b'x'; BODY], expires_unix }).await.unwrap();
    loop {
        match events.next().await.unwrap() {
            Event::MessageReceipt { id: of, .. } if of == id => return began.elapsed().as_secs_f64() * 1000.0,
            Event::Done { .. } => *done = true,
            Event::Failed { reason, .. } => panic!("the transfer failed: {reason}"),
            _ => {}
        }
    }
}

/// Takes whatever is offered, and every message that comes.
async fn receiver(service: NetworkingService) {
    let mut events = service.events();
    while let Some(event) = events.next().await {
        match event {
            Event::Offered { transfer, .. } => service.accept(transfer, None).await.unwrap(),
            Event::Message { device, id, .. } => drop(service.take_message(device, id).await),
            _ => {}
        }
    }
}

fn shown(name: &str, mut took: Vec<f64>) {
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!("| {name} | {} | {:.1} | {:.1} | {:.1} |", took.len(), at(0.5), at(0.99), took[took.len() - 1]);
}

fn measure(dir: &Path, (name, stack): Kind, file: &Path) {
    let (ours, theirs) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let a = ours.block_on(start(&dir.join(format!("{name}-a")), stack()));
    let b = theirs.block_on(start(&dir.join(format!("{name}-b")), stack()));
    ours.block_on(pair(&a, &b));
    let inbox = Inbox { dir: dir.join("in"), on_conflict: ConflictPolicy::Overwrite, by_policy: false };
    theirs.block_on(b.set_inbox(Some(inbox))).unwrap();
    theirs.spawn(receiver(b.clone()));
    let to = b.identity().id;
    ours.block_on(async {
        let mut events = a.events();
        let mut pace = tokio::time::interval(EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut idle, mut loaded, mut done) = (Vec::new(), Vec::new(), false);
        for _ in 0..IDLE {
            idle.push(message(&a, &mut events, to, &mut done).await);
            pace.tick().await;
        }
        let request = SendRequest { paths: vec![file.to_path_buf()], ..SendRequest::default() };
        a.share_with_device(to, request).await.unwrap();
        while !done {
            loaded.push(message(&a, &mut events, to, &mut done).await);
            pace.tick().await;
        }
        shown(&format!("{name}, idle"), idle);
        shown(&format!("{name}, beside the file"), loaded);
        a.shutdown().await;
    });
    theirs.block_on(b.shutdown());
}

fn main() {
    let mebibytes: usize = std::env::args().nth(1).map_or(1024, |text| text.parse().unwrap());
    let dir = PathBuf::from("/dev/shm").join(format!("kin-bench-messages-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("in")).unwrap();
    let file = dir.join("file");
    let mut written = File::create(&file).unwrap();
    for block in 0..mebibytes {
        written.write_all(&vec![block as u8; 1 << 20]).unwrap();
    }
    println!("| messages of {BODY} B, one every {EVERY:?} or so; ms | messages | median | 99 % | most |");
    println!("| --- | --- | --- | --- | --- |");
    let kinds: [Kind; 3] = [("tcp", Stack::tcp), ("iroh", || Iroh::stack(IrohConfig::default())), ("libp2p", Libp2p::stack)];
    for kind in kinds {
        measure(&dir, kind, &file);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
