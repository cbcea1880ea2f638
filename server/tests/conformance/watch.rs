//! Watches (contract 2.7).

use std::time::Duration;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::watch_create_request::FilterType;
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, TxnRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest, WatchRequest, WatchResponse,
};
use keelson_proto::mvccpb::{Event, event::EventType};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{Cluster, compact, delete, get, op, put, put_ok, range_ok, soon};

/// Requests that may wait: more than a test sends at once.
const REQUESTS_MAX: usize = 2048;

/// A watch stream; dropping `requests` half-closes it.
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Responses,
}

/// The answers; the call is answered together with the first of them.
enum Responses {
    Opening(JoinHandle<Streaming<WatchResponse>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl Responses {
    async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Self::Opening(call) = self {
            *self = Self::Open(Box::new(call.await.unwrap()));
        }
        match self {
            Self::Open(responses) => responses.message().await,
            Self::Opening(_) => panic!("it was opened above"),
        }
    }
}

impl Stream {
    async fn open(cluster: &Cluster, i: usize) -> Self {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let mut client = cluster.watch(i);
        let call = async move { client.watch(ReceiverStream::new(queue)).await };
        let call = tokio::spawn(async move { call.await.unwrap().into_inner() });
        Self {
            requests,
            responses: Responses::Opening(call),
        }
    }

    async fn send(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        soon("a response", self.responses.message())
            .await
            .unwrap()
            .expect("the stream goes on")
    }

    /// Creates a watch and takes the answer, which comes before anything else of it.
    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        let created = self.next().await;
        assert!(created.created && created.events.is_empty(), "{created:?}");
        created
    }

    async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
            .await;
    }

    async fn request_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}))
            .await;
    }

    /// The next `count` events.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events);
        }
        assert_eq!(events.len(), count);
        events
    }
}

fn watch(key: &'static str, end: &'static str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..request
    }
}

/// Kind, key and revision of an event.
fn seen(event: &Event) -> (EventType, String, i64) {
    let kv = event.kv.as_ref().unwrap();
    let key = String::from_utf8_lossy(&kv.key).into_owned();
    (event.r#type(), key, kv.mod_revision)
}

fn revisions(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| seen(event).2).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn created_comes_first_and_a_watch_starts_behind_it() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "old").await;
    let mut stream = Stream::open(&cluster, 0).await;
    let created = stream.create(watch("a", "")).await;
    assert_eq!((created.watch_id, created.canceled), (0, false));
    assert_eq!(created.header.unwrap().revision, 2);
    put_ok(&mut kv, "b", "other").await;
    put_ok(&mut kv, "a", "new").await;
    let response = stream.next().await;
    let header = response.header.unwrap();
    assert_eq!((header.revision, response.watch_id), (4, 0));
    assert_ne!(
        (header.cluster_id, header.member_id, header.raft_term),
        (0, 0, 0)
    );
    assert_eq!(seen(&response.events[0]), (EventType::Put, "a".into(), 4));
    let kv = response.events[0].kv.as_ref().unwrap();
    assert_eq!(
        (kv.value.as_ref(), kv.create_revision, kv.version),
        (&b"new"[..], 2, 2)
    );
    assert_eq!(response.events[0].prev_kv, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_call_is_answered_with_the_first_response() {
    // Clients write as soon as the call is answered and expect to see what they wrote.
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    let Responses::Opening(call) = &mut stream.responses else {
        panic!("nothing was asked of it");
    };
    let early = tokio::time::timeout(Duration::from_millis(200), call).await;
    assert!(early.is_err(), "answered before there was anything to say");
    for i in 0..20 {
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(watch("a", ""))),
        };
        let mut client = cluster.watch(0);
        let call = client.watch(tokio_stream::once(request)).await.unwrap();
        let revision = put_ok(&mut cluster.kv(0), "a", format!("{i}")).await;
        let mut responses = call.into_inner();
        assert!(responses.message().await.unwrap().unwrap().created);
        let event = soon("the event", responses.message())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(revisions(&event.events), [revision]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_stream() {
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    stream
        .create(WatchCreateRequest {
            watch_id: 7,
            ..watch("a", "")
        })
        .await;
    for (request, reason) in [
        (from(-1, watch("a", "")), Error::Compacted.text()),
        (watch("b", "b"), "mvcc: watcher range is empty"),
        (watch("b", "a"), "mvcc: watcher range is empty"),
        (
            WatchCreateRequest {
                watch_id: 7,
                ..watch("b", "")
            },
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
    ] {
        let refused = stream.create(request).await;
        assert!(refused.canceled);
        assert_eq!((refused.watch_id, refused.compact_revision), (-1, 0));
        assert_eq!(refused.cancel_reason, reason);
    }
    put_ok(&mut cluster.kv(0), "a", "1").await;
    assert_eq!(stream.next().await.watch_id, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_assigned_upwards_or_taken_as_given() {
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    let with_id = |watch_id| WatchCreateRequest {
        watch_id,
        ..watch("a", "")
    };
    let mut ids = Vec::new();
    for wanted in [0, 2, 0, 0, -5] {
        ids.push(stream.create(with_id(wanted)).await.watch_id);
    }
    assert_eq!(ids, [0, 2, 1, 3, -5]);
    stream.cancel(2).await;
    assert_eq!(stream.next().await.watch_id, 2);
    assert_eq!(stream.create(with_id(2)).await.watch_id, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_is_answered_and_ends_the_watch_alone() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(watch("a", "")).await;
    stream.create(watch("b", "")).await;
    stream.cancel(99).await;
    stream.cancel(0).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!(
        (canceled.watch_id, canceled.cancel_reason.as_str()),
        (0, "")
    );
    put_ok(&mut kv, "a", "1").await;
    put_ok(&mut kv, "b", "1").await;
    let response = stream.next().await;
    assert_eq!(
        (response.watch_id, revisions(&response.events)),
        (1, vec![3])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_means_the_first() {
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(watch("", "\0")).await;
    put_ok(&mut cluster.kv(0), "anything", "1").await;
    assert_eq!(seen(&stream.events(1).await[0]).1, "anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_then_live_events_without_gap_or_duplicate() {
    let cluster = Cluster::single().await;
    let total = 600;
    let writers = 4;
    let write = |writer: usize| {
        let mut kv = cluster.kv(0);
        async move {
            for i in 0..total / writers {
                put_ok(&mut kv, format!("k{}", (writer + i) % 7), "v").await;
            }
        }
    };
    // Watches open at every stage of the writing, each from the first revision.
    let follow = async {
        let mut kv = cluster.kv(0);
        for stage in 0..6i64 {
            crate::support::eventually("some writes", async || {
                let revision = range_ok(&mut kv, get("x")).await.header.unwrap().revision;
                (revision > stage * 100).then_some(())
            })
            .await;
            let mut stream = Stream::open(&cluster, 0).await;
            stream.create(from(2, watch("k", "l"))).await;
            let events = stream.events(total).await;
            let expected: Vec<i64> = (2..2 + total as i64).collect();
            assert_eq!(revisions(&events), expected);
        }
    };
    let writing = futures::future::join_all((0..writers).map(write));
    tokio::join!(writing, follow);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_comes_in_batches_under_the_current_revision() {
    let cluster = Cluster::single().await;
    let writes = (0..8).map(|writer| {
        let mut kv = cluster.kv(0);
        async move {
            for i in 0..150 {
                put_ok(&mut kv, format!("k{writer}"), format!("{i}")).await;
            }
        }
    });
    futures::future::join_all(writes).await;
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(from(1, watch("k", "l"))).await;
    let first = stream.next().await;
    assert_eq!(first.events.len(), 1000);
    assert_eq!(first.header.unwrap().revision, 1201);
    assert_eq!(
        revisions(&stream.events(200).await),
        (1002..1202).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_revision_come_together_in_order() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "d", "1").await;
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(watch("a", "z")).await;
    let transaction = TxnRequest {
        success: vec![op(put("c", "")), op(delete("d", "")), op(put("b", ""))],
        ..Default::default()
    };
    kv.txn(transaction).await.unwrap();
    let live = stream.next().await;
    let expected = [
        (EventType::Put, "c".to_owned(), 3),
        (EventType::Delete, "d".to_owned(), 3),
        (EventType::Put, "b".to_owned(), 3),
    ];
    let found: Vec<_> = live.events.iter().map(seen).collect();
    assert_eq!(found, expected);
    let deleted = live.events[1].kv.as_ref().unwrap();
    assert_eq!(
        (
            deleted.create_revision,
            deleted.version,
            deleted.value.len()
        ),
        (0, 0, 0)
    );
    stream.create(from(3, watch("a", "z"))).await;
    let history: Vec<_> = stream.next().await.events.iter().map(seen).collect();
    assert_eq!(history, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_values_come_with_every_event_but_a_creation() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let request = || WatchCreateRequest {
        prev_kv: true,
        ..watch("a", "z")
    };
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(request()).await;
    put_ok(&mut kv, "a", "1").await;
    put_ok(&mut kv, "a", "2").await;
    kv.delete_range(DeleteRangeRequest {
        prev_kv: true,
        ..delete("a", "")
    })
    .await
    .unwrap();
    put_ok(&mut kv, "a", "3").await;
    let previous = |events: &[Event]| -> Vec<Option<(String, i64)>> {
        let value = |event: &Event| {
            let kv = event.prev_kv.as_ref()?;
            Some((
                String::from_utf8_lossy(&kv.value).into_owned(),
                kv.mod_revision,
            ))
        };
        events.iter().map(value).collect()
    };
    let expected = [None, Some(("1".into(), 2)), Some(("2".into(), 3)), None];
    assert_eq!(previous(&stream.events(4).await), expected);
    stream.create(from(2, request())).await;
    assert_eq!(previous(&stream.events(4).await), expected);
    // The event at the compact revision is still sent; the value before it is compacted away, also
    // where it is still at hand (as etcd, which reads it at the revision before).
    kv.compact(compact(4)).await.unwrap();
    stream.create(from(4, request())).await;
    let events = stream.events(2).await;
    assert_eq!(seen(&events[0]), (EventType::Delete, "a".into(), 4));
    assert_eq!(previous(&events), [None, None]);
    put_ok(&mut kv, "b", "1").await;
    put_ok(&mut kv, "b", "2").await;
    kv.compact(compact(7)).await.unwrap();
    let mut other = Stream::open(&cluster, 0).await;
    other.create(from(7, request())).await;
    put_ok(&mut kv, "b", "3").await;
    let events = other.events(2).await;
    assert_eq!(previous(&events), [None, Some(("2".into(), 7))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_drop_kinds_of_events() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    let without = |filter: FilterType| WatchCreateRequest {
        filters: vec![filter.into()],
        ..watch("a", "z")
    };
    let no_put = stream.create(without(FilterType::Noput)).await.watch_id;
    let no_delete = stream.create(without(FilterType::Nodelete)).await.watch_id;
    put_ok(&mut kv, "a", "1").await;
    kv.delete_range(delete("a", "")).await.unwrap();
    put_ok(&mut kv, "b", "1").await;
    let mut found = Vec::new();
    while found.len() < 3 {
        let response = stream.next().await;
        assert!(
            !response.events.is_empty(),
            "an emptied response is not sent"
        );
        found.extend(
            revisions(&response.events)
                .into_iter()
                .map(|r| (response.watch_id, r)),
        );
    }
    found.sort_unstable();
    assert_eq!(found, [(no_put, 3), (no_delete, 2), (no_delete, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_revision_is_cut_only_with_fragment() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    let whole = stream.create(watch("k", "l")).await.watch_id;
    let cut = stream
        .create(WatchCreateRequest {
            fragment: true,
            prev_kv: true,
            ..watch("k", "l")
        })
        .await
        .watch_id;
    let write = |byte: u8| TxnRequest {
        success: (0..14)
            .map(|i| op(put(format!("k{i:02}"), vec![byte; 100_000])))
            .collect(),
        ..Default::default()
    };
    kv.txn(write(1)).await.unwrap();
    kv.txn(write(2)).await.unwrap();
    let (mut wholes, mut parts) = (Vec::new(), Vec::new());
    while wholes.len() < 2 || parts.iter().filter(|(_, fragment)| !fragment).count() < 2 {
        let response = stream.next().await;
        assert!(!response.created);
        let size = prost::Message::encoded_len(&response);
        if response.watch_id == whole {
            assert!(!response.fragment);
            wholes.push(response.events.len());
        } else {
            assert_eq!(response.watch_id, cut);
            assert!(size < 1_572_864 + 512 * 1024, "{size}");
            parts.push((response.events.len(), response.fragment));
        }
    }
    assert_eq!(wholes, [14, 14]);
    assert_eq!(parts.iter().map(|(events, _)| events).sum::<usize>(), 28);
    // The second revision carries previous values too and does not fit into one response.
    assert!(parts.len() > 2);
    assert!(!parts.last().unwrap().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_future_start_hears_nothing_before() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    let created = stream.create(from(5, watch("a", ""))).await;
    assert_eq!(created.header.unwrap().revision, 1);
    for value in ["2", "3", "4", "5", "6"] {
        put_ok(&mut kv, "a", value).await;
    }
    assert_eq!(revisions(&stream.events(2).await), [5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_20221_no_progress_before_a_future_start() {
    let cluster = Cluster::start(1, |config| {
        config.node.watch_progress_notify_interval = Duration::from_millis(100);
    })
    .await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    let with_progress = |start| WatchCreateRequest {
        progress_notify: true,
        ..from(start, watch("a", ""))
    };
    let future = stream.create(with_progress(5)).await.watch_id;
    let current = stream.create(with_progress(0)).await.watch_id;
    put_ok(&mut kv, "other", "2").await;
    // Three rounds of the timer reach the watch that has caught up, none the other one.
    for _ in 0..3 {
        let progress = stream.next().await;
        assert_eq!(progress.watch_id, current);
        assert!(progress.events.is_empty() && !progress.canceled);
    }
    for value in ["3", "4", "5"] {
        put_ok(&mut kv, "other", value).await;
    }
    loop {
        let progress = stream.next().await;
        let revision = progress.header.unwrap().revision;
        if progress.watch_id == future {
            assert_eq!(revision, 5);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_start_ends_the_watch_with_the_compact_revision() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for value in ["2", "3", "4", "5"] {
        put_ok(&mut kv, "a", value).await;
    }
    kv.compact(compact(4)).await.unwrap();
    let mut stream = Stream::open(&cluster, 0).await;
    let created = stream.create(from(3, watch("a", ""))).await;
    assert!(!created.canceled);
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.events.is_empty() && !canceled.created);
    assert_eq!(
        (canceled.watch_id, canceled.compact_revision),
        (created.watch_id, 4)
    );
    assert_eq!(canceled.header.unwrap().revision, 0);
    // The stream goes on, and the watch that is gone does not hold back progress.
    stream.create(from(4, watch("a", ""))).await;
    assert_eq!(revisions(&stream.events(2).await), [4, 5]);
    stream.request_progress().await;
    assert_eq!(stream.next().await.watch_id, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_19179_a_tombstone_at_the_compact_revision_is_delivered() {
    let mut cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    put_ok(&mut kv, "a", "1").await;
    kv.delete_range(delete("a", "")).await.unwrap();
    kv.compact(compact(3)).await.unwrap();
    let expect = async |cluster: &Cluster| {
        let mut stream = Stream::open(cluster, 0).await;
        stream.create(from(3, watch("a", ""))).await;
        let events = stream.events(1).await;
        assert_eq!(seen(&events[0]), (EventType::Delete, "a".into(), 3));
    };
    expect(&cluster).await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    expect(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_progress_is_one_response_behind_all_events() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(watch("a", "")).await;
    stream.create(watch("b", "")).await;
    for i in 0..20 {
        let revision = put_ok(&mut kv, ["a", "b"][i % 2], "v").await;
        stream.request_progress().await;
        let event = stream.next().await;
        assert_eq!(revisions(&event.events), [revision]);
        let progress = stream.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
        assert_eq!(progress.header.unwrap().revision, revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_15220_progress_never_overtakes_an_event() {
    let cluster = Cluster::start(1, |config| {
        config.node.watch_progress_notify_interval = Duration::from_millis(100);
    })
    .await;
    let total = 400;
    let write = |writer: usize| {
        let mut kv = cluster.kv(0);
        async move {
            for _ in 0..total / 4 {
                put_ok(&mut kv, format!("k{writer}"), "v").await;
            }
        }
    };
    let follow = async {
        let mut stream = Stream::open(&cluster, 0).await;
        for watch_id in [1, 2] {
            stream
                .send(RequestUnion::CreateRequest(WatchCreateRequest {
                    watch_id,
                    progress_notify: true,
                    ..from(2, watch("k", "l"))
                }))
                .await;
        }
        let (mut promised, mut events, mut progress) = ([0, 0], 0, 0);
        while events < total {
            let response = stream.next().await;
            let revision = response.header.unwrap().revision;
            let watches = match response.watch_id {
                -1 => 0..2,
                id => id as usize - 1..id as usize,
            };
            if response.created {
                continue;
            }
            if response.events.is_empty() {
                progress += 1;
                promised[watches].fill(revision);
                continue;
            }
            let found = revisions(&response.events);
            assert!(found[0] > promised[watches.start], "{found:?} {promised:?}");
            if response.watch_id == 1 {
                events += found.len();
            }
            stream.request_progress().await;
        }
        assert!(progress > 0);
    };
    let writing = futures::future::join_all((0..4).map(write));
    tokio::join!(writing, follow);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closing_does_not_end_the_watches() {
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    stream.create(watch("a", "")).await;
    let Stream {
        requests,
        mut responses,
    } = stream;
    drop(requests);
    put_ok(&mut cluster.kv(0), "a", "1").await;
    let response = soon("the event", responses.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(revisions(&response.events), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_of_one_key() {
    let cluster = Cluster::single().await;
    let mut stream = Stream::open(&cluster, 0).await;
    let watchers = 1000;
    for _ in 0..watchers {
        stream
            .send(RequestUnion::CreateRequest(watch("a", "")))
            .await;
    }
    for id in 0..watchers {
        assert_eq!(stream.next().await.watch_id, id);
    }
    let mut kv = cluster.kv(0);
    for _ in 0..3 {
        let revision = put_ok(&mut kv, "a", "v").await;
        let mut heard = std::collections::BTreeSet::new();
        for _ in 0..watchers {
            let response = stream.next().await;
            assert_eq!(revisions(&response.events), [revision]);
            heard.insert(response.watch_id);
        }
        assert_eq!(heard.len(), watchers as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn issue_17529_a_slow_consumer_is_late_and_misses_nothing() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let mut slow = Stream::open(&cluster, 0).await;
    slow.create(watch("k", "l")).await;
    let mut fast = Stream::open(&cluster, 0).await;
    fast.create(watch("k", "l")).await;
    // Far more than a stream's windows and queue hold.
    let (writes, size) = (400usize, 100_000);
    for batch in 0..writes / 8 {
        let puts = (0..8).map(|i| {
            let mut kv = cluster.kv(0);
            async move {
                kv.put(PutRequest {
                    value: vec![b'v'; size].into(),
                    ..put(format!("k{i}"), "")
                })
                .await
                .unwrap()
            }
        });
        futures::future::join_all(puts).await;
        // The one that reads is never held back by the one that does not.
        let events = fast.events(8).await;
        assert_eq!(seen(&events[0]).2, 2 + 8 * batch as i64);
    }
    let last = put_ok(&mut kv, "k", "end").await;
    let events = slow.events(writes + 1).await;
    assert_eq!(revisions(&events), (2..=last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_works_through_every_member() {
    let cluster = Cluster::start(3, |_| {}).await;
    let mut streams = Vec::new();
    for i in 0..3 {
        let mut stream = Stream::open(&cluster, i).await;
        stream.create(from(2, watch("a", ""))).await;
        streams.push(stream);
    }
    for i in 0..9 {
        put_ok(&mut cluster.kv(i % 3), "a", "v").await;
    }
    for stream in &mut streams {
        assert_eq!(
            revisions(&stream.events(9).await),
            (2..11).collect::<Vec<_>>()
        );
    }
}
