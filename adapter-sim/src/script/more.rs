//! Faults that are several things at once: loops of crashes, rows that rot, sources that change, calls that cross.

use std::time::Duration;

use protocol_core::effects::{Direction, Input, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::node::Confirm;
use protocol_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::Step;
use super::draw::Draw;
use crate::choice::Tape;
use crate::disk::Edited;
use crate::lookup::LookupFault;
use crate::protocols::Plan;
use crate::rules::DiskFault;
use crate::world::Act;
use crate::{Dev, World};

/// Something that happens to a device, or that owners do at the same moment. `dev` and `peer` are devices by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the variants say it; their fields are numbers of devices, rows and transfers, and milliseconds")]
pub enum More {
    /// It crashes so many times, each time so long after it started: at once, if that is 0, so that it never gets through its start.
    CrashLoop { dev: usize, count: usize, millis: u64 },
    /// Its power fails, and when it is back its monotonic clock begins at 0.
    Reboot { dev: usize },
    /// Its power fails, and when it is back a row of its store cannot be read.
    Rot { dev: usize, number: usize },
    /// Its power fails, and when it is back a row of its store is not there.
    RowLost { dev: usize, number: usize },
    /// A sync fails once, and what was to be synced is lost although later syncs say that all is well.
    SyncLost { dev: usize },
    /// A source is changed while it is sent.
    Source { dev: usize, number: usize, how: Edited },
    /// The host's clock goes backwards for a moment.
    Backwards { dev: usize },
    /// Calls about what there is, at a time when they make no sense.
    Misuse { dev: usize },
    /// It is shut down, and in the middle of that once more.
    Halt { dev: usize },
    /// Two devices dial each other at the same moment.
    DialBoth { dev: usize, peer: usize },
    /// Two devices show a code, and each types the other's.
    PairBoth { dev: usize, peer: usize },
    /// The same tree is offered twice at once, and once the other way.
    ShareTwice { dev: usize, peer: usize, tree: usize },
    /// What waits for an owner's answer gets it while the other side cancels.
    Race { dev: usize, yes: bool },
    /// Every device offers every other a tree.
    Mesh { tree: usize },
    /// An owner sends so many messages, each of which waits for so many seconds; `long`: of 300 kB.
    Say { dev: usize, peer: usize, count: usize, life: u64, long: bool },
    /// An owner takes what came from a device.
    Take { dev: usize, peer: usize },
    /// An application opens so many streams of a protocol of the catalogue, says so many bytes on each in up to eight pieces, and
    /// waits so long between them.
    Speak { dev: usize, peer: usize, protocol: usize, count: usize, bytes: usize, millis: u64 },
    /// An owner answers now what he was asked about offers and has not answered.
    Answer { dev: usize, yes: bool },
    /// An owner blocks a device, or lifts that.
    Block { dev: usize, peer: usize, on: bool },
    /// An owner chooses one of four policies for a device.
    Policy { dev: usize, peer: usize, number: usize },
    /// A device is to stay connected with all that it is paired with, or no more.
    Keep { dev: usize, on: bool },
    /// An owner has one of his transfers rest, or go on.
    Rest { dev: usize, number: usize, on: bool },
    /// Its host says that the machine has slept.
    Awake { dev: usize },
    /// A lookup service does something wrong, or with `over` 0 each does.
    Lookup { fault: LookupFault, over: usize },
}

impl More {
    /// Its kind in the catalogue of faults.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::CrashLoop { millis: 0, .. } => "H6",
            Self::CrashLoop { .. } => "H7",
            Self::Reboot { .. } => "H10",
            Self::Rot { .. } => "H16",
            Self::RowLost { .. } => "H19",
            Self::SyncLost { .. } => "H5",
            Self::Source { .. } => "P5",
            Self::Backwards { .. } | Self::Misuse { .. } => "P10",
            Self::Halt { .. } => "P15",
            Self::DialBoth { .. } => "N22",
            Self::PairBoth { .. } => "P2",
            Self::ShareTwice { .. } => "P6",
            Self::Race { .. } => "P8",
            Self::Mesh { .. } => "P14",
            Self::Answer { .. } => "P16",
            Self::Say { .. } | Self::Take { .. } => "P12",
            Self::Speak { .. } => "P17",
            Self::Lookup { fault: LookupFault::Down(_) | LookupFault::Slow(_), .. } => "N27",
            Self::Lookup { .. } => "A19",
            Self::Rest { .. } => "P19",
            Self::Block { .. } | Self::Policy { .. } | Self::Keep { .. } | Self::Awake { .. } => "P18",
        }
    }
}

impl Draw<'_, '_> {
    /// The service by which devices find each other does something wrong, or not.
    pub(super) fn lookup_fault(&mut self) {
        let fault = match self.tape.below(8) {
            0 => LookupFault::Down(self.tape.one_of(&[500, 5_000, 60_000])),
            1 => LookupFault::Slow(self.tape.one_of(&[500, 2_000, 10_000])),
            2 => LookupFault::Stale,
            3 => LookupFault::Forged(self.tape.one_of(&[1, 3, 40])),
            4 => LookupFault::Twisted,
            _ => return,
        };
        let over = self.tape.below(3) as usize;
        self.push(Step::More(More::Lookup { fault, over }));
    }

    /// What happens to a device.
    pub(super) fn more_of_hosts(&mut self, dev: usize) {
        let number = self.tape.below(4) as usize;
        let step = match self.tape.below(7) {
            0 => More::CrashLoop { dev, count: 1 + self.tape.below(4) as usize, millis: self.tape.one_of(&[0, 0, 1, 20, 3_000]) },
            1 => More::Reboot { dev },
            2 => More::Rot { dev, number },
            3 => More::RowLost { dev, number },
            4 => More::SyncLost { dev },
            5 => More::Backwards { dev },
            _ => More::Halt { dev },
        };
        self.push(Step::More(step));
        if matches!(step, More::Halt { .. }) {
            self.restart_later(dev);
        }
    }

    /// What owners do.
    pub(super) fn more_of_owners(&mut self, dev: usize, peer: usize) {
        let number = self.tape.below(4) as usize;
        let tree = self.tape.below(super::draw::TREES) as usize;
        let step = match self.tape.below(10) {
            7 | 8 => return self.late_joiner(dev, peer),
            0 => More::Source { dev, number, how: Edited::draw(self.tape) },
            1 => More::Misuse { dev },
            2 => More::DialBoth { dev, peer },
            3 => More::PairBoth { dev, peer },
            4 => More::ShareTwice { dev, peer, tree },
            5 => More::Race { dev, yes: self.tape.percent(50) },
            6 => More::Mesh { tree },
            _ => {
                // What changes while it is sent has to be on its way.
                self.push(Step::Share { dev, peer, tree: 2 });
                self.at += 700 + self.tape.below(1_000);
                More::Source { dev, number: 0, how: Edited::draw(self.tape) }
            }
        };
        self.push(Step::More(step));
    }

    /// Owners say something.
    pub(super) fn say(&mut self, dev: usize, peer: usize) {
        let count = self.tape.one_of(&[1, 1, 2, 3, 5, 70]);
        let life = self.tape.one_of(&[86_400_000, 86_400_000, 86_400_000, 30, 1]);
        let long = self.tape.percent(10);
        self.push(Step::More(More::Say { dev, peer, count, life, long }));
        if self.tape.percent(30) {
            self.push(Step::More(More::Say { dev: peer, peer: dev, count: 1, life, long: false }));
        }
    }

    /// Somebody types a code in its last second, and what he says is held until that is over.
    fn late_joiner(&mut self, dev: usize, peer: usize) {
        let (joiner, ask) = (if dev == peer { dev + 1 } else { peer }, self.tape.percent(50));
        self.push(Step::Invite { dev, ask });
        self.at += 599_000 + self.tape.below(900);
        self.push(Step::Join { dev: joiner, of: dev, words: super::Words::Right, ask, lost: 0 });
        self.at += self.tape.below(400);
        let millis = 1_000 + self.tape.below(40_000);
        self.push(Step::Hold { dev: joiner, peer: dev, millis });
    }
}

impl Edited {
    fn draw(tape: &mut Tape<'_>) -> Self {
        tape.one_of(&[Self::Shorter, Self::Longer, Self::Rewritten, Self::Deleted, Self::Unreadable, Self::Replaced])
    }
}

impl World {
    pub(super) fn step_more(&mut self, step: More) {
        let of = |dev: usize| Dev(dev % self.honest);
        match step {
            More::CrashLoop { dev, count, millis } => self.crash_loop(of(dev), count % 8, millis),
            More::Reboot { dev } => self.reboot(of(dev)),
            More::Rot { dev, number } => self.lose_row(of(dev), number, true),
            More::RowLost { dev, number } => self.lose_row(of(dev), number, false),
            More::SyncLost { dev } => self.fault_disk(of(dev), 1, DiskFault::SyncLost),
            More::Source { dev, number, how } => self.devices[dev % self.honest].disk.change_source(number, how),
            More::Backwards { dev } => self.backwards(of(dev)),
            More::Misuse { dev } => self.misuse_known(of(dev)),
            More::Halt { dev } => self.halt(of(dev)),
            More::Lookup { fault, over: 0 } => self.fault_lookup(fault),
            More::Lookup { fault, over } => self.fault_service(over - 1, fault),
            More::DialBoth { dev, peer } => {
                for (dev, peer) in [(dev, peer), (peer, dev)] {
                    self.do_step(Step::Connect { dev, peer, told: true });
                }
            }
            More::PairBoth { dev, peer } => {
                for dev in [dev, peer] {
                    self.do_step(Step::Invite { dev, ask: true });
                }
                for (dev, of) in [(dev, peer), (peer, dev)] {
                    self.do_step(Step::Join { dev, of, words: super::Words::Right, ask: true, lost: 0 });
                }
            }
            More::ShareTwice { dev, peer, tree } => {
                for (dev, peer) in [(dev, peer), (dev, peer), (peer, dev)] {
                    self.do_step(Step::Share { dev, peer, tree });
                }
            }
            More::Race { dev, yes } => self.race(of(dev), yes),
            More::Say { dev, peer, count, life, long } => self.write_to((of(dev), of(peer)), count % 256, life, long),
            More::Take { dev, peer } => {
                if self.is_up(of(dev)) {
                    self.take_all_from(of(dev), of(peer));
                }
            }
            More::Speak { dev, peer, protocol, count, bytes, millis } => {
                self.speak((of(dev), of(peer)), protocol, count % 128, Plan { bytes: bytes % (1 << 20), millis: millis % 10_000 });
            }
            More::Answer { dev, yes } => self.answer_late(of(dev), yes),
            More::Block { dev, peer, on } => self.step_block(of(dev), of(peer), on),
            More::Policy { dev, peer, number } => self.step_policy(of(dev), of(peer), number),
            More::Keep { dev, on } => self.step_keep(of(dev), on),
            More::Awake { dev } => self.step_awake(of(dev)),
            More::Rest { dev, number, on } => {
                let transfers = self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, of(dev))).unwrap_or_default();
                if let Some(&key) = transfers.get(number % transfers.len().max(1)) {
                    self.rest(of(dev), key, on);
                }
            }
            More::Mesh { tree } => {
                let count = self.honest;
                for (dev, peer) in (0..count).flat_map(|dev| (0..count).map(move |peer| (dev, peer))).filter(|(dev, peer)| dev != peer) {
                    self.do_step(Step::Share { dev, peer, tree: tree + dev });
                }
            }
        }
    }

    fn crash_loop(&mut self, dev: Dev, count: usize, millis: u64) {
        for number in 0..=count as u64 {
            let at = number * (millis * 1_000 + 1);
            for step in [Step::Crash { dev: dev.0 }, Step::Restart { dev: dev.0 }] {
                self.steps.push(step);
                self.after(at, Act::Step { number: self.steps.len() - 1 });
            }
        }
    }

    fn reboot(&mut self, dev: Dev) {
        self.lose_power(dev);
        self.devices[dev.0].booted = self.now;
        self.restart(dev);
    }

    /// What a store has lost is lost: who was in it is a stranger now, and does not know that.
    fn lose_row(&mut self, dev: Dev, number: usize, rots: bool) {
        self.lose_power(dev);
        let store = &mut self.devices[dev.0].store;
        if let Some(key) = store.keys().nth(number % store.len().max(1)).cloned() {
            match store.get_mut(&key).filter(|_| rots) {
                // The host's seal tells it: such a row is reported, and never used.
                Some(row) => drop(row.pop()),
                None => drop(store.remove(&key)),
            }
            self.with_oracle(|oracle, _| {
                oracle.over_budget.insert(dev);
            });
        }
        self.restart(dev);
    }

    fn backwards(&mut self, dev: Dev) {
        let booted = std::mem::replace(&mut self.devices[dev.0].booted, self.now);
        self.handle(dev, Input::Tick);
        self.devices[dev.0].booted = booted;
    }

    /// Calls about transfers and pairings that there are, in states in which they make no sense: all are refused.
    fn misuse_known(&mut self, dev: Dev) {
        if !self.is_up(dev) {
            return;
        }
        let transfers = self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default();
        for key in transfers.into_iter().filter(|key| key.direction == Direction::Outgoing) {
            let taken = self.call(dev, |node, env| node.accept(env, key)).is_ok();
            let declined = self.call(dev, |node, env| node.decline(env, key, DeclineReason::User)).is_ok();
            if taken || declined {
                self.with_oracle(|oracle, _| oracle.broken("S29", || format!("device {} answers its own offer", dev.0)));
            }
        }
        let short = self.call(dev, |node, env| node.start_pairing_as_initiator(env, Duration::from_secs(1), Confirm::Ask).is_ok());
        if short {
            self.with_oracle(|oracle, _| oracle.broken("S29", || format!("device {} shows a code for a second", dev.0)));
        }
    }

    /// It may have ended, or be waiting for an answer.
    fn rest(&mut self, dev: Dev, key: TransferKey, on: bool) {
        self.wishes.resting |= on;
        if self.is_up(dev) {
            let _late = self.call(dev, |node, env| node.pause(env, key, on));
        }
    }

    /// Whatever an owner has rest goes on.
    pub(super) fn nothing_rests(&mut self) {
        if !std::mem::take(&mut self.wishes.resting) {
            return;
        }
        for dev in (0..self.honest).map(Dev) {
            for key in self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default() {
                self.rest(dev, key, false);
            }
        }
    }

    fn halt(&mut self, dev: Dev) {
        self.do_step(Step::Shutdown { dev: dev.0 });
        self.steps.push(Step::Shutdown { dev: dev.0 });
        self.after(50_000, Act::Step { number: self.steps.len() - 1 });
    }

    fn answer_late(&mut self, dev: Dev, yes: bool) {
        let transfers = self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default();
        for key in transfers.into_iter().filter(|key| key.direction == Direction::Incoming) {
            let life = self.life(dev);
            self.act(Act::AnswerOffer { dev, life, key, yes });
        }
    }

    /// The owners of both sides of a transfer speak at the same moment.
    fn race(&mut self, dev: Dev, yes: bool) {
        let transfers = self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default();
        for key in transfers.into_iter().filter(|key| key.direction == Direction::Incoming) {
            let Some(peer) = self.dev_of_id(key.device).filter(|peer| peer.0 < self.honest) else { continue };
            let life = self.life(dev);
            self.act(Act::AnswerOffer { dev, life, key, yes });
            let theirs = TransferKey { device: self.id(dev), direction: Direction::Outgoing, id: key.id };
            if self.is_up(peer) {
                // It may have ended.
                let _late = self.call(peer, |node, env| node.cancel(env, theirs, CancelReason::User));
            }
        }
    }

    /// The moment of a device's own clock.
    pub(crate) fn since_boot(&self, dev: Dev) -> Timestamp {
        let device = &self.devices[dev.0];
        Timestamp::from_micros((self.now - device.booted) / device.resolution * device.resolution + device.ahead)
    }
}
