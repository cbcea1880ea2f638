//! The log as plain append files: the reference that sled is measured and tested against.
//!
//! A directory of segments (`file_segment`), each a row of frames: entries, and the operations on
//! them (vote, truncate, purge, commit) in the order they happened. Recovery replays them. Every
//! segment begins with the vote, purge mark and commit as they stood, so old ones can be deleted
//! from the front. Entries are found through an index in memory.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;

use super::api::{Cut, LogPosition, Recovered, WalEntry};
use super::backend::{Backend, PURGE_SLICE_KEYS_MAX, Reader};
use super::error::WalError;
use super::file_segment::{self, Walk};
use super::frame::{self, Frame, FrameError, Kind, Packing};
use super::sled_check::sync_dirs;

/// A segment is closed once it is larger: the unit in which purged space is freed.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Frames large enough that their heads do not count, small enough to be torn alone.
const PACKING: Packing = Packing {
    frame_bytes_max: 256 << 10,
    chunk_bytes_max: None,
};

/// Where an entry's payload stands.
struct Slot {
    term: u64,
    kind: u8,
    file: Arc<File>,
    offset: u64,
    bytes: usize,
}

/// Entries present: `slots[i]` belongs to index `first + i`.
#[derive(Default)]
struct Index {
    first: u64,
    slots: VecDeque<Slot>,
}

impl Index {
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.first = index;
        }
        self.slots.push_back(slot);
    }

    /// Drops entries from `next` on.
    fn truncate(&mut self, next: u64) {
        self.slots
            .truncate(next.saturating_sub(self.first) as usize);
    }

    /// Drops entries up to `last`.
    fn purge(&mut self, last: u64) {
        let gone = (last + 1)
            .saturating_sub(self.first)
            .min(self.slots.len() as u64);
        self.slots.drain(..gone as usize);
        self.first += gone;
    }

    fn last(&self) -> Option<LogPosition> {
        let slot = self.slots.back()?;
        Some(LogPosition {
            term: slot.term,
            index: self.next() - 1,
        })
    }
}

/// A closed segment.
struct Closed {
    path: PathBuf,
    /// Highest index any of its frames holds.
    last: u64,
}

/// What every segment repeats at its beginning.
#[derive(Default)]
struct State {
    vote: Option<Bytes>,
    purged: Option<LogPosition>,
    committed: Option<LogPosition>,
}

/// The writer's side.
pub(super) struct FileBackend {
    dir: PathBuf,
    sync: bool,
    closed: VecDeque<Closed>,
    number: u64,
    file: Arc<File>,
    bytes: u64,
    last_in_file: u64,
    state: State,
    index: Arc<RwLock<Index>>,
}

impl FileBackend {
    /// Opens or creates the log in `dir` and recovers it.
    ///
    /// # Errors
    /// Those of the disk; damage is cut and reported in [`Recovered::cut`] instead.
    pub(super) fn open(dir: &Path, unsafe_no_fsync: bool) -> Result<(Self, Recovered), WalError> {
        fs::create_dir_all(dir)
            .map_err(|error| WalError::io(format!("creating {}", dir.display()), error))?;
        let numbers = file_segment::list(dir)?;
        let mut replay = Replay {
            may_lack: last_purge(dir, &numbers)?,
            ..Replay::default()
        };
        let mut cut = None;
        for number in &numbers {
            let path = file_segment::path_of(dir, *number);
            if cut.is_some() {
                replay.count_behind(&mut cut, &path)?;
            } else {
                cut = replay.segment(&path)?;
            }
        }
        if let Some(cut) = &cut {
            file_segment_cut(dir, &numbers, &replay, cut)?;
        }
        let number = numbers.last().map_or(0, |last| last + 1);
        let file = Arc::new(file_segment::create(dir, number)?);
        let mut backend = Self {
            dir: dir.to_path_buf(),
            sync: !unsafe_no_fsync,
            closed: replay.closed,
            number,
            file,
            bytes: 0,
            last_in_file: 0,
            state: replay.state,
            index: Arc::new(RwLock::new(replay.index)),
        };
        backend.write_state()?;
        backend.sync()?;
        if backend.sync {
            sync_dirs(dir)?;
        }
        let mut recovered = backend.recovered(cut);
        recovered.clamp_committed();
        Ok((backend, recovered))
    }

    fn recovered(&self, cut: Option<Cut>) -> Recovered {
        let index = self.index.read();
        Recovered {
            vote: self.state.vote.clone(),
            committed: self.state.committed,
            purged: self.state.purged,
            first: (!index.slots.is_empty()).then_some(index.first),
            last: index.last(),
            cut,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        self.file.write_all_at(bytes, self.bytes).map_err(|error| {
            let path = file_segment::path_of(&self.dir, self.number);
            WalError::io(format!("writing {}", path.display()), error)
        })?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn write_frame(&mut self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), WalError> {
        let mut buffer = BytesMut::new();
        encode(&mut buffer);
        self.write(&buffer)
    }

    fn write_state(&mut self) -> Result<(), WalError> {
        let mut buffer = BytesMut::new();
        if let Some(vote) = &self.state.vote {
            frame::encode_vote(&mut buffer, vote);
        }
        if let Some(purged) = self.state.purged {
            frame::encode_purge(&mut buffer, purged);
        }
        if let Some(committed) = self.state.committed {
            frame::encode_committed(&mut buffer, committed);
        }
        self.write(&buffer)
    }

    /// Starts the next segment. The old one is whole on the disk before the new one exists.
    fn roll(&mut self) -> Result<(), WalError> {
        self.sync()?;
        let path = file_segment::path_of(&self.dir, self.number);
        self.closed.push_back(Closed {
            path,
            last: self.last_in_file,
        });
        self.number += 1;
        self.file = Arc::new(file_segment::create(&self.dir, self.number)?);
        self.bytes = 0;
        self.last_in_file = 0;
        self.write_state()?;
        if self.sync {
            sync_dirs(&self.dir)?;
        }
        Ok(())
    }
}

/// Cuts the damaged segment at its last valid frame and removes those behind it.
fn file_segment_cut(
    dir: &Path,
    numbers: &[u64],
    replay: &Replay,
    cut: &Cut,
) -> Result<(), WalError> {
    super::open::log_cut("append file", cut);
    let damaged = replay.closed.len().saturating_sub(1);
    for (position, number) in numbers.iter().enumerate().rev() {
        let path = file_segment::path_of(dir, *number);
        let io = |error| WalError::io(format!("cutting {}", path.display()), error);
        if position > damaged {
            fs::remove_file(&path).map_err(io)?;
        } else if position == damaged {
            let file = File::options().write(true).open(&path).map_err(io)?;
            file.set_len(replay.valid_bytes)
                .and_then(|()| file.sync_all())
                .map_err(io)?;
        }
    }
    sync_dirs(dir)
}

/// Rebuilds index and state from the frames, in order.
#[derive(Default)]
struct Replay {
    index: Index,
    state: State,
    closed: VecDeque<Closed>,
    /// Length of the valid part of the last segment replayed.
    valid_bytes: u64,
    /// Entries below are purged by a later frame: their segments may be gone.
    may_lack: u64,
}

/// First index that no purge mark covers.
fn last_purge(dir: &Path, numbers: &[u64]) -> Result<u64, WalError> {
    let mut next = 0;
    for number in numbers {
        let mut walk = Walk::open(&file_segment::path_of(dir, *number))?;
        while let Some(step) = walk.step() {
            match step {
                Ok((_, frame)) if frame.kind == Kind::Purge => next = next.max(frame.index + 1),
                Ok(_) => {}
                Err(_) => return Ok(next),
            }
        }
    }
    Ok(next)
}

impl Replay {
    /// Replays one segment; returns what must be cut, if anything.
    fn segment(&mut self, path: &Path) -> Result<Option<Cut>, WalError> {
        let mut walk = Walk::open(path)?;
        let file = File::open(path)
            .map_err(|error| WalError::io(format!("opening {}", path.display()), error))?;
        let file = Arc::new(file);
        let mut last = 0;
        let mut reason = None;
        while reason.is_none() {
            self.valid_bytes = walk.offset() as u64;
            match walk.step() {
                None => break,
                Some(Ok((offset, frame))) => {
                    reason = self.frame(&file, offset, &frame, &mut last).err();
                }
                Some(Err(FrameError::Damaged(torn))) => reason = Some(torn),
                Some(Err(newer)) => {
                    let at = || format!("{} at offset {}", path.display(), walk.offset());
                    return Err(newer.at(at));
                }
            }
        }
        self.closed.push_back(Closed {
            path: path.to_path_buf(),
            last,
        });
        Ok(reason.map(|reason| Cut {
            index: self.next().unwrap_or(0),
            reason: format!(
                "{} at offset {}: {reason}",
                path.display(),
                self.valid_bytes
            ),
            valid_frames_behind: walk.valid_frames_behind(),
        }))
    }

    fn count_behind(&self, cut: &mut Option<Cut>, path: &Path) -> Result<(), WalError> {
        if let Some(cut) = cut {
            cut.valid_frames_behind += Walk::open(path)?.valid_frames_behind();
        }
        Ok(())
    }

    fn next(&self) -> Option<u64> {
        if self.index.slots.is_empty() {
            self.state.purged.map(|purged| purged.index + 1)
        } else {
            Some(self.index.next())
        }
    }

    fn frame(
        &mut self,
        file: &Arc<File>,
        offset: usize,
        frame: &Frame,
        last: &mut u64,
    ) -> Result<(), &'static str> {
        match frame.kind {
            Kind::Entries => {
                let entries = frame.entries()?;
                if self.next().is_some_and(|next| frame.index > next) {
                    if frame.index > self.may_lack {
                        return Err("entries are missing before this frame");
                    }
                    self.index = Index::default();
                }
                if self.next().is_some_and(|next| frame.index < next)
                    && !self.index.slots.is_empty()
                {
                    return Err("entries overlap without a truncation");
                }
                place(&mut self.index, file, offset as u64, &entries);
                *last = (*last).max(frame.index + entries.len() as u64 - 1);
                if let Some(purged) = self.state.purged {
                    self.index.purge(purged.index);
                }
            }
            Kind::Vote => self.state.vote = Some(frame.body.clone()),
            Kind::Truncate => self.index.truncate(frame.index),
            Kind::Purge => {
                let purged = frame.purged()?;
                self.index.purge(purged.index);
                self.state.purged = Some(purged);
            }
            Kind::Committed => {}
            Kind::Chunk => return Err("a kind of frame that is not of this file"),
        }
        let newer = |known: LogPosition| frame.committed.is_some_and(|c| c.index > known.index);
        if self.state.committed.is_none_or(newer) {
            self.state.committed = frame.committed.or(self.state.committed);
        }
        Ok(())
    }
}

/// Enters the entries of a frame at `offset` into the index.
fn place(index: &mut Index, file: &Arc<File>, offset: u64, entries: &[WalEntry]) {
    let mut at = offset + frame::HEADER_BYTES as u64;
    for entry in entries {
        at += frame::ENTRY_HEAD_BYTES as u64;
        let slot = Slot {
            term: entry.term,
            kind: entry.kind,
            file: Arc::clone(file),
            offset: at,
            bytes: entry.payload.len(),
        };
        index.push(entry.index, slot);
        at += entry.payload.len() as u64;
    }
}

impl Backend for FileBackend {
    fn append(
        &mut self,
        entries: &[WalEntry],
        committed: Option<LogPosition>,
    ) -> Result<u64, WalError> {
        if self.bytes > SEGMENT_BYTES_MAX {
            self.roll()?;
        }
        let mut buffer = BytesMut::new();
        let mut starts = Vec::new();
        frame::pack(entries, committed, PACKING, |index, _, frame| {
            starts.push((index, self.bytes + buffer.len() as u64));
            buffer.extend_from_slice(frame);
            Ok::<_, WalError>(())
        })?;
        self.write(&buffer)?;
        let mut rest = entries;
        let mut index = self.index.write();
        for (position, (_, offset)) in starts.iter().enumerate() {
            let end = starts
                .get(position + 1)
                .map_or(u64::MAX, |(first, _)| *first);
            let (frame, after) = rest.split_at(rest.partition_point(|entry| entry.index < end));
            place(&mut index, &self.file, *offset, frame);
            rest = after;
        }
        drop(index);
        if let Some(last) = entries.last() {
            self.last_in_file = self.last_in_file.max(last.index);
            self.state.committed =
                frame::lower(committed, last.position()).or(self.state.committed);
        }
        Ok(buffer.len() as u64)
    }

    fn save_vote(&mut self, vote: &Bytes) -> Result<(), WalError> {
        self.state.vote = Some(vote.clone());
        self.write_frame(|out| frame::encode_vote(out, vote))
    }

    fn save_committed(&mut self, committed: LogPosition) -> Result<(), WalError> {
        self.state.committed = Some(committed);
        self.write_frame(|out| frame::encode_committed(out, committed))
    }

    fn truncate_after(&mut self, index: Option<u64>) -> Result<(), WalError> {
        let next = index.map_or(0, |index| index + 1);
        self.index.write().truncate(next);
        self.write_frame(|out| frame::encode_truncate(out, next))
    }

    fn mark_purged(&mut self, position: LogPosition) -> Result<(), WalError> {
        self.index.write().purge(position.index);
        self.state.purged = Some(position);
        self.write_frame(|out| frame::encode_purge(out, position))
    }

    fn purge_slice(&mut self) -> Result<bool, WalError> {
        let Some(purged) = self.state.purged else {
            return Ok(false);
        };
        for _ in 0..PURGE_SLICE_KEYS_MAX {
            let Some(closed) = self
                .closed
                .pop_front_if(|closed| closed.last <= purged.index)
            else {
                return Ok(false);
            };
            fs::remove_file(&closed.path).map_err(|error| {
                WalError::io(format!("removing {}", closed.path.display()), error)
            })?;
        }
        Ok(true)
    }

    fn sync(&mut self) -> Result<(), WalError> {
        if !self.sync {
            return Ok(());
        }
        self.file.sync_data().map_err(|error| {
            let path = file_segment::path_of(&self.dir, self.number);
            WalError::io(format!("fdatasync of {}", path.display()), error)
        })
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(FileReader {
            index: Arc::clone(&self.index),
        })
    }
}

/// The readers' side.
struct FileReader {
    index: Arc<RwLock<Index>>,
}

impl Reader for FileReader {
    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let index = self.index.read();
        let first = range
            .start
            .checked_sub(index.first)
            .filter(|offset| *offset < index.slots.len() as u64)
            .ok_or(WalError::Missing { index: range.start })?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (slot, index) in index.slots.range(first as usize..).zip(range) {
            if !entries.is_empty() && bytes + slot.bytes > bytes_max {
                break;
            }
            bytes += slot.bytes;
            let mut payload = vec![0; slot.bytes];
            slot.file
                .read_exact_at(&mut payload, slot.offset)
                .map_err(|error| WalError::io(format!("reading log entry {index}"), error))?;
            let payload = payload.into();
            entries.push(WalEntry {
                index,
                term: slot.term,
                kind: slot.kind,
                payload,
            });
        }
        Ok(entries)
    }
}
