//! What only the sled format can get wrong: damaged values, lost keys, blobs, disk space.

use std::fs;

use super::*;

fn entry(index: u64, bytes: usize) -> WalEntry {
    let payload = Bytes::from(vec![index as u8; bytes]);
    WalEntry {
        index,
        term: 2,
        kind: 1,
        payload,
    }
}

/// Frames of their own for entries 0 and 1, a chunked entry 2, one frame for 3 and 4.
fn small_log(backend: &mut SledBackend) {
    backend.append(&[entry(0, 5)], None).unwrap();
    backend
        .append(&[entry(1, 9)], Some(entry(0, 0).position()))
        .unwrap();
    backend.append(&[entry(2, 70_000)], None).unwrap();
    backend
        .append(&[entry(3, 1), entry(4, 0)], Some(entry(3, 0).position()))
        .unwrap();
}

fn open(dir: &tempfile::TempDir) -> SledBackend {
    SledBackend::open(dir.path(), true).unwrap().0
}

fn frames(backend: &SledBackend) -> Vec<(IVec, IVec)> {
    backend.log.iter().map(Result::unwrap).collect()
}

fn restore(backend: &SledBackend, frames: &[(IVec, IVec)]) {
    backend.log.clear().unwrap();
    for (key, value) in frames {
        backend.log.insert(key, value).unwrap();
    }
}

/// Recovers twice: the second time nothing is left to cut.
fn recover(backend: &mut SledBackend) -> Recovered {
    let recovered = backend.recover().unwrap();
    let again = backend.recover().unwrap();
    assert_eq!((again.last, again.cut), (recovered.last, None));
    recovered
}

#[test]
fn a_flipped_bit_in_any_value_cuts_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    small_log(&mut backend);
    let intact = frames(&backend);
    for (key, value) in &intact {
        let (index, _) = parse_key(key).unwrap();
        for at in (0..value.len()).filter(|at| *at < 100 || at % 5_003 == 0) {
            let mut damaged = value.to_vec();
            damaged[at] ^= 1 << (at % 8);
            backend.log.insert(key, damaged).unwrap();
            let recovered = recover(&mut backend);
            assert_eq!(
                recovered.last.map_or(0, |last| last.index + 1),
                index,
                "{index}, {at}"
            );
            assert!(recovered.committed.is_none_or(|c| c.index < index));
            let cut = recovered.cut.unwrap();
            assert_eq!(cut.index, index);
            assert_eq!(cut.valid_frames_behind > 0, index < 3, "{cut:?}");
            restore(&backend, &intact);
        }
    }
    assert_eq!(recover(&mut backend).last, Some(entry(4, 0).position()));
}

#[test]
fn a_lost_key_is_a_gap_and_what_follows_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    small_log(&mut backend);
    let intact = frames(&backend);
    for (key, _) in &intact[1..] {
        let (index, _) = parse_key(key).unwrap();
        backend.log.remove(key).unwrap();
        let recovered = recover(&mut backend);
        assert_eq!(recovered.last.map(|last| last.index + 1), Some(index));
        assert_eq!(recovered.cut.is_some(), index < 3);
        restore(&backend, &intact);
    }
}

#[test]
fn a_purge_interrupted_within_a_chunked_entry_loses_nothing_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    small_log(&mut backend);
    backend.mark_purged(entry(2, 0).position()).unwrap();
    for _ in 0..3 {
        let (first, _) = backend.log.iter().next().unwrap().unwrap();
        backend.log.remove(first).unwrap();
        let recovered = recover(&mut backend);
        assert_eq!((recovered.first, recovered.cut), (Some(3), None));
        assert_eq!(recovered.last, Some(entry(4, 0).position()));
    }
}

#[test]
fn a_damaged_vote_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    backend.save_vote(&Bytes::from_static(b"vote")).unwrap();
    backend.meta.insert(VOTE, b"KLOG and noise").unwrap();
    let error = backend.recover().unwrap_err();
    assert!(error.to_string().contains("vote"), "{error}");
}

#[test]
fn large_entries_and_churn_make_no_blobs_and_the_space_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    let mut next = 0;
    for round in 0..12 {
        for bytes in [3 << 20, 59 << 10, 61_000, 16 << 10, 15 << 10, 100] {
            backend
                .append(&[entry(next, bytes), entry(next + 1, bytes)], None)
                .unwrap();
            next += 2;
        }
        backend.sync().unwrap();
        backend.mark_purged(entry(next - 2, 0).position()).unwrap();
        while backend.purge_slice().unwrap() {}
        assert!(round > 0 || backend.log.len() < 20);
    }
    backend.sync().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    let db = fs::metadata(dir.path().join("db")).unwrap();
    assert!(
        db.len() < 90 << 20,
        "{} bytes after 75 MiB of entries, all purged",
        db.len()
    );
}

#[test]
fn a_second_open_of_the_same_directory_fails() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir);
    assert!(matches!(
        SledBackend::open(dir.path(), true),
        Err(WalError::Sled(_))
    ));
}

#[test]
fn the_file_grows_by_segments_and_is_recovered_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data_file = dir.path().join(sled_check::DATA_FILE);
    let segment = SEGMENT_BYTES as u64;
    let mut lens = Vec::new();
    for round in 0..4 {
        let (mut backend, recovered) = SledBackend::open(dir.path(), false).unwrap();
        let first = 70 * round;
        assert_eq!(recovered.last.map_or(0, |last| last.index + 1), first);
        assert_eq!(recovered.cut, None);
        for index in first..first + 70 {
            backend.append(&[entry(index, 60_000)], None).unwrap();
            backend.sync().unwrap();
            let len = fs::metadata(&data_file).unwrap().len();
            assert_eq!(len % segment, 0, "entry {index}");
            lens.push(len);
        }
    }
    lens.dedup();
    assert_eq!(lens[..2], [segment, 2 * segment]);
}

/// sled itself drops what follows damage and says nothing.
#[test]
fn a_flipped_bit_in_the_file_that_costs_durable_entries_is_refused_at_each_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut backend, _) = SledBackend::open(dir.path(), false).unwrap();
    for index in 0..100_u64 {
        let committed = index
            .checked_sub(1)
            .map(|before| entry(before, 0).position());
        backend.append(&[entry(index, 300)], committed).unwrap();
        backend.sync().unwrap();
    }
    drop(backend);
    let path = dir.path().join(sled_check::DATA_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let payload = [20; 300];
    let at = bytes
        .windows(300)
        .position(|found| found == payload)
        .unwrap();
    bytes[at + 150] ^= 4;
    fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let refused = SledBackend::open(dir.path(), false).err().unwrap();
        let text = refused.to_string();
        assert!(matches!(refused, WalError::Refused(_)), "{text}");
        assert!(text.contains("/db: the entries up to 9"), "{text}");
    }
}

#[test]
fn a_read_does_not_look_at_what_is_being_written_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = open(&dir);
    small_log(&mut backend);
    let reader = backend.reader();
    // Entry 2 has chunks, of which the writer has inserted the first one so far.
    backend.log.remove(key(2, 1)).unwrap();
    let read = reader.read(0..2, usize::MAX).unwrap();
    assert_eq!(read, [entry(0, 5), entry(1, 9)]);
    assert!(reader.read(0..3, usize::MAX).is_err());
}
