//! What a run found, as text or as one line of JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// The outcome of a run. Rates and latencies are of the measured window, after the warm-up.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub workload: String,
    pub clients: usize,
    pub connections: usize,
    /// Length of the measured window.
    pub seconds: f64,
    /// Operations that ended in the window.
    pub operations: u64,
    /// Operations of the whole run, warm-up included: what a server's CPU time is divided by.
    pub operations_all: u64,
    pub per_second: f64,
    pub errors: u64,
    /// CPU time of the driver itself, over the whole run.
    pub driver_cpu_seconds: f64,
    pub latency: Latency,
    /// What watchers received; absent without watchers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
}

/// Events that arrived at watchers in the window, and how long after their put was sent.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Events {
    pub count: u64,
    pub per_second: f64,
    pub latency: Latency,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Latency {
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

impl Latency {
    /// From a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram) -> Self {
        let micros = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
        Self {
            mean_us: micros(histogram.mean()),
            p50_us: micros(histogram.quantile(0.5)),
            p90_us: micros(histogram.quantile(0.9)),
            p99_us: micros(histogram.quantile(0.99)),
            p999_us: micros(histogram.quantile(0.999)),
            max_us: micros(histogram.max()),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "mean {:.0} µs, p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}",
            self.mean_us, self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us
        )
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{}: {:.0}/s, {} operations in {:.2} s by {} clients over {} connections, {} errors",
            self.workload,
            self.per_second,
            self.operations,
            self.seconds,
            self.clients,
            self.connections,
            self.errors
        )?;
        writeln!(f, "latency: {}", self.latency)?;
        if let Some(events) = &self.events {
            writeln!(
                f,
                "events: {:.0}/s, {} events",
                events.per_second, events.count
            )?;
            writeln!(f, "put to event: {}", events.latency)?;
        }
        write!(f, "driver: {:.2} s of CPU time", self.driver_cpu_seconds)
    }
}
