//! L12: what one friend does, or fails to do, costs another next to nothing: the time of a transfer, and of a message, in virtual time,
//! beside a friend who is silent, floods, or comes and goes, against the time alone.
//!
//! `cargo test -p kin-tests --test story_isolation -- --nocapture` prints the shares.

use std::time::Duration;

use adapter_sim::{Dev, Item, Tree, Wire, World};
use kin_tests::story::sample_tree;
use protocol_core::effects::Event;
use protocol_core::node::{FilePolicy, Policy};
use protocol_core::wire::control::MessageState;
use protocol_core::wire::deframer::StreamName;
use protocol_core::wire::header::StreamKind;

const CHUNK: u32 = 65_536;
const STEP: Duration = Duration::from_millis(2);
const DAY: u64 = 86_400;
/// So many transfers, or messages, one after the other.
const TIMES: usize = 20;

/// What the other friend does beside a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rude {
    /// Nothing: the time alone.
    Absent,
    /// It takes files, stops in the middle, and says nothing any more.
    Stalls,
    /// It sends as many messages as it may have under way, always.
    Talks,
    /// It sends trees, as many at once as it may.
    Offers,
    /// It reconnects all the time.
    ComesAndGoes,
    /// It opens streams for sessions, bulk and pairings, and sends what nobody can read.
    Scribbles,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
enum Honest {
    Receives,
    Sends,
    Hears,
}

struct Three {
    world: World,
    hub: Dev,
    friend: Dev,
    rude: Dev,
}

fn three(wire: Wire) -> Three {
    let mut world = World::quiet(31);
    world.set_latency(Duration::from_millis(10), Duration::ZERO);
    let [hub, friend, rude] = ["hub", "friend", "rude"].map(|name| world.add_device_on(name, wire));
    world.pair(hub, friend);
    world.pair(hub, rude);
    assert!(world.run_until(Duration::from_secs(60), |world| world.connected(hub, friend) && world.connected(hub, rude)));
    for peer in [friend, rude] {
        trust(&mut world, hub, peer);
        trust(&mut world, peer, hub);
    }
    world.run_for(Duration::from_secs(5));
    Three { world, hub, friend, rude }
}

/// Nobody is asked: what a person takes to answer would hide what a device takes.
fn trust(world: &mut World, dev: Dev, peer: Dev) {
    let id = world.id(peer);
    let policy = Policy { files: FilePolicy::Automatic, ..Policy::default() };
    world.call(dev, |node, env| node.set_policy(env, id, policy)).expect("known");
}

/// Files of several chunks, and small ones: each is written, made durable and published by itself.
fn files() -> Tree {
    let content = |len: u32| Item::File((0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect());
    let small = (0..30).map(|number| (vec![format!("small {number}").into_bytes()], content(100 + number)));
    small.chain([(vec![b"large".to_vec()], content(2 << 20))]).collect()
}

impl Three {
    fn disturb(&mut self, rude: Rude, step: u32) {
        let Self { world, hub, rude: who, .. } = self;
        let (hub, who) = (*hub, *who);
        match rude {
            Rude::Absent => {}
            Rude::Stalls if step == 0 => {
                world.share(hub, who, &files(), CHUNK).expect("paired");
            }
            // From the moment in which it has taken the tree.
            Rude::Stalls => world.silence(who, world.saw(hub, |event| matches!(event, Event::Accepted { .. }))),
            Rude::Talks => {
                while world.queued_messages(who, hub).len() < 64 {
                    world.send_message(who, hub, &[7; 4_096], DAY).expect("there is room");
                }
            }
            Rude::Offers if step.is_multiple_of(5) => {
                // There may be as many as there may be.
                let _: Result<_, _> = world.share(who, hub, &sample_tree(), CHUNK);
            }
            Rude::ComesAndGoes if step.is_multiple_of(20) => {
                let id = world.id(hub);
                world.call(who, |node, env| node.disconnect(env, id));
                world.connect(who, hub);
            }
            Rude::Scribbles => {
                for name in [StreamName::Link, StreamName::Data(StreamKind::Bulk), StreamName::Pair] {
                    let raw = world.raw_open(who, hub, name);
                    world.raw_send(raw, &[0, 0, 4, 0]);
                    world.raw_send(raw, &[0x5a; 1_024]);
                }
            }
            Rude::Offers | Rude::ComesAndGoes => {}
        }
    }

    /// How long it takes until so many things were sent and have arrived, one after the other.
    fn time(&mut self, honest: Honest, rude: Rude) -> Duration {
        let (hub, friend) = (self.hub, self.friend);
        // Whoever disturbs has begun before.
        for step in 0..150 {
            self.disturb(rude, step);
            self.world.run_for(STEP);
        }
        let to = self.world.id(self.rude);
        let begun = self.world.saw(hub, |event| matches!(event, Event::Accepted { transfer } if transfer.device == to));
        let done = self.world.saw(hub, |event| matches!(event, Event::Done { transfer, .. } if transfer.device == to));
        assert!(rude != Rude::Stalls || (begun && !done), "it was to stop in the middle: begun {begun}, done {done}");
        let since = self.world.now();
        let (mut begun, mut done) = (0, 0);
        for step in 150..50_000 {
            self.disturb(rude, step);
            if begun == done {
                begun += 1;
                match honest {
                    Honest::Receives => drop(self.world.share(friend, hub, &files(), CHUNK).expect("paired")),
                    Honest::Sends => drop(self.world.share(hub, friend, &files(), CHUNK).expect("paired")),
                    Honest::Hears => drop(self.world.send_message(friend, hub, b"well?", DAY).expect("there is room")),
                }
            }
            self.world.run_for(STEP);
            done = match honest {
                Honest::Receives | Honest::Sends => {
                    self.world.events_of(friend).filter(|event| matches!(event, Event::Done { .. })).count()
                }
                Honest::Hears => self.world.receipts(friend).iter().filter(|(_, state)| *state == MessageState::Delivered).count(),
            };
            if done == TIMES {
                return self.world.now() - since;
            }
        }
        panic!("{honest:?} beside {rude:?}: {done} of {TIMES} done");
    }
}

#[test]
fn nobody_is_slowed_by_another() {
    const ALL: [Rude; 5] = [Rude::Stalls, Rude::Talks, Rude::Offers, Rude::ComesAndGoes, Rude::Scribbles];
    for wire in [Wire::Sim, Wire::Tcp] {
        for honest in [Honest::Receives, Honest::Sends, Honest::Hears] {
            let alone = three(wire).time(honest, Rude::Absent);
            assert!(alone > 50 * STEP, "{honest:?} is long enough to be disturbed: {alone:?}");
            for rude in ALL {
                let time = three(wire).time(honest, rude);
                let share = 100.0 * (time.as_secs_f64() / alone.as_secs_f64() - 1.0);
                println!("{wire:?}: {honest:?} takes {alone:?} alone, {share:+.1} % beside one who {rude:?}");
                assert!(share < 10.0, "{wire:?}: {honest:?} beside {rude:?}: {time:?} instead of {alone:?}");
            }
        }
    }
}
