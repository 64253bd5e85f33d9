//! All that crosses the boundary between the core and a host: what happened ([`Input`]), what to do ([`Output`]), what the
//! owner is told ([`Event`]).
//!
//! `Input` and `Output` are exhaustive: a new effect must break every host at compile time. Events may grow.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use crate::bulk::chunks::Chunks;
use crate::bulk::digest::Values;
use crate::bulk::opener::Opener;
use crate::bulk::sealer::Sealer;
use crate::entropy::Entropy;
use crate::faults::{Failure, FileFault, LinkFailure, OpenError, PairFailure, TransferFailure};
use crate::ids::{ConnId, DeviceId, MessageId, OpenId, SessionId, StreamId, Ticket, TransferId};
use crate::info::{Address, TransportInfo, TransportKind};
use crate::records::Change;
use crate::session::record::{RecordOpener, RecordSealer};
use crate::time::Timestamp;
use crate::transfer::manifest::Manifest;
use crate::transfer::receipt::Outcome;
use crate::wire::control::MessageState;
use crate::wire::deframer::{Frame, StreamName};

/// What the host lends the core for one call.
pub struct Env<'a> {
    /// Now, on the host's monotonic clock.
    pub now: Timestamp,
    /// Now, in seconds since 1970: for expiry over restarts and for display, never for authenticity, replay or order.
    pub unix_s: u64,
    /// Fresh random bytes.
    pub entropy: &'a mut dyn Entropy,
}

impl fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("now", &self.now).field("unix_s", &self.unix_s).finish_non_exhaustive()
    }
}

/// The other end of a connection, as its transport reports it. It may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The transport.
    pub kind: TransportKind,
    /// The remote's transport id (`PeerId`, `EndpointId`); empty on tcp.
    pub id: Vec<u8>,
    /// What binds handshakes to this connection (PROTOCOL.md, section 6.2): 32 bytes on tcp and Iroh, else empty.
    pub exporter: Vec<u8>,
    /// Where it is: the address in the transport's own form, without the kind.
    pub address: String,
    /// For limits: what an attacker cannot change for free (transport id, IPv4 address, IPv6 /64).
    pub source: String,
    /// The connection is one stream, and the side that dialled opens it (tcp).
    pub one_stream: bool,
}

/// A transfer as this device names it. Ids are chosen by senders, so peer and direction belong to the name.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferKey {
    /// The other device.
    pub device: DeviceId,
    /// Which way the files go.
    pub direction: Direction,
    /// The sender's id.
    pub id: TransferId,
}

/// Which way the files of a transfer go.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// This device sends.
    Outgoing,
    /// This device receives.
    Incoming,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The peer half-closed it after its last byte. Our half is open until the core ends it.
    Finished,
    /// It was reset or the connection broke: bytes may be missing at the end.
    Broken,
    /// The deframer refused what came; the host resets the stream.
    Malformed,
}

/// A fact about this device's own network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The transports that listen here, with their current addresses. Replaces what was said before.
    Local(Vec<TransportInfo>),
    /// The machine has slept, or the process was stopped, for longer than a moment.
    Awake,
    /// Whether the host publishes and looks for what `Node::discovery` says, on some medium. At first it does not.
    Searches(bool),
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Time passed: the deadline, or nothing in particular.
    Tick,
    /// Something about our own network.
    Network(Fact),
    /// A connection is up. `dialed`: the ticket of the [`Output::Dial`] that this answers; `None` if the remote dialled.
    ConnUp {
        /// Its number.
        conn: ConnId,
        /// See above.
        dialed: Option<Ticket>,
        /// The other end.
        remote: Remote,
    },
    /// A connection goes another way than before: a direct one instead of a relay, or the other way round.
    ConnMoved {
        /// Its number.
        conn: ConnId,
        /// The place of the other end, as [`Remote::address`] has it.
        address: String,
    },
    /// A connection is gone. Its streams' ends have been, or will be, told by `StreamDown`.
    ConnDown {
        /// Its number.
        conn: ConnId,
    },
    /// A stream is up. `opened`: the ticket of the [`Output::Open`] that this answers; `None` if the remote opened it.
    StreamUp {
        /// Its number.
        stream: StreamId,
        /// Its connection.
        conn: ConnId,
        /// See above.
        opened: Option<Ticket>,
    },
    /// Nothing more will come on a stream. It is over for the host unless it is `Finished` and our half is still open: then the
    /// core ends that half too, by [`Output::Finish`] once it has said what it has to say, or by [`Output::Reset`]. Where workers
    /// have a half of the stream, this follows their last report; where chunks wait for workers, it waits behind them. Where an
    /// application has both halves, it is told when both are through, or at once when either is cut.
    StreamDown {
        /// Its number.
        stream: StreamId,
        /// How it ended.
        how: Cut,
    },
    /// A frame arrived.
    Frame {
        /// On which stream.
        stream: StreamId,
        /// The frame.
        frame: Frame,
    },
    /// What was sent on a stream has left; its queue is short again.
    Drained {
        /// Its number.
        stream: StreamId,
    },
    /// Chunks were sent, or written. Coalesced: every 8 MiB or 50 ms, and once at the end.
    Bulk {
        /// On which stream.
        stream: StreamId,
        /// What the workers did.
        report: BulkReport,
    },
    /// A record of a stream that an application has did not open. The host resets the stream: `StreamDown` follows.
    Forged {
        /// Which.
        stream: StreamId,
    },
    /// An effect is done, or failed: exactly one for each ticket (for `Dial` and `Open` the success is `ConnUp`, `StreamUp`).
    Done {
        /// Its ticket.
        ticket: Ticket,
        /// How it went.
        result: Result<Reply, Failure>,
    },
}

/// What an effect brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The batch is durable.
    Persisted,
    /// The file operation is done; entries that are not named went well.
    Files(Vec<(u32, EntryNote)>),
}

/// What a host says of one entry of a [`FileOp`].
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryNote {
    /// `Inspect`: something stands at its final name; the owner's policy will decide.
    Conflict,
    /// `Prepare`: left out by policy, or a link that is not kept.
    Skipped,
    /// `Publish`: it stands under this path, in the receiver's form, and not under its own.
    Renamed(Vec<u8>),
    /// It failed, and will not be there.
    Failed(FileFault),
    /// `Prepare`: these bytes of the file, ascending ranges, are here from an earlier try, durably, under a temporary name.
    Taken(Vec<Range<u64>>),
    /// `Prepare`: the file stands under its final name since an earlier try, which compared its digest.
    Kept {
        /// Its BLAKE3 digest.
        digest: [u8; 32],
        /// Where it stands, if not under its own name.
        renamed_to: Option<Vec<u8>>,
    },
    /// `Digest`: the BLAKE3 digest of the whole file.
    Digest([u8; 32]),
}

/// An operation on a range of a transfer's entries. Temporary files are made and written by the host's pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Look, change nothing: what stands in the way, what can this file system not hold?
    Inspect,
    /// Decide every conflict by the owner's policy; make directories and empty files under temporary names where they are files.
    Prepare,
    /// Make what was written durable (data and size).
    Sync,
    /// Read each file of the range, a source or a temporary file, from its first byte to its last, and say its digest. A source that is
    /// not what it was when it was offered has failed.
    Digest,
    /// Give each file of the range its final name, mode and time, never replacing what policy does not let it replace; then sync the
    /// directories. Every file of the range is durable and has its digest.
    Publish,
    /// Every file is settled: make the links, then give directories their modes and times, deepest first. Always all entries.
    Finish,
    /// Every entry has its outcome: remove what is left of temporary files, and remember for a while what stands where, for a sender that
    /// missed the receipt and offers the transfer again. Always all entries, and the last operation.
    Clear,
    /// Remove every temporary file of the transfer, and directories that it made and left empty. Always all entries, and the last
    /// operation.
    Discard,
    /// The transfer came to nothing for now: make durable what was written, and keep it for another try of the same files. Always all
    /// entries, and the last operation, like `Discard`.
    Keep,
}

/// Chunks that the workers of one bulk stream have dealt with since the last report.
#[derive(Debug, Default)]
pub struct BulkReport {
    /// Sent (sealed and taken by the transport), or opened and written.
    pub chunks: Vec<ChunkDone>,
    /// Entries whose file failed; as a sender the entry's bytes in later chunks are zeros.
    pub failed: Vec<(u32, FileFault)>,
    /// Chunks that did not open.
    pub forged: u32,
    /// Chunks that were not wanted, or not of the layout's length: dropped unwritten.
    pub unwanted: u32,
}

/// One chunk that was sent or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDone {
    /// Its index.
    pub index: u64,
    /// The BLAKE3 value of each of its pieces, in the layout's order.
    pub values: Values,
}

/// The half of the data plane that a bulk stream gets.
#[derive(Debug)]
pub enum BulkHalf {
    /// Claim, read, digest, seal and send until nothing is left to claim; then half-close. Nothing but the end may come.
    Seal {
        /// The transfer: the host knows its sources.
        transfer: TransferKey,
        /// Seals under this stream's key.
        sealer: Sealer,
        /// What may be claimed.
        chunks: Arc<Chunks>,
    },
    /// Read, claim, open, digest and write until the stream ends. The deframer's rest comes first. Our direction carries nothing:
    /// half-close it, if that was not said before.
    Open {
        /// The transfer: the host knows its destination.
        transfer: TransferKey,
        /// Opens under this stream's key.
        opener: Opener,
        /// What may be claimed.
        chunks: Arc<Chunks>,
    },
}

/// What to do. Hosts keep the order within a stream, within `Persist` and within one transfer's `Files`, and nowhere else.
#[derive(Debug)]
pub enum Output {
    /// Connect. Answered by `ConnUp` or a failed `Done`.
    Dial {
        /// Its ticket.
        ticket: Ticket,
        /// Where.
        to: Address,
    },
    /// Open a stream and send its preamble. Answered by `StreamUp` or a failed `Done`.
    Open {
        /// Its ticket.
        ticket: Ticket,
        /// On which connection.
        conn: ConnId,
        /// What for: the preamble, and the deframer's stages.
        name: StreamName,
    },
    /// Close a connection, with a code, after what was sent on its streams has left.
    Hangup {
        /// Which.
        conn: ConnId,
        /// One of [`faults::code`](crate::faults::code).
        code: u32,
    },
    /// Send bytes on a stream.
    Send {
        /// Which.
        stream: StreamId,
        /// Whole frames or records.
        bytes: Vec<u8>,
    },
    /// Half-close a stream after what was sent. With the other half it is over; what was sent still leaves.
    Finish {
        /// Which.
        stream: StreamId,
    },
    /// Drop a stream, both directions, at once. The last that is heard of it. Every stream ends by this, by [`Output::Finish`]
    /// (or the end of its workers) together with the peer's half-close, by a cut, or with its connection.
    Reset {
        /// Which.
        stream: StreamId,
        /// One of [`faults::code`](crate::faults::code).
        code: u32,
    },
    /// From here on the bytes of this stream go round the Node.
    Bulk {
        /// Which.
        stream: StreamId,
        /// With what.
        half: BulkHalf,
    },
    /// A stream of an application protocol is ready, and from here on its bytes go round the Node. What comes is read by a
    /// [`RecordReader`](crate::session::reader::RecordReader), beginning with the deframer's rest; what the application says leaves
    /// in data records, then fin and the half-close. Whoever gives it up resets it, and says so by `StreamDown`.
    Protocol {
        /// Which.
        stream: StreamId,
        /// The device at the other end.
        device: DeviceId,
        /// The protocol.
        name: String,
        /// The wish that it answers; `None`: the peer opened it.
        opened: Option<OpenId>,
        /// Seals what this side says.
        sealer: RecordSealer,
        /// Opens what the other side says.
        opener: RecordOpener,
    },
    /// The stream that `Node::open_protocol` was to open does not come about.
    NotOpened {
        /// The wish.
        opened: OpenId,
        /// Why.
        error: OpenError,
    },
    /// One atomic, durable transaction. Answered by `Done`.
    Persist {
        /// Its ticket.
        ticket: Ticket,
        /// What to write.
        batch: Vec<Change>,
    },
    /// An operation on files. Answered by `Done`.
    Files {
        /// Its ticket.
        ticket: Ticket,
        /// Of which transfer.
        transfer: TransferKey,
        /// On which entries.
        entries: Range<u32>,
        /// Which operation.
        op: FileOp,
    },
    /// Tell the owner.
    Notify(Event),
}

/// When the core wants a `Tick`, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Timestamp,
    /// What is waited for, for logs.
    pub why: &'static str,
}

/// Who a pairing is with, before it is trusted.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its id, computed from the key it proved.
    pub device: DeviceId,
    /// Its name, made safe for display.
    pub name: String,
    /// Its operating system, as it says.
    pub os: String,
}

/// What a device is to us at the moment.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// An address is known for a code, nothing is proved.
    Discovered,
    /// A handshake under a code is running or unfinished.
    Pairing,
    /// Paired, and no session was ever up in this life of the process.
    Paired,
    /// A proven session is up.
    Connected,
    /// A session was up, and is not now.
    Disconnected,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discovered => "discovered",
            Self::Pairing => "pairing",
            Self::Paired => "paired",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        })
    }
}

/// How a session's packets travel.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The transport.
    pub transport: TransportKind,
    /// The remote address.
    pub address: String,
}

/// What a finished transfer came to.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files stored, under their own or another name.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries left out.
    pub skipped: u64,
    /// Of the files stored, those under another name.
    pub renamed: u64,
    /// Entries that failed, at either end.
    pub failed: u64,
    /// Bytes that were durable when the transfer last went on after an interruption, and were not sent again.
    pub resumed: u64,
}

/// What the owner is told.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A device proved that it knows the code; its user's or policy's word is awaited (`Node::answer_pairing`).
    PairRequest {
        /// The pairing.
        session: SessionId,
        /// Who.
        peer: Stranger,
        /// The check number, 0 to 999 999: the same on both screens.
        check: u32,
    },
    /// Paired. As an initiator `confirmed` is false until the other side's first sign of life under the new root.
    Paired {
        /// The pairing.
        session: SessionId,
        /// Who.
        peer: Stranger,
        /// The check number.
        check: u32,
        /// The other side is known to hold the root as well.
        confirmed: bool,
        /// The two were paired before: the root was replaced, settings stay.
        repaired: bool,
    },
    /// The pairing that was reported unconfirmed is confirmed now.
    PairConfirmed {
        /// Who.
        device: DeviceId,
    },
    /// The joiner refused after we had completed: what the pairing wrote is deleted.
    PairRefused {
        /// Who.
        device: DeviceId,
        /// Why.
        reason: PairFailure,
    },
    /// A joiner's last message was lost; the next contact finishes the pairing.
    PairUnfinished {
        /// The pairing.
        session: SessionId,
        /// Who.
        device: DeviceId,
    },
    /// A pairing came to nothing.
    PairFailed {
        /// The pairing.
        session: SessionId,
        /// Why.
        reason: PairFailure,
    },
    /// A device's state changed.
    Device {
        /// Which.
        device: DeviceId,
        /// To what.
        state: DeviceState,
        /// With a session: how it travels.
        route: Option<Route>,
        /// Without: why the last one ended.
        reason: Option<LinkFailure>,
    },
    /// A device's session goes another way than before.
    Rerouted {
        /// Which.
        device: DeviceId,
        /// Its way now.
        route: Route,
    },
    /// The other side has answered on a session that we opened: it holds everything that a pairing or reconnect gave it.
    Answered {
        /// Which.
        device: DeviceId,
    },
    /// The data streams that this device opens for a transfer take this way from now on, and no more that of the session, or the other
    /// way round.
    DataRoute {
        /// The transfer.
        transfer: TransferKey,
        /// Their way.
        route: Route,
    },
    /// `Node::connect` came to nothing.
    ConnectFailed {
        /// To whom.
        device: DeviceId,
        /// Why.
        reason: LinkFailure,
    },
    /// The owner had a device forgotten: its record is gone, durably.
    Removed {
        /// Which.
        device: DeviceId,
    },
    /// The other side has removed this pairing, and proves it. Nothing is accepted under it there; here it stays, and is not dialled by
    /// itself any more, until its owner has it forgotten too, or pairs anew.
    RemovedThere {
        /// Who removed it.
        device: DeviceId,
    },
    /// The answer to `Node::ping`.
    Pong {
        /// Whose.
        device: DeviceId,
        /// How long the question and its answer took together.
        rtt: Duration,
    },
    /// What is known of a device has changed: its name, what it says about itself, its policy, whether it is blocked.
    DeviceChanged {
        /// Which.
        device: DeviceId,
    },
    /// What was last decided about a device could not be stored, and is forgotten with the process: a pairing that was removed is
    /// there again after a restart. It is written again for five minutes.
    NotStored {
        /// Which.
        device: DeviceId,
    },
    /// A peer offers files; its manifest obeys every rule. Answer with `Node::accept` or `Node::decline`.
    Offered {
        /// The transfer.
        transfer: TransferKey,
        /// What it would be called.
        label: Option<String>,
        /// What is offered.
        manifest: Arc<Manifest>,
        /// What the host's `Inspect` found, per entry.
        notes: Vec<(u32, EntryNote)>,
    },
    /// An offer was declined without asking: this device could not even prepare to take it, for want of space for example.
    OfferDeclined {
        /// The transfer that did not come about. Nothing more is heard of it.
        transfer: TransferKey,
        /// What it would have been called.
        label: Option<String>,
        /// What was offered.
        manifest: Arc<Manifest>,
        /// What the host's `Inspect` met.
        failure: Failure,
    },
    /// The other side took our offer.
    Accepted {
        /// The transfer.
        transfer: TransferKey,
    },
    /// The session was lost in which a transfer was under way. It goes on in the next one, if that comes within
    /// [`limits::AWAY`](crate::limits::AWAY).
    Suspended {
        /// The transfer.
        transfer: TransferKey,
    },
    /// A transfer goes on after an interruption, in this life of the process or an earlier one.
    Resumed {
        /// The transfer.
        transfer: TransferKey,
        /// Bytes that are durable at the receiver already: fewer than before where it has thrown some away. As a sender that begins anew,
        /// they are told by the next progress.
        durable: u64,
    },
    /// A transfer rests, or goes on: neither side sends while one of the owners wants that. What the other side wants ends with the session;
    /// it says it again in the next one.
    Paused {
        /// The transfer.
        transfer: TransferKey,
        /// Our owner has it rest (`Node::pause`).
        here: bool,
        /// The other side does.
        there: bool,
    },
    /// How far a transfer is.
    Progress {
        /// The transfer.
        transfer: TransferKey,
        /// Bytes that left here, or were written here.
        moved: u64,
        /// Bytes that are durable at the receiver. Never decreases, but for what [`Event::Resumed`] says.
        durable: u64,
        /// Bytes in all.
        total: u64,
    },
    /// An entry is done.
    Entry {
        /// The transfer.
        transfer: TransferKey,
        /// Which.
        entry: u32,
        /// How it ended.
        outcome: Outcome,
        /// Its BLAKE3 digest, for files that are stored.
        digest: Option<[u8; 32]>,
        /// Where it stands, if not under its own name.
        renamed_to: Option<Vec<u8>>,
        /// What went wrong, if it failed here.
        fault: Option<FileFault>,
    },
    /// Everything is done: the receipt was sent (receiving) or verified (sending).
    Done {
        /// The transfer.
        transfer: TransferKey,
        /// What it came to.
        summary: Summary,
    },
    /// A transfer ended without a receipt.
    Failed {
        /// The transfer.
        transfer: TransferKey,
        /// Why.
        reason: TransferFailure,
    },
    /// A message to a device waits, durably. It ends with [`Event::MessageReceipt`] or [`Event::MessageExpired`].
    MessageQueued {
        /// To whom.
        device: DeviceId,
        /// Which.
        id: MessageId,
    },
    /// A message to a device could not be stored, and does not wait.
    MessageNotStored {
        /// To whom.
        device: DeviceId,
        /// Which.
        id: MessageId,
    },
    /// What became of a message at the other device. `Delivered`: it is durable there.
    MessageReceipt {
        /// To whom.
        device: DeviceId,
        /// Which.
        id: MessageId,
        /// What became of it.
        state: MessageState,
    },
    /// A message was given up before its receipt came: its time was over, or its device was forgotten.
    MessageExpired {
        /// To whom.
        device: DeviceId,
        /// Which.
        id: MessageId,
        /// It has left, or may have in an earlier life of the process, and may have arrived all the same.
        told: bool,
    },
    /// A message came, and is durable here until it is taken (`Node::take_message`). Told once; `Node::messages` has those of earlier
    /// lives of the process too.
    Message {
        /// From whom.
        device: DeviceId,
        /// Which.
        id: MessageId,
    },
    /// A record in the store could not be read and was left as it is.
    BadRecord {
        /// The table.
        table: u8,
    },
}
