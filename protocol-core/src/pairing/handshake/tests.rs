use super::schedule::{HandshakeKeys, Role};
use super::*;
use crate::crypto::aead::{pad, seal_once};
use crate::crypto::kdf::mac;
use crate::crypto::labels::strings;
use crate::entropy::{Entropy, NoEntropy};
use crate::handshake::{Answer, Refusal, seal_box};
use crate::identity::DeviceKey;
use crate::ids::PeerKey;
use crate::info::{Binding, BindingKind, DeviceInfo, TransportInfo, TransportKind};
use crate::pairing::code::{CodeKeys, PairingCode};
use crate::wire::cbor::Malformed;
use crate::wire::handshake::{BadFrame, Challenge, Complete, PairingRequest, Response};
use std::borrow::ToOwned as _;
use std::boxed::Box;
use std::format;
use std::string::ToString as _;
use std::vec;
use std::vec::Vec;

/// Key generation is slow without optimisation.
const STEP: usize = if cfg!(debug_assertions) { 101 } else { 1 };

/// Different bytes at every draw, the same in every run.
struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_be_bytes()[0];
        }
        Ok(())
    }
}

struct Broken;

impl Entropy for Broken {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), NoEntropy> {
        Err(NoEntropy)
    }
}

fn info(name: &str, id: &[u8]) -> Vec<u8> {
    let transports = vec![TransportInfo { kind: TransportKind::Sim, id: id.to_vec(), addresses: Vec::new(), relay: None }];
    DeviceInfo { name: name.to_owned(), os: "linux".to_owned(), app: "kin/1".to_owned(), caps: 1, transports }.encode()
}

struct Stage {
    keys: CodeKeys,
    initiator: DeviceKey,
    joiner: DeviceKey,
    info_i: Vec<u8>,
    info_j: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        Self {
            keys: CodeKeys::derive(&PairingCode::generate(&mut Counting(1)).unwrap()),
            initiator: DeviceKey::from_seed(&Secret::new([1; 32])),
            joiner: DeviceKey::from_seed(&Secret::new([2; 32])),
            info_i: info("initiator", b"transport i"),
            info_j: info("joiner", b"transport j"),
        }
    }

    fn binding(role: Role) -> Binding {
        let (own, remote) = match role {
            Role::Initiator => (b"transport i", b"transport j"),
            Role::Joiner => (b"transport j", b"transport i"),
        };
        Binding { kind: BindingKind::Sim, own: own.to_vec(), remote: remote.to_vec(), exporter: Vec::new() }
    }

    fn start(&self) -> (JoinerWaiting, Vec<u8>) {
        JoinerWaiting::start(&self.keys, Self::binding(Role::Joiner), &mut Counting(2)).unwrap()
    }

    fn verify(&self, body: &[u8]) -> Result<VerifiedRequest, Refusal> {
        ReceivedRequest::decode(body, &self.keys)?.verify(&self.keys, Self::binding(Role::Initiator))
    }

    fn challenge(&self, body: &[u8]) -> Result<(InitiatorWaiting, Vec<u8>), Refusal> {
        self.verify(body)?.challenge(&self.keys, &self.initiator, &self.info_i, &mut Counting(3))
    }

    fn on_challenge(&self, body: &[u8]) -> Result<JoinerVerified, Refusal> {
        self.start().0.on_challenge(body, &self.keys, &self.joiner)
    }

    /// A request with chosen parts and a right tag, as someone who has the code can make.
    fn forged_request(&self, change: impl Fn(&mut PairingRequest)) -> Vec<u8> {
        let mut request = PairingRequest::decode(&self.start().1[4..]).unwrap();
        change(&mut request);
        let prologue = schedule::prologue(&self.keys.session_id, &Self::binding(Role::Initiator), Role::Initiator);
        request.tag = mac(&self.keys.request_mac, &schedule::after_request(&prologue, &request));
        request.encode()
    }

    /// A challenge with a box that someone who has the code can make.
    fn forged_challenge(&self, seal: impl Fn(&HandshakeKeys, &[u8; 32]) -> Vec<u8>) -> Vec<u8> {
        let request = PairingRequest::decode(&self.start().1[4..]).unwrap();
        let (exchange, message) = (Secret::new([8; 32]), Secret::new([9; 32]));
        let answer = Answer::new(&self.keys.early, &request.exchange, &request.kem, &exchange, &message).unwrap();
        let ciphertext = Box::new(answer.ciphertext);
        let mut challenge = Challenge { challenge: [7; 32], exchange: answer.exchange_public, ciphertext, sealed: Vec::new() };
        let prologue = schedule::prologue(&self.keys.session_id, &Self::binding(Role::Joiner), Role::Joiner);
        let th2 = schedule::after_challenge(&schedule::after_request(&prologue, &request), &request.tag, &challenge);
        challenge.sealed = seal(&HandshakeKeys::derive(answer.handshake_secret, &th2), &th2);
        challenge.encode()
    }
}

fn signed(key: &DeviceKey, info: &[u8], th2: &[u8; 32]) -> [u8; 64] {
    key.sign(strings::SIGN_INITIATOR, &schedule::initiator_statement(th2, &key.public(), info))
}

/// Invariant K1: both sides have the same keys, the two directions differ, and each knows who the other is.
#[test]
fn an_honest_run_agrees_on_everything() {
    let stage = Stage::new();
    let (waiting, frame1) = stage.start();
    let (initiator, frame2) = stage.challenge(&frame1[4..]).unwrap();
    let verified = waiting.on_challenge(&frame2[4..], &stage.keys, &stage.joiner).unwrap();
    assert_eq!(verified.peer().key, stage.initiator.public());
    let (joiner, frame3) = verified.respond(&stage.joiner, &stage.info_j);
    let initiator = initiator.on_response(&frame3[4..], &stage.initiator).unwrap();
    assert_eq!((frame1.len(), frame2.len(), frame3.len()), (1314, 1696, 537));
    assert_eq!((joiner.peer.key, &joiner.peer.info_bytes), (stage.initiator.public(), &stage.info_i));
    assert_eq!((initiator.peer.key, &initiator.peer.info_bytes), (stage.joiner.public(), &stage.info_j));
    assert_eq!(initiator.peer.info.name, "joiner");
    let (i, j) = (&initiator.keys, &joiner.keys);
    assert_eq!(i.root.bytes(), j.root.bytes());
    assert_eq!(i.traffic.from_opener.bytes(), j.traffic.from_opener.bytes());
    assert_eq!(i.traffic.from_answerer.bytes(), j.traffic.from_answerer.bytes());
    assert_ne!(i.traffic.from_opener.bytes(), i.traffic.from_answerer.bytes());
    assert_eq!((i.session_ref, i.check), (j.session_ref, j.check));
    let shown = i.check.to_string();
    assert_eq!(shown.replace(' ', "").parse(), Ok(i.check.value()), "{shown}");
    assert_eq!(shown.len(), 7);
    let frame4 = initiator.completion.seal(Status::Policy);
    assert_eq!(frame4.len(), 88);
    assert_eq!(joiner.complete.on_complete(&frame4[4..]), Ok(Status::Policy));
}

/// Invariant K2: two runs under one code share no key.
#[test]
// PAIR-6.
fn another_run_has_other_keys() {
    let stage = Stage::new();
    let run = |seed| {
        let (waiting, frame1) = JoinerWaiting::start(&stage.keys, Stage::binding(Role::Joiner), &mut Counting(seed)).unwrap();
        let (_, frame2) = stage.challenge(&frame1[4..]).unwrap();
        waiting.on_challenge(&frame2[4..], &stage.keys, &stage.joiner).unwrap().respond(&stage.joiner, &stage.info_j).0.keys
    };
    let (one, two) = (run(20), run(21));
    assert_ne!(one.root.bytes(), two.root.bytes());
    assert_ne!(one.traffic.from_opener.bytes(), two.traffic.from_opener.bytes());
    assert_ne!(one.session_ref, two.session_ref);
}

/// Invariant K3: no altered bit of the request gets past the tag.
#[test]
// ID-5.
fn every_bit_of_the_request_counts() {
    let stage = Stage::new();
    let body = &stage.start().1[4..];
    for bit in 0..body.len() * 8 {
        let mut altered = body.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let refusal = stage.verify(&altered).expect_err("an altered request");
        assert!(refusal.before_tag(), "bit {bit}: {refusal:?}");
    }
}

/// Invariant K3: every bit in an optimised build, else a sample that meets every position in a byte.
#[test]
// PAIR-46.
fn every_bit_of_the_challenge_counts() {
    let stage = Stage::new();
    let body = &stage.challenge(&stage.start().1[4..]).unwrap().1[4..];
    for bit in (0..body.len() * 8).step_by(STEP) {
        let mut altered = body.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let refusal = stage.on_challenge(&altered).expect_err("an altered challenge");
        assert!(matches!(refusal, Refusal::Frame(_) | Refusal::Box), "bit {bit}: {refusal:?}");
    }
}

/// Invariant K3: every bit in an optimised build, else a sample that meets every position in a byte.
#[test]
fn every_bit_of_the_response_counts() {
    let stage = Stage::new();
    let frame1 = stage.start().1;
    let frame2 = stage.challenge(&frame1[4..]).unwrap().1;
    let (joiner, frame3) = stage.on_challenge(&frame2[4..]).unwrap().respond(&stage.joiner, &stage.info_j);
    let body = &frame3[4..];
    for bit in (0..body.len() * 8).step_by(STEP) {
        let mut altered = body.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let (waiting, _) = stage.challenge(&frame1[4..]).unwrap();
        let refusal = waiting.on_response(&altered, &stage.initiator).expect_err("an altered response");
        assert!(matches!(refusal, Refusal::Frame(_) | Refusal::Box), "bit {bit}: {refusal:?}");
    }
    drop(joiner);
}

/// Invariant K3: either side's view of kind, ids or exporter.
#[test]
// PAIR-8.
fn both_must_see_the_same_connection() {
    let stage = Stage::new();
    let frame1 = stage.start().1;
    let tamper: [fn(&mut Binding); 4] = [
        |binding| binding.kind = BindingKind::Libp2p,
        |binding| binding.own[0] ^= 1,
        |binding| binding.remote[0] ^= 1,
        |binding| binding.exporter.push(0),
    ];
    for change in tamper {
        let mut binding = Stage::binding(Role::Initiator);
        change(&mut binding);
        let request = ReceivedRequest::decode(&frame1[4..], &stage.keys).unwrap();
        assert_eq!(request.verify(&stage.keys, binding).map(drop), Err(Refusal::Tag));
    }
}

#[test]
fn another_code_is_refused_before_the_tag() {
    let stage = Stage::new();
    let other = CodeKeys::derive(&PairingCode::generate(&mut Counting(99)).unwrap());
    let (_, frame) = JoinerWaiting::start(&other, Stage::binding(Role::Joiner), &mut Counting(2)).unwrap();
    assert_eq!(stage.verify(&frame[4..]).map(drop), Err(Refusal::SessionId));
    let claims = CodeKeys { session_id: stage.keys.session_id, ..other };
    let (_, frame) = JoinerWaiting::start(&claims, Stage::binding(Role::Joiner), &mut Counting(2)).unwrap();
    assert_eq!(stage.verify(&frame[4..]).map(drop), Err(Refusal::Tag));
}

/// Invariant K6, from someone who has the code.
#[test]
fn bad_keys_are_failures_past_the_tag() {
    let stage = Stage::new();
    let mut one = [0; 32];
    one[0] = 1;
    for low in [[0; 32], one] {
        let request = stage.forged_request(|request| request.exchange = low);
        assert_eq!(stage.challenge(&request).map(drop), Err(Refusal::LowOrder));
    }
    let request = stage.forged_request(|request| request.kem[..2].fill(0xff));
    let refusal = stage.challenge(&request).map(drop).unwrap_err();
    assert!(refusal == Refusal::KemKey && refusal.past_tag());
    let good = stage.forged_request(|_| {});
    assert!(stage.challenge(&good).is_ok());
    let verified = stage.verify(&good).unwrap();
    assert_eq!(verified.challenge(&stage.keys, &stage.initiator, &stage.info_i, &mut Broken).map(drop), Err(Refusal::NoEntropy));
}

/// What the holder of the code may put into a box, the joiner checks on its own.
#[test]
// PAIR-20, PAIR-21, PAIR-26.
fn a_box_that_opens_is_still_checked() {
    let stage = Stage::new();
    let initiator = &stage.initiator;
    let outcome = |fields: &dyn Fn(&[u8; 32]) -> Vec<Vec<u8>>| {
        let body = stage.forged_challenge(|keys, th2| {
            let fields = fields(th2);
            seal_box(&keys.initiator, &fields.iter().map(Vec::as_slice).collect::<Vec<_>>(), th2)
        });
        stage.on_challenge(&body).map(drop)
    };
    let with_info = |info: &[u8]| outcome(&|th2| vec![initiator.public().0.to_vec(), signed(initiator, info, th2).to_vec(), info.to_vec()]);
    assert_eq!(with_info(&stage.info_i), Ok(()));
    assert_eq!(with_info(&info("initiator", b"transport x")), Err(Refusal::TransportNotListed));
    assert_eq!(with_info(b"no info"), Err(Refusal::Info(Malformed::Truncated)));
    assert_eq!(with_info(&[stage.info_i.as_slice(), &[0]].concat()), Err(Refusal::Info(Malformed::Trailing)));
    assert_eq!(with_info(&[]), Err(Refusal::Info(Malformed::Truncated)));
    let own =
        |th2: &[u8; 32]| vec![stage.joiner.public().0.to_vec(), signed(&stage.joiner, &stage.info_i, th2).to_vec(), stage.info_i.clone()];
    assert_eq!(outcome(&own), Err(Refusal::SelfPairing));
    let mut identity = [0; 32];
    identity[0] = 1;
    assert_eq!(outcome(&|_| vec![identity.to_vec(), vec![0; 64], stage.info_i.clone()]), Err(Refusal::WeakKey));
    let lengths: [fn(&mut Vec<Vec<u8>>); 5] = [
        |fields| fields[0].truncate(31),
        |fields| fields[1].push(0),
        |fields| fields.truncate(2),
        |fields| fields.push(Vec::new()),
        |fields| fields.clear(),
    ];
    for change in lengths {
        let changed = |th2: &[u8; 32]| {
            let mut fields = own(th2);
            change(&mut fields);
            fields
        };
        assert_eq!(outcome(&changed), Err(Refusal::Structure));
    }
    // A signature of the other role, of another key, and over another transcript.
    let signature = |signature: [u8; 64]| outcome(&|_| vec![initiator.public().0.to_vec(), signature.to_vec(), stage.info_i.clone()]);
    assert_eq!(signature(signed(initiator, &stage.info_i, &[0; 32])), Err(Refusal::Signature));
    let role = |th2: &[u8; 32]| {
        let statement = schedule::initiator_statement(th2, &initiator.public(), &stage.info_i);
        vec![initiator.public().0.to_vec(), initiator.sign(strings::SIGN_JOINER, &statement).to_vec(), stage.info_i.clone()]
    };
    assert_eq!(outcome(&role), Err(Refusal::Signature));
    let stolen = |th2: &[u8; 32]| vec![PeerKey([3; 32]).0.to_vec(), signed(initiator, &stage.info_i, th2).to_vec(), stage.info_i.clone()];
    assert!(matches!(outcome(&stolen), Err(Refusal::Signature | Refusal::WeakKey)));
}

#[test]
fn only_a_known_status_completes() {
    let stage = Stage::new();
    let (_, frame1) = stage.start();
    let (_, frame2) = stage.challenge(&frame1[4..]).unwrap();
    let complete = |make: &dyn Fn(&Completion) -> Vec<u8>| {
        let (joiner, frame3) = stage.on_challenge(&frame2[4..]).unwrap().respond(&stage.joiner, &stage.info_j);
        let (waiting, _) = stage.challenge(&frame1[4..]).unwrap();
        let completion = waiting.on_response(&frame3[4..], &stage.initiator).unwrap().completion;
        joiner.complete.on_complete(&Complete { sealed: make(&completion) }.encode())
    };
    let sealed = |text: &[u8], completion: &Completion| completion.seal_for_test(text);
    for code in 0..=255 {
        let expected = Status::from_code(code).ok_or(Refusal::Status);
        assert_eq!(expected.map(Status::code), if code < 4 { Ok(code) } else { Err(Refusal::Status) });
    }
    assert_eq!(complete(&|completion| sealed(&pad(vec![0], 64), completion)), Ok(Status::Accepted));
    assert_eq!(complete(&|completion| sealed(&pad(vec![4], 64), completion)), Err(Refusal::Status));
    assert_eq!(complete(&|completion| sealed(&pad(vec![], 64), completion)), Err(Refusal::Structure));
    assert_eq!(complete(&|completion| sealed(&pad(vec![0, 0], 64), completion)), Err(Refusal::Structure));
    assert_eq!(complete(&|completion| sealed(&[0], completion)), Err(Refusal::Padding));
    assert_eq!(complete(&|_| seal_once(&Secret::new([0; 32]), &pad(vec![0], 64), &[0; 32])), Err(Refusal::Box));
}

/// A message of the other role, or of another step, is none.
#[test]
// PAIR-7.
fn messages_of_other_steps_are_refused() {
    let stage = Stage::new();
    let (_, frame1) = stage.start();
    let (waiting, frame2) = stage.challenge(&frame1[4..]).unwrap();
    let response = Response { sealed: vec![0; 528] }.encode();
    assert_eq!(stage.verify(&frame2[4..]).map(drop), Err(Refusal::First(BadFrame::Malformed(Malformed::Bounds))));
    assert_eq!(stage.verify(&response).map(drop), Err(Refusal::First(BadFrame::Kind)));
    assert_eq!(stage.on_challenge(&frame1[4..]).map(drop), Err(Refusal::Frame(BadFrame::Kind)));
    assert_eq!(stage.on_challenge(&response).map(drop), Err(Refusal::Frame(BadFrame::Kind)));
    assert_eq!(waiting.on_response(&frame2[4..], &stage.initiator).map(drop), Err(Refusal::Frame(BadFrame::Kind)));
}

/// Invariant S3: a longer name does not make a longer frame. Invariant S4: nothing secret is printed.
#[test]
// PAIR-12.
fn neither_lengths_nor_printing_tell_anything() {
    let mut stage = Stage::new();
    let (waiting, frame1) = stage.start();
    let short = stage.challenge(&frame1[4..]).unwrap().1.len();
    stage.info_i = info(&"n".repeat(64), b"transport i");
    let (initiator, long) = stage.challenge(&frame1[4..]).unwrap();
    assert_eq!(short, long.len());
    let shown = format!("{waiting:?} {initiator:?}");
    for name in ["nonce: [redacted]", "exchange: [redacted]", "kem: [redacted]", "opens: [redacted]", "main: [redacted]"] {
        assert!(shown.contains(name), "{shown}");
    }
}
