//! Real servers in this process, and real processes where a test must kill one.
//!
//! - Directories lie below the target directory: on a disk, so that fsync counts.
//! - Ports are chosen by the system; a member keeps its own over restarts.
//! - Nothing sleeps to let something happen: [`eventually`] waits for a condition with a deadline.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use keelson::config::{Config, Settings};
use keelson::metrics::Metrics;
use keelson::node::config::{AutoCompaction, NodeConfig};
use keelson::server::{Server, ServerConfig};
use keelson::transport::ListenAddress;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, MemberAddRequest,
    MemberRemoveRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    StatusRequest, StatusResponse, cluster_client::ClusterClient, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, request_op,
    watch_client::WatchClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// How long a condition may take to come true: generous, for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Above the longest message that a test sends or receives.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Waits until `look` gives something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Waits for something that must happen by itself.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Ports that are free now, below those that the system gives to outgoing connections: a member that
/// is stopped for a while finds its own free again.
fn free_ports(count: usize) -> Vec<u16> {
    const FIRST: u32 = 12_000;
    const PORTS: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test programs that run at the same time begin at different places.
    let start = std::process::id().wrapping_mul(7919);
    let next = || start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS + FIRST;
    std::iter::repeat_with(|| u16::try_from(next()).unwrap())
        .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(count)
        .collect()
}

pub(crate) fn free_port() -> u16 {
    free_ports(1)[0]
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// All numbers at zero.
fn no_metrics() -> Arc<Metrics> {
    let config = Config::from_settings(&Settings::default()).unwrap();
    Arc::new(Metrics::new(&config))
}

/// A member of a [`Cluster`].
pub(crate) struct Member {
    config: ServerConfig,
    server: Option<Server>,
    metrics: Arc<Metrics>,
}

impl Member {
    async fn start(&mut self) -> anyhow::Result<()> {
        let metrics = no_metrics();
        let stop = CancellationToken::new();
        let ready = Arc::new(OnceLock::new());
        metrics.read_node(&ready);
        self.metrics = Arc::clone(&metrics);
        let (observers, grpc) = (metrics.observers(), Arc::clone(&metrics.grpc));
        let page = Arc::new(move || metrics.page());
        let starting = Server::start(self.config.clone(), observers, page, grpc, ready, &stop);
        self.server = soon("the member starts", starting).await?;
        anyhow::ensure!(self.server.is_some(), "stopped before it served");
        Ok(())
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("the member runs")
    }
}

impl Drop for Cluster {
    /// Stops what still runs: a checkpoint into a directory that is gone ends the process.
    fn drop(&mut self) {
        let nodes: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|member| member.server.take())
            .map(|server| Arc::clone(server.node()).stop())
            .collect();
        let stopping = async {
            drop(tokio::time::timeout(DEADLINE, join_all(nodes)).await);
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(stopping));
    }
}

/// Members in this process.
pub(crate) struct Cluster {
    members: Vec<Member>,
    directory: TempDir,
}

impl Cluster {
    /// One member with default settings.
    pub(crate) async fn single() -> Self {
        Self::start(1, |_| {}).await
    }

    /// Members whose settings `adjust` may change.
    pub(crate) async fn start(count: usize, adjust: impl Fn(&mut ServerConfig)) -> Self {
        let mut cluster = Self::prepared(count, adjust);
        for started in join_all(cluster.members.iter_mut().map(Member::start)).await {
            started.unwrap();
        }
        cluster
    }

    /// As [`Cluster::start`], but none of them runs yet.
    pub(crate) fn prepared(count: usize, adjust: impl Fn(&mut ServerConfig)) -> Self {
        let directory = directory();
        let ports = free_ports(2 * count);
        let (peers, clients) = ports.split_at(count);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let initial_cluster: Vec<(String, Vec<String>)> = peers
            .iter()
            .enumerate()
            .map(|(i, port)| (format!("m{i}"), vec![url(port)]))
            .collect();
        let member = |i: usize| {
            let node = node_config(i, directory.path(), &initial_cluster, url(&clients[i]));
            let mut config = server_config(node, peers[i], clients[i]);
            adjust(&mut config);
            Member {
                config,
                server: None,
                metrics: no_metrics(),
            }
        };
        let members = (0..count).map(member).collect();
        Self { members, directory }
    }

    /// Prepares a member that is to join those whose names are given; it is not started.
    pub(crate) fn prepare(&mut self, others: &[usize]) -> usize {
        let i = self.members.len();
        let ports = free_ports(2);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut initial_cluster: Vec<(String, Vec<String>)> = others
            .iter()
            .map(|other| {
                let node = &self.members[*other].config.node;
                (node.name.clone(), node.advertise_peer_urls.clone())
            })
            .collect();
        initial_cluster.push((format!("m{i}"), vec![url(ports[0])]));
        let mut config = self.members[others[0]].config.clone();
        config.node.name = format!("m{i}");
        config.node.data_dir = self.directory.path().join(format!("m{i}"));
        config.node.advertise_peer_urls = vec![url(ports[0])];
        config.node.advertise_client_urls = vec![url(ports[1])];
        config.node.initial_cluster = initial_cluster;
        config.node.join = true;
        let local = |port| ListenAddress::Tcp(format!("127.0.0.1:{port}"));
        config.listen_peers = vec![local(ports[0])];
        config.listen_clients = vec![local(ports[1])];
        self.members.push(Member {
            config,
            server: None,
            metrics: no_metrics(),
        });
        i
    }

    /// Changes a stopped member's settings.
    pub(crate) fn adjust(&mut self, i: usize, adjust: impl FnOnce(&mut ServerConfig)) {
        adjust(&mut self.members[i].config);
    }

    pub(crate) fn peer_urls(&self, i: usize) -> Vec<String> {
        self.members[i].config.node.advertise_peer_urls.clone()
    }

    /// A running member's id.
    pub(crate) fn id(&self, i: usize) -> u64 {
        self.members[i].server().node().status().member_id()
    }

    pub(crate) fn is_running(&self, i: usize) -> bool {
        self.members[i].server.is_some()
    }

    /// Adds a prepared member through member `through`, again while the cluster is not ready for it.
    pub(crate) async fn add(&self, through: usize, i: usize, is_learner: bool) -> u64 {
        let request = MemberAddRequest {
            peer_ur_ls: self.peer_urls(i),
            is_learner,
        };
        let added = eventually("the member is added", async || {
            match self
                .cluster_client(through)
                .member_add(request.clone())
                .await
            {
                Ok(added) => Some(added),
                Err(status) if status.message() == Error::Unhealthy.text() => None,
                Err(status) => panic!("{status}"),
            }
        })
        .await;
        added.into_inner().member.unwrap().id
    }

    /// Removes a member, again while the cluster is not ready for it.
    pub(crate) async fn remove(&self, through: usize, id: u64) {
        eventually("the member is removed", async || {
            let request = MemberRemoveRequest { id };
            match self.cluster_client(through).member_remove(request).await {
                Ok(_) => Some(()),
                Err(status) if status.message() == Error::Unhealthy.text() => None,
                Err(status) => panic!("{status}"),
            }
        })
        .await;
    }

    /// Waits until a member has learned that it was removed, and stops it, as the process does.
    pub(crate) async fn stop_removed(&mut self, i: usize) {
        let server = self.members[i].server.take().expect("the member runs");
        soon("the member learns of its removal", server.removed()).await;
        soon("the member stops", server.stop()).await;
    }

    pub(crate) fn member(&self, i: usize) -> &Member {
        &self.members[i]
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Stops a member as SIGTERM does.
    pub(crate) async fn stop(&mut self, i: usize) {
        let server = self.members[i].server.take().expect("the member runs");
        soon("the member stops", server.stop()).await;
    }

    /// Starts a stopped member on its directory.
    pub(crate) async fn restart(&mut self, i: usize) {
        self.try_restart(i).await.unwrap();
    }

    pub(crate) async fn try_restart(&mut self, i: usize) -> anyhow::Result<()> {
        self.members[i].start().await
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn node_config(&self, i: usize) -> &NodeConfig {
        &self.members[i].config.node
    }

    /// Starts stopped members at the same time: one alone may be no quorum.
    pub(crate) async fn restart_together(&mut self, which: &[usize]) {
        let starting = self.members.iter_mut().enumerate();
        let starting = starting.filter(|(i, _)| which.contains(i));
        for started in join_all(starting.map(|(_, member)| member.start())).await {
            started.unwrap();
        }
    }

    pub(crate) fn data_dir(&self, i: usize) -> PathBuf {
        self.directory.path().join(format!("m{i}"))
    }

    pub(crate) fn client_address(&self, i: usize) -> SocketAddr {
        let addresses = self.members[i].server().client_addresses();
        addresses[0].parse().unwrap()
    }

    pub(crate) fn peer_address(&self, i: usize) -> String {
        self.members[i].config.listen_peers[0].to_string()
    }

    /// What a member has counted since it was started last.
    pub(crate) fn metrics(&self, i: usize) -> &Metrics {
        &self.members[i].metrics
    }

    pub(crate) fn channel(&self, i: usize) -> Channel {
        channel(self.client_address(i))
    }

    pub(crate) fn kv(&self, i: usize) -> KvClient<Channel> {
        kv_client(self.channel(i))
    }

    pub(crate) fn watch(&self, i: usize) -> WatchClient<Channel> {
        WatchClient::new(self.channel(i)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn lease(&self, i: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel(i))
    }

    pub(crate) fn maintenance(&self, i: usize) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel(i))
    }

    pub(crate) fn cluster_client(&self, i: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel(i))
    }

    pub(crate) async fn status(&self, i: usize) -> StatusResponse {
        let request = StatusRequest::default();
        self.maintenance(i)
            .status(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn hash_kv(&self, i: usize, revision: i64) -> HashKvResponse {
        let request = HashKvRequest { revision };
        let hash = self.maintenance(i).hash_kv(request).await;
        hash.unwrap().into_inner()
    }

    /// The running member that leads.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", async || {
            for (i, member) in self.members.iter().enumerate() {
                if member.server.is_some() {
                    let status = self.status(i).await;
                    if status.leader == status.header.unwrap().member_id {
                        return Some(i);
                    }
                }
            }
            None
        })
        .await
    }

    /// A running member that follows.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.size())
            .find(|i| *i != leader && self.is_running(*i))
            .unwrap()
    }
}

fn node_config(
    i: usize,
    directory: &Path,
    initial_cluster: &[(String, Vec<String>)],
    client_url: String,
) -> NodeConfig {
    let (name, peer_urls) = initial_cluster[i].clone();
    NodeConfig {
        data_dir: directory.join(&name),
        name,
        wal_dir: None,
        advertise_peer_urls: peer_urls,
        advertise_client_urls: vec![client_url],
        initial_cluster: initial_cluster.to_vec(),
        initial_cluster_token: "etcd-cluster".to_owned(),
        discovery: None,
        discovery_srv: None,
        join: false,
        force_new_cluster: false,
        strict_reconfig_check: true,
        learners_max: 1,
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        pre_vote: true,
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5000,
        max_request_bytes: 1_572_864,
        max_txn_ops: 128,
        quota_backend_bytes: 2 << 30,
        watch_progress_notify_interval: Duration::from_secs(600),
        auto_compaction: AutoCompaction::Off,
        compaction_batch_limit: 1000,
        compaction_sleep_interval: Duration::from_millis(10),
        initial_corrupt_check: false,
        corrupt_check_interval: None,
        compact_hash_check_interval: None,
        downgrade_check_interval: Some(Duration::from_millis(200)),
        warning_apply_duration: Duration::from_millis(100),
        unsafe_no_fsync: false,
    }
}

fn server_config(node: NodeConfig, peer_port: u16, client_port: u16) -> ServerConfig {
    let local = |port| ListenAddress::Tcp(format!("127.0.0.1:{port}"));
    ServerConfig {
        node,
        listen_peers: vec![local(peer_port)],
        listen_clients: vec![local(client_port)],
        listen_client_http: vec![],
        listen_metrics: vec![],
        max_concurrent_streams: u32::MAX,
        keepalive_interval: None,
        keepalive_timeout: Duration::from_secs(20),
        connections_max: 10_000,
        cors: vec![],
        host_whitelist: vec![],
    }
}

/// A call as one member makes it to another.
pub(crate) fn peer_request<T>(cluster: u64, from: u64, to: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in [
        ("keelson-cluster-id", format!("{cluster:x}")),
        ("keelson-from", format!("{from:x}")),
        ("keelson-to", format!("{to:x}")),
        ("keelson-protocol", "1".to_owned()),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy()
}

fn kv_client(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Status line's code, header lines and body of an HTTP/1.1 request.
pub(crate) async fn http_at(
    address: SocketAddr,
    method: &str,
    path: &str,
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon("the response", stream.read_to_string(&mut response))
        .await
        .unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

/// Members as processes of their own, for tests that kill them.
pub(crate) struct Processes {
    arguments: Vec<Vec<String>>,
    clients: Vec<SocketAddr>,
    children: Vec<Option<Child>>,
    directory: TempDir,
}

impl Processes {
    /// Starts members and waits until each serves; `flags` are added to those that they need.
    pub(crate) async fn start(count: usize, flags: &[&str]) -> Self {
        let directory = directory();
        let ports = free_ports(2 * count);
        let (peers, clients) = ports.split_at(count);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(i, port)| format!("m{i}={}", url(*port)))
            .collect();
        let arguments = |i: usize| {
            let data_dir = directory.path().join(format!("m{i}"));
            let pairs = [
                ("--name", format!("m{i}")),
                ("--data-dir", data_dir.display().to_string()),
                ("--listen-peer-urls", url(peers[i])),
                ("--initial-advertise-peer-urls", url(peers[i])),
                ("--listen-client-urls", url(clients[i])),
                ("--advertise-client-urls", url(clients[i])),
                ("--initial-cluster", cluster.join(",")),
            ];
            pairs
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .chain(flags.iter().map(|flag| (*flag).to_owned()))
                .collect()
        };
        let mut processes = Self {
            arguments: (0..count).map(arguments).collect(),
            clients: clients
                .iter()
                .map(|port| SocketAddr::from(([127, 0, 0, 1], *port)))
                .collect(),
            children: (0..count).map(|_| None).collect(),
            directory,
        };
        for i in 0..count {
            processes.spawn(i);
        }
        for i in 0..count {
            processes.serving(i).await;
        }
        processes
    }

    /// Starts a member that has ended.
    pub(crate) fn spawn(&mut self, i: usize) {
        let child = Command::new(env!("CARGO_BIN_EXE_keelson"))
            .args(&self.arguments[i])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children[i] = Some(child);
    }

    /// Ends a member without a chance to say anything.
    pub(crate) fn kill(&mut self, i: usize) {
        let mut child = self.children[i].take().expect("the member runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn client_address(&self, i: usize) -> SocketAddr {
        self.clients[i]
    }

    /// Memory that a member has to itself.
    pub(crate) fn anonymous_bytes(&self, i: usize) -> u64 {
        let child = self.children[i].as_ref().expect("the member runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() << 10
    }

    /// A member's metrics page.
    pub(crate) async fn metrics(&self, i: usize) -> String {
        let (_, _, page) = http_at(self.clients[i], "GET", "/metrics").await;
        page
    }

    pub(crate) fn kv(&self, i: usize) -> KvClient<Channel> {
        kv_client(channel(self.clients[i]))
    }

    pub(crate) fn watch(&self, i: usize) -> WatchClient<Channel> {
        WatchClient::new(channel(self.clients[i]))
    }

    /// Lets a member stand still, with everything it has open.
    pub(crate) fn pause(&self, i: usize) {
        self.signal(i, Signal::STOP);
    }

    /// Where the members' data directories lie.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Asks a member to stop.
    pub(crate) fn terminate(&self, i: usize) {
        self.signal(i, Signal::TERM);
    }

    /// Waits until a member's process has ended by itself.
    pub(crate) async fn ended(&mut self, i: usize) {
        let child = self.children[i].as_mut().expect("the member runs");
        eventually("the process ends", async || child.try_wait().unwrap()).await;
        self.children[i] = None;
    }

    /// What a member says of itself; nothing if it does not answer.
    pub(crate) async fn status(&self, i: usize) -> Option<StatusResponse> {
        let mut client = MaintenanceClient::new(channel(self.clients[i]));
        let status = client.status(StatusRequest::default()).await.ok()?;
        Some(status.into_inner())
    }

    /// Lets it go on.
    pub(crate) fn resume(&self, i: usize) {
        self.signal(i, Signal::CONT);
    }

    fn signal(&self, i: usize, signal: Signal) {
        let child = self.children[i].as_ref().expect("the member runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Waits until a member answers a linearizable read.
    pub(crate) async fn serving(&self, i: usize) {
        eventually("the process serves", async || {
            self.kv(i).range(get("health")).await.ok().map(drop)
        })
        .await;
    }

    /// The member that leads, as the running members see it.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader", async || {
            for i in 0..self.children.len() {
                let Some(status) = self.status(i).await else {
                    continue;
                };
                if status.leader == status.header.unwrap().member_id {
                    return Some(i);
                }
            }
            None
        })
        .await
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

pub(crate) fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub(crate) fn get(key: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

pub(crate) fn range(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub(crate) fn delete(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: false,
    }
}

/// A checkpoint every ten commands, and a log that reaches back five behind it: who was away gets a
/// checkpoint.
pub(crate) fn checkpoint_often(config: &mut ServerConfig) {
    config.node.snapshot_count = 10;
    config.node.snapshot_catchup_entries = 5;
}

pub(crate) fn compact(revision: i64) -> CompactionRequest {
    CompactionRequest {
        revision,
        physical: true,
    }
}

pub(crate) fn op(request: impl Into<Op>) -> RequestOp {
    RequestOp {
        request: Some(request.into().0),
    }
}

/// An operation of a transaction.
pub(crate) struct Op(request_op::Request);

macro_rules! op_from {
    ($type:ident, $variant:ident) => {
        impl From<keelson_proto::etcdserverpb::$type> for Op {
            fn from(request: keelson_proto::etcdserverpb::$type) -> Self {
                Self(request_op::Request::$variant(request))
            }
        }
    };
}

op_from!(PutRequest, RequestPut);
op_from!(RangeRequest, RequestRange);
op_from!(DeleteRangeRequest, RequestDeleteRange);
op_from!(TxnRequest, RequestTxn);

/// Puts and gives the revision.
pub(crate) async fn put_ok(
    kv: &mut KvClient<Channel>,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> i64 {
    let response: PutResponse = kv.put(put(key, value)).await.unwrap().into_inner();
    response.header.unwrap().revision
}

/// Ranges and gives the response.
pub(crate) async fn range_ok(kv: &mut KvClient<Channel>, request: RangeRequest) -> RangeResponse {
    kv.range(request).await.unwrap().into_inner()
}

/// The keys of a response.
pub(crate) fn keys(response: &RangeResponse) -> Vec<String> {
    let key = |kv: &keelson_proto::mvccpb::KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
    response.kvs.iter().map(key).collect()
}

/// Asserts that a call was refused with exactly this error: its code and its text.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<tonic::Response<T>, tonic::Status>,
    error: Error,
) {
    let status = result.expect_err("the call must be refused");
    assert_eq!(
        (status.code(), status.message()),
        (error.code(), error.text())
    );
}
