//! put, fill and range: clients that repeat one unary call with another key each time.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::load::options::{LoadOptions, PutOptions, RangeOptions};
use crate::load::run::{Run, run};
use crate::load::template::{Numbers, Template, key};
use crate::transport::{CallError, Connection};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// Which key comes next.
#[derive(Clone, Copy)]
enum Choice {
    Random,
    /// The number of the operation.
    InOrder,
}

/// Whether a reply is one that the workload is about.
type Check = fn(&[u8]) -> Result<(), &'static str>;

pub(crate) fn run_put(load: &LoadOptions, put: &PutOptions) -> anyhow::Result<()> {
    let template = put_template(load, put);
    run_unary(load, "put", PUT, template, Choice::Random, |_| Ok(()))
}

pub(crate) fn run_fill(load: &LoadOptions, put: &PutOptions) -> anyhow::Result<()> {
    let load = LoadOptions {
        total: Some(load.total.unwrap_or(load.key_space)),
        ..load.clone()
    };
    let template = put_template(&load, put);
    run_unary(&load, "fill", PUT, template, Choice::InOrder, |_| Ok(()))
}

pub(crate) fn run_range(load: &LoadOptions, range: &RangeOptions) -> anyhow::Result<()> {
    let request = RangeRequest {
        key: key(0, load.key_size.into()),
        // From the key on to the last one.
        range_end: match range.limit {
            0 => Bytes::new(),
            _ => Bytes::from_static(&[0]),
        },
        limit: range.limit,
        serializable: range.serializable,
        ..Default::default()
    };
    let template = Template::new(&request, load.key_size.into());
    let name = match range.serializable {
        true => "range, serializable",
        false => "range",
    };
    run_unary(load, name, RANGE, template, Choice::Random, check_found)
}

/// The template of a put; its value is the end of the body.
pub(crate) fn put_template(load: &LoadOptions, put: &PutOptions) -> Template {
    let request = PutRequest {
        key: key(0, load.key_size.into()),
        value: Numbers::new(load.seed).bytes(put.value_size as usize),
        ..Default::default()
    };
    Template::new(&request, load.key_size.into())
}

fn run_unary(
    load: &LoadOptions,
    name: &str,
    path: &'static str,
    template: Template,
    choice: Choice,
    check: Check,
) -> anyhow::Result<()> {
    let nothing = async |_: &Arc<Run>, _: &[Connection]| Ok(());
    run(load, name, nothing, |run, number, connection, clients| {
        let numbers = Numbers::new(load.seed + u64::from(number));
        let template = template.clone();
        clients.spawn(async move {
            repeat(&run, connection, path, numbers, choice, &template, check).await
        });
    })
}

async fn repeat(
    run: &Run,
    mut connection: Connection,
    path: &str,
    mut numbers: Numbers,
    choice: Choice,
    template: &Template,
    check: Check,
) -> anyhow::Result<()> {
    let call = connection.call(path)?;
    let mut now = Instant::now();
    while let Some(operation) = run.next_operation(now) {
        let key_number = match choice {
            Choice::Random => numbers.below(run.options.key_space),
            Choice::InOrder => operation % run.options.key_space,
        };
        let body = template.body(key_number).freeze();
        let outcome = match connection.unary(&call, body).await {
            Ok(reply) => check(&reply).map_err(CallError::Unexpected),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => now = run.succeeded(now),
            Err(error) => {
                if !run.failed(&error).await {
                    break;
                }
                now = Instant::now();
            }
        }
    }
    Ok(())
}

/// A RangeResponse with a key: field 1, the header, is followed by field 2. Decoding the whole
/// would cost more than the rest of a call.
fn check_found(reply: &[u8]) -> Result<(), &'static str> {
    let header_bytes = reply.get(1).map_or(0, |length| usize::from(*length));
    match reply.get(2 + header_bytes) {
        Some(0x12) => Ok(()),
        _ => Err("a key is missing: fill the key space first"),
    }
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_reply_with_a_key_is_told_from_one_without() {
        let mut reply = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 7,
                revision: 1 << 40,
                raft_term: 300,
            }),
            ..Default::default()
        };
        assert!(check_found(&reply.encode_to_vec()).is_err());
        reply.count = 3;
        assert!(check_found(&reply.encode_to_vec()).is_err());
        reply.kvs.push(KeyValue::default());
        assert!(check_found(&reply.encode_to_vec()).is_ok());
    }
}
