use super::*;

#[tokio::test]
async fn a_refusal_is_told_as_one() {
    let (libp2p, _) = Libp2p::bind([1; 32], &[]).await.unwrap();
    let (gone, _) = Libp2p::bind([2; 32], &["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let at = gone.local().dialable().next().unwrap();
    gone.shutdown().await;
    let error = libp2p.dial(&at).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error:?}");
    // Somebody who hangs up, with and without a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hanging_up = std::thread::spawn(move || {
        drop(listener.accept().unwrap());
        let (mut socket, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut socket, b"220 this is another program\r\n").unwrap();
    });
    for _ in 0..2 {
        let text = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", gone.peer());
        let error = libp2p.dial(&Address { kind: TransportKind::Libp2p, text }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error:?}");
    }
    hanging_up.join().unwrap();
}
