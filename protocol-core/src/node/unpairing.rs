//! Parting: forgetting a device, being forgotten by one, blocking one (PROTOCOL.md, section 9.8).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::commands::UnknownDevice;
use super::links::remember;
use super::{Node, Role, cx};
use crate::devices::registry::BlockedDevice;
use crate::effects::{DeviceState, Env, Event, Output};
use crate::faults::{LinkFailure, TransferFailure, code};
use crate::ids::{DeviceId, PeerKey, SessionRef, StreamId};
use crate::limits;
use crate::pairing::joiner::Joiner;
use crate::session::handshake::{ReceivedHello, notice};
use crate::timers::TimerKind;
use crate::wire::control::ControlMessage;

/// Why a device was not blocked, or let in again. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// No paired device has this id.
    UnknownDevice,
    /// No blocked device has it.
    NotBlocked,
    /// [`limits::BLOCKED`] are blocked.
    TooMany,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownDevice => "no such device",
            Self::NotBlocked => "the device is not blocked",
            Self::TooMany => "as many devices as may be are blocked; let one in again first",
        })
    }
}

impl core::error::Error for BlockError {}

impl Node {
    /// Forgets a device: from this call on nothing of it is accepted, and nothing under the pairing is answered but, once that is
    /// durable, with the proof that it is over. If a session stands, the other side is told on it; else at its next contact.
    ///
    /// Ends with [`Event::Removed`], once that is durable. Transfers with it end as if they were cancelled: each with its own event,
    /// when nothing is written any more. To pair with it again takes a new code; see [`Self::block_device`].
    ///
    /// # Errors
    /// [`UnknownDevice`].
    // UNP-1, UNP-2.
    pub fn forget_device(&mut self, env: &mut Env<'_>, device: DeviceId) -> Result<(), UnknownDevice> {
        self.advance(env);
        let peer = self.registry.by_id(device).ok_or(UnknownDevice)?.key;
        self.cancel_pairings_with(env, &peer);
        self.cancel_transfers(env, device);
        self.transfers.on_forget(cx!(self, env), device);
        self.take_leave(env, device);
        self.stop_dialling(env, device);
        self.drop_unfinished(env, peer);
        if !planted!(ForgottenKeepsSession) {
            self.drop_sessions(env, device);
        }
        self.met.remove(&device);
        self.timers.cancel(TimerKind::Keep(device));
        self.sessions_had.remove(&device);
        self.keep_again(device);
        let evicted = self.registry.bury(&peer, env.unix_s);
        self.forget_said(env, peer);
        if planted!(ForgetNotStored) {
            cx!(self, env).notify(Event::Removed { device });
        } else {
            self.store_rows(env, peer, true, 0);
        }
        if planted!(UnpairBeforeDurable) {
            self.say_goodbye(env, &peer);
        }
        if !evicted.is_empty() {
            cx!(self, env).persist(evicted, crate::outbox::Purpose::Registry { peer });
        }
        self.settle(env);
        Ok(())
    }

    /// An attempt of ours that has found this device would wait for a root that is gone; one that is being written must not be told.
    fn cancel_pairings_with(&mut self, env: &mut Env<'_>, peer: &PeerKey) {
        let joining = self.joiner.as_ref().filter(|joiner| joiner.bound().is_some_and(|bound| bound.peer == *peer)).map(Joiner::session);
        if let Some(session) = joining {
            self.cancel_pairing(env, session);
        }
        if !planted!(PairedThoughForgotten) {
            self.forget_while_storing(env, peer);
        }
    }

    /// The session with a device that is being forgotten leaves the others: nothing of it counts any more, and its control stream
    /// waits for the one word that is still said on it.
    fn take_leave(&mut self, env: &mut Env<'_>, device: DeviceId) {
        let Some(session) = self.primary.remove(&device).and_then(|primary| self.sessions.get_mut(&primary)) else { return };
        session.left = true;
        let (session_ref, peer) = (session.session_ref, session.peer);
        self.messages.on_session_over(&peer);
        self.transfers.on_session_over(cx!(self, env), device, TransferFailure::Lost);
        self.end_protocols(env, device, code::REFUSED);
        let reason = Some(LinkFailure::Closed);
        self.met.insert(device);
        cx!(self, env).notify(Event::Device { device, state: DeviceState::Disconnected, route: None, reason });
        if planted!(ForgottenKeepsSession) {
            return;
        }
        // Of two that may have crossed nobody knows here on which the other side hears.
        for session_ref in [Some(session_ref), self.in_question(device)].into_iter().flatten() {
            self.close_data_streams(env, session_ref);
            let Some(session) = self.sessions.remove(&session_ref) else { continue };
            self.cancel_session_timers(session_ref);
            let stream = session.stream;
            if self.streams.contains_key(&stream) {
                self.set_role(stream, Role::Goodbye(Box::new(session)));
                // For the write, and for writing it again.
                self.timers.set(TimerKind::Stream(stream), self.now, limits::STORE_AGAIN * 2);
            }
        }
    }

    /// That a device is forgotten is durable: it may know, if it can still be told.
    // UNP-2, UNP-3.
    pub(super) fn say_goodbye(&mut self, env: &mut Env<'_>, peer: &PeerKey) {
        let of_peer = |role: &Role| matches!(role, Role::Goodbye(session) if session.peer == *peer);
        let streams: Vec<StreamId> = self.streams.iter().filter(|(_, slot)| of_peer(&slot.role)).map(|(&stream, _)| stream).collect();
        for stream in streams {
            let Some(slot) = self.streams.get_mut(&stream) else { continue };
            let Role::Goodbye(mut session) = core::mem::replace(&mut slot.role, Role::Closing) else { continue };
            if !planted!(UnpairUntold) {
                session.tell(cx!(self, env), &ControlMessage::Unpair);
            }
            session.end(cx!(self, env));
            self.cancel_session_timers(session.session_ref);
            self.timers.set(TimerKind::Stream(stream), self.now, limits::GOODBYE_WAIT);
        }
    }

    /// A Hello that fits no pairing: is it of a device that was forgotten? It is told so, with proof, once that is durable.
    // UNP-4.
    pub(super) fn answer_forgotten(&mut self, env: &mut Env<'_>, stream: StreamId, hello: &ReceivedHello, body: &[u8]) -> Option<()> {
        let (tombstone, key) = self.registry.tombstone(hello)?;
        if !tombstone.durable && !planted!(NoticeBeforeDurable) {
            self.scans.waiting.push_back((stream, body.to_vec()));
            return Some(());
        }
        if planted!(NoticeUngiven) {
            return None;
        }
        let frame = notice::notice_frame(key, hello.th1());
        remember(&mut self.recent_hellos, hello.th1());
        let cx = cx!(self, env);
        cx.send(stream, frame);
        cx.finish(stream);
        self.set_role(stream, Role::Closing);
        self.timers.set(TimerKind::Stream(stream), self.now, limits::GOODBYE_WAIT);
        Some(())
    }

    /// The answer to our Hello is the proof that the other side has removed the pairing.
    // UNP-5.
    pub(super) fn on_notice(&mut self, env: &mut Env<'_>, device: DeviceId, stream: StreamId, root: SessionRef) {
        let Some((peer, roots)) = self.registry.by_id(device).map(|known| (known.key, known.roots.len())) else { return };
        self.set_role(stream, Role::Closing);
        self.drop_stream(env, stream, code::DONE);
        self.note_removal(env, &peer, root);
        self.dialer_removed(env, device, roots);
    }

    /// The other side says in the session that it has removed the pairing.
    // UNP-5.
    pub(super) fn on_unpair(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some(session) = self.sessions.get(&session_ref) else { return };
        let (device, peer, root) = (session.device, session.peer, session.root);
        if planted!(UnpairIgnored) {
            return;
        }
        self.note_removal(env, &peer, root);
        // What is under way would be sent to nobody.
        self.end_session_with(env, device, LinkFailure::Removed);
        self.drop_sessions(env, device);
        if !planted!(NewerUnkept) {
            // A pairing that began since may hold: that is looked for as before.
            self.keep_after(env, device, LinkFailure::Removed, None);
        }
    }

    /// The pairing stays until its owner agrees; but nothing is tried under it any more without being asked.
    // UNP-6.
    fn note_removal(&mut self, env: &mut Env<'_>, peer: &PeerKey, root: SessionRef) {
        let Some(change) = self.registry.removed_there(peer, root, env.unix_s) else { return };
        self.store(env, *peer, change, crate::outbox::Purpose::Registry { peer: *peer });
        if self.registry.get(peer).is_some_and(|device| device.is_removed_there().is_some()) {
            let device = crate::identity::device_id(peer);
            cx!(self, env).notify(Event::RemovedThere { device });
        }
        if planted!(RemovedThereForgets) {
            let _: Result<(), _> = self.forget_device(env, crate::identity::device_id(peer));
        }
    }

    /// The other side has shown that it holds the root of this session after all: it was put back from a copy.
    pub(super) fn note_held(&mut self, env: &mut Env<'_>, session_ref: SessionRef) {
        let Some((peer, root)) = self.sessions.get(&session_ref).map(|session| (session.peer, session.root)) else { return };
        if let Some(change) = self.registry.held_there(&peer, root) {
            self.store(env, peer, change, crate::outbox::Purpose::Registry { peer });
            cx!(self, env).notify(Event::DeviceChanged { device: crate::identity::device_id(&peer) });
        }
    }

    /// Blocks a paired device, or lifts that: sessions end, its reconnects are not answered, and it is not paired with again, whatever
    /// code it brings, also after it was forgotten.
    ///
    /// # Errors
    /// [`BlockError`].
    // POL-4, POL-5.
    pub fn block_device(&mut self, env: &mut Env<'_>, device: DeviceId, blocked: bool) -> Result<(), BlockError> {
        self.advance(env);
        let peer = if blocked {
            let peer = self.registry.by_id(device).ok_or(BlockError::UnknownDevice)?.key;
            if !self.registry.block(&peer, env.unix_s) {
                return Err(BlockError::TooMany);
            }
            self.cancel_pairings_with(env, &peer);
            self.end_session_with(env, device, LinkFailure::Blocked);
            self.connect_failed(env, device, LinkFailure::Blocked);
            self.drop_unfinished(env, peer);
            if !planted!(BlockKeepsSession) {
                self.drop_sessions(env, device);
            }
            peer
        } else {
            self.registry.unblock(device).ok_or(BlockError::NotBlocked)?
        };
        if !planted!(BlockNotStored) {
            self.store_rows(env, peer, false, 0);
        }
        cx!(self, env).notify(Event::DeviceChanged { device });
        if !blocked {
            self.keep_now(env, device);
        }
        self.settle(env);
        Ok(())
    }

    /// Every blocked device, paired or not.
    pub fn blocked_devices(&self) -> Vec<BlockedDevice> {
        self.registry.blocked().cloned().collect()
    }

    /// A removal is durable.
    pub(super) fn on_removed(&mut self, env: &mut Env<'_>, peer: PeerKey) {
        self.registry.buried(&peer);
        self.out.push(Output::Notify(Event::Removed { device: crate::identity::device_id(&peer) }));
        self.say_goodbye(env, &peer);
        self.scan_waiting(env);
    }
}
