//! From the configuration to what the server and its node take.

use std::time::Duration;

use super::sections::{Config, InitialClusterState};
use super::url::Url;
use crate::dns::Resolver;
use crate::node::config::{Discovery, NodeConfig, SrvDiscovery};
use crate::server::ServerConfig;
use crate::transport::ListenAddress;

/// Descriptors kept for the member itself: log, store, peers (contract 4.1).
pub(crate) const RESERVED_DESCRIPTORS: u64 = 150;

impl Config {
    /// The node's settings.
    ///
    /// # Errors
    /// With etcd's text if automatic compaction is malformed; [`Config::validate`] has said so.
    pub fn to_node_config(&self) -> Result<NodeConfig, String> {
        let Config {
            member,
            clustering,
            features,
            ..
        } = self;
        let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect();
        Ok(NodeConfig {
            name: member.name.clone(),
            data_dir: member.data_dir.clone(),
            wal_dir: member.wal_dir.clone(),
            advertise_peer_urls: texts(&clustering.initial_advertise_peer_urls),
            advertise_client_urls: texts(&clustering.advertise_client_urls),
            initial_cluster: clustering.initial_cluster.texts(),
            initial_cluster_token: clustering.initial_cluster_token.clone(),
            discovery: (!clustering.discovery_endpoints.is_empty()).then(|| Discovery {
                token: clustering.discovery_token.clone(),
                endpoints: clustering.discovery_endpoints.clone(),
                dial_timeout: clustering.discovery_dial_timeout,
                request_timeout: clustering.discovery_request_timeout,
            }),
            discovery_srv: (!clustering.discovery_srv.is_empty()).then(|| SrvDiscovery {
                domain: clustering.discovery_srv.clone(),
                service_name: clustering.discovery_srv_name.clone(),
                resolver: Resolver::system(),
            }),
            join: clustering.initial_cluster_state == InitialClusterState::Existing,
            force_new_cluster: self.unsafe_.force_new_cluster,
            strict_reconfig_check: clustering.strict_reconfig_check,
            learners_max: usize::try_from(features.max_learners).unwrap_or(0),
            heartbeat_interval: member.heartbeat_interval,
            election_timeout: member.election_timeout,
            pre_vote: clustering.pre_vote,
            snapshot_count: member.snapshot_count,
            snapshot_catchup_entries: features.snapshot_catchup_entries,
            max_request_bytes: member.max_request_bytes,
            max_txn_ops: member.max_txn_ops,
            quota_backend_bytes: member.quota_backend_bytes,
            watch_progress_notify_interval: features.watch_progress_notify_interval,
            auto_compaction: self.auto_compaction()?,
            compaction_batch_limit: features.compaction_batch_limit,
            compaction_sleep_interval: features.compaction_sleep_interval,
            initial_corrupt_check: self.gates.is_on("InitialCorruptCheck"),
            corrupt_check_interval: Some(features.corrupt_check_time)
                .filter(|interval| !interval.is_zero()),
            compact_hash_check_interval: Some(features.compact_hash_check_time)
                .filter(|_| self.gates.is_on("CompactHashCheck")),
            downgrade_check_interval: Some(features.downgrade_check_time)
                .filter(|interval| !interval.is_zero()),
            warning_apply_duration: features.warning_apply_duration,
            unsafe_no_fsync: self.unsafe_.no_fsync,
        })
    }

    /// The server's settings, for a process that may have this many descriptors.
    ///
    /// # Errors
    /// As [`Config::to_node_config`].
    pub fn to_server_config(&self, descriptors_max: u64) -> Result<ServerConfig, String> {
        let member = &self.member;
        let on = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let connections = descriptors_max.saturating_sub(RESERVED_DESCRIPTORS);
        // More than any process has, and what a semaphore can count.
        let connections_max = usize::try_from(connections.min(1 << 24)).unwrap_or(1 << 24);
        Ok(ServerConfig {
            node: self.to_node_config()?,
            listen_peers: addresses(&member.listen_peer_urls),
            listen_clients: addresses(&member.listen_client_urls),
            listen_client_http: addresses(&member.listen_client_http_urls),
            listen_metrics: addresses(&self.monitoring.listen_metrics_urls),
            max_concurrent_streams: member.max_concurrent_streams,
            keepalive_interval: on(member.grpc_keepalive_interval)
                .filter(|_| !member.grpc_keepalive_timeout.is_zero()),
            keepalive_timeout: on(member.grpc_keepalive_timeout).unwrap_or(Duration::from_secs(20)),
            connections_max,
            cors: self.security.cors.clone(),
            host_whitelist: self.security.host_whitelist.clone(),
        })
    }
}

fn addresses(urls: &[Url]) -> Vec<ListenAddress> {
    let address = |url: &Url| match (url.socket_path(), url.host_port()) {
        (Some(path), _) => Some(ListenAddress::Unix(path)),
        (None, address) => address.map(ListenAddress::Tcp),
    };
    urls.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Source};
    use super::*;

    #[test]
    fn defaults_and_addresses() {
        let mut settings = Settings::default();
        let urls = "unix://a/b.sock,http://[::]:1,http://[::1]:2";
        settings
            .set("listen-client-urls", urls, Source::Flag)
            .unwrap();
        settings
            .set("grpc-keepalive-interval", "0", Source::Flag)
            .unwrap();
        let config = Config::from_settings(&settings)
            .unwrap()
            .to_server_config(1000)
            .unwrap();
        assert_eq!(config.connections_max, 850);
        assert_eq!(config.keepalive_interval, None);
        let addresses: Vec<String> = config
            .listen_clients
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["[::1]:2", "[::]:1", "a/b.sock"]);
        assert_eq!(config.node.initial_cluster.len(), 1);
        assert_eq!(config.node.quota_backend_bytes, 2 << 30);
    }
}
