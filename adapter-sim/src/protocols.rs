//! Applications of a world, which speak protocols of their own: who opens a stream says something and its end, who accepts one says
//! everything again, and then the end. God compares.

use std::collections::BTreeMap;

use protocol_core::effects::{Cut, Input};
use protocol_core::faults::OpenError;
use protocol_core::ids::{DeviceId, OpenId, StreamId};
use protocol_core::limits;
use protocol_core::node::Access;
use protocol_core::session::reader::{ReadError, RecordReader};
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::wire::deframer::Deframer;

use crate::link::Bulk;
use crate::oracle::Recorder;
use crate::trace::What;
use crate::world::{Act, Dev, World};

/// The protocols of every device. Nobody has the permission for the third; nobody speaks the fourth.
pub(crate) const CATALOGUE: [(&str, Option<Access>); 4] =
    [("echo/1", Some(Access::Paired)), ("log/1", Some(Access::Paired)), ("secret/1", Some(Access::Permitted)), ("nobody/1", None)];

/// What an application says on a stream that it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// So many bytes, in up to eight pieces.
    pub bytes: usize,
    /// What it waits between them, in milliseconds.
    pub millis: u64,
}

/// What became of a stream that an application wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wished {
    /// It is not open yet.
    Waits,
    /// It is open.
    Open,
    /// It does not come about.
    NotOpened(OpenError),
    /// Both sides have said all, and all has come back.
    Ended,
    /// It was cut, or reset.
    Cut,
}

/// A wish of an application.
#[derive(Clone, Debug)]
struct Wish {
    peer: Dev,
    name: &'static str,
    plan: Plan,
    state: Wished,
    place: Option<(usize, usize)>,
}

/// What an end of a stream has said and heard.
#[derive(Debug, Default)]
struct Said {
    name: String,
    said: Vec<u8>,
    fin: bool,
    heard: usize,
}

/// Everything that applications want and say.
#[derive(Debug, Default)]
pub(crate) struct Talks {
    wishes: BTreeMap<(Dev, u32, OpenId), Wish>,
    said: BTreeMap<(usize, usize), Said>,
}

/// An application's hold on an end of a stream.
#[derive(Debug)]
pub(crate) struct Talk {
    peer: DeviceId,
    wish: Option<OpenId>,
    sealer: RecordSealer,
    reader: RecordReader,
    /// What is still to be said, and how large a piece is.
    left: usize,
    piece: usize,
    millis: u64,
}

impl World {
    pub(crate) fn register_protocols(&mut self, dev: Dev) {
        let Some(node) = &mut self.devices[dev.0].node else { return };
        for (name, access) in CATALOGUE {
            if let Some(access) = access {
                node.register_protocol(name, access).expect("a new Node has no protocols");
            }
        }
    }

    /// An application opens a stream of a protocol of the catalogue, and says so much on it.
    ///
    /// # Errors
    /// The Node's.
    ///
    /// # Panics
    /// If the device does not run.
    pub fn open_protocol(&mut self, dev: Dev, peer: Dev, protocol: usize, plan: Plan) -> Result<OpenId, OpenError> {
        let (name, _) = CATALOGUE[protocol % CATALOGUE.len()];
        let (to, life) = (self.id(peer), self.life(dev));
        let wanted = self.ask(dev, |node, env| node.open_protocol(env, to, name));
        if let Ok(id) = wanted {
            // What comes of it may come at once.
            self.talks.wishes.insert((dev, life, id), Wish { peer, name, plan, state: Wished::Waits, place: None });
        }
        self.perform(dev);
        wanted
    }

    /// What became of a wish of a device's present life.
    pub fn wished(&self, dev: Dev, id: OpenId) -> Option<Wished> {
        let wish = self.talks.wishes.get(&(dev, self.life(dev), id))?;
        Some(if wish.state == Wished::Open && !self.is_talked_on(wish) { Wished::Cut } else { wish.state })
    }

    /// Whether an application still has the stream of a wish.
    fn is_talked_on(&self, wish: &Wish) -> bool {
        wish.place.is_some_and(|(stream, end)| matches!(self.streams[stream].ends[end].bulk, Bulk::Protocol(_)))
    }

    /// Applications open so many streams.
    pub(crate) fn speak(&mut self, (dev, peer): (Dev, Dev), protocol: usize, count: usize, plan: Plan) {
        for _ in 0..count {
            if self.is_up(dev) {
                // Who is not connected, or has many, gets none.
                let _refused = self.open_protocol(dev, peer, protocol, plan);
            }
        }
    }

    fn is_honest(&self, dev: Dev) -> bool {
        dev.0 < self.honest || self.honest == 0
    }

    /// A rule is broken. In a world of a test there is no oracle that would remember it.
    fn broken(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        assert!(self.oracle.is_some(), "{rule}: {}", what());
        self.with_oracle(|oracle, _| oracle.broken(rule, what));
    }

    pub(crate) fn not_opened(&mut self, dev: Dev, id: OpenId, error: OpenError) {
        let life = self.life(dev);
        match self.talks.wishes.get_mut(&(dev, life, id)).map(|wish| &mut wish.state) {
            Some(state @ Wished::Waits) => *state = Wished::NotOpened(error),
            _ => self.broken("S25", || format!("device {} hears twice of one wish, or of none", dev.0)),
        }
    }

    /// A stream is ready.
    pub(crate) fn protocol(
        &mut self,
        dev: Dev,
        id: StreamId,
        (peer, name, wish): (DeviceId, String, Option<OpenId>),
        (sealer, opener): (RecordSealer, RecordOpener),
    ) {
        let Some(&(stream, end)) = self.stream_ends.get(&id) else { return };
        self.note(dev, What::Step(format!("stream {stream} speaks {name}")));
        let plan = match wish {
            Some(wish) => self.check_opened(dev, (stream, end), (peer, &name, wish)),
            None => {
                self.check_accepted(dev, (stream, end), (peer, &name));
                Plan::default()
            }
        };
        self.talks.said.insert((stream, end), Said { name, ..Said::default() });
        let slot = &mut self.streams[stream].ends[end];
        let mut before = std::mem::replace(&mut slot.deframer, Deframer::accepting()).into_rest();
        before.append(&mut slot.held);
        let reader = RecordReader::new(opener, before);
        let talk = Talk { peer, wish, sealer, reader, left: plan.bytes, piece: plan.bytes.div_ceil(8).max(1), millis: plan.millis };
        slot.bulk = Bulk::Protocol(Box::new(talk));
        let ended = slot.ended.take().is_some();
        if wish.is_some() {
            self.after(plan.millis * 1_000, Act::Talk { stream, end });
        }
        self.listen(stream, end, &[]);
        if ended {
            self.arrived_end(stream, 1 - end);
        }
    }

    /// S36: what was wanted is open, and the other side has said yes to the same.
    fn check_opened(&mut self, dev: Dev, place: (usize, usize), (peer, name, id): (DeviceId, &str, OpenId)) -> Plan {
        let (life, other) = (self.life(dev), self.device_of(place.0, 1 - place.1));
        let theirs = self.talks.said.get(&(place.0, 1 - place.1)).map(|said| said.name.clone());
        let agreed = self.id(other) == peer && theirs.as_deref() == Some(name);
        let to_whom = self.dev_of_id(peer);
        let Some(wish) = self.talks.wishes.get_mut(&(dev, life, id)).filter(|wish| wish.state == Wished::Waits) else {
            self.broken("S25", || format!("device {} hears twice of one wish, or of none", dev.0));
            return Plan::default();
        };
        (wish.state, wish.place) = (Wished::Open, Some(place));
        let (plan, right) = (wish.plan, wish.name == name && to_whom == Some(wish.peer));
        // Somebody in between may pass everything on: then the other side of the stream says nothing.
        let agreed = agreed || !to_whom.is_some_and(|peer| self.is_honest(peer)) || !self.is_honest(other);
        if !(right && agreed) {
            self.broken("S36", || format!("device {} speaks {name} where the other side speaks {theirs:?}", dev.0));
        }
        plan
    }

    /// S37: only what is registered is spoken, and only by who may.
    fn check_accepted(&mut self, dev: Dev, (stream, end): (usize, usize), (peer, name): (DeviceId, &str)) {
        let registered = CATALOGUE.iter().any(|(known, access)| *known == name && *access == Some(Access::Paired));
        let there = self.device_of(stream, 1 - end);
        let wrong = self.is_honest(there) && !(self.id(there) == peer && self.has_session(dev, there));
        if !registered || wrong {
            self.broken("S37", || format!("device {} lets device {} speak {name}", dev.0, there.0));
        }
    }

    /// An application says its next piece, or the end.
    pub(crate) fn talk_on(&mut self, stream: usize, end: usize) {
        let Bulk::Protocol(talk) = &mut self.streams[stream].ends[end].bulk else { return };
        let len = talk.piece.min(talk.left);
        if len == 0 {
            return self.say_end(stream, end);
        }
        talk.left -= len;
        let (millis, from) = (talk.millis, talk.left);
        // Unlike what is said before, and on other streams.
        let text: Vec<u8> = (0..len).map(|at| ((from + at) * 31 + (from + at) / 251 + stream) as u8).collect();
        self.say_text(stream, end, &text);
        self.after(millis * 1_000, Act::Talk { stream, end });
    }

    fn say_text(&mut self, stream: usize, end: usize, text: &[u8]) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let Bulk::Protocol(talk) = &mut self.streams[stream].ends[end].bulk else { return };
        let records: Vec<Vec<u8>> =
            text.chunks(limits::RECORD_TEXT).filter_map(|text| talk.sealer.seal(RecordType::Data, text).ok()).collect();
        self.talks.said.entry((stream, end)).or_default().said.extend_from_slice(text);
        for record in records {
            self.send(stream, end, record);
        }
    }

    fn say_end(&mut self, stream: usize, end: usize) {
        let Some(dev) = self.owner(stream, end) else { return };
        Recorder::set_device(dev);
        let Bulk::Protocol(talk) = &mut self.streams[stream].ends[end].bulk else { return };
        let Ok(fin) = talk.sealer.seal(RecordType::Fin, &[]) else { return };
        self.talks.said.entry((stream, end)).or_default().fin = true;
        self.send(stream, end, fin);
        self.finish(stream, end);
        if let Some(how) = self.streams[stream].ends[end].ended.take() {
            self.down(stream, end, how);
        }
    }

    /// An application hears what has come.
    pub(crate) fn listen(&mut self, stream: usize, end: usize, mut bytes: &[u8]) {
        loop {
            let Some(dev) = self.owner(stream, end) else { return };
            Recorder::set_device(dev);
            let Bulk::Protocol(talk) = &mut self.streams[stream].ends[end].bulk else { return };
            let (peer, echoes) = (talk.peer, talk.wish.is_none());
            match talk.reader.next_text() {
                Ok(Some(text)) => {
                    self.check_text(dev, (stream, end), peer, &text);
                    if echoes {
                        self.say_text(stream, end, &text);
                    }
                }
                Err(error) => return self.misheard(stream, end, error),
                Ok(None) if bytes.is_empty() => {
                    let all = talk.reader.finished();
                    if all && echoes {
                        self.say_end(stream, end);
                    }
                    return;
                }
                Ok(None) => {
                    let space = talk.reader.space();
                    let len = space.len().min(bytes.len());
                    space[..len].copy_from_slice(&bytes[..len]);
                    talk.reader.filled(len);
                    bytes = &bytes[len..];
                }
            }
        }
    }

    fn misheard(&mut self, stream: usize, end: usize, error: ReadError) {
        let Some(dev) = self.owner(stream, end) else { return };
        let id = self.streams[stream].ends[end].id;
        self.note(dev, What::Malformed { stream, error: error.to_string() });
        if matches!(error, ReadError::Record(_)) {
            self.handle(dev, Input::Forged { stream: id });
        }
        self.give_up_talk(stream, end, Cut::Malformed);
    }

    /// An application's stream is no good: the host resets it, and tells the Node, unless that was faster.
    fn give_up_talk(&mut self, stream: usize, end: usize, how: Cut) {
        let Some(dev) = self.owner(stream, end) else { return };
        if !self.streams[stream].ends[end].down {
            let id = self.streams[stream].ends[end].id;
            self.reset(stream, end);
            self.handle(dev, Input::StreamDown { stream: id, how });
        }
    }

    /// S36: it is what the other side has said, in order. S37: and it comes while the two are in a session.
    fn check_text(&mut self, dev: Dev, (stream, end): (usize, usize), peer: DeviceId, text: &[u8]) {
        let other = self.device_of(stream, 1 - end);
        let heard = self.talks.said.get(&(stream, end)).map_or(0, |said| said.heard);
        let is = self.talks.said.get(&(stream, 1 - end)).and_then(|said| said.said.get(heard..heard + text.len()));
        let right = is == Some(text) || !self.is_honest(other);
        if !right {
            self.broken("S36", || format!("device {} hears what device {} has not said", dev.0, other.0));
        }
        if let Some(said) = self.talks.said.get_mut(&(stream, end)) {
            said.heard += text.len();
        }
        let there = self.dev_of_id(peer).is_some_and(|peer| self.has_session(dev, peer));
        if !there {
            self.broken("S37", || format!("device {} hears something from a device with which it has no session", dev.0));
        }
    }

    /// The peer has half-closed a stream. False: it is not over yet, or was no good and is over already.
    pub(crate) fn has_talked(&mut self, stream: usize, end: usize) -> bool {
        let (Some(dev), Bulk::Protocol(talk)) = (self.owner(stream, end), &self.streams[stream].ends[end].bulk) else { return true };
        if talk.reader.end().is_err() {
            // S9: a cut.
            self.give_up_talk(stream, end, Cut::Broken);
            return false;
        }
        let (wish, life, other) = (talk.wish, self.life(dev), self.device_of(stream, 1 - end));
        let own = self.talks.said.get(&(stream, end));
        let (heard, fin) = own.map_or((0, false), |said| (said.heard, said.fin));
        let all = self.talks.said.get(&(stream, 1 - end)).is_some_and(|said| said.fin && said.said.len() == heard);
        if !all && self.is_honest(other) {
            self.broken("S36", || format!("device {} reads an end where device {} has not ended", dev.0, other.0));
        }
        if !fin {
            self.streams[stream].ends[end].ended = Some(Cut::Finished);
            return false;
        }
        self.streams[stream].ends[end].bulk = Bulk::No;
        if let Some(wish) = wish.and_then(|wish| self.talks.wishes.get_mut(&(dev, life, wish))) {
            wish.state = Wished::Ended;
        }
        true
    }

    /// L15: no wish of a present life waits, and no talk is under way.
    pub(crate) fn check_wishes(&mut self) {
        let waits = |&(dev, life, id): &(Dev, u32, OpenId)| {
            let wished = (self.is_up(dev) && self.life(dev) == life).then(|| self.wished(dev, id)).flatten();
            wished.is_some_and(|wished| matches!(wished, Wished::Waits | Wished::Open))
        };
        if let Some(waiting) = self.talks.wishes.keys().copied().find(waits) {
            self.broken("L15", || format!("a wish for a stream never ended: {waiting:?}"));
        }
    }

    /// Whether anybody has spoken here.
    pub(crate) fn has_talks(&self) -> bool {
        !self.talks.wishes.is_empty()
    }
}
