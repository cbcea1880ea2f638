//! Power cuts and full disks at every single operation (R2).

use std::io::ErrorKind;

use super::*;

/// A history in which segments are sealed, merged, rewritten and state is deleted. Calls `step`
/// before each checkpoint with what it would make durable, and `done` with its result.
struct Script {
    harness: Harness,
    main: i64,
    index: u64,
}

impl Script {
    fn open(disk: &SimDisk) -> Result<Script, StoreError> {
        let harness = Harness::open(disk)?;
        let main = harness
            .now
            .position
            .as_ref()
            .map_or(1, |position| position.revision);
        let index = harness
            .now
            .position
            .as_ref()
            .map_or(0, |position| position.applied_index);
        Ok(Script {
            harness,
            main,
            index,
        })
    }

    /// One round: some writes, some garbage, a freeze.
    fn round(&mut self) -> Frozen {
        self.index += 1;
        let harness = &mut self.harness;
        for _ in 0..3 {
            self.main += 1;
            let key = format!("key-{}", self.main % 4);
            let len = if self.main % 5 == 0 { 0 } else { 40 };
            harness.append(self.main, 0, &key, len);
            harness.append(self.main, 1, "other", 25);
        }
        let main = self.main;
        let old = harness
            .now
            .live
            .keys()
            .filter(|found| found.main < main - 4);
        let old: Vec<Revision> = old.copied().filter(|found| found.main % 7 != 0).collect();
        harness.mark_dead(&old);
        harness.put_state(&format!("s{}", self.index % 3), &main.to_string());
        harness.delete_state(&format!("s{}", (self.index + 1) % 3));
        harness.freeze(position(self.index, main))
    }
}

const ROUNDS: usize = 9;

/// Runs the script until it fails. Returns what the last good checkpoint held, what the failed one
/// would have held, and the error.
fn run(disk: &SimDisk) -> (Content, Content, Option<StoreError>) {
    let mut durable = Content::default();
    let mut script = match Script::open(disk) {
        Ok(script) => script,
        Err(error) => return (durable.clone(), durable, Some(error)),
    };
    for _ in 0..ROUNDS {
        let frozen = script.round();
        let attempted = script.harness.now.clone();
        if let Err(error) = script.harness.store.keeper().checkpoint_now(&frozen) {
            return (durable, attempted, Some(error));
        }
        durable = attempted;
    }
    (durable.clone(), durable, None)
}

fn operations() -> u64 {
    let disk = SimDisk::new();
    let (_, _, error) = run(&disk);
    assert!(error.is_none());
    assert!(files_with(&disk, "seg-") > 1 && files_with(&disk, "dead-") == 1);
    disk.operations()
}

#[test]
fn a_power_cut_at_any_operation_leaves_a_whole_checkpoint() {
    let mut seen = [0; 2];
    for operation in 1..=operations() {
        for survival in [
            Survival::Nothing,
            Survival::Everything,
            Survival::Some(operation),
        ] {
            let disk = SimDisk::new();
            disk.cut_at(operation);
            let (durable, attempted, error) = run(&disk);
            assert!(
                error.is_some() || disk.is_off(),
                "operation {operation} was never reached"
            );
            disk.restart(survival);
            let found = reopen(&disk).unwrap_or_else(|error| panic!("{operation}: {error}"));
            let new = found == attempted;
            assert!(
                new || found == durable,
                "operation {operation}, {survival:?}"
            );
            seen[usize::from(new)] += 1;

            // What the cut left behind must not disturb what comes after.
            let mut script = Script::open(&disk).unwrap();
            for _ in 0..2 {
                let frozen = script.round();
                script
                    .harness
                    .store
                    .keeper()
                    .checkpoint_now(&frozen)
                    .unwrap();
            }
            script
                .harness
                .dead
                .extend(scan(&script.harness.store).into_keys());
            script.harness.check();
            assert_eq!(reopen(&disk).unwrap(), script.harness.now);
            let strays = disk
                .files()
                .keys()
                .filter(|path| path.ends_with("manifest.tmp"))
                .count();
            assert_eq!(strays, 0);
        }
    }
    assert!(
        seen[0] > 50 && seen[1] > 50,
        "both outcomes are covered: {seen:?}"
    );
}

#[test]
fn a_second_cut_during_the_restart_is_survived() {
    let total = operations();
    for operation in (1..=total).step_by(5) {
        for second in 1..6 {
            let disk = SimDisk::new();
            disk.cut_at(operation);
            let (durable, attempted, _) = run(&disk);
            disk.restart(Survival::Some(operation));
            disk.cut_at(disk.operations() + second);
            drop(Harness::open(&disk));
            disk.restart(Survival::Some(second));
            let found = reopen(&disk).unwrap();
            assert!(
                found == attempted || found == durable,
                "{operation}, then {second}"
            );
        }
    }
}

#[test]
fn a_full_disk_at_any_operation_is_retried() {
    let mut retried = 0;
    for operation in 1..=operations() {
        let disk = SimDisk::new();
        disk.fail_at(operation, ErrorKind::StorageFull);
        let Ok(mut script) = Script::open(&disk) else {
            continue;
        };
        let mut fatal = false;
        for _ in 0..ROUNDS {
            let frozen = script.round();
            match script.harness.store.keeper().checkpoint_now(&frozen) {
                Ok(_) => {}
                Err(error) if error.is_fatal() => {
                    assert!(error.to_string().starts_with("sync"), "{error}");
                    fatal = true;
                    break;
                }
                Err(_) => retried += 1,
            }
            script.harness.check();
        }
        let keeper = script.harness.store.keeper();
        if fatal {
            // After a failed sync nothing more is written.
            let operations = disk.operations();
            let frozen = script.round();
            let error = keeper.checkpoint_now(&frozen).err().unwrap();
            assert!(matches!(error, StoreError::Poisoned));
            assert_eq!(disk.operations(), operations);
            disk.restart(Survival::Nothing);
            reopen(&disk).unwrap();
        } else {
            let frozen = script.round();
            keeper.checkpoint_now(&frozen).unwrap();
            script.harness.check();
            disk.restart(Survival::Nothing);
            assert_eq!(
                reopen(&disk).unwrap(),
                script.harness.now,
                "operation {operation}"
            );
        }
    }
    assert!(retried > 50, "only {retried} checkpoints met the full disk");
}

#[test]
fn a_full_disk_gets_its_space_back() {
    let disk = SimDisk::new();
    let mut harness = Harness::open(&disk).unwrap();
    harness.append(2, 0, "a", 30);
    harness.checkpoint(1).unwrap();
    let before = disk.files();
    harness.append(3, 0, "a", 30);
    harness.put_state("s", "1");
    // Chunk 1 and 2, its sync 3; state file 4 to 6, its sync 7; directory sync 8; manifest 9 to 11,
    // its sync 12, its rename 13.
    for operation in [1, 2, 4, 5, 6, 9, 10, 11, 13] {
        let at = disk.operations() + operation;
        disk.fail_at(at, ErrorKind::StorageFull);
        let error = harness.checkpoint(1 + operation).err().unwrap();
        assert!(!error.is_fatal(), "{error}");
        assert_eq!(disk.files(), before, "operation {operation}");
        harness.check();
    }
    harness.checkpoint(20).unwrap();
    assert_eq!(reopen(&disk).unwrap(), harness.now);
}
