//! Records held for a snapshot file.

use super::*;

fn revisions(records: &LiveRecords) -> (Vec<Revision>, Vec<Revision>) {
    let (mut by_length, mut read) = (Vec::new(), Vec::new());
    records.lengths(&mut |revision, _, len| {
        assert!(len > 0);
        by_length.push(revision);
    });
    let mut scan = records.scan();
    while let Some(found) = scan.next().unwrap() {
        read.push(found.revision);
    }
    (by_length, read)
}

#[test]
fn what_was_alive_is_shown_whatever_happens_and_tails_are_let_go() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    let at = |main| Revision::new(main, 0);
    for main in 2..40 {
        harness.append(main, 0, "k", 20);
    }
    harness.mark_dead(&[at(5), at(6)]);
    let frozen = harness.store.freeze(position(1, 39));
    harness.store.keeper().checkpoint_now(&frozen).unwrap();
    for main in 40..60 {
        harness.append(main, 0, "k", 20);
    }
    harness.mark_dead(&[at(7), at(41)]);
    let mut records = harness.store.reader().live_records(59);
    let expected: Vec<Revision> = (2..60)
        .filter(|main| ![5, 6, 7, 41].contains(main))
        .map(at)
        .collect();
    assert_eq!(revisions(&records), (expected.clone(), expected.clone()));
    let tail = Arc::downgrade(&records.shared().table.load().tail);
    let frozen = harness.store.freeze(position(2, 59));
    for main in 60..70 {
        harness.append(main, 0, "k", 20);
    }
    harness.store.keeper().checkpoint_now(&frozen).unwrap();
    drop(frozen);
    assert!(tail.upgrade().is_some());
    records.settle();
    assert!(tail.upgrade().is_none(), "records stay in memory");
    assert_eq!(revisions(&records), (expected.clone(), expected.clone()));
    let all: Vec<Revision> = expected.clone();
    harness.mark_dead(&all);
    let frozen = harness.store.freeze(position(3, 69));
    harness.store.keeper().defragment_now(&frozen).unwrap();
    drop(harness);
    assert_eq!(revisions(&records), (expected.clone(), expected));
}

#[test]
fn a_replaced_file_is_closed_by_the_keeper_whoever_read_it_last() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    for main in 2..40 {
        harness.append(main, 0, "k", 20);
    }
    let keeper = harness.store.keeper();
    let first = harness.store.freeze(position(1, 39));
    keeper.checkpoint_now(&first).unwrap();
    let reader = harness.store.reader();
    let held = reader.handle(Revision::new(9, 0)).unwrap();
    harness.mark_dead(&[Revision::new(5, 0)]);
    let frozen = harness.store.freeze(position(2, 39));
    keeper.defragment_now(&frozen).unwrap();
    drop((first, frozen));
    let read = held.read().unwrap();
    assert!(keeper.close_retired(), "a file that is read was closed");
    drop((held, read));
    let retired = keeper.retired();
    assert!(retired > 0, "the reader has closed it");
    assert!(!keeper.close_retired());
    assert_eq!(keeper.retired(), 0);
}
