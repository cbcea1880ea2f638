//! Members come and go under load, and fail meanwhile.
//!
//! Each round changes the membership by one while members fail at a random moment of it: the one
//! that joins or leaves, the leader, any other, or all at once. The cluster must take the change all
//! the same, serve through every member that belongs to it, and hold every acknowledged write. A
//! member that joins comes as a voter, or as a learner that is promoted. A removed member must end
//! by itself.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use keelson_proto::etcdserverpb::cluster_client::ClusterClient;
use keelson_proto::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
};
use rand::Rng as _;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::load::{Load, Tally};
use crate::machines::{Blow, Machines, pause};
use crate::rounds::{Plan, SNAPSHOT_COUNT, WRITERS};

/// The largest cluster; above it members only leave.
const MEMBERS_MAX: usize = 5;
/// The smallest.
const MEMBERS_MIN: usize = 2;
/// How long a change may take while members are away.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// A call that takes longer is made again, through another member.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a call is made again.
const CALL_PAUSE: Duration = Duration::from_millis(100);
/// Members fail within so many milliseconds after a change was asked for.
const MOMENTS_MS: std::ops::Range<u64> = 0..150;

/// Runs the plan's rounds on one cluster that lives through all of them.
///
/// # Errors
/// When a change is not taken, a write was lost, or a member does not start.
pub async fn run(plan: &Plan, blow: Blow) -> Result<Tally> {
    let arguments = [
        "--snapshot-count",
        SNAPSHOT_COUNT,
        "--quota-backend-bytes",
        "1073741824",
        // The experiment asks for what an operator would wait for.
        "--strict-reconfig-check=false",
    ];
    let mut machines = Machines::new(plan, blow, &arguments)?;
    let load = Load::new(WRITERS, plan.value_bytes);
    let mut tally = Tally::default();
    for round in 1..=plan.rounds {
        let result = one_round(&mut machines, &load, round).await;
        tally = result.with_context(|| format!("round {round} of {}", plan.rounds))?;
    }
    machines.cluster.kill_all().await?;
    Ok(tally.of(machines.failures()))
}

async fn one_round(machines: &mut Machines, load: &Load, round: usize) -> Result<Tally> {
    machines
        .cluster
        .start()
        .await
        .context("start before the change")?;
    load.check(&machines.cluster.endpoints()).await?;
    let running = load.start(&machines.cluster.endpoints(), true)?;
    pause(0..300).await;
    let size = machines.cluster.size();
    let grows = size <= MEMBERS_MIN || (size < MEMBERS_MAX && rand::rng().random_bool(0.5));
    if grows {
        let is_learner = rand::rng().random_bool(0.5);
        grow(machines, round, is_learner).await.with_context(|| {
            let what = if is_learner { "learner" } else { "voter" };
            format!("add a {what} to {size} members")
        })?;
    } else {
        let from = format!("remove one of {size} members");
        shrink(machines).await.context(from)?;
    }
    pause(0..300).await;
    running.stop().await;
    machines
        .cluster
        .start()
        .await
        .context("start after the change")?;
    load.check(&machines.cluster.endpoints()).await
}

/// Who fails: any member, the leader, the one that the change is about, or all.
async fn victims(machines: &Machines, concerned: Option<usize>) -> Result<Vec<usize>> {
    Ok(match rand::rng().random_range(0..4) {
        0 => vec![machines.any()],
        1 => vec![machines.cluster.leader().await?],
        2 => concerned.map_or_else(|| vec![machines.any()], |place| vec![place]),
        _ => machines.all(),
    })
}

/// Asks for a change, lets members fail meanwhile, and sees to it that it is done.
async fn change_amid_failure(
    machines: &mut Machines,
    victims: &[usize],
    endpoints: &[String],
    change: impl Fn(ClusterClient<Channel>) -> BoxFuture<'static, Result<(), tonic::Status>>
    + Send
    + Sync
    + 'static,
) -> Result<()> {
    let endpoints = endpoints.to_vec();
    let asking = tokio::spawn(async move { call(&endpoints, change).await });
    pause(MOMENTS_MS).await;
    machines.fail(victims).await?;
    machines.cluster.spawn()?;
    asking.await?
}

async fn grow(machines: &mut Machines, round: usize, is_learner: bool) -> Result<()> {
    let endpoints = machines.cluster.endpoints();
    let who = victims(machines, None).await?;
    let peer = machines.join(&format!("j{round}"))?;
    let joining = machines.cluster.size() - 1;
    let request = MemberAddRequest {
        peer_ur_ls: vec![peer.clone()],
        is_learner,
    };
    let wanted = peer.clone();
    let add = move |mut client: ClusterClient<Channel>| -> BoxFuture<'static, _> {
        let (peer, request) = (wanted.clone(), request.clone());
        Box::pin(async move {
            // An earlier call may have done it, though its answer was lost.
            match find(&mut client, &peer).await? {
                Some(_) => Ok(()),
                None => client.member_add(request).await.map(drop),
            }
        })
    };
    // The one that joins cannot be started before it was added.
    machines.cluster.hold(joining);
    change_amid_failure(machines, &who, &endpoints, add).await?;
    machines.cluster.release(joining);
    machines.cluster.spawn()?;
    pause(0..1000).await;
    let who = victims(machines, Some(joining)).await?;
    if !is_learner {
        machines.fail(&who).await?;
        pause(0..500).await;
        return Ok(());
    }
    let promote = move |mut client: ClusterClient<Channel>| -> BoxFuture<'static, _> {
        let peer = peer.clone();
        Box::pin(async move {
            match find(&mut client, &peer).await? {
                Some((id, true)) => {
                    let request = MemberPromoteRequest { id };
                    client.member_promote(request).await.map(drop)
                }
                Some((_, false)) => Ok(()),
                None => Err(tonic::Status::not_found("the learner has gone")),
            }
        })
    };
    change_amid_failure(machines, &who, &endpoints, promote).await
}

async fn shrink(machines: &mut Machines) -> Result<()> {
    let leaving = if rand::rng().random_bool(0.3) {
        machines.cluster.leader().await?
    } else {
        machines.any()
    };
    let peer = machines
        .cluster
        .peer(leaving)
        .unwrap_or_default()
        .to_owned();
    let endpoints = machines.cluster.endpoints();
    let remove = move |mut client: ClusterClient<Channel>| -> BoxFuture<'static, _> {
        let peer = peer.clone();
        Box::pin(async move {
            match find(&mut client, &peer).await? {
                Some((id, _)) => client
                    .member_remove(MemberRemoveRequest { id })
                    .await
                    .map(drop),
                None => Ok(()),
            }
        })
    };
    if rand::rng().random_bool(0.2) {
        // One that leaves may be dead for good.
        machines.fail(&[leaving]).await?;
        call(&endpoints, remove).await?;
    } else {
        let who = victims(machines, Some(leaving)).await?;
        change_amid_failure(machines, &who, &endpoints, remove).await?;
    }
    machines.forget(leaving).await
}

/// Id of the member with this peer URL, and whether it is a learner.
async fn find(
    client: &mut ClusterClient<Channel>,
    peer: &str,
) -> Result<Option<(u64, bool)>, tonic::Status> {
    let request = MemberListRequest { linearizable: true };
    let members = client.member_list(request).await?.into_inner().members;
    let found = members
        .into_iter()
        .find(|member| member.peer_ur_ls.iter().any(|url| url == peer));
    Ok(found.map(|member| (member.id, member.is_learner)))
}

/// Makes a call through one member after the other until one has done it.
async fn call(
    endpoints: &[String],
    change: impl Fn(ClusterClient<Channel>) -> BoxFuture<'static, Result<(), tonic::Status>>,
) -> Result<()> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    let mut last = None;
    for endpoint in endpoints.iter().cycle() {
        let channel = Endpoint::from_shared(endpoint.clone())?
            .timeout(CALL_TIMEOUT)
            .connect_lazy();
        match change(ClusterClient::new(channel)).await {
            Ok(()) => return Ok(()),
            Err(status) => last = Some(status),
        }
        if Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(CALL_PAUSE).await;
    }
    bail!("not within {CHANGE_TIMEOUT:?}: {last:?}")
}
