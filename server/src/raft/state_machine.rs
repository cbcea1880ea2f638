//! The state machine: openraft's view of [`keelson_state::apply::State`] (design 3, steps 6 and 7).
//!
//! - Apply runs on openraft's state machine task, on the raft runtime. It answers the waiting
//!   requests of a batch itself, after index, ring and `visible`.
//! - Checkpoints are frozen here, between entries, and written by the store's keeper; openraft is
//!   told of them afterwards (design R3). Nothing here waits for the disk.
//! - An error that is not deterministic stops Raft, and the member with it (design R4).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt as _};
use keelson_proto::error::Error;
use keelson_proto::keelsonpb::{Command, command::Request};
use keelson_state::apply::{Outcome, State};
use keelson_state::reader::Reader;
use keelson_state::store::{Checkpoint, KeeperHandle, StoreError};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use super::applied::AppliedIndex;
use super::codec;
use super::member_log;
use super::peers::Peers;
use super::snapshot::{self, Snapshot, SnapshotHandle};
use super::types::{Batch, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::waiters::{Forwarded, ProposeError, Waiter};

/// New data after which a checkpoint is taken, whatever the number of commands (design R3).
const CHECKPOINT_BYTES: usize = 64 << 20;
/// Commands between looks at the size of the new data.
const TAIL_CHECK_COMMANDS: u64 = 64;

/// Told of changes to leases and membership as they are applied.
pub trait ApplyObserver: Send + Sync + 'static {
    /// A lease was granted, with its TTL in seconds.
    fn lease_granted(&self, id: i64, ttl: i64);
    /// A lease was revoked.
    fn lease_revoked(&self, id: i64);
    /// A compaction was accepted.
    fn compaction_scheduled(&self);
    /// Applying a command took this long.
    fn applied(&self, command: &Command, outcome: &Outcome, took: Duration);
    /// A checkpoint of another member begins to be installed, or no longer is.
    fn installing(&self, active: bool);
    /// A checkpoint is durable.
    fn checkpointed(&self, took: Duration);
}

/// What apply shares with the rest of the server.
pub struct Shared {
    /// The state. Locked for one entry, or one step of a compaction.
    pub state: Mutex<State>,
    /// Reads it.
    pub reader: Reader,
    /// The keeper of its store.
    pub keeper: KeeperHandle,
    /// The applied index.
    pub applied: Arc<AppliedIndex>,
    /// Requests that went through the leader.
    pub forwarded: Arc<Forwarded>,
    /// Addresses, kept up to date with the membership.
    pub peers: Arc<Peers>,
    /// Moves on with each entry: the newest visible revision.
    pub visible: watch::Sender<i64>,
    /// Told of leases and compactions.
    pub observer: Arc<dyn ApplyObserver>,
    /// Commands between checkpoints.
    pub snapshot_count: u64,
    /// Told when a checkpoint is durable.
    pub checkpoints: mpsc::Sender<Arc<Checkpoint>>,
    /// Commands applied since start, and where each recent entry ended: what purging counts.
    pub commands: CommandCount,
}

/// How many commands and bytes were applied, by log index: checkpoints and purges count commands,
/// the log counts entries.
#[derive(Debug, Default)]
pub struct CommandCount {
    /// Oldest first; one in [`Self::STRIDE`] commands.
    marks: Mutex<std::collections::VecDeque<Mark>>,
    commands: AtomicU64,
    bytes: AtomicU64,
}

/// The log up to and with `index` held so much since start.
#[derive(Clone, Copy, Debug)]
struct Mark {
    index: u64,
    commands: u64,
    bytes: u64,
}

impl CommandCount {
    /// Commands between two marks.
    const STRIDE: u64 = 64;
    /// Marks kept: enough for the largest catch-up window in use; beyond it less is kept.
    const MARKS_MAX: usize = 64 * 1024;
    /// Log kept behind a checkpoint, in bytes, whatever the number of commands (design R3).
    const KEPT_BYTES_MAX: u64 = 256 << 20;

    fn add(&self, index: u64, commands: u64, bytes: u64) {
        let commands = self.commands.fetch_add(commands, Ordering::Relaxed) + commands;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut marks = self.marks.lock();
        if marks.back().is_none_or(|mark| {
            commands - mark.commands >= Self::STRIDE || bytes - mark.bytes >= (1 << 20)
        }) {
            marks.push_back(Mark {
                index,
                commands,
                bytes,
            });
            if marks.len() > Self::MARKS_MAX {
                marks.pop_front();
            }
        }
    }

    /// The index up to which the log may go if `kept` commands up to `index` are to stay, though
    /// never more than a bounded number of bytes; 0 for nothing.
    #[must_use]
    pub fn purge_index(&self, index: u64, kept: u64) -> u64 {
        let marks = self.marks.lock();
        let last = marks
            .partition_point(|mark| mark.index <= index)
            .checked_sub(1);
        let Some(end) = last.and_then(|place| marks.get(place)).copied() else {
            return 0;
        };
        let disposable = |mark: &Mark| {
            mark.commands + kept <= end.commands || mark.bytes + Self::KEPT_BYTES_MAX <= end.bytes
        };
        let place = marks.partition_point(disposable).checked_sub(1);
        place
            .and_then(|place| marks.get(place))
            .map_or(0, |mark| mark.index)
    }
}

/// See the module.
pub struct StateMachine {
    shared: Arc<Shared>,
    membership: StoredMembership,
    commands_since_checkpoint: u64,
    /// A checkpoint is being written; the next one waits for it.
    writing: Arc<std::sync::atomic::AtomicBool>,
}

impl StateMachine {
    /// Over a state opened at its newest checkpoint.
    ///
    /// # Errors
    /// When the membership of the checkpoint does not decode.
    pub fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let position = shared.state.lock().position();
        let membership = if position.membership.is_empty() {
            StoredMembership::default()
        } else {
            snapshot::decode_membership(&position.membership)?
        };
        shared.peers.set_stored(&membership);
        shared
            .applied
            .advance(position.applied_term, position.applied_index);
        Ok(Self {
            shared,
            membership,
            commands_since_checkpoint: 0,
            writing: Arc::default(),
        })
    }

    fn apply_batch(&mut self, log_id: &LogId, batch: &Batch) -> io::Result<()> {
        let (index, term) = (log_id.index(), **log_id.committed_leader_id());
        let commands = batch
            .take_commands()
            .map_err(|source| codec::CodecError::Undecodable {
                what: "batch",
                source,
            })?;
        let waiting = self.waiting(batch, &commands);
        let mut outcomes = Vec::with_capacity(commands.len());
        {
            let mut waiting = waiting.iter();
            let mut state = self.shared.state.lock();
            let mut last = Instant::now();
            for command in &commands {
                // Before the store grows: counted twice it might exceed the quota.
                if let Some(Some(waiter)) = waiting.next() {
                    waiter.applying();
                }
                let outcome = state
                    .apply(index, term, command)
                    .map_err(io::Error::other)?;
                let now = Instant::now();
                self.shared.observer.applied(command, &outcome, now - last);
                last = now;
                outcomes.push(outcome);
            }
            if commands.is_empty() {
                state.advance(index, term);
            }
        }
        self.finish_entry(term, index);
        let count = commands.len() as u64;
        self.shared
            .commands
            .add(index, count, batch.encoded().len() as u64);
        self.commands_since_checkpoint += count;
        for (command, outcome) in commands.iter().zip(&outcomes) {
            self.observe(command, outcome);
        }
        for (waiter, outcome) in waiting.into_iter().zip(outcomes) {
            if let Some(waiter) = waiter {
                waiter.applied(index, outcome);
            }
        }
        Ok(())
    }

    fn observe(&self, command: &Command, outcome: &Outcome) {
        if outcome.is_err() {
            return;
        }
        match &command.request {
            Some(Request::LeaseGrant(grant)) => {
                self.shared.observer.lease_granted(grant.id, grant.ttl);
            }
            Some(Request::LeaseRevoke(revoke)) => self.shared.observer.lease_revoked(revoke.id),
            Some(Request::Compaction(_)) => self.shared.observer.compaction_scheduled(),
            _ => {}
        }
    }

    /// Those who wait, here or through the member that forwarded: one for each command, or none at
    /// all.
    fn waiting(&self, batch: &Batch, commands: &[Command]) -> Vec<Option<Waiter>> {
        if let Some(waiters) = batch.take_waiters() {
            return waiters.into_iter().map(Some).collect();
        }
        if self.shared.forwarded.is_empty() {
            return Vec::new();
        }
        let forwarded = |command: &Command| self.shared.forwarded.take(command.request_id);
        let waiters = commands.iter().map(forwarded);
        waiters.map(|waiter| waiter.map(Waiter::Local)).collect()
    }

    /// The entry's effects are visible: readers and watchers may go on.
    fn finish_entry(&self, term: u64, index: u64) {
        self.shared.applied.advance(term, index);
        let revision = self.shared.reader.current_revision();
        self.shared.visible.send_if_modified(|visible| {
            let moved = *visible != revision;
            *visible = revision;
            moved
        });
    }

    /// Position and membership change under one lock: a checkpoint that is frozen meanwhile, such as
    /// a defragmentation's, holds both or none (design R2).
    ///
    /// Who was a member and is none any more is removed for good (contract 2.11): that follows from
    /// the memberships, so every member finds the same.
    fn set_membership(&mut self, log_id: &LogId, stored: StoredMembership) {
        let encoded = codec::stored_membership_to_proto(&stored).encode_to_vec();
        let (before, after) = (self.membership.membership(), stored.membership());
        {
            let mut state = self.shared.state.lock();
            state.advance(log_id.index(), **log_id.committed_leader_id());
            state.set_membership(encoded.into());
            for (id, _) in before.nodes() {
                if after.get_node(id).is_none() {
                    state.remove_member(*id);
                }
            }
        }
        member_log::changed(self.shared.peers.local_id(), before, after);
        self.shared.peers.set_stored(&stored);
        self.membership = stored;
    }

    /// Freezes a checkpoint if one is due and hands it to the keeper.
    fn checkpoint_if_due(&mut self) {
        let by_count = self.commands_since_checkpoint >= self.shared.snapshot_count;
        let look = self
            .commands_since_checkpoint
            .is_multiple_of(TAIL_CHECK_COMMANDS);
        let due = by_count
            || (look
                && self.commands_since_checkpoint > 0
                && self.shared.state.lock().tail_bytes() >= CHECKPOINT_BYTES);
        if due && !self.writing.swap(true, Ordering::AcqRel) {
            self.commands_since_checkpoint = 0;
            let frozen = self.shared.state.lock().freeze();
            write_checkpoint(&self.shared, frozen, &self.writing);
        }
    }
}

/// Asks the keeper to write; when it is done openraft is told through `checkpoints`.
fn write_checkpoint(
    shared: &Arc<Shared>,
    frozen: keelson_state::store::Frozen,
    writing: &Arc<std::sync::atomic::AtomicBool>,
) {
    let index = frozen.position().applied_index;
    tracing::info!("applied-index" = index, "triggering snapshot");
    let (checkpoints, writing) = (shared.checkpoints.clone(), Arc::clone(writing));
    let observer = Arc::clone(&shared.observer);
    let started = Instant::now();
    let done = move |result: Result<Arc<Checkpoint>, StoreError>| {
        writing.store(false, Ordering::Release);
        match result {
            Ok(checkpoint) => {
                observer.checkpointed(started.elapsed());
                let index = checkpoint.position().applied_index;
                tracing::info!("snapshot-index" = index, "saved snapshot to disk");
                // A full queue already holds the news that there is a newer checkpoint.
                drop(checkpoints.try_send(checkpoint));
            }
            Err(error) if error.is_fatal() => crate::fatal("write checkpoint", &error),
            // The tail is kept; the next checkpoint tries again.
            Err(error) => tracing::error!(error = %error, "failed to write checkpoint"),
        }
    };
    shared.keeper.checkpoint(frozen, Box::new(done));
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let position = self.shared.state.lock().position();
        let log_id = (!position.membership.is_empty())
            .then(|| LogId::new(position.applied_term.into(), position.applied_index));
        Ok((log_id, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let log_id = entry.log_id();
            let (index, term) = (log_id.index(), **log_id.committed_leader_id());
            match &entry.payload {
                EntryPayload::Blank => {
                    self.shared.state.lock().advance(index, term);
                    self.finish_entry(term, index);
                }
                EntryPayload::Normal(batch) => self.apply_batch(&log_id, batch)?,
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(log_id), membership.clone());
                    self.set_membership(&log_id, stored);
                    self.finish_entry(term, index);
                }
            }
            if let Some(responder) = responder {
                responder.send(());
            }
            self.checkpoint_if_due();
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            keeper: self.shared.keeper.clone(),
        }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        // Building only reports the newest checkpoint, so there must be one.
        self.shared.keeper.current().map(|_| Builder {
            keeper: self.shared.keeper.clone(),
        })
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        let SnapshotHandle::Received(snapshot) = snapshot else {
            // openraft offers the newest checkpoint at start; the state was opened at it.
            return Ok(());
        };
        let keeper = self.shared.keeper.clone();
        let (received, index) = (snapshot.received, snapshot.restore.finish());
        self.shared.observer.installing(true);
        let installed = tokio::task::spawn_blocking(move || keeper.install(received))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let (term, last) = {
            let mut state = self.shared.state.lock();
            state.replace(installed, index).map_err(io::Error::other)?;
            let position = state.position();
            (position.applied_term, position.applied_index)
        };
        self.membership = meta.last_membership.clone();
        self.shared.peers.set_stored(&self.membership);
        self.commands_since_checkpoint = 0;
        self.finish_entry(term, last);
        self.shared.observer.installing(false);
        // What the checkpoint had not removed yet is removed here; somebody may wait for it.
        self.shared.observer.compaction_scheduled();
        // Their outcomes are inside the checkpoint, unseen.
        self.shared
            .forwarded
            .fail_all(ProposeError::Indefinite(Error::Timeout));
        tracing::info!("applied-index" = last, "applied snapshot");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        match self.shared.keeper.current() {
            Some(checkpoint) => Ok(Some(of_checkpoint(checkpoint)?)),
            None => Ok(None),
        }
    }
}

fn of_checkpoint(checkpoint: Arc<Checkpoint>) -> io::Result<Snapshot> {
    let meta = snapshot::meta(&checkpoint)?;
    Ok(Snapshot {
        meta,
        snapshot: SnapshotHandle::Local(checkpoint),
    })
}

/// "Builds" a snapshot: reports the newest durable checkpoint.
pub struct Builder {
    keeper: KeeperHandle,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let checkpoint = self
            .keeper
            .current()
            .ok_or_else(|| io::Error::other("there is no checkpoint to report"))?;
        of_checkpoint(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purging_keeps_the_wanted_commands() {
        let count = CommandCount::default();
        for index in 1..=100 {
            count.add(index, 64, 1 << 10);
        }
        assert_eq!(count.purge_index(100, 640), 90);
        assert_eq!(count.purge_index(50, 0), 50);
        assert_eq!(count.purge_index(5, 640), 0);
        assert_eq!(count.purge_index(0, 0), 0);
        count.add(101, 1, 300 << 20);
        assert_eq!(count.purge_index(101, u64::MAX / 2), 100);
    }
}
