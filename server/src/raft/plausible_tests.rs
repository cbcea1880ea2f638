//! Each lie alone, and the honest messages beside it.

use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::impls::leader_id_std::LeaderId;

use super::*;
use crate::raft::types::{Membership, StoredMembership};

const FROM: u64 = 7;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

fn vote(term: u64, voted_for: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId { term, voted_for },
        committed,
    }
}

/// In term 5, with everything up to entry 100 of term 4 committed.
fn known() -> Known {
    Known {
        term: 5,
        committed: Some(log_id(4, 100)),
        last_index: Some(120),
    }
}

fn append(prev: Option<LogId>, entries: &[LogId]) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote(5, FROM, true),
        prev_log_id: prev,
        entries: entries
            .iter()
            .map(|log_id| Entry::new(*log_id, EntryPayload::Blank))
            .collect(),
        leader_commit: None,
    }
}

/// Raft's core remembers a commit beyond its log, and compares it by term first: the next leader's
/// entries would make it believe that all up to there is its own.
#[test]
fn a_commit_counts_as_far_as_the_message_reaches() {
    let bounded = |prev, entries: &[LogId], commit, reached: &mut Option<u64>| {
        let mut request = append(prev, entries);
        request.leader_commit = commit;
        known().bound_commit(&mut request, reached);
        request.leader_commit
    };
    let (far, prev) = (Some(log_id(5, 1 << 40)), Some(log_id(5, 110)));
    let entry = log_id(5, 111);
    // As it is, where the message speaks of it.
    for commit in [None, Some(log_id(4, 90)), prev] {
        assert_eq!(bounded(prev, &[], commit, &mut None), commit);
        assert_eq!(bounded(prev, &[entry], commit, &mut None), commit);
    }
    assert_eq!(bounded(prev, &[], far, &mut None), prev);
    assert_eq!(bounded(prev, &[entry], far, &mut None), Some(entry));
    assert_eq!(bounded(None, &[], far, &mut None), None);
    // Behind a gap nothing is certain, unless what fills it is on its way.
    let ahead = Some(log_id(5, 121));
    assert_eq!(bounded(ahead, &[], ahead, &mut None), None);
    let mut reached = None;
    let sent = [log_id(5, 120), log_id(5, 121)];
    assert_eq!(
        bounded(Some(log_id(5, 119)), &sent, prev, &mut reached),
        prev
    );
    assert_eq!(reached, Some(121));
    assert_eq!(bounded(ahead, &[], ahead, &mut reached), ahead);
}

#[test]
fn honest_appends_pass() {
    let known = known();
    for (prev, entries) in [
        (None, vec![]),
        (None, vec![log_id(0, 0), log_id(1, 1)]),
        (Some(log_id(3, 40)), vec![log_id(4, 41)]),
        (Some(log_id(4, 100)), vec![log_id(4, 101), log_id(5, 102)]),
        (Some(log_id(5, 500)), vec![]),
    ] {
        known.check_append(FROM, &append(prev, &entries)).unwrap();
        Known::default()
            .check_append(FROM, &append(prev, &entries))
            .unwrap();
    }
    for commit in [
        None,
        Some(log_id(3, 7)),
        Some(log_id(4, 100)),
        Some(log_id(5, 900)),
    ] {
        let mut request = append(Some(log_id(4, 100)), &[]);
        request.leader_commit = commit;
        known.check_append(FROM, &request).unwrap();
    }
    // A later leader, after many elections without one.
    let mut request = append(None, &[]);
    request.vote = vote(5 + (1 << 20), FROM, true);
    known.check_append(FROM, &request).unwrap();
}

#[test]
fn whoever_leads_or_asks_for_votes_does_so_in_its_own_name() {
    let known = known();
    let mut request = append(None, &[]);
    request.vote = vote(6, 1, true);
    let refused = known.check_append(FROM, &request).unwrap_err();
    assert!(matches!(refused, Implausible::ForeignVote { named: 1, .. }));
    request.vote = vote(6, FROM, false);
    let refused = known.check_append(FROM, &request).unwrap_err();
    assert_eq!(refused, Implausible::WrongKind { term: 6 });
    for (vote, sound) in [
        (vote(6, FROM, false), true),
        (vote(6, FROM, true), false),
        (vote(6, 1, false), false),
    ] {
        let request = VoteRequest {
            vote,
            last_log_id: Some(log_id(3, 9)),
            leadership_transfer: false,
        };
        let checked = known.check_vote_request(FROM, &request);
        assert_eq!(checked.is_ok(), sound, "{checked:?}");
    }
}

#[test]
fn terms_do_not_leap_and_numbers_do_not_end() {
    let known = known();
    for term in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 62) + 1] {
        let mut request = append(None, &[]);
        request.vote = vote(term, FROM, true);
        let refused = known.check_append(FROM, &request).unwrap_err();
        assert!(matches!(refused, Implausible::OutOfReach { .. }), "{term}");
        let asked = vote(5, 1, true);
        let answered = vote(term, FROM, false);
        Known::of_vote(&asked)
            .answered_vote(FROM, &asked, answered)
            .unwrap_err();
    }
    // After the largest leap that is believed there is room to go on, for everybody.
    let mut request = append(None, &[]);
    request.vote = vote(1 << 62, FROM, true);
    known.check_append(FROM, &request).unwrap();
    let pushed = Known {
        term: 1 << 62,
        ..known
    };
    request.vote = vote((1 << 62) + (1 << 32), FROM, true);
    pushed.check_append(FROM, &request).unwrap();
    request.vote = vote((1 << 62) + (1 << 32) + 1, FROM, true);
    pushed.check_append(FROM, &request).unwrap_err();
    let request = append(Some(log_id(5, u64::MAX)), &[]);
    known.check_append(FROM, &request).unwrap_err();
}

#[test]
fn no_log_id_is_beyond_its_vote() {
    let known = known();
    let beyond = log_id(6, 200);
    known
        .check_append(FROM, &append(Some(beyond), &[]))
        .unwrap_err();
    let entries = [log_id(5, 201), log_id(6, 202)];
    known
        .check_append(FROM, &append(Some(log_id(5, 200)), &entries))
        .unwrap_err();
    let mut request = append(None, &[]);
    request.leader_commit = Some(beyond);
    known.check_append(FROM, &request).unwrap_err();
    let request = VoteRequest {
        vote: vote(5, FROM, false),
        last_log_id: Some(beyond),
        leadership_transfer: false,
    };
    known.check_vote_request(FROM, &request).unwrap_err();
}

#[test]
fn entries_follow_each_other() {
    let known = Known::default();
    for (prev, entries) in [
        (None, vec![log_id(1, 1)]),
        (Some(log_id(1, 5)), vec![log_id(1, 7)]),
        (Some(log_id(1, 5)), vec![log_id(1, 6), log_id(1, 6)]),
        (Some(log_id(3, 5)), vec![log_id(2, 6)]),
        (Some(log_id(1, 5)), vec![log_id(3, 6), log_id(2, 7)]),
    ] {
        let refused = known.check_append(FROM, &append(prev, &entries));
        assert_eq!(refused, Err(Implausible::NotConsecutive));
    }
}

#[test]
fn what_is_committed_stays() {
    let known = known();
    for lie in [
        log_id(5, 100),
        log_id(3, 100),
        log_id(5, 40),
        log_id(3, 101),
    ] {
        let request = append(Some(lie), &[]);
        let refused = known.check_append(FROM, &request).unwrap_err();
        assert!(
            matches!(refused, Implausible::ContradictsCommitted { .. }),
            "{lie}: {refused}"
        );
        let mut request = append(None, &[]);
        request.leader_commit = Some(lie);
        known.check_append(FROM, &request).unwrap_err();
        let meta = SnapshotMeta {
            last_log_id: Some(lie),
            last_membership: StoredMembership::default(),
        };
        known
            .check_snapshot(FROM, &vote(5, FROM, true), &meta)
            .unwrap_err();
    }
    let over = append(Some(log_id(4, 98)), &[log_id(4, 99), log_id(5, 100)]);
    known.check_append(FROM, &over).unwrap_err();
    // A leader that was cut off while others went on may still send what it had begun.
    let mut stale = append(Some(log_id(3, 99)), &[log_id(3, 100), log_id(3, 101)]);
    stale.vote = vote(4, FROM, true);
    known.check_append(FROM, &stale).unwrap();
    stale.leader_commit = Some(log_id(3, 100));
    known.check_append(FROM, &stale).unwrap_err();
}

#[test]
fn a_snapshot_is_within_its_leaders_term_and_holds_its_membership() {
    let known = known();
    let meta = |last, membership| SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(membership, Membership::default()),
    };
    let check = |meta| known.check_snapshot(FROM, &vote(5, FROM, true), &meta);
    check(meta(Some(log_id(5, 200)), Some(log_id(4, 20)))).unwrap();
    check(meta(Some(log_id(4, 60)), None)).unwrap();
    check(meta(Some(log_id(6, 200)), None)).unwrap_err();
    check(meta(Some(log_id(5, 200)), Some(log_id(5, 201)))).unwrap_err();
}

#[test]
fn answers_are_about_what_was_asked() {
    let (prev, asked) = (Some(log_id(4, 7)), Some(log_id(5, 10)));
    check_matching(prev, asked, asked).unwrap();
    check_matching(prev, asked, prev).unwrap();
    check_matching(None, None, None).unwrap();
    for lie in [
        None,
        Some(log_id(4, 3)),
        Some(log_id(5, 11)),
        Some(log_id(6, 10)),
        Some(log_id(1, u64::MAX)),
    ] {
        check_matching(prev, asked, lie).unwrap_err();
    }
    check_matching(None, None, Some(log_id(1, 1))).unwrap_err();
    check_conflict(asked, None, log_id(5, 10)).unwrap();
    check_conflict(asked, Some(log_id(5, 9)), log_id(5, 10)).unwrap();
    let lost = check_conflict(asked, Some(log_id(5, 10)), log_id(5, 10));
    assert!(matches!(lost, Err(Implausible::Lost { .. })));
    check_conflict(asked, None, log_id(5, 11)).unwrap_err();
    check_conflict(None, None, log_id(0, 0)).unwrap_err();
}

#[test]
fn nobody_is_elected_by_an_answer() {
    let asked = vote(5, 1, true);
    let told = |answered| {
        Known::of_vote(&asked)
            .answered_vote(FROM, &asked, answered)
            .unwrap()
    };
    for honest in [
        vote(5, 1, true),
        vote(4, 1, false),
        vote(6, FROM, false),
        vote(6, 3, true),
    ] {
        assert_eq!(told(honest), honest);
    }
    // Two leaders of one term: there must be another one.
    assert_eq!(told(vote(5, 3, true)), vote(6, FROM, false));
    assert_eq!(told(vote(5, 3, false)), vote(5, 3, false));
    // The term of a vote for the asking member counts, and nothing else.
    for committed in [true, false] {
        assert_eq!(told(vote(9, 1, committed)), vote(9, FROM, false));
    }
}
