//! How paired devices find each other: ids that change every hour, so that nobody without the root can follow a pair by them
//! (PROTOCOL.md, section 5.2).

use alloc::vec::Vec;

use super::handshake::ordered_pair;
use crate::crypto::kdf::{expand, put_lp};
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy};
use crate::ids::PeerKey;
use crate::info::advert::{Advert, BadAdvert};

/// Seconds for which an id stands.
pub const PERIOD: u64 = 3600;
/// In the last seconds of a period the next one's id is published too.
pub const OVERLAP: u64 = 300;

/// Where something is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Medium {
    /// The local network: the id is the name of an instance, the record stands in its text.
    Mdns,
    /// The Kademlia DHT of libp2p.
    Kad,
    /// Signed packets in the Mainline DHT.
    Pkarr,
}

impl Medium {
    /// The name that stands in contexts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Kad => "kad",
            Self::Pkarr => "pkarr",
        }
    }

    const fn id_bytes(self) -> usize {
        match self {
            Self::Mdns => 16,
            Self::Kad | Self::Pkarr => 32,
        }
    }
}

/// An hour since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(pub u64);

impl Hour {
    /// The hour that a moment of Unix time lies in.
    pub const fn of(unix_s: u64) -> Self {
        Self(unix_s / PERIOD)
    }

    /// The hours under which to publish at a moment: this one, and near its end the next.
    pub fn published(unix_s: u64) -> impl Iterator<Item = Self> {
        let now = Self::of(unix_s);
        let next = (unix_s % PERIOD >= PERIOD - OVERLAP).then_some(Self(now.0 + 1));
        core::iter::once(now).chain(next)
    }

    /// The hours to look under at a moment: this one first, then its neighbours.
    pub fn sought(unix_s: u64) -> impl Iterator<Item = Self> {
        let now = Self::of(unix_s);
        [Some(now), now.0.checked_sub(1).map(Self), now.0.checked_add(1).map(Self)].into_iter().flatten()
    }
}

/// What one device publishes for another.
#[derive(Debug)]
pub struct Rendezvous(Secret);

impl Rendezvous {
    /// Of a pair, and of the direction: who publishes, and who seeks.
    pub fn new(root: &Secret, publisher: &PeerKey, seeker: &PeerKey) -> Self {
        Self(expand(root, labels::LINK_RENDEZVOUS, &[&ordered_pair(publisher, seeker)]))
    }

    /// `k_rz`: what the ids and keys come from.
    pub const fn key(&self) -> &Secret {
        &self.0
    }

    /// The public id of an hour: 16 bytes on the local network, else 32.
    pub fn id(&self, medium: Medium, hour: Hour) -> Vec<u8> {
        let context = context(medium, hour);
        match medium.id_bytes() {
            16 => expand::<16>(&self.0, labels::LINK_RENDEZVOUS_ID, &[&context]).bytes().to_vec(),
            _ => expand::<32>(&self.0, labels::LINK_RENDEZVOUS_ID, &[&context]).bytes().to_vec(),
        }
    }

    /// The key that seals an hour's records.
    pub fn record_key(&self, medium: Medium, hour: Hour) -> Secret {
        expand(&self.0, labels::LINK_RENDEZVOUS_RECORD, &[&context(medium, hour)])
    }

    /// The Ed25519 seed that signs an hour's packets, for [`Medium::Pkarr`].
    pub fn pkarr_seed(&self, hour: Hour) -> Secret {
        expand(&self.0, labels::LINK_RENDEZVOUS_PKARR, &[&context(Medium::Pkarr, hour)])
    }

    /// Seals a record.
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn seal(&self, medium: Medium, hour: Hour, advert: &Advert, entropy: &mut dyn Entropy) -> Result<Vec<u8>, NoEntropy> {
        advert.seal(&self.record_key(medium, hour), &associated_data(&self.id(medium, hour)), entropy)
    }

    /// Opens a record.
    ///
    /// # Errors
    /// [`BadAdvert`].
    pub fn open(&self, medium: Medium, hour: Hour, sealed: &[u8]) -> Result<Advert, BadAdvert> {
        Advert::open(sealed, &self.record_key(medium, hour), &associated_data(&self.id(medium, hour)))
    }
}

fn context(medium: Medium, hour: Hour) -> Vec<u8> {
    let mut context = Vec::new();
    put_lp(&mut context, medium.name().as_bytes());
    context.extend_from_slice(&hour.0.to_be_bytes());
    context
}

fn associated_data(id: &[u8]) -> Vec<u8> {
    let mut aad = Vec::new();
    put_lp(&mut aad, strings::RENDEZVOUS);
    put_lp(&mut aad, id);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn hours_overlap() {
        let published = |unix_s| Hour::published(unix_s).map(|hour| hour.0).collect::<Vec<_>>();
        assert_eq!(published(7200), [2]);
        assert_eq!(published(7200 + 3299), [2]);
        assert_eq!(published(7200 + 3300), [2, 3]);
        assert_eq!(published(7200 + 3599), [2, 3]);
        assert_eq!(Hour::sought(7200).map(|hour| hour.0).collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(Hour::sought(5).map(|hour| hour.0).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn ids_are_of_their_pair_direction_medium_and_hour() {
        let (one, two) = (PeerKey([1; 32]), PeerKey([2; 32]));
        let mut ids = BTreeSet::new();
        for root in [3, 4] {
            for (publisher, seeker) in [(&one, &two), (&two, &one)] {
                let rendezvous = Rendezvous::new(&Secret::new([root; 32]), publisher, seeker);
                for medium in [Medium::Mdns, Medium::Kad, Medium::Pkarr] {
                    for hour in [7, 8] {
                        ids.insert(rendezvous.id(medium, Hour(hour))[..16].to_vec());
                    }
                }
            }
        }
        assert_eq!(ids.len(), 24);
    }
}
