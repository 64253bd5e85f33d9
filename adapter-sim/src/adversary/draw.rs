//! Moves out of a tape, and what has to stand around some of them: a code that is shown, a dial that is led astray.

use super::{Lie, Move, Odd, Speech, Trick};
use crate::choice::Tape;
use crate::rules::{At, Damage, Side};
use crate::script::{Name, Step, Words};

impl Move {
    /// A move out of a tape, against one of these.
    pub fn draw(tape: &mut Tape<'_>, to: usize, other: usize) -> Self {
        let name = tape.one_of(&[Name::Pair, Name::Link, Name::Manifest, Name::Bulk]);
        match tape.below(50) {
            0 => Self::Garbage { to, name, len: tape.log(3_000) as usize },
            1 => Self::Drip { to, count: tape.log(70) as usize },
            2 => Self::HalfClose { to, name },
            3 => Self::Guess { to, count: tape.log(20) as usize },
            4 | 46 => Self::Squat { to, name: tape.one_of(&[Name::Manifest, Name::Bulk]) },
            5 | 6 => Self::Replay { to, number: tape.log(20) as usize, frames: tape.below(3) as usize, like: tape.percent(50) },
            7 => {
                let side = tape.one_of(&[Side::Opener, Side::Answerer]);
                Self::Splice { name, side, frame: tape.below(4) as u32, number: tape.log(4) as usize }
            }
            8 | 47 => Self::Relay { dev: to, to: other },
            48 | 49 => Self::repeat(tape, to),
            9 => Self::Reflect { dev: to },
            10..13 => Self::join(tape, to),
            13 => Self::Show { dev: to, lie: Lie::answerer(tape), liar: tape.below(2) as usize },
            14..18 => Self::Call { to, lie: Lie::opener(tape), old: tape.log(2) as usize },
            18..21 => Self::Say { to, speech: tape.one_of(Speech::ALL) },
            21..25 => {
                let count = tape.one_of(&[1, 1, 1, 1, 17]);
                Self::Deal { to, tree: tape.below(6) as usize, trick: tape.one_of(Trick::SENDER), count }
            }
            25..28 => Self::Stray { to, odd: tape.one_of(Odd::ALL) },
            28 => Self::Late { to, old: tape.log(2) as usize },
            29 => Self::Flood { to, count: 400 },
            30 | 31 => Self::Meet { dev: to, lie: Lie::answerer(tape) },
            32..34 | 43 | 44 => Self::Share { dev: to, tree: tape.below(6) as usize, trick: tape.one_of(Trick::RECEIVER) },
            34..38 => Self::Show { dev: to, lie: Lie::answerer(tape), liar: tape.below(2) as usize },
            38 | 39 => Self::Flood { to, count: 400 },
            40 | 41 => Self::Replay { to, number: tape.log(20) as usize, frames: 1, like: true },
            42 => Self::Forget { dev: to },
            _ => Self::Leave { dev: to },
        }
    }

    /// What a liar does in a session that stands, against this device.
    pub(crate) fn deed(tape: &mut Tape<'_>, to: usize) -> Self {
        let tree = tape.one_of(&[2, 1, 3, 0, 4]);
        match tape.below(13) {
            0 | 1 => Self::Say { to, speech: tape.one_of(Speech::REFUSED) },
            2 | 3 => Self::Say { to, speech: tape.one_of(Speech::CROOKED) },
            4 => Self::Say { to, speech: tape.one_of(Speech::ALL) },
            5..8 => Self::Deal { to, tree, trick: tape.one_of(Trick::SENDER), count: 1 },
            8..11 => Self::Share { dev: to, tree, trick: tape.one_of(Trick::RECEIVER) },
            _ => Self::Stray { to, odd: tape.one_of(Odd::ALL) },
        }
    }

    /// Holders of the words: one, five at once that say nothing more, or one after the other until the code is void.
    fn join(tape: &mut Tape<'_>, to: usize) -> Self {
        let (lie, count, together) = match tape.below(7) {
            0..3 => (Lie::opener(tape), 1, false),
            3 => (Lie::Silence, 5, true),
            4 | 5 => (tape.one_of(&[Lie::Cut, Lie::Forged, Lie::BadBox]), 17, false),
            _ => (Lie::opener(tape), tape.log(6) as usize, tape.percent(50)),
        };
        Self::Join { to, lie, count, together }
    }

    /// What was said before to the same device: in handshakes the first message, of data streams what proves them.
    fn repeat(tape: &mut Tape<'_>, to: usize) -> Self {
        let name = tape.one_of(&[Name::Pair, Name::Pair, Name::Link, Name::Link, Name::Manifest, Name::Bulk]);
        let frames = if matches!(name, Name::Pair | Name::Link) { 1 } else { 1 + tape.below(2) as usize };
        Self::Repeat { to, name, number: tape.log(3) as usize, frames }
    }

    /// A move, and the steps before and behind it without which it comes to nothing, each with the longest wait before it.
    pub(crate) fn scene(tape: &mut Tape<'_>, to: usize, other: usize) -> Vec<(u64, Step)> {
        let step = Self::draw(tape, to, other);
        let ask = tape.percent(50);
        let invite = |dev| (0, Step::Invite { dev, ask });
        let join = |dev, of| (0, Step::Join { dev, of, words: Words::Right, ask, lost: 0 });
        let leave = (0, Step::Disconnect { dev: to, peer: other });
        let connect = (200, Step::Connect { dev: to, peer: other, told: true });
        let alone = tape.percent(30);
        match step {
            step if alone => vec![(0, Step::Enemy(step))],
            Self::Join { lie: Lie::Cut, count: 17, .. } if ask => {
                let silent = Self::Join { to, lie: Lie::Silence, count: 1, together: false };
                vec![invite(to), (0, Step::Enemy(silent)), (500, Step::Enemy(step))]
            }
            Self::Join { .. } | Self::Guess { .. } => vec![invite(to), (0, Step::Enemy(step))],
            Self::Show { lie, .. } => {
                // Two of them answer a joiner, who may answer one.
                let other_liar = Step::Enemy(Self::Show { dev: to, lie, liar: 1 });
                vec![(0, Step::Enemy(step)), invite(other), join(to, other), (300, other_liar)]
            }
            Self::Relay { .. } if ask => vec![leave, (200, Step::Enemy(step)), connect],
            Self::Relay { .. } => vec![(0, Step::Enemy(step)), invite(other), join(to, other)],
            Self::Reflect { .. } => vec![leave, (200, Step::Enemy(step)), connect],
            Self::Repeat { name: Name::Pair, .. } => {
                // A code lives as long as nobody came through with it.
                let again = [(4_000, Step::Enemy(step.clone())), (4_000, Step::Enemy(step))];
                if ask {
                    let cut = Self::Join { to, lie: Lie::Cut, count: 1, together: false };
                    return [vec![invite(to), (0, Step::Enemy(cut))], again.to_vec()].concat();
                }
                let damage = tape.one_of(&[Damage::Cut, Damage::Vanish, Damage::Flip(99)]);
                let damage = Step::Damage { name: Name::Pair, side: Side::Opener, at: At::Frame(2), damage };
                [vec![invite(to), (0, damage), join(other, to)], again.to_vec()].concat()
            }
            Self::Repeat { name: Name::Link, .. } => {
                let back = (200, Step::Connect { dev: other, peer: to, told: true });
                vec![leave, back, (4_000, Step::Enemy(step))]
            }
            Self::Squat { .. } => {
                let share = |wait| (wait, Step::Share { dev: other, peer: to, tree: 1 });
                vec![share(0), (3_000, Step::Enemy(step)), share(3_000)]
            }
            step if step.needs_a_pair() && tape.percent(25) => {
                let pair = Self::Join { to, lie: Lie::None, count: 1, together: false };
                let yes = (0, Step::Invite { dev: to, ask: false });
                vec![yes, (0, Step::Enemy(pair)), (8_000, Step::Enemy(step))]
            }
            step => vec![(0, Step::Enemy(step))],
        }
    }

    /// Whether it comes to nothing without a liar that is paired.
    const fn needs_a_pair(&self) -> bool {
        matches!(
            self,
            Self::Call { .. }
                | Self::Say { .. }
                | Self::Deal { .. }
                | Self::Stray { .. }
                | Self::Late { .. }
                | Self::Meet { .. }
                | Self::Share { .. }
                | Self::Flood { .. }
        )
    }
}
