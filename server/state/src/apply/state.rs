//! `State`: the owner of all replicated state, on the apply thread.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use keelson_proto::{etcdserverpb::AlarmType, keelsonpb::Command};

use super::{
    admit,
    reply::{Body, Outcome, Reply},
    restore::{Tables, revisions_of},
};
use crate::{
    error::{ApplyError, Fatal},
    items,
    lease::LEASE_ITEM_BYTES,
    mvcc::{
        compaction::CompactStep,
        index::{KeyIndex, Restore},
        write::{EventSink, Mvcc},
    },
    quota,
    reader::{Common, Reader},
    snapshot::Export,
    store::{Disk, Frozen, Installed, KeeperHandle, Position, Recovered, Store, StoreOptions},
};

/// How the state is opened.
pub struct StateOptions {
    /// The store beneath.
    pub store: StoreOptions,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Where events go.
    pub sink: Box<dyn EventSink>,
}

/// All replicated state. One thread owns it; requests use its [`Reader`].
///
/// - After [`apply`](Self::apply) has returned, its changes are visible and its events published.
/// - Positions rise; between entries, index, store and tables agree with the position.
pub struct State {
    pub(super) mvcc: Mvcc,
    pub(super) common: Arc<Common>,
    pub(super) sink: Box<dyn EventSink>,
    position: Position,
}

impl State {
    /// Opens the state at its newest checkpoint; the log behind [`position`](Self::position) is to
    /// be applied again.
    ///
    /// # Errors
    /// The store's, and Damaged for state items that cannot be read. All of them end the process.
    pub fn open(options: StateOptions) -> Result<Self, ApplyError> {
        let mut restore = Restore::default();
        let opened = Store::open(options.store, options.disk, &mut |header, len| {
            restore.push_header(&header, len);
        })?;
        let index = restore.finish();
        let Recovered { position, state } = opened.recovered;
        let tables = Tables::restore(&state, &index)?;
        let revisions = revisions_of(position.as_ref());
        let mvcc = Mvcc::new(index, opened.store, revisions);
        let common = Common::new(
            Arc::clone(&mvcc.shared),
            tables.leases,
            tables.alarms,
            tables.members,
            tables.auth,
        );
        let state = Self {
            mvcc,
            common: Arc::new(common),
            sink: options.sink,
            position: position.unwrap_or_default(),
        };
        state
            .common
            .sizes
            .db_size
            .store(state.position.db_size, Relaxed);
        state.measure();
        Ok(state)
    }

    /// Applies a command of the log entry at `index`. Commands of an entry come in their order;
    /// the position is the entry's from the first one on, so checkpoints are taken between entries.
    ///
    /// # Errors
    /// Fatal: this member can no longer follow the log and must end (design R4).
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Result<Outcome, Fatal> {
        self.advance(index, term);
        match self.run(index, command) {
            Ok(reply) => Ok(Ok(reply)),
            Err(error) => Fatal::or_refusal(error).map(Err),
        }
    }

    fn run(&mut self, index: u64, command: &Command) -> Result<Reply, ApplyError> {
        let Some(request) = &command.request else {
            return Err(ApplyError::UnknownCommand(index));
        };
        admit::admit(&self.common.alarms.read(), command, request)?;
        let before = self.mvcc.revisions.current;
        let body = self.dispatch(request)?;
        self.measure();
        self.reply(body, before)
    }

    /// A pin below the command's revision keeps all that the reply refers to: what its own changes
    /// replaced, and what its ranges saw, at the compact revision or above it.
    fn reply(&self, body: Body, before: i64) -> Result<Reply, ApplyError> {
        let source = if body.needs_store() {
            let begun = self
                .mvcc
                .shared
                .begin(|revisions| Ok::<_, ApplyError>(revisions.compact.min(before)));
            let (view, _, pin) = begun?;
            Some((view, pin))
        } else {
            None
        };
        Ok(Reply::new(body, source))
    }

    /// Notes a log entry without commands (blank, membership) as applied.
    pub fn advance(&mut self, index: u64, term: u64) {
        self.position.applied_index = index;
        self.position.applied_term = term;
    }

    /// Notes the membership as of the applied entry, in the raft layer's encoding.
    pub fn set_membership(&mut self, membership: Bytes) {
        self.position.membership = membership;
    }

    /// Notes the cluster that the data belongs to.
    pub fn set_cluster_id(&mut self, cluster_id: u64) {
        self.position.cluster_id = cluster_id;
    }

    /// Notes that a member was removed: its attributes go and its id never returns (contract 2.11).
    pub fn remove_member(&mut self, id: u64) {
        if self.common.members.write().remove(id) {
            let store = &mut self.mvcc.store;
            store.delete_state(&items::with_id(items::MEMBER, id));
            store.put_state(items::with_id(items::REMOVED, id), Bytes::from_static(&[1]));
            self.measure();
        }
    }

    /// Where the state stands, as a checkpoint now would say.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            revision: self.mvcc.revisions.current,
            compact_revision: self.mvcc.revisions.compact,
            db_size: self.common.sizes.db_size.load(Relaxed),
            ..self.position.clone()
        }
    }

    /// Freezes a checkpoint for the keeper, in less than a millisecond. Between entries only.
    pub fn freeze(&mut self) -> Frozen {
        let position = self.position();
        self.mvcc.store.freeze(position)
    }

    /// Freezes for [`KeeperHandle::defragment`]: dbSize becomes what is in use (store-notes 7).
    pub fn freeze_to_defragment(&mut self) -> Frozen {
        self.common.sizes.db_size.store(0, Relaxed);
        self.measure();
        self.freeze()
    }

    /// The keeper of the store, for checkpoints, defragmentation and installs.
    #[must_use]
    pub fn keeper(&self) -> KeeperHandle {
        self.mvcc.store.keeper()
    }

    /// Takes what a snapshot file of this point holds. Between entries only; costs a copy of the
    /// leases and of the garbage bits. A checkpoint of [`freeze`](Self::freeze) right after it lets
    /// go of records in memory.
    #[must_use]
    pub fn export(&self) -> Export {
        let revisions = self.mvcc.revisions;
        let begun = self
            .mvcc
            .shared
            .begin(|revisions| Ok::<_, std::convert::Infallible>(revisions.compact));
        let Ok((view, _, pin)) = begun;
        Export {
            position: self.position(),
            compaction_finished: self.mvcc.compactions.finished(),
            leases: self.common.leases.read().iter().copied().collect(),
            alarms: self.common.alarms.read().list(AlarmType::None.into()),
            members: self.common.members.read().clone(),
            auth: self.common.auth.read().clone(),
            records: view.store.live_records(revisions.current),
            pin,
        }
    }

    /// Memory of records that no checkpoint holds yet, in bytes.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.mvcc.store.tail_bytes()
    }

    /// A handle for requests.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.common))
    }

    /// One step of compaction: removes at most `revisions_max` revisions from the index. Whoever
    /// drives it pauses after each step that removed something (contract 2.6).
    pub fn compact_step(&mut self, revisions_max: usize) -> CompactStep {
        let (step, removed) = self
            .mvcc
            .compact_step(revisions_max, &self.common.kept_hashes);
        if removed > 0 {
            let counter = &self.common.counters.compaction_keys_total;
            counter.fetch_add(removed as u64, Relaxed);
            self.measure();
        }
        if let CompactStep::Finished(revision) = step {
            self.common.set_compaction_finished(revision);
        }
        step
    }

    /// The last compaction that has finished, −1 before the first.
    #[must_use]
    pub fn compaction_finished(&self) -> i64 {
        self.mvcc.compactions.finished()
    }

    /// Switches to an installed checkpoint whose index was built beside the old one: by
    /// [`Restore`], from the headers that `Incoming::finish` shows.
    ///
    /// # Errors
    /// Fatal: the installed state items cannot be read.
    pub fn replace(&mut self, installed: Installed, index: KeyIndex) -> Result<(), Fatal> {
        let shared = Arc::clone(&self.mvcc.shared);
        let swapped = shared.replace(index.reader().clone(), || {
            let recovered = self.mvcc.store.replace(installed);
            let revisions = revisions_of(recovered.position.as_ref());
            (revisions, (recovered, revisions))
        });
        let (Recovered { position, state }, revisions) = swapped;
        let tables = match Tables::restore(&state, &index) {
            Ok(tables) => tables,
            Err(error) => return Fatal::or_refusal(error).map(|_| ()),
        };
        self.mvcc.reset(index, revisions);
        self.common
            .reset(tables.leases, tables.alarms, tables.members, tables.auth);
        let position = position.unwrap_or_default();
        let cluster_id = self.position.cluster_id;
        self.position = position;
        if self.position.cluster_id == 0 {
            self.position.cluster_id = cluster_id;
        }
        self.common.sizes.db_size.store(0, Relaxed);
        self.measure();
        self.sink.installed(revisions.current);
        Ok(())
    }

    /// Brings the sizes that readers see up to date.
    fn measure(&self) {
        let state_bytes = self.common.leases.read().len() as u64 * LEASE_ITEM_BYTES
            + self.common.alarms.read().state_bytes()
            + self.common.members.read().state_bytes()
            + self.common.auth.read().state_bytes();
        let in_use = quota::in_use_bytes(self.mvcc.index.cost_bytes(), state_bytes);
        let sizes = &self.common.sizes;
        sizes.in_use.store(in_use, Relaxed);
        sizes.db_size.fetch_max(in_use, Relaxed);
        sizes.keys.store(self.mvcc.index.live_keys(), Relaxed);
    }
}
