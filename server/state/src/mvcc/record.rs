//! The bytes of a revision: its encoded `mvccpb.KeyValue`, made once (design R1, store-notes 1).
//!
//! ```text
//! 0a len key │ 10 create │ 18 mod │ 20 version │ 2a len value │ 30 lease     zero fields left out
//! ```
//!
//! A record is its own allocation, never a slice of a frame or log entry that it would pin.

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field,
};

use crate::error::ApplyError;

const KEY_TAG: u8 = 0x0a;
const CREATE_REVISION_TAG: u8 = 0x10;
const MOD_REVISION_TAG: u8 = 0x18;
const VERSION_TAG: u8 = 0x20;
const VALUE_TAG: u8 = 0x2a;
const LEASE_TAG: u8 = 0x30;
const VALUE_FIELD: u32 = 5;
const LEASE_FIELD: u32 = 6;

/// Fields of a record that is about to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Revision at which this life of the key began.
    pub create_revision: i64,
    /// Main revision of the change.
    pub mod_revision: i64,
    /// Puts in this life of the key.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// Attached lease, 0 for none.
    pub lease: i64,
}

impl Fields<'_> {
    /// Encodes them into an allocation of their own.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut record = Vec::with_capacity(self.encoded_len());
        put_bytes(&mut record, KEY_TAG, self.key);
        put_int(&mut record, CREATE_REVISION_TAG, self.create_revision);
        put_int(&mut record, MOD_REVISION_TAG, self.mod_revision);
        put_int(&mut record, VERSION_TAG, self.version);
        put_bytes(&mut record, VALUE_TAG, self.value);
        put_int(&mut record, LEASE_TAG, self.lease);
        record.into()
    }

    fn encoded_len(&self) -> usize {
        let bytes = |bytes: &[u8]| match bytes.len() {
            0 => 0,
            len => 1 + encoded_len_varint(len as u64) + len,
        };
        let int = |value: i64| match value {
            0 => 0,
            value => 1 + encoded_len_varint(value.cast_unsigned()),
        };
        bytes(self.key)
            + int(self.create_revision)
            + int(self.mod_revision)
            + int(self.version)
            + bytes(self.value)
            + int(self.lease)
    }
}

fn put_bytes(record: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        record.push(tag);
        encode_varint(bytes.len() as u64, record);
        record.extend_from_slice(bytes);
    }
}

fn put_int(record: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        record.push(tag);
        encode_varint(value.cast_unsigned(), record);
    }
}

/// A tombstone's record: the key only.
#[must_use]
pub fn tombstone(key: &[u8]) -> Bytes {
    let fields = Fields {
        key,
        ..Fields::default()
    };
    fields.encode()
}

/// The key of a record just made, as a slice of it. `key_len` is known to its maker.
pub(crate) fn key_slice(record: &Bytes, key_len: usize) -> Bytes {
    let start = 1 + encoded_len_varint(key_len as u64);
    match record.get(start..start + key_len) {
        Some(_) => record.slice(start..start + key_len),
        None => Bytes::new(),
    }
}

/// The key of a record, as a slice of it; empty for the marker of a restore.
///
/// # Errors
/// As [`value`].
pub fn key(record: &Bytes) -> Result<Bytes, ApplyError> {
    let damaged = || ApplyError::Damaged("a record has no key".into());
    let mut rest: &[u8] = record;
    match rest.split_first() {
        None => return Ok(Bytes::new()),
        Some((&KEY_TAG, after)) => rest = after,
        Some(_) => return Err(damaged()),
    }
    let len = decode_varint(&mut rest).map_err(|_| damaged())?;
    let len = usize::try_from(len).map_err(|_| damaged())?;
    let start = record.len() - rest.len();
    match rest.get(..len) {
        Some(_) => Ok(record.slice(start..start + len)),
        None => Err(damaged()),
    }
}

/// The key of a record that is borrowed; `None` for bytes that are no record.
pub(crate) fn key_bytes(record: &[u8]) -> Option<&[u8]> {
    let mut rest = match record.split_first() {
        None => return Some(&[]),
        Some((&KEY_TAG, rest)) => rest,
        Some(_) => return None,
    };
    let len = decode_varint(&mut rest).ok()?;
    rest.get(..usize::try_from(len).ok()?)
}

/// The value of a record.
///
/// # Errors
/// A record that is not an encoded `KeyValue` was damaged on this member.
pub fn value(record: &[u8]) -> Result<&[u8], ApplyError> {
    let Some((_, value)) = value_field(record)? else {
        return Ok(&[]);
    };
    Ok(record.get(value).unwrap_or_default())
}

/// The lease of a record, 0 for none.
///
/// # Errors
/// As [`value`].
pub fn lease(record: &[u8]) -> Result<i64, ApplyError> {
    let damaged = |_| ApplyError::Damaged("a record is not a KeyValue".into());
    let mut rest = record;
    while !rest.is_empty() {
        let (field, wire_type) = decode_key(&mut rest).map_err(damaged)?;
        if field == LEASE_FIELD && wire_type == WireType::Varint {
            return Ok(decode_varint(&mut rest).map_err(damaged)?.cast_signed());
        }
        skip_field(wire_type, field, &mut rest, Default::default()).map_err(damaged)?;
    }
    Ok(0)
}

/// A record without its value; the lease stays (store-notes 1).
///
/// # Errors
/// As [`value`].
pub fn without_value(record: &Bytes) -> Result<Bytes, ApplyError> {
    let Some((field, _)) = value_field(record)? else {
        return Ok(record.clone());
    };
    let before = record.get(..field.start).unwrap_or_default();
    let after = record.get(field.end..).unwrap_or_default();
    Ok([before, after].concat().into())
}

/// Where the value's field lies, and the value itself.
type ValueField = (Range<usize>, Range<usize>);

fn value_field(record: &[u8]) -> Result<Option<ValueField>, ApplyError> {
    let damaged = |_| ApplyError::Damaged("a record is not a KeyValue".into());
    let mut rest = record;
    while !rest.is_empty() {
        let start = record.len() - rest.len();
        let (field, wire_type) = decode_key(&mut rest).map_err(damaged)?;
        if field == VALUE_FIELD && wire_type == WireType::LengthDelimited {
            let len = decode_varint(&mut rest).map_err(damaged)?;
            let value_start = record.len() - rest.len();
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len > rest.remaining() {
                return Err(ApplyError::Damaged("a record's value is cut".into()));
            }
            let end = value_start + len;
            return Ok(Some((start..end, value_start..end)));
        }
        skip_field(wire_type, field, &mut rest, Default::default()).map_err(damaged)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use keelson_proto::mvccpb::KeyValue;
    use prost::Message as _;

    use super::*;

    fn kv(lease: i64, value: &'static [u8]) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"key"),
            create_revision: 2,
            mod_revision: 300,
            version: -1,
            value: Bytes::from_static(value),
            lease,
        }
    }

    fn encode(kv: &KeyValue) -> Bytes {
        let fields = Fields {
            key: &kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: &kv.value,
            lease: kv.lease,
        };
        let record = fields.encode();
        assert_eq!(record.len(), fields.encoded_len());
        record
    }

    #[test]
    fn records_are_prosts_bytes() {
        for kv in [kv(0, b""), kv(-7, b"value"), kv(i64::MAX, &[0; 300])] {
            let record = encode(&kv);
            assert_eq!(record, kv.encode_to_vec());
            assert_eq!(value(&record).unwrap(), kv.value);
            assert_eq!(lease(&record).unwrap(), kv.lease);
            assert_eq!(key_slice(&record, 3), kv.key);
            let stripped = KeyValue::decode(without_value(&record).unwrap()).unwrap();
            assert_eq!(stripped.lease, kv.lease);
            assert!(stripped.value.is_empty());
        }
        assert_eq!(tombstone(b"k"), b"\x0a\x01k".as_slice());
    }

    #[test]
    fn damage_is_an_error() {
        let record = encode(&kv(1, b"value"));
        assert!(value(&record[..record.len() - 4]).is_err());
        assert!(value(b"\xff\xff").is_err());
    }
}
