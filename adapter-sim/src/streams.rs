//! Streams of a world: bytes that are held, damaged, split and cut on their way.

use protocol_core::effects::{Cut, Input};

use crate::choice::Site;
use crate::link::{Bulk, ConnEnd, Stream, Uplink, Wire};
use crate::rules::{At, Damage};
use crate::trace::{Tapped, What};
use crate::world::{Act, Dev, Pieces, World};
use protocol_core::limits;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;

/// How long a stream may stand after a bit of it was changed, in microseconds: the longest wait for a part of something, and more.
const TAINTED: u64 = 200_000_000;
/// The same, if more has come behind it.
const TAINTED_AND_READ: u64 = 40_000_000;
/// The same, if it was in a record of a control stream that has come whole.
const SPOILT: u64 = 7_000_000;
/// How long an answer to PairingRequest and to Hello is awaited, and a little more.
const ANSWERS: (u64, u64) = (32_000_000, 12_000_000);

impl World {
    pub(crate) fn send(&mut self, stream: usize, end: usize, bytes: Vec<u8>) {
        if self.owner(stream, end).is_none() || self.streams[stream].ends[end].finished {
            return;
        }
        self.streams[stream].pipes[end].frames += 1;
        self.push_bytes(stream, end, bytes);
    }

    /// Bytes leave; the rules of the world are applied to them.
    pub(crate) fn push_bytes(&mut self, stream: usize, end: usize, mut bytes: Vec<u8>) {
        let slot = &self.streams[stream];
        let (name, frame, sent) = (slot.name, slot.pipes[end].frames, slot.pipes[end].sent);
        let (mut cut, mut clean, mut vanish, mut crash) = (None, false, false, None);
        let (mut at, mut flipped) = (0, false);
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
                // Another rule may have left nothing of them.
                Damage::Flip(_) if bytes.is_empty() => {}
                // One is enough: a second may change the same bit back.
                Damage::Flip(_) if flipped => {}
                Damage::Flip(bit) => {
                    flipped = true;
                    let len = bytes.len();
                    let place = bit / 8 % len;
                    bytes[place] ^= 1 << (bit % 8);
                    // The rest of a record that is too long now is waited for, and an application may be silent for as long as it likes.
                    let custom = name == Some(StreamName::Data(StreamKind::Custom));
                    let rest = if custom && place < 4 { limits::RECORD_TEXT as u64 } else { 0 };
                    let changed = (sent + place as u64 + rest, frame, self.now);
                    let pipe = &mut self.streams[stream].pipes[end];
                    // Before the fourth there may be something else than a record, and a wrong length may be waited for: of this
                    // record or, changed before, of an earlier one.
                    let first = pipe.flipped.is_none();
                    pipe.flipped.get_or_insert(changed);
                    if first && frame >= 4 && place >= 4 && matches!(name, Some(StreamName::Pair | StreamName::Link)) {
                        pipe.spoilt.get_or_insert(sent + len as u64);
                    }
                    self.after(TAINTED_AND_READ, Act::Tainted { stream, end: 1 - end });
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
    pub(crate) fn split(&mut self, stream: usize, end: usize, mut bytes: &[u8]) {
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
            let at = self.streams[stream].pipes[end].last.max(self.leaves(from, len) + self.one_way()).max(held);
            self.streams[stream].pipes[end].last = at;
            self.at(at, Act::Bytes { stream, from: end, frame: self.streams[stream].pipes[end].frames, bytes: piece.to_vec() });
        }
    }

    /// From now on what this device sends, to whomever, leaves at so many bytes a second, in the order in which it was given (N16).
    /// What seals chunks waits until its last ones have left, as a host waits for the buffer of a socket.
    pub fn set_uplink(&mut self, dev: Dev, bytes_a_second: u64) {
        self.uplinks.insert(dev, Uplink { rate: bytes_a_second.max(1), free_at: self.now });
    }

    /// When the last of so many more bytes has left this device.
    pub(crate) fn leaves(&mut self, dev: Dev, bytes: usize) -> u64 {
        let Some(uplink) = self.uplinks.get_mut(&dev) else { return self.now };
        uplink.free_at = uplink.free_at.max(self.now) + (bytes as u64 * 1_000_000).div_ceil(uplink.rate);
        uplink.free_at
    }

    /// Streams of a pairing that a device opened, that stand, and on which all that came is a Complete after its Response.
    pub(crate) fn completed(&self, dev: Dev) -> Vec<usize> {
        let heard = |stream: &usize| {
            let slot = &self.streams[*stream];
            let [own, other] = &slot.pipes;
            let whole = other.delivered == other.sent && other.flipped.is_none() && !other.vanish;
            let open = slot.ends[0].up && !slot.ends[0].down && !slot.ends[0].finished && self.owner(*stream, 0) == Some(dev);
            (slot.name, own.frames, other.frames) == (Some(StreamName::Pair), 2, 2) && whole && open
        };
        (0..self.streams.len()).filter(|stream| self.device_of(*stream, 1).0 < self.honest && heard(stream)).collect()
    }

    pub(crate) fn finish(&mut self, stream: usize, end: usize) {
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
    pub(crate) fn check_tainted(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        let (pipe, own) = (&self.streams[stream].pipes[1 - end], &self.streams[stream].ends[end]);
        let slow = self.devices[dev.0].slow_disk > 0;
        let read = pipe.flipped.is_some_and(|(at, frame, when)| {
            let late = self.now >= when + TAINTED || (pipe.newest > frame + 1 && !slow);
            // Records of a session that is about to replace another wait for its end.
            let spoilt = pipe.spoilt_at.is_some_and(|spoilt| self.now >= spoilt + SPOILT) && !slow;
            pipe.delivered > at && (late || spoilt)
        });
        let asleep = self.devices[dev.0].asleep_until > 0;
        if read && own.up && !own.down && !pipe.dead && !asleep && self.devices[dev.0].stranger.is_none() {
            let peer = self.id(self.device_of(stream, 1 - end));
            self.with_oracle(|oracle, _| {
                // Who is being forgotten is not heard any more: the stream stands for the one word that is still to be said on it.
                let deaf = oracle.is_forgetting(dev, peer);
                oracle.check("K3", deaf, || format!("device {} goes on with stream {stream}, of which a bit was changed", dev.0))
            });
        }
    }

    /// A device has sent the first message of a handshake.
    pub(crate) fn await_answer(&mut self, stream: usize, end: usize, frame: u32) {
        let wait = match self.streams[stream].name {
            Some(StreamName::Pair) => ANSWERS.0,
            Some(StreamName::Link) => ANSWERS.1,
            Some(StreamName::Data(_)) | None => return,
        };
        if (end, frame) == (0, 1) {
            self.after(wait, Act::Overdue { stream });
        }
    }

    /// PAIR-42, LINK-17: a first message that is not answered is not waited for any more.
    pub(crate) fn check_overdue(&mut self, stream: usize) {
        let Some(dev) = self.owner(stream, 0) else { return };
        let (slot, device) = (&self.streams[stream], &self.devices[dev.0]);
        let waits = slot.ends[0].up && !slot.ends[0].down && slot.pipes[1].delivered == 0;
        if waits && device.asleep_until == 0 && device.stranger.is_none() {
            self.with_oracle(|oracle, _| {
                oracle.broken("PAIR-42", || format!("device {} still waits for an answer on stream {stream}", dev.0))
            });
        }
    }

    /// A rule cuts a stream for both sides.
    pub(crate) fn cut(&mut self, stream: usize) {
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
    pub(crate) fn down(&mut self, stream: usize, end: usize, how: Cut) {
        if how == Cut::Finished && !self.has_talked(stream, end) {
            return;
        }
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
            if self.devices[dev.0].stranger.is_some() {
                self.raw_ends.insert((stream, end), how);
            }
            self.handle(dev, Input::StreamDown { stream: id, how });
            self.enemy_loses(stream, end);
        }
        self.close_if_done(stream);
    }

    /// A connection that was one stream ends with it.
    pub(crate) fn close_if_done(&mut self, stream: usize) {
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

    pub(crate) fn arrive(&mut self, stream: usize, from: usize, frame: u32, bytes: &[u8]) {
        let end = 1 - from;
        let Some(dev) = self.owner(stream, end) else { return };
        if self.streams[stream].pipes[from].dead || self.silent_between(self.streams[stream].conn) {
            return;
        }
        self.note(dev, What::Gets { stream, by_opener: from == 0, frame, len: bytes.len() });
        let pipe = &mut self.streams[stream].pipes[from];
        pipe.delivered += bytes.len() as u64;
        pipe.newest = pipe.newest.max(frame);
        if pipe.spoilt_at.is_none() && pipe.spoilt.is_some_and(|spoilt| pipe.delivered >= spoilt) {
            pipe.spoilt_at = Some(self.now);
            self.after(SPOILT, Act::Tainted { stream, end });
        }
        if self.devices[dev.0].stranger.is_some() {
            self.raw.entry((stream, end)).or_default().extend_from_slice(bytes);
            return self.enemy_hears(stream, end, bytes);
        }
        if self.goes_round(stream, end) {
            return self.hear(stream, end, bytes);
        }
        let mut rest = bytes;
        loop {
            let slot = &mut self.streams[stream].ends[end];
            if slot.down {
                return;
            }
            if slot.deframer.parked() {
                if !matches!(slot.bulk, Bulk::No) {
                    return self.hear(stream, end, rest);
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

    /// Whether what comes goes round the Node.
    fn goes_round(&self, stream: usize, end: usize) -> bool {
        matches!(self.streams[stream].ends[end].bulk, Bulk::Open { .. } | Bulk::Protocol(_))
    }

    /// Bytes that go round the Node.
    fn hear(&mut self, stream: usize, end: usize, bytes: &[u8]) {
        match self.streams[stream].ends[end].bulk {
            Bulk::Protocol(_) => self.listen(stream, end, bytes),
            Bulk::Open { .. } => self.open_chunks(stream, end, bytes),
            Bulk::No | Bulk::Seal { .. } => {}
        }
    }

    pub(crate) fn arrived_end(&mut self, stream: usize, from: usize) {
        let end = 1 - from;
        if self.streams[stream].pipes[from].dead || self.silent_between(self.streams[stream].conn) {
            return;
        }
        let slot = &mut self.streams[stream].ends[end];
        if matches!(slot.bulk, Bulk::No) && slot.deframer.parked() {
            // Behind chunks that nobody has taken yet.
            slot.ended = Some(Cut::Finished);
            return;
        }
        let whole = match &self.streams[stream].ends[end].bulk {
            Bulk::Open { buffer, .. } => buffer.is_empty(),
            Bulk::No | Bulk::Seal { .. } | Bulk::Protocol(_) => true,
        };
        self.down(stream, end, if whole { Cut::Finished } else { Cut::Broken });
    }
}
