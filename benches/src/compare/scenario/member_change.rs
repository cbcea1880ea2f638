//! A member is added and another one removed while clients write.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::calls::{Caller, leader, member_id};
use super::{CLIENTS, Figures};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;
use crate::compare::traffic::{Calls, Traffic};

/// Keys that are written.
const KEYS: u64 = 10_000;
const MEMBERS: [usize; 3] = [0, 1, 2];
/// Writes before the changes and after each.
const BETWEEN_TIME: Duration = Duration::from_secs(4);

pub(super) fn measure(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<Figures> {
    let put = Calls::Put {
        value_bytes: options.value_size,
    };
    let endpoints = cluster.endpoint_list();
    let traffic = Traffic::start(options, endpoints, CLIENTS, put, KEYS)?;
    traffic.go_on(Duration::from_secs(1))?;
    let before = traffic.go_on(BETWEEN_TIME)?;

    let (mut leader, leads) = leader(cluster, &MEMBERS)?;
    let (joiner, peer_url) = cluster.prepare_member()?;
    let added = Instant::now();
    leader.add_member(peer_url)?;
    let add_call = added.elapsed();
    cluster.start_member(joiner)?;
    cluster.wait_for_member(joiner)?;
    let joined = added.elapsed();
    traffic.go_on(BETWEEN_TIME)?;
    let added = added..Instant::now();

    let follower = MEMBERS.iter().find(|place| **place != leads);
    let follower = *follower.context("no follower")?;
    let id = Caller::connect(&cluster.endpoint(follower)?)?.status()?;
    let removed = Instant::now();
    leader.remove_member(member_id(&id))?;
    let remove_call = removed.elapsed();
    cluster.reap_member(follower)?;
    traffic.go_on(BETWEEN_TIME)?;
    let removed = removed..Instant::now();

    let id = leader.status()?.leader;
    let leader_removed = Instant::now();
    leader.remove_member(id)?;
    traffic.go_on(BETWEEN_TIME)?;
    let leader_removed = leader_removed..Instant::now();
    cluster.reap_member(leads)?;
    let puts = traffic.finish()?;
    Ok(vec![
        ("puts before, /s", puts.rate(&before)),
        ("put p99 before, ms", puts.latency_ms(&before, 0.99)),
        ("MemberAdd: the call, ms", add_call.as_secs_f64() * 1e3),
        ("MemberAdd: until it serves, ms", joined.as_secs_f64() * 1e3),
        ("MemberAdd: put p99, ms", puts.latency_ms(&added, 0.99)),
        ("MemberAdd: put p99, of before", {
            puts.latency_ms(&added, 0.99) / puts.latency_ms(&before, 0.99)
        }),
        (
            "MemberAdd: without any put, ms",
            puts.longest_gap_ms(&added),
        ),
        ("MemberAdd: failed puts", puts.failures(&added, None)),
        (
            "MemberRemove: the call, ms",
            remove_call.as_secs_f64() * 1e3,
        ),
        ("MemberRemove: put p99, ms", puts.latency_ms(&removed, 0.99)),
        ("MemberRemove: put p99, of before", {
            puts.latency_ms(&removed, 0.99) / puts.latency_ms(&before, 0.99)
        }),
        ("MemberRemove: without any put, ms", {
            puts.longest_gap_ms(&removed)
        }),
        ("MemberRemove: failed puts at others", {
            puts.failures(&removed, Some(follower))
        }),
        ("leader removed: without any put, ms", {
            puts.longest_gap_ms(&leader_removed)
        }),
        ("leader removed: failed puts at others", {
            puts.failures(&leader_removed, Some(leads))
        }),
    ])
}
