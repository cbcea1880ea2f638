//! SIGTERM and SIGINT (contract 4.3).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signal that stops the member. More of them change nothing: the stop is bounded, and programs
/// that signal a whole group reach a member twice.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    /// Cancelled by the first.
    pub(super) stop: CancellationToken,
    first: Arc<AtomicI32>,
}

impl Signals {
    /// Listens for signals on the current runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(super) fn listen() -> io::Result<Self> {
        let signals = Self {
            stop: CancellationToken::new(),
            first: Arc::default(),
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listening = signals.clone();
        tokio::spawn(async move {
            loop {
                let (number, name) = tokio::select! {
                    _ = terminate.recv() => (libc::SIGTERM, "terminated"),
                    _ = interrupt.recv() => (libc::SIGINT, "interrupt"),
                };
                if listening.stop.is_cancelled() {
                    tracing::info!(signal = name, "received signal; already shutting down");
                    continue;
                }
                tracing::info!(signal = name, "received signal; shutting down");
                listening.first.store(number, Ordering::Relaxed);
                listening.stop.cancel();
            }
        });
        Ok(signals)
    }

    /// The signal that came, if one did.
    pub(super) fn received(&self) -> Option<i32> {
        match self.first.load(Ordering::Relaxed) {
            0 => None,
            number => Some(number),
        }
    }
}
