//! Snapshots between this program and genuine etcd 3.7, where its programs are on the path.
//!
//! Without them the tests say so and end: nothing of the project needs them.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to serve.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether etcd, etcdctl and etcdutl of version 3.7 can be run.
fn has_etcd() -> bool {
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("3.7"))
    };
    let all = version("etcd", "--version")
        && version("etcdctl", "version")
        && version("etcdutl", "version");
    if all {
        eprintln!("genuine etcd is on the path: interoperation is tested");
    } else {
        eprintln!("NOT TESTED: etcd, etcdctl, etcdutl 3.7 are not on the path");
    }
    all
}

/// The server's program, if the workspace's was built: it lies beside ours.
fn keelson() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_keelctl")).with_file_name("keelson");
    if !path.exists() {
        eprintln!("NOT TESTED: {} was not built", path.display());
    }
    path.exists().then_some(path)
}

struct Server {
    child: Child,
    client: String,
}

impl Server {
    fn start(program: &Path, data_dir: &Path, restored: bool) -> Self {
        let ports: Vec<TcpListener> = (0..2)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let url = |i: usize| format!("http://{}", ports[i].local_addr().unwrap());
        let (client, peer) = (url(0), url(1));
        drop(ports);
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(data_dir);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args(["--listen-peer-urls", &peer]);
        if !restored {
            command.args(["--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &format!("default={peer}")]);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, client };
        let began = Instant::now();
        while !server.try_ctl(&["get", "health"]).0 {
            assert!(began.elapsed() < DEADLINE, "the server does not serve");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn try_ctl(&self, args: &[&str]) -> (bool, String) {
        run("etcdctl", &[&["--endpoints", &self.client], args].concat())
    }

    fn ctl(&self, args: &[&str]) -> String {
        let (ok, output) = self.try_ctl(args);
        assert!(ok, "etcdctl {args:?}: {output}");
        output
    }

    /// Hash, revision and compact revision.
    fn hash_kv(&self, revision: &str) -> String {
        let shown = self.ctl(&["endpoint", "hashkv", "--rev", revision, "-w", "json"]);
        let from = shown.find("\"hash\":").expect("a hash");
        shown.split_at(from).1.trim().to_owned()
    }

    /// History with tombstones, several changes in a revision, a lease, a compaction.
    fn fill(&self) {
        for i in 0..40 {
            self.ctl(&["put", &format!("k{}", i % 7), &"v".repeat(i * 30)]);
        }
        self.ctl(&["del", "k3"]);
        let lease = self.ctl(&["lease", "grant", "600"]);
        let lease = lease.split(' ').nth(1).expect("an id");
        self.ctl(&["put", "--lease", lease, "leased", "x"]);
        self.ctl(&["put", "large", &"x".repeat(100_000)]);
        self.ctl(&["del", "--prefix", "k5"]);
        self.ctl(&["compaction", "--physical", "12"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        (true, shown)
    } else {
        (false, format!("{shown}{errors}"))
    }
}

fn ok(program: &str, args: &[&str]) -> String {
    let (ok, output) = run(program, args);
    assert!(ok, "{program} {args:?}: {output}");
    output
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

const KEELCTL: &str = env!("CARGO_BIN_EXE_keelctl");

#[test]
fn genuine_tools_and_etcd_take_a_snapshot_of_ours() {
    let (true, Some(keelson)) = (has_etcd(), keelson()) else {
        return;
    };
    let dir = directory();
    let ours = Server::start(&keelson, &dir.path().join("ours"), false);
    ours.fill();
    let (hash, old) = (ours.hash_kv("0"), ours.hash_kv("20"));
    let file = text(&dir.path().join("snapshot.db"));
    ours.ctl(&["snapshot", "save", &file]);
    let by_us = text(&dir.path().join("by-us.db"));
    ok(
        KEELCTL,
        &["--endpoints", &ours.client, "snapshot", "save", &by_us],
    );
    let leases = ours.ctl(&["lease", "list"]);
    drop(ours);
    let status = ["snapshot", "status", &file, "-w", "json"];
    assert_eq!(ok("etcdutl", &status), ok(KEELCTL, &status));
    let hashed = ok(KEELCTL, &["hashkv", &file, "-w", "json"]);
    let copy = text(&dir.path().join("copy.db"));
    std::fs::copy(&file, &copy).unwrap();
    assert_eq!(ok("etcdutl", &["hashkv", &copy, "-w", "json"]), hashed);

    let restored = dir.path().join("restored");
    ok(
        "etcdutl",
        &[
            "snapshot",
            "restore",
            &by_us,
            "--data-dir",
            &text(&restored),
        ],
    );
    let genuine = Server::start(Path::new("etcd"), &restored, true);
    assert_eq!(genuine.hash_kv("0"), hash);
    assert_eq!(genuine.hash_kv("20"), old);
    assert_eq!(genuine.ctl(&["lease", "list"]), leases);
    // bbolt splits and merges our pages only now.
    genuine.ctl(&["compaction", "--physical", "30"]);
    genuine.ctl(&["del", "--prefix", "k"]);
    genuine.ctl(&["put", "after", "1"]);
    genuine.ctl(&["defrag"]);
    genuine.ctl(&["snapshot", "save", &file]);
    assert_eq!(ok("etcdutl", &status), ok(KEELCTL, &status));
}

#[test]
fn a_snapshot_of_genuine_etcd_is_restored() {
    let (true, Some(keelson)) = (has_etcd(), keelson()) else {
        return;
    };
    let dir = directory();
    let genuine = Server::start(Path::new("etcd"), &dir.path().join("genuine"), false);
    genuine.fill();
    genuine.ctl(&["user", "add", "bob", "--no-password"]);
    genuine.ctl(&["role", "add", "r"]);
    genuine.ctl(&["role", "grant-permission", "r", "readwrite", "a", "z"]);
    genuine.ctl(&["user", "grant-role", "bob", "r"]);
    let (hash, old) = (genuine.hash_kv("0"), genuine.hash_kv("20"));
    let all = genuine.ctl(&["get", "--prefix", "", "-w", "fields"]);
    let leases = genuine.ctl(&["lease", "list"]);
    let file = text(&dir.path().join("snapshot.db"));
    ok(
        KEELCTL,
        &["--endpoints", &genuine.client, "snapshot", "save", &file],
    );
    drop(genuine);
    let status = ["snapshot", "status", &file, "-w", "json"];
    assert_eq!(ok("etcdutl", &status), ok(KEELCTL, &status));

    let restored = dir.path().join("restored");
    ok(
        KEELCTL,
        &["snapshot", "restore", &file, "--data-dir", &text(&restored)],
    );
    let ours = Server::start(&keelson, &restored, true);
    assert_eq!(ours.hash_kv("0"), hash);
    assert_eq!(ours.hash_kv("20"), old);
    assert_eq!(ours.ctl(&["lease", "list"]), leases);
    let without_header = |shown: &str| -> Vec<String> {
        let lines = shown.lines().map(str::to_owned);
        lines
            .skip_while(|line| !line.starts_with("\"Key\""))
            .collect()
    };
    let served = ours.ctl(&["get", "--prefix", "", "-w", "fields"]);
    assert_eq!(without_header(&served), without_header(&all));
    // Users and roles go on into the next snapshot.
    let again = text(&dir.path().join("again.db"));
    ours.ctl(&["snapshot", "save", &again]);
    drop(ours);
    let back = dir.path().join("back");
    ok(
        "etcdutl",
        &["snapshot", "restore", &again, "--data-dir", &text(&back)],
    );
    let genuine = Server::start(Path::new("etcd"), &back, true);
    assert_eq!(genuine.hash_kv("0"), hash);
    assert!(genuine.ctl(&["user", "get", "bob"]).contains("Roles: r"));
    assert!(genuine.ctl(&["role", "get", "r"]).contains("[a, z)"));
}
