//! One ordered queue of effects, and the tickets that say what an answer belongs to.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

use crate::effects::{Event, FileOp, Output, TransferKey};
use crate::entropy::Entropy;
use crate::ids::{ConnId, DeviceId, PeerKey, SessionId, SessionRef, StreamId, Ticket};
use crate::info::Address;
use crate::messages;
use crate::records::Change;
use crate::time::{Timestamp, Turn};
use crate::timers::{TimerKind, Timers};
use crate::transfer::machine::Job;
use crate::wire::deframer::StreamName;

/// What a ticket's answer belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A connection, then the stream on it, of a joiner's try.
    Join { session: SessionId, address: Address },
    /// A connection, then the stream on it, of a reconnect.
    Link { device: DeviceId, address: Address, refusals: usize },
    /// A connection, then the stream on it, for a data stream of a session.
    Data { address: Option<Address>, number: u64 },
    /// The initiator's record of a new pair.
    InitiatorStored { stream: StreamId, peer: PeerKey, session_ref: SessionRef },
    /// The joiner's pending root.
    PendingStored { stream: StreamId, peer: PeerKey },
    /// The joiner's confirmation.
    ConfirmStored { stream: StreamId, peer: PeerKey },
    /// A listener's confirmation of a pending root, before its session may stand.
    ListenerStored { stream: StreamId, peer: PeerKey, root: SessionRef },
    /// A dialler's confirmation of a pending root, before its Finish may leave.
    LinkStored { stream: StreamId, peer: PeerKey, root: SessionRef },
    /// Bookkeeping of a device (addresses, names, last contact, roots that go): nothing waits for it.
    Registry { peer: PeerKey },
    /// A row that may not be missed: one that could not be written so many times, or a removal that the owner wants.
    Row { peer: PeerKey, removal: bool, failures: u32 },
    /// A transfer's own.
    Transfer { key: TransferKey, job: Job },
    /// Messages of a device.
    Message { peer: PeerKey, job: messages::Job },
}

impl Purpose {
    /// The device whose row is written.
    pub(crate) const fn row(&self) -> Option<PeerKey> {
        match self {
            Self::InitiatorStored { peer, .. }
            | Self::PendingStored { peer, .. }
            | Self::ConfirmStored { peer, .. }
            | Self::ListenerStored { peer, .. }
            | Self::LinkStored { peer, .. }
            | Self::Registry { peer }
            | Self::Row { peer, .. } => Some(*peer),
            Self::Join { .. } | Self::Link { .. } | Self::Data { .. } | Self::Transfer { .. } | Self::Message { .. } => None,
        }
    }
}

/// Effects in the order in which they were decided.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Output>,
    last_ticket: u64,
    last_turn: Turn,
    waiting: BTreeMap<Ticket, Purpose>,
    reset: Vec<StreamId>,
    /// Streams whose sending half is closed, or left to workers that close it.
    finished: BTreeSet<StreamId>,
}

impl Outbox {
    /// Something was told now: after all that was before.
    pub(crate) const fn turn(&mut self) -> Turn {
        self.last_turn.0 += 1;
        self.last_turn
    }

    pub(crate) fn push(&mut self, output: Output) {
        match output {
            Output::Reset { stream, .. } => self.reset.push(stream),
            Output::Finish { stream } | Output::Bulk { stream, .. } | Output::Protocol { stream, .. } => {
                self.finished.insert(stream);
            }
            Output::Dial { .. }
            | Output::Open { .. }
            | Output::Hangup { .. }
            | Output::Send { .. }
            | Output::NotOpened { .. }
            | Output::Persist { .. }
            | Output::Files { .. }
            | Output::Notify(_) => {}
        }
        self.queue.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    /// Streams that were reset since the last call: the host says nothing more of them.
    pub(crate) fn take_reset(&mut self) -> Vec<StreamId> {
        core::mem::take(&mut self.reset)
    }

    /// Whether nothing more is said on a stream: its sending half is closed, or it was reset.
    pub(crate) fn has_finished(&self, stream: StreamId) -> bool {
        self.finished.contains(&stream) || self.reset.contains(&stream)
    }

    /// A stream is gone.
    pub(crate) fn forget_stream(&mut self, stream: StreamId) {
        self.finished.remove(&stream);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_tickets(&self) -> usize {
        self.waiting.len()
    }

    /// Tickets for whose answer nobody waits any more, as far as this can tell.
    #[cfg(feature = "testing")]
    pub(crate) fn probe_unwanted(&self, wanted: impl Fn(&Purpose) -> bool) -> usize {
        self.waiting.values().filter(|purpose| !wanted(purpose)).count()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_finished(&self) -> usize {
        self.finished.len()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_told(&self) -> impl Iterator<Item = &Event> + '_ {
        self.queue.iter().filter_map(|output| if let Output::Notify(event) = output { Some(event) } else { None })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn probe_states(&self) -> impl Iterator<Item = (Ticket, &'static str)> + '_ {
        let state = |purpose: &Purpose| match purpose {
            Purpose::Join { .. } => "Join",
            Purpose::Link { .. } => "Link",
            Purpose::Data { .. } => "Data",
            Purpose::InitiatorStored { .. } => "InitiatorStored",
            Purpose::PendingStored { .. } => "PendingStored",
            Purpose::ConfirmStored { .. } => "ConfirmStored",
            Purpose::ListenerStored { .. } => "ListenerStored",
            Purpose::LinkStored { .. } => "LinkStored",
            Purpose::Registry { .. } => "Registry",
            Purpose::Row { removal: false, .. } => "Row",
            Purpose::Row { removal: true, .. } => "Removal",
            Purpose::Transfer { job: Job::Inspect, .. } => "Inspect",
            Purpose::Transfer { job: Job::Prepare, .. } => "Prepare",
            Purpose::Transfer { job: Job::Sync, .. } => "Sync",
            Purpose::Transfer { job: Job::Digest(_), .. } => "Digest",
            Purpose::Transfer { job: Job::Publish(_), .. } => "Publish",
            Purpose::Transfer { job: Job::Discard, .. } => "Discard",
            Purpose::Message { job: messages::Job::Queued(_), .. } => "Message",
            Purpose::Message { job: messages::Job::Reserved(..), .. } => "Numbers",
            Purpose::Message { job: messages::Job::Came, .. } => "Came",
            Purpose::Message { job: messages::Job::Erased(..), .. } => "Erased",
        };
        self.waiting.iter().map(move |(&ticket, purpose)| (ticket, state(purpose)))
    }

    pub(crate) fn ticket(&mut self, purpose: Purpose) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiting.insert(ticket, purpose);
        ticket
    }

    /// The ticket that was given out last.
    pub(crate) const fn last_ticket(&self) -> Ticket {
        Ticket(self.last_ticket)
    }

    /// What a ticket was for. A ticket is answered once: asking again finds nothing.
    pub(crate) fn settle(&mut self, ticket: Ticket) -> Option<Purpose> {
        self.waiting.remove(&ticket)
    }

    /// Whether what we know of this root is not durable yet, the record of an initiator or the confirmation of a joiner: the peer
    /// would be sure of what a crash can take from us.
    // PAIR-29, LINK-9.
    pub(crate) fn is_storing(&self, of: &PeerKey, root: SessionRef) -> bool {
        !planted!(HelloBeforeDurable)
            && self.waiting.values().any(|purpose| match purpose {
                Purpose::InitiatorStored { session_ref, .. } => *session_ref == root,
                Purpose::ListenerStored { peer, .. } | Purpose::LinkStored { peer, .. } => peer == of,
                _ => false,
            })
    }

    /// Lets answers that nobody waits for any more come to nothing.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&Purpose) -> bool) {
        self.waiting.retain(|_, purpose| !unwanted(purpose) || planted!(StaleTicketsCount));
    }
}

/// What a machine may use while it handles something: the moment, randomness, and where effects go.
pub(crate) struct Cx<'a> {
    pub(crate) now: Timestamp,
    pub(crate) entropy: &'a mut dyn Entropy,
    pub(crate) out: &'a mut Outbox,
    pub(crate) timers: &'a mut Timers,
}

impl Cx<'_> {
    pub(crate) fn notify(&mut self, event: Event) {
        self.out.push(Output::Notify(event));
    }

    pub(crate) fn send(&mut self, stream: StreamId, bytes: Vec<u8>) {
        self.out.push(Output::Send { stream, bytes });
    }

    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.out.push(Output::Finish { stream });
    }

    pub(crate) fn reset(&mut self, stream: StreamId, code: u32) {
        self.out.push(Output::Reset { stream, code });
    }

    pub(crate) fn dial(&mut self, to: Address, purpose: Purpose) {
        let ticket = self.out.ticket(purpose);
        self.out.push(Output::Dial { ticket, to });
    }

    pub(crate) fn open(&mut self, conn: ConnId, name: StreamName, purpose: Purpose) {
        let ticket = self.out.ticket(purpose);
        self.out.push(Output::Open { ticket, conn, name });
    }

    pub(crate) fn persist(&mut self, batch: Vec<Change>, purpose: Purpose) {
        let ticket = self.out.ticket(purpose);
        self.out.push(Output::Persist { ticket, batch });
    }

    pub(crate) fn files(&mut self, key: TransferKey, entries: Range<u32>, op: FileOp, job: Job) {
        let ticket = self.out.ticket(Purpose::Transfer { key, job });
        self.out.push(Output::Files { ticket, transfer: key, entries, op });
    }

    pub(crate) fn set(&mut self, kind: TimerKind, after: core::time::Duration) {
        self.timers.set(kind, self.now, after);
    }
}
