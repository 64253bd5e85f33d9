//! What the owner wants. A failed call changes nothing.

use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::{Node, cx};
use crate::devices::device::Device;
use crate::devices::policy::Policy;
use crate::effects::{DeviceState, Env, Event, TransferKey};
use crate::faults::{CancelReason, DeclineReason, LinkFailure, PairFailure, TransferFailure, code};
use crate::ids::{DeviceId, PeerKey, SessionId, TransferId};
use crate::info::Address;
use crate::limits;
use crate::outbox::Purpose;
use crate::pairing::code::CodeKeys;
use crate::pairing::joiner::Joiner;
use crate::pairing::{Confirm, PairError, PairingCode, PairingInvite};
use crate::timers::TimerKind;
use crate::transfer::machine::{ShareError, UnknownTransfer};
use crate::transfer::manifest::Manifest;

macro_rules! unknown {
    ($(#[$doc:meta])* $name:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($text)
            }
        }

        impl core::error::Error for $name {}
    };
}

unknown! {
    /// No paired device has this id.
    UnknownDevice, "no such device"
}
unknown! {
    /// No pairing of this name waits for an answer.
    UnknownPairing, "no such pairing"
}

/// Why a policy was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// No paired device has this id.
    UnknownDevice,
    /// The folder, a protocol's name or their number is above its bound.
    TooLong,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownDevice => "no such device",
            Self::TooLong => {
                "the folder is longer than 4096 bytes, a protocol's name is empty or longer than 64, or there are more than 64"
            }
        })
    }
}

impl core::error::Error for PolicyError {}

/// Why no attempt to reach a device was started. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No paired device has this id.
    Unknown,
    /// It is blocked here.
    Blocked,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no such device",
            Self::Blocked => "the device is blocked here",
        })
    }
}

impl core::error::Error for ConnectError {}

impl Node {
    /// Draws a code that makes the next device which types it a paired one.
    ///
    /// `ttl` is 5 to 10 minutes. The words are shown to the user and kept nowhere else. Ends with [`Event::Paired`] or
    /// [`Event::PairFailed`].
    ///
    /// # Errors
    /// [`PairError::Busy`] while another code or its handshake lives, [`PairError::Lifetime`], [`PairError::NoEntropy`].
    pub fn start_pairing_as_initiator(&mut self, env: &mut Env<'_>, ttl: Duration, confirm: Confirm) -> Result<PairingInvite, PairError> {
        self.advance(env);
        let (session, code) = self.initiator.begin(cx!(self, env), ttl, confirm)?;
        Ok(PairingInvite { session, code, ttl })
    }

    /// Looks for the device that showed `code` at these addresses, and pairs with it. Without an address it is looked for by its
    /// code ([`Node::discovery`]), if the host does that ([`Fact::Searches`](crate::effects::Fact::Searches)).
    ///
    /// Ends with [`Event::Paired`], [`Event::PairFailed`] or [`Event::PairUnfinished`].
    ///
    /// # Errors
    /// [`PairError::Busy`] while another attempt runs, [`PairError::NoAddress`], [`PairError::OwnCode`].
    pub fn start_pairing_as_joiner(
        &mut self,
        env: &mut Env<'_>,
        code: &PairingCode,
        addresses: &[Address],
        confirm: Confirm,
    ) -> Result<SessionId, PairError> {
        self.advance(env);
        if self.joiner.is_some() {
            return Err(PairError::Busy);
        }
        let searches = self.discovery.searches();
        if addresses.is_empty() && self.initiator.session() == Some(CodeKeys::derive(code).session_id) {
            return Err(PairError::OwnCode);
        }
        let joiner = Joiner::begin(cx!(self, env), code, addresses, confirm, searches)?;
        let session = joiner.session();
        self.joiner = Some(joiner);
        Ok(session)
    }

    /// The user's answer to [`Event::PairRequest`].
    ///
    /// # Errors
    /// [`UnknownPairing`]: it was answered already, or ended.
    pub fn answer_pairing(&mut self, env: &mut Env<'_>, session: SessionId, yes: bool) -> Result<(), UnknownPairing> {
        self.advance(env);
        if let Some(stream) = self.initiator.asks(session) {
            let step = self.initiator.on_answer(cx!(self, env), stream, yes);
            self.initiator_step(env, stream, step);
            self.settle(env);
            return Ok(());
        }
        let joiner = self.joiner.as_mut().filter(|joiner| joiner.session() == session && joiner.asks()).ok_or(UnknownPairing)?;
        let stream = joiner.stream();
        let bound = joiner.bound().cloned();
        let step = joiner.on_answer(cx!(self, env), yes);
        if let (true, Some(bound)) = (yes, bound) {
            // From here on the pending root may be used, also after a crash.
            if let Some(change) = self.registry.agree(&bound.peer, bound.session_ref).filter(|_| !planted!(AgreeNotStored)) {
                self.store(env, bound.peer, change, Purpose::Registry { peer: bound.peer });
            }
        }
        self.joiner_step(env, stream, step);
        self.settle(env);
        Ok(())
    }

    /// Ends a pairing, as either side, with [`Event::PairFailed`].
    pub fn cancel_pairing(&mut self, env: &mut Env<'_>, session: SessionId) {
        self.advance(env);
        let asked = self.initiator.asks(session);
        self.initiator.cancel(cx!(self, env), session);
        if let Some(stream) = asked {
            self.initiator_step(env, stream, crate::pairing::initiator::Step::Rest);
        }
        if let Some(joiner) = self.joiner.as_mut().filter(|joiner| joiner.session() == session) {
            let step = joiner.cancel(cx!(self, env), PairFailure::Cancelled);
            self.joiner_step(env, crate::ids::StreamId(0), step);
        }
        self.settle(env);
    }

    /// Connects to a paired device, at its stored addresses and at `extra`, which come first.
    ///
    /// Ends with [`Event::Device`] `Connected` or [`Event::ConnectFailed`].
    ///
    /// # Errors
    /// [`ConnectError::Unknown`].
    pub fn connect(&mut self, env: &mut Env<'_>, device: DeviceId, extra: &[Address]) -> Result<(), ConnectError> {
        self.advance(env);
        let peer = self.registry.by_id(device).ok_or(ConnectError::Unknown)?.key;
        if self.registry.is_blocked(&peer) {
            return Err(ConnectError::Blocked);
        }
        self.keep_again(device);
        if let Some(session) = self.primary.get(&device).and_then(|primary| self.sessions.get(primary)) {
            let route = session.route();
            let event = Event::Device { device, state: DeviceState::Connected, route: Some(route), reason: None };
            cx!(self, env).notify(event);
            return Ok(());
        }
        self.dial_device(env, peer, extra.to_vec());
        self.settle(env);
        Ok(())
    }

    /// Asks a device with which a session stands for a sign of life. Ends with [`Event::Pong`], or with the session.
    ///
    /// # Errors
    /// [`UnknownDevice`]: no session stands with it.
    pub fn ping(&mut self, env: &mut Env<'_>, device: DeviceId) -> Result<(), UnknownDevice> {
        self.advance(env);
        let session = self.primary.get(&device).and_then(|primary| self.sessions.get_mut(primary)).ok_or(UnknownDevice)?;
        session.ask(cx!(self, env), true);
        Ok(())
    }

    /// Ends the session with a device in order, or the attempt to have one, and cancels what is under way with it.
    pub fn disconnect(&mut self, env: &mut Env<'_>, device: DeviceId) {
        self.advance(env);
        self.keep_no_more(device);
        self.end_session_with(env, device, LinkFailure::Closed);
        self.connect_failed(env, device, LinkFailure::Closed);
        self.settle(env);
    }

    /// Ends whatever runs with a device that nothing stands on any more: transfers, sessions, attempts.
    pub(super) fn end_all(&mut self, env: &mut Env<'_>, device: DeviceId, peer: PeerKey) {
        self.cancel_transfers(env, device);
        self.transfers.on_forget(cx!(self, env), device);
        self.end_session_with(env, device, LinkFailure::Closed);
        self.stop_dialling(env, device);
        self.drop_unfinished(env, peer);
        if !planted!(ForgottenKeepsSession) {
            self.drop_sessions(env, device);
        }
        self.met.remove(&device);
    }

    /// Tells the peer what ends with the session, ahead of its fin.
    pub(super) fn cancel_transfers(&mut self, env: &mut Env<'_>, device: DeviceId) {
        self.transfers.on_leave(cx!(self, env), device);
        self.settle(env);
    }

    /// Ends the session with a device in order, for this reason, and cancels what is under way.
    pub(super) fn end_session_with(&mut self, env: &mut Env<'_>, device: DeviceId, reason: LinkFailure) {
        if !planted!(CancelBehindFin) {
            self.cancel_transfers(env, device);
        }
        self.leave_session(env, device, reason);
        self.transfers.on_session_over(cx!(self, env), device, TransferFailure::CancelledHere(CancelReason::User));
    }

    /// Ends the session with a device in order. What becomes of its transfers is said by whoever asks for it.
    fn leave_session(&mut self, env: &mut Env<'_>, device: DeviceId, reason: LinkFailure) {
        let Some(session) = self.primary.remove(&device).and_then(|primary| self.sessions.get_mut(&primary)) else { return };
        session.end(cx!(self, env));
        session.left = !planted!(GoodbyeUndone);
        let (stream, peer) = (session.stream, session.peer);
        // An attempt beside a session would renew it, ours or the peer's: there the transfers that end here would go on.
        self.stop_dialling(env, device);
        self.drop_unfinished(env, peer);
        // The peer's fin, or two seconds.
        self.timers.set(TimerKind::Stream(stream), self.now, limits::GOODBYE_WAIT);
        // One that it has replaced, or that may replace it, is not gone back to.
        for other in self.sessions.values_mut().filter(|other| other.device == device && !other.ending) {
            other.end(cx!(self, env));
            other.left = true;
            other.in_question = false;
            self.timers.set(TimerKind::Stream(other.stream), self.now, limits::GOODBYE_WAIT);
        }
        self.met.insert(device);
        self.note_end(env, &peer, reason);
        self.messages.on_session_over(&peer);
        if !planted!(ProtocolOutlivesGoodbye) {
            self.end_protocols(env, device, code::DONE);
        }
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Disconnected, route: None, reason: Some(reason) });
    }

    /// Offers files to a paired device, and connects to it if need be.
    ///
    /// Ends with [`Event::Done`] or [`Event::Failed`].
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn share_with_device(
        &mut self,
        env: &mut Env<'_>,
        to: DeviceId,
        manifest: Arc<Manifest>,
        label: Option<String>,
    ) -> Result<TransferKey, ShareError> {
        self.share(env, to, manifest, label, None)
    }

    /// The same for what was offered in an earlier life of the process, as the transfer that it was: a receiver that is done with it
    /// says so, and takes nothing twice.
    ///
    /// # Errors
    /// [`ShareError`].
    // XFER-27.
    pub fn share_again(
        &mut self,
        env: &mut Env<'_>,
        to: DeviceId,
        manifest: Arc<Manifest>,
        label: Option<String>,
        transfer: TransferId,
    ) -> Result<TransferKey, ShareError> {
        self.share(env, to, manifest, label, Some(transfer))
    }

    fn share(
        &mut self,
        env: &mut Env<'_>,
        to: DeviceId,
        manifest: Arc<Manifest>,
        label: Option<String>,
        again: Option<TransferId>,
    ) -> Result<TransferKey, ShareError> {
        self.advance(env);
        let usable = |device: &&Device| device.is_usable(env.unix_s) || planted!(UnfinishedRefused);
        let peer = self.registry.by_id(to).filter(usable).map(|device| device.key);
        if peer.is_none_or(|peer| self.registry.is_blocked(&peer)) {
            return Err(ShareError::UnknownDevice);
        }
        let key = self.transfers.offer(cx!(self, env), to, manifest, label, again)?;
        self.keep_again(to);
        if let (Some(peer), false) = (peer, self.primary.contains_key(&to)) {
            self.dial_device(env, peer, Vec::new());
        }
        self.settle(env);
        Ok(key)
    }

    /// Takes an offer. The host has settled where its files go and what happens to conflicts.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: it is not waiting for an answer.
    pub fn accept(&mut self, env: &mut Env<'_>, key: TransferKey) -> Result<(), UnknownTransfer> {
        self.advance(env);
        let result = self.transfers.accept(cx!(self, env), key);
        self.settle(env);
        result
    }

    /// Declines an offer.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: it is not waiting for an answer.
    pub fn decline(&mut self, env: &mut Env<'_>, key: TransferKey, reason: DeclineReason) -> Result<(), UnknownTransfer> {
        self.advance(env);
        let result = self.transfers.decline(cx!(self, env), key, reason);
        self.settle(env);
        result
    }

    /// Ends a transfer from either side.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: it has ended already.
    pub fn cancel(&mut self, env: &mut Env<'_>, key: TransferKey, reason: CancelReason) -> Result<(), UnknownTransfer> {
        self.advance(env);
        let result = self.transfers.cancel(cx!(self, env), key, reason);
        self.settle(env);
        result
    }

    /// Has a transfer rest, or go on, in either direction: nothing more is claimed for it, here or there, and what is on its way arrives. That
    /// holds over lost sessions, until it is taken back here; the other side may want the same for itself.
    ///
    /// # Errors
    /// [`UnknownTransfer`]: it has ended, or was not taken yet.
    // XFER-30.
    pub fn pause(&mut self, env: &mut Env<'_>, key: TransferKey, paused: bool) -> Result<(), UnknownTransfer> {
        self.advance(env);
        let result = self.transfers.pause(cx!(self, env), key, paused);
        self.settle(env);
        result
    }

    /// Gives a device a name of the owner's choice; an empty one takes it away. Cut to 64 bytes.
    ///
    /// # Errors
    /// [`UnknownDevice`].
    pub fn rename_device(&mut self, env: &mut Env<'_>, device: DeviceId, name: &str) -> Result<(), UnknownDevice> {
        self.advance(env);
        let known = self.registry.by_id_mut(device).ok_or(UnknownDevice)?;
        let end = (0..=limits::INFO_NAME.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        let name = name[..end].trim();
        known.own_name = (!name.is_empty()).then(|| name.to_string());
        let (change, peer) = (known.change(), known.key);
        if !planted!(RenameNotStored) {
            self.store(env, peer, change, Purpose::Registry { peer });
        }
        cx!(self, env).notify(Event::DeviceChanged { device });
        Ok(())
    }

    /// What a device may do here; `None`: it is not known.
    pub fn policy(&self, device: DeviceId) -> Option<Policy> {
        self.registry.by_id(device).map(|known| known.policy.clone())
    }

    /// Says what a device may do here.
    ///
    /// # Errors
    /// [`PolicyError`].
    // POL-1.
    pub fn set_policy(&mut self, env: &mut Env<'_>, device: DeviceId, policy: Policy) -> Result<(), PolicyError> {
        self.advance(env);
        if !policy.is_bounded() {
            return Err(PolicyError::TooLong);
        }
        let known = self.registry.by_id_mut(device).ok_or(PolicyError::UnknownDevice)?;
        known.policy = policy;
        let peer = known.key;
        if !planted!(PolicyNotStored) {
            self.store_rows(env, peer, false, 0);
        }
        cx!(self, env).notify(Event::DeviceChanged { device });
        Ok(())
    }

    /// Ends everything in order: codes are cancelled, transfers end as lost and can go on in another life of the process, sessions get
    /// their fin. Drain the outputs and wait for the files of transfers, then close.
    pub fn shutdown(&mut self, env: &mut Env<'_>) {
        self.advance(env);
        if let Some(session) = self.initiator.session() {
            self.cancel_pairing(env, session);
        }
        if let Some(session) = self.joiner.as_ref().map(Joiner::session) {
            self.cancel_pairing(env, session);
        }
        for device in self.registry.iter().map(|device| device.id).collect::<Vec<_>>() {
            self.transfers.take_back(cx!(self, env), device);
            self.settle(env);
            self.transfers.on_shutdown(cx!(self, env), device);
            self.leave_session(env, device, LinkFailure::Closed);
        }
        self.settle(env);
    }
}
