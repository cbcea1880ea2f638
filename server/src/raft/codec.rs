//! Raft's types to and from protobuf: the bytes of the log, of checkpoints and of the peer protocol.
//!
//! openraft's own serde formats are unstable (openraft-notes 9); these messages are ours and have
//! the upgrade rule of every protobuf message: fields are added, never changed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use keelson_proto::keelsonpb::{self, entry::Payload};
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::impls::leader_id_std;
use prost::Message as _;

use super::types::{Batch, BatchError, Entry, LogId, Membership, Node, StoredMembership, Vote};

/// Bytes from the log or from a peer that do not decode.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not the protobuf message it should be.
    #[error("undecodable {what}: {source}")]
    Undecodable {
        /// Which message.
        what: &'static str,
        /// protobuf's error.
        source: prost::DecodeError,
    },
    /// A field that must be there is not.
    #[error("{what} without {field}")]
    Missing {
        /// Which message.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A membership that cannot be, such as one with a voter that is no member.
    #[error("impossible membership: {0}")]
    Membership(#[source] openraft::errors::MembershipError<u64>),
    /// A batch that could not be applied.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Encodes a log id.
#[must_use]
pub fn log_id_to_proto(log_id: &LogId) -> keelsonpb::LogId {
    keelsonpb::LogId {
        term: **log_id.committed_leader_id(),
        index: log_id.index(),
    }
}

/// Decodes a log id.
#[must_use]
pub fn log_id_from_proto(log_id: &keelsonpb::LogId) -> LogId {
    LogId::new(log_id.term.into(), log_id.index)
}

/// Encodes a vote.
#[must_use]
pub fn vote_to_proto(vote: &Vote) -> keelsonpb::Vote {
    keelsonpb::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// Decodes a vote.
#[must_use]
pub fn vote_from_proto(vote: &keelsonpb::Vote) -> Vote {
    let leader_id = leader_id_std::LeaderId {
        term: vote.term,
        voted_for: vote.node_id,
    };
    Vote {
        leader_id,
        committed: vote.committed,
    }
}

/// Encodes an entry for a peer. The batch's bytes are shared, not copied.
#[must_use]
pub fn entry_to_proto(entry: &Entry) -> keelsonpb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(keelsonpb::Blank {}),
        EntryPayload::Normal(batch) => Payload::Batch(batch.encoded().clone()),
        EntryPayload::Membership(membership) => {
            Payload::Membership(membership_to_proto(membership))
        }
    };
    keelsonpb::Entry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: Some(payload),
    }
}

/// Decodes an entry that a peer sends, and looks into its batch: it is to be stored.
///
/// # Errors
/// When a part is missing or wrong, or this member could not apply it.
pub fn entry_from_peer(entry: keelsonpb::Entry) -> Result<Entry, CodecError> {
    if let Some(Payload::Batch(encoded)) = &entry.payload {
        Batch::from_peer(encoded.clone())?;
    }
    entry_from_proto(entry)
}

/// Decodes an entry of the log; its batch is not looked into yet.
///
/// # Errors
/// When a part is missing or wrong.
fn entry_from_proto(entry: keelsonpb::Entry) -> Result<Entry, CodecError> {
    let missing = |field| CodecError::Missing {
        what: "entry",
        field,
    };
    let log_id = log_id_from_proto(entry.log_id.as_ref().ok_or_else(|| missing("log_id"))?);
    let payload = match entry.payload.ok_or_else(|| missing("payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Batch(encoded) => EntryPayload::Normal(Batch::from_encoded(encoded)),
        Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_proto(membership)?)
        }
    };
    Ok(Entry::new(log_id, payload))
}

/// Encodes an entry for the log.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Bytes {
    entry_to_proto(entry).encode_to_vec().into()
}

/// Decodes an entry of the log.
///
/// # Errors
/// When the bytes are no entry.
pub fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let entry = keelsonpb::Entry::decode(bytes).map_err(|source| CodecError::Undecodable {
        what: "entry",
        source,
    })?;
    entry_from_proto(entry)
}

/// Encodes a membership.
#[must_use]
pub fn membership_to_proto(membership: &Membership) -> keelsonpb::Membership {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|ids| keelsonpb::VoterSet {
            ids: ids.iter().copied().collect(),
        })
        .collect();
    let nodes = membership
        .nodes()
        .map(|(id, node)| {
            let node = keelsonpb::Node {
                peer_urls: node.peer_urls.clone(),
                pending_voter: node.pending_voter,
            };
            (*id, node)
        })
        .collect();
    keelsonpb::Membership { configs, nodes }
}

/// Decodes a membership.
///
/// # Errors
/// When it cannot be, for example because a voter is no member.
pub fn membership_from_proto(membership: keelsonpb::Membership) -> Result<Membership, CodecError> {
    let nodes: BTreeMap<u64, Node> = membership
        .nodes
        .into_iter()
        .map(|(id, node)| {
            (
                id,
                Node {
                    peer_urls: node.peer_urls,
                    pending_voter: node.pending_voter,
                },
            )
        })
        .collect();
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    Membership::new(configs, nodes).map_err(CodecError::Membership)
}

/// Encodes a membership with its place in the log.
#[must_use]
pub fn stored_membership_to_proto(stored: &StoredMembership) -> keelsonpb::StoredMembership {
    keelsonpb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

/// Decodes a membership with its place in the log.
///
/// # Errors
/// When the membership is missing or wrong.
pub fn stored_membership_from_proto(
    stored: keelsonpb::StoredMembership,
) -> Result<StoredMembership, CodecError> {
    let membership = stored.membership.ok_or(CodecError::Missing {
        what: "stored membership",
        field: "membership",
    })?;
    let log_id = stored.log_id.as_ref().map(log_id_from_proto);
    Ok(StoredMembership::new(
        log_id,
        membership_from_proto(membership)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_round_trip() {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2])],
            BTreeMap::from([
                (
                    1,
                    Node {
                        peer_urls: vec!["http://a".into()],
                        pending_voter: false,
                    },
                ),
                (2, Node::default()),
                (
                    3,
                    Node {
                        peer_urls: vec![],
                        pending_voter: true,
                    },
                ),
            ]),
        )
        .unwrap();
        let log_id = LogId::new(3.into(), 7);
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch::from_encoded(Bytes::from_static(b"\x0a\x00"))),
            EntryPayload::Membership(membership),
        ] {
            let entry = Entry::new(log_id, payload);
            assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn a_damaged_entry_is_an_error() {
        assert!(decode_entry(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(decode_entry(Bytes::new()).is_err());
        let proto = keelsonpb::Membership {
            configs: vec![keelsonpb::VoterSet { ids: vec![9] }],
            nodes: Default::default(),
        };
        assert!(matches!(
            membership_from_proto(proto),
            Err(CodecError::Membership(_))
        ));
    }
}
