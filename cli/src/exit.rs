//! How a run of the program ends: the exit codes that scripts rely on, and the one place where a failure becomes one of them.

use std::fmt;
use std::process::ExitCode;

use protocol_core::faults::{CancelReason, DeclineReason, Failure, FileFault, LinkFailure, PairFailure, TransferFailure};
use serde::{Deserialize, Serialize};

/// The exit codes. Their numbers are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// Everything asked was done.
    Ok = 0,
    /// A bug of this program.
    Internal = 1,
    /// Bad flags or arguments.
    Usage = 2,
    /// Config, identity, registry or lock.
    State = 3,
    /// The peer was not found, or no route led to it, before any data.
    Unreachable = 4,
    /// The connection was lost in the middle.
    Interrupted = 5,
    /// The peer or a policy said no.
    Refused = 6,
    /// The code is wrong, malformed, expired or used, or the pairing was not confirmed.
    Pairing = 7,
    /// Authentication or digest failure; nothing was finalised.
    Integrity = 8,
    /// Disk full, permission, read error, source changed.
    LocalIo = 9,
    /// The target exists and the policy is `fail`.
    Conflict = 10,
    /// Finished, but some items were skipped or failed.
    Partial = 11,
    /// Unknown device, ambiguous name, missing path.
    NotFound = 12,
    /// The two versions do not understand each other.
    Incompatible = 13,
    /// `--wait` or `--timeout` ran out.
    Timeout = 14,
    /// The offer broke a path or size rule.
    Unsafe = 15,
    /// SIGINT.
    Interrupt = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// Whether the same command may well succeed later, with nothing else changed.
    pub(crate) const fn retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Interrupted | Self::Timeout | Self::Interrupt | Self::Terminated)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what was asked: what happened and whose fault it is, and what to type next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// A sentence for people, safe to show.
    pub(crate) message: String,
    /// The command that gets further, if one is known.
    pub(crate) next: Option<String>,
}

impl Problem {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: None }
    }

    pub(crate) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    pub(crate) fn internal(what: impl fmt::Display) -> Self {
        Self::new(Exit::Internal, format!("this is a bug of kin: {what}"))
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nothing failed that was not listed; only the exit code differs from success.
    pub(crate) fn partial(message: impl Into<String>) -> Self {
        Self::new(Exit::Partial, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Problem>;

/// The exit code of a failure: every mapping of the program stands in this trait's implementations.
pub(crate) trait Severity {
    /// The exit code it ends the program with.
    fn exit(&self) -> Exit;
}

impl Severity for PairFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::NotFound => Exit::Unreachable,
            Self::StorageHere => Exit::State,
            Self::NoEntropy => Exit::Internal,
            // Refused, declined or unanswered is one thing to a script: no pair came about.
            _ => Exit::Pairing,
        }
    }
}

impl Severity for LinkFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::Unreachable => Exit::Unreachable,
            Self::NotAccepted | Self::Removed | Self::Blocked => Exit::Refused,
            Self::Violation => Exit::Integrity,
            Self::Unfinished => Exit::Pairing,
            _ => Exit::Interrupted,
        }
    }
}

impl Severity for DeclineReason {
    fn exit(&self) -> Exit {
        match self {
            Self::UnsafeManifest => Exit::Unsafe,
            Self::Conflict => Exit::Conflict,
            Self::Mismatch => Exit::Integrity,
            Self::User | Self::Policy | Self::TooLarge | Self::NoSpace | Self::Busy | Self::Other(_) => Exit::Refused,
        }
    }
}

impl Severity for CancelReason {
    fn exit(&self) -> Exit {
        match self {
            Self::User | Self::Other(_) => Exit::Interrupted,
            Self::Source | Self::DiskFull | Self::Io => Exit::LocalIo,
            Self::Integrity => Exit::Integrity,
            Self::Policy => Exit::Refused,
        }
    }
}

impl Severity for TransferFailure {
    fn exit(&self) -> Exit {
        match self {
            Self::Declined(reason) => reason.exit(),
            Self::CancelledThere(reason) | Self::CancelledHere(reason) => reason.exit(),
            Self::Violation => Exit::Integrity,
            _ => Exit::Interrupted,
        }
    }
}

impl Severity for FileFault {
    fn exit(&self) -> Exit {
        match self {
            Self::Exists => Exit::Conflict,
            Self::Unsafe => Exit::Unsafe,
            Self::Digest => Exit::Integrity,
            Self::DiskFull
            | Self::Denied
            | Self::ReadOnly
            | Self::Failing(_)
            | Self::NotFound
            | Self::Unsupported
            | Self::Changed
            | Self::Io(_) => Exit::LocalIo,
        }
    }
}

impl Severity for Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Unreachable | Self::Refused | Self::TimedOut => Exit::Unreachable,
            Self::Gone => Exit::Interrupted,
            Self::Unsupported => Exit::Usage,
            Self::Disk(fault) => fault.exit(),
        }
    }
}

impl Severity for std::io::Error {
    fn exit(&self) -> Exit {
        match self.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::LocalIo,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_scripts_know() {
        let table = [
            (Exit::Ok, 0),
            (Exit::Internal, 1),
            (Exit::Usage, 2),
            (Exit::State, 3),
            (Exit::Unreachable, 4),
            (Exit::Interrupted, 5),
            (Exit::Refused, 6),
            (Exit::Pairing, 7),
            (Exit::Integrity, 8),
            (Exit::LocalIo, 9),
            (Exit::Conflict, 10),
            (Exit::Partial, 11),
            (Exit::NotFound, 12),
            (Exit::Incompatible, 13),
            (Exit::Timeout, 14),
            (Exit::Unsafe, 15),
            (Exit::Interrupt, 130),
            (Exit::Terminated, 143),
        ];
        for (exit, number) in table {
            assert_eq!(exit.code(), number, "{exit:?}");
        }
    }

    #[test]
    fn a_pairing_that_somebody_did_not_want_is_always_seven() {
        for failure in [
            PairFailure::Expired,
            PairFailure::Cancelled,
            PairFailure::Burned,
            PairFailure::NotAccepted,
            PairFailure::Cut,
            PairFailure::RefusedHere,
            PairFailure::RefusedThere,
            PairFailure::Policy,
            PairFailure::StorageThere,
            PairFailure::SelfPairing,
            PairFailure::Blocked,
            PairFailure::TooManyDevices,
        ] {
            assert_eq!(failure.exit(), Exit::Pairing, "{failure:?}");
        }
        assert_eq!(PairFailure::NotFound.exit(), Exit::Unreachable);
        assert_eq!(PairFailure::StorageHere.exit(), Exit::State);
    }

    #[test]
    fn transfers_end_by_whose_fault_it_was() {
        let table = [
            (TransferFailure::Declined(DeclineReason::User), Exit::Refused),
            (TransferFailure::Declined(DeclineReason::Policy), Exit::Refused),
            (TransferFailure::Declined(DeclineReason::Busy), Exit::Refused),
            (TransferFailure::Declined(DeclineReason::Conflict), Exit::Conflict),
            (TransferFailure::Declined(DeclineReason::UnsafeManifest), Exit::Unsafe),
            (TransferFailure::Declined(DeclineReason::Mismatch), Exit::Integrity),
            (TransferFailure::CancelledThere(CancelReason::DiskFull), Exit::LocalIo),
            (TransferFailure::CancelledHere(CancelReason::Source), Exit::LocalIo),
            (TransferFailure::CancelledHere(CancelReason::Integrity), Exit::Integrity),
            (TransferFailure::CancelledThere(CancelReason::User), Exit::Interrupted),
            (TransferFailure::Lost, Exit::Interrupted),
            (TransferFailure::Violation, Exit::Integrity),
        ];
        for (failure, exit) in table {
            assert_eq!(failure.exit(), exit, "{failure:?}");
        }
        assert_eq!(FileFault::Exists.exit(), Exit::Conflict);
        assert_eq!(FileFault::Digest.exit(), Exit::Integrity);
        assert_eq!(FileFault::DiskFull.exit(), Exit::LocalIo);
        assert_eq!(LinkFailure::Unreachable.exit(), Exit::Unreachable);
        assert_eq!(LinkFailure::NotAccepted.exit(), Exit::Refused);
        assert_eq!(LinkFailure::Unfinished.exit(), Exit::Pairing);
    }

    #[test]
    fn only_what_may_heal_by_itself_is_retryable() {
        assert!(Exit::Unreachable.retryable() && Exit::Timeout.retryable() && Exit::Interrupted.retryable());
        assert!(!Exit::Pairing.retryable() && !Exit::Usage.retryable() && !Exit::Conflict.retryable() && !Exit::State.retryable());
    }
}
