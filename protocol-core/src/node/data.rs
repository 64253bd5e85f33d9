//! Data streams: opened for a transfer or an embedder that wants one, accepted for a transfer that is known (PROTOCOL.md, section 9.2).
//!
//! What is said for protocols of the embedder alone stands in [`custom`](super::custom).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Node, Role, cx};
use crate::effects::{Cut, Direction, Env, Event, Output, Route, TransferKey};
use crate::faults::{LinkFailure, OpenError, code};
use crate::ids::{ConnId, DeviceId, OpenId, SessionRef, StreamId, TransferId};
use crate::info::{Address, TransportKind};
use crate::limits;
use crate::outbox::Purpose;
use crate::session::machine::{AcceptedData, OpenedData, Session};
use crate::session::record::RecordSealer;
use crate::session::stream::Opening;
use crate::timers::TimerKind;
use crate::transfer::machine::{DataHalf, DataStream, Want};
use crate::wire::control::ControlMessage;
use crate::wire::deframer::StreamName;
use crate::wire::header::{Header, REPLY, StreamKind};

/// What a data stream is wanted for.
#[derive(Debug)]
pub(super) enum For {
    /// Pages or chunks.
    Transfer { key: TransferKey, kind: StreamKind, digest: [u8; 32] },
    /// A protocol of the embedder.
    Protocol { id: OpenId, device: DeviceId, name: String },
}

impl For {
    const fn kind(&self) -> StreamKind {
        match self {
            Self::Transfer { kind, .. } => *kind,
            Self::Protocol { .. } => StreamKind::Custom,
        }
    }

    fn opening(&self) -> Opening {
        match self {
            Self::Transfer { key, kind: StreamKind::Manifest, digest } => Opening::Manifest { transfer: key.id, manifest_digest: *digest },
            Self::Transfer { key, digest, .. } => Opening::Bulk { transfer: key.id, manifest_digest: *digest },
            Self::Protocol { name, .. } => Opening::Custom { name: name.clone() },
        }
    }

    /// The device with which it is for a protocol.
    pub(super) const fn protocol_with(&self) -> Option<DeviceId> {
        if let Self::Protocol { device, .. } = self { Some(*device) } else { None }
    }
}

/// A data stream that is wanted and on its way.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) what: For,
    session: SessionRef,
    /// Where a connection for it is dialled: there now, then the others.
    addresses: VecDeque<Address>,
    /// The session's own connection, for when no address is left; none on tcp, where that is one stream.
    over: Option<ConnId>,
}

/// A data stream that we opened as a receiver, or for a protocol; the reply is awaited.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) what: For,
    pub(super) header: Header,
    session: SessionRef,
    /// Seals what comes behind our opening record.
    out: RecordSealer,
    /// Where else it could have been opened.
    elsewhere: VecDeque<Address>,
}

/// A data stream that the peer opened and that cannot be served yet.
#[derive(Debug)]
pub(super) enum Early {
    /// Its session is not known: header and opening record.
    Unproved(Header, Vec<u8>),
    /// It is proved; the offer of its transfer has not come.
    Proved(Header, Box<AcceptedData>),
}

/// What came on an early stream behind its opening record.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) records: Vec<Vec<u8>>,
    /// The peer has half-closed it.
    pub(super) ended: bool,
}

#[cfg(feature = "testing")]
impl Wanted {
    /// Whether it is still dialled over a faster transport than that of its session.
    pub(super) fn is_on_faster_way(&self) -> bool {
        self.over.is_some() && !self.addresses.is_empty()
    }
}

impl Early {
    /// The session that it says it belongs to.
    pub(super) const fn session(&self) -> SessionRef {
        match self {
            Self::Unproved(header, _) | Self::Proved(header, _) => header.session(),
        }
    }
}

impl Node {
    pub(super) fn on_want(&mut self, env: &mut Env<'_>, want: Want) {
        match want {
            Want::Tell { device, message } => self.tell(env, device, &message),
            Want::Stream { key, kind, digest } => self.want_stream(env, key, kind, digest),
            Want::Forgery { device } => {
                let Some(&session_ref) = self.primary.get(&device) else { return };
                if self.sessions.get_mut(&session_ref).is_some_and(|session| session.count_forgery()) {
                    self.session_over(env, session_ref, LinkFailure::Violation);
                }
            }
        }
    }

    /// Sends something on a device's session; nothing happens if it has none.
    pub(super) fn tell(&mut self, env: &mut Env<'_>, device: DeviceId, message: &ControlMessage) {
        if matches!(message, ControlMessage::Cancel { .. })
            && let Some(session) = self.in_question(device).and_then(|other| self.sessions.get_mut(&other))
        {
            // What ends is not told again, whichever of the two goes on.
            session.tell(cx!(self, env), message);
        }
        if let Some(session) = self.primary.get(&device).and_then(|primary| self.sessions.get_mut(primary)) {
            session.tell(cx!(self, env), message);
            session.told = true;
            // From here on an answer is awaited: silence is noticed sooner.
            let idle = TimerKind::Idle(session.session_ref);
            if !session.ending {
                self.timers.set_at_latest(idle, self.now, limits::BUSY_PING);
            }
        }
    }

    // HOST-16.
    fn want_stream(&mut self, env: &mut Env<'_>, key: TransferKey, kind: StreamKind, digest: [u8; 32]) {
        let Some(session) = self.primary.get(&key.device).and_then(|primary| self.sessions.get(primary)) else {
            return self.transfers.on_stream_failed(cx!(self, env), key, kind);
        };
        let (session_ref, over) = (session.session_ref, (!session.remote.one_stream).then_some(session.conn));
        let addresses = if over.is_none() { self.addresses_for_data(session) } else { self.faster_addresses(session) };
        self.want(env, For::Transfer { key, kind, digest }, session_ref, (addresses, over));
    }

    /// A stream is wanted: at these addresses, then on this connection.
    pub(super) fn want(
        &mut self,
        env: &mut Env<'_>,
        what: For,
        session: SessionRef,
        (addresses, over): (VecDeque<Address>, Option<ConnId>),
    ) {
        let faster = over.is_some() && !addresses.is_empty();
        let over = over.filter(|_| !(faster && planted!(FasterOnly)));
        self.last_wanted += 1;
        let number = self.last_wanted;
        self.wanted.insert(number, Wanted { what, session, addresses, over });
        if faster && !planted!(FasterTimerUnset) {
            self.timers.set(TimerKind::Faster(number), self.now, limits::FASTER_WAIT);
        }
        self.try_wanted(env, number);
    }

    /// A stream that was wanted does not come about.
    // CUST-5.
    pub(super) fn want_failed(&mut self, env: &mut Env<'_>, what: For, error: OpenError) {
        match what {
            For::Transfer { key, kind, .. } => self.transfers.on_stream_failed(cx!(self, env), key, kind),
            For::Protocol { .. } if planted!(ProtocolRefusalUntold) && error == OpenError::Refused => {}
            For::Protocol { id, .. } => self.out.push(Output::NotOpened { opened: id, error }),
        }
    }

    /// Dials the next address, or opens on the session's connection, or gives up: on tcp only the side that dialled can open.
    fn try_wanted(&mut self, env: &mut Env<'_>, number: u64) {
        let Some(wanted) = self.wanted.get_mut(&number) else { return };
        if let Some(to) = wanted.addresses.front().cloned() {
            return cx!(self, env).dial(to.clone(), Purpose::Data { address: Some(to), number });
        }
        self.timers.cancel(TimerKind::Faster(number));
        if let Some(conn) = wanted.over.take() {
            let name = StreamName::Data(wanted.what.kind());
            return cx!(self, env).open(conn, name, Purpose::Data { address: None, number });
        }
        if let Some(wanted) = self.wanted.remove(&number) {
            self.want_failed(env, wanted.what, OpenError::NoWay);
        }
    }

    /// Where the side that dialled a session dials for its data streams: first where it reached the peer, then where the peer said
    /// that it is. The address that was reached may lead there no more.
    pub(super) fn addresses_for_data(&self, session: &Session) -> VecDeque<Address> {
        let Some(reached) = session.reached.clone() else { return VecDeque::new() };
        let known = self.registry.get(&session.peer).into_iter().flat_map(|device| &device.addresses);
        let others: Vec<Address> = known.filter(|address| address.kind == reached.kind && **address != reached).cloned().collect();
        core::iter::once(reached).chain(others).take(limits::JOINER_CANDIDATES).collect()
    }

    /// Bare tcp has one layer of encryption less than any other transport: where the peer says that it listens there too, data goes
    /// there, unless that came to nothing a moment ago.
    // DATA-29.
    fn faster_addresses(&self, session: &Session) -> VecDeque<Address> {
        if session.slow.is_some_and(|slow| self.now.since(slow) < limits::FASTER_AGAIN) {
            return VecDeque::new();
        }
        let known = self.registry.get(&session.peer).into_iter().flat_map(|device| &device.addresses);
        let tcp = known.filter(|address| address.kind == TransportKind::Tcp && self.can_dial(address));
        tcp.take(limits::JOINER_CONNECTIONS).cloned().collect()
    }

    /// The faster path takes too long: the session's own is there.
    pub(super) fn give_up_faster(&mut self, env: &mut Env<'_>, number: u64) {
        let Some(wanted) = self.wanted.get_mut(&number) else { return };
        wanted.addresses.clear();
        let session = wanted.session;
        self.out.forget(|purpose| matches!(purpose, Purpose::Data { number: of, .. } if *of == number));
        self.note_slow(session);
        self.try_wanted(env, number);
    }

    fn note_slow(&mut self, session: SessionRef) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.slow = Some(self.now);
        }
    }

    /// Tells the owner if data goes another way than before.
    fn tell_way(&mut self, env: &mut Env<'_>, session: SessionRef, transfer: TransferKey, conn: ConnId) {
        let (Some(session), Some(conn)) = (self.sessions.get_mut(&session), self.conns.get(&conn)) else { return };
        let faster = session.remote.kind != conn.remote.kind;
        if core::mem::replace(&mut session.faster, faster) != faster {
            let route = Route { transport: conn.remote.kind.clone(), address: conn.remote.address.clone() };
            cx!(self, env).notify(Event::DataRoute { transfer, route });
        }
    }

    /// A data stream broke off. On a path of its own that may lead to somebody else, or nowhere.
    pub(super) fn on_data_broken(&mut self, stream: StreamId) {
        let Some(slot) = self.streams.get(&stream) else { return };
        let session = match &slot.role {
            Role::Data(session) => *session,
            Role::AwaitReply(opened) => opened.session,
            _ => return,
        };
        let conn = slot.conn;
        if self.sessions.get(&session).is_some_and(|session| !session.remote.one_stream && session.conn != conn) {
            self.note_slow(session);
        }
    }

    /// The connection for a data stream is up.
    pub(super) fn data_connected(&mut self, env: &mut Env<'_>, conn: ConnId, number: u64) -> bool {
        let Some(wanted) = self.wanted.get(&number) else { return false };
        let (name, address) = (StreamName::Data(wanted.what.kind()), wanted.addresses.front().cloned());
        cx!(self, env).open(conn, name, Purpose::Data { address, number });
        true
    }

    /// An address came to nothing: the next one, as long as somebody waits for the stream.
    pub(super) fn data_failed(&mut self, env: &mut Env<'_>, number: u64) {
        let Some(wanted) = self.wanted.get_mut(&number) else { return };
        wanted.addresses.pop_front();
        let (session, faster, last) = (wanted.session, wanted.over.is_some(), wanted.addresses.is_empty());
        let waits = match &wanted.what {
            For::Transfer { key, .. } => self.transfers.digest_of(*key).is_some(),
            For::Protocol { .. } => true,
        };
        if !self.sessions.contains_key(&session) || !waits {
            (wanted.addresses, wanted.over) = (VecDeque::new(), None);
        }
        if faster && last {
            self.note_slow(session);
        }
        self.try_wanted(env, number);
    }

    /// The stream is open: header and opening record leave at once.
    pub(super) fn data_stream_up(&mut self, env: &mut Env<'_>, stream: StreamId, conn: ConnId, number: u64) {
        self.adopt(stream, conn, Role::Closing);
        self.timers.cancel(TimerKind::Faster(number));
        let Some(Wanted { what, session: session_ref, addresses, .. }) = self.wanted.remove(&number) else {
            return self.drop_stream(env, stream, code::DONE);
        };
        let opening = what.opening();
        let Some(opened) = self.sessions.get_mut(&session_ref).and_then(|session| session.open_data(cx!(self, env), &opening)) else {
            self.want_failed(env, what, OpenError::NotConnected);
            return self.drop_stream(env, stream, code::DONE);
        };
        let OpenedData { bytes, header, out, chunks } = opened;
        cx!(self, env).send(stream, bytes);
        if let For::Transfer { key, kind, .. } = what {
            self.tell_way(env, session_ref, key, conn);
            if key.direction == Direction::Outgoing {
                let half = if kind == StreamKind::Manifest { DataHalf::SendRecords(out) } else { DataHalf::SendChunks(chunks) };
                return self.serve(env, stream, session_ref, (key, kind, half, true));
            }
            // The sender answers; our direction carries nothing more.
            cx!(self, env).finish(stream);
        }
        let elsewhere = addresses.into_iter().skip(1).collect();
        self.set_role(stream, Role::AwaitReply(Box::new(Opened { what, header, session: session_ref, out, elsewhere })));
        self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
    }

    pub(super) fn on_data_reply(&mut self, env: &mut Env<'_>, stream: StreamId, reply: &[u8; REPLY]) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let Role::AwaitReply(opened) = core::mem::replace(&mut slot.role, Role::Closing) else { return };
        let Opened { what, header, session: session_ref, out, .. } = *opened;
        let Some(session) = self.sessions.get(&session_ref) else {
            self.want_failed(env, what, OpenError::NotConnected);
            return self.drop_stream(env, stream, code::DONE);
        };
        let (records, chunks) = session.replied(&header, reply);
        match what {
            For::Transfer { key, kind, .. } => {
                let pages = kind == StreamKind::Manifest;
                let half = if pages { DataHalf::ReceiveRecords(records) } else { DataHalf::ReceiveChunks(chunks) };
                self.serve(env, stream, session_ref, (key, kind, half, true));
            }
            For::Protocol { id, device, name } => self.hand_over(stream, (device, name, Some(id)), (out, records)),
        }
    }

    /// Nobody answers. The address may lead to somebody else, who has never heard of the session: a stream of a transfer is wanted
    /// again by that; one of a protocol is looked for at the next address.
    pub(super) fn on_no_reply(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let role = core::mem::replace(&mut slot.role, Role::Closing);
        self.drop_stream(env, stream, code::REFUSED);
        let Role::AwaitReply(opened) = role else { return };
        let Opened { what, session, elsewhere, .. } = *opened;
        if matches!(what, For::Protocol { .. }) && !elsewhere.is_empty() {
            return self.want(env, what, session, (elsewhere, None));
        }
        self.want_failed(env, what, OpenError::NoAnswer);
    }

    /// Resets a stream, and says why if a reply is awaited on it.
    pub(super) fn give_up_stream(&mut self, env: &mut Env<'_>, stream: StreamId, code: u32, error: OpenError) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let role = core::mem::replace(&mut slot.role, Role::Closing);
        self.drop_stream(env, stream, code);
        if let Role::AwaitReply(opened) = role {
            self.want_failed(env, opened.what, error);
        }
    }

    /// Gives a stream that is ready to its transfer; the last says whether we opened it.
    fn serve(
        &mut self,
        env: &mut Env<'_>,
        stream: StreamId,
        session_ref: SessionRef,
        (key, kind, half, ours): (TransferKey, StreamKind, DataHalf, bool),
    ) {
        let Some(session) = self.sessions.get(&session_ref) else { return self.drop_stream(env, stream, code::DONE) };
        let aead = session.aead;
        self.set_role(stream, Role::Data(session_ref));
        self.timers.cancel(TimerKind::Stream(stream));
        self.transfers.on_data_stream(cx!(self, env), key, kind, DataStream { stream, ours, half, aead });
        let Some(Held { records, ended }) = self.held.remove(&stream) else { return };
        for record in records {
            self.transfers.on_record(cx!(self, env), stream, record);
        }
        if ended {
            self.on_stream_down(env, stream, Cut::Finished);
        }
    }

    /// A data stream that the peer opened: serve it if session and transfer are known, else it waits for them.
    // DATA-13.
    pub(super) fn try_early(&mut self, env: &mut Env<'_>, stream: StreamId) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let Role::Early(early) = core::mem::replace(&mut slot.role, Role::Closing) else { return };
        match early {
            Early::Unproved(header, record) => match self.sessions.get_mut(&header.session()) {
                // DATA-10.
                None if planted!(EarlyRefused) => self.drop_stream(env, stream, code::REFUSED),
                None => self.set_role(stream, Role::Early(Early::Unproved(header, record))),
                Some(session) => match session.accept_data(self.now, &header, &record) {
                    Ok(accepted) => self.accept_stream(env, stream, header, Box::new(accepted)),
                    Err(_) => {
                        if planted!(AnsweredUnproved) {
                            cx!(self, env).send(stream, [0; REPLY].to_vec());
                        }
                        self.drop_stream(env, stream, code::REFUSED);
                    }
                },
            },
            Early::Proved(header, accepted) => self.accept_stream(env, stream, header, accepted),
        }
    }

    /// A proved data stream: its transfer says which way the bytes go.
    // DATA-7.
    fn accept_stream(&mut self, env: &mut Env<'_>, stream: StreamId, header: Header, accepted: Box<AcceptedData>) {
        let Some(session) = self.sessions.get(&header.session()) else { return self.drop_stream(env, stream, code::REFUSED) };
        let device = session.device;
        if let Opening::Custom { name } = &accepted.opening {
            let name = name.clone();
            return self.accept_protocol(env, stream, (header, name), accepted.input);
        }
        let Some((id, digest)) = transfer_of(&accepted.opening) else { return self.drop_stream(env, stream, code::REFUSED) };
        let Some(direction) = self.transfers.direction_of(device, id) else {
            // DATA-14.
            if self.early_streams(device) >= limits::EARLY_STREAMS && !planted!(EarlyUnbounded) {
                return self.drop_stream(env, stream, code::REFUSED);
            }
            return self.set_role(stream, Role::Early(Early::Proved(header, accepted)));
        };
        let key = TransferKey { device, direction, id };
        if self.transfers.digest_of(key) != Some(digest) {
            return self.drop_stream(env, stream, code::REFUSED);
        }
        let session_ref = header.session();
        let half = match (direction, header.kind()) {
            (Direction::Incoming, StreamKind::Manifest) => DataHalf::ReceiveRecords(accepted.input),
            (Direction::Incoming, _) => DataHalf::ReceiveChunks(accepted.chunks),
            (Direction::Outgoing, kind) => {
                let Some((reply, records, chunks)) = session.reply(cx!(self, env), &header) else {
                    return self.drop_stream(env, stream, code::DONE);
                };
                cx!(self, env).send(stream, reply.to_vec());
                if kind == StreamKind::Manifest { DataHalf::SendRecords(records) } else { DataHalf::SendChunks(chunks) }
            }
        };
        self.serve(env, stream, session_ref, (key, header.kind(), half, false));
    }

    fn early_streams(&self, device: DeviceId) -> usize {
        let of_device = |header: &Header| self.sessions.get(&header.session()).is_some_and(|session| session.device == device);
        let waits = |role: &Role| matches!(role, Role::Early(Early::Proved(header, _)) if of_device(header));
        self.streams.values().filter(|slot| waits(&slot.role)).count()
    }

    /// Something that early streams may wait for has come.
    pub(super) fn try_all_early(&mut self, env: &mut Env<'_>) {
        let early: Vec<StreamId> =
            self.streams.iter().filter(|(_, slot)| matches!(slot.role, Role::Early(_))).map(|(&stream, _)| stream).collect();
        for stream in early {
            self.try_early(env, stream);
        }
    }
}

/// The transfer that an opening record names, with its manifest's digest.
const fn transfer_of(opening: &Opening) -> Option<(TransferId, [u8; 32])> {
    match opening {
        Opening::Manifest { transfer, manifest_digest } | Opening::Bulk { transfer, manifest_digest } => {
            Some((*transfer, *manifest_digest))
        }
        Opening::Ack | Opening::Refuse(_) | Opening::Custom { .. } => None,
    }
}
