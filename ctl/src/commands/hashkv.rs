//! `hashkv`: the hash of a snapshot file's history (contract 8.4). Never changes the file.

use keelson_state::snapshot::hash_kv;
use serde::Serialize;

use super::{one_file, open};
use crate::cli::{Global, Hashkv};
use crate::exit::CommandError;
use crate::output::{self, Format, Row};

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
    let format = Format::of(global)?;
    let found = hash_kv(&open(path)?, hashkv.rev).map_err(CommandError::failed)?;
    let shown = Shown {
        hash: found.hash,
        hash_revision: found.revision,
        compact_revision: found.compact_revision,
    };
    let [hash, revision, compact] = [
        found.hash.to_string(),
        found.revision.to_string(),
        found.compact_revision.to_string(),
    ];
    let row = Row {
        fields: &[
            ("Hash", hash.clone()),
            ("Hash revision", revision.clone()),
            ("Compact revision", compact.clone()),
        ],
        columns: &[
            ("HASH", hash),
            ("HASH REVISION", revision),
            ("COMPACT REVISION", compact),
        ],
    };
    output::print(format, &shown, &row)
}
