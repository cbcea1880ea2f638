//! The manifest: the one file that says what the store is (design 4, R2).
//!
//! It lists the other files with their valid lengths, and everything that must agree with them:
//! applied log id, membership, current and compact revision. It is replaced whole by a rename, so
//! a crash leaves the old one or the new one. The current revision comes from here, not from the
//! last record: compaction may have removed that (etcd #17780).

use std::path::Path;

use bytes::Bytes;

use super::codec::{
    Cursor, Damage, FileKind, HEADER_LEN, check_header, header, len_u32, put_u32, put_u64,
};
use super::error::StoreError;

/// Name of the manifest in the store directory.
pub(crate) const MANIFEST: &str = "manifest";
/// Name under which a manifest is written before it takes the place of the old one.
pub(crate) const MANIFEST_TMP: &str = "manifest.tmp";
/// Longest manifest accepted, in bytes: more than a million segments.
pub const MANIFEST_BYTES_MAX: u64 = 32 << 20;
/// Longest membership accepted, in bytes: thousands of members.
pub const MEMBERSHIP_BYTES_MAX: usize = 4 << 20;
/// Bytes of a segment's entry.
const SEGMENT_ENTRY_LEN: usize = 24;

/// The state that a checkpoint stands for. All of it agrees with the records and the state items
/// of the same checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Term of the last applied log entry.
    pub applied_term: u64,
    /// Index of the last applied log entry.
    pub applied_index: u64,
    /// Membership as of that entry, in the raft layer's encoding.
    pub membership: Bytes,
    /// Current revision.
    pub revision: i64,
    /// Compact revision.
    pub compact_revision: i64,
    /// The cluster the data belongs to.
    pub cluster_id: u64,
    /// The size that counts against the quota, in bytes (store-notes 7). Local to the member.
    pub db_size: u64,
}

/// A file named by its number, and how much of it is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) number: u64,
    pub(crate) len: u64,
}

/// A segment's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) file: FileEntry,
    /// Number of records, dead ones included.
    pub(crate) records: u64,
}

/// What a manifest holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The next file number never used.
    pub(crate) next_number: u64,
    /// Absent until the first checkpoint.
    pub(crate) position: Option<Position>,
    pub(crate) state: Option<FileEntry>,
    /// Bytes of the state file when it was last written whole.
    pub(crate) state_base_len: u64,
    pub(crate) dead: Option<FileEntry>,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_u64(&mut body, self.next_number);
        body.push(u8::from(self.position.is_some()));
        if let Some(position) = &self.position {
            put_u64(&mut body, position.cluster_id);
            put_u64(&mut body, position.applied_term);
            put_u64(&mut body, position.applied_index);
            put_u64(&mut body, position.revision.cast_unsigned());
            put_u64(&mut body, position.compact_revision.cast_unsigned());
            put_u64(&mut body, position.db_size);
            put_u32(&mut body, len_u32(position.membership.len()));
            body.extend_from_slice(&position.membership);
        }
        for file in [self.state, self.dead] {
            let file = file.unwrap_or_default();
            put_u64(&mut body, file.number);
            put_u64(&mut body, file.len);
        }
        put_u64(&mut body, self.state_base_len);
        put_u32(&mut body, len_u32(self.segments.len()));
        for segment in &self.segments {
            put_u64(&mut body, segment.file.number);
            put_u64(&mut body, segment.file.len);
            put_u64(&mut body, segment.records);
        }
        let mut bytes = header(FileKind::Manifest);
        put_u32(&mut bytes, len_u32(body.len()));
        put_u32(&mut bytes, crc32c::crc32c(&body));
        bytes.extend_from_slice(&body);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Manifest, StoreError> {
        check_header(FileKind::Manifest, bytes, path)?;
        let rest = bytes.get(HEADER_LEN as usize..).unwrap_or_default();
        let parse = || {
            let mut cursor = Cursor::new(rest, HEADER_LEN);
            let len = cursor.u32()? as usize;
            let crc = cursor.u32()?;
            if len != cursor.remaining() {
                return Err(cursor.damage("manifest length does not match its file"));
            }
            let base = HEADER_LEN + cursor.position() as u64;
            let body = cursor.take(len)?;
            if crc32c::crc32c(body) != crc {
                return Err(cursor.damage("manifest checksum does not match"));
            }
            decode_body(&mut Cursor::new(body, base))
        };
        parse().map_err(|damage: Damage| damage.at(path))
    }
}

fn decode_body(cursor: &mut Cursor<'_>) -> Result<Manifest, Damage> {
    let next_number = cursor.u64()?;
    let position = match cursor.u8()? {
        0 => None,
        1 => Some(decode_position(cursor)?),
        _ => return Err(cursor.damage("position neither absent nor present")),
    };
    let [state, dead] = [decode_file(cursor)?, decode_file(cursor)?];
    let state_base_len = cursor.u64()?;
    let count = cursor.u32()? as usize;
    if count != cursor.remaining() / SEGMENT_ENTRY_LEN
        || !cursor.remaining().is_multiple_of(SEGMENT_ENTRY_LEN)
    {
        return Err(cursor.damage("segment count does not match the length"));
    }
    let mut segments = Vec::with_capacity(count);
    for _ in 0..count {
        let file = decode_file(cursor)?.ok_or_else(|| cursor.damage("segment without number"))?;
        segments.push(SegmentEntry {
            file,
            records: cursor.u64()?,
        });
    }
    Ok(Manifest {
        next_number,
        position,
        state: state.filter(|file| file.number != 0),
        state_base_len,
        dead: dead.filter(|file| file.number != 0),
        segments,
    })
}

fn decode_file(cursor: &mut Cursor<'_>) -> Result<Option<FileEntry>, Damage> {
    let file = FileEntry {
        number: cursor.u64()?,
        len: cursor.u64()?,
    };
    Ok((file.number != 0).then_some(file))
}

fn decode_position(cursor: &mut Cursor<'_>) -> Result<Position, Damage> {
    let mut position = Position {
        cluster_id: cursor.u64()?,
        applied_term: cursor.u64()?,
        applied_index: cursor.u64()?,
        revision: cursor.i64()?,
        compact_revision: cursor.i64()?,
        db_size: cursor.u64()?,
        membership: Bytes::new(),
    };
    let len = cursor.u32()? as usize;
    if len > MEMBERSHIP_BYTES_MAX {
        return Err(cursor.damage("membership too long"));
    }
    position.membership = Bytes::copy_from_slice(cursor.take(len)?);
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            next_number: 9,
            position: Some(Position {
                applied_term: 3,
                applied_index: 77,
                membership: Bytes::from_static(b"members"),
                revision: 41,
                compact_revision: -1,
                cluster_id: 0xcafe,
                db_size: 20_480,
            }),
            state: Some(FileEntry {
                number: 4,
                len: 100,
            }),
            state_base_len: 60,
            dead: None,
            segments: (5..8)
                .map(|number| SegmentEntry {
                    file: FileEntry { number, len: 1000 },
                    records: 3,
                })
                .collect(),
        }
    }

    #[test]
    fn round_trips() {
        for manifest in [sample(), Manifest::default()] {
            let bytes = manifest.encode();
            assert_eq!(Manifest::decode(&bytes, Path::new("m")).unwrap(), manifest);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Manifest::decode(&damaged, Path::new("m")).is_err(),
                "bit {bit}"
            );
        }
        for len in 0..bytes.len() {
            assert!(
                Manifest::decode(&bytes[..len], Path::new("m")).is_err(),
                "length {len}"
            );
        }
    }
}
