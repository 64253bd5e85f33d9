//! A second host of the kin protocol, for tests: virtual time, one seed, streams that are split and cut, a store that crashes.
//!
//! Nothing here is parallel and nothing waits: a [`World`] owns every device, every stream and one queue of what happens next,
//! ordered by virtual time. All choices (latency, where bytes are split, what a reset leaves of the bytes in flight) come from
//! one seed, so that the same seed gives the same run, to the last byte.
//!
//! ```
//! use adapter_sim::World;
//!
//! let mut world = World::new(7);
//! let (desktop, laptop) = (world.add_device("desktop"), world.add_device("laptop"));
//! world.pair(desktop, laptop);
//! assert_eq!(world.devices(desktop).len(), 1);
//! ```
#![forbid(unsafe_code)]

mod adversary;
pub mod chart;
pub mod choice;
mod chunks;
mod conns;
pub mod coverage;
mod disk;
pub mod exhaustive;
mod faults;
pub mod fuzz;
mod link;
mod lookup;
mod messages;
pub mod mutants;
pub mod oracle;
mod perform;
mod protocols;
pub mod random;
mod raw;
mod rules;
pub mod run;
pub mod script;
mod secrets;
pub mod shrink;
mod storage;
mod streams;
pub mod trace;
mod world;

pub use adversary::{Lie, Move, Odd, Speech, Tale, Trick};
pub use disk::{Arrived, Disk, Edited, Item, OnConflict, Tree, manifest_of};
pub use link::Wire;
pub use lookup::LookupFault;
pub use protocols::{Plan, Wished};
pub use raw::{Raw, RawConn};
pub use rules::{At, Damage, DialFault, DiskFault, Rule, Side, StoreFault};
pub use trace::{Tapped, Trace};
pub use world::{Answer, Dev, Pieces, World};
