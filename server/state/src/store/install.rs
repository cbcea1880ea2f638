//! Taking over another member's checkpoint (store-notes 5, Install).
//!
//! ```text
//! 1 Incoming::begin, write   into incoming/, within the lengths of the manifest
//! 2 Incoming::finish         every checksum verified; the caller builds its index meanwhile
//! 3 KeeperHandle::install    synced, renamed under fresh numbers, both directories synced,
//! 5                          manifest: commit
//! 6 Store::replace           apply thread
//! ```
//!
//! (Step 4, cutting a conflicting log, is the raft layer's, between 2 and 3.) Until the manifest
//! is committed the old store is untouched; what is left of an attempt is removed at the next one
//! or at the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::{Core, DeadFile, Files, StateFile};
use super::chunk::{Chunk, IndexEntry};
use super::codec::read_checked;
use super::dead::{DeadSnapshot, is_dead};
use super::dead_file::{self, DeadMap};
use super::disk::Disk;
use super::error::StoreError;
use super::manifest::{FileEntry, MANIFEST, MANIFEST_BYTES_MAX, Manifest, Position};
use super::record::RecordHeader;
use super::segment::{DEAD, SEGMENT, STATE, Segment, StoreFile, Undo, discard, file_name, sync};
use super::state_file::{self, StateItems};
use super::transfer::TRANSFER_BYTES_MAX;

/// Directory of what is being received, within the store directory.
pub(crate) const INCOMING: &str = "incoming";

/// A checkpoint being received. One at a time.
pub struct Incoming {
    attempt: u64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    manifest: Manifest,
    position: Position,
    files: Vec<IncomingFile>,
}

struct IncomingFile {
    file: Arc<StoreFile>,
    len: u64,
    received: u64,
}

/// A checkpoint received whole and verified, not yet ours.
pub struct Received {
    attempt: u64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    position: Position,
    files: Files,
    state: StateItems,
}

/// A checkpoint that is durably ours; the apply thread has yet to switch to it.
pub struct Installed {
    pub(crate) epoch: u64,
    pub(crate) chunks: Vec<Arc<Chunk>>,
    pub(crate) recovered: Recovered,
}

/// What a store holds beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The checkpoint's position; absent in a store that never had one.
    pub position: Option<Position>,
    /// All state items.
    pub state: StateItems,
}

impl Incoming {
    fn begin(
        attempt: u64,
        disk: Arc<dyn Disk>,
        store_dir: &Path,
        cluster_id: u64,
        manifest: &[u8],
    ) -> Result<Incoming, StoreError> {
        let dir = store_dir.join(INCOMING);
        let path = dir.join(MANIFEST);
        if manifest.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(StoreError::Refused(format!(
                "manifest of {} bytes",
                manifest.len()
            )));
        }
        // Damage on the way is the sender's matter: refused, and asked for again.
        let refuse = |error: StoreError| StoreError::Refused(error.to_string());
        let manifest = Manifest::decode(manifest, &path).map_err(refuse)?;
        let position = manifest
            .position
            .clone()
            .ok_or_else(|| StoreError::Refused("checkpoint without a position".into()))?;
        if cluster_id != position.cluster_id {
            let theirs = position.cluster_id;
            return Err(StoreError::Refused(format!(
                "it belongs to cluster {theirs:x}"
            )));
        }
        disk.create_dir(&dir)
            .map_err(StoreError::io("create", &dir))?;
        clear(&*disk, &dir)?;
        let mut files = Vec::new();
        for (prefix, entry) in entries(&manifest) {
            let path = dir.join(file_name(prefix, entry.number));
            let handle = disk
                .create(&path)
                .map_err(StoreError::io("create", &path))?;
            let file = Arc::new(StoreFile {
                number: entry.number,
                path,
                handle,
            });
            files.push(IncomingFile {
                file,
                len: entry.len,
                received: 0,
            });
        }
        Ok(Incoming {
            attempt,
            disk,
            dir,
            manifest,
            position,
            files,
        })
    }

    /// What is being received.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Takes a piece of file number `file`, counted as in
    /// [`Checkpoint::files`](super::Checkpoint::files). Pieces of a file arrive in order.
    pub fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let refuse = |detail: String| Err(StoreError::Refused(detail));
        let Some(incoming) = self.files.get_mut(file) else {
            return refuse(format!("it has no file {file}"));
        };
        let len = bytes.len() as u64;
        if bytes.len() > TRANSFER_BYTES_MAX {
            return refuse(format!("piece of {len} bytes"));
        }
        if offset != incoming.received || len > incoming.len - incoming.received {
            return refuse(format!(
                "{len} bytes at {offset} of file {file} are out of place"
            ));
        }
        super::segment::write_all(&incoming.file, bytes, offset)?;
        incoming.received += len;
        Ok(())
    }

    /// Syncs and verifies everything received. `visit` gets the header and length of each live
    /// record in revision order, so that the caller builds its index beside the old one.
    pub fn finish(self, visit: &mut dyn FnMut(RecordHeader, u32)) -> Result<Received, StoreError> {
        if let Some(place) = self.files.iter().position(|file| file.received != file.len) {
            return Err(StoreError::Refused(format!("file {place} is incomplete")));
        }
        for incoming in &self.files {
            sync(&incoming.file)?;
        }
        // What arrives damaged is the sender's or the network's fault; our own store is whole.
        let refuse = |error: StoreError| match error {
            StoreError::Corrupt { .. } | StoreError::Format { .. } => {
                StoreError::Refused(error.to_string())
            }
            error => error,
        };
        let mut rest = self.files.iter();
        let mut take = |entry: &FileEntry| {
            let file = rest.next().map(|incoming| incoming.file.clone());
            file.ok_or_else(|| StoreError::Refused(format!("file {} is missing", entry.number)))
        };
        let (files, state) = load_files(&self.manifest, &mut take, visit).map_err(refuse)?;
        for chunk in files.chunks() {
            verify_records(&chunk).map_err(refuse)?;
        }
        let Incoming {
            attempt,
            disk,
            dir,
            position,
            ..
        } = self;
        Ok(Received {
            attempt,
            disk,
            dir,
            position,
            files,
            state,
        })
    }
}

impl Received {
    /// What was received.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

/// The files of a manifest with the prefix of their names, in the order of a checkpoint's files.
pub(crate) fn entries(manifest: &Manifest) -> impl Iterator<Item = (&'static str, FileEntry)> {
    let segments = manifest
        .segments
        .iter()
        .map(|segment| (SEGMENT, segment.file));
    let state = manifest.state.iter().map(|&file| (STATE, file));
    let dead = manifest.dead.iter().map(|&file| (DEAD, file));
    segments.chain(state).chain(dead)
}

/// Opens what a manifest names, in the order of [`entries`].
pub(crate) fn load_files(
    manifest: &Manifest,
    open: &mut dyn FnMut(&FileEntry) -> Result<Arc<StoreFile>, StoreError>,
    visit: &mut dyn FnMut(RecordHeader, u32),
) -> Result<(Files, StateItems), StoreError> {
    let mut opened = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        opened.push((segment, open(&segment.file)?));
    }
    let mut items = StateItems::new();
    let mut state = None;
    if let Some(entry) = &manifest.state {
        let file = open(entry)?;
        items = state_file::load(&file, entry.len)?;
        state = Some(StateFile {
            file,
            len: entry.len,
            base_len: manifest.state_base_len,
        });
    }
    let mut dead = None;
    if let Some(entry) = &manifest.dead {
        let file = open(entry)?;
        let bytes = read_checked(&*file.handle, &file.path, 0, entry.len)?;
        let bits = dead_file::decode(&bytes, &file.path)?;
        dead = Some(DeadFile {
            file,
            len: entry.len,
            bits,
        });
    }
    // The bits come before the segments, so that a dead record is never shown.
    let no_bits = DeadMap::new();
    let bits = dead.as_ref().map_or(&no_bits, |dead| &dead.bits);
    let mut segments: Vec<Segment> = Vec::with_capacity(opened.len());
    for (place, (entry, file)) in opened.into_iter().enumerate() {
        let bits_of = |chunk: usize| -> DeadSnapshot {
            let key = (u32::try_from(place).ok()?, u32::try_from(chunk).ok()?);
            bits.get(&key).cloned()
        };
        let mut show = |chunk: usize, slot: usize, found: IndexEntry| {
            if !is_dead(&bits_of(chunk), slot) {
                visit(found.header, found.len);
            }
        };
        let path = file.path.clone();
        let mut segment = Segment::load(file, entry.file.len, &mut show)?;
        if segment.records() != entry.records {
            let detail = format!(
                "{} records, the manifest has {}",
                segment.records(),
                entry.records
            );
            return Err(StoreError::corrupt(&path, 0, detail));
        }
        let before = segments
            .iter()
            .rev()
            .find_map(|segment| segment.chunks.last());
        let order = before.zip(segment.chunks.first());
        if order.is_some_and(|(before, first)| before.chunk.last() >= first.chunk.first()) {
            return Err(StoreError::corrupt(&path, 0, "segments out of order"));
        }
        for (ordinal, held) in segment.chunks.iter_mut().enumerate() {
            let durable = bits_of(ordinal);
            let words = durable.as_deref().unwrap_or_default();
            super::dead::set_slots(words).for_each(|slot| {
                held.chunk.mark_dead(slot);
            });
            held.set_durable_dead(durable);
        }
        segments.push(segment);
    }
    if let Some(dead) = &dead {
        let chunk_of = |&(segment, chunk): &(u32, u32)| {
            segments.get(segment as usize)?.chunks.get(chunk as usize)
        };
        let fits = |(place, words): (&(u32, u32), &Arc<[u64]>)| {
            chunk_of(place).is_some_and(|held| held.chunk.len().div_ceil(64) == words.len())
        };
        if !dead.bits.iter().all(fits) {
            return Err(StoreError::corrupt(
                &dead.file.path,
                0,
                "bits for a chunk that is not there",
            ));
        }
    }
    Ok((
        Files {
            segments,
            state,
            dead,
        },
        items,
    ))
}

fn verify_records(chunk: &Chunk) -> Result<(), StoreError> {
    let (mut frames, mut start, mut end) = (bytes::Bytes::new(), 0, 0);
    for slot in 0..chunk.len() {
        let Some((from, to)) = chunk.frame(slot) else {
            break;
        };
        if to > end {
            let ahead = from.saturating_add(TRANSFER_BYTES_MAX as u32);
            (start, end) = (from, to.max(ahead.min(chunk.records_len() as u32)));
            frames = chunk.read_frames(start, end)?;
        }
        chunk.record(slot, &frames, start)?;
    }
    Ok(())
}

/// Removes all files of a directory.
pub(crate) fn clear(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    for name in disk.list(dir).map_err(StoreError::io("list", dir))? {
        let path = dir.join(name);
        disk.remove(&path)
            .map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

impl Core {
    /// Begins to receive a checkpoint; an earlier attempt ends here.
    pub(crate) fn begin_install(
        &mut self,
        cluster_id: u64,
        manifest: &[u8],
    ) -> Result<Incoming, StoreError> {
        self.install_attempt += 1;
        let attempt = self.install_attempt;
        Incoming::begin(attempt, self.disk.clone(), &self.dir, cluster_id, manifest)
    }

    /// Makes a received checkpoint ours. What was frozen before is worth nothing from here on.
    pub(crate) fn install(&mut self, received: Received) -> Result<Installed, StoreError> {
        let refuse = |detail: &str| Err(StoreError::Refused(detail.into()));
        if received.attempt != self.install_attempt {
            return refuse("another attempt has taken its place");
        }
        if let Some(ours) = &self.position {
            if ours.cluster_id != received.position.cluster_id {
                return refuse("it belongs to another cluster");
            }
            if ours.applied_index >= received.position.applied_index {
                return refuse("ours is as new");
            }
        }
        self.attempt(|core, undo| core.adopt(received, undo))
    }

    fn adopt(&mut self, received: Received, undo: &mut Undo) -> Result<Installed, StoreError> {
        let Received {
            attempt: _,
            disk,
            dir,
            position,
            mut files,
            state,
        } = received;
        for segment in &mut files.segments {
            segment.file = self.rename(&*disk, &segment.file, SEGMENT, undo)?;
            for held in &mut segment.chunks {
                if let Some(chunk) = Arc::get_mut(&mut held.chunk) {
                    chunk.file = segment.file.clone();
                }
            }
        }
        if let Some(state) = &mut files.state {
            state.file = self.rename(&*disk, &state.file, STATE, undo)?;
        }
        if let Some(dead) = &mut files.dead {
            dead.file = self.rename(&*disk, &dead.file, DEAD, undo)?;
        }
        disk.sync_dir(&dir).map_err(StoreError::io("sync", &dir))?;
        self.commit(files, position.clone(), undo)?;
        self.epoch += 1;
        discard("remove", &dir, disk.remove_dir(&dir));
        Ok(Installed {
            epoch: self.epoch,
            chunks: self.files.chunks(),
            recovered: Recovered {
                position: Some(position),
                state,
            },
        })
    }

    fn rename(
        &mut self,
        disk: &dyn Disk,
        file: &Arc<StoreFile>,
        prefix: &str,
        undo: &mut Undo,
    ) -> Result<Arc<StoreFile>, StoreError> {
        let (number, path) = self.names.take(prefix);
        disk.rename(&file.path, &path)
            .map_err(StoreError::io("rename", &file.path))?;
        let renamed = Arc::new(StoreFile {
            number,
            path,
            handle: file.handle.clone(),
        });
        undo.adopt(renamed.clone());
        Ok(renamed)
    }
}
