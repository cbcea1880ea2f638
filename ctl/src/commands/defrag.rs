//! `defrag`: members through their endpoints, or a data directory offline (contract 8.2, 8.4).

use std::path::Path;
use std::time::Instant;

use keelson::offline::defrag::defrag;
use keelson_proto::etcdserverpb::{DefragmentRequest, maintenance_client::MaintenanceClient};

use super::{block_on, log_to_stderr};
use crate::cli::{Defrag, Global};
use crate::connect::{connect, duration, shown};
use crate::exit::CommandError;

/// Defragments.
pub(super) fn run(global: &Global, flags: &Defrag) -> Result<(), CommandError> {
    let Some(data_dir) = &flags.data_dir else {
        return block_on(online(global));
    };
    log_to_stderr()?;
    let timeout = duration("timeout", &global.timeout)?;
    defrag(Path::new(data_dir), timeout).map_err(|error| {
        CommandError::Failed(format!(
            "Failed to defragment etcd data[{data_dir}] ({error:#})"
        ))
    })
}

/// One member after the other; all are tried.
async fn online(global: &Global) -> Result<(), CommandError> {
    let mut failures = 0;
    for endpoint in &global.endpoints {
        let began = Instant::now();
        let answer = match connect(global, endpoint).await {
            Ok(connection) => {
                let mut client = MaintenanceClient::new(connection.channel.clone());
                let call = client.defragment(connection.request(DefragmentRequest {}));
                call.await
                    .map(drop)
                    .map_err(|status| status.message().to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        let took = shown(began.elapsed());
        match answer {
            Ok(()) => println!("Finished defragmenting etcd member[{endpoint}]. took {took}"),
            Err(reason) => {
                failures += 1;
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({reason})");
            }
        }
    }
    match failures {
        0 => Ok(()),
        _ => Err(CommandError::Failed(format!(
            "{failures} members were not defragmented"
        ))),
    }
}
