//! What can go wrong, with the texts that etcd's Go client shows.

use tonic::{Code, Status};

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody to ask.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
    /// An endpoint that cannot be understood.
    #[error("invalid endpoint {endpoint:?}: {reason}")]
    InvalidEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An endpoint that asks for TLS.
    #[error("TLS is not supported by this version")]
    Tls,
    /// The time given to the call is over. Whether a write happened is unknown, unless no connection
    /// could be made.
    #[error("context deadline exceeded")]
    DeadlineExceeded {
        /// Why there was no connection, if there was none.
        no_connection: Option<String>,
    },
    /// The server's answer, or that it went away.
    #[error("{}", shown(.0))]
    Status(Box<Status>),
    /// The server cancelled a watch.
    #[error("{0}")]
    Watch(String),
    /// The lease that holds a lock or a candidacy is gone.
    #[error("{0}")]
    Session(&'static str),
}

impl Error {
    /// The table's entry, if the server gave one.
    #[must_use]
    pub fn known(&self) -> Option<keelson_proto::error::Error> {
        match self {
            Self::Status(status) => keelson_proto::error::Error::from_status(status),
            _ => None,
        }
    }

    /// The gRPC code, if the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            _ => None,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// A text of the table is shown as it is; others with their code, as Go's gRPC shows them.
fn shown(status: &Status) -> String {
    match keelson_proto::error::Error::from_status(status) {
        Some(error) => error.text().to_owned(),
        None => format!(
            "rpc error: code = {} desc = {}",
            name(status.code()),
            status.message()
        ),
    }
}

/// A code's name in Go's gRPC.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_go_clients() {
        let known = Status::unavailable("etcdserver: no leader");
        assert_eq!(Error::from(known).to_string(), "etcdserver: no leader");
        let other = Status::unimplemented("unknown service");
        assert_eq!(
            Error::from(other).to_string(),
            "rpc error: code = Unimplemented desc = unknown service"
        );
        let late = Error::DeadlineExceeded {
            no_connection: Some("connection refused".to_owned()),
        };
        assert_eq!(late.to_string(), "context deadline exceeded");
    }
}
