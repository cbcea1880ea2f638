//! HashKV of a file (etcd-snapshot-file 3.7): equal to that of a server with the same content.

use std::collections::{HashMap, HashSet};

use super::buckets::{self, parse_revision};
use super::status::key_of;
use crate::bolt::{BoltError, BoltFile, ReadAt, Walk};
use crate::mvcc::shared::NEVER_COMPACTED;
use crate::revision::Revision;

/// HashKV of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision hashed.
    pub revision: i64,
    /// The compact revision, −1 if there never was a compaction.
    pub compact_revision: i64,
}

/// Why a file has no hash at a revision.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The file is damaged.
    #[error(transparent)]
    File(#[from] BoltError),
    /// The revision was compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision has not come yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRev,
}

/// Newest record of each key, tombstones included.
type Newest = HashMap<Box<[u8]>, (Revision, bool)>;

/// Computes HashKV at a revision; 0 is the current one. Memory grows with the number of keys.
///
/// # Errors
/// Compacted, FutureRev, damage.
pub fn hash_kv<R: ReadAt>(file: &BoltFile<R>, requested: i64) -> Result<FileHash, HashError> {
    let compact = compact_revision(file)?;
    let mut current = 0;
    records(file, &mut |revision, _, _, _| current = revision.main)?;
    let current = current.max(compact).max(1);
    let revision = match requested {
        ..=0 => current,
        revision if revision > current => return Err(HashError::FutureRev),
        revision if revision < compact => return Err(HashError::Compacted),
        revision => revision,
    };
    let kept = kept(file, revision, compact)?;
    let mut hash = crc32c::crc32c(buckets::KEY.as_bytes());
    records(file, &mut |at, tombstone, key, value| {
        let skipped = at.main > revision
            || (at.main <= compact && !kept.contains(&at))
            || (at.main == compact && tombstone);
        if !skipped {
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
        }
    })?;
    Ok(FileHash {
        hash,
        revision,
        compact_revision: compact,
    })
}

/// The records at or below the compact revision that count. When nothing lives at the revision
/// asked for, those that a finished compaction leaves (store-notes 2).
fn kept<R: ReadAt>(
    file: &BoltFile<R>,
    revision: i64,
    compact: i64,
) -> Result<HashSet<Revision>, BoltError> {
    let live_at = |to: i64| {
        let mut newest = Newest::new();
        records(file, &mut |at, tombstone, _, value| {
            if at.main <= to {
                let key = key_of(value).unwrap_or_default();
                newest.insert(key.into(), (at, tombstone));
            }
        })?;
        let live = newest.into_values().filter(|(_, tombstone)| !tombstone);
        Ok::<HashSet<Revision>, BoltError>(live.map(|(at, _)| at).collect())
    };
    let live = live_at(revision)?;
    if live.is_empty() {
        return live_at(compact.min(revision));
    }
    Ok(live)
}

fn compact_revision<R: ReadAt>(file: &BoltFile<R>) -> Result<i64, BoltError> {
    let mut compact = NEVER_COMPACTED;
    let mut walk = Walk::new(file)?;
    if let Some(meta) = walk.take(buckets::META.as_bytes()) {
        walk.entries(&meta, &mut |offset, key, value| {
            let compaction = [buckets::SCHEDULED_COMPACTION, buckets::FINISHED_COMPACTION];
            if compaction.map(str::as_bytes).contains(&key) {
                let Some((revision, _)) = parse_revision(value) else {
                    return Err(file.damaged(offset, "the compact revision is none"));
                };
                compact = compact.max(revision.main);
            }
            Ok(())
        })?;
    }
    Ok(compact)
}

/// Gets revision, whether it is a tombstone, the bucket's key and the record.
type VisitRecord<'a> = dyn FnMut(Revision, bool, &[u8], &[u8]) + 'a;

fn records<R: ReadAt>(file: &BoltFile<R>, visit: &mut VisitRecord<'_>) -> Result<(), BoltError> {
    let mut walk = Walk::new(file)?;
    let Some(bucket) = walk.take(buckets::KEY.as_bytes()) else {
        return Ok(());
    };
    walk.entries(&bucket, &mut |offset, key, value| {
        let Some((revision, tombstone)) = parse_revision(key) else {
            return Err(file.damaged(offset, "a record's key is no revision"));
        };
        visit(revision, tombstone, key, value);
        Ok(())
    })
}
