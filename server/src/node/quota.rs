//! The space quota, checked before a proposal (contract 2.6, store-notes 7).
//!
//! dbSize is local, so apply never looks at it: the member that receives a request checks
//! `dbSize + what its proposals in flight cost + cost`, raises NOSPACE through the log, waits until
//! the alarm is applied, and refuses. Nothing is stored for a request that is told NoSpace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use keelson_proto::keelsonpb::command::Request;
use keelson_state::quota as cost;

use super::Node;
use super::error::NodeError;

/// What proposals in flight cost.
#[derive(Debug, Default)]
pub struct Quota {
    in_flight: Arc<AtomicU64>,
}

/// The cost of one proposal, given back when it ends.
#[derive(Debug)]
pub struct Reservation {
    in_flight: Arc<AtomicU64>,
    cost: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

impl Quota {
    /// Admits a request, or raises the alarm and refuses it.
    ///
    /// # Errors
    /// NoSpace.
    pub async fn admit(&self, node: &Node, request: &Request) -> Result<Reservation, NodeError> {
        let cost = match request {
            Request::Put(put) => cost::put_cost_bytes(put),
            Request::Txn(txn) => cost::txn_cost_bytes(txn),
            Request::LeaseGrant(_) => cost::LEASE_GRANT_COST_BYTES,
            _ => 0,
        };
        let before = self.in_flight.fetch_add(cost, Ordering::Relaxed);
        let reservation = Reservation {
            in_flight: Arc::clone(&self.in_flight),
            cost,
        };
        let quota = node.quota_bytes();
        if cost == 0 || quota == 0 {
            return Ok(reservation);
        }
        if node.reader().db_size_bytes() + before + cost < quota {
            return Ok(reservation);
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
