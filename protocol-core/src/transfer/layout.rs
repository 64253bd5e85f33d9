//! Which bytes of which files a chunk holds: a pure function of sizes and chunk size (PROTOCOL.md, section 9.5).
//!
//! In order of entries: a file of at least one chunk starts a new chunk, and its tail ends one; smaller files share chunks
//! as long as they fit; empty files, directories and links take no room.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::limits;

/// The sizes do not make a transfer: more than 2^53 - 1 bytes, or more than 2^32 chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more bytes or chunks than a transfer may have")
    }
}

impl core::error::Error for TooLarge {}

/// A run of bytes of one file inside a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The entry.
    pub entry: u32,
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes, at least 1.
    pub len: u32,
    /// Whether it is the whole file: then its digest is the file's.
    pub whole: bool,
}

/// A file that has bytes: where it begins.
#[derive(Clone, Copy, Debug)]
struct Span {
    entry: u32,
    chunk: u32,
    /// Offset in that chunk; 0 for a file of a chunk or more.
    at: u32,
    size: u64,
}

/// The layout of a transfer. 24 bytes for each file that is not empty, nothing for a chunk.
#[derive(Clone, Debug)]
pub struct Layout {
    chunk_size: u32,
    /// Entries placed so far, files or not.
    entries: u32,
    chunks: u64,
    /// Bytes that the last chunk can still take.
    room: u32,
    bytes: u64,
    spans: Vec<Span>,
}

impl Layout {
    /// The layout of entries with these sizes (0 for what is no file), in order. `chunk_size` is a power of two in
    /// [`limits::CHUNK_SIZE_RANGE`].
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new(sizes: impl IntoIterator<Item = u64>, chunk_size: u32) -> Result<Self, TooLarge> {
        let mut layout = Self::empty(chunk_size);
        for size in sizes {
            layout.push(size)?;
        }
        layout.spans.shrink_to_fit();
        Ok(layout)
    }

    pub(crate) fn empty(chunk_size: u32) -> Self {
        debug_assert!(chunk_size.is_power_of_two(), "the chunk size was not checked");
        Self { chunk_size: chunk_size.max(1), entries: 0, chunks: 0, room: 0, bytes: 0, spans: Vec::new() }
    }

    /// Places the next entry.
    // XFER-5.
    pub(crate) fn push(&mut self, size: u64) -> Result<(), TooLarge> {
        let bytes = self.bytes.checked_add(size).filter(|&bytes| bytes < limits::TRANSFER_BYTES).ok_or(TooLarge)?;
        let entry = self.entries;
        let entries = entry.checked_add(1).ok_or(TooLarge)?;
        let small = u32::try_from(size).ok().filter(|&small| small < self.chunk_size);
        let (chunk, at, begun, room) = match small {
            Some(0) => (None, 0, 0, self.room),
            Some(small) if small <= self.room => (Some(self.chunks - 1), self.chunk_size - self.room, 0, self.room - small),
            Some(small) => (Some(self.chunks), 0, 1, self.chunk_size - small),
            None => (Some(self.chunks), 0, size.div_ceil(u64::from(self.chunk_size)), 0),
        };
        if self.chunks + begun > limits::TRANSFER_CHUNKS {
            return Err(TooLarge);
        }
        if let Some(chunk) = chunk {
            let chunk = u32::try_from(chunk).map_err(|_| TooLarge)?;
            self.spans.push(Span { entry, chunk, at, size });
        }
        (self.entries, self.bytes, self.chunks, self.room) = (entries, bytes, self.chunks + begun, room);
        Ok(())
    }

    /// Bytes of a full chunk.
    pub const fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// How many entries there are, files or not.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// How many chunks there are.
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes of all files together.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of this chunk; `None` if there is no such chunk.
    pub fn chunk_len(&self, chunk: u64) -> Option<u32> {
        let (span, within) = self.last_span(chunk)?;
        let rest = u64::from(span.at) + span.size - within;
        Some(u32::try_from(rest).map_or(self.chunk_size, |rest| rest.min(self.chunk_size)))
    }

    /// What this chunk holds, in order; nothing if there is no such chunk.
    // XFER-8.
    pub fn pieces(&self, chunk: u64) -> impl Iterator<Item = Piece> + '_ {
        let within = self.last_span(chunk).map_or(0, |(_, within)| within);
        let to = self.spans.partition_point(|span| u64::from(span.chunk) <= chunk);
        let from = if chunk >= self.chunks {
            to
        } else if within > 0 {
            to - 1
        } else {
            self.spans.partition_point(|span| u64::from(span.chunk) < chunk)
        };
        self.spans[from..to].iter().map(move |span| {
            let rest = span.size - within;
            let len = u32::try_from(rest).map_or(self.chunk_size, |rest| rest.min(self.chunk_size));
            Piece { entry: span.entry, offset: within, len, whole: u64::from(len) == span.size }
        })
    }

    /// The chunks that hold this entry; an empty range for what has no bytes.
    pub fn chunks_of(&self, entry: u32) -> Range<u64> {
        let Ok(at) = self.spans.binary_search_by_key(&entry, |span| span.entry) else { return 0..0 };
        let span = self.spans[at];
        let first = u64::from(span.chunk);
        first..first + span.size.div_ceil(u64::from(self.chunk_size))
    }

    /// The last file that begins in or before this chunk, and where in that file the chunk begins (0 for shared chunks).
    fn last_span(&self, chunk: u64) -> Option<(&Span, u64)> {
        if chunk >= self.chunks {
            return None;
        }
        let behind = self.spans.partition_point(|span| u64::from(span.chunk) <= chunk);
        let span = self.spans.get(behind.checked_sub(1)?)?;
        Some((span, (chunk - u64::from(span.chunk)) * u64::from(self.chunk_size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    const CHUNK: u32 = 64 << 10;

    /// The rule word by word: the chunks as lists of (entry, offset, length).
    fn model(sizes: &[u64]) -> Vec<Vec<(u32, u64, u32)>> {
        let mut chunks: Vec<Vec<(u32, u64, u32)>> = vec![];
        let mut open = false;
        for (entry, &size) in (0..).zip(sizes) {
            if size >= u64::from(CHUNK) {
                for offset in (0..size).step_by(CHUNK as usize) {
                    chunks.push(vec![(entry, offset, u32::try_from((size - offset).min(u64::from(CHUNK))).unwrap())]);
                }
                open = false;
            } else if size > 0 {
                let filled = chunks.last().map_or(0, |chunk| chunk.iter().map(|piece| u64::from(piece.2)).sum());
                if !open || filled + size > u64::from(CHUNK) {
                    chunks.push(vec![]);
                }
                chunks.last_mut().unwrap().push((entry, 0, u32::try_from(size).unwrap()));
                open = true;
            }
        }
        chunks
    }

    fn size() -> impl Strategy<Value = u64> {
        let chunk = u64::from(CHUNK);
        prop_oneof![Just(0), 1..200_u64, 1..chunk, chunk - 1..=chunk + 1, chunk..5 * chunk, Just(2 * chunk)]
    }

    proptest! {
        #[test]
        // XFER-8.
        fn it_is_the_rule(sizes in prop::collection::vec(size(), 0..40)) {
            let layout = Layout::new(sizes.iter().copied(), CHUNK).unwrap();
            let model = model(&sizes);
            prop_assert_eq!(layout.chunks(), model.len() as u64);
            prop_assert_eq!(layout.bytes(), sizes.iter().sum::<u64>());
            let mut next = vec![0; sizes.len()];
            for (chunk, pieces) in (0..).zip(&model) {
                let ours = layout.pieces(chunk).collect::<Vec<_>>();
                prop_assert_eq!(&ours.iter().map(|piece| (piece.entry, piece.offset, piece.len)).collect::<Vec<_>>(), pieces);
                let len = ours.iter().map(|piece| piece.len).sum::<u32>();
                prop_assert_eq!(layout.chunk_len(chunk), Some(len));
                prop_assert!((1..=CHUNK).contains(&len));
                for piece in ours {
                    let entry = piece.entry as usize;
                    prop_assert_eq!(piece.offset, next[entry], "each byte of each file once, in order");
                    next[entry] += u64::from(piece.len);
                    prop_assert_eq!(piece.whole, u64::from(piece.len) == sizes[entry]);
                    prop_assert!(layout.chunks_of(piece.entry).contains(&chunk));
                }
            }
            prop_assert_eq!(&next, &sizes);
            for (entry, &size) in (0..).zip(&sizes) {
                let chunks = layout.chunks_of(entry);
                prop_assert_eq!(chunks.clone().count() as u64, size.div_ceil(u64::from(CHUNK)));
                prop_assert!(chunks.into_iter().all(|chunk| layout.pieces(chunk).any(|piece| piece.entry == entry)));
            }
            for beyond in [layout.chunks(), layout.chunks() + 1, u64::MAX] {
                prop_assert_eq!(layout.chunk_len(beyond), None);
                prop_assert_eq!(layout.pieces(beyond).count(), 0);
            }
        }
    }

    #[test]
    fn many_small_files_are_few_chunks() {
        let layout = Layout::new((0..100_000).map(|size| size % 1000), 256 << 10).unwrap();
        assert!(layout.chunks() < 200, "{}", layout.chunks());
    }

    #[test]
    // XFER-5.
    fn bytes_and_chunks_end() {
        let whole = limits::TRANSFER_BYTES - 1;
        assert_eq!(Layout::new([whole], 4 << 20).unwrap().chunks(), 1 << 31);
        assert_eq!(Layout::new([whole + 1], 4 << 20).err(), Some(TooLarge));
        assert_eq!(Layout::new([whole, 1], 4 << 20).err(), Some(TooLarge));
        assert_eq!(Layout::new([u64::MAX, u64::MAX], 4 << 20).err(), Some(TooLarge));
        let most = limits::TRANSFER_CHUNKS * u64::from(CHUNK);
        let layout = Layout::new([most], CHUNK).unwrap();
        assert_eq!(layout.chunk_len(limits::TRANSFER_CHUNKS - 1), Some(CHUNK));
        assert_eq!(Layout::new([most + 1], CHUNK).err(), Some(TooLarge));
        assert_eq!(Layout::new([most, 1], CHUNK).err(), Some(TooLarge));
    }
}
