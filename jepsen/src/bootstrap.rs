//! Failures during the very first start of a cluster.
//!
//! Each round makes a new cluster, whose members come together or one after the other, and hits one,
//! some or all of them at a random moment of their first start; sometimes again during the second.
//! Then every member must start and the cluster must form, with nothing but what the disks hold, and
//! hold what was acknowledged before.
//!
//! Once every member has the first log entry, a quorum is enough: then one of them, whoever it is,
//! stays away for good.

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tokio::time::{Duration, Instant};

use crate::load::{Load, Tally};
use crate::machines::{Blow, Machines, pause};
use crate::rounds::{Plan, WRITERS};

/// Members fail within so many milliseconds for each of them after the first was started: by then a
/// cluster serves, or nearly.
const MOMENTS_MS: u64 = 200;
/// How long after another a member is started, where they do not come together.
const APART_MS: std::ops::Range<u64> = 0..250;
/// How long a cluster that serves may take to acknowledge a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a member logs when it has the first log entry, and when it serves.
const BEGUN: &str = "\"appended the membership of the bootstrap\"";
const SERVES: &str = "\"ready to serve client requests\"";

/// Runs the plan's rounds, each on a cluster of its own.
///
/// # Errors
/// When a member does not start, the cluster does not form, or a write was lost.
pub async fn run(plan: &Plan, blow: Blow) -> Result<Tally> {
    let mut sum = Tally::default();
    for round in 1..=plan.rounds {
        let mut machines = Machines::new(plan, blow, &[])?;
        let load = Load::new(WRITERS, plan.value_bytes);
        let result = one_round(&mut machines, &load).await;
        sum.hit += u64::from(result.with_context(|| format!("round {round} of {}", plan.rounds))?);
        sum.faults += machines.failures() as u64;
        sum.acknowledged += load.acknowledged();
        machines.cluster.kill_all().await?;
    }
    Ok(sum)
}

/// Whether the first failure fell into the first start: no member or not every one served.
async fn one_round(machines: &mut Machines, load: &Load) -> Result<bool> {
    let running = load.start(&machines.cluster.endpoints(), false)?;
    let began = Instant::now();
    let moments = 0..MOMENTS_MS * machines.cluster.size() as u64;
    let moment = Duration::from_millis(rand::rng().random_range(moments.clone()));
    begin(machines, began + moment).await?;
    tokio::time::sleep_until(began + moment).await;
    machines.fail(&victims(machines)).await?;
    let hit = !all_logged(machines, SERVES);
    if rand::rng().random_bool(0.3) {
        machines.cluster.spawn()?;
        pause(moments).await;
        machines.fail(&victims(machines)).await?;
    }
    let size = machines.cluster.size();
    let lost = (size > 2 && all_logged(machines, BEGUN)).then(|| machines.any());
    if let Some(lost) = lost {
        machines.cluster.hold(lost);
        machines.fail(&[lost]).await?;
    }
    machines.cluster.start().await.with_context(|| match lost {
        Some(lost) => format!("start after the fault, without member {lost}"),
        None => "start after the fault".to_owned(),
    })?;
    let (before, deadline) = (load.acknowledged(), Instant::now() + WRITE_TIMEOUT);
    while load.acknowledged() == before {
        if Instant::now() > deadline {
            bail!("no write is acknowledged");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
    if let Some(lost) = lost {
        machines.cluster.release(lost);
        let back = machines.cluster.start().await;
        back.context("start of the member that was away")?;
    }
    load.check(&machines.cluster.endpoints()).await?;
    Ok(hit)
}

/// Starts the members, in any order, as far as there is time before the moment.
async fn begin(machines: &mut Machines, moment: Instant) -> Result<()> {
    let mut places = machines.all();
    if rand::rng().random_bool(0.5) {
        return machines.cluster.spawn();
    }
    places.shuffle(&mut rand::rng());
    for place in &places {
        machines.cluster.hold(*place);
    }
    for place in &places {
        machines.cluster.release(*place);
        if Instant::now() < moment {
            machines.cluster.spawn()?;
            pause(APART_MS).await;
        }
    }
    Ok(())
}

/// All of them, or any number of any.
fn victims(machines: &Machines) -> Vec<usize> {
    let mut places = machines.all();
    if rand::rng().random_bool(0.5) {
        return places;
    }
    places.shuffle(&mut rand::rng());
    let count = rand::rng().random_range(1..=places.len());
    places.truncate(count);
    places
}

fn all_logged(machines: &Machines, line: &str) -> bool {
    let logged = |place: &usize| machines.cluster.log_since(*place, 0).contains(line);
    machines.all().iter().all(logged)
}
