//! One run of a workload on one thread: connections, the measured window, counting.
//!
//! All clients are tasks of one single-threaded runtime: with hundreds of them ready at a time,
//! what they send leaves in few writes, and nothing is shared between cores. Invariants:
//! - An operation counts if its reply came within the window, whenever it was sent.
//! - A failed call is never counted as an operation; any failure makes the whole run fail.
//! - A run that makes no progress for [`STALL_TIMEOUT`] ends with an error.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::histogram::Histogram;
use crate::load::options::LoadOptions;
use crate::machine;
use crate::report::{Events, Latency, Report};
use crate::transport::{CallError, Connection};

/// Longer than any election or stalled disk that a run should survive.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough not to flood a cluster that has no leader, short beside an election.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// What the clients of a run share.
pub(crate) struct Run {
    pub options: LoadOptions,
    /// When values and windows count from.
    pub origin: Instant,
    /// Unset during the preparation.
    window: OnceLock<Range<Instant>>,
    /// Operations begun.
    begun: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug)]
struct Record {
    latency: Histogram,
    events: Histogram,
    operations_all: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Run {
    fn new(options: &LoadOptions) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            origin: Instant::now(),
            window: OnceLock::new(),
            begun: AtomicU64::new(0),
            record: Mutex::new(Record {
                latency: Histogram::new(),
                events: Histogram::new(),
                operations_all: 0,
                errors: 0,
                first_error: None,
            }),
        })
    }

    /// The number of the next operation, or `None` when the run is over.
    pub(crate) fn next_operation(&self, now: Instant) -> Option<u64> {
        if self.window.get().is_none_or(|window| now >= window.end) {
            return None;
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        match self.options.total {
            Some(total) if number >= total => None,
            _ => Some(number),
        }
    }

    /// Counts the operation that was sent at `began` and has just been answered; returns now.
    pub(crate) fn succeeded(&self, began: Instant) -> Instant {
        let now = Instant::now();
        let mut record = self.record();
        record.operations_all += 1;
        if self.measures(now) {
            record.latency.record(nanos(now - began));
        }
        now
    }

    /// Counts a failed call. False when the client cannot go on.
    pub(crate) async fn failed(&self, error: &CallError) -> bool {
        {
            let mut record = self.record();
            record.errors += 1;
            record.first_error.get_or_insert_with(|| error.to_string());
        }
        if matches!(error, CallError::Broken(_)) {
            return false;
        }
        sleep(RETRY_DELAY).await;
        true
    }

    /// Counts an event whose put was sent `sent` after the origin.
    pub(crate) fn event_arrived(&self, sent: Duration) {
        let now = Instant::now();
        if self.measures(now) {
            let latency = (now - self.origin).saturating_sub(sent);
            self.record().events.record(nanos(latency));
        }
    }

    fn measures(&self, now: Instant) -> bool {
        self.window
            .get()
            .is_some_and(|window| window.contains(&now))
    }

    /// Begins the warm-up, then the window.
    fn start(&self) {
        let start = Instant::now() + self.options.warmup();
        let length = match self.options.total {
            // A day: what stalls is ended earlier.
            Some(_) => Duration::from_secs(86_400),
            None => Duration::from_secs_f64(self.options.duration),
        };
        self.window.get_or_init(|| start..start + length);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, workload: &str, driver_cpu: Duration) -> anyhow::Result<Report> {
        let record = self.record();
        let now = Instant::now();
        let seconds = self.window.get().map_or(0.0, |window| {
            let end = window.end.min(now);
            end.saturating_duration_since(window.start).as_secs_f64()
        });
        let rate = |count: u64| match seconds {
            0.0 => 0.0,
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            _ => count as f64 / seconds,
        };
        let operations = record.latency.count();
        let events = record.events.count();
        let report = Report {
            workload: workload.to_string(),
            clients: self.options.clients as usize,
            connections: self.options.connections(),
            seconds,
            operations,
            operations_all: record.operations_all,
            per_second: rate(operations),
            errors: record.errors,
            driver_cpu_seconds: driver_cpu.as_secs_f64(),
            latency: Latency::of(&record.latency),
            events: (events > 0).then(|| Events {
                count: events,
                per_second: rate(events),
                latency: Latency::of(&record.events),
            }),
        };
        if self.options.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!("{report}");
        }
        if let Some(error) = &record.first_error {
            bail!("{} calls failed, the first with {error}", record.errors);
        }
        if operations == 0 {
            bail!("no operation ended within the window");
        }
        Ok(report)
    }
}

/// Connects, lets `prepare` set up what must be there first, starts one task per client with
/// `client` (given the run, its number and a connection), and reports when all are done.
pub(crate) fn run<P, C>(
    options: &LoadOptions,
    workload: &str,
    prepare: P,
    client: C,
) -> anyhow::Result<()>
where
    P: AsyncFnOnce(&Arc<Run>, &[Connection]) -> anyhow::Result<()>,
    C: Fn(Arc<Run>, u32, Connection, &mut JoinSet<anyhow::Result<()>>),
{
    if let Some(cpu) = options.cpu {
        machine::pin_to(cpu)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let connections = connect(options).await?;
        let run = Run::new(options);
        prepare(&run, &connections).await?;
        run.start();
        let mut clients = JoinSet::new();
        for (number, connection) in (0..options.clients).zip(connections.iter().cycle()) {
            client(run.clone(), number, connection.clone(), &mut clients);
        }
        watch_over(&run, clients).await?;
        run.report(workload, machine::cpu_time("self")?)?;
        Ok(())
    })
}

async fn connect(options: &LoadOptions) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(options.connections());
    let endpoints = options.endpoints.iter().cycle();
    for endpoint in endpoints.take(options.connections()) {
        connections.push(Connection::open(endpoint).await?);
    }
    Ok(connections)
}

/// Waits for the clients for as long as operations end.
async fn watch_over(run: &Run, mut clients: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = (0, Instant::now());
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                None => return Ok(()),
                Some(client) => client.context("a client ended early")??,
            },
            _ = ticks.tick() => {
                let operations = run.record().operations_all;
                if operations != progress.0 {
                    progress = (operations, Instant::now());
                } else if progress.1.elapsed() > STALL_TIMEOUT {
                    bail!("no reply for {} s", STALL_TIMEOUT.as_secs());
                }
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
