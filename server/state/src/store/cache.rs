//! Records read from disk lately, bounded by bytes (design 4).
//!
//! Shards with a short mutex each keep it cheap for many cores. Eviction is CLOCK: a queue in
//! order of insertion, with one more round for what was used since. Only whole allocations go in
//! (store-notes 1), so the bound holds for the memory really taken.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::revision::Revision;

/// Number of shards, a power of two well above the cores of a large machine.
const SHARDS: usize = 64;

/// Memory of an entry beside its bytes: map slot, queue slot, reference count, allocator slack.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// A share of a shard that one record may take: a larger one would empty it.
const ENTRY_SHARE: usize = 4;

#[derive(Default)]
struct RevisionHasher(u64);

impl Hasher for RevisionHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_i64(&mut self, value: i64) {
        self.write_u64(value.cast_unsigned());
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

struct Entry {
    record: Bytes,
    used: bool,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Revision, Entry, BuildHasherDefault<RevisionHasher>>,
    queue: VecDeque<Revision>,
    bytes: usize,
}

/// A bounded map from revision to record.
pub(crate) struct RecordCache {
    shards: Box<[Mutex<Shard>]>,
    shard_bytes_max: usize,
}

impl RecordCache {
    pub(crate) fn new(bytes_max: usize) -> RecordCache {
        RecordCache {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    fn shard(&self, revision: Revision) -> Option<&Mutex<Shard>> {
        let mut hasher = RevisionHasher::default();
        hasher.write_i64(revision.main);
        hasher.write_u32(revision.sub);
        // The map uses the low bits.
        self.shards.get((hasher.finish() >> 40) as usize % SHARDS)
    }

    pub(crate) fn get(&self, revision: Revision) -> Option<Bytes> {
        let mut shard = self.shard(revision)?.lock();
        let entry = shard.entries.get_mut(&revision)?;
        entry.used = true;
        Some(entry.record.clone())
    }

    pub(crate) fn insert(&self, revision: Revision, record: Bytes) {
        let size = record.len() + ENTRY_OVERHEAD_BYTES;
        if size > self.shard_bytes_max / ENTRY_SHARE {
            return;
        }
        let Some(shard) = self.shard(revision) else {
            return;
        };
        let mut guard = shard.lock();
        let shard = &mut *guard;
        if shard
            .entries
            .insert(
                revision,
                Entry {
                    record,
                    used: false,
                },
            )
            .is_some()
        {
            // Same revision, same bytes: the queue already has it.
            return;
        }
        shard.queue.push_back(revision);
        shard.bytes += size;
        while shard.bytes > self.shard_bytes_max {
            let Some(oldest) = shard.queue.pop_front() else {
                break;
            };
            match shard.entries.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    shard.queue.push_back(oldest);
                }
                _ => {
                    let removed = shard.entries.remove(&oldest);
                    let freed = removed.map_or(0, |entry| entry.record.len());
                    shard.bytes -= freed + ENTRY_OVERHEAD_BYTES;
                }
            }
        }
    }

    /// Forgets everything: another history has taken the place of this one.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_used() {
        let cache = RecordCache::new(1 << 20);
        let hot = Revision::new(1, 0);
        cache.insert(hot, Bytes::from(vec![1; 1000]));
        for main in 2..20_000 {
            assert!(cache.get(hot).is_some(), "evicted at {main}");
            cache.insert(Revision::new(main, 0), Bytes::from(vec![0; 1000]));
        }
        assert!(cache.bytes() <= 1 << 20);
        assert!(cache.bytes() > 1 << 19, "shards fill evenly");
        assert!(cache.get(Revision::new(2, 0)).is_none());
        cache.clear();
        assert_eq!(cache.bytes(), 0);
        assert!(cache.get(hot).is_none());
    }

    #[test]
    fn refuses_what_would_empty_a_shard() {
        let cache = RecordCache::new(1 << 20);
        cache.insert(Revision::new(1, 0), Bytes::from(vec![0; 1 << 16]));
        assert!(cache.get(Revision::new(1, 0)).is_none());
    }
}
