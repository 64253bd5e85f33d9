//! The frames of the two handshakes and the unpair notice (PROTOCOL.md, sections 6.1, 8 and 10).
//!
//! A frame is `u32_be length ‖ body`; here are the bodies. Every field has its one length, and a body beyond its limit is refused
//! before a byte of it is read.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::cbor::{Malformed, Reader};
use super::encode::encode;
use crate::crypto::kem::{CIPHERTEXT, PUBLIC_KEY};
use crate::ids::SessionId;
use crate::limits;

/// The version of both handshakes.
pub const VERSION: u64 = 1;
/// The one suite: X25519 and ML-KEM-768, Ed25519, HKDF-SHA-256, ChaCha20-Poly1305.
pub const SUITE: u16 = 2;

/// A body is not the message that was awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFrame {
    /// Not canonical, or a field is not as it must be.
    Malformed(Malformed),
    /// Another message.
    Kind,
    /// A version that this program does not speak.
    Version,
    /// A suite that this program does not speak.
    Suite,
}

impl From<Malformed> for BadFrame {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Kind => f.write_str("another message was awaited"),
            Self::Version => f.write_str("a version of the protocol that this program does not speak"),
            Self::Suite => f.write_str("a suite that this program does not speak"),
        }
    }
}

impl core::error::Error for BadFrame {}

/// `u32_be length ‖ body`.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("invariant: we make no body near 4 GiB");
    [&length.to_be_bytes(), body].concat()
}

/// Stands behind the type of a body that is canonical, within `limit`, and of `fields` fields.
fn open(body: &[u8], limit: usize, kind: u64, fields: u64) -> Result<Reader<'_>, BadFrame> {
    if body.len() > limit {
        return Err(Malformed::Bounds.into());
    }
    let mut from = Reader::new(body)?;
    let count = from.array()?;
    if count == 0 {
        return Err(Malformed::Count.into());
    }
    if from.u64()? != kind {
        return Err(BadFrame::Kind);
    }
    if count == fields { Ok(from) } else { Err(Malformed::Count.into()) }
}

/// Reads version and suite.
// PAIR-7.
fn version_and_suite(from: &mut Reader<'_>) -> Result<(), BadFrame> {
    if from.u64()? != VERSION && !planted!(VersionUnchecked) {
        return Err(BadFrame::Version);
    }
    if from.u64()? != u64::from(SUITE) && !planted!(VersionUnchecked) {
        return Err(BadFrame::Suite);
    }
    Ok(())
}

fn boxed<const N: usize>(bytes: &[u8]) -> Result<Box<[u8; N]>, BadFrame> {
    Ok(Box::new(bytes.try_into().map_err(|_| Malformed::Bounds)?))
}

/// The joiner's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingRequest {
    /// Which code it is about.
    pub session_id: SessionId,
    /// Fixes the joiner's nonce before the initiator speaks.
    pub commit: [u8; 32],
    /// X25519 key.
    pub exchange: [u8; 32],
    /// ML-KEM-768 encapsulation key.
    pub kem: Box<[u8; PUBLIC_KEY]>,
    /// Proof of the code.
    pub tag: [u8; 32],
}

impl PairingRequest {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(8)?.u8(1)?.u64(VERSION)?.u16(SUITE)?;
            to.bytes(&self.session_id.0)?.bytes(&self.commit)?.bytes(&self.exchange)?.bytes(&self.kem[..])?.bytes(&self.tag)?;
            Ok(())
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
        let mut from = open(body, limits::FIRST_FRAME, 1, 8)?;
        version_and_suite(&mut from)?;
        Ok(Self {
            session_id: SessionId(from.exactly()?),
            commit: from.exactly()?,
            exchange: from.exactly()?,
            kem: boxed(from.bytes(PUBLIC_KEY)?)?,
            tag: from.exactly()?,
        })
    }
}

/// The initiator's answer to a [`PairingRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Random bytes.
    pub challenge: [u8; 32],
    /// X25519 key.
    pub exchange: [u8; 32],
    /// ML-KEM-768 ciphertext.
    pub ciphertext: Box<[u8; CIPHERTEXT]>,
    /// Who the initiator is, sealed.
    pub sealed: Vec<u8>,
}

impl Challenge {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(5)?.u8(2)?.bytes(&self.challenge)?.bytes(&self.exchange)?.bytes(&self.ciphertext[..])?.bytes(&self.sealed)?;
            Ok(())
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
        let mut from = open(body, limits::BOX_FRAME, 2, 5)?;
        Ok(Self {
            challenge: from.exactly()?,
            exchange: from.exactly()?,
            ciphertext: boxed(from.bytes(CIPHERTEXT)?)?,
            sealed: from.bytes(limits::BOX_FRAME)?.to_vec(),
        })
    }
}

/// A message that is one box.
macro_rules! box_message {
    ($(#[$doc:meta])* $name:ident = $kind:literal, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The box.
            pub sealed: Vec<u8>,
        }

        impl $name {
            /// The body.
            pub fn encode(&self) -> Vec<u8> {
                encode(|to| {
                    to.array(2)?.u8($kind)?.bytes(&self.sealed)?;
                    Ok(())
                })
            }

            /// Reads a body.
            ///
            /// # Errors
            /// [`BadFrame`].
            pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
                let mut from = open(body, $limit, $kind, 2)?;
                Ok(Self { sealed: from.bytes($limit)?.to_vec() })
            }
        }
    };
}

box_message! {
    /// Who the joiner is, sealed.
    Response = 3, limits::BOX_FRAME
}
box_message! {
    /// The initiator's last word in a pairing, sealed.
    Complete = 4, limits::COMPLETE_FRAME
}
box_message! {
    /// The dialer's proof of its identity in a reconnect, sealed.
    Finish = 3, limits::BOX_FRAME
}

/// The dialer's first message of a reconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// X25519 key.
    pub exchange: [u8; 32],
    /// ML-KEM-768 encapsulation key.
    pub kem: Box<[u8; PUBLIC_KEY]>,
    /// Proof of a root; which one, only its holders can tell.
    pub tag: [u8; 32],
}

impl Hello {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(6)?.u8(1)?.u64(VERSION)?.u16(SUITE)?;
            to.bytes(&self.exchange)?.bytes(&self.kem[..])?.bytes(&self.tag)?;
            Ok(())
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
        let mut from = open(body, limits::FIRST_FRAME, 1, 6)?;
        version_and_suite(&mut from)?;
        Ok(Self { exchange: from.exactly()?, kem: boxed(from.bytes(PUBLIC_KEY)?)?, tag: from.exactly()? })
    }
}

/// The listener's answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// X25519 key.
    pub exchange: [u8; 32],
    /// ML-KEM-768 ciphertext.
    pub ciphertext: Box<[u8; CIPHERTEXT]>,
    /// The listener's proof of its identity, sealed.
    pub sealed: Vec<u8>,
}

impl Accept {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(4)?.u8(2)?.bytes(&self.exchange)?.bytes(&self.ciphertext[..])?.bytes(&self.sealed)?;
            Ok(())
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
        let mut from = open(body, limits::BOX_FRAME, 2, 4)?;
        Ok(Self { exchange: from.exactly()?, ciphertext: boxed(from.bytes(CIPHERTEXT)?)?, sealed: from.bytes(limits::BOX_FRAME)?.to_vec() })
    }
}

/// The answer to a [`Hello`] of a device that was unpaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Proof that the listener once held the root.
    pub mac: [u8; 32],
}

impl Notice {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(2)?.u8(9)?.bytes(&self.mac)?;
            Ok(())
        })
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, BadFrame> {
        let mut from = open(body, limits::NOTICE_FRAME, 9, 2)?;
        Ok(Self { mac: from.exactly()? })
    }
}

/// What each side of a reconnect seals about itself: its newest DeviceInfo, as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params<'b> {
    /// The DeviceInfo, encoded.
    pub info: &'b [u8],
}

impl<'b> Params<'b> {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(|to| {
            to.array(2)?.u64(VERSION)?.bytes(self.info)?;
            Ok(())
        })
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`]; another version is out of bounds.
    pub fn decode(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes)?;
        from.fields(2)?;
        if from.u64()? != VERSION {
            return Err(Malformed::Bounds);
        }
        Ok(Self { info: from.bytes(limits::INFO)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// Decoding inverts encoding; no prefix, no added byte, no other type, no other count passes.
    fn strict<T: PartialEq + fmt::Debug>(message: &T, body: &[u8], decode: impl Fn(&[u8]) -> Result<T, BadFrame>) {
        assert_eq!(decode(body).as_ref(), Ok(message));
        for len in 0..body.len() {
            assert!(decode(&body[..len]).is_err(), "{len} bytes");
        }
        let longer = [body, &[0]].concat();
        assert_eq!(decode(&longer), Err(BadFrame::Malformed(Malformed::Trailing)));
        let mut other = body.to_vec();
        other[1] = 7;
        assert_eq!(decode(&other), Err(BadFrame::Kind));
        let mut one_more = longer;
        one_more[0] += 1;
        assert_eq!(decode(&one_more), Err(BadFrame::Malformed(Malformed::Count)));
        assert_eq!(decode(&vec![0; 10_000]), Err(BadFrame::Malformed(Malformed::Bounds)), "beyond the limit nothing is read");
        assert_eq!(decode(&[0x80]), Err(BadFrame::Malformed(Malformed::Count)));
    }

    #[test]
    fn every_body_is_strict() {
        let (key, kem, ciphertext) = ([1; 32], Box::new([2; PUBLIC_KEY]), Box::new([3; CIPHERTEXT]));
        let request = PairingRequest { session_id: SessionId([4; 16]), commit: [5; 32], exchange: key, kem: kem.clone(), tag: [6; 32] };
        strict(&request, &request.encode(), PairingRequest::decode);
        let challenge = Challenge { challenge: [4; 32], exchange: key, ciphertext: ciphertext.clone(), sealed: vec![5; 528] };
        strict(&challenge, &challenge.encode(), Challenge::decode);
        let response = Response { sealed: vec![5; 528] };
        strict(&response, &response.encode(), Response::decode);
        let complete = Complete { sealed: vec![5; 80] };
        strict(&complete, &complete.encode(), Complete::decode);
        let hello = Hello { exchange: key, kem, tag: [6; 32] };
        strict(&hello, &hello.encode(), Hello::decode);
        let accept = Accept { exchange: key, ciphertext, sealed: vec![5; 528] };
        strict(&accept, &accept.encode(), Accept::decode);
        let finish = Finish { sealed: vec![5; 528] };
        strict(&finish, &finish.encode(), Finish::decode);
        let notice = Notice { mac: [7; 32] };
        strict(&notice, &notice.encode(), Notice::decode);
        assert_eq!(request.encode().len(), 1310);
        assert_eq!(hello.encode().len(), 1259);
    }

    #[test]
    fn versions_and_suites_are_told_apart() {
        let hello = Hello { exchange: [1; 32], kem: Box::new([2; PUBLIC_KEY]), tag: [6; 32] }.encode();
        for (at, why) in [(2, BadFrame::Version), (3, BadFrame::Suite)] {
            let mut other = hello.clone();
            other[at] += 1;
            assert_eq!(Hello::decode(&other), Err(why));
        }
    }
}
