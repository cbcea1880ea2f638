//! `keelctl snapshot restore` and `save`, cut at random points.
//!
//! - A restore that is cut leaves no data directory, or a whole one. What it leaves of a log apart
//!   (`--wal-dir`), or under another name, no server starts on. Doing it again needs no hand work.
//! - A save that is cut leaves no file under the name asked for, or a whole one.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use tokio::process::Command;

use crate::disk::LoopDisk;
use crate::load::{Base, Tally};
use crate::machines::Blow;
use crate::rounds::Plan;
use crate::server::Cluster;

/// What the snapshot holds: restoring it takes long enough to be cut.
const BASE: Base = Base {
    keys: 4000,
    value_bytes: 8 << 10,
};
/// Size of each of the file systems in MiB.
const DISK_MEGABYTES: u64 = 1024;
/// No run of the tool takes longer.
const TOOL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to refuse a directory.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(20);
/// What a restore calls a directory until it is whole.
const UNFINISHED: &str = "restoring";

/// A member, a snapshot of it, and room for what is made of it.
struct Bench {
    plan: Plan,
    keelctl: PathBuf,
    /// Where data directories are made, and where logs apart are: disks of their own for power cuts.
    disks: Vec<LoopDisk>,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new(plan: &Plan, keelctl: &Path, blow: Blow) -> Result<Self> {
        let scratch = tempfile::tempdir_in(&plan.directory)?;
        let mut disks = Vec::new();
        for name in ["data", "wal"] {
            let directory = scratch.path().join(name);
            std::fs::create_dir(&directory)?;
            if blow == Blow::PowerCut {
                disks.push(LoopDisk::create(&directory, DISK_MEGABYTES)?);
            }
        }
        Ok(Self {
            plan: plan.clone(),
            keelctl: keelctl.to_owned(),
            disks,
            scratch,
        })
    }

    fn place(&self, disk: usize, name: &str) -> PathBuf {
        match self.disks.get(disk) {
            Some(disk) => disk.path().to_owned(),
            None => self.scratch.path().join(name),
        }
    }

    /// Of data directories.
    fn data(&self) -> PathBuf {
        self.place(0, "data")
    }

    /// Of logs apart.
    fn wal(&self) -> PathBuf {
        self.place(1, "wal")
    }

    /// The snapshot, on a disk that does not fail.
    fn file(&self) -> PathBuf {
        self.scratch.path().join("snapshot.db")
    }

    /// A cluster of one whose data directory is `<data>/m0`.
    fn member(&self, arguments: &[&str]) -> Result<Cluster> {
        let logs = self.scratch.path().join("logs").join("here");
        std::fs::create_dir_all(&logs)?;
        let mut cluster = Cluster::new(&self.plan.program, &logs, 1, arguments)?;
        cluster.place_on(0, &self.data());
        Ok(cluster)
    }

    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.keelctl);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = tokio::time::timeout(TOOL_TIMEOUT, self.tool(arguments).output()).await;
        output
            .with_context(|| format!("{arguments:?} hangs"))?
            .context("cannot start keelctl")
    }

    async fn must_run(&self, arguments: &[&str]) -> Result<()> {
        let output = self.run(arguments).await?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {words}");
        Ok(())
    }

    /// Runs the tool for so long and cuts it; whether it was still at work.
    async fn cut(&mut self, arguments: &[&str], after: Duration) -> Result<bool> {
        let mut process = self
            .tool(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start keelctl")?;
        tokio::time::sleep(after).await;
        for disk in &self.disks {
            disk.cut_power()?;
        }
        let ended = process.try_wait()?;
        process.kill().await.context("kill -9")?;
        for disk in &mut self.disks {
            disk.restore_power()?;
        }
        Ok(ended.is_none())
    }

    fn clear(&self) -> Result<()> {
        for directory in [self.data(), self.wal()] {
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                let name = entry.file_name();
                // The disk's own, and its image where the directory holds that.
                if !matches!(name.to_str(), Some("lost+found" | "disk.img" | "mnt")) {
                    if entry.file_type()?.is_dir() {
                        std::fs::remove_dir_all(entry.path())?;
                    } else {
                        std::fs::remove_file(entry.path())?;
                    }
                }
            }
            // What is cleared away stays away, whatever is cut next.
            std::fs::File::open(&directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// Cuts restores: rounds alternate between a log inside the data directory and one apart.
///
/// # Errors
/// When what is left is neither nothing nor whole, or it cannot be done again.
pub async fn restores(plan: &Plan, keelctl: &Path, blow: Blow) -> Result<Tally> {
    let mut bench = Bench::new(plan, keelctl, blow)?;
    let mut source = bench.member(&[])?;
    source.start().await?;
    let endpoint = source.endpoints().pop().context("no endpoint")?;
    BASE.fill(&endpoint).await?;
    let file = text(&bench.file())?;
    bench
        .must_run(&["--endpoints", &endpoint, "snapshot", "save", &file])
        .await?;
    source.kill_all().await?;
    bench.clear()?;
    let mut tally = Tally::default();
    for round in 1..=plan.rounds {
        let apart = round % 2 == 0;
        let hit = restore_round(&mut bench, apart).await;
        tally.hit += u64::from(hit.with_context(|| {
            let log = if apart { "apart" } else { "inside" };
            format!("round {round} of {}, log {log}", plan.rounds)
        })?);
        bench.clear()?;
    }
    tally.faults = plan.rounds as u64;
    tally.acknowledged = BASE.keys as u64;
    Ok(tally)
}

/// Whether the restore was cut before it had ended.
async fn restore_round(bench: &mut Bench, apart: bool) -> Result<bool> {
    let (data, wal) = (bench.data().join("m0"), bench.wal().join("w0"));
    let (data_text, wal_text, file) = (text(&data)?, text(&wal)?, text(&bench.file())?);
    let server: Vec<&str> = if apart {
        vec!["--wal-dir", &wal_text]
    } else {
        Vec::new()
    };
    let mut member = bench.member(&server)?;
    let peer = member.peer(0).context("no member")?.to_owned();
    let cluster = format!("m0={peer}");
    let mut restore = vec![
        "snapshot",
        "restore",
        &file,
        "--data-dir",
        &data_text,
        "--name",
        "m0",
        "--initial-cluster",
        &cluster,
        "--initial-advertise-peer-urls",
        &peer,
    ];
    restore.extend(&server);
    let began = Instant::now();
    bench.must_run(&restore).await.context("uncut")?;
    let whole = began.elapsed();
    bench.clear()?;
    let after = whole.mul_f64(rand::rng().random_range(0.0..1.05));
    let hit = bench.cut(&restore, after).await?;
    if !data.exists() {
        // Nothing there: a half may be under other names, which no server takes for a whole.
        if wal.exists() {
            refuses(&mut member, &server)
                .await
                .context("the log alone")?;
            ensure!(!data.exists(), "the refusal has made {}", data.display());
        }
        let unfinished = data.with_file_name(format!("m0.{UNFINISHED}"));
        if unfinished.join("member").exists() {
            std::fs::rename(&unfinished, &data)?;
            match member.start().await {
                Ok(()) => whole_member(&mut member).await.context("unfinished")?,
                Err(_) => member.kill_all().await?,
            }
            std::fs::rename(&data, &unfinished)?;
        }
        bench.must_run(&restore).await.context("restore again")?;
    }
    member.start().await.context("start what was restored")?;
    whole_member(&mut member).await?;
    Ok(hit)
}

async fn whole_member(member: &mut Cluster) -> Result<()> {
    BASE.check(&member.endpoints()).await?;
    member.kill_all().await
}

/// A server does not start here.
async fn refuses(member: &mut Cluster, arguments: &[&str]) -> Result<()> {
    let from = member.log_bytes(0);
    member.spawn()?;
    let status = member.wait_ended(0, REFUSED_TIMEOUT).await?;
    let log = member.log_since(0, from);
    if status.code() != Some(1) {
        bail!("a server with {arguments:?} ended with {status}: {log}");
    }
    ensure!(log.contains(UNFINISHED_TEXT), "it does not say why: {log}");
    Ok(())
}

/// What a server says of a log that a restore has left behind.
const UNFINISHED_TEXT: &str = "restore that did not finish";

/// Cuts saves.
///
/// # Errors
/// When a file under the name asked for is not whole, or it cannot be saved again.
pub async fn saves(plan: &Plan, keelctl: &Path, blow: Blow) -> Result<Tally> {
    let mut bench = Bench::new(plan, keelctl, blow)?;
    // The member is not what fails.
    let stays = bench.scratch.path().join("member");
    std::fs::create_dir(&stays)?;
    let mut source = bench.member(&[])?;
    source.place_on(0, &stays);
    source.start().await?;
    let endpoint = source.endpoints().pop().context("no endpoint")?;
    BASE.fill(&endpoint).await?;
    let path = bench.data().join("saved.db");
    let part = bench.data().join("saved.db.part");
    let file = text(&path)?;
    let save = ["--endpoints", &endpoint, "snapshot", "save", &file];
    let status = ["snapshot", "status", &file];
    let mut tally = Tally::default();
    for round in 1..=plan.rounds {
        let context = || format!("round {round} of {}", plan.rounds);
        let began = Instant::now();
        bench.must_run(&save).await.with_context(context)?;
        let after = began.elapsed().mul_f64(rand::rng().random_range(0.0..1.05));
        bench.clear()?;
        let hit = bench.cut(&save, after).await.with_context(context)?;
        tally.hit += u64::from(hit);
        if path.exists() {
            bench.must_run(&status).await.with_context(context)?;
            ensure!(!part.exists(), "both {} and its part", path.display());
        }
        bench.must_run(&save).await.with_context(context)?;
        bench.must_run(&status).await.with_context(context)?;
        ensure!(!part.exists(), "the part is left after round {round}");
        bench.clear()?;
    }
    source.kill_all().await?;
    tally.faults = plan.rounds as u64;
    tally.acknowledged = BASE.keys as u64;
    Ok(tally)
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().context("a path that is no text")?;
    Ok(text.to_owned())
}
