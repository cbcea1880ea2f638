//! A snapshot is streamed, first of an idle member, then while clients write.
//!
//! The client throws the bytes away: what is measured is the server.

use std::io;
use std::time::{Duration, Instant};

use super::calls::Caller;
use super::growth::Growth;
use super::{CLIENTS, Figures, fill, mib};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;
use crate::compare::traffic::{Calls, Traffic};

/// After the fill, so that what it left to do in the background is done.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// The first second of writes counts for nothing.
const WARM_UP_TIME: Duration = Duration::from_secs(1);
/// Writes before and after the snapshot.
const COMPARED_TIME: Duration = Duration::from_secs(4);

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
    let before = traffic.go_on(COMPARED_TIME)?;
    let growth = Growth::watch(cluster.pid(0)?)?;
    let began = Instant::now();
    let bytes_beside = caller.snapshot(&mut io::sink())?;
    let during = began..Instant::now();
    let growth = growth.finish()?;
    traffic.go_on(WARM_UP_TIME)?;
    let after = traffic.go_on(COMPARED_TIME)?;
    let puts = traffic.finish()?;

    let seconds = (during.end - during.start).as_secs_f64();
    let (rate_before, rate_during) = (puts.rate(&before), puts.rate(&during));
    let rate_after = puts.rate(&after);
    Ok(vec![
        ("file, MiB", mib(bytes)),
        ("stream of an idle member, MiB/s", {
            mib(bytes) / idle.as_secs_f64()
        }),
        ("CPU time of it, ms per MiB", {
            idle_cpu.as_secs_f64() * 1e3 / mib(bytes)
        }),
        ("stream beside writes, MiB/s", mib(bytes_beside) / seconds),
        ("puts before, /s", rate_before),
        ("puts during, /s", rate_during),
        ("puts after, /s", rate_after),
        ("puts during, of before", rate_during / rate_before),
        ("put p99 before, ms", puts.latency_ms(&before, 0.99)),
        ("put p99 during, ms", puts.latency_ms(&during, 0.99)),
        ("memory growth, MiB", mib(growth)),
        (
            "failed puts",
            puts.failures(&(before.start..after.end), None),
        ),
    ])
}
