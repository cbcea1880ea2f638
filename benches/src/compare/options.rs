//! The options of a comparison.

use std::path::PathBuf;

use clap::Args;

use crate::compare::workload::{LoadWorkload, Workload};
use crate::machine;

/// What to compare, and how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareOptions {
    /// etcd's program.
    #[arg(long)]
    pub etcd: PathBuf,
    /// Keelson's program.
    #[arg(long)]
    pub keelson: PathBuf,
    /// Members of each cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub members: u8,
    /// Workloads, separated by commas: put-CLIENTS, range-CLIENTS, range-serializable-CLIENTS,
    /// watch-CLIENTS, lease-CLIENTS, keepalive-CLIENTS, memory, snapshot, restore, defrag, catchup,
    /// leader-change, member-change. Default for one member: put-1, put-64, put-256, put-1000,
    /// range-64, range-serializable-64; for more: put-256.
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<Workload>,
    /// Measurements of each workload and program; the medians are compared.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Seconds of each measurement, after one second of warm-up.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub seconds: u16,
    /// Bytes of a value; those of the memory workload have 1 KiB.
    #[arg(long, default_value_t = 256)]
    pub value_size: u32,
    /// Keys of the memory workload.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub memory_keys: u64,
    /// Where data directories are made: the disk to measure.
    #[arg(long, default_value = "target/compare")]
    pub dir: PathBuf,
    /// Core of the servers, of all members.
    #[arg(long, default_value_t = 0)]
    pub server_cpu: usize,
    /// Core of the driver.
    #[arg(long, default_value_t = 1)]
    pub driver_cpu: usize,
    /// Bind nothing to a core, as an operator would run it: servers and driver share all cores.
    #[arg(long)]
    pub unpinned: bool,
    /// MiB of values in the store that snapshot, restore, defrag and catchup work on.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub store_mib: u64,
    /// etcd's offline program, for restore.
    #[arg(long)]
    pub etcdutl: Option<PathBuf>,
    /// Keelson's, for restore.
    #[arg(long)]
    pub keelctl: Option<PathBuf>,
}

impl CompareOptions {
    /// Binds the calling thread, and what it starts, to the servers' core.
    pub(crate) fn pin_server(&self) -> anyhow::Result<()> {
        self.pin(self.server_cpu)
    }

    /// Binds the calling thread, and what it starts, to the driver's core.
    pub(crate) fn pin_driver(&self) -> anyhow::Result<()> {
        self.pin(self.driver_cpu)
    }

    fn pin(&self, cpu: usize) -> anyhow::Result<()> {
        match self.unpinned {
            true => Ok(()),
            false => machine::pin_to(cpu),
        }
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        if !self.workloads.is_empty() {
            return self.workloads.clone();
        }
        let put = |clients| Workload::Load(LoadWorkload::Put { clients });
        let range = |serializable| {
            Workload::Load(LoadWorkload::Range {
                clients: 64,
                serializable,
            })
        };
        match self.members {
            1 => vec![
                put(1),
                put(64),
                put(256),
                put(1_000),
                range(false),
                range(true),
            ],
            _ => vec![put(256)],
        }
    }
}
