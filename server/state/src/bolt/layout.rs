//! Pass 1: where every page of a bucket will lie, from the lengths of its entries alone
//! (etcd-snapshot-file 2.1).
//!
//! Leaves are filled to the brim, one record larger than a page taking a page with overflow for
//! itself. Branch levels follow from the bottom. What is kept between the passes is each page's
//! number and first key: 33 bytes a leaf for etcd's records, less than 1 % of the file.

use super::page::{ELEMENT_BYTES, ELEMENTS_MAX, HEADER_BYTES};

/// The pages of one level of a tree: numbers and first keys, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level {
    keys: Vec<u8>,
    /// Where each page's first key ends in `keys`.
    key_ends: Vec<u64>,
    ids: Vec<u64>,
}

impl Level {
    fn push(&mut self, id: u64, first_key: &[u8]) {
        self.keys.extend_from_slice(first_key);
        self.key_ends.push(self.keys.len() as u64);
        self.ids.push(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Page numbers and first keys.
    pub(crate) fn children(&self) -> impl Iterator<Item = (u64, &[u8])> {
        (0..self.ids.len()).filter_map(|place| self.child(place))
    }

    /// Page number and first key of the page in a place.
    pub(crate) fn child(&self, place: usize) -> Option<(u64, &[u8])> {
        let end_before = place.checked_sub(1).map(|before| self.key_ends.get(before));
        let start = end_before.map_or(Some(0), |end| end.map(|end| *end as usize))?;
        let end = *self.key_ends.get(place)? as usize;
        Some((*self.ids.get(place)?, self.keys.get(start..end)?))
    }

    /// How many children each branch page above takes: at least two.
    fn groups(&self, page_size: usize) -> Vec<u32> {
        let mut groups: Vec<u32> = Vec::new();
        let (mut used, mut children) = (HEADER_BYTES, 0_u32);
        for (_, key) in self.children() {
            let bytes = ELEMENT_BYTES + key.len();
            let full = used + bytes > page_size || children as usize >= ELEMENTS_MAX - 1;
            if children >= 2 && full {
                groups.push(children);
                (used, children) = (HEADER_BYTES, 0);
            }
            used += bytes;
            children += 1;
        }
        groups.push(children);
        if let [.., before, last] = groups.as_mut_slice()
            && *last == 1
        {
            if *before >= 3 {
                (*before, *last) = (*before - 1, 2);
            } else {
                *before += 1;
                groups.pop();
            }
        }
        groups
    }
}

/// A branch level: the pages below, and how they are grouped.
#[derive(Clone, Debug)]
pub(crate) struct Branches {
    pub(crate) below: Level,
    pub(crate) groups: Vec<u32>,
    /// The number of the first branch page.
    pub(crate) first_id: u64,
}

/// Where all pages of a bucket lie.
#[derive(Clone, Debug)]
pub(crate) struct TreePlan {
    pub(crate) first_id: u64,
    /// From the bottom up.
    pub(crate) branches: Vec<Branches>,
    pub(crate) root: u64,
    /// The first page number behind the bucket.
    pub(crate) next_id: u64,
    /// Bytes of a leaf that holds everything, without padding.
    pub(crate) leaf_bytes: u64,
}

/// A leaf takes further pages while more than one part in so many would stay empty.
const WASTE_DIVISOR: usize = 16;
/// And while it has fewer pages than these: bbolt, which has such leaves too, copies a whole leaf to
/// change it.
const LEAF_PAGES_MAX: usize = 16;

/// Fills leaves by lengths. The writer of pass 2 closes them by the same rule.
#[derive(Clone, Debug)]
pub(crate) struct LeafFill {
    page_size: usize,
    used: usize,
    entries: usize,
}

impl LeafFill {
    pub(crate) fn new(page_size: usize) -> Self {
        Self {
            page_size,
            used: HEADER_BYTES,
            entries: 0,
        }
    }

    /// Whether an entry belongs to the next leaf. It does if it needs another page, unless too much
    /// of the last one would stay empty: records of a little more than a page would double the file.
    pub(crate) fn closes_before(&self, key: usize, value: usize) -> bool {
        let bytes = ELEMENT_BYTES + key + value;
        let taken = self.used.next_multiple_of(self.page_size);
        let is_wasteful =
            (taken - self.used) * WASTE_DIVISOR > taken && taken < LEAF_PAGES_MAX * self.page_size;
        self.entries > 0
            && (self.entries >= ELEMENTS_MAX || (self.used + bytes > taken && !is_wasteful))
    }

    pub(crate) fn add(&mut self, key: usize, value: usize) {
        self.used += ELEMENT_BYTES + key + value;
        self.entries += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Ends the leaf; gives its pages.
    pub(crate) fn close(&mut self) -> u64 {
        let pages = self.used.div_ceil(self.page_size) as u64;
        (self.used, self.entries) = (HEADER_BYTES, 0);
        pages
    }
}

/// Plans one bucket.
pub(crate) struct Planner {
    fill: LeafFill,
    first_id: u64,
    next_id: u64,
    leaves: Level,
    leaf_bytes: u64,
}

impl Planner {
    /// A bucket whose pages begin at `first_id`.
    pub(crate) fn new(page_size: usize, first_id: u64) -> Self {
        Self {
            fill: LeafFill::new(page_size),
            first_id,
            next_id: first_id,
            leaves: Level::default(),
            leaf_bytes: HEADER_BYTES as u64,
        }
    }

    /// Takes the next entry.
    pub(crate) fn add(&mut self, key: &[u8], value: usize) {
        if self.fill.closes_before(key.len(), value) {
            self.next_id += self.fill.close();
        }
        if self.fill.is_empty() {
            self.leaves.push(self.next_id, key);
        }
        self.fill.add(key.len(), value);
        self.leaf_bytes += (ELEMENT_BYTES + key.len() + value) as u64;
    }

    /// Lays out the branches above.
    pub(crate) fn finish(mut self) -> TreePlan {
        if self.fill.is_empty() && self.leaves.len() == 0 {
            self.leaves.push(self.next_id, &[]);
        }
        let page_size = self.fill.page_size;
        self.next_id += self.fill.close();
        let mut branches = Vec::new();
        let mut level = self.leaves;
        while level.len() > 1 {
            let groups = level.groups(page_size);
            let first_id = self.next_id;
            let mut above = Level::default();
            let mut children = level.children();
            for group in &groups {
                let mut bytes = HEADER_BYTES;
                let mut first = None;
                for (_, key) in children.by_ref().take(*group as usize) {
                    bytes += ELEMENT_BYTES + key.len();
                    first.get_or_insert(key);
                }
                above.push(self.next_id, first.unwrap_or_default());
                self.next_id += bytes.div_ceil(page_size) as u64;
            }
            drop(children);
            branches.push(Branches {
                below: level,
                groups,
                first_id,
            });
            level = above;
        }
        TreePlan {
            first_id: self.first_id,
            branches,
            root: level.ids.first().copied().unwrap_or(self.first_id),
            next_id: self.next_id,
            leaf_bytes: self.leaf_bytes,
        }
    }
}
