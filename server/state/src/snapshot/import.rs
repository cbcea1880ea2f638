//! What a restored member takes over from a file, checked (etcd-snapshot-file 3).
//!
//! Records, compact and current revision, leases, users, roles, alarms and the cluster version come
//! from the file. Membership, applied index and term do not: those are given anew.

use bytes::Bytes;
use keelson_proto::authpb;
use keelson_proto::etcdserverpb::{AlarmMember, DowngradeInfo};
use prost::Message as _;

use super::buckets::{self, StoredLease, parse_revision};
use super::history::History;
use crate::auth::Auth;
use crate::bolt::{BoltError, BoltFile, ReadAt, Walk};
use crate::items;
use crate::lease::{LEASE_TTL_SECONDS_MAX, Lease};
use crate::mvcc::shared::NEVER_COMPACTED;
use crate::store::{RECORD_BYTES_MAX, RecordHeader, StoreError};

/// Longest value outside of records, in bytes: far above any user, role or member.
const SMALL_VALUE_BYTES_MAX: usize = 1 << 20;
/// The oldest and the newest storage version that etcd 3.7 starts with.
const MINOR_VERSIONS: std::ops::RangeInclusive<u64> = 5..=7;

/// Why a file is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is damaged, or its content breaks etcd's rules.
    #[error(transparent)]
    File(#[from] BoltError),
    /// The new store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is of a version that this program does not serve.
    #[error("{0}")]
    Version(String),
}

/// A record with the header that the store keeps beside it.
pub type ImportedRecord = (RecordHeader, Bytes);

/// Everything but the records.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The current revision.
    pub revision: i64,
    /// The compact revision, −1 if there never was a compaction. One that was under way is to be
    /// finished by whoever takes the records over.
    pub compact_revision: i64,
    /// All leases.
    pub leases: Vec<Lease>,
    /// Standing alarms, of members of the old cluster.
    pub alarms: Vec<AlarmMember>,
    /// Users and roles.
    pub auth: Auth,
    /// The cluster version, if it is ours.
    pub cluster_version: Option<String>,
    /// The downgrade under way.
    pub downgrade: Option<DowngradeInfo>,
    /// Records taken.
    pub records: u64,
    /// What is in the file and was left out.
    pub warnings: Vec<String>,
}

impl Content {
    /// The state items of a store that holds this.
    #[must_use]
    pub fn items(&self) -> Vec<(Bytes, Bytes)> {
        let mut all: Vec<(Bytes, Bytes)> = self.leases.iter().map(Lease::item).collect();
        let alarm = |alarm: &AlarmMember| (items::alarm(alarm), alarm.encode_to_vec().into());
        all.extend(self.alarms.iter().map(alarm));
        all.extend(self.auth.items());
        let version = self.cluster_version.clone();
        all.extend(version.map(|version| (items::CLUSTER_VERSION.into(), version.into())));
        let downgrade = self.downgrade.iter();
        all.extend(downgrade.map(|info| (items::DOWNGRADE.into(), info.encode_to_vec().into())));
        all
    }
}

/// Takes an entry of a small bucket: key and value.
type TakeEntry<T> = fn(&mut T, &[u8], &[u8]) -> Result<(), String>;

/// A file being taken over.
pub struct Import<'a, R> {
    file: &'a BoltFile<R>,
    walk: Walk<'a, R>,
    content: Content,
    scheduled: i64,
    finished: i64,
    /// Set by a version that is not served.
    refusal: Option<String>,
}

impl<'a, R: ReadAt> Import<'a, R> {
    /// Reads and checks all of a file. `take` gets each record in revision order; what it has got
    /// is worth nothing if this fails.
    ///
    /// # Errors
    /// [`ImportError`]: damage and broken rules, naming file and offset.
    pub fn run(
        file: &'a BoltFile<R>,
        take: &mut dyn FnMut(ImportedRecord) -> Result<(), StoreError>,
    ) -> Result<Content, ImportError> {
        let walk = Walk::new(file)?;
        let mut import = Self {
            file,
            walk,
            content: Content::default(),
            scheduled: NEVER_COMPACTED,
            finished: NEVER_COMPACTED,
            refusal: None,
        };
        // The compact revision decides what records may look like.
        import.small(buckets::META, Self::meta)?;
        import.content.compact_revision = import.scheduled.max(import.finished);
        import.small(buckets::CLUSTER, Self::cluster)?;
        import.small(buckets::ALARM, Self::alarm)?;
        import.small(buckets::AUTH, Self::auth)?;
        import.small(buckets::AUTH_USERS, Self::user)?;
        import.small(buckets::AUTH_ROLES, Self::role)?;
        import.small(buckets::LEASE, Self::lease)?;
        import.small(buckets::MEMBERS, Self::member)?;
        import.small(buckets::MEMBERS_REMOVED, Self::member)?;
        import.records(take)?;
        import.rest()?;
        Ok(import.content)
    }

    fn records(
        &mut self,
        take: &mut dyn FnMut(ImportedRecord) -> Result<(), StoreError>,
    ) -> Result<(), ImportError> {
        let (file, compact) = (self.file, self.content.compact_revision);
        let mut history = History::new(compact);
        let mut records = 0;
        if let Some(bucket) = self.walk.take(buckets::KEY.as_bytes()) {
            self.walk
                .entries::<ImportError>(&bucket, &mut |offset, key, value| {
                    let damaged = |detail: &str| file.damaged(offset, detail);
                    let Some((revision, tombstone)) = parse_revision(key) else {
                        return Err(damaged("a record's key is no revision").into());
                    };
                    if value.len() > RECORD_BYTES_MAX {
                        return Err(damaged("a record is too long").into());
                    }
                    let record = Bytes::copy_from_slice(value);
                    let header = history.take(revision, tombstone, &record);
                    let header = header
                        .map_err(|detail| damaged(&format!("revision {revision}: {detail}")))?;
                    records += 1;
                    take((header, record))?;
                    Ok(())
                })?;
        }
        self.content.records = records;
        // The current revision is not stored (etcd-snapshot-file 3.1).
        self.content.revision = history.last_main().unwrap_or(0).max(compact).max(1);
        Ok(())
    }

    fn small(&mut self, name: &str, take: TakeEntry<Self>) -> Result<(), ImportError> {
        let Some(bucket) = self.walk.take(name.as_bytes()) else {
            return Ok(());
        };
        let mut entries = Vec::new();
        let file = self.file;
        self.walk
            .entries::<BoltError>(&bucket, &mut |offset, key, value| {
                if value.len() > SMALL_VALUE_BYTES_MAX {
                    let detail = format!("bucket {name}: a value of {} bytes", value.len());
                    return Err(file.damaged(offset, detail));
                }
                entries.push((offset, key.to_vec(), value.to_vec()));
                Ok(())
            })?;
        for (offset, key, value) in entries {
            take(self, &key, &value).map_err(|detail| {
                let key = key.escape_ascii();
                file.damaged(offset, format!("bucket {name}, key {key}: {detail}"))
            })?;
        }
        match self.refusal.take() {
            Some(refusal) => Err(ImportError::Version(refusal)),
            None => Ok(()),
        }
    }

    fn meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let compaction = || {
            let revision = parse_revision(value).filter(|(_, tombstone)| !tombstone);
            let revision = revision.ok_or("no revision")?;
            Ok::<i64, String>(revision.0.main)
        };
        if key == buckets::SCHEDULED_COMPACTION.as_bytes() {
            self.scheduled = compaction()?;
        } else if key == buckets::FINISHED_COMPACTION.as_bytes() {
            self.finished = compaction()?;
        } else if key == buckets::STORAGE.as_bytes() {
            self.check_version("storage", value)?;
        } else if [buckets::TERM, buckets::CONSISTENT_INDEX]
            .map(str::as_bytes)
            .contains(&key)
        {
            number(value)?;
        }
        Ok(())
    }

    fn cluster(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if key == buckets::CLUSTER_VERSION.as_bytes() {
            self.check_version("cluster", value)?;
            // Another one is raised by the leader, as etcd's is.
            if value == keelson_proto::CLUSTER_VERSION.as_bytes() {
                self.content.cluster_version = Some(keelson_proto::CLUSTER_VERSION.to_owned());
            }
        } else if key == buckets::DOWNGRADE.as_bytes() {
            let downgrade: buckets::Downgrade =
                serde_json::from_slice(value).map_err(|error| error.to_string())?;
            if downgrade.enabled {
                self.content.downgrade = Some(DowngradeInfo {
                    enabled: true,
                    target_version: downgrade.target_version,
                });
            }
        }
        Ok(())
    }

    /// What cannot be parsed counts as absent, as in etcd.
    fn check_version(&mut self, what: &str, value: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(value).map_err(|_| "no text")?;
        let parts: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        let Some([major, minor, _patch]) = parts.as_deref() else {
            return Ok(());
        };
        let known = match what {
            "storage" => MINOR_VERSIONS.contains(minor),
            _ => minor <= MINOR_VERSIONS.end(),
        };
        if *major != 3 || !known {
            let refusal = format!("{what} version {text} of the snapshot is not supported");
            self.refusal = Some(refusal);
        }
        Ok(())
    }

    fn alarm(&mut self, key: &[u8], _value: &[u8]) -> Result<(), String> {
        let alarm = AlarmMember::decode(key).map_err(|error| error.to_string())?;
        if ![1, 2].contains(&alarm.alarm) {
            return Err("an alarm of unknown type".into());
        }
        self.content.alarms.push(alarm);
        Ok(())
    }

    fn auth(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if key == buckets::AUTH_ENABLED.as_bytes() {
            self.content.auth.enabled = *value.first().ok_or("no value")? != 0;
        } else if key == buckets::AUTH_REVISION.as_bytes() {
            self.content.auth.revision = number(value)?.max(1);
        }
        Ok(())
    }

    fn user(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let user = authpb::User::decode(value).map_err(|error| error.to_string())?;
        same_name(&user.name, key)?;
        let (name, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.content.auth.users.insert(name, value);
        Ok(())
    }

    fn role(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let role = authpb::Role::decode(value).map_err(|error| error.to_string())?;
        same_name(&role.name, key)?;
        let (name, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.content.auth.roles.insert(name, value);
        Ok(())
    }

    fn lease(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let stored = StoredLease::decode(value).map_err(|error| error.to_string())?;
        let id = number(key)?.cast_signed();
        let sound = stored.id == id
            && id != 0
            && stored.ttl <= LEASE_TTL_SECONDS_MAX
            && stored.remaining_ttl >= 0;
        if !sound {
            return Err("an impossible lease".into());
        }
        self.content.leases.push(Lease {
            id,
            ttl_seconds: stored.ttl,
            remaining_ttl_seconds: stored.remaining_ttl,
        });
        Ok(())
    }

    /// Members of the old cluster are dropped, but must be what they should be.
    fn member(&mut self, key: &[u8], _value: &[u8]) -> Result<(), String> {
        let id = std::str::from_utf8(key).ok();
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        id.map(drop).ok_or_else(|| "no member id".into())
    }

    /// Buckets that etcd does not know either.
    fn rest(&mut self) -> Result<(), ImportError> {
        while let Some(bucket) = self.walk.take_first() {
            self.walk
                .entries::<BoltError>(&bucket, &mut |_, _, _| Ok(()))?;
            let name = bucket.name().escape_ascii();
            let warning = format!("the snapshot has an unknown bucket {name}; it is left out");
            self.content.warnings.push(warning);
        }
        Ok(())
    }
}

fn same_name(name: &[u8], key: &[u8]) -> Result<(), String> {
    if name == key {
        Ok(())
    } else {
        Err("the name within is another one".into())
    }
}

fn number(value: &[u8]) -> Result<u64, String> {
    let bytes = value.try_into().map_err(|_| "no number of 8 bytes")?;
    Ok(u64::from_be_bytes(bytes))
}
