//! The rules that say when garbage may leave the disk (store-notes 5).

use super::*;

fn at(main: i64) -> Revision {
    Revision::new(main, 0)
}

/// Garbage leaves the disk only if its compaction is in the durable manifest. k stands at 50 in a
/// checkpoint; it is put at 60 and compacted at 60 after it. A rewrite then must keep 50: a restart
/// replays the log from the checkpoint, and a compare on k needs it.
#[test]
fn g1_garbage_newer_than_the_manifest_stays() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(49, 0, "garbage already", 30);
    harness.append(50, 0, "k", 30);
    harness.checkpoint(1).unwrap();
    harness.mark_dead(&[at(49)]);
    let frozen = harness.freeze(position(2, 50));
    let durable = harness.now.clone();
    harness.store.keeper().checkpoint_now(&frozen).unwrap();
    assert_eq!(scan(&harness.store).len(), 2, "nothing was rewritten yet");

    harness.append(60, 0, "k", 30);
    harness.mark_dead(&[at(50)]);
    // The same freeze again: no new checkpoint, but all segments with garbage are rewritten.
    harness.store.keeper().defragment_now(&frozen).unwrap();
    assert!(
        !scan(&harness.store).contains_key(&at(49)),
        "the segment was rewritten"
    );
    harness.check();
    assert_eq!(reopen(&disk).unwrap(), durable);
}

/// The same between the freeze and its manifest: only what was garbage at the freeze is dropped.
#[test]
fn g1_garbage_newer_than_the_freeze_stays() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(2, 0, "k", 30);
    harness.append(3, 0, "k", 30);
    harness.mark_dead(&[at(2)]);
    let frozen = harness.freeze(position(1, 3));
    let durable = harness.now.clone();
    harness.mark_dead(&[at(3)]);
    harness.store.keeper().defragment_now(&frozen).unwrap();
    assert_eq!(reopen(&disk).unwrap(), durable);

    // The bit set meanwhile was carried over, and counts at the next checkpoint.
    let frozen = harness.freeze(position(2, 3));
    harness.store.keeper().defragment_now(&frozen).unwrap();
    assert!(scan(&harness.store).is_empty());
    assert!(reopen(&disk).unwrap().live.is_empty());
}

/// A freeze whose chunks were rewritten before it is written: its bits are found by revision.
#[test]
fn g1_bits_of_a_freeze_survive_a_rewrite_before_it() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    for main in 2..8 {
        harness.append(main, 0, "k", 30);
    }
    harness.mark_dead(&[at(2)]);
    let first = harness.freeze(position(1, 7));
    harness.store.keeper().checkpoint_now(&first).unwrap();
    harness.append(8, 0, "k", 30);
    harness.append(9, 0, "k", 30);
    harness.mark_dead(&[at(4)]);
    let second = harness.freeze(position(2, 9));
    harness.mark_dead(&[at(5), at(8)]);
    let third = harness.freeze(position(3, 9));
    // The second is written and everything rewritten; the third still names the old chunks.
    harness.store.keeper().defragment_now(&second).unwrap();
    harness.store.keeper().checkpoint_now(&third).unwrap();
    harness.check();
    let found = reopen(&disk).unwrap();
    assert_eq!(found, harness.now);
    assert_eq!(found.live.len(), 4);
}

/// A dead tombstone goes only if no older record of its key can come back. k is put at 2 in one
/// segment and deleted at 3 in another; after compaction only the second segment is rewritten.
/// After a restart k must not live again.
#[test]
fn g2_a_rewritten_tombstone_leaves_its_key_dead() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(2, 0, "k", 30);
    harness.append(2, 1, "kept", 900);
    harness.checkpoint(1).unwrap();
    harness.append(3, 0, "k", 0);
    harness.append(3, 1, "kept too", 5);
    harness.append(3, 2, "gone too", 500);
    harness.checkpoint(2).unwrap();
    assert_eq!(files_with(&disk, "seg-"), 2);

    harness.mark_dead(&[at(2), at(3), Revision::new(3, 2)]);
    harness.checkpoint(3).unwrap();
    let present = scan(&harness.store);
    assert!(
        present.contains_key(&at(2)),
        "the first segment was not rewritten"
    );
    assert!(!present.contains_key(&at(3)), "the second one was");
    let found = reopen(&disk).unwrap();
    assert_eq!(found, harness.now);
    assert!(!found.live.contains_key(&at(2)), "k lives again");
}

/// The log is purged behind a committed manifest only: who asked hears of it no earlier.
#[test]
fn g3_a_checkpoint_is_reported_only_once_it_is_durable() {
    let disk = SimDisk::new();
    let (mut reported, mut index) = (0, 0);
    for operation in 1..40 {
        let mut harness = Harness::open(&disk).unwrap();
        index += 1;
        harness.append(index + 1, 0, "k", 30);
        disk.cut_at(disk.operations() + operation);
        let durable = harness.checkpoint(index as u64).is_ok();
        let expected = harness.now.clone();
        drop(harness);
        disk.restart(Survival::Nothing);
        if durable {
            assert_eq!(reopen(&disk).unwrap(), expected, "operation {operation}");
            reported += 1;
        }
    }
    assert!(
        reported > 10 && reported < 35,
        "{reported} of 39 were reported"
    );
}

#[test]
fn small_neighbours_are_merged_and_readers_notice_nothing() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    let reader = harness.store.reader();
    let mut early = None;
    for main in 2..40 {
        harness.append(main, 0, "key", 300);
        harness.checkpoint(main as u64).unwrap();
        if main == 4 {
            early = Some(reader.scan(Revision::MIN, main));
        }
        harness.check();
    }
    let segments = files_with(&disk, "seg-");
    assert!(segments < 14, "{segments} segments for 38 records");
    let early: Vec<StoredRecord> = early.unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(
        early.len(),
        3,
        "a scan goes on in files that were merged under it"
    );
}
