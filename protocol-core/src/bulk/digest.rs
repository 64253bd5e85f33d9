//! A file's BLAKE3 digest out of the values of its pieces, in any order of arrival (PROTOCOL.md, section 9.5).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use blake3::hazmat::{HasherExt as _, Mode, left_subtree_len, max_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::transfer::layout::Piece;

/// What a piece contributes to its file's digest: the chaining value of its subtree, or the digest itself where the piece is
/// the whole file. The first can never be turned into the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub [u8; 32]);

/// The values of a chunk's pieces, in the layout's order. Most chunks are one piece of a large file: that takes no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values(Held);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    One(Value),
    /// None, or two and more.
    Other(Vec<Value>),
}

impl Values {
    /// No values yet.
    pub const fn new() -> Self {
        Self(Held::Other(Vec::new()))
    }

    /// Adds the value of the next piece.
    pub fn push(&mut self, value: Value) {
        match &mut self.0 {
            Held::One(first) => self.0 = Held::Other(Vec::from([*first, value])),
            Held::Other(values) if values.is_empty() => self.0 = Held::One(value),
            Held::Other(values) => values.push(value),
        }
    }

    /// Removes all.
    pub fn clear(&mut self) {
        *self = Self::new();
    }
}

impl Default for Values {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Values {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        match &self.0 {
            Held::One(value) => core::slice::from_ref(value),
            Held::Other(values) => values,
        }
    }
}

impl FromIterator<Value> for Values {
    fn from_iter<T: IntoIterator<Item = Value>>(values: T) -> Self {
        let mut all = Self::new();
        values.into_iter().for_each(|value| all.push(value));
        all
    }
}

/// The bytes are not those of a piece: another length, or a place where no subtree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPiece;

impl fmt::Display for NotAPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these bytes are not a piece of the layout")
    }
}

impl core::error::Error for NotAPiece {}

/// The value of `piece`, which holds `bytes`.
///
/// # Errors
/// [`NotAPiece`] if `bytes` has another length, or `piece` is of no layout. (The library would panic.)
pub fn value(piece: &Piece, bytes: &[u8]) -> Result<Value, NotAPiece> {
    if bytes.is_empty() || usize::try_from(piece.len) != Ok(bytes.len()) {
        return Err(NotAPiece);
    }
    if piece.whole {
        return if piece.offset == 0 { Ok(Value(blake3::hash(bytes).into())) } else { Err(NotAPiece) };
    }
    // `max_subtree_len` wants a multiple of BLAKE3's own chunk, as the hasher does.
    let begins = piece.offset.is_multiple_of(blake3::CHUNK_LEN as u64);
    if !begins || max_subtree_len(piece.offset).is_some_and(|most| u64::from(piece.len) > most) {
        return Err(NotAPiece);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(piece.offset).update(bytes);
    Ok(Value(hasher.finalize_non_root()))
}

/// The digest of a file without content.
pub fn empty() -> [u8; 32] {
    blake3::hash(b"").into()
}

/// Merges the values of one file's pieces as they come. Keeps one value for each finished subtree whose sibling is missing:
/// a handful while pieces come in order, and never more than one a piece.
#[derive(Clone, Debug)]
pub struct FileDigest {
    size: u64,
    chunk_size: u64,
    /// First byte of a finished subtree to the byte behind it and its value.
    subtrees: BTreeMap<u64, (u64, [u8; 32])>,
    digest: Option<[u8; 32]>,
}

impl FileDigest {
    /// For a file of `size` bytes, cut at multiples of `chunk_size`, a power of two of at least 1024.
    pub fn new(size: u64, chunk_size: u32) -> Self {
        debug_assert!(chunk_size.is_power_of_two() && chunk_size >= 1024, "pieces would be no subtrees");
        let digest = (size == 0).then(empty);
        Self { size, chunk_size: u64::from(chunk_size), subtrees: BTreeMap::new(), digest }
    }

    /// The value of the piece that begins at `offset`. A value that is there already, or of no piece, changes nothing.
    // DATA-26.
    pub fn add(&mut self, offset: u64, value: Value) {
        if self.digest.is_some() || offset >= self.size || !offset.is_multiple_of(self.chunk_size) || self.has(offset) {
            return;
        }
        if self.size <= self.chunk_size {
            self.digest = Some(value.0);
            return;
        }
        let (mut start, mut end, mut value) = (offset, self.size.min(offset.saturating_add(self.chunk_size)), value.0);
        while let Some(split) = self.split_between(start, end) {
            let sibling = if start == split.middle { split.start } else { split.middle };
            let Some((_, other)) = self.subtrees.get(&sibling).copied().filter(|&(end, _)| end == split.end_of(sibling)) else {
                break;
            };
            self.subtrees.remove(&sibling);
            let (left, right) = if sibling < start { (&other, &value) } else { (&value, &other) };
            if split.start == 0 && split.end == self.size {
                self.digest = Some(merge_subtrees_root(left, right, Mode::Hash).into());
                return;
            }
            value = merge_subtrees_non_root(left, right, Mode::Hash);
            (start, end) = (split.start, split.end);
        }
        self.subtrees.insert(start, (end, value));
    }

    /// The file's digest, once every piece was added: equal to that of the whole content.
    pub const fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// Values kept.
    pub fn kept(&self) -> usize {
        self.subtrees.len()
    }

    fn has(&self, offset: u64) -> bool {
        self.subtrees.range(..=offset).next_back().is_some_and(|(_, &(end, _))| offset < end)
    }

    /// The parent of the subtree `start..end`, found from the root downwards; `None` for the root.
    fn split_between(&self, start: u64, end: u64) -> Option<Split> {
        let mut parent = Split::of(0, self.size)?;
        loop {
            let (left, right) = ((parent.start, parent.middle), (parent.middle, parent.end));
            if (start, end) == left || (start, end) == right {
                return Some(parent);
            }
            parent = if start < parent.middle { Split::of(left.0, left.1)? } else { Split::of(right.0, right.1)? };
        }
    }
}

/// A subtree and where its two children meet.
#[derive(Clone, Copy, Debug)]
struct Split {
    start: u64,
    middle: u64,
    end: u64,
}

impl Split {
    /// `None` for what is too small to have children.
    fn of(start: u64, end: u64) -> Option<Self> {
        let len = end.checked_sub(start).filter(|&len| len > blake3::CHUNK_LEN as u64)?;
        Some(Self { start, middle: start + left_subtree_len(len), end })
    }

    /// Where the child that begins at `start` ends.
    const fn end_of(&self, start: u64) -> u64 {
        if start == self.middle { self.end } else { self.middle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::layout::Layout;
    use proptest::prelude::*;
    use std::vec::Vec;

    const CHUNK: u32 = 64 << 10;

    fn content(size: u64) -> Vec<u8> {
        (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        // DATA-26.
        fn any_order_gives_the_plain_digest(
            size in prop_oneof![0_u64..3000, 60_000_u64..70_000, 1_u64..1_500_000, (1_u64..24).prop_map(|chunks| chunks << 16)],
            order in any::<prop::sample::Index>(),
            stride in 1_usize..9,
        ) {
            let content = content(size);
            let layout = Layout::new([size], CHUNK).unwrap();
            let pieces = (0..layout.chunks()).flat_map(|chunk| layout.pieces(chunk).collect::<Vec<_>>()).collect::<Vec<_>>();
            let mut file = FileDigest::new(size, CHUNK);
            let count = pieces.len();
            // Some permutation: strides from some start, each residue class in turn.
            let shift = if count == 0 { 0 } else { order.index(count) };
            let order = (0..stride).flat_map(|from| (from..count).step_by(stride)).map(|at| (at + shift) % count.max(1));
            for at in order {
                prop_assert_eq!(file.digest(), None);
                let piece = &pieces[at];
                let from = usize::try_from(piece.offset).unwrap();
                let value = value(piece, &content[from..from + piece.len as usize]).unwrap();
                file.add(piece.offset, value);
                let kept = file.kept();
                file.add(piece.offset, value);
                prop_assert_eq!(file.kept(), kept, "a value twice changes nothing");
            }
            prop_assert_eq!(file.digest(), Some(*blake3::hash(&content).as_bytes()));
            prop_assert_eq!(file.kept(), 0);
        }
    }

    #[test]
    fn values_are_a_list_whatever_their_number() {
        let mut values = Values::new();
        let mut list = Vec::new();
        for number in 0..4 {
            assert_eq!((&*values, values.len()), (&list[..], list.len()));
            assert_eq!(list.iter().copied().collect::<Values>(), values);
            values.push(Value([number; 32]));
            list.push(Value([number; 32]));
        }
        values.clear();
        assert_eq!((values.len(), values), (0, Values::new()));
    }

    #[test]
    fn in_order_few_values_are_kept() {
        let mut file = FileDigest::new(1 << 40, CHUNK);
        for chunk in 0..10_000_u64 {
            file.add(chunk * u64::from(CHUNK), Value([1; 32]));
            assert_eq!(file.kept(), (chunk + 1).count_ones() as usize);
        }
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        let piece = Piece { entry: 0, offset: 0, len: 10, whole: true };
        assert!(value(&piece, &[0; 10]).is_ok());
        for (piece, len) in [
            (piece, 9),
            (Piece { len: 0, ..piece }, 0),
            (Piece { offset: 1024, ..piece }, 10),
            (Piece { offset: 1000, whole: false, ..piece }, 10),
            (Piece { offset: 1024, len: 1025, whole: false, ..piece }, 1025),
        ] {
            assert_eq!(value(&piece, &content(len)), Err(NotAPiece), "{piece:?}");
        }
        let mut file = FileDigest::new(100_000, CHUNK);
        file.add(1, Value([0; 32]));
        file.add(131_072, Value([0; 32]));
        assert_eq!((file.kept(), file.digest()), (0, None));
        assert_eq!(FileDigest::new(0, CHUNK).digest(), Some(empty()));
    }
}
