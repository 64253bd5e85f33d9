//! A bound for the speed of a transfer.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol_core::limits::{BULK_STALL, BULK_STREAMS, CHUNK_SIZE_RANGE};

use crate::request::SLOWEST;
use crate::transport::Stop;

/// What was not used of the rate is lost, but for this much of it.
const BURST: Duration = Duration::from_millis(100);
/// How long a worker sleeps at most before it looks whether it is still wanted.
const NAP: Duration = Duration::from_millis(100);

/// Lets so many bytes a second through, whoever brings them.
// HOST-26.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    /// When everything is through that was let in.
    through: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: NonZeroU64) -> Self {
        Self { rate: rate.get().max(SLOWEST), through: Mutex::new(Instant::now()) }
    }

    /// The largest chunk of which one leaves on each stream in a third of the time after which it counts as broken.
    pub(crate) fn chunk_size(&self) -> u32 {
        let (least, most) = CHUNK_SIZE_RANGE;
        let bytes = self.rate.saturating_mul(BULK_STALL.as_secs()) / 3 / BULK_STREAMS as u64;
        let largest = u32::try_from(bytes).unwrap_or(most).clamp(least, most);
        1 << largest.ilog2()
    }

    /// Lets `bytes` in that come at `now`; how long they have to wait.
    fn admit(&self, now: Instant, bytes: u64) -> Duration {
        let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.checked_sub(BURST).map_or(now, |earliest| earliest.max(*through));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        *through = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        from.saturating_duration_since(now)
    }

    /// Blocks until `bytes` may leave, or the stream is to end.
    pub(crate) fn wait(&self, bytes: u64, stop: &Stop) {
        let now = Instant::now();
        let until = now + self.admit(now, bytes);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && stop.code().is_none()
        {
            // A worker's own thread, and what is waited for is time.
            thread::sleep(left.min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64) -> Pace {
        Pace::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn what_comes_together_leaves_one_after_the_other() {
        let pace = pace(1_000_000);
        let start = *pace.through.lock().unwrap();
        let waits: Vec<u128> = (0..4).map(|_| pace.admit(start, 500_000).as_millis()).collect();
        assert_eq!(waits, [0, 500, 1_000, 1_500]);
        // A second later half of what waited is through.
        assert_eq!(pace.admit(start + Duration::from_secs(1), 1).as_millis(), 1_000);
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let pace = pace(1_000_000);
        let later = *pace.through.lock().unwrap() + Duration::from_secs(3600);
        assert_eq!(pace.admit(later, 100_000).as_millis(), 0, "what the burst allows");
        assert_eq!(pace.admit(later, 200_000).as_millis(), 0);
        assert_eq!(pace.admit(later, 1).as_millis(), 200);
    }

    #[test]
    fn chunks_are_as_small_as_a_slow_transfer_needs() {
        assert_eq!(pace(1).chunk_size(), 64 << 10);
        assert_eq!(pace(SLOWEST).chunk_size(), 64 << 10);
        assert_eq!(pace(1_000_000).chunk_size(), 512 << 10);
        assert_eq!(pace(u64::MAX).chunk_size(), 4 << 20);
        let slowest = pace(1);
        assert!(u64::from(slowest.chunk_size()) * BULK_STREAMS as u64 / slowest.rate < BULK_STALL.as_secs() / 2);
    }
}
