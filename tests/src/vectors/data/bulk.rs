//! Bulk streams opened by either side, and chunks in both directions under both AEADs.

use std::sync::Arc;

use protocol_core::bulk::cipher::{Aead, RustCrypto};
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD, ChunkKey};
use protocol_core::crypto::aead::TAG;
use protocol_core::crypto::secret::Secret;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::session::stream::{Header, Opening, StreamKind};
use protocol_core::wire::deframer::{Content, Deframer, StreamName};
use serde_json::{Value, json};

use super::transfer::{Transfer, content};
use super::{Context, array, bytes, deframe, hex, proved};

/// One bulk stream.
struct Stream<'t> {
    transfer: &'t Transfer,
    header: Header,
    reply: [u8; 16],
    open: StreamKey,
    answer: StreamKey,
}

/// A frame with room for head and tag.
fn room(text: &[u8]) -> Vec<u8> {
    [&[0; CHUNK_HEAD], text, &[0; TAG]].concat()
}

impl Stream<'_> {
    fn opening(&self) -> Opening {
        Opening::Bulk { transfer: self.transfer.id, manifest_digest: *self.transfer.manifest.digest() }
    }

    fn chunk_key(&self, stream: &StreamKey, aead: Aead) -> ChunkKey {
        ChunkKey::new(stream, aead, self.transfer.id, self.transfer.manifest.digest(), Arc::new(RustCrypto))
    }

    /// The sealed opening record, if the file's goes through deframer, opener and decoder, and chunks are left to others.
    fn opening_record(&self, file: &Value) -> Option<Value> {
        let theirs = bytes(&file["opening"])?;
        let chunks = b"chunks";
        let stream = [StreamName::Data(StreamKind::Bulk).preamble(), bytes(&file["header"])?, theirs.clone(), chunks.to_vec()];
        let (frames, rest) = deframe(Deframer::accepting(), &stream.concat()).ok()?;
        let cut = rest == chunks && frames.get(1..) == Some(&[Content::Header(self.header), Content::Record(theirs.clone())]);
        let opened = RecordOpener::new(&self.open).open(&theirs).ok();
        let takes = matches!(opened, Some((RecordType::Opening, text)) if Opening::decode(StreamKind::Bulk, &text) == Ok(self.opening()));
        let ours = RecordSealer::new(&self.open).seal(RecordType::Opening, &self.opening().encode()).ok()?;
        Some(proved(ours, cut && takes))
    }

    /// A chunk of the transfer, sealed, if the file's opens to the same content.
    fn chunk(&self, stream: &StreamKey, aead: Aead, index: u64, file: &Value) -> Option<Value> {
        let layout = self.transfer.manifest.layout();
        let text = layout.pieces(index).flat_map(|piece| content(&piece)).collect::<Vec<_>>();
        let mut ours = room(&text);
        self.chunk_key(stream, aead).seal(index, &mut ours).ok()?;

        let opener = Opener::new(self.chunk_key(stream, aead), layout.chunk_size());
        let mut theirs = bytes(file)?;
        let (head, body) = theirs.split_first_chunk_mut()?;
        let named = opener.head(head).ok()?;
        let takes = named == (index, u32::try_from(body.len()).ok()?) && opener.open(index, body) == Ok(text.len());
        Some(proved(ours, takes && body.starts_with(&text) && layout.chunk_len(index) == u32::try_from(text.len()).ok()))
    }

    fn key(&self, stream: &StreamKey, aead: Aead) -> Value {
        hex(self.chunk_key(stream, aead).key().bytes())
    }
}

impl Context<'_> {
    pub(super) fn bulk(&self, transfer: &Transfer) -> Option<Value> {
        let file = &self.json["bulk"];
        let (header, reply) = (Header::new(StreamKind::Bulk, self.session, 6, self.input(15)).ok()?, self.input(17));
        let open = StreamKey::of_opener(&self.traffic_d2l, &header);
        let answer = StreamKey::of_answerer(&self.traffic_l2d, &header, &reply);
        let stream = Stream { transfer, header, reply, open, answer };
        let last = transfer.manifest.layout().chunks().checked_sub(1)?;
        let (chacha, gcm) = (Aead::ChaCha20Poly1305, Aead::Aes256Gcm);
        Some(json!({
            "header": hex(stream.header.encode()),
            "reply": hex(stream.reply),
            "k_open": hex(stream.open.key().bytes()),
            "k_answer": hex(stream.answer.key().bytes()),
            "opening": stream.opening_record(file),
            "chunk_key_open_chacha": stream.key(&stream.open, chacha),
            "chunk_key_open_gcm": stream.key(&stream.open, gcm),
            "chunk_key_answer_chacha": stream.key(&stream.answer, chacha),
            "chunk_key_answer_gcm": stream.key(&stream.answer, gcm),
            "last_index": last,
            "last_chunk_chacha": stream.chunk(&stream.open, chacha, last, &file["last_chunk_chacha"]),
            "last_chunk_gcm": stream.chunk(&stream.open, gcm, last, &file["last_chunk_gcm"]),
            "last_chunk_answer_gcm": stream.chunk(&stream.answer, gcm, last, &file["last_chunk_answer_gcm"]),
            "opened_by_l": self.opened_by_l(transfer),
            "aead_only": aead_only(transfer, stream.key(&stream.open, chacha), &file["aead_only"]),
        }))
    }

    fn opened_by_l(&self, transfer: &Transfer) -> Option<Value> {
        let file = &self.json["bulk"]["opened_by_l"];
        let (header, reply) = (Header::new(StreamKind::Bulk, self.session, 1, self.input(19)).ok()?, self.input(20));
        let open = StreamKey::of_opener(&self.traffic_l2d, &header);
        let answer = StreamKey::of_answerer(&self.traffic_d2l, &header, &reply);
        let stream = Stream { transfer, header, reply, open, answer };
        let tail = transfer.manifest.layout().chunks_of(1).end.checked_sub(1)?;
        let chacha = Aead::ChaCha20Poly1305;
        Some(json!({
            "header": hex(stream.header.encode()),
            "reply": hex(stream.reply),
            "k_open": hex(stream.open.key().bytes()),
            "k_answer": hex(stream.answer.key().bytes()),
            "opening": stream.opening_record(file),
            "chunk_key_answer_chacha": stream.key(&stream.answer, chacha),
            "tail_index": tail,
            "tail_answer_chacha": stream.chunk(&stream.answer, chacha, tail, &file["tail_answer_chacha"]),
        }))
    }
}

/// A frame for the AEAD alone: its index fits no layout. Its key is that of a stream.
fn aead_only(transfer: &Transfer, of_stream: Value, file: &Value) -> Option<Value> {
    let index = file["index"].as_str()?.parse::<u64>().ok()?;
    let text = bytes(&file["plaintext"])?;
    let key = Secret::new(array(&file["key"])?);
    let key = ChunkKey::with_key(key, Aead::ChaCha20Poly1305, transfer.id, Arc::new(RustCrypto));
    let mut ours = room(&text);
    key.seal(index, &mut ours).ok()?;
    let mut theirs = bytes(&file["frame"])?;
    let body = theirs.get_mut(CHUNK_HEAD..)?;
    let takes =
        key.open(index, body) == Ok(text.len()) && body.starts_with(&text) && body.len() + CHUNK_HEAD == text.len() + CHUNK_OVERHEAD;
    Some(json!({
        "aead": "ChaCha20-Poly1305",
        "key": of_stream,
        "index": index.to_string(),
        "plaintext": hex(text),
        "frame": proved(ours, takes),
    }))
}
