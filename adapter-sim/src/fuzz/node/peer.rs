//! A peer that holds the keys: it can do what an honest one does, at any time or never, and seal what an honest one would not.

use std::collections::BTreeMap;

use protocol_core::crypto::secret::Secret;
use protocol_core::handshake::Traffic;
use protocol_core::identity::{DeviceKey, NetworkIdentity};
use protocol_core::ids::{PeerKey, SessionRef};
use protocol_core::info::{Binding, BindingKind, DeviceInfo, TransportInfo, TransportKind};
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::handshake::{AwaitedComplete, InitiatorWaiting, JoinerWaiting, PairingKeys, ReceivedRequest, Status};
use protocol_core::session::handshake::{DialerWaiting, LinkKeys, ListenerWaiting, ReceivedHello};
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordSealer, RecordType};
use protocol_core::session::stream::{Opening, REPLY};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::{HEADER, Header, StreamKind};

use super::super::tape::Counter;

/// The ids that the two have on the simulated transport.
pub(super) const NODE: &[u8] = b"node";
pub(super) const PEER: &[u8] = b"peer";
const EXPORTER: [u8; 32] = [3; 32];

pub(super) fn identity_of_node() -> NetworkIdentity {
    NetworkIdentity::from_seed(Secret::new([1; 32]))
}

/// What the peer is doing on one stream.
#[derive(Debug, Default)]
pub(super) enum Hand {
    /// Nothing that needs keys.
    #[default]
    Idle,
    Hello(Box<DialerWaiting>),
    Listening(Box<ListenerWaiting>),
    Request(Box<JoinerWaiting>),
    Responded(Box<(AwaitedComplete, PairingKeys)>),
    Initiator(Box<InitiatorWaiting>),
    /// The Node opens a control stream here, of this session.
    Opened(SessionRef),
    /// A control stream that stands.
    Control(SessionRef, Box<RecordSealer>),
    /// A data stream on which the peer seals.
    Data(Box<RecordSealer>),
}

/// The secrets of a session, and its last stream's number.
#[derive(Debug)]
struct Session {
    ours: Secret,
    number: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    key: DeviceKey,
    info: Vec<u8>,
    node: PeerKey,
    pub(super) root: Secret,
    pub(super) code: Option<CodeKeys>,
    sessions: BTreeMap<SessionRef, Session>,
    entropy: Counter,
}

impl Peer {
    pub(super) fn new(root: Secret) -> Self {
        // It does not listen on tcp: there data would be dialled whatever a session runs on, and the committed stories say nothing of it.
        let sim = TransportInfo { kind: TransportKind::Sim, id: PEER.to_vec(), addresses: vec!["there:1".into()], relay: None };
        let tcp = TransportInfo { kind: TransportKind::Tcp, id: Vec::new(), addresses: Vec::new(), relay: None };
        let transports = vec![sim, tcp];
        let info = DeviceInfo { name: "peer".into(), os: "linux".into(), app: "kin".into(), caps: 1, transports };
        Self {
            key: DeviceKey::from_seed(&Secret::new([2; 32])),
            info: info.encode(),
            node: identity_of_node().public(),
            root,
            code: None,
            sessions: BTreeMap::new(),
            entropy: Counter(1 << 32),
        }
    }

    pub(super) const fn public(&self) -> PeerKey {
        self.key.public()
    }

    pub(super) fn hello(&mut self, kind: &TransportKind) -> (Hand, Vec<u8>) {
        let made = DialerWaiting::hello(&self.root, self.key.public(), self.node, binding(kind), &mut self.entropy);
        let (waiting, frame) = made.expect("this source never fails");
        (Hand::Hello(Box::new(waiting)), frame)
    }

    pub(super) fn request(&mut self, kind: &TransportKind) -> Option<(Hand, Vec<u8>)> {
        let (waiting, frame) = JoinerWaiting::start(self.code.as_ref()?, binding(kind), &mut self.entropy).ok()?;
        Some((Hand::Request(Box::new(waiting)), frame))
    }

    /// The next honest step: what was heard is used up, the answer is returned. What does not verify ends it.
    pub(super) fn step(&mut self, hand: Hand, heard: &mut Vec<u8>, kind: &TransportKind, opened: Option<StreamName>) -> (Hand, Vec<u8>) {
        self.try_step(hand, heard, kind, opened).unwrap_or_default()
    }

    fn try_step(&mut self, hand: Hand, heard: &mut Vec<u8>, kind: &TransportKind, opened: Option<StreamName>) -> Option<(Hand, Vec<u8>)> {
        match hand {
            Hand::Idle => match opened? {
                StreamName::Link => {
                    let hello = ReceivedHello::decode(&take_frame(heard)?, binding(kind)).ok()?;
                    let (waiting, frame) = hello.accept(&self.root, &self.key, &self.info, self.node, &mut self.entropy).ok()?;
                    Some((Hand::Listening(Box::new(waiting)), frame))
                }
                StreamName::Pair => {
                    let code = self.code.as_ref()?;
                    let request = ReceivedRequest::decode(&take_frame(heard)?, code).ok()?.verify(code, binding(kind)).ok()?;
                    let (waiting, frame) = request.challenge(code, &self.key, &self.info, &mut self.entropy).ok()?;
                    Some((Hand::Initiator(Box::new(waiting)), frame))
                }
                StreamName::Data(_) => {
                    let (sealer, reply) = self.reply(heard)?;
                    Some((Hand::Data(Box::new(sealer)), reply))
                }
            },
            Hand::Hello(waiting) => {
                let done = waiting.on_accept(&take_frame(heard)?, &self.key, &self.info).ok()?;
                let LinkKeys { traffic, session_ref } = done.keys;
                self.learn(session_ref, traffic, true);
                self.open_control(session_ref, done.finish)
            }
            Hand::Listening(waiting) => {
                let done = waiting.on_finish(&take_frame(heard)?).ok()?;
                self.learn(done.keys.session_ref, done.keys.traffic, false);
                self.try_step(Hand::Opened(done.keys.session_ref), heard, kind, opened)
            }
            Hand::Request(waiting) => {
                let verified = waiting.on_challenge(&take_frame(heard)?, self.code.as_ref()?, &self.key).ok()?;
                let (done, frame) = verified.respond(&self.key, &self.info);
                Some((Hand::Responded(Box::new((done.complete, done.keys))), frame))
            }
            Hand::Responded(done) => {
                let (complete, PairingKeys { root, traffic, session_ref, .. }) = *done;
                complete.on_complete(&take_frame(heard)?).ok().filter(|status| *status == Status::Accepted)?;
                self.root = root;
                self.learn(session_ref, traffic, true);
                self.open_control(session_ref, Vec::new())
            }
            Hand::Initiator(waiting) => {
                let done = waiting.on_response(&take_frame(heard)?, &self.key).ok()?;
                let PairingKeys { root, traffic, session_ref, .. } = done.keys;
                self.root = root;
                self.learn(session_ref, traffic, false);
                Some((Hand::Opened(session_ref), done.completion.seal(Status::Accepted)))
            }
            Hand::Opened(session_ref) => {
                let (sealer, reply) = self.reply(heard)?;
                Some((Hand::Control(session_ref, Box::new(sealer)), reply))
            }
            hand @ (Hand::Control(..) | Hand::Data(_)) => Some((hand, Vec::new())),
        }
    }

    fn learn(&mut self, session: SessionRef, traffic: Traffic, we_opened: bool) {
        let ours = if we_opened { traffic.from_opener } else { traffic.from_answerer };
        self.sessions.insert(session, Session { ours, number: 0 });
    }

    /// Header and Ack behind `before`.
    fn open_control(&self, session_ref: SessionRef, before: Vec<u8>) -> Option<(Hand, Vec<u8>)> {
        let header = Header::new(StreamKind::Control, session_ref, 0, [9; 8]).ok()?;
        let mut sealer = RecordSealer::new(&StreamKey::of_opener(&self.sessions.get(&session_ref)?.ours, &header));
        let record = sealer.seal(RecordType::Opening, &Opening::Ack.encode()).ok()?;
        Some((Hand::Control(session_ref, Box::new(sealer)), [&before[..], &header.encode(), &record].concat()))
    }

    /// The opener's first bytes of a data stream.
    pub(super) fn open_data(&mut self, session_ref: SessionRef, opening: &Opening) -> Option<(Hand, Vec<u8>)> {
        let session = self.sessions.get_mut(&session_ref)?;
        session.number += 1;
        let header = Header::new(opening.kind(), session_ref, session.number, [9; 8]).ok()?;
        let mut sealer = RecordSealer::new(&StreamKey::of_opener(&session.ours, &header));
        let record = sealer.seal(RecordType::Opening, &opening.encode()).ok()?;
        Some((Hand::Data(Box::new(sealer)), [&header.encode()[..], &record].concat()))
    }

    /// Answers the header that was heard.
    fn reply(&self, heard: &mut Vec<u8>) -> Option<(RecordSealer, Vec<u8>)> {
        let header = Header::decode(heard.first_chunk::<HEADER>()?).ok()?;
        heard.clear();
        let reply = [7; REPLY];
        let session = self.sessions.get(&header.session())?;
        Some((RecordSealer::new(&StreamKey::of_answerer(&session.ours, &header, &reply)), reply.to_vec()))
    }
}

/// The body of the frame at the front, taken out.
fn take_frame(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = u32::from_be_bytes(*heard.first_chunk()?) as usize;
    let frame = heard.get(4..4 + len)?.to_vec();
    heard.drain(..4 + len);
    Some(frame)
}

/// The connection as the peer sees it.
fn binding(kind: &TransportKind) -> Binding {
    match kind {
        TransportKind::Tcp => Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: EXPORTER.to_vec() },
        _ => Binding { kind: BindingKind::Sim, own: PEER.to_vec(), remote: NODE.to_vec(), exporter: Vec::new() },
    }
}

/// The same connection as the host tells the Node of it.
pub(super) fn remote(kind: &TransportKind, source: u8) -> protocol_core::effects::Remote {
    let one_stream = *kind == TransportKind::Tcp;
    protocol_core::effects::Remote {
        kind: kind.clone(),
        id: if one_stream { Vec::new() } else { PEER.to_vec() },
        exporter: if one_stream { EXPORTER.to_vec() } else { Vec::new() },
        address: "there:1".into(),
        source: format!("source {}", source % 4),
        one_stream,
    }
}
