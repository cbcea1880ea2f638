//! A member is away while the whole store is written, and comes back.
//!
//! So much is more than `--snapshot-catchup-entries`: it gets a checkpoint, and the rest as log.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::calls::{Caller, leader};
use super::growth::Growth;
use super::{Figures, fill, mib};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;

/// The member that is away.
const AWAY: usize = 2;
/// Longer than either program takes for 1 GiB.
const CAUGHT_UP_TIMEOUT: Duration = Duration::from_secs(150);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// After the fill, so that what it left to do in the background is done.
const SETTLE_TIME: Duration = Duration::from_secs(3);

pub(super) fn measure(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<Figures> {
    cluster.terminate_member(AWAY)?;
    cluster.reap_member(AWAY)?;
    fill(cluster, options)?;
    std::thread::sleep(SETTLE_TIME);
    let (mut leader, place) = leader(cluster, &[0, 1])?;
    let status = leader.status()?;
    let target = status.header.unwrap_or_default().revision;
    let growth = Growth::watch(cluster.pid(place)?)?;
    let cpu_before = cluster.cpu_time()?;
    let began = Instant::now();
    cluster.start_member(AWAY)?;
    let endpoint = cluster.endpoint(AWAY)?;
    while !has_revision(&endpoint, target) {
        cluster.check()?;
        if began.elapsed() > CAUGHT_UP_TIMEOUT {
            bail!("the member did not catch up");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let seconds = began.elapsed().as_secs_f64();
    let growth = growth.finish()?;
    let cpu = cluster.cpu_time()?.saturating_sub(cpu_before);
    let size = mib(status.db_size.unsigned_abs());
    Ok(vec![
        ("dbSize, MiB", size),
        ("start to caught up, s", seconds),
        ("rate, MiB/s", size / seconds),
        ("leader's memory growth, MiB", mib(growth)),
        (
            "CPU time of all, ms per MiB",
            cpu.as_secs_f64() * 1e3 / size,
        ),
    ])
}

fn has_revision(endpoint: &str, revision: i64) -> bool {
    let status = Caller::connect(endpoint).and_then(|mut caller| caller.status());
    status.is_ok_and(|status| status.header.unwrap_or_default().revision >= revision)
}
