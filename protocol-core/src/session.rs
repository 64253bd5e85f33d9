//! Sessions of paired devices (PROTOCOL.md, sections 8 and 9).

pub mod handshake;
pub mod rendezvous;
