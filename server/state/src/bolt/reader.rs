//! A file from outside: its frame, and its pages one by one (etcd-snapshot-file 1.6).
//!
//! The hash at the end proves integrity, not good intent: every number is checked before it is
//! used, and memory is taken only for bytes that the file really has.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::error::BoltError;
use super::page::{BRANCH, ELEMENT_BYTES, HEADER_BYTES, Header, LEAF, META, META_BYTES, Meta};
use super::source::ReadAt;

/// The hash at the end of what `snapshot save` wrote.
const HASH_BYTES: u64 = 32;
/// Page sizes are multiples of this, so the remainder tells whether there is a hash.
const PAGE_BYTES_MIN: u64 = 512;
/// Largest page size accepted: that of the largest pages of any host.
const PAGE_BYTES_MAX: u64 = 64 << 10;
/// Bytes hashed at once.
const HASH_STEP_BYTES: usize = 1 << 20;
/// Longest page with its overflow: above the longest record that the store takes.
const SPAN_BYTES_MAX: u64 = 1 << 30;
/// Where the second meta page is looked for when the first is bad: 1024 << 0 to 14.
const META_STEPS: u32 = 15;

/// Whether the hash at the end must be there and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It must.
    Hash,
    /// It is not looked at: a database copied from a data directory has none.
    Nothing,
}

/// An opened file whose frame is sound. Its pages are checked as they are read.
pub struct BoltFile<R> {
    source: R,
    name: String,
    page_size: u64,
    pages: u64,
    root: u64,
    data_bytes: u64,
}

/// A page with its overflow.
pub(crate) struct Page {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
    pub(crate) offset: u64,
}

impl<R: ReadAt> BoltFile<R> {
    /// Opens a file; `name` stands in errors.
    ///
    /// # Errors
    /// [`BoltError`], before anything of the content is believed.
    pub fn open(source: R, name: impl Into<String>, trust: Trust) -> Result<Self, BoltError> {
        let name = name.into();
        let io = |source| BoltError::Io {
            file: name.clone(),
            source: Arc::new(source),
        };
        let (data_bytes, _) = data_bytes(&source).map_err(io)?;
        if trust == Trust::Hash {
            check_hash(&source, &name)?;
        }
        let mut file = Self {
            source,
            name,
            page_size: 0,
            pages: 0,
            root: 0,
            data_bytes,
        };
        let meta = file.meta()?;
        file.page_size = u64::from(meta.page_size);
        file.pages = meta.pages;
        file.root = meta.root;
        Ok(file)
    }

    /// The winning meta page, checked.
    fn meta(&self) -> Result<Meta, BoltError> {
        let first = self.meta_at(0, 0)?;
        let second = match first {
            Some(first) => self.meta_at(1, u64::from(first.page_size))?,
            None => self.find_second_meta()?,
        };
        let (meta, offset) = match (first, second) {
            (Some(first), Some(second)) if second.txid > first.txid => {
                (second, u64::from(first.page_size))
            }
            (Some(first), _) => (first, 0),
            (None, Some(second)) => (second, u64::from(second.page_size)),
            (None, None) => return Err(self.damaged(0, self.why_no_meta())),
        };
        if let (Some(first), Some(second)) = (first, second)
            && first.page_size != second.page_size
        {
            return Err(self.damaged(offset, "the meta pages name different page sizes"));
        }
        let needed = u64::from(meta.page_size).checked_mul(meta.pages);
        if meta.pages < 3 || needed.is_none_or(|needed| needed > self.data_bytes) {
            let detail = format!(
                "{} pages of {} bytes do not fit into {} bytes",
                meta.pages, meta.page_size, self.data_bytes
            );
            return Err(self.damaged(offset, detail));
        }
        if meta.root < 2 || meta.root >= meta.pages {
            return Err(self.damaged(offset, format!("the root is said to be page {}", meta.root)));
        }
        let freelist = meta.freelist;
        if freelist != super::page::NO_FREELIST && !(2..meta.pages).contains(&freelist) {
            return Err(self.damaged(
                offset,
                format!("the freelist is said to be page {freelist}"),
            ));
        }
        Ok(meta)
    }

    /// A meta page that is what it should be; `None` if it is not.
    fn meta_at(&self, id: u64, offset: u64) -> Result<Option<Meta>, BoltError> {
        if offset + META_BYTES as u64 > self.data_bytes {
            return Ok(None);
        }
        let mut bytes = [0; META_BYTES];
        self.read(&mut bytes, offset)?;
        let header = Header::read(&bytes);
        let is_meta = header.is_some_and(|header| header.id == id && header.flags == META);
        let sound = |meta: &Meta| {
            let size = u64::from(meta.page_size);
            size.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&size)
        };
        Ok(Meta::read(&bytes).filter(|meta| is_meta && sound(meta)))
    }

    fn find_second_meta(&self) -> Result<Option<Meta>, BoltError> {
        for step in 0..META_STEPS {
            let offset = 1024_u64 << step;
            let found = self.meta_at(1, offset)?;
            if let Some(meta) = found.filter(|meta| u64::from(meta.page_size) == offset) {
                return Ok(Some(meta));
            }
        }
        Ok(None)
    }

    fn why_no_meta(&self) -> &'static str {
        let mut magic = [0; 4];
        let read = self.read(&mut magic, HEADER_BYTES as u64);
        if read.is_ok() && magic == super::page::MAGIC.to_be_bytes() {
            "it was written on a big-endian machine"
        } else {
            "neither meta page is valid: this is no bbolt database"
        }
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Bytes of all pages: what `snapshot status` calls the total size.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.pages * self.page_size
    }

    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Reads a page with its overflow. That it is visited once is the caller's to see to.
    pub(crate) fn page(&self, id: u64) -> Result<Page, BoltError> {
        if !(2..self.pages).contains(&id) {
            return Err(self.damaged(0, format!("a reference to page {id}")));
        }
        let offset = id * self.page_size;
        let mut bytes = vec![0; self.page_size as usize];
        self.read(&mut bytes, offset)?;
        let Some(header) = Header::read(&bytes) else {
            return Err(self.damaged(offset, "a page without header"));
        };
        if header.id != id {
            let detail = format!("page {id} says that it is page {}", header.id);
            return Err(self.damaged(offset, detail));
        }
        if header.flags != LEAF && header.flags != BRANCH {
            let detail = format!("page {id} has flags {:#x}", header.flags);
            return Err(self.damaged(offset, detail));
        }
        let end = id + u64::from(header.overflow);
        let span = (u64::from(header.overflow) + 1) * self.page_size;
        if end >= self.pages || span > SPAN_BYTES_MAX {
            let detail = format!("page {id} claims {} pages more", header.overflow);
            return Err(self.damaged(offset, detail));
        }
        if (HEADER_BYTES + usize::from(header.count) * ELEMENT_BYTES) as u64 > span {
            let detail = format!("page {id} claims {} elements", header.count);
            return Err(self.damaged(offset, detail));
        }
        if header.overflow > 0 {
            bytes.resize(span as usize, 0);
            let rest = bytes.get_mut(self.page_size as usize..).unwrap_or_default();
            self.read(rest, offset + self.page_size)?;
        }
        Ok(Page {
            header,
            bytes,
            offset,
        })
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), BoltError> {
        let read = self.source.read_exact_at(buffer, offset);
        read.map_err(|source| BoltError::Io {
            file: self.name.clone(),
            source: Arc::new(source),
        })
    }

    /// An error of this file.
    pub fn damaged(&self, offset: u64, detail: impl Into<String>) -> BoltError {
        BoltError::Damaged {
            file: self.name.clone(),
            offset,
            detail: detail.into(),
        }
    }
}

/// Checks the hash at a file's end; `name` stands in errors.
///
/// # Errors
/// [`BoltError`]: there is none, it is of other bytes, or the file cannot be read.
pub fn check_hash(source: &impl ReadAt, name: &str) -> Result<(), BoltError> {
    let io = |source| BoltError::Io {
        file: name.to_owned(),
        source: Arc::new(source),
    };
    let (data_bytes, has_hash) = data_bytes(source).map_err(io)?;
    if !has_hash {
        return Err(BoltError::MissingHash);
    }
    let mut expected = [0; HASH_BYTES as usize];
    source
        .read_exact_at(&mut expected, data_bytes)
        .map_err(io)?;
    let got = hash(source, data_bytes).map_err(io)?;
    if got == expected {
        Ok(())
    } else {
        Err(BoltError::WrongHash { expected, got })
    }
}

/// Bytes before the hash, and whether there is one.
fn data_bytes(source: &impl ReadAt) -> std::io::Result<(u64, bool)> {
    let len = source.len_bytes()?;
    let has_hash = len % PAGE_BYTES_MIN == HASH_BYTES;
    Ok((if has_hash { len - HASH_BYTES } else { len }, has_hash))
}

fn hash(source: &impl ReadAt, len: u64) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_STEP_BYTES.min(usize::try_from(len).unwrap_or(usize::MAX))];
    let mut offset = 0;
    while offset < len {
        let step = buffer
            .len()
            .min(usize::try_from(len - offset).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..step).unwrap_or_default();
        source.read_exact_at(part, offset)?;
        hash.update(&*part);
        offset += step as u64;
    }
    Ok(hash.finalize().into())
}
