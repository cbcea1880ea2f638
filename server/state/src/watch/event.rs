//! The events of one revision, encoded at most once each (store-notes 1).

use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

/// All events of one revision. Shared by every stream that sends them.
#[derive(Debug)]
pub struct RevisionEvents {
    /// The main revision.
    pub revision: i64,
    /// In order of sub-revision.
    pub events: Vec<Event>,
}

impl RevisionEvents {
    /// Approximate bytes held.
    #[must_use]
    pub fn size(&self) -> usize {
        self.events.iter().map(Event::size).sum::<usize>() + std::mem::size_of::<Self>()
    }
}

/// What a key held before an event: its value visible at main − 1.
#[derive(Debug, Clone)]
pub enum Prev<R> {
    /// Nothing, or it is compacted away.
    None,
    /// The encoded `KeyValue`.
    Record(Bytes),
    /// Still to be read. The reference keeps it readable.
    Stored(R),
}

/// One change of one key.
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// Whether the key was deleted.
    pub tombstone: bool,
    /// The encoded `KeyValue`; a tombstone's holds only the key.
    record: Bytes,
    revision: i64,
    prev: Prev<Arc<dyn PrevSource>>,
    plain: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

/// Reads a previous value that was not in memory when its event was made.
pub trait PrevSource: Send + Sync {
    /// The encoded `KeyValue`.
    ///
    /// # Errors
    /// When it cannot be read: the member must stop.
    fn read(&self) -> Result<Bytes, crate::store::StoreError>;
    /// Its length in bytes.
    fn record_len(&self) -> usize;
}

impl std::fmt::Debug for Event {
    /// Values are never shown (contract 6.5).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("key", &self.key)
            .field("tombstone", &self.tombstone)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// `mvccpb.Event.type = DELETE`.
const TYPE_DELETE: [u8; 2] = [0x08, 0x01];
/// Tag of `mvccpb.Event.kv`.
const TAG_KV: u8 = 0x12;
/// Tag of `mvccpb.Event.prev_kv`.
const TAG_PREV_KV: u8 = 0x1a;
/// Tag of `mvccpb.KeyValue.mod_revision`.
const TAG_MOD_REVISION: u8 = 0x18;

impl Event {
    /// An event of `revision`.
    #[must_use]
    pub fn new(
        revision: i64,
        key: Bytes,
        tombstone: bool,
        record: Bytes,
        prev: Prev<Arc<dyn PrevSource>>,
    ) -> Self {
        Self {
            key,
            tombstone,
            record,
            revision,
            prev,
            plain: OnceLock::new(),
            with_prev: OnceLock::new(),
        }
    }

    /// Approximate bytes held or to be sent.
    #[must_use]
    pub fn size(&self) -> usize {
        let prev = match &self.prev {
            Prev::None => 0,
            Prev::Record(record) => record.len(),
            Prev::Stored(source) => source.record_len(),
        };
        self.record.len() + prev + std::mem::size_of::<Self>()
    }

    /// The encoded `mvccpb.Event` without prev_kv.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.plain.get_or_init(|| self.encode(None)).clone()
    }

    /// The encoded `mvccpb.Event` with prev_kv, if there is one.
    ///
    /// # Errors
    /// When the previous value cannot be read: the member must stop.
    pub fn encoded_with_prev(&self) -> Result<Bytes, crate::store::StoreError> {
        if let Some(encoded) = self.with_prev.get() {
            return Ok(encoded.clone());
        }
        let prev = match &self.prev {
            Prev::None => return Ok(self.encoded()),
            Prev::Record(record) => record.clone(),
            Prev::Stored(source) => source.read()?,
        };
        Ok(self
            .with_prev
            .get_or_init(|| self.encode(Some(&prev)))
            .clone())
    }

    fn encode(&self, prev: Option<&Bytes>) -> Bytes {
        let prev_len = prev.map_or(0, |prev| 11 + prev.len());
        let mut event = BytesMut::with_capacity(24 + self.record.len() + prev_len);
        if self.tombstone {
            event.put_slice(&TYPE_DELETE);
        }
        let revision = self.revision.cast_unsigned();
        let suffix = if self.tombstone {
            1 + encoded_len_varint(revision)
        } else {
            0
        };
        event.put_u8(TAG_KV);
        encode_varint((self.record.len() + suffix) as u64, &mut event);
        event.put_slice(&self.record);
        if self.tombstone {
            event.put_u8(TAG_MOD_REVISION);
            encode_varint(revision, &mut event);
        }
        if let Some(prev) = prev {
            event.put_u8(TAG_PREV_KV);
            encode_varint(prev.len() as u64, &mut event);
            event.put_slice(prev);
        }
        event.freeze()
    }
}

#[cfg(test)]
mod tests {
    use keelson_proto::mvccpb::{self, KeyValue};
    use prost::Message as _;

    use super::*;

    fn kv(key: &'static str, value: &'static str) -> KeyValue {
        KeyValue {
            key: key.into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            value: value.into(),
            lease: 0,
        }
    }

    #[test]
    fn events_have_etcds_bytes() {
        let put = kv("k", "new");
        let prev = kv("k", "old");
        let record = Bytes::from(put.encode_to_vec());
        let prev_record = Prev::Record(prev.encode_to_vec().into());
        let event = Event::new(3, "k".into(), false, record, prev_record.clone());
        let expected = mvccpb::Event {
            r#type: 0,
            kv: Some(put.clone()),
            prev_kv: None,
        };
        assert_eq!(event.encoded(), expected.encode_to_vec());
        let expected = mvccpb::Event {
            r#type: 0,
            kv: Some(put),
            prev_kv: Some(prev.clone()),
        };
        assert_eq!(event.encoded_with_prev().unwrap(), expected.encode_to_vec());

        let only_key = KeyValue {
            key: "k".into(),
            ..Default::default()
        };
        let record = Bytes::from(only_key.encode_to_vec());
        let event = Event::new(300, "k".into(), true, record, prev_record);
        let deleted = KeyValue {
            key: "k".into(),
            mod_revision: 300,
            ..Default::default()
        };
        let expected = mvccpb::Event {
            r#type: 1,
            kv: Some(deleted),
            prev_kv: Some(prev),
        };
        assert_eq!(event.encoded_with_prev().unwrap(), expected.encode_to_vec());
    }
}
