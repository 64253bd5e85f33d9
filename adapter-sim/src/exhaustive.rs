//! Small worlds, in which every order of events and every place of a fault is tried: a model checker over real Nodes and real
//! cryptography. Nothing is sampled, and no depth is cut off.
//!
//! **An event** is something that happens to one device: it takes the oldest of a first-in-first-out channel (one end of a stream,
//! the news that a connection is up or gone, its disk, its person), its due timers run, it crashes, it starts again. Only a dial
//! that arrives happens to two. At every state everything that can happen is tried. Time stands still while anything can, and then
//! goes on to the next deadline. The news that a connection is gone, or a stream reset, may overtake what is in flight: so every
//! loss of a suffix is among the orders. A crash keeps each number of the writes under way. What a Node puts out in one call is
//! performed as one event: a crash between two outputs looks like a crash after them whose news overtakes what was sent and whose
//! write is lost, and those are tried.
//!
//! **Two events are independent** if no device has part in both: a Node sees nothing but its own inputs; a device's store, clock,
//! random source and ids are its own (see `World::commuting`); a channel is written by one device and read by one; and what one
//! device appends does not change what the other takes. Either order of such events leads to the same state.
//!
//! **Every state is continued once.** A Node cannot be copied, so the search is by replay: from the beginning along a prefix, then on
//! to a state that is known. Two prefixes that lead to the same state, because they differ in the order of independent events or
//! because the difference has been forgotten, have the same continuations; what must hold is checked at every event from every
//! state, so nothing that an order could show is lost. What makes two states the same is in `Play::digest`: everything but the
//! values of secrets inside Nodes. The number of runs is counted along the graph of states: it says how many orders were covered.
//!
//! **At the end** of a run everything is made well again: what is down has started, nothing is lost any more, time passes, the joiner
//! reconnects, then the initiator. How that ends is a function of the last state, and is computed once for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use protocol_core::node::Confirm;

use crate::{Dev, Wire};

mod check;
mod play;
mod search;
mod step;
mod worlds;

pub use search::Claim;
pub use worlds::{bounded, worlds};

/// The rows of a store.
pub type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// How a small world begins.
#[derive(Clone, Debug)]
pub enum Begin {
    /// I shows a code, and others type it at the same moment.
    Pair {
        /// How many type it.
        joiners: usize,
        /// Over how many connections each.
        connections: usize,
        /// Whether people are asked.
        confirm: Confirm,
        /// How old the code is when it is typed.
        age: Duration,
    },
    /// Devices reconnect: who dials whom.
    Connect(Vec<(Dev, Dev)>),
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device crashes, with any number of the writes under way kept, and starts again.
    Crash,
    /// A connection breaks; each side hears of it at any time.
    Cut,
    /// Nothing comes to one end of a connection any more, and nobody is told.
    Vanish,
    /// A write fails.
    Fail,
    /// A person says no, or nothing, or cancels.
    User,
    /// A device is late: its timers run before what has come.
    Late,
}

/// A small world.
#[derive(Clone, Debug)]
pub struct Small {
    /// Its name.
    pub name: String,
    /// How devices are connected.
    pub wire: Wire,
    /// What each device has stored before.
    pub rows: Vec<Rows>,
    /// What it begins with.
    pub begin: Begin,
    /// The kinds of faults.
    pub faults: &'static [Kind],
    /// How many faults happen in a run, at most.
    pub at_once: u8,
    /// For how long time goes on, step by step, once nothing else can happen.
    pub patience: Duration,
    /// One of the two has lost its record before: no reconnect can do anything for them.
    pub one_sided: bool,
    /// For tests of the enumeration itself: who says no is heard as yes.
    pub misheard: bool,
}

impl Small {
    /// Tries everything.
    ///
    /// # Errors
    /// The first run found in which something does not hold that must.
    pub fn explore(&self) -> Result<Count, Violation> {
        self.explore_claiming(&|_| Ok(()))
    }

    /// Tries everything, with a check of the caller's own at the end of every run.
    ///
    /// # Errors
    /// As [`Self::explore`].
    pub fn explore_claiming(&self, claim: Claim<'_>) -> Result<Count, Violation> {
        search::explore(self, claim)
    }

    /// One run, by the steps of a [`Violation`].
    ///
    /// # Errors
    /// What does not hold in it.
    pub fn replay(&self, steps: &[String], claim: Claim<'_>) -> Result<(), String> {
        search::replay(self, steps, claim)
    }
}

/// How a run ended, before anything is made well again.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The users of I and J have said yes to each other.
    pub yes: bool,
    /// What is stored and what was told, in words.
    pub ending: String,
}

/// What was counted in a small world.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Its name.
    pub world: String,
    /// Complete runs: orders of events, with a fault somewhere or without.
    pub runs: u128,
    /// States that differ.
    pub states: u64,
    /// Events: steps from one state to the next.
    pub events: u64,
    /// Events of the longest run.
    pub longest: usize,
    /// Of the events, faults: places at which one was put.
    pub faults: u64,
    /// Of these, crashes.
    pub crashes: u64,
    /// How often the world was run again from its beginning.
    pub replays: u64,
    /// How runs ended, in words.
    pub endings: BTreeSet<String>,
    /// In how many last states they ended how, after all was well again.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, runs, states, events, longest, faults, crashes, replays, endings, outcomes, time } = self;
        write!(f, "{world:<44} {runs:>10} runs of up to {longest} events: {states:>7} states, {events:>7} events, ")?;
        write!(f, "{faults:>6} places of faults ({crashes} of crashes), {:>3} endings; ", endings.len())?;
        for (outcome, count) in outcomes {
            write!(f, "{outcome} {count}, ")?;
        }
        write!(f, "{replays} replays, {:.1} s", time.as_secs_f64())
    }
}

/// A run in which something does not hold that must.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The small world.
    pub world: String,
    /// What does not hold.
    pub why: String,
    /// The steps, for [`Small::replay`].
    pub steps: Vec<String>,
    /// The steps, and what came of each.
    pub story: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.world, self.why)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>4} {step}", number + 1)?;
        }
        writeln!(f, "what came of it:")?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Violation {}

/// Tries all of these worlds, and tells each count.
///
/// # Errors
/// The first run found in which something does not hold that must.
pub fn explore(worlds: &[Small], report: &mut dyn FnMut(&Count)) -> Result<Vec<Count>, Violation> {
    let mut counts = Vec::new();
    for small in worlds {
        let count = small.explore()?;
        report(&count);
        counts.push(count);
    }
    Ok(counts)
}

/// Tries every world there is: minutes in a release build.
///
/// # Errors
/// As [`explore`].
pub fn all(report: &mut dyn FnMut(&Count)) -> Result<Vec<Count>, Violation> {
    explore(&worlds(), report)
}
