//! Scripts of runs that once broke a rule. Nothing is broken in them any more.

use std::path::Path;

use adapter_sim::run::run;
use adapter_sim::script::Script;
use protocol_core::planted::{self, Bug};

/// PAIR-49: each script says in its first line what it shows.
/// XFER-24.
#[test]
fn nothing_is_broken_in_any_script() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut played = 0;
    for file in std::fs::read_dir(&scripts).expect("the scripts") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        assert!(text.starts_with("# "), "{}: the first line says what the script shows", path.display());
        let script = Script::from_text(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let outcome = run(&script);
        assert_eq!(outcome.violation, None, "{}", path.display());
        played += 1;
    }
    assert!(played > 0);

    // What random worlds do not lead to within reason, a script does.
    for (name, bug) in [
        ("asked-for-what-is-not-paired-yet", Bug::UnfinishedRefused),
        ("removed-while-pairing-again", Bug::NewerUnkept),
        ("told-before-it-is-known-who-goes-on", Bug::QuestionIgnored),
    ] {
        let text = std::fs::read_to_string(scripts.join(name).with_extension("script")).expect("a script");
        let script = Script::from_text(&text).expect("it was read above");
        planted::plant(Some(bug));
        let outcome = run(&script);
        planted::plant(None);
        assert!(outcome.violation.is_some(), "{name} does not show {}", bug.name());
    }
}
