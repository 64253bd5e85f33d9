//! Identity, code, advertisement, pairing, reconnect and rendezvous.

use protocol_core::crypto::kdf::{expand, extract};
use protocol_core::crypto::labels::{self, strings};
use protocol_core::crypto::secret::Secret;
use protocol_core::crypto::sign::SignSecret;
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::handshake::Refusal;
use protocol_core::identity::{self, DeviceKey, NetworkIdentity};
use protocol_core::info::DeviceInfo;
use protocol_core::info::advert::Advert;
use protocol_core::pairing::advertisement;
use protocol_core::pairing::code::{CodeError, CodeKeys, PairingCode};
use protocol_core::session::rendezvous::{Hour, Medium, Rendezvous};
use protocol_core::wire::cbor::Malformed;
use protocol_core::wire::handshake::BadFrame;

use super::Context;

mod link;
mod pairing;

/// Checks the sections of identities and handshakes.
pub fn check(ctx: &mut Context<'_>) {
    check_identity(ctx);
    let Some(code) = check_code(ctx) else { return };
    check_words(ctx, &code);
    pairing::check(ctx, &CodeKeys::derive(&code));
    link::check(ctx);
    check_rendezvous(ctx);
}

/// Entropy that gives the inputs of the vectors, in the order in which the shipped code draws them.
struct Script(Vec<u8>);

impl Script {
    fn new(inputs: &[&[u8]]) -> Self {
        Self(inputs.concat())
    }
}

impl Entropy for Script {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        if self.0.len() < bytes.len() {
            return Err(NoEntropy);
        }
        bytes.copy_from_slice(&self.0.drain(..bytes.len()).collect::<Vec<_>>());
        Ok(())
    }
}

/// The body of a frame, if its length says what follows.
fn body(frame: &[u8]) -> Result<&[u8], Malformed> {
    let (length, body) = frame.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
    match body.len().cmp(&(u32::from_be_bytes(*length) as usize)) {
        std::cmp::Ordering::Less => Err(Malformed::Truncated),
        std::cmp::Ordering::Equal => Ok(body),
        std::cmp::Ordering::Greater => Err(Malformed::Trailing),
    }
}

fn later_body(frame: &[u8]) -> Result<&[u8], Refusal> {
    body(frame).map_err(|malformed| Refusal::Frame(BadFrame::Malformed(malformed)))
}

/// Checks a group of what must be refused. `expected` knows the names of this edition and the reasons that fit each; under another
/// name any refusal will do.
fn check_refused<E: PartialEq + std::fmt::Debug + 'static>(
    ctx: &mut Context<'_>,
    group: &str,
    expected: impl Fn(&str) -> Option<&'static [E]>,
    mut receive: impl FnMut(&[u8]) -> Result<(), E>,
) {
    for name in ctx.keys(group) {
        let path = format!("{group}.{name}");
        let frame = ctx.hex(&path);
        match receive(&frame) {
            Ok(()) => ctx.holds(&path, false, "was accepted"),
            Err(refusal) => {
                let right = expected(&name).is_none_or(|expected| expected.contains(&refusal));
                ctx.holds(&path, right, &format!("was refused for another reason: {refusal:?}"));
            }
        }
    }
}

/// A DeviceInfo of the file: an input that must read back as it is.
fn info(ctx: &mut Context<'_>, path: &str) -> Vec<u8> {
    let bytes = ctx.hex(path);
    match DeviceInfo::decode(&bytes) {
        Ok(info) => ctx.equal(path, &info.encode()),
        Err(malformed) => ctx.holds(path, false, &malformed.to_string()),
    }
    bytes
}

/// An advert's body of the file: an input that must read back as it is.
fn advert(ctx: &mut Context<'_>, path: &str) -> Option<Advert> {
    let bytes = ctx.hex(path);
    match Advert::decode(&bytes) {
        Ok(advert) => {
            ctx.equal(path, &advert.encode());
            Some(advert)
        }
        Err(malformed) => {
            ctx.holds(path, false, &malformed.to_string());
            None
        }
    }
}

fn check_identity(ctx: &mut Context<'_>) {
    let seed = ctx.input(15);
    let prk = extract(strings::ID_SEED, &seed);
    let identity = NetworkIdentity::from_seed(Secret::new(seed));
    let device = expand::<32>(&prk, labels::ID_DEVICE, &[]);
    ctx.equal("identity.seed", &seed);
    ctx.equal("identity.prk", prk.bytes());
    ctx.equal("identity.device_key", device.bytes());
    ctx.equal("identity.libp2p_key", identity.libp2p_seed().bytes());
    ctx.equal("identity.iroh_key", identity.iroh_seed().bytes());
    ctx.equal("identity.storage_key", identity.storage_key().bytes());
    ctx.equal("identity.device_public", &identity.public().0);
    ctx.equal("identity.peer_id", &identity.peer_id());
    ctx.equal("identity.endpoint_id", &identity.endpoint_id());
    ctx.equal("identity.device_id", &identity.device_id().0);
    ctx.equal_text("identity.fingerprint", &identity.fingerprint());
    if DeviceKey::from_seed(&device).public() != identity.public() {
        ctx.holds("identity.device_key", false, "is not the key that signs");
    }
}

fn check_code(ctx: &mut Context<'_>) -> Option<PairingCode> {
    let entropy = ctx.input(1);
    let code = PairingCode::generate(&mut Script::new(&[&entropy[..16]])).ok()?;
    ctx.equal("code.entropy", &entropy[..16]);
    ctx.equal_text("code.words", &code.words().join(" "));
    let prk = extract(strings::CODE, &entropy[..16]);
    let keys = CodeKeys::derive(&code);
    ctx.equal("code.prk", prk.bytes());
    ctx.equal("code.session_id", &keys.session_id.0);
    ctx.equal("code.dht_key", &keys.dht_key);
    ctx.equal("code.mdns_id", &keys.mdns_id);
    ctx.equal("code.advert_key", keys.advert_key.bytes());
    ctx.equal("code.pkarr_seed", keys.pkarr_seed.bytes());
    ctx.equal("code.psk", expand::<32>(&prk, labels::PAIR_PSK, &[]).bytes());
    ctx.equal("code.k_req", keys.request_mac.bytes());
    ctx.equal("code.early", keys.early.bytes());
    let nonce = ctx.input(14);
    ctx.equal("code.advert_nonce", &nonce[..24]);
    let advert = advert(ctx, "code.advert_body")?;
    let sealed = advertisement::seal(&advert, &keys, &mut Script::new(&[&nonce[..24]])).ok()?;
    ctx.equal("code.advert", &sealed);
    let received = ctx.hex("code.advert");
    ctx.holds("code.advert", advertisement::open(&received, &keys) == Ok(advert), "does not open");
    Some(code)
}

fn check_words(ctx: &mut Context<'_>, code: &PairingCode) {
    for name in ctx.keys("accepted_words") {
        let path = format!("accepted_words.{name}");
        let read = PairingCode::parse(&ctx.text(&path));
        ctx.holds(&path, read.is_ok_and(|read| read.words() == code.words()), "is not read as the code");
    }
    for name in ctx.keys("refused.words") {
        let path = format!("refused.words.{name}");
        let error = PairingCode::parse(&ctx.text(&path)).err();
        let right = match name.as_str() {
            "checksum" => error == Some(CodeError::Checksum),
            "eleven" => error == Some(CodeError::WordCount(11)),
            "thirteen" => error == Some(CodeError::WordCount(13)),
            "unknown" | "five_letters_wrong" => matches!(error, Some(CodeError::UnknownWord { .. })),
            _ => error.is_some(),
        };
        ctx.holds(&path, right, &format!("was not refused for that reason: {error:?}"));
    }
}

fn check_rendezvous(ctx: &mut Context<'_>) {
    let root = Secret::new(ctx.data_input(1));
    let [publisher, seeker] = [2, 3].map(|n| DeviceKey::from_seed(&Secret::new(ctx.data_input(n))).public());
    let rendezvous = Rendezvous::new(&root, &publisher, &seeker);
    ctx.equal("rendezvous.k_rz", rendezvous.key().bytes());
    let hour = ctx.number("rendezvous.hour");
    let hour_of = hour.checked_mul(3600).map(Hour::of);
    ctx.equal_number("rendezvous.hour", hour_of.map_or(u64::MAX, |hour| hour.0));
    let hour = Hour(hour);
    ctx.equal("rendezvous.pkarr_seed", rendezvous.pkarr_seed(hour).bytes());
    let nonce = ctx.input(14);
    ctx.equal("rendezvous.nonce", &nonce[..24]);
    let Some(advert) = advert(ctx, "rendezvous.body") else { return };
    for medium in [Medium::Mdns, Medium::Kad, Medium::Pkarr] {
        let path = |leaf: &str| format!("rendezvous.{}.{leaf}", medium.name());
        ctx.equal(&path("id"), &rendezvous.id(medium, hour));
        ctx.equal(&path("key"), rendezvous.record_key(medium, hour).bytes());
        let Ok(record) = rendezvous.seal(medium, hour, &advert, &mut Script::new(&[&nonce[..24]])) else { return };
        ctx.equal(&path("record"), &record);
        let received = ctx.hex(&path("record"));
        ctx.holds(&path("record"), rendezvous.open(medium, hour, &received).as_ref() == Ok(&advert), "does not open");
    }
}

/// The public half of an Ed25519 transport key.
fn transport_public(seed: [u8; 32]) -> [u8; 32] {
    SignSecret::new(&Secret::new(seed)).public()
}

/// The PeerId of a libp2p key.
fn peer_id(seed: [u8; 32]) -> Vec<u8> {
    identity::peer_id(&transport_public(seed))
}

/// An ML-KEM seed: `d` and `z`.
fn kem_seed(d: [u8; 32], z: [u8; 32]) -> Secret<64> {
    let mut seed = [0; 64];
    seed[..32].copy_from_slice(&d);
    seed[32..].copy_from_slice(&z);
    Secret::new(seed)
}

/// The first length-prefixed field from `at`, for reading signatures out of boxes.
fn field(text: &[u8], index: usize) -> Option<&[u8]> {
    let mut rest = text;
    for at in 0.. {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (field, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if at == index {
            return Some(field);
        }
        rest = behind;
    }
    None
}
