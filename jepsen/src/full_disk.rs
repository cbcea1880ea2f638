//! A disk that fills up under a member that takes writes.
//!
//! - The member answers writes with errors and ends, saying what could not be written; it does not
//!   acknowledge what it cannot keep.
//! - The other members, whose disks have room, go on.
//! - Without room it does not damage what it has; with room again it starts and has everything.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::disk::LoopDisk;
use crate::load::{Load, Tally};
use crate::rounds::Plan;
use crate::server::Cluster;

/// Size of the file system in MiB: the smallest that a fresh member starts on with room to spare.
const DISK_MEGABYTES: u64 = 256;
/// What the ballast leaves free.
const FREE_BYTES: u64 = 48 << 20;
/// Writers: enough to fill the disk within seconds.
const WRITERS: usize = 16;
/// How long filling the disk may take.
const FULL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the others may take to go on.
const GO_ON_TIMEOUT: Duration = Duration::from_secs(20);
/// Acknowledged writes after which they do.
const GO_ON_WRITES: u64 = 100;
/// What the last line of a member's log must tell.
const REASON: &str = "No space left on device";

/// Fills the disk of one member of each round's cluster.
///
/// # Errors
/// When the member goes on without room, ends without a word, or a write is lost.
pub async fn run(plan: &Plan) -> Result<Tally> {
    let mut tally = Tally::default();
    for round in 1..=plan.rounds {
        let result = one_round(plan).await;
        let found = result.with_context(|| format!("round {round} of {}", plan.rounds))?;
        tally.acknowledged += found.acknowledged;
    }
    Ok(tally.of(plan.rounds))
}

async fn one_round(plan: &Plan) -> Result<Tally> {
    let scratch = tempfile::tempdir_in(&plan.directory)?;
    let disk = LoopDisk::create(scratch.path(), DISK_MEGABYTES)?;
    let data = scratch.path().join("data");
    std::fs::create_dir(&data)?;
    let arguments = ["--snapshot-count", "500", "--quota-backend-bytes", "0"];
    let mut cluster = Cluster::new(&plan.program, &data, plan.members, &arguments)?;
    cluster.place_on(0, disk.path());
    let load = Load::new(WRITERS, plan.value_bytes);
    cluster.start().await.context("start")?;
    let ballast = Ballast::leave(disk.path(), FREE_BYTES)?;
    let running = load.start(&cluster.endpoints(), false)?;
    let status = cluster
        .wait_ended(0, FULL_TIMEOUT)
        .await
        .context("on a full disk")?;
    if status.success() {
        bail!("it ended as if nothing had happened");
    }
    let last = cluster.last_lines(0);
    if !last.contains(REASON) {
        bail!("it does not say why it ended:\n{last}");
    }
    let words = last.lines().next_back().unwrap_or_default();
    eprintln!("the member on the full disk ended with {status}: {words}");
    if plan.members > 1 {
        goes_on(&load).await?;
    }
    running.stop().await;
    // Whether it starts without room or not: it may not do damage.
    drop(tokio::time::timeout(Duration::from_secs(5), cluster.start()).await);
    cluster.kill(0).await?;
    ballast.remove()?;
    cluster.start().await.context("start with room again")?;
    let tally = load.check(&cluster.endpoints()).await?;
    if tally.acknowledged == 0 {
        bail!("nothing was written");
    }
    cluster.kill_all().await?;
    Ok(tally)
}

async fn goes_on(load: &Load) -> Result<()> {
    let enough = load.acknowledged() + GO_ON_WRITES;
    let going = async {
        while load.acknowledged() < enough {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(GO_ON_TIMEOUT, going)
        .await
        .context("the others do not go on")
}

/// A file that takes the room.
struct Ballast(PathBuf);

impl Ballast {
    fn leave(mount: &Path, free: u64) -> Result<Self> {
        let path = mount.join("ballast");
        let file = File::create(&path)?;
        let there = rustix::fs::statvfs(mount)?;
        let room = there.f_bavail * there.f_frsize;
        let taken = room.saturating_sub(free);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken)
            .context("take the room")?;
        Ok(Self(path))
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.0).context("make room")
    }
}
