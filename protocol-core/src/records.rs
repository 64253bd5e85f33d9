//! What must survive a restart: rows of a key-value store that the host keeps sealed (PROTOCOL.md, section 4.1).

use alloc::vec::Vec;

use crate::crypto::secret::SecretBytes;

/// The table of devices: key = device key (32 bytes), value = one device in CBOR, with its roots.
pub const DEVICES: u8 = 1;

/// The table of messages that wait: key = device key and order (u64), value = one message.
pub const MESSAGES_OUT: u8 = 2;
/// The table of messages that came and were not taken: the same.
pub const MESSAGES_IN: u8 = 3;
/// The table of numbers: key = device key and the name under which messages are numbered (16 bytes), value = the highest that was
/// reserved for ours, or seen of theirs.
pub const MESSAGE_NUMBERS: u8 = 4;
/// The table of what came last: key = device key and slot (u16), value = count, id and what became of it.
pub const MESSAGES_SEEN: u8 = 5;
/// The table of devices that were forgotten: key = device key, value = the keys that tell them so.
pub const TOMBSTONES: u8 = 6;
/// The table of devices that are blocked: key = device key, value = since when, and the name it had.
pub const BLOCKED: u8 = 7;

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
