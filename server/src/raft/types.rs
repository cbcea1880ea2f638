//! What openraft is instantiated with, and [`Batch`], the unit of replication.
//!
//! - One raft entry holds a batch of commands (design 3.3), encoded once by its proposer: the log
//!   stores those bytes and every follower receives them.
//! - `leader_id_std`: one leader a term (openraft-notes 6).
//! - Outcomes do not travel through openraft: a batch carries the channels of the requests that wait
//!   on the proposing member, and the state machine answers them one by one. `R` is therefore `()`.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use keelson_proto::keelsonpb::{self, Command};
use openraft::impls::leader_id_std;
use parking_lot::Mutex;
use prost::Message as _;

use super::waiters::Waiter;

openraft::declare_raft_types!(
    /// Keelson's openraft types.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<leader_id_std::LeaderId<u64, u64>>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Raft's log id.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// A membership and where it stands in the log.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A membership.
pub type Membership = openraft::Membership<u64, Node>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// A member as Raft's membership knows it (design R10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Listed as a voter, but a raft learner until it has caught up (openraft-notes 7).
    pub pending_voter: bool,
}

/// Commands that are replicated as one raft entry. Cheap to clone.
///
/// - `encoded` is what the log stores and the followers get.
/// - On the proposing member the commands and the waiting requests are there too; elsewhere the
///   commands are decoded when they are applied.
#[derive(Clone)]
pub struct Batch {
    inner: Arc<Inner>,
}

struct Inner {
    encoded: Bytes,
    /// Taken by apply: an applied batch stays in the log's cache as its bytes only, and no longer
    /// pins the frames that its keys and values came in.
    commands: Mutex<Option<Vec<Command>>>,
    waiters: Mutex<Option<Waiters>>,
}

/// The requests that wait for a batch, in the order of its commands.
pub type Waiters = Vec<Waiter>;

impl Batch {
    /// A batch of this member's own requests.
    #[must_use]
    pub fn propose(commands: Vec<Command>, waiters: Waiters) -> Self {
        let batch = keelsonpb::Batch { commands };
        let encoded = batch.encode_to_vec().into();
        let inner = Inner {
            encoded,
            commands: Mutex::new(Some(batch.commands)),
            waiters: Mutex::new(Some(waiters)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A batch from the log or from a peer. Nothing is decoded yet.
    #[must_use]
    pub fn from_encoded(encoded: Bytes) -> Self {
        let inner = Inner {
            encoded,
            commands: Mutex::new(None),
            waiters: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The encoded `keelsonpb.Batch`.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.inner.encoded
    }

    /// The commands: the proposer's own the first time, decoded ones otherwise.
    ///
    /// # Errors
    /// When the bytes are no `keelsonpb.Batch`: the log or the peer that sent them is damaged.
    pub fn take_commands(&self) -> Result<Vec<Command>, prost::DecodeError> {
        if let Some(commands) = self.inner.commands.lock().take() {
            return Ok(commands);
        }
        Ok(keelsonpb::Batch::decode(self.inner.encoded.clone())?.commands)
    }

    /// Whether requests wait for it.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.inner.waiters.lock().is_some()
    }

    /// The waiting requests, once; `None` on members that did not propose the batch.
    #[must_use]
    pub fn take_waiters(&self) -> Option<Waiters> {
        self.inner.waiters.lock().take()
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.inner.encoded == other.inner.encoded
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Only the size: values are never shown (contract 6.5).
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.inner.encoded.len())
    }
}
