//! Bytes and rate of a transfer, on a terminal only.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::size::human;

/// Pause between two lines.
const STEP: Duration = Duration::from_millis(200);

/// One line that is written over.
pub(crate) struct Progress {
    began: Instant,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    /// Begins to count the time.
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            shown: now,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Notes how far it is.
    pub(crate) fn at(&mut self, done: u64, total: u64) {
        if self.terminal && self.shown.elapsed() >= STEP {
            self.shown = Instant::now();
            self.show(done, total);
        }
    }

    /// Ends the line.
    pub(crate) fn finish(&self, total: u64) {
        if self.terminal {
            self.show(total, total);
            eprintln!();
        }
    }

    fn show(&self, done: u64, total: u64) {
        let line = line(done, total, self.began.elapsed());
        let mut stderr = std::io::stderr();
        // Nobody is hurt when it cannot be shown.
        drop(write!(stderr, "\r{line}\x1b[K"));
        drop(stderr.flush());
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let percent = done.saturating_mul(100) / total.max(1);
    format!(
        "{} of {} ({percent} %), {}/s",
        human(done),
        human(total),
        human(rate as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_rate() {
        let text = line(50_000_000, 200_000_000, Duration::from_millis(500));
        assert_eq!(text, "50 MB of 200 MB (25 %), 100 MB/s");
        assert_eq!(line(0, 0, Duration::ZERO), "0 B of 0 B (0 %), 0 B/s");
    }
}
