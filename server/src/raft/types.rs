//! What openraft is instantiated with, and [`Batch`], the unit of replication.
//!
//! - One raft entry holds a batch of commands (design 3.3), encoded once by its proposer: the log
//!   stores those bytes and every follower receives them.
//! - `leader_id_std`: one leader a term (openraft-notes 6).
//! - Outcomes do not travel through openraft: a batch carries the channels of the requests that wait
//!   on the proposing member, and the state machine answers them one by one. `R` is therefore `()`.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use keelson_proto::keelsonpb::{self, Command};
use openraft::impls::leader_id_std;
use parking_lot::Mutex;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

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

/// A command with the length that its encoding has in a batch: worked out once, and always of this very
/// command. Another encoding of it, a peer's for example, may be longer.
#[derive(Clone)]
pub struct Measured {
    command: Command,
    bytes: usize,
}

impl Measured {
    /// Measures a command.
    #[must_use]
    pub fn of(command: Command) -> Self {
        let bytes = command.encoded_len();
        Self { command, bytes }
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Its encoded length.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A batch that is being filled with this member's own requests.
#[derive(Default)]
pub struct BatchBuilder {
    commands: Vec<Command>,
    /// The encoded length of each.
    lengths: Vec<usize>,
    waiters: Waiters,
    bytes: usize,
}

impl BatchBuilder {
    /// Adds a command and who waits for it.
    pub fn push(&mut self, Measured { command, bytes }: Measured, waiter: Waiter) {
        self.bytes += bytes;
        self.commands.push(command);
        self.lengths.push(bytes);
        self.waiters.push(waiter);
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Their encoded length, without the few bytes between them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch.
    #[must_use]
    pub fn build(self) -> Batch {
        /// The field number of `commands` in `keelsonpb.Batch`.
        const COMMANDS: u32 = 1;
        /// Tag and length of a command: at most this long each.
        const COMMAND_HEAD_BYTES_MAX: usize = 6;
        let capacity = self.bytes + self.commands.len() * COMMAND_HEAD_BYTES_MAX;
        let mut encoded = BytesMut::with_capacity(capacity);
        for (command, len) in self.commands.iter().zip(self.lengths) {
            encode_key(COMMANDS, WireType::LengthDelimited, &mut encoded);
            encode_varint(len as u64, &mut encoded);
            command.encode_raw(&mut encoded);
        }
        let inner = Inner {
            encoded: encoded.freeze(),
            commands: Mutex::new(Some(self.commands)),
            waiters: Mutex::new(Some(self.waiters)),
        };
        Batch {
            inner: Arc::new(inner),
        }
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

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::PutRequest;
    use keelson_proto::keelsonpb::command::Request;

    use super::*;
    use crate::raft::waiters::LocalWaiter;

    #[test]
    fn a_built_batch_is_encoded_as_the_message_is() {
        let command = |request_id, value: usize| Command {
            request_id,
            request: Some(Request::Put(PutRequest {
                key: "key".into(),
                value: vec![b'v'; value].into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let commands = vec![command(1, 0), command(300, 200), command(2, 70_000)];
        let mut builder = BatchBuilder::default();
        for command in &commands {
            let waiter = Waiter::Local(LocalWaiter::new(None).0);
            builder.push(Measured::of(command.clone()), waiter);
        }
        let batch = builder.build();
        assert_eq!(batch.take_commands().unwrap(), commands);
        let message = keelsonpb::Batch { commands };
        assert_eq!(batch.encoded(), &message.encode_to_vec());
        assert_eq!(batch.take_waiters().map(|waiters| waiters.len()), Some(3));
    }
}
