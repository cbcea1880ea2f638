//! The log lines of a membership change, as every member applies it (contract 6.5).

use super::types::{Membership, Node};
use crate::logging::list;

/// Logs what has changed from one membership to the next.
pub(super) fn changed(local: u64, before: &Membership, after: &Membership) {
    let hex = |id: u64| format!("{id:x}");
    for (id, node) in after.nodes() {
        let learner = is_learner(after, *id, node);
        match before.get_node(id) {
            None => tracing::info!(
                "local-member-id" = hex(local),
                "added-peer-id" = hex(*id),
                "json:added-peer-peer-urls" = %list(&node.peer_urls),
                "added-peer-is-learner" = learner,
                "added member"
            ),
            Some(known) if known.peer_urls != node.peer_urls => tracing::info!(
                "local-member-id" = hex(local),
                "updated-remote-peer-id" = hex(*id),
                "json:updated-remote-peer-urls" = %list(&node.peer_urls),
                "updated member"
            ),
            Some(known) if is_learner(before, *id, known) && !learner => tracing::info!(
                "local-member-id" = hex(local),
                "promoted-member-id" = hex(*id),
                "promote member"
            ),
            Some(_) => {}
        }
    }
    for (id, node) in before.nodes() {
        if after.get_node(id).is_none() {
            tracing::info!(
                "local-member-id" = hex(local),
                "removed-remote-peer-id" = hex(*id),
                "json:removed-remote-peer-urls" = %list(&node.peer_urls),
                "removed-remote-peer-is-learner" = is_learner(before, *id, node),
                "removed member"
            );
        }
    }
}

/// As clients see it: a voter that has not caught up yet is none.
fn is_learner(membership: &Membership, id: u64, node: &Node) -> bool {
    !node.pending_voter && !membership.voter_ids().any(|voter| voter == id)
}
