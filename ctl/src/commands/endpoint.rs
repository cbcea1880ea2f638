//! `endpoint`: what each endpoint says of itself (contract 8.2).

use clap::{Args, Subcommand};

use super::{endpoint_hashkv, endpoint_health, endpoint_status};
use crate::cli::{Global, Ignored};
use crate::exit::CommandError;

/// Commands on endpoints.
#[derive(Args, Debug)]
pub(crate) struct Endpoint {
    /// use all endpoints from the cluster member list
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    what: What,
}

/// What is asked.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
enum What {
    /// Checks the healthiness of endpoints specified in `--endpoints` flag
    Health(Ignored),
    /// Prints out the status of endpoints specified in `--endpoints` flag
    Status(Ignored),
    /// Prints the KV history hash for each endpoint in --endpoints
    Hashkv(endpoint_hashkv::Hashkv),
}

/// Runs one of them.
pub(super) fn run(global: &Global, endpoint: &Endpoint) -> Result<(), CommandError> {
    let cluster = endpoint.cluster;
    match &endpoint.what {
        What::Health(_) => endpoint_health::run(global, cluster),
        What::Status(_) => endpoint_status::run(global, cluster),
        What::Hashkv(flags) => endpoint_hashkv::run(global, cluster, flags),
    }
}
