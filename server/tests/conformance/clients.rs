//! The main flows through an independent client, the crate `etcd-client`, against one member and
//! against every member of three.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchOptions,
};

use crate::support::{Cluster, soon};

async fn client(cluster: &Cluster) -> Client {
    let endpoints: Vec<String> = (0..cluster.size())
        .map(|i| format!("http://{}", cluster.client_address(i)))
        .collect();
    Client::connect(endpoints, None).await.unwrap()
}

async fn keys_and_values(mut client: Client) {
    client.put("k/a", "1", None).await.unwrap();
    client.put("k/b", "2", None).await.unwrap();
    let options = PutOptions::new().with_prev_key();
    let response = client.put("k/a", "3", Some(options)).await.unwrap();
    assert_eq!(response.prev_key().unwrap().value(), b"1");
    let options = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let response = client.get("k/", Some(options)).await.unwrap();
    let keys: Vec<&[u8]> = response.kvs().iter().map(|kv| kv.key()).collect();
    assert_eq!(keys, [b"k/b", b"k/a"]);
    assert_eq!(response.kvs()[1].version(), 2);
    let transaction = Txn::new()
        .when([Compare::value("k/a", CompareOp::Equal, "3")])
        .and_then([TxnOp::put("k/c", "4", None), TxnOp::get("k/c", None)])
        .or_else([TxnOp::delete("k/a", None)]);
    let response = client.txn(transaction).await.unwrap();
    assert!(response.succeeded());
    assert_eq!(response.op_responses().len(), 2);
    let options = DeleteOptions::new().with_prefix();
    let response = client.delete("k/", Some(options)).await.unwrap();
    assert_eq!(response.deleted(), 3);
}

async fn watch(mut client: Client) {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("w/", Some(options)).await.unwrap();
    client.put("w/a", "1", None).await.unwrap();
    client.put("w/a", "2", None).await.unwrap();
    client.delete("w/a", None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = soon("an event", stream.message()).await.unwrap().unwrap();
        for event in response.events() {
            let previous = event.prev_kv().map(|kv| kv.value().to_vec());
            seen.push((event.event_type(), previous));
        }
    }
    assert_eq!(
        seen,
        [
            (EventType::Put, None),
            (EventType::Put, Some(b"1".to_vec())),
            (EventType::Delete, Some(b"2".to_vec())),
        ]
    );
    stream.cancel(0).await.unwrap();
    let canceled = soon("the answer", stream.message()).await.unwrap().unwrap();
    assert!(canceled.canceled());
}

async fn leases(mut client: Client) {
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put("l/a", "1", Some(options)).await.unwrap();
    let (mut keeper, mut replies) = client.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let reply = soon("a reply", replies.message()).await.unwrap().unwrap();
    assert_eq!((reply.id(), reply.ttl()), (lease, 60));
    let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
    let response = client
        .lease_time_to_live(lease, Some(options))
        .await
        .unwrap();
    assert_eq!(response.granted_ttl(), 60);
    assert_eq!(response.keys(), [b"l/a"]);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(client.get("l/a", None).await.unwrap().count(), 0);
}

async fn maintenance(mut client: Client) {
    let status = client.status().await.unwrap();
    assert_eq!(status.version(), "3.7.1");
    assert_ne!(status.leader(), 0);
    let members = client.member_list().await.unwrap();
    assert!(
        members
            .members()
            .iter()
            .all(|member| !member.name().is_empty())
    );
    let revision = client.put("m", "1", None).await.unwrap();
    let revision = revision.header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    client.hash_kv(revision).await.unwrap();
    client.defragment().await.unwrap();
}

async fn everything(cluster: &Cluster) {
    let client = client(cluster).await;
    keys_and_values(client.clone()).await;
    watch(client.clone()).await;
    leases(client.clone()).await;
    maintenance(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_against_one_member() {
    everything(&Cluster::single().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_against_three_members() {
    everything(&Cluster::start(3, |_| {}).await).await;
}
