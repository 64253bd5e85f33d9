//! A hostile client of QUIC that speaks the library's own state machine, and leaves holes: of every stream the first byte is never sent,
//! and all that the window allows behind it. What comes behind a hole cannot be read, and has to be kept.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq_proto::congestion::{Controller, ControllerFactory};
use noq_proto::crypto::rustls::QuicClientConfig;
use noq_proto::{ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// A connection with holes in its streams.
pub(super) struct Hole {
    socket: UdpSocket,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    /// The moment that the machine is told: it runs ahead of ours, so that nothing is paced.
    now: Instant,
}

impl Hole {
    /// Connects, as nobody in particular. `None`: it is not let in.
    pub(super) fn dial(to: SocketAddr, seed: [u8; 32]) -> Option<Self> {
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut transport = TransportConfig::default();
        transport.congestion_controller_factory(Arc::new(Careless)).send_window(1 << 40);
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(&seed)).unwrap()));
        config.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false);
        let now = Instant::now();
        let (handle, connection) = endpoint.connect(now, config, to, "nobody.invalid").unwrap();
        let mut this = Self { socket, endpoint, handle, connection, now };
        let until = now + HANDSHAKE;
        while Instant::now() < until {
            this.now = Instant::now();
            this.flush(true);
            this.receive();
            while let Some(event) = this.connection.poll() {
                match event {
                    Event::HandshakeConfirmed => return Some(this),
                    Event::ConnectionLost { .. } => return None,
                    _ => {}
                }
            }
        }
        None
    }

    /// Sends what is to be sent, or loses it.
    fn flush(&mut self, send: bool) {
        let mut datagram = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(self.now, NonZeroUsize::MIN, &mut datagram) {
            if send {
                self.socket.send_to(&datagram[..transmit.size], transmit.destination).unwrap();
            }
            datagram.clear();
            self.now += Duration::from_millis(10);
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        let (len, from) = match self.socket.recv_from(&mut buffer) {
            Ok(came) => came,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return self.connection.handle_timeout(self.now);
            }
            Err(error) => panic!("{error}"),
        };
        let mut reply = Vec::new();
        let event = self.endpoint.handle(self.now, from.into(), None, buffer[..len].into(), &mut reply);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }

    /// Opens as many streams as it may, and fills each behind its hole. Says how many, and how many bytes were sent.
    pub(super) fn fill(&mut self) -> (usize, usize) {
        let mut streams = Vec::new();
        while let Some(stream) = self.connection.streams().open(Dir::Bi) {
            self.connection.send_stream(stream).write(&[0]).unwrap();
            streams.push(stream);
        }
        self.flush(false);
        self.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut sent = 0;
        for &stream in &streams {
            while let Ok(taken) = self.connection.send_stream(stream).write(&[0; 100_000]) {
                sent += taken;
                self.flush(true);
                // Until the other has taken all and is silent again, or the system drops what it has no room for. What it says of holes
                // is not heard.
                while self.socket.recv(&mut [0; 2048]).is_ok() {}
            }
        }
        (streams.len(), sent)
    }
}

/// Sends as fast as it can.
#[derive(Clone, Debug)]
struct Careless;

impl ControllerFactory for Careless {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for Careless {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: bool, _: u64, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        1 << 40
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// TLS with a raw public key, as Iroh wants it; whoever answers is believed.
fn tls(seed: &[u8; 32]) -> rustls::ClientConfig {
    let provider = rustls::crypto::ring::default_provider();
    // RFC 8410, section 7.
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from([&prefix[..], seed].concat()));
    let key = rustls::crypto::ring::sign::any_eddsa_type(&match key {
        PrivateKeyDer::Pkcs8(key) => key,
        _ => unreachable!("made above"),
    })
    .unwrap();
    let certificate = CertificateDer::from(key.public_key().unwrap().to_vec());
    let own = Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key));
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believes))
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(own)));
    config.alpn_protocols = vec![adapter_iroh::ALPN.to_vec()];
    config.enable_sni = false;
    config
}

#[derive(Debug)]
struct Believes;

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
