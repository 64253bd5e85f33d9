//! Transfers in virtual time, between two Nodes with the real data plane (PROTOCOL.md, sections 9.4 and 9.5).

use std::time::Duration;

use adapter_sim::{Answer, At, Damage, Dev, Item, OnConflict, Rule, Side, Tree, Wire, World};
use kin_tests::story::{Duo, sample_tree};
use protocol_core::effects::{DeviceState, Event, Summary, TransferKey};
use protocol_core::faults::{CancelReason, DeclineReason, TransferFailure};
use protocol_core::node::ShareError;
use protocol_core::transfer::receipt::Outcome;
use protocol_core::wire::deframer::StreamName;

const WIRES: [Wire; 2] = [Wire::Sim, Wire::Tcp];
const MINUTE: Duration = Duration::from_secs(60);
const CHUNK: u32 = 65_536;

/// How a transfer ended on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Done(Summary),
    Failed(TransferFailure),
}

/// Every end of a transfer that a device was told of.
fn ends(world: &World, dev: Dev, key: TransferKey) -> Vec<End> {
    let ends = world.events_of(dev).filter_map(|event| match event {
        Event::Done { transfer, summary } if transfer.id == key.id => Some(End::Done(*summary)),
        Event::Failed { transfer, reason } if transfer.id == key.id => Some(End::Failed(*reason)),
        _ => None,
    });
    ends.collect()
}

/// What must hold of a transfer that had its time: each side was told of one end, nothing temporary is left, and what stands
/// under a final name has the right bytes.
fn check(duo: &Duo, from: Dev, to: Dev, key: TransferKey, tree: &Tree) {
    let shown = |event: &&Event| matches!(event, Event::Offered { transfer, .. } if transfer.id == key.id);
    let offered = duo.world.events_of(to).filter(shown).count();
    assert_eq!(ends(&duo.world, from, key).len(), 1, "sender\n{}", duo.story());
    // What ended here for the sender's fault, as it seemed, an honest sender offers again.
    let told = ends(&duo.world, to, key).len();
    assert_eq!(told, offered, "receiver was told {told} ends of {offered} offers\n{}", duo.story());
    assert_eq!(duo.world.disk(to).temporaries(), 0, "{}", duo.story());
    for (path, item) in &duo.world.disk(to).files {
        assert_eq!(tree.get(path), Some(item), "wrong bytes under a final name\n{}", duo.story());
    }
    if let [End::Done(_)] = &ends(&duo.world, from, key)[..] {
        assert!(matches!(&ends(&duo.world, to, key)[..], [.., End::Done(_)]), "the sender has a receipt\n{}", duo.story());
    }
}

/// Progress never goes back and ends at what was agreed (XFER-15).
fn check_progress(world: &World, dev: Dev, key: TransferKey) {
    let mut last = 0;
    for event in world.events_of(dev) {
        if let Event::Progress { transfer, durable, total, .. } = event
            && transfer.id == key.id
        {
            assert!(*durable >= last && *durable <= *total);
            last = *durable;
        }
    }
}

/// XFER-1, XFER-13, XFER-22, XFER-23, HOST-16: a tree arrives identical, whoever dialled and whoever sends; both sides say
/// done, with the same sums.
#[test]
fn a_tree_arrives_identical_in_both_directions() {
    for wire in WIRES {
        for seed in 0..6 {
            let mut duo = Duo::paired(seed, wire);
            if seed % 3 == 0 {
                // DATA-20: with AES where both have it.
                duo.world.set_aes(true);
                duo.world.crash(duo.i);
                duo.world.restart(duo.i);
                if seed == 0 {
                    duo.world.crash(duo.j);
                    duo.world.restart(duo.j);
                }
                duo.world.run_for(MINUTE);
                duo.world.clear_events();
                assert!(duo.reconnect(duo.j));
            }
            let tree = sample_tree();
            for (from, to) in [(duo.i, duo.j), (duo.j, duo.i)] {
                let connections = duo.world.connections();
                let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
                duo.world.run_for(MINUTE);
                assert_eq!(duo.world.disk(to).files, tree, "{}", duo.story());
                check(&duo, from, to, key, &tree);
                check_progress(&duo.world, from, key);
                check_progress(&duo.world, to, key);
                let summary = Summary { files: 6, bytes: 566_609, ..Summary::default() };
                assert_eq!(ends(&duo.world, from, key), [End::Done(summary)]);
                assert_eq!(ends(&duo.world, to, key), [End::Done(summary)]);
                if wire == Wire::Sim {
                    assert_eq!(duo.world.connections(), connections, "streams of the session's connection suffice");
                }
                for (number, (path, item)) in (0..).zip(&tree) {
                    let Item::File(content) = item else { continue };
                    let right = |event: &Event| match event {
                        Event::Entry { transfer, entry, outcome: Outcome::Stored, digest: Some(digest), .. } => {
                            transfer.id == key.id && *entry == number && *digest == *blake3::hash(content).as_bytes()
                        }
                        _ => false,
                    };
                    assert!(duo.world.saw(to, right), "{path:?}\n{}", duo.story());
                }
            }
        }
    }
}

/// A transfer to a device that is not connected connects by itself; one that nobody answers ends.
#[test]
fn a_transfer_connects_by_itself() {
    for wire in WIRES {
        for from_i in [true, false] {
            let mut duo = Duo::paired(7, wire);
            duo.disconnect();
            duo.world.clear_events();
            let (from, to) = if from_i { (duo.i, duo.j) } else { (duo.j, duo.i) };
            let key = duo.world.share(from, to, &sample_tree(), CHUNK).expect("paired");
            duo.world.run_for(MINUTE);
            assert_eq!(duo.world.disk(to).files, sample_tree(), "{}", duo.story());
            check(&duo, from, to, key, &sample_tree());
            duo.disconnect();
            duo.world.crash(to);
            duo.world.run_for(Duration::from_secs(1));
            let key = duo.world.share(from, to, &sample_tree(), CHUNK).expect("paired");
            duo.world.run_for(2 * MINUTE);
            assert_eq!(ends(&duo.world, from, key), [End::Failed(TransferFailure::Lost)], "{}", duo.story());
        }
    }
}

/// XFER-21, XFER-11, XFER-20: the stream of chunks, of pages or of messages is cut, or falls silent, at every few frames and
/// anywhere between: each side is told of one end, and nothing wrong has a name.
#[test]
fn a_transfer_is_cut_everywhere() {
    let tree = sample_tree();
    let places: Vec<At> = (0..12).map(At::Frame).chain((0..14).map(|step| At::Byte(1 + step * 46_000))).collect();
    for wire in WIRES {
        for name in [World::BULK, World::MANIFEST, StreamName::Pair] {
            for side in [Side::Opener, Side::Answerer] {
                for (number, &at) in (0..).zip(&places) {
                    // A stream of pages or messages is short.
                    if name != World::BULK && matches!(at, At::Byte(46_002..)) {
                        continue;
                    }
                    for damage in [Damage::Cut, Damage::Vanish] {
                        let mut duo = Duo::paired(number, wire);
                        let (from, to) = if number % 2 == 0 { (duo.i, duo.j) } else { (duo.j, duo.i) };
                        // The control stream has had three frames already.
                        let at = match (name, at) {
                            (StreamName::Pair, At::Frame(frame)) => At::Frame(frame + 3),
                            (_, at) => at,
                        };
                        duo.world.rule(Rule { name, side, at, damage });
                        let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
                        duo.world.run_for(4 * MINUTE);
                        check(&duo, from, to, key, &tree);
                        check_progress(&duo.world, to, key);
                        if duo.world.fired() == 0 {
                            assert_eq!(duo.world.disk(to).files, tree);
                        }
                    }
                }
            }
        }
    }
}

/// XFER-21, HOST-8: one side dies at any moment of a transfer; the other is told, and a new transfer works.
#[test]
fn a_side_dies_during_a_transfer() {
    let tree = sample_tree();
    for wire in WIRES {
        for step in 0..50 {
            let mut duo = Duo::paired(step, wire);
            let (from, to) = if step % 2 == 0 { (duo.i, duo.j) } else { (duo.j, duo.i) };
            let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
            duo.world.run_for(Duration::from_millis(step * 50));
            let (dies, stays) = if step % 4 < 2 { (from, to) } else { (to, from) };
            duo.world.crash(dies);
            duo.world.run_for(3 * MINUTE);
            let offered = duo.world.saw(stays, |event| matches!(event, Event::Offered { .. }));
            let told = ends(&duo.world, stays, key).len();
            assert!(told == 1 || (stays == to && !offered && told == 0), "{}", duo.story());
            assert_eq!(duo.world.disk(stays).temporaries(), 0);
            duo.world.restart(dies);
            for (path, item) in &duo.world.disk(to).files {
                assert_eq!(tree.get(path), Some(item));
            }
            let goes_on = dies == from && ends(&duo.world, from, key).is_empty();
            let key = if goes_on {
                // By itself, with the next session.
                assert!(duo.reconnect(from), "{}", duo.story());
                key
            } else {
                duo.world.disk_mut(to).files.clear();
                duo.world.share(from, to, &tree, CHUNK).expect("paired")
            };
            duo.world.run_for(MINUTE);
            assert!(matches!(&ends(&duo.world, from, key)[..], [End::Done(_)]), "{step}\n{}", duo.story());
            assert_eq!(duo.world.disk(to).files, tree);
        }
    }
}

/// XFER-17: the receiver declines, nobody answers, there is no place for files.
#[test]
fn an_offer_that_is_not_taken_ends() {
    for wire in WIRES {
        let mut duo = Duo::paired(8, wire);
        let (i, j) = (duo.i, duo.j);
        duo.world.set_offers(j, Answer::No);
        let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
        duo.world.run_for(MINUTE);
        let declined = End::Failed(TransferFailure::Declined(DeclineReason::User));
        assert_eq!(ends(&duo.world, i, key), std::slice::from_ref(&declined), "{}", duo.story());
        assert_eq!(ends(&duo.world, j, key), [declined]);
        duo.world.disk_mut(j).no_inbox = true;
        let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
        duo.world.run_for(MINUTE);
        assert_eq!(ends(&duo.world, i, key), [End::Failed(TransferFailure::Declined(DeclineReason::Busy))], "{}", duo.story());
        assert!(duo.world.disk(j).files.is_empty());
        duo.world.disk_mut(j).no_inbox = false;
        // Cancelled while the question is open: it is withdrawn.
        duo.world.set_offers(j, Answer::Silent);
        let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
        duo.world.run_for(MINUTE);
        assert!(duo.both_connected());
        duo.world.call(i, |node, env| node.cancel(env, key, CancelReason::User)).expect("it waits");
        duo.world.run_for(MINUTE);
        assert_eq!(ends(&duo.world, i, key), [End::Failed(TransferFailure::CancelledHere(CancelReason::User))]);
        assert_eq!(ends(&duo.world, j, key), [End::Failed(TransferFailure::CancelledThere(CancelReason::User))], "{}", duo.story());
    }
}

/// XFER-17, L5: either side cancels, at any moment: one end on each side, nothing temporary left, and the next transfer works.
#[test]
fn either_side_cancels_at_any_moment() {
    let tree = sample_tree();
    for wire in WIRES {
        for step in 0..48 {
            let mut duo = Duo::paired(step, wire);
            let (from, to) = if step % 2 == 0 { (duo.i, duo.j) } else { (duo.j, duo.i) };
            let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
            duo.world.run_for(Duration::from_millis(700 + step * 25));
            let by_sender = step % 3 == 0;
            let canceller = if by_sender { from } else { to };
            let own = duo.world.events_of(canceller).find_map(|event| match event {
                Event::Offered { transfer, .. } if transfer.id == key.id => Some(*transfer),
                _ => None,
            });
            let own = if by_sender { Some(key) } else { own };
            let cancelled = own.map(|own| duo.world.call(canceller, |node, env| node.cancel(env, own, CancelReason::User)).is_ok());
            // L5: the owner hears of it at once, whatever the other side does.
            let heard = |world: &World| !ends(world, canceller, key).is_empty();
            assert!(cancelled != Some(true) || duo.world.run_until(Duration::from_secs(1), heard), "{step}\n{}", duo.story());
            // What was cancelled cannot be cancelled again once it is over.
            duo.world.run_for(MINUTE);
            if let Some(own) = own {
                assert!(duo.world.call(canceller, |node, env| node.cancel(env, own, CancelReason::User)).is_err());
            }
            check(&duo, from, to, key, &tree);
            if cancelled == Some(true) {
                assert!(matches!(&ends(&duo.world, canceller, key)[..], [End::Failed(_) | End::Done(_)]));
            }
            assert!(duo.both_connected());
            duo.world.disk_mut(to).files.clear();
            duo.world.share(from, to, &tree, CHUNK).expect("paired");
            duo.world.run_for(MINUTE);
            assert_eq!(duo.world.disk(to).files, tree, "{step}\n{}", duo.story());
        }
    }
}

/// PATH-9, XFER-14: what stands in the way is kept, and the outcome of each entry follows the owner's policy.
#[test]
fn conflicts_follow_the_owners_policy() {
    for wire in WIRES {
        for policy in [OnConflict::Fail, OnConflict::Skip, OnConflict::Rename] {
            let mut duo = Duo::paired(9, wire);
            let (i, j) = (duo.i, duo.j);
            let theirs = (vec![b"b".to_vec()], Item::File(b"theirs".to_vec()));
            duo.world.disk_mut(j).files.insert(theirs.0.clone(), theirs.1.clone());
            duo.world.disk_mut(j).on_conflict = policy;
            let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
            duo.world.run_for(MINUTE);
            assert_eq!(duo.world.disk(j).files.get(&theirs.0), Some(&theirs.1));
            let [End::Done(summary)] = ends(&duo.world, i, key)[..] else { panic!("{}", duo.story()) };
            let (skipped, renamed, failed) = match policy {
                OnConflict::Fail => (0, 0, 1),
                OnConflict::Skip => (1, 0, 0),
                OnConflict::Rename => (0, 1, 0),
            };
            assert_eq!((summary.skipped, summary.renamed, summary.failed), (skipped, renamed, failed), "{}", duo.story());
            assert_eq!(ends(&duo.world, j, key), [End::Done(summary)]);
            let mut expected = sample_tree();
            let ours = expected.insert(theirs.0, theirs.1).expect("in the sample");
            if policy == OnConflict::Rename {
                expected.insert(vec![b"b (2)".to_vec()], ours);
            }
            assert_eq!(duo.world.disk(j).files, expected);
        }
    }
}

/// XFER-16, HOST-9: a source that cannot be read fails alone.
#[test]
fn an_unreadable_source_fails_alone() {
    for wire in WIRES {
        let mut duo = Duo::paired(10, wire);
        let (i, j) = (duo.i, duo.j);
        for path in [vec![b"b".to_vec()], vec![b"Ordner".to_vec(), b"klein".to_vec()]] {
            duo.world.disk_mut(i).unreadable.insert(path);
        }
        let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
        duo.world.run_for(MINUTE);
        let mut expected = sample_tree();
        for path in duo.world.disk(i).unreadable.clone() {
            expected.remove(&path);
        }
        assert_eq!(duo.world.disk(j).files, expected, "{}", duo.story());
        let [End::Done(summary)] = ends(&duo.world, i, key)[..] else { panic!("{}", duo.story()) };
        assert_eq!((summary.files, summary.failed), (4, 2));
        assert_eq!(ends(&duo.world, j, key), [End::Done(summary)]);
    }
}

/// DATA-11, XFER-11: any bit of chunks, pages and messages is flipped: no wrong byte gets a name.
#[test]
fn a_flipped_bit_never_reaches_a_file() {
    let tree = sample_tree();
    for (number, name) in (0..90).zip([World::BULK, World::MANIFEST, StreamName::Pair].into_iter().cycle()) {
        let wire = WIRES[number as usize / 3 % 2];
        let side = if number % 4 < 3 { Side::Opener } else { Side::Answerer };
        let mut duo = Duo::paired(number, wire);
        let frame = if name == StreamName::Pair { 4 + number as u32 % 5 } else { 1 + number as u32 % 4 };
        duo.world.rule(Rule { name, side, at: At::Frame(frame), damage: Damage::Flip(number as usize * 2 + 3) });
        let (from, to) = if number % 2 == 0 { (duo.i, duo.j) } else { (duo.j, duo.i) };
        let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
        duo.world.run_for(3 * MINUTE);
        check(&duo, from, to, key, &tree);
        duo.world.clear_rules();
        duo.world.disk_mut(to).files.clear();
        let key = duo.world.share(from, to, &tree, CHUNK).expect("paired");
        duo.world.run_for(2 * MINUTE);
        assert_eq!(duo.world.disk(to).files, tree, "{number} {name:?} {key:?}\n{}", duo.story());
    }
}

/// XFER-18, and calls in the wrong state: they change nothing.
#[test]
fn transfer_calls_in_the_wrong_state_change_nothing() {
    let mut duo = Duo::paired(11, Wire::Sim);
    let (i, j) = (duo.i, duo.j);
    duo.world.set_offers(j, Answer::Silent);
    let key = duo.world.share(i, j, &sample_tree(), CHUNK).expect("paired");
    for dev in [i, j] {
        let unknown = TransferKey { id: protocol_core::ids::TransferId([9; 16]), ..key };
        for key in [key, unknown] {
            assert!(duo.world.call(dev, |node, env| node.accept(env, key)).is_err());
            assert!(duo.world.call(dev, |node, env| node.decline(env, key, DeclineReason::User)).is_err());
        }
        assert!(duo.world.call(dev, |node, env| node.cancel(env, unknown, CancelReason::User)).is_err());
    }
    let nobody = duo.world.add_device("nobody");
    assert_eq!(duo.world.share(i, nobody, &sample_tree(), CHUNK).err(), Some(ShareError::UnknownDevice));
    for _ in 1..16 {
        duo.world.share(i, j, &sample_tree(), CHUNK).expect("below the bound");
    }
    assert_eq!(duo.world.share(i, j, &sample_tree(), CHUNK).err(), Some(ShareError::TooMany));
    duo.world.run_for(MINUTE);
    assert!(duo.both_connected());
    let offered: Vec<TransferKey> = duo
        .world
        .events_of(j)
        .filter_map(|event| match event {
            Event::Offered { transfer, .. } => Some(*transfer),
            _ => None,
        })
        .collect();
    assert_eq!(offered.len(), 16, "{}", duo.story());
    duo.world.call(j, |node, env| node.accept(env, offered[0])).expect("open");
    assert!(duo.world.call(j, |node, env| node.accept(env, offered[0])).is_err(), "accepted already");
    assert!(duo.world.call(j, |node, env| node.decline(env, offered[0], DeclineReason::User)).is_err());
    duo.world.run_for(MINUTE);
    assert_eq!(duo.world.disk(j).files, sample_tree(), "{}", duo.story());
}

/// Several transfers at once, both ways, over the same session.
#[test]
fn transfers_run_side_by_side() {
    for wire in WIRES {
        let mut duo = Duo::paired(12, wire);
        let (i, j) = (duo.i, duo.j);
        let tree = |number: u8| {
            let mut tree = Tree::new();
            tree.insert(vec![vec![b'd', b'0' + number]], Item::Directory);
            for (path, item) in sample_tree() {
                tree.insert([vec![vec![b'd', b'0' + number]], path].concat(), item);
            }
            tree
        };
        let mut keys = Vec::new();
        for number in 0..4 {
            keys.push((i, duo.world.share(i, j, &tree(number), CHUNK).expect("paired")));
            keys.push((j, duo.world.share(j, i, &tree(number), CHUNK).expect("paired")));
        }
        duo.world.run_for(2 * MINUTE);
        let whole: Tree = (0..4).flat_map(tree).collect();
        assert_eq!(duo.world.disk(i).files, whole, "{}", duo.story());
        assert_eq!(duo.world.disk(j).files, whole);
        for (dev, key) in keys {
            assert!(matches!(&ends(&duo.world, dev, key)[..], [End::Done(_)]), "{}", duo.story());
        }
    }
}

/// LINK-16, LINK-15: a session is renewed in the middle of a transfer, which goes on.
#[test]
fn a_transfer_outlives_the_renewal_of_its_session() {
    for wire in WIRES {
        let mut within = 0;
        for step in 0..24 {
            let mut duo = Duo::paired(13, wire);
            let (from, to) = if step % 2 == 0 { (duo.i, duo.j) } else { (duo.j, duo.i) };
            // The renewal falls into the transfer: its moment is that of the session's birth and fifty minutes, and the line is slow.
            duo.world.set_uplink(from, 200_000);
            duo.world.run_for(Duration::from_millis(50 * 60 * 1000 - 3_500 + step * 100));
            let key = duo.world.share(from, to, &sample_tree(), CHUNK).expect("paired");
            duo.world.run_for(MINUTE);
            let down = |event: &Event| matches!(event, Event::Device { state: DeviceState::Disconnected, .. });
            assert!(!duo.world.saw(from, down) && !duo.world.saw(to, down), "{step}\n{}", duo.story());
            let [End::Done(summary)] = ends(&duo.world, from, key)[..] else { panic!("{step}\n{}", duo.story()) };
            assert_eq!(summary.resumed, 0, "nothing was interrupted");
            check(&duo, from, to, key, &sample_tree());
            let told: Vec<&Event> = duo.world.events_of(from).collect();
            let place = |what: fn(&Event) -> bool| told.iter().rposition(|event| what(event));
            let accepted = place(|event| matches!(event, Event::Accepted { .. }));
            let renewed = place(|event| matches!(event, Event::Device { state: DeviceState::Connected, .. }));
            let done = place(|event| matches!(event, Event::Done { .. }));
            within += u32::from(accepted < renewed && renewed < done);
        }
        assert!(within > 0, "no renewal fell into a transfer over {wire:?}");
    }
}

/// XFER-21, KEEP-1: an owner who does not want to stay connected any more has not given up what waits for a session.
#[test]
fn a_transfer_that_lost_its_session_is_dialled_for_though_nobody_stays_connected() {
    for off in [false, true] {
        let mut duo = Duo::paired(13, WIRES[0]);
        let (from, to) = (duo.i, duo.j);
        let key = duo.world.share(from, to, &sample_tree(), CHUNK).expect("paired");
        let suspended = |event: &Event| matches!(event, Event::Suspended { .. });
        let accepted = |event: &Event| matches!(event, Event::Accepted { .. });
        assert!(duo.world.run_until(MINUTE, |world| world.saw(from, accepted)), "{}", duo.story());
        for _ in 0..8 {
            duo.world.cut_connection(from, to);
            duo.world.run_for(Duration::from_millis(1));
        }
        assert!(duo.world.saw(from, suspended), "{}", duo.story());
        for dev in [from, to] {
            if off {
                duo.world.call(dev, |node, env| node.keep_connected(env, false));
            }
        }
        duo.world.run_for(MINUTE);
        assert!(matches!(&ends(&duo.world, from, key)[..], [End::Done(_)]), "{off}\n{}", duo.story());
    }
}
