//! `endpoint hashkv`: the hash of each member's history (contract 2.10).

use clap::Args;
use keelson_proto::etcdserverpb::{HashKvRequest, HashKvResponse};
use serde::Serialize;

use crate::cli::Global;
use crate::connect::each_endpoint;
use crate::exit::CommandError;
use crate::flags::int64;
use crate::output::{Reply, Table, Text, json};

/// `endpoint hashkv`.
#[derive(Args, Debug)]
pub(crate) struct Hashkv {
    #[arg(hide = true)]
    ignored: Vec<String>,
    /// maximum revision to hash (default: latest revision)
    #[arg(long, value_parser = int64, default_value = "0")]
    rev: i64,
}

/// Asks one after the other; all are asked, and the last error is the command's.
pub(super) fn run(global: &Global, cluster: bool, flags: &Hashkv) -> Result<(), CommandError> {
    each_endpoint(global, cluster, async |endpoints| {
        let (mut found, mut failure) = (Vec::new(), None);
        for endpoint in endpoints.all() {
            let request = HashKvRequest {
                revision: flags.rev,
            };
            let answer = match endpoints.client(endpoint) {
                Ok(client) => client.hash_kv(request).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(hash) => found.push((endpoint.clone(), hash)),
                Err(error) => {
                    eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                    failure = Some(error);
                }
            }
        }
        endpoints.output.show(&Found(found))?;
        failure.map_or(Ok(()), |error| Err(error.into()))
    })
}

struct Found(Vec<(String, HashKvResponse)>);

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "Endpoint")]
    endpoint: &'a str,
    #[serde(rename = "HashKV")]
    hash: json::Shown,
}

impl Reply for Found {
    fn fields(&self, out: &mut Text) -> Option<()> {
        for (endpoint, hash) in &self.0 {
            out.header(hash.header.as_ref());
            out.quoted("Endpoint", endpoint.as_bytes());
            out.field("Hash", hash.hash);
            out.field("HashRevision", hash.hash_revision);
            out.line("");
        }
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::new(&["ENDPOINT", "HASH", "HASH REVISION"]);
        for (endpoint, hash) in &self.0 {
            table.row(vec![
                endpoint.clone(),
                hash.hash.to_string(),
                hash.hash_revision.to_string(),
            ]);
        }
        Some(table)
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        let shown: Result<Vec<_>, _> = self
            .0
            .iter()
            .map(|(endpoint, hash)| {
                let hash = json::Shown::new(hash, ids)?;
                Ok(Shown { endpoint, hash })
            })
            .collect();
        Some(shown.and_then(json::list))
    }
}
