//! The processor time of one side of a pairing, against the sum of its primitives.
//!
//! ```sh
//! cargo bench -p kin-tests --bench pairing
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use kin_tests::figures::Figure;
use protocol_core::crypto::exchange::ExchangeSecret;
use protocol_core::crypto::kem::{KemSecret, encapsulate};
use protocol_core::crypto::secret::Secret;
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::identity::DeviceKey;
use protocol_core::info::{Binding, BindingKind, DeviceInfo, TransportInfo, TransportKind};
use protocol_core::pairing::code::{CodeKeys, PairingCode};
use protocol_core::pairing::handshake::{JoinerWaiting, ReceivedRequest, Status};

const ROUNDS: usize = 31;
/// Handshakes of one round.
const TIMES: u32 = 20;

/// Different bytes at every draw.
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

fn info(name: &str) -> Vec<u8> {
    let transports =
        vec![TransportInfo { kind: TransportKind::Tcp, id: Vec::new(), addresses: vec!["192.0.2.1:4711".into()], relay: None }];
    DeviceInfo { name: name.into(), os: "linux".into(), app: "kin/1".into(), caps: 1, transports }.encode()
}

fn binding() -> Binding {
    Binding { kind: BindingKind::Tcp, own: Vec::new(), remote: Vec::new(), exporter: vec![6; 32] }
}

/// A handshake; the time that each side worked: the joiner, the initiator. The code's own keys are made before.
fn handshake(code: &CodeKeys, devices: &[DeviceKey; 2], infos: &[Vec<u8>; 2], entropy: &mut Counting) -> [Duration; 2] {
    let [initiator, joiner] = devices;
    let [info_i, info_j] = infos;
    let mut spent = [Duration::ZERO; 2];
    let (waiting, request) = timed(&mut spent[0], || JoinerWaiting::start(code, binding(), entropy).unwrap());
    let (answered, challenge) = timed(&mut spent[1], || {
        let request = ReceivedRequest::decode(&request[4..], code).unwrap().verify(code, binding()).unwrap();
        request.challenge(code, initiator, info_i, entropy).unwrap()
    });
    let (ended, response) = timed(&mut spent[0], || waiting.on_challenge(&challenge[4..], code, joiner).unwrap().respond(joiner, info_j));
    let complete = timed(&mut spent[1], || {
        let verified = answered.on_response(&response[4..], initiator).unwrap();
        black_box(&verified.keys);
        verified.completion.seal(Status::Accepted)
    });
    let status = timed(&mut spent[0], || ended.complete.on_complete(&complete[4..]).unwrap());
    assert_eq!(status, Status::Accepted);
    spent
}

fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    *spent += started.elapsed();
    done
}

/// What each side's primitives take: X25519 pair and agreement, its part of ML-KEM-768, one signature, one verification.
fn primitives(other: &Peer) -> [Duration; 2] {
    let mut spent = [Duration::ZERO; 2];
    let both = || {
        let own = ExchangeSecret::new(black_box(&Secret::new([3; 32])));
        black_box((own.public(), own.agree(&other.exchange)));
        black_box(other.sign.sign(black_box(&[5; 80])));
        let key = VerifyingKey::from_bytes(black_box(&other.verify)).unwrap();
        assert!(!key.is_weak());
        key.verify_strict(&[5; 80], &other.signature).unwrap();
    };
    timed(&mut spent[0], || {
        let own = KemSecret::new(black_box(&Secret::new([4; 64])));
        black_box((own.public(), own.decapsulate(&other.ciphertext)));
        both();
    });
    timed(&mut spent[1], || {
        black_box(encapsulate(&other.kem, black_box(&Secret::new([8; 32]))).unwrap());
        both();
    });
    spent
}

struct Peer {
    exchange: [u8; 32],
    kem: [u8; 1184],
    ciphertext: [u8; 1088],
    sign: SigningKey,
    verify: [u8; 32],
    signature: ed25519_dalek::Signature,
}

impl Peer {
    fn new() -> Self {
        let kem = KemSecret::new(&Secret::new([4; 64])).public();
        let (ciphertext, _) = encapsulate(&kem, &Secret::new([8; 32])).unwrap();
        let sign = SigningKey::from_bytes(&[9; 32]);
        let (verify, signature) = (sign.verifying_key().to_bytes(), sign.sign(&[5; 80]));
        Self { exchange: ExchangeSecret::new(&Secret::new([2; 32])).public(), kem, ciphertext, sign, verify, signature }
    }
}

fn main() {
    let mut entropy = Counting(1);
    let code = CodeKeys::derive(&PairingCode::generate(&mut entropy).unwrap());
    let devices = [1, 2].map(|seed| DeviceKey::from_seed(&Secret::new([seed; 32])));
    let infos = ["initiator", "joiner"].map(info);
    let peer = Peer::new();
    let mut micros = [const { Vec::new() }; 4];
    for _ in 0..=ROUNDS {
        let mut sums = [Duration::ZERO; 4];
        for _ in 0..TIMES {
            let ([a, b], [c, d]) = (handshake(&code, &devices, &infos, &mut entropy), primitives(&peer));
            for (sum, more) in sums.iter_mut().zip([a, b, c, d]) {
                *sum += more;
            }
        }
        for (all, sum) in micros.iter_mut().zip(sums) {
            all.push(sum.as_secs_f64() * 1e6 / f64::from(TIMES));
        }
    }
    println!("| side | handshake, µs | its primitives, µs | ratio |\n| --- | --- | --- | --- |");
    let [joiner, initiator, joiners, initiators] = micros.each_ref().map(|all| &all[1..]);
    for (side, ours, theirs) in [("joiner", joiner, joiners), ("initiator", initiator, initiators)] {
        println!("| {side} | {:.0} | {:.0} | {} |", Figure::of(ours.to_vec()), Figure::of(theirs.to_vec()), Figure::ratio(ours, theirs));
    }
}
