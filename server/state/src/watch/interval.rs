//! Which of many key ranges contain a key.
//!
//! Ranges lie in an array sorted by start; over it stands an implicit binary tree whose nodes know
//! the largest end below them, so a lookup visits O(log n + hits) ranges. New ranges go to a short
//! list that is looked through one by one, and into the array when it grows: registering many
//! watchers costs amortised O(log n) each.

use std::collections::HashMap;

use bytes::Bytes;

/// `[start, end)`; no end means open-ended.
type Range = (Bytes, Option<Bytes>);

/// Ranges outside the tree before it is built anew: this, or a fraction of the tree.
const RECENT_MIN: usize = 32;

/// Sets of values by key range.
#[derive(Debug)]
pub struct RangeMap<V> {
    sets: HashMap<Range, Vec<V>>,
    /// Sorted by start. Ranges whose set has become empty stay until the next build.
    tree: Vec<Node>,
    recent: Vec<Range>,
    stale: usize,
}

#[derive(Debug)]
struct Node {
    range: Range,
    /// The largest end in this node's subtree.
    end_max: Option<Bytes>,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self {
            sets: HashMap::new(),
            tree: Vec::new(),
            recent: Vec::new(),
            stale: 0,
        }
    }
}

impl<V: PartialEq> RangeMap<V> {
    /// Adds a value to a range's set.
    pub fn insert(&mut self, start: Bytes, end: Option<Bytes>, value: V) {
        let range = (start, end);
        if let Some(set) = self.sets.get_mut(&range) {
            // An emptied set still has its place in the tree or the list.
            self.stale -= usize::from(set.is_empty());
            set.push(value);
            return;
        }
        self.sets.insert(range.clone(), vec![value]);
        self.recent.push(range);
        if self.recent.len() > RECENT_MIN.max(self.tree.len() / 8) {
            self.build();
        }
    }

    /// Removes a value from a range's set.
    pub fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, value: &V) {
        let range = (start.clone(), end.cloned());
        let Some(set) = self.sets.get_mut(&range) else {
            return;
        };
        let before = set.len();
        set.retain(|other| other != value);
        if set.is_empty() && before > 0 {
            self.stale += 1;
            if self.stale > RECENT_MIN.max(self.tree.len() / 2) {
                self.build();
            }
        }
    }

    /// Calls `hit` for each value whose range contains the key.
    pub fn for_each_containing(&self, key: &[u8], mut hit: impl FnMut(&V)) {
        let mut visit = |range: &Range| {
            for value in self.sets.get(range).into_iter().flatten() {
                hit(value);
            }
        };
        for range in self.recent.iter().filter(|range| contains(range, key)) {
            visit(range);
        }
        visit_tree(&self.tree, key, &mut visit);
    }

    fn build(&mut self) {
        self.sets.retain(|_, set| !set.is_empty());
        let mut ranges: Vec<Range> = self.sets.keys().cloned().collect();
        ranges.sort_unstable();
        self.tree = ranges
            .into_iter()
            .map(|range| Node {
                end_max: range.1.clone(),
                range,
            })
            .collect();
        set_end_max(&mut self.tree);
        self.recent.clear();
        self.stale = 0;
    }
}

fn contains((start, end): &Range, key: &[u8]) -> bool {
    start.as_ref() <= key && end.as_ref().is_none_or(|end| key < end.as_ref())
}

/// The middle node is the root; what is left and right of it are its subtrees.
fn set_end_max(nodes: &mut [Node]) -> Option<Option<Bytes>> {
    let middle = nodes.len() / 2;
    let (left, rest) = nodes.split_at_mut(middle);
    let (root, right) = rest.split_first_mut()?;
    for below in [set_end_max(left), set_end_max(right)]
        .into_iter()
        .flatten()
    {
        root.end_max = later_end(root.end_max.take(), below);
    }
    Some(root.end_max.clone())
}

fn later_end(a: Option<Bytes>, b: Option<Bytes>) -> Option<Bytes> {
    Some(a?.max(b?))
}

fn visit_tree(nodes: &[Node], key: &[u8], visit: &mut impl FnMut(&Range)) {
    let (left, rest) = nodes.split_at(nodes.len() / 2);
    let Some((root, right)) = rest.split_first() else {
        return;
    };
    if root.end_max.as_ref().is_some_and(|end| end.as_ref() <= key) {
        return;
    }
    visit_tree(left, key, visit);
    if root.range.0.as_ref() <= key {
        if contains(&root.range, key) {
            visit(&root.range);
        }
        visit_tree(right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn finds_exactly_the_ranges_that_contain_the_key(
            ranges in prop::collection::vec((0u8..40, prop::option::of(0u8..40), any::<bool>()), 0..200),
            keys in prop::collection::vec(0u8..42, 1..20),
        ) {
            let mut map = RangeMap::default();
            let bytes = |b: u8| Bytes::copy_from_slice(&[b]);
            let mut model = Vec::new();
            for (value, (start, end, keep)) in ranges.into_iter().enumerate() {
                map.insert(bytes(start), end.map(bytes), value);
                model.push((start, end, value));
                if !keep {
                    map.remove(&bytes(start), end.map(bytes).as_ref(), &value);
                    model.pop();
                }
            }
            for key in keys {
                let mut found = Vec::new();
                map.for_each_containing(&[key], |value| found.push(*value));
                found.sort_unstable();
                let expected: Vec<usize> = model
                    .iter()
                    .filter(|(start, end, _)| *start <= key && end.is_none_or(|end| key < end))
                    .map(|(_, _, value)| *value)
                    .collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
