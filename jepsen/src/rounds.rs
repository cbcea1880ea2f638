//! The experiments: rounds of load, fault, restart, check.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;

use crate::disk::LoopDisk;
use crate::load::{Load, Tally};
use crate::server::Cluster;

/// Writers of each round.
pub(crate) const WRITERS: usize = 32;
/// Size of the loop file system in MiB.
const DISK_MEGABYTES: u64 = 4096;
/// Checkpoints come often, so that cuts fall into them.
pub(crate) const SNAPSHOT_COUNT: &str = "500";

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server program.
    pub program: PathBuf,
    /// Where disks and data are made: a real disk.
    pub directory: PathBuf,
    /// Members of the cluster; a fault hits all of them at once.
    pub members: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Faults.
    pub rounds: usize,
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of the disk is cut.
    PowerCut,
    /// The processes are killed; the page cache survives.
    Kill,
}

/// Runs the rounds on one data directory that lives through all of them.
///
/// # Errors
/// When a write was lost, or a data directory does not open: the round is in the error.
pub async fn run(plan: &Plan, fault: Fault) -> Result<Tally> {
    let scratch = tempfile::tempdir_in(&plan.directory)?;
    let mut disk = match fault {
        Fault::PowerCut => Some(LoopDisk::create(scratch.path(), DISK_MEGABYTES)?),
        Fault::Kill => None,
    };
    let data = match &disk {
        Some(disk) => disk.path().to_owned(),
        None => subdirectory(scratch.path())?,
    };
    let arguments = [
        "--snapshot-count",
        SNAPSHOT_COUNT,
        "--quota-backend-bytes",
        "1073741824",
    ];
    let mut cluster = Cluster::new(&plan.program, &data, plan.members, &arguments)?;
    let load = Load::new(WRITERS, plan.value_bytes);
    let mut tally = Tally::default();
    for round in 1..=plan.rounds {
        let result = one_round(&mut cluster, &load, disk.as_mut()).await;
        tally = result.with_context(|| format!("round {round} of {}", plan.rounds))?;
    }
    cluster.kill_all().await?;
    Ok(tally.of(plan.rounds))
}

async fn one_round(
    cluster: &mut Cluster,
    load: &Load,
    disk: Option<&mut LoopDisk>,
) -> Result<Tally> {
    cluster.start().await.context("start before the fault")?;
    load.check(&cluster.endpoints()).await?;
    let running = load.start(&cluster.endpoints(), true)?;
    let until_fault = Duration::from_millis(rand::rng().random_range(200..1500));
    tokio::time::sleep(until_fault).await;
    match disk {
        Some(disk) => {
            disk.cut_power()?;
            cluster.kill_all().await?;
            running.stop().await;
            disk.restore_power()?;
        }
        None => {
            cluster.kill_all().await?;
            running.stop().await;
        }
    }
    cluster.start().await.context("start after the fault")?;
    load.check(&cluster.endpoints()).await
}

fn subdirectory(parent: &Path) -> Result<PathBuf> {
    let path = parent.join("data");
    std::fs::create_dir(&path)?;
    Ok(path)
}
