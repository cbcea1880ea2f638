//! Who starts as a member of which cluster (contract 4.1).

use keelson::dns::Resolver;
use keelson::node::config::SrvDiscovery;
use keelson::server::ServerConfig;
use simple_dns::rdata::{RData, SRV};
use simple_dns::{CLASS, Name, Packet, RCODE, ResourceRecord};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

use crate::members::{list, update, voters};
use crate::support::{Cluster, eventually, get, put, put_ok, range, range_ok, soon};

#[tokio::test(flavor = "multi_thread")]
async fn joining_takes_the_membership_that_is() {
    let mut cluster = Cluster::single().await;
    let (one, other) = (cluster.prepare(&[0]), cluster.prepare(&[0]));
    // Nobody has added it.
    let refused = cluster.try_restart(one).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("member count is unequal"),
        "{refused:#}"
    );
    cluster.add(0, one, false).await;
    // Another one was added.
    let refused = cluster.try_restart(other).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("no match found for existing member"),
        "{refused:#}"
    );
    cluster.restart(one).await;
    voters(&cluster, 0, 2).await;
    // It may not come back without its data, whichever way it tries.
    cluster.stop(one).await;
    std::fs::remove_dir_all(cluster.data_dir(one)).unwrap();
    let refused = soon("it is refused", cluster.try_restart(one));
    // The others have no quorum without it, so nobody can vouch for the list.
    let refused = refused.await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("cannot fetch cluster info"),
        "{refused:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joined_cannot_join_again_without_its_data() {
    let mut cluster = Cluster::start(2, |config| config.node.strict_reconfig_check = false).await;
    let two = cluster.prepare(&[0, 1]);
    cluster.add(0, two, false).await;
    cluster.restart(two).await;
    voters(&cluster, 0, 3).await;
    cluster.stop(two).await;
    std::fs::remove_dir_all(cluster.data_dir(two)).unwrap();
    let refused = cluster.try_restart(two).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("without its data"),
        "{refused:#}"
    );
}

/// A member without data does nothing before enough of its peers have said that it is new to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_does_not_bootstrap_alone() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let lost = cluster.follower().await;
    put_ok(&mut cluster.kv(lost), "a", "1").await;
    for i in 0..3 {
        cluster.stop(i).await;
    }
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(3), cluster.try_restart(lost)).await;
    assert!(waiting.is_err(), "it started without anybody");
    drop(waiting);
    let others: Vec<usize> = (0..3).filter(|i| *i != lost).collect();
    cluster.restart_together(&others).await;
    let found = range_ok(&mut cluster.kv(others[0]), get("a")).await;
    assert_eq!(found.count, 1);
}

/// A member is reached where its URLs say, also when they change.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_moves_is_found_at_its_new_url() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let moved = cluster.follower().await;
    let leader = cluster.leader().await;
    let id = cluster.id(moved);
    cluster.stop(moved).await;
    let spare = cluster.prepare(&[0]);
    let url = cluster.peer_urls(spare);
    update(&cluster, leader, id, &[&url[0]]).await.unwrap();
    let listen = cluster.peer_address(spare);
    cluster.adjust(moved, |config| {
        config.listen_peers = vec![keelson::transport::ListenAddress::Tcp(listen)];
    });
    put_ok(&mut cluster.kv(leader), "a", "1").await;
    cluster.restart(moved).await;
    assert_eq!(range_ok(&mut cluster.kv(moved), get("a")).await.count, 1);
    let members = list(&cluster, moved).await;
    let member = members.iter().find(|member| member.id == id).unwrap();
    assert_eq!(member.peer_ur_ls, url);
}

/// Clusters of the same URLs and different tokens have nothing to say to each other.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_keeps_clusters_apart() {
    let mut cluster = Cluster::start(3, |_| {}).await;
    let stray = cluster.follower().await;
    let leader = cluster.leader().await;
    cluster.stop(stray).await;
    std::fs::remove_dir_all(cluster.data_dir(stray)).unwrap();
    cluster.adjust(stray, |config| {
        config.node.initial_cluster_token = "other".to_owned();
    });
    let refused = cluster.try_restart(stray).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("belongs to cluster"),
        "{refused:#}"
    );
    put_ok(&mut cluster.kv(leader), "a", "1").await;
}

/// What was acknowledged stays, what was not goes, and so do the others (contract 4.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_of_one_member_by_force() {
    let mut cluster = Cluster::start(3, |config| {
        config.node.strict_reconfig_check = false;
        config.node.snapshot_count = 20;
    })
    .await;
    let kept = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|i| *i != kept).collect();
    let learner = cluster.prepare(&[0, 1, 2]);
    cluster.add(kept, learner, true).await;
    for i in 0..50 {
        put_ok(&mut cluster.kv(kept), format!("k{i}"), "v").await;
    }
    let id = cluster.id(kept);
    let cluster_id = cluster.member(kept).server().node().status().cluster_id();
    for other in &others {
        cluster.stop(*other).await;
    }
    // It gets into the log, and no quorum has it.
    let mut kv = cluster.kv(kept);
    let lost = tokio::spawn(async move { kv.put(put("uncommitted", "v")).await });
    eventually("the leader steps down", async || {
        (cluster.status(kept).await.leader == 0).then_some(())
    })
    .await;
    let status = cluster.member(kept).server().node().status().clone();
    let (last, committed) = status.with_metrics(|raft| {
        let committed = raft.local_committed.map_or(0, |id| id.index());
        (raft.last_log_index.unwrap_or(0), committed)
    });
    assert!(last > committed, "the write did not get into the log");
    cluster.stop(kept).await;
    assert!(soon("it fails", lost).await.unwrap().is_err());
    for _ in 0..2 {
        cluster.adjust(kept, |config| config.node.force_new_cluster = true);
        cluster.restart(kept).await;
        let members = list(&cluster, kept).await;
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].id, members[0].is_learner), (id, false));
        let status = cluster.member(kept).server().node().status().clone();
        assert_eq!(status.cluster_id(), cluster_id);
        let found = range_ok(&mut cluster.kv(kept), range("k", "l")).await;
        assert_eq!(found.count, 50);
        let gone = range_ok(&mut cluster.kv(kept), get("uncommitted")).await;
        assert_eq!(gone.count, 0);
        put_ok(&mut cluster.kv(kept), "after", "v").await;
        cluster.stop(kept).await;
    }
    // Without the flag it goes on as it is; the others hear that they are out.
    cluster.adjust(kept, |config| config.node.force_new_cluster = false);
    cluster.restart(kept).await;
    let refused = cluster.try_restart(others[0]).await.unwrap_err();
    assert_eq!(refused.to_string(), "stopped before it served");
    let new = cluster.prepare(&[kept]);
    cluster.add(kept, new, false).await;
    cluster.restart(new).await;
    voters(&cluster, kept, 2).await;
    assert_eq!(
        range_ok(&mut cluster.kv(new), range("k", "l")).await.count,
        50
    );
}

/// The store is there and the log is not: what was acknowledged behind the checkpoint is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_log_is_gone_is_refused() {
    let mut cluster = Cluster::start(1, |config| config.node.snapshot_count = 1).await;
    put_ok(&mut cluster.kv(0), "a", "1").await;
    eventually("a checkpoint", async || {
        let node = cluster.member(0).server().node();
        node.status().with_metrics(|raft| raft.snapshot).map(drop)
    })
    .await;
    cluster.stop(0).await;
    std::fs::remove_dir_all(cluster.data_dir(0).join("member/wal")).unwrap();
    let refused = cluster.try_restart(0).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("whose log is not in"),
        "{refused:#}"
    );
    // The directory is its own, and the entries are gone all the same.
    let member = cluster.data_dir(0).join("member");
    std::fs::copy(member.join("identity"), member.join("wal/identity")).unwrap();
    let refused = cluster.try_restart(0).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("the log is empty"),
        "{refused:#}"
    );
}

/// A log, an identity or a store that was brought from elsewhere, or is gone: nothing is served, and
/// nothing is begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_another_member_are_refused() {
    let adjust = |config: &mut ServerConfig| config.node.snapshot_count = 1;
    let mut one = Cluster::start(1, adjust).await;
    let mut other = Cluster::start(1, adjust).await;
    for cluster in [&mut one, &mut other] {
        put_ok(&mut cluster.kv(0), "a", "1").await;
        eventually("a checkpoint", async || {
            let node = cluster.member(0).server().node();
            node.status().with_metrics(|raft| raft.snapshot).map(drop)
        })
        .await;
        cluster.stop(0).await;
    }
    let (own, foreign) = (one.data_dir(0), other.data_dir(0));
    for (part, text) in [
        ("wal", "do not belong together"),
        ("identity", "do not belong together"),
        ("store", "the store is that of cluster"),
    ] {
        let (own, foreign) = (
            own.join("member").join(part),
            foreign.join("member").join(part),
        );
        let aside = own.with_extension("aside");
        std::fs::rename(&own, &aside).unwrap();
        std::fs::rename(&foreign, &own).unwrap();
        let refused = one.try_restart(0).await.expect_err(part);
        assert!(format!("{refused:#}").contains(text), "{part}: {refused:#}");
        std::fs::rename(&own, &foreign).unwrap();
        if part == "wal" {
            let refused = one.try_restart(0).await.expect_err("no log");
            let text = "whose log is not in";
            assert!(format!("{refused:#}").contains(text), "{refused:#}");
            std::fs::remove_dir_all(&own).unwrap();
        }
        std::fs::rename(&aside, &own).unwrap();
    }
    one.restart(0).await;
    assert_eq!(range_ok(&mut one.kv(0), get("a")).await.count, 1);
}

/// A member that started beside them would be empty.
#[tokio::test(flavor = "multi_thread")]
async fn etcds_data_are_refused_and_left_alone() {
    for file in [
        "member/snap/db",
        "member/wal/0000000000000000-0000000000000000.wal",
    ] {
        let mut cluster = Cluster::prepared(1, |_| {});
        let file = cluster.data_dir(0).join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "etcd's").unwrap();
        let refused = cluster.try_restart(0).await.unwrap_err();
        assert!(format!("{refused:#}").contains("is etcd's"), "{refused:#}");
        let member = std::fs::read_dir(cluster.data_dir(0).join("member")).unwrap();
        assert_eq!(member.count(), 1, "something was made beside it");
    }
}

/// Members find each other in another cluster; one too many is refused.
#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_by_discovery() {
    let registry = Cluster::single().await;
    let endpoint = registry.client_address(0).to_string();
    let discovered = |config: &mut keelson::server::ServerConfig| {
        config.node.initial_cluster = vec![];
        config.node.discovery = Some(keelson::node::config::Discovery {
            token: "token".to_owned(),
            endpoints: vec![endpoint.clone()],
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
        });
    };
    let mut cluster = Cluster::prepared(4, discovered);
    for (size, reason) in [
        (None, "size key not found"),
        (Some("no"), "size key is bad"),
    ] {
        if let Some(size) = size {
            put_ok(
                &mut registry.kv(0),
                "/_etcd/registry/token/_config/size",
                size,
            )
            .await;
        }
        let refused = cluster.try_restart(3).await.unwrap_err();
        let text = format!("failed to join discovery cluster: discovery: {reason}");
        assert_eq!(format!("{refused:#}"), text);
    }
    put_ok(
        &mut registry.kv(0),
        "/_etcd/registry/token/_config/size",
        "3",
    )
    .await;
    cluster.restart_together(&[0, 1, 2]).await;
    put_ok(&mut cluster.kv(1), "a", "1").await;
    assert_eq!(list(&cluster, 0).await.len(), 3);
    let refused = cluster.try_restart(3).await.unwrap_err();
    assert!(
        format!("{refused:#}").contains("discovery: cluster is full"),
        "{refused:#}"
    );
    // What is in its data directory wins.
    cluster.stop(1).await;
    cluster.restart(1).await;
    assert_eq!(range_ok(&mut cluster.kv(1), get("a")).await.count, 1);
}

/// The one that was faster needs the vote of the other, which must not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_that_start_together_form_a_cluster() {
    for _ in 0..8 {
        let cluster = Cluster::start(2, |_| {}).await;
        put_ok(&mut cluster.kv(1), "a", "1").await;
    }
}

/// A name server that knows the peers' ports; names are those of this machine.
async fn name_server(records: Vec<(&'static str, u16)>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            let question = Packet::parse(&bytes[..length]).unwrap();
            let mut reply = Packet::new_reply(question.id());
            let name = question.questions[0].qname.clone();
            for (service, port) in &records {
                if name.to_string() == format!("{service}._tcp.cluster.test") {
                    let srv = SRV {
                        priority: 0,
                        weight: 0,
                        port: *port,
                        target: Name::new("localhost").unwrap(),
                    };
                    let record = ResourceRecord::new(name.clone(), CLASS::IN, 60, RData::SRV(srv));
                    reply.answers.push(record);
                }
            }
            if reply.answers.is_empty() {
                *reply.rcode_mut() = RCODE::NameError;
            }
            reply.questions = question.questions.clone();
            let reply = reply.build_bytes_vec().unwrap();
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    address
}

fn by_dns(config: &mut ServerConfig, server: SocketAddr, service_name: &str) {
    config.node.initial_cluster = Vec::new();
    config.node.discovery_srv = Some(SrvDiscovery {
        domain: "cluster.test".to_owned(),
        service_name: service_name.to_owned(),
        resolver: Resolver::new(vec![server], 2, Duration::from_secs(5)),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_by_dns() {
    let mut cluster = Cluster::prepared(3, |_| {});
    let port = |i: usize| {
        let url = cluster.peer_urls(i).remove(0);
        url.rsplit(':').next().unwrap().parse().unwrap()
    };
    let records = (0..3).map(|i| ("_etcd-server", port(i))).collect();
    let server = name_server(records).await;
    for i in 0..3 {
        cluster.adjust(i, |config| by_dns(config, server, ""));
    }
    cluster.restart_together(&[0, 1, 2]).await;
    put_ok(&mut cluster.kv(1), "a", "1").await;
    for i in 0..3 {
        assert_eq!(range_ok(&mut cluster.kv(i), get("a")).await.count, 1);
    }
    let names: BTreeSet<String> = eventually("all have told their names", async || {
        let names: BTreeSet<String> = list(&cluster, 0)
            .await
            .into_iter()
            .map(|member| member.name)
            .collect();
        (!names.contains("")).then_some(names)
    })
    .await;
    assert_eq!(names, ["m0", "m1", "m2"].map(str::to_owned).into());
}

/// In the words of genuine etcd 3.7.1.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_make_no_cluster_are_refused() {
    let mut cluster = Cluster::prepared(1, |_| {});
    let own = cluster.peer_urls(0).remove(0);
    let own_port: u16 = own.rsplit(':').next().unwrap().parse().unwrap();
    let server = name_server(vec![
        ("_etcd-server-other", 1),
        ("_etcd-server-ssl-tls", own_port),
    ])
    .await;
    let prefix = "error setting up initial cluster: ";
    let missing = |service: &str| {
        format!(
            "error querying DNS SRV records for _{service} lookup _{service}._tcp.cluster.test on \
             {server}: no such host"
        )
    };
    for (service_name, text) in [
        (
            "none",
            format!(
                "{}\n{}",
                missing("etcd-server-ssl-none"),
                missing("etcd-server-none")
            ),
        ),
        (
            "other",
            "cannot find local etcd member \"m0\" in SRV records".to_owned(),
        ),
        (
            "tls",
            format!(
                "error querying DNS SRV records for _etcd-server-ssl-tls bootstrap at \
                 https://localhost:{own_port} from DNS for etcd-server-ssl-tls has scheme mismatch \
                 with expected peer {own}\n{}",
                missing("etcd-server-tls")
            ),
        ),
    ] {
        cluster.adjust(0, |config| by_dns(config, server, service_name));
        let error = cluster.try_restart(0).await.expect_err(service_name);
        assert_eq!(format!("{error:#}"), format!("{prefix}{text}"));
    }
}
