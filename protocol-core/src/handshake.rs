//! What the two handshakes have in common: ephemeral keys, boxes, the proof of a peer, and the causes of refusal.
//!
//! Pairing (`pairing::handshake`) and reconnect (`session::handshake`) are pure steps on top of this. Each step consumes the state
//! before it, so nothing can be done twice or out of order; a step that refuses has dropped, and thereby wiped, all it held.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use crate::crypto::aead::{Forged, open_once, pad, seal_once, unpad};
use crate::crypto::exchange::ExchangeSecret;
use crate::crypto::kdf::{extract, put_lp};
use crate::crypto::kem::{BadKey, CIPHERTEXT, KemSecret, PUBLIC_KEY, encapsulate};
use crate::crypto::secret::Secret;
use crate::crypto::sign::{SIGNATURE, VerifyKey};
use crate::entropy::{Entropy, NoEntropy};
use crate::ids::PeerKey;
use crate::info::{Binding, DeviceInfo};
use crate::wire::cbor::Malformed;
use crate::wire::handshake::BadFrame;

/// Boxes that hold an identity are padded to a multiple of this many bytes, so that their length does not show a name's.
// PAIR-12.
pub const BOX_BLOCK: usize = 512;

/// Why a handshake ended. For this device's user and log only: to the peer every cause looks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The opener's first frame is none.
    First(BadFrame),
    /// The request is about another code.
    SessionId,
    /// The tag does not verify: the peer does not have the code or the root, or sees other transport ids.
    Tag,
    /// A later frame is not the one that was awaited.
    Frame(BadFrame),
    /// An X25519 key that contributes nothing.
    LowOrder,
    /// Not an ML-KEM key.
    KemKey,
    /// A box does not open: other keys, another transcript, or altered bytes.
    Box,
    /// A box was sealed rightly and padded wrongly.
    Padding,
    /// A box does not hold exactly its fields.
    Structure,
    /// The nonce is not the one that the joiner committed itself to.
    Commit,
    /// The identity key is no point of the curve, or a weak one.
    WeakKey,
    /// The peer is this device.
    SelfPairing,
    /// The signature over identity and transcript does not verify.
    Signature,
    /// The parameters of a reconnect are not.
    Params(Malformed),
    /// The DeviceInfo is not one.
    Info(Malformed),
    /// The DeviceInfo does not list the id that the transport reports.
    TransportNotListed,
    /// A status that does not exist.
    Status,
    /// Our own random source failed.
    NoEntropy,
}

impl Refusal {
    /// Whether it came before the peer proved that it has the code or the root. Such a failure burns no code: anyone can cause it.
    pub const fn before_tag(&self) -> bool {
        matches!(self, Self::First(_) | Self::SessionId | Self::Tag)
    }

    /// Whether the peer had proved that it has the code or the root, and then failed.
    pub const fn past_tag(&self) -> bool {
        !self.before_tag() && !matches!(self, Self::NoEntropy)
    }
}

impl From<NoEntropy> for Refusal {
    fn from(_: NoEntropy) -> Self {
        Self::NoEntropy
    }
}

impl From<Forged> for Refusal {
    fn from(_: Forged) -> Self {
        Self::Box
    }
}

impl From<BadKey> for Refusal {
    fn from(_: BadKey) -> Self {
        Self::KemKey
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First(bad) | Self::Frame(bad) => return bad.fmt(f),
            Self::Params(malformed) => return write!(f, "the peer's parameters: {malformed}"),
            Self::Info(malformed) => return write!(f, "the peer's description of itself: {malformed}"),
            Self::SessionId => "the request is about another code",
            Self::Tag => "the peer did not prove that it has the secret, or sees another connection",
            Self::LowOrder => "an exchange key that contributes nothing",
            Self::KemKey => "not an ML-KEM key",
            Self::Box => "a sealed message does not open",
            Self::Padding => "a sealed message has wrong padding",
            Self::Structure => "a sealed message does not hold exactly its fields",
            Self::Commit => "the peer's nonce is not the one it committed itself to",
            Self::WeakKey => "a weak or invalid identity key",
            Self::SelfPairing => "a device cannot pair with itself",
            Self::Signature => "the peer's signature does not verify",
            Self::TransportNotListed => "the peer does not vouch for the id that its transport shows",
            Self::Status => "a status that does not exist",
            Self::NoEntropy => "the system's random source failed",
        })
    }
}

impl core::error::Error for Refusal {}

/// The secrets of a session's two directions. The opener is who opened the handshake's stream: the joiner of a pairing, the dialer
/// of a reconnect.
#[derive(Debug)]
pub struct Traffic {
    /// From the opener to the answering side.
    pub from_opener: Secret,
    /// From the answering side to the opener.
    pub from_answerer: Secret,
}

/// Who a handshake proved the other side to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenPeer {
    /// Its device key.
    pub key: PeerKey,
    /// What it says about itself.
    pub info: DeviceInfo,
    /// The same as it was sent and signed.
    pub info_bytes: Vec<u8>,
}

/// The ephemeral keys of the side that opens. Fresh for every handshake; wiped when dropped.
#[derive(Debug)]
pub(crate) struct OpenerKeys {
    exchange: ExchangeSecret,
    kem: KemSecret,
}

impl OpenerKeys {
    pub(crate) fn new(exchange: &Secret, kem: &Secret<64>) -> Self {
        Self { exchange: ExchangeSecret::new(exchange), kem: KemSecret::new(kem) }
    }

    pub(crate) fn exchange_public(&self) -> [u8; 32] {
        self.exchange.public()
    }

    pub(crate) fn kem_public(&self) -> [u8; PUBLIC_KEY] {
        self.kem.public()
    }

    /// `hs` on the opener's side. The ephemeral keys are gone afterwards.
    pub(crate) fn handshake_secret(self, early: &Secret, theirs: &[u8; 32], ciphertext: &[u8; CIPHERTEXT]) -> Result<Secret, Refusal> {
        let dh = self.exchange.agree(theirs).ok_or(Refusal::LowOrder)?;
        Ok(handshake_secret(early, &dh, &self.kem.decapsulate(ciphertext)))
    }
}

/// What the answering side sends of its ephemeral keys, and `hs` on its side.
pub(crate) struct Answer {
    pub(crate) exchange_public: [u8; 32],
    pub(crate) ciphertext: [u8; CIPHERTEXT],
    pub(crate) handshake_secret: Secret,
}

impl Answer {
    pub(crate) fn new(
        early: &Secret,
        theirs: &[u8; 32],
        their_kem: &[u8; PUBLIC_KEY],
        exchange: &Secret,
        message: &Secret,
    ) -> Result<Self, Refusal> {
        let (ciphertext, kss) = encapsulate(their_kem, message)?;
        let exchange = ExchangeSecret::new(exchange);
        let dh = exchange.agree(theirs).ok_or(Refusal::LowOrder)?;
        Ok(Self { exchange_public: exchange.public(), ciphertext, handshake_secret: handshake_secret(early, &dh, &kss) })
    }
}

/// `hs`: the early secret, the exchange's and the KEM's shared secrets in one.
pub fn handshake_secret(early: &Secret, dh: &Secret, kss: &Secret) -> Secret {
    let mut both = Zeroizing::new([0; 64]);
    both[..32].copy_from_slice(dh.bytes());
    both[32..].copy_from_slice(kss.bytes());
    extract(early.bytes(), &both[..])
}

/// `N` fresh secret bytes.
pub(crate) fn random_secret<const N: usize>(entropy: &mut dyn Entropy) -> Result<Secret<N>, NoEntropy> {
    let mut bytes = Zeroizing::new([0; N]);
    entropy.fill(&mut bytes[..])?;
    Ok(Secret::new(*bytes))
}

/// Seals the length-prefixed fields, padded to [`BOX_BLOCK`], under a key that is used for this alone.
pub(crate) fn seal_box(key: &Secret, fields: &[&[u8]], transcript: &[u8; 32]) -> Vec<u8> {
    let mut text = Vec::new();
    for field in fields {
        put_lp(&mut text, field);
    }
    seal_once(key, &pad(text, BOX_BLOCK), transcript)
}

/// Opens what [`seal_box`] made; [`fields`] then takes it apart.
// PAIR-46.
pub(crate) fn open_box(key: &Secret, sealed: &[u8], transcript: &[u8; 32]) -> Result<Vec<u8>, Refusal> {
    let mut text = open_once(key, sealed, transcript)?;
    let len = unpad(&text, BOX_BLOCK).ok_or(Refusal::Padding)?.len();
    text.truncate(len);
    Ok(text)
}

/// Exactly `N` length-prefixed fields and nothing after them.
// PAIR-13.
pub(crate) fn fields<const N: usize>(mut text: &[u8]) -> Result<[&[u8]; N], Refusal> {
    let mut fields = [&[][..]; N];
    for field in &mut fields {
        let (&length, rest) = text.split_first_chunk::<4>().ok_or(Refusal::Structure)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Refusal::Structure)?;
        (*field, text) = rest.split_at_checked(length).ok_or(Refusal::Structure)?;
    }
    if text.is_empty() || planted!(BoxTailIgnored) { Ok(fields) } else { Err(Refusal::Structure) }
}

/// A field of exactly `N` bytes.
pub(crate) fn exactly<const N: usize>(field: &[u8]) -> Result<&[u8; N], Refusal> {
    field.try_into().map_err(|_| Refusal::Structure)
}

/// The key and its signature over `hash` under `label`.
pub(crate) fn verify(key: &PeerKey, label: &[u8], hash: &[u8; 32], signature: &[u8; SIGNATURE]) -> Result<(), Refusal> {
    let key = VerifyKey::new(key).ok_or(Refusal::WeakKey)?;
    if key.verify(label, hash, signature) { Ok(()) } else { Err(Refusal::Signature) }
}

/// The DeviceInfo, if it lists the id at the remote end of the connection. `unlisted`: a planted bug, never so in what is shipped.
// PAIR-21.
pub(crate) fn listed_info(bytes: &[u8], binding: &Binding, unlisted: bool) -> Result<DeviceInfo, Refusal> {
    let info = DeviceInfo::decode(bytes).map_err(Refusal::Info)?;
    if binding.is_listed_by(&info) || unlisted { Ok(info) } else { Err(Refusal::TransportNotListed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // PAIR-13.
    fn a_box_holds_exactly_its_fields() {
        let key = Secret::new([1; 32]);
        let sealed = seal_box(&key, &[b"one", b"", b"three"], &[2; 32]);
        assert_eq!(sealed.len(), BOX_BLOCK + 16);
        let text = open_box(&key, &sealed, &[2; 32]).unwrap();
        assert_eq!(fields::<3>(&text), Ok([&b"one"[..], b"", b"three"]));
        assert_eq!(fields::<2>(&text), Err(Refusal::Structure));
        assert_eq!(fields::<4>(&text), Err(Refusal::Structure));
        assert_eq!(fields::<1>(&[0xff; 4]), Err(Refusal::Structure));
        assert_eq!(open_box(&key, &sealed, &[3; 32]), Err(Refusal::Box));
        assert_eq!(open_box(&key, &seal_once(&key, &[0; 512], &[2; 32]), &[2; 32]), Err(Refusal::Padding));
        assert_eq!(exactly::<3>(b"four"), Err(Refusal::Structure));
    }

    #[test]
    fn causes_are_sorted_by_the_tag() {
        assert!(Refusal::Tag.before_tag() && !Refusal::Tag.past_tag());
        assert!(Refusal::First(BadFrame::Version).before_tag());
        assert!(!Refusal::Frame(BadFrame::Kind).before_tag() && Refusal::Frame(BadFrame::Kind).past_tag());
        assert!(Refusal::LowOrder.past_tag());
        assert!(!Refusal::NoEntropy.before_tag() && !Refusal::NoEntropy.past_tag());
    }
}
