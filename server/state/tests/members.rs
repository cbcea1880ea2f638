//! Several members of one log: whatever happens to one locally, they agree (design R4).

#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{Member, decode, delete_op, put, put_op, range_op, refused, txn};
use keelson_proto::{
    error::Error,
    etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
        RangeRequest,
    },
    keelsonpb::{MemberAttributes, command::Request},
};
use keelson_state::{
    mvcc::{compaction::CompactStep, index::Restore},
    revision::Revision,
    store::Checkpoint,
};

/// A fixed mixture of commands, refused ones among them.
fn commands(count: u32) -> Vec<Request> {
    let mut random = 12_345_u32;
    let mut next = move |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % below
    };
    let mut commands = Vec::new();
    for i in 0..count {
        let key = format!("k{}", next(9));
        let lease = i64::from(next(4));
        commands.push(match next(12) {
            0..5 => Request::Put(PutRequest {
                lease,
                prev_kv: true,
                ..put(&key, &i.to_string())
            }),
            5 => Request::Put(PutRequest {
                ignore_value: true,
                lease,
                ..put(&key, "")
            }),
            6 => Request::DeleteRange(DeleteRangeRequest {
                key: key.into(),
                range_end: "k7".into(),
                prev_kv: true,
            }),
            7 => Request::Txn(txn(vec![
                delete_op(&key, "\0"),
                put_op(&key, "txn"),
                range_op("k3", 0),
                range_op("k4", i64::from(next(60))),
            ])),
            8 | 9 => Request::LeaseGrant(LeaseGrantRequest { id: lease, ttl: 60 }),
            10 => Request::LeaseRevoke(LeaseRevokeRequest { id: lease }),
            _ => Request::Compaction(CompactionRequest {
                revision: i64::from(next(i + 1)),
                physical: false,
            }),
        });
    }
    commands
}

fn assert_alike(one: &Member, other: &Member) {
    assert_eq!(one.reader().revisions(), other.reader().revisions());
    assert_eq!(one.hash_kv(0), other.hash_kv(0));
    assert_eq!(one.reader().leases(), other.reader().leases());
    for id in 0..4 {
        assert_eq!(one.reader().lease_keys(id), other.reader().lease_keys(id));
    }
    assert_eq!(one.reader().keys_total(), other.reader().keys_total());
}

#[test]
fn a_member_restarted_after_each_command_agrees() {
    let mut steady = Member::new();
    let mut restarted = Member::new();
    let mut refusals = 0;
    for (number, command) in commands(150).into_iter().enumerate() {
        let outcome = steady.apply(command.clone());
        refusals += usize::from(outcome.is_err());
        if number % 2 == 0 {
            steady.finish_compaction();
        }
        assert_eq!(outcome, restarted.apply(command.clone()), "{command:?}");
        restarted = restarted.restart();
        if number % 5 == 0 {
            restarted.finish_compaction();
        }
        assert_alike(&steady, &restarted);
    }
    steady.finish_compaction();
    restarted.finish_compaction();
    assert_alike(&steady, &restarted);
    assert_eq!(
        steady.reader().in_use_bytes(),
        restarted.reader().in_use_bytes()
    );
    assert!(refusals > 10 && steady.reader().current_revision() > 60);
}

fn install(to: &mut Member, from: &Checkpoint) {
    let keeper = to.state.keeper();
    let mut incoming = keeper
        .incoming(from.position().cluster_id, from.manifest())
        .unwrap();
    for (file, kind) in from.files().iter().enumerate() {
        let bytes = from.read_at(file, 0, kind.len() as usize).unwrap();
        incoming.write(file, 0, &bytes).unwrap();
    }
    let mut restore = Restore::default();
    let received = incoming
        .finish(&mut |header, len| restore.push_header(&header, len))
        .unwrap();
    let installed = keeper.install(received).unwrap();
    to.state.replace(installed, restore.finish()).unwrap();
    to.index = from.position().applied_index;
}

#[test]
fn an_installed_checkpoint_is_the_senders_state() {
    let mut ahead = Member::new();
    let mut behind = Member::new();
    for member in [&mut ahead, &mut behind] {
        member.state.set_cluster_id(7);
    }
    let all = commands(200);
    for command in &all {
        let _ = ahead.apply(command.clone());
    }
    for command in all.iter().take(20) {
        let _ = behind.apply(command.clone());
    }
    let attributes = MemberAttributes {
        member_id: 3,
        name: "three".into(),
        client_urls: vec!["http://localhost:2379".into()],
    };
    ahead
        .apply(Request::MemberAttributes(attributes.clone()))
        .unwrap();
    ahead.state.remove_member(4);
    ahead.alarm(1, 1).unwrap();

    // A read that began before goes on with what there is after.
    let old = behind.reader();
    let everything = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..RangeRequest::default()
    };
    let prepared = old.prepare_range(&everything).unwrap();
    let history = old.history();

    let frozen = ahead.state.freeze();
    let checkpoint = ahead.state.keeper().checkpoint_now(&frozen).unwrap();
    install(&mut behind, &checkpoint);
    assert_alike(&ahead, &behind);
    assert_eq!(ahead.state.position(), behind.state.position());
    assert!(history.is_superseded());
    assert_eq!(old.current_revision(), ahead.reader().current_revision());
    let response = prepared.finish().unwrap();
    let known = ahead.range(&everything).unwrap();
    assert!(response.header.unwrap().revision <= known.header.unwrap().revision);
    assert_eq!(refused(old.range(&everything)), Ok(known));

    let last = behind.events.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, (ahead.reader().current_revision(), Vec::new()));
    behind.reader().members(|members| {
        assert_eq!(members.attributes(3), Some(&attributes));
        assert!(members.is_removed(4));
    });
    assert_eq!(behind.put(put("x", "")), Err(Error::NoSpace));
    for member in [&mut ahead, &mut behind] {
        member.alarm(2, 1).unwrap();
    }
    for command in commands(40) {
        assert_eq!(ahead.apply(command.clone()), behind.apply(command));
    }
    assert_alike(&ahead, &behind);
    let mut behind = behind.restart();
    behind.finish_compaction();
    assert_alike(&ahead, &behind);
    assert_eq!(
        behind
            .reader()
            .members(|members| members.removed().collect::<Vec<_>>()),
        [4]
    );
}

#[test]
fn reads_at_the_current_revision_never_meet_compaction() {
    // Store-notes 10, 5: a range, a stream and a hash, beside a writer that compacts at once.
    let mut member = Member::new();
    for i in 0..600 {
        member.put(put(&format!("k{i:04}"), "0")).unwrap();
    }
    let reader = member.reader();
    let stop = AtomicBool::new(false);
    let range = RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..RangeRequest::default()
    };
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Relaxed) {
                let response = refused(reader.range(&range)).unwrap();
                assert_eq!(response.count, 600);
                assert_eq!(response.kvs.len(), 600);
                let revision = response.header.unwrap().revision;
                assert!(
                    response
                        .kvs
                        .iter()
                        .all(|kv| decode(kv).mod_revision <= revision)
                );
                // Each round writes all keys in one order: what is read is a point in time.
                let values: Vec<_> = response.kvs.iter().map(|kv| decode(kv).version).collect();
                assert!(values.is_sorted_by(|a, b| a >= b) && values[0] - values[599] <= 1);
                refused(reader.hash_kv(0)).unwrap();
                let stream = refused(reader.range_stream(&range)).unwrap();
                let outcome = read_stream(stream);
                assert!(
                    matches!(outcome, Ok(600) | Err(Error::Compacted)),
                    "{outcome:?}"
                );
                reads += 1;
            }
            reads
        });
        for round in 0..12 {
            for i in 0..600 {
                member
                    .put(put(&format!("k{i:04}"), &round.to_string()))
                    .unwrap();
                if i % 50 == 0 {
                    let current = member.reader().current_revision();
                    member.compact_logically(current).unwrap();
                }
                match member.state.compact_step(1000) {
                    CompactStep::Hash(job) => job.run().unwrap(),
                    _ => continue,
                }
            }
        }
        stop.store(true, Relaxed);
        assert!(reads.join().unwrap() > 0);
    });
    member.finish_compaction();
    assert_eq!(member.reader().keys_total(), 600);
}

fn read_stream(mut stream: keelson_state::mvcc::stream::RangeStream) -> Result<usize, Error> {
    let mut keys = 0;
    while let Some(chunk) = refused(stream.next_chunk(64, 1 << 20))? {
        keys += chunk.kvs.len();
    }
    Ok(keys)
}

#[test]
fn a_key_with_very_many_revisions() {
    let mut member = Member::new();
    let revisions = 20_000;
    for i in 0..revisions {
        member.put(put("hot", &i.to_string())).unwrap();
    }
    let at = |member: &Member, revision: i64| {
        let request = RangeRequest {
            key: "hot".into(),
            revision,
            ..RangeRequest::default()
        };
        member
            .range(&request)
            .map(|response| decode(&response.kvs[0]).version)
    };
    assert_eq!(at(&member, 10_001), Ok(10_000));
    member.compact_logically(15_001).unwrap();
    assert_eq!(at(&member, 10_001), Err(Error::Compacted));
    // Removal keeps to its batch.
    let mut batches = 0;
    loop {
        match member.state.compact_step(1000) {
            CompactStep::Hash(job) => job.run().unwrap(),
            CompactStep::Removed(removed) => {
                assert!(removed <= 1000);
                batches += 1;
            }
            CompactStep::Finished(_) => break,
            CompactStep::Idle | CompactStep::Blocked => panic!("not finished"),
        }
    }
    assert!(batches >= 14);
    assert_eq!(at(&member, 15_001), Ok(15_000));
    let left = member
        .reader()
        .history()
        .store()
        .scan(Revision::MIN, i64::MAX)
        .count();
    assert!(left >= 5_000);
}
