//! Who is first in a line, and each change of it (contract 2.9, Observe).
//!
//! The first key is followed by a watch on it alone: its new values are reported, its deletion leads
//! to another look at the line. An empty line is watched as a whole for its first key.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::key_range::KeyRange;
use keelson_proto::mvccpb;
use keelson_state::watch::{Event, EventBatch, Filters, Indexes};
use prost::Message as _;
use tonic::Status;

use super::key_watch::KeyWatch;
use super::line;
use crate::node::Node;

/// A leader and the revision at which it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// For the header.
    pub revision: i64,
    /// The first key and its value.
    pub kv: mvccpb::KeyValue,
}

/// Follows the first key of a line.
pub struct Observer {
    node: Arc<Node>,
    prefix: Bytes,
    /// The watch on the first key, while there is one.
    following: Option<KeyWatch>,
    /// Seen and not told.
    ready: VecDeque<Seen>,
}

impl Observer {
    /// Follows the line of a name.
    #[must_use]
    pub fn new(node: Arc<Node>, name: &[u8]) -> Self {
        Self {
            node,
            prefix: line::prefix(name),
            following: None,
            ready: VecDeque::new(),
        }
    }

    /// Waits for the next leader, or the next value of the same one.
    ///
    /// # Errors
    /// As [`Node::range`]; Stopped.
    pub async fn next(&mut self) -> Result<Seen, Status> {
        loop {
            if let Some(seen) = self.ready.pop_front() {
                return Ok(seen);
            }
            let Some(following) = &self.following else {
                return self.find().await;
            };
            match following.next().await? {
                Some(batch) => self.take(&batch)?,
                // What happened to the key is compacted away.
                None => self.following = None,
            }
        }
    }

    /// Looks for the first key, waits for one if there is none, and follows it.
    async fn find(&mut self) -> Result<Seen, Status> {
        let seen = loop {
            let (revision, first) = line::first_in_line(&self.node, &self.prefix).await?;
            if let Some(kv) = first {
                break Seen { revision, kv };
            }
            if let Some(kv) = self.first_put(revision + 1).await? {
                // A batch may hold later revisions too; the watch begins right behind this one.
                let revision = kv.mod_revision;
                break Seen { revision, kv };
            }
        };
        let range = KeyRange::new(seen.kv.key.clone(), Bytes::new());
        let start = seen.revision + 1;
        let watch = KeyWatch::open(&self.node, range, start, Filters::default()).await?;
        self.following = Some(watch);
        Ok(seen)
    }

    /// The first put into an empty line; `None` if the line is to be looked at again.
    async fn first_put(&self, start_revision: i64) -> Result<Option<mvccpb::KeyValue>, Status> {
        let range = KeyRange::new(self.prefix.clone(), line::prefix_end(&self.prefix));
        let puts = Filters {
            no_delete: true,
            ..Default::default()
        };
        let watch = KeyWatch::open(&self.node, range, start_revision, puts).await?;
        let Some(batch) = watch.next().await? else {
            return Ok(None);
        };
        events(&batch).next().map(key_value).transpose()
    }

    fn take(&mut self, batch: &EventBatch) -> Result<(), Status> {
        for event in events(batch) {
            if event.tombstone {
                self.following = None;
                break;
            }
            let (revision, kv) = (batch.header_revision, key_value(event)?);
            self.ready.push_back(Seen { revision, kv });
        }
        Ok(())
    }
}

fn events(batch: &EventBatch) -> impl Iterator<Item = &Event> {
    batch.revisions.iter().flat_map(|(revision, indexes)| {
        let wanted = move |index: usize| match indexes {
            Indexes::All => true,
            Indexes::Some(indexes) => indexes.iter().any(|wanted| *wanted as usize == index),
        };
        let events = revision.events.iter().enumerate();
        events
            .filter(move |(index, _)| wanted(*index))
            .map(|(_, event)| event)
    })
}

fn key_value(event: &Event) -> Result<mvccpb::KeyValue, Status> {
    let event = mvccpb::Event::decode(event.encoded()).ok();
    event
        .and_then(|event| event.kv)
        .ok_or_else(|| Error::Corrupt.into())
}
