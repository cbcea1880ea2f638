//! One file a command.

mod defrag;
mod hashkv;
mod migrate;
mod snapshot_restore;
mod snapshot_save;
mod snapshot_status;
mod version;

use std::fs::File;

use keelson::config::{LogFormat, LogLevel, LogOutput, Logging};
use keelson::offline::restore::without_number;
use keelson_state::bolt::{BoltFile, Trust};

use crate::cli::{self, Cli, Command, Snapshot};
use crate::exit::CommandError;

/// Runs what was asked for.
pub(crate) fn run(program: &str, cli: &Cli) -> Result<(), CommandError> {
    let global = &cli.global;
    match &cli.command {
        Command::Snapshot(Snapshot::Save(file)) => snapshot_save::run(global, file),
        Command::Snapshot(Snapshot::Status(file)) => snapshot_status::run(global, file),
        Command::Snapshot(Snapshot::Restore(restore)) => snapshot_restore::run(restore),
        Command::Hashkv(hashkv) => hashkv::run(global, hashkv),
        Command::Defrag(defrag) => defrag::run(global, defrag),
        Command::Migrate(migrate) => migrate::run(global, migrate),
        Command::Version => {
            version::run(program);
            Ok(())
        }
    }
}

/// The one file that a command needs.
fn one_file<'a>(command: &str, files: &'a cli::File) -> Result<&'a str, CommandError> {
    match files.files.as_slice() {
        [file] => Ok(file),
        _ => Err(CommandError::BadArguments(format!(
            "{command} requires exactly one argument"
        ))),
    }
}

/// Opens a snapshot file without looking at the hash at its end, as etcdutl does here.
fn open(path: &str) -> Result<BoltFile<File>, CommandError> {
    let file = File::open(path).map_err(|error| {
        CommandError::Failed(format!("stat {path}: {}", without_number(&error)))
    })?;
    BoltFile::open(file, path, Trust::Nothing).map_err(CommandError::failed)
}

/// Log lines of offline work go to standard error.
fn log_to_stderr() -> Result<(), CommandError> {
    let logging = Logging {
        level: LogLevel::Info,
        format: LogFormat::Console,
        outputs: vec![LogOutput::Stderr],
        warning_unary_request_duration: std::time::Duration::MAX,
    };
    keelson::logging::init(&logging).map_err(CommandError::failed)
}

/// Runs a command that speaks to members.
fn block_on<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::failed)?;
    runtime.block_on(work)
}
