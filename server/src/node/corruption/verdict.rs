//! Who is the odd one out: pure functions over what members answered.

use std::collections::BTreeMap;

use keelson_state::mvcc::hash::KvHash;

/// Stands for the whole cluster where nobody can say who is right (contract 4.3).
pub const NOBODY: u64 = 0;

/// A member and the hash it gave, if it did.
pub type Answer = (u64, Option<KvHash>);

/// What follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No two members that can be compared differ.
    Agreement {
        /// Peers compared with.
        compared: usize,
    },
    /// These hold other data than a majority, or [`NOBODY`] if there is none that agrees.
    Odd(Vec<u64>),
}

/// Judges the hash of this member and its peers' answers. Those without a hash, or with one that is
/// relative to another compaction, cannot be compared; they count for the majority nevertheless.
#[must_use]
pub fn judge(local: u64, own: KvHash, peers: &[Answer]) -> Verdict {
    let mut camps: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(own.hash, vec![local])]);
    let mut compared = 0;
    for (id, hash) in peers {
        let Some(hash) = hash.filter(|hash| is_comparable(own, *hash)) else {
            continue;
        };
        compared += 1;
        camps.entry(hash.hash).or_default().push(*id);
    }
    if camps.len() == 1 {
        return Verdict::Agreement { compared };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let right = camps.iter().find(|(_, members)| members.len() >= quorum);
    match right.map(|(hash, _)| *hash) {
        Some(right) => {
            camps.remove(&right);
            Verdict::Odd(camps.into_values().flatten().collect())
        }
        None => Verdict::Odd(vec![NOBODY]),
    }
}

/// Whether two hashes cover the same.
#[must_use]
pub fn is_comparable(one: KvHash, other: KvHash) -> bool {
    (one.revision, one.compact_revision) == (other.revision, other.compact_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32) -> KvHash {
        KvHash {
            hash,
            revision: 9,
            compact_revision: 3,
        }
    }

    fn of(own: u32, peers: &[Option<u32>]) -> Verdict {
        let peers: Vec<Answer> = (2..).zip(peers.iter().map(|one| one.map(hash))).collect();
        judge(1, hash(own), &peers)
    }

    #[test]
    fn the_minority_is_odd_whoever_asks() {
        assert_eq!(of(5, &[Some(5), Some(6)]), Verdict::Odd(vec![3]));
        assert_eq!(of(6, &[Some(5), Some(5)]), Verdict::Odd(vec![1]));
        let two_of_five = of(5, &[Some(6), Some(5), Some(7), Some(5)]);
        assert_eq!(two_of_five, Verdict::Odd(vec![2, 4]));
    }

    #[test]
    fn without_a_majority_nobody_is_named() {
        assert_eq!(of(5, &[Some(6)]), Verdict::Odd(vec![NOBODY]));
        assert_eq!(of(5, &[Some(6), None]), Verdict::Odd(vec![NOBODY]));
        assert_eq!(of(5, &[Some(6), Some(7)]), Verdict::Odd(vec![NOBODY]));
        let even = of(5, &[Some(5), Some(6), Some(6)]);
        assert_eq!(even, Verdict::Odd(vec![NOBODY]));
    }

    #[test]
    fn what_cannot_be_compared_proves_nothing() {
        let other = KvHash {
            compact_revision: 4,
            ..hash(6)
        };
        let later = KvHash {
            revision: 10,
            ..hash(6)
        };
        let agreement = |compared| Verdict::Agreement { compared };
        let peers = [
            (2, Some(other)),
            (3, Some(later)),
            (4, None),
            (5, Some(hash(5))),
        ];
        assert_eq!(judge(1, hash(5), &peers), agreement(1));
        assert_eq!(of(5, &[]), agreement(0));
    }
}
