//! The rules that the records of one key follow (etcd-snapshot-file 3.1).
//!
//! etcd counts versions anew from the first record of a key that it finds, and serves keys-only
//! ranges from that: a wrong number in a file would show, on some members and not on others. So a
//! file that breaks the rules is refused.

use std::collections::HashMap;

use bytes::Bytes;
use keelson_proto::mvccpb::KeyValue;
use prost::Message as _;

use crate::mvcc::record::{Fields, tombstone};
use crate::revision::Revision;
use crate::store::RecordHeader;

/// The newest record of each key so far, and where the history stands.
#[derive(Default)]
pub(super) struct History {
    compact: i64,
    last: Option<Revision>,
    keys: HashMap<Box<[u8]>, Newest>,
}

#[derive(Clone, Copy)]
struct Newest {
    create_revision: i64,
    /// 0 for a tombstone.
    version: i64,
}

impl History {
    /// With a compact revision: above it every life of a key begins with its creation.
    pub(super) fn new(compact: i64) -> Self {
        Self {
            compact,
            ..Self::default()
        }
    }

    /// The revision of the last record.
    pub(super) fn last_main(&self) -> Option<i64> {
        self.last.map(|last| last.main)
    }

    /// Takes the next record and gives its header; otherwise what is wrong with it.
    pub(super) fn take(
        &mut self,
        revision: Revision,
        is_tombstone: bool,
        record: &Bytes,
    ) -> Result<RecordHeader, &'static str> {
        if self.last.is_some_and(|last| last >= revision) {
            return Err("two records of one revision");
        }
        self.last = Some(revision);
        let header = read(revision, is_tombstone, record)?;
        self.follow(&header)?;
        Ok(header)
    }

    fn follow(&mut self, header: &RecordHeader) -> Result<(), &'static str> {
        // The marker of a restore belongs to no key's history.
        if header.key.is_empty() {
            return Ok(());
        }
        let newest = Newest {
            create_revision: header.create_revision,
            version: header.version,
        };
        let main = header.revision.main;
        let created = header.create_revision == main && header.version == 1;
        let Some(before) = self.keys.get_mut(header.key.as_ref()) else {
            if main > self.compact && !header.tombstone && !created {
                return Err("a key lives on without having been created");
            }
            self.keys.insert(header.key.as_ref().into(), newest);
            return Ok(());
        };
        let follows = match (header.tombstone, before.version) {
            (true, 0) => return Err("a key is deleted that does not live"),
            (true, _) => true,
            (false, 0) => created,
            (false, version) => {
                header.create_revision == before.create_revision && header.version == version + 1
            }
        };
        if !follows {
            return Err("version or create revision do not follow from the record before");
        }
        *before = newest;
        Ok(())
    }
}

/// Reads a record. Bytes that a client would get must be those that etcd would have encoded.
fn read(
    revision: Revision,
    is_tombstone: bool,
    record: &Bytes,
) -> Result<RecordHeader, &'static str> {
    let header = |key, create_revision, version, lease| RecordHeader {
        revision,
        tombstone: is_tombstone,
        create_revision,
        version,
        lease,
        key,
    };
    if record.is_empty() {
        // The marker of a restore that bumped the revision (etcd-snapshot-file 3.1).
        return match is_tombstone {
            true => Err("a tombstone without key"),
            false => Ok(header(Bytes::new(), 0, 0, 0)),
        };
    }
    let kv = KeyValue::decode(record.clone()).map_err(|_| "a record is not a KeyValue")?;
    if kv.key.is_empty() {
        return Err("a record without key");
    }
    if is_tombstone {
        if tombstone(&kv.key) != record {
            return Err("a tombstone with more than a key");
        }
        return Ok(header(kv.key, 0, 0, 0));
    }
    let fields = Fields {
        key: &kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: &kv.value,
        lease: kv.lease,
    };
    if fields.encode() != record {
        return Err("a record is not encoded as etcd encodes it");
    }
    let sound = kv.mod_revision == revision.main
        && (1..=revision.main).contains(&kv.create_revision)
        && kv.version >= 1;
    if !sound {
        return Err("revisions or version of a record are impossible");
    }
    Ok(header(kv.key, kv.create_revision, kv.version, kv.lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64, create_revision: i64, version: i64) -> Bytes {
        let fields = Fields {
            key: b"k",
            create_revision,
            mod_revision: main,
            version,
            value: b"v",
            lease: 0,
        };
        fields.encode()
    }

    fn run(compact: i64, records: &[(i64, bool, Bytes)]) -> Result<(), &'static str> {
        let mut history = History::new(compact);
        for (main, tombstone, record) in records {
            history.take(Revision::new(*main, 0), *tombstone, record)?;
        }
        Ok(())
    }

    #[test]
    fn lives_of_a_key() {
        let dead = tombstone(b"k");
        let whole = [
            (2, false, put(2, 2, 1)),
            (3, false, put(3, 2, 2)),
            (4, true, dead.clone()),
            (5, false, put(5, 5, 1)),
            (7, false, Bytes::new()),
        ];
        run(-1, &whole).unwrap();
        run(3, &whole[1..]).unwrap();
        run(4, &whole[2..]).unwrap();
        for (compact, wrong) in [
            (-1, vec![(3, false, put(3, 2, 2))]),
            (-1, vec![(2, false, put(3, 2, 2))]),
            (-1, vec![(2, false, put(2, 3, 1))]),
            (5, vec![(2, false, put(2, 2, 0))]),
            (-1, vec![(2, false, put(2, 2, 1)), (2, true, dead.clone())]),
            (-1, vec![(2, false, put(2, 2, 1)), (3, false, put(3, 2, 3))]),
            (-1, vec![(2, false, put(2, 2, 1)), (3, false, put(3, 3, 1))]),
            (-1, vec![(2, true, dead.clone()), (3, true, dead.clone())]),
            (-1, vec![(2, true, dead.clone()), (3, false, put(3, 2, 2))]),
            (-1, vec![(2, true, put(2, 2, 1))]),
            (-1, vec![(2, true, Bytes::new())]),
            (-1, vec![(2, false, Bytes::from_static(b"\xff"))]),
            (-1, vec![(2, false, Bytes::from_static(b"\x10\x02"))]),
            // An unknown field, which no client must get to see.
            (
                -1,
                vec![(
                    2,
                    false,
                    [put(2, 2, 1).as_ref(), b"\x38\x01"].concat().into(),
                )],
            ),
        ] {
            assert!(run(compact, &wrong).is_err(), "{wrong:?}");
        }
    }
}
