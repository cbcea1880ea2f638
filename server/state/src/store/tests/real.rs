//! On a real file system, with the keeper's own thread.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::*;

/// How long a checkpoint may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path) -> Harness {
    let options = StoreOptions {
        dir: dir.join("store"),
        keeper_thread: true,
        segment_seal_bytes: 64 << 10,
        segment_merge_bytes_max: 1 << 20,
        cache_bytes_max: 256 << 10,
    };
    Harness::open_with(options, Arc::new(RealDisk)).unwrap()
}

fn checkpoint(harness: &mut Harness, index: u64, main: i64) {
    let frozen = harness.freeze(position(index, main));
    let (sender, receiver) = sync_channel(1);
    let done = Box::new(move |result: Result<Arc<Checkpoint>, StoreError>| {
        sender
            .send(result.map(|checkpoint| checkpoint.position().applied_index))
            .unwrap();
    });
    harness.store.keeper().checkpoint(frozen, done);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().unwrap(), index);
}

#[test]
fn survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut main = 1;
    for round in 1..6 {
        let mut harness = open(dir.path());
        for _ in 0..300 {
            main += 1;
            harness.append(main, 0, &format!("key-{}", main % 50), 300);
        }
        let old = harness
            .now
            .live
            .keys()
            .filter(|found| found.main < main - 200);
        let old: Vec<Revision> = old.copied().collect();
        harness.mark_dead(&old);
        harness.put_state("round", &round.to_string());
        checkpoint(&mut harness, round, main);
        harness.check();
        let expected = harness.now.clone();
        drop(harness);
        assert_eq!(open(dir.path()).now, expected);
    }
}

#[test]
fn nobody_else_may_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = open(dir.path());
    harness.append(2, 0, "k", 10);
    harness.put_state("s", "1");
    checkpoint(&mut harness, 1, 2);
    let store = dir.path().join("store");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&store).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
        files += 1;
    }
    assert_eq!(files, 3);
}

/// Readers on other threads see every record that was appended, bytes intact, while checkpoints
/// and rewrites move it from memory to disk and from file to file.
#[test]
fn readers_notice_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = open(dir.path());
    let newest = Arc::new(AtomicI64::new(1));
    let oldest = Arc::new(AtomicI64::new(2));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let reader = harness.store.reader();
            let (newest, oldest, stop) = (newest.clone(), oldest.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut reads = 0_i64;
                while !stop.load(Ordering::Acquire) || reads < 100 {
                    let high = newest.load(Ordering::Acquire);
                    // What is compacted while a read is on its way may be gone: stay clear of it.
                    let low = oldest.load(Ordering::Acquire) + 300;
                    if low < high {
                        let main = low + (reads * 7919 + seed) % (high - low);
                        let at = Revision::new(main, 0);
                        let expected = record(at, "key", 200).1;
                        assert_eq!(reader.read(at).unwrap(), expected);
                        let run: Vec<Revision> = (main..high.min(main + 20))
                            .map(|main| Revision::new(main, 0))
                            .collect();
                        assert_eq!(reader.read_many(&run).unwrap().len(), run.len());
                    }
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut index = 0;
    for main in 2..4000 {
        harness.append(main, 0, "key", 200);
        newest.store(main, Ordering::Release);
        if main % 150 == 0 {
            if main > 1500 {
                let low = main - 1200;
                let from = oldest.swap(low, Ordering::AcqRel);
                let old: Vec<Revision> = (from..low).map(|main| Revision::new(main, 0)).collect();
                harness.mark_dead(&old);
            }
            index += 1;
            checkpoint(&mut harness, index, main);
        }
    }
    stop.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() >= 100);
    }
    index += 1;
    checkpoint(&mut harness, index, 3999);
    let expected = harness.now.clone();
    drop(harness);
    assert_eq!(open(dir.path()).now, expected);
}

#[test]
fn requests_that_wait_are_merged_and_all_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = open(dir.path());
    let (sender, receiver) = sync_channel(100);
    for index in 1..=40 {
        harness.append(index + 1, 0, "k", 100);
        let frozen = harness.freeze(position(index as u64, index + 1));
        let sender = sender.clone();
        let done = Box::new(move |result: Result<Arc<Checkpoint>, StoreError>| {
            sender
                .send((index as u64, result.unwrap().position().applied_index))
                .unwrap();
        });
        if index % 10 == 0 {
            harness.store.keeper().defragment(frozen, done);
        } else {
            harness.store.keeper().checkpoint(frozen, done);
        }
    }
    for _ in 0..40 {
        let (asked, got) = receiver.recv_timeout(PATIENCE).unwrap();
        assert!(got >= asked, "asked for {asked}, got {got}");
    }
    let keeper = harness.store.keeper();
    let frozen = harness.freeze(position(41, 42));
    keeper.shutdown();
    keeper.checkpoint(
        frozen,
        Box::new(move |result| {
            assert!(matches!(result, Err(StoreError::ShutDown)));
            sender.send((0, 0)).unwrap();
        }),
    );
    receiver.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn records_in_the_page_cache_are_read_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut harness = open(dir.path());
    harness.append(2, 0, "k", 5000);
    checkpoint(&mut harness, 1, 2);
    let expected = harness.now.clone();
    drop(harness);
    let harness = open(dir.path());
    let reader = harness.store.reader();
    let revision = Revision::new(2, 0);
    assert_eq!(reader.read_cached(revision), None, "nothing read yet");
    match reader.read_resident(revision).unwrap() {
        Some(record) => assert_eq!(record, reader.read(revision).unwrap()),
        None => eprintln!("NOTE: this file system cannot tell what it has in memory: not tested"),
    }
    assert!(reader.read_resident(Revision::new(3, 0)).is_err());
    assert_eq!(harness.now, expected);
}
