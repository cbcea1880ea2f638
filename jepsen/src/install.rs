//! Failures while a checkpoint is streamed to a member that was away, and installed there.
//!
//! Each round keeps one member away until the log it needs is gone, starts it, waits until it is
//! being sent a checkpoint, and hits the receiver, the sender, both, or all at a random moment. Then
//! every member must start, and hold every acknowledged write.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;
use tokio::time::Instant;

use crate::load::{Base, Load, Tally};
use crate::machines::{Blow, Machines, pause};
use crate::rounds::{Plan, WRITERS};

/// `--snapshot-count` and `--snapshot-catchup-entries`, each an experiment of its own.
const POLICIES: [(&str, &str); 2] = [("1", "1"), ("100", "10")];
/// What every checkpoint holds: streaming it takes long enough to be hit.
const BASE: Base = Base {
    keys: 768,
    value_bytes: 64 << 10,
};
/// Acknowledged writes after which a member that was away needs a checkpoint.
const AWAY_WRITES: u64 = 1500;
/// And the time after which the log it needs is certainly gone: after an install the leader keeps
/// what the receiver needs next for a few seconds (`raft/transfers.rs`).
const AWAY_TIME: Duration = Duration::from_millis(5500);
/// How long the others may take for them.
const AWAY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take until a member that comes back is sent a checkpoint.
const SENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A failure comes within so many milliseconds after the first byte: about as long as an install.
const MOMENTS_MS: std::ops::Range<u64> = 0..200;

/// What a member logs when a checkpoint begins to arrive, and when it has been installed.
const BEGUN: &str = "\"applying snapshot\"";
const DONE: &str = "\"applied snapshot\"";

/// Runs the plan's rounds for each policy.
///
/// # Errors
/// When a write was lost, or a member does not start.
pub async fn run(plan: &Plan, blow: Blow) -> Result<Tally> {
    let mut sum = Tally::default();
    for (count, catch_up) in POLICIES {
        let arguments = [
            "--snapshot-count",
            count,
            "--snapshot-catchup-entries",
            catch_up,
        ];
        let mut machines = Machines::new(plan, blow, &arguments)?;
        let load = Load::new(WRITERS, plan.value_bytes);
        machines.cluster.start().await.context("first start")?;
        let endpoints = machines.cluster.endpoints();
        BASE.fill(endpoints.first().context("no members")?).await?;
        for round in 1..=plan.rounds {
            let result = one_round(&mut machines, &load, round > 1).await;
            sum.hit += u64::from(result.with_context(|| {
                format!("--snapshot-count {count}, round {round} of {}", plan.rounds)
            })?);
        }
        sum.faults += plan.rounds as u64;
        sum.acknowledged += load.acknowledged();
        machines.cluster.kill_all().await?;
    }
    Ok(sum)
}

/// Whether the failure fell into an install.
async fn one_round(machines: &mut Machines, load: &Load, again: bool) -> Result<bool> {
    let running = load.start(&machines.cluster.endpoints(), true)?;
    let away = machines.any();
    machines.fail(&[away]).await?;
    let enough = load.acknowledged() + AWAY_WRITES;
    let now = Instant::now();
    let (back, deadline) = (
        now + if again { AWAY_TIME } else { Duration::ZERO },
        now + AWAY_TIMEOUT,
    );
    while load.acknowledged() < enough || Instant::now() < back {
        if Instant::now() > deadline {
            bail!("the others do not go on");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let from = machines.cluster.log_bytes(away);
    machines.cluster.spawn()?;
    let deadline = Instant::now() + SENT_TIMEOUT;
    while !machines.cluster.log_since(away, from).contains(BEGUN) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pause(MOMENTS_MS).await;
    let victims = match rand::rng().random_range(0..5) {
        0 | 1 => vec![away],
        2 => vec![machines.cluster.leader().await?],
        3 => {
            let mut both = vec![away, machines.cluster.leader().await?];
            both.dedup();
            both
        }
        _ => machines.all(),
    };
    machines.fail(&victims).await?;
    let log = machines.cluster.log_since(away, from);
    let hit = log.matches(BEGUN).count() > log.matches(DONE).count();
    if !log.contains(BEGUN) {
        eprintln!("the member that was away was sent no checkpoint");
    }
    machines
        .cluster
        .start()
        .await
        .context("start after the fault")?;
    running.stop().await;
    let endpoints = machines.cluster.endpoints();
    load.check(&endpoints).await?;
    BASE.check(&endpoints).await?;
    Ok(hit)
}
