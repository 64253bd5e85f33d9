//! Chunks that lie: whatever comes over the streams of an accepted transfer, a name is given only to what was offered.

use std::fs;
use std::iter::once;
use std::net::{Shutdown, TcpStream};

use protocol_core::ids::TransferId;
use protocol_core::transfer::receipt::Outcome;
use protocol_core::wire::control::{CancelReason, ControlMessage};

use crate::lies::Scene;
use crate::manifest::{CHUNK, Entry, Lie, file, message, path};
use crate::peer::{Bulk, Session};
use crate::stage::{Ended, Running};
use rustix::process::Signal;

/// A transfer of two files that was accepted: `large` is chunks 0 and 1, `small` is chunk 2.
struct Accepted {
    scene: Scene,
    address: String,
    receiving: Running,
    session: Session,
    transfer: TransferId,
    digest: [u8; 32],
}

const LARGE: usize = 70_000;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn chunks() -> [Vec<u8>; 3] {
    let large = large();
    let (first, last) = large.split_at(CHUNK as usize);
    [first.to_vec(), last.to_vec(), b"small".to_vec()]
}

impl Accepted {
    fn new() -> Self {
        let scene = Scene::new();
        let (receiving, address) = scene.receive(&["--once"]);
        let mut session = scene.liar.connect(&address);
        let entries = [Entry { size: LARGE as u64, ..file(path("large")) }, file(path("small"))];
        let truth = Lie::of(&entries);
        let (transfer, digest) = (truth.transfer, truth.manifest_digest());
        session.tell(&message(&truth.offer()));
        let mut pages = session.pages(transfer, digest);
        pages.page(&truth.pages[0]);
        pages.fin();
        match session.hear() {
            Some(ControlMessage::Accept { transfer: of, chunks, digests }) => {
                assert_eq!(of, transfer);
                assert!(chunks.iter().eq(once(0..3)) && digests.iter().eq(once(0..2)), "{chunks:?} {digests:?}");
            }
            other => panic!("{other:?}"),
        }
        Self { scene, address, receiving, session, transfer, digest }
    }

    fn bulk(&mut self) -> Bulk {
        self.session.bulk(self.transfer, self.digest)
    }

    fn name_digests(&mut self, large: &[u8], small: &[u8]) {
        let digests = vec![blake3::hash(large).into(), blake3::hash(small).into()];
        self.session.tell(&ControlMessage::FileDigests { transfer: self.transfer, first_entry: 0, digests }.encode());
    }

    /// Sends everything as it should be.
    fn send_rightly(&mut self) {
        let mut bulk = self.bulk();
        (0..).zip(chunks()).for_each(|(index, text)| bulk.chunk(index, &text));
        bulk.finish();
        self.name_digests(&large(), b"small");
    }

    /// The outcomes in the receipt that are not "stored"; `None` if the session ends without one.
    fn receipt(&mut self) -> Option<Vec<(u32, Outcome)>> {
        loop {
            match self.session.hear()? {
                // What is missing is named again whenever every stream has ended: between two of ours, if those are slow.
                ControlMessage::Stored { .. } | ControlMessage::Accept { .. } => {}
                ControlMessage::Receipt { others, .. } => return Some(others),
                // Where ours are slow the transfer ends before the session does: for the same reason.
                ControlMessage::Cancel { reason: CancelReason::Integrity, .. } => return None,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What the receiver said in the end, and what it then has beside what it had: nothing hidden is among it.
    fn end(self) -> (Ended, Vec<String>, Scene) {
        drop(self.session);
        let received = self.receiving.end();
        let root = self.scene.stage.path("inbox");
        let names = self.scene.inbox().into_keys().map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
        let names = names.filter(|name| name != "mine").collect();
        (received, names, self.scene)
    }

    fn end_well(mut self) {
        assert_eq!(self.receipt(), Some(Vec::new()));
        let (received, names, scene) = self.end();
        assert_eq!((received.code, &names[..]), (0, &["large".to_owned(), "small".to_owned()][..]), "{:?}", received.events);
        assert_eq!(fs::read(scene.stage.path("inbox/large")).unwrap(), large());
        assert_eq!(fs::read(scene.stage.path("inbox/small")).unwrap(), b"small");
    }
}

#[test]
// XFER-11, XFER-14.
fn content_that_is_not_what_its_digest_says_gets_no_name() {
    // Other bytes under the right digest, and the right bytes under another digest.
    for (sent, named) in [(vec![7; LARGE - CHUNK as usize], large()), (chunks()[1].clone(), b"another file".to_vec())] {
        let mut accepted = Accepted::new();
        let mut bulk = accepted.bulk();
        bulk.chunk(0, &chunks()[0]);
        bulk.chunk(1, &sent);
        bulk.chunk(2, b"small");
        bulk.finish();
        accepted.name_digests(&named, b"small");
        assert_eq!(accepted.receipt(), Some(vec![(0, Outcome::Failed)]));
        let (received, names, _) = accepted.end();
        assert_eq!((received.code, &names[..]), (11, &["small".to_owned()][..]), "{:?}", received.events);
        let warning = received.event("warning");
        assert_eq!(warning["code"], "item_failed");
        assert!(warning["message"].as_str().unwrap().contains("digest"), "{warning}");
    }
}

#[test]
// DATA-22, DATA-23.
fn chunks_that_nobody_wants_are_dropped() {
    let mut accepted = Accepted::new();
    let [first, second, third] = chunks();
    let mut bulk = accepted.bulk();
    for index in [3, 99, 1 << 32, u64::MAX] {
        bulk.chunk(index, &first);
    }
    // Wrong lengths: a piece of it, another chunk's, one byte more.
    bulk.chunk(0, b"x");
    bulk.chunk(1, &first);
    bulk.chunk(2, b"smaller");
    bulk.chunk(0, &first);
    // What is there is not written again, not even with other bytes.
    bulk.chunk(0, &first);
    bulk.chunk(0, &[9; CHUNK as usize]);
    bulk.chunk(1, &second);
    bulk.chunk(2, &third);
    bulk.chunk(2, b"other");
    bulk.finish();
    accepted.name_digests(&large(), b"small");
    accepted.end_well();
}

#[test]
// DATA-11, DATA-21, DATA-22.
fn a_stream_that_is_damaged_ends_alone() {
    let mut accepted = Accepted::new();
    let bulk = accepted.bulk();
    let mut forged = bulk.sealed(0, &chunks()[0]);
    *forged.last_mut().unwrap() ^= 1;
    let mut elsewhere = bulk.sealed(1, b"small");
    elsewhere[4..12].copy_from_slice(&2_u64.to_be_bytes());
    let mut bulk = bulk;
    bulk.write(&forged);
    bulk.await_close();
    // A chunk in another's place is a forgery too; this one was sealed for a stream that is gone.
    let mut bulk = accepted.bulk();
    bulk.write(&elsewhere);
    bulk.await_close();
    for len in [0_u32, 8, 24, 8 + CHUNK + 16 + 1, u32::MAX] {
        let mut bulk = accepted.bulk();
        bulk.write(&[&len.to_be_bytes()[..], &[0; 100]].concat());
        bulk.await_close();
    }
    let other = accepted.session.bulk(accepted.transfer, [9; 32]);
    other.await_close();
    accepted.send_rightly();
    accepted.end_well();
}

#[test]
// DATA-11.
fn three_forgeries_end_the_session() {
    let mut accepted = Accepted::new();
    for _ in 0..3 {
        let mut bulk = accepted.bulk();
        let mut forged = bulk.sealed(0, &chunks()[0]);
        forged[20] ^= 1;
        bulk.write(&forged);
        bulk.await_close();
    }
    assert_eq!(accepted.receipt(), None);
    let (received, names, scene) = accepted.end();
    assert_eq!((received.code, names), (8, Vec::new()), "{:?}", received.events);
    assert!(received.message().contains("no unfinished file has its final name"), "{}", received.message());
    let (receiving, address) = scene.receive(&["--once"]);
    scene.honest_transfer(&address);
    assert_eq!(receiving.end().code, 0);
}

#[test]
// XFER-16, DATA-17.
fn messages_about_entries_that_are_not_there_end_the_session() {
    let mut accepted = Accepted::new();
    accepted.session.tell(&ControlMessage::SourceChanged { transfer: accepted.transfer, entry: 2 }.encode());
    assert_eq!(accepted.receipt(), None);
    let (received, names, _) = accepted.end();
    assert_eq!((received.code, names), (8, Vec::new()), "{:?}", received.events);
    assert!(received.message().contains("broke the protocol"), "{}", received.message());
}

#[test]
// XFER-21, XFER-28.
fn a_sender_that_vanishes_leaves_what_another_try_takes_over() {
    let mut accepted = Accepted::new();
    let mut bulk = accepted.bulk();
    bulk.chunk(0, &chunks()[0]);
    bulk.chunk(2, b"small");
    // It is there, and has no name.
    while !matches!(accepted.session.hear(), Some(ControlMessage::Stored { .. })) {}
    assert!(accepted.scene.inbox().keys().any(|path| path.to_str().unwrap().ends_with(".part")));
    let Accepted { scene, session, mut receiving, .. } = accepted;
    drop((session, bulk));
    while receiving.until("warning")["code"] != "suspended" {}
    receiving.signal(Signal::TERM);
    assert_eq!(receiving.end().code, 143);
    assert!(
        scene.inbox().keys().all(|path| path.to_str().unwrap().ends_with(".part") || path.ends_with("mine")),
        "{:?}",
        scene.inbox().keys()
    );
}

#[test]
// LIM-1, DATA-6, DATA-7.
fn silent_connections_keep_nobody_out() {
    let mut accepted = Accepted::new();
    let connect = || TcpStream::connect(accepted.address.strip_prefix("tcp:").unwrap()).unwrap();
    let silent: Vec<TcpStream> = (0..12).map(|_| connect()).collect();
    let half: Vec<TcpStream> = (0..2).map(|_| connect()).collect();
    half.iter().for_each(|socket| socket.shutdown(Shutdown::Write).unwrap());
    accepted.send_rightly();
    accepted.end_well();
    drop((silent, half));
}
