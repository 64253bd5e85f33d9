//! The devices of this person: who they are, under which roots, and where they were seen.

pub mod device;
pub mod registry;
