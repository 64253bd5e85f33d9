//! Scripts out of a tape: first what kind of world, then which faults may happen in it, then what happens when.
//!
//! Most worlds have few kinds of faults: a fault that always happens hides what comes behind it.

use protocol_core::limits;

use super::{Name, Script, Setting, Step, Timed, Words};
use crate::adversary::{Lie, Move};
use crate::choice::Tape;
use crate::disk::OnConflict;
use crate::link::Wire;
use crate::rules::{At, Damage, DialFault, DiskFault, Side, StoreFault};
use crate::world::{Answer, Dev, Pieces};

/// What scripts are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Everything.
    #[default]
    Default,
    /// Codes, words, questions, and what disturbs them.
    Pairing,
    /// Reconnects and sessions of devices that are paired.
    Link,
    /// Files.
    Transfer,
    /// Enemies.
    Enemy,
    /// Devices that find each other by a service and not by what people tell them.
    Lookup,
}

impl Profile {
    /// All, by name.
    pub const ALL: &[(&str, Self)] = &[
        ("default", Self::Default),
        ("pairing", Self::Pairing),
        ("link", Self::Link),
        ("transfer", Self::Transfer),
        ("enemy", Self::Enemy),
        ("lookup", Self::Lookup),
    ];
}

/// Families of faults: a script has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Cuts,
    Flips,
    Losses,
    Crashes,
    StoreFaults,
    DiskFaults,
    Holds,
    Silences,
    Moves,
    Dials,
    Clocks,
    Sleeps,
    Entropy,
    Backups,
    Refusals,
    Conflicts,
    Edits,
    Cancels,
    Forgets,
    Wrong,
    Hosts,
    Owners,
    Enemies,
}

const FAMILIES: &[Family] = &[
    Family::Cuts,
    Family::Flips,
    Family::Losses,
    Family::Crashes,
    Family::StoreFaults,
    Family::DiskFaults,
    Family::Holds,
    Family::Silences,
    Family::Moves,
    Family::Dials,
    Family::Clocks,
    Family::Sleeps,
    Family::Entropy,
    Family::Backups,
    Family::Refusals,
    Family::Conflicts,
    Family::Edits,
    Family::Cancels,
    Family::Forgets,
    Family::Wrong,
    Family::Hosts,
    Family::Owners,
    Family::Enemies,
];

/// Trees of the catalogue.
pub(crate) const TREES: u64 = 6;

/// How long it takes until the next thing happens, at most, in milliseconds. The longest waits cost the most: only pairings need a day.
const fn gaps(profile: Profile) -> &'static [u64] {
    match profile {
        Profile::Pairing => &[30, 1_000, 5_000, 20_000, 130_000, 400_000, 100_000_000],
        Profile::Link | Profile::Lookup => &[30, 1_000, 5_000, 60_000, 400_000, 4_000_000],
        Profile::Default | Profile::Transfer | Profile::Enemy => &[30, 30, 1_000, 1_000, 5_000, 20_000, 130_000, 400_000, 4_000_000],
    }
}

pub(super) struct Draw<'t, 'b> {
    pub(super) tape: &'t mut Tape<'b>,
    devices: u64,
    families: Vec<Family>,
    /// What the world is like: a scene may need one of its own.
    pub(super) setting: Setting,
    pub(super) at: u64,
    steps: Vec<Timed>,
}

impl Script {
    /// A script out of a tape.
    pub fn draw(tape: &mut Tape<'_>, profile: Profile) -> Self {
        let devices = if tape.percent(15) { 3 } else { 2 };
        let wire = tape.one_of(&[Wire::Sim, Wire::Tcp, Wire::Both]);
        let wires = (0..devices).map(|_| if tape.percent(10) { Wire::Both } else { wire }).collect();
        let setting = Setting {
            chance: if tape.percent(90) { 1 + tape.below(1 << 40) } else { 0 },
            wires,
            pieces: tape.one_of(&[Pieces::Any, Pieces::Any, Pieces::Whole, Pieces::Tiny]),
            latency: tape.one_of(&[(5_000, 3_000), (200, 100), (0, 0), (50_000, 200_000), (300_000, 1_000)]),
            aes: tape.one_of(&[0, 0, 0, 0, 0, 0, 1, 7]),
            patient: tape.percent(10),
            lookups: if profile == Profile::Lookup { 1 + tape.below(2) as usize } else { 0 },
        };
        let families = families(tape, profile);
        let mut draw = Draw { tape, devices, families, setting, at: 0, steps: Vec::new() };
        draw.story(profile);
        Self { setting: draw.setting, steps: draw.steps }
    }
}

fn families(tape: &mut Tape<'_>, profile: Profile) -> Vec<Family> {
    let many = match tape.below(100) {
        0..10 => 0,
        10..55 => 1 + tape.below(3),
        55..90 => 4 + tape.below(5),
        _ => FAMILIES.len() as u64 / 2,
    };
    // Where enemies are what a script is about, few other things happen, and often none.
    let many = if profile == Profile::Enemy { many / 3 } else { many };
    let mut chosen: Vec<Family> = (0..many).map(|_| tape.one_of(FAMILIES)).collect();
    if profile == Profile::Enemy {
        chosen.extend([Family::Enemies; 2]);
    }
    chosen
}

impl Draw<'_, '_> {
    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(Timed { at: self.at, step });
    }

    /// Nothing of what was drawn happens, nor anything else that was thought of before.
    pub(super) fn begin_anew(&mut self) {
        self.steps.clear();
        self.at = 0;
    }

    /// Steps that were drawn out of their order.
    pub(super) fn sort(&mut self) {
        self.steps.sort_by_key(|step| step.at);
    }

    pub(super) fn wait(&mut self, most: u64) {
        self.at += self.tape.log(most);
    }

    fn dev(&mut self) -> usize {
        self.tape.below(self.devices) as usize
    }

    /// Two devices. A device that means itself is rare: its owner's wishes come to nothing.
    pub(super) fn two(&mut self) -> (usize, usize) {
        let (dev, peer) = (self.dev(), self.dev());
        if dev == peer && self.tape.percent(70) { (dev, (dev + 1) % self.devices as usize) } else { (dev, peer) }
    }

    /// Whether nothing but owners' wishes may happen.
    pub(super) const fn is_calm(&self) -> bool {
        self.families.is_empty()
    }

    fn has(&self, family: Family) -> bool {
        self.families.contains(&family)
    }

    /// What devices that look for each other find the world to be.
    fn before_lookups(&mut self) {
        if self.tape.percent(20) {
            // What is found first leads nowhere yet.
            let millis = self.tape.one_of(&[1_500, 8_000]);
            self.push(Step::NoDials { millis });
        }
        if self.tape.percent(20) {
            // A world begins at the turn of an hour.
            let (dev, seconds) = (self.dev(), self.tape.one_of(&[-600, -60, 600]));
            self.push(Step::WallClock { dev, seconds });
        }
        self.lookup_fault();
        if self.tape.percent(40) {
            self.keep_throughout();
        }
    }

    /// Usually two devices pair first, with or without disturbance; then things happen.
    fn story(&mut self, profile: Profile) {
        let pairing_first = match profile {
            Profile::Pairing => false,
            Profile::Link | Profile::Transfer => true,
            Profile::Default | Profile::Enemy => self.tape.percent(75),
            Profile::Lookup => self.tape.percent(60),
        };
        if profile == Profile::Lookup {
            self.before_lookups();
        }
        if pairing_first {
            self.push(Step::Invite { dev: 0, ask: false });
            self.push(Step::Join { dev: 1, of: 0, words: Words::Right, ask: false, lost: 0 });
            self.at = 2_000;
        }
        if profile == Profile::Enemy && self.tape.percent(75) {
            self.paired_liar();
        }
        if profile == Profile::Enemy && self.tape.percent(40) {
            self.hour_of_a_liar();
        }
        // Some situations pass with whatever happens next: half of these scenes come last.
        let own = self.has_scene_of_its_own(profile);
        let last = own && self.tape.percent(50);
        if own && !last {
            self.scene_of_its_own(profile);
        }
        let acts = 1 + self.tape.log(10);
        // Which act has a scene before it.
        let scene = if self.tape.percent(25) { self.tape.below(acts) } else { acts };
        for number in 0..acts {
            if number == scene {
                self.scene(profile);
            }
            let enemies = u64::from(profile == Profile::Enemy);
            for _ in 0..enemies + self.tape.below(3) {
                self.fault();
                if self.tape.percent(50) {
                    self.wait(100);
                }
            }
            if profile == Profile::Lookup && self.tape.percent(30) {
                self.lookup_fault();
            }
            self.act(profile);
            let gap = self.tape.one_of(gaps(profile));
            self.wait(gap);
        }
        self.fault();
        if last {
            self.scene_of_its_own(profile);
        }
        match profile {
            Profile::Link => {
                self.talk();
                self.friends(30, 40);
                self.partings();
            }
            Profile::Default if self.tape.percent(25) => {
                // Who keeps a crowd of devices that are not there dials all day.
                if self.tape.percent(25) && !self.has(Family::Backups) {
                    self.keep_throughout();
                }
                self.talk();
                self.friends(15, 20);
                self.partings_beside();
            }
            Profile::Transfer if !self.is_calm() && self.tape.percent(40) => self.interrupted(),
            Profile::Default if !self.is_calm() && self.tape.percent(15) => self.interrupted(),
            Profile::Enemy if self.tape.percent(30) => self.beyond_limits(),
            _ => {}
        }
        if profile == Profile::Pairing && self.tape.percent(12) && !self.is_calm() {
            return self.waited_for_in_vain();
        }
        if profile == Profile::Pairing && self.tape.percent(8) {
            let (dev, peer) = self.two();
            self.again_and_again(dev, peer);
        }
        if profile == Profile::Pairing && self.tape.percent(5) {
            // What waits for a day, has waited.
            let dev = self.dev();
            if self.tape.percent(30) {
                self.push(Step::Crash { dev });
                self.push(Step::Restart { dev });
            }
            self.at += 90_000_000;
            self.push(Step::Restart { dev });
        }
        if profile == Profile::Pairing && self.tape.percent(20) {
            self.rare_scene();
        }
        if profile == Profile::Transfer && !self.is_calm() && self.tape.percent(25) {
            self.rested();
        }
    }

    /// What friends do last: messages, and protocols of applications, each in so many of a hundred scripts.
    fn friends(&mut self, messages: u64, applications: u64) {
        if !self.is_calm() && self.tape.percent(messages) {
            self.scene_of_messages();
        }
        if self.tape.percent(applications) {
            self.applications();
        }
    }

    /// Between all that happens owners say things.
    fn talk(&mut self) {
        let end = self.at;
        for _ in 0..self.tape.below(4) {
            let (dev, peer) = self.two();
            self.at = 2_000 + self.tape.below(end.saturating_sub(2_000).max(1));
            self.say(dev, peer);
        }
        self.at = end;
        self.steps.sort_by_key(|step| step.at);
    }

    /// Two devices pair again and again, and each time the same goes wrong.
    fn again_and_again(&mut self, dev: usize, peer: usize) {
        let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
        let bit = self.tape.log(8_000) as usize;
        let damages = [Damage::Cut, Damage::Vanish, Damage::End, Damage::Flip(bit)];
        let kind = self.tape.below(4) as usize;
        let at = At::Frame(1 + self.tape.below(3) as u32);
        let (ask, gap) = (self.tape.percent(50), self.tape.one_of(&[3_000, 35_000, 200_000]));
        if self.tape.percent(30) {
            let (dev, millis) = (self.tape.one_of(&[dev, peer]), self.tape.log(3_000));
            self.push(Step::SlowDisk { dev, millis });
        }
        for time in 0..1 + self.tape.log(8) as usize {
            // Several that wait for their place would change one bit to and fro.
            let damage = if kind == 3 { Damage::Flip(bit + 9 * time) } else { damages[kind] };
            self.push(Step::Damage { name: Name::Pair, side, at, damage });
            self.push(Step::Invite { dev, ask });
            self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask, lost: 0 });
            self.at += gap;
        }
    }

    /// A tree of several chunks is under way, something happens to its stream, and then something happens to it.
    fn midway(&mut self, dev: usize, peer: usize) {
        let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
        let damage = self.tape.one_of(&[Damage::Vanish, Damage::Cut, Damage::End, Damage::Flip(77)]);
        let at = At::Byte(40_000 + self.tape.below(160_000));
        self.push(Step::Damage { name: Name::Bulk, side, at, damage });
        self.push(Step::Share { dev, peer, tree: 2 });
        self.at += 1_500;
        self.wait(4_000);
        let fault = self.tape.one_of(&[DiskFault::WritesFail, DiskFault::ReadsFail, DiskFault::Entry]);
        let after = [
            Step::Edit { dev, number: 0 },
            Step::CancelTransfer { dev, number: 0 },
            Step::CancelTransfer { dev: peer, number: 0 },
            Step::Disk { dev: peer, number: 1, fault },
            Step::Reset { dev, peer },
            Step::Disconnect { dev, peer },
            Step::Connect { dev, peer, told: false },
        ];
        let number = self.tape.below(after.len() as u64) as usize;
        self.push(after[number].clone());
    }

    /// An owner who changes his mind while a dial is under way.
    fn hasty(&mut self, dev: usize, peer: usize) {
        let slow = self.tape.log(20_000) as u32;
        self.push(Step::Disconnect { dev, peer });
        let number = 1 + self.tape.below(2) as u32;
        self.push(Step::Dial { dev, number, fault: DialFault::Slow(slow) });
        self.wait(1_000);
        for _ in 0..2 {
            self.push(Step::Connect { dev, peer, told: true });
            self.wait(2_000);
            self.push(Step::Disconnect { dev, peer });
            self.wait(200);
        }
        self.push(Step::Connect { dev, peer, told: true });
    }

    /// A device that lies pairs, with or without a device's wish for it.
    fn paired_liar(&mut self) {
        let dev = self.dev();
        self.push(Step::Invite { dev, ask: false });
        let lie = if self.tape.percent(20) { Lie::opener(self.tape) } else { Lie::None };
        self.push(Step::Enemy(Move::Join { to: dev, lie, count: 1, together: false }));
        self.at += 2_000;
    }

    /// What an owner does.
    fn act(&mut self, profile: Profile) {
        let (dev, peer) = self.two();
        let pairing = |draw: &mut Self| {
            let (ask, also) = (!draw.tape.percent(40), !draw.tape.percent(40));
            draw.push(Step::Invite { dev, ask });
            if draw.tape.percent(50) {
                draw.wait(2_000);
            }
            let words = if draw.has(Family::Wrong) { draw.tape.one_of(&[Words::Right, Words::Wrong, Words::Old]) } else { Words::Right };
            let lost = if draw.tape.percent(10) { draw.tape.one_of(&[2, 5, 12, 17, 22]) } else { 0 };
            draw.push(Step::Join { dev: peer, of: dev, words, ask: also, lost });
            if draw.tape.percent(8) {
                // Somebody does not want to, or is not there to be asked.
                let (who, pairings) = (draw.tape.one_of(&[dev, peer]), draw.tape.one_of(&[Answer::No, Answer::Silent]));
                draw.push(Step::Answers { dev: who, pairings, offers: Answer::Yes });
                draw.at += draw.tape.one_of(&[5_000, 130_000]);
            }
            // A race for one code.
            if draw.tape.percent(15) {
                let third = draw.dev();
                draw.push(Step::Join { dev: third, of: dev, words: Words::Right, ask: also, lost: 0 });
            }
        };
        let kinds: &[u64] = match profile {
            Profile::Default | Profile::Enemy => &[0, 1, 2, 2, 3, 4],
            Profile::Pairing => &[0, 0, 0, 1, 3],
            Profile::Link => &[1, 1, 1, 2, 3, 4],
            Profile::Transfer => &[2, 2, 2, 1],
            Profile::Lookup => &[0, 0, 1, 1, 1, 2, 3, 4],
        };
        match self.tape.one_of(kinds) {
            0 => pairing(self),
            1 => {
                if self.tape.percent(10) {
                    return self.hasty(dev, peer);
                }
                if self.tape.percent(5) {
                    return self.overtaken(dev, peer);
                }
                let told = self.tape.percent(30);
                self.push(Step::Connect { dev, peer, told });
                // Glare: the other does the same.
                if self.tape.percent(30) {
                    self.push(Step::Connect { dev: peer, peer: dev, told });
                }
            }
            2 => {
                if profile == Profile::Transfer && self.tape.percent(20) {
                    return self.midway(dev, peer);
                }
                if self.tape.percent(10) {
                    return self.turn_of_a_transfer(dev, peer);
                }
                let tree = self.tape.below(TREES) as usize;
                let count = if self.tape.percent(3) { limits::OPEN_OFFERS + 1 } else { 1 };
                (0..count).for_each(|_| self.push(Step::Share { dev, peer, tree }));
                if self.tape.percent(20) {
                    let tree = self.tape.below(TREES) as usize;
                    self.push(Step::Share { dev: peer, peer: dev, tree });
                }
            }
            3 => self.push(Step::Disconnect { dev, peer }),
            _ => self.push(Step::Rename { dev, peer }),
        }
    }

    /// A fault of the families of this script.
    fn fault(&mut self) {
        if self.families.is_empty() {
            return;
        }
        let at = self.tape.below(self.families.len() as u64) as usize;
        let (dev, peer) = self.two();
        match self.families[at] {
            Family::Cuts => {
                let damage = self.tape.one_of(&[Damage::Cut, Damage::Cut, Damage::End]);
                if self.tape.percent(20) {
                    self.push(Step::Reset { dev, peer });
                } else {
                    self.damage(damage);
                }
            }
            Family::Flips => {
                let bit = self.tape.log(20_000) as usize;
                self.damage(Damage::Flip(bit));
                // Several in one session are worse than one.
                for _ in 0..self.tape.log(4) {
                    let bit = self.tape.log(4_000) as usize;
                    self.damage(Damage::Flip(bit));
                }
            }
            Family::Losses => {
                let damage = self.tape.one_of(&[Damage::Vanish, Damage::Append(0), Damage::Replace(0)]);
                self.damage(damage);
            }
            Family::Crashes => self.crash(dev),
            Family::StoreFaults => {
                let number = 1 + self.tape.log(8) as u32;
                let fault = self.tape.one_of(&[StoreFault::CrashBefore, StoreFault::CrashAfter, StoreFault::Fail]);
                self.push(Step::Store { dev, number, fault });
                self.restart_later(dev);
            }
            Family::DiskFaults => {
                let number = 1 + self.tape.log(8) as u32;
                let all = [DiskFault::Full, DiskFault::Io, DiskFault::Entry, DiskFault::Crash, DiskFault::WritesFail, DiskFault::ReadsFail];
                let fault = self.tape.one_of(&all);
                self.push(Step::Disk { dev, number, fault });
                self.restart_later(dev);
            }
            Family::Holds => {
                let millis = self.tape.log(60_000);
                self.push(Step::Hold { dev, peer, millis });
            }
            Family::Silences => {
                let millis = self.tape.log(200_000);
                self.push(Step::Silence { dev, millis });
            }
            Family::Moves => {
                let taken_by = if self.tape.percent(30) { Some(peer) } else { None };
                self.push(Step::Move { dev, taken_by });
            }
            Family::Dials => {
                let number = 1 + self.tape.log(4) as u32;
                if self.tape.percent(20) {
                    self.push(Step::NoStream { dev, number });
                } else if self.tape.percent(20) {
                    let millis = self.tape.log(8_000_000);
                    self.push(Step::NoDials { millis });
                } else {
                    let slow = self.tape.log(40_000) as u32;
                    let all = [
                        DialFault::Refused,
                        DialFault::TimedOut,
                        DialFault::Unreachable,
                        DialFault::Slow(slow),
                        DialFault::Misrouted(peer),
                    ];
                    let fault = self.tape.one_of(&all);
                    self.push(Step::Dial { dev, number, fault });
                }
            }
            Family::Clocks => self.clock(dev),
            Family::Sleeps => {
                let millis = self.tape.log(100_000_000);
                self.push(Step::Sleep { dev, millis });
                if self.tape.percent(50) {
                    let millis = self.tape.log(10_000);
                    self.push(Step::SlowDisk { dev: peer, millis });
                }
            }
            Family::Entropy => {
                let number = 1 + self.tape.log(12) as u32;
                self.push(Step::NoEntropy { dev, number });
            }
            Family::Backups => {
                let count = 253 + self.tape.below(4) as usize;
                let steps = [Step::BackUp { dev }, Step::RollBack { dev }, Step::Crowd { dev, count }];
                let at = self.tape.below(steps.len() as u64) as usize;
                self.push(steps[at].clone());
                if at == 2 && self.tape.percent(60) {
                    // One more.
                    self.push(Step::Invite { dev, ask: false });
                    let join = Move::Join { to: dev, lie: Lie::None, count: 1, together: false };
                    self.push(Step::Enemy(join));
                    self.wait(2_000);
                }
            }
            Family::Refusals => {
                let answers = [Answer::Yes, Answer::No, Answer::Silent];
                let (pairings, offers) = (self.tape.one_of(&answers), self.tape.one_of(&answers));
                self.push(Step::Answers { dev, pairings, offers });
                if self.tape.percent(20) {
                    self.push(Step::Misuse { dev });
                }
            }
            Family::Conflicts => {
                let what = self.tape.one_of(&[OnConflict::Fail, OnConflict::Skip, OnConflict::Rename]);
                self.push(Step::OnConflict { dev, what });
                let tree = self.tape.below(TREES) as usize;
                self.push(Step::Occupy { dev, tree });
            }
            Family::Edits => {
                let number = self.tape.below(4) as usize;
                self.push(Step::Edit { dev, number });
            }
            Family::Cancels => {
                let number = self.tape.below(4) as usize;
                let step = match self.tape.below(3) {
                    0 => Step::CancelTransfer { dev, number },
                    1 => Step::CancelPairing { dev },
                    _ => Step::Shutdown { dev },
                };
                self.push(step);
                self.restart_later(dev);
            }
            Family::Forgets => self.push(Step::Forget { dev, peer }),
            Family::Wrong => self.push(Step::Invite { dev, ask: false }),
            Family::Hosts => self.more_of_hosts(dev),
            Family::Owners => self.more_of_owners(dev, peer),
            Family::Enemies => {
                for (wait, step) in Move::scene(self.tape, dev, peer) {
                    self.wait(wait);
                    self.push(step);
                }
            }
        }
    }

    fn crash(&mut self, dev: usize) {
        let step = match self.tape.below(3) {
            0 => Step::Crash { dev },
            1 => Step::PowerFails { dev },
            _ => {
                let damage = Damage::Crash(Dev(dev));
                return self.damage(damage);
            }
        };
        self.push(step);
        self.restart_later(dev);
    }

    pub(super) fn restart_later(&mut self, dev: usize) {
        if self.tape.percent(70) {
            let before = self.at;
            self.wait(10_000);
            self.push(Step::Restart { dev });
            if self.tape.percent(50) {
                self.at = before;
                self.steps.sort_by_key(|step| step.at);
            }
        }
    }

    fn clock(&mut self, dev: usize) {
        if self.tape.percent(40) {
            let millis = self.tape.one_of(&[10, 1_000, 16]);
            return self.push(Step::Coarse { dev, millis });
        }
        let seconds = self.tape.log(300_000_000) as i64;
        let seconds = if self.tape.percent(50) { -seconds } else { seconds };
        self.push(Step::WallClock { dev, seconds });
    }

    fn damage(&mut self, damage: Damage) {
        let name = self.tape.one_of(&[Name::Pair, Name::Link, Name::Manifest, Name::Bulk]);
        let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
        let at = if self.tape.percent(50) { At::Byte(self.tape.log(200_000)) } else { At::Frame(self.tape.log(6) as u32) };
        self.push(Step::Damage { name, side, at, damage });
    }
}

const _: () = assert!(limits::CHUNK_SIZE_RANGE.0 == 64 << 10, "the catalogue's trees have several chunks of this size");
