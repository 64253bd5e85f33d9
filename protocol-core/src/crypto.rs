//! The cryptographic ground: labels, secrets, the key tree, AEADs. One suite, nothing negotiated.

pub mod aead;
pub mod kdf;
pub mod labels;
pub mod secret;
