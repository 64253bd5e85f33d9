//! What is kept of a device that was forgotten: enough to tell it so, and nothing that opens anything (PROTOCOL.md, section 9.8).

use alloc::vec::Vec;

use minicbor::Encoder;

use super::device::Root;
use crate::crypto::secret::{Secret, SecretBytes};
use crate::ids::PeerKey;
use crate::limits;
use crate::records::{Change, TOMBSTONES};
use crate::session::handshake::{ReceivedHello, notice};
use crate::wire::cbor::{Malformed, Reader};

/// Version of the stored form.
const SCHEMA: u64 = 1;
/// Roots of one device whose keys are kept, newest first.
const GRAVES: usize = limits::PENDING_ROOTS_PER_DEVICE + 1;

/// The two keys that are left of a root. Both follow from it one way.
#[derive(Debug)]
struct Grave {
    /// Tells a Hello under the root from any other.
    hello_key: Secret,
    /// Proves to whoever holds the root that we held it.
    notice_key: Secret,
}

/// What is left of a device.
#[derive(Debug)]
pub(crate) struct Tombstone {
    peer: PeerKey,
    /// When it was forgotten last, seconds since 1970.
    pub(crate) unix_s: u64,
    graves: Vec<Grave>,
    /// That it is forgotten is on the disk: before that nobody may be told.
    pub(crate) durable: bool,
}

impl Tombstone {
    pub(crate) const fn new(peer: PeerKey) -> Self {
        Self { peer, unix_s: 0, graves: Vec::new(), durable: false }
    }

    /// The device is forgotten, with these roots.
    pub(crate) fn bury(&mut self, me: &PeerKey, roots: &[Root], unix_s: u64) {
        let grave = |root: &Root| Grave { hello_key: root.hello_key.duplicate(), notice_key: notice::key(&root.secret, me, &self.peer) };
        let mut graves: Vec<Grave> = roots.iter().map(grave).collect();
        graves.append(&mut self.graves);
        graves.truncate(GRAVES);
        (self.graves, self.unix_s, self.durable) = (graves, unix_s, false);
    }

    /// Of how many roots keys are kept: each costs a MAC when a Hello comes that fits nothing.
    pub(crate) const fn graves(&self) -> usize {
        self.graves.len()
    }

    /// The key of the answer to a Hello under one of the roots.
    // UNP-4.
    pub(crate) fn notice_key(&self, hello: &ReceivedHello) -> Option<&Secret> {
        self.graves.iter().find(|grave| hello.matches(&grave.hello_key)).map(|grave| &grave.notice_key)
    }

    /// The row to write.
    pub(crate) fn change(&self) -> Change {
        let mut bytes = Encoder::new(Vec::with_capacity(64 + self.graves.len() * 80));
        self.encode_into(&mut bytes).expect("invariant: a vector takes every byte");
        Change { table: TOMBSTONES, key: self.peer.0.to_vec(), value: Some(SecretBytes::new(bytes.into_writer())) }
    }

    fn encode_into(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<core::convert::Infallible>> {
        to.array(3)?.u64(SCHEMA)?.u64(self.unix_s)?.array(self.graves.len() as u64)?;
        for grave in &self.graves {
            to.array(2)?.bytes(grave.hello_key.bytes())?.bytes(grave.notice_key.bytes())?;
        }
        Ok(())
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// What is wrong with it; the row is then left as it is.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, Malformed> {
        let peer = PeerKey(key.try_into().map_err(|_| Malformed::Bounds)?);
        let mut from = Reader::new(value)?;
        from.fields(3)?;
        if from.u64()? != SCHEMA {
            return Err(Malformed::Bounds);
        }
        let unix_s = from.u64()?;
        let mut graves = Vec::new();
        for _ in 0..from.array_up_to(GRAVES)? {
            from.fields(2)?;
            graves.push(Grave { hello_key: Secret::new(from.exactly()?), notice_key: Secret::new(from.exactly()?) });
        }
        Ok(Self { peer, unix_s, graves, durable: true })
    }
}
