//! The smallest script that still breaks the same rule.

use crate::run::run;
use crate::script::Script;
use crate::world::Pieces;

/// Runs that a search may take.
const RUNS: usize = 3_000;

struct Search {
    rule: &'static str,
    runs: usize,
}

impl Search {
    /// Whether the script still breaks the rule.
    fn fails(&mut self, script: &Script) -> bool {
        self.runs += 1;
        run(script).violation.is_some_and(|violation| violation.rule == self.rule)
    }

    /// Takes the change if the script still fails with it.
    fn try_change(&mut self, script: &mut Script, change: impl FnOnce(&mut Script)) -> bool {
        if self.runs >= RUNS {
            return false;
        }
        let mut smaller = script.clone();
        change(&mut smaller);
        let better = smaller != *script && self.fails(&smaller);
        if better {
            *script = smaller;
        }
        better
    }

    /// Leaves out steps: halves, quarters, … single ones, from the end.
    fn fewer_steps(&mut self, script: &mut Script) {
        let mut size = script.steps.len().div_ceil(2);
        while size > 0 {
            let mut end = script.steps.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                self.try_change(script, |script| drop(script.steps.drain(start..end)));
                end = start;
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Makes the world simpler, and moves steps together.
    fn simpler(&mut self, script: &mut Script) {
        self.try_change(script, |script| script.setting.chance = 0);
        self.try_change(script, |script| script.setting.pieces = Pieces::Whole);
        self.try_change(script, |script| script.setting.latency = (0, 0));
        self.try_change(script, |script| script.setting.aes = 0);
        self.try_change(script, |script| script.setting.patient = false);
        if script.setting.wires.len() > 2 {
            self.try_change(script, |script| {
                script.setting.wires.pop();
            });
        }
        let first = script.setting.wires.first().copied();
        self.try_change(script, |script| script.setting.wires.iter_mut().for_each(|wire| *wire = first.unwrap_or(*wire)));
        for at in 0..script.steps.len() {
            let before = if at == 0 { 0 } else { script.steps[at - 1].at };
            let gap = script.steps[at].at.saturating_sub(before);
            for smaller in [0, gap / 8, gap / 2] {
                let less = gap - smaller;
                if less > 0 && self.try_change(script, |script| script.steps[at..].iter_mut().for_each(|step| step.at -= less.min(step.at)))
                {
                    break;
                }
            }
        }
        for at in 0..script.steps.len() {
            let round = script.steps[at].at / 1_000 * 1_000;
            self.try_change(script, |script| script.steps[at].at = round);
        }
    }
}

/// The smallest script found that breaks the same rule as this one; `None` if this one breaks none.
pub fn shrink(script: &Script) -> Option<Script> {
    let rule = run(script).violation?.rule;
    let mut search = Search { rule, runs: 0 };
    let mut small = script.clone();
    loop {
        let before = small.clone();
        search.fewer_steps(&mut small);
        search.simpler(&mut small);
        if small == before || search.runs >= RUNS {
            return Some(small);
        }
    }
}
