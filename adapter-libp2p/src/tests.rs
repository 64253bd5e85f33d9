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
        io::Write::write_all(&mut socket, b"220 this is another program\r\n").unwrap();
    });
    for _ in 0..2 {
        let text = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", gone.peer());
        let error = libp2p.dial(&Address { kind: TransportKind::Libp2p, text }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error:?}");
    }
    hanging_up.join().unwrap();
}

/// An embedder's swarm has another behaviour beside kin's: connections that it needs stay when kin has no use for them.
#[tokio::test]
async fn a_swarm_of_the_embedder_is_shared() {
    use adapter_tokio::transport::{Connection as _, Rx as _, Tx as _};

    #[derive(libp2p::swarm::NetworkBehaviour)]
    struct Both {
        kin: Streams,
        identify: libp2p::identify::Behaviour,
    }
    let keys = Keypair::ed25519_from_bytes([3; 32]).unwrap();
    let (shared, streams) = Libp2p::shared(keys.public().to_peer_id());
    let mut swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|keys| Both {
            kin: streams,
            identify: libp2p::identify::Behaviour::new(libp2p::identify::Config::new("other/1".into(), keys.public())),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
    let (connected, mut connections) = mpsc::unbounded_channel();
    let polling = tokio::spawn(async move {
        loop {
            let event = swarm.select_next_some().await;
            if matches!(event, SwarmEvent::ConnectionEstablished { .. } | SwarmEvent::ConnectionClosed { .. }) {
                connected.send(swarm.connected_peers().count()).unwrap();
            }
        }
    });

    let (other, _) = Libp2p::bind([1; 32], &["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    // Who only connects is no business of kin's: nothing is accepted before there is a stream.
    let to = shared.local().dialable().next().unwrap();
    let dialled = other.dial(&to).await.unwrap();
    assert_eq!(connections.recv().await, Some(1));
    let opening = async {
        let mut stream = dialled.open().await.unwrap();
        stream.0.write_all(b"hello").await.unwrap();
        stream
    };
    let (_stream, accepted) = tokio::join!(opening, shared.accept());
    let accepted = accepted.unwrap();
    let (mut tx, mut rx) = accepted.accept().await.unwrap();
    let mut came = [0; 5];
    assert_eq!((rx.read(&mut came).await.unwrap(), &came), (5, b"hello"));

    // kin lets go of the connection: its streams end, and the connection is the embedder's to keep. Another stream is a new beginning.
    accepted.close(0);
    assert!(rx.read(&mut came).await.is_err() && tx.write_all(b"more").await.is_err());
    drop((accepted, tx, rx));
    let opening = async {
        let mut stream = dialled.open().await.unwrap();
        stream.0.write_all(b"again").await.unwrap();
        stream
    };
    let (_stream, again) = tokio::join!(opening, shared.accept());
    let again = again.unwrap();
    let (_tx, mut rx) = again.accept().await.unwrap();
    assert_eq!((rx.read(&mut came).await.unwrap(), &came), (5, b"again"));
    assert!(connections.try_recv().is_err(), "the connection was closed");
    polling.abort();
    other.shutdown().await;
}

/// The library would write the keys of every connection there. The environment is another process's: this one's tests share theirs.
#[cfg(feature = "quic")]
#[tokio::test]
async fn quic_is_refused_where_its_keys_would_be_logged() {
    let trap = "SSLKEYLOGFILE";
    if std::env::var_os(trap).is_some() {
        let error = Libp2p::bind([1; 32], &[]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(trap), "{error}");
        return;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "tests::quic_is_refused_where_its_keys_would_be_logged"]).env(trap, "/nonexistent/keys");
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A device keeps its port: where that is free for both families, both are listened at.
#[tokio::test]
async fn one_port_serves_both_families() {
    // A machine may have no IPv6.
    let families = if TcpListener::bind("[::1]:0").is_ok() { 2 } else { 1 };
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let at = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|at| at.parse().unwrap());
    let (libp2p, ports) = Libp2p::bind([4; 32], &at).await.unwrap();
    assert_eq!(ports, vec![port; families]);
    libp2p.shutdown().await;
}

/// What asks for a stream hears of it when the connection's task is gone, also where its question was never looked at.
#[tokio::test]
async fn a_question_to_a_task_that_is_gone_is_answered() {
    use adapter_tokio::transport::Connection as _;

    let (open, mut asked) = mpsc::channel(1);
    let (_to, streams) = mpsc::channel(1);
    let (commands, _orders) = mpsc::unbounded_channel();
    let parts = handler::Parts { open, streams };
    let raw = Raw { peer: PeerId::random(), id: libp2p::swarm::ConnectionId::new_unchecked(1), address: Multiaddr::empty(), parts };
    let connection = Libp2pConnection::new(raw, commands);
    let (opened, kept) = tokio::join!(timeout(Duration::from_secs(20), connection.open()), async {
        let reply = asked.recv().await;
        drop(asked);
        reply
    });
    let error = opened.expect("it does not wait for ever").unwrap_err();
    assert_eq!((error.kind(), kept.is_some()), (io::ErrorKind::NotConnected, true));
}

#[test]
fn what_only_this_machine_can_reach_is_told_to_nobody_else() {
    let at = |text: &str| text.parse::<Multiaddr>().unwrap();
    let all = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.7/tcp/1", "/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/169.254.3.4/tcp/1"].map(at);
    assert_eq!(reachable(all.to_vec()), [at("/ip4/192.168.1.7/tcp/1")]);
    // Who listens at loopback alone means it.
    assert_eq!(reachable(all[..1].to_vec()), all[..1]);
}
