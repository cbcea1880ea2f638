//! `migrate`: whether a data directory is of a storage version (contract 8.4).
//!
//! etcd 3.5 to 3.7 mark their one format differently; Keelson's has one mark, that of 3.7. So a
//! migration to it has nothing to do, and one to another version is refused: a snapshot is the way
//! to another program.

use std::path::Path;

use clap::Args;
use keelson::process::DataDir;

use super::file::log_to_stderr;
use crate::cli::Global;
use crate::exit::CommandError;

/// `migrate`.
#[derive(Args, Debug)]
pub(crate) struct Migrate {
    /// Path to the data directory
    #[arg(long)]
    data_dir: String,
    /// The version to migrate to, "X.Y"
    #[arg(long)]
    target_version: String,
    /// Goes on where a migration is not possible
    #[arg(long)]
    force: bool,
}

/// The oldest version that etcd's tool knows.
const OLDEST: (u64, u64) = (3, 5);
/// Ours.
const CURRENT: (u64, u64) = (3, 7);

/// Migrates.
pub(super) fn run(_global: &Global, flags: &Migrate) -> Result<(), CommandError> {
    let text = &flags.target_version;
    let parsed = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let Some(target) = parsed else {
        return Err(CommandError::BadArguments(format!(
            "wrong target version format, expected \"X.Y\", got {text:?}"
        )));
    };
    if target < OLDEST {
        return Err(CommandError::BadArguments(format!(
            "target version {text:?} not supported. Minimal \"3.5\""
        )));
    }
    log_to_stderr()?;
    let data_dir = Path::new(&flags.data_dir);
    let manifest = data_dir.join("member").join("store").join("manifest");
    if !manifest.exists() {
        return Err(CommandError::Failed(format!(
            "{} holds no member's data",
            data_dir.display()
        )));
    }
    let _lock = DataDir::open(data_dir).map_err(CommandError::failed)?;
    if target == CURRENT {
        eprintln!("storage version up-to-date: 3.7");
        return Ok(());
    }
    let major_minor_patch = format!("{text}.0");
    let reason = if target > CURRENT {
        format!("cannot create migration plan: version {major_minor_patch:?} is not supported")
    } else {
        format!(
            "cannot create migration plan: a Keelson data directory has storage version 3.7 only; \
             take a snapshot for etcd {text}"
        )
    };
    if flags.force {
        return Err(CommandError::Failed(format!(
            "{reason}, --force does not change that"
        )));
    }
    Err(CommandError::Failed(reason))
}
