//! `hashkv`: the hash of a snapshot file's history (contract 8.4). Never changes the file.

use clap::Args;
use keelson_state::snapshot::hash_kv;
use serde::Serialize;

use super::file::{File, one_file, open};
use crate::cli::Global;
use crate::exit::CommandError;
use crate::flags::int64;
use crate::output::{Output, Reply, Table, Text, json};

/// `hashkv`.
#[derive(Args, Debug)]
pub(crate) struct Hashkv {
    #[command(flatten)]
    file: File,
    /// Highest revision to hash (default: the latest)
    #[arg(long, value_parser = int64, default_value = "0")]
    rev: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    hash: u32,
    hash_revision: i64,
    compact_revision: i64,
}

/// Hashes a file.
pub(super) fn run(global: &Global, hashkv: &Hashkv) -> Result<(), CommandError> {
    let path = one_file("hashkv", &hashkv.file)?;
    let output = Output::of(global)?;
    let found = hash_kv(&open(path)?, hashkv.rev).map_err(CommandError::failed)?;
    output.show(&Shown {
        hash: found.hash,
        hash_revision: found.revision,
        compact_revision: found.compact_revision,
    })
}

impl Reply for Shown {
    fn fields(&self, out: &mut Text) -> Option<()> {
        out.field("Hash", self.hash);
        out.field("Hash revision", self.hash_revision);
        out.field("Compact revision", self.compact_revision);
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::new(&["HASH", "HASH REVISION", "COMPACT REVISION"]);
        table.row(vec![
            self.hash.to_string(),
            self.hash_revision.to_string(),
            self.compact_revision.to_string(),
        ]);
        Some(table)
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::line(self))
    }
}
