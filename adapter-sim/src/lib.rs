//! A second host of the kin protocol: no sockets, no clock, no disk.

pub mod fuzz;
