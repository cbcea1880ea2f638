//! The options of the workloads.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// What every workload takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    /// Members to spread the connections over, `host:port`, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Requests that are on their way at any time: each client waits for its reply.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Connections; 0 for one per 32 clients, and as many to each endpoint.
    #[arg(long, default_value_t = 0)]
    pub conns: u32,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    pub duration: f64,
    /// Seconds of load before the measured window.
    #[arg(long, default_value_t = 1.0, value_parser = parse_seconds)]
    pub warmup: f64,
    /// Operations after which to stop, whatever the duration; there is then no warm-up.
    #[arg(long)]
    pub total: Option<u64>,
    /// Bytes of a key: its number in hexadecimal, with zeros in front.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub key_size: u16,
    /// Number of different keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub key_space: u64,
    /// Seed of the choice of keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Core to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
}

impl LoadOptions {
    pub(crate) fn connections(&self) -> usize {
        let wanted = match self.conns {
            0 => (self.clients as usize)
                .div_ceil(32)
                .next_multiple_of(self.endpoints.len().max(1)),
            given => given as usize,
        };
        wanted.min(self.clients as usize).max(1)
    }

    pub(crate) fn warmup(&self) -> Duration {
        match self.total {
            Some(_) => Duration::ZERO,
            None => Duration::from_secs_f64(self.warmup),
        }
    }
}

/// Options of writes.
#[derive(Args, Clone, Debug)]
pub(crate) struct PutOptions {
    /// Bytes of a value, random.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=16_777_216))]
    pub value_size: u32,
}

/// Options of reads.
#[derive(Args, Clone, Debug)]
pub(crate) struct RangeOptions {
    /// Read what the member has, without asking the leader.
    #[arg(long)]
    pub serializable: bool,
    /// List up to this many keys from the chosen key on; 0 reads the key alone.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub limit: i64,
}

/// Options of watches.
#[derive(Args, Clone, Debug)]
pub(crate) struct WatchOptions {
    /// Watchers, dealt out over the streams. Watcher i watches key i, modulo the key space.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub watchers: u32,
    /// Watch streams, dealt out over the connections.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub streams: u32,
    /// Every watcher watches all keys.
    #[arg(long)]
    pub watch_all: bool,
}

/// Options of leases.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaseOptions {
    /// What each client does again and again.
    #[arg(long, value_enum, default_value_t = LeaseMode::Grant)]
    pub mode: LeaseMode,
    /// Seconds that a lease is granted for.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i64).range(1..))]
    pub ttl: i64,
}

/// What the clients of the lease workload do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LeaseMode {
    /// Grant a lease and revoke it: two operations.
    Grant,
    /// Keep one lease per client alive, over a stream of its own.
    Keepalive,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds between 0 and 86400 are expected".into()),
    }
}
