//! Joining a running cluster (contract 4.1): a member that was added learns from the others who it
//! is, and that they mean it.
//!
//! - Any member answers, linearizably: a quorum stands behind the list. A member that was added does
//!   not count for the quorum before it has published itself, so the others can always answer.
//! - The list must have exactly the members of `--initial-cluster`, by their peer URLs. Names and the
//!   token play no part; the ids are those of the list.
//! - A member that the list shows as started has been here before and lost its data: it must be
//!   removed and added again (design R10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use keelson_proto::etcdserverpb::Member;
use keelson_proto::keelsonpb::{
    MembersRequest, MembersResponse, join_client::JoinClient, join_server,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::config::{Url, same_addresses};
use crate::node::Node;
use crate::node::config::NodeConfig;
use crate::raft::identity::Identity;
use crate::raft::network::PROTOCOL_VERSION;
use crate::raft::peers::{Peers, Purpose};
use crate::raft::service::REMOVED;
use crate::raft::types::{Membership, Node as RaftNode};

/// How long the others are asked before the start fails, as long as a request may take by default.
const ASK_TIMEOUT: Duration = Duration::from_secs(7);
/// Pause between attempts.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// The list of the largest cluster fits easily.
const LIST_BYTES_MAX: usize = 1 << 20;

/// Finds out who this member is in the running cluster, and who the others are.
///
/// # Errors
/// [`Removed`] if it was `known` to them before; when no member answers, the membership differs from `--initial-cluster`, or this member has been
/// part of the cluster before.
pub async fn join(
    config: &NodeConfig,
    known: Option<Identity>,
) -> Result<(Identity, BTreeMap<u64, RaftNode>)> {
    let list = ask(&others(config)).await?;
    if known.is_some_and(|known| was_removed(config, known, &list)) {
        return Err(Removed.into());
    }
    let wanted = config.initial_cluster.clone();
    let members = list.members.clone();
    let matched = tokio::task::spawn_blocking(move || validate(&wanted, &members)).await?;
    let ids = matched
        .map_err(|reason| anyhow!("error validating peerURLs {}: {reason}", describe(&list)))?;
    let local = *ids.get(&config.name).ok_or_else(|| {
        anyhow!(
            "couldn't find local name {:?} in the initial cluster",
            config.name
        )
    })?;
    let known = list.members.iter().find(|member| member.id == local);
    if known.is_some_and(|member| !member.name.is_empty()) {
        bail!(
            "member {local:x} has already been bootstrapped; it cannot start again without its \
             data: remove it from the cluster and add it again"
        );
    }
    let identity = Identity {
        member_id: local,
        cluster_id: list.cluster_id,
    };
    Ok((identity, nodes(list)))
}

/// The member was part of the cluster and is no more (contract 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{REMOVED}")]
pub struct Removed;

/// A member that stopped before anything was logged knows its id; if the others know neither it nor
/// its addresses, it was removed meanwhile.
fn was_removed(config: &NodeConfig, known: Identity, list: &MembersResponse) -> bool {
    let own = config
        .initial_cluster
        .iter()
        .find(|(name, _)| *name == config.name);
    let is_there = |member: &Member| {
        member.id == known.member_id || own.is_some_and(|(_, urls)| same(urls, &member.peer_ur_ls))
    };
    list.cluster_id == known.cluster_id && !list.members.iter().any(is_there)
}

/// Finds the others for a member that restarts and has applied nothing that says who they are.
///
/// - Its log may: without a commit nobody has applied that, but votes must reach those it names.
/// - With a vote and no entry the leader finds it, if it still belongs to the cluster; if it was
///   removed it hears of it only by asking. (Genuine etcd waits for ever.)
pub async fn find_peers(node: Arc<Node>) {
    if !node.peers.ids().is_empty() {
        return;
    }
    let (last, _) = node.runtime.log.ends();
    if last.is_some() {
        let mut metrics = node.status.watch_metrics();
        let named = metrics.wait_for(|metrics| metrics.membership_config.nodes().next().is_some());
        tokio::select! {
            named = named => if named.is_err() { return },
            () = node.stopping.cancelled() => return,
        }
        let membership = metrics.look(|metrics| metrics.membership_config.membership().clone());
        node.peers.set_if_empty(&membership);
        return;
    }
    let others = others(&node.config);
    if others.is_empty() {
        tracing::warn!(
            "this member stopped before it had a log entry, and --initial-cluster names no other \
             member to ask: waiting for the leader"
        );
        return;
    }
    loop {
        let asked = tokio::select! {
            asked = ask(&others) => asked,
            () = node.stopping.cancelled() => return,
        };
        match asked {
            Ok(list) if list.cluster_id == node.status().cluster_id() => {
                let nodes = nodes(list);
                let ids = nodes.keys().copied().collect();
                match Membership::new(vec![ids], nodes) {
                    Ok(membership) => node.peers.set_if_empty(&membership),
                    Err(error) => tracing::warn!(error = %error, "impossible list of members"),
                }
                return;
            }
            Ok(list) => tracing::warn!(
                "remote-peer-cluster-id" = format!("{:x}", list.cluster_id),
                "local-member-cluster-id" = format!("{:x}", node.status().cluster_id()),
                "the members of --initial-cluster are of another cluster"
            ),
            Err(error) => tracing::warn!(error = %error, "cannot find the other members"),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_TIMEOUT) => {}
            () = node.stopping.cancelled() => return,
        }
    }
}

fn others(config: &NodeConfig) -> Vec<&Vec<String>> {
    let members = config.initial_cluster.iter();
    members
        .filter(|(name, _)| *name != config.name)
        .map(|(_, urls)| urls)
        .collect()
}

fn nodes(list: MembersResponse) -> BTreeMap<u64, RaftNode> {
    let nodes = list.members.into_iter().map(|member| {
        let node = RaftNode {
            peer_urls: member.peer_ur_ls,
            pending_voter: false,
        };
        (member.id, node)
    });
    nodes.collect()
}

/// The first member that answers.
async fn ask(others: &[&Vec<String>]) -> Result<MembersResponse> {
    // Their ids are what is asked for: numbers stand for them.
    let nodes: BTreeMap<u64, RaftNode> = (1..)
        .zip(others)
        .map(|(id, urls)| {
            let node = RaftNode {
                peer_urls: urls.to_vec(),
                pending_voter: false,
            };
            (id, node)
        })
        .collect();
    if nodes.is_empty() {
        bail!(
            "cannot fetch cluster info from peer urls: the initial cluster names no other member"
        );
    }
    let peers = Peers::new(0);
    let ids: Vec<u64> = nodes.keys().copied().collect();
    peers.set(&Membership::new(
        vec![ids.iter().copied().collect()],
        nodes,
    )?);
    let deadline = Instant::now() + ASK_TIMEOUT;
    let mut last = None;
    while Instant::now() < deadline {
        for id in &ids {
            let mut client = JoinClient::new(peers.channel(*id, Purpose::Control)?)
                .max_decoding_message_size(LIST_BYTES_MAX);
            let mut request = Request::new(MembersRequest {
                protocol_version: PROTOCOL_VERSION,
            });
            request.set_timeout(ASK_TIMEOUT);
            match tokio::time::timeout_at(deadline, client.members(request)).await {
                Ok(Ok(list)) => return Ok(list.into_inner()),
                Ok(Err(status)) => {
                    peers.unreachable(*id);
                    last = Some(status.message().to_owned());
                }
                Err(_) => break,
            }
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
    tracing::warn!(
        error = last.as_deref().unwrap_or("no answer in time"),
        "could not get cluster information from any peer"
    );
    bail!(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs"
    )
}

/// Ids of the initial cluster's names, if its members are those of the list.
fn validate(
    wanted: &[(String, Vec<String>)],
    members: &[Member],
) -> Result<BTreeMap<String, u64>, String> {
    if wanted.len() != members.len() {
        return Err("member count is unequal".to_owned());
    }
    let mut ids = BTreeMap::new();
    for (name, urls) in wanted {
        let found = members.iter().find(|member| same(urls, &member.peer_ur_ls));
        let Some(member) = found else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({name}={})",
                urls.join(",")
            ));
        };
        ids.insert(name.clone(), member.id);
    }
    let mut distinct: Vec<u64> = ids.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() != members.len() {
        return Err("two names of the initial cluster are the same member".to_owned());
    }
    Ok(ids)
}

fn same(left: &[String], right: &[String]) -> bool {
    let (mut sorted_left, mut sorted_right) = (left.to_vec(), right.to_vec());
    sorted_left.sort_unstable();
    sorted_right.sort_unstable();
    if sorted_left == sorted_right {
        return true;
    }
    let parse = |urls: &[String]| {
        urls.iter()
            .map(|url| Url::parse(url))
            .collect::<Result<Vec<_>, _>>()
    };
    matches!((parse(left), parse(right)), (Ok(left), Ok(right)) if same_addresses(&left, &right))
}

fn describe(list: &MembersResponse) -> String {
    let members: Vec<String> = list
        .members
        .iter()
        .map(|member| format!("{:x}={}", member.id, member.peer_ur_ls.join(",")))
        .collect();
    format!(
        "{{ClusterID:{:x} Members:[{}]}}",
        list.cluster_id,
        members.join(" ")
    )
}

/// Answers members that join.
#[derive(Clone)]
pub struct JoinService {
    node: Arc<Node>,
}

impl JoinService {
    /// Serves the membership as this node knows it.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl join_server::Join for JoinService {
    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        let version = request.get_ref().protocol_version;
        if version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "peer protocol version {version} is not {PROTOCOL_VERSION}"
            )));
        }
        self.node.linearize().await?;
        Ok(Response::new(MembersResponse {
            cluster_id: self.node.status().cluster_id(),
            members: self.node.members(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member {
            id,
            peer_ur_ls: vec![url.to_owned()],
            ..Default::default()
        }
    }

    fn wanted(members: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        let one = |(name, url): &(&str, &str)| ((*name).to_owned(), vec![(*url).to_owned()]);
        members.iter().map(one).collect()
    }

    #[test]
    fn members_are_matched_by_their_addresses() {
        let list = [
            member(7, "http://127.0.0.1:1"),
            member(5, "http://127.0.0.1:2"),
        ];
        let both = [("a", "http://127.0.0.1:2"), ("b", "http://127.0.0.1:1")];
        let ids = validate(&wanted(&both), &list).unwrap();
        assert_eq!((ids["a"], ids["b"]), (5, 7));
        let resolved = [("a", "http://localhost:2"), ("b", "http://127.0.0.1:1")];
        let ids = validate(&wanted(&resolved), &list).unwrap();
        assert_eq!(ids["a"], 5);
        let error = validate(&wanted(&both[..1]), &list).unwrap_err();
        assert_eq!(error, "member count is unequal");
        let other = [("a", "http://127.0.0.1:3"), ("b", "http://127.0.0.1:1")];
        let error = validate(&wanted(&other), &list).unwrap_err();
        assert!(
            error.contains("no match found for existing member"),
            "{error}"
        );
        let twice = [("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:1")];
        assert!(validate(&wanted(&twice), &list).is_err());
    }
}
