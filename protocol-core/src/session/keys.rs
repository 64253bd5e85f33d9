//! The keys of streams: each covers fresh bytes of the side that seals with it (PROTOCOL.md, section 9.2).

use alloc::vec::Vec;
use core::fmt;

use crate::crypto::kdf::{expand, put_lp, sha256};
use crate::crypto::labels;
use crate::crypto::secret::Secret;
use crate::ids::PeerKey;
use crate::wire::header::{Header, REPLY};

/// The two traffic secrets of a session, as one side sees them. Erased when dropped.
#[derive(Debug)]
pub struct Traffic {
    outgoing: Secret,
    incoming: Secret,
}

impl Traffic {
    /// `outgoing` seals what we send, `incoming` what the peer sends.
    pub const fn new(outgoing: Secret, incoming: Secret) -> Self {
        Self { outgoing, incoming }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe(&self) -> [crate::probe::Print; 2] {
        [&self.outgoing, &self.incoming].map(crate::probe::print)
    }

    /// To seal on a stream that we open.
    pub fn seal_as_opener(&self, header: &Header) -> StreamKey {
        StreamKey::of_opener(&self.outgoing, header)
    }

    /// To open the answers on a stream that we opened.
    pub fn open_as_opener(&self, header: &Header, reply: &[u8; REPLY]) -> StreamKey {
        StreamKey::of_answerer(&self.incoming, header, reply)
    }

    /// To open what comes on a stream that the peer opened.
    pub fn open_as_answerer(&self, header: &Header) -> StreamKey {
        StreamKey::of_opener(&self.incoming, header)
    }

    /// To seal answers on a stream that the peer opened. `reply` is drawn fresh for this stream.
    pub fn seal_as_answerer(&self, header: &Header, reply: &[u8; REPLY]) -> StreamKey {
        StreamKey::of_answerer(&self.outgoing, header, reply)
    }
}

/// `seq_ref`: the name under which application messages `from` one device `to` the other are numbered (section 9.6).
pub fn seq_ref(root: &Secret, from: PeerKey, to: PeerKey) -> [u8; 16] {
    let mut fields = Vec::new();
    put_lp(&mut fields, &from.0);
    put_lp(&mut fields, &to.0);
    *expand::<16>(root, labels::DATA_SEQ, &[&fields]).bytes()
}

/// Whose direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the side that opened the stream: its first record is the opening record.
    Opener,
    /// From the side that answers.
    Answerer,
}

/// The key of one direction of one stream (`k_open` or `k_answer`) and what its records are bound to.
pub struct StreamKey {
    key: Secret,
    bind: [u8; 32],
    side: Side,
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamKey").field("side", &self.side).finish_non_exhaustive()
    }
}

impl StreamKey {
    /// `k_open` and `bind_open`; `traffic` is the secret from the opener to the answering side.
    pub fn of_opener(traffic: &Secret, header: &Header) -> Self {
        let header = header.encode();
        Self { key: expand(traffic, labels::DATA_STREAM_KEY, &[&header]), bind: sha256(&[&header]), side: Side::Opener }
    }

    /// `k_answer` and `bind_answer`; `traffic` is the secret from the answering side to the opener.
    // DATA-2.
    pub fn of_answerer(traffic: &Secret, header: &Header, reply: &[u8; REPLY]) -> Self {
        let one_key = planted!(OneKeyBothWays);
        if one_key || planted!(ReplyUnbound) {
            return Self { side: Side::Answerer, ..Self::of_opener(traffic, header) };
        }
        let header = header.encode();
        Self { key: expand(traffic, labels::DATA_STREAM_KEY, &[&header, reply]), bind: sha256(&[&header, reply]), side: Side::Answerer }
    }

    /// The key itself, from which those of records and chunks come.
    pub const fn key(&self) -> &Secret {
        &self.key
    }

    /// The hash that every record of this direction is bound to.
    pub const fn bind(&self) -> &[u8; 32] {
        &self.bind
    }

    /// Whose direction it is.
    pub const fn side(&self) -> Side {
        self.side
    }

    /// `k_rec`: the AEAD key of this direction's records.
    pub fn records(&self) -> Secret {
        expand(&self.key, labels::DATA_RECORDS, &[])
    }
}
