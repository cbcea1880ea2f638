//! Greeting the other members: who is reachable, and whether this one still belongs to them.
//!
//! - Every member greets every other one a few times per election timeout. Raft's own messages pass
//!   between the leader and the others only, but any member may become the leader that is asked
//!   whether a quorum has been connected for a while (contract 2.11).
//! - A removed member hears of it here: the log that says so no longer reaches it (contract 4.3).
//! - A member without data bootstraps only once the peers that it needs for a quorum have answered,
//!   and none of them knows it. Nothing is lost by waiting: without them it could do nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use keelson_proto::keelsonpb::{HelloRequest, HelloResponse, raft_client::RaftClient};

use crate::node::Node;
use crate::raft::network::{Network, PROTOCOL_VERSION};
use crate::raft::peers::{Peers, Purpose};
use crate::raft::service::REMOVED;
use crate::raft::types::Node as RaftNode;

/// Greetings per election timeout: one that is lost or late does not count as a silence.
const GREETINGS_PER_ELECTION: u32 = 4;
/// How long a peer may take to answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between attempts to reach the peers of a bootstrap.
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(100);
/// Attempts between log lines about a bootstrap that waits.
const ATTEMPTS_PER_LINE: u32 = 50;
/// How long a member that learns of its removal goes on: it may have to hand over leadership, and
/// to answer the request that removed it (contract 4.3).
const REMOVED_DELAY: Duration = Duration::from_secs(1);

/// Greets the members.
#[derive(Clone)]
pub struct Greeter {
    /// Connections.
    pub peers: Arc<Peers>,
    /// Fills the envelope.
    pub network: Network,
    /// This member's cluster.
    pub cluster_id: u64,
}

impl Greeter {
    async fn greet(&self, id: u64) -> Option<HelloResponse> {
        let channel = self.peers.channel(id, Purpose::Control).ok()?;
        let hello = HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.cluster_id,
            from: self.peers.local_id(),
            to: id,
            server_version: keelson_proto::SERVER_VERSION.to_owned(),
        };
        let mut request = self.network.request(id, hello);
        request.set_timeout(HELLO_TIMEOUT);
        let mut client = RaftClient::new(channel);
        let answer = tokio::time::timeout(HELLO_TIMEOUT, client.hello(request)).await;
        match answer {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(_)) | Err(_) => {
                self.peers.unreachable(id);
                None
            }
        }
    }

    /// One round: every other member that is known.
    async fn round(&self) -> Vec<(u64, Option<HelloResponse>)> {
        let others = self.peers.others();
        join_all(
            others
                .into_iter()
                .map(|id| async move { (id, self.greet(id).await) }),
        )
        .await
    }
}

/// Greets until the member stops or hears that it was removed.
pub async fn run(node: Arc<Node>, greeter: Greeter) {
    let timeout = node.config.election_timeout;
    let mut next = tokio::time::interval(timeout / GREETINGS_PER_ELECTION);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let local = greeter.peers.local_id();
    loop {
        tokio::select! {
            _ = next.tick() => {}
            () = node.stopping.cancelled() => return,
        }
        let mut removed = node.reader.members(|members| members.is_removed(local));
        for (id, answer) in greeter.round().await {
            let Some(answer) = answer
                .filter(|answer| (answer.cluster_id, answer.member_id) == (greeter.cluster_id, id))
            else {
                continue;
            };
            greeter.peers.heard(id, timeout);
            removed |= answer.removed;
        }
        if removed {
            tokio::time::sleep(REMOVED_DELAY).await;
            node.removed.cancel();
            return;
        }
    }
}

impl Node {
    /// Ends when this member has been removed from the cluster for good.
    pub async fn removed(&self) {
        self.removed.cancelled().await;
    }

    /// Bootstraps if this member has not been part of a cluster yet: waits for its peers, and then
    /// starts Raft with them.
    ///
    /// # Errors
    /// When a peer belongs to another cluster, or knows this member: it has lost its data, and could
    /// vote acknowledged writes away (design R10, openraft-notes 7).
    pub(in crate::node) async fn bootstrap(&self) -> Result<()> {
        let Some(members) = self.bootstrap.lock().take() else {
            return Ok(());
        };
        // A round that is cancelled is begun anew by nobody: the member is being stopped.
        self.wait_for_peers(&members).await?;
        // The first entry is durable before others are heard: a member that voted without it could
        // never stand for election itself, should whom it elected be gone.
        self.raft
            .initialize(members)
            .await
            .context("cannot bootstrap")?;
        tracing::info!("appended the membership of the bootstrap");
        self.admitted
            .store(true, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    async fn wait_for_peers(&self, members: &BTreeMap<u64, RaftNode>) -> Result<()> {
        // With this member they are a quorum.
        let needed = members.len() / 2;
        for attempt in 0_u32.. {
            let (mut strangers, mut undecided) = (0, 0);
            for (id, answer) in self.greeter.round().await {
                let Some(answer) = answer else { continue };
                if is_stranger_to(id, &answer, self.greeter.cluster_id)? {
                    strangers += 1;
                } else {
                    undecided += 1;
                }
            }
            if strangers >= needed {
                break;
            }
            if attempt % ATTEMPTS_PER_LINE == ATTEMPTS_PER_LINE - 1 {
                tracing::warn!(
                    "peers-heard" = strangers,
                    "peers-needed" = needed,
                    // They have voted, and do not know yet what became of it.
                    "peers-undecided" = undecided,
                    "waiting for a quorum of the initial cluster"
                );
            }
            tokio::time::sleep(BOOTSTRAP_PAUSE).await;
        }
        Ok(())
    }
}

/// Whether this member is certainly new to a peer; not if the peer cannot tell.
fn is_stranger_to(id: u64, answer: &HelloResponse, cluster_id: u64) -> Result<bool> {
    if answer.cluster_id != cluster_id {
        bail!(
            "peer {id:x} belongs to cluster {:x}, not to {cluster_id:x}",
            answer.cluster_id
        );
    }
    if answer.removed {
        bail!("{REMOVED}");
    }
    if answer.published {
        bail!("member has already been bootstrapped; it cannot start again without its data");
    }
    Ok(!answer.undecided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_bootstraps_only_as_a_stranger() {
        let answer = HelloResponse {
            cluster_id: 7,
            ..Default::default()
        };
        let told = |answer: HelloResponse| is_stranger_to(1, &answer, 7);
        assert!(told(answer.clone()).unwrap());
        assert!(
            !told(HelloResponse {
                undecided: true,
                ..answer.clone()
            })
            .unwrap()
        );
        for known in [
            HelloResponse {
                cluster_id: 8,
                ..answer.clone()
            },
            HelloResponse {
                removed: true,
                ..answer.clone()
            },
            HelloResponse {
                published: true,
                undecided: true,
                ..answer
            },
        ] {
            assert!(told(known).is_err());
        }
    }
}
