//! Members that can fail one by one: each with a disk of its own where power is cut.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::Rng as _;
use tempfile::TempDir;

use crate::disk::LoopDisk;
use crate::rounds::Plan;
use crate::server::Cluster;

/// Size of each member's file system in MiB; the image is sparse.
const DISK_MEGABYTES: u64 = 1024;

/// How a member fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The process is killed; the page cache survives.
    Kill,
    /// The power of its disk is cut, and then it is killed.
    PowerCut,
}

/// A cluster whose members fail.
#[derive(Debug)]
pub struct Machines {
    /// The members. They end before their disks are unmounted.
    pub cluster: Cluster,
    disks: HashMap<String, LoopDisk>,
    blow: Blow,
    failures: usize,
    scratch: TempDir,
}

impl Machines {
    /// The plan's members; nothing runs yet.
    ///
    /// # Errors
    /// When the disks cannot be made.
    pub fn new(plan: &Plan, blow: Blow, arguments: &[&str]) -> Result<Self> {
        let scratch = tempfile::tempdir_in(&plan.directory)?;
        let data = scratch.path().join("data");
        std::fs::create_dir(&data)?;
        let cluster = Cluster::new(&plan.program, &data, plan.members, arguments)?;
        let mut machines = Self {
            cluster,
            disks: HashMap::new(),
            blow,
            failures: 0,
            scratch,
        };
        for place in 0..plan.members {
            machines.give_disk(place)?;
        }
        Ok(machines)
    }

    /// One more member, as [`Cluster::join`] has it.
    ///
    /// # Errors
    /// When its disk cannot be made, or no ports are free.
    pub fn join(&mut self, name: &str) -> Result<String> {
        let peer = self.cluster.join(name)?;
        self.give_disk(self.cluster.size() - 1)?;
        Ok(peer)
    }

    /// Forgets a removed member, as [`Cluster::forget`] has it, and its disk.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub async fn forget(&mut self, place: usize) -> Result<()> {
        let name = self.cluster.name(place).map(str::to_owned);
        self.cluster.forget(place).await?;
        if let Some(name) = name {
            self.disks.remove(&name);
        }
        Ok(())
    }

    fn give_disk(&mut self, place: usize) -> Result<()> {
        if self.blow == Blow::Kill {
            return Ok(());
        }
        let name = self
            .cluster
            .name(place)
            .context("no such member")?
            .to_owned();
        let directory: PathBuf = self.scratch.path().join(format!("disk-{name}"));
        std::fs::create_dir(&directory)?;
        let disk = LoopDisk::create(&directory, DISK_MEGABYTES)?;
        self.cluster.place_on(place, disk.path());
        self.disks.insert(name, disk);
        Ok(())
    }

    /// These members fail at the same moment; their disks have power again afterwards.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn fail(&mut self, places: &[usize]) -> Result<()> {
        self.failures += 1;
        let names: Vec<String> = places
            .iter()
            .filter_map(|place| self.cluster.name(*place).map(str::to_owned))
            .collect();
        for name in &names {
            if let Some(disk) = self.disks.get(name) {
                disk.cut_power()?;
            }
        }
        for place in places {
            self.cluster.kill(*place).await?;
        }
        for name in &names {
            if let Some(disk) = self.disks.get_mut(name) {
                disk.restore_power()?;
            }
        }
        Ok(())
    }

    /// How often members have failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// All members.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        (0..self.cluster.size()).collect()
    }

    /// Any of the members.
    #[must_use]
    pub fn any(&self) -> usize {
        rand::rng().random_range(0..self.cluster.size())
    }
}

/// Waits for a random time of so many milliseconds.
pub async fn pause(milliseconds: std::ops::Range<u64>) {
    let pause = rand::rng().random_range(milliseconds);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
