//! What a search has reached, as a table and as a verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Counts, Edge, Legal, MARKS, Shown, name};

/// What a search has reached of what it must reach.
#[derive(Debug)]
pub struct Report {
    /// Transitions that were seen, of those that are listed.
    pub seen: usize,
    /// Transitions that are listed.
    pub listed: usize,
    /// States (with what is above and below them) that a machine was seen in, of those that are listed, by crash.
    pub crashes: (usize, usize),
    /// Listed without an excuse, and not seen.
    pub holes: Vec<Edge>,
    /// Listed with an excuse, and not seen.
    pub excused: Vec<(Edge, &'static str)>,
    /// Excused, and seen all the same.
    pub found: Vec<Edge>,
    /// Marks that should have been reached by now and were not.
    pub unreached: Vec<&'static str>,
    /// Marks that were reached, of all.
    pub marks: (usize, usize),
    counts: Counts,
}

impl Report {
    /// Of a search over so many seeds.
    pub fn new(counts: &Counts, marks: &BTreeMap<&'static str, u64>, seeds: u64) -> Self {
        let legal: Vec<_> = Legal::get().iter().collect();
        let (seen, unseen): (Vec<_>, Vec<_>) = legal.iter().copied().partition(|(edge, _)| counts.of(*edge) > 0);
        let crash = |of: &[(Edge, Option<&'static str>)]| of.iter().filter(|((.., to), _)| *to == "crash").count();
        Self {
            seen: seen.len(),
            listed: legal.len(),
            crashes: (crash(&seen), crash(&legal)),
            holes: unseen.iter().filter(|(_, why)| why.is_none()).map(|(edge, _)| *edge).collect(),
            excused: unseen.iter().filter_map(|&(edge, why)| Some((edge, why?))).collect(),
            found: seen.iter().filter(|(_, why)| why.is_some()).map(|(edge, _)| *edge).collect(),
            unreached: MARKS.iter().filter(|(mark, within)| seeds >= *within && !marks.contains_key(mark)).map(|(mark, _)| *mark).collect(),
            marks: (MARKS.iter().filter(|(mark, _)| marks.contains_key(mark)).count(), MARKS.len()),
            counts: counts.clone(),
        }
    }

    /// Whether everything was reached that must be.
    pub fn is_complete(&self) -> bool {
        self.holes.is_empty() && self.unreached.is_empty()
    }

    /// For people: every transition with its count, then what is missing.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for ((machine, from, to), _) in Legal::get().iter() {
            if last.replace(machine) != Some(machine) {
                writeln!(text, "{}", name(machine)).unwrap_or(());
            }
            writeln!(text, "{:>12}  {from} > {to}", self.counts.of((machine, from, to))).unwrap_or(());
        }
        for (edge, why) in &self.excused {
            writeln!(text, "hole, known  {}: {why}", Shown(*edge)).unwrap_or(());
        }
        for edge in &self.found {
            writeln!(text, "no hole      {}", Shown(*edge)).unwrap_or(());
        }
        for edge in &self.holes {
            writeln!(text, "HOLE         {}", Shown(*edge)).unwrap_or(());
        }
        for mark in &self.unreached {
            writeln!(text, "NOT REACHED  {mark}").unwrap_or(());
        }
        text
    }

    /// For programs.
    pub fn summary(&self) -> Value {
        json!({
            "transitions": self.listed,
            "transitions_seen": self.seen,
            "states_with_crash": self.crashes.1,
            "states_with_crash_seen": self.crashes.0,
            "holes_known": self.excused.len(),
            "holes": self.holes.iter().map(|edge| Shown(*edge).to_string()).collect::<Vec<_>>(),
            "marks": self.marks.1,
            "marks_reached": self.marks.0,
            "marks_missing": self.unreached,
        })
    }
}
