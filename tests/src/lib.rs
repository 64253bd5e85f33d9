//! What the tests, examples and benchmarks of this package share.

pub mod vectors;
