//! v3 discovery: the members of a bootstrap find each other in another cluster (contract 4.1).
//!
//! ```text
//! /_etcd/registry/<token>/_config/size      how many members the cluster is to have
//! /_etcd/registry/<token>/members/<id>      name=peerURL,…   one of them
//! ```
//!
//! - The first `size` members by create revision form the cluster; a later one fails, and so does a
//!   token that was used before.
//! - The service is asked again until it answers and enough members have registered: they are
//!   started at any time. A member that comes back finds its own registration.

use std::time::Duration;

use anyhow::{Context as _, Result};
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use keelson_proto::mvccpb::KeyValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::config::InitialCluster;
use crate::node::config::{Discovery, NodeConfig};
use crate::raft::bootstrap;

/// Pause between looks at the registry.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Looks between log lines about what is waited for.
const LOOKS_PER_LINE: u32 = 20;
/// Registrations that are looked at: no cluster is larger.
const MEMBERS_MAX: i64 = 1024;

/// Why a look at the registry failed.
#[derive(Debug, thiserror::Error)]
enum DiscoveryError {
    /// The registry does not know the token.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// The size is no positive number.
    #[error("discovery: size key is bad")]
    BadSize,
    /// The token was used.
    #[error("discovery: cluster is full")]
    Full,
    /// A registration cannot be read, or two have the same name.
    #[error("discovery: {0}")]
    BadMember(String),
    /// The service is asked again.
    #[error(transparent)]
    Unreachable(#[from] Status),
}

/// What the registry says.
struct Registry {
    size: usize,
    /// The first `size` registrations: key and `name=peerURL,…`.
    members: Vec<(Vec<u8>, String)>,
}

/// Registers this member and waits for the others; gives names and peer URLs of the cluster.
///
/// # Errors
/// When the token is not known, was used, or has unsound values.
pub async fn discover(
    config: &NodeConfig,
    discovery: &Discovery,
) -> Result<Vec<(String, Vec<String>)>> {
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let found = wait_for_members(config, discovery).await;
    if let Err(error) = &found {
        tracing::warn!(
            "discovery-token" = discovery.token,
            error = %error,
            "failed to bootstrap; discovery token was already used"
        );
        tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
    }
    let cluster = found.context("failed to join discovery cluster")?;
    tracing::info!(
        "discovery-token" = discovery.token,
        cluster = %cluster,
        "discovery joined cluster successfully"
    );
    Ok(cluster.texts())
}

async fn wait_for_members(
    config: &NodeConfig,
    discovery: &Discovery,
) -> Result<InitialCluster, DiscoveryError> {
    let own_id = bootstrap::member_id(&config.advertise_peer_urls, &discovery.token);
    let prefix = format!("/_etcd/registry/{}", discovery.token);
    let own_key = format!("{prefix}/members/{own_id:x}");
    let registrations: Vec<String> = config
        .advertise_peer_urls
        .iter()
        .map(|url| format!("{}={url}", config.name))
        .collect();
    for look in 0_u32.. {
        let endpoint = discovery
            .endpoints
            .iter()
            .cycle()
            .nth(look as usize % discovery.endpoints.len().max(1));
        let asked = match endpoint.map(|endpoint| client(endpoint, discovery)) {
            Some(Ok(client)) => {
                let mut service = Service {
                    client,
                    discovery,
                    prefix: &prefix,
                };
                service.look(&own_key, &registrations.join(",")).await
            }
            Some(Err(reason)) => Err(DiscoveryError::BadMember(reason)),
            None => Err(DiscoveryError::BadMember("no endpoints".to_owned())),
        };
        let waiting_for = match asked {
            Ok(registry) if registry.members.len() >= registry.size => {
                return cluster_of(&registry, own_key.as_bytes());
            }
            Ok(registry) => format!("{} of {} members", registry.members.len(), registry.size),
            Err(DiscoveryError::Unreachable(status)) => status.to_string(),
            Err(error) => return Err(error),
        };
        if look % LOOKS_PER_LINE == LOOKS_PER_LINE - 1 {
            tracing::warn!(
                found = waiting_for,
                "waiting for the members of the discovery token"
            );
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(DiscoveryError::Full)
}

fn client(endpoint: &str, discovery: &Discovery) -> Result<KvClient<Channel>, String> {
    let url = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    };
    if !url.starts_with("http://") {
        return Err(format!(
            "endpoint {endpoint} cannot be used: only http is supported yet"
        ));
    }
    let endpoint =
        Endpoint::from_shared(url).map_err(|error| format!("endpoint {endpoint}: {error}"))?;
    Ok(KvClient::new(
        endpoint
            .connect_timeout(discovery.dial_timeout)
            .connect_lazy(),
    ))
}

struct Service<'a> {
    client: KvClient<Channel>,
    discovery: &'a Discovery,
    prefix: &'a str,
}

impl Service<'_> {
    /// Looks, and registers this member if there is room and it is not there yet.
    async fn look(
        &mut self,
        own_key: &str,
        registration: &str,
    ) -> Result<Registry, DiscoveryError> {
        let registry = self.read().await?;
        if registry
            .members
            .iter()
            .any(|(key, _)| key == own_key.as_bytes())
        {
            return Ok(registry);
        }
        if registry.members.len() >= registry.size {
            return Err(DiscoveryError::Full);
        }
        let put = PutRequest {
            key: own_key.to_owned().into(),
            value: registration.to_owned().into(),
            ..Default::default()
        };
        let request = self.request(put);
        self.client.put(request).await?;
        tracing::info!(
            "discovery-token" = self.discovery.token,
            "memberKey" = own_key,
            "memberInfo" = registration,
            "register member itself successfully"
        );
        // Others may have been faster: only the order in the registry counts.
        self.read().await
    }

    async fn read(&mut self) -> Result<Registry, DiscoveryError> {
        let size = RangeRequest {
            key: format!("{}/_config/size", self.prefix).into(),
            ..Default::default()
        };
        let request = self.request(size);
        let found = self.client.range(request).await?.into_inner();
        let size = parse_size(found.kvs.first())?;
        let members = RangeRequest {
            key: format!("{}/members/", self.prefix).into(),
            // The prefix's end: the byte after the slash.
            range_end: format!("{}/members0", self.prefix).into(),
            limit: MEMBERS_MAX,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        };
        let request = self.request(members);
        let found = self.client.range(request).await?.into_inner();
        let text = |kv: KeyValue| {
            (
                kv.key.to_vec(),
                String::from_utf8_lossy(&kv.value).into_owned(),
            )
        };
        let members = found.kvs.into_iter().take(size).map(text).collect();
        Ok(Registry { size, members })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.discovery.request_timeout);
        request
    }
}

fn parse_size(found: Option<&KeyValue>) -> Result<usize, DiscoveryError> {
    let found = found.ok_or(DiscoveryError::SizeNotFound)?;
    let text = std::str::from_utf8(&found.value).unwrap_or_default();
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err(DiscoveryError::BadSize),
    }
}

fn cluster_of(registry: &Registry, own_key: &[u8]) -> Result<InitialCluster, DiscoveryError> {
    if !registry.members.iter().any(|(key, _)| key == own_key) {
        return Err(DiscoveryError::Full);
    }
    let texts: Vec<&str> = registry
        .members
        .iter()
        .map(|(_, text)| text.as_str())
        .collect();
    let cluster = InitialCluster::parse(&texts.join(",")).map_err(DiscoveryError::BadMember)?;
    if cluster.len() != registry.size || cluster.repeats_url() {
        let text = format!("names or URLs are used twice: {}", texts.join(","));
        return Err(DiscoveryError::BadMember(text));
    }
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(size: usize, members: &[(&str, &str)]) -> Registry {
        let text = |(key, text): &(&str, &str)| (key.as_bytes().to_vec(), (*text).to_owned());
        Registry {
            size,
            members: members.iter().map(text).collect(),
        }
    }

    #[test]
    fn the_first_members_form_the_cluster() {
        let two = registry(
            2,
            &[("1", "a=http://a:1,a=http://a:2"), ("2", "b=http://b:1")],
        );
        let cluster = cluster_of(&two, b"1").unwrap().to_string();
        assert_eq!(cluster, "a=http://a:1,a=http://a:2,b=http://b:1");
        assert!(matches!(cluster_of(&two, b"3"), Err(DiscoveryError::Full)));
        for twice in [
            [("1", "a=http://a:1"), ("2", "a=http://b:1")],
            [("1", "a=http://a:1"), ("2", "b=http://a:1")],
            [("1", "a=http://a:1"), ("2", "garbage")],
        ] {
            let unsound = cluster_of(&registry(2, &twice), b"1");
            assert!(matches!(unsound, Err(DiscoveryError::BadMember(_))));
        }
    }

    #[test]
    fn sizes_are_positive_numbers() {
        let size = |text: &str| {
            let value = text.to_owned().into();
            parse_size(Some(&KeyValue {
                value,
                ..Default::default()
            }))
        };
        assert_eq!(size("3").unwrap(), 3);
        for bad in ["0", "-1", "abc", ""] {
            assert!(matches!(size(bad), Err(DiscoveryError::BadSize)), "{bad}");
        }
        assert!(matches!(
            parse_size(None),
            Err(DiscoveryError::SizeNotFound)
        ));
    }
}
