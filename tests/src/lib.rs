//! What the tests of the whole share: the checker of test vectors, the repository as text, stories in virtual time and over real services.

pub mod conformance;
pub mod figures;
pub mod repository;
pub mod services;
pub mod story;
pub mod vectors;
