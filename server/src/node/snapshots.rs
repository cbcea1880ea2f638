//! A snapshot file of this member's state, taken while it goes on (contract 2.10).
//!
//! The point in time is taken between two entries. A checkpoint of the same point follows, so that
//! the records are read from files for as long as the client takes, and none is held in memory.

use keelson_state::bolt::FileWriter;
use keelson_state::snapshot::SnapshotMember;

use super::Node;
use super::error::NodeError;
use crate::raft::snapshot;

impl Node {
    /// Begins a snapshot file of now.
    ///
    /// # Errors
    /// Stopped; what the format cannot hold.
    pub async fn snapshot_file(&self) -> Result<FileWriter, NodeError> {
        let (export, frozen) = {
            let mut state = self.state.state.lock();
            (state.export(), state.freeze())
        };
        let written = self.wait_for_keeper(|done| self.keeper.checkpoint(frozen, done));
        if let Err(error) = written.await {
            // A full disk: the records of the tail stay in memory until the file is complete.
            tracing::warn!(error = %error, "snapshot without a checkpoint before it");
        }
        let membership = &export.position().membership;
        let membership = if membership.is_empty() {
            crate::raft::types::StoredMembership::default()
        } else {
            snapshot::decode_membership(membership)
                .map_err(|error| NodeError::Other(error.to_string()))?
        };
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let members: Vec<SnapshotMember> = membership
            .membership()
            .nodes()
            .map(|(id, node)| {
                let published = export.members().attributes(*id);
                SnapshotMember {
                    id: *id,
                    peer_urls: node.peer_urls.clone(),
                    is_learner: !voters.contains(id) && !node.pending_voter,
                    name: published.map(|one| one.name.clone()).unwrap_or_default(),
                    client_urls: published
                        .map(|one| one.client_urls.clone())
                        .unwrap_or_default(),
                }
            })
            .collect();
        let planned = tokio::task::spawn_blocking(move || export.into_file(&members)).await;
        planned
            .map_err(|error| NodeError::Other(error.to_string()))?
            .map_err(|error| NodeError::Other(error.to_string()))
    }
}
