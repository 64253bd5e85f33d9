//! Chunk frames, sealed on any thread in any order (PROTOCOL.md, section 9.4).
//!
//! ```text
//! frame = u32_be len ‖ u64_be index ‖ ciphertext ‖ tag        len counts all behind itself
//! ```

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::chunks::{Claim, Lane, Run};
use super::cipher::{Aead, BulkCipher};
use crate::crypto::aead::{Forged, TAG};
use crate::crypto::kdf::expand;
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::ids::TransferId;
use crate::limits;
use crate::session::keys::StreamKey;

/// Bytes of a frame before the ciphertext: length and index.
pub const CHUNK_HEAD: usize = 12;
/// Bytes that a frame has more than its plaintext.
pub const CHUNK_OVERHEAD: usize = CHUNK_HEAD + TAG;
/// Bytes of the length, which it does not count.
const LENGTH: usize = 4;
const AAD: usize = 4 + strings::CHUNK_AAD.len() + 16 + 8;

/// The AEAD of one direction of one bulk stream, with its key. The key is wiped when dropped.
pub struct ChunkKey {
    key: Secret,
    aead: Aead,
    transfer: TransferId,
    cipher: Arc<dyn BulkCipher>,
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkKey").field("aead", &self.aead).field("transfer", &self.transfer).finish_non_exhaustive()
    }
}

impl ChunkKey {
    /// `k_chunks`, from the key of the sealing side's direction.
    pub fn new(stream: &StreamKey, aead: Aead, transfer: TransferId, manifest_digest: &[u8; 32], cipher: Arc<dyn BulkCipher>) -> Self {
        let key = expand(stream.key(), labels::DATA_CHUNKS, &[&[aead as u8], &transfer.0, manifest_digest]);
        Self { key, aead, transfer, cipher }
    }

    /// With a `k_chunks` that is known already.
    pub const fn with_key(key: Secret, aead: Aead, transfer: TransferId, cipher: Arc<dyn BulkCipher>) -> Self {
        Self { key, aead, transfer, cipher }
    }

    /// The key itself.
    pub const fn key(&self) -> &Secret {
        &self.key
    }

    fn nonce(index: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&place(index).to_be_bytes());
        nonce
    }

    // DATA-21.
    fn aad(&self, index: u64) -> [u8; AAD] {
        let mut aad = [0; AAD];
        let (length, rest) = aad.split_at_mut(4);
        let (text, rest) = rest.split_at_mut(strings::CHUNK_AAD.len());
        let (transfer, number) = rest.split_at_mut(16);
        // The label is a constant of a few bytes.
        length[3] = strings::CHUNK_AAD.len() as u8;
        text.copy_from_slice(strings::CHUNK_AAD);
        transfer.copy_from_slice(&self.transfer.0);
        number.copy_from_slice(&place(index).to_be_bytes());
        aad
    }

    /// Seals the plaintext in the middle of `frame` in place: [`CHUNK_HEAD`] bytes of room, plaintext, [`TAG`] bytes of room.
    /// An `index` is sealed once under a key: [`Sealer`] sees to it, whoever calls this has to.
    ///
    /// # Errors
    /// [`SealError::Length`] if `frame` has no room for head and tag, or is longer than any frame.
    // DATA-19.
    pub fn seal(&self, index: u64, frame: &mut [u8]) -> Result<(), SealError> {
        let len = frame.len().checked_sub(LENGTH).and_then(|len| u32::try_from(len).ok()).ok_or(SealError::Length)?;
        let (head, body) = frame.split_first_chunk_mut::<CHUNK_HEAD>().ok_or(SealError::Length)?;
        let (text, room) = body.split_last_chunk_mut::<TAG>().ok_or(SealError::Length)?;
        head[..LENGTH].copy_from_slice(&len.to_be_bytes());
        head[LENGTH..].copy_from_slice(&index.to_be_bytes());
        *room = self.cipher.seal(self.aead, self.key.bytes(), &Self::nonce(index), &self.aad(index), text);
        Ok(())
    }

    /// Opens `body`, a frame without its head, in place; the length of the plaintext, which then stands at its front.
    ///
    /// # Errors
    /// [`Forged`]; the plaintext is then not in `body`.
    pub fn open(&self, index: u64, body: &mut [u8]) -> Result<usize, Forged> {
        let (text, tag) = body.split_last_chunk_mut::<TAG>().ok_or(Forged)?;
        self.cipher.open(self.aead, self.key.bytes(), &Self::nonce(index), &self.aad(index), text, tag)?;
        Ok(text.len())
    }
}

/// What a chunk is bound to as its index.
fn place(index: u64) -> u64 {
    if planted!(ChunksUnplaced) { 0 } else { index }
}

/// Why a chunk was not sealed. Its claim was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The transfer ended or was stopped.
    Stopped,
    /// The claim is another stream's.
    Foreign,
    /// The frame is not as long as the chunk and [`CHUNK_OVERHEAD`] together.
    Length,
    /// The stream has carried all that its key may; another goes on.
    Spent,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "the transfer was stopped",
            Self::Foreign => "the chunk was claimed for another stream",
            Self::Length => "the frame does not have the chunk's length",
            Self::Spent => "the stream has carried all that its key may",
        })
    }
}

impl core::error::Error for SealError {}

/// What a sender's bulk stream needs: claims, and a key that no other stream has.
///
/// An index is sealed at most once: only a claim can be sealed, sealing uses it up, and a [`Lane`] never yields a chunk a second
/// time after it was sealed.
#[derive(Debug)]
pub struct Sealer {
    key: ChunkKey,
    lane: Lane,
    bytes: AtomicU64,
    chunks: AtomicU64,
}

impl Sealer {
    /// For one bulk stream. `lane` was made for this stream, after it was opened.
    pub const fn new(key: ChunkKey, lane: Lane) -> Self {
        Self { key, lane, bytes: AtomicU64::new(0), chunks: AtomicU64::new(0) }
    }

    /// Claims the next run of chunks; see [`Lane::next`].
    pub fn next(&self, max: u32) -> Option<Run> {
        self.lane.next(max)
    }

    /// The claims of this stream.
    pub const fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Seals a claimed chunk in place. `frame` holds [`CHUNK_HEAD`] bytes of room, the chunk's plaintext, and [`TAG`] bytes of
    /// room; afterwards it is what goes to the transport.
    ///
    /// # Errors
    /// [`SealError`]; the claim is then given back and nothing was sealed.
    pub fn seal(&self, claim: Claim, frame: &mut [u8]) -> Result<(), SealError> {
        if self.lane.chunks().stopped() {
            return Err(SealError::Stopped);
        }
        if !self.lane.owns(&claim) {
            return Err(SealError::Foreign);
        }
        if frame.len().checked_sub(CHUNK_OVERHEAD) != usize::try_from(claim.len()).ok() {
            return Err(SealError::Length);
        }
        if !spend(&self.bytes, &self.chunks, frame.len()) {
            return Err(SealError::Spent);
        }
        let index = claim.index();
        claim.finish();
        self.key.seal(index, frame)
    }
}

/// Counts a frame in; `false` if the direction may not carry it any more, for good.
pub(super) fn spend(bytes: &AtomicU64, chunks: &AtomicU64, frame: usize) -> bool {
    bytes.fetch_add(frame as u64, Ordering::Relaxed) + frame as u64 <= limits::STREAM_BYTES
        && chunks.fetch_add(1, Ordering::Relaxed) < limits::STREAM_RECORDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::chunks::Chunks;
    use crate::bulk::cipher::RustCrypto;
    use crate::bulk::opener::{HeadError, Opener};
    use crate::ids::SessionRef;
    use crate::transfer::layout::Layout;
    use crate::wire::header::{Header, StreamKind};
    use std::vec;
    use std::vec::Vec;

    const CHUNK: u32 = 64 << 10;

    fn key(number: u64, aead: Aead) -> ChunkKey {
        let header = Header::new(StreamKind::Bulk, SessionRef([1; 16]), number, [2; 8]).unwrap();
        let stream = StreamKey::of_opener(&Secret::new([3; 32]), &header);
        ChunkKey::new(&stream, aead, TransferId([4; 16]), &[5; 32], Arc::new(RustCrypto))
    }

    fn chunks(size: u64) -> Arc<Chunks> {
        let chunks = Chunks::new(TransferId([4; 16]), Arc::new(Layout::new([size], CHUNK).unwrap())).unwrap();
        chunks.allow(&(0..chunks.layout().chunks()).into());
        chunks
    }

    fn frame(text: &[u8]) -> Vec<u8> {
        [&[0; CHUNK_HEAD], text, &[0; TAG]].concat()
    }

    #[test]
    fn chunks_go_through_in_any_order() {
        for aead in [Aead::ChaCha20Poly1305, Aead::Aes256Gcm] {
            let (sending, receiving) = (chunks(200_000), chunks(200_000));
            let (sealer, opener) = (Sealer::new(key(1, aead), sending.lane()), Opener::new(key(1, aead), CHUNK));
            let mut claims = sealer.next(9).unwrap().collect::<Vec<_>>();
            claims.reverse();
            for claim in claims {
                let (index, text) = (claim.index(), vec![7; claim.len() as usize]);
                let mut frame = frame(&text);
                assert_eq!(sealer.seal(claim, &mut frame), Ok(()));
                let (head, body) = frame.split_first_chunk_mut().unwrap();
                assert_eq!(opener.head(head), Ok((index, u32::try_from(body.len()).unwrap())));
                let claim = receiving.take(index, u32::try_from(text.len()).unwrap()).unwrap();
                let mut forged = body.to_vec();
                forged[0] ^= 1;
                assert_eq!(opener.open(index, &mut forged), Err(Forged));
                assert_eq!(opener.open(index + 1, &mut body.to_vec()), Err(Forged), "a chunk cannot be moved");
                assert_eq!(opener.open(index, body), Ok(text.len()));
                assert_eq!(body[..text.len()], text);
                claim.finish();
            }
            assert!(sending.exhausted() && receiving.exhausted());
            assert_eq!((sending.finished_bytes(), receiving.finished_bytes()), (200_000, 200_000));
        }
    }

    #[test]
    // DATA-21.
    fn a_key_is_of_one_stream_transfer_and_aead() {
        let mut sealed = frame(b"text");
        key(1, Aead::Aes256Gcm).seal(0, &mut sealed).unwrap();
        let body = || sealed[CHUNK_HEAD..].to_vec();
        assert_eq!(key(1, Aead::Aes256Gcm).open(0, &mut body()), Ok(4));
        assert_eq!(key(2, Aead::Aes256Gcm).open(0, &mut body()), Err(Forged));
        assert_eq!(key(1, Aead::ChaCha20Poly1305).open(0, &mut body()), Err(Forged));
        assert_eq!(key(1, Aead::Aes256Gcm).seal(0, &mut [0; CHUNK_OVERHEAD - 1]), Err(SealError::Length));
        assert_eq!(key(1, Aead::Aes256Gcm).open(0, &mut [0; TAG - 1]), Err(Forged));
    }

    #[test]
    fn what_is_not_sealed_is_given_back() {
        let chunks = chunks(3 * u64::from(CHUNK));
        let sealer = Sealer::new(key(1, Aead::Aes256Gcm), chunks.lane());
        let claim = sealer.next(1).unwrap().next().unwrap();
        assert_eq!(sealer.seal(claim, &mut frame(b"too short")), Err(SealError::Length));
        assert_eq!((chunks.open(), chunks.held(), chunks.finished()), (3, 0, 0));
        let taken = chunks.take(0, CHUNK).unwrap();
        let mut whole = frame(&vec![0; CHUNK as usize]);
        assert_eq!(sealer.seal(taken, &mut whole), Err(SealError::Foreign), "a receiver's claim");
        sealer.bytes.store(limits::STREAM_BYTES - whole.len() as u64, Ordering::Relaxed);
        let mut run = sealer.next(3).unwrap();
        assert_eq!(sealer.seal(run.next().unwrap(), &mut whole), Ok(()));
        assert_eq!(sealer.seal(run.next().unwrap(), &mut whole), Err(SealError::Spent));
        chunks.stop();
        assert_eq!(sealer.seal(run.next().unwrap(), &mut whole), Err(SealError::Stopped));
        assert_eq!((chunks.open(), chunks.held(), chunks.finished()), (2, 0, 1));
        assert!(sealer.next(1).is_none());
    }

    #[test]
    fn any_thread_may_have_them() {
        fn shared<T: Send + Sync>() {}
        shared::<Sealer>();
        shared::<Opener>();
        shared::<Chunks>();
        shared::<Claim>();
    }

    #[test]
    fn heads_have_bounds() {
        let opener = Opener::new(key(1, Aead::Aes256Gcm), CHUNK);
        let head = |len: u32, index: u64| [&len.to_be_bytes()[..], &index.to_be_bytes()].concat().try_into().unwrap();
        assert_eq!(opener.head(&head(25, u64::MAX)), Ok((u64::MAX, 17)));
        assert_eq!(opener.head(&head(8 + CHUNK + 16, 0)), Ok((0, CHUNK + 16)));
        for len in [0, 7, 8, 23, 24] {
            assert_eq!(opener.head(&head(len, 0)), Err(HeadError::TooShort));
        }
        for len in [8 + CHUNK + 17, u32::MAX] {
            assert_eq!(opener.head(&head(len, 0)), Err(HeadError::TooLong));
        }
    }
}
