//! `snapshot status`: what a snapshot file holds (contract 8.4). Never changes the file.

use keelson_state::snapshot::Status;
use serde::Serialize;

use super::file::{File, one_file, open};
use crate::cli::Global;
use crate::exit::CommandError;
use crate::output::{Output, Reply, Table, Text, json};
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
pub(super) fn run(global: &Global, file: &File) -> Result<(), CommandError> {
    let path = one_file("snapshot status", file)?;
    let output = Output::of(global)?;
    let status = Status::read(&open(path)?).map_err(CommandError::failed)?;
    output.show(&Found(status))
}

struct Found(Status);

impl Reply for Found {
    fn fields(&self, out: &mut Text) -> Option<()> {
        let status = &self.0;
        out.field("Hash", status.hash);
        out.field("Revision", status.revision);
        out.field("Keys", status.total_keys);
        out.field("Size", status.total_bytes);
        out.field("Version", &status.version);
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let status = &self.0;
        let mut table = Table::new(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"]);
        table.row(vec![
            format!("{:x}", status.hash),
            status.revision.to_string(),
            status.total_keys.to_string(),
            human(status.total_bytes),
            status.version.clone(),
        ]);
        Some(table)
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        let status = &self.0;
        Some(json::line(&Shown {
            hash: status.hash,
            revision: status.revision,
            total_key: status.total_keys,
            total_size: status.total_bytes,
            version: &status.version,
        }))
    }
}
