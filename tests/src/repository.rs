//! The repository as text: what the tests read that judge the sources themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// A file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Its path from the root, with `/` between.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// What a Rust file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Shipped: it enforces rules.
    Shipped,
    /// It checks rules.
    Test,
    /// Neither: the simulated host, examples, build scripts.
    Aid,
}

/// Directories that are not part of the sources.
const LEFT_OUT: &[&str] = &["target", "corpus", "artifacts", "coverage"];

/// Every text file of the repository, sorted by path; files that are not UTF-8 are left out.
pub fn files() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut waiting = vec![root.clone()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("the directory can be read") {
            let entry = entry.expect("the entry can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("the entry has a type");
            if kind.is_dir() {
                let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
                if !hidden && !LEFT_OUT.contains(&name.as_str()) {
                    waiting.push(entry.path());
                }
            } else if kind.is_file()
                && name != ".git"
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(&root).expect("found below the root").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.iter().any(|source| source.path == "protocol-core/src/lib.rs"), "this is not the repository: {}", root.display());
    found
}

/// The Rust files of the repository.
pub fn rust_files() -> Vec<Source> {
    let mut all = files();
    all.retain(|source| source.path.ends_with(".rs"));
    all
}

impl Source {
    /// What the file is for, as far as its place says it.
    pub fn role(&self) -> Role {
        let parts: Vec<&str> = self.path.split('/').collect();
        let stem = parts.last().copied().unwrap_or_default();
        // Modules that only the feature `testing` compiles. What is planted names rules in order to break them.
        let of_simulator = parts[0] == "protocol-core" && ["probe.rs", "planted.rs"].contains(&stem);
        if of_simulator {
            Role::Aid
        } else if parts[0] == "tests" || parts[0] == "fuzz" || parts.contains(&"tests") || stem == "tests.rs" {
            Role::Test
        } else if parts[0] != "adapter-sim" && parts.get(1) == Some(&"src") {
            Role::Shipped
        } else {
            Role::Aid
        }
    }

    /// The numbers (from 0) of the lines that only tests are built from: all of a test file, and every item below `#[cfg(test)]` or
    /// below the feature `testing`, which the simulator has and the program has not.
    pub fn test_lines(&self) -> BTreeSet<usize> {
        let lines: Vec<&str> = self.text.lines().collect();
        if self.role() == Role::Test {
            return (0..lines.len()).collect();
        }
        let mut tests = BTreeSet::new();
        for (at, line) in lines.iter().enumerate() {
            let attribute = line.trim_start();
            let of_tests = ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test", "#[cfg(feature = \"testing\")]"];
            if of_tests.iter().any(|start| attribute.starts_with(start)) {
                tests.extend(at..=end_of_item(&lines, at));
            }
        }
        tests
    }

    /// Lines with their numbers (from 1) that are shipped, comments removed.
    pub fn shipped_code(&self) -> Vec<(usize, String)> {
        let tests = self.test_lines();
        let lines = self.text.lines().enumerate().filter(|(at, _)| !tests.contains(at));
        lines.map(|(at, line)| (at + 1, without_comment(line).to_owned())).collect()
    }
}

/// The last line of the item that the attribute on line `at` belongs to. Relies on the layout that rustfmt gives.
fn end_of_item(lines: &[&str], at: usize) -> usize {
    let indent = indent(lines[at]);
    let mut first = at;
    while lines.get(first).is_some_and(|line| line.trim_start().starts_with("#[")) {
        first += 1;
    }
    for (number, line) in lines.iter().enumerate().skip(first) {
        let closes = indent_of_code(line) == Some(indent) && number > first && line.trim_start().starts_with('}');
        if closes || (number == first && (line.ends_with(';') || line.ends_with('}') || line.ends_with(','))) {
            return number;
        }
    }
    lines.len().saturating_sub(1)
}

/// The columns before the first character that is no space.
pub fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn indent_of_code(line: &str) -> Option<usize> {
    (!line.trim().is_empty()).then(|| indent(line))
}

/// The line up to a `//` that stands outside of a string literal.
pub fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let (mut in_string, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' if !(at > 0 && bytes[at - 1] == b'\'') => in_string = !in_string,
            b'/' if !in_string && bytes.get(at + 1) == Some(&b'/') => return &line[..at],
            _ => {}
        }
        at += 1;
    }
    line
}

/// Whether `word` stands in `text` with no letter, digit or underscore beside it.
pub fn has_word(text: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(part_of_name);
        let after = text[at + word.len()..].chars().next().is_some_and(part_of_name);
        !before && !after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_tests_from_what_is_shipped() {
        let text = "#[cfg(test)]\nextern crate std;\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        let source = Source { path: "protocol-core/src/x.rs".to_owned(), text: text.to_owned() };
        let shipped: Vec<usize> = source.shipped_code().into_iter().map(|(line, _)| line).collect();
        assert_eq!(shipped, [3, 9]);
        assert_eq!(source.role(), Role::Shipped);
    }

    #[test]
    fn comments_end_at_strings() {
        assert_eq!(without_comment("let a = \"x // y\"; // z"), "let a = \"x // y\"; ");
        assert_eq!(without_comment("let a = '\"'; // z"), "let a = '\"'; ");
        assert!(has_word("std::fmt", "std") && !has_word("not_std::fmt", "std"));
    }
}
