//! The stream of Maintenance.Snapshot (contract 2.10).
//!
//! ```text
//! blob 32 KiB, remaining … │ … │ last blob, remaining 0 │ SHA-256, remaining 0
//! ```
//!
//! A thread of its own reads and hashes, at a lower priority than those that serve requests; two
//! batches of messages wait for the transport, no more. While writes go on it keeps to a pace, so
//! that they keep their share of processors and disk.
//!
//! A blob goes out as the piece of memory that the pages were put together in: a message is a few
//! bytes of head (gRPC's prefix, the other fields, the blob's tag and length) and then that piece.
//! Through the codec every byte would be copied once more, which is a fifth of all the work.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use keelson_proto::etcdserverpb::SnapshotResponse;
use keelson_state::bolt::{FileWriter, PIECE_BYTES};
use keelson_state::reader::Reader;
use keelson_state::snapshot::STORAGE_VERSION;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;

use super::metadata::LeaderGuard;

/// Bytes of blobs that are handed to the transport at once: handing over wakes a thread and often
/// changes to it, which costs as much as reading a few messages.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that wait for the transport: enough to keep both sides busy.
const BATCHES_AHEAD: usize = 2;
/// Messages in a batch, and the hash behind the last one; each is two frames.
const BATCH_FRAMES: usize = 2 * (BATCH_BYTES / PIECE_BYTES + 1);
/// The field of a blob in its message.
const BLOB_FIELD: u32 = 3;
/// "Not compressed" and a length, before every message (gRPC over HTTP/2).
const PREFIX_BYTES: usize = 5;
/// How long a client may take none of them: it holds files that could be removed.
const STALLED_MAX: Duration = Duration::from_secs(600);

/// How much of the machine a stream takes from those who write.
struct Share {
    /// The pace while writes go on.
    bytes_per_second: u64,
    /// What is done at a stretch: a request that waits for this processor waits for that, not for a
    /// time slice.
    yield_bytes: usize,
    /// Requests go first where there are not enough processors.
    niceness: i32,
}

/// A backup of 1 GiB takes five seconds, and most of the machine is left to those who write.
const SHARE: Share = Share {
    bytes_per_second: 210 << 20,
    yield_bytes: 128 << 10,
    niceness: 5,
};
/// Where there is one processor for everything. Each MiB takes more than a millisecond of it, and no
/// more than a fifth should be missed by those who write. It is never idle when requests keep it
/// busy, so that a lower priority or shorter stretches would leave next to nothing.
const SHARE_ALONE: Share = Share {
    bytes_per_second: 165 << 20,
    yield_bytes: 256 << 10,
    niceness: 0,
};
/// How often the pace is looked at: pauses are short enough for an even stream.
const PACE_STEP_BYTES: u64 = 1 << 20;

/// Why nothing more is sent.
const GONE: &str = "the client has gone";

/// Frames of a body that go out one after the other.
type Batch = Result<Vec<Bytes>, Status>;

/// Streams a file as the body of a response. It ends early when the client goes away, or when the
/// server stops.
///
/// `place` is given back when the thread has ended.
pub(super) fn body(
    place: OwnedSemaphorePermit,
    file: FileWriter,
    guard: LeaderGuard,
    reader: Reader,
) -> Body {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let unstarted = sender.clone();
    let runtime = tokio::runtime::Handle::current();
    let read = move || {
        let _place = place;
        let share = Share::of_machine();
        let niceness = rustix::process::setpriority_process(None, share.niceness);
        if let Err(error) = niceness {
            tracing::debug!(error = %error, "snapshot thread keeps its priority");
        }
        let bytes = file.total_bytes();
        tracing::info!(bytes, "sending snapshot");
        match send(file, &sender, &runtime, Pace::new(reader, share)) {
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
    Body::new(StreamBody::new(frames(
        ReceiverStream::new(receiver),
        guard,
    )))
}

/// The data of all batches, then the status of the call.
fn frames(
    batches: ReceiverStream<Batch>,
    guard: LeaderGuard,
) -> impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static {
    let runs = futures::stream::unfold(Some((batches, guard)), |state| async {
        let (mut batches, mut guard) = state?;
        let batch = tokio::select! {
            biased;
            batch = batches.next() => batch.unwrap_or_else(|| Err(Status::ok(""))),
            status = guard.broken() => Err(status),
        };
        Some(match batch {
            Ok(data) => (
                data.into_iter().map(Frame::data).collect(),
                Some((batches, guard)),
            ),
            Err(status) => (vec![Frame::trailers(trailers(&status))], None),
        })
    });
    runs.flat_map(|run: Vec<Frame<Bytes>>| futures::stream::iter(run.into_iter().map(Ok)))
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        tracing::debug!(error = %error, "a status without a message");
    }
    trailers
}

/// What precedes a blob of `blob_bytes` in the stream. The order of a message's fields is free.
fn head(remaining_bytes: u64, blob_bytes: usize) -> BytesMut {
    let others = SnapshotResponse {
        header: None,
        remaining_bytes,
        blob: Bytes::new(),
        version: STORAGE_VERSION.to_owned(),
    };
    let blob_head = key_len(BLOB_FIELD) + encoded_len_varint(blob_bytes as u64);
    let others_bytes = others.encoded_len() + blob_head;
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + others_bytes);
    head.put_u8(0);
    head.put_u32((others_bytes + blob_bytes) as u32);
    others.encode_raw(&mut head);
    encode_key(BLOB_FIELD, WireType::LengthDelimited, &mut head);
    encode_varint(blob_bytes as u64, &mut head);
    head
}

fn send(
    mut file: FileWriter,
    sender: &mpsc::Sender<Batch>,
    runtime: &tokio::runtime::Handle,
    mut pace: Pace,
) -> Result<(), &'static str> {
    let push = |batch| {
        if let Err(mpsc::error::TrySendError::Full(batch)) = sender.try_send(batch) {
            let waiting = runtime.block_on(sender.send_timeout(batch, STALLED_MAX));
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
    let mut remaining = file.total_bytes();
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut batch_bytes = 0;
    loop {
        match file.next_piece() {
            Ok(Some(piece)) => {
                if batch_bytes % pace.share.yield_bytes == 0 {
                    std::thread::yield_now();
                }
                remaining = remaining.saturating_sub(piece.len() as u64);
                batch_bytes += piece.len();
                batch.push(head(remaining, piece.len()).freeze());
                batch.push(piece);
                if batch_bytes >= BATCH_BYTES {
                    let whole = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_FRAMES));
                    push(Ok(whole))?;
                    pace.sent(batch_bytes as u64);
                    batch_bytes = 0;
                }
            }
            Ok(None) => break,
            Err(error) if error.is_fatal() => crate::fatal("read records for a snapshot", &error),
            Err(error) => {
                push(Err(Status::internal(error.to_string())))?;
                return Err("the store cannot be read");
            }
        }
    }
    let hash = file.hash();
    let mut last = head(0, hash.len());
    last.put_slice(&hash);
    batch.push(last.freeze());
    push(Ok(batch))
}

impl Share {
    fn of_machine() -> &'static Self {
        match std::thread::available_parallelism() {
            Ok(count) if count.get() == 1 => &SHARE_ALONE,
            _ => &SHARE,
        }
    }
}

/// Slows the stream down while writes go on.
struct Pace {
    reader: Reader,
    share: &'static Share,
    /// Where the store stood at the beginning of the step.
    revision: i64,
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new(reader: Reader, share: &'static Share) -> Self {
        Self {
            share,
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
            let time = time_for(self.bytes, self.share.bytes_per_second);
            std::thread::sleep(time.saturating_sub(self.began.elapsed()));
        }
        (self.revision, self.began, self.bytes) = (revision, Instant::now(), 0);
    }
}

/// How long bytes take at a pace.
fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_and_its_blob_are_a_message() {
        for (remaining_bytes, len) in [(0, 32), (1, PIECE_BYTES), (1 << 40, 1)] {
            let mut bytes = head(remaining_bytes, len);
            bytes.put_bytes(7, len);
            let prefix = bytes.split_to(PREFIX_BYTES);
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
            assert_eq!((prefix[0], length as usize), (0, bytes.len()));
            let message = SnapshotResponse::decode(bytes).unwrap();
            let expected = SnapshotResponse {
                header: None,
                remaining_bytes,
                blob: vec![7; len].into(),
                version: STORAGE_VERSION.to_owned(),
            };
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_gibibyte_beside_writers_takes_five_seconds() {
        let second = time_for(SHARE.bytes_per_second, SHARE.bytes_per_second);
        assert_eq!(second, Duration::from_secs(1));
        let gibibyte = time_for(1 << 30, SHARE.bytes_per_second);
        assert_eq!(gibibyte.as_secs_f64().round(), 5.0);
    }
}
