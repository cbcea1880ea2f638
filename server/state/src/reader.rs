//! What requests read of the state, from any thread, beside the writer.
//!
//! Reads work at a pinned revision and never wait for a write to disk. Errors that are not
//! refusals end the process (store-notes 4).

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use keelson_proto::{
    error::Error,
    etcdserverpb::{AlarmMember, RangeRequest, TxnRequest, request_op::Request as Operation},
    raw::{self, response_op},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    alarm::Alarms,
    auth::Auth,
    counters::{Counters, Operations},
    error::ApplyError,
    lease::{Lease, Leases},
    members::Members,
    mvcc::{
        hash::{self, KeptHashes, KvHash},
        range::{self, Plan, RecordRef, header},
        shared::{NEVER_COMPACTED, Pin, Revisions, Shared, View},
        stream::RangeStream,
        txn,
    },
    revision::Revision,
    store::StoreReader,
};

/// Records of a range that are looked for in the operating system's page cache one by one: beyond
/// it a switch to a thread that may block costs less.
const RESIDENT_READS_MAX: usize = 16;

/// Sizes that the writer keeps up to date.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) db_size: AtomicU64,
    pub(crate) in_use: AtomicU64,
    pub(crate) keys: AtomicU64,
}

/// What the writer shares with readers.
pub(crate) struct Common {
    pub(crate) shared: Arc<Shared>,
    pub(crate) leases: RwLock<Leases>,
    pub(crate) alarms: RwLock<Alarms>,
    pub(crate) members: RwLock<Members>,
    pub(crate) auth: RwLock<Auth>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sizes: Sizes,
    pub(crate) kept_hashes: Mutex<KeptHashes>,
    compaction_finished: AtomicI64,
}

impl Common {
    pub(crate) fn new(
        shared: Arc<Shared>,
        leases: Leases,
        alarms: Alarms,
        members: Members,
        auth: Auth,
    ) -> Self {
        Self {
            shared,
            leases: RwLock::new(leases),
            alarms: RwLock::new(alarms),
            members: RwLock::new(members),
            auth: RwLock::new(auth),
            counters: Arc::default(),
            sizes: Sizes::default(),
            kept_hashes: Mutex::default(),
            compaction_finished: AtomicI64::new(NEVER_COMPACTED),
        }
    }

    pub(crate) fn reset(&self, leases: Leases, alarms: Alarms, members: Members, auth: Auth) {
        *self.leases.write() = leases;
        *self.alarms.write() = alarms;
        *self.members.write() = members;
        *self.auth.write() = auth;
        self.kept_hashes.lock().clear();
        self.set_compaction_finished(NEVER_COMPACTED);
    }

    pub(crate) fn set_compaction_finished(&self, revision: i64) {
        self.compaction_finished.store(revision, Relaxed);
    }
}

/// Reads the state. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    common: Arc<Common>,
}

/// A HashKV reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash, what it covers, and the compact revision it is relative to.
    pub hash: KvHash,
    /// The current revision, for the header.
    pub current: i64,
}

/// A range whose records may still have to be read from the disk.
pub struct PreparedRange {
    reader: Reader,
    request: RangeRequest,
    view: Arc<View>,
    _pin: Pin,
    current: i64,
    plan: Plan,
}

impl PreparedRange {
    /// The reply, if its records can be had without waiting for a disk; else itself, to be
    /// finished where blocking is allowed. Long ranges are not tried further than memory goes:
    /// reading their neighbours together costs less.
    ///
    /// # Errors
    /// Damaged records end the process.
    pub fn finish_resident(mut self) -> Result<Result<raw::RangeResponse, Box<Self>>, ApplyError> {
        let few = self.plan.records.len() <= RESIDENT_READS_MAX;
        let mut bytes = Vec::with_capacity(self.plan.records.len());
        for record in &self.plan.records {
            let found = match record {
                RecordRef::Ready(record) => Some(record.clone()),
                // Whether an error is one is for `finish` to say.
                RecordRef::At(revision) if few => {
                    self.view.store.read_resident(*revision).ok().flatten()
                }
                RecordRef::At(revision) => self.view.store.read_cached(*revision),
            };
            match found {
                Some(record) => bytes.push(record),
                None => return Ok(Err(Box::new(self))),
            }
        }
        self.plan.records.clear();
        self.plan.fill(bytes, self.current).map(Ok)
    }

    /// The reply, reading from the disk what is not in memory.
    ///
    /// # Errors
    /// The store's end the process. Compacted or FutureRev only after an installed checkpoint.
    pub fn finish(mut self) -> Result<raw::RangeResponse, ApplyError> {
        loop {
            let records = std::mem::take(&mut self.plan.records);
            match read(&self.view.store, records) {
                Ok(bytes) => return self.plan.fill(bytes, self.current),
                Err(_) if self.view.is_superseded() => {
                    self = self.reader.prepare_range(&self.request)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        Self { common }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.common.shared
    }

    /// Current and compact revision.
    #[must_use]
    pub fn revisions(&self) -> Revisions {
        self.shared().revisions()
    }

    /// The newest revision that is visible: its events have been published.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        self.revisions().current
    }

    /// The compact revision, −1 before the first compaction.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.revisions().compact
    }

    /// The last compaction whose index removal has finished since start, −1 before the first.
    #[must_use]
    pub fn compaction_finished(&self) -> i64 {
        self.common.compaction_finished.load(Relaxed)
    }

    /// Serves a range (contract 2.2). May read from the disk.
    ///
    /// # Errors
    /// EmptyKey, InvalidSortOption, FutureRev, Compacted; the store's end the process.
    pub fn range(&self, request: &RangeRequest) -> Result<raw::RangeResponse, ApplyError> {
        match self.prepare_range(request)?.finish_resident()? {
            Ok(response) => Ok(response),
            Err(prepared) => prepared.finish(),
        }
    }

    /// The part of a range that needs the index only.
    ///
    /// # Errors
    /// EmptyKey, InvalidSortOption, FutureRev, Compacted.
    pub fn prepare_range(&self, request: &RangeRequest) -> Result<PreparedRange, ApplyError> {
        txn::require_key(&request.key)?;
        range::check_sort(request)?;
        let (view, revisions, pin) = self
            .shared()
            .begin(|revisions| revisions.of_range(request.revision))?;
        let plan = range::plan(&view.index, request, pin.revision());
        self.count_range();
        Ok(PreparedRange {
            reader: self.clone(),
            request: request.clone(),
            view,
            _pin: pin,
            current: revisions.current,
            plan,
        })
    }

    /// Opens a range that is read in chunks (contract 2.3). Order and filters are the caller's to
    /// refuse: it is served in key order.
    ///
    /// # Errors
    /// EmptyKey, FutureRev, Compacted.
    pub fn range_stream(&self, request: &RangeRequest) -> Result<RangeStream, ApplyError> {
        txn::require_key(&request.key)?;
        RangeStream::open(self.clone(), request)
    }

    /// Serves a transaction of ranges only (contract 2.5), all at one revision. May read from the
    /// disk.
    ///
    /// # Errors
    /// As for each range; NotCapable for a transaction that is not [`txn::is_read_only`].
    pub fn txn(&self, request: &TxnRequest) -> Result<raw::TxnResponse, ApplyError> {
        if !txn::is_read_only(request) {
            return Err(Error::NotCapable.into());
        }
        loop {
            let (view, revisions, _pin) = self
                .shared()
                .begin(|revisions| Ok::<_, ApplyError>(revisions.compact.min(revisions.current)))?;
            match self.txn_at(&view, revisions, request) {
                Err(ApplyError::Store(_)) if view.is_superseded() => {}
                done => return done,
            }
        }
    }

    fn txn_at(
        &self,
        view: &View,
        revisions: Revisions,
        request: &TxnRequest,
    ) -> Result<raw::TxnResponse, ApplyError> {
        let state = txn::State {
            index: &view.index,
            store: &view.store,
            revisions,
        };
        let mut path = txn::decide(&state, request)?;
        txn::check(&state, &Leases::default(), request, &mut path)?;
        let succeeded = path.take();
        let mut responses = Vec::new();
        for operation in txn::branch(request, succeeded) {
            let Some(Operation::RequestRange(range)) = &operation.request else {
                return Err(Error::NotCapable.into());
            };
            let at = match range.revision {
                ..=0 => revisions.current,
                revision => revision,
            };
            let mut plan = range::plan(&view.index, range, at);
            let bytes = read(&view.store, std::mem::take(&mut plan.records))?;
            let response = plan.fill(bytes, revisions.current)?;
            responses.push(raw::ResponseOp {
                response: Some(response_op::Response::ResponseRange(response)),
            });
        }
        self.common.counters.add(Operations {
            ranges: responses.len() as u64,
            ..Operations::default()
        });
        Ok(raw::TxnResponse {
            header: header(revisions.current),
            succeeded,
            responses,
        })
    }

    /// HashKV (contract 2.10); 0 is the current revision. Reads every record that counts.
    ///
    /// # Errors
    /// FutureRev, Compacted; the store's end the process.
    pub fn hash_kv(&self, requested: i64) -> Result<HashKv, ApplyError> {
        if let Some(hash) = self.kept_hash(requested) {
            let current = self.current_revision();
            return Ok(HashKv { hash, current });
        }
        self.hash_kv_now(requested)
    }

    /// The hash kept for the compaction at this revision.
    #[must_use]
    pub fn kept_hash(&self, revision: i64) -> Option<KvHash> {
        self.common.kept_hashes.lock().get(revision)
    }

    /// The hashes kept for compactions, oldest first.
    #[must_use]
    pub fn kept_hashes(&self) -> Vec<KvHash> {
        self.common.kept_hashes.lock().all()
    }

    /// As [`Reader::hash_kv`], but never one kept for a compaction: those differ where nothing but
    /// a tombstone is left (store-notes 2).
    ///
    /// # Errors
    /// As [`Reader::hash_kv`].
    pub fn hash_kv_now(&self, requested: i64) -> Result<HashKv, ApplyError> {
        loop {
            let mut of = None;
            // The pin is at the compact revision: everything above it is hashed.
            let (view, revisions, _pin) = self.shared().begin(|revisions| {
                let revision = match requested {
                    0 => revisions.current,
                    revision if revision > revisions.current => return Err(Error::FutureRev),
                    revision if revision > 0 && revision < revisions.compact => {
                        return Err(Error::Compacted);
                    }
                    revision => revision,
                };
                of = Some(revision);
                Ok(revisions.compact)
            })?;
            let revision = of.unwrap_or(revisions.current);
            let hash = hash::of_bytes(&view, revision, revisions.compact);
            if view.is_superseded() {
                continue;
            }
            return Ok(HashKv {
                hash: KvHash {
                    hash: hash?,
                    revision,
                    compact_revision: revisions.compact,
                },
                current: revisions.current,
            });
        }
    }

    /// Maintenance.Hash: of the local store as it is now.
    ///
    /// # Errors
    /// The store's end the process.
    pub fn hash(&self) -> Result<HashKv, ApplyError> {
        self.hash_kv(0)
    }

    /// Begins a read of history: current and compact revision, the store, and a pin at the compact
    /// revision that keeps it readable (store-notes 6, W5). Keep it for one batch only.
    #[must_use]
    pub fn history(&self) -> History {
        let begun = self
            .shared()
            .begin(|revisions| Ok::<_, std::convert::Infallible>(revisions.compact));
        let Ok((view, revisions, pin)) = begun;
        History {
            view,
            revisions,
            _pin: pin,
        }
    }

    /// A lease by id.
    #[must_use]
    pub fn lease(&self, id: i64) -> Option<Lease> {
        self.common.leases.read().get(id)
    }

    /// Keys attached to a lease, in key order.
    #[must_use]
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let leases = self.common.leases.read();
        leases.keys(id).map(Bytes::copy_from_slice).collect()
    }

    /// All leases, by id.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.common.leases.read().iter().copied().collect()
    }

    /// Standing alarms of a type; of all types for NONE (0).
    #[must_use]
    pub fn alarms(&self, of_type: i32) -> Vec<AlarmMember> {
        self.common.alarms.read().list(of_type)
    }

    /// Calls `read` with what members have published.
    pub fn members<T>(&self, read: impl FnOnce(&Members) -> T) -> T {
        read(&self.common.members.read())
    }

    /// Whether authentication is on.
    #[must_use]
    pub fn auth_enabled(&self) -> bool {
        self.common.auth.read().enabled
    }

    /// The size that counts against the quota, in bytes (store-notes 7).
    #[must_use]
    pub fn db_size_bytes(&self) -> u64 {
        self.common.sizes.db_size.load(Relaxed)
    }

    /// The part of it that is in use, in bytes.
    #[must_use]
    pub fn in_use_bytes(&self) -> u64 {
        self.common.sizes.in_use.load(Relaxed)
    }

    /// Keys that live now.
    #[must_use]
    pub fn keys_total(&self) -> u64 {
        self.common.sizes.keys.load(Relaxed)
    }

    /// Counters since start.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.common.counters
    }

    pub(crate) fn count_range(&self) {
        self.common.counters.range_total.fetch_add(1, Relaxed);
    }
}

/// A read of history, under a pin.
pub struct History {
    view: Arc<View>,
    revisions: Revisions,
    _pin: Pin,
}

impl History {
    /// Where the history stood when the read began.
    #[must_use]
    pub fn revisions(&self) -> Revisions {
        self.revisions
    }

    /// Records by revision and scans in revision order.
    #[must_use]
    pub fn store(&self) -> &StoreReader {
        &self.view.store
    }

    /// Where the record of `key` as of the end of main revision `at` is, if it lived then.
    #[must_use]
    pub fn at(&self, key: &[u8], at: i64) -> Option<Revision> {
        self.view.index.get(key, at).map(|found| found.revision)
    }

    /// Whether an installed checkpoint has replaced what is read here: then begin again.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.view.is_superseded()
    }
}

fn read(store: &StoreReader, records: Vec<RecordRef>) -> Result<Vec<Bytes>, ApplyError> {
    range::resolve(records, |wanted| Ok(store.read_many(wanted)?))
}
