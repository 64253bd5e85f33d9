//! Scenes of transfers and of liars that are paired.

use protocol_core::limits;

use super::draw::Draw;
use super::{More, Step};
use crate::adversary::{Lie, Move, Speech, Trick};
use crate::rules::DialFault;
use crate::world::Answer;

impl Draw<'_, '_> {
    /// A transfer takes a turn that most do not take.
    pub(super) fn turn_of_a_transfer(&mut self, dev: usize, peer: usize) {
        let peer = if dev == peer { dev + 1 } else { peer };
        match self.tape.below(10) {
            0..3 => self.change_of_mind(dev, peer),
            3..7 => self.late_answer(dev, peer),
            7 | 8 => self.back_from_the_dead(dev, peer),
            _ => self.rush(dev, peer),
        }
    }

    /// Somebody cancels what is offered or under way.
    fn change_of_mind(&mut self, dev: usize, peer: usize) {
        let offers = self.tape.one_of(&[Answer::Yes, Answer::Silent]);
        self.push(Step::Answers { dev: peer, pairings: Answer::Yes, offers });
        let tree = self.tape.one_of(&[2, 1, 3, 4]);
        self.push(Step::Share { dev, peer, tree });
        self.at += 300;
        self.wait(3_000);
        let (who, number) = (self.tape.one_of(&[dev, peer]), self.tape.below(3) as usize);
        self.push(Step::CancelTransfer { dev: who, number });
        // The other side is to hear of it before something else ends it there.
        self.at += 12_000;
        self.push(Step::Answers { dev: peer, pairings: Answer::Yes, offers: Answer::Yes });
    }

    /// An owner thinks about an offer for longer than anything else is waited for.
    fn late_answer(&mut self, dev: usize, peer: usize) {
        self.push(Step::Answers { dev: peer, pairings: Answer::Yes, offers: Answer::Silent });
        let tree = self.tape.below(super::draw::TREES) as usize;
        self.push(Step::Share { dev, peer, tree });
        self.at += 61_000 + self.tape.log(200_000);
        let yes = self.tape.percent(80);
        self.push(Step::More(More::Answer { dev: peer, yes }));
        self.push(Step::Answers { dev: peer, pairings: Answer::Yes, offers: Answer::Yes });
        self.at += 2_000;
    }

    /// A device is gone without a word, is offered something, and is back before anybody has noticed.
    fn back_from_the_dead(&mut self, dev: usize, peer: usize) {
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 3_000;
        self.push(Step::PowerFails { dev: peer });
        self.wait(1_000);
        let tree = self.tape.below(super::draw::TREES) as usize;
        self.push(Step::Share { dev, peer, tree });
        self.wait(5_000);
        self.push(Step::Restart { dev: peer });
        self.at += 50;
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += 3_000;
    }

    /// As much as may be, both ways at once.
    fn rush(&mut self, dev: usize, peer: usize) {
        let tree = self.tape.one_of(&[1, 2, 3]);
        for _ in 0..limits::OPEN_OFFERS {
            for (dev, peer) in [(dev, peer), (peer, dev)] {
                self.push(Step::Share { dev, peer, tree });
            }
        }
    }

    /// A device's dial is slow, the other reaches it meanwhile, they part, and it dials again before the first dial has come to an end.
    pub(super) fn overtaken(&mut self, dev: usize, peer: usize) {
        let peer = if dev == peer { dev + 1 } else { peer };
        self.push(Step::Disconnect { dev, peer });
        self.at += 3_000;
        let slow = 2_000 + self.tape.below(4_000) as u32;
        let fault = self.tape.one_of(&[DialFault::Slow(slow), DialFault::Slow(slow), DialFault::TimedOut]);
        self.push(Step::Dial { dev, number: 1, fault });
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 100;
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += if fault == DialFault::TimedOut { 8_500 } else { 1_500 };
        self.push(Step::Disconnect { dev, peer });
        let slow = self.tape.log(3_000) as u32;
        self.push(Step::Dial { dev, number: 1, fault: DialFault::Slow(slow) });
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 2_000;
    }

    /// Chunks leave about as slowly as words travel, and the liar that gets them says something else about them meanwhile.
    fn asked_while_it_leaves(&mut self, dev: usize) {
        let (least, millis) = self.tape.one_of(&[(100_000, 150), (5_000, 10), (5_000, 50), (300_000, 400)]);
        self.push(Step::Latency { least, more: least / 5 });
        self.push(Step::SlowDisk { dev, millis });
        let trick = self.tape.one_of(&[Trick::Again, Trick::Again, Trick::Insist, Trick::FalseStored, Trick::DeclineLate, Trick::Part]);
        self.push(Step::Enemy(Move::Share { dev, tree: 2, trick }));
        self.at += 5_000;
    }

    /// One session behind the other, and nobody has time to end one.
    fn calls_again_and_again(&mut self, dev: usize) {
        self.push(Step::Latency { least: 100_000, more: 100_000 });
        for _ in 0..limits::SUCCESSIONS + 3 {
            self.push(Step::Enemy(Move::Call { to: dev, lie: Lie::None, old: 0 }));
            self.wait(50);
        }
    }

    /// A liar goes one step beyond what messages, frames, names and patience may be.
    pub(super) fn beyond_limits(&mut self) {
        let to = self.tape.below(2) as usize;
        self.push(Step::Invite { dev: to, ask: false });
        let lie = self.tape.one_of(&[Lie::None, Lie::None, Lie::None, Lie::Hollow, Lie::HugeBox]);
        self.push(Step::Enemy(Move::Join { to, lie, count: 1, together: false }));
        if lie == Lie::Hollow {
            // Nothing else is to end what it leaves open.
            return;
        }
        self.at += 3_000;
        for _ in 0..1 + self.tape.below(3) {
            let lie = self.tape.one_of(&[Lie::None, Lie::None, Lie::Hollow, Lie::HugeBox]);
            self.push(Step::Enemy(Move::Call { to, lie, old: 0 }));
            self.at += 2_000;
            let step = match self.tape.below(2) {
                0 => Move::Say { to, speech: self.tape.one_of(Speech::BEYOND) },
                _ => Move::Deal { to, tree: 0, trick: self.tape.one_of(Trick::BEYOND), count: 1 },
            };
            self.push(Step::Enemy(step));
            self.at += 8_000;
        }
    }

    /// A device that lies is paired, and does one thing after the other.
    pub(super) fn hour_of_a_liar(&mut self) {
        let dev = self.tape.below(2) as usize;
        self.push(Step::Invite { dev, ask: false });
        self.push(Step::Enemy(Move::Join { to: dev, lie: Lie::None, count: 1, together: false }));
        self.at += 3_000;
        for _ in 0..2 + self.tape.below(4) {
            if self.tape.percent(60) {
                // What was done before may have ended their session.
                self.push(Step::Enemy(Move::Call { to: dev, lie: Lie::None, old: 0 }));
                self.at += 2_000;
            }
            if self.tape.percent(5) {
                self.calls_again_and_again(dev);
            } else if self.tape.percent(10) {
                self.asked_while_it_leaves(dev);
            } else {
                let deed = Move::deed(self.tape, dev);
                self.push(Step::Enemy(deed));
            }
            self.at += self.tape.one_of(&[3_000, 1_000, 12_000, 70_000]);
        }
    }
}
