//! Manifest, layout, digests, receipts and the control messages of one transfer; plain BLAKE3.

use minicbor::Decoder;
use minicbor::data::Type;
use protocol_core::bulk::digest::{self, FileDigest};
use protocol_core::ids::TransferId;
use protocol_core::transfer::layout::{Layout, Piece};
use protocol_core::transfer::manifest::{Entry, EntryKind, Manifest, ManifestParser};
use protocol_core::transfer::receipt::{Outcome, ReceiptDigest};
use protocol_core::wire::control::{CancelReason, ControlMessage, ControlReader, DeclineReason, Item, MessageState, Offer};
use serde_json::{Map, Value, json};

use super::{Context, array, bytes, hex, proved};

/// The transfer of the vectors, built anew.
pub(super) struct Transfer {
    pub(super) id: TransferId,
    pub(super) manifest: Manifest,
    entries: Vec<Entry>,
    digests: Vec<[u8; 32]>,
    outcomes: Vec<Outcome>,
    parsed: bool,
}

/// What a receiver makes of `pages`; `None` if it refuses them.
fn parsed<'p>(offer: &Offer, pages: impl IntoIterator<Item = &'p [u8]>) -> Option<Manifest> {
    let mut parser = ManifestParser::new(offer).ok()?;
    for page in pages {
        parser.page(page.to_vec()).ok()?;
    }
    parser.finish().ok()
}

/// The entries of a page, read without the shipped decoder: only then can they be built into a manifest.
fn entries(page: &[u8]) -> Option<Vec<Entry>> {
    let mut from = Decoder::new(page);
    let count = from.array().ok()??;
    (0..count)
        .map(|_| {
            from.array().ok()??;
            let depth = from.array().ok()??;
            let components = (0..depth).map(|_| from.bytes().ok().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
            let kind = [EntryKind::File, EntryKind::Directory, EntryKind::Symlink].into_iter().nth(from.u8().ok()?.into())?;
            let (size, mode) = (from.u64().ok()?, from.u16().ok()?);
            let (mtime_s, mtime_ns) = (from.i64().ok()?, from.u32().ok()?);
            let null = from.datatype().ok()? == Type::Null;
            let target = if null { from.null().ok().map(|()| None) } else { from.bytes().ok().map(|target| Some(target.to_vec())) }?;
            Some(Entry { components, kind, size, mode, mtime_s, mtime_ns, target })
        })
        .collect()
}

/// Bytes of a piece: byte k of entry i is (7·k + 13·i) mod 256.
pub(super) fn content(piece: &Piece) -> Vec<u8> {
    let from = 13 * u64::from(piece.entry) + 7 * piece.offset;
    (0..u64::from(piece.len)).map(|k| (from + 7 * k).to_le_bytes()[0]).collect()
}

/// The digest of one entry, from the values of its pieces, the last one first.
fn digest_of(entry: u32, size: u64, layout: &Layout) -> Option<[u8; 32]> {
    let mut file = FileDigest::new(size, layout.chunk_size());
    for piece in layout.chunks_of(entry).rev().flat_map(|chunk| layout.pieces(chunk)).filter(|piece| piece.entry == entry) {
        file.add(piece.offset, digest::value(&piece, &content(&piece)).ok()?);
    }
    file.digest()
}

impl Transfer {
    fn new(context: &Context<'_>) -> Option<Self> {
        let file = &context.json["transfer"];
        let page = bytes(&file["entries_cbor"])?;
        let chunk_size = u32::try_from(file["chunk_size"].as_u64()?).ok()?;
        let entries = entries(&page)?;
        let manifest = Manifest::build(entries.iter().cloned(), chunk_size).ok()?;
        let digests = (0..)
            .zip(&entries)
            .map(|(number, entry)| match entry.kind {
                EntryKind::File => digest_of(number, entry.size, manifest.layout()),
                EntryKind::Directory | EntryKind::Symlink => Some([0; 32]),
            })
            .collect::<Option<_>>()?;
        let outcomes = file["mixed_outcomes"].as_array()?.iter();
        let outcomes = outcomes.map(|number| Some(Outcome::of(u8::try_from(number.as_u64()?).ok()?))).collect::<Option<_>>()?;
        let mut transfer = Self { id: TransferId(context.input(14)), manifest, entries, digests, outcomes, parsed: false };
        let receiver = parsed(&transfer.offer(None), [&page[..]]);
        transfer.parsed = transfer.manifest.pages().eq([&page[..]])
            && receiver.is_some_and(|manifest| manifest.entries().eq(transfer.entries.iter().cloned()));
        Some(transfer)
    }

    fn offer(&self, label: Option<String>) -> Offer {
        Offer {
            transfer: self.id,
            entries: self.manifest.len(),
            bytes: self.manifest.bytes(),
            chunk_size: self.manifest.chunk_size(),
            manifest_digest: *self.manifest.digest(),
            label,
        }
    }

    fn receipt(&self, outcome: impl Fn(usize) -> Outcome) -> [u8; 32] {
        let mut receipt = ReceiptDigest::new(self.id, self.manifest.digest());
        for (at, (entry, digest)) in self.entries.iter().zip(&self.digests).enumerate() {
            receipt.entry(entry.kind, entry.size, outcome(at), Some(digest));
        }
        receipt.finish()
    }

    fn mixed(&self, at: usize) -> Outcome {
        self.outcomes.get(at).copied().unwrap_or(Outcome::Stored)
    }

    pub(super) fn section(&self, context: &Context<'_>) -> Value {
        let layout = self.manifest.layout();
        let chunks = (0..layout.chunks()).map(|chunk| layout.pieces(chunk).collect::<Vec<_>>()).collect::<Vec<_>>();
        let lens = chunks.iter().map(|pieces| Some(pieces.iter().map(|piece| piece.len).sum()));
        let lens_agree = lens.eq((0..layout.chunks()).map(|chunk| layout.chunk_len(chunk)));
        let triples = |pieces: &Vec<Piece>| pieces.iter().map(|piece| json!([piece.entry, piece.offset, piece.len])).collect();
        json!({
            "transfer_id": hex(self.id.0),
            "chunk_size": self.manifest.chunk_size(),
            "entries_cbor": proved(self.manifest.pages().collect::<Vec<_>>().concat(), self.parsed),
            "content": "byte k of entry i is (7*k + 13*i) mod 256",
            "mixed_outcomes": self.outcomes.iter().map(|outcome| outcome.number()).collect::<Vec<_>>(),
            // Read by the page parser, as a receiver would.
            "manifest_digest": proved(self.manifest.digest(), self.parsed),
            "layout": lens_agree.then(|| chunks.iter().map(triples).collect::<Vec<Value>>()),
            "digests": self.digests.iter().map(hex).collect::<Vec<_>>(),
            "receipt": hex(self.receipt(|_| Outcome::Stored)),
            "receipt_mixed": hex(self.receipt(|at| self.mixed(at))),
            "two_pages": two_pages(&context.json["transfer"]["two_pages"]),
            "message_id": hex(context.input::<16>(18)),
            "messages": self.messages(context),
        })
    }

    /// The messages with the arguments that the vectors have, if the file's read back as the same.
    fn messages(&self, context: &Context<'_>) -> Value {
        let file = &context.json["transfer"]["messages"];
        let ours = self.of_transfer().into_iter().chain(Self::others(context.input(18)));
        let ours = ours.map(|(name, message)| {
            let takes = bytes(&file[name]).and_then(|bytes| read(&bytes)).as_ref() == Some(&message);
            (name.to_owned(), proved(message.encode(), takes))
        });
        ours.collect::<Map<_, _>>().into()
    }

    fn of_transfer(&self) -> Vec<(&'static str, ControlMessage)> {
        let transfer = self.id;
        let (entries, chunks) = (self.manifest.len(), self.manifest.layout().chunks());
        let others = (0..entries).zip(self.outcomes.iter().copied()).filter(|(_, outcome)| *outcome != Outcome::Stored);
        let digests = self.digests.get(1..4).unwrap_or_default().to_vec();
        vec![
            ("offer", ControlMessage::Offer(self.offer(Some("album".into())))),
            (
                "accept",
                ControlMessage::Accept { transfer, chunks: [0..2, 3..4].into_iter().collect(), digests: (0..u64::from(entries)).into() },
            ),
            ("decline", ControlMessage::Decline { transfer, reason: DeclineReason::Mismatch }),
            ("file_digests", ControlMessage::FileDigests { transfer, first_entry: 1, digests }),
            ("stored", ControlMessage::Stored { transfer, chunks: (0..chunks).into() }),
            ("source_changed", ControlMessage::SourceChanged { transfer, entry: 5 }),
            ("cancel", ControlMessage::Cancel { transfer, reason: CancelReason::User }),
            ("pause", ControlMessage::Pause { transfer }),
            ("resume", ControlMessage::Resume { transfer }),
            ("receipt", ControlMessage::Receipt { transfer, digest: self.receipt(|_| Outcome::Stored), others: vec![], more: false }),
            (
                "receipt_mixed",
                ControlMessage::Receipt { transfer, digest: self.receipt(|at| self.mixed(at)), others: others.collect(), more: false },
            ),
            ("open_bulk", ControlMessage::OpenBulk { transfer, count: 2 }),
        ]
    }

    fn others(id: [u8; 16]) -> Vec<(&'static str, ControlMessage)> {
        let (content_type, body) = ("text/plain".into(), "grüß dich".into());
        vec![
            ("unpair", ControlMessage::Unpair),
            ("message", ControlMessage::Message { seq: 1, id, content_type, body }),
            ("message_receipt", ControlMessage::MessageReceipt { seq: 1, id, state: MessageState::Delivered }),
        ]
    }
}

/// The one message in these bytes.
fn read(bytes: &[u8]) -> Option<ControlMessage> {
    let mut reader = ControlReader::new();
    reader.push(bytes);
    match (reader.next(), reader.next(), reader.is_whole()) {
        (Some(Ok(Item::Message(message))), None, true) => Some(message),
        _ => None,
    }
}

/// What [`two_pages`] makes.
const TWO_PAGES: &str = "entry i of 900, from 0: one component, i as four digits, a hyphen and 60 times x; file, size i, mode 0o644, mtime_s i, mtime_ns 0, target null";

fn two_pages(file: &Value) -> Option<Value> {
    let chunk_size = u32::try_from(file["chunk_size"].as_u64()?).ok()?;
    let entries = (0..900_u32).map(|number| Entry {
        components: vec![format!("{number:04}-{}", "x".repeat(60)).into_bytes()],
        kind: EntryKind::File,
        size: number.into(),
        mode: 0o644,
        mtime_s: number.into(),
        mtime_ns: 0,
        target: None,
    });
    let manifest = Manifest::build(entries, chunk_size).ok()?;
    let offer = Offer {
        transfer: TransferId([0; 16]),
        entries: manifest.len(),
        bytes: manifest.bytes(),
        chunk_size,
        manifest_digest: array(&file["manifest_digest"])?,
        label: None,
    };
    let takes = parsed(&offer, manifest.pages()).is_some();
    Some(json!({
        "entries": TWO_PAGES,
        "chunk_size": manifest.chunk_size(),
        "page_lengths": manifest.pages().map(<[u8]>::len).collect::<Vec<_>>(),
        "manifest_digest": proved(manifest.digest(), takes),
    }))
}

impl Context<'_> {
    pub(super) fn transfer(&self) -> Option<Transfer> {
        Transfer::new(self)
    }

    /// Plain BLAKE3 of so many bytes, as a file in chunks of 64 KiB would have it.
    pub(super) fn blake3(&self) -> Value {
        let lengths = self.json["blake3"].as_object().into_iter().flatten().map(|(length, _)| length);
        let digest = |size: u64| digest_of(0, size, &Layout::new([size], 64 << 10).ok()?);
        let digests = lengths.map(|length| (length.clone(), json!(length.parse().ok().and_then(digest).map(hex))));
        digests.collect::<Map<_, _>>().into()
    }
}
