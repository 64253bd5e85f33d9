//! What the tests of the whole share: the checker of test vectors, and the repository as text.

pub mod conformance;
pub mod figures;
pub mod repository;
pub mod story;
pub mod vectors;
