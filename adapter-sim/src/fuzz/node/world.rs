//! The Node, its host's side of every number, and the checks.
//!
//! After every call: a bounded number of outputs; no ticket twice; nothing is done to a stream or connection that the host does not
//! have, or said on a half that the Node has closed; after a tick the next deadline lies ahead. When the peers have fallen silent
//! and the host fails everything: every stream that a peer half-closed is over while its connection still stands, and after a
//! bounded number of ticks nothing is waited for, and every stream and connection was given back.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use protocol_core::bulk::cipher::RustCrypto;
use protocol_core::bulk::digest::Values;
use protocol_core::crypto::secret::{Secret, SecretBytes};
use protocol_core::effects::{
    BulkHalf, BulkReport, ChunkDone, Cut, Direction, EntryNote, Env, Event, Fact, Input, Output, Reply, TransferKey,
};
use protocol_core::faults::{Failure, FileFault};
use protocol_core::identity::device_id;
use protocol_core::ids::{ConnId, DeviceId, SessionId, SessionRef, StreamId, Ticket, TransferId};
use protocol_core::info::{Address, TransportKind};
use protocol_core::limits;
use protocol_core::node::{Config, Node};
use protocol_core::pairing::code::CodeKeys;
use protocol_core::pairing::{Confirm, PairingCode};
use protocol_core::records::Record;
use protocol_core::session::record::RecordType;
use protocol_core::session::stream::Opening;
use protocol_core::time::Timestamp;
use protocol_core::wire::deframer::{Deframer, StreamName};

use super::super::tape::{Counter, Tape};
use super::peer::{self, Hand, Peer};
use super::{files, incoming};

/// Outputs of one call at most.
const OUTPUTS: usize = 4096;
/// Times that every queue runs empty until all pages have left.
const DRAINS: usize = 16;
/// Ticks until nothing is waited for any more.
const TICKS: usize = 2000;
const EPOCH: u64 = 1_800_000_000;

/// A stream as the host has it.
struct Wire {
    conn: ConnId,
    deframer: Deframer,
    /// What the Node opened it for, if it did.
    opened: Option<StreamName>,
    /// What the Node sent and the peer did not use yet.
    heard: Vec<u8>,
    hand: Hand,
    bulk: Option<BulkHalf>,
    /// The peer half-closed it: nothing more comes, what the Node says still leaves.
    ended: bool,
    /// The Node half-closed it, or workers have its sending half and will.
    finished: bool,
}

/// What a ticket is for.
enum Wish {
    Dial(Address),
    Open(ConnId, StreamName),
    Persist,
    Files(std::ops::Range<u32>),
}

pub(super) struct World {
    node: Node,
    entropy: Counter,
    now: Timestamp,
    conns: BTreeMap<ConnId, TransportKind>,
    streams: BTreeMap<StreamId, Wire>,
    tickets: BTreeMap<Ticket, Wish>,
    last_ticket: Ticket,
    last_id: u64,
    /// Connections that the Node closed; their ends are still to be told.
    closed: Vec<ConnId>,
    pairings: Vec<SessionId>,
    pub(super) transfers: Vec<TransferKey>,
    peer: Peer,
    /// The row of the paired peer, as it was written last.
    row: Option<(Vec<u8>, Vec<u8>)>,
    /// Pairings that could begin.
    pub(super) begun: usize,
    /// Pairings and transfers that came to a good end.
    pub(super) paired: usize,
    pub(super) done: usize,
    /// Bytes that the Node sent, and streams that it reset.
    pub(super) sent: usize,
    pub(super) resets: usize,
}

/// Row and root of a pair that was made once.
static PAIR: OnceLock<(Vec<u8>, Vec<u8>, [u8; 32])> = OnceLock::new();

impl World {
    /// A Node that is paired with the peer.
    pub(super) fn paired() -> Self {
        let (key, value, root) = PAIR.get_or_init(|| {
            let mut world = Self::new(None, Secret::new([0; 32]));
            world.invite(Confirm::Automatic);
            world.connect_from(0, 0);
            world.pair(0);
            let mut nothing = Tape::new(&[]);
            for _ in 0..4 {
                world.answer_all(None, &mut nothing);
                if let Some(stream) = world.stream(0) {
                    world.honest(stream);
                }
            }
            let (key, value) = world.row.expect("two honest devices pair");
            (key, value, *world.peer.root.bytes())
        });
        let row = Record { table: protocol_core::records::DEVICES, key: key.clone(), value: SecretBytes::new(value.clone()) };
        let world = Self::new(Some(row), Secret::new(*root));
        assert_eq!(world.node.devices().len(), 1, "the pair is known after a restart");
        world
    }

    fn new(row: Option<Record>, root: Secret) -> Self {
        let config = Config { name: "node".into(), os: "linux".into(), app: "kin".into(), bulk_aes: true, cipher: Arc::new(RustCrypto) };
        let mut entropy = Counter(0);
        let now = Timestamp::from_micros(1);
        let node = Node::restore(config, peer::identity_of_node(), &mut env(now, &mut entropy), row).expect("this source never fails");
        let mut world = Self {
            node,
            entropy,
            now,
            conns: BTreeMap::new(),
            streams: BTreeMap::new(),
            tickets: BTreeMap::new(),
            last_ticket: Ticket(0),
            last_id: 0,
            closed: Vec::new(),
            pairings: Vec::new(),
            transfers: Vec::new(),
            peer: Peer::new(root),
            row: None,
            begun: 0,
            paired: 0,
            done: 0,
            sent: 0,
            resets: 0,
        };
        world.network(0);
        world
    }

    pub(super) fn device(&self) -> DeviceId {
        device_id(&self.peer.public())
    }

    // What the tape names: the newest has number 0.

    pub(super) fn stream(&self, number: u8) -> Option<StreamId> {
        newest(self.streams.keys(), number)
    }

    pub(super) fn ticket(&self, number: u8) -> Option<Ticket> {
        newest(self.tickets.keys(), number)
    }

    pub(super) fn pairing(&self, number: u8) -> Option<SessionId> {
        newest(self.pairings.iter(), number)
    }

    pub(super) fn transfer(&self, number: u8) -> Option<TransferKey> {
        newest(self.transfers.iter(), number)
    }

    /// A transfer of the wire: one of the peer's, or one of the Node's.
    pub(super) fn named(&self, about: u8) -> TransferId {
        let ours = self.transfers.iter().filter(|key| key.direction == Direction::Outgoing).map(|key| &key.id);
        let outgoing = if about < 128 { None } else { newest(ours, about) };
        outgoing.unwrap_or(incoming(self.device(), about).id)
    }

    // What goes in.

    /// What comes of it is the owner's to know.
    pub(super) fn command<T>(&mut self, call: impl FnOnce(&mut Node, &mut Env<'_>) -> T) {
        self.ask(call);
    }

    pub(super) fn ask<T>(&mut self, call: impl FnOnce(&mut Node, &mut Env<'_>) -> T) -> T {
        let answer = call(&mut self.node, &mut env(self.now, &mut self.entropy));
        self.drain();
        answer
    }

    fn handle(&mut self, input: Input) {
        self.ask(|node, env| node.handle(env, input));
    }

    pub(super) fn tick(&mut self, choice: u8) {
        const MICROS: [u64; 14] = [
            0,
            1,
            1_000,
            500_000,
            1_000_000,
            5_000_000,
            11_000_000,
            16_000_000,
            31_000_000,
            61_000_000,
            121_000_000,
            601_000_000,
            3_001_000_000,
            90_000_000_000,
        ];
        let now = self.now.as_micros();
        let due = self.node.deadline().map_or(now, |deadline| deadline.at.as_micros());
        let to = match usize::from(choice % 16) {
            14 => due.max(now),
            15 => due.saturating_sub(1).max(now),
            jump => now + MICROS[jump],
        };
        self.tick_at(Timestamp::from_micros(to));
    }

    fn tick_at(&mut self, now: Timestamp) {
        self.now = now;
        self.handle(Input::Tick);
        let deadline = self.node.deadline();
        assert!(deadline.is_none_or(|deadline| deadline.at > now), "{now:?}: {deadline:?} is due, and its tick was had");
    }

    pub(super) fn network(&mut self, choice: u8) {
        self.handle(Input::Network(Fact::Local(super::transports(choice))));
    }

    const fn fresh(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn connect_from(&mut self, kind: u8, source: u8) {
        let kind = match kind % 8 {
            0..4 => TransportKind::Sim,
            4..6 => TransportKind::Tcp,
            6 => TransportKind::Iroh,
            _ => TransportKind::Other("smoke".into()),
        };
        self.connection_up(kind, None, source);
    }

    fn connection_up(&mut self, kind: TransportKind, dialed: Option<Ticket>, source: u8) {
        let conn = ConnId(self.fresh());
        let remote = peer::remote(&kind, source);
        self.conns.insert(conn, kind);
        self.handle(Input::ConnUp { conn, dialed, remote });
    }

    pub(super) fn open_from(&mut self, conn: u8) -> Option<StreamId> {
        let conn = newest(self.conns.keys(), conn)?;
        Some(self.stream_up(conn, None, None))
    }

    fn stream_up(&mut self, conn: ConnId, ticket: Option<Ticket>, opened: Option<StreamName>) -> StreamId {
        let stream = StreamId(self.fresh());
        let deframer = opened.map_or_else(Deframer::accepting, Deframer::opening);
        let wire = Wire { conn, deframer, opened, heard: Vec::new(), hand: Hand::Idle, bulk: None, ended: false, finished: false };
        self.streams.insert(stream, wire);
        self.handle(Input::StreamUp { stream, conn, opened: ticket });
        stream
    }

    /// Bytes arrive on a stream, through its deframer.
    pub(super) fn feed(&mut self, stream: StreamId, mut bytes: &[u8]) {
        while let Some(wire) = self.streams.get_mut(&stream).filter(|wire| !wire.ended) {
            let space = wire.deframer.space();
            let count = space.len().min(bytes.len());
            if count == 0 {
                return;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            wire.deframer.filled(count);
            while let Some(frame) = self.streams.get_mut(&stream).and_then(|wire| wire.deframer.next()) {
                match frame {
                    Ok(frame) => self.handle(Input::Frame { stream, frame }),
                    Err(_) => self.stream_down(stream, Cut::Malformed),
                }
            }
        }
    }

    pub(super) fn stream_down(&mut self, stream: StreamId, how: Cut) {
        let Some(wire) = self.streams.get_mut(&stream) else { return };
        let told = std::mem::replace(&mut wire.ended, true);
        if how != Cut::Finished || wire.finished {
            self.streams.remove(&stream);
        }
        if !told {
            self.handle(Input::StreamDown { stream, how });
        }
    }

    pub(super) fn connection_down(&mut self, conn: u8) {
        if let Some(conn) = newest(self.conns.keys(), conn) {
            self.end_connection(conn);
        }
    }

    fn end_connection(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        let streams: Vec<StreamId> = self.streams.iter().filter(|(_, wire)| wire.conn == conn).map(|(&stream, _)| stream).collect();
        for stream in streams {
            self.stream_down(stream, Cut::Broken);
        }
        self.handle(Input::ConnDown { conn });
    }

    pub(super) fn drained(&mut self, stream: u8) {
        if let Some(stream) = self.stream(stream) {
            self.handle(Input::Drained { stream });
        }
    }

    /// What a host that keeps its contract never says.
    pub(super) fn confused(&mut self, choice: u8) {
        let number = self.last_id + 100 + u64::from(choice);
        let (stream, conn, ticket) = (StreamId(number), ConnId(number), Ticket(u64::MAX - number));
        match choice % 8 {
            0 => self.handle(Input::Done { ticket, result: Ok(Reply::Persisted) }),
            1 => self.handle(Input::Done { ticket, result: Err(Failure::Gone) }),
            2 => self.handle(Input::StreamDown { stream, how: Cut::Broken }),
            3 => self.handle(Input::ConnDown { conn }),
            4 => self.handle(Input::Drained { stream }),
            5 => self.handle(Input::Bulk { stream, report: BulkReport::default() }),
            6 => {
                // Time never goes back for the Node.
                let now = self.now;
                self.now = Timestamp::from_micros(0);
                self.handle(Input::Tick);
                self.now = now;
            }
            _ => {
                self.conns.insert(conn, TransportKind::Sim);
                self.last_id = number;
                self.handle(Input::ConnUp { conn, dialed: Some(ticket), remote: peer::remote(&TransportKind::Sim, 0) });
            }
        }
    }

    // Tickets.

    pub(super) fn answer(&mut self, ticket: Ticket, failure: Option<Failure>, tape: &mut Tape<'_>) {
        let Some(wish) = self.tickets.remove(&ticket) else { return };
        let result = match (wish, failure) {
            (_, Some(failure)) => Err(failure),
            (Wish::Dial(to), None) => return self.connection_up(to.kind, Some(ticket), 0),
            (Wish::Open(conn, name), None) if self.conns.contains_key(&conn) => {
                self.stream_up(conn, Some(ticket), Some(name));
                return;
            }
            (Wish::Open(..), None) => Err(Failure::Gone),
            (Wish::Persist, None) => Ok(Reply::Persisted),
            (Wish::Files(entries), None) => Ok(Reply::Files(notes(entries, tape))),
        };
        self.handle(Input::Done { ticket, result });
    }

    pub(super) fn answer_all(&mut self, failure: Option<Failure>, tape: &mut Tape<'_>) {
        let all: Vec<Ticket> = self.tickets.keys().copied().collect();
        for ticket in all {
            self.answer(ticket, failure, tape);
        }
    }

    // The peer.

    pub(super) fn invite(&mut self, confirm: Confirm) {
        let invite = self.ask(|node, env| node.start_pairing_as_initiator(env, Duration::from_secs(600), confirm));
        if let Ok(invite) = invite {
            self.peer.code = Some(CodeKeys::derive(&invite.code));
            self.begin_pairing(invite.session);
        }
    }

    pub(super) fn join(&mut self, confirm: Confirm) {
        let code = PairingCode::generate(&mut Counter(self.last_id << 40)).expect("this source never fails");
        let addresses = [TransportKind::Sim, TransportKind::Tcp].map(|kind| Address { kind, text: "there:2".into() });
        let session = self.ask(|node, env| node.start_pairing_as_joiner(env, &code, &addresses, confirm));
        if let Ok(session) = session {
            self.peer.code = Some(CodeKeys::derive(&code));
            self.begin_pairing(session);
        }
    }

    fn begin_pairing(&mut self, session: SessionId) {
        self.pairings.push(session);
        self.begun += 1;
    }

    pub(super) fn link(&mut self, conn: u8) {
        let Some(conn) = newest(self.conns.keys(), conn) else { return };
        let (hand, frame) = self.peer.hello(&self.conns[&conn]);
        self.begin(conn, StreamName::Link, hand, &frame);
    }

    pub(super) fn pair(&mut self, conn: u8) {
        let Some(conn) = newest(self.conns.keys(), conn) else { return };
        let Some((hand, frame)) = self.peer.request(&self.conns[&conn]) else { return };
        self.begin(conn, StreamName::Pair, hand, &frame);
    }

    /// The peer opens a stream and sends its first bytes.
    fn begin(&mut self, conn: ConnId, name: StreamName, hand: Hand, bytes: &[u8]) {
        let stream = self.stream_up(conn, None, None);
        if let Some(wire) = self.streams.get_mut(&stream) {
            wire.hand = hand;
            self.feed(stream, &[&name.preamble(), bytes].concat());
        }
    }

    pub(super) fn honest(&mut self, stream: StreamId) {
        let Some(wire) = self.streams.get_mut(&stream) else { return };
        let Some(kind) = self.conns.get(&wire.conn) else { return };
        let (hand, bytes) = self.peer.step(std::mem::take(&mut wire.hand), &mut wire.heard, kind, wire.opened);
        wire.hand = hand;
        self.feed(stream, &bytes);
    }

    /// Seals on a stream on which the peer can: the newest such is number 0.
    pub(super) fn seal(&mut self, number: u8, kind: RecordType, text: &[u8]) {
        let sealing = self.streams.iter().filter(|(_, wire)| matches!(wire.hand, Hand::Control(..) | Hand::Data(_)));
        let Some(stream) = newest(sealing.map(|(stream, _)| stream), number) else { return };
        self.seal_on(stream, kind, text);
    }

    /// Seals on a control stream.
    pub(super) fn tell(&mut self, number: u8, text: &[u8]) {
        let control = self.streams.iter().filter(|(_, wire)| matches!(wire.hand, Hand::Control(..)));
        if let Some(stream) = newest(control.map(|(stream, _)| stream), number) {
            self.seal_on(stream, RecordType::Data, text);
        }
    }

    fn seal_on(&mut self, stream: StreamId, kind: RecordType, text: &[u8]) {
        let sealed = match self.streams.get_mut(&stream).map(|wire| &mut wire.hand) {
            Some(Hand::Control(_, sealer) | Hand::Data(sealer)) => sealer.seal(kind, text),
            _ => return,
        };
        if let Ok(record) = sealed {
            self.feed(stream, &record);
        }
    }

    pub(super) fn open_data(&mut self, session: u8, pages: bool, about: u8) {
        let control = |(stream, wire): (&StreamId, &Wire)| match wire.hand {
            Hand::Control(session, _) => Some((*stream, session)),
            _ => None,
        };
        let sessions: Vec<(StreamId, SessionRef)> = self.streams.iter().filter_map(control).collect();
        let Some((stream, session)) = newest(sessions.iter(), session) else { return };
        let (transfer, manifest_digest) = (self.named(about), *files::manifest(about / 4).digest());
        let opening = if pages { Opening::Manifest { transfer, manifest_digest } } else { Opening::Bulk { transfer, manifest_digest } };
        let mut conn = self.streams[&stream].conn;
        let kind = self.conns.get(&conn).cloned().unwrap_or(TransportKind::Sim);
        if kind == TransportKind::Tcp {
            self.connection_up(kind, None, 0);
            conn = ConnId(self.last_id);
        }
        let Some((hand, bytes)) = self.peer.open_data(session, &opening) else { return };
        if self.conns.contains_key(&conn) {
            self.begin(conn, StreamName::Data(opening.kind()), hand, &bytes);
        }
    }

    pub(super) fn send_pages(&mut self, number: u8, manifest: u8) {
        let data = self.streams.iter().filter(|(_, wire)| matches!(wire.hand, Hand::Data(_)));
        let Some(stream) = newest(data.map(|(stream, _)| stream), number) else { return };
        for page in files::manifest(manifest).pages() {
            self.seal_on(stream, RecordType::Data, page);
        }
        self.seal_on(stream, RecordType::Fin, &[]);
    }

    /// The workers of a bulk stream do what they can and report.
    pub(super) fn work(&mut self, number: u8, wrong: u8) {
        let bulk = self.streams.iter().filter(|(_, wire)| wire.bulk.is_some()).map(|(stream, _)| stream);
        let Some(stream) = newest(bulk, number) else { return };
        let Some(half) = self.streams.get_mut(&stream).and_then(|wire| wire.bulk.as_mut()) else { return };
        let mut report = BulkReport::default();
        let done = |index, chunks: &protocol_core::bulk::chunks::Chunks| ChunkDone {
            index,
            values: chunks.layout().pieces(index).map(|piece| files::piece_value(&piece)).collect(),
        };
        match half {
            BulkHalf::Seal { sealer, chunks, .. } => {
                for claim in sealer.next(8).into_iter().flatten() {
                    report.chunks.push(done(claim.index(), chunks));
                    claim.finish();
                }
            }
            BulkHalf::Open { chunks, .. } => {
                for index in 0..chunks.layout().chunks().min(64) {
                    let len = chunks.layout().chunk_len(index).unwrap_or(0);
                    if let Some(claim) = chunks.take(index, len) {
                        report.chunks.push(done(index, chunks));
                        claim.finish();
                    }
                }
            }
        }
        match wrong {
            1 => report.forged = 1,
            2 => report.unwanted = 3,
            3 => report.failed.push((0, FileFault::DiskFull)),
            4 => report.failed.push((1, FileFault::Changed)),
            5 => report.chunks.iter_mut().for_each(|done| done.values = Values::new()),
            6 => report.chunks.push(ChunkDone { index: u64::MAX, values: Values::new() }),
            7 => report.failed.push((u32::MAX, FileFault::Digest)),
            _ => {}
        }
        self.handle(Input::Bulk { stream, report });
    }

    // What comes out.

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.node.poll() {
            count += 1;
            assert!(count <= OUTPUTS, "one call gave more than {OUTPUTS} outputs");
            self.perform(output);
        }
        while let Some(conn) = self.closed.pop() {
            self.end_connection(conn);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Dial { ticket, to } => self.wish(ticket, Wish::Dial(to)),
            Output::Open { ticket, conn, name } => self.wish(ticket, Wish::Open(conn, name)),
            Output::Persist { ticket, batch } => {
                for change in batch {
                    self.row = change.value.map(|value| (change.key, value.bytes().to_vec()));
                }
                self.wish(ticket, Wish::Persist);
            }
            Output::Files { ticket, entries, .. } => {
                assert!(entries.start <= entries.end);
                self.wish(ticket, Wish::Files(entries));
            }
            Output::Hangup { conn, .. } => {
                if self.conns.contains_key(&conn) && !self.closed.contains(&conn) {
                    self.closed.push(conn);
                }
            }
            Output::Send { stream, bytes } => {
                assert!(!bytes.is_empty());
                let wire = self.streams.get_mut(&stream).unwrap_or_else(|| panic!("sent on {stream:?}, which is gone"));
                assert!(!wire.finished, "sent on {stream:?} behind its end");
                self.sent += bytes.len();
                wire.heard.extend(bytes);
            }
            Output::Finish { stream } => {
                let wire = self.streams.get_mut(&stream).unwrap_or_else(|| panic!("finished {stream:?}, which is gone"));
                wire.finished = true;
                self.close_if_over(stream);
            }
            Output::Reset { stream, .. } => self.resets += usize::from(self.streams.remove(&stream).is_some()),
            Output::Bulk { stream, half } => {
                let wire = self.streams.get_mut(&stream).unwrap_or_else(|| panic!("chunks on {stream:?}, which is gone"));
                assert!(wire.bulk.replace(half).is_none(), "a stream is handed over once");
                wire.finished = true;
                self.close_if_over(stream);
            }
            Output::Protocol { .. } | Output::NotOpened { .. } => unreachable!("nobody registers a protocol here, or wants one"),
            Output::Notify(event) => self.on_event(event),
        }
    }

    /// A stream that both sides have half-closed is over.
    fn close_if_over(&mut self, stream: StreamId) {
        if self.streams.get(&stream).is_some_and(|wire| wire.ended && wire.finished) {
            self.streams.remove(&stream);
        }
    }

    fn wish(&mut self, ticket: Ticket, wish: Wish) {
        assert!(ticket > self.last_ticket, "{ticket:?} again");
        self.last_ticket = ticket;
        self.tickets.insert(ticket, wish);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Offered { transfer, .. } => self.transfers.push(transfer),
            Event::Done { transfer, .. } | Event::Failed { transfer, .. } => {
                self.done += usize::from(matches!(event, Event::Done { .. }));
                self.transfers.retain(|key| *key != transfer);
            }
            Event::Paired { .. } => self.paired += 1,
            Event::PairFailed { session, .. } => self.pairings.retain(|pairing| *pairing != session),
            _ => {}
        }
    }

    /// Streams that the host has.
    #[cfg(test)]
    pub(super) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Dials that the host has not answered.
    #[cfg(test)]
    pub(super) fn dials(&self) -> usize {
        self.tickets.values().filter(|wish| matches!(wish, Wish::Dial(_))).count()
    }

    /// Streams to be opened that the host has not answered.
    #[cfg(test)]
    pub(super) fn opens(&self) -> usize {
        self.tickets.values().filter(|wish| matches!(wish, Wish::Open(..))).count()
    }

    /// Connections that the host has.
    #[cfg(test)]
    pub(super) fn open_connections(&self) -> usize {
        self.conns.len()
    }

    /// No peer says anything any more, and whatever the host is asked for but writes fails: every wait ends.
    pub(super) fn fall_silent(mut self) {
        self.check_half_closed();
        let mut nothing = Tape::new(&[]);
        for _ in 0..TICKS {
            // What must be written is tried until it is.
            let all: Vec<(Ticket, bool)> = self.tickets.iter().map(|(ticket, wish)| (*ticket, matches!(wish, Wish::Persist))).collect();
            for (ticket, write) in all {
                self.answer(ticket, (!write).then_some(Failure::Gone), &mut nothing);
            }
            match self.node.deadline() {
                Some(deadline) => self.tick_at(deadline.at.max(self.now)),
                None if self.tickets.is_empty() => return self.check_silence(),
                None => {}
            }
        }
        panic!("still waiting: {:?}", self.node.deadline());
    }

    /// What a peer half-closed is over as soon as the Node has said what it had to say, which is before the session is. (That
    /// would close the connection, and hide what was forgotten.)
    fn check_half_closed(&mut self) {
        self.answer_all(Some(Failure::Gone), &mut Tape::new(&[]));
        for _ in 0..DRAINS {
            let all: Vec<StreamId> = self.streams.keys().copied().collect();
            all.into_iter().for_each(|stream| self.handle(Input::Drained { stream }));
        }
        self.tick_at(self.now + limits::UNPROVED_WAIT);
        let half: Vec<_> = self.left(|wire| wire.ended);
        assert!(half.is_empty(), "the peer half-closed these streams, and the Node did nothing: {half:?}");
    }

    fn check_silence(&self) {
        let left = self.left(|_| true);
        assert!(left.is_empty(), "nobody waits for these streams, and nobody ended them: {left:?}");
        assert!(self.conns.is_empty(), "nothing is on these connections, and nobody closed them: {:?}", self.conns);
    }

    fn left(&self, which: impl Fn(&Wire) -> bool) -> Vec<(StreamId, Option<StreamName>, &Hand)> {
        self.streams.iter().filter(|(_, wire)| which(wire)).map(|(&stream, wire)| (stream, wire.opened, &wire.hand)).collect()
    }
}

fn env(now: Timestamp, entropy: &mut Counter) -> Env<'_> {
    Env { now, unix_s: EPOCH + now.as_micros() / 1_000_000, entropy }
}

/// The one with this number, counted from the newest.
fn newest<'t, T: Copy + 't>(all: impl Iterator<Item = &'t T>, number: u8) -> Option<T> {
    let all: Vec<T> = all.copied().collect();
    let back = usize::from(number) % all.len().max(1);
    all.len().checked_sub(1 + back).map(|at| all[at])
}

/// What a host says of some of these entries.
fn notes(entries: std::ops::Range<u32>, tape: &mut Tape<'_>) -> Vec<(u32, EntryNote)> {
    let note = |tape: &mut Tape<'_>| match tape.byte() % 5 {
        0 => EntryNote::Conflict,
        1 => EntryNote::Skipped,
        2 => EntryNote::Renamed(b"another".to_vec()),
        3 => EntryNote::Failed(FileFault::DiskFull),
        _ => EntryNote::Failed(FileFault::Denied),
    };
    let count = tape.byte() % 3;
    (0..count).map(|_| (entries.start + u32::from(tape.byte()) % (entries.end - entries.start).max(1), note(tape))).collect()
}
