//! The program itself: exit codes, streams, signals (contract 4.3, 5.1).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Output, Stdio};

use keelson_proto::etcdserverpb::{
    MemberAddRequest, MemberRemoveRequest, cluster_client::ClusterClient,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_keelson");

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn lines(stderr: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(stderr).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

#[test]
fn version_and_help_go_to_stdout() {
    let version = output(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    let text = String::from_utf8(version.stdout).unwrap();
    assert!(text.starts_with("etcd Version: 3.7.1\n"), "{text}");
    assert_eq!(text.lines().count(), 4);
    for arg in ["-h", "--help"] {
        let help = output(&[arg]);
        assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
        assert!(
            String::from_utf8(help.stdout)
                .unwrap()
                .contains("\n  --data-dir '")
        );
    }
}

#[test]
fn a_bad_flag_is_2() {
    let bad = output(&["--bogus"]);
    assert_eq!(bad.status.code(), Some(2));
    let text = String::from_utf8(bad.stderr).unwrap();
    assert!(
        text.starts_with("flag provided but not defined: -bogus\nUsage:"),
        "{text}"
    );
    assert!(bad.stdout.is_empty());
}

#[test]
fn configuration_errors_are_1() {
    for (args, error) in [
        (&["x"][..], "\"x\" is not a valid flag"),
        (
            &["--config-file=/nonexistent"],
            "open /nonexistent: no such file or directory",
        ),
        (
            &["--log-format=bad"],
            "unknown log format: bad, supported values json, console",
        ),
        (
            &["--auto-compaction-mode=bad"],
            "unknown auto-compaction-mode \"bad\"",
        ),
    ] {
        let refused = output(args);
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let lines = lines(&refused.stderr);
        let line = lines
            .iter()
            .find(|line| line["msg"] == "failed to verify flags")
            .unwrap();
        assert_eq!(line["error"], error);
    }
}

/// Contract 4.1.
#[test]
fn too_few_descriptors_are_refused() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let refused = Command::new("sh")
        .args(["-c", "ulimit -n 150; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_keelson"))
        .arg(format!(
            "--data-dir={}",
            directory.path().join("d").display()
        ))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr);
    let wanted = "file descriptor limit of etcd process is too low; please set higher: 150";
    assert!(text.contains(wanted), "{text}");
    assert!(!directory.path().join("d").exists());
}

/// Another mode than 0700 is named, and used (contract 4.1).
#[test]
fn a_directory_that_others_may_read_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let mut member = Member::start(directory.path());
    let line = member.wait_for("check file permission");
    assert_eq!(line["level"], "warn");
    // Contract 4.2: in this order.
    member.wait_for("ready to serve client requests");
    member.wait_for("serving client traffic insecurely; this is strongly discouraged!");
}

/// As pid 1, of a container for example, it exits 0 (contract 4.3).
#[test]
fn as_pid_1_a_signal_is_a_good_end() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let namespace = ["--pid", "--fork", "--kill-child"];
    let allowed = Command::new("unshare").args(namespace).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("PID 1 WAS NOT TESTED: this machine allows no namespaces");
        return;
    }
    let mut outside = Command::new("unshare");
    outside.args(namespace).arg(PROGRAM);
    let mut member = Member::start_as(outside, directory.path());
    member.wait_for("ready to serve client requests");
    let pid = member.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let killed = Command::new("kill")
        .args(["-TERM", children.trim()])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(member.child.wait().unwrap().code(), Some(0));
}

/// Nothing is made of the half that is there, nor beside it.
#[test]
fn a_log_that_a_cut_restore_left_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (data, wal) = (directory.path().join("d"), directory.path().join("w"));
    std::fs::create_dir(&wal).unwrap();
    keelson::process::unfinished::mark(&wal).unwrap();
    let refused = output(&[
        &format!("--data-dir={}", data.display()),
        &format!("--wal-dir={}", wal.display()),
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let lines = lines(&refused.stderr);
    let error = lines.last().unwrap()["error"].as_str().unwrap();
    let left = format!("{} was left behind by a snapshot restore", wal.display());
    assert!(error.starts_with(&left), "{error}");
    assert!(!data.exists());
}

#[test]
fn a_flag_shadowed_by_its_variable_is_fatal() {
    let refused = command(&["--name=a"])
        .env("ETCD_NAME", "b")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let lines = lines(&refused.stderr);
    let line = lines.last().unwrap();
    assert_eq!(line["level"], "fatal");
    assert_eq!(line["environment-variable"], "ETCD_NAME");
    assert_eq!(
        line["msg"],
        "conflicting environment variable is shadowed by corresponding command-line flag (either \
         unset environment variable or disable flag))"
    );
}

#[test]
fn it_may_be_called_etcd() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("etcd");
    std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
    let version = Command::new(link)
        .arg0("etcd")
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(version.status.code(), Some(0));
}

/// A member on ports that were free a moment ago.
struct Member {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Member {
    fn start(directory: &std::path::Path) -> Self {
        Self::start_as(command(&[]), directory)
    }

    fn start_as(mut command: Command, directory: &std::path::Path) -> Self {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            format!("http://{}", listener.local_addr().unwrap())
        };
        let (client, peer) = (free(), free());
        let mut child = command
            .args([
                "--name=a",
                &format!("--data-dir={}", directory.display()),
                &format!("--listen-client-urls={client}"),
                &format!("--advertise-client-urls={client}"),
                &format!("--listen-peer-urls={peer}"),
                &format!("--initial-advertise-peer-urls={peer}"),
                &format!("--initial-cluster=a={peer}"),
                "--snapshot-catchup-entries=1000",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// The first line with this message; every line before it must be sound.
    fn wait_for(&mut self, message: &str) -> serde_json::Value {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            assert!(
                self.stderr.read_line(&mut seen).unwrap() > 0,
                "no {message:?} in:\n{seen}"
            );
            let line: serde_json::Value = serde_json::from_str(&seen[start..]).unwrap();
            assert!(
                !["error", "fatal"].contains(&line["level"].as_str().unwrap()),
                "{line}"
            );
            if line["msg"] == message {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_member_serves_and_dies_by_the_signal_that_stops_it() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("a.etcd");
    for (name, number) in [("-TERM", 15), ("-INT", 2)] {
        let mut member = Member::start(&data_dir);
        let started = member.wait_for("starting an etcd server");
        assert_eq!(started["snapshot-catchup-entries"], 1000);
        assert_eq!(started["v2-deprecation"], "write-only");
        assert_eq!(started["member-initialized"], number == 2);
        member.wait_for("ready to serve client requests");
        let second = output(&[&format!("--data-dir={}", data_dir.display())]);
        assert_eq!(second.status.code(), Some(1));
        assert!(
            String::from_utf8(second.stderr)
                .unwrap()
                .contains("is in use by another process")
        );
        member.signal(name);
        member.wait_for("received signal; shutting down");
        member.wait_for("closed etcd server");
        assert_eq!(member.child.wait().unwrap().signal(), Some(number));
    }
}

/// A free port of this machine, as a URL.
fn free_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Contract 4.3: the lines, exit code 0, and no way back.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_says_so_and_exits_0() {
    let directory = tempfile::tempdir().unwrap();
    let (first, first_peer) = (free_url(), free_url());
    let (second, second_peer) = (free_url(), free_url());
    let start = |name: &str, client: &str, peer: &str, cluster: &str, state: &str| {
        let child = command(&[
            &format!("--name={name}"),
            &format!("--data-dir={}", directory.path().join(name).display()),
            &format!("--listen-client-urls={client}"),
            &format!("--advertise-client-urls={client}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster={cluster}"),
            &format!("--initial-cluster-state={state}"),
            "--strict-reconfig-check=false",
        ])
        .stderr(Stdio::piped())
        .spawn();
        let mut child = child.unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Member { child, stderr }
    };
    let alone = format!("a={first_peer}");
    let both = format!("{alone},b={second_peer}");
    let mut a = start("a", &first, &first_peer, &alone, "new");
    a.wait_for("ready to serve client requests");
    let mut cluster = ClusterClient::connect(first.clone()).await.unwrap();
    let request = MemberAddRequest {
        peer_ur_ls: vec![second_peer.clone()],
        is_learner: false,
    };
    let added = cluster.member_add(request).await.unwrap().into_inner();
    let id = added.member.unwrap().id;
    let line = a.wait_for("added member");
    assert_eq!(line["added-peer-id"], format!("{id:x}"));
    assert_eq!(
        line["added-peer-peer-urls"],
        serde_json::json!([second_peer])
    );
    let mut b = start("b", &second, &second_peer, &both, "existing");
    b.wait_for("ready to serve client requests");
    a.wait_for("added member has caught up; it votes");
    cluster
        .member_remove(MemberRemoveRequest { id })
        .await
        .unwrap();
    for _ in 0..2 {
        let line = b.wait_for("server error");
        assert_eq!(
            line["error"],
            "the member has been permanently removed from the cluster"
        );
        b.wait_for("data-dir used by this member must be removed");
        b.wait_for("closed etcd server");
        assert_eq!(b.child.wait().unwrap().code(), Some(0));
        b = start("b", &second, &second_peer, &both, "existing");
    }
}
