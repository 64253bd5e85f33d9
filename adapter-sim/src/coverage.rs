//! Which states and transitions of every machine a search has reached, and which it has not.
//!
//! What may be is listed in `coverage.txt`, from the state tables of the specification and the code; what is, a `Watch` sees by
//! comparing a Node's machines before and after each input. A transition that is not listed breaks rule S29.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use protocol_core::node::probe::Machine;

mod marks;
mod report;
mod watch;

pub use marks::MARKS;
pub use report::Report;
pub(crate) use watch::Watch;

/// A transition: the machine, from where, to where.
pub type Edge = (Machine, &'static str, &'static str);

/// How often each transition was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Edge, u64>);

impl Counts {
    pub(crate) fn add(&mut self, edge: Edge) {
        *self.0.entry(edge).or_default() += 1;
    }

    /// Takes in what another run has seen.
    pub fn merge(&mut self, other: &Self) {
        for (&edge, count) in &other.0 {
            *self.0.entry(edge).or_default() += count;
        }
    }

    /// How often a transition was seen.
    pub fn of(&self, edge: Edge) -> u64 {
        self.0.get(&edge).copied().unwrap_or(0)
    }

    /// All that were seen.
    pub fn iter(&self) -> impl Iterator<Item = (Edge, u64)> + '_ {
        self.0.iter().map(|(&edge, &count)| (edge, count))
    }
}

/// The name of a machine in the list.
pub const fn name(machine: Machine) -> &'static str {
    match machine {
        Machine::Connection => "connection",
        Machine::Stream => "stream",
        Machine::Code => "code",
        Machine::Initiator => "initiator",
        Machine::Joiner => "joiner",
        Machine::Dialler => "dialler",
        Machine::Session => "session",
        Machine::Sender => "sender",
        Machine::Receiver => "receiver",
        Machine::Root => "root",
        Machine::Device => "device",
        Machine::Row => "row",
        Machine::Ticket => "ticket",
    }
}

/// A transition, for people.
pub struct Shown(pub Edge);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, from, to) = self.0;
        write!(f, "{}: {from} > {to}", name(machine))
    }
}

/// What may be: each transition, and why the search does not reach it, if it does not.
#[derive(Debug)]
pub struct Legal {
    edges: BTreeMap<Edge, Option<&'static str>>,
    /// From where one gets where, in any number of steps.
    paths: BTreeSet<Edge>,
}

static LEGAL: LazyLock<Legal> = LazyLock::new(|| Legal::read(include_str!("../coverage.txt")).expect("the list can be read"));

impl Legal {
    /// The committed list.
    pub fn get() -> &'static Self {
        &LEGAL
    }

    /// Reads a list.
    ///
    /// # Errors
    /// The line that is none, or that comes twice.
    pub fn read(text: &'static str) -> Result<Self, String> {
        let mut edges = BTreeMap::new();
        let mut machine = None;
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if !line.starts_with(' ') {
                machine = Machine::ALL.iter().copied().find(|machine| name(*machine) == line.trim());
                machine.ok_or_else(|| format!("no machine: {line}"))?;
                continue;
            }
            let (edge, why) = line.split_once('!').map_or((line, None), |(edge, why)| (edge, Some(why.trim())));
            let (from, to) = edge.split_once(" > ").ok_or_else(|| format!("no transition: {line}"))?;
            let machine = machine.ok_or_else(|| format!("of no machine: {line}"))?;
            if edges.insert((machine, from.trim(), to.trim()), why).is_some() {
                return Err(format!("twice: {line}"));
            }
        }
        let states: BTreeSet<(Machine, &'static str)> =
            edges.keys().flat_map(|&(machine, from, to)| [(machine, from), (machine, to)]).collect();
        for (machine, state) in states.into_iter().filter(|(_, state)| is_state(state)) {
            edges.entry((machine, state, "crash")).or_insert(None);
        }
        let paths = paths(&edges);
        Ok(Self { edges, paths })
    }

    /// Whether a transition may be; `several` of them may have come at once.
    pub(crate) fn allows(&self, edge: Edge, several: bool) -> bool {
        self.edges.contains_key(&edge) || (several && self.paths.contains(&edge))
    }

    /// All of them, with what excuses the search.
    pub fn iter(&self) -> impl Iterator<Item = (Edge, Option<&'static str>)> + '_ {
        self.edges.iter().map(|(&edge, &why)| (edge, why))
    }
}

/// Whether a machine can stand there.
fn is_state(word: &str) -> bool {
    !word.starts_with('=') && !["new", "stored", "back", "gone", "crash"].contains(&word)
}

fn paths(edges: &BTreeMap<Edge, Option<&'static str>>) -> BTreeSet<Edge> {
    let mut paths: BTreeSet<Edge> = edges.keys().copied().filter(|(.., to)| *to != "crash").collect();
    loop {
        let longer: Vec<Edge> = paths
            .iter()
            .flat_map(|&(machine, from, by)| {
                let on = edges.keys().filter(move |&&(of, at, to)| of == machine && at == by && to != "crash");
                on.map(move |&(.., to)| (machine, from, to))
            })
            .filter(|edge| !paths.contains(edge))
            .collect();
        if longer.is_empty() {
            return paths;
        }
        paths.extend(longer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_read_and_knows_every_machine() {
        let legal = Legal::get();
        for &machine in Machine::ALL {
            assert!(legal.iter().any(|((of, ..), _)| of == machine), "{machine:?}");
        }
    }

    #[test]
    fn a_way_in_several_steps_is_allowed_only_where_several_things_happened() {
        let legal = Legal::get();
        let far = (Machine::Joiner, "Searching", "Storing");
        assert!(!legal.allows(far, false));
        assert!(legal.allows(far, true));
        assert!(!legal.allows((Machine::Joiner, "Storing", "Searching"), true));
        assert!(legal.allows((Machine::Joiner, "Storing", "crash"), false));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!(Legal::read("nobody\n").is_err());
        assert!(Legal::read("  a > b\n").is_err());
        assert!(Legal::read("row\n  a > b\n  a > b ! twice\n").is_err());
        assert!(Legal::read("row\n  a to b\n").is_err());
    }
}
