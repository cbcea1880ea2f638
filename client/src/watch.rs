//! A watch that goes on where it was when its member goes away.
//!
//! One watch has one stream. When the stream breaks, it is opened again on another endpoint from the
//! revision after the last one seen: nothing is missed and nothing comes twice, unless it has been
//! compacted meanwhile, which the server then says.

use std::time::Duration;

use keelson_proto::error::Error as ApiError;
use keelson_proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::client::Client;
use crate::error::Error;
use crate::metadata::{self, Leader};

/// Requests on their way on one stream: its create request and progress requests.
const REQUESTS: usize = 16;
/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// One watch, which wants a leader.
pub struct Watch {
    client: Client,
    create: WatchCreateRequest,
    stream: Option<Stream>,
    /// Whether the caller has seen the answer to its creation: that of a later stream is ours alone.
    created: bool,
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watch {
    /// A watch that begins with the first [`Watch::next`].
    #[must_use]
    pub fn new(client: &Client, create: WatchCreateRequest) -> Self {
        Self {
            client: client.clone(),
            create,
            stream: None,
            created: false,
        }
    }

    /// The next response. After one with `canceled` there are none. Nothing is lost when the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// What a new stream would not mend: no leader, no permission.
    pub async fn next(&mut self) -> Result<WatchResponse, Error> {
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = &mut self.stream else {
                continue;
            };
            match stream.responses.message().await {
                Ok(Some(response)) => {
                    self.note(&response);
                    let again = response.created && !response.canceled && self.created;
                    self.created |= response.created;
                    if !again {
                        return Ok(response);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(status) => {
                    let error = Error::from(status);
                    if !is_passing(&error) {
                        return Err(error);
                    }
                }
            }
            self.stream = None;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks for a progress notification, if the watch has a stream.
    pub fn request_progress(&self) {
        let union = RequestUnion::ProgressRequest(WatchProgressRequest {});
        if let Some(stream) = &self.stream {
            // A full queue holds progress requests that are not answered yet: one more says nothing new.
            let _ = stream.requests.try_send(WatchRequest {
                request_union: Some(union),
            });
        }
    }

    /// Notes from where a new stream would go on.
    fn note(&mut self, response: &WatchResponse) {
        if response.canceled {
            return;
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            if self.create.start_revision == 0 {
                self.create.start_revision = revision + 1;
            }
            return;
        }
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        // Without events it is a progress notification: all up to its revision has been sent.
        let seen = last.map_or(revision, |kv| kv.mod_revision);
        self.create.start_revision = self.create.start_revision.max(seen + 1);
    }

    async fn open(&self) -> Result<Stream, Error> {
        loop {
            let opened = self.open_once().await;
            match opened {
                Err(error) if is_passing(&error) => tokio::time::sleep(PAUSE).await,
                opened => return opened,
            }
        }
    }

    async fn open_once(&self) -> Result<Stream, Error> {
        let opened = self.client.open(|channel, limits, token| {
            let (requests, queue) = mpsc::channel(REQUESTS);
            // The queue is new and has room.
            let _ = requests.try_send(WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(self.create.clone())),
            });
            async move {
                let stream = ReceiverStream::new(queue);
                let request = metadata::request(stream, token.as_ref(), Leader::Required);
                let response = WatchClient::new(channel)
                    .max_decoding_message_size(limits.response_bytes)
                    .watch(request)
                    .await?;
                Ok(response.map(|responses| Stream {
                    requests,
                    responses,
                }))
            }
        });
        opened.await
    }
}

/// Whether another stream may do better.
fn is_passing(error: &Error) -> bool {
    let broken = matches!(
        error.code(),
        Some(Code::Unavailable | Code::Internal | Code::Unknown | Code::Cancelled)
    );
    broken && error.known() != Some(ApiError::NoLeader)
}
