//! Enemies: what somebody does who owns the network, or knows more than he should.
//!
//! Four of them, each in devices without a Node: the owner of the lines ([`network`]), a stranger who knows what is public, a holder
//! of the words, and a device that is paired and lies. What they say is made by the steps of an honest device; a [`Lie`] changes
//! one thing in it, and says whether that must be refused.

use std::collections::{BTreeMap, BTreeSet};

use protocol_core::crypto::secret::Secret;
use protocol_core::entropy::Entropy as _;
use protocol_core::ids::{SessionId, TransferId};
use protocol_core::pairing::code::CodeKeys;
use protocol_core::wire::deframer::StreamName;
use serde::{Deserialize, Serialize};

use crate::link::Wire;
use crate::raw::Raw;
use crate::rules::Side;
use crate::script::{Name, Step, tree};
use crate::world::Act;
use crate::{Dev, World};

mod draw;
mod expect;
mod hand;
mod letters;
mod lie;
mod network;
mod session;
mod speech;
mod streams;
mod talk;
mod transfer;

pub(crate) use expect::{Due, Expect};
use hand::Shared;
use letters::Letters;
pub use letters::Tale;
pub use lie::Lie;
use session::Session;
pub use speech::Speech;
pub use streams::Odd;
use talk::Talk;
use transfer::Deal;
pub use transfer::Trick;

/// What an enemy does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it; their fields are numbers of devices, transfers and bytes, and milliseconds")]
pub enum Move {
    // A stranger.
    /// Opens a stream and sends any bytes.
    Garbage { to: usize, name: Name, len: usize },
    /// Opens many streams and says nothing.
    Drip { to: usize, count: usize },
    /// Opens a stream and half-closes it.
    HalfClose { to: usize, name: Name },
    /// Asks about the code that a device shows, without its words.
    Guess { to: usize, count: usize },
    /// Names the stream that comes next in somebody's session.
    Squat { to: usize, name: Name },

    // Who owns the lines.
    /// What the opener of an earlier stream sent, the `number`th from the newest, comes again: so many frames of it (0: all),
    /// from somebody `like` him.
    Replay {
        to: usize,
        number: usize,
        #[serde(default)]
        frames: usize,
        #[serde(default)]
        like: bool,
    },
    /// What the opener of an earlier stream of this name sent a device comes to it again: so many frames of it, from one like him.
    Repeat { to: usize, name: Name, number: usize, frames: usize },
    /// A message of an earlier stream, the `number`th from the newest, takes the place of the same one of the next.
    Splice { name: Name, side: Side, frame: u32, number: usize },
    /// A notice of removal that he made up takes the place of what the next Hello is answered with.
    Notice {},
    /// What a device dials next leads to somebody who passes everything on to another.
    Relay { dev: usize, to: usize },
    /// What a device dials next leads to somebody who gives back what it says.
    Reflect { dev: usize },

    // Who has the words.
    /// Joins the newest code of a device: so many at once, or one after the other.
    Join { to: usize, lie: Lie, count: usize, together: bool },
    /// What a device dials next leads to a false initiator: the `liar`th.
    Show { dev: usize, lie: Lie, liar: usize },

    // Who is paired.
    /// Dials a device under the newest root, or one before it.
    Call { to: usize, lie: Lie, old: usize },
    /// Says something out of place.
    Say { to: usize, speech: Speech },
    /// Offers a tree.
    Deal { to: usize, tree: usize, trick: Trick, count: usize },
    /// Opens a data stream with which something is wrong.
    Stray { to: usize, odd: Odd },
    /// Opens a data stream under a session that was replaced or is over.
    Late { to: usize, old: usize },
    /// Says something about messages in its session.
    Tell { to: usize, tale: Tale },
    /// Hellos of a stranger by the hundred, and one of its own.
    Flood { to: usize, count: usize },

    // What an owner does with such a device.
    /// Ends the session with it and wants another, which it answers with this.
    Meet { dev: usize, lie: Lie },
    /// Offers it a tree, which it takes like this.
    Share { dev: usize, tree: usize, trick: Trick },
    /// Forgets it.
    Forget { dev: usize },
    /// Ends the session.
    Leave { dev: usize },
    /// Sends it so many messages.
    Write { dev: usize, count: usize },
}

impl Move {
    /// Its kind in the catalogue of faults.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Garbage { .. } | Self::Drip { .. } | Self::HalfClose { .. } => "A12",
            Self::Guess { .. } => "A2",
            Self::Squat { .. } => "A18",
            Self::Replay { .. } | Self::Repeat { .. } => "A5",
            Self::Splice { .. } | Self::Notice {} => "A6",
            Self::Relay { .. } => "A14",
            Self::Reflect { .. } => "A4",
            Self::Join { .. } | Self::Show { .. } => "A2",
            Self::Call { .. } | Self::Say { .. } | Self::Stray { .. } | Self::Tell { .. } | Self::Write { .. } => "A15",
            Self::Deal { .. } => "A10",
            Self::Share { .. } => "A11",
            Self::Late { .. } | Self::Forget { .. } => "A13",
            Self::Flood { .. } => "A12",
            Self::Meet { .. } | Self::Leave { .. } => "A9",
        }
    }
}

/// The enemies of a world, and what they know.
#[derive(Default)]
pub(crate) struct Foe {
    stranger: Option<Dev>,
    /// Devices with identities that hold words and roots.
    liars: Vec<Dev>,
    relay: Option<Dev>,
    /// Whom the relay passes things on to; nobody: to whom they came from.
    relay_to: Option<Dev>,
    /// Strangers whom a transport takes for somebody else.
    alike: BTreeMap<Dev, Dev>,
    /// By stream and end.
    talks: BTreeMap<(usize, usize), Talk>,
    /// Roots that liars share with devices, newest last.
    roots: Vec<(Dev, Dev, Secret)>,
    sessions: Vec<Session>,
    deals: Vec<Deal>,
    letters: Letters,
    /// How liars take what is offered.
    takes: Trick,
    /// Offers of liars that were declined.
    declined: BTreeSet<TransferId>,
    /// Roots that were used, since when.
    confirmed: BTreeMap<[u8; 32], u64>,
    /// How many handshakes of a holder ended past the tag, and in how many he failed; none if he did not fail in one.
    spent: BTreeMap<(Dev, SessionId), Option<(u32, u32)>>,
    /// How a liar answers pairings (true) and reconnects.
    answers: BTreeMap<(Dev, bool), Lie>,
    /// When the last thing that is expected is looked at.
    until: u64,
    /// Moves so far, and those of them that did something wrong in a session.
    moves: u64,
    moves_of: BTreeMap<usize, u64>,
    /// Somebody named the streams of others.
    squatted: bool,
    /// Data streams of honest devices whose beginning was played again before it had come.
    overtaken: BTreeSet<usize>,
    /// Devices may be late from now on: what they owe within a time is not asked for.
    late: bool,
    /// A device fell, forgot or could not write, or may soon.
    fallen: bool,
    /// Neither of the two.
    steady: bool,
}

impl Foe {
    fn is_enemy(&self, dev: Dev) -> bool {
        self.liars.contains(&dev) || self.relay == Some(dev)
    }
}

impl World {
    pub(super) fn add_enemy(&mut self, like: Option<Dev>) -> Dev {
        let dev = self.add_stranger(Wire::Both, like);
        self.with_oracle(|oracle, _| oracle.distrust(dev));
        dev
    }

    /// The stranger of this world.
    fn stranger(&mut self) -> Dev {
        if let Some(dev) = self.foe.stranger {
            return dev;
        }
        let dev = self.add_enemy(None);
        *self.foe.stranger.insert(dev)
    }

    /// Somebody whom a transport takes for this device.
    fn alike(&mut self, dev: Dev) -> Dev {
        if let Some(&like) = self.foe.alike.get(&dev) {
            return like;
        }
        let like = self.add_enemy(Some(dev));
        *self.foe.alike.entry(dev).or_insert(like)
    }

    /// A device with an identity that knows words and roots.
    fn liar(&mut self, number: usize) -> Dev {
        while self.foe.liars.len() <= number % 2 {
            let dev = self.add_enemy(None);
            self.foe.liars.push(dev);
        }
        self.foe.liars[number % 2]
    }

    pub(crate) fn enemy(&mut self, step: &Move) {
        self.foe.steady = !self.foe.late && !self.foe.fallen;
        self.foe.moves += 1;
        let scripted = |number: usize| Dev(number % self.honest);
        match *step {
            Move::Garbage { to, name, len } => {
                let to = scripted(to);
                let mut bytes = vec![0; len];
                // This source does not fail.
                let _filled = self.keys.fill(&mut bytes);
                if let Some([first, second, third, _]) = bytes.first_chunk_mut() {
                    // As a length this is small, or above a bound: never so long that every bound is below it.
                    (*first, *second) = (0, *second >> (*third % 8));
                }
                let stranger = self.stranger();
                let raw = self.strange(stranger, to, name.stream(), &bytes);
                self.mute(raw);
                self.check_garbage(raw, name.stream(), &bytes);
            }
            Move::Drip { to, count } => {
                let to = scripted(to);
                let stranger = self.stranger();
                let mut streams = Vec::new();
                for _ in 0..count {
                    let raw = self.strange(stranger, to, StreamName::Pair, &[]);
                    self.mute(raw);
                    streams.extend(raw);
                }
                let most = protocol_core::limits::UNPROVED_STREAMS_PER_REMOTE;
                self.expect(Expect::Closed { streams: streams.clone(), most, under: None }, 1_500, "S23");
                self.expect(Expect::Closed { streams, most: 0, under: None }, 11_000, "S23");
            }
            Move::HalfClose { to, name } => {
                let to = scripted(to);
                let stranger = self.stranger();
                if let Some(raw) = self.strange(stranger, to, name.stream(), &[]) {
                    self.raw_finish(raw);
                }
            }
            Move::Guess { to, count } => {
                let to = scripted(to);
                let stranger = self.stranger();
                for _ in 0..count {
                    if let Some(code) = self.newest_code(to).filter(|_| self.is_up(to)) {
                        self.open_handshake(stranger, to, Shared::Code(code), Lie::Tag, 0);
                    }
                }
            }
            Move::Squat { to, name } => self.squat(scripted(to), name),
            Move::Replay { to, number, frames, like } => self.replay(scripted(to), number, frames, like),
            Move::Repeat { to, name, number, frames } => self.repeat(scripted(to), name.stream(), number, frames),
            Move::Splice { name, side, frame, number } => self.splice(name, side, frame, number),
            Move::Notice {} => self.false_notice(),
            Move::Relay { dev, to } => self.relay(scripted(dev), Some(scripted(to))),
            Move::Reflect { dev } => self.relay(scripted(dev), None),
            Move::Join { to, lie, count, together } => {
                let to = scripted(to);
                let liar = self.liar(0);
                if together {
                    (0..count).for_each(|_| self.join_as_holder(liar, to, lie, 0));
                } else {
                    self.join_as_holder(liar, to, lie, count.saturating_sub(1));
                }
            }
            Move::Show { dev, lie, liar } => {
                let dev = scripted(dev);
                let liar = self.liar(liar);
                self.foe.answers.insert((liar, true), lie);
                self.misroute(dev, liar);
            }
            Move::Call { to, lie, old } => {
                let liar = self.liar(0);
                let to = self.root_near(liar, Dev(to % self.honest));
                let raw = self.call_as_liar(liar, to, lie, old);
                self.check_old_root(raw, liar, to, old);
            }
            Move::Say { to, speech } => {
                if let Some(session) = self.session_near(scripted(to)) {
                    self.say_out_of_place(session, speech);
                }
            }
            Move::Deal { to, tree, trick, count } => {
                if let Some(session) = self.session_near(scripted(to)) {
                    // More than half of many, and the rest when their pages had time to come.
                    let now = count.div_ceil(2);
                    (0..now).for_each(|_| self.deal(session, tree, trick));
                    let later = Due::Deal { session, tree, trick, count: count - now };
                    self.after(250_000, Act::Enemy(later));
                }
            }
            Move::Stray { to, odd } => {
                if let Some(session) = self.session_near(scripted(to)) {
                    self.odd_stream(session, odd);
                }
            }
            Move::Late { to, old } => {
                let to = scripted(to);
                let liar = self.liar(0);
                if let Some(session) = self.session_with(liar, to, old) {
                    self.late_stream(session);
                }
            }
            Move::Tell { to, tale } => {
                if let Some(session) = self.session_near(scripted(to)) {
                    self.tell(session, tale);
                }
            }
            Move::Write { dev, count } => self.write_to_liar(scripted(dev), count),
            Move::Flood { to, count } => self.flood(scripted(to), count),
            Move::Meet { dev, .. } | Move::Share { dev, .. } | Move::Forget { dev } | Move::Leave { dev } => {
                let dev = scripted(dev);
                if self.is_up(dev) {
                    self.meet(dev, step);
                }
            }
        }
    }

    /// What the owner of a device does with a liar.
    fn meet(&mut self, dev: Dev, step: &Move) {
        let liar = self.liar(0);
        let (id, at) = (self.id(liar), self.addresses(liar));
        match *step {
            Move::Meet { lie, .. } => {
                self.foe.answers.insert((liar, false), lie);
                self.call(dev, |node, env| node.disconnect(env, id));
                self.with_oracle(|oracle, world| oracle.on_connect(world, dev, id));
                if self.call(dev, |node, env| node.connect(env, id, &at)).is_err() {
                    self.with_oracle(|oracle, _| oracle.not_connecting(dev, id));
                }
            }
            Move::Share { tree: number, trick, .. } => {
                self.foe.takes = trick;
                // An unknown device, or one with too many offers: nothing happens.
                let _refused = self.offer(dev, liar, &tree(number));
            }
            Move::Forget { .. } => {
                self.with_oracle(|oracle, world| oracle.on_forget(world, dev, id));
                let _unknown = self.call(dev, |node, env| node.forget_device(env, id));
            }
            _ => self.call(dev, |node, env| node.disconnect(env, id)),
        }
    }

    /// A7: the root that another has replaced, for a second at least, is answered no more.
    fn check_old_root(&mut self, raw: Option<Raw>, who: Dev, to: Dev, old: usize) {
        let used = raw.and_then(|raw| self.foe.talks.get(&(raw.stream, raw.end))).and_then(|talk| talk.root);
        let newer = self.foe.roots.iter().rev().filter(|(of, peer, _)| *of == who && *peer == to).take(old);
        let confirmed = newer.filter(|(_, _, root)| used.as_ref() != Some(root.bytes()));
        let confirmed = confirmed.filter(|(_, _, root)| self.foe.confirmed.get(root.bytes()).is_some_and(|at| *at + 1_000_000 < self.now));
        if confirmed.count() > 0
            && self.foe.steady
            && let Some(raw) = raw
            && let Some(talk) = self.foe.talks.get_mut(&(raw.stream, raw.end))
        {
            talk.refused = Some("A7");
        }
    }

    /// What has happened decides what can be asked for: damaged lines, sleeping devices and paused transfers owe nothing in time.
    pub(crate) fn bear_in_mind(&mut self, step: &Step) {
        let late = |step: &Step| {
            matches!(
                step,
                Step::Sleep { .. }
                    | Step::Silence { .. }
                    | Step::Hold { .. }
                    | Step::Coarse { .. }
                    | Step::Latency { .. }
                    | Step::Move { .. }
                    | Step::Damage { .. }
                    | Step::SlowDisk { .. }
                    | Step::Enemy(Move::Splice { .. } | Move::Notice {} | Move::Say { speech: Speech::Pause, .. })
            )
        };
        let falls = |step: &Step| {
            matches!(
                step,
                Step::Crash { .. }
                    | Step::PowerFails { .. }
                    | Step::Store { .. }
                    | Step::Disk { .. }
                    | Step::NoEntropy { .. }
                    | Step::RollBack { .. }
                    | Step::Shutdown { .. }
                    | Step::More(_)
                    | Step::Enemy(Move::Forget { .. } | Move::Drip { .. } | Move::Say { speech: Speech::Unpair, .. })
            )
        };
        self.foe.late |= late(step);
        self.foe.fallen |= falls(step);
        self.foe.steady = !self.foe.late && !self.foe.fallen;
    }

    /// The liar's session with a device that stands; else with any.
    fn session_near(&mut self, to: Dev) -> Option<usize> {
        let liar = self.liar(0);
        let all =
            (0..self.foe.sessions.len()).rev().filter(|&session| self.control_of(session).is_some() && !self.foe.sessions[session].deaf);
        let all: Vec<usize> = all.filter(|&session| self.foe.sessions[session].who == liar).collect();
        all.iter().copied().find(|&session| self.foe.sessions[session].peer == to).or(all.first().copied())
    }

    fn newest_code(&self, of: Dev) -> Option<CodeKeys> {
        self.codes.get(&of).and_then(|codes| codes.last()).map(CodeKeys::derive)
    }

    /// A holder of the words joins; `more` of it follow when this one has ended.
    fn join_as_holder(&mut self, who: Dev, to: Dev, lie: Lie, more: usize) {
        if let Some(code) = self.newest_code(to).filter(|_| self.is_up(to)) {
            self.open_handshake(who, to, Shared::Code(code), lie, more);
        }
    }

    /// This device, if the liar holds a root with it; else another.
    fn root_near(&self, who: Dev, to: Dev) -> Dev {
        let own = || self.foe.roots.iter().rev().filter(|(of, ..)| *of == who).map(|(_, peer, _)| *peer);
        if own().any(|peer| peer == to) { to } else { own().next().unwrap_or(to) }
    }

    /// A liar dials whom it has a root with.
    fn call_as_liar(&mut self, who: Dev, to: Dev, lie: Lie, old: usize) -> Option<Raw> {
        let own = self.foe.roots.iter().rev().filter(|(of, peer, _)| *of == who && *peer == to);
        let root = own.map(|(.., root)| root.duplicate()).nth(old).filter(|_| self.is_up(to))?;
        let shared = Shared::Root { root, dialer: self.key(who), listener: self.key(to) };
        Some(self.open_handshake(who, to, shared, lie, 0))
    }

    /// The stranger opens a stream to a device and sends this.
    fn strange(&mut self, stranger: Dev, to: Dev, name: StreamName, bytes: &[u8]) -> Option<Raw> {
        if !self.is_up(to) {
            return None;
        }
        let raw = self.raw_open(stranger, to, name);
        if !bytes.is_empty() {
            self.raw_send(raw, bytes);
        }
        Some(raw)
    }
}

#[cfg(test)]
mod tests;
