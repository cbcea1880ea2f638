//! Servers under test: start on ports of the system, readiness, restart, stop.
//!
//! Only processes that were started here are ever signalled, by the handle of the child; dropping
//! a cluster kills them. Both programs get the same flags. A member that was stopped here counts no
//! more until it is started again; one that ends by itself is an error.

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
    program: Program,
    place: PathBuf,
    /// `name=URL` of all members there ever were, as `--initial-cluster` wants them.
    initial_cluster: Vec<String>,
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
        let names = (1..=count).map(|number| format!("m{number}"));
        let initial_cluster: Vec<_> = names
            .clone()
            .zip(peer_ports)
            .map(|(name, port)| format!("{name}={}", url(*port)))
            .collect();
        let mut cluster = Self {
            members: Vec::new(),
            options: options.clone(),
            program: program.clone(),
            place: place.to_owned(),
            initial_cluster,
        };
        for (name, (client_port, peer_port)) in names.zip(client_ports.iter().zip(peer_ports)) {
            let member = cluster.member(&name, *client_port, *peer_port, "new");
            cluster.members.push(member);
        }
        cluster.spawn()?;
        Ok(cluster)
    }

    /// Stops all members, starts them again, and says how long the start took until every member
    /// answered a linearizable read.
    pub(crate) fn restart(&mut self) -> anyhow::Result<Duration> {
        self.stop()?;
        self.spawn()
    }

    /// What both programs are told of a member.
    fn member(&self, name: &str, client_port: u16, peer_port: u16, state: &str) -> Member {
        let flags = [
            ("--name", name.to_string()),
            ("--data-dir", self.place.join(name).display().to_string()),
            ("--listen-client-urls", url(client_port)),
            ("--advertise-client-urls", url(client_port)),
            ("--listen-peer-urls", url(peer_port)),
            ("--initial-advertise-peer-urls", url(peer_port)),
            ("--initial-cluster", self.initial_cluster.join(",")),
            ("--initial-cluster-state", state.to_string()),
            ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
            ("--log-level", "error".to_string()),
        ];
        Member {
            program: self.program.clone(),
            arguments: flags
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_string(), value])
                .collect(),
            endpoint: format!("127.0.0.1:{client_port}"),
            log: self.place.join(format!("{name}.log")),
            child: None,
        }
    }

    /// Prepares a member that joins, without starting it: its place in the cluster and its peer
    /// URL, for MemberAdd.
    pub(crate) fn prepare_member(&mut self) -> anyhow::Result<(usize, String)> {
        let ports = free_ports(2)?;
        let (&[client_port], &[peer_port]) = ports.split_at(1) else {
            bail!("two ports were asked for");
        };
        let place = self.members.len();
        let name = format!("m{}", place + 1);
        self.initial_cluster
            .push(format!("{name}={}", url(peer_port)));
        let member = self.member(&name, client_port, peer_port, "existing");
        self.members.push(member);
        Ok((place, url(peer_port)))
    }

    /// Starts one member, without waiting for it.
    pub(crate) fn start_member(&mut self, place: usize) -> anyhow::Result<()> {
        self.options.pin_server()?;
        let spawned = self.at(place).and_then(Member::spawn);
        self.options.pin_driver()?;
        spawned
    }

    /// Asks one member to end, without waiting for it.
    pub(crate) fn terminate_member(&mut self, place: usize) -> anyhow::Result<()> {
        self.at(place).map(|member| member.terminate())
    }

    /// Waits for the end of a member that was asked to end, or that ends by itself.
    pub(crate) fn reap_member(&mut self, place: usize) -> anyhow::Result<()> {
        self.at(place).and_then(Member::reap)
    }

    /// kill -9.
    pub(crate) fn kill_member(&mut self, place: usize) -> anyhow::Result<()> {
        self.at(place).map(Member::kill)
    }

    /// Waits until a member answers a linearizable read; says how long that took.
    pub(crate) fn wait_for_member(&mut self, place: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.at(place)?.wait(began)?;
        Ok(began.elapsed())
    }

    fn at(&mut self, place: usize) -> anyhow::Result<&mut Member> {
        self.members.get_mut(place).context("no such member")
    }

    /// Where the members that run listen, by place.
    pub(crate) fn endpoint_list(&self) -> Vec<String> {
        let running = self.members.iter().filter(|m| m.child.is_some());
        running.map(|member| member.endpoint.clone()).collect()
    }

    pub(crate) fn endpoint(&self, place: usize) -> anyhow::Result<String> {
        let member = self.members.get(place).context("no such member")?;
        Ok(member.endpoint.clone())
    }

    pub(crate) fn endpoints(&self) -> String {
        self.endpoint_list().join(",")
    }

    pub(crate) fn pid(&self, place: usize) -> anyhow::Result<String> {
        let child = self.members.get(place).and_then(|m| m.child.as_ref());
        Ok(child.context("the member does not run")?.id().to_string())
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
        self.options.pin_server()?;
        let spawned = self.members.iter_mut().try_for_each(Member::spawn);
        self.options.pin_driver()?;
        spawned?;
        for member in &mut self.members {
            member.wait(began)?;
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

    /// Waits until it answers a linearizable read.
    fn wait(&mut self, began: Instant) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        loop {
            self.check()?;
            let attempt = runtime.block_on(self.read());
            match attempt {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > READY_TIMEOUT => {
                    return Err(error.context(format!("{} never served", self.endpoint)));
                }
                Err(_) => sleep(ATTEMPT_INTERVAL),
            }
        }
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
            return Ok(());
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

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if it has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
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
        self.kill();
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|l| l.local_addr().map(|a| a.port()));
    Ok(ports.collect::<Result<_, _>>()?)
}
