//! The space quota, checked before a proposal (contract 2.6, store-notes 7).
//!
//! dbSize is local, so apply never looks at it: the member that receives a request reckons with the
//! dbSize that its proposals in flight lead to, raises NOSPACE through the log, waits until the alarm
//! is applied, and refuses. Nothing is stored for a request that is told NoSpace. A proposal is in
//! flight until it is applied, not until it is answered: from then on dbSize has it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use keelson_proto::keelsonpb::command::Request;
use keelson_state::quota as cost;

use super::Node;
use super::error::NodeError;
use crate::raft::waiters::Reservation;

/// What proposals in flight cost.
#[derive(Debug, Default)]
pub struct Quota {
    in_flight: Arc<AtomicU64>,
}

impl Quota {
    /// Admits a request, or raises the alarm and refuses it.
    ///
    /// # Errors
    /// NoSpace.
    pub async fn admit(
        &self,
        node: &Node,
        request: &Request,
    ) -> Result<Option<Reservation>, NodeError> {
        let cost = match request {
            Request::Put(put) => cost::put_cost_bytes(put),
            Request::Txn(txn) => cost::txn_cost_bytes(txn),
            Request::LeaseGrant(_) => cost::LEASE_GRANT_COST_BYTES,
            _ => 0,
        };
        let quota = node.quota_bytes();
        if cost == 0 || quota == 0 {
            return Ok(None);
        }
        let (reservation, before) = Reservation::new(&self.in_flight, cost);
        let reader = node.reader();
        // What is free within the size is taken first.
        let size = reader.db_size_bytes().max(reader.in_use_bytes() + before);
        if size + cost < quota {
            return Ok(Some(reservation));
        }
        drop(reservation);
        if !node.alarm_stands(AlarmType::Nospace) {
            tracing::warn!(
                "quota-size-bytes" = quota,
                "db-size-bytes" = node.reader().db_size_bytes(),
                "quota exceeded, raising alarm NOSPACE"
            );
            let alarm = AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id: node.status().member_id(),
                alarm: AlarmType::Nospace.into(),
            };
            node.propose_unchecked(Request::Alarm(alarm)).await?;
        }
        Err(Error::NoSpace.into())
    }
}
