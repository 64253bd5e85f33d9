//! Transcript and keys of reconnect, value by value (PROTOCOL.md, section 8).

use super::{LinkKeys, ordered_pair};
use crate::crypto::kdf::{expand, hash, mix};
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::handshake::Traffic;
use crate::ids::{PeerKey, SessionRef};
use crate::info::Binding;
use crate::wire::handshake::{Accept, Hello, SUITE};

/// Which of a binding's two ids belongs to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened the stream.
    Dialer,
    /// The peer did.
    Listener,
}

/// The device keys of a reconnect, by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Who opened the stream.
    pub dialer: PeerKey,
    /// Who answers.
    pub listener: PeerKey,
}

impl Pair {
    /// `k_hello`: the key of the tag by which the listener finds the pair.
    pub fn hello_key(&self, root: &Secret) -> Secret {
        expand(root, labels::LINK_HELLO_MAC, &[&ordered_pair(&self.dialer, &self.listener)])
    }

    /// The early secret of the handshake.
    pub fn early(&self, root: &Secret) -> Secret {
        expand(root, labels::LINK_EARLY, &[&ordered_pair(&self.dialer, &self.listener)])
    }
}

/// `th_pro`: what both sides must see alike before anything is sent.
pub fn prologue(binding: &Binding, role: Role) -> [u8; 32] {
    let (dialer, listener) = match role {
        Role::Dialer => (&binding.own, &binding.remote),
        Role::Listener => (&binding.remote, &binding.own),
    };
    hash(&[strings::LINK_PROLOGUE, &SUITE.to_be_bytes(), binding.name().as_bytes(), dialer, listener, &binding.exporter])
}

/// `th1`: after the Hello's fields, but for the tag, which is a MAC over this.
pub fn after_hello(prologue: &[u8; 32], hello: &Hello) -> [u8; 32] {
    mix(prologue, "hello", &[&hello.exchange, &hello.kem[..]])
}

/// `th2`: after both identities and the Accept's fields, but for its box.
pub fn after_accept(th1: &[u8; 32], pair: &Pair, tag: &[u8; 32], accept: &Accept) -> [u8; 32] {
    mix(th1, "accept", &[&pair.dialer.0, &pair.listener.0, tag, &accept.exchange, &accept.ciphertext[..]])
}

/// `th3`: after the listener's box.
pub fn after_accept_box(th2: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    mix(th2, "accept box", &[sealed])
}

/// `th4`: after the dialer's box.
pub fn after_finish_box(th3: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    mix(th3, "finish box", &[sealed])
}

/// What either side signs: the listener over `th2`, the dialer over `th3`.
pub fn statement(transcript: &[u8; 32], params: &[u8]) -> [u8; 32] {
    mix(transcript, "identity", &[params])
}

/// The keys that are known as soon as both have sent their ephemerals.
#[derive(Debug)]
pub struct HandshakeKeys {
    /// `k_l`: seals the listener's box, and nothing else.
    pub listener: Secret,
    /// `k_d`: seals the dialer's box, and nothing else.
    pub dialer: Secret,
    /// What the traffic secrets come from.
    pub main: Secret,
}

impl HandshakeKeys {
    /// From `hs`, which is wiped here.
    pub fn derive(handshake_secret: Secret, th2: &[u8; 32]) -> Self {
        let keys = Self {
            listener: expand(&handshake_secret, labels::LINK_KEY_L, &[th2]),
            dialer: expand(&handshake_secret, labels::LINK_KEY_D, &[th2]),
            main: expand(&handshake_secret, labels::LINK_MAIN, &[th2]),
        };
        drop(handshake_secret);
        keys
    }
}

/// The traffic secrets. `main` is wiped here.
pub fn finish(main: Secret, th4: &[u8; 32]) -> LinkKeys {
    let keys = LinkKeys {
        traffic: Traffic {
            from_opener: expand(&main, labels::LINK_TRAFFIC_D2L, &[th4]),
            from_answerer: expand(&main, labels::LINK_TRAFFIC_L2D, &[th4]),
        },
        session_ref: SessionRef(*expand::<16>(&main, labels::LINK_SESSION_REF, &[th4]).bytes()),
    };
    drop(main);
    keys
}
