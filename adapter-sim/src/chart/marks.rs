//! Entries become marks: one for each thing to be shown, with what came of it.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::effects::{DeviceState, Event};

use super::Lane;
use super::words::{self, Kind, Tone, Words};
use crate::trace::{Entry, What};

/// What became of something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its last byte arrived with this entry, at this time.
    Arrived { entry: usize, at: u64 },
    /// This much of it arrived.
    Torn(usize),
    /// Nothing of it arrived.
    Lost,
}

/// Where something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrow {
    pub(super) to: usize,
    pub(super) len: usize,
    pub(super) fate: Fate,
}

/// One thing to be shown.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// The number of its entry.
    pub(super) entry: usize,
    pub(super) at: u64,
    pub(super) dev: Option<usize>,
    pub(super) words: Words,
    /// One of many: it is folded together with others, also if it was lost.
    pub(super) minor: bool,
    pub(super) arrow: Option<Arrow>,
}

impl Mark {
    /// When the last of it happened.
    pub(super) fn until(&self) -> u64 {
        match self.arrow {
            Some(Arrow { fate: Fate::Arrived { at, .. }, .. }) => at,
            _ => self.at,
        }
    }

    /// Whether they may be folded.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// What is equal in marks that may be folded.
    pub(super) fn key(&self) -> (Option<usize>, Option<(usize, bool)>, &str) {
        let arrow = self.arrow.map(|arrow| (arrow.to, matches!(arrow.fate, Fate::Arrived { .. })));
        (self.dev, arrow, &self.words.name)
    }

    pub(super) const fn is(&self, tone: Tone) -> bool {
        self.words.tone as u8 == tone as u8
    }

    /// What there is to say beyond the name.
    pub(super) fn detail(&self) -> String {
        match self.arrow {
            Some(Arrow { len, fate, .. }) if self.words.kind == Kind::Message => match fate {
                Fate::Arrived { .. } => format!(", {}", words::size(len as u64)),
                Fate::Torn(got) => format!(", only {got} of {len} B arrived"),
                Fate::Lost => format!(", {}, did not arrive", words::size(len as u64)),
            },
            _ => self.words.detail.clone(),
        }
    }
}

/// All marks of a run.
pub(super) fn marks(lanes: &[Lane], entries: &[Entry]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut travelling = BTreeMap::new();
    for (number, Entry { at, dev, what }) in entries.iter().enumerate() {
        let arrow = match what {
            What::Sends { stream, to, frame, by_opener, len, .. } => {
                travelling.insert((*stream, *by_opener, *frame), marks.len());
                Some(Arrow { to: to.0, len: *len, fate: Fate::Lost })
            }
            What::Gets { stream, by_opener, frame, len } => {
                let mark = travelling.get(&(*stream, *by_opener, *frame)).and_then(|&mark| marks.get_mut(mark));
                if let Some(arrow) = mark.and_then(|mark| mark.arrow.as_mut()) {
                    arrive(arrow, number, *at, *len);
                }
                None
            }
            What::Connection { to, .. } => Some(Arrow { to: to.0, len: 0, fate: Fate::Arrived { entry: number, at: *at } }),
            _ => None,
        };
        if let Some(words) = words::of(what, lanes) {
            marks.push(Mark { entry: number, at: *at, dev: dev.map(|dev| dev.0), minor: words.tone == Tone::Minor, words, arrow });
        }
    }
    for mark in &mut marks {
        let lost = mark.arrow.is_some_and(|arrow| !matches!(arrow.fate, Fate::Arrived { .. }));
        if lost {
            // Seldom, and what a reader looks for.
            mark.words.tone = Tone::Bad;
        }
    }
    marks
}

fn arrive(arrow: &mut Arrow, entry: usize, at: u64, len: usize) {
    let got = len + if let Fate::Torn(got) = arrow.fate { got } else { 0 };
    arrow.fate = if got >= arrow.len { Fate::Arrived { entry, at } } else { Fate::Torn(got) };
}

/// What a device is for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has crashed.
    Down,
    /// It has a session with somebody.
    Session,
}

/// How long a device is something: from an entry to another, or to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct While {
    pub(super) dev: usize,
    pub(super) state: State,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// All that devices are for a while.
pub(super) fn whiles(entries: &[Entry]) -> Vec<While> {
    let mut found = Vec::new();
    let mut sessions: BTreeMap<usize, (BTreeSet<_>, usize)> = BTreeMap::new();
    let mut down: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, entry) in entries.iter().enumerate() {
        let Some(dev) = entry.dev.map(|dev| dev.0) else { continue };
        match &entry.what {
            What::Crashes => {
                down.insert(dev, number);
                found.extend(sessions.remove(&dev).map(|(_, from)| While { dev, state: State::Session, from, to: number }));
            }
            What::Starts => found.extend(down.remove(&dev).map(|from| While { dev, state: State::Down, from, to: number })),
            What::Told(event) => {
                let Event::Device { device, state, .. } = &**event else { continue };
                if *state == DeviceState::Connected {
                    sessions.entry(dev).or_insert((BTreeSet::new(), number)).0.insert(*device);
                } else if let Some((peers, from)) = sessions.get_mut(&dev) {
                    peers.remove(device);
                    if peers.is_empty() {
                        found.push(While { dev, state: State::Session, from: *from, to: number });
                        sessions.remove(&dev);
                    }
                }
            }
            _ => {}
        }
    }
    let to = entries.len();
    found.extend(down.into_iter().map(|(dev, from)| While { dev, state: State::Down, from, to }));
    found.extend(sessions.into_iter().map(|(dev, (_, from))| While { dev, state: State::Session, from, to }));
    found
}
