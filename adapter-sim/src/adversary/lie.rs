//! Lies in handshakes, by name: what each says is made where all else is, in [`hand`](super::hand).

use serde::{Deserialize, Serialize};

use crate::choice::Tape;

/// A lie in a handshake, told in the first own message where it makes sense. All else is said as an honest device says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Lie {
    #[default]
    None,
    // In a first message.
    Tag,
    OtherCode,
    Version,
    BadKem,
    /// Longer than any first message, as its length says; nothing follows.
    Huge,
    // In a first or second message.
    LowOrder,
    Trailing,
    // In a box.
    BadBox,
    Padding,
    Tail,
    /// Another nonce than the one that was committed to.
    Commit,
    /// The identity of a third device, under an own signature.
    Foreign,
    Forged,
    Weak,
    /// The identity of the peer itself, whose keys were stolen.
    Mirror,
    Unlisted,
    BadInfo,
    /// The message comes twice.
    Twice,
    // In what follows.
    /// Nothing is said after the own first message of keys.
    Silence,
    /// The stream is cut there.
    Cut,
    /// Header and opening record before their time.
    Early,
    /// No instead of yes.
    Refuse,
    /// A status that nobody defined.
    Status,
    /// When it was answered, the first message is sent again on another stream.
    Again,
    /// Something as short as a last message follows at once.
    Hasty,
    /// Nothing is said behind the own last message.
    Hollow,
    /// The own second message is longer than any, as its length says; nothing follows.
    HugeBox,
}

impl Lie {
    const OPENER: &'static [Self] = &[
        Self::None,
        Self::Tag,
        Self::OtherCode,
        Self::Version,
        Self::BadKem,
        Self::Huge,
        Self::LowOrder,
        Self::Trailing,
        Self::BadBox,
        Self::Padding,
        Self::Tail,
        Self::Commit,
        Self::Foreign,
        Self::Forged,
        Self::Weak,
        Self::Mirror,
        Self::Unlisted,
        Self::BadInfo,
        Self::Twice,
        Self::Silence,
        Self::Cut,
        Self::Early,
        Self::Refuse,
        Self::Again,
    ];
    const ANSWERER: &'static [Self] = &[
        Self::None,
        Self::LowOrder,
        Self::Trailing,
        Self::BadBox,
        Self::Padding,
        Self::Tail,
        Self::Foreign,
        Self::Forged,
        Self::Weak,
        Self::Mirror,
        Self::Unlisted,
        Self::BadInfo,
        Self::Twice,
        Self::Silence,
        Self::Cut,
        Self::Refuse,
        Self::Status,
        Self::Hasty,
    ];

    /// What only who looks closely at a proof notices: more often than its share, for no accident leads there.
    const CLOSE: &'static [Self] =
        &[Self::Unlisted, Self::Foreign, Self::Forged, Self::Commit, Self::Tail, Self::BadInfo, Self::Huge, Self::OtherCode];
    const CLOSE_TOO: &'static [Self] = &[Self::Unlisted, Self::Foreign, Self::Forged, Self::Tail, Self::BadInfo];

    /// A lie of the side that opens, out of a tape.
    pub(crate) fn opener(tape: &mut Tape<'_>) -> Self {
        let all = if tape.percent(30) { Self::CLOSE } else { Self::OPENER };
        tape.one_of(all)
    }

    /// A lie of the side that answers.
    pub(super) fn answerer(tape: &mut Tape<'_>) -> Self {
        let all = if tape.percent(30) { Self::CLOSE_TOO } else { Self::ANSWERER };
        tape.one_of(all)
    }

    pub(super) const fn in_first(self) -> bool {
        matches!(self, Self::Tag | Self::OtherCode | Self::Version | Self::BadKem | Self::Huge | Self::LowOrder | Self::Trailing)
    }

    pub(super) const fn in_box(self) -> bool {
        matches!(
            self,
            Self::BadBox
                | Self::Padding
                | Self::Tail
                | Self::Commit
                | Self::Foreign
                | Self::Forged
                | Self::Weak
                | Self::Mirror
                | Self::Unlisted
                | Self::BadInfo
        )
    }
}

impl Lie {
    /// The rule by which it is refused.
    pub(super) const fn rule(self) -> &'static str {
        match self {
            Self::Tag | Self::OtherCode | Self::Again => "S24",
            Self::LowOrder | Self::BadKem | Self::Weak => "K6",
            Self::Mirror => "A8",
            Self::Foreign | Self::Forged | Self::Unlisted => "S1",
            Self::Trailing | Self::Tail | Self::Padding | Self::Early => "K4",
            _ => "K3",
        }
    }
}
