//! The program as scripts see it: real processes of `kin`, real sockets on the loopback interface, homes of their own.
//!
//! Every wait is for an event or the end of a process. Nothing sleeps; a watchdog ends what hangs.

mod stage;

mod pairing;
mod registry;
mod transfers;
