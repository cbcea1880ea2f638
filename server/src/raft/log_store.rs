//! openraft's log storage over any [`Wal`], with a cache of recent entries (design 6).
//!
//! Step 4 of the path of a Put: `append` puts the entries into the cache, where every reader finds
//! them at once, and hands their bytes to the log, which reports when they are durable.
//!
//! Invariants (openraft-notes 2):
//! - The cache holds a suffix of the log, and every entry that is not durable yet.
//! - Entries keep their identity from proposal to apply: the batch that apply reads from the cache
//!   still carries the waiting requests of its proposer. So an entry leaves the cache only once it
//!   was handed to apply, unless the cache has grown far beyond its bound. One with waiting requests
//!   is then kept beside the cache, and takes the place of what the log gives back for it.
//! - A vote or a truncation is durable when the call returns; a purge is only marked.
//!
//! Left to others: what entries mean, when to purge, and ending the process after a failure.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::Stream;
use keelson_proto::keelsonpb;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::RwLock;
use prost::Message as _;

use super::codec::{self, CodecError};
use super::types::{Batch, Entry, LogId, TypeConfig, Vote};
use super::wal::{Done, LogPosition, Wal, WalEntry, WalError};

/// Encoded bytes of entries the cache aims to keep: enough that followers which are a little
/// behind never read the disk.
const CACHE_BYTES: usize = 32 << 20;

/// Beyond this, durable entries leave the cache although they were not applied yet. Reached only if
/// apply stands still. Those with waiting requests stay in memory: they are no more than a proposer
/// may have under way.
const CACHE_BYTES_MAX: usize = 4 * CACHE_BYTES;

/// What an entry costs in the cache beside its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Bytes of one answer to replication, and of one step of a stream: bounds what a lagging
/// follower makes the leader hold.
const READ_BYTES_MAX: usize = 1 << 20;

/// Tags of payloads in the log (docs/FORMAT.md, "Log"). Never reused.
mod payload_kind {
    /// The first entry of a leader; no bytes.
    pub(super) const BLANK: u8 = 0;
    /// An encoded `keelsonpb.Batch`.
    pub(super) const BATCH: u8 = 1;
    /// An encoded `keelsonpb.Membership`.
    pub(super) const MEMBERSHIP: u8 = 2;
}

/// What the log store itself can fail with; the log's own failures are [`WalError`].
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// The log failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The saved vote does not decode.
    #[error("saved vote: {0}")]
    Vote(#[source] prost::DecodeError),
    /// An entry does not decode.
    #[error("log entry {index}: {source}")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        source: CodecError,
    },
    /// An entry is of a kind this version does not know.
    #[error("log entry {index} is of the unknown kind {kind}")]
    UnknownKind {
        /// Its index.
        index: u64,
        /// Its tag.
        kind: u8,
    },
    /// The log ended without answering.
    #[error("the log stopped without an answer")]
    Abandoned,
}

impl From<LogStoreError> for io::Error {
    fn from(error: LogStoreError) -> Self {
        match error {
            LogStoreError::Wal(error) => error.into(),
            LogStoreError::Vote(_)
            | LogStoreError::Entry { .. }
            | LogStoreError::UnknownKind { .. } => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            LogStoreError::Abandoned => io::Error::other(error),
        }
    }
}

/// openraft's handle on the log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

/// Reads the log for replication and apply. Clones share the cache.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

struct Shared {
    wal: Arc<dyn Wal>,
    state: RwLock<State>,
    /// Entries below are durable.
    flushed_next: AtomicU64,
    /// Entries below were handed to apply.
    streamed_next: AtomicU64,
}

/// - `cache` holds the entries `cache_first..next`; it is empty if `cache_first == next`.
/// - Entries `first..cache_first` are in the log only, but for those in `awaited`.
struct State {
    first: u64,
    next: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    cache: VecDeque<Cached>,
    cache_first: u64,
    cache_bytes: usize,
    /// Entries that left the cache before they were handed to apply, and that requests wait for.
    awaited: BTreeMap<u64, Entry>,
}

struct Cached {
    entry: Entry,
    bytes: usize,
}

impl State {
    fn push(&mut self, entry: Entry, payload_bytes: usize) {
        let index = entry.log_id.index();
        if self.last.is_none() {
            self.first = index;
            self.cache_first = index;
        }
        let bytes = payload_bytes + ENTRY_OVERHEAD_BYTES;
        self.last = Some(entry.log_id);
        self.next = index + 1;
        self.cache_bytes += bytes;
        self.cache.push_back(Cached { entry, bytes });
    }

    fn evict(&mut self, flushed_next: u64, streamed_next: u64) {
        while self.cache_bytes > CACHE_BYTES && self.cache_first < flushed_next {
            let is_applied = self.cache_first < streamed_next;
            if !is_applied && self.cache_bytes <= CACHE_BYTES_MAX {
                break;
            }
            if let Some(entry) = self.pop_front()
                && !is_applied
                && has_waiters(&entry)
            {
                self.awaited.insert(entry.log_id.index(), entry);
            }
        }
        if !self.awaited.is_empty() {
            self.awaited = self.awaited.split_off(&streamed_next);
        }
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let cached = self.cache.pop_front()?;
        self.cache_bytes -= cached.bytes;
        self.cache_first += 1;
        Some(cached.entry)
    }

    /// Entries that the log gave back, with the waiting requests of those that have some.
    fn with_waiters(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        if self.awaited.is_empty() {
            return entries;
        }
        for entry in &mut entries {
            if let Some(awaited) = self.awaited.get(&entry.log_id.index())
                && awaited.log_id == entry.log_id
            {
                *entry = awaited.clone();
            }
        }
        entries
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(self.first, |last| last.index() + 1);
        if self.next <= next {
            return;
        }
        while self.next > next {
            self.next -= 1;
            if let Some(cached) = self.cache.pop_back() {
                self.cache_bytes -= cached.bytes;
            }
        }
        self.cache_first = self.cache_first.min(self.next);
        self.awaited.split_off(&self.next);
        self.last = last.or(self.purged);
    }

    fn purge(&mut self, purged: LogId) {
        let first = purged.index() + 1;
        while self.cache_first < first && !self.cache.is_empty() {
            self.pop_front();
        }
        self.awaited = self.awaited.split_off(&first);
        self.purged = Some(purged);
        self.first = self.first.max(first);
        self.next = self.next.max(first);
        self.cache_first = self.cache_first.max(first).min(self.next);
        if self.last.is_none_or(|last| last.index() < purged.index()) {
            self.last = Some(purged);
        }
    }
}

fn has_waiters(entry: &Entry) -> bool {
    matches!(&entry.payload, EntryPayload::Normal(batch) if batch.has_waiters())
}

/// Where the next entries of a read come from.
enum Source {
    Cache(Vec<Entry>),
    Log(Range<u64>),
    End,
}

impl Shared {
    /// Takes entries of `range` from the cache, up to `bytes_max` and at least one.
    fn source(&self, range: Range<u64>, bytes_max: usize) -> Source {
        let state = self.state.read();
        let end = range.end.min(state.next);
        if range.start >= end {
            return Source::End;
        }
        let Some(offset) = range.start.checked_sub(state.cache_first) else {
            return Source::Log(range.start..end.min(state.cache_first));
        };
        let mut bytes = 0;
        let cached = state
            .cache
            .iter()
            .skip(offset as usize)
            .take((end - range.start) as usize)
            .take_while(|cached| {
                let is_first = bytes == 0;
                bytes += cached.bytes;
                is_first || bytes <= bytes_max
            });
        Source::Cache(cached.map(|cached| cached.entry.clone()).collect())
    }

    /// Reads some entries from the start of `range`; none only past the end of the log.
    async fn read_some(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, LogStoreError> {
        match self.source(range, bytes_max) {
            Source::End => Ok(Vec::new()),
            Source::Cache(entries) => Ok(entries),
            Source::Log(range) => {
                let wal = Arc::clone(&self.wal);
                let read = move || wal.read(range, bytes_max);
                let stored = if self.wal.read_blocks() {
                    let reading = tokio::task::spawn_blocking(read);
                    reading.await.map_err(|_| LogStoreError::Abandoned)?
                } else {
                    read()
                };
                let entries = stored?
                    .into_iter()
                    .map(decode)
                    .collect::<Result<Vec<Entry>, _>>()?;
                Ok(self.state.read().with_waiters(entries))
            }
        }
    }

    /// `range` as indexes, without the entries that are purged.
    fn clip(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        start.max(self.state.read().first)..end
    }

    fn flushed(&self, next: u64) {
        self.flushed_next.fetch_max(next, Ordering::AcqRel);
    }
}

fn position(log_id: &LogId) -> LogPosition {
    LogPosition {
        term: **log_id.committed_leader_id(),
        index: log_id.index(),
    }
}

fn log_id(position: LogPosition) -> LogId {
    LogId::new(position.term.into(), position.index)
}

/// The bytes of an entry as its proposer made them.
fn encode(entry: &Entry) -> WalEntry {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (payload_kind::BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (payload_kind::BATCH, batch.encoded().clone()),
        EntryPayload::Membership(membership) => {
            let encoded = codec::membership_to_proto(membership).encode_to_vec();
            (payload_kind::MEMBERSHIP, encoded.into())
        }
    };
    let LogPosition { term, index } = position(&entry.log_id);
    WalEntry {
        index,
        term,
        kind,
        payload,
    }
}

fn decode(stored: WalEntry) -> Result<Entry, LogStoreError> {
    let log_id = log_id(stored.position());
    let index = stored.index;
    let payload = match stored.kind {
        payload_kind::BLANK => EntryPayload::Blank,
        payload_kind::BATCH => EntryPayload::Normal(Batch::from_encoded(stored.payload)),
        payload_kind::MEMBERSHIP => {
            let membership = keelsonpb::Membership::decode(stored.payload)
                .map_err(|source| CodecError::Undecodable {
                    what: "membership",
                    source,
                })
                .and_then(codec::membership_from_proto)
                .map_err(|source| LogStoreError::Entry { index, source })?;
            EntryPayload::Membership(membership)
        }
        kind => return Err(LogStoreError::UnknownKind { index, kind }),
    };
    Ok(Entry { log_id, payload })
}

/// A callback for the log and the future that waits for it.
fn outcome() -> (Done, impl Future<Output = Result<(), LogStoreError>>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done: Done = Box::new(move |outcome| {
        // The caller may have gone; the log reports its failures itself.
        drop(sender.send(outcome));
    });
    let wait = async move {
        receiver
            .await
            .map_err(|_| LogStoreError::Abandoned)?
            .map_err(LogStoreError::Wal)
    };
    (done, wait)
}

impl LogStore {
    /// Continues the log that `wal` recovered.
    ///
    /// # Errors
    /// When the saved vote does not decode.
    pub fn new(wal: Arc<dyn Wal>) -> Result<Self, LogStoreError> {
        let recovered = wal.recovered();
        let vote = match &recovered.vote {
            Some(vote) => {
                let vote = keelsonpb::Vote::decode(vote.clone()).map_err(LogStoreError::Vote)?;
                Some(codec::vote_from_proto(&vote))
            }
            None => None,
        };
        let next = recovered.end().map_or(0, |end| end.index + 1);
        let state = State {
            first: recovered.first.unwrap_or(next),
            next,
            last: recovered.end().map(log_id),
            purged: recovered.purged.map(log_id),
            committed: recovered.committed.map(log_id),
            vote,
            cache: VecDeque::new(),
            cache_first: next,
            cache_bytes: 0,
            awaited: BTreeMap::new(),
        };
        let shared = Shared {
            wal,
            state: RwLock::new(state),
            flushed_next: AtomicU64::new(next),
            streamed_next: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The log below: to close it at shutdown, and to see what it recovered.
    #[must_use]
    pub fn wal(&self) -> &Arc<dyn Wal> {
        &self.shared.wal
    }

    /// Whether nothing was ever stored: no entry, no mark of a purge, no vote. A member that has
    /// heard of a leader has a vote, though a checkpoint may be all it got and not be installed yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        let state = self.shared.state.read();
        state.last.is_none() && state.purged.is_none() && state.vote.is_none()
    }

    /// The last entry and the last purged one.
    #[must_use]
    pub fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.shared.state.read();
        (state.last, state.purged)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_log_id, last_purged_log_id) = self.ends();
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, wait) = outcome();
        let encoded = codec::vote_to_proto(vote).encode_to_vec();
        self.shared.wal.save_vote(encoded.into(), done);
        wait.await?;
        self.shared.state.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.shared.wal.save_committed(position(&committed));
            self.shared.state.write().committed = Some(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state.read().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let shared = &self.shared;
        let mut stored = Vec::new();
        let mut state = shared.state.write();
        for entry in entries {
            let encoded = encode(&entry);
            state.push(entry, encoded.payload.len());
            stored.push(encoded);
        }
        let next = state.next;
        state.evict(
            shared.flushed_next.load(Ordering::Acquire),
            shared.streamed_next.load(Ordering::Acquire),
        );
        drop(state);
        let flushed = Arc::clone(shared);
        let done: Done = Box::new(move |outcome| {
            if outcome.is_ok() {
                flushed.flushed(next);
            }
            callback.io_completed(outcome.map_err(io::Error::from));
        });
        shared.wal.append(stored, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let shared = &self.shared;
        shared.state.write().truncate(last_log_id);
        let (done, wait) = outcome();
        shared
            .wal
            .truncate_after(last_log_id.map(|last| last.index()), done);
        wait.await?;
        // Appends before the truncation have reported by now, so the mark can only fall.
        let next = shared.state.read().next;
        shared.flushed_next.fetch_min(next, Ordering::AcqRel);
        Ok(())
    }

    async fn purge(&mut self, purged: LogId) -> Result<(), io::Error> {
        let shared = &self.shared;
        shared.state.write().purge(purged);
        shared.flushed(purged.index() + 1);
        // A failure poisons the log, and the next append or vote reports it.
        shared.wal.purge_to(position(&purged), Box::new(drop));
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut range = self.shared.clip(&range);
        let mut entries = Vec::new();
        loop {
            let some = self.shared.read_some(range.clone(), READ_BYTES_MAX).await?;
            if some.is_empty() {
                return Ok(entries);
            }
            range.start += some.len() as u64;
            entries.extend(some);
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.read().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.shared.read_some(start..end, READ_BYTES_MAX).await?)
    }

    /// Lazy: at most `READ_BYTES_MAX` are held at a time. Only apply reads in this way, so what
    /// has been handed out here may leave the cache.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let shared = Arc::clone(&self.shared);
        let range = shared.clip(&range);
        let cursor = Cursor {
            shared,
            range,
            ready: Vec::new().into_iter(),
            failed: false,
        };
        let stream = futures::stream::unfold(cursor, |mut cursor| async move {
            let item = cursor.next().await?;
            Some((item, cursor))
        });
        Box::pin(stream)
    }
}

/// Where a stream of entries stands.
struct Cursor {
    shared: Arc<Shared>,
    range: Range<u64>,
    ready: std::vec::IntoIter<Entry>,
    failed: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<Entry, io::Error>> {
        if self.failed {
            return None;
        }
        if self.ready.len() == 0 {
            match self
                .shared
                .read_some(self.range.clone(), READ_BYTES_MAX)
                .await
            {
                Ok(entries) => self.ready = entries.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error.into()));
                }
            }
        }
        let entry = self.ready.next()?;
        self.range.start = entry.log_id.index() + 1;
        self.shared
            .streamed_next
            .fetch_max(self.range.start, Ordering::AcqRel);
        Some(Ok(entry))
    }
}

#[cfg(test)]
#[path = "log_store_tests.rs"]
mod tests;
