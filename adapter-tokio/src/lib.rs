//! The real host of the kin protocol.
//!
//! The disk half is plain synchronous code for worker threads: [`home`] (identity seed, settings, lock), [`store`] (sealed
//! records), [`files`] (scanning sources, and everything that is written below a chosen directory), and [`cipher`].

pub mod cipher;
#[cfg(unix)]
pub mod files;
#[cfg(unix)]
pub mod home;
#[cfg(unix)]
mod private;
#[cfg(unix)]
pub mod store;
#[cfg(test)]
mod testing;
