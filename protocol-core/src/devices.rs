//! The devices of this person: who they are, under which roots, and where they were seen.

pub mod device;
pub mod policy;
pub mod registry;
pub(crate) mod tombstone;
