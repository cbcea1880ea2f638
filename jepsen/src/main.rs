//! Cuts the power of members, kills them, or fills their disk, and checks that nothing acknowledged was lost.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use keelson_jepsen::full_disk;
use keelson_jepsen::rounds::{Fault, Plan, run};

/// Faults against real processes on real disks.
#[derive(Parser)]
struct Arguments {
    /// The fault.
    fault: FaultName,
    /// The server program; by default the one beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Where disks and data are made. Must not be a tmpfs.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Sizes of the cluster, each an experiment of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    members: Vec<usize>,
    /// Sizes of values in bytes, each an experiment of its own.
    #[arg(long, value_delimiter = ',', default_value = "100,5120,102400")]
    value_sizes: Vec<usize>,
    /// Faults of each experiment.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum FaultName {
    /// Cut the power of an ext4 loop file system (needs root).
    PowerCut,
    /// kill -9.
    Kill,
    /// Fill the ext4 loop file system of one member (needs root).
    FullDisk,
    /// Members are added and removed, and killed meanwhile.
    Churn,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let program = match arguments.server {
        Some(program) => program,
        None => std::env::current_exe()?
            .parent()
            .context("this program has no directory")?
            .join("keelson"),
    };
    let fault = match arguments.fault {
        FaultName::PowerCut => Some(Fault::PowerCut),
        FaultName::Kill => Some(Fault::Kill),
        FaultName::Churn => Some(Fault::Churn),
        FaultName::FullDisk => None,
    };
    let mut faults = 0;
    for &members in &arguments.members {
        for &value_bytes in &arguments.value_sizes {
            let plan = Plan {
                program: program.clone(),
                directory: arguments.dir.clone(),
                members,
                value_bytes,
                rounds: arguments.rounds,
            };
            let began = Instant::now();
            let tally = match fault {
                Some(fault) => run(&plan, fault).await,
                None => full_disk::run(&plan).await,
            };
            let tally = tally
                .with_context(|| format!("{members} members, values of {value_bytes} bytes"))?;
            faults += arguments.rounds;
            println!(
                "{members} members, values of {value_bytes} bytes: {} faults, {} acknowledged \
                 writes, none lost, {:.0?}",
                arguments.rounds,
                tally.acknowledged,
                began.elapsed()
            );
        }
    }
    println!("{faults} faults, no acknowledged write lost, every data directory opened");
    Ok(())
}
