//! Both tasks of a stream over real sockets, without a Node.

use std::io::{ErrorKind, Result};
use std::net::SocketAddr;

use protocol_core::crypto::secret::Secret;
use protocol_core::effects::Cut;
use protocol_core::faults::code;
use protocol_core::ids::{DeviceId, SessionRef, StreamId};
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::wire::header::{Header, StreamKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::ProtocolStream;
use super::tasks::{Hear, Say};
use crate::driver::{Happened, channel};
use crate::tcp::{Tcp, TcpConnection};
use crate::transport::{Connection as _, Rx, Stopper, Transport as _, Tx};

fn key() -> StreamKey {
    let header = Header::new(StreamKind::Custom, SessionRef([1; 16]), 1, [2; 8]).unwrap();
    StreamKey::of_answerer(&Secret::new([3; 32]), &header, &[5; 16])
}

async fn pair() -> (TcpConnection, TcpConnection) {
    let tcp = Tcp::bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap();
    let to = tcp.local().dialable().next().unwrap();
    let (dialled, accepted) = tokio::join!(tcp.dial(&to), tcp.accept());
    (dialled.unwrap(), accepted.unwrap())
}

fn stream() -> (ProtocolStream, std::sync::Arc<super::Pipes>) {
    ProtocolStream::new(DeviceId([1; 16]), "p".to_owned())
}

/// Starts the sending half of a stream.
fn saying(tx: impl Tx) -> (ProtocolStream, mpsc::Receiver<Happened>, Stopper) {
    let ((handle, pipes), (links, happened), (stopper, stop)) = (stream(), channel(), Stopper::new());
    tokio::spawn(Say::new(RecordSealer::new(&key()), pipes).run(tx, StreamId(1), stop, links));
    (handle, happened, stopper)
}

/// Starts the receiving half.
fn hearing(rx: impl Rx) -> (ProtocolStream, mpsc::Receiver<Happened>, Stopper) {
    let ((handle, pipes), (links, happened), (stopper, stop)) = (stream(), channel(), Stopper::new());
    tokio::spawn(Hear::new(RecordOpener::new(&key()), pipes).run(rx, Vec::new(), StreamId(1), stop, links));
    (handle, happened, stopper)
}

/// What an application reads when these bytes come and then the end of the transport.
async fn read(bytes: &[u8]) -> (Result<Vec<u8>>, Vec<Happened>) {
    let (dialled, accepted) = pair().await;
    let ((mut tx, _rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    let (mut handle, mut happened, _stopper) = hearing(far_rx);
    tx.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let (_, got) = tokio::join!(tx.finish(), handle.read_to_end(&mut all));
    let mut told = Vec::new();
    while let Some(what) = happened.recv().await {
        told.push(what);
    }
    (got.map(|_| all), told)
}

fn bytes() -> Vec<u8> {
    let mut sealer = RecordSealer::new(&key());
    [(RecordType::Data, &b"one"[..]), (RecordType::Data, b"two"), (RecordType::Fin, b"")]
        .into_iter()
        .flat_map(|(kind, text)| sealer.seal(kind, text).unwrap())
        .collect()
}

#[tokio::test]
// CUST-4.
async fn a_cut_at_every_byte_is_an_error_and_no_end() {
    let whole = bytes();
    for cut in 0..whole.len() {
        let (got, told) = read(&whole[..cut]).await;
        assert_eq!(got.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{cut}");
        assert!(matches!(told[..], [Happened::ReadEnd { cut: Cut::Broken, .. }]), "{told:?}");
    }
    let (got, told) = read(&whole).await;
    assert_eq!(got.unwrap(), b"onetwo");
    assert!(matches!(told[..], [Happened::ReadEnd { cut: Cut::Finished, .. }]), "{told:?}");
}

#[tokio::test]
async fn what_was_changed_is_an_error_and_the_loop_hears_of_it() {
    let mut changed = bytes();
    changed[30] ^= 1;
    let (got, told) = read(&changed).await;
    assert_eq!(got.unwrap_err().kind(), ErrorKind::InvalidData);
    assert!(matches!(told[..], [Happened::Forged { .. }, Happened::ReadEnd { cut: Cut::Malformed, .. }]), "{told:?}");
}

#[tokio::test]
async fn an_application_that_does_not_read_stops_the_other() {
    let (dialled, accepted) = pair().await;
    let ((tx, _rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    let (mut one, _told, _stopper) = saying(tx);
    let (mut other, _heard, _far_stopper) = hearing(far_rx);
    let block = vec![7; 1 << 20];
    let mut written = 0;
    // Until nothing is taken any more for as long as anything takes here: queues and sockets are full.
    while let Ok(done) = tokio::time::timeout(std::time::Duration::from_millis(500), one.write(&block)).await {
        written += done.unwrap();
    }
    let mut read = vec![0; written];
    other.read_exact(&mut read).await.unwrap();
    assert!(written > 1 << 18 && read.iter().all(|&byte| byte == 7));
    one.write_all(b"more").await.unwrap();
    one.shutdown().await.unwrap();
    let mut rest = Vec::new();
    other.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"more");
}

#[tokio::test]
async fn dropping_before_the_end_was_said_resets() {
    let (dialled, accepted) = pair().await;
    let ((tx, rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    let (mut one, mut told, _stopper) = saying(tx);
    let (mut other, _heard, _far_stopper) = hearing(far_rx);
    one.write_all(b"half").await.unwrap();
    one.flush().await.unwrap();
    drop(one);
    assert!(matches!(told.recv().await, Some(Happened::WriteEnd { sent: false, .. })));
    // The loop lets go of the rest.
    drop((dialled, rx));
    assert!(other.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_stop_of_the_loop_ends_both_halves() {
    let (dialled, accepted) = pair().await;
    let ((tx, _rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    let (mut one, _told, stopper) = saying(tx);
    let (mut other, _heard, far_stopper) = hearing(far_rx);
    stopper.stop(0);
    far_stopper.stop(0);
    assert_eq!(other.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(one.shutdown().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
// CUST-7: a goodbye comes on another stream than what was said before it.
async fn what_was_said_before_a_goodbye_is_heard_behind_it() {
    let (dialled, accepted) = pair().await;
    let ((mut tx, _rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    let (mut other, _heard, far_stopper) = hearing(far_rx);
    far_stopper.stop(code::DONE);
    tx.write_all(&bytes()).await.unwrap();
    tx.finish().await.unwrap();
    let mut all = Vec::new();
    other.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"onetwo");
}

#[tokio::test]
async fn a_refused_stream_hears_nothing_more() {
    let (dialled, accepted) = pair().await;
    let ((mut tx, _rx), (_far_tx, far_rx)) = (dialled.open().await.unwrap(), accepted.accept().await.unwrap());
    tx.write_all(&bytes()).await.unwrap();
    let (mut other, _heard, far_stopper) = hearing(far_rx);
    far_stopper.stop(code::REFUSED);
    assert_eq!(other.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn tasks_that_never_begin_end_their_halves() {
    let (mut handle, pipes) = stream();
    drop((Say::new(RecordSealer::new(&key()), pipes.clone()), Hear::new(RecordOpener::new(&key()), pipes)));
    assert_eq!(handle.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(handle.shutdown().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
