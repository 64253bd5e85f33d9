//! The lab: machines on networks of their own, made of network namespaces. Nothing leaves them, and they are gone at the end.
//!
//! Needs root, `ip` (iproute2), `nft` (nftables) and `python3`, and is no part of `cargo test`:
//! `cargo test -p kin --test lab -- --nocapture`, behind `cargo build -p adapter-iroh --examples`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "what is shared with the other processes is not all needed here")]

mod fair;
mod internet;
mod lan;
mod machines;
#[path = "../processes/stage.rs"]
mod stage;
mod users;
