//! `lp`, `H`, `mix`, `extract`, `X` and HMAC as PROTOCOL.md, section 4, writes them.

use alloc::vec::Vec;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::labels::Label;
use super::secret::Secret;

fn length(field: &[u8]) -> [u8; 4] {
    u32::try_from(field.len()).expect("invariant: every hashed field is bounded far below 4 GiB").to_be_bytes()
}

/// Appends `lp(field)`: a 32-bit big-endian length and the field.
pub fn put_lp(to: &mut Vec<u8>, field: &[u8]) {
    to.extend_from_slice(&length(field));
    to.extend_from_slice(field);
}

/// `H(a, b, …)`: SHA-256 over the length-prefixed fields.
pub fn hash(fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(length(field));
        hasher.update(field);
    }
    hasher.finalize().into()
}

/// Plain SHA-256 over the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// `mix(th, L, f…)`: the transcript hash after one more step.
pub fn mix(transcript: &[u8; 32], step: &str, fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(transcript);
    for field in core::iter::once(step.as_bytes()).chain(fields.iter().copied()) {
        hasher.update(length(field));
        hasher.update(field);
    }
    hasher.finalize().into()
}

/// `extract(s, k)`: HKDF-Extract with SHA-256; the salt stands first.
pub fn extract(salt: &[u8], key_material: &[u8]) -> Secret {
    let (prk, _) = Hkdf::<Sha256>::extract(Some(salt), key_material);
    Secret::new(prk.into())
}

/// `X(k, L, c, N)`: HKDF-Expand with SHA-256 under `lp(prefix ‖ L) ‖ lp(c)`. `context` is empty where the text names none.
pub fn expand<const N: usize>(key: &Secret, label: Label, context: &[&[u8]]) -> Secret<N> {
    let hkdf = Hkdf::<Sha256>::from_prk(key.bytes()).expect("invariant: 32 bytes are a PRK of SHA-256");
    let label_len = u32::try_from(label.prefix.len() + label.name.len()).expect("invariant: labels are short").to_be_bytes();
    let context_len =
        u32::try_from(context.iter().map(|part| part.len()).sum::<usize>()).expect("invariant: contexts are short").to_be_bytes();
    let mut info: Vec<&[u8]> = Vec::with_capacity(4 + context.len());
    info.extend([&label_len[..], label.prefix.as_bytes(), label.name.as_bytes(), &context_len[..]]);
    info.extend(context);
    let mut out = [0; N];
    hkdf.expand_multi_info(&info, &mut out).expect("invariant: no key is longer than 255 hashes");
    Secret::new(out)
}

/// HMAC-SHA-256.
pub fn mac(key: &Secret, message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("invariant: HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Whether `tag` is the HMAC-SHA-256 of `message`, in constant time.
// ID-5.
pub fn mac_is(key: &Secret, message: &[u8], tag: &[u8; 32]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("invariant: HMAC takes keys of any length");
    mac.update(message);
    mac.verify_slice(tag).is_ok()
}
