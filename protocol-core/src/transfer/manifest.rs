//! What is offered: a sorted list of entries, in pages (PROTOCOL.md, section 9.5).
//!
//! A [`Manifest`] keeps the pages as they go over the wire, with one offset for each entry: a million entries take little more
//! memory than their 64 MiB of pages, and entries are decoded when somebody looks at them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;

use minicbor::Encoder;
use minicbor::encode::Error;

use super::layout::{Layout, TooLarge};
use super::path::{self, PathError};
use crate::crypto::labels::strings;
use crate::limits;
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::control::{DeclineReason, Offer};
use crate::wire::encode::encode;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, wire value 0.
    File,
    /// A directory, wire value 1.
    Directory,
    /// A symbolic link, wire value 2.
    Symlink,
}

/// One entry of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path's components, outermost first: 1 to 255 bytes each, not `.` or `..`, without `/` and NUL. Not always UTF-8.
    pub components: Vec<Vec<u8>>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file; 0 for all else.
    pub size: u64,
    /// Permission bits, ≤ 0o7777; only 0o777 is ever applied.
    pub mode: u16,
    /// Modification time, seconds since 1970 (may be negative).
    pub mtime_s: i64,
    /// Nanoseconds on top, < 10^9.
    pub mtime_ns: u32,
    /// Where a symlink points: 1 to 4095 bytes without NUL; `None` exactly if this is no symlink.
    pub target: Option<Vec<u8>>,
}

/// A manifest that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// A page is not an array of entries.
    Malformed(Malformed),
    /// No entries, in a page or at all.
    Empty,
    /// A page could have held the next one's first entry.
    NotGreedy,
    /// A path that nobody may have.
    Path(PathError),
    /// An entry does not stand behind the one before it, or stands twice.
    Order,
    /// An entry's parent is missing, or no directory.
    Parent,
    /// What is no file has a size.
    Size,
    /// Bits that no mode has.
    Mode,
    /// Nanoseconds that are a second.
    Time,
    /// A symlink without a target, a target without a symlink, or one that cannot be.
    Target,
    /// A chunk size that is not a power of two in its range.
    ChunkSize,
    /// More than [`limits::MANIFEST_ENTRIES`].
    TooManyEntries,
    /// Pages of more than [`limits::MANIFEST_BYTES`].
    TooLong,
    /// Files of more bytes or chunks than a transfer may have.
    TooLarge,
    /// Entries, bytes or digest are not those of the offer.
    Mismatch,
}

impl ManifestError {
    /// What the sender of such a manifest is told.
    // XFER-6.
    pub const fn reason(self) -> DeclineReason {
        match self {
            Self::Mismatch => DeclineReason::Mismatch,
            Self::TooManyEntries | Self::TooLong | Self::TooLarge => DeclineReason::TooLarge,
            Self::Path(path) if path.is_limit() => DeclineReason::TooLarge,
            Self::Malformed(_)
            | Self::Empty
            | Self::NotGreedy
            | Self::Path(_)
            | Self::Order
            | Self::Parent
            | Self::Size
            | Self::Mode
            | Self::Time
            | Self::Target
            | Self::ChunkSize => DeclineReason::UnsafeManifest,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(error) => return error.fmt(f),
            Self::Path(error) => return error.fmt(f),
            Self::Empty => "nothing is in it",
            Self::NotGreedy => "a page is not filled",
            Self::Order => "the entries are not sorted, or one stands twice",
            Self::Parent => "an entry is not in a directory of the list",
            Self::Size => "a directory or link with a size",
            Self::Mode => "permission bits that do not exist",
            Self::Time => "a time with too many nanoseconds",
            Self::Target => "a link without a target, or a target without a link",
            Self::ChunkSize => "a chunk size that is not allowed",
            Self::TooManyEntries => "too many files",
            Self::TooLong => "the list of files is too long",
            Self::TooLarge => "the files are too large together",
            Self::Mismatch => "the list of files is not the one that was offered",
        })
    }
}

impl core::error::Error for ManifestError {}

impl From<Malformed> for ManifestError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<PathError> for ManifestError {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl From<TooLarge> for ManifestError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

impl Entry {
    /// Whether it obeys every rule that one entry alone can break.
    ///
    /// # Errors
    /// What is wrong first.
    // XFER-4.
    pub fn check(&self) -> Result<(), ManifestError> {
        path::check(&self.components)?;
        if self.size != 0 && self.kind != EntryKind::File {
            return Err(ManifestError::Size);
        }
        if self.mode > 0o7777 {
            return Err(ManifestError::Mode);
        }
        if self.mtime_ns >= 1_000_000_000 {
            return Err(ManifestError::Time);
        }
        let target = match (&self.target, self.kind) {
            (None, EntryKind::File | EntryKind::Directory) => true,
            (Some(target), EntryKind::Symlink) => (1..=limits::LINK_TARGET).contains(&target.len()) && !target.contains(&0),
            (None, EntryKind::Symlink) | (Some(_), EntryKind::File | EntryKind::Directory) => false,
        };
        if target { Ok(()) } else { Err(ManifestError::Target) }
    }

    fn encode(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), Error<Infallible>> {
        to.array(7)?.array(self.components.len() as u64)?;
        for component in &self.components {
            to.bytes(component)?;
        }
        let kind = match self.kind {
            EntryKind::File => 0,
            EntryKind::Directory => 1,
            EntryKind::Symlink => 2,
        };
        to.u8(kind)?.u64(self.size)?.u16(self.mode)?.i64(self.mtime_s)?.u32(self.mtime_ns)?;
        match &self.target {
            Some(target) => to.bytes(target)?,
            None => to.null()?,
        };
        Ok(())
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.fields(7)?;
        let depth = from.array()?;
        let mut components = Vec::new();
        for _ in 0..depth {
            components.push(from.bytes(usize::MAX)?.to_vec());
        }
        let kind = match from.u8()? {
            0 => EntryKind::File,
            1 => EntryKind::Directory,
            2 => EntryKind::Symlink,
            _ => return Err(Malformed::Bounds),
        };
        let (size, mode, mtime_s, mtime_ns) = (from.u64()?, from.u16()?, from.i64()?, from.u32()?);
        let target = from.or_null(|from| from.bytes(usize::MAX).map(<[u8]>::to_vec))?;
        Ok(Self { components, kind, size, mode, mtime_s, mtime_ns, target })
    }
}

/// The chunk size for files of this many bytes together.
pub const fn chunk_size_for(bytes: u64) -> u32 {
    if bytes < limits::LARGE_TRANSFER { limits::CHUNK_SIZE } else { limits::LARGE_CHUNK_SIZE }
}

/// Bytes of an array's head.
const fn head_len(count: usize) -> usize {
    match count {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        _ => 5,
    }
}

/// A page whose array has `count` entries of `body` bytes together.
const fn page_len(count: usize, body: usize) -> usize {
    head_len(count) + body
}

/// The checked entries of a transfer.
#[derive(Clone)]
pub struct Manifest {
    pages: Vec<Page>,
    /// Where each entry begins in its page.
    starts: Vec<u32>,
    layout: Arc<Layout>,
    digest: [u8; 32],
}

#[derive(Clone)]
struct Page {
    /// Number of its first entry.
    first: u32,
    bytes: Vec<u8>,
}

/// Equal digests are equal pages and chunk sizes.
impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Manifest {}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest").field("entries", &self.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Manifest {
    /// The manifest of these entries, which come sorted by components, bytewise, parents first. `chunk_size` is a power of two
    /// in [`limits::CHUNK_SIZE_RANGE`].
    ///
    /// # Errors
    /// What no receiver would take.
    // XFER-1.
    pub fn build(entries: impl IntoIterator<Item = Entry>, chunk_size: u32) -> Result<Self, ManifestError> {
        let mut list = List::new(chunk_size)?;
        let (mut body, mut starts) = (Vec::new(), Vec::new());
        for entry in entries {
            list.entry(&entry)?;
            let bytes = encode(|to| entry.encode(to));
            if page_len(starts.len() + 1, body.len() + bytes.len()) > limits::RECORD_TEXT {
                list.close_page(&body, &starts)?;
                body.clear();
                starts.clear();
            }
            starts.push(body.len());
            body.extend_from_slice(&bytes);
            list.previous = Some(entry);
        }
        if starts.is_empty() {
            return Err(ManifestError::Empty);
        }
        list.close_page(&body, &starts)?;
        Ok(list.finish())
    }

    /// How many entries.
    pub fn len(&self) -> u32 {
        self.layout.entries()
    }

    /// Never: a manifest has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> u32 {
        self.layout.chunk_size()
    }

    /// Over chunk size and pages: what offers and opening records name.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Which bytes of which files a chunk holds.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The pages in order, each the plaintext of one record.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        self.pages.iter().map(|page| &page.bytes[..])
    }

    /// This entry, decoded; `None` if there is none with this number.
    pub fn entry(&self, number: u32) -> Option<Entry> {
        let start = usize::try_from(*self.starts.get(usize::try_from(number).ok()?)?).ok()?;
        let behind = self.pages.partition_point(|page| page.first <= number);
        let page = self.pages.get(behind.checked_sub(1)?)?;
        let last = self.pages.get(behind).map_or(self.len(), |next| next.first) - 1;
        let end =
            if number == last { page.bytes.len() } else { usize::try_from(*self.starts.get(usize::try_from(number).ok()? + 1)?).ok()? };
        let mut reader = Reader::new(page.bytes.get(start..end)?).ok()?;
        Entry::decode(&mut reader).ok()
    }

    /// All entries, decoded one after the other.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.len()).map_while(|number| self.entry(number))
    }
}

/// A manifest that grows, entry by entry and page by page: what sender and receiver have in common.
struct List {
    pages: Vec<Page>,
    starts: Vec<u32>,
    page_bytes: usize,
    layout: Layout,
    hasher: blake3::Hasher,
    previous: Option<Entry>,
}

impl List {
    fn new(chunk_size: u32) -> Result<Self, ManifestError> {
        let (least, most) = limits::CHUNK_SIZE_RANGE;
        if !chunk_size.is_power_of_two() || !(least..=most).contains(&chunk_size) {
            return Err(ManifestError::ChunkSize);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&u32::try_from(strings::MANIFEST.len()).expect("invariant: labels are short").to_be_bytes());
        hasher.update(strings::MANIFEST);
        hasher.update(&chunk_size.to_be_bytes());
        let layout = Layout::empty(chunk_size);
        Ok(Self { pages: Vec::new(), starts: Vec::new(), page_bytes: 0, layout, hasher, previous: None })
    }

    /// Whether `entry` may come next; counts it in. The caller then makes it `previous`.
    fn entry(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        entry.check()?;
        if self.previous.as_ref().is_some_and(|previous| previous.components >= entry.components) {
            return Err(ManifestError::Order);
        }
        if !self.has_parent(entry) {
            return Err(ManifestError::Parent);
        }
        if self.layout.entries() == limits::MANIFEST_ENTRIES {
            return Err(ManifestError::TooManyEntries);
        }
        Ok(self.layout.push(entry.size)?)
    }

    /// In this order, all that stands between a directory and what is in it is in that directory too. So the parent is the
    /// previous entry, or an ancestor of it, which was found to be a directory before.
    // XFER-2, PATH-3.
    fn has_parent(&self, entry: &Entry) -> bool {
        let Some((_, parent)) = entry.components.split_last() else { return false };
        if parent.is_empty() {
            return true;
        }
        self.previous.as_ref().is_some_and(|previous| {
            previous.components.starts_with(parent) && (previous.components.len() > parent.len() || previous.kind == EntryKind::Directory)
        })
    }

    /// The page with this body; its entries begin at `starts` in it.
    fn close_page(&mut self, body: &[u8], starts: &[usize]) -> Result<(), ManifestError> {
        let mut bytes = encode(|to| to.array(starts.len() as u64).map(drop));
        bytes.reserve_exact(body.len());
        bytes.extend_from_slice(body);
        let head = head_len(starts.len());
        self.add_page(bytes, starts.iter().map(|start| head + start))
    }

    fn add_page(&mut self, bytes: Vec<u8>, starts: impl IntoIterator<Item = usize>) -> Result<(), ManifestError> {
        self.page_bytes += bytes.len();
        if self.page_bytes > limits::MANIFEST_BYTES {
            return Err(ManifestError::TooLong);
        }
        self.hasher.update(&u32::try_from(bytes.len()).map_err(|_| ManifestError::TooLong)?.to_be_bytes());
        self.hasher.update(&bytes);
        let first = u32::try_from(self.starts.len()).map_err(|_| ManifestError::TooManyEntries)?;
        for start in starts {
            self.starts.push(u32::try_from(start).map_err(|_| ManifestError::TooLong)?);
        }
        self.pages.push(Page { first, bytes });
        Ok(())
    }

    fn finish(self) -> Manifest {
        let digest = self.hasher.finalize().into();
        Manifest { pages: self.pages, starts: self.starts, layout: Arc::new(self.layout), digest }
    }
}

/// Takes the pages of an offered manifest, one at a time, and checks everything.
pub struct ManifestParser {
    list: List,
    entries: u32,
    bytes: u64,
    digest: [u8; 32],
    /// Entries and bytes of the last page's array, without its head.
    last_page: Option<(usize, usize)>,
    failed: Option<ManifestError>,
}

impl fmt::Debug for ManifestParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestParser")
            .field("entries", &self.list.layout.entries())
            .field("of", &self.entries)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl ManifestParser {
    /// For the manifest of this offer.
    ///
    /// # Errors
    /// A limit that the offer itself passes.
    pub fn new(offer: &Offer) -> Result<Self, ManifestError> {
        if offer.entries > limits::MANIFEST_ENTRIES && !planted!(OfferLimitsUnchecked) {
            return Err(ManifestError::TooManyEntries);
        }
        if offer.bytes >= limits::TRANSFER_BYTES && !planted!(OfferLimitsUnchecked) {
            return Err(ManifestError::TooLarge);
        }
        Ok(Self {
            list: List::new(offer.chunk_size)?,
            entries: offer.entries,
            bytes: offer.bytes,
            digest: offer.manifest_digest,
            last_page: None,
            failed: None,
        })
    }

    /// Bytes of the pages so far.
    pub const fn page_bytes(&self) -> usize {
        self.list.page_bytes
    }

    /// The next page.
    ///
    /// # Errors
    /// What is wrong first; from then on always.
    pub fn page(&mut self, page: Vec<u8>) -> Result<(), ManifestError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let parsed = self.next_page(page);
        self.failed = parsed.err();
        parsed
    }

    fn next_page(&mut self, page: Vec<u8>) -> Result<(), ManifestError> {
        if page.len() > limits::RECORD_TEXT {
            return Err(ManifestError::Malformed(Malformed::Bounds));
        }
        let mut reader = Reader::new(&page)?;
        let count = usize::try_from(reader.array()?).map_err(|_| Malformed::Bounds)?;
        if count == 0 {
            return Err(ManifestError::Empty);
        }
        let mut starts = Vec::with_capacity(count);
        for _ in 0..count {
            let start = reader.position();
            let entry = Entry::decode(&mut reader)?;
            if starts.is_empty() && self.would_have_held(reader.position() - start) {
                return Err(ManifestError::NotGreedy);
            }
            starts.push(start);
            self.list.entry(&entry)?;
            if self.list.layout.entries() > self.entries || self.list.layout.bytes() > self.bytes {
                return Err(ManifestError::Mismatch);
            }
            self.list.previous = Some(entry);
        }
        self.last_page = Some((count, page.len() - head_len(count)));
        self.list.add_page(page, starts)
    }

    /// Whether an entry of this length would have found room in the last page.
    // XFER-3.
    fn would_have_held(&self, len: usize) -> bool {
        self.last_page.is_some_and(|(count, body)| page_len(count + 1, body + len) <= limits::RECORD_TEXT)
    }

    /// The manifest, after the last page.
    ///
    /// # Errors
    /// [`ManifestError::Mismatch`] if it is not what was offered; the error of a page that failed.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.list.layout.entries() != self.entries || self.list.layout.bytes() != self.bytes {
            return Err(ManifestError::Mismatch);
        }
        let manifest = self.list.finish();
        if manifest.digest == self.digest || planted!(ManifestMismatchAccepted) { Ok(manifest) } else { Err(ManifestError::Mismatch) }
    }
}

#[cfg(feature = "serde")]
mod serde;
#[cfg(test)]
mod tests;
