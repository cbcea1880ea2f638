//! Servers under test: start on ports of the system, readiness, restart, stop.
//!
//! Only processes that were started here are ever signalled, by the handle of the child; dropping
//! a cluster kills them. Both programs get the same flags.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keelson_proto::etcdserverpb::RangeRequest;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::compare::options::CompareOptions;
use crate::machine;
use crate::transport::{Connection, framed};

/// A start may replay a log of a million puts.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// One attempt at a read; a member without a leader does not answer at all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How closely the moment of readiness is seen.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(5);
/// After it, a server that was asked to end is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of a failed server's log that are shown.
const LOG_LINES: usize = 15;
/// As much as etcd recommends at most.
const QUOTA_BYTES: u64 = 8 << 30;

/// One of the two programs.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub name: &'static str,
    path: PathBuf,
}

impl Program {
    pub(crate) fn new(name: &'static str, path: &Path) -> anyhow::Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("no program at {}", path.display()))?;
        Ok(Self { name, path })
    }
}

/// All members of one cluster.
pub(crate) struct Cluster {
    members: Vec<Member>,
    options: CompareOptions,
}

struct Member {
    program: Program,
    arguments: Vec<String>,
    /// `host:port` for clients.
    endpoint: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts members with empty data directories below `place` and waits until all of them serve.
    pub(crate) fn start(
        program: &Program,
        options: &CompareOptions,
        place: &Path,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
        let count = usize::from(options.members);
        let ports = free_ports(2 * count)?;
        let (client_ports, peer_ports) = ports.split_at(count);
        let initial_cluster: Vec<_> = (1..)
            .zip(peer_ports)
            .map(|(number, port)| format!("m{number}=http://127.0.0.1:{port}"))
            .collect();
        let mut members = Vec::new();
        for (number, (client_port, peer_port)) in (1..).zip(client_ports.iter().zip(peer_ports)) {
            let name = format!("m{number}");
            let client_url = format!("http://127.0.0.1:{client_port}");
            let peer_url = format!("http://127.0.0.1:{peer_port}");
            let flags = [
                ("--name", name.clone()),
                ("--data-dir", place.join(&name).display().to_string()),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", initial_cluster.join(",")),
                ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
                ("--log-level", "error".to_string()),
            ];
            members.push(Member {
                program: program.clone(),
                arguments: flags
                    .into_iter()
                    .flat_map(|(flag, value)| [flag.to_string(), value])
                    .collect(),
                endpoint: format!("127.0.0.1:{client_port}"),
                log: place.join(format!("{name}.log")),
                child: None,
            });
        }
        let mut cluster = Self {
            members,
            options: options.clone(),
        };
        cluster.spawn()?;
        Ok(cluster)
    }

    /// Stops all members, starts them again, and says how long the start took until every member
    /// answered a linearizable read.
    pub(crate) fn restart(&mut self) -> anyhow::Result<Duration> {
        self.stop()?;
        self.spawn()
    }

    pub(crate) fn endpoints(&self) -> String {
        let endpoints: Vec<_> = self.members.iter().map(|m| m.endpoint.as_str()).collect();
        endpoints.join(",")
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = String> {
        let children = self.members.iter().filter_map(|m| m.child.as_ref());
        children.map(|child| child.id().to_string())
    }

    /// CPU time of all members since their start.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.pids().map(|pid| machine::cpu_time(&pid)).sum()
    }

    /// Fails if a member has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.members.iter_mut().try_for_each(Member::check)
    }

    /// Ends all members: SIGTERM, then SIGKILL. A member that had to be killed is an error.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.check()?;
        for member in &self.members {
            member.terminate();
        }
        self.members.iter_mut().try_for_each(Member::reap)
    }

    fn spawn(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        // A child inherits the core of the thread that starts it.
        machine::pin_to(self.options.server_cpu)?;
        let spawned = self.members.iter_mut().try_for_each(Member::spawn);
        machine::pin_to(self.options.driver_cpu)?;
        spawned?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for member in &mut self.members {
            loop {
                member.check()?;
                let attempt = runtime.block_on(member.read());
                match attempt {
                    Ok(()) => break,
                    Err(error) if began.elapsed() > READY_TIMEOUT => {
                        return Err(error.context(format!("{} never served", member.endpoint)));
                    }
                    Err(_) => sleep(ATTEMPT_INTERVAL),
                }
            }
        }
        Ok(began.elapsed())
    }
}

impl Member {
    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program.path)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// A linearizable read of a key that need not be there.
    async fn read(&self) -> anyhow::Result<()> {
        let read = async {
            let mut connection = Connection::open(&self.endpoint).await?;
            let call = connection.call("/etcdserverpb.KV/Range")?;
            let request = RangeRequest {
                key: "ready".into(),
                ..Default::default()
            };
            connection.unary(&call, framed(&request)).await?;
            anyhow::Ok(())
        };
        timeout(ATTEMPT_TIMEOUT, read).await?
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else {
            bail!("{} is not running", self.program.name);
        };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}; its log ends with\n{}",
                self.program.name,
                self.log_end()
            ),
        }
    }

    fn terminate(&self) {
        if let Some(child) = &self.child {
            // Fails only if it has just ended, which `reap` sees.
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            sleep(ATTEMPT_INTERVAL);
        }
        child.kill()?;
        child.wait()?;
        let limit = STOP_TIMEOUT.as_secs();
        bail!("{} did not end within {limit} s", self.program.name);
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let start = lines.len().saturating_sub(LOG_LINES);
        lines.get(start..).unwrap_or_default().join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only if it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|l| l.local_addr().map(|a| a.port()));
    Ok(ports.collect::<Result<_, _>>()?)
}
