//! The line that tells with which settings a member starts (contract 6.5).

use crate::config::{Config, GoDuration, InitialClusterState};
use crate::logging::{go, list};
use crate::node::config::AutoCompaction;

/// Logs `starting an etcd server`.
pub(super) fn starting(config: &Config, initialized: bool) {
    let Config {
        member,
        clustering,
        security,
        monitoring,
        features,
        ..
    } = config;
    let wal_dir = member
        .wal_dir
        .as_ref()
        .map_or_else(String::new, |dir| dir.display().to_string());
    let (mode, retention) = match config.auto_compaction() {
        Ok(AutoCompaction::Periodic(window)) => ("periodic", GoDuration(window).to_string()),
        Ok(AutoCompaction::Revision(kept)) => ("revision", kept.to_string()),
        Ok(AutoCompaction::Off) | Err(_) => {
            (clustering.auto_compaction_mode.as_str(), "0s".to_owned())
        }
    };
    tracing::info!(
        "etcd-version" = keelson_proto::SERVER_VERSION,
        "keelson-version" = env!("CARGO_PKG_VERSION"),
        "rust-version" = super::COMPILER,
        "os" = std::env::consts::OS,
        "arch" = std::env::consts::ARCH,
        "max-cpu-available" = std::thread::available_parallelism().map_or(1, usize::from),
        "member-initialized" = initialized,
        name = %member.name,
        "data-dir" = %member.data_dir.display(),
        "wal-dir" = %wal_dir,
        "member-dir" = %config.member_dir().display(),
        "force-new-cluster" = config.unsafe_.force_new_cluster,
        "unsafe-no-fsync" = config.unsafe_.no_fsync,
        "heartbeat-interval" = %go(member.heartbeat_interval),
        "election-timeout" = %go(member.election_timeout),
        "snapshot-count" = member.snapshot_count,
        "snapshot-catchup-entries" = features.snapshot_catchup_entries,
        "json:initial-advertise-peer-urls" = %list(&clustering.initial_advertise_peer_urls),
        "json:listen-peer-urls" = %list(&member.listen_peer_urls),
        "json:advertise-client-urls" = %list(&clustering.advertise_client_urls),
        "json:listen-client-urls" = %list(&member.listen_client_urls),
        "json:listen-metrics-urls" = %list(&monitoring.listen_metrics_urls),
        "json:cors" = %list(&security.cors),
        "json:host-whitelist" = %list(&security.host_whitelist),
        "initial-cluster" = %clustering.initial_cluster,
        "initial-cluster-state" = match clustering.initial_cluster_state {
            InitialClusterState::New => "new",
            InitialClusterState::Existing => "existing",
        },
        "initial-cluster-token" = %clustering.initial_cluster_token,
        "quota-backend-bytes" = member.quota_backend_bytes,
        "max-request-bytes" = member.max_request_bytes,
        "max-concurrent-streams" = member.max_concurrent_streams,
        "pre-vote" = clustering.pre_vote,
        "feature-gates" = %config.gates,
        "auto-compaction-mode" = mode,
        "auto-compaction-retention" = %retention,
        "v2-deprecation" = "write-only",
        "starting an etcd server"
    );
}
