//! The config file (contract 5.4): YAML, of which JSON is a part.
//!
//! Each value is brought into the form the flag would have, then read as that, so there is one
//! place that knows what is valid.

use serde_yaml_ng::{Mapping, Value as Yaml};

use super::settings::{Settings, Source};
use super::table::{Alias, Flag, Kind, alias};

/// Sections, and the flag each of their keys stands for.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    (
        "discovery-config",
        &[
            ("token", "discovery-token"),
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
];

/// Flags that the file cannot set: TLS settings stand in their sections, v2 discovery is dead.
const NOT_IN_FILES: [&str; 5] = [
    "discovery",
    "discovery-proxy",
    "discovery-fallback",
    "client-crl-file",
    "peer-crl-file",
];

/// Reads a config file's text. Unknown keys are ignored; empty values are as good as none.
///
/// # Errors
/// With the reason if the text is malformed or a value is not what its key takes.
pub(super) fn parse(text: &str) -> Result<Settings, String> {
    let document: Yaml = serde_yaml_ng::from_str(text)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    let mut settings = Settings::default();
    let mapping = match document {
        Yaml::Mapping(mapping) => mapping,
        Yaml::Null => return Ok(settings),
        _ => return Err("error unmarshaling JSON: the file is not a list of settings".to_owned()),
    };
    for (section, keys) in SECTIONS {
        if let Some(Yaml::Mapping(values)) = mapping.get(section) {
            for (key, name) in keys {
                set(&mut settings, values, key, name)?;
            }
        }
    }
    for key in mapping.keys().filter_map(Yaml::as_str) {
        let in_section = SECTIONS
            .iter()
            .any(|(_, keys)| keys.iter().any(|(_, name)| *name == key));
        let known = Flag::named(key).is_some() || alias(key).is_some();
        if known && !in_section && !NOT_IN_FILES.contains(&key) {
            set(&mut settings, &mapping, key, key)?;
        }
    }
    Ok(settings)
}

fn set(settings: &mut Settings, values: &Mapping, key: &str, name: &str) -> Result<(), String> {
    let Some(value) = values.get(key) else {
        return Ok(());
    };
    let kind = match (Flag::named(name), alias(name)) {
        (Some(flag), _) | (None, Some(Alias::Flag(flag))) => flag.kind,
        (None, Some(Alias::Gate(_))) => Kind::Bool,
        (None, None) => return Ok(()),
    };
    let text = flag_text(kind, value)
        .ok_or_else(|| format!("error unmarshaling JSON: {key} is not of the right type"))?;
    if text.is_empty() {
        return Ok(());
    }
    settings
        .set(name, &text, Source::File)
        .map_err(|reason| match kind {
            Kind::Gates => reason,
            Kind::Urls => format!("unexpected error setting up {key}: {reason}"),
            _ => format!("invalid value {text:?} for {key}: {reason}"),
        })
}

/// A value as the flag would have it; none if it is of another type.
fn flag_text(kind: Kind, value: &Yaml) -> Option<String> {
    Some(match (kind, value) {
        (_, Yaml::Null) => String::new(),
        (Kind::Bool, Yaml::Bool(on)) => on.to_string(),
        (Kind::Bool, _) => return None,
        (Kind::Duration, Yaml::Number(ns)) => format!("{ns}ns"),
        (Kind::Int | Kind::Uint | Kind::Uint32, Yaml::Number(number)) => number.to_string(),
        (Kind::Int | Kind::Uint | Kind::Uint32, _) => return None,
        (Kind::Words | Kind::Origins | Kind::Urls, Yaml::Sequence(items)) => {
            let words: Option<Vec<&str>> = items.iter().map(Yaml::as_str).collect();
            words?.join(",")
        }
        (_, Yaml::String(text)) => text.clone(),
        // `auto-compaction-retention: 1` and names made of digits.
        (Kind::Text, Yaml::Number(number)) => number.to_string(),
        (Kind::Text, Yaml::Bool(on)) => on.to_string(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The shape of etcd's sample file, dead keys included.
    const SAMPLE: &str = "
name: 'default'
data-dir:
snapshot-count: 10000
heartbeat-interval: 100
quota-backend-bytes: 0
listen-peer-urls: http://localhost:2380
cors:
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster:
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
proxy-failure-wait: 5000
client-transport-security:
  cert-file:
  client-cert-auth: false
peer-transport-security:
  cert-file:
  auto-tls: false
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: \"1\"
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
";

    #[test]
    fn the_sample_file_starts_a_member() {
        let settings = parse(SAMPLE).unwrap();
        assert_eq!(settings.text("log-level"), "debug");
        assert_eq!(settings.source("data-dir"), None);
        assert_eq!(settings.source("discovery-fallback"), None);
        assert_eq!(settings.words("cipher-suites").len(), 2);
        let config = super::super::Config::from_settings(&settings).unwrap();
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn durations_are_nanoseconds_or_text() {
        let settings = parse(
            "watch-progress-notify-interval: 600000000000\ncorrupt-check-time: 10m\n\
             grpc-keepalive-timeout: 20s",
        )
        .unwrap();
        assert_eq!(
            settings.duration("watch-progress-notify-interval"),
            Duration::from_secs(600)
        );
        assert_eq!(
            settings.duration("corrupt-check-time"),
            Duration::from_secs(600)
        );
        assert_eq!(
            settings.duration("grpc-keepalive-timeout"),
            Duration::from_secs(20)
        );
    }

    #[test]
    fn sections_json_and_lists() {
        let settings = parse(
            r#"{"name": "a", "socket-options": {"reuse-port": true},
                "peer-transport-security": {"cert-file": "c", "allowed-cn": ["x", "y"]},
                "discovery-config": {"token": "t", "endpoints": ["http://a:1"]},
                "feature-gates": "LeaseCheckpoint=true", "cert-file": "ignored"}"#,
        )
        .unwrap();
        assert!(settings.bool("socket-reuse-port"));
        assert_eq!(settings.text("peer-cert-file"), "c");
        assert_eq!(settings.words("peer-cert-allowed-cn"), ["x", "y"]);
        assert_eq!(settings.words("discovery-endpoints"), ["http://a:1"]);
        assert!(settings.gates().is_on("LeaseCheckpoint"));
        assert_eq!(settings.source("cert-file"), None);
    }

    #[test]
    fn malformed_files() {
        for text in [
            "name: [",
            "- a",
            "heartbeat-interval: abc",
            "snapshot-count: -1",
            "pre-vote: 1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("feature-gates: Foo=1").unwrap_err(),
            "unrecognized feature gate: Foo"
        );
        assert_eq!(
            parse("listen-client-urls: foo").unwrap_err(),
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, \
             unix, or unixs: foo"
        );
        assert_eq!(parse("").unwrap().given().count(), 0);
    }
}
