//! X25519, with keys that contribute nothing refused (PROTOCOL.md, section 4).

use core::fmt;

use x25519_dalek::{PublicKey, StaticSecret};

use super::secret::Secret;

/// The secret half of an ephemeral exchange key; wiped when dropped.
pub struct ExchangeSecret(StaticSecret);

impl ExchangeSecret {
    /// The key that 32 random bytes give.
    pub fn new(random: &Secret) -> Self {
        Self(StaticSecret::from(*random.bytes()))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// The shared secret with the owner of `theirs`; `None` if it is all zeros, as every point of low order makes it.
    // ID-2.
    pub fn agree(&self, theirs: &[u8; 32]) -> Option<Secret> {
        let shared = self.0.diffie_hellman(&PublicKey::from(*theirs));
        (shared.was_contributory() || planted!(LowOrderAccepted)).then(|| Secret::new(shared.to_bytes()))
    }
}

impl fmt::Debug for ExchangeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant K6. The points of order 1, 2, 4 and 8, with their non-canonical encodings.
    #[test]
    // ID-2.
    fn points_of_low_order_are_refused() {
        let order_8 = [
            [
                0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb,
                0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
            ],
            [
                0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4,
                0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
            ],
        ];
        let near_p = |last: u8| {
            let mut point = [0xff; 32];
            (point[0], point[31]) = (last, 0x7f);
            point
        };
        let mut one = [0; 32];
        one[0] = 1;
        let own = ExchangeSecret::new(&Secret::new([7; 32]));
        for low in [[0; 32], one, order_8[0], order_8[1], near_p(0xec), near_p(0xed), near_p(0xee)] {
            for high_bit in [0, 0x80] {
                let mut theirs = low;
                theirs[31] |= high_bit;
                assert!(own.agree(&theirs).is_none(), "{theirs:02x?}");
            }
        }
        let other = ExchangeSecret::new(&Secret::new([8; 32]));
        let (here, there) = (own.agree(&other.public()).unwrap(), other.agree(&own.public()).unwrap());
        assert_eq!(here.bytes(), there.bytes());
    }
}
