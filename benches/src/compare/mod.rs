//! Keelson beside etcd: the same load, the same machine, one after the other.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | what the command line says |
//! | [`workload`] | the workloads by name, and the driver's arguments for them |
//! | [`cluster`] | servers: start, readiness, restart, stop |
//! | [`measure`] | one measurement: a fresh cluster, the driver, what it cost the server |
//! | [`memory`] | a large load, a restart, and the memory in both states |
//! | [`scenario`] | what an operator does to a cluster in use: snapshot, defragment, members |
//! | [`traffic`] | clients that go on meanwhile, and what each of their calls met |
//! | [`table`] | medians and ratios as Markdown |
//!
//! Every measurement starts from empty data directories, and the two programs take turns (A B,
//! B A, A B …), so that what else the machine does falls on both. Measurements go to stderr as
//! lines of JSON when they are made; the tables come at the end, on stdout.

mod cluster;
mod measure;
mod memory;
pub(crate) mod options;
mod scenario;
mod table;
mod traffic;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::compare::cluster::Program;
use crate::compare::measure::Sample;
use crate::compare::memory::MemorySample;
use crate::compare::options::CompareOptions;
use crate::compare::scenario::ScenarioSample;
use crate::compare::workload::Workload;

/// `f_type` of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Measures all workloads and prints the tables. Fails if a server or a call failed, after
/// everything that could be measured has been.
pub(crate) fn run(options: &CompareOptions) -> anyhow::Result<()> {
    let directory = WorkDirectory::create(&options.dir)?;
    options.pin_driver()?;
    let programs = [
        Program::new("etcd", &options.etcd)?,
        Program::new("keelson", &options.keelson)?,
    ];
    let mut failures = Vec::new();
    let mut results = Results::default();
    for workload in options.workloads() {
        for round in 0..options.rounds {
            let mut turns = [&programs[0], &programs[1]];
            if round % 2 == 1 {
                turns.reverse();
            }
            for program in turns {
                let name = format!("{}-{workload}-{round}", program.name);
                let place = directory.path.join(&name);
                match results.measure(program, &workload, options, &place) {
                    Ok(()) => fs::remove_dir_all(&place)
                        .with_context(|| format!("cannot remove {}", place.display()))?,
                    // What it left is kept for a person to look into.
                    Err(error) => {
                        eprintln!("{name}: {error:#}");
                        failures.push(format!("{name}: {error:#}"));
                    }
                }
            }
        }
    }
    println!("{}", table::conditions(options, &results.samples));
    if !results.samples.is_empty() {
        println!("{}", table::rates(&results.samples));
    }
    if !results.memory.is_empty() {
        println!("{}", table::memory(&results.memory));
    }
    if !results.scenarios.is_empty() {
        println!("{}", table::scenarios(&results.scenarios));
    }
    if !failures.is_empty() {
        directory.keep();
        bail!("{} failed:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

#[derive(Default)]
struct Results {
    samples: Vec<Sample>,
    memory: Vec<MemorySample>,
    scenarios: Vec<ScenarioSample>,
}

impl Results {
    fn measure(
        &mut self,
        program: &Program,
        workload: &Workload,
        options: &CompareOptions,
        place: &Path,
    ) -> anyhow::Result<()> {
        match workload {
            Workload::Memory => {
                let sample = memory::measure(program, options, place)?;
                print_raw(&sample)?;
                self.memory.push(sample);
            }
            Workload::Scenario(scenario) => {
                let sample = scenario.measure(program, options, place)?;
                print_raw(&sample)?;
                self.scenarios.push(sample);
            }
            Workload::Load(load) => {
                let sample = measure::measure(program, load, options, place)?;
                print_raw(&sample)?;
                self.samples.push(sample);
            }
        }
        Ok(())
    }
}

fn print_raw(sample: &impl Serialize) -> anyhow::Result<()> {
    eprintln!("{}", serde_json::to_string(sample)?);
    Ok(())
}

/// A directory of this run's own, removed at its end.
struct WorkDirectory {
    path: PathBuf,
    keep: std::cell::Cell<bool>,
}

impl WorkDirectory {
    /// Refuses a file system in memory: there, fsync costs nothing.
    fn create(parent: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        let parent = parent.canonicalize()?;
        #[allow(
            clippy::useless_conversion,
            reason = "the type of f_type differs between architectures"
        )]
        if i64::from(rustix::fs::statfs(&parent)?.f_type) == TMPFS_MAGIC {
            bail!("{} is in memory; name a disk with --dir", parent.display());
        }
        let path = parent.join(format!("keelson-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path,
            keep: std::cell::Cell::new(false),
        })
    }

    fn keep(&self) {
        self.keep.set(true);
        eprintln!("logs and data are in {}", self.path.display());
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        if !self.keep.get() {
            // A left-over directory is no reason to hide the result.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
