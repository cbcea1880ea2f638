//! `defrag`: members through their endpoints, or a data directory offline (contract 8.2, 8.4).

use std::path::Path;
use std::time::Instant;

use clap::Args;
use keelson::config::GoDuration;
use keelson::offline::defrag::defrag;
use keelson_proto::etcdserverpb::DefragmentRequest;

use super::file::log_to_stderr;
use crate::cli::Global;
use crate::connect::each_endpoint;
use crate::exit::CommandError;

/// `defrag`.
#[derive(Args, Debug)]
pub(crate) struct Defrag {
    #[arg(hide = true)]
    ignored: Vec<String>,
    /// use all endpoints from the cluster member list
    #[arg(long)]
    cluster: bool,
    /// A data directory that no server uses
    #[arg(long)]
    data_dir: Option<String>,
}

/// Defragments.
pub(super) fn run(global: &Global, flags: &Defrag) -> Result<(), CommandError> {
    let Some(data_dir) = &flags.data_dir else {
        return online(global, flags.cluster);
    };
    log_to_stderr()?;
    defrag(Path::new(data_dir), global.timeout).map_err(|error| {
        CommandError::Failed(format!(
            "Failed to defragment etcd data[{data_dir}] ({error:#})"
        ))
    })
}

/// One member after the other; all are tried.
fn online(global: &Global, cluster: bool) -> Result<(), CommandError> {
    each_endpoint(global, cluster, async |endpoints| {
        let mut failed = false;
        for endpoint in endpoints.all() {
            let began = Instant::now();
            let answer = match endpoints.client(endpoint) {
                Ok(client) => client.defragment(DefragmentRequest {}).await,
                Err(error) => Err(error),
            };
            let took = GoDuration(began.elapsed());
            match answer {
                Ok(_) => println!("Finished defragmenting etcd member[{endpoint}]. took {took}"),
                Err(error) => {
                    failed = true;
                    eprintln!(
                        "Failed to defragment etcd member[{endpoint}]. took {took}. ({error})"
                    );
                }
            }
        }
        if failed {
            return Err(CommandError::Silent(1));
        }
        Ok(())
    })
}
