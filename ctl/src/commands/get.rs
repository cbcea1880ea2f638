//! `get`: keys and their values (contract 2.2, 2.3, 8.2).

use clap::Args;
use keelson_client::Client;
use keelson_proto::etcdserverpb::{
    RangeRequest, RangeResponse,
    range_request::{SortOrder, SortTarget},
};

use super::key_range::KeyRange;
use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::int64;
use crate::output::{Format, Output, Reply, Text, json, shown_as_message};

/// `get`.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key, or the first of a range, and the key behind the last
    #[arg(value_name = "key")]
    keys: Vec<String>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    consistency: String,
    /// Order of results; ASCEND or DESCEND (ASCEND by default)
    #[arg(long, default_value = "")]
    order: String,
    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(long, default_value = "")]
    sort_by: String,
    /// Maximum number of results
    #[arg(long, value_parser = int64, default_value = "0")]
    limit: i64,
    /// Get keys with matching prefix
    #[arg(long)]
    prefix: bool,
    /// Get keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    from_key: bool,
    /// Specify the kv revision
    #[arg(long, value_parser = int64, default_value = "0")]
    rev: i64,
    /// Get only the keys
    #[arg(long)]
    keys_only: bool,
    /// Get only the count
    #[arg(long)]
    count_only: bool,
    /// Only write values when using the "simple" output format
    #[arg(long)]
    print_value_only: bool,
    /// Minimum create revision
    #[arg(long, value_parser = int64, default_value = "0")]
    min_create_rev: i64,
    /// Maximum create revision
    #[arg(long, value_parser = int64, default_value = "0")]
    max_create_rev: i64,
    /// Minimum modification revision
    #[arg(long, value_parser = int64, default_value = "0")]
    min_mod_rev: i64,
    /// Maximum modification revision
    #[arg(long, value_parser = int64, default_value = "0")]
    max_mod_rev: i64,
    /// Use the RangeStream RPC
    #[arg(long)]
    stream: bool,
}

/// Gets.
pub(super) fn run(global: &Global, get: &Get) -> Result<(), CommandError> {
    let request = request(get)?;
    let format = Output::of(global)?.format;
    if get.count_only && format != Format::Fields {
        let reason = "--count-only is only for `--write-out=fields`";
        return Err(CommandError::arguments(reason));
    }
    if get.print_value_only && format != Format::Simple {
        let reason = "print-value-only is only for `--write-out=simple`";
        return Err(CommandError::arguments(reason));
    }
    online(global, async |session| {
        let client = session.call();
        let response = if get.stream {
            let time = session.global.command_timeout();
            let streaming = tokio::time::timeout(time, stream(&client, request));
            let late = |_| CommandError::failed("context deadline exceeded");
            streaming.await.map_err(late)??
        } else {
            client.range(request).await?
        };
        if get.print_value_only {
            return session.output.show(&Values(response));
        }
        session.output.show(&response)
    })
}

/// The request that arguments and flags mean.
pub(super) fn request(get: &Get) -> Result<RangeRequest, CommandError> {
    if get.keys.is_empty() {
        let reason = "get command needs one argument as key and an optional argument as range_end";
        return Err(CommandError::arguments(reason));
    }
    let range = KeyRange::of(&get.keys, get.prefix, get.from_key)?;
    if get.keys_only && get.count_only {
        let reason = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(CommandError::arguments(reason));
    }
    let bad = |what: &str| Err(CommandError::BadFeature(what.to_owned()));
    let serializable = match get.consistency.as_str() {
        "s" => true,
        "l" => false,
        other => return bad(&format!("unknown consistency flag {other:?}")),
    };
    let order = match get.order.to_uppercase().as_str() {
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return bad(&format!("bad sort order {}", get.order)),
    };
    let target = match get.sort_by.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return bad(&format!("bad sort target {}", get.sort_by)),
    };
    Ok(RangeRequest {
        key: range.key.into(),
        range_end: range.range_end.into(),
        limit: get.limit,
        revision: get.rev,
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: get.keys_only,
        count_only: get.count_only,
        min_mod_revision: get.min_mod_rev,
        max_mod_revision: get.max_mod_rev,
        min_create_revision: get.min_create_rev,
        max_create_revision: get.max_create_rev,
    })
}

/// A range that comes in pieces, put together again.
async fn stream(client: &Client, request: RangeRequest) -> Result<RangeResponse, CommandError> {
    let mut pieces = client.range_stream(request).await?;
    let mut whole = RangeResponse::default();
    loop {
        let piece = pieces.message().await;
        let piece = piece.map_err(keelson_client::Error::from)?;
        let Some(piece) = piece.and_then(|piece| piece.range_response) else {
            return Ok(whole);
        };
        whole.header = whole.header.or(piece.header);
        whole.kvs.extend(piece.kvs);
        whole.more |= piece.more;
        whole.count = whole.count.max(piece.count);
    }
}

/// A response of which only the values count.
struct Values(RangeResponse);

impl Reply for Values {
    fn simple(&self, out: &mut Text) {
        for kv in &self.0.kvs {
            out.data(&kv.value);
        }
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        None
    }
}

impl Reply for RangeResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        for kv in &self.kvs {
            out.kv(kv);
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        for kv in &self.kvs {
            out.kv_fields("", kv);
        }
        out.field("More", self.more);
        out.field("Count", self.count);
        Some(())
    }
}
