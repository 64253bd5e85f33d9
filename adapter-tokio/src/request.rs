//! What an owner wants to be sent, as far as it is remembered until it is there.

use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::files::Selection;

/// The slowest that a transfer can be asked to be, in bytes a second: below it, streams stand still for so long that they count as
/// broken (DATA-24).
pub const SLOWEST: u64 = 100_000;

/// What to send.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendRequest {
    /// Files and directories. One that ends in `/` stands for what is in it.
    pub paths: Vec<PathBuf>,
    /// What of them is sent.
    pub selection: Selection,
    /// What the receiver is shown as a name of the whole; at most 255 bytes.
    pub label: Option<String>,
    /// Bytes of files a second at most; less than [`SLOWEST`] counts as that. `None`: as fast as it goes.
    pub rate: Option<NonZeroU64>,
}
