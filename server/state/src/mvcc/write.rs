//! The one writer: index, store and sink, in this order (design 3, store-notes 6).
//!
//! A `WriteTxn` is one command's changes: one main revision, subs from 0. It begins after all
//! checks, so nothing in it is refused; only the disk can fail it, and that ends the process.
//! Readers see nothing of it before `WriteTxn::commit`.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::{
    etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest},
    key_range::KeyRange,
};

use super::{
    compaction::{CompactStep, Compactions},
    hash::KeptHashes,
    index::{Head, KeyIndex},
    range::{self, Plan, RecordRef},
    record,
    shared::{Revisions, Shared, View},
};
use crate::{
    counters::Operations,
    error::ApplyError,
    lease::Leases,
    revision::Revision,
    store::{RecordHeader, Store, StoreReader},
};
use parking_lot::{Mutex, RwLock};

/// One change of one key, as watchers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The key; shares the record's memory.
    pub key: Bytes,
    /// Where the record is; `main` is the event's mod revision.
    pub revision: Revision,
    /// Whether this is a DELETE.
    pub tombstone: bool,
    /// Whether the key came to life: create revision = mod revision. Never has a previous one.
    pub create: bool,
    /// The encoded `KeyValue`; of a tombstone its key only, the DELETE event adds the mod revision.
    pub record: Bytes,
    /// What was visible at main − 1, which is what prev_kv shows (store-notes 1).
    pub prev: Option<Revision>,
}

/// Where the changes of each revision go before readers may see it.
///
/// Called on the apply thread: it must not block or wait for anyone (design R5).
pub trait EventSink: Send {
    /// All events of one revision, in order. Revisions come in ascending order.
    fn publish(&mut self, revision: i64, events: Vec<EventRecord>);

    /// An installed checkpoint has brought the history to `revision` without events
    /// (store-notes 6, W9).
    fn installed(&mut self, revision: i64);
}

/// Index, store and the place in history that the next change takes.
pub(crate) struct Mvcc {
    pub(crate) index: KeyIndex,
    pub(crate) store: Store,
    records: StoreReader,
    pub(crate) shared: Arc<Shared>,
    pub(crate) revisions: Revisions,
    pub(crate) compactions: Compactions,
}

impl Mvcc {
    pub(crate) fn new(index: KeyIndex, store: Store, revisions: Revisions) -> Self {
        let records = store.reader();
        let view = View::new(index.reader().clone(), records.clone());
        Self {
            shared: Arc::new(Shared::new(view, revisions)),
            compactions: Compactions::resume(revisions.compact),
            index,
            store,
            records,
            revisions,
        }
    }

    pub(crate) fn records(&self) -> &StoreReader {
        &self.records
    }

    /// Goes on with an installed checkpoint's index; readers have it already.
    pub(crate) fn reset(&mut self, index: KeyIndex, revisions: Revisions) {
        self.index = index;
        self.revisions = revisions;
        self.compactions = Compactions::resume(revisions.compact);
    }

    /// The logical effect of a compaction, which the caller has checked.
    pub(crate) fn compact(&mut self, revision: i64) {
        let previous = std::mem::replace(&mut self.revisions.compact, revision);
        self.shared.set_compact(revision);
        self.compactions.schedule(revision, previous);
    }

    /// One batch of index removal.
    pub(crate) fn compact_step(
        &mut self,
        revisions_max: usize,
        kept: &Mutex<KeptHashes>,
    ) -> (CompactStep, usize) {
        let stepped = self
            .compactions
            .step(&self.shared, &mut self.index, revisions_max);
        if !stepped.removed.is_empty() {
            self.store.mark_dead(&stepped.removed);
        }
        if let Some(hash) = stepped.keep {
            kept.lock().keep(hash);
        }
        (stepped.step, stepped.removed.len())
    }
}

/// The changes of one command.
pub(crate) struct WriteTxn<'a> {
    mvcc: &'a mut Mvcc,
    leases: &'a RwLock<Leases>,
    main: i64,
    events: Vec<EventRecord>,
    pub(crate) operations: Operations,
}

impl<'a> WriteTxn<'a> {
    pub(crate) fn begin(mvcc: &'a mut Mvcc, leases: &'a RwLock<Leases>) -> Self {
        Self {
            main: mvcc.revisions.current + 1,
            mvcc,
            leases,
            events: Vec::with_capacity(1),
            operations: Operations::default(),
        }
    }

    /// The revision that a reply's header shows at this point of the command.
    pub(crate) fn revision(&self) -> i64 {
        match self.events.is_empty() {
            true => self.main - 1,
            false => self.main,
        }
    }

    /// Puts a key. Returns its previous record, if it lived.
    pub(crate) fn put(&mut self, put: &PutRequest) -> Result<Option<Revision>, ApplyError> {
        let kept;
        let mut value: &[u8] = &put.value;
        let mut lease = put.lease;
        if put.ignore_value || put.ignore_lease {
            let head = self.mvcc.index.reader().head(&put.key);
            let head = head.filter(|head| !head.is_tombstone());
            let Some(head) = head else {
                return Err(ApplyError::Damaged("a checked key has gone".into()));
            };
            if put.ignore_value {
                kept = self.mvcc.records.read(head.revision())?;
                value = record::value(&kept)?;
            }
            if put.ignore_lease {
                lease = head.lease;
            }
        }
        self.operations.puts += 1;
        self.operations.put_bytes += (put.key.len() + value.len()) as u64;

        let main = self.main;
        let revision = self.next_revision();
        let (record, before, head) = self.mvcc.index.push(&put.key, |before| {
            let live = before.filter(|before| !before.is_tombstone());
            let (create_revision, version) = live.map_or((main, 1), |before| {
                (before.create_revision, before.version + 1)
            });
            let fields = record::Fields {
                key: &put.key,
                create_revision,
                mod_revision: main,
                version,
                value,
                lease,
            };
            let record = fields.encode();
            let len = record_len(&record);
            let head = Head::put(revision, create_revision, version, lease, len);
            (head, (record, before.copied(), head))
        });
        self.reattach(&put.key, before.as_ref(), lease);
        self.add(&put.key, &head, record, before.as_ref());
        let live = before.filter(|before| !before.is_tombstone());
        Ok(live.map(|before| before.revision()))
    }

    /// Deletes the live keys of a range, in key order. Returns their records.
    pub(crate) fn delete_range(&mut self, delete: &DeleteRangeRequest) -> Vec<Revision> {
        self.operations.deletes += 1;
        let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
        let mut doomed: Vec<(Bytes, Revision)> = Vec::new();
        match &range {
            KeyRange::Single(key) => {
                let head = self.mvcc.index.reader().head(key);
                if let Some(head) = head.filter(|head| !head.is_tombstone()) {
                    doomed.push((key.clone(), head.revision()));
                }
            }
            _ => self.mvcc.index.reader().heads(
                range.start(),
                range.end().as_deref(),
                |key, head| doomed.push((Bytes::copy_from_slice(key), head.revision())),
            ),
        }
        for (key, _) in &doomed {
            self.delete(key);
        }
        doomed.into_iter().map(|(_, revision)| revision).collect()
    }

    /// Deletes a key that lives.
    pub(crate) fn delete(&mut self, key: &[u8]) {
        let revision = self.next_revision();
        let record = record::tombstone(key);
        let head = Head::tombstone(revision, record_len(&record));
        let before = self.mvcc.index.push(key, |before| (head, before.copied()));
        self.reattach(key, before.as_ref(), 0);
        self.add(key, &head, record, before.as_ref());
    }

    /// Plans a range that sees the changes so far; its revision was checked.
    pub(crate) fn range(&mut self, request: &RangeRequest) -> Plan {
        self.operations.ranges += 1;
        let at = match request.revision {
            ..=0 => self.main,
            revision => revision,
        };
        let mut plan = range::plan(self.mvcc.index.reader(), request, at);
        for record in &mut plan.records {
            if let RecordRef::At(revision) = *record {
                *record = self.record_ref(revision);
            }
        }
        plan
    }

    /// A record's bytes if they are in memory, as those of this command always are.
    pub(crate) fn record_ref(&self, revision: Revision) -> RecordRef {
        if revision.main == self.main {
            let event = self.events.get(revision.sub as usize);
            if let Some(event) = event {
                return RecordRef::Ready(event.record.clone());
            }
        }
        match self.mvcc.records.read_cached(revision) {
            Some(record) => RecordRef::Ready(record),
            None => RecordRef::At(revision),
        }
    }

    /// Makes the changes visible: sink first, then readers. Returns the revision reached.
    pub(crate) fn commit(self, sink: &mut dyn EventSink) -> i64 {
        let revision = self.revision();
        if !self.events.is_empty() {
            sink.publish(self.main, self.events);
            self.mvcc.revisions.current = self.main;
            self.mvcc.shared.set_current(self.main);
        }
        revision
    }

    fn next_revision(&self) -> Revision {
        Revision {
            main: self.main,
            sub: u32::try_from(self.events.len()).unwrap_or(u32::MAX),
        }
    }

    fn reattach(&self, key: &[u8], before: Option<&Head>, lease: i64) {
        let lease_before = before.map_or(0, |before| before.lease);
        if lease_before != lease {
            self.leases.write().reattach(key, lease_before, lease);
        }
    }

    fn add(&mut self, key: &[u8], head: &Head, record: Bytes, before: Option<&Head>) {
        let key = record::key_slice(&record, key.len());
        let create = head.create_revision == self.main;
        let prev = match before {
            _ if create => None,
            Some(before) if before.main < self.main => {
                (!before.is_tombstone()).then(|| before.revision())
            }
            // Changed before in this very command: watchers are shown the state before it.
            Some(_) => {
                let found = self.mvcc.index.reader().get(&key, self.main - 1);
                found.map(|found| found.revision)
            }
            None => None,
        };
        let header = RecordHeader {
            revision: head.revision(),
            tombstone: head.is_tombstone(),
            create_revision: head.create_revision,
            version: head.version,
            lease: head.lease,
            key: key.clone(),
        };
        self.mvcc.store.append(header, record.clone());
        self.events.push(EventRecord {
            key,
            revision: head.revision(),
            tombstone: head.is_tombstone(),
            create,
            record,
            prev,
        });
    }
}

fn record_len(record: &Bytes) -> u32 {
    u32::try_from(record.len()).unwrap_or(u32::MAX)
}
