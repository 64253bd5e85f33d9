//! Manifests written by hand: what no honest device writes, and what every honest one does.

use minicbor::Encoder;
use protocol_core::crypto::kdf::put_lp;
use protocol_core::crypto::labels::strings;
use protocol_core::ids::TransferId;

pub(crate) const CHUNK: u32 = 65_536;

/// An entry in which every number may be wrong.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) components: Vec<Vec<u8>>,
    pub(crate) kind: u64,
    pub(crate) size: u64,
    pub(crate) mode: u64,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u64,
    pub(crate) target: Option<Vec<u8>>,
}

/// An offer in which every number may be wrong, and the pages behind it.
#[derive(Clone)]
pub(crate) struct Lie {
    pub(crate) transfer: TransferId,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) chunk_size: u64,
    /// `None`: the digest that is right.
    pub(crate) digest: Option<[u8; 32]>,
    pub(crate) pages: Vec<Vec<u8>>,
}

/// Components of a path in text; only here `/` stands between them.
pub(crate) fn path(text: &str) -> Vec<Vec<u8>> {
    text.split('/').map(|component| component.as_bytes().to_vec()).collect()
}

pub(crate) fn file(components: Vec<Vec<u8>>) -> Entry {
    Entry { components, kind: 0, size: 5, mode: 0o644, mtime_s: 1_600_000_000, mtime_ns: 7, target: None }
}

pub(crate) fn dir(text: &str) -> Entry {
    Entry { kind: 1, size: 0, mode: 0o755, ..file(path(text)) }
}

pub(crate) fn link(text: &str, target: Option<&[u8]>) -> Entry {
    Entry { kind: 2, size: 0, mode: 0o777, target: target.map(<[u8]>::to_vec), ..file(path(text)) }
}

/// Bytes that `write` writes.
pub(crate) fn cbor(write: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder);
    encoder.into_writer()
}

impl Entry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        cbor(|to| {
            to.array(7).unwrap().array(self.components.len() as u64).unwrap();
            for component in &self.components {
                to.bytes(component).unwrap();
            }
            to.u64(self.kind).unwrap().u64(self.size).unwrap().u64(self.mode).unwrap().i64(self.mtime_s).unwrap();
            to.u64(self.mtime_ns).unwrap();
            match &self.target {
                Some(target) => to.bytes(target).unwrap(),
                None => to.null().unwrap(),
            };
        })
    }
}

/// A page of these entries.
pub(crate) fn page(entries: &[Entry]) -> Vec<u8> {
    let mut page = cbor(|to| {
        to.array(entries.len() as u64).unwrap();
    });
    entries.iter().for_each(|entry| page.extend(entry.encode()));
    page
}

impl Lie {
    /// An offer that is true of these entries, if they can be.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let bytes = entries.iter().fold(0_u64, |sum, entry| sum.wrapping_add(entry.size));
        Self { entries: entries.len() as u64, bytes, ..Self::of_page(page(entries)) }
    }

    /// An offer of one entry of 5 bytes, with a page that may be anything.
    pub(crate) fn of_page(page: Vec<u8>) -> Self {
        let mut transfer = [0; 16];
        getrandom::fill(&mut transfer).unwrap();
        Self { transfer: TransferId(transfer), entries: 1, bytes: 5, chunk_size: CHUNK.into(), digest: None, pages: vec![page] }
    }

    pub(crate) fn manifest_digest(&self) -> [u8; 32] {
        self.digest.unwrap_or_else(|| {
            let mut all = Vec::new();
            put_lp(&mut all, strings::MANIFEST);
            all.extend_from_slice(&u32::try_from(self.chunk_size).unwrap_or(0).to_be_bytes());
            self.pages.iter().for_each(|page| put_lp(&mut all, page));
            blake3::hash(&all).into()
        })
    }

    /// The body of its Offer.
    pub(crate) fn offer(&self) -> Vec<u8> {
        cbor(|to| {
            to.array(7).unwrap().u8(16).unwrap().bytes(&self.transfer.0).unwrap().u64(self.entries).unwrap();
            to.u64(self.bytes).unwrap().u64(self.chunk_size).unwrap().bytes(&self.manifest_digest()).unwrap().null().unwrap();
        })
    }
}

/// A control message with this body.
pub(crate) fn message(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}
