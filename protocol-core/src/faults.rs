//! Whose fault a thing was, what follows from it, and the few codes that a peer is told.

use core::fmt;

/// Codes of a stream reset or a hang-up: all that a peer outside a session learns (PROTOCOL.md, section 6.5).
pub mod code {
    /// Nothing is wrong: done, or cancelled.
    pub const DONE: u32 = 0;
    /// Not accepted. The same for every cause.
    pub const REFUSED: u32 = 1;
}

/// What went wrong with a file, as a host reports it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// No space, or no quota, is left.
    DiskFull,
    /// The system does not permit it.
    Denied,
    /// The file system is read-only.
    ReadOnly,
    /// The disk or its file system fails, by the system's number: an input/output error, a device or server that is gone.
    Failing(i32),
    /// It is not there (any more).
    NotFound,
    /// Something else stands under the name.
    Exists,
    /// This system cannot hold such a name or entry.
    Unsupported,
    /// Following it would leave the chosen directory.
    Unsafe,
    /// A source is not what it was when it was offered.
    Changed,
    /// The bytes are not those that the sender named.
    Digest,
    /// Any other error, by the system's number.
    Io(i32),
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "no space left on the disk",
            Self::Denied => "permission denied",
            Self::ReadOnly => "the file system is read-only",
            Self::NotFound => "not found",
            Self::Exists => "something exists under this name",
            Self::Unsupported => "this file system cannot hold it",
            Self::Unsafe => "it leaves the chosen directory",
            Self::Changed => "changed while it was read",
            Self::Digest => "its digest is not the sender's",
            Self::Failing(code) => return write!(f, "the disk fails with error {code}"),
            Self::Io(code) => return write!(f, "error {code} of the system"),
        })
    }
}

impl core::error::Error for FileFault {}

impl FileFault {
    /// Whether it is the disk that fails, and not one file: nothing more can be stored until somebody has done something about it.
    pub const fn is_of_disk(self) -> bool {
        matches!(self, Self::DiskFull | Self::ReadOnly | Self::Failing(_))
    }
}

/// Why a stream of an application protocol was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The name is empty or longer than [`limits::PROTOCOL_NAME`](crate::limits::PROTOCOL_NAME) bytes.
    Name,
    /// No paired device has this id.
    UnknownDevice,
    /// There is no session with the device, or none any more.
    NotConnected,
    /// As many streams as may be are open with this device: [`limits::PROTOCOL_STREAMS`](crate::limits::PROTOCOL_STREAMS).
    TooMany,
    /// No connection for it could be had: on bare TCP each stream has its own, and none of the device's addresses leads there.
    NoWay,
    /// The other side ended the stream before it said yes: it does not speak the protocol, or does not let this device.
    Refused,
    /// The other side said nothing for [`limits::UNPROVED_WAIT`](crate::limits::UNPROVED_WAIT).
    NoAnswer,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a protocol's name has 1 to 64 bytes",
            Self::UnknownDevice => "no such device",
            Self::NotConnected => "not connected to the device",
            Self::TooMany => "too many streams are open with the device",
            Self::NoWay => "no connection to the device could be opened for the stream",
            Self::Refused => "the other device does not speak this protocol, or does not let this device",
            Self::NoAnswer => "the other device does not answer",
        })
    }
}

impl core::error::Error for OpenError {}

/// Why an effect did not happen, as a host reports it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers at the address, or there is no such address.
    Unreachable,
    /// Somebody answers there and refuses (a closed port).
    Refused,
    /// No answer in time.
    TimedOut,
    /// The connection it needed is gone.
    Gone,
    /// The address is not one of a transport that this host has.
    Unsupported,
    /// The disk refused.
    Disk(FileFault),
}

impl Failure {
    /// Whether somebody is at the address who may take a connection soon: its process may be starting, or starting again.
    pub(crate) const fn may_pass(self) -> bool {
        matches!(self, Self::Refused | Self::Gone)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "not reachable",
            Self::Refused => "connection refused",
            Self::TimedOut => "no answer in time",
            Self::Gone => "the connection is gone",
            Self::Unsupported => "no such transport here",
            Self::Disk(fault) => return fmt::Display::fmt(fault, f),
        })
    }
}

impl core::error::Error for Failure {}

/// Why a pairing ended without a pair. What the peer is told is far less.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairFailure {
    /// The code's time ran out before a device used it.
    Expired,
    /// The owner ended it.
    Cancelled,
    /// Three devices that knew the code failed to prove themselves, or sixteen tries came to nothing.
    Burned,
    /// The other side was silent: wrong, expired or used code. A joiner cannot tell these apart.
    NotAccepted,
    /// A device proved itself with the code, and was gone before both sides were through. The code is used up.
    Cut,
    /// No address led to a device.
    NotFound,
    /// Our own user said no, or did not answer in time.
    RefusedHere,
    /// The other user said no, or did not answer in time.
    RefusedThere,
    /// A policy of the other side: blocked, or too many devices.
    Policy,
    /// The other side could not store the pairing.
    StorageThere,
    /// We could not store the pairing.
    StorageHere,
    /// The other end is this device.
    SelfPairing,
    /// The other device is blocked here.
    Blocked,
    /// As many devices are paired as can be.
    TooManyDevices,
    /// The random source failed.
    NoEntropy,
}

impl fmt::Display for PairFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the code expired before a device used it",
            Self::Cancelled => "cancelled",
            Self::Burned => "the code was used by devices that could not prove themselves, and is void",
            Self::NotAccepted => "not accepted: wrong, expired or used code",
            Self::Cut => "the connection to the other device was lost when it had used the code",
            Self::NotFound => "no device was found for this code",
            Self::RefusedHere => "not confirmed on this device",
            Self::RefusedThere => "not confirmed on the other device",
            Self::Policy => "the other device's policy does not allow it",
            Self::StorageThere => "the other device could not store the pairing",
            Self::StorageHere => "the pairing could not be stored on this device",
            Self::SelfPairing => "this is the same device",
            Self::Blocked => "the other device is blocked here",
            Self::TooManyDevices => "too many devices are paired",
            Self::NoEntropy => "the system's random source failed",
        })
    }
}

impl core::error::Error for PairFailure {}

/// Why a session ended, or why none came about.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkFailure {
    /// No address of the device answered.
    Unreachable,
    /// Something answered and did not prove to be the device, or refused us.
    NotAccepted,
    /// Nothing was heard for too long.
    Silent,
    /// The stream was cut.
    Cut,
    /// The other side ended it.
    Ended,
    /// A newer session of the same pair took its place.
    Replaced,
    /// What the other side sent breaks the protocol.
    Violation,
    /// The device was forgotten here, or we are shutting down.
    Closed,
    /// The other side has removed this pairing, and proves it.
    Removed,
    /// The device is blocked here.
    Blocked,
    /// Nothing was tried: the pairing is not finished here, because its owner has not said yes, or not in time.
    Unfinished,
}

impl LinkFailure {
    /// Its number in the store.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Unreachable => 1,
            Self::NotAccepted => 2,
            Self::Silent => 3,
            Self::Cut => 4,
            Self::Ended => 5,
            Self::Replaced => 6,
            Self::Violation => 7,
            Self::Closed => 8,
            Self::Removed => 9,
            Self::Blocked => 10,
            Self::Unfinished => 11,
        }
    }

    /// The reason with this number.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        let all = [
            Self::Unreachable,
            Self::NotAccepted,
            Self::Silent,
            Self::Cut,
            Self::Ended,
            Self::Replaced,
            Self::Violation,
            Self::Closed,
            Self::Removed,
            Self::Blocked,
            Self::Unfinished,
        ];
        all.into_iter().find(|reason| reason.number() == number)
    }
}

impl fmt::Display for LinkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "no address of the device answered",
            Self::NotAccepted => "the other device did not accept; it may have removed this pairing",
            Self::Silent => "nothing was heard from the other device for too long",
            Self::Cut => "the connection was cut",
            Self::Ended => "the other device ended the session",
            Self::Replaced => "a newer session took its place",
            Self::Violation => "the other device broke the protocol",
            Self::Closed => "closed on this device",
            Self::Removed => "the other device has removed this pairing",
            Self::Blocked => "the device is blocked here",
            Self::Unfinished => "the pairing with it is not finished on this device",
        })
    }
}

impl core::error::Error for LinkFailure {}

/// Why a transfer ended before its receipt.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferFailure {
    /// The receiver declined, for the reason of the wire (section 9.3).
    Declined(DeclineReason),
    /// The other side cancelled, for the reason of the wire.
    CancelledThere(CancelReason),
    /// We cancelled.
    CancelledHere(CancelReason),
    /// The session was lost and did not come back in time.
    Lost,
    /// The peer broke the protocol of transfers.
    Violation,
}

impl TransferFailure {
    /// Whether what is durable of the files is kept for another try: nobody wants it gone, and something outside ended it.
    // XFER-28.
    pub const fn keeps_files(self) -> bool {
        match self {
            Self::Lost => true,
            Self::CancelledThere(reason) | Self::CancelledHere(reason) => {
                matches!(reason, CancelReason::DiskFull | CancelReason::Io | CancelReason::Source)
            }
            // Later, and not never.
            Self::Declined(DeclineReason::Busy) => true,
            Self::Declined(_) | Self::Violation => false,
        }
    }
}

/// Reasons of Decline (section 9.3).
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// 1: the user said no.
    User,
    /// 2: a policy.
    Policy,
    /// 3: too large, or too many entries.
    TooLarge,
    /// 4: the manifest breaks a rule of paths or numbers.
    UnsafeManifest,
    /// 5: something stands in the way.
    Conflict,
    /// 6: not enough space.
    NoSpace,
    /// 7: the manifest is not the one that was offered.
    Mismatch,
    /// 8: too much else to do.
    Busy,
    /// A number that this version does not know.
    Other(u64),
}

impl DeclineReason {
    /// The number of the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::User => 1,
            Self::Policy => 2,
            Self::TooLarge => 3,
            Self::UnsafeManifest => 4,
            Self::Conflict => 5,
            Self::NoSpace => 6,
            Self::Mismatch => 7,
            Self::Busy => 8,
            Self::Other(number) => number,
        }
    }

    /// The reason of a number of the wire.
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::User,
            2 => Self::Policy,
            3 => Self::TooLarge,
            4 => Self::UnsafeManifest,
            5 => Self::Conflict,
            6 => Self::NoSpace,
            7 => Self::Mismatch,
            8 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for DeclineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "declined by the user",
            Self::Policy => "declined by policy",
            Self::TooLarge => "too large for the receiver",
            Self::UnsafeManifest => "the offer breaks a path or size rule",
            Self::Conflict => "something exists at the destination",
            Self::NoSpace => "not enough space at the receiver",
            Self::Mismatch => "the manifest is not the one offered",
            Self::Busy => "the receiver is busy",
            Self::Other(number) => return write!(f, "declined (reason {number})"),
        })
    }
}

/// Reasons of Cancel (section 9.3).
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// 1: the user.
    User,
    /// 2: the source cannot be read.
    Source,
    /// 3: the disk is full.
    DiskFull,
    /// 4: an input/output error.
    Io,
    /// 5: bytes that do not verify.
    Integrity,
    /// 6: a policy.
    Policy,
    /// A number that this version does not know.
    Other(u64),
}

impl CancelReason {
    /// The number of the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::User => 1,
            Self::Source => 2,
            Self::DiskFull => 3,
            Self::Io => 4,
            Self::Integrity => 5,
            Self::Policy => 6,
            Self::Other(number) => number,
        }
    }

    /// The reason of a number of the wire.
    pub const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::User,
            2 => Self::Source,
            3 => Self::DiskFull,
            4 => Self::Io,
            5 => Self::Integrity,
            6 => Self::Policy,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "cancelled by the user",
            Self::Source => "the source could not be read",
            Self::DiskFull => "the disk is full",
            Self::Io => "an input/output error",
            Self::Integrity => "bytes that do not verify",
            Self::Policy => "a policy",
            Self::Other(number) => return write!(f, "cancelled (reason {number})"),
        })
    }
}

impl fmt::Display for TransferFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declined(reason) => fmt::Display::fmt(reason, f),
            Self::CancelledThere(reason) => write!(f, "cancelled by the other device: {reason}"),
            Self::CancelledHere(reason) => write!(f, "cancelled here: {reason}"),
            Self::Lost => f.write_str("the connection was lost"),
            Self::Violation => f.write_str("the other device broke the protocol"),
        }
    }
}

impl core::error::Error for TransferFailure {}
