//! Every committed input of the fuzz targets, replayed through the same bodies.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use adapter_sim::fuzz::TARGETS;
use kin_tests::repository::root;

/// Most files of one target, and most bytes of them together.
const FILES: usize = 60;
const BYTES: usize = 200_000;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("the entry can be read").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_target_has_a_body_a_program_and_a_corpus() {
    let fuzz = root().join("fuzz");
    let bodies: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs: BTreeSet<String> = bodies.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz.join("corpus")), bodies, "corpora");
    assert_eq!(names(&fuzz.join("fuzz_targets")), programs, "programs");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest is there");
    for name in bodies {
        let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).expect("it was listed");
        assert!(program.contains(&format!("adapter_sim::fuzz::{name}(data)")), "the program {name} calls another body");
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} is not in the manifest");
    }
}

#[test]
// LIM-6.
fn every_input_of_every_corpus_replays() {
    let mut failed = Vec::new();
    for (target, body) in TARGETS {
        let directory = root().join("fuzz/corpus").join(target);
        let inputs = names(&directory);
        assert!(!inputs.is_empty() && inputs.len() <= FILES, "{target}: {} files", inputs.len());
        let mut bytes = 0;
        for input in inputs {
            let data = fs::read(directory.join(&input)).expect("it was listed");
            bytes += data.len();
            if catch_unwind(|| body(&data)).is_err() {
                failed.push(format!("{target}/{input}"));
            }
        }
        assert!(bytes <= BYTES, "{target}: {bytes} bytes");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Beginnings of inputs are inputs too: cheap variety without a fuzzer.
#[test]
fn every_beginning_of_a_short_input_replays() {
    for (target, body) in TARGETS {
        let directory = root().join("fuzz/corpus").join(target);
        for input in names(&directory) {
            let data = fs::read(directory.join(&input)).expect("it was listed");
            if data.len() <= 300 && !["node", "world"].contains(target) {
                (0..data.len()).for_each(|len| body(&data[..len]));
            }
        }
    }
}
