//! The cryptographic ground: labels, secrets, the key tree, AEADs, exchange, KEM, signatures. One suite, nothing negotiated.

pub mod aead;
pub mod exchange;
pub mod kdf;
pub mod kem;
pub mod labels;
pub mod secret;
pub mod sign;
