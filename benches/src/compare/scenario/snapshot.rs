//! A snapshot is streamed, first of an idle member, then while clients write.
//!
//! Beside writes it is streamed several times, and the puts during each are compared with those
//! just before and just after it: what else a machine does comes and goes within seconds. The
//! figures are the medians of these. The client throws the bytes away: what is measured is the
//! server.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::calls::Caller;
use super::growth::Growth;
use super::{CLIENTS, Figures, fill, mib};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;
use crate::compare::table::median;
use crate::compare::traffic::{Calls, Outcomes, Traffic};

/// After the fill, so that what it left to do in the background is done.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// The first second of writes counts for nothing.
const WARM_UP_TIME: Duration = Duration::from_secs(1);
/// Writes before and after a snapshot.
const COMPARED_TIME: Duration = Duration::from_secs(3);
/// Snapshots beside writes.
const SNAPSHOTS: usize = 3;

/// A snapshot beside writes.
struct Taken {
    bytes: u64,
    growth_bytes: u64,
    before: Range<Instant>,
    during: Range<Instant>,
    after: Range<Instant>,
}

impl Taken {
    fn mib_per_second(&self) -> f64 {
        mib(self.bytes) / (self.during.end - self.during.start).as_secs_f64()
    }

    /// Puts per second just before and just after.
    fn rate_around(&self, puts: &Outcomes) -> f64 {
        f64::midpoint(puts.rate(&self.before), puts.rate(&self.after))
    }
}

pub(super) fn measure(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<Figures> {
    let keys = fill(cluster, options)?;
    std::thread::sleep(SETTLE_TIME);
    let mut caller = Caller::connect(&cluster.endpoint(0)?)?;

    let cpu_before = cluster.cpu_time()?;
    let began = Instant::now();
    let bytes = caller.snapshot(&mut io::sink())?;
    let idle = began.elapsed();
    let idle_cpu = cluster.cpu_time()?.saturating_sub(cpu_before);

    let put = Calls::Put {
        value_bytes: options.value_size,
    };
    let endpoints = cluster.endpoint_list();
    let traffic = Traffic::start(options, endpoints, CLIENTS, put, keys)?;
    traffic.go_on(WARM_UP_TIME)?;
    let writes_began = Instant::now();
    let mut before = traffic.go_on(COMPARED_TIME)?;
    let mut taken = Vec::with_capacity(SNAPSHOTS);
    for _ in 0..SNAPSHOTS {
        let growth = Growth::watch(cluster.pid(0)?)?;
        let began = Instant::now();
        let bytes = caller.snapshot(&mut io::sink())?;
        let during = began..Instant::now();
        let growth_bytes = growth.finish()?;
        traffic.go_on(WARM_UP_TIME)?;
        let after = traffic.go_on(COMPARED_TIME)?;
        taken.push(Taken {
            bytes,
            growth_bytes,
            before: std::mem::replace(&mut before, after.clone()),
            during,
            after,
        });
    }
    let puts = traffic.finish()?;

    let middle = |figure: &dyn Fn(&Taken) -> f64| {
        let figures = taken.iter().map(figure);
        median(figures).unwrap_or(f64::NAN)
    };
    let p99_ms = |window: &Range<Instant>| puts.latency_ms(window, 0.99);
    Ok(vec![
        ("file, MiB", mib(bytes)),
        ("stream of an idle member, MiB/s", {
            mib(bytes) / idle.as_secs_f64()
        }),
        ("CPU time of it, ms per MiB", {
            idle_cpu.as_secs_f64() * 1e3 / mib(bytes)
        }),
        (
            "stream beside writes, MiB/s",
            middle(&Taken::mib_per_second),
        ),
        ("puts around, /s", middle(&|it| it.rate_around(&puts))),
        ("puts during, /s", middle(&|it| puts.rate(&it.during))),
        ("puts during, of around", {
            middle(&|it| puts.rate(&it.during) / it.rate_around(&puts))
        }),
        ("put p99 before, ms", middle(&|it| p99_ms(&it.before))),
        ("put p99 during, ms", middle(&|it| p99_ms(&it.during))),
        ("memory growth, MiB", middle(&|it| mib(it.growth_bytes))),
        ("failed puts", {
            puts.failures(&(writes_began..before.end), None)
        }),
    ])
}
