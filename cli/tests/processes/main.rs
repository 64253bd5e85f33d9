//! The program as scripts see it: real processes of `kin`, real sockets on the loopback interface, homes of their own.
//!
//! Every wait is for an event or the end of a process. Nothing sleeps; a watchdog ends what hangs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod looks;
mod manifest;
mod peer;
mod random;
mod stage;

mod chunks;
mod disk;
mod flood;
mod killed;
mod lies;
mod messages;
mod pairing;
mod registry;
mod resume;
mod select;
mod stranger;
mod transfers;
mod transports;
mod tree;
mod up;
