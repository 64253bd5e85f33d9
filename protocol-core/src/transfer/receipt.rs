//! How each entry of a transfer ended, and the digest over it (PROTOCOL.md, section 9.5).

use core::fmt;

use super::manifest::EntryKind;
use crate::crypto::labels::strings;
use crate::ids::TransferId;

/// How one entry ended at the receiver.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable under its name.
    Stored,
    /// Left out by the receiver.
    Skipped,
    /// Durable under another name.
    Renamed,
    /// Not held by this receiver.
    Failed,
    /// Its source changed while it was read.
    SourceChanged,
    /// A number from a later version.
    Other(u8),
}

impl Outcome {
    /// The outcome with this number.
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Stored,
            1 => Self::Skipped,
            2 => Self::Renamed,
            3 => Self::Failed,
            4 => Self::SourceChanged,
            other => Self::Other(other),
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Skipped => 1,
            Self::Renamed => 2,
            Self::Failed => 3,
            Self::SourceChanged => 4,
            Self::Other(other) => other,
        }
    }
}

/// Computes a receipt's digest, entry by entry.
pub struct ReceiptDigest {
    hasher: blake3::Hasher,
    next: u32,
}

impl fmt::Debug for ReceiptDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiptDigest").field("entries", &self.next).finish_non_exhaustive()
    }
}

impl ReceiptDigest {
    /// For the transfer with this manifest.
    pub fn new(transfer: TransferId, manifest_digest: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&u32::try_from(strings::RECEIPT.len()).expect("invariant: labels are short").to_be_bytes());
        hasher.update(strings::RECEIPT);
        hasher.update(&transfer.0);
        hasher.update(manifest_digest);
        Self { hasher, next: 0 }
    }

    /// The next entry of the manifest. `size` is the manifest's; `digest` is that of the file's content and counts only for
    /// files that are there, under whatever name.
    pub fn entry(&mut self, kind: EntryKind, size: u64, outcome: Outcome, digest: Option<&[u8; 32]>) {
        let there = kind == EntryKind::File && matches!(outcome, Outcome::Stored | Outcome::Renamed);
        self.hasher.update(&self.next.to_be_bytes());
        self.hasher.update(&[outcome.number()]);
        self.hasher.update(&size.to_be_bytes());
        self.hasher.update(digest.filter(|_| there).unwrap_or(&[0; 32]));
        self.next += 1;
    }

    /// The digest over all entries.
    pub fn finish(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_outcomes_are_one_to_one() {
        assert!((0..=255).all(|number| Outcome::of(number).number() == number));
    }

    #[test]
    fn only_what_is_there_has_a_digest() {
        let digest = |kind, outcome, digest| {
            let mut receipt = ReceiptDigest::new(TransferId([1; 16]), &[2; 32]);
            receipt.entry(kind, 5, outcome, digest);
            receipt.finish()
        };
        let content = Some(&[3; 32]);
        for (kind, outcome) in
            [(EntryKind::File, Outcome::Skipped), (EntryKind::File, Outcome::Failed), (EntryKind::Directory, Outcome::Stored)]
        {
            assert_eq!(digest(kind, outcome, content), digest(kind, outcome, None));
        }
        for outcome in [Outcome::Stored, Outcome::Renamed] {
            assert_ne!(digest(EntryKind::File, outcome, content), digest(EntryKind::File, outcome, None));
        }
    }
}
