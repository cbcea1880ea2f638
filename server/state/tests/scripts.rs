//! Behaviour of the state as scripts that a person can review (`tests/scripts`).
//!
//! ```text
//! put KEY VALUE [lease=N] [prev=true] [ignore_value=true] [ignore_lease=true]
//! del KEY [END] [prev=true]                     get KEY [END] [rev=N] [limit=N] [order=descend]
//! stream KEY [END] [rev=N] [limit=N] [keys=N]       [target=mod] [count_only=true] [keys_only=true]
//! txn if="TARGET KEY OP X, …" then="put a 1; del a; get a; [COND ? OPS : OPS]" else="…"
//! compact REV    restart    hash [REV]    grant ID TTL    revoke ID    checkpoint ID REMAINING
//! lease ID       leases     alarm ACTION TYPE MEMBER    status
//! ```
//!
//! Keys `\0` are written `"\0"`. Writes show their events as `REV: + key=value` or `- key`, with
//! `was REV` for what prev_kv shows. `UPDATE_GOLDENFILES=1` writes the files anew.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

mod common;

use std::{error::Error, fmt::Write as _};

use common::{Member, decode, refused};
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use keelson_proto::{
    etcdserverpb::{
        AlarmRequest, Compare, DeleteRangeRequest, LeaseCheckpoint, LeaseCheckpointRequest,
        LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare::TargetUnion,
        request_op::Request as Operation,
    },
    keelsonpb::command::Request,
    raw::{self, response_op},
};
use keelson_state::apply::Response;

struct Script {
    member: Option<Member>,
    shown: usize,
}

impl Script {
    fn new() -> Self {
        Self {
            member: Some(Member::new()),
            shown: 0,
        }
    }

    fn member(&mut self) -> &mut Member {
        self.member.as_mut().unwrap()
    }

    fn apply(&mut self, request: Request) -> Result<Response, Box<dyn Error>> {
        Ok(self.member().apply(request)?)
    }

    /// Events since the last time.
    fn events(&mut self) -> String {
        let shown = self.shown;
        let events = self.member().events.lock().unwrap().clone();
        self.shown = events.len();
        let mut out = String::new();
        for (revision, events) in events.iter().skip(shown) {
            write!(out, "  {revision}:").unwrap();
            for event in events {
                let kv = decode(&event.record);
                match event.tombstone {
                    true => write!(out, " -{}", text(&kv.key)),
                    false => write!(out, " +{}={}", text(&kv.key), text(&kv.value)),
                }
                .unwrap();
                if let Some(prev) = event.prev {
                    write!(out, " (was {})", prev.main).unwrap();
                }
            }
            out.push('\n');
        }
        out
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut out = String::new();
        match command.name.as_str() {
            "put" => {
                let request = put(&mut args)?;
                let response = self.apply(Request::Put(request))?;
                let Response::Put(response) = response else {
                    return Err("not a put".into());
                };
                writeln!(out, "{}", show_put(&response))?;
            }
            "del" => {
                let request = delete(&mut args)?;
                let Response::DeleteRange(response) = self.apply(Request::DeleteRange(request))?
                else {
                    return Err("not a delete".into());
                };
                writeln!(out, "{}", show_delete(&response))?;
            }
            "get" => {
                let request = range(&mut args)?;
                let response = self.member().range(&request)?;
                writeln!(out, "{}", show_range(&response))?;
            }
            "stream" => {
                let keys = number(args.take_key("keys"), 2)?;
                let request = range(&mut args)?;
                let mut stream = refused(self.member().reader().range_stream(&request))?;
                while let Some(chunk) = refused(stream.next_chunk(keys as usize, usize::MAX))? {
                    writeln!(out, "{}", show_range(&chunk))?;
                }
            }
            "txn" => {
                let txn = TxnRequest {
                    compare: compares(args.take_key("if").unwrap_or_default())?,
                    success: operations(args.take_key("then").unwrap_or_default())?,
                    failure: operations(args.take_key("else").unwrap_or_default())?,
                };
                if args.take_key("read").is_some() {
                    let response = refused(self.member().reader().txn(&txn))?;
                    write!(out, "{}", show_txn(&response, 0))?;
                } else {
                    let Response::Txn(response) = self.apply(Request::Txn(txn))? else {
                        return Err("not a txn".into());
                    };
                    write!(out, "{}", show_txn(&response, 0))?;
                }
            }
            "compact" => {
                let revision = number(args.next_pos(), 0)?;
                self.member().compact(revision)?;
                writeln!(
                    out,
                    "finished {}",
                    self.member().state.compaction_finished()
                )?;
            }
            "restart" => {
                let mut member = self.member.take().map(Member::restart).unwrap();
                member.finish_compaction();
                self.member = Some(member);
            }
            "hash" => {
                let revision = number(args.next_pos(), 0)?;
                let (hash, compact) = self.member().hash_kv(revision)?;
                writeln!(out, "{hash} compact={compact}")?;
            }
            "grant" => {
                let id = number(args.next_pos(), 0)?;
                let ttl = number(args.next_pos(), 60)?;
                let response = self.apply(Request::LeaseGrant(LeaseGrantRequest { id, ttl }))?;
                let Response::LeaseGrant(response) = response else {
                    return Err("not a grant".into());
                };
                let revision = response.header.map_or(0, |header| header.revision);
                writeln!(
                    out,
                    "rev={revision} id={} ttl={}",
                    response.id, response.ttl
                )?;
            }
            "revoke" => {
                let id = number(args.next_pos(), 0)?;
                self.member().revoke(id)?;
            }
            "checkpoint" => {
                let checkpoint = LeaseCheckpoint {
                    id: number(args.next_pos(), 0)?,
                    remaining_ttl: number(args.next_pos(), 0)?,
                };
                self.apply(Request::LeaseCheckpoint(LeaseCheckpointRequest {
                    checkpoints: vec![checkpoint],
                }))?;
            }
            "lease" => {
                let id = number(args.next_pos(), 0)?;
                let reader = self.member().reader();
                let keys: Vec<String> = reader.lease_keys(id).iter().map(|key| text(key)).collect();
                match reader.lease(id) {
                    Some(lease) => writeln!(
                        out,
                        "ttl={} remaining={} keys={keys:?}",
                        lease.ttl_seconds, lease.remaining_ttl_seconds
                    )?,
                    None => writeln!(out, "none keys={keys:?}")?,
                }
            }
            "leases" => {
                let leases = self.member().reader().leases();
                let ids: Vec<i64> = leases.iter().map(|lease| lease.id).collect();
                writeln!(out, "{ids:?}")?;
            }
            "alarm" => {
                let action = match args.next_pos() {
                    Some("get") => 0,
                    Some("raise") => 1,
                    Some("disarm") => 2,
                    _ => 9,
                };
                let alarm = match args.next_pos() {
                    Some("nospace") => 1,
                    Some("corrupt") => 2,
                    _ => 0,
                };
                let request = AlarmRequest {
                    action,
                    alarm,
                    member_id: number(args.next_pos(), 1)?.cast_unsigned(),
                };
                let Response::Alarm(response) = self.apply(Request::Alarm(request))? else {
                    return Err("not an alarm".into());
                };
                let alarms: Vec<String> = response
                    .alarms
                    .iter()
                    .map(|alarm| format!("{}:{}", alarm.member_id, alarm.alarm().as_str_name()))
                    .collect();
                writeln!(out, "{alarms:?}")?;
            }
            "status" => {
                let reader = self.member().reader();
                writeln!(
                    out,
                    "rev={} compact={} keys={} dbSize={} inUse={}",
                    reader.current_revision(),
                    reader.compact_revision(),
                    reader.keys_total(),
                    reader.db_size_bytes(),
                    reader.in_use_bytes()
                )?;
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        out.push_str(&self.events());
        Ok(out)
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn number(text: Option<&str>, default: i64) -> Result<i64, Box<dyn Error>> {
    Ok(text.map(str::parse).transpose()?.unwrap_or(default))
}

fn put(args: &mut ArgumentConsumer<'_>) -> Result<PutRequest, Box<dyn Error>> {
    Ok(PutRequest {
        lease: number(args.take_key("lease"), 0)?,
        prev_kv: args.take_key("prev").is_some(),
        ignore_value: args.take_key("ignore_value").is_some(),
        ignore_lease: args.take_key("ignore_lease").is_some(),
        key: args.next_pos().unwrap_or_default().to_owned().into(),
        value: args.next_pos().unwrap_or_default().to_owned().into(),
    })
}

fn delete(args: &mut ArgumentConsumer<'_>) -> Result<DeleteRangeRequest, Box<dyn Error>> {
    Ok(DeleteRangeRequest {
        prev_kv: args.take_key("prev").is_some(),
        key: args.next_pos().unwrap_or_default().to_owned().into(),
        range_end: args.next_pos().unwrap_or_default().to_owned().into(),
    })
}

fn range(args: &mut ArgumentConsumer<'_>) -> Result<RangeRequest, Box<dyn Error>> {
    let order = match args.take_key("order") {
        Some("ascend") => 1,
        Some("descend") => 2,
        other => number(other, 0)? as i32,
    };
    let target = match args.take_key("target") {
        Some("version") => 1,
        Some("create") => 2,
        Some("mod") => 3,
        Some("value") => 4,
        other => number(other, 0)? as i32,
    };
    Ok(RangeRequest {
        revision: number(args.take_key("rev"), 0)?,
        limit: number(args.take_key("limit"), 0)?,
        sort_order: order,
        sort_target: target,
        keys_only: args.take_key("keys_only").is_some(),
        count_only: args.take_key("count_only").is_some(),
        min_mod_revision: number(args.take_key("min_mod"), 0)?,
        max_mod_revision: number(args.take_key("max_mod"), 0)?,
        min_create_revision: number(args.take_key("min_create"), 0)?,
        max_create_revision: number(args.take_key("max_create"), 0)?,
        key: args.next_pos().unwrap_or_default().to_owned().into(),
        range_end: args.next_pos().unwrap_or_default().to_owned().into(),
        ..RangeRequest::default()
    })
}

/// `TARGET KEY[..END] OP X`, separated by commas.
fn compares(source: &str) -> Result<Vec<Compare>, Box<dyn Error>> {
    let mut compares = Vec::new();
    for one in source.split(',').filter(|one| !one.trim().is_empty()) {
        let words: Vec<&str> = one.split_whitespace().collect();
        let (Some(target), Some(key), Some(operator)) = (words.first(), words.get(1), words.get(2))
        else {
            return Err(format!("bad compare {one}").into());
        };
        let wanted = words.get(3).copied().unwrap_or_default();
        let (key, range_end) = key.split_once("..").unwrap_or((key, ""));
        let (target, union) = match *target {
            "version" => (0, TargetUnion::Version(wanted.parse()?)),
            "create" => (1, TargetUnion::CreateRevision(wanted.parse()?)),
            "mod" => (2, TargetUnion::ModRevision(wanted.parse()?)),
            "value" => (3, TargetUnion::Value(wanted.to_owned().into())),
            "lease" => (4, TargetUnion::Lease(wanted.parse()?)),
            other => return Err(format!("bad target {other}").into()),
        };
        let result = match *operator {
            "=" => 0,
            ">" => 1,
            "<" => 2,
            "!=" => 3,
            other => return Err(format!("bad operator {other}").into()),
        };
        compares.push(Compare {
            result,
            target,
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            target_union: Some(union),
        });
    }
    Ok(compares)
}

/// Operations separated by `;`, nested transactions as `[COMPARES ? OPERATIONS : OPERATIONS]`.
fn operations(source: &str) -> Result<Vec<RequestOp>, Box<dyn Error>> {
    let mut operations = Vec::new();
    for one in split(source, ';') {
        let one = one.trim();
        if one.is_empty() {
            continue;
        }
        let request = if let Some(nested) = one.strip_prefix('[') {
            let nested = nested.strip_suffix(']').ok_or("bracket")?;
            let (condition, branches) = nested.split_once('?').ok_or("question mark")?;
            let branches = split(branches, ':');
            Operation::RequestTxn(TxnRequest {
                compare: compares(condition)?,
                success: self::operations(branches.first().map_or("", String::as_str))?,
                failure: self::operations(branches.get(1).map_or("", String::as_str))?,
            })
        } else {
            let command = parse(one)?;
            let mut args = command.consume_args();
            match command.name.as_str() {
                "put" => Operation::RequestPut(put(&mut args)?),
                "del" => Operation::RequestDeleteRange(delete(&mut args)?),
                "get" => Operation::RequestRange(range(&mut args)?),
                other => return Err(format!("bad operation {other}").into()),
            }
        };
        operations.push(RequestOp {
            request: Some(request),
        });
    }
    Ok(operations)
}

/// Splits outside brackets.
fn split(source: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in source.chars() {
        depth += i32::from(c == '[') - i32::from(c == ']');
        if c == at && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    parts
}

/// An operation inside a transaction, in the words of a command; `\0` stands for the zero byte.
fn parse(source: &str) -> Result<Command, Box<dyn Error>> {
    let mut words = source.split_whitespace();
    let name = words.next().ok_or("empty operation")?.to_owned();
    let args = words.map(|word| match word.split_once('=') {
        Some((key, value)) => goldenscript::Argument::KeyValue(key.into(), value.into()),
        None => goldenscript::Argument::Positional(word.replace("\\0", "\0")),
    });
    let mut command = None;
    // A command can be made by the parser only; its name and arguments are public.
    struct Capture<'a>(&'a mut Option<Command>);
    impl Runner for Capture<'_> {
        type Command = Command;
        fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
            *self.0 = Some(command.clone());
            Ok(String::new())
        }
    }
    goldenscript::generate(&mut Capture(&mut command), "x\n---\n")?;
    let mut command = command.ok_or("no command")?;
    command.name = name;
    command.args = args.collect();
    Ok(command)
}

fn revision(header: &Option<keelson_proto::etcdserverpb::ResponseHeader>) -> String {
    match header {
        Some(header) => format!("rev={}", header.revision),
        None => "no header".to_owned(),
    }
}

fn show_kv(record: &[u8]) -> String {
    let kv = decode(record);
    let mut out = format!("{}={}", text(&kv.key), text(&kv.value));
    write!(
        out,
        "@{}/{}/{}",
        kv.create_revision, kv.mod_revision, kv.version
    )
    .unwrap();
    if kv.lease != 0 {
        write!(out, "/lease {}", kv.lease).unwrap();
    }
    out
}

fn show_put(response: &raw::PutResponse) -> String {
    let prev = response
        .prev_kv
        .as_ref()
        .map(|prev| format!(" prev {}", show_kv(prev)));
    format!("{}{}", revision(&response.header), prev.unwrap_or_default())
}

fn show_delete(response: &raw::DeleteRangeResponse) -> String {
    let prevs = response
        .prev_kvs
        .iter()
        .map(|prev| format!(" prev {}", show_kv(prev)));
    let prevs: String = prevs.collect();
    format!(
        "{} deleted={}{prevs}",
        revision(&response.header),
        response.deleted
    )
}

fn show_range(response: &raw::RangeResponse) -> String {
    let kvs: String = response
        .kvs
        .iter()
        .map(|kv| format!(" {}", show_kv(kv)))
        .collect();
    let more = if response.more { " more" } else { "" };
    format!(
        "{} count={}{more}{kvs}",
        revision(&response.header),
        response.count
    )
}

fn show_txn(response: &raw::TxnResponse, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let mut out = format!(
        "{indent}{} {}\n",
        revision(&response.header),
        if response.succeeded { "then" } else { "else" }
    );
    for response in &response.responses {
        let shown = match response.response.as_ref().unwrap() {
            response_op::Response::ResponseRange(response) => show_range(response),
            response_op::Response::ResponsePut(response) => show_put(response),
            response_op::Response::ResponseDeleteRange(response) => show_delete(response),
            response_op::Response::ResponseTxn(response) => {
                out.push_str(&show_txn(response, depth + 1));
                continue;
            }
        };
        writeln!(out, "{indent}- {shown}").unwrap();
    }
    out
}

fn run_all(directory: &str) {
    let directory = format!("{}/tests/scripts/{directory}", env!("CARGO_MANIFEST_DIR"));
    let mut scripts: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut Script::new(), script).unwrap();
    }
}

#[test]
fn mvcc() {
    run_all("mvcc");
}

#[test]
fn txn() {
    run_all("txn");
}

#[test]
fn lease() {
    run_all("lease");
}

#[test]
fn hash() {
    run_all("hash");
}

#[test]
fn alarm() {
    run_all("alarm");
}
