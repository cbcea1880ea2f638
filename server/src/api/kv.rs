//! The KV service (contract 2.2–2.6).

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, PutRequest, RangeRequest,
    TxnRequest, request_op,
};
use keelson_proto::keelsonpb::command;
use keelson_proto::raw::{self, kv_server};
use keelson_state::apply::Response as Applied;
use keelson_state::mvcc::stream::RangeStream;
use keelson_state::mvcc::txn;
use tonic::{Request, Response, Status};

use super::header::Header;
use super::{metadata, validate};
use crate::node::Node;

/// Keys in the first chunk of a streamed range (contract 2.3).
const CHUNK_KEYS_FIRST: usize = 10;
/// Keys in any chunk.
const CHUNK_KEYS_MAX: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub struct KvService {
    node: Arc<Node>,
    header: Header,
}

impl KvService {
    /// Serves this node's keys.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self { node, header }
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<raw::RangeStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl kv_server::KV for KvService {
    type RangeStreamStream = Chunks;

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<raw::RangeResponse>, Status> {
        if request.get_ref().serializable {
            metadata::check_anywhere(&self.node, request.metadata())?;
        } else {
            metadata::check(&self.node, request.metadata())?;
        }
        let request = request.into_inner();
        validate::range(&request)?;
        let mut response = self.node.range(request).await?;
        response.header = self.header.complete(response.header);
        Ok(Response::new(response))
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let guard = metadata::check_stream(&self.node, request.metadata())?;
        let request = request.into_inner();
        validate::range_stream(&request)?;
        let stream = self.node.range_stream(&request).await?;
        let chunks = ChunkReader {
            stream: Some(stream),
            header: self.header.clone(),
            keys: CHUNK_KEYS_FIRST,
            bytes_max: self.node.config().max_request_bytes,
        };
        let state = (chunks, guard);
        let chunks = futures::stream::try_unfold(state, |(reader, mut guard)| async move {
            tokio::select! {
                next = reader.next() => {
                    Ok(next?.map(|(chunk, reader)| (chunk, (reader, guard))))
                }
                // With an error: a list that is cut off must not look complete.
                status = guard.broken() => Err(status),
            }
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn put(
        &self,
        request: Request<PutRequest>,
    ) -> Result<Response<raw::PutResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        validate::put(&request)?;
        match self.node.propose(command::Request::Put(request)).await? {
            Applied::Put(mut response) => {
                response.header = self.header.complete(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<raw::DeleteRangeResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        validate::delete_range(&request)?;
        match self
            .node
            .propose(command::Request::DeleteRange(request))
            .await?
        {
            Applied::DeleteRange(mut response) => {
                response.header = self.header.complete(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(
        &self,
        request: Request<TxnRequest>,
    ) -> Result<Response<raw::TxnResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        validate::txn(&request, self.node.config().max_txn_ops)?;
        let mut response = if txn::is_read_only(&request) {
            let serializable = is_serializable(&request);
            self.node.read_only_txn(request, serializable).await?
        } else {
            match self.node.propose(command::Request::Txn(request)).await? {
                Applied::Txn(response) => response,
                other => return Err(unexpected(&other)),
            }
        };
        response.header = self.header.complete(response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        match self.node.compact(request.into_inner()).await? {
            Applied::Compaction(mut response) => {
                response.header = self.header.complete(response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// A transaction of ranges is serializable only if every range is (contract 2.5).
fn is_serializable(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|operation| {
            matches!(
                &operation.request,
                Some(request_op::Request::RequestRange(range)) if range.serializable
            )
        })
}

/// Apply answered with the response of another command: a fault of ours, told as such.
fn unexpected(response: &Applied) -> Status {
    let kind = match response {
        Applied::Put(_) => "put",
        Applied::DeleteRange(_) => "delete_range",
        Applied::Txn(_) => "txn",
        Applied::Compaction(_) => "compaction",
        _ => "other",
    };
    tracing::error!(kind, "apply answered with the response of another command");
    Error::Corrupt.into()
}

/// Reads the chunks of a streamed range on the blocking pool, adapting their size.
struct ChunkReader {
    stream: Option<RangeStream>,
    header: Header,
    keys: usize,
    bytes_max: usize,
}

impl ChunkReader {
    async fn next(mut self) -> Result<Option<(raw::RangeStreamResponse, Self)>, Status> {
        let Some(mut stream) = self.stream.take() else {
            return Ok(None);
        };
        let (keys, bytes_max) = (self.keys, self.bytes_max);
        let (stream, chunk) = crate::node::blocking(move || {
            let chunk = stream.next_chunk(keys, bytes_max)?;
            Ok((stream, chunk))
        })
        .await?;
        let Some(mut chunk) = chunk else {
            return Ok(None);
        };
        let bytes: usize = chunk.kvs.iter().map(bytes::Bytes::len).sum();
        self.keys = if bytes >= bytes_max {
            (keys / 2).max(1)
        } else if bytes * 2 <= bytes_max {
            (keys * 2).min(CHUNK_KEYS_MAX)
        } else {
            keys
        };
        if chunk.header.is_some() {
            chunk.header = self.header.complete(chunk.header);
        } else {
            self.stream = Some(stream);
        }
        let response = raw::RangeStreamResponse {
            range_response: Some(chunk),
        };
        Ok(Some((response, self)))
    }
}
