//! Defragment while clients write and read: the longest that one of them waits.
//!
//! Half of the store is written a second time and compacted, so that there is garbage to remove.

use std::time::{Duration, Instant};

use super::calls::Caller;
use super::growth::Growth;
use super::{CLIENTS, Figures, fill, mib};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;
use crate::compare::traffic::{Calls, Traffic};

/// Clients that read.
const READERS: usize = 16;
/// The first second counts for nothing.
const WARM_UP_TIME: Duration = Duration::from_secs(1);
/// Load before the defragmentation, and behind its end.
const COMPARED_TIME: Duration = Duration::from_secs(4);

pub(super) fn measure(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<Figures> {
    let keys = fill(cluster, options)?;
    let endpoint = cluster.endpoint(0)?;
    let mut caller = Caller::connect(&endpoint)?;
    let put = Calls::Put {
        value_bytes: options.value_size,
    };
    let start =
        |clients, calls| Traffic::start(options, vec![endpoint.clone()], clients, calls, keys);
    let (puts, gets) = (start(CLIENTS, put)?, start(READERS, Calls::Get)?);
    puts.go_on(WARM_UP_TIME)?;
    let before = puts.go_on(COMPARED_TIME)?;
    // What was overwritten until now.
    caller.compact()?;
    let size_before = caller.status()?.db_size;
    let growth = Growth::watch(cluster.pid(0)?)?;
    let began = Instant::now();
    caller.defragment()?;
    let during = began..Instant::now();
    let growth = growth.finish()?;
    let size_after = caller.status()?.db_size;
    puts.go_on(COMPARED_TIME)?;
    let (puts, gets) = (puts.finish()?, gets.finish()?);
    // A call that waited for its end has ended only afterwards.
    let waited = during.start..during.end + Duration::from_secs(1);
    Ok(vec![
        ("defragmentation, s", {
            (during.end - during.start).as_secs_f64()
        }),
        ("dbSize before, MiB", mib(size_before.unsigned_abs())),
        ("dbSize after, MiB", mib(size_after.unsigned_abs())),
        ("longest put before, ms", puts.latency_ms(&before, 1.0)),
        ("longest put during, ms", puts.latency_ms(&waited, 1.0)),
        ("longest time without any put, ms", {
            puts.longest_gap_ms(&during)
        }),
        ("longest get before, ms", gets.latency_ms(&before, 1.0)),
        ("longest get during, ms", gets.latency_ms(&waited, 1.0)),
        ("longest time without any get, ms", {
            gets.longest_gap_ms(&during)
        }),
        ("puts during, of before", {
            puts.rate(&during) / puts.rate(&before)
        }),
        ("memory growth, MiB", mib(growth)),
        ("failed calls", {
            let all = before.start..waited.end;
            puts.failures(&all, None) + gets.failures(&all, None)
        }),
    ])
}
