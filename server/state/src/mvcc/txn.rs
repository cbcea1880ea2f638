//! Transactions before their first change: compares, the path taken, checks (contract 2.5).
//!
//! The path, nested transactions included, is decided on the state before the transaction. Then
//! everything that can fail is checked along that path; after that nothing may fail.

use std::{cmp::Ordering, ops::ControlFlow};

use keelson_proto::{
    error::Error,
    etcdserverpb::{
        Compare, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request as Operation,
    },
    key_range::KeyRange,
};

use super::{
    index::{Found, IndexReader},
    range, record,
    shared::Revisions,
};
use crate::{error::ApplyError, lease::Leases, store::StoreReader};

/// Whether a transaction holds ranges only, so that it needs no log entry (contract 2.5).
#[must_use]
pub fn is_read_only(txn: &TxnRequest) -> bool {
    let is_range =
        |operation: &RequestOp| matches!(operation.request, Some(Operation::RequestRange(_)));
    txn.success.iter().chain(&txn.failure).all(is_range)
}

/// What a transaction is decided and checked on.
pub(crate) struct State<'a> {
    pub(crate) index: &'a IndexReader,
    pub(crate) store: &'a StoreReader,
    pub(crate) revisions: Revisions,
}

/// Which branches are taken, for the transaction and those nested in its path, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    succeeded: Vec<bool>,
    next: usize,
}

impl Path {
    /// The decision for the next transaction met on the path.
    pub(crate) fn take(&mut self) -> bool {
        let succeeded = self.succeeded.get(self.next).copied().unwrap_or(false);
        self.next += 1;
        succeeded
    }

    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }
}

/// The operations of the branch taken.
pub(crate) fn branch(txn: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

/// Decides the path.
pub(crate) fn decide(state: &State<'_>, txn: &TxnRequest) -> Result<Path, ApplyError> {
    let mut path = Path::default();
    decide_nested(state, txn, &mut path)?;
    Ok(path)
}

fn decide_nested(state: &State<'_>, txn: &TxnRequest, path: &mut Path) -> Result<(), ApplyError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(state, compare)? {
            succeeded = false;
            break;
        }
    }
    path.succeeded.push(succeeded);
    for operation in branch(txn, succeeded) {
        if let Some(Operation::RequestTxn(nested)) = &operation.request {
            decide_nested(state, nested, path)?;
        }
    }
    Ok(())
}

/// Whether a compare holds for every key of its range. Apply reads the disk for VALUE only; a read
/// does so too for the lease of a revision that a newer one has replaced meanwhile.
fn holds(state: &State<'_>, compare: &Compare) -> Result<bool, ApplyError> {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let by_value = compare.target == CompareTarget::Value as i32;
    let by_lease = compare.target == CompareTarget::Lease as i32;
    let at = state.revisions.current;
    let mut any = false;
    let mut all = true;
    let mut records = Vec::new();
    let mut see = |found: Found| {
        any = true;
        match found.lease {
            _ if by_value => records.push(found.revision),
            None if by_lease => records.push(found.revision),
            _ => all = satisfies(compare, integer(compare, Some(&found))),
        }
        if all {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    match &range {
        KeyRange::Single(key) => {
            if let Some(found) = state.index.get(key, at) {
                let _ = see(found);
            }
        }
        _ => state
            .index
            .range(range.start(), range.end().as_deref(), at, |_, found| {
                see(found)
            }),
    }
    if !any {
        // A missing key has no value, not even an empty one.
        return Ok(!by_value && satisfies(compare, integer(compare, None)));
    }
    for revision in records {
        let bytes = state.store.read(revision)?;
        let ordering = if by_value {
            record::value(&bytes)?.cmp(wanted_value(compare))
        } else {
            record::lease(&bytes)?.cmp(&wanted_integer(compare))
        };
        if !satisfies(compare, ordering) {
            return Ok(false);
        }
    }
    Ok(all)
}

fn integer(compare: &Compare, found: Option<&Found>) -> Ordering {
    let has = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => found.map_or(0, |found| found.version),
        Ok(CompareTarget::Create) => found.map_or(0, |found| found.create_revision),
        Ok(CompareTarget::Mod) => found.map_or(0, |found| found.revision.main),
        Ok(CompareTarget::Lease) => found.and_then(|found| found.lease).unwrap_or(0),
        // An unknown target compares equal, as in etcd.
        Ok(CompareTarget::Value) | Err(_) => return Ordering::Equal,
    };
    has.cmp(&wanted_integer(compare))
}

/// The integer to compare with; 0 if the target's own field is not the one set.
fn wanted_integer(compare: &Compare) -> i64 {
    match (
        CompareTarget::try_from(compare.target),
        &compare.target_union,
    ) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(wanted)))
        | (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(wanted)))
        | (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(wanted)))
        | (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(wanted))) => *wanted,
        _ => 0,
    }
}

fn wanted_value(compare: &Compare) -> &[u8] {
    match &compare.target_union {
        Some(TargetUnion::Value(wanted)) => wanted,
        _ => &[],
    }
}

fn satisfies(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // An unknown operator holds, as in etcd.
        Err(_) => true,
    }
}

/// Checks everything along the path that could fail.
pub(crate) fn check(
    state: &State<'_>,
    leases: &Leases,
    txn: &TxnRequest,
    path: &mut Path,
) -> Result<(), Error> {
    let mut deleted = Vec::new();
    let checked = check_nested(state, leases, txn, path, &mut deleted);
    path.rewind();
    checked
}

fn check_nested(
    state: &State<'_>,
    leases: &Leases,
    txn: &TxnRequest,
    path: &mut Path,
    deleted: &mut Vec<KeyRange>,
) -> Result<(), Error> {
    let succeeded = path.take();
    for operation in branch(txn, succeeded) {
        match &operation.request {
            Some(Operation::RequestRange(range)) => check_range(range, state.revisions)?,
            Some(Operation::RequestPut(put)) => {
                // A key that this transaction deletes first is missing when the put runs.
                let gone = deleted.iter().any(|range| range.contains(&put.key));
                check_put(state, leases, put, gone)?;
            }
            Some(Operation::RequestDeleteRange(delete)) => {
                require_key(&delete.key)?;
                deleted.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
            }
            Some(Operation::RequestTxn(nested)) => {
                check_nested(state, leases, nested, path, deleted)?;
            }
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// The revision rules of a range inside a transaction: unlike a unary range's, −1 is refused once
/// there was a compaction (contract 2.5).
pub(crate) fn check_range(request: &RangeRequest, revisions: Revisions) -> Result<(), Error> {
    require_key(&request.key)?;
    range::check_sort(request)?;
    match request.revision {
        0 => Ok(()),
        revision if revision > revisions.current => Err(Error::FutureRev),
        revision if revision < revisions.compact => Err(Error::Compacted),
        _ => Ok(()),
    }
}

/// What a put needs: its lease, and its key if it keeps value or lease.
pub(crate) fn check_put(
    state: &State<'_>,
    leases: &Leases,
    put: &PutRequest,
    gone: bool,
) -> Result<(), Error> {
    require_key(&put.key)?;
    if (put.ignore_value || put.ignore_lease)
        && (gone || state.index.get(&put.key, state.revisions.current).is_none())
    {
        return Err(Error::KeyNotFound);
    }
    if put.lease != 0 && !put.ignore_lease && leases.get(put.lease).is_none() {
        return Err(Error::LeaseNotFound);
    }
    Ok(())
}

pub(crate) fn require_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    Ok(())
}
