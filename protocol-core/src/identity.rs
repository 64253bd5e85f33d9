//! Who a device is: one seed, and the keys that grow from it (PROTOCOL.md, section 4.1).

use alloc::string::String;
use alloc::vec::Vec;

use bip39::{Language, Mnemonic};

use crate::crypto::kdf::{expand, extract, hash};
use crate::crypto::labels::{self, strings};
use crate::crypto::secret::Secret;
use crate::crypto::sign::{SIGNATURE, SignSecret};
use crate::ids::{DeviceId, PeerKey};

/// Words of a fingerprint, eleven bits each.
const FINGERPRINT_WORDS: usize = 6;
/// How a libp2p PeerId of an Ed25519 key begins: an identity multihash of a 36-byte protobuf key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The key that signs our handshakes, and nothing else. Its public half is what peers know a device by.
#[derive(Debug)]
pub struct DeviceKey {
    secret: SignSecret,
    public: PeerKey,
}

impl DeviceKey {
    /// The key of an Ed25519 seed.
    pub fn from_seed(seed: &Secret) -> Self {
        let secret = SignSecret::new(seed);
        let public = PeerKey(secret.public());
        Self { secret, public }
    }

    /// The public half.
    pub const fn public(&self) -> PeerKey {
        self.public
    }

    pub(crate) fn sign(&self, label: &[u8], hash: &[u8; 32]) -> [u8; SIGNATURE] {
        self.secret.sign(label, hash)
    }

    /// Signs what a peer that lies wants signed.
    #[cfg(feature = "testing")]
    pub fn sign_lie(&self, label: &[u8], hash: &[u8; 32]) -> [u8; SIGNATURE] {
        self.sign(label, hash)
    }
}

/// All keys of this device.
#[derive(Debug)]
pub struct NetworkIdentity {
    device: DeviceKey,
    libp2p: Secret,
    iroh: Secret,
    storage: Secret,
}

impl NetworkIdentity {
    /// The keys that grow from the master seed, which is wiped here.
    // ID-11.
    pub fn from_seed(seed: Secret) -> Self {
        let prk = extract(strings::ID_SEED, seed.bytes());
        drop(seed);
        Self {
            device: DeviceKey::from_seed(&expand(&prk, labels::ID_DEVICE, &[])),
            libp2p: expand(&prk, labels::ID_LIBP2P, &[]),
            iroh: expand(&prk, labels::ID_IROH, &[]),
            storage: expand(&prk, labels::ID_STORAGE, &[]),
        }
    }

    /// The key that signs handshakes.
    pub const fn device_key(&self) -> &DeviceKey {
        &self.device
    }

    /// The device key's public half.
    pub const fn public(&self) -> PeerKey {
        self.device.public
    }

    /// The device's id.
    pub fn device_id(&self) -> DeviceId {
        device_id(&self.device.public)
    }

    /// The device's fingerprint: six words.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.device.public)
    }

    /// The key that seals roots and other secrets at rest.
    pub const fn storage_key(&self) -> &Secret {
        &self.storage
    }

    /// The seed of the Ed25519 key that libp2p is known by.
    pub const fn libp2p_seed(&self) -> &Secret {
        &self.libp2p
    }

    /// The seed of the Ed25519 key that Iroh is known by.
    pub const fn iroh_seed(&self) -> &Secret {
        &self.iroh
    }

    /// The libp2p PeerId, as bytes (38 of them).
    pub fn peer_id(&self) -> Vec<u8> {
        peer_id(&SignSecret::new(&self.libp2p).public())
    }

    /// The Iroh EndpointId.
    pub fn endpoint_id(&self) -> [u8; 32] {
        SignSecret::new(&self.iroh).public()
    }
}

/// The PeerId (38 bytes) of a libp2p Ed25519 key.
pub fn peer_id(public: &[u8; 32]) -> Vec<u8> {
    [&PEER_ID_PREFIX[..], public].concat()
}

/// The id of the device with this key. Computed, never received, so that nobody can claim another's.
// ID-12.
pub fn device_id(key: &PeerKey) -> DeviceId {
    let digest = hash(&[strings::DEVICE_ID, &key.0]);
    DeviceId(uuid_v8(&digest))
}

/// The fingerprint of the device with this key: six words of the BIP39 list, for people to compare (66 bits).
// ID-13.
pub fn fingerprint(key: &PeerKey) -> String {
    let digest = hash(&[strings::FINGERPRINT, &key.0]);
    let mnemonic = Mnemonic::from_entropy_in(Language::English, &digest).expect("invariant: BIP39 takes 32 bytes");
    mnemonic.words().take(FINGERPRINT_WORDS).collect::<Vec<_>>().join(" ")
}

/// The first sixteen bytes with the version and variant bits of a UUIDv8.
pub(crate) const fn uuid_v8(digest: &[u8; 32]) -> [u8; 16] {
    let (bytes, _) = digest.split_first_chunk::<16>().expect("invariant: 32 bytes hold 16");
    stamp_v8(*bytes)
}

/// Sets the version nibble to 8 and the variant bits to 10.
pub(crate) const fn stamp_v8(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn keys_of_an_identity_are_distinct_and_hidden() {
        let identity = NetworkIdentity::from_seed(Secret::new([3; 32]));
        assert_ne!(identity.public().0, identity.endpoint_id());
        assert_ne!(&identity.peer_id()[6..], identity.endpoint_id());
        assert_ne!(identity.libp2p_seed().bytes(), identity.iroh_seed().bytes());
        assert_eq!(identity.fingerprint().split(' ').count(), 6);
        let id = identity.device_id();
        assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (8, 2));
        let shown = format!("{identity:?}");
        assert!(!shown.contains(&format!("{:?}", identity.storage_key().bytes())), "{shown}");
        assert_eq!(shown.matches("[redacted]").count(), 4, "{shown}");
    }
}
