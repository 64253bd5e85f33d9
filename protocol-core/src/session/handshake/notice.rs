//! The notice that a device gives, once it has forgotten a pairing, to the peer that still dials (PROTOCOL.md, section 10).

use alloc::vec::Vec;

use super::ordered_pair;
use crate::crypto::kdf::{expand, mac, mac_is};
use crate::crypto::labels;
use crate::crypto::secret::Secret;
use crate::ids::PeerKey;
use crate::wire::handshake::{Notice, frame};

/// `k_notice` of the device `from` for its former peer `to`. Derived while the root is still there, and kept in the tombstone.
pub fn key(root: &Secret, from: &PeerKey, to: &PeerKey) -> Secret {
    expand(root, labels::LINK_UNPAIR_NOTICE, &[&ordered_pair(from, to)])
}

/// The answer to the Hello with this `th1`: the whole frame.
pub fn notice_frame(key: &Secret, th1: &[u8; 32]) -> Vec<u8> {
    frame(&Notice { mac: mac(key, th1) }.encode())
}

/// Whether `body` is the notice for the Hello with this `th1`.
pub fn verify(key: &Secret, th1: &[u8; 32], body: &[u8]) -> bool {
    Notice::decode(body).is_ok_and(|notice| mac_is(key, th1, &notice.mac))
}
