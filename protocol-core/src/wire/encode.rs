//! Writing CBOR into memory, which cannot fail.

use alloc::vec::Vec;
use core::convert::Infallible;

use minicbor::Encoder;
use minicbor::encode::Error;

/// The bytes that `write` writes.
pub(crate) fn encode(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Result<(), Error<Infallible>>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder).expect("invariant: a vector takes every byte, and we encode no type of our own");
    encoder.into_writer()
}
