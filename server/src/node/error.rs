//! What the node tells the API when a request cannot be served.

use keelson_proto::error::Error;
use tonic::{Code, Status};

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// An error of etcd's table.
    #[error(transparent)]
    Etcd(#[from] Error),
    /// The request timeout passed with no leader known (contract 2.1).
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// Another text that goes out as Unknown (contract 3, wire quirks).
    #[error("{0}")]
    Other(String),
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Etcd(error) => error.into(),
            NodeError::DeadlineExceeded => {
                Status::new(Code::DeadlineExceeded, "context deadline exceeded")
            }
            NodeError::Other(text) => Status::new(Code::Unknown, text),
        }
    }
}
