use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::vec;

const CHUNK: u32 = 64 << 10;

/// Chunks of one file with `count` chunks, the last one a byte short.
fn chunks(count: u64) -> Arc<Chunks> {
    let layout = Layout::new([count * u64::from(CHUNK) - 1], CHUNK).unwrap();
    Chunks::new(TransferId([1; 16]), Arc::new(layout)).unwrap()
}

fn indices(run: Option<Run>) -> Vec<u64> {
    run.map(|run| {
        run.map(|claim| {
            let index = claim.index();
            claim.finish();
            index
        })
        .collect()
    })
    .unwrap_or_default()
}

#[test]
fn nothing_is_claimed_before_it_is_allowed() {
    let chunks = chunks(100);
    let lane = chunks.lane();
    assert!(lane.next(8).is_none() && chunks.take(3, CHUNK).is_none() && chunks.exhausted());
    chunks.allow(&[3..5, 40..41, 99..200].into_iter().collect());
    assert_eq!(chunks.open(), 4, "numbers beyond the layout are passed over");
    assert_eq!(indices(lane.next(8)), [3, 4]);
    assert_eq!(indices(lane.next(8)), [40]);
    assert!(!chunks.exhausted());
    assert_eq!(indices(lane.next(8)), [99]);
    assert!(lane.next(8).is_none() && chunks.exhausted());
    assert_eq!((chunks.finished(), chunks.finished_bytes()), (4, 4 * u64::from(CHUNK) - 1));
}

#[test]
fn a_run_is_no_longer_than_asked_and_gives_its_rest_back() {
    let chunks = chunks(10);
    chunks.allow(&(0..10).into());
    let lane = chunks.lane();
    let mut run = lane.next(4).unwrap();
    assert_eq!(run.indices(), 0..4);
    run.next().unwrap().finish();
    drop(run);
    assert_eq!((chunks.open(), chunks.held(), chunks.finished()), (9, 0, 1));
    assert_eq!(indices(lane.next(100)), (1..10).collect::<Vec<_>>());
    assert!(lane.next(0).is_none());
}

#[test]
fn what_was_sent_goes_again_only_in_a_newer_stream() {
    let chunks = chunks(100);
    chunks.allow(&(0..40).into());
    let old = chunks.lane();
    assert_eq!(indices(old.next(3)), [0, 1, 2]);
    chunks.allow(&[1..2, 70..71].into_iter().collect());
    let new = chunks.lane();
    assert_eq!(indices(old.next(100)), (32..40).collect::<Vec<_>>(), "nothing more from the word of the chunk that was named again");
    assert_eq!(indices(old.next(100)), [70], "never sent before");
    assert!(old.next(100).is_none());
    assert_eq!(indices(new.next(1)), [1]);
    assert_eq!(indices(new.next(100)), (3..32).collect::<Vec<_>>());
    chunks.allow(&(1..2).into());
    assert!(new.next(100).is_none(), "each naming permits one sending");
    assert_eq!(indices(chunks.lane().next(100)), [1]);
}

#[test]
fn a_receiver_takes_what_is_wanted_once_and_at_its_length() {
    let chunks = chunks(10);
    chunks.allow(&(2..10).into());
    for (index, len) in [(0, CHUNK), (10, CHUNK), (u64::MAX, CHUNK), (2, CHUNK - 1), (2, 0), (9, CHUNK)] {
        assert!(chunks.take(index, len).is_none(), "{index} {len}");
    }
    assert_eq!(chunks.refused(), 6);
    let claim = chunks.take(9, CHUNK - 1).unwrap();
    assert!(chunks.take(9, CHUNK - 1).is_none(), "claimed");
    assert_eq!(claim.pieces().map(|piece| piece.len).collect::<Vec<_>>(), [CHUNK - 1]);
    drop(claim);
    let claim = chunks.take(9, CHUNK - 1).expect("a failed open or write gives the claim back");
    claim.finish();
    assert!(chunks.take(9, CHUNK - 1).is_none(), "finished");
    chunks.withdraw(&(2..4).into());
    assert!(chunks.take(2, CHUNK).is_none() && chunks.take(4, CHUNK).is_some());
}

#[test]
fn pause_holds_and_stop_ends() {
    let chunks = chunks(10);
    chunks.allow(&(0..10).into());
    let lane = chunks.lane();
    chunks.pause(true);
    assert!(lane.next(1).is_none() && chunks.take(0, CHUNK).is_none());
    assert_eq!(chunks.refused(), 0, "it is not the peer's fault");
    chunks.pause(false);
    assert_eq!(indices(lane.next(1)), [0]);
    chunks.stop();
    assert!(lane.next(1).is_none() && chunks.stopped());
}

/// Threads on lanes of different ages claim, drop and finish, while chunks are allowed again and again: no lane finishes a chunk
/// twice, and in the end everything that was allowed was sent.
#[test]
// DATA-19.
fn no_lane_ever_sends_a_chunk_twice() {
    const COUNT: u64 = 3000;
    let chunks = chunks(COUNT);
    let sent: Mutex<BTreeMap<(u32, u64), u32>> = Mutex::default();
    let work = |lane: &Lane, sloppy: bool| {
        let mut mine = vec![];
        let mut step = 0_u32;
        while let Some(run) = lane.next(1 + step % 9) {
            for claim in run {
                step += 1;
                if sloppy && step.is_multiple_of(5) {
                    drop(claim);
                } else {
                    mine.push(claim.index());
                    claim.finish();
                }
            }
        }
        let mut sent = sent.lock().unwrap();
        for index in mine {
            *sent.entry((lane.epoch, index)).or_default() += 1;
        }
    };
    chunks.allow(&(0..COUNT).into());
    for round in 0..6 {
        let lane = chunks.lane();
        thread::scope(|scope| {
            scope.spawn(|| work(&lane, true));
            scope.spawn(|| work(&lane, false));
            scope.spawn(|| work(&lane, true));
            chunks.allow(&(round * 100..round * 400 + 500).into());
        });
    }
    work(&chunks.lane(), false);
    assert!(chunks.exhausted());
    let sent = sent.into_inner().unwrap();
    assert!(sent.values().all(|&times| times == 1), "a lane sent a chunk twice");
    assert_eq!(sent.keys().map(|&(_, index)| index).collect::<BTreeSet<_>>().len() as u64, COUNT);
}

/// Threads that all want every chunk: each is claimed by one of them.
#[test]
// DATA-22.
fn each_chunk_is_received_once() {
    const COUNT: u64 = 2000;
    let chunks = chunks(COUNT);
    chunks.allow(&(0..COUNT - 1).into());
    let taken = thread::scope(|scope| {
        let threads = [1_u64, 7, 1999].map(|stride| {
            let chunks = &chunks;
            scope.spawn(move || {
                let mine = (0..COUNT).map(|at| at * stride % COUNT).filter_map(|index| chunks.take(index, CHUNK));
                mine.map(|claim| {
                    let index = claim.index();
                    claim.finish();
                    index
                })
                .collect::<Vec<_>>()
            })
        });
        threads.map(|thread| thread.join().unwrap()).concat()
    });
    assert_eq!(taken.len() as u64, COUNT - 1);
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>().len() as u64, COUNT - 1);
    assert!(chunks.exhausted());
}

#[derive(Clone, Debug)]
enum Step {
    Allow(u64, u64),
    Withdraw(u64, u64),
    Lane,
    Next { lane: usize, max: u32, finish: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..80, 0_u64..50).prop_map(|(start, count)| Step::Allow(start, start + count)),
        (0_u64..80, 0_u64..20).prop_map(|(start, count)| Step::Withdraw(start, start + count)),
        Just(Step::Lane),
        (0_usize..4, 0_u32..40, 0_u32..40).prop_map(|(lane, max, finish)| Step::Next { lane, max, finish }),
    ]
}

proptest! {
    #[test]
    fn claims_follow_the_model(steps in prop::collection::vec(step(), 1..60)) {
        const COUNT: u64 = 75;
        let chunks = chunks(COUNT);
        let mut lanes = vec![(chunks.lane(), BTreeSet::new())];
        let mut open = BTreeSet::new();
        for step in steps {
            match step {
                Step::Allow(start, end) => {
                    chunks.allow(&(start..end).into());
                    open.extend(start..end.min(COUNT));
                }
                Step::Withdraw(start, end) => {
                    chunks.withdraw(&(start..end).into());
                    open.retain(|index| !(start..end).contains(index));
                }
                Step::Lane => lanes.push((chunks.lane(), BTreeSet::new())),
                Step::Next { lane, max, finish } => {
                    let at = lane % lanes.len();
                    let (lane, sent) = &mut lanes[at];
                    let Some(run) = lane.next(max) else { continue };
                    prop_assert!(run.indices().count() as u64 <= u64::from(max));
                    for claim in run.take(finish as usize) {
                        prop_assert!(open.remove(&claim.index()), "only what is allowed");
                        prop_assert!(sent.insert(claim.index()), "once a lane");
                        claim.finish();
                    }
                }
            }
            prop_assert_eq!(chunks.open(), open.len() as u64);
            prop_assert_eq!(chunks.held(), 0);
        }
        // Whatever is open goes into a stream that is opened now.
        let lane = chunks.lane();
        while let Some(run) = lane.next(32) {
            run.for_each(Claim::finish);
        }
        prop_assert!(chunks.exhausted());
    }
}
