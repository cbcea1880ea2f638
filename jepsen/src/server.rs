//! Server processes of one cluster on loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use keelson_proto::etcdserverpb::kv_client::KvClient;
use keelson_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use keelson_proto::etcdserverpb::{RangeRequest, StatusRequest};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long a cluster may take to serve after a start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster of processes that share a program and a parent directory for their data.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    directory: PathBuf,
    members: Vec<Member>,
    arguments: Vec<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: String,
    peer: String,
    /// The parent of its data directory, if that is not the cluster's.
    directory: Option<PathBuf>,
    /// `--initial-cluster` of a member that joins the others; none for those that bootstrap.
    joins: Option<String>,
    process: Option<Child>,
    /// Not to be started yet.
    held: bool,
}

impl Cluster {
    /// Describes a cluster of `size` members whose data lies in `directory`; nothing runs yet.
    ///
    /// # Errors
    /// When no free ports are found.
    pub fn new(program: &Path, directory: &Path, size: usize, arguments: &[&str]) -> Result<Self> {
        let mut members = Vec::new();
        for (place, ports) in free_ports(size * 2)?.chunks_exact(2).enumerate() {
            let [client, peer] = ports else {
                bail!("no ports")
            };
            members.push(Member {
                name: format!("m{place}"),
                client: format!("http://127.0.0.1:{client}"),
                peer: format!("http://127.0.0.1:{peer}"),
                directory: None,
                joins: None,
                process: None,
                held: false,
            });
        }
        Ok(Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            members,
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
        })
    }

    /// Members that are started from now on get these arguments, instead of those before.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&one| one.to_owned()).collect();
    }

    /// Puts the data of a member that was never started elsewhere.
    pub fn place_on(&mut self, place: usize, directory: &Path) {
        if let Some(member) = self.members.get_mut(place) {
            member.directory = Some(directory.to_owned());
        }
    }

    /// Waits until a member ends by itself.
    ///
    /// # Errors
    /// When it goes on for longer.
    pub async fn wait_ended(&mut self, place: usize, within: Duration) -> Result<ExitStatus> {
        let member = self.members.get_mut(place).context("no such member")?;
        let mut process = member.process.take().context("it does not run")?;
        match tokio::time::timeout(within, process.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => {
                process.kill().await.context("kill -9")?;
                let log = last_lines(&self.directory, &member.name);
                bail!("{} goes on after {within:?}:\n{log}", member.name)
            }
        }
    }

    /// Length of a member's log by now, for [`Cluster::log_since`].
    #[must_use]
    pub fn log_bytes(&self, place: usize) -> u64 {
        let member = self.members.get(place);
        let path = member.map(|member| log_path(&self.directory, &member.name));
        path.and_then(|path| path.metadata().ok())
            .map_or(0, |metadata| metadata.len())
    }

    /// What a member has logged behind the first `from` bytes.
    #[must_use]
    pub fn log_since(&self, place: usize, from: u64) -> String {
        let Some(member) = self.members.get(place) else {
            return String::new();
        };
        let log = std::fs::read(log_path(&self.directory, &member.name)).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(log.len());
        String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
    }

    /// A member's name.
    #[must_use]
    pub fn name(&self, place: usize) -> Option<&str> {
        self.members.get(place).map(|member| member.name.as_str())
    }

    /// The member that says that it leads, waiting for one.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while Instant::now() < deadline {
            for (place, member) in self.members.iter().enumerate() {
                if member.process.is_some() && leads(&member.client).await {
                    return Ok(place);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no member leads after {READY_TIMEOUT:?}")
    }

    /// The last lines of a member's log.
    #[must_use]
    pub fn last_lines(&self, place: usize) -> String {
        let member = self.members.get(place);
        member.map_or_else(String::new, |member| {
            last_lines(&self.directory, &member.name)
        })
    }

    /// Describes one more member, which joins those that are there; it does not run yet. Gives its
    /// peer URL.
    ///
    /// # Errors
    /// When no free ports are found.
    pub fn join(&mut self, name: &str) -> Result<String> {
        let ports = free_ports(2)?;
        let [client, peer] = ports[..] else {
            bail!("no ports")
        };
        let peer = format!("http://127.0.0.1:{peer}");
        let mut cluster = initial_cluster(self.members.iter());
        cluster.push_str(&format!(",{name}={peer}"));
        self.members.push(Member {
            name: name.to_owned(),
            client: format!("http://127.0.0.1:{client}"),
            peer: peer.clone(),
            directory: None,
            joins: Some(cluster),
            process: None,
            held: false,
        });
        Ok(peer)
    }

    /// How many members there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A member's peer URL.
    #[must_use]
    pub fn peer(&self, place: usize) -> Option<&str> {
        self.members.get(place).map(|member| member.peer.as_str())
    }

    /// Forgets a member that was removed from the cluster; if it runs it must end by itself, with
    /// exit code 0.
    ///
    /// # Errors
    /// When it does not.
    pub async fn forget(&mut self, place: usize) -> Result<()> {
        let mut member = self.members.remove(place);
        if let Some(process) = &mut member.process {
            let ended = tokio::time::timeout(READY_TIMEOUT, process.wait()).await;
            let status =
                ended.with_context(|| format!("{} was removed and runs on", member.name))??;
            if !status.success() {
                let log = last_lines(&self.directory, &member.name);
                bail!(
                    "{} was removed and ended with {status}:\n{log}",
                    member.name
                );
            }
        }
        Ok(())
    }

    /// Client URLs.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| member.client.clone())
            .collect()
    }

    /// Starts every member that does not run and is not held, and waits until each of them serves a
    /// linearizable read.
    ///
    /// # Errors
    /// When one ends or does not get there in time; its last log lines are in the error.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        for place in 0..self.members.len() {
            if self.members.get(place).is_some_and(|member| !member.held) {
                self.wait_ready(place).await?;
            }
        }
        Ok(())
    }

    /// Starts every member that does not run.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let bootstrap = initial_cluster(self.members.iter().filter(|one| one.joins.is_none()));
        for member in &mut self.members {
            if member.process.is_none() && !member.held {
                member.process = Some(spawn(
                    &self.program,
                    &self.directory,
                    member,
                    &bootstrap,
                    &self.arguments,
                )?);
            }
        }
        Ok(())
    }

    /// Keeps a member from being started until [`Cluster::release`].
    pub fn hold(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            member.held = true;
        }
    }

    /// Lets a member be started.
    pub fn release(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            member.held = false;
        }
    }

    async fn wait_ready(&mut self, place: usize) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let Some(member) = self.members.get_mut(place) else {
                return Ok(());
            };
            if let Some(process) = &mut member.process
                && let Some(status) = process.try_wait()?
            {
                let log = last_lines(&self.directory, &member.name);
                bail!("{} ended with {status}:\n{log}", member.name);
            }
            if serves(&member.client).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = last_lines(&self.directory, &member.name);
                bail!(
                    "{} does not serve after {READY_TIMEOUT:?}:\n{log}",
                    member.name
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills a member with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self, place: usize) -> Result<()> {
        if let Some(mut process) = self
            .members
            .get_mut(place)
            .and_then(|member| member.process.take())
        {
            process.kill().await.context("kill -9")?;
        }
        Ok(())
    }

    /// Kills all members.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub async fn kill_all(&mut self) -> Result<()> {
        for place in 0..self.members.len() {
            self.kill(place).await?;
        }
        Ok(())
    }
}

fn initial_cluster<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    let members: Vec<String> = members
        .map(|member| format!("{}={}", member.name, member.peer))
        .collect();
    members.join(",")
}

async fn serves(endpoint: &str) -> bool {
    let read = async {
        let mut client = KvClient::connect(endpoint.to_owned()).await.ok()?;
        let request = RangeRequest {
            key: "ready".into(),
            ..Default::default()
        };
        client.range(request).await.ok()
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), read).await,
        Ok(Some(_))
    )
}

async fn leads(endpoint: &str) -> bool {
    let ask = async {
        let mut client = MaintenanceClient::connect(endpoint.to_owned()).await.ok()?;
        let status = client.status(StatusRequest {}).await.ok()?.into_inner();
        Some(status.header?.member_id == status.leader)
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), ask).await,
        Ok(Some(true))
    )
}

fn spawn(
    program: &Path,
    directory: &Path,
    member: &Member,
    bootstrap: &str,
    arguments: &[String],
) -> Result<Child> {
    let (cluster, state) = match &member.joins {
        Some(cluster) => (cluster.as_str(), "existing"),
        None => (bootstrap, "new"),
    };
    // Beside the data directory's disk: the log must survive a power cut.
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(directory, &member.name))?;
    let data = member.directory.as_deref().unwrap_or(directory);
    Command::new(program)
        .args(["--name", &member.name])
        .arg("--data-dir")
        .arg(data.join(&member.name))
        .args(["--listen-client-urls", &member.client])
        .args(["--advertise-client-urls", &member.client])
        .args(["--listen-peer-urls", &member.peer])
        .args(["--initial-advertise-peer-urls", &member.peer])
        .args(["--initial-cluster", cluster])
        .args(["--initial-cluster-state", state])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory
        .parent()
        .unwrap_or(directory)
        .join(format!("{name}.log"))
}

fn last_lines(directory: &Path, name: &str) -> String {
    let log = std::fs::read_to_string(log_path(directory, name)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Ports that are free now, all different.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}
