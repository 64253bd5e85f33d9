//! Choices that a failed run can make again.

use std::time::Duration;

/// A sequence that follows from its seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any time below `span`, to the microsecond.
    pub(crate) fn below(&mut self, span: Duration) -> Duration {
        Duration::from_micros(self.next() % (span.as_micros() as u64).max(1))
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

/// The seed of a test: `KIN_TESTS_SEED`, or a fresh one. It is printed, so that a failure can be repeated.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("KIN_TESTS_SEED").ok().map_or_else(
        || {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        },
        |text| text.parse().unwrap(),
    );
    println!("KIN_TESTS_SEED={seed}");
    seed
}
