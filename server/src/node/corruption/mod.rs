//! Members compare what they hold, by hashes (contract 4.3, store-notes 2).
//!
//! | file | what |
//! |---|---|
//! | [`verdict`] | who is the odd one out; pure |
//! | [`checks`] | the three checks: before serving, now and then, and of kept hashes |
//! | [`service`] | answering the others |
//!
//! - A hash depends on revision and compact revision alone, so two that agree in both and differ in
//!   the hash prove that the data differ: a healthy cluster never raises the alarm, however far its
//!   members are apart.
//! - Only the leader raises CORRUPT, through the log. What the alarm forbids, apply refuses
//!   (contract 2.6).
//! - At most one hash is computed for peers at a time: it reads every record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use tokio::sync::Semaphore;

pub mod checks;
pub mod service;
pub mod verdict;

/// What a member knows of comparisons.
pub(super) struct Comparison {
    /// This member comes back with data.
    restarted: bool,
    /// Whether its data may be compared with: not before its own check has passed, or members that
    /// restart together would all refuse to serve because of one.
    answers: AtomicBool,
    /// Hashes computed for others at a time.
    permit: Arc<Semaphore>,
    /// Hashes of peers that were compared with this member's.
    compared: AtomicU64,
}

impl Comparison {
    pub(super) fn new(restarted: bool) -> Self {
        Self {
            restarted,
            answers: AtomicBool::new(false),
            permit: Arc::new(Semaphore::new(1)),
            compared: AtomicU64::new(0),
        }
    }
}
