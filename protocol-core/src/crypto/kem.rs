//! ML-KEM-768 with our own entropy, and the modulus check of FIPS 203.

use alloc::boxed::Box;
use core::fmt;

use ml_kem::{Decapsulate as _, KeyExport as _, ml_kem_768};
use zeroize::Zeroize as _;

use super::secret::Secret;

/// Length of an encapsulation key, in bytes.
pub const PUBLIC_KEY: usize = 1184;
/// Length of a ciphertext, in bytes.
pub const CIPHERTEXT: usize = 1088;

/// The bytes are no encapsulation key: a coefficient is not reduced. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an ML-KEM key")
    }
}

impl core::error::Error for BadKey {}

/// The secret half of an ephemeral ML-KEM-768 key; wiped when dropped.
pub struct KemSecret(Box<ml_kem_768::DecapsulationKey>);

impl KemSecret {
    /// The key that 64 random bytes (FIPS 203's `d ‖ z`) give.
    pub fn new(random: &Secret<64>) -> Self {
        let mut seed = ml_kem::Seed::from(*random.bytes());
        let key = Self(Box::new(ml_kem_768::DecapsulationKey::from_seed(seed)));
        seed.zeroize();
        key
    }

    /// The encapsulation key.
    pub fn public(&self) -> [u8; PUBLIC_KEY] {
        self.0.encapsulation_key().to_bytes().into()
    }

    /// The shared secret in `ciphertext`. Never fails: an altered ciphertext gives a secret that nobody else has.
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT]) -> Secret {
        let mut shared = self.0.decapsulate(&ml_kem_768::Ciphertext::from(*ciphertext));
        let secret = Secret::new(shared.into());
        shared.zeroize();
        secret
    }
}

impl fmt::Debug for KemSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Encapsulates 32 random bytes to `public`: the ciphertext and the shared secret.
///
/// # Errors
/// [`BadKey`] if `public` is not reduced.
// ID-4.
pub fn encapsulate(public: &[u8; PUBLIC_KEY], random: &Secret) -> Result<([u8; CIPHERTEXT], Secret), BadKey> {
    let key = ml_kem_768::EncapsulationKey::new(&(*public).into()).map_err(|_| BadKey)?;
    let mut message = ml_kem::B32::from(*random.bytes());
    let (ciphertext, mut shared) = key.encapsulate_deterministic(&message);
    message.zeroize();
    let secret = Secret::new(shared.into());
    shared.zeroize();
    Ok((ciphertext.into(), secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_share_a_secret_and_an_altered_ciphertext_gives_another() {
        let own = KemSecret::new(&Secret::new([1; 64]));
        let (mut ciphertext, shared) = encapsulate(&own.public(), &Secret::new([2; 32])).unwrap();
        assert_eq!(own.decapsulate(&ciphertext).bytes(), shared.bytes());
        ciphertext[500] ^= 1;
        assert_ne!(own.decapsulate(&ciphertext).bytes(), shared.bytes());
    }

    /// Invariant K6: each of the 768 coefficients (12 bits) must be below 3329.
    #[test]
    // ID-4.
    fn unreduced_keys_are_refused() {
        let public = KemSecret::new(&Secret::new([1; 64])).public();
        for coefficient in [0, 1, 400, 766, 767] {
            for (value, accepted) in [(3328_u16, true), (3329, false), (4095, false)] {
                let mut altered = public;
                let at = coefficient / 2 * 3;
                if coefficient % 2 == 0 {
                    altered[at] = value.to_le_bytes()[0];
                    altered[at + 1] = altered[at + 1] & 0xf0 | value.to_le_bytes()[1];
                } else {
                    altered[at + 1] = altered[at + 1] & 0x0f | (value << 4).to_le_bytes()[0];
                    altered[at + 2] = (value >> 4).to_le_bytes()[0];
                }
                assert_eq!(encapsulate(&altered, &Secret::new([2; 32])).is_ok(), accepted, "{value} at {coefficient}");
            }
        }
    }
}
