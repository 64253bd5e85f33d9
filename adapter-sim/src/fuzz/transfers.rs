//! Manifests, and the layout that follows from them.

use protocol_core::crypto::kdf::put_lp;
use protocol_core::crypto::labels::strings;
use protocol_core::ids::TransferId;
use protocol_core::limits;
use protocol_core::transfer::layout::Layout;
use protocol_core::transfer::manifest::{EntryKind, Manifest, ManifestError, ManifestParser};
use protocol_core::wire::cbor::{Malformed, Reader};
use protocol_core::wire::control::Offer;

use super::tape::Tape;

/// The pages of an offered manifest: the first byte is the logarithm of the chunk size, then each page with its length. The offer
/// is the one that fits them, so that the pages alone decide.
pub fn manifest(data: &[u8]) {
    let mut tape = Tape::new(data);
    let chunk_size = 1_u32 << (tape.byte() % 32);
    let mut pages = Vec::new();
    while !tape.ended() {
        pages.push(tape.counted());
    }
    let (mut entries, mut bytes, mut readable) = (0_u32, 0_u64, true);
    for page in &pages {
        let announced = announced(page);
        readable &= announced.is_ok();
        let (more, sizes) = announced.unwrap_or_default();
        (entries, bytes) = (entries.saturating_add(more), bytes.saturating_add(sizes));
    }
    let offer =
        Offer { transfer: TransferId([1; 16]), entries, bytes, chunk_size, manifest_digest: digest(chunk_size, &pages), label: None };
    match parse(&offer, &pages) {
        Ok(manifest) => check_accepted(&manifest, &pages),
        Err(error) => {
            // Every error is one that the sender can be told.
            let _: u64 = error.reason().number();
            assert!(!readable || error != ManifestError::Mismatch, "the offer fits what is readable");
        }
    }
}

fn parse(offer: &Offer, pages: &[&[u8]]) -> Result<Manifest, ManifestError> {
    let mut parser = ManifestParser::new(offer)?;
    for page in pages {
        if let Err(error) = parser.page(page.to_vec()) {
            assert_eq!(parser.page(vec![0x80]), Err(error), "an error is for ever");
            return Err(error);
        }
    }
    if pages.is_empty() {
        return parser.finish().and(Err(ManifestError::Empty)).map_err(|_| ManifestError::Empty);
    }
    parser.finish()
}

/// Entries and bytes of a page, as far as it is readable.
fn announced(page: &[u8]) -> Result<(u32, u64), Malformed> {
    let mut reader = Reader::new(page)?;
    let entries = reader.array()?;
    let mut bytes = 0_u64;
    for _ in 0..entries {
        reader.fields(7)?;
        reader.skip()?;
        reader.skip()?;
        bytes = bytes.saturating_add(reader.u64()?);
        (0..4).try_for_each(|_| reader.skip())?;
    }
    Ok((u32::try_from(entries).unwrap_or(u32::MAX), bytes))
}

fn digest(chunk_size: u32, pages: &[&[u8]]) -> [u8; 32] {
    let mut all = Vec::new();
    put_lp(&mut all, strings::MANIFEST);
    all.extend_from_slice(&chunk_size.to_be_bytes());
    pages.iter().for_each(|page| put_lp(&mut all, page));
    blake3::hash(&all).into()
}

fn check_accepted(manifest: &Manifest, pages: &[&[u8]]) {
    assert!(manifest.pages().eq(pages.iter().copied()), "the pages are kept as they came");
    let entries: Vec<_> = manifest.entries().collect();
    assert_eq!(entries.len(), manifest.len() as usize, "every entry is readable again");
    assert_eq!(entries.iter().map(|entry| entry.size).sum::<u64>(), manifest.bytes());
    assert!(entries.windows(2).all(|two| two[0].components < two[1].components));
    for entry in &entries {
        assert_eq!(entry.check(), Ok(()));
        let harmful =
            |name: &Vec<u8>| matches!(&name[..], b"" | b"." | b"..") || name.len() > 255 || name.iter().any(|b| matches!(b, 0 | b'/'));
        assert!(!entry.components.iter().any(harmful), "{entry:?}");
        let (_, parent) = entry.components.split_last().expect("a path has a name");
        let is_parent = |other: &&protocol_core::transfer::manifest::Entry| other.components == parent;
        assert!(parent.is_empty() || entries.iter().find(is_parent).is_some_and(|dir| dir.kind == EntryKind::Directory));
    }
    let again = Manifest::build(entries, manifest.chunk_size()).expect("it was accepted");
    assert!(again.pages().eq(pages.iter().copied()), "one list of entries has one form");
    assert_eq!(again.digest(), manifest.digest());
}

/// The layout of any sizes, against the rule. The first byte is the logarithm of the chunk size above the smallest.
pub fn layout(data: &[u8]) {
    let mut tape = Tape::new(data);
    let chunk_size = limits::CHUNK_SIZE_RANGE.0 << (tape.byte() % 7);
    let mut sizes = Vec::new();
    while !tape.ended() {
        sizes.push(tape.number());
    }
    let Ok(layout) = Layout::new(sizes.iter().copied(), chunk_size) else {
        let bytes: u128 = sizes.iter().map(|&size| u128::from(size)).sum();
        let most = u128::from(limits::TRANSFER_CHUNKS) * u128::from(chunk_size);
        assert!(bytes >= u128::from(limits::TRANSFER_BYTES) || 2 * bytes + sizes.len() as u128 > most, "refused without need");
        return;
    };
    assert_eq!((layout.bytes(), layout.entries() as usize), (sizes.iter().sum(), sizes.len()));
    assert!(layout.bytes() < limits::TRANSFER_BYTES && layout.chunks() <= limits::TRANSFER_CHUNKS);
    let mut seen = Vec::new();
    for (entry, &size) in (0..).zip(&sizes) {
        let chunks = layout.chunks_of(entry);
        assert_eq!(chunks.end - chunks.start, size.div_ceil(u64::from(chunk_size)));
        seen.extend([chunks.start, chunks.end.saturating_sub(1), chunks.end]);
    }
    seen.sort_unstable();
    seen.dedup();
    seen.iter().for_each(|&chunk| check_chunk(&layout, &sizes, chunk));
}

fn check_chunk(layout: &Layout, sizes: &[u64], chunk: u64) {
    let pieces: Vec<_> = layout.pieces(chunk).collect();
    if chunk >= layout.chunks() {
        assert!(pieces.is_empty() && layout.chunk_len(chunk).is_none());
        return;
    }
    let len: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
    assert_eq!(layout.chunk_len(chunk).map(u64::from), Some(len));
    assert!((1..=u64::from(layout.chunk_size())).contains(&len));
    for piece in &pieces {
        let size = sizes[piece.entry as usize];
        assert!(piece.offset + u64::from(piece.len) <= size && piece.offset.is_multiple_of(layout.chunk_size().into()));
        assert_eq!(piece.whole, u64::from(piece.len) == size);
        assert!(layout.chunks_of(piece.entry).contains(&chunk));
    }
}
