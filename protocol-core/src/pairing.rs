//! Pairing: a code of twelve words makes two devices trust each other (PROTOCOL.md, sections 5 and 6).

pub mod advertisement;
pub mod code;
pub mod handshake;
