//! The AEADs of chunks, behind the one cryptographic seam of the core.

use core::fmt;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use crate::crypto::aead::{Forged, TAG};
use crate::info::CAP_AES_256_GCM;

/// Which AEAD a session's chunks have. The number goes into their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 0,
    /// AES-256-GCM: only where both devices have the instructions.
    Aes256Gcm = 1,
}

/// Seals and opens chunks in place.
///
/// The core brings [`RustCrypto`]; a host may bring a faster one, which must give the same bytes.
// DATA-25.
pub trait BulkCipher: Send + Sync + fmt::Debug {
    /// Encrypts `buffer` and returns the tag. `nonce` is used once under `key`.
    fn seal(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG];

    /// Verifies `tag` and decrypts `buffer`.
    ///
    /// # Errors
    /// [`Forged`]; the plaintext is then not in `buffer`, whose content is unspecified.
    fn open(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged>;
}

/// The implementation in pure Rust. Keys are wiped.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustCrypto;

impl BulkCipher for RustCrypto {
    fn seal(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
        let tag = match aead {
            Aead::ChaCha20Poly1305 => {
                ChaCha20Poly1305::new(key.into()).encrypt_inout_detached(nonce.into(), aad, buffer.into()).map(Into::into)
            }
            Aead::Aes256Gcm => Aes256Gcm::new(key.into()).encrypt_inout_detached(nonce.into(), aad, buffer.into()).map(Into::into),
        };
        tag.expect("invariant: a chunk is far below the cipher's length limit")
    }

    fn open(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        match aead {
            Aead::ChaCha20Poly1305 => {
                ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into())
            }
            Aead::Aes256Gcm => Aes256Gcm::new(key.into()).decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into()),
        }
        .map_err(|_| Forged)
    }
}

impl Aead {
    /// What two devices of these capabilities seal chunks with (DATA-20).
    pub const fn of_caps(ours: u64, theirs: u64) -> Self {
        if ours & theirs & CAP_AES_256_GCM == 0 { Self::ChaCha20Poly1305 } else { Self::Aes256Gcm }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::CAP_CHACHA20_POLY1305;

    /// DATA-20.
    #[test]
    fn aes_is_for_two_that_both_have_it() {
        let (plain, fast) = (CAP_CHACHA20_POLY1305, CAP_CHACHA20_POLY1305 | CAP_AES_256_GCM);
        for (ours, theirs, aead) in [
            (plain, plain, Aead::ChaCha20Poly1305),
            (fast, plain, Aead::ChaCha20Poly1305),
            (plain, fast, Aead::ChaCha20Poly1305),
            (fast, fast, Aead::Aes256Gcm),
        ] {
            assert_eq!(Aead::of_caps(ours, theirs), aead);
        }
    }

    #[test]
    fn what_is_sealed_opens_and_nothing_else() {
        for aead in [Aead::ChaCha20Poly1305, Aead::Aes256Gcm] {
            let mut buffer = *b"some content";
            let tag = RustCrypto.seal(aead, &[1; 32], &[2; 12], b"aad", &mut buffer);
            assert_ne!(&buffer, b"some content");
            let sealed = buffer;
            assert_eq!(RustCrypto.open(aead, &[1; 32], &[2; 12], b"aad", &mut buffer, &tag), Ok(()));
            assert_eq!(&buffer, b"some content");
            let other = if aead == Aead::Aes256Gcm { Aead::ChaCha20Poly1305 } else { Aead::Aes256Gcm };
            for (aead, key, nonce, aad) in [
                (other, [1; 32], [2; 12], &b"aad"[..]),
                (aead, [0; 32], [2; 12], b"aad"),
                (aead, [1; 32], [0; 12], b"aad"),
                (aead, [1; 32], [2; 12], b"aae"),
            ] {
                assert_eq!(RustCrypto.open(aead, &key, &nonce, aad, &mut sealed.clone(), &tag), Err(Forged));
            }
        }
    }
}
