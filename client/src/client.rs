//! [`Client`]: a call goes to a connected endpoint, and again where that is safe.
//!
//! ```text
//! deadline ─▶ token ─▶ pick an endpoint ─▶ send ─▶ answer
//!                          ▲                 │ no connection was made, or a read and Unavailable
//!                          └─────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::error::Error as ApiError;
use keelson_proto::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Response, Status};

use crate::balancer::Balancer;
use crate::config::{Config, Credentials, Limits};
use crate::endpoint;
use crate::error::Error;
use crate::metadata::{self, Leader};

/// Attempts of one call, as etcd's client has them.
const ATTEMPTS_MAX: u32 = 100;
/// Pause between two attempts, as etcd's client has it.
const PAUSE: Duration = Duration::from_millis(25);

/// A client of one cluster. Clones share connections and login.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
}

struct Shared {
    config: Config,
    balancer: Arc<Balancer>,
    token: Mutex<Token>,
}

#[derive(Default)]
struct Token {
    /// Whether somebody has logged in already, or found that there is nothing to log in to.
    settled: bool,
    value: Option<MetadataValue<Ascii>>,
}

/// Whether a call that may have happened can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It changes nothing.
    Read,
    /// It changes something.
    Write,
}

impl Client {
    /// Begins to connect; must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Endpoints that cannot be understood, or none.
    pub fn new(config: Config) -> Result<Self, Error> {
        if config.endpoints.iter().all(String::is_empty) {
            return Err(Error::NoEndpoints);
        }
        let endpoints: Result<Vec<_>, Error> = config
            .endpoints
            .iter()
            .map(|text| Ok((text.clone(), endpoint::parse(text, &config)?)))
            .collect();
        let token = match &config.credentials {
            Credentials::Token(token) => Token {
                settled: true,
                value: token.parse().ok(),
            },
            Credentials::None => Token {
                settled: true,
                value: None,
            },
            Credentials::Password { .. } => Token::default(),
        };
        let shared = Shared {
            balancer: Balancer::start(endpoints?),
            config,
            token: Mutex::new(token),
        };
        Ok(Self {
            shared: Arc::new(shared),
            deadline: None,
        })
    }

    /// The endpoints that it was given.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.shared.config.endpoints
    }

    /// The same client, whose calls end at latest in so much time from now.
    #[must_use]
    pub fn within(&self, time: Duration) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            deadline: Instant::now().checked_add(time),
        }
    }

    /// The same client without a deadline.
    #[must_use]
    pub fn without_deadline(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            deadline: None,
        }
    }

    /// Logs in, if there is somebody to log in as and it has not been done. Other calls do it by
    /// themselves.
    ///
    /// # Errors
    ///
    /// The server's answer. That authentication is off is not one.
    pub async fn log_in(&self) -> Result<(), Error> {
        self.before_deadline(self.token()).await.map(drop)
    }

    pub(crate) fn limits(&self) -> Limits {
        self.shared.config.limits()
    }

    /// Ends a piece of work at the deadline.
    pub(crate) async fn before_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(deadline) = self.deadline else {
            return work.await;
        };
        if deadline <= Instant::now() {
            return Err(Error::DeadlineExceeded {
                no_connection: None,
            });
        }
        match tokio::time::timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::DeadlineExceeded {
                no_connection: self.shared.balancer.no_connection(),
            }),
        }
    }

    /// One unary call.
    pub(crate) async fn unary<Req, Resp, Call, Calling>(
        &self,
        safety: Safety,
        message: Req,
        call: Call,
    ) -> Result<Resp, Error>
    where
        Req: Message + Clone,
        Call: Fn(Channel, Limits, Request<Req>) -> Calling,
        Calling: Future<Output = Result<Response<Resp>, Status>>,
    {
        let (length, max) = (message.encoded_len(), self.limits().request_bytes);
        if length > max {
            let text = format!("trying to send message larger than max ({length} vs. {max})");
            return Err(Status::resource_exhausted(text).into());
        }
        let send = |channel, limits, token: Option<MetadataValue<Ascii>>| {
            let request = metadata::request(message.clone(), token.as_ref(), Leader::Any);
            call(channel, limits, request)
        };
        self.before_deadline(self.repeated(safety, true, send))
            .await
    }

    /// Opens a stream: sent again only when no connection could be made for it.
    pub(crate) async fn open<Resp, Call, Calling>(&self, call: Call) -> Result<Resp, Error>
    where
        Call: Fn(Channel, Limits, Option<MetadataValue<Ascii>>) -> Calling,
        Calling: Future<Output = Result<Response<Resp>, Status>>,
    {
        let opening = self.repeated(Safety::Write, true, call);
        self.before_deadline(opening).await
    }

    async fn repeated<Resp, Call, Calling>(
        &self,
        safety: Safety,
        with_token: bool,
        call: Call,
    ) -> Result<Resp, Error>
    where
        Call: Fn(Channel, Limits, Option<MetadataValue<Ascii>>) -> Calling,
        Calling: Future<Output = Result<Response<Resp>, Status>>,
    {
        let balancer = &self.shared.balancer;
        let (mut attempts, mut logged_in_again) = (0, false);
        loop {
            let token = if with_token {
                self.token().await?
            } else {
                None
            };
            let picked = balancer.pick().await;
            let called = call(picked.channel.clone(), self.limits(), token);
            let status = match called.await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let unsent = never_sent(&status);
            if unsent || is_broken(&status) {
                balancer.failed(&picked, status.message());
            }
            attempts += 1;
            let stale = with_token && !logged_in_again && self.is_stale(&status);
            if stale {
                logged_in_again = true;
                self.forget_token().await;
                continue;
            }
            let unavailable = status.code() == Code::Unavailable;
            let again = unsent || (safety == Safety::Read && unavailable);
            if !again || attempts >= ATTEMPTS_MAX {
                return Err(status.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the server wants a new login. It has refused the call, so it did not happen.
    fn is_stale(&self, status: &Status) -> bool {
        let password = matches!(self.shared.config.credentials, Credentials::Password { .. });
        let stale = [
            ApiError::InvalidAuthToken,
            ApiError::AuthOldRevision,
            ApiError::UserEmpty,
        ];
        password && ApiError::from_status(status).is_some_and(|error| stale.contains(&error))
    }

    async fn forget_token(&self) {
        *self.shared.token.lock().await = Token::default();
    }

    /// The token to send, logging in for it where that has not been done.
    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Error> {
        let mut token = self.shared.token.lock().await;
        if let (false, Credentials::Password { name, password }) =
            (token.settled, &self.shared.config.credentials)
        {
            let message = AuthenticateRequest {
                name: name.clone(),
                password: password.clone(),
            };
            let call = |channel, _, _| {
                let request = metadata::request(message.clone(), None, Leader::Any);
                async move { AuthClient::new(channel).authenticate(request).await }
            };
            let answer = Box::pin(self.repeated(Safety::Read, false, call)).await;
            token.value = match answer {
                Ok(answer) => answer.token.parse().ok(),
                Err(error) if error.known() == Some(ApiError::AuthNotEnabled) => None,
                Err(error) => return Err(error),
            };
            token.settled = true;
        }
        Ok(token.value.clone())
    }
}

/// Whether a request certainly reached nobody: the connection for it was not made.
fn never_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// Whether the connection is of no more use: an error below gRPC, not an answer.
fn is_broken(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<tonic::transport::Error>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}
