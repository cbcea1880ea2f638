//! Deadlines of requests, without a timer each.
//!
//! Nearly every request is answered long before its deadline. A timer of its own would still be
//! set and taken down, and setting one wakes the runtime's driver with a system call (a tenth of
//! what a lone put costs). So requests look at the clock when a common tick wakes them, and a
//! deadline is kept to within `TICK`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

/// How late a deadline may be noticed: small beside request timeouts, which are seconds, and large
/// beside the cost of waking a thousand requests.
const TICK: Duration = Duration::from_millis(200);

/// The time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// The common tick.
#[derive(Debug, Default)]
pub struct Deadlines {
    tick: Notify,
}

impl Deadlines {
    /// Ticks for ever; while nobody does, no deadline passes.
    pub async fn run(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tick.notify_waiters();
        }
    }

    /// Awaits `future` for `limit`, and up to a tick longer.
    ///
    /// # Errors
    /// When it has not ended by then.
    pub async fn within<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let deadline = Instant::now() + limit;
        loop {
            let tick = self.tick.notified();
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                () = tick => {
                    if Instant::now() >= deadline {
                        return Err(Elapsed);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_what_takes_too_long_and_nothing_else() {
        let deadlines = Arc::new(Deadlines::default());
        let ticking = tokio::spawn(Arc::clone(&deadlines).run());
        let began = Instant::now();
        let limit = Duration::from_millis(300);
        let ended = deadlines.within(limit, std::future::pending::<()>()).await;
        assert_eq!(ended, Err(Elapsed));
        assert!(began.elapsed() >= limit);

        let minute = Duration::from_secs(60);
        assert_eq!(deadlines.within(minute, async { 1 }).await, Ok(1));
        let slow = tokio::time::sleep(3 * TICK);
        assert_eq!(deadlines.within(minute, slow).await, Ok(()));
        ticking.abort();
    }
}
