//! What the offline commands share: their one file, and where they log.

use std::fs;

use clap::Args;
use keelson::config::{LogFormat, LogLevel, LogOutput, Logging};
use keelson::offline::restore::without_number;
use keelson_state::bolt::{BoltFile, Trust};

use crate::exit::CommandError;

/// A command's one file.
#[derive(Args, Debug)]
pub(crate) struct File {
    /// The snapshot file
    #[arg(value_name = "FILENAME")]
    pub(crate) files: Vec<String>,
}

/// The one file that a command needs.
pub(super) fn one_file<'a>(command: &str, files: &'a File) -> Result<&'a str, CommandError> {
    match files.files.as_slice() {
        [file] => Ok(file),
        _ => Err(CommandError::BadArguments(format!(
            "{command} requires exactly one argument"
        ))),
    }
}

/// Opens a snapshot file without looking at the hash at its end, as etcdutl does here.
pub(super) fn open(path: &str) -> Result<BoltFile<fs::File>, CommandError> {
    let file = fs::File::open(path).map_err(|error| {
        CommandError::Failed(format!("stat {path}: {}", without_number(&error)))
    })?;
    BoltFile::open(file, path, Trust::Nothing).map_err(CommandError::failed)
}

/// Log lines of offline work go to standard error.
pub(super) fn log_to_stderr() -> Result<(), CommandError> {
    let logging = Logging {
        level: LogLevel::Info,
        format: LogFormat::Console,
        outputs: vec![LogOutput::Stderr],
        warning_unary_request_duration: std::time::Duration::MAX,
    };
    keelson::logging::init(&logging).map_err(CommandError::failed)
}
