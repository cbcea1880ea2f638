//! What is checked of a request before anything else sees it (contract 2.2–2.5).
//!
//! Checks that need the state (leases, revisions, missing keys) happen in apply, on every member
//! alike.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request,
    request_op::Request,
};
use tonic::Status;

/// Transactions inside each other. Replicated, a request stands two messages deeper than it arrived;
/// what just decodes here would no longer decode in the log, and stop every member that applies it.
/// protobuf's limit is 100 messages, two a level.
const NESTING_MAX: usize = 40;

/// Checks a range.
///
/// # Errors
/// EmptyKey, InvalidSortOption.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if range_request::SortOrder::try_from(request.sort_order).is_err()
        || range_request::SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Checks a streamed range, after [`range`] (contract 2.3).
///
/// # Errors
/// Unimplemented for what a stream does not support.
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    let order = request.sort_order();
    let by_key = request.sort_target() == range_request::SortTarget::Key;
    let key_order = match order {
        range_request::SortOrder::None => true,
        range_request::SortOrder::Ascend => by_key,
        range_request::SortOrder::Descend => false,
    };
    if !key_order {
        return Err(Status::unimplemented(
            "RangeStream does not support custom sort orders",
        ));
    }
    if request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
    {
        return Err(Status::unimplemented(
            "RangeStream does not support revision filters",
        ));
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// EmptyKey, ValueProvided, LeaseProvided.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
///
/// # Errors
/// EmptyKey.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        Err(Error::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction: sizes, every operation at every depth, duplicate keys.
///
/// # Errors
/// TooManyOps, EmptyKey, KeyNotFound for an empty operation, DuplicateKey, and those of the
/// operations.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    operations(request, ops_max, NESTING_MAX)?;
    // The two branches exclude each other, so each is looked at alone.
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

fn operations(request: &TxnRequest, ops_max: usize, nesting_max: usize) -> Result<(), Error> {
    let largest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if largest > ops_max {
        return Err(Error::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            // A nested transaction gets what its parent leaves.
            Some(Request::RequestTxn(nested)) => {
                let nesting_max = nesting_max.checked_sub(1).ok_or(Error::TooManyOps)?;
                operations(nested, ops_max - largest, nesting_max)?;
            }
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted on the paths through a list of operations.
#[derive(Default)]
struct Intervals {
    puts: HashSet<Bytes>,
    /// Start to the largest exclusive end; `None` is a single key.
    deletes: Deletes,
}

/// Deleted ranges by start. Overlapping ones are merged, so that a lookup is one step.
#[derive(Default)]
struct Deletes {
    merged: BTreeMap<Bytes, Bytes>,
}

impl Deletes {
    /// Adds the range of a delete. A `range_end` of `\0` is not looked at, as in etcd (a quirk of
    /// contract 2.5): both the delete and a put of the key run, in order.
    fn add(&mut self, request: &DeleteRangeRequest) {
        let end = match request.range_end.as_ref() {
            [] => {
                let mut end = request.key.to_vec();
                end.push(0);
                Bytes::from(end)
            }
            end if end <= request.key.as_ref() => return,
            _ => request.range_end.clone(),
        };
        self.insert(request.key.clone(), end);
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        let before = self.merged.range(..=start.clone()).next_back();
        if let Some((first, last)) = before
            && *last >= start
        {
            end = end.max(last.clone());
            start = first.clone();
        }
        let swallowed: Vec<Bytes> = self
            .merged
            .range(start.clone()..=end.clone())
            .map(|(first, _)| first.clone())
            .collect();
        for first in swallowed {
            if let Some(last) = self.merged.remove(&first) {
                end = end.max(last);
            }
        }
        self.merged.insert(start, end);
    }

    fn contains(&self, key: &Bytes) -> bool {
        self.merged
            .range(..=key.clone())
            .next_back()
            .is_some_and(|(_, end)| key < end)
    }
}

/// Collects the puts and deletes of a list of operations, nested ones included, and refuses two puts
/// of a key, or a put inside a deleted range, on any one path.
fn intervals(operations: &[RequestOp]) -> Result<Intervals, Error> {
    let mut all = Intervals::default();
    for operation in operations {
        if let Some(Request::RequestDeleteRange(request)) = &operation.request {
            all.deletes.add(request);
        }
    }
    for operation in operations {
        let Some(Request::RequestTxn(nested)) = &operation.request else {
            continue;
        };
        let success = intervals(&nested.success)?;
        let failure = intervals(&nested.failure)?;
        let clashes = |branch: &Intervals| {
            branch
                .puts
                .iter()
                .any(|key| all.puts.contains(key) || all.deletes.contains(key))
                || all.puts.iter().any(|key| branch.deletes.contains(key))
        };
        if clashes(&success) || clashes(&failure) {
            return Err(Error::DuplicateKey);
        }
        for branch in [success, failure] {
            all.puts.extend(branch.puts);
            for (start, end) in branch.deletes.merged {
                all.deletes.insert(start, end);
            }
        }
    }
    for operation in operations {
        let Some(Request::RequestPut(request)) = &operation.request else {
            continue;
        };
        if all.deletes.contains(&request.key) || !all.puts.insert(request.key.clone()) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::Compare;

    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put_op(key: &'static [u8]) -> RequestOp {
        op(Request::RequestPut(PutRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    fn delete_op(key: &'static [u8], end: &'static [u8]) -> RequestOp {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv: false,
        }))
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest {
            compare: vec![],
            success,
            failure,
        }))
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Error> {
        txn(
            &TxnRequest {
                compare: vec![],
                success,
                failure: vec![],
            },
            128,
        )
    }

    #[test]
    fn duplicate_keys_are_refused_on_a_path_only() {
        assert_eq!(check(vec![put_op(b"a"), put_op(b"b")]), Ok(()));
        assert_eq!(
            check(vec![put_op(b"a"), put_op(b"a")]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(
            check(vec![delete_op(b"a", b"c"), put_op(b"b")]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(
            check(vec![put_op(b"a"), delete_op(b"a", b"")]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(check(vec![delete_op(b"a", b"b"), put_op(b"b")]), Ok(()));
        // Branches exclude each other, a parent does not exclude its child.
        assert_eq!(
            check(vec![txn_op(vec![put_op(b"a")], vec![put_op(b"a")])]),
            Ok(())
        );
        assert_eq!(
            check(vec![put_op(b"a"), txn_op(vec![], vec![put_op(b"a")])]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(
            check(vec![
                txn_op(vec![put_op(b"a")], vec![]),
                txn_op(vec![], vec![put_op(b"a")])
            ]),
            Err(Error::DuplicateKey)
        );
        assert_eq!(
            check(vec![
                txn_op(vec![put_op(b"b")], vec![]),
                txn_op(vec![delete_op(b"a", b"c")], vec![])
            ]),
            Err(Error::DuplicateKey)
        );
        // Deletes may overlap.
        assert_eq!(
            check(vec![delete_op(b"a", b"c"), delete_op(b"b", b"d")]),
            Ok(())
        );
    }

    #[test]
    fn merged_deletes_cover_what_each_covered() {
        let ops = |key| {
            vec![
                delete_op(b"a", b"c"),
                delete_op(b"b", b"f"),
                delete_op(b"h", b"k"),
                put_op(key),
            ]
        };
        assert_eq!(check(ops(b"e")), Err(Error::DuplicateKey));
        assert_eq!(check(ops(b"f")), Ok(()));
        assert_eq!(check(ops(b"j")), Err(Error::DuplicateKey));
    }

    #[test]
    fn delete_to_the_end_is_not_looked_at() {
        assert_eq!(check(vec![delete_op(b"a", b"\0"), put_op(b"a")]), Ok(()));
    }

    #[test]
    fn limits_and_empty_parts() {
        assert_eq!(check(vec![put_op(b"a"); 129]), Err(Error::TooManyOps));
        assert_eq!(
            check(vec![RequestOp { request: None }]),
            Err(Error::KeyNotFound)
        );
        assert_eq!(check(vec![put_op(b"")]), Err(Error::EmptyKey));
        let compare = vec![Compare::default()];
        let request = TxnRequest {
            compare,
            success: vec![],
            failure: vec![],
        };
        assert_eq!(txn(&request, 128), Err(Error::EmptyKey));
        // What the parent leaves: 128 - 1 for the child, none below 128 levels.
        let mut nested = txn_op(vec![], vec![]);
        for _ in 0..130 {
            nested = txn_op(vec![nested], vec![]);
        }
        assert_eq!(check(vec![nested]), Err(Error::TooManyOps));
    }

    #[test]
    fn the_deepest_transaction_decodes_in_the_log() {
        use prost::Message as _;

        use crate::raft::types::Batch;

        let nested = |depth| {
            let mut request = TxnRequest {
                compare: vec![],
                success: vec![put_op(b"a")],
                failure: vec![],
            };
            for _ in 0..depth {
                request = TxnRequest {
                    compare: vec![],
                    success: vec![op(Request::RequestTxn(request))],
                    failure: vec![],
                };
            }
            request
        };
        let replicates = |request| {
            let command = keelson_proto::keelsonpb::Command {
                request: Some(keelson_proto::keelsonpb::command::Request::Txn(request)),
                ..Default::default()
            };
            let batch = keelson_proto::keelsonpb::Batch {
                commands: vec![command],
            };
            Batch::from_encoded(batch.encode_to_vec().into())
                .take_commands()
                .is_ok()
        };
        assert_eq!(txn(&nested(NESTING_MAX), 128), Ok(()));
        assert!(replicates(nested(NESTING_MAX)));
        assert_eq!(txn(&nested(NESTING_MAX + 1), 128), Err(Error::TooManyOps));
        // Why there is a limit.
        assert!(TxnRequest::decode(nested(49).encode_to_vec().as_slice()).is_ok());
        assert!(!replicates(nested(49)));
    }

    #[test]
    fn sort_options_and_streams() {
        let request = RangeRequest {
            key: "a".into(),
            sort_target: 9,
            ..Default::default()
        };
        assert_eq!(range(&request), Err(Error::InvalidSortOption));
        let request = RangeRequest {
            key: "a".into(),
            sort_order: 2,
            ..Default::default()
        };
        let status = range_stream(&request).unwrap_err();
        assert_eq!(
            status.message(),
            "RangeStream does not support custom sort orders"
        );
        let request = RangeRequest {
            key: "a".into(),
            sort_target: 3,
            ..Default::default()
        };
        assert!(range_stream(&request).is_ok());
        let request = RangeRequest {
            key: "a".into(),
            max_mod_revision: 3,
            ..Default::default()
        };
        let status = range_stream(&request).unwrap_err();
        assert_eq!(
            status.message(),
            "RangeStream does not support revision filters"
        );
    }
}
