//! From what the store recovered to the tables in memory, at start and after an install.

use bytes::Bytes;
use keelson_proto::{
    etcdserverpb::{AlarmMember, DowngradeInfo},
    keelsonpb::MemberAttributes,
};
use prost::Message as _;

use crate::{
    alarm::Alarms,
    auth::Auth,
    error::ApplyError,
    items,
    lease::{Lease, Leases},
    members::Members,
    mvcc::{
        index::KeyIndex,
        shared::{NEVER_COMPACTED, Revisions},
    },
    store::{Position, StateItems},
};

/// The current revision of an empty store (contract 2.6).
const FIRST_REVISION: i64 = 1;

/// The small tables.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) leases: Leases,
    pub(super) alarms: Alarms,
    pub(super) members: Members,
    pub(super) auth: Auth,
}

impl Tables {
    /// Decodes the state items; attachments follow from the index (store-notes 8, L1).
    pub(super) fn restore(state: &StateItems, index: &KeyIndex) -> Result<Self, ApplyError> {
        let mut tables = Self::default();
        for (key, value) in state {
            if tables.restore_item(key, value).is_none() {
                let key = key.escape_ascii();
                return Err(ApplyError::Damaged(format!("state item {key}")));
            }
        }
        let leases = &mut tables.leases;
        index.reader().heads(&[], None, |key, head| {
            if head.lease != 0 {
                leases.reattach(key, 0, head.lease);
            }
        });
        Ok(tables)
    }

    fn restore_item(&mut self, key: &[u8], value: &Bytes) -> Option<()> {
        if key.starts_with(items::LEASE) {
            self.leases.insert(Lease::from_item(key, value)?);
        } else if key.starts_with(items::ALARM) {
            self.alarms
                .restore(&AlarmMember::decode(value.as_ref()).ok()?);
        } else if key.starts_with(items::MEMBER) {
            self.members
                .publish(&MemberAttributes::decode(value.as_ref()).ok()?);
        } else if key.starts_with(items::REMOVED) {
            self.members.remove(items::id_of(items::REMOVED, key)?);
        } else if key == items::CLUSTER_VERSION {
            self.members
                .set_cluster_version(std::str::from_utf8(value).ok()?);
        } else if key == items::DOWNGRADE {
            self.members
                .set_downgrade(&DowngradeInfo::decode(value.as_ref()).ok()?);
        } else if key.starts_with(items::AUTH) {
            self.auth.restore(key, value)?;
        } else {
            return None;
        }
        Some(())
    }
}

/// Where the history stands at a position. It comes from the manifest, not from the last record
/// (#17780).
pub(super) fn revisions_of(position: Option<&Position>) -> Revisions {
    match position {
        Some(position) => Revisions {
            current: position.revision.max(FIRST_REVISION),
            compact: position.compact_revision,
        },
        None => Revisions {
            current: FIRST_REVISION,
            compact: NEVER_COMPACTED,
        },
    }
}
