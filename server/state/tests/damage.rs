//! Files that are damaged where it can be made good, and where it cannot (store-notes 5).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{Member, put};
use keelson_state::apply::{State, StateOptions};
use keelson_state::store::{RealDisk, StoreOptions};

/// A checkpoint with every kind of record, its only segment, and the hash of what it holds.
fn checkpoint() -> (Member, PathBuf, u32) {
    let mut member = Member::new();
    for n in 0..20 {
        let key = format!("k{}", n % 7);
        member.put(put(&key, &format!("value {n}"))).unwrap();
    }
    member.delete("k3", "").unwrap();
    let member = member.restart();
    let segments: Vec<_> = std::fs::read_dir(member.dir.path().join("store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("seg-")
        })
        .collect();
    assert_eq!(segments.len(), 1);
    let hash = member.hash_kv(0).unwrap().0;
    (member, segments[0].clone(), hash)
}

/// Where the index block of the last chunk lies.
fn index_block(segment: &[u8]) -> std::ops::Range<usize> {
    let footer = segment.len() - 32;
    let len = u32::from_le_bytes(segment[footer + 12..footer + 16].try_into().unwrap());
    footer - len as usize..footer
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_index_block_is_rebuilt_from_its_records() {
    let (member, segment, hash) = checkpoint();
    let block = index_block(&std::fs::read(&segment).unwrap());
    let mut member = member;
    for offset in block {
        flip(&segment, offset);
        // Both what is read at the start and what is read of the block later.
        member = member.reopen();
        assert_eq!(member.hash_kv(0).unwrap().0, hash, "offset {offset}");
        assert_eq!(member.reader().keys_total(), 6);
        flip(&segment, offset);
    }
    // What the damaged file can still do, the next checkpoint does too.
    flip(
        &segment,
        index_block(&std::fs::read(&segment).unwrap()).start,
    );
    let mut member = member.reopen();
    member.put(put("more", "1")).unwrap();
    let member = member.restart();
    assert_eq!(member.reader().keys_total(), 7);
}

#[test]
fn a_damaged_record_under_a_damaged_index_block_is_fatal() {
    let (member, segment, _) = checkpoint();
    let bytes = std::fs::read(&segment).unwrap();
    flip(&segment, index_block(&bytes).start);
    // The first frame begins behind the file's header; its record behind the frame's.
    flip(&segment, 16 + 20 + 3);
    let directory = member.dir;
    drop(member.state);
    let options = StateOptions {
        store: StoreOptions::new(directory.path().join("store")),
        disk: std::sync::Arc::new(RealDisk),
        sink: Box::new(common::Sink::default()),
    };
    let Err(error) = State::open(options) else {
        panic!("opened over damage")
    };
    let error = error.to_string();
    assert!(error.contains(&segment.display().to_string()), "{error}");
    assert!(error.contains("16"), "the record's offset: {error}");
}
