//! Memory after a large load and after a restart, and how long the restart takes.
//!
//! Resident memory is read when the server has had [`SETTLE_TIME`] to finish what the load or the
//! start left behind. Anonymous and file-backed memory are kept apart: the kernel takes back pages
//! of a file when it wants to, and a memory-mapped database consists of them.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::compare::cluster::{Cluster, Program};
use crate::compare::measure::run_driver;
use crate::compare::options::CompareOptions;
use crate::machine::{self, Memory};

/// Bytes of a value of this workload.
const VALUE_BYTES: u32 = 1024;
/// Clients of the load: enough that it takes a minute, not an hour.
const CLIENTS: u32 = 256;
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// What one measurement found; all members together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemorySample {
    pub program: &'static str,
    pub keys: u64,
    pub load_seconds: f64,
    pub loaded: Memory,
    pub restarted: Memory,
    pub restart_seconds: f64,
}

/// Fills a new cluster of `program` in `place`, and restarts it.
pub(crate) fn measure(
    program: &Program,
    options: &CompareOptions,
    place: &Path,
) -> anyhow::Result<MemorySample> {
    let mut cluster = Cluster::start(program, options, place)?;
    let fill = [
        "fill".to_string(),
        format!("--key-space={}", options.memory_keys),
        format!("--value-size={VALUE_BYTES}"),
        format!("--clients={CLIENTS}"),
    ];
    let began = Instant::now();
    run_driver(&fill, &mut cluster, options)?;
    let load_seconds = began.elapsed().as_secs_f64();
    let loaded = settled_memory(&mut cluster)?;
    let restart_seconds = cluster.restart()?.as_secs_f64();
    let restarted = settled_memory(&mut cluster)?;
    cluster.stop()?;
    Ok(MemorySample {
        program: program.name,
        keys: options.memory_keys,
        load_seconds,
        loaded,
        restarted,
        restart_seconds,
    })
}

fn settled_memory(cluster: &mut Cluster) -> anyhow::Result<Memory> {
    sleep(SETTLE_TIME);
    cluster.check()?;
    let mut sum = Memory::default();
    for pid in cluster.pids() {
        let memory = machine::memory(&pid)?;
        sum.anonymous_bytes += memory.anonymous_bytes;
        sum.file_bytes += memory.file_bytes;
    }
    Ok(sum)
}
