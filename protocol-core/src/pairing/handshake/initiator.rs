//! The initiator's steps: request, challenge, response, complete.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::joiner::STATUS_BLOCK;
use super::schedule::{self, HandshakeKeys, Role};
use super::{PairingKeys, Status};
use crate::crypto::aead::{pad, seal_once};
use crate::crypto::kdf::mac_is;
use crate::crypto::labels::strings;
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, random};
use crate::handshake::{Answer, ProvenPeer, Refusal, exactly, fields, listed_info, open_box, random_secret, seal_box, verify};
use crate::identity::DeviceKey;
use crate::ids::PeerKey;
use crate::info::Binding;
use crate::pairing::code::CodeKeys;
use crate::wire::handshake::{Challenge, Complete, PairingRequest, Response, frame};

/// A request about our code; whether it comes from someone who has the code is not known yet.
#[derive(Debug)]
pub struct ReceivedRequest(PairingRequest);

impl ReceivedRequest {
    /// Reads a request, and checks that it is about this code.
    ///
    /// # Errors
    /// [`Refusal::First`], [`Refusal::SessionId`].
    pub fn decode(body: &[u8], keys: &CodeKeys) -> Result<Self, Refusal> {
        let request = PairingRequest::decode(body).map_err(Refusal::First)?;
        if request.session_id == keys.session_id || planted!(SessionIdUnchecked) { Ok(Self(request)) } else { Err(Refusal::SessionId) }
    }

    /// Checks the tag against our own view of the connection. One hash and one MAC: no rate limit comes before this.
    ///
    /// # Errors
    /// [`Refusal::Tag`].
    pub fn verify(self, keys: &CodeKeys, binding: Binding) -> Result<VerifiedRequest, Refusal> {
        let th1 = schedule::after_request(&schedule::prologue(&self.0.session_id, &binding, Role::Initiator), &self.0);
        let proved = mac_is(&keys.request_mac, &th1, &self.0.tag) || planted!(TagUnchecked);
        if proved { Ok(VerifiedRequest { request: self.0, binding, th1 }) } else { Err(Refusal::Tag) }
    }
}

/// A request from someone who has the code, or from someone who plays back what such a one sent.
#[derive(Debug)]
pub struct VerifiedRequest {
    request: PairingRequest,
    binding: Binding,
    th1: [u8; 32],
}

impl VerifiedRequest {
    /// What to know a request by that was seen before.
    pub const fn th1(&self) -> &[u8; 32] {
        &self.th1
    }

    /// Makes the Challenge: the whole frame.
    ///
    /// Draws, in this order: the X25519 secret (32 bytes), the challenge (32), the ML-KEM message (32).
    ///
    /// # Errors
    /// [`Refusal::KemKey`], [`Refusal::LowOrder`]: the peer's keys are no good. [`Refusal::NoEntropy`].
    pub fn challenge(
        self,
        keys: &CodeKeys,
        own: &DeviceKey,
        own_info: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<(InitiatorWaiting, Vec<u8>), Refusal> {
        let exchange = random_secret(entropy)?;
        let challenge = random(entropy)?;
        let message = random_secret(entropy)?;
        let answer = Answer::new(&keys.early, &self.request.exchange, &self.request.kem, &exchange, &message)?;
        let ciphertext = Box::new(answer.ciphertext);
        let mut challenge = Challenge { challenge, exchange: answer.exchange_public, ciphertext, sealed: Vec::new() };
        let th2 = schedule::after_challenge(&self.th1, &self.request.tag, &challenge);
        let HandshakeKeys { initiator, joiner, main } = HandshakeKeys::derive(answer.handshake_secret, &th2);
        let key = own.public();
        let signature = own.sign(strings::SIGN_INITIATOR, &schedule::initiator_statement(&th2, &key, own_info));
        challenge.sealed = seal_box(&initiator, &[&key.0, &signature, own_info], &th2);
        let th3 = schedule::after_challenge_box(&th2, &challenge.sealed);
        let waiting = InitiatorWaiting { binding: self.binding, commit: self.request.commit, opens: joiner, main, th3 };
        Ok((waiting, frame(&challenge.encode())))
    }
}

/// The Challenge was made, the Response is awaited.
#[derive(Debug)]
pub struct InitiatorWaiting {
    binding: Binding,
    commit: [u8; 32],
    opens: Secret,
    main: Secret,
    th3: [u8; 32],
}

impl InitiatorWaiting {
    /// Opens the Response and finds out who the joiner is.
    ///
    /// # Errors
    /// [`Refusal`]; nothing more was told to the peer.
    pub fn on_response(self, body: &[u8], own: &DeviceKey) -> Result<InitiatorVerified, Refusal> {
        let response = Response::decode(body).map_err(Refusal::Frame)?;
        let text = open_box(&self.opens, &response.sealed, &self.th3)?;
        let [key, signature, info_bytes, nonce] = fields(&text)?;
        let (key, signature) = (PeerKey(*exactly(key)?), exactly(signature)?);
        let nonce = Secret::new(*exactly(nonce)?);
        // PAIR-26.
        if schedule::commitment(&nonce) != self.commit && !planted!(CommitUnchecked) {
            return Err(Refusal::Commit);
        }
        if key == own.public() && !planted!(SelfUnnoticedByInitiator) {
            // PAIR-45.
            return Err(Refusal::SelfPairing);
        }
        let statement = schedule::joiner_statement(&self.th3, &key, info_bytes, nonce.bytes());
        let signed = verify(&key, strings::SIGN_JOINER, &statement, signature);
        if !planted!(JoinerUnsigned) {
            signed?;
        }
        let info = listed_info(info_bytes, &self.binding, planted!(UnlistedJoiner))?;
        let th4 = schedule::after_response_box(&self.th3, &response.sealed);
        let (keys, seals) = schedule::finish(self.main, &self.th3, &th4, nonce.bytes());
        let peer = ProvenPeer { key, info, info_bytes: info_bytes.to_vec() };
        Ok(InitiatorVerified { peer, keys, completion: Completion { seals, th4 } })
    }
}

/// The initiator's result.
#[derive(Debug)]
pub struct InitiatorVerified {
    /// Who typed the code.
    pub peer: ProvenPeer,
    /// What both sides have now.
    pub keys: PairingKeys,
    /// Makes the Complete.
    pub completion: Completion,
}

/// Makes the initiator's last word, once: its key seals a single message.
#[derive(Debug)]
pub struct Completion {
    seals: Secret,
    th4: [u8; 32],
}

impl Completion {
    /// The Complete: the whole frame. [`Status::Accepted`] must not leave before the record is durable.
    pub fn seal(self, status: Status) -> Vec<u8> {
        let sealed = seal_once(&self.seals, &pad(Vec::from([status.code()]), STATUS_BLOCK), &self.th4);
        frame(&Complete { sealed }.encode())
    }

    /// A Complete's box with any text in it, as a peer that lies can make.
    #[cfg(test)]
    pub(super) fn seal_for_test(&self, text: &[u8]) -> Vec<u8> {
        seal_once(&self.seals, text, &self.th4)
    }
}
