//! Nothing acknowledged is lost: the short form of the experiments in `jepsen/`.
//!
//! Real processes, a real disk, real power cuts where the machine allows loop mounts. The long form:
//! `keelson-jepsen power-cut --rounds 10`, `keelson-jepsen kill --rounds 17`
//! and `keelson-jepsen churn --members 3 --value-sizes 100 --rounds 50`.

use std::path::PathBuf;

use keelson_jepsen::disk::LoopDisk;
use keelson_jepsen::rounds::{Fault, Plan, run};

fn plan(members: usize, rounds: usize) -> Plan {
    Plan {
        program: env!("CARGO_BIN_EXE_keelson").into(),
        directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        members,
        value_bytes: 5120,
        rounds,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing() {
    let tally = run(&plan(1, 2), Fault::Kill).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
    let tally = run(&plan(3, 1), Fault::Kill).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_changes_amid_kills_lose_nothing() {
    let tally = run(&plan(2, 3), Fault::Churn).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if let Err(error) = LoopDisk::create(scratch.path(), 64) {
        eprintln!("POWER CUTS WERE NOT TESTED: this machine allows no loop mounts: {error:#}");
        return;
    }
    let tally = run(&plan(1, 2), Fault::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
    let tally = run(&plan(3, 1), Fault::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}
