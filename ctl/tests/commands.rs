//! `keelctl` as a process: arguments, output, exit codes, and what it leaves behind.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test program"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use keelson_state::bolt::{Entries, FileWriter, SmallBucket};
use keelson_state::mvcc::record::Fields;
use tempfile::TempDir;

fn keelctl(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keelctl"))
        .args(args)
        .current_dir(dir)
        .env_remove("ETCDCTL_ENDPOINTS")
        .output()
        .unwrap()
}

#[track_caller]
fn check(output: &Output, code: i32, text: &str) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert!(
        out.contains(text) || err.contains(text),
        "{out}{err} should say {text:?}"
    );
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A snapshot of so many keys.
fn snapshot(path: &Path, keys: i64, value: usize) {
    let mut records = SmallBucket::default();
    for main in 2..2 + keys {
        let name = format!("key{main:08}");
        let fields = Fields {
            key: name.as_bytes(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: &b"v".repeat(value),
            lease: 0,
        };
        let key = [&main.to_be_bytes()[..], b"_", &[0; 8]].concat();
        records.insert(key, fields.encode());
    }
    let mut meta = SmallBucket::default();
    meta.insert("storageVersion", "3.7.0");
    let buckets: Vec<(&'static str, Box<dyn Entries>)> =
        vec![("key", Box::new(records)), ("meta", Box::new(meta))];
    let mut writer = FileWriter::new(buckets).unwrap();
    let mut file = Vec::new();
    while let Some(piece) = writer.next_piece().unwrap() {
        file.extend_from_slice(&piece);
    }
    file.extend_from_slice(&writer.hash());
    std::fs::write(path, file).unwrap();
}

#[test]
fn status_and_hashkv_print_etcds_formats_and_leave_the_file_alone() {
    let dir = directory();
    let path = dir.path().join("s.db");
    snapshot(&path, 3, 10);
    let before = std::fs::read(&path).unwrap();
    let status = keelctl(dir.path(), &["snapshot", "status", "s.db", "-w", "json"]);
    check(
        &status,
        0,
        r#""revision":4,"totalKey":3,"totalSize":12288,"version":"3.7.0"}"#,
    );
    let status = keelctl(dir.path(), &["snap", "stat", "s.db", "-w", "fields"]);
    check(
        &status,
        0,
        "\"Keys\" : 3\n\"Size\" : 12288\n\"Version\" : 3.7.0\n",
    );
    check(
        &keelctl(dir.path(), &["snapshot", "status", "s.db"]),
        0,
        ", 4, 3, 12 kB, 3.7.0\n",
    );
    let hash = keelctl(dir.path(), &["hashkv", "s.db", "-w", "json", "--rev", "3"]);
    check(&hash, 0, r#","hashRevision":3,"compactRevision":-1}"#);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn wrong_arguments_have_etcds_texts_and_exit_codes() {
    let dir = directory();
    snapshot(&dir.path().join("s.db"), 3, 10);
    let run = |args: &[&str]| keelctl(dir.path(), args);
    check(
        &run(&["snapshot", "status"]),
        128,
        "Error: snapshot status requires exactly one argument",
    );
    check(
        &run(&["snapshot", "status", "nofile"]),
        1,
        "Error: stat nofile: no such file or directory",
    );
    check(
        &run(&["snapshot", "status", "s.db", "-w", "protobuf"]),
        4,
        "protobuf not supported as output format",
    );
    check(
        &run(&["snapshot", "status", "s.db", "-w", "bogus"]),
        4,
        "Error: unsupported output format",
    );
    check(
        &run(&["hashkv", "s.db", "--rev", "9"]),
        1,
        "Error: mvcc: required revision is a future revision",
    );
    for flags in [&["--bump-revision", "5"][..], &["--mark-compacted"]] {
        let args = [&["snapshot", "restore", "s.db", "--data-dir", "d"], flags].concat();
        check(
            &run(&args),
            128,
            "--mark-compacted required if --revision-bump > 0",
        );
    }
    check(
        &run(&["nonsense"]),
        1,
        "Error: unknown command \"nonsense\" for \"keelctl\"",
    );
    check(
        &run(&["defrag", "--data-dir", "nodir"]),
        1,
        "Failed to defragment etcd data[nodir] (stat nodir/member/store/manifest: no such file or directory)",
    );
    check(
        &run(&["migrate", "--data-dir", "d", "--target-version", "x"]),
        128,
        "wrong target version format, expected \"X.Y\", got \"x\"",
    );
    check(
        &run(&["migrate", "--data-dir", "d", "--target-version", "3.4"]),
        128,
        "target version \"3.4\" not supported. Minimal \"3.5\"",
    );
    check(
        &run(&[
            "snapshot",
            "save",
            "x",
            "--endpoints",
            "127.0.0.1:1,127.0.0.1:2",
        ]),
        5,
        "snapshot must be requested to one selected node, not multiple",
    );
    check(
        &run(&[
            "snapshot",
            "save",
            "x",
            "--endpoints",
            "127.0.0.1:1",
            "--command-timeout",
            "300ms",
        ]),
        5,
        "Error: context deadline exceeded",
    );
    assert!(!dir.path().join("d").exists() && !dir.path().join("x").exists());
}

#[test]
fn a_restored_directory_is_defragmented_and_is_of_version_3_7() {
    let dir = directory();
    snapshot(&dir.path().join("s.db"), 30, 100);
    let args = [
        "snapshot",
        "restore",
        "s.db",
        "--data-dir",
        "d",
        "--wal-dir",
        "w",
        "--bump-revision",
        "9",
        "--mark-compacted",
    ];
    check(&keelctl(dir.path(), &args), 0, "restored snapshot");
    assert!(dir.path().join("w").join("db").exists());
    assert!(!dir.path().join("d.restoring").exists() && !dir.path().join("w.restoring").exists());
    check(
        &keelctl(dir.path(), &["defrag", "--data-dir", "d"]),
        0,
        "finished defragmenting directory",
    );
    check(
        &keelctl(
            dir.path(),
            &["migrate", "--data-dir", "d", "--target-version", "3.7"],
        ),
        0,
        "up-to-date",
    );
    check(
        &keelctl(
            dir.path(),
            &["migrate", "--data-dir", "d", "--target-version", "3.6"],
        ),
        1,
        "storage version 3.7 only",
    );
    check(
        &keelctl(dir.path(), &args),
        1,
        "Error: data-dir \"d\" not empty or could not be read",
    );
    let elsewhere = [
        "snapshot",
        "restore",
        "s.db",
        "--data-dir",
        "e",
        "--wal-dir",
        "w",
    ];
    check(
        &keelctl(dir.path(), &elsewhere),
        1,
        "Error: wal-dir \"w\" exists",
    );
    assert!(!dir.path().join("e").exists());
}

/// Killed after ever longer times, until one comes through.
#[test]
fn a_restore_that_is_killed_leaves_no_data_directory() {
    let dir = directory();
    snapshot(&dir.path().join("s.db"), 20_000, 1000);
    let data_dir: PathBuf = dir.path().join("d");
    let mut killed = 0;
    for delay_ms in (0..).step_by(40) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keelctl"))
            .args(["snapshot", "restore", "s.db", "--data-dir", "d"])
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        if child.wait().unwrap().success() || data_dir.exists() {
            break;
        }
        killed += 1;
    }
    assert!(killed > 3, "killed {killed} times");
    assert!(data_dir.join("member").join("identity").exists());
    assert!(!dir.path().join("d.restoring").exists());
    check(
        &keelctl(dir.path(), &["defrag", "--data-dir", "d"]),
        0,
        "finished defragmenting directory",
    );
}

#[test]
fn a_log_that_a_cut_restore_left_is_replaced() {
    let dir = directory();
    snapshot(&dir.path().join("s.db"), 10, 100);
    let wal = dir.path().join("w");
    std::fs::create_dir(&wal).unwrap();
    std::fs::write(wal.join("half"), "of a log").unwrap();
    let restore = [
        "snapshot",
        "restore",
        "s.db",
        "--data-dir",
        "d",
        "--wal-dir",
        "w",
    ];
    let refused = keelctl(dir.path(), &restore);
    assert!(!refused.status.success(), "somebody's log was overwritten");
    keelson::process::unfinished::mark(&wal).unwrap();
    let restored = keelctl(dir.path(), &restore);
    assert!(restored.status.success(), "{restored:?}");
    assert!(!wal.join("half").exists());
    assert!(!keelson::process::unfinished::is_marked(&wal));
    assert!(!dir.path().join("w.restoring").exists());
}

#[test]
fn a_restore_touches_nothing_that_no_restore_has_made() {
    let dir = directory();
    snapshot(&dir.path().join("s.db"), 10, 100);
    for (theirs, flag, own) in [
        ("d.restoring", "--wal-dir", "d/wal"),
        ("w.restoring", "--wal-dir", "w"),
    ] {
        let theirs = dir.path().join(theirs);
        std::fs::create_dir(&theirs).unwrap();
        std::fs::write(theirs.join("data"), "dear").unwrap();
        let args = ["snapshot", "restore", "s.db", "--data-dir", "d", flag, own];
        check(
            &keelctl(dir.path(), &args),
            1,
            "was not made by a restore: move it elsewhere",
        );
        assert_eq!(std::fs::read(theirs.join("data")).unwrap(), b"dear");
        assert!(!dir.path().join("d").exists() && !dir.path().join("w").exists());
        std::fs::remove_dir_all(&theirs).unwrap();
    }
    // The log within the data directory, as etcdutl allows; but not in place of its other parts.
    for (wal_dir, is_fine) in [
        ("d", false),
        ("d/member", false),
        ("d/member/store", false),
        ("d/wal", true),
    ] {
        let args = [
            "snapshot",
            "restore",
            "s.db",
            "--data-dir",
            "d",
            "--wal-dir",
            wal_dir,
        ];
        let restored = keelctl(dir.path(), &args);
        assert_eq!(restored.status.success(), is_fine, "{restored:?}");
        assert_eq!(dir.path().join("d").exists(), is_fine);
    }
    assert!(dir.path().join("d").join("wal").join("db").exists());
}

#[test]
fn a_wrong_hash_leaves_nothing_behind() {
    let dir = directory();
    let file = dir.path().join("s.db");
    snapshot(&file, 10, 100);
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let args = [
        "snapshot",
        "restore",
        "s.db",
        "--data-dir",
        "d",
        "--wal-dir",
        "w",
    ];
    check(&keelctl(dir.path(), &args), 1, "expected sha256");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "more than the snapshot is left");
}
