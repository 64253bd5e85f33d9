//! What an enemy does on one stream: the steps of an honest device, and in one of them a lie.
//!
//! ```text
//! opened    Opening ─▶ Complete? ─▶ Reply ─▶ Control
//! accepted  Fresh ─▶ Third ─▶ Header ─▶ Control          Fresh ─▶ Relayed
//! ```

use std::collections::BTreeSet;

use protocol_core::ids::SessionId;
use protocol_core::pairing::code::CodeKeys;
use protocol_core::session::keys::StreamKey;
use protocol_core::session::record::{RecordOpener, RecordSealer, RecordType};
use protocol_core::session::stream::Opening;
use protocol_core::wire::control::{ControlMessage, ControlReader, Item};
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::handshake::{PairingRequest, frame};
use protocol_core::wire::header::{HEADER, Header, REPLY, StreamKind};

use super::hand::{Answerer, Done, Opener, Said, Shared};
use super::lie::Lie;
use super::session::Session;
use super::transfer::Trick;
use crate::link::Wire;
use crate::raw::Raw;
use crate::{Dev, World};

/// A stream that an enemy has an end of.
pub(super) struct Talk {
    /// The enemy, and the device at the other end in its life.
    pub(super) who: Dev,
    pub(super) peer: Dev,
    pub(super) life: u32,
    /// When it began.
    born: u64,
    pub(super) lie: Lie,
    /// Something was said that must be refused: nothing may come back, by this rule.
    pub(super) refused: Option<&'static str>,
    pub(super) heard: Vec<u8>,
    pub(super) state: State,
    /// The first message, to be sent again.
    first: Vec<u8>,
    /// How many more of the same kind follow when this one ended.
    pub(super) more: usize,
    /// About a code.
    pub(super) code: bool,
    /// It was answered with a Challenge.
    pub(super) challenged: bool,
    /// Which, if one was named.
    named: Option<SessionId>,
    /// The root of a reconnect.
    pub(super) root: Option<[u8; 32]>,
    /// The root that a pairing comes to, once our Response said so.
    agreed: Option<[u8; 32]>,
    /// What came and is to be answered, by session.
    answers: Vec<(usize, ControlMessage)>,
}

/// What is awaited.
#[derive(Default)]
pub(super) enum State {
    /// Nothing is done with what comes.
    #[default]
    Over,
    /// The preamble of somebody who opened.
    Fresh,
    /// The other end of what is passed on.
    Relayed(Raw),
    /// A first message, which goes back as it came.
    Echo,
    /// The answer to a first message.
    Opening(Box<Opener>),
    /// The initiator's last word.
    Complete(Box<Done>),
    /// The first message of somebody who opened a stream of this name.
    First(StreamName),
    Third(Box<Answerer>),
    /// The header of a control stream of this session, by number.
    Header(usize),
    /// The reply to our header.
    Reply(usize, Header, Box<RecordSealer>),
    Control(Box<Control>),
    /// A data stream of a session, by number, that the peer opened: its header.
    Data,
    /// What comes on such a stream behind its header.
    Opened(Header, Box<RecordOpener>),
    /// Chunks of a transfer, by number, behind so many other bytes.
    Chunks {
        deal: usize,
        skip: usize,
        seen: BTreeSet<u64>,
    },
}

/// A control stream that stands.
pub(super) struct Control {
    pub(super) session: usize,
    pub(super) sealer: Box<RecordSealer>,
    opener: RecordOpener,
    reader: ControlReader,
}

impl Control {
    fn new(session: usize, sealer: Box<RecordSealer>, key: &StreamKey) -> Self {
        Self { session, sealer, opener: RecordOpener::new(key), reader: ControlReader::new() }
    }
}

/// How the frame of a notice begins: its length, an array of two, its type.
const NOTICE: [u8; 6] = [0, 0, 0, 36, 0x82, 9];

impl World {
    /// An enemy begins to listen on its end of a stream.
    pub(super) fn talk(&mut self, raw: Raw, lie: Lie, state: State) -> &mut Talk {
        let (who, peer) = (self.device_of(raw.stream, raw.end), self.device_of(raw.stream, 1 - raw.end));
        let talk = Talk {
            who,
            peer,
            life: self.life(peer),
            born: self.now,
            lie,
            refused: None,
            heard: Vec::new(),
            state,
            first: Vec::new(),
            more: 0,
            code: false,
            challenged: false,
            named: None,
            root: None,
            agreed: None,
            answers: Vec::new(),
        };
        let at = (raw.stream, raw.end);
        // Numbers of streams never come again, so nothing is replaced but what an enemy has begun itself.
        self.foe.talks.remove(&at);
        self.foe.talks.entry(at).or_insert(talk)
    }

    /// An enemy opens a handshake.
    pub(super) fn open_handshake(&mut self, who: Dev, to: Dev, shared: Shared, lie: Lie, more: usize) -> Raw {
        let code = shared.is_code();
        let (named, root) = match &shared {
            Shared::Code(code) => (Some(code.session_id), None),
            Shared::Root { root, .. } => (None, Some(*root.bytes())),
        };
        let name = if code { StreamName::Pair } else { StreamName::Link };
        let raw = self.raw_open(who, to, name);
        let binding = self.binding(raw.stream, raw.end);
        let (opener, Said { bytes, refused }) = Opener::first(shared, binding, lie, &mut self.keys);
        self.raw_send(raw, &bytes);
        if code && matches!(lie, Lie::BadKem | Lie::LowOrder) {
            // The tag is right: this fails past it, and is never challenged.
            self.with_oracle(|oracle, _| oracle.on_unchallenged(to));
        }
        if lie == Lie::Huge {
            // Its first four bytes say enough.
            self.watch(raw, 1_000, "S23");
        }
        let talk = self.talk(raw, lie, State::Opening(Box::new(opener)));
        (talk.first, talk.more, talk.code, talk.named, talk.root) = (bytes, more, code, named, root);
        talk.refused = refused.then(|| lie.rule());
        raw
    }

    /// Bytes came to a device without a Node.
    pub(crate) fn enemy_hears(&mut self, stream: usize, end: usize, bytes: &[u8]) {
        let mut talk = match self.foe.talks.remove(&(stream, end)) {
            Some(talk) => talk,
            None if self.foe.is_enemy(self.device_of(stream, end)) => {
                self.talk(Raw { stream, end }, Lie::None, State::Fresh);
                let Some(talk) = self.foe.talks.remove(&(stream, end)) else { return };
                talk
            }
            None => return,
        };
        // Who names a pairing that is over is told so, once, whatever else is wrong with its Hello.
        let notice = talk.lie != Lie::Again && talk.heard.iter().chain(bytes).zip(NOTICE).all(|(byte, of)| *byte == of);
        if let Some(rule) = talk.refused.filter(|_| !notice)
            && talk.life == self.life(talk.peer)
        {
            let (peer, lie) = (talk.peer.0, talk.lie);
            self.with_oracle(|oracle, _| oracle.broken(rule, || format!("device {peer} answers what it has to refuse ({lie:?})")));
        }
        talk.heard.extend_from_slice(bytes);
        crate::oracle::Recorder::set_device(talk.who);
        while self.go_on(Raw { stream, end }, &mut talk).is_some() {}
        let answers = std::mem::take(&mut talk.answers);
        self.foe.talks.insert((stream, end), talk);
        for (session, message) in answers {
            let messages = self.told(session, &message);
            self.utter_in(session, &messages);
        }
    }

    /// The other side ended a stream.
    pub(crate) fn enemy_loses(&mut self, stream: usize, end: usize) {
        let Some(talk) = self.foe.talks.get_mut(&(stream, end)) else { return };
        let (more, who, to, lie) = (std::mem::take(&mut talk.more), talk.who, talk.peer, talk.lie);
        let state = std::mem::take(&mut talk.state);
        let failed = talk.refused.is_some() && talk.challenged;
        if let (true, Some(session)) = (talk.challenged, talk.named) {
            let tcp = self.conns[self.streams[stream].conn].wire == Wire::Tcp;
            self.spend(to, session, failed, tcp);
        }
        match state {
            State::Relayed(other) => self.raw_finish(other),
            State::Control(control) => self.foe.sessions[control.session].ended = Some(self.now),
            _ => {}
        }
        if more > 0 {
            self.join_as_holder(who, to, lie, more - 1);
        }
    }

    /// One step, if what was heard is enough for it.
    fn go_on(&mut self, raw: Raw, talk: &mut Talk) -> Option<()> {
        match std::mem::take(&mut talk.state) {
            State::Over => None,
            State::Fresh => self.begin(raw, talk),
            State::Relayed(other) => {
                let bytes = std::mem::take(&mut talk.heard);
                self.raw_send(other, &bytes);
                talk.state = State::Relayed(other);
                None
            }
            state @ (State::Echo | State::First(_) | State::Opening(_) | State::Third(_) | State::Complete(_)) => {
                let Some(body) = take_frame(&mut talk.heard) else {
                    talk.state = state;
                    return None;
                };
                self.on_frame(raw, talk, state, &body)
            }
            state @ (State::Reply(..) | State::Header(_) | State::Data) => self.on_head(raw, talk, state),
            State::Control(control) => self.on_control(talk, control),
            State::Opened(header, opener) => self.on_opening(raw, talk, header, opener),
            State::Chunks { deal, skip, seen } => self.on_chunks(talk, deal, skip, seen),
        }
    }

    /// Somebody opened a stream, and says for what.
    fn begin(&mut self, raw: Raw, talk: &mut Talk) -> Option<()> {
        let Some(name) = take_preamble(&mut talk.heard) else {
            talk.state = State::Fresh;
            return None;
        };
        let handshake = !matches!(name, StreamName::Data(_));
        talk.state = match (Some(talk.who) == self.foe.relay, self.foe.relay_to) {
            (true, Some(to)) => {
                let other = self.is_up(to).then(|| self.raw_open(talk.who, to, name))?;
                // Data streams are bound to sessions, handshakes to connections.
                self.talk(other, Lie::None, State::Relayed(raw)).refused = handshake.then_some("A2");
                State::Relayed(other)
            }
            (true, None) => State::Echo,
            (false, _) if handshake => State::First(name),
            (false, _) => State::Data,
        };
        Some(())
    }

    /// A message of a handshake came.
    fn on_frame(&mut self, raw: Raw, talk: &mut Talk, state: State, body: &[u8]) -> Option<()> {
        match state {
            State::Echo => {
                self.raw_send(raw, &frame(body));
                talk.refused = Some("A8");
            }
            State::First(name) => {
                talk.code = name == StreamName::Pair;
                talk.lie = self.foe.answers.get(&(talk.who, talk.code)).copied().unwrap_or_default();
                let (answerer, said) = self.answer(raw, talk, body)?;
                if talk.lie == Lie::HugeBox {
                    return self.announce(raw);
                }
                talk.state = State::Third(Box::new(answerer));
                self.say(raw, talk, said);
            }
            State::Opening(opener) => return self.on_answer(raw, talk, *opener, body),
            State::Third(answerer) => {
                let done = answerer.on_third(body)?;
                self.on_third(raw, talk, done);
            }
            State::Complete(done) => {
                (done.status(body) == Some(0)).then_some(())?;
                let session = self.learn(raw, &done, true, talk.root);
                let (bytes, header, sealer) = self.header(session, talk.lie)?;
                self.raw_send(raw, &bytes);
                if talk.lie == Lie::Refuse {
                    self.raw_finish(raw);
                    return None;
                }
                talk.state = State::Reply(session, header, Box::new(sealer));
            }
            _ => {}
        }
        Some(())
    }

    /// The fixed bytes at the beginning of a stream of a session.
    fn on_head(&mut self, raw: Raw, talk: &mut Talk, state: State) -> Option<()> {
        let len = if matches!(state, State::Reply(..)) { REPLY } else { HEADER };
        if talk.heard.len() < len {
            talk.state = state;
            return None;
        }
        let head: Vec<u8> = talk.heard.drain(..len).collect();
        if let State::Reply(session, header, sealer) = state {
            if let Some(root) = talk.agreed {
                self.foe.confirmed.entry(root).or_insert(self.now);
            }
            let key = StreamKey::of_answerer(&self.foe.sessions[session].theirs, &header, head.first_chunk()?);
            talk.state = State::Control(Box::new(Control::new(session, sealer, &key)));
            return Some(());
        }
        let header = Header::decode(head.first_chunk()?).ok()?;
        if let State::Header(session) = state {
            let Session { ours, theirs, .. } = &self.foe.sessions[session];
            let reply = self.keys.bytes::<REPLY>();
            let sealer = Box::new(RecordSealer::new(&StreamKey::of_answerer(ours, &header, &reply)));
            talk.state = State::Control(Box::new(Control::new(session, sealer, &StreamKey::of_opener(theirs, &header))));
            self.raw_send(raw, &reply);
            return Some(());
        }
        let session = self.foe.sessions.iter().find(|session| session.session_ref == header.session())?;
        let opener = RecordOpener::new(&StreamKey::of_opener(&session.theirs, &header));
        talk.state = State::Opened(header, Box::new(opener));
        Some(())
    }

    /// A record of a control stream.
    fn on_control(&mut self, talk: &mut Talk, mut control: Box<Control>) -> Option<()> {
        let record = take_record(&mut talk.heard);
        let opened = record.as_ref().map(|record| control.opener.open(record));
        if let Some(Ok((RecordType::Data, text))) = &opened {
            control.reader.push(text);
        }
        let session = control.session;
        let messages = control.reader.by_ref().filter_map(|item| if let Ok(Item::Message(message)) = item { Some(message) } else { None });
        talk.answers.extend(messages.map(|message| (session, message)));
        talk.state = State::Control(control);
        opened?.ok().map(|_| ())
    }

    /// The opening record of a data stream that the peer opened.
    fn on_opening(&mut self, raw: Raw, talk: &mut Talk, header: Header, mut opener: Box<RecordOpener>) -> Option<()> {
        let Some(record) = take_record(&mut talk.heard) else {
            talk.state = State::Opened(header, opener);
            return None;
        };
        let (_, text) = opener.open(&record).ok()?;
        let opening = Opening::decode(header.kind(), &text).ok()?;
        let (Opening::Manifest { transfer, .. } | Opening::Bulk { transfer, .. }) = opening else { return None };
        if self.foe.takes == Trick::Chatter && self.incoming_deal(transfer).is_some() {
            self.raw_send(raw, &[7; REPLY]);
            self.watch(raw, 1_000, "DATA-9");
        }
        if let (StreamKind::Bulk, Some(deal)) = (header.kind(), self.incoming_deal(transfer)) {
            talk.state = State::Chunks { deal, skip: 0, seen: BTreeSet::new() };
            return Some(());
        }
        let ours = self.foe.sessions.iter().find(|session| session.session_ref == header.session())?.ours.duplicate();
        self.serve_data(raw, header.kind(), transfer, |reply| StreamKey::of_answerer(&ours, &header, reply));
        None
    }

    /// Chunks of a transfer.
    fn on_chunks(&mut self, talk: &mut Talk, deal: usize, mut skip: usize, mut seen: BTreeSet<u64>) -> Option<()> {
        let skipped = skip.min(talk.heard.len());
        talk.heard.drain(..skipped);
        skip -= skipped;
        let (mut indices, mut twice) = (Vec::new(), false);
        while let Some(chunk) = (skip == 0).then(|| take_frame(&mut talk.heard)).flatten() {
            let index = u64::from_be_bytes(*chunk.first_chunk()?);
            twice |= !seen.insert(index);
            indices.push(index);
        }
        talk.state = State::Chunks { deal, skip, seen };
        if twice {
            let peer = talk.peer.0;
            self.with_oracle(|oracle, _| oracle.broken("N1", || format!("device {peer} sent a chunk twice on one stream")));
        }
        if let Some((session, messages)) = self.chunks_came(deal, &indices) {
            self.utter_in(session, &messages);
        }
        None
    }

    /// Says a message of a handshake, with what the lie adds.
    fn say(&mut self, raw: Raw, talk: &mut Talk, said: Said) {
        self.raw_send(raw, &said.bytes);
        match talk.lie {
            Lie::Twice => self.raw_send(raw, &said.bytes),
            Lie::Cut => self.reset(raw.stream, raw.end),
            Lie::Hasty => self.raw_send(raw, &[&64_u32.to_be_bytes()[..], &[7; 64]].concat()),
            _ => {}
        }
        if said.refused {
            talk.refused = Some(talk.lie.rule());
        } else if let Some(root) = talk.root {
            // An Accept, or a Finish.
            self.with_oracle(|oracle, _| oracle.on_root_used(&root));
        }
    }

    /// A second message is announced that is longer than any: whoever waits for it does not.
    fn announce(&mut self, raw: Raw) -> Option<()> {
        self.raw_send(raw, &65_536_u32.to_be_bytes());
        self.watch(raw, 1_000, "S23");
        None
    }

    /// The answer to a first message, if we know what it is about.
    fn answer(&mut self, raw: Raw, talk: &mut Talk, body: &[u8]) -> Option<(Answerer, Said)> {
        let binding = self.binding(raw.stream, raw.end);
        let me = self.me(talk.who, talk.peer);
        if talk.code {
            let session = PairingRequest::decode(body).ok()?.session_id;
            talk.named = Some(session);
            let code = self.codes.values().flatten().map(CodeKeys::derive).find(|code| code.session_id == session)?;
            return Answerer::answer(Shared::Code(code), &binding, body, &me, talk.lie, &mut self.keys);
        }
        let listener = self.key(talk.who);
        let roots = self.foe.roots.iter().rev().filter(|(who, ..)| *who == talk.who);
        let roots: Vec<_> = roots.map(|(_, peer, root)| (self.key(*peer), root.duplicate())).collect();
        roots.into_iter().find_map(|(dialer, root)| {
            talk.root = Some(*root.bytes());
            let shared = Shared::Root { root, dialer, listener };
            Answerer::answer(shared, &binding, body, &me, talk.lie, &mut self.keys)
        })
    }

    /// Challenge or Accept came.
    fn on_answer(&mut self, raw: Raw, talk: &mut Talk, opener: Opener, body: &[u8]) -> Option<()> {
        let me = self.me(talk.who, talk.peer);
        let (done, said) = opener.third(body, &me, talk.lie)?;
        if talk.code {
            self.count_challenges(talk.peer, raw);
            self.check_spent(talk.peer, talk.named);
            talk.challenged = talk.lie != Lie::Cut;
            if let Some(session) = talk.named.filter(|_| !said.refused && !matches!(talk.lie, Lie::Cut | Lie::Silence)) {
                self.foe.spent.insert((talk.peer, session), None);
            }
        }
        match talk.lie {
            Lie::Silence => {
                self.watch(raw, 31_000, "L1");
                return None;
            }
            Lie::HugeBox => return self.announce(raw),
            Lie::Hollow if !talk.code => {
                self.say(raw, talk, said);
                self.watch(raw, 11_000, "L1");
                return None;
            }
            Lie::Cut => {
                self.reset(raw.stream, raw.end);
                if let (true, Some(session)) = (talk.code, talk.named) {
                    self.spend(talk.peer, session, false, true);
                }
                if talk.more > 0 {
                    talk.more -= 1;
                    self.join_as_holder(talk.who, talk.peer, talk.lie, talk.more);
                }
                return None;
            }
            Lie::Again => {
                let name = if talk.code { StreamName::Pair } else { StreamName::Link };
                let again = self.raw_again(raw, talk.who, talk.peer, name);
                let first = talk.first.clone();
                self.raw_send(again, &first);
                self.talk(again, Lie::Again, State::Over).refused = Some(Lie::Again.rule());
            }
            _ => {}
        }
        if talk.code && talk.lie != Lie::Early {
            self.say(raw, talk, said);
            if let Some(root) = &done.root {
                talk.agreed = Some(*root.bytes());
                self.foe.roots.push((talk.who, talk.peer, root.duplicate()));
            }
            if talk.lie == Lie::Hollow {
                // Its user's time, and then the joiner's.
                self.watch(raw, 275_000, "L1");
                return None;
            }
            talk.state = State::Complete(Box::new(done));
            return Some(());
        }
        let session = self.learn(raw, &done, !talk.code, talk.root);
        let (bytes, header, sealer) = self.header(session, talk.lie)?;
        let all = Said { bytes: [said.bytes, bytes].concat(), refused: said.refused };
        self.say(raw, talk, all);
        // A device that has no room says so to the Response, before it sees what came too early.
        let room = self.node_of(talk.peer).is_some_and(|node| node.probe_holdings().devices < protocol_core::limits::DEVICES);
        if talk.code && room && self.pieces == crate::world::Pieces::Whole {
            talk.refused = Some(talk.lie.rule());
        }
        talk.state = State::Reply(session, header, Box::new(sealer));
        Some(())
    }

    /// Response or Finish came.
    fn on_third(&mut self, raw: Raw, talk: &mut Talk, done: Done) {
        if talk.code {
            let (joiner, key) = (talk.peer, self.key(talk.who));
            let born = talk.born;
            let refuses = done.root.as_ref().filter(|_| talk.lie == Lie::Refuse).map(|root| *root.bytes());
            if let Some(session) = talk.named {
                self.with_oracle(|oracle, _| oracle.on_response(joiner, (session, born), key, refuses));
            }
            if let Some(root) = &done.root {
                self.foe.roots.push((talk.who, talk.peer, root.duplicate()));
            }
            match talk.lie {
                Lie::Silence => return self.watch(raw, 151_000, "L1"),
                Lie::Refuse => self.raw_send(raw, &done.complete(1)),
                Lie::Status => self.raw_send(raw, &done.complete(9)),
                Lie::Twice => {
                    let complete = done.complete(0);
                    self.raw_send(raw, &[&complete[..], &complete].concat());
                }
                _ => self.raw_send(raw, &done.complete(0)),
            }
        }
        let session = self.learn(raw, &done, false, talk.root);
        talk.state = State::Header(session);
    }

    /// A second stream beside another, on its connection where it can carry two.
    fn raw_again(&mut self, raw: Raw, who: Dev, to: Dev, name: StreamName) -> Raw {
        let conn = self.streams[raw.stream].conn;
        if self.conns[conn].wire == Wire::Tcp { self.raw_open(who, to, name) } else { self.raw_open_beside(raw, name) }
    }

    /// A liar waits for chunks on a stream that it opened.
    pub(super) fn receive(&mut self, raw: Raw, deal: usize, skip: usize) {
        self.talk(raw, Lie::None, State::Chunks { deal, skip, seen: BTreeSet::new() });
    }
}

fn take_preamble(heard: &mut Vec<u8>) -> Option<StreamName> {
    let all = [StreamName::Pair, StreamName::Link, StreamName::Data(StreamKind::Bulk)];
    let name = all.into_iter().find(|name| heard.starts_with(&name.preamble()))?;
    heard.drain(..name.preamble().len());
    Some(name)
}

/// The body of the frame at the front, taken out.
fn take_frame(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = u32::from_be_bytes(*heard.first_chunk()?) as usize;
    let frame = heard.get(4..4 + len)?.to_vec();
    heard.drain(..4 + len);
    Some(frame)
}

/// The record at the front, taken out.
fn take_record(heard: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = u32::from_be_bytes(*heard.first_chunk()?) as usize;
    let record = heard.get(..5 + len)?.to_vec();
    heard.drain(..5 + len);
    Some(record)
}
