//! Small files that other programs wait for: written beside and moved into place, so that nobody reads half of one.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use protocol_core::info::Address;

use crate::exit::{Exit, Outcome, Problem};

/// Writes `text` to `path` atomically, readable for this user only.
pub(crate) fn write(path: &Path, text: &str) -> Outcome {
    let failed = |error: std::io::Error| Problem::new(Exit::LocalIo, format!("{} cannot be written: {error}", path.display()));
    let name = path.file_name().ok_or_else(|| Problem::usage(format!("{} is no name of a file", path.display())))?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|error| {
        // Best effort: the error that is reported is the one that matters.
        drop(fs::remove_file(&beside));
        failed(error)
    })
}

/// Writes addresses, one a line.
pub(crate) fn write_addresses(path: &Path, addresses: &[Address]) -> Outcome {
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    write(path, &lines)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_file_is_whole_private_and_alone() {
        let scratch = Scratch::new("kin-test").unwrap();
        let path = scratch.path().join("addresses");
        fs::write(&path, "old").unwrap();
        write_addresses(&path, &["tcp:127.0.0.1:1".parse().unwrap(), "tcp:[::1]:2".parse().unwrap()]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "tcp:127.0.0.1:1\ntcp:[::1]:2\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn failing_leaves_nothing() {
        let scratch = Scratch::new("kin-test").unwrap();
        let directory = scratch.path().join("taken");
        fs::create_dir(&directory).unwrap();
        assert_eq!(write(&directory, "x").unwrap_err().exit, Exit::LocalIo);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
        assert_eq!(write(&scratch.path().join("no/such/file"), "x").unwrap_err().exit, Exit::LocalIo);
    }
}
