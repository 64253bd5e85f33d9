//! Sessions: the reconnect handshake, the keys of streams, records, the proof of a stream (PROTOCOL.md, sections 8 and 9).

pub mod keys;
pub mod record;
pub mod stream;
pub mod window;
