//! What the machine knows of a process: its cores, its CPU time, its memory.
//!
//! Linux only: affinity by `sched_setaffinity`, the rest from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::thread::CpuSet;

/// Binds the calling thread, and the threads and processes that it starts from now on, to `cpu`.
pub(crate) fn pin_to(cpu: usize) -> anyhow::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        bail!(
            "core {cpu} cannot be: the kernel counts to {}",
            CpuSet::MAX_CPU
        );
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot use core {cpu}"))
}

/// CPU time that `pid` (a number, or `self`) has used, in user and kernel, to 10 ms.
pub(crate) fn cpu_time(pid: &str) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    let ticks = parse_cpu_ticks(&stat).with_context(|| format!("{path} has no CPU time"))?;
    Ok(Duration::from_millis(
        ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1),
    ))
}

/// utime + stime: fields 14 and 15, counted from behind the command, which may hold spaces.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_a_command_with_spaces_and_brackets() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 8 0 12345";
        assert_eq!(parse_cpu_ticks(stat), Some(325));
        assert_eq!(parse_cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn this_process_uses_cpu_time() {
        let before = cpu_time("self").unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(cpu_time("self").unwrap() > before);
    }
}
