//! What the fuzz targets do with their bytes, one function for each decoder of the core and one for a whole Node.
//!
//! A body takes any bytes and panics only if the core breaks a promise: the programs in `fuzz/` search for such bytes, and the
//! ordinary tests replay what was found.

mod bulk;
mod durable;
mod messages;
mod node;
mod streams;
mod tape;
mod texts;
mod transfers;
mod worlds;

pub use bulk::{chunks, digest, frames};
pub use durable::restore;
pub use messages::{advert, cbor, control, handshake, info, opening, ranges};
pub use node::{Op, node};
pub use streams::{deframer, header, record};
pub use texts::{address, words};
pub use transfers::{layout, manifest};
pub use worlds::world;

/// A body: it panics if a promise is broken.
pub type Body = fn(&[u8]);

/// Every target by its name, which is also that of its program and of its corpus.
pub const TARGETS: &[(&str, Body)] = &[
    ("address", address),
    ("advert", advert),
    ("cbor", cbor),
    ("chunks", chunks),
    ("control", control),
    ("deframer", deframer),
    ("digest", digest),
    ("frames", frames),
    ("handshake", handshake),
    ("header", header),
    ("info", info),
    ("layout", layout),
    ("manifest", manifest),
    ("node", node),
    ("opening", opening),
    ("ranges", ranges),
    ("record", record),
    ("restore", restore),
    ("words", words),
    ("world", world),
];
