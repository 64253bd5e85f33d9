//! Steps, done.

use std::time::Duration;

use protocol_core::effects::{Direction, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason};
use protocol_core::ids::{SessionId, TransferId};
use protocol_core::info::Address;
use protocol_core::node::{Confirm, ShareError};
use protocol_core::pairing::PairingCode;

use super::{Script, Setting, Step, Words};
use crate::choice::Choices;
use crate::disk::{Item, Tree};
use crate::oracle::Oracle;
use crate::rules::Rule;
use crate::trace::What;
use crate::world::{Act, Pieces};
use crate::{Dev, World};

/// Chunks of simulated transfers: the smallest that the protocol has.
pub(crate) const CHUNK: u32 = 64 << 10;

/// A tree of the catalogue.
pub(crate) fn tree(number: usize) -> Tree {
    let path = |text: &str| text.split('/').map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>();
    // It repeats every 251 bytes, so no chunk is like another.
    let period: Vec<u8> = (0..251).map(|at| (at * 31 % 251 + number) as u8).collect();
    let content = |len: usize| {
        let mut bytes = period.repeat(len.div_ceil(period.len()));
        bytes.truncate(len);
        Item::File(bytes)
    };
    match number % super::draw::TREES as usize {
        0 => Tree::from([(path("note"), content(100))]),
        1 => Tree::from([
            (path("d"), Item::Directory),
            (path("d/a"), content(1)),
            (path("d/empty"), content(0)),
            (path("d/e"), Item::Directory),
            (path("d/e/b"), content(3_000)),
            (path("z"), content(64 << 10)),
        ]),
        2 => Tree::from([(path("big"), content(200_000)), (path("small"), content(5))]),
        3 => Tree::from([
            (path("l"), Item::Link(b"t/x".to_vec())),
            (path("t"), Item::Directory),
            (path("t/x"), content(65_537)),
            (vec![b"\xff\x1b[2J".to_vec()], content(9)),
        ]),
        4 => (0..40).map(|at| (path(&format!("f{at:02}")), content(at * 7))).collect(),
        _ => Tree::from([(path("only"), Item::Directory)]),
    }
}

impl World {
    /// A world for a script: its devices are there and its steps are queued.
    pub fn of_script(script: &Script, keep: bool) -> Self {
        let Setting { chance, wires, pieces, latency, aes, .. } = &script.setting;
        let mut world = Self::with(Choices::new(*chance), *chance, keep);
        world.set_pieces(*pieces);
        world.set_latency(Duration::from_micros(latency.0), Duration::from_micros(latency.1));
        world.oracle = Some(Box::new(Oracle::new(script.manners())));
        world.watch = Some(Box::default());
        world.cipher = crate::oracle::recording_cipher();
        world.set_lookups(script.setting.lookups);
        for (number, wire) in wires.iter().enumerate() {
            world.set_aes(aes >> (number % 8) & 1 == 1);
            world.add_device_on(&format!("device {number}"), *wire);
        }
        world.honest = wires.len();
        if *pieces != Pieces::Whole {
            world.fire("N14");
        }
        let beginning = world.micros();
        for (number, timed) in script.steps.iter().enumerate() {
            world.at(beginning + timed.at.saturating_mul(1_000), Act::Step { number });
        }
        world.steps = script.steps.iter().map(|timed| timed.step.clone()).collect();
        world
    }

    /// Does something with the oracle, if there is one.
    pub(crate) fn with_oracle(&mut self, does: impl FnOnce(&mut Oracle, &Self)) {
        if let Some(mut oracle) = self.oracle.take() {
            does(&mut oracle, self);
            self.oracle = Some(oracle);
        }
    }

    /// A device by a number of a script.
    fn scripted(&self, number: usize) -> Dev {
        Dev(number % self.honest)
    }

    pub(crate) fn take_step(&mut self, number: usize) {
        let step = self.steps[number].clone();
        self.do_step(step);
    }

    pub(super) fn do_step(&mut self, step: Step) {
        self.trace.push(self.now, None, What::Step(format!("{step:?}")));
        if let Some(kind) = step.kind() {
            self.fired.push(kind);
        }
        self.bear_in_mind(&step);
        match step {
            Step::Invite { dev, ask } => self.step_invite(self.scripted(dev), ask),
            Step::Join { dev, of, words, ask, lost } => self.step_join(self.scripted(dev), self.scripted(of), (words, ask), lost),
            Step::NoDials { millis } => self.undialable_until = self.now + millis * 1_000,
            Step::Crowd { dev, count } => self.step_crowd(self.scripted(dev), count),
            Step::Enemy(step) => self.enemy(&step),
            Step::More(step) => self.step_more(step),
            Step::Damage { name, side, at, damage } => self.rule(Rule { name: name.stream(), side, at, damage }),
            Step::Latency { least, more } => self.latency = (least, more),
            Step::Hold { dev, peer, millis } => {
                let (dev, peer) = (self.scripted(dev), self.scripted(peer));
                self.hold(dev, peer, Duration::from_millis(millis));
            }
            Step::Reset { dev, peer } => {
                let (dev, peer) = (self.scripted(dev), self.scripted(peer));
                if self.cut_connection(dev, peer) {
                    self.fired.push("N21");
                }
            }
            Step::Restart { dev } => {
                let dev = self.scripted(dev);
                if !self.is_up(dev) {
                    self.restart(dev);
                }
            }
            Step::Crash { .. }
            | Step::PowerFails { .. }
            | Step::Store { .. }
            | Step::Disk { .. }
            | Step::SlowDisk { .. }
            | Step::Sleep { .. }
            | Step::WallClock { .. }
            | Step::Coarse { .. }
            | Step::NoEntropy { .. }
            | Step::BackUp { .. }
            | Step::RollBack { .. }
            | Step::Silence { .. }
            | Step::Heard { .. }
            | Step::Dial { .. }
            | Step::NoStream { .. }
            | Step::Move { .. } => self.step_host(&step),
            Step::CancelPairing { .. }
            | Step::Connect { .. }
            | Step::Disconnect { .. }
            | Step::Forget { .. }
            | Step::Rename { .. }
            | Step::Share { .. }
            | Step::CancelTransfer { .. }
            | Step::Answers { .. }
            | Step::OnConflict { .. }
            | Step::Occupy { .. }
            | Step::Edit { .. }
            | Step::Shutdown { .. }
            | Step::Misuse { .. } => self.step_owner(&step),
        }
    }

    /// What happens to a device and its surroundings.
    fn step_host(&mut self, step: &Step) {
        match *step {
            Step::Crash { dev } => {
                let dev = self.scripted(dev);
                self.with_oracle(|oracle, world| oracle.on_fall(world, dev));
                self.crash(dev);
            }
            Step::PowerFails { dev } => self.lose_power(self.scripted(dev)),
            Step::Store { dev, number, fault } => self.fault_store(self.scripted(dev), number, fault),
            Step::Disk { dev, number, fault } => self.fault_disk(self.scripted(dev), number, fault),
            Step::SlowDisk { dev, millis } => self.slow_disk(self.scripted(dev), Duration::from_millis(millis)),
            Step::Sleep { dev, millis } => self.sleep(self.scripted(dev), Duration::from_millis(millis)),
            Step::WallClock { dev, seconds } => self.devices[dev % self.honest].unix_shift += seconds,
            Step::Coarse { dev, millis } => self.set_resolution(self.scripted(dev), Duration::from_millis(millis)),
            Step::NoEntropy { dev, number } => self.fault_entropy(self.scripted(dev), number),
            Step::BackUp { dev } => self.back_up(self.scripted(dev)),
            Step::RollBack { dev } => {
                let dev = self.scripted(dev);
                self.crash(dev);
                if self.devices[dev.0].backup.is_none() {
                    self.fire("H25");
                }
                self.roll_back(dev);
                self.with_oracle(|oracle, _| {
                    oracle.over_budget.insert(dev);
                });
                self.restart(dev);
            }
            Step::Silence { dev, millis } => {
                self.silence(self.scripted(dev), true);
                self.steps.push(Step::Heard { dev });
                let number = self.steps.len() - 1;
                self.after(millis * 1_000, Act::Step { number });
            }
            Step::Heard { dev } => self.silence(self.scripted(dev), false),
            Step::Dial { dev, number, fault } => self.fault_dial(self.scripted(dev), number, fault),
            Step::NoStream { dev, number } => self.fault_open(self.scripted(dev), number),
            Step::Move { dev, taken_by } => self.move_device(self.scripted(dev), taken_by.map(|by| self.scripted(by))),
            _ => {}
        }
    }

    /// What an owner does. A device that is down has nobody who asks it for something.
    fn step_owner(&mut self, step: &Step) {
        match *step {
            Step::Answers { dev, pairings, offers } => {
                let dev = self.scripted(dev);
                self.set_pairings(dev, pairings);
                self.set_offers(dev, offers);
            }
            Step::OnConflict { dev, what } => self.devices[dev % self.honest].disk.on_conflict = what,
            Step::Occupy { dev, tree } => self.step_occupy(self.scripted(dev), tree),
            Step::Edit { dev, number } => self.devices[dev % self.honest].disk.edit(number),
            Step::CancelPairing { dev } if self.is_up(self.scripted(dev)) => self.cancel_pairings(self.scripted(dev)),
            Step::Connect { dev, peer, told } if self.is_up(self.scripted(dev)) => {
                let (dev, peer) = (self.scripted(dev), self.scripted(peer));
                let at = if told && !self.has_lookup() { self.addresses(peer) } else { Vec::new() };
                let id = self.id(peer);
                self.with_oracle(|oracle, world| oracle.on_connect(world, dev, id));
                if self.call(dev, |node, env| node.connect(env, id, &at)).is_err() {
                    self.with_oracle(|oracle, _| oracle.not_connecting(dev, id));
                }
            }
            Step::Disconnect { dev, peer } if self.is_up(self.scripted(dev)) => {
                let (dev, id) = (self.scripted(dev), self.id(self.scripted(peer)));
                self.with_oracle(|oracle, world| oracle.on_left(world, dev, id));
                self.call(dev, |node, env| node.disconnect(env, id));
            }
            Step::Forget { dev, peer } if self.is_up(self.scripted(dev)) => {
                let (dev, id) = (self.scripted(dev), self.id(self.scripted(peer)));
                self.with_oracle(|oracle, world| oracle.on_forget(world, dev, id));
                // An unknown device is none to forget.
                let _unknown = self.call(dev, |node, env| node.forget_device(env, id));
            }
            Step::Rename { dev, peer } if self.is_up(self.scripted(dev)) => {
                let id = self.id(self.scripted(peer));
                let _unknown = self.call(self.scripted(dev), |node, env| node.rename_device(env, id, "another name"));
            }
            Step::Share { dev, peer, tree: number } if self.is_up(self.scripted(dev)) => {
                let tree = tree(number);
                // An unknown device, or one with too many offers: nothing happens.
                let _refused = self.offer(self.scripted(dev), self.scripted(peer), &tree);
            }
            Step::CancelTransfer { dev, number } if self.is_up(self.scripted(dev)) => self.step_cancel(self.scripted(dev), number),
            Step::Shutdown { dev } if self.is_up(self.scripted(dev)) => {
                let dev = self.scripted(dev);
                self.with_oracle(|oracle, world| oracle.on_shutdown(world, dev));
                self.call(dev, |node, env| node.shutdown(env));
                let life = self.life(dev);
                self.after(100_000, Act::Crash { dev, life });
            }
            Step::Misuse { dev } if self.is_up(self.scripted(dev)) => self.step_misuse(self.scripted(dev)),
            _ => {}
        }
    }

    fn step_invite(&mut self, dev: Dev, ask: bool) {
        if !self.is_up(dev) {
            return;
        }
        let confirm = if ask { Confirm::Ask } else { Confirm::Automatic };
        let Ok(invite) = self.invite(dev, confirm) else { return };
        let (session, ttl) = (invite.session, invite.ttl.as_micros() as u64);
        self.with_oracle(|oracle, world| oracle.on_invite(world, dev, session, ttl, !ask));
        self.codes.entry(dev).or_default().push(invite.code);
    }

    fn step_join(&mut self, dev: Dev, of: Dev, (words, ask): (Words, bool), lost: usize) {
        if !self.is_up(dev) {
            return;
        }
        let confirm = if ask { Confirm::Ask } else { Confirm::Automatic };
        let mut at = self.addresses(of);
        let nobody = |number| Address { kind: at[0].kind.clone(), text: at[0].text.replace("host", &format!("host99{number}")) };
        let lost: Vec<Address> = (0..lost % 24).map(nobody).collect();
        if self.has_lookup() && lost.is_empty() {
            at.clear();
        }
        at.splice(0..0, lost);
        let shown = self.codes.remove(&of).unwrap_or_default();
        let wrong = PairingCode::generate(&mut self.keys).ok();
        let code = match words {
            Words::Right => shown.last(),
            Words::Old => shown.iter().rev().nth(1),
            Words::Wrong => wrong.as_ref(),
        };
        let joined = code.and_then(|code| self.join(dev, code, &at, confirm).ok());
        if joined.is_some() {
            self.with_oracle(|oracle, world| oracle.on_search(world, dev, at.is_empty()));
        }
        self.codes.insert(of, shown);
        if let Some(session) = joined {
            self.with_oracle(|oracle, world| oracle.on_join(world, dev, session, !ask));
        }
    }

    /// A device starts again as one that has met many others: copies of the first that it knows, under other keys.
    fn step_crowd(&mut self, dev: Dev, count: usize) {
        let known = self.devices[dev.0].store.iter().find(|((table, _), _)| *table == protocol_core::records::DEVICES);
        let Some((table, row)) = known.map(|((table, _), row)| (*table, row.clone())) else { return };
        self.crash(dev);
        for _ in 0..count % 300 {
            if self.devices[dev.0].store.len() >= protocol_core::limits::DEVICES {
                break;
            }
            let key = self.keys.bytes::<32>().to_vec();
            self.devices[dev.0].store.insert((table, key), row.clone());
        }
        self.restart(dev);
    }

    /// Offers a tree, and tells the oracle what it holds.
    pub(crate) fn offer(&mut self, dev: Dev, peer: Dev, tree: &Tree) -> Option<TransferKey> {
        let shared = self.share(dev, peer, tree, CHUNK);
        if shared == Err(ShareError::TooMany) {
            self.with_oracle(|oracle, world| oracle.check_too_many(world, dev, peer));
        }
        let key = shared.ok()?;
        self.with_oracle(|oracle, world| oracle.on_share(world, dev, key, tree));
        Some(key)
    }

    pub(crate) fn cancel_pairings(&mut self, dev: Dev) {
        for session in self.oracle.as_ref().map(|oracle| oracle.pairings_of(dev)).unwrap_or_default() {
            self.call(dev, |node, env| node.cancel_pairing(env, session));
        }
    }

    /// An owner takes what was offered and is not answered.
    pub(crate) fn answer_offers(&mut self, dev: Dev) {
        for key in self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default() {
            if self.is_up(dev) && key.direction == Direction::Incoming {
                self.takes(dev, key, true);
                // It may be answered, and under way.
                let _answered = self.call(dev, |node, env| node.accept(env, key));
            }
        }
    }

    fn step_cancel(&mut self, dev: Dev, number: usize) {
        let transfers = self.oracle.as_ref().map(|oracle| oracle.transfers_of(self, dev)).unwrap_or_default();
        if let Some(&key) = transfers.get(number % transfers.len().max(1)) {
            // It may be too late, or be waiting for an answer.
            let _late = self.call(dev, |node, env| node.cancel(env, key, CancelReason::User));
        }
    }

    /// Something stands where a file of a tree would go.
    fn step_occupy(&mut self, dev: Dev, number: usize) {
        let name = tree(number).into_iter().find(|(path, item)| path.len() == 1 && !matches!(item, Item::Directory));
        let Some((path, _)) = name else { return };
        let item = Item::File(b"was here before".to_vec());
        if let std::collections::btree_map::Entry::Vacant(place) = self.devices[dev.0].disk.files.entry(path.clone()) {
            place.insert(item.clone());
            self.with_oracle(|oracle, _| drop(oracle.foreign.insert((dev, path), item)));
        }
    }

    /// Calls that make no sense are refused and change nothing.
    fn step_misuse(&mut self, dev: Dev) {
        let nobody = protocol_core::ids::DeviceId([9; 16]);
        let key = TransferKey { device: nobody, direction: Direction::Incoming, id: TransferId([9; 16]) };
        let refused = [
            self.call(dev, |node, env| node.answer_pairing(env, SessionId([9; 16]), true)).is_err(),
            self.call(dev, |node, env| node.start_pairing_as_initiator(env, Duration::from_secs(299), Confirm::Ask)).is_err(),
            self.call(dev, |node, env| node.start_pairing_as_initiator(env, Duration::from_secs(601), Confirm::Ask)).is_err(),
            self.call(dev, |node, env| node.connect(env, nobody, &[])).is_err(),
            self.call(dev, |node, env| node.forget_device(env, nobody)).is_err(),
            self.call(dev, |node, env| node.rename_device(env, nobody, "")).is_err(),
            self.call(dev, |node, env| node.accept(env, key)).is_err(),
            self.call(dev, |node, env| node.decline(env, key, DeclineReason::User)).is_err(),
            self.call(dev, |node, env| node.cancel(env, key, CancelReason::User)).is_err(),
        ];
        self.call(dev, |node, env| node.disconnect(env, nobody));
        if refused.contains(&false) {
            self.with_oracle(|oracle, _| oracle.broken("S29", || format!("device {} did what makes no sense: {refused:?}", dev.0)));
        }
    }
}
