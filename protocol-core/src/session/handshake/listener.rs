//! The listener's steps: hello, accept, finish.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::LinkKeys;
use super::dialer::{proven, vouch};
use super::schedule::{self, HandshakeKeys, Pair, Role};
use crate::crypto::kdf::mac_is;
use crate::crypto::labels::strings;
use crate::crypto::secret::Secret;
use crate::entropy::Entropy;
use crate::handshake::{Answer, ProvenPeer, Refusal, open_box, random_secret};
use crate::identity::DeviceKey;
use crate::ids::PeerKey;
use crate::info::Binding;
use crate::wire::handshake::{Accept, Finish, Hello, frame};

/// A Hello; whose, is not known yet.
#[derive(Debug)]
pub struct ReceivedHello {
    hello: Hello,
    binding: Binding,
    th1: [u8; 32],
}

impl ReceivedHello {
    /// Reads a Hello, and hashes it with our own view of the connection.
    ///
    /// # Errors
    /// [`Refusal::First`].
    pub fn decode(body: &[u8], binding: Binding) -> Result<Self, Refusal> {
        let hello = Hello::decode(body).map_err(Refusal::First)?;
        let th1 = schedule::after_hello(&schedule::prologue(&binding, Role::Listener), &hello);
        Ok(Self { hello, binding, th1 })
    }

    /// What to know a Hello by that was seen before, and what a notice is made for.
    pub const fn th1(&self) -> &[u8; 32] {
        &self.th1
    }

    /// Whether the Hello was made under the root that `hello_key` ([`Pair::hello_key`], or a tombstone's) belongs to. One MAC, in
    /// constant time.
    pub fn matches(&self, hello_key: &Secret) -> bool {
        mac_is(hello_key, &self.th1, &self.hello.tag)
    }

    /// Makes the Accept for the peer whose root [`ReceivedHello::matches`]: the whole frame.
    ///
    /// Draws, in this order: the X25519 secret (32 bytes), the ML-KEM message (32).
    ///
    /// # Errors
    /// [`Refusal::Tag`]: another root. [`Refusal::KemKey`], [`Refusal::LowOrder`]: the peer's keys are no good.
    /// [`Refusal::NoEntropy`].
    pub fn accept(
        self,
        root: &Secret,
        own: &DeviceKey,
        own_info: &[u8],
        peer: PeerKey,
        entropy: &mut dyn Entropy,
    ) -> Result<(ListenerWaiting, Vec<u8>), Refusal> {
        let pair = Pair { dialer: peer, listener: own.public() };
        if !self.matches(&pair.hello_key(root)) {
            return Err(Refusal::Tag);
        }
        let exchange = random_secret(entropy)?;
        let message = random_secret(entropy)?;
        let answer = Answer::new(&pair.early(root), &self.hello.exchange, &self.hello.kem, &exchange, &message)?;
        let ciphertext = Box::new(answer.ciphertext);
        let mut accept = Accept { exchange: answer.exchange_public, ciphertext, sealed: Vec::new() };
        let th2 = schedule::after_accept(&self.th1, &pair, &self.hello.tag, &accept);
        let HandshakeKeys { listener, dialer, main } = HandshakeKeys::derive(answer.handshake_secret, &th2);
        accept.sealed = vouch(&listener, own, strings::SIGN_LISTENER, own_info, &th2);
        let th3 = schedule::after_accept_box(&th2, &accept.sealed);
        let waiting = ListenerWaiting { binding: self.binding, peer, opens: dialer, main, th3 };
        Ok((waiting, frame(&accept.encode())))
    }
}

/// The Accept was made, the Finish is awaited.
#[derive(Debug)]
pub struct ListenerWaiting {
    binding: Binding,
    peer: PeerKey,
    opens: Secret,
    main: Secret,
    th3: [u8; 32],
}

impl ListenerWaiting {
    /// Opens the Finish and verifies that it comes from the peer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn on_finish(self, body: &[u8]) -> Result<ListenerDone, Refusal> {
        let finish = Finish::decode(body).map_err(Refusal::Frame)?;
        let text = open_box(&self.opens, &finish.sealed, &self.th3)?;
        let peer = proven(&text, &self.peer, strings::SIGN_DIALER, &self.th3, &self.binding)?;
        let keys = schedule::finish(self.main, &schedule::after_finish_box(&self.th3, &finish.sealed));
        Ok(ListenerDone { peer, keys })
    }
}

/// The listener's result.
#[derive(Debug)]
pub struct ListenerDone {
    /// The peer, and what it says about itself now.
    pub peer: ProvenPeer,
    /// What both sides have now.
    pub keys: LinkKeys,
}
