//! Group commit: one queue, one writer thread, one sync for all that waits (rule R8).
//!
//! The thread takes everything queued, gives it to the [`Backend`] in order, syncs once and then
//! reports. While it syncs, the next group queues up: a lone writer waits for nobody, a thousand
//! share one `fdatasync`. Purge slices run between groups, at a distance; an idle log saves its commit.
//!
//! Invariants:
//! - The commit is captured when an append is queued, under the queue's lock: entries up to it can
//!   no longer be truncated. Taken later, it could name an entry that a queued truncation replaces.
//! - A failure poisons the queue before any waiter hears of it, so no later call succeeds.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::api::{
    Done, LogPosition, PAYLOAD_BYTES_MAX, Recovered, SyncObserver, Wal, WalEntry, WalOptions,
};
use super::backend::{Backend, Reader};
use super::error::WalError;
use super::purge_pace::PurgePace;

/// Payload bytes that may wait. Proposals in flight are bounded far below it; when a stalled disk
/// fills it, appends block and with them the member's log, which is what a stalled disk means.
const QUEUE_BYTES_MAX: usize = 256 << 20;

/// Calls that may wait: bounds their bookkeeping where payloads are tiny.
const QUEUE_OPS_MAX: usize = 65_536;

/// Bytes of one group, so that a backlog is reported in steps instead of after one long sync.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// How long a group may wait for calls that are just being made: a tenth of a fast sync.
const GATHER_MAX: Duration = Duration::from_micros(20);

/// How long nothing new ends that wait.
const GATHER_PAUSE: Duration = Duration::from_micros(2);

/// Quiet time after which the commit is written on its own.
const IDLE: Duration = Duration::from_millis(100);

/// One queued call.
enum Op {
    Append {
        entries: Vec<WalEntry>,
        committed: Option<LogPosition>,
        flushed: Done,
    },
    Vote {
        vote: Bytes,
        done: Done,
    },
    Truncate {
        index: Option<u64>,
        done: Done,
    },
    Purge {
        position: LogPosition,
        done: Done,
    },
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Op::Append { entries, .. } => entries.iter().map(|entry| entry.payload.len()).sum(),
            Op::Vote { vote, .. } => vote.len(),
            Op::Truncate { .. } | Op::Purge { .. } => 0,
        }
    }

    fn into_done(self) -> Done {
        match self {
            Op::Append { flushed: done, .. }
            | Op::Vote { done, .. }
            | Op::Truncate { done, .. }
            | Op::Purge { done, .. } => done,
        }
    }
}

/// What callers and the thread share.
///
/// - `bytes` is the sum over `ops`.
/// - `next` is where the log ends once all of `ops` is done; `None` while it may start anywhere.
/// - `failure` is set once and never cleared.
#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    bytes: usize,
    next: Option<u64>,
    committed: Option<LogPosition>,
    failure: Option<WalError>,
    closing: bool,
    /// The thread sleeps without a deadline and must be told of a new commit.
    sleeps: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when there is something to do.
    work: Condvar,
    /// Signalled when a group has been taken.
    room: Condvar,
}

/// A [`Wal`] over any [`Backend`].
pub(super) struct GroupCommit {
    shared: Arc<Shared>,
    /// Gone once the log is closed: it keeps the files open, and sled's lock on them.
    reader: RwLock<Option<Arc<dyn Reader>>>,
    recovered: Recovered,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl GroupCommit {
    /// Starts the writer thread over an opened backend.
    pub(super) fn start(
        backend: impl Backend,
        recovered: Recovered,
        options: WalOptions,
    ) -> Result<Self, WalError> {
        let end = recovered.end();
        let shared = Arc::new(Shared::default());
        {
            let mut queue = shared.queue.lock();
            queue.next = end.map(|end| end.index + 1);
            queue.committed = recovered.committed;
        }
        let reader = backend.reader();
        let writer = Writer {
            shared: Arc::clone(&shared),
            backend: Box::new(backend),
            observer: options.observer,
            end,
            purged: recovered.purged,
            committed_written: recovered.committed,
            purging: recovered.purged.is_some(),
            purge_pace: PurgePace::new(Instant::now()),
            group_ops: 0,
            entries: 0,
            bytes: 0,
        };
        let thread = std::thread::Builder::new()
            .name("wal".into())
            .spawn(move || writer.run())
            .map_err(|error| WalError::io("starting the log thread", error))?;
        Ok(Self {
            shared,
            reader: RwLock::new(Some(reader)),
            recovered,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues one call, or fails it at once.
    fn enqueue(&self, op: impl FnOnce(&mut Queue) -> Result<Op, (WalError, Done)>) {
        let mut queue = self.shared.queue.lock();
        while queue.failure.is_none()
            && (queue.bytes >= QUEUE_BYTES_MAX || queue.ops.len() >= QUEUE_OPS_MAX)
        {
            self.shared.room.wait(&mut queue);
        }
        let failed = match (op(&mut queue), &queue.failure) {
            (Ok(op), None) => {
                queue.bytes += op.bytes();
                queue.ops.push_back(op);
                self.shared.work.notify_one();
                return;
            }
            (Ok(op), Some(failure)) => (later(failure), op.into_done()),
            (Err(failed), _) => failed,
        };
        drop(queue);
        let (error, done) = failed;
        done(Err(error));
    }
}

/// The failure as calls after the first one see it.
fn later(failure: &WalError) -> WalError {
    match failure {
        WalError::Closed | WalError::Poisoned(_) => failure.clone(),
        first => WalError::Poisoned(first.to_string()),
    }
}

/// Checks that `entries` continue the log and returns where it ends after them.
pub(super) fn follow(next: Option<u64>, entries: &[WalEntry]) -> Result<Option<u64>, WalError> {
    let mut next = next;
    for entry in entries {
        if let Some(next) = next.filter(|next| *next != entry.index) {
            return Err(WalError::NotContiguous {
                next,
                got: entry.index,
            });
        }
        if entry.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(WalError::Refused(format!(
                "entry {} has {} bytes, at most {PAYLOAD_BYTES_MAX} are stored",
                entry.index,
                entry.payload.len()
            )));
        }
        next = Some(entry.index + 1);
    }
    Ok(next)
}

impl Wal for GroupCommit {
    fn append(&self, entries: Vec<WalEntry>, flushed: Done) {
        self.enqueue(|queue| match follow(queue.next, &entries) {
            Ok(next) => {
                queue.next = next;
                Ok(Op::Append {
                    entries,
                    committed: queue.committed,
                    flushed,
                })
            }
            Err(error) => Err((error, flushed)),
        });
    }

    fn save_vote(&self, vote: Bytes, done: Done) {
        self.enqueue(|_| Ok(Op::Vote { vote, done }));
    }

    fn truncate_after(&self, index: Option<u64>, done: Done) {
        self.enqueue(|queue| {
            if let Some(index) = index {
                queue.next = queue.next.map(|next| next.min(index.saturating_add(1)));
            } else {
                queue.next = None;
            }
            Ok(Op::Truncate { index, done })
        });
    }

    fn purge_to(&self, position: LogPosition, done: Done) {
        self.enqueue(|queue| {
            let behind = position.index.saturating_add(1);
            queue.next = Some(queue.next.map_or(behind, |next| next.max(behind)));
            Ok(Op::Purge { position, done })
        });
    }

    fn save_committed(&self, committed: LogPosition) {
        let mut queue = self.shared.queue.lock();
        if queue
            .committed
            .is_none_or(|known| known.index < committed.index)
        {
            queue.committed = Some(committed);
            if queue.sleeps {
                self.shared.work.notify_one();
            }
        }
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        let reader = self.reader.read().clone();
        reader.ok_or(WalError::Closed)?.read(range, bytes_max)
    }

    fn read_blocks(&self) -> bool {
        true
    }

    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn close(&self) -> Result<(), WalError> {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_one();
        let Some(thread) = self.thread.lock().take() else {
            return Ok(());
        };
        if thread.join().is_err() {
            return Err(WalError::Poisoned("the log thread panicked".into()));
        }
        // The directory can be opened again, whoever still holds this log.
        self.reader.write().take();
        match &self.shared.queue.lock().failure {
            None | Some(WalError::Closed) => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the log was dropped after a failure");
        }
    }
}

/// What the thread does next.
enum Next {
    Group(VecDeque<Op>),
    PurgeSlice,
    SaveCommitted(LogPosition),
    Stop,
}

/// The writer thread.
struct Writer {
    shared: Arc<Shared>,
    backend: Box<dyn Backend>,
    observer: Option<Arc<dyn SyncObserver>>,
    /// Last entry given to the backend, or the purge mark.
    end: Option<LogPosition>,
    purged: Option<LogPosition>,
    committed_written: Option<LogPosition>,
    purging: bool,
    purge_pace: PurgePace,
    /// Calls in the last group.
    group_ops: usize,
    /// Entries and bytes given to the backend since the last sync.
    entries: u64,
    bytes: u64,
}

/// Fails whoever still waits when the thread ends, also by a panic.
struct Poison(Arc<Shared>);

impl Drop for Poison {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        let panicked = WalError::Poisoned("the log thread panicked".into());
        let failure = queue.failure.get_or_insert(panicked).clone();
        let left = std::mem::take(&mut queue.ops);
        queue.bytes = 0;
        drop(queue);
        self.0.room.notify_all();
        for op in left {
            op.into_done()(Err(later(&failure)));
        }
    }
}

impl Writer {
    fn run(mut self) {
        let _poison = Poison(Arc::clone(&self.shared));
        let end = loop {
            let step = match self.next() {
                Next::Group(ops) => self.commit(ops),
                Next::PurgeSlice => self.purge_slice(),
                Next::SaveCommitted(committed) => self.save_committed(committed),
                Next::Stop => break self.sync().err().unwrap_or(WalError::Closed),
            };
            if let Err(error) = step {
                break error;
            }
        };
        if !matches!(end, WalError::Closed) {
            tracing::error!(error = %end, "the log failed, nothing is accepted after this");
        }
        self.shared.queue.lock().failure.get_or_insert(end);
    }

    fn next(&mut self) -> Next {
        let mut queue = self.shared.queue.lock();
        loop {
            if !queue.ops.is_empty() {
                self.gather(&mut queue);
                let group = take_group(&mut queue);
                self.group_ops = group.len();
                self.shared.room.notify_all();
                return Next::Group(group);
            }
            let unsaved = self.unsaved(queue.committed);
            if queue.closing {
                return unsaved.map_or(Next::Stop, Next::SaveCommitted);
            }
            if self.purging {
                let pause = self.purge_pace.pause(Instant::now());
                if pause.is_zero() {
                    return Next::PurgeSlice;
                }
                self.shared.work.wait_for(&mut queue, pause);
                continue;
            }
            match unsaved {
                None => {
                    queue.sleeps = true;
                    self.shared.work.wait(&mut queue);
                    queue.sleeps = false;
                }
                Some(committed) => {
                    let timeout = self.shared.work.wait_for(&mut queue, IDLE);
                    if timeout.timed_out() && queue.ops.is_empty() && !queue.closing {
                        return Next::SaveCommitted(committed);
                    }
                }
            }
        }
    }

    /// Waits a moment while calls come in. Whoever waited for the last group calls again at once:
    /// the first of them must not have a sync to itself and let the others wait for it.
    fn gather(&self, queue: &mut MutexGuard<'_, Queue>) {
        let started = Instant::now();
        let mut seen = queue.ops.len();
        while seen < self.group_ops && started.elapsed() < GATHER_MAX {
            MutexGuard::unlocked(queue, || {
                let pause = Instant::now();
                while pause.elapsed() < GATHER_PAUSE {
                    std::thread::yield_now();
                }
            });
            if queue.ops.len() == seen {
                break;
            }
            seen = queue.ops.len();
        }
    }

    /// The commit to write, if the durable one is older. Nothing is queued, so it is lowered to
    /// the end of the log without naming an entry that is about to go.
    fn unsaved(&self, committed: Option<LogPosition>) -> Option<LogPosition> {
        let end = self.end?;
        super::frame::lower(committed, end)
            .filter(|committed| Some(*committed) != self.committed_written)
    }

    /// Writes a group, syncs, reports. On an error every waiter of the group hears of it.
    fn commit(&mut self, ops: VecDeque<Op>) -> Result<(), WalError> {
        let mut waiting = Waiting::default();
        let written = self.write(ops, &mut waiting).and_then(|()| self.sync());
        match written {
            Ok(()) => {
                waiting.succeed();
                if self.purging && self.purge_pace.pause(Instant::now()).is_zero() {
                    self.purge_slice()?;
                }
                Ok(())
            }
            Err(error) => {
                self.shared
                    .queue
                    .lock()
                    .failure
                    .get_or_insert(error.clone());
                waiting.fail(&error);
                Err(error)
            }
        }
    }

    fn write(&mut self, ops: VecDeque<Op>, waiting: &mut Waiting) -> Result<(), WalError> {
        let mut run: Vec<WalEntry> = Vec::new();
        let mut run_committed = None;
        let mut failed = None;
        for op in ops {
            if failed.is_some() {
                waiting.others.push(op.into_done());
                continue;
            }
            let outcome = match op {
                Op::Append {
                    mut entries,
                    committed,
                    flushed,
                } => {
                    run.append(&mut entries);
                    run_committed = committed.or(run_committed);
                    waiting.appends.push(flushed);
                    Ok(())
                }
                Op::Vote { vote, done } => {
                    waiting.others.push(done);
                    self.write_run(&mut run, run_committed)
                        .and_then(|()| self.backend.save_vote(&vote))
                }
                Op::Truncate { index, done } => {
                    waiting.others.push(done);
                    self.write_run(&mut run, run_committed)
                        .and_then(|()| self.truncate(index))
                }
                Op::Purge { position, done } => {
                    waiting.others.push(done);
                    self.write_run(&mut run, run_committed)
                        .and_then(|()| self.purge(position))
                }
            };
            failed = outcome.err();
        }
        match failed {
            Some(error) => Err(error),
            None => self.write_run(&mut run, run_committed),
        }
    }

    fn write_run(
        &mut self,
        run: &mut Vec<WalEntry>,
        committed: Option<LogPosition>,
    ) -> Result<(), WalError> {
        let Some(last) = run.last().map(WalEntry::position) else {
            return Ok(());
        };
        let bytes = self.backend.append(run, committed)?;
        self.bytes += bytes;
        self.purge_pace.appended(bytes);
        self.entries += run.len() as u64;
        self.end = Some(last);
        self.committed_written = super::frame::lower(committed, last).or(self.committed_written);
        run.clear();
        Ok(())
    }

    /// A removal is durable before anything is written behind it.
    fn truncate(&mut self, index: Option<u64>) -> Result<(), WalError> {
        self.backend.truncate_after(index)?;
        self.end = match (index, self.end) {
            (None, _) => self.purged,
            (Some(index), Some(end)) if end.index > index => self.position_of(index),
            (Some(_), end) => end,
        };
        self.sync()
    }

    fn position_of(&self, index: u64) -> Option<LogPosition> {
        if let Some(purged) = self.purged.filter(|purged| purged.index >= index) {
            return Some(purged);
        }
        let kept = self.backend.reader().read(index..index + 1, 1);
        kept.ok()
            .and_then(|kept| kept.first().map(WalEntry::position))
    }

    fn purge(&mut self, position: LogPosition) -> Result<(), WalError> {
        self.backend.mark_purged(position)?;
        self.purging = true;
        self.purged = Some(position);
        if self.end.is_none_or(|end| end.index < position.index) {
            self.end = Some(position);
        }
        Ok(())
    }

    fn purge_slice(&mut self) -> Result<(), WalError> {
        self.purging = self.backend.purge_slice()?;
        self.purge_pace.purged(Instant::now());
        Ok(())
    }

    fn save_committed(&mut self, committed: LogPosition) -> Result<(), WalError> {
        self.backend.save_committed(committed)?;
        self.committed_written = Some(committed);
        self.sync()
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let started = Instant::now();
        self.backend.sync()?;
        if let Some(observer) = &self.observer {
            observer.synced(started.elapsed(), self.entries, self.bytes);
        }
        self.entries = 0;
        self.bytes = 0;
        Ok(())
    }
}

fn take_group(queue: &mut Queue) -> VecDeque<Op> {
    if queue.bytes <= GROUP_BYTES_MAX {
        queue.bytes = 0;
        return std::mem::take(&mut queue.ops);
    }
    let mut group = VecDeque::new();
    let mut bytes = 0;
    while bytes < GROUP_BYTES_MAX
        && let Some(op) = queue.ops.pop_front()
    {
        bytes += op.bytes();
        group.push_back(op);
    }
    queue.bytes = queue.bytes.saturating_sub(bytes);
    group
}

/// Callbacks of a group.
#[derive(Default)]
struct Waiting {
    appends: Vec<Done>,
    others: Vec<Done>,
}

impl Waiting {
    /// Appends are a watermark: the newest stands for all.
    fn succeed(mut self) {
        if let Some(newest) = self.appends.pop() {
            newest(Ok(()));
        }
        for done in self.others {
            done(Ok(()));
        }
    }

    fn fail(self, error: &WalError) {
        for done in self.appends.into_iter().chain(self.others) {
            done(Err(error.clone()));
        }
    }
}

#[cfg(test)]
#[path = "group_commit_tests.rs"]
mod tests;
