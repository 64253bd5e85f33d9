//! Connections and streams: what is new, what came, what is gone, and whose it is.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;

use super::data::Early;
use super::{Conn, Node, Role, Stream, cx};
use crate::effects::{Cut, Env, Output, Remote, Reply};
use crate::faults::{Failure, OpenError, code};
use crate::ids::{ConnId, StreamId, Ticket};
use crate::info::Address;
use crate::limits;
use crate::outbox::Purpose;
use crate::session::machine::Awaited;
use crate::timers::TimerKind;
use crate::wire::deframer::{Content, Preamble};

impl Node {
    pub(super) fn on_conn_up(&mut self, env: &mut Env<'_>, conn: ConnId, dialed: Option<Ticket>, remote: Remote) {
        let Some(ticket) = dialed else { return self.add_conn(conn, remote, None) };
        let Some(purpose) = self.out.settle(ticket) else {
            // The owner lost interest while the host was dialling.
            self.stats.unknown_tickets += 1;
            self.out.push(Output::Hangup { conn, code: code::DONE });
            return;
        };
        let to = purpose_address(&purpose);
        self.add_conn(conn, remote, to);
        let used = match purpose {
            Purpose::Join { session, address } => match &mut self.joiner {
                Some(joiner) if joiner.session() == session => joiner.on_connected(cx!(self, env), conn, address),
                Some(_) | None => false,
            },
            Purpose::Link { device, address, refusals } => match self.dialers.get_mut(&device) {
                Some(dialer) => dialer.on_connected(cx!(self, env), conn, address, refusals),
                None => false,
            },
            Purpose::Data { number, .. } => self.data_connected(env, conn, number),
            Purpose::InitiatorStored { .. }
            | Purpose::PendingStored { .. }
            | Purpose::ConfirmStored { .. }
            | Purpose::ListenerStored { .. }
            | Purpose::LinkStored { .. }
            | Purpose::Registry { .. }
            | Purpose::Row { .. }
            | Purpose::Transfer { .. }
            | Purpose::Message { .. } => false,
        };
        if !used {
            self.out.push(Output::Hangup { conn, code: code::DONE });
        }
    }

    /// Takes a connection in. If no stream comes on it, or ours cannot be opened, nothing else would end it.
    // DATA-28.
    fn add_conn(&mut self, conn: ConnId, remote: Remote, dialed: Option<Address>) {
        self.conns.insert(conn, Conn { remote, dialed, streams: BTreeSet::new() });
        if planted!(UnusedConnectionKept) {
            return;
        }
        self.timers.set(TimerKind::Connection(conn), self.now, limits::UNUSED_CONNECTION);
    }

    pub(super) fn on_conn_down(&mut self, env: &mut Env<'_>, conn: ConnId) {
        self.timers.cancel(TimerKind::Connection(conn));
        let Some(gone) = self.conns.remove(&conn) else { return };
        for stream in gone.streams {
            self.stream_gone(env, stream, Cut::Broken);
        }
    }

    pub(super) fn on_stream_up(&mut self, env: &mut Env<'_>, stream: StreamId, conn: ConnId, opened: Option<Ticket>) {
        let Some(connection) = self.conns.get_mut(&conn) else {
            // The connection went while its stream came.
            if let Some(ticket) = opened {
                self.on_done(env, ticket, Err(Failure::Gone));
            }
            self.out.push(Output::Reset { stream, code: code::DONE });
            return;
        };
        let Some(ticket) = opened else {
            let source = connection.remote.source.clone();
            if self.make_room(env, &source) {
                self.adopt(stream, conn, Role::Fresh);
                self.unproved.insert(stream, (self.now, source));
                if !planted!(UnprovedForever) {
                    self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
                }
            } else {
                self.out.push(Output::Reset { stream, code: code::REFUSED });
            }
            return;
        };
        match self.out.settle(ticket) {
            Some(Purpose::Join { session, address }) => self.join_stream_up(env, stream, conn, session, address),
            Some(Purpose::Link { device, .. }) => self.link_stream_up(env, stream, conn, device),
            Some(Purpose::Data { number, .. }) => self.data_stream_up(env, stream, conn, number),
            Some(
                Purpose::InitiatorStored { .. }
                | Purpose::PendingStored { .. }
                | Purpose::ConfirmStored { .. }
                | Purpose::ListenerStored { .. }
                | Purpose::LinkStored { .. }
                | Purpose::Registry { .. }
                | Purpose::Row { .. }
                | Purpose::Transfer { .. }
                | Purpose::Message { .. },
            )
            | None => {
                self.stats.unknown_tickets += 1;
                self.out.push(Output::Reset { stream, code: code::DONE });
                self.hang_up_if_unused(conn);
            }
        }
    }

    /// Takes a stream in under a role.
    pub(super) fn adopt(&mut self, stream: StreamId, conn: ConnId, role: Role) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.streams.insert(stream);
        }
        self.streams.insert(stream, Stream { conn, role, responded: None });
    }

    /// Gives a stream another role. What is proved leaves the crowd of those that are not.
    pub(super) fn set_role(&mut self, stream: StreamId, role: Role) {
        if !role.is_unproved() {
            self.unproved.remove(&stream);
        }
        if let Some(slot) = self.streams.get_mut(&stream) {
            slot.role = role;
        }
    }

    /// Resets a stream and lets its machine know that it is gone.
    pub(super) fn drop_stream(&mut self, env: &mut Env<'_>, stream: StreamId, code: u32) {
        self.out.push(Output::Reset { stream, code });
        self.stream_gone(env, stream, Cut::Broken);
    }

    /// Forgets a stream without a word to its machine, which knows.
    pub(super) fn forget_stream(&mut self, stream: StreamId) -> Option<Role> {
        self.unproved.remove(&stream);
        if !planted!(HeldKept) {
            self.held.remove(&stream);
        }
        self.half_closed.remove(&stream);
        self.out.forget_stream(stream);
        self.timers.cancel(TimerKind::Stream(stream));
        let slot = self.streams.remove(&stream)?;
        if let Some(conn) = self.conns.get_mut(&slot.conn) {
            conn.streams.remove(&stream);
            self.hang_up_if_unused(slot.conn);
        }
        Some(slot.role)
    }

    /// A connection that was one stream has nothing left to do; others are closed by their session or their transport.
    pub(super) fn hang_up_if_unused(&mut self, conn: ConnId) {
        let unused = self
            .conns
            .get(&conn)
            .is_some_and(|connection| connection.streams.is_empty() && (connection.remote.one_stream || !self.is_conn_of_session(conn)));
        if unused {
            self.out.push(Output::Hangup { conn, code: code::DONE });
        }
    }

    fn is_conn_of_session(&self, conn: ConnId) -> bool {
        self.sessions.values().any(|session| session.conn == conn && !session.ending)
    }

    pub(super) fn on_stream_down(&mut self, env: &mut Env<'_>, stream: StreamId, how: Cut) {
        let early = self.streams.get(&stream).is_some_and(|slot| matches!(slot.role, Role::Early(_)));
        if early && how == Cut::Finished {
            // All of a manifest may be here before its offer.
            self.held.entry(stream).or_default().ended = true;
            return;
        }
        if how == Cut::Finished && self.transfers.sends_pages_on(stream) {
            // A receiver that opened the stream has nothing more to say on it: our pages go on, and then it is over.
            self.half_closed.insert(stream);
            return;
        }
        if how == Cut::Finished {
            self.end_unheard(env, stream);
        } else {
            self.on_data_broken(stream);
        }
        if how == Cut::Finished && self.streams.contains_key(&stream) && !self.out.has_finished(stream) {
            // What is awaited on it will not come, and nobody else would end our half.
            // DATA-27.
            self.out.push(Output::Reset { stream, code: code::REFUSED });
        }
        self.stream_gone(env, stream, how);
    }

    /// What was sent on a stream has left.
    pub(super) fn on_drained(&mut self, env: &mut Env<'_>, stream: StreamId) {
        self.transfers.on_drained(cx!(self, env), stream);
        if !self.transfers.sends_pages_on(stream) && self.half_closed.remove(&stream) {
            self.stream_gone(env, stream, Cut::Finished);
        }
    }

    /// A stream is gone: its machine draws the conclusions.
    fn stream_gone(&mut self, env: &mut Env<'_>, stream: StreamId, how: Cut) {
        let Some(role) = self.forget_stream(stream) else { return };
        match role {
            // A control stream that was never opened: after pairing the record stays, unconfirmed (section 12.3).
            Role::Fresh
            | Role::AwaitRequest
            | Role::AwaitData(_)
            | Role::Early(_)
            | Role::AwaitOpening(_)
            | Role::Goodbye(_)
            | Role::Closing => {}
            Role::AwaitHello => self.scans.waiting.retain(|(waiting, _)| *waiting != stream),
            Role::Listener(_) => self.stats.refused += 1,
            Role::Initiator => self.initiator.on_stream_down(cx!(self, env), stream),
            Role::Joiner => self.joiner_stream_down(env, stream),
            Role::Dialer(device) => self.dialer_refused(env, device, stream),
            Role::Control(session_ref) => self.control_cut(env, session_ref, how),
            Role::AwaitReply(opened) => self.want_failed(env, opened.what, OpenError::Refused),
            // Whoever has its halves knows.
            Role::Protocol(_) => {}
            Role::Data(_) => self.transfers.on_stream_down(cx!(self, env), stream, how),
        }
    }

    /// A frame. It goes to the machine that its stream belongs to; one in the wrong place ends the stream.
    pub(super) fn on_frame(&mut self, env: &mut Env<'_>, stream: StreamId, content: Content) {
        let Some(slot) = self.streams.get_mut(&stream) else {
            self.stats.late_frames += 1;
            return;
        };
        let conn = slot.conn;
        match (&mut slot.role, content) {
            (Role::Fresh, Content::Preamble(name)) => {
                slot.role = match name {
                    Preamble::Pair => Role::AwaitRequest,
                    Preamble::Link => Role::AwaitHello,
                    Preamble::Data => Role::AwaitData(None),
                };
            }
            (Role::AwaitRequest, Content::Handshake(body)) => self.on_request(env, stream, conn, &body),
            (Role::Initiator, Content::Handshake(body)) => self.on_response(env, stream, &body),
            (Role::Joiner, Content::Handshake(body)) => self.on_joiner_frame(env, stream, &body),
            (Role::AwaitHello, Content::Handshake(body)) => self.on_hello(env, stream, body),
            (Role::Listener(_), Content::Handshake(body)) => self.on_finish(env, stream, &body),
            (Role::Dialer(device), Content::Handshake(body)) => {
                let device = *device;
                self.on_accept(env, stream, device, &body);
            }
            (Role::AwaitOpening(awaited), Content::Header(header)) => {
                let right = awaited.on_header(header);
                if right {
                    // Section 9.2: once its first byte is there, the opening record has ten seconds.
                    self.timers.set(TimerKind::Stream(stream), self.now, limits::UNPROVED_WAIT);
                } else {
                    self.drop_stream(env, stream, code::REFUSED);
                }
            }
            (Role::AwaitOpening(_), Content::Record(record)) => self.on_opening(env, stream, record),
            (Role::Control(session_ref), Content::Reply(reply)) => {
                let session_ref = *session_ref;
                self.on_control_reply(env, session_ref, &reply);
            }
            (Role::Control(session_ref), Content::Record(record)) => {
                let session_ref = *session_ref;
                self.on_control_record(env, session_ref, &record);
            }
            (Role::AwaitData(header @ None), Content::Header(first)) => *header = Some(first),
            (Role::AwaitData(Some(header)), Content::Record(record)) => {
                let header = *header;
                slot.role = Role::Early(Early::Unproved(header, record));
                self.try_early(env, stream);
            }
            (Role::Early(_), Content::Record(record))
                if self
                    .held
                    .get(&stream)
                    .is_none_or(|held| held.records.len() < limits::EARLY_RECORDS || planted!(EarlyRecordsUnbounded)) =>
            {
                self.held.entry(stream).or_default().records.push(record);
            }
            (Role::AwaitReply(_), Content::Reply(reply)) => self.on_data_reply(env, stream, &reply),
            (Role::Data(_), Content::Record(record)) => self.transfers.on_record(cx!(self, env), stream, record),
            // What comes behind a last word is not read any more.
            (Role::Closing | Role::Goodbye(_), _) => {}
            (_, _) if planted!(StrayFramesIgnored) => {}
            (
                Role::Fresh
                | Role::AwaitRequest
                | Role::AwaitHello
                | Role::Initiator
                | Role::Joiner
                | Role::Listener(_)
                | Role::Dialer(_)
                | Role::AwaitOpening(_)
                | Role::Control(_)
                | Role::AwaitData(_)
                | Role::Early(_)
                | Role::AwaitReply(_)
                | Role::Protocol(_)
                | Role::Data(_),
                _,
                // DATA-9.
            ) => self.drop_stream(env, stream, code::REFUSED),
        }
    }

    pub(super) fn on_stream_timer(&mut self, env: &mut Env<'_>, timer: TimerKind, stream: StreamId) {
        let Some(slot) = self.streams.get(&stream) else { return };
        match slot.role {
            Role::Initiator => {
                let step = self.initiator.on_timer(cx!(self, env), timer, stream);
                self.initiator_step(env, stream, step);
            }
            Role::Joiner => self.joiner_stream_timer(env, timer),
            Role::Fresh
            | Role::AwaitRequest
            | Role::AwaitHello
            | Role::Listener(_)
            | Role::AwaitOpening(_)
            | Role::AwaitData(_)
            | Role::Early(_)
            | Role::Dialer(_)
            | Role::Goodbye(_)
            | Role::Closing => self.drop_stream(env, stream, code::REFUSED),
            // A goodbye that was not answered.
            Role::Control(_) => self.drop_stream(env, stream, code::DONE),
            Role::AwaitReply(_) => self.on_no_reply(env, stream),
            Role::Data(_) | Role::Protocol(_) => {}
        }
    }

    /// The answer to a ticket.
    pub(super) fn on_done(&mut self, env: &mut Env<'_>, ticket: Ticket, result: Result<Reply, Failure>) {
        let Some(purpose) = self.out.settle(ticket) else {
            self.stats.unknown_tickets += 1;
            return;
        };
        let stored = result.is_ok();
        if let (Some(peer), true) = (purpose.row(), stored)
            && self.unsaid.get(&peer).is_some_and(|(_, behind)| ticket > *behind)
        {
            self.unsaid.remove(&peer);
        }
        if let (Some(peer), false) = (purpose.row(), stored) {
            let (removal, failures) = if let Purpose::Row { removal, failures, .. } = purpose { (removal, failures) } else { (false, 0) };
            self.on_row_unwritten(peer, removal, failures + 1);
        }
        match purpose {
            Purpose::Join { session, address } => self.join_failed(env, session, address, result.err().unwrap_or(Failure::Gone)),
            Purpose::Link { device, address, .. } => self.link_failed(env, device, address, result.err().unwrap_or(Failure::Gone)),
            Purpose::Data { number, .. } => self.data_failed(env, number),
            Purpose::InitiatorStored { stream, peer, session_ref } => self.on_pair_stored(env, stream, (peer, session_ref), stored),
            Purpose::PendingStored { stream, .. } => self.on_pending_stored(env, stream, stored),
            Purpose::ConfirmStored { stream, .. } => self.on_confirm_stored(env, stream, stored),
            Purpose::ListenerStored { stream, peer, root } => self.on_listener_stored(env, stream, (peer, root), stored),
            Purpose::LinkStored { stream, peer, root } => self.on_link_stored(env, stream, (peer, root), stored),
            Purpose::Registry { .. } => {}
            Purpose::Row { peer, removal, .. } => {
                if removal && stored {
                    self.on_removed(env, peer);
                }
            }
            Purpose::Transfer { key, job } => self.transfers.on_job(cx!(self, env), key, job, result),
            Purpose::Message { peer, job } => self.messages.on_job(cx!(self, env), peer, env.unix_s, (ticket, job), stored),
        }
    }

    /// A stream whose handshake is done awaits header and opening record.
    pub(super) fn await_opening(&mut self, stream: StreamId, awaited: Awaited, wait: core::time::Duration) {
        self.set_role(stream, Role::AwaitOpening(Box::new(awaited)));
        if !planted!(AckTimerUnset) {
            self.timers.set(TimerKind::Stream(stream), self.now, wait);
        }
    }
}

/// The address that a dial goes to.
fn purpose_address(purpose: &Purpose) -> Option<Address> {
    match purpose {
        Purpose::Join { address, .. } | Purpose::Link { address, .. } => Some(address.clone()),
        Purpose::Data { address, .. } => address.clone(),
        Purpose::InitiatorStored { .. }
        | Purpose::PendingStored { .. }
        | Purpose::ConfirmStored { .. }
        | Purpose::ListenerStored { .. }
        | Purpose::LinkStored { .. }
        | Purpose::Registry { .. }
        | Purpose::Row { .. }
        | Purpose::Transfer { .. }
        | Purpose::Message { .. } => None,
    }
}
