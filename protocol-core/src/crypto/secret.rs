//! Secrets: wiped when dropped, never cloned, printed or compared.

use alloc::vec::Vec;
use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes.
///
/// No `Clone`, no `PartialEq`, and `Debug` prints `[redacted]`: what must be compared is a MAC, and is verified as one.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize = 32>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes the bytes over. The caller's copy, if it keeps one, is the caller's to wipe.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a primitive that needs them or for sealed storage.
    pub const fn bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// A second copy, named so that it is seen in review.
    pub const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

// ID-8.
impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Secret bytes of any length, for records on their way to sealed storage.
///
/// Built once at its final length: a vector that grows leaves copies behind.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for sealing.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
