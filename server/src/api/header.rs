//! The header of every response (contract 2.1).

use std::sync::Arc;

use keelson_proto::etcdserverpb::ResponseHeader;

use crate::node::status::NodeStatus;

/// Fills headers with the ids and the term.
#[derive(Clone)]
pub struct Header {
    status: Arc<NodeStatus>,
}

impl Header {
    /// Headers of this member.
    #[must_use]
    pub fn new(status: Arc<NodeStatus>) -> Self {
        Self { status }
    }

    /// A header with a revision; 0 leaves it out.
    #[must_use]
    pub fn at(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.status.cluster_id(),
            member_id: self.status.member_id(),
            revision,
            raft_term: self.status.term(),
        }
    }

    /// Completes a header that carries only the revision, as apply makes it.
    #[must_use]
    pub fn complete(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        Some(self.at(header.map_or(0, |header| header.revision)))
    }
}
