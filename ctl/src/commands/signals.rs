//! SIGINT and SIGTERM, for commands that hold something.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::CommandError;

/// The wish that a command ends.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen.
pub(super) fn listen() -> Result<Stop, CommandError> {
    Ok(Stop {
        interrupt: signal(SignalKind::interrupt()).map_err(CommandError::failed)?,
        terminate: signal(SignalKind::terminate()).map_err(CommandError::failed)?,
    })
}

impl Stop {
    /// Waits for either.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
