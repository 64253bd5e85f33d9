//! Every order of events of a small world: depth first, by replaying prefixes, every state once.

use std::collections::HashMap;
use std::time::Instant;

use super::play::{Move, Play, Who};
use super::step::{Happens, Step};
use super::{Count, Ended, Small, Violation};

type Digest = [u8; 32];

/// A state on the way to the present run: what can happen there, and what of that was tried.
struct Fork {
    state: Digest,
    tries: Vec<Step>,
    /// Which of these is under way.
    at: usize,
    /// Runs from here on, as far as they are known.
    runs: u128,
}

impl Fork {
    fn step(&self) -> Option<Step> {
        self.tries.get(self.at).copied()
    }
}

/// A check of the caller's own at the end of every run.
pub type Claim<'c> = &'c dyn Fn(&Ended) -> Result<(), String>;

/// Enumerates a small world.
pub(crate) fn explore(small: &Small, claim: Claim<'_>) -> Result<Count, Violation> {
    let began = Instant::now();
    let who = small.who();
    let mut search = Search { small, who: &who, claim, forks: Vec::new(), known: HashMap::new(), count: Count::default() };
    let runs = loop {
        let mut runs = search.replay().map_err(|why| violation(small, &who, &search.forks, why))?;
        // The step under way is done with, and so is every state whose last step it was.
        let all = loop {
            let Some(fork) = search.forks.last_mut() else { break Some(runs) };
            fork.runs += runs;
            fork.at += 1;
            if fork.at < fork.tries.len() {
                break None;
            }
            runs = fork.runs;
            search.known.insert(fork.state, runs);
            search.forks.pop();
        };
        if let Some(all) = all {
            break all;
        }
    };
    let states = search.known.len() as u64;
    Ok(Count { world: small.name.clone(), runs, states, time: began.elapsed(), ..search.count })
}

struct Search<'s> {
    small: &'s Small,
    who: &'s Who,
    claim: Claim<'s>,
    forks: Vec<Fork>,
    /// States from which everything was tried, and how many runs there are from each.
    known: HashMap<Digest, u128>,
    count: Count,
}

impl Search<'_> {
    /// The forks' steps again, then always the first that is possible, to a state that is known or the end. How many runs there are
    /// from there.
    fn replay(&mut self) -> Result<u128, String> {
        let mut play = Play::new(self.small, self.who, false);
        self.count.replays += 1;
        let old = self.forks.len();
        for depth in 0.. {
            let moves = play.moves();
            if depth >= old {
                let state = play.digest();
                if let Some(&runs) = self.known.get(&state) {
                    return Ok(runs);
                }
                let tries = moves.iter().map(|one| one.step).collect();
                self.forks.push(Fork { state, tries, at: 0, runs: 0 });
            }
            let step = self.forks[depth].step().ok_or("a state in which nothing can happen")?;
            let one = moves.into_iter().find(|one| one.step == step);
            let one = one.ok_or_else(|| format!("the same steps led to another state, in which this cannot happen: {step}"))?;
            if depth + 1 >= old {
                self.count.events += 1;
                self.count.faults += u64::from(step.is_fault());
                self.count.crashes += u64::from(matches!(step.what, Happens::Crash(..)));
            }
            if step.what == Happens::End {
                self.count.longest = self.count.longest.max(self.forks.len());
                let ended = play.ended();
                (self.claim)(&ended)?;
                let outcome = play.heal()?;
                self.count.endings.insert(ended.ending);
                *self.count.outcomes.entry(outcome).or_insert(0) += 1;
                return Ok(1);
            }
            play.step(one)?;
        }
        Ok(0)
    }
}

fn violation(small: &Small, who: &Who, forks: &[Fork], why: String) -> Violation {
    let steps: Vec<String> = forks.iter().filter_map(Fork::step).map(|step| step.to_string()).collect();
    let mut play = Play::new(small, who, true);
    // What does not hold is known: here only the story counts.
    let _why = follow(&mut play, &steps).and_then(|()| play.heal().map(|_| ()));
    Violation { world: small.name.clone(), why, steps, story: play.world.trace().lines() }
}

/// Takes the steps of a list.
fn follow(play: &mut Play<'_>, steps: &[String]) -> Result<(), String> {
    for wanted in steps {
        let one = play.moves().into_iter().find(|one| one.step.to_string() == *wanted).ok_or_else(|| format!("not possible: {wanted}"))?;
        play.step(one)?;
    }
    Ok(())
}

/// A run by its list of steps. Says what does not hold in it, if anything.
pub(crate) fn replay(small: &Small, steps: &[String], claim: Claim<'_>) -> Result<(), String> {
    let who = small.who();
    let mut play = Play::new(small, &who, false);
    follow(&mut play, steps)?;
    claim(&play.ended())?;
    play.heal().map(|_| ())
}

impl Play<'_> {
    /// How the run has ended.
    fn ended(&self) -> Ended {
        Ended { yes: self.both_said_yes(crate::Dev(0), crate::Dev(1)), ending: self.ending() }
    }

    /// Something happens, and what must hold then is checked.
    fn step(&mut self, one: Move) -> Result<(), String> {
        let stores = self.perform(one);
        self.check_events()?;
        if stores { self.check_stores() } else { Ok(()) }
    }
}
