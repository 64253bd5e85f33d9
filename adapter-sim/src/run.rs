//! One run: a script is played, everything heals, what should work is tried, everything is closed, and the books are checked.
//!
//! ```text
//! play ─▶ heal ─▶ agree (reconnect, pair again, send) ─▶ close ─▶ start again ─▶ audit
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use protocol_core::effects::{DeviceState, Event};
use protocol_core::faults::OpenError;
use protocol_core::info::TransportKind;
use protocol_core::node::Confirm;
use protocol_core::node::probe::{RootProbe, Trust};

use crate::coverage::Counts;
use crate::oracle::{Recorder, Violation};
use crate::protocols::{Plan, Wished};
use crate::rules::{At, Damage, Rule, Side};
use crate::script::{Script, tree};
use crate::world::Answer;
use crate::{Dev, World};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// The hash of its trace.
    pub hash: u64,
    /// What happened in it, in entries of the trace and in events of its queue.
    pub events: u64,
    /// The kinds of faults that fired.
    pub fired: Vec<&'static str>,
    /// Everything worked again in the end.
    pub recovered: bool,
    /// What was reached, for "sometimes" marks.
    pub marks: Vec<&'static str>,
    /// Virtual time.
    pub time: Duration,
    /// Uses of an AEAD.
    pub sealed: u64,
    /// Which transitions machines have made.
    pub transitions: Counts,
}

/// A run that is kept: its trace can be read.
#[derive(Debug)]
pub struct Kept {
    /// What came of it.
    pub outcome: Outcome,
    /// The world as it is at the end, with its trace.
    pub world: World,
}

/// Plays a script, and keeps nothing but what came of it.
pub fn run(script: &Script) -> Outcome {
    play(script, false).outcome
}

/// Whether this thread plays one: it may panic, and that is told in its outcome.
pub fn is_running() -> bool {
    Recorder::is_on()
}

/// Plays a script, and keeps the trace.
pub fn run_kept(script: &Script) -> Kept {
    play(script, true)
}

fn play(script: &Script, keep: bool) -> Kept {
    Recorder::start();
    let mut run = Run { world: World::of_script(script, keep), recovered: false, marks: Vec::new() };
    let panicked = catch_unwind(AssertUnwindSafe(|| run.phases(script))).err();
    let sealed = Recorder::stop();
    let Run { mut world, recovered, mut marks } = run;
    let (transitions, situations) = world.watch.as_mut().map(|watch| watch.take()).unwrap_or_default();
    marks.extend(situations);
    let panic = panicked.map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Violation { rule: "S30", what: format!("panicked: {}", text.unwrap_or("?")) }
    });
    let violation = world.oracle.as_ref().and_then(|oracle| oracle.violation().cloned()).or(panic);
    let mut fired = std::mem::take(&mut world.fired);
    fired.sort_unstable();
    fired.dedup();
    let (hash, events, time) = (world.trace().hash(), world.events_handled(), world.now());
    let outcome = Outcome { violation, hash, events, fired, recovered, marks, time, sealed, transitions };
    Kept { outcome, world }
}

struct Run {
    world: World,
    recovered: bool,
    marks: Vec<&'static str>,
}

impl Run {
    /// Whether a rule is broken, so that the run is over.
    fn broken(&self) -> bool {
        self.world.oracle.as_ref().is_some_and(|oracle| oracle.violation().is_some())
    }

    fn wait(&mut self, time: Duration) {
        self.world.run_until(time, |world| world.oracle.as_ref().is_some_and(|oracle| oracle.violation().is_some()));
    }

    fn phases(&mut self, script: &Script) {
        let last = script.steps.iter().map(|step| step.at).max().unwrap_or(0);
        self.wait(Duration::from_millis(last) + Duration::from_secs(5));
        let owed = self.world.enemy_waits();
        self.wait(owed);
        for dev in (0..self.world.honest).map(Dev) {
            if self.world.is_up(dev) {
                self.world.with_oracle(|oracle, world| oracle.check_provisional(world, dev));
            }
        }
        let honest: Vec<Dev> = (0..self.world.honest).map(Dev).collect();
        self.look_round(&honest);
        self.heal(script);
        self.check_stores(&honest);
        self.world.with_oracle(|oracle, world| oracle.check_heard(world, true));
        for (at, &one) in honest.iter().enumerate() {
            for &other in &honest[at + 1..] {
                if !self.broken() {
                    self.agree(one, other);
                }
            }
        }
        if !self.broken() {
            self.close(&honest);
        }
        if !self.broken() {
            self.start_again(&honest);
        }
        // What is slow to look for is looked for in some runs.
        let looks = !self.broken() && script.setting.chance.is_multiple_of(16);
        if let Some((rule, what)) = looks.then(|| self.world.leaked()).flatten() {
            self.fail(rule, || what);
        }
        self.recovered = !self.broken();
        self.note_marks();
    }

    /// What is to hold when the story is over and nothing was mended yet.
    fn look_round(&mut self, honest: &[Dev]) {
        self.check_stores(honest);
        let up: Vec<Dev> = honest.iter().copied().filter(|dev| self.world.is_up(*dev)).collect();
        let pairs = up.iter().flat_map(|&one| up.iter().map(move |&other| (one, other)));
        for (one, other) in pairs.filter(|(one, other)| one != other) {
            self.world.with_oracle(|oracle, world| oracle.check_shared(world, one, other));
        }
        for &dev in &up {
            self.world.with_oracle(|oracle, world| oracle.check_expired(world, dev));
        }
        self.world.with_oracle(|oracle, world| {
            oracle.check_both_ended(world);
            oracle.check_questions(world);
            oracle.check_heard(world, false);
        });
    }

    fn check_stores(&mut self, honest: &[Dev]) {
        for &dev in honest {
            self.world.with_oracle(|oracle, world| oracle.check_stored(world, dev));
        }
    }

    /// No fault happens any more, who is down starts, and users say yes.
    fn heal(&mut self, script: &Script) {
        let world = &mut self.world;
        world.clear_rules();
        world.heal_hosts();
        for dev in (0..world.honest).map(Dev) {
            world.silence(dev, false);
            world.set_pairings(dev, Answer::Yes);
            world.set_offers(dev, Answer::Yes);
            if !world.is_up(dev) {
                world.restart(dev);
            }
        }
        for dev in (0..self.world.honest).map(Dev) {
            self.world.answer_offers(dev);
        }
        self.stay_connected();
        self.world.lift_wishes();
        if script.setting.patient {
            self.mark("patient");
            // The longest waits: a code of ten minutes with a handshake that began at its end, an attempt, a dead session.
            self.wait(Duration::from_secs(1_000));
            self.world.with_oracle(|oracle, world| oracle.check_ended(world));
        } else {
            self.wait(Duration::from_secs(2));
            for dev in (0..self.world.honest).map(Dev) {
                self.world.cancel_pairings(dev);
            }
            // Dead sessions are noticed in thirty seconds, streams that prove nothing in ten.
            self.wait(Duration::from_secs(45));
        }
    }

    /// L16: who is to stay connected is, if that can be.
    fn stay_connected(&mut self) {
        if self.world.wishes.kept.is_empty() {
            return;
        }
        self.mark("somebody stays connected");
        // Who takes himself to be connected notices within half a minute that he is not.
        self.wait(Duration::from_secs(30) + protocol_core::limits::KEEP_MOST * 5 / 4 + Duration::from_secs(30));
        let count = self.world.honest;
        for (dev, peer) in (0..count).flat_map(|dev| (0..count).map(move |peer| (Dev(dev), Dev(peer)))) {
            let wanted = self.world.oracle.as_ref().is_some_and(|oracle| dev != peer && oracle.is_to_be_kept(&self.world, dev, peer));
            let there = self.world.has_session(dev, peer);
            self.check("L16", !wanted || there, || format!("device {} stays connected, and is not with device {}", dev.0, peer.0));
        }
    }

    /// Roots that both devices would use for each other.
    fn common_roots(&self, one: Dev, other: Dev) -> usize {
        let world = &self.world;
        let usable = |dev: Dev, root: &RootProbe| {
            let over = root.expires.is_some_and(|expires| expires <= world.unix_s(dev));
            !over && !matches!(root.trust, Trust::Provisional { agreed: false })
        };
        let of = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            let roots = world.node(dev).probe_roots().into_iter();
            roots.filter(|root| root.peer == peer && usable(dev, root)).map(|root| root.print).collect::<Vec<_>>()
        };
        let theirs = of(other, one);
        of(one, other).iter().filter(|print| theirs.contains(print)).count()
    }

    fn both_connected(world: &World, one: Dev, other: Dev) -> bool {
        world.has_session(one, other) && world.has_session(other, one)
    }

    /// L2, L14: what both hold leads to a session, and nothing else does; then they can pair anew and send.
    fn agree(&mut self, one: Dev, other: Dev) {
        let common = self.common_roots(one, other);
        if common == 0 {
            self.world.with_oracle(|oracle, world| oracle.check_common(world, one, other));
        }
        let knows = |run: &Self, dev: Dev, peer: Dev| run.world.node(dev).probe_roots().iter().any(|root| root.peer == run.world.key(peer));
        let (from, to) = if knows(self, other, one) && !knows(self, one, other) { (other, one) } else { (one, other) };
        if knows(self, from, to) {
            let before = self.world.events().len();
            self.connect(from, to);
            let limit = Duration::from_secs(if common > 0 { 30 } else { 100 });
            let events = self.world.events().len();
            self.world.run_until(limit, |world| {
                let news = &world.events()[events..];
                let failed = |event: &Event| matches!(event, Event::ConnectFailed { .. });
                Self::both_connected(world, from, to) || (common == 0 && news.iter().any(|(dev, event)| *dev == from && failed(event)))
            });
            let connected = Self::both_connected(&self.world, from, to);
            if common > 0 {
                self.check("L2", connected, || format!("devices {} and {} share {common} roots and find no session", one.0, other.0));
            } else {
                self.check("S1", !connected, || format!("devices {} and {} share no root and have a session", one.0, other.0));
                // Whoever is paired alone hears that, as soon as he asks.
                let told = |event: &Event| matches!(event, Event::ConnectFailed { .. } | Event::RemovedThere { .. });
                let told = self.world.events()[before..].iter().any(|(dev, event)| *dev == from && told(event));
                let blocked = self.world.view(from, to).is_none_or(|view| view.blocked.is_some());
                self.check("S2", told || blocked, || format!("device {} is paired alone with device {}, and is not told", from.0, to.0));
            }
            self.wait(Duration::from_secs(1));
        }
        if self.broken() {
            return;
        }
        if !Self::both_connected(&self.world, one, other) {
            self.pair_again(one, other);
        }
        if self.broken() || !Self::both_connected(&self.world, one, other) {
            return;
        }
        self.check_pair(one, other);
        match self.world.micros() % 4 {
            0 => self.glare(one, other),
            1 => self.late_start(one, other),
            _ => {}
        }
        self.send(one, other);
        self.send(other, one);
        self.hear_out(one, other);
        if self.world.has_talks() {
            self.converse(one, other);
            self.converse(other, one);
        }
    }

    /// L15: a protocol is spoken where a session stands, by whichever side.
    fn converse(&mut self, one: Dev, other: Dev) {
        if self.broken() || !Self::both_connected(&self.world, one, other) {
            return;
        }
        self.mark("a protocol in the end");
        let plan = Plan { bytes: 100_000, millis: 0 };
        let wish = self.world.open_protocol(one, other, 0, plan);
        let ended = wish.map(|id| {
            self.world.run_until(Duration::from_secs(60), |world| world.wished(one, id).is_some_and(|wished| wished == Wished::Ended));
            self.world.wished(one, id)
        });
        // Who listens at no address of the session's transport can open streams there and not be reached.
        let deaf = !self.world.devices[other.0].wire.has(&TransportKind::Tcp);
        let right = matches!(ended, Ok(Some(Wished::Ended))) || (deaf && ended == Ok(Some(Wished::NotOpened(OpenError::NoWay))));
        self.check("L15", right, || format!("devices {} and {} cannot speak: {ended:?}", one.0, other.0));
    }

    /// L4: what owners have said arrives.
    fn hear_out(&mut self, one: Dev, other: Dev) {
        let waits = |world: &World, dev: Dev, peer: Dev| world.node(dev).probe_messages(world.id(peer)) > 0;
        if self.broken() || !(waits(&self.world, one, other) || waits(&self.world, other, one)) {
            return;
        }
        self.world.run_until(Duration::from_secs(15), |world| !waits(world, one, other) && !waits(world, other, one));
        self.world.with_oracle(|oracle, world| oracle.check_gone(world, one, other));
    }

    /// LINK-13: a device is dialled while it is down, and found when it has started.
    fn late_start(&mut self, one: Dev, other: Dev) {
        self.mark("a late start");
        self.world.with_oracle(|oracle, _| oracle.disturb());
        self.world.crash(other);
        self.wait(Duration::from_secs(1));
        self.connect(one, other);
        self.wait(Duration::from_secs(5));
        self.world.restart(other);
        let met = self.world.run_until(Duration::from_secs(25), |world| Self::both_connected(world, one, other));
        self.check("LINK-13", met, || format!("device {} gave device {} up before that had started", one.0, other.0));
        if !self.broken() {
            self.check_pair(one, other);
        }
    }

    /// LINK-11: both dial at the same instant, and one session comes of it: that of the device with the smaller key.
    fn glare(&mut self, one: Dev, other: Dev) {
        if self.broken() {
            return;
        }
        self.mark("glare");
        self.leave(one, other);
        self.wait(Duration::from_secs(8));
        self.world.set_latency(Duration::from_millis(20), Duration::ZERO);
        let (one, other) = if self.world.key(one) < self.world.key(other) { (one, other) } else { (other, one) };
        // Its first Hello may have been under a root that the other does not hold.
        let roots = |dev: Dev| {
            let key = self.world.key(if dev == one { other } else { one });
            self.world.node(dev).probe_roots().into_iter().filter(|root| root.peer == key).map(|root| root.session_ref).collect::<Vec<_>>()
        };
        // Who has a transfer that waits for a session dials by itself.
        let waits = |dev: Dev| self.world.node(dev).probe_holdings().transfers != (0, 0);
        // Or has found one already.
        let met =
            self.world.node(one).probe_sessions().iter().chain(&self.world.node(other).probe_sessions()).any(|session| session.primary);
        let alike = roots(one) == roots(other) && !waits(one) && !waits(other) && !met;
        self.connect(one, other);
        self.connect(other, one);
        let met = self.world.run_until(Duration::from_secs(10), |world| Self::both_connected(world, one, other));
        self.check("L2", met, || format!("devices {} and {} dialled each other at once and found no session", one.0, other.0));
        self.wait(Duration::from_secs(3));
        let key = self.world.key(other);
        let sessions = self.world.node(one).probe_sessions();
        let opened = sessions.iter().find(|session| session.peer == key && session.primary).map(|session| session.we_opened);
        self.check("LINK-11", opened == Some(true) || !alike, || {
            format!("both dialled at once, and device {} has the smaller key: {opened:?}", one.0)
        });
        self.check_pair(one, other);
    }

    /// HOST-14: one ends the session, and the other hears that it was ended.
    fn leave(&mut self, one: Dev, other: Dev) {
        let (id, me, from) = (self.world.id(other), self.world.id(one), self.world.events().len());
        self.world.with_oracle(|oracle, world| oracle.on_left(world, one, id));
        self.world.call(one, |node, env| node.disconnect(env, id));
        self.wait(Duration::from_secs(2));
        let heard = self.world.events()[from..].iter().find_map(|(dev, event)| match event {
            Event::Device { device, reason, .. } if *dev == other && *device == me => *reason,
            _ => None,
        });
        self.world.with_oracle(|oracle, _| oracle.check_goodbye(heard, other));
    }

    fn connect(&mut self, from: Dev, to: Dev) {
        let id = self.world.id(to);
        let at = if self.find_by_lookup(from, to) { Vec::new() } else { self.world.addresses(to) };
        // A device that is not known is paired below.
        let _unknown = self.world.call(from, |node, env| node.connect(env, id, &at));
    }

    /// Whether two devices can find each other without being told where: the service is there, neither knows more devices than it
    /// publishes for, and both take it to be the same hour, or nearly.
    fn find_by_lookup(&self, one: Dev, other: Dev) -> bool {
        let few = |dev: Dev| self.world.node_of(dev).is_none_or(|node| node.devices().len() <= protocol_core::limits::PUBLISHED_DEVICES);
        self.world.has_lookup() && few(one) && few(other) && self.world.unix_s(one).abs_diff(self.world.unix_s(other)) < 3_000
    }

    /// L1, A7: two that do not know each other (any more) pair, within a minute.
    fn pair_again(&mut self, one: Dev, other: Dev) {
        let full = |dev: Dev, peer: Dev| {
            let node = self.world.node(dev);
            node.probe_holdings().devices >= protocol_core::limits::DEVICES && self.world.view(dev, peer).is_none()
        };
        let full = full(one, other) || full(other, one);
        self.mark(if full { "no room for another device" } else { "paired in the end" });
        let world = &mut self.world;
        let Ok(invite) = world.invite(one, Confirm::Ask) else {
            return self.fail("L1", || format!("device {} is busy with a pairing that should have ended", one.0));
        };
        let (session, ttl) = (invite.session, invite.ttl.as_micros() as u64);
        world.with_oracle(|oracle, world| oracle.on_invite(world, one, session, ttl, false));
        // A code is found whatever clocks say.
        let at = if world.has_lookup() { Vec::new() } else { world.addresses(one) };
        let Ok(session) = world.join(other, &invite.code, &at, Confirm::Ask) else {
            return self.fail("L1", || format!("device {} is busy with a pairing that should have ended", other.0));
        };
        world.with_oracle(|oracle, world| oracle.on_join(world, other, session, false));
        let paired = self.world.run_until(Duration::from_secs(60), |world| Self::both_connected(world, one, other));
        if full {
            // S23 sees to it that no device is one too many.
            self.world.cancel_pairings(one);
            self.world.cancel_pairings(other);
            return self.check("LIM-3", !paired, || format!("devices {} and {} paired where there was no room", one.0, other.0));
        }
        self.check("L1", paired, || format!("devices {} and {} could not pair when all was well", one.0, other.0));
    }

    /// R3, A6, A7: one session, the same on both sides; one confirmed root.
    fn check_pair(&mut self, one: Dev, other: Dev) {
        self.wait(Duration::from_secs(1));
        // One may be renewing it just now: who opened the newer is sure of it when it is answered.
        let sure = |world: &World, dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            world.node(dev).probe_sessions().iter().all(|session| session.peer != peer || !session.primary || session.answered)
        };
        self.world.run_until(Duration::from_secs(5), |world| sure(world, one, other) && sure(world, other, one));
        let world = &self.world;
        let primary = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            let all = world.node(dev).probe_sessions();
            let mut of_peer = all.into_iter().filter(|session| session.peer == peer && session.primary);
            (of_peer.next().map(|session| session.session_ref), of_peer.count())
        };
        let (mine, theirs) = (primary(one, other), primary(other, one));
        let same = mine.0.is_some() && mine == theirs && mine.1 == 0;
        let records = |dev: Dev, peer: Dev| {
            let peer = world.key(peer);
            world.node(dev).probe_roots().iter().filter(|root| root.peer == peer && root.trust == Trust::Confirmed).count()
        };
        let confirmed = (records(one, other), records(other, one));
        let learned = self.learned(one, other).and_then(|()| self.learned(other, one));
        if let Err(what) = learned {
            self.fail("LINK-7", || what);
        }
        self.check("R3", same, || format!("devices {} and {} do not agree on their session: {mine:?}, {theirs:?}", one.0, other.0));
        self.check("A7", confirmed == (1, 1), || format!("devices {} and {} hold {confirmed:?} confirmed roots", one.0, other.0));
    }

    /// LINK-7: after a contact a device knows the other's name and addresses as they are now.
    fn learned(&self, dev: Dev, peer: Dev) -> Result<(), String> {
        let Some(view) = self.world.view(dev, peer) else { return Err(format!("device {} does not list device {}", dev.0, peer.0)) };
        let (is, addresses) = (self.world.shown_name(peer), self.world.addresses(peer));
        let known = addresses.iter().all(|address| view.addresses.contains(address));
        let named = view.name == is || view.name == "another name";
        if known && named {
            Ok(())
        } else {
            Err(format!("device {} knows device {} as {:?} at {:?}", dev.0, peer.0, view.name, view.addresses))
        }
    }

    /// L3, XFER-20: a small tree arrives, also if a stream of it breaks.
    fn send(&mut self, from: Dev, to: Dev) {
        if self.broken() {
            return;
        }
        self.world.disk_mut(to).files.clear();
        self.world.forget_arrivals(to);
        let tree = tree(1);
        self.harm();
        if self.world.node(from).probe_holdings().transfers.0 >= protocol_core::limits::OPEN_OFFERS {
            // What was to be sent in an earlier life comes first.
            self.world.answer_offers(to);
            self.wait(Duration::from_secs(20));
        }
        let Some(key) = self.world.offer(from, to, &tree) else {
            return self.fail("L3", || format!("device {} cannot offer anything to device {}", from.0, to.0));
        };
        let done = |world: &World| {
            world.events().iter().rev().take(64).any(|(dev, event)| {
                *dev == from && matches!(event, Event::Done { transfer, .. } | Event::Failed { transfer, .. } if *transfer == key)
            })
        };
        self.world.run_until(Duration::from_secs(60), done);
        self.world.clear_rules();
        // What was offered before and waited for a session arrives as well.
        let files = &self.world.disk(to).files;
        let whole = tree.iter().all(|(path, item)| files.get(path) == Some(item));
        self.check("L3", whole, || format!("a small tree did not arrive whole from device {} at device {}", from.0, to.0));
    }

    /// In every other run the next stream of chunks breaks: once, in one of many ways.
    fn harm(&mut self) {
        let chance = self.world.micros() / 8;
        if chance.is_multiple_of(2) {
            return;
        }
        self.mark("a broken stream in the end");
        self.world.with_oracle(|oracle, _| oracle.disturb());
        let ways = [Damage::Cut, Damage::Vanish, Damage::Flip(usize::try_from(chance % 50_000).unwrap_or(0)), Damage::End];
        let damage = ways[usize::try_from(chance / 2 % 4).unwrap_or(0)];
        for side in [Side::Opener, Side::Answerer] {
            self.world.rule(Rule { name: World::BULK, side, at: At::Byte(100 + chance / 8 % 66_000), damage });
        }
    }

    /// L7, S32: sessions are ended, and nothing is left.
    fn close(&mut self, honest: &[Dev]) {
        for &dev in honest {
            // Liars may be paired, and would hold on.
            for peer in (0..self.world.devices_len()).map(Dev) {
                let id = self.world.id(peer);
                self.world.with_oracle(|oracle, world| oracle.on_left(world, dev, id));
                self.world.call(dev, |node, env| node.disconnect(env, id));
            }
        }
        self.wait(Duration::from_secs(150));
        self.check_stores(honest);
        for &dev in honest {
            self.world.with_oracle(|oracle, world| {
                oracle.check_provisional(world, dev);
                oracle.check_released(world, dev);
                oracle.check_identities(world, dev);
                oracle.check_files(world, dev);
            });
        }
        self.world.check_wishes();
    }

    /// L9: what is known survives a restart.
    fn start_again(&mut self, honest: &[Dev]) {
        for &dev in honest {
            let (before, messages) = (self.known(dev), self.shown(dev, honest));
            self.world.crash(dev);
            self.world.restart(dev);
            let (after, still) = (self.known(dev), self.shown(dev, honest));
            self.check("L9", before == after, || format!("device {} knows other devices after a restart than before", dev.0));
            self.check("L9", messages == still, || format!("device {} shows other messages after a restart than before", dev.0));
        }
    }

    /// The messages that a device shows.
    fn shown(&self, dev: Dev, honest: &[Dev]) -> Vec<protocol_core::ids::MessageId> {
        honest.iter().flat_map(|&peer| self.world.messages(dev, peer)).map(|message| message.id).collect()
    }

    fn known(&self, dev: Dev) -> Vec<(protocol_core::ids::DeviceId, bool, String, usize)> {
        let views = self.world.devices(dev);
        views
            .into_iter()
            .filter(|view| view.state != DeviceState::Pairing)
            .map(|view| (view.id, view.confirmed, view.name, view.addresses.len()))
            .collect()
    }

    fn check(&mut self, rule: &'static str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(rule, what);
        }
    }

    fn fail(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        self.world.with_oracle(|oracle, _| oracle.broken(rule, what));
    }

    fn mark(&mut self, mark: &'static str) {
        self.marks.push(mark);
    }

    /// What was seen at least once in this run.
    fn note_marks(&mut self) {
        if self.world.data_went_a_faster_way() {
            self.mark("data went over tcp for a session that did not");
        }
        for (_, event) in self.world.events() {
            let mark = match event {
                Event::PairRequest { .. } => "asked about a pairing",
                Event::Paired { repaired: true, .. } => "paired again",
                Event::Paired { .. } => "paired",
                Event::PairConfirmed { .. } => "a pairing was confirmed",
                Event::PairRefused { .. } => "a joiner refused after Complete",
                Event::PairUnfinished { .. } => "a joiner's last message was lost",
                Event::PairFailed { .. } => "a pairing failed",
                Event::ConnectFailed { .. } => "a connection attempt failed",
                Event::Removed { .. } => "a device was removed",
                Event::Offered { .. } => "an offer was shown",
                Event::Done { .. } => "a transfer was done",
                Event::Failed { .. } => "a transfer failed",
                _ => continue,
            };
            if !self.marks.contains(&mark) {
                self.marks.push(mark);
            }
        }
    }
}
