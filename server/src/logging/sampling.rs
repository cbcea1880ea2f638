//! Sampling of repeated messages (contract 6.5): of one message at one level, the first hundred in
//! a second are logged, then each hundredth.

use std::sync::atomic::{AtomicU64, Ordering};

/// Messages told apart; two that share a slot are counted together.
const SLOTS: usize = 1024;
/// Lines of a message in a second before sampling begins, and one in how many from then on.
const FIRST: u64 = 100;

/// Counts lines by level and message.
pub(super) struct Sampler {
    /// The second since 1970 in the upper half, lines in it in the lower.
    slots: Box<[AtomicU64]>,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether this line is to be written.
    pub(super) fn admits(&self, level: &str, message: &str, now_s: u64) -> bool {
        // FNV-1a: the table is small and the messages are our own.
        let hash = level
            .bytes()
            .chain(message.bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let place = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.slots.get(place) else {
            return true;
        };
        let second = now_s & u64::from(u32::MAX);
        let counted = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            Some(if state >> 32 == second {
                state.saturating_add(1)
            } else {
                second << 32 | 1
            })
        });
        let lines = counted.map_or(0, |state| {
            if state >> 32 == second {
                (state & u64::from(u32::MAX)) + 1
            } else {
                1
            }
        });
        lines <= FIRST || lines % FIRST == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_message_is_sampled() {
        let sampler = Sampler::new();
        let admitted = |now_s| {
            (0..1000)
                .filter(|_| sampler.admits("info", "again", now_s))
                .count()
        };
        assert_eq!(admitted(1), 109);
        assert_eq!(admitted(2), 109);
        assert!(sampler.admits("info", "other", 2));
        assert!(sampler.admits("warn", "again", 2));
    }
}
