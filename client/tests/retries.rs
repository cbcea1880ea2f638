//! What is sent again, and what is not: against members that fail on purpose.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test program"
)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keelson_client::{Client, Config, Error, Watch};
use keelson_proto::etcdserverpb::kv_server::{Kv, KvServer};
use keelson_proto::etcdserverpb::watch_server::{Watch as WatchService, WatchServer};
use keelson_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use keelson_proto::mvccpb::{Event, KeyValue};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A member that answers as it is told: its calls are numbered from 0.
#[derive(Clone)]
struct Fake {
    calls: Arc<AtomicU32>,
    answer: fn(u32) -> Result<(), Status>,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    fn called(&self) -> Result<(), Status> {
        (self.answer)(self.calls.fetch_add(1, Ordering::SeqCst))
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream = Messages<RangeStreamResponse>;

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.called()
            .map(|()| Response::new(RangeResponse::default()))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let version = request.metadata().get("client-api-version");
        assert_eq!(version.expect("every call says its version"), "3.7");
        self.called()
            .map(|()| Response::new(PutResponse::default()))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.called()
            .map(|()| Response::new(TxnResponse::default()))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Each stream gives one event, at the revision asked for, and breaks.
#[tonic::async_trait]
impl WatchService for Fake {
    type WatchStream = Messages<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let leader = request.metadata().get("hasleader");
        assert_eq!(leader.expect("watches want a leader"), "true");
        let first = request.into_inner().next().await.unwrap()?;
        let Some(RequestUnion::CreateRequest(create)) = first.request_union else {
            panic!("the first request creates a watch");
        };
        let header = |revision| {
            Some(ResponseHeader {
                revision,
                ..Default::default()
            })
        };
        let created = WatchResponse {
            header: header(7),
            created: true,
            ..Default::default()
        };
        let revision = create.start_revision;
        let kv = KeyValue {
            mod_revision: revision,
            ..Default::default()
        };
        let event = WatchResponse {
            header: header(revision),
            events: vec![Event {
                kv: Some(kv),
                ..Default::default()
            }],
            ..Default::default()
        };
        self.called()?;
        let messages = [Ok(created), Ok(event), Err(Status::unavailable("gone"))];
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

/// A member; its endpoint and how often it was called.
async fn member(answer: fn(u32) -> Result<(), Status>) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let calls = Arc::new(AtomicU32::new(0));
    let fake = Fake {
        calls: Arc::clone(&calls),
        answer,
    };
    let serving = Server::builder()
        .add_service(KvServer::new(fake.clone()))
        .add_service(WatchServer::new(fake))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (address, calls)
}

/// An endpoint where nobody is.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn client(endpoints: &[&str]) -> Client {
    let endpoints = endpoints.iter().map(|&text| text.to_owned()).collect();
    Client::new(Config::new(endpoints))
        .unwrap()
        .within(DEADLINE)
}

fn fails_twice(call: u32) -> Result<(), Status> {
    if call < 2 {
        return Err(Status::unavailable("etcdserver: leader changed"));
    }
    Ok(())
}

#[tokio::test]
async fn a_read_is_repeated_while_the_cluster_is_unavailable() {
    let (endpoint, calls) = member(fails_twice).await;
    let client = client(&[&endpoint]);
    client.range(RangeRequest::default()).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    // A transaction that only reads is one too.
    calls.store(0, Ordering::SeqCst);
    client.txn(TxnRequest::default()).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_write_is_sent_once() {
    let (endpoint, calls) = member(fails_twice).await;
    let error = client(&[&endpoint]).put(PutRequest::default()).await;
    assert_eq!(error.unwrap_err().to_string(), "etcdserver: leader changed");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_outage_is_final() {
    let refuse = |_| Err(Status::invalid_argument("etcdserver: key is not provided"));
    let (endpoint, calls) = member(refuse).await;
    let error = client(&[&endpoint]).range(RangeRequest::default()).await;
    let known = error.unwrap_err().known();
    assert_eq!(known, Some(keelson_proto::error::Error::EmptyKey));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_write_goes_to_a_member_that_is_there() {
    let (endpoint, calls) = member(|_| Ok(())).await;
    let (first, last) = (nobody().await, nobody().await);
    let client = client(&[&first, &endpoint, &last]);
    for _ in 0..6 {
        client.put(PutRequest::default()).await.unwrap();
    }
    assert_eq!(calls.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn calls_go_round_among_members() {
    let (a, calls_a) = member(|_| Ok(())).await;
    let (b, calls_b) = member(|_| Ok(())).await;
    let client = client(&[&a, &b]);
    let both = async {
        while calls_a.load(Ordering::SeqCst) < 3 || calls_b.load(Ordering::SeqCst) < 3 {
            client.put(PutRequest::default()).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, both).await.unwrap();
}

#[tokio::test]
async fn nobody_at_all_ends_with_the_deadline_and_says_why() {
    let endpoint = nobody().await;
    let client = client(&[&endpoint]).within(Duration::from_millis(300));
    let error = client.put(PutRequest::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "context deadline exceeded");
    let Error::DeadlineExceeded { no_connection } = error else {
        panic!("{error:?}");
    };
    let reason = no_connection.unwrap();
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let (endpoint, calls) = member(|_| Ok(())).await;
    let request = PutRequest {
        value: vec![0; 3 << 20].into(),
        ..Default::default()
    };
    let error = client(&[&endpoint]).put(request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max \
         (3145733 vs. 2097152)"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_watch_goes_on_behind_the_last_event_when_its_stream_breaks() {
    let (endpoint, _) = member(|_| Ok(())).await;
    let mut watch = Watch::new(&client(&[&endpoint]), WatchCreateRequest::default());
    let seeing = async {
        assert!(watch.next().await.unwrap().created);
        for expected in 8..11 {
            let response = watch.next().await.unwrap();
            let revisions = response
                .events
                .iter()
                .map(|event| event.kv.as_ref().unwrap());
            let revisions: Vec<i64> = revisions.map(|kv| kv.mod_revision).collect();
            // The first stream was asked for what comes: it cannot know a revision.
            let expected = if expected == 8 { 0 } else { expected - 1 };
            assert_eq!(revisions, [expected]);
        }
    };
    tokio::time::timeout(DEADLINE, seeing).await.unwrap();
}
