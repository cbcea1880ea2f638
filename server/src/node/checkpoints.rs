//! Telling Raft of durable checkpoints, and purging the log behind them (design R3, G3).

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error;
use keelson_state::store::{Checkpoint, StoreError};
use tokio::sync::{mpsc, oneshot};

use super::Node;
use super::error::NodeError;
use crate::raft::network::Network;

/// How often a purge that is held back by a checkpoint on its way looks again.
const HELD_PAUSE: Duration = Duration::from_millis(200);

/// Follows the checkpoints of the store.
pub async fn run(
    node: Arc<Node>,
    network: Network,
    mut checkpoints: mpsc::Receiver<Arc<Checkpoint>>,
) {
    let mut purged = 0;
    loop {
        // The node holds the sending side, so the queue does not close by itself.
        let checkpoint = tokio::select! {
            checkpoint = checkpoints.recv() => checkpoint,
            () = node.stopping.cancelled() => return,
        };
        let Some(checkpoint) = checkpoint else { return };
        let index = checkpoint.position().applied_index;
        drop(checkpoint);
        if node.raft().trigger().snapshot().await.is_err() {
            return;
        }
        let mut metrics = node.status().watch_metrics();
        let told = metrics.wait_for(|metrics| {
            metrics
                .snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.index() >= index)
        });
        tokio::select! {
            told = told => if told.is_err() { return },
            () = node.stopping.cancelled() => return,
        }
        let kept = node.config().snapshot_catchup_entries;
        let wanted = node.state.commands.purge_index(index, kept);
        loop {
            // A transfer that begins later is of this checkpoint or of a newer one.
            let limit = network.transfers().purge_limit().unwrap_or(wanted);
            let purge = wanted.min(limit);
            if purge > purged {
                if node.raft().trigger().purge_log(purge).await.is_err() {
                    return;
                }
                purged = purge;
            }
            if purge == wanted {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(HELD_PAUSE) => {}
                () = node.stopping.cancelled() => return,
            }
        }
    }
}

impl Node {
    /// Writes a checkpoint of now and waits until it is durable.
    ///
    /// # Errors
    /// When the disk is full.
    pub async fn checkpoint_now(&self) -> Result<(), NodeError> {
        let frozen = self.state.state.lock().freeze();
        self.wait_for_keeper(|done| self.keeper.checkpoint(frozen, done))
            .await
    }

    /// Rewrites all segments that hold garbage; blocks nobody but the caller (contract 2.10).
    ///
    /// # Errors
    /// When the disk is full.
    pub async fn defragment(&self) -> Result<(), NodeError> {
        let began = tokio::time::Instant::now();
        let _active = Defragmenting::begin(self);
        let frozen = self.state.state.lock().freeze_to_defragment();
        self.wait_for_keeper(|done| self.keeper.defragment(frozen, done))
            .await?;
        self.metrics.defragmented(began.elapsed());
        Ok(())
    }

    pub(super) async fn wait_for_keeper(
        &self,
        ask: impl FnOnce(keelson_state::store::Done),
    ) -> Result<(), NodeError> {
        let (sender, receiver) = oneshot::channel();
        ask(Box::new(move |result| drop(sender.send(result))));
        match receiver.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_fatal() => crate::fatal("write checkpoint", &error),
            // A newer checkpoint says all that this one would have said.
            Ok(Err(StoreError::Superseded)) => Ok(()),
            Ok(Err(error)) => Err(NodeError::Other(error.to_string())),
            Err(_) => Err(Error::Stopped.into()),
        }
    }
}

/// Shows a defragmentation under way, also if its caller goes away.
struct Defragmenting<'a>(&'a Node);

impl<'a> Defragmenting<'a> {
    fn begin(node: &'a Node) -> Self {
        node.metrics.defragmenting(true);
        Self(node)
    }
}

impl Drop for Defragmenting<'_> {
    fn drop(&mut self) {
        self.0.metrics.defragmenting(false);
    }
}
