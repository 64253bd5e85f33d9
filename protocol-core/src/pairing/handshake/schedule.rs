//! Transcript and keys of pairing, value by value (PROTOCOL.md, sections 6.2 and 6.3).

use super::{CheckNumber, PairingKeys};
use crate::crypto::kdf::{expand, hash, mix};
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::handshake::Traffic;
use crate::ids::{PeerKey, SessionId, SessionRef};
use crate::info::Binding;
use crate::wire::handshake::{Challenge, PairingRequest, SUITE};

/// Which of a binding's two ids belongs to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We showed the code.
    Initiator,
    /// We typed it.
    Joiner,
}

/// `th_pro`: what both sides must see alike before anything is sent.
// PAIR-8.
pub fn prologue(session_id: &SessionId, binding: &Binding, role: Role) -> [u8; 32] {
    let (initiator, joiner) = match role {
        Role::Initiator => (&binding.own, &binding.remote),
        Role::Joiner => (&binding.remote, &binding.own),
    };
    let kind = binding.name().as_bytes();
    let exporter = if planted!(ExporterUnbound) { &[] } else { &binding.exporter[..] };
    hash(&[strings::PAIR_PROLOGUE, &SUITE.to_be_bytes(), &session_id.0, kind, initiator, joiner, exporter])
}

/// `th1`: after the request's fields, but for the tag, which is a MAC over this.
pub fn after_request(prologue: &[u8; 32], request: &PairingRequest) -> [u8; 32] {
    mix(prologue, "request", &[&request.commit, &request.exchange, &request.kem[..]])
}

/// `th2`: after the challenge's fields, but for its box.
pub fn after_challenge(th1: &[u8; 32], tag: &[u8; 32], challenge: &Challenge) -> [u8; 32] {
    mix(th1, "challenge", &[tag, &challenge.challenge, &challenge.exchange, &challenge.ciphertext[..]])
}

/// `th3`: after the initiator's box.
pub fn after_challenge_box(th2: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    mix(th2, "challenge box", &[sealed])
}

/// `th4`: after the joiner's box.
pub fn after_response_box(th3: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    mix(th3, "response box", &[sealed])
}

/// What the initiator signs.
pub fn initiator_statement(th2: &[u8; 32], key: &PeerKey, info: &[u8]) -> [u8; 32] {
    mix(th2, "identity", &[&key.0, info])
}

/// What the joiner signs.
pub fn joiner_statement(th3: &[u8; 32], key: &PeerKey, info: &[u8], nonce: &[u8; 32]) -> [u8; 32] {
    mix(th3, "identity", &[&key.0, info, nonce])
}

/// `commit`: what fixes the joiner's nonce.
pub fn commitment(nonce: &Secret) -> [u8; 32] {
    hash(&[strings::COMMIT, nonce.bytes()])
}

/// The keys that are known as soon as both have sent their ephemerals.
#[derive(Debug)]
pub struct HandshakeKeys {
    /// `k_i`: seals the initiator's box, and nothing else.
    pub initiator: Secret,
    /// `k_j`: seals the joiner's box, and nothing else.
    pub joiner: Secret,
    /// What the final keys come from.
    pub main: Secret,
}

impl HandshakeKeys {
    /// From `hs`, which is wiped here.
    pub fn derive(handshake_secret: Secret, th2: &[u8; 32]) -> Self {
        let keys = Self {
            initiator: expand(&handshake_secret, labels::PAIR_KEY_I, &[th2]),
            joiner: expand(&handshake_secret, labels::PAIR_KEY_J, &[th2]),
            main: expand(&handshake_secret, labels::PAIR_MAIN, &[th2]),
        };
        drop(handshake_secret);
        keys
    }
}

/// The final keys, and the key of `box_fin`. `main` is wiped here.
///
/// The check number leaves the joiner's box out on purpose: who stands in the middle chooses that box after having seen the
/// initiator's message, and could try until both numbers agree. The nonce is fixed before, by the commitment.
// PAIR-9.
pub fn finish(main: Secret, th3: &[u8; 32], th4: &[u8; 32], nonce: &[u8; 32]) -> (PairingKeys, Secret) {
    // PAIR-10.
    let check = u64::from_be_bytes(*expand::<8>(&main, labels::PAIR_SAS, &[th3, nonce]).bytes());
    let keys = PairingKeys {
        root: expand(&main, labels::PAIR_ROOT, &[th4]),
        traffic: Traffic {
            from_opener: expand(&main, labels::PAIR_TRAFFIC_J2I, &[th4]),
            from_answerer: expand(&main, labels::PAIR_TRAFFIC_I2J, &[th4]),
        },
        session_ref: SessionRef(*expand::<16>(&main, labels::PAIR_SESSION_REF, &[th4]).bytes()),
        check: CheckNumber(u32::try_from(check % 1_000_000).expect("invariant: a million fits 32 bits")),
    };
    let complete = expand(&main, labels::PAIR_COMPLETE_KEY, &[th4]);
    drop(main);
    (keys, complete)
}
