//! Drives the watch shards: one task each (design 5, store-notes 6).
//!
//! A shard's task takes requests of its streams, follows apply, starts history reads on the blocking
//! pool and delivers them. Registering, publishing, hand-over and progress of a stream therefore
//! happen in one task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use keelson_state::store::StoreError;
use keelson_state::watch::{
    HistoryJob, HistoryPart, Item, Queue, QueueBudget, Ring, Shard, StreamId, WatchId, WatchSpec,
};
use tokio::sync::{Notify, mpsc, watch};

/// Requests of streams that wait for their shard. Above it streams wait for room.
const COMMANDS_MAX: usize = 4096;
/// Requests a shard takes before it follows apply again.
const COMMANDS_STEP: usize = 256;

/// Reads history for watchers that are behind.
pub trait History: Send + Sync + 'static {
    /// The compact revision.
    fn compact_revision(&self) -> i64;
    /// Reads a job's revisions; `None` if its first one is compacted away.
    ///
    /// # Errors
    /// When the store cannot be read: the member must stop.
    fn read(&self, job: &HistoryJob) -> Result<Option<HistoryPart>, StoreError>;
}

enum Command {
    Open(StreamId, Arc<Queue>),
    Close(StreamId),
    Create(StreamId, WatchSpec),
    Cancel(StreamId, WatchId),
    Progress(StreamId),
    Tick(StreamId),
}

struct ShardHandle {
    commands: mpsc::Sender<Command>,
    /// A queue has drained.
    drained: Arc<Notify>,
    watchers: Arc<AtomicUsize>,
    slow_watchers: Arc<AtomicUsize>,
}

/// All shards of this member.
pub struct WatchHub {
    shards: Vec<ShardHandle>,
    budget: Arc<QueueBudget>,
    next_stream: AtomicU64,
    streams: Arc<AtomicUsize>,
}

impl WatchHub {
    /// Starts the shards on the current runtime. They end when the hub and all streams are dropped.
    #[must_use]
    pub fn start(
        shards: usize,
        ring: &Arc<Ring>,
        visible: &watch::Receiver<i64>,
        installs: &watch::Receiver<i64>,
        history: &Arc<dyn History>,
    ) -> Self {
        let revision = *visible.borrow();
        let shards = (0..shards.max(1))
            .map(|_| {
                let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
                let drained = Arc::new(Notify::new());
                let (watchers, slow_watchers) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
                let task = ShardTask {
                    shard: Shard::new(Arc::clone(ring), revision),
                    commands: receiver,
                    visible: visible.clone(),
                    installs: installs.clone(),
                    drained: Arc::clone(&drained),
                    history: Arc::clone(history),
                    watchers: Arc::clone(&watchers),
                    slow_watchers: Arc::clone(&slow_watchers),
                };
                tokio::spawn(task.run());
                ShardHandle {
                    commands,
                    drained,
                    watchers,
                    slow_watchers,
                }
            })
            .collect();
        Self {
            shards,
            budget: Arc::default(),
            next_stream: AtomicU64::new(0),
            streams: Arc::default(),
        }
    }

    /// Opens a stream on one of the shards.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn open(&self) -> Result<WatchStream, Stopping> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(id).unwrap_or(0) % self.shards.len();
        let shard = self.shards.get(place).ok_or(Stopping)?;
        let ready = Arc::new(Notify::new());
        let wake = Arc::clone(&ready);
        let queue = Arc::new(Queue::new(
            Arc::clone(&self.budget),
            Box::new(move || wake.notify_one()),
        ));
        let opened = Command::Open(id, Arc::clone(&queue));
        shard.commands.send(opened).await.map_err(|_| Stopping)?;
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ok(WatchStream {
            id,
            queue,
            ready,
            commands: shard.commands.clone(),
            drained: Arc::clone(&shard.drained),
            streams: Arc::clone(&self.streams),
        })
    }

    /// Numbers for the metrics.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let sum = |pick: fn(&ShardHandle) -> &AtomicUsize| {
            self.shards
                .iter()
                .map(|shard| pick(shard).load(Ordering::Relaxed))
                .sum()
        };
        let watchers = sum(|shard| &shard.watchers);
        let slow = sum(|shard| &shard.slow_watchers);
        (watchers, slow, self.streams.load(Ordering::Relaxed))
    }

    /// Events that wait to be sent, and events sent so far.
    #[must_use]
    pub fn events(&self) -> (usize, u64) {
        (self.budget.pending_events(), self.budget.sent_events())
    }
}

/// The member is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("watch hub has stopped")]
pub struct Stopping;

/// One stream: requests go to its shard, items come out of its queue. Dropping it ends its watches.
pub struct WatchStream {
    id: StreamId,
    queue: Arc<Queue>,
    ready: Arc<Notify>,
    commands: mpsc::Sender<Command>,
    drained: Arc<Notify>,
    streams: Arc<AtomicUsize>,
}

impl WatchStream {
    /// Waits until another request may be made: answers of a client that does not read are bounded.
    pub async fn room(&self) {
        while !self.queue.has_room() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Asks for a watch.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn create(&self, spec: WatchSpec) -> Result<(), Stopping> {
        self.send(Command::Create(self.id, spec)).await
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn cancel(&self, watch_id: WatchId) -> Result<(), Stopping> {
        self.send(Command::Cancel(self.id, watch_id)).await
    }

    /// Asks for progress of all watches.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn request_progress(&self) -> Result<(), Stopping> {
        self.send(Command::Progress(self.id)).await
    }

    /// Periodic progress is due.
    ///
    /// # Errors
    /// When the member is stopping.
    pub async fn progress_tick(&self) -> Result<(), Stopping> {
        self.send(Command::Tick(self.id)).await
    }

    /// Refuses a create request with an answer of its own.
    pub fn refuse(&self, reason: String, revision: i64) {
        self.queue.push_control(Item::Refused { reason, revision });
    }

    /// The next item.
    pub async fn next(&self) -> Item {
        loop {
            if let Some((item, drained)) = self.queue.pop() {
                if drained {
                    self.drained.notify_one();
                }
                return item;
            }
            self.ready.notified().await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), Stopping> {
        self.commands.send(command).await.map_err(|_| Stopping)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        let close = Command::Close(self.id);
        if let Err(mpsc::error::TrySendError::Full(close)) = self.commands.try_send(close) {
            let commands = self.commands.clone();
            tokio::spawn(async move { drop(commands.send(close).await) });
        }
    }
}

struct ShardTask {
    shard: Shard,
    commands: mpsc::Receiver<Command>,
    visible: watch::Receiver<i64>,
    installs: watch::Receiver<i64>,
    drained: Arc<Notify>,
    history: Arc<dyn History>,
    watchers: Arc<AtomicUsize>,
    slow_watchers: Arc<AtomicUsize>,
}

type JobResult = (HistoryJob, Result<Option<HistoryPart>, StoreError>);

impl ShardTask {
    async fn run(mut self) {
        let mut jobs: FuturesUnordered<tokio::task::JoinHandle<JobResult>> =
            FuturesUnordered::new();
        loop {
            tokio::select! {
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    self.take(command);
                    for _ in 0..COMMANDS_STEP {
                        let Ok(command) = self.commands.try_recv() else { break };
                        self.take(command);
                    }
                }
                changed = self.visible.changed() => if changed.is_err() { return },
                changed = self.installs.changed() => {
                    if changed.is_err() { return }
                    let revision = *self.installs.borrow_and_update();
                    self.shard.install(revision);
                }
                () = self.drained.notified() => {}
                Some(result) = jobs.next(), if !jobs.is_empty() => match result {
                    Ok((job, Ok(part))) => self.shard.deliver(job, part),
                    Ok((_, Err(error))) => crate::fatal("read watch history", &error),
                    Err(error) => crate::fatal("read watch history", &error),
                },
            }
            let visible = *self.visible.borrow_and_update();
            self.shard.follow(visible);
            for job in self.shard.catch_up(self.history.compact_revision()) {
                let history = Arc::clone(&self.history);
                jobs.push(tokio::task::spawn_blocking(move || {
                    let part = history.read(&job);
                    (job, part)
                }));
            }
            self.watchers
                .store(self.shard.watchers(), Ordering::Relaxed);
            self.slow_watchers
                .store(self.shard.unsynced(), Ordering::Relaxed);
        }
    }

    fn take(&mut self, command: Command) {
        let visible = *self.visible.borrow();
        match command {
            Command::Open(id, queue) => self.shard.add_stream(id, queue),
            Command::Close(id) => self.shard.remove_stream(id),
            Command::Create(id, spec) => self.shard.create(id, spec, visible),
            Command::Cancel(id, watch_id) => self.shard.cancel(id, watch_id),
            Command::Progress(id) => self.shard.request_progress(id, visible),
            Command::Tick(id) => self.shard.progress_tick(id, visible),
        }
    }
}
