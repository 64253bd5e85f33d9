//! Decisions out of bytes. A tape that has ended gives zeros, so that every beginning of a tape is one too.

use protocol_core::entropy::{Entropy, NoEntropy};

/// The bytes that are left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tape<'b>(&'b [u8]);

impl<'b> Tape<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn ended(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left.
    pub(super) const fn rest(&mut self) -> &'b [u8] {
        let rest = self.0;
        self.0 = &[];
        rest
    }

    pub(super) const fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number of any size: a byte says of how many bytes (0 to 8), they follow.
    pub(super) fn number(&mut self) -> u64 {
        let len = self.below(9);
        (0..len).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// At most `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// At most as many bytes as the next two bytes say.
    pub(super) fn counted(&mut self) -> &'b [u8] {
        let len = self.u16();
        self.take(len.into())
    }
}

/// Random bytes that are none: a counter's hash. Never the same twice, always the same for the same seed.
#[derive(Debug)]
pub(super) struct Counter(pub(super) u64);

impl Entropy for Counter {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0 += 1;
        blake3::Hasher::new().update(&self.0.to_be_bytes()).finalize_xof().fill(bytes);
        Ok(())
    }
}
