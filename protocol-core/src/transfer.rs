//! Transfers (PROTOCOL.md, sections 9.3 to 9.5).

pub mod manifest;
