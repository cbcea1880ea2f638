//! Every metric but those of gRPC calls and of the process: name, type, labels, buckets, help.

use super::exposition::family;
use super::labels::LabelVec;
use super::types::{Buckets, Counter, Gauge, Histogram};

/// Declares the families once: fields, constructor and page come from the same lines.
macro_rules! families {
    ($($field:ident: $type:ty = $make:expr, $name:literal, $help:literal;)*) => {
        /// The families, each under its name.
        #[derive(Debug)]
        pub struct Families {
            $(#[doc = $help] pub $field: $type,)*
        }

        impl Families {
            pub(super) fn new() -> Self {
                Self { $($field: $make,)* }
            }

            pub(super) fn render(&self, out: &mut String) {
                $(family(out, $name, $help, &self.$field);)*
            }
        }

        /// Every name, in the order of the page.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

families! {
    cluster_version: LabelVec<Gauge> = LabelVec::new(&["cluster_version"], Gauge::default),
        "etcd_cluster_version",
        "Which version is running. 1 for 'cluster_version' label with current cluster version";
    debugging_auth_revision: Gauge = Gauge::default(),
        "etcd_debugging_auth_revision",
        "The current revision of auth store.";
    debugging_disk_backend_commit_rebalance_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "The latency distributions of commit.rebalance called by bboltdb backend.";
    debugging_disk_backend_commit_spill_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "The latency distributions of commit.spill called by bboltdb backend.";
    debugging_disk_backend_commit_write_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "The latency distributions of commit.write called by bboltdb backend.";
    debugging_lease_granted_total: Counter = Counter::default(),
        "etcd_debugging_lease_granted_total",
        "The total number of granted leases.";
    debugging_lease_renewed_total: Counter = Counter::default(),
        "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.";
    debugging_lease_revoked_total: Counter = Counter::default(),
        "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.";
    debugging_lease_ttl_total: Histogram = Histogram::new(Buckets::Seconds(1.0, 24)),
        "etcd_debugging_lease_ttl_total",
        "Bucketed histogram of lease TTLs.";
    debugging_mvcc_compact_revision: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.";
    debugging_mvcc_current_revision: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_current_revision",
        "The current revision of store.";
    debugging_mvcc_db_compaction_keys_total: Counter = Counter::default(),
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Total number of db keys compacted.";
    debugging_mvcc_db_compaction_last: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_db_compaction_last",
        "The unix time of the last db compaction. Resets to 0 on start.";
    debugging_mvcc_db_compaction_pause_duration_milliseconds: Histogram = Histogram::new(Buckets::Milliseconds(1.0, 13)),
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Bucketed histogram of db compaction pause duration.";
    debugging_mvcc_db_compaction_total_duration_milliseconds: Histogram = Histogram::new(Buckets::Milliseconds(100.0, 14)),
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Bucketed histogram of db compaction total duration.";
    debugging_mvcc_events_total: Counter = Counter::default(),
        "etcd_debugging_mvcc_events_total",
        "Total number of events sent by this member.";
    debugging_mvcc_index_compaction_pause_duration_milliseconds: Histogram = Histogram::new(Buckets::Milliseconds(0.5, 14)),
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Bucketed histogram of index compaction pause duration.";
    debugging_mvcc_keys_total: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_keys_total",
        "Total number of keys.";
    debugging_mvcc_pending_events_total: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_pending_events_total",
        "Total number of pending events to be sent.";
    debugging_mvcc_slow_watcher_total: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_slow_watcher_total",
        "Total number of unsynced slow watchers.";
    debugging_mvcc_total_put_size_in_bytes: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "The total size of put kv pairs seen by this member.";
    debugging_mvcc_watch_stream_total: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_watch_stream_total",
        "Total number of watch streams.";
    debugging_mvcc_watcher_total: Gauge = Gauge::default(),
        "etcd_debugging_mvcc_watcher_total",
        "Total number of watchers.";
    debugging_server_alarms: LabelVec<Gauge> = LabelVec::new(&["server_id", "alarm_type"], Gauge::default),
        "etcd_debugging_server_alarms",
        "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm";
    debugging_server_lease_expired_total: Counter = Counter::default(),
        "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.";
    debugging_server_watch_send_loop_control_stream_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "The total duration in seconds of running through the send loop control stream response.";
    debugging_server_watch_send_loop_progress_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "The total duration in seconds of running through the progress loop control stream response.";
    debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "The average duration in seconds of running through the send loop watch stream response, per event.";
    debugging_server_watch_send_loop_watch_stream_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "The total duration in seconds of running through the send loop watch stream response all events.";
    debugging_snap_save_marshalling_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "The marshalling cost distributions of save called by snapshot.";
    debugging_snap_save_total_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_debugging_snap_save_total_duration_seconds",
        "The total latency distributions of save called by snapshot.";
    debugging_store_expires_total: Counter = Counter::default(),
        "etcd_debugging_store_expires_total",
        "Total number of expired keys.";
    debugging_store_reads_failed_total: LabelVec<Counter> = LabelVec::new(&["action"], Counter::default),
        "etcd_debugging_store_reads_failed_total",
        "Failed read actions by (get/getRecursive), local to this member.";
    debugging_store_reads_total: LabelVec<Counter> = LabelVec::new(&["action"], Counter::default),
        "etcd_debugging_store_reads_total",
        "Total number of reads action by (get/getRecursive), local to this member.";
    debugging_store_watch_requests_total: Counter = Counter::default(),
        "etcd_debugging_store_watch_requests_total",
        "Total number of incoming watch requests (new or reestablished).";
    debugging_store_watchers: Gauge = Gauge::default(),
        "etcd_debugging_store_watchers",
        "Count of currently active watchers.";
    debugging_store_writes_failed_total: LabelVec<Counter> = LabelVec::new(&["action"], Counter::default),
        "etcd_debugging_store_writes_failed_total",
        "Failed write actions (e.g. set/compareAndDelete), seen by this member.";
    debugging_store_writes_total: LabelVec<Counter> = LabelVec::new(&["action"], Counter::default),
        "etcd_debugging_store_writes_total",
        "Total number of writes (e.g. set/compareAndDelete) seen by this member.";
    disk_backend_commit_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.";
    disk_backend_defrag_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.1, 13)),
        "etcd_disk_backend_defrag_duration_seconds",
        "The latency distribution of backend defragmentation.";
    disk_backend_snapshot_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.01, 17)),
        "etcd_disk_backend_snapshot_duration_seconds",
        "The latency distribution of backend snapshots.";
    disk_defrag_inflight: Gauge = Gauge::default(),
        "etcd_disk_defrag_inflight",
        "Whether or not defrag is active on the member. 1 means active, 0 means not.";
    disk_wal_fsync_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.";
    disk_wal_write_bytes_total: Gauge = Gauge::default(),
        "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.";
    disk_wal_write_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.";
    grpc_proxy_cache_hits_total: Gauge = Gauge::default(),
        "etcd_grpc_proxy_cache_hits_total",
        "Total number of cache hits";
    grpc_proxy_cache_keys_total: Gauge = Gauge::default(),
        "etcd_grpc_proxy_cache_keys_total",
        "Total number of keys/ranges cached";
    grpc_proxy_cache_misses_total: Gauge = Gauge::default(),
        "etcd_grpc_proxy_cache_misses_total",
        "Total number of cache misses";
    grpc_proxy_events_coalescing_total: Counter = Counter::default(),
        "etcd_grpc_proxy_events_coalescing_total",
        "Total number of events coalescing";
    grpc_proxy_watchers_coalescing_total: Gauge = Gauge::default(),
        "etcd_grpc_proxy_watchers_coalescing_total",
        "Total number of current watchers coalescing";
    mvcc_db_open_read_transactions: Gauge = Gauge::default(),
        "etcd_mvcc_db_open_read_transactions",
        "The number of currently open read transactions";
    mvcc_db_total_size_in_bytes: Gauge = Gauge::default(),
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database physically allocated in bytes.";
    mvcc_db_total_size_in_use_in_bytes: Gauge = Gauge::default(),
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.";
    mvcc_delete_total: Counter = Counter::default(),
        "etcd_mvcc_delete_total",
        "Total number of deletes seen by this member.";
    mvcc_hash_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.01, 15)),
        "etcd_mvcc_hash_duration_seconds",
        "The latency distribution of storage hash operation.";
    mvcc_hash_rev_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.01, 15)),
        "etcd_mvcc_hash_rev_duration_seconds",
        "The latency distribution of storage hash by revision operation.";
    mvcc_put_total: Counter = Counter::default(),
        "etcd_mvcc_put_total",
        "Total number of puts seen by this member.";
    mvcc_range_total: Counter = Counter::default(),
        "etcd_mvcc_range_total",
        "Total number of ranges seen by this member.";
    mvcc_txn_total: Counter = Counter::default(),
        "etcd_mvcc_txn_total",
        "Total number of txns seen by this member.";
    network_active_peers: LabelVec<Gauge> = LabelVec::new(&["Local", "Remote"], Gauge::default),
        "etcd_network_active_peers",
        "The current number of active peer connections.";
    network_client_grpc_received_bytes_total: Counter = Counter::default(),
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.";
    network_client_grpc_sent_bytes_total: Counter = Counter::default(),
        "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.";
    network_disconnected_peers_total: LabelVec<Counter> = LabelVec::new(&["Local", "Remote"], Counter::default),
        "etcd_network_disconnected_peers_total",
        "The total number of disconnected peers.";
    network_known_peers: LabelVec<Gauge> = LabelVec::new(&["Local", "Remote"], Gauge::default),
        "etcd_network_known_peers",
        "The current number of known peers.";
    network_peer_received_bytes_total: LabelVec<Counter> = LabelVec::new(&["From"], Counter::default),
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers.";
    network_peer_received_failures_total: LabelVec<Counter> = LabelVec::new(&["From"], Counter::default),
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers.";
    network_peer_round_trip_time_seconds: LabelVec<Histogram> = LabelVec::new(&["To"], || Histogram::new(Buckets::Seconds(0.0001, 16))),
        "etcd_network_peer_round_trip_time_seconds",
        "Round-Trip-Time histogram between peers";
    network_peer_sent_bytes_total: LabelVec<Counter> = LabelVec::new(&["To"], Counter::default),
        "etcd_network_peer_sent_bytes_total",
        "The total number of bytes sent to peers.";
    network_peer_sent_failures_total: LabelVec<Counter> = LabelVec::new(&["To"], Counter::default),
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures from peers.";
    network_server_stream_failures_total: LabelVec<Counter> = LabelVec::new(&["Type", "API"], Counter::default),
        "etcd_network_server_stream_failures_total",
        "The total number of stream failures from the local server.";
    network_snapshot_receive_failures: LabelVec<Counter> = LabelVec::new(&["From"], Counter::default),
        "etcd_network_snapshot_receive_failures",
        "Total number of snapshot receive failures";
    network_snapshot_receive_inflights_total: LabelVec<Gauge> = LabelVec::new(&["From"], Gauge::default),
        "etcd_network_snapshot_receive_inflights_total",
        "Total number of inflight snapshot receives";
    network_snapshot_receive_success: LabelVec<Counter> = LabelVec::new(&["From"], Counter::default),
        "etcd_network_snapshot_receive_success",
        "Total number of successful snapshot receives";
    network_snapshot_receive_total_duration_seconds: LabelVec<Histogram> = LabelVec::new(&["From"], || Histogram::new(Buckets::Seconds(0.1, 10))),
        "etcd_network_snapshot_receive_total_duration_seconds",
        "Total latency distributions of v3 snapshot receives";
    network_snapshot_send_failures: LabelVec<Counter> = LabelVec::new(&["To"], Counter::default),
        "etcd_network_snapshot_send_failures",
        "Total number of snapshot send failures";
    network_snapshot_send_inflights_total: LabelVec<Gauge> = LabelVec::new(&["To"], Gauge::default),
        "etcd_network_snapshot_send_inflights_total",
        "Total number of inflight snapshot sends";
    network_snapshot_send_success: LabelVec<Counter> = LabelVec::new(&["To"], Counter::default),
        "etcd_network_snapshot_send_success",
        "Total number of successful snapshot sends";
    network_snapshot_send_total_duration_seconds: LabelVec<Histogram> = LabelVec::new(&["To"], || Histogram::new(Buckets::Seconds(0.1, 10))),
        "etcd_network_snapshot_send_total_duration_seconds",
        "Total latency distributions of v3 snapshot sends";
    server_apply_duration_seconds: LabelVec<Histogram> = LabelVec::new(&["version", "op", "success"], || Histogram::new(Buckets::Seconds(0.0001, 20))),
        "etcd_server_apply_duration_seconds",
        "The latency distributions of v2 apply called by backend.";
    server_client_requests_total: LabelVec<Counter> = LabelVec::new(&["type", "client_api_version"], Counter::default),
        "etcd_server_client_requests_total",
        "The total number of client requests per client version.";
    server_feature_enabled: LabelVec<Gauge> = LabelVec::new(&["name", "stage"], Gauge::default),
        "etcd_server_feature_enabled",
        "Whether or not a feature is enabled. 1 is enabled, 0 is not.";
    server_go_version: LabelVec<Gauge> = LabelVec::new(&["server_go_version"], Gauge::default),
        "etcd_server_go_version",
        "Which Go version server is running with. 1 for 'server_go_version' label with current version.";
    server_has_leader: Gauge = Gauge::default(),
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.";
    server_health_failures: Counter = Counter::default(),
        "etcd_server_health_failures",
        "The total number of failed health checks";
    server_health_success: Counter = Counter::default(),
        "etcd_server_health_success",
        "The total number of successful health checks";
    server_healthcheck: LabelVec<Gauge> = LabelVec::new(&["type", "name"], Gauge::default),
        "etcd_server_healthcheck",
        "The result of each kind of healthcheck.";
    server_healthchecks_total: LabelVec<Counter> = LabelVec::new(&["type", "name", "status"], Counter::default),
        "etcd_server_healthchecks_total",
        "The total number of each kind of healthcheck.";
    server_heartbeat_send_failures_total: Counter = Counter::default(),
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).";
    server_id: LabelVec<Gauge> = LabelVec::new(&["server_id"], Gauge::default),
        "etcd_server_id",
        "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.";
    server_is_leader: Gauge = Gauge::default(),
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.";
    server_is_learner: Gauge = Gauge::default(),
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.";
    server_leader_changes_seen_total: Counter = Counter::default(),
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.";
    server_learner_promote_failures: LabelVec<Counter> = LabelVec::new(&["Reason"], Counter::default),
        "etcd_server_learner_promote_failures",
        "The total number of failed learner promotions (likely learner not ready) while this member is leader.";
    server_learner_promote_successes: Counter = Counter::default(),
        "etcd_server_learner_promote_successes",
        "The total number of successful learner promotions while this member is leader.";
    server_proposals_applied_total: Gauge = Gauge::default(),
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.";
    server_proposals_committed_total: Gauge = Gauge::default(),
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.";
    server_proposals_failed_total: Counter = Counter::default(),
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.";
    server_proposals_pending: Gauge = Gauge::default(),
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.";
    server_quota_backend_bytes: Gauge = Gauge::default(),
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.";
    server_range_duration_seconds: LabelVec<Histogram> = LabelVec::new(&["success"], || Histogram::new(Buckets::Seconds(0.0001, 20))),
        "etcd_server_range_duration_seconds",
        "The latency distributions of txn->Range";
    server_read_indexes_failed_total: Counter = Counter::default(),
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.";
    server_request_duration_seconds: LabelVec<Histogram> = LabelVec::new(&["type", "success"], || Histogram::new(Buckets::Seconds(0.001, 14))),
        "etcd_server_request_duration_seconds",
        "Response latency distribution in seconds for each type.";
    server_slow_apply_total: Counter = Counter::default(),
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).";
    server_slow_read_indexes_total: Counter = Counter::default(),
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index requests.";
    server_snapshot_apply_in_progress_total: Gauge = Gauge::default(),
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.";
    server_version: LabelVec<Gauge> = LabelVec::new(&["server_version"], Gauge::default),
        "etcd_server_version",
        "Which version is running. 1 for 'server_version' label with current version.";
    snap_db_fsync_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_snap_db_fsync_duration_seconds",
        "The latency distributions of fsyncing .snap.db file";
    snap_db_save_total_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.1, 10)),
        "etcd_snap_db_save_total_duration_seconds",
        "The total latency distributions of v3 snapshot save";
    snap_fsync_duration_seconds: Histogram = Histogram::new(Buckets::Seconds(0.001, 14)),
        "etcd_snap_fsync_duration_seconds",
        "The latency distributions of fsync called by snap.";
    os_fd_limit: Gauge = Gauge::default(),
        "os_fd_limit",
        "The file descriptor limit.";
    os_fd_used: Gauge = Gauge::default(),
        "os_fd_used",
        "The number of used file descriptors.";
}
