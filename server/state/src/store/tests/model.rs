//! Random histories: append, compact, checkpoint, defragment, restart.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        records: u32,
        key: u8,
        len: usize,
    },
    /// Marks every n-th live record, from the oldest.
    Compact {
        every: usize,
        count: usize,
    },
    State {
        key: u8,
        delete: bool,
    },
    Checkpoint,
    /// Freezes now, and writes that at the next checkpoint or never.
    Freeze,
    Defragment,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u32, 0..6u8, prop_oneof![Just(0), 1..90usize])
            .prop_map(|(records, key, len)| Step::Append { records, key, len }),
        3 => (1..4usize, 1..12usize).prop_map(|(every, count)| Step::Compact { every, count }),
        2 => (0..5u8, any::<bool>()).prop_map(|(key, delete)| Step::State { key, delete }),
        3 => Just(Step::Checkpoint),
        1 => Just(Step::Freeze),
        1 => Just(Step::Defragment),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn holds_what_was_frozen(steps in proptest::collection::vec(step(), 1..80)) {
        run(&steps);
    }
}

fn run(steps: &[Step]) {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    let mut durable = harness.now.clone();
    let mut held: Option<Frozen> = None;
    let (mut main, mut index) = (1, 0);
    for step in steps {
        match step {
            Step::Append { records, key, len } => {
                main += 1;
                for sub in 0..*records {
                    harness.append(main, sub, &format!("key-{key}"), *len);
                }
            }
            Step::Compact { every, count } => {
                let live = harness.now.live.keys().copied();
                let marked: Vec<Revision> = live.step_by(*every).take(*count).collect();
                harness.mark_dead(&marked);
            }
            Step::State { key, delete: false } => {
                harness.put_state(&format!("s{key}"), &format!("{main}"));
            }
            Step::State { key, delete: true } => harness.delete_state(&format!("s{key}")),
            Step::Freeze => {
                index += 1;
                // What an older freeze stood for is written with the newer one.
                held = Some(harness.freeze(position(index, main)));
                durable_later(&mut durable, &harness);
                harness
                    .store
                    .keeper()
                    .checkpoint_now(held.as_ref().unwrap())
                    .unwrap();
            }
            Step::Checkpoint => {
                index += 1;
                harness.checkpoint(index).unwrap();
                durable_later(&mut durable, &harness);
                // An older freeze changes nothing any more.
                if let Some(old) = held.take() {
                    harness.store.keeper().checkpoint_now(&old).unwrap();
                }
            }
            Step::Defragment => {
                index += 1;
                let frozen = harness.freeze(position(index, main));
                durable_later(&mut durable, &harness);
                harness.store.keeper().defragment_now(&frozen).unwrap();
                let present = scan(&harness.store).len();
                assert_eq!(present, harness.now.live.len(), "garbage after defragment");
            }
            Step::Restart => {
                held = None;
                drop(harness);
                disk.restart(Survival::Nothing);
                harness = Harness::open(&disk).unwrap();
                assert_eq!(harness.now, durable);
                harness.dead = scan(&harness.store).into_keys().collect();
            }
        }
        harness.check();
    }
    drop(harness);
    assert_eq!(reopen(&disk).unwrap(), durable);
}

fn durable_later(durable: &mut Content, harness: &Harness) {
    *durable = harness.now.clone();
}

#[test]
fn a_dropped_freeze_loses_nothing() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(2, 0, "a", 10);
    harness.put_state("s", "1");
    drop(harness.freeze(position(1, 2)));
    harness.append(3, 0, "b", 10);
    drop(harness.freeze(position(2, 3)));
    harness.check();
    harness.append(4, 0, "c", 10);
    harness.checkpoint(3).unwrap();
    harness.check();
    assert_eq!(reopen(&disk).unwrap(), harness.now);
}

#[test]
fn position_alone_is_a_checkpoint() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    assert!(harness.store.keeper().current().is_none());
    harness.checkpoint(9).unwrap();
    let current = harness.store.keeper().current().unwrap();
    assert_eq!(current.position().applied_index, 9);
    assert_eq!(reopen(&disk).unwrap().position, harness.now.position);
}

/// etcd #17780: compaction may remove the newest record; the revision must not fall.
#[test]
fn issue_17780_revision_survives_compaction_of_the_last_record() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(2, 0, "a", 10);
    harness.append(3, 0, "a", 0);
    harness.mark_dead(&[Revision::new(2, 0), Revision::new(3, 0)]);
    let frozen = harness.freeze(position(3, 3));
    harness.store.keeper().defragment_now(&frozen).unwrap();
    let found = reopen(&disk).unwrap();
    assert!(found.live.is_empty());
    assert_eq!(found.position.unwrap().revision, 3);
}

#[test]
fn tiny_checkpoints_keep_files_bounded() {
    let disk = SimDisk::new();
    let mut harness = Harness::open_with(
        StoreOptions {
            keeper_thread: false,
            ..StoreOptions::new(DIR)
        },
        Arc::new(disk.clone()),
    )
    .unwrap();
    for main in 2..2500 {
        harness.append(main, 0, "key", 20);
        harness.put_state("position", &main.to_string());
        if main > 2 {
            harness.mark_dead(&[Revision::new(main - 1, 0)]);
        }
        harness.checkpoint(main as u64).unwrap();
        let files = disk.files().len();
        assert!(files <= 16, "{files} files after {main} checkpoints");
    }
    let bytes: usize = disk.files().values().map(Vec::len).sum();
    assert!(bytes < 300_000, "{bytes} bytes for one live record");
    harness.check();
    assert_eq!(reopen(&disk).unwrap(), harness.now);
}

#[test]
fn state_file_is_written_whole_again() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    let value = "x".repeat(200_000);
    for index in 1..30 {
        harness.put_state("a", &format!("{index}{value}"));
        harness.put_state(&format!("b{}", index % 3), "small");
        harness.delete_state(&format!("b{}", (index + 1) % 3));
        harness.checkpoint(index).unwrap();
        let files = disk.files();
        let state = files
            .iter()
            .filter(|(path, _)| path.to_string_lossy().contains("state-"));
        let sizes: Vec<usize> = state.map(|(_, bytes)| bytes.len()).collect();
        assert!(sizes.len() == 1 && sizes[0] < 2_000_000, "{sizes:?}");
    }
    assert_eq!(reopen(&disk).unwrap(), harness.now);
}

#[test]
#[should_panic(expected = "is not the newest")]
fn a_revision_out_of_order_is_a_defect() {
    let mut harness = Harness::open(&SimDisk::new()).unwrap();
    harness.append(3, 0, "a", 1);
    harness.append(2, 0, "a", 1);
}
