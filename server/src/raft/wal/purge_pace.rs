//! How fast purged entries leave the log.
//!
//! sled gives back the segments at its file's end one by one, as soon as they are free, each with a
//! `ftruncate` and an fsync in a thread of its own; and it waits for them when it needs a new
//! segment. Freed all at once, the hundreds of MiB that a checkpoint lets go kept every append
//! waiting for a tenth of a second. So slices keep a distance, unless the log grows faster.

use std::time::{Duration, Instant};

/// From one slice to the next: a segment of 8 MiB takes four or more slices, and its truncation a
/// few milliseconds.
const DISTANCE: Duration = Duration::from_millis(10);
/// Bytes appended after which the next slice is due in any case. A slice frees up to 2 MiB, so the
/// log shrinks however fast it is written.
const APPENDED_BYTES: u64 = 1 << 20;

/// When the last slice was, and what came since.
pub(super) struct PurgePace {
    last: Instant,
    appended_bytes: u64,
}

impl PurgePace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            appended_bytes: 0,
        }
    }

    /// A slice has been purged.
    pub(super) fn purged(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    pub(super) fn appended(&mut self, bytes: u64) {
        self.appended_bytes += bytes;
    }

    /// How long until the next slice; zero if it is due.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        if self.appended_bytes >= APPENDED_BYTES {
            return Duration::ZERO;
        }
        DISTANCE.saturating_sub(now - self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_keep_a_distance_unless_the_log_grows_fast() {
        let began = Instant::now();
        let mut pace = PurgePace::new(began);
        assert_eq!(pace.pause(began), DISTANCE);
        pace.appended(APPENDED_BYTES - 1);
        assert_eq!(pace.pause(began), DISTANCE);
        pace.appended(1);
        assert_eq!(pace.pause(began), Duration::ZERO);
        pace.purged(began);
        assert_eq!(pace.pause(began), DISTANCE);
        assert_eq!(pace.pause(began + DISTANCE), Duration::ZERO);
    }
}
