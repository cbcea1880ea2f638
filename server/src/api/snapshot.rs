//! The stream of Maintenance.Snapshot (contract 2.10).
//!
//! ```text
//! blob 32 KiB, remaining … │ … │ last blob, remaining 0 │ SHA-256, remaining 0
//! ```
//!
//! A thread of its own reads and hashes, at a lower priority than those that serve requests; a few
//! messages wait for the transport, no more. While writes go on it keeps to a pace, so that they
//! keep their share of processors and disk.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use keelson_proto::etcdserverpb::SnapshotResponse;
use keelson_state::bolt::FileWriter;
use keelson_state::reader::Reader;
use keelson_state::snapshot::STORAGE_VERSION;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::metadata::LeaderGuard;

/// Messages read ahead of the transport: half a MiB, enough to keep both sides busy.
const MESSAGES_AHEAD: usize = 16;
/// How long a client may take none of them: it holds files that could be removed.
const STALLED_MAX: Duration = Duration::from_secs(600);

/// Bytes a second while writes go on: a backup of 1 GiB takes five seconds, and most of the machine
/// is left to those who write.
const PACE_BYTES_PER_SECOND: u64 = 210 << 20;
/// How often the pace is looked at: pauses are short enough for an even stream.
const PACE_STEP_BYTES: u64 = 1 << 20;
/// The thread's niceness: requests go first where there are not enough processors.
const NICENESS: i32 = 5;

/// Why nothing more is sent.
const GONE: &str = "the client has gone";

type Message = Result<SnapshotResponse, Status>;

/// Streams a file. It ends early when the client goes away, or when the server stops.
///
/// `place` is given back when the thread has ended.
pub(super) fn stream(
    place: OwnedSemaphorePermit,
    file: FileWriter,
    guard: LeaderGuard,
    reader: Reader,
) -> impl Stream<Item = Message> + Send + 'static {
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let unstarted = sender.clone();
    let runtime = tokio::runtime::Handle::current();
    let read = move || {
        let _place = place;
        let niceness = rustix::process::setpriority_process(None, NICENESS);
        if let Err(error) = niceness {
            tracing::debug!(error = %error, "snapshot thread keeps its priority");
        }
        let bytes = file.total_bytes();
        tracing::info!(bytes, "sending snapshot");
        match send(file, &sender, &runtime, Pace::new(reader)) {
            Ok(()) => tracing::info!(bytes, "sent snapshot"),
            Err(reason) => tracing::warn!(bytes, reason, "snapshot was not taken to its end"),
        }
    };
    // Not of the blocking pool: a thread cannot take its priority back.
    let thread = std::thread::Builder::new().name("snapshot".to_owned());
    if let Err(error) = thread.spawn(read) {
        drop(unstarted.try_send(Err(Status::unavailable(error.to_string()))));
    }
    drop(unstarted);
    let messages = ReceiverStream::new(receiver);
    futures::stream::unfold(Some((messages, guard)), |state| async {
        let (mut messages, mut guard) = state?;
        tokio::select! {
            biased;
            message = messages.next() => message.map(|message| (message, Some((messages, guard)))),
            status = guard.broken() => Some((Err(status), None)),
        }
    })
}

fn send(
    mut file: FileWriter,
    sender: &mpsc::Sender<Message>,
    runtime: &tokio::runtime::Handle,
    mut pace: Pace,
) -> Result<(), &'static str> {
    let push = |message| {
        if let Err(mpsc::error::TrySendError::Full(message)) = sender.try_send(message) {
            let waiting = runtime.block_on(sender.send_timeout(message, STALLED_MAX));
            return waiting.map_err(|error| match error {
                mpsc::error::SendTimeoutError::Timeout(_) => "the client stands still",
                mpsc::error::SendTimeoutError::Closed(_) => GONE,
            });
        }
        if sender.is_closed() {
            Err(GONE)
        } else {
            Ok(())
        }
    };
    let message = |remaining_bytes, blob| {
        Ok(SnapshotResponse {
            header: None,
            remaining_bytes,
            blob,
            version: STORAGE_VERSION.to_owned(),
        })
    };
    let mut remaining = file.total_bytes();
    loop {
        match file.next_piece() {
            Ok(Some(piece)) => {
                remaining = remaining.saturating_sub(piece.len() as u64);
                let bytes = piece.len() as u64;
                push(message(remaining, piece))?;
                pace.sent(bytes);
            }
            Ok(None) => break,
            Err(error) if error.is_fatal() => crate::fatal("read records for a snapshot", &error),
            Err(error) => {
                push(Err(Status::internal(error.to_string())))?;
                return Err("the store cannot be read");
            }
        }
    }
    push(message(0, Bytes::copy_from_slice(&file.hash())))
}

/// Slows the stream down while writes go on.
struct Pace {
    reader: Reader,
    /// Where the store stood at the beginning of the step.
    revision: i64,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(reader: Reader) -> Self {
        Self {
            revision: reader.current_revision(),
            reader,
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// Pauses for what a step was too fast.
    fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes < PACE_STEP_BYTES {
            return;
        }
        let revision = self.reader.current_revision();
        if revision != self.revision {
            std::thread::sleep(time_for(self.bytes).saturating_sub(self.began.elapsed()));
        }
        (self.revision, self.began, self.bytes) = (revision, Instant::now(), 0);
    }
}

/// How long bytes take at the pace of a stream that shares the machine with writers.
fn time_for(bytes: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / PACE_BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gibibyte_beside_writers_takes_five_seconds() {
        let second = time_for(PACE_BYTES_PER_SECOND);
        assert_eq!(second, Duration::from_secs(1));
        assert_eq!(time_for(1 << 30).as_secs_f64().round(), 5.0);
    }
}
