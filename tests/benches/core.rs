//! Sealing and opening chunks, with their digests, against the bare AEAD and BLAKE3 on the same buffers.
//!
//! ```sh
//! cargo bench -p kin-tests --bench core
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on says where")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use adapter_tokio::cipher::Ring;
use kin_tests::figures::Figure;
use protocol_core::bulk::chunks::Chunks;
use protocol_core::bulk::cipher::Aead;
use protocol_core::bulk::digest;
use protocol_core::bulk::opener::Opener;
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD, ChunkKey, Sealer};
use protocol_core::crypto::secret::Secret;
use protocol_core::ids::TransferId;
use protocol_core::transfer::layout::Layout;
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

const CHUNK: u32 = 256 << 10;
const LEN: usize = CHUNK as usize;
const TAG: usize = CHUNK_OVERHEAD - CHUNK_HEAD;
/// Chunks of one round.
const CHUNKS: u64 = 256;
const ROUNDS: usize = 15;
const TRANSFER: TransferId = TransferId([4; 16]);

fn key(aead: Aead) -> ChunkKey {
    ChunkKey::with_key(Secret::new([7; 32]), aead, TRANSFER, Arc::new(Ring))
}

fn bare(aead: Aead) -> LessSafeKey {
    let algorithm = if aead == Aead::Aes256Gcm { &AES_256_GCM } else { &CHACHA20_POLY1305 };
    LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32]).unwrap())
}

fn nonce(index: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn chunks() -> Arc<Chunks> {
    let layout = Layout::new([CHUNKS * u64::from(CHUNK)], CHUNK).unwrap();
    let chunks = Chunks::new(TRANSFER, Arc::new(layout)).unwrap();
    chunks.allow(&(0..CHUNKS).into());
    chunks
}

/// Nanoseconds of a chunk.
fn per_chunk(round: impl FnOnce()) -> f64 {
    let started = Instant::now();
    round();
    started.elapsed().as_nanos() as f64 / CHUNKS as f64
}

fn core_seals(aead: Aead, frame: &mut [u8]) -> f64 {
    let sealer = Sealer::new(key(aead), chunks().lane());
    per_chunk(|| {
        while let Some(run) = sealer.next(4) {
            for claim in run {
                for piece in claim.pieces() {
                    black_box(digest::value(&piece, &frame[CHUNK_HEAD..CHUNK_HEAD + LEN]).unwrap());
                }
                sealer.seal(claim, frame).unwrap();
            }
        }
    })
}

fn bare_seals(aead: Aead, frame: &mut [u8]) -> f64 {
    let key = bare(aead);
    per_chunk(|| {
        for index in 0..CHUNKS {
            let text = &mut frame[CHUNK_HEAD..CHUNK_HEAD + LEN];
            black_box(blake3::hash(text));
            let tag = key.seal_in_place_separate_tag(nonce(index), Aad::empty(), text).unwrap();
            frame[CHUNK_HEAD + LEN..].copy_from_slice(tag.as_ref());
        }
    })
}

/// Frames that both ways of opening are given in turn; each is opened in a copy, which is not timed.
fn core_opens(aead: Aead, sealed: &[Vec<u8>]) -> f64 {
    let (opener, chunks) = (Opener::new(key(aead), CHUNK), chunks());
    let mut total = 0.0;
    let mut frame = vec![0; LEN + CHUNK_OVERHEAD];
    for sealed in sealed {
        frame.copy_from_slice(sealed);
        let started = Instant::now();
        let (head, body) = frame.split_first_chunk_mut().unwrap();
        let (index, len) = opener.head(head).unwrap();
        let claim = chunks.take(index, len - TAG as u32).unwrap();
        let len = opener.open(index, body).unwrap();
        for piece in claim.pieces() {
            black_box(digest::value(&piece, &body[..len]).unwrap());
        }
        claim.finish();
        total += started.elapsed().as_nanos() as f64;
    }
    total / CHUNKS as f64
}

fn bare_opens(aead: Aead, sealed: &[Vec<u8>]) -> f64 {
    let key = bare(aead);
    let mut total = 0.0;
    let mut frame = vec![0; LEN + CHUNK_OVERHEAD];
    for (sealed, index) in sealed.iter().zip(0..) {
        frame.copy_from_slice(sealed);
        let started = Instant::now();
        let (text, tag) = frame[CHUNK_HEAD..].split_last_chunk_mut::<TAG>().unwrap();
        let opened = key.open_in_place_separate_tag(nonce(index), Aad::empty(), Tag::from(*tag), text, 0..).unwrap();
        black_box(blake3::hash(opened));
        total += started.elapsed().as_nanos() as f64;
    }
    total / CHUNKS as f64
}

fn core_frames(aead: Aead) -> Vec<Vec<u8>> {
    let key = key(aead);
    let frames = (0..CHUNKS).map(|index| {
        let mut frame = vec![index as u8; LEN + CHUNK_OVERHEAD];
        key.seal(index, &mut frame).unwrap();
        frame
    });
    frames.collect()
}

fn bare_frames(aead: Aead) -> Vec<Vec<u8>> {
    let key = bare(aead);
    let frames = (0..CHUNKS).map(|index| {
        let mut frame = vec![index as u8; LEN + CHUNK_OVERHEAD];
        let tag = key.seal_in_place_separate_tag(nonce(index), Aad::empty(), &mut frame[CHUNK_HEAD..CHUNK_HEAD + LEN]).unwrap();
        frame[CHUNK_HEAD + LEN..].copy_from_slice(tag.as_ref());
        frame
    });
    frames.collect()
}

fn row(what: &str, mut core: impl FnMut() -> f64, mut bare: impl FnMut() -> f64) {
    core();
    bare();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(core());
        theirs.push(bare());
    }
    let gib = |ns: &[f64]| Figure::of(ns.iter().map(|ns| f64::from(CHUNK) / ns));
    println!("| {what} | {} | {} | {:.3} |", gib(&ours), gib(&theirs), Figure::ratio(&theirs, &ours));
}

fn main() {
    println!("| chunks of 256 KiB | core, GB/s | bare, GB/s | core ÷ bare |\n| --- | --- | --- | --- |");
    for (aead, name) in [(Aead::Aes256Gcm, "AES-256-GCM"), (Aead::ChaCha20Poly1305, "ChaCha20-Poly1305")] {
        let (mut one, mut other) = (vec![1; LEN + CHUNK_OVERHEAD], vec![1; LEN + CHUNK_OVERHEAD]);
        row(&format!("seal + digest, {name}"), || core_seals(aead, &mut one), || bare_seals(aead, &mut other));
        let (one, other) = (core_frames(aead), bare_frames(aead));
        row(&format!("open + digest, {name}"), || core_opens(aead, &one), || bare_opens(aead, &other));
    }
}
