//! Sessions: the reconnect handshake, the keys of streams, records, the proof of a stream (PROTOCOL.md, sections 8 and 9).

pub mod handshake;
pub mod keys;
pub(crate) mod link;
pub(crate) mod machine;
pub mod reader;
pub mod record;
pub mod rendezvous;
pub mod stream;
pub mod window;
