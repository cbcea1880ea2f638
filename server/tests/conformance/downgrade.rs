//! Downgrade and the cluster version (contract 2.10, 4.3), as the genuine program answered.

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    DowngradeInfo, DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction,
};
use keelson_proto::keelsonpb::command::Request;
use tonic::{Code, Response, Status};

use crate::support::{Cluster, assert_refused, eventually, put_ok};

async fn downgrade(
    cluster: &Cluster,
    i: usize,
    action: DowngradeAction,
    version: &str,
) -> Result<Response<DowngradeResponse>, Status> {
    let request = DowngradeRequest {
        action: action.into(),
        version: version.to_owned(),
    };
    cluster.maintenance(i).downgrade(request).await
}

/// The cluster version in an answer.
fn version(answer: Result<Response<DowngradeResponse>, Status>) -> String {
    let answer = answer.unwrap().into_inner();
    assert_ne!(answer.header.unwrap().revision, 0);
    answer.version
}

/// Waits until every member shows this version.
async fn shown(cluster: &Cluster, wanted: &str) {
    for i in 0..cluster.size() {
        eventually("the member shows the version", async || {
            let version = cluster.member(i).server().node().cluster_version();
            (version.as_deref() == Some(wanted)).then_some(())
        })
        .await;
        let status = cluster.status(i).await;
        assert_eq!(status.storage_version, wanted);
        assert_eq!(status.version, "3.7.1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_checked_in_the_order_format_target_in_progress() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let cluster = Cluster::single().await;
    shown(&cluster, "3.7.0").await;
    for action in [Validate, Enable] {
        let format = Error::WrongDowngradeVersionFormat;
        assert_refused(downgrade(&cluster, 0, action, "v3.6").await, format);
        for target in ["3.5", "3.7", "3.8", "2.6", "4.6"] {
            let refused = downgrade(&cluster, 0, action, target).await;
            assert_refused(refused, Error::InvalidDowngradeTargetVersion);
        }
    }
    assert_eq!(
        version(downgrade(&cluster, 0, Validate, "3.6").await),
        "3.7"
    );
    assert!(!cluster.status(0).await.downgrade_info.unwrap().enabled);
    assert_eq!(version(downgrade(&cluster, 0, Cancel, "").await), "3.7");
    let request = DowngradeRequest {
        action: 9,
        version: String::new(),
    };
    let status = cluster.maintenance(0).downgrade(request).await.unwrap_err();
    let told = (status.code(), status.message());
    assert_eq!(told, (Code::Unknown, "etcdserver: unknown method"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_ends_when_all_members_run_its_target() {
    let cluster = Cluster::start(3, |_| {}).await;
    shown(&cluster, "3.7.0").await;
    let begin = async |target: &str| {
        let downgrade = DowngradeInfo {
            enabled: true,
            target_version: target.to_owned(),
        };
        let node = cluster.member(0).server().node();
        node.propose(Request::Downgrade(downgrade)).await.unwrap();
    };
    begin("3.6.0").await;
    shown(&cluster, "3.6.0").await;
    // The leader looks each 200 ms here, and it took longer to lower the version.
    assert!(cluster.status(0).await.downgrade_info.unwrap().enabled);
    // As in a snapshot of a cluster that comes from 3.8.
    begin("3.7.0").await;
    eventually("the downgrade ends", async || {
        let info = cluster.status(1).await.downgrade_info.unwrap();
        (!info.enabled).then_some(())
    })
    .await;
    shown(&cluster, "3.7.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_lowers_the_cluster_version_until_it_is_cancelled() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let mut cluster = Cluster::start(3, |_| {}).await;
    shown(&cluster, "3.7.0").await;
    let follower = cluster.follower().await;
    assert_eq!(
        version(downgrade(&cluster, follower, Enable, "3.6.1").await),
        "3.7"
    );
    let info = cluster.status(follower).await.downgrade_info.unwrap();
    assert_eq!(
        (info.enabled, info.target_version.as_str()),
        (true, "3.6.0")
    );
    shown(&cluster, "3.6.0").await;
    // Now the target would be 3.5, and one is under way.
    let refused = downgrade(&cluster, 0, Validate, "3.6").await;
    assert_refused(refused, Error::InvalidDowngradeTargetVersion);
    let refused = downgrade(&cluster, 0, Enable, "3.5").await;
    assert_refused(refused, Error::DowngradeInProcess);
    put_ok(&mut cluster.kv(0), "a", "1").await;
    // It outlives the members and the leader.
    for i in 0..3 {
        cluster.stop(i).await;
        cluster.restart(i).await;
    }
    shown(&cluster, "3.6.0").await;
    for i in 0..3 {
        let info = cluster.status(i).await.downgrade_info.unwrap();
        assert_eq!(
            (info.enabled, info.target_version.as_str()),
            (true, "3.6.0")
        );
    }
    assert_eq!(
        version(downgrade(&cluster, follower, Cancel, "").await),
        "3.6"
    );
    shown(&cluster, "3.7.0").await;
    for i in 0..3 {
        assert_eq!(
            cluster.status(i).await.downgrade_info,
            Some(Default::default())
        );
    }
    assert_eq!(
        version(downgrade(&cluster, 0, Validate, "3.6").await),
        "3.7"
    );
}
