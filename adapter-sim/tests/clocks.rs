//! S14: what time a device believes it is decides nothing about who is trusted, what is refused and what arrives.

use adapter_sim::run::{Outcome, run};
use adapter_sim::script::{Profile, Script, Step, Timed};

/// Seeds of each profile.
const SEEDS: u64 = 6;

/// As a script says, with clocks that are wrong by so many seconds from the beginning.
fn shifted(script: &Script, seconds: i64) -> Outcome {
    let mut script = script.clone();
    let jumps = (0..script.setting.wires.len()).map(|dev| Timed { at: 0, step: Step::WallClock { dev, seconds } });
    script.steps = jumps.chain(script.steps.iter().cloned()).collect();
    run(&script)
}

/// Jumps of a clock in the middle are another matter: a pending root lives a day by that clock (PAIR-44).
#[test]
fn a_run_is_the_same_in_any_century() {
    for (name, profile) in Profile::ALL {
        for seed in 0..SEEDS {
            let mut script = Script::of_seed(seed, *profile);
            script.steps.retain(|timed| !matches!(timed.step, Step::WallClock { .. }));
            let now = shifted(&script, 1);
            for seconds in [315_360_000, -315_360_000, -1_799_000_000] {
                let then = shifted(&script, seconds);
                let decided = |outcome: &Outcome| (outcome.violation.clone(), outcome.events, outcome.transitions.clone(), outcome.sealed);
                assert_eq!(decided(&now), decided(&then), "{name} {seed}, {seconds} s");
            }
        }
    }
}
