//! Does the search find what is wrong? Bugs are planted in the core one after the other, and seeds are run until one shows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol_core::planted::{Bug, plant};

use crate::oracle::Violation;
use crate::run::run;
use crate::script::{Profile, Script};

/// The profile that a seed of this search is run with: all in turn.
pub fn profile_of(seed: u64) -> Profile {
    if seed / 5 % 8 == 7 {
        return Profile::Lookup;
    }
    [Profile::Default, Profile::Pairing, Profile::Link, Profile::Transfer, Profile::Enemy][(seed % 5) as usize]
}

/// What came of the search for one bug.
#[derive(Clone, Debug)]
pub struct Found {
    /// The bug.
    pub bug: Bug,
    /// The first seed that shows it, and the rule that it breaks.
    pub seed: Option<(u64, Violation)>,
    /// A seed that fails without any bug: a fault that nobody planted.
    pub unplanted: Option<u64>,
}

/// What a bug took when all were searched: a line of `mutants.txt`, which `sim --mutants --list` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The bug.
    pub bug: Bug,
    /// The first seed that showed it.
    pub seed: u64,
}

/// Reads such a list.
///
/// # Errors
/// The number of the line that is none.
pub fn known(text: &str) -> Result<Vec<Known>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#'));
    let known = |line: &str| {
        let mut words = line.split_whitespace();
        let bug = words.next().and_then(Bug::by_name)?;
        Some(Known { bug, seed: words.next()?.parse::<u64>().ok()?.checked_sub(1)? })
    };
    lines.map(|(number, line)| known(line).ok_or_else(|| format!("line {number} does not say which bug took how many seeds"))).collect()
}

/// A line of the list.
pub fn line(found: &Found) -> Option<String> {
    let (seed, violation) = found.seed.as_ref()?;
    Some(format!("{:<32} {:>7}  {}", found.bug.name(), seed + 1, violation.rule))
}

/// As [`search`], but the seed that showed it before is tried first.
pub fn search_again(known: Known, seeds: u64, threads: usize) -> Found {
    plant(Some(known.bug));
    let shown = run(&Script::of_seed(known.seed, profile_of(known.seed))).violation;
    plant(None);
    match shown {
        Some(violation) if known.seed < seeds && is_clean(known.seed) => {
            Found { bug: known.bug, seed: Some((known.seed, violation)), unplanted: None }
        }
        Some(_) | None => search(known.bug, seeds, threads),
    }
}

/// Runs seeds from 0 on with a bug planted, until one fails that does not fail without it.
///
/// The bug is planted in the whole process: nothing else may use the core meanwhile.
pub fn search(bug: Bug, seeds: u64, threads: usize) -> Found {
    let (mut from, mut unplanted) = (0, None);
    while from < seeds {
        plant(Some(bug));
        let failed = first_failure(from, seeds, threads);
        plant(None);
        let Some((seed, violation)) = failed else { break };
        // What is wrong without it as well shows nothing.
        if is_clean(seed) {
            return Found { bug, seed: Some((seed, violation)), unplanted };
        }
        unplanted = unplanted.or(Some(seed));
        from = seed + 1;
    }
    Found { bug, seed: None, unplanted }
}

/// Whether nothing is wrong in this world where nothing is planted.
fn is_clean(seed: u64) -> bool {
    run(&Script::of_seed(seed, profile_of(seed))).violation.is_none()
}

/// The first of these seeds that fails.
fn first_failure(from: u64, to: u64, threads: usize) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(from);
    let least = AtomicU64::new(u64::MAX);
    let found: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || seed >= least.load(Ordering::Relaxed) {
                        break;
                    }
                    let Some(violation) = run(&Script::of_seed(seed, profile_of(seed))).violation else { continue };
                    least.fetch_min(seed, Ordering::Relaxed);
                    if let Ok(mut found) = found.lock()
                        && found.as_ref().is_none_or(|(known, _)| *known > seed)
                    {
                        *found = Some((seed, violation));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
