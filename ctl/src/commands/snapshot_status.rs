//! `snapshot status`: what a snapshot file holds (contract 8.4). Never changes the file.

use keelson_state::snapshot::Status;
use serde::Serialize;

use super::{one_file, open};
use crate::cli::{self, Global};
use crate::exit::CommandError;
use crate::output::{self, Format, Row};
use crate::size::human;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    hash: u32,
    revision: i64,
    total_key: u64,
    total_size: u64,
    version: &'a str,
}

/// Shows a file.
pub(super) fn run(global: &Global, file: &cli::File) -> Result<(), CommandError> {
    let path = one_file("snapshot status", file)?;
    let format = Format::of(global)?;
    let status = Status::read(&open(path)?).map_err(CommandError::failed)?;
    let shown = Shown {
        hash: status.hash,
        revision: status.revision,
        total_key: status.total_keys,
        total_size: status.total_bytes,
        version: &status.version,
    };
    let row = Row {
        fields: &[
            ("Hash", status.hash.to_string()),
            ("Revision", status.revision.to_string()),
            ("Keys", status.total_keys.to_string()),
            ("Size", status.total_bytes.to_string()),
            ("Version", status.version.clone()),
        ],
        columns: &[
            ("HASH", format!("{:x}", status.hash)),
            ("REVISION", status.revision.to_string()),
            ("TOTAL KEYS", status.total_keys.to_string()),
            ("TOTAL SIZE", human(status.total_bytes)),
            ("VERSION", status.version.clone()),
        ],
    };
    output::print(format, &shown, &row)
}
