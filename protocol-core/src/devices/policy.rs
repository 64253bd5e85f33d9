//! What a paired device may do here: the owner's word, kept with the device.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use minicbor::Encoder;

use crate::limits;
use crate::limits::PROTOCOL_NAME;
use crate::wire::cbor::{Malformed, Reader};

/// Fields of a row, without a bound of entries.
const FIELDS: u64 = 5;

/// What happens to an offer of files.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilePolicy {
    /// The owner is asked.
    #[default]
    Ask,
    /// The host takes it without asking.
    Automatic,
    /// It is declined before the owner hears of it.
    Refuse,
}

/// What a paired device may do. Enforced by the [`Node`](crate::node::Node), but for `folder` and [`FilePolicy::Automatic`], which a
/// host reads when an offer comes.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether its messages are taken. Others are refused, and their sender is told so.
    pub messages: bool,
    /// What happens to its offers.
    pub files: FilePolicy,
    /// Bytes that one offer may have; without, as many as the protocol allows.
    pub max_bytes: Option<u64>,
    /// Files, directories and links that one offer may have; without, as many as the protocol allows.
    pub max_entries: Option<u32>,
    /// Where its files go, as the host writes paths, at most 4096 bytes; without, where the host puts files.
    pub folder: Option<String>,
    /// Names of the protocols that it may speak though they ask for a permission, each at most 64 bytes; at most
    /// [`limits::PROTOCOLS`] of them.
    pub protocols: BTreeSet<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { messages: true, files: FilePolicy::Ask, max_bytes: None, max_entries: None, folder: None, protocols: BTreeSet::new() }
    }
}

impl Policy {
    /// Whether every part is within its bound.
    pub(crate) fn is_bounded(&self) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.len() <= limits::PATH_BYTES)
            && self.protocols.len() <= limits::PROTOCOLS
            && self.protocols.iter().all(|name| (1..=PROTOCOL_NAME).contains(&name.len()))
    }

    /// Whether an offer of so many bytes and entries is declined without asking.
    // POL-2.
    pub(crate) fn refuses_files(&self, bytes: u64, entries: u32) -> bool {
        let large = self.max_bytes.is_some_and(|most| bytes > most) || self.max_entries.is_some_and(|most| entries > most);
        (self.files == FilePolicy::Refuse || large) && !planted!(FilePolicyIgnored)
    }

    pub(super) fn encode_into(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<core::convert::Infallible>> {
        let files = match self.files {
            FilePolicy::Ask => 0,
            FilePolicy::Automatic => 1,
            FilePolicy::Refuse => 2,
        };
        // Rows of who has no such bound can be read by programs that know of none.
        to.array(FIELDS + u64::from(self.max_entries.is_some()))?.u8(u8::from(self.messages))?.u8(files)?;
        match self.max_bytes {
            Some(most) => to.u64(most)?,
            None => to.null()?,
        };
        match &self.folder {
            Some(folder) => to.str(folder)?,
            None => to.null()?,
        };
        to.array(self.protocols.len() as u64)?;
        for name in &self.protocols {
            to.str(name)?;
        }
        if let Some(most) = self.max_entries {
            to.u32(most)?;
        }
        Ok(())
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let fields = from.array()?;
        if fields != FIELDS && fields != FIELDS + 1 {
            return Err(Malformed::Bounds);
        }
        let messages = from.u8()? != 0;
        let files = match from.u8()? {
            0 => FilePolicy::Ask,
            1 => FilePolicy::Automatic,
            2 => FilePolicy::Refuse,
            _ => return Err(Malformed::Bounds),
        };
        let max_bytes = from.or_null(Reader::u64)?;
        let folder = from.or_null(|from| from.text(limits::PATH_BYTES).map(String::from))?;
        let mut protocols = BTreeSet::new();
        for _ in 0..from.array_up_to(limits::PROTOCOLS)? {
            protocols.insert(String::from(from.text(PROTOCOL_NAME)?));
        }
        let max_entries = if fields == FIELDS { None } else { Some(u32::try_from(from.u64()?).map_err(|_| Malformed::Bounds)?) };
        Ok(Self { messages, files, max_bytes, max_entries, folder, protocols })
    }
}
