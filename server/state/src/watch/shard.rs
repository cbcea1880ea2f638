//! A shard: some streams, their watchers, and where they stand (store-notes 6, W1–W9).
//!
//! - `cursor` c: every matching event up to it is queued for every synced watcher (W1).
//! - A watcher's `next` is its first revision that is not queued; of a synced one it is c + 1, or its
//!   start if that lies in the future.
//! - A revision is queued whole or not at all for a watcher (W3).
//!
//! The owner calls [`Shard::follow`] when apply has moved on, [`Shard::catch_up`] after it and when
//! a queue has drained, runs the [`HistoryJob`]s it gets, and hands their results to
//! [`Shard::deliver`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::key_range::KeyRange;

use super::event::RevisionEvents;
use super::interval::RangeMap;
use super::queue::{EventBatch, Indexes, Item, Queue};
use super::ring::{Ring, RingRead};
use crate::mvcc::shared::NEVER_COMPACTED;

/// A watch stream of this member.
pub type StreamId = u64;
/// A watch within its stream.
pub type WatchId = i64;

/// Revisions taken from the ring at once.
const RING_STEP: usize = 256;
/// Revisions in one response of history (contract 2.7).
const HISTORY_REVISIONS_MAX: usize = 1000;
/// History reads that a shard has under way: the disk serves the slow, not the many.
const HISTORY_JOBS_MAX: usize = 2;

type WatcherKey = (StreamId, WatchId);

/// Kinds of events a watch does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// No puts.
    pub no_put: bool,
    /// No deletes.
    pub no_delete: bool,
}

/// A create request, validated.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// What is watched.
    pub range: KeyRange,
    /// The first revision wanted; 0 means whatever comes next.
    pub start_revision: i64,
    /// The id the client wants; 0 means that one is assigned.
    pub watch_id: WatchId,
    /// Whether events carry previous values.
    pub prev_kv: bool,
    /// Whether periodic progress is wanted.
    pub progress_notify: bool,
    /// Whether large responses may be cut.
    pub fragment: bool,
    /// Unwanted kinds of events.
    pub filters: Filters,
}

/// A piece of history to be read from the store, for watchers that stand at similar revisions.
#[derive(Debug)]
pub struct HistoryJob {
    /// The first revision to read.
    pub from: i64,
    /// The last one.
    pub to: i64,
    /// Events of other keys need not be brought along.
    pub ranges: Vec<KeyRange>,
    /// Revisions to read at most.
    pub revisions_max: usize,
    watchers: Vec<WatcherKey>,
}

/// What a history job read.
#[derive(Debug)]
pub struct HistoryPart {
    /// Everything wanted of `[job.from, through]` is in `revisions`.
    pub through: i64,
    /// Revisions with events, oldest first.
    pub revisions: Vec<Arc<RevisionEvents>>,
}

#[derive(Debug)]
struct Watcher {
    spec: WatchSpec,
    /// First revision not queued; meaningless for a synced watcher whose start is not in the future.
    next: i64,
    synced: bool,
    in_history: bool,
    /// Had events since the last periodic progress.
    active: bool,
    /// Periodic progress found no room.
    progress_due: bool,
}

#[derive(Debug)]
struct StreamState {
    queue: Arc<Queue>,
    watchers: HashMap<WatchId, Watcher>,
    next_id: WatchId,
    /// A requested progress found no room.
    progress_due: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    ring: Arc<Ring>,
    cursor: i64,
    /// The compact revision when it was last looked at.
    compact_revision: i64,
    streams: HashMap<StreamId, StreamState>,
    /// Watchers of all streams.
    watchers: usize,
    keys: HashMap<Bytes, Vec<WatcherKey>>,
    ranges: RangeMap<WatcherKey>,
    unsynced: BTreeSet<WatcherKey>,
    jobs: usize,
    /// Streams where progress found no room.
    progress_due: BTreeSet<StreamId>,
    hits: Vec<(WatcherKey, u32)>,
}

impl Shard {
    /// A shard without streams, behind a store at `revision`.
    #[must_use]
    pub fn new(ring: Arc<Ring>, revision: i64) -> Self {
        Self {
            ring,
            cursor: revision,
            compact_revision: NEVER_COMPACTED,
            streams: HashMap::new(),
            watchers: 0,
            keys: HashMap::new(),
            ranges: RangeMap::default(),
            unsynced: BTreeSet::new(),
            jobs: 0,
            progress_due: BTreeSet::new(),
            hits: Vec::new(),
        }
    }

    /// The revision up to which synced watchers have everything.
    #[must_use]
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Number of watchers that are behind.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Number of watchers.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.watchers
    }

    /// Takes charge of a stream.
    pub fn add_stream(&mut self, id: StreamId, queue: Arc<Queue>) {
        let state = StreamState {
            queue,
            watchers: HashMap::new(),
            next_id: 0,
            progress_due: false,
        };
        self.streams.insert(id, state);
    }

    /// Forgets a stream and its watchers.
    pub fn remove_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        for (watch_id, watcher) in stream.watchers {
            self.unregister((id, watch_id), &watcher.spec.range);
        }
    }

    /// Registers a watch behind everything up to `visible`, and queues the answer (W2).
    pub fn create(&mut self, stream_id: StreamId, mut spec: WatchSpec, visible: i64) {
        self.follow(visible);
        let cursor = self.cursor;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let refusal = if spec.start_revision < 0 {
            Some(Error::Compacted.text())
        } else if spec.range.is_empty() {
            Some("mvcc: watcher range is empty")
        } else if spec.watch_id != 0 && stream.watchers.contains_key(&spec.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        if let Some(reason) = refusal {
            let item = Item::Refused {
                reason: reason.to_owned(),
                revision: cursor,
            };
            stream.queue.push_control(item);
            return;
        }
        if spec.watch_id == 0 {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            spec.watch_id = stream.next_id;
            stream.next_id += 1;
        }
        let watch_id = spec.watch_id;
        let next = if spec.start_revision == 0 {
            cursor + 1
        } else {
            spec.start_revision
        };
        let synced = next > cursor;
        stream.queue.push_control(Item::Created {
            watch_id,
            revision: cursor,
        });
        let key = (stream_id, watch_id);
        match &spec.range {
            KeyRange::Single(single) => self.keys.entry(single.clone()).or_default().push(key),
            range => {
                self.ranges
                    .insert(Bytes::copy_from_slice(range.start()), range.end(), key);
            }
        }
        let watcher = Watcher {
            spec,
            next,
            synced,
            in_history: false,
            active: false,
            progress_due: false,
        };
        stream.watchers.insert(watch_id, watcher);
        self.watchers += 1;
        if !synced {
            self.unsynced.insert(key);
        }
    }

    /// Ends a watch at the client's request; an unknown id is ignored.
    pub fn cancel(&mut self, stream_id: StreamId, watch_id: WatchId) {
        let revision = self.cursor;
        if let Some(queue) = self.remove_watcher((stream_id, watch_id)) {
            queue.push_control(Item::Canceled { watch_id, revision });
        }
    }

    /// Queues the events up to `visible` for the synced watchers.
    pub fn follow(&mut self, visible: i64) {
        while self.cursor < visible {
            match self.ring.read(self.cursor + 1, visible, RING_STEP) {
                RingRead::Overrun => {
                    self.desync_all();
                    self.cursor = visible;
                }
                RingRead::Events(revisions) => {
                    let whole = revisions.len() < RING_STEP;
                    for revision in revisions {
                        self.cursor = revision.revision;
                        self.publish(&revision);
                    }
                    if whole {
                        self.cursor = visible;
                    }
                }
            }
        }
    }

    fn publish(&mut self, revision: &Arc<RevisionEvents>) {
        let mut hits = std::mem::take(&mut self.hits);
        for (index, event) in (0u32..).zip(&revision.events) {
            for key in self.keys.get(&event.key).into_iter().flatten() {
                hits.push((*key, index));
            }
            self.ranges
                .for_each_containing(&event.key, |key| hits.push((*key, index)));
        }
        // Ranges are visited in any order, and a watcher's events must stand in theirs.
        hits.sort_unstable();
        let mut rest = hits.as_slice();
        while let Some(&(key, _)) = rest.first() {
            let (mine, others) = rest.split_at(rest.partition_point(|(other, _)| *other == key));
            rest = others;
            self.offer(key, revision, mine);
        }
        hits.clear();
        self.hits = hits;
    }

    /// Queues one revision for one synced watcher.
    fn offer(
        &mut self,
        key: WatcherKey,
        revision: &Arc<RevisionEvents>,
        hits: &[(WatcherKey, u32)],
    ) {
        let Some(stream) = self.streams.get_mut(&key.0) else {
            return;
        };
        let Some(watcher) = stream.watchers.get_mut(&key.1) else {
            return;
        };
        if !watcher.synced || revision.revision < watcher.next {
            return;
        }
        let indexes: Vec<u32> = hits
            .iter()
            .map(|(_, index)| *index)
            .filter(|index| watcher.wants_index(revision, *index))
            .collect();
        if indexes.is_empty() {
            return;
        }
        let indexes = watcher.indexes(revision, indexes);
        let events = vec![(Arc::clone(revision), indexes)];
        let batch = watcher.batch(revision.revision, self.compact_revision, events);
        watcher.active = true;
        if stream.queue.try_push(Item::Events(batch)).is_err() {
            watcher.synced = false;
            watcher.next = revision.revision;
            self.unsynced.insert(key);
        }
    }

    /// Moves unsynced watchers forward: from the ring if it reaches back far enough, else with the
    /// history jobs it returns. Watchers whose next revision is compacted away end here (W5).
    #[must_use]
    pub fn catch_up(&mut self, compact_revision: i64) -> Vec<HistoryJob> {
        self.compact_revision = compact_revision;
        let mut behind: Vec<(i64, WatcherKey)> = Vec::new();
        for key in self.unsynced.clone() {
            let Some(stream) = self.streams.get(&key.0) else {
                continue;
            };
            let Some(watcher) = stream.watchers.get(&key.1) else {
                continue;
            };
            if watcher.in_history {
                continue;
            }
            if watcher.next < compact_revision {
                if let Some(queue) = self.remove_watcher(key) {
                    queue.push_control(Item::Compacted {
                        watch_id: key.1,
                        compact_revision,
                    });
                }
                continue;
            }
            if !stream.queue.has_room() {
                continue;
            }
            if watcher.next >= self.ring.first() {
                self.catch_up_from_ring(key);
            } else {
                behind.push((watcher.next, key));
            }
        }
        let jobs = self.group(behind);
        self.retry_progress();
        jobs
    }

    fn catch_up_from_ring(&mut self, key: WatcherKey) {
        loop {
            let Some(stream) = self.streams.get_mut(&key.0) else {
                return;
            };
            let Some(watcher) = stream.watchers.get_mut(&key.1) else {
                return;
            };
            if watcher.next > self.cursor {
                watcher.synced = true;
                self.unsynced.remove(&key);
                return;
            }
            let RingRead::Events(revisions) =
                self.ring
                    .read(watcher.next, self.cursor, HISTORY_REVISIONS_MAX)
            else {
                return;
            };
            let through = match revisions.last() {
                Some(last) if revisions.len() == HISTORY_REVISIONS_MAX => last.revision,
                _ => self.cursor,
            };
            let position = (self.cursor, self.compact_revision);
            if !watcher.push_history(&stream.queue, position, &revisions, through) {
                return;
            }
        }
    }

    /// Makes jobs of watchers that stand within one job's reach of each other.
    fn group(&mut self, mut behind: Vec<(i64, WatcherKey)>) -> Vec<HistoryJob> {
        behind.sort_unstable();
        let mut jobs: Vec<HistoryJob> = Vec::new();
        for (next, key) in behind {
            let Some(watcher) = self
                .streams
                .get_mut(&key.0)
                .and_then(|stream| stream.watchers.get_mut(&key.1))
            else {
                continue;
            };
            let range = watcher.spec.range.clone();
            let reach = HISTORY_REVISIONS_MAX as i64 / 2;
            let room = self.jobs + jobs.len() < HISTORY_JOBS_MAX;
            match jobs.last_mut().filter(|job| next < job.from + reach) {
                Some(job) => {
                    job.watchers.push(key);
                    if !job.ranges.contains(&range) {
                        job.ranges.push(range);
                    }
                }
                None if room => jobs.push(HistoryJob {
                    from: next,
                    to: self.cursor,
                    ranges: vec![range],
                    revisions_max: HISTORY_REVISIONS_MAX,
                    watchers: vec![key],
                }),
                None => continue,
            }
            watcher.in_history = true;
        }
        self.jobs += jobs.len();
        jobs
    }

    /// Queues what a job read. `None`: its first revision is compacted away, which `catch_up` will
    /// find.
    pub fn deliver(&mut self, job: HistoryJob, part: Option<HistoryPart>) {
        self.jobs -= 1;
        for key in job.watchers {
            let Some(stream) = self.streams.get_mut(&key.0) else {
                continue;
            };
            let Some(watcher) = stream.watchers.get_mut(&key.1) else {
                continue;
            };
            if !std::mem::take(&mut watcher.in_history) {
                continue;
            }
            let Some(part) = &part else { continue };
            if watcher.next < job.from || watcher.next > part.through {
                continue;
            }
            let position = (self.cursor, self.compact_revision);
            if watcher.push_history(&stream.queue, position, &part.revisions, part.through)
                && watcher.next > self.cursor
            {
                watcher.synced = true;
                self.unsynced.remove(&key);
            }
        }
    }

    /// Answers a progress request: with one response if all watches of the stream have everything
    /// up to the cursor, else not at all (W6).
    pub fn request_progress(&mut self, stream_id: StreamId, visible: i64) {
        self.follow(visible);
        let cursor = self.cursor;
        if let Some(stream) = self.streams.get_mut(&stream_id)
            && !stream.progress(cursor)
        {
            self.progress_due.insert(stream_id);
        }
    }

    /// Periodic progress of a stream's watches that asked for it and had no events meanwhile.
    pub fn progress_tick(&mut self, stream_id: StreamId, visible: i64) {
        self.follow(visible);
        let cursor = self.cursor;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        for (watch_id, watcher) in &mut stream.watchers {
            if watcher.spec.progress_notify
                && !std::mem::take(&mut watcher.active)
                && !watcher.progress(*watch_id, &stream.queue, cursor)
            {
                self.progress_due.insert(stream_id);
            }
        }
    }

    /// Sends what progress found no room before, with the values of now.
    fn retry_progress(&mut self) {
        let cursor = self.cursor;
        for stream_id in std::mem::take(&mut self.progress_due) {
            let Some(stream) = self.streams.get_mut(&stream_id) else {
                continue;
            };
            let mut sent = true;
            if std::mem::take(&mut stream.progress_due) {
                sent &= stream.progress(cursor);
            }
            for (watch_id, watcher) in &mut stream.watchers {
                if std::mem::take(&mut watcher.progress_due) {
                    sent &= watcher.progress(*watch_id, &stream.queue, cursor);
                }
            }
            if !sent {
                self.progress_due.insert(stream_id);
            }
        }
    }

    /// The store was replaced by a snapshot at `revision`: everybody goes on from where they stand
    /// (W9).
    pub fn install(&mut self, revision: i64) {
        self.desync_all();
        self.cursor = self.cursor.max(revision);
    }

    fn desync_all(&mut self) {
        let next = self.cursor + 1;
        for (stream_id, stream) in &mut self.streams {
            for (watch_id, watcher) in &mut stream.watchers {
                if watcher.synced {
                    watcher.synced = false;
                    watcher.next = watcher.next.max(next);
                    self.unsynced.insert((*stream_id, *watch_id));
                }
            }
        }
    }

    fn remove_watcher(&mut self, key: WatcherKey) -> Option<Arc<Queue>> {
        let stream = self.streams.get_mut(&key.0)?;
        let watcher = stream.watchers.remove(&key.1)?;
        let queue = Arc::clone(&stream.queue);
        self.unregister(key, &watcher.spec.range);
        Some(queue)
    }

    fn unregister(&mut self, key: WatcherKey, range: &KeyRange) {
        self.watchers -= 1;
        self.unsynced.remove(&key);
        if let KeyRange::Single(single) = range {
            if let Some(watchers) = self.keys.get_mut(single) {
                watchers.retain(|other| *other != key);
                if watchers.is_empty() {
                    self.keys.remove(single);
                }
            }
        } else {
            let start = Bytes::copy_from_slice(range.start());
            self.ranges.remove(&start, range.end().as_ref(), &key);
        }
    }
}

impl StreamState {
    /// Gives `false` if there was something to send and no room.
    fn progress(&mut self, cursor: i64) -> bool {
        if self
            .watchers
            .values()
            .all(|watcher| watcher.has_everything(cursor))
        {
            let item = Item::Progress {
                watch_id: -1,
                revision: cursor,
            };
            self.progress_due = self.queue.try_push(item).is_err();
        }
        !self.progress_due
    }
}

impl Watcher {
    /// Whether everything up to the cursor is queued and the watch has begun by then (#20221).
    fn has_everything(&self, cursor: i64) -> bool {
        self.synced && self.spec.start_revision <= cursor
    }

    /// Gives `false` if there was something to send and no room.
    fn progress(&mut self, watch_id: WatchId, queue: &Queue, cursor: i64) -> bool {
        if self.has_everything(cursor) {
            let item = Item::Progress {
                watch_id,
                revision: cursor,
            };
            self.progress_due = queue.try_push(item).is_err();
        }
        !self.progress_due
    }

    fn wants_index(&self, revision: &RevisionEvents, index: u32) -> bool {
        revision.events.get(index as usize).is_some_and(|event| {
            !(if event.tombstone {
                self.spec.filters.no_delete
            } else {
                self.spec.filters.no_put
            })
        })
    }

    fn indexes(&self, revision: &RevisionEvents, indexes: Vec<u32>) -> Indexes {
        if indexes.len() == revision.events.len() {
            Indexes::All
        } else {
            Indexes::Some(indexes.into())
        }
    }

    fn batch(
        &self,
        header_revision: i64,
        compact_revision: i64,
        revisions: Vec<(Arc<RevisionEvents>, Indexes)>,
    ) -> EventBatch {
        EventBatch {
            watch_id: self.spec.watch_id,
            header_revision,
            prev_kv: self.spec.prev_kv,
            compact_revision,
            fragment: self.spec.fragment,
            revisions,
        }
    }

    /// Queues what matches of `[next, through]`, as one response; `next` moves on if there was room.
    fn push_history(
        &mut self,
        queue: &Queue,
        (current, compact): (i64, i64),
        revisions: &[Arc<RevisionEvents>],
        through: i64,
    ) -> bool {
        let wanted: Vec<(Arc<RevisionEvents>, Indexes)> = revisions
            .iter()
            .filter(|revision| (self.next..=through).contains(&revision.revision))
            .filter_map(|revision| {
                let indexes: Vec<u32> = (0u32..)
                    .zip(&revision.events)
                    .filter(|(_, event)| self.spec.range.contains(&event.key))
                    .map(|(index, _)| index)
                    .filter(|index| self.wants_index(revision, *index))
                    .collect();
                let indexes = (!indexes.is_empty()).then(|| self.indexes(revision, indexes))?;
                Some((Arc::clone(revision), indexes))
            })
            .collect();
        if !wanted.is_empty() {
            let batch = self.batch(current, compact, wanted);
            if queue.try_push(Item::Events(batch)).is_err() {
                return false;
            }
            self.active = true;
        }
        self.next = through + 1;
        true
    }
}
