//! The one source of choices of a world: what it decides comes from here, by site, and can be seeded, played back or refused.
//!
//! A world decides little: how long bytes travel, where they are split, what a reset leaves of the bytes in flight, how long a
//! person thinks. Everything bigger (who does what, which fault happens when) is drawn from a [`Tape`] before the world begins,
//! and stands in a [`Script`](crate::script::Script) as literal values.

use crate::random::Random;

/// Where a world chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// How much longer than the least something travels.
    Latency,
    /// Whether and where bytes are split.
    Split,
    /// Whether a reset leaves what is in flight.
    Keep,
    /// How long a person thinks.
    Person,
    /// What of unsynced writes a crash leaves.
    Survive,
    /// How long a lookup takes.
    Lookup,
}

const SITES: usize = 6;

/// Makes the choices of a world. The value 0 is always the boring one: no delay, no split, nothing survives by luck.
#[derive(Clone, Debug)]
pub enum Choices {
    /// From a seed; every site has a sequence of its own, so that more choices at one do not shift the others.
    Seeded([Random; SITES]),
    /// Always 0.
    Boring,
}

impl Choices {
    /// The choices of this seed; 0 stands for the boring ones.
    pub fn new(seed: u64) -> Self {
        if seed == 0 {
            return Self::Boring;
        }
        let mut all = Random::new(seed);
        Self::Seeded(std::array::from_fn(|_| Random::new(all.next())))
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, site: Site, bound: u64) -> u64 {
        match self {
            Self::Seeded(sites) => sites[site as usize].below(bound),
            Self::Boring => 0,
        }
    }

    /// Yes or no; no is the boring answer.
    pub const fn coin(&mut self, site: Site) -> bool {
        self.below(site, 2) == 1
    }
}

/// A tape of decisions from which scripts are drawn: endless numbers of a seed, or bytes (of a fuzzer, of proptest) that end in zeros.
/// A beginning of a tape of bytes is a tape too, and 0 is always the boring value: so tapes shrink.
#[derive(Clone, Debug)]
pub enum Tape<'b> {
    /// Numbers from a seed.
    Seed(Random),
    /// Bytes, then zeros.
    Bytes(&'b [u8]),
}

impl<'b> Tape<'b> {
    /// The tape of a seed.
    pub const fn of_seed(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring tapes.
        Self::Seed(Random::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x6b69_6e2d_7369_6d31))
    }

    /// The tape that these bytes are.
    pub const fn of_bytes(bytes: &'b [u8]) -> Self {
        Self::Bytes(bytes)
    }

    /// Whether only zeros come any more.
    pub const fn ended(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    /// A number below `bound`, which is not 0: from as many bytes as that bound needs.
    pub fn below(&mut self, bound: u64) -> u64 {
        match self {
            Self::Seed(random) => random.below(bound),
            Self::Bytes(bytes) => {
                let mut number = 0;
                let mut reach: u64 = 1;
                while reach < bound {
                    let (byte, rest) = bytes.split_first().map_or((0, &[][..]), |(&byte, rest)| (byte, rest));
                    *bytes = rest;
                    number = number << 8 | u64::from(byte);
                    reach = reach.saturating_mul(256);
                }
                number % bound
            }
        }
    }

    /// Whether something with this chance, in percent, happens; not happening is boring.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) >= 100 - chance
    }

    /// One of these; the first is the boring one.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = self.below(all.len() as u64);
        all[usize::try_from(at).expect("invariant: below a length")]
    }

    /// A number up to `most`, small ones as likely as big ones: first its size is drawn, then the number.
    pub fn log(&mut self, most: u64) -> u64 {
        let bits = u64::from(64 - most.leading_zeros());
        let size = self.below(bits + 1);
        if size == 0 { 0 } else { (1 << (size - 1) | self.below(1 << (size - 1))).min(most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_of_bytes_ends_in_boring_values() {
        let mut tape = Tape::of_bytes(&[255, 7]);
        assert_eq!(tape.below(200), 55);
        assert!(!tape.ended());
        assert_eq!(tape.below(256), 7);
        assert!(tape.ended());
        assert_eq!((tape.below(1 << 40), tape.log(1000), tape.one_of(&[3, 4])), (0, 0, 3));
        assert!(!tape.percent(99));
        assert!(tape.percent(100));
    }

    #[test]
    fn sites_do_not_shift_one_another() {
        let (mut one, mut other) = (Choices::new(5), Choices::new(5));
        for _ in 0..10 {
            other.below(Site::Split, 9);
        }
        assert_eq!(one.below(Site::Latency, 1 << 40), other.below(Site::Latency, 1 << 40));
        assert_eq!(Choices::new(0).below(Site::Person, 100), 0);
    }

    #[test]
    fn small_numbers_are_as_likely_as_big_ones() {
        let mut tape = Tape::of_seed(1);
        let numbers: Vec<u64> = (0..1000).map(|_| tape.log(1 << 20)).collect();
        assert!(numbers.iter().all(|&number| number <= 1 << 20));
        assert!(numbers.iter().filter(|&&number| number < 1 << 10).count() > 300);
        assert!(numbers.iter().filter(|&&number| number > 1 << 10).count() > 300);
    }
}
