//! What Nodes say is done here, and what comes of it is told to them.

use protocol_core::bulk::digest::{Values, value};
use protocol_core::bulk::sealer::{CHUNK_HEAD, CHUNK_OVERHEAD};
use protocol_core::crypto::aead::TAG;
use std::ops::Range;

use protocol_core::effects::{BulkHalf, BulkReport, ChunkDone, Cut, EntryNote, Event, FileOp, Input, Output, Remote, Reply, TransferKey};
use protocol_core::faults::{DeclineReason, Failure, FileFault};
use protocol_core::ids::{ConnId, StreamId, Ticket};
use protocol_core::info::{Address, TransportKind};
use protocol_core::records::Change;
use protocol_core::wire::deframer::{Deframer, StreamName};
use protocol_core::wire::header::StreamKind;

use crate::choice::Site;
use crate::link::{Bulk, Conn, ConnEnd, End, Pipe, Stream, Wire};
use crate::oracle::Recorder;
use crate::rules::{At, Damage, DialFault, DiskFault, StoreFault};
use crate::trace::{Tapped, What};
use crate::world::{Act, Answer, Dev, Pieces, World};

/// A disk's and a person's time, in microseconds.
const DISK: u64 = 1_000;
const PERSON: u64 = 700_000;
/// Dialling somebody who does not answer.
const DIAL_TIMEOUT: u64 = 10_000_000;
/// Chunks that are claimed at once, and how long a claim takes.
const RUN: u32 = 4;
const RUN_TIME: u64 = 500;
/// How long a stream may stand after a bit of it was changed: the longest wait for a part of something, and more.
const TAINTED: u64 = 200_000_000;

impl World {
    /// Does what a Node says, until it says nothing more.
    pub(crate) fn perform(&mut self, dev: Dev) {
        while let Some(output) = self.devices[dev.0].node.as_mut().and_then(protocol_core::node::Node::poll) {
            self.output(dev, output);
        }
    }

    fn output(&mut self, dev: Dev, output: Output) {
        let life = self.devices[dev.0].life;
        match output {
            Output::Dial { ticket, to } => {
                self.note(dev, What::Dials { to: to.to_string() });
                let delay = self.one_way() + self.slow_dial(dev);
                self.after(delay, Act::Dial { dev, life, ticket, to });
            }
            Output::Open { ticket, conn, name } => self.open(dev, ticket, conn, name),
            Output::Hangup { conn, code } => {
                if let Some(&(number, _)) = self.conn_ends.get(&conn) {
                    self.note(dev, What::HangsUp { conn: number, code });
                }
                self.hang_up(conn);
            }
            Output::Send { stream, bytes } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    let (name, frame) = (self.streams[stream].name, self.streams[stream].pipes[end].frames + 1);
                    if frame <= 2 && self.oracle.is_some() {
                        self.with_oracle(|oracle, _| oracle.on_sent(dev, name, (end == 0, frame), &bytes));
                    }
                    self.send(stream, end, bytes);
                    self.after(10, Act::Drained { stream, end });
                }
            }
            Output::Finish { stream } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    self.finish(stream, end);
                }
            }
            Output::Reset { stream, code } => {
                if let Some(&(stream, end)) = self.stream_ends.get(&stream) {
                    self.note(dev, What::Resets { stream, code });
                    self.on_refused(stream, end, code);
                    self.reset(stream, end);
                }
            }
            Output::Bulk { stream, half } => self.bulk(stream, half),
            Output::Persist { ticket, batch } => self.persist(dev, ticket, batch),
            Output::Files { ticket, transfer, entries, op } => {
                self.note(dev, What::Files { op, entries: (entries.start, entries.end) });
                let at = self.devices[dev.0].disk_busy.max(self.now) + DISK + self.devices[dev.0].slow_disk;
                self.devices[dev.0].disk_busy = at;
                self.at(at, Act::Files { dev, life, ticket, key: transfer, entries, op });
            }
            Output::Notify(event) => self.notify(dev, life, event),
        }
    }

    fn notify(&mut self, dev: Dev, life: u32, event: Event) {
        self.note(dev, What::Told(Box::new(event.clone())));
        match &event {
            Event::PairRequest { session, .. } if self.devices[dev.0].pairings != Answer::Silent => {
                let yes = self.devices[dev.0].pairings == Answer::Yes;
                let delay = PERSON + self.choices.below(Site::Person, PERSON);
                self.after(delay, Act::AnswerPairing { dev, life, session: *session, yes });
            }
            Event::Offered { transfer, .. } if self.devices[dev.0].offers != Answer::Silent => {
                let yes = self.devices[dev.0].offers == Answer::Yes;
                let delay = PERSON + self.choices.below(Site::Person, PERSON);
                self.after(delay, Act::AnswerOffer { dev, life, key: *transfer, yes });
            }
            Event::Done { transfer, .. } | Event::Failed { transfer, .. } => self.devices[dev.0].disk.forget(*transfer),
            _ => {}
        }
        self.with_oracle(|oracle, world| oracle.on_event(world, dev, &event));
        self.events.push((dev, event));
    }

    /// What was to happen happens.
    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Tell { dev, life, input } => {
                if self.is_life(dev, life) {
                    self.handle(dev, input);
                }
            }
            Act::Dial { dev, life, ticket, to } => self.dial(dev, life, ticket, &to),
            Act::Up { conn, ticket, remote } => {
                let ConnEnd { id, dev, life, up } = self.conns[conn].ends[0];
                if self.is_life(dev, life) {
                    // It may be gone again before its dialler heard of it.
                    let input = if up {
                        Input::ConnUp { conn: id, dialed: Some(ticket), remote }
                    } else {
                        Input::Done { ticket, result: Err(Failure::Refused) }
                    };
                    self.handle(dev, input);
                }
            }
            Act::Opened { stream } => self.opened(stream, 1, None),
            Act::Bytes { stream, from, frame, bytes } => self.arrive(stream, from, frame, &bytes),
            Act::End { stream, from } => self.arrived_end(stream, from),
            Act::Broken { stream, end } => {
                if !self.silent_between(self.streams[stream].conn) {
                    self.down(stream, end, Cut::Broken);
                }
            }
            Act::Cut { stream } => self.cut(stream),
            Act::Tainted { stream, end } => self.check_tainted(stream, end),
            Act::Gone { conn, end } => self.gone(conn, end),
            Act::Durable { dev, life, ticket, batch } => self.durable(dev, life, ticket, batch),
            Act::Files { dev, life, ticket, key, entries, op } => {
                if !self.is_life(dev, life) {
                    return;
                }
                let result = self.files(dev, key, entries, op);
                if let Some(result) = result {
                    self.handle(dev, Input::Done { ticket, result: result.map(Reply::Files).map_err(Failure::Disk) });
                }
            }
            Act::Seal { stream, end } => self.seal(stream, end),
            Act::Drained { stream, end } => {
                let slot = &self.streams[stream].ends[end];
                if let (true, Some(dev)) = (slot.up && !slot.down, self.owner(stream, end)) {
                    let stream = slot.id;
                    self.handle(dev, Input::Drained { stream });
                }
            }
            Act::AnswerPairing { dev, life, session, yes } => {
                if self.is_life(dev, life) {
                    if yes {
                        self.with_oracle(|oracle, _| oracle.on_yes(dev, session));
                    }
                    // It may be too late: then nothing happens.
                    let _late = self.call(dev, |node, env| node.answer_pairing(env, session, yes));
                }
            }
            Act::AnswerOffer { dev, life, key, yes } => {
                if self.is_life(dev, life) {
                    let _late =
                        self.call(dev, |node, env| if yes { node.accept(env, key) } else { node.decline(env, key, DeclineReason::User) });
                }
            }
            Act::Crash { dev, life } => {
                if self.is_life(dev, life) {
                    self.crash(dev);
                }
            }
            Act::Step { number } => self.take_step(number),
            Act::Wake { dev } => self.wake(dev),
            Act::Enemy(due) => self.enemy_due(due),
        }
    }

    // Connections.

    fn dial(&mut self, dev: Dev, life: u32, ticket: Ticket, to: &Address) {
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
    fn connect_ends(&mut self, dev: Dev, peer: Dev, tcp: bool) -> Remote {
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
    fn accept_conn(&mut self, conn: usize) {
        let ConnEnd { id, dev, .. } = self.conns[conn].ends[1];
        let remote = self.remote(conn, 1);
        self.handle(dev, Input::ConnUp { conn: id, dialed: None, remote });
        if self.conns[conn].wire == Wire::Tcp {
            let stream = self.new_stream(conn, 0, None);
            self.opened(stream, 1, None);
        }
    }

    fn new_stream(&mut self, conn: usize, opener: usize, name: Option<StreamName>) -> usize {
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

    fn open(&mut self, dev: Dev, ticket: Ticket, conn: ConnId, name: StreamName) {
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
    fn opened(&mut self, stream: usize, end: usize, ticket: Option<Ticket>) {
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
    fn hang_up(&mut self, conn: ConnId) {
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

    fn silent_between(&self, conn: usize) -> bool {
        self.conns[conn].ends.iter().any(|end| self.devices[end.dev.0].silent)
    }

    // Streams.

    fn send(&mut self, stream: usize, end: usize, bytes: Vec<u8>) {
        if self.owner(stream, end).is_none() || self.streams[stream].ends[end].finished {
            return;
        }
        self.streams[stream].pipes[end].frames += 1;
        self.push_bytes(stream, end, bytes);
    }

    /// Bytes leave; the rules of the world are applied to them.
    fn push_bytes(&mut self, stream: usize, end: usize, mut bytes: Vec<u8>) {
        let slot = &self.streams[stream];
        let (name, frame, sent) = (slot.name, slot.pipes[end].frames, slot.pipes[end].sent);
        let (mut cut, mut clean, mut vanish, mut crash) = (None, false, false, None);
        let mut at = 0;
        while let Some(rule) = self.rules.get(at).copied() {
            let place = match rule.at {
                At::Frame(number) if number == frame => Some(bytes.len()),
                At::Byte(byte) if byte >= sent && byte < sent + bytes.len() as u64 => usize::try_from(byte - sent).ok(),
                At::Frame(_) | At::Byte(_) => None,
            };
            let Some(place) = place.filter(|_| name == Some(rule.name) && Stream::side(end) == rule.side) else {
                at += 1;
                continue;
            };
            self.rules.remove(at);
            self.fire(rule.damage.kind());
            match rule.damage {
                Damage::Cut => cut = Some(place),
                Damage::End => (cut, clean) = (Some(place), true),
                Damage::Crash(dev) => (cut, crash) = (Some(place), Some(dev)),
                Damage::Vanish => vanish = true,
                Damage::Flip(bit) => {
                    let len = bytes.len();
                    bytes[bit / 8 % len] ^= 1 << (bit % 8);
                    self.streams[stream].pipes[end].flipped.get_or_insert(sent + (bit / 8 % len) as u64);
                    self.after(TAINTED, Act::Tainted { stream, end: 1 - end });
                }
                Damage::Replace(material) => {
                    (bytes, vanish) = (self.material.get(material).cloned().unwrap_or_default(), true);
                }
                Damage::Append(material) => {
                    bytes.extend_from_slice(self.material.get(material).map_or(&[0][..], Vec::as_slice));
                    vanish = true;
                }
            }
        }
        // Another rule may have put fewer bytes in their place.
        let keep = cut.unwrap_or(bytes.len()).min(bytes.len());
        let (from, to) = (self.device_of(stream, end), self.device_of(stream, 1 - end));
        self.note(from, What::Sends { stream, to, name, frame, by_opener: end == 0, len: bytes.len() });
        self.trace.bytes(&bytes);
        if self.recording {
            self.tap.push(Tapped { from, to, name, by_opener: end == 0, stream, bytes: bytes[..keep].to_vec() });
        }
        self.streams[stream].pipes[end].sent += bytes.len() as u64;
        self.split(stream, end, &bytes[..keep]);
        let pipe = &mut self.streams[stream].pipes[end];
        pipe.vanish |= vanish;
        let last = pipe.last;
        if cut.is_some() {
            pipe.vanish = true;
            self.at(last, if clean { Act::End { stream, from: end } } else { Act::Cut { stream } });
        }
        if let Some(dev) = crash {
            let life = self.devices[dev.0].life;
            self.at(last, Act::Crash { dev, life });
        }
    }

    /// Bytes travel in pieces of any size, in order.
    fn split(&mut self, stream: usize, end: usize, mut bytes: &[u8]) {
        if self.streams[stream].pipes[end].vanish || self.silent_between(self.streams[stream].conn) {
            return;
        }
        let (from, to) = (self.device_of(stream, end), self.device_of(stream, 1 - end));
        let held = self.holds.get(&(from, to)).copied().unwrap_or(0);
        let tiny = bytes.len().div_ceil(64);
        while !bytes.is_empty() {
            let split = self.choices.coin(Site::Split);
            let most = if self.choices.below(Site::Split, 8) == 7 { 7 } else { bytes.len() as u64 };
            let len = usize::try_from(1 + self.choices.below(Site::Split, most.min(bytes.len() as u64))).unwrap_or(1);
            let len = match self.pieces {
                Pieces::Any if split => len,
                Pieces::Tiny => tiny.min(bytes.len()),
                Pieces::Any | Pieces::Whole => bytes.len(),
            };
            let (piece, rest) = bytes.split_at(len);
            bytes = rest;
            let at = self.streams[stream].pipes[end].last.max(self.now + self.one_way()).max(held);
            self.streams[stream].pipes[end].last = at;
            self.at(at, Act::Bytes { stream, from: end, frame: self.streams[stream].pipes[end].frames, bytes: piece.to_vec() });
        }
    }

    fn finish(&mut self, stream: usize, end: usize) {
        let delay = self.one_way();
        let slot = &mut self.streams[stream];
        if std::mem::replace(&mut slot.ends[end].finished, true) || slot.pipes[end].vanish {
            return;
        }
        let at = slot.pipes[end].last.max(self.now + delay);
        slot.pipes[end].last = at;
        self.at(at, Act::End { stream, from: end });
        self.close_if_done(stream);
    }

    pub(crate) fn reset(&mut self, stream: usize, end: usize) {
        let delay = self.one_way();
        let keeps = self.choices.coin(Site::Keep) || self.commuting;
        let slot = &mut self.streams[stream];
        slot.ends[end].down = true;
        slot.ends[end].finished = true;
        slot.ends[end].bulk = Bulk::No;
        slot.pipes[1 - end].dead = true;
        // What is in flight may be lost with it, or not.
        slot.pipes[end].dead |= !keeps;
        let at = slot.pipes[end].last.max(self.now + delay);
        let vanish = slot.pipes[end].vanish;
        let (conn, conn_end) = (slot.conn, slot.conn_end(end));
        if !vanish {
            self.at(at, Act::Broken { stream, end: 1 - end });
        }
        if self.conns[conn].wire == Wire::Tcp {
            self.hang_up(self.conns[conn].ends[conn_end].id);
        }
    }

    /// K3: a stream on which a bit was changed does not go on.
    fn check_tainted(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        let (pipe, own) = (&self.streams[stream].pipes[1 - end], &self.streams[stream].ends[end]);
        let read = pipe.flipped.is_some_and(|at| pipe.delivered > at);
        let asleep = self.devices[dev.0].asleep_until > 0;
        if read && own.up && !own.down && !pipe.dead && !asleep && self.devices[dev.0].stranger.is_none() {
            self.with_oracle(|oracle, _| {
                oracle.broken("K3", || format!("device {} goes on with stream {stream}, of which a bit was changed", dev.0))
            });
        }
    }

    /// A rule cuts a stream for both sides.
    fn cut(&mut self, stream: usize) {
        self.trace.push(self.now, None, What::Step(format!("stream {stream} is cut")));
        let conn = self.streams[stream].conn;
        if self.conns[conn].wire == Wire::Tcp {
            self.gone(conn, 0);
            self.gone(conn, 1);
        } else {
            self.down(stream, 0, Cut::Broken);
            self.down(stream, 1, Cut::Broken);
        }
    }

    /// Nothing more comes to this end of a stream, and its Node is told if it does not know.
    fn down(&mut self, stream: usize, end: usize, how: Cut) {
        let owner = self.owner(stream, end);
        let slot = &mut self.streams[stream];
        if how != Cut::Finished {
            slot.pipes[0].dead |= end == 1;
            slot.pipes[1].dead |= end == 0;
            slot.ends[end].finished = true;
            slot.ends[end].bulk = Bulk::No;
        }
        let own = &mut slot.ends[end];
        if matches!(own.bulk, Bulk::Seal { .. }) {
            // Told when the last chunk was sent.
            own.ended = Some(how);
            return;
        }
        let id = own.id;
        if let (true, Some(dev)) = (own.up && !std::mem::replace(&mut own.down, true), owner) {
            self.note(dev, What::Down { stream, how });
            self.handle(dev, Input::StreamDown { stream: id, how });
            self.enemy_loses(stream, end);
        }
        self.close_if_done(stream);
    }

    /// A connection that was one stream ends with it.
    fn close_if_done(&mut self, stream: usize) {
        let slot = &self.streams[stream];
        let conn = slot.conn;
        let through = slot.ends.iter().all(|end| end.finished && end.down);
        if through && self.conns[conn].wire == Wire::Tcp {
            for end in 0..2 {
                let ConnEnd { id, dev, life, ref mut up } = self.conns[conn].ends[end];
                if std::mem::replace(up, false) {
                    self.after(0, Act::Tell { dev, life, input: Input::ConnDown { conn: id } });
                }
            }
        }
    }

    fn arrive(&mut self, stream: usize, from: usize, frame: u32, bytes: &[u8]) {
        let end = 1 - from;
        let Some(dev) = self.owner(stream, end) else { return };
        if self.streams[stream].pipes[from].dead || self.silent_between(self.streams[stream].conn) {
            return;
        }
        self.note(dev, What::Gets { stream, by_opener: from == 0, frame, len: bytes.len() });
        self.streams[stream].pipes[from].delivered += bytes.len() as u64;
        if self.devices[dev.0].stranger.is_some() {
            self.raw.entry((stream, end)).or_default().extend_from_slice(bytes);
            return self.enemy_hears(stream, end, bytes);
        }
        if matches!(self.streams[stream].ends[end].bulk, Bulk::Open { .. }) {
            return self.open_chunks(stream, end, bytes);
        }
        let mut rest = bytes;
        loop {
            let slot = &mut self.streams[stream].ends[end];
            if slot.down {
                return;
            }
            if slot.deframer.parked() {
                if matches!(slot.bulk, Bulk::Open { .. }) {
                    return self.open_chunks(stream, end, rest);
                }
                slot.held.extend_from_slice(rest);
                return;
            }
            let space = slot.deframer.space();
            let len = space.len().min(rest.len());
            space[..len].copy_from_slice(&rest[..len]);
            slot.deframer.filled(len);
            rest = &rest[len..];
            let mut any = false;
            while let Some(frame) = self.streams[stream].ends[end].deframer.next() {
                any = true;
                let id = self.streams[stream].ends[end].id;
                match frame {
                    Ok(frame) => {
                        self.handle(dev, Input::Frame { stream: id, frame });
                        if self.streams[stream].ends[end].down || self.owner(stream, end).is_none() {
                            return;
                        }
                    }
                    Err(error) => {
                        self.note(dev, What::Malformed { stream, error: error.to_string() });
                        self.reset(stream, end);
                        return self.handle(dev, Input::StreamDown { stream: id, how: Cut::Malformed });
                    }
                }
            }
            if rest.is_empty() && (!any || !self.streams[stream].ends[end].deframer.parked()) {
                return;
            }
        }
    }

    fn arrived_end(&mut self, stream: usize, from: usize) {
        let end = 1 - from;
        if self.streams[stream].pipes[from].dead || self.silent_between(self.streams[stream].conn) {
            return;
        }
        let whole = match &self.streams[stream].ends[end].bulk {
            Bulk::Open { buffer, .. } => buffer.is_empty(),
            Bulk::No | Bulk::Seal { .. } => true,
        };
        self.down(stream, end, if whole { Cut::Finished } else { Cut::Broken });
    }

    // Chunks.

    fn bulk(&mut self, id: StreamId, half: BulkHalf) {
        let Some(&(stream, end)) = self.stream_ends.get(&id) else { return };
        match half {
            BulkHalf::Seal { transfer, sealer, chunks: _ } => {
                self.streams[stream].ends[end].bulk = Bulk::Seal { key: transfer, sealer };
                self.after(RUN_TIME, Act::Seal { stream, end });
            }
            BulkHalf::Open { transfer, opener, chunks } => {
                // This direction carries nothing.
                self.finish(stream, end);
                let slot = &mut self.streams[stream].ends[end];
                slot.bulk = Bulk::Open { key: transfer, opener, chunks, buffer: Vec::new() };
                let mut before = std::mem::replace(&mut slot.deframer, Deframer::accepting()).into_rest();
                before.append(&mut slot.held);
                self.open_chunks(stream, end, &before);
            }
        }
    }

    /// Seals the next run of chunks.
    fn seal(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let slot = &mut self.streams[stream].ends[end];
        let Bulk::Seal { key, sealer } = std::mem::replace(&mut slot.bulk, Bulk::No) else { return };
        let id = slot.id;
        let Some(run) = sealer.next(RUN) else {
            self.finish(stream, end);
            if let Some(how) = self.streams[stream].ends[end].ended.take() {
                self.down(stream, end, how);
            }
            return;
        };
        let mut report = BulkReport::default();
        let mut frames = Vec::new();
        for claim in run {
            let index = claim.index();
            let mut frame = vec![0; CHUNK_HEAD];
            let mut values = Values::new();
            for piece in claim.pieces() {
                let text = self.devices[dev.0].disk.read(key, &piece).unwrap_or_else(|fault| {
                    report.failed.push((piece.entry, fault));
                    vec![0; usize::try_from(piece.len).unwrap_or(0)]
                });
                values.push(value(&piece, &text).expect("a piece of the layout"));
                frame.extend(text);
            }
            frame.extend([0; TAG]);
            if sealer.seal(claim, &mut frame).is_ok() {
                frames.push(frame);
                report.chunks.push(ChunkDone { index, values });
            }
        }
        self.streams[stream].ends[end].bulk = Bulk::Seal { key, sealer };
        for frame in frames {
            self.send(stream, end, frame);
        }
        self.after(RUN_TIME, Act::Seal { stream, end });
        self.handle(dev, Input::Bulk { stream: id, report });
    }

    /// Opens and writes the chunks that are whole.
    fn open_chunks(&mut self, stream: usize, end: usize, bytes: &[u8]) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let slot = &mut self.streams[stream].ends[end];
        let id = slot.id;
        let Bulk::Open { key, opener, chunks, mut buffer } = std::mem::replace(&mut slot.bulk, Bulk::No) else { return };
        buffer.extend_from_slice(bytes);
        let mut report = BulkReport::default();
        let mut broken = false;
        while let Some((head, rest)) = buffer.split_first_chunk::<CHUNK_HEAD>() {
            let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if rest.len() + 8 < len && len < (8 << 20) {
                break;
            }
            let Ok((index, len)) = opener.head(head) else {
                broken = true;
                break;
            };
            let len = len as usize;
            let mut body = rest[..len].to_vec();
            buffer.drain(..CHUNK_HEAD + len);
            let Some(claim) = chunks.take(index, u32::try_from(len + CHUNK_HEAD - CHUNK_OVERHEAD).unwrap_or(0)) else {
                report.unwanted += 1;
                continue;
            };
            if opener.open(index, &mut body).is_err() {
                report.forged += 1;
                broken = true;
                break;
            }
            let (mut values, mut at) = (Values::new(), 0);
            for piece in claim.pieces() {
                let text = &body[at..at + piece.len as usize];
                at += text.len();
                values.push(value(&piece, text).expect("a piece of the layout"));
                if let Err(fault) = self.devices[dev.0].disk.write(key, &piece, text) {
                    report.failed.push((piece.entry, fault));
                }
            }
            claim.finish();
            self.with_oracle(|oracle, world| oracle.on_chunk(world, dev, key, index));
            report.chunks.push(ChunkDone { index, values });
        }
        self.streams[stream].ends[end].bulk = Bulk::Open { key, opener, chunks, buffer };
        if !report.chunks.is_empty() || report.forged + report.unwanted > 0 {
            self.handle(dev, Input::Bulk { stream: id, report });
        }
        if broken && !self.streams[stream].ends[end].down {
            self.note(dev, What::Malformed { stream, error: "no chunk".into() });
            self.reset(stream, end);
            self.handle(dev, Input::StreamDown { stream: id, how: Cut::Malformed });
        }
    }

    // The store.

    fn persist(&mut self, dev: Dev, ticket: Ticket, batch: Vec<Change>) {
        let device = &mut self.devices[dev.0];
        let life = device.life;
        device.persists += 1;
        let number = device.persists;
        let at = device.store_busy.max(self.now) + DISK + device.slow_disk;
        device.store_busy = at;
        self.note(dev, What::Persists { number });
        self.with_oracle(|oracle, world| oracle.on_persist(world, dev, &batch));
        let device = &mut self.devices[dev.0];
        let fault = device.store_faults.iter().position(|&(of, _)| of == number).map(|at| device.store_faults.remove(at).1);
        if let Some(fault) = fault {
            self.fire(fault.kind());
        }
        match fault {
            None => self.at(at, Act::Durable { dev, life, ticket, batch }),
            Some(StoreFault::Fail) => {
                let result = Err(Failure::Disk(FileFault::DiskFull));
                self.at(at, Act::Tell { dev, life, input: Input::Done { ticket, result } });
            }
            // Not now: the Node is in the middle of saying what is to be done.
            Some(StoreFault::CrashBefore) => self.after(0, Act::Crash { dev, life }),
            Some(StoreFault::CrashAfter) => {
                self.at(at, Act::Durable { dev, life, ticket: Ticket(0), batch });
                self.at(at, Act::Crash { dev, life });
            }
        }
    }

    fn durable(&mut self, dev: Dev, life: u32, ticket: Ticket, batch: Vec<Change>) {
        if !self.is_life(dev, life) {
            return;
        }
        self.note(dev, What::Durable);
        for Change { table, key, value } in batch {
            match value {
                Some(value) => self.devices[dev.0].store.insert((table, key), value.bytes().to_vec()),
                None => self.devices[dev.0].store.remove(&(table, key)),
            };
        }
        self.with_oracle(|oracle, world| oracle.on_durable(world, dev));
        self.handle(dev, Input::Done { ticket, result: Ok(Reply::Persisted) });
    }

    /// An operation on files; `None` if the device does not live to hear how it went.
    fn files(&mut self, dev: Dev, key: TransferKey, entries: Range<u32>, op: FileOp) -> Option<Result<Vec<(u32, EntryNote)>, FileFault>> {
        let manifest = self.node(dev).manifest(key);
        let device = &mut self.devices[dev.0];
        device.asked.files += 1;
        let number = device.asked.files;
        let fault = device.disk_faults.iter().position(|&(of, _)| of == number).map(|at| device.disk_faults.remove(at).1);
        if let Some(fault) = fault {
            self.fire(fault.kind());
        }
        let disk = &mut self.devices[dev.0].disk;
        let result = match fault {
            Some(DiskFault::Full) => disk.fail(key, op, FileFault::DiskFull),
            Some(DiskFault::Io) => disk.fail(key, op, FileFault::Io(5)),
            Some(DiskFault::Entry) => {
                disk.perform(key, manifest, entries.start + 1..entries.end.max(entries.start + 1), op).map(|mut notes| {
                    disk.drop_entry(key, entries.start);
                    notes.insert(0, (entries.start, EntryNote::Failed(FileFault::Io(5))));
                    notes
                })
            }
            Some(DiskFault::Crash) => {
                // Some of it may have been done, and none of that is durable.
                drop(disk.perform(key, manifest, entries, op));
                disk.undo_durability();
                self.crash(dev);
                return None;
            }
            Some(DiskFault::WritesFail) => {
                disk.writes_fail = true;
                disk.perform(key, manifest, entries, op)
            }
            Some(DiskFault::ReadsFail) => {
                disk.reads_fail = true;
                disk.perform(key, manifest, entries, op)
            }
            None => disk.perform(key, manifest, entries, op),
        };
        self.with_oracle(|oracle, world| oracle.on_files(world, dev, key, op));
        Some(result)
    }

    /// How much longer the dial takes that is asked for now; a fault that makes it slow fires here.
    fn slow_dial(&mut self, dev: Dev) -> u64 {
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

    /// A fault of this kind has fired.
    pub(crate) fn fire(&mut self, kind: &'static str) {
        self.fired.push(kind);
        self.trace.push(self.now, None, What::Step(format!("fault {kind}")));
    }
}

/// An end of a stream for which a test speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    pub(crate) stream: usize,
    pub(crate) end: usize,
}

impl World {
    /// The streams that chunks go over, for rules.
    pub const BULK: StreamName = StreamName::Data(StreamKind::Bulk);
    /// The streams that a manifest goes over, for rules.
    pub const MANIFEST: StreamName = StreamName::Data(StreamKind::Manifest);

    /// A stream from a stranger to a device, on a connection of its own. Its preamble has left.
    pub fn raw_open(&mut self, stranger: Dev, to: Dev, name: StreamName) -> Raw {
        let tcp = self.devices[to.0].wire == Wire::Tcp;
        self.connect_ends(stranger, to, tcp);
        let conn = self.conns.len() - 1;
        self.accept_conn(conn);
        self.raw_open_on(conn, 0, name)
    }

    /// One more stream on the connection of another.
    pub fn raw_open_beside(&mut self, raw: Raw, name: StreamName) -> Raw {
        self.raw_open_on(self.streams[raw.stream].conn, 0, name)
    }

    /// A stream that an end of a connection opens.
    pub(crate) fn raw_open_on(&mut self, conn: usize, opener: usize, name: StreamName) -> Raw {
        let stream = match self.conns[conn].streams.first().copied().filter(|_| self.conns[conn].wire == Wire::Tcp) {
            Some(stream) => {
                self.streams[stream].name = Some(name);
                stream
            }
            None => {
                let stream = self.new_stream(conn, opener, Some(name));
                self.opened(stream, 1, None);
                stream
            }
        };
        self.streams[stream].ends[0].up = true;
        self.push_bytes(stream, 0, name.preamble());
        Raw { stream, end: 0 }
    }

    /// The other device's side of the newest stream that was opened towards a stranger.
    pub fn raw_newest(&self, stranger: Dev) -> Option<Raw> {
        (0..self.streams.len()).rev().map(|stream| Raw { stream, end: 1 }).find(|raw| self.device_of(raw.stream, 1) == stranger)
    }

    /// Sends bytes.
    pub fn raw_send(&mut self, raw: Raw, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.send(raw.stream, raw.end, bytes.to_vec());
        }
    }

    /// Half-closes.
    pub fn raw_finish(&mut self, raw: Raw) {
        self.finish(raw.stream, raw.end);
    }

    /// What came so far.
    pub fn raw_received(&self, raw: Raw) -> &[u8] {
        self.raw.get(&(raw.stream, raw.end)).map_or(&[], Vec::as_slice)
    }

    /// Whether the other side has ended the stream.
    pub fn raw_is_down(&self, raw: Raw) -> bool {
        self.streams[raw.stream].ends[raw.end].down
    }
}
