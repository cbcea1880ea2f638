//! What openraft is instantiated with, and [`Batch`], the unit of replication.
//!
//! - One raft entry holds a batch of commands (design 3.3), encoded once by its proposer: the log
//!   stores those bytes and every follower receives them.
//! - `leader_id_std`: one leader a term (openraft-notes 6).
//! - Outcomes do not travel through openraft: a batch carries the channels of the requests that wait
//!   on the proposing member, and the state machine answers them one by one. `R` is therefore `()`.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use keelson_proto::keelsonpb::{self, Command};
use openraft::impls::leader_id_std;
use parking_lot::Mutex;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::waiters::Waiter;

/// Commands in one raft entry. Beyond it a batch gains nothing and only delays its first command.
pub const BATCH_COMMANDS_MAX: usize = 1024;
/// The field number of `commands` in `keelsonpb.Batch`.
const COMMANDS: u32 = 1;
/// Tag and length of a command: at most this long each.
const COMMAND_HEAD_BYTES_MAX: usize = 6;

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

    /// A batch that comes from a peer, looked through before it is stored: what could not be applied
    /// would end this member now and at each start. The commands are decoded one by one and dropped:
    /// what waits to be applied costs its bytes only.
    ///
    /// # Errors
    /// When it is no batch that this version can apply.
    pub fn from_peer(encoded: Bytes) -> Result<Self, BatchError> {
        let mut rest = encoded.clone();
        let mut commands = 0;
        while rest.has_remaining() {
            commands += 1;
            if commands > BATCH_COMMANDS_MAX {
                return Err(BatchError::TooManyCommands);
            }
            let start = encoded.len() - rest.len();
            let key = decode_key(&mut rest)?;
            if key != (COMMANDS, WireType::LengthDelimited) {
                return Err(BatchError::Unknown);
            }
            let len = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
            if len > rest.len() {
                return Err(BatchError::Short);
            }
            rest.advance(len);
            // With its head a command is a batch of its own: decoded as deep as it will be then.
            let one = encoded.slice(start..encoded.len() - rest.len());
            check_commands(&keelsonpb::Batch::decode(one)?)?;
        }
        Ok(Self::from_encoded(encoded))
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

/// Why a batch of a peer cannot be applied here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// More commands than any member puts into a batch.
    #[error("a batch has more than {BATCH_COMMANDS_MAX} commands")]
    TooManyCommands,
    /// It ends within a command.
    #[error("a batch ends within a command")]
    Short,
    /// It is no message, or nested more deeply than can be read back.
    #[error("a batch cannot be decoded: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// A member of a later version made it, or nobody.
    #[error("a batch holds what this version does not know")]
    Unknown,
}

fn check_commands(batch: &keelsonpb::Batch) -> Result<(), BatchError> {
    let is_known = |command: &Command| command.request.is_some();
    if batch.commands.iter().all(is_known) {
        Ok(())
    } else {
        Err(BatchError::Unknown)
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

    /// Decodes a command that a peer forwards, as deep as it will stand in a batch, without what this
    /// version does not know of it.
    ///
    /// # Errors
    /// When no member could apply it.
    pub fn from_peer(encoded: Bytes) -> Result<Self, BatchError> {
        let mut head = BytesMut::with_capacity(COMMAND_HEAD_BYTES_MAX);
        encode_key(COMMANDS, WireType::LengthDelimited, &mut head);
        encode_varint(encoded.len() as u64, &mut head);
        let mut batch = keelsonpb::Batch::decode(head.freeze().chain(encoded))?;
        check_commands(&batch)?;
        batch
            .commands
            .pop()
            .map(Self::of)
            .ok_or(BatchError::Unknown)
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
    use keelson_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op};
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
        assert_eq!(Batch::from_peer(batch.encoded().clone()), Ok(batch));
    }

    fn put() -> Command {
        Command {
            request: Some(Request::Put(PutRequest::default())),
            ..Default::default()
        }
    }

    fn from_peer(commands: Vec<Command>) -> Result<(), BatchError> {
        let encoded = keelsonpb::Batch { commands }.encode_to_vec();
        Batch::from_peer(encoded.into()).map(drop)
    }

    #[test]
    fn a_batch_that_cannot_be_applied_is_not_taken_from_a_peer() {
        assert_eq!(from_peer(Vec::new()), Ok(()));
        assert_eq!(from_peer(vec![put(); BATCH_COMMANDS_MAX]), Ok(()));
        assert_eq!(
            from_peer(vec![put(); BATCH_COMMANDS_MAX + 1]),
            Err(BatchError::TooManyCommands)
        );
        assert_eq!(
            from_peer(vec![put(), Command::default()]),
            Err(BatchError::Unknown)
        );
        let mut whole = keelsonpb::Batch {
            commands: vec![put(), put()],
        }
        .encode_to_vec();
        for end in 1..whole.len() {
            let part = Bytes::copy_from_slice(&whole[..end]);
            // Cut between two commands it is a batch of fewer.
            assert_eq!(Batch::from_peer(part).is_ok(), end * 2 == whole.len());
        }
        // A field that a later version may have added.
        whole.extend([0x10, 1]);
        assert_eq!(Batch::from_peer(whole.into()), Err(BatchError::Unknown));
        let garbage = Bytes::from_static(&[0x0a, 2, 0xff, 0xff]);
        assert!(matches!(
            Batch::from_peer(garbage),
            Err(BatchError::Undecodable(_))
        ));
    }

    /// What decodes as a command, but not any more in the batch that it goes into, is refused before
    /// it gets there: it would be read back as part of a batch at the next start.
    #[test]
    fn a_forwarded_command_is_read_as_deep_as_in_a_batch() {
        let nested = |depth: usize, innermost: Vec<RequestOp>| {
            let mut txn = TxnRequest {
                success: innermost,
                ..Default::default()
            };
            for _ in 0..depth {
                let operation = RequestOp {
                    request: Some(request_op::Request::RequestTxn(txn)),
                };
                txn = TxnRequest {
                    success: vec![operation],
                    ..Default::default()
                };
            }
            Command {
                request: Some(Request::Txn(txn)),
                ..Default::default()
            }
        };
        let mut refused_too_late = 0;
        for depth in 0..=120 {
            let command = nested(depth / 2, vec![RequestOp::default(); depth % 2]);
            let encoded = Bytes::from(command.encode_to_vec());
            let forwarded = Measured::from_peer(encoded.clone());
            let stored = from_peer(vec![command]);
            assert_eq!(forwarded.is_ok(), stored.is_ok(), "depth {depth}");
            refused_too_late += usize::from(Command::decode(encoded).is_ok() && stored.is_err());
        }
        assert!(refused_too_late > 0, "the depths do not tell the two apart");
        assert_eq!(
            Measured::from_peer(Bytes::new()).map(drop),
            Err(BatchError::Unknown)
        );
    }

    #[test]
    fn a_forwarded_command_has_the_length_that_it_will_have_in_the_log() {
        let put = PutRequest {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            ..PutRequest::default()
        };
        let command = Command {
            request: Some(Request::Put(put)),
            ..Command::default()
        };
        let canonical = command.encode_to_vec();
        // Field 99, a varint of three bytes where one is enough: a newer member's, or a hostile one's.
        let mut longer = canonical.clone();
        longer.extend_from_slice(&[0x98, 0x06, 0x81, 0x80, 0x00]);
        let taken = Measured::from_peer(longer.into()).unwrap();
        assert_eq!(
            (taken.command(), taken.bytes()),
            (&command, canonical.len())
        );
        assert!(Measured::from_peer(Bytes::new()).is_err());
        assert!(Measured::from_peer(Bytes::from_static(b"\xff")).is_err());
    }
}
