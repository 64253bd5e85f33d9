//! docs/FAULTS.md says what is true: what it calls drawn is drawn, and what it calls checked is checked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How many kinds each letter of the catalogue has.
const KINDS: &[(char, usize)] = &[('N', 27), ('H', 25), ('A', 19), ('P', 19)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows below a heading, cell by cell.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = read("docs/FAULTS.md");
    let below = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let lines = below.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| "));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    lines.map(cells).filter(|cells| cells[0] != "id" && !cells[0].starts_with("---")).collect()
}

/// What stands between backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// All of the crate's sources.
fn sources(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

fn source() -> String {
    let mut all = String::new();
    sources(&root().join("adapter-sim/src"), &mut all);
    all
}

/// Whether an enum of the sources has a variant.
fn has_variant(source: &str, name: &str) -> bool {
    let (of, variant) = name.split_once("::").unwrap_or_else(|| panic!("{name} is no variant"));
    let Some((_, body)) = source.split_once(&format!("pub enum {of} {{\n")) else { return false };
    let body = body.split("\n}\n").next().unwrap_or("");
    body.lines()
        .any(|line| line.strip_prefix("    ").is_some_and(|line| line.trim_end_matches(',').split([' ', '(']).next() == Some(variant)))
}

#[test]
fn every_kind_of_fault_is_marked_and_what_is_called_drawn_is() {
    let (source, rows) = (source(), rows("Faults"));
    let expected: Vec<String> =
        KINDS.iter().flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}"))).collect();
    assert_eq!(rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), expected);
    let mut wrong = Vec::new();
    for row in &rows {
        let [id, _, place, how] = &row[..] else { panic!("{row:?}") };
        assert!(["sim", "lab", "test", "later", "n.a."].contains(&place.as_str()), "{id}: {place}");
        assert!(!how.is_empty(), "{id} has no reason");
        if place == "test" && !names(how).iter().any(|name| root().join(name).is_file()) {
            wrong.push(format!("{id}: no test"));
        }
        let counted = how.split_once("counted as ").map_or(id.as_str(), |(_, other)| other);
        let fires = source.contains(&format!("\"{counted}\""));
        if place == "sim" {
            let variants: Vec<&str> = names(how).into_iter().filter(|name| *name != "Disk::crash").collect();
            if variants.is_empty() || !fires || variants.iter().any(|name| !has_variant(&source, name)) {
                wrong.push(format!("{id}: {variants:?}, counted as {counted}: {fires}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_is_marked_and_what_is_called_checked_is() {
    let source = source();
    let rules = rows("Rules");
    let expected: Vec<String> = (1..=39).map(|number| format!("S{number}")).chain((1..=16).map(|number| format!("L{number}"))).collect();
    assert_eq!(rules.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), expected);
    let hosts = rows("Duties of a host").into_iter().map(|row| vec![row[0].clone(), String::new(), row[1].clone(), row[2].clone()]);
    let mut wrong = BTreeSet::new();
    for row in rules.into_iter().chain(hosts) {
        let [id, _, state, how] = &row[..] else { panic!("{row:?}") };
        let said = |name: &&str| source.contains(&format!("\"{name}\""));
        let right = match state.as_str() {
            "checked" => names(how).iter().filter(|name| !name.contains('.')).all(said) && !names(how).is_empty(),
            "test" => names(how).iter().all(|name| root().join(name).exists()) && !names(how).is_empty(),
            "later" => !how.is_empty(),
            _ => false,
        };
        if !right {
            wrong.insert(format!("{id}: {state}, {how}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_duty_of_a_host_is_marked() {
    let text = read("docs/PROTOCOL.md");
    let duties: BTreeSet<&str> = text.split("**HOST-").skip(1).filter_map(|rest| rest.split("**").next()).collect();
    let marked: Vec<String> = rows("Duties of a host").into_iter().map(|row| row[0].trim_start_matches("HOST-").to_owned()).collect();
    assert_eq!(marked.iter().map(String::as_str).collect::<BTreeSet<_>>(), duties);
}
