//! One suite for every log: the promises of [`super::api`], checked on all three.

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;

use super::api::{Done, LogPosition, Recovered, Wal, WalEntry, WalOptions};
use super::error::WalError;
use super::memory::MemoryDisk;
use super::open::{open_file, open_sled};

/// A place where a log can be opened again and again.
enum Place {
    Sled(tempfile::TempDir),
    File(tempfile::TempDir),
    Memory(MemoryDisk),
}

impl Place {
    fn all() -> [Place; 3] {
        let dir = || tempfile::tempdir().unwrap();
        [
            Place::Sled(dir()),
            Place::File(dir()),
            Place::Memory(MemoryDisk::new()),
        ]
    }

    fn open(&self) -> Arc<dyn Wal> {
        match self {
            Place::Sled(dir) => open_sled(dir.path(), WalOptions::default()).unwrap(),
            Place::File(dir) => open_file(dir.path(), WalOptions::default()).unwrap(),
            Place::Memory(disk) => Arc::new(disk.open()),
        }
    }
}

fn done() -> (Done, impl FnOnce() -> Result<(), WalError>) {
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
    (done, move || receiver.recv().unwrap())
}

fn append(wal: &dyn Wal, entries: Vec<WalEntry>) -> Result<(), WalError> {
    let (done, wait) = done();
    wal.append(entries, done);
    wait()
}

fn save_vote(wal: &dyn Wal, vote: &'static [u8]) -> Result<(), WalError> {
    let (done, wait) = done();
    wal.save_vote(Bytes::from_static(vote), done);
    wait()
}

fn truncate(wal: &dyn Wal, index: Option<u64>) {
    let (done, wait) = done();
    wal.truncate_after(index, done);
    wait().unwrap();
}

fn purge(wal: &dyn Wal, term: u64, index: u64) {
    let (done, wait) = done();
    wal.purge_to(LogPosition { term, index }, done);
    wait().unwrap();
}

fn entry(term: u64, index: u64, bytes: usize) -> WalEntry {
    let payload = Bytes::from(vec![(index % 251) as u8; bytes]);
    WalEntry {
        index,
        term,
        kind: (index % 3) as u8,
        payload,
    }
}

fn run(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> Vec<WalEntry> {
    indexes.map(|index| entry(term, index, bytes)).collect()
}

fn all(wal: &dyn Wal, range: std::ops::Range<u64>) -> Vec<WalEntry> {
    let mut entries: Vec<WalEntry> = Vec::new();
    while (entries.len() as u64) < range.end - range.start {
        let next = range.start + entries.len() as u64;
        entries.extend(wal.read(next..range.end, 64 << 10).unwrap());
    }
    entries
}

#[test]
fn an_empty_log_knows_nothing() {
    for place in Place::all() {
        assert_eq!(place.open().recovered(), &Recovered::default());
        assert!(matches!(
            place.open().read(0..1, 1),
            Err(WalError::Missing { index: 0 })
        ));
    }
}

#[test]
fn entries_and_vote_come_back_after_a_restart() {
    for place in Place::all() {
        let sizes = [0, 1, 256, 16 << 10, 17_000, 70_000, 3 << 20, 1];
        let entries: Vec<_> = sizes
            .iter()
            .zip(0..)
            .map(|(bytes, index)| entry(index / 3, index, *bytes))
            .collect();
        {
            let wal = place.open();
            save_vote(&*wal, b"first").unwrap();
            append(&*wal, entries.clone()).unwrap();
            save_vote(&*wal, b"second").unwrap();
            assert_eq!(all(&*wal, 0..8), entries);
        }
        let wal = place.open();
        let recovered = wal.recovered();
        assert_eq!(recovered.vote.as_deref(), Some(&b"second"[..]));
        assert_eq!(
            (recovered.first, recovered.last),
            (Some(0), Some(entry(2, 7, 1).position()))
        );
        assert_eq!(recovered.cut, None);
        assert_eq!(all(&*wal, 0..8), entries);
        assert_eq!(all(&*wal, 5..7), entries[5..7]);
        append(&*wal, run(9, 8..9, 5)).unwrap();
        assert_eq!(all(&*wal, 7..9).last(), Some(&entry(9, 8, 5)));
    }
}

#[test]
fn a_read_is_bounded_by_bytes_but_never_empty() {
    for place in Place::all() {
        let wal = place.open();
        append(&*wal, run(1, 0..50, 1_000)).unwrap();
        assert_eq!(wal.read(3..50, 1).unwrap(), run(1, 3..4, 1_000));
        assert_eq!(wal.read(3..50, 5_500).unwrap(), run(1, 3..8, 1_000));
        assert_eq!(wal.read(48..90, 1 << 20).unwrap(), run(1, 48..50, 1_000));
        assert_eq!(wal.read(4..4, 1).unwrap(), vec![]);
        assert!(wal.read(50..51, 1).is_err());
    }
}

#[test]
fn an_entry_that_leaves_a_hole_is_refused_and_the_log_goes_on() {
    for place in Place::all() {
        let wal = place.open();
        append(&*wal, run(1, 4..6, 9)).unwrap();
        let error = append(&*wal, run(1, 7..8, 9)).unwrap_err();
        assert!(
            matches!(error, WalError::NotContiguous { next: 6, got: 7 }),
            "{error}"
        );
        append(&*wal, run(1, 6..8, 9)).unwrap();
        assert_eq!(all(&*wal, 4..8), run(1, 4..8, 9));
    }
}

#[test]
fn a_truncated_tail_never_comes_back() {
    for place in Place::all() {
        for bytes in [10, 40_000] {
            let wal = place.open();
            let next = wal.recovered().end().map_or(0, |end| end.index + 1);
            append(&*wal, run(1, next..next + 20, bytes)).unwrap();
            truncate(&*wal, Some(next + 6));
            assert!(wal.read(next + 7..next + 8, 1).is_err());
            drop(wal);

            let wal = place.open();
            assert_eq!(wal.recovered().last, Some(entry(1, next + 6, 0).position()));
            append(&*wal, run(2, next + 7..next + 10, bytes)).unwrap();
            drop(wal);

            let wal = place.open();
            assert_eq!(all(&*wal, next..next + 7), run(1, next..next + 7, bytes));
            assert_eq!(
                all(&*wal, next + 7..next + 10),
                run(2, next + 7..next + 10, bytes)
            );
        }
        let wal = place.open();
        truncate(&*wal, None);
        drop(wal);
        let wal = place.open();
        assert_eq!((wal.recovered().first, wal.recovered().end()), (None, None));
        append(&*wal, run(3, 0..2, 1)).unwrap();
    }
}

#[test]
fn purged_entries_are_gone_and_the_log_goes_on_behind_them() {
    for place in Place::all() {
        let wal = place.open();
        append(&*wal, run(1, 0..3_000, 20)).unwrap();
        purge(&*wal, 1, 1_234);
        assert_eq!(all(&*wal, 1_235..1_300), run(1, 1_235..1_300, 20));
        drop(wal);

        let wal = place.open();
        let recovered = wal.recovered();
        assert_eq!(
            recovered.purged,
            Some(LogPosition {
                term: 1,
                index: 1_234
            })
        );
        assert_eq!(recovered.first, Some(1_235));
        assert_eq!(recovered.cut, None);
        purge(&*wal, 5, 10_000);
        append(&*wal, run(6, 10_001..10_003, 70_000)).unwrap();
        drop(wal);

        let wal = place.open();
        let recovered = wal.recovered();
        assert_eq!(
            recovered.purged,
            Some(LogPosition {
                term: 5,
                index: 10_000
            })
        );
        assert_eq!(recovered.first, Some(10_001));
        assert_eq!(all(&*wal, 10_001..10_003), run(6, 10_001..10_003, 70_000));
        purge(&*wal, 6, 10_002);
        drop(wal);

        let wal = place.open();
        assert_eq!(wal.recovered().last, None);
        assert_eq!(
            wal.recovered().end(),
            Some(LogPosition {
                term: 6,
                index: 10_002
            })
        );
        append(&*wal, run(6, 10_003..10_004, 1)).unwrap();
    }
}

#[test]
fn the_saved_commit_comes_back_and_never_passes_the_log() {
    for place in Place::all() {
        let wal = place.open();
        append(&*wal, run(1, 0..10, 8)).unwrap();
        wal.save_committed(LogPosition { term: 1, index: 4 });
        wal.close().unwrap();
        drop(wal);

        let wal = place.open();
        assert_eq!(
            wal.recovered().committed,
            Some(LogPosition { term: 1, index: 4 })
        );
        wal.save_committed(LogPosition {
            term: 7,
            index: 500,
        });
        append(&*wal, run(2, 10..12, 8)).unwrap();
        wal.close().unwrap();
        drop(wal);

        let wal = place.open();
        assert_eq!(
            wal.recovered().committed,
            Some(LogPosition { term: 2, index: 11 })
        );
    }
}

#[test]
fn a_commit_never_names_an_entry_that_a_queued_truncation_replaces() {
    let ignore = || -> Done { Box::new(drop) };
    for surviving in 0..=3 {
        let copy = MemoryDisk::new();
        let again = copy.open();
        copy.hold();
        again.append(run(1, 0..3, 8), ignore());
        again.truncate_after(Some(0), ignore());
        again.append(run(2, 1..2, 8), ignore());
        again.save_committed(LogPosition { term: 2, index: 1 });
        copy.power_cut_keeping(surviving);
        let committed = copy.open().recovered().committed;
        assert!(
            committed.is_none_or(|c| c == LogPosition { term: 2, index: 1 }),
            "{committed:?}"
        );
    }
}

#[test]
fn a_closed_log_refuses() {
    for place in Place::all() {
        let wal = place.open();
        append(&*wal, run(1, 0..1, 8)).unwrap();
        wal.close().unwrap();
        assert!(append(&*wal, run(1, 1..2, 8)).is_err());
        assert!(save_vote(&*wal, b"late").is_err());
        wal.close().unwrap();
    }
}

#[test]
fn of_concurrent_appends_the_watermark_reaches_the_last() {
    for place in Place::all() {
        let wal = place.open();
        let (sender, receiver) = mpsc::channel();
        for index in 0..2_000u64 {
            let sender = sender.clone();
            let done = move |outcome: Result<(), WalError>| drop(sender.send((index, outcome)));
            wal.append(run(1, index..index + 1, 100), Box::new(done));
        }
        drop(sender);
        let mut highest = None;
        for (index, outcome) in receiver {
            outcome.unwrap();
            assert!(highest.is_none_or(|highest| highest < index));
            highest = Some(index);
        }
        assert_eq!(highest, Some(1_999));
        drop(wal);
        assert_eq!(all(&*place.open(), 0..2_000), run(1, 0..2_000, 100));
    }
}

#[test]
fn power_cut_in_memory_loses_only_what_was_not_acknowledged() {
    let disk = MemoryDisk::new();
    let wal = disk.open();
    append(&wal, run(1, 0..5, 8)).unwrap();
    disk.hold();
    let (sender, receiver) = mpsc::channel::<()>();
    wal.append(run(1, 5..7, 8), Box::new(move |_| drop(sender)));
    assert_eq!(all(&wal, 0..7).len(), 7);
    assert_eq!(disk.unsynced(), 1);
    disk.power_cut();
    assert!(receiver.recv().is_err(), "no acknowledgement");
    assert!(matches!(
        append(&wal, run(1, 7..8, 8)),
        Err(WalError::Closed)
    ));
    let wal = disk.open();
    assert_eq!(
        wal.recovered().last,
        Some(LogPosition { term: 1, index: 4 })
    );
}

#[test]
fn a_failed_sync_poisons_the_log() {
    let disk = MemoryDisk::new();
    let wal = disk.open();
    disk.fail_next_sync("no space");
    assert!(matches!(
        append(&wal, run(1, 0..1, 8)),
        Err(WalError::Injected(_))
    ));
    assert!(matches!(save_vote(&wal, b"v"), Err(WalError::Poisoned(_))));
    assert!(wal.close().is_err());
}

/// What a log must hold, as a list.
#[derive(Default)]
struct Model {
    entries: Vec<WalEntry>,
    purged: Option<LogPosition>,
}

impl Model {
    fn end(&self) -> Option<LogPosition> {
        self.entries.last().map(WalEntry::position).or(self.purged)
    }

    fn check(&self, wal: &dyn Wal) {
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            assert_eq!(all(wal, first.index..last.index + 1), self.entries);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Truncate { back: u64 },
    Purge { ahead: i64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..40, 0usize..3_000).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (1u64..3, 14_000usize..150_000).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => (0u64..30).prop_map(|back| Step::Truncate { back }),
        2 => (-30i64..3).prop_map(|ahead| Step::Purge { ahead }),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_history_leaves_what_a_list_would_hold(steps in proptest::collection::vec(step(), 1..30)) {
        for place in Place::all() {
            let mut wal = place.open();
            let mut model = Model::default();
            for (term, step) in (1..).zip(&steps) {
                let end = model.end().map_or(-1, |end| end.index as i64);
                match step {
                    Step::Append { count, bytes } => {
                        let next = (end + 1) as u64;
                        let entries = run(term, next..next + count, *bytes);
                        append(&*wal, entries.clone()).unwrap();
                        model.entries.extend(entries);
                    }
                    Step::Truncate { back } => {
                        let floor = model.purged.map_or(0, |purged| purged.index as i64);
                        let index = (end - *back as i64).max(floor).max(0) as u64;
                        truncate(&*wal, Some(index));
                        model.entries.retain(|entry| entry.index <= index);
                    }
                    Step::Purge { ahead } => {
                        let floor = model.purged.map_or(0, |purged| purged.index as i64);
                        let index = (end + ahead).max(floor).max(0) as u64;
                        purge(&*wal, term, index);
                        model.entries.retain(|entry| entry.index > index);
                        model.purged = Some(LogPosition { term, index });
                    }
                    Step::Restart => {
                        drop(wal);
                        wal = place.open();
                        let recovered = wal.recovered();
                        prop_assert_eq!(recovered.cut.clone(), None);
                        prop_assert_eq!(recovered.purged, model.purged);
                        prop_assert_eq!(recovered.first, model.entries.first().map(|e| e.index));
                        prop_assert_eq!(recovered.end(), model.end());
                    }
                }
                model.check(&*wal);
            }
        }
    }
}
