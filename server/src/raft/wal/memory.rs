//! A log in memory for simulation and tests, with the faults of a disk.
//!
//! A [`MemoryDisk`] outlives the logs opened on it, as a disk outlives processes. It starts no
//! thread and knows no clock: a call is done when it returns, unless the disk holds its syncs, so
//! that the same seed gives the same run (rule R11).
//!
//! The disk keeps two images: *written*, what a reader of this process sees, and *durable*, what
//! a power cut leaves. A sync applies the operations between them; a cut drops all of them, or
//! lets a prefix survive.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::api::{Done, LogPosition, Recovered, Wal, WalEntry};
use super::error::WalError;
use super::frame::lower;
use super::group_commit::follow;

/// What is on the disk: entries `first..first + entries.len()`.
#[derive(Debug, Clone, Default)]
struct Image {
    vote: Option<Bytes>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    first: u64,
    entries: VecDeque<WalEntry>,
}

/// One operation on an image.
#[derive(Debug, Clone)]
enum Change {
    Append(Vec<WalEntry>, Option<LogPosition>),
    Vote(Bytes),
    Committed(LogPosition),
    Truncate(Option<u64>),
    Purge(LogPosition),
}

impl Image {
    fn end(&self) -> Option<LogPosition> {
        self.entries.back().map(WalEntry::position).or(self.purged)
    }

    fn next(&self) -> Option<u64> {
        self.end().map(|end| end.index + 1)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Append(entries, committed) => {
                if self.entries.is_empty() {
                    self.first = entries.first().map_or(self.first, |entry| entry.index);
                }
                self.entries.extend(entries);
                self.raise_committed(committed);
            }
            Change::Vote(vote) => self.vote = Some(vote),
            Change::Committed(committed) => self.raise_committed(Some(committed)),
            Change::Truncate(None) => self.entries.clear(),
            Change::Truncate(Some(index)) => {
                self.entries
                    .truncate((index + 1).saturating_sub(self.first) as usize);
            }
            Change::Purge(position) => {
                let gone = (position.index + 1).saturating_sub(self.first);
                let gone = gone.min(self.entries.len() as u64);
                self.entries.drain(..gone as usize);
                self.first += gone;
                self.purged = Some(position);
            }
        }
    }

    fn raise_committed(&mut self, committed: Option<LogPosition>) {
        let Some(found) = self.end().and_then(|end| lower(committed, end)) else {
            return;
        };
        if self.committed.is_none_or(|known| known.index < found.index) {
            self.committed = Some(found);
        }
    }

    fn recovered(&self) -> Recovered {
        let mut recovered = Recovered {
            vote: self.vote.clone(),
            committed: self.committed,
            purged: self.purged,
            first: self.entries.front().map(|entry| entry.index),
            last: self.entries.back().map(WalEntry::position),
            cut: None,
        };
        recovered.clamp_committed();
        recovered
    }
}

#[derive(Default)]
struct Disk {
    written: Image,
    durable: Image,
    unsynced: VecDeque<Change>,
    /// Newest append and every other call that waits for a sync.
    appends: Vec<Done>,
    others: Vec<Done>,
    /// Counts the logs opened: only the newest may write.
    generation: u64,
    holds: bool,
    fails: Option<&'static str>,
    failure: Option<WalError>,
}

impl Disk {
    fn sync(&mut self) -> Vec<(Done, Result<(), WalError>)> {
        if let Some(fault) = self.fails.take() {
            self.failure = Some(WalError::Injected(fault));
        }
        if let Some(failure) = self.failure.clone() {
            let waiting = self.appends.drain(..).chain(self.others.drain(..));
            return waiting.map(|done| (done, Err(failure.clone()))).collect();
        }
        for change in self.unsynced.drain(..) {
            self.durable.apply(change);
        }
        let newest = self.appends.pop();
        self.appends.clear();
        newest
            .into_iter()
            .chain(self.others.drain(..))
            .map(|done| (done, Ok(())))
            .collect()
    }

    fn cut_power(&mut self, surviving: usize) {
        for change in self.unsynced.drain(..).take(surviving) {
            self.durable.apply(change);
        }
        self.written = self.durable.clone();
        self.appends.clear();
        self.others.clear();
        self.generation += 1;
        self.holds = false;
        self.fails = None;
        self.failure = None;
    }
}

fn report(outcomes: Vec<(Done, Result<(), WalError>)>) {
    for (done, outcome) in outcomes {
        done(outcome);
    }
}

/// A disk that tests can cut, stall and break. Clones are handles on the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the log on this disk, as after a restart: an older log on it is closed.
    pub fn open(&self) -> MemoryWal {
        let mut disk = self.disk.lock();
        disk.generation += 1;
        disk.failure = None;
        let recovered = disk.written.recovered();
        let generation = disk.generation;
        drop(disk);
        let committed = Mutex::new(recovered.committed);
        MemoryWal {
            disk: self.clone(),
            generation,
            recovered,
            committed,
        }
    }

    /// Cuts the power: what was not synced is gone, and so is the log that wrote it.
    pub fn power_cut(&self) {
        self.disk.lock().cut_power(0);
    }

    /// Cuts the power while unsynced operations were on their way: the first `surviving` of them
    /// reached the disk, unacknowledged.
    pub fn power_cut_keeping(&self, surviving: usize) {
        self.disk.lock().cut_power(surviving);
    }

    /// Operations that a power cut would drop.
    pub fn unsynced(&self) -> usize {
        self.disk.lock().unsynced.len()
    }

    /// Stalls the disk: writes are taken, no sync returns.
    pub fn hold(&self) {
        self.disk.lock().holds = true;
    }

    /// Ends a stall: one sync completes all that waited.
    pub fn release(&self) {
        let mut disk = self.disk.lock();
        disk.holds = false;
        let outcomes = disk.sync();
        drop(disk);
        report(outcomes);
    }

    /// Lets one sync through while the disk stays stalled.
    pub fn release_once(&self) {
        let outcomes = self.disk.lock().sync();
        report(outcomes);
    }

    /// Makes the next sync fail, and with it every later call on the log.
    pub fn fail_next_sync(&self, fault: &'static str) {
        self.disk.lock().fails = Some(fault);
    }
}

/// A log on a [`MemoryDisk`].
pub struct MemoryWal {
    disk: MemoryDisk,
    generation: u64,
    recovered: Recovered,
    committed: Mutex<Option<LogPosition>>,
}

impl MemoryWal {
    /// Runs one call: `change` says what it does, or why it cannot be done.
    fn call(
        &self,
        done: Done,
        is_append: bool,
        change: impl FnOnce(&Image) -> Result<Change, WalError>,
    ) {
        let mut disk = self.disk.disk.lock();
        let refused = if self.generation != disk.generation {
            Some(WalError::Closed)
        } else {
            disk.failure
                .as_ref()
                .map(|failure| WalError::Poisoned(failure.to_string()))
        };
        let change = match refused {
            Some(refused) => Err(refused),
            None => change(&disk.written),
        };
        let outcomes = match change {
            Err(error) => vec![(done, Err(error))],
            Ok(change) => {
                disk.written.apply(change.clone());
                disk.unsynced.push_back(change);
                if is_append {
                    disk.appends.push(done);
                } else {
                    disk.others.push(done);
                }
                if disk.holds { Vec::new() } else { disk.sync() }
            }
        };
        drop(disk);
        report(outcomes);
    }
}

impl Wal for MemoryWal {
    fn append(&self, entries: Vec<WalEntry>, flushed: Done) {
        let committed = *self.committed.lock();
        self.call(flushed, true, |image| {
            follow(image.next(), &entries)?;
            let committed = entries
                .last()
                .and_then(|last| lower(committed, last.position()));
            Ok(Change::Append(entries, committed))
        });
    }

    fn save_vote(&self, vote: Bytes, done: Done) {
        self.call(done, false, |_| Ok(Change::Vote(vote)));
    }

    fn truncate_after(&self, index: Option<u64>, done: Done) {
        self.call(done, false, |_| Ok(Change::Truncate(index)));
    }

    fn purge_to(&self, position: LogPosition, done: Done) {
        self.call(done, false, |_| Ok(Change::Purge(position)));
    }

    fn save_committed(&self, committed: LogPosition) {
        let mut known = self.committed.lock();
        if known.is_none_or(|known| known.index < committed.index) {
            *known = Some(committed);
        }
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let disk = self.disk.disk.lock();
        let image = &disk.written;
        let offset = range
            .start
            .checked_sub(image.first)
            .filter(|offset| *offset < image.entries.len() as u64)
            .ok_or(WalError::Missing { index: range.start })?;
        let mut bytes = 0;
        let mut entries: Vec<WalEntry> = Vec::new();
        for entry in image.entries.range(offset as usize..) {
            let full = !entries.is_empty() && bytes + entry.payload.len() > bytes_max;
            if full || entry.index >= range.end {
                break;
            }
            bytes += entry.payload.len();
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn read_blocks(&self) -> bool {
        false
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn close(&self) -> Result<(), WalError> {
        let committed = *self.committed.lock();
        let mut disk = self.disk.disk.lock();
        if self.generation != disk.generation {
            return Ok(());
        }
        if let Some(committed) = committed {
            let change = Change::Committed(committed);
            disk.written.apply(change.clone());
            disk.unsynced.push_back(change);
        }
        let outcomes = disk.sync();
        let failure = disk.failure.clone();
        disk.generation += 1;
        drop(disk);
        report(outcomes);
        failure.map_or(Ok(()), Err)
    }
}
