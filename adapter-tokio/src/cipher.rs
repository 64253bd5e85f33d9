//! The bulk cipher of the host: ring, in place. It needs no processor flags at build time, unlike the core's own.

use core::fmt;

use protocol_core::bulk::cipher::{Aead, BulkCipher, RustCrypto};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// The tag is not that of this key, nonce, associated data and ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

impl fmt::Display for Forged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not sealed by this key")
    }
}

impl core::error::Error for Forged {}

/// ring never wipes a key's context, so it lives for one call only.
fn context(aes: bool, key: &[u8; 32]) -> LessSafeKey {
    let algorithm = if aes { &AES_256_GCM } else { &CHACHA20_POLY1305 };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("invariant: both algorithms take keys of 32 bytes"))
}

/// Seals `buffer` in place with AES-256-GCM (`aes`) or ChaCha20-Poly1305, and returns the tag.
///
/// `buffer` must be shorter than 2^36 bytes, which every chunk is.
pub fn seal(aes: bool, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; 16] {
    let tag = context(aes, key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), buffer)
        .expect("invariant: a buffer in memory is shorter than the cipher's limit");
    let mut bytes = [0; 16];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Opens `buffer` in place.
///
/// # Errors
/// [`Forged`] if the tag does not fit; the contents of `buffer` are then unspecified.
pub fn open(aes: bool, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8; 16]) -> Result<(), Forged> {
    context(aes, key)
        .open_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), Tag::from(*tag), buffer, 0..)
        .map(|_| ())
        .map_err(|_| Forged)
}

/// ring as the core's bulk cipher.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

impl BulkCipher for Ring {
    fn seal(&self, aead: Aead, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) -> [u8; 16] {
        seal(aead == Aead::Aes256Gcm, key, nonce, aad, buffer)
    }

    fn open(
        &self,
        aead: Aead,
        key: &[u8; 32],
        nonce: &[u8; 12],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), protocol_core::crypto::aead::Forged> {
        open(aead == Aead::Aes256Gcm, key, nonce, aad, buffer, tag).map_err(|Forged| protocol_core::crypto::aead::Forged)
    }
}

/// Known answers, and equal bytes with the core's own implementation: whether chunks may be sealed on this machine.
pub fn self_test() -> bool {
    // Test case 14 of the GCM specification.
    let mut zeros = [0; 16];
    let tag = seal(true, &[0; 32], &[0; 12], b"", &mut zeros);
    let known = zeros == 0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18_u128.to_be_bytes()
        && tag == 0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919_u128.to_be_bytes();
    known
        && [Aead::ChaCha20Poly1305, Aead::Aes256Gcm].into_iter().all(|aead| {
            let (key, nonce, text) = ([7; 32], [9; 12], [3; 1000]);
            let (mut ours, mut theirs) = (text, text);
            let tag = Ring.seal(aead, &key, &nonce, b"aad", &mut ours);
            tag == RustCrypto.seal(aead, &key, &nonce, b"aad", &mut theirs)
                && ours == theirs
                && Ring.open(aead, &key, &nonce, b"aad", &mut ours, &tag).is_ok()
                && ours == text
        })
}

/// Whether the processor has the instructions that make AES-256-GCM fast.
pub fn has_aes_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests;
