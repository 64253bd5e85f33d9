//! Transfers that are interrupted, again and again: by cuts, deaths, silence, slow disks, full ones.

use super::draw::Draw;
use super::scenes::PAIRING;
use super::{More, Name, Step};
use crate::rules::{At, Damage, DiskFault, Side};
use crate::world::Answer;

/// Longer than a transfer waits for its session, in milliseconds.
const PATIENCE: u64 = 130_000;

impl Draw<'_, '_> {
    /// Something is sent, and on its way it is disturbed one to four times.
    pub(super) fn interrupted(&mut self) {
        let (dev, peer) = self.two();
        for dev in [dev, peer] {
            self.push(Step::Heard { dev });
            self.push(Step::Restart { dev });
            self.push(Step::Answers { dev, pairings: Answer::Yes, offers: Answer::Yes });
        }
        self.push(Step::Connect { dev, peer, told: true });
        self.at += PAIRING;
        let slow = self.tape.percent(40);
        if slow {
            let millis = self.tape.one_of(&[100, 1_000, 5_000]);
            self.push(Step::SlowDisk { dev: peer, millis });
        }
        let tree = self.tape.one_of(&[1, 2, 2, 3, 3, 4]);
        self.push(Step::Share { dev, peer, tree });
        for _ in 0..1 + self.tape.below(4) {
            self.at += self.tape.one_of(&[100, 700, 1_500, 4_000]);
            self.wait(3_000);
            self.disturb(dev, peer);
            if self.tape.percent(30) {
                let (from, to) = self.tape.one_of(&[(dev, peer), (peer, dev)]);
                self.at += 500;
                self.push(Step::Connect { dev: from, peer: to, told: true });
            }
        }
        if self.tape.percent(25) {
            self.at += self.tape.one_of(&[1_000, PATIENCE]);
            self.push(Step::Share { dev, peer, tree });
        }
        self.at += PATIENCE;
        if slow {
            self.push(Step::SlowDisk { dev: peer, millis: 0 });
        }
    }

    /// Owners have what is under way rest, something disturbs it perhaps, and they let it go on, or forget to.
    pub(super) fn rested(&mut self) {
        let (dev, peer) = self.two();
        for dev in [dev, peer] {
            self.push(Step::Heard { dev });
            self.push(Step::Restart { dev });
            self.push(Step::Answers { dev, pairings: Answer::Yes, offers: Answer::Yes });
        }
        self.push(Step::Connect { dev, peer, told: true });
        self.at += PAIRING;
        let millis = self.tape.one_of(&[0, 100, 1_000]);
        self.push(Step::SlowDisk { dev: peer, millis });
        let tree = self.tape.one_of(&[1, 2, 2, 3, 4]);
        self.push(Step::Share { dev, peer, tree });
        for on in [true, true, false] {
            self.at += self.tape.one_of(&[0, 100, 700, 4_000]);
            let (who, on) = (self.tape.one_of(&[dev, peer]), on ^ self.tape.percent(20));
            self.push(Step::More(More::Rest { dev: who, number: 0, on }));
            if self.tape.percent(40) {
                self.at += self.tape.one_of(&[100, 2_000, 40_000]);
                self.disturb(dev, peer);
                self.push(Step::Connect { dev, peer, told: true });
            }
        }
        self.at += self.tape.one_of(&[1_000, PATIENCE]);
        self.push(Step::SlowDisk { dev: peer, millis: 0 });
    }

    fn disturb(&mut self, dev: usize, peer: usize) {
        let who = self.tape.one_of(&[dev, peer]);
        match self.tape.below(10) {
            0..3 => self.push(Step::Reset { dev, peer }),
            3 | 4 => {
                let heard = self.tape.percent(70);
                self.push(if heard { Step::Crash { dev: who } } else { Step::PowerFails { dev: who } });
                self.at += self.tape.one_of(&[0, 1_000, 20_000]);
                self.push(Step::Restart { dev: who });
            }
            5 => {
                let millis = self.tape.one_of(&[8_000, 30_000, PATIENCE]);
                self.push(Step::Silence { dev: who, millis });
                self.at += millis;
            }
            6 => {
                let name = self.tape.one_of(&[Name::Bulk, Name::Manifest, Name::Link]);
                let side = self.tape.one_of(&[Side::Opener, Side::Answerer]);
                let damage = self.tape.one_of(&[Damage::Cut, Damage::Vanish, Damage::End]);
                let frame = self.tape.log(8) as u32;
                self.push(Step::Damage { name, side, at: At::Frame(frame), damage });
            }
            7 => {
                let fault = self.tape.one_of(&[DiskFault::Crash, DiskFault::Full, DiskFault::WritesFail]);
                let number = 1 + self.tape.log(6) as u32;
                self.push(Step::Disk { dev: peer, number, fault });
                self.at += 2_000;
                self.push(Step::Restart { dev: peer });
            }
            8 => {
                self.push(Step::Shutdown { dev: who });
                self.at += 1_000;
                self.push(Step::Restart { dev: who });
            }
            _ => {
                // No way back for a while.
                self.push(Step::NoDials { millis: 9_000 });
                self.push(Step::Reset { dev, peer });
            }
        }
    }
}
