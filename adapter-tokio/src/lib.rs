//! The real host of the kin protocol.
//!
//! [`service`] is the face: a handle with methods and a stream of events. Behind it one loop owns the protocol's Node, and
//! tasks, threads and the disk do what it says. [`transport`] is the door for network stacks, [`tcp`] the smallest of them.
//!
//! The disk half is plain synchronous code for worker threads: [`home`] (identity seed, settings, lock), [`store`] (sealed
//! records), [`files`] (scanning sources, and everything that is written below a chosen directory), and [`cipher`].
#![forbid(unsafe_code)]

pub mod cipher;
#[cfg(unix)]
mod driver;
#[cfg(unix)]
pub mod files;
#[cfg(unix)]
pub mod home;
pub mod journal;
#[cfg(unix)]
mod lan;
#[cfg(unix)]
mod lookup;
#[cfg(unix)]
pub mod metrics;
mod pipeline;
#[cfg(unix)]
mod private;
#[cfg(unix)]
pub mod protocol;
#[cfg(unix)]
mod request;
#[cfg(unix)]
pub mod service;
#[cfg(unix)]
pub mod store;
#[cfg(unix)]
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod transport;

/// The page for writers of transports is compiled with the tests.
#[cfg(all(doctest, unix))]
#[doc = include_str!("../README.md")]
struct Readme;
