//! openraft's storage suite on every log, and what it does not ask.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use openraft::type_config::alias::SnapshotOf;

use super::*;
use crate::raft::types::{BatchBuilder, Node, SnapshotMeta, StoredMembership};
use crate::raft::wal::{MemoryDisk, WalOptions, open_file, open_sled};

type StorageError = openraft::StorageError<TypeConfig>;

/// A state machine that knows only where it stands.
#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl Applied {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }
}

struct Machine(Arc<RwLock<Applied>>);

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, ()>, io::Error> {
        let mut applied = self.0.write();
        let meta = applied.meta();
        applied.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.0.read();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut applied = self.0.write();
            applied.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        Machine(Arc::clone(&self.0))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        let mut applied = self.0.write();
        applied.last = meta.last_log_id;
        applied.membership = meta.last_membership.clone();
        applied.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, ()>>, io::Error> {
        let meta = self.0.read().snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: () }))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Sled,
    File,
    Memory,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Option<tempfile::TempDir>> for Kind {
    async fn build(&self) -> Result<(Option<tempfile::TempDir>, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions {
            unsafe_no_fsync: true,
            ..WalOptions::default()
        };
        let wal: Arc<dyn Wal> = match self {
            Kind::Sled => open_sled(dir.path(), options).unwrap(),
            Kind::File => open_file(dir.path(), options).unwrap(),
            Kind::Memory => Arc::new(MemoryDisk::new().open()),
        };
        Ok((
            Some(dir),
            LogStore::new(wal).unwrap(),
            Machine(Arc::default()),
        ))
    }
}

#[tokio::test]
async fn openraft_suite_on_sled() {
    Suite::test_all(Kind::Sled).await.unwrap();
}

#[tokio::test]
async fn openraft_suite_on_file() {
    Suite::test_all(Kind::File).await.unwrap();
}

#[tokio::test]
async fn openraft_suite_on_memory() {
    Suite::test_all(Kind::Memory).await.unwrap();
}

fn entry(index: u64, bytes: usize) -> Entry {
    let batch = Batch::from_encoded(vec![7; bytes].into());
    Entry {
        log_id: LogId::new(1.into(), index),
        payload: EntryPayload::Normal(batch),
    }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    let (sender, receiver) = TypeConfig::oneshot();
    store
        .append(entries, IOFlushed::signal(sender))
        .await
        .unwrap();
    receiver.await.unwrap().unwrap();
}

async fn reopened(disk: &MemoryDisk) -> LogStore {
    LogStore::new(Arc::new(disk.open())).unwrap()
}

#[tokio::test]
async fn entries_are_readable_before_they_are_durable() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    disk.hold();
    let (sender, mut receiver) = TypeConfig::oneshot();
    store
        .append([entry(0, 9), entry(1, 9)], IOFlushed::signal(sender))
        .await
        .unwrap();
    let mut reader = store.get_log_reader().await;
    assert_eq!(
        reader.try_get_log_entries(0..9).await.unwrap(),
        [entry(0, 9), entry(1, 9)]
    );
    assert!(receiver.try_recv().is_err(), "nothing is durable yet");
    disk.release();
    receiver.await.unwrap().unwrap();
}

#[tokio::test]
async fn replication_and_streams_read_from_the_log_what_the_cache_does_not_hold() {
    for kind in [Kind::Sled, Kind::File, Kind::Memory] {
        let (_dir, mut store, _) = kind.build().await.unwrap();
        let entries: Vec<_> = (0..40).map(|index| entry(index, 100_000)).collect();
        append(&mut store, entries.clone()).await;
        {
            let mut state = store.shared.state.write();
            (0..30).for_each(|_| drop(state.pop_front()));
        }
        let mut reader = store.get_log_reader().await;
        let some = reader.limited_get_log_entries(3, 40).await.unwrap();
        assert!(
            !some.is_empty() && some.len() <= 11,
            "{} entries",
            some.len()
        );
        assert_eq!(some, entries[3..3 + some.len()]);
        let streamed: Vec<_> = reader
            .entries_stream(5..38)
            .await
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(streamed, entries[5..38]);
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    }
}

#[tokio::test]
async fn an_entry_stays_cached_until_it_is_durable_and_was_applied() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    let half = CACHE_BYTES / 2;
    disk.hold();
    for index in 0..4 {
        store
            .append([entry(index, half)], IOFlushed::noop())
            .await
            .unwrap();
    }
    assert_eq!(store.shared.state.read().cache.len(), 4, "not durable");
    disk.release();
    store
        .append([entry(4, 1)], IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(store.shared.state.read().cache.len(), 5, "not applied");
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.entries_stream(0..4).await.count().await, 4);
    store
        .append([entry(5, 1)], IOFlushed::noop())
        .await
        .unwrap();
    assert_eq!(store.shared.state.read().cache_first, 3);
}

#[tokio::test]
async fn apply_gets_the_very_batch_that_was_proposed() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    let batch = BatchBuilder::default().build();
    let log_id = LogId::new(1.into(), 0);
    append(
        &mut store,
        vec![Entry {
            log_id,
            payload: EntryPayload::Normal(batch),
        }],
    )
    .await;
    let mut reader = store.get_log_reader().await;
    let applied = reader
        .entries_stream(0..1)
        .await
        .next()
        .await
        .unwrap()
        .unwrap();
    let EntryPayload::Normal(batch) = applied.payload else {
        panic!("{applied:?}")
    };
    assert!(
        batch.take_waiters().is_some(),
        "the requests are still there to be answered"
    );
}

#[tokio::test]
async fn all_kinds_of_entries_and_the_vote_survive_a_restart() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    let membership = openraft::Membership::new(
        vec![BTreeSet::from([1])],
        std::collections::BTreeMap::from([(1, Node::default())]),
    );
    let payloads = [
        EntryPayload::Membership(membership.unwrap()),
        EntryPayload::Blank,
        entry(0, 5).payload,
    ];
    let entries: Vec<_> = (0..)
        .zip(payloads)
        .map(|(index, payload)| Entry {
            log_id: LogId::new(1.into(), index),
            payload,
        })
        .collect();
    append(&mut store, entries.clone()).await;
    let vote = codec::vote_from_proto(&keelsonpb::Vote {
        term: 3,
        node_id: 9,
        committed: true,
    });
    store.save_vote(&vote).await.unwrap();

    let mut store = reopened(&disk).await;
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(0..3).await.unwrap(), entries);
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn a_commit_ahead_of_the_durable_log_is_lowered_at_restart() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    append(&mut store, vec![entry(0, 9), entry(1, 9)]).await;
    disk.hold();
    store
        .append([entry(2, 9)], IOFlushed::noop())
        .await
        .unwrap();
    store
        .save_committed(Some(LogId::new(1.into(), 2)))
        .await
        .unwrap();
    store
        .append([entry(3, 9)], IOFlushed::noop())
        .await
        .unwrap();
    disk.power_cut();
    let mut store = reopened(&disk).await;
    let committed = store.read_committed().await.unwrap();
    let last = store.get_log_state().await.unwrap().last_log_id;
    assert_eq!(last, Some(LogId::new(1.into(), 1)));
    assert!(committed <= last, "{committed:?}");
}

#[tokio::test]
async fn a_purge_beyond_the_last_entry_moves_the_log() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    append(&mut store, vec![entry(0, 9), entry(1, 9)]).await;
    let purged = LogId::new(4.into(), 100);
    store.purge(purged).await.unwrap();
    for mut store in [store.clone(), reopened(&disk).await] {
        let state = store.get_log_state().await.unwrap();
        assert_eq!(
            (state.last_log_id, state.last_purged_log_id),
            (Some(purged), Some(purged))
        );
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_failed_disk_fails_appends_and_votes() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    disk.fail_next_sync("torn cable");
    let (sender, receiver) = TypeConfig::oneshot();
    store
        .append([entry(0, 9)], IOFlushed::signal(sender))
        .await
        .unwrap();
    assert!(receiver.await.unwrap().is_err());
    let vote = codec::vote_from_proto(&keelsonpb::Vote::default());
    assert!(store.save_vote(&vote).await.is_err());
}

#[tokio::test]
async fn an_entry_that_leaves_the_cache_before_apply_keeps_its_waiting_requests() {
    let disk = MemoryDisk::new();
    let mut store = reopened(&disk).await;
    let awaited = Entry {
        log_id: LogId::new(1.into(), 0),
        payload: EntryPayload::Normal(BatchBuilder::default().build()),
    };
    append(&mut store, vec![awaited]).await;
    for index in 1..6 {
        append(&mut store, vec![entry(index, CACHE_BYTES)]).await;
    }
    append(&mut store, vec![entry(6, 1)]).await;
    let cache_first = store.shared.state.read().cache_first;
    assert!(cache_first > 0, "the cache is far beyond its bound");
    let mut reader = store.get_log_reader().await;
    let first = reader.entries_stream(0..2).await.next().await;
    let EntryPayload::Normal(batch) = first.unwrap().unwrap().payload else {
        panic!("no batch")
    };
    assert!(batch.take_waiters().is_some(), "somebody still waits");
    append(&mut store, vec![entry(7, 1)]).await;
    let awaited = store.shared.state.read().awaited.len();
    assert_eq!(awaited, 0, "handed to apply: no longer kept");
}
