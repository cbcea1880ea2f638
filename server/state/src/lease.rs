//! The replicated part of leases: id, granted TTL, checkpointed remaining TTL, attached keys.
//!
//! Remaining time and expiry live on the leader only (design 8) and are not here. A key is
//! attached to lease L exactly if its newest record is a put with lease = L, whether or not L
//! exists (store-notes 8, L1), so attachments are never stored: they follow from the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::items;

/// The longest TTL that may be granted, in seconds (contract 2.8).
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;
/// Bytes of a lease's state item.
pub(crate) const LEASE_ITEM_BYTES: u64 = items::LEASE.len() as u64 + 8 + 16;

/// A lease as all members know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The lease's id, never 0.
    pub id: i64,
    /// TTL granted, in seconds.
    pub ttl_seconds: i64,
    /// Remaining TTL at the last checkpoint, in seconds; 0 if there was none.
    pub remaining_ttl_seconds: i64,
}

impl Lease {
    pub(crate) fn item(&self) -> (Bytes, Bytes) {
        let value = [
            self.ttl_seconds.to_be_bytes(),
            self.remaining_ttl_seconds.to_be_bytes(),
        ];
        (Self::item_key(self.id), value.concat().into())
    }

    pub(crate) fn item_key(id: i64) -> Bytes {
        items::with_id(items::LEASE, id.cast_unsigned())
    }

    pub(crate) fn from_item(key: &[u8], value: &[u8]) -> Option<Self> {
        let (ttl, remaining) = value.split_at_checked(8)?;
        Some(Self {
            id: items::id_of(items::LEASE, key)?.cast_signed(),
            ttl_seconds: i64::from_be_bytes(ttl.try_into().ok()?),
            remaining_ttl_seconds: i64::from_be_bytes(remaining.try_into().ok()?),
        })
    }
}

/// All leases and attachments.
#[derive(Debug, Default)]
pub struct Leases {
    leases: BTreeMap<i64, Lease>,
    attached: HashMap<i64, BTreeSet<Box<[u8]>>>,
}

impl Leases {
    /// A lease by id.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<Lease> {
        self.leases.get(&id).copied()
    }

    /// All leases, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Keys attached to a lease, in key order.
    pub fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.attached
            .get(&id)
            .into_iter()
            .flatten()
            .map(AsRef::as_ref)
    }

    pub(crate) fn insert(&mut self, lease: Lease) {
        self.leases.insert(lease.id, lease);
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Notes that `key`'s newest record moved from lease `before` to `after`; 0 is none.
    pub(crate) fn reattach(&mut self, key: &[u8], before: i64, after: i64) {
        if before == after {
            return;
        }
        if before != 0
            && let Some(keys) = self.attached.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.attached.remove(&before);
            }
        }
        if after != 0 {
            self.attached.entry(after).or_default().insert(key.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back() {
        for id in [1, i64::MAX, -5] {
            let lease = Lease {
                id,
                ttl_seconds: 60,
                remaining_ttl_seconds: 12,
            };
            let (key, value) = lease.item();
            assert_eq!(
                key.len() + value.len(),
                usize::try_from(LEASE_ITEM_BYTES).unwrap()
            );
            assert_eq!(Lease::from_item(&key, &value), Some(lease));
            assert_eq!(Lease::from_item(&key, &value[1..]), None);
        }
    }

    #[test]
    fn a_key_has_one_lease() {
        let mut leases = Leases::default();
        leases.reattach(b"k", 0, 7);
        leases.reattach(b"a", 0, 7);
        assert_eq!(leases.keys(7).collect::<Vec<_>>(), [b"a", b"k"]);
        leases.reattach(b"k", 7, 8);
        leases.reattach(b"a", 7, 0);
        assert_eq!(leases.keys(7).count(), 0);
        assert_eq!(leases.keys(8).collect::<Vec<_>>(), [b"k"]);
        assert!(leases.attached.len() == 1);
    }
}
