//! Flags of all commands (contract 8.1). Each is also read from `ETCDCTL_…`.

use std::time::Duration;

use clap::Args;

use crate::flags::{duration, int64};

/// `--command-timeout`, if it is not given.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of all commands.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// gRPC endpoints
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "strings",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    pub(crate) endpoints: Vec<String>,
    /// enable client-side debug logging
    #[arg(long, global = true, hide = true)]
    pub(crate) debug: bool,
    /// set the output format (fields, json, protobuf, simple, table)
    #[arg(
        short = 'w',
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = "simple"
    )]
    pub(crate) write_out: String,
    /// print byte strings as hex encoded strings
    #[arg(long, global = true, hide = true)]
    pub(crate) hex: bool,
    /// dial timeout for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", value_parser = duration,
          default_value = "2s")]
    pub(crate) dial_timeout: Duration,
    /// timeout for short running command (excluding dial timeout) (default 5s)
    #[arg(long, global = true, hide = true, value_name = "duration", value_parser = duration)]
    pub(crate) command_timeout: Option<Duration>,
    /// keepalive time for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", value_parser = duration,
          default_value = "2s")]
    pub(crate) keepalive_time: Duration,
    /// keepalive timeout for client connections
    #[arg(long, global = true, hide = true, value_name = "duration", value_parser = duration,
          default_value = "6s")]
    pub(crate) keepalive_timeout: Duration,
    /// client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)
    #[arg(long, global = true, hide = true, value_name = "int", value_parser = int64,
          default_value = "0")]
    pub(crate) max_request_bytes: i64,
    /// client-side response receive limit in bytes (if 0, it defaults to "math.MaxInt32")
    #[arg(long, global = true, hide = true, value_name = "int", value_parser = int64,
          default_value = "0")]
    pub(crate) max_recv_bytes: i64,
    /// how long offline commands wait for a data directory in use, 0 for ever
    #[arg(long, global = true, hide = true, value_name = "duration", value_parser = duration,
          default_value = "10s")]
    pub(crate) timeout: Duration,
    /// disable transport security for client connections
    #[arg(long, global = true, hide = true, value_name = "bool", value_parser = crate::flags::bool,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", action = clap::ArgAction::Set)]
    pub(crate) insecure_transport: bool,
    /// accept insecure SRV records describing cluster endpoints
    #[arg(long, global = true, hide = true, value_name = "bool", value_parser = crate::flags::bool,
          num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", action = clap::ArgAction::Set)]
    pub(crate) insecure_discovery: bool,
    /// skip server certificate verification (CAUTION: for testing purposes only)
    #[arg(long, global = true, hide = true)]
    pub(crate) insecure_skip_tls_verify: bool,
    /// identify secure client using this TLS certificate file
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) cert: String,
    /// identify secure client using this TLS key file
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) key: String,
    /// verify certificates of TLS-enabled secure servers using this CA bundle
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) cacert: String,
    /// Name and password: `name[:password]`.
    #[arg(
        help = "username[:password] for authentication (prompt if password is not supplied)",
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) user: String,
    /// password for authentication (if used, --user should not include a password)
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) password: String,
    /// JWT token used for authentication (if used, --user and --password should not be set)
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) auth_jwt_token: String,
    /// domain name to query for SRV records describing cluster endpoints
    #[arg(
        short = 'd',
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) discovery_srv: String,
    /// service name to query when using DNS discovery
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "string",
        default_value = ""
    )]
    pub(crate) discovery_srv_name: String,
}

impl Global {
    /// How long a short command may take.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.command_timeout.unwrap_or(COMMAND_TIMEOUT)
    }
}
