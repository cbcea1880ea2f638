//! A channel to an endpoint, and who speaks on it (contract 8.1).

use std::time::Duration;

use keelson::config::GoDuration;
use keelson_proto::etcdserverpb::{AuthenticateRequest, auth_client::AuthClient};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::cli::Global;
use crate::exit::CommandError;

/// Room for messages on their way: a snapshot must not wait for the window of each round trip.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A connection, with the token to send if there is one.
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// A request that carries the token.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Connects to one endpoint, and logs in if there is a user.
pub(crate) async fn connect(global: &Global, endpoint: &str) -> Result<Connection, CommandError> {
    let tls = [&global.cert, &global.key, &global.cacert];
    if endpoint.starts_with("https://") || tls.iter().any(|flag| !flag.is_empty()) {
        let reason = "TLS is not supported by this version";
        return Err(CommandError::BadFeature(reason.to_owned()));
    }
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    let bad = |error: &dyn std::fmt::Display| {
        CommandError::BadConnection(format!("cannot connect to {endpoint}: {error}"))
    };
    let timeout = duration("dial-timeout", &global.dial_timeout)?;
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| bad(&error))?
        .connect_timeout(timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect()
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            bad(&cause.unwrap_or_else(|| error.to_string()))
        })?;
    let token = log_in(global, &channel).await?;
    Ok(Connection { channel, token })
}

async fn log_in(
    global: &Global,
    channel: &Channel,
) -> Result<Option<MetadataValue<Ascii>>, CommandError> {
    if global.user.is_empty() {
        return Ok(None);
    }
    let (name, password) = match global.user.split_once(':') {
        Some((name, password)) => (name, password),
        None if !global.password.is_empty() => (global.user.as_str(), global.password.as_str()),
        None => {
            let reason = "--user needs a password: name:password, or --password";
            return Err(CommandError::BadArguments(reason.to_owned()));
        }
    };
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let mut client = AuthClient::new(channel.clone());
    let answer = client.authenticate(request).await;
    let token = answer.map_err(|status| CommandError::failed(status.message()))?;
    let token = token.into_inner().token.parse();
    token.map(Some).map_err(CommandError::failed)
}

/// Reads a flag's duration.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, CommandError> {
    keelson::config::parse_duration(text).map_err(|_| {
        CommandError::BadArguments(format!(
            "invalid argument {text:?} for \"--{flag}\" flag: time: invalid duration {text:?}"
        ))
    })
}

/// A duration as Go shows it.
pub(crate) fn shown(duration: Duration) -> GoDuration {
    GoDuration(duration)
}
