//! Parting, blocking, policies and staying connected (PROTOCOL.md, sections 8.1 and 9.8): what owners want, and scenes of it. They
//! are drawn behind all else, so that what a script was before they were thought of it still is.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol_core::devices::policy::{FilePolicy, Policy};
use protocol_core::effects::{Fact, Input};

use super::draw::Draw;
use super::scenes::PAIRING;
use super::{More, Step, Words};
use crate::adversary::Move;
use crate::rules::StoreFault;
use crate::{Dev, World};

/// A life of a message that no run outlasts, in seconds.
const LONG: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

/// One of the policies that owners of a script choose from.
fn policy(number: usize) -> Policy {
    match number % 4 {
        0 => Policy::default(),
        1 => Policy { files: FilePolicy::Refuse, ..Policy::default() },
        // Some trees of the catalogue are larger, some are not.
        2 => Policy { max_bytes: Some(1_000), files: FilePolicy::Automatic, ..Policy::default() },
        _ => Policy { messages: false, ..Policy::default() },
    }
}

/// What owners have said that lasts.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Devices that stay connected, in this life and those to come.
    pub(crate) kept: BTreeSet<Dev>,
    /// A device was blocked, or has a policy.
    narrowed: bool,
    /// A transfer was to rest.
    pub(super) resting: bool,
}

impl World {
    pub(super) fn step_block(&mut self, dev: Dev, peer: Dev, on: bool) {
        if !self.is_up(dev) {
            return;
        }
        self.wishes.narrowed = true;
        let id = self.id(peer);
        // Who is not known cannot be blocked, nor can who is not blocked be let in again.
        if self.call(dev, |node, env| node.block_device(env, id, on)).is_ok() {
            self.with_oracle(|oracle, world| oracle.on_blocked(world, dev, peer, on));
        }
    }

    pub(super) fn step_policy(&mut self, dev: Dev, peer: Dev, number: usize) {
        if !self.is_up(dev) {
            return;
        }
        self.wishes.narrowed = true;
        let (id, policy) = (self.id(peer), policy(number));
        let Some(before) = self.node(dev).policy(id) else { return };
        self.with_oracle(|oracle, world| oracle.on_policy(world, (dev, peer), before, policy.clone()));
        if self.call(dev, |node, env| node.set_policy(env, id, policy)).is_err() {
            self.with_oracle(|oracle, _| oracle.broken("S39", || format!("device {} takes no policy for a device that it knows", dev.0)));
        }
    }

    pub(super) fn step_keep(&mut self, dev: Dev, on: bool) {
        if on {
            self.wishes.kept.insert(dev)
        } else {
            self.wishes.kept.remove(&dev)
        };
        if self.is_up(dev) {
            self.with_oracle(|oracle, _| oracle.keeps_anew(dev));
            self.call(dev, |node, env| node.keep_connected(env, on));
        }
    }

    pub(super) fn step_awake(&mut self, dev: Dev) {
        if self.is_up(dev) {
            self.with_oracle(|oracle, world| oracle.on_roused(world, dev));
            self.handle(dev, Input::Network(Fact::Awake));
        }
    }

    /// A device has begun a new life: its owner still wants what he wanted.
    pub(crate) fn keep_in_this_life(&mut self, dev: Dev) {
        // It may have crashed in its first write.
        if self.wishes.kept.contains(&dev) && self.is_up(dev) {
            self.call(dev, |node, env| node.keep_connected(env, true));
        }
    }

    /// Owners want nothing of all that any more.
    pub(crate) fn lift_wishes(&mut self) {
        self.nothing_rests();
        for dev in std::mem::take(&mut self.wishes.kept) {
            if self.is_up(dev) {
                self.call(dev, |node, env| node.keep_connected(env, false));
            }
        }
        if !std::mem::take(&mut self.wishes.narrowed) {
            return;
        }
        for dev in (0..self.honest).map(Dev) {
            for peer in (0..self.honest).map(Dev) {
                let id = self.id(peer);
                if self.is_up(dev) && self.call(dev, |node, env| node.block_device(env, id, false)).is_ok() {
                    self.with_oracle(|oracle, world| oracle.on_blocked(world, dev, peer, false));
                }
                self.step_policy(dev, peer, 0);
            }
        }
        self.wishes.narrowed = false;
        // That is written.
        self.run_for(Duration::from_secs(1));
    }
}

impl Draw<'_, '_> {
    /// Scenes of this file: behind what was, or alone, in a world where nothing else happens.
    pub(super) fn partings(&mut self) {
        let alone = self.tape.percent(30);
        if alone {
            self.begin_anew();
        } else if !self.tape.percent(30) {
            return;
        }
        for _ in 0..1 + self.tape.below(2) {
            self.parting(alone);
        }
    }

    /// The same, and what was drawn before happens too.
    pub(super) fn partings_beside(&mut self) {
        if self.tape.percent(40) {
            self.parting(false);
        }
    }

    /// A device stays connected from the beginning, whatever happens.
    pub(super) fn keep_throughout(&mut self) {
        let end = std::mem::replace(&mut self.at, 2_500);
        for dev in 0..1 + self.tape.below(2) as usize {
            self.push(Step::More(More::Keep { dev, on: true }));
        }
        self.at = end;
        self.sort();
    }

    fn parting(&mut self, alone: bool) {
        let (dev, peer) = self.tape.one_of(&[(0, 1), (1, 0)]);
        if !alone {
            for dev in [dev, peer] {
                self.push(Step::Heard { dev });
            }
        }
        for dev in [dev, peer] {
            self.push(Step::Restart { dev });
            self.push(Step::CancelPairing { dev });
            self.push(Step::More(More::Keep { dev, on: false }));
        }
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        match self.tape.below(14) {
            13 => self.forgotten_behind_a_write(dev, peer),
            0 | 1 => self.told_at_once(dev, peer),
            2 | 3 => self.told_later(dev, peer),
            4 | 5 => self.blocked(dev, peer),
            6 | 7 => self.by_policy(dev, peer),
            8 | 9 => self.stays_away(dev, peer),
            10 | 11 => self.not_wanted(dev, peer),
            _ => self.false_notice(dev, peer),
        }
    }

    fn restart(&mut self, dev: usize, percent: u64) {
        if self.tape.percent(percent) {
            self.push(Step::Crash { dev });
            self.push(Step::Restart { dev });
            self.at += 500;
        }
    }

    fn dial(&mut self, dev: usize, peer: usize) {
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 6_000;
    }

    /// What a device writes next meets a fault, or takes long; then it is well again.
    fn badly_written(&mut self, dev: usize, step: Step, wait: u64) {
        let slow = match self.tape.below(6) {
            0 => {
                let fault = self.tape.one_of(&[StoreFault::CrashBefore, StoreFault::CrashAfter, StoreFault::Fail]);
                self.push(Step::Store { dev, number: 1, fault });
                false
            }
            1 => {
                self.push(Step::SlowDisk { dev, millis: 3_000 });
                true
            }
            _ => false,
        };
        self.push(step);
        self.at += wait;
        if slow {
            if self.tape.percent(50) {
                self.push(Step::Crash { dev });
            }
            self.push(Step::SlowDisk { dev, millis: 0 });
            self.at += 4_000;
        }
        self.push(Step::Restart { dev });
    }

    /// A device is forgotten while a session stands.
    fn told_at_once(&mut self, dev: usize, peer: usize) {
        if self.tape.percent(30) {
            self.push(Step::Share { dev: peer, peer: dev, tree: 2 });
            self.wait(2_000);
        }
        self.badly_written(dev, Step::Forget { dev, peer }, 1_500);
        if self.tape.percent(20) {
            self.push(Step::Forget { dev: peer, peer: dev });
        }
        self.at += 20_000;
        self.dial(peer, dev);
    }

    /// A device that has said something is forgotten while something else of it is being written, and the forgetting cannot be.
    fn forgotten_behind_a_write(&mut self, dev: usize, peer: usize) {
        self.push(Step::More(More::Say { dev: peer, peer: dev, count: 1, life: LONG, long: false }));
        self.at += 2_000;
        self.push(Step::Store { dev, number: 2, fault: StoreFault::Fail });
        let first = if self.tape.percent(50) { Step::Disconnect { dev, peer } } else { Step::Rename { dev, peer } };
        self.push(first);
        self.push(Step::Forget { dev, peer });
        self.at += 20_000;
    }

    /// A device is forgotten that is away, and comes back.
    fn told_later(&mut self, dev: usize, peer: usize) {
        let leaves = self.tape.percent(50);
        self.push(if leaves { Step::Disconnect { dev: peer, peer: dev } } else { Step::Crash { dev: peer } });
        self.at += 3_000;
        let soon = self.tape.percent(30);
        self.badly_written(dev, Step::Forget { dev, peer }, if soon { 200 } else { 2_000 });
        if !soon {
            self.restart(dev, 50);
            self.at += 4_000;
        }
        self.push(Step::Restart { dev: peer });
        self.at += 1_000;
        self.dial(peer, dev);
        if self.tape.percent(30) {
            self.pair(dev, peer, (false, false));
            self.at += PAIRING;
        }
    }

    /// A device is blocked, and tries what it can.
    fn blocked(&mut self, dev: usize, peer: usize) {
        let block = |on| Step::More(More::Block { dev, peer, on });
        if self.tape.percent(30) {
            self.push(Step::Disconnect { dev, peer });
            self.at += 3_000;
        }
        self.badly_written(dev, block(true), 2_000);
        self.restart(dev, 50);
        if self.tape.percent(30) {
            self.push(Step::Forget { dev, peer });
            self.at += 2_000;
        }
        if self.tape.percent(60) {
            self.dial(peer, dev);
        }
        if self.tape.percent(60) {
            let (shows, types) = self.tape.one_of(&[(dev, peer), (peer, dev)]);
            self.push(Step::Invite { dev: shows, ask: false });
            self.push(Step::Join { dev: types, of: shows, words: Words::Right, ask: false, lost: 0 });
            self.at += 2 * PAIRING;
        }
        self.at += 16_000;
        if self.tape.percent(50) {
            self.push(block(false));
            self.at += 1_000;
            self.dial(peer, dev);
        }
    }

    /// A device may do less than others, also after a restart.
    fn by_policy(&mut self, dev: usize, peer: usize) {
        for _ in 0..1 + self.tape.below(2) {
            let number = 1 + self.tape.below(4) as usize;
            self.badly_written(dev, Step::More(More::Policy { dev, peer, number }), 2_000);
            self.restart(dev, 60);
            self.at += 2_000;
            self.dial(peer, dev);
            let tree = self.tape.below(super::draw::TREES) as usize;
            self.push(Step::Share { dev: peer, peer: dev, tree });
            self.push(Step::More(More::Say { dev: peer, peer: dev, count: 2, life: LONG, long: false }));
            self.at += 5_000;
        }
    }

    /// Owners who want to stay connected, and a device that is away for an hour.
    fn stays_away(&mut self, dev: usize, peer: usize) {
        self.push(Step::More(More::Keep { dev, on: true }));
        if self.tape.percent(30) {
            self.push(Step::More(More::Keep { dev: peer, on: true }));
        }
        if self.tape.percent(30) {
            self.at += 1_000;
            self.push(Step::Reset { dev, peer });
        }
        self.at += 40_000;
        self.push(Step::Crash { dev: peer });
        self.at += HOUR;
        self.push(Step::Restart { dev: peer });
        self.at += 2_000;
        match self.tape.below(3) {
            0 => self.push(Step::More(More::Awake { dev })),
            1 => self.push(Step::Move { dev, taken_by: None }),
            _ => self.at += 400_000,
        }
        self.at += 60_000;
    }

    /// Who wants to stay connected does not want to with this one, or this one does not.
    fn not_wanted(&mut self, dev: usize, peer: usize) {
        self.push(Step::More(More::Keep { dev, on: true }));
        self.at += 2_000;
        let end = [
            Step::Disconnect { dev, peer },
            Step::Forget { dev: peer, peer: dev },
            Step::More(More::Block { dev, peer, on: true }),
            Step::Disconnect { dev: peer, peer: dev },
        ];
        let number = self.tape.below(end.len() as u64) as usize;
        self.push(end[number].clone());
        self.at += 8_000;
        // Then everybody is dialled whom somebody wants.
        if self.tape.percent(70) {
            self.push(Step::More(More::Awake { dev }));
        }
        self.at += 400_000;
        if self.tape.percent(40) {
            self.push(Step::More(More::Block { dev, peer, on: false }));
            self.at += 2_000;
            self.push(Step::Connect { dev, peer, told: true });
            self.at += 10_000;
        }
    }

    /// Somebody answers with a notice of removal that he made up.
    fn false_notice(&mut self, dev: usize, peer: usize) {
        self.push(Step::Disconnect { dev, peer });
        self.at += 3_000;
        self.push(Step::Enemy(Move::Notice {}));
        self.dial(peer, dev);
    }
}
