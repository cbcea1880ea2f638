//! How fast segments are rewritten (design 4, "Compaction").
//!
//! A rewrite can wait; those who write cannot. At full speed it takes the processor that requests
//! need, and fills the queue of the disk that the log syncs to: appends then waited for up to a
//! tenth of a second. So while changes come in, a rewrite keeps to a pace. An idle store is
//! rewritten as fast as it can be, and so is one whose tail has grown: the next checkpoint waits for
//! the rewrite.

use std::time::{Duration, Instant};

/// Bytes a second: a store of 1 GiB takes seven seconds.
const BYTES_PER_SECOND: u64 = 150 << 20;
/// Bytes in the tails from which on nothing pauses: where a checkpoint is due at the latest
/// (design R3).
const TAIL_BYTES_MAX: usize = 64 << 20;

/// The pace of one rewrite.
pub(super) struct Pace {
    /// When the last pause ended, and what the tails held then.
    resumed: Instant,
    tail_bytes: usize,
}

impl Pace {
    pub(super) fn new(tail_bytes: usize, now: Instant) -> Self {
        Self {
            resumed: now,
            tail_bytes,
        }
    }

    /// How long to pause now that `bytes` have been written since the last pause. What was too slow
    /// is not made up for.
    pub(super) fn wrote(&mut self, bytes: u64, tail_bytes: usize, now: Instant) -> Duration {
        let idle = self.tail_bytes == tail_bytes;
        let pause = if idle || tail_bytes >= TAIL_BYTES_MAX {
            Duration::ZERO
        } else {
            let due = Duration::from_nanos(bytes * 1_000_000_000 / BYTES_PER_SECOND);
            due.saturating_sub(now - self.resumed)
        };
        *self = Self::new(tail_bytes, now + pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrite_beside_changes_keeps_to_its_pace() {
        let second = Duration::from_secs(1);
        let began = Instant::now();
        let mut pace = Pace::new(0, began);
        assert_eq!(pace.wrote(BYTES_PER_SECOND, 1, began), second);
        // It goes on when the pause is over.
        let mut now = began + second;
        assert_eq!(pace.wrote(BYTES_PER_SECOND, 2, now), second);
        // Slow work pauses less, and has no credit later.
        now += second + second / 4;
        assert_eq!(pace.wrote(BYTES_PER_SECOND, 3, now), second * 3 / 4);
        now += 10 * second;
        assert_eq!(pace.wrote(BYTES_PER_SECOND, 4, now), Duration::ZERO);
        assert_eq!(pace.wrote(BYTES_PER_SECOND, 5, now), second);
    }

    #[test]
    fn a_rewrite_hurries_when_nothing_changes_or_much_waits() {
        let began = Instant::now();
        let mut pace = Pace::new(7, began);
        assert_eq!(pace.wrote(1 << 30, 7, began), Duration::ZERO);
        assert_eq!(pace.wrote(1 << 30, TAIL_BYTES_MAX, began), Duration::ZERO);
        assert!(pace.wrote(1 << 30, TAIL_BYTES_MAX - 1, began) > Duration::ZERO);
    }
}
