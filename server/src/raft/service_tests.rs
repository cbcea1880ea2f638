//! What a peer sends is decoded or refused, whatever it is.

use keelson_proto::keelsonpb::{
    AppendRequest, Blank, Entry as ProtoEntry, ForwardRequest, ForwardResponse, HelloRequest,
    LogId as ProtoLogId, Membership, Node, SnapshotChunk, StoredMembership, TransferLeaderRequest,
    Vote as ProtoVote, VoteRequest, VoterSet, entry,
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// Numbers that are easily added to, shifted or subtracted from wrongly.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        any::<u64>()
    ]
}

fn log_id() -> impl Strategy<Value = Option<ProtoLogId>> {
    prop::option::of((number(), number()).prop_map(|(term, index)| ProtoLogId { term, index }))
}

fn vote() -> impl Strategy<Value = Option<ProtoVote>> {
    let vote = (number(), number(), any::<bool>());
    prop::option::of(vote.prop_map(|(term, node_id, committed)| ProtoVote {
        term,
        node_id,
        committed,
    }))
}

fn membership() -> impl Strategy<Value = Membership> {
    let sets = prop::collection::vec(prop::collection::vec(number(), 0..4), 0..4);
    let nodes = prop::collection::vec((number(), any::<bool>()), 0..4);
    (sets, nodes).prop_map(|(sets, nodes)| Membership {
        configs: sets.into_iter().map(|ids| VoterSet { ids }).collect(),
        nodes: nodes
            .into_iter()
            .map(|(id, pending_voter)| {
                let peer_urls = vec!["http://\u{0}".to_owned(), String::new()];
                let node = Node {
                    peer_urls,
                    pending_voter,
                };
                (id, node)
            })
            .collect(),
    })
}

fn entry() -> impl Strategy<Value = ProtoEntry> {
    let bytes = prop::collection::vec(any::<u8>(), 0..32);
    let payload = prop::option::of(prop_oneof![
        Just(entry::Payload::Blank(Blank {})),
        bytes.prop_map(|bytes| entry::Payload::Batch(bytes.into())),
        membership().prop_map(entry::Payload::Membership),
    ]);
    (log_id(), payload).prop_map(|(log_id, payload)| ProtoEntry { log_id, payload })
}

/// Decodes as every message that a peer may send, and further as the service does.
fn take(bytes: &[u8]) {
    if let Ok(message) = AppendRequest::decode(bytes) {
        take_append(message);
    }
    if let Ok(message) = VoteRequest::decode(bytes) {
        drop(required_vote(message.vote.as_ref()));
    }
    if let Ok(message) = TransferLeaderRequest::decode(bytes) {
        drop(required_vote(message.from_leader.as_ref()));
    }
    if let Ok(message) = StoredMembership::decode(bytes) {
        drop(codec::stored_membership_from_proto(message));
    }
    drop(HelloRequest::decode(bytes));
    drop(SnapshotChunk::decode(bytes));
    drop(ForwardRequest::decode(bytes));
    drop(ForwardResponse::decode(bytes));
    drop(snapshot::decode_membership(bytes));
    drop(codec::decode_entry(bytes.to_vec().into()));
}

/// What is let through is what Raft's core counts on.
fn take_append(message: AppendRequest) {
    let from = message.vote.as_ref().map_or(0, |vote| vote.node_id);
    let Ok(request) = append_from_proto(message) else {
        return;
    };
    if Known::default().check_append(from, &request).is_err() {
        return;
    }
    let prev = request.prev_log_id.map(|prev| prev.index());
    for (place, entry) in (1_u64..).zip(&request.entries) {
        let expected = prev.map_or(place - 1, |prev| prev + place);
        assert_eq!(entry.log_id.index(), expected);
        assert!(entry.log_id.committed_leader_id().term <= request.vote.leader_id.term);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        take(&bytes);
    }

    #[test]
    fn hostile_appends_are_refused_or_consecutive(
        vote in vote(),
        prev_log_id in log_id(),
        entries in prop::collection::vec(entry(), 0..4),
        leader_commit in log_id(),
        spoilt in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let message = AppendRequest { vote, prev_log_id, entries, leader_commit };
        let mut bytes = message.encode_to_vec();
        take_append(message);
        take(&bytes);
        if !bytes.is_empty() {
            let place = spoilt.index(bytes.len());
            bytes[place] = byte;
            take(&bytes);
        }
    }

    #[test]
    fn hostile_memberships_are_refused(membership in membership(), log_id in log_id()) {
        let stored = StoredMembership { log_id, membership: Some(membership.clone()) };
        drop(codec::stored_membership_from_proto(stored));
        if let Ok(membership) = codec::membership_from_proto(membership) {
            // Every voter is a member: Raft looks them up.
            let voters = membership.voter_ids().collect::<Vec<_>>();
            assert!(voters.iter().all(|id| membership.get_node(id).is_some()));
        }
    }
}

#[test]
fn the_entry_of_the_bootstrap_tells_nothing_of_members() {
    assert!(!may_hold_unknown(None, None, false));
    assert!(!may_hold_unknown(None, Some(0), false));
    assert!(may_hold_unknown(None, Some(1), false));
    assert!(may_hold_unknown(Some(0), Some(1), false));
    assert!(!may_hold_unknown(Some(1), Some(1), false));
    // Elected by this member, another one may have gone on without it.
    assert!(may_hold_unknown(None, None, true));
    assert!(may_hold_unknown(None, Some(0), true));
    assert!(!may_hold_unknown(Some(1), Some(1), true));
}
