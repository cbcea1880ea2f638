//! Calls of Maintenance and Cluster, one after the other, each with its deadline.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use keelson_proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, MemberAddRequest, MemberRemoveRequest, MoveLeaderRequest,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::compare::cluster::Cluster;
use crate::transport::{Connection, framed};

/// Deadline of a call: etcd defragments a GiB in a minute.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// What a snapshot file's length leaves when divided by a sector: that of its hash.
const HASH_BYTES: u64 = 32;
const SECTOR_BYTES: u64 = 512;
/// How long there may be no leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A client of one member.
pub(super) struct Caller {
    runtime: Runtime,
    connection: Connection,
}

impl Caller {
    pub(super) fn connect(endpoint: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let connection = runtime.block_on(Connection::open(endpoint))?;
        Ok(Self {
            runtime,
            connection,
        })
    }

    fn unary(&mut self, path: &str, request: &impl Message) -> anyhow::Result<Bytes> {
        let call = self.connection.call(path)?;
        let reply = self.connection.unary(&call, framed(request));
        let reply = self
            .runtime
            .block_on(async { timeout(CALL_TIMEOUT, reply).await });
        reply
            .with_context(|| path.to_owned())?
            .with_context(|| path.to_owned())
    }

    pub(super) fn status(&mut self) -> anyhow::Result<StatusResponse> {
        let reply = self.unary("/etcdserverpb.Maintenance/Status", &StatusRequest {})?;
        Ok(StatusResponse::decode(reply)?)
    }

    /// Compacts at the current revision, and waits until what is compacted has been removed.
    pub(super) fn compact(&mut self) -> anyhow::Result<()> {
        let request = CompactionRequest {
            revision: self.status()?.header.unwrap_or_default().revision,
            physical: true,
        };
        self.unary("/etcdserverpb.KV/Compact", &request).map(drop)
    }

    pub(super) fn defragment(&mut self) -> anyhow::Result<()> {
        let path = "/etcdserverpb.Maintenance/Defragment";
        self.unary(path, &DefragmentRequest {}).map(drop)
    }

    pub(super) fn move_leader(&mut self, target_id: u64) -> anyhow::Result<()> {
        let path = "/etcdserverpb.Maintenance/MoveLeader";
        self.unary(path, &MoveLeaderRequest { target_id }).map(drop)
    }

    pub(super) fn add_member(&mut self, peer_url: String) -> anyhow::Result<()> {
        let request = MemberAddRequest {
            peer_ur_ls: vec![peer_url],
            is_learner: false,
        };
        self.unary("/etcdserverpb.Cluster/MemberAdd", &request)
            .map(drop)
    }

    pub(super) fn remove_member(&mut self, id: u64) -> anyhow::Result<()> {
        let path = "/etcdserverpb.Cluster/MemberRemove";
        self.unary(path, &MemberRemoveRequest { id }).map(drop)
    }

    /// Takes a snapshot, into `file`; gives its length.
    pub(super) fn snapshot(&mut self, file: &mut impl Write) -> anyhow::Result<u64> {
        let call = self.connection.call("/etcdserverpb.Maintenance/Snapshot")?;
        let connection = &mut self.connection;
        let stream = async {
            let (mut sink, mut source) = connection.stream(&call).await?;
            sink.send_last(framed(&SnapshotRequest {}))?;
            let mut bytes = 0;
            let mut remaining_bytes = 0;
            while let Some(message) = source.next().await? {
                let message = SnapshotResponse::decode(message)?;
                bytes += message.blob.len() as u64;
                remaining_bytes = message.remaining_bytes;
                file.write_all(&message.blob)?;
            }
            if bytes % SECTOR_BYTES != HASH_BYTES || remaining_bytes != 0 {
                bail!("a snapshot of {bytes} bytes, with {remaining_bytes} missing");
            }
            anyhow::Ok(bytes)
        };
        let streamed = async { timeout(CALL_TIMEOUT, stream).await };
        self.runtime.block_on(streamed).context("Snapshot")?
    }
}

/// The leader among the members at these places.
pub(super) fn leader(cluster: &Cluster, places: &[usize]) -> anyhow::Result<(Caller, usize)> {
    let began = Instant::now();
    while began.elapsed() < LEADER_TIMEOUT {
        for &place in places {
            let mut caller = Caller::connect(&cluster.endpoint(place)?)?;
            let status = caller.status()?;
            if status.leader == member_id(&status) {
                return Ok((caller, place));
            }
        }
        std::thread::sleep(LEADER_POLL_INTERVAL);
    }
    bail!("there is no leader")
}

/// Who answered.
pub(super) fn member_id(status: &StatusResponse) -> u64 {
    status.header.as_ref().map_or(0, |header| header.member_id)
}
