//! `endpoint status`: what each member says of itself (contract 2.10, 8.3).

use keelson_proto::etcdserverpb::{StatusRequest, StatusResponse};
use serde::Serialize;

use crate::cli::Global;
use crate::connect::each_endpoint;
use crate::exit::CommandError;
use crate::output::{Reply, Table, Text, json};
use crate::size::human;

/// Asks one after the other; all are asked.
pub(super) fn run(global: &Global, cluster: bool) -> Result<(), CommandError> {
    each_endpoint(global, cluster, async |endpoints| {
        let (mut found, mut failed) = (Vec::new(), false);
        for endpoint in endpoints.all() {
            let answer = match endpoints.client(endpoint) {
                Ok(client) => client.status(StatusRequest {}).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(status) => found.push((endpoint.clone(), status)),
                Err(error) => {
                    eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                    failed = true;
                }
            }
        }
        endpoints.output.show(&Found(found))?;
        if failed {
            return Err(CommandError::Silent(1));
        }
        Ok(())
    })
}

struct Found(Vec<(String, StatusResponse)>);

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    endpoint: &'a str,
    status: json::Shown,
}

impl Reply for Found {
    fn fields(&self, out: &mut Text) -> Option<()> {
        for (endpoint, status) in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            out.header(status.header.as_ref());
            out.quoted("Version", status.version.as_bytes());
            out.quoted("StorageVersion", status.storage_version.as_bytes());
            out.field("DBSize", status.db_size);
            out.field("DBSizeInUse", status.db_size_in_use);
            out.field("DBSizeQuota", status.db_size_quota);
            out.field("Leader", status.leader);
            out.field("IsLearner", status.is_learner);
            out.field("RaftIndex", status.raft_index);
            out.field("RaftTerm", status.raft_term);
            out.field("RaftAppliedIndex", status.raft_applied_index);
            out.field("Errors", format_args!("[{}]", status.errors.join(" ")));
            out.quoted("Endpoint", endpoint.as_bytes());
            out.quoted(
                "DowngradeTargetVersion",
                downgrade.target_version.as_bytes(),
            );
            out.field("DowngradeEnabled", downgrade.enabled);
            out.line("");
        }
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::new(&[
            "ENDPOINT",
            "ID",
            "VERSION",
            "STORAGE VERSION",
            "DB SIZE",
            "IN USE",
            "PERCENTAGE NOT IN USE",
            "QUOTA",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
            "DOWNGRADE TARGET VERSION",
            "DOWNGRADE ENABLED",
        ]);
        for (endpoint, status) in &self.0 {
            table.row(row(endpoint, status));
        }
        Some(table)
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        let shown: Result<Vec<_>, _> = self
            .0
            .iter()
            .map(|(endpoint, status)| {
                let status = json::Shown::new(status, ids)?;
                Ok(Shown { endpoint, status })
            })
            .collect();
        Some(shown.and_then(json::list))
    }
}

fn row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let size = |bytes: i64| human(u64::try_from(bytes).unwrap_or(0));
    let member = status.header.map_or(0, |header| header.member_id);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.to_owned(),
        format!("{member:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{}%", percent_not_in_use(status)),
        match status.db_size_quota {
            0 => String::new(),
            quota => size(quota),
        },
        (status.leader == member).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

fn percent_not_in_use(status: &StatusResponse) -> i64 {
    if status.db_size == 0 {
        return 0;
    }
    100 - status.db_size_in_use.saturating_mul(100) / status.db_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentage_is_of_whole_parts() {
        let status = |db_size, db_size_in_use| StatusResponse {
            db_size,
            db_size_in_use,
            ..Default::default()
        };
        assert_eq!(percent_not_in_use(&status(0, 0)), 0);
        assert_eq!(percent_not_in_use(&status(20_480, 16_384)), 20);
        assert_eq!(percent_not_in_use(&status(3, 2)), 34);
    }
}
