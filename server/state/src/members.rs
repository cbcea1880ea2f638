//! What members have published of themselves, removed ids, the cluster version, and a downgrade.
//!
//! Peer URLs and roles stand in raft's membership alone; this table is keyed by the same ids and
//! the server joins the two (design R10, #19557).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_proto::{etcdserverpb::DowngradeInfo, keelsonpb::MemberAttributes};
use prost::Message as _;

use crate::items;

/// Published attributes by member id, ids that never return, the cluster version, and a downgrade.
#[derive(Clone, Debug, Default)]
pub struct Members {
    attributes: BTreeMap<u64, MemberAttributes>,
    removed: BTreeSet<u64>,
    cluster_version: Option<String>,
    /// With `enabled` set only while one is under way.
    downgrade: DowngradeInfo,
}

impl Members {
    /// What a member has published; `None` before it first started.
    #[must_use]
    pub fn attributes(&self, id: u64) -> Option<&MemberAttributes> {
        self.attributes.get(&id)
    }

    /// Whether the id was removed from the cluster; it never returns (contract 2.11).
    #[must_use]
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// All removed ids, ascending.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// The version all members have agreed on, as `major.minor.patch`.
    #[must_use]
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    /// The downgrade under way, if `enabled` (contract 2.10).
    #[must_use]
    pub fn downgrade(&self) -> &DowngradeInfo {
        &self.downgrade
    }

    /// Takes what a member published, unless its id was removed. Whether that changed anything.
    pub(crate) fn publish(&mut self, attributes: &MemberAttributes) -> bool {
        let id = attributes.member_id;
        if self.is_removed(id) || self.attributes.get(&id) == Some(attributes) {
            return false;
        }
        self.attributes.insert(id, attributes.clone());
        true
    }

    /// Forgets a member for ever. Whether that changed anything.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        self.attributes.remove(&id);
        self.removed.insert(id)
    }

    pub(crate) fn set_cluster_version(&mut self, version: &str) {
        self.cluster_version = Some(version.to_owned());
    }

    /// Begins a downgrade, or ends one: then nothing is left of it.
    pub(crate) fn set_downgrade(&mut self, downgrade: &DowngradeInfo) {
        self.downgrade = if downgrade.enabled {
            downgrade.clone()
        } else {
            DowngradeInfo::default()
        };
    }

    /// The state item of what a member has published.
    #[must_use]
    pub fn attributes_item(attributes: &MemberAttributes) -> (Bytes, Bytes) {
        let key = items::with_id(items::MEMBER, attributes.member_id);
        (key, attributes.encode_to_vec().into())
    }

    /// Bytes of the state items, for the db size.
    pub(crate) fn state_bytes(&self) -> u64 {
        let attributes: usize = self
            .attributes
            .values()
            .map(|one| 15 + one.encoded_len())
            .sum();
        let version = self
            .cluster_version
            .as_ref()
            .map_or(0, |version| 15 + version.len());
        let downgrade = match self.downgrade.encoded_len() {
            0 => 0,
            length => items::DOWNGRADE.len() + length,
        };
        (attributes + version + downgrade + 17 * self.removed.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_id_never_returns() {
        let mut members = Members::default();
        let one = MemberAttributes {
            member_id: 1,
            name: "one".into(),
            client_urls: vec!["http://localhost:2379".into()],
        };
        assert!(members.publish(&one));
        assert!(!members.publish(&one));
        assert_eq!(members.attributes(1), Some(&one));
        assert!(members.remove(1));
        assert!(!members.publish(&one));
        assert!(members.is_removed(1) && members.attributes(1).is_none());
    }
}
