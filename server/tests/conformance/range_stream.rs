//! Streamed ranges (contract 2.3).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use keelson_proto::etcdserverpb::{RangeRequest, RangeResponse, kv_client::KvClient};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{Cluster, compact, delete, get, keys, put_ok, range, range_ok};

/// The chunks of a stream, or how it ended.
async fn chunks(
    kv: &mut KvClient<Channel>,
    request: RangeRequest,
) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = kv.range_stream(request).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(message) = stream.message().await? {
        chunks.push(message.range_response.expect("each message has a response"));
    }
    Ok(chunks)
}

/// The chunks put together, once their form has been checked.
async fn joined(kv: &mut KvClient<Channel>, request: RangeRequest) -> RangeResponse {
    let mut chunks = chunks(kv, request).await.unwrap();
    let mut last = chunks.pop().expect("at least one message");
    assert!(last.header.is_some());
    let mut kvs = Vec::new();
    for chunk in chunks {
        assert_eq!((chunk.header, chunk.more, chunk.count), (None, false, 0));
        assert!(!chunk.kvs.is_empty(), "only the last chunk may be empty");
        kvs.extend(chunk.kvs);
    }
    kvs.append(&mut last.kvs);
    RangeResponse { kvs, ..last }
}

async fn fill(kv: &mut KvClient<Channel>, count: usize) {
    let puts = (0..count).map(|i| {
        let mut kv = kv.clone();
        async move { put_ok(&mut kv, format!("k{i:04}"), vec![b'v'; 200]).await }
    });
    futures::future::join_all(puts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gives_what_a_range_gives() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    fill(&mut kv, 300).await;
    kv.delete_range(delete("k0100", "k0150")).await.unwrap();
    for request in [
        range("\0", "\0"),
        range("k0050", "k0200"),
        get("k0007"),
        get("none"),
        range("k", "a"),
        RangeRequest {
            limit: 25,
            ..range("k", "l")
        },
        RangeRequest {
            limit: 250,
            ..range("k", "l")
        },
        RangeRequest {
            revision: 150,
            ..range("k", "l")
        },
        RangeRequest {
            count_only: true,
            ..range("k", "l")
        },
        RangeRequest {
            keys_only: true,
            ..range("k", "l")
        },
        RangeRequest {
            serializable: true,
            ..range("k", "l")
        },
        RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            ..range("k", "l")
        },
    ] {
        let whole = range_ok(&mut kv, request.clone()).await;
        let streamed = joined(&mut kv, request.clone()).await;
        assert_eq!(streamed, whole, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_begin_small_and_nothing_is_one_message() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for request in [
        range("\0", "\0"),
        RangeRequest {
            count_only: true,
            ..range("\0", "\0")
        },
    ] {
        assert_eq!(chunks(&mut kv, request).await.unwrap().len(), 1);
    }
    fill(&mut kv, 100).await;
    let chunks = chunks(&mut kv, range("k", "l")).await.unwrap();
    let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.kvs.len()).collect();
    assert_eq!(sizes[..3], [10, 20, 40]);
    assert_eq!(sizes.iter().sum::<usize>(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_one_revision_whatever_is_written_meanwhile() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    fill(&mut kv, 300).await;
    let mut stream = kv
        .range_stream(range("\0", "\0"))
        .await
        .unwrap()
        .into_inner();
    let first = stream
        .message()
        .await
        .unwrap()
        .unwrap()
        .range_response
        .unwrap();
    let revision_at_start = 301;
    kv.delete_range(delete("k0200", "\0")).await.unwrap();
    for i in 0..200 {
        put_ok(&mut kv, format!("k{i:04}"), "new").await;
    }
    let mut found = keys(&first);
    let mut last = first;
    while let Some(message) = stream.message().await.unwrap() {
        last = message.range_response.unwrap();
        assert!(
            last.kvs
                .iter()
                .all(|kv| kv.mod_revision <= revision_at_start)
        );
        found.extend(keys(&last));
    }
    assert_eq!((found.len(), last.count), (300, 300));
    assert_eq!(last.header.unwrap().revision, revision_at_start);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_a_range() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    fill(&mut kv, 20).await;
    kv.compact(compact(10)).await.unwrap();
    let at = |revision| RangeRequest {
        revision,
        ..range("k", "l")
    };
    let sorted = |order: SortOrder, target: SortTarget| RangeRequest {
        sort_order: order.into(),
        sort_target: target.into(),
        ..range("k", "l")
    };
    let unknown = RangeRequest {
        sort_target: 9,
        ..range("k", "l")
    };
    let text = |error: Error| (error.code(), error.text());
    let custom = "RangeStream does not support custom sort orders";
    for (request, expected) in [
        (get(""), text(Error::EmptyKey)),
        (at(9), text(Error::Compacted)),
        (at(99), text(Error::FutureRev)),
        (unknown, text(Error::InvalidSortOption)),
        (
            sorted(SortOrder::Descend, SortTarget::Key),
            (Code::Unimplemented, custom),
        ),
        (
            sorted(SortOrder::Ascend, SortTarget::Value),
            (Code::Unimplemented, custom),
        ),
        (
            RangeRequest {
                min_create_revision: 1,
                ..range("k", "l")
            },
            (
                Code::Unimplemented,
                "RangeStream does not support revision filters",
            ),
        ),
    ] {
        let status = chunks(&mut kv, request.clone()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), expected, "{request:?}");
    }
    assert_eq!(joined(&mut kv, at(10)).await.count, 9);
    // A target without an order is served in key order: nothing is skipped or repeated.
    let response = joined(&mut kv, sorted(SortOrder::None, SortTarget::Value)).await;
    assert_eq!(response.kvs.len(), 20);
    assert!(response.kvs.is_sorted_by_key(|kv| kv.key.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_streamed_in_bounded_messages() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let value = vec![b'x'; 100_000];
    let puts = (0..80).map(|i| {
        let (mut kv, value) = (kv.clone(), value.clone());
        async move { put_ok(&mut kv, format!("k{i:02}"), value).await }
    });
    futures::future::join_all(puts).await;
    let chunks = chunks(&mut kv, range("k", "l")).await.unwrap();
    let largest = chunks
        .iter()
        .map(prost::Message::encoded_len)
        .max()
        .unwrap();
    // Towards max-request-bytes: a message never outgrows the limit by more than its last key.
    assert!(largest < 1_572_864 + 200_000, "{largest}");
    assert_eq!(
        chunks.iter().map(|chunk| chunk.kvs.len()).sum::<usize>(),
        80
    );
}
