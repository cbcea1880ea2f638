//! Cuts the power of members, kills them, or fills their disk, and checks that nothing acknowledged
//! was lost.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use keelson_jepsen::machines::Blow;
use keelson_jepsen::rounds::{Fault, Plan, run};
use keelson_jepsen::{bootstrap, churn, full_disk, install, offline};

/// Faults against real processes on real disks.
#[derive(Parser)]
struct Arguments {
    /// The fault.
    fault: FaultName,
    /// The server program; by default the one beside this program.
    #[arg(long)]
    server: Option<PathBuf>,
    /// keelctl; by default the one beside this program.
    #[arg(long)]
    keelctl: Option<PathBuf>,
    /// How members or tools fail in bootstrap, install, churn, restore and save.
    #[arg(long, default_value = "kill")]
    by: BlowName,
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FaultName {
    /// Cut the power of an ext4 loop file system (needs root) under all members.
    PowerCut,
    /// kill -9 of all members.
    Kill,
    /// Fill the ext4 loop file system of one member (needs root).
    FullDisk,
    /// Members fail during their very first start.
    Bootstrap,
    /// Members are added, promoted and removed, and fail meanwhile.
    Churn,
    /// A member that was away is sent checkpoints, and members fail meanwhile.
    Install,
    /// `keelctl snapshot restore` is cut.
    Restore,
    /// `keelctl snapshot save` is cut.
    Save,
}

#[derive(Clone, Copy, ValueEnum)]
enum BlowName {
    /// kill -9.
    Kill,
    /// Cut the power of an ext4 loop file system (needs root).
    PowerCut,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let beside = |name: &str, given: Option<PathBuf>| -> Result<PathBuf> {
        match given {
            Some(program) => Ok(program),
            None => Ok(std::env::current_exe()?
                .parent()
                .context("this program has no directory")?
                .join(name)),
        }
    };
    let program = beside("keelson", arguments.server)?;
    let keelctl = beside("keelctl", arguments.keelctl)?;
    let blow = match arguments.by {
        BlowName::Kill => Blow::Kill,
        BlowName::PowerCut => Blow::PowerCut,
    };
    // The tools are cut alone, with values of one size.
    let is_offline = matches!(arguments.fault, FaultName::Restore | FaultName::Save);
    let (sizes, values) = if is_offline {
        (vec![1], vec![0])
    } else {
        (arguments.members, arguments.value_sizes)
    };
    let mut faults = 0;
    for &members in &sizes {
        for &value_bytes in &values {
            let plan = Plan {
                program: program.clone(),
                directory: arguments.dir.clone(),
                members,
                value_bytes,
                rounds: arguments.rounds,
            };
            let began = Instant::now();
            let tally = match arguments.fault {
                FaultName::PowerCut => run(&plan, Fault::PowerCut).await,
                FaultName::Kill => run(&plan, Fault::Kill).await,
                FaultName::FullDisk => full_disk::run(&plan).await,
                FaultName::Bootstrap => bootstrap::run(&plan, blow).await,
                FaultName::Churn => churn::run(&plan, blow).await,
                FaultName::Install => install::run(&plan, blow).await,
                FaultName::Restore => offline::restores(&plan, &keelctl, blow).await,
                FaultName::Save => offline::saves(&plan, &keelctl, blow).await,
            };
            let tally = tally
                .with_context(|| format!("{members} members, values of {value_bytes} bytes"))?;
            faults += tally.faults;
            println!(
                "{members} members, values of {value_bytes} bytes: {} faults ({} where they were \
                 aimed at), {} acknowledged writes, none lost, {:.0?}",
                tally.faults,
                tally.hit,
                tally.acknowledged,
                began.elapsed()
            );
        }
    }
    println!("{faults} faults, no acknowledged write lost, every data directory opened");
    Ok(())
}
