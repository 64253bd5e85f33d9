//! What crosses a stream: the deframer that cuts bytes into frames, and the CBOR bodies of every message.

pub mod cbor;
pub mod control;
pub mod deframer;
pub(crate) mod encode;
pub mod handshake;
pub mod header;
