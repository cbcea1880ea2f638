//! `del`: keys go away (contract 2.4, 8.2).

use std::time::Duration;

use clap::Args;
use keelson_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};

use super::key_range::KeyRange;
use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Text, shown_as_message};

/// Time to think again about a range that was given without `--range`.
const REGRET: Duration = Duration::from_secs(2);

/// `del`.
#[derive(Args, Debug)]
pub(crate) struct Del {
    /// The key, or the first of a range, and the key behind the last
    #[arg(value_name = "key")]
    keys: Vec<String>,
    /// delete keys with matching prefix
    #[arg(long)]
    prefix: bool,
    /// return deleted key-value pairs
    #[arg(long)]
    prev_kv: bool,
    /// delete keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    from_key: bool,
    /// delete range of keys
    #[arg(long)]
    range: bool,
}

/// Deletes.
pub(super) fn run(global: &Global, del: &Del) -> Result<(), CommandError> {
    let request = request(del)?;
    online(global, async |session| {
        let response = session.call().delete_range(request).await?;
        session.output.show(&response)
    })
}

/// The request that arguments and flags mean, after a warning where they mean much.
pub(super) fn request(del: &Del) -> Result<DeleteRangeRequest, CommandError> {
    if del.keys.is_empty() || del.keys.len() > 2 {
        let reason = "del command needs one argument as key and an optional argument as range_end";
        return Err(CommandError::arguments(reason));
    }
    let range = KeyRange::of(&del.keys, del.prefix, del.from_key)?;
    if let ([key, end], false) = (del.keys.as_slice(), del.range) {
        eprintln!(
            "Warning: Keys between {key:?} and {end:?} will be deleted. Please interrupt the \
             command within next 2 seconds to cancel. You can provide `--range` flag to avoid the \
             delay."
        );
        std::thread::sleep(REGRET);
    }
    Ok(DeleteRangeRequest {
        key: range.key.into(),
        range_end: range.range_end.into(),
        prev_kv: del.prev_kv,
    })
}

impl Reply for DeleteRangeResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        out.line(self.deleted);
        for kv in &self.prev_kvs {
            out.kv(kv);
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        out.field("Deleted", self.deleted);
        for kv in &self.prev_kvs {
            out.kv_fields("Prev", kv);
        }
        Some(())
    }
}
