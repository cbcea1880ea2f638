//! `compaction`: history goes away (contract 2.6).

use clap::Args;
use keelson_proto::etcdserverpb::CompactionRequest;

use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::decimal;

/// `compaction`.
#[derive(Args, Debug)]
pub(crate) struct Compaction {
    /// All that has been replaced before it goes away
    #[arg(value_name = "revision")]
    revisions: Vec<String>,
    /// 'true' to wait for compaction to physically remove all old revisions
    #[arg(long)]
    physical: bool,
}

/// Compacts. The result is a line in every format.
pub(super) fn run(global: &Global, flags: &Compaction) -> Result<(), CommandError> {
    let [revision] = flags.revisions.as_slice() else {
        return Err(CommandError::arguments(
            "compaction command needs 1 argument",
        ));
    };
    let revision = decimal(revision).map_err(CommandError::Failed)?;
    online(global, async |session| {
        let request = CompactionRequest {
            revision,
            physical: flags.physical,
        };
        session.call().compact(request).await?;
        println!("compacted revision {revision}");
        Ok(())
    })
}
