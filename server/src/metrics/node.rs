//! Numbers that a running node keeps, read when the page is rendered.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use keelson_proto::etcdserverpb::AlarmType;

use super::names::Families;
use super::types::Counter;
use crate::node::Node;

impl super::Metrics {
    /// Reads a node's numbers for each page, from when there is one until its server ends.
    pub fn read_node(&self, node: &Arc<OnceLock<Arc<Node>>>) {
        let node = Arc::downgrade(node);
        self.on_render(move |families| {
            let node = node.upgrade();
            if let Some(node) = node.as_ref().and_then(|node| node.get()) {
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
    read_alarms(families, node);
    read_peers(families, node, &own_id);
    for member in node.members() {
        families
            .network_known_peers
            .with(&[&own_id, &format!("{:x}", member.id)])
            .set(1);
    }
    families
        .server_proposals_applied_total
        .set_unsigned(status.applied().index());
    let committed = status.with_metrics(|raft| raft.local_committed.as_ref().map(|id| id.index()));
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

    let rounds = status.read_rounds();
    families
        .server_slow_read_indexes_total
        .set(rounds.slow.get());
    families
        .server_read_indexes_failed_total
        .set(rounds.failed.get());
    let (pending, sent) = node.watch_hub().events();
    families
        .debugging_mvcc_pending_events_total
        .set_unsigned(pending as u64);
    families.debugging_mvcc_events_total.set(sent);
    let (renewed, expired) = node.lessor().counts();
    families.debugging_lease_renewed_total.set(renewed);
    families.debugging_server_lease_expired_total.set(expired);

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

fn read_alarms(families: &Families, node: &Node) {
    for (_, gauge) in families.debugging_server_alarms.children() {
        gauge.set(0);
    }
    for alarm in node.reader().alarms(AlarmType::None.into()) {
        let id = format!("{:x}", alarm.member_id);
        families
            .debugging_server_alarms
            .with(&[&id, alarm.alarm().as_str_name()])
            .set(1);
    }
}

fn read_peers(families: &Families, node: &Node, own_id: &str) {
    let local = node.status().member_id();
    let mut heartbeat_failures = 0;
    for id in node.peers().ids().into_iter().filter(|id| *id != local) {
        let (stats, id) = (node.peers().stats(id), format!("{id:x}"));
        let peer: &[&str] = &[&id];
        let link: &[&str] = &[own_id, &id];
        families
            .network_peer_sent_bytes_total
            .adopt(peer, &stats.sent_bytes);
        families
            .network_peer_received_bytes_total
            .adopt(peer, &stats.received_bytes);
        families
            .network_peer_round_trip_time_seconds
            .adopt(peer, &stats.round_trips);
        families
            .network_active_peers
            .with(link)
            .set(stats.is_active().into());
        let first_value = |counter: &Counter| counter.get() > 0;
        if first_value(&stats.sent_failures) {
            families
                .network_peer_sent_failures_total
                .adopt(peer, &stats.sent_failures);
        }
        if first_value(&stats.received_failures) {
            families
                .network_peer_received_failures_total
                .adopt(peer, &stats.received_failures);
        }
        if first_value(&stats.disconnects) {
            families
                .network_disconnected_peers_total
                .adopt(link, &stats.disconnects);
        }
        let transfers = [
            (
                &stats.snapshots_sent,
                &families.network_snapshot_send_inflights_total,
                &families.network_snapshot_send_success,
                &families.network_snapshot_send_failures,
                &families.network_snapshot_send_total_duration_seconds,
            ),
            (
                &stats.snapshots_received,
                &families.network_snapshot_receive_inflights_total,
                &families.network_snapshot_receive_success,
                &families.network_snapshot_receive_failures,
                &families.network_snapshot_receive_total_duration_seconds,
            ),
        ];
        for (stats, in_flight, succeeded, failed, took) in transfers {
            if stats.is_used() {
                in_flight.adopt(peer, &stats.in_flight);
                succeeded.adopt(peer, &stats.succeeded);
                failed.adopt(peer, &stats.failed);
                took.adopt(peer, &stats.took);
            }
        }
        heartbeat_failures += stats.heartbeat_failures.get();
    }
    families
        .server_heartbeat_send_failures_total
        .set(heartbeat_failures);
}
