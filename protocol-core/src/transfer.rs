//! Transfers (PROTOCOL.md, sections 9.3 to 9.5).

pub mod layout;
pub mod machine;
pub mod manifest;
pub mod path;
pub mod ranges;
pub mod receipt;
