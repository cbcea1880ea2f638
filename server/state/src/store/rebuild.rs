//! Making the index block of a chunk from its records, when the block is damaged (store-notes 5).
//!
//! The only place where the store looks into a record: an index entry says nothing that the record
//! and its frame do not say too. Records that are damaged themselves cannot be made up for: the
//! error names the first of them.

use keelson_proto::mvccpb::KeyValue;
use prost::Message as _;

use super::chunk::{ChunkBuilder, TOMBSTONE};
use super::codec::{Cursor, Damage};
use super::record::{RECORD_BYTES_MAX, RecordHeader, record_checksum};
use crate::revision::Revision;

/// The index block of the chunk with these frames, which begin at `base` in their file.
pub(crate) fn index_of(frames: &[u8], base: u64) -> Result<Vec<u8>, Damage> {
    let mut builder = ChunkBuilder::default();
    let mut cursor = Cursor::new(frames, base);
    let mut last = None;
    while cursor.remaining() > 0 {
        let offset = base + cursor.position() as u64;
        let damage = |detail| Damage { offset, detail };
        let len = cursor.u32()? as usize;
        let crc = cursor.u32()?;
        let main = cursor.i64()?;
        let sub_flag = cursor.u32()?;
        let tombstone = sub_flag & TOMBSTONE != 0;
        let revision = Revision {
            main,
            sub: sub_flag & !TOMBSTONE,
        };
        if len > RECORD_BYTES_MAX {
            return Err(damage("record too long, and the index block is damaged"));
        }
        let record = cursor.take(len)?;
        if record_checksum(revision, tombstone, record) != crc {
            return Err(damage(
                "record checksum does not match, and the index block is damaged",
            ));
        }
        if last.is_some_and(|last| last >= revision) || main < 0 {
            return Err(damage("revisions out of order"));
        }
        last = Some(revision);
        let kv = KeyValue::decode(record).map_err(|_| damage("record is not a KeyValue"))?;
        let header = RecordHeader {
            revision,
            tombstone,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            key: kv.key,
        };
        builder.push(&header, record);
    }
    Ok(builder.into_index())
}
