//! A state on a real directory, driven command by command.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::sync::{Arc, Mutex};

use keelson_proto::{
    error::Error,
    etcdserverpb::{
        AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
        PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
    },
    keelsonpb::{Command, command::Request},
    mvccpb::KeyValue,
    raw,
};
use keelson_state::{
    apply::{EventRecord, EventSink, Response, State, StateOptions},
    mvcc::compaction::CompactStep,
    reader::Reader,
    store::{RealDisk, StoreOptions},
};
use prost::Message as _;
use tempfile::TempDir;

pub type Events = Arc<Mutex<Vec<(i64, Vec<EventRecord>)>>>;

#[derive(Clone, Default)]
pub struct Sink(pub Events);

impl EventSink for Sink {
    fn publish(&mut self, revision: i64, events: Vec<EventRecord>) {
        self.0.lock().expect("no panic").push((revision, events));
    }

    fn installed(&mut self, revision: i64) {
        self.0
            .lock()
            .expect("no panic")
            .push((revision, Vec::new()));
    }
}

pub struct Member {
    pub state: State,
    pub events: Events,
    pub dir: TempDir,
    pub index: u64,
}

impl Member {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("state")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory");
        let sink = Sink::default();
        Self {
            state: open(&dir, sink.clone()),
            events: sink.0,
            dir,
            index: 0,
        }
    }

    /// Writes a checkpoint, closes and opens again.
    pub fn restart(self) -> Self {
        let Self {
            mut state,
            dir,
            events,
            index,
        } = self;
        let frozen = state.freeze();
        state
            .keeper()
            .checkpoint_now(&frozen)
            .expect("a checkpoint");
        drop(state);
        Self {
            state: open(&dir, Sink(Arc::clone(&events))),
            events,
            dir,
            index,
        }
    }

    /// Opens again without a checkpoint, as after a crash.
    pub fn reopen(self) -> Self {
        let Self {
            state,
            dir,
            events,
            index,
        } = self;
        drop(state);
        Self {
            state: open(&dir, Sink(Arc::clone(&events))),
            events,
            dir,
            index,
        }
    }

    pub fn apply(&mut self, request: Request) -> Result<Response, Error> {
        self.index += 1;
        let command = Command {
            request: Some(request),
            ..Command::default()
        };
        let outcome = self
            .state
            .apply(self.index, 1, &command)
            .expect("not fatal");
        outcome.map(|reply| reply.resolve().expect("resolves"))
    }

    pub fn put(&mut self, put: PutRequest) -> Result<raw::PutResponse, Error> {
        match self.apply(Request::Put(put))? {
            Response::Put(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn delete(
        &mut self,
        key: &str,
        range_end: &str,
    ) -> Result<raw::DeleteRangeResponse, Error> {
        let request = DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_owned().into(),
            prev_kv: true,
        };
        match self.apply(Request::DeleteRange(request))? {
            Response::DeleteRange(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn txn(&mut self, txn: TxnRequest) -> Result<raw::TxnResponse, Error> {
        match self.apply(Request::Txn(txn))? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn grant(&mut self, id: i64) -> Result<(), Error> {
        let request = LeaseGrantRequest { id, ttl: 60 };
        self.apply(Request::LeaseGrant(request)).map(drop)
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), Error> {
        self.apply(Request::LeaseRevoke(LeaseRevokeRequest { id }))
            .map(drop)
    }

    pub fn alarm(&mut self, action: i32, alarm: i32) -> Result<(), Error> {
        let request = AlarmRequest {
            action,
            member_id: 1,
            alarm,
        };
        self.apply(Request::Alarm(request)).map(drop)
    }

    /// The logical compaction only.
    pub fn compact_logically(&mut self, revision: i64) -> Result<(), Error> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        self.apply(Request::Compaction(request)).map(drop)
    }

    /// Compacts to the end.
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        self.compact_logically(revision)?;
        self.finish_compaction();
        Ok(())
    }

    pub fn finish_compaction(&mut self) {
        loop {
            match self.state.compact_step(3) {
                CompactStep::Idle => return,
                CompactStep::Hash(job) => job.run().expect("a hash"),
                CompactStep::Removed(_) | CompactStep::Finished(_) => {}
                CompactStep::Blocked => panic!("nothing is pinned"),
            }
        }
    }

    pub fn reader(&self) -> Reader {
        self.state.reader()
    }

    pub fn range(&self, request: &RangeRequest) -> Result<raw::RangeResponse, Error> {
        refused(self.reader().range(request))
    }

    /// Value of a key now.
    pub fn get(&self, key: &str) -> Option<String> {
        let request = RangeRequest {
            key: key.to_owned().into(),
            ..RangeRequest::default()
        };
        let response = self.range(&request).expect("a range");
        let kv = response.kvs.first().map(|kv| decode(kv))?;
        Some(String::from_utf8_lossy(&kv.value).into_owned())
    }

    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64), Error> {
        let hash = refused(self.reader().hash_kv(revision))?.hash;
        Ok((hash.hash, hash.compact_revision))
    }
}

pub fn refused<T>(result: Result<T, keelson_state::error::ApplyError>) -> Result<T, Error> {
    result.map_err(|error| keelson_state::error::Fatal::or_refusal(error).expect("not fatal"))
}

fn open(dir: &TempDir, sink: Sink) -> State {
    open_with(dir.path(), sink)
}

/// A state whose store lies in `dir`.
pub fn open_at(dir: &std::path::Path) -> State {
    open_with(dir, Sink::default())
}

fn open_with(dir: &std::path::Path, sink: Sink) -> State {
    let options = StateOptions {
        store: StoreOptions {
            keeper_thread: false,
            ..StoreOptions::new(dir.join("store"))
        },
        disk: Arc::new(RealDisk),
        sink: Box::new(sink),
    };
    State::open(options).expect("opens")
}

pub fn decode(record: &[u8]) -> KeyValue {
    KeyValue::decode(record).expect("a KeyValue")
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

pub fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestPut(put(key, value))),
    }
}

pub fn delete_op(key: &str, range_end: &str) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestDeleteRange(
            DeleteRangeRequest {
                key: key.to_owned().into(),
                range_end: range_end.to_owned().into(),
                prev_kv: true,
            },
        )),
    }
}

pub fn range_op(key: &str, revision: i64) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestRange(RangeRequest {
            key: key.to_owned().into(),
            revision,
            ..RangeRequest::default()
        })),
    }
}

pub fn txn(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..TxnRequest::default()
    }
}
