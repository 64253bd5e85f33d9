//! A sealed note of where a device can be dialled, for a DHT or a QR code (PROTOCOL.md, sections 5.1 and 5.2).
//!
//! It holds transport ids and addresses, never a name or an identity key: whoever finds the key later can open it.

use alloc::vec::Vec;
use core::fmt;

use super::{TransportInfo, bound_transports, drop_last_address, put_transports, read_transports};
use crate::crypto::aead::{TAG, open_extended, pad, seal_extended, unpad};
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy, random};
use crate::limits;
use crate::wire::cbor::{Malformed, Reader};
use crate::wire::encode::encode;

/// Bodies are padded to a multiple of this many bytes.
pub const BUCKET: usize = 512;
/// Version of the body and of the sealed form.
const VERSION: u8 = 1;
const NONCE: usize = 24;
const HEAD: usize = 1 + NONCE;

/// What is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// When it should be forgotten, in seconds of Unix time. A hint.
    pub expires_unix_s: u64,
    /// Where to dial, at most 4.
    pub transports: Vec<TransportInfo>,
}

impl Advert {
    /// The canonical bytes of the body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(3)?.u8(VERSION)?.u64(self.expires_unix_s)?;
            put_transports(to, &self.transports)
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`]: not canonical, another version, or anything beyond its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > limits::ADVERT_BODY {
            return Err(Malformed::Bounds);
        }
        let mut from = Reader::new(bytes)?;
        from.fields(3)?;
        if from.u64()? != u64::from(VERSION) {
            return Err(Malformed::Bounds);
        }
        Ok(Self { expires_unix_s: from.u64()?, transports: read_transports(&mut from)? })
    }

    /// The same with a body of at most `most` bytes: transports, addresses and relays too many or too long are left out.
    #[must_use]
    pub fn bounded(mut self, most: usize) -> Self {
        bound_transports(&mut self.transports);
        while self.encode().len() > most.min(limits::ADVERT_BODY) && drop_last_address(&mut self.transports) {}
        self
    }

    /// Seals the body under `key`, which may seal many: the nonce is 24 random bytes, the one draw from `entropy`.
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn seal(&self, key: &Secret, aad: &[u8], entropy: &mut dyn Entropy) -> Result<Vec<u8>, NoEntropy> {
        let nonce = random::<NONCE>(entropy)?;
        let mut sealed = Vec::from([VERSION]);
        sealed.extend_from_slice(&nonce);
        sealed.extend(seal_extended(key, &nonce, &pad(self.encode(), BUCKET), aad));
        Ok(sealed)
    }

    /// Opens what [`Advert::seal`] made.
    ///
    /// # Errors
    /// [`BadAdvert`].
    pub fn open(sealed: &[u8], key: &Secret, aad: &[u8]) -> Result<Self, BadAdvert> {
        // The largest body, with its padding, fills a whole number of buckets.
        if sealed.len() > HEAD + limits::ADVERT_BODY + 1 + TAG {
            return Err(BadAdvert::Length);
        }
        let (head, ciphertext) = sealed.split_first_chunk::<HEAD>().ok_or(BadAdvert::Length)?;
        let (&[version], nonce) = head.split_first_chunk::<1>().ok_or(BadAdvert::Length)?;
        let nonce: &[u8; NONCE] = nonce.try_into().map_err(|_| BadAdvert::Length)?;
        if version != VERSION {
            return Err(BadAdvert::Version);
        }
        let padded = open_extended(key, nonce, ciphertext, aad).map_err(|_| BadAdvert::Forged)?;
        let body = unpad(&padded, BUCKET).ok_or(BadAdvert::Padding)?;
        Self::decode(body).map_err(BadAdvert::Body)
    }
}

/// Why an advert is not taken. On an open DHT this is ordinary: anyone may write there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAdvert {
    /// Too short or too long for one.
    Length,
    /// A version that this program does not know.
    Version,
    /// Not sealed under this key, or altered.
    Forged,
    /// Sealed rightly, but padded wrongly.
    Padding,
    /// Sealed rightly, but the body is not one.
    Body(Malformed),
}

impl fmt::Display for BadAdvert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("too short or too long for an advert"),
            Self::Version => f.write_str("an advert of another version"),
            Self::Forged => f.write_str("an advert that someone else sealed"),
            Self::Padding => f.write_str("an advert with wrong padding"),
            Self::Body(malformed) => write!(f, "the advert's body: {malformed}"),
        }
    }
}

impl core::error::Error for BadAdvert {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::TransportKind;
    use std::borrow::ToOwned as _;
    use std::vec;

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
            bytes.fill(9);
            Ok(())
        }
    }

    fn advert(addresses: usize) -> Advert {
        let transport = TransportInfo {
            kind: TransportKind::Tcp,
            id: Vec::new(),
            addresses: vec!["192.168.1.7:4711".to_owned(); addresses],
            relay: None,
        };
        Advert { expires_unix_s: 1_800_000_000, transports: vec![transport] }
    }

    #[test]
    // ID-20.
    fn only_what_was_sealed_opens() {
        let key = Secret::new([1; 32]);
        let sealed = advert(2).seal(&key, b"aad", &mut Fixed).unwrap();
        assert_eq!(sealed.len(), HEAD + BUCKET + TAG);
        assert_eq!(Advert::open(&sealed, &key, b"aad"), Ok(advert(2)));
        assert_eq!(Advert::open(&sealed, &key, b"other"), Err(BadAdvert::Forged));
        assert_eq!(Advert::open(&sealed, &Secret::new([2; 32]), b"aad"), Err(BadAdvert::Forged));
        for bit in (0..sealed.len() * 8).step_by(7) {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { BadAdvert::Version } else { BadAdvert::Forged };
            assert_eq!(Advert::open(&altered, &key, b"aad"), Err(expected));
        }
        for len in 0..HEAD {
            assert_eq!(Advert::open(&sealed[..len], &key, b"aad"), Err(BadAdvert::Length));
        }
        assert_eq!(Advert::open(&vec![1; 5000], &key, b"aad"), Err(BadAdvert::Length));
    }

    #[test]
    fn sealed_by_us_but_wrong_inside() {
        let key = Secret::new([1; 32]);
        let wrong = |text: &[u8]| {
            let mut sealed = vec![1];
            sealed.extend([9; 24]);
            sealed.extend(seal_extended(&key, &[9; 24], text, b"aad"));
            Advert::open(&sealed, &key, b"aad")
        };
        assert_eq!(wrong(&[0; 512]), Err(BadAdvert::Padding));
        assert_eq!(wrong(&pad(vec![0x80], 512)), Err(BadAdvert::Body(Malformed::Count)));
        assert_eq!(wrong(&pad(vec![0x83, 2, 0, 0x80], 512)), Err(BadAdvert::Body(Malformed::Bounds)));
        assert_eq!(wrong(&pad(advert(17).encode(), 512)), Err(BadAdvert::Body(Malformed::Bounds)));
    }

    #[test]
    fn a_bounded_advert_fits_its_bucket() {
        let bounded = advert(16).bounded(BUCKET - 1);
        assert_eq!(bounded, advert(16), "16 short addresses fit");
        let mut long = advert(16);
        long.transports[0].addresses.iter_mut().for_each(|address| *address = "a".repeat(100));
        let bounded = long.bounded(BUCKET - 1);
        assert_eq!(bounded.transports[0].addresses.len(), 4);
        assert_eq!(bounded.seal(&Secret::new([1; 32]), b"", &mut Fixed).unwrap().len(), HEAD + BUCKET + TAG);
    }
}
