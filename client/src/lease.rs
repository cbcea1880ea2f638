//! Keeping a lease alive.
//!
//! A renewal is sent at once and then each third of the lease's time, on one stream; when the stream
//! breaks, on another. Renewing twice does no harm.

use std::time::Duration;

use keelson_proto::error::Error as ApiError;
use keelson_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, lease_client::LeaseClient,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::error::Error;
use crate::metadata::{self, Leader};

/// Renewals on their way on one stream: each waits for its answer.
const REQUESTS: usize = 1;
/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long an answer is waited for before another stream is tried.
const ANSWER: Duration = Duration::from_secs(5);

/// Renews one lease for as long as it is asked for the next answer.
pub struct KeepAlive {
    client: Client,
    id: i64,
    stream: Option<Stream>,
    next: Instant,
    /// When the lease is gone for certain if nobody answers.
    end: Option<Instant>,
}

struct Stream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Renewals that begin with the first [`KeepAlive::next`].
    #[must_use]
    pub fn new(client: &Client, id: i64) -> Self {
        Self {
            client: client.clone(),
            id,
            stream: None,
            next: Instant::now(),
            end: None,
        }
    }

    /// The same for a lease that ends at `end` if nobody answers.
    pub(crate) fn until(client: &Client, id: i64, end: Instant) -> Self {
        Self {
            end: Some(end),
            ..Self::new(client, id)
        }
    }

    /// At most so long, and not beyond the lease's end.
    fn at_most(&self, time: Duration) -> Duration {
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        self.end.map_or(time, |end| time.min(left(end)))
    }

    /// Waits until the next renewal is due and gives its answer; `None` if the lease is gone.
    ///
    /// # Errors
    ///
    /// What a new stream would not mend.
    pub async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        tokio::time::sleep_until(self.next).await;
        loop {
            let sent = Instant::now();
            match tokio::time::timeout(self.at_most(ANSWER), self.renew()).await {
                Ok(Ok(Some(response))) => {
                    if response.ttl <= 0 {
                        return Ok(None);
                    }
                    let ttl = Duration::from_secs(response.ttl.unsigned_abs());
                    self.next = sent + ttl / 3;
                    self.end = Some(sent + ttl);
                    return Ok(Some(response));
                }
                Ok(Err(error)) if is_refusal(&error) => return Err(error),
                // Broken or silent: another stream may do better.
                Ok(Ok(None) | Err(_)) | Err(_) => self.stream = None,
            }
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return Ok(None);
            }
            tokio::time::sleep(self.at_most(PAUSE)).await;
        }
    }

    async fn renew(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Error> {
        let request = LeaseKeepAliveRequest { id: self.id };
        let mut stream = match self.stream.take() {
            Some(stream) => {
                // Its answer is what is waited for next; a full queue means that it hangs.
                let _ = stream.requests.try_send(request);
                stream
            }
            None => self.open(request).await?,
        };
        let response = stream.responses.message().await?;
        if response.is_some() {
            self.stream = Some(stream);
        }
        Ok(response)
    }

    async fn open(&self, first: LeaseKeepAliveRequest) -> Result<Stream, Error> {
        let opened = self.client.open(|channel, limits, token| {
            let (requests, queue) = mpsc::channel(REQUESTS);
            // The queue is new and has room.
            let _ = requests.try_send(first);
            async move {
                let stream = ReceiverStream::new(queue);
                let request = metadata::request(stream, token.as_ref(), Leader::Required);
                let response = LeaseClient::new(channel)
                    .max_decoding_message_size(limits.response_bytes)
                    .lease_keep_alive(request)
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

/// Whether the server does not want this caller.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.known(),
        Some(
            ApiError::PermissionDenied
                | ApiError::InvalidAuthToken
                | ApiError::UserEmpty
                | ApiError::AuthOldRevision
        )
    ) || error.code() == Some(tonic::Code::Unimplemented)
}
