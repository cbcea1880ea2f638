//! What a member does before it serves, and what it makes on the disk (contract 4.1, 4.2).

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use keelson::transport::ListenAddress;

use crate::support::{Cluster, Processes, eventually, free_port, http_at, put_ok};

/// How long a client's port is tried that must not answer.
const SILENCE: Duration = Duration::from_millis(500);

/// Without its peers a member has not joined: clients wait, whoever looks after it does not.
#[tokio::test(flavor = "multi_thread")]
async fn clients_are_answered_once_the_member_has_joined_and_probes_at_once() {
    let metrics: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut cluster = Cluster::prepared(3, |_| {});
    cluster.adjust(0, |config| {
        config.listen_metrics = vec![ListenAddress::Tcp(metrics.to_string())];
    });
    let client = cluster.node_config(0).advertise_client_urls[0].clone();
    let client: SocketAddr = client.trim_start_matches("http://").parse().unwrap();
    let probing = async {
        eventually("probes are answered", async || {
            tokio::net::TcpStream::connect(metrics).await.ok().map(drop)
        })
        .await;
        let code = async |path| http_at(metrics, "GET", path).await.0;
        assert_eq!(code("/metrics").await, 200);
        assert_eq!(code("/health").await, 503);
        assert_eq!(code("/readyz").await, 503);
        let asked = async {
            // Refused is as good as silence.
            if tokio::net::TcpStream::connect(client).await.is_ok() {
                http_at(client, "GET", "/version").await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let answered = tokio::time::timeout(SILENCE, asked).await;
        assert!(
            answered.is_err(),
            "a client is answered before there is a cluster"
        );
    };
    tokio::select! {
        started = cluster.try_restart(0) => panic!("it serves alone: {started:?}"),
        () = probing => {}
    }
}

/// Data directory 0700, files 0600: the store's, the log's, and all else.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_makes_is_for_its_owner_alone() {
    let members = Processes::start(1, &["--snapshot-count=1"]).await;
    put_ok(&mut members.kv(0), "a", "1").await;
    let data = std::fs::read_dir(members.directory()).unwrap().next();
    let data = data.unwrap().unwrap().path();
    let store = data.join("member/store");
    eventually("a checkpoint", async || {
        (std::fs::read_dir(&store).unwrap().count() > 1).then_some(())
    })
    .await;
    let mut seen = 0;
    check_modes(&data, &mut seen);
    assert!(seen > 5, "{seen} files");
}

fn check_modes(directory: &Path, seen: &mut usize) {
    assert_mode(directory, 0o700);
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => check_modes(&path, seen),
            Ok(_) => {
                assert_mode(&path, 0o600);
                *seen += 1;
            }
            // A temporary file got its name.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
}

fn assert_mode(path: &Path, mode: u32) {
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    assert_eq!(
        metadata.permissions().mode() & 0o777,
        mode,
        "{}",
        path.display()
    );
}
