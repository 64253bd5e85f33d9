//! The transports of this repository, as the suite makes them: on the loopback interface, at any free port.

use std::net::{Ipv4Addr, SocketAddr};

use adapter_iroh::{Iroh, IrohConfig};
use adapter_libp2p::Libp2p;
use adapter_tokio::tcp::Tcp;

use super::{Bench, Traits};

/// Any free port of this machine alone.
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Bare TCP.
#[derive(Debug)]
pub struct Bare;

impl Bench for Bare {
    type Transport = Tcp;
    const TRAITS: Traits = Traits { ids: false, exporter: true, one_stream: true, tells_cuts: true, resets: true, asks_for_ids: false };

    async fn up(_: u8) -> Tcp {
        Tcp::bind(&[HERE]).expect("a port is free")
    }
}

/// Iroh.
#[derive(Debug)]
pub struct Quic;

impl Bench for Quic {
    type Transport = Iroh;
    const TRAITS: Traits = Traits { ids: true, one_stream: false, asks_for_ids: true, ..Bare::TRAITS };

    async fn up(of: u8) -> Iroh {
        Iroh::bind(&[of; 32], &[HERE], IrohConfig::default()).await.expect("a port is free")
    }
}

/// libp2p over TCP, Noise and Yamux, which shows a reset and a broken connection as an end.
#[derive(Debug)]
pub struct Noise;

impl Bench for Noise {
    type Transport = Libp2p;
    const TRAITS: Traits = Traits { exporter: false, tells_cuts: false, ..Quic::TRAITS };

    async fn up(of: u8) -> Libp2p {
        Libp2p::bind([of; 32], &[HERE]).await.expect("a port is free").0
    }
}

/// libp2p over its QUIC, which ends a stream in order when its sending half is dropped.
#[cfg(feature = "quic")]
#[derive(Debug)]
pub struct Libp2pQuic;

#[cfg(feature = "quic")]
impl Bench for Libp2pQuic {
    type Transport = Libp2p;
    const TRAITS: Traits = Noise::TRAITS;

    async fn up(of: u8) -> Libp2p {
        Noise::up(of).await
    }

    fn address(of: &Libp2p) -> protocol_core::info::Address {
        adapter_tokio::transport::Transport::local(of)
            .dialable()
            .find(|address| address.text.contains("/quic-v1/"))
            .expect("it listens on QUIC")
    }
}
