//! PAIR-46, PAIR-8: every bit of the first three frames of a pairing, flipped: no confirmed record anywhere. And of what
//! follows: whatever is left is repaired by the next reconnect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use adapter_sim::{At, Damage, Rule, Side, Wire};
use kin_tests::story::Duo;
use protocol_core::effects::Event;
use protocol_core::node::Confirm;
use protocol_core::wire::deframer::StreamName;

const MINUTE: Duration = Duration::from_secs(60);

fn flip(side: Side, frame: u32, bit: usize) -> Rule {
    Rule { name: StreamName::Pair, side, at: At::Frame(frame), damage: Damage::Flip(bit) }
}

/// Spreads numbers below `count` over the processors.
fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

/// The length of a frame in an honest run.
fn length(side: Side, frame: usize) -> usize {
    let mut duo = Duo::new(1, Wire::Sim);
    duo.start(Confirm::Automatic);
    duo.world.run_for(Duration::from_secs(3));
    assert!(duo.both_confirmed());
    let sent = duo.world.tap().iter().filter(|tapped| tapped.by_opener == (side == Side::Opener));
    // The preamble is the opener's frame 0.
    sent.map(|tapped| tapped.bytes.len()).nth(frame - usize::from(side == Side::Answerer)).expect("sent")
}

/// One run with one bit flipped. Both sides confirm by themselves: nothing but the protocol stands in the way.
fn refused(side: Side, frame: u32, bit: usize) {
    let mut duo = Duo::quiet(1, Wire::Sim);
    duo.world.rule(flip(side, frame, bit));
    duo.start(Confirm::Automatic);
    duo.world.run_for(Duration::from_secs(3));
    assert_eq!(duo.world.fired(), 1);
    let paired = |event: &Event| matches!(event, Event::Paired { .. } | Event::PairConfirmed { .. } | Event::Device { .. });
    for dev in [duo.i, duo.j] {
        assert!(!duo.world.saw(dev, paired), "bit {bit} of frame {frame}: {:#?}", duo.world.events());
        assert!(duo.world.devices(dev).iter().all(|view| !view.confirmed), "bit {bit} of frame {frame}");
    }
    assert!(duo.world.store(duo.i).is_empty(), "bit {bit} of frame {frame}");
}

fn every_bit(side: Side, frame: u32) {
    in_parallel(length(side, frame as usize) * 8, |bit| refused(side, frame, bit));
}

#[test]
fn every_bit_of_the_request() {
    every_bit(Side::Opener, 1);
}

#[test]
fn every_bit_of_the_challenge() {
    every_bit(Side::Answerer, 1);
}

#[test]
fn every_bit_of_the_response() {
    every_bit(Side::Opener, 2);
}

/// PAIR-35, PAIR-47: Complete, header and Ack, reply: a changed bit is a loss of the stream, and the next contact repairs it.
#[test]
fn every_bit_of_what_follows_is_repaired() {
    for (side, frame) in [(Side::Answerer, 2), (Side::Opener, 3), (Side::Answerer, 3)] {
        let bytes = length(side, frame as usize);
        in_parallel(bytes * 8 / 3, |third| {
            let mut duo = Duo::quiet(third as u64, if third % 2 == 0 { Wire::Sim } else { Wire::Tcp });
            duo.world.rule(flip(side, frame, third * 3));
            duo.start(Confirm::Ask);
            duo.world.run_for(3 * MINUTE);
            assert_eq!(duo.world.fired(), 1);
            duo.check_agreement(true);
            assert!(duo.both_confirmed(), "bit {} of frame {frame}", third * 3);
        });
    }
}
