//! The store as a whole, against a model: what is frozen is what a restart finds.

mod crash;
mod damage;
mod garbage;
mod live;
mod model;
mod real;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::revision::Revision;

/// Everything a checkpoint stands for.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    position: Option<Position>,
    state: StateItems,
    live: BTreeMap<Revision, (RecordHeader, Bytes)>,
}

/// A store and what it should hold.
struct Harness {
    store: Store,
    now: Content,
    dead: BTreeSet<Revision>,
}

const DIR: &str = "member/store";

/// Sizes at which every mechanism runs with a handful of records.
fn options() -> StoreOptions {
    StoreOptions {
        segment_seal_bytes: 400,
        segment_merge_bytes_max: 4000,
        keeper_thread: false,
        ..StoreOptions::new(DIR)
    }
}

fn position(index: u64, revision: i64) -> Position {
    Position {
        applied_term: 1,
        applied_index: index,
        membership: Bytes::from_static(b"one member"),
        revision,
        compact_revision: revision / 2,
        cluster_id: 7,
        db_size: index * 4096,
    }
}

/// A record whose bytes depend on its revision.
fn record(revision: Revision, key: &str, len: usize) -> (RecordHeader, Bytes) {
    let tombstone = len == 0;
    let header = RecordHeader {
        revision,
        tombstone,
        create_revision: if tombstone { 0 } else { revision.main - 1 },
        version: if tombstone { 0 } else { 2 },
        lease: revision.main % 3,
        key: Bytes::copy_from_slice(key.as_bytes()),
    };
    let fill = revision.main.to_le_bytes().into_iter().cycle();
    (header, fill.take(key.len() + len).collect())
}

impl Harness {
    fn open(disk: &SimDisk) -> Result<Harness, StoreError> {
        Harness::open_with(options(), Arc::new(disk.clone()))
    }

    /// Opens and reads everything back.
    fn open_with(options: StoreOptions, disk: Arc<dyn Disk>) -> Result<Harness, StoreError> {
        let mut headers = Vec::new();
        let Opened { store, recovered } = Store::open(options, disk, &mut |header, len| {
            headers.push((header, len))
        })?;
        let now = read_back(&store, recovered, headers)?;
        Ok(Harness {
            store,
            now,
            dead: BTreeSet::new(),
        })
    }

    fn append(&mut self, main: i64, sub: u32, key: &str, len: usize) {
        let revision = Revision::new(main, sub);
        let (header, bytes) = record(revision, key, len);
        self.now
            .live
            .insert(revision, (header.clone(), bytes.clone()));
        self.store.append(header, bytes);
    }

    fn mark_dead(&mut self, revisions: &[Revision]) {
        for revision in revisions {
            self.now.live.remove(revision);
            self.dead.insert(*revision);
        }
        self.store.mark_dead(revisions);
    }

    fn put_state(&mut self, key: &str, value: &str) {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        self.now.state.insert(key.clone(), value.clone());
        self.store.put_state(key, value);
    }

    fn delete_state(&mut self, key: &str) {
        self.now.state.remove(key.as_bytes());
        self.store.delete_state(key.as_bytes());
    }

    fn freeze(&mut self, position: Position) -> Frozen {
        self.now.position = Some(position.clone());
        self.store.freeze(position)
    }

    /// Freezes and checkpoints.
    fn checkpoint(&mut self, index: u64) -> Result<Arc<Checkpoint>, StoreError> {
        let revision = self.now.live.keys().last().map_or(1, |last| last.main);
        let frozen = self.freeze(position(index, revision));
        self.store.keeper().checkpoint_now(&frozen)
    }

    /// Reads everything that should be readable, by every way there is.
    fn check(&self) {
        let reader = self.store.reader();
        let revisions: Vec<Revision> = self.now.live.keys().rev().copied().collect();
        let many = reader.read_many(&revisions).unwrap();
        for (revision, found) in revisions.iter().zip(many) {
            let (header, expected) = &self.now.live[revision];
            assert_eq!(&found, expected, "read_many {revision}");
            assert_eq!(
                &reader.read(*revision).unwrap(),
                expected,
                "read {revision}"
            );
            assert_eq!(&reader.read_cached(*revision).unwrap(), expected);
            assert_eq!(header.revision, *revision);
        }
        let scanned = scan(&self.store);
        for (revision, (header, bytes)) in &self.now.live {
            assert_eq!(
                scanned[revision],
                (header.tombstone, bytes.clone()),
                "scan {revision}"
            );
        }
        let checksums = reader
            .scan_checksums(Revision::MIN, i64::MAX)
            .map(Result::unwrap);
        let checksums: BTreeMap<Revision, Bytes> =
            checksums.map(|found| (found.revision, found.key)).collect();
        for (revision, (header, _)) in &self.now.live {
            assert_eq!(checksums[revision], header.key, "scan_checksums {revision}");
        }
        for revision in scanned.keys() {
            let known = self.now.live.contains_key(revision) || self.dead.contains(revision);
            assert!(known, "{revision} from nowhere");
        }
    }
}

/// All records present, checked against their checksums.
fn scan(store: &Store) -> BTreeMap<Revision, (bool, Bytes)> {
    let reader = store.reader();
    let records: Vec<StoredRecord> = reader
        .scan(Revision::MIN, i64::MAX)
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(records.is_sorted_by(|a, b| a.revision < b.revision));
    let checksums: Vec<StoredChecksum> = reader
        .scan_checksums(Revision::MIN, i64::MAX)
        .collect::<Result<_, _>>()
        .unwrap();
    let records: BTreeMap<Revision, (bool, Bytes)> = records
        .into_iter()
        .map(|found| (found.revision, (found.tombstone, found.record)))
        .collect();
    // The keeper may drop garbage between the two scans.
    for checksum in &checksums {
        let (tombstone, record) = &records[&checksum.revision];
        assert_eq!(
            (record.len(), *tombstone),
            (checksum.len as usize, checksum.tombstone)
        );
        assert_eq!(
            record_checksum(checksum.revision, *tombstone, record),
            checksum.crc32c
        );
    }
    records
}

fn read_back(
    store: &Store,
    recovered: Recovered,
    headers: Vec<(RecordHeader, u32)>,
) -> Result<Content, StoreError> {
    let reader = store.reader();
    let mut live = BTreeMap::new();
    for (header, len) in headers {
        let bytes = reader.read(header.revision)?;
        assert_eq!(bytes.len(), len as usize);
        assert!(live.insert(header.revision, (header, bytes)).is_none());
    }
    Ok(Content {
        position: recovered.position,
        state: recovered.state,
        live,
    })
}

/// What a restart finds.
fn reopen(disk: &SimDisk) -> Result<Content, StoreError> {
    Harness::open(disk).map(|harness| harness.now)
}

fn files_with(disk: &SimDisk, prefix: &str) -> usize {
    let files = disk.files();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files
        .keys()
        .filter(|path| name(path).starts_with(prefix))
        .count()
}
