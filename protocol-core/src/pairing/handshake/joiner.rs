//! The joiner's steps: request, challenge, response, complete.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::schedule::{self, HandshakeKeys, Role};
use super::{PairingKeys, Status};
use crate::crypto::aead::{open_once, unpad};
use crate::crypto::kdf::mac;
use crate::crypto::labels::strings;
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy};
use crate::handshake::{OpenerKeys, ProvenPeer, Refusal, exactly, fields, listed_info, open_box, random_secret, seal_box, verify};
use crate::identity::DeviceKey;
use crate::ids::PeerKey;
use crate::info::Binding;
use crate::pairing::code::CodeKeys;
use crate::wire::handshake::{Challenge, Complete, PairingRequest, Response, frame};

/// `status` is padded to a multiple of this many bytes.
pub(super) const STATUS_BLOCK: usize = 64;

/// The request was made, the Challenge is awaited.
#[derive(Debug)]
pub struct JoinerWaiting {
    binding: Binding,
    ephemeral: OpenerKeys,
    nonce: Secret,
    th1: [u8; 32],
    tag: [u8; 32],
}

impl JoinerWaiting {
    /// Fresh keys, and the PairingRequest: the whole frame.
    ///
    /// Draws, in this order: the X25519 secret (32 bytes), the nonce (32), the ML-KEM seed (64).
    ///
    /// # Errors
    /// [`NoEntropy`].
    // PAIR-6.
    pub fn start(keys: &CodeKeys, binding: Binding, entropy: &mut dyn Entropy) -> Result<(Self, Vec<u8>), NoEntropy> {
        let exchange = if planted!(EphemeralReused) { keys.early.duplicate() } else { random_secret(entropy)? };
        let nonce = random_secret(entropy)?;
        let ephemeral = OpenerKeys::new(&exchange, &random_secret(entropy)?);
        let mut request = PairingRequest {
            session_id: keys.session_id,
            commit: schedule::commitment(&nonce),
            exchange: ephemeral.exchange_public(),
            kem: Box::new(ephemeral.kem_public()),
            tag: [0; 32],
        };
        let th1 = schedule::after_request(&schedule::prologue(&keys.session_id, &binding, Role::Joiner), &request);
        request.tag = mac(&keys.request_mac, &th1);
        let body = request.encode();
        Ok((Self { binding, ephemeral, nonce, th1, tag: request.tag }, frame(&body)))
    }

    /// Opens the Challenge and finds out who the initiator is.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was told to the peer.
    pub fn on_challenge(self, body: &[u8], keys: &CodeKeys, own: &DeviceKey) -> Result<JoinerVerified, Refusal> {
        let challenge = Challenge::decode(body).map_err(Refusal::Frame)?;
        let hs = self.ephemeral.handshake_secret(&keys.early, &challenge.exchange, &challenge.ciphertext)?;
        let th2 = schedule::after_challenge(&self.th1, &self.tag, &challenge);
        let HandshakeKeys { initiator, joiner, main } = HandshakeKeys::derive(hs, &th2);
        let text = open_box(&initiator, &challenge.sealed, &th2)?;
        let [key, signature, info_bytes] = fields(&text)?;
        let (key, signature) = (PeerKey(*exactly(key)?), exactly(signature)?);
        if key == own.public() && !planted!(SelfUnnoticedByJoiner) {
            // PAIR-19.
            return Err(Refusal::SelfPairing);
        }
        // PAIR-20.
        let signed = verify(&key, strings::SIGN_INITIATOR, &schedule::initiator_statement(&th2, &key, info_bytes), signature);
        if !planted!(InitiatorUnsigned) {
            signed?;
        }
        let info = listed_info(info_bytes, &self.binding, planted!(UnlistedInitiator))?;
        let th3 = schedule::after_challenge_box(&th2, &challenge.sealed);
        let peer = ProvenPeer { key, info, info_bytes: info_bytes.to_vec() };
        Ok(JoinerVerified { peer, nonce: self.nonce, seals: joiner, main, th3 })
    }
}

/// The initiator is known. Nothing about this device has been told yet.
#[derive(Debug)]
pub struct JoinerVerified {
    peer: ProvenPeer,
    nonce: Secret,
    seals: Secret,
    main: Secret,
    th3: [u8; 32],
}

impl JoinerVerified {
    /// Who showed the code.
    pub const fn peer(&self) -> &ProvenPeer {
        &self.peer
    }

    /// Makes the final keys, and the Response: the whole frame. It names this device, and must not leave before the pending root is
    /// durable.
    pub fn respond(self, own: &DeviceKey, own_info: &[u8]) -> (JoinerFinal, Vec<u8>) {
        let nonce = self.nonce.bytes();
        let key = own.public();
        let signature = own.sign(strings::SIGN_JOINER, &schedule::joiner_statement(&self.th3, &key, own_info, nonce));
        let sealed = seal_box(&self.seals, &[&key.0, &signature, own_info, nonce], &self.th3);
        let th4 = schedule::after_response_box(&self.th3, &sealed);
        let (keys, opens) = schedule::finish(self.main, &self.th3, &th4, nonce);
        (JoinerFinal { peer: self.peer, keys, complete: AwaitedComplete { opens, th4 } }, frame(&Response { sealed }.encode()))
    }
}

/// The joiner's result; final once the initiator's Complete says so.
#[derive(Debug)]
pub struct JoinerFinal {
    /// Who showed the code.
    pub peer: ProvenPeer,
    /// What both sides have now.
    pub keys: PairingKeys,
    /// Opens the Complete.
    pub complete: AwaitedComplete,
}

/// Opens the initiator's last word.
#[derive(Debug)]
pub struct AwaitedComplete {
    opens: Secret,
    th4: [u8; 32],
}

impl AwaitedComplete {
    /// What the initiator says.
    ///
    /// # Errors
    /// [`Refusal`]; the pairing then stays provisional.
    pub fn on_complete(self, body: &[u8]) -> Result<Status, Refusal> {
        let complete = Complete::decode(body).map_err(Refusal::Frame)?;
        let text = open_once(&self.opens, &complete.sealed, &self.th4)?;
        match unpad(&text, STATUS_BLOCK).ok_or(Refusal::Padding)? {
            &[code] => Status::from_code(code).ok_or(Refusal::Status),
            _ => Err(Refusal::Structure),
        }
    }
}
