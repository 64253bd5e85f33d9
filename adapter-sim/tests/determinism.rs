//! The same seed gives the same run, and what the world orders happens.

use std::time::Duration;

use adapter_sim::mutants::profile_of;
use adapter_sim::run::run as play;
use adapter_sim::script::Script;
use adapter_sim::{Item, Tree, Wire, World};
use protocol_core::effects::Event;

fn run(seed: u64, wire: Wire) -> u64 {
    let mut world = World::new(seed);
    let (a, b) = (world.add_device_on("a", wire), world.add_device_on("b", wire));
    world.pair(a, b);
    let mut tree = Tree::new();
    tree.insert(vec![b"file".to_vec()], Item::File(vec![7; 200_000]));
    let key = world.share(a, b, &tree, 65_536).expect("paired");
    let done = world.run_until(Duration::from_secs(60), |world| {
        world.saw(a, |event| matches!(event, Event::Done { transfer, .. } if *transfer == key))
    });
    assert!(done, "{}", world.trace().lines().join("\n"));
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.disk(b).files, tree);
    world.trace().hash()
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for wire in [Wire::Sim, Wire::Tcp] {
        assert_eq!(run(1, wire), run(1, wire));
        assert_ne!(run(1, wire), run(2, wire));
    }
}

/// What is drawn from a seed, twice in one process, whatever came between: hash, events and time.
#[test]
fn a_drawn_world_runs_as_it_did_before() {
    let of = |seed: u64| {
        let outcome = play(&Script::of_seed(seed, profile_of(seed)));
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        (outcome.hash, outcome.events, outcome.time)
    };
    let first: Vec<_> = (0..40).map(of).collect();
    let again: Vec<_> = (0..40).rev().map(of).collect();
    assert!(first.iter().eq(again.iter().rev()), "{first:?} {again:?}");
}
