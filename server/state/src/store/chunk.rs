//! A chunk: the unit in which records reach a segment file (docs/FORMAT.md draws it).
//!
//! ```text
//! frame*          len u32 | crc u32 | main i64 | sub+flag u32 | record
//! index entry*    what a restart needs of each record, its value left out
//! footer          lengths, count, checksum of the index
//! ```
//!
//! In memory a chunk is a sorted array of 12 bytes a record, (main, sub) → offset, and a garbage
//! bit each (store-notes 4). A chunk is immutable but for those bits; rewriting a segment makes
//! other chunks and swaps the table, and no index entry learns of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::codec::{Cursor, Damage, len_u32, put_u32, put_varint, read_checked};
use super::dead::DeadBits;
use super::error::StoreError;
use super::rebuild;
use super::record::{RECORD_BYTES_MAX, RecordHeader, record_checksum};
use super::segment::StoreFile;
use crate::revision::Revision;

/// Bytes before each record: length, checksum, main, sub with the tombstone flag.
pub(crate) const FRAME_LEN: usize = 20;
/// Bytes of the footer.
pub(crate) const FOOTER_LEN: usize = 32;
/// "KCHK".
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"KCHK");
/// Records' bytes after which a chunk is closed: bounds the buffer of a checkpoint.
const CHUNK_BYTES: usize = 4 << 20;
/// Records after which a chunk is closed: bounds its index block.
const CHUNK_RECORDS: usize = 1 << 16;
/// The smallest index entry: seven varints of a byte and a checksum.
const INDEX_ENTRY_LEN_MIN: usize = 11;
/// The tombstone flag beside `sub`.
pub(crate) const TOMBSTONE: u32 = 1 << 31;

/// Where a record of a chunk is: 12 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    main_delta: u32,
    sub_flag: u32,
    offset: u32,
}

/// An entry of an index block.
#[derive(Clone, Debug)]
pub(crate) struct IndexEntry {
    pub(crate) header: RecordHeader,
    pub(crate) len: u32,
    pub(crate) crc32c: u32,
}

/// The address of a run of records in a file.
pub(crate) struct Chunk {
    pub(crate) file: Arc<StoreFile>,
    /// Where the first frame begins in the file.
    offset: u64,
    base_main: i64,
    records_len: u32,
    index_len: u32,
    index_crc32c: u32,
    /// The index block, if the one on disk is damaged.
    rebuilt: Option<Bytes>,
    slots: Box<[Slot]>,
    pub(crate) dead: DeadBits,
}

impl Chunk {
    /// Number of records, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of all frames.
    pub(crate) fn records_len(&self) -> u64 {
        u64::from(self.records_len)
    }

    pub(crate) fn first(&self) -> Revision {
        self.revision(0).unwrap_or(Revision::MAX)
    }

    pub(crate) fn last(&self) -> Revision {
        self.revision(self.slots.len().wrapping_sub(1))
            .unwrap_or(Revision::MIN)
    }

    /// The revision of a slot.
    pub(crate) fn revision(&self, slot: usize) -> Option<Revision> {
        self.slots.get(slot).map(|slot| self.revision_of(slot))
    }

    fn revision_of(&self, slot: &Slot) -> Revision {
        let main = self.base_main + i64::from(slot.main_delta);
        Revision {
            main,
            sub: slot.sub_flag & !TOMBSTONE,
        }
    }

    /// Whether the record of a slot is a tombstone.
    pub(crate) fn tombstone(&self, slot: usize) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|slot| slot.sub_flag & TOMBSTONE != 0)
    }

    /// The slot of a revision, or the first slot after it.
    pub(crate) fn find(&self, revision: Revision) -> Result<usize, usize> {
        // With one record a change and no garbage dropped, the distance is the slot.
        let guess = revision.main.wrapping_sub(self.base_main).cast_unsigned();
        if let Ok(guess) = usize::try_from(guess)
            && self.revision(guess) == Some(revision)
        {
            return Ok(guess);
        }
        self.slots
            .binary_search_by(|slot| self.revision_of(slot).cmp(&revision))
    }

    /// Where the frame of a slot lies within the chunk, as start and end.
    pub(crate) fn frame(&self, slot: usize) -> Option<(u32, u32)> {
        let start = self.slots.get(slot)?.offset;
        let end = self
            .slots
            .get(slot + 1)
            .map_or(self.records_len, |next| next.offset);
        Some((start, end))
    }

    /// Marks the record of a slot as garbage.
    pub(crate) fn mark_dead(&self, slot: usize) -> bool {
        slot < self.slots.len() && self.dead.set(slot)
    }

    /// Reads the frames from `start` to `end`, offsets within the chunk.
    pub(crate) fn read_frames(&self, start: u32, end: u32) -> Result<Bytes, StoreError> {
        self.read_frames_into(BytesMut::new(), start, end)
    }

    /// The same into memory that is there, for those who read much.
    pub(crate) fn read_frames_into(
        &self,
        mut buffer: BytesMut,
        start: u32,
        end: u32,
    ) -> Result<Bytes, StoreError> {
        buffer.resize(end.saturating_sub(start) as usize, 0);
        self.file
            .read_exact_at(&mut buffer, self.offset + u64::from(start))?;
        Ok(buffer.freeze())
    }

    /// Checks the frame of a slot and returns its record. `frames` was read from `start`.
    pub(crate) fn record(
        &self,
        slot: usize,
        frames: &Bytes,
        start: u32,
    ) -> Result<Bytes, StoreError> {
        let damaged = |offset: u32, detail: &str| {
            let offset = self.offset + u64::from(offset);
            StoreError::corrupt(&self.file.path, offset, detail)
        };
        let place = self.frame(slot).zip(self.slots.get(slot));
        let Some(((frame_start, frame_end), place)) = place else {
            return Err(damaged(0, "no such record"));
        };
        let (from, to) = ((frame_start - start) as usize, (frame_end - start) as usize);
        let Some(frame) = frames.get(from..to) else {
            return Err(damaged(frame_start, "ends too early"));
        };
        let base = self.offset + u64::from(frame_start);
        let at = |damage: Damage| damage.at(&self.file.path);
        let mut cursor = Cursor::new(frame, base);
        let len = cursor.u32().map_err(at)?;
        let crc = cursor.u32().map_err(at)?;
        let main = cursor.i64().map_err(at)?;
        let sub_flag = cursor.u32().map_err(at)?;
        let revision = self.revision_of(place);
        let matches = len as usize == cursor.remaining()
            && main == revision.main
            && sub_flag == place.sub_flag;
        if !matches {
            return Err(damaged(frame_start, "record differs from its index entry"));
        }
        let record = frames.slice(from + FRAME_LEN..to);
        if record_checksum(revision, place.sub_flag & TOMBSTONE != 0, &record) != crc {
            return Err(damaged(frame_start, "record checksum does not match"));
        }
        Ok(record)
    }

    /// Reads one record.
    pub(crate) fn read(&self, slot: usize) -> Result<Bytes, StoreError> {
        let (start, end) = self.frame(slot).unwrap_or((0, 0));
        self.record(slot, &self.read_frames(start, end)?, start)
    }

    /// As [`read`](Self::read), if the operating system has the bytes in memory; else `None`.
    pub(crate) fn read_resident(&self, slot: usize) -> Result<Option<Bytes>, StoreError> {
        let (start, end) = self.frame(slot).unwrap_or((0, 0));
        let mut buffer = vec![0; end.saturating_sub(start) as usize];
        let offset = self.offset + u64::from(start);
        match self.file.read_resident_at(&mut buffer, offset)? {
            true => self.record(slot, &Bytes::from(buffer), start).map(Some),
            false => Ok(None),
        }
    }

    /// Reads and checks the index block.
    pub(crate) fn read_index(&self) -> Result<IndexBlock, StoreError> {
        let bytes = match &self.rebuilt {
            Some(rebuilt) => rebuilt.clone(),
            None => self.read_index_bytes()?,
        };
        Ok(self.index_block(bytes))
    }

    fn index_block(&self, bytes: Bytes) -> IndexBlock {
        IndexBlock {
            bytes,
            position: 0,
            base: self.index_offset(),
            main: self.base_main,
            file: self.file.clone(),
        }
    }

    fn index_offset(&self) -> u64 {
        self.offset + u64::from(self.records_len)
    }

    fn read_index_bytes(&self) -> Result<Bytes, StoreError> {
        let offset = self.index_offset();
        let mut bytes = vec![0; self.index_len as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        if crc32c::crc32c(&bytes) != self.index_crc32c {
            let detail = "index checksum does not match";
            return Err(StoreError::corrupt(&self.file.path, offset, detail));
        }
        Ok(Bytes::from(bytes))
    }

    /// Reads the index block, or makes it from the records anew if the one on disk is damaged. The
    /// bytes are those that were written, or the damage stands: the footer has their checksum.
    fn read_or_rebuild_index(&mut self) -> Result<IndexBlock, StoreError> {
        let damage = match self.read_index_bytes() {
            Ok(bytes) => return Ok(self.index_block(bytes)),
            Err(error) if matches!(error, StoreError::Corrupt { .. }) => error,
            Err(error) => return Err(error),
        };
        let frames = self.read_frames(0, self.records_len)?;
        let index =
            rebuild::index_of(&frames, self.offset).map_err(|found| found.at(&self.file.path))?;
        let is_whole =
            index.len() == self.index_len as usize && crc32c::crc32c(&index) == self.index_crc32c;
        if !is_whole {
            return Err(damage);
        }
        tracing::warn!(
            path = %self.file.path.display(),
            offset = self.index_offset(),
            "index block is damaged; rebuilt from its records, all of which are sound"
        );
        let index = Bytes::from(index);
        self.rebuilt = Some(index.clone());
        Ok(self.index_block(index))
    }

    /// Reads the footer of the chunk that ends at `end`, and tells where the chunk begins.
    pub(crate) fn footer(
        file: &Arc<StoreFile>,
        end: u64,
    ) -> Result<(ChunkFooter, u64), StoreError> {
        let path = &file.path;
        let Some(footer_at) = end.checked_sub(FOOTER_LEN as u64) else {
            return Err(StoreError::corrupt(path, end, "no room for a footer"));
        };
        let bytes = read_checked(&*file.handle, path, footer_at, FOOTER_LEN as u64)?;
        let footer = ChunkFooter::decode(&bytes, footer_at).map_err(|damage| damage.at(path))?;
        let body = u64::from(footer.records_len) + u64::from(footer.index_len);
        let start = footer_at
            .checked_sub(body)
            .filter(|&start| start >= super::codec::HEADER_LEN)
            .ok_or_else(|| StoreError::corrupt(path, footer_at, "chunk longer than its file"))?;
        Ok((footer, start))
    }

    /// Builds the chunk at `offset` from its index block; `visit` sees each slot and its entry.
    pub(crate) fn open(
        file: &Arc<StoreFile>,
        offset: u64,
        footer: &ChunkFooter,
        mut visit: impl FnMut(usize, IndexEntry),
    ) -> Result<Chunk, StoreError> {
        let mut chunk = Chunk {
            file: file.clone(),
            offset,
            base_main: footer.base_main,
            records_len: footer.records_len,
            index_len: footer.index_len,
            index_crc32c: footer.index_crc32c,
            rebuilt: None,
            slots: Box::default(),
            dead: DeadBits::new(footer.records as usize),
        };
        let mut block = chunk.read_or_rebuild_index()?;
        let mut slots: Vec<Slot> = Vec::with_capacity(footer.records as usize);
        let mut next_offset = 0u32;
        let mut last: Option<Revision> = None;
        while let Some(entry) = block.next() {
            let entry = entry?;
            let revision = entry.header.revision;
            let main_delta = revision.main.checked_sub(footer.base_main);
            let end = (FRAME_LEN as u32)
                .checked_add(entry.len)
                .and_then(|len| next_offset.checked_add(len))
                .filter(|&end| end <= footer.records_len);
            let place = main_delta
                .and_then(|delta| u32::try_from(delta).ok())
                .zip(end);
            let Some((main_delta, end)) = place else {
                return Err(block.damaged("entry points outside its chunk"));
            };
            if last.is_some_and(|last| last >= revision) {
                return Err(block.damaged("revisions out of order"));
            }
            last = Some(revision);
            let flag = if entry.header.tombstone { TOMBSTONE } else { 0 };
            let sub_flag = revision.sub | flag;
            visit(slots.len(), entry);
            slots.push(Slot {
                main_delta,
                sub_flag,
                offset: next_offset,
            });
            next_offset = end;
        }
        if slots.len() != footer.records as usize || next_offset != footer.records_len {
            return Err(block.damaged("index does not cover its chunk"));
        }
        chunk.slots = slots.into_boxed_slice();
        Ok(chunk)
    }
}

/// The last bytes of a chunk.
#[derive(Clone, Debug)]
pub(crate) struct ChunkFooter {
    records: u32,
    records_len: u32,
    index_len: u32,
    index_crc32c: u32,
    base_main: i64,
}

impl ChunkFooter {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put_u32(out, FOOTER_MAGIC);
        put_u32(out, self.records);
        put_u32(out, self.records_len);
        put_u32(out, self.index_len);
        put_u32(out, self.index_crc32c);
        out.extend_from_slice(&self.base_main.to_le_bytes());
        let crc = out.get(start..).map_or(0, crc32c::crc32c);
        put_u32(out, crc);
    }

    fn decode(bytes: &[u8], base: u64) -> Result<ChunkFooter, Damage> {
        let mut cursor = Cursor::new(bytes, base);
        let magic = cursor.u32()?;
        let footer = ChunkFooter {
            records: cursor.u32()?,
            records_len: cursor.u32()?,
            index_len: cursor.u32()?,
            index_crc32c: cursor.u32()?,
            base_main: cursor.i64()?,
        };
        let crc = cursor.u32()?;
        let covered = bytes.get(..FOOTER_LEN - 4).map(crc32c::crc32c);
        let damage = |detail| {
            Err(Damage {
                offset: base,
                detail,
            })
        };
        if covered != Some(crc) || magic != FOOTER_MAGIC {
            return damage("footer checksum does not match");
        }
        let entries_max = footer.index_len as usize / INDEX_ENTRY_LEN_MIN;
        if footer.records == 0 || footer.records as usize > entries_max || footer.base_main < 0 {
            return damage("footer contradicts itself");
        }
        Ok(footer)
    }
}

/// The entries of an index block, in revision order.
pub(crate) struct IndexBlock {
    bytes: Bytes,
    position: usize,
    base: u64,
    main: i64,
    file: Arc<StoreFile>,
}

impl IndexBlock {
    fn damaged(&self, detail: &str) -> StoreError {
        StoreError::corrupt(&self.file.path, self.base + self.position as u64, detail)
    }

    fn decode(&mut self) -> Result<IndexEntry, Damage> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let mut cursor = Cursor::new(rest, self.base + self.position as u64);
        let main = self
            .main
            .checked_add_unsigned(cursor.varint()?)
            .ok_or_else(|| cursor.damage("revision too large"))?;
        let sub_flag = cursor.varint_u32()?;
        let len = cursor.varint_u32()?;
        let crc32c = cursor.u32()?;
        let create_revision = main.wrapping_sub(cursor.varint()?.cast_signed());
        let version = cursor.varint()?.cast_signed();
        let lease = cursor.varint()?.cast_signed();
        let key_len = cursor.varint_u32()? as usize;
        let key_at = self.position + cursor.position();
        cursor.take(key_len)?;
        let header = RecordHeader {
            revision: Revision {
                main,
                sub: sub_flag >> 1,
            },
            tombstone: sub_flag & 1 != 0,
            create_revision,
            version,
            lease,
            key: self.bytes.slice(key_at..key_at + key_len),
        };
        self.position += cursor.position();
        self.main = main;
        Ok(IndexEntry {
            header,
            len,
            crc32c,
        })
    }
}

impl Iterator for IndexBlock {
    type Item = Result<IndexEntry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.bytes.len() {
            return None;
        }
        let decoded = self.decode();
        if decoded.is_err() {
            // Nothing after a damaged entry can be trusted.
            self.position = self.bytes.len();
        }
        Some(decoded.map_err(|damage| damage.at(&self.file.path)))
    }
}

/// Collects records for a chunk.
#[derive(Default)]
pub(crate) struct ChunkBuilder {
    records: Vec<u8>,
    index: Vec<u8>,
    slots: Vec<Slot>,
    base_main: i64,
    last_main: i64,
}

/// A chunk as bytes, and what is needed to address it once it is written.
pub(crate) struct EncodedChunk {
    pub(crate) bytes: Vec<u8>,
    footer: ChunkFooter,
    slots: Box<[Slot]>,
}

impl EncodedChunk {
    /// The chunk, once its bytes stand at `offset` in `file`.
    pub(crate) fn place(self, file: &Arc<StoreFile>, offset: u64) -> Chunk {
        Chunk {
            file: file.clone(),
            offset,
            base_main: self.footer.base_main,
            records_len: self.footer.records_len,
            index_len: self.footer.index_len,
            index_crc32c: self.footer.index_crc32c,
            rebuilt: None,
            dead: DeadBits::new(self.slots.len()),
            slots: self.slots,
        }
    }
}

impl ChunkBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the chunk should be written before `header` is added.
    pub(crate) fn is_full(&self, header: &RecordHeader) -> bool {
        let distance = header.revision.main.saturating_sub(self.base_main);
        !self.slots.is_empty()
            && (self.records.len() >= CHUNK_BYTES
                || self.slots.len() >= CHUNK_RECORDS
                || distance > i64::from(u32::MAX))
    }

    pub(crate) fn push(&mut self, header: &RecordHeader, record: &[u8]) {
        assert!(
            record.len() <= RECORD_BYTES_MAX,
            "the caller has checked the size"
        );
        let revision = header.revision;
        if self.slots.is_empty() {
            self.base_main = revision.main;
            self.last_main = revision.main;
        }
        let crc = record_checksum(revision, header.tombstone, record);
        let flag = if header.tombstone { TOMBSTONE } else { 0 };
        let sub_flag = revision.sub | flag;
        self.slots.push(Slot {
            main_delta: (revision.main - self.base_main) as u32,
            sub_flag,
            offset: len_u32(self.records.len()),
        });

        put_u32(&mut self.records, len_u32(record.len()));
        put_u32(&mut self.records, crc);
        self.records.extend_from_slice(&revision.main.to_le_bytes());
        put_u32(&mut self.records, sub_flag);
        self.records.extend_from_slice(record);

        let index = &mut self.index;
        put_varint(index, (revision.main - self.last_main).cast_unsigned());
        put_varint(
            index,
            u64::from(revision.sub) << 1 | u64::from(header.tombstone),
        );
        put_varint(index, record.len() as u64);
        put_u32(index, crc);
        put_varint(
            index,
            revision
                .main
                .wrapping_sub(header.create_revision)
                .cast_unsigned(),
        );
        put_varint(index, header.version.cast_unsigned());
        put_varint(index, header.lease.cast_unsigned());
        put_varint(index, header.key.len() as u64);
        index.extend_from_slice(&header.key);
        self.last_main = revision.main;
    }

    /// The index block alone.
    pub(crate) fn into_index(self) -> Vec<u8> {
        self.index
    }

    /// Encodes the chunk and empties the builder.
    pub(crate) fn finish(&mut self) -> EncodedChunk {
        let builder = std::mem::take(self);
        let footer = ChunkFooter {
            records: len_u32(builder.slots.len()),
            records_len: len_u32(builder.records.len()),
            index_len: len_u32(builder.index.len()),
            index_crc32c: crc32c::crc32c(&builder.index),
            base_main: builder.base_main,
        };
        let mut bytes = builder.records;
        bytes.extend_from_slice(&builder.index);
        footer.encode(&mut bytes);
        EncodedChunk {
            bytes,
            footer,
            slots: builder.slots.into_boxed_slice(),
        }
    }
}
