//! Page headers, elements and meta pages, byte by byte (etcd-snapshot-file 1.1 to 1.3).
//!
//! ```text
//! header │ element 0 … element n−1 │ key 0 (value 0) … key n−1 (value n−1) │ zeros
//! ```
//!
//! Integers are little-endian. A page with `overflow` n takes n + 1 page numbers as one run of
//! bytes.

use bytes::BytesMut;

/// The page size that is written; others are read.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a page header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of an element, in leaves and branches alike.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Most elements of a page: bbolt's own bound.
pub(crate) const ELEMENTS_MAX: usize = 65_534;
/// Flag of a branch page.
pub(crate) const BRANCH: u16 = 0x01;
/// Flag of a leaf page.
pub(crate) const LEAF: u16 = 0x02;
/// Flag of a meta page.
pub(crate) const META: u16 = 0x04;
/// Flag of a leaf element whose value is a bucket.
pub(crate) const BUCKET: u32 = 0x01;
/// First bytes of a meta page's content.
pub(crate) const MAGIC: u32 = 0xED0C_DAED;
/// The format's version.
pub(crate) const VERSION: u32 = 2;
/// In the place of a freelist's page: there is none.
pub(crate) const NO_FREELIST: u64 = u64::MAX;
/// Bytes of a meta page that are used.
pub(crate) const META_BYTES: usize = 80;
/// Longest key, bbolt's own bound.
pub(crate) const KEY_BYTES_MAX: usize = 32_768;
/// Bytes before a bucket's inline page, in the value of its entry.
pub(crate) const BUCKET_HEADER_BYTES: usize = 16;

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl Header {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.overflow.to_le_bytes());
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        Some(Header {
            id: u64_at(bytes, 0)?,
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// What a meta page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    pub(crate) root: u64,
    pub(crate) freelist: u64,
    /// The first page number not in use: the number of pages.
    pub(crate) pages: u64,
    pub(crate) txid: u64,
}

impl Meta {
    /// The meta page `id`, padded to the page size.
    pub(crate) fn put(&self, id: u64, out: &mut BytesMut) {
        let start = out.len();
        let header = Header {
            id,
            flags: META,
            count: 0,
            overflow: 0,
        };
        header.put(out);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.page_size.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        for word in [self.root, 0, self.freelist, self.pages, self.txid] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let sum = fnv1a(out.get(start + HEADER_BYTES..).unwrap_or_default());
        out.extend_from_slice(&sum.to_le_bytes());
        out.resize(start + self.page_size as usize, 0);
    }

    /// Reads the content of a meta page if magic, version and checksum are right.
    pub(crate) fn read(bytes: &[u8]) -> Option<Meta> {
        let sound = u32_at(bytes, 16)? == MAGIC
            && u32_at(bytes, 20)? == VERSION
            && u64_at(bytes, 72)? == fnv1a(bytes.get(16..72)?);
        if !sound {
            return None;
        }
        Some(Meta {
            page_size: u32_at(bytes, 24)?,
            root: u64_at(bytes, 32)?,
            freelist: u64_at(bytes, 48)?,
            pages: u64_at(bytes, 56)?,
            txid: u64_at(bytes, 64)?,
        })
    }
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// A leaf's element: flags, position counted from the element itself, lengths.
pub(crate) fn put_leaf_element(
    out: &mut BytesMut,
    flags: u32,
    pos: usize,
    key: usize,
    value: usize,
) {
    for word in [flags, pos as u32, key as u32, value as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// A branch's element: position counted from the element itself, key length, child.
pub(crate) fn put_branch_element(out: &mut BytesMut, pos: usize, key: usize, child: u64) {
    for word in [pos as u32, key as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&child.to_le_bytes());
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_check_value() {
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
    }

    #[test]
    fn metas_come_back_and_notice_damage() {
        let meta = Meta {
            page_size: 4096,
            root: 3,
            freelist: NO_FREELIST,
            pages: 4,
            txid: 2,
        };
        let mut page = BytesMut::new();
        meta.put(0, &mut page);
        assert_eq!(page.len(), 4096);
        assert_eq!(Meta::read(&page), Some(meta));
        // The known-answer file of genuine etcd 3.7.1.
        assert_eq!(page[72..80], 0xC759_801D_1F87_7DE6_u64.to_le_bytes());
        for at in 16..80 {
            page[at] ^= 1;
            assert_eq!(Meta::read(&page), None, "byte {at}");
            page[at] ^= 1;
        }
    }
}
