use super::*;
use crate::transport::Stopper;
use protocol_core::info::TransportKind;

fn address(tcp: &Tcp) -> Address {
    tcp.local().dialable().next().unwrap()
}

async fn pair_on(bind: &str) -> (TcpConnection, TcpConnection) {
    let tcp = Tcp::bind(&[bind.parse().unwrap()]).unwrap();
    let to = address(&tcp);
    let (dialled, accepted) = tokio::join!(tcp.dial(&to), tcp.accept());
    (dialled.unwrap(), accepted.unwrap())
}

async fn streams() -> ((TcpTx, TcpRx), (TcpTx, TcpRx)) {
    let (dialled, accepted) = pair_on("127.0.0.1:0").await;
    (dialled.open().await.unwrap(), accepted.accept().await.unwrap())
}

async fn read_to_end(rx: &mut TcpRx) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 4096]);
    loop {
        match rx.read(&mut buffer).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Section 6.0: the accepting side's 32 random bytes bind both sides to this one connection.
#[tokio::test]
// HOST-15.
async fn both_sides_have_the_same_fresh_exporter() {
    let mut seen = Vec::new();
    for bind in ["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"] {
        let (dialled, accepted) = pair_on(bind).await;
        let (ours, theirs) = (dialled.remote(), accepted.remote());
        assert_eq!(ours.exporter, theirs.exporter);
        assert_eq!((ours.exporter.len(), ours.one_stream, ours.kind), (32, true, TransportKind::Tcp));
        assert!(ours.id.is_empty() && !seen.contains(&ours.exporter));
        seen.push(ours.exporter);
    }
}

#[tokio::test]
async fn host_names_are_looked_up_and_nonsense_is_refused() {
    let tcp = Tcp::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let port = tcp.bound()[0].port();
    let named = |text: String| Address { kind: TransportKind::Tcp, text };
    let localhost = named(format!("localhost:{port}"));
    let (dialled, accepted) = tokio::join!(tcp.dial(&localhost), tcp.accept());
    assert!(dialled.is_ok() && accepted.is_ok());
    assert_eq!(tcp.dial(&named("127.0.0.1".into())).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    tcp.close().await;
    assert_eq!(tcp.accept().await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    drop(tcp);
    let refused = Tcp::bind(&[]).unwrap().dial(&named(format!("127.0.0.1:{port}"))).await;
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

/// The system takes connections for a process that is ending: nobody is there, as if it had ended already.
#[tokio::test]
async fn a_connection_that_ends_before_the_first_word_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address { kind: TransportKind::Tcp, text: listener.local_addr().unwrap().to_string() };
    let closing = std::thread::spawn(move || {
        // Once in order, once with a reset.
        drop(listener.accept().unwrap());
        let (socket, _) = listener.accept().unwrap();
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let tcp = Tcp::bind(&[]).unwrap();
    for _ in 0..2 {
        assert_eq!(tcp.dial(&to).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    closing.join().unwrap();
}

#[tokio::test]
async fn a_half_closed_stream_carries_the_other_direction() {
    let ((mut tx, mut rx), (mut far_tx, mut far_rx)) = streams().await;
    tx.write_all(b"question").await.unwrap();
    tx.finish().await.unwrap();
    assert_eq!(read_to_end(&mut far_rx).await.unwrap(), b"question");
    far_tx.write_all(b"answer").await.unwrap();
    far_tx.finish().await.unwrap();
    assert_eq!(read_to_end(&mut rx).await.unwrap(), b"answer");
}

#[tokio::test]
// HOST-16.
async fn a_connection_is_one_stream_and_ends_with_it() {
    let (dialled, accepted) = pair_on("127.0.0.1:0").await;
    let (mut tx, rx) = dialled.open().await.unwrap();
    assert!(dialled.open().await.is_err(), "there is only one stream");
    tx.finish().await.unwrap();
    let (ended, ()) = tokio::join!(dialled.accept(), async { drop((tx, rx)) });
    assert!(ended.is_err());
    let (mut far_tx, mut far_rx) = accepted.accept().await.unwrap();
    assert_eq!(read_to_end(&mut far_rx).await.unwrap(), b"");
    far_tx.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_dropped_unfinished_is_cut_and_not_ended() {
    let ((mut tx, rx), (_far_tx, mut far_rx)) = streams().await;
    tx.write_all(b"half a frame").await.unwrap();
    drop((tx, rx));
    assert!(read_to_end(&mut far_rx).await.is_err());
}

#[tokio::test]
async fn reset_and_close_wake_whoever_waits() {
    let ((mut tx, mut rx), (_far_tx, mut far_rx)) = streams().await;
    let mut buffer = [0; 9];
    let (read, ()) = tokio::join!(rx.read(&mut buffer), async { tx.reset(1) });
    assert!(read.is_err());
    drop((tx, rx));
    assert!(read_to_end(&mut far_rx).await.is_err(), "the other side sees a reset, not an end");

    let (dialled, accepted) = pair_on("127.0.0.1:0").await;
    let (_tx, mut rx) = dialled.open().await.unwrap();
    let (read, ()) = tokio::join!(rx.read(&mut buffer), async { dialled.close(0) });
    assert!(read.is_err());
    drop((_tx, rx));
    let (_far_tx, mut far_rx) = accepted.accept().await.unwrap();
    assert!(read_to_end(&mut far_rx).await.is_err());
}

/// Back-pressure: a writer waits for a reader that does not read, and goes on when it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_makes_the_writer_wait() {
    const BYTES: usize = 32 << 20;
    let ((mut tx, _rx), (_far_tx, mut far_rx)) = streams().await;
    let data: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let expected = blake3::hash(&data);
    let mut writing = std::pin::pin!(async {
        tx.write_all(&data).await.unwrap();
        tx.finish().await.unwrap();
    });
    // Polled until nothing moves: no socket takes 32 MiB.
    let mut first = [0; 1];
    tokio::select! {
        biased;
        () = &mut writing => panic!("all of it was taken without a reader"),
        read = far_rx.read(&mut first) => assert_eq!(read.unwrap(), 1),
    }
    let ((), rest) = tokio::join!(writing, read_to_end(&mut far_rx));
    assert_eq!(blake3::hash(&[&first[..], &rest.unwrap()].concat()), expected);
}

/// Workers block on the same sockets, and a stop wakes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_halves_carry_bytes_and_can_be_stopped() {
    const BYTES: usize = 8 << 20;
    let ((mut tx, mut rx), (mut far_tx, mut far_rx)) = streams().await;
    let (stopper, stop) = Stopper::new();
    let (runtime, far_stop) = (Handle::current(), stop.clone());
    let far_runtime = runtime.clone();
    let writer = tokio::task::spawn_blocking(move || {
        far_tx.write_all_blocking(&vec![7; BYTES], &far_runtime, &far_stop).unwrap();
        far_tx
    });
    let reader = tokio::task::spawn_blocking(move || {
        let (mut left, mut buffer) = (BYTES, vec![0; 65_536]);
        while left > 0 {
            let count = rx.read_blocking(&mut buffer, &runtime, &stop).unwrap();
            assert!(buffer[..count].iter().all(|byte| *byte == 7));
            left -= count;
        }
        // Nothing more comes: only the stop ends this.
        rx.read_blocking(&mut buffer, &runtime, &stop)
    });
    let mut far_tx = writer.await.unwrap();
    stopper.stop(0);
    assert!(reader.await.unwrap().is_err());
    far_tx.finish().await.unwrap();
    tx.finish().await.unwrap();
    assert_eq!(far_rx.read(&mut [0]).await.unwrap(), 0);
}

#[test]
// HOST-17.
fn sources_are_what_costs_an_attacker_something() {
    for (ip, expected) in [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
    ] {
        assert_eq!(source(ip.parse().unwrap()), expected);
    }
}
