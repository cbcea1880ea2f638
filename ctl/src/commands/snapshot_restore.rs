//! `snapshot restore`: a data directory of a new cluster from a snapshot file (contract 8.4).

use keelson::offline::restore::{RestoreOptions, restore};

use super::{log_to_stderr, one_file};
use crate::cli::Restore;
use crate::exit::CommandError;

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
