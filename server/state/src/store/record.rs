//! A record as the store sees it: a header that the key index needs, and opaque bytes.
//!
//! The bytes are the encoded `mvccpb.KeyValue` (design R1); the store looks into them only to make a
//! damaged index block anew. What
//! they do not contain (sub revision, tombstone flag) stands beside them, and the checksum covers
//! both, in the form etcd hashes: the bucket key, then the value (store-notes 2).

use bytes::Bytes;

use crate::revision::Revision;

/// Longest record accepted, in bytes. Far above any request limit a user may configure, and small
/// enough that a chunk's offsets fit in 32 bits.
pub const RECORD_BYTES_MAX: usize = 512 << 20;

/// What the key index needs to know of a record; written to the index block, so that a restart
/// reads no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The record's place in history, and its address in the store.
    pub revision: Revision,
    /// Whether the record deletes the key.
    pub tombstone: bool,
    /// Revision at which the key was created; 0 for a tombstone.
    pub create_revision: i64,
    /// The key's version; 0 for a tombstone.
    pub version: i64,
    /// The lease attached, 0 for none.
    pub lease: i64,
    /// The key. May share a larger allocation: copy what is kept.
    pub key: Bytes,
}

/// A record read in revision order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record's place in history.
    pub revision: Revision,
    /// Whether the record deletes the key.
    pub tombstone: bool,
    /// The encoded `KeyValue`. Shares at most [`SCAN_RUN_BYTES`](super::SCAN_RUN_BYTES) with its
    /// neighbours.
    pub record: Bytes,
}

/// A record's checksum, read from an index block without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChecksum {
    /// The record's place in history.
    pub revision: Revision,
    /// Whether the record deletes the key.
    pub tombstone: bool,
    /// The key. May share a larger allocation: copy what is kept.
    pub key: Bytes,
    /// Length of the record in bytes, without its bucket key.
    pub len: u32,
    /// CRC-32C over bucket key ‖ record.
    pub crc32c: u32,
}

/// The key under which etcd stores a record: `be64(main) '_' be64(sub)`, then `'t'` for a
/// tombstone. Returns the buffer and the length used.
pub(crate) fn bucket_key(revision: Revision, tombstone: bool) -> ([u8; 18], usize) {
    let mut key = [0; 18];
    let (main, rest) = key.split_at_mut(8);
    main.copy_from_slice(&revision.main.to_be_bytes());
    let (separator, rest) = rest.split_at_mut(1);
    separator.copy_from_slice(b"_");
    let (sub, mark) = rest.split_at_mut(8);
    sub.copy_from_slice(&u64::from(revision.sub).to_be_bytes());
    mark.copy_from_slice(b"t");
    (key, if tombstone { 18 } else { 17 })
}

/// CRC-32C over bucket key ‖ record.
pub fn record_checksum(revision: Revision, tombstone: bool, record: &[u8]) -> u32 {
    let (key, len) = bucket_key(revision, tombstone);
    crc32c::crc32c_append(crc32c::crc32c(key.get(..len).unwrap_or(&key)), record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_key_is_etcds() {
        let (key, len) = bucket_key(Revision::new(258, 3), true);
        assert_eq!(&key[..len], b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        let (key, len) = bucket_key(Revision::new(1, 0), false);
        assert_eq!(&key[..len], b"\0\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn checksum_covers_the_flag() {
        let at = Revision::new(7, 1);
        assert_ne!(
            record_checksum(at, false, b"x"),
            record_checksum(at, true, b"x")
        );
        assert_eq!(
            record_checksum(at, true, b"x"),
            crc32c::crc32c(b"\0\0\0\0\0\0\0\x07_\0\0\0\0\0\0\0\x01tx")
        );
    }
}
