//! Two devices in one process, on real sockets and a real disk: the whole story through the public face.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use adapter_tokio::files::ConflictPolicy;
use adapter_tokio::journal::KEPT;
use adapter_tokio::service::{Events, Inbox, NetworkingService, SendError, SendRequest, ServiceConfig, Stack, read_snapshot};
use protocol_core::effects::{DeviceState, Event, TransferKey};
use protocol_core::ids::DeviceId;
use protocol_core::limits::UNPROVED_WAIT;
use protocol_core::node::Confirm;

/// What no step of these stories takes unless something hangs.
const HANGS: Duration = Duration::from_secs(60);

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kin-story-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

async fn start(home: &Path, name: &str) -> NetworkingService {
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = ServiceConfig { name: Some(name.to_owned()), stacks: vec![Stack::tcp().at(vec![loopback])], ..ServiceConfig::new(home) };
    NetworkingService::init_networking(config).await.unwrap()
}

/// Waits for the event that `wanted` picks, and says what came instead if none does.
async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let mut seen = Vec::new();
    let found = tokio::time::timeout(HANGS, async {
        while let Some(event) = events.next().await {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
            seen.push(event);
        }
        None
    });
    match found.await {
        Ok(Some(found)) => found,
        ended => panic!("{} after {seen:#?}", if ended.is_ok() { "the service ended" } else { "nothing came" }),
    }
}

/// Pairs the two: `a` makes the code, and both users say yes where they are asked.
async fn pair(a: &NetworkingService, b: &NetworkingService) {
    let (mut a_events, mut b_events) = (a.events(), b.events());
    let invite = a.start_pairing_as_initiator(Duration::from_secs(600), Confirm::Ask).await.unwrap();
    let addresses = a.local_addresses().await.unwrap();
    let session = invite.session;
    assert_eq!(b.start_pairing_as_joiner(invite.code, addresses, Confirm::Automatic).await.unwrap(), session);
    let check = wait(&mut a_events, |event| match event {
        Event::PairRequest { session: of, check, .. } if *of == session => Some(*check),
        _ => None,
    });
    let check = check.await;
    a.answer_pairing(session, true).await.unwrap();
    let paired = |other: DeviceId, expected: u32| {
        move |event: &Event| match event {
            Event::Paired { peer, check, .. } if peer.device == other => {
                assert_eq!(*check, expected, "the number on both screens");
                Some(())
            }
            Event::PairFailed { reason, .. } => panic!("{reason}"),
            _ => None,
        }
    };
    wait(&mut a_events, paired(b.identity().id, check)).await;
    wait(&mut b_events, paired(a.identity().id, check)).await;
    wait(&mut a_events, |event| matches!(event, Event::PairConfirmed { .. }).then_some(())).await;
}

/// Sends `paths` from `a` to `b`, which takes it; the events of the transfer's end on both sides.
async fn send(a: &NetworkingService, b: &NetworkingService, paths: Vec<PathBuf>) -> TransferKey {
    let (mut a_events, mut b_events) = (a.events(), b.events());
    let sharing = a.share_with_device(b.identity().id, SendRequest { paths, ..SendRequest::default() }).await.unwrap();
    assert!(sharing.skipped.is_empty());
    let offered = wait(&mut b_events, |event| match event {
        Event::Offered { transfer, .. } => Some(*transfer),
        _ => None,
    });
    let key = offered.await;
    b.accept(key, Some(ConflictPolicy::Fail)).await.unwrap();
    let done = |key: TransferKey| {
        move |event: &Event| match event {
            Event::Done { transfer, summary } if *transfer == key => Some(*summary),
            Event::Failed { transfer, reason } if *transfer == key => panic!("{reason}"),
            _ => None,
        }
    };
    let (ours, theirs) = (wait(&mut a_events, done(sharing.key)).await, wait(&mut b_events, done(key)).await);
    assert_eq!(ours, theirs, "both sides count alike");
    assert_eq!((ours.failed, ours.skipped, ours.renamed), (0, 0, 0));
    key
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + seed * 7 + at / 251) % 256).unwrap()).collect()
}

/// Sizes on every side of every border, names that are not easy, a program, an empty directory, a link.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and deeper")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (at, size) in [0, 1, 1024, 65_536, 262_143, 262_144, 262_145, 3_000_000].into_iter().enumerate() {
        fs::write(root.join(format!("file {at} ümlaut")), bytes(size, at)).unwrap();
    }
    for at in 0..100 {
        fs::write(root.join(format!("deep/er/{at}")), bytes(100 + 13 * at, at)).unwrap();
    }
    let program = root.join("deep/er/and deeper/run");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options().append(true).open(program).unwrap().set_modified(old).unwrap();
    std::os::unix::fs::symlink("deep/er", root.join("link")).unwrap();
}

/// Everything below `root`, in order, with all that is to arrive.
fn listing(root: &Path) -> Vec<(PathBuf, u32, SystemTime, Vec<u8>)> {
    let mut all = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let found = path.symlink_metadata().unwrap();
        let content = if found.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if found.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let mode = if found.is_symlink() { 0 } else { found.permissions().mode() & 0o777 };
        all.push((path.strip_prefix(root).unwrap().to_path_buf(), mode, found.modified().unwrap(), content));
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pair_send_and_send_back_and_again_after_a_restart() {
    let dir = TempDir::new("whole");
    let path = |name: &str| dir.0.join(name);
    let (a, b) = (start(&path("a"), "desktop").await, start(&path("b"), "laptop").await);
    pair(&a, &b).await;
    let devices = (a.devices().await.unwrap(), b.devices().await.unwrap());
    assert_eq!((devices.0.len(), devices.1.len()), (1, 1));
    assert_eq!((&devices.0[0].name[..], &devices.1[0].name[..]), ("laptop", "desktop"));
    assert_eq!(devices.0[0].fingerprint, b.identity().fingerprint);
    assert_eq!(devices.1[0].state, DeviceState::Connected);

    make_tree(&path("tree"));
    let (to_b, to_a) = (path("to-b"), path("to-a"));
    for (service, to) in [(&b, &to_b), (&a, &to_a)] {
        fs::create_dir(to).unwrap();
        service.set_inbox(Some(Inbox { dir: to.clone(), on_conflict: ConflictPolicy::Fail, by_policy: false })).await.unwrap();
    }
    send(&a, &b, vec![path("tree")]).await;
    assert_eq!(listing(&path("tree")), listing(&to_b.join("tree")));
    // Now the side that did not dial sends.
    send(&b, &a, vec![to_b.join("tree")]).await;
    assert_eq!(listing(&path("tree")), listing(&to_a.join("tree")));

    let ids = (a.identity().id, b.identity().id);
    tokio::join!(a.shutdown(), b.shutdown());
    let snapshot = read_snapshot(&path("a")).unwrap().unwrap().devices;
    assert_eq!((snapshot.len(), snapshot[0].id), (1, ids.1));

    // The same devices, on the same ports: the stored addresses still lead there.
    let (a, b) = (start(&path("a"), "desktop").await, start(&path("b"), "laptop").await);
    assert_eq!((a.identity().id, b.identity().id), ids);
    assert!(a.warnings().is_empty() && b.warnings().is_empty());
    fs::remove_dir_all(to_b.join("tree")).unwrap();
    b.set_inbox(Some(Inbox { dir: to_b.clone(), on_conflict: ConflictPolicy::Fail, by_policy: false })).await.unwrap();
    send(&a, &b, vec![path("tree")]).await;
    assert_eq!(listing(&path("tree")), listing(&to_b.join("tree")));
    tokio::join!(a.shutdown(), b.shutdown());
    assert!(a.devices().await.is_err(), "an ended service answers nothing");
}

/// A small file larger than any socket buffer, and the services end at once: goodbyes and receipts still arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_large_file_arrives_with_the_digest_of_its_content() {
    let dir = TempDir::new("large");
    let (a, b) = (start(&dir.0.join("a"), "a").await, start(&dir.0.join("b"), "b").await);
    pair(&a, &b).await;
    let content = bytes(40 << 20, 3);
    fs::write(dir.0.join("large"), &content).unwrap();
    let inbox = dir.0.join("inbox");
    fs::create_dir(&inbox).unwrap();
    b.set_inbox(Some(Inbox { dir: inbox.clone(), on_conflict: ConflictPolicy::Rename, by_policy: false })).await.unwrap();
    let mut events = b.events();
    send(&a, &b, vec![dir.0.join("large")]).await;
    let digest = wait(&mut events, |event| match event {
        Event::Entry { digest: Some(digest), .. } => Some(*digest),
        _ => None,
    });
    assert_eq!(digest.await, *blake3::hash(&content).as_bytes());
    assert!(fs::read(inbox.join("large")).unwrap() == content);
    tokio::join!(a.shutdown(), b.shutdown());
    // Every task and thread has ended: the home is free for the next.
    let again = start(&dir.0.join("a"), "a").await;
    assert_eq!(again.devices().await.unwrap()[0].state, DeviceState::Paired);
    again.shutdown().await;
}

/// Without an inbox an offer is declined, and without addresses nobody is reached: both are said, not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_without_an_inbox_are_declined() {
    let dir = TempDir::new("declined");
    let (a, b) = (start(&dir.0.join("a"), "a").await, start(&dir.0.join("b"), "b").await);
    pair(&a, &b).await;
    fs::write(dir.0.join("file"), "content").unwrap();
    let mut events = a.events();
    let request = SendRequest { paths: vec![dir.0.join("file")], ..SendRequest::default() };
    let sharing = a.share_with_device(b.identity().id, request).await.unwrap();
    wait(&mut events, |event| matches!(event, Event::Failed { transfer, .. } if *transfer == sharing.key).then_some(())).await;
    tokio::join!(a.shutdown(), b.shutdown());
}

/// Sooner than a stream that proves nothing has to go anyway.
// DATA-27.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_its_remote_half_closes_is_closed() {
    let dir = TempDir::new("half-closed");
    let a = start(&dir.0.join("a"), "a").await;
    let address = a.local_addresses().await.unwrap().remove(0).text;
    for said in [&b""[..], b"\x0akin-pair/1", b"\x0akin-link/1", b"\x0akin-data/1"] {
        let mut socket = TcpStream::connect(&address).unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            socket.set_read_timeout(Some(UNPROVED_WAIT / 2)).unwrap();
            socket.write_all(said).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            // It ends: by a reset, which is an error, or by an end.
            socket.read_to_end(&mut heard).map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true)
        });
        assert!(ended.await.unwrap(), "{said:?}");
    }
    a.shutdown().await;
}

/// What waits for a device has room, and no more; what is being sent is neither queued nor sent once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_has_room_and_is_sent_once() {
    let dir = TempDir::new("waits");
    let (a, b) = (start(&dir.0.join("a"), "a").await, start(&dir.0.join("b"), "b").await);
    pair(&a, &b).await;
    let to = b.identity().id;
    fs::create_dir(dir.0.join("in")).unwrap();
    b.set_inbox(Some(Inbox { dir: dir.0.join("in"), on_conflict: ConflictPolicy::Fail, by_policy: false })).await.unwrap();
    let path = |number: usize| dir.0.join(format!("file {number}"));
    (0..=KEPT).for_each(|number| fs::write(path(number), bytes(100 + number, number)).unwrap());
    let request = |number: usize| SendRequest { paths: vec![path(number)], ..SendRequest::default() };
    let day = Duration::from_secs(86_400);
    let mut ids = Vec::new();
    for number in 0..KEPT {
        ids.push(a.queue_for_device(to, request(number), day).await.unwrap().transfer);
    }
    assert_eq!(a.queue_for_device(to, request(KEPT), day).await.unwrap_err(), SendError::TooManyWait);
    assert_eq!(a.queue_for_device(to, request(3), day).await.unwrap().transfer, ids[3], "what waits already may be asked for again");

    // Offered, and nobody has answered: the same is not offered beside itself, and does not wait beside itself.
    let sharing = a.share_with_device(to, request(3)).await.unwrap();
    assert_eq!(sharing.key.id, ids[3]);
    assert_eq!(a.share_with_device(to, request(3)).await.unwrap_err(), SendError::Live);
    assert_eq!(a.queue_for_device(to, request(3), day).await.unwrap_err(), SendError::Live);
    a.shutdown().await;
    b.shutdown().await;
}
