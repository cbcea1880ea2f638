//! `snapshot restore`: a data directory of a new cluster from a snapshot file (contract 8.4).

use clap::Args;
use keelson::offline::restore::{RestoreOptions, restore};

use super::file::{File, log_to_stderr, one_file};
use crate::exit::CommandError;
use crate::flags::uint64;

/// `snapshot restore`.
#[derive(Args, Debug)]
pub(crate) struct Restore {
    #[command(flatten)]
    file: File,
    /// Path to the data directory to make
    #[arg(long)]
    data_dir: Option<String>,
    /// Path to the log's directory (within --data-dir if not given)
    #[arg(long)]
    wal_dir: Option<String>,
    /// Name of this member
    #[arg(long, default_value = "default")]
    name: String,
    /// All members of the new cluster
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// Token of the new cluster
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// Peer URLs of this member
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// Does not look at the hash at the end (a database copied from a data directory has none)
    #[arg(long)]
    skip_hash_check: bool,
    /// How much to increase the latest revision by
    #[arg(long, value_parser = uint64, default_value = "0")]
    bump_revision: u64,
    /// Marks the bumped revision as compacted (required with --bump-revision)
    #[arg(long)]
    mark_compacted: bool,
    /// Accepted and not needed: nothing is mapped into memory
    #[arg(long, hide = true, value_parser = uint64, default_value = "0")]
    initial_memory_map_size: u64,
}

/// Restores a file.
pub(super) fn run(flags: &Restore) -> Result<(), CommandError> {
    let file = one_file("snapshot restore", &flags.file)?;
    if (flags.bump_revision > 0) != flags.mark_compacted {
        let reason = "--mark-compacted required if --revision-bump > 0";
        return Err(CommandError::BadArguments(reason.to_owned()));
    }
    log_to_stderr()?;
    let options = RestoreOptions {
        file: file.into(),
        data_dir: flags.data_dir.as_ref().map(Into::into),
        wal_dir: flags.wal_dir.as_ref().map(Into::into),
        name: flags.name.clone(),
        initial_cluster: flags.initial_cluster.clone(),
        initial_cluster_token: flags.initial_cluster_token.clone(),
        initial_advertise_peer_urls: flags.initial_advertise_peer_urls.clone(),
        skip_hash_check: flags.skip_hash_check,
        bump_revision: flags.bump_revision,
    };
    match restore(&options) {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::with_causes(error.as_ref())),
    }
}
