//! Requests beyond the limits and bytes that are none (contract 1, 2.1, 10.5).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmRequest, AuthStatusRequest, auth_client::AuthClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::support::{Cluster, assert_refused, get, put, put_ok, range, range_ok};

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_above_the_limit_is_too_large() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let too_large = kv.put(put("a", vec![0; 1_572_864 + 100])).await;
    assert_refused(too_large, Error::RequestTooLarge);
    put_ok(&mut kv, "a", vec![0; 1_572_864 - 100]).await;
    assert_eq!(
        range_ok(&mut kv, get("a")).await.kvs[0].value.len(),
        1_572_764
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_receive_limit_is_not_read() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    let limit = 1_572_864 + 512 * 1024;
    let status = kv.put(put("a", vec![0; limit])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let size = prost::Message::encoded_len(&put("a", vec![0; limit]));
    assert_eq!(
        status.message(),
        format!("grpc: received message larger than max ({size} vs. {limit})")
    );
    assert_eq!(range_ok(&mut kv, get("a")).await.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_sent_whole() {
    let cluster = Cluster::single().await;
    let mut kv = cluster.kv(0);
    for i in 0..20 {
        put_ok(&mut kv, format!("k{i:02}"), vec![i; 1_000_000]).await;
    }
    let all = range_ok(&mut kv, range("k", "l")).await;
    assert_eq!(
        all.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(),
        20_000_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_alarm_action_is_an_error_and_no_crash() {
    let cluster = Cluster::single().await;
    let mut maintenance = cluster.maintenance(0);
    for (action, alarm) in [(99, 1), (-1, 0), (1, 99), (2, -1)] {
        let request = AlarmRequest {
            action,
            member_id: 0,
            alarm,
        };
        if let Err(status) = maintenance.alarm(request).await {
            assert_eq!(status.code(), Code::InvalidArgument, "{action} {alarm}");
        } else {
            assert!((0..3).contains(&action), "{action} is no action");
        }
    }
    put_ok(&mut cluster.kv(0), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_version_that_is_no_text_is_refused() {
    let cluster = Cluster::single().await;
    let mut request = Request::new(get("a"));
    let version = MetadataValue::try_from(&b"3.\xff\xfe"[..]).unwrap();
    request.metadata_mut().insert("client-api-version", version);
    let refused = cluster.kv(0).range(request).await;
    assert_refused(refused, Error::InvalidClientAPIVersion);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_yet_says_so() {
    let cluster = Cluster::single().await;
    let mut auth = AuthClient::new(cluster.channel(0));
    let status = auth.auth_status(AuthStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Sends bytes and reads until the other side has enough of them, or says nothing.
async fn send_bytes(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may close before it has read everything.
    drop(stream.write_all(bytes).await);
    drop(stream.shutdown().await);
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    drop(tokio::time::timeout(std::time::Duration::from_secs(2), reading).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_any_port_does_no_harm() {
    let cluster = Cluster::start(3, |_| {}).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 4096],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"GET /\xff\xfe HTTP/1.1\r\nHost: \x80\r\n\r\n".to_vec(),
        b"POST /health HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        preface.clone(),
    ];
    // A frame that announces 16 MiB, settings that make no sense, headers that are none.
    for tail in [
        &b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"[..],
        b"\x00\x00\x05\x04\x00\x00\x00\x00\x00abcde",
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff",
    ] {
        garbage.push([&preface, tail].concat());
    }
    let mut seed = 1u64;
    for length in [1, 100, 10_000] {
        let mut bytes = preface.clone();
        bytes.extend((0..length).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        }));
        garbage.push(bytes);
    }
    let client = cluster.client_address(0).to_string();
    let peer = cluster.peer_address(0);
    let sends = garbage
        .iter()
        .flat_map(|bytes| [send_bytes(&client, bytes), send_bytes(&peer, bytes)]);
    futures::future::join_all(sends).await;
    for i in 0..3 {
        put_ok(&mut cluster.kv(i), "a", "1").await;
        assert_eq!(range_ok(&mut cluster.kv(i), get("a")).await.count, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_messages_are_refused_by_every_method() {
    use tonic::client::Grpc;
    let cluster = Cluster::single().await;
    let mut grpc = Grpc::new(cluster.channel(0));
    for path in [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Maintenance/Alarm",
        "/etcdserverpb.Maintenance/HashKV",
        "/etcdserverpb.Cluster/MemberList",
        "/v3lockpb.Lock/Lock",
        "/v3electionpb.Election/Campaign",
    ] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Garbage, Garbage>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let result = grpc.unary(Request::new(Garbage), path.clone(), codec).await;
        let status = result.expect_err("bytes that are no message are refused");
        assert_eq!(status.code(), Code::Internal, "{path} {status:?}");
    }
    put_ok(&mut cluster.kv(0), "a", "1").await;
}

/// A message of bytes that no decoder takes: a field that ends behind the message.
#[derive(Clone, Debug, Default, PartialEq)]
struct Garbage;

impl prost::Message for Garbage {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(b"\x0a\xff\xff\xff\xff\x07abc");
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        9
    }

    fn clear(&mut self) {}
}
