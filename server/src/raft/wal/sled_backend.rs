//! The log on sled 0.34 (design 6, rules R6–R9).
//!
//! Two trees: `log` maps big-endian index and chunk number to a frame, `meta` holds the vote, the
//! purge mark and the commit, each as a frame. sled writes its file in the order of the inserts,
//! so a crash leaves a prefix. Durable is what `fdatasync` of its file covered: the one that the
//! flush ends in, see `sync_file_range.rs`, or else our own after it.
//!
//! Small entries share frames of 16 KiB, larger ones are cut below 64 KiB: no page comes near the
//! size at which sled moves it to a blob file, which it never syncs (R7).

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sled::{IVec, Tree};

use super::api::{Cut, LogPosition, Recovered, WalEntry};
use super::backend::{Backend, PURGE_SLICE_KEYS_MAX, Reader};
use super::error::WalError;
use super::frame::{self, Frame, Kind, Packing};
use super::sled_check;
use super::sled_mark::Marks;

/// sled's segment: larger pages than a quarter of it would become blobs.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;
/// sled's page cache. The log is read back only at start and by lagging followers.
const CACHE_BYTES: u64 = 8 << 20;
/// How often sled cleans its segments. Durability does not depend on it.
const CLEAN_INTERVAL_MS: u64 = 1_000;
/// Frame sizes of rule R7.
const PACKING: Packing = Packing {
    frame_bytes_max: 16 << 10,
    chunk_bytes_max: Some(60 << 10),
};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
/// Written at each start, to see where a flush gets.
const SELF_TEST: &[u8] = b"self-test";
const MARK: &[u8] = b"mark";
/// Syncs between marks while the log is busy: a mark costs a hundredth of a sync. An idle log marks
/// its end.
const MARK_SYNCS: u32 = 32;

/// Big-endian index and chunk number: sled's order is the log's.
fn key(index: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&index.to_be_bytes());
    tail.copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Option<(u64, u32)> {
    let (index, chunk) = key.split_at_checked(8)?;
    Some((
        u64::from_be_bytes(index.try_into().ok()?),
        u32::from_be_bytes(chunk.try_into().ok()?),
    ))
}

fn location(key: &[u8]) -> String {
    match parse_key(key) {
        Some((index, chunk)) => format!("log frame {index}.{chunk}"),
        None => format!("log key {:?}", String::from_utf8_lossy(key)),
    }
}

fn corrupt(key: &[u8], reason: &'static str) -> WalError {
    WalError::Corrupt {
        location: location(key),
        reason,
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<Frame, WalError> {
    Frame::decode(&Bytes::copy_from_slice(value)).map_err(|error| error.at(|| location(key)))
}

/// The writer's side.
pub(super) struct SledBackend {
    db: sled::Db,
    log: Tree,
    meta: Tree,
    syncing: Syncing,
    purged: Option<LogPosition>,
    marks: Marks,
    /// Last entry given to sled.
    written: Option<LogPosition>,
    /// Last entry that is durable.
    durable: Option<LogPosition>,
    /// What a mark would say once it is durable.
    committed: Option<LogPosition>,
    syncs_since_mark: u32,
}

/// How a flush of sled becomes durable. The descriptor of its file is our own.
enum Syncing {
    /// The flush ends in an `fdatasync` (`sync_file_range.rs`).
    InFlush(File),
    /// One follows the flush.
    AfterFlush(File),
    /// `--unsafe-no-fsync`.
    Never,
}

impl SledBackend {
    /// Opens or creates the database, runs the self-test, and recovers.
    ///
    /// # Errors
    /// Anything rules R6–R9 refuse; damage is cut and reported in [`Recovered::cut`] instead.
    pub(super) fn open(dir: &Path, unsafe_no_fsync: bool) -> Result<(Self, Recovered), WalError> {
        sled_check::prepare(dir)?;
        let marks = Marks::load(dir)?;
        let db = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(CLEAN_INTERVAL_MS))
            .mode(sled::Mode::HighThroughput)
            .open()?;
        let log = db.open_tree("log")?;
        let meta = db.open_tree("meta")?;
        db.flush()?;
        let syncing = if unsafe_no_fsync {
            never_sync(dir)?;
            Syncing::Never
        } else {
            sled_check::sync_dirs(dir)?;
            let file = sled_check::open_sync_file(dir)?;
            let write = || {
                meta.insert(SELF_TEST, b"")?;
                db.flush().map(drop)
            };
            match flush_syncs(&file, write)? {
                true => Syncing::InFlush(file),
                false => Syncing::AfterFlush(file),
            }
        };
        sled_check::refuse_blobs(dir)?;
        let mut backend = Self {
            db,
            log,
            meta,
            syncing,
            purged: None,
            marks,
            written: None,
            durable: None,
            committed: None,
            syncs_since_mark: 0,
        };
        let recovered = backend.recover()?;
        backend.marks.check(recovered.end())?;
        backend.written = recovered.end();
        backend.durable = recovered.end();
        Ok((backend, recovered))
    }

    /// Takes the contiguous, valid prefix and removes what follows it.
    fn recover(&mut self) -> Result<Recovered, WalError> {
        let mut recovered = Recovered {
            vote: self.meta_frame(VOTE, Kind::Vote)?.map(|frame| frame.body),
            committed: self
                .meta_frame(COMMITTED, Kind::Committed)?
                .and_then(|f| f.committed),
            ..Recovered::default()
        };
        if let Some(frame) = self.meta_frame(PURGED, Kind::Purge)? {
            let purged = frame.purged().map_err(|reason| corrupt(PURGED, reason))?;
            recovered.purged = Some(purged);
        }
        self.purged = recovered.purged;

        let mut frames = Frames::new(&self.log, self.first_key()?);
        let mut next = None;
        let damage = loop {
            match frames.next() {
                None => break None,
                Some(Ok(found)) => {
                    let first = found.entries.first().map_or(0, |entry| entry.index);
                    let behind = recovered.purged.map(|purged| purged.index + 1);
                    let gap = match (next, behind) {
                        (Some(next), _) => first != next,
                        (None, Some(behind)) => first > behind,
                        (None, None) => false,
                    };
                    if gap {
                        let at = next.or(behind).unwrap_or(first);
                        break Some((at, format!("entries up to {first} are missing")));
                    }
                    for entry in &found.entries {
                        next = Some(entry.index + 1);
                        if behind.is_none_or(|behind| entry.index >= behind) {
                            recovered.first.get_or_insert(entry.index);
                            recovered.last = Some(entry.position());
                        }
                    }
                    let newer = |known: LogPosition| {
                        found
                            .committed
                            .is_some_and(|found| found.index > known.index)
                    };
                    if recovered.committed.is_none_or(newer) {
                        recovered.committed = found.committed.or(recovered.committed);
                    }
                }
                Some(Err(WalError::Corrupt { location, reason })) => {
                    let at = next.or(recovered.purged.map(|purged| purged.index + 1));
                    break Some((at.unwrap_or(0), format!("{location}: {reason}")));
                }
                Some(Err(error)) => return Err(error),
            }
        };
        if let Some((index, reason)) = damage {
            recovered.cut = Some(self.cut(index, reason)?);
        }
        recovered.clamp_committed();
        Ok(recovered)
    }

    /// Where the first entry that is not purged is stored. What lies before may be half removed.
    fn first_key(&self) -> Result<[u8; 12], WalError> {
        let Some(purged) = self.purged else {
            return Ok(key(0, 0));
        };
        let behind = key(purged.index + 1, 0);
        if self.log.contains_key(behind)? {
            return Ok(behind);
        }
        let Some(item) = self.log.range(..behind).next_back() else {
            return Ok(behind);
        };
        let (before, value) = item?;
        match (parse_key(&before), frame::peek(&value)) {
            (Some(_), Some((Kind::Chunk, _, _))) => Ok(behind),
            (Some((index, chunk)), _) => Ok(key(index, chunk)),
            (None, _) => Err(corrupt(&before, "key of a wrong length")),
        }
    }

    /// Removes everything from `index` on, and says how much of it was sound.
    fn cut(&mut self, index: u64, reason: String) -> Result<Cut, WalError> {
        let mut valid_frames_behind = 0;
        for item in self.log.range(key(index, 0)..) {
            let (_, value) = item?;
            let sound = frame::is_sound(&Bytes::copy_from_slice(&value));
            valid_frames_behind += u64::from(sound);
        }
        let cut = Cut {
            index,
            reason,
            valid_frames_behind,
        };
        super::open::log_cut("log database", &cut);
        // Backwards, and with it a damaged frame that begins among the purged entries.
        for item in self.log.iter().rev() {
            let (found, value) = item?;
            let sound = frame::is_sound(&Bytes::copy_from_slice(&value));
            if sound && found[..] < key(index, 0)[..] {
                break;
            }
            self.log.remove(found)?;
        }
        self.sync()?;
        Ok(cut)
    }

    fn meta_frame(&self, key: &[u8], kind: Kind) -> Result<Option<Frame>, WalError> {
        let Some(value) = self.meta.get(key)? else {
            return Ok(None);
        };
        let frame = decode(key, &value)?;
        if frame.kind != kind {
            return Err(corrupt(key, "another kind of frame"));
        }
        Ok(Some(frame))
    }

    fn put_meta(&self, key: &[u8], encode: impl FnOnce(&mut BytesMut)) -> Result<(), WalError> {
        let mut buffer = BytesMut::with_capacity(frame::HEADER_BYTES * 2);
        encode(&mut buffer);
        self.meta.insert(key, &buffer[..])?;
        Ok(())
    }
}

impl Backend for SledBackend {
    fn append(
        &mut self,
        entries: &[WalEntry],
        committed: Option<LogPosition>,
    ) -> Result<u64, WalError> {
        let mut bytes = 0;
        self.written = entries.last().map(WalEntry::position).or(self.written);
        self.committed = committed.or(self.committed);
        frame::pack(entries, committed, PACKING, |index, chunk, frame| {
            bytes += frame.len() as u64;
            self.log.insert(key(index, chunk), &frame[..]).map(drop)
        })?;
        Ok(bytes)
    }

    fn save_vote(&mut self, vote: &Bytes) -> Result<(), WalError> {
        self.put_meta(VOTE, |out| frame::encode_vote(out, vote))
    }

    fn save_committed(&mut self, committed: LogPosition) -> Result<(), WalError> {
        self.put_meta(COMMITTED, |out| frame::encode_committed(out, committed))?;
        self.committed = Some(committed);
        self.mark()
    }

    fn truncate_after(&mut self, index: Option<u64>) -> Result<(), WalError> {
        let kept = |end: &LogPosition| index.is_some_and(|index| end.index <= index);
        // What is left is committed as far as marks go; how far it reaches is for the next append.
        self.written = self.written.filter(kept);
        self.durable = self.durable.filter(kept);
        for item in self.log.iter().rev() {
            let (key, value) = item?;
            let (first, _) =
                parse_key(&key).ok_or_else(|| corrupt(&key, "key of a wrong length"))?;
            match index {
                Some(index) if first <= index => return self.shorten(&key, &value, index),
                _ => self.log.remove(&key)?,
            };
        }
        Ok(())
    }

    fn mark_purged(&mut self, position: LogPosition) -> Result<(), WalError> {
        self.put_meta(PURGED, |out| frame::encode_purge(out, position))?;
        self.purged = Some(position);
        if self
            .written
            .is_none_or(|written| written.index < position.index)
        {
            self.written = Some(position);
        }
        Ok(())
    }

    fn purge_slice(&mut self) -> Result<bool, WalError> {
        let Some(purged) = self.purged else {
            return Ok(false);
        };
        for item in self.log.iter().take(PURGE_SLICE_KEYS_MAX) {
            let (key, value) = item?;
            let (kind, count, first) =
                frame::peek(&value).ok_or_else(|| corrupt(&key, "not a frame"))?;
            let last = match kind {
                Kind::Entries => first + u64::from(count).saturating_sub(1),
                _ => first,
            };
            if last > purged.index {
                return Ok(false);
            }
            self.log.remove(&key)?;
        }
        Ok(!self.log.is_empty())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        self.syncs_since_mark += 1;
        if self.syncs_since_mark >= MARK_SYNCS {
            self.mark()?;
        }
        self.db.flush()?;
        let synced = match &self.syncing {
            Syncing::InFlush(file) => written(file).and_then(|()| reserve_segment(file)),
            Syncing::AfterFlush(file) => reserve_segment(file).and_then(|()| file.sync_data()),
            Syncing::Never => Ok(()),
        };
        synced.map_err(|error| WalError::io("fdatasync of the log database", error))?;
        self.durable = self.written;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(SledReader {
            log: self.log.clone(),
        })
    }
}

/// Whether sled's flush syncs its file; `write` writes and flushes.
#[cfg(target_os = "linux")]
fn flush_syncs(file: &File, write: impl FnOnce() -> sled::Result<()>) -> Result<bool, WalError> {
    Ok(super::sync_file_range::is_reached(file, write)?)
}

#[cfg(target_os = "linux")]
fn written(file: &File) -> std::io::Result<()> {
    super::sync_file_range::check_written(file)
}

#[cfg(target_os = "linux")]
fn never_sync(dir: &Path) -> Result<(), WalError> {
    File::open(dir.join(sled_check::DATA_FILE))
        .and_then(|file| super::sync_file_range::leave_unsynced(&file))
        .map_err(|error| WalError::io("opening the log database's file", error))
}

#[cfg(not(target_os = "linux"))]
fn flush_syncs(_: &File, write: impl FnOnce() -> sled::Result<()>) -> Result<bool, WalError> {
    write()?;
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn written(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn never_sync(_: &Path) -> Result<(), WalError> {
    Ok(())
}

/// Reserves the rest of the segment that sled is filling at the end of its file: a file that grows
/// with each write needs its inode written by each sync, which takes a third longer. sled itself
/// leaves the file like this whenever a segment is full. Without effect if there is no room, or if
/// the file system cannot reserve: writes do without, or say so.
fn reserve_segment(file: &File) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
    // Not fstat: a time of change that was asked for is made exact by the next write, and then the
    // inode is written after all.
    let len = seek(file, SeekFrom::End(0))?;
    let missing = len.next_multiple_of(SEGMENT_BYTES as u64) - len;
    if missing > 0 && fallocate(file, FallocateFlags::empty(), len, missing).is_err() {
        tracing::debug!(len, missing, "no space reserved for the log");
    }
    Ok(())
}

impl SledBackend {
    /// Leaves a mark of what is durable and committed by now.
    fn mark(&mut self) -> Result<(), WalError> {
        self.syncs_since_mark = 0;
        let Some(durable) = self.durable else {
            return Ok(());
        };
        let Some(committed) = frame::lower(self.committed, durable) else {
            return Ok(());
        };
        self.put_meta(MARK, |out| self.marks.encode(out, committed))
    }

    /// Rewrites the frame that holds `index` so that it ends there.
    fn shorten(&self, key: &IVec, value: &IVec, index: u64) -> Result<(), WalError> {
        let (kind, count, first) = frame::peek(value).ok_or_else(|| corrupt(key, "not a frame"))?;
        if kind != Kind::Entries || first + u64::from(count) <= index + 1 {
            return Ok(());
        }
        let damaged = |reason| corrupt(key, reason);
        let frame = decode(key, value)?;
        let mut entries = frame.entries().map_err(damaged)?;
        entries.retain(|entry| entry.index <= index);
        frame::pack(&entries, frame.committed, PACKING, |_, _, shorter| {
            self.log.insert(key, &shorter[..]).map(drop)
        })?;
        Ok(())
    }
}

/// Entries of one frame, or of all the chunks of one entry.
struct Found {
    entries: Vec<WalEntry>,
    committed: Option<LogPosition>,
}

/// Walks frames from a key on, joins chunks, checks everything.
struct Frames {
    items: sled::Iter,
}

impl Frames {
    fn new(log: &Tree, from: [u8; 12]) -> Self {
        Self {
            items: log.range(from..),
        }
    }

    fn frame(&mut self) -> Option<Result<(IVec, Frame), WalError>> {
        let (key, value) = match self.items.next()? {
            Ok(item) => item,
            Err(error) => return Some(Err(error.into())),
        };
        Some(match decode(&key, &value) {
            Err(error) => Err(error),
            Ok(frame) if parse_key(&key).is_none_or(|(index, _)| index != frame.index) => {
                Err(corrupt(&key, "stored under another index"))
            }
            Ok(frame) if frame.encoded_bytes() != value.len() => {
                Err(corrupt(&key, "bytes behind the frame"))
            }
            Ok(frame) => Ok((key, frame)),
        })
    }

    fn join(&mut self, key: &IVec, first: &Frame) -> Result<Found, WalError> {
        let damaged = |reason| corrupt(key, reason);
        let head = first.chunk().map_err(damaged)?;
        let mut committed = first.committed;
        let mut payload = BytesMut::from(&head.piece[..]);
        if head.number != 0 {
            return Err(damaged("the first chunks are missing"));
        }
        for number in 1..first.count {
            let (_, frame) = self
                .frame()
                .ok_or_else(|| damaged("the last chunks are missing"))??;
            if frame.kind != Kind::Chunk || frame.index != first.index {
                return Err(damaged("the last chunks are missing"));
            }
            let chunk = frame.chunk().map_err(damaged)?;
            if chunk.number != number || chunk.term != head.term {
                return Err(damaged("chunks do not belong together"));
            }
            committed = frame.committed.or(committed);
            payload.extend_from_slice(&chunk.piece);
        }
        if payload.len() != head.payload_bytes as usize {
            return Err(damaged("chunks of a wrong length"));
        }
        let entry = WalEntry {
            index: first.index,
            term: head.term,
            kind: head.kind,
            payload: payload.freeze(),
        };
        Ok(Found {
            entries: vec![entry],
            committed,
        })
    }
}

impl Iterator for Frames {
    type Item = Result<Found, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, frame) = match self.frame()? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        Some(match frame.kind {
            Kind::Entries => frame
                .entries()
                .map(|entries| Found {
                    entries,
                    committed: frame.committed,
                })
                .map_err(|reason| corrupt(&key, reason)),
            Kind::Chunk => self.join(&key, &frame),
            _ => Err(corrupt(&key, "a kind of frame that is not of the log")),
        })
    }
}

/// The readers' side: sled's trees may be read from any thread.
struct SledReader {
    log: Tree,
}

impl Reader for SledReader {
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        let mut entries: Vec<WalEntry> = Vec::new();
        if range.is_empty() {
            return Ok(entries);
        }
        let start = match self.log.range(..=key(range.start, 0)).next_back() {
            Some(item) => parse_key(&item?.0).map_or(range.start, |(index, _)| index),
            None => return Err(WalError::Missing { index: range.start }),
        };
        let mut bytes = 0;
        let mut frames = Frames::new(&self.log, key(start, 0));
        // Not a frame further: what lies behind may just be written, or cut.
        while range.start + (entries.len() as u64) < range.end
            && let Some(found) = frames.next()
        {
            for entry in found?.entries {
                let next = range.start + entries.len() as u64;
                if entry.index < next {
                    continue;
                }
                let full = !entries.is_empty() && bytes + entry.payload.len() > bytes_max;
                if entry.index != next || entry.index >= range.end || full {
                    return non_empty(entries, range.start);
                }
                bytes += entry.payload.len();
                entries.push(entry);
            }
        }
        non_empty(entries, range.start)
    }
}

fn non_empty(entries: Vec<WalEntry>, index: u64) -> Result<Vec<WalEntry>, WalError> {
    if entries.is_empty() {
        Err(WalError::Missing { index })
    } else {
        Ok(entries)
    }
}

#[cfg(test)]
#[path = "sled_tests.rs"]
mod tests;
