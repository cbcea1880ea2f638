//! Clients that go on while something is done to the cluster, and what each of their calls met.
//!
//! A thread of its own with all clients as tasks. Every call is kept (when it began and ended,
//! whether it succeeded, at which member), so that any window of time can be asked afterwards.
//! A client whose connection breaks goes on at the next member.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::compare::options::CompareOptions;
use crate::load::template::{Numbers, Template, key};
use crate::transport::{Call, Connection};

/// Bytes of a key, as the driver's default.
const KEY_BYTES: usize = 16;
/// Clients that share a connection, as in the driver.
const CLIENTS_PER_CONNECTION: usize = 32;
/// Deadline of a call: longer than any election.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failure: short beside an election, long enough not to flood anyone.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Calls {
    /// Write a random key of the key space.
    Put { value_bytes: u32 },
    /// Read a random key of the key space, linearizable.
    Get,
}

/// A call that has ended.
#[derive(Clone, Debug)]
struct Outcome {
    began: Instant,
    ended: Instant,
    /// Place of the endpoint in the list.
    member: usize,
    error: Option<String>,
}

/// Clients at work.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Outcome>>>,
}

impl Traffic {
    /// Connects `clients` clients to `endpoints` in turn and lets them go on until they are told to
    /// stop.
    pub(crate) fn start(
        options: &CompareOptions,
        endpoints: Vec<String>,
        clients: usize,
        calls: Calls,
        key_space: u64,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (options, stopped) = (options.clone(), stop.clone());
        let run = move || {
            options.pin_driver()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(run(endpoints, clients, calls, key_space, stopped))
        };
        let thread = std::thread::Builder::new().name("traffic".to_owned());
        Ok(Self {
            stop,
            thread: thread.spawn(run)?,
        })
    }

    /// Lets the clients go on for a while.
    pub(crate) fn go_on(&self, time: Duration) -> anyhow::Result<Range<Instant>> {
        let began = Instant::now();
        sleep(time);
        if self.thread.is_finished() {
            bail!("the clients have ended early");
        }
        Ok(began..Instant::now())
    }

    /// Stops the clients when their calls have ended.
    pub(crate) fn finish(self) -> anyhow::Result<Outcomes> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        let outcomes = ended.map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        Ok(Outcomes(outcomes))
    }
}

/// All calls of the clients.
pub(crate) struct Outcomes(Vec<Outcome>);

impl Outcomes {
    /// Successes per second.
    pub(crate) fn rate(&self, window: &Range<Instant>) -> f64 {
        let count = self.successes(window).count();
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let count = count as f64;
        count / (window.end - window.start).as_secs_f64()
    }

    /// The time that `quantile` (0 to 1) of the calls that succeeded in the window did not exceed,
    /// in milliseconds.
    pub(crate) fn latency_ms(&self, window: &Range<Instant>, quantile: f64) -> f64 {
        let mut times: Vec<Duration> = self
            .successes(window)
            .map(|outcome| outcome.ended - outcome.began)
            .collect();
        times.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank of a few million"
        )]
        let rank = (times.len().saturating_sub(1) as f64 * quantile).round() as usize;
        times.get(rank).map_or(0.0, |time| millis(*time))
    }

    /// The longest time without a success, in milliseconds; it may reach out of the window.
    pub(crate) fn longest_gap_ms(&self, window: &Range<Instant>) -> f64 {
        let mut ends: Vec<Instant> = self.of_success().map(|outcome| outcome.ended).collect();
        ends.sort_unstable();
        let gaps = ends.iter().zip(ends.iter().skip(1));
        let within = gaps.filter(|(from, to)| **to >= window.start && **from <= window.end);
        let longest = within.map(|(from, to)| *to - *from).max();
        longest.map_or(f64::INFINITY, millis)
    }

    /// Failed calls that ended in the window, but not those at member `except`.
    pub(crate) fn failures(&self, window: &Range<Instant>, except: Option<usize>) -> f64 {
        let failed = self.0.iter().filter(|outcome| {
            outcome.error.is_some()
                && window.contains(&outcome.ended)
                && Some(outcome.member) != except
        });
        let mut count = 0_u32;
        for outcome in failed {
            if count == 0 {
                let error = outcome.error.as_deref().unwrap_or_default();
                eprintln!("first failure, at member {}: {error}", outcome.member + 1);
            }
            count += 1;
        }
        f64::from(count)
    }

    fn of_success(&self) -> impl Iterator<Item = &Outcome> {
        self.0.iter().filter(|outcome| outcome.error.is_none())
    }

    fn successes(&self, window: &Range<Instant>) -> impl Iterator<Item = &Outcome> {
        self.of_success()
            .filter(move |outcome| window.contains(&outcome.ended))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn run(
    endpoints: Vec<String>,
    clients: usize,
    calls: Calls,
    key_space: u64,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Outcome>> {
    let wanted = clients.div_ceil(CLIENTS_PER_CONNECTION);
    let mut connections = Vec::new();
    let places = (0..endpoints.len()).cycle();
    for place in places.take(wanted.next_multiple_of(endpoints.len().max(1))) {
        let endpoint = endpoints.get(place).context("no endpoints")?;
        connections.push((place, Connection::open(endpoint).await?));
    }
    let mut tasks = JoinSet::new();
    let connections = connections.iter().cycle();
    for (number, (place, connection)) in (0_u64..).zip(connections).take(clients) {
        let client = Client {
            endpoints: endpoints.clone(),
            place: *place,
            calls,
            template: template(calls),
            numbers: Numbers::new(number + 1),
            key_space,
        };
        tasks.spawn(client.run(connection.clone(), stop.clone()));
    }
    let mut outcomes = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        outcomes.extend(ended??);
    }
    Ok(outcomes)
}

fn template(calls: Calls) -> Template {
    match calls {
        Calls::Put { value_bytes } => {
            let put = PutRequest {
                key: key(0, KEY_BYTES),
                value: Numbers::new(1).bytes(value_bytes as usize),
                ..Default::default()
            };
            Template::new(&put, KEY_BYTES)
        }
        Calls::Get => {
            let get = RangeRequest {
                key: key(0, KEY_BYTES),
                ..Default::default()
            };
            Template::new(&get, KEY_BYTES)
        }
    }
}

struct Client {
    endpoints: Vec<String>,
    place: usize,
    calls: Calls,
    template: Template,
    numbers: Numbers,
    key_space: u64,
}

impl Client {
    async fn run(
        mut self,
        connection: Connection,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let mut at = Some((self.call(&connection)?, connection));
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let body = self.template.body(self.numbers.below(self.key_space));
            let reply = match &mut at {
                Some((call, connection)) => {
                    let reply = connection.unary(call, body.freeze());
                    match timeout(CALL_TIMEOUT, reply).await {
                        Ok(Ok(_)) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some("deadline".to_owned()),
                    }
                }
                None => {
                    at = self.connect_next().await;
                    continue;
                }
            };
            let failed = reply.is_some();
            outcomes.push(Outcome {
                began,
                ended: Instant::now(),
                member: self.place,
                error: reply,
            });
            if failed {
                tokio::time::sleep(RETRY_DELAY).await;
                at = None;
            }
        }
        Ok(outcomes)
    }

    /// A member that cannot be reached is passed over: nothing was asked of it.
    async fn connect_next(&mut self) -> Option<(Call, Connection)> {
        self.place = (self.place + 1) % self.endpoints.len().max(1);
        let endpoint = self.endpoints.get(self.place)?;
        let Ok(connection) = Connection::open(endpoint).await else {
            tokio::time::sleep(RETRY_DELAY).await;
            return None;
        };
        Some((self.call(&connection).ok()?, connection))
    }

    fn call(&self, connection: &Connection) -> anyhow::Result<Call> {
        connection.call(match self.calls {
            Calls::Put { .. } => "/etcdserverpb.KV/Put",
            Calls::Get => "/etcdserverpb.KV/Range",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_answered_from_the_calls_in_them() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let outcome = |began, ended, failed: bool| Outcome {
            began: at(began),
            ended: at(ended),
            member: usize::from(failed),
            error: failed.then(|| "broken".to_owned()),
        };
        let outcomes = Outcomes(vec![
            outcome(0, 10, false),
            outcome(10, 30, false),
            outcome(30, 40, true),
            outcome(40, 100, false),
            outcome(100, 2000, false),
        ]);
        let window = at(0)..at(1000);
        assert_eq!(outcomes.rate(&window), 3.0);
        assert_eq!(outcomes.latency_ms(&window, 0.5), 20.0);
        assert_eq!(outcomes.latency_ms(&window, 1.0), 60.0);
        assert_eq!(outcomes.longest_gap_ms(&window), 1900.0);
        assert_eq!(outcomes.longest_gap_ms(&(at(0)..at(20))), 20.0);
        assert_eq!(outcomes.failures(&window, None), 1.0);
        assert_eq!(outcomes.failures(&window, Some(1)), 0.0);
    }
}
