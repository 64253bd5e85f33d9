//! Enemies: what somebody does who owns the network, or knows more than he should.

use protocol_core::entropy::Entropy as _;
use protocol_core::wire::deframer::StreamName;
use serde::{Deserialize, Serialize};

use crate::choice::Tape;
use crate::link::Wire;
use crate::script::Name;
use crate::{Dev, World};

/// What an enemy does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it; their fields are numbers of devices, transfers and bytes, and milliseconds")]
pub enum Move {
    /// A stranger opens a stream and sends any bytes.
    Garbage { to: usize, name: Name, len: usize },
    /// A stranger opens many streams and says nothing.
    Drip { to: usize, count: usize },
    /// A stranger sends what the opener of an earlier stream sent: the `number`th from the newest.
    Replay { to: usize, number: usize },
    /// A stranger opens a stream and half-closes it.
    HalfClose { to: usize, name: Name },
}

impl Move {
    /// Its kind in the catalogue of faults.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Garbage { .. } | Self::Drip { .. } | Self::HalfClose { .. } => "A12",
            Self::Replay { .. } => "A5",
        }
    }

    /// A move out of a tape, against one of these.
    pub fn draw(tape: &mut Tape<'_>, to: usize, _other: usize) -> Self {
        let name = tape.one_of(&[Name::Pair, Name::Link, Name::Manifest, Name::Bulk]);
        match tape.below(4) {
            0 => Self::Garbage { to, name, len: tape.log(3_000) as usize },
            1 => Self::Drip { to, count: tape.log(70) as usize },
            2 => Self::Replay { to, number: tape.log(20) as usize },
            _ => Self::HalfClose { to, name },
        }
    }
}

impl World {
    /// The stranger of this world: a device without a Node, found over everything.
    fn stranger(&mut self) -> Dev {
        if let Some(dev) = self.enemy {
            return dev;
        }
        let dev = self.add_stranger(Wire::Both, None);
        self.enemy = Some(dev);
        self.with_oracle(|oracle, _| oracle.distrust(dev));
        dev
    }

    pub(crate) fn enemy(&mut self, step: &Move) {
        let stranger = self.stranger();
        match *step {
            Move::Garbage { to, name, len } => {
                let mut bytes = vec![0; len];
                // This source does not fail.
                let _filled = self.keys.fill(&mut bytes);
                self.strange(stranger, to, name.stream(), &bytes);
            }
            Move::Drip { to, count } => {
                for _ in 0..count {
                    self.strange(stranger, to, StreamName::Pair, &[]);
                }
            }
            Move::Replay { to, number } => {
                let mut streams: Vec<usize> = self.tap.iter().filter(|tapped| tapped.by_opener).map(|tapped| tapped.stream).collect();
                streams.dedup();
                let Some(&stream) = streams.iter().rev().nth(number % streams.len().max(1)) else { return };
                let of = self.tap.iter().filter(|tapped| tapped.stream == stream && tapped.by_opener);
                let pieces: Vec<_> = of.skip(1).map(|tapped| tapped.bytes.clone()).collect();
                let Some(name) = self.tap.iter().find(|tapped| tapped.stream == stream).and_then(|tapped| tapped.name) else { return };
                self.strange(stranger, to, name, &pieces.concat());
            }
            Move::HalfClose { to, name } => {
                let to = Dev(to % self.honest);
                if self.is_up(to) {
                    let raw = self.raw_open(stranger, to, name.stream());
                    self.raw_finish(raw);
                }
            }
        }
    }

    /// The stranger opens a stream to a device and sends this.
    fn strange(&mut self, stranger: Dev, to: usize, name: StreamName, bytes: &[u8]) {
        let to = Dev(to % self.honest);
        if self.is_up(to) {
            let raw = self.raw_open(stranger, to, name);
            if !bytes.is_empty() {
                self.raw_send(raw, bytes);
            }
        }
    }
}
