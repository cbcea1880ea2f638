//! What an operator types and sees, as text that can be read: `tests/transcripts/*.txt`.
//!
//! Each file is a session with a member of its own. `keelctl` must speak as recorded, byte by byte; and
//! where genuine etcdctl 3.7 is on the path, or `ETCDCTL` names it, it must speak so too, to the same
//! kind of member. So the recordings are etcd's, not ours.
//!
//! ```text
//! $ put a 1            a command; `$~` one that is interrupted once its recorded output has come
//! < text               a line of its standard input
//! OK                   its standard output, in hexadecimal for protobuf
//! 2> Error: text       its standard error, without logs, warnings and usage
//! exit 1               its exit code, if it is not 0
//! ```
//!
//! `EP` stands for the member's address, `LEASE1` for the first lease, `T` for a time, `#` for numbers
//! that differ from run to run. `UPDATE_TRANSCRIPTS=1` records anew with keelctl.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program"
)]

mod member;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use member::Member;
use tempfile::TempDir;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a command that does not end is watched while it is recorded.
const RECORDING: Duration = Duration::from_millis(1500);
/// Numbers that differ from run to run stand behind these.
const VOLATILE: [&str; 12] = [
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
    "\"DBSize\" : ",
    "\"DBSizeInUse\" : ",
    "\"hash\":",
    "\"Hash\" : ",
    "\"ttl\":",
    "remaining(",
];

/// One command of a transcript, with what was recorded.
struct Step {
    command: String,
    is_interrupted: bool,
    input: Vec<String>,
    recorded: String,
}

fn steps(text: &str) -> (String, Vec<Step>) {
    let mut head = String::new();
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let interrupted = line.strip_prefix("$~ ");
        let command = interrupted.or_else(|| line.strip_prefix("$ "));
        if let Some(command) = command {
            steps.push(Step {
                command: command.to_owned(),
                is_interrupted: interrupted.is_some(),
                input: Vec::new(),
                recorded: String::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("< ").or_else(|| line.strip_prefix('<')) {
                Some(input) => step.input.push(input.to_owned()),
                None => step.recorded += &format!("{line}\n"),
            }
        } else {
            head += &format!("{line}\n");
        }
    }
    // An empty line stands before each command.
    for step in &mut steps {
        step.recorded = format!("{}\n", step.recorded.trim_end_matches('\n'));
    }
    (head, steps)
}

/// A session with one member.
struct Session<'a> {
    program: &'a Path,
    member: Member,
    directory: TempDir,
    leases: Vec<i64>,
}

impl<'a> Session<'a> {
    fn start(program: &'a Path) -> Self {
        Self {
            program,
            member: Member::start(),
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            leases: Vec::new(),
        }
    }

    /// Runs a command and shows what was seen.
    fn run(&mut self, step: &Step, is_recording: bool) -> String {
        let mut args = words(&step.command);
        for arg in &mut args {
            *arg = arg.replace("EP", &self.member.address);
            for (i, lease) in self.leases.iter().enumerate().rev() {
                *arg = arg.replace(&format!("LEASE{}", i + 1), &format!("{lease:x}"));
            }
        }
        let mut command = Command::new(self.program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL")) {
            command.env_remove(name);
        }
        while let Some((name, value)) = args[0].clone().split_once('=')
            && name.starts_with("ETCDCTL_")
        {
            command.env(name, value);
            args.remove(0);
        }
        let names_endpoints =
            step.command.contains("ENDPOINTS=") || step.command.contains("--endpoints");
        if !names_endpoints {
            command.arg(format!("--endpoints={}", self.member.address));
        }
        let mut child = command
            .args(&args)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input: String = step.input.iter().map(|line| format!("{line}\n")).collect();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read may be gone already.
        let _ = stdin.write_all(input.as_bytes());
        if !step.is_interrupted {
            drop(stdin);
        }
        let seen = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let mut readers = Vec::new();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let shared = Arc::clone(&seen);
        readers.push(std::thread::spawn(move || {
            copy(&mut stdout, |bytes| {
                shared.lock().unwrap().0.extend_from_slice(bytes)
            });
        }));
        let shared = Arc::clone(&seen);
        readers.push(std::thread::spawn(move || {
            copy(&mut stderr, |bytes| {
                shared.lock().unwrap().1.extend_from_slice(bytes)
            });
        }));
        let began = Instant::now();
        let is_protobuf = step.command.contains("protobuf");
        let mut is_interrupted = !step.is_interrupted;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            let has_come = || {
                let seen = seen.lock().unwrap();
                self.clone_leases().shown(&seen.0, &seen.1, is_protobuf) == step.recorded
            };
            if !is_interrupted
                && (if is_recording {
                    began.elapsed() > RECORDING
                } else {
                    has_come()
                })
            {
                is_interrupted = true;
                // Not SIGINT: what a shell started in the background ignores it.
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            }
            if began.elapsed() > DEADLINE {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in readers {
            reader.join().unwrap();
        }
        let (stdout, stderr) = seen.lock().unwrap().clone();
        if step.command.starts_with("lease grant") {
            self.note_leases(&stdout);
        }
        let mut shown = self.clone_leases().shown(&stdout, &stderr, is_protobuf);
        let code = status.code();
        if !step.is_interrupted && code != Some(0) {
            shown = format!(
                "{}\nexit {}\n",
                shown.trim_end_matches('\n'),
                code.unwrap_or(-1)
            );
            shown = shown.trim_start_matches('\n').to_owned();
        }
        shown
    }

    fn clone_leases(&self) -> Names {
        Names {
            address: self.member.address.clone(),
            leases: self.leases.clone(),
        }
    }

    /// Finds the ids of leases that are new.
    fn note_leases(&mut self, stdout: &[u8]) {
        let text = String::from_utf8_lossy(stdout);
        for line in text.lines() {
            let granted = line
                .strip_prefix("lease ")
                .filter(|rest| rest.contains(" granted with"))
                .and_then(|rest| i64::from_str_radix(rest.split(' ').next()?, 16).ok());
            let in_json = line
                .split_once("\"TTL\":")
                .and_then(|(before, _)| before.split_once("\"ID\":"))
                .and_then(|(_, id)| id.trim_end_matches(',').parse().ok());
            let in_fields = line
                .strip_prefix("\"ID\" : ")
                .and_then(|id| id.parse().ok());
            for id in [granted, in_json, in_fields].into_iter().flatten() {
                if !self.leases.contains(&id) {
                    self.leases.push(id);
                }
            }
        }
    }
}

fn copy(from: &mut impl std::io::Read, mut to: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        to(&buffer[..count]);
    }
}

/// What stands for what differs from run to run.
struct Names {
    address: String,
    leases: Vec<i64>,
}

impl Names {
    /// What was seen, as it is recorded.
    fn shown(&self, stdout: &[u8], stderr: &[u8], is_protobuf: bool) -> String {
        let mut text = if is_protobuf {
            let hex: Vec<String> = stdout.iter().map(|byte| format!("{byte:02x}")).collect();
            hex.concat()
        } else {
            String::from_utf8_lossy(stdout).into_owned()
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let stderr = String::from_utf8_lossy(stderr);
        let lines = stderr.lines().take_while(|line| !line.starts_with("Usage"));
        let lines = lines.filter(|line| {
            let logs = ["{", "warning: ", "stty: "];
            let is_log = logs.iter().any(|log| line.starts_with(log));
            !is_log && !line.is_empty()
        });
        for line in lines {
            text += &format!("2> {line}\n");
        }
        text = text.replace(&self.address, "EP");
        for (i, lease) in self.leases.iter().enumerate() {
            let name = format!("LEASE{}", i + 1);
            text = text.replace(&format!("{lease:016x}"), &name);
            text = text.replace(&lease.to_string(), &name);
        }
        let lines = text
            .lines()
            .map(|line| without_times(&without_numbers(line)));
        let text: String = lines.map(|line| line + "\n").collect();
        format!("{}\n", text.trim_end_matches('\n'))
    }
}

fn without_numbers(line: &str) -> String {
    let mut line = line.to_owned();
    for marker in VOLATILE {
        if let Some((before, behind)) = line.split_once(marker) {
            let behind = behind.trim_start_matches(|c: char| c.is_ascii_digit());
            line = format!("{before}{marker}#{behind}");
        }
    }
    line
}

/// Times as Go shows them stand behind "took" or are a cell.
fn without_times(line: &str) -> String {
    let Some(at) = line.to_lowercase().find("took") else {
        return line.to_owned();
    };
    let (before, behind) = line.split_at(at + 4);
    let digit = behind.find(|c: char| c.is_ascii_digit());
    let Some((between, time)) = digit.map(|digit| behind.split_at(digit)) else {
        return line.to_owned();
    };
    let end = time.find(|c: char| !(c.is_alphanumeric() || c == '.'));
    let rest = &time[end.unwrap_or(time.len())..];
    // A full stop behind a time is not of it.
    let stop = if time[..time.len() - rest.len()].ends_with('.') {
        "."
    } else {
        ""
    };
    format!("{before}{between}T{stop}{rest}")
}

/// Arguments, with single or double quotes around what has spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn transcripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Replays a file; says where it differs.
fn replay(program: &Path, file: &Path, update: bool) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let (head, steps) = steps(&text);
    let mut session = Session::start(program);
    let (mut differences, mut recording) = (Vec::new(), head);
    for step in &steps {
        let seen = session.run(step, update);
        let command = &step.command;
        if seen != step.recorded {
            let name = file.file_name().unwrap().to_string_lossy();
            let recorded = &step.recorded;
            differences.push(format!(
                "{name}: $ {command}\nrecorded:\n{recorded}seen:\n{seen}"
            ));
        }
        let prompt = if step.is_interrupted { "$~" } else { "$" };
        recording += &format!("{prompt} {command}\n");
        for line in &step.input {
            recording += format!("< {line}").trim_end();
            recording.push('\n');
        }
        if seen != "\n" {
            recording += &seen;
        }
        recording.push('\n');
    }
    if update {
        let recording = format!("{}\n", recording.trim_end_matches('\n'));
        std::fs::write(file, recording).unwrap();
        return Vec::new();
    }
    eprintln!("{}: {} commands", file.display(), steps.len());
    differences
}

fn replay_all(program: &Path, update: bool) {
    let files = transcripts();
    let replaying: Vec<_> = files
        .into_iter()
        .map(|file| {
            let program = program.to_owned();
            std::thread::spawn(move || replay(&program, &file, update))
        })
        .collect();
    let differences: Vec<String> = replaying
        .into_iter()
        .flat_map(|replay| replay.join().unwrap())
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn keelctl_speaks_as_recorded() {
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    replay_all(Path::new(env!("CARGO_BIN_EXE_keelctl")), update);
}

#[test]
fn etcdctl_speaks_as_recorded() {
    let program = std::env::var_os("ETCDCTL").map_or("etcdctl".into(), PathBuf::from);
    let version = Command::new(&program).arg("version").output();
    let is_there = version.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).contains("etcdctl version: 3.7")
    });
    if !is_there {
        eprintln!("NOT TESTED: etcdctl 3.7 is not on the path");
        return;
    }
    eprintln!("genuine etcdctl is on the path: it is compared");
    replay_all(&program, false);
}
