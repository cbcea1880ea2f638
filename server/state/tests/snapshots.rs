//! A state written as a file of etcd's, and such a file made into a state again.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod common;

use std::sync::Arc;

use common::{Member, decode, delete_op, put, put_op, txn};
use keelson_proto::etcdserverpb::{DowngradeInfo, PutRequest, RangeRequest};
use keelson_proto::keelsonpb::{ClusterVersion, command::Request};
use keelson_state::bolt::{BoltFile, FileWriter, Trust};
use keelson_state::snapshot::{
    Content, Export, Import, ImportError, Placement, SnapshotMember, Status, hash_kv, restore,
};
use keelson_state::store::{RealDisk, StoreOptions};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

fn members() -> [SnapshotMember; 1] {
    [SnapshotMember {
        id: 0x8e9e,
        peer_urls: vec!["http://localhost:2380".into()],
        name: "one".into(),
        ..SnapshotMember::default()
    }]
}

fn pull(mut writer: FileWriter) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some(piece) = writer.next_piece().unwrap() {
        file.extend_from_slice(&piece);
    }
    file.extend_from_slice(&writer.hash());
    file
}

fn file_of(export: Export) -> Vec<u8> {
    pull(export.into_file(&members()).unwrap())
}

fn open(file: &[u8]) -> BoltFile<&[u8]> {
    BoltFile::open(file, "test.db", Trust::Hash).unwrap()
}

fn import(file: &[u8]) -> Result<Content, ImportError> {
    Import::run(&open(file), &mut |_| Ok(()))
}

/// A new member with what the file holds.
fn restored(file: &[u8], bump_revision: i64) -> Member {
    let member = Member::new();
    let dir = member.dir.path().join("restored");
    let placement = Placement {
        cluster_id: 7,
        applied_term: 1,
        applied_index: 1,
        bump_revision,
        ..Placement::default()
    };
    let options = StoreOptions::new(&dir);
    restore(&open(file), options, Arc::new(RealDisk), placement).unwrap();
    let Member {
        state,
        dir: home,
        events,
        index,
    } = member;
    drop(state);
    std::fs::remove_dir_all(home.path().join("store")).unwrap();
    std::fs::rename(dir, home.path().join("store")).unwrap();
    Member {
        state: common::open_at(home.path()),
        events,
        dir: home,
        index,
    }
}

fn everything(member: &Member) -> Vec<Vec<u8>> {
    let request = RangeRequest {
        key: b"\0".as_slice().into(),
        range_end: b"\0".as_slice().into(),
        ..RangeRequest::default()
    };
    let response = member.range(&request).unwrap();
    response.kvs.iter().map(|kv| kv.to_vec()).collect()
}

fn assert_same(member: &Member, other: &Member) {
    assert_eq!(everything(member), everything(other));
    let (reader, others) = (member.reader(), other.reader());
    assert_eq!(reader.revisions(), others.revisions());
    assert_eq!(reader.leases(), others.leases());
    assert_eq!(reader.alarms(0), others.alarms(0));
    for lease in reader.leases() {
        assert_eq!(reader.lease_keys(lease.id), others.lease_keys(lease.id));
    }
    // At the compact revision itself a member answers with the hash that it kept.
    let first = reader.compact_revision().max(0) + 1;
    for revision in first..=reader.current_revision() {
        assert_eq!(
            member.hash_kv(revision),
            other.hash_kv(revision),
            "at {revision}"
        );
    }
}

/// History, tombstones, several changes in a revision, leases, alarms.
fn full() -> Member {
    let mut member = Member::new();
    let version = ClusterVersion {
        version: "3.7.0".into(),
    };
    member.apply(Request::ClusterVersion(version)).unwrap();
    for id in [77, -5, 3] {
        member.grant(id).unwrap();
    }
    for i in 0..50 {
        let leased = PutRequest {
            lease: [0, 77, -5][i % 3],
            ..put(&format!("k{}", i % 7), &"v".repeat(i * 20))
        };
        member.put(leased).unwrap();
        if i % 5 == 0 {
            member.delete(&format!("k{}", i % 3), "").unwrap();
        }
    }
    member
        .txn(txn(vec![
            put_op("a", "1"),
            put_op("b", ""),
            delete_op("k", "l"),
        ]))
        .unwrap();
    member
}

#[test]
fn a_state_comes_back_from_its_file() {
    for compacted in [false, true] {
        let mut member = full();
        member.alarm(1, 1).unwrap();
        if compacted {
            member.compact(40).unwrap();
        }
        let file = file_of(member.state.export());
        let content = import(&file).unwrap();
        let revisions = member.reader().revisions();
        assert_eq!(content.revision, revisions.current);
        assert_eq!(content.compact_revision, revisions.compact);
        assert_eq!(content.warnings, Vec::<String>::new());
        assert_eq!(content.cluster_version.as_deref(), Some("3.7.0"));
        let status = Status::read(&open(&file)).unwrap();
        assert_eq!(status.revision, revisions.current);
        assert_eq!(status.total_keys, member.reader().keys_total());
        assert_eq!(status.total_bytes, file.len() as u64 - 32);
        assert_eq!(status.version, "3.7.0");
        let hash = hash_kv(&open(&file), 0).unwrap();
        assert_eq!(
            (hash.hash, hash.compact_revision),
            member.hash_kv(0).unwrap()
        );
        assert_same(&member, &restored(&file, 0));
    }
}

#[test]
fn an_empty_state_is_a_file_too() {
    let file = file_of(Member::new().state.export());
    let content = import(&file).unwrap();
    assert_eq!((content.revision, content.compact_revision), (1, -1));
    // Known from genuine etcd.
    assert_eq!(hash_kv(&open(&file), 0).unwrap().hash, 1_084_519_789);
    assert_same(&Member::new(), &restored(&file, 0));
}

#[test]
fn a_state_whose_last_change_is_compacted_away_keeps_its_revision() {
    let mut member = Member::new();
    member.put(put("a", "1")).unwrap();
    member.delete("a", "").unwrap();
    member.put(put("b", "1")).unwrap();
    member.delete("b", "").unwrap();
    member.compact(5).unwrap();
    let file = file_of(member.state.export());
    assert_same(&member, &restored(&file, 0));
    member.put(put("c", "1")).unwrap();
    member.delete("c", "").unwrap();
    member.compact(7).unwrap();
    member.put(put("c", "2")).unwrap();
    let file = file_of(member.state.export());
    assert_same(&member, &restored(&file, 0));
}

/// Writes, compaction and rewrites between the two passes, and after them, change nothing.
#[test]
fn a_file_shows_one_point_in_time_whatever_happens_meanwhile() {
    let quiet = file_of(full().state.export());
    for checkpoint in [false, true] {
        let mut member = full();
        let export = member.state.export();
        if checkpoint {
            let frozen = member.state.freeze();
            member.state.keeper().checkpoint_now(&frozen).unwrap();
        }
        member.put(put("k1", "later")).unwrap();
        let mut writer = export.into_file(&members()).unwrap();
        let mut file = writer.next_piece().unwrap().unwrap().to_vec();
        member.put(put("k2", "later")).unwrap();
        let current = member.reader().current_revision();
        member.compact(current).unwrap();
        let frozen = member.state.freeze_to_defragment();
        member.state.keeper().defragment_now(&frozen).unwrap();
        let mut member = member.restart();
        member.put(put("k3", "later")).unwrap();
        while let Some(piece) = writer.next_piece().unwrap() {
            file.extend_from_slice(&piece);
        }
        file.extend_from_slice(&writer.hash());
        assert!(file == quiet, "checkpoint: {checkpoint}");
    }
}

/// Garbage that is still there may stand in the file; whoever opens it finishes the compaction.
#[test]
fn a_compaction_under_way_goes_on_where_the_file_is_restored() {
    let mut member = full();
    member.compact_logically(40).unwrap();
    let file = file_of(member.state.export());
    let hash = hash_kv(&open(&file), 0).unwrap();
    assert_eq!(
        (hash.hash, hash.compact_revision),
        member.hash_kv(0).unwrap()
    );
    let mut other = restored(&file, 0);
    assert_same(&member, &other);
    member.finish_compaction();
    other.finish_compaction();
    assert_same(&member, &other);
}

#[test]
fn a_bumped_revision_compacts_everything_before() {
    let mut member = full();
    let before = member.reader().current_revision();
    let live = everything(&member);
    let file = file_of(member.state.export());
    let mut bumped = restored(&file, 1000);
    let revisions = bumped.reader().revisions();
    assert_eq!(
        (revisions.current, revisions.compact),
        (before + 1000, before + 1000)
    );
    assert_eq!(everything(&bumped), live);
    bumped.finish_compaction();
    assert_eq!(everything(&bumped), live);
    assert_eq!(
        bumped.put(put("a", "2")).unwrap().header.unwrap().revision,
        before + 1001
    );
    // The marker survives another round, and agrees on both sides.
    let again = file_of(bumped.state.export());
    let bumped = bumped.restart();
    assert_same(&bumped, &restored(&again, 0));
    member.put(put("a", "2")).unwrap();
}

#[test]
fn what_breaks_etcds_rules_is_refused() {
    let file = file_of(full().state.export());
    // Whatever byte of a record is changed, the rules or the hash notice most; nothing panics.
    for at in (8192..file.len() - 32).step_by(3) {
        let mut damaged = file.clone();
        damaged[at] ^= 0x41;
        let opened = BoltFile::open(damaged.as_slice(), "test.db", Trust::Nothing).unwrap();
        drop(Import::run(&opened, &mut |_| Ok(())));
        drop(Status::read(&opened));
        drop(hash_kv(&opened, 0));
    }
    let version = file
        .windows(14)
        .position(|bytes| bytes == b"clusterVersion")
        .unwrap()
        + 14;
    for (text, refused) in [("3.8.0", true), ("4.0.0", true), ("3.6.0", false)] {
        let mut other = file.clone();
        other[version..version + 5].copy_from_slice(text.as_bytes());
        let opened = BoltFile::open(other.as_slice(), "test.db", Trust::Nothing).unwrap();
        let taken = Import::run(&opened, &mut |_| Ok(()));
        assert_eq!(
            matches!(taken, Err(ImportError::Version(_))),
            refused,
            "{text}"
        );
    }
}

#[test]
fn a_downgrade_under_way_goes_on_where_the_file_is_restored() {
    let mut member = full();
    let downgrade = DowngradeInfo {
        enabled: true,
        target_version: "3.6.0".to_owned(),
    };
    member.apply(Request::Downgrade(downgrade.clone())).unwrap();
    let file = file_of(member.state.export());
    let stored = br#"{"target-version":"3.6.0","enabled":true}"#;
    assert!(file.windows(stored.len()).any(|bytes| bytes == stored));
    let restored = restored(&file, 0);
    let found = restored
        .state
        .reader()
        .members(|members| members.downgrade().clone());
    assert_eq!(found, downgrade);
}

/// Files of 3.5 say no storage version, and a cluster version of their own.
#[test]
fn files_of_earlier_versions_come_back() {
    let member = full();
    let mut file = file_of(member.state.export());
    let rehash = |file: &mut Vec<u8>| {
        let content_len = file.len() - 32;
        let (content, hash) = file.split_at_mut(content_len);
        hash.copy_from_slice(&Sha256::digest(content));
    };
    let place = |file: &[u8], text: &[u8]| {
        file.windows(text.len())
            .position(|bytes| bytes == text)
            .unwrap()
    };
    let cluster = place(&file, b"clusterVersion3.7.0") + b"clusterVersion".len();
    let storage = place(&file, b"storageVersion3.7.0");
    for version in [b"3.6.0", b"3.5.0"] {
        file[cluster..cluster + 5].copy_from_slice(version);
        let value = storage + b"storageVersion".len();
        file[value..value + 5].copy_from_slice(version);
        rehash(&mut file);
        assert_eq!(
            import(&file).unwrap().revision,
            member.state.reader().current_revision()
        );
    }
    // A key that nobody knows, in its place in the order.
    file[storage..storage + 14].copy_from_slice(b"storageVersioo");
    rehash(&mut file);
    let status = Status::read(&open(&file)).unwrap();
    assert_eq!(status.version, "");
    let content = import(&file).unwrap();
    assert_eq!(content.cluster_version, None);
    let old = restored(&file, 0);
    for revision in [0, member.state.reader().current_revision() - 20] {
        let hash = hash_kv(&open(&file), revision).unwrap();
        assert_eq!(
            hash.hash,
            old.state.reader().hash_kv(revision).unwrap().hash.hash
        );
        assert_eq!(
            hash.hash,
            member.state.reader().hash_kv(revision).unwrap().hash.hash
        );
    }
    assert_same(&member, &old);
}

#[test]
fn records_are_not_changed_on_the_way() {
    let member = full();
    let file = file_of(member.state.export());
    let mut mains = Vec::new();
    Import::run(&open(&file), &mut |(header, record)| {
        if !header.tombstone {
            assert_eq!(decode(&record).mod_revision, header.revision.main);
        }
        mains.push(header.revision);
        Ok(())
    })
    .unwrap();
    assert!(mains.is_sorted() && mains.len() > 60);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_history_comes_back(
        steps in prop::collection::vec((0_u8..12, 0_u8..6, 0_usize..3000), 1..120),
    ) {
        let mut member = Member::new();
        member.grant(9).unwrap();
        for (kind, key, size) in steps {
            let name = format!("key-{key}");
            match kind {
                0..=6 => {
                    let lease = i64::from(kind == 0) * 9;
                    let request = PutRequest { lease, ..put(&name, &"x".repeat(size)) };
                    member.put(request).unwrap();
                }
                7 | 8 => drop(member.delete(&name, "").unwrap()),
                9 => drop(member.delete("key-2", "key-5").unwrap()),
                10 => {
                    let current = member.reader().current_revision();
                    let at = current - (size as i64 % 5);
                    if at > member.reader().compact_revision() && at > 0 {
                        member.compact(at).unwrap();
                    }
                }
                _ => {
                    let frozen = member.state.freeze();
                    member.state.keeper().checkpoint_now(&frozen).unwrap();
                }
            }
        }
        let file = file_of(member.state.export());
        prop_assert_eq!(file.len() % 512, 32);
        let hash = hash_kv(&open(&file), 0).unwrap();
        prop_assert_eq!((hash.hash, hash.compact_revision), member.hash_kv(0).unwrap());
        assert_same(&member, &restored(&file, 0));
    }
}
