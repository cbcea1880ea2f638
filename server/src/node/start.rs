//! Opening a member: data directory, bootstrap, Raft, and joining the cluster (contract 4.1, 4.2).
//!
//! Raft's core, the peer service and its connections run on a runtime of their own, so that client
//! load cannot delay heartbeats (design 7).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use keelson_proto::keelsonpb::{MemberAttributes, command::Request};
use keelson_state::apply::{State, StateOptions};
use keelson_state::store::{RealDisk, StoreError, StoreOptions};
use keelson_state::watch::{HistoryJob, HistoryPart, Ring, WatchSink};
use openraft::{Config, SnapshotPolicy};
use rand::Rng as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::config::NodeConfig;
use super::corruption::{self, Comparison};
use super::directories::Directories;
use super::forward::Forwarder;
use super::lessor::Lessor;
use super::membership::{
    change,
    discovery::discover,
    hello::{self, Greeter},
    join::{find_peers, join},
    srv,
};
use super::observer::{NodeMetrics, Observer};
use super::quota::Quota;
use super::status::NodeStatus;
use super::versions;
use super::watch_hub::{History, WatchHub};
use super::{Node, checkpoints, compactor, leases, peer_port, probe, propose, read_index};
use crate::raft::applied::AppliedIndex;
use crate::raft::bootstrap;
use crate::raft::force_new::force_new_cluster;
use crate::raft::identity::Identity;
use crate::raft::leadership::{Leadership, MetricsReceiver};
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::service::{PeerContext, Raft};
use crate::raft::snapshot::Intake;
use crate::raft::state_machine::{CommandCount, Shared, StateMachine};
use crate::raft::types::{Membership, Node as RaftNode};
use crate::raft::waiters::Forwarded;
use crate::raft::wal::{SyncObserver, WalOptions, open_sled};
use crate::transport::Listener;

/// Threads of the raft runtime where there are as many cores: one for Raft's core, one for the
/// peers' connections beside it. On a single core a second one only costs switches.
const RAFT_THREADS_MAX: usize = 2;
/// News of checkpoints that wait; the newest says it all.
const CHECKPOINT_NEWS_MAX: usize = 4;
/// Pause between attempts to publish this member.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// Entries in one append request: with batches of commands that is plenty.
const PAYLOAD_ENTRIES_MAX: u64 = 64;
/// Messages that wait for Raft's core.
const RAFT_QUEUE_MAX: u64 = 1024;

/// What outlives the node's tasks: the runtimes and the log.
pub struct Runtime {
    raft: Option<tokio::runtime::Runtime>,
    /// Where clients are served.
    clients: tokio::runtime::Handle,
    pub(super) log: LogStore,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Dropping a runtime inside another one panics; its tasks have been stopped before.
        if let Some(runtime) = self.raft.take() {
            runtime.shutdown_background();
        }
    }
}

/// Numbers that a node gives.
pub struct NodeObservers {
    /// Of apply and checkpoints.
    pub metrics: Arc<dyn NodeMetrics>,
    /// Of the log.
    pub wal: Arc<dyn SyncObserver>,
}

impl Node {
    /// Opens the data directory, starts Raft and its tasks, and serves peers on `peer_listeners`.
    /// `None` if it is to stop before it knows who it is. The member has not joined yet: see [`Node::join`].
    ///
    /// # Errors
    /// When the data directory cannot be opened or contradicts itself, or when this member has been
    /// part of the cluster before and comes back without its data.
    pub async fn start(
        config: NodeConfig,
        peer_listeners: Vec<Listener>,
        observers: NodeObservers,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<Self>>> {
        let directories = Directories::new(&config.data_dir, config.wal_dir.as_deref());
        directories.refuse_foreign()?;
        directories.create()?;
        let wal_options = WalOptions {
            unsafe_no_fsync: config.unsafe_no_fsync,
            observer: Some(observers.wal),
        };
        let wal = open_sled(&directories.wal, wal_options)
            .with_context(|| format!("cannot open the log in {}", directories.wal.display()))?;
        let log = LogStore::new(wal).context("cannot read the log")?;
        // Others may be waited for.
        let identified = tokio::select! {
            identified = identify(&config, &directories, &log) => identified,
            () = stop.cancelled() => return Ok(None),
        };
        let (identity, origin) = identified?;
        let raft_runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores().min(RAFT_THREADS_MAX))
            .thread_name("raft")
            .enable_all()
            .build()
            .context("cannot start the raft runtime")?;
        let handle = raft_runtime.handle().clone();
        let runtime = Runtime {
            raft: Some(raft_runtime),
            clients: tokio::runtime::Handle::current(),
            log,
        };
        let metrics = observers.metrics;
        let opening = open(
            config,
            directories,
            identity,
            origin,
            runtime,
            metrics,
            peer_listeners,
        );
        handle
            .spawn(opening)
            .await
            .context("starting the member panicked")?
            .map(Some)
    }

    /// Bootstraps, if the member has not been part of a cluster yet, and publishes its name and
    /// client URLs through the log: it has then joined, and there is a leader (contract 4.2).
    ///
    /// # Errors
    /// When the member is stopped meanwhile, its peers know it though it has no data, or they hold
    /// other data (gate InitialCorruptCheck).
    pub async fn join(&self) -> Result<()> {
        self.bootstrap().await?;
        self.publish().await?;
        self.admitted.store(true, Ordering::Release);
        self.status.look_for_role();
        self.compare_before_serving().await
    }

    async fn publish(&self) -> Result<()> {
        loop {
            let attributes = MemberAttributes {
                member_id: self.status.member_id(),
                name: self.config.name.clone(),
                client_urls: self.config.advertise_client_urls.clone(),
            };
            tokio::select! {
                published = self.propose_unchecked(Request::MemberAttributes(attributes)) => {
                    match published {
                        Ok(_) => break,
                        Err(error) => tracing::warn!(
                            error = %error,
                            "failed to publish local member to cluster through raft"
                        ),
                    }
                }
                () = self.stopping.cancelled() => bail!("stopped before it joined the cluster"),
            }
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        tracing::info!(
            "local-member-id" = format!("{:x}", self.status.member_id()),
            "cluster-id" = format!("{:x}", self.status.cluster_id()),
            "publish-timeout" = ?self.config.request_timeout(),
            "published local member to cluster through raft"
        );
        Ok(())
    }
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How a member begins.
enum Origin {
    /// With what its data directory says.
    Restart,
    /// As one of the first members of a cluster: these.
    Bootstrap(BTreeMap<u64, RaftNode>),
    /// As a member that was added to these.
    Join(BTreeMap<u64, RaftNode>),
}

/// Who this member is: what its data directory says, or else what `--initial-cluster` or the running
/// cluster makes it.
async fn identify(
    config: &NodeConfig,
    directories: &Directories,
    log: &LogStore,
) -> Result<(Identity, Origin)> {
    let known = directories.identity(log.is_new())?;
    if !log.is_new() {
        return match known {
            Some(identity) => Ok((identity, Origin::Restart)),
            None => bail!(
                "{} holds a log but no identity: it is not a complete data directory",
                directories.member.display()
            ),
        };
    }
    // With an identity it stopped before anything was logged, and begins again.
    let listed = match &config.discovery_srv {
        Some(discovery) => Some(NodeConfig {
            initial_cluster: srv::discover(config, discovery).await?,
            ..config.clone()
        }),
        None => None,
    };
    let config = listed.as_ref().unwrap_or(config);
    let (identity, origin) = if let Some(discovery) = &config.discovery {
        let discovered = NodeConfig {
            initial_cluster: discover(config, discovery).await?,
            initial_cluster_token: discovery.token.clone(),
            ..config.clone()
        };
        let (identity, members) = bootstrap_identity(&discovered)?;
        (identity, Origin::Bootstrap(members))
    } else if config.join {
        let (identity, members) = join(config, known).await?;
        (identity, Origin::Join(members))
    } else {
        let (identity, members) = bootstrap_identity(config)?;
        (identity, Origin::Bootstrap(members))
    };
    if let Some(known) = known.filter(|known| *known != identity) {
        tracing::warn!(
            "member-id" = format!("{:x}", known.member_id),
            "cluster-id" = format!("{:x}", known.cluster_id),
            "an earlier start got no further than its identity; it is given another one"
        );
    }
    Ok((identity, origin))
}

fn bootstrap_identity(config: &NodeConfig) -> Result<(Identity, BTreeMap<u64, RaftNode>)> {
    let members = bootstrap_members(config);
    let local = members
        .iter()
        .find(|(_, (name, _))| *name == config.name)
        .map(|(id, _)| *id)
        .ok_or_else(|| {
            anyhow!(
                "couldn't find local name {:?} in the initial cluster",
                config.name
            )
        })?;
    let identity = Identity {
        member_id: local,
        cluster_id: bootstrap::cluster_id(members.keys().copied()),
    };
    Ok((identity, raft_nodes(members)))
}

fn bootstrap_members(config: &NodeConfig) -> BTreeMap<u64, (&str, Vec<String>)> {
    let cluster = config
        .initial_cluster
        .iter()
        .map(|(name, urls)| (name.as_str(), urls.clone()));
    bootstrap::members(cluster, &config.initial_cluster_token)
}

fn raft_nodes(members: BTreeMap<u64, (&str, Vec<String>)>) -> BTreeMap<u64, RaftNode> {
    members
        .into_iter()
        .map(|(id, (_, peer_urls))| {
            (
                id,
                RaftNode {
                    peer_urls,
                    pending_voter: false,
                },
            )
        })
        .collect()
}

/// Everything that happens on the raft runtime.
async fn open(
    config: NodeConfig,
    directories: Directories,
    identity: Identity,
    origin: Origin,
    mut runtime: Runtime,
    metrics: Arc<dyn NodeMetrics>,
    peer_listeners: Vec<Listener>,
) -> Result<Arc<Node>> {
    let ring = Arc::new(Ring::new(0));
    let store_reader = Arc::new(OnceLock::new());
    let (installs, install_news) = watch::channel(0);
    let sink = WatchSink::new(
        Arc::clone(&ring),
        Arc::clone(&store_reader),
        Box::new(move |revision| {
            installs.send_replace(revision);
        }),
    );
    let options = StateOptions {
        store: StoreOptions::new(&directories.store),
        disk: Arc::new(RealDisk),
        sink: Box::new(sink),
    };
    let mut state = tokio::task::spawn_blocking(move || State::open(options))
        .await?
        .with_context(|| format!("cannot open the store in {}", directories.store.display()))?;
    check_cluster(&state, identity.cluster_id)?;
    state.set_cluster_id(identity.cluster_id);
    if state.reader().auth_enabled() {
        bail!(
            "authentication is enabled in this data, which came from a snapshot, and this version \
             cannot enforce it yet: refusing to serve it unprotected"
        );
    }
    check_continuity(&state, &runtime.log)?;
    if !matches!(origin, Origin::Restart) {
        // There is neither log nor store: whoever it was to be before, it was not.
        directories.write(&identity)?;
    }
    let forced = config.force_new_cluster && matches!(origin, Origin::Restart);
    if forced {
        force_new_cluster(&mut runtime.log, &state.position(), identity.member_id).await?;
    }
    let reader = state.reader();
    drop(store_reader.set(reader.history().store().clone()));
    ring.reset(reader.current_revision());

    let peers = Arc::new(Peers::new(identity.member_id));
    let applied = Arc::new(AppliedIndex::default());
    let forwarded = Arc::new(Forwarded::default());
    let lessor = Arc::new(Lessor::default());
    let compaction_wake = Arc::new(Notify::new());
    let leadership = Arc::new(Leadership::new(identity.member_id, config.election_timeout));
    let (visible, visible_news) = watch::channel(reader.current_revision());
    let (checkpoint_sender, checkpoint_news) = mpsc::channel(CHECKPOINT_NEWS_MAX);
    let observer = Observer {
        lessor: Arc::clone(&lessor),
        compaction: Arc::clone(&compaction_wake),
        warning_apply_duration: config.warning_apply_duration,
        metrics: Arc::clone(&metrics),
    };
    let keeper = state.keeper();
    let shared = Arc::new(Shared {
        state: parking_lot::Mutex::new(state),
        reader: reader.clone(),
        keeper: keeper.clone(),
        applied: Arc::clone(&applied),
        forwarded: Arc::clone(&forwarded),
        peers: Arc::clone(&peers),
        visible,
        observer: Arc::new(observer),
        snapshot_count: config.snapshot_count.max(1),
        checkpoints: checkpoint_sender,
        commands: CommandCount::default(),
    });
    let machine = StateMachine::new(Arc::clone(&shared))?;
    // A member that joins or bootstraps is reached, and reaches others, before its log says whom.
    if let Origin::Bootstrap(members) | Origin::Join(members) = &origin {
        let ids = members.keys().copied().collect();
        peers.set(&Membership::new(vec![ids], members.clone())?);
    }
    if forced {
        // Whoever the checkpoint names is no member any more.
        peers.set(&Membership::default());
    }
    let is_restart = matches!(origin, Origin::Restart);
    let comparison = Comparison::new(is_restart);
    let bootstrap = match origin {
        Origin::Bootstrap(members) => Some(members),
        Origin::Restart | Origin::Join(_) => None,
    };
    let greeter = Greeter {
        peers: Arc::clone(&peers),
        network: Network::new(
            Arc::clone(&peers),
            identity.cluster_id,
            config.election_timeout,
        ),
        cluster_id: identity.cluster_id,
    };

    let network = greeter.network.clone();
    let raft = Raft::new(
        identity.member_id,
        Arc::new(raft_config(&config).validate()?),
        network.clone(),
        runtime.log.clone(),
        machine,
    )
    .await?;
    let status = Arc::new(NodeStatus::new(
        identity.member_id,
        identity.cluster_id,
        MetricsReceiver::new(raft.metrics()),
        Arc::clone(&leadership),
        applied,
    ));
    let forwarder = Forwarder::new(network.clone(), Arc::clone(&peers), Arc::clone(&forwarded));
    let (proposals, proposal_queue) = mpsc::channel(propose::QUEUE_MAX);
    let (reads, read_queue) = mpsc::channel(read_index::QUEUE_MAX);
    let history: Arc<dyn History> = Arc::new(ReaderHistory(reader.clone()));
    let watch_hub = WatchHub::start(cores(), &ring, &visible_news, &install_news, &history);
    let node = Arc::new(Node {
        raft: raft.clone(),
        reader,
        keeper,
        status: Arc::clone(&status),
        proposals,
        reads,
        forwarder: forwarder.clone(),
        forwarded,
        lessor,
        watch_hub,
        state: shared,
        next_request_id: AtomicU64::new(rand::rng().random()),
        deadlines: Arc::default(),
        quota: Quota::default(),
        compaction_wake,
        compaction_finished: watch::channel(-1).0,
        metrics,
        peers: Arc::clone(&peers),
        greeter: greeter.clone(),
        // The former members of a forced cluster are refused until the log says that they are gone.
        admitted: Arc::new(AtomicBool::new(bootstrap.is_none() && !forced)),
        bootstrap: parking_lot::Mutex::new(bootstrap),
        comparison,
        removed: CancellationToken::new(),
        streams_ended: CancellationToken::new(),
        stopping: CancellationToken::new(),
        peers_stopping: CancellationToken::new(),
        peer_ports: tokio_util::task::TaskTracker::new(),
        intake_closed: AtomicBool::new(false),
        runtime,
        config,
    });
    peer_port::serve_peers(
        &node,
        &peer_context(&node, &peers, &leadership),
        peer_listeners,
    );
    tokio::spawn(Arc::clone(&node.deadlines).run());
    let proposer = propose::run(raft.clone(), proposal_queue);
    drop(node.runtime.clients.spawn(proposer));
    tokio::spawn(read_index::run(raft.clone(), status, forwarder, read_queue));
    tokio::spawn(leases::run(Arc::clone(&node)));
    tokio::spawn(versions::run(Arc::clone(&node)));
    tokio::spawn(compactor::run(Arc::clone(&node)));
    tokio::spawn(compactor::run_auto(Arc::clone(&node)));
    tokio::spawn(corruption::checks::run(Arc::clone(&node)));
    tokio::spawn(probe::run(Arc::clone(&node), network.clone()));
    tokio::spawn(checkpoints::run(
        Arc::clone(&node),
        network,
        checkpoint_news,
    ));
    tokio::spawn(follow_leader(Arc::clone(&node)));
    tokio::spawn(stop_on_fatal(Arc::clone(&node)));
    if is_restart && !forced {
        tokio::spawn(find_peers(Arc::clone(&node)));
    }
    tokio::spawn(hello::run(Arc::clone(&node), greeter));
    tokio::spawn(change::settle(Arc::clone(&node)));
    Ok(node)
}

/// A store that was brought here from another cluster holds other data under the same indexes.
fn check_cluster(state: &State, cluster_id: u64) -> Result<()> {
    let position = state.position();
    if !position.membership.is_empty() && position.cluster_id != cluster_id {
        bail!(
            "the store is that of cluster {:x}, and the member belongs to cluster {cluster_id:x}: \
             this data directory is not complete",
            position.cluster_id
        );
    }
    Ok(())
}

/// The log must reach back to the checkpoint: otherwise writes are missing (store-notes 5).
fn check_continuity(state: &State, log: &LogStore) -> Result<()> {
    let position = state.position();
    let applied = position.applied_index;
    let (_, purged) = log.ends();
    if log.is_new() && !position.membership.is_empty() {
        bail!(
            "the store's last checkpoint is at index {applied}, but the log is empty: entries that \
             this member has acknowledged are missing, so this data directory is not complete"
        );
    }
    if let Some(purged) = purged
        && purged.index() > applied
    {
        bail!(
            "the log begins after index {}, but the store's last checkpoint is at {applied}: \
             writes between them are missing, so this data directory is not complete",
            purged.index()
        );
    }
    Ok(())
}

/// openraft's settings (openraft-notes 9).
fn raft_config(config: &NodeConfig) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (heartbeat, election) = (
        millis(config.heartbeat_interval),
        millis(config.election_timeout),
    );
    Config {
        cluster_name: "keelson".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: (election / 3).max(heartbeat + 1),
        election_timeout_max: (election * 2 / 3).max(heartbeat + 2),
        enable_pre_vote: Some(config.pre_vote),
        enable_leader_restore: Some(false),
        quorum_loss_probe_interval: Some(election * 2),
        backoff: "50ms 100ms ...500ms".to_owned(),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        api_channel_size: Some(RAFT_QUEUE_MAX),
        ..Config::default()
    }
}

fn peer_context(
    node: &Arc<Node>,
    peers: &Arc<Peers>,
    leadership: &Arc<Leadership>,
) -> Arc<PeerContext> {
    let (published, removed) = (node.reader.clone(), node.reader.clone());
    Arc::new(PeerContext {
        member_id: node.status.member_id(),
        cluster_id: node.status.cluster_id(),
        keeper: node.keeper.clone(),
        intake: Intake::default(),
        peers: Arc::clone(peers),
        leadership: Arc::clone(leadership),
        has_published: Box::new(move |id| {
            published.members(|members| members.attributes(id).is_some())
        }),
        admitted: Arc::clone(&node.admitted),
        is_removed: Box::new(move |id| removed.members(|members| members.is_removed(id))),
        silence_max: node.config.election_timeout,
    })
}

/// Gives up what was forwarded to a leader that is gone, and counts leader changes.
async fn follow_leader(node: Arc<Node>) {
    let mut metrics = node.status.watch_metrics();
    let mut look = tokio::time::interval(node.config.heartbeat_interval);
    let mut known = None;
    loop {
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            _ = look.tick() => {
                // A request that looked for the leader just before it changed may have opened a
                // stream to the old one since.
                node.forwarder.leader_changed(node.status.leader().remote());
            }
            () = node.stopping.cancelled() => return,
        }
        node.status.look_for_role();
        let view = node.status.leader();
        if view.leader != known {
            node.forwarder.leader_changed(view.remote());
            node.metrics.leader(view.leader.is_some(), view.is_local);
            known = view.leader;
            let leader = view.leader.map(|id| format!("{id:x}")).unwrap_or_default();
            tracing::info!(term = view.term, leader, "raft leader changed");
        }
    }
}

/// When Raft stops for good, the member ends: it must not go on with a dead core (design R9).
async fn stop_on_fatal(node: Arc<Node>) {
    let mut metrics = node.status.watch_metrics();
    let failed = metrics.wait_for(|metrics| metrics.running_state.is_err());
    tokio::select! {
        _ = failed => if !node.stopping.is_cancelled() {
            let reason = metrics.look(|metrics| format!("{:?}", metrics.running_state));
            crate::fatal("run raft", &reason);
        },
        () = node.stopping.cancelled() => {}
    }
}

/// Reads history through the state's reader.
struct ReaderHistory(keelson_state::reader::Reader);

impl History for ReaderHistory {
    fn compact_revision(&self) -> i64 {
        self.0.compact_revision()
    }

    fn read(&self, job: &HistoryJob) -> std::result::Result<Option<HistoryPart>, StoreError> {
        match keelson_state::watch::history::read(&self.0, job) {
            Ok(part) => Ok(part),
            Err(error) => crate::fatal("read watch history", &error),
        }
    }
}
