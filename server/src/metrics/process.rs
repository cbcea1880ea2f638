//! `process_*`, from /proc/self.

use super::registry::{Kind, plain};

/// Clock ticks per second in /proc: fixed by Linux's ABI.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the system says of this process. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    pub(super) descriptors: u64,
    pub(super) descriptors_max: u64,
}

/// Reads it.
pub(super) fn read() -> Process {
    let mut process = Process {
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
        descriptors_max: rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::MAX),
        ..Process::default()
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in brackets, may hold anything.
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let number = |place: usize| -> f64 {
        // Numbered as in proc(5), where the state after the name is field 3.
        fields
            .get(place - 3)
            .and_then(|field| field.parse().ok())
            .unwrap_or(0.0)
    };
    process.cpu_seconds = (number(14) + number(15)) / TICKS_PER_SECOND;
    process.start_seconds = boot_seconds() + number(22) / TICKS_PER_SECOND;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    process.virtual_bytes = status_bytes(&status, "VmSize:");
    process.resident_bytes = status_bytes(&status, "VmRSS:");
    process
}

/// A size in /proc/self/status, which is in KiB.
fn status_bytes(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// When the system booted, in seconds since 1970.
fn boot_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok())
        .unwrap_or(0.0)
}

impl Process {
    #[expect(clippy::cast_precision_loss, reason = "numbers of descriptors")]
    pub(super) fn render(&self, out: &mut String) {
        for (name, help, kind, value) in [
            (
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
                Kind::Counter,
                self.cpu_seconds,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors.",
                Kind::Gauge,
                self.descriptors_max as f64,
            ),
            (
                "process_open_fds",
                "Number of open file descriptors.",
                Kind::Gauge,
                self.descriptors as f64,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                Kind::Gauge,
                self.resident_bytes,
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                Kind::Gauge,
                self.start_seconds,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                Kind::Gauge,
                self.virtual_bytes,
            ),
        ] {
            plain(out, name, help, kind, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let process = read();
        assert!(process.resident_bytes > 1e6 && process.virtual_bytes > process.resident_bytes);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let age = now.as_secs_f64() - process.start_seconds;
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(process.descriptors > 2 && process.descriptors_max > process.descriptors);
    }
}
