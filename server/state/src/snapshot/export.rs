//! A consistent point of a running state as a file of etcd's (etcd-snapshot-file 2, 3).
//!
//! ```text
//! State::export   apply thread: position, small tables, live records, a pin
//! (checkpoint)    so that no memory is held for as long as the client takes
//! into_file       pass 1 over lengths; then pieces are pulled, while writes go on
//! ```
//!
//! Held meanwhile: file handles, bitmaps, the small tables, 33 bytes a page.

use bytes::Bytes;
use keelson_proto::etcdserverpb::AlarmMember;
use prost::Message as _;

use super::buckets::{self, ConfState, SnapshotMember, StoredLease};
use crate::auth::Auth;
use crate::bolt::{Entries, EntryCursor, FileWriter, SmallBucket};
use crate::lease::Lease;
use crate::members::Members;
use crate::mvcc::shared::{NEVER_COMPACTED, Pin};
use crate::revision::Revision;
use crate::store::{LiveRecords, LiveScan, Position, StoreError, bucket_key};

/// The storage version that files say: major and minor of the cluster version, then 0.
pub const STORAGE_VERSION: &str = keelson_proto::CLUSTER_VERSION;

/// What a snapshot file will hold.
pub struct Export {
    pub(crate) position: Position,
    /// The last compaction that has removed all it was to remove.
    pub(crate) compaction_finished: i64,
    pub(crate) leases: Vec<Lease>,
    pub(crate) alarms: Vec<AlarmMember>,
    pub(crate) members: Members,
    pub(crate) auth: Auth,
    pub(crate) records: LiveRecords,
    /// Until pass 1: what is alive at the compact revision stays.
    pub(crate) pin: Pin,
}

impl Export {
    /// The point in time.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What members had published then.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Plans the file. Call after a checkpoint of the same state: then no records are held in
    /// memory. `members` are those of the position.
    ///
    /// # Errors
    /// The store's; a name that is longer than the format allows.
    pub fn into_file(mut self, members: &[SnapshotMember]) -> Result<FileWriter, StoreError> {
        self.records.settle();
        let mut small = self.small_buckets(members)?;
        let mut all: Vec<(&'static str, Box<dyn Entries>)> = Vec::with_capacity(10);
        let mut take = |name: &'static str| {
            let bucket: SmallBucket = small.remove(name).unwrap_or_default();
            let bucket: Box<dyn Entries> = Box::new(bucket);
            (name, bucket)
        };
        all.extend(
            [
                buckets::ALARM,
                buckets::AUTH,
                buckets::AUTH_ROLES,
                buckets::AUTH_USERS,
                buckets::CLUSTER,
            ]
            .map(&mut take),
        );
        all.push((buckets::KEY, Box::new(Records(self.records))));
        all.push((buckets::LEASE, Box::new(LeaseBucket::new(self.leases))));
        all.extend([buckets::MEMBERS, buckets::MEMBERS_REMOVED, buckets::META].map(&mut take));
        let file = FileWriter::new(all);
        drop(self.pin);
        file
    }

    fn small_buckets(
        &self,
        members: &[SnapshotMember],
    ) -> Result<std::collections::HashMap<&'static str, SmallBucket>, StoreError> {
        let json = |error: serde_json::Error| StoreError::Refused(error.to_string());
        let mut small = std::collections::HashMap::new();
        let mut put = |bucket: &'static str, key: Bytes, value: Bytes| {
            let bucket: &mut SmallBucket = small.entry(bucket).or_default();
            bucket.insert(key, value);
        };
        let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
        for alarm in &self.alarms {
            put(buckets::ALARM, alarm.encode_to_vec().into(), Bytes::new());
        }
        let enabled = vec![u8::from(self.auth.enabled)];
        put(buckets::AUTH, buckets::AUTH_ENABLED.into(), enabled.into());
        let revision = number(self.auth.revision);
        put(buckets::AUTH, buckets::AUTH_REVISION.into(), revision);
        for (bucket, named) in [
            (buckets::AUTH_USERS, &self.auth.users),
            (buckets::AUTH_ROLES, &self.auth.roles),
        ] {
            for (name, value) in named {
                put(bucket, name.clone(), value.clone());
            }
        }
        if let Some(version) = self.members.cluster_version().map(str::to_owned) {
            put(
                buckets::CLUSTER,
                buckets::CLUSTER_VERSION.into(),
                version.into(),
            );
        }
        let downgrade = self.members.downgrade();
        if downgrade.enabled {
            let downgrade = buckets::Downgrade {
                target_version: downgrade.target_version.clone(),
                enabled: true,
            };
            let value = serde_json::to_vec(&downgrade).map_err(json)?;
            put(buckets::CLUSTER, buckets::DOWNGRADE.into(), value.into());
        }
        for member in members {
            let key = format!("{:x}", member.id).into();
            let value = serde_json::to_vec(member).map_err(json)?;
            put(buckets::MEMBERS, key, value.into());
        }
        for id in self.members.removed() {
            let key = format!("{id:x}").into();
            put(
                buckets::MEMBERS_REMOVED,
                key,
                Bytes::from_static(buckets::REMOVED),
            );
        }
        let ids = |learner| {
            let of_kind = members
                .iter()
                .filter(move |member| member.is_learner == learner);
            of_kind.map(|member| member.id).collect::<Vec<u64>>()
        };
        let conf_state = ConfState {
            voters: ids(false),
            learners: ids(true),
            auto_leave: false,
        };
        let conf_state = serde_json::to_vec(&conf_state).map_err(json)?;
        put(buckets::META, buckets::CONF_STATE.into(), conf_state.into());
        let index = number(self.position.applied_index);
        put(buckets::META, buckets::CONSISTENT_INDEX.into(), index);
        let term = number(self.position.applied_term.max(1));
        put(buckets::META, buckets::TERM.into(), term);
        put(
            buckets::META,
            buckets::STORAGE.into(),
            STORAGE_VERSION.into(),
        );
        let compact = self.position.compact_revision;
        if compact > NEVER_COMPACTED {
            let value = buckets::revision_value(compact);
            put(buckets::META, buckets::SCHEDULED_COMPACTION.into(), value);
        }
        // One that is still under way is resumed by whoever opens the file.
        let finished = self.compaction_finished.min(compact);
        if finished > NEVER_COMPACTED {
            let value = buckets::revision_value(finished);
            put(buckets::META, buckets::FINISHED_COMPACTION.into(), value);
        }
        Ok(small)
    }
}

/// The bucket of all revisions.
struct Records(LiveRecords);

impl Entries for Records {
    fn lengths(&self, visit: &mut dyn FnMut(&[u8], usize)) {
        self.0.lengths(&mut |revision, tombstone, len| {
            let (key, key_len) = bucket_key(revision, tombstone);
            visit(key.get(..key_len).unwrap_or_default(), len);
        });
    }

    fn entries(&self) -> Box<dyn EntryCursor> {
        Box::new(RecordCursor(self.0.scan()))
    }

    fn may_be_inline(&self) -> bool {
        false
    }
}

struct RecordCursor(LiveScan);

impl EntryCursor for RecordCursor {
    fn next(&mut self, key: &mut Vec<u8>) -> Result<Option<Bytes>, StoreError> {
        let Some(found) = self.0.next()? else {
            return Ok(None);
        };
        put_key(key, found.revision, found.tombstone);
        Ok(Some(found.record))
    }
}

fn put_key(key: &mut Vec<u8>, revision: Revision, tombstone: bool) {
    let (bytes, len) = bucket_key(revision, tombstone);
    key.clear();
    key.extend_from_slice(bytes.get(..len).unwrap_or_default());
}

/// The bucket of leases: there may be a million, so they are encoded as they are written.
struct LeaseBucket(std::sync::Arc<[Lease]>);

impl LeaseBucket {
    /// Ids are sorted as etcd stores them: by their eight bytes, negative ones last.
    fn new(mut leases: Vec<Lease>) -> Self {
        leases.sort_unstable_by_key(|lease| lease.id.cast_unsigned());
        Self(leases.into())
    }
}

impl Entries for LeaseBucket {
    fn lengths(&self, visit: &mut dyn FnMut(&[u8], usize)) {
        for lease in &*self.0 {
            visit(
                &lease.id.to_be_bytes(),
                StoredLease::from(lease).encoded_len(),
            );
        }
    }

    fn entries(&self) -> Box<dyn EntryCursor> {
        Box::new(LeaseCursor {
            leases: self.0.clone(),
            next: 0,
        })
    }
}

struct LeaseCursor {
    leases: std::sync::Arc<[Lease]>,
    next: usize,
}

impl EntryCursor for LeaseCursor {
    fn next(&mut self, key: &mut Vec<u8>) -> Result<Option<Bytes>, StoreError> {
        let Some(lease) = self.leases.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        key.clear();
        key.extend_from_slice(&lease.id.to_be_bytes());
        Ok(Some(StoredLease::from(lease).encode_to_vec().into()))
    }
}
