use super::*;
use crate::choice::Tape;
use crate::link::Wire;
use crate::run::run_kept;
use crate::script::{Script, Setting, Timed};
use crate::world::Pieces;
use protocol_core::effects::{Direction, Event};

fn play(wire: Wire, moves: &[(u64, Step)]) -> World {
    let setting =
        Setting { chance: 1, wires: vec![wire, wire], pieces: Pieces::Any, latency: (5_000, 1_000), aes: 0, patient: false, lookups: 0 };
    let steps = moves.iter().map(|(at, step)| Timed { at: *at, step: step.clone() }).collect();
    let kept = run_kept(&Script { setting, steps });
    assert_eq!(kept.outcome.violation, None);
    kept.world
}

/// Lies mean something only if all else is as an honest device does it.
#[test]
fn a_liar_that_tells_no_lie_is_a_device_like_others() {
    let join = Move::Join { to: 0, lie: Lie::None, count: 1, together: false };
    let deal = Move::Deal { to: 0, tree: 2, trick: Trick::None, count: 1 };
    let share = Move::Share { dev: 0, tree: 1, trick: Trick::None };
    for wire in [Wire::Sim, Wire::Tcp] {
        let world = play(
            wire,
            &[
                (0, Step::Invite { dev: 0, ask: false }),
                (0, Step::Enemy(join.clone())),
                (2_000, Step::Enemy(deal.clone())),
                (10_000, Step::Enemy(share.clone())),
                (20_000, Step::Enemy(Move::Meet { dev: 0, lie: Lie::None })),
                (25_000, Step::Enemy(deal.clone())),
                (32_000, Step::Enemy(share.clone())),
            ],
        );
        let done = |direction: Direction| {
            let liar = Dev(2);
            let of = |event: &&Event| matches!(event, Event::Done { transfer, .. } if transfer.direction == direction && transfer.device == world.id(liar));
            world.events_of(Dev(0)).filter(of).count()
        };
        assert_eq!((done(Direction::Incoming), done(Direction::Outgoing)), (2, 2), "{wire:?}: {}", world.story());
    }
}

/// A joiner that is led to a false initiator pairs with it if that does what an initiator does: it has the words.
#[test]
fn a_false_initiator_is_an_initiator() {
    let show = |lie| Step::Enemy(Move::Show { dev: 1, lie, liar: 0 });
    let join = Step::Join { dev: 1, of: 0, words: crate::script::Words::Right, ask: false, lost: 0 };
    for (lie, pairs) in [(Lie::None, true), (Lie::Forged, false), (Lie::Refuse, false)] {
        let world = play(Wire::Sim, &[(0, show(lie)), (0, Step::Invite { dev: 0, ask: false }), (100, join.clone())]);
        let with_liar = |event: &Event| matches!(event, Event::Paired { peer, .. } if peer.device == world.id(Dev(2)));
        assert_eq!(world.saw(Dev(1), with_liar), pairs, "{lie:?}");
    }
}

#[test]
fn every_move_has_a_text() {
    let mut tape = Tape::of_seed(3);
    for _ in 0..1_000 {
        let step = Move::draw(&mut tape, 0, 1);
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Move>(&text).unwrap(), step, "{text}");
    }
    assert_eq!(Move::draw(&mut Tape::of_bytes(&[]), 0, 1), Move::Garbage { to: 0, name: Name::Pair, len: 0 });
}
