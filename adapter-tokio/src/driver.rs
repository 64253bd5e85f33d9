//! The one loop: it owns the [`Node`], tells it what happened, and does what it says.
//!
//! ```text
//! connections, streams, workers ─▶ Happened ─┐
//! the owner's calls ─────────────▶ Call ─────┼─▶ Node ─▶ Output ─▶ channels of connections, streams, workers
//! the next deadline ─────────────▶ Tick ─────┘                   ─▶ subscribers
//! ```
//!
//! The loop never waits for anything but its inputs; whatever may block has a task or a thread of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol_core::effects::Reply;
use protocol_core::effects::{BulkHalf, BulkReport, Cut, Env, Event, Fact, Input, Output, Remote};
use protocol_core::entropy::{Entropy, NoEntropy};
use protocol_core::faults::{Failure, code};
use protocol_core::ids::{ConnId, StreamId, Ticket};
use protocol_core::node::Node;
use protocol_core::records;
use protocol_core::session::rendezvous::Medium;
use protocol_core::time::Timestamp;
use protocol_core::wire::deframer::Frame;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, trace};

use self::links::{AnyTransport, Half, LONGEST, Links, Order, Read, Stream, Write};
use self::protocols::Protocols;
use self::records_thread::Records;
use self::transfers::Transfers;
use crate::lookup::Looking;
use crate::metrics::Metrics;
use crate::pipeline::receive::Receive;
use crate::pipeline::send::Send as SendJob;
use crate::service::events::Subscribers;

pub(crate) mod links;
pub(crate) mod protocols;
pub(crate) mod records_thread;
pub(crate) mod transfers;

/// Reports that may wait for the loop before tasks and workers have to.
const WAITING: usize = 256;
/// The longest sleep: the timer's clock stops while the machine sleeps, ours does not.
const NAP: Duration = Duration::from_secs(5);
/// How long what is published and sought holds at most.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
/// How long changes are gathered before it is said anew what is published and sought.
const GATHER: Duration = Duration::from_millis(50);
/// So many seconds the clock on the wall may drift from the other, or be slewed, between two looks.
const CLOCK_SET: u64 = 60;
/// A turn of the loop that takes so much longer than the longest sleep means that nobody was awake.
const OVERSLEPT: Duration = Duration::from_secs(2);
/// At the end: how long connections may take to say goodbye, and then tasks and workers to end.
const GOODBYE: Duration = Duration::from_secs(1);
/// … and how long transports, counted from the same moment.
const CLOSING: Duration = Duration::from_secs(5);

/// What a task or worker reports.
#[derive(Debug)]
pub(crate) enum Happened {
    ConnUp {
        conn: ConnId,
        dialed: Option<Ticket>,
        remote: Remote,
        orders: mpsc::UnboundedSender<Order>,
    },
    ConnDown {
        conn: ConnId,
    },
    /// It goes another way.
    ConnMoved {
        conn: ConnId,
        address: String,
    },
    StreamUp {
        stream: StreamId,
        opened: Option<Ticket>,
        handle: Box<Stream>,
    },
    Frame {
        stream: StreamId,
        frame: Frame,
    },
    /// The receiving half ended.
    ReadEnd {
        stream: StreamId,
        cut: Cut,
    },
    /// The sending half ended.
    WriteEnd {
        stream: StreamId,
        sent: bool,
    },
    /// The workers of a stream that received chunks are done.
    ChunksEnd {
        stream: StreamId,
        cut: Cut,
    },
    Drained {
        stream: StreamId,
    },
    Bulk {
        stream: StreamId,
        report: BulkReport,
    },
    /// A record did not open on a stream that an application has.
    Forged {
        stream: StreamId,
    },
    Done {
        ticket: Ticket,
        result: Result<Reply, Failure>,
    },
    /// We can be found elsewhere now.
    Moved,
    /// A lookup has found a record.
    Found {
        medium: Medium,
        id: Vec<u8>,
        record: Vec<u8>,
    },
}

/// An owner's call: it runs in the loop.
pub(crate) type Call = Box<dyn FnOnce(&mut Host) + Send>;

/// The system's random source.
struct System;

impl Entropy for System {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        getrandom::fill(bytes).map_err(|_| NoEntropy)
    }
}

/// A clock that goes on while the machine sleeps, where there is one.
pub(crate) fn now() -> Timestamp {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000);
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Both clocks in seconds: the one that nobody sets, and the one on the wall.
fn clocks() -> (u64, u64) {
    (now().as_micros() / 1_000_000, unix_s())
}

/// Whether the clock on the wall was set since `before`: it has not gone on as the other has.
fn was_set(before: (u64, u64), after: (u64, u64)) -> bool {
    let expected = before.1.saturating_add(after.0.saturating_sub(before.0));
    after.1.abs_diff(expected) > CLOCK_SET
}

/// Lends the host's clocks and randomness for one call of the Node.
pub(crate) fn with_env<T>(call: impl FnOnce(&mut Env<'_>) -> T) -> T {
    call(&mut Env { now: now(), unix_s: unix_s(), entropy: &mut System })
}

/// What the loop owns.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) transfers: Transfers,
    pub(crate) protocols: Protocols,
    pub(crate) subscribers: Subscribers,
    pub(crate) transports: Vec<Box<dyn AnyTransport>>,
    pub(crate) metrics: Metrics,
    /// What finds devices, as the owner wants it.
    lookups: Vec<Looking>,
    /// When it is to be asked what is published and sought.
    look_at: Instant,
    /// The clocks when that was asked last.
    looked: (u64, u64),
    links: Links,
    records: Records,
    conns: HashMap<ConnId, Conn>,
    /// Connections that there ever were.
    conns_had: usize,
    streams: HashMap<StreamId, Box<Stream>>,
    closing: bool,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("conns", &self.conns.len()).field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

struct Conn {
    orders: mpsc::UnboundedSender<Order>,
    one_stream: bool,
    /// The other side may not have read yet what we sent last. Whoever reads the last word of a connection closes it; the other waits.
    unread: bool,
}

/// The two ends of what tasks report.
pub(crate) fn channel() -> (Links, mpsc::Receiver<Happened>) {
    let (host, happened) = mpsc::channel(WAITING);
    (Links::new(host), happened)
}

impl Host {
    pub(crate) fn new(
        node: Node,
        transports: Vec<Box<dyn AnyTransport>>,
        records: Records,
        transfers: Transfers,
        subscribers: Subscribers,
        links: Links,
        lookups: Vec<Looking>,
    ) -> Self {
        Self {
            node,
            transfers,
            protocols: Protocols::default(),
            subscribers,
            transports,
            metrics: Metrics::default(),
            lookups,
            look_at: Instant::now(),
            looked: clocks(),
            links,
            records,
            conns: HashMap::new(),
            conns_had: 0,
            streams: HashMap::new(),
            closing: false,
        }
    }

    /// Runs until a call to [`Self::close`], or until nobody can call any more.
    pub(crate) async fn run(mut self, mut happened: mpsc::Receiver<Happened>, mut calls: mpsc::Receiver<Call>) {
        for transport in &self.transports {
            transport.listen(&self.links);
        }
        self.tell_local();
        self.handle(Input::Network(Fact::Searches(!self.lookups.is_empty())));
        self.write_snapshot();
        while !self.closing {
            let deadline = self.node.deadline();
            let (before, nap) = (now(), deadline.map(|deadline| deadline.at.since(now()).min(NAP)));
            let wake = Instant::now() + nap.unwrap_or(NAP);
            let wake = if self.lookups.is_empty() { wake } else { wake.min(self.look_at) };
            tokio::select! {
                Some(what) = happened.recv() => self.on(what),
                call = calls.recv() => match call {
                    Some(call) => {
                        call(&mut self);
                        self.perform();
                        self.look_soon();
                    }
                    None => self.close(),
                },
                () = sleep_until(wake) => self.tick(),
            }
            // HOST-23.
            if now().since(before) > NAP + OVERSLEPT {
                debug!("the machine has slept, or the process was stopped");
                self.handle(Input::Network(Fact::Awake));
                // It may be another hour.
                self.look_soon();
            }
        }
        drop(calls);
        self.end(happened).await;
    }

    fn tick(&mut self) {
        // Under which ids something is published goes by the clock on the wall.
        if self.look_at <= Instant::now() || (!self.lookups.is_empty() && was_set(self.looked, clocks())) {
            self.look();
        }
        if self.node.deadline().is_some_and(|deadline| deadline.at <= now()) {
            self.handle(Input::Tick);
        }
    }

    /// Something has changed after which other things may be published or sought.
    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(Instant::now() + GATHER);
    }

    /// Publishes and looks for what the Node says now.
    fn look(&mut self) {
        self.looked = clocks();
        let mut holds = LOOK_AGAIN;
        for lookup in &self.lookups {
            let discovery = with_env(|env| self.node.discovery(env, lookup.medium));
            holds = holds.min(discovery.holds);
            lookup.want(discovery);
        }
        self.look_at = Instant::now() + holds;
    }

    /// Says goodbye to every peer; the loop ends soon after.
    pub(crate) fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            with_env(|env| self.node.shutdown(env));
            self.perform();
        }
    }

    /// Lets goodbyes leave, then ends everything, and waits until it has ended.
    // HOST-14.
    async fn end(mut self, mut happened: mpsc::Receiver<Happened>) {
        for transport in &self.transports {
            transport.close(&self.links);
        }
        let until = Instant::now() + GOODBYE;
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.hang_up(conn, code::DONE));
        while !self.conns.is_empty()
            && let Ok(Some(what)) = timeout_at(until, happened.recv()).await
        {
            self.on(what);
        }
        for stream in self.streams.values() {
            stream.stopper.stop(code::DONE);
        }
        for conn in self.conns.values() {
            drop(conn.orders.send(Order::Close));
        }
        let Self { transports, links, records, transfers, subscribers, conns, streams, lookups, .. } = self;
        let silent = async {
            for lookup in lookups {
                lookup.close().await;
            }
        };
        drop((links, transfers, conns, streams));
        let saved = tokio::task::spawn_blocking(move || records.close());
        // Every task and worker holds a clone of the channel: it closes when the last of them has ended.
        let ended = async { while happened.recv().await.is_some() {} };
        let ended = async { tokio::join!(ended, silent) };
        if timeout_at(until + GOODBYE, ended).await.is_err() {
            debug!("some tasks or workers were still busy at the end");
        }
        drop(timeout_at(until + GOODBYE, saved).await);
        for transport in transports {
            if timeout_at(until + CLOSING, transport.shutdown()).await.is_err() {
                debug!(kind = %transport.kind(), "the transport was still busy at the end");
            }
        }
        subscribers.close();
    }

    /// Connections that are open, and that there ever were.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.conns.len(), self.conns_had)
    }

    /// Tells the Node where we can be found now.
    pub(crate) fn tell_local(&mut self) {
        let local = self.transports.iter().map(|transport| transport.local()).collect();
        self.handle(Input::Network(Fact::Local(local)));
        self.look_soon();
    }

    fn handle(&mut self, input: Input) {
        with_env(|env| self.node.handle(env, input));
        self.perform();
    }

    fn on(&mut self, what: Happened) {
        match what {
            Happened::ConnUp { conn, dialed, remote, orders } => {
                self.conns_had += 1;
                self.conns.insert(conn, Conn { orders, one_stream: remote.one_stream, unread: false });
                self.handle(Input::ConnUp { conn, dialed, remote });
            }
            Happened::ConnDown { conn } => {
                if self.conns.remove(&conn).is_some() {
                    self.drop_orphans(conn);
                    self.handle(Input::ConnDown { conn });
                }
            }
            Happened::StreamUp { stream, opened, handle } => {
                let conn = handle.conn;
                self.streams.insert(stream, handle);
                self.handle(Input::StreamUp { stream, conn, opened });
            }
            Happened::Frame { stream, frame } => {
                if self.streams.contains_key(&stream) {
                    self.handle(Input::Frame { stream, frame });
                }
            }
            Happened::ReadEnd { stream, cut } => self.on_read_end(stream, cut),
            Happened::WriteEnd { stream, sent } => self.on_write_end(stream, sent),
            Happened::ChunksEnd { stream, cut } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.working = None;
                }
                self.on_read_end(stream, cut);
            }
            Happened::Drained { stream } => {
                if self.streams.contains_key(&stream) {
                    self.handle(Input::Drained { stream });
                }
            }
            Happened::Bulk { stream, report } => {
                if self.streams.contains_key(&stream) {
                    self.handle(Input::Bulk { stream, report });
                }
            }
            Happened::Forged { stream } => self.handle(Input::Forged { stream }),
            Happened::Done { ticket, result } => self.handle(Input::Done { ticket, result }),
            Happened::ConnMoved { conn, address } => self.handle(Input::ConnMoved { conn, address }),
            Happened::Moved => self.tell_local(),
            Happened::Found { medium, id, record } => {
                with_env(|env| self.node.found(env, medium, &id, &record));
                self.perform();
            }
        }
    }

    /// The receiving half of a stream ended; with workers on the sending half the Node hears of it after their last report.
    fn on_read_end(&mut self, id: StreamId, cut: Cut) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.end.get_or_insert(cut);
        let conn = stream.conn;
        if let Some(conn) = self.conns.get_mut(&conn).filter(|_| cut == Cut::Finished) {
            conn.unread = false;
        }
        if cut != Cut::Finished && stream.working.is_some() {
            stream.stopper.stop(code::REFUSED);
        }
        self.settle(id);
    }

    fn on_write_end(&mut self, id: StreamId, sent: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.written = true;
        if stream.working == Some(Half::Sending) {
            stream.working = None;
        }
        if !sent {
            stream.end = Some(Cut::Broken);
        }
        self.settle(id);
    }

    /// A connection is gone. Of its streams that have ended for the Node, a half may still wait for its turn to end, and never has it.
    fn drop_orphans(&mut self, conn: ConnId) {
        self.streams.retain(|_, stream| {
            let orphan = stream.conn == conn && stream.told;
            if orphan {
                stream.stopper.stop(code::DONE);
            }
            !orphan
        });
    }

    /// Workers that received chunks are done: the stream has nothing left to say in either direction.
    fn settle(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(cut) = stream.end.filter(|_| stream.working.is_none()) else { return };
        if cut != Cut::Finished {
            let refused = if cut == Cut::Malformed { code::REFUSED } else { code::DONE };
            stream.stopper.stop(refused);
        }
        let told = std::mem::replace(&mut stream.told, true);
        let orphan = !self.conns.contains_key(&stream.conn);
        if orphan {
            stream.stopper.stop(code::DONE);
        }
        if cut != Cut::Finished || stream.written || orphan {
            self.streams.remove(&id);
        }
        if !told {
            self.handle(Input::StreamDown { stream: id, how: cut });
        }
    }

    /// Does what the Node says, until it says nothing more.
    pub(crate) fn perform(&mut self) {
        while let Some(output) = self.node.poll() {
            trace!(kind = kind(&output), "output");
            match output {
                Output::Dial { ticket, to } => self.dial(ticket, to),
                Output::Open { ticket, conn, name } => {
                    let asked = self.conns.get(&conn).is_some_and(|conn| conn.orders.send(Order::Open { ticket, name }).is_ok());
                    if !asked {
                        self.answer(ticket, Err(Failure::Gone));
                    }
                }
                Output::Hangup { conn, code } => self.hang_up(conn, code),
                Output::Send { stream, bytes } => self.send(stream, bytes),
                Output::Finish { stream } => self.finish(stream),
                Output::Reset { stream, code } => {
                    if let Some(stream) = self.streams.remove(&stream) {
                        stream.stopper.stop(code);
                    }
                }
                Output::Bulk { stream, half } => self.bulk(stream, half),
                Output::Protocol { stream, device, name, opened, sealer, opener } => {
                    self.protocol(stream, (device, name, opened), (sealer, opener));
                }
                Output::NotOpened { opened, error } => self.not_opened(opened, error),
                Output::Persist { ticket, batch } => {
                    let registry = batch.iter().any(|change| change.table == records::DEVICES);
                    self.records.persist(ticket, batch);
                    if registry {
                        self.write_snapshot();
                    }
                }
                Output::Files { ticket, transfer, entries, op } => {
                    let manifest = self.node.manifest(transfer);
                    let folder = self.node.policy(transfer.device).and_then(|policy| policy.folder);
                    self.transfers.files(&self.links, ticket, (transfer, manifest, folder), entries, op);
                }
                Output::Notify(event) => self.notify(event),
            }
        }
    }

    fn dial(&self, ticket: Ticket, to: protocol_core::info::Address) {
        match self.transports.iter().find(|transport| transport.kind() == to.kind) {
            Some(transport) => transport.dial(&self.links, ticket, to),
            None => self.answer(ticket, Err(Failure::Unsupported)),
        }
    }

    /// Answers a ticket at once, but as everything else: through the queue, so that no call of the Node is nested.
    fn answer(&self, ticket: Ticket, result: Result<Reply, Failure>) {
        let links = self.links.clone();
        tokio::spawn(async move { links.tell(Happened::Done { ticket, result }).await });
    }

    fn send(&mut self, id: StreamId, bytes: Vec<u8>) {
        let Some(stream) = self.streams.get(&id) else { return };
        let waiting = stream.queue.bytes.fetch_add(bytes.len(), Ordering::AcqRel) + bytes.len();
        stream.queue.armed.store(true, Ordering::Release);
        drop(stream.write.send(Write::Bytes(bytes)));
        if let Some(conn) = self.conns.get_mut(&stream.conn) {
            conn.unread = true;
        }
        if waiting > LONGEST {
            debug!(?id, waiting, "the remote does not read");
            self.on_read_end(id, Cut::Broken);
        }
    }

    fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id) {
            // A writer that is gone has told, or will tell, how it ended.
            drop(stream.write.send(Write::Finish));
            if let Some(conn) = self.conns.get_mut(&stream.conn) {
                conn.unread = true;
            }
        }
    }

    fn bulk(&mut self, id: StreamId, half: BulkHalf) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (working, started) = match half {
            BulkHalf::Seal { transfer, sealer, chunks } => {
                drop(stream.read.send(Read::End));
                let job = self.transfers.outgoing(transfer).map(|sources| SendJob { sources, sealer, chunks });
                (Half::Sending, job.is_some_and(|job| stream.write.send(Write::Chunks(job)).is_ok()))
            }
            BulkHalf::Open { transfer, opener, chunks } => {
                // This direction carries nothing.
                drop(stream.write.send(Write::Finish));
                let job = self.transfers.incoming(transfer).map(|target| Receive { target, opener, chunks });
                (Half::Receiving, job.is_some_and(|job| stream.read.send(Read::Chunks(job)).is_ok()))
            }
        };
        if started {
            stream.working = Some(working);
        } else {
            debug!(?id, "no files for this stream, or its task is gone");
            stream.end = Some(Cut::Broken);
            self.settle(id);
        }
    }

    fn hang_up(&self, id: ConnId, code: u32) {
        let Some(conn) = self.conns.get(&id) else { return };
        let mut streams = Vec::new();
        for stream in self.streams.values().filter(|stream| stream.conn == id) {
            drop(stream.write.send(Write::Finish));
            streams.push(stream.write.clone());
        }
        let linger = conn.unread || !streams.is_empty();
        debug!(conn = ?id, code, linger, one_stream = conn.one_stream, "hanging up");
        drop(conn.orders.send(Order::Hangup { code, streams, linger }));
    }

    fn notify(&mut self, event: Event) {
        let ended = match &event {
            Event::Done { transfer, .. } | Event::OfferDeclined { transfer, .. } => Some((*transfer, false)),
            Event::Failed { transfer, reason } => Some((*transfer, reason.keeps_files())),
            _ => None,
        };
        let registry = matches!(
            event,
            Event::Device { .. }
                | Event::Paired { .. }
                | Event::PairConfirmed { .. }
                | Event::Removed { .. }
                | Event::RemovedThere { .. }
                | Event::DeviceChanged { .. }
                | Event::ConnectFailed { .. }
                | Event::NotStored { .. }
        );
        if registry || matches!(event, Event::PairFailed { .. } | Event::PairUnfinished { .. } | Event::PairRequest { .. }) {
            self.look_soon();
        }
        self.metrics.on(now(), &event);
        self.subscribers.publish(event);
        if let Some((transfer, kept)) = ended {
            self.transfers.forget(transfer, kept);
        }
        if registry {
            self.write_snapshot();
        }
    }

    /// What read-only programs show while this one holds the home.
    fn write_snapshot(&self) {
        self.records.snapshot(crate::service::snapshot::encode(&self.node));
    }
}

/// Names an output in logs, without what is in it.
const fn kind(output: &Output) -> &'static str {
    match output {
        Output::Dial { .. } => "dial",
        Output::Open { .. } => "open",
        Output::Hangup { .. } => "hang up",
        Output::Send { .. } => "send",
        Output::Finish { .. } => "finish",
        Output::Reset { .. } => "reset",
        Output::Bulk { .. } => "bulk",
        Output::Protocol { .. } => "protocol",
        Output::NotOpened { .. } => "not opened",
        Output::Persist { .. } => "persist",
        Output::Files { .. } => "files",
        Output::Notify(_) => "notify",
    }
}

#[cfg(test)]
mod tests {
    use super::was_set;

    /// A machine without a clock of its own learns the time after it has begun.
    #[test]
    fn a_clock_that_is_set_is_noticed() {
        let before = (100, 1_700_000_000);
        for (after, set) in [
            ((105, 1_700_000_005), false),
            ((3_705, 1_700_003_600), false),
            ((105, 1_700_003_600), true),
            ((105, 1_600_000_000), true),
            ((105, 0), true),
        ] {
            assert_eq!(was_set(before, after), set, "{after:?}");
        }
    }
}
