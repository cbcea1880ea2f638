//! Compaction: its logical effect is immediate, removal from the index follows in batches.
//!
//! Somebody outside drives it: a step, a pause, a step, every time (contract 2.6, #19406). After a
//! restart the sweep at the compact revision runs again, since it may not have been finished.
//!
//! ```text
//! Compact(R) applied ─► compact revision = R ─► [Hash job] ─► Removed … Removed ─► Finished(R)
//! ```
//!
//! - Removal works at min(R, oldest pin). What a pin held back is removed by another sweep.
//! - The hash job pins what it needs itself; it may run on any thread.
//! - One compaction runs, at most one waits; a later one takes the waiting one's place.

use std::{ops::Bound, sync::Arc};

use parking_lot::Mutex;

use super::{
    hash::{self, KvHash},
    index::{CompactBudget, KeyIndex},
    shared::{NEVER_COMPACTED, Pin, Shared, View},
};
use crate::{error::ApplyError, revision::Revision};

/// Leaves that a step looks at: most have nothing to remove and cost a few dozen nanoseconds.
const LEAVES_PER_STEP: usize = 4096;

/// What a step of compaction did.
pub enum CompactStep {
    /// There is nothing to compact.
    Idle,
    /// The hash of this compaction is to be computed before anything is removed: run the job on a
    /// thread that may read the disk, then step on. A job that is dropped is not asked for again.
    Hash(HashJob),
    /// So many revisions were removed; pause and step on.
    Removed(usize),
    /// A read holds back what is left; try again later.
    Blocked,
    /// The compaction at this revision is done: all it does not keep is out of the index. It is
    /// durable with the next checkpoint.
    Finished(i64),
}

/// Computes the hash to keep for a compaction.
pub struct HashJob {
    view: Arc<View>,
    _pin: Pin,
    revision: i64,
    previous: i64,
    slot: Arc<Mutex<Option<KvHash>>>,
}

impl HashJob {
    /// Computes the hash from index blocks, without reading values.
    ///
    /// # Errors
    /// Errors of the store end the process.
    pub fn run(self) -> Result<(), ApplyError> {
        let hash = hash::of_checksums(&self.view, self.revision, self.previous)?;
        *self.slot.lock() = Some(hash);
        Ok(())
    }
}

/// Compactions that run or wait.
#[derive(Default)]
pub(crate) struct Compactions {
    running: Option<Running>,
    waiting: Option<i64>,
    finished: Option<i64>,
}

struct Running {
    revision: i64,
    hash_after: Option<i64>,
    hash: Arc<Mutex<Option<KvHash>>>,
    next: Bound<Vec<u8>>,
    /// The lowest revision that this sweep worked at.
    swept: i64,
    /// The revision that the sweep before worked at throughout.
    swept_before: i64,
}

impl Running {
    fn new(revision: i64, hash_after: Option<i64>, finished: i64) -> Self {
        Self {
            revision,
            hash_after,
            hash: Arc::default(),
            next: Bound::Included(Vec::new()),
            swept: revision,
            swept_before: finished,
        }
    }
}

/// What the owner does after a step.
pub(crate) struct Stepped {
    pub(crate) step: CompactStep,
    pub(crate) removed: Vec<Revision>,
    pub(crate) keep: Option<KvHash>,
}

impl Compactions {
    /// Resumes at start what may not have been finished. Its hash is not kept.
    pub(crate) fn resume(compact: i64) -> Self {
        Self {
            running: (compact > NEVER_COMPACTED)
                .then(|| Running::new(compact, None, NEVER_COMPACTED)),
            ..Self::default()
        }
    }

    /// The last compaction that finished.
    pub(crate) fn finished(&self) -> i64 {
        self.finished.unwrap_or(NEVER_COMPACTED)
    }

    /// Adds a compaction at `revision` after one at `previous`.
    pub(crate) fn schedule(&mut self, revision: i64, previous: i64) {
        if self.running.is_some() {
            self.waiting = Some(revision);
        } else {
            self.running = Some(Running::new(revision, Some(previous), self.finished()));
        }
    }

    pub(crate) fn step(
        &mut self,
        shared: &Shared,
        index: &mut KeyIndex,
        revisions_max: usize,
    ) -> Stepped {
        let mut stepped = Stepped {
            step: CompactStep::Idle,
            removed: Vec::new(),
            keep: None,
        };
        let Some(running) = &mut self.running else {
            return stepped;
        };
        if let Some(previous) = running.hash_after.take() {
            let Ok((view, _, pin)) = shared.begin(|_| Ok::<_, ApplyError>(previous)) else {
                return stepped;
            };
            stepped.step = CompactStep::Hash(HashJob {
                view,
                _pin: pin,
                revision: running.revision,
                previous,
                slot: Arc::clone(&running.hash),
            });
            return stepped;
        }

        let at = shared.removable(running.revision);
        if at <= running.swept_before {
            stepped.step = CompactStep::Blocked;
            return stepped;
        }
        running.swept = running.swept.min(at);
        let budget = CompactBudget {
            revisions: revisions_max.max(1),
            leaves: LEAVES_PER_STEP,
        };
        running.next = index.compact(&running.next, running.swept, budget, &mut stepped.removed);
        stepped.step = CompactStep::Removed(stepped.removed.len());
        if running.next != Bound::Unbounded {
            return stepped;
        }
        if running.swept < running.revision {
            running.swept_before = running.swept;
            running.swept = running.revision;
            running.next = Bound::Included(Vec::new());
            return stepped;
        }
        let revision = running.revision;
        stepped.keep = running.hash.lock().take();
        stepped.step = CompactStep::Finished(revision);
        self.finished = Some(revision);
        // The one that waited was asked for before this one had finished: its hash is not kept.
        let waiting = self.waiting.take();
        self.running = waiting.map(|waiting| Running::new(waiting, None, revision));
        stepped
    }
}
