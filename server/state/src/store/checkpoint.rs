//! The keeper's work, step by step: what it knows of the disk, and the checkpoint (design R2, R3).
//!
//! ```text
//! 1 freeze       apply thread, Store::freeze
//! 2 records      appended to the open segment, synced
//! 3 state, bits  delta appended, garbage bits written if they changed, synced
//! 4 manifest     tmp, sync, rename, sync directory: commit
//! 5 table        tails replaced by chunks
//! 6 raft is told by the caller, and may purge its log (G3)
//! ```
//!
//! Nothing that a manifest names is ever changed: a crash at any byte leaves what it names whole.
//! After a fatal error nothing more is written: what the disk holds is not known any more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::Chunk;
use super::codec::{FileKind, header};
use super::dead::{DeadSnapshot, set_slots};
use super::dead_file::{self, DeadMap};
use super::disk::Disk;
use super::error::StoreError;
use super::manifest::{FileEntry, MANIFEST, MANIFEST_TMP, Manifest, Position, SegmentEntry};
use super::segment::{
    DEAD, Names, STATE, Segment, SegmentWriter, StoreFile, Undo, discard, sync, write_all,
};
use super::state_file::{self, StateDelta};
use super::table::{FrozenDead, FrozenPart, Shared, Table};
use super::transfer::{CheckpointFile, CheckpointFileKind};

/// What the apply thread hands to the keeper: a position, and everything that belongs to it. The
/// records themselves stay readable in the table; dropping this loses nothing but the attempt.
pub struct Frozen {
    pub(crate) sequence: u64,
    pub(crate) epoch: u64,
    pub(crate) position: Position,
    pub(crate) dead: FrozenDead,
}

impl Frozen {
    /// The position that the checkpoint will have.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

/// A durable checkpoint, and handles that keep its files readable for as long as it is held.
pub struct Checkpoint {
    position: Position,
    pub(crate) manifest: Bytes,
    pub(crate) files: Vec<CheckpointFile>,
}

impl Checkpoint {
    /// What the checkpoint stands for.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

/// A file with its valid length.
#[derive(Clone)]
pub(crate) struct StateFile {
    pub(crate) file: Arc<StoreFile>,
    pub(crate) len: u64,
    /// Length when the file was last written whole.
    pub(crate) base_len: u64,
}

/// A file of garbage bits, and what it says.
#[derive(Clone)]
pub(crate) struct DeadFile {
    pub(crate) file: Arc<StoreFile>,
    pub(crate) len: u64,
    pub(crate) bits: DeadMap,
}

/// The files a manifest names.
#[derive(Clone, Default)]
pub(crate) struct Files {
    pub(crate) segments: Vec<Segment>,
    pub(crate) state: Option<StateFile>,
    pub(crate) dead: Option<DeadFile>,
}

impl Files {
    /// All chunks in revision order.
    pub(crate) fn chunks(&self) -> Vec<Arc<Chunk>> {
        let held = self.segments.iter().flat_map(|segment| &segment.chunks);
        held.map(|held| held.chunk.clone()).collect()
    }

    fn numbers(&self) -> BTreeSet<u64> {
        self.all().map(|(_, file, _)| file.number).collect()
    }

    fn all(&self) -> impl Iterator<Item = (CheckpointFileKind, &Arc<StoreFile>, u64)> {
        let segments = self
            .segments
            .iter()
            .map(|segment| (CheckpointFileKind::Segment, &segment.file, segment.len));
        let state = self
            .state
            .iter()
            .map(|state| (CheckpointFileKind::State, &state.file, state.len));
        let dead = self
            .dead
            .iter()
            .map(|dead| (CheckpointFileKind::Dead, &dead.file, dead.len));
        segments.chain(state).chain(dead)
    }

    fn set_durable_dead(&mut self, bits: Vec<DeadSnapshot>) {
        let held = self
            .segments
            .iter_mut()
            .flat_map(|segment| &mut segment.chunks);
        for (held, bits) in held.zip(bits) {
            held.set_durable_dead(bits);
        }
    }

    fn dead_map(&self) -> DeadMap {
        let held = self
            .segments
            .iter()
            .enumerate()
            .flat_map(|(place, segment)| {
                let chunks = segment.chunks.iter().enumerate();
                chunks.map(move |(ordinal, held)| (place, ordinal, held.durable_dead.clone()))
            });
        dead_file::collect(held)
    }
}

/// The keeper's state: what is durable. Only one thread at a time has it.
pub(crate) struct Core {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment_seal_bytes: u64,
    pub(crate) segment_merge_bytes_max: u64,
    pub(crate) names: Names,
    pub(crate) position: Option<Position>,
    pub(crate) files: Files,
    /// Counts installs: what was frozen before one is worth nothing after it.
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    /// Counts the checkpoints we began to receive: only the latest may be installed.
    pub(crate) install_attempt: u64,
    pub(crate) poisoned: bool,
    /// Files without a name that others may still read. The last close of one gives its space back,
    /// which takes long, so that it happens here and not where someone waits.
    pub(crate) retired: Vec<Arc<StoreFile>>,
    pub(crate) shared: Arc<Shared>,
}

impl Core {
    /// Runs one piece of work. After a failure that is not fatal, what it wrote is taken back;
    /// after a fatal one, nothing is touched any more.
    pub(crate) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Core, &mut Undo) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let mut undo = Undo::default();
        let result = work(self, &mut undo);
        if let Err(error) = &result {
            if error.is_fatal() {
                self.poisoned = true;
            } else {
                undo.run(&*self.disk);
            }
        }
        result
    }

    /// Makes a frozen position durable. One that is older than the durable one changes nothing.
    pub(crate) fn checkpoint(&mut self, frozen: &Frozen) -> Result<Arc<Checkpoint>, StoreError> {
        if frozen.epoch != self.epoch {
            return Err(StoreError::Superseded);
        }
        if frozen.sequence > self.sequence || self.position.is_none() {
            self.attempt(|core, undo| core.write_checkpoint(frozen, undo))?;
            self.sequence = frozen.sequence;
        }
        self.shared.current.load_full().ok_or(StoreError::ShutDown)
    }

    fn write_checkpoint(&mut self, frozen: &Frozen, undo: &mut Undo) -> Result<(), StoreError> {
        let table = self.shared.table.load_full();
        let due = |part: &&Arc<FrozenPart>| part.sequence <= frozen.sequence;
        let parts: Vec<Arc<FrozenPart>> = table.frozen.iter().filter(due).cloned().collect();

        let mut files = self.files.clone();
        self.write_records(&mut files, &parts, frozen, undo)?;
        self.write_state(&mut files, &parts, undo)?;
        files.set_durable_dead(frozen.dead.for_chunks(&files.chunks()));
        self.write_dead(&mut files, undo)?;
        self.commit(files, frozen.position.clone(), undo)?;
        self.swap_tails(&parts, frozen);
        Ok(())
    }

    fn write_records(
        &mut self,
        files: &mut Files,
        parts: &[Arc<FrozenPart>],
        frozen: &Frozen,
        undo: &mut Undo,
    ) -> Result<(), StoreError> {
        if parts.iter().all(|part| part.tail.len() == 0) {
            return Ok(());
        }
        let last = files.segments.pop();
        let seal_bytes = self.segment_seal_bytes;
        let mut writer = SegmentWriter::new(&*self.disk, seal_bytes, &mut self.names, undo, last);
        for part in parts {
            let dead = frozen.dead.of_tail(&part.tail);
            let view = part.tail.view();
            for slot in 0..view.len() {
                // Garbage as of the position being committed need not be written at all: the same
                // manifest has its compaction (G1) and the bits of its older records (G2).
                if super::dead::is_dead(&dead, slot) {
                    continue;
                }
                if let Some(found) = view.get(slot) {
                    writer.push(&found.header, &found.record)?;
                }
            }
        }
        files.segments.extend(writer.finish()?);
        Ok(())
    }

    fn write_state(
        &mut self,
        files: &mut Files,
        parts: &[Arc<FrozenPart>],
        undo: &mut Undo,
    ) -> Result<(), StoreError> {
        let mut delta = StateDelta::new();
        for part in parts {
            delta.extend(
                part.state
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        if delta.is_empty() {
            return Ok(());
        }
        let bytes = state_file::encode(delta.iter().map(|(key, value)| (key, value.as_ref())));
        if let Some(state) = &mut files.state {
            let len = state.len + bytes.len() as u64;
            if !state_file::should_rewrite(len, state.base_len) {
                undo.append(&state.file, state.len);
                write_all(&state.file, &bytes, state.len)?;
                sync(&state.file)?;
                state.len = len;
                return Ok(());
            }
        }
        let mut items = match &files.state {
            Some(state) => state_file::load(&state.file, state.len)?,
            None => state_file::StateItems::new(),
        };
        for (key, value) in delta {
            match value {
                Some(value) => items.insert(key, value),
                None => items.remove(&key),
            };
        }
        let mut bytes = header(FileKind::State);
        bytes.extend(state_file::encode(
            items.iter().map(|(key, value)| (key, Some(value))),
        ));
        let file = undo.create(&*self.disk, self.names.take(STATE))?;
        write_all(&file, &bytes, 0)?;
        sync(&file)?;
        let len = bytes.len() as u64;
        files.state = Some(StateFile {
            file,
            len,
            base_len: len,
        });
        Ok(())
    }

    /// Writes the garbage bits if they are not those of the file there is.
    pub(crate) fn write_dead(
        &mut self,
        files: &mut Files,
        undo: &mut Undo,
    ) -> Result<(), StoreError> {
        let bits = files.dead_map();
        if files.dead.as_ref().is_some_and(|dead| dead.bits == bits) {
            return Ok(());
        }
        if bits.is_empty() {
            files.dead = None;
            return Ok(());
        }
        let bytes = dead_file::encode(&bits);
        let file = undo.create(&*self.disk, self.names.take(DEAD))?;
        write_all(&file, &bytes, 0)?;
        sync(&file)?;
        files.dead = Some(DeadFile {
            file,
            len: bytes.len() as u64,
            bits,
        });
        Ok(())
    }

    /// Makes `files` and `position` what the store is, and unlinks what it no longer needs.
    pub(crate) fn commit(
        &mut self,
        files: Files,
        position: Position,
        undo: &Undo,
    ) -> Result<(), StoreError> {
        if undo.has_created() {
            self.sync_dir()?;
        }
        self.write_manifest(&files, Some(&position))?;
        let old = std::mem::replace(&mut self.files, files);
        self.position = Some(position);
        self.publish();
        self.close_retired();
        let kept = self.files.numbers();
        for (_, file, _) in old
            .all()
            .filter(|(_, file, _)| !kept.contains(&file.number))
        {
            discard("remove", &file.path, self.disk.remove(&file.path));
            self.retired.push(Arc::clone(file));
        }
        Ok(())
    }

    /// Closes the files that nobody reads any more. Whether some are still read.
    pub(crate) fn close_retired(&mut self) -> bool {
        self.retired.retain(|file| Arc::strong_count(file) > 1);
        !self.retired.is_empty()
    }

    /// Writes and renames a manifest: the commit point of everything.
    pub(crate) fn write_manifest(
        &self,
        files: &Files,
        position: Option<&Position>,
    ) -> Result<(), StoreError> {
        let bytes = self.manifest(files, position).encode();
        let (tmp, path) = (self.dir.join(MANIFEST_TMP), self.dir.join(MANIFEST));
        let written = self.write_tmp(&tmp, &bytes).and_then(|()| {
            self.disk
                .rename(&tmp, &path)
                .map_err(StoreError::io("rename", &tmp))
        });
        if let Err(error) = written {
            if !error.is_fatal() {
                discard("remove", &tmp, self.disk.remove(&tmp));
            }
            return Err(error);
        }
        self.sync_dir()
    }

    fn write_tmp(&self, tmp: &std::path::Path, bytes: &[u8]) -> Result<(), StoreError> {
        let handle = self
            .disk
            .create(tmp)
            .map_err(StoreError::io("create", tmp))?;
        let file = StoreFile {
            number: 0,
            path: tmp.to_path_buf(),
            handle,
        };
        write_all(&file, bytes, 0)?;
        sync(&file)
    }

    pub(crate) fn sync_dir(&self) -> Result<(), StoreError> {
        self.disk
            .sync_dir(&self.dir)
            .map_err(StoreError::io("sync", &self.dir))
    }

    fn manifest(&self, files: &Files, position: Option<&Position>) -> Manifest {
        let entry = |file: &Arc<StoreFile>, len| FileEntry {
            number: file.number,
            len,
        };
        let segments = files.segments.iter().map(|segment| SegmentEntry {
            file: entry(&segment.file, segment.len),
            records: segment.records(),
        });
        Manifest {
            next_number: self.names.next(),
            position: position.cloned(),
            state: files
                .state
                .as_ref()
                .map(|state| entry(&state.file, state.len)),
            state_base_len: files.state.as_ref().map_or(0, |state| state.base_len),
            dead: files.dead.as_ref().map(|dead| entry(&dead.file, dead.len)),
            segments: segments.collect(),
        }
    }

    /// Lets others see the durable checkpoint.
    pub(crate) fn publish(&self) {
        let checkpoint = self.position.as_ref().map(|position| {
            let manifest = self.manifest(&self.files, Some(position));
            Arc::new(Checkpoint {
                position: position.clone(),
                manifest: Bytes::from(manifest.encode()),
                files: self
                    .files
                    .all()
                    .map(|(kind, file, len)| CheckpointFile::new(kind, file.clone(), len))
                    .collect(),
            })
        });
        self.shared.current.store(checkpoint);
    }

    /// Puts the new chunks in the place of the tails they were written from.
    fn swap_tails(&self, parts: &[Arc<FrozenPart>], frozen: &Frozen) {
        let _swap = self.shared.swap.lock();
        let old = self.shared.table.load_full();
        let written = |part: &Arc<FrozenPart>| parts.iter().any(|done| Arc::ptr_eq(done, part));
        let table = Table {
            chunks: self.files.chunks(),
            frozen: old
                .frozen
                .iter()
                .filter(|part| !written(part))
                .cloned()
                .collect(),
            tail: old.tail.clone(),
        };
        for part in parts {
            let view = part.tail.view();
            let seen = frozen.dead.of_tail(&part.tail);
            for slot in newly_set(&part.tail.dead_snapshot(), &seen) {
                if let Some(found) = view.get(slot) {
                    table.mark_dead(found.header.revision);
                }
            }
        }
        self.shared.table.store(Arc::new(table));
    }
}

/// Slots set in `now` and not in `seen`.
pub(crate) fn newly_set(now: &DeadSnapshot, seen: &DeadSnapshot) -> Vec<usize> {
    let now = now.as_deref().unwrap_or_default();
    let seen = seen.as_deref().unwrap_or_default();
    let seen = seen.iter().copied().chain(std::iter::repeat(0));
    let fresh: Vec<u64> = now
        .iter()
        .zip(seen)
        .map(|(now, seen)| now & !seen)
        .collect();
    set_slots(&fresh).collect()
}
