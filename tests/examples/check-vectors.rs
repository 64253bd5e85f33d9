//! Checks a file of test vectors against the shipped code: `cargo run --release --example check-vectors -- FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: check-vectors FILE");
        return ExitCode::from(2);
    };
    let json = match std::fs::read(&file)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| error.to_string()))
    {
        Ok(json) => json,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::from(2);
        }
    };
    let report = kin_tests::vectors::check_all(&json);
    if report.differing.is_empty() {
        println!("{0} of {0} values equal", report.checked);
        return ExitCode::SUCCESS;
    }
    for differing in &report.differing {
        println!("{differing}");
    }
    ExitCode::FAILURE
}
