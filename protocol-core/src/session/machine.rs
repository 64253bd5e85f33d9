//! One live session: its control stream, its keys, its numbers (PROTOCOL.md, sections 9.1 to 9.3).
//!
//! ```text
//! opener:     open ─▶ Live (sends at once, hears after the reply)
//! answerer:   Awaited ─header─▶ Awaited ─opening record = Ack─▶ Live (sends its reply)
//! both:       Live ─end─▶ Ending (fin sent) ─peer's fin, cut or 5 s─▶ gone
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::keys::{StreamKey, Traffic};
use super::record::{RecordError, RecordOpener, RecordSealer, RecordType};
use super::stream::{Opening, Refusal};
use super::window::ReplayWindow;
use crate::bulk::cipher::Aead;
use crate::effects::{Cut, Event, Remote, Route};
use crate::entropy::{NoEntropy, random};
use crate::faults::LinkFailure;
use crate::ids::{ConnId, DeviceId, PeerKey, SessionRef, StreamId};
use crate::info::Address;
use crate::limits;
use crate::outbox::Cx;
use crate::time::Timestamp;
use crate::timers::TimerKind;
use crate::wire::control::{ControlMessage, ControlReader, Item};
use crate::wire::header::{Header, REPLY, StreamKind};

/// What a handshake left behind: everything a session needs but its control stream's opening.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) device: DeviceId,
    pub(crate) peer: PeerKey,
    pub(crate) session_ref: SessionRef,
    /// The root that it rests on.
    pub(crate) root: SessionRef,
    /// When its handshake came so far that the dialling side may have opened it: a Response, a Finish.
    pub(crate) begun: Timestamp,
    pub(crate) traffic: Traffic,
    pub(crate) aead: Aead,
    pub(crate) conn: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) remote: Remote,
    /// The address that we dialled, if we did.
    pub(crate) reached: Option<Address>,
}

/// The answering side of a control stream, before its opening record verified.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) proven: Proven,
    header: Option<Header>,
    /// The confirmation of a joiner's root is being written: what arrives meanwhile waits.
    pub(crate) storing: bool,
    /// The opening record, and what a dialler sends directly behind it.
    pub(crate) held: Vec<Vec<u8>>,
    /// The root of the reconnect that it comes from: it will be there soon if at all.
    pub(crate) link: Option<SessionRef>,
}

/// What an opening record said.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The session stands.
    Session(alloc::boxed::Box<Session>),
    /// The joiner's user, policy or disk said no.
    Refused(PeerKey, SessionRef, Refusal),
}

impl Awaited {
    pub(crate) fn new(proven: Proven) -> Self {
        Self { proven, header: None, storing: false, held: Vec::new(), link: None }
    }

    /// The header. False: it belongs to another session, or is the second.
    pub(crate) fn on_header(&mut self, header: Header) -> bool {
        let right = self.header.is_none() && header.kind() == StreamKind::Control && header.session() == self.proven.session_ref;
        if right {
            self.header = Some(header);
        }
        right
    }

    /// The opening record. Sends the reply if it is an Ack. `None`: it is not what it must be.
    pub(crate) fn on_record(self, cx: &mut Cx<'_>, record: &[u8]) -> Option<Opened> {
        let proven = self.proven;
        let header = self.header?;
        let mut input = RecordOpener::new(&proven.traffic.open_as_answerer(&header));
        let (kind, text) = input.open(record).ok()?;
        if kind != RecordType::Opening {
            return None;
        }
        match Opening::decode(StreamKind::Control, &text).ok()? {
            Opening::Ack => {
                let reply: [u8; REPLY] = random(cx.entropy).ok()?;
                let out = RecordSealer::new(&proven.traffic.seal_as_answerer(&header, &reply));
                cx.send(proven.stream, reply.to_vec());
                Some(Opened::Session(alloc::boxed::Box::new(Session::new(cx, proven, false, out, Input::Open(input)))))
            }
            Opening::Refuse(why) => Some(Opened::Refused(proven.peer, proven.session_ref, why)),
            Opening::Manifest { .. } | Opening::Bulk { .. } | Opening::Custom { .. } => None,
        }
    }
}

/// Opens the control stream with a Refuse instead of an Ack, and half-closes it (section 9.2).
pub(crate) fn refuse(cx: &mut Cx<'_>, proven: &Proven, why: Refusal) {
    let Ok(header) = control_header(cx, proven.session_ref) else {
        cx.reset(proven.stream, crate::faults::code::REFUSED);
        return;
    };
    let mut out = RecordSealer::new(&proven.traffic.seal_as_opener(&header));
    let mut bytes = header.encode().to_vec();
    match out.seal(RecordType::Opening, &Opening::Refuse(why).encode()) {
        Ok(record) => bytes.extend(record),
        Err(_) => unreachable!("invariant: the first record of a stream is within every limit"),
    }
    cx.send(proven.stream, bytes);
    cx.finish(proven.stream);
}

fn control_header(cx: &mut Cx<'_>, session_ref: SessionRef) -> Result<Header, NoEntropy> {
    Ok(Header::new(StreamKind::Control, session_ref, 0, random(cx.entropy)?).expect("invariant: the control stream is number 0"))
}

/// What the incoming direction of a control stream waits for.
#[derive(Debug)]
enum Input {
    Reply(Header),
    Open(RecordOpener),
    Ended,
}

/// Why a stream or session must end: the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// What came on a control stream.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Messages for other machines, in order.
    Messages(Vec<ControlMessage>),
    /// The peer ended the session.
    Fin,
}

/// A live session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) device: DeviceId,
    pub(crate) peer: PeerKey,
    pub(crate) session_ref: SessionRef,
    /// The root that it rests on.
    pub(crate) root: SessionRef,
    /// The names under which that root numbers our messages, and theirs.
    pub(crate) names: ([u8; 16], [u8; 16]),
    pub(crate) conn: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) remote: Remote,
    pub(crate) reached: Option<Address>,
    pub(crate) aead: Aead,
    /// We opened its control stream: joiner or dialler.
    pub(crate) we_opened: bool,
    /// When its handshake came so far that it could be opened.
    pub(crate) begun: Timestamp,
    /// Since when; streams end with it.
    pub(crate) born: Timestamp,
    /// Since when both sides have it, as far as this one knows.
    pub(crate) stood: Option<Timestamp>,
    /// Its control stream is over: nothing is told any more, data streams go on.
    pub(crate) ending: bool,
    /// Our owner has ended it.
    pub(crate) left: bool,
    /// It crossed with another, which went on.
    pub(crate) passed_over: bool,
    /// It may have crossed with the primary one: whether the peer goes on with it is not known yet.
    pub(crate) in_question: bool,
    /// Something was said on it meanwhile that does not count.
    pub(crate) skipped: bool,
    /// Whether what was told on it counted is not known.
    pub(crate) unsure: bool,
    /// Something was told on it that counts.
    pub(crate) told: bool,
    /// The session that this one replaces, while that is still heard out; what comes here waits until it is over.
    pub(crate) waits_for: Option<SessionRef>,
    /// Records that wait.
    pub(crate) held: Vec<Vec<u8>>,
    /// How its stream ended behind them.
    pub(crate) cut: Option<Cut>,
    /// When a faster path than its own came to nothing.
    pub(crate) slow: Option<Timestamp>,
    /// Data goes such a path, as the owner knows.
    pub(crate) faster: bool,
    /// The root that the peer's first record confirms.
    pub(crate) confirms: Option<SessionRef>,
    traffic: Traffic,
    out: RecordSealer,
    input: Input,
    reader: ControlReader,
    window: ReplayWindow,
    last_number: u64,
    heard: Timestamp,
    /// When a sign of life was asked for, and nothing was heard since.
    pinged: Option<Timestamp>,
    /// Questions of ours that wait for their answer: the nonce, when it left, and whether the owner asked.
    asked: VecDeque<(u64, Timestamp, bool)>,
    last_nonce: u64,
    /// How long a question and its answer took together, last.
    pub(crate) rtt: Option<Duration>,
    forgeries: u32,
}

impl Session {
    /// Opens the control stream: header and Ack. `before` leaves in the same write, first (the Finish of a reconnect).
    pub(crate) fn open(cx: &mut Cx<'_>, proven: Proven, mut before: Vec<u8>) -> Result<Self, NoEntropy> {
        let header = control_header(cx, proven.session_ref)?;
        let mut out = RecordSealer::new(&proven.traffic.seal_as_opener(&header));
        before.extend(header.encode());
        before.extend(out.seal(RecordType::Opening, &Opening::Ack.encode()).expect("invariant: a first record is within every limit"));
        cx.send(proven.stream, before);
        Ok(Self::new(cx, proven, true, out, Input::Reply(header)))
    }

    fn new(cx: &mut Cx<'_>, proven: Proven, we_opened: bool, out: RecordSealer, input: Input) -> Self {
        let Proven { device, peer, session_ref, root, begun, traffic, aead, conn, stream, remote, reached } = proven;
        cx.set(TimerKind::Idle(session_ref), limits::BUSY_PING);
        cx.set(TimerKind::Age(session_ref), if we_opened { limits::SESSION_RENEW } else { limits::SESSION_LIFE_GRACE });
        Self {
            device,
            peer,
            session_ref,
            root,
            names: ([0; 16], [0; 16]),
            conn,
            stream,
            remote,
            reached,
            aead,
            we_opened,
            begun,
            born: cx.now,
            stood: (!we_opened).then_some(cx.now),
            ending: false,
            left: false,
            passed_over: false,
            in_question: false,
            skipped: false,
            unsure: false,
            told: false,
            waits_for: None,
            slow: None,
            faster: false,
            held: Vec::new(),
            cut: None,
            confirms: None,
            traffic,
            out,
            input,
            reader: ControlReader::new(),
            window: ReplayWindow::new(),
            last_number: 0,
            heard: cx.now,
            pinged: None,
            asked: VecDeque::new(),
            last_nonce: cx.now.as_micros(),
            rtt: None,
            forgeries: 0,
        }
    }

    /// `primary`: it is the one that its device is spoken with.
    #[cfg(feature = "testing")]
    pub(crate) const fn probe_state(&self, primary: bool) -> &'static str {
        match (self.ending, primary, self.waits_for, self.is_answered()) {
            _ if self.in_question => "In question",
            (true, _, Some(_), _) => "Ending, waits",
            (true, _, None, _) => "Ending",
            (false, false, Some(_), _) => "Replaced, waits",
            (false, false, None, _) => "Replaced",
            (false, true, Some(_), _) => "Succeeding",
            (false, true, None, false) => "Unanswered",
            (false, true, None, true) => "Live",
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_traffic(&self) -> [crate::probe::Print; 2] {
        self.traffic.probe()
    }

    /// The peer has shown that the session stands there too.
    pub(crate) const fn is_answered(&self) -> bool {
        !matches!(self.input, Input::Reply(_))
    }

    /// How it travels.
    pub(crate) fn route(&self) -> Route {
        Route { transport: self.remote.kind.clone(), address: self.remote.address.clone() }
    }

    /// The answering side's reply.
    pub(crate) fn on_reply(&mut self, now: Timestamp, reply: &[u8; REPLY]) -> Result<(), Violation> {
        match core::mem::replace(&mut self.input, Input::Ended) {
            Input::Reply(header) => {
                self.input = Input::Open(RecordOpener::new(&self.traffic.open_as_opener(&header, reply)));
                self.stood = Some(now);
                self.heard = now;
                Ok(())
            }
            Input::Open(_) | Input::Ended => Err(Violation),
        }
    }

    /// A record. Pings are answered here.
    pub(crate) fn on_record(&mut self, cx: &mut Cx<'_>, record: &[u8]) -> Result<Heard, Violation> {
        let Input::Open(input) = &mut self.input else { return Err(Violation) };
        let (kind, text) = input.open(record).map_err(|_: RecordError| Violation)?;
        self.heard = cx.now;
        if self.pinged.take().is_some() {
            // The timer counted from the question.
            cx.timers.set_at_latest(TimerKind::Idle(self.session_ref), cx.now, limits::BUSY_PING);
        }
        match kind {
            RecordType::Opening => Err(Violation),
            RecordType::Fin => {
                self.input = Input::Ended;
                if self.reader.is_whole() { Ok(Heard::Fin) } else { Err(Violation) }
            }
            RecordType::Data => {
                self.reader.push(&text);
                let mut messages = Vec::new();
                while let Some(item) = self.reader.next().filter(|item| item.is_ok() || !planted!(MalformedIgnored)) {
                    match item.map_err(|_| Violation)? {
                        Item::Message(ControlMessage::Ping { .. }) if planted!(PingUnanswered) => {}
                        Item::Message(ControlMessage::Ping { nonce }) => self.tell(cx, &ControlMessage::Pong { nonce }),
                        Item::Message(ControlMessage::Pong { nonce }) => self.on_pong(cx, nonce),
                        Item::Unknown => {}
                        Item::Message(message) => messages.push(message),
                    }
                }
                Ok(Heard::Messages(messages))
            }
        }
    }

    /// Sends a message. Nothing is sent once the session is ending.
    pub(crate) fn tell(&mut self, cx: &mut Cx<'_>, message: &ControlMessage) {
        if self.ending {
            return;
        }
        for text in message.encode().chunks(limits::RECORD_TEXT) {
            match self.out.seal(RecordType::Data, text) {
                Ok(record) => cx.send(self.stream, record),
                // 2^32 records or 2^36 bytes in an hour: the session is renewed long before.
                Err(_) => self.ending = true,
            }
        }
    }

    /// Sends fin and half-closes. What the peer still says is heard until its own fin.
    pub(crate) fn end(&mut self, cx: &mut Cx<'_>) {
        if self.ending {
            return;
        }
        if let Ok(fin) = self.out.seal(RecordType::Fin, &[])
            && !planted!(FinUnsent)
        {
            cx.send(self.stream, fin);
        }
        cx.finish(self.stream);
        self.retire(cx);
    }

    /// The control stream is over: secrets go after a minute, streams that are open have keys of their own.
    pub(crate) fn retire(&mut self, cx: &mut Cx<'_>) {
        self.ending = true;
        cx.timers.cancel(TimerKind::Idle(self.session_ref));
        cx.timers.cancel(TimerKind::Age(self.session_ref));
        if !planted!(SecretsKept) {
            cx.set(TimerKind::Erase(self.session_ref), limits::SESSION_ERASE);
        }
    }

    /// The silence timer: pings, or says that the session is dead.
    // LINK-14.
    pub(crate) fn on_idle(&mut self, cx: &mut Cx<'_>, busy: bool) -> Option<LinkFailure> {
        let (ping, dead) = if busy { (limits::BUSY_PING, limits::BUSY_DEAD) } else { (limits::IDLE_PING, limits::IDLE_DEAD) };
        if self.pinged.is_none() && cx.now.since(self.heard) >= ping {
            self.ping(cx);
        }
        // The peer has its time to answer, however long it was quiet before it was asked.
        let left = match self.pinged {
            Some(_) if planted!(DeadPeerUnnoticed) => ping,
            Some(asked) => dead.saturating_sub(ping).saturating_sub(cx.now.since(asked)),
            None => ping.saturating_sub(cx.now.since(self.heard)),
        };
        if left.is_zero() {
            return Some(LinkFailure::Silent);
        }
        cx.set(TimerKind::Idle(self.session_ref), left);
        None
    }

    /// Asks for a sign of life.
    pub(crate) fn ping(&mut self, cx: &mut Cx<'_>) {
        self.ask(cx, false);
    }

    /// The same; if the owner asks he hears how long it took.
    pub(crate) fn ask(&mut self, cx: &mut Cx<'_>, by_owner: bool) {
        self.pinged = Some(cx.now);
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        if self.asked.len() >= limits::PINGS {
            self.asked.pop_front();
        }
        self.asked.push_back((nonce, cx.now, by_owner));
        self.tell(cx, &ControlMessage::Ping { nonce });
        cx.set(TimerKind::Idle(self.session_ref), limits::BUSY_PING);
    }

    /// An answer: to a question of ours, or it says nothing.
    fn on_pong(&mut self, cx: &mut Cx<'_>, nonce: u64) {
        let Some(at) = self.asked.iter().position(|(asked, ..)| *asked == nonce) else { return };
        let Some((_, since, by_owner)) = self.asked.drain(..=at).next_back() else { return };
        let rtt = cx.now.since(since);
        self.rtt = Some(rtt);
        if by_owner {
            cx.notify(Event::Pong { device: self.device, rtt });
        }
    }

    /// Opens a data stream: the bytes to send first, and both directions' beginnings.
    pub(crate) fn open_data(&mut self, cx: &mut Cx<'_>, opening: &Opening) -> Option<OpenedData> {
        // LINK-16.
        if (cx.now.since(self.born) >= limits::SESSION_LIFE && !planted!(SessionLifeUnlimited))
            || self.last_number + 1 >= limits::STREAM_COUNTER
        {
            return None;
        }
        self.last_number += 1;
        let header = Header::new(opening.kind(), self.session_ref, self.last_number, random(cx.entropy).ok()?).ok()?;
        let key = self.traffic.seal_as_opener(&header);
        let mut out = RecordSealer::new(&key);
        let mut bytes = header.encode().to_vec();
        bytes.extend(out.seal(RecordType::Opening, &opening.encode()).ok()?);
        Some(OpenedData { bytes, header, out, chunks: key })
    }

    /// The answering side's key of a data stream that we opened.
    pub(crate) fn replied(&self, header: &Header, reply: &[u8; REPLY]) -> (RecordOpener, StreamKey) {
        let key = self.traffic.open_as_opener(header, reply);
        (RecordOpener::new(&key), key)
    }

    /// The opening record of a data stream that the peer opened: proved, and its number entered in the window.
    pub(crate) fn accept_data(&mut self, now: Timestamp, header: &Header, record: &[u8]) -> Result<AcceptedData, Violation> {
        if now.since(self.born) >= limits::SESSION_LIFE_GRACE && !planted!(SessionLifeUnlimited) {
            return Err(Violation);
        }
        if !self.window.takes(header.counter()) && !planted!(ReplayWindowIgnored) {
            return Err(Violation);
        }
        let key = self.traffic.open_as_answerer(header);
        let mut input = RecordOpener::new(&key);
        let entered = planted!(WindowBeforeProof) && self.window.enter(header.counter());
        let (kind, text) = input.open(record).map_err(|_| Violation)?;
        if kind != RecordType::Opening || !(entered || self.window.enter(header.counter()) || planted!(ReplayWindowIgnored)) {
            return Err(Violation);
        }
        let opening = Opening::decode(header.kind(), &text).map_err(|_| Violation)?;
        Ok(AcceptedData { opening, input, chunks: key })
    }

    /// Our reply on a data stream that the peer opened, and our direction's beginnings.
    pub(crate) fn reply(&self, cx: &mut Cx<'_>, header: &Header) -> Option<([u8; REPLY], RecordSealer, StreamKey)> {
        let reply = random(cx.entropy).ok()?;
        let key = self.traffic.seal_as_answerer(header, &reply);
        Some((reply, RecordSealer::new(&key), key))
    }

    /// Counts a forgery on a proved stream; true if the session has had enough.
    // DATA-11.
    pub(crate) fn count_forgery(&mut self) -> bool {
        self.forgeries += 1;
        self.forgeries >= limits::SESSION_FORGERIES && !planted!(ForgeriesTolerated)
    }
}

/// A data stream that we opened.
#[derive(Debug)]
pub(crate) struct OpenedData {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: Header,
    pub(crate) out: RecordSealer,
    pub(crate) chunks: StreamKey,
}

/// A data stream that the peer opened.
#[derive(Debug)]
pub(crate) struct AcceptedData {
    pub(crate) opening: Opening,
    pub(crate) input: RecordOpener,
    pub(crate) chunks: StreamKey,
}
