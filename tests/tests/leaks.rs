//! A transport that has ended leaves no task and no descriptor behind. Alone in its process, whose descriptors it counts.

use kin_tests::conformance::nothing_is_left;
use kin_tests::conformance::stacks::{Bare, Noise, Quic};

/// HOST-20. Pairs that come and go; KIN_CYCLES asks for more of them.
const CYCLES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transports_that_have_ended_leave_nothing_behind() {
    let cycles = std::env::var("KIN_CYCLES").map_or(CYCLES, |cycles| cycles.parse().unwrap());
    nothing_is_left::<Bare>(cycles).await;
    nothing_is_left::<Quic>(cycles).await;
    nothing_is_left::<Noise>(cycles).await;
}
