//! Every requirement of docs/PROTOCOL.md is cited by the code that enforces it and by a test that checks it, and nothing is
//! cited that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use kin_tests::repository::{Role, Source, files};

const SPECIFICATION: &str = "docs/PROTOCOL.md";
const KINDS: &[&str] = &["ID", "PAIR", "LINK", "KEEP", "DATA", "XFER", "MSG", "UNP", "POL", "DISC", "CUST", "PATH", "LIM", "HOST"];

/// A requirement's name: its kind and number.
type Id = (String, u32);

/// The ids in a line, with the position of each.
fn ids(line: &str) -> Vec<(usize, Id)> {
    let mut found = Vec::new();
    for kind in KINDS {
        for (at, _) in line.match_indices(&format!("{kind}-")) {
            let inside_a_word = line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
            let digits: String = line[at + kind.len() + 1..].chars().take_while(char::is_ascii_digit).collect();
            if let (false, Ok(number)) = (inside_a_word, digits.parse()) {
                found.push((at, ((*kind).to_owned(), number)));
            }
        }
    }
    found
}

fn show(ids: &BTreeSet<Id>) -> String {
    ids.iter().map(|(kind, number)| format!("{kind}-{number}")).collect::<Vec<_>>().join(" ")
}

/// The requirements in the order of the specification: those that open a list item in bold.
fn defined(sources: &[Source]) -> Vec<Id> {
    let specification = sources.iter().find(|source| source.path == SPECIFICATION).expect("the specification is there");
    let items = specification.text.lines().filter(|line| line.starts_with("* **"));
    items.filter_map(|line| ids(line).into_iter().find(|(at, _)| *at == 4).map(|(_, id)| id)).collect()
}

#[test]
fn ids_are_distinct_and_count_up() {
    let mut last: BTreeMap<String, u32> = BTreeMap::new();
    let all = defined(&files());
    assert!(all.len() > 100, "only {} requirements were found: the form of the list changed", all.len());
    for (kind, number) in all {
        let before = last.insert(kind.clone(), number).unwrap_or(0);
        assert!(number > before, "{kind}-{number} stands behind {kind}-{before}");
    }
}

#[test]
fn every_requirement_is_cited_by_code_and_by_a_test() {
    let sources = files();
    let defined: BTreeSet<Id> = defined(&sources).into_iter().collect();
    let (mut by_code, mut by_tests, mut unknown) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let rust = |source: &&Source| source.path.ends_with(".rs") && source.path != "tests/tests/trace.rs";
    for source in sources.iter().filter(rust) {
        let tests = source.test_lines();
        for (number, line) in source.text.lines().enumerate() {
            for (_, id) in ids(line) {
                if !defined.contains(&id) {
                    unknown.push(format!("{}:{}: {}-{}", source.path, number + 1, id.0, id.1));
                } else if tests.contains(&number) {
                    by_tests.insert(id);
                } else if source.role() == Role::Shipped {
                    by_code.insert(id);
                }
            }
        }
    }
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let strange = source.text.lines().flat_map(ids).filter(|(_, id)| !defined.contains(id));
        unknown.extend(strange.map(|(_, id)| format!("{}: {}-{}", source.path, id.0, id.1)));
    }
    let no_code: BTreeSet<Id> = defined.difference(&by_code).cloned().collect();
    let no_test: BTreeSet<Id> = defined.difference(&by_tests).cloned().collect();
    assert!(
        no_code.is_empty() && no_test.is_empty() && unknown.is_empty(),
        "of {} requirements\n{} are cited by no code: {}\n{} are cited by no test: {}\ncited and unknown: {unknown:#?}",
        defined.len(),
        no_code.len(),
        show(&no_code),
        no_test.len(),
        show(&no_test),
    );
}
