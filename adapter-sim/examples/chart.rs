//! Charts of a few runs, to look at: `cargo run -p adapter-sim --example chart -- sim|tcp|three|long [FILE.html]`.
//!
//! The lines for a terminal are printed; with a file, the page is written there.

use std::time::Duration;

use adapter_sim::{Answer, At, Damage, Item, Rule, Side, Tree, Wire, World};
use protocol_core::node::Confirm;
use protocol_core::wire::deframer::StreamName;

fn tree(files: u8, bytes: usize) -> Tree {
    (0..files).map(|number| (vec![format!("file-{number:03}").into_bytes()], Item::File(vec![number; bytes]))).collect()
}

/// A pairing, a transfer that is cut, a crash, and the transfer once more.
fn faults(wire: Wire) -> World {
    let mut world = World::new(7);
    let (desktop, laptop) = (world.add_device_on("desktop", wire), world.add_device_on("laptop", wire));
    world.pair(desktop, laptop);
    let files = tree(3, 400_000);
    world.rule(Rule { name: World::BULK, side: Side::Opener, at: At::Frame(4), damage: Damage::Cut });
    world.rule(Rule { name: World::BULK, side: Side::Answerer, at: At::Frame(4), damage: Damage::Cut });
    world.share(desktop, laptop, &files, 65_536).expect("paired");
    world.run_for(Duration::from_secs(3));
    world.clear_rules();
    world.crash(laptop);
    world.run_for(Duration::from_secs(90));
    world.restart(laptop);
    world.connect(laptop, desktop);
    world.run_for(Duration::from_secs(5));
    world.rule(Rule { name: StreamName::Link, side: Side::Opener, at: At::Frame(4), damage: Damage::Flip(70) });
    // It may be that they have not found each other again: then there is nothing to be sent, which the chart shows.
    let _unpaired = world.share(desktop, laptop, &files, 65_536);
    world.run_for(Duration::from_secs(3_600));
    world
}

/// Three devices, one of which says no, and one whose name is an attack on whoever shows it.
fn three() -> World {
    let mut world = World::new(3);
    let desktop = world.add_device("desktop");
    let laptop = world.add_device("laptop");
    let phone = world.add_device("<script>alert(1)</script> \u{202e}\u{1b}[31m & a long name");
    world.pair(desktop, laptop);
    world.set_pairings(phone, Answer::No);
    let invite = world.invite(phone, Confirm::Ask).expect("no other pairing runs");
    let at = world.address(phone);
    world.join(laptop, &invite.code, &[at], Confirm::Ask).expect("no other pairing runs");
    world.run_for(Duration::from_secs(10));
    world.set_pairings(phone, Answer::Yes);
    world.pair(phone, desktop);
    for (from, to) in [(desktop, phone), (laptop, desktop)] {
        world.share(from, to, &tree(2, 100_000), 65_536).expect("paired");
    }
    world.run_for(Duration::from_secs(20));
    world.crash(desktop);
    world.run_for(Duration::from_secs(60));
    world
}

/// Thousands of entries: two hours with a big transfer and crashes.
fn long() -> World {
    let mut world = World::new(11);
    let (desktop, laptop) = (world.add_device("desktop"), world.add_device("laptop"));
    world.pair(desktop, laptop);
    world.share(desktop, laptop, &tree(60, 800_000), 65_536).expect("paired");
    world.run_for(Duration::from_secs(1_800));
    for _ in 0..60 {
        world.crash(laptop);
        world.run_for(Duration::from_secs(20));
        world.restart(laptop);
        world.connect(laptop, desktop);
        world.run_for(Duration::from_secs(70));
    }
    world
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_default();
    let world = match which.as_str() {
        "tcp" => faults(Wire::Tcp),
        "three" => three(),
        "long" => long(),
        _ => faults(Wire::Sim),
    };
    print!("{}", world.story());
    match arguments.next() {
        None => Ok(()),
        Some(file) => {
            let replay = format!("cargo run -p adapter-sim --example chart -- {which} {file}");
            std::fs::write(file, world.chart(&format!("An example: {which}"), &replay))
        }
    }
}
