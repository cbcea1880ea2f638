//! How far the memory of a process grows while something is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine;

/// How closely the highest point is seen.
const INTERVAL: Duration = Duration::from_millis(10);

/// Watches the anonymous memory of a process: pages of mapped files are the kernel's to take back.
pub(super) struct Growth {
    before_bytes: u64,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Growth {
    pub(super) fn watch(pid: String) -> anyhow::Result<Self> {
        let before_bytes = machine::memory(&pid)?.anonymous_bytes;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let look = move || {
            let mut highest = before_bytes;
            while !stopped.load(Ordering::Relaxed) {
                // A process that has ended is seen by those who talk to it.
                if let Ok(memory) = machine::memory(&pid) {
                    highest = highest.max(memory.anonymous_bytes);
                }
                std::thread::sleep(INTERVAL);
            }
            highest
        };
        Ok(Self {
            before_bytes,
            stop,
            thread: std::thread::spawn(look),
        })
    }

    /// Bytes between the beginning and the highest point.
    pub(super) fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let highest = self.thread.join();
        let highest = highest.map_err(|_| anyhow::anyhow!("the watching thread panicked"))?;
        Ok(highest - self.before_bytes)
    }
}
