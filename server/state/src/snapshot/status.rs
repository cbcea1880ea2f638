//! What `snapshot status` shows of a file (etcd-snapshot-file 3.6).

use std::collections::HashSet;

use super::buckets::{self, parse_revision};
use crate::bolt::{BoltError, BoltFile, ReadAt, Walk};
use crate::mvcc::record;

/// A summary of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over all buckets: names, keys, values.
    pub hash: u32,
    /// Revision of the last record; 0 if there is none.
    pub revision: i64,
    /// Keys whose newest record is no tombstone.
    pub total_keys: u64,
    /// Bytes of all pages.
    pub total_bytes: u64,
    /// The storage version, if it is one.
    pub version: String,
}

impl Status {
    /// Reads the whole tree of a file; the hash at its end is not looked at.
    ///
    /// # Errors
    /// Damage.
    pub fn read<R: ReadAt>(file: &BoltFile<R>) -> Result<Self, BoltError> {
        let mut walk = Walk::new(file)?;
        let mut status = Self {
            hash: 0,
            revision: 0,
            total_keys: 0,
            total_bytes: file.total_bytes(),
            version: String::new(),
        };
        let mut live: HashSet<Box<[u8]>> = HashSet::new();
        while let Some(bucket) = walk.take_first() {
            status.hash = crc32c::crc32c_append(status.hash, bucket.name());
            let records = bucket.name() == buckets::KEY.as_bytes();
            let meta = bucket.name() == buckets::META.as_bytes();
            walk.entries(&bucket, &mut |offset, key, value| {
                status.hash = crc32c::crc32c_append(status.hash, key);
                status.hash = crc32c::crc32c_append(status.hash, value);
                if records {
                    let place = parse_revision(key).zip(key_of(value));
                    let Some(((revision, tombstone), name)) = place else {
                        return Err(file.damaged(offset, "a record's key or value is no record"));
                    };
                    status.revision = revision.main;
                    if tombstone {
                        live.remove(name);
                    } else if !live.contains(name) {
                        live.insert(name.into());
                    }
                } else if meta && key == buckets::STORAGE.as_bytes() {
                    status.version = version(value).unwrap_or_default();
                }
                Ok(())
            })?;
        }
        status.total_keys = live.len() as u64;
        Ok(status)
    }
}

/// The key within a record; empty for the marker of a restore.
pub(super) fn key_of(record: &[u8]) -> Option<&[u8]> {
    record::key_bytes(record)
}

/// A version of three numbers.
fn version(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let numbers = text.split('.').filter(|part| part.parse::<u64>().is_ok());
    (text.split('.').count() == 3 && numbers.count() == 3).then(|| text.to_owned())
}
