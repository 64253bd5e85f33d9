//! Whole worlds out of any bytes: proptest draws the tape, and shrinks it.

use adapter_sim::choice::Tape;
use adapter_sim::mutants::profile_of;
use adapter_sim::run::run;
use adapter_sim::script::Script;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Runs of one test. Each is a world with up to a few hundred events, more of them with longer tapes.
const RUNS: u32 = 48;
const TAPE: usize = 160;

/// The same tapes every time: what a run of this test finds, every run of it finds.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

fn script(bytes: &[u8]) -> Script {
    let (number, tape) = bytes.split_first().map_or((0, bytes), |(&first, rest)| (u64::from(first), rest));
    Script::draw(&mut Tape::of_bytes(tape), profile_of(number))
}

/// Plays what tapes say and claims something of it: the smallest tape found that refutes the claim, as a script.
fn refuted(cases: u32, claim: impl Fn(&Script) -> Result<(), String>) -> Option<(String, Script)> {
    let result = runner(cases).run(&vec(any::<u8>(), 0..TAPE), |bytes| claim(&script(&bytes)).map_err(TestCaseError::fail));
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, bytes)) => Some((why.to_string(), script(&bytes))),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

#[test]
fn whatever_happens_in_a_world_no_rule_is_broken() {
    let holds = |script: &Script| match run(script).violation {
        None => Ok(()),
        Some(violation) => Err(format!("{}: {}", violation.rule, violation.what)),
    };
    if let Some((why, script)) = refuted(RUNS, holds) {
        panic!("{why}\n{}", script.to_text());
    }
}

/// A claim that is false is refuted by a small script.
#[test]
fn what_is_found_is_made_small() {
    let claim = |script: &Script| if run(script).fired.contains(&"H1") { Err("a device crashed".to_owned()) } else { Ok(()) };
    let (_, small) = refuted(400, claim).expect("devices crash");
    assert!(small.steps.len() <= 6, "{}", small.to_text());
    assert!(run(&small).fired.contains(&"H1"));
}
