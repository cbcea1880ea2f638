//! Pass 2: the bytes of a file, pulled piece by piece (etcd-snapshot-file 2.2, 2.3).
//!
//! ```text
//! meta 0 │ meta 1 │ per bucket: leaves, then branches from the bottom up │ root leaf     │ SHA-256
//! ```
//!
//! In memory are one leaf, one piece and the plans of pass 1. The entries of a bucket are visited
//! twice, first for their lengths, then for their bytes; both visits must show the same.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::layout::{Branches, LeafFill, Planner, TreePlan};
use super::page::{
    BRANCH, BUCKET, BUCKET_HEADER_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, KEY_BYTES_MAX, LEAF,
    Meta, NO_FREELIST, PAGE_BYTES, put_branch_element, put_leaf_element,
};
use crate::store::StoreError;

/// Bytes of a piece: what one message of Maintenance.Snapshot carries (contract 2.10).
pub const PIECE_BYTES: usize = 32 << 10;
/// Bytes of an allocation that pieces are cut from.
const BUFFER_BYTES: usize = 8 * PIECE_BYTES;
/// Allocations that are kept for when their pieces have been sent. Memory that is new each time
/// costs page faults, which is more than filling it.
const BUFFERS_KEPT: usize = 8;
/// The transaction that the file seems to have been written by.
const TXID: u64 = 2;

/// What a bucket holds. Keys ascend strictly and have 1 to 32,768 bytes.
pub trait Entries: Send {
    /// Shows key and value length of each entry, in order.
    fn lengths(&self, visit: &mut dyn FnMut(&[u8], usize));

    /// The entries themselves: the same ones, in the same order.
    fn entries(&self) -> Box<dyn EntryCursor>;

    /// Whether a small bucket may lie within its entry, without a page of its own.
    fn may_be_inline(&self) -> bool {
        true
    }
}

/// Walks a bucket's entries.
pub trait EntryCursor: Send {
    /// The next entry: its key, in place of what `key` held, and its value.
    ///
    /// # Errors
    /// The store's.
    fn next(&mut self, key: &mut Vec<u8>) -> Result<Option<Bytes>, StoreError>;
}

/// A bucket whose entries are in memory.
#[derive(Clone, Debug, Default)]
pub struct SmallBucket {
    entries: std::collections::BTreeMap<Bytes, Bytes>,
}

impl SmallBucket {
    /// Sets an entry.
    pub fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.entries.insert(key.into(), value.into());
    }
}

impl Entries for SmallBucket {
    fn lengths(&self, visit: &mut dyn FnMut(&[u8], usize)) {
        for (key, value) in &self.entries {
            visit(key, value.len());
        }
    }

    fn entries(&self) -> Box<dyn EntryCursor> {
        Box::new(SmallCursor(self.entries.clone().into_iter()))
    }
}

struct SmallCursor(std::collections::btree_map::IntoIter<Bytes, Bytes>);

impl EntryCursor for SmallCursor {
    fn next(&mut self, key: &mut Vec<u8>) -> Result<Option<Bytes>, StoreError> {
        let Some((name, value)) = self.0.next() else {
            return Ok(None);
        };
        key.clear();
        key.extend_from_slice(&name);
        Ok(Some(value))
    }
}

struct Planned {
    entries: Box<dyn Entries>,
    plan: TreePlan,
}

/// Gives a file's bytes, in order.
pub struct FileWriter {
    page_size: usize,
    /// Buckets with pages of their own that have yet to be written, the next one last.
    buckets: Vec<Planned>,
    root_leaf: BytesMut,
    pages: u64,
    tree: Option<Tree>,
    /// Bytes ready to go out.
    out: BytesMut,
    /// What earlier pieces were cut from, the oldest first.
    used: VecDeque<BytesMut>,
    made_bytes: u64,
    hash: Sha256,
    done: bool,
}

impl FileWriter {
    /// Plans a file of these buckets, given in the order of their names.
    ///
    /// # Errors
    /// When a key is longer than the format allows, or the store cannot be read.
    pub fn new(buckets: Vec<(&'static str, Box<dyn Entries>)>) -> Result<Self, StoreError> {
        Self::with_page_size(buckets, PAGE_BYTES)
    }

    pub(crate) fn with_page_size(
        buckets: Vec<(&'static str, Box<dyn Entries>)>,
        page_size: usize,
    ) -> Result<Self, StoreError> {
        let mut next_id = 2;
        let mut root = Leaf::default();
        let mut planned = Vec::new();
        for (name, entries) in buckets {
            let mut planner = Planner::new(page_size, next_id);
            let mut too_long = None;
            entries.lengths(&mut |key, value| {
                if key.is_empty() || key.len() > KEY_BYTES_MAX {
                    too_long = Some(key.len());
                }
                planner.add(key, value);
            });
            if let Some(len) = too_long {
                let detail = format!("a key of {len} bytes does not fit into a snapshot file");
                return Err(StoreError::Refused(detail));
            }
            let plan = planner.finish();
            // bbolt keeps small buckets within their entry.
            if entries.may_be_inline() && plan.leaf_bytes <= page_size as u64 / 4 {
                let value = inline(&*entries)?;
                root.push(BUCKET, name.as_bytes(), value);
            } else {
                let value = [plan.root.to_le_bytes(), [0; 8]].concat();
                root.push(BUCKET, name.as_bytes(), value.into());
                next_id = plan.next_id;
                planned.push(Planned { entries, plan });
            }
        }
        let mut root_leaf = BytesMut::new();
        let root_pages = root.close(next_id, page_size, &mut root_leaf);
        let pages = next_id + root_pages;
        planned.reverse();
        let mut writer = Self {
            page_size,
            buckets: planned,
            root_leaf,
            pages,
            tree: None,
            out: BytesMut::with_capacity(BUFFER_BYTES),
            used: VecDeque::with_capacity(BUFFERS_KEPT),
            made_bytes: 0,
            hash: Sha256::new(),
            done: false,
        };
        for (id, txid) in [(0, TXID), (1, TXID - 1)] {
            let meta = Meta {
                page_size: page_size as u32,
                root: next_id,
                freelist: NO_FREELIST,
                pages,
                txid,
            };
            meta.put(id, &mut writer.out);
        }
        writer.made_bytes = writer.out.len() as u64;
        Ok(writer)
    }

    /// Bytes of the whole file, without the hash at the end.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.pages * self.page_size as u64
    }

    /// The next piece: [`PIECE_BYTES`], the last one fewer; `None` at the end.
    ///
    /// # Errors
    /// The store's, and when the entries were not what pass 1 saw.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.out.len() < PIECE_BYTES && !self.done {
            self.make_room();
            let before = self.out.len();
            self.make_page()?;
            self.made_bytes += (self.out.len() - before) as u64;
        }
        let len = self.out.len().min(PIECE_BYTES);
        if len == 0 {
            return Ok(None);
        }
        let piece = self.out.split_to(len).freeze();
        self.hash.update(&piece);
        Ok(Some(piece))
    }

    /// SHA-256 of all pieces given so far: the file's last 32 bytes when all were.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Goes over to another buffer when this one is full.
    fn make_room(&mut self) {
        if self.out.capacity() - self.out.len() >= PIECE_BYTES {
            return;
        }
        let oldest = self.used.front_mut();
        let mut next = match oldest.is_some_and(|oldest| oldest.try_reclaim(BUFFER_BYTES)) {
            true => self.used.pop_front().unwrap_or_default(),
            false => BytesMut::with_capacity(BUFFER_BYTES),
        };
        next.extend_from_slice(&self.out);
        self.out.clear();
        let full = std::mem::replace(&mut self.out, next);
        if self.used.len() < BUFFERS_KEPT {
            self.used.push_back(full);
        }
    }

    fn make_page(&mut self) -> Result<(), StoreError> {
        let written = self.made_bytes / self.page_size as u64;
        if let Some(tree) = &mut self.tree {
            if !tree.put_page(written, self.page_size, &mut self.out)? {
                self.tree = None;
            }
            return Ok(());
        }
        if let Some(Planned { entries, plan }) = self.buckets.pop() {
            if plan.first_id != written {
                return Err(changed());
            }
            self.tree = Some(Tree::new(entries.entries(), plan, self.page_size));
            return Ok(());
        }
        let root_leaf = std::mem::take(&mut self.root_leaf);
        self.out.extend_from_slice(&root_leaf);
        self.done = true;
        if self.made_bytes + root_leaf.len() as u64 != self.total_bytes() {
            return Err(changed());
        }
        Ok(())
    }
}

fn changed() -> StoreError {
    StoreError::Refused("the entries of a snapshot file changed while it was written".into())
}

/// The value of a small bucket's entry: no root page, sequence 0, then the leaf itself.
fn inline(entries: &dyn Entries) -> Result<Bytes, StoreError> {
    let mut leaf = Leaf::default();
    let mut cursor = entries.entries();
    let mut key = Vec::new();
    while let Some(value) = cursor.next(&mut key)? {
        leaf.push(0, &key, value);
    }
    let mut value = BytesMut::zeroed(BUCKET_HEADER_BYTES);
    leaf.put(0, 0, &mut value);
    Ok(value.freeze())
}

/// A leaf being filled. Values are copied once, to where they go out.
#[derive(Default)]
struct Leaf {
    /// Flags, length of the key, value.
    elements: Vec<(u32, usize, Bytes)>,
    keys: Vec<u8>,
    values_bytes: usize,
}

impl Leaf {
    fn push(&mut self, flags: u32, key: &[u8], value: Bytes) {
        self.values_bytes += value.len();
        self.elements.push((flags, key.len(), value));
        self.keys.extend_from_slice(key);
    }

    /// Writes the page `id`, padded, and empties the leaf; gives the number of pages.
    fn close(&mut self, id: u64, page_size: usize, out: &mut BytesMut) -> u64 {
        let start = out.len();
        let data = self.keys.len() + self.values_bytes;
        let bytes = HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + data;
        let pages = bytes.div_ceil(page_size);
        self.put(id, (pages - 1) as u32, out);
        out.resize(start + pages * page_size, 0);
        pages as u64
    }

    fn put(&mut self, id: u64, overflow: u32, out: &mut BytesMut) {
        let header = Header {
            id,
            flags: LEAF,
            count: self.elements.len() as u16,
            overflow,
        };
        header.put(out);
        let mut pos = ELEMENT_BYTES * self.elements.len();
        for (flags, key, value) in &self.elements {
            put_leaf_element(out, *flags, pos, *key, value.len());
            pos = pos + key + value.len() - ELEMENT_BYTES;
        }
        let mut keys = self.keys.as_slice();
        for (_, key, value) in self.elements.drain(..) {
            let (key, rest) = keys.split_at_checked(key).unwrap_or((keys, &[]));
            keys = rest;
            out.extend_from_slice(key);
            out.extend_from_slice(&value);
        }
        self.keys.clear();
        self.values_bytes = 0;
    }
}

/// A bucket's pages, one after the other.
struct Tree {
    cursor: Option<Box<dyn EntryCursor>>,
    plan: TreePlan,
    fill: LeafFill,
    leaf: Leaf,
    key: Vec<u8>,
    /// The entry that closed the leaf before.
    ahead: Option<Bytes>,
    any_leaf: bool,
    /// The branch level that is next, and the group in it.
    level: usize,
    group: usize,
    children_done: usize,
}

impl Tree {
    fn new(cursor: Box<dyn EntryCursor>, plan: TreePlan, page_size: usize) -> Self {
        Self {
            cursor: Some(cursor),
            plan,
            fill: LeafFill::new(page_size),
            leaf: Leaf::default(),
            key: Vec::new(),
            ahead: None,
            any_leaf: false,
            level: 0,
            group: 0,
            children_done: 0,
        }
    }

    /// Writes the next page, number `id`; false if there is none.
    fn put_page(
        &mut self,
        id: u64,
        page_size: usize,
        out: &mut BytesMut,
    ) -> Result<bool, StoreError> {
        if self.put_leaf(id, page_size, out)? {
            return Ok(true);
        }
        self.put_branch(id, page_size, out)
    }

    fn put_leaf(
        &mut self,
        id: u64,
        page_size: usize,
        out: &mut BytesMut,
    ) -> Result<bool, StoreError> {
        let Some(cursor) = &mut self.cursor else {
            return Ok(false);
        };
        loop {
            let value = match self.ahead.take() {
                Some(value) => Some(value),
                None => cursor.next(&mut self.key)?,
            };
            let Some(value) = value else {
                self.cursor = None;
                if self.fill.is_empty() && self.any_leaf {
                    return Ok(false);
                }
                break;
            };
            if self.fill.closes_before(self.key.len(), value.len()) {
                self.ahead = Some(value);
                break;
            }
            self.fill.add(self.key.len(), value.len());
            self.leaf.push(0, &self.key, value);
        }
        self.any_leaf = true;
        let planned = self.fill.close();
        if self.leaf.close(id, page_size, out) != planned {
            return Err(changed());
        }
        Ok(true)
    }

    fn put_branch(
        &mut self,
        id: u64,
        page_size: usize,
        out: &mut BytesMut,
    ) -> Result<bool, StoreError> {
        let Some(branches) = self.plan.branches.get(self.level) else {
            return Ok(false);
        };
        if self.group == 0 && branches.first_id != id {
            return Err(changed());
        }
        let children = branches.groups.get(self.group).copied().unwrap_or(0) as usize;
        put_branch_page(branches, self.children_done, children, id, page_size, out);
        self.children_done += children;
        self.group += 1;
        if self.group == branches.groups.len() {
            (self.level, self.group, self.children_done) = (self.level + 1, 0, 0);
        }
        Ok(true)
    }
}

fn put_branch_page(
    branches: &Branches,
    first: usize,
    children: usize,
    id: u64,
    page_size: usize,
    out: &mut BytesMut,
) {
    let start = out.len();
    let places = first..first + children;
    let children: Vec<_> = places
        .filter_map(|place| branches.below.child(place))
        .collect();
    let keys: usize = children.iter().map(|(_, key)| key.len()).sum();
    let bytes = HEADER_BYTES + children.len() * ELEMENT_BYTES + keys;
    let pages = bytes.div_ceil(page_size);
    let header = Header {
        id,
        flags: BRANCH,
        count: children.len() as u16,
        overflow: (pages - 1) as u32,
    };
    header.put(out);
    let mut pos = ELEMENT_BYTES * children.len();
    for (child, key) in &children {
        put_branch_element(out, pos, key.len(), *child);
        pos = pos + key.len() - ELEMENT_BYTES;
    }
    for (_, key) in &children {
        out.extend_from_slice(key);
    }
    out.resize(start + pages * page_size, 0);
}
