use adapter_tokio::transport::{Connection as _, Rx as _, Tx as _};
use iroh::protocol::Router;

use super::*;

fn here() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// HOST-18.
#[tokio::test]
async fn nothing_is_contacted_that_was_not_configured() {
    let iroh = Iroh::bind(&[1; 32], &[here()], IrohConfig::default()).await.unwrap();
    assert_eq!(iroh.local().relay, None);
    assert!(iroh.endpoint().address_lookup().unwrap().is_empty());
    assert!(iroh.bound().iter().all(|at| at.ip().is_loopback()));
    // Only a lookup could find it.
    let unknown = Address { kind: TransportKind::Iroh, text: SecretKey::from_bytes(&[2; 32]).public().to_string() };
    assert_eq!(iroh.dial(&unknown).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    iroh.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let taken = std::net::UdpSocket::bind(here()).unwrap();
    let error = Iroh::bind(&[1; 32], &[taken.local_addr().unwrap()], IrohConfig::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
}

/// An embedder has an endpoint and a router of its own, on which kin is one protocol among others.
#[tokio::test]
async fn an_endpoint_of_the_embedder_is_shared_and_left_open() {
    let builder = Endpoint::builder(presets::Minimal).secret_key(SecretKey::from_bytes(&[3; 32])).relay_mode(RelayMode::Disabled);
    let builder = builder.portmapper_config(PortmapperConfig::Disabled).clear_ip_transports().bind_addr(here()).unwrap();
    let endpoint = builder.bind().await.unwrap();
    let (shared, incoming) = Iroh::shared(endpoint.clone());
    let router = Router::builder(endpoint).accept(ALPN, incoming).spawn();
    let other = Iroh::bind(&[1; 32], &[here()], IrohConfig::default()).await.unwrap();

    let to = shared.local().dialable().next().unwrap();
    let (dialled, accepted) = tokio::join!(other.dial(&to), shared.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(dialled.remote().id, shared.local().id);
    assert_eq!(dialled.remote().exporter, accepted.remote().exporter);
    let (mut tx, _rx) = dialled.open().await.unwrap();
    tx.write_all(b"hello").await.unwrap();
    let (_tx, mut rx) = accepted.accept().await.unwrap();
    let mut came = [0; 5];
    assert_eq!((rx.read(&mut came).await.unwrap(), &came), (5, b"hello"));
    let back = other.local().dialable().next().unwrap();
    assert!(shared.dial(&back).await.is_ok());

    shared.close().await;
    shared.shutdown().await;
    assert!(!router.endpoint().is_closed());
    router.shutdown().await.unwrap();
    other.shutdown().await;
}
