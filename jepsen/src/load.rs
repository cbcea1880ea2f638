//! Writers that remember, and the check that what was acknowledged is there.
//!
//! Each writer owns one key and puts rising numbers into it. After a fault the key must hold at
//! least the last acknowledged number, and at most the last one that was sent: a write that was not
//! answered may have happened or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::future::join_all;
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// A writer's request that takes longer counts as not answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the compactor compacts what the writers have made.
const COMPACT_INTERVAL: Duration = Duration::from_millis(200);
/// Requests at once while base data are written.
const FILL_AT_ONCE: usize = 16;

/// What one writer knows.
#[derive(Debug, Default)]
struct Sequence {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

/// All writers.
#[derive(Debug)]
pub struct Load {
    sequences: Vec<Arc<Sequence>>,
    value_bytes: usize,
}

/// Running writers.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged writes that are covered by the check.
    pub acknowledged: u64,
    /// Faults that were done.
    pub faults: u64,
    /// Those that fell into what they were aimed at.
    pub hit: u64,
}

impl Tally {
    /// With so many faults, all of which hit.
    #[must_use]
    pub fn of(self, faults: usize) -> Self {
        Self {
            faults: faults as u64,
            hit: faults as u64,
            ..self
        }
    }
}

impl Load {
    /// `writers` writers of values of about `value_bytes`.
    #[must_use]
    pub fn new(writers: usize, value_bytes: usize) -> Self {
        let sequences = (0..writers).map(|_| Arc::default()).collect();
        Self {
            sequences,
            value_bytes,
        }
    }

    /// Starts the writers, spread over the endpoints; with `compact` a compactor too.
    ///
    /// # Errors
    /// When an endpoint is malformed.
    pub fn start(&self, endpoints: &[String], compact: bool) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let channels = channels(endpoints)?;
        let mut tasks = Vec::new();
        for (place, sequence) in self.sequences.iter().enumerate() {
            let channel = channels
                .get(place % channels.len().max(1))
                .context("no endpoints")?
                .clone();
            let writer = write(
                channel,
                place,
                Arc::clone(sequence),
                self.value_bytes,
                Arc::clone(&stop),
            );
            tasks.push(tokio::spawn(writer));
        }
        if compact && let Some(channel) = channels.first() {
            tasks.push(tokio::spawn(compact_along(
                channel.clone(),
                Arc::clone(&stop),
            )));
        }
        Ok(Running { stop, tasks })
    }

    /// Reads every key through every endpoint and compares.
    ///
    /// # Errors
    /// When a key holds less than was acknowledged, or what was never sent.
    pub async fn check(&self, endpoints: &[String]) -> Result<Tally> {
        let mut tally = Tally::default();
        for channel in channels(endpoints)? {
            let mut client = client(channel);
            for (place, sequence) in self.sequences.iter().enumerate() {
                let request = RangeRequest {
                    key: key(place),
                    ..Default::default()
                };
                let response = client
                    .range(request)
                    .await
                    .context("read back")?
                    .into_inner();
                let found = response.kvs.first().map_or(Ok(0), |kv| number(&kv.value))?;
                let acknowledged = sequence.acknowledged.load(Ordering::SeqCst);
                let sent = sequence.sent.load(Ordering::SeqCst);
                if found < acknowledged {
                    bail!("LOST: writer {place} had {acknowledged} acknowledged, {found} is there");
                }
                if found > sent {
                    bail!("INVENTED: writer {place} sent up to {sent}, {found} is there");
                }
            }
        }
        tally.acknowledged = self.acknowledged();
        Ok(tally)
    }

    /// Writes that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.sequences
            .iter()
            .map(|sequence| sequence.acknowledged.load(Ordering::SeqCst))
            .sum()
    }
}

impl Running {
    /// Stops the writers; requests under way are given up.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.abort();
            // Aborted or done: both are an end.
            drop(task.await);
        }
    }
}

async fn write(
    channel: Channel,
    place: usize,
    sequence: Arc<Sequence>,
    value_bytes: usize,
    stop: Arc<AtomicBool>,
) {
    let mut client = client(channel);
    while !stop.load(Ordering::SeqCst) {
        let next = sequence.sent.load(Ordering::SeqCst) + 1;
        sequence.sent.store(next, Ordering::SeqCst);
        let request = PutRequest {
            key: key(place),
            value: value(next, value_bytes),
            ..Default::default()
        };
        match client.put(request).await {
            Ok(_) => sequence.acknowledged.store(next, Ordering::SeqCst),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Data that stay as they are: what makes a checkpoint or a snapshot file large enough to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Number of keys.
    pub keys: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
}

impl Base {
    /// Writes all of it.
    ///
    /// # Errors
    /// When a write is refused.
    pub async fn fill(self, endpoint: &str) -> Result<()> {
        let endpoints = [endpoint.to_owned()];
        let channel = channels(&endpoints)?.pop().context("no endpoint")?;
        let put = |n: usize| {
            let mut client = client(channel.clone());
            async move {
                let request = PutRequest {
                    key: base_key(n),
                    value: value(n as u64, self.value_bytes),
                    ..Default::default()
                };
                client.put(request).await
            }
        };
        for first in (0..self.keys).step_by(FILL_AT_ONCE) {
            let last = (first + FILL_AT_ONCE).min(self.keys);
            for answer in join_all((first..last).map(put)).await {
                answer.context("write base data")?;
            }
        }
        Ok(())
    }

    /// Reads all of it through every endpoint.
    ///
    /// # Errors
    /// When a key is missing, or holds something else.
    pub async fn check(self, endpoints: &[String]) -> Result<()> {
        for channel in channels(endpoints)? {
            let mut client = client(channel);
            for n in 0..self.keys {
                let request = RangeRequest {
                    key: base_key(n),
                    ..Default::default()
                };
                let answer = client.range(request).await.context("read base data")?;
                let found = answer.into_inner().kvs.first().map(|kv| kv.value.clone());
                if found.as_ref() != Some(&value(n as u64, self.value_bytes)) {
                    bail!("LOST: base value {n}: {:?}", found.map(|found| found.len()));
                }
            }
        }
        Ok(())
    }
}

fn base_key(n: usize) -> Bytes {
    format!("base-{n:06}").into()
}

async fn compact_along(channel: Channel, stop: Arc<AtomicBool>) {
    let mut client = client(channel);
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(COMPACT_INTERVAL).await;
        let request = RangeRequest {
            key: key(0),
            ..Default::default()
        };
        let Ok(response) = client.range(request).await else {
            continue;
        };
        let revision = response
            .into_inner()
            .header
            .map_or(0, |header| header.revision)
            - 10;
        // A compaction that fails is as good a fault as any.
        drop(
            client
                .compact(CompactionRequest {
                    revision,
                    physical: false,
                })
                .await,
        );
    }
}

fn channels(endpoints: &[String]) -> Result<Vec<Channel>> {
    endpoints
        .iter()
        .map(|endpoint| {
            let endpoint = Endpoint::from_shared(endpoint.clone())?.timeout(REQUEST_TIMEOUT);
            Ok(endpoint.connect_lazy())
        })
        .collect()
}

fn client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(16 << 20)
}

fn key(place: usize) -> Bytes {
    format!("writer-{place:04}").into()
}

/// The number, and filler that depends on it.
fn value(number: u64, bytes: usize) -> Bytes {
    let mut value = format!("{number:020}").into_bytes();
    let filler = u8::try_from(number % 251).unwrap_or(0);
    value.resize(bytes.max(value.len()), filler);
    value.into()
}

fn number(value: &[u8]) -> Result<u64> {
    let (digits, filler) = value.split_at_checked(20).context("value too short")?;
    let number: u64 = std::str::from_utf8(digits)?.parse()?;
    let expected = u8::try_from(number % 251).unwrap_or(0);
    if filler.iter().any(|byte| *byte != expected) {
        bail!("TORN: the value of {number} is not whole");
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_number_and_show_damage() {
        let whole = value(4711, 100);
        assert_eq!(number(&whole).unwrap(), 4711);
        let mut torn = whole.to_vec();
        torn[50] ^= 1;
        assert!(number(&torn).is_err());
        assert!(number(b"short").is_err());
    }
}
