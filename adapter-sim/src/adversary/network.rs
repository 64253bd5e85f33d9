//! Who owns the lines: plays again what passed, gives it back, puts one thing in place of another, and stands in between.

use protocol_core::faults::code;
use protocol_core::ids::SessionRef;
use protocol_core::limits;
use protocol_core::node::Node;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::handshake::{Notice, frame};

use super::lie::Lie;
use super::talk::State;
use crate::link::Wire;
use crate::raw::Raw;
use crate::rules::{At, Damage, DialFault, Rule, Side};
use crate::script::Name;
use crate::{Dev, World};

impl World {
    /// What an opener sent on an earlier stream goes to a device once more: `frames` of it, or all. `like`: from somebody whom the
    /// transport takes for that opener.
    pub(super) fn replay(&mut self, to: Dev, number: usize, frames: usize, like: bool) {
        let mut streams: Vec<usize> = self.tap.iter().filter(|tapped| tapped.by_opener).map(|tapped| tapped.stream).collect();
        streams.dedup();
        let Some(&stream) = streams.iter().rev().nth(number % streams.len().max(1)) else { return };
        self.send_again(to, stream, frames, like);
    }

    /// As [`replay`](Self::replay), but of what came to this device in its present life, on a stream of this name.
    pub(super) fn repeat(&mut self, to: Dev, name: StreamName, number: usize, frames: usize) {
        let came = |stream: &usize| {
            let of = self.streams[*stream].name == Some(name) && self.device_of(*stream, 1) == to;
            of && self.owner_life(*stream, 1) == self.life(to) && self.streams[*stream].pipes[1].frames > 0
        };
        let streams: Vec<usize> = (0..self.streams.len()).rev().filter(came).collect();
        if let Some(&stream) = streams.get(number % streams.len().max(1)) {
            self.send_again(to, stream, frames, true);
        }
    }

    fn send_again(&mut self, to: Dev, stream: usize, frames: usize, like: bool) {
        let of = self.tap.iter().filter(|tapped| tapped.stream == stream && tapped.by_opener);
        let all = if frames == 0 { usize::MAX } else { frames };
        let pieces: Vec<_> = of.skip(1).take(all).map(|tapped| tapped.bytes.clone()).collect();
        let Some(name) = self.streams[stream].name else { return };
        let opener = self.device_of(stream, 0);
        let who = if like { self.alike(opener) } else { self.stranger() };
        if !self.is_up(to) {
            return;
        }
        let raw = self.raw_open(who, to, name);
        self.raw_send(raw, &pieces.concat());
        let same = self.device_of(stream, 1) == to && self.owner_life(stream, 1) == self.life(to);
        let answered = self.tap.iter().any(|tapped| tapped.stream == stream && !tapped.by_opener);
        let tcp = self.conns[self.streams[raw.stream].conn].wire == Wire::Tcp;
        // A first message that never came may still come, from whoever looks like its sender.
        // Nothing but its session binds a data stream: one that was led astray is new to whom it was meant for.
        let astray = matches!(name, StreamName::Data(_)) && !same && self.is_meant_for(to, opener, pieces.first());
        // The same for one that was turned away before it had said anything.
        let first = self.tap.iter().filter(|tapped| tapped.stream == stream && tapped.by_opener).take(2).map(|tapped| tapped.bytes.len());
        let unheard = matches!(name, StreamName::Data(_)) && self.streams[stream].pipes[0].delivered < first.sum::<usize>() as u64;
        if same && unheard {
            self.foe.overtaken.insert(stream);
        }
        let refused = !(astray || same && unheard) && (!like || tcp || (same && answered));
        self.talk(raw, Lie::Again, State::Over).refused = refused.then_some("S24");
    }

    /// Whether a data stream's header names a session that a device has with its opener.
    fn is_meant_for(&self, dev: Dev, opener: Dev, header: Option<&Vec<u8>>) -> bool {
        let (key, named) = (self.key(opener), header.and_then(|header| header.get(2..18)));
        let sessions = self.node_of(dev).map(Node::probe_sessions).unwrap_or_default();
        sessions.iter().any(|session| session.peer == key && named == Some(&session.session_ref.0))
    }

    fn owner_life(&self, stream: usize, end: usize) -> u32 {
        let slot = &self.streams[stream];
        self.conns[slot.conn].ends[slot.conn_end(end)].life
    }

    /// What a device dials next leads to somebody in between, who passes everything on to `to`, or gives it back.
    pub(super) fn relay(&mut self, dev: Dev, to: Option<Dev>) {
        let relay = match self.foe.relay {
            Some(relay) => relay,
            None => {
                let relay = self.add_enemy(None);
                *self.foe.relay.insert(relay)
            }
        };
        self.foe.relay_to = to.filter(|to| *to != dev);
        self.misroute(dev, relay);
    }

    pub(super) fn misroute(&mut self, dev: Dev, to: Dev) {
        self.fault_dial(dev, 1, DialFault::Misrouted(to.0));
    }

    /// A message of an earlier stream comes in place of the same one of the next.
    pub(super) fn splice(&mut self, name: Name, side: Side, frame: u32, number: usize) {
        let frame = frame.max(1);
        let by_opener = side == Side::Opener;
        let of_stream = |stream: usize| {
            let own = self.tap.iter().filter(move |tapped| tapped.stream == stream && tapped.by_opener == by_opener);
            own.skip(usize::from(by_opener)).nth(frame as usize - 1)
        };
        let named = (0..self.streams.len()).rev().filter(|&stream| self.streams[stream].name == Some(name.stream()));
        let Some(bytes) = named.filter_map(of_stream).nth(number).map(|tapped| tapped.bytes.clone()) else { return };
        let material = self.material(&bytes);
        self.rule(Rule { name: name.stream(), side, at: At::Frame(frame), damage: Damage::Replace(material) });
    }

    /// The next Hello is answered with a notice of removal, which only who holds the root could make (UNP-5).
    pub(super) fn false_notice(&mut self) {
        let material = self.material(&frame(&Notice { mac: [7; 32] }.encode()));
        self.rule(Rule { name: StreamName::Link, side: Side::Answerer, at: At::Frame(1), damage: Damage::Replace(material) });
    }

    /// The header of the data stream that comes next in a session, which everybody could read, and noise behind it.
    pub(super) fn squat(&mut self, to: Dev, name: Name) {
        let header = |stream: usize| self.tap.iter().filter(|tapped| tapped.stream == stream && tapped.by_opener).nth(1);
        let data = |stream: &usize| matches!(self.streams[*stream].name, Some(StreamName::Data(_))) && self.device_of(*stream, 1) == to;
        // Streams of the other direction, if all are opened by this device.
        let other =
            |stream: &usize| matches!(self.streams[*stream].name, Some(StreamName::Data(_))) && self.device_of(*stream, 1).0 < self.honest;
        let newest = (0..self.streams.len()).rev().find(data).or_else(|| (0..self.streams.len()).rev().find(other));
        let Some((stream, tapped)) = newest.and_then(|stream| Some((stream, header(stream)?))) else { return };
        let to = self.device_of(stream, 1);
        let Some(header) = tapped.bytes.first_chunk::<34>() else { return };
        let mut bytes = header.to_vec();
        bytes[25] = bytes[25].wrapping_add(1);
        bytes.extend([0, 0, 0, 68, 2]);
        bytes.extend([7; 68]);
        self.foe.squatted = true;
        let stranger = self.stranger();
        let raw = self.strange(stranger, to, name.stream(), &bytes);
        self.mute(raw);
    }

    /// What an opener sent first on a data stream: its header, and more.
    fn data_header(&self, stream: usize) -> Option<&[u8]> {
        let mut sent = self.tap.iter().filter(|tapped| tapped.stream == stream && tapped.by_opener);
        sent.nth(1).map(|tapped| &tapped.bytes[..])
    }

    /// DATA-13: an honest stream is refused as soon as it comes, by a device that does not know its session.
    fn note_unknown(&mut self, stream: usize) {
        let (dev, opener) = (self.device_of(stream, 1), self.device_of(stream, 0));
        let session_ref = self.data_header(stream).and_then(|header| header.get(2..18)).and_then(|bytes| bytes.try_into().ok());
        let Some(session_ref) = session_ref.map(SessionRef).filter(|_| opener.0 < self.honest) else { return };
        let knows = |node: &Node| node.probe_sessions().iter().any(|session| session.session_ref == session_ref);
        if self.node_of(dev).is_some_and(|node| !knows(node)) {
            self.with_oracle(|oracle, _| oracle.on_unknown(dev, session_ref));
        }
    }

    /// L12: an honest stream, whose number somebody else may have named, is not refused as soon as it comes.
    pub(crate) fn on_refused(&mut self, stream: usize, end: usize, code: u32) {
        let slot = &self.streams[stream];
        let soon = self.now.saturating_sub(slot.pipes[0].last) < 1_000_000 && slot.pipes[0].frames <= 2;
        let data = matches!(slot.name, Some(StreamName::Data(_)));
        // What broke off in its header is no stream of any session.
        if data && soon && end == 1 && code == code::REFUSED && slot.pipes[0].newest > 0 && !slot.pipes[0].vanish {
            self.note_unknown(stream);
        }
        // Who was played to its device before it came itself is there twice (DATA-8).
        let honest = self.device_of(stream, 0).0 < self.honest && !self.foe.overtaken.contains(&stream);
        let squatted = end == 1 && self.foe.squatted && self.foe.steady && honest;
        let dev = self.device_of(stream, 1);
        if !(squatted && soon && data && code == code::REFUSED) {
            return;
        }
        let header = self.data_header(stream);
        let opener = self.key(self.device_of(stream, 0));
        // Nothing opens under a session that was replaced (LINK-15).
        let stands = |node: &Node| {
            node.probe_sessions().iter().any(|session| {
                session.primary && session.peer == opener && header.is_some_and(|header| header.get(2..18) == Some(&session.session_ref.0))
            })
        };
        // An honest device may itself have more under way than there is room for (DATA-14, LIM-4).
        let few = |node: &Node| node.probe_holdings().most_of_peer.0 <= limits::EARLY_STREAMS;
        let room = |node: &Node| {
            let held = node.probe_holdings();
            held.most_of_peer.2 < limits::BULK_STREAMS && held.most_of_peer.0 < limits::BULK_STREAMS
        };
        let few = self.node_of(self.device_of(stream, 0)).is_some_and(few);
        if self.node_of(dev).is_some_and(|node| few && stands(node) && room(node)) {
            self.with_oracle(|oracle, _| {
                oracle.broken("L12", || format!("device {} refuses the stream {stream} of an honest peer", dev.0))
            });
        }
    }

    /// Nothing may come back on this stream.
    pub(super) fn mute(&mut self, raw: Option<Raw>) {
        if let Some(raw) = raw {
            self.talk(raw, Lie::None, State::Over).refused = Some("S24");
        }
    }
}
