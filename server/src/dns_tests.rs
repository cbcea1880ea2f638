use simple_dns::ResourceRecord;
use simple_dns::rdata::SRV;
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "_etcd-server._tcp.example.test.";

/// An answer to `question` with this many records.
fn answer(question: &[u8], rcode: RCODE, records: u16) -> Vec<u8> {
    let question = Packet::parse(question).unwrap();
    let mut packet = Packet::new_reply(question.id());
    *packet.rcode_mut() = rcode;
    let name = question.questions[0].qname.clone();
    packet.questions = question.questions;
    for i in 0..records {
        let srv = SRV {
            priority: 100 - i,
            weight: 1,
            port: 1000 + i,
            target: Name::new("host.example.test").unwrap(),
        };
        packet.answers.push(ResourceRecord::new(
            name.clone(),
            CLASS::IN,
            60,
            RData::SRV(srv),
        ));
    }
    packet.build_bytes_vec().unwrap()
}

/// A name server that says this to each question, over UDP and TCP.
async fn server(
    over_udp: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    over_tcp: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut question = vec![0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut question).await.unwrap();
            for answer in over_udp(&question[..length]) {
                udp.send_to(&answer, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut question = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut question).await.unwrap();
            let answer = over_tcp(&question);
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

async fn ask_at(servers: &[SocketAddr]) -> Result<Vec<Srv>, DnsError> {
    let resolver = Resolver::new(servers.to_vec(), 2, Duration::from_millis(300));
    resolver.srv("etcd-server", "example.test").await
}

#[tokio::test]
async fn records_are_given_in_the_order_of_their_priority() {
    let address = server(
        |question| vec![answer(question, RCODE::NoError, 3)],
        |_| vec![],
    )
    .await;
    let records = ask_at(&[address]).await.unwrap();
    let ports: Vec<u16> = records.iter().map(|record| record.port).collect();
    assert_eq!(ports, [1002, 1001, 1000]);
    assert_eq!(records[0].target, "host.example.test.");
}

#[tokio::test]
async fn an_answer_that_is_too_long_comes_over_tcp() {
    let truncated = |question: &[u8]| {
        let mut cut = answer(question, RCODE::NoError, 1);
        cut[2] |= 0x02;
        vec![cut]
    };
    let address = server(truncated, |question| answer(question, RCODE::NoError, 90)).await;
    assert_eq!(ask_at(&[address]).await.unwrap().len(), 90);
}

#[tokio::test]
async fn answers_to_others_are_not_heard() {
    let guessed = |question: &[u8]| {
        let mut other_id = answer(question, RCODE::NoError, 9);
        other_id[0] ^= 1;
        let mut not_an_answer = answer(question, RCODE::NoError, 9);
        not_an_answer[2] &= 0x7f;
        let mut other_name = answer(question, RCODE::NoError, 9);
        other_name[13] ^= 1;
        let garbage = vec![0xc0; 40];
        let ours = answer(question, RCODE::NoError, 1);
        vec![other_id, not_an_answer, other_name, garbage, vec![], ours]
    };
    let address = server(guessed, |_| vec![]).await;
    assert_eq!(ask_at(&[address]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn errors_have_gos_words_and_the_next_server_is_asked() {
    let missing = server(
        |question| vec![answer(question, RCODE::NameError, 0)],
        |_| vec![],
    )
    .await;
    let empty = server(
        |question| vec![answer(question, RCODE::NoError, 0)],
        |_| vec![],
    )
    .await;
    let failing = server(
        |question| vec![answer(question, RCODE::ServerFailure, 0)],
        |_| vec![],
    )
    .await;
    let silent = server(|_| vec![], |_| vec![]).await;
    let sound = server(
        |question| vec![answer(question, RCODE::NoError, 2)],
        |_| vec![],
    )
    .await;
    let name = NAME.trim_end_matches('.');
    for (address, text) in [
        (missing, "no such host"),
        (empty, "no such host"),
        (failing, "server misbehaving"),
        (silent, "i/o timeout"),
    ] {
        let error = ask_at(&[address]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("lookup {name} on {address}: {text}")
        );
    }
    assert_eq!(ask_at(&[silent, failing, sound]).await.unwrap().len(), 2);
    assert!(
        ask_at(&[missing, sound]).await.is_err(),
        "it is known not to be there"
    );
    let nobody = Resolver::new(vec![], 1, Duration::ZERO);
    assert!(nobody.srv("a", "b").await.is_err());
    let long = "a".repeat(64);
    assert!(
        Resolver::new(vec![sound], 1, TIMEOUT_MAX)
            .srv("a", &long)
            .await
            .is_err()
    );
}

#[test]
fn the_systems_configuration_says_whom_to_ask() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let text = "search a.test b.test\nnameserver 10.0.0.1\nnameserver ::1\nnonsense\n\
                nameserver 10.0.0.2\nnameserver 10.0.0.3\noptions attempts:99 timeout:1\n";
    std::fs::write(&path, text).unwrap();
    let resolver = Resolver::configured(&path);
    let servers: Vec<String> = resolver.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
    assert_eq!(
        (resolver.attempts, resolver.timeout),
        (ATTEMPTS_MAX, Duration::from_secs(1))
    );
    assert_eq!(
        resolver.candidates("_x._tcp.y"),
        ["_x._tcp.y.", "_x._tcp.y.a.test.", "_x._tcp.y.b.test."]
    );
    assert_eq!(resolver.candidates("_x._tcp.y."), ["_x._tcp.y."]);
    let none = Resolver::configured(&directory.path().join("none"));
    assert_eq!(none.servers, [SocketAddr::from(([127, 0, 0, 1], 53))]);
}

proptest::proptest! {
    #[test]
    fn any_bytes_have_an_answer(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        places in proptest::collection::vec((0_usize..200, proptest::prelude::any::<u8>()), 0..20),
    ) {
        let mut spoilt = answer(&question(7, NAME).unwrap(), RCODE::NoError, 3);
        for (place, byte) in places {
            if let Some(spot) = spoilt.get_mut(place) {
                *spot = byte;
            }
        }
        let _ = read_answer(&bytes, 7, NAME);
        let _ = read_answer(&spoilt, 7, NAME);
    }
}
