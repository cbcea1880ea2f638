//! Names of etcd's buckets and of the keys in them, and the forms of keys and small values.

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::lease::Lease;
use crate::revision::Revision;
use crate::store::bucket_key;

pub(crate) const ALARM: &str = "alarm";
pub(crate) const AUTH: &str = "auth";
pub(crate) const AUTH_ROLES: &str = "authRoles";
pub(crate) const AUTH_USERS: &str = "authUsers";
pub(crate) const CLUSTER: &str = "cluster";
pub(crate) const KEY: &str = "key";
pub(crate) const LEASE: &str = "lease";
pub(crate) const MEMBERS: &str = "members";
pub(crate) const MEMBERS_REMOVED: &str = "members_removed";
pub(crate) const META: &str = "meta";

pub(crate) const AUTH_ENABLED: &str = "authEnabled";
pub(crate) const AUTH_REVISION: &str = "authRevision";
pub(crate) const CLUSTER_VERSION: &str = "clusterVersion";
pub(crate) const DOWNGRADE: &str = "downgrade";
pub(crate) const CONF_STATE: &str = "confState";
pub(crate) const CONSISTENT_INDEX: &str = "consistent_index";
pub(crate) const TERM: &str = "term";
pub(crate) const SCHEDULED_COMPACTION: &str = "scheduledCompactRev";
pub(crate) const FINISHED_COMPACTION: &str = "finishedCompactRev";
pub(crate) const STORAGE: &str = "storageVersion";

/// The value in the bucket of removed members.
pub(crate) const REMOVED: &[u8] = b"removed";

/// A member as etcd stores it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SnapshotMember {
    /// Its id.
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty before it first started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; none before it first started.
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// A downgrade under way.
#[derive(Deserialize, Serialize)]
pub(crate) struct Downgrade {
    #[serde(rename = "target-version", default)]
    pub(crate) target_version: String,
    pub(crate) enabled: bool,
}

/// Who votes, in the form of etcd's raft.
#[derive(Serialize)]
pub(crate) struct ConfState {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) learners: Vec<u64>,
    pub(crate) auto_leave: bool,
}

/// `leasepb.Lease`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredLease {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(int64, tag = "2")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "3")]
    pub(crate) remaining_ttl: i64,
}

impl From<&Lease> for StoredLease {
    fn from(lease: &Lease) -> Self {
        Self {
            id: lease.id,
            ttl: lease.ttl_seconds,
            remaining_ttl: lease.remaining_ttl_seconds,
        }
    }
}

/// The key of a compact revision's entry: that of a record `main`/0.
pub(crate) fn revision_value(main: i64) -> Bytes {
    let (key, len) = bucket_key(Revision::new(main, 0), false);
    Bytes::copy_from_slice(key.get(..len).unwrap_or_default())
}

/// Reads the key of a record: its revision, and whether it is a tombstone.
pub(crate) fn parse_revision(key: &[u8]) -> Option<(Revision, bool)> {
    let tombstone = match key.len() {
        17 => false,
        18 if key.get(17) == Some(&b't') => true,
        _ => return None,
    };
    if key.get(8) != Some(&b'_') {
        return None;
    }
    let main = i64::from_be_bytes(key.get(..8)?.try_into().ok()?);
    let sub = i64::from_be_bytes(key.get(9..17)?.try_into().ok()?);
    let sub = u32::try_from(sub)
        .ok()
        .filter(|sub| *sub <= Revision::SUB_MAX)?;
    (main >= 1).then_some((Revision { main, sub }, tombstone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_records() {
        let at = Revision::new(6, 3);
        for tombstone in [false, true] {
            let (key, len) = bucket_key(at, tombstone);
            assert_eq!(parse_revision(&key[..len]), Some((at, tombstone)));
        }
        assert_eq!(parse_revision(b""), None);
        assert_eq!(parse_revision(&[0; 17]), None);
        assert_eq!(
            parse_revision(b"\0\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\0x"),
            None
        );
        assert_eq!(parse_revision(b"\0\0\0\0\0\0\0\0_\0\0\0\0\0\0\0\0"), None);
        assert_eq!(
            parse_revision(b"\xff\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\0"),
            None
        );
        assert_eq!(
            parse_revision(b"\0\0\0\0\0\0\0\x01_\0\0\0\x01\0\0\0\0"),
            None
        );
    }

    #[test]
    fn members_are_etcds_json() {
        let member = SnapshotMember {
            id: 6_392_178_203_596_254_009,
            peer_urls: vec!["http://x:1".into()],
            name: "k".into(),
            ..SnapshotMember::default()
        };
        assert_eq!(
            serde_json::to_string(&member).unwrap(),
            r#"{"id":6392178203596254009,"peerURLs":["http://x:1"],"name":"k"}"#
        );
    }
}
