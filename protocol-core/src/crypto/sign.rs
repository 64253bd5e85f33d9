//! Ed25519 over a label and a hash, strictly verified (PROTOCOL.md, sections 4 and 6.4).
//!
//! Whatever is signed begins with one of our own labels and goes on with a hash that we computed, so no peer can make us sign
//! bytes that mean something elsewhere.

use alloc::vec::Vec;
use core::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey};

use super::secret::Secret;
use crate::ids::PeerKey;

/// Length of a signature, in bytes.
pub const SIGNATURE: usize = 64;

/// An Ed25519 key that signs; wiped when dropped.
pub struct SignSecret(SigningKey);

impl SignSecret {
    /// The key of a 32-byte seed.
    pub fn new(seed: &Secret) -> Self {
        Self(SigningKey::from_bytes(seed.bytes()))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs `label ‖ 0x00 ‖ hash`.
    pub(crate) fn sign(&self, label: &[u8], hash: &[u8; 32]) -> [u8; SIGNATURE] {
        self.0.sign(&message(label, hash)).to_bytes()
    }
}

impl fmt::Debug for SignSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A peer's key that is a point of the curve, and not one of the few under which anything verifies.
#[derive(Clone, Debug)]
pub struct VerifyKey(VerifyingKey);

impl VerifyKey {
    /// `None` if `key` is no point, or a weak one.
    pub fn new(key: &PeerKey) -> Option<Self> {
        VerifyingKey::from_bytes(&key.0).ok().filter(|key| !key.is_weak() || planted!(WeakKeyAccepted)).map(Self)
    }

    /// Whether `signature` is this key's over `label ‖ 0x00 ‖ hash`. Neither a non-canonical S nor a small-order R passes.
    // ID-3.
    pub fn verify(&self, label: &[u8], hash: &[u8; 32], signature: &[u8; SIGNATURE]) -> bool {
        let (message, signature) = (message(label, hash), Signature::from_bytes(signature));
        self.0.verify_strict(&message, &signature).is_ok() || (planted!(WeakKeyAccepted) && self.0.verify(&message, &signature).is_ok())
    }
}

fn message(label: &[u8], hash: &[u8; 32]) -> Vec<u8> {
    let mut message = Vec::with_capacity(label.len() + 33);
    message.extend_from_slice(label);
    message.push(0);
    message.extend_from_slice(hash);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant K6: the points of small order, with non-canonical encodings, and what is no point.
    #[test]
    fn weak_keys_are_refused() {
        let order_8 = [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3,
            0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ];
        let order_8_other = [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c,
            0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ];
        let near_p = |first: u8| {
            let mut point = [0xff; 32];
            (point[0], point[31]) = (first, 0x7f);
            point
        };
        let mut identity = [0; 32];
        identity[0] = 1;
        for weak in [[0; 32], identity, order_8, order_8_other, near_p(0xec), near_p(0xed), near_p(0xee)] {
            for sign in [0, 0x80] {
                let mut key = weak;
                key[31] |= sign;
                assert!(VerifyKey::new(&PeerKey(key)).is_none(), "{key:02x?}");
            }
        }
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert!(VerifyKey::new(&PeerKey(no_point)).is_none(), "2 is the y of no point");
    }

    /// Invariant K6: S and S + L verify alike in a lax implementation.
    #[test]
    // ID-3.
    fn only_the_canonical_signature_verifies() {
        let key = SignSecret::new(&Secret::new([5; 32]));
        let verify = VerifyKey::new(&PeerKey(key.public())).unwrap();
        let good = key.sign(b"label", &[9; 32]);
        assert!(verify.verify(b"label", &[9; 32], &good));
        assert!(!verify.verify(b"other", &[9; 32], &good));
        assert!(!verify.verify(b"label", &[8; 32], &good));
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0x10,
        ];
        let mut shifted = good;
        let mut carry = 0;
        for (byte, add) in shifted[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!(carry, 0);
        assert!(!verify.verify(b"label", &[9; 32], &shifted), "S + L");
        for bit in 0..512 {
            let mut altered = good;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify.verify(b"label", &[9; 32], &altered), "bit {bit}");
        }
    }
}
