//! What must survive a restart: rows of a key-value store that the host keeps sealed (PROTOCOL.md, section 4.1).

use alloc::vec::Vec;

/// The table of paired devices: key = device key (32 bytes), value = [`devices::device`](crate::devices) in CBOR.
pub const DEVICES: u8 = 1;
/// A joiner's pending roots: key = session_ref, value as in [`DEVICES`].
pub const PENDING: u8 = 2;

/// One row as the host keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its table.
    pub table: u8,
    /// Its key: not secret.
    pub key: Vec<u8>,
    /// Its value: may hold roots; hosts seal it.
    pub value: Vec<u8>,
}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: u8,
    /// The key.
    pub key: Vec<u8>,
    /// The new value; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Record {{ table: {}, value: [redacted; {}] }}", self.table, self.value.len())
    }
}

impl core::fmt::Debug for Change {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let what = if self.value.is_some() { "put" } else { "remove" };
        write!(f, "Change {{ table: {}, {what} [redacted] }}", self.table)
    }
}
