//! The kin protocol as a value: pure state machines for pairing, sessions and transfers.
//!
//! Things that happened go in ([`effects::Input`]), things to do come out ([`effects::Output`]). There is no socket, file,
//! clock, thread, log or random source in this crate, and `no_std` keeps it so.
#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

/// Whether a bug is planted (see `planted.rs`): never in what is shipped.
#[cfg(feature = "testing")]
macro_rules! planted {
    ($bug:ident) => {
        crate::planted::is(crate::planted::Bug::$bug)
    };
}
#[cfg(not(feature = "testing"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

// LIM-8.
pub mod crypto;
pub mod entropy;
pub mod ids;
pub mod limits;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod planted;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod probe;
pub mod time;

pub mod bulk;
pub mod devices;
pub mod effects;
pub mod faults;
pub mod handshake;
pub mod identity;
pub mod info;
pub mod messages;
pub mod node;
mod outbox;
pub mod pairing;
pub mod records;
pub mod session;
mod timers;
pub mod transfer;
pub mod wire;
