//! Scripts: what happens in a world, as a list of literal values. A run is a script and nothing else.
//!
//! A script is drawn from a [`Tape`] (a seed's, a fuzzer's, proptest's), or read from a file: a line of JSON for the world, then one
//! for each step. Numbers of devices, transfers and trees are taken modulo what there is, so that any part of a script is a script.

use std::fmt::Write as _;

use protocol_core::wire::deframer::StreamName;
use serde::{Deserialize, Serialize};

use crate::adversary::Move;
use crate::choice::Tape;
use crate::disk::OnConflict;
use crate::link::Wire;
use crate::rules::{At, Damage, DialFault, DiskFault, Side, StoreFault};
use crate::world::{Answer, Pieces};

mod draw;
mod interrupted;
mod letters;
mod manners;
mod more;
mod partings;
mod perform;
mod rare;
mod scenes;
mod turns;

pub use draw::Profile;
pub(crate) use manners::{LATE, Manners};
pub use more::More;
pub(crate) use partings::Wishes;
pub(crate) use perform::{CHUNK, tree};

/// A world, and what happens in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What the world is like.
    pub setting: Setting,
    /// What happens, by time.
    pub steps: Vec<Timed>,
}

/// What a world is like from its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// The seed of identities and of what is decided on the way; see [`crate::choice::Choices`]. 0: nothing is left to chance.
    pub chance: u64,
    /// The devices, by how they are connected.
    pub wires: Vec<Wire>,
    /// How writes are cut into pieces.
    pub pieces: Pieces,
    /// One way takes this many microseconds, and up to so many more.
    pub latency: (u64, u64),
    /// Bit n: device n says that it has instructions for AES.
    pub aes: u8,
    /// After the last step, everything is waited for that was begun (L1 to L3).
    pub patient: bool,
    /// How many lookup services hosts have; where there is one, nobody is told an address.
    #[serde(default)]
    pub lookups: usize,
}

/// A step and its moment, in milliseconds since the world began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// When.
    pub at: u64,
    /// What.
    pub step: Step,
}

/// Which words a joiner types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Words {
    /// Those of the newest code.
    Right,
    /// Those of the code before.
    Old,
    /// Words that nobody shows.
    Wrong,
}

/// Streams of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Pairing, then the control stream behind it.
    Pair,
    /// Reconnecting, then the control stream behind it.
    Link,
    /// The pages of a manifest.
    Manifest,
    /// Chunks.
    Bulk,
    /// What applications say.
    Custom,
}

impl Name {
    pub(crate) const fn stream(self) -> StreamName {
        match self {
            Self::Pair => StreamName::Pair,
            Self::Link => StreamName::Link,
            Self::Manifest => crate::World::MANIFEST,
            Self::Bulk => crate::World::BULK,
            Self::Custom => crate::World::CUSTOM,
        }
    }
}

/// One thing that happens. `dev` and `peer` are devices by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it; their fields are numbers of devices, transfers and bytes, and milliseconds")]
pub enum Step {
    // What owners do.
    /// A code is shown; `ask`: the owner is asked about who comes.
    Invite { dev: usize, ask: bool },
    /// A code that `of` shows is typed; `lost` addresses more are tried where nobody is.
    Join {
        dev: usize,
        of: usize,
        words: Words,
        ask: bool,
        #[serde(default)]
        lost: usize,
    },
    /// Whatever pairing runs is cancelled.
    CancelPairing { dev: usize },
    /// A device is looked for at its stored addresses; `told`: and at its newest one.
    Connect { dev: usize, peer: usize, told: bool },
    /// A session is ended in order.
    Disconnect { dev: usize, peer: usize },
    /// A device is forgotten.
    Forget { dev: usize, peer: usize },
    /// A device gets another name here.
    Rename { dev: usize, peer: usize },
    /// A tree of the catalogue is offered.
    Share { dev: usize, peer: usize, tree: usize },
    /// A transfer is cancelled.
    CancelTransfer { dev: usize, number: usize },
    /// What the owner says from now on when asked.
    Answers { dev: usize, pairings: Answer, offers: Answer },
    /// What happens from now on where a name is taken.
    OnConflict { dev: usize, what: OnConflict },
    /// Something appears at the destination under the name of a tree's file.
    Occupy { dev: usize, tree: usize },
    /// A source is edited while it is sent.
    Edit { dev: usize, number: usize },
    /// Everything is ended in order, and the process ends.
    Shutdown { dev: usize },
    /// Calls that make no sense: answers to what nobody asked.
    Misuse { dev: usize },

    // What happens to a device.
    /// Its process dies; its peers hear that.
    Crash { dev: usize },
    /// Its power fails; nobody hears anything.
    PowerFails { dev: usize },
    /// It starts again, if it is down.
    Restart { dev: usize },
    /// A write meets a fault: the `number`th from now on.
    Store { dev: usize, number: u32, fault: StoreFault },
    /// An operation on files meets a fault.
    Disk { dev: usize, number: u32, fault: DiskFault },
    /// Its disk is slow from now on.
    SlowDisk { dev: usize, millis: u64 },
    /// Nothing happens in it for a while.
    Sleep { dev: usize, millis: u64 },
    /// Its wall clock jumps by seconds.
    WallClock { dev: usize, seconds: i64 },
    /// Its monotonic clock goes in steps.
    Coarse { dev: usize, millis: u64 },
    /// Random bytes fail once.
    NoEntropy { dev: usize, number: u32 },
    /// Somebody copies its store.
    BackUp { dev: usize },
    /// It crashes and starts from the copy; without a copy, with nothing.
    RollBack { dev: usize },

    // What happens between devices.
    /// Bytes of a stream are damaged: the next stream where the place comes.
    Damage { name: Name, side: Side, at: At, damage: Damage },
    /// What one sends the other stays under way, then comes at once.
    Hold { dev: usize, peer: usize, millis: u64 },
    /// Nothing reaches a device and nothing leaves it, for a while.
    Silence { dev: usize, millis: u64 },
    /// That is over.
    Heard { dev: usize },
    /// Their newest connection is reset.
    Reset { dev: usize, peer: usize },
    /// A dial meets a fault.
    Dial { dev: usize, number: u32, fault: DialFault },
    /// A stream that is asked for is not to be had.
    NoStream { dev: usize, number: u32 },
    /// It moves to another address; with `taken_by`, that device answers at the old one.
    Move { dev: usize, taken_by: Option<usize> },
    /// No dial comes through for a while.
    NoDials { millis: u64 },
    /// So many strange devices are paired with this one, as after years: it starts again with them.
    Crowd { dev: usize, count: usize },
    /// From now on one way takes this long, in microseconds.
    Latency { least: u64, more: u64 },

    /// Several things at once.
    More(More),
    /// What an enemy does.
    Enemy(Move),
}

impl Step {
    /// Its kind in the catalogue of faults, if it is one by itself. Faults that wait for their place report when they fire.
    pub const fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Crash { .. } => "H1",
            Self::PowerFails { .. } => "N11",
            Self::SlowDisk { .. } => "H15",
            Self::Sleep { .. } => "H8",
            Self::WallClock { .. } => "H9",
            Self::Coarse { .. } => "H10",
            Self::RollBack { .. } => "H18",
            Self::Hold { .. } => "N12",
            Self::Silence { .. } => "N9",
            Self::Move { .. } => "N19",
            Self::Latency { .. } => "N5",
            Self::CancelTransfer { .. } => "P1",
            Self::Forget { .. } => "P4",
            Self::Edit { .. } => "P5",
            Self::Rename { .. } => "P9",
            Self::Misuse { .. } => "P10",
            Self::Occupy { .. } => "P13",
            Self::Shutdown { .. } => "P15",
            Self::NoEntropy { .. } => "H21",
            Self::NoDials { .. } => "N23",
            Self::More(step) => step.kind(),
            Self::Enemy(step) => step.kind(),
            Self::Invite { .. }
            | Self::Join { .. }
            | Self::CancelPairing { .. }
            | Self::Connect { .. }
            | Self::Disconnect { .. }
            | Self::Share { .. }
            | Self::Answers { .. }
            | Self::OnConflict { .. }
            | Self::Restart { .. }
            | Self::Store { .. }
            | Self::Disk { .. }
            | Self::BackUp { .. }
            | Self::Damage { .. }
            | Self::Heard { .. }
            | Self::Reset { .. }
            | Self::Dial { .. }
            | Self::Crowd { .. }
            | Self::NoStream { .. } => return None,
        })
    }
}

impl Script {
    /// The script of a seed.
    pub fn of_seed(seed: u64, profile: Profile) -> Self {
        Self::draw(&mut Tape::of_seed(seed), profile)
    }

    /// As text: a line for the setting, and one for each step.
    ///
    /// # Panics
    /// Never: these values have a JSON form.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(&self.setting).expect("invariant: a setting has a JSON form");
        for step in &self.steps {
            write!(text, "\n{}", serde_json::to_string(step).expect("invariant: a step has a JSON form")).unwrap_or(());
        }
        text.push('\n');
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote. Empty lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// The number of the line, and what is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let wrong = |(number, error): (usize, serde_json::Error)| format!("line {}: {error}", number + 1);
        let (number, first) = lines.next().ok_or("the script is empty")?;
        let setting = serde_json::from_str(first).map_err(|error| wrong((number, error)))?;
        let steps = lines.map(|(number, line)| serde_json::from_str(line).map_err(|error| wrong((number, error))));
        Ok(Self { setting, steps: steps.collect::<Result<_, _>>()? })
    }
}
