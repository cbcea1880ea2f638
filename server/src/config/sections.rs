//! The resolved configuration: one struct per section, typed values.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::gates::Gates;
use super::initial_cluster::InitialCluster;
use super::settings::{Settings, Source};
use super::url::Url;
use crate::node::config::AutoCompaction;

/// etcd's quota if none is given: 2 GiB (contract 5.2).
const QUOTA_BACKEND_BYTES_DEFAULT: u64 = 2 << 30;

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member itself.
    pub member: Member,
    /// Bootstrap, discovery, elections, compaction.
    pub clustering: Clustering,
    /// TLS and HTTP access.
    pub security: Security,
    /// Tokens and passwords.
    pub auth: Auth,
    /// Profiling and monitoring.
    pub monitoring: Monitoring,
    /// Logs.
    pub logging: Logging,
    /// Distributed tracing.
    pub tracing: Tracing,
    /// Checks and compaction details.
    pub features: Features,
    /// What breaks guarantees.
    pub unsafe_: Unsafe,
    /// Feature gates.
    pub gates: Gates,
    /// What was given, and where.
    pub settings: Settings,
}

/// See [`Config::member`].
#[derive(Clone, Debug)]
pub struct Member {
    /// This member's name. Default: `default`.
    pub name: String,
    /// Where everything is kept. Default: `<name>.etcd`.
    pub data_dir: PathBuf,
    /// Where the log is kept, if elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// Commands between checkpoints; 0 is as good as the default. Default: 10000.
    pub snapshot_count: u64,
    /// Default: 100 ms.
    pub heartbeat_interval: Duration,
    /// Default: 1 s.
    pub election_timeout: Duration,
    /// Default: true.
    pub initial_election_tick_advance: bool,
    /// Default: `http://localhost:2380`.
    pub listen_peer_urls: Vec<Url>,
    /// Default: `http://localhost:2379`.
    pub listen_client_urls: Vec<Url>,
    /// If not empty, these take over all HTTP of the client URLs.
    pub listen_client_http_urls: Vec<Url>,
    /// Bytes; 0 turns the quota off, which a negative flag does. Default: 2 GiB.
    pub quota_backend_bytes: u64,
    /// Operations in a transaction. Default: 128.
    pub max_txn_ops: usize,
    /// Default: 1.5 MiB.
    pub max_request_bytes: usize,
    /// Default: no limit but 2^32-1.
    pub max_concurrent_streams: u32,
    /// Pings more frequent than this are an offence. Default: 5 s; 0 is off.
    pub grpc_keepalive_min_time: Duration,
    /// Default: 2 h; 0 is off.
    pub grpc_keepalive_interval: Duration,
    /// Default: 20 s; 0 is off.
    pub grpc_keepalive_timeout: Duration,
    /// Default: false.
    pub socket_reuse_port: bool,
    /// Default: false.
    pub socket_reuse_address: bool,
    /// The JSON gateway. Default: true.
    pub enable_grpc_gateway: bool,
    /// Minimum and default: 5 s.
    pub raft_read_timeout: Duration,
    /// Minimum and default: 5 s.
    pub raft_write_timeout: Duration,
}

/// Whether the cluster is new to this member or runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialClusterState {
    /// Bootstraps.
    New,
    /// Joins.
    Existing,
}

/// See [`Config::clustering`].
#[derive(Clone, Debug)]
pub struct Clustering {
    /// Where peers reach this member. Default: `http://localhost:2380`.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Default: `<name>=http://localhost:2380`.
    pub initial_cluster: InitialCluster,
    /// Default: new.
    pub initial_cluster_state: InitialClusterState,
    /// Default: `etcd-cluster`.
    pub initial_cluster_token: String,
    /// Where clients reach this member. Default: `http://localhost:2379`.
    pub advertise_client_urls: Vec<Url>,
    /// Token of v3 discovery.
    pub discovery_token: String,
    /// The discovery service's endpoints.
    pub discovery_endpoints: Vec<String>,
    /// How long a connection to it may take to come up. Default: 2 s.
    pub discovery_dial_timeout: Duration,
    /// How long a request to it may take. Default: 5 s.
    pub discovery_request_timeout: Duration,
    /// The SRV domain.
    pub discovery_srv: String,
    /// Appended to the names of its services.
    pub discovery_srv_name: String,
    /// Default: `exit`.
    pub discovery_fallback: String,
    /// Default: true.
    pub strict_reconfig_check: bool,
    /// Default: true.
    pub pre_vote: bool,
    /// As it was given: `periodic` or `revision`.
    pub auto_compaction_mode: String,
    /// As it was given: hours without a unit, or revisions.
    pub auto_compaction_retention: String,
}

/// Files and rules of one side's TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// The certificate for dialling, if another.
    pub client_cert_file: String,
    /// Its key.
    pub client_key_file: String,
    /// Whether clients need a certificate.
    pub client_cert_auth: bool,
    /// Roots of clients' certificates.
    pub trusted_ca_file: String,
    /// Revoked certificates.
    pub crl_file: String,
    /// Whether a certificate is made if none is given.
    pub auto_tls: bool,
    /// Common names that are let in.
    pub allowed_cns: Vec<String>,
    /// Host names that are let in.
    pub allowed_hostnames: Vec<String>,
}

/// See [`Config::security`].
#[derive(Clone, Debug)]
pub struct Security {
    /// Towards clients.
    pub client: Tls,
    /// Towards peers.
    pub peer: Tls,
    /// Whether peers' SANs are not looked at.
    pub peer_skip_client_san_verification: bool,
    /// Years. Default: 1.
    pub self_signed_cert_validity: u64,
    /// Go's names of suites.
    pub cipher_suites: Vec<String>,
    /// Allowed origins. Default: `*`.
    pub cors: Vec<String>,
    /// Hosts that plaintext requests may name. Default: `*`.
    pub host_whitelist: Vec<String>,
    /// Default: `TLS1.2`.
    pub tls_min_version: String,
    /// Empty: the newest.
    pub tls_max_version: String,
}

/// See [`Config::auth`].
#[derive(Clone, Debug)]
pub struct Auth {
    /// `simple`, or `jwt` with options. Default: `simple`.
    pub token: String,
    /// Default: 10.
    pub bcrypt_cost: i64,
    /// Default: 300 s.
    pub token_ttl: Duration,
}

/// How much the metrics page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsDetail {
    /// No histograms of gRPC calls.
    Basic,
    /// With them.
    Extensive,
}

/// See [`Config::monitoring`].
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// Default: false.
    pub enable_pprof: bool,
    /// Default: basic; so is every other word, as in etcd.
    pub metrics: MetricsDetail,
    /// Where metrics and health are served from the start.
    pub listen_metrics_urls: Vec<Url>,
}

/// What is logged at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// Default.
    Info,
    /// What may need a look.
    Warn,
    /// What needs one.
    Error,
    /// The last words of a thread.
    Panic,
    /// The last words of the process.
    Fatal,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One object.
    Json,
    /// Columns.
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file; lines are added.
    File(PathBuf),
}

/// See [`Config::logging`].
#[derive(Clone, Debug)]
pub struct Logging {
    /// Default: info.
    pub level: LogLevel,
    /// Default: JSON.
    pub format: LogFormat,
    /// Default: standard error.
    pub outputs: Vec<LogOutput>,
    /// A unary request that takes longer is logged. Default: 300 ms.
    pub warning_unary_request_duration: Duration,
}

/// See [`Config::tracing`].
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Default: false.
    pub enabled: bool,
    /// Per million.
    pub sampling_rate: i64,
}

/// See [`Config::features`].
#[derive(Clone, Debug)]
pub struct Features {
    /// 0 is off. Default: 0.
    pub corrupt_check_time: Duration,
    /// Default: 1 min.
    pub compact_hash_check_time: Duration,
    /// Revisions in one step of a compaction; 1000 if not positive. Default: 1000.
    pub compaction_batch_limit: usize,
    /// Pause between the steps. Default: 10 ms.
    pub compaction_sleep_interval: Duration,
    /// Default: 10 min.
    pub watch_progress_notify_interval: Duration,
    /// Applying a request for longer is logged. Default: 100 ms.
    pub warning_apply_duration: Duration,
    /// Default: 1.
    pub max_learners: i64,
    /// Default: 5 s.
    pub downgrade_check_time: Duration,
    /// Commands kept in the log behind a checkpoint. Default: 5000.
    pub snapshot_catchup_entries: u64,
}

/// See [`Config::unsafe_`].
#[derive(Clone, Debug)]
pub struct Unsafe {
    /// This member becomes the only one.
    pub force_new_cluster: bool,
    /// Turns fsync off: data is lost with the power.
    pub no_fsync: bool,
}

impl Config {
    /// Resolves what was given.
    ///
    /// # Errors
    /// All values that cannot be what their setting means: logging, initial cluster.
    pub fn from_settings(settings: &Settings) -> Result<Self, Vec<String>> {
        let mut problems = settings.conflicts();
        let logging = logging(settings, &mut problems);
        let member = member(settings);
        let clustering = clustering(settings, &member.name, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let batch_limit = settings.int("compaction-batch-limit");
        Ok(Self {
            member,
            clustering,
            security: security(settings),
            auth: Auth {
                token: settings.text("auth-token"),
                bcrypt_cost: settings.int("bcrypt-cost"),
                token_ttl: Duration::from_secs(settings.uint("auth-token-ttl")),
            },
            monitoring: Monitoring {
                enable_pprof: settings.bool("enable-pprof"),
                metrics: match settings.text("metrics").as_str() {
                    "extensive" => MetricsDetail::Extensive,
                    _ => MetricsDetail::Basic,
                },
                listen_metrics_urls: settings.urls("listen-metrics-urls"),
            },
            logging,
            tracing: Tracing {
                enabled: settings.bool("enable-distributed-tracing"),
                sampling_rate: settings.int("distributed-tracing-sampling-rate"),
            },
            features: Features {
                corrupt_check_time: settings.duration("corrupt-check-time"),
                compact_hash_check_time: settings.duration("compact-hash-check-time"),
                compaction_batch_limit: match usize::try_from(batch_limit) {
                    Ok(limit) if limit > 0 => limit,
                    _ => 1000,
                },
                compaction_sleep_interval: settings.duration("compaction-sleep-interval"),
                watch_progress_notify_interval: settings.duration("watch-progress-notify-interval"),
                warning_apply_duration: settings.duration("warning-apply-duration"),
                max_learners: settings.int("max-learners"),
                downgrade_check_time: settings.duration("downgrade-check-time"),
                snapshot_catchup_entries: settings.uint("snapshot-catchup-entries"),
            },
            unsafe_: Unsafe {
                force_new_cluster: settings.bool("force-new-cluster"),
                no_fsync: settings.bool("unsafe-no-fsync"),
            },
            gates: settings.gates(),
            settings: settings.clone(),
        })
    }

    /// The directory below which the member keeps its state.
    #[must_use]
    pub fn member_dir(&self) -> PathBuf {
        self.member.data_dir.join("member")
    }

    /// What is compacted by itself.
    ///
    /// # Errors
    /// With etcd's text for an unknown mode or a malformed retention.
    pub fn auto_compaction(&self) -> Result<AutoCompaction, String> {
        let Clustering {
            auto_compaction_mode: mode,
            auto_compaction_retention: text,
            ..
        } = &self.clustering;
        if !matches!(mode.as_str(), "periodic" | "revision" | "") {
            return Err(format!("unknown auto-compaction-mode {mode:?}"));
        }
        let by_revision = mode == "revision";
        let failed = |error: &str| format!("error parsing CompactionRetention: {error}");
        let retention_ns = match text.parse::<u32>() {
            Ok(revisions) if by_revision => i64::from(revisions),
            Ok(hours) => i64::from(hours)
                .checked_mul(3_600_000_000_000)
                .ok_or_else(|| failed("value out of range"))?,
            // etcd takes a duration's nanoseconds for revisions, too.
            Err(_) => match text.parse::<i64>() {
                Ok(revisions) if by_revision && revisions >= 0 => revisions,
                _ => {
                    let duration = duration::parse(text).map_err(|error| failed(&error))?;
                    i64::try_from(duration.as_nanos()).map_err(|_| failed("value out of range"))?
                }
            },
        };
        Ok(match retention_ns {
            0 => AutoCompaction::Off,
            revisions if by_revision => AutoCompaction::Revision(revisions),
            ns => AutoCompaction::Periodic(Duration::from_nanos(ns.unsigned_abs())),
        })
    }

    /// Advertises this host where the member listens on every interface and nothing was given
    /// (contract 4.1).
    pub fn advertise_default_host(&mut self, host: IpAddr) {
        let given = |name: &str| self.settings.source(name).is_some();
        let (client, peer) = (
            !given("advertise-client-urls"),
            !given("initial-advertise-peer-urls"),
        );
        let at_host = |urls: &[Url], advertised: &mut Vec<Url>| {
            let everywhere: Vec<Url> = urls
                .iter()
                .filter(|url| url.is_unspecified())
                .map(|url| url.with_host(host))
                .collect();
            if !everywhere.is_empty() {
                *advertised = everywhere;
            }
        };
        if client {
            let urls = &self.member.listen_client_urls;
            at_host(urls, &mut self.clustering.advertise_client_urls);
        }
        if peer && self.member.listen_peer_urls.iter().any(Url::is_unspecified) {
            let urls = &self.member.listen_peer_urls;
            at_host(urls, &mut self.clustering.initial_advertise_peer_urls);
            if !given("initial-cluster") {
                let urls = &self.clustering.initial_advertise_peer_urls;
                let name = &self.member.name;
                let text: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
                if let Ok(cluster) = InitialCluster::parse(&text.join(",")) {
                    self.clustering.initial_cluster = cluster;
                }
            }
        }
    }

    /// Whether a setting was given on the command line or in the environment.
    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(
            self.settings.source(name),
            Some(Source::Flag | Source::Environment)
        )
    }
}

fn member(settings: &Settings) -> Member {
    let name = settings.text("name");
    let data_dir = match settings.text("data-dir") {
        given if given.is_empty() => PathBuf::from(format!("{name}.etcd")),
        given => PathBuf::from(given),
    };
    let wal_dir = settings.text("wal-dir");
    let quota = settings.int("quota-backend-bytes");
    let size = |name| usize::try_from(settings.uint(name)).unwrap_or(usize::MAX);
    Member {
        name,
        data_dir,
        wal_dir: (!wal_dir.is_empty()).then(|| PathBuf::from(wal_dir)),
        snapshot_count: match settings.uint("snapshot-count") {
            0 => 10_000,
            count => count,
        },
        heartbeat_interval: Duration::from_millis(settings.uint("heartbeat-interval")),
        election_timeout: Duration::from_millis(settings.uint("election-timeout")),
        initial_election_tick_advance: settings.bool("initial-election-tick-advance"),
        listen_peer_urls: settings.urls("listen-peer-urls"),
        listen_client_urls: settings.urls("listen-client-urls"),
        listen_client_http_urls: settings.urls("listen-client-http-urls"),
        quota_backend_bytes: match quota {
            0 => QUOTA_BACKEND_BYTES_DEFAULT,
            quota => u64::try_from(quota).unwrap_or(0),
        },
        max_txn_ops: size("max-txn-ops"),
        max_request_bytes: size("max-request-bytes"),
        max_concurrent_streams: u32::try_from(settings.uint("max-concurrent-streams"))
            .unwrap_or(u32::MAX),
        grpc_keepalive_min_time: settings.duration("grpc-keepalive-min-time"),
        grpc_keepalive_interval: settings.duration("grpc-keepalive-interval"),
        grpc_keepalive_timeout: settings.duration("grpc-keepalive-timeout"),
        socket_reuse_port: settings.bool("socket-reuse-port"),
        socket_reuse_address: settings.bool("socket-reuse-address"),
        enable_grpc_gateway: settings.bool("enable-grpc-gateway"),
        raft_read_timeout: settings
            .duration("raft-read-timeout")
            .max(Duration::from_secs(5)),
        raft_write_timeout: settings
            .duration("raft-write-timeout")
            .max(Duration::from_secs(5)),
    }
}

fn clustering(settings: &Settings, name: &str, problems: &mut Vec<String>) -> Clustering {
    let initial_cluster = match settings.text("initial-cluster") {
        given if given.is_empty() => format!("{name}=http://localhost:2380"),
        given => given,
    };
    let initial_cluster = InitialCluster::parse(&initial_cluster).unwrap_or_else(|error| {
        problems.push(format!("error setting up initial cluster: {error}"));
        InitialCluster::default()
    });
    Clustering {
        initial_advertise_peer_urls: settings.urls("initial-advertise-peer-urls"),
        initial_cluster,
        initial_cluster_state: match settings.text("initial-cluster-state").as_str() {
            "existing" => InitialClusterState::Existing,
            _ => InitialClusterState::New,
        },
        initial_cluster_token: settings.text("initial-cluster-token"),
        advertise_client_urls: settings.urls("advertise-client-urls"),
        discovery_token: settings.text("discovery-token"),
        discovery_endpoints: settings.words("discovery-endpoints"),
        discovery_dial_timeout: settings.duration("discovery-dial-timeout"),
        discovery_request_timeout: settings.duration("discovery-request-timeout"),
        discovery_srv: settings.text("discovery-srv"),
        discovery_srv_name: settings.text("discovery-srv-name"),
        discovery_fallback: settings.text("discovery-fallback"),
        strict_reconfig_check: settings.bool("strict-reconfig-check"),
        pre_vote: settings.bool("pre-vote"),
        auto_compaction_mode: settings.text("auto-compaction-mode"),
        auto_compaction_retention: settings.text("auto-compaction-retention"),
    }
}

fn security(settings: &Settings) -> Security {
    let client = Tls {
        cert_file: settings.text("cert-file"),
        key_file: settings.text("key-file"),
        client_cert_file: settings.text("client-cert-file"),
        client_key_file: settings.text("client-key-file"),
        client_cert_auth: settings.bool("client-cert-auth"),
        trusted_ca_file: settings.text("trusted-ca-file"),
        crl_file: settings.text("client-crl-file"),
        auto_tls: settings.bool("auto-tls"),
        allowed_cns: Vec::new(),
        allowed_hostnames: settings.words("client-cert-allowed-hostname"),
    };
    let peer = Tls {
        cert_file: settings.text("peer-cert-file"),
        key_file: settings.text("peer-key-file"),
        client_cert_file: settings.text("peer-client-cert-file"),
        client_key_file: settings.text("peer-client-key-file"),
        client_cert_auth: settings.bool("peer-client-cert-auth"),
        trusted_ca_file: settings.text("peer-trusted-ca-file"),
        crl_file: settings.text("peer-crl-file"),
        auto_tls: settings.bool("peer-auto-tls"),
        allowed_cns: settings.words("peer-cert-allowed-cn"),
        allowed_hostnames: settings.words("peer-cert-allowed-hostname"),
    };
    Security {
        client,
        peer,
        peer_skip_client_san_verification: settings.bool("peer-skip-client-san-verification"),
        self_signed_cert_validity: settings.uint("self-signed-cert-validity"),
        cipher_suites: settings.words("cipher-suites"),
        cors: settings.words("cors"),
        host_whitelist: settings.words("host-whitelist"),
        tls_min_version: settings.text("tls-min-version"),
        tls_max_version: settings.text("tls-max-version"),
    }
}

fn logging(settings: &Settings, problems: &mut Vec<String>) -> Logging {
    let logger = settings.text("logger");
    if logger != "zap" {
        problems.push(format!("unknown logger option {logger:?}"));
    }
    let level = match settings.text("log-level").to_ascii_lowercase().as_str() {
        "debug" => LogLevel::Debug,
        "info" | "" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "panic" | "dpanic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        other => {
            problems.push(format!("unrecognized level: {other:?}"));
            LogLevel::Info
        }
    };
    let format = match settings.text("log-format").as_str() {
        "json" | "" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => {
            problems.push(format!(
                "unknown log format: {other}, supported values json, console"
            ));
            LogFormat::Json
        }
    };
    let targets = settings.words("log-outputs");
    if targets.len() > 1
        && let Some(only) = targets
            .iter()
            .find(|target| matches!(target.as_str(), "default" | "systemd/journal"))
    {
        problems.push(format!("multi logoutput for {only:?} is not supported yet"));
    }
    let mut outputs: Vec<LogOutput> = Vec::new();
    for target in &targets {
        let output = match target.as_str() {
            // The journal reads standard error, and knows the level from the line.
            "default" | "stderr" | "systemd/journal" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if settings.bool("enable-log-rotation") && !matches!(outputs.as_slice(), [LogOutput::File(_)]) {
        problems.push(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
                .to_owned(),
        );
    }
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    let warning_unary_request_duration = settings.duration("warning-unary-request-duration");
    Logging {
        level,
        format,
        outputs,
        warning_unary_request_duration,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(values: &[(&str, &str)]) -> Config {
        let mut settings = Settings::default();
        for (name, value) in values {
            settings.set(name, value, Source::Flag).unwrap();
        }
        Config::from_settings(&settings).unwrap()
    }

    #[test]
    fn defaults_that_depend_on_others() {
        let config = config(&[("name", "a"), ("quota-backend-bytes", "-1")]);
        assert_eq!(config.member.data_dir, PathBuf::from("a.etcd"));
        let cluster = config.clustering.initial_cluster.to_string();
        assert_eq!(cluster, "a=http://localhost:2380");
        assert_eq!(config.member.quota_backend_bytes, 0);
    }

    #[test]
    fn modes_of_auto_compaction() {
        let hour = Duration::from_secs(3600);
        for (mode, retention, expected) in [
            ("periodic", "0", AutoCompaction::Off),
            ("periodic", "1", AutoCompaction::Periodic(hour)),
            ("periodic", "5m", AutoCompaction::Periodic(hour / 12)),
            ("revision", "1000", AutoCompaction::Revision(1000)),
            (
                "revision",
                "10000000000",
                AutoCompaction::Revision(10_000_000_000),
            ),
            ("revision", "1us", AutoCompaction::Revision(1000)),
        ] {
            let config = config(&[
                ("auto-compaction-mode", mode),
                ("auto-compaction-retention", retention),
            ]);
            assert_eq!(config.auto_compaction(), Ok(expected), "{mode} {retention}");
        }
        let failure = |name, value| config(&[(name, value)]).auto_compaction().unwrap_err();
        assert_eq!(
            failure("auto-compaction-mode", "bad"),
            "unknown auto-compaction-mode \"bad\""
        );
        assert_eq!(
            failure("auto-compaction-retention", "xx"),
            "error parsing CompactionRetention: time: invalid duration \"xx\""
        );
        for negative in ["-1", "-5m"] {
            let config = config(&[("auto-compaction-retention", negative)]);
            assert!(config.auto_compaction().is_err(), "{negative}");
        }
    }

    #[test]
    fn a_default_host_replaces_defaults_only() {
        let host: IpAddr = "10.0.0.7".parse().unwrap();
        let mut given = config(&[
            ("listen-peer-urls", "http://0.0.0.0:2380"),
            ("listen-client-urls", "http://0.0.0.0:2379"),
            ("advertise-client-urls", "http://a:1"),
        ]);
        given.advertise_default_host(host);
        assert_eq!(
            super::super::join_urls(&given.clustering.advertise_client_urls),
            "http://a:1"
        );
        assert_eq!(
            given.clustering.initial_cluster.to_string(),
            "default=http://10.0.0.7:2380"
        );
        let mut local = config(&[]);
        local.advertise_default_host(host);
        let urls = super::super::join_urls(&local.clustering.initial_advertise_peer_urls);
        assert_eq!(urls, "http://localhost:2380");
    }

    #[test]
    fn outputs_and_levels() {
        let given = config(&[
            ("log-outputs", "stderr,stdout,stderr,a.log"),
            ("log-level", "WARN"),
        ]);
        assert_eq!(
            given.logging.outputs,
            [
                LogOutput::Stderr,
                LogOutput::Stdout,
                LogOutput::File("a.log".into())
            ]
        );
        assert_eq!(given.logging.level, LogLevel::Warn);
        for (name, value, problem) in [
            (
                "log-format",
                "bad",
                "unknown log format: bad, supported values json, console",
            ),
            (
                "log-outputs",
                "stdout,default",
                "multi logoutput for \"default\" is not supported yet",
            ),
            ("logger", "foo", "unknown logger option \"foo\""),
            ("log-level", "bad", "unrecognized level: \"bad\""),
        ] {
            let mut settings = Settings::default();
            settings.set(name, value, Source::Flag).unwrap();
            assert_eq!(Config::from_settings(&settings).unwrap_err(), [problem]);
        }
    }
}
