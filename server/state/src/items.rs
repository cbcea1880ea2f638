//! Keys of all state items: what a checkpoint holds beside records.
//!
//! Numbers are big-endian, so that items of a kind sort by id.
//!
//! | key | value |
//! |---|---|
//! | `lease/` id (8) | granted TTL (8), checkpointed remaining TTL or 0 (8), in seconds |
//! | `alarm/` member (8) type (4) | `etcdserverpb.AlarmMember` |
//! | `member/` id (8) | `keelsonpb.MemberAttributes` |
//! | `removed/` id (8) | one byte, 1 |
//! | `cluster-version` | text |
//! | `downgrade` | `etcdserverpb.DowngradeInfo`; absent when none is under way |
//! | `auth/enabled` | one byte, 0 or 1 |
//! | `auth/revision` | (8) |
//! | `auth/user/` name, `auth/role/` name | `authpb.User`, `authpb.Role` |

use bytes::Bytes;
use keelson_proto::etcdserverpb::AlarmMember;

/// Of leases.
pub const LEASE: &[u8] = b"lease/";
/// Of standing alarms.
pub const ALARM: &[u8] = b"alarm/";
/// Of attributes that members published.
pub const MEMBER: &[u8] = b"member/";
/// Of ids that never return.
pub const REMOVED: &[u8] = b"removed/";
/// The one item of the cluster version.
pub const CLUSTER_VERSION: &[u8] = b"cluster-version";
/// The one item of a downgrade.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// Of all that belongs to authentication.
pub const AUTH: &[u8] = b"auth/";
/// The one item that says whether authentication is on.
pub const AUTH_ENABLED: &[u8] = b"auth/enabled";
/// The one item of authentication's revision.
pub const AUTH_REVISION: &[u8] = b"auth/revision";
/// Of users, by name.
pub const AUTH_USER: &[u8] = b"auth/user/";
/// Of roles, by name.
pub const AUTH_ROLE: &[u8] = b"auth/role/";

/// A prefix and an id.
pub(crate) fn with_id(prefix: &[u8], id: u64) -> Bytes {
    [prefix, &id.to_be_bytes()].concat().into()
}

/// The key of an alarm.
pub(crate) fn alarm(alarm: &AlarmMember) -> Bytes {
    let id = with_id(ALARM, alarm.member_id);
    [&id[..], &alarm.alarm.to_be_bytes()].concat().into()
}

/// The id after a prefix.
pub(crate) fn id_of(prefix: &[u8], key: &[u8]) -> Option<u64> {
    let id = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}
