//! The leader changes while clients write: asked to, asked to end, killed.

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
/// Writes between the changes; also the window in which the longest gap is looked for.
const BETWEEN_TIME: Duration = Duration::from_secs(5);

pub(super) fn measure(cluster: &mut Cluster, options: &CompareOptions) -> anyhow::Result<Figures> {
    let put = Calls::Put {
        value_bytes: options.value_size,
    };
    let endpoints = cluster.endpoint_list();
    let traffic = Traffic::start(options, endpoints, CLIENTS, put, KEYS)?;
    let before = traffic.go_on(BETWEEN_TIME)?;

    let (mut leads, place) = leader(cluster, &MEMBERS)?;
    let other = MEMBERS.iter().find(|other| **other != place);
    let other = *other.context("no other member")?;
    let target = Caller::connect(&cluster.endpoint(other)?)?.status()?;
    let moved = Instant::now();
    leads.move_leader(member_id(&target))?;
    let move_call = moved.elapsed();
    traffic.go_on(BETWEEN_TIME)?;
    let moved = moved..Instant::now();

    let (_, ended) = leader(cluster, &MEMBERS)?;
    let terminated = Instant::now();
    cluster.terminate_member(ended)?;
    cluster.reap_member(ended)?;
    let gone = terminated.elapsed();
    traffic.go_on(BETWEEN_TIME)?;
    let terminated = terminated..Instant::now();
    cluster.start_member(ended)?;
    cluster.wait_for_member(ended)?;
    traffic.go_on(BETWEEN_TIME)?;

    let (_, lost) = leader(cluster, &MEMBERS)?;
    let killed = Instant::now();
    cluster.kill_member(lost)?;
    traffic.go_on(BETWEEN_TIME)?;
    let killed = killed..Instant::now();
    let puts = traffic.finish()?;
    Ok(vec![
        ("puts before, /s", puts.rate(&before)),
        ("longest gap before, ms", puts.longest_gap_ms(&before)),
        ("MoveLeader: the call, ms", move_call.as_secs_f64() * 1e3),
        (
            "MoveLeader: without any put, ms",
            puts.longest_gap_ms(&moved),
        ),
        ("MoveLeader: longest put, ms", puts.latency_ms(&moved, 1.0)),
        ("MoveLeader: failed puts", puts.failures(&moved, None)),
        ("SIGTERM: the process, ms", gone.as_secs_f64() * 1e3),
        ("SIGTERM: without any put, ms", {
            puts.longest_gap_ms(&terminated)
        }),
        (
            "SIGTERM: longest put, ms",
            puts.latency_ms(&terminated, 1.0),
        ),
        ("SIGTERM: failed puts at others", {
            puts.failures(&terminated, Some(ended))
        }),
        ("kill -9: without any put, ms", puts.longest_gap_ms(&killed)),
    ])
}
