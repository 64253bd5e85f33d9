//! Does the search find what is wrong? Bugs are planted in the core one after the other, and seeds are run until one shows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol_core::planted::{Bug, plant};

use crate::oracle::Violation;
use crate::run::run;
use crate::script::{Profile, Script};

/// The profile that a seed of this search is run with: all in turn.
pub fn profile_of(seed: u64) -> Profile {
    let all = Profile::ALL;
    all[usize::try_from(seed % all.len() as u64).expect("invariant: below a length")].1
}

/// What came of the search for one bug.
#[derive(Clone, Debug)]
pub struct Found {
    /// The bug.
    pub bug: Bug,
    /// The first seed that shows it, and the rule that it breaks.
    pub seed: Option<(u64, Violation)>,
}

/// Runs seeds from 0 on with a bug planted, until one fails that does not fail without it.
///
/// The bug is planted in the whole process: nothing else may use the core meanwhile.
pub fn search(bug: Bug, seeds: u64, threads: usize) -> Found {
    let mut from = 0;
    while from < seeds {
        plant(Some(bug));
        let failed = first_failure(from, seeds, threads);
        plant(None);
        let Some((seed, violation)) = failed else { break };
        // What is wrong without it as well shows nothing.
        if run(&Script::of_seed(seed, profile_of(seed))).violation.is_none() {
            return Found { bug, seed: Some((seed, violation)) };
        }
        from = seed + 1;
    }
    Found { bug, seed: None }
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
