//! Damage at every byte: recovery never panics, and what it keeps is a prefix of what was written.

use std::fs;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;

use super::api::{LogPosition, Recovered, Wal, WalEntry, WalOptions};
use super::memory::MemoryDisk;
use super::open::open_file;

fn entry(index: u64, bytes: usize) -> WalEntry {
    let payload = Bytes::from(vec![index as u8; bytes]);
    WalEntry {
        index,
        term: 2,
        kind: 1,
        payload,
    }
}

fn append(wal: &dyn Wal, entry: WalEntry) {
    let (sender, receiver) = mpsc::channel();
    wal.append(
        vec![entry],
        Box::new(move |outcome| drop(sender.send(outcome))),
    );
    receiver.recv().unwrap().unwrap();
}

fn without_fsync() -> WalOptions {
    WalOptions {
        unsafe_no_fsync: true,
        ..WalOptions::default()
    }
}

/// The only segment of a fresh log with entries 0..6, and its length after each acknowledgement.
fn small_log() -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let wal = open_file(dir.path(), without_fsync()).unwrap();
    let segment = dir.path().join("0000000000000000.klog");
    let mut lengths = Vec::new();
    for index in 0..6 {
        append(&*wal, entry(index, index as usize * 5));
        lengths.push(fs::metadata(&segment).unwrap().len() as usize);
    }
    drop(wal);
    let mut bytes = fs::read(&segment).unwrap();
    bytes.truncate(*lengths.last().unwrap());
    (bytes, lengths)
}

fn recover(dir: &Path, bytes: &[u8]) -> Recovered {
    for item in fs::read_dir(dir).unwrap() {
        fs::remove_file(item.unwrap().path()).unwrap();
    }
    fs::write(dir.join("0000000000000000.klog"), bytes).unwrap();
    let wal = open_file(dir, without_fsync()).unwrap();
    let recovered = wal.recovered().clone();
    if let Some(last) = recovered.last {
        for read in wal.read(0..last.index + 1, 1 << 20).unwrap() {
            assert_eq!(read, entry(read.index, read.index as usize * 5));
        }
    }
    drop(wal);
    let again = open_file(dir, without_fsync()).unwrap();
    assert_eq!(again.recovered().last, recovered.last);
    assert_eq!(again.recovered().cut, None, "what was cut stays away");
    recovered
}

/// Power cut: the file ends anywhere behind the last sync.
#[test]
fn a_file_that_ends_anywhere_keeps_every_acknowledged_entry() {
    let (bytes, lengths) = small_log();
    let dir = tempfile::tempdir().unwrap();
    for end in 0..=bytes.len() {
        let recovered = recover(dir.path(), &bytes[..end]);
        let whole = lengths.iter().filter(|length| **length <= end).count() as u64;
        assert_eq!(
            recovered.last.map_or(0, |last| last.index + 1),
            whole,
            "cut at {end}"
        );
        let torn = !lengths.contains(&end) && end > 0;
        assert_eq!(recovered.cut.is_some(), torn, "cut at {end}");
        assert!(recovered.cut.is_none_or(|cut| cut.valid_frames_behind == 0));
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_file_cuts_there_and_says_what_lies_behind() {
    let (bytes, lengths) = small_log();
    let dir = tempfile::tempdir().unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let recovered = recover(dir.path(), &damaged);
        let whole = lengths.iter().filter(|length| **length <= at).count() as u64;
        assert_eq!(
            recovered.last.map_or(0, |last| last.index + 1),
            whole,
            "bit in byte {at}"
        );
        let cut = recovered.cut.unwrap();
        assert_eq!(
            (cut.index, cut.valid_frames_behind),
            (whole, 6 - whole - 1),
            "byte {at}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_as_a_file_never_panic(
        head in 0usize..3, noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (bytes, lengths) = small_log();
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = bytes[..lengths[head]].to_vec();
        damaged.extend(noise);
        let recovered = recover(dir.path(), &damaged);
        prop_assert_eq!(recovered.last.unwrap().index, head as u64);
    }

    #[test]
    fn a_power_cut_keeps_a_prefix_with_all_that_was_acknowledged(
        synced in 0u64..8, held in 0u64..8, surviving in 0usize..20, committed in 0u64..20,
    ) {
        let disk = MemoryDisk::new();
        let wal = disk.open();
        for index in 0..synced {
            append(&wal, entry(index, 3));
        }
        disk.hold();
        wal.save_committed(LogPosition { term: 2, index: committed.min(synced + held) });
        for index in synced..synced + held {
            wal.append(vec![entry(index, 3)], Box::new(drop));
        }
        disk.power_cut_keeping(surviving);
        let recovered = disk.open().recovered().clone();
        let entries = recovered.last.map_or(0, |last| last.index + 1);
        prop_assert_eq!(entries, synced + held.min(surviving as u64));
        let committed = recovered.committed.map_or(0, |committed| committed.index + 1);
        prop_assert!(committed <= entries);
    }
}
