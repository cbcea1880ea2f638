//! All metrics of a process, and the page.

use std::sync::Arc;
use std::sync::OnceLock;

use super::grpc::GrpcMetrics;
use super::names::Families;
use super::process;
use crate::config::{Config, MetricsDetail};

type Fill = Box<dyn Fn(&Families) + Send + Sync>;

/// See the module.
pub struct Metrics {
    /// Every family but those of gRPC calls and the process.
    pub families: Families,
    /// gRPC calls.
    pub grpc: Arc<GrpcMetrics>,
    fill: OnceLock<Fill>,
}

impl Metrics {
    /// All zero, but for what the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let families = Families::new();
        families
            .server_version
            .with(&[keelson_proto::SERVER_VERSION])
            .set(1);
        // The compiler's version stands where Go's does.
        families
            .server_go_version
            .with(&[crate::process::COMPILER])
            .set(1);
        for (name, stage, on) in config.gates.all() {
            families
                .server_feature_enabled
                .with(&[name, stage.as_str()])
                .set(i64::from(on));
        }
        families
            .server_quota_backend_bytes
            .set_unsigned(config.member.quota_backend_bytes);
        families.debugging_mvcc_compact_revision.set(-1);
        let timed = config.monitoring.metrics == MetricsDetail::Extensive;
        Self {
            families,
            grpc: Arc::new(GrpcMetrics::new(timed)),
            fill: OnceLock::new(),
        }
    }

    /// Sets what fills in the numbers that are kept elsewhere, just before each page. The first
    /// one stays.
    pub fn on_render(&self, fill: impl Fn(&Families) + Send + Sync + 'static) {
        let _ = self.fill.set(Box::new(fill));
    }

    /// Appends the page.
    pub fn render(&self, out: &mut String) {
        if let Some(fill) = self.fill.get() {
            fill(&self.families);
        }
        let grpc = &self.grpc;
        let families = &self.families;
        families
            .network_client_grpc_received_bytes_total
            .set(grpc.received_bytes.get());
        families
            .network_client_grpc_sent_bytes_total
            .set(grpc.sent_bytes.get());
        let process = process::read();
        families.os_fd_limit.set_unsigned(process.descriptors_max);
        families.os_fd_used.set_unsigned(process.descriptors);
        families.render(out);
        grpc.render(out);
        process.render(out);
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        // Larger than the page is, so that it is not copied while it grows.
        let mut out = String::with_capacity(256 * 1024);
        self.render(&mut out);
        out
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Writes a family of one number that is read when the page is rendered.
pub(super) fn plain(out: &mut String, name: &str, help: &str, kind: Kind, value: f64) {
    match kind {
        Kind::Counter => super::exposition::head(out, name, help, "counter"),
        Kind::Gauge => super::exposition::head(out, name, help, "gauge"),
    }
    super::exposition::sample(out, name, "", value);
}

/// The type of a [`plain`] family.
pub(super) enum Kind {
    /// It rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::names::NAMES;
    use super::*;
    use crate::config::Settings;

    /// Contract 6.4, tier 1, with types.
    const TIER_1: &str = "
        etcd_server_has_leader gauge
        etcd_server_is_leader gauge
        etcd_server_leader_changes_seen_total counter
        etcd_server_proposals_committed_total gauge
        etcd_server_proposals_applied_total gauge
        etcd_server_proposals_failed_total counter
        etcd_server_proposals_pending gauge
        etcd_server_quota_backend_bytes gauge
        etcd_mvcc_db_total_size_in_bytes gauge
        etcd_mvcc_db_total_size_in_use_in_bytes gauge
        etcd_disk_wal_fsync_duration_seconds histogram
        etcd_disk_backend_commit_duration_seconds histogram
        etcd_network_client_grpc_sent_bytes_total counter
        etcd_network_client_grpc_received_bytes_total counter
        grpc_server_started_total counter
        grpc_server_handled_total counter
        grpc_server_handling_seconds histogram
        process_resident_memory_bytes gauge
        process_cpu_seconds_total counter
        process_open_fds gauge
        process_max_fds gauge
        process_start_time_seconds gauge";

    fn metrics() -> Metrics {
        let mut settings = Settings::default();
        settings
            .set("metrics", "extensive", crate::config::Source::Flag)
            .unwrap();
        Metrics::new(&Config::from_settings(&settings).unwrap())
    }

    fn types(page: &str) -> BTreeMap<&str, &str> {
        let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        lines.filter_map(|line| line.split_once(' ')).collect()
    }

    #[test]
    fn tier_1_is_there_from_the_start() {
        let page = metrics().page();
        let types = types(&page);
        for line in TIER_1
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(types.get(name), Some(&kind), "{name}");
        }
        for line in [
            "etcd_server_version{server_version=\"3.7.1\"} 1",
            "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1",
            "etcd_server_quota_backend_bytes 2147483648",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}");
        }
        assert!(!page.contains("process_resident_memory_bytes 0\n"));
    }

    #[test]
    fn families_with_labels_appear_with_their_first_value() {
        let metrics = metrics();
        let name = "etcd_network_peer_round_trip_time_seconds";
        assert!(NAMES.contains(&name) && !metrics.page().contains(name));
        let round_trips = metrics
            .families
            .network_peer_round_trip_time_seconds
            .with(&["abc"]);
        round_trips.observe(Duration::from_micros(150));
        let page = metrics.page();
        for line in [
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"abc\",le=\"0.0001\"} 0",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"abc\",le=\"0.0002\"} 1",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"abc\",le=\"3.2768\"} 1",
            "etcd_network_peer_round_trip_time_seconds_sum{To=\"abc\"} 0.00015",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn live_numbers_are_read_for_each_page() {
        let metrics = metrics();
        metrics.on_render(|families| families.mvcc_put_total.increment());
        assert!(metrics.page().contains("\netcd_mvcc_put_total 1\n"));
        assert!(metrics.page().contains("\netcd_mvcc_put_total 2\n"));
    }
}
