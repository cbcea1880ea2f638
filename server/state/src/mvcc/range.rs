//! A range at a revision (contract 2.2), in two steps.
//!
//! 1. [`plan`] works on the index alone: which records, in which order, how many there are. It
//!    never fails and never touches the disk, so apply may run it.
//! 2. [`Plan::fill`] turns revisions into bytes. Only an order by VALUE sorts here.
//!
//! A leaf at a time is locked; nothing is held across leaves.

use std::{cmp::Ordering, ops::ControlFlow};

use bytes::Bytes;
use keelson_proto::{
    error::Error,
    etcdserverpb::{
        RangeRequest, ResponseHeader,
        range_request::{SortOrder, SortTarget},
    },
    key_range::KeyRange,
    raw,
};

use super::{
    index::{Found, IndexReader},
    record,
};
use crate::{error::ApplyError, revision::Revision};

/// A record of a reply: its bytes, or where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordRef {
    /// The bytes.
    Ready(Bytes),
    /// To be read from the store.
    At(Revision),
}

/// The bytes of records, in their order; `read` gets those that are not at hand, if there are any.
pub(crate) fn resolve(
    records: Vec<RecordRef>,
    read: impl FnOnce(&[Revision]) -> Result<Vec<Bytes>, ApplyError>,
) -> Result<Vec<Bytes>, ApplyError> {
    let wanted: Vec<Revision> = records
        .iter()
        .filter_map(|record| match record {
            RecordRef::At(revision) => Some(*revision),
            RecordRef::Ready(_) => None,
        })
        .collect();
    let read = if wanted.is_empty() {
        Vec::new()
    } else {
        read(&wanted)?
    };
    let mut read = read.into_iter();
    Ok(records
        .into_iter()
        .filter_map(|record| match record {
            RecordRef::Ready(bytes) => Some(bytes),
            RecordRef::At(_) => read.next(),
        })
        .collect())
}

/// What a range will reply, before its records are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Records in reply order, or to be sorted by value.
    pub records: Vec<RecordRef>,
    count: i64,
    more: bool,
    by_value: Option<ByValue>,
}

/// What remains to be done once values are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ByValue {
    order: SortOrder,
    limit: usize,
    keys_only: bool,
}

struct Item {
    found: Found,
    /// The reply of a keys_only range, made from the index.
    keys_only: Option<Bytes>,
}

/// Checks what the index cannot know.
///
/// # Errors
/// InvalidSortOption for an order or target that does not exist.
pub fn check_sort(request: &RangeRequest) -> Result<(), Error> {
    let order = SortOrder::try_from(request.sort_order);
    let target = SortTarget::try_from(request.sort_target);
    match (order, target) {
        (Ok(_), Ok(_)) => Ok(()),
        _ => Err(Error::InvalidSortOption),
    }
}

/// Finds a range's records as of the end of main revision `at`.
#[must_use]
pub fn plan(index: &IndexReader, request: &RangeRequest, at: i64) -> Plan {
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let limit = match usize::try_from(request.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    };
    if request.count_only {
        return Plan {
            count: count(index, &range, at),
            ..Plan::default()
        };
    }
    let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let natural =
        order == SortOrder::None || (order == SortOrder::Ascend && target == SortTarget::Key);
    let fetch_all = !natural || has_filters(request);
    let fetch = if fetch_all {
        usize::MAX
    } else {
        limit.saturating_add(1)
    };

    let made_from_index = request.keys_only && target != SortTarget::Value;
    let mut items = collect(index, &range, at, fetch, made_from_index);
    let count = if items.len() < fetch {
        items.len() as i64
    } else {
        count(index, &range, at)
    };
    items.retain(|item| passes_filters(request, &item.found));

    let by_value = target == SortTarget::Value;
    if !by_value {
        sort(&mut items, order, target);
    }
    let more = items.len() > limit;
    if !by_value {
        items.truncate(limit);
    }
    Plan {
        records: items
            .into_iter()
            .map(|item| match item.keys_only {
                Some(record) => RecordRef::Ready(record),
                None => RecordRef::At(item.found.revision),
            })
            .collect(),
        count,
        more,
        by_value: by_value.then_some(ByValue {
            order,
            limit,
            keys_only: request.keys_only,
        }),
    }
}

impl Plan {
    /// The reply, from the bytes of [`records`](Self::records) in their order.
    ///
    /// # Errors
    /// Damaged, if values are needed and a record has no form.
    pub fn fill(self, bytes: Vec<Bytes>, revision: i64) -> Result<raw::RangeResponse, ApplyError> {
        let mut kvs = bytes;
        if let Some(by_value) = self.by_value {
            kvs = by_value.finish(kvs)?;
        }
        Ok(raw::RangeResponse {
            header: header(revision),
            kvs,
            more: self.more,
            count: self.count,
        })
    }
}

impl ByValue {
    fn finish(self, records: Vec<Bytes>) -> Result<Vec<Bytes>, ApplyError> {
        // Values are checked first, so that the comparison cannot fail.
        for one in &records {
            record::value(one)?;
        }
        let value = |one: &Bytes| record::value(one).map(<[u8]>::to_vec).unwrap_or_default();
        let mut sorted = records;
        sorted.sort_by_cached_key(value);
        if self.order == SortOrder::Descend {
            sorted.reverse();
        }
        sorted.truncate(self.limit);
        if self.keys_only {
            return sorted.iter().map(record::without_value).collect();
        }
        Ok(sorted)
    }
}

/// A header with the revision only; the API layer fills the rest.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// Keys of a range that live at the end of main revision `at`.
#[must_use]
pub fn count(index: &IndexReader, range: &KeyRange, at: i64) -> i64 {
    let count = match range {
        KeyRange::Single(key) => u64::from(index.get(key, at).is_some()),
        _ => index.count(range.start(), range.end().as_deref(), at),
    };
    count.cast_signed()
}

fn collect(
    index: &IndexReader,
    range: &KeyRange,
    at: i64,
    fetch: usize,
    made_from_index: bool,
) -> Vec<Item> {
    let mut items = Vec::new();
    let mut take = |key: &[u8], found: Found| {
        let keys_only = made_from_index.then(|| keys_only_record(key, &found));
        items.push(Item { found, keys_only });
        if items.len() == fetch {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    match range {
        KeyRange::Single(key) => {
            if let Some(found) = index.get(key, at) {
                let _ = take(key, found);
            }
        }
        _ => index.range(range.start(), range.end().as_deref(), at, take),
    }
    items
}

/// The reply of a keys_only range: no value, no lease (contract 2.2).
pub(super) fn keys_only_record(key: &[u8], found: &Found) -> Bytes {
    let fields = record::Fields {
        key,
        create_revision: found.create_revision,
        mod_revision: found.revision.main,
        version: found.version,
        ..record::Fields::default()
    };
    fields.encode()
}

/// Whether a request filters by revision.
#[must_use]
pub fn has_filters(request: &RangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|bound| *bound != 0)
}

fn passes_filters(request: &RangeRequest, found: &Found) -> bool {
    let within =
        |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(
        found.revision.main,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        found.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

/// Sorts by anything but the value. NONE with a target other than KEY sorts ascending.
fn sort(items: &mut [Item], order: SortOrder, target: SortTarget) {
    let by: fn(&Found) -> i64 = match target {
        SortTarget::Key | SortTarget::Value => {
            if order == SortOrder::Descend {
                items.reverse();
            }
            return;
        }
        SortTarget::Version => |found| found.version,
        SortTarget::Create => |found| found.create_revision,
        SortTarget::Mod => |found| found.revision.main,
    };
    items.sort_by(|a, b| match by(&a.found).cmp(&by(&b.found)) {
        ordering if order == SortOrder::Descend => Ordering::reverse(ordering),
        ordering => ordering,
    });
}
