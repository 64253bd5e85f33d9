//! The bulk cipher of the host: ring, in place. It needs no processor flags at build time, unlike the core's own.

use core::fmt;

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

#[cfg(test)]
mod tests;
