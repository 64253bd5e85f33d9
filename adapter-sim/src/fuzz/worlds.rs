//! A whole world out of a tape: the script that its bytes are, played with every rule watched.

use crate::choice::Tape;
use crate::mutants::profile_of;
use crate::run::run;
use crate::script::Script;

/// A longer tape says nothing more: scripts are short.
const TAPE: usize = 2_000;

/// The body of the target: the first byte is the profile, the others are the tape.
///
/// # Panics
/// If a rule is broken, with the script.
pub fn world(data: &[u8]) {
    let (&first, tape) = data.split_first().unwrap_or((&0, &[]));
    let profile = profile_of(u64::from(first));
    let script = Script::draw(&mut Tape::of_bytes(&tape[..tape.len().min(TAPE)]), profile);
    if let Some(violation) = run(&script).violation {
        panic!("{}: {}\n{}", violation.rule, violation.what, script.to_text());
    }
}
