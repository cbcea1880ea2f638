//! The keeper: the one thread that writes checkpoints, rewrites, installs (store-notes 5).
//!
//! Requests are merged, not queued: a checkpoint asked for while one is being written replaces
//! another that waits, and all who asked get its result. So the apply thread never waits here, and
//! what waits is bounded. Installs run on the caller's thread, in turn with the keeper's work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::checkpoint::{Checkpoint, Core, Frozen};
use super::error::StoreError;
use super::install::{Incoming, Installed, Received};
use super::pace::Pace;
use super::rewrite::Rewrite;
use super::table::Shared;

/// Who may wait for one checkpoint: raft asks one at a time, a few Defragment calls may join.
const WAITERS_MAX: usize = 1024;

/// How often files that are read still are looked at: their space is wanted back, but not urgently.
const RETIRED_INTERVAL: Duration = Duration::from_millis(100);

/// Called with the result, on the keeper thread; must not block.
pub type Done = Box<dyn FnOnce(Result<Arc<Checkpoint>, StoreError>) + Send>;

#[derive(Default)]
struct Pending {
    frozen: Option<Frozen>,
    checkpoint: Vec<Done>,
    defragment: Vec<Done>,
    stop: bool,
}

struct Keeper {
    core: Mutex<Core>,
    shared: Arc<Shared>,
    pending: Mutex<Pending>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Installs that wait for the core: nothing pauses while there are any.
    installs: AtomicUsize,
}

/// Asks the keeper for work. Cheap to clone.
#[derive(Clone)]
pub struct KeeperHandle {
    keeper: Arc<Keeper>,
}

impl KeeperHandle {
    pub(crate) fn new(core: Core) -> KeeperHandle {
        let shared = core.shared.clone();
        let keeper = Keeper {
            core: Mutex::new(core),
            shared,
            pending: Mutex::default(),
            wake: Condvar::new(),
            thread: Mutex::new(None),
            installs: AtomicUsize::new(0),
        };
        KeeperHandle {
            keeper: Arc::new(keeper),
        }
    }

    pub(crate) fn spawn(&self) -> std::io::Result<()> {
        let handle = self.clone();
        let run = move || handle.keeper.run();
        let thread = std::thread::Builder::new()
            .name("store-keeper".into())
            .spawn(run)?;
        *self.keeper.thread.lock() = Some(thread);
        Ok(())
    }

    /// Makes a frozen position durable, then rewrites what is due. `done` is called in between, as
    /// soon as the log may be purged (G3).
    pub fn checkpoint(&self, frozen: Frozen, done: Done) {
        self.ask(frozen, done, |pending| &mut pending.checkpoint);
    }

    /// A checkpoint, then a rewrite of all segments that have garbage; `done` is called at the end.
    pub fn defragment(&self, frozen: Frozen, done: Done) {
        self.ask(frozen, done, |pending| &mut pending.defragment);
    }

    /// As [`checkpoint`](Self::checkpoint), on the caller's thread: for tests and simulation.
    pub fn checkpoint_now(&self, frozen: &Frozen) -> Result<Arc<Checkpoint>, StoreError> {
        let checkpoint = self.keeper.core.lock().checkpoint(frozen)?;
        self.keeper.rewrite(Rewrite::Background, None)?;
        Ok(checkpoint)
    }

    /// As [`defragment`](Self::defragment), on the caller's thread.
    pub fn defragment_now(&self, frozen: &Frozen) -> Result<Arc<Checkpoint>, StoreError> {
        self.keeper.core.lock().checkpoint(frozen)?;
        self.keeper.rewrite(Rewrite::All, None)?;
        self.current().ok_or(StoreError::ShutDown)
    }

    /// Rewrites all segments that have garbage, without a checkpoint before.
    #[cfg(test)]
    pub(crate) fn rewrite_now(&self) -> Result<(), StoreError> {
        self.keeper.rewrite(Rewrite::All, None)
    }

    /// Number of files that were replaced and are not closed.
    #[cfg(test)]
    pub(crate) fn retired(&self) -> usize {
        self.keeper.core.lock().retired.len()
    }

    /// Closes what nobody reads any more, as the thread does now and then.
    #[cfg(test)]
    pub(crate) fn close_retired(&self) -> bool {
        self.keeper.core.lock().close_retired()
    }

    /// The newest durable checkpoint, none before the first.
    pub fn current(&self) -> Option<Arc<Checkpoint>> {
        self.keeper.shared.current.load_full()
    }

    /// Begins to receive a checkpoint that another member sends; what an earlier attempt left is
    /// removed. `cluster_id` is ours.
    pub fn incoming(&self, cluster_id: u64, manifest: &[u8]) -> Result<Incoming, StoreError> {
        self.keeper
            .core_at_once()
            .begin_install(cluster_id, manifest)
    }

    /// Makes a received checkpoint durably ours. Blocks until the keeper's current work is done.
    /// The store goes on with the old state until [`Store::replace`](super::Store::replace).
    pub fn install(&self, received: Received) -> Result<Installed, StoreError> {
        let installed = self.keeper.core_at_once().install(received);
        // It looks after the files that were replaced, unless it was just about to sleep.
        let pending = self.keeper.pending.lock();
        self.keeper.wake.notify_one();
        drop(pending);
        installed
    }

    /// Stops the thread after what it is doing. What waits gets [`StoreError::ShutDown`].
    pub fn shutdown(&self) {
        self.keeper.pending.lock().stop = true;
        self.keeper.wake.notify_all();
        let thread = self.keeper.thread.lock().take();
        let own = thread
            .as_ref()
            .is_some_and(|t| t.thread().id() == std::thread::current().id());
        if let Some(thread) = thread.filter(|_| !own)
            && thread.join().is_err()
        {
            tracing::error!("the keeper thread panicked");
        }
        let mut pending = self.keeper.pending.lock();
        pending.frozen = None;
        let mut waiting = std::mem::take(&mut pending.checkpoint);
        waiting.append(&mut pending.defragment);
        drop(pending);
        for done in waiting {
            done(Err(StoreError::ShutDown));
        }
    }

    fn ask(&self, frozen: Frozen, done: Done, list: fn(&mut Pending) -> &mut Vec<Done>) {
        let mut pending = self.keeper.pending.lock();
        let refused = if pending.stop {
            Some(StoreError::ShutDown)
        } else if list(&mut pending).len() >= WAITERS_MAX {
            Some(StoreError::Busy)
        } else {
            None
        };
        if let Some(error) = refused {
            drop(pending);
            done(Err(error));
            return;
        }
        list(&mut pending).push(done);
        pending.frozen = Some(frozen);
        self.keeper.wake.notify_one();
    }
}

/// Why the thread goes on.
enum Wake {
    Stop,
    Work(Pending),
    Look,
}

impl Keeper {
    fn run(&self) {
        loop {
            let looks_again = self.core.lock().close_retired();
            match self.wait(looks_again) {
                Wake::Stop => return,
                Wake::Work(pending) => self.serve(pending),
                Wake::Look => {}
            }
        }
    }

    /// Waits for work, or for the time to look after retired files again.
    fn wait(&self, looks_again: bool) -> Wake {
        let mut pending = self.pending.lock();
        if pending.frozen.is_none() && !pending.stop {
            if looks_again {
                let _timed_out = self.wake.wait_for(&mut pending, RETIRED_INTERVAL);
            } else {
                self.wake.wait(&mut pending);
            }
        }
        if pending.stop {
            Wake::Stop
        } else if pending.frozen.is_some() {
            Wake::Work(std::mem::take(&mut *pending))
        } else {
            Wake::Look
        }
    }

    fn serve(&self, pending: Pending) {
        let Some(frozen) = pending.frozen else { return };
        let result = self.core.lock().checkpoint(&frozen);
        drop(frozen);
        for done in pending.checkpoint {
            done(result.clone());
        }
        let reason = if pending.defragment.is_empty() {
            Rewrite::Background
        } else {
            Rewrite::All
        };
        let rewritten = result.and_then(|checkpoint| {
            let pace = Pace::new(self.shared.tail_bytes(), Instant::now());
            self.rewrite(reason, Some(pace))?;
            Ok(self.shared.current.load_full().unwrap_or(checkpoint))
        });
        if let Err(error) = &rewritten {
            tracing::warn!(%error, "rewrite of segments failed");
        }
        for done in pending.defragment {
            done(rewritten.clone());
        }
    }

    /// Rewrites what is due. The core is let go between runs, so that an install need not wait for
    /// all of them.
    fn rewrite(&self, reason: Rewrite, mut pace: Option<Pace>) -> Result<(), StoreError> {
        let mut wrote = |bytes| {
            if let Some(pace) = &mut pace {
                self.pause(pace.wrote(bytes, self.shared.tail_bytes(), Instant::now()));
            }
        };
        while self.core.lock().rewrite_next(reason, &mut wrote)? {
            if self.pending.lock().stop {
                break;
            }
        }
        Ok(())
    }

    /// Sleeps, but not once the thread is to stop, and not while an install waits.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut pending = self.pending.lock();
        while !pending.stop
            && self.installs.load(Ordering::Relaxed) == 0
            && !self.wake.wait_until(&mut pending, end).timed_out()
        {}
    }

    /// The core, for an install.
    fn core_at_once(&self) -> MutexGuard<'_, Core> {
        self.installs.fetch_add(1, Ordering::Relaxed);
        drop(self.pending.lock());
        self.wake.notify_one();
        let core = self.core.lock();
        self.installs.fetch_sub(1, Ordering::Relaxed);
        core
    }
}
