//! What devices owe an enemy in time: to end what must end, to answer what must be answered.

use std::time::Duration;

use protocol_core::effects::{Event, TransferKey};
use protocol_core::faults::LinkFailure;
use protocol_core::ids::{SessionId, TransferId};
use protocol_core::limits;
use protocol_core::node::probe::SessionProbe;
use protocol_core::wire::deframer::StreamName;

use super::lie::Lie;
use super::session::Session;
use super::talk::{State, Talk};
use super::transfer::Trick;
use crate::raw::Raw;
use crate::world::Act;
use crate::{Dev, World};

/// What must have come about after some time.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// At most so many of these streams are still open at their other end; where they stand under a session, while that stands.
    Closed { streams: Vec<Raw>, most: usize, under: Option<usize> },
    /// A first message has its answer.
    Answered(Raw),
    /// A code is void.
    Void(Dev, SessionId),
    /// A transfer is over.
    Ended(Dev, TransferKey),
    /// What was said last in a session was no reason to end it: since so many events, if nothing more was done.
    Tolerated { session: usize, moves: u64, events: usize },
    /// An offer is declined, while its session stands.
    Declined { session: usize, transfer: TransferId },
}

/// Something of an enemy's that comes later.
pub(crate) enum Due {
    /// Whether this has come about is looked at, by this rule.
    Expect { what: Expect, rule: &'static str },
    /// The first bytes of a data stream of a session come again.
    Resend { session: usize, before: Raw, name: StreamName, bytes: Vec<u8> },
    /// More Hellos.
    Hellos { to: Dev, count: usize },
    /// More offers.
    Deal { session: usize, tree: usize, trick: Trick, count: usize },
}

impl World {
    pub(crate) fn enemy_due(&mut self, due: Due) {
        match due {
            Due::Expect { what, rule } => self.expected(&what, rule),
            Due::Resend { session, before, name, bytes } => self.resend(session, before, name, &bytes),
            Due::Hellos { to, count } => self.flood(to, count),
            Due::Deal { session, tree, trick, count } => (0..count).for_each(|_| self.deal(session, tree, trick)),
        }
    }

    /// How long what is expected of devices is still waited for.
    pub(crate) fn enemy_waits(&self) -> Duration {
        Duration::from_micros(self.foe.until.saturating_sub(self.now))
    }

    /// After so many milliseconds the device at the other end must have ended this stream, by this rule.
    pub(super) fn watch(&mut self, raw: Raw, millis: u64, rule: &'static str) {
        self.expect(Expect::Closed { streams: vec![raw], most: 0, under: None }, millis, rule);
    }

    /// PAIR-3, DATA-6: what proves nothing is ended in time; a first message that says that it is longer than any, at once.
    pub(super) fn check_garbage(&mut self, raw: Option<Raw>, name: StreamName, bytes: &[u8]) {
        let Some(raw) = raw else { return };
        let len = bytes.first_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
        let huge = len > limits::FIRST_FRAME && !matches!(name, StreamName::Data(_));
        self.watch(raw, if huge { 1_000 } else { 11_000 }, "S23");
    }

    /// After so many milliseconds this must have come about, by this rule.
    pub(super) fn expect(&mut self, what: Expect, millis: u64, rule: &'static str) {
        let late = 2 * (self.latency.0 + self.latency.1) + 1_500_000;
        self.foe.until = self.foe.until.max(self.now + late + millis * 1_000);
        self.after(late + millis * 1_000, Act::Enemy(Due::Expect { what, rule }));
    }

    /// The time of something that was expected is over.
    pub(super) fn expected(&mut self, what: &Expect, rule: &'static str) {
        let held = match what {
            Expect::Closed { under: Some(session), .. } if !self.stands(*session) => None,
            Expect::Closed { streams, most, .. } => {
                let open = streams.iter().filter(|raw| self.is_held(**raw)).count();
                if open > *most { Some(format!("{open} of the streams {streams:?} are open that had to be ended")) } else { None }
            }
            Expect::Void(dev, session) => {
                if self.foe.steady {
                    self.with_oracle(|oracle, world| oracle.check_void(world, *dev, *session));
                }
                None
            }
            Expect::Ended(dev, key) => {
                let open = self.oracle.as_ref().is_some_and(|oracle| oracle.transfers_of(self, *dev).contains(key));
                (open && !self.gave_all_up(*dev, key) && !self.was_dealt_again(key))
                    .then(|| format!("device {} goes on with {key:?}", dev.0))
            }
            Expect::Declined { session, transfer } => {
                let waits = self.is_spoken(*session) && !self.foe.declined.contains(transfer);
                waits.then(|| format!("an offer was not declined that had to be: {transfer:?}"))
            }
            Expect::Tolerated { session, moves, events } => {
                let Session { who, peer, .. } = self.foe.sessions[*session];
                let id = self.id(who);
                let accused = |(dev, event): &(Dev, Event)| {
                    *dev == peer && matches!(event, Event::Device { device, reason: Some(LinkFailure::Violation), .. } if *device == id)
                };
                // A transfer that was asked for before may have begun since.
                let more = self.foe.moves != *moves || self.foe.deals.iter().any(|deal| deal.session == *session);
                let accused = !more && self.events()[*events..].iter().any(accused);
                accused.then(|| format!("device {} ends a session for what it had to pass over", peer.0))
            }
            Expect::Answered(raw) => {
                let waits = |talk: &Talk| matches!(talk.state, State::Opening(_));
                let waits = self.foe.talks.get(&(raw.stream, raw.end)).is_some_and(waits);
                waits.then(|| format!("a first message on {raw:?} was not answered"))
            }
        };
        if let Some(held) = held.filter(|_| !self.foe.late) {
            self.with_oracle(|oracle, _| oracle.broken(rule, || held));
        }
    }

    /// Whether a liar's peer still has their session.
    pub(super) fn stands(&self, session: usize) -> bool {
        let Session { peer, session_ref, .. } = &self.foe.sessions[session];
        self.node_of(*peer).is_some_and(|node| node.probe_sessions().iter().any(|session| session.session_ref == *session_ref))
    }

    /// Whether a liar's peer still speaks with it in their session.
    fn is_spoken(&self, session: usize) -> bool {
        let Session { peer, session_ref, .. } = &self.foe.sessions[session];
        let spoken = |session: &SessionProbe| session.session_ref == *session_ref && session.primary;
        self.node_of(*peer).is_some_and(|node| node.probe_sessions().iter().any(spoken))
    }

    /// Whether the device at the other end of a stream still has it.
    pub(super) fn is_held(&self, raw: Raw) -> bool {
        self.owner(raw.stream, 1 - raw.end).is_some() && !self.streams[raw.stream].ends[1 - raw.end].down
    }

    /// A holder's handshake ended past the tag.
    pub(super) fn spend(&mut self, dev: Dev, session: SessionId, failed: bool, tcp: bool) {
        let Some((ended, failures)) = self.foe.spent.entry((dev, session)).or_insert(Some((0, 0))) else { return };
        *ended += 1;
        *failures += u32::from(failed && !tcp);
        if *ended >= limits::CODE_HANDSHAKES || *failures >= limits::CODE_FAILURES {
            self.expect(Expect::Void(dev, session), 1_000, "S23");
        }
    }

    /// PAIR-39: a code under which three failed challenges nobody.
    pub(super) fn check_spent(&mut self, dev: Dev, session: Option<SessionId>) {
        let spent = session.and_then(|session| self.foe.spent.get(&(dev, session)).copied().flatten());
        if self.foe.steady && spent.is_some_and(|(_, failures)| failures >= limits::CODE_FAILURES) {
            self.with_oracle(|oracle, _| {
                oracle.broken("PAIR-39", || format!("device {} goes on with a code under which three failed", dev.0))
            });
        }
    }

    /// Five handshakes that a device answered and that are all open are one too many.
    pub(super) fn count_challenges(&mut self, peer: Dev, raw: Raw) {
        let open = |stream: usize, end: usize| (stream, end) != (raw.stream, raw.end) && self.is_held(Raw { stream, end });
        let life = self.life(peer);
        let silent =
            self.foe.talks.iter().filter(|(_, talk)| talk.challenged && talk.lie == Lie::Silence && talk.peer == peer && talk.life == life);
        let held = silent.filter(|(at, talk)| matches!(talk.state, State::Over) && open(at.0, at.1)).count();
        let most = limits::CODE_HANDSHAKES_AT_ONCE;
        self.with_oracle(|oracle, _| {
            if held >= most {
                oracle.broken("S23", || format!("device {} answers {} joiners at once", peer.0, held + 1));
            }
        });
    }
}
