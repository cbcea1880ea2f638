//! Requests beyond the limits and bytes that are none (contract 1, 2.1, 10.5).

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{AlarmRequest, AuthStatusRequest, auth_client::AuthClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::support::{
    Cluster, Processes, assert_refused, eventually, get, put, put_ok, range, range_ok, soon,
};

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

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}

/// Headers of a gRPC call, in HPACK without any table.
fn call_headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn half_announced_messages_cost_what_has_arrived() {
    const STREAMS: u32 = 8000;
    /// Much less than the 2 MiB that each announces, or tonic's 8 KiB for a call.
    const STREAM_BYTES_MAX: u64 = 6 << 10;
    let processes = Processes::start(1, &[]).await;
    let before = processes.anonymous_bytes(0);
    let mut stream = TcpStream::connect(processes.client_address(0))
        .await
        .unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    let headers = call_headers("/etcdserverpb.KV/Put");
    let begun = [&[0], &2_000_000_u32.to_be_bytes()[..], b"\x0a\x01a"].concat();
    for stream in (0..STREAMS).map(|i| 2 * i + 1) {
        bytes.extend(frame(1, 4, stream, &headers));
        bytes.extend(frame(0, 0, stream, &begun));
    }
    stream.write_all(&bytes).await.unwrap();
    // A ping behind them: its answer comes when all of them have been read.
    stream
        .write_all(&frame(6, 0, 0, b"all read"))
        .await
        .unwrap();
    let mut answer = Vec::new();
    soon("the answer to the ping", async {
        while !answer.windows(8).any(|window| window == b"all read") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    })
    .await;
    // Calls begin in tasks of their own: what they take has been taken when this one is answered.
    eventually("every call has begun", async || {
        let page = processes.metrics(0).await;
        let started = format!(
            "grpc_server_started_total{{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"}} {STREAMS}\n"
        );
        page.contains(&started).then_some(())
    })
    .await;
    let taken = processes.anonymous_bytes(0).saturating_sub(before);
    println!(
        "{STREAMS} half-announced messages: {} KiB, {} bytes each",
        taken >> 10,
        taken / u64::from(STREAMS)
    );
    assert!(
        taken < u64::from(STREAMS) * STREAM_BYTES_MAX,
        "{STREAMS} streams took {taken} bytes"
    );
    put_ok(&mut processes.kv(0), "a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_many_pieces_arrive_whole() {
    let cluster = Cluster::single().await;
    let kv = cluster.kv(0);
    let puts = (0..40_u8).map(|i| {
        let mut kv = kv.clone();
        async move { put_ok(&mut kv, format!("k{i}"), vec![i; 1_000_000]).await }
    });
    futures::future::join_all(puts).await;
    let all = range_ok(&mut cluster.kv(0), range("k", "l")).await;
    assert_eq!(all.count, 40);
    for kv in all.kvs {
        let i: u8 = String::from_utf8_lossy(&kv.key[1..]).parse().unwrap();
        assert!(kv.value.len() == 1_000_000 && kv.value.iter().all(|byte| *byte == i));
    }
}
