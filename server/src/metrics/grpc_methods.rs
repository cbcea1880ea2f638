//! The methods whose calls are counted: those of every service of a client port.

/// A method and the labels it is counted under.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
}

const fn method(service: &'static str, name: &'static str, kind: &'static str) -> Method {
    Method {
        service,
        name,
        kind,
    }
}

/// Sorted by service; in a service there are few.
pub(super) const METHODS: [Method; 52] = [
    method("etcdserverpb.Auth", "AuthDisable", "unary"),
    method("etcdserverpb.Auth", "AuthEnable", "unary"),
    method("etcdserverpb.Auth", "AuthStatus", "unary"),
    method("etcdserverpb.Auth", "Authenticate", "unary"),
    method("etcdserverpb.Auth", "RoleAdd", "unary"),
    method("etcdserverpb.Auth", "RoleDelete", "unary"),
    method("etcdserverpb.Auth", "RoleGet", "unary"),
    method("etcdserverpb.Auth", "RoleGrantPermission", "unary"),
    method("etcdserverpb.Auth", "RoleList", "unary"),
    method("etcdserverpb.Auth", "RoleRevokePermission", "unary"),
    method("etcdserverpb.Auth", "UserAdd", "unary"),
    method("etcdserverpb.Auth", "UserChangePassword", "unary"),
    method("etcdserverpb.Auth", "UserDelete", "unary"),
    method("etcdserverpb.Auth", "UserGet", "unary"),
    method("etcdserverpb.Auth", "UserGrantRole", "unary"),
    method("etcdserverpb.Auth", "UserList", "unary"),
    method("etcdserverpb.Auth", "UserRevokeRole", "unary"),
    method("etcdserverpb.Cluster", "MemberAdd", "unary"),
    method("etcdserverpb.Cluster", "MemberList", "unary"),
    method("etcdserverpb.Cluster", "MemberPromote", "unary"),
    method("etcdserverpb.Cluster", "MemberRemove", "unary"),
    method("etcdserverpb.Cluster", "MemberUpdate", "unary"),
    method("etcdserverpb.KV", "Compact", "unary"),
    method("etcdserverpb.KV", "DeleteRange", "unary"),
    method("etcdserverpb.KV", "Put", "unary"),
    method("etcdserverpb.KV", "Range", "unary"),
    method("etcdserverpb.KV", "RangeStream", "server_stream"),
    method("etcdserverpb.KV", "Txn", "unary"),
    method("etcdserverpb.Lease", "LeaseGrant", "unary"),
    method("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
    method("etcdserverpb.Lease", "LeaseLeases", "unary"),
    method("etcdserverpb.Lease", "LeaseRevoke", "unary"),
    method("etcdserverpb.Lease", "LeaseTimeToLive", "unary"),
    method("etcdserverpb.Maintenance", "Alarm", "unary"),
    method("etcdserverpb.Maintenance", "Defragment", "unary"),
    method("etcdserverpb.Maintenance", "Downgrade", "unary"),
    method("etcdserverpb.Maintenance", "Hash", "unary"),
    method("etcdserverpb.Maintenance", "HashKV", "unary"),
    method("etcdserverpb.Maintenance", "MoveLeader", "unary"),
    method("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
    method("etcdserverpb.Maintenance", "Status", "unary"),
    method("etcdserverpb.Watch", "Watch", "bidi_stream"),
    method("grpc.health.v1.Health", "Check", "unary"),
    method("grpc.health.v1.Health", "List", "unary"),
    method("grpc.health.v1.Health", "Watch", "server_stream"),
    method("v3lockpb.Lock", "Lock", "unary"),
    method("v3lockpb.Lock", "Unlock", "unary"),
    method("v3electionpb.Election", "Campaign", "unary"),
    method("v3electionpb.Election", "Leader", "unary"),
    method("v3electionpb.Election", "Observe", "server_stream"),
    method("v3electionpb.Election", "Proclaim", "unary"),
    method("v3electionpb.Election", "Resign", "unary"),
];

/// Codes by number, as labels show them.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The place of the method that a path names; none for an unknown one.
pub(super) fn place_of(path: &str) -> Option<usize> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    METHODS
        .iter()
        .position(|method| method.name == name && method.service == service)
}

/// Whether a path names a known method whose calls have one request.
pub(crate) fn takes_one_request(path: &str) -> bool {
    let method = place_of(path).and_then(|place| METHODS.get(place));
    method.is_some_and(|method| method.kind != "bidi_stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_methods_take_a_request() {
        for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/RangeStream"] {
            assert!(takes_one_request(path), "{path}");
        }
        for path in [
            "/etcdserverpb.Watch/Watch",
            "/etcdserverpb.Lease/LeaseKeepAlive",
            "/etcdserverpb.KV/Nothing",
            "/other.Service/Put",
            "",
        ] {
            assert!(!takes_one_request(path), "{path}");
        }
    }
}
