//! The error table: every error of etcd's API by gRPC code and exact text (contract 3).
//!
//! The text is the identity: clients map it to their typed errors, byte for byte, and Kubernetes
//! recognises a handful by it; the code decides only about retries. The server encodes with
//! `tonic::Status::from(error)`, the client decodes with [`Error::from_status`].

use tonic::{Code, Status};

macro_rules! errors {
    ($($name:ident, $code:ident, $text:literal;)*) => {
        /// An error of etcd's API. Named as etcd's `ErrGRPC…`, without the prefix.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Error {
            $(
                #[doc = concat!("`", $text, "`")]
                #[error($text)]
                $name,
            )*
        }

        impl Error {
            /// All of them, in the table's order.
            pub const ALL: &'static [Error] = &[$(Error::$name),*];

            /// The gRPC code that goes with it on the wire.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Error::$name => Code::$code,)* }
            }

            /// The exact text.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Error::$name => $text,)* }
            }
        }
    };
}

errors! {
    WatchCanceled, Cancelled, "etcdserver: watch canceled";
    Canceled, Cancelled, "etcdserver: request canceled";
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientAPIVersion, InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    MemberBadURLs, InvalidArgument, "etcdserver: given member URLs are invalid";
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    AuthFailed, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";
    WrongDowngradeVersionFormat, InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTargetVersion, InvalidArgument, "etcdserver: invalid downgrade target version";
    DeadlineExceeded, DeadlineExceeded, "etcdserver: context deadline exceeded";
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    MemberNotFound, NotFound, "etcdserver: member not found";
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    RequestTooManyRequests, Unknown, "etcdserver: too many requests";
    LeaseExist, FailedPrecondition, "etcdserver: lease already exists";
    MemberExist, FailedPrecondition, "etcdserver: member ID already exist";
    PeerURLExist, FailedPrecondition, "etcdserver: Peer URLs already exists";
    MemberNotEnoughStarted, Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIDMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist, FailedPrecondition, "etcdserver: user name already exists";
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist, FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted, FailedPrecondition, "etcdserver: permission is not granted to the role";
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    ClusterVersionUnavailable, FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRev, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    LeaseTTLTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    NoLeader, Unavailable, "etcdserver: no leader";
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    Stopped, Unavailable, "etcdserver: server stopped";
    Timeout, Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex, Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    InvalidAuthToken, Unauthenticated, "etcdserver: invalid auth token";
}

impl Error {
    /// The table's entry for a status from a server, if its text is known.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        Self::from_text(status.message())
    }

    /// The table's entry with this text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|error| error.text() == text)
    }

    /// Whether the request certainly did not run, so that it may be sent again (contract 3).
    ///
    /// NoSpace counts as indefinite: genuine etcd may apply the write that crosses the line and
    /// still answer it (contract 2.6).
    #[must_use]
    pub fn is_definite(self) -> bool {
        match self {
            Self::RequestTooManyRequests | Self::MemberNotEnoughStarted | Self::NoLeader => true,
            _ => matches!(
                self.code(),
                Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::NotFound
                    | Code::OutOfRange
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            ),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status::new(error.code(), error.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_complete_and_unambiguous() {
        assert_eq!(Error::ALL.len(), 63);
        for &error in Error::ALL {
            assert_eq!(Error::from_text(error.text()), Some(error));
            let status = Status::from(error);
            assert_eq!(
                (status.code(), status.message()),
                (error.code(), error.text())
            );
            assert_eq!(error.to_string(), error.text());
        }
    }

    /// Counted in the contract, code by code; the two wire quirks are Unknown.
    #[test]
    fn codes() {
        let count = |code| {
            Error::ALL
                .iter()
                .filter(|error| error.code() == code)
                .count()
        };
        for (code, expected) in [
            (Code::Cancelled, 2),
            (Code::InvalidArgument, 18),
            (Code::DeadlineExceeded, 1),
            (Code::NotFound, 2),
            (Code::PermissionDenied, 1),
            (Code::ResourceExhausted, 1),
            (Code::FailedPrecondition, 23),
            (Code::OutOfRange, 3),
            (Code::Unavailable, 8),
            (Code::DataLoss, 1),
            (Code::Unauthenticated, 1),
            (Code::Unknown, 2),
        ] {
            assert_eq!(count(code), expected, "{code:?}");
        }
    }

    /// The texts that Kubernetes compares (contract 9).
    #[test]
    fn texts_kubernetes_relies_on() {
        for (error, text) in [
            (
                Error::Compacted,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                Error::FutureRev,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (Error::RequestTooLarge, "etcdserver: request is too large"),
            (Error::NoSpace, "etcdserver: mvcc: database space exceeded"),
            (Error::LeaderChanged, "etcdserver: leader changed"),
            (Error::Timeout, "etcdserver: request timed out"),
            (
                Error::RequestTooManyRequests,
                "etcdserver: too many requests",
            ),
        ] {
            assert_eq!(error.text(), text);
        }
        assert_eq!(Error::KeyNotFound.code(), Code::InvalidArgument);
    }

    #[test]
    fn a_write_of_unknown_fate_is_not_definite() {
        for error in [
            Error::Timeout,
            Error::Stopped,
            Error::LeaderChanged,
            Error::NoSpace,
        ] {
            assert!(!error.is_definite(), "{error:?}");
        }
        for error in [
            Error::NoLeader,
            Error::KeyNotFound,
            Error::Compacted,
            Error::NotLeader,
        ] {
            assert!(error.is_definite(), "{error:?}");
        }
    }
}
