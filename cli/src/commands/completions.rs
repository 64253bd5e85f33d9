//! `kin completions`: the script that a shell sources, and the functions that answer it. They open no network and take no lock.

use std::ffi::OsStr;
use std::io::{self, Write as _};

use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use protocol_core::pairing::code::complete;

use super::home;
use crate::exit::{Exit, Outcome, Problem};
use crate::registry::devices;

/// The variable by which the script asks this program.
const VARIABLE: &str = "COMPLETE";

pub(crate) fn run(shell: &str) -> Outcome {
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or_else(|| Problem::usage(format!("no completions for {shell}")))?;
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, "kin", "kin", "kin", &mut script);
    written.and_then(|()| io::stdout().write_all(&script)).map_err(|error| Problem::new(Exit::LocalIo, error.to_string()))
}

/// The words of the list that begin like this.
pub(crate) fn complete_word(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = current.to_str().filter(|prefix| !prefix.is_empty()) else { return Vec::new() };
    complete(&prefix.to_lowercase()).map(CompletionCandidate::new).collect()
}

/// The devices whose names or ids begin like this.
pub(crate) fn complete_device(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = current.to_str() else { return Vec::new() };
    let chosen = std::env::var_os("KIN_HOME").map(std::path::PathBuf::from);
    let Ok(home) = home(chosen.as_deref()) else { return Vec::new() };
    let Ok(devices) = devices(&home) else { return Vec::new() };
    let candidate = |device: &crate::events::Device| {
        let by_name = device.name.starts_with(prefix).then(|| device.name.clone());
        let found = by_name.or_else(|| (!prefix.is_empty() && device.device_id.starts_with(prefix)).then(|| device.device_id.clone()));
        found.filter(|text| !text.chars().any(char::is_control)).map(CompletionCandidate::new)
    };
    devices.iter().filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_complete_in_any_case() {
        let found = complete_word(OsStr::new("Aband"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].get_value(), "abandon");
        assert!(complete_word(OsStr::new("")).is_empty());
    }
}
