//! The house rules that a compiler does not check: floors of the core, arrows between crates, words and lengths.

use std::collections::{BTreeMap, BTreeSet};

use kin_tests::repository::{Role, Source, files, has_word, indent, rust_files, without_comment};

/// The floors of the core, from the ground up. A module may use what stands on its own floor and below.
///
/// A longer path wins: what stands here under a room (`session::record`) is a plain value without a machine, which other rooms
/// may use; the rest of the room is on the floor of the machines.
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["crypto", "ids", "limits", "time", "entropy", "planted", "probe"]),
    ("words", &["identity", "info", "faults", "records", "wire::cbor", "wire::encode", "wire::header"]),
    (
        "values",
        &[
            "wire",
            "bulk",
            "handshake",
            "pairing::code",
            "pairing::handshake",
            "pairing::advertisement",
            "session::keys",
            "session::record",
            "session::reader",
            "session::stream",
            "session::window",
            "session::handshake",
            "transfer::manifest",
            "transfer::layout",
            "transfer::ranges",
            "transfer::path",
            "transfer::receipt",
        ],
    ),
    ("boundary", &["effects"]),
    ("how they speak", &["timers", "outbox"]),
    ("machines", ROOMS),
    ("routes", &["node"]),
];

/// The rooms: what one must know of another passes through the node as a value.
const ROOMS: &[&str] = &["pairing", "session", "transfer", "messages", "devices"];

/// Imports that point up, each with its reason.
const UPWARD: &[(&str, &str, &str)] = &[
    ("timers", "transfer::machine", "a timer's kind names the machine that it wakes"),
    ("outbox", "transfer::machine", "a ticket's purpose names the job that waits for it"),
    ("outbox", "messages", "the same"),
];

/// Functions that may be longer than [`FUNCTION_LINES`], as `(file, function, reason)`.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    ("adapter-sim/src/script/draw.rs", "fault", "a table of families: an arm each"),
    ("adapter-sim/src/adversary.rs", "enemy", "a table of moves: an arm each"),
];

/// Files that may be longer than [`FILE_LINES`], with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

const FUNCTION_LINES: usize = 100;
const FILE_LINES: usize = 900;

/// The floor of a module path such as `session::record`: its number, and the entry of the table that decided it.
fn floor(path: &str) -> Option<(usize, &'static str)> {
    let mut best: Option<(usize, &'static str)> = None;
    for (number, (_, modules)) in FLOORS.iter().enumerate() {
        for module in *modules {
            let inside = path == *module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"));
            if inside && best.is_none_or(|(_, known)| known.len() < module.len()) {
                best = Some((number, module));
            }
        }
    }
    best
}

/// The module path of a file of the core, without `crate`.
fn module_of(path: &str) -> String {
    let inner = path.trim_start_matches("protocol-core/src/").trim_end_matches(".rs");
    inner.replace('/', "::")
}

/// Every path below the crate's root that the shipped code of a file names, by `crate::` or `super::`, with its line.
fn paths_named(source: &Source) -> Vec<(usize, String)> {
    let code = source.shipped_code();
    let starts: Vec<usize> = code
        .iter()
        .scan(0, |at, (_, line)| {
            let start = *at;
            *at += line.len() + 1;
            Some(start)
        })
        .collect();
    let text: String = code.iter().map(|(_, line)| format!("{line}\n")).collect();
    let line_at = |at: usize| code[starts.partition_point(|start| *start <= at) - 1].0;
    let here = module_of(&source.path);
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        if !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            let mut paths = Vec::new();
            tree(&text[at + "crate::".len()..], "", &mut paths);
            found.extend(paths.into_iter().map(|path| (line_at(at), path)));
        }
    }
    for (at, _) in text.match_indices("super::") {
        if text[..at].ends_with("super::") || text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut rest = &text[at..];
        let mut base: Vec<&str> = here.split("::").collect();
        while let Some(behind) = rest.strip_prefix("super::") {
            base.pop();
            rest = behind;
        }
        let mut paths = Vec::new();
        tree(rest, &base.join("::"), &mut paths);
        found.extend(paths.into_iter().map(|path| (line_at(at), path)));
    }
    found
}

/// Reads one use tree: `a::b`, `a::{b, c::d}`. Returns what is behind it.
fn tree<'a>(text: &'a str, base: &str, paths: &mut Vec<String>) -> &'a str {
    let mut rest = text.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(behind) = inner.strip_prefix('}') {
                return behind;
            }
            let behind = tree(inner, base, paths).trim_start();
            let behind = behind.strip_prefix(',').unwrap_or(behind);
            if behind.len() == inner.len() || behind.is_empty() {
                return behind;
            }
            inner = behind;
        }
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    let path = if name == "self" || name.is_empty() {
        base.to_owned()
    } else if base.is_empty() {
        name.to_owned()
    } else {
        format!("{base}::{name}")
    };
    rest = behind;
    if let Some(deeper) = rest.strip_prefix("::") {
        return tree(deeper, &path, paths);
    }
    paths.push(path);
    if let Some(renamed) = rest.strip_prefix(" as ") {
        let end = renamed.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(renamed.len());
        rest = &renamed[end..];
    }
    rest
}

fn room(path: &str) -> Option<&str> {
    path.split("::").next().filter(|first| ROOMS.contains(first))
}

#[test]
fn imports_of_the_core_point_down() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    let core = |source: &Source| source.path.starts_with("protocol-core/src/") && source.role() == Role::Shipped;
    for source in rust_files().iter().filter(|source| core(source) && source.path != "protocol-core/src/lib.rs") {
        let from = module_of(&source.path);
        let Some((from_floor, from_entry)) = floor(&from) else {
            wrong.push(format!("{}: no floor for this module", source.path));
            continue;
        };
        for (line, to) in paths_named(source) {
            seen += 1;
            let place = format!("{}:{line}: {from} → {to}", source.path);
            let Some((to_floor, to_entry)) = floor(&to) else {
                wrong.push(format!("{place}: no floor for this path"));
                continue;
            };
            let excused = UPWARD.iter().any(|(a, b, _)| *a == from_entry && to.starts_with(b));
            // A room's own front file may name its parts, whatever their floor; a part may not name the room's machines.
            if to_floor > from_floor && !excused {
                wrong.push(format!("{place}: from the floor \"{}\" up to \"{}\"", FLOORS[from_floor].0, FLOORS[to_floor].0));
            }
            let machines = ROOMS.contains(&from_entry) && ROOMS.contains(&to_entry);
            if machines && room(&from) != room(&to) {
                wrong.push(format!("{place}: one room's machines know another's"));
            }
        }
    }
    assert!(seen > 20, "only {seen} imports were found: the reader of imports is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_reads_trees() {
    let text = "use crate::{a::{b, c as d}, e};\nuse super::f::{self, g};\nfn x(y: crate::h::I) {}\n";
    let source = Source { path: "protocol-core/src/room/part.rs".to_owned(), text: text.to_owned() };
    let named: Vec<(usize, String)> = paths_named(&source);
    let expected = [(1, "a::b"), (1, "a::c"), (1, "e"), (3, "h::I"), (2, "room::f"), (2, "room::f::g")];
    assert_eq!(named, expected.map(|(line, path)| (line, path.to_owned())));
    assert_eq!(floor("session::record::Sealer").map(|(number, entry)| (FLOORS[number].0, entry)), Some(("values", "session::record")));
    assert_eq!(floor("session").map(|(number, entry)| (FLOORS[number].0, entry)), Some(("machines", "session")));
    assert_eq!(floor("sessions"), None);
}

#[test]
fn the_core_has_no_clock_no_io_and_no_hash_order() {
    let forbidden = ["std", "HashMap", "HashSet", "Instant", "SystemTime", "println", "eprintln", "dbg", "f32", "f64"];
    let mut wrong = Vec::new();
    for source in rust_files() {
        if !source.path.starts_with("protocol-core/src/") || source.role() != Role::Shipped {
            continue;
        }
        for (line, code) in source.shipped_code() {
            let met = forbidden.iter().filter(|word| has_word(&code, word));
            wrong.extend(met.map(|word| format!("{}:{line}: {word}", source.path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names of the workspace's crates that stand in a section of a manifest.
fn own_dependencies(manifest: &str, sections: &[&str]) -> BTreeSet<String> {
    const OWN: &[&str] = &["protocol-core", "adapter-sim", "adapter-tokio", "kin", "kin-tests"];
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            let target = section.rsplit_once('.').filter(|(kind, _)| sections.contains(kind)).map(|(_, name)| name);
            found.extend(target.filter(|name| OWN.contains(name)).map(str::to_owned));
        } else if sections.iter().any(|wanted| section == *wanted || section.ends_with(&format!(".{wanted}"))) {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if OWN.contains(&name) {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn arrows_between_crates_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("protocol-core", &[][..]),
        ("adapter-sim", &["protocol-core"][..]),
        ("adapter-tokio", &["protocol-core"][..]),
        ("cli", &["protocol-core", "adapter-tokio"][..]),
    ]);
    let all = files();
    for (directory, allowed) in allowed {
        let path = format!("{directory}/Cargo.toml");
        let manifest = all.iter().find(|source| source.path == path).expect("every crate has a manifest");
        let sections: &[&str] = match directory {
            "protocol-core" => &["dependencies", "build-dependencies", "dev-dependencies"],
            _ => &["dependencies", "build-dependencies"],
        };
        let found = own_dependencies(&manifest.text, sections);
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert!(found.is_subset(&allowed), "{path} depends on {found:?}, allowed are {allowed:?}");
        assert_eq!(found.is_empty(), directory == "protocol-core", "{path}: the reader of manifests found {found:?}");
    }
}

#[test]
fn module_files_have_names() {
    let wrong: Vec<String> = files().into_iter().map(|s| s.path).filter(|path| path.ends_with("/mod.rs")).collect();
    assert!(wrong.is_empty(), "a module's file is named after it: {wrong:?}");
}

#[test]
fn no_test_waits_by_sleeping() {
    let words = [concat!("thread::", "sleep"), concat!("time::", "sleep("), concat!("time::", "sleep_until(")];
    let mut wrong = Vec::new();
    for source in rust_files() {
        let tests = source.test_lines();
        for (number, line) in source.text.lines().enumerate().filter(|(number, _)| tests.contains(number)) {
            let code = without_comment(line);
            wrong.extend(words.iter().filter(|word| code.contains(*word)).map(|word| format!("{}:{}: {word}", source.path, number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_banned_words() {
    let words = [concat!("to", "do!"), concat!("un", "implemented!"), concat!("#[", "ignore"), concat!("#[should", "_panic")];
    let mut wrong = Vec::new();
    for source in rust_files() {
        for (number, line) in source.text.lines().enumerate() {
            let code = without_comment(line);
            wrong.extend(words.iter().filter(|word| code.contains(*word)).map(|word| format!("{}:{}: {word}", source.path, number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions with their first line (from 1) and their length, found by the layout that rustfmt gives.
fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = without_comment(line).trim_start();
        let modifiers = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "];
        let mut rest = code;
        while let Some(behind) = modifiers.iter().find_map(|word| rest.strip_prefix(word)) {
            rest = behind;
        }
        let Some(named) = rest.strip_prefix("fn ") else { continue };
        let name: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let closing = |other: &str| indent(other) == indent(line) && other.trim_start().starts_with('}');
        let one_line = code.ends_with('}') || code.ends_with(';');
        let end = if one_line { at } else { (at + 1..lines.len()).find(|other| closing(lines[*other])).unwrap_or(at) };
        found.push((name, at + 1, end - at + 1));
    }
    found
}

#[test]
fn functions_and_files_are_short() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for source in rust_files() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES && !LONG_FILES.iter().any(|(path, _)| *path == source.path) {
            wrong.push(format!("{}: {lines} lines", source.path));
        }
        for (name, line, length) in functions(&source) {
            count += 1;
            let excused = LONG_FUNCTIONS.iter().any(|(path, function, _)| *path == source.path && *function == name);
            if length > FUNCTION_LINES && !excused {
                wrong.push(format!("{}:{line}: {name} has {length} lines", source.path));
            }
        }
    }
    assert!(count > 50, "only {count} functions were found: the reader of functions is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_names_a_place_of_one_machine() {
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home", "/runner"), concat!("replace", "-with")];
    let mut wrong = Vec::new();
    for source in files() {
        for (number, line) in source.text.lines().enumerate() {
            wrong.extend(words.iter().filter(|word| line.contains(*word)).map(|word| format!("{}:{}: {word}", source.path, number + 1)));
            // Where crates come from is said by the lock file alone, and only by the name of the public index.
            let from = line.trim().strip_prefix("source = ").filter(|_| source.path.ends_with("Cargo.lock"));
            if from.is_some_and(|from| from != "\"registry+https://github.com/rust-lang/crates.io-index\"") {
                wrong.push(format!("{}:{}: {line}", source.path, number + 1));
            }
            let settings = source.path.ends_with(".toml")
                && (line.starts_with("[source]") || line.starts_with("[source.") || line.starts_with("[registries"));
            if settings || (source.path.ends_with("Cargo.toml") && has_word(line, "registry")) {
                wrong.push(format!("{}:{}: {line}", source.path, number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
