//! Index, store and hashes against a naive model that never forgets anything (store-notes 10, 1).

#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Member, decode, delete_op, put, put_op, txn};
use keelson_proto::{
    error::Error, etcdserverpb::RangeRequest, keelsonpb::command::Request, mvccpb::KeyValue,
};
use keelson_state::{mvcc::compaction::CompactStep, revision::Revision};
use proptest::prelude::*;
use prost::Message as _;

#[derive(Clone, Debug)]
enum Operation {
    Put(u8, u8),
    Delete(u8, u8),
    /// Delete all keys from one on, then put it, in one revision.
    DeleteThenPut(u8, u8),
    /// Put a key, then delete all keys from it on, in one revision.
    PutThenDelete(u8, u8),
    /// At a share of the history, with so many steps done at once.
    Compact(u8, u8),
    Step,
    Restart,
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..6_u8;
    prop_oneof![
        8 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Operation::Put(key, value)),
        3 => (key.clone(), 1..7_u8).prop_map(|(from, to)| Operation::Delete(from, to)),
        2 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Operation::DeleteThenPut(key, value)),
        1 => (key, any::<u8>()).prop_map(|(key, value)| Operation::PutThenDelete(key, value)),
        2 => (any::<u8>(), 0..4_u8).prop_map(|(at, steps)| Operation::Compact(at, steps)),
        2 => Just(Operation::Step),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Crash),
    ]
}

#[derive(Clone, Debug)]
struct Record {
    revision: Revision,
    tombstone: bool,
    kv: KeyValue,
}

/// Every record ever written.
#[derive(Clone, Debug, Default)]
struct Model {
    keys: BTreeMap<String, Vec<Record>>,
    current: i64,
    compact: i64,
}

impl Model {
    fn newest(&self, key: &str, at: i64) -> Option<&Record> {
        let records = self.keys.get(key)?;
        records
            .iter()
            .rev()
            .find(|record| record.revision.main <= at)
    }

    fn live(&self, key: &str, at: i64) -> Option<&KeyValue> {
        let newest = self.newest(key, at)?;
        (!newest.tombstone).then_some(&newest.kv)
    }

    fn put(&mut self, main: i64, sub: u32, key: &str, value: &str) {
        let before = self.live(key, main);
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            create_revision: before.map_or(main, |before| before.create_revision),
            mod_revision: main,
            version: before.map_or(1, |before| before.version + 1),
            value: Bytes::copy_from_slice(value.as_bytes()),
            lease: 0,
        };
        self.add(main, sub, key, false, kv);
    }

    fn delete(&mut self, main: i64, sub: u32, key: &str) {
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            ..KeyValue::default()
        };
        self.add(main, sub, key, true, kv);
    }

    fn add(&mut self, main: i64, sub: u32, key: &str, tombstone: bool, kv: KeyValue) {
        let record = Record {
            revision: Revision { main, sub },
            tombstone,
            kv,
        };
        self.keys.entry(key.to_owned()).or_default().push(record);
        self.current = main;
    }

    fn live_from(&self, from: &str, to: Option<&str>) -> Vec<String> {
        let keys = self
            .keys
            .keys()
            .filter(|key| key.as_str() >= from && to.is_none_or(|to| key.as_str() < to));
        keys.filter(|key| self.live(key, self.current).is_some())
            .cloned()
            .collect()
    }

    fn range(&self, at: i64) -> Vec<KeyValue> {
        let live = self.keys.keys().filter_map(|key| self.live(key, at));
        live.cloned().collect()
    }

    /// HashKV by its definition (store-notes 2).
    fn hash(&self, at: i64) -> u32 {
        let kept = |revision: i64| -> Vec<Revision> {
            let newest = self
                .keys
                .keys()
                .filter_map(|key| self.newest(key, revision));
            let live = newest.filter(|record| !record.tombstone);
            live.map(|record| record.revision).collect()
        };
        let (finished, wanted) = (kept(self.compact), kept(at));
        let mut records: Vec<&Record> = self.keys.values().flatten().collect();
        records.sort_by_key(|record| record.revision);
        let mut bytes = b"key".to_vec();
        for record in records {
            let main = record.revision.main;
            let left = main > self.compact
                || main == self.compact && record.tombstone
                || finished.contains(&record.revision);
            let skipped = main > at
                || main <= self.compact && !wanted.is_empty() && !wanted.contains(&record.revision)
                || main == self.compact && record.tombstone;
            if left && !skipped {
                bytes.extend(main.to_be_bytes());
                bytes.push(b'_');
                bytes.extend(u64::from(record.revision.sub).to_be_bytes());
                if record.tombstone {
                    bytes.push(b't');
                }
                bytes.extend(record.kv.encode_to_vec());
            }
        }
        crc32c::crc32c(&bytes)
    }
}

fn key(number: u8) -> String {
    format!("k{number}")
}

struct Pair {
    member: Option<Member>,
    model: Model,
    /// Requests since the last checkpoint: what the log would replay.
    log: Vec<Request>,
}

impl Pair {
    fn member(&mut self) -> &mut Member {
        self.member.as_mut().unwrap()
    }

    fn apply(&mut self, request: Request) -> Result<(), Error> {
        self.log.push(request.clone());
        self.member().apply(request).map(drop)
    }

    fn run(&mut self, operation: &Operation) {
        let main = self.model.current + 1;
        match *operation {
            Operation::Put(number, value) => {
                let (key, value) = (key(number), value.to_string());
                self.apply(Request::Put(put(&key, &value))).unwrap();
                self.model.put(main, 0, &key, &value);
            }
            Operation::Delete(from, to) => {
                let (from, to) = (key(from), key(to));
                let request = keelson_proto::etcdserverpb::DeleteRangeRequest {
                    key: from.clone().into(),
                    range_end: to.clone().into(),
                    prev_kv: false,
                };
                self.apply(Request::DeleteRange(request)).unwrap();
                for (key, sub) in self.model.live_from(&from, Some(&to)).iter().zip(0..) {
                    self.model.delete(main, sub, key);
                }
            }
            Operation::DeleteThenPut(number, value) => {
                let (key, value) = (key(number), value.to_string());
                let request = txn(vec![delete_op(&key, "\0"), put_op(&key, &value)]);
                self.apply(Request::Txn(request)).unwrap();
                let doomed = self.model.live_from(&key, None);
                for (key, sub) in doomed.iter().zip(0..) {
                    self.model.delete(main, sub, key);
                }
                self.model.put(main, doomed.len() as u32, &key, &value);
            }
            Operation::PutThenDelete(number, value) => {
                let (key, value) = (key(number), value.to_string());
                let request = txn(vec![put_op(&key, &value), delete_op(&key, "\0")]);
                self.apply(Request::Txn(request)).unwrap();
                self.model.put(main, 0, &key, &value);
                for (key, sub) in self.model.live_from(&key, None).iter().zip(1..) {
                    self.model.delete(main, sub, key);
                }
            }
            Operation::Compact(share, steps) => {
                let revision = self.model.current * i64::from(share) / 255;
                let request = keelson_proto::etcdserverpb::CompactionRequest {
                    revision,
                    physical: false,
                };
                let outcome = self.apply(Request::Compaction(request));
                if revision <= self.model.compact {
                    assert_eq!(outcome, Err(Error::Compacted));
                } else {
                    assert_eq!(outcome, Ok(()));
                    self.model.compact = revision;
                }
                for _ in 0..steps {
                    self.step();
                }
            }
            Operation::Step => self.step(),
            Operation::Restart => {
                self.log.clear();
                self.member = self.member.take().map(Member::restart);
            }
            Operation::Crash => {
                let mut member = self.member.take().map(Member::reopen).unwrap();
                for request in &self.log {
                    let _ = member.apply(request.clone());
                }
                self.member = Some(member);
            }
        }
    }

    fn step(&mut self) {
        match self.member().state.compact_step(2) {
            CompactStep::Hash(job) => job.run().unwrap(),
            CompactStep::Blocked => panic!("nothing is pinned"),
            _ => {}
        }
    }

    fn compare(&mut self) {
        let model = self.model.clone();
        let member = self.member();
        assert_eq!(member.reader().current_revision(), model.current);
        assert_eq!(member.reader().compact_revision(), model.compact);
        let live = model.range(model.current).len() as u64;
        assert_eq!(member.reader().keys_total(), live);
        let oldest = model.compact.max(1);
        for at in [oldest, (oldest + model.current) / 2, model.current] {
            let request = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                revision: at,
                ..RangeRequest::default()
            };
            let response = member.range(&request).unwrap();
            let kvs: Vec<KeyValue> = response.kvs.iter().map(|kv| decode(kv)).collect();
            assert_eq!(kvs, model.range(at), "at {at}");
            assert_eq!(response.count, kvs.len() as i64);
            let limited = member
                .range(&RangeRequest {
                    limit: 2,
                    ..request
                })
                .unwrap();
            assert_eq!(limited.count, kvs.len() as i64);
            assert_eq!(
                (limited.more, limited.kvs.len()),
                (kvs.len() > 2, kvs.len().min(2))
            );
            // A hash that was kept at a compaction is another one (store-notes 2).
            if at > model.compact {
                assert_eq!(
                    member.hash_kv(at),
                    Ok((model.hash(at), model.compact)),
                    "at {at}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn state_equals_a_model_that_never_forgets(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let mut pair = Pair {
            member: Some(Member::new()),
            model: Model { current: 1, compact: -1, ..Model::default() },
            log: Vec::new(),
        };
        for operation in &operations {
            pair.run(operation);
            pair.compare();
        }
        pair.member().finish_compaction();
        pair.compare();
        let frozen = pair.member().state.freeze_to_defragment();
        pair.member().state.keeper().defragment_now(&frozen).unwrap();
        pair.log.clear();
        pair.compare();
        pair.run(&Operation::Crash);
        pair.member().finish_compaction();
        pair.compare();
    }
}
