//! The suite of every transport (`kin_tests::conformance`), over each that there is.

mod iroh;
mod libp2p;
mod tcp;
mod unix;
