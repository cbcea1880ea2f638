//! `endpoint health`: a linearizable read, and no alarm (contract 8.2).
//!
//! All endpoints are asked at the same time; who answers first is shown first.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use keelson_client::{Client, Error};
use keelson_proto::error::Error as ApiError;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, RangeRequest};
use serde::Serialize;

use crate::cli::Global;
use crate::connect::{Endpoints, each_endpoint};
use crate::exit::{CommandError, warn_no_connection};
use crate::output::{Reply, Table, Text, json};
use keelson::config::GoDuration;

/// The key that is read.
const KEY: &[u8] = b"health";

/// Asks.
pub(super) fn run(global: &Global, cluster: bool) -> Result<(), CommandError> {
    each_endpoint(global, cluster, async |endpoints| {
        let mut asking: FuturesUnordered<_> = endpoints
            .all()
            .iter()
            .map(|endpoint| ask(&endpoints, endpoint))
            .collect();
        let mut found = Vec::new();
        while let Some(health) = asking.next().await {
            found.push(health);
        }
        let healthy = found.iter().all(|health| health.error.is_empty());
        endpoints.output.show(&Found(found))?;
        if healthy {
            return Ok(());
        }
        Err(CommandError::failed("unhealthy cluster"))
    })
}

async fn ask(endpoints: &Endpoints, endpoint: &str) -> Health {
    let began = Instant::now();
    let result = match endpoints.client(endpoint) {
        Ok(client) => check(&client).await,
        Err(error) => Err(error),
    };
    let took = began.elapsed();
    let error = match result {
        Ok(alarms) => alarms,
        Err(error) => {
            if let Error::DeadlineExceeded {
                no_connection: Some(reason),
            } = &error
            {
                warn_no_connection(reason);
            }
            error.to_string()
        }
    };
    Health {
        endpoint: endpoint.to_owned(),
        took,
        error,
    }
}

/// What is wrong; nothing if the text is empty.
async fn check(client: &Client) -> Result<String, Error> {
    let request = RangeRequest {
        key: KEY.into(),
        ..Default::default()
    };
    match client.range(request).await {
        Ok(_) => {}
        // Whoever may not read has been told so by a quorum.
        Err(error) if error.known() == Some(ApiError::PermissionDenied) => return Ok(String::new()),
        Err(error) => return Err(error),
    }
    let Ok(response) = client.alarm(AlarmRequest::default()).await else {
        return Ok("Unable to fetch the alarm list".to_owned());
    };
    if response.alarms.is_empty() {
        return Ok(String::new());
    }
    let mut text = "Active Alarm(s): ".to_owned();
    for alarm in response.alarms {
        let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        text += kind;
        // etcd's command ends with a space, and scripts may compare.
        text.push(' ');
    }
    Ok(text)
}

struct Health {
    endpoint: String,
    took: Duration,
    error: String,
}

struct Found(Vec<Health>);

#[derive(Serialize)]
struct Shown<'a> {
    endpoint: &'a str,
    health: bool,
    took: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

impl Reply for Found {
    fn simple(&self, out: &mut Text) {
        for health in &self.0 {
            let (endpoint, error) = (&health.endpoint, &health.error);
            let took = GoDuration(health.took);
            if error.is_empty() {
                out.line(format_args!(
                    "{endpoint} is healthy: successfully committed proposal: took = {took}"
                ));
            } else {
                eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
            }
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        for health in &self.0 {
            out.quoted("Endpoint", health.endpoint.as_bytes());
            out.field("Health", health.error.is_empty());
            out.field("Took", GoDuration(health.took));
            out.field("Error", &health.error);
            out.line("");
        }
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::new(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"]);
        for health in &self.0 {
            table.row(vec![
                health.endpoint.clone(),
                health.error.is_empty().to_string(),
                GoDuration(health.took).to_string(),
                // A cell's spaces at its ends are not shown.
                health.error.trim().to_owned(),
            ]);
        }
        Some(table)
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        let shown = self.0.iter().map(|health| Shown {
            endpoint: &health.endpoint,
            health: health.error.is_empty(),
            took: GoDuration(health.took).to_string(),
            error: &health.error,
        });
        Some(json::list(shown.collect()))
    }
}
