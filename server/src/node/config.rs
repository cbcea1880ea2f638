//! What a node needs to know, whatever it was configured with.

use std::path::PathBuf;
use std::time::Duration;

use crate::dns::Resolver;

/// Settings of a node. Flags, environment and file are resolved into it (contract 5).
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member's name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the log is kept, if elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// Where peers reach this member.
    pub advertise_peer_urls: Vec<String>,
    /// Where clients reach this member; published to the others.
    pub advertise_client_urls: Vec<String>,
    /// Names and peer URLs of the members at bootstrap.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// Keeps clusters apart that bootstrap with the same URLs.
    pub initial_cluster_token: String,
    /// Where the members of a bootstrap find each other instead.
    pub discovery: Option<Discovery>,
    /// Where a bootstrapping or joining member finds the others, if by DNS.
    pub discovery_srv: Option<SrvDiscovery>,
    /// Whether an empty data directory joins a running cluster instead of bootstrapping one.
    pub join: bool,
    /// This member becomes the only one of its cluster, with the data it has (contract 4.1).
    pub force_new_cluster: bool,
    /// Refuses membership changes that could cost the quorum (contract 2.11).
    pub strict_reconfig_check: bool,
    /// Learners the cluster may have at a time.
    pub learners_max: usize,
    /// Heartbeat interval.
    pub heartbeat_interval: Duration,
    /// Election timeout.
    pub election_timeout: Duration,
    /// Whether elections begin with a pre-vote.
    pub pre_vote: bool,
    /// Commands between checkpoints.
    pub snapshot_count: u64,
    /// Commands kept in the log behind a checkpoint.
    pub snapshot_catchup_entries: u64,
    /// Largest proposal in bytes.
    pub max_request_bytes: usize,
    /// Operations in a transaction.
    pub max_txn_ops: usize,
    /// Largest store in bytes; 0 turns the quota off.
    pub quota_backend_bytes: u64,
    /// Period of watch progress.
    pub watch_progress_notify_interval: Duration,
    /// When compaction happens by itself.
    pub auto_compaction: AutoCompaction,
    /// Revisions removed in one step of a compaction.
    pub compaction_batch_limit: usize,
    /// Pause between the steps.
    pub compaction_sleep_interval: Duration,
    /// Whether a member that restarts compares its data with the others' before it serves.
    pub initial_corrupt_check: bool,
    /// How often the leader compares the members' data, if at all.
    pub corrupt_check_interval: Option<Duration>,
    /// How often the leader compares the hashes kept for compactions, if at all.
    pub compact_hash_check_interval: Option<Duration>,
    /// How often the leader looks whether a downgrade is done, if at all.
    pub downgrade_check_interval: Option<Duration>,
    /// Applying a request for longer is logged.
    pub warning_apply_duration: Duration,
    /// Turns fsync off: data is lost with the power.
    pub unsafe_no_fsync: bool,
}

/// v3 discovery (contract 4.1).
#[derive(Clone, Debug)]
pub struct Discovery {
    /// Names the cluster in the registry, and takes the place of the initial cluster's token.
    pub token: String,
    /// The registry's endpoints.
    pub endpoints: Vec<String>,
    /// How long a connection may take to come up.
    pub dial_timeout: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
}

/// DNS discovery (contract 4.1).
#[derive(Clone, Debug)]
pub struct SrvDiscovery {
    /// The domain whose records list the members.
    pub domain: String,
    /// Appended to the services' names, if not empty.
    pub service_name: String,
    /// Who is asked.
    pub resolver: Resolver,
}

/// Compaction by itself (contract 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// None.
    Off,
    /// Keeps this much time.
    Periodic(Duration),
    /// Keeps this many revisions.
    Revision(i64),
}

impl NodeConfig {
    /// How long a request may take: 5 s and two election timeouts (contract 2.1).
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }
}
