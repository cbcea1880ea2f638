//! The Watch service (contract 2.7).
//!
//! A stream has two halves: one reads requests and hands them to the stream's shard, the other turns
//! the queue's items into responses. Half-closing the request side does not end the watches.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, watch_create_request::FilterType, watch_request::RequestUnion,
};
use keelson_proto::key_range::KeyRange;
use keelson_proto::raw::{self, watch_server};
use keelson_state::watch::{EventBatch, Filters, Indexes, Item, WatchSpec};
use rand::Rng as _;
use tonic::{Request, Response, Status, Streaming};

use super::header::Header;
use super::metadata::{self, LeaderGuard};
use crate::node::Node;
use crate::node::watch_hub::WatchStream;

/// Room for the header and the tags of a response beside its events, when fragments are cut.
const ENVELOPE_BYTES: usize = 128;

/// The service.
#[derive(Clone)]
pub struct WatchService {
    node: Arc<Node>,
    header: Header,
}

type Responses = Pin<Box<dyn Stream<Item = Result<raw::WatchResponse, Status>> + Send>>;

impl WatchService {
    /// Serves watches of this node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }
}

#[tonic::async_trait]
impl watch_server::Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let guard = metadata::check_stream(&self.node, request.metadata())?;
        let stream = self
            .node
            .watch_hub()
            .open()
            .await
            .map_err(|_| Status::from(Error::Stopped))?;
        let stream = Arc::new(stream);
        let requests = tokio::spawn(read_requests(
            Arc::clone(&stream),
            request.into_inner(),
            self.node.config().watch_progress_notify_interval,
        ));
        let sender = Sender {
            stream,
            header: self.header.clone(),
            fragment_bytes_max: self.node.config().max_request_bytes + super::GRPC_OVERHEAD_BYTES,
            ready: Vec::new(),
            requests: AbortOnDrop(requests),
            guard,
        };
        let mut responses = Box::pin(futures::stream::unfold(Some(sender), next_response));
        // etcd's headers go out with the first response. Clients take them for the word that the
        // watch is there, and write.
        let first = responses.next().await.transpose()?;
        let first = futures::stream::iter(first.map(Ok));
        Ok(Response::new(Box::pin(first.chain(responses))))
    }
}

/// Ends the reading half with the stream.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands the client's requests to the shard, one after the other, and ticks for progress.
async fn read_requests(
    stream: Arc<WatchStream>,
    mut requests: Streaming<WatchRequest>,
    interval: Duration,
) {
    let jitter = rand::rng().random_range(0.0..0.1);
    let mut ticks = tokio::time::interval(interval.mul_f64(1.0 + jitter));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut open = true;
    loop {
        let sent = tokio::select! {
            request = requests.next(), if open => match request {
                Some(Ok(request)) => {
                    stream.room().await;
                    take_request(&stream, request).await
                }
                // Half-closed, or gone: in the latter case the response side ends too.
                Some(Err(_)) | None => {
                    open = false;
                    Ok(())
                }
            },
            _ = ticks.tick() => stream.progress_tick().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn take_request(
    stream: &WatchStream,
    request: WatchRequest,
) -> Result<(), crate::node::watch_hub::Stopping> {
    match request.request_union {
        Some(RequestUnion::CreateRequest(request)) => stream.create(spec(request)).await,
        Some(RequestUnion::CancelRequest(request)) => stream.cancel(request.watch_id).await,
        Some(RequestUnion::ProgressRequest(_)) => stream.request_progress().await,
        None => Ok(()),
    }
}

fn spec(request: WatchCreateRequest) -> WatchSpec {
    let mut filters = Filters::default();
    for filter in request.filters() {
        match filter {
            FilterType::Noput => filters.no_put = true,
            FilterType::Nodelete => filters.no_delete = true,
        }
    }
    let key = if request.key.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        request.key
    };
    WatchSpec {
        range: KeyRange::new(key, request.range_end),
        start_revision: request.start_revision,
        watch_id: request.watch_id,
        prev_kv: request.prev_kv,
        progress_notify: request.progress_notify,
        fragment: request.fragment,
        filters,
    }
}

/// The sending half of a stream.
struct Sender {
    stream: Arc<WatchStream>,
    header: Header,
    fragment_bytes_max: usize,
    /// Responses made and not sent, last first.
    ready: Vec<raw::WatchResponse>,
    requests: AbortOnDrop,
    guard: LeaderGuard,
}

async fn next_response(
    sender: Option<Sender>,
) -> Option<(Result<raw::WatchResponse, Status>, Option<Sender>)> {
    let mut sender = sender?;
    if let Some(response) = sender.ready.pop() {
        return Some((Ok(response), Some(sender)));
    }
    tokio::select! {
        item = sender.stream.next() => {
            let mut responses = sender.responses(item);
            let first = responses.pop()?;
            sender.ready = responses;
            Some((Ok(first), Some(sender)))
        }
        status = sender.guard.broken() => {
            sender.requests.0.abort();
            Some((Err(status), None))
        }
    }
}

impl Sender {
    /// The responses of an item, last first.
    fn responses(&self, item: Item) -> Vec<raw::WatchResponse> {
        let response = |revision| raw::WatchResponse {
            header: Some(self.header.at(revision)),
            ..Default::default()
        };
        let response = match item {
            Item::Created { watch_id, revision } => raw::WatchResponse {
                watch_id,
                created: true,
                ..response(revision)
            },
            Item::Refused { reason, revision } => raw::WatchResponse {
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..response(revision)
            },
            Item::Canceled { watch_id, revision } => raw::WatchResponse {
                watch_id,
                canceled: true,
                ..response(revision)
            },
            Item::Compacted {
                watch_id,
                compact_revision,
            } => raw::WatchResponse {
                watch_id,
                canceled: true,
                compact_revision,
                ..response(0)
            },
            Item::Progress { watch_id, revision } => raw::WatchResponse {
                watch_id,
                ..response(revision)
            },
            Item::Events(batch) => return self.event_responses(&batch),
        };
        vec![response]
    }

    fn event_responses(&self, batch: &EventBatch) -> Vec<raw::WatchResponse> {
        let response = |events| raw::WatchResponse {
            header: Some(self.header.at(batch.header_revision)),
            watch_id: batch.watch_id,
            events,
            ..Default::default()
        };
        let events = encode_events(batch);
        if !batch.fragment {
            return vec![response(events)];
        }
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut bytes = ENVELOPE_BYTES;
        for event in events {
            if !part.is_empty() && bytes + event.len() >= self.fragment_bytes_max {
                parts.push(response(std::mem::take(&mut part)));
                bytes = ENVELOPE_BYTES;
            }
            // Its tag and length stand before each event.
            bytes += event.len() + 6;
            part.push(event);
        }
        for part in &mut parts {
            part.fragment = true;
        }
        parts.push(response(part));
        parts.reverse();
        parts
    }
}

fn encode_events(batch: &EventBatch) -> Vec<Bytes> {
    let mut encoded = Vec::new();
    for (revision, indexes) in &batch.revisions {
        let mut push = |event: &keelson_state::watch::Event| {
            let with_prev = batch.prev_kv && revision.revision > batch.compact_revision;
            encoded.push(if with_prev {
                match event.encoded_with_prev() {
                    Ok(bytes) => bytes,
                    // The store cannot be read: nothing this member says can be trusted.
                    Err(error) => crate::fatal("read previous value", &error),
                }
            } else {
                event.encoded()
            });
        };
        match indexes {
            Indexes::All => revision.events.iter().for_each(&mut push),
            Indexes::Some(indexes) => indexes
                .iter()
                .filter_map(|index| revision.events.get(*index as usize))
                .for_each(&mut push),
        }
    }
    encoded
}
