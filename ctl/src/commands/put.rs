//! `put`: a key's value (contract 2.4, 8.2).

use std::io::Read as _;

use clap::Args;
use keelson_proto::etcdserverpb::{PutRequest, PutResponse};

use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::hex_i64;
use crate::output::{Reply, Text, shown_as_message};

/// `put`.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key, and its value if it does not come from standard input
    #[arg(value_name = "key")]
    args: Vec<String>,
    /// lease ID (in hexadecimal) to attach to the key
    #[arg(long, default_value = "0")]
    lease: String,
    /// return the previous key-value pair before modification
    #[arg(long)]
    prev_kv: bool,
    /// updates the key using its current value
    #[arg(long)]
    ignore_value: bool,
    /// updates the key using its current lease
    #[arg(long)]
    ignore_lease: bool,
}

/// Puts.
pub(super) fn run(global: &Global, put: &Put) -> Result<(), CommandError> {
    let request = request(put, Input::Standard)?;
    online(global, async |session| {
        let response = session.call().put(request).await?;
        session.output.show(&response)
    })
}

/// Where a value comes from that is no argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Standard,
    /// Standard input says other things.
    Nothing,
}

/// The request that arguments and flags mean.
pub(super) fn request(put: &Put, input: Input) -> Result<PutRequest, CommandError> {
    let missing = || {
        CommandError::arguments("put command needs 1 argument and input from stdin or 2 arguments")
    };
    let mut args = put.args.iter();
    let key = args.next().ok_or_else(missing)?;
    let given = args.next();
    if put.ignore_value && given.is_some() {
        let reason = "put command needs only 1 argument when 'ignore-value' is set";
        return Err(CommandError::arguments(reason));
    }
    let value = match given {
        Some(value) => value.clone().into_bytes(),
        None if put.ignore_value => Vec::new(),
        None => {
            let mut value = Vec::new();
            if input == Input::Standard {
                let read = std::io::stdin().lock().read_to_end(&mut value);
                read.map_err(|_| missing())?;
            }
            if value.is_empty() {
                return Err(missing());
            }
            value
        }
    };
    let lease = hex_i64(&put.lease).map_err(|error| {
        CommandError::BadArguments(format!("bad lease ID ({error}), expecting ID in Hex"))
    })?;
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    })
}

impl Reply for PutResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        out.line("OK");
        if let Some(kv) = &self.prev_kv {
            out.kv(kv);
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        if let Some(kv) = &self.prev_kv {
            out.kv_fields("Prev", kv);
        }
        Some(())
    }
}
