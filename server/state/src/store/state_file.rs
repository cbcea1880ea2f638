//! State that is not keys and values: leases, users, roles, alarms, members (design 4).
//!
//! Small items, key → value, kept as a file of deltas: a checkpoint appends what has changed. Once
//! the file has grown well beyond what it was when last written whole, it is written whole again.
//! The store keeps no copy in memory; the owners of the items do.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::codec::{
    Cursor, Damage, FileKind, HEADER_LEN, check_header, len_u32, put_u32, read_checked,
};
use super::error::StoreError;
use super::segment::StoreFile;

/// All items.
pub type StateItems = BTreeMap<Bytes, Bytes>;
/// Changed items; `None` deletes.
pub(crate) type StateDelta = BTreeMap<Bytes, Option<Bytes>>;

/// Growth in bytes that never causes a rewrite.
const GROWTH_FREE_BYTES: u64 = 1 << 20;
/// Payload bytes after which a delta goes on in another frame: bounds what a checksum covers.
const FRAME_BYTES: usize = 1 << 20;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

/// Whether the file should be written whole instead of appended to.
pub(crate) fn should_rewrite(len: u64, base_len: u64) -> bool {
    len > base_len.saturating_mul(2).saturating_add(GROWTH_FREE_BYTES)
}

/// Encodes items as frames: `len u32 | crc u32 | (op u8 | key len u32 | key | [value len u32 |
/// value])*`.
pub(crate) fn encode<'a>(items: impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut payload = Vec::new();
    for (key, value) in items {
        payload.push(if value.is_some() { OP_PUT } else { OP_DELETE });
        put_u32(&mut payload, len_u32(key.len()));
        payload.extend_from_slice(key);
        if let Some(value) = value {
            put_u32(&mut payload, len_u32(value.len()));
            payload.extend_from_slice(value);
        }
        if payload.len() >= FRAME_BYTES {
            put_frame(&mut out, &payload);
            payload.clear();
        }
    }
    if !payload.is_empty() {
        put_frame(&mut out, &payload);
    }
    out
}

fn put_frame(out: &mut Vec<u8>, payload: &[u8]) {
    put_u32(out, len_u32(payload.len()));
    put_u32(out, crc32c::crc32c(payload));
    out.extend_from_slice(payload);
}

/// Reads all items of a file that is valid up to `len`.
pub(crate) fn load(file: &StoreFile, len: u64) -> Result<StateItems, StoreError> {
    let bytes = read_checked(&*file.handle, &file.path, 0, len)?;
    decode(&bytes, &file.path)
}

fn decode(bytes: &[u8], path: &Path) -> Result<StateItems, StoreError> {
    check_header(FileKind::State, bytes, path)?;
    let mut items = StateItems::new();
    let rest = bytes.get(HEADER_LEN as usize..).unwrap_or_default();
    let mut cursor = Cursor::new(rest, HEADER_LEN);
    while cursor.remaining() > 0 {
        decode_frame(&mut cursor, &mut items).map_err(|damage| damage.at(path))?;
    }
    Ok(items)
}

fn decode_frame(cursor: &mut Cursor<'_>, items: &mut StateItems) -> Result<(), Damage> {
    let len = cursor.u32()? as usize;
    let crc = cursor.u32()?;
    let base = HEADER_LEN + cursor.position() as u64;
    let payload = cursor.take(len)?;
    if crc32c::crc32c(payload) != crc {
        return Err(Damage {
            offset: base,
            detail: "state checksum does not match",
        });
    }
    let mut payload = Cursor::new(payload, base);
    while payload.remaining() > 0 {
        let op = payload.u8()?;
        let key_len = payload.u32()? as usize;
        let key = Bytes::copy_from_slice(payload.take(key_len)?);
        match op {
            OP_PUT => {
                let value_len = payload.u32()? as usize;
                items.insert(key, Bytes::copy_from_slice(payload.take(value_len)?));
            }
            OP_DELETE => {
                items.remove(&key);
            }
            _ => return Err(payload.damage("unknown operation")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::codec::header;
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = header(FileKind::State);
        let key = |name: &'static str| Bytes::from_static(name.as_bytes());
        let (a, b, one, two) = (key("a"), key("b"), key("1"), key("2"));
        bytes.extend(encode([(&a, Some(&one)), (&b, Some(&one))].into_iter()));
        bytes.extend(encode([(&a, None), (&b, Some(&two))].into_iter()));
        bytes
    }

    #[test]
    fn later_deltas_win() {
        let items = decode(&sample(), Path::new("s")).unwrap();
        assert_eq!(
            items,
            StateItems::from([(Bytes::from("b"), Bytes::from("2"))])
        );
    }

    #[test]
    fn large_deltas_split_into_frames() {
        let value = Bytes::from(vec![7; 700_000]);
        let keys: Vec<_> = (0..5).map(|key| Bytes::from(vec![key])).collect();
        let mut bytes = header(FileKind::State);
        bytes.extend(encode(keys.iter().map(|key| (key, Some(&value)))));
        assert_eq!(decode(&bytes, Path::new("s")).unwrap().len(), 5);
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_no_cut_panics() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, Path::new("s")).is_err(), "bit {bit}");
        }
        let whole_frames =
            (0..bytes.len()).filter(|&len| decode(&bytes[..len], Path::new("s")).is_ok());
        assert_eq!(
            whole_frames.count(),
            2,
            "cuts between frames only: the manifest has the length"
        );
    }
}
