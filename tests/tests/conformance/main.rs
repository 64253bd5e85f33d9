//! The suite of every transport (`kin_tests::conformance`), over each that there is.

mod iroh;
mod libp2p;
#[cfg(feature = "quic")]
mod libp2p_quic;
mod simulated;
mod tcp;
mod unix;
