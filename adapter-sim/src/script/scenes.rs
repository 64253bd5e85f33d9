//! Scenes: a few steps that lead to a situation which chance alone hardly ever leads to. Most scripts have none, so that whatever else
//! may happen keeps its share.

use protocol_core::limits;

use super::draw::{Draw, Profile};
use super::{More, Name, Step, Words};
use crate::link::Wire;
use crate::rules::{At, Damage, DialFault, Side, StoreFault};
use crate::world::{Answer, Pieces};

/// How long the owner of an initiator may think, and more, in milliseconds.
const THOUGHT: u64 = 124_000;
/// How long a pairing takes that nothing disturbs, with an owner who answers.
pub(super) const PAIRING: u64 = 4_000;
/// A provisional root's life, and more.
const DAY: u64 = 86_600_000;
/// A session's life.
const HOUR: u64 = 3_600_000;

impl Draw<'_, '_> {
    /// Somebody speaks for longer than the session lasts.
    fn outlasted(&mut self, dev: usize, peer: usize) {
        self.push(Step::Connect { dev, peer, told: true });
        self.at += PAIRING;
        self.push(Step::More(More::Speak { dev, peer, protocol: 0, count: 1, bytes: 80, millis: 9_000 }));
        self.at += PAIRING;
        let end = [
            Step::Forget { dev, peer },
            Step::Forget { dev: peer, peer: dev },
            Step::Disconnect { dev, peer },
            // Longer than a session does without a sign of life.
            Step::Sleep { dev, millis: 60_000 },
            Step::Sleep { dev: peer, millis: 60_000 },
        ];
        let number = self.tape.below(end.len() as u64) as usize;
        self.push(end[number].clone());
        self.at += 90_000;
        self.push(Step::Connect { dev, peer, told: true });
    }

    /// Between all that happens applications speak, and what they are in the middle of is disturbed.
    pub(super) fn applications(&mut self) {
        let end = self.at;
        for _ in 0..1 + self.tape.below(3) {
            let (dev, peer) = self.two();
            self.at = 2_000 + self.tape.below(end.saturating_sub(2_000).max(1));
            if self.tape.percent(60) {
                self.push(Step::Connect { dev, peer, told: true });
                self.at += PAIRING;
            }
            if self.tape.percent(40) {
                let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
                let damages = [Damage::Cut, Damage::End, Damage::End, Damage::Vanish, Damage::Flip(self.tape.log(4_000) as usize)];
                let damage = self.tape.one_of(&damages);
                let at = if self.tape.percent(50) { At::Byte(self.tape.log(50_000)) } else { At::Frame(self.tape.log(10) as u32) };
                self.push(Step::Damage { name: Name::Custom, side, at, damage });
            }
            let protocol = self.tape.one_of(&[0, 0, 1, 1, 2, 2, 3]);
            let count = self.tape.one_of(&[1, 1, 1, 2, 5, limits::PROTOCOL_STREAMS + 6]);
            let (most, longest) = if count > 5 { (100, 3_000) } else { (200_000, 9_000) };
            let (bytes, millis) = (self.tape.log(most) as usize, self.tape.one_of(&[0, 1, 100, 3_000, longest]));
            self.push(Step::More(More::Speak { dev, peer, protocol, count, bytes, millis }));
            if self.tape.percent(30) {
                self.push(Step::More(More::Speak { dev: peer, peer: dev, protocol: 0, count: 1, bytes: 5_000, millis }));
            }
            if self.tape.percent(50) {
                self.wait(10_000);
                let after = [
                    Step::Forget { dev, peer },
                    Step::Disconnect { dev, peer },
                    Step::Reset { dev, peer },
                    Step::Crash { dev: peer },
                    Step::Connect { dev, peer, told: true },
                ];
                let number = self.tape.below(after.len() as u64) as usize;
                self.push(after[number].clone());
            }
            if self.tape.percent(30) {
                self.outlasted(dev, peer);
            }
        }
        self.at = end;
        self.sort();
    }

    /// A scene that this profile needs. Where nothing but owners' wishes may happen, one that has nothing else in it.
    pub(super) fn scene(&mut self, profile: Profile) {
        let (dev, peer) = self.two();
        let calm = self.is_calm();
        match (profile, self.tape.below(10)) {
            (Profile::Link, 0..3) => self.idle(dev, peer),
            (Profile::Link | Profile::Transfer, _) if calm => self.idle(dev, peer),
            (Profile::Link, 3..6) => self.not_renewed(dev, peer),
            (Profile::Transfer, _) => self.not_renewed(dev, peer),
            (_, 0) => self.crossed(dev, peer),
            (_, 1) => self.reluctant(dev, peer),
            (_, 2) => self.undecided(dev, peer),
            (_, 3) if calm => self.crossed(dev, peer),
            (_, _) if calm => self.reluctant(dev, peer),
            (_, 3 | 4) => self.while_written(dev, peer),
            (_, 5 | 6) => self.cut_while_thinking(dev, peer),
            (_, 7) => self.unwritten(dev, peer),
            (_, 8) => self.unheard(dev, peer),
            (_, _) => self.crossed(dev, peer),
        }
    }

    /// Whether a script has one of the scenes that only this profile knows. The default profile has none of them.
    pub(super) fn has_scene_of_its_own(&mut self, profile: Profile) -> bool {
        let share = if self.is_calm() { 40 } else { 20 };
        matches!(profile, Profile::Pairing | Profile::Link | Profile::Transfer) && self.tape.percent(share)
    }

    /// A scene of this profile alone. It may choose what the world is like.
    pub(super) fn scene_of_its_own(&mut self, profile: Profile) {
        let (dev, peer) = self.two();
        let peer = if dev == peer { dev + 1 } else { peer };
        let calm = self.is_calm();
        match (profile, self.tape.below(4)) {
            (Profile::Transfer, 0 | 1) => self.no_faster_way(dev, peer),
            // What a crowd costs is asked where nothing else disturbs anybody.
            (Profile::Transfer, 2) | (_, 0 | 1) if calm => self.many_at_once(dev, peer),
            (Profile::Pairing, 0 | 1) if !calm => self.forgotten_while_written(dev, peer),
            (Profile::Pairing, 2) | (Profile::Link, 0) if !calm => self.renewed_while_thinking(dev, peer),
            _ => self.left_while_renewed(dev, peer),
        }
    }

    pub(super) fn pair(&mut self, dev: usize, peer: usize, (ask, also): (bool, bool)) {
        for dev in [dev, peer] {
            self.push(Step::Restart { dev });
        }
        self.push(Step::Invite { dev, ask });
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: also, lost: 0 });
    }

    fn answer(&mut self, dev: usize, pairings: Answer) {
        self.push(Step::Answers { dev, pairings, offers: Answer::Yes });
    }

    /// Two devices pair with each other both ways, one a little later than the other.
    fn crossed(&mut self, dev: usize, peer: usize) {
        let (one, other) = (self.tape.percent(50), self.tape.percent(50));
        self.push(Step::Invite { dev, ask: one });
        self.push(Step::Invite { dev: peer, ask: other });
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: other, lost: 0 });
        self.wait(1_000);
        self.push(Step::Join { dev, of: peer, words: Words::Right, ask: one, lost: 0 });
        self.at += PAIRING;
    }

    /// A joiner's owner does not want to, or says nothing, when the initiator has said yes.
    fn reluctant(&mut self, dev: usize, peer: usize) {
        let silent = self.tape.percent(30);
        self.answer(peer, if silent { Answer::Silent } else { Answer::No });
        self.pair(dev, peer, (false, true));
        self.at += if silent { THOUGHT } else { PAIRING };
        self.answer(peer, Answer::Yes);
        if self.tape.percent(50) {
            // Whoever was not told waits for the joiner's last word for so long.
            self.at += 150_000;
        }
    }

    /// An initiator's owner, or a joiner's, does not answer at all.
    fn undecided(&mut self, dev: usize, peer: usize) {
        let who = self.tape.one_of(&[dev, peer]);
        self.answer(who, Answer::Silent);
        self.pair(dev, peer, (true, true));
        self.at += THOUGHT;
        self.wait(40_000);
        self.answer(who, Answer::Yes);
    }

    /// What a device says of a pairing is being written for long, and meanwhile the two look for each other.
    fn while_written(&mut self, dev: usize, peer: usize) {
        let (slow, millis) = (self.tape.one_of(&[dev, peer]), self.tape.one_of(&[700, 3_000, 9_000]));
        self.push(Step::SlowDisk { dev: slow, millis });
        self.pair(dev, peer, (false, false));
        self.at += millis;
        for _ in 0..3 {
            self.wait(millis);
            if self.tape.percent(30) {
                self.push(Step::Reset { dev, peer });
            }
            let (from, to) = if self.tape.percent(70) { (peer, dev) } else { (dev, peer) };
            self.push(Step::Connect { dev: from, peer: to, told: true });
        }
        self.at += 2 * millis;
        self.push(Step::SlowDisk { dev: slow, millis: 0 });
    }

    /// One of the first writes that a pairing asks for comes to nothing.
    fn unwritten(&mut self, dev: usize, peer: usize) {
        let faults = [StoreFault::Fail, StoreFault::Fail, StoreFault::CrashBefore, StoreFault::CrashAfter];
        let (who, fault, number) = (self.tape.one_of(&[dev, peer]), self.tape.one_of(&faults), 1 + self.tape.below(2) as u32);
        self.push(Step::Restart { dev: who });
        self.push(Step::Store { dev: who, number, fault });
        let asks = (self.tape.percent(50), self.tape.percent(50));
        self.pair(dev, peer, asks);
        self.at += PAIRING;
        self.push(Step::Restart { dev: who });
        self.wait(30_000);
    }

    /// A message of a pairing is lost, nobody hears of that, and both wait as long as they have to.
    fn unheard(&mut self, dev: usize, peer: usize) {
        let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
        let at = At::Frame(self.tape.below(4) as u32);
        self.push(Step::Damage { name: Name::Pair, side, at, damage: Damage::Vanish });
        let asks = (self.tape.percent(50), self.tape.percent(50));
        self.pair(dev, peer, asks);
        self.at += self.tape.one_of(&[36_000, 160_000]);
    }

    /// Two pair again and again, and each time they are cut off while the initiator's owner thinks.
    fn cut_while_thinking(&mut self, dev: usize, peer: usize) {
        self.answer(dev, Answer::Silent);
        for _ in 0..4 + self.tape.below(3) {
            self.pair(dev, peer, (true, false));
            self.at += PAIRING;
            self.push(Step::Reset { dev, peer });
            self.at += 1_500;
        }
        self.answer(dev, Answer::Yes);
    }

    /// An initiator falls before its last word and is away for more than a day, which is how long the joiner remembers.
    pub(super) fn waited_for_in_vain(&mut self) {
        let (dev, peer) = self.two();
        for dev in [dev, peer] {
            self.push(Step::Heard { dev });
            self.push(Step::CancelPairing { dev });
        }
        let fault = self.tape.one_of(&[StoreFault::CrashAfter, StoreFault::CrashAfter, StoreFault::CrashBefore]);
        self.push(Step::Restart { dev });
        self.push(Step::Store { dev, number: 1, fault });
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        // If it came to something else.
        self.push(Step::PowerFails { dev });
        if self.tape.percent(60) {
            self.wait(60_000);
            self.push(Step::Crash { dev: peer });
            self.push(Step::Restart { dev: peer });
        }
        self.at += DAY;
        if self.tape.percent(50) {
            self.push(Step::Restart { dev });
            self.push(Step::Connect { dev, peer, told: true });
            self.wait(5_000);
        }
    }

    /// Two that are connected say nothing for more than an hour.
    fn idle(&mut self, dev: usize, peer: usize) {
        self.push(Step::Connect { dev, peer, told: true });
        self.at += HOUR + self.tape.below(HOUR / 2);
        if self.tape.percent(50) {
            self.push(Step::Share { dev, peer, tree: 1 });
        }
    }

    /// A session grows old, and nobody can dial to renew it.
    fn not_renewed(&mut self, dev: usize, peer: usize) {
        self.push(Step::Connect { dev, peer, told: true });
        self.at += PAIRING;
        self.push(Step::NoDials { millis: 2 * HOUR });
        self.at += HOUR + self.tape.below(HOUR / 20);
        self.push(Step::Share { dev, peer, tree: 1 });
        self.wait(200_000);
        self.push(Step::Share { dev: peer, peer: dev, tree: 1 });
    }

    /// A device is forgotten while the record of a pairing with it is being written.
    fn forgotten_while_written(&mut self, dev: usize, peer: usize) {
        let millis = self.tape.one_of(&[3_000, 9_000]);
        self.push(Step::SlowDisk { dev, millis });
        self.pair(dev, peer, (false, false));
        self.at += 200 + self.tape.below(millis);
        self.push(Step::Forget { dev, peer });
        self.at += 3 * millis;
        self.push(Step::SlowDisk { dev, millis: 0 });
    }

    /// Two that are paired pair again, and while an owner thinks the joiner comes back under another name.
    fn renewed_while_thinking(&mut self, dev: usize, peer: usize) {
        self.setting.latency = self.tape.one_of(&[(200, 100), (0, 0), (5_000, 3_000)]);
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        let also = self.tape.percent(50);
        self.pair(dev, peer, (true, also));
        self.at += 150 + self.tape.below(500);
        self.push(Step::More(More::Reboot { dev: peer }));
        self.at += 10;
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += 2_000;
    }

    /// A session is ended while one comes up that replaces it, and the last that is said on it comes behind that.
    fn left_while_renewed(&mut self, dev: usize, peer: usize) {
        self.setting.latency = self.tape.one_of(&[(5_000, 3_000), (200, 100), (0, 0)]);
        self.setting.patient |= self.tape.percent(50);
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        let (who, other) = if self.tape.percent(50) { (dev, peer) } else { (peer, dev) };
        // Whatever follows on a stream waits for what was held there; another stream does not.
        if self.tape.percent(50) {
            self.push(Step::Share { dev: other, peer: who, tree: 2 });
            self.at += 100;
            self.push(Step::Hold { dev: who, peer: other, millis: 3_500 });
            self.at += 1_500;
            self.push(Step::Hold { dev: who, peer: other, millis: 0 });
        } else {
            self.setting.wires.fill(Wire::Sim);
            self.push(Step::Hold { dev: other, peer: who, millis: 1_500 });
            self.push(Step::Share { dev: other, peer: who, tree: 2 });
            self.push(Step::Hold { dev: other, peer: who, millis: 0 });
            self.push(Step::Share { dev: other, peer: who, tree: 1 });
        }
        // The owner who is asked thinks until the session was ended.
        self.pair(dev, peer, (true, false));
        self.at += 100 + self.tape.below(500);
        self.push(Step::Disconnect { dev: who, peer: other });
        self.at += 12_000;
    }

    /// As much as may be is sent at once to a device that is only just reached, over a transport where each stream is a connection.
    fn many_at_once(&mut self, dev: usize, peer: usize) {
        self.setting.wires.fill(Wire::Tcp);
        (self.setting.latency, self.setting.pieces) = ((300_000, 100_000), Pieces::Tiny);
        self.pair(dev, peer, (false, false));
        self.at += 2 * PAIRING;
        self.push(Step::Disconnect { dev, peer });
        self.at += 3 * PAIRING;
        for _ in 0..limits::OPEN_OFFERS {
            self.push(Step::Share { dev, peer, tree: 2 });
        }
        self.at += 5 * PAIRING;
    }

    /// A session stands on a slower transport, and dials come to nothing: those of its data streams over the faster one.
    fn no_faster_way(&mut self, dev: usize, peer: usize) {
        self.setting.wires.fill(Wire::Both);
        self.push(Step::Disconnect { dev, peer });
        self.at += PAIRING;
        // The second address is the faster transport's.
        self.push(Step::Dial { dev, number: 2, fault: DialFault::Slow(3_000) });
        self.push(Step::Connect { dev, peer, told: true });
        self.at += PAIRING;
        let fault = self.tape.one_of(&[DialFault::TimedOut, DialFault::Refused, DialFault::Unreachable]);
        for (dev, peer) in [(dev, peer), (peer, dev)] {
            for number in 1..=limits::STREAM_TRIES {
                for dev in [dev, peer] {
                    self.push(Step::Dial { dev, number, fault });
                }
            }
            let tree = self.tape.below(super::draw::TREES) as usize;
            self.push(Step::Share { dev, peer, tree });
            self.at += 3 * PAIRING;
        }
    }
}
