//! What must survive a restart: rows of a key-value store that the host keeps sealed (PROTOCOL.md, section 4.1).

use alloc::vec::Vec;

use crate::crypto::secret::SecretBytes;

/// The table of devices: key = device key (32 bytes), value = one device in CBOR, with its roots.
pub const DEVICES: u8 = 1;

/// One row as the host keeps it.
#[derive(Debug)]
pub struct Record {
    /// Its table.
    pub table: u8,
    /// Its key: not secret.
    pub key: Vec<u8>,
    /// Its value: may hold roots; hosts seal it.
    pub value: SecretBytes,
}

/// One change of a batch.
#[derive(Debug)]
pub struct Change {
    /// The table.
    pub table: u8,
    /// The key.
    pub key: Vec<u8>,
    /// The new value; `None` removes the row.
    pub value: Option<SecretBytes>,
}
