//! Nothing acknowledged is lost: the short form of the experiments in `jepsen/`.
//!
//! Real processes, a real disk, real power cuts where the machine allows loop mounts. The long form:
//! `keelson-jepsen power-cut --rounds 10`, `keelson-jepsen kill --rounds 17`,
//! `keelson-jepsen full-disk`, and each of these with `--by kill` and with `--by power-cut`:
//! `keelson-jepsen bootstrap --members 1,2,3,5 --value-sizes 100 --rounds 50`,
//! `keelson-jepsen churn --members 3 --value-sizes 100 --rounds 50`,
//! `keelson-jepsen install --members 3 --value-sizes 1000 --rounds 20`,
//! `keelson-jepsen restore --rounds 50` and `keelson-jepsen save --rounds 50`.

use std::path::{Path, PathBuf};

use keelson_jepsen::disk::LoopDisk;
use keelson_jepsen::machines::Blow;
use keelson_jepsen::rounds::{Fault, Plan, run};
use keelson_jepsen::{bootstrap, churn, full_disk, install, offline};

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
async fn members_killed_during_their_first_start_form_a_cluster() {
    let tally = bootstrap::run(&plan(3, 3), Blow::Kill).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_power_is_cut_during_their_first_start_form_a_cluster() {
    if !loop_mounts_work("POWER CUTS DURING THE FIRST START WERE") {
        return;
    }
    let tally = bootstrap::run(&plan(3, 2), Blow::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_changes_amid_kills_lose_nothing() {
    let tally = churn::run(&plan(2, 3), Blow::Kill).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_changes_amid_power_cuts_lose_nothing() {
    if !loop_mounts_work("POWER CUTS DURING MEMBERSHIP CHANGES WERE") {
        return;
    }
    let tally = churn::run(&plan(2, 2), Blow::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_during_the_install_of_a_checkpoint_lose_nothing() {
    let tally = install::run(&plan(3, 1), Blow::Kill).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_during_the_install_of_a_checkpoint_lose_nothing() {
    if !loop_mounts_work("POWER CUTS DURING INSTALLS WERE") {
        return;
    }
    let tally = install::run(&plan(3, 1), Blow::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_or_save_that_is_cut_leaves_nothing_or_a_whole() {
    let Some(keelctl) = keelctl() else { return };
    let (restores, saves) = (plan(1, 4), plan(1, 3));
    for blow in [Blow::Kill, Blow::PowerCut] {
        if blow == Blow::PowerCut && !loop_mounts_work("POWER CUTS OF RESTORES WERE") {
            return;
        }
        offline::restores(&restores, &keelctl, blow).await.unwrap();
        offline::saves(&saves, &keelctl, blow).await.unwrap();
    }
}

/// The tool, which the workspace's build puts beside the server.
fn keelctl() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_keelson")).with_file_name("keelctl");
    if beside.exists() {
        return Some(beside);
    }
    eprintln!(
        "CUT RESTORES WERE NOT TESTED: {} is not built",
        beside.display()
    );
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_lose_nothing() {
    if !loop_mounts_work("POWER CUTS WERE") {
        return;
    }
    let tally = run(&plan(1, 2), Fault::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
    let tally = run(&plan(3, 1), Fault::PowerCut).await.unwrap();
    assert!(tally.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_a_member_and_loses_nothing() {
    if !loop_mounts_work("A FULL DISK WAS") {
        return;
    }
    for members in [1, 3] {
        let plan = Plan {
            value_bytes: 20_000,
            ..plan(members, 1)
        };
        let tally = full_disk::run(&plan).await.unwrap();
        assert!(tally.acknowledged > 0, "the writers wrote nothing");
    }
}

/// Whether this machine allows loop mounts; says loudly what is left out if not.
fn loop_mounts_work(what: &str) -> bool {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .map_err(anyhow::Error::from)
        // The disk goes before the directory it is mounted in.
        .and_then(|scratch| Ok((LoopDisk::create(scratch.path(), 64)?, scratch)));
    if let Err(error) = &disk {
        eprintln!("{what} NOT TESTED: this machine allows no loop mounts: {error:#}");
    }
    disk.is_ok()
}
