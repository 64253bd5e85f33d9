//! Scenes of messages. They come last, so that what a script was before they were thought of it still is.

use super::draw::Draw;
use super::scenes::PAIRING;
use super::{More, Step, Words};
use crate::adversary::{Lie, Move, Tale};
use crate::rules::StoreFault;
use crate::world::Answer;

/// A life of a message that no run outlasts, in seconds.
const LONG: u64 = 86_400_000;

const FAULTS: &[StoreFault] = &[StoreFault::Fail, StoreFault::Fail, StoreFault::CrashBefore, StoreFault::CrashAfter];

impl Draw<'_, '_> {
    /// A scene of messages.
    pub(super) fn scene_of_messages(&mut self) {
        let (dev, peer) = self.tape.one_of(&[(0, 1), (1, 0)]);
        for dev in [dev, peer] {
            self.push(Step::Heard { dev });
            self.push(Step::Restart { dev });
            self.push(Step::CancelPairing { dev });
        }
        match self.tape.below(11) {
            8 => self.given_up_under_way(dev, peer),
            9 => self.said_to_who_refuses(dev, peer),
            10 => self.said_between_two_pairings(dev, peer),
            0 => self.written_slowly(dev, peer),
            1 => self.not_written(dev, peer),
            2 => self.too_many(dev, peer),
            3 => self.outlived(dev, peer),
            4 => self.not_removed(dev, peer),
            _ => self.letters_of_a_liar(dev),
        }
    }

    fn say_to(&mut self, dev: usize, peer: usize, count: usize, life: u64) {
        self.push(Step::More(More::Say { dev, peer, count, life, long: false }));
    }

    fn pair_anew(&mut self, dev: usize, peer: usize) {
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
    }

    /// Messages wait for a disk that is slow, or fails, while others are told.
    fn written_slowly(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.say_to(dev, peer, 1, LONG);
        self.at += 2_000;
        let millis = self.tape.one_of(&[400, 1_500]);
        self.push(Step::SlowDisk { dev, millis });
        if self.tape.percent(50) {
            let (number, fault) = (1 + self.tape.below(4) as u32, self.tape.one_of(FAULTS));
            self.push(Step::Store { dev, number, fault });
        }
        let count = 2 + self.tape.below(3) as usize;
        self.say_to(dev, peer, count, LONG);
        self.at += 5 * millis;
        self.push(Step::SlowDisk { dev, millis: 0 });
        self.push(Step::Restart { dev });
        self.at += 1_000;
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 2_000;
    }

    /// What came cannot be written, once or several times, or its receiver falls in that moment.
    fn not_written(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        for number in 1..=1 + self.tape.below(2) as u32 {
            let fault = self.tape.one_of(FAULTS);
            self.push(Step::Store { dev: peer, number, fault });
        }
        let count = self.tape.one_of(&[1, 2, 70]);
        self.say_to(dev, peer, count, LONG);
        self.at += 3_000;
        self.push(Step::Restart { dev: peer });
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 13_000;
    }

    /// More is said to a device that is away than may wait for it.
    fn too_many(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.push(Step::Crash { dev: peer });
        self.at += 2_000;
        self.push(Step::More(More::Say { dev, peer, count: 240, life: 20, long: true }));
        self.at += 40_000;
        self.push(Step::Restart { dev: peer });
    }

    /// A device is away for longer than what is said to it may wait.
    fn outlived(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.push(Step::Crash { dev: peer });
        self.at += 1_000;
        let life = self.tape.one_of(&[1, 30]);
        self.say_to(dev, peer, 2, life);
        self.wait(20_000);
        if self.tape.percent(40) {
            self.push(Step::Crash { dev });
            self.push(Step::Restart { dev });
        }
        self.say_to(dev, peer, 1, LONG);
        self.at += 45_000;
        self.push(Step::Restart { dev: peer });
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 3_000;
    }

    /// An owner takes what came, or forgets who sent it, and the store does not let go of it.
    fn not_removed(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.say_to(dev, peer, 3, LONG);
        self.at += 3_000;
        for number in 1..=1 + self.tape.below(3) as u32 {
            self.push(Step::Store { dev: peer, number, fault: StoreFault::Fail });
        }
        if self.tape.percent(50) {
            self.push(Step::More(More::Take { dev: peer, peer: dev }));
        } else {
            self.push(Step::Forget { dev: peer, peer: dev });
            self.at += 500;
            self.pair_anew(dev, peer);
            let count = self.tape.below(3) as usize;
            self.say_to(dev, peer, count, LONG);
        }
        self.at += 25_000;
    }

    /// Messages expire, many times over, while the receiver's disk takes its time.
    fn given_up_under_way(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.push(Step::SlowDisk { dev: peer, millis: 9_000 });
        for _ in 0..6 {
            self.say_to(dev, peer, 70, 1);
            self.at += 1_300;
        }
        self.push(Step::SlowDisk { dev: peer, millis: 0 });
        self.at += 20_000;
    }

    /// A message is queued for a device whose owner then does not want the pairing.
    fn said_to_who_refuses(&mut self, dev: usize, peer: usize) {
        let pairings = self.tape.one_of(&[Answer::No, Answer::Silent]);
        self.push(Step::Forget { dev, peer });
        self.push(Step::Answers { dev: peer, pairings, offers: Answer::Yes });
        self.at += 2_000;
        self.push(Step::Invite { dev, ask: false });
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: true, lost: 0 });
        self.at += 700;
        self.say_to(dev, peer, 2, LONG);
        self.at += 130_000;
        self.push(Step::Answers { dev: peer, pairings: Answer::Yes, offers: Answer::Yes });
    }

    /// A device is forgotten while a slow disk writes messages for it, paired anew, and others are queued.
    fn said_between_two_pairings(&mut self, dev: usize, peer: usize) {
        self.pair_anew(dev, peer);
        self.push(Step::SlowDisk { dev, millis: 3_000 });
        self.say_to(dev, peer, 5, LONG);
        self.at += 100;
        self.push(Step::Forget { dev, peer });
        self.pair_anew(dev, peer);
        self.say_to(dev, peer, 3, LONG);
        self.at += 30_000;
        self.push(Step::SlowDisk { dev, millis: 0 });
        self.at += 10_000;
    }

    /// A liar that is paired gives numbers twice, tells more than it may, and has receipts for what it never got.
    fn letters_of_a_liar(&mut self, dev: usize) {
        self.push(Step::Invite { dev, ask: false });
        self.push(Step::Enemy(Move::Join { to: dev, lie: Lie::None, count: 1, together: false }));
        self.at += PAIRING;
        let tell = |tale| Step::Enemy(Move::Tell { to: dev, tale });
        for _ in 0..1 + self.tape.below(3) {
            if self.tape.percent(40) {
                let count = 1 + self.tape.below(3) as usize;
                self.push(Step::Enemy(Move::Write { dev, count }));
                self.at += 2_000;
            }
            let tale = Tale::draw(self.tape);
            self.push(tell(tale));
            self.at += 2_000;
            if self.tape.percent(40) {
                self.push(Step::Crash { dev });
                self.push(Step::Restart { dev });
                self.at += 1_000;
            }
            // What was said may have ended their session.
            self.push(Step::Enemy(Move::Call { to: dev, lie: Lie::None, old: 0 }));
            self.at += 3_000;
        }
        self.push(tell(Tale::Used));
        self.at += 2_000;
    }
}
