//! What a script does not hold, and what can therefore be asked of its devices.

use super::{More, Name, Script, Step, Timed};
use crate::adversary::Move;
use crate::rules::{Damage, DialFault};

/// What never happens in a script.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// Owners do what they like with devices that know each other, and nothing else happens.
    pub(crate) calm: bool,
    /// Nobody changes what honest devices say to each other.
    pub(crate) untouched: bool,
    /// No device and no disk is slow.
    pub(crate) prompt: bool,
    /// What is said on control streams arrives in time, as long as they stand.
    pub(crate) flows: bool,
    /// Little is late, and not for long; nothing else disturbs anybody.
    pub(crate) late: bool,
    /// No more than dials comes to nothing: what stands carries what it is to carry.
    pub(crate) carries: bool,
    /// Owners do what they like, also part from one another, and devices start again; nothing else disturbs anybody.
    pub(crate) parts: bool,
    /// As before, and devices move.
    pub(crate) moves: bool,
}

/// How long what is late in a world that is nearly calm may be under way, in milliseconds: as long as anybody waits to hear a session
/// out.
pub(crate) const LATE: u64 = 5_000;

impl Script {
    /// How long anything is held, all in all.
    fn held(&self) -> u64 {
        let held = |timed: &Timed| if let Step::Hold { millis, .. } = timed.step { millis } else { 0 };
        self.steps.iter().map(held).fold(0, u64::saturating_add)
    }

    pub(crate) fn manners(&self) -> Manners {
        let all = |holds: fn(&Step) -> bool| self.steps.iter().all(|timed| holds(&timed.step));
        Manners {
            calm: all(is_calm),
            untouched: all(leaves_lines),
            prompt: all(is_prompt),
            flows: all(leaves_control),
            late: all(|step| is_calm(step) || matches!(step, Step::Hold { .. })) && self.held() <= LATE,
            parts: all(parts),
            moves: all(|step| parts(step) || matches!(step, Step::Move { taken_by: None, .. } | Step::Reset { .. })),
            // What ends with a session that its owner ends may be told when there is another.
            carries: all(|step| (is_calm(step) || fails_dials(step)) && !matches!(step, Step::Disconnect { .. })),
        }
    }
}

/// An owner's wish that disturbs nobody but those whom it is about.
const fn is_calm(step: &Step) -> bool {
    matches!(
        step,
        Step::Invite { .. }
            | Step::Join { .. }
            | Step::Connect { .. }
            | Step::Disconnect { .. }
            | Step::Rename { .. }
            | Step::Share { .. }
            | Step::CancelTransfer { .. }
            | Step::Answers { .. }
            | Step::OnConflict { .. }
            | Step::Occupy { .. }
            | Step::Edit { .. }
            | Step::Misuse { .. }
            | Step::Restart { .. }
            | Step::More(More::Answer { .. })
    )
}

/// An owner's wish that may part two devices, or the fall of one.
const fn parts(step: &Step) -> bool {
    is_calm(step)
        || matches!(
            step,
            Step::Forget { .. }
                | Step::Crash { .. }
                | Step::CancelPairing { .. }
                | Step::Heard { .. }
                | Step::More(
                    More::Say { .. }
                        | More::Take { .. }
                        | More::Block { .. }
                        | More::Policy { .. }
                        | More::Keep { .. }
                        | More::Awake { .. }
                )
        )
}

/// A dial that ends with somebody else brings connections that are no good.
const fn fails_dials(step: &Step) -> bool {
    match step {
        Step::Dial { fault, .. } => !matches!(fault, DialFault::Misrouted(_)),
        Step::NoDials { .. } => true,
        _ => false,
    }
}

/// A silence may be short: then what is said before it and behind it arrives, and what lies between does not.
const fn leaves_lines(step: &Step) -> bool {
    !matches!(
        step,
        Step::Damage { damage: Damage::Flip(_) | Damage::Replace(_) | Damage::Append(_), .. }
            | Step::Silence { .. }
            | Step::Enemy(Move::Splice { .. } | Move::Notice {})
    )
}

/// A session that is cut ends on both sides; one whose bytes are held or swallowed stands, and nothing comes through.
const fn leaves_control(step: &Step) -> bool {
    !matches!(
        step,
        Step::Damage { name: Name::Pair | Name::Link, .. }
            | Step::Hold { .. }
            | Step::Silence { .. }
            | Step::Move { .. }
            | Step::Latency { .. }
            | Step::Enemy(Move::Splice { .. } | Move::Notice {} | Move::Relay { .. } | Move::Reflect { .. })
    )
}

const fn is_prompt(step: &Step) -> bool {
    !matches!(step, Step::Sleep { .. } | Step::SlowDisk { .. } | Step::Coarse { .. })
}
