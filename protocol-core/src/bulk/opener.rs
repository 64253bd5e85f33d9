//! Chunk frames, opened on any thread in any order (PROTOCOL.md, section 9.4).

use core::fmt;
use core::sync::atomic::AtomicU64;

use super::sealer::{CHUNK_HEAD, ChunkKey, spend};
use crate::crypto::aead::{Forged, TAG};

/// A frame that the stream cannot have. The peer's fault; the stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// No content.
    TooShort,
    /// More than a chunk.
    TooLong,
    /// The stream has carried all that its key may.
    Spent,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "a chunk without content",
            Self::TooLong => "a chunk longer than the transfer's",
            Self::Spent => "the stream has carried all that its key may",
        })
    }
}

impl core::error::Error for HeadError {}

/// What a receiver's bulk stream needs.
///
/// Read [`CHUNK_HEAD`] bytes, look at them with [`head`](Self::head), claim the chunk, read its body, [`open`](Self::open) it in
/// place, write, finish the claim. The body of a chunk that cannot be claimed is read and dropped.
#[derive(Debug)]
pub struct Opener {
    key: ChunkKey,
    chunk_size: u32,
    bytes: AtomicU64,
    chunks: AtomicU64,
}

impl Opener {
    /// For one bulk stream of a transfer with this chunk size.
    pub const fn new(key: ChunkKey, chunk_size: u32) -> Self {
        Self { key, chunk_size, bytes: AtomicU64::new(0), chunks: AtomicU64::new(0) }
    }

    /// The chunk's number, and how many bytes follow the head: plaintext and tag. Once for each frame: it counts.
    ///
    /// # Errors
    /// [`HeadError`]; nothing that follows can be understood then.
    pub fn head(&self, head: &[u8; CHUNK_HEAD]) -> Result<(u64, u32), HeadError> {
        let &[a, b, c, d, ref index @ ..] = head;
        let tag = TAG as u32;
        let body = u32::from_be_bytes([a, b, c, d]).checked_sub(8).filter(|&body| body > tag).ok_or(HeadError::TooShort)?;
        if body - tag > self.chunk_size {
            return Err(HeadError::TooLong);
        }
        if !spend(&self.bytes, &self.chunks, CHUNK_HEAD + body as usize) {
            return Err(HeadError::Spent);
        }
        Ok((u64::from_be_bytes(*index), body))
    }

    /// Opens a body in place; the length of the plaintext, which then stands at its front.
    ///
    /// # Errors
    /// [`Forged`]; the plaintext is then not in `body`. The claim is to be dropped, so that the chunk can come again.
    pub fn open(&self, index: u64, body: &mut [u8]) -> Result<usize, Forged> {
        self.key.open(index, body)
    }
}
