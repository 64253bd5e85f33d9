//! Randomness as the core sees it: bytes that the host brings.

use core::fmt;

/// A source of secret, uniform random bytes.
///
/// An own trait, because the versions of `rand_core` that cryptographic crates expose disagree.
pub trait Entropy {
    /// Fills `bytes` entirely.
    ///
    /// # Errors
    /// [`NoEntropy`] if the source failed. The operation that asked then fails, and nothing is derived from `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy>;
}

/// The random source failed. The machine's fault; the operation can be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system's random source failed")
    }
}

impl core::error::Error for NoEntropy {}

/// `N` fresh random bytes.
///
/// # Errors
/// [`NoEntropy`] if the source failed.
// ID-7.
pub fn random<const N: usize>(entropy: &mut dyn Entropy) -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}
