//! The replay window of stream numbers (PROTOCOL.md, section 9.2).

use core::fmt;

use crate::limits::REPLAY_WINDOW;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// The last 4096 stream numbers of one opener in one session: each passes once, and none that is older.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The largest number seen; 0 before the first.
    newest: u64,
    /// Bit `number % REPLAY_WINDOW`, for the numbers of the window.
    seen: [u64; WORDS],
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow").field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window into which nothing was entered.
    pub const fn new() -> Self {
        Self { newest: 0, seen: [0; WORDS] }
    }

    /// Whether a number would be entered. One that was used need not be proved again.
    // DATA-8.
    pub fn takes(&self, number: u64) -> bool {
        let old = number.saturating_add(REPLAY_WINDOW) <= self.newest && !planted!(WindowAcceptsOld);
        number != 0 && !old && (number > self.newest || self.seen[Self::word(number)] & Self::bit(number) == 0)
    }

    /// Enters a proved stream's number. `false`: it was there already, is older than the window, or is 0, which is no data
    /// stream's.
    #[must_use]
    // DATA-8.
    pub fn enter(&mut self, number: u64) -> bool {
        if !self.takes(number) {
            return false;
        }
        if number > self.newest {
            if number - self.newest >= REPLAY_WINDOW {
                self.seen = [0; WORDS];
            } else {
                for between in self.newest + 1..=number {
                    self.seen[Self::word(between)] &= !Self::bit(between);
                }
            }
            self.newest = number;
        }
        self.seen[Self::word(number)] |= Self::bit(number);
        true
    }

    const fn word(number: u64) -> usize {
        (number % REPLAY_WINDOW / 64) as usize
    }

    const fn bit(number: u64) -> u64 {
        1 << (number % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        // DATA-8.
        fn it_is_a_set_with_an_end(steps in prop::collection::vec((0_u64..12_000, any::<bool>()), 0..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for (number, near) in steps {
                let newest = seen.last().copied().unwrap_or(0_u64);
                let number = if near { (newest + 20).saturating_sub(number % 40) } else { number };
                let fresh = number > 0 && number + REPLAY_WINDOW > newest && seen.insert(number);
                prop_assert_eq!(window.takes(number), fresh);
                prop_assert_eq!(window.enter(number), fresh, "{} after {}", number, newest);
            }
        }
    }

    #[test]
    fn the_edges() {
        let mut window = ReplayWindow::new();
        assert!(!window.enter(0));
        assert!(window.enter(1) && !window.enter(1));
        assert!(window.enter(4097), "1 is now just outside");
        assert!(!window.enter(1) && window.enter(2) && !window.enter(2));
    }
}
