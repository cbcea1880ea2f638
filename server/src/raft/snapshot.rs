//! Checkpoints on their way from member to member (design R3).
//!
//! A checkpoint is what openraft calls a snapshot. The sender streams its files from handles that
//! keep them alive; nothing is copied, one piece is in memory at a time. The receiver writes them
//! beside its store, verifies them, and only then tells Raft, which swaps them in.

use std::sync::Arc;

use futures::StreamExt as _;
use keelson_proto::keelsonpb::{self, raft_client::RaftClient, snapshot_chunk::Chunk};
use keelson_state::mvcc::index::Restore;
use keelson_state::store::{Checkpoint, Incoming, KeeperHandle, Received, StoreError};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::codec::{self, CodecError};
use super::network::Network;
use super::plausible::Known;
use super::service::{Raft, fatal, implausible, required_vote};
use super::transfers::Progress;
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use crate::metrics::Counter;

/// openraft's snapshot with our handle.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotHandle>;

/// Bytes read and sent at once.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead of the transport.
const PIECES_AHEAD: usize = 4;

/// What openraft passes around as a snapshot's data.
pub enum SnapshotHandle {
    /// A checkpoint of this member's store.
    Local(Arc<Checkpoint>),
    /// A checkpoint received from the leader, verified, not yet swapped in.
    Received(Box<ReceivedSnapshot>),
}

/// A received checkpoint and the index built beside the old one.
pub struct ReceivedSnapshot {
    /// The verified files.
    pub received: Received,
    /// What the state is rebuilt from.
    pub restore: Restore,
}

impl std::fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "local checkpoint",
            Self::Received(_) => "received checkpoint",
        })
    }
}

/// Why a checkpoint could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer refused it, or could not be reached.
    #[error("peer: {0}")]
    Peer(#[from] Status),
    /// It could not be read here.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// A received checkpoint is not for sending on.
    #[error("a received checkpoint is not for sending on")]
    NotLocal,
    /// The peer's answer is incomplete.
    #[error("peer's answer has no vote")]
    NoVote,
}

/// What openraft is told of a checkpoint.
///
/// # Errors
/// When the membership in its position does not decode.
pub fn meta(checkpoint: &Checkpoint) -> Result<SnapshotMeta, CodecError> {
    let position = checkpoint.position();
    Ok(SnapshotMeta {
        last_log_id: Some(LogId::new(
            position.applied_term.into(),
            position.applied_index,
        )),
        last_membership: decode_membership(&position.membership)?,
    })
}

/// Decodes the membership that a position carries.
///
/// # Errors
/// When it is damaged.
pub fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    let stored =
        keelsonpb::StoredMembership::decode(bytes).map_err(|source| CodecError::Undecodable {
            what: "stored membership",
            source,
        })?;
    codec::stored_membership_from_proto(stored)
}

/// Sends a checkpoint; gives the peer's vote after it has installed it.
pub(super) async fn send(
    mut client: RaftClient<Channel>,
    network: &Network,
    target: u64,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<Vote, SendError> {
    let SnapshotHandle::Local(checkpoint) = snapshot.snapshot else {
        return Err(SendError::NotLocal);
    };
    let started = tokio::time::Instant::now();
    let start = keelsonpb::SnapshotStart {
        vote: Some(codec::vote_to_proto(&vote)),
        last_log_id: snapshot
            .meta
            .last_log_id
            .as_ref()
            .map(codec::log_id_to_proto),
        membership: Some(codec::stored_membership_to_proto(
            &snapshot.meta.last_membership,
        )),
        manifest: checkpoint.manifest().clone(),
        files: checkpoint
            .files()
            .iter()
            .map(|file| keelsonpb::SnapshotFile {
                name: String::new(),
                length: file.len(),
            })
            .collect(),
    };
    let bytes: u64 = start.files.iter().map(|file| file.length).sum();
    let (chunks, outbound) = mpsc::channel(PIECES_AHEAD);
    let stats = network.stats(target);
    let given_up = CancellationToken::new();
    // Reading ends with this call, whatever becomes of the transport's end of the pieces.
    let _ends_reading = given_up.clone().drop_guard();
    let runtime = tokio::runtime::Handle::current();
    let outlet = Outlet {
        chunks,
        given_up: given_up.clone(),
        sent_bytes: Arc::clone(&stats.sent_bytes),
        runtime,
    };
    let reading = tokio::task::spawn_blocking(move || read_files(&checkpoint, start, &outlet));
    let progress = Progress::new(network.patience(), bytes);
    let request = network.request(target, progress.watch(outbound));
    let response = tokio::select! {
        response = client.install_snapshot(request) => response,
        () = progress.stalled() => {
            let reason = "snapshot transfer makes no progress";
            tracing::warn!(to = format!("{target:x}"), bytes, "{reason}; given up");
            given_up.cancel();
            Err(Status::deadline_exceeded(reason))
        }
    };
    // When the peer hangs up, reading ends with it; a read error explains a broken stream better.
    if let Ok(Err(error)) = reading.await {
        return Err(error.into());
    }
    let response = response?.into_inner();
    tracing::info!(
        to = format!("{target:x}"),
        bytes,
        took = ?started.elapsed(),
        "sent database snapshot"
    );
    response
        .vote
        .as_ref()
        .map(codec::vote_from_proto)
        .ok_or(SendError::NoVote)
}

/// Where the pieces go, for a thread that may block.
struct Outlet {
    chunks: mpsc::Sender<keelsonpb::SnapshotChunk>,
    given_up: CancellationToken,
    sent_bytes: Arc<Counter>,
    runtime: tokio::runtime::Handle,
}

impl Outlet {
    /// Waits until the transport has room; whether the transfer goes on.
    fn send(&self, chunk: Chunk) -> bool {
        let message = keelsonpb::SnapshotChunk { chunk: Some(chunk) };
        self.sent_bytes.add(message.encoded_len() as u64);
        self.runtime.block_on(async {
            tokio::select! {
                sent = self.chunks.send(message) => sent.is_ok(),
                () = self.given_up.cancelled() => false,
            }
        })
    }
}

/// Reads a checkpoint's files into the stream, on a thread of the blocking pool.
fn read_files(
    checkpoint: &Checkpoint,
    start: keelsonpb::SnapshotStart,
    outlet: &Outlet,
) -> Result<(), StoreError> {
    if !outlet.send(Chunk::Start(start)) {
        return Ok(());
    }
    for (file, entry) in checkpoint.files().iter().enumerate() {
        let mut offset = 0;
        while offset < entry.len() {
            let bytes = checkpoint.read_at(file, offset, PIECE_BYTES)?;
            let length = bytes.len() as u64;
            let data = keelsonpb::SnapshotData {
                file: u32::try_from(file).unwrap_or(u32::MAX),
                offset,
                crc32c: crc32c::crc32c(&bytes),
                bytes,
            };
            if !outlet.send(Chunk::Data(data)) {
                return Ok(());
            }
            offset += length;
        }
    }
    Ok(())
}

/// Which checkpoint is being received. The newest attempt wins, but not over one that is already
/// being handed to Raft: Raft counts on what it was given, and stops for good without it.
#[derive(Debug, Default)]
pub struct Intake {
    attempt: Arc<tokio::sync::Mutex<u64>>,
}

/// Receives a checkpoint, verifies it and hands it to Raft; gives this member's vote.
pub(super) async fn receive(
    raft: &Raft,
    keeper: &KeeperHandle,
    intake: &Intake,
    cluster_id: u64,
    mut inbound: Streaming<keelsonpb::SnapshotChunk>,
    from: u64,
    heard: impl Fn(usize),
) -> Result<Vote, Status> {
    let first = inbound.message().await?.and_then(|message| message.chunk);
    let Some(Chunk::Start(start)) = first else {
        return Err(Status::invalid_argument("snapshot without a start"));
    };
    let vote = required_vote(start.vote.as_ref())?;
    let stored = start
        .membership
        .ok_or_else(|| Status::invalid_argument("snapshot without a membership"))?;
    let meta = SnapshotMeta {
        last_log_id: start.last_log_id.as_ref().map(codec::log_id_from_proto),
        last_membership: codec::stored_membership_from_proto(stored)
            .map_err(|error| Status::invalid_argument(error.to_string()))?,
    };
    let plausible = |raft: &Raft| {
        Known::of(raft)
            .check_snapshot(from, &vote, &meta)
            .map_err(|reason| implausible(from, &reason))
    };
    plausible(raft)?;
    tracing::info!(from = format!("{from:x}"), "applying snapshot");
    let mut attempt = Arc::clone(&intake.attempt).lock_owned().await;
    *attempt += 1;
    let (keeper, manifest) = (keeper.clone(), start.manifest);
    // It waits for the checkpoint that is being written. The lock goes along: should the sender hang
    // up meanwhile, the next attempt still begins after this one.
    let begun = tokio::task::spawn_blocking(move || {
        let incoming = keeper.incoming(cluster_id, &manifest)?;
        Ok::<_, StoreError>((*attempt, incoming))
    });
    let (mine, mut incoming) = begun
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| refused(&error))?;
    check_position(&incoming, &meta)?;
    while let Some(message) = inbound.next().await {
        let message = message?;
        heard(message.encoded_len());
        let Some(Chunk::Data(data)) = message.chunk else {
            return Err(Status::invalid_argument("snapshot with two starts"));
        };
        if crc32c::crc32c(&data.bytes) != data.crc32c {
            return Err(Status::data_loss("snapshot piece damaged on the way"));
        }
        // A blocking write of at most one piece; the runtime's other workers go on.
        incoming = tokio::task::spawn_blocking(move || {
            incoming
                .write(data.file as usize, data.offset, &data.bytes)
                .map(|()| incoming)
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| refused(&error))?;
    }
    let attempt = Arc::clone(&intake.attempt).lock_owned().await;
    if *attempt != mine {
        return Err(Status::aborted("another snapshot has taken its place"));
    }
    // More may have been committed since: Raft counts on it.
    plausible(raft)?;
    // A task of its own: the attempt is kept to the end, though the sender hangs up.
    let installing = tokio::spawn(install(raft.clone(), incoming, meta, vote, attempt));
    installing
        .await
        .map_err(|error| Status::internal(error.to_string()))?
}

async fn install(
    raft: Raft,
    incoming: Incoming,
    meta: SnapshotMeta,
    vote: Vote,
    _attempt: tokio::sync::OwnedMutexGuard<u64>,
) -> Result<Vote, Status> {
    let snapshot = tokio::task::spawn_blocking(move || {
        let mut restore = Restore::default();
        let received =
            incoming.finish(&mut |header, length| restore.push_header(&header, length))?;
        Ok::<_, StoreError>(ReceivedSnapshot { received, restore })
    })
    .await
    .map_err(|error| Status::internal(error.to_string()))?
    .map_err(|error| refused(&error))?;
    let snapshot = Snapshot {
        meta,
        snapshot: SnapshotHandle::Received(Box::new(snapshot)),
    };
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(|error| fatal(&error))?;
    Ok(response.vote)
}

/// What Raft is told and what the files say must be the same point of the log.
fn check_position(incoming: &Incoming, meta: &SnapshotMeta) -> Result<(), Status> {
    let position = incoming.position();
    let stated = meta
        .last_log_id
        .map(|id| (**id.committed_leader_id(), id.index()));
    if stated != Some((position.applied_term, position.applied_index)) {
        return Err(Status::invalid_argument(
            "snapshot's log id is not its manifest's",
        ));
    }
    Ok(())
}

fn refused(error: &StoreError) -> Status {
    tracing::warn!(error = %error, "snapshot refused");
    Status::failed_precondition(error.to_string())
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
