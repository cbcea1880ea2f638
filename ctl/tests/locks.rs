//! What a lock holds, and when it lets go (contract 2.9, 8.2).

#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

mod member;

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use member::Member;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

fn keelctl(member: &Member, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_keelctl"))
        .args(["--endpoints", &member.address])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(killed.unwrap().success());
}

/// Its exit code and what it said.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < DEADLINE, "still running");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child.stdout.unwrap().read_to_string(&mut said).unwrap();
    child.stderr.unwrap().read_to_string(&mut said).unwrap();
    (status.code(), said)
}

fn first_byte(child: &mut Child) {
    let mut byte = [0];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut byte).unwrap();
}

#[test]
fn a_lock_is_held_until_its_program_has_ended_whoever_asks_to_stop() {
    let member = Member::start();
    let program = "echo runs; sleep 2; echo over; exit 7";
    let mut holder = keelctl(&member, &["lock", "m", "--", "sh", "-c", program]);
    first_byte(&mut holder);
    terminate(&holder);
    let waiter = keelctl(&member, &["lock", "m", "echo", "mine"]);
    let (code, said) = ended(holder);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("over"), "{said}");
    let (code, said) = ended(waiter);
    assert_eq!((code, said.as_str()), (Some(0), "mine\n"));
}

#[test]
fn who_is_stopped_while_it_waits_has_not_had_the_lock() {
    let member = Member::start();
    let mut holder = keelctl(&member, &["lock", "l"]);
    first_byte(&mut holder);
    let waiter = keelctl(&member, &["lock", "l", "echo", "mine"]);
    std::thread::sleep(Duration::from_millis(500));
    terminate(&waiter);
    let (code, said) = ended(waiter);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("Error: context canceled") && !said.contains("mine"),
        "{said}"
    );
    terminate(&holder);
    assert_eq!(ended(holder).0, Some(0));
}
