//! Sets of chunk or entry numbers, as sorted disjoint ranges (PROTOCOL.md, section 9.3).

use alloc::collections::BTreeMap;
use core::convert::Infallible;
use core::ops::Range;

use minicbor::Encoder;
use minicbor::encode::{Error, Write};

use crate::limits;
use crate::wire::cbor::{Malformed, Reader};

/// A set of numbers below 2^64 - 1, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First number of a range to the first one behind it.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ends: BTreeMap::new() }
    }

    /// Adds every number of `range`; an empty range adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { start, mut end } = range;
        if start >= end {
            return;
        }
        // Whatever overlaps or touches becomes one with it, from the right to the left.
        while let Some((&left, &right)) = self.ends.range(..=end).next_back() {
            if right < start {
                break;
            }
            end = end.max(right);
            if left <= start {
                // In place: taking out the only range and putting it back would allocate for every chunk. Nothing further left touches.
                if let Some(known) = self.ends.get_mut(&left) {
                    *known = end;
                }
                return;
            }
            self.ends.remove(&left);
        }
        self.ends.insert(start, end);
    }

    /// Takes every number of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        let Range { start, end } = range;
        if start >= end {
            return;
        }
        while let Some((&left, &right)) = self.ends.range(..end).next_back() {
            if right <= start {
                break;
            }
            self.ends.remove(&left);
            if right > end {
                self.ends.insert(end, right);
            }
            if left < start {
                self.ends.insert(left, start);
            }
        }
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ends.range(..=number).next_back().is_some_and(|(_, &end)| number < end)
    }

    /// Adds every number of `other`.
    pub fn union(&mut self, other: &Self) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// Takes every number of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        for range in self.common(other).iter() {
            self.remove(range);
        }
    }

    /// The numbers that are in both. The work goes by the smaller set and by what they share, however large the other one is:
    /// a peer that names little causes little.
    pub fn common(&self, other: &Self) -> Self {
        let (few, many) = if self.pairs() <= other.pairs() { (self, other) } else { (other, self) };
        few.iter().flat_map(|range| many.within_range(range)).collect()
    }

    /// What of the set lies in a range.
    fn within_range(&self, Range { start, end }: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.ends.range(..start).next_back();
        let parts = before.into_iter().chain(self.ends.range(start..end));
        parts.map(move |(&left, &right)| left.max(start)..right.min(end)).filter(|part| !part.is_empty())
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// How many ranges.
    pub fn pairs(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether every number is below `total`.
    pub fn within(&self, total: u64) -> bool {
        self.ends.last_key_value().is_none_or(|(_, &end)| end <= total)
    }

    /// The same set as several, each of at most `most` ranges, for as many messages: at least one, which is empty for the
    /// empty set.
    pub fn split(self, most: usize) -> impl Iterator<Item = Self> {
        let most = most.max(1);
        let mut rest = Some(self.ends);
        core::iter::from_fn(move || {
            let mut ends = rest.take()?;
            if let Some(&next) = ends.keys().nth(most) {
                rest = Some(ends.split_off(&next));
            }
            Some(Self { ends })
        })
    }

    pub(crate) fn encode<W: Write<Error = Infallible>>(&self, to: &mut Encoder<W>) -> Result<(), Error<Infallible>> {
        to.array(2 * self.ends.len() as u64)?;
        for (start, end) in &self.ends {
            to.u64(*start)?.u64(end - start)?;
        }
        Ok(())
    }

    // DATA-18.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let most = if planted!(RangesUnbounded) { usize::from(u16::MAX) } else { 2 * limits::RANGE_PAIRS };
        let numbers = reader.array_up_to(most)?;
        if numbers % 2 != 0 {
            return Err(Malformed::Count);
        }
        let mut ranges = Self::new();
        let mut behind = None;
        for _ in 0..numbers / 2 {
            let (start, count) = (reader.u64()?, reader.u64()?);
            let end = start.checked_add(count).ok_or(Malformed::Bounds)?;
            // Ascending, never empty, and at least one number missing in between.
            if count == 0 || behind.is_some_and(|behind| start <= behind) {
                return Err(Malformed::Bounds);
            }
            ranges.ends.insert(start, end);
            behind = Some(end);
        }
        Ok(ranges)
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl From<Range<u64>> for Ranges {
    fn from(range: Range<u64>) -> Self {
        Self::from_iter([range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode::encode;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn decode(bytes: &[u8]) -> Result<Ranges, Malformed> {
        Ranges::decode(&mut Reader::new(bytes)?)
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..60, 0_u64..20), 0..40), most in 1_usize..5) {
            let (mut ranges, mut model) = (Ranges::new(), BTreeSet::new());
            for (add, start, count) in steps {
                let range = start..start + count;
                if add {
                    ranges.insert(range.clone());
                    model.extend(range);
                } else {
                    ranges.remove(range.clone());
                    model.retain(|number| !range.contains(number));
                }
                prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                let list = ranges.iter().collect::<Vec<_>>();
                prop_assert!(list.windows(2).all(|two| two[0].end < two[1].start), "no two touch");
            }
            prop_assert_eq!(ranges.count(), model.len() as u64);
            prop_assert_eq!(ranges.is_empty(), model.is_empty());
            prop_assert!((0..90).all(|number| ranges.contains(number) == model.contains(&number)));
            let least = model.last().map_or(0, |last| last + 1);
            prop_assert!(ranges.within(least) && (least == 0 || !ranges.within(least - 1)));
            let bytes = encode(|to| ranges.encode(to));
            prop_assert_eq!(decode(&bytes), Ok(ranges.clone()));
            let parts = ranges.clone().split(most).collect::<Vec<_>>();
            prop_assert!(!parts.is_empty() && parts.iter().all(|part| part.pairs() <= most));
            let mut joined = Ranges::new();
            parts.iter().for_each(|part| joined.union(part));
            prop_assert_eq!(&joined, &ranges);
            joined.subtract(&ranges);
            prop_assert!(joined.is_empty());
        }

        #[test]
        fn common_is_what_both_have(sets in prop::array::uniform2(prop::collection::btree_set(0_u64..60, 0..40))) {
            let [one, other] = sets.each_ref().map(|set| set.iter().map(|&number| number..number + 1).collect::<Ranges>());
            let both = sets[0].intersection(&sets[1]).map(|&number| number..number + 1).collect::<Ranges>();
            prop_assert_eq!(one.common(&other), both);
            let mut rest = one;
            rest.subtract(&other);
            prop_assert_eq!(rest, sets[0].difference(&sets[1]).map(|&number| number..number + 1).collect::<Ranges>());
        }

        #[test]
        fn what_decodes_encodes_to_the_same(numbers in prop::collection::vec(0_u8..24, 0..8)) {
            let mut bytes = Vec::from([0x80 + u8::try_from(numbers.len()).unwrap()]);
            bytes.extend(numbers);
            if let Ok(ranges) = decode(&bytes) {
                prop_assert_eq!(encode(|to| ranges.encode(to)), bytes);
            }
        }
    }

    #[test]
    // DATA-18.
    fn the_most_pairs_are_a_limit() {
        let many = |pairs: u64| (0..pairs).map(|at| 2 * at..2 * at + 1).collect::<Ranges>();
        let bytes = |ranges: &Ranges| encode(|to| ranges.encode(to));
        assert!(decode(&bytes(&many(limits::RANGE_PAIRS as u64))).is_ok());
        assert_eq!(decode(&bytes(&many(limits::RANGE_PAIRS as u64 + 1))), Err(Malformed::Bounds));
        assert_eq!(decode(&[0x82, 0x00, 0x00]), Err(Malformed::Bounds));
        assert_eq!(decode(&[0x84, 0x00, 0x02, 0x02, 0x01]), Err(Malformed::Bounds), "they touch");
        assert_eq!(decode(&[0x81, 0x00]), Err(Malformed::Count));
    }
}
