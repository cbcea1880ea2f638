//! The store as the apply thread has it: the one writer.
//!
//! Everything here is memory: appending puts a record where readers find it at once, and a freeze
//! takes less than a millisecond. Files are the keeper's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::Mutex;

use super::cache::RecordCache;
use super::checkpoint::{Core, Files, Frozen};
use super::codec::read_checked;
use super::disk::Disk;
use super::error::StoreError;
use super::install::{INCOMING, Installed, Recovered, clear, entries, load_files};
use super::keeper::KeeperHandle;
use super::manifest::{FileEntry, MANIFEST, MANIFEST_BYTES_MAX, Manifest, Position};
use super::reader::StoreReader;
use super::record::{RECORD_BYTES_MAX, RecordHeader};
use super::segment::{Names, StoreFile, discard, file_name, file_number};
use super::state_file::{StateDelta, StateItems};
use super::table::{FrozenDead, FrozenPart, Shared, Table};
use super::tail::Tail;
use crate::revision::Revision;

/// Size at which a segment is sealed and the next one begun, in bytes.
const SEGMENT_SEAL_BYTES: u64 = 64 << 20;
/// Largest segment that merging makes, in bytes: bounds the time of one rewrite.
const SEGMENT_MERGE_BYTES_MAX: u64 = 512 << 20;
/// Memory of the record cache, in bytes.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store directory, created if missing (`<data-dir>/member/store`). The caller holds the
    /// lock that keeps a second process away.
    pub dir: PathBuf,
    /// Memory of the record cache, in bytes. Default: 64 MiB.
    pub cache_bytes_max: usize,
    /// Size at which a segment is sealed, in bytes. Default: 64 MiB.
    pub segment_seal_bytes: u64,
    /// Largest segment that merging makes, in bytes. Default: 512 MiB.
    pub segment_merge_bytes_max: u64,
    /// Whether the keeper gets its thread. Without, only `checkpoint_now` and its like work: for
    /// tests and simulation. Default: true.
    pub keeper_thread: bool,
}

impl StoreOptions {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            dir: dir.into(),
            cache_bytes_max: CACHE_BYTES_MAX,
            segment_seal_bytes: SEGMENT_SEAL_BYTES,
            segment_merge_bytes_max: SEGMENT_MERGE_BYTES_MAX,
            keeper_thread: true,
        }
    }
}

/// An opened store and what its last checkpoint says.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Position and state items.
    pub recovered: Recovered,
}

/// The one writer. Dropping it stops the keeper.
///
/// - Revisions are appended in ascending order.
/// - A record is readable as soon as `append` has returned.
/// - Nothing is durable before a checkpoint is; the log covers the rest.
pub struct Store {
    shared: Arc<Shared>,
    keeper: KeeperHandle,
    dirty: StateDelta,
    sequence: u64,
    epoch: u64,
    last: Option<Revision>,
}

impl Store {
    /// Opens a store, creating it if the directory is empty. `visit` gets the header and length of
    /// each live record, in revision order; only index blocks are read.
    pub fn open(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        visit: &mut dyn FnMut(RecordHeader, u32),
    ) -> Result<Opened, StoreError> {
        let dir = options.dir.clone();
        disk.create_dir(&dir)
            .map_err(StoreError::io("create", &dir))?;
        let present = disk.list(&dir).map_err(StoreError::io("list", &dir))?;
        let manifest = read_manifest(&*disk, &dir, &present)?;
        let (files, state) = match &manifest {
            Some(manifest) => {
                let mut open = opener(&*disk, &dir, manifest);
                load_files(manifest, &mut open, visit)?
            }
            None => (Files::default(), StateItems::new()),
        };
        let highest = present
            .iter()
            .filter_map(|name| file_number(name))
            .max()
            .unwrap_or(0);
        let next = manifest
            .as_ref()
            .map_or(1, |manifest| manifest.next_number)
            .max(highest + 1);
        let chunks = files.chunks();
        let last = chunks.last().map(|chunk| chunk.last());
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::new(chunks)),
            swap: Mutex::new(()),
            cache: RecordCache::new(options.cache_bytes_max),
            current: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
        });
        let position = manifest
            .as_ref()
            .and_then(|manifest| manifest.position.clone());
        let core = Core {
            disk: disk.clone(),
            dir: dir.clone(),
            segment_seal_bytes: options.segment_seal_bytes,
            segment_merge_bytes_max: options.segment_merge_bytes_max,
            names: Names::new(dir.clone(), next),
            position: position.clone(),
            files,
            epoch: 0,
            sequence: 0,
            install_attempt: 0,
            poisoned: false,
            retired: Vec::new(),
            shared: shared.clone(),
        };
        match &manifest {
            Some(manifest) => remove_strays(&*disk, &dir, &present, manifest)?,
            None => found(&core)?,
        }
        core.publish();
        let keeper = KeeperHandle::new(core);
        if options.keeper_thread {
            keeper
                .spawn()
                .map_err(StoreError::io("start thread", &dir))?;
        }
        let dirty = BTreeMap::new();
        let store = Store {
            shared,
            keeper,
            dirty,
            sequence: 0,
            epoch: 0,
            last,
        };
        Ok(Opened {
            store,
            recovered: Recovered { position, state },
        })
    }

    /// Appends a record: the encoded `KeyValue` in an allocation of its own, of at most
    /// [`RECORD_BYTES_MAX`] bytes.
    ///
    /// # Panics
    ///
    /// If the revision is not above the last one: that would make records unfindable.
    pub fn append(&mut self, header: RecordHeader, record: Bytes) {
        let revision = header.revision;
        assert!(
            self.last.is_none_or(|last| last < revision),
            "{revision} is not the newest"
        );
        assert!(revision.main >= 0 && revision.sub <= Revision::SUB_MAX);
        assert!(
            record.len() <= RECORD_BYTES_MAX,
            "request limits are far lower"
        );
        self.last = Some(revision);
        self.shared.table.load().tail.push(header, record);
    }

    /// Notes that compaction has removed these revisions from the key index. They stay readable
    /// until a later checkpoint's rewrite.
    pub fn mark_dead(&mut self, revisions: &[Revision]) {
        let _swap = self.shared.swap.lock();
        let table = self.shared.table.load();
        for &revision in revisions {
            table.mark_dead(revision);
        }
    }

    /// Sets a state item; durable with the next checkpoint.
    pub fn put_state(&mut self, key: Bytes, value: Bytes) {
        self.dirty.insert(key, Some(value));
    }

    /// Deletes a state item; one that does not exist is fine.
    pub fn delete_state(&mut self, key: &[u8]) {
        self.dirty.insert(Bytes::copy_from_slice(key), None);
    }

    /// Memory of records that no checkpoint holds yet, in bytes: the caller refuses proposals
    /// before it grows without bound (a full disk).
    pub fn tail_bytes(&self) -> usize {
        self.shared.tail_bytes()
    }

    /// Memory of records appended since the last freeze, in bytes.
    pub(crate) fn part_bytes(&self) -> usize {
        self.shared.table.load().tail.bytes()
    }

    /// Takes everything that a checkpoint at `position` consists of. Call between commands.
    pub fn freeze(&mut self, position: Position) -> Frozen {
        let _swap = self.shared.swap.lock();
        let table = self.shared.table.load_full();
        let dead = FrozenDead::of(&table);
        self.sequence += 1;
        let sequence = self.sequence;
        if table.tail.len() > 0 || !self.dirty.is_empty() {
            let state = std::mem::take(&mut self.dirty);
            let part = Arc::new(FrozenPart {
                sequence,
                tail: table.tail.clone(),
                state,
            });
            let mut frozen = table.frozen.clone();
            frozen.push(part);
            let tail = Arc::new(Tail::new());
            let chunks = table.chunks.clone();
            self.shared.table.store(Arc::new(Table {
                chunks,
                frozen,
                tail,
            }));
        }
        Frozen {
            sequence,
            epoch: self.epoch,
            position,
            dead,
        }
    }

    /// A reader, for any thread.
    pub fn reader(&self) -> StoreReader {
        StoreReader::new(self.shared.clone())
    }

    /// The keeper, for any thread.
    pub fn keeper(&self) -> KeeperHandle {
        self.keeper.clone()
    }

    /// Switches to an installed checkpoint. All that is not in it is forgotten, as the log has it.
    pub fn replace(&mut self, installed: Installed) -> Recovered {
        let Installed {
            epoch,
            chunks,
            recovered,
        } = installed;
        self.last = chunks.last().map(|chunk| chunk.last());
        self.epoch = epoch;
        self.dirty.clear();
        let _swap = self.shared.swap.lock();
        self.shared.table.store(Arc::new(Table::new(chunks)));
        self.shared.cache.clear();
        self.shared.epoch.store(epoch, Ordering::Release);
        recovered
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.keeper.shutdown();
    }
}

fn read_manifest(
    disk: &dyn Disk,
    dir: &Path,
    present: &[String],
) -> Result<Option<Manifest>, StoreError> {
    if !present.iter().any(|name| name == MANIFEST) {
        return match present.iter().find(|name| file_number(name).is_some()) {
            Some(found) => Err(StoreError::NoManifest {
                dir: dir.to_path_buf(),
                found: found.clone(),
            }),
            None => Ok(None),
        };
    }
    let path = dir.join(MANIFEST);
    let handle = disk.open(&path).map_err(StoreError::io("open", &path))?;
    let len = handle.len().map_err(StoreError::io("stat", &path))?;
    if len > MANIFEST_BYTES_MAX {
        return Err(StoreError::corrupt(
            &path,
            0,
            format!("{len} bytes are too many"),
        ));
    }
    let bytes = read_checked(&*handle, &path, 0, len)?;
    Manifest::decode(&bytes, &path).map(Some)
}

fn opener<'a>(
    disk: &'a dyn Disk,
    dir: &'a Path,
    manifest: &Manifest,
) -> impl FnMut(&FileEntry) -> Result<Arc<StoreFile>, StoreError> + use<'a> {
    let mut names = entries(manifest)
        .map(|(prefix, entry)| file_name(prefix, entry.number))
        .collect::<Vec<_>>()
        .into_iter();
    move |entry| {
        let path = dir.join(names.next().unwrap_or_default());
        let handle = disk.open(&path).map_err(StoreError::io("open", &path))?;
        let present = handle.len().map_err(StoreError::io("stat", &path))?;
        if present < entry.len {
            let detail = format!("ends here, the manifest has {} bytes", entry.len);
            return Err(StoreError::corrupt(&path, present, detail));
        }
        if present > entry.len {
            // An append that no manifest came to name.
            handle
                .set_len(entry.len)
                .map_err(StoreError::io("cut", &path))?;
        }
        Ok(Arc::new(StoreFile {
            number: entry.number,
            path,
            handle,
        }))
    }
}

/// Writes the first manifest, so that a directory with data always has one.
fn found(core: &Core) -> Result<(), StoreError> {
    core.write_manifest(&Files::default(), None)?;
    if let Some(parent) = core
        .dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        core.disk
            .sync_dir(parent)
            .map_err(StoreError::io("sync", parent))?;
    }
    Ok(())
}

/// Removes what no manifest names: left by a crash.
fn remove_strays(
    disk: &dyn Disk,
    dir: &Path,
    present: &[String],
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let named: Vec<String> = entries(manifest)
        .map(|(prefix, entry)| file_name(prefix, entry.number))
        .collect();
    for name in present {
        let path = dir.join(name);
        if name == INCOMING {
            clear(disk, &path)?;
            discard("remove", &path, disk.remove_dir(&path));
        } else if name != MANIFEST && !named.contains(name) {
            let ours = file_number(name).is_some() || name == super::manifest::MANIFEST_TMP;
            if ours {
                discard("remove", &path, disk.remove(&path));
            }
        }
    }
    Ok(())
}
