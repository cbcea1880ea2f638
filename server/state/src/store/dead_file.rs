//! The garbage bits of all chunks, as a file that the manifest names (store-notes 5).
//!
//! The bits and the compact revision they follow from become durable by the same rename, so a
//! restart skips exactly the records whose compaction it knows of (G1, G2). Chunks are named by
//! their place in the manifest's list of segments; those without garbage are left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::codec::{
    Cursor, Damage, FileKind, HEADER_LEN, check_header, header, len_u32, put_u32, put_u64,
};
use super::dead::DeadSnapshot;
use super::error::StoreError;

/// Garbage bits by place: segment, then chunk, both counted from 0.
pub(crate) type DeadMap = BTreeMap<(u32, u32), Arc<[u64]>>;

/// Collects the bits of chunks given as (segment, chunk, bits).
pub(crate) fn collect(chunks: impl Iterator<Item = (usize, usize, DeadSnapshot)>) -> DeadMap {
    chunks
        .filter_map(|(segment, chunk, bits)| Some(((len_u32(segment), len_u32(chunk)), bits?)))
        .filter(|(_, bits)| bits.iter().any(|&word| word != 0))
        .collect()
}

/// Encodes a file: header, then `len u32 | crc u32`, then per chunk `segment u32 | chunk u32 |
/// words u32 | word u64 *`.
pub(crate) fn encode(dead: &DeadMap) -> Vec<u8> {
    let mut body = Vec::new();
    for (&(segment, chunk), words) in dead {
        put_u32(&mut body, segment);
        put_u32(&mut body, chunk);
        put_u32(&mut body, len_u32(words.len()));
        for &word in words.iter() {
            put_u64(&mut body, word);
        }
    }
    let mut bytes = header(FileKind::Dead);
    put_u32(&mut bytes, len_u32(body.len()));
    put_u32(&mut bytes, crc32c::crc32c(&body));
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes a file.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<DeadMap, StoreError> {
    check_header(FileKind::Dead, bytes, path)?;
    let rest = bytes.get(HEADER_LEN as usize..).unwrap_or_default();
    let parse = || {
        let mut cursor = Cursor::new(rest, HEADER_LEN);
        let len = cursor.u32()? as usize;
        let crc = cursor.u32()?;
        let base = HEADER_LEN + cursor.position() as u64;
        let body = cursor.take(len)?;
        if cursor.remaining() > 0 {
            return Err(cursor.damage("bytes after the end"));
        }
        if crc32c::crc32c(body) != crc {
            return Err(Damage {
                offset: base,
                detail: "checksum does not match",
            });
        }
        let mut dead = DeadMap::new();
        let mut body = Cursor::new(body, base);
        while body.remaining() > 0 {
            let place = (body.u32()?, body.u32()?);
            let count = body.u32()? as usize;
            if count > body.remaining() / 8 {
                return Err(body.damage("more words than bytes"));
            }
            let words = (0..count)
                .map(|_| body.u64())
                .collect::<Result<Arc<[u64]>, Damage>>()?;
            if dead.insert(place, words).is_some() {
                return Err(body.damage("a chunk stands twice"));
            }
        }
        Ok(dead)
    };
    parse().map_err(|damage: Damage| damage.at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_notices_damage() {
        let bits: Arc<[u64]> = Arc::from([5, 0, 1 << 63]);
        let empty: Arc<[u64]> = Arc::from([0]);
        let chunks = [(0, 1, Some(bits)), (2, 0, None), (3, 3, Some(empty))];
        let dead = collect(chunks.into_iter());
        assert_eq!(dead.len(), 1);
        let bytes = encode(&dead);
        assert_eq!(decode(&bytes, Path::new("d")).unwrap(), dead);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, Path::new("d")).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(
                decode(&bytes[..len], Path::new("d")).is_err(),
                "length {len}"
            );
        }
    }
}
