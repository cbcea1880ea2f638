//! The last layer of the chain: what each kind of command does.

use keelson_proto::{
    error::Error,
    etcdserverpb::{
        AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DeleteRangeRequest,
        DowngradeInfo, LeaseCheckpointRequest, LeaseCheckpointResponse, LeaseGrantRequest,
        LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, TxnRequest,
        request_op::Request as Operation,
    },
    keelsonpb::{ClusterVersion, MemberAttributes, command::Request},
};
use prost::Message as _;
use std::sync::atomic::Ordering::Relaxed;

use super::{
    reply::{Body, Response, TxnBody},
    state::State,
};
use crate::{
    alarm::AlarmChange,
    error::ApplyError,
    items,
    lease::{LEASE_TTL_SECONDS_MAX, Lease},
    members::Members,
    mvcc::{
        range::header,
        txn::{self, Path},
        write::WriteTxn,
    },
};

impl State {
    pub(super) fn dispatch(&mut self, request: &Request) -> Result<Body, ApplyError> {
        match request {
            Request::Put(put) => self.put(put),
            Request::DeleteRange(delete) => self.delete_range(delete),
            Request::Txn(txn) => self.txn(txn),
            Request::Compaction(compaction) => self.compaction(compaction),
            Request::LeaseGrant(grant) => self.lease_grant(grant),
            Request::LeaseRevoke(revoke) => self.lease_revoke(revoke),
            Request::LeaseCheckpoint(checkpoint) => Ok(self.lease_checkpoint(checkpoint)),
            Request::Alarm(alarm) => Ok(self.alarm(alarm)),
            Request::MemberAttributes(attributes) => Ok(self.member_attributes(attributes)),
            Request::ClusterVersion(version) => Ok(self.cluster_version(version)),
            Request::Downgrade(downgrade) => Ok(self.downgrade(downgrade)),
        }
    }

    fn put(&mut self, put: &PutRequest) -> Result<Body, ApplyError> {
        txn::check_put(
            &self.checked_state(),
            &self.common.leases.read(),
            put,
            false,
        )?;
        let mut write = WriteTxn::begin(&mut self.mvcc, &self.common.leases);
        let body = put_in(&mut write, put)?;
        let operations = write.operations;
        write.commit(&mut *self.sink);
        self.common.counters.add(operations);
        Ok(body)
    }

    fn delete_range(&mut self, delete: &DeleteRangeRequest) -> Result<Body, ApplyError> {
        txn::require_key(&delete.key)?;
        let mut write = WriteTxn::begin(&mut self.mvcc, &self.common.leases);
        let body = delete_range_in(&mut write, delete);
        let operations = write.operations;
        write.commit(&mut *self.sink);
        self.common.counters.add(operations);
        Ok(body)
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<Body, ApplyError> {
        let state = self.checked_state();
        let mut path = txn::decide(&state, request)?;
        txn::check(&state, &self.common.leases.read(), request, &mut path)?;
        let mut write = WriteTxn::begin(&mut self.mvcc, &self.common.leases);
        let mut body = txn_in(&mut write, request, &mut path)?;
        let operations = write.operations;
        body.revision = Some(write.commit(&mut *self.sink));
        self.common.counters.add(operations);
        Ok(Body::Txn(body))
    }

    fn compaction(&mut self, request: &CompactionRequest) -> Result<Body, ApplyError> {
        let revisions = self.mvcc.revisions;
        if request.revision <= revisions.compact {
            return Err(Error::Compacted.into());
        }
        if request.revision > revisions.current {
            return Err(Error::FutureRev.into());
        }
        self.mvcc.compact(request.revision);
        Ok(self.ready(|header| Response::Compaction(CompactionResponse { header })))
    }

    fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Result<Body, ApplyError> {
        // The proposer has picked an id and raised the TTL (store-notes 8).
        if request.id == 0 {
            return Err(Error::LeaseNotFound.into());
        }
        if request.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Error::LeaseTTLTooLarge.into());
        }
        if self.common.leases.read().get(request.id).is_some() {
            return Err(Error::LeaseExist.into());
        }
        let lease = Lease {
            id: request.id,
            ttl_seconds: request.ttl,
            remaining_ttl_seconds: 0,
        };
        self.put_lease(lease);
        self.common
            .counters
            .lease_granted_total
            .fetch_add(1, Relaxed);
        Ok(self.ready(|header| {
            Response::LeaseGrant(LeaseGrantResponse {
                header,
                id: lease.id,
                ttl: lease.ttl_seconds,
                error: String::new(),
            })
        }))
    }

    fn lease_revoke(&mut self, request: &LeaseRevokeRequest) -> Result<Body, ApplyError> {
        let keys: Vec<Box<[u8]>> = {
            let mut leases = self.common.leases.write();
            if leases.remove(request.id).is_none() {
                return Err(Error::LeaseNotFound.into());
            }
            leases.keys(request.id).map(Into::into).collect()
        };
        self.mvcc.store.delete_state(&Lease::item_key(request.id));
        let mut write = WriteTxn::begin(&mut self.mvcc, &self.common.leases);
        for key in &keys {
            write.delete(key);
        }
        write.commit(&mut *self.sink);
        self.common
            .counters
            .lease_revoked_total
            .fetch_add(1, Relaxed);
        Ok(self.ready(|header| Response::LeaseRevoke(LeaseRevokeResponse { header })))
    }

    fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) -> Body {
        for checkpoint in &request.checkpoints {
            // One that was revoked meanwhile has nothing to remember.
            let lease = self.common.leases.read().get(checkpoint.id);
            if let Some(lease) = lease {
                self.put_lease(Lease {
                    remaining_ttl_seconds: checkpoint.remaining_ttl,
                    ..lease
                });
            }
        }
        self.ready(|header| Response::LeaseCheckpoint(LeaseCheckpointResponse { header }))
    }

    fn put_lease(&mut self, lease: Lease) {
        let (key, value) = lease.item();
        self.mvcc.store.put_state(key, value);
        self.common.leases.write().insert(lease);
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Body {
        let (alarms, change) = self.common.alarms.write().apply(request);
        let store = &mut self.mvcc.store;
        match change {
            Some(AlarmChange::Raised(alarm)) => {
                let value = alarm.encode_to_vec().into();
                store.put_state(items::alarm(&alarm), value);
            }
            Some(AlarmChange::Disarmed(alarm)) => store.delete_state(&items::alarm(&alarm)),
            None => {}
        }
        self.ready(|header| Response::Alarm(AlarmResponse { header, alarms }))
    }

    fn member_attributes(&mut self, attributes: &MemberAttributes) -> Body {
        if self.common.members.write().publish(attributes) {
            let (key, value) = Members::attributes_item(attributes);
            self.mvcc.store.put_state(key, value);
        }
        Body::Ready(Response::MemberAttributes)
    }

    fn cluster_version(&mut self, version: &ClusterVersion) -> Body {
        let text = &version.version;
        self.common.members.write().set_cluster_version(text);
        self.mvcc.store.put_state(
            bytes::Bytes::from_static(items::CLUSTER_VERSION),
            text.clone().into_bytes().into(),
        );
        Body::Ready(Response::ClusterVersion)
    }

    fn downgrade(&mut self, downgrade: &DowngradeInfo) -> Body {
        self.common.members.write().set_downgrade(downgrade);
        let store = &mut self.mvcc.store;
        if downgrade.enabled {
            let key = bytes::Bytes::from_static(items::DOWNGRADE);
            store.put_state(key, downgrade.encode_to_vec().into());
        } else {
            store.delete_state(items::DOWNGRADE);
        }
        Body::Ready(Response::Downgrade)
    }

    fn ready(
        &self,
        make: impl FnOnce(Option<keelson_proto::etcdserverpb::ResponseHeader>) -> Response,
    ) -> Body {
        Body::Ready(make(header(self.mvcc.revisions.current)))
    }

    fn checked_state(&self) -> txn::State<'_> {
        txn::State {
            index: self.mvcc.index.reader(),
            store: self.mvcc.records(),
            revisions: self.mvcc.revisions,
        }
    }
}

fn put_in(write: &mut WriteTxn<'_>, put: &PutRequest) -> Result<Body, ApplyError> {
    let prev = write.put(put)?;
    let prev = prev.filter(|_| put.prev_kv);
    Ok(Body::Put {
        revision: write.revision(),
        prev: prev.map(|prev| write.record_ref(prev)),
    })
}

fn delete_range_in(write: &mut WriteTxn<'_>, delete: &DeleteRangeRequest) -> Body {
    let deleted = write.delete_range(delete);
    let prevs = if delete.prev_kv {
        deleted.iter().map(|&prev| write.record_ref(prev)).collect()
    } else {
        Vec::new()
    };
    Body::DeleteRange {
        revision: write.revision(),
        deleted: i64::try_from(deleted.len()).unwrap_or(i64::MAX),
        prevs,
    }
}

/// Runs the path that was decided and checked; the caller sets the revision of the outermost reply.
fn txn_in(
    write: &mut WriteTxn<'_>,
    request: &TxnRequest,
    path: &mut Path,
) -> Result<TxnBody, ApplyError> {
    let succeeded = path.take();
    let operations = txn::branch(request, succeeded);
    let mut replies = Vec::with_capacity(operations.len());
    for operation in operations {
        replies.push(match &operation.request {
            Some(Operation::RequestRange(range)) => {
                let plan = write.range(range);
                Body::Range {
                    revision: write.revision(),
                    plan,
                }
            }
            Some(Operation::RequestPut(put)) => put_in(write, put)?,
            Some(Operation::RequestDeleteRange(delete)) => delete_range_in(write, delete),
            Some(Operation::RequestTxn(nested)) => Body::Txn(txn_in(write, nested, path)?),
            None => return Err(ApplyError::Damaged("an unchecked operation".into())),
        });
    }
    Ok(TxnBody {
        revision: None,
        succeeded,
        replies,
    })
}
