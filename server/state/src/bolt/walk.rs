//! The entries of a file from outside, in key order (etcd-snapshot-file 1.4, 1.6).
//!
//! - No page is visited twice, in one bucket or across them: that excludes cycles and shared
//!   subtrees, and bounds the work by the file's size.
//! - Keys ascend strictly over a whole bucket and stay within what the branches above say.
//! - Data of a page's elements do not overlap: a small file cannot pretend to be a large one.

use super::error::BoltError;
use super::page::{
    BRANCH, BUCKET, BUCKET_HEADER_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, KEY_BYTES_MAX, LEAF,
    u32_at, u64_at,
};
use super::reader::{BoltFile, Page};
use super::source::ReadAt;

/// Deepest tree: 2^32 pages need far fewer levels.
const DEPTH_MAX: usize = 32;
/// Buckets that a file may have: etcd has ten.
const BUCKETS_MAX: usize = 1024;

/// Gets the offset of the page, the key and the value of an entry.
pub type Visit<'a, E> = dyn FnMut(u64, &[u8], &[u8]) -> Result<(), E> + 'a;

/// A bucket of a file.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: Vec<u8>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Root(u64),
    Inline { leaf: Vec<u8>, offset: u64 },
}

impl Bucket {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// One walk through a file. Each bucket is visited at most once in it.
pub struct Walk<'a, R> {
    file: &'a BoltFile<R>,
    visited: Vec<u64>,
    buckets: Vec<Bucket>,
}

/// An element of a page, within the page's bytes.
struct Element<'a> {
    bucket: bool,
    key: &'a [u8],
    /// Of a leaf.
    value: &'a [u8],
    /// Of a branch.
    child: u64,
}

/// What bounds the keys of a subtree.
#[derive(Default)]
struct Order {
    last: Option<Vec<u8>>,
}

impl<'a, R: ReadAt> Walk<'a, R> {
    /// Begins a walk: reads the names of the buckets.
    ///
    /// # Errors
    /// Damage.
    pub fn new(file: &'a BoltFile<R>) -> Result<Self, BoltError> {
        let words = usize::try_from(file.pages().div_ceil(64)).unwrap_or(0);
        let mut walk = Self {
            file,
            visited: vec![0; words],
            buckets: Vec::new(),
        };
        let mut buckets = Vec::new();
        walk.tree(file.root(), &mut |offset, element| {
            if !element.bucket {
                return Err(file.damaged(offset, "the root holds an entry that is no bucket"));
            }
            if buckets.len() == BUCKETS_MAX {
                return Err(file.damaged(offset, "too many buckets"));
            }
            buckets.push(bucket(file, offset, element)?);
            Ok(())
        })?;
        walk.buckets = buckets;
        Ok(walk)
    }

    /// The buckets that have not been visited, by name.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Takes a bucket by name, to be visited.
    pub fn take(&mut self, name: &[u8]) -> Option<Bucket> {
        let place = self.buckets.iter().position(|bucket| bucket.name == name)?;
        Some(self.buckets.remove(place))
    }

    /// Takes the first bucket that has not been visited.
    pub fn take_first(&mut self) -> Option<Bucket> {
        (!self.buckets.is_empty()).then(|| self.buckets.remove(0))
    }

    /// Shows the entries of a bucket, each with the offset of its page.
    ///
    /// # Errors
    /// Damage, and what `visit` refuses.
    pub fn entries<E: From<BoltError>>(
        &mut self,
        bucket: &Bucket,
        visit: &mut Visit<'_, E>,
    ) -> Result<(), E> {
        let file = self.file;
        let mut show = |offset: u64, element: &Element<'_>| {
            if element.bucket {
                return Err(file.damaged(offset, "a bucket within a bucket").into());
            }
            visit(offset, element.key, element.value)
        };
        match &bucket.place {
            Place::Root(root) => self.tree(*root, &mut show),
            Place::Inline { leaf, offset } => {
                let header = Header::read(leaf);
                let sound = header.filter(|header| header.flags == LEAF && header.overflow == 0);
                let Some(header) = sound else {
                    let detail = "a small bucket without a leaf";
                    return Err(file.damaged(*offset, detail).into());
                };
                let mut order = Order::default();
                let mut elements = Elements::new(&header, leaf);
                while let Some(element) = elements.next() {
                    let element = element.map_err(|detail| file.damaged(*offset, detail))?;
                    if !order.follows(element.key) {
                        return Err(file.damaged(*offset, "keys out of order").into());
                    }
                    show(*offset, &element)?;
                }
                Ok(())
            }
        }
    }

    /// Walks a tree, without recursion.
    fn tree<E: From<BoltError>>(
        &mut self,
        root: u64,
        visit: &mut dyn FnMut(u64, &Element<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = self.file;
        let mut order = Order::default();
        // Branches on the way down, each with its next child.
        let mut path: Vec<(Page, usize)> = Vec::new();
        let mut next = Some(root);
        loop {
            let id = match next.take() {
                Some(id) => id,
                None => {
                    let Some((branch, place)) = path.last_mut() else {
                        return Ok(());
                    };
                    if *place == usize::from(branch.header.count) {
                        path.pop();
                        continue;
                    }
                    let element = Elements::at(&branch.header, &branch.bytes, *place);
                    let element = element.map_err(|detail| file.damaged(branch.offset, detail))?;
                    *place += 1;
                    element.child
                }
            };
            let page = file.page(id)?;
            self.visit_once(&page)?;
            let is_root = path.is_empty();
            if page.header.flags == BRANCH {
                self.check_branch(&page, path.last())?;
                if path.len() == DEPTH_MAX {
                    return Err(file.damaged(page.offset, "the tree is too deep").into());
                }
                path.push((page, 0));
                continue;
            }
            if page.header.count == 0 && !is_root {
                return Err(file.damaged(page.offset, "an empty leaf").into());
            }
            let bounds = bounds_of(&path);
            let mut elements = Elements::new(&page.header, &page.bytes);
            let mut first = true;
            while let Some(element) = elements.next() {
                let element = element.map_err(|detail| file.damaged(page.offset, detail))?;
                if !order.follows(element.key) {
                    return Err(file.damaged(page.offset, "keys out of order").into());
                }
                let (low, high) = &bounds;
                let below = first && low.as_deref().is_some_and(|low| element.key < low);
                let above = high.as_deref().is_some_and(|high| element.key >= high);
                if below || above {
                    let detail = "a key outside of what the branch above says";
                    return Err(file.damaged(page.offset, detail).into());
                }
                first = false;
                visit(page.offset, &element)?;
            }
        }
    }

    /// Keys of a branch ascend, and begin where the branch above says.
    fn check_branch(&self, page: &Page, above: Option<&(Page, usize)>) -> Result<(), BoltError> {
        let file = self.file;
        if page.header.count == 0 {
            return Err(file.damaged(page.offset, "a branch without children"));
        }
        let mut last: Option<&[u8]> = None;
        let mut elements = Elements::new(&page.header, &page.bytes);
        while let Some(element) = elements.next() {
            let element = element.map_err(|detail| file.damaged(page.offset, detail))?;
            if last.is_some_and(|last| element.key <= last) {
                return Err(file.damaged(page.offset, "keys of a branch out of order"));
            }
            if last.is_none()
                && let Some((above, place)) = above
                && let Some(low) = key_before(above, *place)
                && element.key < low
            {
                return Err(file.damaged(page.offset, "a branch begins before the one above"));
            }
            last = Some(element.key);
        }
        Ok(())
    }

    fn visit_once(&mut self, page: &Page) -> Result<(), BoltError> {
        let first = page.header.id;
        for id in first..=first + u64::from(page.header.overflow) {
            let word = self.visited.get_mut((id / 64) as usize);
            let Some(word) = word.filter(|word| **word & (1 << (id % 64)) == 0) else {
                let detail = format!("page {id} is used twice");
                return Err(self.file.damaged(page.offset, detail));
            };
            *word |= 1 << (id % 64);
        }
        Ok(())
    }
}

impl Order {
    fn follows(&mut self, key: &[u8]) -> bool {
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return false;
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        true
    }
}

/// The key of the child that was taken last.
fn key_before(branch: &Page, next: usize) -> Option<&[u8]> {
    let element = Elements::at(&branch.header, &branch.bytes, next.checked_sub(1)?);
    Some(element.ok()?.key)
}

/// The lowest and the first too high key below the last child taken of each branch.
fn bounds_of(path: &[(Page, usize)]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let low = path
        .last()
        .and_then(|(branch, next)| key_before(branch, *next));
    let high = path.iter().rev().find_map(|(branch, next)| {
        let element = Elements::at(&branch.header, &branch.bytes, *next);
        element.ok().map(|element| element.key)
    });
    (low.map(<[u8]>::to_vec), high.map(<[u8]>::to_vec))
}

/// The elements of a page, in order.
struct Elements<'a> {
    header: Header,
    bytes: &'a [u8],
    place: usize,
    /// Where the data of the element before ended.
    data_end: usize,
}

impl<'a> Elements<'a> {
    fn new(header: &Header, bytes: &'a [u8]) -> Self {
        Self {
            header: *header,
            bytes,
            place: 0,
            data_end: HEADER_BYTES + usize::from(header.count) * ELEMENT_BYTES,
        }
    }

    /// The element in a place, by itself.
    fn at(header: &Header, bytes: &'a [u8], place: usize) -> Result<Element<'a>, &'static str> {
        let mut elements = Self::new(header, bytes);
        elements.place = place;
        elements.next().unwrap_or(Err("no such element"))
    }

    fn next(&mut self) -> Option<Result<Element<'a>, &'static str>> {
        if self.place >= usize::from(self.header.count) {
            return None;
        }
        let start = HEADER_BYTES + self.place * ELEMENT_BYTES;
        self.place += 1;
        Some(
            self.read(start)
                .unwrap_or(Err("an element lies outside of its page")),
        )
    }

    fn read(&mut self, start: usize) -> Option<Result<Element<'a>, &'static str>> {
        let leaf = self.header.flags == LEAF;
        let at = |word: usize| u32_at(self.bytes, start + 4 * word).map(|word| word as usize);
        let (pos, key_len, value_len) = if leaf {
            (at(1)?, at(2)?, at(3)?)
        } else {
            (at(0)?, at(1)?, 0)
        };
        let (flags, child) = if leaf {
            (u32_at(self.bytes, start)?, 0)
        } else {
            (0, u64_at(self.bytes, start + 8)?)
        };
        if key_len == 0 || key_len > KEY_BYTES_MAX {
            return Some(Err("a key of impossible length"));
        }
        let key_start = start.checked_add(pos)?;
        if key_start < self.data_end {
            return Some(Err("elements overlap"));
        }
        let key_end = key_start.checked_add(key_len)?;
        let value_end = key_end.checked_add(value_len)?;
        let key = self.bytes.get(key_start..key_end)?;
        let value = self.bytes.get(key_end..value_end)?;
        self.data_end = value_end;
        Some(Ok(Element {
            bucket: flags & BUCKET != 0,
            key,
            value,
            child,
        }))
    }
}

fn bucket<R: ReadAt>(
    file: &BoltFile<R>,
    offset: u64,
    element: &Element<'_>,
) -> Result<Bucket, BoltError> {
    let short = || file.damaged(offset, "the entry of a bucket is too short");
    let root = u64_at(element.value, 0).ok_or_else(short)?;
    let inline = element.value.get(BUCKET_HEADER_BYTES..).ok_or_else(short)?;
    let place = if root != 0 {
        Place::Root(root)
    } else if inline.len() >= HEADER_BYTES {
        Place::Inline {
            leaf: inline.to_vec(),
            offset,
        }
    } else {
        return Err(short());
    };
    Ok(Bucket {
        name: element.key.to_vec(),
        place,
    })
}
