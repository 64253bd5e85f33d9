//! ChaCha20-Poly1305 for boxes and records; XChaCha20-Poly1305 for adverts; the padding of boxes.
//!
//! The AEAD of chunks is `bulk::cipher`.

use alloc::vec::Vec;
use core::fmt;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag, XChaCha20Poly1305, XNonce};

use super::secret::Secret;

/// Length of an authentication tag, in bytes.
pub const TAG: usize = 16;

/// What was opened is not what was sealed: wrong key, nonce, associated data, or altered bytes. Nothing more can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

impl fmt::Display for Forged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the authentication tag does not verify")
    }
}

impl core::error::Error for Forged {}

/// Seals `message` under a key that is used for this alone (nonce of zeros).
pub fn seal_once(key: &Secret, message: &[u8], aad: &[u8]) -> Vec<u8> {
    seal_counted(key, [0; 12], message, aad)
}

/// Opens what [`seal_once`] made.
///
/// # Errors
/// [`Forged`].
pub fn open_once(key: &Secret, sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, Forged> {
    let mut buffer = sealed.to_vec();
    let len = open_in_place(key, [0; 12], &mut buffer, aad)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Seals `message` under `nonce`, which must be fresh for the key; the tag stands last.
pub fn seal_counted(key: &Secret, nonce: [u8; 12], message: &[u8], aad: &[u8]) -> Vec<u8> {
    #[cfg(feature = "testing")]
    crate::probe::tell(&crate::probe::AeadUse { opened: false, key: key.bytes(), nonce: &nonce, aad, text: message });
    let mut out = Vec::with_capacity(message.len() + TAG);
    out.extend_from_slice(message);
    let tag = ChaCha20Poly1305::new(&Key::from(*key.bytes()))
        .encrypt_inout_detached(&Nonce::from(nonce), aad, (&mut out[..]).into())
        .expect("invariant: messages are far below the cipher's length limit");
    out.extend_from_slice(&tag);
    out
}

/// Opens ciphertext and tag in place and returns the plaintext's length: it stands at the front of `buffer`.
///
/// # Errors
/// [`Forged`]; the plaintext is then not in `buffer`.
pub fn open_in_place(key: &Secret, nonce: [u8; 12], buffer: &mut [u8], aad: &[u8]) -> Result<usize, Forged> {
    let len = buffer.len().checked_sub(TAG).ok_or(Forged)?;
    let (text, tag) = buffer.split_at_mut(len);
    let tag = Tag::try_from(&*tag).map_err(|_| Forged)?;
    ChaCha20Poly1305::new(&Key::from(*key.bytes()))
        .decrypt_inout_detached(&Nonce::from(nonce), aad, (&mut *text).into(), &tag)
        .map_err(|_| Forged)?;
    #[cfg(feature = "testing")]
    crate::probe::tell(&crate::probe::AeadUse { opened: true, key: key.bytes(), nonce: &nonce, aad, text });
    Ok(len)
}

/// XChaCha20-Poly1305 with a random nonce, for adverts (section 5.1).
pub fn seal_extended(key: &Secret, nonce: &[u8; 24], message: &[u8], aad: &[u8]) -> Vec<u8> {
    let mut out = message.to_vec();
    let tag = XChaCha20Poly1305::new(&Key::from(*key.bytes()))
        .encrypt_inout_detached(&XNonce::from(*nonce), aad, (&mut out[..]).into())
        .expect("invariant: adverts are far below the cipher's length limit");
    out.extend_from_slice(&tag);
    out
}

/// Opens what [`seal_extended`] made.
///
/// # Errors
/// [`Forged`].
pub fn open_extended(key: &Secret, nonce: &[u8; 24], sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, Forged> {
    let mut buffer = sealed.to_vec();
    let len = buffer.len().checked_sub(TAG).ok_or(Forged)?;
    let (text, tag) = buffer.split_at_mut(len);
    let tag = Tag::try_from(&*tag).map_err(|_| Forged)?;
    XChaCha20Poly1305::new(&Key::from(*key.bytes()))
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, text.into(), &tag)
        .map_err(|_| Forged)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// `pad(x, n)`: `x ‖ 0x80 ‖ 0x00*` to the next multiple of `block`.
pub fn pad(mut text: Vec<u8>, block: usize) -> Vec<u8> {
    text.push(0x80);
    text.resize(text.len().next_multiple_of(block), 0);
    text
}

/// Takes [`pad`] away; `None` for any padding that [`pad`] would not have made.
// ID-6.
pub fn unpad(padded: &[u8], block: usize) -> Option<&[u8]> {
    if padded.is_empty() || !padded.len().is_multiple_of(block) {
        return None;
    }
    let end = padded.iter().rposition(|&byte| byte != 0)?;
    (padded[end] == 0x80 && padded.len() - end <= block).then(|| &padded[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    // ID-6.
    fn padding_is_canonical() {
        for len in 0..200 {
            let text = vec![7; len];
            let padded = pad(text.clone(), 64);
            assert_eq!(padded.len(), (len + 1).next_multiple_of(64));
            assert_eq!(unpad(&padded, 64), Some(&text[..]));
            let mut longer = padded.clone();
            longer.extend([0; 64]);
            assert_eq!(unpad(&longer, 64), None, "a whole block of padding too much");
            assert_eq!(unpad(&padded[..padded.len() - 1], 64), None);
        }
        assert_eq!(unpad(&[], 64), None);
        assert_eq!(unpad(&[0; 64], 64), None);
    }

    #[test]
    fn opening_needs_every_bit() {
        let key = Secret::new([3; 32]);
        let sealed = seal_counted(&key, [1; 12], b"text", b"aad");
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_in_place(&key, [1; 12], &mut altered, b"aad"), Err(Forged));
        }
        assert_eq!(open_in_place(&key, [1; 12], &mut [0; 15], b""), Err(Forged));
    }
}
