//! `defrag --data-dir`: garbage out of a data directory that no server uses (contract 8.4).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use keelson_state::apply::{EventRecord, EventSink, State, StateOptions};
use keelson_state::mvcc::compaction::CompactStep;
use keelson_state::store::{RealDisk, StoreOptions};

use crate::process::{DataDir, DataDirError};

/// Pause before a directory in use is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Revisions that one step of a compaction removes.
const REVISIONS_PER_STEP: usize = 10_000;

/// Nobody watches.
struct NoSink;

impl EventSink for NoSink {
    fn publish(&mut self, _: i64, _: Vec<EventRecord>) {}
    fn installed(&mut self, _: i64) {}
}

/// Finishes a compaction under way and rewrites every segment that holds garbage. `timeout` bounds
/// the wait for a server that uses the directory; 0 waits for ever.
///
/// # Errors
/// When there is no member's data, when the directory stays in use, and the store's.
pub fn defrag(data_dir: &Path, timeout: Duration) -> Result<()> {
    let store = data_dir.join("member").join("store");
    if let Err(error) = std::fs::metadata(store.join("manifest")) {
        let reason = super::restore::without_number(&error);
        let manifest = store.join("manifest");
        bail!("stat {}: {reason}", manifest.display());
    }
    let _lock = lock(data_dir, timeout)?;
    let began = Instant::now();
    tracing::info!(path = %store.display(), "defragmenting");
    let options = StateOptions {
        store: StoreOptions {
            keeper_thread: false,
            ..StoreOptions::new(&store)
        },
        disk: Arc::new(RealDisk),
        sink: Box::new(NoSink),
    };
    let mut state = State::open(options)
        .with_context(|| format!("cannot open the store in {}", store.display()))?;
    let before = state.reader().db_size_bytes();
    loop {
        match state.compact_step(REVISIONS_PER_STEP) {
            CompactStep::Idle | CompactStep::Blocked => break,
            // A hash is kept by a running member only.
            CompactStep::Hash(job) => drop(job),
            CompactStep::Removed(_) | CompactStep::Finished(_) => {}
        }
    }
    let frozen = state.freeze_to_defragment();
    state.keeper().defragment_now(&frozen)?;
    tracing::info!(
        path = %store.display(),
        "size-before-bytes" = before,
        "size-bytes" = state.reader().db_size_bytes(),
        took = %crate::logging::go(began.elapsed()),
        "finished defragmenting directory"
    );
    Ok(())
}

fn lock(data_dir: &Path, timeout: Duration) -> Result<DataDir> {
    let began = Instant::now();
    loop {
        match DataDir::open(data_dir) {
            Err(DataDirError::InUse(_)) if timeout.is_zero() || began.elapsed() < timeout => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return Ok(opened?),
        }
    }
}
