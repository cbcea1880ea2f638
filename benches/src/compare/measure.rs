//! One measurement: a fresh cluster, the driver as a process of its own, the server's cost.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::compare::cluster::{Cluster, Program};
use crate::compare::options::CompareOptions;
use crate::compare::workload::LoadWorkload;
use crate::machine;
use crate::report::Report;

/// Bound of any run of the driver, which by itself ends when it makes no progress.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(900);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What one measurement found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub program: &'static str,
    /// The workload's name in the table.
    pub name: String,
    /// CPU time of all members per operation, in microseconds.
    pub cpu_us: f64,
    /// Share of the time that the servers' core was busy with anything else, 0 to 1: the kernel's
    /// own threads, and whatever else runs on the machine.
    pub other_busy: f64,
    pub report: Report,
}

/// Runs `workload` against a new cluster of `program` in `place`.
pub(crate) fn measure(
    program: &Program,
    workload: &LoadWorkload,
    options: &CompareOptions,
    place: &Path,
) -> anyhow::Result<Sample> {
    let mut cluster = Cluster::start(program, options, place)?;
    if let Some(arguments) = workload.preparation(options) {
        run_driver(&arguments, &mut cluster, options)?;
    }
    let began = Instant::now();
    let cpu_before = cluster.cpu_time()?;
    let busy_before = machine::core_busy(options.server_cpu)?;
    let report = run_driver(&workload.arguments(options), &mut cluster, options)?;
    let busy = machine::core_busy(options.server_cpu)?.saturating_sub(busy_before);
    let cpu = cluster.cpu_time()?.saturating_sub(cpu_before);
    let elapsed = began.elapsed();
    cluster.stop()?;
    if report.operations_all == 0 {
        bail!("the driver reports no operations");
    }
    #[expect(clippy::cast_precision_loss, reason = "a cost need not be exact")]
    let operations = report.operations_all as f64;
    Ok(Sample {
        program: program.name,
        name: workload.to_string(),
        cpu_us: cpu.as_secs_f64() * 1e6 / operations,
        other_busy: busy.saturating_sub(cpu).as_secs_f64() / elapsed.as_secs_f64(),
        report,
    })
}

/// Runs this program as the driver on its core, against all members.
pub(crate) fn run_driver(
    arguments: &[String],
    cluster: &mut Cluster,
    options: &CompareOptions,
) -> anyhow::Result<Report> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    if !options.unpinned {
        command.arg(format!("--cpu={}", options.driver_cpu));
    }
    let mut driver = command
        .arg(format!("--endpoints={}", cluster.endpoints()))
        .arg("--json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start the driver")?;
    let deadline = Instant::now() + DRIVER_TIMEOUT;
    // Its one line of output fits a pipe, so that it can end before anyone reads.
    while driver.try_wait()?.is_none() {
        if Instant::now() > deadline {
            driver.kill()?;
            driver.wait()?;
            bail!("the driver did not end in time");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let output = driver.wait_with_output()?;
    cluster.check()?;
    if !output.status.success() {
        bail!("the driver ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the driver's report cannot be read")
}
