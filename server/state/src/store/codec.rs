//! Reading and writing the store's files: little-endian integers, varints, the file header.
//!
//! A [`Cursor`] never allocates and never reads past its slice: lengths found in a file are checked
//! against what is really there before anything is taken (design R12). Its errors carry the offset;
//! the caller adds the file.

use std::path::Path;

use super::disk::DiskFile;
use super::error::StoreError;

/// Length of the header of every file: magic, format version, CRC-32C of both.
pub(crate) const HEADER_LEN: u64 = 16;

/// Newest format version written and read. A program reads all versions up to its own; one that
/// meets a newer file refuses to start (docs/FORMAT.md).
pub(crate) const FORMAT_VERSION: u32 = 1;

/// What kind of file a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Manifest,
    Segment,
    State,
    Dead,
}

impl FileKind {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            FileKind::Manifest => b"KEELMANI",
            FileKind::Segment => b"KEELSEGM",
            FileKind::State => b"KEELSTAT",
            FileKind::Dead => b"KEELDEAD",
        }
    }
}

/// The header of a file of this kind.
pub(crate) fn header(kind: FileKind) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN as usize);
    bytes.extend_from_slice(kind.magic());
    put_u32(&mut bytes, FORMAT_VERSION);
    let crc = crc32c::crc32c(&bytes);
    put_u32(&mut bytes, crc);
    bytes
}

/// Checks the header at the start of `bytes`.
pub(crate) fn check_header(kind: FileKind, bytes: &[u8], path: &Path) -> Result<(), StoreError> {
    let mut cursor = Cursor::new(bytes, 0);
    let mut parse = || {
        let magic = cursor.take(8)?;
        let version = cursor.u32()?;
        let crc = cursor.u32()?;
        Ok::<_, Damage>((magic == kind.magic(), version, crc))
    };
    let (magic, version, crc) = parse().map_err(|damage| damage.at(path))?;
    if !magic {
        return Err(StoreError::corrupt(path, 0, format!("not a {kind:?} file")));
    }
    if bytes.get(..12).map(crc32c::crc32c) != Some(crc) {
        return Err(StoreError::corrupt(
            path,
            0,
            "header checksum does not match",
        ));
    }
    if version == 0 || version > FORMAT_VERSION {
        let path = path.to_path_buf();
        return Err(StoreError::Format {
            path,
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    Ok(())
}

/// Reads `len` bytes at `offset`, after checking that the file has them.
pub(crate) fn read_checked(
    file: &dyn DiskFile,
    path: &Path,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, StoreError> {
    let present = file.len().map_err(StoreError::io("stat", path))?;
    if offset.checked_add(len).is_none_or(|end| end > present) {
        let detail = format!("{len} bytes expected, the file ends at {present}");
        return Err(StoreError::corrupt(path, offset, detail));
    }
    let len = usize::try_from(len)
        .map_err(|_| StoreError::corrupt(path, offset, "length does not fit in memory"))?;
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)
        .map_err(StoreError::io("read", path))?;
    Ok(buffer)
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length as stored in 32 bits. Callers have checked it against a limit far below.
pub(crate) fn len_u32(len: usize) -> u32 {
    assert!(len < u32::MAX as usize, "length {len} exceeds its limit");
    len as u32
}

/// Bytes that are not what they should be, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: u64,
    pub(crate) detail: &'static str,
}

impl Damage {
    pub(crate) fn at(self, path: &Path) -> StoreError {
        StoreError::corrupt(path, self.offset, self.detail)
    }
}

/// Reads a slice from front to back.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    base: u64,
}

impl<'a> Cursor<'a> {
    /// A cursor over bytes that begin at `base` in their file.
    pub(crate) fn new(bytes: &'a [u8], base: u64) -> Cursor<'a> {
        Cursor {
            bytes,
            position: 0,
            base,
        }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn damage(&self, detail: &'static str) -> Damage {
        Damage {
            offset: self.base + self.position as u64,
            detail,
        }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let end = self.position.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or_else(|| self.damage("ends too early"))?;
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.damage("ends too early"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.u8()?);
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                if shift == 63 && byte > 1 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(self.damage("varint too long"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32, Damage> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.damage("number too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip() {
        let values = [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ];
        let mut bytes = Vec::new();
        for value in values {
            put_varint(&mut bytes, value);
        }
        let mut cursor = Cursor::new(&bytes, 0);
        for value in values {
            assert_eq!(cursor.varint().unwrap(), value);
        }
        assert_eq!(cursor.remaining(), 0);
        assert!(cursor.varint().is_err());
        assert!(Cursor::new(&[0xff; 12], 0).varint().is_err());
    }

    #[test]
    fn header_tells_a_newer_format_from_damage() {
        let path = Path::new("seg");
        let mut newer = header(FileKind::Segment);
        check_header(FileKind::Segment, &newer, path).unwrap();
        let state = check_header(FileKind::State, &newer, path).unwrap_err();
        assert!(matches!(state, StoreError::Corrupt { .. }));
        newer[8..12].copy_from_slice(&2u32.to_le_bytes());
        let damaged = check_header(FileKind::Segment, &newer, path).unwrap_err();
        assert!(matches!(damaged, StoreError::Corrupt { .. }));
        let crc = crc32c::crc32c(&newer[..12]);
        newer[12..].copy_from_slice(&crc.to_le_bytes());
        let newer = check_header(FileKind::Segment, &newer, path).unwrap_err();
        assert!(matches!(newer, StoreError::Format { found: 2, .. }));
    }
}
