//! L10: transfers that run beside each other share what a device can send: in virtual time, over an uplink of so many bytes a second,
//! each of K has in every window of 30 s at least 1/(2K) of the bytes that became durable in it. And what is said meanwhile arrives.
//!
//! The uplink carries what it is given in that order: what shows here is that nothing in the core, its claims, receipts and checkpoints,
//! leaves one behind. How stacks share a cable is in cli/tests/lab/fair.rs.
//!
//! `cargo test -p kin-tests --test story_fairness -- --nocapture` prints the shares.

use std::time::Duration;

use adapter_sim::{Dev, Item, Tree, Wire, World};
use protocol_core::effects::{Event, TransferKey};
use protocol_core::limits;
use protocol_core::node::{FilePolicy, Policy};
use protocol_core::wire::control::MessageState;

const CHUNK: u32 = 65_536;
/// Bytes a second.
const UPLINK: u64 = 200_000;
const WINDOW: Duration = Duration::from_secs(30);
/// So long they would take if each had its share.
const SECONDS: u64 = 100;
const DAY: u64 = 86_400;

/// Whom they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// One friend.
    One,
    /// One friend each.
    Each,
}

fn content(len: u64) -> Item {
    Item::File((0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect())
}

/// One file, or many small ones: who has much to do for every byte is not to have fewer of them.
fn tree(bytes: u64, number: usize) -> Tree {
    if number.is_multiple_of(2) {
        return [(vec![b"large".to_vec()], content(bytes))].into();
    }
    let small = 2_000;
    (0..bytes / small).map(|file| (vec![format!("small {file}").into_bytes()], content(small + file % 7))).collect()
}

/// A hub with friends that take what it sends without asking anybody.
fn friends(wire: Wire, count: usize) -> (World, Dev, Vec<Dev>) {
    let mut world = World::quiet(10);
    world.set_latency(Duration::from_millis(20), Duration::from_millis(5));
    let hub = world.add_device_on("hub", wire);
    let friends: Vec<Dev> = (0..count).map(|number| world.add_device_on(&format!("friend {number}"), wire)).collect();
    for &friend in &friends {
        world.pair(hub, friend);
        let id = world.id(hub);
        let policy = Policy { files: FilePolicy::Automatic, ..Policy::default() };
        world.call(friend, |node, env| node.set_policy(env, id, policy)).expect("known");
    }
    assert!(world.run_until(Duration::from_secs(60), |world| friends.iter().all(|&friend| world.connected(hub, friend))));
    world.run_for(Duration::from_secs(5));
    (world, hub, friends)
}

/// How long a message takes from the hub to a friend, beside all of that.
fn message(world: &mut World, hub: Dev, friend: Dev, said: usize) -> Duration {
    let since = world.now();
    world.send_message(hub, friend, b"meanwhile", DAY).expect("there is room");
    let told = |world: &World| world.receipts(hub).iter().filter(|(_, state)| *state == MessageState::Delivered).count() > said;
    assert!(world.run_until(WINDOW, told), "a message is delivered");
    world.now() - since
}

fn share_it(wire: Wire, to: To, count: usize) {
    let (mut world, hub, friends) = friends(wire, if to == To::One { 1 } else { count });
    world.set_uplink(hub, UPLINK);
    let of = |number: usize| friends[number % friends.len()];
    let sent: Vec<TransferKey> = (0..count)
        .map(|number| world.share(hub, of(number), &tree(UPLINK * SECONDS / count as u64, number), CHUNK).expect("paired"))
        .collect();
    // What the hub knows to be durable at whom it sends it.
    let there = |world: &World, sent: TransferKey| {
        let told = |event: &Event| match event {
            Event::Progress { transfer, durable, .. } if *transfer == sent => Some(*durable),
            _ => None,
        };
        world.events_of(hub).filter_map(told).max().unwrap_or(0)
    };
    let running = |world: &World| sent.iter().all(|&sent| there(world, sent) > 0);
    assert!(world.run_until(Duration::from_secs(60), running), "all have begun");
    let (mut least, mut slowest, mut windows) = (f64::MAX, Duration::ZERO, 0);
    loop {
        let before: Vec<u64> = sent.iter().map(|&sent| there(&world, sent)).collect();
        let until = world.now() + WINDOW;
        slowest = slowest.max(message(&mut world, hub, friends[0], windows));
        world.run_for(until.saturating_sub(world.now()));
        let moved: Vec<u64> = sent.iter().zip(before).map(|(&sent, before)| there(&world, sent) - before).collect();
        let all: u64 = moved.iter().sum();
        if all < UPLINK * WINDOW.as_secs() / 2 {
            // They end.
            break;
        }
        let least_of_these = moved.iter().map(|&bytes| bytes as f64 / all as f64).fold(f64::MAX, f64::min);
        assert!(least_of_these * 2.0 * count as f64 >= 1.0, "{wire:?} to {to:?}, window {windows}: {moved:?}");
        least = least.min(least_of_these);
        windows += 1;
    }
    assert!(windows >= 2, "{wire:?} to {to:?}: the uplink is used, but in {windows} windows alone");
    println!(
        "{wire:?}, {count} to {to:?}: over {windows} windows of 30 s nobody had less than {:.2} of an equal share; a message took {slowest:?} at most",
        least * count as f64
    );
    let done = |world: &World| world.events_of(hub).filter(|event| matches!(event, Event::Done { .. })).count() == count;
    assert!(world.run_until(Duration::from_secs(300), done), "all are there in the end");
}

#[test]
fn transfers_beside_each_other_share_the_uplink() {
    for wire in [Wire::Sim, Wire::Tcp] {
        for count in [2, 4] {
            share_it(wire, To::One, count);
            share_it(wire, To::Each, count);
        }
        // As many as one friend may have streams.
        share_it(wire, To::One, limits::BULK_STREAMS);
    }
}
