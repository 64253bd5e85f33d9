//! What a simulator may see and no host ever does: every use of the AEAD of boxes and records on this thread.
//!
//! Compiled with the feature `testing` alone. It changes nothing: it tells a function of the simulator's.

use core::cell::Cell;

use crate::crypto::secret::Secret;

/// The beginning of a secret's hash: equal for equal secrets, and nothing else.
pub type Print = [u8; 8];

pub(crate) fn print(secret: &Secret) -> Print {
    let hash = blake3::hash(secret.bytes());
    core::array::from_fn(|at| hash.as_bytes()[at])
}

/// One use of an AEAD.
#[derive(Clone, Copy, Debug)]
pub struct AeadUse<'a> {
    /// It was opened, and verified; else it was sealed.
    pub opened: bool,
    /// The key.
    pub key: &'a [u8; 32],
    /// The nonce.
    pub nonce: &'a [u8; 12],
    /// The associated data.
    pub aad: &'a [u8],
    /// The plaintext.
    pub text: &'a [u8],
}

std::thread_local! {
    static WATCH: Cell<Option<fn(&AeadUse<'_>)>> = const { Cell::new(None) };
}

/// From now on this function hears of every use on this thread.
pub fn watch(hears: Option<fn(&AeadUse<'_>)>) {
    WATCH.set(hears);
}

pub(crate) fn tell(used: &AeadUse<'_>) {
    if let Some(hears) = WATCH.get() {
        hears(used);
    }
}
