//! DNS discovery: the members of a bootstrap stand in SRV records (contract 4.1).
//!
//! ```text
//! _etcd-server-ssl._tcp.<domain>   members at https URLs
//! _etcd-server._tcp.<domain>       members at http URLs
//! ```
//!
//! Both are asked for and what both say is taken together; one of them is enough. A record tells no
//! name: the one that resolves to an advertised peer URL is this member, the others get numbers,
//! which nobody sees, since ids follow from the URLs.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::config::{InitialCluster, Scheme, Url, mismatch, same_addresses};
use crate::dns::DnsError;
use crate::node::config::{NodeConfig, SrvDiscovery};

/// Why the records do not make a cluster.
#[derive(Debug, thiserror::Error)]
enum SrvError {
    #[error("error querying DNS SRV records for _{service} {source}")]
    Records { service: String, source: DnsError },
    #[error("error querying DNS SRV records for _{service} lookup {host}: {source}")]
    Target {
        service: String,
        host: String,
        source: std::io::Error,
    },
    #[error(
        "error querying DNS SRV records for _{service} bootstrap at {found} from DNS for {service} \
         has scheme mismatch with expected peer {expected}"
    )]
    Scheme {
        service: String,
        found: String,
        expected: Url,
    },
    #[error("lookup {host}: {source}")]
    Advertised {
        host: String,
        source: std::io::Error,
    },
}

/// Names and peer URLs of the cluster.
///
/// # Errors
/// When neither service has usable records, or this member is not among them.
pub async fn discover(
    config: &NodeConfig,
    discovery: &SrvDiscovery,
) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let found = members(config, discovery).await;
    found.map_err(|error| anyhow::anyhow!("error setting up initial cluster: {error}"))
}

async fn members(
    config: &NodeConfig,
    discovery: &SrvDiscovery,
) -> Result<Vec<(String, Vec<String>)>, String> {
    let advertised = config.advertise_peer_urls.iter().map(|url| Url::parse(url));
    let advertised = advertised.collect::<Result<Vec<Url>, String>>()?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (scheme, kind) in [
        (Scheme::Https, "etcd-server-ssl"),
        (Scheme::Http, "etcd-server"),
    ] {
        let service = match discovery.service_name.as_str() {
            "" => kind.to_owned(),
            suffix => format!("{kind}-{suffix}"),
        };
        let listed = list(config, &advertised, discovery, scheme, &service).await;
        tracing::info!(
            "service-scheme" = text(scheme),
            "service-name" = service,
            "server-name" = config.name,
            "discovery-srv" = discovery.domain,
            "json:advertise-peer-urls" = %crate::logging::list(&config.advertise_peer_urls),
            "json:found-cluster" = %crate::logging::list(listed.as_deref().unwrap_or_default()),
            error = listed.as_ref().err().map(tracing::field::display),
            "get cluster for {kind} SRV",
        );
        match listed {
            Ok(members) => found.extend(members),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let errors = errors.join("\n");
    if !errors.is_empty() {
        tracing::warn!(error = errors, "failed to resolve during SRV discovery");
    }
    if found.is_empty() {
        return Err(errors);
    }
    for node in &found {
        tracing::info!(node, "got bootstrap from DNS for etcd-server");
    }
    let cluster = InitialCluster::parse(&found.join(","))?;
    let name = &config.name;
    let own = cluster
        .urls(name)
        .ok_or_else(|| format!("cannot find local etcd member {name:?} in SRV records"))?;
    if cluster.repeats_url() {
        return Err(format!("initial cluster {cluster} has duplicate url"));
    }
    let (mut own, mut wanted) = (own.to_vec(), advertised.clone());
    own.sort();
    wanted.sort();
    if own != wanted {
        let (left, right) = (own.clone(), wanted.clone());
        let resolving = tokio::task::spawn_blocking(move || same_addresses(&left, &right));
        if !resolving.await.unwrap_or(false) {
            return Err(mismatch(name, &own, &wanted));
        }
    }
    Ok(cluster.texts())
}

/// `name=URL` of each usable record of a service.
async fn list(
    config: &NodeConfig,
    advertised: &[Url],
    discovery: &SrvDiscovery,
    scheme: Scheme,
    service: &str,
) -> Result<Vec<String>, SrvError> {
    let mut own: HashMap<SocketAddr, &Url> = HashMap::new();
    for url in advertised {
        let Some(host) = url.host_port() else {
            continue;
        };
        match resolved(&host).await {
            Ok(address) => own.insert(address, url),
            Err(source) => return Err(SrvError::Advertised { host, source }),
        };
    }
    let records = discovery.resolver.srv(service, &discovery.domain).await;
    let records = records.map_err(|source| SrvError::Records {
        service: service.to_owned(),
        source,
    })?;
    let (mut members, mut unnamed, mut last_error) = (Vec::new(), 0, None);
    for record in records {
        // Records end in a dot, URLs do not.
        let host = record.target.trim_end_matches('.');
        let target = format!("{host}:{}", record.port);
        let address = match resolved(&target).await {
            Ok(address) => address,
            Err(source) => {
                last_error = Some(SrvError::Target {
                    service: service.to_owned(),
                    host: record.target.clone(),
                    source,
                });
                continue;
            }
        };
        let found = format!("{}://{host}:{}", text(scheme), record.port);
        match own.get(&address) {
            Some(expected) if expected.scheme() != scheme => {
                last_error = Some(SrvError::Scheme {
                    service: service.to_owned(),
                    found,
                    expected: (*expected).clone(),
                });
            }
            Some(_) => members.push(format!("{}={found}", config.name)),
            None => {
                members.push(format!("{unnamed}={found}"));
                unnamed += 1;
            }
        }
    }
    match last_error {
        Some(error) if members.is_empty() => Err(error),
        _ => Ok(members),
    }
}

fn text(scheme: Scheme) -> &'static str {
    if scheme.is_tls() { "https" } else { "http" }
}

/// The address that is dialled, an IPv4 one if there is any.
async fn resolved(host_port: &str) -> std::io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(host_port).await?.collect();
    let first = addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first());
    let nothing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such host");
    first.copied().ok_or_else(nothing)
}
