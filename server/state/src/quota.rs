//! The db size that counts against the quota, and what a request costs (store-notes 7).
//!
//! The size is logical: records in the index and state items, in pages, plus a base. It does not
//! tell how much disk is used, so it is the same before and after a rewrite. `db_size` is local
//! (a defragmentation lowers it on one member only), so apply never looks at it (design R4).

use keelson_proto::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, request_op::Request as Operation,
};

/// A page of etcd's backend.
const PAGE_BYTES: u64 = 4096;
/// Pages of an empty store, so that the size is never 0: clients divide by it (contract 2.6).
const BASE_PAGES: u64 = 5;
/// State items up to this size are within the base.
const STATE_BYTES_FREE: u64 = 4096;
/// What a put costs beside key and value (contract 2.6).
const PUT_OVERHEAD_BYTES: u64 = 256;
/// What granting a lease costs (contract 2.6).
pub const LEASE_GRANT_COST_BYTES: u64 = 64;

/// Size in use: all records in the index (by their cost) and all state items.
#[must_use]
pub fn in_use_bytes(record_cost_bytes: u64, state_bytes: u64) -> u64 {
    let records = record_cost_bytes.div_ceil(PAGE_BYTES);
    let state = state_bytes
        .saturating_sub(STATE_BYTES_FREE)
        .div_ceil(PAGE_BYTES);
    PAGE_BYTES * (BASE_PAGES + records + state)
}

/// What a put costs.
#[must_use]
pub fn put_cost_bytes(put: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64
}

/// What a transaction costs: its dearer branch, nested transactions included. 0 passes any quota.
#[must_use]
pub fn txn_cost_bytes(txn: &TxnRequest) -> u64 {
    let branch = |operations: &[RequestOp]| -> u64 {
        operations
            .iter()
            .map(|operation| match &operation.request {
                Some(Operation::RequestPut(put)) => put_cost_bytes(put),
                Some(Operation::RequestTxn(nested)) => txn_cost_bytes(nested),
                _ => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_has_five_pages() {
        assert_eq!(in_use_bytes(0, 0), 20_480);
        assert_eq!(in_use_bytes(1, 4096), 24_576);
        assert_eq!(in_use_bytes(4097, 4097), 4096 * 8);
    }

    #[test]
    fn pr_22139_nested_transactions_count() {
        let put = RequestOp {
            request: Some(Operation::RequestPut(PutRequest {
                key: "k".into(),
                value: "value".into(),
                ..Default::default()
            })),
        };
        let nest = |success, failure| RequestOp {
            request: Some(Operation::RequestTxn(TxnRequest {
                compare: vec![],
                success,
                failure,
            })),
        };
        let nested = nest(vec![], vec![put.clone(), nest(vec![put.clone()], vec![])]);
        let txn = TxnRequest {
            compare: vec![],
            success: vec![put],
            failure: vec![nested],
        };
        assert_eq!(txn_cost_bytes(&txn), 2 * 262);
        assert_eq!(txn_cost_bytes(&TxnRequest::default()), 0);
    }
}
