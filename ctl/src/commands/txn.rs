//! `txn`: compares, and one of two lists of requests, from standard input (contract 2.5, 8.2).
//!
//! ```text
//! mod("key1") > "0"          compares, one a line
//!                            an empty line ends a block
//! put key1 "overwrote-key1"  what happens if all hold
//!
//! put key1 "created-key1"    what happens otherwise
//! put key2 "some extra key"
//! ```

use std::io::BufRead as _;

use clap::Args;
use keelson_proto::etcdserverpb::{
    Compare, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};

use super::{del, get, put, words};
use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::{decimal, hex_i64};
use crate::output::{Reply, Text, shown_as_message};

/// `txn`.
#[derive(Args, Debug)]
pub(crate) struct Txn {
    #[arg(hide = true)]
    args: Vec<String>,
    /// Input transaction in interactive mode
    #[arg(short, long)]
    interactive: bool,
}

/// Reads a transaction and runs it.
pub(super) fn run(global: &Global, txn: &Txn) -> Result<(), CommandError> {
    if !txn.args.is_empty() {
        let reason = "txn command does not accept argument";
        return Err(CommandError::arguments(reason));
    }
    let prompt = |text: &str| {
        if txn.interactive {
            println!("{text}");
        }
    };
    online(global, async |session| {
        prompt("compares:");
        let compare = block(compare)?;
        prompt("success requests (get, put, del):");
        let success = block(request)?;
        prompt("failure requests (get, put, del):");
        let failure = block(request)?;
        let request = TxnRequest {
            compare,
            success,
            failure,
        };
        let response = session.call().txn(request).await?;
        session.output.show(&response)
    })
}

/// Lines until an empty one, each understood.
fn block<T>(understand: fn(&str) -> Result<T, CommandError>) -> Result<Vec<T>, CommandError> {
    let mut understood = Vec::new();
    loop {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let bytes = read.map_err(|error| CommandError::InvalidInput(error.to_string()))?;
        if bytes == 0 || !line.ends_with('\n') {
            return Err(CommandError::InvalidInput("EOF".to_owned()));
        }
        if line == "\n" {
            return Ok(understood);
        }
        understood.push(understand(line.trim())?);
    }
}

/// `target("key") operator "value"`.
fn compare(line: &str) -> Result<Compare, CommandError> {
    let malformed =
        |reason: &str| CommandError::InvalidInput(format!("malformed comparison: {line}{reason}"));
    let (target, rest) = line.split_once('(').ok_or_else(|| malformed(""))?;
    let mut found = Found::default();
    if found.read(rest).is_none() {
        let Found {
            key,
            operator,
            value,
        } = found;
        return Err(malformed(&format!(
            "; got {target}({key:?}) {operator} {value:?}"
        )));
    }
    let Found {
        key,
        operator,
        value,
    } = found;
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        // etcd's tool panics here.
        _ => return Err(malformed(&format!(" (unknown operator {operator})"))),
    };
    let invalid = |_| CommandError::InvalidInput(format!("invalid txn compare request: {line}"));
    let (target, union) = match target {
        "ver" | "version" => (
            CompareTarget::Version,
            TargetUnion::Version(decimal(&value).map_err(invalid)?),
        ),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(decimal(&value).map_err(invalid)?),
        ),
        "m" | "mod" => (
            CompareTarget::Mod,
            TargetUnion::ModRevision(decimal(&value).map_err(invalid)?),
        ),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        // etcd's tool panics for each; here it is an id in hexadecimal, as everywhere.
        "lease" => (
            CompareTarget::Lease,
            TargetUnion::Lease(hex_i64(&value).map_err(invalid)?),
        ),
        _ => return Err(malformed(&format!(" (unknown target {target})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// The parts of a comparison that were there.
#[derive(Default)]
struct Found {
    key: String,
    operator: String,
    value: String,
}

impl Found {
    /// Reads what stands behind the parenthesis, as far as it goes.
    fn read(&mut self, text: &str) -> Option<()> {
        let (key, rest) = words::quoted(text.trim_start())?;
        self.key = key?;
        let rest = rest.strip_prefix(')')?.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (operator, rest) = rest.split_at(end);
        operator.clone_into(&mut self.operator);
        let (value, _) = words::quoted(rest.trim_start())?;
        self.value = value?;
        Some(())
    }
}

/// `get`, `put` or `del` with its arguments and flags.
fn request(line: &str) -> Result<RequestOp, CommandError> {
    let invalid = |what: &str| CommandError::InvalidInput(format!("{what}: {line}"));
    let words = words::split(line).unwrap_or_default();
    let (command, args) = match words.as_slice() {
        [command, args @ ..] if !args.is_empty() => (command.as_str(), args),
        _ => return Err(invalid("invalid txn compare request")),
    };
    let unknown = || invalid("invalid txn request");
    let request = match command {
        "get" => {
            let get: get::Get = words::flags(args).ok_or_else(unknown)?;
            Request::RequestRange(get::request(&get)?)
        }
        "put" => {
            let put: put::Put = words::flags(args).ok_or_else(unknown)?;
            Request::RequestPut(put::request(&put, put::Input::Nothing)?)
        }
        "del" => {
            let del: del::Del = words::flags(args).ok_or_else(unknown)?;
            Request::RequestDeleteRange(del::request(&del)?)
        }
        _ => return Err(unknown()),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

impl Reply for TxnResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        out.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for op in &self.responses {
            out.line("");
            match &op.response {
                Some(Response::ResponseRange(response)) => response.simple(out),
                Some(Response::ResponsePut(response)) => response.simple(out),
                Some(Response::ResponseDeleteRange(response)) => response.simple(out),
                // The tool sends none of them.
                Some(Response::ResponseTxn(response)) => response.simple(out),
                None => out.line("unexpected response"),
            }
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        out.field("Succeeded", self.succeeded);
        for op in &self.responses {
            match op.response.as_ref()? {
                Response::ResponseRange(response) => response.fields(out)?,
                Response::ResponsePut(response) => response.fields(out)?,
                Response::ResponseDeleteRange(response) => response.fields(out)?,
                Response::ResponseTxn(response) => response.fields(out)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        compare(line).unwrap_err().to_string()
    }

    #[test]
    fn comparisons_are_read_as_etcd_does() {
        let read = compare(r#"value("a\"b") != "x y""#).unwrap();
        assert_eq!(&read.key[..], b"a\"b");
        assert_eq!(read.result(), CompareResult::NotEqual);
        assert_eq!(read.target_union, Some(TargetUnion::Value("x y".into())));
        let lease = compare(r#"lease("a") = "1f""#).unwrap();
        assert_eq!(lease.target_union, Some(TargetUnion::Lease(31)));
        assert_eq!(error("bad"), "malformed comparison: bad");
        assert_eq!(
            error(r#"mod("key1") = 5"#),
            r#"malformed comparison: mod("key1") = 5; got mod("key1") = """#
        );
        assert_eq!(
            error("value(key1) = 5"),
            r#"malformed comparison: value(key1) = 5; got value("")  """#
        );
        assert_eq!(
            error(r#"v("key1") = "1""#),
            r#"malformed comparison: v("key1") = "1" (unknown target v)"#
        );
        assert_eq!(
            error(r#"mod("key1") = "x""#),
            r#"invalid txn compare request: mod("key1") = "x""#
        );
    }
}
