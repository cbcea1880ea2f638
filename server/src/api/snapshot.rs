//! The stream of Maintenance.Snapshot (contract 2.10).
//!
//! ```text
//! blob 32 KiB, remaining … │ … │ last blob, remaining 0 │ SHA-256, remaining 0
//! ```
//!
//! A thread of the blocking pool reads and hashes; a few messages wait for the transport, no more.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use keelson_proto::etcdserverpb::SnapshotResponse;
use keelson_state::bolt::FileWriter;
use keelson_state::snapshot::STORAGE_VERSION;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::metadata::LeaderGuard;

/// Messages read ahead of the transport: half a MiB, enough to keep both sides busy.
const MESSAGES_AHEAD: usize = 16;
/// How long a client may take none of them: it holds files that could be removed.
const STALLED_MAX: Duration = Duration::from_secs(600);

/// Why nothing more is sent.
const GONE: &str = "the client has gone";

type Message = Result<SnapshotResponse, Status>;

/// Streams a file. It ends early when the client goes away, or when the server stops.
pub(super) fn stream(
    file: FileWriter,
    guard: LeaderGuard,
) -> impl Stream<Item = Message> + Send + 'static {
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let bytes = file.total_bytes();
        tracing::info!(bytes, "sending snapshot");
        match send(file, &sender, &runtime) {
            Ok(()) => tracing::info!(bytes, "sent snapshot"),
            Err(reason) => tracing::warn!(bytes, reason, "snapshot was not taken to its end"),
        }
    });
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
                push(message(remaining, piece))?;
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
