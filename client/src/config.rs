//! What a client is told at its start.

use std::time::Duration;

/// Shortest pause between two keepalive pings: gRPC's Go client does not go below it, and servers
/// close connections that ping more often than each 5 s (contract 2.1, "Keepalive").
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);
/// Longest request sent by default: etcd's client has 2 MiB.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Longest response taken by default: what a length in Go's `int32` can say.
const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// Settings of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`, `http://host:port` or `unix://path`, tried in turn.
    pub endpoints: Vec<String>,
    /// How long one attempt to connect may take.
    pub dial_timeout: Duration,
    /// Pause between pings while calls are open; at least 10 s are used.
    pub keepalive_time: Duration,
    /// How long a ping's answer may take until the connection counts as dead.
    pub keepalive_timeout: Duration,
    /// Longest request in bytes; 0 stands for 2 MiB.
    pub request_bytes_max: usize,
    /// Longest response in bytes; 0 stands for 2 GiB.
    pub response_bytes_max: usize,
    /// Who speaks.
    pub credentials: Credentials,
}

/// Who speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    None,
    /// A user, who logs in before the first call and again when the token has become invalid.
    Password {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
    },
    /// A token that somebody else has issued.
    Token(String),
}

impl Config {
    /// Settings for endpoints, all others as etcd's command line has them.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            dial_timeout: Duration::from_secs(2),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            request_bytes_max: 0,
            response_bytes_max: 0,
            credentials: Credentials::None,
        }
    }

    pub(crate) fn ping_pause(&self) -> Duration {
        self.keepalive_time.max(KEEPALIVE_TIME_MIN)
    }

    pub(crate) fn limits(&self) -> Limits {
        let or = |value, default| if value == 0 { default } else { value };
        Limits {
            request_bytes: or(self.request_bytes_max, REQUEST_BYTES_MAX),
            response_bytes: or(self.response_bytes_max, RESPONSE_BYTES_MAX),
        }
    }
}

/// Longest messages.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest request.
    pub request_bytes: usize,
    /// Longest response.
    pub response_bytes: usize,
}
