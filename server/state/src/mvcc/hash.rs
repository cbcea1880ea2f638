//! Hashes that members compare to find that they have diverged (contract 2.10, store-notes 2).
//!
//! With C = compact revision, R = the revision asked for, and K(R) = the newest record ≤ R of each
//! key, tombstones left out, the hash is CRC-32C over `key`, then bucket key and record of
//!
//! ```text
//! records as a finished compaction at C leaves them, in (main, sub) order
//! skip main > R │ main <= C, K not empty, record not in K │ tombstone with main == C
//! ```
//!
//! It depends on revision and compact revision alone: not on the progress of a compaction, nor on
//! what garbage the disk still has.
//!
//! The hash kept for a finished compaction at R is the same with C := the previous compaction, but
//! K includes tombstones at R.

use std::collections::VecDeque;

use super::{crc, index::IndexReader, shared::View};
use crate::{error::ApplyError, revision::Revision, store::record_checksum};

/// Kept hashes: of the last 10 finished compactions (contract 2.10).
const KEPT_HASHES_MAX: usize = 10;
/// Every hash begins with the name of etcd's bucket.
const BUCKET: &[u8] = b"key";

/// A hash and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision hashed.
    pub revision: i64,
    /// The compact revision it is relative to.
    pub compact_revision: i64,
}

/// Hashes of finished compactions, oldest first. In memory only.
#[derive(Debug, Default)]
pub(crate) struct KeptHashes {
    hashes: VecDeque<KvHash>,
}

impl KeptHashes {
    pub(crate) fn keep(&mut self, hash: KvHash) {
        if self.hashes.len() == KEPT_HASHES_MAX {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash);
    }

    pub(crate) fn get(&self, revision: i64) -> Option<KvHash> {
        let mut hashes = self.hashes.iter();
        hashes.find(|hash| hash.revision == revision).copied()
    }

    pub(crate) fn all(&self) -> Vec<KvHash> {
        self.hashes.iter().copied().collect()
    }

    pub(crate) fn clear(&mut self) {
        self.hashes.clear();
    }
}

/// Picks the records that count, from a scan in revision order.
struct Selection {
    compact: i64,
    /// Records ≤ C that count, descending: the next one is last.
    kept: Vec<Revision>,
}

impl Selection {
    fn new(index: &IndexReader, revision: i64, compact: i64, tombstones_at: Option<i64>) -> Self {
        let mut kept = Vec::new();
        let mut any = false;
        index.newest(revision, |newest, tombstone| {
            if !tombstone || tombstones_at == Some(newest.main) {
                any = true;
                if newest.main <= compact {
                    kept.push(newest);
                }
            }
        });
        if !any {
            index.newest(compact.min(revision), |newest, tombstone| {
                if !tombstone {
                    kept.push(newest);
                }
            });
        }
        kept.sort_unstable_by(|a, b| b.cmp(a));
        Self { compact, kept }
    }

    fn first(&self) -> Revision {
        let above = Revision {
            main: self.compact.saturating_add(1).max(0),
            sub: 0,
        };
        self.kept.last().copied().unwrap_or(above)
    }

    fn takes(&mut self, revision: Revision) -> bool {
        if revision.main > self.compact {
            return true;
        }
        if self.kept.last() == Some(&revision) {
            self.kept.pop();
            return true;
        }
        false
    }

    /// Whether a record that should have come did not.
    fn misses(&self) -> Result<(), ApplyError> {
        match self.kept.last() {
            Some(revision) => Err(ApplyError::Damaged(format!(
                "revision {revision} is in the index but not in the store"
            ))),
            None => Ok(()),
        }
    }
}

/// HashKV at a revision, reading the bytes themselves. `compact` must be pinned.
pub(crate) fn of_bytes(view: &View, revision: i64, compact: i64) -> Result<u32, ApplyError> {
    let mut selection = Selection::new(&view.index, revision, compact, None);
    let mut hash = crc32c::crc32c(BUCKET);
    for record in view.store.scan(selection.first(), revision) {
        let record = record?;
        if selection.takes(record.revision) {
            let sum = record_checksum(record.revision, record.tombstone, &record.record);
            hash = join(hash, sum, record.tombstone, record.record.len());
        }
    }
    selection.misses()?;
    Ok(hash)
}

/// The hash kept for a compaction at `revision` after one at `previous`, from checksums alone.
pub(crate) fn of_checksums(
    view: &View,
    revision: i64,
    previous: i64,
) -> Result<KvHash, ApplyError> {
    let mut selection = Selection::new(&view.index, revision, previous, Some(revision));
    let mut hash = crc32c::crc32c(BUCKET);
    for record in view.store.scan_checksums(selection.first(), revision) {
        let record = record?;
        if selection.takes(record.revision) {
            hash = join(hash, record.crc32c, record.tombstone, record.len as usize);
        }
    }
    selection.misses()?;
    Ok(KvHash {
        hash,
        revision,
        compact_revision: previous,
    })
}

fn join(hash: u32, sum: u32, tombstone: bool, record_len: usize) -> u32 {
    let len = record_len + if tombstone { 18 } else { 17 };
    crc::join(hash, sum, u32::try_from(len).unwrap_or(u32::MAX))
}
