//! What went wrong in etcd and is right here (contract 10.1), and hashes known from genuine etcd.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

mod common;

use common::{Member, decode, delete_op, put, put_op, range_op, txn};
use keelson_proto::{
    error::Error,
    etcdserverpb::{PutRequest, RangeRequest},
    raw::response_op::Response,
};
use keelson_state::mvcc::compaction::CompactStep;

/// HashKV of an empty store, from genuine etcd.
const HASH_EMPTY: u32 = 1_084_519_789;

#[test]
fn hash_kv_known_answers() {
    let mut member = Member::new();
    assert_eq!(member.hash_kv(0).unwrap(), (HASH_EMPTY, -1));
    member.put(put("a", "1")).unwrap();
    member.put(put("a", "2")).unwrap();
    member.grant(77).unwrap();
    let leased = PutRequest {
        lease: 77,
        ..put("b", "x")
    };
    member.put(leased).unwrap();
    member.put(put("c", "y")).unwrap();
    member.delete("c", "").unwrap();
    assert_eq!(member.hash_kv(6).unwrap(), (2_008_751_180, -1));
    let mut member = member.restart();
    assert_eq!(member.hash_kv(6).unwrap(), (2_008_751_180, -1));
    assert_eq!(member.hash_kv(7), Err(Error::FutureRev));
    member.compact(6).unwrap();
    assert_eq!(member.hash_kv(5), Err(Error::Compacted));
}

#[test]
fn hash_kv_depends_on_revisions_not_on_progress() {
    let mut one = Member::new();
    let mut other = Member::new();
    for member in [&mut one, &mut other] {
        for i in 0..40 {
            member
                .put(put(&format!("k{}", i % 7), &i.to_string()))
                .unwrap();
            if i % 5 == 0 {
                member.delete(&format!("k{}", i % 3), "").unwrap();
            }
        }
        member.compact_logically(20).unwrap();
    }
    one.finish_compaction();
    for revision in [20, 25, 40, 0] {
        assert_eq!(
            one.hash_kv(revision).unwrap().1,
            if revision == 20 { -1 } else { 20 }
        );
        if revision != 20 {
            assert_eq!(one.hash_kv(revision), other.hash_kv(revision), "{revision}");
        }
    }
    let hash = one.hash_kv(33);
    let frozen = one.state.freeze_to_defragment();
    one.state.keeper().defragment_now(&frozen).unwrap();
    assert_eq!(one.hash_kv(33), hash);
    assert_eq!(one.restart().hash_kv(33), hash);
    assert_eq!(other.restart().hash_kv(33), hash);
}

#[test]
fn kept_hashes_are_relative_to_the_compaction_before() {
    // Known from genuine etcd: put a; compact 2; delete a.
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    member.compact(2).unwrap();
    member.delete("a", "").unwrap();
    let before = member.hash_kv(3).unwrap();
    member.compact(3).unwrap();
    let after = member.hash_kv(3).unwrap();
    // The tombstone at 3 makes K not empty.
    assert_eq!(before, (3_520_211_144, 2));
    assert_eq!(after, (3_681_333_679, 2));
    // Kept for its revision, also after later compactions, until a restart.
    member.put(put("b", "1")).unwrap();
    member.compact(4).unwrap();
    assert_eq!(member.hash_kv(3).unwrap(), after);
    assert_eq!(member.hash_kv(2).unwrap().1, -1);
    let member = member.restart();
    assert_eq!(member.hash_kv(3), Err(Error::Compacted));
}

#[test]
fn issue_txn_delete_from_key_then_put_survives_compaction() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    let response = member
        .txn(txn(vec![delete_op("a", "\0"), put_op("a", "2")]))
        .unwrap();
    assert!(response.succeeded);
    assert_eq!(member.reader().current_revision(), 3);
    member.compact(3).unwrap();
    assert_eq!(member.get("a").as_deref(), Some("2"));
    let kept = |member: &Member| {
        let history = member.reader().history();
        let records = history
            .store()
            .scan(keelson_state::revision::Revision::new(3, 0), 3);
        let kept = records.map(|record| {
            let record = record.unwrap();
            (record.revision.sub, record.tombstone)
        });
        kept.collect::<Vec<_>>()
    };
    assert_eq!(kept(&member), [(0, true), (1, false)]);
    let hash = member.hash_kv(0).unwrap();
    let frozen = member.state.freeze_to_defragment();
    member.state.keeper().defragment_now(&frozen).unwrap();
    assert_eq!(kept(&member), [(0, true), (1, false)]);
    let mut member = member.restart();
    member.finish_compaction();
    assert_eq!(kept(&member), [(0, true), (1, false)]);
    assert_eq!(member.get("a").as_deref(), Some("2"));
    assert_eq!(
        member.put(put("a", "3")).unwrap().header.unwrap().revision,
        4
    );
    let mut member = member.restart();
    member.compact(4).unwrap();
    assert_eq!(member.get("a").as_deref(), Some("3"));
    assert_ne!(member.hash_kv(0).unwrap(), hash);
}

#[test]
fn issue_18089_tombstone_at_compact_revision() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    member.delete("a", "").unwrap();
    member.compact(3).unwrap();
    let mut member = member.restart();
    member.finish_compaction();
    let frozen = member.state.freeze_to_defragment();
    member.state.keeper().defragment_now(&frozen).unwrap();
    let history = member.reader().history();
    let from = keelson_state::revision::Revision::new(3, 0);
    let at_3: Vec<_> = history.store().scan(from, 3).map(Result::unwrap).collect();
    assert_eq!(at_3.len(), 1);
    assert!(at_3[0].tombstone);
    assert_eq!(member.get("a"), None);
}

#[test]
fn issue_18667_range_at_a_compacted_revision_fails_before_any_change() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    member.put(put("a", "2")).unwrap();
    member.put(put("a", "3")).unwrap();
    member.compact(3).unwrap();
    for (revision, error) in [
        (2, Error::Compacted),
        (5, Error::FutureRev),
        (-1, Error::Compacted),
    ] {
        let request = txn(vec![put_op("b", "1"), range_op("a", revision)]);
        assert_eq!(member.txn(request), Err(error));
        assert_eq!(member.reader().current_revision(), 4);
        assert_eq!(member.get("b"), None);
    }
    let response = member
        .txn(txn(vec![put_op("b", "1"), range_op("a", 3)]))
        .unwrap();
    assert_eq!(response.header.unwrap().revision, 5);
    let Some(Response::ResponseRange(range)) = &response.responses[1].response else {
        panic!("{response:?}");
    };
    assert_eq!(decode(&range.kvs[0]).value, "2");
}

#[test]
fn a_txn_range_below_the_first_compaction() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    assert!(
        member
            .txn(txn(vec![put_op("b", ""), range_op("a", -1)]))
            .is_ok()
    );
    assert_eq!(
        member.txn(txn(vec![range_op("a", -2)])),
        Err(Error::Compacted)
    );
    let unary = RangeRequest {
        key: "a".into(),
        revision: -2,
        ..RangeRequest::default()
    };
    assert_eq!(member.range(&unary).unwrap().count, 1);
}

#[test]
fn issue_17780_a_restart_in_a_compaction_does_not_lower_the_revision() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    for _ in 0..20 {
        member.put(put("b", "1")).unwrap();
        member.delete("b", "").unwrap();
    }
    assert_eq!(member.reader().current_revision(), 42);
    member.compact_logically(42).unwrap();
    while let CompactStep::Hash(job) = member.state.compact_step(3) {
        job.run().unwrap();
    }
    let mut member = member.restart();
    assert_eq!(member.reader().current_revision(), 42);
    assert_eq!(member.reader().compact_revision(), 42);
    member.finish_compaction();
    // The last record that is left may be far below the current revision.
    member.put(put("c", "1")).unwrap();
    member.delete("c", "").unwrap();
    member.compact(44).unwrap();
    let mut member = member.restart();
    member.finish_compaction();
    let mut member = member.restart();
    assert_eq!(member.reader().current_revision(), 44);
    assert_eq!(
        member.put(put("d", "1")).unwrap().header.unwrap().revision,
        45
    );
}

#[test]
fn issue_13766_position_and_data_agree_after_a_restart() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    member.grant(5).unwrap();
    let frozen = member.state.freeze();
    let position = frozen.position().clone();
    member.put(put("a", "2")).unwrap();
    member.revoke(5).unwrap();
    member.state.keeper().checkpoint_now(&frozen).unwrap();
    // A crash here: what came after the freeze is in the log only.
    let mut member = member.reopen();
    assert_eq!(member.state.position(), position);
    assert_eq!((position.applied_index, position.revision), (2, 2));
    assert_eq!(member.get("a").as_deref(), Some("1"));
    assert!(member.reader().lease(5).is_some());
    // Replay leads to the same history.
    assert_eq!(
        member.put(put("a", "2")).unwrap().header.unwrap().revision,
        3
    );
    member.revoke(5).unwrap();
    assert_eq!(member.get("a").as_deref(), Some("2"));
}

#[test]
fn events_of_a_txn_show_the_state_before_it() {
    let mut member = Member::new();
    member.put(put("k", "old")).unwrap();
    let response = member
        .txn(txn(vec![put_op("k", "new"), delete_op("k", "\0")]))
        .unwrap();
    let Some(Response::ResponseDeleteRange(deleted)) = &response.responses[1].response else {
        panic!("{response:?}");
    };
    assert_eq!(decode(&deleted.prev_kvs[0]).value, "new");
    member.put(put("k", "again")).unwrap();
    member
        .txn(txn(vec![delete_op("k", "\0"), put_op("k", "reborn")]))
        .unwrap();
    let events = member.events.lock().unwrap().clone();
    let shape: Vec<(i64, bool, bool, Option<i64>)> = events
        .iter()
        .flat_map(|(main, events)| {
            events.iter().map(|event| {
                let prev = event.prev.map(|prev| prev.main);
                (*main, event.tombstone, event.create, prev)
            })
        })
        .collect();
    assert_eq!(
        shape,
        [
            (2, false, true, None),
            (3, false, false, Some(2)),
            (3, true, false, Some(2)),
            (4, false, true, None),
            (5, true, false, Some(4)),
            (5, false, true, None),
        ]
    );
}

#[test]
fn a_pinned_read_holds_compaction_back() {
    let mut member = Member::new();
    for i in 0..10 {
        member.put(put("a", &i.to_string())).unwrap();
    }
    let request = RangeRequest {
        key: "a".into(),
        revision: 5,
        ..RangeRequest::default()
    };
    let prepared = member.reader().prepare_range(&request).unwrap();
    member.compact_logically(9).unwrap();
    let mut blocked = false;
    for _ in 0..10 {
        match member.state.compact_step(100) {
            CompactStep::Hash(job) => job.run().unwrap(),
            CompactStep::Blocked => blocked = true,
            _ => {}
        }
    }
    assert!(blocked);
    assert_eq!(decode(&prepared.finish().unwrap().kvs[0]).value, "3");
    member.finish_compaction();
    assert_eq!(member.reader().compaction_finished(), 9);
    assert_eq!(member.range(&request), Err(Error::Compacted));
}

#[test]
fn quota_of_13_pages() {
    // Store-notes 7: the 7th rewrite with 4 KiB is one too many; compaction and defragmentation
    // make room again.
    let mut member = Member::new();
    let size = |member: &Member| {
        (
            member.reader().db_size_bytes(),
            member.reader().in_use_bytes(),
        )
    };
    assert_eq!(size(&member), (20_480, 20_480));
    member.put(put("small", "1")).unwrap();
    let large = "x".repeat(4096);
    for _ in 0..6 {
        member.put(put("large", &large)).unwrap();
    }
    assert_eq!(size(&member), (49_152, 49_152));
    let revision = member.reader().current_revision();
    member.compact(revision).unwrap();
    assert_eq!(size(&member), (49_152, 28_672));
    let mut member = member.restart();
    assert_eq!(size(&member), (49_152, 28_672));
    let frozen = member.state.freeze_to_defragment();
    member.state.keeper().defragment_now(&frozen).unwrap();
    assert_eq!(size(&member), (28_672, 28_672));
}
