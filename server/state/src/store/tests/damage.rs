//! Damaged files: an error that names the file, or intact data; never a panic (R12).

use super::*;

/// A small store with every kind of file.
fn sample() -> (SimDisk, Content) {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    for main in 2..6 {
        harness.append(main, 0, "key", 12);
    }
    harness.put_state("lease", "60");
    harness.checkpoint(1).unwrap();
    harness.append(7, 0, "key", 0);
    harness.mark_dead(&[Revision::new(3, 0)]);
    harness.put_state("lease", "70");
    harness.checkpoint(2).unwrap();
    for prefix in ["manifest", "seg-", "state-", "dead-"] {
        assert_eq!(files_with(&disk, prefix), 1, "{prefix}");
    }
    let content = harness.now.clone();
    drop(harness);
    assert_eq!(reopen(&disk).unwrap(), content);
    (disk, content)
}

/// Opens and reads everything; damage must not go unnoticed.
fn outcome(disk: &SimDisk, expected: &Content, what: &str) {
    let found = Harness::open(disk).and_then(|harness| {
        let reader = harness.store.reader();
        reader
            .scan(Revision::MIN, i64::MAX)
            .collect::<Result<Vec<_>, _>>()?;
        reader
            .scan_checksums(Revision::MIN, i64::MAX)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(harness.now.clone())
    });
    match found {
        Ok(found) => assert_eq!(&found, expected, "{what}: wrong data without an error"),
        Err(error) => {
            assert!(error.is_fatal(), "{what}: {error}");
            assert!(
                error.to_string().contains(DIR),
                "{what}: {error} names no file"
            );
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (disk, content) = sample();
    let mut unnoticed = 0;
    for (path, bytes) in disk.files() {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            disk.put(&path, damaged);
            unnoticed += usize::from(reopen(&disk).is_ok_and(|found| found == content));
            outcome(&disk, &content, &format!("{} bit {bit}", path.display()));
        }
        disk.put(&path, bytes);
    }
    // A flip within a dead record is the only one that changes nothing that is read at a start.
    assert!(unnoticed < 60 * 8, "{unnoticed} flips unnoticed");
}

#[test]
fn every_cut_and_every_missing_file_is_noticed() {
    let (disk, content) = sample();
    for (path, bytes) in disk.files() {
        for len in 0..bytes.len() {
            disk.put(&path, bytes[..len].to_vec());
            assert!(reopen(&disk).is_err(), "{} cut to {len}", path.display());
            outcome(&disk, &content, "cut");
        }
        disk.remove(&path).unwrap();
        let error = reopen(&disk).unwrap_err();
        assert!(error.is_fatal(), "{error}");
        disk.put(&path, bytes);
    }
}

#[test]
fn bytes_beyond_the_valid_length_are_cut() {
    let (disk, content) = sample();
    for (path, mut bytes) in disk.files() {
        if path.ends_with("manifest") {
            continue;
        }
        let len = bytes.len();
        bytes.extend_from_slice(&[0xa5; 100]);
        disk.put(&path, bytes);
        assert_eq!(reopen(&disk).unwrap(), content);
        assert_eq!(disk.files()[&path].len(), len);
    }
}

#[test]
fn data_without_a_manifest_is_not_taken_for_an_empty_store() {
    let (disk, _) = sample();
    disk.remove(&Path::new(DIR).join("manifest")).unwrap();
    let error = reopen(&disk).unwrap_err();
    assert!(matches!(error, StoreError::NoManifest { .. }), "{error}");
    assert!(files_with(&disk, "seg-") == 1, "and nothing was deleted");
}

#[test]
fn a_damaged_record_names_file_and_offset() {
    let (disk, content) = sample();
    let files = disk.files();
    let is_segment = |path: &&std::path::PathBuf| path.to_string_lossy().contains("seg-");
    let path = files.keys().find(is_segment).unwrap();
    let (revision, (_, bytes)) = content.live.first_key_value().unwrap();
    let mut damaged = files[path].clone();
    let found = damaged
        .windows(bytes.len())
        .position(|window| window == &bytes[..])
        .unwrap();
    damaged[found + 3] ^= 1;
    disk.put(path, damaged);
    let Opened { store, .. } =
        Store::open(options(), Arc::new(disk.clone()), &mut |_, _| {}).unwrap();
    match store.reader().read(*revision).unwrap_err() {
        StoreError::Corrupt {
            path: named,
            offset,
            ..
        } => {
            assert_eq!(&named, path);
            assert_eq!(offset, 16, "the first frame");
        }
        other => panic!("{other}"),
    }
    assert!(store.reader().read_many(&[*revision]).is_err());
    assert!(store.reader().read_cached(*revision).is_none());
}

#[test]
fn unknown_files_are_left_alone() {
    let (disk, content) = sample();
    let stranger = Path::new(DIR).join("notes.txt");
    disk.put(&stranger, b"mine".to_vec());
    disk.put(
        &Path::new(DIR).join("seg-00000000000000ff"),
        b"left by a crash".to_vec(),
    );
    assert_eq!(reopen(&disk).unwrap(), content);
    assert!(disk.files().contains_key(&stranger));
    assert_eq!(files_with(&disk, "seg-"), 1);
}
