//! The data plane: what worker threads do with chunks, away from the state machine (PROTOCOL.md, sections 9.4 and 9.5).
//!
//! Pure functions on buffers, and one set of claims without locks. All of it is `Send + Sync`.

pub mod chunks;
pub mod cipher;
pub mod digest;
pub mod opener;
pub mod sealer;
