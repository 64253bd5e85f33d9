//! The dialer's steps: hello, accept, finish.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::schedule::{self, HandshakeKeys, Pair, Role};
use super::{LinkKeys, notice};
use crate::crypto::kdf::mac;
use crate::crypto::labels::strings;
use crate::crypto::secret::Secret;
use crate::entropy::{Entropy, NoEntropy};
use crate::handshake::{OpenerKeys, ProvenPeer, Refusal, exactly, fields, listed_info, open_box, random_secret, seal_box, verify};
use crate::identity::DeviceKey;
use crate::ids::PeerKey;
use crate::info::Binding;
use crate::wire::handshake::{Accept, Finish, Hello, Params, frame};

/// The Hello was made, the Accept is awaited, or a notice that there is no pairing any more.
#[derive(Debug)]
pub struct DialerWaiting {
    binding: Binding,
    pair: Pair,
    ephemeral: OpenerKeys,
    early: Secret,
    notice_key: Secret,
    th1: [u8; 32],
    tag: [u8; 32],
}

impl DialerWaiting {
    /// Fresh keys, and the Hello under `root`: the whole frame.
    ///
    /// Draws, in this order: the X25519 secret (32 bytes), the ML-KEM seed (64).
    ///
    /// # Errors
    /// [`NoEntropy`].
    pub fn hello(
        root: &Secret,
        own: PeerKey,
        peer: PeerKey,
        binding: Binding,
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, Vec<u8>), NoEntropy> {
        let exchange = random_secret(entropy)?;
        let ephemeral = OpenerKeys::new(&exchange, &random_secret(entropy)?);
        let pair = Pair { dialer: own, listener: peer };
        let kem = Box::new(ephemeral.kem_public());
        let mut hello = Hello { exchange: ephemeral.exchange_public(), kem, tag: [0; 32] };
        let th1 = schedule::after_hello(&schedule::prologue(&binding, Role::Dialer), &hello);
        hello.tag = mac(&pair.hello_key(root), &th1);
        let (early, notice_key) = (pair.early(root), notice::key(root, &peer, &own));
        let body = hello.encode();
        Ok((Self { binding, pair, ephemeral, early, notice_key, th1, tag: hello.tag }, frame(&body)))
    }

    /// Whether `body` is the listener's notice, made for this very Hello, that it has removed the pairing.
    pub fn is_notice(&self, body: &[u8]) -> bool {
        notice::verify(&self.notice_key, &self.th1, body)
    }

    /// Opens the Accept, verifies that it comes from the peer, and makes the Finish.
    ///
    /// # Errors
    /// [`Refusal`]; nothing more was told to the peer.
    pub fn on_accept(self, body: &[u8], own: &DeviceKey, own_info: &[u8]) -> Result<DialerDone, Refusal> {
        let accept = Accept::decode(body).map_err(Refusal::Frame)?;
        let hs = self.ephemeral.handshake_secret(&self.early, &accept.exchange, &accept.ciphertext)?;
        let th2 = schedule::after_accept(&self.th1, &self.pair, &self.tag, &accept);
        let HandshakeKeys { listener, dialer, main } = HandshakeKeys::derive(hs, &th2);
        let text = open_box(&listener, &accept.sealed, &th2)?;
        let peer = proven(&text, &self.pair.listener, strings::SIGN_LISTENER, &th2, &self.binding)?;
        let th3 = schedule::after_accept_box(&th2, &accept.sealed);
        let sealed = vouch(&dialer, own, strings::SIGN_DIALER, own_info, &th3);
        let keys = schedule::finish(main, &schedule::after_finish_box(&th3, &sealed));
        Ok(DialerDone { peer, keys, finish: frame(&Finish { sealed }.encode()) })
    }
}

/// The dialer's result.
#[derive(Debug)]
pub struct DialerDone {
    /// The peer, and what it says about itself now.
    pub peer: ProvenPeer,
    /// What both sides have once the Finish has arrived.
    pub keys: LinkKeys,
    /// The Finish: the whole frame.
    pub finish: Vec<u8>,
}

/// Seals our signature and parameters.
pub(super) fn vouch(key: &Secret, own: &DeviceKey, label: &[u8], own_info: &[u8], transcript: &[u8; 32]) -> Vec<u8> {
    let params = Params { info: own_info }.encode();
    let signature = own.sign(label, &schedule::statement(transcript, &params));
    seal_box(key, &[&signature, &params], transcript)
}

/// Verifies what [`vouch`] sealed.
// LINK-6.
pub(super) fn proven(text: &[u8], key: &PeerKey, label: &[u8], transcript: &[u8; 32], binding: &Binding) -> Result<ProvenPeer, Refusal> {
    let [signature, params] = fields(text)?;
    let signed = verify(key, label, &schedule::statement(transcript, params), exactly(signature)?);
    if !planted!(LinkUnsigned) {
        signed?;
    }
    let Params { info: info_bytes } = Params::decode(params).map_err(Refusal::Params)?;
    let info = listed_info(info_bytes, binding, planted!(UnlistedPeer))?;
    Ok(ProvenPeer { key: *key, info, info_bytes: info_bytes.to_vec() })
}
