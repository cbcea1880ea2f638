//! What the machine knows of a process: its cores, its CPU time, its memory.
//!
//! Linux only: affinity by `sched_setaffinity`, the rest from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::thread::CpuSet;
use serde::Serialize;

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
    Ok(ticks_to_time(ticks))
}

/// utime + stime: fields 14 and 15, counted from behind the command, which may hold spaces.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Time that core `cpu` has been busy since the machine started, with whatever.
pub(crate) fn core_busy(cpu: usize) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks = parse_core_ticks(&stat, cpu)
        .with_context(|| format!("/proc/stat says nothing of core {cpu}"))?;
    Ok(ticks_to_time(ticks))
}

/// All of user, nice, system, (idle, iowait,) irq, softirq, steal but the time without work.
fn parse_core_ticks(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu} ");
    let fields = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let busy = fields.split_ascii_whitespace().take(8).enumerate();
    busy.filter(|(field, _)| !(3..=4).contains(field))
        .map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum()
}

fn ticks_to_time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// The process's own: heap, stacks.
    pub anonymous_bytes: u64,
    /// Pages of mapped files, the program's text among them.
    pub file_bytes: u64,
}

impl Memory {
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.anonymous_bytes + self.file_bytes
    }
}

/// Resident memory of `pid` now.
pub(crate) fn memory(pid: &str) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = |name| {
        parse_kib(&status, name)
            .map(|kib| kib * 1024)
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory {
        anonymous_bytes: bytes("RssAnon:")?,
        file_bytes: bytes("RssFile:")?,
    })
}

fn parse_kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
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
    fn a_core_is_busy_when_it_neither_idles_nor_waits() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 100 200 4 5 6 70 80\ncpu1 0 0 0 9 9 0 0 0\n";
        assert_eq!(parse_core_ticks(stat, 0), Some(21));
        assert_eq!(parse_core_ticks(stat, 1), Some(0));
        assert_eq!(parse_core_ticks(stat, 2), None);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory("self").unwrap();
        assert!(memory.anonymous_bytes > 0 && memory.file_bytes > 0);
        assert_eq!(
            parse_kib("RssAnon:\t     52 kB\nRssFile:\t 7 kB", "RssFile:"),
            Some(7)
        );
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
