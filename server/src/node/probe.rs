//! Asks every peer for a sign of life now and then: what the round-trip and connection metrics show
//! (contract 6.4). The call waits for no disk and for no log, and nothing depends on its answer.

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use crate::raft::network::Network;

/// How often peers are asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// A peer that takes longer does not answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks until the node stops.
pub(super) async fn run(node: Arc<Node>, network: Network) {
    let mut due = tokio::time::interval(INTERVAL);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = node.stopping.cancelled() => return,
        }
        let local = node.status().member_id();
        let peers = node.peers().ids().into_iter().filter(|id| *id != local);
        let asked = peers.map(|id| ask(&node, &network, id));
        tokio::select! {
            _ = futures::future::join_all(asked) => {}
            () = node.stopping.cancelled() => return,
        }
    }
}

async fn ask(node: &Node, network: &Network, id: u64) {
    let stats = node.peers().stats(id);
    let began = tokio::time::Instant::now();
    match tokio::time::timeout(TIMEOUT, network.hello(id)).await {
        Ok(true) => stats.answered(began.elapsed()),
        Ok(false) | Err(_) => stats.silent(),
    }
}
