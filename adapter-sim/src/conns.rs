//! Connections of a world: who dials whom, who accepts, what goes down.

use std::collections::BTreeSet;

use protocol_core::effects::{Cut, Input, Remote};
use protocol_core::faults::Failure;
use protocol_core::ids::{ConnId, StreamId, Ticket};
use protocol_core::info::{Address, TransportKind};
use protocol_core::wire::deframer::{Deframer, StreamName};

use crate::link::{Bulk, Conn, ConnEnd, End, Pipe, Stream, Wire};
use crate::rules::DialFault;
use crate::trace::What;
use crate::world::{Act, Dev, World};

/// Dialling somebody who does not answer, in microseconds.
const DIAL_TIMEOUT: u64 = 10_000_000;

impl World {
    pub(crate) fn dial(&mut self, dev: Dev, life: u32, ticket: Ticket, to: &Address) {
        let fail = |failure| Input::Done { ticket, result: Err(failure) };
        if !self.is_life(dev, life) {
            return;
        }
        let fault = self.dial_fault(dev);
        if self.undialable_until > self.now {
            let back = self.one_way();
            return self.after(back, Act::Tell { dev, life, input: fail(Failure::Unreachable) });
        }
        let peer = match fault {
            Some(DialFault::Misrouted(other)) => Some(Dev(other % self.devices.len())),
            _ => self.device_at(to),
        };
        let (peer, failure) = match peer {
            Some(peer) if fault == Some(DialFault::Refused) => (peer, Some(Failure::Refused)),
            Some(peer) if fault == Some(DialFault::TimedOut) => (peer, Some(Failure::TimedOut)),
            Some(peer) if fault == Some(DialFault::Unreachable) => (peer, Some(Failure::Unreachable)),
            None => (dev, Some(Failure::Unreachable)),
            Some(peer) if self.devices[dev.0].silent || self.devices[peer.0].silent => (peer, Some(Failure::TimedOut)),
            Some(peer) if !self.is_life(peer, self.devices[peer.0].life) => (peer, Some(Failure::Refused)),
            Some(peer) => (peer, None),
        };
        let back = self.one_way();
        if let Some(failure) = failure {
            let wait = if failure == Failure::TimedOut { DIAL_TIMEOUT } else { back };
            return self.after(wait, Act::Tell { dev, life, input: fail(failure) });
        }
        let remote = self.connect_ends(dev, peer, to.kind == TransportKind::Tcp);
        let conn = self.conns.len() - 1;
        self.after(back, Act::Up { conn, ticket, remote });
        self.accept_conn(conn);
    }

    /// A connection; what the dialler sees of the other end.
    pub(crate) fn connect_ends(&mut self, dev: Dev, peer: Dev, tcp: bool) -> Remote {
        let wire = if tcp { Wire::Tcp } else { Wire::Sim };
        let conn = self.conns.len();
        let (devs, maker) = ([dev, peer], dev);
        let ends = devs.map(|dev| ConnEnd { id: ConnId(self.new_id(maker)), dev, life: self.devices[dev.0].life, up: true });
        for (end, side) in ends.iter().enumerate() {
            self.conn_ends.insert(side.id, (conn, end));
        }
        let exporter = match wire {
            Wire::Tcp if self.commuting => vec![u8::try_from(ends[0].id.0 % 251).unwrap_or(0); 32],
            Wire::Tcp => self.keys.bytes::<32>().to_vec(),
            Wire::Sim | Wire::Both => Vec::new(),
        };
        self.conns.push(Conn { wire, ends, streams: Vec::new(), exporter });
        self.note(dev, What::Connection { conn, to: peer });
        self.remote(conn, 0)
    }

    /// The other end of a connection, as an end sees it.
    pub(crate) fn remote(&self, conn: usize, end: usize) -> Remote {
        let Conn { wire, ends, exporter, .. } = &self.conns[conn];
        let other = ends[1 - end].dev;
        let kind = if *wire == Wire::Tcp { TransportKind::Tcp } else { TransportKind::Sim };
        let address = self.addresses(other).into_iter().find(|address| address.kind == kind);
        Remote {
            id: self.transport_id(other, &kind),
            exporter: exporter.clone(),
            address: address.map(|address| address.text).unwrap_or_default(),
            source: format!("{:?}", self.devices[other.0].stranger.unwrap_or(other)),
            one_stream: *wire == Wire::Tcp,
            kind,
        }
    }

    /// The side that was dialled hears of a connection.
    pub(crate) fn accept_conn(&mut self, conn: usize) {
        let ConnEnd { id, dev, .. } = self.conns[conn].ends[1];
        let remote = self.remote(conn, 1);
        self.handle(dev, Input::ConnUp { conn: id, dialed: None, remote });
        if self.conns[conn].wire == Wire::Tcp {
            let stream = self.new_stream(conn, 0, None);
            self.opened(stream, 1, None);
        }
    }

    pub(crate) fn new_stream(&mut self, conn: usize, opener: usize, name: Option<StreamName>) -> usize {
        let stream = self.streams.len();
        let maker = self.conns[conn].ends[opener].dev;
        let ids = [StreamId(self.new_id(maker)), StreamId(self.new_id(maker))];
        let own = name.map_or_else(Deframer::accepting, Deframer::opening);
        let ends = [End::new(ids[0], own), End::new(ids[1], Deframer::accepting())];
        self.streams.push(Stream { conn, opener, name, ends, pipes: [Pipe::default(), Pipe::default()] });
        self.conns[conn].streams.push(stream);
        for (end, id) in ids.into_iter().enumerate() {
            self.stream_ends.insert(id, (stream, end));
        }
        stream
    }

    /// The device at an end of a stream, if it still lives the life in which the connection came up.
    pub(crate) fn owner(&self, stream: usize, end: usize) -> Option<Dev> {
        let slot = &self.streams[stream];
        let conn_end = &self.conns[slot.conn].ends[slot.conn_end(end)];
        (conn_end.up && self.is_life(conn_end.dev, conn_end.life)).then_some(conn_end.dev)
    }

    pub(crate) fn device_of(&self, stream: usize, end: usize) -> Dev {
        let slot = &self.streams[stream];
        self.conns[slot.conn].ends[slot.conn_end(end)].dev
    }

    /// Whether somebody opened a data stream over tcp to a device to which it has dialled no session there.
    pub(crate) fn data_went_a_faster_way(&self) -> bool {
        let over_tcp = |data: bool| {
            let of_kind = move |stream: &&Stream| stream.name.is_some_and(|name| matches!(name, StreamName::Data(_)) == data);
            let tcp = self.streams.iter().filter(|stream| self.conns[stream.conn].wire == Wire::Tcp).filter(of_kind);
            tcp.map(|stream| [0, 1].map(|end| self.conns[stream.conn].ends[end].dev)).collect::<BTreeSet<_>>()
        };
        over_tcp(true).difference(&over_tcp(false)).next().is_some()
    }

    pub(crate) fn open(&mut self, dev: Dev, ticket: Ticket, conn: ConnId, name: StreamName) {
        let life = self.devices[dev.0].life;
        let place = self.conn_ends.get(&conn).copied().filter(|&(conn, end)| self.conns[conn].ends[end].up);
        let fail = Act::Tell { dev, life, input: Input::Done { ticket, result: Err(Failure::Gone) } };
        let device = &mut self.devices[dev.0];
        device.asked.opens += 1;
        let number = device.asked.opens;
        if let Some(at) = device.open_faults.iter().position(|&of| of == number) {
            device.open_faults.remove(at);
            self.fire("N24");
            return self.after(0, fail);
        }
        let Some((conn, end)) = place else { return self.after(0, fail) };
        let stream = match (self.conns[conn].wire, self.conns[conn].streams.first().copied()) {
            (Wire::Sim | Wire::Both, _) => {
                let stream = self.new_stream(conn, end, Some(name));
                let at = self.now + self.one_way();
                self.streams[stream].pipes[0].last = at;
                self.at(at, Act::Opened { stream });
                stream
            }
            (Wire::Tcp, Some(stream)) if end == 0 && self.streams[stream].name.is_none() => {
                self.streams[stream].name = Some(name);
                self.streams[stream].ends[0].deframer = Deframer::opening(name);
                stream
            }
            (Wire::Tcp, _) => return self.after(0, fail),
        };
        self.push_bytes(stream, 0, name.preamble());
        self.opened(stream, 0, Some(ticket));
    }

    /// A Node hears of a stream.
    pub(crate) fn opened(&mut self, stream: usize, end: usize, ticket: Option<Ticket>) {
        let Some(dev) = self.owner(stream, end) else { return };
        let slot = &mut self.streams[stream];
        if slot.pipes[1 - end].dead && slot.ends[end].down {
            return;
        }
        slot.ends[end].up = true;
        let (id, conn) = (slot.ends[end].id, self.conns[slot.conn].ends[slot.conn_end(end)].id);
        self.handle(dev, Input::StreamUp { stream: id, conn, opened: ticket });
    }

    /// A side closes a connection; what it sent before still arrives.
    pub(crate) fn hang_up(&mut self, conn: ConnId) {
        let Some(&(conn, end)) = self.conn_ends.get(&conn) else { return };
        if !self.conns[conn].ends[end].up {
            return;
        }
        let mut at = self.now + self.one_way();
        for stream in self.conns[conn].streams.clone() {
            let own = self.streams[stream].opener ^ end;
            at = at.max(self.streams[stream].pipes[own].last);
            self.down_soon(stream, own);
        }
        let ConnEnd { id, dev, life, .. } = self.conns[conn].ends[end];
        self.at(at, Act::Gone { conn, end: 1 - end });
        self.after(0, Act::Tell { dev, life, input: Input::ConnDown { conn: id } });
        self.conns[conn].ends[end].up = false;
    }

    /// Tells the own side of a hang-up that its streams are over.
    fn down_soon(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        let slot = &mut self.streams[stream];
        slot.pipes[1 - end].dead = true;
        let own = &mut slot.ends[end];
        own.bulk = Bulk::No;
        if own.up && !std::mem::replace(&mut own.down, true) {
            let (stream, life) = (own.id, self.devices[dev.0].life);
            self.after(0, Act::Tell { dev, life, input: Input::StreamDown { stream, how: Cut::Broken } });
        }
    }

    /// The other side of a connection is gone.
    pub(crate) fn gone(&mut self, conn: usize, end: usize) {
        if !self.conns[conn].ends[end].up || self.silent_between(conn) {
            return;
        }
        for stream in self.conns[conn].streams.clone() {
            let own = self.streams[stream].opener ^ end;
            self.down(stream, own, Cut::Broken);
        }
        let ConnEnd { id, dev, life, ref mut up } = self.conns[conn].ends[end];
        if std::mem::replace(up, false) && self.is_life(dev, life) {
            // A Node that does not know of it yet ignores that.
            self.handle(dev, Input::ConnDown { conn: id });
        }
    }

    pub(crate) fn silent_between(&self, conn: usize) -> bool {
        self.conns[conn].ends.iter().any(|end| self.devices[end.dev.0].silent)
    }

    /// How much longer the dial takes that is asked for now; a fault that makes it slow fires here.
    pub(crate) fn slow_dial(&mut self, dev: Dev) -> u64 {
        let device = &mut self.devices[dev.0];
        device.asked.dials += 1;
        let number = device.asked.dials;
        let slow = device.dial_faults.iter().position(|&(of, fault)| of == number && matches!(fault, DialFault::Slow(_)));
        let Some((_, DialFault::Slow(millis))) = slow.map(|at| device.dial_faults.remove(at)) else { return 0 };
        self.fire("N23");
        u64::from(millis) * 1_000
    }

    /// A fault that the next dial that arrives meets: those of dials that were asked for.
    fn dial_fault(&mut self, dev: Dev) -> Option<DialFault> {
        let device = &mut self.devices[dev.0];
        let dials = device.asked.dials;
        let at = device.dial_faults.iter().position(|&(of, fault)| of <= dials && !matches!(fault, DialFault::Slow(_)))?;
        let (_, fault) = device.dial_faults.remove(at);
        self.fire(fault.kind());
        Some(fault)
    }
}
