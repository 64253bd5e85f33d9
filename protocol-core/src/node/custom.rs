//! Protocols of the embedder (PROTOCOL.md, section 9.9): who may speak them, and streams on their way to whoever does.
//!
//! ```text
//! opener    want ─▶ header, opening record ─▶ AwaitReply ─reply─▶ Protocol   ─▶ the application has both halves
//! answerer  header, opening record ─▶ may it? ─▶ reply ─────────▶ Protocol   ─▶ the same
//! ```
//!
//! What is said on such a stream never comes here. The Node counts them, and ends them with the last session of their device.

#[cfg(feature = "testing")]
use alloc::collections::BTreeMap;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use super::data::For;
use super::{Node, Role, cx};
use crate::effects::{Env, Output};
use crate::faults::{OpenError, code};
use crate::ids::{ConnId, DeviceId, OpenId, PeerKey, StreamId};
use crate::info::Address;
use crate::limits;
use crate::outbox::Purpose;
use crate::session::machine::Session;
use crate::session::record::{RecordOpener, RecordSealer};
use crate::timers::TimerKind;
use crate::transfer::machine::Want;
use crate::wire::header::Header;

/// Which devices may open a protocol here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every paired device.
    Paired,
    /// Devices that were given the permission for it.
    Permitted,
}

/// Why a protocol was not registered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The name is empty or longer than [`limits::PROTOCOL_NAME`] bytes.
    Name,
    /// It is registered already.
    Taken,
    /// [`limits::PROTOCOLS`] are registered.
    TooMany,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a protocol's name has 1 to 64 bytes",
            Self::Taken => "a protocol of this name is registered already",
            Self::TooMany => "as many protocols as may be are registered",
        })
    }
}

impl core::error::Error for RegisterError {}

fn is_name(name: &str) -> bool {
    (1..=limits::PROTOCOL_NAME).contains(&name.len())
}

impl Node {
    /// Speaks a protocol from now on: streams that devices open under its name come as [`Output::Protocol`].
    ///
    /// # Errors
    /// [`RegisterError`].
    // CUST-1.
    pub fn register_protocol(&mut self, name: &str, access: Access) -> Result<(), RegisterError> {
        if !is_name(name) {
            return Err(RegisterError::Name);
        }
        if self.protocols.contains_key(name) {
            return Err(RegisterError::Taken);
        }
        if self.protocols.len() >= limits::PROTOCOLS {
            return Err(RegisterError::TooMany);
        }
        self.protocols.insert(name.to_string(), access);
        Ok(())
    }

    /// Speaks a protocol no more. Streams that are open go on.
    pub fn unregister_protocol(&mut self, name: &str) {
        self.protocols.remove(name);
    }

    /// Opens a stream of a protocol to a device with which a session stands.
    ///
    /// Ends with [`Output::Protocol`] or [`Output::NotOpened`] of this number.
    ///
    /// # Errors
    /// [`OpenError::Name`], [`OpenError::UnknownDevice`], [`OpenError::NotConnected`], [`OpenError::TooMany`].
    pub fn open_protocol(&mut self, env: &mut Env<'_>, device: DeviceId, name: &str) -> Result<OpenId, OpenError> {
        self.advance(env);
        if !is_name(name) {
            return Err(OpenError::Name);
        }
        self.registry.by_id(device).ok_or(OpenError::UnknownDevice)?;
        let session = self.primary.get(&device).and_then(|primary| self.sessions.get(primary)).ok_or(OpenError::NotConnected)?;
        let (session_ref, where_to) = (session.session_ref, self.ways_for_protocol(session));
        if !self.has_room_for_protocol(device) {
            return Err(OpenError::TooMany);
        }
        let id = OpenId(self.last_wanted + 1);
        self.want(env, For::Protocol { id, device, name: name.to_string() }, session_ref, where_to);
        self.settle(env);
        Ok(id)
    }

    /// The session's own connection; or where else connections lead to the device, if that is one stream.
    fn ways_for_protocol(&self, session: &Session) -> (VecDeque<Address>, Option<ConnId>) {
        if !session.remote.one_stream {
            return (VecDeque::new(), Some(session.conn));
        }
        if session.reached.is_some() {
            return (self.addresses_for_data(session), None);
        }
        // We were dialled, from a port that nobody listens at: where the device says that it listens.
        let known = self.registry.get(&session.peer).into_iter().flat_map(|known| &known.addresses);
        let there = known.filter(|address| address.kind == session.remote.kind);
        (there.take(limits::JOINER_CANDIDATES).cloned().collect(), None)
    }

    /// Whether a device may speak a protocol with us.
    // CUST-2, CUST-3.
    fn may_speak(&self, peer: &PeerKey, name: &str) -> bool {
        match self.protocols.get(name) {
            Some(Access::Paired) => true,
            Some(Access::Permitted) => self.policy_of(peer).protocols.contains(name) || planted!(ProtocolPermissionIgnored),
            None => planted!(ProtocolUnknownAccepted),
        }
    }

    /// Both sides' streams count, also those that are on their way.
    // CUST-6.
    fn has_room_for_protocol(&self, device: DeviceId) -> bool {
        self.protocol_streams(device) < limits::PROTOCOL_STREAMS || planted!(ProtocolStreamsUnbounded)
    }

    /// Streams of protocols with a device.
    pub(super) fn protocol_streams(&self, device: DeviceId) -> usize {
        let wanted = self.wanted.values().filter(|wanted| wanted.what.protocol_with() == Some(device)).count();
        wanted + self.streams.values().filter(|slot| protocol_with(&slot.role) == Some(device)).count()
    }

    /// A stream of a protocol that the peer opened, and that is proved.
    pub(super) fn accept_protocol(
        &mut self,
        env: &mut Env<'_>,
        stream: StreamId,
        (header, mut name): (Header, String),
        opener: RecordOpener,
    ) {
        let Some(session) = self.sessions.get(&header.session()) else { return self.drop_stream(env, stream, code::REFUSED) };
        let (device, peer) = (session.device, session.peer);
        // Behind the last goodbye nothing begins: nobody would end it.
        let accepted = self.primary.contains_key(&device) && self.may_speak(&peer, &name) && self.has_room_for_protocol(device);
        if !accepted && !planted!(ProtocolReplyFirst) {
            return self.drop_stream(env, stream, code::REFUSED);
        }
        let Some((reply, sealer, _)) = session.reply(cx!(self, env), &header) else { return self.drop_stream(env, stream, code::DONE) };
        cx!(self, env).send(stream, reply.to_vec());
        if !accepted {
            return self.drop_stream(env, stream, code::REFUSED);
        }
        if planted!(ProtocolsMixedUp) {
            name = self.protocols.keys().next().cloned().unwrap_or_default();
        }
        self.hand_over(stream, (device, name, None), (sealer, opener));
    }

    /// A stream is ready on this side: from here on its bytes are the application's.
    pub(super) fn hand_over(
        &mut self,
        stream: StreamId,
        (device, name, opened): (DeviceId, String, Option<OpenId>),
        (sealer, opener): (RecordSealer, RecordOpener),
    ) {
        self.set_role(stream, Role::Protocol(device));
        self.timers.cancel(TimerKind::Stream(stream));
        self.out.push(Output::Protocol { stream, device, name, opened, sealer, opener });
    }

    /// A record did not open on a stream that an application has.
    pub(super) fn on_forged(&mut self, env: &mut Env<'_>, stream: StreamId) {
        if let Some(&Role::Protocol(device)) = self.streams.get(&stream).map(|slot| &slot.role) {
            self.on_want(env, Want::Forgery { device });
        }
    }

    /// The last session with a device is over: nobody would notice that it is gone, or hear that it was forgotten. After a goodbye
    /// ([`code::DONE`]) what was said before it may still be read; nothing more of a device that is forgotten ([`code::REFUSED`]).
    // CUST-7.
    pub(super) fn end_protocols(&mut self, env: &mut Env<'_>, device: DeviceId, code: u32) {
        let wanted: Vec<u64> =
            self.wanted.iter().filter(|(_, wanted)| wanted.what.protocol_with() == Some(device)).map(|(&number, _)| number).collect();
        for number in wanted {
            self.out.forget(|purpose| matches!(purpose, Purpose::Data { number: of, .. } if *of == number));
            if let Some(wanted) = self.wanted.remove(&number) {
                self.want_failed(env, wanted.what, OpenError::NotConnected);
            }
        }
        let open: Vec<StreamId> =
            self.streams.iter().filter(|(_, slot)| protocol_with(&slot.role) == Some(device)).map(|(&stream, _)| stream).collect();
        for stream in open {
            self.give_up_stream(env, stream, code, OpenError::NotConnected);
        }
    }

    /// Streams of protocols with the device that has the most, open and on their way.
    #[cfg(feature = "testing")]
    pub(super) fn probe_protocol_streams(&self) -> usize {
        let mut counts = BTreeMap::new();
        let wanted = self.wanted.values().filter_map(|wanted| wanted.what.protocol_with());
        for device in wanted.chain(self.streams.values().filter_map(|slot| protocol_with(&slot.role))) {
            *counts.entry(device).or_insert(0) += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// Streams that applications have, and with whom.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn probe_protocols(&self) -> impl Iterator<Item = (StreamId, DeviceId)> + '_ {
        self.streams.iter().filter_map(|(&stream, slot)| if let Role::Protocol(device) = slot.role { Some((stream, device)) } else { None })
    }
}

/// The device with which a stream is for a protocol, or is to be.
const fn protocol_with(role: &Role) -> Option<DeviceId> {
    match role {
        Role::Protocol(with) => Some(*with),
        Role::AwaitReply(opened) => opened.what.protocol_with(),
        _ => None,
    }
}
