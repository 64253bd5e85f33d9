//! The few trees that are sent about. Every file holds zeros.

use std::sync::{Arc, OnceLock};

use protocol_core::bulk::digest::{Value, value};
use protocol_core::ids::TransferId;
use protocol_core::transfer::layout::Piece;
use protocol_core::transfer::manifest::{Entry, EntryKind, Manifest};
use protocol_core::transfer::receipt::{Outcome, ReceiptDigest};
use protocol_core::wire::control::Offer;

static MANIFESTS: OnceLock<Vec<Arc<Manifest>>> = OnceLock::new();

/// A small file; a directory with some of everything; two files of several chunks; more names than a stream is given at once.
pub(super) fn manifest(choice: u8) -> Arc<Manifest> {
    let all = MANIFESTS.get_or_init(|| {
        let file = |name: &str, size| entry(name, EntryKind::File, size);
        let link = Entry { target: Some(b"a".to_vec()), ..entry("d/l", EntryKind::Symlink, 0) };
        let some = vec![entry("d", EntryKind::Directory, 0), file("d/a", 100), file("d/empty", 0), link, file("e", 1)];
        let many = (0..1300).map(|number| file(&format!("{number:0>250}"), 0)).collect();
        let lists = [vec![file("one", 10)], some, vec![file("long", 200_000), file("longer", 70_000)], many];
        lists.into_iter().map(|list| Arc::new(Manifest::build(list, 64 << 10).expect("it obeys every rule"))).collect()
    });
    Arc::clone(&all[usize::from(choice) % all.len()])
}

fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
    let components = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
    Entry { components, kind, size, mode: 0o644, mtime_s: 0, mtime_ns: 0, target: None }
}

pub(super) fn offer(manifest: &Manifest, transfer: TransferId) -> Offer {
    Offer {
        transfer,
        entries: manifest.len(),
        bytes: manifest.bytes(),
        chunk_size: manifest.chunk_size(),
        manifest_digest: *manifest.digest(),
        label: None,
    }
}

/// What a worker finds for a piece.
pub(super) fn piece_value(piece: &Piece) -> Value {
    value(piece, &vec![0; piece.len as usize]).expect("a piece of a layout")
}

/// The digests of all entries, zeros for what is no file.
pub(super) fn digests(manifest: &Manifest) -> Vec<[u8; 32]> {
    let digest = |entry: Entry| match entry.kind {
        EntryKind::File => blake3::hash(&vec![0; usize::try_from(entry.size).unwrap_or(0)]).into(),
        EntryKind::Directory | EntryKind::Symlink => [0; 32],
    };
    manifest.entries().map(digest).collect()
}

/// The receipt for everything stored.
pub(super) fn receipt(manifest: &Manifest, transfer: TransferId) -> [u8; 32] {
    let mut receipt = ReceiptDigest::new(transfer, manifest.digest());
    for (entry, digest) in manifest.entries().zip(digests(manifest)) {
        receipt.entry(entry.kind, entry.size, Outcome::Stored, Some(&digest));
    }
    receipt.finish()
}
