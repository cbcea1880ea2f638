//! Members come and go under load, and are killed meanwhile.
//!
//! Each round changes the membership by one and kills a random member (the leader, the one that
//! joins, any other) at a random moment of it. The cluster must take the change all the same, serve
//! through every member that belongs to it, and hold every acknowledged write. A removed member must
//! end by itself.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use keelson_proto::etcdserverpb::cluster_client::ClusterClient;
use keelson_proto::etcdserverpb::{MemberAddRequest, MemberListRequest, MemberRemoveRequest};
use rand::Rng as _;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::load::{Load, Tally};
use crate::server::Cluster;

/// The largest cluster; above it members only leave.
const MEMBERS_MAX: usize = 5;
/// The smallest.
const MEMBERS_MIN: usize = 2;
/// How long a change may take while a member is away.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// A call that takes longer is made again, through another member.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a call is made again.
const CALL_PAUSE: Duration = Duration::from_millis(100);

/// One change and one kill under load, and the check.
pub(crate) async fn round(cluster: &mut Cluster, load: &Load, round: usize) -> Result<Tally> {
    cluster.start().await.context("start before the change")?;
    load.check(&cluster.endpoints()).await?;
    let running = load.start(&cluster.endpoints(), true)?;
    pause(0..300).await;
    let size = cluster.size();
    let grows = size <= MEMBERS_MIN || (size < MEMBERS_MAX && rand::rng().random_bool(0.5));
    if grows {
        grow(cluster, round).await.context("add a member")?;
    } else {
        shrink(cluster).await.context("remove a member")?;
    }
    pause(0..300).await;
    running.stop().await;
    cluster.start().await.context("start after the change")?;
    load.check(&cluster.endpoints()).await
}

async fn pause(milliseconds: std::ops::Range<u64>) {
    let pause = rand::rng().random_range(milliseconds);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

fn any(places: usize) -> usize {
    rand::rng().random_range(0..places)
}

async fn grow(cluster: &mut Cluster, round: usize) -> Result<()> {
    let endpoints = cluster.endpoints();
    let peer = cluster.join(&format!("j{round}"))?;
    let request = MemberAddRequest {
        peer_ur_ls: vec![peer.clone()],
        is_learner: false,
    };
    call(&endpoints, async |mut client| {
        // An earlier call may have done it, though its answer was lost.
        let listed = client
            .member_list(MemberListRequest { linearizable: true })
            .await?;
        let mut members = listed.into_inner().members.into_iter();
        if members.any(|member| member.peer_ur_ls.contains(&peer)) {
            return Ok(());
        }
        client.member_add(request.clone()).await.map(drop)
    })
    .await?;
    cluster.spawn()?;
    pause(0..1000).await;
    cluster.kill(any(cluster.size())).await?;
    pause(0..500).await;
    Ok(())
}

async fn shrink(cluster: &mut Cluster) -> Result<()> {
    let leaving = any(cluster.size());
    let peer = cluster.peer(leaving).unwrap_or_default().to_owned();
    let endpoints = cluster.endpoints();
    let killed = any(cluster.size());
    if rand::rng().random_bool(0.5) {
        cluster.kill(killed).await?;
        // One that leaves may be dead for good; any other is needed for the quorum that is left.
        if killed != leaving || rand::rng().random_bool(0.5) {
            cluster.spawn()?;
        }
    }
    call(&endpoints, async |mut client| {
        let listed = client
            .member_list(MemberListRequest { linearizable: true })
            .await?;
        let mut members = listed.into_inner().members.into_iter();
        match members.find(|member| member.peer_ur_ls.contains(&peer)) {
            Some(member) => client
                .member_remove(MemberRemoveRequest { id: member.id })
                .await
                .map(drop),
            None => Ok(()),
        }
    })
    .await?;
    cluster.forget(leaving).await
}

/// Makes a call through one member after the other until one has done it.
async fn call(
    endpoints: &[String],
    change: impl AsyncFn(ClusterClient<Channel>) -> Result<(), tonic::Status>,
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
