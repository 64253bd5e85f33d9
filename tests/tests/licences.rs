//! Every crate that is built into the program, or into its tests, has a licence that the project accepts.

use std::collections::BTreeSet;
use std::process::Command;

use kin_tests::repository::{files, root};

/// Whether an SPDX expression can be met by accepted licences alone. `/` is the old way to write OR.
fn acceptable(expression: &str, accepted: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = alternatives(&words, accepted);
    assert!(rest.is_empty(), "the expression {expression:?} is not understood at {rest:?}");
    met
}

fn alternatives<'a>(words: &'a [&'a str], accepted: &[String]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = all_of(words, accepted);
    while let ["OR", behind @ ..] = rest {
        let (other, behind) = all_of(behind, accepted);
        met |= other;
        rest = behind;
    }
    (met, rest)
}

fn all_of<'a>(words: &'a [&'a str], accepted: &[String]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(words, accepted);
    while let ["AND", behind @ ..] = rest {
        let (other, behind) = one(behind, accepted);
        met &= other;
        rest = behind;
    }
    (met, rest)
}

fn one<'a>(words: &'a [&'a str], accepted: &[String]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => {
            let (met, rest) = alternatives(inner, accepted);
            (met, rest.strip_prefix(&[")"]).expect("a bracket is closed"))
        }
        [name, "WITH", exception, rest @ ..] => (accepted.contains(&format!("{name} WITH {exception}")), rest),
        [name, rest @ ..] => (accepted.iter().any(|known| known == name), rest),
        [] => (false, words),
    }
}

/// The licences that deny.toml allows: one list for this test and for cargo-deny.
fn accepted() -> Vec<String> {
    let all = files();
    let settings = all.iter().find(|source| source.path == "deny.toml").expect("deny.toml is there");
    let list = settings.text.split_once("\nallow = [").expect("deny.toml has a list of licences").1;
    let list = list.split_once(']').expect("the list ends").0;
    list.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.current_dir(root()).output().expect("the tool runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn expressions_are_understood() {
    let accepted = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned);
    for good in ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception OR GPL-3.0"] {
        assert!(acceptable(good, &accepted), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR MPL-2.0)", "MIT WITH strange-exception"] {
        assert!(!acceptable(bad, &accepted), "{bad}");
    }
}

#[test]
fn every_dependency_has_an_accepted_licence() {
    // What is compiled on this platform: the lock file also names what some feature might want that nobody has asked for, and the crates
    // of other platforms need not have been fetched. Nothing is fetched here.
    let arguments = ["tree", "--workspace", "--offline", "--locked", "-e", "normal,build,dev", "--prefix", "none", "--format", "{p}|{l}"];
    let tree = String::from_utf8(run(Command::new(env!("CARGO")).args(arguments))).expect("cargo writes text");
    let accepted = accepted();
    assert!(accepted.len() > 5, "the list of licences was not read: {accepted:?}");
    let packages: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty()).collect();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let wrong: Vec<&str> =
        packages.into_iter().filter(|package| package.split_once('|').is_none_or(|(_, licence)| !acceptable(licence, &accepted))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
