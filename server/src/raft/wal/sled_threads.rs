//! Keeps sled's pool of threads out of the way of those that wait for it.
//!
//! Each write wakes all seven idle threads of sled's pool, one after the other: one does the work,
//! six look and sleep again. Where cores are few, they come before the write itself and before the
//! log's own thread, an eighth of what a lone put takes. Under the batch scheduling policy a thread
//! that wakes up waits until a core is free instead of taking one: the six then run while the disk
//! works. The pool inherits the policy of the thread that opens the first database.

#![allow(unsafe_code, reason = "a system call that no safe wrapper offers")]

use std::io;
use std::panic::resume_unwind;
use std::thread;

/// Runs `open` on a thread of its own under the batch policy.
///
/// # Errors
/// When no thread can be started.
pub(super) fn on_batch_thread<T: Send>(open: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let opener = thread::Builder::new()
            .name("sled-open".into())
            .spawn_scoped(scope, || {
                if let Err(error) = use_batch_policy() {
                    // Only speed is lost.
                    tracing::debug!(%error, "the log's threads keep the default scheduling policy");
                }
                open()
            })?;
        match opener.join() {
            Ok(opened) => Ok(opened),
            Err(panic) => resume_unwind(panic),
        }
    })
}

#[cfg(target_os = "linux")]
fn use_batch_policy() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a whole `sched_param` that outlives the call; 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn use_batch_policy() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: asks for the policy of this thread, no memory is involved.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn the_thread_and_those_it_starts_are_under_the_batch_policy_and_the_caller_is_not() {
        let (own, child) =
            on_batch_thread(|| (policy(), thread::spawn(policy).join().unwrap())).unwrap();
        assert_eq!((own, child), (libc::SCHED_BATCH, libc::SCHED_BATCH));
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
