//! Numbers that a running node keeps, read when the page is rendered.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::names::Families;
use crate::node::Node;

impl super::Metrics {
    /// Reads a node's numbers for each page, once there is one.
    pub fn read_node(&self, node: Arc<OnceLock<Arc<Node>>>) {
        self.on_render(move |families| {
            if let Some(node) = node.get() {
                read(families, node);
            }
        });
    }
}

fn read(families: &Families, node: &Node) {
    let (reader, status) = (node.reader(), node.status());
    let own_id = format!("{:x}", status.member_id());
    let leader = status.leader();
    families
        .server_has_leader
        .set(leader.leader.is_some().into());
    families.server_is_leader.set(leader.is_local.into());
    families.server_is_learner.set(node.is_learner().into());
    families.server_id.with(&[&own_id]).set(1);
    if let Some(version) = node.cluster_version() {
        // `3.7` of `3.7.0`.
        let version: Vec<&str> = version.splitn(3, '.').take(2).collect();
        families.cluster_version.only(&[&version.join(".")]).set(1);
    }
    for member in node.members() {
        families
            .network_known_peers
            .with(&[&own_id, &format!("{:x}", member.id)])
            .set(1);
    }
    families
        .server_proposals_applied_total
        .set_unsigned(status.applied().index());
    let committed = status.with_metrics(|raft| raft.last_applied.as_ref().map(|id| id.index()));
    families
        .server_proposals_committed_total
        .set_unsigned(committed.unwrap_or(0).max(status.applied().index()));

    families
        .mvcc_db_total_size_in_bytes
        .set_unsigned(reader.db_size_bytes());
    families
        .mvcc_db_total_size_in_use_in_bytes
        .set_unsigned(reader.in_use_bytes());
    families
        .debugging_mvcc_current_revision
        .set(reader.current_revision());
    families
        .debugging_mvcc_compact_revision
        .set(match reader.compact_revision() {
            0 => -1,
            revision => revision,
        });
    families
        .debugging_mvcc_keys_total
        .set_unsigned(reader.keys_total());

    let (watchers, slow, streams) = node.watch_hub().counts();
    families
        .debugging_mvcc_watcher_total
        .set_unsigned(watchers as u64);
    families
        .debugging_mvcc_slow_watcher_total
        .set_unsigned(slow as u64);
    families
        .debugging_mvcc_watch_stream_total
        .set_unsigned(streams as u64);

    let counters = reader.counters();
    families
        .mvcc_put_total
        .set(counters.put_total.load(Relaxed));
    families
        .mvcc_delete_total
        .set(counters.delete_total.load(Relaxed));
    families
        .mvcc_range_total
        .set(counters.range_total.load(Relaxed));
    families
        .mvcc_txn_total
        .set(counters.txn_total.load(Relaxed));
    let put_bytes = counters.put_size_bytes.load(Relaxed);
    families
        .debugging_mvcc_total_put_size_in_bytes
        .set_unsigned(put_bytes);
    let compacted = counters.compaction_keys_total.load(Relaxed);
    families
        .debugging_mvcc_db_compaction_keys_total
        .set(compacted);
    families
        .debugging_lease_granted_total
        .set(counters.lease_granted_total.load(Relaxed));
    families
        .debugging_lease_revoked_total
        .set(counters.lease_revoked_total.load(Relaxed));
}
