//! Scenes that lead a machine to a state or an end which it hardly ever has otherwise (coverage.txt). They come last, as those of
//! messages do.

use super::draw::Draw;
use super::scenes::PAIRING;
use super::{Name, Step, Words};
use crate::link::Wire;
use crate::rules::{At, Damage, Side, StoreFault};
use crate::world::Pieces;

impl Draw<'_, '_> {
    /// One of them; where nothing but owners' wishes may happen, one that has nothing else in it.
    pub(super) fn rare_scene(&mut self) {
        let (dev, peer) = self.tape.one_of(&[(0, 1), (1, 0)]);
        if self.is_calm() {
            return self.crossed_far_away(dev, peer);
        }
        for dev in [dev, peer] {
            self.push(Step::Heard { dev });
            self.push(Step::Restart { dev });
            self.push(Step::CancelPairing { dev });
        }
        self.setting.latency = (5_000, 3_000);
        match self.tape.below(6) {
            5 => self.cancelled_behind_two_confirmations(dev, peer),
            4 => self.confirmed_in_vain(dev, peer),
            0 => self.falls_behind_its_code(dev, peer),
            1 => self.falls_while_it_confirms(dev, peer),
            2 => self.renewed_in_vain(dev, peer),
            _ => self.no_stream_on_its_dial(dev, peer),
        }
    }

    /// Two pair both ways where words travel for long, so that each sees its own session before that of the other. Nothing follows.
    fn crossed_far_away(&mut self, dev: usize, peer: usize) {
        self.setting.latency = self.tape.one_of(&[(50_000, 200_000), (300_000, 1_000)]);
        let (one, other) = (self.tape.percent(50), self.tape.percent(50));
        self.push(Step::Invite { dev, ask: one });
        self.push(Step::Invite { dev: peer, ask: other });
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: other, lost: 0 });
        self.at += self.tape.below(300);
        self.push(Step::Join { dev, of: peer, words: Words::Right, ask: one, lost: 0 });
        self.at += 3 * PAIRING;
    }

    /// A code is over while a handshake of it runs, and then its device falls.
    fn falls_behind_its_code(&mut self, dev: usize, peer: usize) {
        self.push(Step::Damage { name: Name::Pair, side: Side::Opener, at: At::Frame(1), damage: Damage::Vanish });
        self.push(Step::Invite { dev, ask: true });
        self.at += 598_500;
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: false, lost: 0 });
        self.at += 2_000 + self.tape.below(6_000);
        self.push(Step::Crash { dev });
        self.push(Step::Restart { dev });
        self.at += 2_000;
    }

    /// A joiner loses its stream while its confirmation is written, and falls before that is durable.
    fn falls_while_it_confirms(&mut self, dev: usize, peer: usize) {
        let millis = 3_000;
        self.push(Step::SlowDisk { dev: peer, millis });
        self.pair(dev, peer, (false, false));
        // The first write is that of the pending root.
        self.at += millis + 300 + self.tape.below(1_500);
        self.push(Step::Reset { dev, peer });
        self.at += 100 + self.tape.below(800);
        self.push(Step::Crash { dev: peer });
        self.push(Step::SlowDisk { dev: peer, millis: 0 });
        self.at += 500;
        self.push(Step::Restart { dev: peer });
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += PAIRING;
    }

    /// A joiner never sees its Complete; its reconnect would confirm the root, and that cannot be written.
    fn confirmed_in_vain(&mut self, dev: usize, peer: usize) {
        self.push(Step::Damage { name: Name::Pair, side: Side::Answerer, at: At::Frame(1), damage: Damage::Vanish });
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        // The first write is that of what the peer tells of itself.
        self.push(Step::Store { dev: peer, number: 2, fault: StoreFault::Fail });
        self.push(Step::Reset { dev, peer });
        self.at += PAIRING;
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += PAIRING;
    }

    /// Two pairings cross where one disk is slow. A reconnect confirms what a Complete confirms already, and the joiner's owner cancels.
    fn cancelled_behind_two_confirmations(&mut self, dev: usize, peer: usize) {
        (self.setting.latency, self.setting.pieces) = ((0, 0), Pieces::Whole);
        for (dev, peer) in [(dev, peer), (peer, dev)] {
            self.push(Step::Forget { dev, peer });
        }
        self.at += 15_000;
        let millis = 700;
        self.push(Step::SlowDisk { dev, millis });
        self.push(Step::Invite { dev, ask: false });
        self.push(Step::Join { dev: peer, of: dev, words: Words::Right, ask: false, lost: 0 });
        self.push(Step::Invite { dev: peer, ask: false });
        self.push(Step::Join { dev, of: peer, words: Words::Right, ask: false, lost: 0 });
        self.at += millis + 8 + self.tape.below(20);
        self.push(Step::Connect { dev, peer, told: true });
        self.at += 1 + self.tape.below(3);
        self.push(Step::CancelPairing { dev });
        self.at += PAIRING;
        self.push(Step::SlowDisk { dev, millis: 0 });
        self.at += PAIRING;
    }

    /// The answer to a session never comes, nor to one that is to replace it; that is cut, and the older one goes on.
    fn renewed_in_vain(&mut self, dev: usize, peer: usize) {
        let silent = |name, number| Step::Damage { name, side: Side::Answerer, at: At::Frame(number), damage: Damage::Vanish };
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        self.push(Step::Disconnect { dev: peer, peer: dev });
        self.at += 3_000;
        // Behind Accept.
        self.push(silent(Name::Link, 1));
        self.push(Step::Connect { dev: peer, peer: dev, told: true });
        self.at += 500 + self.tape.below(1_000);
        // Behind Challenge and Complete.
        self.push(silent(Name::Pair, 2));
        self.pair(dev, peer, (false, false));
        self.at += 300 + self.tape.below(1_500);
        self.push(Step::Reset { dev, peer });
        self.at += PAIRING;
    }

    /// A dial is through, its stream is not to be had, and in that very moment, before the device hears of it, the peer's own
    /// session stands, or the device falls.
    fn no_stream_on_its_dial(&mut self, dev: usize, peer: usize) {
        // So that every step of two handshakes is where it has to be.
        let way = 5;
        (self.setting.latency, self.setting.pieces) = ((way * 1_000, 0), Pieces::Whole);
        self.setting.wires.fill(Wire::Sim);
        self.pair(dev, peer, (false, false));
        self.at += PAIRING;
        self.push(Step::Disconnect { dev: peer, peer: dev });
        self.at += 8_000;
        let falls = self.tape.percent(50);
        if !falls {
            self.push(Step::Connect { dev: peer, peer: dev, told: true });
            self.at += 3 * way;
        }
        self.push(Step::NoStream { dev, number: 1 });
        self.push(Step::Connect { dev, peer, told: true });
        if falls {
            self.push(Step::Store { dev, number: 1, fault: StoreFault::CrashAfter });
            // The write takes a millisecond.
            self.at += 2 * way - 1;
            self.push(Step::Rename { dev, peer });
        }
        self.at += 1_000;
        self.push(Step::Restart { dev });
        self.at += 2_000;
    }
}
