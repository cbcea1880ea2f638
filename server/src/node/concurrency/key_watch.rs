//! One watch of this member for a call that waits (contract 2.9), without a client's stream.

use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::key_range::KeyRange;
use keelson_state::watch::{EventBatch, Filters, Item, WatchSpec};
use tonic::Status;

use crate::node::Node;
use crate::node::watch_hub::WatchStream;

/// The watch ended without what it was for.
const WATCHER_LOST: &str = "lost watcher waiting for delete";

/// A watch that ends when it is dropped.
pub struct KeyWatch {
    node: Arc<Node>,
    stream: WatchStream,
}

impl KeyWatch {
    /// Watches a range from a revision on.
    ///
    /// # Errors
    /// Stopped.
    pub async fn open(
        node: &Arc<Node>,
        range: KeyRange,
        start_revision: i64,
        filters: Filters,
    ) -> Result<Self, Status> {
        let stopped = |_| Status::from(Error::Stopped);
        let stream = node.watch_hub().open().await.map_err(stopped)?;
        let spec = WatchSpec {
            range,
            start_revision,
            watch_id: 0,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
            filters,
        };
        stream.create(spec).await.map_err(stopped)?;
        let node = Arc::clone(node);
        Ok(Self { node, stream })
    }

    /// Watches for the deletion of one key.
    ///
    /// # Errors
    /// Stopped.
    pub async fn deletions(
        node: &Arc<Node>,
        key: Bytes,
        start_revision: i64,
    ) -> Result<Self, Status> {
        let filters = Filters {
            no_put: true,
            ..Default::default()
        };
        let range = KeyRange::new(key, Bytes::new());
        Self::open(node, range, start_revision, filters).await
    }

    /// The next events; `None` if they are compacted away, which ends the watch.
    ///
    /// # Errors
    /// Stopped.
    pub async fn next(&self) -> Result<Option<EventBatch>, Status> {
        loop {
            let item = tokio::select! {
                item = self.stream.next() => item,
                () = self.node.streams_ended().cancelled() => return Err(Error::Stopped.into()),
            };
            match item {
                Item::Events(batch) => return Ok(Some(batch)),
                Item::Compacted { .. } => return Ok(None),
                Item::Created { .. } | Item::Progress { .. } => {}
                Item::Refused { .. } | Item::Canceled { .. } => {
                    return Err(Status::unknown(WATCHER_LOST));
                }
            }
        }
    }
}
