//! A file taken over into a new store (contract 8.4).
//!
//! Records are appended and written in checkpoints while the file is read, so memory does not grow
//! with it. The last checkpoint alone is what counts: whoever calls this makes the directory
//! visible only afterwards.

use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::import::{Content, Import, ImportError};
use crate::bolt::{BoltFile, ReadAt};
use crate::revision::Revision;
use crate::store::{Checkpoint, Disk, Position, RecordHeader, Store, StoreError, StoreOptions};

/// Records in memory after which they are written, in bytes: bounds memory, and is enough for
/// large writes.
const PART_BYTES: usize = 32 << 20;

/// What the new cluster gives to the state.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The new cluster.
    pub cluster_id: u64,
    /// Term of the log entry that the state stands for.
    pub applied_term: u64,
    /// Its index.
    pub applied_index: u64,
    /// The new membership, in the raft layer's encoding.
    pub membership: Bytes,
    /// State items of the new members.
    pub items: Vec<(Bytes, Bytes)>,
    /// Revisions to skip, after which everything before counts as compacted; 0 for none.
    pub bump_revision: i64,
}

/// Takes a file over into an empty directory.
///
/// # Errors
/// [`ImportError`]; what is in the directory is worth nothing then.
pub fn restore<R: ReadAt>(
    file: &BoltFile<R>,
    options: StoreOptions,
    disk: Arc<dyn Disk>,
    placement: Placement,
) -> Result<Content, ImportError> {
    let options = StoreOptions {
        keeper_thread: true,
        // What is written here is dense and in order: merging it would only copy it.
        segment_merge_bytes_max: options.segment_seal_bytes,
        ..options
    };
    let store = Store::open(options, disk, &mut |_, _| {})?.store;
    let mut writer = Writer {
        store,
        writing: None,
        failed: None,
    };
    let mut content = Import::run(file, &mut |(header, record)| writer.append(header, record))?;
    if placement.bump_revision > 0 {
        let overflow = || StoreError::Refused("the bumped revision is too large".into());
        let bumped = content.revision.checked_add(placement.bump_revision);
        let bumped = bumped.ok_or_else(overflow)?;
        writer.append(marker(bumped), Bytes::new())?;
        (content.revision, content.compact_revision) = (bumped, bumped);
    }
    for (key, value) in content.items().into_iter().chain(placement.items) {
        writer.store.put_state(key, value);
    }
    writer.write(Position {
        applied_term: placement.applied_term,
        applied_index: placement.applied_index,
        membership: placement.membership,
        revision: content.revision,
        compact_revision: content.compact_revision,
        cluster_id: placement.cluster_id,
        // Measured when the state is opened.
        db_size: 0,
    })?;
    writer.wait()?;
    Ok(content)
}

/// The record of a key without name that takes the bumped revision (etcd-snapshot-file 3.1).
fn marker(main: i64) -> RecordHeader {
    RecordHeader {
        revision: Revision::new(main, 0),
        tombstone: false,
        create_revision: 0,
        version: 0,
        lease: 0,
        key: Bytes::new(),
    }
}

type Written = Result<Arc<Checkpoint>, StoreError>;

/// A store being filled: one part is written while the next is read.
struct Writer {
    store: Store,
    writing: Option<mpsc::Receiver<Written>>,
    failed: Option<StoreError>,
}

impl Writer {
    fn append(&mut self, header: RecordHeader, record: Bytes) -> Result<(), StoreError> {
        self.store.append(header, record);
        if self.store.part_bytes() >= PART_BYTES {
            self.write(Position::default())?;
        }
        Ok(())
    }

    /// Begins to write what there is; waits for the part before.
    fn write(&mut self, position: Position) -> Result<(), StoreError> {
        self.wait()?;
        let frozen = self.store.freeze(position);
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = move |written| drop(sender.send(written));
        self.store.keeper().checkpoint(frozen, Box::new(done));
        self.writing = Some(receiver);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.failed.clone() {
            return Err(error);
        }
        let Some(writing) = self.writing.take() else {
            return Ok(());
        };
        let written = writing.recv().unwrap_or(Err(StoreError::ShutDown));
        self.failed = written.err();
        self.failed.clone().map_or(Ok(()), Err)
    }
}
