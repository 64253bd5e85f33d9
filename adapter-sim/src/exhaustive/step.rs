//! Steps of a run of a small world, and how they read.

use std::fmt;

use protocol_core::ids::{ConnId, StreamId, Ticket};

use crate::Dev;

/// A queue of what happens to one device: what is in it happens in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// What comes to this end of a stream.
    Stream(StreamId),
    /// The news that a connection is gone, at this end.
    Gone(ConnId),
    /// What its own host tells a device of a connection that it has closed.
    Own(ConnId),
    /// The news that a dialled connection is up.
    Up(ConnId),
    /// Somebody is dialled: an event of both sides.
    Dial(Dev, Ticket),
    /// A dial or an open that failed.
    Failed(Dev, Ticket),
    /// Writes.
    Store(Dev),
    /// A question to a person.
    User(Dev),
}

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happens {
    /// The next in a channel.
    Next(Channel),
    /// A reset overtakes what is in flight before it on a stream.
    Lost(StreamId),
    /// Timers of a device that are due run.
    Tick(Dev),
    /// A device that is down begins a new life.
    Restart(Dev),
    /// Nothing else can happen: time goes on to the next deadline.
    Time,
    /// Nothing else can happen, and the run is over.
    End,
    /// A device crashes; so many of the writes it has asked for are durable.
    Crash(Dev, usize),
    /// A connection breaks: this end hears of it now, the other at any time.
    Cut(ConnId),
    /// From now on nothing comes to this end of a connection, and nobody is told.
    Vanish(ConnId),
    /// A write fails.
    Fail(Dev),
    /// A person says no.
    No(Dev),
    /// A person never answers.
    Silent(Dev),
    /// A person ends the pairing.
    Cancel(Dev),
    /// A device is late by so many seconds: all its timers of that time are due.
    Late(Dev, u64),
}

/// A step of a run: what happens, and to which device, or devices (a set of bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) what: Happens,
    pub(crate) devs: u8,
}

impl Step {
    pub(crate) const fn is_fault(self) -> bool {
        use Happens::{Cancel, Crash, Cut, Fail, Late, No, Silent, Vanish};
        matches!(self.what, Crash(..) | Cut(_) | Vanish(_) | Fail(_) | No(_) | Silent(_) | Cancel(_) | Late(..))
    }
}

pub(crate) const NOBODY: u8 = 0;

pub(crate) const fn bit(dev: Dev) -> u8 {
    1 << dev.0
}

/// Names of the devices of small worlds.
pub(crate) const NAMES: [&str; 3] = ["I", "J", "K"];

fn name(devs: u8) -> &'static str {
    NAMES.get(devs.trailing_zeros() as usize).copied().unwrap_or("?")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = name(self.devs);
        match self.what {
            Happens::Next(Channel::Stream(StreamId(id))) => write!(f, "{who} takes what comes next on stream {id}"),
            Happens::Next(Channel::Gone(ConnId(id))) => write!(f, "{who} hears that connection {id} is gone"),
            Happens::Next(Channel::Own(ConnId(id))) => write!(f, "{who} has closed connection {id}"),
            Happens::Next(Channel::Up(ConnId(id))) => write!(f, "{who} hears that connection {id} is up"),
            Happens::Next(Channel::Dial(dev, Ticket(id))) => write!(f, "the dial {id} of {} arrives", NAMES[dev.0]),
            Happens::Next(Channel::Failed(_, Ticket(id))) => write!(f, "{who} hears that its dial or open {id} failed"),
            Happens::Next(Channel::Store(_)) => write!(f, "{who}'s oldest write is done"),
            Happens::Next(Channel::User(_)) => write!(f, "{who}'s user says yes"),
            Happens::Lost(StreamId(id)) => write!(f, "{who} hears that stream {id} was reset, and what came before it is lost"),
            Happens::Tick(_) => write!(f, "{who}'s timers run"),
            Happens::Restart(_) => write!(f, "{who} starts again"),
            Happens::Time => f.write_str("time passes"),
            Happens::End => f.write_str("nothing more happens"),
            Happens::Crash(_, kept) => write!(f, "FAULT: {who} crashes, and {kept} of the writes under way are durable"),
            Happens::Cut(ConnId(id)) => write!(f, "FAULT: the connection of which {who} has end {id} breaks"),
            Happens::Vanish(ConnId(id)) => write!(f, "FAULT: nothing comes to {who} any more on connection {id}"),
            Happens::Fail(_) => write!(f, "FAULT: {who}'s oldest write fails"),
            Happens::No(_) => write!(f, "FAULT: {who}'s user says no"),
            Happens::Silent(_) => write!(f, "FAULT: {who}'s user never answers"),
            Happens::Cancel(_) => write!(f, "FAULT: {who}'s user cancels"),
            Happens::Late(_, by) => write!(f, "FAULT: {who} is late by {by} s"),
        }
    }
}
