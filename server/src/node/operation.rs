//! Kinds of requests, as the metrics and the log call them (contract 6.4).

use keelson_proto::keelsonpb::{Command, command::Request};

macro_rules! operations {
    ($($name:ident,)*) => {
        /// What a request does; named as etcd does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Operation {
            $(#[doc = stringify!($name)] $name,)*
        }

        impl Operation {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operations! {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterMemberAttrSet,
    ClusterVersionSet,
    DowngradeInfoSet,
    Unknown,
}

impl Operation {
    /// Its place in [`Operation::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        self as usize
    }

    /// Of a replicated request.
    #[must_use]
    pub fn of_request(request: Option<&Request>) -> Self {
        match request {
            Some(Request::Put(_)) => Self::Put,
            Some(Request::DeleteRange(_)) => Self::DeleteRange,
            Some(Request::Txn(_)) => Self::Txn,
            Some(Request::Compaction(_)) => Self::Compaction,
            Some(Request::LeaseGrant(_)) => Self::LeaseGrant,
            Some(Request::LeaseRevoke(_)) => Self::LeaseRevoke,
            Some(Request::LeaseCheckpoint(_)) => Self::LeaseCheckpoint,
            Some(Request::Alarm(_)) => Self::Alarm,
            Some(Request::MemberAttributes(_)) => Self::ClusterMemberAttrSet,
            Some(Request::ClusterVersion(_)) => Self::ClusterVersionSet,
            Some(Request::Downgrade(_)) => Self::DowngradeInfoSet,
            None => Self::Unknown,
        }
    }

    /// Of a command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        Self::of_request(command.request.as_ref())
    }
}
