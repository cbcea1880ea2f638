//! What makes a start fail before anything is touched (contract 4.1); texts are etcd's.

use std::time::Duration;

use super::sections::Config;
use super::table::{Flag, Status};
use super::url::{Url, join};

/// One reason not to start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// Longest election timeout (contract 4.1).
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(50_000);

/// The largest `--max-request-bytes`: what a message between members carries, less room for the
/// envelopes of message, entry and command.
const REQUEST_BYTES_MAX: usize = crate::raft::network::MESSAGE_BYTES_MAX - (1 << 20);

/// Suites that can be chosen: Go's names of those of TLS 1.0 to 1.2 and of TLS 1.3.
const CIPHER_SUITES: [&str; 25] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

impl Config {
    /// Every reason not to start; none if the configuration is sound.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_discovery(&mut problems);
        self.check_urls(&mut problems);
        self.check_timing(&mut problems);
        self.check_sizes(&mut problems);
        self.check_security(&mut problems);
        self.check_features(&mut problems);
        self.check_supported(&mut problems);
        problems.into_iter().map(Problem).collect()
    }

    /// Every reason not to bootstrap or join; an existing data directory wins over these settings,
    /// so they are looked at only without one.
    ///
    /// `same_addresses` tells whether two lists of URLs resolve to the same addresses.
    #[must_use]
    pub fn validate_bootstrap(
        &self,
        same_addresses: impl FnOnce(&[Url], &[Url]) -> bool,
    ) -> Vec<Problem> {
        let Config { clustering, .. } = self;
        if !clustering.discovery_endpoints.is_empty() || !clustering.discovery_srv.is_empty() {
            // The registry, or DNS, says who the members are.
            return Vec::new();
        }
        let mut problems = Vec::new();
        let cluster = &self.clustering.initial_cluster;
        if cluster.is_empty() {
            problems.push("initial cluster unset and no discovery URL found".to_owned());
        } else if cluster.repeats_url() {
            problems.push(format!("initial cluster {cluster} has duplicate url"));
        }
        let name = &self.member.name;
        match cluster.urls(name) {
            None => problems.push(format!(
                "couldn't find local name {name:?} in the initial cluster configuration"
            )),
            Some(urls) => {
                let advertised = &self.clustering.initial_advertise_peer_urls;
                // A repeated URL has been named already.
                let differ = urls != advertised && !cluster.repeats_url();
                if differ && !same_addresses(urls, advertised) {
                    problems.push(mismatch(name, urls, advertised));
                }
            }
        }
        problems.into_iter().map(Problem).collect()
    }

    fn check_discovery(&self, problems: &mut Vec<String>) {
        let Config { clustering, .. } = self;
        let ways = [
            self.is_set("initial-cluster"),
            !clustering.discovery_endpoints.is_empty(),
            !clustering.discovery_srv.is_empty(),
        ];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            problems.push(
                "multiple discovery or bootstrap flags are set. Choose one of \
                 \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
                    .to_owned(),
            );
        }
        if clustering.discovery_token.is_empty() != clustering.discovery_endpoints.is_empty() {
            problems
                .push("both --discovery-token and --discovery-endpoints must be set".to_owned());
        }
        if clustering.discovery_fallback == "proxy" {
            problems.push(
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                    .to_owned(),
            );
        }
    }

    fn check_urls(&self, problems: &mut Vec<String>) {
        let Config {
            member,
            clustering,
            monitoring,
            ..
        } = self;
        if self.is_set("listen-client-urls") && !self.is_set("advertise-client-urls") {
            problems.push(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .to_owned(),
            );
        }
        let bound = [
            &member.listen_peer_urls,
            &member.listen_client_urls,
            &member.listen_client_http_urls,
            &monitoring.listen_metrics_urls,
        ];
        problems.extend(bound.into_iter().flatten().filter_map(Url::bind_problem));
        for (name, urls) in [
            ("listen-peer-urls", &member.listen_peer_urls),
            ("listen-client-urls", &member.listen_client_urls),
            (
                "initial-advertise-peer-urls",
                &clustering.initial_advertise_peer_urls,
            ),
            ("advertise-client-urls", &clustering.advertise_client_urls),
        ] {
            if urls.is_empty() {
                problems.push(format!("--{name} must not be empty"));
            }
        }
        let hostless = |urls: &[Url]| urls.iter().find(|url| url.host() == Some("")).cloned();
        if let Some(url) = hostless(&clustering.initial_advertise_peer_urls) {
            problems.push(format!(
                "--initial-advertise-peer-urls {:?} must be \"host:port\" (unexpected empty host \
                 ({url}))",
                join(&clustering.initial_advertise_peer_urls)
            ));
        }
        if let Some(url) = hostless(&clustering.advertise_client_urls) {
            problems.push(format!(
                "--advertise-client-urls {:?} must be in the format \"host:port\", \
                 \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host \
                 ({url}))",
                join(&clustering.advertise_client_urls)
            ));
        }
        for url in &member.listen_client_http_urls {
            if member.listen_client_urls.contains(url) {
                problems.push(format!(
                    "cannot bind both --listen-client-urls and --listen-client-http-urls on the \
                     same url {url}"
                ));
            }
        }
    }

    fn check_timing(&self, problems: &mut Vec<String>) {
        let (heartbeat, election) = (self.member.heartbeat_interval, self.member.election_timeout);
        let (heartbeat_ms, election_ms) = (heartbeat.as_millis(), election.as_millis());
        for (name, value_ms) in [
            ("heartbeat-interval", heartbeat_ms),
            ("election-timeout", election_ms),
        ] {
            if value_ms == 0 {
                problems.push(format!("--{name} must be >0 (set to {value_ms}ms)"));
            }
        }
        if heartbeat_ms.saturating_mul(5) > election_ms {
            problems.push(format!(
                "--election-timeout[{election_ms}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat_ms}ms]"
            ));
        }
        if election > ELECTION_TIMEOUT_MAX {
            problems.push(format!(
                "--election-timeout[{election_ms}ms] is too long, and should be set less than \
                 {}ms",
                ELECTION_TIMEOUT_MAX.as_millis()
            ));
        }
        problems.extend(self.auto_compaction().err());
    }

    /// A request travels between members in one message, and in one log entry with others.
    fn check_sizes(&self, problems: &mut Vec<String>) {
        let bytes = self.member.max_request_bytes;
        if bytes > REQUEST_BYTES_MAX {
            problems.push(format!(
                "--max-request-bytes[{bytes}] is too large, and should be at most \
                 {REQUEST_BYTES_MAX}: members could not send such a request to each other"
            ));
        }
    }

    fn check_security(&self, problems: &mut Vec<String>) {
        let security = &self.security;
        let versions = [("TLS1.2", 2), ("TLS1.3", 3)];
        let mut number = |text: &str, default: u32| {
            if text.is_empty() {
                return default;
            }
            let known = versions.iter().find(|(name, _)| *name == text);
            if known.is_none() {
                problems.push(format!(
                    "unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)"
                ));
            }
            known.map_or(default, |(_, number)| *number)
        };
        let (min, max) = (
            number(&security.tls_min_version, 2),
            number(&security.tls_max_version, 3),
        );
        if min > max {
            problems.push(format!(
                "min version ({}) is greater than max version ({})",
                security.tls_min_version, security.tls_max_version
            ));
        }
        if min == 3 && !security.cipher_suites.is_empty() {
            problems
                .push("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
        }
        for suite in &security.cipher_suites {
            if !CIPHER_SUITES.contains(&suite.as_str()) {
                problems.push(format!("unexpected TLS cipher suite {suite:?}"));
            }
        }
        if !security.peer.allowed_cns.is_empty() && !security.peer.allowed_hostnames.is_empty() {
            problems.push(
                "AllowedCN and AllowedHostname are mutually exclusive for peer certificates"
                    .to_owned(),
            );
        }
        self.check_tls_files(problems);
    }

    /// A TLS listener without a certificate. (Any TLS listener is refused for now.)
    fn check_tls_files(&self, problems: &mut Vec<String>) {
        let Config {
            member,
            security,
            monitoring,
            ..
        } = self;
        let tls = |urls: &[Url]| urls.iter().find(|url| url.scheme().is_tls()).cloned();
        let missing = |side: &super::sections::Tls| {
            !side.auto_tls && (side.cert_file.is_empty() || side.key_file.is_empty())
        };
        if let Some(url) = tls(&member.listen_client_urls).filter(|_| missing(&security.client)) {
            problems.push(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                 with HTTPS scheme"
            ));
        }
        if let Some(url) = tls(&member.listen_peer_urls).filter(|_| missing(&security.peer)) {
            problems.push(format!(
                "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
                url.host_port().unwrap_or_else(|| url.to_string())
            ));
        }
        if tls(&monitoring.listen_metrics_urls).is_some() && missing(&security.client) {
            problems.push(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics \
                 secure url"
                    .to_owned(),
            );
        }
    }

    fn check_features(&self, problems: &mut Vec<String>) {
        if self.features.compact_hash_check_time.is_zero() {
            problems.push("--compact-hash-check-time must be >0 (set to 0s)".to_owned());
        }
        if self.gates.is_on("LeaseCheckpointPersist") && !self.gates.is_on("LeaseCheckpoint") {
            problems.push(
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
                 LeaseCheckpoint"
                    .to_owned(),
            );
        }
        if self.features.max_learners < 0 {
            problems.push("membership: too many learner members in cluster".to_owned());
        }
        if self.tracing.enabled && self.tracing.sampling_rate < 0 {
            problems.push(
                "distributed tracing configurition is not valid: (tracing sampling rate must be \
                 positive)"
                    .to_owned(),
            );
        }
        let token = self.auth.token.split(',').next().unwrap_or("");
        match token {
            "simple" | "" => {}
            "jwt" => problems.push("--auth-token=jwt is not supported yet".to_owned()),
            _ => problems.push("auth: invalid auth options".to_owned()),
        }
    }

    /// Settings whose being ignored would be unsafe or mislead.
    fn check_supported(&self, problems: &mut Vec<String>) {
        let refused = |name: &&str| {
            let flag = Flag::named(name);
            flag.is_some_and(|flag| flag.status == Status::Refused)
                && self.settings.value(name) != default_of(name)
        };
        let given = self.settings.given().filter(refused);
        problems.extend(given.map(|name| format!("--{name} is not supported yet")));
        let Config {
            member,
            clustering,
            monitoring,
            ..
        } = self;
        for (name, urls) in [
            ("listen-peer-urls", &member.listen_peer_urls),
            ("listen-client-urls", &member.listen_client_urls),
            ("listen-metrics-urls", &monitoring.listen_metrics_urls),
            (
                "initial-advertise-peer-urls",
                &clustering.initial_advertise_peer_urls,
            ),
        ] {
            if let Some(url) = urls.iter().find(|url| url.scheme().is_tls()) {
                problems.push(format!("TLS is not supported yet (--{name}: {url})"));
            }
        }
    }
}

/// The default of a setting, as a value.
pub(super) fn default_of(name: &str) -> super::value::Value {
    super::settings::Settings::default().value(name)
}

/// Why a member's URLs in `--initial-cluster` are not those that it advertises.
pub(crate) fn mismatch(name: &str, urls: &[Url], advertised: &[Url]) -> String {
    let with_name = |urls: &[Url]| {
        let urls: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
        urls.join(",")
    };
    let missing_of = |urls: &[Url], others: &[Url]| -> Vec<Url> {
        let missing = urls.iter().filter(|url| !others.contains(url));
        missing.cloned().collect()
    };
    let not_advertised = missing_of(urls, advertised);
    if !not_advertised.is_empty() {
        return format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            with_name(&not_advertised),
            join(advertised)
        );
    }
    format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        join(&missing_of(advertised, urls)),
        with_name(urls)
    )
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Settings, Source};
    use super::*;

    fn config(args: &[&str]) -> Config {
        let mut settings = Settings::default();
        for arg in args {
            let (name, value) = arg.split_once('=').unwrap();
            settings.set(name, value, Source::Flag).unwrap();
        }
        Config::from_settings(&settings).unwrap()
    }

    fn texts(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.0).collect()
    }

    #[test]
    fn defaults_are_sound() {
        assert_eq!(config(&[]).validate(), []);
        assert_eq!(config(&[]).validate_bootstrap(|_, _| false), []);
    }

    /// Each as genuine etcd 3.7.1 words it.
    #[test]
    fn texts_of_unsound_settings() {
        for (args, text) in [
            (
                &["election-timeout=200"][..],
                "--election-timeout[200ms] should be at least as 5 times as --heartbeat-interval[100ms]",
            ),
            (
                &["election-timeout=60000"],
                "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            ),
            (
                &["heartbeat-interval=0"],
                "--heartbeat-interval must be >0 (set to 0ms)",
            ),
            (
                &["listen-client-urls=http://127.0.0.1:1"],
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (
                &["listen-peer-urls=http://a.b:1"],
                "expected IP in URL for binding (http://a.b:1)",
            ),
            (
                &["listen-peer-urls=http://:1"],
                "expected IP in URL for binding (http://:1)",
            ),
            (
                &[
                    "listen-client-urls=http://127.0.0.1:1",
                    "advertise-client-urls=http://127.0.0.1:1",
                    "listen-client-http-urls=http://127.0.0.1:1",
                ],
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:1",
            ),
            (
                &["auto-compaction-mode=bad"],
                "unknown auto-compaction-mode \"bad\"",
            ),
            (
                &["discovery-fallback=proxy"],
                "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
            ),
            (
                &["initial-advertise-peer-urls=http://:1"],
                "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
            ),
            (
                &["advertise-client-urls=http://:2379"],
                "--advertise-client-urls \"http://:2379\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:2379))",
            ),
            (
                &["tls-min-version=TLS9"],
                "unexpected TLS version \"TLS9\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                &["tls-min-version=TLS1.3", "tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &[
                    "tls-min-version=TLS1.3",
                    "cipher-suites=TLS_AES_128_GCM_SHA256",
                ],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            (
                &["cipher-suites=foo"],
                "unexpected TLS cipher suite \"foo\"",
            ),
            (
                &["compact-hash-check-time=0s"],
                "--compact-hash-check-time must be >0 (set to 0s)",
            ),
            (
                &["feature-gates=LeaseCheckpointPersist=true"],
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            ),
            (&["auth-token=foo"], "auth: invalid auth options"),
            (
                &["max-learners=-1"],
                "membership: too many learner members in cluster",
            ),
            (
                &["max-request-bytes=66060289"],
                "--max-request-bytes[66060289] is too large, and should be at most 66060288: members could not send such a request to each other",
            ),
        ] {
            assert_eq!(texts(config(args).validate()), [text], "{args:?}");
        }
    }

    #[test]
    fn all_problems_at_once() {
        let problems = texts(
            config(&[
                "discovery-token=a",
                "initial-cluster=default=http://localhost:2380",
                "discovery-srv=b",
                "listen-metrics-urls=https://127.0.0.1:1",
            ])
            .validate(),
        );
        assert_eq!(
            problems,
            [
                "multiple discovery or bootstrap flags are set. Choose one of \
                 \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
                "both --discovery-token and --discovery-endpoints must be set",
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure \
                 url",
                "TLS is not supported yet (--listen-metrics-urls: https://127.0.0.1:1)",
            ]
        );
    }

    #[test]
    fn the_initial_cluster_must_fit() {
        let fails = |args: &[&str]| texts(config(args).validate_bootstrap(|_, _| false));
        assert_eq!(
            fails(&["initial-cluster=foo=http://127.0.0.1:1"]),
            ["couldn't find local name \"default\" in the initial cluster configuration"]
        );
        let repeated = "initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1";
        assert_eq!(
            fails(&[
                "name=a",
                "initial-advertise-peer-urls=http://127.0.0.1:1",
                repeated
            ]),
            ["initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url"]
        );
        let other = ["initial-cluster=default=http://127.0.0.1:1"];
        assert_eq!(
            fails(&other),
            [
                "--initial-cluster has default=http://127.0.0.1:1 but missing from \
              --initial-advertise-peer-urls=http://localhost:2380"
            ]
        );
        assert_eq!(config(&other).validate_bootstrap(|_, _| true), []);
    }
}
